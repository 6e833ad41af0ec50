/* The same program for real: one rank per thread or per MPI process, executed by core's interpreter. */
#ifndef SF_RUNTIME_RT_H
#define SF_RUNTIME_RT_H

#include "core/interp.h"
#include "core/prog.h"
#include "core/trace.h"

struct sf_rt_options {
    uint32_t steps;
    const char *data_path;    /* text, one token per byte */
    const char *dump_path;    /* NULL, or where to write the final gradients and loss for comparison (see dump.h) */
    struct sf_trace *trace;   /* NULL, or where this process's records go */
    sf_time_ps stall_limit;   /* watchdog; 0 = off */
    const struct sf_hooks *hooks;
    bool reference_kernels;
    /* Called after each step on the process that holds rank 0. May be NULL. */
    void (*on_step)(void *self, uint32_t step, double loss, double wall_s, double cpu_s);
    void *self;
};

/* Every rank of the program as a thread of this process. */
int sf_rt_run_threads(const struct sf_prog *prog, const struct sf_rt_options *options, struct sf_err *err);
/* This process is one MPI rank of the program; MPI_COMM_WORLD must have exactly sf_prog_ranks members. */
int sf_rt_run_mpi(const struct sf_prog *prog, const struct sf_rt_options *options, struct sf_err *err);

#endif
