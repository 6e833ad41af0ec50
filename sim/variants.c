/* Sorting ranks by the conditions that decide how long their ops take, and pricing each kind once. */
#include "sim/cost_internal.h"
#include "sim/engine.h"

struct maker {
    struct sfi_mesh *mesh;
    const struct sf_cost *cost;
    const struct sfi_classes *classes;
    struct sf_arena *arena;
    struct sfi_prices *prices;
    struct sf_span *span[SF_MAX_COMMS]; /* by group */
    uint32_t *group_of[SF_MAX_COMMS];   /* by rank */
    double *rate[SF_MAX_COMMS];         /* by group; NULL: nothing is slow */
    double *gpu;                        /* by leader of a team: pace of its slowest GPU; NULL: none is slow */
    const uint32_t *leader;
    uint64_t *factor;                  /* for ways, then communicators */
    uint64_t *class_word;              /* by class; scrambled */
    uint64_t *span_word[SF_MAX_COMMS]; /* by group: what its members share; scrambled */
    struct sfi_variants *out;
};

static double lesser(double a, double b) {
    return a < b ? a : b;
}

/* A ring goes at the pace of its narrowest port. Across domains it uses both kinds of ports. */
static int find_rates(struct maker *k, uint32_t comm, struct sf_err *err) {
    const struct sfi_mesh *m = k->mesh;
    const struct sfi_comm *c = &m->comms[comm];
    if (!m->pace) {
        return SF_OK;
    }
    k->rate[comm] = sf_arena_alloc(k->arena, c->groups_n, sizeof *k->rate[comm]);
    if (!k->rate[comm]) {
        return sf_fail_memory(err, "rates of groups");
    }
    for (uint32_t g = 0; g < c->groups_n; g++) {
        double rate = 1.0;
        for (uint32_t i = 0; i < c->members_n; i++) {
            const struct sfi_pace *p = &m->pace[c->base[g] + c->offset[i]];
            rate = lesser(rate, k->span[comm][g].domains > 1 ? lesser(p->up, p->out) : p->up);
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
        sfi_mesh_span(m, c, g, &k->span[comm][g]);
        for (uint32_t i = 0; i < c->members_n; i++) {
            k->group_of[comm][c->base[g] + c->offset[i]] = g;
        }
    }
    return find_rates(k, comm, err);
}

/* The route of a transfer last seen on a way. What a route costs depends on the two domains and on whether the rails
 * are the same, so ranks side by side mostly find it here. */
struct seen {
    uint32_t src_domain, dst_domain;
    bool same_rail;
    uint64_t word; /* scrambled */
};

static uint64_t link_word(const struct maker *k, uint32_t a, uint32_t b, struct seen *seen) {
    const struct sfi_mesh *m = k->mesh;
    bool same_rail = m->rail[a] == m->rail[b], slow = m->pace != NULL;
    if (slow || a == b || seen->src_domain != m->domain[a] || seen->dst_domain != m->domain[b] ||
        seen->same_rail != same_rail) {
        struct sf_route route;
        sf_topo_route(m->topo, m->gpu[a], m->gpu[b], &route);
        struct sfi_tier link = sfi_cost_link(k->cost, &route);
        uint64_t h = sf_mix64(sf_mix64(route.kind, link.bytes_per_s), (uint64_t)link.latency_ps);
        h = sf_mix64(h, sfi_pace_bits(way_pace(m, a, b, route.kind)));
        *seen = (struct seen){a == b ? SF_NONE : m->domain[a], m->domain[b], same_rail, h};
    }
    return seen->word;
}

/* Everything a rank's durations and partners depend on. */
static uint64_t signature(const struct maker *k, uint32_t rank, struct seen *seen) {
    const struct sfi_mesh *m = k->mesh;
    const struct sfi_class *c = &k->classes->cls[m->class_of[rank]];
    const uint64_t *factor = k->factor;
    uint64_t h = k->class_word[m->class_of[rank]];
    for (uint32_t w = 0; w < c->ways_n; w++) {
        uint32_t peer = sfi_way_peer(m, &c->ways[w], rank);
        uint64_t word = k->class_word[m->class_of[peer]];
        word += c->ways[w].send ? link_word(k, rank, peer, &seen[w]) : 0;
        h += *factor++ * word;
    }
    for (uint32_t left = c->spans; left; left &= left - 1) {
        uint32_t comm = (uint32_t)__builtin_ctz(left);
        h += *factor++ * k->span_word[comm][k->group_of[comm][rank]];
    }
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
    SF_TRY(find_words(k, &ways_n, err));
    struct seen *seen = sf_arena_alloc(k->arena, ways_n, sizeof *seen);
    v->of_rank = sf_arena_alloc(k->arena, ranks_n, sizeof *v->of_rank);
    *first_rank = sf_arena_alloc(k->arena, ranks_n, sizeof **first_rank);
    if (!seen || !v->of_rank || !*first_rank || !sfi_ids_init(&ids, k->arena)) {
        return sf_fail_memory(err, "kinds of ranks");
    }
    for (uint32_t w = 0; w < ways_n; w++) {
        seen[w].src_domain = SF_NONE;
    }
    for (uint32_t r = 0; r < ranks_n; r++) {
        uint64_t h = signature(k, r, seen);
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

/* Nothing that takes ports may take no time at all: see engine.h on order. */
static sf_time_ps at_least_one(sf_time_ps t) {
    return t > 1 ? t : 1;
}

static void meet_partner(const struct maker *k, const struct sfi_variant *v, uint32_t op, struct sfi_vop *f) {
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
        struct sf_route route;
        sf_topo_route(k->mesh->topo, k->mesh->gpu[v->rank], k->mesh->gpu[peer], &route);
        struct sfi_tier link = sfi_cost_link(k->cost, &route);
        uint64_t bytes = v->cls->code->cls->ops[op].bytes;
        sf_time_ps time = link.bytes_per_s > 0 ? sf_transfer_ps(bytes, link.bytes_per_s) : 0;
        double pace = way_pace(k->mesh, v->rank, peer, route.kind);
        f->time = at_least_one(pace < 1.0 ? sf_s_to_ps(sf_ps_to_s(time) / pace) : time);
        f->latency = link.latency_ps;
        f->port = port_of(route.kind) & 3u;
    }
}

static int collective_call(int op_kind) {
    switch (op_kind) {
    case SF_OP_ALL_REDUCE:
        return SF_CALL_ALL_REDUCE;
    case SF_OP_REDUCE_SCATTER:
        return SF_CALL_REDUCE_SCATTER;
    default:
        return SF_CALL_ALL_GATHER;
    }
}

/* A gathering of updated weights counts as far as the next step's forward cannot hide it. */
static sf_time_ps collective_time(const struct sf_cost *cost, const struct sf_op *op, const struct sf_span *span,
                                  double rate) {
    sf_time_ps t = sfi_price_collective(cost, collective_call(op->kind), op->bytes, span, rate);
    return op->kind == SF_OP_ALL_GATHER ? sf_s_to_ps(sf_ps_to_s(t) * sf_cost_gather_share(cost)) : t;
}

static int price_op(const struct maker *k, struct sfi_variant *v, uint32_t op_i, const struct sfi_around *around,
                    struct sf_err *err) {
    const struct sf_op *op = &v->cls->code->cls->ops[op_i];
    struct sfi_vop *f = &v->ops[op_i];
    *f = (struct sfi_vop){
        .partner = SF_NONE, .record = v->cls->record[op_i], .kind = SFI_LOCAL, .stream = op->stream & 15u};
    f->way = (uint16_t)v->cls->way_of[op_i];
    switch (sf_op_group(op->kind)) {
    case SF_OP_IS_COMPUTE:
        v->price[op_i] = sfi_price_recipe(k->prices, op->recipe, around);
        if (!v->price[op_i]) {
            return sf_fail_memory(err, "prices of recipes");
        }
        f->time = v->price[op_i]->total;
        break;
    case SF_OP_IS_P2P:
        meet_partner(k, v, op_i, f);
        break;
    case SF_OP_IS_COLL:
        if (f->record != SF_NONE) {
            const struct sf_span *s = around->span[op->comm];
            f->kind = SFI_COLL;
            f->partner_at = v->cls->turn[op_i];
            f->port = port_of(s->kind) & 3u;
            f->time = at_least_one(collective_time(k->cost, op, s, around->rate[op->comm]));
        }
        break;
    case SF_OP_IS_DATA:
        break;
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

static int price_variant(const struct maker *k, struct sfi_variant *v, struct sf_err *err) {
    struct sfi_around around = {.gpu = gpu_pace(k, v->rank)};
    const struct sfi_class *c = v->cls;
    uint32_t n = c->code->ops_n;
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
    for (uint32_t i = 0; i < c->kernels_n; i++) {
        v->ops[c->kernel_ops[i]].partner = i;
    }
    if (c->compute_stream != SF_NONE) {
        const uint32_t *ops = c->code->stream_ops[c->compute_stream];
        v->ops[ops[0]].first = 1;
        v->ops[ops[c->code->stream_n[c->compute_stream] - 1]].last = 1;
    }
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
    if (!k.out || !k.prices) {
        return sf_fail_memory(err, "kinds of ranks");
    }
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
    *out = k.out;
    return SF_OK;
}
