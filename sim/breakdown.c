/* Where the time of one rank went. The compute stream's own ops count as what they are. A gap before an op is walked
 * backwards along what the rank waited for: a transfer or collective that ran, or a partner that was not there yet. */
#include "sim/engine.h"

struct walk {
    const struct sf_prog *prog;
    const struct sfi_variant *v;
    const struct sf_iclass *code;
    const struct sfi_times *times;
    sf_time_ps dispatch;
    bool replayed;
    struct sf_breakdown *out;
};

static sf_time_ps *kernels_place(struct sf_breakdown *b, int op_kind) {
    switch (op_kind) {
    case SF_OP_OPTIMIZER:
        return &b->optimizer;
    case SF_OP_ACCUMULATE:
        return &b->other;
    default:
        return &b->compute;
    }
}

/* A measured duration differs from the sum of its parts: they share it in proportion, the kernels take the rest. */
static sf_time_ps share(sf_time_ps part, const struct sfi_price *price, sf_time_ps busy) {
    if (busy == price->total || price->total == 0) {
        return part;
    }
    return (sf_time_ps)((__int128)part * busy / price->total);
}

/* Jitter and communication stretch kernels and leave collectives and the host's delays alone. */
static sf_time_ps other_share(const struct walk *w, sf_time_ps part, const struct sfi_price *price, sf_time_ps busy) {
    return w->replayed ? share(part, price, busy) : part;
}

static void add_kernels(struct walk *w, uint32_t op) {
    const struct sfi_price *price = w->v->price[op];
    struct sfi_price kernels = *price;
    sf_time_ps busy = w->times[op].end - w->times[op].start;
    sf_time_ps tp = other_share(w, price->part[SFI_PART_TP], price, busy);
    sf_time_ps ep = other_share(w, price->part[SFI_PART_EP], price, busy);
    sf_time_ps host = other_share(w, price->part[SFI_PART_HOST], price, busy);
    kernels.total = price->part[SFI_PART_COMPUTE] + price->part[SFI_PART_RECOMPUTE];
    sf_time_ps recompute = w->replayed ? share(price->part[SFI_PART_RECOMPUTE], price, busy)
                                       : share(price->part[SFI_PART_RECOMPUTE], &kernels, busy - tp - ep - host);
    w->out->other += host;
    w->out->recompute += recompute;
    w->out->tp_comm += tp;
    w->out->ep_comm += ep;
    *kernels_place(w->out, w->code->cls->ops[op].kind) += busy - recompute - tp - ep - host;
}

/* Outputs and their gradients, of which parts of a split head have one collective each where layers have transfers. */
static bool between_stages(const struct walk *w, uint32_t op) {
    const struct sf_class *c = w->code->cls;
    const struct sf_op *o = &c->ops[op];
    uint32_t holds = o->arg_n > 0 ? c->bufs[c->args[o->arg_first].buf].kind : SF_BUF_GRAD;
    return (w->prog->comms[o->comm].axes & w->prog->class_axes) != 0 &&
           (holds == SF_BUF_ACTIVATION || holds == SF_BUF_COMM);
}

/* What running an op counts as when it is not a kernel of the compute stream. */
static sf_time_ps *side_place(const struct walk *w, uint32_t op) {
    switch (sf_op_group(w->code->cls->ops[op].kind)) {
    case SF_OP_IS_P2P:
        return &w->out->p2p;
    case SF_OP_IS_COLL:
        return between_stages(w, op) ? &w->out->p2p : &w->out->dp_comm;
    case SF_OP_IS_DATA:
        return w->code->cls->ops[op].kind == SF_OP_LOAD ? &w->out->other : &w->out->offload;
    default:
        return &w->out->other;
    }
}

/* The op whose end let `op` be issued; SF_NONE when it could start at once. */
static uint32_t waited_for(const struct walk *w, uint32_t op) {
    const struct sf_iclass *code = w->code;
    for (uint32_t n = code->need_first[op]; n < code->need_first[op + 1]; n++) {
        uint32_t before = code->stream_ops[code->needs[n].stream][code->needs[n].count - 1];
        if (w->times[before].end == w->times[op].issue) {
            return before;
        }
    }
    uint32_t at = code->position[op];
    return at > 0 ? code->stream_ops[code->cls->ops[op].stream][at - 1] : SF_NONE;
}

/* How much of [from, *end) lies behind `gap`; *end moves back to where that part begins. */
static sf_time_ps cut(sf_time_ps from, sf_time_ps gap, sf_time_ps *end) {
    from = from > gap ? from : gap;
    sf_time_ps length = *end > from ? *end - from : 0;
    *end -= length;
    return length;
}

/* Explain [gap, end) by an op that ended at `end`, whatever of it reaches into the gap: running, dispatch, waiting for
 * others. Returns what remains before its issue. */
static sf_time_ps explain(struct walk *w, uint32_t op, sf_time_ps gap, sf_time_ps end) {
    const struct sfi_times *t = &w->times[op];
    *side_place(w, op) += cut(t->start, gap, &end);
    sf_time_ps ready = t->start - w->dispatch;
    w->out->other += cut(ready > t->issue ? ready : t->issue, gap, &end);
    w->out->bubble += cut(t->issue, gap, &end);
    return end;
}

/* Explain the gap [gap, end) that closed when `op` ended. */
static void explain_gap(struct walk *w, uint32_t op, sf_time_ps gap, sf_time_ps end) {
    while (end > gap && op != SF_NONE) {
        end = explain(w, op, gap, end);
        op = waited_for(w, op);
    }
    w->out->bubble += end - gap;
}

static uint32_t last_to_end(const struct walk *w) {
    uint32_t last = 0;
    for (uint32_t i = 1; i < w->code->ops_n; i++) {
        last = w->times[i].end > w->times[last].end ? i : last;
    }
    return last;
}

void sfi_breakdown(const struct sfi_run *run, uint32_t instance, const struct sfi_times *times,
                   struct sf_breakdown *out) {
    const struct sfi_variant *v = &run->variants->v[run->table->inst[instance].variant];
    struct walk w = {.prog = run->prog,
                     .v = v,
                     .code = v->cls->code,
                     .times = times,
                     .dispatch = run->dispatch,
                     .replayed = run->replayed,
                     .out = out};
    uint32_t stream = v->cls->compute_stream, n = stream == SF_NONE ? 0 : w.code->stream_n[stream];
    sf_time_ps cursor = 0;
    *out = (struct sf_breakdown){0};
    if (w.code->ops_n == 0) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t op = w.code->stream_ops[stream][i];
        explain_gap(&w, waited_for(&w, op), cursor, times[op].issue);
        if (v->price[op]) {
            out->other += times[op].start - times[op].issue;
            add_kernels(&w, op);
        } else {
            explain(&w, op, times[op].issue, times[op].end);
        }
        cursor = times[op].end;
    }
    uint32_t last = last_to_end(&w);
    explain_gap(&w, last, cursor, times[last].end);
}
