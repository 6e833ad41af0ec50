/* Rings: a wavefront over the slices that every member sends.
 *
 * A member's j-th slice starts when its link has sent the one before, the slice it passes on has come from the member
 * before (one step, which is `slices` slices, earlier) and the member after has let go of a slot. All three have lower
 * numbers, so a row of the wavefront, one number per member, follows from rows before it. */
#include "sim/expand_internal.h"

#if defined __has_feature /* clang; resolvers run before a sanitizer is ready */
#define SFI_CLANG_SANITIZES                                                                                            \
    (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer))
#else
#define SFI_CLANG_SANITIZES 0
#endif

enum { PAD = 8, ROWS = SFI_SLOTS }; /* a row and what it needs from its neighbours around the ring */

struct ring {
    uint32_t n, steps;
    uint64_t loops;
    uint32_t slices, depth; /* of a step; that a channel's buffer holds */
    double begin;           /* from arrival to the first slice */
    double turn, drain;     /* from the last slice sent to the next loop; and how late the last one may come for that */
    double *row[ROWS], *wait, *busy, *start, *last, *never;
};

static struct ring plan(const struct sfi_expansion *x, const struct sfi_lap *lap) {
    struct ring r = {.n = x->n, .steps = (uint32_t)lap->steps, .loops = (uint64_t)lap->loops, .slices = lap->slices};
    r.depth = SFI_SLOTS / lap->slices; /* a slice of Simple fills two slots */
    /* The last slice still has to arrive: that time is part of the constants, which are fitted to whole collectives */
    r.begin = sfi_expand_ps(x->a.c->k.base[x->ask->protocol] + lap->turn - lap->drain);
    r.turn = sfi_expand_ps(lap->turn);
    r.drain = sfi_expand_ps(lap->drain);
    return r;
}

static size_t stride(uint32_t n) {
    return ((size_t)n + 2 * PAD + PAD - 1) / PAD * PAD;
}

static void place(struct ring *r, double *room) {
    double **rows[] = {&r->wait, &r->busy, &r->start, &r->last, &r->never};
    for (uint32_t i = 0; i < ROWS; i++, room += stride(r->n)) {
        r->row[i] = room + PAD;
    }
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++, room += stride(r->n)) {
        *rows[i] = room + PAD;
    }
}

static void close_ring(double *row, uint32_t n) {
    row[-1] = row[n - 1];
    row[n] = row[0];
}

/* Rate of the hop from position p to the next; *across: over the network. */
static double hop_rate(const struct sfi_expansion *x, uint32_t domain, uint32_t i, uint32_t channel, bool *across) {
    uint32_t local = x->first[domain + 1] - x->first[domain];
    *across = i + 1 == local && x->domains_n > 1;
    if (*across) {
        uint32_t next = domain + 1 < x->domains_n ? domain + 1 : 0, there = x->first[next + 1] - x->first[next];
        double share = sfi_lesser(sfi_expand_out(x, sfi_expand_member(x, domain, 0, channel)),
                                  sfi_expand_out(x, sfi_expand_member(x, next, 0, channel)));
        return x->a.nic * (local < there ? local : there) * share;
    }
    uint32_t from = sfi_expand_member(x, domain, i, channel), to = sfi_expand_member(x, domain, i + 1, channel);
    return x->a.up * sfi_lesser(sfi_expand_up(x, from), sfi_expand_up(x, to));
}

/* Fill what a channel's links take: `busy` of the hop that leaves a position, `wait` of the hop that comes in. */
static void measure(const struct sfi_expansion *x, struct ring *r, const struct sfi_lap *lap, uint32_t channel) {
    uint32_t p = 0;
    for (uint32_t d = 0; d < x->domains_n; d++) {
        for (uint32_t i = 0; i < x->first[d + 1] - x->first[d]; i++, p++) {
            bool across;
            double rate = sfi_payload_rate(&x->a, (int)x->ask->protocol, hop_rate(x, d, i, channel, &across));
            double hop = across ? lap->hop_across : lap->hop;
            r->busy[p] = sfi_expand_ps((lap->share / rate + lap->idle) / r->slices);
            r->wait[p + 1 < x->n ? p + 1 : 0] = sfi_expand_ps(hop - lap->idle / r->slices);
            r->start[p] = x->arrive[sfi_expand_member(x, d, i, channel)] + r->begin;
        }
    }
}

struct row { /* what one row follows from */
    const double *before, *data, *slot, *wait, *busy;
};

/* Adding and comparing whole numbers gives the same on any vector unit. */
#if defined __x86_64__ && defined __linux__ && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__ &&        \
    !SFI_CLANG_SANITIZES
#define SFI_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SFI_WIDEST
#endif

SFI_WIDEST static void advance(double *restrict out, const struct row *from, uint32_t n) {
    const double *restrict before = from->before, *restrict data = from->data, *restrict slot = from->slot;
    const double *restrict wait = from->wait, *restrict busy = from->busy;
    for (uint32_t p = 0; p < n; p++) {
        double start = before[p], there = data[(ptrdiff_t)p - 1] + wait[p], freed = slot[p + 1];
        start = start > there ? start : there;
        start = start > freed ? start : freed;
        out[p] = start + busy[p];
    }
}

/* A slot is free when the member after has passed on what was in it; what it only keeps is gone when its loop ends. */
static const double *slots(const struct ring *r, uint64_t loop, uint32_t j, uint64_t g) {
    if (j >= r->depth || (loop > 0 && j < r->depth - r->slices)) {
        return r->row[(g - r->depth + r->slices) % ROWS];
    }
    return loop == 0 ? r->never : r->last;
}

static void run_channel(struct ring *r) {
    uint32_t slices_n = r->steps * r->slices;
    uint64_t g = 0;
    for (uint64_t loop = 0; loop < r->loops; loop++) {
        for (uint32_t j = 0; j < slices_n; j++, g++) {
            const struct row from = {j == 0 ? r->start : r->row[(g - 1) % ROWS],
                                     j < r->slices ? r->never : r->row[(g - r->slices) % ROWS], slots(r, loop, j, g),
                                     r->wait, r->busy};
            advance(r->row[g % ROWS], &from, r->n);
            close_ring(r->row[g % ROWS], r->n);
        }
        const double *sent = r->row[(g - 1) % ROWS];
        for (uint32_t p = 0; p < r->n; p++) {
            r->last[p] = sfi_later(sent[p], sent[(ptrdiff_t)p - 1] + r->wait[p]);
            r->start[p] = sfi_later(sent[p], r->last[p] - r->drain) + r->turn;
        }
        close_ring(r->last, r->n);
    }
}

static void collect(struct sfi_expansion *x, const struct ring *r, uint32_t channel) {
    uint32_t p = 0;
    for (uint32_t d = 0; d < x->domains_n; d++) {
        for (uint32_t i = 0; i < x->first[d + 1] - x->first[d]; i++, p++) {
            uint32_t m = sfi_expand_member(x, d, i, channel);
            x->end[m] = sfi_later(x->end[m], r->last[p]);
        }
    }
}

bool sfi_expand_ring(struct sfi_expansion *x) {
    if (x->a.op == SF_COLL_ALL_TO_ALL) {
        return false;
    }
    struct sfi_lap lap = sfi_lap_of(&x->a, (int)x->ask->protocol);
    struct ring r = plan(x, &lap);
    place(&r, x->room);
    for (uint32_t p = 0; p < r.n + 2; p++) {
        r.never[(ptrdiff_t)p - 1] = 0;
    }
    for (uint32_t c = 0; c < x->channels; c++) {
        measure(x, &r, &lap, c);
        run_channel(&r);
        collect(x, &r, c);
    }
    return true;
}

double sfi_expand_ring_chunks(const struct sfi_expansion *x) {
    double steps = x->a.op == SF_COLL_ALL_REDUCE ? 2.0 * (x->n - 1) : x->n - 1.0;
    return steps * x->n * sfi_lap_of(&x->a, (int)x->ask->protocol).loops * sfi_channels(&x->a, SF_COLL_RING);
}

struct sfi_room sfi_expand_ring_room(const struct sfi_expansion *x) {
    return (struct sfi_room){(ROWS + 5) * stride(x->n), 0};
}
