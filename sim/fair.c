#include "sim/fair.h"

#include <stdbool.h>

#define UNSET UINT64_MAX /* rate of a flow that is not frozen yet; no link is this fast */

struct link {
    uint64_t left;  /* bytes per second not given to frozen flows */
    uint64_t share; /* left / flows_n, or UNSET without flows; brought up to date when asked for */
    uint32_t flows_n;
    uint32_t stale; /* share is older than left and flows_n */
};

_Static_assert(sizeof(struct link) == 24, "SF_FAIR_SMALL_SCRATCH counts on it");

static uint64_t share_of(struct link *l) {
    if (l->stale) {
        l->share = l->flows_n > 0 ? l->left / l->flows_n : UNSET;
        l->stale = 0;
    }
    return l->share;
}

static void links_init(const struct sf_fair_flow *flows, uint32_t flows_n, const uint64_t *capacity, uint32_t links_n,
                       struct link *links, uint64_t *rate) {
    for (uint32_t l = 0; l < links_n; l++) {
        links[l] = (struct link){.left = capacity[l], .stale = 1};
    }
    for (uint32_t f = 0; f < flows_n; f++) {
        rate[f] = UNSET;
        for (uint32_t i = 0; i < flows[f].links_n; i++) {
            links[flows[f].links[i]].flows_n++;
        }
    }
}

/* A flow's links give up `level` each. Called only after the level's whole set of flows is known. */
static void charge(const struct sf_fair_flow *flow, uint64_t level, struct link *links) {
    for (uint32_t i = 0; i < flow->links_n; i++) {
        struct link *l = &links[flow->links[i]];
        l->left -= level;
        l->flows_n--;
        l->stale = 1;
    }
}

/* ---- few flows and links: scan ----------------------------------------------------------------------------------- */

static bool is_tied(const struct sf_fair_flow *flow, uint64_t level, const struct link *links) {
    bool tied = flow->cap_bytes_per_s == level;
    for (uint32_t i = 0; i < flow->links_n; i++) {
        tied |= links[flow->links[i]].share == level;
    }
    return tied;
}

static uint64_t lowest(const struct sf_fair_flow *flows, const uint32_t *open, uint32_t open_n, struct link *links,
                       uint32_t links_n) {
    uint64_t level = UNSET;
    for (uint32_t l = 0; l < links_n; l++) {
        uint64_t share = share_of(&links[l]);
        level = share < level ? share : level;
    }
    for (uint32_t i = 0; i < open_n; i++) {
        uint64_t cap = flows[open[i]].cap_bytes_per_s;
        level = cap < level ? cap : level;
    }
    return level;
}

static void solve_by_scan(const struct sf_fair_flow *flows, uint32_t flows_n, struct link *links, uint32_t links_n,
                          uint32_t *open, uint64_t *rate) {
    uint32_t *frozen = open + flows_n, open_n = flows_n;
    for (uint32_t f = 0; f < flows_n; f++) {
        open[f] = f;
    }
    while (open_n > 0) {
        uint64_t level = lowest(flows, open, open_n, links, links_n);
        uint32_t kept = 0, frozen_n = 0;
        for (uint32_t i = 0; i < open_n; i++) {
            bool tied = is_tied(&flows[open[i]], level, links);
            *(tied ? &frozen[frozen_n++] : &open[kept++]) = open[i];
        }
        for (uint32_t i = 0; i < frozen_n; i++) {
            rate[frozen[i]] = level;
            charge(&flows[frozen[i]], level, links);
        }
        open_n = kept;
    }
}

/* ---- many: a heap of shares and caps ----------------------------------------------------------------------------- */

struct entry {
    uint64_t share; /* a lower bound: shares only grow from level to level */
    uint64_t who;   /* link, or links_n + flow for a cap */
};

struct large {
    const struct sf_fair_flow *flows;
    struct link *links;
    struct entry *heap;
    uint32_t *first; /* [links_n + 1] into `of` */
    uint32_t *of;    /* flows by link */
    uint32_t *frozen;
    uint32_t *tied; /* links of the level */
    uint64_t *rate;
    uint32_t flows_n, links_n, heap_n, frozen_n, tied_n;
};

static void sift_down(struct entry *heap, uint32_t n, uint32_t i) {
    struct entry moving = heap[i];
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && heap[child + 1].share < heap[child].share;
        if (heap[child].share >= moving.share) {
            break;
        }
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

static void drop_first(struct large *s) {
    s->heap[0] = s->heap[--s->heap_n];
    if (s->heap_n > 0) {
        sift_down(s->heap, s->heap_n, 0);
    }
}

static void index_flows(struct large *s) {
    uint32_t sum = 0;
    for (uint32_t l = 0; l < s->links_n; l++) {
        s->first[l] = sum;
        sum += s->links[l].flows_n;
    }
    s->first[s->links_n] = sum;
    for (uint32_t f = 0; f < s->flows_n; f++) {
        for (uint32_t i = 0; i < s->flows[f].links_n; i++) {
            s->of[s->first[s->flows[f].links[i]]++] = f;
        }
    }
    for (uint32_t l = s->links_n; l > 0; l--) { /* filling moved every start to its end */
        s->first[l] = s->first[l - 1];
    }
    s->first[0] = 0;
}

static void fill_heap(struct large *s) {
    for (uint32_t l = 0; l < s->links_n; l++) {
        s->heap[s->heap_n++] = (struct entry){share_of(&s->links[l]), l};
    }
    for (uint32_t f = 0; f < s->flows_n; f++) {
        if (s->flows[f].cap_bytes_per_s != SF_FAIR_NO_CAP) {
            s->heap[s->heap_n++] = (struct entry){s->flows[f].cap_bytes_per_s, (uint64_t)s->links_n + f};
        }
    }
    for (uint32_t i = s->heap_n / 2; i > 0; i--) {
        sift_down(s->heap, s->heap_n, i - 1);
    }
}

/* Brings the first entry up to date, or drops it; false when it changed. */
static bool first_is_true(struct large *s) {
    struct entry *e = &s->heap[0];
    if (e->who >= s->links_n) {
        bool open = s->rate[e->who - s->links_n] == UNSET;
        if (!open) {
            drop_first(s);
        }
        return open;
    }
    uint64_t share = share_of(&s->links[e->who]);
    if (share == e->share) {
        return true;
    }
    e->share = share;
    sift_down(s->heap, s->heap_n, 0);
    return false;
}

static void freeze(struct large *s, uint32_t flow, uint64_t level) {
    if (s->rate[flow] == UNSET) {
        s->rate[flow] = level;
        s->frozen[s->frozen_n++] = flow;
    }
}

/* Freezes all that is tied at the smallest share; false when no flow is left. */
static bool freeze_level(struct large *s) {
    while (s->heap_n > 0 && !first_is_true(s)) {
    }
    if (s->heap_n == 0 || s->heap[0].share == UNSET) {
        return false;
    }
    uint64_t level = s->heap[0].share;
    s->frozen_n = s->tied_n = 0;
    while (s->heap_n > 0 && s->heap[0].share == level) {
        if (!first_is_true(s)) {
            continue;
        }
        uint64_t who = s->heap[0].who;
        drop_first(s);
        if (who >= s->links_n) {
            freeze(s, (uint32_t)(who - s->links_n), level);
        } else {
            s->tied[s->tied_n++] = (uint32_t)who;
        }
    }
    for (uint32_t i = 0; i < s->tied_n; i++) {
        for (uint32_t k = s->first[s->tied[i]]; k < s->first[s->tied[i] + 1]; k++) {
            freeze(s, s->of[k], level);
        }
    }
    for (uint32_t i = 0; i < s->frozen_n; i++) {
        charge(&s->flows[s->frozen[i]], level, s->links);
    }
    return true;
}

static void solve_by_heap(struct large *s) {
    index_flows(s);
    fill_heap(s);
    while (freeze_level(s)) {
    }
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

size_t sf_fair_scratch_bytes(uint32_t flows_n, uint32_t links_n) {
    size_t per_link = sizeof(struct link) + sizeof(struct entry) + 2 * sizeof(uint32_t);
    size_t per_flow = sizeof(struct entry) + (SF_FAIR_LINKS + 2) * sizeof(uint32_t);
    return (size_t)links_n * per_link + (size_t)flows_n * per_flow + sizeof(uint64_t);
}

void sf_fair_rates(const struct sf_fair_flow *flows, uint32_t flows_n, const uint64_t *capacity_bytes_per_s,
                   uint32_t links_n, void *scratch, uint64_t *rate_bytes_per_s) {
    struct link *links = scratch;
    links_init(flows, flows_n, capacity_bytes_per_s, links_n, links, rate_bytes_per_s);
    if (flows_n <= SF_FAIR_SMALL_FLOWS && links_n <= SF_FAIR_SMALL_LINKS) {
        solve_by_scan(flows, flows_n, links, links_n, (uint32_t *)(links + links_n), rate_bytes_per_s);
        return;
    }
    struct large s = {.flows = flows, .links = links, .rate = rate_bytes_per_s, .flows_n = flows_n, .links_n = links_n};
    s.heap = (struct entry *)(links + links_n);
    s.first = (uint32_t *)(s.heap + links_n + flows_n);
    s.tied = s.first + links_n + 1;
    s.frozen = s.tied + links_n;
    s.of = s.frozen + flows_n;
    solve_by_heap(&s);
}
