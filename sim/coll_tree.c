/* Algorithms that add on the way up and copy on the way down: trees, and switches that add. */
#include "sim/coll_internal.h"

#include <math.h>

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

struct sfi_tree sfi_tree_of(const struct sfi_ask *a, int protocol) {
    const struct sfi_kernels *k = &a->c->k;
    const double giga = 1e9;
    uint32_t column = a->domains <= 2 ? a->domains - 1 : 2;
    double cap = HUGE_VAL, share = k->share[protocol];
    if (protocol == SF_COLL_LL) {
        cap = giga * (column == 0 ? a->c->tuning.ll_max : a->c->tuning.host_ll_max)[column];
    }
    double inside = chain_load(a) > 0 ? a->up / chain_load(a) : a->nic;
    double across = a->domains > 1 ? a->nics / sfi_tree_load(a->domains) : inside;
    double full = k->tree_chunk[protocol] * sfi_channels(a, SF_COLL_TREE), chunk = least(a->bytes, full);
    struct sfi_tree t = {.chunks = a->bytes / full};
    t.hop = k->step[protocol] + chunk / a->up / share;
    t.hop_across = a->domains > 1 ? k->network_tree[protocol] + a->hop_extra + chunk / a->nics / share : 0;
    t.chunk_s = full / least(inside * share, cap);
    t.chunk_across_s = full / least(across * share, cap);
    return t;
}

double sfi_tree_s(const struct sfi_ask *a, int protocol) {
    if (a->op != SF_COLL_ALL_REDUCE) {
        return -1;
    }
    struct sfi_tree t = sfi_tree_of(a, protocol);
    double way = (a->local - 1) * t.hop + a->levels * t.hop_across;
    return a->c->k.base[protocol] + 2 * way + t.chunks * most(t.chunk_s, t.chunk_across_s);
}

static double pump_s(const struct sfi_ask *a, const struct sfi_pump *p) {
    double hops = p->shape == SFI_PUMP_TREE ? 2.0 * a->levels : p->shape == SFI_PUMP_STAR ? 1 : 0;
    double turn = most(p->member_s, p->domain_s);
    double late = most(0, p->turns - 2) * most(0, p->least_s - turn);
    return p->fill + hops * p->hop + p->turns * turn + late;
}

/* NVLink point to point inside, the network's switches add: every NIC carries its share once each way. */
bool sfi_collnet_pump(const struct sfi_ask *a, struct sfi_pump *out) {
    const struct sfi_kernels *k = &a->c->k;
    if (a->op != SF_COLL_ALL_REDUCE || a->domains < 2 || !a->c->sharp || !a->c->switches) {
        return false;
    }
    double inside = k->collnet_share * (a->local > 1 ? a->up / (2.0 * (a->local - 1) / a->local) : a->up);
    double across = k->collnet_share * a->nics;
    double full = k->tree_chunk[SF_COLL_SIMPLE] * sfi_channels(a, SF_COLL_COLLNET);
    double first = 2 * least(a->bytes, full) / least(inside, across);
    *out = (struct sfi_pump){.shape = SFI_PUMP_STAR,
                             .turns = a->bytes / full,
                             .fill = k->base[SF_COLL_SIMPLE] + 2 * k->step[SF_COLL_SIMPLE] + first,
                             .hop = k->network_step[SF_COLL_SIMPLE] + a->hop_extra,
                             .member_s = full / inside,
                             .domain_s = full / across};
    return true;
}

double sfi_collnet_s(const struct sfi_ask *a) {
    struct sfi_pump p;
    return sfi_collnet_pump(a, &p) ? pump_s(a, &p) : -1;
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

bool sfi_nvls_pump(const struct sfi_ask *a, struct sfi_pump *out) {
    const struct rule rules[] = {
        {64 << 10, a->c->k.nvls_large_turns}, {32 << 10, a->c->k.nvls_middle_turns}, {16 << 10, 2}};
    const uint32_t largest = 128 << 10;
    bool one = a->domains == 1, reduces = a->op == SF_COLL_ALL_REDUCE;
    bool gathers = a->op == SF_COLL_ALL_GATHER || a->op == SF_COLL_REDUCE_SCATTER;
    if (!switches_add(a) || !(one ? reduces || gathers : reduces && a->c->sharp)) {
        return false;
    }
    struct chunks c = cut(a, largest, rules, sizeof rules / sizeof *rules);
    *out = (struct sfi_pump){.shape = one ? SFI_PUMP_ALONE : SFI_PUMP_STAR,
                             .turns = c.turns,
                             .fill = nvls_fill(a, &c),
                             .member_s = c.bytes / nvls_rate(a) + a->c->k.nvls_turn,
                             .least_s = a->c->k.nvls_turn_least};
    if (!one) {
        out->member_s += a->c->k.nvls_turn; /* and one more to the network's switches */
        out->domain_s = c.bytes / a->nics;
        out->hop = a->c->k.nvls_network_step + a->hop_extra + least(a->bytes, c.bytes) / a->nics;
    }
    return true;
}

double sfi_nvls_s(const struct sfi_ask *a) {
    struct sfi_pump p;
    return sfi_nvls_pump(a, &p) ? pump_s(a, &p) : -1;
}

/* Up and down the tree of domains, each level half a turn behind the one before: a turn moves a chunk both ways. */
bool sfi_nvls_tree_pump(const struct sfi_ask *a, struct sfi_pump *out) {
    static const struct rule rules[] = {{64 << 10, 4}, {32 << 10, 1}};
    const struct sfi_kernels *k = &a->c->k;
    const uint32_t many = 4, wide = 16, largest = 128 << 10, shallow = 64 << 10;
    if (!switches_add(a) || a->domains < 2 || a->op != SF_COLL_ALL_REDUCE) {
        return false;
    }
    struct chunks c =
        cut(a, a->domains >= many || a->local >= wide ? shallow : largest, rules, sizeof rules / sizeof *rules);
    double network = a->nic * least(a->local, k->nvls_nics) / sfi_tree_load(a->domains);
    double first_s = most(c.bytes / nvls_rate(a) + k->nvls_turn, c.bytes / network) * least(1, c.turns);
    network /= 1 + k->nvls_relay * (a->levels - 1.0); /* of a stream: the first chunk finds every buffer free */
    *out = (struct sfi_pump){.shape = SFI_PUMP_TREE,
                             .turns = c.turns,
                             .fill = nvls_fill(a, &c),
                             .member_s = c.bytes / nvls_rate(a) + k->nvls_turn,
                             .domain_s = c.bytes / network};
    out->hop = k->nvls_network_step + a->hop_extra + first_s / 2;
    return true;
}

double sfi_nvls_tree_s(const struct sfi_ask *a) {
    struct sfi_pump p;
    return sfi_nvls_tree_pump(a, &p) ? pump_s(a, &p) : -1;
}
