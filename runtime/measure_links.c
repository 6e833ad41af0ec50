/* What talking costs: a program of ranks that do nothing else, and the transfers of the program itself. Messages go
 * between the first two, sums over all. */
#include <stdlib.h>
#include <string.h>

#include "core/prog_build.h"
#include "runtime/clock.h"
#include "runtime/measure.h"
#include "runtime/run.h"

#define SMALL_BYTES 64
#define LARGE_BYTES (UINT64_C(1) << 20)
#define LARGE_GPU_BYTES (UINT64_C(64) << 20)
#define SMALL_N 16 /* of each kind, per step */
#define LARGE_N 4
#define STEPS 12
#define WARM_STEPS 2

enum part { SMALL_MESSAGES, LARGE_MESSAGES, SMALL_SUMS, LARGE_SUMS, PARTS };

static const struct {
    bool large;
    uint32_t n;
    bool sum;
} parts[PARTS] = {
    [SMALL_MESSAGES] = {false, SMALL_N, false},
    [LARGE_MESSAGES] = {true, LARGE_N, false},
    [SMALL_SUMS] = {false, SMALL_N, true},
    [LARGE_SUMS] = {true, LARGE_N, true},
};

static uint64_t large_bytes(const struct sf_rt_measure_options *o) {
    return o->gpu ? LARGE_GPU_BYTES : LARGE_BYTES;
}

static void build_class(struct sf_build *b, uint32_t rank, uint32_t comm, uint64_t large) {
    sf_build_class_begin(b, rank == 0 ? "first" : rank == 1 ? "second" : "other", rank);
    uint32_t buf = sf_build_buffer(b, "bytes", SF_BUF_COMM, large, true);
    for (int p = 0; p < PARTS; p++) {
        for (uint32_t i = 0; i < parts[p].n && (rank < 2 || parts[p].sum); i++) {
            bool sends = i % 2 == rank; /* there and back */
            uint64_t bytes = parts[p].large ? large : SMALL_BYTES;
            struct sf_op op = {.bytes = bytes, .recipe = SF_NONE, .comm = comm};
            op.kind = parts[p].sum ? SF_OP_ALL_REDUCE : sends ? SF_OP_SEND : SF_OP_RECV;
            op.peer_delta = parts[p].sum ? 0 : rank == 0 ? 1 : -1;
            op.flags = parts[p].sum ? SF_OP_SUM_F32 : 0;
            const struct sf_arg arg = {.buf = buf,
                                       .access = op.kind == SF_OP_SEND   ? SF_READ
                                                 : op.kind == SF_OP_RECV ? SF_WRITE
                                                                         : SF_READ_WRITE,
                                       .bytes = bytes};
            sf_build_op(b, &op, &arg, 1, NULL, 0);
        }
    }
    sf_build_class_end(b);
}

static int build_program(uint32_t ranks, uint64_t large, struct sf_prog **out, struct sf_err *err) {
    struct sf_build *b = sf_build_create();
    uint32_t *class_of = sf_calloc(ranks, sizeof *class_of);
    if (!b || !class_of) {
        sf_free(class_of);
        sf_build_free(b);
        return sf_fail_memory(err, "transport measurement");
    }
    uint32_t axis = sf_build_axis(b, "pp", ranks);
    uint32_t comm = sf_build_comm(b, "all", 1u << axis);
    sf_build_stream(b, "talk");
    struct sf_prog *prog = sf_build_prog(b);
    prog->class_axes = 1u << axis;
    prog->ranks_per_domain = prog->domain_gpus = ranks;
    for (uint32_t r = 0; r < ranks; r++) {
        class_of[r] = r < 2 ? r : 2;
        if (r < 3) {
            build_class(b, r, comm, large);
        }
    }
    int rc = sf_build_finish(b, class_of, ranks, out, err);
    sf_free(class_of);
    sf_build_free(b);
    return rc;
}

/* Of one part and step: how long it took from posting to end, and the CPU time of the rank that worked most on it. */
static void look(const struct sf_trace_rec *a, const struct sf_trace_rec *b, double *elapsed_s, double *busy_s) {
    sf_time_ps begin = a->start > b->start ? a->start : b->start, end = a->end > b->end ? a->end : b->end;
    *elapsed_s = sf_ps_to_s(end - begin);
    *busy_s = sf_ps_to_s(a->busy > b->busy ? a->busy : b->busy);
}

/* Records are sorted by (iter, rank, op) and the first two ranks have the same ops at the same places. */
static int read_part(const struct sf_trace *t, int part, uint32_t ops_n, double *elapsed_s, double *busy_s,
                     struct sf_err *err) {
    uint32_t first = 0;
    for (int p = 0; p < part; p++) {
        first += parts[p].n;
    }
    size_t n = (size_t)(STEPS - WARM_STEPS) * parts[part].n, at = 0, per_step = t->recs_n / STEPS;
    double *elapsed = sf_calloc(n, sizeof *elapsed), *busy = sf_calloc(n, sizeof *busy);
    int rc = elapsed && busy ? SF_OK : sf_fail_memory(err, "transport measurement");
    for (uint32_t step = WARM_STEPS; step < STEPS && rc == SF_OK; step++) {
        const struct sf_trace_rec *rec = t->recs + step * per_step + first;
        for (uint32_t i = 0; i < parts[part].n; i++, at++) {
            look(&rec[i], &rec[ops_n + i], &elapsed[at], &busy[at]);
        }
    }
    if (rc == SF_OK) {
        *elapsed_s = sfi_median(elapsed, n);
        *busy_s = sfi_median(busy, n);
    }
    sf_free(busy);
    sf_free(elapsed);
    return rc;
}

static double rate_of(double bytes, double seconds) {
    return seconds > bytes * 1e-12 ? bytes / seconds : 1e12;
}

/* A device's ops hold a stamp each: what is between two of them, where nothing else is. */
static int read_stamp(const struct sf_trace *t, uint32_t ops_n, double *stamp_s, struct sf_err *err) {
    size_t per_step = t->recs_n / STEPS;
    double *gaps = sf_calloc(ops_n, sizeof *gaps);
    if (!gaps) {
        return sf_fail_memory(err, "transport measurement");
    }
    const struct sf_trace_rec *rec = t->recs + (STEPS - 1) * per_step;
    for (uint32_t i = 0; i + 1 < ops_n; i++) {
        gaps[i] = sf_ps_to_s(rec[i + 1].start - rec[i].end);
    }
    *stamp_s = sfi_median(gaps, ops_n - 1);
    sf_free(gaps);
    return SF_OK;
}

static int read_links(const struct sf_trace *t, const struct sf_rt_measure_options *o, double ranks,
                      struct sfi_links *out, struct sf_err *err) {
    double elapsed[PARTS], busy[PARTS], stamp_s = 0.0, large = (double)large_bytes(o);
    uint32_t ops_n = 0;
    for (int p = 0; p < PARTS; p++) {
        ops_n += parts[p].n;
    }
    for (int p = 0; p < PARTS; p++) {
        SF_TRY(read_part(t, p, ops_n, &elapsed[p], &busy[p], err));
    }
    SF_TRY(o->gpu ? read_stamp(t, ops_n, &stamp_s, err) : SF_OK);
    for (int p = 0; p < PARTS && o->gpu; p++) {
        elapsed[p] = busy[p] = elapsed[p] > stamp_s ? elapsed[p] - stamp_s : 1e-9;
    }
    out->message_latency_s = elapsed[SMALL_MESSAGES];
    out->message_rate = rate_of(large, busy[LARGE_MESSAGES]);
    double steps = 2.0 * (ranks - 1.0); /* of a ring, twice around */
    out->collective_latency_s = elapsed[SMALL_SUMS] / steps;
    out->collective_rate = rate_of(steps / ranks * large, busy[LARGE_SUMS]);
    return SF_OK;
}

int sfi_measure_links(const struct sf_rt_measure_options *o, uint32_t ranks, struct sfi_links *out,
                      struct sf_err *err) {
    struct sf_prog *prog = NULL;
    struct sf_trace trace;
    bool mpi = o->mpi && ranks > 1;
    uint32_t n = mpi ? ranks : 2;
    sf_trace_init(&trace);
    /* the watchdog of a GPU marks every transfer, which would be measured with it */
    const struct sf_rt_options options = {
        .steps = STEPS, .trace = &trace, .stall_limit = o->gpu ? 0 : 10 * SF_PS_PER_S};
    struct sf_rt_gpu gpu = {0};
    if (o->gpu) { /* a GPU alone copies inside itself; the recording device has as many ranks as it is asked for */
        gpu = *o->gpu;
        gpu.virtual_ranks = !mpi && (gpu.virtual_ranks || !gpu.record);
    }
    out->one_device = gpu.virtual_ranks;
    int rc = build_program(n, large_bytes(o), &prog, err);
    if (rc == SF_OK && o->gpu) {
        rc = sf_rt_run_gpu(prog, &options, &gpu, err);
    } else if (rc == SF_OK) {
        rc = mpi ? sf_rt_run_mpi(prog, &options, err) : sf_rt_run_threads(prog, &options, err);
    }
    if (rc == SF_OK && (!mpi || o->rank == 0)) {
        rc = read_links(&trace, o, n, out, err);
    }
    sf_trace_clear(&trace);
    sf_prog_free(prog);
    return rc;
}

struct fit {
    double bytes, seconds; /* summed over all ops; latency taken off the time */
};

static void fit_op(const struct sf_prog *prog, const struct sf_op *op, double busy_s, const struct sfi_links *links,
                   struct fit *messages, struct fit *collectives) {
    if (op->kind == SF_OP_RECV) {
        messages->bytes += (double)op->bytes;
        messages->seconds += busy_s;
    } else if (sf_op_group(op->kind) == SF_OP_IS_COLL) {
        double n = sf_prog_comm_size(prog, op->comm), rounds = op->kind == SF_OP_ALL_REDUCE ? 2.0 : 1.0;
        double rest = busy_s - rounds * (n - 1.0) * links->collective_latency_s;
        collectives->bytes += rounds * (n - 1.0) / n * (double)op->bytes;
        collectives->seconds += rest > 0.0 ? rest : 0.0;
    }
}

void sfi_fit_links(const struct sf_prog *prog, const double *busy_s, const size_t *first, struct sfi_links *links) {
    struct fit messages = {0}, collectives = {0};
    for (uint32_t r = 0; r < sf_prog_ranks(prog); r++) {
        const struct sf_class *c = &prog->classes[sf_prog_class(prog, r)];
        for (uint32_t i = 0; i < c->ops_n; i++) {
            fit_op(prog, &c->ops[i], busy_s[first[r] + i], links, &messages, &collectives);
        }
    }
    if (messages.bytes > 0.0 && messages.seconds > 0.0) {
        links->message_rate = rate_of(messages.bytes, messages.seconds);
    }
    if (collectives.bytes > 0.0 && collectives.seconds > 0.0) {
        links->collective_rate = rate_of(collectives.bytes, collectives.seconds);
    }
}

/* Least squares of seconds = latency * steps + bytes / rate. */
struct plane {
    double ss, sx, xx, st, xt;
};

static void add_point(struct plane *p, bool twice, double n, double bytes, double seconds, double weight) {
    double s = (twice ? 2.0 : 1.0) * (n - 1.0), x = s / n * bytes;
    p->ss += weight * s * s;
    p->sx += weight * s * x;
    p->xx += weight * x * x;
    p->st += weight * s * seconds;
    p->xt += weight * x * seconds;
}

static void add_op_points(struct plane *p, const struct sf_prog *prog, const double *busy_s, const size_t *first) {
    for (uint32_t r = 0; r < sf_prog_ranks(prog); r++) {
        const struct sf_class *c = &prog->classes[sf_prog_class(prog, r)];
        for (uint32_t i = 0; i < c->ops_n; i++) {
            const struct sf_op *op = &c->ops[i];
            if (sf_op_group(op->kind) == SF_OP_IS_COLL) {
                add_point(p, op->kind == SF_OP_ALL_REDUCE, sf_prog_comm_size(prog, op->comm), (double)op->bytes,
                          busy_s[first[r] + i], 1.0);
            }
        }
    }
}

/* Where noise would make one of the two negative, the other explains all. */
static void solve(const struct plane *p, struct sfi_links *links) {
    double det = p->ss * p->xx - p->sx * p->sx;
    double latency = det > 1e-9 * p->ss * p->xx ? (p->st * p->xx - p->xt * p->sx) / det : 0.0;
    double per_byte = p->xx > 0.0 ? (p->xt - latency * p->sx) / p->xx : 0.0;
    if (latency < 0.0) {
        latency = 0.0;
        per_byte = p->xt / p->xx;
    }
    if (per_byte <= 0.0) {
        latency = p->st / p->ss;
    }
    links->collective_latency_s = latency > 1e-9 ? latency : 1e-9;
    links->collective_rate = rate_of(1.0, per_byte);
}

void sfi_fit_recipes(const struct sf_prog *prog, const double *busy_s, const size_t *first,
                     const struct sfi_coll_time *times, size_t n, struct sfi_links *links) {
    struct plane p = {0};
    add_op_points(&p, prog, busy_s, first);
    for (size_t i = 0; i < n; i++) {
        const struct sf_call *c = times[i].call;
        add_point(&p, c->kind == SF_CALL_ALL_REDUCE, sf_prog_comm_size(prog, c->comm), (double)c->dims[0],
                  times[i].seconds, times[i].runs);
    }
    if (n > 0 && p.ss > 0.0) {
        solve(&p, links);
    }
}
