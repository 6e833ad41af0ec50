/* This process as one rank of a program. */
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/dump.h"
#include "runtime/run.h"

bool sf_rt_mpi_launched(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK", "SLURM_STEP_ID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (getenv(names[i])) {
            return true;
        }
    }
    return false;
}

int sf_rt_mpi_begin(uint32_t *rank, uint32_t *ranks, struct sf_err *err) {
    int started = 0, provided = 0, r = 0, n = 1;
    MPI_Initialized(&started);
    if (!started) {
        setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0); /* blocking calls must not spin on cores that others need */
        if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
            return sf_fail(err, SF_E_FAULT, "MPI does not start: run under mpirun or srun");
        }
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &r);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    *rank = (uint32_t)r;
    *ranks = (uint32_t)n;
    return SF_OK;
}

void sf_rt_mpi_end(void) {
    int started = 0, finished = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&finished);
    if (started && !finished) {
        MPI_Finalize();
    }
}

int sf_rt_mpi_agree(int rc, struct sf_err *err) {
    int rank, ranks, mine, first;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    mine = rc == SF_OK ? ranks : rank;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first == ranks) {
        return SF_OK;
    }
    MPI_Bcast(err, (int)sizeof *err, MPI_BYTE, first, MPI_COMM_WORLD);
    return err->code;
}

int sf_rt_mpi_broadcast(void *data, size_t bytes, struct sf_err *err) {
    if (MPI_Bcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD) != MPI_SUCCESS) {
        return sf_fail(err, SF_E_FAULT, "MPI cannot broadcast %zu bytes", bytes);
    }
    return SF_OK;
}

struct process {
    struct sfi_run run;
    struct sfi_rank *rank;
    struct sfi_mpi *net;
};

static void pin_process(void) {
    MPI_Comm node;
    int local_rank = 0, local_n = 1;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &local_rank);
    MPI_Comm_size(node, &local_n);
    MPI_Comm_free(&node);
    sfi_pin((uint32_t)local_rank, (uint32_t)local_n);
}

static int prepare(struct process *p, const struct sf_prog *prog, uint32_t rank, const struct sf_rt_options *options,
                   const struct sfi_probe *probe, struct sf_err *err) {
    SF_TRY(sfi_run_open(&p->run, prog, options, probe, rank, 1, err));
    SF_TRY(sfi_rank_create(&p->run, rank, &p->rank, err));
    return sfi_mpi_create(prog, rank, p->rank->xfers, p->rank->xfers_n, sfi_rank_exchange_bytes(p->run.image), &p->net,
                          err);
}

static int take_records(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err) {
    (void)rank;
    struct sf_trace_rec rec;
    for (uint64_t at = 0; at + sizeof rec <= bytes; at += sizeof rec) {
        memcpy(&rec, (const char *)data + at, sizeof rec);
        SF_TRY(sf_trace_add(self, &rec, err));
    }
    return SF_OK;
}

/* Records carry times on a clock that was already set to rank 0's, so what remains is how far that may be off. */
static int take_clock(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err) {
    struct sf_trace *trace = self;
    int64_t uncertainty_ns = 0;
    memcpy(&uncertainty_ns, data, bytes < sizeof uncertainty_ns ? bytes : sizeof uncertainty_ns);
    struct sf_trace_clock clock = {.rank = rank, .uncertainty = uncertainty_ns * 1000};
    const struct sf_trace one = {.clocks = &clock, .clocks_n = 1};
    return sf_trace_append(trace, &one, err);
}

static int gather_trace(struct process *p, struct sf_err *err) {
    struct sf_trace *trace = p->run.options->trace;
    uint64_t records = (uint64_t)p->rank->steps_done * p->rank->cls->ops_n;
    int64_t offset_ns, uncertainty_ns;
    sfi_mpi_clock(p->net, &offset_ns, &uncertainty_ns);
    SF_TRY(sfi_mpi_gather(p->net, p->rank->recs, records * sizeof *p->rank->recs, take_records, trace, err));
    SF_TRY(sfi_mpi_gather(p->net, &uncertainty_ns, sizeof uncertainty_ns, take_clock, trace, err));
    if (p->rank->rank == 0) {
        sfi_run_describe(&p->run, "mpi", p->rank->steps_done, trace);
        sf_trace_sort(trace);
    }
    return SF_OK;
}

static int take_part(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err) {
    (void)rank;
    return sfi_dump_add(self, data, bytes, err);
}

static int gather_dump(struct process *p, struct sf_err *err) {
    struct sf_buf part = {0};
    struct sfi_dump *dump = NULL;
    int rc = sfi_dump_collect(p->rank, NULL, &part, err);
    rc = rc == SF_OK ? sfi_dump_create(&dump, err) : rc;
    rc = sf_rt_mpi_agree(rc, err);
    if (rc == SF_OK) {
        rc = sfi_mpi_gather(p->net, part.data, part.bytes, take_part, dump, err);
    }
    if (rc == SF_OK && p->rank->rank == 0) {
        rc = sfi_dump_write(dump, p->rank->losses, p->rank->steps_done, p->run.options->dump_path, err);
    }
    sfi_dump_free(dump);
    sf_buf_free(&part);
    return rc;
}

static int collect(struct process *p, struct sf_err *err) {
    if (p->run.options->trace) {
        SF_TRY(sf_rt_mpi_agree(gather_trace(p, err), err));
    }
    if (p->run.options->dump_path && p->rank->steps_done == p->run.options->steps) {
        SF_TRY(sf_rt_mpi_agree(gather_dump(p, err), err));
    }
    return SF_OK;
}

static int train(struct process *p, struct sf_err *err) {
    int64_t uncertainty_ns;
    SF_TRY(sf_rt_mpi_agree(sfi_mpi_connect(p->net, err), err));
    sfi_mpi_clock(p->net, &p->rank->clock_offset_ns, &uncertainty_ns);
    p->rank->net = sfi_mpi_transport(p->net);
    pin_process();
    int rc = sfi_rank_train(p->rank, err); /* comes back on all processes with the same code, or not at all */
    if (rc != SF_OK && rc != SF_E_INTERRUPTED) {
        return rc;
    }
    SF_TRY(collect(p, err));
    return rc;
}

int sfi_run_mpi(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sfi_probe *probe,
                struct sf_err *err) {
    struct sf_err local = {0};
    struct sf_err *e = err ? err : &local;
    struct process p = {0};
    uint32_t rank, ranks;
    SF_TRY(sf_rt_mpi_begin(&rank, &ranks, e));
    if (ranks != sf_prog_ranks(prog)) {
        return sf_fail(e, SF_E_USAGE, "the program has %u ranks but MPI started %u processes: use mpirun -n %u",
                       sf_prog_ranks(prog), ranks, sf_prog_ranks(prog));
    }
    int rc = sf_rt_mpi_agree(prepare(&p, prog, rank, options, probe, e), e);
    if (rc == SF_OK) {
        rc = train(&p, e);
    }
    sfi_mpi_destroy(p.net);
    sfi_rank_destroy(p.rank);
    sfi_run_close(&p.run);
    return rc;
}

int sf_rt_run_mpi(const struct sf_prog *prog, const struct sf_rt_options *options, struct sf_err *err) {
    return sfi_run_mpi(prog, options, NULL, err);
}

int sfi_mpi_collect(void *all, size_t bytes, struct sf_err *err) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    char *own = (char *)all + (size_t)rank * bytes;
    int rc = bytes > INT_MAX ? MPI_ERR_COUNT
                             : MPI_Gather(rank == 0 ? MPI_IN_PLACE : own, (int)bytes, MPI_BYTE, all, (int)bytes,
                                          MPI_BYTE, 0, MPI_COMM_WORLD);
    return rc == MPI_SUCCESS ? SF_OK : sf_fail(err, SF_E_FAULT, "MPI cannot collect %zu bytes of each rank", bytes);
}
