/* Channels: how many of which rate fit the links. NCCL walks a ladder of rates downwards and keeps the best product; on
 * a switched domain its search comes down to the arithmetic here. */
#include "sim/coll_internal.h"

#include <math.h>

enum { CHANNELS_MAX = 32 }; /* that a graph may have */

struct fit {              /* what a candidate rate is tried against */
    double links, shares; /* rate of a GPU's links; how often one channel crosses them, beside once per channel */
    double nic;           /* 0: stays inside */
    uint32_t nics, least, most;
};

static uint32_t channels_at(const struct fit *f, double speed) {
    double n = f->links / speed - f->shares;
    if (f->nic > 0.0) {
        double by_nic = (double)f->nics * (double)(uint32_t)(f->nic / speed);
        n = by_nic < n ? by_nic : n;
    }
    return n <= 0.0 ? 0 : n >= f->most ? f->most : (uint32_t)n;
}

/* A step down is tried only while it does not halve the rate already found. */
static struct sfi_graph walk(const struct fit *f, const double *ladder, uint32_t ladder_n) {
    const double give_up = 0.49;
    struct sfi_graph best = {0, 0, 0};
    for (uint32_t i = 0; i < ladder_n; i++) {
        uint32_t n = channels_at(f, ladder[i]);
        if (best.channels > 0 && ladder[i] < give_up * best.intra) {
            break;
        }
        if (n >= f->least && n * ladder[i] > best.channels * best.intra) {
            best = (struct sfi_graph){n, ladder[i], ladder[i]};
        }
    }
    return best;
}

static void duplicate(const struct sfi_tuning *t, struct sfi_graph *g) {
    const uint32_t few = 4;
    if (g->channels == 0 || g->intra < t->duplicate_from || (g->intra < t->duplicate_always && g->channels > few)) {
        return;
    }
    uint32_t n = 2 * g->channels < CHANNELS_MAX ? 2 * g->channels : CHANNELS_MAX;
    double split = (double)((n + g->channels - 1) / g->channels);
    *g = (struct sfi_graph){n, g->intra / split, g->inter / split};
}

/* Trees may run faster inside than across, up to twice; NVLS the other way round, since NICs have room to spare. */
static double raised(const struct fit *f, const double *ladder, uint32_t ladder_n, const struct sfi_graph *g) {
    double best = g->intra;
    for (uint32_t i = ladder_n; i-- > 0;) {
        if (ladder[i] > best && best < 2 * g->intra && channels_at(f, ladder[i]) >= g->channels) {
            best = ladder[i];
        }
    }
    return best;
}

void sfi_graph_search(const struct sf_coll *c, uint32_t local, bool across, struct sfi_graphs *out) {
    const struct sfi_tuning *t = &c->tuning;
    const double *ladder = across ? t->network_ladder : t->ladder;
    uint32_t ladder_n = across ? t->network_ladder_n : t->ladder_n;
    double links = local > 1 ? c->k.nvlink_gbps : c->out_peak / 1e9;
    const double giga = 1e9;
    struct fit f = {links, 0, across ? c->out_peak / giga : 0, local, 1, CHANNELS_MAX};
    *out = (struct sfi_graphs){0};
    if (local == 0 || (local == 1 && !across)) {
        return;
    }
    struct sfi_graph ring = walk(&f, ladder, ladder_n);
    duplicate(t, &ring);
    out->of[SF_COLL_RING] = out->of[SF_COLL_PAT] = ring;
    f.links = local > 1 ? links * local / (local - 1) : links; /* a chain has an end that needs no way on */
    f.least = f.most = ring.channels;
    out->of[SF_COLL_TREE] = walk(&f, ladder, ladder_n);
    struct fit one_side = f;
    one_side.nic = 0;
    out->of[SF_COLL_TREE].intra = raised(&one_side, ladder, ladder_n, &out->of[SF_COLL_TREE]);
    if (!c->switches || local < 2) {
        return;
    }
    f.least = 2;
    f.most = local < t->nvls_arity ? local : (uint32_t)t->nvls_arity;
    f.links = links;
    out->of[SF_COLL_COLLNET] = walk(&f, ladder, ladder_n);
    f.least = across ? f.least : f.most;
    f.shares = 1; /* the GPU that heads a channel carries it twice */
    out->of[SF_COLL_NVLS] = walk(&f, ladder, ladder_n);
    if (across) {
        one_side = f;
        one_side.links = HUGE_VAL;
        out->of[SF_COLL_NVLS].inter = raised(&one_side, ladder, ladder_n, &out->of[SF_COLL_NVLS]);
    }
    out->of[SF_COLL_NVLS_TREE] = out->of[SF_COLL_NVLS];
}

uint32_t sfi_channels(const struct sfi_ask *a, int algorithm) {
    const struct sfi_graphs *g = a->domains > 1 ? a->c->across : a->c->inside;
    uint32_t n = 2 * g[a->local].of[algorithm].channels, most = a->c->k.channels_max;
    return n == 0 ? 2 : n < most ? n : most;
}
