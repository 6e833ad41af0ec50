/* Inside of rt.h: a run with a probe, and what both transports do before and after. */
#ifndef SF_RUNTIME_RUN_H
#define SF_RUNTIME_RUN_H

#include "runtime/rank.h"

int sfi_run_threads(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sfi_probe *probe,
                    struct sf_err *err);
int sfi_run_mpi(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sfi_probe *probe,
                struct sf_err *err);
/* With a probe on a device, options->trace is wanted too. */
int sfi_run_gpu(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sfi_probe *probe,
                const struct sf_rt_gpu *gpu, struct sf_err *err);
/* Process 0 gets everybody's part: `all` is an array with one part of `bytes` bytes for each, the own one filled in. */
int sfi_mpi_collect(void *all, size_t bytes, struct sf_err *err);

/* Image and data of a run, checked for `ranks_n` ranks on this machine. sfi_run_close is legal after a failure too. */
int sfi_run_open(struct sfi_run *run, const struct sf_prog *prog, const struct sf_rt_options *options,
                 const struct sfi_probe *probe, uint32_t first_rank, uint32_t ranks_n, struct sf_err *err);
/* The same for a device, which says itself what fits. */
int sfi_run_open_on(struct sfi_run *run, const struct sf_prog *prog, const struct sf_rt_options *options,
                    const struct sfi_target *target, struct sf_err *err);
int sfi_run_open_probed(struct sfi_run *run, const struct sf_prog *prog, const struct sf_rt_options *options,
                        const struct sfi_target *target, const struct sfi_probe *probe, struct sf_err *err);
void sfi_run_close(struct sfi_run *run);

/* Say in a trace what it is. */
void sfi_run_describe(const struct sfi_run *run, const char *origin, uint32_t steps, struct sf_trace *trace);

#endif
