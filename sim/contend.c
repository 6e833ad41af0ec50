#include "sim/contend.h"

enum { ASKS_MAX = 256 }; /* different links of one rank that are merged before they count */

struct ask {
    uint64_t dense, bytes_per_s;
};

struct counter {
    struct sfi_contend *c;
    const struct sfi_variants *variants;
    uint64_t *demand; /* by dense link */
    uint64_t **caps;  /* by variant: by way, then lane: what their flows ask for at most */
    struct ask ask[ASKS_MAX];
    uint32_t asks_n;
};

/* Where a rank's part of a collective leaves to: the ring goes from domain to domain, place by place. */
static uint32_t successor(const struct sfi_mesh *m, uint32_t comm, uint32_t rank) {
    uint32_t n = sf_prog_comm_size(m->prog, comm), at = sf_prog_comm_index(m->prog, rank, comm), k = 1;
    while (k < n && m->domain[sf_prog_comm_member(m->prog, rank, comm, (at + k) % n)] == m->domain[rank]) {
        k++;
    }
    uint32_t first = (at + k) % n, place = 0;
    for (uint32_t b = 1; b <= at && m->domain[sf_prog_comm_member(m->prog, rank, comm, at - b)] == m->domain[rank];
         b++) {
        place++;
    }
    uint32_t next = sf_prog_comm_member(m->prog, rank, comm, first);
    uint32_t same = sf_prog_comm_member(m->prog, rank, comm, (first + place) % n);
    return m->domain[same] == m->domain[next] ? same : next;
}

static uint32_t partner_of(const struct sfi_contend *c, uint32_t rank, uint32_t way) {
    const struct sfi_class *cls = &c->classes->cls[c->mesh->class_of[rank]];
    return way < cls->ways_n ? sfi_way_peer(c->mesh, &cls->ways[way], rank)
                             : successor(c->mesh, c->classes->lanes[cls->lanes[way - cls->ways_n]].comm, rank);
}

/* Links that are not a port of the two ends, by dense number. */
static uint32_t dense_links(const struct sfi_contend *c, uint32_t rank, uint32_t way, uint64_t out[SF_ROUTE_LINKS]) {
    const struct sfi_mesh *m = c->mesh;
    uint32_t src = m->gpu[rank], dst = m->gpu[partner_of(c, rank, way)], n = 0;
    struct sf_route r;
    sf_topo_route(m->topo, src, dst, &r);
    for (uint32_t i = 0; i < r.links_n; i++) {
        int kind = SF_LINK_KIND(r.links[i]);
        bool port = (kind == SF_LINK_NIC_UP && r.via[0] == src) || (kind == SF_LINK_NIC_DOWN && r.via[1] == dst);
        uint64_t dense = kind >= SF_LINK_NIC_UP && !port ? sf_topo_link_dense(m->topo, r.links[i]) : SF_NO_DENSE;
        if (dense != SF_NO_DENSE) {
            out[n++] = dense;
        }
    }
    return n;
}

uint32_t sfi_contend_links(const struct sfi_contend *c, uint32_t rank, uint32_t way, uint32_t out[SFI_FLOW_LINKS]) {
    uint64_t dense[SF_ROUTE_LINKS];
    uint32_t n = 0, all = dense_links(c, rank, way, dense);
    for (uint32_t i = 0; i < all && n < SFI_FLOW_LINKS; i++) {
        uint32_t link = c->of_dense[dense[i]], before = 0;
        while (before < n && out[before] != link - 1) {
            before++;
        }
        if (link > 0 && before == n) {
            out[n++] = link - 1;
        }
    }
    return n;
}

/* ---- counting ---- */

static int find_caps(struct counter *x, struct sf_arena *arena, struct sf_err *err) {
    const struct sfi_variants *all = x->variants;
    x->caps = sf_arena_alloc(arena, all->n, sizeof *x->caps);
    for (uint32_t i = 0; x->caps && i < all->n; i++) {
        const struct sfi_variant *v = &all->v[i];
        uint64_t *cap = sf_arena_alloc(arena, v->cls->ways_n + v->cls->lanes_n, sizeof *cap);
        if (!cap) {
            return sf_fail_memory(err, "demands on links");
        }
        for (uint32_t op = 0; op < v->cls->code->ops_n; op++) {
            const struct sfi_vop *f = &v->ops[op];
            bool leaves = (f->kind == SFI_SEND || f->kind == SFI_COLL) && f->port == SFI_PORT_OUT;
            if (leaves && all->loads[f->load].cap > cap[f->way]) {
                cap[f->way] = all->loads[f->load].cap;
            }
        }
        x->caps[i] = cap;
    }
    return x->caps ? SF_OK : sf_fail_memory(err, "demands on links");
}

static void add_asks(struct counter *x, uint64_t most) {
    for (uint32_t i = 0; i < x->asks_n; i++) {
        uint64_t asked = x->ask[i].bytes_per_s < most ? x->ask[i].bytes_per_s : most;
        uint64_t *demand = &x->demand[x->ask[i].dense];
        *demand = UINT64_MAX - *demand < asked ? UINT64_MAX : *demand + asked;
    }
    x->asks_n = 0;
}

static void add_ask(struct counter *x, uint64_t dense, uint64_t bytes_per_s) {
    uint32_t i = 0;
    while (i < x->asks_n && x->ask[i].dense != dense) {
        i++;
    }
    if (i == ASKS_MAX) { /* counted apart: perhaps more than there can be, never less */
        add_asks(x, UINT64_MAX);
        i = 0;
    }
    if (i == x->asks_n) {
        x->ask[x->asks_n++] = (struct ask){.dense = dense};
    }
    x->ask[i].bytes_per_s += bytes_per_s;
}

/* A rank never asks a link for more than its NIC gives it. */
static void count_rank(struct counter *x, uint32_t rank) {
    uint32_t variant = x->variants->of_rank[rank];
    const struct sfi_variant *v = &x->variants->v[variant];
    uint64_t dense[SF_ROUTE_LINKS];
    for (uint32_t way = 0; way < v->cls->ways_n + v->cls->lanes_n; way++) {
        uint64_t cap = x->caps[variant][way];
        uint32_t n = cap > 0 ? dense_links(x->c, rank, way, dense) : 0;
        for (uint32_t i = 0; i < n; i++) {
            add_ask(x, dense[i], cap);
        }
    }
    add_asks(x, v->capacity[SFI_PORT_OUT]);
}

static int number_links(struct counter *x, uint64_t links, struct sf_arena *arena, struct sf_err *err) {
    struct sfi_contend *c = x->c;
    for (uint64_t l = 0; l < links; l++) {
        if (x->demand[l] > sf_topo_dense_rate(c->mesh->topo, l)) {
            c->of_dense[l] = ++c->links_n;
        }
    }
    c->capacity = sf_arena_alloc(arena, c->links_n, sizeof *c->capacity);
    if (!c->capacity) {
        return sf_fail_memory(err, "contended links");
    }
    for (uint64_t l = 0; l < links; l++) {
        if (c->of_dense[l] > 0) {
            c->capacity[c->of_dense[l] - 1] = sf_topo_dense_rate(c->mesh->topo, l);
        }
    }
    return SF_OK;
}

int sfi_contend_create(struct sfi_mesh *mesh, const struct sfi_classes *classes, const struct sfi_variants *variants,
                       struct sf_arena *arena, struct sfi_contend **out, struct sf_err *err) {
    struct sfi_contend *c = sf_arena_alloc(arena, 1, sizeof *c);
    struct counter *x = sf_arena_alloc(arena, 1, sizeof *x);
    if (!c || !x) {
        return sf_fail_memory(err, "contended links");
    }
    *c = (struct sfi_contend){.mesh = mesh, .classes = classes};
    *out = c;
    if (!sf_topo_scale_out(mesh->topo) || sf_topo_nonblocking(mesh->topo)) {
        c->certified = true;
        return SF_OK;
    }
    uint64_t links = sf_topo_links_total(mesh->topo);
    x->c = c;
    x->variants = variants;
    x->demand = sf_arena_alloc(arena, links, sizeof *x->demand);
    c->of_dense = sf_arena_alloc(arena, links, sizeof *c->of_dense);
    if (!x->demand || !c->of_dense) {
        return sf_fail_memory(err, "demands on links");
    }
    SF_TRY(find_caps(x, arena, err));
    for (uint32_t r = 0; r < mesh->ranks_n; r++) {
        count_rank(x, r);
    }
    return number_links(x, links, arena, err);
}
