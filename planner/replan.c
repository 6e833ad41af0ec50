/* After a loss: the old plan with fewer replicas. Everything that is slow to change in a running job, what each rank
 * holds of the model, stays; the number of microbatches follows from the replicas, and the schedule may follow from
 * that.
 */
#include "planner/search.h"
#include "sim/seats.h"

static void pin_to(struct sf_pin *pin, uint32_t value) {
    *pin = (struct sf_pin){.n = 1, .value = {value}};
}

/* Families that a search can always make; a table of its own is for one number of microbatches. */
static void free_schedules(struct sf_pins *pins) {
    static const uint32_t families[] = {SF_SCHEDULE_1F1B,  SF_SCHEDULE_INTERLEAVED, SF_SCHEDULE_ZB_H1,
                                        SF_SCHEDULE_ZB_H2, SF_SCHEDULE_ZB_1P,       SF_SCHEDULE_ZB_2P,
                                        SF_SCHEDULE_ZB_V,  SF_SCHEDULE_DUALPIPEV};
    pins->schedule = (struct sf_pin){.n = sizeof families / sizeof *families};
    for (uint32_t i = 0; i < pins->schedule.n; i++) {
        pins->schedule.value[i] = families[i];
    }
}

static bool fits(const struct sf_scenario *s, const struct sf_plan *old, uint64_t dp) {
    uint64_t batch = s->job.global_batch_sequences, model = (uint64_t)old->tp * sf_plan_cp(old) * old->pp;
    uint32_t cp = sf_plan_cp(old);
    if (batch % (dp * old->micro_batch) != 0 || dp * cp % sf_plan_ep_beside_tp(old) != 0 ||
        dp * model > sf_topo_gpus_in_use(s->topo) || (s->job.canonical && (dp & (dp - 1)) != 0)) {
        return false;
    }
    const struct sf_blocks blocks = {.ranks = (uint32_t)(dp * model), .most = old->ranks_per_domain};
    return sf_seats_fit(s->topo, &blocks);
}

int sf_replan(struct sf_scenario *s, const struct sf_plan *old, struct sf_err *err) {
    uint64_t dp = old->dp;
    for (; dp > 0 && !fits(s, old, dp); dp--) {
    }
    if (dp == 0) {
        return sf_fail(err, SF_E_NOPLAN,
                       "%u GPUs are left in use, too few for one replica of the plan (tp %u, cp %u, ep %u, pp %u) with "
                       "%u to a domain: plan the scenario instead",
                       sf_topo_gpus_in_use(s->topo), old->tp, sf_plan_cp(old), old->ep, old->pp, old->ranks_per_domain);
    }
    s->job.gpus = (uint32_t)(dp * old->tp * sf_plan_cp(old) * old->pp);
    s->pins = (struct sf_pins){.offload = old->offload, .schedule_file = "", .table = s->pins.table};
    pin_to(&s->pins.tp, old->tp);
    pin_to(&s->pins.cp, sf_plan_cp(old));
    pin_to(&s->pins.ep, old->ep);
    pin_to(&s->pins.pp, old->pp);
    pin_to(&s->pins.vpp, old->vpp);
    pin_to(&s->pins.micro_batch, old->micro_batch);
    pin_to(&s->pins.recompute, (uint32_t)old->recompute);
    pin_to(&s->pins.zero, old->zero);
    pin_to(&s->pins.order, (uint32_t)old->order);
    free_schedules(&s->pins);
    return 0;
}
