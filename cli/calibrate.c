/* staticfire calibrate: from measurements to a file that prices every shape. */
#include "cli/calibrate.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/print.h"
#include "planner/calib_csv.h"

#define FILE_MAX_BYTES ((size_t)64 << 20)

struct calibrate_args {
    const char *output, *from, *op, *program, *backend, *device, *transport;
    uint32_t ranks, models;
    const char *measured; /* the backend, where something was measured */
};

static const struct cli_usage usage = {
    .verb = "calibrate",
    .operands = "[--from FILE [FILE ...]]",
    .about = "Measures this machine's kernels and transport, those of its GPU where it has one (or reads what was\n"
             "measured elsewhere), fits a model to each kind of kernel and link, and prints its parameters with\n"
             "90 % intervals and the error on measurements that were held out. The file that -o writes goes to\n"
             "--kernels of plan and sim: its rows price the calls they list, its models every other shape.\n\n"
             "Files: kernel tables and calibration files (.yaml), tables of matrix products with columns m, n,\n"
             "k, dtype and time_us or tflops (.csv), measured traces (.sftrace), what nccl-tests prints (any\n"
             "other name).",
    .examples = "  staticfire calibrate -o calib.yaml\n"
                "  staticfire calibrate --backend cuda --ranks 8 -o node.yaml\n"
                "  staticfire calibrate --from kernels.yaml run.sftrace -o calib.yaml\n"
                "  staticfire calibrate --from all_reduce_perf.txt --ranks 8 --op all_reduce -o node.yaml\n"
                "  staticfire calibrate --from gemm.csv --json\n",
    .operands_min = 0,
    .operands_max = SF_CALIB_SOURCES - 1,
};

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *path, const char *suffix) {
    size_t n = strlen(path), k = strlen(suffix);
    return n > k && strcmp(path + n - k, suffix) == 0;
}

static int read_trace(struct cli *cli, const char *path, const struct calibrate_args *a, struct sf_calib_data *d) {
    char prog_path[CLI_PATH];
    struct sf_prog *prog = NULL;
    struct sf_trace trace;
    struct sf_hash hash;
    SF_TRY(a->program != NULL ? cli_path_copy(prog_path, CLI_PATH, a->program, &cli->err)
                              : cli_path_with_suffix(path, ".sfprog", prog_path, &cli->err));
    if (access(prog_path, R_OK) != 0) {
        return sf_fail(&cli->err, SF_E_USAGE, "%s holds times, not ops: name its program with --program FILE", path);
    }
    sf_trace_init(&trace);
    int rc = sf_prog_read(&sf_io_posix, prog_path, &prog, &cli->err);
    rc = rc ? rc : cli_trace_read(path, &trace, &hash, &cli->err);
    rc = rc ? rc : sf_calib_read_trace(d, &trace, prog, hash, path, &cli->err);
    sf_trace_clear(&trace);
    sf_prog_free(prog);
    return rc;
}

static int op_of(struct cli *cli, const char *name, int *out) {
    static const int ops[] = {SF_CALL_ALL_REDUCE, SF_CALL_ALL_GATHER, SF_CALL_REDUCE_SCATTER, SF_CALL_ALL_TO_ALL};
    *out = -1;
    if (name == NULL) {
        return 0;
    }
    *out = strcmp(name, "message") == 0 ? SF_CALL_COPY : -1;
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        *out = strcmp(name, sf_call_name(ops[i])) == 0 ? ops[i] : *out;
    }
    return *out >= 0 ? 0
                     : cli_fail_usage(cli, "calibrate",
                                      "--op expects all_reduce, all_gather, reduce_scatter, all_to_all or message, "
                                      "found \"%.40s\"",
                                      name);
}

static int read_file(struct cli *cli, const char *path, const struct calibrate_args *a, int op,
                     struct sf_calib_data *d) {
    char *text = NULL;
    size_t bytes = 0;
    if (ends_with(path, ".sftrace")) {
        return read_trace(cli, path, a, d);
    }
    SF_TRY(sf_io_posix.read_all(sf_io_posix.self, path, FILE_MAX_BYTES, &text, &bytes, &cli->err));
    bool table = ends_with(path, ".yaml") || ends_with(path, ".yml");
    int rc = table                     ? sf_calib_read_kernels(d, text, bytes, path, &cli->err)
             : ends_with(path, ".csv") ? sf_calib_read_gemm(d, text, bytes, path, &cli->err)
                                       : sf_calib_read_nccl(d, text, bytes, path, op, a->ranks, &cli->err);
    sf_free(text);
    return rc;
}

static int read_all(struct cli *cli, const struct calibrate_args *a, char **files, int files_n,
                    struct sf_calib_data *d) {
    int op = -1;
    SF_TRY(op_of(cli, a->op, &op));
    SF_TRY(read_file(cli, a->from, a, op, d));
    for (int i = 0; i < files_n; i++) {
        SF_TRY(read_file(cli, files[i], a, op, d));
    }
    return 0;
}

static int transport_of(struct cli *cli, const struct calibrate_args *a, bool *mpi) {
    *mpi = a->transport != NULL && strcmp(a->transport, "mpi") == 0;
    if (a->transport != NULL && !*mpi && strcmp(a->transport, "threads") != 0) {
        return cli_fail_usage(cli, "calibrate", "--transport expects threads or mpi, found \"%.40s\"", a->transport);
    }
    return SF_OK;
}

static int measure_here(struct cli *cli, struct calibrate_args *a, struct sf_calib_data *d) {
    struct cli_calibrate how = {.backend = a->backend, .device = a->device, .models = a->models, .ranks = a->ranks};
    SF_TRY(transport_of(cli, a, &how.mpi));
    SF_TRY(cli_calibrate_backend(cli, &how));
    a->measured = how.backend;
    return cli_calibrate_measure(cli, &how, d);
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */

static const char *kind_of(const struct sf_calib_model *m) {
    return m->form == SF_CALIB_LINK && m->kind == SF_CALL_COPY ? "message" : sf_call_name(m->kind);
}

static json_t *param_json(const struct sf_calib_param *p) {
    return p->value > 0 ? json_pack("{s:f, s:f, s:f}", "value", p->value, "low", p->low, "high", p->high) : json_null();
}

static json_t *model_json(const struct sf_calib_model *m) {
    json_t *params = json_object();
    for (int i = 0; sf_calib_param_name(m->form, i); i++) {
        json_object_set_new(params, sf_calib_param_name(m->form, i), param_json(&m->param[i]));
    }
    return json_pack("{s:s, s:s, s:s, s:i, s:b, s:f, s:f, s:o}", "kind", kind_of(m), "form",
                     sf_calib_form_name(m->form), "dtype", sf_dtype_name(m->dtype), "rows", (int)m->rows, "held_out",
                     m->held_out, "median_error", m->median, "p90_error", m->p90, "parameters", params);
}

static int print_json(struct cli *cli, const struct sf_calib_data *d, const struct sf_calib *c) {
    json_t *models = json_array(), *sources = json_array();
    for (size_t i = 0; i < c->models_n; i++) {
        json_array_append_new(models, model_json(&c->models[i]));
    }
    for (uint32_t i = 0; i < d->sources_n; i++) {
        const struct sf_calib_source *s = &d->source[i];
        json_array_append_new(sources, json_pack("{s:o, s:s, s:o, s:i, s:i}", "name", cli_json_text(s->name), "form",
                                                 s->form, "hash", cli_json_hash(s->hash), "rows", (int)s->rows,
                                                 "left_out", (int)s->left_out));
    }
    json_t *transport =
        json_pack("{s:o, s:o, s:o, s:o, s:o}", "message_latency_s", param_json(&c->message_s), "message_rate",
                  param_json(&c->message_rate), "collective_latency_s", param_json(&c->collective_s), "collective_rate",
                  param_json(&c->collective_rate), "dispatch_s", param_json(&c->dispatch));
    return cli_print_json(json_pack("{s:o, s:i, s:f, s:i, s:o, s:o}", "sources", sources, "rows", (int)c->rows_n,
                                    "repeat", c->repeat, "repeated", (int)c->repeat_n, "transport", transport, "models",
                                    models),
                          &cli->err);
}

/* A parameter in the unit that its name implies. */
static void print_param(const char *name, const struct sf_calib_param *p, bool link, struct sf_buf *out) {
    bool time = strcmp(name, "launch") == 0 || strcmp(name, "latency") == 0;
    bool memory = strcmp(name, "memory_rate") == 0, rate = memory || strcmp(name, "rate") == 0;
    double scale = time ? 1e6 : rate ? 1e-9 : 1.0;
    const char *unit = time ? " us" : memory || (rate && link) ? " GB/s" : rate ? " GFLOP/s" : "";
    sf_buf_printf(out, "      %-13s %10.4g%s   %.4g to %.4g\n", name, p->value * scale, unit, p->low * scale,
                  p->high * scale);
}

static void print_model(const struct sf_calib_model *m, struct sf_buf *out) {
    sf_buf_printf(out, "  %s %s: %u times; error %s: median %.1f %%, 90 %% within %.1f %%\n", kind_of(m),
                  m->form == SF_CALIB_LINK ? "" : sf_dtype_name(m->dtype), m->rows,
                  m->held_out ? "where held out" : "assumed, too few to hold any out", 100 * m->median, 100 * m->p90);
    for (int i = 0; sf_calib_param_name(m->form, i); i++) {
        print_param(sf_calib_param_name(m->form, i), &m->param[i], m->form == SF_CALIB_LINK, out);
    }
}

static void print_transport(const struct sf_calib *c, struct sf_buf *out) {
    const struct {
        const char *name;
        const struct sf_calib_param *p;
    } parts[] = {{"message_s", &c->message_s},
                 {"message_rate", &c->message_rate},
                 {"collect_s", &c->collective_s},
                 {"collect_rate", &c->collective_rate},
                 {"dispatch", &c->dispatch}};
    cli_heading(out, "transport between two ranks, with 90 % intervals");
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        double scale = i == 1 || i == 3 ? 1e-9 : 1e6;
        if (parts[i].p->value > 0) {
            sf_buf_printf(out, "  %-13s %10.4g %s   %.4g to %.4g\n", parts[i].name, parts[i].p->value * scale,
                          scale < 1 ? "GB/s" : "us", parts[i].p->low * scale, parts[i].p->high * scale);
        }
    }
}

static int print_text(struct cli *cli, const struct sf_calib_data *d, const struct sf_calib *c,
                      const struct calibrate_args *a) {
    struct sf_buf out = {0};
    cli_heading(&out, "sources");
    for (uint32_t i = 0; i < d->sources_n; i++) {
        sf_buf_printf(&out, "  %s: %u measurements (%s)", d->source[i].name, d->source[i].rows, d->source[i].form);
        sf_buf_printf(&out, d->source[i].left_out > 0 ? ", %u left out\n" : "\n", d->source[i].left_out);
    }
    print_transport(c, &out);
    cli_heading(&out, "models, with 90 % intervals");
    for (size_t i = 0; i < c->models_n; i++) {
        print_model(&c->models[i], &out);
    }
    cli_heading(&out, "rows");
    sf_buf_printf(&out, "  %zu calls; 90 %% of %u repeated measurements within %.1f %% of their mean%s\n", c->rows_n,
                  c->repeat_n, 100 * c->repeat, c->repeat_n > 0 ? "" : " (assumed)");
    if (a->measured != NULL) {
        sf_buf_printf(&out, "  measured: %s\n",
                      strcmp(a->measured, "cpu") == 0    ? "this machine's cores"
                      : strcmp(a->measured, "cuda") == 0 ? d->device
                                                         : "nothing: the recording device makes "
                                                           "times up, for tests");
    }
    if (a->output != NULL) {
        sf_buf_printf(&out, "  written to %s\n", a->output);
    }
    return cli_print(&out, &cli->err);
}

static int write_file(struct cli *cli, const struct sf_calib_data *d, const struct sf_calib *c, const char *path) {
    struct sf_buf out = {0};
    sf_calib_print(d, c, &out);
    return cli_output(path, &out, &cli->err);
}

static int check_args(struct cli *cli, const struct calibrate_args *a, int files_n) {
    if (a->from == NULL && (files_n > 0 || a->op != NULL || a->program != NULL)) {
        return cli_fail_usage(cli, "calibrate", "files, --op and --program belong to --from");
    }
    if (a->from != NULL && (a->models > 0 || a->backend != NULL || a->device != NULL || a->transport != NULL)) {
        return cli_fail_usage(
            cli, "calibrate",
            "--models, --backend, --device and --transport say what is measured here; leave them or --from out");
    }
    return sf_output_check(a->output, &cli->err);
}

static int calibrate(struct cli *cli, struct calibrate_args *a, char **files, int files_n, struct sf_calib_data *d) {
    struct sf_calib c = {.models_n = 0};
    int rc = a->from != NULL ? read_all(cli, a, files, files_n, d) : measure_here(cli, a, d);
    rc = rc ? rc : sf_calib_fit(d, &c, &cli->err);
    rc = rc || a->output == NULL ? rc : write_file(cli, d, &c, a->output);
    rc = rc ? rc : cli->json ? print_json(cli, d, &c) : print_text(cli, d, &c, a);
    sf_calib_clear(&c);
    return rc;
}

int verb_calibrate(struct cli *cli, int argc, char **argv) {
    struct calibrate_args a = {0};
    const struct cli_option options[] = {
        {"output", 'o', CLI_TEXT, &a.output, "FILE", "write the calibration file"},
        {"from", 'f', CLI_TEXT, &a.from, "FILE", "read files instead of measuring; more may follow"},
        {"program", 0, CLI_TEXT, &a.program, "FILE", "the program that traces are of (default: beside each)"},
        {"op", 0, CLI_TEXT, &a.op, "NAME", "collective of nccl-tests output that does not name it"},
        {"ranks", 0, CLI_COUNT, &a.ranks, "N", "ranks of such output; or cores (all) or GPUs (1) to measure with"},
        {"backend", 0, CLI_TEXT, &a.backend, "KIND",
         "measure cpu, cuda (where there is a GPU), or record: made-up times"},
        {"device", 0, CLI_TEXT, &a.device, "CLASS", "the GPU's class in the catalog, where its name does not say"},
        {"transport", 0, CLI_TEXT, &a.transport, "KIND",
         "between cores: threads (default) or mpi, as forecast jobs will"},
        {"models", 0, CLI_COUNT, &a.models, "N",
         "measure only the first N of 12 models, 6 on GPUs (a few seconds each)"},
        {0},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    SF_TRY(check_args(cli, &a, argc - first));
    struct sf_calib_data *d = sf_calloc(1, sizeof *d);
    if (d == NULL) {
        return sf_fail_memory(&cli->err, "calibration");
    }
    int rc = calibrate(cli, &a, argv + first, argc - first, d);
    sf_calib_data_clear(d);
    sf_free(d);
    return rc;
}
