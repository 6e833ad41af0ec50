#include "cli/forecast.h"

#include "cli/print.h"

/* How the forecast names one of its files; "" stays "". */
static int name_file(const struct cli_forecast_write *w, const char *path, char out[512], struct sf_err *err) {
    char name[CLI_PATH] = "";
    if (path != NULL && path[0] != '\0') {
        SF_TRY(cli_path_relative(w->forecast_path, path, name, err));
    }
    return cli_path_copy(out, 512, name, err);
}

static int fill(const struct cli_forecast_write *w, const struct cli_forecast_files *files, struct sf_hash trace_hash,
                struct sf_forecast *f, struct sf_err *err) {
    *f = (struct sf_forecast){.prog = w->trace->meta.prog,
                              .topo = w->trace->meta.topo,
                              .cost = w->trace->meta.cost,
                              .trace = trace_hash,
                              .seed = w->seed,
                              .step_time = w->result->step_time};
    SF_TRY(sf_trace_busy(w->trace, &f->step_cpu, err));
    SF_TRY(name_file(w, files->trace, f->trace_file, err));
    SF_TRY(name_file(w, files->prog, f->prog_file, err));
    SF_TRY(name_file(w, w->target->cluster_path, f->cluster_file, err));
    return name_file(w, w->kernels_path, f->kernels_file, err);
}

/* The bytes of all files: nothing is written before everything is there. */
struct contents {
    struct sf_buf trace, prog, forecast;
};

static int print_forecast(const struct cli_forecast_write *w, struct cli_forecast_files *files, struct contents *c,
                          struct sf_err *err) {
    struct sf_forecast f;
    if (w->forecast_path == NULL) {
        return 0;
    }
    SF_TRY(fill(w, files, sf_hash_bytes(c->trace.data, c->trace.bytes), &f, err));
    SF_TRY(sf_forecast_print(&f, &c->forecast, err));
    files->seal = f.seal;
    return 0;
}

static int make_contents(const struct cli_forecast_write *w, struct cli_forecast_files *files, struct contents *c,
                         struct sf_err *err) {
    SF_TRY(sf_trace_encode(w->trace, &c->trace, err));
    SF_TRY(sf_prog_encode(w->target->prog, &c->prog, err));
    return print_forecast(w, files, c, err);
}

static int write_contents(const struct cli_forecast_write *w, const struct cli_forecast_files *files,
                          struct contents *c, struct sf_err *err) {
    SF_TRY(cli_output(files->trace, &c->trace, err));
    SF_TRY(cli_output(files->prog, &c->prog, err));
    return w->forecast_path != NULL ? cli_output(w->forecast_path, &c->forecast, err) : 0;
}

static int name_files(const struct cli_forecast_write *w, struct cli_forecast_files *out, struct sf_err *err) {
    if (w->trace_path != NULL) {
        SF_TRY(cli_path_copy(out->trace, sizeof out->trace, w->trace_path, err));
    } else {
        SF_TRY(cli_path_with_suffix(w->forecast_path, ".sftrace", out->trace, err));
    }
    return cli_path_with_suffix(out->trace, ".sfprog", out->prog, err);
}

int cli_forecast_write(const struct cli_forecast_write *w, struct cli_forecast_files *out, struct sf_err *err) {
    *out = (struct cli_forecast_files){0};
    if (w->trace_path == NULL && w->forecast_path == NULL) {
        return 0;
    }
    struct contents c = {0};
    int rc;
    SF_TRY_GOTO(rc, name_files(w, out, err), done);
    SF_TRY_GOTO(rc, make_contents(w, out, &c, err), done);
    rc = write_contents(w, out, &c, err);
done:
    sf_buf_free(&c.trace);
    sf_buf_free(&c.prog);
    sf_buf_free(&c.forecast);
    return rc;
}
