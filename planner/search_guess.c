/* Closed forms that are good enough to say which groups to look at first. */
#include <math.h>

#include "planner/search_internal.h"

/* Bubbles of equal stages (docs/schedules.md), for one pass of a rank's chunks: in forwards, input and weight
 * gradients; and what the fullest rank keeps, in microbatches of a whole stage. */
struct family {
    double f, b, w, kept;
};

static struct family family_of(const struct sf_plan *p) {
    double n = p->pp - 1.0, v = p->vpp, slices = sf_plan_slices(p), pp = p->pp + slices - 1,
           m = p->microbatches * slices;
    switch (p->schedule) {
    case SF_SCHEDULE_GPIPE:
        return (struct family){n, n, n, m};
    case SF_SCHEDULE_INTERLEAVED:
        return (struct family){n / v, n / v, n / v, fmin(m, pp + n / v)};
    case SF_SCHEDULE_BREADTH_FIRST:
        return (struct family){n / v, n / v, n / v, m};
    case SF_SCHEDULE_ZB_H1:
    case SF_SCHEDULE_ZB_1P:
        return (struct family){n, n, 0, fmin(m, pp)};
    case SF_SCHEDULE_ZB_H2:
    case SF_SCHEDULE_ZB_2P:
        return (struct family){n, 0, 0, fmin(m, 2 * pp)};
    case SF_SCHEDULE_V_HALF:
        return (struct family){n, n / 2, 0, fmin(m, pp / 2 + 1)};
    case SF_SCHEDULE_V_MIN:
        return (struct family){n, n, 0, fmin(m, pp / 3 + 2)};
    case SF_SCHEDULE_1F1B_V:
        return (struct family){n, n, n, fmin(m, 2 * pp / 3 + 2)};
    case SF_SCHEDULE_ZB_V:
    case SF_SCHEDULE_DUALPIPEV:
        return (struct family){n / 2, n / 2, 0, fmin(m, pp)};
    case SF_SCHEDULE_DUALPIPE:
        return (struct family){n / 2, n / 2, 0, fmin(m, pp + 1)};
    case SF_SCHEDULE_AUTO:
    case SF_SCHEDULE_TABLE:
        return (struct family){n / v, 0, 0, fmin(m, pp)};
    default:
        return (struct family){n, n, n, fmin(m, pp)};
    }
}

static double state_bytes(const struct sfi_search *s, const struct sfi_layout *l, double layers, uint32_t most) {
    double all = layers * (l->layer_dense + l->layer_expert);
    double owned = most >= 1 ? layers * (l->layer_dense + l->layer_expert * l->experts) / l->group : all;
    double held = most >= 3 ? 2 * owned : most >= 2 ? all + owned : 2 * all;
    return held * s->base.weight_bytes + owned * s->base.optimizer_bytes;
}

static uint32_t most_zero(const struct sfi_search *s) {
    return s->space->zero.value[s->space->zero.n - 1];
}

struct sfi_bounded sfi_bounded_of(const struct sfi_search *s, const struct sfi_at *at, uint32_t zero) {
    uint32_t layers = s->scenario->model.layers;
    return (struct sfi_bounded){.price = at->price,
                                .layout = at->layout,
                                .layers = layers,
                                .microbatches = s->plan.microbatches,
                                .zero = zero,
                                .slices = sf_plan_slices(&s->plan),
                                .units = 1,
                                .split_head = s->plan.split_head,
                                .free_bytes =
                                    at->layout->pp * sfi_reach_bytes(s) - state_bytes(s, at->layout, layers, zero)};
}

static double least_bytes(const struct sfi_search *s, const struct sfi_at *at) {
    const struct sf_plan *p = &s->plan;
    bool all = p->schedule == SF_SCHEDULE_GPIPE || p->schedule == SF_SCHEDULE_BREADTH_FIRST;
    double layers = floor((double)s->scenario->model.layers / p->pp),
           alive = all ? (double)p->microbatches * sf_plan_slices(p) : 1;
    return state_bytes(s, at->layout, layers, most_zero(s)) + layers * alive * at->price->kept_layer_again;
}

/* The part of its layers that the fullest rank has to recompute: what has room is not. */
static double part_again(const struct sfi_search *s, const struct sfi_price *price, double bytes, double layers_kept) {
    double saved = layers_kept * (price->kept_layer - price->kept_layer_again);
    return s->plan.partly && saved > 0 ? fmin(fmax(bytes - sfi_device_bytes(s), 0) / saved, 1) : 0;
}

static double again_s(const struct sf_model *m, const struct sfi_price *price) {
    double sum = 0;
    for (int t = SFI_TIMED_F; t <= SFI_TIMED_BW; t++) {
        sum += sfi_layers_sum(m, price->time[t].again, 0, m->layers) / m->layers - price->time[t].layer;
    }
    return sum;
}

static double tail_s(const struct sfi_search *s, const struct sfi_layout *l, double layers) {
    const struct sfi_group_price *dense = &l->dense[0], *expert = &l->expert[0];
    double bytes = layers * s->base.weight_bytes;
    double scatter = layers * dense->scatter.fixed_s + bytes * l->layer_dense * dense->scatter.s_per_unit;
    if (l->layer_expert > 0) {
        scatter += layers * expert->scatter.fixed_s + bytes * l->layer_expert * expert->scatter.s_per_unit;
    }
    return 2 * scatter;
}

struct sfi_guess sfi_guess(const struct sfi_search *s, const struct sfi_at *at) {
    const struct sf_plan *p = &s->plan;
    const struct sfi_price *price = at->price;
    const struct family family = family_of(p);
    double layers = s->scenario->model.layers, n = ceil(layers / p->pp),
           m = (double)p->microbatches * sf_plan_slices(p);
    double chunk = ceil(layers / p->pp / p->vpp) * p->vpp;
    double f = price->time[SFI_TIMED_F].layer, all = sfi_price_layer(price), back = all - f;
    double w = price->halves ? price->time[SFI_TIMED_W].layer : back / 2, b = fmax(back - w, 0);
    double bytes = state_bytes(s, at->layout, n, most_zero(s)) + family.kept * n * price->kept_layer + price->kept_last;
    double again = part_again(s, price, bytes, family.kept * n);
    bytes -= again * family.kept * n * (price->kept_layer - price->kept_layer_again);
    all += again * again_s(&s->scenario->model, price);
    double stage = fmax(n * all, (layers * all + sfi_price_first(price) + sfi_price_last(price)) / p->pp);
    double transfer = at->layout->p2p.fixed_s + at->layout->p2p.s_per_unit * price->p2p_bytes;
    struct sfi_guess g = {.least_bytes = least_bytes(s, at)};
    g.step_s = m * stage + chunk * (family.f * f + family.b * b + family.w * w) + tail_s(s, at->layout, n) +
               2 * (p->pp * p->vpp - 1.0) * transfer;
    g.bytes = bytes;
    g.step_s += bytes > 1.1 * sfi_device_bytes(s) ? 10 * g.step_s : 0;
    return g;
}
