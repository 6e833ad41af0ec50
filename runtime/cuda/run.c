/* Whole runs on a device: who this process is, its sessions, the loop over steps, what is left at the end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/clock.h"
#include "runtime/cuda/device.h"
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
    bool mpi;
    struct sfi_mpi *net; /* with MPI: gathers results */
    int64_t cpu_ns;
};

/* ---- place ------------------------------------------------------------------------------------------------------ */

static bool read_number(const char *name, uint32_t *out) {
    const char *text = getenv(name);
    char *end;
    if (!text || text[0] < '0' || text[0] > '9') {
        return false;
    }
    unsigned long n = strtoul(text, &end, 10);
    *out = (uint32_t)n;
    return *end == '\0' && n < SF_MAX_RANKS;
}

static bool torchrun_launched(void) {
    return getenv("RANK") && getenv("WORLD_SIZE") && getenv("MASTER_ADDR");
}

int sf_rt_gpu_place(const struct sf_rt_gpu *gpu, uint32_t *rank, uint32_t *ranks, bool *mpi, struct sf_err *err) {
    *rank = 0;
    *ranks = 1;
    *mpi = false;
    if (gpu->virtual_ranks || gpu->record) {
        return SF_OK;
    }
    if (torchrun_launched()) {
        if (!read_number("RANK", rank) || !read_number("WORLD_SIZE", ranks) || *rank >= *ranks) {
            return sf_fail(err, SF_E_USAGE, "RANK=%.20s WORLD_SIZE=%.20s: expected a rank below the number of ranks",
                           getenv("RANK"), getenv("WORLD_SIZE"));
        }
        return SF_OK;
    }
    *mpi = sf_rt_mpi_launched();
    return *mpi ? sf_rt_mpi_begin(rank, ranks, err) : SF_OK;
}

/* torchrun's agent listens on MASTER_PORT itself where it says so; NCCL's first rank takes the port beside it. */
static long meeting_port(void) {
    const char *port = getenv("MASTER_PORT"), *agent = getenv("TORCHELASTIC_USE_AGENT_STORE");
    long master = port ? strtol(port, NULL, 10) : 29500, beside = master < 65535 ? master + 1 : master - 1;
    return agent && strcmp(agent, "True") == 0 ? beside : master;
}

/* NCCL meets at MASTER_ADDR by itself: with NCCL_COMM_ID set every rank makes the same id. */
static int meet_at_master(struct sf_err *err) {
    char place[300];
    snprintf(place, sizeof place, "%.255s:%ld", getenv("MASTER_ADDR"), meeting_port());
    if (!getenv("NCCL_COMM_ID") && setenv("NCCL_COMM_ID", place, 1) != 0) {
        return sf_fail_memory(err, "the environment");
    }
    return SF_OK;
}

static int make_world(struct gpu_run *g, uint32_t session, struct sf_err *err) {
    const struct sfi_gpu_api *api = g->device.api;
    unsigned char id[SFI_NCCL_ID_BYTES] = {0};
    uint32_t rank = g->device.record ? session : g->rank, ranks = g->run.image->ranks;
    bool torchrun = ranks > 1 && !g->device.record && !g->mpi;
    SF_TRY(torchrun ? meet_at_master(err) : SF_OK);
    int rc = g->mpi && g->rank != 0 ? SF_OK : api->comm_id(api->self, id, err);
    if (g->mpi) {
        SF_TRY(sf_rt_mpi_agree(rc, err));
        rc = sf_rt_mpi_broadcast(id, sizeof id, err);
    }
    return rc == SF_OK ? api->comm_world(api->self, id, ranks, rank, &g->worlds[session], err) : rc;
}

/* ---- sessions --------------------------------------------------------------------------------------------------- */

static int check_rules(struct gpu_run *g, struct sf_err *err) {
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        SF_TRY(sfi_record_check_order(g->device.record, g->sessions[i], err));
        SF_TRY(sfi_record_check_hazards(g->device.record, g->sessions[i], err));
    }
    return g->how->virtual_ranks ? SF_OK : sfi_record_check_comms(g->device.record, err);
}

/* One of several processes that nothing but NCCL connects: torchrun's. */
static bool is_part(const struct gpu_run *g) {
    return !g->mpi && g->ranks > 1;
}

static bool shares_host(void) {
    uint32_t local, all;
    return read_number("LOCAL_WORLD_SIZE", &local) && read_number("WORLD_SIZE", &all) && local == all;
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
    } else if (!shares_host()) { /* nothing tells how far the hosts' clocks are apart */
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
    for (uint32_t i = 0; i < n; i++) {
        int rc = open_session(g, i, err);
        SF_TRY(g->mpi ? sf_rt_mpi_agree(rc, err) : rc);
    }
    if (g->how->estimates_path && g->rank == 0) {
        SF_TRY(sfi_session_estimates(g->sessions[0], g->how->estimates_path, err));
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

static int gather(struct gpu_run *g, const void *mine, uint64_t bytes,
                  int (*take)(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err),
                  void *self, uint32_t rank, struct sf_err *err) {
    return g->mpi ? sfi_mpi_gather(g->net, mine, bytes, take, self, err) : take(self, rank, mine, bytes, err);
}

static int collect_trace(struct gpu_run *g, struct sf_err *err) {
    struct sf_trace *trace = g->run.options->trace;
    const struct sfi_gpu_api *api = g->device.api;
    for (uint32_t i = 0; i < g->sessions_n; i++) {
        const struct sfi_session *s = g->sessions[i];
        for (uint32_t k = 0; k < s->ranks_n; k++) {
            const struct sfi_rank *r = s->ranks[k].host;
            uint64_t bytes = (uint64_t)r->steps_done * r->cls->ops_n * sizeof *r->recs;
            SF_TRY(gather(g, r->recs, bytes, take_records, trace, r->rank, err));
            SF_TRY(
                gather(g, &s->clock_uncertainty_ns, sizeof s->clock_uncertainty_ns, take_clock, trace, r->rank, err));
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
            rc = g->mpi ? sf_rt_mpi_agree(rc, err) : rc;
            rc = rc == SF_OK ? gather(g, part.data, part.bytes, take_part, dump, s->ranks[k].host->rank, err) : rc;
            sf_buf_free(&part);
            SF_TRY(rc);
        }
    }
    return SF_OK;
}

static int collect_dump(struct gpu_run *g, struct sf_err *err) {
    struct sfi_dump *dump;
    const struct sfi_session *s = g->sessions[0];
    SF_TRY(g->device.api->finish(g->device.api->self, err));
    SF_TRY(sfi_dump_create(&dump, err));
    int rc = collect_parts(g, dump, err);
    if (rc == SF_OK && s->ranks[0].host->rank == 0) {
        rc = sfi_dump_write(dump, s->losses, s->concluded, g->run.options->dump_path, err);
    }
    sfi_dump_free(dump);
    return rc;
}

static int collect(struct gpu_run *g, struct sf_err *err) {
    const struct sf_rt_options *o = g->run.options;
    if (o->trace) {
        int rc = collect_trace(g, err);
        SF_TRY(g->mpi ? sf_rt_mpi_agree(rc, err) : rc);
    }
    if (o->dump_path && g->sessions[0]->concluded == o->steps) {
        int rc = collect_dump(g, err);
        SF_TRY(g->mpi ? sf_rt_mpi_agree(rc, err) : rc);
    }
    return SF_OK;
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

static int check_place(const struct gpu_run *g, const struct sf_prog *prog, struct sf_err *err) {
    const struct sf_rt_options *o = g->run.options;
    if (!g->how->record && !g->how->virtual_ranks && g->ranks != sf_prog_ranks(prog)) {
        return sf_fail(err, SF_E_USAGE,
                       "the program has %u ranks but there %s %u process%s: start one for each, or use --virtual-ranks",
                       sf_prog_ranks(prog), g->ranks == 1 ? "is" : "are", g->ranks, g->ranks == 1 ? "" : "es");
    }
    if (g->ranks > 1 && !g->mpi && o->dump_path) {
        return sf_fail(err, SF_E_USAGE,
                       "--dump brings the ranks' weights together with MPI: use mpirun or srun instead of torchrun");
    }
    return SF_OK;
}

static int open_run(struct gpu_run *g, const struct sf_prog *prog, const struct sf_rt_options *options,
                    struct sf_err *err) {
    g->run.options = options;
    SF_TRY(check_place(g, prog, err));
    SF_TRY(sfi_device_open(prog, g->how, &g->device, err));
    g->target = (struct sfi_target){
        .self = g->device.api->self, .name = g->how->record ? "CPU" : "CUDA", .supports = g->device.api->supports};
    return sfi_run_open_on(&g->run, prog, options, &g->target, err);
}

static int connect(struct gpu_run *g, struct sf_err *err) {
    if (!g->mpi) {
        return SF_OK;
    }
    SF_TRY(sfi_mpi_create(g->run.image->prog, g->rank, NULL, 0, sizeof(int64_t), &g->net, err));
    return sf_rt_mpi_agree(sfi_mpi_connect(g->net, err), err);
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
    sfi_mpi_destroy(g->net);
    sfi_run_close(&g->run);
    sfi_device_close(&g->device);
}

int sf_rt_run_gpu(const struct sf_prog *prog, const struct sf_rt_options *options, const struct sf_rt_gpu *gpu,
                  struct sf_err *err) {
    struct gpu_run g = {.how = gpu};
    struct sf_err local = {0};
    struct sf_err *e = err ? err : &local;
    SF_TRY(sf_rt_gpu_place(gpu, &g.rank, &g.ranks, &g.mpi, e));
    int rc = open_run(&g, prog, options, e);
    rc = g.mpi ? sf_rt_mpi_agree(rc, e) : rc;
    rc = rc == SF_OK ? connect(&g, e) : rc;
    rc = rc == SF_OK ? open_sessions(&g, e) : rc;
    if (rc == SF_OK) {
        rc = train(&g, e);
        if (rc != SF_OK && rc != SF_E_INTERRUPTED && g.mpi) { /* the others would wait for this rank */
            const struct sfi_transport t = sfi_mpi_transport(g.net);
            t.abort(t.self, g.rank, e);
        }
        if (rc == SF_OK || rc == SF_E_INTERRUPTED) {
            int collected = collect(&g, e);
            rc = collected != SF_OK ? collected : rc;
        }
    }
    close_all(&g);
    return rc;
}
