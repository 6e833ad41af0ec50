/* Medians per (rank, op) and the join of two traces of one program. */
#include "sim/compare_join.h"

#include <assert.h>
#include <stdlib.h>

#include "core/arena.h"

const struct sf_op *sfi_op(const struct sf_prog *prog, uint32_t rank, uint32_t op) {
    return &prog->classes[sf_prog_class(prog, rank)].ops[op];
}

static bool rec_before(const struct sf_trace_rec *a, const struct sf_trace_rec *b) {
    if (a->iter != b->iter) {
        return a->iter < b->iter;
    }
    return a->rank != b->rank ? a->rank < b->rank : a->op < b->op;
}

static int rec_check(const struct sf_prog *prog, const struct sf_trace_rec *r, const char *role, struct sf_err *err) {
    uint32_t ranks = sf_prog_ranks(prog);
    if (r->rank >= ranks) {
        return sf_fail(err, SF_E_INPUT, "%s trace: a record of rank %u, but the program has %u ranks", role, r->rank,
                       ranks);
    }
    uint32_t ops_n = prog->classes[sf_prog_class(prog, r->rank)].ops_n;
    if (r->op >= ops_n || r->covers == 0 || r->covers > ops_n - r->op) {
        return sf_fail(err, SF_E_INPUT,
                       "%s trace: rank %u has a record of op %u covering %u ops, but its program has %u", role, r->rank,
                       r->op, r->covers, ops_n);
    }
    if (r->iter == UINT32_MAX || r->busy < 0 || r->start < 0 || r->end < r->start) {
        return sf_fail(
            err, SF_E_INPUT,
            "%s trace: rank %u, iteration %u, op %u has impossible times (start %lld ps, end %lld ps, busy %lld ps)",
            role, r->rank, r->iter, r->op, (long long)r->start, (long long)r->end, (long long)r->busy);
    }
    return 0;
}

int sfi_trace_check(const struct sf_prog *prog, const struct sf_trace *t, const char *role, struct sf_err *err) {
    if (t->recs_n == 0) {
        return sf_fail(err, SF_E_INPUT, "%s trace: it has no records, nothing can be compared", role);
    }
    for (size_t i = 0; i < t->recs_n; i++) {
        SF_TRY(rec_check(prog, &t->recs[i], role, err));
        if (i > 0 && !rec_before(&t->recs[i - 1], &t->recs[i])) {
            return sf_fail(err, SF_E_INPUT,
                           "%s trace: records %zu and %zu (rank %u, iteration %u, op %u) are repeated or out of order",
                           role, i - 1, i, t->recs[i].rank, t->recs[i].iter, t->recs[i].op);
        }
    }
    return 0;
}

/* One sample; sorting by (rank, op, busy) puts each median in the middle of its run. */
struct sample {
    uint32_t rank, op, covers;
    sf_time_ps busy;
};

static int sample_order(const void *pa, const void *pb) {
    const struct sample *a = pa, *b = pb;
    if (a->rank != b->rank) {
        return a->rank < b->rank ? -1 : 1;
    }
    if (a->op != b->op) {
        return a->op < b->op ? -1 : 1;
    }
    return a->busy < b->busy ? -1 : a->busy > b->busy;
}

static size_t samples_of(const struct sf_trace *t, uint32_t skip, struct sample *out) {
    size_t n = 0;
    for (size_t i = 0; i < t->recs_n; i++) {
        const struct sf_trace_rec *r = &t->recs[i];
        if (r->iter >= skip) {
            out[n++] = (struct sample){r->rank, r->op, r->covers, r->busy};
        }
    }
    qsort(out, n, sizeof *out, sample_order);
    return n;
}

/* End of the run of samples of one (rank, op); all must cover the same ops. */
static int run_end(const struct sample *s, size_t n, size_t first, size_t *end, struct sf_err *err) {
    size_t i = first;
    while (i < n && s[i].rank == s[first].rank && s[i].op == s[first].op) {
        if (s[i].covers != s[first].covers) {
            return sf_fail(err, SF_E_INPUT,
                           "rank %u, op %u was run as one with %u ops in one iteration and %u in another", s[i].rank,
                           s[i].op, s[first].covers, s[i].covers);
        }
        i++;
    }
    *end = i;
    return 0;
}

static int medians_from(const struct sample *s, size_t n, struct sfi_medians *out, struct sf_err *err) {
    for (size_t first = 0; first < n;) {
        size_t end = 0;
        SF_TRY(run_end(s, n, first, &end, err));
        size_t low = first + (end - first - 1) / 2, high = first + (end - first) / 2;
        sf_time_ps busy = s[low].busy + (s[high].busy - s[low].busy) / 2;
        out->at[out->n++] = (struct sfi_median){s[first].rank, s[first].op, s[first].covers, busy};
        first = end;
    }
    return 0;
}

int sfi_medians_of(const struct sf_trace *t, uint32_t skip, struct sfi_medians *out, struct sf_err *err) {
    *out = (struct sfi_medians){0};
    struct sample *samples = sf_calloc(t->recs_n, sizeof *samples);
    out->at = sf_calloc(t->recs_n, sizeof *out->at);
    int rc = 0;
    if (samples == NULL || out->at == NULL) {
        rc = sf_fail_memory(err, "trace medians");
    } else {
        rc = medians_from(samples, samples_of(t, skip, samples), out, err);
    }
    sf_free(samples);
    if (rc != 0) {
        sf_free(out->at);
        *out = (struct sfi_medians){0};
    }
    return rc;
}

static int time_add(sf_time_ps *sum, sf_time_ps add, struct sf_err *err) {
    if (__builtin_add_overflow(*sum, add, sum)) {
        return sf_fail(err, SF_E_INPUT, "the busy times of a trace add up to more than 106 days: it is damaged");
    }
    return 0;
}

static bool at_same_op(const struct sfi_median *a, const struct sfi_median *b) {
    return a->rank == b->rank && a->op == b->op;
}

static bool median_before(const struct sfi_median *a, const struct sfi_median *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->op < b->op;
}

/* Both sides start at the same op: take records, always from the side that is behind, until both end at the same op.
 * False when the sides never meet. */
static int cell_take(const struct sfi_medians *p, const struct sfi_medians *m, size_t *pi, size_t *mi,
                     struct sfi_cell *cell, bool *met, struct sf_err *err) {
    uint32_t rank = p->at[*pi].rank, op = p->at[*pi].op;
    uint32_t p_end = op, m_end = op;
    *cell = (struct sfi_cell){.rank = rank, .op = op};
    do {
        bool from_p = p_end <= m_end;
        const struct sfi_medians *side = from_p ? p : m;
        size_t *i = from_p ? pi : mi;
        uint32_t *end = from_p ? &p_end : &m_end;
        if (*i >= side->n || side->at[*i].rank != rank || side->at[*i].op != *end) {
            *met = false;
            return 0;
        }
        SF_TRY(time_add(from_p ? &cell->predicted : &cell->measured, side->at[*i].busy, err));
        *end += side->at[*i].covers;
        (*i)++;
    } while (p_end != m_end);
    cell->covers = p_end - op;
    *met = true;
    return 0;
}

static int join_all(const struct sfi_medians *p, const struct sfi_medians *m, struct sfi_join *out,
                    struct sf_err *err) {
    size_t pi = 0, mi = 0;
    while (pi < p->n && mi < m->n) {
        if (at_same_op(&p->at[pi], &m->at[mi])) {
            size_t p0 = pi, m0 = mi;
            bool met = false;
            SF_TRY(cell_take(p, m, &pi, &mi, &out->cells[out->n], &met, err));
            out->n += met;
            out->unmeasured += met ? 0 : pi - p0;
            out->unpredicted += met ? 0 : mi - m0;
        } else if (median_before(&p->at[pi], &m->at[mi])) {
            pi++;
            out->unmeasured++;
        } else {
            mi++;
            out->unpredicted++;
        }
    }
    out->unmeasured += p->n - pi;
    out->unpredicted += m->n - mi;
    return 0;
}

int sfi_join_medians(const struct sfi_medians *predicted, const struct sfi_medians *measured, struct sfi_join *out,
                     struct sf_err *err) {
    *out = (struct sfi_join){0};
    out->cells = sf_calloc(predicted->n < measured->n ? predicted->n : measured->n, sizeof *out->cells);
    if (out->cells == NULL) {
        return sf_fail_memory(err, "trace join");
    }
    int rc = join_all(predicted, measured, out, err);
    if (rc != 0) {
        sf_free(out->cells);
        *out = (struct sfi_join){0};
    }
    return rc;
}
