/* Measuring a run: the device's clock before every call of every op, in the steps that the probe chooses, and how long
 * nothing is between two ops. A call lasts until the next one of its op begins, or its op ends; that holds one stamp,
 * which whoever evaluates takes off (measure.c). */
#include <string.h>

#include "runtime/clock.h"
#include "runtime/cuda/session.h"

int sfi_gpu_probe_create(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err) {
    const struct sf_class *cls = r->host->cls;
    const struct sf_recipe *recipes = s->run->image->prog->recipes;
    uint64_t n = 0;
    void *stamps;
    r->call_first = sf_arena_alloc(s->arena, (size_t)cls->ops_n + 1, sizeof *r->call_first);
    if (!r->call_first) {
        return sf_fail_memory(err, "stamps of calls");
    }
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        r->call_first[i] = (uint32_t)n;
        n += sf_op_group(cls->ops[i].kind) == SF_OP_IS_COMPUTE ? recipes[cls->ops[i].recipe].calls_n : 0;
        if (n >= UINT32_MAX / sizeof *r->call_stamps) {
            return sf_fail(err, SF_E_INPUT, "%llu calls in a step are too many to measure: measure a smaller plan",
                           (unsigned long long)n);
        }
    }
    r->call_first[cls->ops_n] = (uint32_t)n;
    SF_TRY(s->api->alloc(s->api->self, r->host->rank, n > 0 ? sfi_gpu_probe_bytes(r) : 1, &stamps, err));
    r->call_stamps = stamps;
    return SF_OK;
}

uint64_t sfi_gpu_probe_bytes(const struct sfi_gpu_rank *r) {
    return r->call_first ? r->call_first[r->host->cls->ops_n] * sizeof *r->call_stamps : 0;
}

int sfi_gpu_probe_call(struct sfi_session *s, const struct sfi_gpu_rank *r, uint32_t op, uint32_t call,
                       struct sf_err *err) {
    return s->api->stamp(s->api->self, &r->call_stamps[r->call_first[op] + call],
                         r->streams[r->host->cls->ops[op].stream], err);
}

bool sfi_gpu_probe_over(const struct sfi_session *s) {
    const struct sfi_probe *p = s->run->probe;
    return p && s->launched + 1 >= p->min_steps && sfi_now_ns() > s->first_launch_ns + p->lasts_ns;
}

static uint64_t stamp_at(const char *page, uint64_t at, uint64_t index) {
    uint64_t ns;
    memcpy(&ns, page + at + index * sizeof ns, sizeof ns);
    return ns;
}

static void take_calls(const struct sfi_session *s, const struct sfi_gpu_rank *r, uint32_t op, const char *page) {
    const struct sfi_probe *p = s->run->probe;
    uint32_t first = r->call_first[op], n = r->call_first[op + 1] - first;
    for (uint32_t k = 0; k < n; k++) {
        uint64_t begin = stamp_at(page, r->call_stamps_at, first + k);
        uint64_t end = k + 1 < n ? stamp_at(page, r->call_stamps_at, first + k + 1)
                                 : stamp_at(page, r->stamps_at, 2 * (uint64_t)op + 1);
        p->call(p->self, r->host->rank, r->host->cls->ops[op].recipe, k, end > begin ? (int64_t)(end - begin) : 0);
    }
}

/* Was everything that `op` waits for on other streams over when `before`, the op ahead of it on its own, ended? */
static bool waited_for_nothing(const struct sf_iclass *c, uint32_t op, const struct sf_trace_rec *recs,
                               sf_time_ps ended) {
    for (uint32_t n = c->need_first[op]; n < c->need_first[op + 1]; n++) {
        if (recs[c->stream_ops[c->needs[n].stream][c->needs[n].count - 1]].end > ended) {
            return false;
        }
    }
    return true;
}

static void take_gaps(const struct sfi_session *s, const struct sfi_gpu_rank *r) {
    const struct sf_iclass *c = s->run->image->classes[r->host->class_i].order;
    const struct sf_trace_rec *recs = r->host->recs + (uint64_t)s->concluded * c->ops_n;
    const struct sfi_probe *p = s->run->probe;
    for (uint32_t k = 0; k < c->streams_n; k++) {
        for (uint32_t i = 1; (c->compute_streams >> k & 1) && i < c->stream_n[k]; i++) {
            const struct sf_trace_rec *a = &recs[c->stream_ops[k][i - 1]], *b = &recs[c->stream_ops[k][i]];
            if (waited_for_nothing(c, c->stream_ops[k][i], recs, a->end) && b->start > a->end) {
                p->gap(p->self, r->host->rank, s->concluded, (b->start - a->end) / 1000);
            }
        }
    }
}

void sfi_gpu_probe_take(const struct sfi_session *s, const struct sfi_gpu_rank *r, const char *page) {
    const struct sf_class *cls = r->host->cls;
    bool calls = s->run->probe->times_calls(s->concluded);
    for (uint32_t i = 0; i < cls->ops_n && calls; i++) {
        take_calls(s, r, i, page);
    }
    if (!calls) {
        take_gaps(s, r);
    }
}
