#include "cli/plan_explain.h"

#include <math.h>
#include <stddef.h>

#include "cli/print.h"
#include "core/arena.h"
#include "planner/compile.h"
#include "sim/picks.h"

static const struct {
    const char *name, *key;
    size_t at;
} parts[] = {
    {"compute", "compute", offsetof(struct sf_breakdown, compute)},
    {"recompute", "recompute", offsetof(struct sf_breakdown, recompute)},
    {"tp", "tp_comm", offsetof(struct sf_breakdown, tp_comm)},
    {"ep", "ep_comm", offsetof(struct sf_breakdown, ep_comm)},
    {"p2p", "p2p", offsetof(struct sf_breakdown, p2p)},
    {"dp", "dp_comm", offsetof(struct sf_breakdown, dp_comm)},
    {"offload", "offload", offsetof(struct sf_breakdown, offload)},
    {"optimizer", "optimizer", offsetof(struct sf_breakdown, optimizer)},
    {"bubble", "bubble", offsetof(struct sf_breakdown, bubble)},
    {"other", "other", offsetof(struct sf_breakdown, other)},
};
#define PARTS (sizeof parts / sizeof *parts)

static sf_time_ps part_of(const struct sf_breakdown *b, size_t i) {
    return *(const sf_time_ps *)((const char *)b + parts[i].at);
}

json_t *cli_breakdown_json(const struct sf_breakdown *b) {
    json_t *out = json_object();
    for (size_t i = 0; i < PARTS; i++) {
        json_object_set_new(out, parts[i].key, json_real(sf_ps_to_s(part_of(b, i))));
    }
    return out;
}

static int explain_seats(struct cli *cli, const struct cli_target *t, const char *kernels, struct cli_explained *e) {
    const struct sf_asked as_it_is = {{1, 1, 1}, 1};
    struct sf_plan plan = e->results[0].plan;
    struct sf_scenario used;
    int objective = e->objective == SF_OBJECTIVE_P95 ? SF_OBJECTIVE_TIME : e->objective;
    sf_scenario_narrow(&t->scenario, &plan, &used);
    e->seats_n = sf_placements(&used, &plan, e->seats);
    for (uint32_t i = 0; i < e->seats_n; i++) {
        plan.order = e->seats[i].order;
        plan.ranks_per_domain = e->seats[i].ranks_per_domain;
        SF_TRY(sf_asked_worth_s(&t->scenario, kernels, objective, &plan, &as_it_is, &e->seats_s[i], &cli->err));
    }
    return sf_compile(&used, &e->results[0].plan, &e->prog, &cli->err);
}

int cli_explain(struct cli *cli, const struct cli_target *t, const char *kernels, const struct sf_plan_result *results,
                uint32_t n, int objective, struct cli_explained *out) {
    *out = (struct cli_explained){
        .results = results, .n = n, .objective = objective, .turns = sf_calloc(n + 1, sizeof *out->turns)};
    if (out->turns == NULL) {
        return sf_fail_memory(&cli->err, "explanations");
    }
    SF_TRY(explain_seats(cli, t, kernels, out));
    for (uint32_t i = 1; i < n; i++) {
        SF_TRY(sf_what_if(&t->scenario, kernels, objective, &results[i].plan, &results[0].plan, &out->turns[i],
                          &cli->err));
    }
    return 0;
}

void cli_explained_clear(struct cli_explained *e) {
    sf_free(e->turns);
    e->turns = NULL;
    sf_prog_free(e->prog);
    e->prog = NULL;
}

static void print_spreads(const struct sf_topo *topo, const struct cli_explained *e, struct sf_buf *out) {
    struct cli_table table = {.align = "lrrrrr"};
    static const char *const head[] = {"group", "ranks", "groups", "domains at least", "at most", "no fewer than"};
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) {
        cli_cell(&table, "%s", head[i]);
    }
    for (uint32_t c = 0; c < e->prog->comms_n; c++) {
        struct sf_spread_of s;
        sf_spread_of(e->prog, topo, c, &s);
        cli_cell(&table, "%s", e->prog->comms[c].name);
        cli_cell(&table, "%s", cli_count(s.members));
        cli_cell(&table, "%s", cli_count(s.groups));
        cli_cell(&table, "%s", cli_count(s.domains_least));
        cli_cell(&table, "%s", cli_count(s.domains_most));
        cli_cell(&table, "%s", cli_count(s.bound));
    }
    cli_table_print(&table, "  ", out);
}

void cli_print_seats(const struct sf_topo *topo, const struct cli_explained *e, struct sf_buf *out) {
    uint32_t domain = sf_topo_domain_gpus(topo), gpus = sf_prog_ranks(e->prog);
    sf_buf_printf(out, "other seats for #1\n");
    for (uint32_t i = 0; i < e->seats_n; i++) {
        uint32_t used = e->seats[i].ranks_per_domain;
        sf_buf_printf(out, "  %s, %u + %u spare of %u seats of %s domains: ", sf_order_name(e->seats[i].order), used,
                      domain - used, domain, cli_count((gpus - 1) / used + 1));
        sf_buf_printf(out, isfinite(e->seats_s[i]) ? "%s%s\n" : "refused\n", cli_seconds(e->seats_s[i]),
                      i == 0 ? ", chosen" : "");
    }
    print_spreads(topo, e, out);
}

static void print_pick(const struct sf_prog *prog, const struct sf_pick_use *u, double stages, struct cli_table *t) {
    char room[SF_COLL_PICK_TEXT];
    uint8_t picked = prog->comms[u->comm].picks.of[u->op];
    cli_cell(t, "%s", prog->comms[u->comm].name);
    cli_cell(t, "%s", sf_coll_op_name((int)u->op));
    cli_cell(t, "%s", cli_bytes(u->bytes));
    cli_cell(t, "%s", sf_coll_pick_text(u->nccl, room));
    cli_cell(t, "%s", cli_seconds(u->now_s / stages));
    cli_cell(t, "%s", picked != 0 ? sf_coll_pick_text(picked, room) : "");
    cli_cell(t, "%s", u->best != 0 && u->best == picked ? cli_seconds(u->best_s / stages) : "");
}

void cli_print_picks(const struct sf_cost *cost, const struct cli_explained *e, struct sf_buf *out) {
    static const char *const head[] = {"group", "collective", "largest", "NCCL picks", "takes", "plan picks", "takes"};
    struct cli_table table = {.align = "llrlrlr"};
    struct sf_pick_use *uses = sf_calloc(SF_PICK_USES, sizeof *uses);
    size_t n = uses != NULL ? sf_picks_find(e->prog, cost, uses) : 0;
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) {
        cli_cell(&table, "%s", head[i]);
    }
    for (size_t i = 0; i < n; i++) {
        print_pick(e->prog, &uses[i], e->results[0].plan.pp, &table);
    }
    if (n > 0) {
        sf_buf_printf(out,
                      "what collectives of #1 run on, and what their calls take a rank in a step (mean over stages)\n");
        cli_table_print(&table, "  ", out);
    } else {
        sf_buf_free(&table.cells);
    }
    sf_free(uses);
}

void cli_print_components(const struct cli_explained *e, struct sf_buf *out) {
    struct cli_table table = {.align = "rrrrrrrrrrrr"};
    sf_buf_printf(out, "where the step of the slowest rank goes\n");
    cli_cell(&table, "#");
    for (size_t i = 0; i < PARTS; i++) {
        cli_cell(&table, "%s", parts[i].name);
    }
    cli_cell(&table, "step");
    for (uint32_t r = 0; r < e->n; r++) {
        cli_cell(&table, "%u", r + 1);
        for (size_t i = 0; i < PARTS; i++) {
            cli_cell(&table, "%s", cli_time(part_of(&e->results[r].sim.breakdown, i)));
        }
        cli_cell(&table, "%s", cli_time(e->results[r].sim.step_time));
    }
    cli_table_print(&table, "  ", out);
}

static uint32_t print_rate(const char *what, const struct sf_turn *t, uint32_t n, struct sf_buf *out) {
    if (!(t->factor > 0)) {
        return n;
    }
    sf_buf_printf(out, "%s%s were %.3g times as %s", n > 0 ? ", or " : " wins if ", what,
                  t->factor < 1 ? 1 / t->factor : t->factor, t->factor < 1 ? "slow" : "fast");
    return n + 1;
}

static bool is_tie(const struct sf_plan_result *a, const struct sf_plan_result *b) {
    return a->sim.step_time == b->sim.step_time && !(a->merit.worth_s > b->merit.worth_s);
}

/* "#3 wins if the network were 1.8 times as fast, or with 88 microbatches." */
static void print_turn(const struct sf_scenario *s, uint32_t number, const struct sf_what_if *w, bool tie,
                       struct sf_buf *out) {
    uint32_t n = 0;
    sf_buf_printf(out, tie ? "  #%u is a tie with #1, as quick as things are; it" : "  #%u", number);
    n = print_rate("the network", &w->network, n, out);
    n = print_rate("NVLink", &w->nvlink, n, out);
    if (w->batch.factor > 0) {
        double batch = (double)s->job.global_batch_sequences * w->batch.factor;
        sf_buf_printf(out, "%sthe batch had %s sequences (%u microbatches)", n > 0 ? ", or " : " wins if ",
                      cli_count((uint64_t)llround(batch)), w->microbatches);
        n++;
    }
    if (n == 0) {
        double nearest = fmin(w->network.nearest, w->nvlink.nearest);
        nearest = w->batch_fixed ? nearest : fmin(nearest, w->batch.nearest);
        sf_buf_printf(out, " does not win with links up to %d times as fast or as slow%s", SF_WHAT_IF_MOST,
                      w->batch_fixed ? "" : ", or a batch up to 8 times as large");
        if (nearest > 1) {
            sf_buf_printf(out, ": at its best it is %.2g %% behind", (nearest - 1) * 100);
        } else {
            sf_buf_printf(out, ": at its best it is as quick as #1");
        }
    }
    sf_buf_printf(out, "%s\n", w->batch_fixed ? "; other batches are not asked: a table is made for one" : "");
}

static void print_large(const struct sf_scenario *s, const struct cli_explained *e, const struct sf_plan_result *r,
                        struct sf_buf *out) {
    const struct sf_plan *p = &r->plan;
    uint64_t have = sf_topo_device(s->topo)->memory_bytes, need = r->device_bytes;
    double gain = 1 - r->merit.worth_s / e->results[0].merit.worth_s;
    sf_buf_printf(
        out,
        "  tp %u, cp %u, ep %u, pp %u, dp %u, vpp %u, %u x %u, %s, recompute %s, zero %u would win by %.1f %% "
        "(%s) with %s more memory on every GPU\n",
        p->tp, sf_plan_cp(p), p->ep, p->pp, p->dp, p->vpp, p->microbatches, p->micro_batch, sf_plan_schedule_text(p),
        sf_recompute_name(p->recompute), p->zero, gain * 100, cli_time(r->sim.step_time),
        cli_bytes(need > have ? need - have : 0));
}

void cli_print_turns(const struct sf_scenario *s, const struct cli_explained *e, const struct sf_search_stats *stats,
                     struct sf_buf *out) {
    sf_buf_printf(out, "what would turn the order, by simulating both again%s\n",
                  e->objective == SF_OBJECTIVE_P95 ? " (without noise)" : "");
    for (uint32_t i = 1; i < e->n; i++) {
        print_turn(s, i + 1, &e->turns[i], is_tie(&e->results[i], &e->results[0]), out);
    }
    if (stats->large != NULL) {
        print_large(s, e, stats->large, out);
    }
}

static json_t *turn_json(const struct sf_turn *t) {
    return t->factor > 0 ? json_real(t->factor) : json_null();
}

json_t *cli_turns_json(const struct sf_what_if *w) {
    return json_pack("{s:o, s:o, s:o}", "network", turn_json(&w->network), "nvlink", turn_json(&w->nvlink), "batch",
                     turn_json(&w->batch));
}
