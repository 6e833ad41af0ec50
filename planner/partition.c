/* Layers are equal, only the ends differ, so handing out one layer at a time to whoever is least loaded is optimal:
 * no split has a smaller largest load, because the last layer given to the fullest stage could go nowhere cheaper. */
#include <math.h>

#include "planner/estimate.h"

/* Ties go to later stages: they hold fewer microbatches in flight. */
static uint32_t least_loaded(const double *load, uint32_t n) {
    uint32_t best = n - 1;
    for (uint32_t i = n - 1; i-- > 0;) {
        best = load[i] < load[best] ? i : best;
    }
    return best;
}

static double ends(bool is_first, double first, bool is_last, double last) {
    return (is_first ? first : 0) + (is_last ? last : 0);
}

static void spread_over_chunks(uint32_t stage, uint32_t layers, uint32_t pp, uint32_t vpp, double layer, double first,
                               double last, uint32_t *out) {
    double load[SF_MAX_STAGES];
    for (uint32_t chunk = 0; chunk < vpp; chunk++) {
        load[chunk] = layer + ends(chunk == 0 && stage == 0, first, chunk == vpp - 1 && stage == pp - 1, last);
        out[chunk * pp + stage] = 1;
    }
    for (uint32_t left = layers - vpp; left > 0; left--) {
        uint32_t chunk = least_loaded(load, vpp);
        load[chunk] += layer;
        out[chunk * pp + stage]++;
    }
}

/* Does the s-th virtual stage live on rank s mod pp? On a V or in a table of one's own it need not. */
static bool is_sequential(const struct sf_plan *plan) {
    switch (plan->schedule) {
    case SF_SCHEDULE_ZB_V:
    case SF_SCHEDULE_V_HALF:
    case SF_SCHEDULE_V_MIN:
    case SF_SCHEDULE_1F1B_V:
    case SF_SCHEDULE_DUALPIPEV:
    case SF_SCHEDULE_TABLE:
        return false;
    default:
        return true;
    }
}

void sfi_plan_layers(struct sf_plan *plan, uint32_t layers, double layer, double first, double last) {
    bool sequential = is_sequential(plan);
    sfi_partition(layers, sequential ? plan->pp : plan->pp * plan->vpp, sequential ? plan->vpp : 1, layer, first, last,
                  plan->layers);
}

/* The stages between the first and the last are alike: they get layers in turns. */
struct turns {
    double load;
    uint32_t count, stages, left; /* of the stages, those that have not had this turn */
};

static void take_turn(struct turns *t, double layer) {
    t->left--;
    if (t->left == 0) {
        t->left = t->stages;
        t->load += layer;
        t->count++;
    }
}

static void share_out(uint32_t layers, uint32_t pp, uint32_t vpp, double layer, double first, double last,
                      uint32_t *count) {
    struct turns between = {vpp * layer, vpp, pp > 2 ? pp - 2 : 0, pp > 2 ? pp - 2 : 0};
    double load[2] = {vpp * layer + ends(true, first, pp == 1, last), vpp * layer + last};
    count[0] = count[pp - 1] = vpp;
    for (uint32_t left = layers - pp * vpp; left > 0; left--) {
        double middle = between.stages > 0 ? between.load : INFINITY, behind = pp > 1 ? load[1] : INFINITY;
        if (behind <= middle && behind <= load[0]) {
            load[1] += layer;
            count[pp - 1]++;
        } else if (middle <= load[0]) {
            take_turn(&between, layer);
        } else {
            load[0] += layer;
            count[0]++;
        }
    }
    for (uint32_t stage = 1; stage + 1 < pp; stage++) {
        count[stage] = between.count + (stage > between.left ? 1 : 0);
    }
}

void sfi_partition(uint32_t layers, uint32_t pp, uint32_t vpp, double layer, double first, double last, uint32_t *out) {
    uint32_t count[SF_MAX_STAGES];
    share_out(layers, pp, vpp, layer, first, last, count);
    for (uint32_t stage = 0; stage < pp; stage++) {
        spread_over_chunks(stage, count[stage], pp, vpp, layer, first, last, out);
    }
}
