/* Schedules without a closed form: their table is made and replayed with the prices of the plan. */
#include <math.h>

#include "core/arena.h"
#include "planner/compile_internal.h"
#include "planner/estimate.h"

struct priced {
    uint64_t *share[3]; /* FLOPs of F, B, W by virtual stage, all in one block */
    uint64_t *ps[3];    /* time */
    double *kept;       /* bytes from F to W */
};

static int allocate(struct priced *p, uint32_t stages) {
    uint64_t *block = sf_calloc(6 * (size_t)stages, sizeof *block);
    p->kept = sf_calloc(stages, sizeof *p->kept);
    for (uint32_t k = 0; k < 3 && block; k++) {
        p->share[k] = block + k * (size_t)stages;
        p->ps[k] = block + (3 + k) * (size_t)stages;
    }
    return block && p->kept ? 0 : SF_E_INTERNAL;
}

static void clear(struct priced *p) {
    sf_free(p->share[0]);
    sf_free(p->kept);
}

static uint64_t ps_of(double s) {
    return s > 0 && s < 1e6 ? (uint64_t)(s * 1e12) + 1 : 1;
}

/* What a split backward takes is known as a whole; its halves share it by their FLOPs. */
static void fill(const struct sfi_base *base, const struct sfi_price *price, const struct sf_plan *plan,
                 struct priced *p) {
    struct sfi_shape shape;
    uint32_t stages = plan->pp * plan->vpp;
    sfi_shape_init(base->scenario, plan, &shape);
    sfi_pass_flops(&shape, plan, p->share[0], p->share[1], p->share[2]);
    for (uint32_t s = 0; s < stages; s++) {
        bool first = s == 0, last = s + 1 == stages;
        double layers = plan->layers[s];
        double f = layers * price->layer_f + (first ? price->first_f : 0) + (last ? price->last_f : 0);
        double b = layers * price->layer_b + (first ? price->first_b : 0) + (last ? price->last_b : 0);
        double inputs = (double)p->share[1][s] / ((double)p->share[1][s] + (double)p->share[2][s]);
        p->ps[0][s] = ps_of(f + base->dispatch_s);
        p->ps[1][s] = ps_of(b * inputs + base->dispatch_s);
        p->ps[2][s] = ps_of(b * (1 - inputs));
        p->kept[s] = layers * price->kept_layer + price->kept_chunk + (last ? price->kept_last : 0);
    }
}

/* Largest sum of what is kept on each device. */
static void find_peaks(const struct sf_pipe *t, const double *kept, double *peaks) {
    uint32_t copy = t->stages / t->ways;
    for (uint32_t d = 0; d < t->devices; d++) {
        double now = 0;
        peaks[d] = 0;
        for (uint32_t i = 0; i < t->passes_n[d]; i++) {
            const struct sf_pass *x = &t->passes[d][i];
            double bytes = kept[x->stage % copy];
            now += x->kind == SF_PASS_F ? bytes : x->kind == SF_PASS_B ? 0 : -bytes;
            peaks[d] = fmax(peaks[d], now);
        }
    }
}

static int replay(const struct sf_plan *plan, const struct priced *p, double transfer_s, struct sfi_replayed *out) {
    const struct sf_pass_weights weights = {p->ps[0], p->ps[1], p->ps[2]};
    struct sf_pipe *table;
    struct sf_pipe_costs costs = {0};
    struct sf_pipe_timing timing;
    SF_TRY(sf_schedule_make(plan, &weights, &table, NULL));
    int rc = sf_schedule_costs(table, &weights, &costs, NULL);
    if (rc == 0) {
        double all = 0, scaled = 0; /* costs are scaled; so is the transfer, and the result is scaled back */
        for (uint32_t s = 0; s < table->stages / table->ways; s++) {
            all += (double)p->ps[0][s] + (double)p->ps[1][s] + (double)p->ps[2][s];
            scaled += (double)(costs.f[s] + costs.b[s] + costs.w[s]);
        }
        double unit = all / scaled;
        costs.comm = (sf_time_ps)fmin(transfer_s * 1e12 / unit, 1e12);
        rc = sf_pipe_replay(table, &costs, &timing, NULL, NULL, NULL);
        out->compute_s = rc == 0 ? (double)timing.makespan * unit * 1e-12 : 0;
        for (uint32_t s = 0; s < table->stages; s++) {
            out->stage_rank[s] = table->device_of[s];
        }
        find_peaks(table, p->kept, out->kept);
    }
    out->stages = table->stages;
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(table);
    return rc;
}

bool sfi_replay_plan(const struct sfi_base *base, const struct sfi_price *price, const struct sf_plan *plan,
                     double transfer_s, struct sfi_replayed *out) {
    struct priced p = {0};
    int rc = allocate(&p, plan->pp * plan->vpp);
    if (rc == 0) {
        fill(base, price, plan, &p);
        rc = replay(plan, &p, transfer_s, out);
    }
    clear(&p);
    return rc == 0;
}
