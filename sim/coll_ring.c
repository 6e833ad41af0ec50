/* Algorithms that pass chunks from neighbour to neighbour: ring, and PAT over networks. */
#include "sim/coll_internal.h"

#include <math.h>

static double least(double a, double b) {
    return a < b ? a : b;
}

static double most(double a, double b) {
    return a > b ? a : b;
}

double sfi_payload_rate(const struct sfi_ask *a, int protocol, double rate) {
    const double giga = 1e9;
    const struct sfi_tuning *t = &a->c->tuning;
    uint32_t column = a->domains <= 2 ? a->domains - 1 : 2;
    rate *= a->c->k.share[protocol];
    if (protocol == SF_COLL_LL) {
        return least(rate, giga * (column == 0 ? t->ll_max : t->host_ll_max)[column]);
    }
    if (protocol == SF_COLL_LL128) {
        return least(rate, giga * t->ring_ll128_channel[column] * sfi_channels(a, SF_COLL_RING));
    }
    return rate;
}

/* A chunk passes all hops of the ring but one, or but two on its two laps: those that cost most are the network's, one
 * per domain. */
static double network_hops(const struct sfi_ask *a) {
    bool twice = a->op == SF_COLL_ALL_REDUCE;
    if (a->domains == 1 || a->op == SF_COLL_BROADCAST) {
        return a->domains - 1.0;
    }
    double spared = a->n == a->domains ? (twice ? 2 : 1) : twice && a->n == 2 * a->domains ? 1 : 0;
    return (twice ? 2.0 : 1.0) * a->domains - spared;
}

static double narrowest(const struct sfi_lap *l) {
    return least(l->rate, l->rate_across);
}

static double turnover(const struct sfi_ask *a) {
    const struct sfi_kernels *k = &a->c->k;
    switch (a->op) {
    case SF_COLL_ALL_REDUCE:
        return k->turnover;
    case SF_COLL_REDUCE_SCATTER:
        return k->turnover_scatter;
    default:
        return k->turnover_gather;
    }
}

/* Simple sends a share in two slices, so half of a step's time hides its latency, all but a part of it. What is counted
 * once per collective is spread over the steps of its loops. LL and LL128 carry their flags in the data: nothing waits
 * for a chunk to end. */
static void wait_for_slices(const struct sfi_ask *a, struct sfi_lap *l) {
    const struct sfi_kernels *k = &a->c->k;
    double chunk = k->channel_bytes[SF_COLL_SIMPLE] * sfi_channels(a, SF_COLL_RING);
    l->slices = 2;
    l->loops = l->share > chunk ? ceil(l->share / chunk) : 1;
    l->share /= l->loops;
    l->idle = k->exposed * l->latency / l->steps / l->loops;
    double step = l->share / narrowest(l), hop = l->latency / l->steps;
    l->turn = step * turnover(a);
    l->drain = least((step + l->idle) / 2, hop - l->idle / 2);
}

struct sfi_lap sfi_lap_of(const struct sfi_ask *a, int protocol) {
    const struct sfi_kernels *k = &a->c->k;
    /* in an all_reduce first the sums go round, then the results */
    struct sfi_lap l = {.steps = (a->op == SF_COLL_ALL_REDUCE ? 2 : 1) * (a->n - 1.0), .across = network_hops(a)};
    l.hop = protocol == SF_COLL_SIMPLE && a->op == SF_COLL_REDUCE_SCATTER ? k->step_scatter : k->step[protocol];
    l.hop_across = k->network_step[protocol] + a->hop_extra;
    l.latency = (l.steps - l.across) * l.hop + l.across * l.hop_across;
    l.rate = sfi_payload_rate(a, protocol, a->n > a->domains ? a->up : a->nics);
    l.rate_across = a->domains > 1 ? sfi_payload_rate(a, protocol, a->nics) : l.rate;
    l.rate_usual = a->domains > 1 ? sfi_payload_rate(a, protocol, a->nic * a->n / a->domains) : l.rate;
    l.slices = 1;
    l.loops = 1;
    l.share = a->bytes / a->n;
    if (protocol == SF_COLL_SIMPLE) {
        wait_for_slices(a, &l);
    }
    return l;
}

/* Broadcast: a chain, cut into slices that follow each other. */
static double chain_s(const struct sfi_ask *a, int protocol, const struct sfi_lap *l) {
    const struct sfi_kernels *k = &a->c->k;
    double slice = least(a->bytes, k->channel_bytes[protocol] * sfi_channels(a, SF_COLL_RING) / 2);
    return k->base[protocol] + l->latency + ((l->steps - 1) * slice + a->bytes) / narrowest(l);
}

struct link { /* one slice: how long it keeps the link busy, how much later it arrives */
    double busy, wait;
};

static struct link link_of(const struct sfi_lap *l, double rate, double hop) {
    return (struct link){(l->share / rate + l->idle) / l->slices, hop - l->idle / l->slices};
}

/* Slices in a row over the network, from the same GPU: as its link allows, or as a full buffer does, which the next GPU
 * has to have passed on. */
static double in_place(const struct sfi_lap *l, double slices, struct link in, struct link out) {
    double depth = SFI_SLOTS / l->slices, rounds = floor((slices - 1) / depth);
    double round = most(depth * out.busy, out.wait + out.busy + in.busy);
    return rounds * round + (slices - rounds * depth) * out.busy;
}

/* Ways that stay at a link of the network for some slices and pass all domains `turns` times. Turns cost alike, but a
 * buffer fills up after `depth` slices: the most and the fewest turns, and with each of them as many as its rounds
 * repeat after. */
static double stay_and_move(const struct sfi_ask *a, const struct sfi_lap *l, double lap, struct link in,
                            struct link out) {
    double around = (double)a->n / a->domains, all = floor((l->steps - 1) / around), longest = 0;
    double period = SFI_SLOTS / l->slices;
    for (double t = 0; t <= all; t = t + 1 == period && all > 2 * period ? all - period + 1 : t + 1) {
        longest = most(longest, in_place(l, l->slices * (l->steps - t * around), in, out) + out.wait + t * lap);
    }
    return longest;
}

/* The longest way through one loop. At every step a way moves on with its slice or stays where it is for the next
 * slice; staying pays where it takes longest, for all steps alike, and so does moving. `in` are the links inside a
 * domain, `out` those between. */
static double longest(const struct sfi_ask *a, const struct sfi_lap *l, struct link in, struct link out) {
    double s = l->slices, around = (double)a->n / a->domains;
    double last = most(in.busy, l->across > 0 ? out.busy : 0), usual = link_of(l, l->rate_usual, 0).busy;
    double move = l->across * (usual + out.wait) + (l->steps - l->across) * (in.busy + in.wait) + (s - 1) * last;
    if (l->across <= 0) {
        return most(move, s * l->steps * in.busy + in.wait);
    }
    double lap = out.wait + usual + (around - 1) * (in.wait + in.busy);
    double inside = s * (l->steps - 1) * in.busy + in.wait + most(s * in.busy, out.busy + out.wait);
    return most(most(move, stay_and_move(a, l, lap, in, out)), a->n > a->domains ? inside : 0);
}

/* Every rank sends one share of the vector per step. */
double sfi_ring_s(const struct sfi_ask *a, int protocol) {
    if (a->op == SF_COLL_ALL_TO_ALL) {
        return -1;
    }
    struct sfi_lap l = sfi_lap_of(a, protocol);
    if (a->op == SF_COLL_BROADCAST) {
        return chain_s(a, protocol, &l);
    }
    struct link in = link_of(&l, l.rate, l.hop), out = link_of(&l, l.rate_across, l.hop_across);
    double more = l.slices * l.steps * most(in.busy, l.across > 0 ? out.busy : 0) + l.turn; /* of every further loop */
    return a->c->k.base[protocol] + l.turn + longest(a, &l, in, out) - l.drain + (l.loops - 1) * more;
}

/* Bruck's pattern with chunks sent as soon as they are there: a hop per doubling, every byte once over the NIC. */
double sfi_pat_s(const struct sfi_ask *a) {
    const struct sfi_kernels *k = &a->c->k;
    if ((a->op != SF_COLL_ALL_GATHER && a->op != SF_COLL_REDUCE_SCATTER) || a->local != 1 || a->n != a->domains) {
        return -1;
    }
    double hops = a->levels * (k->network_step[SF_COLL_SIMPLE] + a->hop_extra);
    return k->base[SF_COLL_SIMPLE] + hops + a->bytes * (a->n - 1) / a->n / (a->nic * k->pat_share);
}
