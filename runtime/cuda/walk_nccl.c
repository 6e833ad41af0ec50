/* One rank of a process: its ops in the order of the program, transfers through communicators.
 *
 * That order is legal, because dependencies point backwards, and it is the order in which this rank starts
 * communication on its device, the same in every step. */
#include <stdio.h>

#include "runtime/cuda/session.h"

static int message(struct sfi_session *s, uint32_t comm, const struct sfi_gpu_message *m, void *stream,
                   struct sf_err *err) {
    const struct sfi_gpu_comm *c = &s->comms[comm];
    uint32_t color = 0;
    if (m->kind == SF_OP_SEND || m->kind == SF_OP_RECV) {
        uint32_t own = sf_prog_comm_index(s->run->image->prog, s->ranks[0].host->rank, comm);
        color = c->sender_color[m->kind == SF_OP_SEND ? own : m->peer];
    }
    return s->api->message(s->api->self, c->comm[color], m, stream, err);
}

static int walk_compute(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, struct sf_err *err) {
    const struct sf_op *op = &r->host->cls->ops[op_i];
    const struct sf_recipe *recipe = &s->run->image->prog->recipes[op->recipe];
    uint32_t next = 0;
    for (;;) {
        SF_TRY(sfi_gpu_calls(s, r, op_i, &next, err));
        if (next == recipe->calls_n) {
            return SF_OK;
        }
        const struct sf_call *call = &recipe->calls[next++];
        const struct sfi_gpu_message m = sfi_gpu_message_of_call(r, op, call);
        SF_TRY(message(s, call->comm, &m, r->streams[op->stream], err));
    }
}

/* Transfers of one group start as one. They are adjacent and independent. */
static int walk_transfers(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t first, uint32_t last,
                          struct sf_err *err) {
    const struct sf_op *ops = r->host->cls->ops;
    for (uint32_t i = first; i < last; i++) {
        SF_TRY(sfi_gpu_op_begin(s, r, i, err));
    }
    SF_TRY(s->api->group_begin(s->api->self, err));
    int rc = SF_OK;
    for (uint32_t i = first; i < last && rc == SF_OK; i++) {
        const struct sfi_gpu_message m = sfi_gpu_message_of_op(r, &ops[i]);
        rc = message(s, ops[i].comm, &m, r->streams[ops[i].stream], err);
    }
    struct sf_err ignored;
    int ended = s->api->group_end(s->api->self, rc == SF_OK ? err : &ignored);
    SF_TRY(rc != SF_OK ? rc : ended);
    for (uint32_t i = first; i < last; i++) {
        SF_TRY(sfi_gpu_op_end(s, r, i, err));
    }
    return SF_OK;
}

static int walk_one(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t op_i, struct sf_err *err) {
    SF_TRY(sfi_gpu_op_begin(s, r, op_i, err));
    SF_TRY(r->host->cls->ops[op_i].kind == SF_OP_LOAD ? sfi_gpu_load(s, r, op_i, err) : walk_compute(s, r, op_i, err));
    return sfi_gpu_op_end(s, r, op_i, err);
}

static uint32_t group_end(const struct sf_class *cls, uint32_t first) {
    uint32_t last = first + 1;
    while (cls->ops[first].group != 0 && last < cls->ops_n && cls->ops[last].group == cls->ops[first].group) {
        last++;
    }
    return last;
}

int sfi_gpu_walk_rank(struct sfi_session *s, struct sf_err *err) {
    struct sfi_gpu_rank *r = &s->ranks[0];
    const struct sf_class *cls = r->host->cls;
    for (uint32_t i = 0, last; i < cls->ops_n; i = last) {
        enum sf_op_group group = sf_op_group(cls->ops[i].kind);
        bool local = group == SF_OP_IS_DATA || group == SF_OP_IS_COMPUTE;
        last = local ? i + 1 : group_end(cls, i);
        int rc = local ? walk_one(s, r, i, err) : walk_transfers(s, r, i, last, err);
        if (rc != SF_OK) {
            return sfi_gpu_fail_op(r, i, err);
        }
    }
    return SF_OK;
}

/* ---- communicators ---------------------------------------------------------------------------------------------- */

/* Distances over which members of a communicator exchange messages, by any class; false: none do. */
static bool mark_distances(const struct sf_prog *prog, uint32_t comm, uint32_t size, bool *used) {
    bool any = false;
    for (uint32_t k = 0; k < prog->classes_n; k++) {
        for (uint32_t i = 0; i < prog->classes[k].ops_n; i++) {
            const struct sf_op *op = &prog->classes[k].ops[i];
            int64_t delta = op->peer_delta % (int64_t)size;
            if (sf_op_group(op->kind) == SF_OP_IS_P2P && op->comm == comm && delta != 0) {
                used[delta < 0 ? delta + size : delta] = any = true;
            }
        }
    }
    return any;
}

/* The first color that no neighbour among the members before has. */
static int color_member(struct sfi_gpu_comm *c, const bool *used, uint32_t size, uint32_t member, struct sf_err *err) {
    bool taken[SFI_GPU_COLORS] = {false};
    uint32_t color = 0;
    for (uint32_t other = 0; other < member; other++) {
        if (used[member - other] || used[size - (member - other)]) {
            taken[c->sender_color[other]] = true;
        }
    }
    while (color < SFI_GPU_COLORS && taken[color]) {
        color++;
    }
    if (color == SFI_GPU_COLORS) {
        return sf_fail(err, SF_E_INPUT,
                       "messages between too many neighbours: %d communicators do not keep sends and "
                       "receives apart",
                       SFI_GPU_COLORS);
    }
    c->sender_color[member] = (uint8_t)color;
    c->colors_n = color + 1 > c->colors_n ? color + 1 : c->colors_n;
    return SF_OK;
}

static int color_senders(struct sfi_session *s, uint32_t comm, struct sf_err *err) {
    const struct sf_prog *prog = s->run->image->prog;
    struct sfi_gpu_comm *c = &s->comms[comm];
    uint32_t size = sf_prog_comm_size(prog, comm);
    bool *used = sf_arena_alloc(s->arena, (size_t)size + 1, sizeof *used);
    c->colors_n = 1;
    if (!used) {
        return sf_fail_memory(err, "communicators");
    }
    if (!mark_distances(prog, comm, size, used)) {
        return SF_OK;
    }
    c->sender_color = sf_arena_alloc(s->arena, size, sizeof *c->sender_color);
    if (!c->sender_color) {
        return sf_fail_memory(err, "communicators");
    }
    for (uint32_t i = 0; i < size; i++) {
        SF_TRY(color_member(c, used, size, i, err));
    }
    return SF_OK;
}

bool sfi_gpu_picks(const struct sf_prog *prog) {
    for (uint32_t c = 0; c < prog->comms_n; c++) {
        if (sf_coll_picks_any(&prog->comms[c].picks)) {
            return true;
        }
    }
    return false;
}

static int create_comm(struct sfi_session *s, uint32_t comm, struct sf_err *err) {
    const struct sf_prog *prog = s->run->image->prog;
    const struct sfi_gpu_rank *r = &s->ranks[0];
    struct sfi_gpu_comm *c = &s->comms[comm];
    uint32_t group = sf_prog_comm_group(prog, r->host->rank, comm);
    uint32_t index = sf_prog_comm_index(prog, r->host->rank, comm);
    SF_TRY(color_senders(s, comm, err));
    SF_TRY(sfi_gpu_picks(prog) ? s->api->comm_picks(s->api->self, &prog->comms[comm].picks, err) : SF_OK);
    for (uint32_t k = 0; k < c->colors_n; k++) {
        char name[SF_NAME + 16];
        snprintf(name, sizeof name, "%s/%u", prog->comms[comm].name, k);
        SF_TRY(s->api->comm_split(s->api->self, *s->world, group, index, name, &c->comm[k], err));
        SF_TRY(
            s->api->comm_register(s->api->self, c->comm[k], r->mem, r->host->cls->arena_bytes, &c->registered[k], err));
    }
    return SF_OK;
}

int sfi_gpu_comms_create(struct sfi_session *s, struct sf_err *err) {
    const struct sf_prog *prog = s->run->image->prog;
    for (uint32_t c = 0; c < prog->comms_n; c++) {
        if (create_comm(s, c, err) != SF_OK) {
            return sf_err_wrap(err, "communicator \"%s\"", prog->comms[c].name);
        }
    }
    return SF_OK;
}

void sfi_gpu_comms_destroy(struct sfi_session *s) {
    for (uint32_t i = SF_MAX_COMMS * SFI_GPU_COLORS; i-- > 0;) {
        struct sfi_gpu_comm *c = &s->comms[i / SFI_GPU_COLORS];
        uint32_t k = i % SFI_GPU_COLORS;
        if (c->registered[k]) {
            s->api->comm_deregister(s->api->self, c->comm[k], c->registered[k]);
        }
        if (c->comm[k]) {
            s->api->comm_destroy(s->api->self, c->comm[k]);
        }
    }
}
