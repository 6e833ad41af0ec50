/* Reading one instance's step back from a finished run. Ends are on record, and the starts of collectives; an op was
 * issued when the last thing it waited for ended, and a transfer starts when both of its sides have been issued. */
#include "sim/engine.h"

sf_time_ps sfi_issue_time(const struct sf_iclass *code, struct sfi_ends ends, uint32_t op) {
    uint32_t stream = code->cls->ops[op].stream, at = code->position[op];
    sf_time_ps t = at > 0 ? sfi_end_of(ends, code->stream_ops[stream][at - 1]) : 0;
    for (uint32_t n = code->need_first[op]; n < code->need_first[op + 1]; n++) {
        const struct sf_need *need = &code->needs[n];
        sf_time_ps end = sfi_end_of(ends, code->stream_ops[need->stream][need->count - 1]);
        t = end > t ? end : t;
    }
    return t;
}

sf_time_ps sfi_last_end(const struct sf_iclass *code, struct sfi_ends ends) {
    sf_time_ps t = 0;
    for (uint32_t s = 0; s < code->streams_n; s++) {
        sf_time_ps end = code->stream_n[s] > 0 ? sfi_end_of(ends, code->stream_ops[s][code->stream_n[s] - 1]) : 0;
        t = end > t ? end : t;
    }
    return t;
}

static sf_time_ps start_of(const struct sfi_run *run, uint32_t instance, const struct sfi_vop *f, sf_time_ps issue) {
    const struct sfi_table *t = run->table;
    const struct sfi_inst *in = &t->inst[instance];
    if (f->kind == SFI_COLL) {
        return *sfi_end_at(t, in, run->variants->v[in->variant].cls->code->ops_n + f->partner);
    }
    if (f->kind == SFI_SEND || f->kind == SFI_RECV) {
        uint32_t peer = sfi_peer_of(t->inst, t->ways, instance, f->way);
        const struct sf_iclass *code = run->variants->v[t->inst[peer].variant].cls->code;
        sf_time_ps other = sfi_issue_time(code, sfi_ends(run, peer), f->partner);
        issue = other > issue ? other : issue;
    }
    return issue + run->dispatch;
}

sf_time_ps sfi_start_time(const struct sfi_run *run, uint32_t instance, uint32_t op) {
    const struct sfi_variant *v = &run->variants->v[run->table->inst[instance].variant];
    return start_of(run, instance, &v->ops[op], sfi_issue_time(v->cls->code, sfi_ends(run, instance), op));
}

void sfi_timeline(const struct sfi_run *run, uint32_t instance, struct sfi_times *out) {
    const struct sfi_variant *v = &run->variants->v[run->table->inst[instance].variant];
    struct sfi_ends ends = sfi_ends(run, instance);
    for (uint32_t i = 0; i < v->cls->code->ops_n; i++) {
        struct sfi_times *t = &out[i];
        t->issue = sfi_issue_time(v->cls->code, ends, i);
        t->start = start_of(run, instance, &v->ops[i], t->issue);
        t->end = sfi_end_of(ends, i);
    }
}
