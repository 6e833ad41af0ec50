#include "runtime/measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/clock.h"
#include "runtime/flags.h"
#include "runtime/run.h"

#define WARM_STEPS 2 /* caches, page faults, frequency, code that a library makes on first use */
#define MIN_STEPS 16 /* 7 in which ops are timed, 7 in which calls are */
#define MAX_STEPS 128
#define KEEP 64 /* latest samples of a call on a rank */
#define KEEP_GAPS 1024
#define MAX_SAMPLE_BYTES (UINT64_C(256) << 20)

/* A call of a recipe: one place where kernels are timed. */
struct site {
    const struct sf_call *call;
    uint32_t recipe;
    uint32_t samples; /* of all ranks */
    double time_s;    /* median */
};

struct recipe_time {
    size_t first;   /* of its sites */
    double runs;    /* per step, all ranks */
    double op_s;    /* mean over its ops of their median busy time */
    double calls_s; /* sum of its sites */
};

struct rank_samples {
    uint32_t *ns;  /* [sites][KEEP] */
    uint32_t *n;   /* [sites] */
    double *gap_s; /* [KEEP_GAPS] */
    uint32_t *gaps_n;
};

struct measurement {
    const struct sf_prog *prog;
    struct sf_arena *arena;
    struct site *sites;
    struct recipe_time *recipes;
    struct rank_samples *ranks; /* [ranks_n], each array beside those of the other ranks */
    size_t sites_n;
    uint32_t ranks_n, steps;
    int64_t clock_ns; /* what reading the CPU clock adds to each sample */
    double stamp_s;   /* what a GPU's stamp adds to each op and call */
    double dispatch_s;
    bool gpu;
    char device[256]; /* as its module describes it */
    struct sfi_links links;
    struct sf_buf collectives; /* as they will be printed */
};

static int compare_double(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double sfi_median(double *values, size_t n) {
    if (n == 0) {
        return 0.0;
    }
    qsort(values, n, sizeof *values, compare_double);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2.0;
}

/* Calls are timed in every second step, so that both kinds of step see the same machine. */
static bool times_calls(uint32_t step) {
    return step >= WARM_STEPS && step % 2 == 1;
}

static bool times_ops(uint32_t step) {
    return step >= WARM_STEPS && step % 2 == 0;
}

static void on_call(void *self, uint32_t rank, uint32_t recipe, uint32_t call, int64_t cpu_ns) {
    struct measurement *m = self;
    size_t site = m->recipes[recipe].first + call;
    struct rank_samples *r = &m->ranks[rank];
    int64_t ns = cpu_ns > m->clock_ns ? cpu_ns - m->clock_ns : 1;
    r->ns[site * KEEP + r->n[site]++ % KEEP] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static void on_gap(void *self, uint32_t rank, uint32_t step, int64_t wall_ns) {
    struct measurement *m = self;
    struct rank_samples *r = &m->ranks[rank];
    if (times_ops(step)) {
        r->gap_s[(*r->gaps_n)++ % KEEP_GAPS] = (double)wall_ns * 1e-9;
    }
}

static int64_t clock_cost_ns(void) {
    int64_t best = INT64_MAX;
    for (int i = 0; i < 1000; i++) {
        int64_t before = sfi_cpu_ns(), cost = sfi_cpu_ns() - before;
        best = cost < best ? cost : best;
    }
    return best;
}

static int create_samples(struct measurement *m, struct sf_err *err) {
    uint64_t bytes = (uint64_t)m->ranks_n * m->sites_n * KEEP * sizeof(uint32_t);
    if (bytes > MAX_SAMPLE_BYTES) {
        return sf_fail(err, SF_E_INPUT,
                       "%u ranks with %zu kernel calls are too much to measure: measure a smaller plan", m->ranks_n,
                       m->sites_n);
    }
    m->ranks = sf_arena_alloc(m->arena, m->ranks_n, sizeof *m->ranks);
    uint32_t *ns = sf_arena_alloc(m->arena, m->ranks_n * m->sites_n, KEEP * sizeof *ns);
    uint32_t *n = sf_arena_alloc(m->arena, m->ranks_n * m->sites_n, sizeof *n);
    double *gap_s = sf_arena_alloc(m->arena, m->ranks_n, KEEP_GAPS * sizeof *gap_s);
    uint32_t *gaps_n = sf_arena_alloc(m->arena, m->ranks_n, sizeof *gaps_n);
    if (!m->ranks || !ns || !n || !gap_s || !gaps_n) {
        return sf_fail_memory(err, "samples");
    }
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        m->ranks[r] = (struct rank_samples){.ns = ns + r * m->sites_n * KEEP,
                                            .n = n + r * m->sites_n,
                                            .gap_s = gap_s + (size_t)r * KEEP_GAPS,
                                            .gaps_n = gaps_n + r};
    }
    return SF_OK;
}

static int collect_samples(struct measurement *m, struct sf_err *err) {
    SF_TRY(sfi_mpi_collect(m->ranks->ns, m->sites_n * KEEP * sizeof *m->ranks->ns, err));
    SF_TRY(sfi_mpi_collect(m->ranks->n, m->sites_n * sizeof *m->ranks->n, err));
    SF_TRY(sfi_mpi_collect(m->ranks->gap_s, KEEP_GAPS * sizeof *m->ranks->gap_s, err));
    return sfi_mpi_collect(m->ranks->gaps_n, sizeof *m->ranks->gaps_n, err);
}

static int create_sites(struct measurement *m, struct sf_err *err) {
    m->recipes = sf_arena_alloc(m->arena, m->prog->recipes_n, sizeof *m->recipes);
    for (uint32_t r = 0; m->recipes && r < m->prog->recipes_n; r++) {
        m->recipes[r].first = m->sites_n;
        m->sites_n += m->prog->recipes[r].calls_n;
    }
    m->sites = sf_arena_alloc(m->arena, m->sites_n, sizeof *m->sites);
    if (!m->recipes || !m->sites) {
        return sf_fail_memory(err, "kernel calls");
    }
    for (uint32_t r = 0; r < m->prog->recipes_n; r++) {
        for (uint32_t c = 0; c < m->prog->recipes[r].calls_n; c++) {
            m->sites[m->recipes[r].first + c] = (struct site){.call = &m->prog->recipes[r].calls[c], .recipe = r};
        }
    }
    return create_samples(m, err);
}

static int median_busy(const struct measurement *m, const struct sf_trace *trace, double **busy_s, size_t **first,
                       struct sf_err *err) {
    uint32_t steps = trace->meta.iterations;
    size_t ops = 0;
    *first = sf_calloc(m->ranks_n, sizeof **first);
    for (uint32_t r = 0; *first && r < m->ranks_n; r++) {
        (*first)[r] = ops;
        ops += m->prog->classes[sf_prog_class(m->prog, r)].ops_n;
    }
    *busy_s = sf_calloc(ops, sizeof **busy_s);
    double *samples = sf_calloc(steps, sizeof *samples);
    if (!*first || !*busy_s || !samples) {
        sf_free(samples);
        return sf_fail_memory(err, "medians");
    }
    for (size_t i = 0; i < ops; i++) { /* the trace is sorted by step, rank and op, and complete */
        size_t n = 0;
        for (uint32_t step = 0; step < steps; step++) {
            if (times_ops(step)) {
                samples[n++] = sf_ps_to_s(trace->recs[step * ops + i].busy);
            }
        }
        (*busy_s)[i] = sfi_median(samples, n);
    }
    sf_free(samples);
    return SF_OK;
}

static double without_stamp(const struct measurement *m, double seconds) {
    return seconds > m->stamp_s ? seconds - m->stamp_s : m->gpu ? 1e-9 : seconds;
}

static void add_ops(struct measurement *m, const double *busy_s, const size_t *first) {
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        const struct sf_class *c = &m->prog->classes[sf_prog_class(m->prog, r)];
        for (uint32_t i = 0; i < c->ops_n; i++) {
            if (c->ops[i].recipe != SF_NONE) {
                struct recipe_time *t = &m->recipes[c->ops[i].recipe];
                t->runs += 1.0;
                t->op_s += without_stamp(m, busy_s[first[r] + i]);
            }
        }
    }
    for (uint32_t r = 0; r < m->prog->recipes_n; r++) {
        m->recipes[r].op_s /= m->recipes[r].runs > 0.0 ? m->recipes[r].runs : 1.0;
    }
}

static int read_gaps(struct measurement *m, struct sf_err *err) {
    size_t n = 0;
    double *all = sf_calloc((size_t)m->ranks_n * KEEP_GAPS, sizeof *all);
    if (!all) {
        return sf_fail_memory(err, "dispatch times");
    }
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        for (uint32_t i = 0; i < *m->ranks[r].gaps_n && i < KEEP_GAPS; i++) {
            all[n++] = m->ranks[r].gap_s[i];
        }
    }
    if (m->gpu && n == 0) {
        sf_free(all);
        return sf_fail(err, SF_E_FAULT,
                       "no time passed between any two ops of a stream: the device's clock stands still, or every op "
                       "waits for another stream: measure a plan of one stage");
    }
    m->dispatch_s = sfi_median(all, n);
    if (m->gpu && n > 0) { /* sorted by now: the shortest gaps are a stamp behind a stamp */
        m->stamp_s = all[n / 10];
        m->dispatch_s = without_stamp(m, m->dispatch_s);
    }
    sf_free(all);
    return SF_OK;
}

/* `room` is for all samples of a site. */
static int read_site(struct measurement *m, size_t index, double *room, struct sf_err *err) {
    struct site *s = &m->sites[index];
    size_t n = 0;
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        const struct rank_samples *from = &m->ranks[r];
        s->samples += from->n[index];
        for (uint32_t i = 0; i < from->n[index] && i < KEEP; i++) {
            room[n++] = from->ns[index * KEEP + i] * 1e-9;
        }
    }
    double median = sfi_median(room, n);
    if (m->gpu && n > 0 && median <= m->stamp_s) { /* a call holds a stamp */
        return sf_fail(err, SF_E_FAULT, "%s took no time: the device's clock stands still or is too coarse",
                       sf_call_name(s->call->kind));
    }
    s->time_s = without_stamp(m, median);
    m->recipes[s->recipe].calls_s += s->time_s;
    return SF_OK;
}

static int read_sites(struct measurement *m, struct sf_err *err) {
    double *room = sf_calloc((size_t)m->ranks_n * KEEP, sizeof *room);
    int rc = room ? SF_OK : sf_fail_memory(err, "samples");
    for (size_t s = 0; s < m->sites_n && rc == SF_OK; s++) {
        rc = read_site(m, s, room, err);
    }
    sf_free(room);
    return rc;
}

static double scaled(const struct measurement *m, const struct site *s) {
    const struct recipe_time *r = &m->recipes[s->recipe];
    return s->time_s * (r->calls_s > 0.0 ? r->op_s / r->calls_s : 1.0);
}

static int fit_links(struct measurement *m, const double *busy_s, const size_t *first, struct sf_err *err) {
    struct sfi_coll_time *times = sf_calloc(m->sites_n, sizeof *times);
    size_t n = 0;
    if (!times) {
        return sf_fail_memory(err, "times of collectives");
    }
    for (size_t i = 0; i < m->sites_n; i++) {
        const struct site *s = &m->sites[i];
        if (sf_call_is_collective(s->call->kind) && s->samples > 0) {
            times[n++] =
                (struct sfi_coll_time){.call = s->call, .seconds = scaled(m, s), .runs = m->recipes[s->recipe].runs};
        }
    }
    sfi_fit_links(m->prog, busy_s, first, &m->links);
    sfi_fit_recipes(m->prog, busy_s, first, times, n, &m->links);
    int rc = sfi_print_collectives(m->prog, busy_s, first, times, n, &m->collectives, err);
    sf_free(times);
    return rc;
}

/* Run until the time is up, but for at least MIN_STEPS. */
static int run(struct measurement *m, const struct sf_rt_measure_options *o, struct sf_trace *trace,
               struct sf_err *err) {
    const struct sf_rt_options options = {
        .steps = MAX_STEPS, .data_path = o->data_path, .trace = trace, .reference_kernels = o->reference_kernels};
    const struct sfi_probe probe = {.self = m,
                                    .times_calls = times_calls,
                                    .call = on_call,
                                    .gap = on_gap,
                                    .min_steps = MIN_STEPS,
                                    .deadline_ns = sfi_now_ns() + (int64_t)(o->seconds * 1e9),
                                    .lasts_ns = (int64_t)(o->seconds * 1e9)};
    int rc = o->gpu   ? sfi_run_gpu(m->prog, &options, &probe, o->gpu, err)
             : o->mpi ? sfi_run_mpi(m->prog, &options, &probe, err)
                      : sfi_run_threads(m->prog, &options, &probe, err);
    bool enough = o->gpu ? o->rank != 0 || trace->meta.iterations >= MIN_STEPS : sfi_now_ns() > probe.deadline_ns;
    rc = rc == SF_E_INTERRUPTED && enough ? SF_OK : rc;
    return rc == SF_OK && o->mpi ? collect_samples(m, err) : rc;
}

static int read_trace(struct measurement *m, const struct sf_trace *trace, struct sf_err *err) {
    double *busy_s = NULL;
    size_t *first = NULL;
    int rc = median_busy(m, trace, &busy_s, &first, err);
    rc = rc == SF_OK ? read_gaps(m, err) : rc;
    if (rc == SF_OK) {
        m->steps = trace->meta.iterations;
        snprintf(m->device, sizeof m->device, "%s", trace->meta.note);
        add_ops(m, busy_s, first);
        rc = read_sites(m, err);
    }
    if (rc == SF_OK && !m->gpu) {
        rc = fit_links(m, busy_s, first, err);
    }
    sf_free(first);
    sf_free(busy_s);
    return rc;
}

static int time_program(struct measurement *m, const struct sf_rt_measure_options *o, struct sf_err *err) {
    struct sf_trace trace;
    sf_trace_init(&trace);
    int rc = run(m, o, &trace, err);
    if (rc == SF_OK && o->rank == 0) {
        rc = read_trace(m, &trace, err);
    }
    sf_trace_clear(&trace);
    return rc;
}

static uint16_t time_flags(const struct sf_call *c) {
    return (uint16_t)(c->flags & ~(unsigned)SF_CALL_RECOMPUTE_FLAG); /* repeating a call does not change its time */
}

static int compare_site(const void *a, const void *b) {
    const struct sf_call *x = ((const struct site *)a)->call, *y = ((const struct site *)b)->call;
    if (x->kind != y->kind) {
        return x->kind < y->kind ? -1 : 1;
    }
    if (x->dtype != y->dtype) {
        return x->dtype < y->dtype ? -1 : 1;
    }
    if (time_flags(x) != time_flags(y)) {
        return time_flags(x) < time_flags(y) ? -1 : 1;
    }
    for (int d = 0; d < SF_CALL_DIMS; d++) {
        if (x->dims[d] != y->dims[d]) {
            return x->dims[d] < y->dims[d] ? -1 : 1;
        }
    }
    return 0;
}

static void print_kernel(const struct sf_call *c, double time_s, uint64_t n, struct sf_buf *out) {
    char flags[64];
    sf_buf_printf(out, "  - { kind: %s, dtype: %s, flags: [%s], dims: [", sf_call_name(c->kind),
                  sf_dtype_name(c->dtype), sfi_flags_text(time_flags(c), flags, sizeof flags));
    for (int d = 0; d < sf_call_dims_n(c->kind); d++) {
        sf_buf_printf(out, "%s%lld", d > 0 ? ", " : "", (long long)c->dims[d]);
    }
    sf_buf_printf(out, "], time: %.3fus, n: %llu }\n", time_s * 1e6, (unsigned long long)n);
}

/* Equal calls at different places differ by what is in the caches: their mean, weighted by how often each runs. */
static void print_kernels(struct measurement *m, struct sf_buf *out) {
    sf_buf_printf(out, "kernels:\n");
    qsort(m->sites, m->sites_n, sizeof *m->sites, compare_site);
    for (size_t first = 0, last; first < m->sites_n; first = last) {
        double time = 0.0, runs = 0.0;
        uint64_t samples = 0;
        for (last = first; last < m->sites_n && compare_site(&m->sites[first], &m->sites[last]) == 0; last++) {
            double each = m->recipes[m->sites[last].recipe].runs;
            time += scaled(m, &m->sites[last]) * each;
            runs += each;
            samples += m->sites[last].samples;
        }
        if (samples > 0 && !sf_call_is_collective(m->sites[first].call->kind)) {
            print_kernel(m->sites[first].call, time / runs, samples, out);
        }
    }
}

static void cpu_model(char *buf, size_t size) {
    char *text = NULL;
    size_t bytes;
    snprintf(buf, size, "unknown");
    if (sf_io_posix.read_all(sf_io_posix.self, "/proc/cpuinfo", (size_t)16 << 20, &text, &bytes, NULL) != SF_OK) {
        return;
    }
    char *line = strstr(text, "model name");
    char *value = line ? strchr(line, ':') : NULL;
    if (value) {
        snprintf(buf, size, "%.*s", (int)strcspn(value + 2, "\n\"\\"), value + 2);
    }
    sf_free(text);
}

static void print_transport(const struct measurement *m, struct sf_buf *out) {
    sf_buf_printf(out, "transport:\n");
    if (!m->links.one_device) {
        sf_buf_printf(out,
                      "  message_latency: %.3fus\n  message_rate: %.3fMB/s\n  collective_latency: %.3fus\n"
                      "  collective_rate: %.3fMB/s\n",
                      m->links.message_latency_s * 1e6, m->links.message_rate * 1e-6,
                      m->links.collective_latency_s * 1e6, m->links.collective_rate * 1e-6);
    }
    sf_buf_printf(out, "  dispatch: %.3fus\n", m->dispatch_s * 1e6);
}

/* Text of a library between quotes. */
static void print_text(const char *text, struct sf_buf *out) {
    for (const char *c = text; *c; c++) {
        sf_buf_printf(out, "%c", *c < ' ' || *c > '~' || *c == '"' || *c == '\\' ? '?' : *c);
    }
}

/* "NVIDIA H200, driver for CUDA 13.0, ...": the device, then libraries. */
static void print_device(const struct measurement *m, struct sf_buf *out) {
    char name[sizeof m->device];
    size_t n = strcspn(m->device, ",");
    snprintf(name, sizeof name, "%.*s", (int)n, m->device);
    sf_buf_printf(out, "device: \"");
    print_text(name, out);
    sf_buf_printf(out, "\", libraries: \"");
    print_text(m->device + n + (m->device[n] == ',' ? strspn(m->device + n, ", ") : 0), out);
    sf_buf_printf(out, "\", ");
}

static void print_note(const struct measurement *m, struct sf_buf *out) {
    char hash[SF_HASH_TEXT];
    sf_buf_printf(out, "note: \"program %s, %u ranks, %u steps", sf_hash_format(sf_prog_hash(m->prog), hash),
                  m->ranks_n, m->steps);
    if (m->gpu) {
        sf_buf_printf(out, "; %.3f us from a kernel to the next", m->stamp_s * 1e6);
    }
    if (m->links.one_device) {
        sf_buf_printf(out, "; copies inside the device: %.3f us, %.3f GB/s", m->links.message_latency_s * 1e6,
                      m->links.message_rate * 1e-9);
    }
    sf_buf_printf(out, "\"\n");
}

static void print_head(const struct measurement *m, struct sf_buf *out) {
    char cpu[128], date[32] = "";
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now); /* when this was measured: provenance, nothing is computed from it */
    cpu_model(cpu, sizeof cpu);
    if (gmtime_r(&now.tv_sec, &utc)) {
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    }
    sf_buf_printf(out,
                  "# Kernel and transport times of one machine, measured by staticfire-run --measure while %u rank%s\n"
                  "# the program below trained. %s per call, median; see runtime/measure.h.\n",
                  m->ranks_n, m->ranks_n == 1 ? " of" : "s of", m->gpu ? "Time on the GPU" : "CPU time");
    sf_buf_printf(out, "host: { ");
    if (m->gpu) {
        print_device(m, out);
    }
    sf_buf_printf(out, "cpu: \"%s\", cores: %ld, date: \"%s\" }\n", cpu, sysconf(_SC_NPROCESSORS_ONLN), date);
    print_note(m, out);
    print_transport(m, out);
}

static int measure(struct measurement *m, const struct sf_rt_measure_options *o, struct sf_buf *out,
                   struct sf_err *err) {
    m->clock_ns = m->gpu ? 0 : clock_cost_ns();
    SF_TRY(create_sites(m, err));
    SF_TRY(sfi_measure_links(o, m->ranks_n, &m->links, err));
    SF_TRY(time_program(m, o, err));
    if (o->rank != 0) {
        return SF_OK;
    }
    print_head(m, out);
    print_kernels(m, out);
    sf_buf_write(out, m->collectives.data, m->collectives.bytes);
    return out->failed ? sf_fail_memory(err, "the kernel table") : SF_OK;
}

int sf_rt_measure(const struct sf_prog *prog, const struct sf_rt_measure_options *options, struct sf_buf *out,
                  struct sf_err *err) {
    struct measurement m = {
        .prog = prog, .ranks_n = sf_prog_ranks(prog), .arena = sf_arena_create(), .gpu = options->gpu != NULL};
    int rc = m.arena ? measure(&m, options, out, err) : sf_fail_memory(err, "measurement");
    sf_buf_free(&m.collectives);
    sf_arena_free(m.arena);
    return rc;
}
