/* A plan's own table, replayed with the prices of the plan: what it should take, and what it cannot be faster than. The
 * table is the one that compile makes, so every run of the program has its passes in this order. */
#include <math.h>

#include "core/arena.h"
#include "planner/compile_internal.h"
#include "planner/estimate.h"

#define MOST_S 1e4 /* of one pass: longer ones would overflow a replay, and nobody waits for them */

enum { F, B, W, KINDS };

struct costs {
    sf_time_ps *of[KINDS]; /* by stage, all in one block */
    double *kept;          /* bytes from F to W */
};

static int allocate(struct costs *c, uint32_t stages) {
    sf_time_ps *block = sf_calloc(KINDS * (size_t)stages, sizeof *block);
    c->kept = sf_calloc(stages, sizeof *c->kept);
    for (size_t k = 0; k < KINDS && block; k++) {
        c->of[k] = block + k * stages;
    }
    return block && c->kept ? 0 : SF_E_INTERNAL;
}

static void clear(struct costs *c) {
    sf_free(c->of[F]);
    sf_free(c->kept);
}

uint32_t sfi_plan_units(const struct sf_plan *plan) {
    return sfi_units_of(plan);
}

struct kinds {
    bool whole, split;
};

static struct kinds kinds_of(const struct sf_pipe *t) {
    struct kinds k = {false, false};
    for (uint32_t d = 0; d < t->devices; d++) {
        for (uint32_t i = 0; i < t->passes_n[d]; i++) {
            k.whole |= t->passes[d][i].kind == SF_PASS_BW;
            k.split |= t->passes[d][i].kind == SF_PASS_W;
        }
    }
    return k;
}

struct stage { /* of one copy of the model */
    const struct sf_model *model;
    uint32_t first_layer, layers;
    uint32_t again; /* of them recompute */
    bool first, last;
};

static double pass_s(const struct sfi_pass_time *t, const struct stage *st) {
    return sfi_layers_partly(st->model, t->again, t->of, st->first_layer, st->again, st->layers) +
           (st->first ? t->first : 0) + (st->last ? t->last : 0);
}

static struct stage stage_of(const struct sf_model *m, const struct sf_plan *plan, uint32_t v) {
    struct stage st = {.model = m, .layers = plan->layers[v], .first = v == 0, .last = v + 1 == plan->pp * plan->vpp};
    st.again = sf_plan_again(plan, v);
    for (uint32_t i = 0; i < v; i++) {
        st.first_layer += plan->layers[i];
    }
    return st;
}

static sf_time_ps ps_of(double s) {
    return s > 0 ? (sf_time_ps)(fmin(s, MOST_S) * 1e12) : 0;
}

/* A whole backward is replayed as the sum of its halves. Where both kinds occur the halves are not made longer than the
 * whole when the least is asked for. */
static void fill_stage(const struct sfi_pass_time times[SFI_TIMED], struct kinds kinds, const struct stage *st,
                       double dispatch_s, sf_time_ps out[KINDS]) {
    double whole = pass_s(&times[SFI_TIMED_BW], st);
    double b = kinds.split ? pass_s(&times[SFI_TIMED_B], st) : whole;
    double w = kinds.split ? pass_s(&times[SFI_TIMED_W], st) : 0;
    if (kinds.split && kinds.whole) {
        b = fmin(b, whole);
        w = fmin(w, whole - b);
    }
    out[F] = 1 + ps_of(pass_s(&times[SFI_TIMED_F], st) + dispatch_s);
    out[B] = ps_of(b + dispatch_s);
    out[W] = ps_of(w);
}

/* A part of a split head: the least that is known of a smaller product is nothing. */
static void fill_part(const struct sfi_pass_time times[SFI_TIMED], uint32_t parts, double dispatch_s, uint32_t s,
                      struct costs *c) {
    bool least = !(dispatch_s > 0);
    c->of[F][s] = 1 + (least ? 0 : ps_of(times[SFI_TIMED_F].last / parts + dispatch_s));
    c->of[B][s] = least ? 0 : ps_of(times[SFI_TIMED_BW].last / parts + dispatch_s);
    c->of[W][s] = 0;
}

static void fill(const struct sfi_base *base, const struct sfi_pass_time times[SFI_TIMED], const struct sf_plan *plan,
                 const struct sf_pipe *t, double dispatch_s, struct costs *c) {
    struct kinds kinds = kinds_of(t);
    uint32_t copy = plan->pp * plan->vpp;
    for (uint32_t v = 0; v < copy; v++) {
        struct stage st = stage_of(&base->scenario->model, plan, v);
        sf_time_ps times_of[KINDS];
        st.last = st.last && !plan->split_head;
        fill_stage(times, kinds, &st, dispatch_s, times_of);
        for (uint32_t s = v; s < t->stages; s += copy) {
            for (int k = 0; k < KINDS; k++) {
                c->of[k][s] = times_of[k];
            }
        }
    }
    for (uint32_t s = copy; s < t->stages && plan->split_head; s++) {
        fill_part(times, plan->pp, dispatch_s, s, c);
    }
}

static void fill_kept(const struct sfi_base *base, const struct sfi_price *price, const struct sf_plan *plan,
                      const struct sf_pipe *t, struct costs *c) {
    uint32_t copy = plan->pp * plan->vpp;
    for (uint32_t s = 0; s < t->stages; s++) {
        struct stage st = stage_of(&base->scenario->model, plan, s % copy);
        if (plan->split_head && s >= copy) {
            c->kept[s] = price->kept_chunk + price->kept_last / plan->pp;
            continue;
        }
        st.last = st.last && !plan->split_head;
        c->kept[s] =
            sfi_layers_partly(st.model, price->kept_again, price->kept_of, st.first_layer, st.again, st.layers) +
            price->kept_chunk + (st.last ? price->kept_last : 0);
    }
}

/* Largest sum of what is kept on each device. */
static void find_peaks(const struct sf_pipe *t, const double *kept, double *peaks) {
    for (uint32_t d = 0; d < t->devices; d++) {
        double now = 0;
        peaks[d] = 0;
        for (uint32_t i = 0; i < t->passes_n[d]; i++) {
            const struct sf_pass *x = &t->passes[d][i];
            now += x->kind == SF_PASS_F ? kept[x->stage] : x->kind == SF_PASS_B ? 0 : -kept[x->stage];
            peaks[d] = fmax(peaks[d], now);
        }
    }
}

/* From one stage to the next, and from the last layer to all parts of the head or back. */
struct transfers {
    double next_s, parts_s;
};

static int replay(const struct sf_pipe *t, const struct costs *c, struct transfers each, sf_time_ps **end,
                  double *out) {
    const struct sf_pipe_costs costs = {
        .f = c->of[F], .b = c->of[B], .w = c->of[W], .comm = ps_of(each.next_s), .comm_parts = ps_of(each.parts_s)};
    struct sf_pipe_timing timing;
    int rc = sf_pipe_replay(t, &costs, &timing, NULL, end, NULL);
    *out = rc == 0 ? sf_ps_to_s(timing.makespan) : 0;
    return rc;
}

static void find_done(const struct sf_pipe *t, sf_time_ps *const *end, double *done_s) {
    for (uint32_t s = 0; s < t->stages; s++) {
        done_s[s] = 0;
    }
    for (uint32_t d = 0; d < t->devices; d++) {
        for (uint32_t i = 0; i < t->passes_n[d]; i++) {
            const struct sf_pass *x = &t->passes[d][i];
            if (x->kind == SF_PASS_BW || x->kind == SF_PASS_W) {
                done_s[x->stage] = fmax(done_s[x->stage], sf_ps_to_s(end[d][i]));
            }
        }
    }
}

static int replay_least(const struct sf_pipe *t, const struct costs *c, double next_s, struct sfi_replayed *out) {
    sf_time_ps **end = sf_pipe_times_create(t);
    int rc = end == NULL ? SF_E_INTERNAL : replay(t, c, (struct transfers){next_s, 0}, end, &out->least_s);
    if (rc == 0) {
        find_done(t, end, out->done_s);
    }
    sf_pipe_times_free(end);
    return rc;
}

static int make_table(const struct sfi_base *base, const struct sf_plan *plan, struct sf_pipe **out) {
    uint32_t stages = plan->pp * plan->vpp;
    uint64_t *flops = sf_calloc(KINDS * (size_t)stages, sizeof *flops);
    if (flops == NULL) {
        return SF_E_INTERNAL;
    }
    const struct sf_pass_weights weights = {flops, flops + stages, flops + 2 * (size_t)stages};
    sfi_pass_flops(base->scenario, plan, flops, flops + stages, flops + 2 * (size_t)stages);
    int rc = sfi_memo_table(base->memo, plan, &weights, out);
    sf_free(flops);
    return rc;
}

static double parts_s(const struct sfi_base *base, const struct sfi_layout *l, const struct sfi_price *price,
                      const struct sf_plan *plan) {
    uint32_t stage = l->tp * l->sharers;
    const struct sfi_groups g = {.members = plan->pp,
                                 .stride = stage,
                                 .repeat = 1,
                                 .groups = stage < l->ranks_per_domain ? stage : l->ranks_per_domain};
    const struct sf_model *m = &base->scenario->model;
    struct sf_span span;
    sfi_span(base->scenario->topo, l->ranks_per_domain, &g, &span);
    return sfi_collective_s(base->cost, base->tuned, SF_CALL_ALL_REDUCE, (uint64_t)(price->p2p_bytes * (1.0 + m->mtp)),
                            &span);
}

static int replay_both(const struct sfi_base *base, const struct sfi_layout *layout, const struct sfi_price *price,
                       const struct sf_plan *plan, const struct sf_pipe *t, struct sfi_replayed *out) {
    struct transfers each = {.next_s = layout->p2p.fixed_s + layout->p2p.s_per_unit * price->p2p_bytes};
    struct costs c = {.kept = NULL};
    int rc = kinds_of(t).split && !price->halves ? SF_E_NOPLAN : allocate(&c, t->stages);
    if (rc == 0) {
        fill(base, price->chain, plan, t, 0, &c);
        rc = replay_least(t, &c, layout->least_s_per_byte * price->p2p_bytes, out);
    }
    if (rc == 0) {
        fill(base, price->time, plan, t, base->dispatch_s, &c);
        each.parts_s = plan->split_head ? parts_s(base, layout, price, plan) : 0;
        rc = replay(t, &c, each, NULL, &out->compute_s);
    }
    if (rc == 0) {
        fill_kept(base, price, plan, t, &c);
        find_peaks(t, c.kept, out->kept);
    }
    clear(&c);
    return rc;
}

bool sfi_replay_plan(const struct sfi_base *base, const struct sfi_layout *layout, const struct sfi_price *price,
                     const struct sf_plan *plan, struct sfi_replayed *out) {
    struct sf_pipe *t = NULL;
    int rc = make_table(base, plan, &t);
    if (rc == 0) {
        out->stages = t->stages;
        for (uint32_t s = 0; s < t->stages; s++) {
            out->stage_rank[s] = t->device_of[s];
        }
        rc = replay_both(base, layout, price, plan, t, out);
    }
    sf_pipe_free(t);
    return rc == 0;
}
