/* Facts per program class that hold for all its ranks. */
#include <string.h>

#include "sim/engine.h"

static uint32_t reduced(int64_t delta, uint32_t size) {
    int64_t d = delta % (int64_t)size;
    return (uint32_t)(d < 0 ? d + size : d);
}

/* Index of a way, added when new. `ways` has room for one per op. */
static uint32_t way_find(struct sfi_class *c, uint32_t comm, uint32_t delta, bool send) {
    for (uint32_t w = 0; w < c->ways_n; w++) {
        if (c->ways[w].comm == comm && c->ways[w].delta == delta && c->ways[w].send == send) {
            return w;
        }
    }
    c->ways[c->ways_n] = (struct sfi_way){.comm = comm, .delta = delta, .send = send};
    return c->ways_n++;
}

static uint32_t lane_find(struct sfi_classes *all, struct sfi_class *c, uint32_t comm, uint32_t stream) {
    uint32_t lane = 0, i = 0;
    while (lane < all->lanes_n && (all->lanes[lane].comm != comm || all->lanes[lane].stream != stream)) {
        lane++;
    }
    if (lane == all->lanes_n) {
        all->lanes[all->lanes_n++] = (struct sfi_lane){comm, stream};
    }
    while (i < c->lanes_n && c->lanes[i] != lane) {
        i++;
    }
    if (i == c->lanes_n) {
        c->lanes[c->lanes_n++] = lane;
    }
    return i;
}

static void see_recipe(const struct sf_prog *prog, struct sfi_class *c, uint32_t recipe) {
    const struct sf_recipe *r = &prog->recipes[recipe];
    for (uint32_t i = 0; i < r->calls_n; i++) {
        if (sf_call_is_collective(r->calls[i].kind)) {
            c->spans |= 1u << r->calls[i].comm;
            c->together |= prog->comms[r->calls[i].comm].axes;
        }
    }
}

static void see_collective(const struct sf_prog *prog, struct sfi_classes *all, struct sfi_class *c,
                           const struct sf_op *op, uint32_t op_i) {
    if (sf_prog_comm_size(prog, op->comm) > 1) {
        c->spans |= 1u << op->comm;
        c->meets |= 1u << op->comm;
        uint32_t lane = lane_find(all, c, op->comm, op->stream);
        c->way_of[op_i] = lane; /* ways_n is added once it is known */
        c->turn[op_i] = c->lane_ops[lane]++;
        c->record[op_i] = c->records_n++;
    }
}

static void see_p2p(const struct sf_prog *prog, struct sfi_class *c, const struct sf_op *op, uint32_t op_i) {
    uint32_t delta = reduced(op->peer_delta, sf_prog_comm_size(prog, op->comm));
    uint32_t w = way_find(c, op->comm, delta, op->kind == SF_OP_SEND);
    c->way_of[op_i] = w;
    c->turn[op_i] = c->ways[w].ops_n++;
    c->record[op_i] = c->records_n++;
}

static void see_ops(const struct sf_prog *prog, struct sfi_classes *all, struct sfi_class *c,
                    const struct sf_class *cls) {
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        const struct sf_op *op = &cls->ops[i];
        c->way_of[i] = c->record[i] = SF_NONE;
        switch (sf_op_group(op->kind)) {
        case SF_OP_IS_COMPUTE:
            see_recipe(prog, c, op->recipe);
            c->kernel_ops[c->kernels_n++] = i;
            if (c->compute_stream == SF_NONE || op->kind == SF_OP_FORWARD) {
                c->compute_stream = op->stream;
            }
            break;
        case SF_OP_IS_COLL:
            see_collective(prog, all, c, op, i);
            break;
        case SF_OP_IS_P2P:
            see_p2p(prog, c, op, i);
            break;
        case SF_OP_IS_DATA:
            break;
        }
    }
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        bool lane = c->way_of[i] != SF_NONE && sf_op_group(cls->ops[i].kind) == SF_OP_IS_COLL;
        c->way_of[i] += lane ? c->ways_n : 0;
    }
}

static int list_way_ops(struct sfi_class *c, const struct sf_class *cls, struct sf_arena *arena, struct sf_err *err) {
    for (uint32_t w = 0; w < c->ways_n; w++) {
        c->ways[w].ops = sf_arena_alloc(arena, c->ways[w].ops_n, sizeof(uint32_t));
        if (!c->ways[w].ops) {
            return sf_fail_memory(err, "point-to-point ops of a class");
        }
    }
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        if (sf_op_group(cls->ops[i].kind) == SF_OP_IS_P2P) {
            c->ways[c->way_of[i]].ops[c->turn[i]] = i;
        }
    }
    return SF_OK;
}

/* Different ways and lanes are few, but only the ops bound them. */
static uint32_t ways_bound(const struct sf_class *cls) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        enum sf_op_group g = sf_op_group(cls->ops[i].kind);
        n += g == SF_OP_IS_P2P || g == SF_OP_IS_COLL;
    }
    return n;
}

static int class_create(const struct sf_prog *prog, uint32_t class_i, struct sfi_classes *all, struct sf_arena *arena,
                        struct sf_err *err) {
    const struct sf_class *cls = &prog->classes[class_i];
    struct sfi_class *c = &all->cls[class_i];
    uint32_t bound = ways_bound(cls);
    c->lane_ops = sf_arena_alloc(arena, bound, sizeof *c->lane_ops);
    c->compute_stream = SF_NONE;
    c->ways = sf_arena_alloc(arena, bound, sizeof *c->ways);
    c->lanes = sf_arena_alloc(arena, bound, sizeof *c->lanes);
    c->way_of = sf_arena_alloc(arena, cls->ops_n, sizeof *c->way_of);
    c->turn = sf_arena_alloc(arena, cls->ops_n, sizeof *c->turn);
    c->record = sf_arena_alloc(arena, cls->ops_n, sizeof *c->record);
    c->kernel_ops = sf_arena_alloc(arena, cls->ops_n, sizeof *c->kernel_ops);
    if (!c->ways || !c->lanes || !c->way_of || !c->turn || !c->record || !c->kernel_ops || !c->lane_ops) {
        return sf_fail_memory(err, "facts of a class");
    }
    SF_TRY(sf_iclass_create(prog, class_i, arena, &c->code, err));
    see_ops(prog, all, c, cls);
    if (c->ways_n + c->lanes_n > UINT16_MAX) {
        return sf_fail(err, SF_E_INPUT, "class %s talks to %u different peers and groups, at most %u are simulated",
                       cls->name, c->ways_n + c->lanes_n, UINT16_MAX);
    }
    for (uint32_t s = 0; s < prog->streams_n; s++) {
        c->streams_n += c->code->stream_n[s] > 0;
    }
    all->spans |= c->spans;
    all->meets |= c->meets;
    return list_way_ops(c, cls, arena, err);
}

int sfi_classes_create(const struct sf_prog *prog, struct sf_arena *arena, struct sfi_classes **out,
                       struct sf_err *err) {
    struct sfi_classes *all = sf_arena_alloc(arena, 1, sizeof *all);
    if (!all) {
        return sf_fail_memory(err, "classes");
    }
    all->n = prog->classes_n;
    all->cls = sf_arena_alloc(arena, all->n, sizeof *all->cls);
    all->lanes = sf_arena_alloc(arena, SF_MAX_COMMS * SF_MAX_STREAMS, sizeof *all->lanes);
    if (!all->cls || !all->lanes) {
        return sf_fail_memory(err, "classes");
    }
    for (uint32_t i = 0; i < all->n; i++) {
        SF_TRY(class_create(prog, i, all, arena, err));
    }
    *out = all;
    return SF_OK;
}

uint32_t sfi_way_answer(const struct sf_prog *prog, const struct sfi_class *c, const struct sfi_way *way) {
    uint32_t back = sf_prog_comm_size(prog, way->comm) - way->delta;
    for (uint32_t w = 0; w < c->ways_n; w++) {
        if (c->ways[w].comm == way->comm && c->ways[w].delta == back && c->ways[w].send != way->send) {
            return w;
        }
    }
    return SF_NONE;
}
