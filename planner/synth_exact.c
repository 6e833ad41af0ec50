/* Small problems to the end: depth-first over the orders of all devices, as active schedules of job shops are listed
 * (Giffler and Thompson 1960). Microbatches are alike, so each stage takes them in order.
 *
 * Of all passes whose inputs are there, the one that could end first decides for its device: nothing that is not there
 * yet can start before that end. So the next pass of that device is one of those there that start earlier, or the
 * device waits until then. If the pass that could end first is a B or W, waiting is no better than running it: it fits
 * in front of whatever would come next, and earlier B and W only free memory. An F takes memory, so for F both ways are
 * looked at. A device that has waited goes on with a pass whose inputs came later; with the others it has been tried
 * without waiting.
 *
 * Two states with the same passes done differ in times alone. If in one of them no device is free later, no input
 * arrives later and no device began earlier, whatever the other can still do, it can do as well: what was looked at to
 * the end makes such others superfluous. Where every W of a device costs the same, any of them stands for all. */
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "planner/synth_internal.h"

#define ROUNDING 1e-9
#define MAX_STAGES 64
#define SEEN_BUCKETS (1u << 16)
#define SEEN_WORDS (6u << 20) /* of all states remembered */
#define SEEN_LOOKS 16         /* states of a bucket that are compared */

struct state {
    uint32_t done[SFI_SYNTH_KINDS][MAX_STAGES];
    sf_time_ps first[MAX_STAGES], free[MAX_STAGES], left[MAX_STAGES]; /* of devices; left: work to do */
    bool waited[MAX_STAGES];                                          /* until `free` */
    double memory[MAX_STAGES];
    uint32_t depth;
};

/* A state looked at to the end: words of its key, then of its times. */
struct seen {
    uint32_t next, at; /* next: of the bucket, plus 1 */
    uint32_t key_n, times_n;
};

struct exact {
    const struct sfi_synth *s;
    struct state n;
    sf_time_ps *f_end, *b_end;                       /* [stage][microbatch] */
    bool any_w[MAX_STAGES];                          /* of devices: one W is as good as another */
    sf_time_ps rest[MAX_STAGES], late_w[MAX_STAGES]; /* of devices: most work after the last F, W after the last B */
    sf_time_ps span;                                 /* to beat */
    sf_time_ps bound;
    uint64_t nodes, nodes_max;
    struct sf_pass order[SFI_EXACT_PASSES], *best;
    struct seen *seen;
    uint32_t *bucket, seen_n, seen_max, words_n, words_max;
    int64_t *words;
};

struct next {
    uint32_t stage;
    int kind;
    sf_time_ps inputs, start, end;
};

bool sfi_exact_fits(const struct sfi_synth *s) {
    return s->stages <= MAX_STAGES && s->microbatches < 256 &&
           (uint64_t)3 * s->stages * s->microbatches <= SFI_EXACT_PASSES;
}

static sf_time_ps cost_of(const struct sfi_synth *s, int kind, uint32_t stage) {
    return (kind == SF_PASS_F ? s->f : kind == SF_PASS_B ? s->b : s->w)[stage];
}

/* When the inputs of the next pass of this kind are there; SFI_NEVER when there is none or its input is missing. */
static sf_time_ps inputs_of(const struct exact *x, uint32_t stage, int kind) {
    const struct sfi_synth *s = x->s;
    const struct state *n = &x->n;
    uint32_t i = n->done[kind][stage], m = s->microbatches;
    if (i == m) {
        return SFI_NEVER;
    }
    if (kind == SF_PASS_F) {
        if (stage == 0) {
            return 0;
        }
        return n->done[SF_PASS_F][stage - 1] <= i ? SFI_NEVER
                                                  : x->f_end[(stage - 1) * m + i] + sfi_hop(s, stage - 1, stage);
    }
    if (kind == SF_PASS_W) {
        return n->done[SF_PASS_B][stage] <= i ? SFI_NEVER : x->b_end[stage * m + i];
    }
    if (n->done[SF_PASS_F][stage] <= i) {
        return SFI_NEVER;
    }
    if (stage + 1 == s->stages) {
        return x->f_end[stage * m + i];
    }
    return n->done[SF_PASS_B][stage + 1] <= i ? SFI_NEVER
                                              : x->b_end[(stage + 1) * m + i] + sfi_hop(s, stage + 1, stage);
}

/* ---- what is left ------------------------------------------------------------------------------------------------ */

/* Earliest end of the last microbatch's B of `stage` and the W behind it. */
static sf_time_ps chain_end(const struct exact *x, uint32_t stage) {
    const struct sfi_synth *s = x->s;
    uint32_t m = s->microbatches, last = s->stages - 1;
    for (uint32_t i = 0; i <= last; i++) {
        if (x->n.done[SF_PASS_B][i] == m) {
            return i <= stage ? 0
                              : x->b_end[i * m + m - 1] + sfi_hop(s, i, i - 1) + s->b_at[stage] - s->b_at[i - 1] +
                                    s->b[stage] + s->w[stage];
        }
    }
    sf_time_ps at = 0;
    uint32_t from = 0;
    for (uint32_t i = 0; i <= last && x->n.done[SF_PASS_F][i] == m; i++) {
        at = x->f_end[i * m + m - 1] + (i < last ? sfi_hop(s, i, i + 1) : 0);
        from = i + 1;
    }
    sf_time_ps ahead = from <= last ? s->b_at[stage] - s->f_at[from] : s->b_at[stage] - s->b_at[last];
    return at + ahead + s->b[stage] + s->w[stage];
}

static sf_time_ps left_w(const struct exact *x, uint32_t e) {
    const struct sfi_synth *s = x->s;
    sf_time_ps left = 0;
    for (uint32_t j = 0; j < s->chunks; j++) {
        uint32_t stage = s->held[e * s->chunks + j];
        left += s->w[stage] * (s->microbatches - x->n.done[SF_PASS_W][stage]);
    }
    return left;
}

/* Memory limits what device e leaves for after its last F, which has to go to the last stage yet, and the W it leaves
 * for after its last B, which has to go to the first stage. Less the way to them of a microbatch that nothing delays.
 */
static sf_time_ps last_f_delay(const struct exact *x, uint32_t e) {
    const struct sfi_synth *s = x->s;
    uint32_t high = s->held[e * s->chunks + s->chunks - 1];
    if (x->n.done[SF_PASS_F][high] == s->microbatches) {
        return 0;
    }
    return x->n.free[e] + x->n.left[e] - x->rest[e] - s->f_at[high] - s->f[high];
}

static sf_time_ps last_b_delay(const struct exact *x, uint32_t e) {
    const struct sfi_synth *s = x->s;
    uint32_t low = s->held[e * s->chunks];
    sf_time_ps w = left_w(x, e);
    if (x->n.done[SF_PASS_B][low] == s->microbatches) {
        return 0;
    }
    return x->n.free[e] + x->n.left[e] - (w < x->late_w[e] ? w : x->late_w[e]) - s->b_at[low] - s->b[low];
}

/* Earliest end of device d, for what the others have to do before. */
static sf_time_ps end_by_others(const struct exact *x, uint32_t d, const sf_time_ps *by_f, const sf_time_ps *by_b) {
    const struct sfi_synth *s = x->s;
    uint32_t low = s->held[d * s->chunks];
    sf_time_ps delay = 0;
    if (x->n.done[SF_PASS_B][low] == s->microbatches) {
        return 0;
    }
    for (uint32_t e = 0; e < s->devices; e++) {
        delay = by_f[e] > delay ? by_f[e] : delay;
        delay = s->held[e * s->chunks] >= low && by_b[e] > delay ? by_b[e] : delay;
    }
    return delay + s->b_at[low] + s->b[low] + s->w[low];
}

/* No completion has a span below this. */
static sf_time_ps outlook(const struct exact *x) {
    const struct sfi_synth *s = x->s;
    sf_time_ps most = 0, by_f[MAX_STAGES], by_b[MAX_STAGES];
    for (uint32_t e = 0; e < s->devices; e++) {
        by_f[e] = last_f_delay(x, e);
        by_b[e] = last_b_delay(x, e);
    }
    for (uint32_t d = 0; d < s->devices; d++) {
        if (x->n.first[d] != SFI_NEVER) {
            sf_time_ps by_work = x->n.free[d] + x->n.left[d], by_chain = chain_end(x, s->held[d * s->chunks]);
            sf_time_ps end = by_work > by_chain ? by_work : by_chain, others = end_by_others(x, d, by_f, by_b);
            end = others > end ? others : end;
            most = end - x->n.first[d] > most ? end - x->n.first[d] : most;
        }
    }
    return most;
}

/* ---- states seen ------------------------------------------------------------------------------------------------- */

static uint32_t put_key(const struct exact *x, int64_t *out) {
    const struct sfi_synth *s = x->s;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->stages; i++) {
        uint32_t w = x->any_w[s->device_of[i]] ? 0 : x->n.done[SF_PASS_W][i] + 1;
        out[n++] = (int64_t)(x->n.done[SF_PASS_F][i] | x->n.done[SF_PASS_B][i] << 8 | w << 16);
    }
    for (uint32_t d = 0; d < s->devices; d++) {
        uint32_t w = 0;
        for (uint32_t j = 0; j < s->chunks; j++) {
            w += x->n.done[SF_PASS_W][s->held[d * s->chunks + j]];
        }
        out[n++] = w;
    }
    return n;
}

static sf_time_ps arrival(const struct exact *x, uint32_t to, sf_time_ps at) {
    sf_time_ps free = x->n.free[x->s->device_of[to]];
    return at > free ? at : free;
}

/* Smaller is better in each of them. */
static uint32_t put_times(const struct exact *x, int64_t *out) {
    const struct sfi_synth *s = x->s;
    uint32_t n = 0, m = s->microbatches;
    for (uint32_t d = 0; d < s->devices; d++) {
        out[n++] = x->n.free[d];
        out[n++] = -x->n.first[d];
    }
    for (uint32_t i = 0; i + 1 < s->stages; i++) {
        for (uint32_t k = x->n.done[SF_PASS_F][i + 1]; k < x->n.done[SF_PASS_F][i]; k++) {
            out[n++] = arrival(x, i + 1, x->f_end[i * m + k] + sfi_hop(s, i, i + 1));
        }
        for (uint32_t k = x->n.done[SF_PASS_B][i]; k < x->n.done[SF_PASS_B][i + 1]; k++) {
            out[n++] = arrival(x, i, x->b_end[(i + 1) * m + k] + sfi_hop(s, i + 1, i));
        }
    }
    return n;
}

static uint32_t bucket_of(const int64_t *key, uint32_t n) {
    uint64_t h = 0;
    for (uint32_t i = 0; i < n; i++) {
        h = (h ^ (uint64_t)key[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return (uint32_t)(h % SEEN_BUCKETS);
}

static bool no_later(const int64_t *a, const int64_t *b, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (a[i] > b[i]) {
            return false;
        }
    }
    return true;
}

/* Put the state behind those remembered; returns its bucket. */
static uint32_t describe(struct exact *x, struct seen *out) {
    int64_t *at = x->words + x->words_n;
    *out = (struct seen){.at = x->words_n};
    out->key_n = put_key(x, at);
    out->times_n = put_times(x, at + out->key_n);
    return bucket_of(at, out->key_n);
}

static bool is_superfluous(struct exact *x) {
    struct seen now;
    uint32_t i = x->bucket[describe(x, &now)];
    const int64_t *mine = x->words + now.at;
    for (uint32_t looks = 0; i > 0 && looks < SEEN_LOOKS; i = x->seen[i - 1].next, looks++) {
        const struct seen *e = &x->seen[i - 1];
        const int64_t *other = x->words + e->at;
        if (e->key_n == now.key_n && e->times_n == now.times_n && memcmp(mine, other, now.key_n * sizeof *mine) == 0 &&
            no_later(other + e->key_n, mine + now.key_n, now.times_n)) {
            return true;
        }
    }
    return false;
}

static void remember(struct exact *x) {
    struct seen now;
    if (x->seen_n == x->seen_max || x->words_n > x->words_max) {
        return;
    }
    uint32_t b = describe(x, &now);
    now.next = x->bucket[b];
    x->words_n += now.key_n + now.times_n;
    x->seen[x->seen_n++] = now;
    x->bucket[b] = x->seen_n;
}

/* ---- branches ---------------------------------------------------------------------------------------------------- */

static void descend(struct exact *x);

static void take(struct exact *x, const struct next *p) {
    const struct sfi_synth *s = x->s;
    struct state *n = &x->n;
    uint32_t d = s->device_of[p->stage], i = n->done[p->kind][p->stage];
    sf_time_ps first = n->first[d], free = n->free[d], cost = cost_of(s, p->kind, p->stage);
    double memory = n->memory[d];
    bool waited = n->waited[d];
    x->order[n->depth] = (struct sf_pass){.kind = (uint8_t)p->kind, .stage = (uint16_t)p->stage, .microbatch = i};
    if (p->kind == SF_PASS_F) {
        x->f_end[p->stage * s->microbatches + i] = p->end;
        n->memory[d] += s->mem_f[p->stage];
    } else if (p->kind == SF_PASS_B) {
        x->b_end[p->stage * s->microbatches + i] = p->end;
    }
    n->memory[d] -= p->kind == SF_PASS_B ? s->mem_b[p->stage] : p->kind == SF_PASS_W ? s->mem_w[p->stage] : 0;
    n->first[d] = first == SFI_NEVER ? p->start : first;
    n->free[d] = p->end;
    n->waited[d] = false;
    n->left[d] -= cost;
    n->done[p->kind][p->stage]++;
    n->depth++;
    descend(x);
    n->depth--;
    n->done[p->kind][p->stage]--;
    n->left[d] += cost;
    n->waited[d] = waited;
    n->free[d] = free;
    n->first[d] = first;
    n->memory[d] = memory;
}

static void wait_until(struct exact *x, uint32_t d, sf_time_ps until) {
    sf_time_ps free = x->n.free[d];
    bool waited = x->n.waited[d];
    x->n.free[d] = until;
    x->n.waited[d] = true;
    descend(x);
    x->n.waited[d] = waited;
    x->n.free[d] = free;
}

/* The next pass of this kind and stage, if there is one that may run. */
static bool look(const struct exact *x, uint32_t stage, int kind, struct next *out) {
    const struct sfi_synth *s = x->s;
    uint32_t d = s->device_of[stage];
    sf_time_ps inputs = inputs_of(x, stage, kind), free = x->n.free[d];
    if (inputs == SFI_NEVER || (x->n.waited[d] && inputs < free) ||
        (kind == SF_PASS_F && x->n.memory[d] + s->mem_f[stage] > s->limit * (1 + ROUNDING))) {
        return false;
    }
    sf_time_ps start = inputs > free ? inputs : free;
    *out = (struct next){stage, kind, inputs, start, start + cost_of(s, kind, stage)};
    return true;
}

/* Whatever ends first; of those that end together one that is not an F. */
static bool find_first(const struct exact *x, struct next *first) {
    bool found = false;
    *first = (struct next){.end = SFI_NEVER};
    for (uint32_t stage = x->s->stages; stage-- > 0;) {
        static const int kinds[] = {SF_PASS_B, SF_PASS_W, SF_PASS_F};
        for (int k = 0; k < SFI_SYNTH_KINDS; k++) {
            struct next c;
            if (look(x, stage, kinds[k], &c) &&
                (c.end < first->end || (c.end == first->end && first->kind == SF_PASS_F))) {
                *first = c;
                found = true;
            }
        }
    }
    return found;
}

static void branch(struct exact *x, const struct next *first) {
    static const int kinds[] = {SF_PASS_B, SF_PASS_F, SF_PASS_W};
    const struct sfi_synth *s = x->s;
    uint32_t d = s->device_of[first->stage];
    for (int k = 0; k < SFI_SYNTH_KINDS; k++) {
        bool one_is_enough = kinds[k] == SF_PASS_W && x->any_w[d];
        for (uint32_t j = s->chunks; j-- > 0;) {
            struct next c;
            uint32_t stage = s->held[d * s->chunks + j];
            bool is_first = stage == first->stage && kinds[k] == first->kind;
            if (look(x, stage, kinds[k], &c) && (is_first || c.start < first->end)) {
                take(x, &c);
                if (one_is_enough) {
                    break;
                }
            }
        }
    }
    if (first->kind == SF_PASS_F && x->n.first[d] != SFI_NEVER) {
        wait_until(x, d, first->end);
    }
}

static void descend(struct exact *x) {
    struct next first;
    x->nodes++;
    sf_time_ps span = outlook(x);
    if (span >= x->span || x->nodes >= x->nodes_max || x->span <= x->bound) {
        return;
    }
    if (x->n.depth == 3 * x->s->stages * x->s->microbatches) {
        x->span = span;
        memcpy(x->best, x->order, x->n.depth * sizeof *x->best);
        return;
    }
    if (!find_first(x, &first) || is_superfluous(x)) {
        return;
    }
    branch(x, &first);
    remember(x);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static bool same_w(const struct sfi_synth *s, uint32_t d) {
    const uint16_t *held = &s->held[d * s->chunks];
    for (uint32_t j = 1; j < s->chunks; j++) {
        double a = s->mem_w[held[0]], b = s->mem_w[held[j]];
        if (s->w[held[0]] != s->w[held[j]] || a < b || a > b) {
            return false;
        }
    }
    return true;
}

/* The most work of passes that fit into memory, by the densest of them. */
static void set_limits(struct exact *x, uint32_t d) {
    const struct sfi_synth *s = x->s;
    double w_dense = 0, dense = 0, limit = s->limit * (1 + ROUNDING);
    for (uint32_t j = 0; j < s->chunks; j++) {
        uint32_t i = s->held[d * s->chunks + j];
        double w = s->w[i] == 0 ? 0 : s->mem_w[i] > 0 ? (double)s->w[i] / s->mem_w[i] : INFINITY;
        double all = s->b[i] + s->w[i] == 0 ? 0
                     : s->mem_f[i] > 0      ? (double)(s->b[i] + s->w[i]) / s->mem_f[i]
                                            : INFINITY;
        w_dense = w > w_dense ? w : w_dense;
        dense = all > dense ? all : dense;
    }
    dense = w_dense > dense ? w_dense : dense;
    double most = (double)x->n.left[d];
    x->rest[d] =
        limit * dense * (1 + ROUNDING) < most ? (sf_time_ps)(limit * dense * (1 + ROUNDING)) + 1 : x->n.left[d];
    x->late_w[d] =
        limit * w_dense * (1 + ROUNDING) < most ? (sf_time_ps)(limit * w_dense * (1 + ROUNDING)) + 1 : x->n.left[d];
}

static void begin(struct exact *x) {
    const struct sfi_synth *s = x->s;
    for (uint32_t i = 0; i < s->stages; i++) {
        x->n.left[s->device_of[i]] += (s->f[i] + s->b[i] + s->w[i]) * s->microbatches;
    }
    for (uint32_t d = 0; d < s->devices; d++) {
        x->n.first[d] = SFI_NEVER;
        x->any_w[d] = same_w(s, d);
        set_limits(x, d);
    }
}

/* No more room than the steps can fill. */
static int allocate(struct exact *x, struct sf_err *err) {
    size_t nodes = (size_t)x->s->stages * x->s->microbatches, state = 2 * nodes + 4 * (size_t)MAX_STAGES;
    x->seen_max = x->nodes_max < SEEN_WORDS / 16 ? (uint32_t)x->nodes_max : SEEN_WORDS / 16;
    x->words_max = x->nodes_max < SEEN_WORDS / state ? (uint32_t)(x->nodes_max * state) : SEEN_WORDS;
    x->f_end = sf_calloc(2 * nodes, sizeof *x->f_end);
    x->seen = sf_calloc(x->seen_max, sizeof *x->seen);
    x->bucket = sf_calloc(SEEN_BUCKETS, sizeof *x->bucket);
    x->words = sf_calloc(x->words_max + 2 * state, sizeof *x->words);
    if (x->f_end == NULL || x->seen == NULL || x->bucket == NULL || x->words == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    x->b_end = x->f_end + nodes;
    return 0;
}

int sfi_exact(const struct sfi_synth *s, sf_time_ps bound, struct sfi_exact *io, struct sf_err *err) {
    struct exact *x = sf_calloc(1, sizeof *x);
    if (x == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    *x = (struct exact){.s = s, .span = io->span, .bound = bound, .nodes_max = io->steps, .best = io->best};
    int rc = allocate(x, err);
    if (rc == 0) {
        begin(x);
        descend(x);
        io->span = x->span;
        io->steps = x->nodes;
        io->proven = x->nodes < x->nodes_max;
    }
    sf_free(x->f_end);
    sf_free(x->seen);
    sf_free(x->bucket);
    sf_free(x->words);
    sf_free(x);
    return rc;
}
