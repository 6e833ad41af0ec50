/* staticfire plan: search, the best plans and why the others lost. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/load.h"
#include "cli/plan_explain.h"
#include "cli/print.h"
#include "cli/sources.h"
#include "core/arena.h"

#define SEEDS_MAX 1000
#define REPLAN_TRIES 4
#define MANY_IDLE 20 /* one in so many GPUs left idle */
#define THREADS_MAX 1024

struct plan_args {
    const char *scenario, *output, *cluster, *kernels, *overlay, *routing, *times;
    const char *objective_name;
    int objective;
    uint32_t top, seeds, threads;
    uint64_t seed, budget;
    double jitter;
    bool explain, quick, fewer;
};

static const struct cli_usage usage = {
    .verb = "plan",
    .operands = "SCENARIO.yaml or PLAN.yaml",
    .about = "Searches degrees (tp, cp, ep, pp, dp), schedule, chunks, microbatch, recomputation, ZeRO and the\n"
             "cut of the layers, all at once; simulates the best candidates and prints them, each with how\n"
             "much faster the best plan of the space can be at most. Ctrl-C ends the search with the best so\n"
             "far; exit code 7 when there is none yet. A job has the GPUs that it names; with --fewer, or where the\n"
             "scenario says gpus: { most: N }, smaller numbers that divide well are part of the same search, and\n"
             "the plan says how many it uses. A schedule made to measure (auto) is written beside the\n"
             "plan, as FILE.csv. An overlay says what is dead or spare today: a job that wants more\n"
             "GPUs than it leaves is planned for as many of them as can be used. A plan with an overlay is\n"
             "planned again in seconds: as many replicas as are left, each as it was; where much stays idle or\n"
             "nothing fits, with other numbers of stages too.",
    .examples = "  staticfire plan scenarios/grok1-gb300-220k/scenario.yaml\n"
                "  staticfire plan scenario.yaml -o plan.yaml --top 10 --explain\n"
                "  staticfire plan scenario.yaml --cluster other.yaml --json\n"
                "  staticfire plan scenario.yaml --overlay lost-rack.yaml\n"
                "  staticfire plan plan.yaml --overlay lost-rack.yaml -o today.yaml\n",
    .operands_min = 1,
    .operands_max = 1,
};

struct found {
    int objective;
    struct sf_plan_result *results;
    uint32_t n;
    struct sf_search_stats stats;
    struct cli_explained why;     /* where asked for */
    struct sf_plan_result *fewer; /* on fewer GPUs, and worth more; NULL: none seen */
    struct sf_stage_advice stages;
    uint32_t own_gpus; /* of the old plan's degrees, where others were better; 0: they are kept, or have no plan */
    double own_step_s;
    bool other_degrees;
};

static uint64_t peak_of(const struct sf_plan_result *r) {
    uint64_t peak = 0;
    for (uint32_t s = 0; s < r->plan.pp; s++) {
        peak = r->memory_bytes[s] > peak ? r->memory_bytes[s] : peak;
    }
    return peak;
}

static json_t *degrees_json(const struct sf_plan *p) {
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "gpus", (int)sf_plan_gpus(p), "tp", (int)p->tp,
                     "cp", (int)sf_plan_cp(p), "ep", (int)p->ep, "dp", (int)p->dp, "pp", (int)p->pp, "vpp", (int)p->vpp,
                     "micro_batch", (int)p->micro_batch, "microbatches", (int)p->microbatches);
}

static json_t *memory_json(const struct sf_plan_result *r) {
    json_t *out = json_array();
    for (uint32_t s = 0; s < r->plan.pp; s++) {
        json_array_append_new(out, json_integer((json_int_t)r->memory_bytes[s]));
    }
    return out;
}

static json_t *layers_json(const struct sf_plan *p) {
    json_t *out = json_array();
    for (uint32_t s = 0; s < p->pp * p->vpp; s++) {
        json_array_append_new(out, json_integer((json_int_t)p->layers[s]));
    }
    return out;
}

static json_t *merit_json(const struct sf_merit *m) {
    return json_pack("{s:f, s:f, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "worth_s", m->worth_s, "p95_s", m->p95_s,
                     "paid_gpus", (int)m->paid_gpus, "mtbf_s", m->mtbf_s, "checkpoint_s", m->save_s, "restart_s",
                     m->restart_s, "checkpoint_interval_s", m->interval_s, "kept", m->kept, "tokens_per_day",
                     m->tokens_per_day, "cost_per_megatoken", m->cost_per_megatoken);
}

/* Null where all layers are of one kind. */
static json_t *recompute_layers_json(const struct sf_plan *p) {
    json_t *out = p->partly ? json_array() : json_null();
    for (uint32_t v = 0; v < p->pp * p->vpp && p->partly; v++) {
        json_array_append_new(out, json_integer((json_int_t)p->recompute_layers[v]));
    }
    return out;
}

/* What plans can choose beside their degrees; as in a plan's file, what is left out is as ever. */
static json_t *variants_json(const struct sf_plan *p) {
    return json_pack("{s:i, s:i, s:s, s:b, s:b, s:i, s:i, s:o, s:s}", "etp", (int)sf_plan_etp(p), "slices",
                     (int)sf_plan_slices(p), "cp_exchange", p->cp_gather ? "gather" : "ring", "whole_rows",
                     p->whole_rows, "split_head", p->split_head, "zero_group", (int)p->zero_group, "offload",
                     (int)p->offload, "recompute_layers", recompute_layers_json(p), "recompute_rest",
                     sf_recompute_name(p->recompute_rest));
}

static json_t *result_json(const struct sf_plan_result *r) {
    const struct sf_plan *p = &r->plan;
    json_t *out = json_pack("{s:o, s:s, s:s, s:i, s:b, s:o, s:s, s:i, s:f, s:f, s:o, s:f}", "degrees", degrees_json(p),
                            "schedule", sf_plan_schedule_text(p), "recompute", sf_recompute_name(p->recompute), "zero",
                            (int)p->zero, "canonical", p->canonical, "layers", layers_json(p), "order",
                            sf_order_name(p->order), "ranks_per_domain", (int)p->ranks_per_domain, "step_time_s",
                            sf_ps_to_s(r->sim.step_time), "estimate_s", r->estimate_s, "mfu", cli_json_mfu(r->mfu),
                            "tokens_per_s_per_gpu", r->tokens_per_s_per_gpu);
    json_t *more = json_pack("{s:f, s:I, s:o, s:f, s:f, s:f, s:f, s:s, s:o, s:f, s:o, s:o}", "model_tflops_per_gpu",
                             r->model_tflops_per_gpu, "peak_memory_bytes", (json_int_t)peak_of(r), "stage_memory_bytes",
                             memory_json(r), "bubble", r->sim.bubble_makespan, "bubble_span", r->sim.bubble_span,
                             "bubble_makespan", r->sim.bubble_makespan, "lower_bound_s", r->lower_bound_s, "grade",
                             sf_grade_name((int)r->sim.grade), "lost", cli_json_text(r->lost), "gap", r->gap, "merit",
                             merit_json(&r->merit), "breakdown_s", cli_breakdown_json(&r->sim.breakdown));
    if (out != NULL && more != NULL) {
        json_object_update(out, more);
        json_object_update_new(out, variants_json(p));
    }
    json_decref(more);
    return out;
}

static json_t *found_json(const struct cli_target *t, const struct found *f) {
    json_t *plans = json_array();
    for (uint32_t i = 0; i < f->n; i++) {
        json_t *plan = result_json(&f->results[i]);
        if (i > 0 && f->why.turns != NULL) {
            json_object_set_new(plan, "wins_if", cli_turns_json(&f->why.turns[i]));
        }
        json_array_append_new(plans, plan);
    }
    json_t *counts = json_array();
    for (uint32_t i = 0; i < f->stats.numbers_n; i++) {
        const struct sf_search_number *n = &f->stats.numbers[i];
        json_t *step = n->simulated > 0 ? json_real(sf_ps_to_s(n->step)) : json_null();
        json_array_append_new(counts, json_pack("{s:I, s:I, s:o}", "gpus", (json_int_t)n->gpus, "simulated",
                                                (json_int_t)n->simulated, "step_time_s", step));
    }
    json_t *fewer = f->fewer != NULL ? result_json(f->fewer) : json_null();
    const struct sf_stage_advice *a = &f->stages;
    json_t *stages = a->tp + a->ep == 0 ? json_null()
                                        : json_pack("{s:i, s:i, s:i, s:f}", a->tp > 0 ? "tp" : "ep",
                                                    (int)(a->tp + a->ep), "first_rank", (int)a->first, "last_rank",
                                                    (int)a->end - 1, "step_time_s", a->step_s);
    return json_pack(
        "{s:o, s:o, s:o, s:s, s:o, s:s, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:b, "
        "s:I, s:I, s:I}",
        "searched_gpus", counts, "on_fewer_gpus", fewer, "on_single_stages", stages, "times", cli_times_word(t->cost),
        "scenario", cli_json_text(t->scenario.name), "objective", sf_objective_name(f->objective), "topo",
        cli_json_hash(sf_topo_hash(t->scenario.topo)), "cost", cli_json_hash(sf_cost_hash(t->cost)), "plans", plans,
        "points", (json_int_t)f->stats.points, "bounded", (json_int_t)f->stats.bounded, "evaluated",
        (json_int_t)f->stats.evaluated, "simulated", (json_int_t)f->stats.simulated, "placements",
        (json_int_t)f->stats.placements, "too_large", (json_int_t)f->stats.too_large, "bound_s", f->stats.bound_s,
        "first_plan_s", f->stats.first_plan_s, "bounding_time_s", f->stats.bounding_time_s, "search_time_s",
        f->stats.search_time_s, "stopped", f->stats.stopped, "gpus", (json_int_t)sf_plan_gpus(&f->results[0].plan),
        "gpus_asked", (json_int_t)t->scenario.job.gpus_asked, "gpus_in_use",
        (json_int_t)sf_topo_gpus_in_use(t->scenario.topo));
}

static const char *const column_of[] = {"", "p95", "tokens/day", "per Mtoken"};

static void merit_cell(struct cli_table *t, int objective, const struct sf_merit *m) {
    if (objective == SF_OBJECTIVE_P95) {
        cli_cell(t, "%s", cli_seconds(m->p95_s));
    } else if (objective == SF_OBJECTIVE_GOODPUT) {
        cli_cell(t, "%.4g", m->tokens_per_day);
    } else if (objective == SF_OBJECTIVE_COST) {
        cli_cell(t, "%.4g", m->cost_per_megatoken);
    }
}

static void plan_head(struct cli_table *t, int objective, bool numbers) {
    static const char *const names[] = {"#",   "tp",           "cp",       "ep",        "pp",   "dp",
                                        "vpp", "mb x seq",     "schedule", "recompute", "zero", "step",
                                        "MFU", "tokens/s/GPU", "bubble",   "memory",    "gap"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cli_cell(t, "%s", names[i]);
        if (i == 0 && numbers) {
            cli_cell(t, "GPUs");
        }
    }
    if (objective != SF_OBJECTIVE_TIME) {
        cli_cell(t, "%s", column_of[objective]);
    }
}

static void plan_row(struct cli_table *t, uint32_t number, int objective, bool numbers,
                     const struct sf_plan_result *r) {
    const struct sf_plan *p = &r->plan;
    double step = sf_ps_to_s(r->sim.step_time);
    cli_cell(t, "%u", number);
    if (numbers) {
        cli_cell(t, "%s", cli_count(sf_plan_gpus(p)));
    }
    cli_cell(t, "%u", p->tp);
    cli_cell(t, "%u", sf_plan_cp(p));
    cli_cell(t, "%u", p->ep);
    cli_cell(t, "%u", p->pp);
    cli_cell(t, "%u", p->dp);
    cli_cell(t, "%u", p->vpp);
    cli_cell(t, "%u x %u", p->microbatches, p->micro_batch);
    cli_cell(t, "%s", sf_plan_schedule_text(p));
    char recompute[64];
    cli_cell(t, "%s", sf_plan_recompute_text(p, recompute, sizeof recompute));
    cli_cell(t, "%u", p->zero);
    cli_cell(t, "%s", cli_seconds(step));
    cli_cell(t, "%s", cli_mfu(r->mfu));
    cli_cell(t, "%.1f", r->tokens_per_s_per_gpu);
    cli_cell(t, "%.1f %%", r->sim.bubble_makespan * 100);
    cli_cell(t, "%s", cli_bytes(peak_of(r)));
    cli_cell(t, "%.1f %%", r->gap * 100);
    merit_cell(t, objective, &r->merit);
}

/* Where a run of stages ends that need the same memory within a twentieth. */
static uint32_t like_stages(const struct sf_plan_result *r, uint32_t from, uint64_t *lo, uint64_t *hi) {
    uint32_t end = from + 1;
    *lo = *hi = r->memory_bytes[from];
    for (; end < r->plan.pp; end++) {
        uint64_t m = r->memory_bytes[end], low = m < *lo ? m : *lo, high = m > *hi ? m : *hi;
        if ((double)high > 1.05 * (double)low) {
            break;
        }
        *lo = low;
        *hi = high;
    }
    return end;
}

/* "0: 34.5 GB, 1-28: 29.7 GB to 30.2 GB". */
static void print_stages(const struct sf_plan_result *r, struct sf_buf *out) {
    uint64_t lo, hi;
    sf_buf_printf(out, "     memory by stage:");
    for (uint32_t s = 0, end; s < r->plan.pp; s = end) {
        end = like_stages(r, s, &lo, &hi);
        sf_buf_printf(out, end - s > 1 ? "%s %u-%u" : "%s %u", s > 0 ? "," : "", s, end - 1);
        sf_buf_printf(out, ": %s", cli_bytes(lo));
        if (hi > lo) {
            sf_buf_printf(out, " to %s", cli_bytes(hi));
        }
    }
    sf_buf_printf(out, "\n");
}

static void print_variants(const struct sf_plan *p, struct sf_buf *out) {
    const struct {
        const char *key;
        uint32_t value, usual;
    } keys[] = {
        {"etp", sf_plan_etp(p), p->tp}, {"slices", sf_plan_slices(p), 1}, {"whole_rows", p->whole_rows, 0},
        {"cp_gather", p->cp_gather, 0}, {"split_head", p->split_head, 0}, {"zero_group", p->zero_group, 0},
        {"offload", p->offload, 0},
    };
    const char *gap = "     with ";
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (keys[i].value != keys[i].usual) {
            sf_buf_printf(out, "%s%s %u", gap, keys[i].key, keys[i].value);
            gap = ", ";
        }
    }
    sf_buf_printf(out, "%s", gap[0] == ',' ? "\n" : "");
}

static void print_layers(const struct sf_plan *p, struct sf_buf *out) {
    sf_buf_printf(out, "     layers by virtual stage:");
    for (uint32_t s = 0; s < p->pp * p->vpp; s++) {
        sf_buf_printf(out, " %u", p->layers[s]);
    }
    sf_buf_printf(out, "\n");
}

static void print_why(const struct found *f, const struct plan_args *a, struct sf_buf *out) {
    static const char *const best[] = {"the fastest found", "the fastest found under noise",
                                       "the one found that trains most in a day", "the cheapest found"};
    for (uint32_t i = 0; i < f->n; i++) {
        const struct sf_plan_result *r = &f->results[i];
        sf_buf_printf(out, "  #%u %s%s\n", i + 1,
                      i == 0 ? "is " : "against #1: ", i == 0 ? best[a->objective] : r->lost);
        print_variants(&r->plan, out);
        print_stages(r, out);
        sf_buf_printf(out, "     ranks in order %s, %u to a domain\n", sf_order_name(r->plan.order),
                      r->plan.ranks_per_domain);
        if (a->explain) {
            sf_buf_printf(out, "     lower bound %s, closed form %s, simulated %s\n", cli_seconds(r->lower_bound_s),
                          cli_seconds(r->estimate_s), cli_time(r->sim.step_time));
            print_layers(&r->plan, out);
        }
    }
}

/* What the objective rests on; of the best plan where plans differ. */
static void print_upkeep(const struct sf_scenario *s, const struct found *f, int objective, struct sf_buf *out) {
    const struct sf_upkeep *u = &s->job.upkeep;
    const struct sf_merit *m = &f->results[0].merit;
    if (objective != SF_OBJECTIVE_GOODPUT && objective != SF_OBJECTIVE_COST) {
        return;
    }
    sf_buf_printf(
        out,
        "%.4g failures per 1000 GPU days stop the job every %s; restart %s, of it %s to read state; checkpoint "
        "%s, best every %s: %.1f %% of the time is kept\n",
        u->failures_per_1000_gpu_days, cli_seconds(m->mtbf_s), cli_seconds(m->restart_s),
        cli_seconds(m->restart_s - u->restart_s), cli_seconds(m->save_s), cli_seconds(m->interval_s), m->kept * 100);
    if (objective == SF_OBJECTIVE_COST) {
        sf_buf_printf(out, "%.4g per GPU hour for the %s GPUs of the domains in use\n", u->gpu_hour_price,
                      cli_count(m->paid_gpus));
    }
}

static void print_other_degrees(const struct found *f, struct sf_buf *out) {
    const struct sf_plan *p = &f->results[0].plan;
    if (f->other_degrees && f->own_gpus == 0) {
        sf_buf_printf(out, "none fits with the plan's own number of stages: all of this has pp %u\n", p->pp);
    } else if (f->other_degrees) {
        sf_buf_printf(out, "all of this has another number of stages, pp %u: with its own the plan uses %s GPUs, %s\n",
                      p->pp, cli_count(f->own_gpus), cli_seconds(f->own_step_s));
    }
}

/* What the plans had to make do with, and what priced them where GPUs differ. */
static void print_cluster(const struct sf_scenario *s, const struct found *f, const struct plan_args *a, bool replanned,
                          struct sf_buf *out) {
    uint8_t kind_of_stock[SF_KINDS_MAX];
    if (f->results[0].plan.gpus > 0) {
        sf_buf_printf(out, "#1 uses %s of them: more would be worth less\n", cli_count(f->results[0].plan.gpus));
    } else if (s->job.gpus != s->job.gpus_asked) {
        uint32_t left = sf_topo_gpus_in_use(s->topo);
        sf_buf_printf(out, "%s of the %s GPUs asked for: %s are left in use\n", cli_count(s->job.gpus),
                      cli_count(s->job.gpus_asked), cli_count(left));
        print_other_degrees(f, out);
        if (replanned && s->job.gpus < left - left / MANY_IDLE) {
            sf_buf_printf(out,
                          "no larger number of replicas of the plan's tp, cp and ep divides the batch, or none is "
                          "better; to search all degrees: staticfire plan %s --overlay %s\n",
                          s->path, a->overlay);
        }
    }
    if (sf_kinds_of(s->topo, kind_of_stock) > 1) {
        sf_buf_printf(out, "closed forms take the slowest kind of GPU for all; simulated steps have each as it is\n");
    }
}

static void print_search(const struct sf_search_stats *s, int objective, struct sf_buf *out) {
    sf_buf_printf(out,
                  "%s combinations, %s keep the rules (bounded in %s), %s priced, %s simulated, %s more on other "
                  "seats, %s too large for "
                  "memory, in %s%s\n",
                  cli_count(s->points), cli_count(s->bounded), cli_seconds(s->bounding_time_s), cli_count(s->evaluated),
                  cli_count(s->simulated), cli_count(s->placements), cli_count(s->too_large),
                  cli_seconds(s->search_time_s), s->stopped ? " (stopped early)" : "");
    sf_buf_printf(out, "no plan among them takes less than %s: gap is how far a plan is above that, at most%s\n",
                  cli_seconds(s->bound_s),
                  objective == SF_OBJECTIVE_TIME ? "" : ", with all that is lost beside steps");
}

static void print_stage_advice(const struct found *f, struct sf_buf *out) {
    const struct sf_stage_advice *a = &f->stages;
    const char *degree = a->tp > 0 ? "tp" : "ep";
    if (a->tp + a->ep > 0) {
        sf_buf_printf(out, "%s %u on ranks %u to %u of the pipeline takes %s, %+.1f %%: add stage_%s to the plan\n",
                      degree, a->tp + a->ep, a->first, a->end - 1, cli_seconds(a->step_s),
                      100 * (a->step_s / sf_ps_to_s(f->results[0].sim.step_time) - 1), degree);
    }
}

static void print_fewer(const struct found *f, struct sf_buf *out) {
    if (f->fewer == NULL) {
        return;
    }
    const struct sf_plan *p = &f->fewer->plan;
    double step = sf_ps_to_s(f->fewer->sim.step_time), best = sf_ps_to_s(f->results[0].sim.step_time);
    sf_buf_printf(
        out, "fewer GPUs do better: %s (dp %u, %s, %u to a domain) take %s, %+.1f %%; --fewer searches such numbers\n",
        cli_count(sf_plan_gpus(p)), p->dp, sf_plan_schedule_text(p), p->ranks_per_domain, cli_seconds(step),
        100 * (step / best - 1));
}

/* The gap is over all of these. */
static void print_numbers(const struct sf_search_stats *s, struct sf_buf *out) {
    for (uint32_t i = 0; i < s->numbers_n && s->numbers_n > 1; i++) {
        const struct sf_search_number *n = &s->numbers[i];
        sf_buf_printf(out, "%s%s GPUs %s", i == 0 ? "in one search, best step of each: " : ", ", cli_count(n->gpus),
                      n->simulated > 0 ? cli_seconds(sf_ps_to_s(n->step)) : "not simulated");
    }
    sf_buf_printf(out, s->numbers_n > 1 ? "; other numbers were not searched\n" : "");
}

static void print_found(const struct cli_target *t, const struct found *f, const struct plan_args *a,
                        struct sf_buf *out) {
    const struct sf_scenario *s = &t->scenario;
    sf_buf_printf(out, "%s%s%s: %s on %s%s devices of %s, %s sequences of %s tokens a step, %s\n", cli_on(CLI_BOLD),
                  s->name, cli_off(), s->model.name, f->stats.numbers_n > 1 ? "at most " : "", cli_count(s->job.gpus),
                  sf_topo_name(s->topo), cli_count(s->job.global_batch_sequences), cli_count(s->job.seq_len_tokens),
                  sf_dtype_name(s->job.precision));
    print_cluster(s, f, a, t->has_plan, out);
    static const char *const aligns[2][2] = {{"rrrrrrrrllrrrrrrr", "rrrrrrrrllrrrrrrrr"},
                                             {"rrrrrrrrrllrrrrrrr", "rrrrrrrrrllrrrrrrrr"}};
    bool numbers = f->stats.numbers_n > 1;
    struct cli_table table = {.align = aligns[numbers][a->objective != SF_OBJECTIVE_TIME]};
    plan_head(&table, a->objective, numbers);
    for (uint32_t i = 0; i < f->n; i++) {
        plan_row(&table, i + 1, a->objective, numbers, &f->results[i]);
    }
    cli_table_print(&table, "  ", out);
    print_why(f, a, out);
    if (a->explain) {
        cli_print_components(&f->why, out);
        cli_print_turns(s, &f->why, &f->stats, out);
        cli_print_seats(s->topo, &f->why, out);
        cli_print_picks(t->cost, &f->why, out);
    }
    print_upkeep(s, f, a->objective, out);
    print_search(&f->stats, a->objective, out);
    print_stage_advice(f, out);
    print_fewer(f, out);
    print_numbers(&f->stats, out);
    if (cli_times_text(t->cost) != NULL) {
        sf_buf_printf(out, "collectives take %s\n", cli_times_text(t->cost));
    }
    if (a->output != NULL) {
        sf_buf_printf(out, "Plan: %s\n", a->output);
    }
}

/* Made to measure, so that there is no file yet: FILE.csv beside the plan. */
static int write_table(struct cli *cli, const struct plan_args *a, struct sf_plan *plan) {
    struct sf_buf csv = {0};
    char path[CLI_PATH];
    if (plan->table == NULL || plan->schedule_file[0] != '\0') {
        return 0;
    }
    if (snprintf(path, sizeof path, "%s.csv", a->output) >= (int)sizeof path) {
        return sf_fail(&cli->err, SF_E_USAGE, "the path of the plan is too long");
    }
    SF_TRY(cli_path_copy(plan->schedule_file, sizeof plan->schedule_file, path, &cli->err));
    sf_pipe_print_csv(plan->table, &csv);
    return cli_output(path, &csv, &cli->err);
}

/* The plan names its files the way a reader of the plan file will look for them. */
static int write_plan(struct cli *cli, const struct cli_target *t, const struct plan_args *a, struct sf_plan *plan) {
    char name[CLI_PATH];
    SF_TRY(cli_path_relative(a->output, t->scenario.path, name, &cli->err));
    SF_TRY(cli_path_copy(plan->scenario, sizeof plan->scenario, name, &cli->err));
    SF_TRY(write_table(cli, a, plan));
    if (a->cluster != NULL) {
        SF_TRY(cli_path_relative(a->output, a->cluster, name, &cli->err));
        SF_TRY(cli_path_copy(plan->cluster, sizeof plan->cluster, name, &cli->err));
    }
    if (a->overlay != NULL) {
        SF_TRY(cli_path_relative(a->output, a->overlay, name, &cli->err));
        SF_TRY(cli_path_copy(plan->overlay, sizeof plan->overlay, name, &cli->err));
    }
    if (plan->schedule_file[0] != '\0') {
        SF_TRY(cli_path_relative(a->output, plan->schedule_file, name, &cli->err));
        SF_TRY(cli_path_copy(plan->schedule_file, sizeof plan->schedule_file, name, &cli->err));
    }
    struct sf_buf buf = {0};
    struct sf_scenario used;
    sf_scenario_narrow(&t->scenario, plan, &used);
    int rc = sf_plan_print(plan, sf_scenario_hash(&used), &buf);
    if (rc != 0) {
        sf_buf_free(&buf);
        return sf_fail(&cli->err, rc, "cannot print the plan: %s", sf_code_text(rc));
    }
    return cli_output(a->output, &buf, &cli->err);
}

/* Not for what is found under noise, whose finalists take minutes, nor where the replicas are pinned. */
static int look_at_fewer(struct cli *cli, const struct cli_target *t, const struct sf_search_options *options,
                         struct found *f) {
    bool found;
    if (options->objective == SF_OBJECTIVE_P95 || t->scenario.pins.dp.n > 0) {
        return 0;
    }
    struct sf_plan_result *fewer = sf_calloc(1, sizeof *fewer);
    if (fewer == NULL) {
        return sf_fail_memory(&cli->err, "a plan");
    }
    int rc = cli_search_fewer(cli, &t->scenario, t->cost, options, &f->results[0], fewer, &found);
    if (rc == 0 && found) {
        f->fewer = fewer;
        return 0;
    }
    sf_free(fewer);
    return rc;
}

static struct sf_search_options options_of(const struct plan_args *a) {
    return (struct sf_search_options){.top = a->top,
                                      .objective = a->objective,
                                      .jitter = a->jitter,
                                      .seeds = a->seeds,
                                      .threads = a->threads,
                                      .explain = a->explain,
                                      .quick = a->quick,
                                      .no_advice = a->quick, /* the pins are nobody's */
                                      .auto_seed = a->seed,
                                      .auto_budget = a->budget};
}

static int search(struct cli *cli, struct cli_target *t, const struct plan_args *a, struct found *f) {
    const struct sf_search_options options = options_of(a);
    t->scenario.job.fewer |= a->fewer;
    SF_TRY(cli_search(cli, &t->scenario, t->cost, &options, f->results, &f->n, &f->stats));
    if (!a->quick && !f->stats.stopped && a->objective == SF_OBJECTIVE_TIME) {
        SF_TRY(sf_search_stages(&t->scenario, t->cost, &f->results[0], &f->stages, &cli->err));
    }
    if (!a->quick && !f->stats.stopped && !t->scenario.job.fewer) {
        SF_TRY(look_at_fewer(cli, t, &options, f));
    }
    return 0;
}

static int show(struct cli *cli, struct cli_target *t, const struct plan_args *a, struct found *f) {
    if (a->output != NULL) {
        struct sf_plan plan = f->results[0].plan; /* what it names is the file's business alone */
        SF_TRY(write_plan(cli, t, a, &plan));
    }
    if (a->explain) {
        SF_TRY(cli_explain(cli, t, a->kernels, f->results, f->n, a->objective, &f->why));
    }
    if (cli->json) {
        return cli_print_json(found_json(t, f), &cli->err);
    }
    struct sf_buf out = {0};
    print_found(t, f, a, &out);
    return cli_print(&out, &cli->err);
}

static int needs_scenario(struct cli *cli, const char *path) {
    enum cli_file kind;
    SF_TRY(cli_file_kind(path, &kind, &cli->err));
    if (kind == CLI_FILE_TEXT || kind == CLI_FILE_JSON) {
        return 0;
    }
    return sf_fail_at(&cli->err, SF_E_INPUT, path, 0, 0, "expected a scenario, found a %s",
                      kind == CLI_FILE_BINARY ? "binary file" : "program");
}

static int check_objective(struct cli *cli, struct plan_args *a) {
    a->objective = a->objective_name == NULL ? SF_OBJECTIVE_TIME : sf_objective_parse(a->objective_name);
    if (a->objective < 0) {
        return cli_fail_usage(cli, "plan", "--objective expects time, p95, goodput or cost, found %.40s",
                              a->objective_name);
    }
    if (a->objective != SF_OBJECTIVE_P95 && (a->jitter > 0 || a->seeds > 0)) {
        return cli_fail_usage(cli, "plan", "--%s changes nothing without --objective p95",
                              a->jitter > 0 ? "jitter" : "seeds");
    }
    if (a->jitter > 1 || a->seeds > SEEDS_MAX) {
        return cli_fail_usage(cli, "plan", "--jitter is at most 100%% and --seeds at most %d", SEEDS_MAX);
    }
    return 0;
}

/* Step of a way's best plan, without tables made to measure; INFINITY where it has none. */
static int probe_way(struct cli *cli, struct cli_target *t, const struct plan_args *a, const struct sf_replan_way *way,
                     double *worth_s) {
    struct sf_search_options options = options_of(a);
    struct sf_plan_result *one = sf_malloc(sizeof *one);
    struct sf_search_stats stats = {0};
    uint32_t n = 0;
    options.top = 1;
    *worth_s = INFINITY;
    int rc = one != NULL ? 0 : sf_fail_memory(&cli->err, "a plan");
    rc = rc == 0 ? sf_replan_as(&t->scenario, &t->plan, way, false, &cli->err) : rc;
    rc = rc == 0 ? cli_search(cli, &t->scenario, t->cost, &options, one, &n, &stats) : rc;
    if (rc == 0) {
        *worth_s = one->merit.worth_s;
    }
    sf_plan_results_clear(one, n);
    sf_search_stats_clear(&stats);
    sf_free(one);
    return rc == SF_E_NOPLAN ? 0 : rc;
}

/* In place of what `f` has, where it is better. */
static int take_way(struct cli *cli, struct cli_target *t, const struct plan_args *a, const struct sf_replan_way *way,
                    struct found *f) {
    const struct sf_search_options options = options_of(a);
    struct found other = *f;
    other.results = sf_calloc(a->top, sizeof *other.results);
    other.n = 0;
    other.stats = (struct sf_search_stats){0};
    other.other_degrees = true;
    int rc = other.results != NULL ? 0 : sf_fail_memory(&cli->err, "plans");
    rc = rc == 0 ? sf_replan_as(&t->scenario, &t->plan, way, true, &cli->err) : rc;
    rc = rc == 0 ? cli_search(cli, &t->scenario, t->cost, &options, other.results, &other.n, &other.stats) : rc;
    if (rc == 0 && (f->n == 0 || other.results[0].merit.worth_s < f->results[0].merit.worth_s)) {
        const struct found old = *f;
        *f = other;
        other = old;
    }
    sf_plan_results_clear(other.results, other.n);
    sf_search_stats_clear(&other.stats);
    sf_free(other.results);
    return rc;
}

static int best_way(struct cli *cli, struct cli_target *t, const struct plan_args *a, struct found *f) {
    struct sf_replan_way ways[SF_REPLAN_WAYS];
    uint32_t n = sf_replan_ways(&t->scenario, &t->plan, f->own_gpus, ways), best = 0;
    double least_s = n == 1 ? 0 : INFINITY, worth_s;
    for (uint32_t i = 0; i < n && n > 1; i++) {
        SF_TRY(probe_way(cli, t, a, &ways[i], &worth_s));
        best = worth_s < least_s ? i : best;
        least_s = fmin(least_s, worth_s);
    }
    return isfinite(least_s) ? take_way(cli, t, a, &ways[best], f) : 0;
}

/* Where much stays idle, or nothing fits, another number of stages may use more of what is left. */
static int look_wider(struct cli *cli, struct cli_target *t, const struct plan_args *a, struct found *f) {
    uint32_t left = sf_topo_gpus_in_use(t->scenario.topo);
    if (f->n > 0 && (f->stats.stopped || t->scenario.job.gpus >= left - left / MANY_IDLE)) {
        return 0;
    }
    struct sf_scenario *own = sf_malloc(sizeof *own);
    if (own == NULL) {
        return sf_fail_memory(&cli->err, "a scenario");
    }
    *own = t->scenario;
    f->own_gpus = f->n > 0 ? t->scenario.job.gpus : 0;
    f->own_step_s = f->n > 0 ? sf_ps_to_s(f->results[0].sim.step_time) : 0;
    int rc = best_way(cli, t, a, f);
    if (!f->other_degrees) {
        t->scenario = *own;
    }
    sf_free(own);
    return f->n > 0 && (rc == SF_E_NOPLAN || rc == SF_E_INTERRUPTED) ? 0 : rc == 0 && f->n == 0 ? SF_E_NOPLAN : rc;
}

static int advise_whole_search(struct cli *cli, const struct cli_target *t, const struct plan_args *a) {
    size_t used = strlen(cli->err.msg);
    snprintf(cli->err.msg + used, sizeof cli->err.msg - used,
             "; nor with smaller numbers of replicas, other schedules or half to twice as many stages; to search all "
             "degrees: staticfire plan %s --overlay %s",
             t->scenario.path, a->overlay);
    return SF_E_NOPLAN;
}

/* A plan is planned again when something is lost: with fewer and fewer replicas until one has a schedule. */
static int replan(struct cli *cli, struct cli_target *t, struct plan_args *a, struct found *f) {
    uint32_t replicas = UINT32_MAX;
    int rc = SF_E_NOPLAN;
    if (a->overlay == NULL) {
        return sf_fail(&cli->err, SF_E_USAGE,
                       "%s is a plan already; staticfire sim predicts its step, and --overlay says what it has lost",
                       a->scenario);
    }
    a->quick = true;
    for (int tries = 0; rc == SF_E_NOPLAN && tries < REPLAN_TRIES; tries++) {
        rc = sf_replan(&t->scenario, &t->plan, &replicas, &cli->err);
        if (rc != 0) {
            break;
        }
        rc = search(cli, t, a, f);
        replicas--;
    }
    rc = rc == 0 || rc == SF_E_NOPLAN ? look_wider(cli, t, a, f) : rc;
    return rc == SF_E_NOPLAN ? advise_whole_search(cli, t, a) : rc;
}

int verb_plan(struct cli *cli, int argc, char **argv) {
    struct plan_args a = {.top = 5};
    const struct cli_option options[] = {
        {"output", 'o', CLI_TEXT, &a.output, "FILE", "write the best plan"},
        {"top", 'n', CLI_COUNT, &a.top, "N", "plans to show (default 5)"},
        {"objective", 0, CLI_TEXT, &a.objective_name, "WORD", "time (default), p95, goodput or cost"},
        {"jitter", 0, CLI_FRACTION, &a.jitter, "SHARE", "spread of kernel times for p95 (default 5%)"},
        {"seeds", 0, CLI_COUNT, &a.seeds, "N", "steps simulated for p95, per finalist (default 8)"},
        {"seed", 0, CLI_U64, &a.seed, "N", "of schedules made to measure (default 0)"},
        {"budget", 0, CLI_U64, &a.budget, "N", "passes placed for each of them (default 1000000)"},
        {"threads", 0, CLI_COUNT, &a.threads, "N", "of the search (default: one per core; the plans are the same)"},
        {"fewer", 0, CLI_FLAG, &a.fewer, NULL,
         "the job may leave GPUs idle where that is better, as gpus: { most: N } says"},
        {"explain", 0, CLI_FLAG, &a.explain, NULL, "where time goes, what would turn the order; bounds and layers"},
        {"cluster", 0, CLI_TEXT, &a.cluster, "FILE", "instead of the scenario's cluster"},
        {"kernels", 0, CLI_TEXT, &a.kernels, "FILE", "measured kernel table"},
        {"overlay", 0, CLI_TEXT, &a.overlay, "FILE", "dead, degraded and spare parts, instead of the cluster's own"},
        {"routing", 0, CLI_TEXT, &a.routing, "MODE", "adaptive, ecmp, rail-local or pxn, instead of the cluster's"},
        {"times", 0, CLI_TEXT, &a.times, "WORD", CLI_TIMES_HELP},
        {0},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    if (a.threads > THREADS_MAX) {
        return cli_fail_usage(cli, "plan", "--threads is at most %d, found %u", THREADS_MAX, a.threads);
    }
    if (a.top > 1000) {
        return cli_fail_usage(cli, "plan", "--top expects at most 1000, found %u", a.top);
    }
    SF_TRY(check_objective(cli, &a));
    a.scenario = argv[first];
    SF_TRY(needs_scenario(cli, a.scenario));
    SF_TRY(sf_output_check(a.output, &cli->err));
    struct cli_target t;
    struct found f = {.objective = a.objective, .results = sf_calloc(a.top, sizeof *f.results)};
    if (f.results == NULL) {
        return sf_fail_memory(&cli->err, "plans");
    }
    int rc = cli_target_load(cli, a.scenario,
                             &(struct cli_load){.cluster = a.cluster,
                                                .kernels = a.kernels,
                                                .overlay = a.overlay,
                                                .routing = a.routing,
                                                .times = a.times,
                                                .fewer = true,
                                                .cost = true},
                             &t);
    if (rc == 0) {
        rc = t.has_plan ? replan(cli, &t, &a, &f) : search(cli, &t, &a, &f);
        rc = rc == 0 ? show(cli, &t, &a, &f) : rc;
    }
    cli_target_clear(&t);
    sf_plan_results_clear(f.results, f.n);
    cli_explained_clear(&f.why);
    sf_plan_results_clear(f.fewer, f.fewer != NULL ? 1 : 0);
    sf_free(f.fewer);
    sf_search_stats_clear(&f.stats);
    sf_free(f.results);
    return rc;
}
