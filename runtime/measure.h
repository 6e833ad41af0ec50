/* Timing this machine's kernels and transport in the setting that will be forecast: the program itself runs for some
 * steps, as many threads at once as it has ranks, so caches, memory and power are shared as they will be.
 *
 * Every second step times whole ops, undisturbed, the others every kernel call inside them. A call's time is its
 * median, scaled so that the calls of a recipe add up to the median of its ops: what a forecast sums is then what a
 * measurement will find. Collectives inside recipes are timed like calls, without the waiting; with those of ops they
 * are listed by size, and make the latency and the rate of the table.
 *
 * On a GPU times come from stamps of its clock: a call's reaches from its begin to that of the next one, launch gap
 * included, so the sum of a recipe's calls is the time that its op holds the stream for. What one stamp takes is found
 * where two follow each other, and is taken off. Transfers wait for each other there, which a stamp cannot tell from
 * moving bytes; so latencies and rates come from ranks that do nothing but talk. */
#ifndef SF_RUNTIME_MEASURE_H
#define SF_RUNTIME_MEASURE_H

#include "core/io.h"
#include "core/prog.h"
#include "runtime/rt.h"

struct sf_rt_measure_options {
    const char *data_path; /* NULL: random bytes */
    bool reference_kernels;
    double seconds; /* aim of the whole measurement; a slow program takes longer */
    bool mpi;       /* ranks are MPI processes, of which this is `rank`; else threads */
    uint32_t rank;
    const struct sf_rt_gpu *gpu; /* NULL: CPUs */
};

/* Appends the YAML that sf_cost_create reads; over MPI on the process that is rank 0. */
int sf_rt_measure(const struct sf_prog *prog, const struct sf_rt_measure_options *options, struct sf_buf *out,
                  struct sf_err *err);

/* What moving bytes between ranks costs: time = latency + bytes / rate. Collectives: the ring of sim/cost.h. */
struct sfi_links {
    double message_latency_s, message_rate;
    double collective_latency_s, collective_rate;
    bool one_device; /* between virtual ranks: bytes moved inside a GPU, by nothing that joins two */
};

/* measure_links.c: two threads, or virtual ranks of a GPU, that only talk; over MPI all `ranks` processes, of which 0
 * learns the figures. */
int sfi_measure_links(const struct sf_rt_measure_options *o, uint32_t ranks, struct sfi_links *out, struct sf_err *err);

double sfi_median(double *values, size_t n); /* sorts; 0 when there are none */

/* Take rates from the program's own transfers where it has some: they are what will be forecast. busy_s[first[rank] +
 * op] is the median busy time of an op. */
void sfi_fit_links(const struct sf_prog *prog, const double *busy_s, const size_t *first, struct sfi_links *links);

/* The same for programs with collectives inside recipes: latency and rate that come nearest to all of them, and to
 * those of ops. */
struct sfi_coll_time {
    const struct sf_call *call;
    double seconds, runs; /* of one run; how often in a step */
};
void sfi_fit_recipes(const struct sf_prog *prog, const double *busy_s, const size_t *first,
                     const struct sfi_coll_time *times, size_t n, struct sfi_links *links);

/* measure_colls.c: appends the entry `collectives`, a line per kind, ranks and bytes that the program has; nothing
 * where it has none. */
int sfi_print_collectives(const struct sf_prog *prog, const double *busy_s, const size_t *first,
                          const struct sfi_coll_time *times, size_t n, struct sf_buf *out, struct sf_err *err);

#endif
