#include "sim/interval.h"

#include <math.h>
#include <stdio.h>

#include "sim/calib_internal.h"
#include "sim/cost_internal.h"

/* 438 of 449 published collectives are within 8 % (docs/collectives.md); ranks of one host share caches and cores. */
#define NETWORK_P90 0.08
#define HOST_P90 0.30
/* NCCL's own expectations, which are made to choose by: nine of ten of the 508 points that it has one for are within
 * this (docs/collectives.md). */
#define NCCL_P90 0.36

/* What frameworks add to kernels back to back: nine of ten calibration rows of NeMo on H100 are within this
 * factor of `validate --bare`. Ranks of one host run programs as they are. */
#define BARE_P90 0.45

/* Half widths for numbers without residuals of their own: a rule of thumb. */
static const double by_grade[SF_GRADES_N] = {[SF_GRADE_CALIBRATED] = 0.05,
                                             [SF_GRADE_MEASURED] = 0.10,
                                             [SF_GRADE_DATASHEET] = 0.20,
                                             [SF_GRADE_EXTRAPOLATED] = 0.30};

enum family { PRODUCTS, ATTENTION, STREAMS, FAMILIES };

static enum family family_of(const struct sf_call *call) {
    static const enum family families[SF_CALIB_FORMS_N] = {
        [SF_CALIB_PRODUCT] = PRODUCTS, [SF_CALIB_ATTENTION] = ATTENTION, [SF_CALIB_STREAM] = STREAMS};
    return families[sf_calib_form_of(call->kind)];
}

/* Residual and grade of the device's fitted kernels for a call; 0 where they have none. */
static double device_p90(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    const struct sf_kernel_model *k = &d->kernels;
    switch (family_of(call)) {
    case PRODUCTS:
        *grade = k->gemm[call->dtype].grade;
        return k->gemm[call->dtype].p90;
    case ATTENTION:
        *grade = sf_call_is_attention_fwd(call->kind) ? k->attn_fwd.grade : k->attn_bwd.grade;
        return sf_call_is_attention_fwd(call->kind) ? k->attn_fwd.p90 : k->attn_bwd.p90;
    default:
        *grade = k->memory_grade;
        return k->memory_p90;
    }
}

double sf_interval_call(const struct sf_cost *cost, const struct sf_call *call) {
    const struct sf_cost *c = sf_cost_of(cost, 0);
    const struct sfi_calib_model *m = sfi_model_find(c, call);
    enum sf_grade grade, fit = SF_GRADE_CALIBRATED;
    if (sfi_kernel_find(c, call)) {
        return c->repeat;
    }
    if (m) {
        double work = sfi_calib_work(call);
        bool outside = m->kind != call->kind || work < m->work_lo || work > m->work_hi;
        return (outside ? SFI_OUTSIDE : 1.0) * m->p90;
    }
    sf_cost_call(cost, call, &grade);
    double p90 = c->device->kernels.cores > 0 ? device_p90(c->device, call, &fit) : 0.0;
    if (p90 <= 0.0) {
        return by_grade[grade];
    }
    return grade > fit ? SFI_OUTSIDE * p90 : p90;
}

/* Time of every family, and its error in the same unit. */
struct kernels {
    double time[FAMILIES], error[FAMILIES], all;
};

static void add_recipe(const struct sf_cost *cost, const struct sf_recipe *r, double uses, struct kernels *out) {
    for (uint32_t i = 0; i < r->calls_n; i++) {
        const struct sf_call *call = &r->calls[i];
        if (!sf_call_is_collective(call->kind)) {
            double t = uses * sf_ps_to_s(sf_cost_call(cost, call, NULL));
            out->time[family_of(call)] += t;
            out->error[family_of(call)] += t * sf_interval_call(cost, call);
            out->all += t;
        }
    }
}

static double uses_of(const struct sf_prog *prog, uint32_t recipe) {
    double uses = 0.0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        for (uint32_t i = 0; i < prog->classes[c].ops_n; i++) {
            uses += prog->classes[c].ops[i].recipe == recipe;
        }
    }
    return uses;
}

static double network_error(const struct sf_cost *cost) {
    const struct sf_cost *c = sf_cost_of(cost, 0);
    if (c->collectives_measured || c->messages_measured) {
        return HOST_P90;
    }
    if (c->coll && sf_coll_by_nccl(c->coll)) {
        return NCCL_P90;
    }
    const struct sf_topo *topo = c->topo;
    const struct sf_link_class *out = sf_topo_scale_out(topo), *up = sf_topo_scale_up(topo);
    bool compared = c->coll && (!out || out->grade <= SF_GRADE_MEASURED) && (!up || up->grade <= SF_GRADE_MEASURED);
    return compared ? NETWORK_P90 : SFI_OUTSIDE * NETWORK_P90;
}

void sf_interval_set(struct sf_interval *i, double step_s, double release) {
    i->release = release;
    i->half = sqrt(i->kernels * i->kernels + i->network * i->network + release * release);
    i->low_s = step_s / (1.0 + i->half);
    i->high_s = step_s * (1.0 + i->half);
}

/* Somebody's framework will run it, and nothing measured on the device says how. */
static double release_of(const struct sf_cost *cost) {
    const struct sf_cost *c = sf_cost_of(cost, 0);
    bool measured = c->kernels_n > 0 || c->models_n > 0;
    return c->device->kernels.cores > 0 && !measured && c->framework.name[0] == '\0' ? BARE_P90 : 0.0;
}

void sf_interval_of(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_result *result,
                    double release, struct sf_interval *out) {
    const struct sf_breakdown *b = &result->breakdown;
    double step = sf_ps_to_s(result->step_time), squares = 0.0;
    double moved = sf_ps_to_s(b->tp_comm + b->ep_comm + b->p2p + b->dp_comm);
    struct kernels k = {.all = 0.0};
    for (uint32_t i = 0; i < prog->recipes_n; i++) {
        add_recipe(cost, &prog->recipes[i], uses_of(prog, i), &k);
    }
    double share = step > 0.0 ? moved / step : 0.0;
    for (int f = 0; f < FAMILIES && k.all > 0.0; f++) {
        double own = (1.0 - share) * k.error[f] / k.all;
        squares += own * own;
    }
    *out = (struct sf_interval){.kernels = sqrt(squares), .network = share * network_error(cost)};
    sf_interval_set(out, step, release > 0.0 ? release : release_of(cost));
}

char *sf_interval_text(const struct sf_interval *i, char *buf, size_t size) {
    const struct {
        const char *name;
        double share;
    } parts[] = {{"kernels", i->kernels}, {"network", i->network}, {"release", i->release}};
    int used = snprintf(buf, size, "90 %%, from errors of held-out rows:");
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
        if (parts[p].share >= 0.0005 && used > 0 && (size_t)used < size) {
            used += snprintf(buf + used, size - (size_t)used, " %s %.1f %%,", parts[p].name, 100.0 * parts[p].share);
        }
    }
    if (used > 0 && (size_t)used < size) {
        buf[used - 1] = '\0';
    }
    return buf;
}
