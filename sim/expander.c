#include "sim/expander.h"

#include "sim/cost_internal.h"
#include "sim/expand.h"

/* Transfers of one collective: some seconds of work. */
#define CHUNKS_MAX (UINT64_C(1) << 36)

struct sfi_expansions {
    const struct sf_prog *prog;
    const struct sf_cost *cost;
};

struct sfi_expansion_group {
    const struct sfi_expansions *all;
    struct sf_span span;
    uint32_t comm;
    const uint32_t *domain;   /* by member, like all that follow */
    const double *up, *out;   /* NULL: nothing is slow */
    sf_time_ps *arrive, *end; /* of this round */
    sf_time_ps begin, first;  /* likewise */
};

struct maker {
    const struct sfi_mesh *mesh;
    const struct sf_cost *cost;
    struct sfi_expansions *all;
    struct sf_arena *arena;
};

/* ---- before the run ---- */

/* From a member to the next inside its domain, and to the same place in the next domain. */
static int see_ways(const struct maker *k, const struct sfi_comm *c, const struct sf_span *span, uint32_t base,
                    uint32_t member, double *up, double *out, struct sf_err *err) {
    const uint32_t steps[] = {1, span->min_per_domain}, *domain = k->mesh->domain;
    uint32_t a = base + c->offset[member];
    for (int i = 0; i < 2; i++) {
        uint32_t b = base + c->offset[(member + steps[i]) % c->members_n];
        bool inside = domain[a] == domain[b];
        if (a != b && inside == (i == 0)) {
            SF_TRY(sf_cost_way_left(k->cost, k->mesh->gpu[a], k->mesh->gpu[b], inside ? up : out, err));
        }
    }
    return SF_OK;
}

static int find_links(const struct maker *k, const struct sfi_comm *c, uint32_t base, struct sfi_expansion_group *x,
                      struct sf_err *err) {
    const struct sfi_mesh *m = k->mesh;
    if (!m->pace && !m->hurt) {
        return SF_OK;
    }
    double *up = sf_arena_alloc(k->arena, c->members_n, sizeof *up);
    double *out = sf_arena_alloc(k->arena, c->members_n, sizeof *out);
    if (!up || !out) {
        return sf_fail_memory(err, "links of a group");
    }
    for (uint32_t i = 0; i < c->members_n; i++) {
        up[i] = out[i] = 1.0;
        if (m->hurt) {
            SF_TRY(see_ways(k, c, &x->span, base, i, &up[i], &out[i], err));
        }
        up[i] *= m->pace ? m->pace[base + c->offset[i]].up : 1.0;
        out[i] *= m->pace ? m->pace[base + c->offset[i]].out : 1.0;
    }
    x->up = up;
    x->out = out;
    return SF_OK;
}

static int add_group(const struct maker *k, uint32_t comm, struct sfi_group *g, struct sf_err *err) {
    const struct sfi_comm *c = &k->mesh->comms[comm];
    struct sfi_expansion_group *x = sf_arena_alloc(k->arena, 1, sizeof *x);
    uint32_t n = c->members_n, base = c->base[g->number], *domain = sf_arena_alloc(k->arena, n, sizeof *domain);
    sf_time_ps *times = sf_arena_alloc(k->arena, n, 2 * sizeof *times);
    if (!x || !domain || !times) {
        return sf_fail_memory(err, "members of collectives");
    }
    for (uint32_t i = 0; i < n; i++) {
        domain[i] = k->mesh->domain[base + c->offset[i]];
    }
    *x = (struct sfi_expansion_group){.all = k->all, .comm = comm, .domain = domain, .arrive = times, .end = times + n};
    sfi_mesh_span(k->mesh, c, g->number, &x->span);
    SF_TRY(find_links(k, c, base, x, err));
    g->expansion = x;
    return SF_OK;
}

static int check(const struct sf_cost *cost, const struct sfi_table *t, struct sf_err *err) {
    for (uint32_t i = 0; i < sf_cost_kinds(cost); i++) {
        const struct sf_cost *own = sf_cost_of(cost, i);
        if (!own->coll || own->collectives_measured || sf_coll_by_nccl(own->coll)) {
            return sf_fail(err, SF_E_USAGE, "collectives cannot be expanded to chunks: %s; leave out expand",
                           !own->coll                  ? "the device of this cluster names no collective model"
                           : own->collectives_measured ? "the kernel table has their times as a whole"
                                                       : "NCCL's own times (times: nccl) have no steps");
        }
    }
    return t->groups_n > 0 ? SF_OK
                           : sf_fail(err, SF_E_USAGE,
                                     "expanding collectives to chunks changes nothing: this program has none between "
                                     "its ops; leave out expand");
}

int sfi_expansions_create(const struct sfi_mesh *mesh, const struct sfi_classes *classes, const struct sf_cost *cost,
                          struct sfi_table *t, struct sf_arena *arena, struct sf_err *err) {
    struct maker k = {.mesh = mesh, .cost = cost, .arena = arena};
    SF_TRY(check(cost, t, err));
    k.all = sf_arena_alloc(arena, 1, sizeof *k.all);
    if (!k.all) {
        return sf_fail_memory(err, "members of collectives");
    }
    *k.all = (struct sfi_expansions){mesh->prog, cost};
    for (uint32_t i = 0; i < t->groups_n; i++) {
        SF_TRY(add_group(&k, classes->lanes[t->groups[i].lane].comm, &t->groups[i], err));
    }
    return SF_OK;
}

/* ---- while it runs ---- */

static uint32_t member_of(const struct sfi_worker *w, const struct sfi_expansion_group *x, uint32_t instance) {
    return sf_prog_comm_index(x->all->prog, w->table->rank[instance], x->comm);
}

void sfi_expansion_arrive(const struct sfi_worker *w, const struct sfi_group *g, uint32_t instance, sf_time_ps begin) {
    g->expansion->arrive[member_of(w, g->expansion, instance)] = begin;
}

/* By what the members' slowest kind of GPU would choose. */
static struct sfi_expand_ask ask_of(const struct sfi_expansion_group *x, const struct sf_op *op) {
    struct sfi_expand_ask ask = {.domain = x->domain, .arrive = x->arrive, .up = x->up, .out = x->out};
    double most = -1.0;
    ask.query = (struct sf_coll_query){(enum sf_coll_op)sf_call_collective(sf_op_call(op->kind)), op->bytes, x->span};
    for (uint32_t i = 0; i < sf_cost_kinds(x->all->cost); i++) {
        const struct sf_coll *coll = sf_cost_of(x->all->cost, i)->coll;
        struct sf_coll_choice chosen;
        sf_coll_choose(coll, &ask.query, &chosen);
        if ((x->span.kinds == 0 || (x->span.kinds >> i & 1) != 0) && chosen.time_s > most) {
            most = chosen.time_s;
            ask.coll = coll;
            ask.algorithm = chosen.algorithm;
            ask.protocol = chosen.protocol;
        }
    }
    return ask;
}

/* What is left to do once all are there; of a gathering of updated weights what the next step's forward cannot hide. */
static void set_ends(struct sfi_expansion_group *x, double share) {
    x->first = SFI_TIME_MAX;
    for (uint32_t i = 0; i < x->span.members; i++) {
        sf_time_ps left = x->end[i] - x->begin;
        left = share < 1.0 ? sf_s_to_ps(sf_ps_to_s(left) * share) : left;
        x->end[i] = sfi_time_add(x->begin, left > 1 ? left : 1);
        x->first = x->end[i] < x->first ? x->end[i] : x->first;
    }
}

bool sfi_expansion_run(struct sfi_worker *w, struct sfi_group *g, uint32_t instance, uint32_t op, uint32_t round,
                       sf_time_ps begin) {
    struct sfi_expansion_group *x = g->expansion;
    const struct sf_op *what = &sfi_variant_of(w, &w->inst[instance])->cls->code->cls->ops[op];
    const struct sfi_expand_ask ask = ask_of(x, what);
    x->begin = begin;
    w->rc = sfi_expand_run(w->expand, &ask, CHUNKS_MAX, x->end, &w->err);
    if (w->rc) {
        return false;
    }
    w->chunks += sfi_expand_chunks(&ask);
    set_ends(x, what->kind == SF_OP_ALL_GATHER ? sf_cost_gather_share(x->all->cost) : 1.0);
    sfi_meet_tell(g, round);
    return true;
}

sf_time_ps sfi_expansion_begin(const struct sfi_group *g) {
    return g->expansion->begin;
}

sf_time_ps sfi_expansion_end(const struct sfi_worker *w, const struct sfi_group *g, uint32_t instance) {
    return g->expansion->end[member_of(w, g->expansion, instance)];
}

sf_time_ps sfi_expansion_first(const struct sfi_group *g) {
    return g->expansion->first;
}
