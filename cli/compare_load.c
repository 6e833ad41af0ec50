#include "cli/compare_load.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "core/arena.h"

#define LOSSES_MAX_BYTES (64u << 20)

/* A file that the forecast names, as seen from here; "" when it names none. */
static int forecast_file(struct cli *cli, const struct cli_compare *in, const char *name, char out[CLI_PATH]) {
    out[0] = '\0';
    if (!in->has_forecast || name[0] == '\0') {
        return 0;
    }
    return cli_path_beside(in->forecast_path, name, out, &cli->err);
}

/* Processes that nothing brings together leave a trace each: FILE.rank0, FILE.rank1 and so on, as many as the program
 * has ranks. */
static int join_parts(struct cli *cli, const char *path, struct cli_compare *in) {
    char name[CLI_PATH];
    uint32_t ranks = 1;
    for (uint32_t r = 0; r < ranks; r++) {
        struct sf_trace part;
        SF_TRY((size_t)snprintf(name, sizeof name, "%s.rank%u", path, r) < sizeof name
                   ? 0
                   : sf_fail(&cli->err, SF_E_USAGE, "%s: the path is too long", path));
        sf_trace_init(&part);
        int rc = cli_trace_read(name, &part, NULL, &cli->err);
        if (rc == 0 && r > 0 && !sf_hash_equal(part.meta.prog, in->measured.meta.prog)) {
            rc = sf_fail_at(&cli->err, SF_E_INPUT, name, 0, 0, "is of another program than %s.rank0", path);
        }
        if (rc == 0 && r == 0) {
            in->measured.meta = part.meta;
            ranks = part.meta.ranks;
        }
        rc = rc == 0 ? sf_trace_append(&in->measured, &part, &cli->err) : rc;
        sf_trace_clear(&part);
        SF_TRY(rc);
    }
    sf_trace_sort(&in->measured);
    return 0;
}

static int load_measured(struct cli *cli, const char *path, struct cli_compare *in) {
    char first[CLI_PATH];
    bool whole = access(path, F_OK) == 0;
    bool parts = (size_t)snprintf(first, sizeof first, "%s.rank0", path) < sizeof first && access(first, R_OK) == 0;
    return !whole && parts ? join_parts(cli, path, in) : cli_trace_read(path, &in->measured, NULL, &cli->err);
}

static int load_traces(struct cli *cli, const char *predicted, const char *measured, struct cli_compare *in) {
    struct sf_hash file;
    SF_TRY(cli_trace_read(predicted, &in->predicted, &file, &cli->err));
    if (in->has_forecast && sf_forecast_check(&in->forecast, &in->predicted, file, &cli->err) != 0) {
        return sf_err_wrap(&cli->err, "%s and %s", in->forecast_path, predicted);
    }
    return load_measured(cli, measured, in);
}

/* The option, else the forecast's, else a neighbour of either trace. */
static int find_prog(struct cli *cli, const char *predicted, const char *measured, const struct cli_compare *in,
                     char out[CLI_PATH]) {
    if (in->prog_path != NULL) {
        return cli_path_copy(out, CLI_PATH, in->prog_path, &cli->err);
    }
    SF_TRY(forecast_file(cli, in, in->forecast.prog_file, out));
    if (out[0] != '\0') {
        return 0;
    }
    const char *const traces[] = {predicted, measured};
    for (int i = 0; i < 2; i++) {
        SF_TRY(cli_path_with_suffix(traces[i], ".sfprog", out, &cli->err));
        if (access(out, R_OK) == 0) {
            return 0;
        }
    }
    return sf_fail(&cli->err, SF_E_USAGE,
                   "traces hold times, not ops: name the program they are of with --program FILE");
}

static int load_prog(struct cli *cli, const char *predicted, const char *measured, struct cli_compare *in) {
    char path[CLI_PATH];
    SF_TRY(find_prog(cli, predicted, measured, in, path));
    return sf_prog_read(&sf_io_posix, path, &in->prog, &cli->err);
}

/* A cluster that only the forecast names may be gone: the comparison stands without the replay. */
static int load_cost(struct cli *cli, struct cli_compare *in) {
    char cluster[CLI_PATH], kernels[CLI_PATH];
    SF_TRY(forecast_file(cli, in, in->forecast.cluster_file, cluster));
    SF_TRY(forecast_file(cli, in, in->forecast.kernels_file, kernels));
    const char *cluster_path = in->cluster != NULL ? in->cluster : cluster[0] != '\0' ? cluster : NULL;
    const char *kernels_path = in->kernels != NULL ? in->kernels : kernels[0] != '\0' ? kernels : NULL;
    if (cluster_path == NULL) {
        return in->kernels == NULL ? 0 : cli_fail_usage(cli, "compare", "--kernels needs --cluster");
    }
    int rc = sf_topo_load(&sf_io_posix, cluster_path, cli->catalog, &in->topo, &cli->err);
    rc = rc == 0 ? sf_cost_create(in->topo, &sf_io_posix, kernels_path, &in->cost, &cli->err) : rc;
    if (rc != 0 && in->cluster == NULL && in->kernels == NULL) {
        fprintf(stderr, "staticfire: no replay, because a file that the forecast names cannot be used: %s\n",
                cli->err.msg);
        cli->err = (struct sf_err){0};
        rc = 0;
    }
    return rc;
}

/* Another cost model would replay transfers at other speeds than those the prediction rests on. */
static int check_cost(struct cli *cli, struct cli_compare *in) {
    if (in->cost == NULL || sf_hash_equal(sf_cost_hash(in->cost), in->predicted.meta.cost)) {
        return 0;
    }
    char a[SF_HASH_TEXT], b[SF_HASH_TEXT];
    struct sf_hash zero = {0};
    if (sf_hash_equal(in->predicted.meta.cost, zero)) {
        return 0; /* two measurements are compared */
    }
    return sf_fail(&cli->err, SF_E_INPUT,
                   "the prediction rests on cost model %s, but cluster and kernel table given make %s; give the files "
                   "it was made with",
                   sf_hash_format(in->predicted.meta.cost, a), sf_hash_format(sf_cost_hash(in->cost), b));
}

static int add_loss(struct cli *cli, struct cli_compare *in, const json_t *loss) {
    if (!json_is_number(loss) && !json_is_null(loss)) {
        return sf_fail_at(&cli->err, SF_E_INPUT, in->loss_path, 0, 0, "the loss of step %zu is no number",
                          in->losses_n + 1);
    }
    double *grown = sf_realloc(in->losses, in->losses_n + 1, sizeof *grown);
    if (grown == NULL) {
        return sf_fail_memory(&cli->err, "losses");
    }
    in->losses = grown;
    in->losses[in->losses_n++] = json_is_null(loss) ? NAN : json_number_value(loss);
    return 0;
}

/* One document of staticfire-run: the whole run (its loss is a list) or one line of a log (a step and its loss). Logs
 * are appended to, so a step that is not above the last one begins a new run, and only the last run counts. */
static int add_document(struct cli *cli, struct cli_compare *in, const json_t *doc, json_int_t *last_step) {
    const json_t *loss = json_object_get(doc, "loss");
    if (!json_is_array(loss)) {
        json_int_t step = json_integer_value(json_object_get(doc, "step"));
        in->losses_n = step <= *last_step ? 0 : in->losses_n;
        *last_step = step;
        return add_loss(cli, in, loss);
    }
    for (size_t i = 0; i < json_array_size(loss); i++) {
        SF_TRY(add_loss(cli, in, json_array_get(loss, i)));
    }
    return 0;
}

static int parse_losses(struct cli *cli, struct cli_compare *in, const char *data, size_t bytes) {
    json_int_t last_step = 0;
    for (size_t at = 0; at < bytes;) {
        json_error_t where;
        json_t *doc = json_loadb(data + at, bytes - at, JSON_DISABLE_EOF_CHECK, &where);
        if (doc == NULL) {
            return sf_fail_at(&cli->err, SF_E_INPUT, in->loss_path, (uint32_t)where.line, (uint32_t)where.column,
                              "expected the log or the JSON of staticfire-run: %s", where.text);
        }
        int rc = add_document(cli, in, doc, &last_step);
        json_decref(doc);
        SF_TRY(rc);
        at += (size_t)where.position;
        at += strspn(data + at, " \t\r\n");
    }
    return 0;
}

static int load_losses(struct cli *cli, struct cli_compare *in) {
    if (in->loss_path == NULL) {
        return 0;
    }
    if (in->report == NULL) {
        return cli_fail_usage(cli, "compare", "--loss is for the report; name it with --report FILE");
    }
    char *data = NULL;
    size_t bytes = 0;
    SF_TRY(sf_io_posix.read_all(sf_io_posix.self, in->loss_path, LOSSES_MAX_BYTES, &data, &bytes, &cli->err));
    int rc = parse_losses(cli, in, data, bytes);
    sf_free(data);
    return rc;
}

/* PREDICTED may be the forecast itself, which then says where its trace is. */
static int load_forecast(struct cli *cli, const char *predicted, struct cli_compare *in, char trace[CLI_PATH]) {
    enum cli_file kind;
    SF_TRY(cli_file_kind(predicted, &kind, &cli->err));
    bool is_forecast = kind == CLI_FILE_JSON;
    if (is_forecast && in->forecast_path != NULL) {
        return cli_fail_usage(cli, "compare", "%s is a forecast, --forecast is not needed", predicted);
    }
    in->forecast_path = is_forecast ? predicted : in->forecast_path;
    if (in->forecast_path != NULL) {
        SF_TRY(sf_forecast_load(&sf_io_posix, in->forecast_path, &in->forecast, &cli->err));
        in->has_forecast = true;
    }
    return is_forecast ? forecast_file(cli, in, in->forecast.trace_file, trace)
                       : cli_path_copy(trace, CLI_PATH, predicted, &cli->err);
}

int cli_compare_load(struct cli *cli, const char *predicted, const char *measured, struct cli_compare *in) {
    char trace[CLI_PATH];
    sf_trace_init(&in->predicted);
    sf_trace_init(&in->measured);
    SF_TRY(load_forecast(cli, predicted, in, trace));
    SF_TRY(load_traces(cli, trace, measured, in));
    SF_TRY(load_prog(cli, trace, measured, in));
    if (in->estimates_path != NULL) {
        SF_TRY(sf_estimates_load(&sf_io_posix, in->estimates_path, in->prog, &in->estimates, &cli->err));
    }
    SF_TRY(load_cost(cli, in));
    SF_TRY(check_cost(cli, in));
    return load_losses(cli, in);
}

void cli_compare_clear(struct cli_compare *in) {
    sf_trace_clear(&in->predicted);
    sf_trace_clear(&in->measured);
    sf_prog_free(in->prog);
    sf_cost_free(in->cost);
    sf_topo_free(in->topo);
    sf_free(in->losses);
    sf_estimates_clear(&in->estimates);
    memset(in, 0, sizeof *in);
}
