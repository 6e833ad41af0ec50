/* Kernel calls with the shapes of one rank filled in. */
#include "planner/compile_internal.h"

sf_ref sfi_take(struct sfi_bump *b, uint64_t bytes) {
    sf_ref ref = SF_REF(b->formal, b->at);
    b->at += sfi_round_up(bytes, SFI_ALIGN);
    if (b->at > SFI_TOO_MANY_BYTES) { /* refused later; an offset must not run into the formal's number */
        b->at = SFI_TOO_MANY_BYTES;
    }
    b->peak = b->at > b->peak ? b->at : b->peak;
    return ref;
}

static struct sf_call blank(const struct sfi_recipe *r, int kind, int dtype) {
    struct sf_call call = {
        .kind = (uint8_t)kind, .dtype = (uint8_t)dtype, .flags = (uint16_t)r->flags, .comm = SF_NONE, .imm = {0, 1}};
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        call.operand[i] = SF_REF_NONE;
    }
    return call;
}

static void set_operands(struct sf_call *call, const sf_ref *operand, size_t n) {
    for (size_t i = 0; i < n; i++) {
        call->operand[i] = operand[i];
    }
}

static void set_dims(struct sf_call *call, const uint64_t *dims, size_t n) {
    for (size_t i = 0; i < n; i++) {
        call->dims[i] = (int64_t)dims[i];
    }
}

static void emit(struct sfi_recipe *r, const struct sf_call *call) {
    sf_build_call(r->c->b, call);
}

void sfi_call_gemm(struct sfi_recipe *r, int dtype, unsigned flags, const uint64_t mnk[3], sf_ref a, sf_ref b,
                   sf_ref c) {
    struct sf_call call = blank(r, SF_CALL_GEMM, dtype);
    call.flags |= (uint16_t)flags;
    set_dims(&call, mnk, 3);
    call.dims[3] = 1;
    set_operands(&call, (const sf_ref[]){a, b, c}, 3);
    emit(r, &call);
}

void sfi_call_expert_gemm(struct sfi_recipe *r, unsigned flags, const uint64_t mnk[3], sf_ref a, sf_ref b, sf_ref c) {
    struct sf_call call = blank(r, SF_CALL_GEMM, r->shape->gemm_dtype);
    call.flags |= (uint16_t)flags;
    set_dims(&call, mnk, 3);
    call.dims[3] = (int64_t)r->shape->experts_local;
    call.imm[1] = r->shape->expert_fill;
    set_operands(&call, (const sf_ref[]){a, b, c}, 3);
    emit(r, &call);
}

/* The mean of a layer norm lies behind its rstd, the bias behind the weight. */
static sf_ref mean_of(const struct sfi_recipe *r, sf_ref rstd) {
    return rstd + sfi_round_up(r->shape->rows * 4, SFI_ALIGN);
}

static sf_ref bias_of(const struct sfi_recipe *r, sf_ref w) {
    return w + sfi_vector_bytes(r->shape, r->shape->hidden);
}

static struct sf_call norm_call(const struct sfi_recipe *r, int kind) {
    struct sf_call call = blank(r, kind, r->shape->dtype);
    call.imm[0] = (float)r->c->s->model.norm_eps;
    set_dims(&call, (const uint64_t[]){r->shape->rows, r->shape->hidden}, 2);
    return call;
}

void sfi_call_norm_fwd(struct sfi_recipe *r, sf_ref x, const struct sfi_norm *norm) {
    bool layer = r->shape->layernorm;
    struct sf_call call = norm_call(r, layer ? SF_CALL_LAYERNORM_FWD : SF_CALL_RMSNORM_FWD);
    if (layer) {
        const sf_ref all[] = {x, norm->w, bias_of(r, norm->w), norm->y, mean_of(r, norm->rstd), norm->rstd};
        set_operands(&call, all, 6);
    } else {
        set_operands(&call, (const sf_ref[]){x, norm->w, norm->y, norm->rstd}, 4);
    }
    emit(r, &call);
}

void sfi_call_norm_add(struct sfi_recipe *r, sf_ref x, sf_ref residual, sf_ref sum, const struct sfi_norm *norm) {
    bool layer = r->shape->layernorm;
    struct sf_call call = norm_call(r, layer ? SF_CALL_LAYERNORM_ADD_FWD : SF_CALL_RMSNORM_ADD_FWD);
    if (layer) {
        const sf_ref all[] = {x,         residual, norm->w, bias_of(r, norm->w), sum, norm->y, mean_of(r, norm->rstd),
                              norm->rstd};
        set_operands(&call, all, 8);
    } else {
        set_operands(&call, (const sf_ref[]){x, residual, norm->w, sum, norm->y, norm->rstd}, 6);
    }
    emit(r, &call);
}

void sfi_call_norm_bwd(struct sfi_recipe *r, bool add_dx, bool add_dw, const sf_ref operand[6]) {
    bool layer = r->shape->layernorm;
    struct sf_call call = blank(r, layer ? SF_CALL_LAYERNORM_BWD : SF_CALL_RMSNORM_BWD, r->shape->dtype);
    call.flags |= (uint16_t)((add_dx ? SF_CALL_ACC_FLAG : 0u) | (add_dw ? SF_CALL_ACC2_FLAG : 0u));
    set_dims(&call, (const uint64_t[]){r->shape->rows, r->shape->hidden}, 2);
    if (layer) {
        const sf_ref all[] = {operand[0], operand[1], operand[2], mean_of(r, operand[3]),
                              operand[3], operand[4], operand[5], bias_of(r, operand[5])};
        set_operands(&call, all, 8);
    } else {
        set_operands(&call, operand, 6);
    }
    emit(r, &call);
}

void sfi_call_bias_fwd(struct sfi_recipe *r, uint64_t rows, uint64_t cols, const sf_ref operand[4]) {
    struct sf_call call = blank(r, SF_CALL_BIAS_FWD, r->shape->dtype);
    set_dims(&call, (const uint64_t[]){rows, cols}, 2);
    set_operands(&call, operand, 4);
    emit(r, &call);
}

void sfi_call_bias_bwd(struct sfi_recipe *r, uint64_t rows, uint64_t cols, sf_ref dy, sf_ref db) {
    struct sf_call call = blank(r, SF_CALL_BIAS_BWD, r->shape->dtype);
    call.flags |= (uint16_t)(r->add ? SF_CALL_ACC_FLAG : 0u);
    set_dims(&call, (const uint64_t[]){rows, cols}, 2);
    set_operands(&call, (const sf_ref[]){dy, db}, 2);
    emit(r, &call);
}

void sfi_call_norm_of(struct sfi_recipe *r, int kind, unsigned flags, uint64_t cols, const sf_ref *operand,
                      size_t operands_n) {
    struct sf_call call = norm_call(r, kind);
    call.flags |= (uint16_t)flags;
    call.dims[1] = (int64_t)cols;
    set_operands(&call, operand, operands_n);
    emit(r, &call);
}

void sfi_call_rope_of(struct sfi_recipe *r, int kind, uint64_t rows, const uint64_t dims[3], sf_ref x) {
    struct sf_call call = blank(r, kind, r->shape->dtype);
    call.imm[0] = (float)r->c->s->model.rope_theta;
    set_dims(&call, (const uint64_t[]){rows, dims[0], dims[1], r->shape->seq, dims[2]}, 5);
    set_operands(&call, &x, 1);
    emit(r, &call);
}

void sfi_call_latent_attention(struct sfi_recipe *r, int kind, const sf_ref *operand, size_t operands_n) {
    const struct sfi_shape *s = r->shape;
    struct sf_call call = blank(r, kind, s->dtype);
    uint64_t values_row = s->cp > 1 ? s->attn_local : s->kv_up; /* collected ones are packed */
    call.flags |= SF_CALL_APART_FLAG;
    set_dims(&call, (const uint64_t[]){s->batch, s->seq, s->heads_local, s->v_dim, s->head_dim, values_row}, 6);
    call.imm[1] = 1.0f / (float)s->cp;
    set_operands(&call, operand, operands_n);
    emit(r, &call);
}

void sfi_call_rope(struct sfi_recipe *r, int kind, sf_ref qkv) {
    const struct sfi_shape *s = r->shape;
    struct sf_call call = blank(r, kind, s->dtype);
    if (s->positions > 0) {
        return;
    }
    call.imm[0] = (float)r->c->s->model.rope_theta;
    set_dims(&call,
             (const uint64_t[]){s->tokens, s->heads_local + s->kv_heads_local, s->head_dim, s->seq / s->slices,
                                s->qkv_local, sfi_rows_before(r)},
             6);
    set_operands(&call, &qkv, 1);
    emit(r, &call);
}

void sfi_call_attention(struct sfi_recipe *r, int kind, const sf_ref *operand, size_t operands_n) {
    const struct sfi_shape *s = r->shape;
    struct sf_call call = blank(r, kind, s->dtype);
    set_dims(&call, (const uint64_t[]){s->batch, s->seq, s->heads_local, s->kv_heads_local, s->head_dim, s->qkv_local},
             6);
    call.imm[1] = 1.0f / (float)s->cp;
    set_operands(&call, operand, operands_n);
    emit(r, &call);
}

void sfi_call_slice(struct sfi_recipe *r, int kind, bool add, const sf_ref *operand, size_t operands_n) {
    const struct sfi_shape *s = r->shape;
    struct sf_call call = blank(r, kind, s->dtype);
    call.flags |= (uint16_t)(add ? SF_CALL_ACC_FLAG : 0u);
    set_dims(
        &call,
        (const uint64_t[]){sfi_rows_before(r) + s->tokens, s->tokens, s->heads_local, s->kv_heads_local, s->head_dim},
        5);
    set_operands(&call, operand, operands_n);
    emit(r, &call);
}

void sfi_call_glu(struct sfi_recipe *r, int kind, uint64_t rows, const sf_ref *operand, size_t operands_n) {
    struct sf_call call = blank(r, kind, r->shape->dtype);
    call.flags |= (uint16_t)(r->c->s->model.gelu ? SF_CALL_GELU_FLAG : 0u);
    call.flags |= (uint16_t)(r->c->s->model.plain ? SF_CALL_PLAIN_FLAG : 0u);
    set_dims(&call, (const uint64_t[]){rows, r->shape->ffn_local}, 2);
    set_operands(&call, operand, operands_n);
    emit(r, &call);
}

void sfi_call_simple(struct sfi_recipe *r, int kind, const uint64_t dims[3], const sf_ref *operand, size_t operands_n) {
    struct sf_call call = blank(r, kind, r->shape->dtype);
    set_dims(&call, dims, 3);
    set_operands(&call, operand, operands_n);
    emit(r, &call);
}

void sfi_call_add(struct sfi_recipe *r, sf_ref a, sf_ref b, sf_ref y) {
    const uint64_t n[3] = {sfi_mul(r->shape->rows, r->shape->hidden)};
    sfi_call_simple(r, SF_CALL_ADD, n, (const sf_ref[]){a, b, y}, 3);
}

void sfi_call_copy(struct sfi_recipe *r, sf_ref x, sf_ref y) {
    const uint64_t n[3] = {sfi_mul(r->shape->rows, r->shape->hidden)};
    sfi_call_simple(r, SF_CALL_COPY, n, (const sf_ref[]){x, y}, 2);
}

static float loss_scale(const struct sfi_recipe *r) {
    const struct sf_job *job = &r->c->s->job;
    double weight = r->depth > 0 ? r->c->s->model.mtp_weight / r->c->s->model.mtp : 1.0;
    return (float)(weight / ((double)job->global_batch_sequences * job->seq_len_tokens));
}

static void whole_xent(struct sfi_recipe *r, uint64_t rows, bool add, const sf_ref operand[3]) {
    const struct sfi_shape *s = r->shape;
    struct sf_call call = blank(r, s->vocab_padding > 0 ? SF_CALL_XENT_PADDED : SF_CALL_XENT, s->dtype);
    call.imm[0] = loss_scale(r);
    call.flags |= (uint16_t)(add ? SF_CALL_ACC2_FLAG : 0u);
    set_dims(&call, (const uint64_t[]){rows, s->vocab_local, s->vocab_padding}, 3);
    set_operands(&call, operand, 3);
    emit(r, &call);
}

/* With the vocabulary split over tp, a row's softmax needs the sums of all parts, and its loss the target's logit. */
static void split_xent(struct sfi_recipe *r, uint64_t rows, bool add, const sf_ref operand[3]) {
    const struct sfi_shape *s = r->shape;
    uint64_t mark = r->work.at, bytes = sfi_mul(rows, 2 * sizeof(float)), all = sfi_mul(bytes, s->tp);
    sf_ref own = sfi_take(&r->work, bytes), stats = sfi_take(&r->work, all);
    struct sf_call part = blank(r, SF_CALL_XENT_STATS, s->dtype), gather = blank(r, SF_CALL_ALL_GATHER, SF_F32);
    struct sf_call finish = blank(r, SF_CALL_XENT_PART, s->dtype);
    set_dims(&part, (const uint64_t[]){rows, s->vocab_local}, 2);
    set_operands(&part, (const sf_ref[]){operand[0], operand[1], own}, 3);
    emit(r, &part);
    gather.comm = r->c->comms.tp;
    set_dims(&gather, &all, 1);
    set_operands(&gather, (const sf_ref[]){own, stats}, 2);
    emit(r, &gather);
    finish.imm[0] = loss_scale(r);
    finish.flags |= (uint16_t)(add ? SF_CALL_ACC2_FLAG : 0u);
    set_dims(&finish, (const uint64_t[]){rows, s->vocab_local, s->tp}, 3);
    set_operands(&finish, (const sf_ref[]){operand[0], operand[1], stats, operand[2]}, 4);
    emit(r, &finish);
    r->work.at = mark;
}

void sfi_call_part_stats(struct sfi_recipe *r, const sf_ref operand[3]) {
    struct sf_call call = blank(r, SF_CALL_XENT_STATS, r->shape->dtype);
    set_dims(&call, (const uint64_t[]){r->shape->tokens, r->shape->vocab_part}, 2);
    set_operands(&call, operand, 3);
    emit(r, &call);
}

void sfi_call_part_loss(struct sfi_recipe *r, bool add, const sf_ref operand[4]) {
    struct sf_call call = blank(r, SF_CALL_XENT_PART, r->shape->dtype);
    call.imm[0] = loss_scale(r);
    call.flags |= (uint16_t)(add ? SF_CALL_ACC2_FLAG : 0u);
    set_dims(&call, (const uint64_t[]){r->shape->tokens, r->shape->vocab_part, r->shape->vocab_parts}, 3);
    set_operands(&call, operand, 4);
    emit(r, &call);
}

void sfi_call_xent(struct sfi_recipe *r, uint64_t rows, bool add, const sf_ref operand[3]) {
    (r->shape->tp > 1 ? split_xent : whole_xent)(r, rows, add, operand);
}

void sfi_call_embed(struct sfi_recipe *r, int kind, const sf_ref operand[3]) {
    const struct sfi_shape *s = r->shape;
    struct sf_call call = blank(r, kind, s->dtype);
    call.flags |= (uint16_t)(s->tp > 1 ? SF_CALL_PART_FLAG : 0u);
    set_dims(&call, (const uint64_t[]){s->tokens, s->hidden, s->vocab_local}, 3);
    set_operands(&call, operand, 3);
    emit(r, &call);
}

void sfi_call_comm(struct sfi_recipe *r, int kind, uint32_t comm, uint64_t bytes, sf_ref x, sf_ref y) {
    struct sf_call call = blank(r, kind, r->shape->dtype);
    call.comm = comm;
    set_dims(&call, &bytes, 1);
    set_operands(&call, (const sf_ref[]){x, y}, 2);
    emit(r, &call);
}

static uint64_t whole_bytes(const struct sfi_recipe *r, uint64_t width) {
    return sfi_mul(sfi_mul(r->shape->tokens, width), r->shape->elem);
}

sf_ref sfi_gather(struct sfi_recipe *r, uint64_t width, sf_ref x) {
    if (r->shape->tp == 1 || r->shape->whole_rows) {
        return x;
    }
    uint64_t bytes = whole_bytes(r, width);
    sf_ref whole = sfi_take(&r->work, bytes);
    sfi_call_comm(r, SF_CALL_ALL_GATHER, r->c->comms.tp, bytes, x, whole);
    return whole;
}

sf_ref sfi_partial(struct sfi_recipe *r, uint64_t width, sf_ref out) {
    return r->shape->tp == 1 || r->shape->whole_rows ? out : sfi_take(&r->work, whole_bytes(r, width));
}

void sfi_reduce(struct sfi_recipe *r, uint64_t width, sf_ref partial, sf_ref out) {
    if (r->shape->tp > 1 && r->shape->whole_rows) {
        sfi_call_comm(r, SF_CALL_ALL_REDUCE, r->c->comms.tp, whole_bytes(r, width), out, out);
    } else if (r->shape->tp > 1) {
        sfi_call_comm(r, SF_CALL_REDUCE_SCATTER, r->c->comms.tp, whole_bytes(r, width), partial, out);
    }
}
