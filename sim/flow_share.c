/* Max-min fair rates of the flows that saturated ports join. A port whose flows' caps fit takes no part: it holds
 * nobody back. */
#include "sim/fair.h"
#include "sim/flow.h"

enum { PORTS = SFI_TIERS_N * 2 }; /* of an instance */

struct sfi_sharing {
    struct sf_fair_flow *fair;
    struct sfi_flow *flows;
    uint64_t *capacity, *rate;
    uint32_t *port;    /* of each link: instance * PORTS + tier * 2 + direction; behind them those inside the fabric */
    uint32_t *link_of; /* by port of the cell; counted from 1 */
    uint32_t *fabric;  /* by link inside the fabric, likewise */
    void *scratch;
    uint32_t flows_n, links_n;
};

struct sfi_sharing *sfi_sharing_create(const struct sfi_table *t, struct sf_arena *arena) {
    struct sfi_sharing *s = sf_arena_alloc(arena, 1, sizeof *s);
    size_t flows = t->cell_slots, ports = (size_t)t->cell_n * PORTS, inside = t->fabric ? t->fabric->links_n : 0;
    size_t links = (ports < 2 * flows ? ports : 2 * flows) + inside;
    if (!s) {
        return NULL;
    }
    s->fair = sf_arena_alloc(arena, flows, sizeof *s->fair);
    s->flows = sf_arena_alloc(arena, flows, sizeof *s->flows);
    s->rate = sf_arena_alloc(arena, flows, sizeof *s->rate);
    s->capacity = sf_arena_alloc(arena, links + 2, sizeof *s->capacity);
    s->port = sf_arena_alloc(arena, links + 2, sizeof *s->port);
    s->link_of = sf_arena_alloc(arena, ports, sizeof *s->link_of);
    s->fabric = sf_arena_alloc(arena, inside, sizeof *s->fabric);
    s->scratch = sf_arena_alloc(arena, sf_fair_scratch_bytes((uint32_t)flows, (uint32_t)links + 2), 1);
    bool all = s->fair && s->flows && s->rate && s->capacity && s->port && s->link_of && s->fabric && s->scratch;
    return all ? s : NULL;
}

static uint32_t place_of(struct sfi_sharing *s, uint32_t *place, uint32_t port, uint64_t capacity) {
    if (*place == 0) {
        s->port[s->links_n] = port;
        s->capacity[s->links_n] = capacity;
        *place = ++s->links_n;
    }
    return *place;
}

/* Place of a port's link, counted from 1; 0 when it holds nobody back. */
static uint32_t link_of(const struct sfi_worker *w, uint32_t instance, uint32_t tier, uint32_t direction) {
    struct sfi_sharing *s = w->sharing;
    const struct sfi_inst *in = &w->inst[instance];
    uint64_t capacity = sfi_variant_of(w, in)->capacity[tier];
    if (in->demand[tier][direction] <= capacity) {
        return 0;
    }
    uint32_t port = tier * 2 + direction;
    return place_of(s, &s->link_of[(instance - w->cell->first) * PORTS + port], instance * PORTS + port, capacity);
}

static uint32_t fabric_link_of(const struct sfi_worker *w, uint32_t link) {
    const struct sfi_fabric_links *l = w->table->fabric;
    bool full = l->demand[link] > l->capacity[link];
    return full ? place_of(w->sharing, &w->sharing->fabric[link], w->table->n * PORTS + link, l->capacity[link]) : 0;
}

static void add_link(struct sf_fair_flow *f, uint32_t place) {
    if (place > 0) {
        f->links[f->links_n++] = place - 1;
    }
}

static void add_flow(struct sfi_worker *w, struct sfi_flow flow) {
    struct sfi_sharing *s = w->sharing;
    if (flow.act->mark) {
        return;
    }
    struct sf_fair_flow *f = &s->fair[s->flows_n];
    uint32_t tier = flow.op.port;
    s->flows[s->flows_n] = flow;
    flow.act->mark = ++s->flows_n;
    f->cap_bytes_per_s = w->loads[flow.op.load].cap;
    f->links_n = 0;
    add_link(f, link_of(w, flow.src, tier, 0));
    add_link(f, link_of(w, flow.dst, tier, 1));
    const struct sfi_fabric_links *l = w->table->fabric;
    uint32_t way = w->inst[flow.src].ways + flow.op.way;
    for (uint32_t k = l ? l->list_first[way] : 0; l && k < l->list_first[way + 1]; k++) {
        add_link(f, fabric_link_of(w, l->list[k]));
    }
}

/* The flows on one port: what the instance's streams move there. */
static void add_flows(struct sfi_worker *w, uint32_t instance, uint32_t port) {
    const struct sfi_inst *in = &w->inst[instance];
    const struct sfi_variant *v = sfi_variant_of(w, in);
    for (uint32_t left = in->moving; left; left &= left - 1) {
        const struct sfi_vop vop = sfi_vop_of(v, sfi_slim_now(v, &in->st, (uint32_t)__builtin_ctz(left))), *op = &vop;
        if (op->kind == SFI_RECV) {
            uint32_t src = sfi_peer_of(w->inst, w->ways, instance, op->way);
            const struct sfi_variant *u = sfi_variant_of(w, &w->inst[src]);
            const struct sfi_vop sending = sfi_vop_of(u, sfi_slim_at(u, op->partner_stream, op->partner_at)),
                                 *send = &sending;
            if (send->port * 2u + 1 == port) {
                add_flow(w, sfi_flow_of(w, src, send));
            }
        } else if (op->port * 2u == port || (op->kind == SFI_COLL && op->port * 2u + 1 == port)) {
            add_flow(w, sfi_flow_of(w, instance, op));
        }
    }
}

/* The flows on one link inside the fabric. */
static void add_users(struct sfi_worker *w, uint32_t link) {
    const struct sfi_fabric_links *l = w->table->fabric;
    for (uint32_t u = l->user_first[link]; u < l->user_first[link + 1]; u++) {
        uint32_t i = l->users[u].instance;
        const struct sfi_variant *v = sfi_variant_of(w, &w->inst[i]);
        for (uint32_t left = w->inst[i].moving; left; left &= left - 1) {
            const struct sfi_vop vop = sfi_vop_of(v, sfi_slim_now(v, &w->inst[i].st, (uint32_t)__builtin_ctz(left)));
            if (vop.way == l->users[u].way) {
                add_flow(w, sfi_flow_of(w, i, &vop));
            }
        }
    }
}

/* The memory sees other traffic at both ends. */
static void change_rate(struct sfi_worker *w, const struct sfi_flow *flow, uint64_t rate) {
    const struct sfi_load *l = &w->loads[flow->op.load];
    struct sfi_inst *from = &w->inst[flow->src], *to = &w->inst[flow->dst];
    uint64_t before = flow->act->rate;
    sfi_act_press(w, flow->act, rate);
    if (l->memory) {
        from->memory += sfi_memory_share(l, l->memory, rate) - sfi_memory_share(l, l->memory, before);
        sfi_kernels_press(w, flow->src);
    }
    if (l->memory_far && flow->op.kind != SFI_COLL) {
        to->memory += sfi_memory_share(l, l->memory_far, rate) - sfi_memory_share(l, l->memory_far, before);
        sfi_kernels_press(w, flow->dst);
    }
}

static void set_rates(struct sfi_worker *w) {
    struct sfi_sharing *s = w->sharing;
    sf_fair_rates(s->fair, s->flows_n, s->capacity, s->links_n, s->scratch, s->rate);
    for (uint32_t i = 0; i < s->flows_n; i++) {
        uint64_t rate = s->rate[i] > 0 ? s->rate[i] : 1;
        s->flows[i].act->mark = 0;
        if (rate != s->flows[i].act->rate) {
            change_rate(w, &s->flows[i], rate);
        }
    }
    for (uint32_t i = 0; i < s->links_n; i++) {
        uint32_t port = s->port[i], ports = w->table->n * PORTS;
        *(port < ports ? &s->link_of[port - w->cell->first * PORTS] : &s->fabric[port - ports]) = 0;
        if (w->audit && port < ports) {
            sfi_audit_port(w, port / PORTS, port % PORTS / 2);
        } else if (w->audit) {
            sfi_audit_link(w, port - ports);
        }
    }
}

/* What neither is full nor was before this flow ended holds nobody back, then or now. */
void sfi_share(struct sfi_worker *w, const struct sfi_flow *flow) {
    struct sfi_sharing *s = w->sharing;
    const struct sfi_fabric_links *l = w->table->fabric;
    uint32_t way = w->inst[flow->src].ways + flow->op.way, ports = w->table->n * PORTS;
    uint64_t cap = w->loads[flow->op.load].cap;
    s->flows_n = s->links_n = 0;
    for (uint32_t end = 0; end < 2; end++) {
        uint32_t i = end == 0 ? flow->src : flow->dst, tier = flow->op.port;
        if (w->inst[i].demand[tier][end] + cap > sfi_variant_of(w, &w->inst[i])->capacity[tier]) {
            add_flows(w, i, tier * 2u + end);
        }
    }
    for (uint32_t k = l ? l->list_first[way] : 0; l && k < l->list_first[way + 1]; k++) {
        if (l->demand[l->list[k]] + cap > l->capacity[l->list[k]]) {
            add_users(w, l->list[k]);
        }
    }
    for (uint32_t done = 0; done < s->links_n; done++) {
        if (s->port[done] < ports) {
            add_flows(w, s->port[done] / PORTS, s->port[done] % PORTS);
        } else {
            add_users(w, s->port[done] - ports);
        }
    }
    set_rates(w);
}
