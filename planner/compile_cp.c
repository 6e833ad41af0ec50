/* Context parallelism: every rank has two chunks of each sequence, one from either end, which makes causal attention
 * cost all ranks the same. Attention needs the keys and values of all: they are passed around the ranks while attention
 * runs on those that are there, or gathered before it. Either way as many bytes move, so both are one collective,
 * marked to run beside attention in the first case. Latent attention sends what was made of its latent vectors, as
 * Megatron-LM does: the vectors are a small part of that, but then every rank would make all keys. */
#include "planner/compile_internal.h"

static uint64_t key_width(const struct sfi_shape *s) {
    return s->kv_rank > 0 ? s->qkv_local : s->kv_heads_local * s->head_dim;
}

static uint64_t key_elements(const struct sfi_shape *s) {
    return sfi_mul(s->tokens, key_width(s));
}

static uint64_t value_width(const struct sfi_shape *s) {
    return s->kv_rank > 0 ? s->attn_local : key_width(s);
}

static uint64_t kv_elements(const struct sfi_shape *s) {
    return sfi_mul(s->tokens, key_width(s) + value_width(s));
}

static sf_ref first_key(const struct sfi_shape *s, sf_ref qkv) {
    return qkv + s->heads_local * s->head_dim * s->elem;
}

static struct sfi_kv slices(const struct sfi_shape *s, sf_ref qkv) {
    sf_ref k = first_key(s, qkv);
    return (struct sfi_kv){.k = k, .v = k + s->kv_heads_local * s->head_dim * s->elem, .own = SF_REF_NONE};
}

static void exchange(struct sfi_recipe *r, int kind, sf_ref x, sf_ref y) {
    unsigned flags = r->flags;
    r->flags |= r->c->plan->cp_gather ? 0 : SF_CALL_BESIDE_FLAG;
    sfi_call_comm(r, kind, r->c->comms.cp, sfi_mul(sfi_mul(kv_elements(r->shape), r->shape->cp), r->shape->elem), x, y);
    r->flags = flags;
}

static void copy(struct sfi_recipe *r, uint64_t elements, sf_ref x, sf_ref y) {
    sfi_call_simple(r, SF_CALL_COPY, (const uint64_t[3]){elements}, (const sf_ref[]){x, y}, 2);
}

static struct sfi_kv take(struct sfi_recipe *r) {
    const struct sfi_shape *s = r->shape;
    uint64_t bytes = sfi_mul(kv_elements(s), s->elem);
    struct sfi_kv kv = {.own = sfi_take(&r->work, bytes), .k = sfi_take(&r->work, sfi_mul(bytes, s->cp))};
    kv.v = kv.k + sfi_mul(sfi_mul(key_elements(s), s->elem), s->cp);
    return kv;
}

static sf_ref own_values(const struct sfi_shape *s, sf_ref own) {
    return own + sfi_mul(key_elements(s), s->elem);
}

struct sfi_kv sfi_all_keys(struct sfi_recipe *r, sf_ref qkv) {
    if (r->shape->cp == 1) {
        return slices(r->shape, qkv);
    }
    struct sfi_kv kv = take(r);
    copy(r, kv_elements(r->shape), first_key(r->shape, qkv), kv.own);
    exchange(r, SF_CALL_ALL_GATHER, kv.own, kv.k);
    return kv;
}

struct sfi_kv sfi_keys_gradients(struct sfi_recipe *r, sf_ref d_qkv) {
    return r->shape->cp == 1 ? slices(r->shape, d_qkv) : take(r);
}

void sfi_return_keys(struct sfi_recipe *r, const struct sfi_kv *d, sf_ref d_qkv) {
    if (r->shape->cp > 1) {
        exchange(r, SF_CALL_REDUCE_SCATTER, d->k, d->own);
        copy(r, kv_elements(r->shape), d->own, first_key(r->shape, d_qkv));
    }
}

struct sfi_kv sfi_all_latent_keys(struct sfi_recipe *r, sf_ref k, sf_ref v) {
    const struct sfi_shape *s = r->shape;
    if (s->cp == 1) {
        return (struct sfi_kv){.k = k, .v = v, .own = SF_REF_NONE};
    }
    struct sfi_kv kv = take(r);
    copy(r, key_elements(s), k, kv.own);
    copy(r, sfi_mul(s->tokens, value_width(s)), v, own_values(s, kv.own));
    exchange(r, SF_CALL_ALL_GATHER, kv.own, kv.k);
    return kv;
}

struct sfi_kv sfi_latent_keys_gradients(struct sfi_recipe *r, sf_ref dk, sf_ref dv) {
    return r->shape->cp == 1 ? (struct sfi_kv){.k = dk, .v = dv, .own = SF_REF_NONE} : take(r);
}

void sfi_return_latent_keys(struct sfi_recipe *r, const struct sfi_kv *d, sf_ref dk, sf_ref dv) {
    const struct sfi_shape *s = r->shape;
    if (s->cp > 1) {
        exchange(r, SF_CALL_REDUCE_SCATTER, d->k, d->own);
        copy(r, key_elements(s), d->own, dk);
        copy(r, sfi_mul(s->tokens, value_width(s)), own_values(s, d->own), dv);
    }
}
