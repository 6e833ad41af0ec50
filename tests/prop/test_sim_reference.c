/* The engine against the simplest one that keeps its rules: one list of everything that is going to happen, searched
 * from end to end, moment by moment, with no cells, no rounds and no threads. */
#include "../unit/test_sim_random.h"

#include "sim/engine.h"

struct happening {
    sf_time_ps time;
    bool request;   /* for ports; else a completion */
    uint32_t order; /* (class, op) */
    uint32_t whom;  /* instance, or group of a collective */
    uint32_t op;    /* of the sender, or of the instance */
    int kind;       /* enum sfi_kind */
};

struct reference {
    const struct sfi_run *run;
    struct sfi_table *t;
    struct happening *list;
    size_t n, room;
    uint32_t *arrived; /* by group */
    uint32_t *lowest;
    sf_time_ps now;
};

static const struct sfi_variant *variant(const struct reference *x, uint32_t i) {
    return &x->run->variants->v[x->t->inst[i].variant];
}

static uint32_t order_of(const struct reference *x, uint32_t i, uint32_t op) {
    return variant(x, i)->class_i << 20 | op;
}

static void add(struct reference *x, struct happening h) {
    if (x->n == x->room) {
        x->room = 2 * x->room + 64;
        x->list = realloc(x->list, x->room * sizeof *x->list);
        assert_non_null(x->list);
    }
    x->list[x->n++] = h;
}

static void settle(struct reference *x, uint32_t i, uint32_t op, sf_time_ps start, sf_time_ps end) {
    struct sfi_inst *in = &x->t->inst[i];
    in->digest += sf_mix64(sf_mix64(order_of(x, i, op), (uint64_t)start), (uint64_t)end);
}

static void issue(struct reference *x, uint32_t i, uint32_t op) {
    struct sfi_inst *in = &x->t->inst[i];
    const struct sfi_vop *f = &variant(x, i)->ops[op];
    struct happening h = {.time = x->now + x->run->dispatch, .order = order_of(x, i, op), .whom = i, .op = op};
    h.kind = f->kind;
    if (f->kind == SFI_LOCAL) {
        h.time += sfi_local_time(in, f);
        settle(x, i, op, x->now + x->run->dispatch, h.time);
        add(x, h);
        return;
    }
    h.request = true;
    if (f->kind == SFI_COLL) {
        h.whom = x->t->ways[in->ways + f->way];
        x->lowest[h.whom] = h.order < x->lowest[h.whom] ? h.order : x->lowest[h.whom];
        h.order = x->lowest[h.whom];
        if (++x->arrived[h.whom] == x->t->groups[h.whom].members_n) {
            x->arrived[h.whom] = 0;
            x->lowest[h.whom] = UINT32_MAX;
            add(x, h);
        }
        return;
    }
    uint32_t peer = x->t->ways[in->ways + f->way];
    const struct sf_rank_state *other = &x->t->inst[peer].st;
    if (!(other->busy >> f->partner_stream & 1) || other->done[f->partner_stream] != f->partner_at) {
        return;
    }
    if (f->kind == SFI_RECV) {
        h.whom = peer;
        h.op = f->partner;
        h.order = order_of(x, peer, h.op);
        h.kind = SFI_SEND;
    }
    add(x, h);
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

static void complete(struct reference *x, uint32_t i, uint32_t stream) {
    sf_interp_complete(&x->t->inst[i].st, stream);
    x->t->inst[i].end = x->now;
    advance(x, i);
}

/* The op by which instance `i` takes part in a group's collective now, or SF_NONE when it is no member. */
static uint32_t part_in(const struct reference *x, uint32_t group, uint32_t i) {
    const struct sfi_variant *v = variant(x, i);
    uint32_t op = sf_interp_in_flight(v->cls->code, &x->t->inst[i].st, x->t->groups[group].stream);
    bool member =
        op != SF_NONE && v->ops[op].kind == SFI_COLL && x->t->ways[x->t->inst[i].ways + v->ops[op].way] == group;
    return member ? op : SF_NONE;
}

static sf_time_ps later(sf_time_ps a, sf_time_ps b) {
    return a > b ? a : b;
}

static void start_collective(struct reference *x, struct happening h) {
    sf_time_ps start = x->now, time = 0;
    for (uint32_t i = 0; i < x->t->n; i++) {
        uint32_t op = part_in(x, h.whom, i);
        const struct sfi_vop *f = op == SF_NONE ? NULL : &variant(x, i)->ops[op];
        if (f && f->port != SFI_PORT_NONE) {
            start = later(start, later(x->t->inst[i].sends_free[f->port], x->t->inst[i].receives_free[f->port]));
        }
        time = f ? later(time, f->time) : time;
    }
    h.time = start + time;
    for (uint32_t i = 0; i < x->t->n; i++) {
        uint32_t op = part_in(x, h.whom, i);
        const struct sfi_vop *f = op == SF_NONE ? NULL : &variant(x, i)->ops[op];
        if (f && f->port != SFI_PORT_NONE) {
            x->t->inst[i].sends_free[f->port] = x->t->inst[i].receives_free[f->port] = h.time;
        }
        if (f) {
            settle(x, i, op, start, h.time);
        }
    }
    h.request = false;
    add(x, h);
}

static void start_transfer(struct reference *x, struct happening h) {
    const struct sfi_vop *f = &variant(x, h.whom)->ops[h.op];
    uint32_t peer = x->t->ways[x->t->inst[h.whom].ways + f->way];
    struct sfi_inst *from = &x->t->inst[h.whom], *to = &x->t->inst[peer];
    sf_time_ps start = x->now;
    if (f->port != SFI_PORT_NONE) {
        start = later(start, later(from->sends_free[f->port], to->receives_free[f->port]));
        from->sends_free[f->port] = to->receives_free[f->port] = start + f->time;
    }
    h.time = start + f->time + f->latency;
    settle(x, h.whom, h.op, start, h.time);
    settle(x, peer, f->partner, start, h.time);
    h.request = false;
    add(x, h);
}

static void finish(struct reference *x, struct happening h) {
    if (h.kind == SFI_COLL) {
        for (uint32_t i = 0; i < x->t->n; i++) {
            if (part_in(x, h.whom, i) != SF_NONE) {
                complete(x, i, x->t->groups[h.whom].stream);
            }
        }
        return;
    }
    const struct sfi_vop *f = &variant(x, h.whom)->ops[h.op];
    uint32_t peer = h.kind == SFI_SEND ? x->t->ways[x->t->inst[h.whom].ways + f->way] : SF_NONE;
    complete(x, h.whom, f->stream);
    if (peer != SF_NONE) {
        complete(x, peer, f->partner_stream);
    }
}

static bool sooner(const struct happening *a, const struct happening *b) {
    if (a->time != b->time || a->request != b->request) {
        return a->time != b->time ? a->time < b->time : !a->request;
    }
    return a->request && a->order < b->order;
}

static void run_reference(struct reference *x) {
    for (uint32_t i = 0; i < x->t->n; i++) {
        advance(x, i);
    }
    while (x->n > 0) {
        size_t first = 0;
        for (size_t k = 1; k < x->n; k++) {
            first = sooner(&x->list[k], &x->list[first]) ? k : first;
        }
        struct happening h = x->list[first];
        x->list[first] = x->list[--x->n];
        x->now = h.time;
        if (!h.request) {
            finish(x, h);
        } else if (h.kind == SFI_COLL) {
            start_collective(x, h);
        } else {
            start_transfer(x, h);
        }
    }
}

struct built {
    struct sf_arena *arena;
    struct sfi_variants *variants;
    struct sfi_run run;
};

/* `noise`: every instance has kernel times of its own, so that nothing happens at once. */
static void build(const struct sf_prog *prog, const struct toy *t, uint64_t noise, struct built *b) {
    struct sfi_mesh *mesh;
    struct sfi_classes *classes;
    struct sf_err err = {0};
    *b = (struct built){.arena = sf_arena_create()};
    must(sfi_mesh_create(prog, t->topo, b->arena, &mesh, &err), &err);
    must(sfi_classes_create(prog, b->arena, &classes, &err), &err);
    must(sfi_variants_create(mesh, t->cost, classes, NULL, b->arena, &b->variants, &err), &err);
    b->run = (struct sfi_run){.prog = prog, .variants = b->variants, .dispatch = sf_cost_dispatch(t->cost)};
    must(sfi_table_create(mesh, classes, b->variants, NULL, 0, b->arena, &b->run.table, &err), &err);
    struct sf_rng rng = sf_rng_seed(noise);
    for (uint32_t i = 0; noise && i < b->run.table->n; i++) {
        const struct sfi_class *c = b->variants->v[b->run.table->inst[i].variant].cls;
        sf_time_ps *own = sf_arena_alloc(b->arena, c->kernels_n, sizeof *own);
        for (uint32_t k = 0; k < c->kernels_n; k++) {
            own[k] = (sf_time_ps)(sf_rng_u64(&rng) % 8000) * 500;
        }
        b->run.table->inst[i].own = own;
    }
}

static void compare(const struct sf_prog *prog, const struct toy *t, uint64_t noise, uint32_t threads,
                    const char *text) {
    struct built simple, real;
    struct sf_err err = {0};
    build(prog, t, noise, &simple);
    build(prog, t, noise, &real);
    struct reference x = {.run = &simple.run, .t = simple.run.table};
    x.arrived = calloc(x.t->groups_n + 1, sizeof *x.arrived);
    x.lowest = malloc((x.t->groups_n + 1) * sizeof *x.lowest);
    memset(x.lowest, 0xff, (x.t->groups_n + 1) * sizeof *x.lowest);
    run_reference(&x);
    real.run.threads = threads;
    must(sfi_run(&real.run, real.arena, &err), &err);
    for (uint32_t i = 0; i < x.t->n; i++) {
        const struct sfi_inst *a = &x.t->inst[i], *b = &real.run.table->inst[i];
        if (a->st.left != 0 || a->digest != b->digest || a->end != b->end) {
            fail_msg("%s, noise %llu, %u threads: rank %u ends at %lld, by the book at %lld", text,
                     (unsigned long long)noise, threads, x.t->rank[i], (long long)b->end, (long long)a->end);
        }
    }
    free(x.arrived);
    free(x.lowest);
    free(x.list);
    sf_arena_free(simple.arena);
    sf_arena_free(real.arena);
}

static void test_random_programs(void **state) {
    (void)state;
    struct sf_rng rng = sf_rng_seed(4711);
    for (uint32_t i = 0; i < 250; i++) {
        struct pipe p;
        struct toy t = {0};
        char text[256];
        random_pipe(&rng, &p);
        open_for(&t, &p, chance(&rng, 50) ? "transport: { dispatch: 130ns }\n" : "transport: { dispatch: 0ns }\n");
        describe(&p, text, sizeof text);
        struct sf_prog *prog = pipe_build(&p);
        compare(prog, &t, 0, 1, text);
        compare(prog, &t, 1 + i, 1, text);
        sf_prog_free(prog);
        toy_close(&t);
    }
}

/* Cells enough for several threads; with a collective of everybody they share one island. */
static void test_threads(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        struct toy t = {0};
        struct pipe p = {.tp = 2, .ep = 2, .dp = 64, .pp = 2 + i % 2, .microbatches = 3, .act_bytes = 1200};
        p.per_domain = p.domain_gpus = 6;
        p.grad_bytes = 128 * 64;
        p.everyone = i >= 3;
        p.edp = i % 2;
        for (uint32_t s = 0; s < p.pp; s++) {
            p.f_ns[s] = 900;
            p.b_ns[s] = 2000;
        }
        open_for(&t, &p, NULL);
        struct sf_prog *prog = pipe_build(&p);
        compare(prog, &t, 77 + i, 1 + i, "threads");
        sf_prog_free(prog);
        toy_close(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_programs),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
