/* What a model is cut from and into, as tables that a person wrote, measured or got from another tool.
 *
 * Units, in data order, a row per unit and way to run it:
 *
 *   unit,count,devices,f,b,w,state,activation
 *   encoder,24,1,0.8ms,0.8ms,0.5ms,0.9GB,40MB    24 units alike
 *   embedding,1,1,0.1ms,0ms,0.1ms,8GB,0B
 *   layer,80,1,4.1ms,4.2ms,4.0ms,6GB,500MB
 *   layer,80,2,2.3ms,2.3ms,2.2ms,3GB,250MB       the same on two devices (tp, ep): the next rows of the same name
 *
 * f, b and w are of one microbatch; state (weights, gradients, optimizer) and activation are of one device. Every unit
 * says the same ways. Columns may come in any order; count and devices may be left out and are then 1.
 *
 * Stages, as `staticfire cut --costs` writes them and `staticfire schedule --costs` reads them, a row per virtual
 * stage: stage,f,b,w,activation. */
#ifndef SF_PLANNER_CUT_UNITS_H
#define SF_PLANNER_CUT_UNITS_H

#include "core/io.h"
#include "planner/cuts.h"
#include "planner/pipeline.h"

#define SF_CUT_NAME 32

struct sf_cut_row { /* units alike */
    char unit[SF_CUT_NAME];
    uint32_t count, first; /* units first .. first + count - 1 */
    sf_time_ps f[SF_CUT_WAYS], b[SF_CUT_WAYS], w[SF_CUT_WAYS];
};

struct sf_cut_units {
    struct sf_cut_row *rows;   /* [units_n], of which rows_n count */
    struct sf_cut_unit *units; /* [SF_CUT_UNITS], of which units_n count */
    uint32_t rows_n, units_n, ways_n;
    uint32_t way_devices[SF_CUT_WAYS];
};

/* Located SF_E_INPUT errors: a time of at most 100 s, sizes of at most 64 TiB, no more units and ways than cuts.h. */
int sf_cut_units_load(const struct sf_io *io, const char *path, struct sf_cut_units *out, struct sf_err *err);
void sf_cut_units_clear(struct sf_cut_units *u); /* legal on a zeroed one */

/* What units from .. to-1 cost together on one device of a way. */
struct sf_cut_stage {
    sf_time_ps f, b, w;
    uint64_t state_bytes, activation_bytes;
};
struct sf_cut_stage sf_cut_stage_of(const struct sf_cut_units *u, uint32_t from, uint32_t to, uint32_t way);

/* The cut that knows nothing of costs: the unit that there is most of in equal numbers, the first stages one more where
 * that does not come out even; what comes before it goes to the first stage, what comes after to the last. All run in
 * way 0. False: fewer of that unit than stages. */
bool sf_cut_even(const struct sf_cut_units *u, uint32_t stages_n, struct sf_cut *out);

void sf_stage_costs_print(const struct sf_cut_units *u, const struct sf_cut *cut, uint32_t stages_n,
                          struct sf_buf *out);

struct sf_stage_costs {
    uint32_t stages_n;
    sf_time_ps *f, *b, *w; /* [stages_n] each, in one block */
    double *activation;    /* [stages_n] shares of the mean stage; all 0 where the table says nothing else */
};
int sf_stage_costs_load(const struct sf_io *io, const char *path, struct sf_stage_costs *out, struct sf_err *err);
void sf_stage_costs_clear(struct sf_stage_costs *c); /* legal on a zeroed one */
/* For a table with as many stages: f, b and w of `spec` are left alone. SF_E_INPUT where the numbers differ. */
int sf_stage_costs_set(const struct sf_stage_costs *c, const struct sf_pipe *p, const struct sf_pipe_spec *spec,
                       struct sf_pipe_costs *out, struct sf_err *err);

#endif
