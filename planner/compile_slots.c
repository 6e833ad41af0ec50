/* Which of a few equal buffers each microbatch uses. A slot is free again after the last step that uses it; what is
 * written by a transfer or a load may wait only for steps that end early enough, so that no buffer holds it up. */
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/compile_internal.h"

uint32_t sfi_stage_before(const struct sfi_compile *c, uint32_t stage) {
    if (c->plan->split_head && stage >= c->plan->pp) {
        return c->plan->pp - 1;
    }
    return stage % c->vs_n == 0 ? SF_NONE : stage - 1;
}

uint32_t sfi_stage_behind(const struct sfi_compile *c, uint32_t stage) {
    bool part = c->plan->split_head && stage >= c->plan->pp;
    return part || (stage + 1) % c->vs_n == 0 ? SF_NONE : stage + 1;
}

/* One unit and where its passes are in this rank's row. */
struct unit {
    const struct sfi_stage *st;
    const struct sfi_chunk *chunk;
    uint32_t microbatch, slice;
    uint32_t step[SFI_PASSES];
};

/* A unit's use of a pool: steps below `ready` may be waited for when it gets its slot, `until` is the last to use it.
 */
struct use {
    uint32_t unit, ready, until;
    bool leaves; /* by a copy, which takes another step */
};

static uint32_t step_of(const struct unit *u, enum sfi_pass pass, uint32_t stage, uint32_t slice) {
    const struct sfi_table *t = &u->st->c->table;
    return t->step[pass][sfi_pass_index(t->pipe, stage, u->microbatch, slice)];
}

/* A pass of a neighbour stage: the step that makes an input here, or on another rank. */
static uint32_t ready_for(const struct unit *u, enum sfi_pass pass, uint32_t from_stage) {
    const struct sfi_compile *c = u->st->c;
    const struct sfi_table *t = &c->table;
    uint32_t from = t->pipe->device_of[from_stage], step = step_of(u, pass, from_stage, u->slice);
    if (from == u->st->stage) {
        return step;
    }
    const sf_time_ps *end = t->end[u->st->stage];
    sf_time_ps at = t->end[from][step];
    uint32_t lo = 0, hi = u->st->steps_n; /* steps that end by then */
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (end[mid] <= at) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo > 0 ? lo - 1 : 0; /* one step to spare: it may be posted while the step before runs */
}

/* What is copied away leaves its slot while the step behind its forward runs. */
static void leave(const struct unit *u, struct use *out) {
    out->leaves = sfi_is_away(u->st, u->chunk->stage, u->microbatch, u->slice);
    out->until = out->leaves ? u->step[SFI_PASS_F] : out->until;
}

typedef bool use_fn(const struct unit *u, struct use *out);

static bool use_input(const struct unit *u, struct use *out) {
    uint32_t before = sfi_stage_before(u->st->c, u->chunk->stage);
    out->ready = before == SF_NONE ? u->step[SFI_PASS_F] : ready_for(u, SFI_PASS_F, before);
    out->until = u->step[SFI_PASS_B];
    leave(u, out);
    return true;
}

static bool use_x(const struct unit *u, struct use *out) {
    return use_input(u, out) && sfi_inputs(u->st, u->chunk->stage) == &u->st->x;
}

static bool use_part_x(const struct unit *u, struct use *out) {
    return use_input(u, out) && sfi_inputs(u->st, u->chunk->stage) == &u->st->part_x;
}

static bool use_landing(const struct unit *u, struct use *out) {
    uint32_t behind = sfi_stage_behind(u->st->c, u->chunk->stage);
    out->ready = behind == SF_NONE ? 0 : ready_for(u, SFI_PASS_B, behind);
    out->until = u->step[SFI_PASS_B];
    return behind != SF_NONE;
}

static uint32_t last_of_stash(const struct unit *u) {
    return u->step[sfi_all_again(u->st->c, u->chunk->vs) ? SFI_PASS_B : SFI_PASS_W];
}

static bool use_stash(const struct unit *u, struct use *out) {
    out->ready = u->step[SFI_PASS_F];
    out->until = last_of_stash(u);
    leave(u, out);
    return u->chunk->vs->stash_bytes > 0;
}

/* On the host from forward to backward. */
static bool use_away(const struct unit *u, struct use *out) {
    out->ready = u->step[SFI_PASS_F];
    out->until = u->step[SFI_PASS_B];
    return sfi_is_away(u->st, u->chunk->stage, u->microbatch, u->slice);
}

/* On the device again from a step before the backward on. */
static bool use_back(const struct unit *u, struct use *out) {
    out->ready = u->step[SFI_PASS_B] - 1;
    out->until = last_of_stash(u);
    return u->chunk->vs->stash_bytes > 0 && sfi_is_away(u->st, u->chunk->stage, u->microbatch, u->slice);
}

static bool use_x_back(const struct unit *u, struct use *out) {
    out->ready = u->step[SFI_PASS_B] - 1;
    out->until = u->step[SFI_PASS_B];
    return sfi_is_away(u->st, u->chunk->stage, u->microbatch, u->slice);
}

static bool use_held(const struct unit *u, struct use *out) {
    out->ready = u->step[SFI_PASS_B];
    out->until = u->step[SFI_PASS_W];
    return u->chunk->vs->held_bytes > 0 && out->ready != out->until;
}

static bool use_head(const struct unit *u, struct use *out) {
    out->ready = u->step[SFI_PASS_F];
    out->until = u->step[SFI_PASS_W];
    return u->chunk->vs->ends || u->chunk->vs->head;
}

static bool use_tokens(const struct unit *u, struct use *out) {
    out->ready = u->step[SFI_PASS_F] > 0 ? u->step[SFI_PASS_F] - 1 : 0;
    out->until = u->step[SFI_PASS_W];
    return u->chunk->vs->is_first;
}

/* From the first slice's forward to its backward, which is the last. */
static bool use_keys(const struct unit *u, struct use *out) {
    out->ready = u->step[SFI_PASS_F];
    out->until = u->step[SFI_PASS_B];
    return u->chunk->vs->keys_bytes > 0 && u->slice == 0;
}

static bool use_sums(const struct unit *u, struct use *out) {
    out->ready = step_of(u, SFI_PASS_B, u->chunk->stage, u->st->c->shape.slices - 1);
    out->until = u->step[SFI_PASS_B];
    return u->chunk->vs->sums_bytes > 0 && u->slice == 0;
}

/* `back`: of second stays. */
static uint32_t list_uses(const struct sfi_stage *st, use_fn *use, bool back, struct use *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < st->chunks_n; i++) {
        struct unit u = {.st = st, .chunk = &st->chunks[i]};
        for (uint32_t k = 0; k < u.chunk->mbs * st->c->shape.slices; k++) {
            u.microbatch = u.chunk->first_mb + k / st->c->shape.slices;
            u.slice = k % st->c->shape.slices;
            for (int pass = 0; pass < SFI_PASSES; pass++) {
                u.step[pass] = step_of(&u, (enum sfi_pass)pass, u.chunk->stage, u.slice);
            }
            uint32_t unit = sfi_unit_of(st, u.chunk->stage, u.microbatch, u.slice);
            out[n] = (struct use){.unit = back ? sfi_unit_back(st, unit) : unit};
            n += use(&u, &out[n]);
        }
    }
    return n;
}

static int compare_use(const void *a, const void *b) {
    const struct use *x = a, *y = b;
    if (x->ready != y->ready) {
        return x->ready < y->ready ? -1 : 1;
    }
    return x->unit < y->unit ? -1 : x->unit > y->unit;
}

struct room {
    struct use *uses;    /* [2 * units_n]: what was away has two */
    uint32_t *last_unit; /* [2 * steps_n] unit whose slot a step, or a copy behind it, frees; SF_NONE */
    uint32_t *freed;     /* [2 * steps_n] places in last_unit of slots that are free still, the oldest first */
};

static uint32_t push_freed(const struct room *room, uint32_t place, uint32_t tail) {
    if (room->last_unit[place] != SF_NONE) {
        room->freed[tail++] = place;
    }
    return tail;
}

/* Freed slots wait in a queue, so that one is reused as late as possible. */
static void assign(struct sfi_pool *pool, const struct room *room, uint32_t uses_n) {
    uint32_t head = 0, tail = 0, step = 0;
    for (uint32_t i = 0; i < uses_n; i++) {
        const struct use *u = &room->uses[i];
        for (; step < u->ready; step++) {
            tail = push_freed(room, 2 * step, tail);
            tail = step > 0 ? push_freed(room, 2 * step - 1, tail) : tail; /* a copy that ran beside this step */
        }
        uint32_t freed = head < tail ? room->freed[head++] : SF_NONE;
        pool->after[u->unit] = freed == SF_NONE ? SF_NONE : freed / 2;
        pool->slot[u->unit] = freed == SF_NONE ? pool->slots_n++ : pool->slot[room->last_unit[freed]];
    }
}

static void note_last(const struct room *room, uint32_t uses_n, uint32_t steps_n) {
    for (uint32_t s = 0; s < 2 * steps_n; s++) {
        room->last_unit[s] = SF_NONE;
    }
    for (uint32_t i = 0; i < uses_n; i++) {
        room->last_unit[2 * room->uses[i].until + room->uses[i].leaves] = room->uses[i].unit;
    }
}

static int pool_init(const struct sfi_stage *st, struct sfi_pool *pool, const struct room *room, use_fn *use,
                     use_fn *again, struct sf_err *err) {
    size_t units_n = (size_t)st->units_n * 2;
    pool->slot = sf_calloc(units_n, sizeof *pool->slot);
    pool->after = sf_calloc(units_n, sizeof *pool->after);
    if (!pool->slot || !pool->after) {
        return sf_fail_memory(err, "activation slots");
    }
    memset(pool->after, 0xff, units_n * sizeof *pool->after);
    uint32_t n = list_uses(st, use, false, room->uses);
    n += again ? list_uses(st, again, true, room->uses + n) : 0;
    qsort(room->uses, n, sizeof *room->uses, compare_use);
    note_last(room, n, st->steps_n);
    assign(pool, room, n);
    pool->bufs = sf_calloc(pool->slots_n, sizeof *pool->bufs);
    return pool->bufs ? 0 : sf_fail_memory(err, "activation slots");
}

static int assign_all(struct sfi_stage *st, const struct room *room, struct sf_err *err) {
    struct {
        struct sfi_pool *pool;
        use_fn *use, *again;
    } pools[] = {{&st->x, use_x, use_x_back},    {&st->stash, use_stash, use_back}, {&st->held, use_held, NULL},
                 {&st->head, use_head, NULL},    {&st->tokens, use_tokens, NULL},   {&st->landing, use_landing, NULL},
                 {&st->keys, use_keys, NULL},    {&st->key_sums, use_sums, NULL},   {&st->away, use_away, NULL},
                 {&st->part_x, use_part_x, NULL}};
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++) {
        SF_TRY(pool_init(st, pools[i].pool, room, pools[i].use, pools[i].again, err));
    }
    return 0;
}

int sfi_assign_slots(struct sfi_stage *st, struct sf_err *err) {
    struct room room = {.uses = sf_calloc(2 * (size_t)st->units_n, sizeof *room.uses),
                        .last_unit = sf_calloc(2 * (size_t)st->steps_n, sizeof *room.last_unit),
                        .freed = sf_calloc(2 * (size_t)st->steps_n, sizeof *room.freed)};
    int rc = room.uses && room.last_unit && room.freed ? assign_all(st, &room, err)
                                                       : sf_fail_memory(err, "activation slots");
    sf_free(room.uses);
    sf_free(room.last_unit);
    sf_free(room.freed);
    return rc;
}

void sfi_pools_clear(struct sfi_stage *st) {
    struct sfi_pool *pools[] = {&st->x,       &st->stash, &st->held,     &st->head, &st->tokens,
                                &st->landing, &st->keys,  &st->key_sums, &st->away, &st->part_x};
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++) {
        sf_free(pools[i]->slot);
        sf_free(pools[i]->after);
        sf_free(pools[i]->bufs);
    }
}
