/* Event rate of the simulator: a 1F1B step on GB300 racks, every rank by itself, from one rack to the whole cluster.
 *
 *     bench_events [--threads N] [GPUS ...]        default: 72 576 4608 36864 220032, on all cores
 *     bench_events --audit SEEDS [GPUS]            default: 220032 GPUs
 *
 * An event is the end of an op of one rank; that a transfer begins to move, or that an end is put off, is not counted.
 *
 * Plain: all ranks of a stage are alike, so that events coincide. Jitter: every kernel of every rank has a time of its
 * own. Times are those of the best of several runs; cycles are of the time stamp counter, and misses those of the last
 * cache, where the machine counts them for its users. Exits 1 when the folded run of the plain step differs. --audit
 * runs the jittered step once per seed with every checker on, and exits 1 when one of them objects. */
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/prog_build.h"
#include "sim/sim.h"

enum { COMPUTE, FRECV, FSEND, BRECV, BSEND, GRAD, STREAMS_N };
enum { TP = 8, PP = 9, MICROBATCHES = 32, ACT = 1 << 20, PARAM = 3056 << 12 };

struct bench {
    struct sf_build *b;
    uint32_t pp, dp, m, comm_dp, comm_fwd, comm_bwd, forward, backward, optimizer;
};

static void check(int rc, const struct sf_err *err) {
    if (rc) {
        sf_err_print(err);
        exit(rc);
    }
}

static uint32_t recipe(struct bench *x, const char *name, int64_t n) {
    struct sf_call call = {.kind = SF_CALL_GEMM, .dtype = SF_BF16, .comm = SF_NONE, .dims = {n, 8192, 8192, 1}};
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        call.operand[i] = SF_REF_NONE;
    }
    sf_build_recipe_begin(x->b, name, 2);
    sf_build_call(x->b, &call);
    return sf_build_recipe_end(x->b);
}

static uint32_t compute(struct bench *x, int kind, uint32_t m, uint32_t r, const struct sf_arg args[2], uint32_t dep) {
    struct sf_op op = {.kind = (uint8_t)kind, .stream = COMPUTE, .recipe = r, .comm = SF_NONE};
    op.microbatch = (uint16_t)m;
    return sf_build_op(x->b, &op, args, 2, &dep, dep != SF_NONE);
}

static uint32_t move(struct bench *x, int kind, uint8_t stream, uint32_t comm, int32_t delta, uint32_t buf,
                     uint32_t dep) {
    struct sf_arg arg = {.buf = buf, .access = kind == SF_OP_RECV ? SF_WRITE : SF_READ_WRITE, .bytes = ACT};
    struct sf_op op = {.kind = (uint8_t)kind, .stream = stream, .recipe = SF_NONE, .comm = comm, .bytes = ACT};
    op.peer_delta = delta;
    if (comm == x->comm_dp) {
        arg.bytes = op.bytes = PARAM;
    }
    return sf_build_op(x->b, &op, &arg, 1, &dep, dep != SF_NONE);
}

static void forward(struct bench *x, uint32_t stage, uint32_t m, uint32_t out) {
    uint32_t in = sf_build_buffer(x->b, "in", SF_BUF_COMM, ACT, true), ready = SF_NONE;
    struct sf_arg args[2] = {{in, SF_READ, 0, ACT}, {out, SF_WRITE, 0, ACT}};
    if (stage > 0) {
        ready = move(x, SF_OP_RECV, FRECV, x->comm_fwd, -1, in, SF_NONE);
    }
    uint32_t f = compute(x, SF_OP_FORWARD, m, x->forward, args, ready);
    if (stage + 1 < x->pp) {
        move(x, SF_OP_SEND, FSEND, x->comm_fwd, 1, out, f);
    }
}

static uint32_t backward(struct bench *x, uint32_t stage, uint32_t m, uint32_t grad) {
    uint32_t in = sf_build_buffer(x->b, "din", SF_BUF_COMM, ACT, true), ready = SF_NONE;
    struct sf_arg args[2] = {{in, SF_READ_WRITE, 0, ACT}, {grad, SF_READ_WRITE, 0, PARAM}};
    if (stage + 1 < x->pp) {
        ready = move(x, SF_OP_RECV, BRECV, x->comm_bwd, 1, in, SF_NONE);
    }
    uint32_t b = compute(x, SF_OP_BACKWARD, m, x->backward, args, ready);
    if (stage > 0) {
        move(x, SF_OP_SEND, BSEND, x->comm_bwd, -1, in, b);
    }
    return b;
}

static void stage(struct bench *x, uint32_t s) {
    sf_build_class_begin(x->b, "stage", s);
    uint32_t param = sf_build_buffer(x->b, "param", SF_BUF_PARAM, PARAM, true);
    uint32_t grad = sf_build_buffer(x->b, "grad", SF_BUF_GRAD, PARAM, true);
    uint32_t warm = x->pp - 1 - s < x->m ? x->pp - 1 - s : x->m, f = 0, last = 0;
    while (f < warm) {
        forward(x, s, f++, sf_build_buffer(x->b, "out", SF_BUF_ACTIVATION, ACT, true));
    }
    for (uint32_t m = 0; m < x->m; m++) {
        if (f < x->m) {
            forward(x, s, f++, sf_build_buffer(x->b, "out", SF_BUF_ACTIVATION, ACT, true));
        }
        last = backward(x, s, m, grad);
    }
    last = move(x, SF_OP_ALL_REDUCE, GRAD, x->comm_dp, 0, grad, last);
    compute(x, SF_OP_OPTIMIZER, 0, x->optimizer,
            (struct sf_arg[]){{grad, SF_READ, 0, PARAM}, {param, SF_READ_WRITE, 0, PARAM}}, last);
    sf_build_class_end(x->b);
}

static struct sf_prog *build(struct bench *x, const struct sf_topo *topo) {
    static const char *const streams[STREAMS_N] = {"compute", "fwd.recv", "fwd.send", "bwd.recv", "bwd.send", "grad"};
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    x->b = sf_build_create();
    sf_build_axis(x->b, "tp", TP);
    sf_build_axis(x->b, "dp", x->dp / TP);
    sf_build_axis(x->b, "pp", x->pp);
    x->comm_dp = sf_build_comm(x->b, "dp", 2);
    x->comm_fwd = sf_build_comm(x->b, "pp.fwd", 4);
    x->comm_bwd = sf_build_comm(x->b, "pp.bwd", 4);
    for (int i = 0; i < STREAMS_N; i++) {
        sf_build_stream(x->b, streams[i]);
    }
    x->forward = recipe(x, "forward", 4096);
    x->backward = recipe(x, "backward", 8192);
    x->optimizer = recipe(x, "optimizer", 64);
    prog = sf_build_prog(x->b);
    prog->class_axes = 4;
    prog->ranks_per_domain = prog->domain_gpus = sf_topo_domain_gpus(topo);
    prog->device_memory_bytes = sf_topo_device(topo)->memory_bytes;
    prog->job = (struct sf_prog_job){.microbatches = x->m, .chunks = 1};
    uint32_t class_of[64];
    for (uint32_t s = 0; s < x->pp; s++) {
        class_of[s] = s;
        stage(x, s);
    }
    check(sf_build_finish(x->b, class_of, x->pp, &prog, &err), &err);
    sf_build_free(x->b);
    return prog;
}

static double now_s(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of the time stamp counter; 0 on machines without one. */
static double cycles_per_s(void) {
#if defined __x86_64__
    double from = now_s(CLOCK_MONOTONIC);
    uint64_t began = __builtin_ia32_rdtsc();
    while (now_s(CLOCK_MONOTONIC) - from < 0.01) {
    }
    return (double)(__builtin_ia32_rdtsc() - began) / (now_s(CLOCK_MONOTONIC) - from);
#else
    return 0.0;
#endif
}

struct row {
    struct sf_sim_result best;
    double cpu_s;
    double misses; /* below 0: not counted */
};

/* Counts misses of the last cache from now on, those of threads still to come included; below 0 where that is not to be
 * had. */
static int open_misses(void) {
    struct perf_event_attr what = {.type = PERF_TYPE_HARDWARE,
                                   .size = sizeof what,
                                   .config = PERF_COUNT_HW_CACHE_MISSES,
                                   .inherit = 1,
                                   .exclude_kernel = 1,
                                   .exclude_hv = 1};
    return (int)syscall(SYS_perf_event_open, &what, 0, -1, -1, 0);
}

static double close_misses(int counter) {
    uint64_t n = 0;
    bool counted = counter >= 0 && read(counter, &n, sizeof n) == (ssize_t)sizeof n;
    if (counter >= 0) {
        close(counter);
    }
    return counted ? (double)n : -1.0;
}

/* Small steps are repeated until they add up to something that can be timed. */
static struct row measure(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_options *o) {
    struct row row = {.cpu_s = 1e30};
    double from = now_s(CLOCK_MONOTONIC);
    for (int i = 0; i < 200 && (i < 1 || now_s(CLOCK_MONOTONIC) - from < 0.5); i++) {
        struct sf_sim_result r;
        struct sf_err err = {0};
        int counter = open_misses();
        double began = now_s(CLOCK_PROCESS_CPUTIME_ID);
        check(sf_sim_run(prog, cost, o, &r, &err), &err);
        double cpu_s = now_s(CLOCK_PROCESS_CPUTIME_ID) - began, misses = close_misses(counter);
        row = cpu_s < row.cpu_s ? (struct row){r, cpu_s, misses} : row;
    }
    return row;
}

static void print_row(const char *name, const struct sf_prog *prog, const struct row *row) {
    const struct sf_sim_result *r = &row->best;
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    double events = (double)r->events, ns = row->cpu_s / events * 1e9;
    char misses[32] = "-";
    if (row->misses >= 0.0) {
        snprintf(misses, sizeof misses, "%.2f", row->misses / events);
    }
    printf("%7u  %-6s %11.0f  %7.3f  %7.3f  %9.2f  %9.2f  %8.1f  %8.0f  %10s  %6.0f\n", sf_prog_ranks(prog), name,
           events, r->wall_s, r->run_s, events / r->wall_s * 1e-6, events / r->run_s * 1e-6, ns,
           ns * 1e-9 * cycles_per_s(), misses, (double)use.ru_maxrss / 1024);
    fflush(stdout);
}

struct setting {
    struct sf_topo *topo;
    struct sf_cost *cost;
    struct sf_prog *prog;
};

static struct setting set_up(uint32_t gpus) {
    struct bench x = {.pp = PP, .dp = gpus / PP, .m = MICROBATCHES};
    struct setting s = {0};
    struct sf_err err = {0};
    check(sf_topo_load(&sf_io_posix, SF_SOURCE_DIR "/scenarios/clusters/gb300-nvl72-220k.yaml", SF_CATALOG_DIR, &s.topo,
                       &err),
          &err);
    check(sf_cost_create(s.topo, &sf_io_posix, NULL, &s.cost, &err), &err);
    s.prog = build(&x, s.topo);
    return s;
}

static void take_down(struct setting *s) {
    sf_prog_free(s->prog);
    sf_cost_free(s->cost);
    sf_topo_free(s->topo);
}

/* One size in a process of its own, so that peak memory is its own. */
static int bench(uint32_t gpus, uint32_t threads) {
    struct setting s = set_up(gpus);
    struct sf_sim_options o = {.unfolded = true, .seed = 1, .threads = threads};
    struct row plain = measure(s.prog, s.cost, &o);
    print_row("plain", s.prog, &plain);
    o.jitter = 0.02;
    struct row jitter = measure(s.prog, s.cost, &o);
    print_row("jitter", s.prog, &jitter);
    o = (struct sf_sim_options){.seed = 1};
    struct row folded = measure(s.prog, s.cost, &o);
    print_row("folded", s.prog, &folded);
    bool same = sf_hash_equal(folded.best.digest, plain.best.digest);
    take_down(&s);
    if (!same) {
        printf("the folded step is ANOTHER\n");
    }
    return same ? 0 : 1;
}

static int audit(uint32_t seeds, uint32_t gpus) {
    struct setting s = set_up(gpus);
    uint64_t events = 0, checks = 0, violations = 0;
    for (uint32_t seed = 1; seed <= seeds; seed++) {
        struct sf_sim_options o = {.unfolded = true, .seed = seed, .jitter = 0.02, .audit = true};
        struct sf_sim_result r;
        struct sf_err err = {0};
        check(sf_sim_run(s.prog, s.cost, &o, &r, &err), &err);
        events += r.events;
        checks += r.audited;
        violations += r.violations;
        printf("seed %u: %llu events, %llu checks, %llu violations in all%s%s\n", seed, (unsigned long long)events,
               (unsigned long long)checks, (unsigned long long)violations, r.violations ? ": " : "", r.violation);
        fflush(stdout);
    }
    take_down(&s);
    return violations ? 1 : 0;
}

static int bench_apart(uint32_t gpus, uint32_t threads) {
    int status = 1;
    pid_t child = fork();
    if (child == 0) {
        exit(bench(gpus, threads));
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    static char *sizes[] = {"72", "576", "4608", "36864", "220032"};
    uint32_t threads = 0;
    int first = 1, n = argc - 1, failed = 0;
    if (argc > 2 && strcmp(argv[1], "--audit") == 0) {
        return audit((uint32_t)strtoul(argv[2], NULL, 10), argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 220032);
    }
    if (argc > 2 && strcmp(argv[1], "--threads") == 0) {
        threads = (uint32_t)strtoul(argv[2], NULL, 10);
        first = 3;
        n = argc - 3;
    }
    char **size = n > 0 ? argv + first : sizes;
    n = n > 0 ? n : (int)(sizeof sizes / sizeof *sizes);
    printf("   GPUs  case        events   wall s    run s  wall M/s    run M/s   ns/event  cyc/event  miss/event     "
           "MiB\n");
    fflush(stdout);
    for (int i = 0; i < n; i++) {
        uint32_t gpus = (uint32_t)strtoul(size[i], NULL, 10);
        if (gpus < TP * PP || gpus % (TP * PP) != 0) {
            fprintf(stderr, "expected a multiple of %d GPUs, found %s\n", TP * PP, size[i]);
            return SF_E_USAGE;
        }
        failed |= bench_apart(gpus, threads);
    }
    return failed;
}
