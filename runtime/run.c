#include "runtime/run.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static int check_options(const struct sf_rt_options *o, struct sf_err *err) {
    if (o->steps == 0) {
        return sf_fail(err, SF_E_USAGE, "0 steps: expected at least 1");
    }
    return SF_OK;
}

static int open_data(struct sfi_run *run, struct sf_err *err) {
    struct sfi_data *data = NULL;
    const struct sf_prog *prog = run->image->prog;
    if (!sfi_image_loads(run->image)) {
        return SF_OK;
    }
    if (run->options->data_path) {
        SF_TRY(sfi_data_load(&prog->job, run->image->further, run->options->data_path, &data, err));
    } else if (run->probe) {
        SF_TRY(sfi_data_random(&prog->job, run->image->further, &data, err));
    } else {
        return sf_fail(err, SF_E_USAGE, "this program loads tokens: name a text with --data");
    }
    run->data = data;
    return SF_OK;
}

int sfi_run_open_on(struct sfi_run *run, const struct sf_prog *prog, const struct sf_rt_options *options,
                    const struct sfi_target *target, struct sf_err *err) {
    return sfi_run_open_probed(run, prog, options, target, NULL, err);
}

int sfi_run_open_probed(struct sfi_run *run, const struct sf_prog *prog, const struct sf_rt_options *options,
                        const struct sfi_target *target, const struct sfi_probe *probe, struct sf_err *err) {
    struct sfi_image *image = NULL;
    *run = (struct sfi_run){.options = options, .probe = probe};
    SF_TRY(check_options(options, err));
    SF_TRY(sfi_image_create(prog, target, false, &image, err));
    run->image = image;
    return open_data(run, err);
}

int sfi_run_open(struct sfi_run *run, const struct sf_prog *prog, const struct sf_rt_options *options,
                 const struct sfi_probe *probe, uint32_t first_rank, uint32_t ranks_n, struct sf_err *err) {
    struct sfi_image *image = NULL;
    *run = (struct sfi_run){.options = options, .probe = probe};
    SF_TRY(check_options(options, err));
    SF_TRY(sfi_image_create(prog, NULL, options->reference_kernels, &image, err));
    run->image = image;
    SF_TRY(sfi_image_check_memory(image, first_rank, ranks_n, err));
    SF_TRY(open_data(run, err));
    sf_kern_setup();
    return SF_OK;
}

void sfi_run_close(struct sfi_run *run) {
    sfi_data_free((struct sfi_data *)run->data);
    sfi_image_free((struct sfi_image *)run->image);
    sfi_stop_clear();
}

void sfi_run_describe(const struct sfi_run *run, const char *origin, uint32_t steps, struct sf_trace *trace) {
    struct utsname host;
    trace->meta.prog = sf_prog_hash(run->image->prog);
    trace->meta.seed = run->image->prog->job.seed;
    trace->meta.ranks = run->image->ranks;
    trace->meta.iterations = steps;
    snprintf(trace->meta.origin, sizeof trace->meta.origin, "%s", origin);
    if (uname(&host) == 0) {
        snprintf(trace->meta.note, sizeof trace->meta.note, "%.64s %.64s, %ld cores, %s kernels", host.sysname,
                 host.machine, sysconf(_SC_NPROCESSORS_ONLN), run->options->reference_kernels ? "reference" : "fast");
    }
}
