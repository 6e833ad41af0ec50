/* Mesh arithmetic and names of a program; see prog.h. */
#include "core/prog.h"

#include <stdio.h>
#include <string.h>

static const char *const op_names[] = {
#define X(NAME, name, group) name,
    SF_OPS(X)
#undef X
};

static const uint8_t op_groups[] = {
#define X(NAME, name, group) group,
    SF_OPS(X)
#undef X
};

static const char *const buf_names[] = {
#define X(NAME, name) name,
    SF_BUFS(X)
#undef X
};

const char *sf_op_name(int kind) {
    return kind >= 0 && kind < SF_OP_KINDS ? op_names[kind] : "?";
}

int sf_op_parse(const char *name) {
    for (int i = 0; i < SF_OP_KINDS; i++) {
        if (strcmp(name, op_names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

enum sf_op_group sf_op_group(int kind) {
    return (enum sf_op_group)op_groups[kind];
}

int sf_op_call(int kind) {
    switch (kind) {
    case SF_OP_ALL_REDUCE:
        return SF_CALL_ALL_REDUCE;
    case SF_OP_REDUCE_SCATTER:
        return SF_CALL_REDUCE_SCATTER;
    case SF_OP_ALL_GATHER:
        return SF_CALL_ALL_GATHER;
    default:
        return -1;
    }
}

const char *sf_buf_kind_name(int kind) {
    return kind >= 0 && kind < SF_BUF_KINDS ? buf_names[kind] : "?";
}

void sf_prog_free(struct sf_prog *prog) {
    if (prog) {
        sf_arena_free(prog->arena); /* the program itself lives in it */
    }
}

uint32_t sf_prog_ranks(const struct sf_prog *prog) {
    uint32_t n = 1;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        n *= prog->axes[a].size;
    }
    return n;
}

static uint32_t axis_stride(const struct sf_prog *prog, uint32_t axis) {
    uint32_t stride = 1;
    for (uint32_t a = 0; a < axis; a++) {
        stride *= prog->axes[a].size;
    }
    return stride;
}

uint32_t sf_prog_coord(const struct sf_prog *prog, uint32_t rank, uint32_t axis) {
    return rank / axis_stride(prog, axis) % prog->axes[axis].size;
}

/* Mixed-radix number of a rank's coordinates on a set of axes, innermost first; monotonic in the rank. */
static uint32_t project(const struct sf_prog *prog, uint32_t rank, uint32_t axes) {
    uint32_t value = 0, stride = 1;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        uint32_t size = prog->axes[a].size;
        uint32_t coord = rank % size;
        rank /= size;
        if (axes >> a & 1) {
            value += coord * stride;
            stride *= size;
        }
    }
    return value;
}

static uint32_t product(const struct sf_prog *prog, uint32_t axes) {
    uint32_t n = 1;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        n *= axes >> a & 1 ? prog->axes[a].size : 1;
    }
    return n;
}

uint32_t sf_prog_class(const struct sf_prog *prog, uint32_t rank) {
    return prog->class_of[project(prog, rank, prog->class_axes)];
}

uint32_t sf_prog_gpu(const struct sf_prog *prog, uint32_t rank) {
    return rank / prog->ranks_per_domain * prog->domain_gpus + rank % prog->ranks_per_domain;
}

uint32_t sf_prog_peer(const struct sf_prog *prog, uint32_t rank, uint32_t comm, int32_t delta) {
    uint32_t axis = (uint32_t)__builtin_ctz(prog->comms[comm].axes);
    int64_t size = prog->axes[axis].size;
    uint32_t stride = axis_stride(prog, axis);
    int64_t from = rank / stride % (uint32_t)size;
    int64_t to = ((from + delta) % size + size) % size;
    return (uint32_t)((int64_t)rank + (to - from) * stride);
}

uint32_t sf_prog_comm_size(const struct sf_prog *prog, uint32_t comm) {
    return product(prog, prog->comms[comm].axes);
}

uint32_t sf_prog_comm_index(const struct sf_prog *prog, uint32_t rank, uint32_t comm) {
    return project(prog, rank, prog->comms[comm].axes);
}

uint32_t sf_prog_comm_member(const struct sf_prog *prog, uint32_t rank, uint32_t comm, uint32_t index) {
    uint32_t axes = prog->comms[comm].axes, member = 0, stride = 1;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        uint32_t size = prog->axes[a].size;
        uint32_t coord = rank / stride % size;
        if (axes >> a & 1) {
            coord = index % size;
            index /= size;
        }
        member += coord * stride;
        stride *= size;
    }
    return member;
}

uint32_t sf_prog_comm_groups(const struct sf_prog *prog, uint32_t comm) {
    return product(prog, ~prog->comms[comm].axes);
}

uint32_t sf_prog_comm_group(const struct sf_prog *prog, uint32_t rank, uint32_t comm) {
    return project(prog, rank, ~prog->comms[comm].axes);
}

char *sf_op_label(const struct sf_prog *prog, uint32_t class_i, uint32_t op_i, char *buf, size_t size) {
    const struct sf_op *op = &prog->classes[class_i].ops[op_i];
    char slice[16] = "";
    if (prog->job.slices > 1) {
        snprintf(slice, sizeof slice, ".%u", op->slice);
    }
    switch (sf_op_group(op->kind)) {
    case SF_OP_IS_P2P:
        snprintf(buf, size, "%s c%u m%u%s %+d %s", sf_op_name(op->kind), op->chunk, op->microbatch, slice,
                 op->peer_delta, prog->comms[op->comm].name);
        break;
    case SF_OP_IS_COLL:
        snprintf(buf, size, "%s c%u %s", sf_op_name(op->kind), op->chunk, prog->comms[op->comm].name);
        break;
    case SF_OP_IS_DATA:
    case SF_OP_IS_COMPUTE:
        snprintf(buf, size, "%s c%u m%u%s", sf_op_name(op->kind), op->chunk, op->microbatch, slice);
        break;
    }
    return buf;
}
