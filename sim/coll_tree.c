/* Algorithms that add on the way up and copy on the way down: trees, and switches that add. */
#include "sim/coll_internal.h"

static double least(double a, double b) {
    return a < b ? a : b;
}

static double most(double a, double b) {
    return a > b ? a : b;
}

/* Two trees carry half of the vector each, and a domain that is inside one is a leaf of the other: two domains send the
 * vector once; of three one is inside both; of more the busiest sends up and down twice in one tree, up in the other.
 */
double sfi_tree_load(uint32_t domains) {
    const double few[] = {0, 0, 1, 1.5};
    return domains < sizeof few / sizeof *few ? few[domains] : 2;
}

/* A GPU inside a chain sends one copy up and one down. */
static double chain_load(const struct sfi_ask *a) {
    return a->local == 1 ? 0 : a->local == 2 && a->domains == 1 ? 1 : 2;
}

double sfi_tree_s(const struct sfi_ask *a, int protocol) {
    const struct sfi_kernels *k = &a->c->k;
    const double giga = 1e9;
    if (a->op != SF_COLL_ALL_REDUCE) {
        return -1;
    }
    double inside = chain_load(a) > 0 ? a->up / chain_load(a) : a->nic;
    double across = a->domains > 1 ? a->nics / sfi_tree_load(a->domains) : inside;
    double rate = least(inside, across) * k->share[protocol];
    if (protocol == SF_COLL_LL) {
        uint32_t column = a->domains <= 2 ? a->domains - 1 : 2;
        rate = least(rate, giga * (column == 0 ? a->c->tuning.ll_max : a->c->tuning.host_ll_max)[column]);
    }
    double chunk = least(a->bytes, k->tree_chunk[protocol] * sfi_channels(a, SF_COLL_TREE));
    double chain = (a->local - 1) * (k->step[protocol] + chunk / a->up / k->share[protocol]);
    double levels = 0;
    if (a->domains > 1) {
        levels = a->levels * (k->network_tree[protocol] + a->hop_extra + chunk / a->nics / k->share[protocol]);
    }
    return k->base[protocol] + 2 * (chain + levels) + a->bytes / rate;
}

/* NVLink point to point inside, the network's switches add: every NIC carries its share once each way. */
double sfi_collnet_s(const struct sfi_ask *a) {
    const struct sfi_kernels *k = &a->c->k;
    if (a->op != SF_COLL_ALL_REDUCE || a->domains < 2 || !a->c->sharp || !a->c->switches) {
        return -1;
    }
    double inside = a->local > 1 ? a->up / (2.0 * (a->local - 1) / a->local) : a->up;
    double rate = least(inside, a->nics) * k->collnet_share;
    double chunk = least(a->bytes, k->tree_chunk[SF_COLL_SIMPLE] * sfi_channels(a, SF_COLL_COLLNET));
    double hops = 2 * k->step[SF_COLL_SIMPLE] + k->network_step[SF_COLL_SIMPLE] + a->hop_extra;
    return k->base[SF_COLL_SIMPLE] + hops + 2 * chunk / rate + a->bytes / rate;
}

static bool switches_add(const struct sfi_ask *a) {
    return a->c->switches && a->c->k.nvls_rate > 0 && a->local >= 2;
}

/* Every GPU gives its vector to the switches and takes the sum back; for its own share it also reads the sum and writes
 * it out again: 1 + 1/n vectors each way. Gathering and scattering use one way. */
static double nvls_rate(const struct sfi_ask *a) {
    double twice = a->op == SF_COLL_ALL_REDUCE ? 1.0 / a->local : 0;
    return a->c->k.nvls_rate / (1 + twice);
}

struct chunks {
    double bytes; /* of all channels and heads: what one turn of the loop moves */
    double turns;
};

/* Small vectors are cut finer, so that several chunks are on their way: a chunk size asks for this many turns. */
struct rule {
    uint32_t chunk, turns; /* take this chunk below so many turns of the one before */
};

static struct chunks cut(const struct sfi_ask *a, uint32_t chunk, const struct rule *rule, uint32_t rules_n) {
    const struct sfi_kernels *k = &a->c->k;
    uint32_t heads = a->local < k->nvls_heads ? a->local : k->nvls_heads;
    double ops = (double)k->nvls_channels * heads;
    for (uint32_t i = 0; i < rules_n; i++) {
        if (chunk > rule[i].chunk && a->bytes < rule[i].turns * ops * chunk) {
            chunk = rule[i].chunk;
        }
    }
    return (struct chunks){ops * chunk, a->bytes / (ops * chunk)};
}

/* Filling the pipeline takes about two chunks: up, its sum down, the next already behind it. */
static double nvls_fill(const struct sfi_ask *a, const struct chunks *c) {
    return a->c->k.nvls_base + a->c->k.nvls_fill * least(a->bytes, c->bytes) / nvls_rate(a);
}

static double nvls_stream(const struct sfi_ask *a, const struct chunks *c) {
    return a->bytes / nvls_rate(a) + c->turns * a->c->k.nvls_turn;
}

double sfi_nvls_s(const struct sfi_ask *a) {
    const struct rule rules[] = {
        {64 << 10, a->c->k.nvls_large_turns}, {32 << 10, a->c->k.nvls_middle_turns}, {16 << 10, 2}};
    const uint32_t largest = 128 << 10;
    bool one = a->domains == 1, reduces = a->op == SF_COLL_ALL_REDUCE;
    bool gathers = a->op == SF_COLL_ALL_GATHER || a->op == SF_COLL_REDUCE_SCATTER;
    if (!switches_add(a) || !(one ? reduces || gathers : reduces && a->c->sharp)) {
        return -1;
    }
    struct chunks c = cut(a, largest, rules, sizeof rules / sizeof *rules);
    if (one) {
        return nvls_fill(a, &c) + nvls_stream(a, &c);
    }
    double stream = nvls_stream(a, &c) + c.turns * a->c->k.nvls_turn; /* and one more to the network's switches */
    double network = a->c->k.nvls_network_step + a->hop_extra + least(a->bytes, c.bytes) / a->nics;
    return nvls_fill(a, &c) + network + most(stream, a->bytes / a->nics);
}

/* Up and down the tree of domains, each level half a turn behind the one before: a turn moves a chunk both ways. */
double sfi_nvls_tree_s(const struct sfi_ask *a) {
    static const struct rule rules[] = {{64 << 10, 4}, {32 << 10, 1}};
    const struct sfi_kernels *k = &a->c->k;
    const uint32_t many = 4, wide = 16, largest = 128 << 10, shallow = 64 << 10;
    if (!switches_add(a) || a->domains < 2 || a->op != SF_COLL_ALL_REDUCE) {
        return -1;
    }
    struct chunks c =
        cut(a, a->domains >= many || a->local >= wide ? shallow : largest, rules, sizeof rules / sizeof *rules);
    double network = a->nic * least(a->local, k->nvls_nics) / sfi_tree_load(a->domains);
    double stream = most(nvls_stream(a, &c), a->bytes / network);
    double hop = k->nvls_network_step + a->hop_extra + stream * least(1, 1 / c.turns) / 2;
    return nvls_fill(a, &c) + 2 * a->levels * hop + stream;
}
