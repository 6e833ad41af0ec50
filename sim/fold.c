/* Folding: the coarsest equitable partition of the ranks, by colour refinement.
 *
 * Ranks start with the colour of their kind and take up, round after round, the colours of their peers per way and
 * the multiset of colours of each group they meet in collectives. When a round finds no new colour, equal colours have
 * equal surroundings for ever. */
#include <string.h>

#include "sim/engine.h"

struct refiner {
    struct sfi_mesh *mesh;
    const struct sfi_classes *classes;
    struct sf_arena *arena;
    uint32_t *colour;
    uint64_t *word;      /* by rank: all that is known of it, scrambled */
    uint64_t *next;      /* by rank: words to come of the class being looked at */
    uint64_t *factor;    /* by way */
    uint32_t *by_class;  /* first ranks of rows of one class, class by class */
    uint32_t *class_end; /* where each ends in it */
    struct sfi_ids ids;
};

static void list_classes(struct refiner *f) {
    uint32_t n = f->classes->n, sum = 0, row = f->mesh->class_row;
    for (uint32_t r = 0; r < f->mesh->ranks_n; r += row) {
        f->class_end[f->mesh->class_of[r]]++;
    }
    for (uint32_t c = 0; c < n; c++) {
        uint32_t begin = sum;
        sum += f->class_end[c];
        f->class_end[c] = begin;
    }
    for (uint32_t r = 0; r < f->mesh->ranks_n; r += row) {
        f->by_class[f->class_end[f->mesh->class_of[r]]++] = r;
    }
}

/* What a row of ranks hears over one way. Up to the end of a ring's stride their peers stand in a row too. */
static void hear(struct refiner *f, uint32_t first, uint32_t n, const struct sfi_way *way, uint64_t factor) {
    uint32_t stride = f->mesh->comms[way->comm].stride;
    for (uint32_t i = 0; i < n;) {
        uint32_t left = stride - (first + i) % stride, end = left < n - i ? i + left : n;
        const uint64_t *word = &f->word[sfi_way_peer(f->mesh, way, first + i)];
        uint64_t *next = &f->next[first + i];
        for (uint32_t k = 0; k < end - i; k++) {
            next[k] += factor * word[k];
        }
        i = end;
    }
}

/* All ranks of a class take up their peers at once. Peers of other classes may have done so before: which classes come
 * first is the same for all ranks of one class, so equal ranks stay equal, and news travel through a whole pipeline in
 * one pass over its classes. */
static void mix_class(struct refiner *f, uint32_t class_i) {
    uint32_t begin = class_i > 0 ? f->class_end[class_i - 1] : 0, end = f->class_end[class_i];
    uint32_t row = f->mesh->class_row;
    const struct sfi_class *c = &f->classes->cls[class_i];
    for (uint32_t i = begin; i < end; i++) {
        uint32_t first = f->by_class[i];
        memcpy(&f->next[first], &f->word[first], row * sizeof *f->next);
        for (uint32_t w = 0; w < c->ways_n; w++) {
            hear(f, first, row, &c->ways[w], f->factor[w]);
        }
    }
    for (uint32_t i = begin; i < end; i++) {
        for (uint32_t r = f->by_class[i]; r < f->by_class[i] + row; r++) {
            f->word[r] = sf_mix64(UINT64_C(0x666f6c64), f->next[r]);
        }
    }
}

static void mix_groups(struct refiner *f, uint32_t comm) {
    const struct sfi_comm *c = &f->mesh->comms[comm];
    for (uint32_t g = 0; g < c->groups_n; g++) {
        const uint32_t base = c->base[g];
        uint64_t sum = 0;
        for (uint32_t i = 0; i < c->members_n; i++) {
            sum += f->word[base + c->offset[i]];
        }
        sum = sf_mix64(UINT64_C(0x67726f7570), sum);
        for (uint32_t i = 0; i < c->members_n; i++) {
            uint32_t r = base + c->offset[i];
            if (f->classes->cls[f->mesh->class_of[r]].meets >> comm & 1) {
                f->word[r] = sf_mix64(f->word[r], sum);
            }
        }
    }
}

/* Number the different words in the order of lowest ranks. */
static int renumber(struct refiner *f, struct sf_err *err) {
    uint64_t last = 0;
    uint32_t id = 0;
    sfi_ids_reset(&f->ids);
    for (uint32_t r = 0; r < f->mesh->ranks_n; r++) {
        id = r > 0 && f->word[r] == last ? id : sfi_ids_get(&f->ids, f->arena, f->word[r]);
        last = f->word[r];
        f->colour[r] = id;
        if (id == SF_NONE) {
            return sf_fail_memory(err, "folding");
        }
    }
    return SF_OK;
}

static int refine(struct refiner *f, uint32_t *colours_n, struct sf_err *err) {
    uint32_t before = 0, n = f->classes->n;
    bool first = true; /* both ways through the pipeline; what is left to see then is mostly that nothing is left */
    for (; *colours_n > before; *colours_n = f->ids.n, first = false) {
        before = *colours_n;
        for (uint32_t c = 0; c < n; c++) {
            mix_class(f, c);
        }
        for (uint32_t c = n; first && c-- > 0;) {
            mix_class(f, c);
        }
        for (uint32_t left = f->classes->meets; left; left &= left - 1) {
            mix_groups(f, (uint32_t)__builtin_ctz(left));
        }
        SF_TRY(renumber(f, err));
    }
    return SF_OK;
}

static uint32_t most_ways(const struct sfi_classes *classes) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < classes->n; i++) {
        most = classes->cls[i].ways_n > most ? classes->cls[i].ways_n : most;
    }
    return most;
}

int sfi_fold(struct sfi_mesh *mesh, const struct sfi_classes *classes, const uint32_t *kind_of, uint32_t kinds_n,
             struct sf_arena *arena, uint32_t **colour_of, uint32_t *colours_n, struct sf_err *err) {
    struct refiner f = {.mesh = mesh, .classes = classes, .arena = arena};
    f.colour = sf_arena_alloc(arena, mesh->ranks_n, sizeof *f.colour);
    f.word = sf_arena_alloc(arena, mesh->ranks_n, sizeof *f.word);
    f.next = sf_arena_alloc(arena, mesh->ranks_n, sizeof *f.next);
    f.by_class = sf_arena_alloc(arena, mesh->ranks_n / mesh->class_row, sizeof *f.by_class);
    f.factor = sfi_factors(most_ways(classes), arena);
    f.class_end = sf_arena_alloc(arena, classes->n, sizeof *f.class_end);
    if (!f.colour || !f.word || !f.next || !f.by_class || !f.class_end || !f.factor || !sfi_ids_init(&f.ids, arena)) {
        return sf_fail_memory(err, "folding");
    }
    for (uint32_t r = 0; r < mesh->ranks_n; r++) {
        f.word[r] = sf_mix64(UINT64_C(0x6b696e64), kind_of[r]);
    }
    list_classes(&f);
    *colours_n = kinds_n;
    SF_TRY(refine(&f, colours_n, err));
    *colour_of = f.colour;
    return SF_OK;
}
