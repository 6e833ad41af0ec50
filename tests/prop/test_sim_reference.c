/* The engine against the simplest one that keeps its rules: a list of everything in flight and, at every moment at
 * which anything happens, all rates found anew by filling all ports at once. No cells, no rounds, no threads, no event
 * queue, nothing remembered from one moment to the next but what is left to do. */
#include "../unit/test_sim_random.h"

#include "sim/contend.h"
#include "sim/flow.h"

struct going {       /* one kernel, transfer or member's part of a collective */
    bool used, runs; /* runs: it has started */
    bool rests;      /* a part that has moved, while the collective goes on */
    uint32_t i, op;  /* of the sender */
    sf_time_ps from; /* starts to move */
    sf_time_ps began;
    unsigned __int128 left;
    uint64_t rate;
    bool frozen;                            /* while rates are found */
    uint32_t link[SFI_FLOW_LINKS], links_n; /* inside the fabric */
};

struct reference {
    const struct sfi_run *run;
    struct sfi_table *t;
    const struct sfi_contend *links; /* NULL: none */
    struct going *going;             /* by instance and stream, as the table's acts */
    sf_time_ps *ready;               /* by group: last arrival */
    uint32_t *arrived, *moved;
    struct going **flows; /* those that move */
    uint32_t n, flows_n;  /* places in `going`; flows */
    sf_time_ps now;
};

static const struct sfi_variant *variant(const struct reference *x, uint32_t i) {
    return &x->run->variants->v[x->t->inst[i].variant];
}

static const struct sfi_vop *vop(const struct reference *x, const struct going *g) {
    return &variant(x, g->i)->ops[g->op];
}

static const struct sfi_load *load(const struct reference *x, const struct going *g) {
    return &x->run->variants->loads[vop(x, g)->load];
}

static uint32_t way(const struct reference *x, uint32_t i, const struct sfi_vop *f) {
    return f->kind == SFI_COLL ? x->t->ways[x->t->inst[i].ways + f->way]
                               : sfi_peer_of(x->t->inst, x->t->ways, i, f->way);
}

static uint32_t far_end(const struct reference *x, const struct going *g) {
    return vop(x, g)->kind == SFI_COLL ? g->i : way(x, g->i, vop(x, g));
}

/* ---- rates ---- */

static bool is_flow(const struct reference *x, const struct going *g) {
    return g->used && g->runs && !g->rests && vop(x, g)->kind != SFI_LOCAL;
}

static bool passes(const struct reference *x, const struct going *g, uint32_t i, uint32_t tier, int receiving) {
    return vop(x, g)->port == tier && (receiving ? far_end(x, g) : g->i) == i;
}

/* What a port leaves to each flow that has no rate yet; UINT64_MAX when it holds nobody back. */
static uint64_t port_share(const struct reference *x, uint32_t i, uint32_t tier, int receiving) {
    uint64_t left = variant(x, i)->capacity[tier], asked = 0, n = 0;
    for (uint32_t k = 0; k < x->flows_n; k++) {
        const struct going *g = x->flows[k];
        if (passes(x, g, i, tier, receiving)) {
            asked += load(x, g)->cap;
            left -= g->frozen ? g->rate : 0;
            n += !g->frozen;
        }
    }
    return asked <= variant(x, i)->capacity[tier] || n == 0 ? UINT64_MAX : left / n;
}

static bool passes_link(const struct going *g, uint32_t link) {
    for (uint32_t k = 0; k < g->links_n; k++) {
        if (g->link[k] == link) {
            return true;
        }
    }
    return false;
}

static uint64_t link_share(const struct reference *x, uint32_t link) {
    uint64_t left = x->links->capacity[link], asked = 0, n = 0;
    for (uint32_t k = 0; k < x->flows_n; k++) {
        const struct going *g = x->flows[k];
        if (passes_link(g, link)) {
            asked += load(x, g)->cap;
            left -= g->frozen ? g->rate : 0;
            n += !g->frozen;
        }
    }
    return asked <= x->links->capacity[link] || n == 0 ? UINT64_MAX : left / n;
}

/* What a flow could have now. */
static uint64_t share_of(const struct reference *x, const struct going *g) {
    const struct sfi_vop *f = vop(x, g);
    uint64_t share = load(x, g)->cap;
    for (int receiving = 0; receiving < 2 && f->port != SFI_PORT_NONE; receiving++) {
        uint64_t s = port_share(x, receiving ? far_end(x, g) : g->i, f->port, receiving);
        share = s < share ? s : share;
    }
    for (uint32_t k = 0; k < g->links_n; k++) {
        uint64_t s = link_share(x, g->link[k]);
        share = s < share ? s : share;
    }
    return share;
}

/* The lowest share there is, to all who have it; then again with what is left. */
static void fill_ports(struct reference *x) {
    uint64_t share[8192];
    x->flows_n = 0;
    for (uint32_t k = 0; k < x->n; k++) {
        x->going[k].frozen = false;
        x->flows[x->flows_n] = &x->going[k];
        x->flows_n += is_flow(x, &x->going[k]);
    }
    for (uint32_t done = 0; done < x->flows_n;) {
        uint64_t level = UINT64_MAX;
        for (uint32_t k = 0; k < x->flows_n; k++) {
            share[k] = x->flows[k]->frozen ? UINT64_MAX : share_of(x, x->flows[k]);
            level = share[k] < level ? share[k] : level;
        }
        for (uint32_t k = 0; k < x->flows_n; k++) {
            if (share[k] == level) {
                x->flows[k]->rate = level > 0 ? level : 1;
                x->flows[k]->frozen = true;
                done++;
            }
        }
    }
}

static void disturb_kernel(struct reference *x, struct going *kernel) {
    uint32_t cores = 0, memory = 0;
    for (uint32_t k = 0; k < x->n; k++) {
        const struct going *g = &x->going[k];
        if (!g->used || !g->runs || vop(x, g)->kind == SFI_LOCAL || vop(x, g)->port == SFI_PORT_NONE) {
            continue;
        }
        const struct sfi_load *l = load(x, g);
        if (g->i == kernel->i) {
            cores += l->cores;
            memory += g->rests ? 0 : sfi_memory_share(l, l->memory, g->rate);
        }
        if (vop(x, g)->kind != SFI_COLL && far_end(x, g) == kernel->i) {
            cores += l->cores;
            memory += sfi_memory_share(l, l->memory_far, g->rate);
        }
    }
    kernel->rate = sfi_kernel_rate(load(x, kernel), cores, memory);
}

static void find_rates(struct reference *x) {
    fill_ports(x);
    for (uint32_t k = 0; k < x->n; k++) {
        if (x->going[k].used && vop(x, &x->going[k])->kind == SFI_LOCAL) {
            disturb_kernel(x, &x->going[k]);
        }
    }
}

/* ---- what may start, what has ended ---- */

static struct going *place(struct reference *x, uint32_t i, const struct sfi_vop *f) {
    return &x->going[(size_t)i * x->t->streams_n + f->stream];
}

static void put(struct reference *x, uint32_t i, uint32_t op, sf_time_ps began, sf_time_ps from, uint64_t cap,
                sf_time_ps time) {
    const struct sfi_vop *f = &variant(x, i)->ops[op];
    struct going *g = place(x, i, f);
    *g = (struct going){
        .used = true, .i = i, .op = op, .began = began, .from = from, .left = (unsigned __int128)cap * (uint64_t)time};
    if (x->links && f->kind != SFI_LOCAL) {
        g->links_n = sfi_contend_links(x->links, x->t->rank[i], f->way, g->link);
    }
}

static void issue_p2p(struct reference *x, uint32_t i, uint32_t op, const struct sfi_vop *f) {
    uint32_t peer = way(x, i, f);
    const struct sf_rank_state *other = &x->t->inst[peer].st;
    if (!(other->busy >> f->partner_stream & 1) || other->done[f->partner_stream] != f->partner_at) {
        return;
    }
    uint32_t src = f->kind == SFI_SEND ? i : peer, send = f->kind == SFI_SEND ? op : f->partner;
    const struct sfi_vop *s = &variant(x, src)->ops[send];
    sf_time_ps began = x->now + x->run->dispatch;
    put(x, src, send, began, began + s->latency, x->run->variants->loads[s->load].cap, s->time);
}

/* The op by which instance `i` takes part in a group's collective now, or SF_NONE when it is no member. */
static uint32_t part_in(const struct reference *x, uint32_t group, uint32_t i) {
    const struct sfi_variant *v = variant(x, i);
    uint32_t op = sf_interp_in_flight(v->cls->code, &x->t->inst[i].st, x->t->groups[group].stream);
    return op != SF_NONE && v->ops[op].kind == SFI_COLL && way(x, i, &v->ops[op]) == group ? op : SF_NONE;
}

static void issue_collective(struct reference *x, uint32_t group) {
    sf_time_ps began = x->now + x->run->dispatch;
    if (++x->arrived[group] < x->t->groups[group].members_n) {
        return;
    }
    x->arrived[group] = 0;
    for (uint32_t i = 0; i < x->t->n; i++) {
        uint32_t op = part_in(x, group, i);
        if (op != SF_NONE) {
            const struct sfi_vop *f = &variant(x, i)->ops[op];
            put(x, i, op, began, began, x->run->variants->loads[f->load].cap, f->time);
        }
    }
}

static void issue(struct reference *x, uint32_t i, uint32_t op) {
    const struct sfi_vop *f = &variant(x, i)->ops[op];
    sf_time_ps began = x->now + x->run->dispatch;
    if (f->kind == SFI_LOCAL) {
        put(x, i, op, began, began, SFI_FULL, sfi_local_time(&x->t->inst[i], f));
    } else if (f->kind == SFI_COLL) {
        issue_collective(x, way(x, i, f));
    } else {
        issue_p2p(x, i, op, f);
    }
}

static void advance(struct reference *x, uint32_t i) {
    struct sfi_inst *in = &x->t->inst[i];
    const struct sf_iclass *code = variant(x, i)->cls->code;
    for (uint32_t s = 0; s < code->streams_n; s++) {
        uint32_t op = sf_interp_begin(code, &in->st, s);
        if (op != SF_NONE) {
            issue(x, i, op);
        }
    }
}

static void complete(struct reference *x, uint32_t i, uint32_t op, sf_time_ps began) {
    struct sfi_inst *in = &x->t->inst[i];
    uint32_t order = variant(x, i)->class_i << 20 | op;
    in->digest += sf_mix64(sf_mix64(order, (uint64_t)began), (uint64_t)x->now);
    *sfi_end_at(x->t, in, op) = x->now;
    sf_interp_complete(&in->st, variant(x, i)->ops[op].stream);
    advance(x, i);
}

static void end_part(struct reference *x, struct going *g) {
    uint32_t group = way(x, g->i, vop(x, g));
    g->rests = true;
    if (++x->moved[group] < x->t->groups[group].members_n) {
        return;
    }
    x->moved[group] = 0;
    for (uint32_t i = 0; i < x->t->n; i++) {
        uint32_t op = part_in(x, group, i);
        if (op != SF_NONE) {
            place(x, i, &variant(x, i)->ops[op])->used = false;
        }
    }
    for (uint32_t i = 0; i < x->t->n; i++) {
        uint32_t op = part_in(x, group, i);
        if (op != SF_NONE) {
            complete(x, i, op, g->began);
        }
    }
}

/* Does one thing that this moment holds; false when it holds no more. */
static bool happen(struct reference *x) {
    for (uint32_t k = 0; k < x->n; k++) {
        struct going *g = &x->going[k], was = *g;
        const struct sfi_vop *f = g->used ? vop(x, g) : NULL;
        if (!f || g->rests || g->from > x->now) {
            continue;
        }
        if (!g->runs) {
            g->runs = true;
            return true;
        }
        if (g->left > 0) {
            continue;
        }
        if (f->kind == SFI_COLL) {
            end_part(x, g);
            return true;
        }
        g->used = false;
        complete(x, was.i, was.op, was.began);
        if (f->kind == SFI_SEND) {
            complete(x, way(x, was.i, f), f->partner, was.began);
        }
        return true;
    }
    return false;
}

/* When the next thing starts or ends; INT64_MAX: never. */
static sf_time_ps next_moment(const struct reference *x) {
    sf_time_ps next = INT64_MAX;
    for (uint32_t k = 0; k < x->n; k++) {
        const struct going *g = &x->going[k];
        if (g->used && !g->rests) {
            sf_time_ps t = g->runs ? x->now + (sf_time_ps)((g->left + g->rate - 1) / g->rate) : g->from;
            next = t < next ? t : next;
        }
    }
    return next;
}

static void run_reference(struct reference *x) {
    for (uint32_t i = 0; i < x->t->n; i++) {
        advance(x, i);
    }
    for (;;) {
        while (happen(x)) {
        }
        find_rates(x);
        sf_time_ps next = next_moment(x);
        if (next == INT64_MAX) {
            return;
        }
        for (uint32_t k = 0; k < x->n; k++) {
            struct going *g = &x->going[k];
            if (g->used && g->runs && !g->rests) {
                unsigned __int128 done = (unsigned __int128)g->rate * (uint64_t)(next - x->now);
                g->left -= done < g->left ? done : g->left;
            }
        }
        x->now = next;
    }
}

struct built {
    struct sfi_contend *links;
    struct sf_arena *arena;
    struct sfi_variants *variants;
    struct sfi_run run;
};

/* The toy's devices do not compete with their communication: have them do so, and ports narrower than their flows. */
static void disturb(const struct built *b, const struct sfi_classes *classes, struct sf_rng *rng) {
    struct sfi_variants *all = b->variants;
    uint32_t n = all->loads_n;
    struct sfi_load *loads = sf_arena_alloc(b->arena, n + 3, sizeof *loads);
    memcpy(loads, all->loads, n * sizeof *loads);
    for (uint32_t i = 1; i < n; i++) {
        loads[i].cores = pick(rng, 0, 20000);
        loads[i].memory = pick(rng, 0, 20000);
        loads[i].memory_far = pick(rng, 0, 20000);
        loads[i].cap -= chance(rng, 50) ? loads[i].cap / pick(rng, 2, 9) : 0;
    }
    for (uint32_t i = n; i < n + 3; i++) {
        loads[i].cores = pick(rng, 0, 32768);
        loads[i].memory = pick(rng, 0, 32768);
    }
    for (uint32_t i = 0; i < all->n; i++) {
        const struct sfi_class *c = &classes->cls[all->v[i].class_i];
        for (uint32_t k = 0; k < c->kernels_n; k++) {
            all->v[i].ops[c->kernel_ops[k]].load = n + k % 3;
        }
    }
    for (uint32_t i = 0; i < all->n && chance(rng, 40); i++) {
        all->v[i].capacity[0] -= all->v[i].capacity[0] / pick(rng, 2, 5);
    }
    all->loads = loads;
    all->loads_n = n + 3;
}

/* `noise`: every instance has kernel times of its own, so that nothing happens at once. */
static void build(const struct sf_prog *prog, const struct toy *t, uint64_t noise, bool links, struct built *b) {
    struct sfi_mesh *mesh;
    struct sfi_classes *classes;
    struct sf_err err = {0};
    *b = (struct built){.arena = sf_arena_create()};
    must(sfi_mesh_create(prog, t->topo, b->arena, &mesh, &err), &err);
    must(sfi_classes_create(prog, b->arena, &classes, &err), &err);
    classes->alone = links;
    must(sfi_variants_create(mesh, t->cost, classes, NULL, b->arena, &b->variants, &err), &err);
    b->run = (struct sfi_run){.prog = prog, .variants = b->variants, .dispatch = sf_cost_dispatch(t->cost)};
    if (links) {
        must(sfi_contend_create(mesh, classes, b->variants, b->arena, &b->links, &err), &err);
        classes->contend = b->links->links_n > 0 ? b->links : NULL;
    }
    must(sfi_table_create(mesh, classes, b->variants, NULL, 0, b->arena, &b->run.table, &err), &err);
    struct sf_rng rng = sf_rng_seed(noise);
    if (noise % 2) {
        disturb(b, classes, &rng);
    }
    for (uint32_t i = 0; noise && i < b->run.table->n; i++) {
        const struct sfi_class *c = b->variants->v[b->run.table->inst[i].variant].cls;
        sf_time_ps *own = sf_arena_alloc(b->arena, c->kernels_n, sizeof *own);
        for (uint32_t k = 0; k < c->kernels_n; k++) {
            own[k] = (sf_time_ps)(sf_rng_u64(&rng) % 8000) * 500;
        }
        b->run.table->inst[i].own = own;
    }
}

/* How many links inside the fabric took part. */
static uint32_t compare(const struct sf_prog *prog, const struct toy *t, uint64_t noise, uint32_t threads, bool links,
                        const char *text) {
    struct built simple, real;
    struct sf_err err = {0};
    build(prog, t, noise, links, &simple);
    build(prog, t, noise, links, &real);
    struct reference x = {.run = &simple.run, .t = simple.run.table, .n = simple.run.table->n * prog->streams_n};
    x.links = simple.links && simple.links->links_n > 0 ? simple.links : NULL;
    uint32_t links_n = x.links ? x.links->links_n : 0;
    x.going = calloc(x.n, sizeof *x.going);
    x.arrived = calloc(x.t->groups_n + 1, sizeof *x.arrived);
    x.moved = calloc(x.t->groups_n + 1, sizeof *x.moved);
    x.flows = calloc(x.n + 1, sizeof *x.flows);
    assert_true(x.flows && x.going && x.arrived && x.moved && x.n <= 8192);
    run_reference(&x);
    real.run.threads = threads;
    real.run.audit = true;
    must(sfi_run(&real.run, real.arena, &err), &err);
    if (real.run.audited.violations > 0 || real.run.audited.checks == 0) {
        fail_msg("%s, noise %llu: %s", text, (unsigned long long)noise, real.run.audited.first);
    }
    for (uint32_t i = 0; i < x.t->n; i++) {
        const struct sfi_inst *a = &x.t->inst[i], *b = &real.run.table->inst[i];
        const struct sf_iclass *code = variant(&x, i)->cls->code;
        sf_time_ps book = sfi_last_end(code, sfi_ends(&simple.run, i)),
                   end = sfi_last_end(code, sfi_ends(&real.run, i));
        for (uint32_t op = 0; op < code->ops_n; op++) {
            assert_int_equal(sfi_end_of(sfi_ends(&simple.run, i), op), sfi_end_of(sfi_ends(&real.run, i), op));
        }
        if (a->st.left != 0 || a->digest != b->digest || end != book) {
            fail_msg("%s, noise %llu, %u threads: rank %u ends at %lld, by the book at %lld", text,
                     (unsigned long long)noise, threads, x.t->rank[i], (long long)end, (long long)book);
        }
    }
    free(x.arrived);
    free(x.moved);
    free(x.going);
    free(x.flows);
    sf_arena_free(simple.arena);
    sf_arena_free(real.arena);
    return links_n;
}

static void test_random_programs(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(4711);
    for (uint32_t i = 0; i < 90; i++) {
        struct pipe p;
        struct toy t = {0};
        char text[256];
        random_pipe(&rng, &p);
        open_for(&t, &p, chance(&rng, 50) ? "transport: { dispatch: 130ns }\n" : "transport: { dispatch: 0ns }\n");
        describe(&p, text, sizeof text);
        struct sf_prog *prog = pipe_build(&p);
        compare(prog, &t, 0, 1, false, text);
        compare(prog, &t, 1 + i, 1, false, text);
        sf_prog_free(prog);
        toy_close(&t);
    }
}

/* Paths picked by a hash collide: links inside the fabric are shared, and cells that meet there are one. */
static void test_contended_links(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(31);
    uint32_t contended = 0;
    for (uint32_t i = 0; i < 60; i++) {
        struct pipe p;
        struct toy t = {0};
        struct sf_err err = {0};
        char text[256];
        random_pipe(&rng, &p);
        open_for(&t, &p, NULL);
        if (sf_topo_scale_out(t.topo)) {
            must(sf_topo_set_routing(t.topo, SF_ROUTING_ECMP, i, &err), &err);
        }
        describe(&p, text, sizeof text);
        struct sf_prog *prog = pipe_build(&p);
        contended += compare(prog, &t, i, 1 + i % 2, true, text) > 0;
        sf_prog_free(prog);
        toy_close(&t);
    }
    assert_true(contended > 10);
}

/* Cells enough for several threads, and for times of ranks of one class to lie side by side; with a collective of
 * everybody they share one island. */
static void test_threads(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        struct toy t = {0};
        struct pipe p = {.tp = 2, .ep = 2, .dp = 36, .pp = 2 + i % 2, .microbatches = 2, .act_bytes = 1200};
        p.per_domain = p.domain_gpus = 6;
        p.grad_bytes = 72 * 64;
        p.everyone = i >= 2;
        p.edp = i % 2;
        for (uint32_t s = 0; s < p.pp; s++) {
            p.f_ns[s] = 900;
            p.b_ns[s] = 2000;
        }
        open_for(&t, &p, NULL);
        struct sf_prog *prog = pipe_build(&p);
        compare(prog, &t, 77 + i, 1 + i, false, "threads");
        sf_prog_free(prog);
        toy_close(&t);
    }
}

/* A checker that cannot object proves nothing: show it one fault of each kind. */
static void test_the_audit_objects(void **state) {
    (void)state;
    struct toy t = {0};
    struct built b;
    struct pipe p = {.tp = 1, .ep = 1, .dp = 2, .pp = 2, .microbatches = 2, .act_bytes = 600, .per_domain = 4};
    struct sfi_audit_count count = {0};
    p.domain_gpus = 4;
    open_for(&t, &p, NULL);
    struct sf_prog *prog = pipe_build(&p);
    build(prog, &t, 0, false, &b);
    struct sfi_table *table = b.run.table;
    struct sfi_worker w = {.run = &b.run,
                           .table = table,
                           .inst = table->inst,
                           .acts = table->acts,
                           .variant = b.variants->v,
                           .ways = table->ways,
                           .cell = table->cells,
                           .streams_n = table->streams_n,
                           .audit = sfi_audit_create(table, NULL, b.arena)};
    sfi_audit_event(&w, 50);
    sfi_audit_event(&w, 49);
    struct sfi_act *a = sfi_act_at(&w, 0, 0);
    sfi_act_begin(a, 0, 10, 0, 100);
    sfi_audit_begin(&w, a);
    w.now = 99;
    sfi_audit_end(&w, a); /* a picosecond early */
    uint32_t last = b.variants->v[0].cls->code->ops_n - 1;
    sfi_audit_issue(&w, 0, last);
    const struct sf_iclass *code = b.variants->v[table->inst[0].variant].cls->code;
    uint32_t send = 0;
    while (b.variants->v[table->inst[0].variant].ops[send].kind != SFI_SEND) {
        send++;
    }
    const struct sfi_vop *f = &b.variants->v[table->inst[0].variant].ops[send];
    table->inst[0].st.busy |= 1u << f->stream;
    table->inst[0].st.done[f->stream] = code->position[send];
    table->inst[0].moving |= (uint8_t)(1u << f->stream);
    sfi_act_at(&w, 0, f->stream)->rate = b.variants->v[table->inst[0].variant].capacity[f->port] + 1;
    sfi_audit_port(&w, 0, f->port);
    sfi_audit_count(w.audit, &count);
    assert_int_equal(count.violations, 4); /* time, bytes, cause, capacity */
    sfi_audit_rest(&b.run, &w);
    count = (struct sfi_audit_count){0};
    sfi_audit_count(w.audit, &count);
    assert_int_equal(count.violations, 4 + table->n); /* nobody has finished */
    sf_prog_free(prog);
    sf_arena_free(b.arena);
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_programs),
        cmocka_unit_test(test_the_audit_objects),
        cmocka_unit_test(test_contended_links),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
