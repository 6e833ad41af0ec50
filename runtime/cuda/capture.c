/* The whole step of a session as one graph. */
#include <stddef.h>

#include "runtime/cuda/session.h"

int sfi_gpu_fail_op(const struct sfi_gpu_rank *r, uint32_t op, struct sf_err *err) {
    char label[96];
    return sf_err_wrap(err, "rank %u op %u (%s)", r->host->rank, op,
                       sf_op_label(r->host->run->image->prog, r->host->class_i, op, label, sizeof label));
}

static const struct sf_iclass *order_of(const struct sfi_session *s, const struct sfi_gpu_rank *r) {
    return s->run->image->classes[r->host->class_i].order;
}

static int wait_for_needs(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op, struct sf_err *err) {
    const struct sf_iclass *c = order_of(s, r);
    void *stream = r->streams[c->cls->ops[op].stream];
    for (uint32_t n = c->need_first[op]; n < c->need_first[op + 1]; n++) {
        uint32_t dep = c->stream_ops[c->needs[n].stream][c->needs[n].count - 1];
        SF_TRY(s->api->stream_wait(s->api->self, stream, r->events[dep], err));
    }
    return SF_OK;
}

int sfi_gpu_op_begin(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, struct sf_err *err) {
    const struct sfi_gpu_api *api = s->api;
    const struct sf_op *op = &r->host->cls->ops[op_i];
    void *stream = r->streams[op->stream];
    char label[96];
    SF_TRY(wait_for_needs(s, r, op_i, err));
    sf_op_label(s->run->image->prog, r->host->class_i, op_i, label, sizeof label);
    api->op_begin(api->self, r->host->rank, op_i, stream, label);
    if (r->stamps) {
        SF_TRY(api->stamp(api->self, &r->stamps[2 * (size_t)op_i], stream, err));
    }
    enum sf_op_group group = sf_op_group(op->kind);
    if (r->progress && (group == SF_OP_IS_P2P || group == SF_OP_IS_COLL)) {
        SF_TRY(api->mark(api->self, &r->progress[op->stream], op_i + 1, stream, err));
    }
    return SF_OK;
}

int sfi_gpu_op_end(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, struct sf_err *err) {
    const struct sfi_gpu_api *api = s->api;
    void *stream = r->streams[r->host->cls->ops[op_i].stream];
    if (r->stamps) {
        SF_TRY(api->stamp(api->self, &r->stamps[2 * (size_t)op_i + 1], stream, err));
    }
    api->op_end(api->self, r->host->rank, op_i, stream);
    return r->events[op_i] ? api->event_record(api->self, r->events[op_i], stream, err) : SF_OK;
}

int sfi_gpu_load(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, struct sf_err *err) {
    const struct sf_op *op = &r->host->cls->ops[op_i];
    return s->api->move(s->api->self, SFI_GPU_FROM_PAGE, sfi_gpu_arg(r, op, 0), &s->in, r->load_at[op_i],
                        r->host->cls->args[op->arg_first].bytes, r->streams[op->stream], err);
}

/* Gradients as the optimizer gets them, before it does. */
static int keep_gradient(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, uint32_t call_i,
                         const struct sf_call *call, void *const operand[], struct sf_err *err) {
    if (!s->copies_gradients || call->kind != SF_CALL_ADAMW) {
        return SF_OK;
    }
    uint64_t bytes = (uint64_t)call->dims[0] * (uint64_t)sf_dtype_bytes(call->dtype);
    void *stream = r->streams[r->host->cls->ops[op_i].stream];
    return s->api->copy(s->api->self, r->grads[sfi_capture_index(r->host, op_i, call_i)], operand[1], bytes, stream,
                        err);
}

int sfi_gpu_calls(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, uint32_t *next, struct sf_err *err) {
    const struct sf_op *op = &r->host->cls->ops[op_i];
    const struct sf_recipe *recipe = &s->run->image->prog->recipes[op->recipe];
    for (; *next < recipe->calls_n; ++*next) {
        const struct sf_call *call = &recipe->calls[*next];
        void *operand[SF_CALL_OPERANDS];
        SF_TRY(s->stamps_calls ? sfi_gpu_probe_call(s, r, op_i, *next, err) : SF_OK);
        if (sf_call_is_collective(call->kind)) {
            return SF_OK;
        }
        for (int o = 0; o < SF_CALL_OPERANDS; o++) {
            sf_ref ref = call->operand[o];
            operand[o] = ref == SF_REF_NONE ? NULL : sfi_gpu_arg(r, op, SF_REF_FORMAL(ref)) + SF_REF_OFFSET(ref);
        }
        int rc = keep_gradient(s, r, op_i, *next, call, operand, err);
        rc = rc == SF_OK
                 ? s->api->call(s->api->self, r->contexts[op->stream], call, operand, r->streams[op->stream], err)
                 : rc;
        if (rc != SF_OK) {
            return sf_err_wrap(err, "%s", sf_call_name(call->kind));
        }
    }
    return SF_OK;
}

struct sfi_gpu_message sfi_gpu_message_of_op(const struct sfi_gpu_rank *r, const struct sf_op *op) {
    const struct sf_prog *prog = r->host->run->image->prog;
    struct sfi_gpu_message m = {.kind = op->kind,
                                .dtype = op->flags & SF_OP_SUM_F32 ? SF_F32 : SF_BF16,
                                .bytes = op->bytes,
                                .x = sfi_gpu_arg(r, op, 0)};
    m.y = op->arg_n > 1 ? sfi_gpu_arg(r, op, 1) : m.x;
    if (sf_op_group(op->kind) == SF_OP_IS_P2P) {
        uint32_t peer = sf_prog_peer(prog, r->host->rank, op->comm, op->peer_delta);
        m.peer = sf_prog_comm_index(prog, peer, op->comm);
    }
    return m;
}

struct sfi_gpu_message sfi_gpu_message_of_call(const struct sfi_gpu_rank *r, const struct sf_op *op,
                                               const struct sf_call *call) {
    static const int kinds[] = {[SF_CALL_ALL_REDUCE - SF_CALL_ALL_REDUCE] = SF_OP_ALL_REDUCE,
                                [SF_CALL_ALL_GATHER - SF_CALL_ALL_REDUCE] = SF_OP_ALL_GATHER,
                                [SF_CALL_REDUCE_SCATTER - SF_CALL_ALL_REDUCE] = SF_OP_REDUCE_SCATTER};
    char *at[2];
    for (int o = 0; o < 2; o++) {
        at[o] = sfi_gpu_arg(r, op, SF_REF_FORMAL(call->operand[o])) + SF_REF_OFFSET(call->operand[o]);
    }
    return (struct sfi_gpu_message){.kind = kinds[call->kind - SF_CALL_ALL_REDUCE],
                                    .dtype = call->dtype,
                                    .bytes = (uint64_t)call->dims[0],
                                    .x = at[0],
                                    .y = at[1]};
}

/* ---- around all ops --------------------------------------------------------------------------------------------- */

static int capture_prologue(struct sfi_session *s, struct sf_err *err) {
    const struct sfi_gpu_api *api = s->api;
    SF_TRY(api->stamp(api->self, &s->clock[0], s->stream, err));
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        struct sfi_gpu_rank *r = &s->ranks[i];
        for (uint32_t b = 0; b < r->host->cls->bufs_n; b++) {
            if (r->host->cls->bufs[b].kind == SF_BUF_HYPER) {
                SF_TRY(api->move(api->self, SFI_GPU_FROM_PAGE, sfi_gpu_at(r, b, 0), &s->in, 0, 8 * sizeof(float),
                                 s->stream, err));
            }
        }
    }
    return api->event_record(api->self, s->fork, s->stream, err);
}

static int fork_streams(struct sfi_session *s, struct sf_err *err) {
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        for (uint32_t k = 0; k < s->run->image->prog->streams_n; k++) {
            SF_TRY(s->api->stream_wait(s->api->self, s->ranks[i].streams[k], s->fork, err));
        }
    }
    return SF_OK;
}

static int join_streams(struct sfi_session *s, struct sf_err *err) {
    const struct sfi_gpu_api *api = s->api;
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        for (uint32_t k = 0; k < s->run->image->prog->streams_n; k++) {
            SF_TRY(api->event_record(api->self, s->joins[k], s->ranks[i].streams[k], err));
            SF_TRY(api->stream_wait(api->self, s->stream, s->joins[k], err));
        }
    }
    return SF_OK;
}

static int report_losses(struct sfi_session *s, struct sf_err *err) {
    const struct sfi_gpu_api *api = s->api;
    const struct sfi_image *im = s->run->image;
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        struct sfi_gpu_rank *r = &s->ranks[i];
        char *mine = s->reports + r->host->rank * s->report_bytes;
        uint32_t loss = im->classes[r->host->class_i].loss_buf;
        SF_TRY(api->move(api->self, SFI_GPU_FROM_PAGE, mine, &s->in, s->head_at,
                         offsetof(struct sfi_gpu_report, begin_ns), s->stream, err));
        SF_TRY(api->copy(api->self, mine + offsetof(struct sfi_gpu_report, begin_ns), &s->clock[0], sizeof *s->clock,
                         s->stream, err));
        uint32_t norm = im->classes[r->host->class_i].norm_buf;
        if (norm != SF_NONE) {
            SF_TRY(api->copy(api->self, mine + offsetof(struct sfi_gpu_report, norm), sfi_gpu_at(r, norm, 0),
                             sizeof(float), s->stream, err));
        }
        if (loss != SF_NONE) {
            SF_TRY(api->copy(api->self, mine + offsetof(struct sfi_gpu_report, loss), sfi_gpu_at(r, loss, 0),
                             im->prog->job.microbatches * sizeof(float), s->stream, err));
        }
    }
    return SF_OK;
}

static int exchange_reports(struct sfi_session *s, struct sf_err *err) {
    if (s->is_virtual) {
        return SF_OK;
    }
    const struct sfi_gpu_message m = {.kind = SF_OP_ALL_GATHER,
                                      .dtype = SF_F32,
                                      .bytes = s->report_bytes * s->run->image->ranks,
                                      .x = s->reports + s->ranks[0].host->rank * s->report_bytes,
                                      .y = s->reports};
    return s->api->message(s->api->self, *s->world, &m, s->stream, err);
}

static int capture_epilogue(struct sfi_session *s, struct sf_err *err) {
    const struct sfi_gpu_api *api = s->api;
    SF_TRY(report_losses(s, err));
    SF_TRY(exchange_reports(s, err));
    SF_TRY(api->move(api->self, SFI_GPU_TO_PAGE, s->reports, &s->out, s->reports_at,
                     s->report_bytes * s->run->image->ranks, s->stream, err));
    for (uint32_t i = 0; i < s->ranks_n && s->traced; i++) {
        struct sfi_gpu_rank *r = &s->ranks[i];
        SF_TRY(api->move(api->self, SFI_GPU_TO_PAGE, r->stamps, &s->out, r->stamps_at,
                         2 * (uint64_t)r->host->cls->ops_n * sizeof *r->stamps, s->stream, err));
        SF_TRY(s->stamps_calls ? api->move(api->self, SFI_GPU_TO_PAGE, r->call_stamps, &s->out, r->call_stamps_at,
                                           sfi_gpu_probe_bytes(r), s->stream, err)
                               : SF_OK);
    }
    SF_TRY(api->stamp(api->self, &s->clock[1], s->stream, err));
    SF_TRY(api->move(api->self, SFI_GPU_TO_PAGE, s->clock, &s->out, s->begin_at, 2 * sizeof *s->clock, s->stream, err));
    return api->advance(api->self, s->counter, s->done, s->stream, err);
}

static int capture_body(struct sfi_session *s, struct sf_err *err) {
    SF_TRY(capture_prologue(s, err));
    SF_TRY(fork_streams(s, err));
    SF_TRY(s->is_virtual ? sfi_gpu_walk_virtual(s, err) : sfi_gpu_walk_rank(s, err));
    SF_TRY(join_streams(s, err));
    return capture_epilogue(s, err);
}

/* A capture that was begun is always ended: until then the device takes no other work. */
static int capture_graph(struct sfi_session *s, void **graph, struct sf_err *err) {
    struct sf_err ignored;
    SF_TRY(s->api->capture_begin(s->api->self, s->stream, err));
    int rc = capture_body(s, err);
    int ended = s->api->capture_end(s->api->self, s->stream, graph, &s->nodes_n, rc == SF_OK ? err : &ignored);
    return rc != SF_OK ? rc : ended;
}

int sfi_session_capture(struct sfi_session *s, struct sf_err *err) {
    bool dumps = s->run->options->dump_path != NULL, measures = s->run->probe != NULL;
    s->copies_gradients = s->stamps_calls = false;
    SF_TRY(capture_graph(s, &s->graphs[0], err));
    s->copies_gradients = dumps;
    s->stamps_calls = measures;
    return dumps || measures ? capture_graph(s, &s->graphs[1], err) : SF_OK;
}
