/* The old plan with fewer replicas, after a loss or by choice. Degrees, recomputation and ZeRO stay; the number of
 * microbatches follows from the replicas, and schedule, vpp and cut of the layers may follow from that. */
#include "core/arena.h"
#include "planner/search.h"
#include "sim/seats.h"

static void pin_to(struct sf_pin *pin, uint32_t value) {
    *pin = (struct sf_pin){.n = 1, .value = {value}};
}

/* Where only some layers do, which ones may follow from the microbatches. */
static void pin_recompute(struct sf_pins *pins, const struct sf_plan *old) {
    pin_to(&pins->recompute, (uint32_t)old->recompute);
    if (old->partly) {
        pins->recompute.value[pins->recompute.n++] = (uint32_t)old->recompute_rest;
    }
}

/* Families that are made quickly. Of their chunks a table may have other numbers, and is for one number of
 * microbatches: it gives way to one that is made to measure. */
static void free_schedules(struct sf_pins *pins) {
    static const uint32_t families[] = {SF_SCHEDULE_1F1B,  SF_SCHEDULE_INTERLEAVED, SF_SCHEDULE_ZB_H1,
                                        SF_SCHEDULE_ZB_H2, SF_SCHEDULE_ZB_1P,       SF_SCHEDULE_ZB_2P,
                                        SF_SCHEDULE_ZB_V,  SF_SCHEDULE_DUALPIPEV,   SF_SCHEDULE_AUTO};
    pins->schedule = (struct sf_pin){.n = sizeof families / sizeof *families};
    for (uint32_t i = 0; i < pins->schedule.n; i++) {
        pins->schedule.value[i] = families[i];
    }
}

/* One chunk each suits any number of microbatches. */
static void pin_vpp(struct sf_pins *pins, const struct sf_plan *old) {
    pin_to(&pins->vpp, 1);
    if (old->vpp > 1) {
        pins->vpp.value[pins->vpp.n++] = old->vpp;
    }
}

static bool divides(const struct sf_scenario *s, const struct sf_plan *old, uint64_t dp) {
    return s->job.global_batch_sequences % (dp * old->micro_batch) == 0 &&
           dp * sf_plan_cp(old) % sf_plan_ep_beside_tp(old) == 0 && !(s->job.canonical && (dp & (dp - 1)) != 0);
}

static bool has_seats(const struct sf_scenario *s, const struct sf_plan *old, uint64_t ranks) {
    const struct sf_blocks blocks = {.ranks = (uint32_t)ranks, .most = old->ranks_per_domain};
    return ranks <= sf_topo_gpus_in_use(s->topo) && sf_seats_fit(s->topo, &blocks);
}

static bool fits(const struct sf_scenario *s, const struct sf_plan *old, uint64_t dp) {
    return divides(s, old, dp) && has_seats(s, old, dp * old->tp * sf_plan_cp(old) * old->pp);
}

int sf_replan(struct sf_scenario *s, const struct sf_plan *old, uint32_t *replicas, struct sf_err *err) {
    uint64_t dp = *replicas < old->dp ? *replicas : old->dp;
    for (; dp > 0 && !fits(s, old, dp); dp--) {
    }
    *replicas = (uint32_t)dp;
    if (dp == 0) {
        return sf_fail(err, SF_E_NOPLAN,
                       "%u GPUs are left in use, too few for one replica of the plan (tp %u, cp %u, ep %u, pp %u) with "
                       "%u to a domain: plan the scenario instead",
                       sf_topo_gpus_in_use(s->topo), old->tp, sf_plan_cp(old), old->ep, old->pp, old->ranks_per_domain);
    }
    s->job.fewer = false;
    s->job.gpus = (uint32_t)(dp * old->tp * sf_plan_cp(old) * old->pp);
    s->pins = (struct sf_pins){.offload = old->offload, .schedule_file = "", .table = s->pins.table};
    pin_to(&s->pins.tp, old->tp);
    pin_to(&s->pins.cp, sf_plan_cp(old));
    pin_to(&s->pins.ep, old->ep);
    pin_to(&s->pins.pp, old->pp);
    pin_vpp(&s->pins, old);
    pin_to(&s->pins.micro_batch, old->micro_batch);
    pin_recompute(&s->pins, old);
    pin_to(&s->pins.zero, old->zero);
    pin_to(&s->pins.order, (uint32_t)old->order);
    free_schedules(&s->pins);
    return 0;
}

/* ---- other numbers of stages ------------------------------------------------------------------------------------- */

#define FEW_PASSES 1000
#define MANY_RANKS 65536

/* Layers that the GPUs would do at a time if every stage had as many as the fullest. */
static double busy_gpus(const struct sf_scenario *s, const struct sf_replan_way *way, uint64_t gpus) {
    uint32_t layers = s->model.layers, fullest = (layers - 1) / way->pp + 1;
    return (double)gpus * layers / ((double)way->pp * fullest);
}

static uint32_t distance(uint32_t a, uint32_t b) {
    return a > b ? a - b : b - a;
}

static void keep_way(const struct sf_replan_way *way, uint32_t pp, struct sf_replan_way *ways, uint32_t *n) {
    uint32_t at = *n < SF_REPLAN_WAYS ? (*n)++ : SF_REPLAN_WAYS;
    for (; at > 0; at--) {
        const struct sf_replan_way *other = &ways[at - 1];
        bool equal = !(way->busy_gpus > other->busy_gpus) && !(way->busy_gpus < other->busy_gpus);
        bool before = equal ? distance(way->pp, pp) < distance(other->pp, pp) : way->busy_gpus > other->busy_gpus;
        if (!before) {
            break;
        }
        if (at < SF_REPLAN_WAYS) {
            ways[at] = *other;
        }
    }
    if (at < SF_REPLAN_WAYS) {
        ways[at] = *way;
    }
}

/* Tables take most of the time, and more the more passes a step has; so do simulations. */
static bool few_passes(const struct sf_scenario *s, const struct sf_plan *old, const struct sf_replan_way *way) {
    return s->job.global_batch_sequences / ((uint64_t)way->dp * old->micro_batch) * way->pp <= FEW_PASSES;
}

static uint64_t most_ranks(const struct sf_scenario *s, const struct sf_plan *old, uint64_t above) {
    uint64_t seats = sf_topo_gpus_in_use(s->topo), asked = s->job.gpus_asked;
    uint64_t refused = (asked < seats ? asked : seats) + 1;
    while (above + 1 < refused) {
        uint64_t middle = (above + refused) / 2;
        *(has_seats(s, old, middle) ? &above : &refused) = middle;
    }
    return above;
}

uint32_t sf_replan_ways(const struct sf_scenario *s, const struct sf_plan *old, uint32_t gpus_found,
                        struct sf_replan_way *ways) {
    uint64_t most = most_ranks(s, old, gpus_found), side = (uint64_t)old->tp * sf_plan_cp(old);
    uint32_t n = 0;
    for (uint32_t pp = (old->pp + 1) / 2; pp <= 2 * old->pp && pp <= s->model.layers; pp++) {
        uint64_t dp = most / (side * pp);
        for (; dp > 0 && !divides(s, old, dp); dp--) {
        }
        struct sf_replan_way way = {.pp = pp, .dp = (uint32_t)dp};
        way.busy_gpus = busy_gpus(s, &way, dp * side * pp);
        if (pp != old->pp && dp * side * pp > gpus_found) {
            keep_way(&way, old->pp, ways, &n);
        }
    }
    return n > 1 && (most > MANY_RANKS || !few_passes(s, old, &ways[0])) ? 1 : n;
}

int sf_replan_as(struct sf_scenario *s, const struct sf_plan *old, const struct sf_replan_way *way, bool tables,
                 struct sf_err *err) {
    struct sf_plan *other = sf_malloc(sizeof *other);
    uint32_t replicas = way->dp;
    if (other == NULL) {
        return sf_fail_memory(err, "a plan");
    }
    *other = *old;
    other->pp = way->pp;
    other->dp = way->dp;
    int rc = sf_replan(s, other, &replicas, err);
    sf_free(other);
    if (rc == 0) { /* chunks even out what the number of stages does not divide; a table is the last family */
        s->pins.vpp = (struct sf_pin){.n = 4, .value = {1, 2, 3, 4}};
        s->pins.schedule.n -= tables && few_passes(s, old, way) ? 0 : 1;
    }
    return rc;
}

/* ---- by choice --------------------------------------------------------------------------------------------------- */

#define FEWER_TRIED 3
#define FEWER_LEAST(dp) ((dp) / 4 * 3)

static int try_fewer(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_search_options *options,
                     const struct sf_plan *old, uint32_t dp, struct sf_plan_result *out, struct sf_err *err) {
    struct sf_search_stats stats;
    struct sf_scenario *one = sf_malloc(sizeof *one);
    uint32_t n = 0;
    if (one == NULL) {
        return sf_fail_memory(err, "a look at fewer GPUs");
    }
    *one = *s;
    one->job.fewer = false;
    one->job.gpus = dp * old->tp * sf_plan_cp(old) * old->pp;
    pin_to(&one->pins.tp, old->tp);
    pin_to(&one->pins.cp, sf_plan_cp(old));
    pin_to(&one->pins.ep, old->ep);
    pin_to(&one->pins.pp, old->pp);
    pin_to(&one->pins.micro_batch, old->micro_batch);
    pin_recompute(&one->pins, old);
    int rc = sf_search(one, cost, options, out, &n, &stats, err);
    sf_free(one);
    return rc;
}

int sf_search_fewer(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_search_options *options,
                    const struct sf_plan_result *best, struct sf_plan_result *out, bool *found, struct sf_err *err) {
    const struct sf_plan *old = &best->plan;
    struct sf_search_options quick = *options;
    struct sf_plan_result *one = sf_malloc(sizeof *one);
    uint32_t tried = 0, least = FEWER_LEAST(old->dp);
    int rc = one != NULL ? 0 : sf_fail_memory(err, "a look at fewer GPUs");
    *found = false;
    quick.top = 1;
    quick.quick = quick.no_advice = true;
    quick.explain = false;
    for (uint32_t dp = old->dp - 1; rc == 0 && dp > 0 && dp >= least && tried < FEWER_TRIED; dp--) {
        if (!fits(s, old, dp)) {
            continue;
        }
        tried++;
        rc = try_fewer(s, cost, &quick, old, dp, one, err);
        if (rc == 0 && one->merit.worth_s < (*found ? out : best)->merit.worth_s) {
            sf_plan_results_clear(out, *found ? 1 : 0);
            *out = *one;
            *found = true;
        } else if (rc == 0) {
            sf_plan_results_clear(one, 1);
        }
        rc = rc == SF_E_NOPLAN ? 0 : rc;
    }
    sf_free(one);
    return rc == SF_E_INTERRUPTED ? 0 : rc;
}
