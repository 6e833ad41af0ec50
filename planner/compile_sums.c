/* Canonical sums of gradients over the microbatches of a chunk; see compile.h for the rule and sfi_sum for the state.
 */
#include <stdio.h>

#include "core/arena.h"
#include "planner/compile_internal.h"

uint32_t sfi_canonical_run(const struct sf_plan *plan) {
    return plan->canonical ? plan->microbatches >> __builtin_ctz(plan->microbatches) : plan->microbatches;
}

static void start(struct sfi_sum *s) {
    for (uint32_t i = 0; i < 2 * s->leaves; i++) {
        s->slot[i] = SF_NONE;
    }
    for (uint32_t i = 0; i < s->leaves; i++) {
        s->next[i] = 0;
    }
    s->taken = 0;
}

/* Where a pass comes among those of its chunk in ascending order. */
static uint32_t place_of(const struct sfi_chunk *chunk, const struct sf_pass *step, uint32_t slices) {
    return (step->microbatch - chunk->first_mb) * slices + slices - 1 - step->slice;
}

/* One more pass of a run. True when it is the first: it takes a slot and overwrites it. */
static bool take(struct sfi_sum *s, uint32_t place, uint32_t *slot) {
    uint32_t leaf = place / s->run, node = s->leaves + leaf;
    bool first = s->next[leaf]++ == 0;
    if (first) {
        uint32_t lowest = (uint32_t)__builtin_ctzll(~s->taken);
        s->slot[node] = lowest;
        s->taken |= UINT64_C(1) << lowest;
        s->slots_n = lowest + 1 > s->slots_n ? lowest + 1 : s->slots_n;
    }
    *slot = s->slot[node];
    return first;
}

static bool is_complete(const struct sfi_sum *s, uint32_t node) {
    return s->slot[node] != SF_NONE && (node < s->leaves || s->next[node - s->leaves] == s->run);
}

/* What can be added after a pass, up the tree: pairs of slots, into and from. The lower slot takes the sum, so
 * that the first one has it all in the end. */
static uint32_t merge(struct sfi_sum *s, uint32_t place, uint32_t pairs[SFI_SUM_LEVELS][2]) {
    uint32_t node = s->leaves + place / s->run, n = 0;
    while (node > 1 && is_complete(s, node) && is_complete(s, node ^ 1)) {
        uint32_t a = s->slot[node], b = s->slot[node ^ 1];
        pairs[n][0] = a < b ? a : b;
        pairs[n][1] = a < b ? b : a;
        s->taken &= ~(UINT64_C(1) << pairs[n][1]);
        node /= 2;
        s->slot[node] = pairs[n++][0];
    }
    return n;
}

static int check_order(const struct sfi_stage *st, const struct sfi_sum *s, uint32_t place, uint32_t microbatch,
                       struct sf_err *err) {
    uint32_t next = s->next[place / s->run], slices = st->c->shape.slices;
    if (st->c->plan->canonical && place % s->run != next) {
        return sf_fail(
            err, SF_E_INPUT,
            "plan: schedule makes the weight gradients of microbatch %u before those of %u on rank %u of the "
            "pipeline; canonical sums add each run of %u microbatches in ascending order: reorder the table "
            "or turn canonical off in the job",
            microbatch, microbatch - place % s->run / slices + next / slices, st->stage, s->run / slices);
    }
    if (__builtin_popcountll(s->taken) == SFI_SUM_SLOTS) {
        return sf_fail(
            err, SF_E_INPUT,
            "plan: schedule leaves more than %d canonical sums open at once on rank %u of the pipeline: make "
            "weight gradients in ascending order of microbatches",
            SFI_SUM_SLOTS - 1, st->stage);
    }
    return 0;
}

/* Run through the order once, to know that it can be added and how many slots that takes. */
static int rehearse(const struct sfi_stage *st, struct sfi_chunk *chunk, struct sf_err *err) {
    struct sfi_sum *s = &chunk->sum;
    start(s);
    for (uint32_t j = 0; j < st->steps_n; j++) {
        const struct sf_pass *step = &st->steps[j];
        uint32_t pairs[SFI_SUM_LEVELS][2], slot;
        if (step->stage == chunk->stage && (step->kind == SF_PASS_W || step->kind == SF_PASS_BW)) {
            uint32_t place = place_of(chunk, step, st->c->shape.slices);
            SF_TRY(check_order(st, s, place, step->microbatch, err));
            take(s, place, &slot);
            merge(s, place, pairs);
        }
    }
    start(s);
    return 0;
}

int sfi_sum_init(const struct sfi_stage *st, struct sfi_chunk *chunk, struct sf_err *err) {
    struct sfi_sum *s = &chunk->sum;
    uint32_t run = st->c->plan->canonical ? sfi_canonical_run(st->c->plan) : chunk->mbs;
    s->run = run * st->c->shape.slices;
    s->leaves = chunk->mbs / run;
    s->slot = sf_calloc(2 * (size_t)s->leaves, sizeof *s->slot);
    s->next = sf_calloc(s->leaves, sizeof *s->next);
    return s->slot && s->next ? rehearse(st, chunk, err) : sf_fail_memory(err, "canonical sums");
}

void sfi_sum_clear(struct sfi_sum *s) {
    sf_free(s->slot);
    sf_free(s->next);
}

bool sfi_take_leaf(struct sfi_stage *st, const struct sf_pass *step, uint32_t out[SFI_SPACES]) {
    struct sfi_chunk *chunk = sfi_chunk_of(st, step);
    uint32_t slot;
    if (st->c->plan->zero >= SFI_ZERO_GRADIENTS) {
        return sfi_take_whole(st, step, out);
    }
    bool first = take(&chunk->sum, place_of(chunk, step, st->c->shape.slices), &slot);
    for (int space = 0; space < SFI_SPACES; space++) {
        out[space] = chunk->slots[space][slot];
    }
    return !first;
}

/* Slots in the order in which the additions meet them: the formals of their recipe. */
struct formals {
    uint32_t slot[SFI_SUM_LEVELS + 1];
    uint32_t access[SFI_SUM_LEVELS + 1];
    uint32_t n;
};

static uint32_t formal_of(struct formals *f, uint32_t slot, uint32_t access) {
    uint32_t i = 0;
    while (i < f->n && f->slot[i] != slot) {
        i++;
    }
    if (i == f->n) {
        f->slot[f->n++] = slot;
        f->access[i] = 0;
    }
    f->access[i] |= access;
    return i;
}

static uint32_t add_recipe(const struct sfi_stage *st, uint32_t pairs[][2], uint32_t pairs_n, uint64_t n,
                           struct formals *f) {
    struct sfi_recipe r = {.c = st->c, .shape = &st->c->shape};
    uint32_t operand[SFI_SUM_LEVELS][2];
    char name[SF_NAME];
    for (uint32_t i = 0; i < pairs_n; i++) {
        operand[i][1] = formal_of(f, pairs[i][1], SF_READ);
        operand[i][0] = formal_of(f, pairs[i][0], SF_READ_WRITE);
    }
    snprintf(name, sizeof name, "tree %u", pairs_n);
    sf_build_recipe_begin(st->c->b, name, f->n);
    for (uint32_t i = 0; i < pairs_n; i++) {
        const sf_ref into = SF_REF(operand[i][0], 0), from = SF_REF(operand[i][1], 0);
        sfi_call_simple(&r, SF_CALL_ADD, (const uint64_t[3]){n}, (const sf_ref[]){into, from, into}, 3);
    }
    return sf_build_recipe_end(st->c->b);
}

static uint32_t emit_sums(struct sfi_stage *st, const struct sf_pass *step, enum sfi_space space, uint32_t pairs[][2],
                          uint32_t pairs_n, uint32_t leaf_op) {
    const struct sfi_chunk *chunk = sfi_chunk_of(st, step);
    uint64_t bytes = chunk->vs->params.bytes[space];
    struct formals f = {.n = 0};
    struct sf_arg args[SFI_SUM_LEVELS + 1];
    struct sf_op op = {.kind = SF_OP_ACCUMULATE,
                       .stream = SFI_COMPUTE,
                       .comm = SF_NONE,
                       .chunk = (uint16_t)st->c->table.chunk_of[step->stage],
                       .microbatch = (uint16_t)step->microbatch,
                       .recipe = add_recipe(st, pairs, pairs_n, bytes / st->c->shape.elem, &f)};
    for (uint32_t i = 0; i < f.n; i++) {
        args[i] = (struct sf_arg){.buf = chunk->slots[space][f.slot[i]], .access = f.access[i], .bytes = bytes};
    }
    return sf_build_op(st->c->b, &op, args, f.n, &leaf_op, 1);
}

void sfi_emit_leaf(struct sfi_stage *st, const struct sf_pass *step, uint32_t leaf_op) {
    struct sfi_chunk *chunk = sfi_chunk_of(st, step);
    uint32_t pairs[SFI_SUM_LEVELS][2], done = leaf_op;
    if (st->c->plan->zero >= SFI_ZERO_GRADIENTS) {
        sfi_emit_scatters(st, step, leaf_op);
        return;
    }
    uint32_t n = merge(&chunk->sum, place_of(chunk, step, st->c->shape.slices), pairs);
    for (uint32_t space = 0; space < SFI_SPACES && n > 0; space++) {
        if (chunk->vs->params.bytes[space] > 0) {
            done = emit_sums(st, step, (enum sfi_space)space, pairs, n, leaf_op);
        }
    }
    if (++chunk->weights_done == chunk->mbs * st->c->shape.slices) {
        chunk->complete = done;
        sfi_emit_reductions(st, st->c->table.chunk_of[step->stage], done);
    }
}
