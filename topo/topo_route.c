/* Routes between GPUs. Everything is arithmetic on the geometry; only what the overlay hurts is searched around. */
#include <assert.h>

#include "core/hash.h"
#include "topo/topo_state.h"

const char *sf_routing_name(int routing) {
    static const char *const names[] = {
#define X(NAME, name) name,
        SF_ROUTINGS(X)
#undef X
    };
    return routing >= 0 && routing < SF_ROUTINGS_N ? names[routing] : "?";
}

/* One pair on its terms. */
struct query {
    const struct sf_topo *t;
    uint32_t src, dst;
    enum sf_routing routing;
    uint32_t planes; /* bit p: plane p may carry a stripe */
    uint64_t hash;   /* what ecmp picks ports by */
};

/* The way of one stripe between the leaves of two NICs. */
struct way {
    uint32_t up, down; /* leaf ports */
    uint32_t core_up, core_down;
};

static void add(struct sf_route *r, enum sf_link_kind kind, uint64_t index, sf_time_ps hop_ps) {
    assert(r->links_n < SF_ROUTE_LINKS);
    r->hop_ps[r->links_n] = hop_ps;
    r->links[r->links_n++] = SF_LINK(kind, index);
    r->latency_ps += hop_ps;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static void narrow(struct sf_route *r, uint64_t rate) {
    r->bytes_per_s = least(r->bytes_per_s, rate);
    r->alone_bytes_per_s = least(r->alone_bytes_per_s, rate);
}

/* NVLink from a to b of one domain, behind what the route already has. */
static void add_domain(const struct sf_topo *t, uint32_t a, uint32_t b, struct sf_route *out) {
    uint32_t lane[2];
    narrow(out, sfi_pair_rate(t, a, b, lane));
    add(out, SF_LINK_NVLINK_UP, sfi_first_lane(t, a) + lane[0], sfi_stock_of_gpu(t, a)->up.latency_ps);
    add(out, SF_LINK_NVLINK_DOWN, sfi_first_lane(t, b) + lane[1], 0);
}

/* ---- one stripe ---- */

static bool well(const struct sf_topo *t, enum sf_link_kind kind, uint64_t index) {
    return sfi_link_ppm(t, SF_LINK(kind, index)) > 0;
}

static uint64_t leaf_number(const struct sf_topo *t, const struct sfi_seat *s, uint32_t plane) {
    return (uint64_t)plane * t->fabric.leaves + s->leaf;
}

static uint64_t spine_number(const struct sf_topo *t, const struct sfi_seat *s, uint32_t plane, uint32_t slice) {
    const struct sfi_fabric *f = &t->fabric;
    return plane * sfi_plane_spines(f) + (uint64_t)s->pod * f->pod_spines + slice;
}

/* The first well cable from `start` on, in steps of `step` around `n`, of the node whose cables begin at `first`. */
static bool pick(const struct sf_topo *t, enum sf_link_kind kind, uint64_t first, uint32_t start, uint32_t step,
                 uint32_t n, uint32_t *out) {
    for (uint32_t k = 0; k < n; k += step) {
        *out = (start + k) % n;
        if (well(t, kind, first + *out)) {
            return true;
        }
    }
    return false;
}

/* From spine a up to a core and down to spine b of the same slice. */
static bool find_core(const struct sf_topo *t, uint64_t a, uint64_t b, uint32_t start, struct way *w) {
    const struct sfi_fabric *f = &t->fabric;
    for (uint32_t k = 0; k < f->spine_up; k++) {
        w->core_up = (start + k) % f->spine_up;
        if (well(t, SF_LINK_SPINE_UP, a * f->spine_up + w->core_up) &&
            pick(t, SF_LINK_SPINE_DOWN, b * f->spine_up, w->core_up, f->slice_cores, f->spine_up, &w->core_down)) {
            return true;
        }
    }
    return false;
}

/* Climb from leaf to spine, to the core if the pods differ, and down again. The destination picks each port: its
 * position on its leaf the spine, its leaf's position in the pod the core, so that no two destinations of a pod share a
 * way down. Under ecmp the hash picks. A dead one is passed over for the next. */
static bool find_way(const struct query *q, const struct sfi_seat *a, const struct sfi_seat *b, uint32_t plane,
                     struct way *w) {
    const struct sf_topo *t = q->t;
    const struct sfi_fabric *f = &t->fabric;
    bool ecmp = q->routing == SF_ROUTING_ECMP;
    uint32_t up = (ecmp ? (uint32_t)(q->hash >> 32) : b->port) % f->leaf_up;
    uint32_t core = f->spine_up == 0 ? 0 : (ecmp ? (uint32_t)q->hash : b->leaf_in_pod) % f->spine_up;
    *w = (struct way){up, up, core, core};
    for (uint32_t k = 0; t->overlay.interior && k < f->leaf_up; k++) {
        w->up = (up + k) % f->leaf_up;
        uint32_t slice = w->up % f->pod_spines;
        if (well(t, SF_LINK_LEAF_UP, leaf_number(t, a, plane) * f->leaf_up + w->up) &&
            pick(t, SF_LINK_LEAF_DOWN, leaf_number(t, b, plane) * f->leaf_up, w->up, f->pod_spines, f->leaf_up,
                 &w->down) &&
            (a->pod == b->pod ||
             find_core(t, spine_number(t, a, plane, slice), spine_number(t, b, plane, slice), core, w))) {
            return true;
        }
    }
    return !t->overlay.interior;
}

static uint64_t cable_rate(const struct sf_topo *t, enum sf_link_kind kind, uint64_t index) {
    return sfi_scale(sfi_interior_rate(t), sfi_link_ppm(t, SF_LINK(kind, index)));
}

/* Under ecmp a stripe has its cables; otherwise it has all that its leaves and pods have, of which `share` is what
 * falls to one NIC when all others of its leaf send too. */
static void climb_rates(const struct query *q, const struct sfi_seat *a, const struct sfi_seat *b, uint32_t plane,
                        const struct way *w, uint64_t *alone, uint64_t *busy) {
    const struct sf_topo *t = q->t;
    const struct sfi_fabric *f = &t->fabric;
    uint64_t wide = sfi_interior_rate(t);
    uint64_t leaf = least(sfi_leaf_ppm(t, a->leaf, plane, false), sfi_leaf_ppm(t, b->leaf, plane, true));
    uint64_t bundle = sfi_scale(wide, leaf), share = sfi_scale(wide, leaf) / f->leaf_down;
    if (a->pod != b->pod && t->overlay.interior) {
        uint64_t pod = least(sfi_pod_ppm(t, a->pod, plane, false), sfi_pod_ppm(t, b->pod, plane, true));
        uint64_t most = (uint64_t)f->pod_spines * f->spine_up * f->leaf_down;
        bundle = least(bundle, sfi_scale(wide, pod));
        share = least(share, (uint64_t)((unsigned __int128)sfi_scale(wide, pod) * f->leaf_up / most));
    }
    if (q->routing == SF_ROUTING_ECMP) {
        bundle = least(cable_rate(t, SF_LINK_LEAF_UP, leaf_number(t, a, plane) * f->leaf_up + w->up),
                       cable_rate(t, SF_LINK_LEAF_DOWN, leaf_number(t, b, plane) * f->leaf_up + w->down));
        if (a->pod != b->pod) {
            uint64_t from = spine_number(t, a, plane, w->up % f->pod_spines) * f->spine_up + w->core_up;
            uint64_t to = spine_number(t, b, plane, w->up % f->pod_spines) * f->spine_up + w->core_down;
            bundle = least(bundle, least(cable_rate(t, SF_LINK_SPINE_UP, from), cable_rate(t, SF_LINK_SPINE_DOWN, to)));
        }
        share = (uint64_t)((double)least(share, bundle) * t->fabric_switch.ecmp_share);
    }
    *alone = least(*alone, bundle);
    *busy = least(*busy, share);
}

/* ---- the fabric between two NICs ---- */

static void add_climb(const struct sf_topo *t, const struct sfi_seat *a, const struct sfi_seat *b, uint32_t plane,
                      const struct way *w, struct sf_route *out) {
    const struct sfi_fabric *f = &t->fabric;
    sf_time_ps hop = t->fabric_switch.hop_ps;
    add(out, SF_LINK_LEAF_UP, leaf_number(t, a, plane) * f->leaf_up + w->up, hop + f->cable_ps[1]);
    if (a->pod != b->pod) {
        uint32_t slice = w->up % f->pod_spines;
        add(out, SF_LINK_SPINE_UP, spine_number(t, a, plane, slice) * f->spine_up + w->core_up, hop + f->cable_ps[2]);
        add(out, SF_LINK_SPINE_DOWN, spine_number(t, b, plane, slice) * f->spine_up + w->core_down,
            hop + f->cable_ps[2]);
    }
    add(out, SF_LINK_LEAF_DOWN, leaf_number(t, b, plane) * f->leaf_up + w->down, hop + f->cable_ps[1]);
}

/* The stripe of one plane: its rates; false when it has no way. Under ecmp planes hash alike: where the first one has
 * found its way (`led`), the others take the same one or carry nothing. */
static bool stripe(const struct query *q, const uint32_t via[2], const struct sfi_seat s[2], uint32_t plane, bool led,
                   struct way *w, uint64_t rates[2]) {
    const struct sf_topo *t = q->t;
    uint64_t nic = least(sfi_nic_rate(t, via[0], plane, false), sfi_nic_rate(t, via[1], plane, true));
    rates[0] = rates[1] = nic;
    if (nic == 0 || s[0].leaf == s[1].leaf) {
        return nic > 0;
    }
    if (t->fabric.tiers < 2 || (!led && !find_way(q, &s[0], &s[1], plane, w))) {
        return false;
    }
    climb_rates(q, &s[0], &s[1], plane, w, &rates[0], &rates[1]);
    return rates[0] > 0;
}

/* From one NIC to another, behind what the route already has; false, and nothing added, when no plane joins them. */
static bool add_fabric(const struct query *q, uint32_t from, uint32_t to, struct sf_route *out) {
    const struct sf_topo *t = q->t;
    const struct sfi_seat s[2] = {sfi_seat_of(t, from), sfi_seat_of(t, to)};
    const uint32_t via[2] = {from, to};
    uint32_t first = 0, used = 0;
    uint64_t sum[2] = {0, 0};
    struct way w = {0}, lead = {0};
    for (uint32_t plane = 0; plane < t->fabric.planes; plane++) {
        uint64_t rates[2];
        bool led = used != 0 && q->routing == SF_ROUTING_ECMP;
        w = lead;
        if ((q->planes >> plane & 1) == 0 || !stripe(q, via, s, plane, led, &w, rates)) {
            continue;
        }
        lead = used == 0 ? w : lead;
        first = used == 0 ? plane : first;
        used |= 1u << plane;
        sum[0] += rates[0];
        sum[1] += rates[1];
    }
    if (used == 0) {
        return false;
    }
    const struct sf_link_class *a = &sfi_stock_of_gpu(t, from)->out, *b = &sfi_stock_of_gpu(t, to)->out;
    sf_time_ps ends = a->latency_ps > b->latency_ps ? a->latency_ps : b->latency_ps;
    add(out, SF_LINK_NIC_UP, (uint64_t)from * t->fabric.planes + first, ends + t->fabric.cable_ps[0]);
    out->kind = s[0].leaf == s[1].leaf ? SF_ROUTE_LEAF : s[0].pod == s[1].pod ? SF_ROUTE_SPINE : SF_ROUTE_CORE;
    if (out->kind > SF_ROUTE_LEAF) {
        add_climb(t, &s[0], &s[1], first, &lead, out);
    }
    add(out, SF_LINK_NIC_DOWN, (uint64_t)to * t->fabric.planes + first, t->fabric.cable_ps[0]);
    out->alone_bytes_per_s = least(out->alone_bytes_per_s, sum[0]);
    out->bytes_per_s = least(out->bytes_per_s, sum[1]);
    out->planes = used;
    out->via[0] = from;
    out->via[1] = to;
    return true;
}

/* ---- who sends and who receives ---- */

static uint32_t rail_of(const struct sf_topo *t, uint32_t gpu) {
    return gpu % t->stock[0].domain.gpus % t->fabric.rails;
}

/* Leaves of different rails do not meet in a fabric of one tier, and these routings never let them. */
static bool rails_apart(const struct query *q, uint32_t a, uint32_t b) {
    bool apart = q->t->fabric.tiers == 1 || q->routing == SF_ROUTING_RAIL_LOCAL || q->routing == SF_ROUTING_PXN;
    return apart && rail_of(q->t, a) != rail_of(q->t, b);
}

static bool dead(const struct sf_topo *t, uint32_t gpu) {
    return sfi_ppm(&t->overlay.set[SFI_SET_DEAD_GPU], gpu) == 0;
}

/* A seat that nobody filled has no NIC to lend. */
static bool lends(const struct sf_topo *t, uint32_t gpu) {
    const struct sfi_domain *d = &sfi_stock_of_gpu(t, gpu)->domain;
    return gpu % d->gpus < d->in_use && !dead(t, gpu);
}

/* Send over a's NIC and receive over b's, moving over NVLink where they are not the GPUs themselves. */
static bool over(const struct query *q, uint32_t a, uint32_t b, struct sf_route *out) {
    const struct sf_topo *t = q->t;
    *out = (struct sf_route){.bytes_per_s = UINT64_MAX, .alone_bytes_per_s = UINT64_MAX};
    if (rails_apart(q, a, b) || (a != q->src && !lends(t, a)) || (b != q->dst && !lends(t, b))) {
        return false;
    }
    if (a != q->src) {
        add_domain(t, q->src, a, out);
    }
    if (!add_fabric(q, a, b, out)) {
        return false;
    }
    if (b != q->dst) {
        add_domain(t, b, q->dst, out);
    }
    return out->alone_bytes_per_s > 0;
}

enum stead { SENDER, RECEIVER, BOTH };

/* Another GPU in somebody's stead: the next one in the domain that gets through, on the given rail or on any other. */
static bool over_other(const struct query *q, enum stead stead, uint32_t rail, bool on_rail, struct sf_route *out) {
    uint32_t gpus = q->t->stock[0].domain.gpus, from = stead == RECEIVER ? q->dst : q->src;
    uint32_t a = q->src / gpus * gpus, b = q->dst / gpus * gpus;
    for (uint32_t i = 1; i < gpus; i++) {
        uint32_t slot = (from % gpus + i) % gpus;
        if ((slot % q->t->fabric.rails == rail) == on_rail &&
            over(q, stead == RECEIVER ? q->src : a + slot, stead == SENDER ? q->dst : b + slot, out)) {
            return true;
        }
    }
    return false;
}

/* The sender's domain has another NIC, or the receiver's, or both have one in the same slot. First those on the rail of
 * the other end, whose leaves meet soonest. */
static bool over_others(const struct query *q, struct sf_route *out) {
    uint32_t src = rail_of(q->t, q->src), dst = rail_of(q->t, q->dst);
    return over_other(q, SENDER, dst, true, out) || over_other(q, SENDER, dst, false, out) ||
           over_other(q, RECEIVER, src, true, out) || over_other(q, RECEIVER, src, false, out) ||
           over_other(q, BOTH, src, true, out) || over_other(q, BOTH, src, false, out);
}

static bool across(const struct query *q, struct sf_route *out) {
    const struct sf_topo *t = q->t;
    uint32_t gpus = t->stock[0].domain.gpus;
    if (q->routing == SF_ROUTING_RAIL_LOCAL && rails_apart(q, q->src, q->dst)) {
        return false;
    }
    if (over(q, q->src, q->dst, out) || over(q, q->src / gpus * gpus + q->dst % gpus, q->dst, out)) {
        return true;
    }
    return over_others(q, out);
}

static bool inside(const struct query *q, struct sf_route *out) {
    const struct sf_topo *t = q->t;
    *out = (struct sf_route){.kind = SF_ROUTE_DOMAIN, .bytes_per_s = UINT64_MAX, .alone_bytes_per_s = UINT64_MAX};
    add_domain(t, q->src, q->dst, out);
    out->via[0] = q->src;
    out->via[1] = q->dst;
    return out->bytes_per_s > 0 || (t->fabric.tiers > 0 && over(q, q->src, q->dst, out));
}

static bool find(const struct query *q, struct sf_route *out) {
    const struct sf_topo *t = q->t;
    uint32_t gpus = t->stock[0].domain.gpus;
    if (t->overlay.any && (dead(t, q->src) || dead(t, q->dst))) {
        return false;
    }
    if (q->src == q->dst) {
        uint64_t memory = sfi_stock_of_gpu(t, q->src)->device.memory_bytes_per_s;
        *out = (struct sf_route){SF_ROUTE_SELF, .bytes_per_s = memory, .alone_bytes_per_s = memory};
        out->via[0] = out->via[1] = q->src;
        return true;
    }
    return q->src / gpus == q->dst / gpus ? inside(q, out) : across(q, out);
}

static struct query query_of(const struct sf_topo *t, uint32_t src, uint32_t dst, const struct sf_route_ask *ask) {
    enum sf_routing routing = ask->routing < 0 ? t->routing : (enum sf_routing)ask->routing;
    uint32_t planes = ask->plane == SF_ALL_PLANES ? UINT32_MAX : ask->plane < 32 ? 1u << ask->plane : 0;
    uint64_t hash = routing == SF_ROUTING_ECMP ? sf_mix64(sf_mix64(t->seed + ask->seed, src), dst) : 0;
    return (struct query){t, src, dst, routing, planes, sf_mix64(hash, ask->queue_pair)};
}

/* ---- why there is none ---- */

static int refuse(const struct sf_topo *t, const struct sfi_range *r, struct sf_err *err, const char *what,
                  uint64_t index) {
    return sf_fail_at(err, SF_E_INPUT, t->overlay.file, r->line, r->column, "%s %llu is dead: no route uses it", what,
                      (unsigned long long)index);
}

/* The first dead thing near one end, as the reason. */
static int refuse_end(const struct query *q, uint32_t gpu, struct sf_err *err) {
    const struct sf_topo *t = q->t;
    const struct sfi_ranges *set = t->overlay.set;
    for (uint32_t plane = 0; plane < t->fabric.planes; plane++) {
        uint64_t nic = (uint64_t)gpu * t->fabric.planes + plane;
        uint64_t leaf = leaf_number(t, &(struct sfi_seat){.leaf = sfi_seat_of(t, gpu).leaf}, plane);
        if ((q->planes >> plane & 1) != 0 && sfi_ppm(&set[SF_LINK_NIC_UP], nic) == 0) {
            return refuse(t, sfi_range_at(&set[SF_LINK_NIC_UP], nic), err, "the NIC of gpu", gpu);
        }
        if ((q->planes >> plane & 1) != 0 && sfi_ppm(&set[SFI_SET_LEAF], leaf) == 0) {
            return refuse(t, sfi_range_at(&set[SFI_SET_LEAF], leaf), err, "leaf", leaf);
        }
    }
    return 0;
}

/* Where the dead things between are first spoken of; NULL when nowhere. */
static const struct sfi_range *first_dead(const struct sfi_overlay *o) {
    for (int set = 0; set < SFI_SETS_N; set++) {
        for (uint32_t i = 0; i < o->set[set].n && set != SFI_SET_SPARE_GPU; i++) {
            if (o->set[set].r[i].ppm == 0) {
                return &o->set[set].r[i];
            }
        }
    }
    return NULL;
}

static int refusal(const struct query *q, struct sf_err *err) {
    const struct sf_topo *t = q->t;
    const struct sfi_ranges *gpus = &t->overlay.set[SFI_SET_DEAD_GPU];
    uint32_t end = dead(t, q->src) ? q->src : q->dst, apart = t->stock[0].domain.gpus;
    if (dead(t, end)) {
        return refuse(t, sfi_range_at(gpus, end), err, "gpu", end);
    }
    if (t->fabric.tiers > 0 && q->src / apart != q->dst / apart && rails_apart(q, q->src, q->dst)) {
        return sf_fail(err, SF_E_INPUT,
                       "rail-local routing joins GPUs of one rail, but gpu %u is on rail %u and gpu %u on rail %u: "
                       "choose pxn to change rail over NVLink first",
                       q->src, rail_of(t, q->src), q->dst, rail_of(t, q->dst));
    }
    if (t->fabric.tiers > 0) {
        SF_TRY(refuse_end(q, q->src, err));
        SF_TRY(refuse_end(q, q->dst, err));
    }
    const struct sfi_range none = {0}, *r = first_dead(&t->overlay);
    r = r != NULL ? r : &none;
    return sf_fail_at(err, SF_E_INPUT, r == &none ? NULL : t->overlay.file, r->line, r->column,
                      "no way from gpu %u to gpu %u: every path crosses something dead or empty", q->src, q->dst);
}

int sf_topo_route_with(const struct sf_topo *t, uint32_t src, uint32_t dst, const struct sf_route_ask *ask,
                       struct sf_route *out, struct sf_err *err) {
    assert(src < t->seats && dst < t->seats && ask->routing < SF_ROUTINGS_N);
    struct query q = query_of(t, src, dst, ask);
    if (find(&q, out)) {
        return 0;
    }
    *out = (struct sf_route){.kind = SF_ROUTE_CORE, .via = {src, dst}};
    return refusal(&q, err);
}

void sf_topo_route(const struct sf_topo *t, uint32_t src, uint32_t dst, struct sf_route *out) {
    static const struct sf_route_ask own = {.routing = -1, .plane = SF_ALL_PLANES};
    assert(src < t->seats && dst < t->seats);
    struct query q = query_of(t, src, dst, &own);
    if (!find(&q, out)) {
        *out = (struct sf_route){.kind = SF_ROUTE_CORE, .via = {src, dst}};
    }
}

/* Where all domains are of one kind and nothing is hurt, all that tells two routes apart is how far up they meet and
 * whether they have to change rails. */
uint32_t sf_topo_route_alike(const struct sf_topo *t, uint32_t src, uint32_t dst) {
    uint32_t gpus = t->stock[0].domain.gpus, filled = t->stock[0].domain.in_use;
    uint32_t a = src / gpus, b = dst / gpus, slot[2] = {src - a * gpus, dst - b * gpus};
    if (t->stocks_n > 1 || t->overlay.any || slot[0] >= filled || slot[1] >= filled) {
        return SF_NONE;
    }
    if (a == b) {
        return src != dst;
    }
    if (t->fabric.tiers < 2) {
        return SF_NONE;
    }
    const struct sfi_seat from = sfi_seat_of(t, src), to = sfi_seat_of(t, dst);
    uint32_t apart = from.group == to.group ? 0 : from.pod == to.pod ? 1 : 2;
    return 2 + 2 * apart + (from.rail != to.rail);
}
