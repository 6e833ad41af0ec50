/* Biases, learned positions, and sums with the norm that follows them. */
#include "planner/compile_internal.h"

uint64_t sfi_vector_bytes(const struct sfi_shape *s, uint64_t n) {
    return sfi_round_up(sfi_mul(n, s->elem), SFI_ALIGN);
}

uint64_t sfi_local_bias_bytes(const struct sfi_shape *s) {
    return (s->qkv_bias ? sfi_vector_bytes(s, s->qkv_local) : 0) + (s->ffn_bias ? sfi_vector_bytes(s, s->up_local) : 0);
}

uint64_t sfi_bias_bytes(const struct sfi_shape *s) {
    return sfi_vector_bytes(s, s->hidden) * ((s->out_bias ? 1u : 0u) + (s->ffn_bias ? 1u : 0u));
}

void sfi_add_bias(struct sfi_recipe *r, uint64_t cols, sf_ref b, sf_ref x) {
    if (b != SF_REF_NONE) {
        sfi_call_bias_fwd(r, r->shape->tokens, cols, (const sf_ref[]){x, b, SF_REF_NONE, x});
    }
}

void sfi_bias_gradient(struct sfi_recipe *r, uint64_t rows, uint64_t cols, sf_ref dy, sf_ref db) {
    if (r->weights && db != SF_REF_NONE) {
        sfi_call_bias_bwd(r, rows, cols, dy, db);
    }
}

/* A bias is added together with the residual, which leaves the norm one operand less to read. */
void sfi_join(struct sfi_recipe *r, sf_ref x, sf_ref bias, sf_ref residual, sf_ref sum, const struct sfi_norm *norm) {
    if (bias == SF_REF_NONE && norm->w == SF_REF_NONE) {
        sfi_call_add(r, x, residual, sum);
    } else if (bias == SF_REF_NONE) {
        sfi_call_norm_add(r, x, residual, sum, norm);
    } else {
        sfi_call_bias_fwd(r, r->shape->rows, r->shape->hidden, (const sf_ref[]){x, bias, residual, sum});
        if (norm->w != SF_REF_NONE) {
            sfi_call_norm_fwd(r, sum, norm);
        }
    }
}

/* Whole sequences as rows, or a slice of one: then positions are a bias. A rank has whole ones, see the check of the
 * plan. */
void sfi_add_positions(struct sfi_recipe *r, sf_ref x) {
    const struct sfi_shape *s = r->shape;
    uint64_t at = r->vs->params.positions + sfi_mul(sfi_rows_before(r), s->hidden) * s->elem;
    if (s->positions > 0) {
        sfi_call_bias_fwd(r, s->rows / sfi_pass_rows(s), sfi_mul(sfi_pass_rows(s), s->hidden),
                          (const sf_ref[]){x, SF_REF(r->f.param, at), SF_REF_NONE, x});
    }
}

static void clear_positions(struct sfi_recipe *r, uint64_t first, uint64_t end) {
    const struct sfi_shape *s = r->shape;
    const uint64_t n[3] = {sfi_mul(end - first, s->hidden)};
    if (end > first) {
        uint64_t at = r->vs->params.positions + sfi_mul(first, s->hidden) * s->elem;
        sfi_call_simple(r, SF_CALL_ZERO, n, &(sf_ref){SF_REF(r->f.grad, at)}, 1);
    }
}

/* Positions that no sequence reaches have a gradient too, and those of other slices are added to. */
void sfi_positions_gradient(struct sfi_recipe *r, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    uint64_t first = sfi_rows_before(r), end = first + sfi_pass_rows(s);
    uint64_t at = r->vs->params.positions + sfi_mul(first, s->hidden) * s->elem;
    if (s->positions == 0) {
        return;
    }
    sfi_bias_gradient(r, s->rows / sfi_pass_rows(s), sfi_mul(sfi_pass_rows(s), s->hidden), g, SF_REF(r->f.grad, at));
    if (!r->add) {
        clear_positions(r, 0, first);
        clear_positions(r, end, s->positions);
    }
}
