/* What a node touches, and doing on the host what it stands for. */
#include <string.h>

#include "runtime/extent.h"
#include "runtime/record_graph.h"

static uint32_t call_accesses(const struct sfi_node *node, struct sfi_access_range *out) {
    const struct sf_call *call = node->u.call.call;
    uint64_t bytes[SF_CALL_OPERANDS];
    uint32_t n = 0, writes = sf_call_writes(call->kind);
    if (sfi_call_extents(call, bytes, NULL) != SF_OK) {
        return 0; /* refused when it was recorded */
    }
    for (int o = 0; o < SF_CALL_OPERANDS; o++) {
        if (node->u.call.operand[o]) {
            out[n++] = (struct sfi_access_range){node->u.call.operand[o], bytes[o], writes >> o & 1};
        }
    }
    return n;
}

static uint32_t sum_accesses(const struct sfi_node *node, struct sfi_access_range *out) {
    uint64_t bytes = node->u.sum.count * (uint64_t)sf_dtype_bytes(node->u.sum.dtype);
    uint32_t n = 0;
    for (; n < node->u.sum.n; n++) {
        out[n] = (struct sfi_access_range){node->u.sum.from[n], bytes, false};
    }
    out[n++] = (struct sfi_access_range){node->u.sum.to, bytes, true};
    return n;
}

/* A collective reads and writes both sides; how much of each only the number of members tells, so this is the part that
 * is certain. */
static uint32_t talk_accesses(const struct sfi_node *node, struct sfi_access_range *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < node->u.talk.n && n + 2 <= SFI_NODE_ACCESSES; i++) {
        const struct sfi_gpu_message *m = &node->u.talk.talks[i].m;
        bool whole_in = m->kind != SF_OP_ALL_GATHER, whole_out = m->kind != SF_OP_REDUCE_SCATTER;
        if (m->kind == SF_OP_SEND || m->kind == SF_OP_RECV || m->x == m->y) {
            out[n++] = (struct sfi_access_range){m->x, m->bytes, m->kind != SF_OP_SEND};
            continue;
        }
        out[n++] = (struct sfi_access_range){m->x, whole_in ? m->bytes : 1, false};
        out[n++] = (struct sfi_access_range){m->y, whole_out ? m->bytes : 1, true};
    }
    return n;
}

uint32_t sfi_node_accesses(const struct sfi_node *node, struct sfi_access_range out[SFI_NODE_ACCESSES]) {
    switch (node->kind) {
    case SFI_NODE_CALL:
        return call_accesses(node, out);
    case SFI_NODE_COPY:
        out[0] = (struct sfi_access_range){node->u.copy.from, node->u.copy.bytes, false};
        out[1] = (struct sfi_access_range){node->u.copy.to, node->u.copy.bytes, true};
        return 2;
    case SFI_NODE_MOVE: /* pages are nobody else's while the step runs */
        out[0] =
            (struct sfi_access_range){node->u.move.memory, node->u.move.bytes, node->u.move.where == SFI_GPU_FROM_PAGE};
        return 1;
    case SFI_NODE_SUM:
        return sum_accesses(node, out);
    case SFI_NODE_STAMP:
        out[0] = (struct sfi_access_range){(const char *)node->u.stamp, sizeof *node->u.stamp, true};
        return 1;
    case SFI_NODE_MARK:
        out[0] = (struct sfi_access_range){(const char *)node->u.mark.word, sizeof *node->u.mark.word, true};
        return 1;
    case SFI_NODE_ADVANCE:
        out[0] = (struct sfi_access_range){(const char *)node->u.advance.counter, sizeof(uint32_t), true};
        out[1] = (struct sfi_access_range){(const char *)node->u.advance.done, sizeof(uint32_t), true};
        return 2;
    default:
        return talk_accesses(node, out);
    }
}

/* ---- doing it --------------------------------------------------------------------------------------------------- */

static int execute_call(struct sfi_record *rec, const struct sfi_node *node, struct sf_err *err) {
    const struct sf_call *call = node->u.call.call;
    sf_kern kern = sf_kern_find(rec->options.reference_kernels ? SF_KERN_REFERENCE : SF_KERN_FAST, call);
    return kern(call, node->u.call.operand, err);
}

static void execute_move(const struct sfi_node *node) {
    char *page = node->u.move.pages.device + (*node->u.move.pages.counter & 1) * node->u.move.pages.stride;
    if (node->u.move.where == SFI_GPU_FROM_PAGE) {
        memcpy(node->u.move.memory, page + node->u.move.offset, node->u.move.bytes);
    } else {
        memcpy(page + node->u.move.offset, node->u.move.memory, node->u.move.bytes);
    }
}

int sfi_node_execute(struct sfi_record *rec, struct sfi_node *node, struct sf_err *err) {
    bool execute = rec->options.execute;
    switch (node->kind) {
    case SFI_NODE_CALL:
        return execute ? execute_call(rec, node, err) : SF_OK;
    case SFI_NODE_COPY:
        if (execute) {
            memmove(node->u.copy.to, node->u.copy.from, node->u.copy.bytes);
        }
        return SF_OK;
    case SFI_NODE_MOVE:
        if (execute || node->u.move.where == SFI_GPU_TO_PAGE) {
            execute_move(node);
        }
        return SF_OK;
    case SFI_NODE_SUM:
        if (execute) {
            sf_kern_tree_sum((float *)(void *)node->u.sum.to, (const float *const *)node->u.sum.from, node->u.sum.n,
                             node->u.sum.count);
        }
        return SF_OK;
    case SFI_NODE_STAMP:
        *node->u.stamp = rec->ticks;
        return SF_OK;
    case SFI_NODE_MARK:
        *node->u.mark.word = node->u.mark.value;
        return SF_OK;
    case SFI_NODE_ADVANCE:
        ++*node->u.advance.counter;
        *node->u.advance.done = *node->u.advance.counter;
        return SF_OK;
    default:
        return SF_OK; /* moved when all ends are there */
    }
}
