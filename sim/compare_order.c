/* Was the program's order kept? Checked inside a rank, where one clock gives all times. */
#include <string.h>

#include "core/arena.h"
#include "sim/compare_join.h"

/* What is known of one (rank, iteration) while its records pass by in op order. */
struct order_scan {
    const struct sf_prog *prog;
    struct sf_compare *out;
    sf_time_ps *end; /* [ops of the largest class] of ops seen in this block */
    uint64_t *seen;  /* [same] block number in which the op was seen */
    uint64_t block;
    uint64_t covered;              /* ops seen in this block */
    uint32_t last[SF_MAX_STREAMS]; /* op that started last on each stream, SF_NONE */
    sf_time_ps last_start[SF_MAX_STREAMS];
};

static void violation(struct order_scan *s, const struct sf_trace_rec *r, uint32_t op, uint32_t before, int rule,
                      sf_time_ps by) {
    struct sf_compare *out = s->out;
    if (out->order_violations_n++ >= SF_COMPARE_VIOLATIONS) {
        return;
    }
    struct sf_order_violation *v = &out->order_violations[out->order_violations_n - 1];
    *v = (struct sf_order_violation){
        .rank = r->rank, .iter = r->iter, .op = op, .before = before, .rule = rule, .by = by};
    uint32_t class_i = sf_prog_class(s->prog, r->rank);
    sf_op_label(s->prog, class_i, op, v->label, sizeof v->label);
    sf_op_label(s->prog, class_i, before, v->before_label, sizeof v->before_label);
}

static void check_stream(struct order_scan *s, const struct sf_trace_rec *r, const struct sf_op *op) {
    uint32_t before = s->last[op->stream];
    if (before != SF_NONE) {
        s->out->order_checked++;
        sf_time_ps earlier = s->last_start[op->stream];
        if (r->start < earlier) {
            violation(s, r, r->op, before, SF_ORDER_STREAM, earlier - r->start);
        }
    }
    s->last[op->stream] = r->op;
    s->last_start[op->stream] = r->start;
}

/* Dependencies inside a fused record are the backend's own business. */
static void check_deps(struct order_scan *s, const struct sf_trace_rec *r, const struct sf_class *cls, uint32_t op_i) {
    const struct sf_op *op = &cls->ops[op_i];
    for (uint32_t d = 0; d < op->dep_n; d++) {
        uint32_t before = cls->deps[op->dep_first + d];
        if (before >= r->op || s->seen[before] != s->block) {
            continue;
        }
        s->out->order_checked++;
        if (r->start < s->end[before]) {
            violation(s, r, op_i, before, SF_ORDER_DEPENDENCY, s->end[before] - r->start);
        }
    }
}

static void scan_record(struct order_scan *s, const struct sf_trace_rec *r) {
    const struct sf_class *cls = &s->prog->classes[sf_prog_class(s->prog, r->rank)];
    check_stream(s, r, &cls->ops[r->op]);
    for (uint32_t op = r->op; op < r->op + r->covers; op++) {
        check_deps(s, r, cls, op);
    }
    for (uint32_t op = r->op; op < r->op + r->covers; op++) {
        s->covered += s->seen[op] != s->block;
        s->seen[op] = s->block;
        s->end[op] = r->end;
    }
}

static void block_begin(struct order_scan *s) {
    s->block++;
    s->covered = 0;
    memset(s->last, 0xff, sizeof s->last); /* SF_NONE everywhere */
}

static void block_end(struct order_scan *s, uint32_t rank) {
    uint32_t ops_n = s->prog->classes[sf_prog_class(s->prog, rank)].ops_n;
    s->out->missing_ops += ops_n - s->covered;
}

static void scan_trace(struct order_scan *s, const struct sf_trace *t) {
    for (size_t i = 0; i < t->recs_n; i++) {
        const struct sf_trace_rec *r = &t->recs[i];
        if (i == 0 || r[-1].rank != r->rank || r[-1].iter != r->iter) {
            block_begin(s);
        }
        scan_record(s, r);
        if (i + 1 == t->recs_n || r[1].rank != r->rank || r[1].iter != r->iter) {
            block_end(s, r->rank);
        }
    }
}

int sfi_compare_order(const struct sf_prog *prog, const struct sf_trace *measured, struct sf_compare *out,
                      struct sf_err *err) {
    size_t ops_n = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        ops_n = prog->classes[c].ops_n > ops_n ? prog->classes[c].ops_n : ops_n;
    }
    struct order_scan scan = {.prog = prog, .out = out};
    scan.end = sf_calloc(ops_n, sizeof *scan.end);
    scan.seen = sf_calloc(ops_n, sizeof *scan.seen);
    int rc = 0;
    if (scan.end == NULL || scan.seen == NULL) {
        rc = sf_fail_memory(err, "order check");
    } else {
        scan_trace(&scan, measured);
    }
    sf_free(scan.end);
    sf_free(scan.seen);
    return rc;
}

const char *sf_order_rule_name(int rule) {
    return rule == SF_ORDER_STREAM ? "stream" : "dependency";
}
