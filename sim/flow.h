/* Things that take time and change speed while they do: transfers, a member's part of a collective, kernels.
 *
 * All of them are one record: work left, a rate, and the moment for which both hold. Work is rate times time in whole
 * numbers - picobytes of a flow, 2^-20 ps of a kernel - so that no order in which rates change can change a sum.
 *
 * A flow that fits on its ports runs at its cap and concerns nobody else. Only where the caps of a port's flows add up
 * to more than it carries do they share it: then the flows that saturated ports join, directly or through others, get
 * their max-min fair rates anew (sim/fair.h) whenever one of them starts or ends.
 *
 * One event per record is alive. What got slower is found late when its event happens, and put off; what got faster
 * gets an earlier event, and the old one is known by its time and ignored. */
#ifndef SF_SIM_FLOW_H
#define SF_SIM_FLOW_H

#include "sim/crew.h"

#define SFI_FULL (UINT64_C(1) << 20) /* rate of a kernel that nothing disturbs */
#define SFI_ONE (UINT32_C(1) << 16)  /* a whole, of shares */

/* ---- events ---- */

/* An event's key. Its value orders the events of one moment, which matters to nobody: completions first, then starts by
 * the order of (class, op). */
enum sfi_what { SFI_LOCAL_ENDS, SFI_TRANSFER_ENDS, SFI_PART_ENDS, SFI_COLLECTIVE_ENDS };
enum { SFI_STREAM_BITS = 3, SFI_MEMBER_BITS = 27, SFI_WHAT_BITS = 2, SFI_OP_BITS = 20, SFI_CLASS_BITS = 12 };
#define SFI_START (UINT64_C(1) << 63)
_Static_assert(SF_MAX_CLASSES <= 1 << SFI_CLASS_BITS && SF_MAX_CLASS_OPS <= 1 << SFI_OP_BITS, "keys have room");
_Static_assert(SF_MAX_RANKS <= 1 << (SFI_MEMBER_BITS - SFI_STREAM_BITS), "for instances");
_Static_assert(SF_MAX_STREAMS <= 1 << SFI_STREAM_BITS, "and streams");

static inline uint64_t sfi_key(uint64_t start, enum sfi_what what, uint32_t order, uint32_t instance, uint32_t stream) {
    return start | (uint64_t)order << (SFI_MEMBER_BITS + SFI_WHAT_BITS) | (uint64_t)what << SFI_MEMBER_BITS |
           (uint64_t)instance << SFI_STREAM_BITS | stream;
}

static inline enum sfi_what sfi_key_what(uint64_t key) {
    return (enum sfi_what)(key >> SFI_MEMBER_BITS & ((1u << SFI_WHAT_BITS) - 1));
}

static inline uint32_t sfi_key_op(uint64_t key) {
    return (uint32_t)(key >> (SFI_MEMBER_BITS + SFI_WHAT_BITS)) & ((1u << SFI_OP_BITS) - 1);
}

static inline uint32_t sfi_key_instance(uint64_t key) {
    return ((uint32_t)key & ((1u << SFI_MEMBER_BITS) - 1)) >> SFI_STREAM_BITS;
}

static inline uint32_t sfi_key_stream(uint64_t key) {
    return (uint32_t)key & ((1u << SFI_STREAM_BITS) - 1);
}

static inline struct sfi_act *sfi_act_of_key(const struct sfi_worker *w, uint64_t key) {
    return sfi_act_at(w, sfi_key_instance(key), sfi_key_stream(key));
}

static inline uint32_t sfi_order_of(const struct sfi_variant *v, uint32_t op) {
    return v->class_i << SFI_OP_BITS | op;
}

/* What an op adds to the digest of its instance. */
static inline uint64_t sfi_digest_of(uint32_t order, sf_time_ps start, sf_time_ps end) {
    return sf_mix64(sf_mix64(order, (uint64_t)start), (uint64_t)end);
}

/* A cell's queue is full: drop the events that count no more. */
void sfi_queue_sweep(struct sfi_worker *w);

/* The event of `a` that counts from now on. */
static inline void sfi_queue_act(struct sfi_worker *w, struct sfi_act *a, sf_time_ps time, uint64_t key) {
    struct sfi_queue *q = &w->cell->queue;
    if (q->n == q->size) {
        sfi_queue_sweep(w);
    }
    a->queued = time < SFI_TIME_MAX ? time : SFI_TIME_MAX;
    a->key = key;
    sfi_queue_add(q, a->queued, key);
}

/* ---- work ---- */

static inline void sfi_act_begin(struct sfi_act *a, uint32_t load, uint64_t cap, sf_time_ps from, sf_time_ps time) {
    a->load = load;
    a->rate = cap;
    a->since = from;
    a->left = (unsigned __int128)cap * (uint64_t)time;
}

/* What has been done until `now` is no longer left. */
static inline void sfi_act_settle(struct sfi_act *a, sf_time_ps now) {
    if (now > a->since) {
        unsigned __int128 done = (unsigned __int128)a->rate * (uint64_t)(now - a->since);
        a->left = done < a->left ? a->left - done : 0;
        a->since = now;
    }
}

/* When it ends if nothing changes. */
sf_time_ps sfi_act_end(const struct sfi_act *a);
/* From now on at this rate. */
void sfi_act_press(struct sfi_worker *w, struct sfi_act *a, uint64_t rate);

/* ---- kernels ---- */

/* Rate of a kernel on a device of whose cores and memory communication takes these shares, s and h:
 *   SFI_FULL * (1 - cores' * s - memory' * h)
 * with the shares of its time that cores and memory bound: at any moment one of them bounds the call that runs, and
 * that one runs at what is left. Communication never gets more than 15/16 of either. */
static inline uint64_t sfi_kernel_rate(const struct sfi_load *kernel, uint32_t cores, uint32_t memory) {
    const uint32_t most = SFI_ONE - SFI_ONE / 16;
    uint64_t s = cores < most ? cores : most, h = memory < most ? memory : most;
    return (SFI_FULL * SFI_ONE - (kernel->cores * s + kernel->memory * h) * 16) / SFI_ONE;
}
/* Communication on an instance takes other shares than before. */
void sfi_kernels_press(struct sfi_worker *w, uint32_t instance);

/* ---- copies between a device and its host ---- */

/* A lane moves one copy at a time at its full rate, several at equal shares of it; what one moves the memory reads or
 * writes, like what communication moves. */
void sfi_copy_begin(struct sfi_worker *w, uint32_t instance, const struct sfi_vop *op, uint64_t key);
void sfi_copy_end(struct sfi_worker *w, uint32_t instance, const struct sfi_vop *op);

/* ---- flows ---- */

struct sfi_flow { /* who moves what: the sender's op; a member's part of a collective moves from `src` to `src` */
    uint32_t src, dst;
    struct sfi_vop op;
    struct sfi_act *act;
};

struct sfi_flow sfi_flow_of(const struct sfi_worker *w, uint32_t instance, const struct sfi_vop *op);
/* What takes `time` at the flow's cap begins to move; ends what the event that `key` names says. */
void sfi_flow_begin(struct sfi_worker *w, const struct sfi_flow *flow, sf_time_ps time, uint64_t key);
/* All have moved. `holds`: the cores stay taken until sfi_flow_release. */
void sfi_flow_end(struct sfi_worker *w, const struct sfi_flow *flow, bool holds);
void sfi_flow_release(struct sfi_worker *w, const struct sfi_flow *flow);

/* Of the memory's rate, when a flow moves at `rate`. */
static inline uint32_t sfi_memory_share(const struct sfi_load *l, uint32_t share, uint64_t rate) {
    return rate == l->cap ? share : (uint32_t)((unsigned __int128)share * rate / l->cap);
}

/* Give all who depend on the ports and links that this flow passes, or did until now, their rates. */
void sfi_share(struct sfi_worker *w, const struct sfi_flow *flow);
/* Scratch for cells as large as the table's largest; NULL without memory. */
struct sfi_sharing *sfi_sharing_create(const struct sfi_table *t, struct sf_arena *arena);

/* ---- auditing ---- */

/* `other`: of another worker, with whom what is known of cells is shared; NULL for the first. */
struct sfi_audit *sfi_audit_create(struct sfi_table *t, const struct sfi_audit *other, struct sf_arena *arena);
void sfi_audit_event(struct sfi_worker *w, sf_time_ps time);                /* time does not run backwards in a cell */
void sfi_audit_issue(struct sfi_worker *w, uint32_t instance, uint32_t op); /* what it depends on has ended */
void sfi_audit_begin(struct sfi_worker *w, const struct sfi_act *a);
void sfi_audit_rate(struct sfi_worker *w, const struct sfi_act *a);          /* called before the rate changes */
void sfi_audit_end(struct sfi_worker *w, const struct sfi_act *a);           /* what moved is what had to */
void sfi_audit_port(struct sfi_worker *w, uint32_t instance, uint32_t tier); /* no more than it carries */
void sfi_audit_link(struct sfi_worker *w, uint32_t link);
void sfi_audit_lanes(struct sfi_worker *w, uint32_t instance);        /* nor do copy engines */
void sfi_audit_rest(const struct sfi_run *run, struct sfi_worker *w); /* nothing is in flight any more */
void sfi_audit_count(const struct sfi_audit *a, struct sfi_audit_count *sum);

#endif
