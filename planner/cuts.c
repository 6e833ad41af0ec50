#include "planner/cuts.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/arena.h"

struct sums { /* of the units before each, per way */
    sf_time_ps time;
    uint64_t fixed, activation;
};

struct best {         /* over the first units in the first stages */
    uint64_t devices; /* UINT64_MAX: impossible */
    double squares;
    uint32_t from;
    uint8_t way;
};

struct solver {
    const struct sf_cut_problem *p;
    struct sums *sums; /* [(units + 1) * ways] */
    struct best *best; /* [(stages + 1) * (units + 1)] */
    uint64_t short_by; /* smallest lack of memory that any stage of a complete cut must have; 0: none */
};

static const struct sums *sums_at(const struct solver *s, uint32_t unit, uint32_t way) {
    return &s->sums[(size_t)unit * s->p->ways_n + way];
}

static struct best *best_at(const struct solver *s, uint32_t stage, uint32_t unit) {
    return &s->best[(size_t)stage * (s->p->units_n + 1) + unit];
}

static sf_time_ps time_of(const struct solver *s, uint32_t from, uint32_t to, uint32_t way) {
    return sums_at(s, to, way)->time - sums_at(s, from, way)->time;
}

/* What a stage of these units needs beyond its limit. */
static uint64_t lack_of(const struct solver *s, uint32_t stage, uint32_t from, uint32_t to, uint32_t way) {
    const struct sums *a = sums_at(s, from, way), *b = sums_at(s, to, way);
    uint64_t bytes, limit = s->p->limit_bytes[stage];
    if (__builtin_mul_overflow(b->activation - a->activation, s->p->in_flight[stage], &bytes) ||
        __builtin_add_overflow(bytes, b->fixed - a->fixed, &bytes)) {
        bytes = UINT64_MAX;
    }
    return bytes > limit ? bytes - limit : 0;
}

static bool better(uint64_t devices, double squares, const struct best *than) {
    return devices != than->devices ? devices < than->devices : squares < than->squares;
}

/* The last of the first `stage + 1` stages takes units from..to-1. */
static void try_stage(const struct solver *s, uint32_t stage, uint32_t from, uint32_t to, sf_time_ps limit) {
    const struct best *before = best_at(s, stage, from);
    struct best *now = best_at(s, stage + 1, to);
    if (before->devices == UINT64_MAX) {
        return;
    }
    for (uint32_t way = 0; way < s->p->ways_n; way++) {
        sf_time_ps time = time_of(s, from, to, way);
        uint64_t devices = before->devices + s->p->way_devices[way];
        double squares = before->squares + (double)time * (double)time;
        if (time <= limit && better(devices, squares, now) && lack_of(s, stage, from, to, way) == 0) {
            *now = (struct best){devices, squares, from, (uint8_t)way};
        }
    }
}

static uint64_t fewest_devices(const struct solver *s, sf_time_ps limit) {
    uint32_t n = s->p->units_n, stages = s->p->stages_n;
    for (uint32_t i = 0; i < (stages + 1) * (n + 1); i++) {
        s->best[i].devices = UINT64_MAX;
    }
    *best_at(s, 0, 0) = (struct best){0};
    for (uint32_t stage = 0; stage < stages; stage++) {
        for (uint32_t to = stage + 1; to <= n - (stages - 1 - stage); to++) {
            for (uint32_t from = stage; from < to; from++) { /* of equals the first: later stages hold more */
                try_stage(s, stage, from, to, limit);
            }
        }
    }
    return best_at(s, stages, n)->devices;
}

static int by_time(const void *a, const void *b) {
    sf_time_ps x = *(const sf_time_ps *)a, y = *(const sf_time_ps *)b;
    return (x > y) - (x < y);
}

static size_t list_times(const struct solver *s, sf_time_ps *out) {
    size_t n = 0;
    for (uint32_t way = 0; way < s->p->ways_n; way++) {
        for (uint32_t from = 0; from < s->p->units_n; from++) {
            for (uint32_t to = from + 1; to <= s->p->units_n; to++) {
                out[n++] = time_of(s, from, to, way);
            }
        }
    }
    qsort(out, n, sizeof *out, by_time);
    return n;
}

/* The smallest largest lack of memory over all cuts, for the message: the same programme with lack as the cost. */
static int explain_memory(struct solver *s, struct sf_err *err) {
    uint32_t n = s->p->units_n, stages = s->p->stages_n, at = n, worst = 0;
    for (uint32_t i = 0; i < (stages + 1) * (n + 1); i++) {
        s->best[i].devices = UINT64_MAX;
    }
    best_at(s, 0, 0)->devices = 0;
    for (uint32_t stage = 0; stage < stages; stage++) {
        for (uint32_t to = stage + 1; to <= n; to++) {
            for (uint32_t from = stage; from < to; from++) {
                uint64_t before = best_at(s, stage, from)->devices;
                for (uint32_t way = 0; way < s->p->ways_n && before != UINT64_MAX; way++) {
                    uint64_t lack = lack_of(s, stage, from, to, way);
                    lack = lack > before ? lack : before;
                    if (lack < best_at(s, stage + 1, to)->devices) {
                        *best_at(s, stage + 1, to) = (struct best){lack, 0, from, (uint8_t)way};
                    }
                }
            }
        }
    }
    for (uint32_t stage = stages; stage-- > 0;) {
        const struct best *b = best_at(s, stage + 1, at);
        worst = lack_of(s, stage, b->from, at, b->way) == best_at(s, stages, n)->devices ? stage : worst;
        at = b->from;
    }
    return sf_fail(err, SF_E_NOPLAN,
                   "no cut into %u stages fits: in the one that comes closest stage %u lacks %" PRIu64 " bytes", stages,
                   worst, best_at(s, stages, n)->devices);
}

static int search(struct solver *s, sf_time_ps *times, struct sf_cut *out, struct sf_err *err) {
    size_t n = list_times(s, times), low = 0, high = n - 1;
    uint64_t devices = fewest_devices(s, times[high]);
    if (devices == UINT64_MAX) {
        return explain_memory(s, err);
    }
    if (devices > s->p->devices) {
        return sf_fail(err, SF_E_NOPLAN, "no cut into %u stages fits %u devices: it takes %" PRIu64, s->p->stages_n,
                       s->p->devices, devices);
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (fewest_devices(s, times[middle]) <= s->p->devices) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    out->devices = (uint32_t)fewest_devices(s, times[low]);
    out->slowest = times[low];
    out->first[s->p->stages_n] = s->p->units_n;
    for (uint32_t stage = s->p->stages_n; stage-- > 0;) {
        const struct best *b = best_at(s, stage + 1, out->first[stage + 1]);
        out->first[stage] = b->from;
        out->way[stage] = b->way;
    }
    return SF_OK;
}

static int add_up(const struct solver *s, struct sf_err *err) {
    uint32_t ways = s->p->ways_n;
    for (uint32_t i = 0; i < s->p->units_n; i++) {
        for (uint32_t way = 0; way < ways; way++) {
            const struct sf_cut_unit *u = &s->p->units[i];
            struct sums *a = &s->sums[(size_t)i * ways + way], *b = a + ways;
            if (u->time[way] < 0 || __builtin_add_overflow(a->time, u->time[way], &b->time) ||
                __builtin_add_overflow(a->fixed, u->fixed_bytes[way], &b->fixed) ||
                __builtin_add_overflow(a->activation, u->activation_bytes[way], &b->activation)) {
                return sf_fail(err, SF_E_INPUT, "unit %u of the model: expected times and sizes that add up in 63 bits",
                               i);
            }
        }
    }
    return SF_OK;
}

static int check(const struct sf_cut_problem *p, struct sf_err *err) {
    if (p->stages_n < 1 || p->stages_n > SF_CUT_STAGES || p->units_n < p->stages_n || p->units_n > SF_CUT_UNITS) {
        return sf_fail(err, SF_E_INPUT, "expected 1 to %d stages and as many to %d units, found %u and %u",
                       SF_CUT_STAGES, SF_CUT_UNITS, p->stages_n, p->units_n);
    }
    if (p->ways_n < 1 || p->ways_n > SF_CUT_WAYS) {
        return sf_fail(err, SF_E_INPUT, "expected 1 to %d ways to run a stage, found %u", SF_CUT_WAYS, p->ways_n);
    }
    return SF_OK;
}

int sf_cut(const struct sf_cut_problem *problem, struct sf_cut *out, struct sf_err *err) {
    SF_TRY(check(problem, err));
    size_t n = problem->units_n, ways = problem->ways_n;
    struct solver s = {.p = problem};
    sf_time_ps *times = sf_malloc(n * (n + 1) / 2 * ways * sizeof *times);
    s.sums = sf_calloc((n + 1) * ways, sizeof *s.sums);
    s.best = sf_calloc((n + 1) * (problem->stages_n + 1), sizeof *s.best);
    int rc = times && s.sums && s.best ? add_up(&s, err) : sf_fail_memory(err, "cutting the model");
    rc = rc ? rc : search(&s, times, out, err);
    sf_free(times);
    sf_free(s.sums);
    sf_free(s.best);
    return rc;
}
