/* staticfire-run: execute a program for real, or time what it is made of. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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
    "  --deterministic       cuda: the same bits in every run on the same GPU model and libraries, with or without a\n"
    "                        cache, even where that is slower\n"
    "  --cache DIR           cuda: keep the algorithms that were found fastest here\n"
    "                        ($XDG_CACHE_HOME/staticfire or ~/.cache/staticfire)\n"
    "  --no-cache            cuda: search anew and keep nothing\n"
    "  --estimates FILE      cuda: write how long NCCL thinks each collective takes (record: null)\n"
    "  --trace FILE          write when every op of every rank was issued, started and ended\n"
    "  --dump FILE           write final gradients, weights and losses as safetensors\n"
    "  --log FILE            append one JSON object per step\n"
    "  --stall TIME          give up when a rank makes no progress for so long (30s); 0s waits for ever\n"
    "  --reference-kernels   use the plain C kernels\n"
    "  --measure             time the program's kernels and this machine's transport instead of training: that\n"
    "                        between threads, or under mpirun that of MPI; with --backend cuda the GPU's kernels,\n"
    "                        and under mpirun what NCCL takes (record: made-up times, for tests)\n"
    "  --describe            cuda, record: one JSON object that names the device and its libraries; no program\n"
    "  -o, --output FILE     where --measure writes its table\n"
    "  --quiet               no line per step\n"
    "  --json                one JSON object at the end instead of a line per step\n"
    "  --help                this text\n"
    "\n"
    "Exit status: 0 done, 1 internal error or out of memory, 2 usage, 3 invalid input, 6 a rank failed or hung,\n"
    "7 interrupted, 8 input or output error.\n"
    "SIGINT and SIGTERM let the running step finish.\n"
    "\n"
    "Examples:\n"
    "  staticfire-run tiny.prog --data text.txt --steps 50 --trace real.trace\n"
    "  mpirun -n 4 staticfire-run tiny.prog --data text.txt --json\n"
    "  mpirun -n 8 staticfire-run step.prog --data text.txt --backend cuda\n"
    "  staticfire-run --measure tiny.prog -o kernels.yaml\n";

struct settings {
    const char *program, *trace, *log, *output;
    struct sf_rt_options run;
    struct sf_rt_gpu gpu;
    bool measure, describe, quiet, json, mpi, transport_given, on_gpu, no_cache;
    char cache[4096]; /* the usual folder; "" when it is not used */
    char part[4096];  /* where this rank's trace goes when nothing gathers them; else "" */
};

enum series { WALL, CPU, LOSS, GRADIENT_NORM, HOST, LAUNCH, SERIES };

/* What a run says while it goes on and at its end. */
struct output {
    const struct settings *settings;
    FILE *log;
    double *series[SERIES]; /* [steps] each; NaN: unknown */
    double tokens;          /* per step */
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
enum { BACKEND = 512, VIRTUAL_RANKS, DEVICE, DETERMINISTIC, CACHE, NO_CACHE, ESTIMATES, DESCRIBE };

static const struct option options[] = {{"data", required_argument, NULL, DATA},
                                        {"steps", required_argument, NULL, STEPS},
                                        {"transport", required_argument, NULL, TRANSPORT},
                                        {"backend", required_argument, NULL, BACKEND},
                                        {"virtual-ranks", no_argument, NULL, VIRTUAL_RANKS},
                                        {"device", required_argument, NULL, DEVICE},
                                        {"deterministic", no_argument, NULL, DETERMINISTIC},
                                        {"cache", required_argument, NULL, CACHE},
                                        {"no-cache", no_argument, NULL, NO_CACHE},
                                        {"estimates", required_argument, NULL, ESTIMATES},
                                        {"trace", required_argument, NULL, TRACE},
                                        {"dump", required_argument, NULL, DUMP},
                                        {"log", required_argument, NULL, LOG},
                                        {"stall", required_argument, NULL, STALL},
                                        {"reference-kernels", no_argument, NULL, REFERENCE},
                                        {"measure", no_argument, NULL, MEASURE},
                                        {"describe", no_argument, NULL, DESCRIBE},
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
    case NO_CACHE:
        s->no_cache = true;
        return SF_OK;
    case DESCRIBE:
        s->describe = true;
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

/* One of several processes that a launcher started. */
static bool has_siblings(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *size = getenv(names[i]);
        if (size && strtoul(size, NULL, 10) > 1) {
            return true;
        }
    }
    return false;
}

/* Options that would change nothing are refused. */
static int check_gpu_settings(const struct settings *s, struct sf_err *err) {
    bool cuda = s->on_gpu && !s->gpu.record;
    if (s->on_gpu && (s->transport_given || s->run.reference_kernels)) {
        return sf_fail(err, SF_E_USAGE, "--transport and --reference-kernels belong to --backend cpu");
    }
    if (s->gpu.record && !s->measure && has_siblings()) {
        return sf_fail(err, SF_E_USAGE, "--backend record runs all ranks in one process; start it without mpirun");
    }
    if (s->measure && s->gpu.estimates_path) {
        return sf_fail(err, SF_E_USAGE, "--estimates belongs to training, not to --measure");
    }
    if (s->gpu.estimates_path && s->gpu.virtual_ranks) {
        return sf_fail(err, SF_E_USAGE, "--estimates asks NCCL, which virtual ranks do not use");
    }
    if (!s->on_gpu && s->gpu.virtual_ranks) {
        return sf_fail(err, SF_E_USAGE, "--virtual-ranks belongs to --backend cuda or record");
    }
    if (!cuda && (s->gpu.device >= 0 || s->gpu.deterministic || s->gpu.cache_dir || s->no_cache)) {
        return sf_fail(err, SF_E_USAGE, "--device, --deterministic, --cache and --no-cache belong to --backend cuda");
    }
    if (s->no_cache && s->gpu.cache_dir) {
        return sf_fail(err, SF_E_USAGE, "--no-cache contradicts --cache %s", s->gpu.cache_dir);
    }
    if (!s->on_gpu && s->gpu.estimates_path) {
        return sf_fail(err, SF_E_USAGE, "--estimates belongs to --backend cuda or record");
    }
    return SF_OK;
}

/* Options that would change nothing are refused. */
static int check_settings(const struct settings *s, struct sf_err *err) {
    if (s->describe && (!s->on_gpu || s->program || s->measure)) {
        return sf_fail(err, SF_E_USAGE, "--describe goes with --backend cuda or record, --device and nothing else");
    }
    if (!s->program && !s->describe) {
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

/* Figures that a device does not have are left out. */
static void print_step(const struct sf_rt_step *s, double rate, bool record) {
    if (record && isnan(s->loss)) {
        printf("step %4u  every rule held; nothing computed, for CPUs have no kernels of this precision\n",
               s->step + 1);
        fflush(stdout);
        return;
    }
    printf("step %4u  loss %.6f", s->step + 1, s->loss);
    if (!isnan(s->norm)) {
        printf("  norm %.6g", s->norm);
    }
    if (!isnan(s->wall_s)) {
        printf("  %.0f tokens/s  wall %.3f ms  cpu %.3f ms", rate, s->wall_s * 1e3, s->cpu_s * 1e3);
    }
    putchar('\n');
    fflush(stdout);
}

static void log_number(FILE *log, const char *name, const char *format, double value) {
    fprintf(log, ", \"%s\": ", name);
    fprintf(log, isfinite(value) ? format : "null", value);
}

static void log_step(struct output *o, const struct sf_rt_step *s, double rate) {
    if (s->step == 0) { /* not before: a run that cannot start leaves no log */
        o->log = fopen(o->settings->log, "a");
        o->log_failed = o->log == NULL;
    }
    if (o->log) {
        fprintf(o->log, "{\"step\": %u", s->step + 1);
        log_number(o->log, "loss", "%.9g", s->loss);
        log_number(o->log, "grad_norm", "%.9g", s->norm);
        log_number(o->log, "tokens_per_s", "%.6g", rate);
        log_number(o->log, "wall_s", "%.9g", s->wall_s);
        log_number(o->log, "cpu_s", "%.9g", s->cpu_s);
        fprintf(o->log, "}\n");
        o->log_failed |= fflush(o->log) != 0 || ferror(o->log);
    }
}

static void on_step(void *self, const struct sf_rt_step *s) {
    struct output *o = self;
    double rate = s->wall_s > 0.0 ? o->tokens / s->wall_s : NAN;
    const double values[SERIES] = {[WALL] = s->wall_s,        [CPU] = s->cpu_s,   [LOSS] = s->loss,
                                   [GRADIENT_NORM] = s->norm, [HOST] = s->host_s, [LAUNCH] = s->launch_s};
    for (int i = 0; i < SERIES; i++) {
        o->series[i][s->step] = values[i];
    }
    o->steps_done = s->step + 1;
    if (!o->settings->quiet && !o->settings->json) {
        print_step(s, rate, o->settings->gpu.record);
    }
    if (o->settings->log) {
        log_step(o, s, rate);
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
    double step = median(o->series[WALL], o->steps_done);
    json_t *root = json_pack("{s:s, s:s, s:I, s:I, s:b}", "program", sf_hash_format(sf_prog_hash(prog), hash),
                             "transport", transport_name(o->settings), "ranks", (json_int_t)sf_prog_ranks(prog),
                             "steps", (json_int_t)o->steps_done, "interrupted", rc == SF_E_INTERRUPTED);
    static const char *const names[SERIES] = {[WALL] = "step_time_s",        [CPU] = "cpu_s",   [LOSS] = "loss",
                                              [GRADIENT_NORM] = "grad_norm", [HOST] = "host_s", [LAUNCH] = "launch_s"};
    int failed = 0;
    for (int i = 0; i < SERIES; i++) {
        failed |= json_object_set_new(root, names[i], list_of(o->series[i], o->steps_done));
    }
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
    return s->part[0] ? SF_OK : sf_output_check(s->trace, err);
}

/* Gradients are kept in the last step only, so a run that ends early has none to write. */
static int say_not_dumped(const struct settings *s, int rc, struct sf_err *err) {
    return rc == SF_E_INTERRUPTED && s->run.dump_path
               ? sf_err_wrap(err, "%.200s is not written, which needs all %u steps", s->run.dump_path, s->run.steps)
               : rc;
}

/* Before the training whose results they are to take. */
static int check_outputs(const struct settings *s, const struct sf_prog *prog, struct sf_err *err) {
    SF_TRY(check_trace(s, prog, err));
    SF_TRY(sf_output_check(s->run.dump_path, err));
    SF_TRY(sf_output_check(s->gpu.estimates_path, err));
    return sf_output_check(s->log, err);
}

static int open_output(struct output *o, const struct sf_prog *prog, bool first, struct sf_err *err) {
    uint32_t steps = o->settings->run.steps;
    o->tokens = (double)prog->job.global_batch_sequences * prog->job.seq_len_tokens;
    for (int i = 0; i < SERIES; i++) {
        o->series[i] = sf_calloc(steps, sizeof *o->series[i]);
        if (!o->series[i]) {
            return sf_fail_memory(err, "step times");
        }
    }
    o->bar = first && isatty(STDERR_FILENO) && (o->settings->quiet || o->settings->json || !isatty(STDOUT_FILENO));
    return first ? check_outputs(o->settings, prog, err) : SF_OK;
}

static int close_output(struct output *o, struct sf_err *err) {
    bool failed = (o->log && fclose(o->log) != 0) || o->log_failed;
    for (int i = 0; i < SERIES; i++) {
        sf_free(o->series[i]);
    }
    return failed ? sf_fail_at(err, SF_E_IO, o->settings->log, 0, 0, "cannot write") : SF_OK;
}

static int finish(const struct output *o, const struct sf_prog *prog, bool first, const struct sf_trace *trace, int rc,
                  struct sf_err *err) {
    struct sf_err late = {0};
    const char *path = o->settings->part[0] ? o->settings->part : o->settings->trace;
    int failed = path ? sf_trace_write(&sf_io_posix, path, trace, &late) : SF_OK;
    if (failed == SF_OK && o->settings->json && first) {
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

/* Without MPI each rank writes what it knows, and compare joins the files. */
static int name_part(struct settings *s, uint32_t rank, struct sf_err *err) {
    int n = snprintf(s->part, sizeof s->part, "%s.rank%u", s->trace, rank);
    return (size_t)n < sizeof s->part
               ? sf_output_check(s->part, err)
               : sf_fail(err, SF_E_USAGE, "--trace: the path is longer than %zu bytes", sizeof s->part);
}

/* Go on together, or fail together. */
static int agree(const struct settings *s, int rc, struct sf_err *err) {
    return s->mpi ? sf_rt_mpi_agree(rc, err) : sf_rt_peers_agree(s->gpu.peers, rc, err);
}

static int train(struct settings *s, const struct sf_prog *prog, bool first, struct sf_err *err) {
    struct output o = {.settings = s};
    struct sf_trace trace;
    sf_trace_init(&trace);
    s->run.trace = s->trace ? &trace : NULL;
    s->run.on_step = on_step;
    s->run.self = &o;
    int rc = open_output(&o, prog, first, err);
    rc = agree(s, rc, err);
    if (rc == SF_OK) {
        rc = s->on_gpu ? sf_rt_run_gpu(prog, &s->run, &s->gpu, err)
             : s->mpi  ? sf_rt_run_mpi(prog, &s->run, err)
                       : sf_rt_run_threads(prog, &s->run, err);
        rc = say_not_dumped(s, rc, err);
        if ((first || s->part[0]) && (rc == SF_OK || rc == SF_E_INTERRUPTED)) {
            rc = finish(&o, prog, first, &trace, rc, err);
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
                                              .rank = rank,
                                              .gpu = s->on_gpu ? &s->gpu : NULL};
    struct sf_buf text = {0};
    int rc = rank == 0 ? sf_output_check(s->output, err) : SF_OK;
    SF_TRY(agree(s, rc, err));
    rc = sf_rt_measure(prog, &how, &text, err);
    if (rc == SF_OK && rank == 0) {
        rc = sf_io_posix.write_all(sf_io_posix.self, s->output, text.data, text.bytes, err);
    }
    sf_buf_free(&text);
    return rc;
}

static int describe(const struct settings *s, struct sf_err *err) {
    struct sf_rt_device d;
    SF_TRY(sf_rt_describe(&s->gpu, &d, err));
    json_t *root = json_pack("{s:s, s:i, s:I, s:s}", "device", d.name, "arch", d.arch, "free_memory_bytes",
                             (json_int_t)d.memory_bytes, "libraries", d.libraries);
    int failed = !root || json_dumpf(root, stdout, JSON_INDENT(2)) != 0 || putchar('\n') == EOF || fflush(stdout) != 0;
    json_decref(root);
    return failed ? sf_fail(err, SF_E_IO, "cannot write JSON to standard output") : SF_OK;
}

static bool make_folder(const char *path) {
    struct stat st;
    return (mkdir(path, 0700) == 0 || errno == EEXIST) && stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
           access(path, W_OK | X_OK) == 0;
}

/* Where choices are kept unless the user says otherwise. A run without such a folder searches anew and says so. */
static void choose_cache(struct settings *s) {
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char parent[sizeof s->cache - sizeof "/staticfire"];
    bool named = base && base[0] == '/'; /* its specification: relative paths are ignored */
    if (!s->on_gpu || s->gpu.record || s->gpu.cache_dir || s->no_cache) {
        return;
    }
    int n = named ? snprintf(parent, sizeof parent, "%s", base)
                  : snprintf(parent, sizeof parent, "%s/.cache", home && home[0] == '/' ? home : "");
    if ((named || (home && home[0] == '/')) && (size_t)n < sizeof parent) {
        snprintf(s->cache, sizeof s->cache, "%s/staticfire", parent);
        if (make_folder(parent) && make_folder(s->cache)) {
            s->gpu.cache_dir = s->cache;
            return;
        }
    }
    fprintf(stderr, "staticfire: no folder to keep algorithms in: %s; use --cache DIR or --no-cache\n",
            s->cache[0] ? s->cache : "neither XDG_CACHE_HOME nor HOME says where");
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
    if (s->describe) {
        return describe(s, err);
    }
    if (s->mpi) {
        SF_TRY(sf_rt_mpi_begin(&rank, &ranks, err));
    } else if (s->on_gpu) {
        SF_TRY(sf_rt_gpu_place(&s->gpu, &rank, &ranks, &s->mpi, err));
    }
    first = rank == 0;
    bool parts = s->on_gpu && ranks > 1 && !s->mpi;
    int rc = parts ? sf_rt_peers_open(rank, ranks, &s->gpu.peers, err) : SF_OK;
    rc = rc == SF_OK && parts && s->trace ? name_part(s, rank, err) : rc;
    rc = rc == SF_OK ? sf_prog_read(&sf_io_posix, s->program, &prog, err) : rc;
    rc = agree(s, rc, err);
    if (rc == SF_OK) {
        choose_cache(s);
        catch_signals();
        rc = s->measure ? measure(s, prog, rank, err) : train(s, prog, first, err);
    }
    sf_prog_free(prog);
    sf_rt_peers_close(s->gpu.peers, rc, err);
    if (s->mpi) { /* said before the end: as soon as one process has left with an error, mpirun kills the others */
        if (rc != SF_OK && first) {
            sf_err_print(err);
        }
        *err = (struct sf_err){0};
    }
    sf_rt_mpi_end(); /* which may also have been asked in vain */
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
