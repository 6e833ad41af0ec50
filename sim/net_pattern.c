/* Traffic of a few shapes that training makes, or that networks are judged by. */
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "core/call.h"
#include "core/rng.h"
#include "sim/net_internal.h"
#include "sim/net_pattern.h"

static const char *const names[] = {
#define X(NAME, name) name,
    SF_NET_PATTERNS(X)
#undef X
};

const char *sf_net_pattern_name(int pattern) {
    return pattern >= 0 && pattern < SF_NET_PATTERNS_N ? names[pattern] : "?";
}

int sf_net_pattern_parse(const char *name) {
    for (int i = 0; i < SF_NET_PATTERNS_N; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

/* What a protocol carries: data bytes in a line of wire bytes, and a slot, the unit in which it passes data on (a
 * buffer has eight; sim/net_topo.c). LL has a 4-byte flag with 4 bytes, LL128 an 8-byte flag with 120. */
static const struct {
    uint64_t data, line, slot_bytes;
} protocols[SF_COLL_PROTOCOLS_N] = {[SF_COLL_LL] = {4, 8, 512 * 8 * 16},
                                    [SF_COLL_LL128] = {120, 128, 120 * 640 * 8},
                                    [SF_COLL_SIMPLE] = {1, 1, 1 << 19}};

struct traffic {
    struct sf_net *net;
    struct sfi_net_places *places;
    const struct sf_net_job *job;
    uint64_t items; /* expected in all */
    struct sf_err *err;
};

/* A message of `data` bytes, as the protocol sends them. */
static int send(struct traffic *t, uint32_t src, uint32_t dst, uint64_t data, uint32_t *item) {
    uint64_t line = protocols[t->job->protocol].line, per_line = protocols[t->job->protocol].data, bytes;
    uint32_t path;
    SF_TRY(sfi_net_places_path(t->places, src, dst, &path, t->err));
    if (__builtin_mul_overflow(data / per_line + (data % per_line != 0), line, &bytes)) {
        return sf_fail(t->err, SF_E_USAGE, "messages of %llu bytes are too large", (unsigned long long)data);
    }
    *item = sf_net_add_message(t->net, path, line == per_line ? data : bytes);
    if (t->job->progress && *item % 4096 == 0) {
        t->job->progress(t->job->progress_self, SFI_NET_BUILT * (double)*item / (double)t->items);
    }
    return sf_net_check(t->net, t->err);
}

static int incast(struct traffic *t) {
    uint32_t item;
    for (uint32_t i = 1; i < t->job->endpoints; i++) {
        SF_TRY(send(t, i, 0, t->job->bytes, &item));
    }
    return 0;
}

static uint32_t below(struct sf_rng *rng, uint32_t n) { /* n is far below 2^64: the bias is too */
    return (uint32_t)(sf_rng_u64(rng) % n);
}

static bool has_fixed_point(const uint32_t *to, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (to[i] == i) {
            return true;
        }
    }
    return false;
}

/* Every derangement is as likely as any other: shuffles are drawn until one is (about 1 in 2.7). */
static void derange(uint32_t *to, uint32_t n, uint64_t seed) {
    struct sf_rng root = sf_rng_seed(seed), rng = sf_rng_split_text(&root, "net.permutation");
    for (uint32_t i = 0; i < n; i++) {
        to[i] = i;
    }
    do {
        for (uint32_t i = n - 1; i > 0; i--) {
            uint32_t k = below(&rng, i + 1), swap = to[i];
            to[i] = to[k];
            to[k] = swap;
        }
    } while (has_fixed_point(to, n));
}

static int permutation(struct traffic *t) {
    uint32_t n = t->job->endpoints, item, *to = sf_calloc(n, sizeof *to);
    if (to == NULL) {
        return sf_fail_memory(t->err, "a permutation");
    }
    derange(to, n, t->job->seed);
    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        rc = send(t, i, to[i], t->job->bytes, &item);
    }
    sf_free(to);
    return rc;
}

/* Each member sends to the next one first, then to the one after; at most `peers` are under way. */
static int exchange(struct traffic *t, const uint32_t *member, uint32_t n, uint32_t *sent) {
    uint32_t peers = t->job->peers;
    for (uint32_t delta = 1; delta < n; delta++) {
        for (uint32_t i = 0; i < n; i++) {
            uint32_t *mine = &sent[(size_t)i * n];
            SF_TRY(send(t, member[i], member[(i + delta) % n], t->job->bytes / n, &mine[delta]));
            if (peers > 0 && delta > peers) {
                sf_net_add_wait(t->net, mine[delta], mine[delta - peers], SF_NET_DELIVERED);
            }
        }
    }
    return 0;
}

/* The endpoints of one rail, in order; their number. */
static uint32_t members_of(const struct traffic *t, uint32_t rail, uint32_t *member) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->job->endpoints; i++) {
        if (sfi_net_places_rail(t->places, i) == rail) {
            member[n++] = i;
        }
    }
    return n;
}

static int all_to_all(struct traffic *t) {
    uint32_t n, *member = sf_calloc(t->job->endpoints, sizeof *member), *sent = NULL;
    int rc = member == NULL ? sf_fail_memory(t->err, "a rail") : 0;
    for (uint32_t rail = 0; rc == 0 && rail < t->job->rails; rail++) {
        n = members_of(t, rail, member);
        sf_free(sent);
        sent = sf_calloc((size_t)n * n, sizeof *sent);
        rc = sent == NULL ? sf_fail_memory(t->err, "a rail's messages") : exchange(t, member, n, sent);
    }
    sf_free(member);
    sf_free(sent);
    return rc;
}

/* ---- ring all-reduce --------------------------------------------------------------------------------------------- */

/* The slices of one step of one rank. A slice leaves when the one before it has left, and when the same slice of the
 * step before has come in. `last` and `before` hold, by rank, the last slice sent and the first of the step before. */
static int ring_step(struct traffic *t, uint32_t rank, uint32_t slices, bool first, const uint32_t *before,
                     uint32_t *last, uint32_t *now) {
    uint32_t n = t->job->endpoints;
    uint64_t chunk = (t->job->bytes + n - 1) / n;
    for (uint32_t k = 0; k < slices; k++) {
        uint32_t item;
        uint64_t part = chunk / slices + (k < chunk % slices);
        SF_TRY(send(t, rank, (rank + 1) % n, part, &item));
        if (!first) {
            sf_net_add_wait(t->net, item, before[(rank + n - 1) % n] + k, SF_NET_DELIVERED);
        }
        if (!first || k > 0) {
            sf_net_add_wait(t->net, item, last[rank], SF_NET_SENT);
        }
        last[rank] = item;
        now[rank] = k == 0 ? item : now[rank];
    }
    return 0;
}

static int ring_steps(struct traffic *t, uint32_t slices, uint32_t *memory) {
    uint32_t n = t->job->endpoints, *last = memory, *before = memory + n, *now = memory + 2 * (size_t)n;
    for (uint32_t step = 0; step < 2 * (n - 1); step++) {
        for (uint32_t rank = 0; rank < n; rank++) {
            SF_TRY(ring_step(t, rank, slices, step == 0, before, last, now));
        }
        uint32_t *swap = before;
        before = now;
        now = swap;
    }
    return 0;
}

/* Of one step of one rank among n. */
static uint64_t ring_slices(const struct sf_net_job *job, uint32_t n) {
    uint64_t chunk = (job->bytes + n - 1) / n, line = protocols[job->protocol].line;
    uint64_t slot = protocols[job->protocol].slot_bytes / line * protocols[job->protocol].data * job->channels;
    return (chunk + slot - 1) / slot;
}

static int ring(struct traffic *t) {
    uint32_t n = t->job->endpoints;
    uint32_t *memory = sf_calloc(3 * (size_t)n, sizeof *memory);
    int rc =
        memory == NULL ? sf_fail_memory(t->err, "a ring") : ring_steps(t, (uint32_t)ring_slices(t->job, n), memory);
    sf_free(memory);
    return rc;
}

/* ---- 1F1B pipeline ----------------------------------------------------------------------------------------------- */

struct pipe { /* one pipeline; arrays by stage, or by stage and microbatch */
    struct traffic *t;
    uint32_t first, stride; /* endpoint of stage s: first + s * stride */
    uint32_t stages, microbatches;
    uint32_t *done;       /* computes issued by the stage */
    uint32_t *compute;    /* the last of them */
    uint32_t *sent[2];    /* the last message forward, and back */
    uint32_t *arrives[2]; /* [stage * microbatches + m]: the message with its input */
};

struct step {
    uint32_t microbatch;
    bool backward;
};

/* Warm-up forwards, then one forward and one backward in turn, then the backwards left. */
static struct step step_of(const struct pipe *p, uint32_t stage, uint32_t i) {
    uint32_t warm = p->stages - stage - 1 < p->microbatches ? p->stages - stage - 1 : p->microbatches;
    if (i < warm) {
        return (struct step){i, false};
    }
    uint32_t k = i - warm, pairs = p->microbatches - warm;
    if (k < 2 * pairs) {
        return (struct step){k % 2 ? k / 2 : warm + k / 2, k % 2};
    }
    return (struct step){pairs + k - 2 * pairs, true};
}

static int pipe_send(struct pipe *p, uint32_t stage, struct step s) {
    uint32_t to = s.backward ? stage - 1 : stage + 1, item, *sent = &p->sent[s.backward][stage];
    SF_TRY(send(p->t, p->first + stage * p->stride, p->first + to * p->stride, p->t->job->bytes, &item));
    sf_net_add_wait(p->t->net, item, p->compute[stage], SF_NET_DELIVERED);
    if (s.microbatch > 0) {
        sf_net_add_wait(p->t->net, item, *sent, SF_NET_SENT);
    }
    *sent = item;
    p->arrives[s.backward][(size_t)to * p->microbatches + s.microbatch] = item;
    return 0;
}

/* Issues the stage's next compute when its input is on its way. */
static int pipe_step(struct pipe *p, uint32_t stage, bool *moved) {
    struct step s = step_of(p, stage, p->done[stage]);
    bool fed = stage == (s.backward ? p->stages - 1 : 0);
    uint32_t input = p->arrives[s.backward][(size_t)stage * p->microbatches + s.microbatch];
    if (!fed && input == SF_NONE) {
        return 0;
    }
    sf_time_ps forward = p->t->job->forward_ps;
    uint32_t item = sf_net_add_delay(p->t->net, p->first + stage * p->stride, s.backward ? 2 * forward : forward);
    if (!fed) {
        sf_net_add_wait(p->t->net, item, input, SF_NET_DELIVERED);
    }
    if (p->done[stage] > 0) {
        sf_net_add_wait(p->t->net, item, p->compute[stage], SF_NET_DELIVERED);
    }
    p->compute[stage] = item;
    p->done[stage]++;
    *moved = true;
    bool leaves = stage != (s.backward ? 0 : p->stages - 1);
    return leaves ? pipe_send(p, stage, s) : sf_net_check(p->t->net, p->t->err);
}

static int pipe_steps(struct pipe *p) {
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t stage = 0; stage < p->stages; stage++) {
            if (p->done[stage] < 2 * p->microbatches) {
                SF_TRY(pipe_step(p, stage, &moved));
            }
        }
    }
    return 0;
}

static int pipelines(struct traffic *t) {
    uint32_t stages = t->job->stages, n = t->job->endpoints / stages;
    size_t cells = (size_t)stages * t->job->microbatches, words = 4 * (size_t)stages + 2 * cells;
    uint32_t *memory = sf_calloc(words, sizeof *memory);
    int rc = memory == NULL ? sf_fail_memory(t->err, "a pipeline") : 0;
    for (uint32_t first = 0; first < n && rc == 0; first++) {
        struct pipe p = {t, first, n, stages, t->job->microbatches, memory, memory + stages, {0}, {0}};
        for (int back = 0; back < 2; back++) {
            p.sent[back] = memory + (2 + (size_t)back) * stages;
            p.arrives[back] = memory + 4 * (size_t)stages + (size_t)back * cells;
        }
        memset(p.done, 0, stages * sizeof *p.done);
        memset(p.arrives[0], 0xff, 2 * cells * sizeof *memory); /* SF_NONE */
        rc = pipe_steps(&p);
    }
    sf_free(memory);
    return rc;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

#define STAGES_DEFAULT 16
#define MICROBATCHES_MAX 65536

static int pipeline_defaults(struct sf_net_job *job, struct sf_err *err) {
    for (uint32_t s = STAGES_DEFAULT; job->stages == 0; s--) {
        job->stages = job->endpoints % s == 0 ? s : 0;
    }
    job->microbatches = job->microbatches ? job->microbatches : 4 * job->stages;
    if (job->stages < 2 || job->endpoints % job->stages != 0 || job->microbatches > MICROBATCHES_MAX) {
        return sf_fail(
            err, SF_E_USAGE,
            "%u endpoints as pipelines of %u stages and %u microbatches: expected 2 stages or more that divide "
            "the endpoints, and at most %d microbatches",
            job->endpoints, job->stages, job->microbatches, MICROBATCHES_MAX);
    }
    return 0;
}

static int job_check(const struct sf_topo *t, struct sf_net_job *job, struct sf_err *err) {
    if (job->bytes == 0 || job->bytes > SF_NET_BYTES_MAX) {
        return sf_fail(err, SF_E_USAGE, "messages of %llu bytes: expected 1 to 2^50", (unsigned long long)job->bytes);
    }
    if (job->channels == 0 || job->channels > 64) {
        return sf_fail(err, SF_E_USAGE, "%u channels: expected 1 to 64", job->channels);
    }
    job->rails = sf_topo_rails(t);
    return job->pattern == SF_NET_PIPELINE ? pipeline_defaults(job, err) : 0;
}

/* ---- how much work it is ----------------------------------------------------------------------------------------- */

/* Messages and delays of n endpoints; all-to-all: of rails that share them evenly. */
static double items_of(const struct sf_net_job *job, uint32_t endpoints) {
    double n = endpoints, stages = job->stages, microbatches = job->microbatches;
    double rails = job->per_domain > 0 && job->per_domain < job->rails ? job->per_domain : job->rails;
    switch (job->pattern) {
    case SF_NET_INCAST:
        return n - 1;
    case SF_NET_PERMUTATION:
        return n;
    case SF_NET_ALL_TO_ALL:
        return n * (n / rails - 1);
    case SF_NET_RING:
        return n * 2 * (n - 1) * (double)ring_slices(job, endpoints);
    default:
        return n / stages * microbatches * (2 * stages + 2 * (stages - 1));
    }
}

/* Told before the first message is made: with so many it would take hours. */
static int check_work(const struct sf_topo *t, const struct sf_net_job *job, struct sf_err *err) {
    uint32_t low = 1, high = job->endpoints;
    double items = items_of(job, job->endpoints);
    if (job->endpoints < 2 || job->endpoints > sf_topo_gpus_in_use(t) || items <= SF_NET_ITEMS_MAX) {
        return 0; /* endpoints that the cluster lacks are told where they are placed */
    }
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        *(items_of(job, middle) <= SF_NET_ITEMS_MAX ? &low : &high) = middle;
    }
    char fits[64] = "";
    if (low > 1) {
        snprintf(fits, sizeof fits, "at most %u endpoints", low);
    }
    const char *less = job->pattern == SF_NET_RING       ? "fewer bytes"
                       : job->pattern == SF_NET_PIPELINE ? "fewer microbatches"
                                                         : "";
    return sf_fail(err, SF_E_USAGE, "%s over %u endpoints would send %.3g messages; at most %u fit: expected %s%s%s",
                   sf_net_pattern_name((int)job->pattern), job->endpoints, items, SF_NET_ITEMS_MAX, fits,
                   low > 1 && less[0] ? ", or " : "", less);
}

/* An endpoint that has its rail for itself has nobody to send to. */
static int count_rails(const struct sfi_net_places *p, struct sf_net_job *job, struct sf_err *err) {
    uint32_t *members = sf_calloc(job->rails, sizeof *members), alone = SF_NONE;
    if (members == NULL) {
        return sf_fail_memory(err, "rails");
    }
    for (uint32_t i = 0; i < job->endpoints; i++) {
        members[sfi_net_places_rail(p, i)]++;
    }
    for (uint32_t rail = job->rails; rail-- > 0;) {
        job->fullest_rail = members[rail] > job->fullest_rail ? members[rail] : job->fullest_rail;
        alone = members[rail] == 1 ? rail : alone;
    }
    sf_free(members);
    return alone == SF_NONE
               ? 0
               : sf_fail(
                     err, SF_E_USAGE,
                     "all-to-all runs within each rail, but of %u endpoints, %u per domain, only one is on rail %u: "
                     "expected two or more on each of the %u rails, or --per-domain 1",
                     job->endpoints, job->per_domain, alone, job->rails);
}

int sf_net_of_job(const struct sf_topo *t, struct sf_net_job *job, struct sf_net **out, struct sf_err *err) {
    static int (*const make[SF_NET_PATTERNS_N])(struct traffic *) = {
        [SF_NET_INCAST] = incast, [SF_NET_PERMUTATION] = permutation, [SF_NET_ALL_TO_ALL] = all_to_all,
        [SF_NET_RING] = ring,     [SF_NET_PIPELINE] = pipelines,
    };
    struct sfi_net_places *places = NULL;
    struct sf_net *n = NULL;
    int rc;
    SF_TRY_GOTO(rc, job_check(t, job, err), done);
    SF_TRY_GOTO(rc, check_work(t, job, err), done);
    n = sf_net_create(job->wire);
    SF_TRY_GOTO(rc, n != NULL ? sf_net_check(n, err) : sf_fail_memory(err, "a network"), done);
    SF_TRY_GOTO(rc, sfi_net_places_create(n, t, job, &places, err), done);
    SF_TRY_GOTO(rc, job->pattern == SF_NET_ALL_TO_ALL ? count_rails(places, job, err) : 0, done);
    n->progress = job->progress;
    n->progress_self = job->progress_self;
    struct traffic traffic = {n, places, job, (uint64_t)items_of(job, job->endpoints) + 1, err};
    SF_TRY_GOTO(rc, make[job->pattern](&traffic), done);
    rc = sf_net_check(n, err);
done:
    sfi_net_places_free(places);
    if (rc != 0) {
        sf_net_free(n);
        n = NULL;
    }
    *out = n;
    return rc;
}

double sf_net_busbw(const struct sf_net_job *job, sf_time_ps time) {
    double n = job->endpoints, rate = time > 0 ? (double)job->bytes / sf_ps_to_s(time) : 0;
    switch (job->pattern) {
    case SF_NET_PERMUTATION:
        return rate;
    case SF_NET_ALL_TO_ALL:
        n = job->fullest_rail;
        return n > 1 ? rate * (n - 1) / n : 0;
    case SF_NET_RING:
        return rate * 2 * (n - 1) / n;
    default:
        return 0;
    }
}
