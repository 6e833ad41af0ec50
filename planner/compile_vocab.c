/* A head that is split by vocabulary over the pipeline, and over tensor-parallel ranks: every rank has a part of it as
 * one chunk more. From the normalised output of the last layer, and those of layers that predict further behind it,
 * each part makes its logits and their statistics; with those of all parts it makes its gradients. What they exchange
 * for that is in compile_parts.c. */
#include "planner/compile_internal.h"

static void product(struct sfi_recipe *r, unsigned flags, const uint64_t mnk[3], sf_ref a, sf_ref b, sf_ref c) {
    sfi_call_gemm(r, r->shape->dtype, flags, mnk, a, b, c);
}

uint64_t sfi_parts_bytes(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    struct sfi_bump b = {0};
    struct sfi_head h;
    for (uint32_t i = 0; i < sfi_depths(c, vs); i++) {
        sfi_place_head(&c->shape, vs, &b, &h);
    }
    return b.peak;
}

/* Rows of the head at hand, and its targets. */
static sf_ref rows_at(const struct sfi_recipe *r, uint32_t formal) {
    return SF_REF(formal, r->depth * r->shape->row_bytes);
}

static sf_ref targets_of(const struct sfi_recipe *r) {
    return SF_REF(r->f.targets, r->depth * r->shape->tokens * 4);
}

static void forward(struct sfi_recipe *r) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    struct sfi_head h;
    sfi_head_of(r, &h);
    product(r, SF_CALL_TB_FLAG, (const uint64_t[]){s->tokens, s->vocab_part, s->hidden},
            sfi_gather(r, s->hidden, rows_at(r, r->f.x)), SF_REF(r->f.param, r->vs->params.head), h.logits);
    sfi_call_part_stats(r, (const sf_ref[]){h.logits, targets_of(r), h.own_stats});
    r->work.at = mark;
}

void sfi_part_forward(struct sfi_recipe *r) {
    for (r->depth = 0; r->depth < sfi_depths(r->c, r->vs); r->depth++) {
        forward(r);
    }
    r->depth = 0;
}

/* This part's share of the gradient of the outputs. */
static void rows_gradient(struct sfi_recipe *r, sf_ref logits, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    sf_ref partial = sfi_partial(r, s->hidden, g);
    product(r, 0, (const uint64_t[]){s->tokens, s->hidden, s->vocab_part}, logits,
            SF_REF(r->f.param, r->vs->params.head), partial);
    sfi_reduce(r, s->hidden, partial, g);
    r->work.at = mark;
}

/* Every part knows the whole loss, and the last one keeps it. */
static void backward(struct sfi_recipe *r, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at;
    struct sfi_head h;
    sfi_head_of(r, &h);
    sf_ref loss = r->vs->is_last ? SF_REF(r->f.loss, 0) : sfi_take(&r->work, sizeof(float));
    sfi_call_part_loss(r, r->depth > 0, (const sf_ref[]){h.logits, targets_of(r), h.all_stats, loss});
    rows_gradient(r, h.logits, g);
    product(r, SF_CALL_TA_FLAG | (r->add || r->depth > 0 ? SF_CALL_ACC_FLAG : 0),
            (const uint64_t[]){s->vocab_part, s->hidden, s->tokens}, h.logits,
            sfi_gather(r, s->hidden, rows_at(r, r->f.x)), SF_REF(r->f.grad, r->vs->params.head));
    r->work.at = mark;
}

void sfi_part_backward(struct sfi_recipe *r, sf_ref g) {
    for (r->depth = 0; r->depth < sfi_depths(r->c, r->vs); r->depth++) {
        backward(r, g + r->depth * r->shape->row_bytes);
    }
    r->depth = 0;
    const uint64_t n[3] = {sfi_input_bytes(r->c, r->vs) / r->shape->elem};
    const sf_ref x = SF_REF(r->f.x, 0);
    sfi_call_simple(r, SF_CALL_ZERO, n, &x, 1);
}

uint32_t sfi_gather_stats(const struct sfi_stage *st, const struct sf_pass *forward, uint32_t depth, uint32_t after) {
    struct sfi_recipe r = {.c = st->c, .vs = sfi_chunk_of(st, forward)->vs, .shape = &st->c->shape, .depth = depth};
    struct sfi_head h;
    sfi_head_of(&r, &h);
    uint64_t own = sfi_mul(st->c->shape.tokens, 2 * sizeof(float));
    uint32_t buf = sfi_pool_buffer(&st->head, sfi_unit_of(st, forward->stage, forward->microbatch, 0));
    const struct sf_arg args[] = {{.buf = buf, .access = SF_READ, .offset = SF_REF_OFFSET(h.own_stats), .bytes = own},
                                  {.buf = buf,
                                   .access = SF_WRITE,
                                   .offset = SF_REF_OFFSET(h.all_stats),
                                   .bytes = own * st->c->shape.vocab_parts}};
    const struct sf_op op = {.kind = SF_OP_ALL_GATHER,
                             .stream = SFI_HEAD,
                             .recipe = SF_NONE,
                             .comm = st->c->comms.vocab,
                             .bytes = args[1].bytes,
                             .microbatch = (uint16_t)forward->microbatch,
                             .chunk = (uint16_t)st->c->table.chunk_of[forward->stage]};
    return sf_build_op(st->c->b, &op, args, 2, &after, 1);
}
