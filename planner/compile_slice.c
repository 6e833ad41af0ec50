/* Sequences in slices: every slice has its own activations, and what all slices of a microbatch share lies apart from
 * them: keys and values, which forward fills from the first slice on, and the sums of their gradients, which backward
 * collects from the last slice on. One range per layer of a chunk in each. */
#include "planner/compile_internal.h"

static uint64_t width(const struct sfi_shape *s) {
    return sfi_mul(2 * s->kv_heads_local, s->head_dim);
}

static uint64_t keys_of_layer(const struct sfi_shape *s) {
    return sfi_round_up(sfi_mul(sfi_mul(s->seq, width(s)), s->elem), SFI_ALIGN);
}

/* The last slice's own gradients never wait. */
static uint64_t sums_of_layer(const struct sfi_shape *s) {
    return sfi_round_up(sfi_mul(sfi_mul(s->seq - sfi_pass_rows(s), width(s)), sizeof(float)), SFI_ALIGN);
}

uint64_t sfi_keys_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return c->shape.slices > 1 ? sfi_mul(sfi_blocks(vs), keys_of_layer(&c->shape)) : 0;
}

uint64_t sfi_sums_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    return c->shape.slices > 1 ? sfi_mul(sfi_blocks(vs), sums_of_layer(&c->shape)) : 0;
}

static sf_ref keys_at(const struct sfi_recipe *r, const struct sfi_acts *a) {
    return SF_REF(r->f.keys, sfi_mul(a->layer, keys_of_layer(r->shape)));
}

void sfi_slice_forward(struct sfi_recipe *r, const struct sfi_acts *a) {
    sfi_call_slice(r, SF_CALL_ATTN_SLICE_FWD, false, (const sf_ref[]){a->qkv, keys_at(r, a), a->o, a->lse}, 4);
}

void sfi_slice_backward(struct sfi_recipe *r, const struct sfi_acts *a, sf_ref d_o, sf_ref d_qkv, sf_ref work) {
    const sf_ref sums = SF_REF(r->f.sums, sfi_mul(a->layer, sums_of_layer(r->shape)));
    sfi_call_slice(r, SF_CALL_ATTN_SLICE_BWD, r->slice + 1 < r->shape->slices,
                   (const sf_ref[]){a->qkv, keys_at(r, a), a->o, a->lse, d_o, d_qkv, sums, work}, 8);
}
