/* Questions, and the choice between algorithms. */
#include "sim/coll_internal.h"

#include <string.h>

static uint32_t levels_of(uint32_t domains) {
    return domains <= 1 ? 0 : 32u - (uint32_t)__builtin_clz(domains - 1);
}

struct sfi_ask sfi_ask_of(const struct sf_coll *c, const struct sf_coll_query *q) {
    const struct sf_span *s = &q->span;
    uint32_t local = s->min_per_domain < c->domain_gpus ? s->min_per_domain : c->domain_gpus;
    local = local > 0 ? local : 1;
    uint32_t kind = s->kind <= SF_ROUTE_CORE ? s->kind : SF_ROUTE_CORE;
    struct sfi_ask a = {.c = c,
                        .op = q->op,
                        .bytes = (double)q->bytes,
                        .n = s->members,
                        .domains = s->domains,
                        .local = local,
                        .levels = levels_of(s->domains),
                        .up = c->up};
    if (s->domains > 1) {
        a.nic = s->alone ? c->tier_alone[kind] : c->tier_rate[kind];
        a.nics = a.nic * a.local;
        a.hop_extra = c->tier_latency[kind];
    }
    return a;
}

static double time_of(const struct sfi_ask *a, int algorithm, int protocol) {
    bool simple = protocol == SF_COLL_SIMPLE;
    switch (algorithm) {
    case SF_COLL_RING:
        return sfi_ring_s(a, protocol);
    case SF_COLL_TREE:
        return sfi_tree_s(a, protocol);
    case SF_COLL_COLLNET:
        return simple ? sfi_collnet_s(a) : -1;
    case SF_COLL_NVLS:
        return simple ? sfi_nvls_s(a) : -1;
    case SF_COLL_NVLS_TREE:
        return simple ? sfi_nvls_tree_s(a) : -1;
    case SF_COLL_PAT:
        return simple ? sfi_pat_s(a) : -1;
    default:
        return simple ? sfi_exchange_s(a, algorithm) : -1;
    }
}

static bool price(const struct sfi_ask *a, enum sf_coll_algorithm algorithm, enum sf_coll_protocol protocol,
                  struct sf_coll_choice *out) {
    double steps = time_of(a, (int)algorithm, (int)protocol), nccl = sfi_tuning_s(a, (int)algorithm, (int)protocol);
    bool by_nccl = a->c->nccl_times && nccl >= 0;
    *out = (struct sf_coll_choice){algorithm, protocol, by_nccl ? nccl : steps, steps, nccl, by_nccl};
    return steps >= 0;
}

bool sf_coll_price(const struct sf_coll *c, const struct sf_coll_query *q, enum sf_coll_algorithm algorithm,
                   enum sf_coll_protocol protocol, struct sf_coll_choice *out) {
    struct sfi_ask a = sfi_ask_of(c, q);
    return a.n > 1 && price(&a, algorithm, protocol, out);
}

size_t sf_coll_candidates(const struct sf_coll *c, const struct sf_coll_query *q,
                          struct sf_coll_choice out[SF_COLL_CANDIDATES]) {
    struct sfi_ask a = sfi_ask_of(c, q);
    size_t n = 0;
    for (int i = 0; i < SF_COLL_CANDIDATES && a.n > 1; i++) {
        n += price(&a, (enum sf_coll_algorithm)(i / SF_COLL_PROTOCOLS_N),
                   (enum sf_coll_protocol)(i % SF_COLL_PROTOCOLS_N), &out[n]);
    }
    return n;
}

/* How good a pair looks beforehand: fits the cluster's wish, is one that NCCL would consider, is fast. */
struct rank {
    bool wanted, tuned;
    double expected_s;
};

static struct rank rank_of(const struct sfi_ask *a, int algorithm, int protocol) {
    const struct sf_coll *c = a->c;
    struct rank r = {.expected_s = sfi_tuning_s(a, algorithm, protocol)};
    r.tuned = r.expected_s >= 0;
    r.wanted = (c->algorithm < 0 || c->algorithm == algorithm) && (c->protocol < 0 || c->protocol == protocol);
    if (!r.tuned) {
        r.expected_s = time_of(a, algorithm, protocol);
    }
    return r;
}

static bool better(const struct rank *a, const struct rank *b) {
    if (a->wanted != b->wanted) {
        return a->wanted;
    }
    return a->tuned != b->tuned ? a->tuned : a->expected_s < b->expected_s;
}

/* What the program picked, where that can be done; or the quickest of all that NCCL would run when told. False: nobody
 * told. */
static bool choose_told(const struct sfi_ask *a, const struct sf_coll_query *q, struct sf_coll_choice *out) {
    struct sf_coll_choice one;
    uint8_t pick = q->span.picks.of[q->op];
    bool found = false;
    if (pick != 0) {
        return price(a, (enum sf_coll_algorithm)sf_coll_pick_algorithm(pick),
                     (enum sf_coll_protocol)sf_coll_pick_protocol(pick), out);
    }
    for (int i = 0; i < SF_COLL_CANDIDATES && q->span.quickest; i++) {
        if (price(a, (enum sf_coll_algorithm)(i / SF_COLL_PROTOCOLS_N),
                  (enum sf_coll_protocol)(i % SF_COLL_PROTOCOLS_N), &one) &&
            sf_coll_can_be_told(q->op, &one) && (!found || one.time_s < out->time_s)) {
            *out = one;
            found = true;
        }
    }
    return found;
}

void sf_coll_choose(const struct sf_coll *c, const struct sf_coll_query *q, struct sf_coll_choice *out) {
    struct sfi_ask a = sfi_ask_of(c, q);
    struct rank best = {.expected_s = -1};
    int chosen = SF_COLL_RING * SF_COLL_PROTOCOLS_N + SF_COLL_SIMPLE;
    *out = (struct sf_coll_choice){.algorithm = SF_COLL_RING, .protocol = SF_COLL_SIMPLE};
    if (a.n < 2 || choose_told(&a, q, out)) {
        return;
    }
    for (int i = 0; i < SF_COLL_CANDIDATES; i++) {
        struct rank r = rank_of(&a, i / SF_COLL_PROTOCOLS_N, i % SF_COLL_PROTOCOLS_N);
        bool ahead = r.expected_s >= 0 && (best.expected_s < 0 || better(&r, &best));
        if (ahead && time_of(&a, i / SF_COLL_PROTOCOLS_N, i % SF_COLL_PROTOCOLS_N) >= 0) {
            best = r;
            chosen = i;
        }
    }
    price(&a, (enum sf_coll_algorithm)(chosen / SF_COLL_PROTOCOLS_N),
          (enum sf_coll_protocol)(chosen % SF_COLL_PROTOCOLS_N), out);
}

double sf_coll_busbw(enum sf_coll_op op, uint32_t members, uint64_t bytes, double time_s) {
    double share = (members - 1.0) / members;
    double factor = op == SF_COLL_ALL_REDUCE ? 2 * share : op == SF_COLL_BROADCAST ? 1 : share;
    return time_s > 0 ? factor * (double)bytes / time_s : 0;
}
