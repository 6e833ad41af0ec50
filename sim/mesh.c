#include "sim/mesh.h"

static int check_seats(const struct sf_prog *prog, const struct sf_topo *topo, struct sf_err *err) {
    uint32_t gpus = sf_topo_gpus(topo), last = sf_prog_gpu(prog, sf_prog_ranks(prog) - 1);
    if (prog->domain_gpus != sf_topo_domain_gpus(topo)) {
        return sf_fail(err, SF_E_INPUT,
                       "the program was placed on domains of %u devices, the cluster %s has domains of %u: compile the "
                       "plan for this cluster",
                       prog->domain_gpus, sf_topo_name(topo), sf_topo_domain_gpus(topo));
    }
    if (last >= gpus) {
        return sf_fail(err, SF_E_INPUT, "the program needs %u seats, the cluster %s has %u", last + 1,
                       sf_topo_name(topo), gpus);
    }
    return SF_OK;
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
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        m->class_of[r] = prog->class_of[place];
        uint32_t a = 0;
        while (a < prog->axes_n && ++digit[a] == prog->axes[a].size) {
            digit[a] = 0;
            place -= weight[a] * (prog->axes[a].size - 1);
            a++;
        }
        place += a < prog->axes_n ? weight[a] : 0;
    }
}

/* sf_prog_gpu of all ranks, and what follows from it. */
static void find_seats(struct sfi_mesh *m) {
    uint32_t rails = sf_topo_rails(m->topo), domain = 0, slot = 0, rail = 0;
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        m->gpu[r] = domain * m->prog->domain_gpus + slot;
        m->domain[r] = domain;
        m->rail[r] = rail;
        rail = rail + 1 < rails ? rail + 1 : 0;
        if (++slot == m->prog->ranks_per_domain) {
            slot = rail = 0;
            domain++;
        }
    }
}

int sfi_mesh_create(const struct sf_prog *prog, const struct sf_topo *topo, struct sf_arena *arena,
                    struct sfi_mesh **out, struct sf_err *err) {
    SF_TRY(check_seats(prog, topo, err));
    struct sfi_mesh *m = sf_arena_alloc(arena, 1, sizeof *m);
    uint32_t n = sf_prog_ranks(prog);
    if (!m) {
        return sf_fail_memory(err, "mesh");
    }
    *m = (struct sfi_mesh){.prog = prog, .topo = topo, .ranks_n = n};
    m->class_of = sf_arena_alloc(arena, n, sizeof *m->class_of);
    m->gpu = sf_arena_alloc(arena, n, sizeof *m->gpu);
    m->domain = sf_arena_alloc(arena, n, sizeof *m->domain);
    m->rail = sf_arena_alloc(arena, n, sizeof *m->rail);
    if (!m->class_of || !m->gpu || !m->domain || !m->rail) {
        return sf_fail_memory(err, "ranks of the mesh");
    }
    find_classes(m);
    find_seats(m);
    *out = m;
    return SF_OK;
}

/* All ranks whose coordinates are zero outside `axes`, ascending. */
static void enumerate(const struct sf_prog *prog, uint32_t axes, uint32_t *out) {
    uint32_t n = 1, stride = 1;
    out[0] = 0;
    for (uint32_t a = 0; a < prog->axes_n; a++) {
        uint32_t size = prog->axes[a].size;
        if (axes >> a & 1) {
            for (uint32_t i = n; i < n * size; i++) {
                out[i] = out[i - n] + stride;
            }
            n *= size;
        }
        stride *= size;
    }
}

int sfi_mesh_groups(const struct sfi_mesh *m, uint32_t axes, struct sf_arena *arena, struct sfi_comm *c,
                    struct sf_err *err) {
    c->members_n = 1;
    for (uint32_t a = 0; a < m->prog->axes_n; a++) {
        c->members_n *= axes >> a & 1 ? m->prog->axes[a].size : 1;
    }
    c->groups_n = m->ranks_n / c->members_n;
    c->base = sf_arena_alloc(arena, c->groups_n, sizeof *c->base);
    c->offset = sf_arena_alloc(arena, c->members_n, sizeof *c->offset);
    if (!c->base || !c->offset) {
        return sf_fail_memory(err, "groups of a communicator");
    }
    enumerate(m->prog, axes, c->offset);
    enumerate(m->prog, ~axes, c->base);
    c->stride = 1;
    for (uint32_t a = 0; a < m->prog->axes_n && !(axes >> a & 1); a++) {
        c->stride *= m->prog->axes[a].size;
    }
    return SF_OK;
}

int sfi_mesh_comm(struct sfi_mesh *m, uint32_t comm, struct sf_arena *arena, struct sf_err *err) {
    struct sfi_comm *c = &m->comms[comm];
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

static void see_neighbours(struct span_walk *w, uint32_t a, uint32_t b) {
    struct sf_route route;
    if (w->span->kind < SF_ROUTE_CORE) {
        sf_topo_route(w->topo, a, b, &route);
        w->span->kind = route.kind > w->span->kind ? route.kind : w->span->kind;
    }
}

static void close_run(struct span_walk *w) {
    struct sf_span *s = w->span;
    s->domains++;
    s->min_per_domain = s->domains == 1 || w->run < s->min_per_domain ? w->run : s->min_per_domain;
}

static void span_add(struct span_walk *w, uint32_t gpu, uint32_t domain) {
    struct sf_span *s = w->span;
    if (s->members == 0) {
        w->first_gpu = gpu;
        w->domain = domain;
    } else if (domain == w->domain) {
        s->kind = s->kind < SF_ROUTE_DOMAIN ? SF_ROUTE_DOMAIN : s->kind;
    } else {
        close_run(w);
        see_neighbours(w, w->last_gpu, gpu);
        w->domain = domain;
        w->run = 0;
    }
    w->run++;
    w->last_gpu = gpu;
    s->members++;
}

static void span_end(struct span_walk *w) {
    close_run(w);
    if (w->span->domains > 1) {
        see_neighbours(w, w->last_gpu, w->first_gpu);
    }
}

void sfi_mesh_span(const struct sfi_mesh *m, const struct sfi_comm *c, uint32_t group, struct sf_span *out) {
    *out = (struct sf_span){.kind = SF_ROUTE_SELF};
    struct span_walk w = {.topo = m->topo, .span = out};
    for (uint32_t i = 0; i < c->members_n; i++) {
        uint32_t rank = c->base[group] + c->offset[i];
        span_add(&w, m->gpu[rank], m->domain[rank]);
    }
    span_end(&w);
}

void sf_span_of(const struct sf_prog *prog, const struct sf_topo *topo, uint32_t comm, uint32_t rank,
                struct sf_span *out) {
    *out = (struct sf_span){.kind = SF_ROUTE_SELF};
    struct span_walk w = {.topo = topo, .span = out};
    uint32_t n = sf_prog_comm_size(prog, comm);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t gpu = sf_prog_gpu(prog, sf_prog_comm_member(prog, rank, comm, i));
        span_add(&w, gpu, sf_topo_domain(topo, gpu));
    }
    span_end(&w);
}
