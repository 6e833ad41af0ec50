/* States looked at to the end. One with the same passes done is superfluous where everything that matters to what is
 * left came no earlier than in one of them. */
#include <string.h>

#include "core/arena.h"
#include "planner/synth_exact.h"

#define SEEN_WORDS (32u << 20) /* of all states remembered */
#define SEEN_LOOKS 64          /* states of a bucket that are compared */

/* ---- states seen ------------------------------------------------------------------------------------------------- */

/* Words of what is done: bytes for F, B and, where it matters which, W of each stage, then W of each device. */
static uint32_t put_key(const struct sfi_exact_run *x, int64_t *out) {
    const struct sfi_synth *s = x->s;
    uint32_t n = 0, words = (3 * s->stages + 2 * s->devices + 7) / 8;
    out[words - 1] = 0;
    uint8_t *at = (uint8_t *)out;
    for (uint32_t i = 0; i < s->stages; i++) {
        at[n++] = (uint8_t)x->n.done[SF_PASS_F][i];
        at[n++] = (uint8_t)x->n.done[SF_PASS_B][i];
        at[n++] = x->any_w[s->device_of[i]] ? 0 : (uint8_t)x->n.done[SF_PASS_W][i];
    }
    for (uint32_t d = 0; d < s->devices; d++) {
        uint32_t w = 0;
        for (uint32_t j = 0; j < s->chunks; j++) {
            w += x->n.done[SF_PASS_W][s->held[d * s->chunks + j]];
        }
        at[n++] = (uint8_t)w;
        at[n++] = (uint8_t)(w >> 8);
    }
    return words;
}

/* Smaller is better in each of them. */
static uint32_t put_times(const struct sfi_exact_run *x, int64_t *out) {
    const struct sfi_synth *s = x->s;
    uint32_t n = 0, m = s->microbatches;
    for (uint32_t d = 0; d < s->devices; d++) {
        out[n++] = x->n.free[d];
        out[n++] = -x->n.first[d];
    }
    for (uint32_t i = 0; i + 1 < s->stages; i++) {
        for (uint32_t k = x->n.done[SF_PASS_F][i + 1]; k < x->n.done[SF_PASS_F][i]; k++) {
            out[n++] = x->head[SF_PASS_F][(i + 1) * m + k];
        }
        for (uint32_t k = x->n.done[SF_PASS_B][i]; k < x->n.done[SF_PASS_B][i + 1]; k++) {
            out[n++] = x->head[SF_PASS_B][i * m + k];
        }
    }
    return n;
}

static uint32_t bucket_of(const int64_t *key, uint32_t n, uint32_t buckets) {
    uint64_t h = 0;
    for (uint32_t i = 0; i < n; i++) {
        h = (h ^ (uint64_t)key[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return (uint32_t)(h >> 32) & (buckets - 1);
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
static uint32_t describe(struct sfi_exact_run *x, struct sfi_seen *out) {
    int64_t *at = x->words + x->words_n;
    *out = (struct sfi_seen){.at = x->words_n};
    out->key_n = put_key(x, at);
    out->times_n = put_times(x, at + out->key_n);
    return bucket_of(at, out->key_n, x->buckets);
}

bool sfi_exact_is_superfluous(struct sfi_exact_run *x) {
    struct sfi_seen now;
    uint32_t i = x->bucket[describe(x, &now)];
    const int64_t *mine = x->words + now.at;
    for (uint32_t looks = 0; i > 0 && looks < SEEN_LOOKS; i = x->seen[i - 1].next, looks++) {
        const struct sfi_seen *e = &x->seen[i - 1];
        const int64_t *other = x->words + e->at;
        if (e->key_n == now.key_n && e->times_n == now.times_n && memcmp(mine, other, now.key_n * sizeof *mine) == 0 &&
            no_later(other + e->key_n, mine + now.key_n, now.times_n)) {
            return true;
        }
    }
    return false;
}

void sfi_exact_remember(struct sfi_exact_run *x) {
    struct sfi_seen now;
    if (x->seen_n == x->seen_max || x->words_n > x->words_max) {
        return;
    }
    sfi_exact_find_heads(x); /* those of states behind this one are still there */
    uint32_t b = describe(x, &now);
    now.next = x->bucket[b];
    x->words_n += now.key_n + now.times_n;
    x->seen[x->seen_n++] = now;
    x->bucket[b] = x->seen_n;
}

/* No more room than the steps can fill. */
int sfi_exact_seen_create(struct sfi_exact_run *x, struct sf_err *err) {
    size_t state = 2 * (size_t)x->s->stages * x->s->microbatches + 4 * (size_t)SFI_EXACT_STAGES;
    x->seen_max = x->nodes_max < SEEN_WORDS / 16 ? (uint32_t)x->nodes_max : SEEN_WORDS / 16;
    x->words_max = x->nodes_max < SEEN_WORDS / state ? (uint32_t)(x->nodes_max * state) : SEEN_WORDS;
    x->buckets = 1;
    while (x->buckets < x->seen_max / 2) {
        x->buckets *= 2;
    }
    x->seen = sf_calloc(x->seen_max, sizeof *x->seen);
    x->bucket = sf_calloc(x->buckets, sizeof *x->bucket);
    x->words = sf_calloc(x->words_max + 2 * state, sizeof *x->words);
    return x->seen == NULL || x->bucket == NULL || x->words == NULL ? sf_fail_memory(err, "schedule search") : 0;
}

void sfi_exact_seen_free(struct sfi_exact_run *x) {
    sf_free(x->seen);
    sf_free(x->bucket);
    sf_free(x->words);
}
