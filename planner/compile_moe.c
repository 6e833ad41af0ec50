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
    return sfi_mul(sfi_mul(s->tp == 1 ? s->expert_room : s->picks, s->hidden), s->elem);
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

/* Whole rows over tp, with room for the rounding of expert_rows behind them. */
static sf_ref gather_picks(struct sfi_recipe *r, sf_ref x) {
    const struct sfi_shape *s = r->shape;
    sf_ref whole = sfi_gather(r, s->topk * s->hidden, x);
    sfi_take(&r->work, s->tp > 1 ? sfi_mul((s->expert_room - s->all_picks) * s->hidden, s->elem) : 0);
    return whole;
}

static sf_ref partial_picks(struct sfi_recipe *r, sf_ref out) {
    const struct sfi_shape *s = r->shape;
    sf_ref whole = sfi_partial(r, s->topk * s->hidden, out);
    sfi_take(&r->work, s->tp > 1 ? sfi_mul((s->expert_room - s->all_picks) * s->hidden, s->elem) : 0);
    return whole;
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
    sfi_call_gemm(r, s->dtype, SF_CALL_TB_FLAG, (const uint64_t[]){s->rows, s->experts, s->hidden}, a->n2, w->router,
                  a->scores);
    sfi_call_simple(r, SF_CALL_MOE_ROUTE_FWD, route_dims(s, dims), (const sf_ref[]){a->scores, a->ids, a->weights}, 3);
    sf_ref sorted = s->ep > 1 ? scratch(r, sfi_dispatch_room(s)) : a->dispatched;
    sfi_call_simple(r, SF_CALL_MOE_PERMUTE, permute_dims(s, dims), (const sf_ref[]){a->n2, a->ids, sorted}, 3);
    exchange(r, sorted, a->dispatched);
}

void sfi_experts_forward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w, sf_ref out) {
    const struct sfi_shape *s = r->shape;
    uint64_t width = s->topk * s->hidden, dims[3];
    uint64_t mark = r->work.at;
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
    sfi_reduce(r, width, y, mine);
    back = exchange(r, mine, back);
    sfi_call_simple(r, SF_CALL_MOE_UNPERMUTE, permute_dims(s, dims), (const sf_ref[]){back, a->ids, a->weights, out},
                    4);
    r->work.at = mark;
}

/* Gradients of the output rows on the ranks that own the experts, whole over tp. */
static sf_ref collect_gradients(struct sfi_recipe *r, const struct sfi_acts *a, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    uint64_t dims[3];
    sf_ref sorted = scratch(r, sfi_dispatch_room(s)), arrived = scratch(r, s->ep > 1 ? sfi_dispatch_room(s) : 0);
    sfi_call_simple(r, SF_CALL_MOE_PERMUTE, permute_dims(s, dims), (const sf_ref[]){g, a->ids, sorted}, 3);
    return gather_picks(r, exchange(r, sorted, arrived));
}

/* From the gradient of the experts' output to that of their input; both whole over tp. */
static void experts_gemms(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                          const struct sfi_refs *dw, sf_ref dy, sf_ref dx) {
    const struct sfi_shape *s = r->shape;
    unsigned add = r->add ? SF_CALL_ACC_FLAG : 0;
    uint64_t n = s->expert_rows, rows = s->expert_room;
    sf_ref d_act = scratch(r, sfi_mul(sfi_mul(rows, s->ffn_local), s->elem));
    sf_ref d_gate_up = scratch(r, sfi_mul(sfi_mul(rows, s->up_local), s->elem));
    sfi_call_expert_gemm(r, SF_CALL_TA_FLAG | add, (const uint64_t[]){s->hidden, s->ffn_local, n}, dy, a->act,
                         dw->down);
    sfi_call_expert_gemm(r, 0, (const uint64_t[]){n, s->ffn_local, s->hidden}, dy, w->down, d_act);
    sfi_call_glu(r, SF_CALL_GLU_BWD, s->all_picks, (const sf_ref[]){d_act, a->gate_up, d_gate_up}, 3);
    sf_ref x = gather_picks(r, a->dispatched);
    sfi_call_expert_gemm(r, SF_CALL_TA_FLAG | add, (const uint64_t[]){s->up_local, s->hidden, n}, d_gate_up, x,
                         dw->gate_up);
    sfi_call_expert_gemm(r, 0, (const uint64_t[]){n, s->hidden, s->up_local}, d_gate_up, w->gate_up, dx);
}

static void route_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                           const struct sfi_refs *dw, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t dims[3];
    sf_ref d_weights = scratch(r, sfi_mul(s->picks, 4));
    sf_ref d_scores = scratch(r, sfi_mul(sfi_mul(s->rows, s->experts), s->elem));
    sfi_call_simple(r, SF_CALL_MOE_ROUTE_BWD, route_dims(s, dims),
                    (const sf_ref[]){d_weights, a->ids, a->scores, d_scores}, 4);
    sfi_call_gemm(r, s->dtype, SF_CALL_TA_FLAG | (r->add ? SF_CALL_ACC_FLAG : 0),
                  (const uint64_t[]){s->experts, s->hidden, s->rows}, d_scores, a->n2, dw->router);
    sfi_call_gemm(r, s->dtype, SF_CALL_ACC_FLAG, (const uint64_t[]){s->rows, s->hidden, s->experts}, d_scores,
                  w->router, dn);
}

void sfi_experts_backward(struct sfi_recipe *r, const struct sfi_acts *a, const struct sfi_refs *w,
                          const struct sfi_refs *dw, sf_ref g, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t width = s->topk * s->hidden, dims[3];
    uint64_t mark = r->work.at;
    sf_ref mine = scratch(r, sfi_dispatch_room(s)), back = scratch(r, s->ep > 1 ? sfi_dispatch_room(s) : 0);
    sf_ref partial = partial_picks(r, mine);
    sf_ref dy = collect_gradients(r, a, g);
    experts_gemms(r, a, w, dw, dy, partial);
    sfi_reduce(r, width, partial, mine);
    back = exchange(r, mine, back);
    sfi_call_simple(r, SF_CALL_MOE_UNPERMUTE, permute_dims(s, dims), (const sf_ref[]){back, a->ids, SF_REF_NONE, dn},
                    4);
    route_backward(r, a, w, dw, dn);
    r->work.at = mark;
}
