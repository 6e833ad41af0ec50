/* Prices of one layer and of both ends, read off compiled miniatures: the same model with one layer and with two, one
 * pipeline stage, tp x ep ranks. Their difference is a layer, the rest are the ends. */
#include <string.h>

#include "planner/compile_internal.h"
#include "planner/estimate.h"

#define MINI_MICROBATCHES 2 /* the first overwrites gradients, the second adds to them */

static double call_s(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_call *call,
                     uint32_t rank) {
    enum sf_grade grade;
    if (!sf_call_is_collective(call->kind)) {
        return sf_ps_to_s(sf_cost_call(cost, call, &grade));
    }
    struct sf_span span;
    sf_span_of(prog, sf_cost_topo(cost), call->comm, rank, &span);
    return sf_ps_to_s(sf_cost_collective(cost, call->kind, (uint64_t)call->dims[0], &span));
}

double sfi_recipe_s(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t recipe, uint32_t rank) {
    const struct sf_recipe *r = &prog->recipes[recipe];
    double sum = 0;
    for (uint32_t i = 0; i < r->calls_n; i++) {
        sum += call_s(prog, cost, &r->calls[i], rank);
    }
    return sum;
}

struct mini {
    double forward, backward;             /* of one microbatch */
    double embed_forward, embed_backward; /* the embedding's part of it */
    double work;
};

/* Like sfi_recipe_s, but groups are priced where they lie worst in the real placement: a group of the miniature sits at
 * the start of a domain, others may straddle two. */
struct pricing {
    const struct sf_prog *prog;
    const struct sf_cost *cost;
    struct sf_span ep;
    uint32_t ep_comm;
    double embed; /* sum over embedding calls alone */
};

static double price_recipe(struct pricing *p, uint32_t recipe) {
    const struct sf_recipe *r = &p->prog->recipes[recipe];
    double sum = 0;
    for (uint32_t i = 0; i < r->calls_n; i++) {
        const struct sf_call *call = &r->calls[i];
        double s;
        if (sf_call_is_collective(call->kind) && call->comm == p->ep_comm) {
            s = sf_ps_to_s(sf_cost_collective(p->cost, call->kind, (uint64_t)call->dims[0], &p->ep));
        } else {
            s = call_s(p->prog, p->cost, call, 0);
        }
        sum += s;
        p->embed += call->kind == SF_CALL_EMBED_FWD || call->kind == SF_CALL_EMBED_BWD ? s : 0;
    }
    return sum;
}

static void read_mini(struct pricing *p, struct mini *out) {
    const struct sf_class *cls = &p->prog->classes[0];
    *out = (struct mini){0};
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        const struct sf_op *op = &cls->ops[i];
        bool forward = op->kind == SF_OP_FORWARD;
        if (!forward && op->kind != SF_OP_BACKWARD && op->kind != SF_OP_ACCUMULATE) {
            continue;
        }
        p->embed = 0;
        double s = price_recipe(p, op->recipe) / MINI_MICROBATCHES;
        *(forward ? &out->forward : &out->backward) += s;
        *(forward ? &out->embed_forward : &out->embed_backward) += p->embed / MINI_MICROBATCHES;
    }
    for (uint32_t i = 0; i < cls->bufs_n; i++) {
        double bytes = (double)cls->bufs[i].bytes;
        out->work = cls->bufs[i].kind == SF_BUF_WORK && bytes > out->work ? bytes : out->work;
    }
}

static void mini_plan(const struct sfi_base *base, const struct sf_plan *degrees, uint32_t layers,
                      struct sf_scenario *s, struct sf_plan *plan) {
    *s = *base->scenario;
    s->model.layers = layers;
    s->job.gpus = degrees->tp * degrees->ep;
    s->job.global_batch_sequences = (uint64_t)degrees->ep * degrees->micro_batch * MINI_MICROBATCHES;
    *plan = *degrees;
    plan->dp = degrees->ep;
    plan->pp = plan->vpp = 1;
    plan->microbatches = MINI_MICROBATCHES;
    plan->schedule = SF_SCHEDULE_1F1B;
    plan->zero = 0;
    plan->canonical = s->job.canonical;
    plan->ranks_per_domain = sfi_ranks_per_domain(s->topo, s->job.gpus, degrees->tp, degrees->ep);
    plan->layers[0] = layers;
}

static uint32_t comm_named(const struct sf_prog *prog, const char *name) {
    for (uint32_t i = 0; i < prog->comms_n; i++) {
        if (strcmp(prog->comms[i].name, name) == 0) {
            return i;
        }
    }
    return SF_NONE;
}

/* Where groups of tp x ep ranks fall over domains repeats after ranks_per_domain groups at the latest. */
static void worst_ep_span(const struct sfi_base *base, uint32_t tp, uint32_t ep, struct sf_span *out) {
    const struct sf_topo *topo = base->scenario->topo;
    uint32_t gpus = base->scenario->job.gpus, used = sfi_ranks_per_domain(topo, gpus, tp, ep);
    uint32_t groups = gpus / (tp * ep);
    const struct sfi_groups g = {
        .members = ep, .stride = tp, .repeat = tp * ep, .groups = groups < used ? groups : used};
    sfi_span(topo, used, &g, out);
}

static int price_mini(const struct sfi_base *base, const struct sf_plan *degrees, uint32_t layers, struct mini *out,
                      struct sf_err *err) {
    struct sf_scenario s;
    struct sf_plan plan;
    struct sf_prog *prog;
    mini_plan(base, degrees, layers, &s, &plan);
    SF_TRY(sfi_compile_unbounded(&s, &plan, &prog, err));
    struct pricing p = {.prog = prog, .cost = base->cost, .ep_comm = comm_named(prog, "ep")};
    worst_ep_span(base, degrees->tp, degrees->ep, &p.ep);
    read_mini(&p, out);
    sf_prog_free(prog);
    return 0;
}

int sfi_price_init(const struct sfi_base *base, uint32_t tp, uint32_t ep, uint32_t micro_batch, int recompute,
                   struct sfi_price *out, struct sf_err *err) {
    const struct sf_plan degrees = {.tp = tp, .ep = ep, .micro_batch = micro_batch, .recompute = recompute};
    struct sf_scenario s;
    struct sf_plan plan;
    struct sfi_shape shape;
    struct mini one, two;
    SF_TRY(price_mini(base, &degrees, 1, &one, err));
    SF_TRY(price_mini(base, &degrees, 2, &two, err));
    mini_plan(base, &degrees, 1, &s, &plan);
    sfi_shape_init(&s, &plan, &shape);
    out->layer_f = two.forward - one.forward;
    out->layer_b = two.backward - one.backward;
    out->first_f = one.embed_forward;
    out->first_b = one.embed_backward;
    out->last_f = one.forward - out->layer_f - out->first_f;
    out->last_b = one.backward - out->layer_b - out->first_b;
    out->kept_layer = (double)(sfi_stash_bytes(&shape, 2) - sfi_stash_bytes(&shape, 1));
    out->kept_chunk = (double)sfi_stash_bytes(&shape, 1) - out->kept_layer + (double)shape.row_bytes;
    out->kept_last = (double)sfi_head_bytes(&shape);
    out->work = two.work;
    out->p2p_bytes = (double)shape.row_bytes;
    return 0;
}
