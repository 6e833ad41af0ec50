/* What the generators of schedule families share. */
#ifndef SF_PLANNER_PIPE_INTERNAL_H
#define SF_PLANNER_PIPE_INTERNAL_H

#include "planner/pipeline.h"

/* A spec with its defaults filled in, and what one pass costs. */
struct sfi_family {
    struct sf_pipe_spec spec;
    uint32_t stages, ways;
    sf_time_ps f, b, w; /* of one pass */
    double limit;       /* of a device's memory, in chunks; 0: none */
    double b_frees;     /* shares of a chunk */
    double w_frees;
};

typedef int sfi_generate_fn(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err);
sfi_generate_fn sfi_pipe_gpipe, sfi_pipe_1f1b, sfi_pipe_interleaved, sfi_pipe_breadth_first, sfi_pipe_zb_h, sfi_pipe_zb,
    sfi_pipe_zb_v, sfi_pipe_v_pattern, sfi_pipe_dualpipe, sfi_pipe_dualpipev;

int sfi_pipe_make(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err);
void sfi_pipe_place_v(struct sf_pipe *p); /* stage s on device s, or 2p-1-s */

/* ---- greedy construction ----------------------------------------------------------------------------------------- */

/* A table that grows pass by pass in time. Weight gradients are kept back and filled into gaps, oldest first. */
struct sfi_lane {
    sf_time_ps free, idle;
    double memory;
    uint32_t w_at; /* no B before this place in the row waits for its W */
    uint32_t waiting_w;
};

struct sfi_greedy {
    const struct sfi_family *family;
    struct sf_pipe *pipe;
    struct sfi_lane *lanes; /* [devices] */
    sf_time_ps *end[2];     /* [F, B][stages][microbatches]; -1 before */
    sf_time_ps most_idle;   /* of any device */
    uint32_t *done[2];      /* [F, B][stages] microbatches done */
    bool eager;             /* a W goes into any gap, not only where the gap would become the largest idle time */
    bool whole;             /* backwards are not split */
};

int sfi_greedy_create(const struct sfi_family *f, bool v, struct sfi_greedy *out, struct sf_err *err);
void sfi_greedy_clear(struct sfi_greedy *g); /* frees the table too, unless it was taken */
void sfi_greedy_reset(struct sfi_greedy *g);

/* When the inputs of the next F (B) of a stage are there; -1: not known yet, or no microbatch is left. */
sf_time_ps sfi_greedy_arrival(const struct sfi_greedy *g, int kind, uint32_t stage);
void sfi_greedy_put(struct sfi_greedy *g, int kind, uint32_t stage); /* its inputs must be known */
void sfi_greedy_put_w(struct sfi_greedy *g, uint32_t device);        /* one must be waiting */
/* Fill the time until `arrival` with W: all that fit; `beyond`: and one that does not where the rule asks for it. */
void sfi_greedy_fill(struct sfi_greedy *g, uint32_t device, sf_time_ps arrival, bool beyond);
bool sfi_greedy_room(const struct sfi_greedy *g, uint32_t device, double chunks);
/* Run W until another F fits; false when that is not enough. */
bool sfi_greedy_make_room(struct sfi_greedy *g, uint32_t device);
void sfi_greedy_finish(struct sfi_greedy *g); /* all W that are left */
bool sfi_greedy_complete(const struct sfi_greedy *g);

/* The best table so far. */
struct sfi_best {
    struct sf_pipe *pipe;
    sf_time_ps span;
};
/* Keep the greedy's table if its span is shorter. */
int sfi_best_offer(struct sfi_best *best, const struct sfi_greedy *g, struct sf_err *err);
/* Hand the best table over; `rc` is passed on and nothing found is SF_E_NOPLAN. */
int sfi_best_take(const struct sfi_family *f, struct sfi_best *best, int rc, struct sf_pipe **out, struct sf_err *err);
sf_time_ps sfi_greedy_span(const struct sfi_greedy *g);

/* Offers to `best` whatever these find; no error when they find nothing. */
int sfi_zb_v_greedy(const struct sfi_family *f, struct sfi_best *best, struct sf_err *err);
int sfi_v_pattern_search(const struct sfi_family *f, struct sfi_best *best, struct sf_err *err);

/* ---- drawings ---------------------------------------------------------------------------------------------------- */

/* A stretch of a device's time. */
struct sfi_column {
    const struct sf_pass *pass; /* in its middle, so that kinds have as many columns as time; NULL: idle */
};
void sfi_pipe_columns(const struct sf_pipe *p, uint32_t d, sf_time_ps *const *start, sf_time_ps *const *end,
                      double per_column, struct sfi_column *columns, uint32_t columns_n);
sf_time_ps sfi_pipe_last_end(const struct sf_pipe *p, sf_time_ps *const *end); /* at least 1 */

#endif
