/* Step time and memory of a plan: in closed form for gpipe, 1f1b and interleaved, else by replaying its table.
 *
 * Time: all microbatches pass the slowest stage of each chunk; the other stages add one microbatch of filling and
 * draining; transfers add what the schedule cannot hide; then gradients, optimizer and parameters of the stage that is
 * ready last. */
#include "planner/estimate.h"

#include <math.h>

#define TRANSFER_BUFFERS 6 /* two on the way out and one landing zone, per direction */

struct stage_load {
    double backward;    /* of one microbatch, all chunks */
    double most_layers; /* of one chunk */
    double layers, tables;
};

static struct stage_load load_of(const struct sfi_layout *l, const struct sfi_price *price, const struct sf_plan *plan,
                                 uint32_t stage) {
    struct stage_load load = {0};
    bool first = stage == 0, last = stage == plan->pp - 1;
    for (uint32_t chunk = 0; chunk < plan->vpp; chunk++) {
        double layers = plan->layers[chunk * plan->pp + stage];
        load.layers += layers;
        load.most_layers = fmax(load.most_layers, layers);
    }
    const struct sfi_pass_time *b = &price->time[SFI_TIMED_BW];
    load.backward = load.layers * b->layer + (first ? b->first : 0) + (last ? b->last : 0);
    load.tables = (first ? 1 : 0) + (last ? l->head_tables : 0);
    load.layers += last ? l->further : 0; /* whose time is the head's */
    return load;
}

/* Most chunk activations alive at once. */
static double in_flight(const struct sf_plan *plan, uint32_t stage) {
    double all = (double)plan->microbatches * plan->vpp;
    switch (plan->schedule) {
    case SF_SCHEDULE_1F1B:
        return fmin(plan->pp - stage, all);
    case SF_SCHEDULE_INTERLEAVED:
        return fmin(2.0 * (plan->pp - 1 - stage) + (plan->vpp - 1.0) * plan->pp + 1, all);
    default:
        return all;
    }
}

/* Weights whose optimizer state is this rank's. */
static double owned_weights(const struct sfi_layout *l, const struct sf_plan *plan, const struct stage_load *load) {
    double dense = load->layers * l->layer_dense + load->tables * l->table, expert = load->layers * l->layer_expert;
    return plan->zero >= 1 ? (dense + expert * l->experts) / l->group : dense + expert;
}

/* Where weights or gradients are shared, two units of them are whole besides: as good as layers. */
static double held_weights(const struct sfi_layout *l, double all, double owned, bool shared) {
    return shared ? owned + 2 * (l->layer_dense + l->layer_expert) : all;
}

/* Everything but activations. */
static double state_bytes(const struct sfi_base *base, const struct sfi_layout *l, const struct sfi_price *price,
                          const struct sf_plan *plan, const struct stage_load *load) {
    double weights = load->layers * (l->layer_dense + l->layer_expert) + load->tables * l->table;
    double copies = plan->canonical ? 2 + __builtin_ctz(plan->microbatches) : 1; /* of the gradients */
    double owned = owned_weights(l, plan, load);
    double held =
        held_weights(l, weights, owned, plan->zero >= 3) + copies * held_weights(l, weights, owned, plan->zero >= 2);
    return held * base->weight_bytes + owned * base->optimizer_bytes + price->work +
           TRANSFER_BUFFERS * price->p2p_bytes;
}

static double kept_bytes(const struct sfi_price *price, const struct sf_plan *plan, uint32_t stage,
                         const struct stage_load *load) {
    double alive = in_flight(plan, stage);
    double chunk = load->most_layers * price->kept_layer + price->kept_chunk; /* all chunks share equal slots */
    double head = stage == plan->pp - 1 ? fmin(alive, plan->microbatches) * price->kept_last : 0;
    return alive * chunk + head;
}

/* Ranges that are reduced, updated and gathered one by one: tables, matrices of each layer, norms, routers. */
static double dense_buckets(const struct sfi_layout *l, const struct sf_plan *plan, const struct stage_load *load) {
    return load->tables + load->layers + plan->vpp * (l->layer_expert > 0 ? 2.0 : 1.0);
}

static double expert_buckets(const struct sfi_layout *l, const struct stage_load *load) {
    return l->layer_expert > 0 ? load->layers : 0;
}

/* One reduction or gathering of everything a stage holds. */
static double sweep_s(const struct sfi_base *base, const struct sfi_layout *l, const struct sf_plan *plan,
                      const struct stage_load *load, const struct sfi_line *dense, const struct sfi_line *expert) {
    double dense_bytes = (load->layers * l->layer_dense + load->tables * l->table) * base->weight_bytes;
    double expert_bytes = load->layers * l->layer_expert * base->weight_bytes;
    return dense->fixed_s * dense_buckets(l, plan, load) + dense->s_per_unit * dense_bytes +
           expert->fixed_s * expert_buckets(l, load) + expert->s_per_unit * expert_bytes;
}

/* Gradients, optimizer and parameters of a stage. Some reductions run beside the last backwards, but on the ports that
 * the pipeline's transfers need: what they gain themselves they cost others, so nothing counts as hidden. */
static double tail_of(const struct sfi_base *base, const struct sfi_layout *l, const struct sf_plan *plan,
                      uint32_t stage, const struct stage_load *load) {
    const struct sfi_group_price *dense = &l->dense[stage], *expert = &l->expert[stage];
    double buckets = dense_buckets(l, plan, load) + expert_buckets(l, load), owned = owned_weights(l, plan, load);
    double update = base->adamw.fixed_s * buckets + base->adamw.s_per_unit * owned;
    update += l->across[stage].fixed_s * buckets + l->across[stage].s_per_unit * owned * base->weight_bytes;
    double sweep = sweep_s(base, l, plan, load, &dense->scatter, &expert->scatter);
    switch (plan->zero) {
    case 0:
        break;
    case 1:
        return update + 2 * sweep;
    default: /* gradients left while passes ran, and weights arrive then */
        return update + (plan->zero == 2 ? sweep : 0);
    }
    return update + sweep_s(base, l, plan, load, &dense->all_reduce, &expert->all_reduce);
}

/* Collectives that run beside passes: gradients after each microbatch, and weights before each of its passes. */
static double shared_traffic_s(const struct sfi_base *base, const struct sfi_layout *l, const struct sf_plan *plan,
                               uint32_t stage, const struct stage_load *load) {
    double sweeps = plan->zero >= 3 ? 3 : plan->zero == 2 ? 1 : 0;
    return sweeps * plan->microbatches *
           sweep_s(base, l, plan, load, &l->dense[stage].scatter, &l->expert[stage].scatter);
}

/* What transfers of c seconds add. A microbatch crosses every boundary twice, once exposed. After that 1F1B waits for
 * each round trip, because a stage has no spare microbatch in flight, while interleaving has slack of one chunk's
 * forward and backward per round trip. */
static double transfers_s(const struct sf_plan *plan, double c, double slowest) {
    double pp = plan->pp, vpp = plan->vpp, m = plan->microbatches;
    if (plan->pp == 1) {
        return 0;
    }
    switch (plan->schedule) {
    case SF_SCHEDULE_1F1B:
        return 2 * (pp - 1) * c + fmax(0, m - pp) * 2 * c * (pp - 1) / pp;
    case SF_SCHEDULE_INTERLEAVED:
        return 2 * (pp * vpp - 1) * c + m * vpp * fmax(0, c - slowest / vpp / 2);
    default:
        return 2 * (pp - 1) * c;
    }
}

/* Forward and backward of one microbatch in one chunk of one stage. */
static double chunk_s(const struct sfi_base *base, const struct sfi_price *price, const struct sf_plan *plan,
                      uint32_t chunk, uint32_t stage) {
    double s = plan->layers[chunk * plan->pp + stage] * sfi_price_layer(price) + 2 * base->dispatch_s;
    s += chunk == 0 && stage == 0 ? sfi_price_first(price) : 0;
    s += chunk == plan->vpp - 1 && stage == plan->pp - 1 ? sfi_price_last(price) : 0;
    return s;
}

/* Compute of the whole pipeline. The first and last pp microbatches pass chunk after chunk, each at the pace of its
 * slowest stage; between them chunks mix, and the slowest stage sets the pace. The chunk that takes longest to reach
 * the far end sets the time to fill and drain. */
static double compute_s(const struct sfi_base *base, const struct sfi_price *price, const struct sf_plan *plan,
                        double *slowest_stage) {
    double stage_sum[SF_MAX_STAGES], fill = 0, in_turns = 0, m = plan->microbatches;
    for (uint32_t chunk = 0; chunk < plan->vpp; chunk++) {
        double sum = 0, slowest = 0;
        for (uint32_t stage = 0; stage < plan->pp; stage++) {
            double s = chunk_s(base, price, plan, chunk, stage);
            stage_sum[stage] = s + (chunk == 0 ? 0 : stage_sum[stage]);
            sum += s;
            slowest = fmax(slowest, s);
        }
        in_turns += slowest;
        fill = fmax(fill, sum - slowest);
    }
    *slowest_stage = 0;
    for (uint32_t stage = 0; stage < plan->pp; stage++) {
        *slowest_stage = fmax(*slowest_stage, stage_sum[stage]);
    }
    double turns = fmin(m, plan->pp);
    return turns * in_turns + (m - turns) * *slowest_stage + fill;
}

/* Like load_of, wherever the table puts the stages. */
static struct stage_load load_in(const struct sfi_layout *l, const struct sfi_price *price, const struct sf_plan *plan,
                                 const struct sfi_replayed *r, uint32_t rank) {
    struct stage_load load = {0};
    uint32_t copy = plan->pp * plan->vpp, further = 0;
    uint32_t stages = plan->split_head ? copy : r->stages; /* parts of the head have no layers */
    for (uint32_t s = 0; s < stages; s++) {
        bool first = s % copy == 0, last = s % copy == copy - 1;
        if (r->stage_rank[s] == rank) {
            load.layers += plan->layers[s % copy];
            load.most_layers = fmax(load.most_layers, plan->layers[s % copy]);
            load.tables += (first ? 1 : 0) + (last && !plan->split_head ? l->head_tables : 0);
            further += last ? l->further : 0;
        }
    }
    load.tables += plan->split_head ? l->head_tables / plan->pp : 0;
    load.backward = load.layers * price->time[SFI_TIMED_BW].layer;
    load.layers += further;
    return load;
}

/* Collectives of a rank that wait for gradients follow each other: those of a stage and of all that are done later come
 * after its last gradient. */
static double least_behind(const struct sfi_layout *l, const struct sf_plan *plan, const struct sfi_replayed *r,
                           uint32_t rank, uint32_t stage) {
    uint32_t copy = plan->pp * plan->vpp, layers = 0;
    double each = plan->zero == 0 ? l->least_all_reduce : l->least_scatter + l->least_gather + l->least_across;
    for (uint32_t s = 0; s < (plan->split_head ? copy : r->stages); s++) {
        layers += r->stage_rank[s] == rank && r->done_s[s] >= r->done_s[stage] ? plan->layers[s % copy] : 0;
    }
    return r->done_s[stage] + layers * each;
}

static double least_step_s(const struct sfi_layout *l, const struct sf_plan *plan, const struct sfi_replayed *r) {
    double least = r->least_s;
    uint32_t stages = plan->split_head ? plan->pp * plan->vpp : r->stages;
    for (uint32_t s = 0; s < stages && plan->zero <= 1; s++) {
        least = fmax(least, least_behind(l, plan, r, r->stage_rank[s], s));
    }
    return least;
}

/* Of what a rank keeps, what does not wait on the host; at least the layers at hand and on their way. */
static double stays(const struct sfi_price *price, const struct sf_plan *plan, const struct stage_load *load,
                    double kept) {
    double chunks = plan->vpp, away = plan->offload > 0 ? fmin(plan->offload * chunks / load->layers, 1) : 0;
    return away > 0 ? fmax(kept * (1 - away), fmin(kept, 3 * price->kept_layer)) : kept;
}

static double bytes_of(const struct sfi_base *base, const struct sfi_layout *layout, const struct sfi_price *price,
                       const struct sf_plan *plan, const struct sfi_replayed *r, uint32_t rank,
                       const struct stage_load *load) {
    return state_bytes(base, layout, price, plan, load) + stays(price, plan, load, r->kept[rank]);
}

double sfi_estimate_bytes(const struct sfi_base *base, const struct sfi_layout *layout, const struct sfi_price *price,
                          const struct sf_plan *plan, const struct sfi_replayed *r, uint32_t rank) {
    const struct stage_load load = load_in(layout, price, plan, r, rank);
    return bytes_of(base, layout, price, plan, r, rank, &load);
}

struct sfi_estimate sfi_estimate_of(const struct sfi_base *base, const struct sfi_layout *layout,
                                    const struct sfi_price *price, const struct sf_plan *plan,
                                    const struct sfi_replayed *r) {
    struct sfi_estimate e = {.least_s = least_step_s(layout, plan, r)};
    double tail = 0, traffic = 0;
    for (uint32_t rank = 0; rank < plan->pp; rank++) {
        struct stage_load load = load_in(layout, price, plan, r, rank);
        tail = fmax(tail, tail_of(base, layout, plan, rank, &load));
        traffic = fmax(traffic, shared_traffic_s(base, layout, plan, rank, &load));
        e.memory_bytes = fmax(e.memory_bytes, bytes_of(base, layout, price, plan, r, rank, &load));
    }
    e.step_s = fmax(r->compute_s, traffic) + tail;
    return e;
}

static struct sfi_estimate estimate_by_replay(const struct sfi_base *base, const struct sfi_layout *layout,
                                              const struct sfi_price *price, const struct sf_plan *plan) {
    struct sfi_replayed r;
    if (!sfi_replay_plan(base, layout, price, plan, &r)) {
        return (struct sfi_estimate){.step_s = INFINITY, .memory_bytes = INFINITY};
    }
    return sfi_estimate_of(base, layout, price, plan, &r);
}

struct sfi_estimate sfi_estimate_plan(const struct sfi_base *base, const struct sfi_layout *layout,
                                      const struct sfi_price *price, const struct sf_plan *plan) {
    struct sfi_estimate e = {0};
    double tail = 0, traffic = 0, ends_early = 0, slowest;
    double c = layout->p2p.fixed_s + layout->p2p.s_per_unit * price->p2p_bytes;
    if (plan->schedule > SF_SCHEDULE_INTERLEAVED || plan->split_head || plan->partly || sf_plan_slices(plan) > 1) {
        return estimate_by_replay(base, layout, price, plan);
    }
    e.step_s = compute_s(base, price, plan, &slowest) + transfers_s(plan, c, slowest);
    for (uint32_t stage = 0; stage < plan->pp; stage++) {
        struct stage_load load = load_of(layout, price, plan, stage);
        tail = fmax(tail, tail_of(base, layout, plan, stage, &load) - ends_early);
        ends_early += load.backward / plan->vpp + c;
        traffic = fmax(traffic, shared_traffic_s(base, layout, plan, stage, &load));
        double bytes = state_bytes(base, layout, price, plan, &load) + kept_bytes(price, plan, stage, &load);
        e.memory_bytes = fmax(e.memory_bytes, bytes);
    }
    e.step_s = fmax(e.step_s, traffic) + tail;
    return e;
}
