/* Our own traces: a transfer or collective is a point, an op whose recipe is one kernel call a row. What several
 * kernels took together cannot be told apart and is counted as left out. */
#include <string.h>

#include "core/arena.h"
#include "sim/calib_internal.h"
#include "sim/compare_join.h"

enum { SKIP = 1 /* the first step fills caches and makes code */ };

static int add_call(struct sf_calib_data *d, const struct sf_recipe *r, double busy_s, struct sf_err *err) {
    struct sf_calib_row row = {.kind = r->calls[0].kind,
                               .dtype = r->calls[0].dtype,
                               .flags = (uint16_t)(r->calls[0].flags & ~(unsigned)SF_CALL_RECOMPUTE_FLAG),
                               .time_s = busy_s};
    memcpy(row.dims, r->calls[0].dims, sizeof row.dims);
    return sf_calib_add_row(d, &row, err);
}

static int add_op(struct sf_calib_data *d, const struct sf_prog *prog, const struct sfi_median *m, struct sf_err *err) {
    const struct sf_op *op = sfi_op(prog, m->rank, m->op);
    const struct sf_recipe *r = op->recipe != SF_NONE ? &prog->recipes[op->recipe] : NULL;
    struct sf_calib_point p = {.ranks = 2, .bytes = (double)op->bytes, .time_s = sf_ps_to_s(m->busy)};
    bool single = r && r->calls_n == 1 && !sf_call_is_collective(r->calls[0].kind);
    if (m->covers == 1 && m->busy > 0 && single) {
        return add_call(d, r, p.time_s, err);
    }
    bool moves = m->covers == 1 && m->busy > 0 && op->bytes > 0;
    if (moves && op->kind == SF_OP_RECV) {
        p.op = SF_CALL_COPY;
        return sf_calib_add_point(d, &p, err);
    }
    if (moves && sf_op_group(op->kind) == SF_OP_IS_COLL && sf_prog_comm_size(prog, op->comm) > 1) {
        p.ranks = sf_prog_comm_size(prog, op->comm);
        p.op = (uint16_t)sf_op_call(op->kind);
        return sf_calib_add_point(d, &p, err);
    }
    d->source[d->sources_n - 1].left_out++;
    return SF_OK;
}

int sf_calib_read_trace(struct sf_calib_data *d, const struct sf_trace *trace, const struct sf_prog *prog,
                        struct sf_hash hash, const char *path, struct sf_err *err) {
    struct sfi_medians medians = {0};
    if (trace->recs_n > 0 && trace->recs[0].source == SF_TIME_VIRTUAL) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "a simulated trace holds forecasts: expected a measured one");
    }
    if (strcmp(trace->meta.origin, "record") == 0) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0,
                          "the recording device has no times: expected a trace of a real run");
    }
    if (!sf_hash_equal(trace->meta.prog, sf_prog_hash(prog))) {
        return sf_fail_at(err, SF_E_INPUT, path, 0, 0, "this trace is of another program: name the one that it ran");
    }
    SF_TRY(sfi_trace_check(prog, trace, path, err));
    SF_TRY(sf_calib_source(d, path, "trace", hash, err));
    SF_TRY(sfi_medians_of(trace, trace->meta.iterations > SKIP ? SKIP : 0, &medians, err));
    int rc = SF_OK;
    for (size_t i = 0; i < medians.n && rc == SF_OK; i++) {
        rc = add_op(d, prog, &medians.at[i], err);
    }
    sf_free(medians.at);
    return rc;
}
