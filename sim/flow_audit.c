/* Looking over the engine's shoulder: every check is made from what the program and the table say, not from what the
 * engine keeps to be fast. */
#include <stdio.h>
#include <string.h>

#include "sim/flow.h"

struct sum { /* what one flow or kernel has moved */
    unsigned __int128 moved, work;
    sf_time_ps since;
};

struct sfi_audit {
    struct sum *sum;      /* by act; all workers' */
    sf_time_ps *cell_now; /* by cell, then by solo; all workers' */
    struct sfi_audit_count count;
    uint32_t first_cell;
};

struct sfi_audit *sfi_audit_create(struct sfi_table *t, const struct sfi_audit *other, struct sf_arena *arena) {
    struct sfi_audit *a = sf_arena_alloc(arena, 1, sizeof *a);
    if (!a) {
        return NULL;
    }
    if (other) {
        *a = *other;
        return a;
    }
    a->sum = sf_arena_alloc(arena, (size_t)t->n * t->streams_n, sizeof *a->sum);
    a->cell_now = sf_arena_alloc(arena, (size_t)t->cells_n + t->n, sizeof *a->cell_now);
    a->first_cell = SF_NONE;
    memset(t->ends, 0xff, t->ends_n * sizeof *t->ends); /* nothing has ended */
    return a->sum && a->cell_now ? a : NULL;
}

static void check(struct sfi_worker *w, bool good, const char *what, uint32_t instance) {
    struct sfi_audit *a = w->audit;
    uint32_t cell = w->cell->first;
    a->count.checks++;
    if (good) {
        return;
    }
    a->count.violations++;
    if (cell < a->first_cell) {
        a->first_cell = cell;
        snprintf(a->count.first, sizeof a->count.first, "%s: rank %u at %lld ps", what, w->table->rank[instance],
                 (long long)w->now);
    }
}

static uint32_t instance_of(const struct sfi_worker *w, const struct sfi_act *a) {
    return (uint32_t)((size_t)(a - w->acts) / w->streams_n);
}

void sfi_audit_event(struct sfi_worker *w, sf_time_ps time) {
    bool solo = w->cell->gone == SFI_QUIET;
    size_t number = solo ? (size_t)w->table->cells_n + w->cell->first : (size_t)(w->cell - w->table->cells);
    sf_time_ps *last = &w->audit->cell_now[number];
    check(w, time >= *last, "an event before the one before it", w->cell->first);
    *last = time;
}

static bool has_ended(const struct sfi_worker *w, uint32_t instance, uint32_t op) {
    sf_time_ps end = *sfi_end_at(w->table, &w->inst[instance], op);
    return end >= 0 && end <= w->now;
}

void sfi_audit_issue(struct sfi_worker *w, uint32_t instance, uint32_t op) {
    const struct sf_iclass *code = sfi_variant_of(w, &w->inst[instance])->cls->code;
    const struct sf_class *cls = code->cls;
    bool good = true;
    for (uint32_t d = 0; d < cls->ops[op].dep_n; d++) {
        good &= has_ended(w, instance, cls->deps[cls->ops[op].dep_first + d]);
    }
    for (uint32_t before = op; before-- > 0;) { /* the last one in front of it on its stream */
        if (cls->ops[before].stream == cls->ops[op].stream) {
            good &= has_ended(w, instance, before);
            break;
        }
    }
    check(w, good, "an op started before what it depends on had ended", instance);
}

void sfi_audit_begin(struct sfi_worker *w, const struct sfi_act *a) {
    w->audit->sum[a - w->acts] = (struct sum){.work = a->left, .since = a->since};
}

void sfi_audit_rate(struct sfi_worker *w, const struct sfi_act *a) {
    struct sum *s = &w->audit->sum[a - w->acts];
    if (w->now > s->since) {
        s->moved += (unsigned __int128)a->rate * (uint64_t)(w->now - s->since);
        s->since = w->now;
    }
}

/* Ends are whole picoseconds, so the last one may have been too long by less than itself. */
void sfi_audit_end(struct sfi_worker *w, const struct sfi_act *a) {
    const struct sum *s = &w->audit->sum[a - w->acts];
    uint64_t rate = a->rate;
    sfi_audit_rate(w, a);
    check(w, s->moved >= s->work && s->moved - s->work < rate, "not what had to move has moved", instance_of(w, a));
}

static uint64_t rate_of(const struct sfi_worker *w, uint32_t instance, const struct sfi_vop *op, uint32_t tier,
                        uint32_t direction) {
    if (op->kind == SFI_RECV) {
        uint32_t src = sfi_peer_of(w->inst, w->ways, instance, op->way);
        const struct sfi_vop *send = &sfi_variant_of(w, &w->inst[src])->ops[op->partner];
        return direction == 1 && send->port == tier ? sfi_act_at(w, src, send->stream)->rate : 0;
    }
    bool uses = op->port == tier && (direction == 0 || op->kind == SFI_COLL);
    return uses ? sfi_act_at(w, instance, op->stream)->rate : 0;
}

void sfi_audit_port(struct sfi_worker *w, uint32_t instance, uint32_t tier) {
    const struct sfi_inst *in = &w->inst[instance];
    const struct sfi_variant *v = sfi_variant_of(w, in);
    for (uint32_t direction = 0; direction < 2; direction++) {
        uint64_t sum = 0;
        for (uint32_t left = in->moving; left; left &= left - 1) {
            uint32_t op = sf_interp_in_flight(v->cls->code, &in->st, (uint32_t)__builtin_ctz(left));
            sum += rate_of(w, instance, &v->ops[op], tier, direction);
        }
        check(w, sum <= v->capacity[tier], "a port carries more than it can", instance);
    }
}

void sfi_audit_link(struct sfi_worker *w, uint32_t link) {
    const struct sfi_fabric_links *l = w->table->fabric;
    uint64_t sum = 0;
    for (uint32_t u = l->user_first[link]; u < l->user_first[link + 1]; u++) {
        uint32_t i = l->users[u].instance;
        const struct sfi_variant *v = sfi_variant_of(w, &w->inst[i]);
        for (uint32_t left = w->inst[i].moving; left; left &= left - 1) {
            uint32_t op = sf_interp_in_flight(v->cls->code, &w->inst[i].st, (uint32_t)__builtin_ctz(left));
            sum += v->ops[op].way == l->users[u].way ? sfi_act_at(w, i, v->ops[op].stream)->rate : 0;
        }
    }
    check(w, sum <= l->capacity[link], "a link carries more than it can", w->cell->first);
}

void sfi_audit_lanes(struct sfi_worker *w, uint32_t instance) {
    const struct sfi_inst *in = &w->inst[instance];
    for (uint32_t lane = SFI_TO_HOST; lane <= SFI_FROM_HOST; lane <<= 1) {
        uint64_t sum = 0, most = 0;
        for (uint32_t left = in->copies; left; left &= left - 1) {
            const struct sfi_act *a = sfi_act_at(w, instance, (uint32_t)__builtin_ctz(left));
            bool moves = (w->loads[a->load].lanes & lane) != 0;
            sum += moves ? a->rate : 0;
            most = moves && w->loads[a->load].cap > most ? w->loads[a->load].cap : most;
        }
        check(w, sum <= most, "a copy engine moves more than it can", instance);
    }
}

void sfi_audit_rest(const struct sfi_run *run, struct sfi_worker *w) {
    const struct sfi_table *t = run->table;
    for (uint32_t c = 0; c < t->cells_n; c++) {
        w->cell = &t->cells[c];
        for (uint32_t i = w->cell->first; i < w->cell->first + w->cell->n; i++) {
            const struct sfi_inst *in = &t->inst[i];
            uint64_t demand = in->demand[0][0] | in->demand[0][1] | in->demand[1][0] | in->demand[1][1];
            bool idle = in->st.busy == 0 && in->st.left == 0 && in->moving == 0 && in->kernels == 0 &&
                        in->copies == 0 && demand == 0;
            check(w, idle && in->cores == 0 && in->memory == 0, "something is in flight at the end", i);
        }
    }
}

void sfi_audit_count(const struct sfi_audit *a, struct sfi_audit_count *sum) {
    sum->checks += a->count.checks;
    sum->violations += a->count.violations;
    if (sum->first[0] == '\0') {
        memcpy(sum->first, a->count.first, sizeof sum->first);
    }
}
