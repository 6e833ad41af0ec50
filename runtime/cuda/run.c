/* Whole runs on a device: who this process is, its sessions, the loop over steps, what is left at the end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/clock.h"
#include "runtime/cuda/device.h"
#include "runtime/cuda/run_peers.h"
#include "runtime/cuda/run_place.h"
#include "runtime/cuda/session.h"
#include "runtime/record.h"
#include "runtime/run.h"

struct gpu_run {
    const struct sf_rt_gpu *how;
    struct sfi_device device;
    struct sfi_target target;
    struct sfi_run run;
    struct sfi_session **sessions; /* one; the recording device takes one for every rank of a program */
    void **worlds;
    uint32_t sessions_n, worlds_n, rank, ranks;
    bool mpi, failed_together; /* the others know of the failure */
    struct sfi_watch watch;
    unsigned char (*ids)[SFI_NCCL_ID_BYTES]; /* [ids_n] where the world meets */
    uint32_t ids_n;
    struct sfi_mpi *net; /* with MPI: gathers results */
    int64_t cpu_ns;
};

/* ---- the world -------------------------------------------------------------------------------------------------- */

/* Go on together, or fail together. */
static int agree(struct gpu_run *g, int rc, struct sf_err *err) {
    int all = g->mpi ? sf_rt_mpi_agree(rc, err) : sf_rt_peers_agree(g->how->peers, rc, err);
    g->failed_together |= all != SF_OK;
    return all;
}

/* The others wait for this rank, inside of NCCL or of a step, where MPI does not reach them. */
static void end_all_processes(struct gpu_run *g, const struct sf_err *why) {
    const struct sfi_transport t = sfi_mpi_transport(g->net);
    t.abort(t.self, g->rank, why);
}

static int watch_look(void *self, struct sf_err *err) {
    const struct gpu_run *g = self;
    return g->how->peers ? sfi_peers_look(g->how->peers, err) : SF_OK;
}

static int watch_agree(void *self, int rc, struct sf_err *err) {
    return agree(self, rc, err);
}

/* With MPI, who gives up ends all processes. */
static void watch_tell(void *self, const struct sf_err *why) {
    const struct gpu_run *g = self;
    if (g->how->peers) {
        sfi_peers_tell(g->how->peers, why);
    }
}

static bool is_root(const struct gpu_run *g) {
    for (uint32_t i = 0; i < g->ids_n; i++) {
        if (sfi_gpu_root_rank(i, g->ids_n, g->run.image->ranks) == g->rank) {
            return true;
        }
    }
    return false;
}

/* Each root's id to all, by way of rank 0. */
static int share_ids(struct gpu_run *g, struct sf_err *err) {
    const struct sfi_gpu_api *api = g->device.api;
    uint32_t ranks = g->run.image->ranks;
    unsigned char(*all)[SFI_NCCL_ID_BYTES] = sf_calloc(ranks, sizeof *all);
    int rc = all ? SF_OK : sf_fail_memory(err, "ids");
    rc = rc == SF_OK && is_root(g) ? api->comm_id(api->self, all[g->rank], err) : rc;
    rc = sf_rt_mpi_agree(rc, err);
    rc = rc == SF_OK ? sf_rt_mpi_agree(sfi_mpi_collect(all, sizeof *all, err), err) : rc;
    for (uint32_t i = 0; rc == SF_OK && i < g->ids_n; i++) {
        memcpy(g->ids[i], all[sfi_gpu_root_rank(i, g->ids_n, ranks)], sizeof *all);
    }
    sf_free(all);
    return rc == SF_OK ? sf_rt_mpi_broadcast(g->ids, g->ids_n * sizeof *g->ids, err) : rc;
}

/* Who finds NCCL_COMM_ID makes the id that it says, so there is one root; with MPI rank 0's environment counts. */
static int make_ids(struct gpu_run *g, struct sf_err *err) {
    const struct sfi_gpu_api *api = g->device.api;
    bool one = !g->device.record && (!g->mpi || getenv("NCCL_COMM_ID"));
    g->ids_n = one ? 1 : sfi_gpu_roots(g->run.image->ranks);
    SF_TRY(g->mpi ? sf_rt_mpi_broadcast(&g->ids_n, sizeof g->ids_n, err) : SF_OK);
    g->ids = sf_calloc(g->ids_n, sizeof *g->ids);
    int rc = g->ids ? SF_OK : sf_fail_memory(err, "ids");
    SF_TRY(agree(g, rc, err));
    if (g->mpi) {
        return share_ids(g, err);
    }
    for (uint32_t i = 0; i < g->ids_n && rc == SF_OK; i++) {
        rc = api->comm_id(api->self, g->ids[i], err);
    }
    return agree(g, rc, err);
}

static int make_world(struct gpu_run *g, uint32_t session, struct sf_err *err) {
    static const struct sf_coll_picks none;
    const struct sfi_gpu_api *api = g->device.api;
    SF_TRY(sfi_gpu_picks(g->run.image->prog) ? api->comm_picks(api->self, &none, err) : SF_OK);
    return api->comm_world(api->self, (const unsigned char(*)[SFI_NCCL_ID_BYTES])g->ids, g->ids_n, g->run.image->ranks,
                           g->device.record ? session : g->rank, &g->worlds[session], err);
}

/* ---- sessions --------------------------------------------------------------------------------------------------- */

static int check_rules(struct gpu_run *g, struct sf_err *err) {
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        SF_TRY(sfi_record_check_order(g->device.record, g->sessions[i], err));
        SF_TRY(sfi_record_check_hazards(g->device.record, g->sessions[i], err));
    }
    return g->how->virtual_ranks ? SF_OK : sfi_record_check_comms(g->device.record, err);
}

/* One of several processes without MPI. */
static bool is_part(const struct gpu_run *g) {
    return !g->mpi && g->ranks > 1;
}

static int set_clock(struct gpu_run *g, struct sfi_session *s, struct sf_err *err) {
    uint64_t device_ns;
    int64_t host_ns, offset_ns = 0, uncertainty_ns = 0;
    if (!g->mpi && !is_part(g)) {
        return SF_OK;
    }
    SF_TRY(s->api->clock(s->api->self, &device_ns, &host_ns, &s->clock_uncertainty_ns, err));
    if (g->mpi) {
        sfi_mpi_clock(g->net, &offset_ns, &uncertainty_ns);
    } else if (!sfi_place_shares_host()) { /* nothing tells how far the hosts' clocks are apart */
        s->clock_is_own = true;
        s->clock_uncertainty_ns = INT64_MAX / 2000;
        return SF_OK;
    }
    s->shift_ns = host_ns - (int64_t)device_ns - offset_ns;
    s->clock_uncertainty_ns += uncertainty_ns;
    return SF_OK;
}

static int open_session(struct gpu_run *g, uint32_t i, struct sf_err *err) {
    bool is_virtual = g->how->virtual_ranks;
    uint32_t first = is_virtual ? 0 : g->device.record ? i : g->rank, n = is_virtual ? g->run.image->ranks : 1;
    SF_TRY(is_virtual ? SF_OK : make_world(g, i, err));
    SF_TRY(sfi_session_create(g->device.api, &g->run, first, n, &g->worlds[i], &g->sessions[i], err));
    g->sessions_n++;
    SF_TRY(set_clock(g, g->sessions[i], err));
    return sfi_session_capture(g->sessions[i], err);
}

static int open_sessions(struct gpu_run *g, struct sf_err *err) {
    uint32_t n = g->device.record && !g->how->virtual_ranks ? g->run.image->ranks : 1;
    g->sessions = sf_calloc(n, sizeof(struct sfi_session *));
    g->worlds = sf_calloc(n, sizeof *g->worlds);
    if (!g->sessions || !g->worlds) {
        return sf_fail_memory(err, "sessions");
    }
    g->worlds_n = n;
    SF_TRY(g->how->virtual_ranks ? SF_OK : make_ids(g, err));
    for (uint32_t i = 0; i < n; i++) {
        int rc = open_session(g, i, err);
        if (rc != SF_OK && g->mpi && !g->failed_together) {
            end_all_processes(g, err);
        }
        SF_TRY(agree(g, rc, err));
    }
    if (g->how->estimates_path) {
        int rc = g->rank == 0 ? sfi_session_estimates(g->sessions[0], g->how->estimates_path, err) : SF_OK;
        SF_TRY(agree(g, rc, err));
    }
    return g->device.record ? check_rules(g, err) : SF_OK;
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

static int launch(struct gpu_run *g, struct sf_err *err) {
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        SF_TRY(sfi_session_launch(g->sessions[i], err));
    }
    return SF_OK;
}

static int conclude(struct gpu_run *g, struct sf_err *err) {
    const struct sf_rt_options *o = g->run.options;
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        SF_TRY(sfi_session_conclude(g->sessions[i], err));
    }
    const struct sfi_session *s = g->sessions[0];
    int64_t cpu = sfi_cpu_ns();
    if (o->on_step && s->ranks[0].host->rank == 0) {
        uint32_t at = s->concluded - 1;
        bool timed = !g->device.record; /* the recording device's clock counts nodes, and it works in every call */
        const struct sf_rt_step step = {.step = at,
                                        .loss = g->device.computes ? (double)s->losses[at] : NAN,
                                        .norm = g->device.computes ? s->norm : NAN,
                                        .wall_s = timed ? s->wall_s : NAN,
                                        .cpu_s = timed ? (double)(cpu - g->cpu_ns) * 1e-9 : NAN,
                                        .host_s = timed ? s->host_s[at & 1] : NAN,
                                        .launch_s = timed ? s->launch_s[at & 1] : NAN};
        o->on_step(o->self, &step);
    }
    g->cpu_ns = cpu;
    return SF_OK;
}

/* Always one step ahead of the results. When somebody wishes to stop, all see it in the same step's results. */
static int train(struct gpu_run *g, struct sf_err *err) {
    const struct sfi_session *s = g->sessions[0];
    uint32_t steps = g->run.options->steps;
    g->cpu_ns = sfi_cpu_ns();
    SF_TRY(launch(g, err));
    while (s->concluded < s->launched) {
        if (!s->stop && s->launched < steps) {
            SF_TRY(launch(g, err));
        }
        SF_TRY(conclude(g, err));
    }
    return s->concluded < steps ? sf_fail(err, SF_E_INTERRUPTED, "stopped after step %u of %u", s->concluded, steps)
                                : SF_OK;
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static int take_records(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err) {
    (void)rank;
    struct sf_trace_rec rec;
    for (uint64_t at = 0; at + sizeof rec <= bytes; at += sizeof rec) {
        memcpy(&rec, (const char *)data + at, sizeof rec);
        SF_TRY(sf_trace_add(self, &rec, err));
    }
    return SF_OK;
}

static int take_clock(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err) {
    struct sf_trace_clock clock = {.rank = rank};
    int64_t uncertainty_ns = 0;
    memcpy(&uncertainty_ns, data, bytes < sizeof uncertainty_ns ? bytes : sizeof uncertainty_ns);
    clock.uncertainty = uncertainty_ns * 1000;
    const struct sf_trace one = {.clocks = &clock, .clocks_n = 1};
    return sf_trace_append(self, &one, err);
}

typedef int (*take_fn)(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err);

/* Records of processes without MPI stay where they are: each writes its own. */
static int gather_records(struct gpu_run *g, const void *mine, uint64_t bytes, take_fn take, uint32_t rank,
                          struct sf_err *err) {
    struct sf_trace *trace = g->run.options->trace;
    return g->mpi ? sfi_mpi_gather(g->net, mine, bytes, take, trace, err) : take(trace, rank, mine, bytes, err);
}

static int gather_parts(struct gpu_run *g, const struct sf_buf *mine, take_fn take, struct sfi_dump *dump,
                        uint32_t rank, struct sf_err *err) {
    return g->mpi          ? sfi_mpi_gather(g->net, mine->data, mine->bytes, take, dump, err)
           : g->how->peers ? sfi_peers_gather(g->how->peers, mine->data, mine->bytes, take, dump, err)
                           : take(dump, rank, mine->data, mine->bytes, err);
}

static int collect_trace(struct gpu_run *g, struct sf_err *err) {
    struct sf_trace *trace = g->run.options->trace;
    const struct sfi_gpu_api *api = g->device.api;
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        const struct sfi_session *s = g->sessions[i];
        for (uint32_t k = 0; k < s->ranks_n; k++) {
            const struct sfi_rank *r = s->ranks[k].host;
            uint64_t bytes = (uint64_t)r->steps_done * r->cls->ops_n * sizeof *r->recs;
            SF_TRY(gather_records(g, r->recs, bytes, take_records, r->rank, err));
            SF_TRY(
                gather_records(g, &s->clock_uncertainty_ns, sizeof s->clock_uncertainty_ns, take_clock, r->rank, err));
        }
    }
    sfi_run_describe(&g->run, api->traces, g->sessions[0]->concluded, trace);
    snprintf(trace->meta.note, sizeof trace->meta.note, "%.100s, %.140s", api->name, api->versions);
    sf_trace_sort(trace);
    return SF_OK;
}

static int take_part(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err) {
    (void)rank;
    return sfi_dump_add(self, data, bytes, err);
}

static int collect_parts(struct gpu_run *g, struct sfi_dump *dump, struct sf_err *err) {
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        struct sfi_session *s = g->sessions[i];
        const struct sfi_weights from = {.self = s, .read = sfi_gpu_read_tensor};
        for (uint32_t k = 0; k < s->ranks_n; k++) {
            struct sf_buf part = {0};
            int rc = sfi_dump_collect(s->ranks[k].host, &from, &part, err);
            rc = agree(g, rc, err);
            rc = rc == SF_OK ? gather_parts(g, &part, take_part, dump, s->ranks[k].host->rank, err) : rc;
            sf_buf_free(&part);
            SF_TRY(rc);
        }
    }
    return SF_OK;
}

static int collect_dump(struct gpu_run *g, struct sf_err *err) {
    struct sfi_dump *dump = NULL;
    const struct sfi_session *s = g->sessions[0];
    int rc = g->device.api->finish(g->device.api->self, err);
    rc = rc == SF_OK ? sfi_dump_create(&dump, err) : rc;
    rc = agree(g, rc, err);
    rc = rc == SF_OK ? collect_parts(g, dump, err) : rc;
    if (rc == SF_OK && s->ranks[0].host->rank == 0) {
        rc = sfi_dump_write(dump, s->losses, s->concluded, g->run.options->dump_path, err);
    }
    sfi_dump_free(dump);
    return rc;
}

static int collect(struct gpu_run *g, struct sf_err *err) {
    const struct sf_rt_options *o = g->run.options;
    if (o->trace) {
        SF_TRY(agree(g, collect_trace(g, err), err));
    }
    if (o->dump_path && g->sessions[0]->concluded == o->steps) {
        SF_TRY(agree(g, collect_dump(g, err), err));
    }
    return SF_OK;
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

static int check_place(const struct gpu_run *g, const struct sf_prog *prog, struct sf_err *err) {
    if (!g->how->record && !g->how->virtual_ranks && g->ranks != sf_prog_ranks(prog)) {
        return sf_fail(err, SF_E_USAGE,
                       "the program has %u ranks but there %s %u process%s: start one for each, or use --virtual-ranks",
                       sf_prog_ranks(prog), g->ranks == 1 ? "is" : "are", g->ranks, g->ranks == 1 ? "" : "es");
    }
    if (is_part(g) && !g->how->peers) {
        return sf_fail(err, SF_E_INTERNAL, "%u processes without MPI and without a channel between them", g->ranks);
    }
    return SF_OK;
}

static int open_run(struct gpu_run *g, const struct sf_prog *prog, const struct sf_rt_options *options,
                    const struct sfi_probe *probe, struct sf_err *err) {
    g->run.options = options;
    SF_TRY(check_place(g, prog, err));
    SF_TRY(sfi_device_open(prog, g->how, &g->device, err));
    if (options->dump_path && !g->device.computes) {
        fprintf(stderr, "staticfire: nothing is computed, for CPUs have no kernels of this program's "
                        "precision; the dump will hold zeros\n");
    }
    g->target = (struct sfi_target){
        .self = g->device.api->self, .name = g->how->record ? "CPU" : "CUDA", .supports = g->device.api->supports};
    return sfi_run_open_probed(&g->run, prog, options, &g->target, probe, err);
}

/* All are there, with one program. */
static int connect(struct gpu_run *g, int rc, const struct sf_prog *prog, struct sf_err *err) {
    const struct sf_hash hash = sf_prog_hash(prog);
    if (g->how->peers) {
        return sfi_peers_agree_on(g->how->peers, rc, hash.lo ^ hash.hi, "program", err);
    }
    if (!g->mpi) {
        return rc;
    }
    SF_TRY(sf_rt_mpi_agree(rc, err));
    SF_TRY(sfi_mpi_create(prog, g->rank, NULL, 0, sizeof(int64_t), &g->net, err));
    return sf_rt_mpi_agree(sfi_mpi_connect(g->net, err), err);
}

static void watch_others(struct gpu_run *g) {
    if (g->mpi || g->how->peers) {
        g->watch = (struct sfi_watch){.self = g, .look = watch_look, .agree = watch_agree, .tell = watch_tell};
        g->run.watch = &g->watch;
        g->device.api->watch(g->device.api->self, &g->watch);
    }
}

/* What others may be waiting in is given up, not finished. */
static void give_up(struct gpu_run *g, const struct sf_err *why) {
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        sfi_session_give_up(g->sessions[i], why);
    }
    for (uint32_t i = 0; i < g->worlds_n; i++) {
        if (g->worlds[i]) {
            g->device.api->comm_abort(g->device.api->self, g->worlds[i]);
            g->worlds[i] = NULL;
        }
    }
}

static void close_all(struct gpu_run *g) {
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        sfi_session_destroy(g->sessions[i]);
    }
    for (uint32_t i = 0; i < g->worlds_n; i++) {
        if (g->worlds[i]) {
            g->device.api->comm_destroy(g->device.api->self, g->worlds[i]);
        }
    }
    sf_free(g->sessions);
    sf_free(g->worlds);
    sf_free(g->ids);
    sfi_mpi_destroy(g->net);
    sfi_run_close(&g->run);
    sfi_device_close(&g->device);
}

int sf_rt_run_gpu(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sf_rt_gpu *gpu,
                  struct sf_err *err) {
    return sfi_run_gpu(prog, options, NULL, gpu, err);
}

int sfi_run_gpu(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sfi_probe *probe,
                const struct sf_rt_gpu *gpu, struct sf_err *err) {
    struct gpu_run g = {.how = gpu};
    struct sf_err local = {0};
    struct sf_err *e = err ? err : &local;
    SF_TRY(sf_rt_gpu_place(gpu, &g.rank, &g.ranks, &g.mpi, e));
    int rc = open_run(&g, prog, options, probe, e);
    rc = connect(&g, rc, prog, e);
    if (rc == SF_OK) {
        watch_others(&g);
        rc = open_sessions(&g, e);
    }
    if (rc == SF_OK) {
        rc = train(&g, e);
        if (rc != SF_OK && rc != SF_E_INTERRUPTED && g.mpi) {
            end_all_processes(&g, e);
        }
        if (rc == SF_OK || rc == SF_E_INTERRUPTED) {
            int collected = collect(&g, e);
            rc = collected != SF_OK ? collected : rc;
        }
    }
    if (rc != SF_OK && rc != SF_E_INTERRUPTED) {
        give_up(&g, e);
    }
    close_all(&g);
    return rc;
}
