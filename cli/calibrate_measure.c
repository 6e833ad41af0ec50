/* Measuring this machine: small models whose shapes span what a CPU trains, each in a program of its own, so that what
 * one says about shapes can be held against the others. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/calibrate.h"
#include "cli/find.h"
#include "cli/load.h"
#include "cli/progress.h"
#include "core/doc.h"

/* What ranks share: in a real run a weight comes back after the other layers' did, and what stages, copies and parts of
 * matrices leave in each other's caches differs. Backwards in two halves find their operands colder. */
enum way { STAGES, HALVES, HEAD, COPIES, PARTS }; /* HALVES, HEAD: stages too */

/* Token counts and widths from some dozens to some hundreds, multiples of large powers of two and not; four layers a
 * rank, so that caches hold as little of the last layer's operands as they will. */
enum { LAYERS = 4 };
static const struct model {
    uint32_t hidden, heads, kv_heads, ffn, seq_len, micro_batch, vocab;
    enum way way;
    bool gpt2; /* LayerNorm, biases, GELU without a gate */
} models[CLI_CALIBRATE_CPU_MODELS] = {
    {256, 8, 4, 512, 256, 1, 256, STAGES, false},  {64, 4, 2, 160, 64, 4, 256, COPIES, false},
    {128, 4, 4, 384, 128, 2, 512, HALVES, false},  {192, 6, 2, 512, 192, 2, 256, COPIES, false},
    {384, 6, 6, 1024, 128, 2, 384, HALVES, false}, {256, 8, 8, 1024, 112, 1, 256, PARTS, false},
    {96, 3, 3, 256, 384, 1, 256, COPIES, false},   {320, 10, 5, 640, 64, 1, 512, HEAD, false},
    {128, 2, 1, 512, 288, 2, 256, COPIES, false},  {224, 7, 7, 896, 448, 1, 256, STAGES, true},
    {448, 7, 7, 1344, 80, 1, 384, COPIES, false},  {64, 2, 2, 128, 240, 3, 256, PARTS, false},
};

struct folder {
    char path[CLI_PATH], cluster[CLI_PATH], device[CLI_PATH], model[CLI_PATH], scenario[CLI_PATH], program[CLI_PATH],
        table[CLI_PATH], about[CLI_PATH];
};

/* How staticfire-run and, for several GPUs, mpirun are started. */
struct starter {
    char run[CLI_PATH], mpirun[CLI_PATH], ranks[16];
    const struct cli_calibrate *how;
    bool gpu;
};

static int folder_create(struct folder *f, struct sf_err *err) {
    const char *parent = getenv("TMPDIR");
    snprintf(f->path, sizeof f->path, "%.900s/staticfire-XXXXXX", parent && parent[0] ? parent : "/tmp");
    if (!mkdtemp(f->path)) {
        return sf_fail(err, SF_E_IO, "cannot make a folder %s: %s", f->path, strerror(errno));
    }
    struct {
        char *to;
        const char *name;
    } const files[] = {{f->cluster, "machine.yaml"}, {f->device, SF_PROBE_DEVICE_FILE}, {f->model, "config.json"},
                       {f->scenario, "job.json"},    {f->program, "job.sfprog"},        {f->table, "kernels.yaml"},
                       {f->about, "device.json"}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(files[i].to, CLI_PATH, "%.960s/%s", f->path, files[i].name);
    }
    return SF_OK;
}

static void folder_remove(const struct folder *f) {
    const char *const files[] = {f->cluster, f->device, f->model, f->scenario, f->program, f->table, f->about};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        unlink(files[i]);
    }
    rmdir(f->path);
}

static int write_machine(struct cli *cli, const struct folder *f, uint32_t *ranks) {
    struct sf_probe p;
    struct sf_buf cluster = {0}, device = {0};
    SF_TRY(sf_probe_node(&p, &cli->err));
    *ranks = *ranks > 0 ? *ranks : p.cores;
    int rc = sf_probe_print_cluster(&p, *ranks, &cluster);
    rc = rc ? rc : sf_probe_print_device(&p, &device);
    if (rc) {
        sf_buf_free(&cluster);
        sf_buf_free(&device);
        return sf_fail(&cli->err, rc, "a cluster of %u ranks cannot be written", *ranks);
    }
    rc = cli_output(f->cluster, &cluster, &cli->err);
    int rc2 = cli_output(f->device, &device, &cli->err);
    return rc ? rc : rc2;
}

/* Ranks in the directions that a model's way says; parts of heads only where every rank gets some. */
struct grid {
    uint32_t pp, dp, tp;
};

static struct grid grid_of(const struct model *m, uint32_t ranks) {
    bool parts = m->way == PARTS && m->kv_heads % ranks == 0 && m->vocab % ranks == 0;
    if (m->way == COPIES || (m->way == PARTS && !parts)) {
        return (struct grid){1, ranks, 1};
    }
    return parts ? (struct grid){1, 1, ranks} : (struct grid){ranks, 1, 1};
}

static int write_job(struct cli *cli, const struct folder *f, const struct model *m, uint32_t ranks) {
    struct sf_buf model = {0}, job = {0};
    const struct grid g = grid_of(m, ranks);
    bool halves = m->way == HALVES && ranks > 1, head = m->way == HEAD && ranks > 1 && m->vocab % ranks == 0;
    cli_calibrate_model(&(struct cli_calibrate_model){m->hidden, m->heads, m->kv_heads, m->ffn, m->seq_len, m->vocab,
                                                      LAYERS * g.pp, m->gpt2},
                        &model);
    sf_buf_printf(
        &job,
        "{\"name\": \"calibrate\", \"cluster\": \"machine.yaml\", \"model\": \"config.json\", \"job\": "
        "{\"seq_len\": %u, \"global_batch\": %u, \"precision\": \"f32\", \"gpus\": %u, \"steps\": 1, \"seed\": "
        "1, \"optimizer\": {\"kind\": \"adamw\", \"lr\": 1e-3, \"beta1\": 0.9, \"beta2\": 0.95, \"eps\": "
        "1e-8, \"weight_decay\": 0.1, \"warmup_steps\": 1}}, \"plan\": {\"pp\": %u, \"dp\": %u, \"tp\": %u, "
        "\"vpp\": 1, \"schedule\": \"%s\", \"micro_batch\": %u, "
        "\"slices\": 1, \"split_head\": %s, \"whole_rows\": false}}\n",
        m->seq_len, 4 * m->micro_batch * g.dp, ranks, g.pp, g.dp, g.tp, halves ? "zb-h1" : "1f1b", m->micro_batch,
        head ? "true" : "false");
    int rc = cli_output(f->model, &model, &cli->err);
    int rc2 = cli_output(f->scenario, &job, &cli->err);
    return rc ? rc : rc2;
}

static int compile(struct cli *cli, const struct folder *f) {
    struct cli_target t;
    SF_TRY(cli_target_load(cli, f->scenario, &(struct cli_load){.program = true}, &t));
    int rc = cli_prog_write(f->program, t.prog, &cli->err);
    cli_target_clear(&t);
    return rc;
}

static void word(const char *argv[], int *n, const char *text) {
    argv[(*n)++] = text;
    argv[*n] = NULL;
}

/* `out`: where what it prints goes; NULL: where this program's goes. */
static int start(struct cli *cli, const char *const argv[], const char *out) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        if (out == NULL || freopen(out, "w", stdout) != NULL) {
            execv(argv[0], (char *const *)(uintptr_t)argv);
        }
        _exit(SF_E_IO);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (child < 0) {
        return sf_fail(&cli->err, SF_E_IO, "cannot start %s: %s", argv[0], strerror(errno));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : SF_E_FAULT;
}

static int measure(struct cli *cli, const struct starter *s, const struct folder *f) {
    const char *argv[16];
    int n = 0;
    if (s->mpirun[0] != '\0') {
        const char *const words[] = {s->mpirun, "-n", s->ranks};
        for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
            word(argv, &n, words[i]);
        }
    }
    const char *const words[] = {s->run, "--measure", f->program, "--output", f->table};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        word(argv, &n, words[i]);
    }
    if (s->gpu) {
        word(argv, &n, "--backend");
        word(argv, &n, s->how->backend);
    }
    int code = start(cli, argv, NULL);
    return code == 0 ? SF_OK : sf_fail(&cli->err, code, "staticfire-run --measure failed: %s", sf_code_text(code));
}

static int read_table(struct cli *cli, const struct folder *f, const char *name, struct sf_calib_data *out) {
    char *text = NULL;
    size_t bytes = 0;
    SF_TRY(sf_io_posix.read_all(sf_io_posix.self, f->table, SF_DOC_MAX_BYTES, &text, &bytes, &cli->err));
    int rc = sf_calib_read_kernels(out, text, bytes, name, &cli->err);
    sf_free(text);
    return rc;
}

/* ---- GPUs ------------------------------------------------------------------------------------------------------- */

/* What kind of GPU this is, by the module that will measure it. */
static int find_class(struct cli *cli, const struct starter *s, const struct folder *f, char class_name[32]) {
    const char *const argv[] = {s->run, "--describe", "--backend", s->how->backend, NULL};
    json_error_t where;
    int code = start(cli, argv, f->about);
    if (code != 0) {
        return sf_fail(&cli->err, code, "no GPU to measure; --backend cpu measures the cores");
    }
    json_t *about = json_load_file(f->about, JSON_REJECT_DUPLICATES, &where);
    const char *name = json_string_value(json_object_get(about, "device"));
    const char *found = s->how->device ? s->how->device : name ? cli_calibrate_class(name) : NULL;
    int rc = SF_OK;
    if (name == NULL) {
        rc = sf_fail(&cli->err, SF_E_INTERNAL, "staticfire-run --describe names no device");
    } else if (found == NULL) {
        rc = sf_fail(&cli->err, SF_E_INPUT,
                     "no class of the catalog is known to be \"%.100s\": name one of %.200s/devices with --device",
                     name, cli->catalog);
    } else {
        snprintf(class_name, 32, "%s", found);
    }
    json_decref(about);
    return rc;
}

static int write_gpus(struct cli *cli, const struct starter *s, const struct folder *f, uint32_t ranks) {
    struct sf_buf cluster = {0};
    char class_name[32];
    SF_TRY(find_class(cli, s, f, class_name));
    cli_calibrate_cluster(class_name, ranks, &cluster);
    return cli_output(f->cluster, &cluster, &cli->err);
}

static int write_gpu_job(struct cli *cli, const struct folder *f, uint32_t n, uint32_t ranks) {
    struct sf_buf model = {0}, job = {0};
    cli_calibrate_job(n, ranks, &model, &job);
    int rc = cli_output(f->model, &model, &cli->err);
    int rc2 = cli_output(f->scenario, &job, &cli->err);
    return rc ? rc : rc2;
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

static void name_of(const struct starter *s, uint32_t n, char *name, size_t size) {
    const struct model *m = &models[n];
    if (s->gpu) {
        cli_calibrate_job_name(n, name, size);
    } else {
        snprintf(name, size, "measured: hidden %u, feed-forward %u, sequence %u x %u", m->hidden, m->ffn,
                 m->micro_batch, m->seq_len);
    }
}

/* A table states what two idle ranks found of a transfer that its program does not have: their operands are in the
 * first caches, a program's are not. Another model has it. */
static void drop_unused(const struct model *m, uint32_t ranks, struct sf_calib_data *out) {
    uint32_t last = out->sources_n - 1;
    bool passes_on = grid_of(m, ranks).pp > 1;
    if (ranks < 2) {
        return;
    }
    out->message_s[last] = passes_on ? out->message_s[last] : 0.0;
    out->message_rate[last] = passes_on ? out->message_rate[last] : 0.0;
    out->collective_s[last] = passes_on ? 0.0 : out->collective_s[last];
    out->collective_rate[last] = passes_on ? 0.0 : out->collective_rate[last];
}

static int measure_all(struct cli *cli, struct starter *s, const struct folder *f, struct sf_calib_data *out) {
    struct cli_progress progress = cli_progress_begin("measuring");
    uint32_t ranks = s->gpu && s->how->ranks == 0 ? 1 : s->how->ranks;
    char name[96];
    int rc = s->gpu ? write_gpus(cli, s, f, ranks) : write_machine(cli, f, &ranks);
    snprintf(s->ranks, sizeof s->ranks, "%u", ranks);
    for (uint32_t i = 0; i < s->how->models && rc == SF_OK; i++) {
        name_of(s, i, name, sizeof name);
        rc = s->gpu ? write_gpu_job(cli, f, i, ranks) : write_job(cli, f, &models[i], ranks);
        rc = rc ? rc : compile(cli, f);
        rc = rc ? rc : measure(cli, s, f);
        rc = rc ? rc : read_table(cli, f, name, out);
        if (!s->gpu) {
            drop_unused(&models[i], ranks, out);
        }
        cli_progress_update(&progress, (double)(i + 1) / s->how->models);
    }
    cli_progress_end(&progress);
    return rc;
}

int cli_calibrate_backend(struct cli *cli, struct cli_calibrate *how) {
    char path[CLI_PATH];
    if (how->backend == NULL) {
        bool gpu = access("/dev/nvidiactl", F_OK) == 0 && cli_find_program("libstaticfire-cuda.so", path) == 0;
        how->backend = gpu ? "cuda" : "cpu";
    }
    bool record = strcmp(how->backend, "record") == 0, cuda = strcmp(how->backend, "cuda") == 0;
    if (!record && !cuda && strcmp(how->backend, "cpu") != 0) {
        return sf_fail(&cli->err, SF_E_USAGE, "--backend expects cpu, cuda or record, found \"%.40s\"", how->backend);
    }
    if (!record && !cuda && how->device != NULL) {
        return sf_fail(&cli->err, SF_E_USAGE, "--device names a class of GPUs; leave it or --backend cpu out");
    }
    if ((record || cuda) && how->mpi) {
        return sf_fail(&cli->err, SF_E_USAGE, "--transport mpi is measured between cores: add --backend cpu");
    }
    uint32_t most = record || cuda ? CLI_CALIBRATE_MODELS : CLI_CALIBRATE_CPU_MODELS;
    if (how->models > most) {
        return sf_fail(&cli->err, SF_E_USAGE, "--models: there are %u for this backend", most);
    }
    how->models = how->models > 0 ? how->models : most;
    return SF_OK;
}

int cli_calibrate_measure(struct cli *cli, const struct cli_calibrate *how, struct sf_calib_data *out) {
    struct starter s = {.how = how, .gpu = strcmp(how->backend, "cpu") != 0};
    struct folder f;
    if (cli_find_program("staticfire-run", s.run) != 0) {
        return sf_fail(&cli->err, SF_E_USAGE,
                       "staticfire-run is neither beside staticfire nor in PATH; build it first");
    }
    bool several = strcmp(how->backend, "cuda") == 0 && how->ranks > 1;
    if ((several || how->mpi) && cli_find_program("mpirun", s.mpirun) != 0) {
        return sf_fail(&cli->err, SF_E_USAGE, "no mpirun in PATH, which %s: install Open MPI",
                       how->mpi ? "--transport mpi needs" : "several GPUs need");
    }
    SF_TRY(folder_create(&f, &cli->err));
    int rc = measure_all(cli, &s, &f, out);
    folder_remove(&f);
    return rc;
}
