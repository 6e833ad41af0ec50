#include "runtime/cuda/session.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "core/scratch.h"

#define LINE UINT64_C(64)

static uint64_t padded(uint64_t bytes) {
    return (bytes + LINE - 1) / LINE * LINE;
}

/* ---- one rank --------------------------------------------------------------------------------------------------- */

static int create_streams(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err) {
    const struct sf_prog *prog = s->run->image->prog;
    for (uint32_t k = 0; k < prog->streams_n; k++) {
        SF_TRY(s->api->stream_create(s->api->self, prog->streams[k], &r->streams[k], err));
    }
    return SF_OK;
}

/* An event for every op that another stream waits for. */
static int create_events(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err) {
    const struct sf_iclass *c = s->run->image->classes[r->host->class_i].order;
    r->events = sf_arena_alloc(s->arena, c->ops_n, sizeof *r->events);
    if (!r->events) {
        return sf_fail_memory(err, "events");
    }
    for (uint32_t i = 0; i < c->ops_n; i++) {
        if (c->wakes[i] & ~(1u << c->cls->ops[i].stream)) {
            SF_TRY(s->api->event_create(s->api->self, &r->events[i], err));
        }
    }
    return SF_OK;
}

static int prepare_op(struct sfi_session *s, struct sfi_gpu_rank *r, const struct sf_op *op, struct sf_err *err) {
    const struct sf_recipe *recipe = &s->run->image->prog->recipes[op->recipe];
    void **context = &r->contexts[op->stream];
    if (!*context) {
        SF_TRY(s->api->context_create(s->api->self, r->host->rank, context, err));
    }
    for (uint32_t k = 0; k < recipe->calls_n; k++) {
        if (!sf_call_is_collective(recipe->calls[k].kind) &&
            s->api->prepare(s->api->self, *context, &recipe->calls[k], err) != SF_OK) {
            return sf_err_wrap(err, "recipe \"%s\" call %u (%s)", recipe->name, k, sf_call_name(recipe->calls[k].kind));
        }
    }
    return SF_OK;
}

/* Each recipe once per stream: thousands of ops share a handful. */
static int prepare_kernels(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err) {
    const struct sf_class *cls = r->host->cls;
    uint8_t *seen = sf_calloc(s->run->image->prog->recipes_n, sizeof *seen);
    int rc = seen ? SF_OK : sf_fail_memory(err, "kernels");
    for (uint32_t i = 0; i < cls->ops_n && rc == SF_OK; i++) {
        const struct sf_op *op = &cls->ops[i];
        if (sf_op_group(op->kind) == SF_OP_IS_COMPUTE && !(seen[op->recipe] >> op->stream & 1)) {
            seen[op->recipe] |= (uint8_t)(1u << op->stream);
            rc = prepare_op(s, r, op, err); /* which may search for long */
            rc = rc == SF_OK && s->run->watch ? s->run->watch->look(s->run->watch->self, err) : rc;
        }
    }
    sf_free(seen);
    return rc;
}

static int create_grads(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err) {
    size_t n = sfi_capture_blocks(r->host);
    uint64_t bytes = 0;
    void *host, *device;
    r->grads = sf_arena_alloc(s->arena, n, sizeof *r->grads);
    if (!r->grads) {
        return sf_fail_memory(err, "a copy of the gradients");
    }
    for (int pass = 0; pass < 2; pass++) {
        bytes = 0;
        for (size_t i = 0; i < n; i++) {
            struct sfi_capture_block b = sfi_capture_block(r->host, i);
            r->grads[i] = pass ? (char *)device + bytes : NULL;
            bytes += b.count * (uint64_t)sf_dtype_bytes(b.dtype);
        }
        if (pass == 0) {
            SF_TRY(s->api->pin(s->api->self, bytes, &host, &device, err));
            r->grads_host = host;
        }
    }
    return SF_OK;
}

static int create_progress(struct sfi_session *s, struct sfi_gpu_rank *r, struct sf_err *err) {
    void *host, *device;
    if (s->is_virtual || s->run->options->stall_limit == 0) {
        return SF_OK; /* ranks of one graph cannot wait for each other in vain */
    }
    SF_TRY(s->api->pin(s->api->self, SF_MAX_STREAMS * sizeof *r->progress, &host, &device, err));
    r->progress = device;
    r->progress_host = host;
    return SF_OK;
}

static int create_rank(struct sfi_session *s, struct sfi_gpu_rank *r, uint32_t rank, struct sf_err *err) {
    void *mem, *stamps;
    SF_TRY(sfi_rank_create(s->run, rank, &r->host, err));
    if (r->host->cls->host_bytes > 0) {
        return sf_fail(err, SF_E_INPUT,
                       "offload is executed by CPU ranks alone: run with --backend cpu, or "
                       "plan with offload 0");
    }
    uint64_t bytes = r->host->cls->arena_bytes > 0 ? r->host->cls->arena_bytes : 1;
    SF_TRY(s->api->alloc(s->api->self, rank, bytes, &mem, err));
    r->mem = mem;
    if (s->traced) {
        SF_TRY(s->api->alloc(s->api->self, rank, 2 * (uint64_t)r->host->cls->ops_n * sizeof(uint64_t), &stamps, err));
        r->stamps = stamps;
    }
    SF_TRY(s->run->probe ? sfi_gpu_probe_create(s, r, err) : SF_OK);
    SF_TRY(create_streams(s, r, err));
    SF_TRY(create_events(s, r, err));
    SF_TRY(create_progress(s, r, err));
    SF_TRY(s->run->options->dump_path ? create_grads(s, r, err) : SF_OK);
    return prepare_kernels(s, r, err);
}

static void destroy_rank(struct sfi_session *s, struct sfi_gpu_rank *r) {
    const struct sfi_gpu_api *api = s->api;
    for (uint32_t i = 0; r->events && i < r->host->cls->ops_n; i++) {
        if (r->events[i]) {
            api->event_destroy(api->self, r->events[i]);
        }
    }
    for (uint32_t k = 0; k < SF_MAX_STREAMS; k++) {
        if (r->contexts[k]) {
            api->context_destroy(api->self, r->contexts[k]);
        }
        if (r->streams[k]) {
            api->stream_destroy(api->self, r->streams[k]);
        }
    }
    api->unpin(api->self, r->grads_host);
    api->unpin(api->self, (void *)(uintptr_t)r->progress_host);
    api->release(api->self, r->call_stamps);
    api->release(api->self, r->stamps);
    api->release(api->self, r->mem);
    sfi_rank_destroy(r->host);
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

static int create_pages(struct sfi_session *s, struct sfi_gpu_pages *pages, uint64_t stride, struct sf_err *err) {
    void *host, *device;
    SF_TRY(s->api->pin(s->api->self, 2 * stride, &host, &device, err));
    *pages = (struct sfi_gpu_pages){.host = host, .device = device, .stride = stride, .counter = s->counter};
    return SF_OK;
}

static int lay_out_in_page(struct sfi_session *s, struct sf_err *err) {
    uint64_t at = 2 * LINE; /* hyperparameters, then the head of the report */
    s->head_at = LINE;
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        struct sfi_gpu_rank *r = &s->ranks[i];
        const struct sf_class *cls = r->host->cls;
        r->load_at = sf_arena_alloc(s->arena, cls->ops_n, sizeof *r->load_at);
        if (!r->load_at) {
            return sf_fail_memory(err, "pages");
        }
        for (uint32_t k = 0; k < cls->ops_n; k++) {
            if (cls->ops[k].kind == SF_OP_LOAD) {
                r->load_at[k] = at;
                at += padded(cls->args[cls->ops[k].arg_first].bytes);
            }
        }
    }
    return create_pages(s, &s->in, at, err);
}

static int lay_out_out_page(struct sfi_session *s, struct sf_err *err) {
    uint64_t at = 0;
    s->reports_at = at;
    at += padded(s->report_bytes * s->run->image->ranks);
    s->begin_at = at;
    at += LINE;
    for (uint32_t i = 0; i < s->ranks_n && s->traced; i++) {
        s->ranks[i].stamps_at = at;
        at += padded(2 * (uint64_t)s->ranks[i].host->cls->ops_n * sizeof(uint64_t));
        s->ranks[i].call_stamps_at = at;
        at += padded(sfi_gpu_probe_bytes(&s->ranks[i]));
    }
    return create_pages(s, &s->out, at, err);
}

static int create_shared(struct sfi_session *s, struct sf_err *err) {
    const struct sfi_gpu_api *api = s->api;
    uint32_t owner = s->ranks[0].host->rank;
    void *memory, *host, *device;
    s->report_bytes = offsetof(struct sfi_gpu_report, loss) + s->run->image->prog->job.microbatches * sizeof(float);
    s->report_bytes = (s->report_bytes + 7) / 8 * 8;
    SF_TRY(api->alloc(api->self, owner, 2 * LINE + s->report_bytes * s->run->image->ranks, &memory, err));
    s->clock = memory;
    s->counter = (uint32_t *)(void *)((char *)memory + LINE);
    s->reports = (char *)memory + 2 * LINE;
    SF_TRY(api->pin(api->self, LINE, &host, &device, err));
    s->done_host = host;
    s->done = device;
    SF_TRY(lay_out_in_page(s, err));
    return lay_out_out_page(s, err);
}

static int create_queue(struct sfi_session *s, struct sf_err *err) {
    SF_TRY(s->api->stream_create(s->api->self, "step", &s->stream, err));
    SF_TRY(s->api->event_create(s->api->self, &s->fork, err));
    for (uint32_t k = 0; k < s->run->image->prog->streams_n; k++) {
        SF_TRY(s->api->event_create(s->api->self, &s->joins[k], err));
    }
    size_t losses_n = (size_t)s->run->image->dp_n * s->run->image->prog->job.microbatches;
    s->losses = sf_arena_alloc(s->arena, s->run->options->steps, sizeof *s->losses);
    s->loss_src = sf_arena_alloc(s->arena, losses_n, sizeof *s->loss_src);
    return s->losses && s->loss_src ? SF_OK : sf_fail_memory(err, "losses");
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

/* Of the kernels on all streams of a class. */
static uint64_t scratch_bytes(const struct sfi_session *s, const struct sf_class *c) {
    const struct sf_prog *prog = s->run->image->prog;
    uint64_t most[SF_MAX_STREAMS] = {0}, sum = 0;
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_recipe *r = c->ops[i].recipe == SF_NONE ? NULL : &prog->recipes[c->ops[i].recipe];
        for (uint32_t k = 0; r && k < r->calls_n; k++) {
            uint64_t bytes =
                sf_call_is_collective(r->calls[k].kind) ? 0 : s->api->work_bytes(s->api->self, &r->calls[k]);
            most[c->ops[i].stream] = bytes > most[c->ops[i].stream] ? bytes : most[c->ops[i].stream];
        }
    }
    for (uint32_t k = 0; k < SF_MAX_STREAMS; k++) {
        sum += most[k];
    }
    return sum;
}

/* Everything that will be taken, before anything is. */
static int check_memory(const struct sfi_session *s, uint32_t first_rank, struct sf_err *err) {
    const struct sf_prog *prog = s->run->image->prog;
    double arenas = 0, scratch = 0, planned = 0,
           have = (double)s->api->memory_bytes; /* far from where doubles lose bytes */
    for (uint32_t i = 0; i < s->ranks_n && have > 0; i++) {
        const struct sf_class *c = &prog->classes[sf_prog_class(prog, first_rank + i)];
        arenas += (double)c->arena_bytes + (s->traced ? 16.0 * c->ops_n : 0.0);
        scratch += (double)scratch_bytes(s, c);
        planned += (double)sf_class_scratch_bytes(prog, sf_prog_class(prog, first_rank + i));
    }
    if (have > 0 && planned > 0 && scratch > planned) {
        fprintf(stderr, "staticfire: kernels take %.3f GB of scratch memory, forecasts count %.3f GB\n", scratch / 1e9,
                planned / 1e9);
    }
    if (have > 0 && arenas + scratch > have) {
        return sf_fail(
            err, SF_E_INPUT,
            "%u rank%s of this program need %.2f GB, and their kernels %.3f GB of scratch memory, but %.2f GB "
            "are free on %s",
            s->ranks_n, s->ranks_n == 1 ? "" : "s", arenas / 1e9, scratch / 1e9, have / 1e9, s->api->name);
    }
    return SF_OK;
}

/* What needs nobody else. */
static int fill_alone(struct sfi_session *s, uint32_t first_rank, struct sf_err *err) {
    SF_TRY(check_memory(s, first_rank, err));
    s->ranks = sf_arena_alloc(s->arena, s->ranks_n, sizeof *s->ranks);
    if (!s->ranks) {
        return sf_fail_memory(err, "ranks on a device");
    }
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        SF_TRY(create_rank(s, &s->ranks[i], first_rank + i, err));
    }
    SF_TRY(create_queue(s, err));
    return create_shared(s, err);
}

/* Making communicators takes all ranks, so all ranks must be able to. */
static int fill_session(struct sfi_session *s, uint32_t first_rank, struct sf_err *err) {
    const struct sfi_watch *watch = s->run->watch;
    int rc = fill_alone(s, first_rank, err);
    SF_TRY(watch ? watch->agree(watch->self, rc, err) : rc);
    SF_TRY(s->is_virtual ? sfi_gpu_meetings_create(s, err) : sfi_gpu_comms_create(s, err));
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        SF_TRY(sfi_gpu_init_weights(s, &s->ranks[i], err));
    }
    return s->api->finish(s->api->self, err);
}

int sfi_session_create(const struct sfi_gpu_api *api, const struct sfi_run *run, uint32_t first_rank, uint32_t ranks_n,
                       void **world, struct sfi_session **out, struct sf_err *err) {
    struct sf_arena *arena = sf_arena_create();
    struct sfi_session *s = arena ? sf_arena_alloc(arena, 1, sizeof *s) : NULL;
    if (!s) {
        sf_arena_free(arena);
        return sf_fail_memory(err, "a session on a device");
    }
    s->arena = arena;
    s->api = api;
    s->run = run;
    s->ranks_n = ranks_n;
    s->world = world;
    s->is_virtual = *world == NULL;
    s->traced = run->options->trace != NULL;
    int rc = fill_session(s, first_rank, err);
    if (rc != SF_OK) {
        sfi_session_give_up(s, err);
        sfi_session_destroy(s);
        return rc;
    }
    *out = s;
    return SF_OK;
}

static void destroy_queue(struct sfi_session *s) {
    const struct sfi_gpu_api *api = s->api;
    for (uint32_t k = 0; k < SF_MAX_STREAMS; k++) {
        if (s->joins[k]) {
            api->event_destroy(api->self, s->joins[k]);
        }
    }
    if (s->fork) {
        api->event_destroy(api->self, s->fork);
    }
    if (s->stream) {
        api->stream_destroy(api->self, s->stream);
    }
}

void sfi_session_destroy(struct sfi_session *s) {
    if (!s) {
        return;
    }
    const struct sfi_gpu_api *api = s->api;
    for (int g = 0; g < 2; g++) {
        if (s->graphs[g]) {
            api->graph_destroy(api->self, s->graphs[g]);
        }
    }
    sfi_gpu_comms_destroy(s);
    for (uint32_t i = 0; i < s->virtual_events_n; i++) {
        api->event_destroy(api->self, s->virtual_events[i]);
    }
    destroy_queue(s);
    for (uint32_t i = 0; s->ranks && i < s->ranks_n; i++) {
        if (s->ranks[i].host) {
            destroy_rank(s, &s->ranks[i]);
        }
    }
    api->unpin(api->self, s->in.host);
    api->unpin(api->self, s->out.host);
    api->unpin(api->self, (void *)(uintptr_t)s->done_host);
    api->release(api->self, s->clock);
    sf_arena_free(s->arena); /* the session itself lives in it */
}
