/* One rank of a program: its arena, its transfers, its records, and the loop over steps. */
#ifndef SF_RUNTIME_RANK_H
#define SF_RUNTIME_RANK_H

#include "runtime/data.h"
#include "runtime/image.h"
#include "runtime/rt.h"
#include "runtime/transport.h"

struct sfi_capture; /* dump.h */

/* Listens to every dispatch, and to every kernel call in the steps that it chooses; see measure.c. */
struct sfi_probe {
    void *self;
    bool (*times_calls)(uint32_t step);
    void (*call)(void *self, uint32_t rank, uint32_t recipe, uint32_t call, int64_t cpu_ns);
    void (*gap)(void *self, uint32_t rank, uint32_t step,
                int64_t wall_ns); /* from the end of an op to the next issue */
    uint32_t min_steps;
    int64_t deadline_ns; /* stop after the step in which it passes, but not before min_steps */
    int64_t lasts_ns;    /* likewise on a GPU, from its first step on: getting ready may take longer */
};

/* What all ranks of a process share. */
struct sfi_run {
    const struct sfi_image *image;
    const struct sfi_data *data; /* NULL when the program loads nothing */
    const struct sf_rt_options *options;
    const struct sfi_probe *probe; /* NULL: not measuring */
    const struct sfi_watch *watch; /* of a GPU run's other processes (cuda/gpu.h); NULL: there are none */
};

/* How far the op in flight on a stream has come in its recipe. */
struct sfi_walk {
    uint32_t call, xfer; /* the next call; the next collective's transfer */
    bool posted;         /* the collective at `call` is under way */
    int64_t busy_ns;
};

struct sfi_rank {
    const struct sfi_run *run;
    const struct sf_class *cls;
    uint32_t rank, class_i, dp_index;
    char *mem;              /* the arena of prog.h */
    struct sfi_xfer *xfers; /* [xfers_n]; first one per op, of which those that communicate are filled, then */
    uint32_t *call_xfers;   /* those of collectives inside recipes; [ops_n] the first of an op */
    uint32_t xfers_n;
    struct sfi_walk walk[SF_MAX_STREAMS];
    struct sf_trace_rec *recs;   /* [recorded steps * ops_n] */
    struct sf_trace_rec *rec;    /* of the step under way */
    struct sfi_capture *capture; /* NULL: no dump */
    struct sfi_transport net;
    struct sf_arena *arena;  /* of the small things */
    int64_t clock_offset_ns; /* own clock minus rank 0's */
    int64_t origin_ns;       /* start of the step on the own clock */
    int64_t last_end_ns;     /* end of the op before, 0 when this rank has waited since; for the probe */
    uint32_t step, steps_done;
    /* rank 0 only */
    uint32_t *loss_rank; /* [dp_n] which rank knows the losses of a data-parallel index; SF_NONE: nobody */
    const float **loss_src;
    float *losses; /* [steps] */
};

int sfi_rank_create(const struct sfi_run *run, uint32_t rank, struct sfi_rank **out, struct sf_err *err);
void sfi_rank_destroy(struct sfi_rank *r); /* NULL is legal */

/* Bytes every rank gives at the end of a step. */
size_t sfi_rank_exchange_bytes(const struct sfi_image *image);

/* First touch, initial weights and shards, then all steps. On the thread that is the rank. */
int sfi_rank_train(struct sfi_rank *r, struct sf_err *err);

/* Add this rank's records to a trace. */
int sfi_rank_records(const struct sfi_rank *r, struct sf_trace *trace, struct sf_err *err);

/* The host's part of the memory lies behind the arena. */
static inline char *sfi_rank_at(const struct sfi_rank *r, uint32_t buf, uint64_t offset) {
    uint64_t base = r->cls->bufs[buf].kind == SF_BUF_HOST ? r->cls->arena_bytes : 0;
    return r->mem + base + r->cls->bufs[buf].offset + offset;
}

static inline char *sfi_rank_arg(const struct sfi_rank *r, const struct sf_op *op, uint32_t arg) {
    const struct sf_arg *a = &r->cls->args[op->arg_first + arg];
    return sfi_rank_at(r, a->buf, a->offset);
}

/* Where this rank's block of a weight lies in the whole. */
struct sfi_place {
    uint64_t first_row, first_col, rows, cols; /* rows, cols: of the whole */
};
struct sfi_place sfi_rank_place(const struct sfi_rank *r, const struct sf_tensor *t);

/* init.c: everything that must be in the arena before the first step, and the hyperparameters before each. */
void sfi_rank_init_weights(struct sfi_rank *r);
void sfi_rank_set_hyper(struct sfi_rank *r);
void sfi_hyper(const struct sf_prog_job *job, uint32_t step, float out[8]);

/* backend.c: executing ops. */
struct sf_backend sfi_rank_backend(struct sfi_rank *r);

/* host.c: has somebody asked to stop? A run forgets it when it ends. */
bool sfi_stop_requested(void);
void sfi_stop_clear(void);
/* One core for each of `local_n` ranks of this machine, where there are enough. */
void sfi_pin(uint32_t local_rank, uint32_t local_n);

#endif
