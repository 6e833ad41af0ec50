#include "core/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"

const char *sf_time_source_name(int source) {
    static const char *const names[] = {
#define X(NAME, name) name,
        SF_TIME_SOURCES(X)
#undef X
    };
    return source >= 0 && (size_t)source < sizeof names / sizeof names[0] ? names[source] : "?";
}

void sf_trace_init(struct sf_trace *t) {
    memset(t, 0, sizeof *t);
}

void sf_trace_clear(struct sf_trace *t) {
    sf_free(t->clocks);
    sf_free(t->recs);
    sf_trace_init(t);
}

int sf_trace_reserve(struct sf_trace *t, size_t recs_n, struct sf_err *err) {
    if (recs_n <= t->recs_capacity) {
        return 0;
    }
    struct sf_trace_rec *recs = sf_realloc(t->recs, recs_n, sizeof *recs);
    if (recs == NULL) {
        return sf_fail_memory(err, "trace records");
    }
    t->recs = recs;
    t->recs_capacity = recs_n;
    return 0;
}

/* Room for `more` records, growing by half so that adding stays cheap. */
static int grow(struct sf_trace *t, size_t more, struct sf_err *err) {
    size_t needed, roomy = t->recs_capacity + t->recs_capacity / 2;
    if (__builtin_add_overflow(t->recs_n, more, &needed)) {
        return sf_fail_memory(err, "trace records");
    }
    if (needed <= t->recs_capacity) {
        return 0;
    }
    roomy = roomy < 256 ? 256 : roomy;
    return sf_trace_reserve(t, needed > roomy ? needed : roomy, err);
}

int sf_trace_add(struct sf_trace *t, const struct sf_trace_rec *rec, struct sf_err *err) {
    SF_TRY(grow(t, 1, err));
    t->recs[t->recs_n++] = *rec;
    return 0;
}

#define COMPARE(field)                                                                                                 \
    if (a->field != b->field) {                                                                                        \
        return a->field < b->field ? -1 : 1;                                                                           \
    }

/* Beyond (iter, rank, op) only to keep the order of double records independent of the sort. */
static int compare_recs(const void *pa, const void *pb) {
    const struct sf_trace_rec *a = pa, *b = pb;
    COMPARE(iter)
    COMPARE(rank)
    COMPARE(op)
    COMPARE(start)
    COMPARE(end)
    COMPARE(issue)
    return memcmp(a, b, sizeof *a);
}

static bool is_sorted(const struct sf_trace *t) {
    for (size_t i = 1; i < t->recs_n; i++) {
        if (compare_recs(&t->recs[i - 1], &t->recs[i]) > 0) {
            return false;
        }
    }
    return true;
}

void sf_trace_sort(struct sf_trace *t) {
    if (!is_sorted(t)) { /* simulated traces nearly always are */
        qsort(t->recs, t->recs_n, sizeof *t->recs, compare_recs);
    }
}

int sf_trace_append(struct sf_trace *dst, const struct sf_trace *src, struct sf_err *err) {
    SF_TRY(grow(dst, src->recs_n, err));
    if (src->clocks_n > 0) {
        struct sf_trace_clock *clocks = sf_realloc(dst->clocks, dst->clocks_n + src->clocks_n, sizeof *clocks);
        if (clocks == NULL) {
            return sf_fail_memory(err, "trace clocks");
        }
        memcpy(clocks + dst->clocks_n, src->clocks, src->clocks_n * sizeof *clocks);
        dst->clocks = clocks;
        dst->clocks_n += src->clocks_n;
    }
    if (src->recs_n > 0) {
        memcpy(dst->recs + dst->recs_n, src->recs, src->recs_n * sizeof *src->recs);
        dst->recs_n += src->recs_n;
    }
    return 0;
}

static void print_meta(const struct sf_trace_meta *m, struct sf_buf *out) {
    char prog[SF_HASH_TEXT], topo[SF_HASH_TEXT], cost[SF_HASH_TEXT];
    sf_buf_printf(out, "# trace %d origin=%s ranks=%u iterations=%u seed=%" PRIu64 "\n", SF_TRACE_VERSION, m->origin,
                  m->ranks, m->iterations, m->seed);
    sf_buf_printf(out, "# prog=%s topo=%s cost=%s\n", sf_hash_format(m->prog, prog), sf_hash_format(m->topo, topo),
                  sf_hash_format(m->cost, cost));
    if (m->note[0] != '\0') {
        sf_buf_printf(out, "# note %s\n", m->note);
    }
}

int sf_trace_print(const struct sf_trace *t, struct sf_buf *out, struct sf_err *err) {
    print_meta(&t->meta, out);
    for (size_t i = 0; i < t->clocks_n; i++) {
        const struct sf_trace_clock *c = &t->clocks[i];
        sf_buf_printf(out, "clock rank=%u offset=%" PRId64 "ps uncertainty=%" PRId64 "ps\n", c->rank, c->offset,
                      c->uncertainty);
    }
    for (size_t i = 0; i < t->recs_n; i++) {
        const struct sf_trace_rec *r = &t->recs[i];
        sf_buf_printf(out,
                      "iter=%u rank=%u op=%u covers=%u stream=%u source=%s issue=%" PRId64 "ps start=%" PRId64
                      "ps end=%" PRId64 "ps busy=%" PRId64 "ps bytes=%" PRIu64 "\n",
                      r->iter, r->rank, r->op, r->covers, r->stream, sf_time_source_name(r->source), r->issue, r->start,
                      r->end, r->busy, r->bytes);
    }
    return out->failed ? sf_fail_memory(err, "a printed trace") : 0;
}
