/* What must be in a rank's arena before the first step: weights, shards of weights, f32 masters. All made on the
 * device, from the same numbers as on CPU; logarithm and cosine may differ in the last place. */
#include "core/rng.h"
#include "runtime/cuda/session.h"

static int init_tensor(struct sfi_session *s, struct sfi_gpu_rank *r, const struct sf_tensor *t, struct sf_err *err) {
    const struct sf_rng root = sf_rng_seed(s->run->image->prog->job.seed);
    const struct sfi_place place = sfi_rank_place(r->host, t);
    const struct sfi_gpu_block block = {
        .first_row = place.first_row, .first_col = place.first_col, .rows = t->rows, .cols = t->cols};
    char *at = sfi_gpu_at(r, t->buf, t->offset);
    switch (t->init) {
    case SF_INIT_NORMAL:
        return s->api->normal(s->api->self, at, (int)t->dtype, sf_rng_split_text(&root, t->name).key, &block,
                              t->init_std, err);
    case SF_INIT_ONE:
        return s->api->constant(s->api->self, at, (int)t->dtype, t->rows * t->cols, 1.0f, err);
    default:
        return SF_OK; /* device memory comes zeroed */
    }
}

/* Where weights that the optimizer updates as a share lie in the whole, which is what tensors name. */
static const char *find_whole(const struct sfi_gpu_rank *r, const struct sf_arg *share, uint64_t offset) {
    const struct sf_class *cls = r->host->cls;
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        const struct sf_op *op = &cls->ops[i];
        const struct sf_arg *args = &cls->args[op->arg_first];
        if (op->kind == SF_OP_ALL_GATHER && args[0].buf == share->buf && offset >= args[0].offset &&
            offset - args[0].offset < args[0].bytes && cls->bufs[args[1].buf].kind == SF_BUF_PARAM) {
            return sfi_gpu_arg(r, op, 1) + r->host->xfers[i].index * args[0].bytes + (offset - args[0].offset);
        }
    }
    return sfi_gpu_at(r, share->buf, offset);
}

/* A rank that will gather weights from shares owns its share from the start; below f32 the master is the truth. */
static int init_update(struct sfi_session *s, struct sfi_gpu_rank *r, const struct sf_op *op,
                       const struct sf_call *call, struct sf_err *err) {
    const struct sf_arg *args = &r->host->cls->args[op->arg_first];
    const struct sf_arg *param = &args[SF_REF_FORMAL(call->operand[0])];
    const char *own = sfi_gpu_at(r, param->buf, param->offset + SF_REF_OFFSET(call->operand[0]));
    const char *whole = find_whole(r, param, param->offset + SF_REF_OFFSET(call->operand[0]));
    if (call->operand[5] != SF_REF_NONE) {
        const struct sf_arg *master = &args[SF_REF_FORMAL(call->operand[5])];
        char *to = sfi_gpu_at(r, master->buf, master->offset + SF_REF_OFFSET(call->operand[5]));
        return s->api->widen(s->api->self, (float *)(void *)to, whole, call->dtype, (uint64_t)call->dims[0], err);
    }
    if (own != whole) {
        return s->api->widen(s->api->self, (float *)(uintptr_t)own, whole, SF_F32, (uint64_t)call->dims[0], err);
    }
    return SF_OK;
}

int sfi_gpu_init_weights(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err) {
    const struct sf_class *cls = r->host->cls;
    for (uint32_t i = 0; i < cls->tensors_n; i++) {
        SF_TRY(init_tensor(s, r, &cls->tensors[i], err));
    }
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        if (sf_op_group(cls->ops[i].kind) != SF_OP_IS_COMPUTE) {
            continue;
        }
        const struct sf_recipe *recipe = &s->run->image->prog->recipes[cls->ops[i].recipe];
        for (uint32_t k = 0; k < recipe->calls_n; k++) {
            if (recipe->calls[k].kind == SF_CALL_ADAMW) {
                SF_TRY(init_update(s, r, &cls->ops[i], &recipe->calls[k], err));
            }
        }
    }
    return SF_OK;
}
