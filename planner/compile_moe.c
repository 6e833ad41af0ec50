/* The feed-forward part of a mixture of experts. Routing is balanced in expectation: every expert gets an equal share
 * of the rows, and the shares of all ep ranks arrive together.
 *
 * Gradients of the routing weights need a row-wise product that no call names; its cost (one pass over rows that are
 * being moved anyway) is left out. */
#include "planner/compile_internal.h"

static uint64_t dispatch_bytes(const struct sfi_shape *s) {
    return sfi_mul(sfi_mul(s->picks, s->hidden), s->elem);
}

uint64_t sfi_dispatch_room(const struct sfi_shape *s) {
    return sfi_mul(sfi_mul(s->etp == 1 ? s->expert_room : s->picks, s->hidden), s->elem);
}

/* Rows in expert order to and from the ranks that own the experts; with ep = 1 they stay where they are. */
static sf_ref exchange(struct sfi_recipe *r, sf_ref x, sf_ref y) {
    if (r->shape->ep == 1) {
        return x;
    }
    sfi_call_comm(r, SF_CALL_ALL_TO_ALL, r->c->comms.ep, dispatch_bytes(r->shape), x, y);
    return y;
}

static sf_ref scratch(struct sfi_recipe *r, uint64_t bytes) {
    return sfi_take(&r->work, bytes);
}

static uint64_t rounding_bytes(const struct sfi_shape *s) {
    return s->etp > 1 ? sfi_mul((s->expert_room - s->all_picks) * s->hidden, s->elem) : 0;
}

/* Whole rows over the ranks that share an expert, with room for the rounding of expert_rows behind them. */
static sf_ref gather_picks(struct sfi_recipe *r, sf_ref x) {
    const struct sfi_shape *s = r->shape;
    sf_ref whole = s->etp > 1 ? sfi_gather(r, s->topk * s->hidden, x) : x;
    sfi_take(&r->work, rounding_bytes(s));
    return whole;
}

static sf_ref partial_picks(struct sfi_recipe *r, sf_ref out) {
    const struct sfi_shape *s = r->shape;
    sf_ref whole = s->etp > 1 ? sfi_partial(r, s->topk * s->hidden, out) : out;
    sfi_take(&r->work, rounding_bytes(s));
    return whole;
}

static void reduce_picks(struct sfi_recipe *r, sf_ref partial, sf_ref out) {
    if (r->shape->etp > 1) {
        sfi_reduce(r, r->shape->topk * r->shape->hidden, partial, out);
    }
}

/* Rows of the router's matrix: a gate of shared experts is the last. */
static uint64_t scores_n(const struct sfi_shape *s) {
    return s->experts + s->shared_gate;
}

static const uint64_t *route_dims(const struct sfi_shape *s, uint64_t dims[3]) {
    dims[0] = s->rows;
    dims[1] = s->experts;
    dims[2] = s->topk;
    return dims;
}

static const uint64_t *permute_dims(const struct sfi_shape *s, uint64_t dims[3]) {
    dims[0] = s->rows;
    dims[1] = s->hidden;
    dims[2] = s->topk;
    return dims;
}

static void dispatch(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w) {
    const struct sfi_shape *s = r->shape;
    uint64_t dims[3];
    sfi_call_gemm(r, s->dtype, SF_CALL_TB_FLAG, (const uint64_t[]){s->rows, scores_n(s), s->hidden}, a->n2, w->router,
                  a->scores);
    sfi_call_simple(r, SF_CALL_MOE_ROUTE_FWD, route_dims(s, dims), (const sf_ref[]){a->scores, a->ids, a->weights}, 3);
    sf_ref sorted = s->ep > 1 ? scratch(r, sfi_dispatch_room(s)) : a->dispatched;
    sfi_call_simple(r, SF_CALL_MOE_PERMUTE, permute_dims(s, dims), (const sf_ref[]){a->n2, a->ids, sorted}, 3);
    exchange(r, sorted, a->dispatched);
}

void sfi_experts_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at, dims[3];
    dispatch(r, a, w);
    r->work.at = mark;
    sf_ref x = gather_picks(r, a->dispatched);
    sfi_call_expert_gemm(r, SF_CALL_TB_FLAG, (const uint64_t[]){s->expert_rows, s->up_local, s->hidden}, x, w->gate_up,
                         a->gate_up);
    sfi_call_glu(r, SF_CALL_GLU_FWD, s->all_picks, (const sf_ref[]){a->gate_up, a->act}, 2);
    sf_ref mine = scratch(r, sfi_dispatch_room(s)), back = scratch(r, s->ep > 1 ? sfi_dispatch_room(s) : 0);
    sf_ref y = partial_picks(r, mine);
    sfi_call_expert_gemm(r, SF_CALL_TB_FLAG, (const uint64_t[]){s->expert_rows, s->hidden, s->ffn_local}, a->act,
                         w->down, y);
    reduce_picks(r, y, mine);
    back = exchange(r, mine, back);
    sfi_call_simple(r, SF_CALL_MOE_UNPERMUTE, permute_dims(s, dims), (const sf_ref[]){back, a->ids, a->weights, out},
                    4);
    r->work.at = mark;
}

static bool is_half(const struct sfi_recipe *r) {
    return !r->inputs || !r->weights;
}

/* Gradients of the output rows on the ranks that own the experts, whole over tp. Split backwards keep them. */
static sf_ref collect_gradients(struct sfi_recipe *r, const struct sfi_acts *a, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    uint64_t dims[3];
    if (!r->inputs) {
        return gather_picks(r, a->d_rows);
    }
    sf_ref target = is_half(r) ? a->d_rows : scratch(r, sfi_dispatch_room(s));
    sf_ref sorted = s->ep > 1 ? scratch(r, sfi_dispatch_room(s)) : target;
    sfi_call_simple(r, SF_CALL_MOE_PERMUTE, permute_dims(s, dims), (const sf_ref[]){g, a->ids, sorted}, 3);
    return gather_picks(r, exchange(r, sorted, target));
}

/* Weight gradients of expert matrices: C (+)= A^T B. */
static void expert_weights(struct sfi_recipe *r, uint64_t out, uint64_t in, sf_ref dy, sf_ref x, sf_ref dw) {
    unsigned add = r->add ? SF_CALL_ACC_FLAG : 0;
    sfi_call_expert_gemm(r, SF_CALL_TA_FLAG | add, (const uint64_t[]){out, in, r->shape->expert_rows}, dy, x, dw);
}

/* From the gradient of the experts' output to that of their input; both whole over tp. */
static void experts_gemms(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                          const struct sfi_refs *dw, sf_ref dy, sf_ref dx) {
    const struct sfi_shape *s = r->shape;
    uint64_t n = s->expert_rows, rows = r->inputs ? s->expert_room : 0;
    sf_ref d_act = scratch(r, sfi_mul(sfi_mul(rows, s->ffn_local), s->elem));
    sf_ref d_gate_up = is_half(r) ? a->gate_up : scratch(r, sfi_mul(sfi_mul(rows, s->up_local), s->elem));
    if (r->weights) {
        expert_weights(r, s->hidden, s->ffn_local, dy, a->act, dw->down);
    }
    if (r->inputs) {
        sfi_call_expert_gemm(r, 0, (const uint64_t[]){n, s->ffn_local, s->hidden}, dy, w->down, d_act);
        sfi_call_glu(r, SF_CALL_GLU_BWD, s->all_picks, (const sf_ref[]){d_act, a->gate_up, d_gate_up}, 3);
    }
    if (r->weights) {
        expert_weights(r, s->up_local, s->hidden, d_gate_up, gather_picks(r, a->dispatched), dw->gate_up);
    }
    if (r->inputs) {
        sfi_call_expert_gemm(r, 0, (const uint64_t[]){n, s->hidden, s->up_local}, d_gate_up, w->gate_up, dx);
    }
}

static void route_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                           const struct sfi_refs *dw, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t dims[3];
    sf_ref d_weights = scratch(r, r->inputs ? sfi_mul(s->picks, 4) : 0);
    sf_ref d_scores = r->inputs ? scratch(r, sfi_mul(sfi_mul(s->rows, scores_n(s)), s->elem)) : a->scores;
    if (r->inputs) {
        sfi_call_simple(r, SF_CALL_MOE_ROUTE_BWD, route_dims(s, dims),
                        (const sf_ref[]){d_weights, a->ids, a->scores, d_scores}, 4);
    }
    if (r->inputs && is_half(r)) {
        sfi_call_simple(r, SF_CALL_COPY, (const uint64_t[3]){sfi_mul(s->rows, scores_n(s))},
                        (const sf_ref[]){d_scores, a->scores}, 2);
    }
    if (r->weights) {
        sfi_call_gemm(r, s->dtype, SF_CALL_TA_FLAG | (r->add ? SF_CALL_ACC_FLAG : 0),
                      (const uint64_t[]){scores_n(s), s->hidden, s->rows}, d_scores, a->n2, dw->router);
    }
    if (r->inputs) {
        sfi_call_gemm(r, s->dtype, SF_CALL_ACC_FLAG, (const uint64_t[]){s->rows, s->hidden, scores_n(s)}, d_scores,
                      w->router, dn);
    }
}

/* The gradient of the experts' input goes back the way the rows came. */
static void return_gradients(struct sfi_recipe *r, const struct sfi_acts *a, sf_ref partial, sf_ref mine, sf_ref back,
                             sf_ref dn) {
    uint64_t dims[3];
    reduce_picks(r, partial, mine);
    back = exchange(r, mine, back);
    sfi_call_simple(r, SF_CALL_MOE_UNPERMUTE, permute_dims(r->shape, dims),
                    (const sf_ref[]){back, a->ids, SF_REF_NONE, dn}, 4);
}

void sfi_experts_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                          const struct sfi_refs *dw, sf_ref g, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at, room = r->inputs ? sfi_dispatch_room(s) : 0;
    sf_ref mine = scratch(r, room), back = scratch(r, s->ep > 1 ? room : 0);
    sf_ref partial = r->inputs ? partial_picks(r, mine) : SF_REF_NONE;
    sf_ref dy = collect_gradients(r, a, g);
    experts_gemms(r, a, w, dw, dy, partial);
    if (r->inputs) {
        return_gradients(r, a, partial, mine, back, dn);
    }
    route_backward(r, a, w, dw, dn);
    r->work.at = mark;
}
