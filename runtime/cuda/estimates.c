/* What NCCL itself thinks that collectives take: a third column beside forecast and measurement. It needs live
 * communicators and says nothing about messages between pairs. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/io.h"
#include "runtime/cuda/session.h"

static int estimate(struct sfi_session *s, const struct sf_op *op, double *seconds, struct sf_err *err) {
    const struct sfi_gpu_rank *r = &s->ranks[0];
    const struct sfi_gpu_message m = sfi_gpu_message_of_op(r, op);
    SF_TRY(s->api->group_begin(s->api->self, err));
    SF_TRY(s->api->message(s->api->self, s->comms[op->comm].comm[0], &m, r->streams[op->stream], err));
    return s->api->group_estimate(s->api->self, seconds, err);
}

static int list_ops(struct sfi_session *s, json_t *list, struct sf_err *err) {
    const struct sfi_gpu_rank *r = &s->ranks[0];
    const struct sf_class *cls = r->host->cls;
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        const struct sf_op *op = &cls->ops[i];
        double seconds;
        if (sf_op_group(op->kind) != SF_OP_IS_COLL) {
            continue;
        }
        if (estimate(s, op, &seconds, err) != SF_OK) {
            return sfi_gpu_fail_op(r, i, err);
        }
        json_array_append_new(list, json_pack("{s:i, s:i, s:s, s:s, s:I, s:o}", "rank", (int)r->host->rank, "op",
                                              (int)i, "kind", sf_op_name(op->kind), "communicator",
                                              s->run->image->prog->comms[op->comm].name, "bytes", (json_int_t)op->bytes,
                                              "seconds", seconds < 0.0 ? json_null() : json_real(seconds)));
    }
    return SF_OK;
}

int sfi_session_estimates(struct sfi_session *s, const char *path, struct sf_err *err) {
    char hash[SF_HASH_TEXT];
    json_t *list = json_array();
    int rc = list ? list_ops(s, list, err) : sf_fail_memory(err, "estimates");
    json_t *root = json_pack("{s:s, s:s, s:o}", "program", sf_hash_format(sf_prog_hash(s->run->image->prog), hash),
                             "source", s->api->versions, "collectives", list);
    char *text = rc == SF_OK && root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    if (rc == SF_OK && !text) {
        rc = sf_fail_memory(err, "estimates");
    }
    if (rc == SF_OK) {
        rc = sf_io_posix.write_all(sf_io_posix.self, path, text, strlen(text), err);
    }
    free(text);
    json_decref(root);
    return rc;
}
