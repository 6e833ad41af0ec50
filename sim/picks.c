#include "sim/picks.h"

#include <stdio.h>

#include "core/arena.h"

#include "sim/cost_internal.h"

#define SIZES_MOST 32
#define GROUPS_MOST 4

static bool kind_counts(const struct sf_span *span, uint32_t kind) {
    return span->kinds == 0 || (span->kinds >> kind & 1) != 0;
}

static bool knows_algorithms(const struct sf_cost *cost) {
    return cost->coll != NULL && !cost->collectives_measured;
}

static bool can(const struct sf_cost *cost, enum sf_coll_op op, uint64_t bytes, const struct sf_span *span,
                uint8_t pick) {
    const struct sf_coll_query q = {op, bytes, *span};
    struct sf_coll_choice c;
    for (uint32_t kind = 0; kind < sf_cost_kinds(cost); kind++) {
        const struct sf_cost *one = sf_cost_of(cost, kind);
        if (kind_counts(span, kind) &&
            (!knows_algorithms(one) ||
             !sf_coll_price(one->coll, &q, (enum sf_coll_algorithm)sf_coll_pick_algorithm(pick),
                            (enum sf_coll_protocol)sf_coll_pick_protocol(pick), &c) ||
             !sf_coll_can_be_told(op, &c))) {
            return false;
        }
    }
    return true;
}

/* ---- what was picked --------------------------------------------------------------------------------------------- */

static int refuse(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t comm, enum sf_coll_op op,
                  const struct sf_span *span, struct sf_err *err) {
    char room[SF_COLL_PICK_TEXT], list[256] = "";
    size_t n = 0;
    for (uint8_t pick = 1; pick < SF_COLL_PICKS_N; pick++) {
        if (can(cost, op, 1 << 20, span, pick) && n < sizeof list) {
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n > 0 ? ", " : "", sf_coll_pick_text(pick, room));
        }
    }
    return sf_fail(err, SF_E_INPUT, "%s of %s cannot run on %s: its %u ranks lie in %u domain%s, which allows %s",
                   sf_coll_op_name((int)op), prog->comms[comm].name,
                   sf_coll_pick_text(prog->comms[comm].picks.of[op], room), span->members, span->domains,
                   span->domains == 1 ? "" : "s", n > 0 ? list : "nothing");
}

static int check_comm(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t comm, struct sf_err *err) {
    const struct sf_coll_picks *picks = &prog->comms[comm].picks;
    struct sf_span span;
    for (uint32_t kind = 0; kind < sf_cost_kinds(cost); kind++) {
        if (!knows_algorithms(sf_cost_of(cost, kind))) {
            return sf_fail(err, SF_E_INPUT,
                           "the program says what collectives of %s run on, and on this cluster nothing is known of "
                           "algorithms: %s; leave collectives out of the plan",
                           prog->comms[comm].name,
                           sf_cost_of(cost, kind)->coll == NULL ? "its device names no collective model"
                                                                : "its collectives were measured as they are");
        }
    }
    sf_span_of(prog, sf_cost_topo(cost), comm, 0, &span);
    for (int op = 0; op < SF_COLL_OPS_N && span.members > 1; op++) {
        if (picks->of[op] != 0 && !can(cost, (enum sf_coll_op)op, 1 << 20, &span, picks->of[op])) {
            return refuse(prog, cost, comm, (enum sf_coll_op)op, &span, err);
        }
    }
    return 0;
}

int sf_picks_check(const struct sf_prog *prog, const struct sf_cost *cost, struct sf_err *err) {
    for (uint32_t comm = 0; comm < prog->comms_n; comm++) {
        SF_TRY(sf_coll_picks_any(&prog->comms[comm].picks) ? check_comm(prog, cost, comm, err) : 0);
    }
    return 0;
}

/* ---- what to pick ------------------------------------------------------------------------------------------------ */

struct sizes { /* of one operation of one communicator, and how often */
    uint64_t bytes[SIZES_MOST];
    double count[SIZES_MOST];
    int call_kind;
    uint32_t n;
};

struct counts {
    struct sizes of[SF_MAX_COMMS][SF_COLL_OPS_N];
};

static void add(struct counts *c, uint32_t comm, int call_kind, uint64_t bytes, double count) {
    struct sizes *s = &c->of[comm][sf_call_collective(call_kind)];
    uint32_t i = 0;
    while (i < s->n && s->bytes[i] != bytes) {
        i++;
    }
    if (i == SIZES_MOST) {
        i = 0; /* more sizes than this do not change what is quickest */
    }
    s->n = i == s->n ? i + 1 : s->n;
    s->bytes[i] = s->count[i] > 0 ? s->bytes[i] : bytes;
    s->count[i] += count;
    s->call_kind = call_kind;
}

static void count_calls(const struct sf_prog *prog, struct counts *c) {
    for (uint32_t k = 0; k < prog->classes_n; k++) {
        const struct sf_class *cls = &prog->classes[k];
        for (uint32_t i = 0; i < cls->ops_n; i++) {
            const struct sf_op *op = &cls->ops[i];
            if (sf_op_call(op->kind) >= 0) {
                add(c, op->comm, sf_op_call(op->kind), op->bytes, 1);
            }
            const struct sf_recipe *r = op->recipe != SF_NONE ? &prog->recipes[op->recipe] : NULL;
            for (uint32_t n = 0; r != NULL && n < r->calls_n; n++) {
                if (sf_call_is_collective(r->calls[n].kind)) {
                    add(c, r->calls[n].comm, r->calls[n].kind, (uint64_t)r->calls[n].dims[0], 1);
                }
            }
        }
    }
}

/* Some of a communicator's groups, which may lie differently. */
struct groups {
    struct sf_span span[GROUPS_MOST];
    uint32_t n;
};

static void find_groups(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t comm, struct groups *out) {
    uint32_t ranks = sf_prog_ranks(prog), groups = sf_prog_comm_groups(prog, comm);
    out->n = groups < GROUPS_MOST ? groups : GROUPS_MOST;
    for (uint32_t i = 0; i < out->n; i++) {
        sf_span_of(prog, sf_cost_topo(cost), comm, (uint32_t)((uint64_t)i * ranks / out->n), &out->span[i]);
    }
}

static double seconds(const struct sf_cost *cost, const struct sizes *s, enum sf_coll_op op, const struct groups *g,
                      uint8_t pick) {
    double sum = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        sf_time_ps slowest = 0;
        for (uint32_t k = 0; k < g->n; k++) {
            struct sf_span span = g->span[k];
            span.picks.of[op] = pick;
            if (pick != 0 && !can(cost, op, s->bytes[i], &span, pick)) {
                return -1;
            }
            sf_time_ps t = sf_cost_collective(cost, s->call_kind, s->bytes[i], &span);
            slowest = t > slowest ? t : slowest;
        }
        sum += s->count[i] * sf_ps_to_s(slowest);
    }
    return sum;
}

static void find_best(const struct sf_cost *cost, const struct sizes *s, const struct groups *g,
                      struct sf_pick_use *use) {
    use->now_s = use->best_s = seconds(cost, s, use->op, g, 0);
    for (uint8_t pick = 1; pick < SF_COLL_PICKS_N; pick++) {
        double t = seconds(cost, s, use->op, g, pick);
        if (t >= 0 && t < use->now_s * (1 - SF_PICK_MARGIN) && t < use->best_s) {
            use->best_s = t;
            use->best = pick;
        }
    }
    for (uint32_t i = 0; i < s->n; i++) {
        use->bytes = s->bytes[i] > use->bytes ? s->bytes[i] : use->bytes;
    }
    struct sf_coll_query q = {use->op, use->bytes, g->span[0]};
    struct sf_coll_choice chosen;
    q.span.picks.of[use->op] = 0;
    sf_coll_choose(sf_cost_of(cost, 0)->coll, &q, &chosen);
    use->nccl = (uint8_t)SF_COLL_PICK((int)chosen.algorithm, (int)chosen.protocol);
}

size_t sf_picks_find(const struct sf_prog *prog, const struct sf_cost *cost, struct sf_pick_use out[SF_PICK_USES]) {
    struct counts *counts = sf_calloc(1, sizeof *counts);
    size_t n = 0;
    for (uint32_t kind = 0; kind < sf_cost_kinds(cost); kind++) {
        if (counts == NULL || !knows_algorithms(sf_cost_of(cost, kind))) {
            sf_free(counts);
            return 0;
        }
    }
    count_calls(prog, counts);
    for (uint32_t comm = 0; comm < prog->comms_n; comm++) {
        struct groups groups = {.n = 0};
        for (int op = 0; op < SF_COLL_OPS_N; op++) {
            const struct sizes *s = &counts->of[comm][op];
            if (s->n == 0 || sf_prog_comm_size(prog, comm) < 2) {
                continue;
            }
            if (groups.n == 0) {
                find_groups(prog, cost, comm, &groups);
            }
            out[n] = (struct sf_pick_use){.comm = comm, .op = (enum sf_coll_op)op};
            find_best(cost, s, &groups, &out[n++]);
        }
    }
    sf_free(counts);
    return n;
}
