/* Algorithms that pass chunks from neighbour to neighbour: ring, and PAT over networks. */
#include "sim/coll_internal.h"

static double least(double a, double b) {
    return a < b ? a : b;
}

static double most(double a, double b) {
    return a > b ? a : b;
}

/* Rate of payload of a protocol on a link; LL and LL128 are also held back by what a channel's threads can flag. */
static double payload_rate(const struct sfi_ask *a, int protocol, double rate) {
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

struct lap {              /* once around */
    double steps, across; /* hops in a row; those over the network */
    double latency;       /* of all of them */
    double rate;
};

static struct lap lap_of(const struct sfi_ask *a, int protocol) {
    const struct sfi_kernels *k = &a->c->k;
    struct lap l = {.steps = a->n - 1.0, .across = a->domains - 1.0};
    if (a->op == SF_COLL_ALL_REDUCE) { /* first the sums go round, then the results */
        l.steps *= 2;
        l.across *= 2;
    }
    l.latency = (l.steps - l.across) * k->step[protocol] + l.across * (k->network_step[protocol] + a->hop_extra);
    l.rate = payload_rate(a, protocol, a->domains > 1 ? least(a->local > 1 ? a->up : a->nics, a->nics) : a->up);
    return l;
}

/* Broadcast: a chain, cut into slices that follow each other. */
static double chain_s(const struct sfi_ask *a, int protocol, const struct lap *l) {
    const struct sfi_kernels *k = &a->c->k;
    double slice = least(a->bytes, k->channel_bytes[protocol] * sfi_channels(a, SF_COLL_RING) / 2);
    return k->base[protocol] + l->latency + (l->steps - 1) * slice / l->rate + a->bytes / l->rate;
}

/* Every rank sends one share of the vector per step. Simple sends a share in two slices, so half of a chunk's time
 * hides the latency of its step. LL and LL128 carry their flags in the data: the next rank can always go on. */
double sfi_ring_s(const struct sfi_ask *a, int protocol) {
    const struct sfi_kernels *k = &a->c->k;
    if (a->op == SF_COLL_ALL_TO_ALL) {
        return -1;
    }
    struct lap l = lap_of(a, protocol);
    if (a->op == SF_COLL_BROADCAST) {
        return chain_s(a, protocol, &l);
    }
    double share = a->bytes / a->n, stream = l.steps * share / l.rate;
    if (protocol != SF_COLL_SIMPLE) {
        return k->base[protocol] + l.latency + stream;
    }
    double chunk = least(share, k->channel_bytes[protocol] * sfi_channels(a, SF_COLL_RING));
    double waits = most(k->exposed * l.latency, l.latency - l.steps * chunk / l.rate / 2);
    double turnover = a->op == SF_COLL_ALL_REDUCE ? k->turnover : k->turnover_gather;
    return k->base[protocol] + stream + waits + turnover * share / l.rate;
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
