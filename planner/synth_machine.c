/* The one-machine bound of job shops (Carlier 1982), for few microbatches, where the way through the pipeline counts
 * for more than memory.
 *
 * Every pass of a device has a head, the time from the first start of device d to its own start at the least, and a
 * tail, from its end to the last end of d. Heads follow from the inputs and from the passes before it on its stage,
 * tails from those that need it. If the device could take passes up and put them down as it likes, always going on
 * with the one of those there that has the longest tail would make the latest end plus tail as small as can be; no
 * order of whole passes does better. W of other devices does not touch the span of d and is left out. */
#include "core/arena.h"
#include "planner/synth_internal.h"

#define MOST_STEPS UINT64_C(4000000) /* the bound takes (devices x passes of a device) squared */

struct op {
    sf_time_ps head, left, tail;
};

struct heads {
    const struct sfi_synth *s;
    sf_time_ps *f, *b;   /* [stages][microbatches] starts, from the first F of stage `to` */
    sf_time_ps *ft, *bt; /* tails, to the end of the last B of stage `to` and its W */
    struct op *ops;
    uint32_t ops_n;
};

static sf_time_ps later(sf_time_ps a, sf_time_ps b) {
    return a > b ? a : b;
}

/* In the order of stages and microbatches, so that what a pass needs is there. Only what follows from the first F of
 * stage `from`, which device d starts with: what comes before that stage need not be late when that F is. */
static void set_heads(struct heads *h, uint32_t from) {
    const struct sfi_synth *s = h->s;
    uint32_t m = s->microbatches, last = s->stages - 1;
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t x = from; x <= last; x++) {
            sf_time_ps input = x > from ? h->f[(x - 1) * m + i] + s->f[x - 1] + sfi_hop(s, x - 1, x) : 0;
            h->f[x * m + i] = later(input, i > 0 ? h->f[x * m + i - 1] + s->f[x] : 0);
        }
        for (uint32_t x = last + 1; x-- > from;) {
            sf_time_ps input = x < last ? h->b[(x + 1) * m + i] + s->b[x + 1] + sfi_hop(s, x + 1, x) : 0;
            input = later(input, h->f[x * m + i] + s->f[x]);
            h->b[x * m + i] = later(input, i > 0 ? h->b[x * m + i - 1] + s->b[x] : 0);
        }
    }
}

/* -1: the pass need not come before the end of device d. */
static void set_tails(struct heads *h, uint32_t to) {
    const struct sfi_synth *s = h->s;
    uint32_t m = s->microbatches, last = s->stages - 1;
    for (uint32_t i = m; i-- > 0;) {
        for (uint32_t x = 0; x <= last; x++) {
            sf_time_ps tail = x == to ? s->w[x] : -1;
            if (x > to) {
                tail = h->bt[(x - 1) * m + i] + s->b[x - 1] + sfi_hop(s, x, x - 1);
            }
            if (i + 1 < m && h->bt[x * m + i + 1] >= 0) {
                tail = later(tail, h->bt[x * m + i + 1] + s->b[x]);
            }
            h->bt[x * m + i] = tail;
        }
        for (uint32_t x = last + 1; x-- > 0;) {
            sf_time_ps tail = h->bt[x * m + i] >= 0 ? h->bt[x * m + i] + s->b[x] : -1;
            if (x < last && h->ft[(x + 1) * m + i] >= 0) {
                tail = later(tail, h->ft[(x + 1) * m + i] + s->f[x + 1] + sfi_hop(s, x, x + 1));
            }
            if (i + 1 < m && h->ft[x * m + i + 1] >= 0) {
                tail = later(tail, h->ft[x * m + i + 1] + s->f[x]);
            }
            h->ft[x * m + i] = tail;
        }
    }
}

static void add(struct heads *h, sf_time_ps head, sf_time_ps time, sf_time_ps tail) {
    if (tail >= 0) {
        h->ops[h->ops_n++] = (struct op){head, time, tail};
    }
}

static void list_ops(struct heads *h, uint32_t e, bool own) {
    const struct sfi_synth *s = h->s;
    h->ops_n = 0;
    for (uint32_t j = 0; j < s->chunks; j++) {
        uint32_t x = s->held[e * s->chunks + j];
        for (uint32_t i = 0; i < s->microbatches; i++) {
            size_t at = (size_t)x * s->microbatches + i;
            add(h, h->f[at], s->f[x], h->ft[at]);
            add(h, h->b[at], s->b[x], own ? later(h->bt[at], s->w[x]) : h->bt[at]);
            add(h, h->b[at] + s->b[x], s->w[x], own ? 0 : -1);
        }
    }
}

/* Preemptive, longest tail first. */
static sf_time_ps one_machine(struct heads *h) {
    sf_time_ps now = 0, end = 0;
    for (;;) {
        struct op *best = NULL;
        sf_time_ps next = SFI_NEVER;
        for (uint32_t i = 0; i < h->ops_n; i++) {
            struct op *o = &h->ops[i];
            if (o->left > 0 && o->head > now) {
                next = o->head < next ? o->head : next;
            } else if (o->left > 0 && (best == NULL || o->tail > best->tail)) {
                best = o;
            }
        }
        if (best == NULL && next == SFI_NEVER) {
            return end;
        }
        if (best == NULL) {
            now = next;
            continue;
        }
        sf_time_ps run = next - now < best->left ? next - now : best->left;
        now += run;
        best->left -= run;
        end = best->left == 0 ? later(end, now + best->tail) : end;
    }
}

/* Of the span of device d, by it and by the devices that hold only stages behind its first. */
static sf_time_ps bound_device(struct heads *h, uint32_t d) {
    uint32_t low = h->s->held[d * h->s->chunks];
    sf_time_ps best = 0;
    set_heads(h, low);
    set_tails(h, low);
    for (uint32_t e = 0; e < h->s->devices; e++) {
        if (h->s->held[e * h->s->chunks] >= low) {
            list_ops(h, e, e == d);
            best = later(best, one_machine(h));
        }
    }
    return best;
}

int sfi_bound_machines(const struct sfi_synth *s, sf_time_ps *bound, struct sf_bound_why *why, struct sf_err *err) {
    size_t nodes = (size_t)s->stages * s->microbatches, ops = (size_t)3 * s->chunks * s->microbatches;
    if (ops > MOST_STEPS || ops * s->devices * ops * s->devices > MOST_STEPS) {
        return 0;
    }
    struct heads h = {.s = s, .f = sf_calloc(4 * nodes, sizeof *h.f), .ops = sf_calloc(ops, sizeof *h.ops)};
    if (h.f == NULL || h.ops == NULL) {
        sf_free(h.f);
        sf_free(h.ops);
        return sf_fail_memory(err, "schedule search");
    }
    h.b = h.f + nodes;
    h.ft = h.b + nodes;
    h.bt = h.ft + nodes;
    for (uint32_t d = 0; d < s->devices; d++) {
        sf_time_ps span = bound_device(&h, d);
        if (span > *bound) {
            *bound = span;
            *why = (struct sf_bound_why){.reason = SF_BOUND_MACHINE, .device = d, .through = d};
        }
    }
    sf_free(h.f);
    sf_free(h.ops);
    return 0;
}
