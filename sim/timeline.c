/* Reading one instance's step back from a finished run. Only communication left a start time; an op was issued when the
 * last thing it waited for ended, and everything else follows from its duration. */
#include "sim/engine.h"

static sf_time_ps turn_of(const struct sf_iclass *code, uint32_t op, const struct sfi_times *times) {
    uint32_t stream = code->cls->ops[op].stream, at = code->position[op];
    sf_time_ps t = at > 0 ? times[code->stream_ops[stream][at - 1]].end : 0;
    for (uint32_t n = code->need_first[op]; n < code->need_first[op + 1]; n++) {
        const struct sf_need *need = &code->needs[n];
        sf_time_ps end = times[code->stream_ops[need->stream][need->count - 1]].end;
        t = end > t ? end : t;
    }
    return t;
}

/* How long an op takes from its start; a receive takes what its sender takes. */
static sf_time_ps duration(const struct sfi_run *run, const struct sfi_inst *in, const struct sfi_vop *f) {
    if (f->kind == SFI_LOCAL) {
        return sfi_local_time(in, f);
    }
    if (f->kind == SFI_RECV) {
        const struct sfi_inst *src = &run->table->inst[run->table->ways[in->ways + f->way]];
        f = &run->variants->v[src->variant].ops[f->partner];
    }
    return f->time + f->latency;
}

void sfi_timeline(const struct sfi_run *run, uint32_t instance, struct sfi_times *out) {
    const struct sfi_inst *in = &run->table->inst[instance];
    const struct sfi_variant *v = &run->variants->v[in->variant];
    for (uint32_t i = 0; i < v->cls->code->ops_n; i++) {
        const struct sfi_vop *f = &v->ops[i];
        struct sfi_times *t = &out[i];
        t->issue = turn_of(v->cls->code, i, out);
        t->start = f->record == SF_NONE ? t->issue + run->dispatch : run->table->starts[in->records + f->record];
        t->end = t->start + duration(run, in, f);
    }
}
