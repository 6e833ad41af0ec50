/* Cutting the layers of a pipeline whose stages recompute as few of them as fit: early stages hold more microbatches,
 * so they recompute more, take longer, and get fewer layers. Exact for stages of up to twice the mean length: first the
 * least time of the slowest stage, then among its cuts the one of the least sum of squares. */
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "planner/search_internal.h"

struct sums { /* over the layers before each */
    double *time, *more, *bytes, *kept, *saved;
};

struct problem {
    const struct sf_plan *plan;
    uint32_t layers, stages, longest;
    struct sums sum;
    const double *alive, *limit; /* [stages] */
};

/* Layers from the first of the stage on that save so many bytes; more than there are: all are too few. */
static uint32_t layers_for(const struct problem *p, uint32_t first, uint32_t end, double bytes) {
    uint32_t low = first, high = end + 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        bool enough = p->sum.saved[middle] - p->sum.saved[first] >= bytes;
        low = enough ? low : middle + 1;
        high = enough ? middle : high;
    }
    return low - first;
}

/* That a stage without recomputation has too many of. */
static double over_bytes(const struct problem *p, uint32_t v, uint32_t first, uint32_t end) {
    double held = p->sum.kept[end] - p->sum.kept[first], bytes = p->sum.bytes[end] - p->sum.bytes[first];
    return bytes + p->alive[v] * held - p->limit[v];
}

static double stage_s(const struct problem *p, uint32_t v, uint32_t first, uint32_t end) {
    double over = over_bytes(p, v, first, end), s = p->sum.time[end] - p->sum.time[first];
    if (!(over > 0)) {
        return s;
    }
    uint32_t again = layers_for(p, first, end, over / p->alive[v]);
    return first + again > end ? INFINITY : s + p->sum.more[first + again] - p->sum.more[first];
}

struct best { /* of the stages up to one that end before a layer */
    double value;
    uint32_t first;
};

/* Rows of `best` by stage, layers + 1 places each. `most` INFINITY: the value is the slowest stage, else a sum of
 * squares. */
static void fill_row(const struct problem *p, uint32_t v, double most, struct best *best) {
    struct best *row = best + (size_t)v * (p->layers + 1);
    const struct best *before = v > 0 ? row - (p->layers + 1) : NULL;
    bool slowest = isinf(most);
    for (uint32_t end = 0; end <= p->layers; end++) {
        row[end] = (struct best){INFINITY, 0};
        uint32_t from = end > p->longest ? end - p->longest : 0;
        for (uint32_t first = from; first < end; first++) {
            double so_far = before != NULL ? before[first].value : first == 0 ? 0 : INFINITY;
            if (!(so_far < row[end].value)) {
                continue;
            }
            double s = stage_s(p, v, first, end);
            double value = slowest ? fmax(so_far, s) : s <= most ? so_far + s * s : INFINITY;
            row[end] = value < row[end].value ? (struct best){value, first} : row[end];
        }
    }
}

static double solve(const struct problem *p, double most, struct best *best) {
    for (uint32_t v = 0; v < p->stages; v++) {
        fill_row(p, v, most, best);
    }
    return best[(size_t)p->stages * (p->layers + 1) - 1].value;
}

static bool cut(const struct problem *p, struct best *best, struct sf_plan *plan) {
    double slowest = solve(p, INFINITY, best);
    if (isinf(slowest) || isinf(solve(p, slowest * (1 + 1e-9), best))) {
        return false;
    }
    for (uint32_t v = p->stages, end = p->layers; v-- > 0;) {
        uint32_t first = best[(size_t)v * (p->layers + 1) + end].first;
        plan->layers[v] = end - first;
        end = first;
    }
    return true;
}

static void fill_sums(const struct sfi_search *s, const struct sfi_at *at, struct problem *p) {
    const struct sfi_price *price = at->price;
    const struct sfi_pass_time *f = &price->time[SFI_TIMED_F], *b = &price->time[SFI_TIMED_BW];
    const struct sums *sum = &p->sum;
    for (uint32_t i = 0; i < p->layers; i++) {
        bool routed = sf_model_routes(&s->scenario->model, i), first = i == 0, last = i + 1 == p->layers;
        bool head = last && !p->plan->split_head;
        double ends = (first ? sfi_price_first(price) : 0) + (head ? sfi_price_last(price) : 0);
        sum->time[i + 1] = sum->time[i] + f->of[routed] + b->of[routed] + ends;
        sum->more[i + 1] = sum->more[i] + f->again[routed] + b->again[routed] - f->of[routed] - b->of[routed];
        sum->bytes[i + 1] = sum->bytes[i] + sfi_layer_state_bytes(s, at->layout, p->plan, first, head);
        sum->kept[i + 1] = sum->kept[i] + price->kept_of[routed] + (head ? price->kept_last : 0);
        sum->saved[i + 1] = sum->saved[i] + price->kept_of[routed] - price->kept_again[routed];
    }
}

static void fill_limits(const struct sfi_search *s, const struct sfi_price *price, const struct sf_plan *plan,
                        uint32_t stages, double *alive, double *limit) {
    double room = sfi_device_bytes(s) - price->work - 6 * price->p2p_bytes;
    for (uint32_t v = 0; v < stages; v++) {
        alive[v] = sfi_cut_in_flight(plan, v);
        limit[v] = room / plan->vpp - alive[v] * price->kept_chunk;
    }
}

/* NULL: no memory; else to be freed. */
static double *describe(const struct sfi_search *s, const struct sfi_at *at, const struct sf_plan *plan,
                        struct problem *p) {
    uint32_t n = s->scenario->model.layers, stages = plan->pp * plan->vpp;
    double *block = sf_calloc(5 * ((size_t)n + 1) + 2 * (size_t)stages, sizeof *block);
    *p = (struct problem){.plan = plan, .layers = n, .stages = stages, .longest = 2 * ((n - 1) / stages + 1)};
    if (block == NULL) {
        return NULL;
    }
    double *at_sum = block, *const alive = block + 5 * ((size_t)n + 1), *const limit = alive + stages;
    double **const sums[] = {&p->sum.time, &p->sum.more, &p->sum.bytes, &p->sum.kept, &p->sum.saved};
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++, at_sum += n + 1) {
        *sums[i] = at_sum;
    }
    p->alive = alive;
    p->limit = limit;
    fill_sums(s, at, p);
    fill_limits(s, at->price, plan, stages, alive, limit);
    return block;
}

bool sfi_cut_again(const struct sfi_search *s, const struct sfi_at *at, struct sf_plan *plan) {
    struct problem p;
    double *block = describe(s, at, plan, &p);
    struct best *best = sf_calloc((size_t)p.stages * (p.layers + 1), sizeof *best);
    bool found = block != NULL && best != NULL && cut(&p, best, plan);
    sf_free(best);
    sf_free(block);
    return found;
}

void sfi_again_likely(const struct sfi_search *s, const struct sfi_at *at, struct sf_plan *plan) {
    struct problem p;
    double *block = describe(s, at, plan, &p);
    for (uint32_t v = 0, first = 0; block != NULL && v < p.stages; first += plan->layers[v++]) {
        uint32_t end = first + plan->layers[v];
        double over = over_bytes(&p, v, first, end);
        uint32_t again = over > 0 ? layers_for(&p, first, end, over / p.alive[v]) : 0;
        plan->recompute_layers[v] = again < plan->layers[v] ? again : plan->layers[v];
    }
    sf_free(block);
}
