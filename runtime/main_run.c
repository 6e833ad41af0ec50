/* staticfire-run: execute a program for real, or time what it is made of. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/measure.h"
#include "runtime/rt.h"

#define DEFAULT_STEPS 20
#define DEFAULT_STALL "30s"
#define BAR_WIDTH 40

static const char help[] =
    "Usage: staticfire-run PROGRAM --data FILE [OPTION]...\n"
    "  or:  staticfire-run --measure PROGRAM -o kernels.yaml [--data FILE]\n"
    "\n"
    "Train: execute a compiled program on CPUs, one rank per thread, or one rank per process under mpirun or srun.\n"
    "\n"
    "  --data FILE           text to train on, one token per byte\n"
    "  --steps N             how many steps (20)\n"
    "  --transport KIND      threads or mpi (mpi when started by mpirun or srun, else threads)\n"
    "  --backend KIND        cpu (default), cuda, or record: the GPU's way of doing it without a GPU, every rule of\n"
    "                        streams, graphs and communicators checked\n"
    "  --virtual-ranks       cuda, record: all ranks of the program in this process, on one device\n"
    "  --device N            cuda: which one (the local rank's)\n"
    "  --deterministic       cuda: the same bits in every run, even where that is slower\n"
    "  --cache DIR           cuda: keep the algorithms that were found fastest\n"
    "  --estimates FILE      cuda: write how long NCCL thinks each collective takes\n"
    "  --trace FILE          write when every op of every rank was issued, started and ended\n"
    "  --dump FILE           write final gradients, weights and losses as safetensors\n"
    "  --log FILE            append one JSON object per step\n"
    "  --stall TIME          give up when a rank makes no progress for so long (30s); 0s waits for ever\n"
    "  --reference-kernels   use the plain C kernels\n"
    "  --measure             time the program's kernels and this machine's transport instead of training: that\n"
    "                        between threads, or under mpirun that of MPI\n"
    "  -o, --output FILE     where --measure writes its table\n"
    "  --quiet               no line per step\n"
    "  --json                one JSON object at the end instead of a line per step\n"
    "  --help                this text\n"
    "\n"
    "Exit status: 0 done, 2 usage, 3 invalid input, 6 a rank failed or hung, 7 interrupted, 8 input or output error.\n"
    "SIGINT and SIGTERM let the running step finish.\n"
    "\n"
    "Examples:\n"
    "  staticfire-run tiny.prog --data text.txt --steps 50 --trace real.trace\n"
    "  mpirun -n 4 staticfire-run tiny.prog --data text.txt --json\n"
    "  staticfire-run --measure tiny.prog -o kernels.yaml\n";

struct settings {
    const char *program, *trace, *log, *output;
    struct sf_rt_options run;
    struct sf_rt_gpu gpu;
    bool measure, quiet, json, mpi, transport_given, on_gpu;
};

/* What a run says while it goes on and at its end. */
struct output {
    const struct settings *settings;
    FILE *log;
    double *wall_s, *cpu_s, *loss; /* [steps] */
    double tokens;                 /* per step */
    uint32_t steps_done;
    bool bar, log_failed;
};

static void on_signal(int number) {
    (void)number;
    sf_rt_request_stop();
}

static int parse_steps(const char *text, uint32_t *out, struct sf_err *err) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || n < 1 || n > 1000000) {
        return sf_fail(err, SF_E_USAGE, "--steps %s: expected a number from 1 to 1000000", text);
    }
    *out = (uint32_t)n;
    return SF_OK;
}

static int parse_transport(const char *text, struct settings *s, struct sf_err *err) {
    s->mpi = strcmp(text, "mpi") == 0;
    s->transport_given = true;
    if (!s->mpi && strcmp(text, "threads") != 0) {
        return sf_fail(err, SF_E_USAGE, "--transport %s: expected threads or mpi", text);
    }
    return SF_OK;
}

static int parse_backend(const char *text, struct settings *s, struct sf_err *err) {
    s->gpu.record = strcmp(text, "record") == 0;
    s->on_gpu = s->gpu.record || strcmp(text, "cuda") == 0;
    if (!s->on_gpu && strcmp(text, "cpu") != 0) {
        return sf_fail(err, SF_E_USAGE, "--backend %s: expected cpu, cuda or record", text);
    }
    return SF_OK;
}

static int parse_device(const char *text, int *out, struct sf_err *err) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || n > 1023) {
        return sf_fail(err, SF_E_USAGE, "--device %s: expected a number from 0 to 1023", text);
    }
    *out = (int)n;
    return SF_OK;
}

static int parse_stall(const char *text, sf_time_ps *out, struct sf_err *err) {
    if (sf_parse_time(text, out, err) != SF_OK) {
        err->code = SF_E_USAGE;
        return sf_err_wrap(err, "--stall %s", text);
    }
    return SF_OK;
}

enum { DATA = 256, STEPS, TRANSPORT, TRACE, DUMP, LOG, STALL, REFERENCE, MEASURE, QUIET, JSON, HELP };
enum { BACKEND = 512, VIRTUAL_RANKS, DEVICE, DETERMINISTIC, CACHE, ESTIMATES };

static const struct option options[] = {{"data", required_argument, NULL, DATA},
                                        {"steps", required_argument, NULL, STEPS},
                                        {"transport", required_argument, NULL, TRANSPORT},
                                        {"backend", required_argument, NULL, BACKEND},
                                        {"virtual-ranks", no_argument, NULL, VIRTUAL_RANKS},
                                        {"device", required_argument, NULL, DEVICE},
                                        {"deterministic", no_argument, NULL, DETERMINISTIC},
                                        {"cache", required_argument, NULL, CACHE},
                                        {"estimates", required_argument, NULL, ESTIMATES},
                                        {"trace", required_argument, NULL, TRACE},
                                        {"dump", required_argument, NULL, DUMP},
                                        {"log", required_argument, NULL, LOG},
                                        {"stall", required_argument, NULL, STALL},
                                        {"reference-kernels", no_argument, NULL, REFERENCE},
                                        {"measure", no_argument, NULL, MEASURE},
                                        {"output", required_argument, NULL, 'o'},
                                        {"quiet", no_argument, NULL, QUIET},
                                        {"json", no_argument, NULL, JSON},
                                        {"help", no_argument, NULL, HELP},
                                        {0}};

static int apply_gpu(int option, struct settings *s, struct sf_err *err) {
    switch (option) {
    case BACKEND:
        return parse_backend(optarg, s, err);
    case VIRTUAL_RANKS:
        s->gpu.virtual_ranks = true;
        return SF_OK;
    case DEVICE:
        return parse_device(optarg, &s->gpu.device, err);
    case DETERMINISTIC:
        s->gpu.deterministic = true;
        return SF_OK;
    case CACHE:
        s->gpu.cache_dir = optarg;
        return SF_OK;
    default:
        s->gpu.estimates_path = optarg;
        return SF_OK;
    }
}

static int apply(int option, struct settings *s, struct sf_err *err) {
    if (option >= BACKEND) {
        return apply_gpu(option, s, err);
    }
    switch (option) {
    case DATA:
        s->run.data_path = optarg;
        return SF_OK;
    case STEPS:
        return parse_steps(optarg, &s->run.steps, err);
    case TRANSPORT:
        return parse_transport(optarg, s, err);
    case TRACE:
        s->trace = optarg;
        return SF_OK;
    case DUMP:
        s->run.dump_path = optarg;
        return SF_OK;
    case LOG:
        s->log = optarg;
        return SF_OK;
    case STALL:
        return parse_stall(optarg, &s->run.stall_limit, err);
    case REFERENCE:
        s->run.reference_kernels = true;
        return SF_OK;
    case MEASURE:
        s->measure = true;
        return SF_OK;
    case 'o':
        s->output = optarg;
        return SF_OK;
    case QUIET:
        s->quiet = true;
        return SF_OK;
    case JSON:
        s->json = true;
        return SF_OK;
    default:
        return sf_fail(err, SF_E_INTERNAL, "option %d has no meaning", option);
    }
}

/* Options that would change nothing are refused. */
static int check_gpu_settings(const struct settings *s, struct sf_err *err) {
    bool cuda = s->on_gpu && !s->gpu.record;
    if (s->on_gpu && (s->measure || s->transport_given || s->run.reference_kernels)) {
        return sf_fail(err, SF_E_USAGE, "--measure, --transport and --reference-kernels belong to --backend cpu");
    }
    if (s->gpu.estimates_path && s->gpu.virtual_ranks) {
        return sf_fail(err, SF_E_USAGE, "--estimates asks NCCL, which virtual ranks do not use");
    }
    if (!s->on_gpu && s->gpu.virtual_ranks) {
        return sf_fail(err, SF_E_USAGE, "--virtual-ranks belongs to --backend cuda or record");
    }
    if (!cuda && (s->gpu.device >= 0 || s->gpu.deterministic || s->gpu.cache_dir || s->gpu.estimates_path)) {
        return sf_fail(err, SF_E_USAGE, "--device, --deterministic, --cache and --estimates belong to --backend cuda");
    }
    return SF_OK;
}

/* Options that would change nothing are refused. */
static int check_settings(const struct settings *s, struct sf_err *err) {
    if (!s->program) {
        return sf_fail(err, SF_E_USAGE, "no program named: see staticfire-run --help");
    }
    if (s->measure != (s->output != NULL)) {
        return sf_fail(err, SF_E_USAGE, s->measure ? "--measure needs -o FILE" : "-o FILE belongs to --measure");
    }
    if (s->measure && (s->trace || s->run.dump_path || s->log || s->transport_given || s->json || s->run.steps)) {
        return sf_fail(err, SF_E_USAGE, "--measure takes no other options than -o, --data and --reference-kernels");
    }
    return check_gpu_settings(s, err);
}

static int parse_arguments(int argc, char **argv, struct settings *s, bool *asked_help, struct sf_err *err) {
    opterr = 0;
    s->gpu.device = -1;
    sf_parse_time(DEFAULT_STALL, &s->run.stall_limit, NULL);
    for (int option; (option = getopt_long(argc, argv, ":o:", options, NULL)) != -1;) {
        if (option == '?' || option == ':') {
            return sf_fail(err, SF_E_USAGE, "%s %.60s: see staticfire-run --help",
                           option == ':' ? "a value is missing behind" : "unknown option", argv[optind - 1]);
        }
        if (option == HELP) {
            *asked_help = true;
            return SF_OK;
        }
        SF_TRY(apply(option, s, err));
    }
    s->program = optind < argc ? argv[optind++] : NULL;
    if (optind < argc) {
        return sf_fail(err, SF_E_USAGE, "one program expected, also found \"%s\"", argv[optind]);
    }
    SF_TRY(check_settings(s, err));
    s->mpi = s->transport_given ? s->mpi : !s->on_gpu && sf_rt_mpi_launched();
    s->run.steps = s->run.steps ? s->run.steps : DEFAULT_STEPS;
    return SF_OK;
}

static void draw_bar(const struct output *o) {
    uint32_t steps = o->settings->run.steps;
    int full = (int)((uint64_t)o->steps_done * BAR_WIDTH / steps);
    fprintf(stderr, "\r[%.*s%*s] step %u of %u%s", full, "########################################", BAR_WIDTH - full,
            "", o->steps_done, steps, o->steps_done == steps ? "\n" : "");
}

static void on_step(void *self, uint32_t step, double loss, double wall_s, double cpu_s) {
    struct output *o = self;
    double rate = wall_s > 0.0 ? o->tokens / wall_s : 0.0;
    o->wall_s[step] = wall_s;
    o->cpu_s[step] = cpu_s;
    o->loss[step] = loss;
    o->steps_done = step + 1;
    if (!o->settings->quiet && !o->settings->json) {
        printf("step %4u  loss %.6f  %.0f tokens/s  wall %.3f ms  cpu %.3f ms\n", step + 1, loss, rate, wall_s * 1e3,
               cpu_s * 1e3);
        fflush(stdout);
    }
    if (o->settings->log && step == 0) { /* not before: a run that cannot start leaves no log */
        o->log = fopen(o->settings->log, "a");
        o->log_failed = o->log == NULL;
    }
    if (o->log) {
        fprintf(o->log, "{\"step\": %u, \"loss\": ", step + 1);
        fprintf(o->log, isfinite(loss) ? "%.9g" : "null", loss);
        fprintf(o->log, ", \"tokens_per_s\": %.6g, \"wall_s\": %.9g, \"cpu_s\": %.9g}\n", rate, wall_s, cpu_s);
        o->log_failed |= fflush(o->log) != 0 || ferror(o->log);
    }
    if (o->bar) {
        draw_bar(o);
    }
}

static double median(const double *values, uint32_t n) {
    double *sorted = sf_calloc(n, sizeof *sorted), m = 0.0;
    if (sorted) {
        memcpy(sorted, values, n * sizeof *sorted);
        m = sfi_median(sorted, n);
    }
    sf_free(sorted);
    return m;
}

static json_t *list_of(const double *values, uint32_t n) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++) {
        json_array_append_new(list, isfinite(values[i]) ? json_real(values[i]) : json_null());
    }
    return list;
}

static const char *transport_name(const struct settings *s) {
    if (s->on_gpu) {
        return s->gpu.record ? "record" : s->gpu.virtual_ranks ? "cuda-virtual" : "cuda";
    }
    return s->mpi ? "mpi" : "threads";
}

static int print_json(const struct output *o, const struct sf_prog *prog, int rc, struct sf_err *err) {
    char hash[SF_HASH_TEXT];
    double step = median(o->wall_s, o->steps_done);
    json_t *root = json_pack("{s:s, s:s, s:I, s:I, s:b}", "program", sf_hash_format(sf_prog_hash(prog), hash),
                             "transport", transport_name(o->settings), "ranks", (json_int_t)sf_prog_ranks(prog),
                             "steps", (json_int_t)o->steps_done, "interrupted", rc == SF_E_INTERRUPTED);
    int failed = json_object_set_new(root, "step_time_s", list_of(o->wall_s, o->steps_done));
    failed |= json_object_set_new(root, "loss", list_of(o->loss, o->steps_done));
    failed |= json_object_set_new(root, "cpu_s", list_of(o->cpu_s, o->steps_done));
    failed |= json_object_set_new(root, "tokens_per_s", step > 0.0 ? json_real(o->tokens / step) : json_null());
    failed |= json_object_set_new(root, "mfu", json_null()); /* of a CPU no peak is known */
    if (failed == 0) {
        failed = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
    }
    json_decref(root);
    return failed == 0 ? SF_OK : sf_fail(err, SF_E_IO, "cannot write JSON to standard output");
}

static int check_trace(const struct settings *s, const struct sf_prog *prog, struct sf_err *err) {
    uint64_t ops = 0;
    for (uint32_t r = 0; s->trace && r < sf_prog_ranks(prog); r++) {
        ops += prog->classes[sf_prog_class(prog, r)].ops_n;
    }
    if (ops > SF_TRACE_MAX_RECS / s->run.steps) {
        return sf_fail(err, SF_E_USAGE,
                       "%u steps of %llu ops are more than the %llu records of a trace: trace fewer steps",
                       s->run.steps, (unsigned long long)ops, (unsigned long long)SF_TRACE_MAX_RECS);
    }
    return sf_output_check(s->trace, err);
}

/* Before the training whose results they are to take. */
static int check_outputs(const struct settings *s, const struct sf_prog *prog, struct sf_err *err) {
    SF_TRY(check_trace(s, prog, err));
    SF_TRY(sf_output_check(s->run.dump_path, err));
    return sf_output_check(s->log, err);
}

static int open_output(struct output *o, const struct sf_prog *prog, bool first, struct sf_err *err) {
    uint32_t steps = o->settings->run.steps;
    o->tokens = (double)prog->job.global_batch_sequences * prog->job.seq_len_tokens;
    o->wall_s = sf_calloc(steps, sizeof *o->wall_s);
    o->cpu_s = sf_calloc(steps, sizeof *o->cpu_s);
    o->loss = sf_calloc(steps, sizeof *o->loss);
    if (!o->wall_s || !o->cpu_s || !o->loss) {
        return sf_fail_memory(err, "step times");
    }
    o->bar = first && isatty(STDERR_FILENO) && (o->settings->quiet || o->settings->json || !isatty(STDOUT_FILENO));
    return first ? check_outputs(o->settings, prog, err) : SF_OK;
}

static int close_output(struct output *o, struct sf_err *err) {
    bool failed = (o->log && fclose(o->log) != 0) || o->log_failed;
    sf_free(o->wall_s);
    sf_free(o->cpu_s);
    sf_free(o->loss);
    return failed ? sf_fail_at(err, SF_E_IO, o->settings->log, 0, 0, "cannot write") : SF_OK;
}

static int finish(const struct output *o, const struct sf_prog *prog, const struct sf_trace *trace, int rc,
                  struct sf_err *err) {
    struct sf_err late = {0};
    int failed = o->settings->trace ? sf_trace_write(&sf_io_posix, o->settings->trace, trace, &late) : SF_OK;
    if (failed == SF_OK && o->settings->json) {
        failed = print_json(o, prog, rc, &late);
    }
    if (failed == SF_OK && (fflush(stdout) != 0 || ferror(stdout))) {
        failed = sf_fail(&late, SF_E_IO, "cannot write to standard output");
    }
    if (failed != SF_OK) {
        *err = late;
        return failed;
    }
    return rc;
}

static int train(struct settings *s, const struct sf_prog *prog, bool first, struct sf_err *err) {
    struct output o = {.settings = s};
    struct sf_trace trace;
    sf_trace_init(&trace);
    s->run.trace = s->trace ? &trace : NULL;
    s->run.on_step = on_step;
    s->run.self = &o;
    int rc = open_output(&o, prog, first, err);
    rc = s->mpi ? sf_rt_mpi_agree(rc, err) : rc;
    if (rc == SF_OK) {
        rc = s->on_gpu ? sf_rt_run_gpu(prog, &s->run, &s->gpu, err)
             : s->mpi  ? sf_rt_run_mpi(prog, &s->run, err)
                       : sf_rt_run_threads(prog, &s->run, err);
        if (first && (rc == SF_OK || rc == SF_E_INTERRUPTED)) {
            rc = finish(&o, prog, &trace, rc, err);
        }
    }
    struct sf_err late = {0};
    int closed = close_output(&o, &late);
    if (rc == SF_OK && closed != SF_OK) {
        *err = late;
        rc = closed;
    }
    sf_trace_clear(&trace);
    return rc;
}

static int measure(const struct settings *s, const struct sf_prog *prog, uint32_t rank, struct sf_err *err) {
    const struct sf_rt_measure_options how = {.data_path = s->run.data_path,
                                              .reference_kernels = s->run.reference_kernels,
                                              .seconds = 4.0,
                                              .mpi = s->mpi,
                                              .rank = rank};
    struct sf_buf text = {0};
    int rc = rank == 0 ? sf_output_check(s->output, err) : SF_OK;
    SF_TRY(s->mpi ? sf_rt_mpi_agree(rc, err) : rc);
    rc = sf_rt_measure(prog, &how, &text, err);
    if (rc == SF_OK && rank == 0) {
        rc = sf_io_posix.write_all(sf_io_posix.self, s->output, text.data, text.bytes, err);
    }
    sf_buf_free(&text);
    return rc;
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL); /* the second one kills */
    sigaction(SIGTERM, &action, NULL);
}

static int run(struct settings *s, struct sf_err *err) {
    struct sf_prog *prog = NULL;
    bool first = true;
    uint32_t rank = 0, ranks = 1;
    if (s->mpi) {
        SF_TRY(sf_rt_mpi_begin(&rank, &ranks, err));
    } else if (s->on_gpu) {
        SF_TRY(sf_rt_gpu_place(&s->gpu, &rank, &ranks, &s->mpi, err));
    }
    first = rank == 0;
    int rc = sf_prog_read(&sf_io_posix, s->program, &prog, err);
    rc = s->mpi ? sf_rt_mpi_agree(rc, err) : rc;
    if (rc == SF_OK) {
        catch_signals();
        rc = s->measure ? measure(s, prog, rank, err) : train(s, prog, first, err);
    }
    sf_prog_free(prog);
    if (s->mpi) { /* said before the end: as soon as one process has left with an error, mpirun kills the others */
        if (rc != SF_OK && first) {
            sf_err_print(err);
        }
        *err = (struct sf_err){0};
        sf_rt_mpi_end();
    }
    return rc;
}

int main(int argc, char **argv) {
    struct settings s = {0};
    struct sf_err err = {0};
    bool asked_help = false;
    int rc = parse_arguments(argc, argv, &s, &asked_help, &err);
    if (asked_help) {
        return fputs(help, stdout) == EOF || fflush(stdout) != 0 ? SF_E_IO : SF_OK;
    }
    if (rc == SF_OK) {
        rc = run(&s, &err);
    }
    if (rc != SF_OK && err.code != SF_OK) {
        sf_err_print(&err);
    }
    return rc;
}
