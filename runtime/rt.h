/* The same program for real: one rank per thread or per MPI process, executed by core's interpreter; or on GPUs, where
 * the interpreter's order is captured into one graph per step.
 *
 * What the CPU runtimes can train: dense models in f32. GPUs: what has CUDA kernels, in f32 and bf16. Anything else is
 * refused before the first step, naming the kernel that is missing.
 *
 * What is equal. Weights start from (seed, tensor name, row), data come from (seed, step, global sequence), and
 * reductions add in member order along one tree, so a canonical program gives the same bits for every layout and for
 * both transports.
 *
 * What is timed. Records carry host time since the step began on all ranks: a compute op starts when it is issued. A
 * transfer between threads starts when all its partners are there; over MPI, where that moment is not visible, when it
 * was posted. `busy` is CPU time: of the kernels, or of copying, adding and MPI calls that got something done - never
 * of waiting. */
#ifndef SF_RUNTIME_RT_H
#define SF_RUNTIME_RT_H

#include "core/interp.h"
#include "core/prog.h"
#include "core/trace.h"

/* What a step came to. */
struct sf_rt_step {
    uint32_t step;
    double loss;
    double norm;     /* of the gradient before it was clipped; NaN where programs do not clip */
    double wall_s;   /* NaN on a device that keeps no time */
    double cpu_s;    /* of all ranks together; NaN where it says nothing */
    double host_s;   /* of the host, in all that a step on a GPU needs of it but waiting; NaN elsewhere */
    double launch_s; /* of the host, in the call that starts the step on a GPU; NaN elsewhere */
};

struct sf_rt_options {
    uint32_t steps;
    const char *data_path;  /* text, one token per byte; may be NULL when the program loads nothing */
    const char *dump_path;  /* NULL, or where a run that is not interrupted writes its final gradients, weights and
                             * losses (see dump.h); that takes time in the last step */
    struct sf_trace *trace; /* NULL, or where all records go, on the process that holds rank 0 */
    sf_time_ps stall_limit; /* watchdog; 0 = off */
    const struct sf_hooks *hooks;
    bool reference_kernels;
    /* Called after each step on the process that holds rank 0, by rank 0's thread. May be NULL. */
    void (*on_step)(void *self, const struct sf_rt_step *step);
    void *self;
};

/* Every rank of the program as a thread of this process. */
int sf_rt_run_threads(const struct sf_prog *prog, const struct sf_rt_options *options, struct sf_err *err);
/* This process is one MPI rank of the program; MPI_COMM_WORLD must have exactly sf_prog_ranks members. When a rank
 * fails during a step it says so on stderr and ends all processes with exit code SF_E_FAULT: this does not return then.
 */
int sf_rt_run_mpi(const struct sf_prog *prog, const struct sf_rt_options *options, struct sf_err *err);

struct sf_rt_peers; /* see below */

/* On GPUs; see docs/gpu.md. The device is opened from a shared module, so nothing here needs CUDA. */
struct sf_rt_gpu {
    bool record;                /* no GPU: check the captured step against every rule and execute it on the host */
    bool virtual_ranks;         /* all ranks of the program in this process, on one device */
    bool deterministic;         /* the same bits in every run, even where that is slower */
    int device;                 /* -1: the local rank's */
    const char *cache_dir;      /* chosen algorithms, between runs; NULL: not kept */
    const char *estimates_path; /* NULL, or where NCCL's own estimate of every transfer goes (JSON) */
    struct sf_rt_peers *peers;  /* where sf_rt_gpu_place finds several processes without MPI; else NULL */
};
/* Without virtual ranks this process is one rank: of a single-rank program, or under mpirun, srun or torchrun. */
int sf_rt_run_gpu(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sf_rt_gpu *gpu,
                  struct sf_err *err);
/* What this process is among those of a launcher: rank and ranks from MPI, or from the variables of torchrun or of an
 * srun that has no PMIx; 0 of 1. */
int sf_rt_gpu_place(const struct sf_rt_gpu *gpu, uint32_t *rank, uint32_t *ranks, bool *mpi, struct sf_err *err);

/* The processes of a run that no MPI connects: whoever fails is heard by the others; see runtime/cuda/run_peers.h. To
 * be opened before anything that can fail. */
int sf_rt_peers_open(uint32_t rank, uint32_t ranks, struct sf_rt_peers **out, struct sf_err *err);
/* As sf_rt_mpi_agree, with the error that came first. With p NULL there is nobody to ask: rc. */
int sf_rt_peers_agree(struct sf_rt_peers *p, int rc, struct sf_err *err);
/* Good-bye, or, with a code of failure, why this rank leaves. NULL is legal. */
void sf_rt_peers_close(struct sf_rt_peers *p, int rc, const struct sf_err *err);

/* What a device is, without a program. */
struct sf_rt_device {
    char name[128], libraries[256];
    int arch;              /* compute capability times 10; 0: none */
    uint64_t memory_bytes; /* free; 0: no limit */
};
int sf_rt_describe(const struct sf_rt_gpu *gpu, struct sf_rt_device *out, struct sf_err *err);

/* MPI is started by the first of these or by sf_rt_run_mpi, and can be finished only once. */
int sf_rt_mpi_begin(uint32_t *rank, uint32_t *ranks, struct sf_err *err);
void sf_rt_mpi_end(void);
/* Go on together, or fail together with the error of the lowest rank that has one: a process that gave up alone would
 * leave the others waiting. */
int sf_rt_mpi_agree(int rc, struct sf_err *err);
/* Was this process started by mpirun or srun? */
bool sf_rt_mpi_launched(void);
/* Everybody gets rank 0's bytes. */
int sf_rt_mpi_broadcast(void *data, size_t bytes, struct sf_err *err);

/* Finish the step that is running, then return SF_E_INTERRUPTED. Safe in a signal handler. */
void sf_rt_request_stop(void);

#endif
