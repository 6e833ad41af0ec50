/* The head: logits and their cross entropy, whole or a part of the rows at a time.
 *
 * Whole logits are made in forward and kept, as their gradient, for backward. In parts they are made in backward, used
 * and forgotten, so that there is never more than one part of them; a split backward makes them once for each half. The
 * parts are the same in every layout, and so are the sums over them. */
#include "planner/compile_internal.h"

struct rows {
    uint64_t first, n;
};

static sf_ref row_of(const struct sfi_shape *s, sf_ref matrix, uint64_t row) {
    return matrix == SF_REF_NONE ? SF_REF_NONE : matrix + row * s->hidden * s->elem;
}

static void make_logits(struct sfi_recipe *r, struct rows rows, sf_ref n, sf_ref logits) {
    const struct sfi_shape *s = r->shape;
    sfi_call_gemm(r, s->dtype, SF_CALL_TB_FLAG, (const uint64_t[]){rows.n, s->vocab_local, s->hidden},
                  row_of(s, n, rows.first), SF_REF(r->f.param, r->vs->params.head), logits);
}

static void head_of(const struct sfi_recipe *r, struct sfi_head *out) {
    (r->depth > 0 ? sfi_mtp_head : sfi_head_of)(r, out);
}

/* `add`: to the loss of other slices or depths. */
static void make_loss(struct sfi_recipe *r, struct rows rows, bool add, sf_ref logits, sf_ref loss) {
    const sf_ref targets = SF_REF(r->f.targets, (r->depth * r->shape->tokens + rows.first) * 4);
    sfi_call_xent(r, rows.n, add || rows.first > 0, (const sf_ref[]){logits, targets, loss});
}

void sfi_head_forward(struct sfi_recipe *r) {
    const struct sfi_shape *s = r->shape;
    struct rows all = {0, s->tokens};
    uint64_t mark = r->work.at;
    struct sfi_head h;
    head_of(r, &h);
    if (s->loss_rows == 0) {
        make_logits(r, all, sfi_gather(r, s->hidden, h.n), h.logits);
        make_loss(r, all, r->slice > 0 || r->depth > 0, h.logits, SF_REF(r->f.loss, 0));
    }
    r->work.at = mark;
}

/* From the gradient of the logits of some rows. */
static void rows_backward(struct sfi_recipe *r, struct rows rows, sf_ref d_logits, sf_ref n, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    const struct sfi_params *p = &r->vs->params;
    unsigned add = r->add || rows.first > 0 ? SF_CALL_ACC_FLAG : 0;
    if (r->weights) {
        sfi_call_gemm(r, s->dtype, SF_CALL_TA_FLAG | add, (const uint64_t[]){s->vocab_local, s->hidden, rows.n},
                      d_logits, row_of(s, n, rows.first), SF_REF(r->f.grad, p->head));
    }
    if (r->inputs) {
        sfi_call_gemm(r, s->dtype, 0, (const uint64_t[]){rows.n, s->hidden, s->vocab_local}, d_logits,
                      SF_REF(r->f.param, p->head), row_of(s, dn, rows.first));
    }
}

/* The weight half knows the loss already; what it makes again must not count as work of the model. */
static void parts_backward(struct sfi_recipe *r, sf_ref n, sf_ref dn) {
    const struct sfi_shape *s = r->shape;
    uint64_t bytes = sfi_mul(sfi_mul(s->loss_rows, s->vocab_local), s->elem);
    sf_ref logits = sfi_take(&r->work, bytes);
    sf_ref loss = r->inputs ? SF_REF(r->f.loss, 0) : sfi_take(&r->work, sizeof(float));
    for (struct rows rows = {0, s->loss_rows}; rows.first < s->tokens; rows.first += rows.n) {
        rows.n = s->tokens - rows.first < rows.n ? s->tokens - rows.first : rows.n;
        r->flags = r->inputs ? 0 : SF_CALL_RECOMPUTE_FLAG;
        make_logits(r, rows, n, logits);
        make_loss(r, rows, r->inputs && (r->slice + 1 < s->slices || r->depth < r->vs->mtp), logits, loss);
        r->flags = 0;
        rows_backward(r, rows, logits, n, dn);
    }
}

/* To the gradient of the normalised rows. */
static sf_ref logits_backward(struct sfi_recipe *r, const struct sfi_head *h) {
    const struct sfi_shape *s = r->shape;
    bool parts = s->loss_rows > 0;
    sf_ref dn = r->inputs ? sfi_take(&r->work, s->row_bytes) : SF_REF_NONE;
    sf_ref partial = r->inputs ? sfi_partial(r, s->hidden, dn) : SF_REF_NONE;
    sf_ref n = r->weights || parts ? sfi_gather(r, s->hidden, h->n) : SF_REF_NONE;
    if (parts) {
        parts_backward(r, n, partial);
    } else {
        rows_backward(r, (struct rows){0, s->tokens}, h->logits, n, partial);
    }
    if (r->inputs) {
        sfi_reduce(r, s->hidden, partial, dn);
    }
    return dn;
}

/* Where parts of the vocabulary make the logits, that gradient comes back from them. */
void sfi_head_backward(struct sfi_recipe *r, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    const struct sfi_params *p = &r->vs->params;
    uint64_t mark = r->work.at, norm = sfi_params_norm(p, p->norms_n - 1);
    bool further = r->depth < r->vs->mtp, add = r->add;
    struct sfi_head h;
    head_of(r, &h);
    r->add |= further; /* to what deeper layers made */
    sf_ref dn = r->vs->head ? logits_backward(r, &h) : SF_REF(r->f.y, r->depth * s->row_bytes);
    const sf_ref all[] = {dn, h.x, SF_REF(r->f.param, norm), h.rstd, g, SF_REF(r->f.grad, norm)};
    sfi_norm_backward(r, further, all, h.d_norm);
    r->add = add;
    r->work.at = mark;
}
