/* What NCCL itself thinks that collectives take: a third column beside forecast and measurement. It needs live
 * communicators and says nothing about messages between pairs. Collectives inside recipes have a list of their own:
 * no measurement tells their time from that of the kernels around them. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/io.h"
#include "runtime/cuda/session.h"

static int estimate(struct sfi_session *s, const struct sf_op *op, uint32_t comm, const struct sfi_gpu_message *m,
                    json_t **seconds, struct sf_err *err) {
    double found;
    SF_TRY(s->api->group_begin(s->api->self, err));
    SF_TRY(s->api->message(s->api->self, s->comms[comm].comm[0], m, s->ranks[0].streams[op->stream], err));
    SF_TRY(s->api->group_estimate(s->api->self, &found, err));
    *seconds = found < 0.0 ? json_null() : json_real(found);
    return SF_OK;
}

static int list_op(struct sfi_session *s, uint32_t i, json_t *list, struct sf_err *err) {
    const struct sfi_gpu_rank *r = &s->ranks[0];
    const struct sf_op *op = &r->host->cls->ops[i];
    const struct sfi_gpu_message m = sfi_gpu_message_of_op(r, op);
    json_t *seconds;
    SF_TRY(estimate(s, op, op->comm, &m, &seconds, err));
    json_array_append_new(list,
                          json_pack("{s:i, s:i, s:s, s:s, s:I, s:o}", "rank", (int)r->host->rank, "op", (int)i, "kind",
                                    sf_op_name(op->kind), "communicator", s->run->image->prog->comms[op->comm].name,
                                    "bytes", (json_int_t)op->bytes, "seconds", seconds));
    return SF_OK;
}

/* What ops of one recipe have in common, asked at the first of them. */
static int list_recipe(struct sfi_session *s, uint32_t i, json_t *list, struct sf_err *err) {
    const struct sfi_gpu_rank *r = &s->ranks[0];
    const struct sf_prog *prog = s->run->image->prog;
    const struct sf_op *op = &r->host->cls->ops[i];
    const struct sf_recipe *recipe = &prog->recipes[op->recipe];
    for (uint32_t c = 0; c < recipe->calls_n; c++) {
        const struct sf_call *call = &recipe->calls[c];
        json_t *seconds;
        if (!sf_call_is_collective(call->kind)) {
            continue;
        }
        const struct sfi_gpu_message m = sfi_gpu_message_of_call(r, op, call);
        SF_TRY(estimate(s, op, call->comm, &m, &seconds, err));
        json_array_append_new(list, json_pack("{s:i, s:i, s:s, s:i, s:s, s:s, s:I, s:o}", "rank", (int)r->host->rank,
                                              "first_op", (int)i, "recipe", recipe->name, "call", (int)c, "kind",
                                              sf_call_name(call->kind), "communicator", prog->comms[call->comm].name,
                                              "bytes", (json_int_t)call->dims[0], "seconds", seconds));
    }
    return SF_OK;
}

static int list_ops(struct sfi_session *s, json_t *ops, json_t *inside, struct sf_err *err) {
    const struct sf_class *cls = s->ranks[0].host->cls;
    bool *seen = sf_calloc(s->run->image->prog->recipes_n, sizeof *seen);
    int rc = seen ? SF_OK : sf_fail_memory(err, "estimates");
    for (uint32_t i = 0; i < cls->ops_n && rc == SF_OK; i++) {
        const struct sf_op *op = &cls->ops[i];
        if (sf_op_group(op->kind) == SF_OP_IS_COLL) {
            rc = list_op(s, i, ops, err);
        } else if (sf_op_group(op->kind) == SF_OP_IS_COMPUTE && !seen[op->recipe]) {
            seen[op->recipe] = true;
            rc = list_recipe(s, i, inside, err);
        }
        if (rc != SF_OK) {
            sfi_gpu_fail_op(&s->ranks[0], i, err);
        }
    }
    sf_free(seen);
    return rc;
}

int sfi_session_estimates(struct sfi_session *s, const char *path, struct sf_err *err) {
    char hash[SF_HASH_TEXT];
    json_t *ops = json_array(), *inside = json_array();
    int rc = ops && inside ? list_ops(s, ops, inside, err) : sf_fail_memory(err, "estimates");
    json_t *root = json_pack("{s:s, s:s, s:o, s:o}", "program", sf_hash_format(sf_prog_hash(s->run->image->prog), hash),
                             "source", s->api->versions, "collectives", ops, "inside_recipes", inside);
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
