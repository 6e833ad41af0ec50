/* Placing all passes by a policy: a small discrete-event run. Whenever a device is free it looks at the next pass of
 * each kind of each of its chunks (microbatches are alike, so they pass every stage in order) and takes the one with
 * the smallest key among those that have arrived, or idles for a better one that arrives soon. */
#include <string.h>

#include "core/arena.h"
#include "planner/synth_internal.h"

#define ROUNDING 1e-9 /* of memory sums, relative to the limit */

struct stage {
    sf_time_ps f_ready, b_ready; /* of the next F and B; SFI_NEVER while unknown */
    uint32_t f_n, b_n, w_n;      /* passes done */
    double base[SFI_SYNTH_PHASES][SFI_SYNTH_KINDS];
    double keep[SFI_SYNTH_PHASES]; /* memory kept for this chunk, in its passes, before it has any */
};

struct device {
    sf_time_ps first, free, busy;
    sf_time_ps idle; /* when it was through the phase that was asked for */
    double memory;
    int phase;
    bool used;
};

struct sfi_placer {
    const struct sfi_synth *s;
    struct stage *stages;
    struct device *devices;
    sf_time_ps *f_end, *b_end; /* [stages][microbatches] */
    sf_time_ps *excess;        /* [devices] */
    sf_time_ps *wake;          /* [2 * leaves] smallest of the two below; leaves are devices */
    uint32_t leaves;
    /* of the run */
    const struct sfi_policy *policy;
    sf_time_ps wait[SFI_SYNTH_PHASES];
    uint32_t microbatches, through_n; /* devices that are through the phase asked for */
    int through;
    struct sf_pipe *record;
};

/* What a device could do now. */
struct choice {
    double key, later_key;
    sf_time_ps later; /* arrival of the best pass worth waiting for */
    sf_time_ps soon;  /* next arrival of anything */
    uint32_t stage;
    int kind; /* -1: nothing */
};

int sfi_placer_create(const struct sfi_synth *s, struct sfi_placer **out, struct sf_err *err) {
    struct sfi_placer *p = sf_calloc(1, sizeof *p);
    size_t nodes = (size_t)s->stages * s->microbatches;
    if (p == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    p->s = s;
    p->leaves = 1;
    while (p->leaves < s->devices) {
        p->leaves *= 2;
    }
    p->stages = sf_calloc(s->stages, sizeof *p->stages);
    p->devices = sf_calloc(s->devices, sizeof *p->devices);
    p->f_end = sf_calloc(nodes, sizeof *p->f_end);
    p->b_end = sf_calloc(nodes, sizeof *p->b_end);
    p->excess = sf_calloc(s->devices, sizeof *p->excess);
    p->wake = sf_calloc((size_t)2 * p->leaves, sizeof *p->wake);
    if (p->stages == NULL || p->devices == NULL || p->f_end == NULL || p->b_end == NULL || p->excess == NULL ||
        p->wake == NULL) {
        sfi_placer_free(p);
        return sf_fail_memory(err, "schedule search");
    }
    *out = p;
    return 0;
}

void sfi_placer_free(struct sfi_placer *p) {
    if (p != NULL) {
        sf_free(p->stages);
        sf_free(p->devices);
        sf_free(p->f_end);
        sf_free(p->b_end);
        sf_free(p->excess);
        sf_free(p->wake);
        sf_free(p);
    }
}

static void set_wake(struct sfi_placer *p, uint32_t device, sf_time_ps t) {
    sfi_least_set(p->wake, p->leaves, device, t);
}

static void wake_by(struct sfi_placer *p, uint32_t device, sf_time_ps t) {
    t = t > p->devices[device].free ? t : p->devices[device].free;
    if (t < p->wake[p->leaves + device]) {
        set_wake(p, device, t);
    }
}

/* The first device of those that wake next. */
static uint32_t next_device(const struct sfi_placer *p) {
    uint32_t i = 1;
    while (i < p->leaves) {
        i = p->wake[2 * i] == p->wake[i] ? 2 * i : 2 * i + 1;
    }
    return i - p->leaves;
}

static void set_keep(struct sfi_placer *p, uint32_t stage, uint32_t from_top) {
    const struct sfi_synth *s = p->s;
    const struct sfi_policy *y = p->policy;
    sf_time_ps cycle = s->f[stage] + s->b[stage] + s->w[stage];
    double round_trip = (double)(s->b_at[stage] - s->f_at[stage]) / (double)cycle;
    for (int phase = 0; phase < SFI_SYNTH_PHASES; phase++) {
        double keep =
            y->flow[phase][from_top] * round_trip + y->lead[phase][from_top] * (from_top > 0 ? s->devices : 1);
        p->stages[stage].keep[phase] = keep > (double)p->microbatches ? p->microbatches : (double)(uint32_t)keep;
    }
}

/* Keys grow with the time at which a pass could run at the earliest, as strongly as the policy's age says. */
static void set_stage(struct sfi_placer *p, uint32_t stage, uint32_t chunk) {
    const struct sfi_synth *s = p->s;
    const struct sfi_policy *y = p->policy;
    struct stage *st = &p->stages[stage];
    double per_period = 1 / (double)s->period;
    for (int phase = 0; phase < SFI_SYNTH_PHASES; phase++) {
        for (int kind = 0; kind < SFI_SYNTH_KINDS; kind++) {
            sf_time_ps at = kind == SF_PASS_F ? s->f_at[stage] : s->b_at[stage];
            st->base[phase][kind] = y->key[phase][kind][chunk] + y->age[phase] * (double)at * per_period;
        }
    }
    set_keep(p, stage, s->chunks - 1 - chunk);
    st->f_ready = stage == 0 ? 0 : SFI_NEVER;
    st->b_ready = SFI_NEVER;
    st->f_n = st->b_n = st->w_n = 0;
}

static void reset(struct sfi_placer *p) {
    const struct sfi_synth *s = p->s;
    memset(p->devices, 0, s->devices * sizeof *p->devices);
    for (uint32_t i = 0; i < 2 * p->leaves; i++) {
        p->wake[i] = SFI_NEVER;
    }
    sf_time_ps sum = 0;
    for (uint32_t d = 0; d < s->devices; d++) {
        for (uint32_t j = 0; j < s->chunks; j++) {
            set_stage(p, s->held[d * s->chunks + j], j);
        }
        sum += s->work[d];
    }
    double mean = (double)sum / (3.0 * s->stages);
    for (int phase = 0; phase < SFI_SYNTH_PHASES; phase++) {
        p->wait[phase] = (sf_time_ps)(p->policy->wait[phase] * mean);
    }
    set_wake(p, s->device_of[0], 0);
}

static inline void offer(struct choice *c, double key, sf_time_ps ready, sf_time_ps now, sf_time_ps wait,
                         uint32_t stage, int kind) {
    if (ready <= now) {
        if (key < c->key) {
            c->key = key;
            c->stage = stage;
            c->kind = kind;
        }
        return;
    }
    if (key < c->later_key && ready - now <= wait) {
        c->later_key = key;
        c->later = ready;
    }
    c->soon = ready < c->soon ? ready : c->soon;
}

/* Memory to leave alone for this chunk when an earlier one asks. */
static inline double kept(const struct sfi_placer *p, const struct stage *st, int phase) {
    double keep = p->policy->reserve;
    if (st->keep[phase] > 0) {
        double more = st->keep[phase] - (st->f_n - st->b_n), left = p->microbatches - st->f_n;
        more = more < left ? more : left;
        keep = keep > more ? keep : more;
    }
    return keep;
}

static void look(const struct sfi_placer *p, uint32_t d, sf_time_ps now, struct choice *c) {
    const struct sfi_synth *s = p->s;
    const struct device *dev = &p->devices[d];
    const uint16_t *held = &s->held[d * s->chunks];
    double room = s->limit * (1 + ROUNDING) - dev->memory, age = p->policy->age[dev->phase];
    sf_time_ps wait = p->wait[dev->phase];
    *c = (struct choice){.key = 1e300, .later_key = 1e300, .soon = SFI_NEVER, .kind = -1};
    for (uint32_t j = s->chunks; j-- > 0;) {
        const struct stage *st = &p->stages[held[j]];
        const double *base = st->base[dev->phase];
        if (st->f_n < p->microbatches) {
            if (s->mem_f[held[j]] <= room) {
                offer(c, base[SF_PASS_F] + age * st->f_n, st->f_ready, now, wait, held[j], SF_PASS_F);
            }
            room -= s->mem_f[held[j]] * kept(p, st, dev->phase);
        }
        if (st->b_n < st->f_n) {
            offer(c, base[SF_PASS_B] + age * st->b_n, st->b_ready, now, wait, held[j], SF_PASS_B);
        }
        if (st->w_n < st->b_n) {
            offer(c, base[SF_PASS_W] + age * st->w_n, now, now, wait, held[j], SF_PASS_W);
        }
    }
}

/* When the pass of `to` that waits for number `n` of stage `from` can start. */
static inline sf_time_ps arrival(const struct sfi_placer *p, const sf_time_ps *end, uint32_t from, uint32_t to,
                                 uint32_t n) {
    const struct sfi_synth *s = p->s;
    return end[(size_t)from * s->microbatches + n] + (s->device_of[from] == s->device_of[to] ? 0 : s->comm);
}

static void set_f_ready(struct sfi_placer *p, uint32_t stage) {
    struct stage *st = &p->stages[stage];
    bool made = stage == 0 || p->stages[stage - 1].f_n > st->f_n;
    st->f_ready = !made ? SFI_NEVER : stage == 0 ? 0 : arrival(p, p->f_end, stage - 1, stage, st->f_n);
}

static void set_b_ready(struct sfi_placer *p, uint32_t stage) {
    struct stage *st = &p->stages[stage];
    if (stage + 1 == p->s->stages) {
        st->b_ready = st->f_n > st->b_n ? arrival(p, p->f_end, stage, stage, st->b_n) : SFI_NEVER;
    } else {
        st->b_ready = p->stages[stage + 1].b_n > st->b_n ? arrival(p, p->b_end, stage + 1, stage, st->b_n) : SFI_NEVER;
    }
}

static void run_f(struct sfi_placer *p, uint32_t stage, sf_time_ps end) {
    const struct sfi_synth *s = p->s;
    struct stage *st = &p->stages[stage];
    p->f_end[(size_t)stage * s->microbatches + st->f_n++] = end;
    set_f_ready(p, stage);
    if (stage + 1 == s->stages) {
        set_b_ready(p, stage);
    } else if (p->stages[stage + 1].f_n + 1 == st->f_n) {
        set_f_ready(p, stage + 1);
        wake_by(p, s->device_of[stage + 1], p->stages[stage + 1].f_ready);
    }
}

static void run_b(struct sfi_placer *p, uint32_t stage, sf_time_ps end) {
    const struct sfi_synth *s = p->s;
    struct stage *st = &p->stages[stage];
    p->b_end[(size_t)stage * s->microbatches + st->b_n++] = end;
    set_b_ready(p, stage);
    if (stage > 0 && p->stages[stage - 1].b_n + 1 == st->b_n) {
        set_b_ready(p, stage - 1);
        wake_by(p, s->device_of[stage - 1], p->stages[stage - 1].b_ready);
    }
}

static void enter(struct sfi_placer *p, struct device *dev, int phase) {
    if (phase > dev->phase) {
        if (dev->phase <= p->through && phase > p->through) {
            dev->idle = dev->free - dev->first - dev->busy;
            p->through_n++;
        }
        dev->phase = phase;
    }
}

/* After a B. */
static int phase_of(const struct sfi_placer *p, uint32_t d, uint32_t stage) {
    const struct sfi_synth *s = p->s;
    if (stage != s->held[d * s->chunks]) {
        return SFI_RAMP;
    }
    const struct stage *st = &p->stages[stage];
    if (!sfi_has_all_phases(s)) {
        return SFI_STEADY;
    }
    return st->b_n < s->devices ? SFI_SETTLE : st->f_n + s->devices < p->microbatches ? SFI_STEADY : SFI_LATE;
}

static void run_pass(struct sfi_placer *p, uint32_t d, const struct choice *c, sf_time_ps now) {
    const struct sfi_synth *s = p->s;
    struct device *dev = &p->devices[d];
    struct stage *st = &p->stages[c->stage];
    sf_time_ps cost = (c->kind == SF_PASS_F ? s->f : c->kind == SF_PASS_B ? s->b : s->w)[c->stage], end = now + cost;
    uint32_t *done = c->kind == SF_PASS_F ? &st->f_n : c->kind == SF_PASS_B ? &st->b_n : &st->w_n;
    if (p->record != NULL) {
        sf_pipe_push(p->record, d, (enum sf_pass_kind)c->kind, c->stage, *done, 0);
    }
    if (!dev->used) {
        dev->used = true;
        dev->first = now;
    }
    dev->free = end;
    dev->busy += cost;
    set_wake(p, d, end);
    if (c->kind == SF_PASS_F) {
        dev->memory += s->mem_f[c->stage];
        run_f(p, c->stage, end);
        if (c->stage == s->held[d * s->chunks] && st->f_n == p->microbatches) {
            enter(p, dev, SFI_DRAIN);
        }
    } else if (c->kind == SF_PASS_B) {
        dev->memory -= s->mem_b[c->stage];
        run_b(p, c->stage, end);
        enter(p, dev, phase_of(p, d, c->stage));
    } else {
        dev->memory -= s->mem_w[c->stage];
        st->w_n++;
    }
}

/* Largest excess, and a mean over devices that leans to the large ones: it still falls when only the second worst
 * device gets better. */
struct sfi_try sfi_try_of(const struct sfi_synth *s, const sf_time_ps *excess) {
    sf_time_ps worst = 0;
    double sum = 0;
    for (uint32_t d = 0; d < s->devices; d++) {
        double z = excess[d] > 0 ? (double)excess[d] / (double)s->period : 0, z2 = z * z;
        worst = excess[d] > worst ? excess[d] : worst;
        sum += z2 * z2;
    }
    double worst_z = (double)worst / (double)s->period, floor4 = worst_z * worst_z * worst_z * worst_z;
    double score = worst_z * (1 + 0.05 * (floor4 > 0 ? sum / floor4 / s->devices : 0));
    return (struct sfi_try){.excess = worst, .score = score};
}

static struct sfi_try judge(const struct sfi_placer *p) {
    const struct sfi_synth *s = p->s;
    sf_time_ps most = s->period * p->microbatches;
    for (uint32_t d = 0; d < s->devices; d++) {
        const struct device *dev = &p->devices[d];
        sf_time_ps spare = (s->period - s->work[d]) * p->microbatches;
        p->excess[d] = p->through < SFI_DRAIN ? dev->idle - spare : dev->free - dev->first - most;
    }
    return sfi_try_of(s, p->excess);
}

uint64_t sfi_place(struct sfi_placer *p, const struct sfi_policy *policy, uint32_t microbatches, int through,
                   sf_time_ps give_up, struct sf_pipe *record, struct sfi_try *out) {
    const struct sfi_synth *s = p->s;
    uint64_t all = (uint64_t)3 * s->stages * microbatches, placed = 0;
    p->policy = policy;
    p->microbatches = microbatches;
    p->record = record;
    p->through = through;
    p->through_n = 0;
    *out = (struct sfi_try){.excess = SFI_NEVER, .score = 1e300};
    reset(p);
    while (placed < all && p->through_n < s->devices && p->wake[1] != SFI_NEVER) {
        uint32_t d = next_device(p);
        struct device *dev = &p->devices[d];
        struct choice c;
        sf_time_ps now = p->wake[1] > dev->free ? p->wake[1] : dev->free;
        look(p, d, now, &c);
        if (c.later_key < c.key) {
            set_wake(p, d, c.later);
        } else if (c.kind < 0) {
            set_wake(p, d, c.soon);
        } else {
            sf_time_ps spare = (s->period - s->work[d]) * microbatches;
            if (dev->used && now - dev->first - dev->busy > give_up + spare) {
                return placed;
            }
            run_pass(p, d, &c, now);
            placed++;
        }
    }
    if (placed == all || p->through_n == s->devices) {
        *out = judge(p);
    }
    return placed;
}
