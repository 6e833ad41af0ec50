/* All ranks of a program as threads of this process. */
#include <pthread.h>
#include <string.h>

#include "runtime/dump.h"
#include "runtime/run.h"

struct worker {
    pthread_t thread;
    struct sfi_rank *rank;
    struct sf_err err;
    uint32_t ranks;
    int rc;
    bool started;
};

static void *work(void *self) {
    struct worker *w = self;
    sfi_pin(w->rank->rank, w->ranks);
    w->rc = sfi_rank_train(w->rank, &w->err);
    return NULL;
}

/* Start all, wait for all. The first failure in time is the cause of the others; without one, all agree. */
static int run_workers(struct worker *workers, uint32_t n, struct sfi_threads *net, struct sf_err *err) {
    struct sf_err failed = {0};
    for (uint32_t i = 0; i < n && failed.code == SF_OK; i++) {
        workers[i].started = pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0;
        if (!workers[i].started) {
            struct sfi_transport t = sfi_threads_transport(net);
            sf_fail(&failed, SF_E_FAULT, "cannot start a thread for rank %u of %u", i, n);
            t.abort(t.self, i, &failed);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        if (workers[i].started) {
            pthread_join(workers[i].thread, NULL);
        }
    }
    const struct sf_err *why = sfi_threads_failure(net);
    why = why->code != SF_OK ? why : &workers[0].err;
    if (err && why->code != SF_OK) {
        *err = *why;
    }
    return why->code;
}

static int write_dump(struct worker *workers, uint32_t n, const char *path, struct sf_err *err) {
    struct sfi_dump *dump;
    SF_TRY(sfi_dump_create(&dump, err));
    int rc = SF_OK;
    for (uint32_t i = 0; i < n && rc == SF_OK; i++) {
        struct sf_buf part = {0};
        rc = sfi_dump_collect(workers[i].rank, NULL, &part, err);
        if (rc == SF_OK) {
            rc = sfi_dump_add(dump, part.data, part.bytes, err);
        }
        sf_buf_free(&part);
    }
    if (rc == SF_OK) {
        rc = sfi_dump_write(dump, workers[0].rank->losses, workers[0].rank->steps_done, path, err);
    }
    sfi_dump_free(dump);
    return rc;
}

static int collect(const struct sfi_run *run, struct worker *workers, struct sf_err *err) {
    struct sf_trace *trace = run->options->trace;
    uint32_t n = run->image->ranks, steps = workers[0].rank->steps_done;
    if (trace) {
        sfi_run_describe(run, "threads", steps, trace);
        for (uint32_t i = 0; i < n; i++) {
            SF_TRY(sfi_rank_records(workers[i].rank, trace, err));
        }
        sf_trace_sort(trace);
    }
    if (run->options->dump_path && steps == run->options->steps) {
        SF_TRY(write_dump(workers, n, run->options->dump_path, err));
    }
    return SF_OK;
}

static int connect(const struct sfi_run *run, struct worker *workers, struct sfi_threads **net, struct sf_err *err) {
    uint32_t n = run->image->ranks;
    struct sfi_xfer **xfers = sf_calloc(n, sizeof *xfers);
    uint32_t *xfers_n = sf_calloc(n, sizeof *xfers_n);
    int rc = xfers && xfers_n ? SF_OK : sf_fail_memory(err, "transport between threads");
    for (uint32_t i = 0; i < n && rc == SF_OK; i++) {
        workers[i].ranks = n;
        rc = sfi_rank_create(run, i, &workers[i].rank, err);
        if (rc == SF_OK) {
            xfers[i] = workers[i].rank->xfers;
            xfers_n[i] = workers[i].rank->xfers_n;
        }
    }
    if (rc == SF_OK) {
        rc = sfi_threads_create(run->image->prog, xfers, xfers_n, sfi_rank_exchange_bytes(run->image), net, err);
    }
    for (uint32_t i = 0; i < n && rc == SF_OK; i++) {
        workers[i].rank->net = sfi_threads_transport(*net);
    }
    sf_free(xfers_n);
    sf_free(xfers);
    return rc;
}

int sfi_run_threads(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sfi_probe *probe,
                    struct sf_err *err) {
    uint32_t n = sf_prog_ranks(prog);
    struct sfi_run run;
    struct sfi_threads *net = NULL;
    struct worker *workers = sf_calloc(n, sizeof *workers);
    if (!workers) {
        return sf_fail_memory(err, "ranks");
    }
    int rc = sfi_run_open(&run, prog, options, probe, 0, n, err);
    if (rc == SF_OK) {
        rc = connect(&run, workers, &net, err);
    }
    if (rc == SF_OK) {
        rc = run_workers(workers, n, net, err);
        if (rc == SF_OK || rc == SF_E_INTERRUPTED) {
            int collected = collect(&run, workers, err);
            rc = collected != SF_OK ? collected : rc;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        sfi_rank_destroy(workers[i].rank);
    }
    sfi_threads_destroy(net);
    sfi_run_close(&run);
    sf_free(workers);
    return rc;
}

int sf_rt_run_threads(const struct sf_prog *prog, const struct sf_rt_options *options, struct sf_err *err) {
    return sfi_run_threads(prog, options, NULL, err);
}
