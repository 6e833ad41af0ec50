/* A head that is split by vocabulary over the pipeline, and over tensor-parallel ranks: every rank has a part of it as
 * one chunk more. The normalised output of the last layer, and those of layers that predict further behind it, pass
 * through the parts, each of which makes its logits and their statistics; with those of all parts, which one collective
 * for every set of logits gathers, each makes its gradients, and the gradients of the outputs are added up on the way
 * back. */
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

/* What comes back from the parts behind, and this one's share: sums over tp want the share alone. */
static void rows_gradient(struct sfi_recipe *r, sf_ref logits, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    const uint64_t mnk[] = {s->tokens, s->hidden, s->vocab_part};
    uint64_t mark = r->work.at;
    const sf_ref head = SF_REF(r->f.param, r->vs->params.head);
    bool alone = r->vs->is_last, sums = s->tp > 1;
    sf_ref own = sums && !alone ? sfi_take(&r->work, s->row_bytes) : g;
    if (!sums && !alone) {
        sfi_call_copy(r, rows_at(r, r->f.y), g);
    }
    sf_ref partial = sfi_partial(r, s->hidden, own);
    product(r, sums || alone ? 0 : SF_CALL_ACC_FLAG, mnk, logits, head, partial);
    sfi_reduce(r, s->hidden, partial, own);
    if (sums && !alone) {
        sfi_call_add(r, rows_at(r, r->f.y), own, g);
    }
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
}

static uint32_t gather_stats(struct sfi_stage *st, uint32_t j, uint32_t depth) {
    const struct sf_pass *step = &st->steps[j];
    struct sfi_recipe r = {.c = st->c, .vs = sfi_chunk_of(st, step)->vs, .shape = &st->c->shape, .depth = depth};
    struct sfi_head h;
    sfi_head_of(&r, &h);
    uint64_t own = sfi_mul(st->c->shape.tokens, 2 * sizeof(float));
    uint32_t buf = sfi_pool_buffer(&st->head, sfi_unit_of(st, step->stage, step->microbatch, 0));
    const struct sf_arg args[] = {{.buf = buf, .access = SF_READ, .offset = SF_REF_OFFSET(h.own_stats), .bytes = own},
                                  {.buf = buf,
                                   .access = SF_WRITE,
                                   .offset = SF_REF_OFFSET(h.all_stats),
                                   .bytes = own * st->c->shape.vocab_parts}};
    const struct sf_op op = {.kind = SF_OP_ALL_GATHER,
                             .stream = SFI_GRAD,
                             .recipe = SF_NONE,
                             .comm = st->c->comms.vocab,
                             .bytes = args[1].bytes,
                             .microbatch = (uint16_t)step->microbatch,
                             .chunk = (uint16_t)st->c->table.chunk_of[step->stage]};
    return sf_build_op(st->c->b, &op, args, 2, &st->step_op[j], 1);
}

/* On one stream: with the last set all are there. */
void sfi_emit_stats(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    const struct sfi_table *t = &st->c->table;
    for (uint32_t depth = 0; sfi_is_part(st->c, vs) && depth < sfi_depths(st->c, vs); depth++) {
        st->stats[t->step[SFI_PASS_B][sfi_pass_index(t->pipe, step->stage, step->microbatch, 0)]] =
            gather_stats(st, j, depth);
    }
}
