/* One row, compiled and simulated as its framework runs it.
 *
 * A framework with `resume` waits for every transfer before it issues the next pass: its sends stand in the compute
 * stream. Runtimes of split backwards do not: they wait on streams, for what arrives alone.
 *
 * With `rolling` split backwards are run as arXiv 2401.10241 describes. Section 3.1: the schedule is made from profiled
 * times of passes, under a limit on what F keeps, of which B frees all but the operands of W: 32 bytes per token and
 * column of 34 and the scores. Section 4: no stage waits for the others between steps, what the
 * optimizer did is validated afterwards; so a step takes as long as the longest stage is at work. Memory is that of the
 * planner's own table, in which 2 p M bounds all that waits for W: published peaks are the same for any number of
 * microbatches, and so are those; what the profiled table leaves for later on the last stage grows with it. */
#include <string.h>

#include "core/arena.h"
#include "core/trace.h"
#include "planner/score_memory.h"
#include "planner/search_internal.h"
#include "planner/validate_internal.h"

static bool is_split(int schedule) {
    return schedule == SF_SCHEDULE_ZB_1P || schedule == SF_SCHEDULE_ZB_2P;
}

bool sfi_case_waits(const struct sf_plan *plan, const struct sf_framework *f) {
    return f->resume_ps > 0 && plan->pp > 1 && !is_split(plan->schedule);
}

/* ---- transfers that hold up their sender ------------------------------------------------------------------------- */

static uint8_t compute_stream(const struct sf_class *c) {
    uint32_t i = 0;
    while (i + 1 < c->ops_n && c->ops[i].kind != SF_OP_FORWARD) {
        i++;
    }
    return c->ops[i].stream;
}

static int hold_up(struct sf_prog *prog, struct sf_class *c, struct sf_err *err) {
    struct sf_op *ops = sf_arena_alloc(prog->arena, c->ops_n, sizeof *ops);
    if (ops == NULL) {
        return sf_fail_memory(err, "program");
    }
    memcpy(ops, c->ops, c->ops_n * sizeof *ops);
    for (uint32_t i = 0; i < c->ops_n; i++) {
        ops[i].stream = ops[i].kind == SF_OP_SEND ? compute_stream(c) : ops[i].stream;
    }
    c->ops = ops;
    return 0;
}

static int hold_up_all(struct sf_prog *prog, struct sf_err *err) {
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        SF_TRY(hold_up(prog, &prog->classes[i], err));
    }
    return sf_prog_check(prog, err);
}

/* ---- schedules made from profiled times -------------------------------------------------------------------------- */

static sf_time_ps pass_of(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t rank, uint8_t kind) {
    const struct sf_class *c = &prog->classes[sf_prog_class(prog, rank)];
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (c->ops[i].kind == kind) {
            return sf_s_to_ps(sfi_recipe_s(prog, cost, c->ops[i].recipe, rank));
        }
    }
    return 0;
}

/* Between neighbours of the pipeline. */
static sf_time_ps transfer_of(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t apart, uint64_t bytes) {
    struct sf_route route;
    sf_topo_route(sf_cost_topo(cost), sf_prog_gpu(prog, 0), sf_prog_gpu(prog, apart), &route);
    return sf_cost_message(cost, bytes, &route);
}

static double operand_share(const struct sf_scenario *s, bool scores) {
    const struct sf_model *m = &s->model;
    double kept = 34 + (scores ? 5.0 * m->heads * s->job.seq_len_tokens / m->hidden : 0);
    return 32 / kept;
}

/* Of a rank in the middle, whose stage is neither the first nor the last. */
static int profile(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_framework *f,
                   struct sf_plan *plan, uint64_t *unfused_bytes, struct sf_err *err) {
    struct sf_prog *prog;
    SF_TRY(sf_compile(s, plan, &prog, err));
    uint32_t apart = sf_prog_ranks(prog) / plan->pp, rank = plan->pp / 2 * apart;
    uint64_t bytes = UINT64_C(2) * plan->micro_batch * s->job.seq_len_tokens * s->model.hidden;
    const struct sf_pipe_spec spec = {.family = plan->schedule,
                                      .devices = plan->pp,
                                      .microbatches = plan->microbatches,
                                      .chunks = 1,
                                      .f = pass_of(prog, cost, rank, SF_OP_FORWARD),
                                      .b = pass_of(prog, cost, rank, SF_OP_BACKWARD_INPUT),
                                      .w = pass_of(prog, cost, rank, SF_OP_BACKWARD_WEIGHT),
                                      .comm = transfer_of(prog, cost, apart, bytes) + f->resume_ps,
                                      .weight_share = operand_share(s, f->unfused_attention)};
    *unfused_bytes = sfi_unfused_peak_bytes(prog);
    sf_prog_free(prog);
    SF_TRY(sf_pipe_generate(&spec, &plan->table, err));
    plan->schedule = SF_SCHEDULE_TABLE;
    return 0;
}

/* ---- steps that follow one another without a barrier ------------------------------------------------------------- */

static bool is_pass(uint8_t kind) {
    return kind == SF_OP_FORWARD || kind == SF_OP_BACKWARD_INPUT || kind == SF_OP_BACKWARD_WEIGHT;
}

/* From its first pass to its last, and the optimizer: the exchange of a tied table's gradients is left to the next
 * step.
 */
static sf_time_ps longest_stage(const struct sf_prog *prog, const struct sf_trace *t) {
    sf_time_ps longest = 0, from = 0, until = 0, update = 0;
    for (size_t i = 0; i < t->recs_n; i++) {
        const struct sf_trace_rec *r = &t->recs[i];
        uint8_t kind = prog->classes[sf_prog_class(prog, r->rank)].ops[r->op].kind;
        if (i == 0 || t->recs[i - 1].rank != r->rank) {
            from = INT64_MAX;
            until = update = 0;
        }
        if (is_pass(kind)) {
            from = r->start < from ? r->start : from;
            until = r->end > until ? r->end : until;
        }
        update += kind == SF_OP_OPTIMIZER ? r->end - r->start : 0;
        longest = until - from + update > longest ? until - from + update : longest;
    }
    return longest;
}

static int simulate(const struct sf_scenario *s, const struct sf_prog *prog, const struct sf_cost *cost, bool rolling,
                    struct sf_plan_result *out, struct sf_err *err) {
    struct sf_trace trace;
    struct sf_sim_options options = {.seed = s->job.seed, .threads = 1, .trace = rolling ? &trace : NULL};
    sf_trace_init(&trace);
    int rc = sf_sim_run(prog, cost, &options, &out->sim, err);
    if (rc == 0 && rolling) {
        sf_time_ps step = longest_stage(prog, &trace) + sf_cost_step(cost);
        out->sim.breakdown.bubble -= out->sim.step_time - step;
        out->sim.step_time = step;
    }
    sf_trace_clear(&trace);
    return rc;
}

static int run_plan(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_framework *f,
                    const struct sf_plan *plan, bool rolling, struct sf_plan_result *out, struct sf_err *err) {
    struct sf_prog *prog;
    int rc;
    SF_TRY(sf_compile(s, plan, &prog, err));
    SF_TRY_GOTO(rc, sfi_case_waits(plan, f) ? hold_up_all(prog, err) : 0, done);
    SF_TRY_GOTO(rc, simulate(s, prog, cost, rolling, out, err), done);
    sf_interval_of(prog, cost, &out->sim, 0.0, &out->interval);
    out->unfused_memory_bytes = sfi_unfused_peak_bytes(prog);
done:
    sf_prog_free(prog);
    return rc;
}

int sfi_case_run(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_framework *f,
                 const struct sf_plan *plan, struct sf_plan_result *out, struct sf_err *err) {
    struct sf_plan own = *plan;
    bool rolling = f->rolling && is_split(plan->schedule);
    memset(out, 0, sizeof *out);
    uint64_t unfused_bytes = 0;
    int rc = rolling ? profile(s, cost, f, &own, &unfused_bytes, err) : 0;
    rc = rc ? rc : run_plan(s, cost, f, &own, rolling, out, err);
    out->unfused_memory_bytes = rolling ? unfused_bytes : out->unfused_memory_bytes;
    sf_plan_clear(&own);
    return rc;
}
