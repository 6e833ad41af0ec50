/* Flows and kernels, one at a time: beginning, changing speed, ending. */
#include "sim/flow.h"

/* ---- work ---- */

sf_time_ps sfi_act_end(const struct sfi_act *a) {
    uint64_t time;
    if (a->left >> 64 == 0) {
        uint64_t left = (uint64_t)a->left;
        time = left / a->rate + (left % a->rate != 0);
    } else {
        unsigned __int128 wide = (a->left + a->rate - 1) / a->rate;
        time = wide < (uint64_t)SFI_TIME_MAX ? (uint64_t)wide : (uint64_t)SFI_TIME_MAX;
    }
    return sfi_time_add(a->since, time < (uint64_t)SFI_TIME_MAX ? (sf_time_ps)time : SFI_TIME_MAX);
}

/* Its event can only be put off when it happens, so one that comes too late needs another. */
void sfi_act_press(struct sfi_worker *w, struct sfi_act *a, uint64_t rate) {
    if (w->audit) {
        sfi_audit_rate(w, a);
    }
    sfi_act_settle(a, w->now);
    bool faster = rate > a->rate;
    a->rate = rate;
    if (faster && a->queued > a->since && a->left <= (unsigned __int128)rate * (uint64_t)(a->queued - a->since - 1)) {
        sfi_queue_act(w, a, sfi_act_end(a), a->key);
    }
}

/* ---- events ---- */

static bool counts(const struct sfi_worker *w, struct sfi_event e) {
    const struct sfi_act *a = sfi_act_of_key(w, e.key);
    return a->queued == e.time && a->key == e.key;
}

/* At most one event counts per stream, and there is room for twice as many. Adding what is left in order keeps every
 * form of the queue what it is. */
void sfi_queue_sweep(struct sfi_worker *w) {
    struct sfi_queue *q = &w->cell->queue;
    uint32_t n = sfi_queue_empty(q);
    for (uint32_t i = 0; i < n; i++) {
        struct sfi_event e = q->event[i];
        if (counts(w, e)) {
            sfi_queue_add(q, e.time, e.key);
        }
    }
}

/* ---- kernels ---- */

void sfi_kernels_press(struct sfi_worker *w, uint32_t instance) {
    const struct sfi_inst *in = &w->inst[instance];
    for (uint32_t left = in->kernels; left; left &= left - 1) {
        struct sfi_act *a = sfi_act_at(w, instance, (uint32_t)__builtin_ctz(left));
        uint64_t rate = sfi_kernel_rate(&w->loads[a->load], in->cores, in->memory);
        if (rate != a->rate) {
            sfi_act_press(w, a, rate);
        }
    }
}

/* ---- copies ---- */

/* At most one for each lane that this one may take, of those that share it evenly. */
static uint64_t copy_rate(const struct sfi_worker *w, uint32_t instance, const struct sfi_load *l) {
    uint32_t rivals = 0;
    for (uint32_t left = w->inst[instance].copies; left; left &= left - 1) {
        const struct sfi_act *a = sfi_act_at(w, instance, (uint32_t)__builtin_ctz(left));
        rivals += (w->loads[a->load].lanes & l->lanes) != 0;
    }
    return rivals > 1 ? l->cap / rivals : l->cap;
}

static void share_lanes(struct sfi_worker *w, uint32_t instance) {
    struct sfi_inst *in = &w->inst[instance];
    for (uint32_t left = in->copies; left; left &= left - 1) {
        struct sfi_act *a = sfi_act_at(w, instance, (uint32_t)__builtin_ctz(left));
        const struct sfi_load *l = &w->loads[a->load];
        uint64_t rate = copy_rate(w, instance, l);
        if (rate != a->rate) {
            in->memory += sfi_memory_share(l, l->memory, rate) - sfi_memory_share(l, l->memory, a->rate);
            sfi_act_press(w, a, rate);
        }
    }
    if (in->kernels) {
        sfi_kernels_press(w, instance);
    }
    if (w->audit) {
        sfi_audit_lanes(w, instance);
    }
}

void sfi_copy_begin(struct sfi_worker *w, uint32_t instance, const struct sfi_vop *op, uint64_t key) {
    struct sfi_inst *in = &w->inst[instance];
    struct sfi_act *a = sfi_act_at(w, instance, op->stream);
    const struct sfi_load *l = &w->loads[op->load];
    sfi_act_begin(a, op->load, l->cap, w->now, op->time);
    sfi_queue_act(w, a, w->now + op->time, key);
    if (w->audit) {
        sfi_audit_begin(w, a);
    }
    in->copies |= (uint8_t)(1u << op->stream);
    in->memory += l->memory;
    share_lanes(w, instance);
}

void sfi_copy_end(struct sfi_worker *w, uint32_t instance, const struct sfi_vop *op) {
    struct sfi_inst *in = &w->inst[instance];
    const struct sfi_act *a = sfi_act_at(w, instance, op->stream);
    const struct sfi_load *l = &w->loads[op->load];
    in->copies &= (uint8_t) ~(1u << op->stream);
    in->memory -= sfi_memory_share(l, l->memory, a->rate);
    share_lanes(w, instance);
}

/* ---- flows ---- */

struct sfi_flow sfi_flow_of(const struct sfi_worker *w, uint32_t instance, const struct sfi_vop *op) {
    uint32_t dst = op->kind == SFI_COLL ? instance : sfi_peer_of(w->inst, w->ways, instance, op->way);
    return (struct sfi_flow){instance, dst, *op, sfi_act_at(w, instance, op->stream)};
}

/* Shares taken at both ends, or given back. */
static void take(struct sfi_worker *w, const struct sfi_flow *flow, uint32_t cores, uint32_t near, uint32_t far) {
    struct sfi_inst *from = &w->inst[flow->src], *to = &w->inst[flow->dst];
    from->cores += cores;
    from->memory += near;
    if (flow->op.kind != SFI_COLL) {
        to->cores += cores;
        to->memory += far;
        if (to->kernels && to != from) {
            sfi_kernels_press(w, flow->dst);
        }
    }
    if (from->kernels) {
        sfi_kernels_press(w, flow->src);
    }
}

static bool saturated(const struct sfi_worker *w, const struct sfi_flow *flow) {
    const struct sfi_inst *from = &w->inst[flow->src], *to = &w->inst[flow->dst];
    const struct sfi_fabric_links *l = w->table->fabric;
    uint32_t tier = flow->op.port;
    bool full = from->demand[tier][0] > sfi_variant_of(w, from)->capacity[tier] ||
                to->demand[tier][1] > sfi_variant_of(w, to)->capacity[tier];
    if (l) {
        uint32_t way = from->ways + flow->op.way;
        for (uint32_t k = l->list_first[way]; k < l->list_first[way + 1]; k++) {
            full |= l->demand[l->list[k]] > l->capacity[l->list[k]];
        }
    }
    return full;
}

/* `cap` may be the complement of what it takes back. */
static void demand(struct sfi_worker *w, const struct sfi_flow *flow, uint64_t cap) {
    struct sfi_inst *from = &w->inst[flow->src], *to = &w->inst[flow->dst];
    const struct sfi_fabric_links *l = w->table->fabric;
    from->demand[flow->op.port][0] += cap;
    to->demand[flow->op.port][1] += cap;
    if (l) {
        uint32_t way = from->ways + flow->op.way;
        for (uint32_t k = l->list_first[way]; k < l->list_first[way + 1]; k++) {
            l->demand[l->list[k]] += cap;
        }
    }
}

static uint32_t far_stream(const struct sfi_vop *op) {
    return op->kind == SFI_COLL ? op->stream : op->partner_stream;
}

void sfi_flow_begin(struct sfi_worker *w, const struct sfi_flow *flow, sf_time_ps time, uint64_t key) {
    const struct sfi_vop *op = &flow->op;
    const struct sfi_load *l = &w->loads[op->load];
    sfi_act_begin(flow->act, op->load, l->cap, w->now, time);
    sfi_queue_act(w, flow->act, w->now + time, key);
    if (w->audit) {
        sfi_audit_begin(w, flow->act);
    }
    if (op->port == SFI_PORT_NONE) {
        return;
    }
    struct sfi_inst *from = &w->inst[flow->src], *to = &w->inst[flow->dst];
    demand(w, flow, l->cap);
    from->moving |= (uint8_t)(1u << op->stream);
    to->moving |= (uint8_t)(1u << far_stream(op));
    if (l->cores | l->memory | l->memory_far) {
        take(w, flow, l->cores, l->memory, l->memory_far);
    }
    if (saturated(w, flow)) {
        sfi_share(w, flow);
    }
    if (w->audit) {
        sfi_audit_port(w, flow->src, op->port);
        sfi_audit_port(w, flow->dst, op->port);
    }
}

void sfi_flow_end(struct sfi_worker *w, const struct sfi_flow *flow, bool holds) {
    const struct sfi_vop *op = &flow->op;
    const struct sfi_load *l = &w->loads[op->load];
    if (w->audit) {
        sfi_audit_end(w, flow->act);
    }
    if (op->port == SFI_PORT_NONE) {
        return;
    }
    bool shared = saturated(w, flow);
    struct sfi_inst *from = &w->inst[flow->src], *to = &w->inst[flow->dst];
    uint64_t rate = flow->act->rate;
    demand(w, flow, -l->cap);
    from->moving &= (uint8_t) ~(1u << op->stream);
    to->moving &= (uint8_t) ~(1u << far_stream(op));
    if (l->cores | l->memory | l->memory_far) {
        take(w, flow, holds ? 0 : -l->cores, -sfi_memory_share(l, l->memory, rate),
             -sfi_memory_share(l, l->memory_far, rate));
    }
    if (shared) {
        sfi_share(w, flow);
    }
}

void sfi_flow_release(struct sfi_worker *w, const struct sfi_flow *flow) {
    const struct sfi_load *l = &w->loads[flow->op.load];
    if (l->cores) {
        take(w, flow, -l->cores, 0, 0);
    }
}
