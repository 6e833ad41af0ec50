#include "sim/mesh.h"

#include "sim/cost_internal.h"
#include "sim/seats.h"

static int check_domains(const struct sf_prog *prog, const struct sf_topo *topo, struct sf_err *err) {
    if (prog->domain_gpus != sf_topo_domain_gpus(topo)) {
        return sf_fail(err, SF_E_INPUT,
                       "the program was placed on domains of %u devices, the cluster %s has domains of %u: compile the "
                       "plan for this cluster",
                       prog->domain_gpus, sf_topo_name(topo), sf_topo_domain_gpus(topo));
    }
    return SF_OK;
}

/* Places of strips along an axis. */
static uint32_t places_of(const struct sfi_mesh *m, uint32_t axis) {
    return m->prog->axes[axis].size / m->along[axis];
}

/* sf_prog_class of all ranks: coordinates count up like digits, and class axes carry weight in the class table. */
static void find_classes(struct sfi_mesh *m) {
    const struct sf_prog *prog = m->prog;
    uint32_t digit[SF_MAX_AXES] = {0}, weight[SF_MAX_AXES], place = 0, next = 1;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        bool counts = prog->class_axes >> a & 1;
        weight[a] = counts ? next : 0;
        next *= counts ? prog->axes[a].size : 1;
    }
    m->class_row = 1;
    for (uint32_t a = 0; a < prog->axes_n && (prog->class_axes >> a & 1) == 0; a++) {
        m->class_row *= places_of(m, a);
    }
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        m->class_of[r] = prog->class_of[place];
        uint32_t a = 0;
        while (a < prog->axes_n && ++digit[a] == places_of(m, a)) {
            digit[a] = 0;
            place -= weight[a] * (places_of(m, a) - 1);
            a++;
        }
        place += a < prog->axes_n ? weight[a] : 0;
    }
}

/* Seats, and what follows from them. */
static int find_seats(struct sfi_mesh *m, struct sf_err *err) {
    uint32_t rails = sf_topo_rails(m->topo), gpus = sf_topo_domain_gpus(m->topo);
    m->row = sf_seats_in_order(m->topo, sf_prog_ranks(m->prog), m->prog->ranks_per_domain)
                 ? m->prog->ranks_per_domain / m->strip
                 : 1;
    if (m->strip == 1) {
        struct sf_blocks blocks;
        sf_blocks_of(m->prog, &blocks);
        SF_TRY(sf_seats_fill(m->topo, &blocks, m->gpu, NULL, err));
    }
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        m->gpu[r] = m->strip > 1 ? sf_seats_ordered(m->topo, m->prog->ranks_per_domain, r * m->strip) : m->gpu[r];
        uint32_t slot = m->gpu[r] % gpus;
        m->domain[r] = m->gpu[r] / gpus;
        m->rail[r] = slot % rails;
    }
    return SF_OK;
}

static int find_kinds(struct sfi_mesh *m, struct sf_arena *arena, struct sf_err *err) {
    uint8_t kind_of_stock[SF_KINDS_MAX];
    if (sf_kinds_of(m->topo, kind_of_stock) < 2) {
        return SF_OK;
    }
    m->kind = sf_arena_alloc(arena, m->ranks_n, sizeof *m->kind);
    if (!m->kind) {
        return sf_fail_memory(err, "kinds of GPUs");
    }
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        m->kind[r] = kind_of_stock[sf_topo_stock_of(m->topo, m->gpu[r])];
    }
    return SF_OK;
}

int sfi_mesh_teams(struct sfi_mesh *m, const uint32_t *leader, struct sf_arena *arena, struct sf_err *err) {
    m->kinds = sf_arena_alloc(arena, m->ranks_n, sizeof *m->kinds);
    if (!m->kinds) {
        return sf_fail_memory(err, "kinds of GPUs");
    }
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        m->kinds[leader[r]] |= 1u << m->kind[r];
    }
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        m->kinds[r] = m->kinds[leader[r]];
    }
    return SF_OK;
}

static int allocate(struct sfi_mesh *m, struct sf_arena *arena, struct sf_err *err) {
    uint32_t n = m->ranks_n;
    m->class_of = sf_arena_alloc(arena, n, sizeof *m->class_of);
    m->gpu = sf_arena_alloc(arena, n, sizeof *m->gpu);
    m->domain = sf_arena_alloc(arena, n, sizeof *m->domain);
    m->rail = sf_arena_alloc(arena, n, sizeof *m->rail);
    if (!m->class_of || !m->gpu || !m->domain || !m->rail) {
        return sf_fail_memory(err, "ranks of the mesh");
    }
    return SF_OK;
}

int sfi_mesh_create_strips(const struct sf_prog *prog, const struct sf_topo *topo, const uint32_t *along,
                           struct sf_arena *arena, struct sfi_mesh **out, struct sf_err *err) {
    SF_TRY(check_domains(prog, topo, err));
    struct sfi_mesh *m = sf_arena_alloc(arena, 1, sizeof *m);
    if (!m) {
        return sf_fail_memory(err, "mesh");
    }
    *m = (struct sfi_mesh){.prog = prog, .topo = topo, .strip = 1};
    for (uint32_t a = 0; a < SF_MAX_AXES; a++) {
        m->along[a] = along ? along[a] : 1;
        m->strip *= m->along[a];
    }
    m->ranks_n = sf_prog_ranks(prog) / m->strip;
    SF_TRY(allocate(m, arena, err));
    find_classes(m);
    *out = m;
    struct sf_topo_counts counts;
    sf_topo_count(topo, &counts);
    m->hurt = sfi_is_hurt(&counts);
    SF_TRY(find_seats(m, err));
    return find_kinds(m, arena, err);
}

int sfi_mesh_create(const struct sf_prog *prog, const struct sf_topo *topo, struct sf_arena *arena,
                    struct sfi_mesh **out, struct sf_err *err) {
    return sfi_mesh_create_strips(prog, topo, NULL, arena, out, err);
}

/* All ranks whose coordinates are zero outside `axes`, ascending. */
static void enumerate(const struct sfi_mesh *m, uint32_t axes, uint32_t *out) {
    uint32_t n = 1, stride = 1;
    out[0] = 0;
    for (uint32_t a = 0; a < m->prog->axes_n; a++) {
        uint32_t size = places_of(m, a);
        if (axes >> a & 1) {
            for (uint32_t i = n; i < n * size; i++) {
                out[i] = out[i - n] + stride;
            }
            n *= size;
        }
        stride *= size;
    }
}

static void count_members(const struct sfi_mesh *m, uint32_t axes, struct sfi_comm *c) {
    uint32_t stride = 1;
    c->members_n = c->together = 1;
    c->reach = 0;
    for (uint32_t a = 0; a < m->prog->axes_n; a++) {
        bool counts = axes >> a & 1;
        c->members_n *= counts ? places_of(m, a) : 1;
        c->together *= counts ? m->along[a] : 1;
        c->reach += counts ? stride * (m->along[a] - 1) : 0;
        stride *= m->along[a];
    }
}

int sfi_mesh_groups(const struct sfi_mesh *m, uint32_t axes, struct sf_arena *arena, struct sfi_comm *c,
                    struct sf_err *err) {
    count_members(m, axes, c);
    c->groups_n = m->ranks_n / c->members_n;
    c->base = sf_arena_alloc(arena, c->groups_n, sizeof *c->base);
    c->offset = sf_arena_alloc(arena, c->members_n, sizeof *c->offset);
    if (!c->base || !c->offset) {
        return sf_fail_memory(err, "groups of a communicator");
    }
    enumerate(m, axes, c->offset);
    enumerate(m, ~axes, c->base);
    c->stride = 1;
    for (uint32_t a = 0; a < m->prog->axes_n && !(axes >> a & 1); a++) {
        c->stride *= places_of(m, a);
    }
    return SF_OK;
}

int sfi_mesh_comm(struct sfi_mesh *m, uint32_t comm, struct sf_arena *arena, struct sf_err *err) {
    struct sfi_comm *c = &m->comms[comm];
    c->picks = m->prog->comms[comm].picks;
    return c->base ? SF_OK : sfi_mesh_groups(m, m->prog->comms[comm].axes, arena, c, err);
}

int sfi_mesh_places(struct sfi_mesh *m, uint32_t comm, struct sf_arena *arena, struct sf_err *err) {
    struct sfi_comm *c = &m->comms[comm];
    if (c->at) {
        return SF_OK;
    }
    c->at = sf_arena_alloc(arena, m->ranks_n, sizeof *c->at);
    if (!c->at) {
        return sf_fail_memory(err, "places of ranks");
    }
    uint32_t at = 0;
    for (uint32_t r = 0; r < m->ranks_n;) {
        for (uint32_t end = r + c->stride; r < end; r++) {
            c->at[r] = at;
        }
        at = at + 1 < c->members_n ? at + 1 : 0;
    }
    return SF_OK;
}

/* Ranks ascend, so members of one domain are neighbours: one pass over runs. The ring closes from the last member to
 * the first. */
struct span_walk {
    const struct sf_topo *topo;
    uint32_t first_gpu, last_gpu, domain, run;
    struct sf_span *span;
};

/* Where these two do not meet, because their rails do not, the ring changes rails inside a domain. */
static void see_neighbours(struct span_walk *w, uint32_t a, uint32_t b) {
    struct sf_route route;
    if (w->span->kind < SF_ROUTE_CORE) {
        uint32_t gpus = sf_topo_domain_gpus(w->topo);
        sf_topo_route(w->topo, a, b, &route);
        if (route.bytes_per_s == 0) {
            sf_topo_route(w->topo, a, b / gpus * gpus + a % gpus, &route);
        }
        w->span->kind = route.kind > w->span->kind ? route.kind : w->span->kind;
    }
}

static void close_run(struct span_walk *w) {
    struct sf_span *s = w->span;
    s->domains++;
    s->min_per_domain = s->domains == 1 || w->run < s->min_per_domain ? w->run : s->min_per_domain;
}

/* So many members side by side, the last of them `reach` seats behind the first. */
static void span_add(struct span_walk *w, uint32_t gpu, uint32_t domain, uint32_t kinds, uint32_t n, uint32_t reach) {
    struct sf_span *s = w->span;
    s->kinds |= kinds;
    if (s->members == 0) {
        w->first_gpu = gpu;
        w->domain = domain;
    } else if (domain != w->domain) {
        close_run(w);
        see_neighbours(w, w->last_gpu, gpu);
        w->domain = domain;
        w->run = 0;
    }
    w->run += n;
    s->kind = w->run > 1 && s->kind < SF_ROUTE_DOMAIN ? SF_ROUTE_DOMAIN : s->kind;
    w->last_gpu = gpu + reach;
    s->members += n;
}

static void span_end(struct span_walk *w) {
    close_run(w);
    if (w->span->domains > 1) {
        see_neighbours(w, w->last_gpu, w->first_gpu);
    }
}

void sfi_mesh_span(const struct sfi_mesh *m, const struct sfi_comm *c, uint32_t group, struct sf_span *out) {
    *out = (struct sf_span){.kind = SF_ROUTE_SELF, .picks = c->picks};
    struct span_walk w = {.topo = m->topo, .span = out};
    for (uint32_t i = 0; i < c->members_n; i++) {
        uint32_t rank = c->base[group] + c->offset[i];
        span_add(&w, m->gpu[rank], m->domain[rank], m->kind ? 1u << m->kind[rank] : 0, c->together, c->reach);
    }
    span_end(&w);
}

void sf_span_of(const struct sf_prog *prog, const struct sf_topo *topo, uint32_t comm, uint32_t rank,
                struct sf_span *out) {
    *out = (struct sf_span){.kind = SF_ROUTE_SELF, .picks = prog->comms[comm].picks};
    struct span_walk w = {.topo = topo, .span = out};
    uint8_t kind_of_stock[SF_KINDS_MAX];
    uint32_t n = sf_prog_comm_size(prog, comm);
    struct sf_blocks blocks;
    sf_blocks_of(prog, &blocks);
    bool mixed = sf_kinds_of(topo, kind_of_stock) > 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t member = sf_prog_comm_member(prog, rank, comm, i);
        uint32_t gpu = sf_seats_of(topo, &blocks, member);
        gpu = gpu == SF_NONE ? sf_topo_gpus(topo) - 1 : gpu; /* on spares, wherever those are */
        uint32_t kinds = mixed ? 1u << kind_of_stock[sf_topo_stock_of(topo, gpu)] : 0;
        span_add(&w, gpu, sf_topo_domain(topo, gpu), kinds, 1, 0);
    }
    span_end(&w);
}
