/* A head that is split by vocabulary over the pipeline: every rank has a part of it as one chunk more. The normalised
 * output of the last layer passes through the parts, each of which makes its logits and their statistics; with those of
 * all parts, which one collective gathers, each makes its gradients, and the gradient of the output is added up on the
 * way back. */
#include "planner/compile_internal.h"

static void product(struct sfi_recipe *r, unsigned flags, const uint64_t mnk[3], sf_ref a, sf_ref b, sf_ref c) {
    sfi_call_gemm(r, r->shape->dtype, flags, mnk, a, b, c);
}

void sfi_part_forward(struct sfi_recipe *r) {
    const struct sfi_shape *s = r->shape;
    struct sfi_head h;
    sfi_head_of(r, &h);
    product(r, SF_CALL_TB_FLAG, (const uint64_t[]){s->tokens, s->vocab_part, s->hidden}, SF_REF(r->f.x, 0),
            SF_REF(r->f.param, r->vs->params.head), h.logits);
    sfi_call_part_stats(r, (const sf_ref[]){h.logits, SF_REF(r->f.targets, 0), h.own_stats});
}

/* Every part knows the whole loss, and the last one keeps it. */
void sfi_part_backward(struct sfi_recipe *r, sf_ref g) {
    const struct sfi_shape *s = r->shape;
    const sf_ref head = SF_REF(r->f.param, r->vs->params.head), d_head = SF_REF(r->f.grad, r->vs->params.head);
    uint64_t mark = r->work.at;
    struct sfi_head h;
    sfi_head_of(r, &h);
    sf_ref loss = r->vs->is_last ? SF_REF(r->f.loss, 0) : sfi_take(&r->work, sizeof(float));
    sfi_call_part_loss(r, r->c->plan->pp, (const sf_ref[]){h.logits, SF_REF(r->f.targets, 0), h.all_stats, loss});
    if (!r->vs->is_last) {
        sfi_call_copy(r, SF_REF(r->f.y, 0), g);
    }
    product(r, r->vs->is_last ? 0 : SF_CALL_ACC_FLAG, (const uint64_t[]){s->tokens, s->hidden, s->vocab_part}, h.logits,
            head, g);
    product(r, SF_CALL_TA_FLAG | (r->add ? SF_CALL_ACC_FLAG : 0),
            (const uint64_t[]){s->vocab_part, s->hidden, s->tokens}, h.logits, SF_REF(r->f.x, 0), d_head);
    r->work.at = mark;
}

void sfi_emit_stats(struct sfi_stage *st, uint32_t j) {
    const struct sf_pass *step = &st->steps[j];
    const struct sfi_vstage *vs = sfi_chunk_of(st, step)->vs;
    const struct sfi_table *t = &st->c->table;
    struct sfi_recipe r = {.c = st->c, .vs = vs, .shape = &st->c->shape};
    struct sfi_head h;
    if (!sfi_is_part(st->c, vs)) {
        return;
    }
    sfi_head_of(&r, &h);
    uint64_t own = sfi_mul(st->c->shape.tokens, 2 * sizeof(float));
    uint32_t buf = sfi_pool_buffer(&st->head, sfi_unit_of(st, step->stage, step->microbatch, 0));
    const struct sf_arg args[] = {
        {.buf = buf, .access = SF_READ, .offset = SF_REF_OFFSET(h.own_stats), .bytes = own},
        {.buf = buf, .access = SF_WRITE, .offset = SF_REF_OFFSET(h.all_stats), .bytes = own * st->c->plan->pp}};
    const struct sf_op op = {.kind = SF_OP_ALL_GATHER,
                             .stream = SFI_GRAD,
                             .recipe = SF_NONE,
                             .comm = st->c->comms.vocab,
                             .bytes = args[1].bytes,
                             .microbatch = (uint16_t)step->microbatch,
                             .chunk = (uint16_t)t->chunk_of[step->stage]};
    st->stats[t->step[SFI_PASS_B][sfi_pass_index(t->pipe, step->stage, step->microbatch, 0)]] =
        sf_build_op(st->c->b, &op, args, 2, &st->step_op[j], 1);
}
