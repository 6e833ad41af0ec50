/* Two chunks per device along a V, from a stable pattern (Controllable Memory, arXiv 2405.15362).
 *
 * A pattern says when one microbatch's F0, F1, B1 and B0 begin on each device, in units of one pass; a microbatch
 * follows every 6 units, which leaves room for its two W. The offset from device to device in each of the four legs
 * sets how long activations live: peak = (f0 + b0) / 6 p M. V-Min has offsets 1 1 1 1, V-Half 2 1 2 1.
 *
 * The table is built in time: a device runs, of the next passes of its four legs, the one that can start first, unless
 * the pattern has it too far behind another one; W fill the gaps. How far is too far, and which gaps are worth a W,
 * depends on the costs, so that a few values are tried. */
#include "planner/pipe_internal.h"

#include "core/arena.h"

#define PERIOD 6
#define LEGS 4 /* F0 F1 B1 B0 */
#define NEVER INT64_MAX

struct pattern {
    uint32_t offset[LEGS], turn[LEGS]; /* turn: units that a leg begins later than it could behind the one before */
};

struct freedom {
    uint32_t window; /* units of the pattern that a pass may run ahead of another one */
    uint32_t edge;   /* the same before a device's first B and behind its last F0, where the pattern does not fill it */
    double gap;      /* a W goes into a gap of at least this share of W */
};

struct pick {
    uint32_t leg;
    sf_time_ps start; /* NEVER: nothing can run */
    uint64_t place;   /* in the pattern */
};

struct build {
    struct sfi_greedy g;
    uint64_t *begin;    /* [LEGS][devices] */
    struct pick *picks; /* [leaves], the devices and some more */
    uint32_t *first;    /* [2 * leaves] a tree: the device below each node that can start first; 1 is the root */
    uint32_t leaves;    /* a power of two */
    struct freedom freedom;
};

static uint32_t devices(const struct build *b) {
    return b->g.pipe->devices;
}

static int kind_of(uint32_t leg) {
    return leg < 2 ? SF_PASS_F : SF_PASS_B;
}

/* Legs 0 and 3 belong to the first chunk. */
static uint32_t stage_of(const struct build *b, uint32_t leg, uint32_t d) {
    return leg == 0 || leg == LEGS - 1 ? d : 2 * devices(b) - 1 - d;
}

static void lay_out(struct build *b, const struct pattern *x) {
    uint64_t at = 0;
    for (uint32_t leg = 0; leg < LEGS; leg++) {
        at += x->turn[leg];
        for (uint32_t i = 0; i < devices(b); i++) {
            uint32_t d = leg % 2 == 0 ? i : devices(b) - 1 - i;
            b->begin[leg * devices(b) + d] = at + (uint64_t)x->offset[leg] * i;
        }
        at += (uint64_t)x->offset[leg] * (devices(b) - 1) + 1;
    }
}

/* The four passes of a period must not meet on any device. */
static bool is_stable(const struct build *b) {
    for (uint32_t d = 0; d < devices(b); d++) {
        unsigned seen = 0;
        for (uint32_t leg = 0; leg < LEGS; leg++) {
            unsigned slot = 1u << b->begin[leg * devices(b) + d] % PERIOD;
            if ((seen & slot) != 0) {
                return false;
            }
            seen |= slot;
        }
    }
    return true;
}

static uint64_t place_of(const struct build *b, uint32_t leg, uint32_t d) {
    uint32_t k = b->g.done[kind_of(leg)][stage_of(b, leg, d)];
    return k < b->g.pipe->microbatches ? b->begin[leg * devices(b) + d] + (uint64_t)PERIOD * k : UINT64_MAX;
}

static bool room_for_forward(const struct build *b, uint32_t d) {
    const struct sfi_lane *lane = &b->g.lanes[d];
    return sfi_greedy_room(&b->g, d, 1 - lane->waiting_w * b->g.family->w_frees);
}

static uint32_t window_of(const struct build *b, uint32_t d) {
    bool starting = b->g.done[SF_PASS_B][stage_of(b, 2, d)] == 0;
    bool ending = b->g.done[SF_PASS_F][d] == b->g.pipe->microbatches;
    return starting || ending ? b->freedom.edge : b->freedom.window;
}

static struct pick choose(const struct build *b, uint32_t d) {
    struct pick best = {.start = NEVER, .place = UINT64_MAX};
    uint64_t place[LEGS], first = UINT64_MAX;
    uint32_t window = window_of(b, d);
    for (uint32_t leg = 0; leg < LEGS; leg++) {
        place[leg] = place_of(b, leg, d);
        first = place[leg] < first ? place[leg] : first;
    }
    for (uint32_t leg = 0; leg < LEGS; leg++) {
        if (place[leg] == UINT64_MAX || place[leg] - first > window || (leg < 2 && !room_for_forward(b, d))) {
            continue;
        }
        sf_time_ps at = sfi_greedy_arrival(&b->g, kind_of(leg), stage_of(b, leg, d));
        if (at < 0) {
            continue;
        }
        at = at > b->g.lanes[d].free ? at : b->g.lanes[d].free;
        if (at < best.start || (at == best.start && place[leg] < best.place)) {
            best = (struct pick){.leg = leg, .start = at, .place = place[leg]};
        }
    }
    return best;
}

/* Unlike sfi_greedy_fill this does not look at other devices: the pattern has places for W already. */
static void fill(struct build *b, uint32_t d, sf_time_ps arrival) {
    struct sfi_lane *lane = &b->g.lanes[d];
    sf_time_ps least = (sf_time_ps)((double)b->g.family->w * b->freedom.gap);
    while (lane->waiting_w > 0 && arrival > lane->free && arrival - lane->free >= least) {
        sfi_greedy_put_w(&b->g, d);
    }
}

static void run(struct build *b, uint32_t d) {
    uint32_t leg = b->picks[d].leg, stage = stage_of(b, leg, d);
    fill(b, d, sfi_greedy_arrival(&b->g, kind_of(leg), stage));
    if (leg < 2) {
        sfi_greedy_make_room(&b->g, d);
    }
    sfi_greedy_put(&b->g, kind_of(leg), stage);
}

/* A device may have something else to do now. */
static void look_again(struct build *b, uint32_t d) {
    b->picks[d] = choose(b, d);
    for (uint32_t node = (b->leaves + d) / 2; node > 0; node /= 2) {
        uint32_t left = b->first[2 * node], right = b->first[2 * node + 1];
        b->first[node] = b->picks[right].start < b->picks[left].start ? right : left;
    }
}

static void start(struct build *b) {
    sfi_greedy_reset(&b->g);
    for (uint32_t i = 0; i < b->leaves; i++) {
        b->picks[i].start = NEVER;
        b->first[b->leaves + i] = i;
    }
    for (uint32_t node = b->leaves; node-- > 1;) {
        b->first[node] = b->first[2 * node];
    }
    for (uint32_t d = 0; d < devices(b); d++) {
        look_again(b, d);
    }
}

static bool build(struct build *b) {
    start(b);
    for (uint32_t d = b->first[1]; b->picks[d].start != NEVER; d = b->first[1]) {
        run(b, d);
        for (uint32_t near = d > 0 ? d - 1 : 0; near <= d + 1 && near < devices(b); near++) {
            look_again(b, near);
        }
    }
    sfi_greedy_finish(&b->g);
    return sfi_greedy_complete(&b->g);
}

/* ---- choosing a pattern ------------------------------------------------------------------------------------------ */

#define BUDGET (UINT64_C(20) << 20) /* passes placed before the best so far is good enough */
#define PATTERNS_MAX (PERIOD * PERIOD * PERIOD)

struct choice {
    struct pattern pattern;
    struct freedom freedom;
};

struct search {
    struct build b;
    struct sfi_best *best;
    struct choice chosen;
    sf_time_ps span; /* of the choice; INT64_MAX before the first */
    uint64_t placed; /* passes so far */
    struct sf_err *err;
};

/* Offsets that keep activations for (f0 + b0) / 6 p M and can be stable. */
static const uint32_t min_offsets[LEGS] = {1, 1, 1, 1}, half_offsets[LEGS] = {2, 1, 2, 1},
                      full_offsets[LEGS] = {4, 2, 4, 2}, whole_offsets[LEGS] = {2, 2, 2, 2};

/* All turns that make a set of offsets stable; for passes of unequal length (1F1B-V) any. */
static uint32_t list_patterns(struct build *b, const uint32_t offset[LEGS], struct pattern out[PATTERNS_MAX]) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < PATTERNS_MAX; i++) {
        struct pattern x = {.turn = {0, i / PERIOD / PERIOD, i / PERIOD % PERIOD, i % PERIOD}};
        for (uint32_t leg = 0; leg < LEGS; leg++) {
            x.offset[leg] = offset[leg];
        }
        lay_out(b, &x);
        if (b->g.whole ? i % (PERIOD * PERIOD + 1) == 0 : is_stable(b)) {
            out[n++] = x;
        }
    }
    return n;
}

static int try_choice(struct search *s, const struct choice *c) {
    lay_out(&s->b, &c->pattern);
    s->b.freedom = c->freedom;
    if (s->placed > BUDGET && s->best->pipe != NULL) {
        return 0;
    }
    s->placed += (uint64_t)s->b.g.pipe->devices * s->b.g.pipe->room;
    if (!build(&s->b)) {
        return 0;
    }
    sf_time_ps span = sfi_greedy_span(&s->b.g);
    if (span < s->span) {
        s->span = span;
        s->chosen = *c;
    }
    return sfi_best_offer(s->best, &s->b.g, s->err);
}

static int try_patterns(struct search *s, const uint32_t offset[LEGS], struct freedom freedom) {
    struct pattern found[PATTERNS_MAX];
    uint32_t n = list_patterns(&s->b, offset, found);
    for (uint32_t i = 0; i < n; i++) {
        struct choice c = {.pattern = found[i], .freedom = freedom};
        SF_TRY(try_choice(s, &c));
    }
    return 0;
}

/* Around the choice, one number at a time. */
static int refine(struct search *s) {
    static const uint32_t windows[] = {0, 1, 2, 3, 6}, edges[] = {0, 1, 2, 4, 7};
    static const double gaps[] = {1, 0.8, 0.65, 0.5, 0.4, 0.3, 0.15, 0.0};
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        struct choice c = s->chosen;
        c.freedom.window = windows[i];
        SF_TRY(try_choice(s, &c));
    }
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        struct choice c = s->chosen;
        c.freedom.edge = edges[i];
        SF_TRY(try_choice(s, &c));
    }
    for (size_t i = 0; i < sizeof gaps / sizeof *gaps && !s->b.g.whole; i++) {
        struct choice c = s->chosen;
        c.freedom.gap = gaps[i];
        SF_TRY(try_choice(s, &c));
    }
    return 0;
}

static int search_offsets(struct search *s, const uint32_t offset[LEGS]) {
    static const struct freedom starts[] = {{0, 1, 1}, {0, 2, 0.6}, {1, 4, 0.55}, {1, 4, 0.5}};
    s->span = INT64_MAX;
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        SF_TRY(try_patterns(s, offset, starts[i]));
    }
    if (s->span == INT64_MAX) {
        return 0;
    }
    sf_time_ps before = s->span;
    SF_TRY(refine(s));
    return s->span < before ? refine(s) : 0;
}

static int search_family(struct search *s, const struct sfi_family *f) {
    switch (f->spec.family) {
    case SF_PIPE_V_MIN:
        return f->spec.published ? try_patterns(s, min_offsets, (struct freedom){0, 0, 1})
                                 : search_offsets(s, min_offsets);
    case SF_PIPE_V_HALF:
        return f->spec.published ? try_patterns(s, half_offsets, (struct freedom){3, 3, 1})
                                 : search_offsets(s, half_offsets);
    case SF_PIPE_1F1B_V:
        return search_offsets(s, whole_offsets);
    default:
        SF_TRY(search_offsets(s, full_offsets));
        return search_offsets(s, half_offsets);
    }
}

static int build_create(struct build *b, const struct sfi_family *f, struct sf_err *err) {
    SF_TRY(sfi_greedy_create(f, true, &b->g, err));
    b->g.whole = f->spec.family == SF_PIPE_1F1B_V;
    for (b->leaves = 1; b->leaves < f->spec.devices;) {
        b->leaves *= 2;
    }
    b->begin = sf_calloc((size_t)LEGS * f->spec.devices, sizeof *b->begin);
    b->picks = sf_calloc(b->leaves, sizeof *b->picks);
    b->first = sf_calloc(2 * (size_t)b->leaves, sizeof *b->first);
    return b->begin == NULL || b->picks == NULL || b->first == NULL ? sf_fail_memory(err, "schedule") : 0;
}

static void build_clear(struct build *b) {
    sf_free(b->begin);
    sf_free(b->picks);
    sf_free(b->first);
    sfi_greedy_clear(&b->g);
}

int sfi_v_pattern_search(const struct sfi_family *f, struct sfi_best *best, struct sf_err *err) {
    struct search s = {.best = best, .span = INT64_MAX, .err = err};
    int rc = build_create(&s.b, f, err);
    rc = rc == 0 ? search_family(&s, f) : rc;
    build_clear(&s.b);
    return rc;
}

int sfi_pipe_v_pattern(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    struct sfi_best best = {0};
    int rc = sfi_v_pattern_search(f, &best, err);
    return sfi_best_take(f, &best, rc, out, err);
}
