/* Switches that add, as stations: NVLS inside a domain, and across domains by a tree of them (NVLS tree) or by switches
 * of the network (SHARP).
 *
 * A member hands its chunk to the switch once its link has done the turn before and one of its slots has come back. The
 * switch can go on when the last member of the domain has handed in. What the pipeline takes until it is full is split:
 * half of it before the sum goes on, half after it has come back. */
#include <math.h>

#include "sim/expand_internal.h"

struct pump {
    struct sfi_pump steps;
    uint64_t turns;
    double in, out, hop, least, drain;
    uint32_t *parent, *order; /* by domain */
    double *given, *gap;      /* by member: when it handed in last; a turn of its link */
    double *wide;             /* by domain: a turn of its NICs */
    double *sum, *back;       /* by domain: of all below it; of all */
    double *sent[SFI_SLOTS];  /* by turn and domain: when the sum went on */
};

static bool plan(const struct sfi_expansion *x, struct sfi_pump *out) {
    switch (x->ask->algorithm) {
    case SF_COLL_NVLS:
        return sfi_nvls_pump(&x->a, out);
    case SF_COLL_NVLS_TREE:
        return sfi_nvls_tree_pump(&x->a, out);
    default:
        return sfi_collnet_pump(&x->a, out);
    }
}

struct sfi_room sfi_expand_pump_room(const struct sfi_expansion *x) {
    return (struct sfi_room){2 * (size_t)x->n + (SFI_SLOTS + 3) * (size_t)x->domains_n, 2 * (size_t)x->domains_n};
}

static void place(struct pump *p, const struct sfi_expansion *x) {
    double *room = x->room;
    p->given = room;
    p->gap = room + x->n;
    room += 2 * (size_t)x->n;
    double **arrays[] = {&p->wide, &p->sum, &p->back};
    for (uint32_t i = 0; i < sizeof arrays / sizeof *arrays; i++, room += x->domains_n) {
        *arrays[i] = room;
    }
    for (uint32_t i = 0; i < SFI_SLOTS; i++, room += x->domains_n) {
        p->sent[i] = room;
    }
    p->parent = x->numbers;
    p->order = x->numbers + x->domains_n;
}

/* A domain's NICs share its turns evenly; the slowest of those in use holds back the turn. */
static void measure(const struct sfi_expansion *x, struct pump *p) {
    for (uint32_t d = 0; d < x->domains_n; d++) {
        double slowest = 1;
        for (uint32_t m = x->first[d]; m < x->first[d + 1]; m++) {
            p->given[m] = x->arrive[m] + p->in;
            p->gap[m] = sfi_expand_ps(p->steps.member_s / sfi_expand_up(x, m));
            slowest = sfi_lesser(slowest, sfi_expand_out(x, m));
        }
        p->wide[d] = sfi_expand_ps(p->steps.domain_s / slowest);
    }
}

/* All members of each domain hand in, as their links allow; slots come back when the domain has passed the sum on. */
static void hand_in(const struct sfi_expansion *x, struct pump *p, uint64_t turn) {
    const double *slot = p->sent[turn % SFI_SLOTS]; /* as it was a buffer's length ago */
    for (uint32_t d = 0; d < x->domains_n; d++) {
        double sum = turn > 0 ? p->sum[d] + p->wide[d] : 0;
        for (uint32_t m = x->first[d]; m < x->first[d + 1]; m++) {
            double gap = turn > 2 ? sfi_later(p->gap[m], p->least) : p->gap[m];
            double at = turn > 0 ? p->given[m] + gap : p->given[m];
            at = turn >= SFI_SLOTS ? sfi_later(at, slot[d]) : at;
            p->given[m] = at;
            sum = sfi_later(sum, at);
        }
        p->sum[d] = sum;
    }
}

/* The network's switches answer a request before they take the one a buffer later. */
static void meet_star(const struct sfi_expansion *x, struct pump *p, uint64_t turn) {
    double *sent = p->sent[turn % SFI_SLOTS], all = 0;
    for (uint32_t d = 0; d < x->domains_n; d++) {
        bool waits = p->steps.shape == SFI_PUMP_STAR && turn >= SFI_SLOTS;
        sent[d] = waits ? sfi_later(p->sum[d], sent[d] + p->hop) : p->sum[d];
        all = sfi_later(all, sent[d]);
    }
    for (uint32_t d = 0; d < x->domains_n; d++) {
        sent[d] = all;
        p->back[d] = all + p->hop;
    }
}

static void meet_tree(const struct sfi_expansion *x, struct pump *p, uint64_t turn) {
    uint32_t n = x->domains_n;
    double *sent = p->sent[turn % SFI_SLOTS], *sum = p->sum;
    for (uint32_t at = 0; at + 1 < n; at++) { /* sent[up] still holds what it was a buffer's length ago */
        uint32_t d = p->order[at], up = p->parent[d];
        sent[d] = turn >= SFI_SLOTS ? sfi_later(sum[d], sent[up]) : sum[d];
        sum[up] = sfi_later(sum[up], sent[d] + p->hop);
    }
    sent[p->order[n - 1]] = sum[p->order[n - 1]];
    for (uint32_t at = n; at-- > 0;) {
        uint32_t d = p->order[at], up = p->parent[d];
        p->back[d] = up == SF_NONE ? sent[d] : p->back[up] + p->hop;
    }
}

static void run(struct sfi_expansion *x, struct pump *p) {
    measure(x, p);
    for (uint64_t turn = 0; turn < p->turns; turn++) {
        hand_in(x, p, turn);
        if (p->steps.shape == SFI_PUMP_TREE) {
            meet_tree(x, p, turn);
        } else {
            meet_star(x, p, turn);
        }
    }
    for (uint32_t m = 0; m < x->n; m++) {
        x->end[m] = sfi_later(x->end[m], p->back[x->domain[m]] + p->out + p->drain);
    }
}

static uint64_t turns_of(const struct sfi_pump *steps) {
    return steps->turns > 1 ? (uint64_t)ceil(steps->turns) : 1;
}

bool sfi_expand_pump(struct sfi_expansion *x) {
    struct pump p;
    if (!plan(x, &p.steps)) {
        return false;
    }
    p.turns = turns_of(&p.steps);
    p.hop = p.steps.shape == SFI_PUMP_ALONE ? 0 : sfi_expand_ps(p.steps.hop);
    p.in = sfi_expand_ps(p.steps.fill / 2);
    p.out = sfi_expand_ps(p.steps.fill) - p.in;
    p.least = sfi_expand_ps(p.steps.least_s);
    double turn = sfi_later(p.steps.member_s, p.steps.domain_s);
    turn = p.turns > 2 ? sfi_later(turn, p.steps.least_s) : turn;
    p.drain = sfi_expand_ps((p.steps.turns - ((double)p.turns - 1)) * turn);
    place(&p, x);
    for (uint32_t tree = 0; tree < (p.steps.shape == SFI_PUMP_TREE ? 2 : 1); tree++) {
        sfi_expand_binary(x->domains_n, tree, p.parent, p.order);
        run(x, &p);
    }
    return true;
}

double sfi_expand_pump_chunks(const struct sfi_expansion *x) {
    struct sfi_pump steps;
    if (!plan(x, &steps)) {
        return 0;
    }
    double links = 2.0 * x->n + (x->domains_n > 1 ? 2.0 * x->domains_n : 0);
    return links * (double)turns_of(&steps) * sfi_channels(&x->a, (int)x->ask->algorithm);
}
