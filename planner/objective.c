#include "planner/objective.h"

#include <math.h>
#include <string.h>

#include "planner/search_internal.h"

const char *sf_objective_name(int objective) {
    static const char *const names[] = {
#define X(NAME, name) name,
        SF_OBJECTIVES(X)
#undef X
    };
    return objective >= 0 && objective < SF_OBJECTIVES_N ? names[objective] : "?";
}

int sf_objective_parse(const char *name) {
    for (int i = 0; i < SF_OBJECTIVES_N; i++) {
        if (strcmp(sf_objective_name(i), name) == 0) {
            return i;
        }
    }
    return -1;
}

double sf_kept_share(double interval_s, double save_s, double restart_s, double mtbf_s) {
    if (!(mtbf_s > 0)) {
        return 1;
    }
    return interval_s / mtbf_s * exp(-restart_s / mtbf_s) / expm1((interval_s + save_s) / mtbf_s);
}

/* Daly's optimum beyond Young's square root. */
static double daly_s(double save_s, double mtbf_s) {
    double ratio = save_s / (2 * mtbf_s);
    if (ratio >= 1) {
        return mtbf_s;
    }
    return sqrt(2 * save_s * mtbf_s) * (1 + sqrt(ratio) / 3 + ratio / 9) - save_s;
}

double sf_best_interval_s(double step_s, double save_s, double restart_s, double mtbf_s) {
    if (!(mtbf_s > 0) || !(step_s > 0)) {
        return 0;
    }
    double steps = fmax(floor(daly_s(save_s, mtbf_s) / step_s), 1), best = steps;
    for (double n = fmax(steps - 1, 1); n <= steps + 2; n++) { /* the share has one peak */
        bool more = sf_kept_share(n * step_s, save_s, restart_s, mtbf_s) >
                    sf_kept_share(best * step_s, save_s, restart_s, mtbf_s);
        best = more ? n : best;
    }
    return best * step_s;
}

uint32_t sfi_paid_gpus(const struct sf_topo *topo, uint32_t gpus, uint32_t ranks_per_domain) {
    uint32_t domains = ranks_per_domain > 0 ? (gpus - 1) / ranks_per_domain + 1 : 0;
    uint64_t paid = (uint64_t)domains * sf_topo_domain_gpus(topo);
    return paid < sf_topo_gpus(topo) ? (uint32_t)paid : sf_topo_gpus(topo);
}

/* Bytes of one rank's part of a checkpoint: of what training goes on from, moments and master weights, or weights that
 * are their own masters. What several ranks hold they write and read in equal parts, as many of them as hold what the
 * fewest hold; giving the parts to each other takes a hundredth of what storage takes, and is left out. */
static double part_bytes(const struct sf_scenario *s, const struct sf_plan *p, const struct sf_class *cls) {
    double copies = (double)p->dp * sf_plan_cp(p) / (s->model.experts > 0 ? sf_plan_ep_beside_tp(p) : 1);
    double bytes = 0;
    for (uint32_t i = 0; i < cls->bufs_n; i++) {
        const struct sf_buffer *b = &cls->bufs[i];
        bool weights = b->kind == SF_BUF_PARAM && s->job.precision == SF_F32 && p->zero == 0;
        if (b->kind == SF_BUF_OPTIMIZER || weights) {
            bytes += (double)b->bytes / (p->zero >= 1 ? 1 : fmax(copies, 1));
        }
    }
    return bytes;
}

static double seconds_at(double bytes, uint64_t bytes_per_s) {
    return bytes_per_s > 0 ? bytes / (double)bytes_per_s : 0;
}

static double mtbf_s(const struct sf_upkeep *u, double gpus) {
    return u->failures_per_1000_gpu_days > 0 ? 86400e3 / u->failures_per_1000_gpu_days / gpus : 0;
}

void sfi_merit_init(const struct sf_scenario *s, const struct sf_plan *plan, const struct sf_prog *prog, double step_s,
                    struct sf_merit *out) {
    const struct sf_upkeep *u = &s->job.upkeep;
    double tokens = (double)s->job.global_batch_sequences * s->job.seq_len_tokens, gpus = s->job.gpus;
    *out = (struct sf_merit){.paid_gpus = sfi_paid_gpus(s->topo, s->job.gpus, plan->ranks_per_domain)};
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        out->save_s = fmax(out->save_s, seconds_at(part_bytes(s, plan, &prog->classes[i]), u->storage_bytes_per_s));
    }
    out->restart_s = u->restart_s + out->save_s;
    out->mtbf_s = mtbf_s(u, gpus);
    out->interval_s = sf_best_interval_s(step_s, out->save_s, out->restart_s, out->mtbf_s);
    out->kept = sf_kept_share(out->interval_s, out->save_s, out->restart_s, out->mtbf_s);
    if (step_s > 0 && out->kept > 0) {
        out->tokens_per_day = tokens / step_s * 86400 * out->kept;
        out->cost_per_megatoken = u->gpu_hour_price * out->paid_gpus * 24 / (out->tokens_per_day / 1e6);
    }
}

/* What checkpoints that cost nothing would keep. */
static double most_kept(const struct sf_upkeep *u, double gpus) {
    double mtbf = mtbf_s(u, gpus);
    return mtbf > 0 ? exp(-u->restart_s / mtbf) : 1;
}

double sfi_worth_s(const struct sf_scenario *s, int objective, const struct sf_merit *m, double step_s) {
    double drawn_out = m->kept > 0 ? step_s * most_kept(&s->job.upkeep, s->job.gpus) / m->kept : INFINITY;
    switch (objective) {
    case SF_OBJECTIVE_P95:
        return m->p95_s > 0 ? m->p95_s : step_s;
    case SF_OBJECTIVE_GOODPUT:
        return drawn_out;
    case SF_OBJECTIVE_COST:
        return drawn_out * m->paid_gpus / s->job.gpus;
    default:
        return step_s;
    }
}

double sfi_worth_scale(const struct sf_scenario *s, int objective, uint32_t gpus) {
    bool upkept = objective == SF_OBJECTIVE_GOODPUT || objective == SF_OBJECTIVE_COST;
    if (gpus == s->job.gpus || !upkept) {
        return 1;
    }
    double drawn_out = most_kept(&s->job.upkeep, s->job.gpus) / most_kept(&s->job.upkeep, gpus);
    return objective == SF_OBJECTIVE_COST ? drawn_out * gpus / s->job.gpus : drawn_out;
}
