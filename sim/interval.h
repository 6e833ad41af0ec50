/* How far a forecast may be off: 90 % intervals from what the numbers behind it showed on rows that they were not
 * fitted to. docs/calibration.md, "Intervals".
 *
 *   a call        listed in a kernel table: what repeated measurements of that table differ by. Priced by a fitted
 *                 model: the model's p90 on held-out rows, twice that outside the sizes it was fitted to. By the
 *                 roofline: a rule of thumb by grade
 *   a family      products; attention; everything that streams. Errors inside one go the same way, so they add
 *   the network   errors of published collectives; twice that where links were never compared
 *   the release   what measured steps of this framework and device differ by, given by the caller
 *
 * Families, network and release are independent: squares add. A bubble is other stages' kernels, so it counts as
 * kernels do. */
#ifndef SF_SIM_INTERVAL_H
#define SF_SIM_INTERVAL_H

#include "sim/sim.h"

struct sf_interval {
    double low_s, high_s;
    double kernels, network, release; /* half widths by cause, as shares of the step */
    double half;                      /* of all: low is step / (1 + half), high is step * (1 + half) */
};

/* release 0: not known. It then is what frameworks change on GPUs (interval.c), and nothing where a kernel table says
 * how this device runs programs, where a framework was set, and between ranks of one host. */
void sf_interval_of(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_result *result,
                    double release, struct sf_interval *out);
/* The same parts with another release. */
void sf_interval_set(struct sf_interval *i, double step_s, double release);

/* Half width for one compute call. */
double sf_interval_call(const struct sf_cost *cost, const struct sf_call *call);

/* "kernels 4.1 %, network 0.6 %": what carries weight; returns `buf`. */
char *sf_interval_text(const struct sf_interval *i, char *buf, size_t size);

#endif
