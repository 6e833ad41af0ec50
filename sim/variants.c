/* Sorting ranks by the conditions that decide how long their ops take, and pricing each kind once. */
#include <string.h>

#include "sim/cost_internal.h"
#include "sim/flow_load.h"

struct part { /* of a collective, under one set of conditions */
    sf_time_ps time;
    uint32_t load;
};

struct reach { /* between two ranks */
    struct sfi_tier link;
    uint64_t busy_bytes_per_s; /* of the route; 0: there is none */
    uint32_t kind;
    bool known;
};

struct ride { /* over a way from one rank */
    uint32_t from;
    struct reach reach;
};

struct maker {
    struct sfi_mesh *mesh;
    const struct sf_cost *cost;
    const struct sfi_classes *classes;
    struct sf_arena *arena;
    struct sfi_prices *prices;
    struct sfi_loader loader;
    struct sf_span *span[SF_MAX_COMMS]; /* by group */
    uint32_t *group_of[SF_MAX_COMMS];   /* by rank */
    double *rate[SF_MAX_COMMS];         /* by group; NULL: nothing is slow */
    double *gpu;                        /* by leader of a team: pace of its slowest GPU; NULL: none is slow */
    const uint32_t *leader;
    uint64_t *factor;                  /* for ways, then communicators */
    uint64_t *class_word;              /* by class; scrambled */
    uint64_t *span_word[SF_MAX_COMMS]; /* by group: what its members share; scrambled */
    struct sfi_ids part_ids;           /* of what a part depends on */
    struct part *parts;                /* by id */
    uint32_t parts_size;
    struct ride *rides;                  /* by way: the last one asked for */
    struct reach alike[SF_ROUTES_ALIKE]; /* by number of the routes that are alike */
    struct sfi_variants *out;
};

static double lesser(double a, double b) {
    return a < b ? a : b;
}

/* What is left of the way between two ranks; says which where there is none. */
static int see_way(const struct maker *k, uint32_t a, uint32_t b, double *left, struct sf_err *err) {
    const struct sfi_mesh *m = k->mesh;
    return sf_cost_way_left(k->cost, m->gpu[a], m->gpu[b], left, err)
               ? sf_err_wrap(err, "rank %u (gpu %u) does not reach rank %u (gpu %u)", a * m->strip, m->gpu[a],
                             b * m->strip, m->gpu[b])
               : SF_OK;
}

/* From one member to the next inside its domain, and to the same place in the next domain. */
static int hurt_member(const struct maker *k, const struct sfi_comm *c, const struct sf_span *span, uint32_t group,
                       uint32_t member, double *rate, struct sf_err *err) {
    const uint32_t steps[] = {1, span->min_per_domain}, *domain = k->mesh->domain;
    uint32_t a = c->base[group] + c->offset[member];
    for (int i = 0; i < 2; i++) {
        uint32_t b = c->base[group] + c->offset[(member + steps[i]) % c->members_n];
        bool inside = domain[a] == domain[b];
        if (a != b && inside == (i == 0)) {
            SF_TRY(see_way(k, a, b, rate, err));
        }
    }
    return SF_OK;
}

/* A ring goes at the pace of its narrowest port. Across domains it uses both kinds of ports. */
static int find_rates(struct maker *k, uint32_t comm, struct sf_err *err) {
    const struct sfi_mesh *m = k->mesh;
    const struct sfi_comm *c = &m->comms[comm];
    if (!m->pace && !m->hurt) {
        return SF_OK;
    }
    k->rate[comm] = sf_arena_alloc(k->arena, c->groups_n, sizeof *k->rate[comm]);
    if (!k->rate[comm]) {
        return sf_fail_memory(err, "rates of groups");
    }
    for (uint32_t g = 0; g < c->groups_n; g++) {
        double rate = 1.0;
        for (uint32_t i = 0; i < c->members_n; i++) {
            const struct sfi_pace *p = m->pace ? &m->pace[c->base[g] + c->offset[i]] : NULL;
            rate = p ? lesser(rate, k->span[comm][g].domains > 1 ? lesser(p->up, p->out) : p->up) : rate;
            SF_TRY(m->hurt ? hurt_member(k, c, &k->span[comm][g], g, i, &rate, err) : SF_OK);
        }
        k->rate[comm][g] = rate;
    }
    return SF_OK;
}

static int find_slow_kernels(struct maker *k, struct sf_err *err) {
    const struct sfi_mesh *m = k->mesh;
    if (!m->pace || !k->leader) {
        return SF_OK;
    }
    k->gpu = sf_arena_alloc(k->arena, m->ranks_n, sizeof *k->gpu);
    if (!k->gpu) {
        return sf_fail_memory(err, "slow kernels");
    }
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        double *slowest = &k->gpu[k->leader[r]];
        *slowest = k->leader[r] == r ? m->pace[r].gpu : lesser(*slowest, m->pace[r].gpu);
    }
    return SF_OK;
}

static double gpu_pace(const struct maker *k, uint32_t rank) {
    return k->gpu ? k->gpu[k->leader[rank]] : 1.0;
}

/* What is left of the way between two ranks. */
static double way_pace(const struct sfi_mesh *m, uint32_t a, uint32_t b, uint32_t route_kind) {
    if (!m->pace || route_kind == SF_ROUTE_SELF) {
        return 1.0;
    }
    return route_kind == SF_ROUTE_DOMAIN ? lesser(m->pace[a].up, m->pace[b].up)
                                         : lesser(m->pace[a].out, m->pace[b].out);
}

static int find_spans(struct maker *k, uint32_t comm, struct sf_err *err) {
    struct sfi_mesh *m = k->mesh;
    SF_TRY(sfi_mesh_comm(m, comm, k->arena, err));
    const struct sfi_comm *c = &m->comms[comm];
    k->span[comm] = sf_arena_alloc(k->arena, c->groups_n, sizeof *k->span[comm]);
    k->group_of[comm] = sf_arena_alloc(k->arena, m->ranks_n, sizeof *k->group_of[comm]);
    if (!k->span[comm] || !k->group_of[comm]) {
        return sf_fail_memory(err, "spans of groups");
    }
    for (uint32_t g = 0; g < c->groups_n; g++) {
        if (g > 0 && c->members_n == 1 && !m->kind) { /* one strip is like another */
            k->span[comm][g] = k->span[comm][0];
        } else {
            sfi_mesh_span(m, c, g, &k->span[comm][g]);
        }
        k->span[comm][g].alone = k->classes->alone;
        for (uint32_t i = 0; i < c->members_n; i++) {
            k->group_of[comm][c->base[g] + c->offset[i]] = g;
        }
    }
    return find_rates(k, comm, err);
}

/* Rate and latency of one message. Where contended links are simulated it is priced as if alone. */
static struct reach reach_of(const struct maker *k, uint32_t a, uint32_t b) {
    struct sf_route route;
    sf_topo_route(k->mesh->topo, a, b, &route);
    if (k->classes->alone) {
        route.bytes_per_s = route.alone_bytes_per_s;
    }
    return (struct reach){sfi_cost_link(k->cost, &route), route.bytes_per_s, route.kind, true};
}

static struct reach reach_between(struct maker *k, uint32_t a, uint32_t b) {
    uint32_t src = k->mesh->gpu[a], dst = k->mesh->gpu[b], number = sf_topo_route_alike(k->mesh->topo, src, dst);
    if (number == SF_NONE) {
        return reach_of(k, src, dst);
    }
    if (!k->alike[number].known) {
        k->alike[number] = reach_of(k, src, dst);
    }
    return k->alike[number];
}

/* The route of a transfer last seen on a way. What a route costs depends on the two domains and on whether the rails
 * are the same, so ranks side by side mostly find it here. */
struct seen {
    uint32_t src_domain, dst_domain;
    bool same_rail;
    uint64_t word; /* scrambled */
};

static uint64_t link_word(struct maker *k, uint32_t a, uint32_t b, struct seen *seen) {
    const struct sfi_mesh *m = k->mesh;
    bool same_rail = m->rail[a] == m->rail[b], slow = m->pace || m->hurt;
    if (slow || a == b || seen->src_domain != m->domain[a] || seen->dst_domain != m->domain[b] ||
        seen->same_rail != same_rail) {
        const struct reach r = reach_between(k, a, b);
        uint64_t h = sf_mix64(sf_mix64(r.kind, r.link.bytes_per_s), (uint64_t)r.link.latency_ps);
        h = sf_mix64(h, sfi_pace_bits(way_pace(m, a, b, r.kind)));
        *seen = (struct seen){a == b ? SF_NONE : m->domain[a], m->domain[b], same_rail, h};
    }
    return seen->word;
}

/* What its own cables to the leaves are good for, in the worse direction. */
static uint64_t nic_rate(const struct sfi_mesh *m, uint32_t rank) {
    uint32_t planes = sf_topo_planes(m->topo);
    uint64_t up = 0, down = 0;
    for (uint32_t p = 0; p < planes && sf_topo_scale_out(m->topo); p++) {
        uint64_t nic = (uint64_t)m->gpu[rank] * planes + p;
        up += sf_topo_link_rate(m->topo, SF_LINK(SF_LINK_NIC_UP, nic));
        down += sf_topo_link_rate(m->topo, SF_LINK(SF_LINK_NIC_DOWN, nic));
    }
    return up < down ? up : down;
}

/* What an overlay has left of a port, all told. */
static uint64_t left_of_up(const struct sfi_mesh *m, uint32_t rank, uint64_t rate) {
    uint64_t whole = sf_topo_scale_up_of(m->topo, m->gpu[rank])->bytes_per_s;
    uint64_t left = sf_topo_up_left(m->topo, m->gpu[rank]);
    return left < whole ? (uint64_t)((unsigned __int128)rate * left / whole) : rate;
}

/* Ranks from one on whose class and ways are one like the other. */
struct stretch {
    uint32_t end;
    uint64_t word; /* of them; scrambled */
};

static uint32_t left_of(uint32_t row, uint32_t rank) {
    return row - rank % row;
}

static uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* As long as neither they nor their peers come to the end of a domain, a class or a ring: then all of them move along
 * by one, which changes neither domains nor whether rails are the same. */
static struct stretch stretch_from(struct maker *k, uint32_t rank, struct seen *seen) {
    const struct sfi_mesh *m = k->mesh;
    const struct sfi_class *c = &k->classes->cls[m->class_of[rank]];
    struct stretch s = {.word = k->class_word[m->class_of[rank]]};
    uint32_t n = least(left_of(m->row, rank), left_of(m->class_row, rank));
    for (uint32_t w = 0; w < c->ways_n; w++) {
        uint32_t peer = sfi_way_peer(m, &c->ways[w], rank);
        uint64_t word = k->class_word[m->class_of[peer]];
        word += c->ways[w].send ? link_word(k, rank, peer, &seen[w]) : 0;
        s.word += k->factor[w] * word;
        n = least(n, least(left_of(m->row, peer), left_of(m->class_row, peer)));
        n = least(n, left_of(m->comms[c->ways[w].comm].stride, rank));
    }
    s.end = m->pace || m->hurt ? rank + 1 : rank + n;
    return s;
}

/* Everything a rank's durations and partners depend on. */
static uint64_t signature(struct maker *k, uint32_t rank, struct stretch *s, struct seen *seen) {
    const struct sfi_mesh *m = k->mesh;
    const struct sfi_class *c = &k->classes->cls[m->class_of[rank]];
    const uint64_t *factor = &k->factor[c->ways_n];
    if (rank == s->end) {
        *s = stretch_from(k, rank, seen);
    }
    uint64_t h = s->word;
    for (uint32_t left = c->spans; left; left &= left - 1) {
        uint32_t comm = (uint32_t)__builtin_ctz(left);
        h += *factor++ * k->span_word[comm][k->group_of[comm][rank]];
    }
    if (m->pace) { /* its own ports, and its team's kernels */
        h = sf_mix64(sf_mix64(h, sfi_pace_bits(m->pace[rank].up)), sfi_pace_bits(m->pace[rank].out));
    }
    if (m->kind) { /* its own ports, and what its team's kernels run on */
        h = sf_mix64(sf_mix64(h, m->kind[rank]), m->kinds[rank]);
    }
    h = m->hurt ? sf_mix64(sf_mix64(h, nic_rate(m, rank)), sf_topo_up_left(m->topo, m->gpu[rank])) : h;
    return k->gpu ? sf_mix64(h, sfi_pace_bits(gpu_pace(k, rank))) : h;
}

static int find_words(struct maker *k, uint32_t *ways_n, struct sf_err *err) {
    const struct sfi_mesh *m = k->mesh;
    k->class_word = sf_arena_alloc(k->arena, k->classes->n, sizeof *k->class_word);
    if (!k->class_word) {
        return sf_fail_memory(err, "kinds of ranks");
    }
    for (uint32_t i = 0; i < k->classes->n; i++) {
        k->class_word[i] = sf_mix64(UINT64_C(0x76617269616e74), i);
        *ways_n = k->classes->cls[i].ways_n > *ways_n ? k->classes->cls[i].ways_n : *ways_n;
    }
    k->factor = sfi_factors(*ways_n + SF_MAX_COMMS, k->arena);
    if (!k->factor) {
        return sf_fail_memory(err, "kinds of ranks");
    }
    for (uint32_t left = k->classes->spans; left; left &= left - 1) {
        uint32_t comm = (uint32_t)__builtin_ctz(left), groups_n = m->comms[comm].groups_n;
        k->span_word[comm] = sf_arena_alloc(k->arena, groups_n, sizeof *k->span_word[comm]);
        if (!k->span_word[comm]) {
            return sf_fail_memory(err, "kinds of ranks");
        }
        for (uint32_t g = 0; g < groups_n; g++) {
            const struct sf_span *s = &k->span[comm][g];
            uint64_t h = sf_mix64(sf_mix64(sf_mix64(comm, s->domains), s->min_per_domain), s->kind);
            h = m->kind ? sf_mix64(h, s->kinds) : h;
            k->span_word[comm][g] = sf_mix64(h, sfi_pace_bits(k->rate[comm] ? k->rate[comm][g] : 1.0));
        }
    }
    return SF_OK;
}

static int sort_ranks(struct maker *k, uint32_t **first_rank, struct sf_err *err) {
    struct sfi_variants *v = k->out;
    struct sfi_ids ids;
    uint32_t ranks_n = k->mesh->ranks_n, ways_n = 0, id = 0;
    uint64_t last = 0;
    struct stretch s = {0};
    SF_TRY(find_words(k, &ways_n, err));
    struct seen *seen = sf_arena_alloc(k->arena, ways_n, sizeof *seen);
    k->rides = sf_arena_alloc(k->arena, ways_n, sizeof *k->rides);
    v->of_rank = sf_arena_alloc(k->arena, ranks_n, sizeof *v->of_rank);
    *first_rank = sf_arena_alloc(k->arena, ranks_n, sizeof **first_rank);
    if (!seen || !k->rides || !v->of_rank || !*first_rank || !sfi_ids_init(&ids, k->arena)) {
        return sf_fail_memory(err, "kinds of ranks");
    }
    for (uint32_t w = 0; w < ways_n; w++) {
        seen[w].src_domain = k->rides[w].from = SF_NONE;
    }
    for (uint32_t r = 0; r < ranks_n; r++) {
        uint64_t h = signature(k, r, &s, seen);
        uint32_t before = ids.n;
        id = r > 0 && h == last ? id : sfi_ids_get(&ids, k->arena, h);
        last = h;
        if (id == SF_NONE) {
            return sf_fail_memory(err, "kinds of ranks");
        }
        if (ids.n > before) {
            (*first_rank)[id] = r;
        }
        v->of_rank[r] = id;
    }
    v->n = ids.n;
    return SF_OK;
}

static enum sfi_tier_of_port port_of(uint32_t route_kind) {
    return route_kind == SF_ROUTE_SELF ? SFI_PORT_NONE : route_kind == SF_ROUTE_DOMAIN ? SFI_PORT_UP : SFI_PORT_OUT;
}

/* A flow has something to move. */
static sf_time_ps at_least_one(sf_time_ps t) {
    return t > 1 ? t : 1;
}

static uint64_t slowed(uint64_t rate, double pace) {
    return pace < 1.0 ? (uint64_t)((double)rate * pace) : rate;
}

/* A port carries at least what the only flow on it would ask for. */
static uint64_t flow_cap(struct sfi_variant *v, uint32_t tier, uint64_t rate) {
    rate = rate > 0 ? rate : 1;
    if (tier < SFI_TIERS_N && rate > v->capacity[tier]) {
        v->capacity[tier] = rate;
    }
    return rate;
}

static const struct reach *reach_over(struct maker *k, uint32_t way, uint32_t from, uint32_t to) {
    struct ride *r = &k->rides[way];
    if (r->from != from) {
        *r = (struct ride){from, reach_between(k, from, to)};
    }
    return &r->reach;
}

static int meet_partner(struct maker *k, struct sfi_variant *v, uint32_t op, struct sfi_vop *f, struct sf_err *err) {
    const struct sfi_way *way = &v->cls->ways[v->cls->way_of[op]];
    uint32_t peer = sfi_way_peer(k->mesh, way, v->rank);
    const struct sfi_class *other = &k->classes->cls[k->mesh->class_of[peer]];
    uint32_t answer = sfi_way_answer(k->mesh->prog, other, way), turn = v->cls->turn[op];
    f->partner = SF_NONE;
    if (answer != SF_NONE && turn < other->ways[answer].ops_n) {
        f->partner = other->ways[answer].ops[turn];
        f->partner_at = other->code->position[f->partner];
        f->partner_stream = other->code->cls->ops[f->partner].stream & 15u;
    }
    f->kind = way->send ? SFI_SEND : SFI_RECV;
    if (way->send) {
        const struct reach *reach = reach_over(k, v->cls->way_of[op], v->rank, peer);
        const struct sfi_tier link = reach->link;
        if (reach->busy_bytes_per_s == 0) {
            double left = 1.0;
            return see_way(k, v->rank, peer, &left, err);
        }
        uint64_t bytes = v->cls->code->cls->ops[op].bytes;
        sf_time_ps time = link.bytes_per_s > 0 ? sf_transfer_ps(bytes, link.bytes_per_s) : 0;
        double pace = way_pace(k->mesh, v->rank, peer, reach->kind);
        f->time = at_least_one(pace < 1.0 ? sf_s_to_ps(sf_ps_to_s(time) / pace) : time);
        f->latency = link.latency_ps;
        f->port = port_of(reach->kind) & 3u;
        f->load = sfi_load_transfer(&k->loader, f->port, flow_cap(v, f->port, slowed(link.bytes_per_s, pace)));
    }
    return SF_OK;
}

/* A gathering of updated weights counts as far as the next step's forward cannot hide it. */
static sf_time_ps collective_time(const struct sf_cost *cost, const struct sf_op *op, const struct sf_span *span,
                                  double rate) {
    sf_time_ps t = sfi_price_collective(cost, sf_op_call(op->kind), op->bytes, span, rate);
    return op->kind == SF_OP_ALL_GATHER ? sf_s_to_ps(sf_ps_to_s(t) * sf_cost_gather_share(cost)) : t;
}

static bool make_room(struct maker *k, uint32_t id) {
    if (id >= k->parts_size) {
        uint32_t size = k->parts_size ? 2 * k->parts_size : 64;
        struct part *bigger = sf_arena_alloc(k->arena, size, sizeof *bigger);
        if (!bigger) {
            return false;
        }
        if (k->parts_size > 0) {
            memcpy(bigger, k->parts, k->parts_size * sizeof *bigger);
        }
        k->parts = bigger;
        k->parts_size = size;
    }
    return true;
}

/* Kinds of ranks differ in few of their collectives, and choosing an algorithm takes longer than looking one up. */
static uint64_t part_key(const struct maker *k, const struct sfi_variant *v, const struct sf_op *op,
                         const struct sf_span *s, double rate, uint64_t capacity) {
    uint64_t key = sf_mix64(sf_mix64(UINT64_C(0x70617274), op->kind), op->bytes);
    key = sf_mix64(sf_mix64(key, s->members), s->domains);
    key = sf_mix64(sf_mix64(sf_mix64(key, s->min_per_domain), s->kind), s->kinds);
    key = sf_mix64(sf_mix64(key, sfi_pace_bits(rate)), capacity);
    return k->mesh->kind ? sf_mix64(key, k->mesh->kind[v->rank]) : key;
}

static int price_collective(struct maker *k, struct sfi_variant *v, const struct sf_op *op, const struct sf_span *s,
                            double rate, struct sfi_vop *f, struct sf_err *err) {
    f->kind = SFI_COLL;
    f->port = port_of(s->kind) & 3u;
    uint64_t capacity = v->capacity[f->port];
    uint32_t before = k->part_ids.n, id = sfi_ids_get(&k->part_ids, k->arena, part_key(k, v, op, s, rate, capacity));
    if (id == SF_NONE || !make_room(k, id)) {
        return sf_fail_memory(err, "collectives");
    }
    struct part *p = &k->parts[id];
    if (k->part_ids.n > before) {
        p->time = at_least_one(collective_time(k->cost, op, s, rate));
        p->load = sfi_load_collective(&k->loader, sf_op_call(op->kind), op->bytes, s, p->time, capacity);
    }
    f->time = p->time;
    f->load = p->load;
    return SF_OK;
}

static int price_op(struct maker *k, struct sfi_variant *v, uint32_t op_i, const struct sfi_around *around,
                    struct sf_err *err) {
    const struct sf_op *op = &v->cls->code->cls->ops[op_i];
    struct sfi_vop *f = &v->ops[op_i];
    *f = (struct sfi_vop){.partner = SF_NONE, .kind = SFI_LOCAL, .stream = op->stream & 15u};
    f->way = (uint16_t)v->cls->way_of[op_i];
    switch (sf_op_group(op->kind)) {
    case SF_OP_IS_COMPUTE:
        v->price[op_i] = sfi_price_recipe(k->prices, op->recipe, around);
        if (!v->price[op_i]) {
            return sf_fail_memory(err, "prices of recipes");
        }
        f->time = v->price[op_i]->total;
        f->load = sfi_load_kernel(&k->loader, op->recipe, v->price[op_i]);
        break;
    case SF_OP_IS_P2P:
        SF_TRY(meet_partner(k, v, op_i, f, err));
        break;
    case SF_OP_IS_COLL:
        if (v->cls->record[op_i] != SF_NONE) {
            f->partner_at = v->cls->turn[op_i];
            SF_TRY(price_collective(k, v, op, around->span[op->comm], around->rate[op->comm], f, err));
        }
        break;
    case SF_OP_IS_DATA:
        if (op->kind != SF_OP_LOAD) {
            f->time = sf_cost_host_copy(k->loader.cost, op->bytes);
            f->load = sfi_load_copy(&k->loader, op->kind == SF_OP_OFFLOAD);
        }
        break;
    }
    if (f->load == SF_NONE) {
        return sf_fail_memory(err, "loads of ops");
    }
    if (f->time >= SFI_TIME_MAX || f->latency >= SFI_TIME_MAX) {
        return sf_fail(err, SF_E_INPUT, "op %u of class %s (%s) would take more than 26 days: check its sizes", op_i,
                       v->cls->code->cls->name, sf_op_name(op->kind));
    }
    return SF_OK;
}

static void add_kernels(struct sfi_variant *v, uint32_t op) {
    for (int g = 0; g < SF_GRADES_N; g++) {
        v->grade[g] = sfi_time_add(v->grade[g], v->price[op]->grade[g]);
    }
    if (v->cls->code->cls->ops[op].stream == v->cls->compute_stream) {
        v->busy = sfi_time_add(v->busy, v->ops[op].time);
    }
}

static void number_ops(struct sfi_variant *v) {
    uint32_t collectives = 0;
    for (uint32_t i = 0; i < v->cls->kernels_n; i++) {
        v->ops[v->cls->kernel_ops[i]].partner = i;
    }
    for (uint32_t i = 0; i < v->cls->code->ops_n; i++) {
        if (v->ops[i].kind == SFI_COLL) {
            v->ops[i].partner = collectives++;
        }
    }
}

static void set_capacity(const struct maker *k, struct sfi_variant *v) {
    const struct sfi_mesh *m = k->mesh;
    const struct sfi_pace *pace = m->pace ? &m->pace[v->rank] : NULL;
    uint64_t up = sfi_port_rate(k->loader.cost, SFI_PORT_UP), out = sfi_port_rate(k->loader.cost, SFI_PORT_OUT);
    uint64_t nic = m->hurt ? nic_rate(m, v->rank) : out;
    up = m->hurt ? left_of_up(m, v->rank, up) : up;
    v->capacity[SFI_PORT_UP] = slowed(up, pace ? pace->up : 1.0);
    v->capacity[SFI_PORT_OUT] = slowed(nic < out ? nic : out, pace ? pace->out : 1.0);
}

static int price_variant(struct maker *k, struct sfi_variant *v, struct sf_err *err) {
    struct sfi_around around = {.gpu = gpu_pace(k, v->rank)};
    uint32_t kind = k->mesh->kind ? k->mesh->kind[v->rank] : 0;
    const struct sfi_class *c = v->cls;
    uint32_t n = c->code->ops_n;
    around.kinds = k->mesh->kinds ? k->mesh->kinds[v->rank] : 0;
    sfi_loader_use(&k->loader, k->cost, kind);
    set_capacity(k, v);
    v->ops = sf_arena_alloc(k->arena, n, sizeof *v->ops);
    v->price = sf_arena_alloc(k->arena, n, sizeof *v->price);
    if (!v->ops || !v->price) {
        return sf_fail_memory(err, "durations of ops");
    }
    for (uint32_t left = c->spans; left; left &= left - 1) {
        uint32_t comm = (uint32_t)__builtin_ctz(left);
        uint32_t group = k->group_of[comm][v->rank];
        around.span[comm] = &k->span[comm][group];
        around.rate[comm] = k->rate[comm] ? k->rate[comm][group] : 1.0;
    }
    for (uint32_t i = 0; i < n; i++) {
        SF_TRY(price_op(k, v, i, &around, err));
        if (v->price[i]) {
            add_kernels(v, i);
        }
    }
    number_ops(v);
    return SF_OK;
}

static int gather(struct maker *k, struct sf_err *err) {
    for (uint32_t left = k->classes->spans; left; left &= left - 1) {
        SF_TRY(find_spans(k, (uint32_t)__builtin_ctz(left), err));
    }
    for (uint32_t i = 0; i < k->classes->n; i++) {
        const struct sfi_class *c = &k->classes->cls[i];
        for (uint32_t w = 0; w < c->ways_n; w++) {
            SF_TRY(sfi_mesh_comm(k->mesh, c->ways[w].comm, k->arena, err));
            SF_TRY(sfi_mesh_places(k->mesh, c->ways[w].comm, k->arena, err));
        }
    }
    return find_slow_kernels(k, err);
}

int sfi_variants_create(struct sfi_mesh *mesh, const struct sf_cost *cost, const struct sfi_classes *classes,
                        const uint32_t *leader, struct sf_arena *arena, struct sfi_variants **out, struct sf_err *err) {
    struct maker k = {.mesh = mesh, .cost = cost, .classes = classes, .arena = arena, .leader = leader};
    uint32_t *first_rank = NULL;
    k.out = sf_arena_alloc(arena, 1, sizeof *k.out);
    k.prices = sfi_prices_create(mesh->prog, cost, arena);
    if (!k.out || !k.prices || !sfi_ids_init(&k.part_ids, arena)) {
        return sf_fail_memory(err, "kinds of ranks");
    }
    SF_TRY(sfi_loader_init(&k.loader, mesh->prog, cost, arena, err));
    SF_TRY(gather(&k, err));
    SF_TRY(sort_ranks(&k, &first_rank, err));
    k.out->v = sf_arena_alloc(arena, k.out->n, sizeof *k.out->v);
    if (!k.out->v) {
        return sf_fail_memory(err, "kinds of ranks");
    }
    for (uint32_t i = 0; i < k.out->n; i++) {
        uint32_t rank = first_rank[i], class_i = mesh->class_of[rank];
        k.out->v[i] = (struct sfi_variant){.cls = &classes->cls[class_i], .class_i = class_i, .rank = rank};
        SF_TRY(price_variant(&k, &k.out->v[i], err));
    }
    k.out->loads = k.loader.loads;
    k.out->loads_n = k.loader.ids.n;
    *out = k.out;
    return SF_OK;
}
