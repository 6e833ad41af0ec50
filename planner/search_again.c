/* Which layers recompute where not all of them have to: of every rank of the pipeline as few as make it fit, the first
 * ones of its virtual stages. Ranks do not depend on each other in this: what one of them keeps is decided by its own
 * passes, whose order is the schedule's. Where a pipeline holds the model twice, the two ranks that have the same
 * virtual stages go together. */
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "core/scratch.h"
#include "planner/compile.h"
#include "planner/search_internal.h"
#include "sim/seats.h"

#define ESTIMATES 6 /* of one plan: its table may change with what recomputes */
#define PROGRAMS 8

/* Is virtual stage v on this rank, in either copy of the model? */
static bool is_on(const struct sf_plan *plan, const uint16_t *rank_of, uint32_t v, uint32_t rank) {
    bool twice = sf_schedule_copies(plan) > 1;
    return rank_of[v] == rank || (twice && rank_of[plan->pp * plan->vpp + v] == rank);
}

/* One more layer of the virtual stage of `rank` that has most left, for a rank's virtual stages share slots of one
 * size; false when none has any. */
static bool add_layer(struct sf_plan *plan, const uint16_t *rank_of, uint32_t rank) {
    uint32_t best = SF_NONE, most = 0;
    for (uint32_t v = 0; v < plan->pp * plan->vpp; v++) {
        uint32_t left = plan->layers[v] - plan->recompute_layers[v];
        if (is_on(plan, rank_of, v, rank) && left > most) {
            best = v;
            most = left;
        }
    }
    if (best != SF_NONE) {
        plan->recompute_layers[best]++;
    }
    return best != SF_NONE;
}

/* ---- by estimates ------------------------------------------------------------------------------------------------ */

static double layers_of(const struct sf_plan *plan, const struct sfi_replayed *r, uint32_t rank) {
    double layers = 0;
    for (uint32_t v = 0; v < plan->pp * plan->vpp; v++) {
        layers += is_on(plan, r->stage_rank, v, rank) ? plan->layers[v] - plan->recompute_layers[v] : 0;
    }
    return layers;
}

static bool relieve(struct sf_plan *plan, const struct sfi_price *price, const struct sfi_replayed *r, uint32_t rank,
                    double over_bytes) {
    double each = price->kept_layer - price->kept_layer_again, layers = layers_of(plan, r, rank);
    double alive = layers > 0 ? r->kept[rank] / (layers * price->kept_layer) : 1;
    double more = each > 0 ? fmin(ceil(over_bytes / (fmax(alive, 1) * each)), layers) : layers;
    if (!(layers > 0)) {
        return false;
    }
    for (double i = 0; i < fmax(more, 1); i++) {
        add_layer(plan, r->stage_rank, rank);
    }
    return true;
}

bool sfi_again_fit(struct sfi_search *s, const struct sfi_at *at, struct sfi_replayed *r, struct sfi_estimate *e) {
    const double device = sfi_device_bytes(s);
    for (int i = 0; i < ESTIMATES; i++) {
        bool over = false;
        for (uint32_t rank = 0; rank < s->plan.pp; rank++) {
            double bytes = sfi_estimate_bytes(&s->base, at->layout, at->price, &s->plan, r, rank);
            if (bytes > device) {
                over = true;
                if (!relieve(&s->plan, at->price, r, rank, bytes - device)) {
                    return false;
                }
            }
        }
        if (!over) {
            return true;
        }
        s->stats->replayed++;
        if (!sfi_replay_plan(&s->base, at->layout, at->price, &s->plan, r)) {
            return false;
        }
        *e = sfi_estimate_of(&s->base, at->layout, at->price, &s->plan, r);
    }
    return e->memory_bytes <= device;
}

/* ---- by programs ------------------------------------------------------------------------------------------------- */

struct rank {
    int64_t now, fits, lacks; /* layers that recompute; the fewest known to do and the most known not to */
    double bytes, each;       /* needed, and saved by another layer */
};

struct ranks {
    uint32_t n;
    const uint16_t *of;           /* [virtual stages, of both copies where there are two] */
    uint32_t twin[SF_MAX_STAGES]; /* of ranks that have the same virtual stages, the first */
    struct rank *rank;
};

static void find_twins(const struct sf_plan *plan, struct ranks *ranks) {
    uint32_t stages = plan->pp * plan->vpp;
    for (uint32_t i = 0; i < ranks->n; i++) {
        ranks->twin[i] = i;
    }
    for (uint32_t v = 0; v < stages && sf_schedule_copies(plan) > 1; v++) {
        uint32_t a = ranks->of[v], b = ranks->of[stages + v];
        ranks->twin[a] = ranks->twin[b] = a < b ? a : b;
    }
}

static double stash_slots(const struct sf_class *c) {
    double n = 0;
    for (uint32_t i = 0; i < c->bufs_n; i++) {
        n += c->bufs[i].kind == SF_BUF_ACTIVATION && strncmp(c->bufs[i].name, "stash", 5) == 0;
    }
    return n;
}

static int weigh(const struct sfi_search *s, const struct sfi_price *price, const struct sf_plan *plan,
                 struct ranks *ranks, struct sf_err *err) {
    struct sf_prog *prog;
    SF_TRY(sfi_compile_unbounded(s->scenario, plan, &prog, err));
    for (uint32_t i = 0; i < ranks->n; i++) {
        const struct sf_class *c = &prog->classes[i];
        struct rank *rank = &ranks->rank[ranks->twin[i]];
        double bytes = (double)c->arena_bytes + (double)sf_class_scratch_bytes(prog, i);
        rank->bytes = ranks->twin[i] < i ? fmax(rank->bytes, bytes) : bytes;
        rank->each = fmax(stash_slots(c), 1) * (price->kept_layer - price->kept_layer_again);
    }
    sf_prog_free(prog);
    return 0;
}

/* Closes in on the fewest layers that fit: one less is known not to. False when they are found. *hopeless: all of them
 * are too few. */
static bool step(struct rank *r, int64_t layers, double device, bool *hopeless) {
    double over = r->bytes - device, steps = r->each > 0 ? fmin(fmax(over / r->each, -1e6), 1e6) : 0;
    int64_t now = r->now;
    *(over > 0 ? &r->lacks : &r->fits) = now;
    if (r->lacks >= layers) {
        *hopeless = true;
        return false;
    }
    int64_t next = over > 0 ? now + (int64_t)fmax(ceil(steps), 1) : now + (int64_t)fmin(ceil(steps), -1);
    int64_t most = r->fits >= 0 ? r->fits : layers;
    next = next > r->lacks ? next : r->lacks + 1;
    r->now = next < most ? next : most;
    return r->now != now;
}

static void count_again(const struct sf_plan *plan, const struct ranks *ranks, int64_t *layers) {
    for (uint32_t v = 0; v < plan->pp * plan->vpp; v++) {
        uint32_t rank = ranks->twin[ranks->of[v]];
        ranks->rank[rank].now += plan->recompute_layers[v];
        layers[rank] += plan->layers[v];
    }
}

static void share_out(struct sf_plan *plan, const struct ranks *ranks) {
    memset(plan->recompute_layers, 0, sizeof plan->recompute_layers);
    for (uint32_t i = 0; i < ranks->n; i++) {
        for (int64_t k = 0; k < ranks->rank[i].now && add_layer(plan, ranks->of, i); k++) {
        }
    }
}

static int close_in(const struct sfi_search *s, const struct sfi_price *price, struct sf_plan *plan,
                    struct ranks *ranks, int64_t *layers, struct sf_err *err) {
    bool moved = true, hopeless = false;
    count_again(plan, ranks, layers);
    for (int i = 0; i < PROGRAMS && moved && !hopeless; i++) {
        moved = false;
        SF_TRY(weigh(s, price, plan, ranks, err));
        for (uint32_t k = 0; k < ranks->n; k++) {
            moved |= ranks->twin[k] == k && step(&ranks->rank[k], layers[k], sfi_device_bytes(s), &hopeless);
        }
        share_out(plan, ranks);
    }
    for (uint32_t k = 0; k < ranks->n && moved; k++) { /* stopped on the way: what is known to fit */
        ranks->rank[k].now = ranks->rank[k].fits >= 0 ? ranks->rank[k].fits : layers[k];
    }
    share_out(plan, ranks);
    return 0;
}

/* All or none of the layers: a plan of one kind. */
static void name_plainly(struct sf_plan *plan) {
    uint32_t again = 0, layers = 0;
    for (uint32_t v = 0; v < plan->pp * plan->vpp; v++) {
        again += plan->recompute_layers[v];
        layers += plan->layers[v];
    }
    if (again == 0 || again == layers) {
        plan->recompute = again == 0 ? plan->recompute_rest : plan->recompute;
        plan->recompute_rest = SF_RECOMPUTE_NONE;
        plan->partly = false;
        memset(plan->recompute_layers, 0, sizeof plan->recompute_layers);
    }
}

static int fit_program(struct sfi_search *s, const struct sfi_price *price, const struct sfi_replayed *r,
                       struct sf_err *err) {
    struct ranks ranks = {.n = s->plan.pp, .of = r->stage_rank};
    find_twins(&s->plan, &ranks);
    int64_t *layers = sf_calloc(ranks.n, sizeof *layers);
    ranks.rank = sf_calloc(ranks.n, sizeof *ranks.rank);
    int rc = layers != NULL && ranks.rank != NULL ? 0 : sf_fail_memory(err, "layers that recompute");
    for (uint32_t i = 0; i < ranks.n && rc == 0; i++) {
        ranks.rank[i].fits = ranks.rank[i].lacks = -1;
    }
    rc = rc == 0 ? close_in(s, price, &s->plan, &ranks, layers, err) : rc;
    sf_free(ranks.rank);
    sf_free(layers);
    return rc;
}

void sfi_again_pinned(const struct sf_scenario *scenario, struct sf_plan *plan) {
    uint32_t pinned = scenario->pins.recompute_layers;
    for (uint32_t v = 0; v < plan->pp * plan->vpp && plan->partly; v++) {
        plan->recompute_layers[v] = pinned < plan->layers[v] ? pinned : plan->layers[v];
    }
}

/* s->plan. */
static int fit_again(struct sfi_search *s, struct sf_err *err) {
    struct sfi_at at;
    struct sfi_replayed r;
    SF_TRY(sfi_find_price(s, &at.price, err));
    SF_TRY(sfi_find_layout(s, &at.layout, err));
    if (at.price == NULL || !sfi_replay_plan(&s->base, at.layout, at.price, &s->plan, &r)) {
        return sf_fail(err, SF_E_NOPLAN, "the schedule has no table");
    }
    struct sfi_estimate e = sfi_estimate_of(&s->base, at.layout, at.price, &s->plan, &r);
    sfi_again_fit(s, &at, &r, &e);
    SF_TRY(fit_program(s, at.price, &r, err));
    name_plainly(&s->plan);
    return 0;
}

int sfi_again_plan(struct sfi_search *s, struct sf_plan *plan, struct sf_err *err) {
    s->plan = *plan;
    if (s->scenario->pins.recompute_layers > 0) {
        sfi_again_pinned(s->scenario, &s->plan);
    } else if (plan->partly) {
        SF_TRY(fit_again(s, err));
    }
    *plan = s->plan;
    return 0;
}
