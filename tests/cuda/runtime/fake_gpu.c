/* A module in the place of libstaticfire-cuda.so that computes nothing and talks to nobody: what a step moves between
 * pages and memory is kept at its capture and done at its launch, so that whole runs of several processes can be tried,
 * and can be made to fail.
 *
 * FAKE_GPU_FAULT=RANK:WHERE[:STEP]   open, prepare, world, split or capture: that call fails on that rank, and on the
 *                                    others waits, as NCCL would, for a partner that never comes
 *                                    launch, link, die or hang: so does a step */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/prog.h"
#include "runtime/cuda/gpu.h"

enum { NODES = 4096, COMMS = 64, PATIENCE = 2000 /* hundredths of a second */ };

struct node {
    enum { MOVE, COPY, STAMP, MARK, ADVANCE } kind;
    enum sfi_gpu_where where;
    char *to;
    const char *from;
    struct sfi_gpu_pages pages;
    uint64_t offset, bytes;
    uint32_t value, *counter;
};

struct graph {
    struct node nodes[NODES];
    uint32_t n;
};

struct comm {
    bool made, ended;
};

static struct {
    struct sfi_gpu_api api;
    const struct sfi_watch *watch;
    struct graph *capture;
    struct comm comms[COMMS];
    uint32_t launches;
    uint64_t ticks;
} gpu;

/* ---- ordered failures ------------------------------------------------------------------------------------------- */

static bool ordered(const char *where, bool *mine, uint32_t *at) {
    const char *text = getenv("FAKE_GPU_FAULT"), *rank = getenv("RANK");
    size_t n = strlen(where);
    char *end;
    rank = rank ? rank : getenv("SLURM_PROCID");
    if (!text || !rank) {
        return false;
    }
    unsigned long culprit = strtoul(text, &end, 10);
    if (*end != ':' || strncmp(end + 1, where, n) != 0 || (end[n + 1] != '\0' && end[n + 1] != ':')) {
        return false;
    }
    *mine = culprit == strtoul(rank, NULL, 10);
    *at = end[n + 1] == ':' ? (uint32_t)strtoul(end + n + 2, NULL, 10) : 0;
    return true;
}

/* What takes all ranks. */
static int together(const char *where, struct sf_err *err) {
    const struct timespec pause = {.tv_nsec = 10000000};
    bool mine;
    uint32_t at;
    if (!ordered(where, &mine, &at)) {
        return SF_OK;
    }
    if (mine) {
        return sf_fail(err, SF_E_FAULT, "fake GPU: %s fails", where);
    }
    for (int i = 0; i < PATIENCE; i++, nanosleep(&pause, NULL)) {
        SF_TRY(gpu.watch ? gpu.watch->look(gpu.watch->self, err) : SF_OK);
    }
    return sf_fail(err, SF_E_FAULT, "fake GPU: %s: a partner never came", where);
}

static bool fails_now(const char *where) {
    bool mine;
    uint32_t at;
    return ordered(where, &mine, &at) && mine && gpu.launches >= at;
}

/* Does this launch come to nothing? */
static bool stands_still(void) {
    static const char *const kinds[] = {"launch", "link", "die", "hang"};
    bool mine;
    uint32_t at;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (ordered(kinds[i], &mine, &at) && gpu.launches >= at) {
            return true;
        }
    }
    return false;
}

/* ---- memory and weights ----------------------------------------------------------------------------------------- */

static int fake_alloc(void *self, uint32_t owner, uint64_t bytes, void **out, struct sf_err *err) {
    (void)self;
    (void)owner;
    *out = calloc(bytes, 1);
    return *out ? SF_OK : sf_fail_memory(err, "fake memory");
}

static void fake_free(void *self, void *memory) {
    (void)self;
    free(memory);
}

static int fake_pin(void *self, uint64_t bytes, void **host, void **device, struct sf_err *err) {
    SF_TRY(fake_alloc(self, 0, bytes > 0 ? bytes : 1, host, err));
    *device = *host;
    return SF_OK;
}

static int fake_transfer(void *self, void *to, const void *from, uint64_t bytes, struct sf_err *err) {
    (void)self;
    (void)err;
    memcpy(to, from, bytes);
    return SF_OK;
}

static int fake_finish(void *self, struct sf_err *err) {
    (void)self;
    (void)err;
    return SF_OK;
}

static int fake_normal(void *self, void *to, int dtype, uint64_t key, const struct sfi_gpu_block *block, float std,
                       struct sf_err *err) {
    (void)self;
    (void)key;
    (void)std;
    (void)err;
    memset(to, 0, block->rows * block->cols * (uint64_t)sf_dtype_bytes(dtype));
    return SF_OK;
}

static int fake_constant(void *self, void *to, int dtype, uint64_t n, float value, struct sf_err *err) {
    (void)self;
    (void)value;
    (void)err;
    memset(to, 0, n * (uint64_t)sf_dtype_bytes(dtype));
    return SF_OK;
}

static int fake_widen(void *self, float *to, const void *from, int dtype, uint64_t n, struct sf_err *err) {
    (void)self;
    (void)from;
    (void)dtype;
    (void)err;
    memset(to, 0, n * sizeof *to);
    return SF_OK;
}

/* ---- kernels, streams ------------------------------------------------------------------------------------------- */

static bool fake_supports(void *self, const struct sf_call *call) {
    (void)self;
    (void)call;
    return true;
}

static uint64_t fake_work_bytes(void *self, const struct sf_call *call) {
    (void)self;
    (void)call;
    return 0;
}

static int fake_context_create(void *self, uint32_t owner, void **out, struct sf_err *err) {
    return fake_alloc(self, owner, 1, out, err);
}

static int fake_prepare(void *self, void *context, const struct sf_call *call, struct sf_err *err) {
    (void)self;
    (void)context;
    (void)call;
    return fails_now("prepare") ? sf_fail(err, SF_E_INPUT, "fake GPU: prepare fails") : SF_OK;
}

static int fake_call(void *self, void *context, const struct sf_call *call, void *const operand[SF_CALL_OPERANDS],
                     void *stream, struct sf_err *err) {
    (void)self;
    (void)context;
    (void)call;
    (void)operand;
    (void)stream;
    (void)err;
    return SF_OK;
}

static int fake_stream_create(void *self, const char *name, void **out, struct sf_err *err) {
    (void)name;
    return fake_alloc(self, 0, 1, out, err);
}

static int fake_event_create(void *self, void **out, struct sf_err *err) {
    return fake_alloc(self, 0, 1, out, err);
}

static int fake_order(void *self, void *a, void *b, struct sf_err *err) {
    (void)self;
    (void)a;
    (void)b;
    (void)err;
    return SF_OK;
}

/* ---- graphs ----------------------------------------------------------------------------------------------------- */

static int fake_capture_begin(void *self, void *stream, struct sf_err *err) {
    void *graph;
    (void)stream;
    SF_TRY(fake_alloc(self, 0, sizeof *gpu.capture, &graph, err));
    gpu.capture = graph;
    return SF_OK;
}

static int fake_capture_end(void *self, void *stream, void **graph, uint64_t *nodes_n, struct sf_err *err) {
    (void)self;
    (void)stream;
    (void)err;
    *graph = gpu.capture;
    *nodes_n = gpu.capture->n;
    gpu.capture = NULL;
    return SF_OK;
}

static int keep(const struct node *node, struct sf_err *err) {
    if (!gpu.capture || gpu.capture->n == NODES) {
        return sf_fail(err, SF_E_INTERNAL, "fake GPU: a node outside of a capture, or too many");
    }
    gpu.capture->nodes[gpu.capture->n++] = *node;
    return SF_OK;
}

static void move_page(const struct node *n) {
    char *page = n->pages.device + (*n->pages.counter & 1) * n->pages.stride + n->offset;
    memcpy(n->where == SFI_GPU_FROM_PAGE ? n->to : page, n->where == SFI_GPU_FROM_PAGE ? page : n->to, n->bytes);
}

static void run_node(const struct node *n) {
    uint32_t next;
    gpu.ticks++;
    switch (n->kind) {
    case MOVE:
        move_page(n);
        break;
    case COPY:
        memcpy(n->to, n->from, n->bytes);
        break;
    case STAMP:
        memcpy(n->to, &gpu.ticks, sizeof gpu.ticks);
        break;
    case MARK:
        memcpy(n->to, &n->value, sizeof n->value);
        break;
    default:
        next = ++*n->counter;
        memcpy(n->to, &next, sizeof next);
    }
}

static int fake_launch(void *self, void *graph, void *stream, struct sf_err *err) {
    const struct graph *g = graph;
    bool still = stands_still();
    (void)self;
    (void)stream;
    if (fails_now("launch")) {
        return sf_fail(err, SF_E_FAULT, "fake GPU: launch fails");
    }
    if (fails_now("die")) {
        raise(SIGKILL);
    }
    for (uint32_t i = 0; i < g->n && !still; i++) {
        run_node(&g->nodes[i]);
    }
    gpu.launches += !still;
    return SF_OK;
}

static int fake_copy(void *self, void *to, const void *from, uint64_t bytes, void *stream, struct sf_err *err) {
    (void)self;
    (void)stream;
    return keep(&(struct node){.kind = COPY, .to = to, .from = from, .bytes = bytes}, err);
}

static int fake_move(void *self, enum sfi_gpu_where where, void *memory, const struct sfi_gpu_pages *pages,
                     uint64_t offset, uint64_t bytes, void *stream, struct sf_err *err) {
    (void)self;
    (void)stream;
    return keep(
        &(struct node){.kind = MOVE, .where = where, .to = memory, .pages = *pages, .offset = offset, .bytes = bytes},
        err);
}

static int fake_sum(void *self, void *to, const void *const from[], uint32_t n, uint64_t count, int dtype, void *stream,
                    struct sf_err *err) {
    (void)self;
    (void)to;
    (void)from;
    (void)n;
    (void)count;
    (void)dtype;
    (void)stream;
    (void)err;
    return SF_OK;
}

static int fake_stamp(void *self, uint64_t *ns, void *stream, struct sf_err *err) {
    (void)self;
    (void)stream;
    return keep(&(struct node){.kind = STAMP, .to = (char *)ns}, err);
}

static int fake_mark(void *self, uint32_t *word, uint32_t value, void *stream, struct sf_err *err) {
    (void)self;
    (void)stream;
    return keep(&(struct node){.kind = MARK, .to = (char *)word, .value = value}, err);
}

static int fake_advance(void *self, uint32_t *counter, uint32_t *done, void *stream, struct sf_err *err) {
    (void)self;
    (void)stream;
    return keep(&(struct node){.kind = ADVANCE, .to = (char *)done, .counter = counter}, err);
}

static int fake_clock(void *self, uint64_t *device_ns, int64_t *host_ns, int64_t *uncertainty_ns, struct sf_err *err) {
    (void)self;
    (void)err;
    *device_ns = gpu.ticks;
    *host_ns = (int64_t)gpu.ticks;
    *uncertainty_ns = 0;
    return SF_OK;
}

static void fake_op_begin(void *self, uint32_t rank, uint32_t op, void *stream, const char *label) {
    (void)self;
    (void)rank;
    (void)op;
    (void)stream;
    (void)label;
}

static void fake_op_end(void *self, uint32_t rank, uint32_t op, void *stream) {
    (void)self;
    (void)rank;
    (void)op;
    (void)stream;
}

/* ---- communicators ---------------------------------------------------------------------------------------------- */

static void fake_watch(void *self, const struct sfi_watch *watch) {
    (void)self;
    gpu.watch = watch;
}

static int fake_comm_id(void *self, unsigned char id[SFI_NCCL_ID_BYTES], struct sf_err *err) {
    (void)self;
    (void)err;
    memset(id, 1, SFI_NCCL_ID_BYTES);
    return SF_OK;
}

static int new_comm(void **out, struct sf_err *err) {
    for (int i = 0; i < COMMS; i++) {
        if (!gpu.comms[i].made) {
            gpu.comms[i].made = true;
            *out = &gpu.comms[i];
            return SF_OK;
        }
    }
    return sf_fail(err, SF_E_INTERNAL, "fake GPU: too many communicators");
}

static int fake_comm_picks(void *self, const struct sf_coll_picks *picks, struct sf_err *err) {
    (void)self;
    (void)picks;
    (void)err;
    return SF_OK;
}

static int fake_comm_world(void *self, const unsigned char (*ids)[SFI_NCCL_ID_BYTES], uint32_t ids_n, uint32_t ranks,
                           uint32_t rank, void **out, struct sf_err *err) {
    (void)self;
    (void)ids;
    SF_TRY(together("world", err));
    return ids_n == 1 && rank < ranks ? new_comm(out, err) : sf_fail(err, SF_E_INTERNAL, "fake GPU: %u ids", ids_n);
}

static int fake_comm_split(void *self, void *comm, uint32_t color, uint32_t key, const char *name, void **out,
                           struct sf_err *err) {
    (void)self;
    (void)comm;
    (void)color;
    (void)key;
    (void)name;
    SF_TRY(together("split", err));
    return new_comm(out, err);
}

static int fake_comm_register(void *self, void *comm, void *base, uint64_t bytes, void **handle, struct sf_err *err) {
    (void)self;
    (void)comm;
    (void)bytes;
    (void)err;
    *handle = base;
    return SF_OK;
}

static void fake_comm_deregister(void *self, void *comm, void *handle) {
    (void)self;
    (void)comm;
    (void)handle;
}

static int fake_comm_fault(void *self, void *comm, struct sf_err *err) {
    (void)self;
    (void)comm;
    return fails_now("link") ? sf_fail(err, SF_E_FAULT, "fake GPU: link fails") : SF_OK;
}

static void fake_comm_end(void *self, void *comm) {
    struct comm *c = comm;
    (void)self;
    if (c->ended) {
        fprintf(stderr, "fake GPU: a communicator is ended twice\n");
        abort();
    }
    c->ended = true;
}

static int fake_group(void *self, struct sf_err *err) {
    (void)self;
    (void)err;
    return SF_OK;
}

static int fake_message(void *self, void *comm, const struct sfi_gpu_message *m, void *stream, struct sf_err *err) {
    (void)self;
    (void)comm;
    (void)m;
    (void)stream;
    return together("capture", err);
}

static int fake_group_estimate(void *self, double *seconds, struct sf_err *err) {
    (void)self;
    (void)err;
    *seconds = -1.0;
    return SF_OK;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static const struct sfi_gpu_api functions = {
    .version = SFI_GPU_API_VERSION,
    .name = "a fake GPU",
    .arch = 90,
    .traces = "cuda",
    .versions = "no libraries",
    .alloc = fake_alloc,
    .release = fake_free,
    .pin = fake_pin,
    .unpin = fake_free,
    .upload = fake_transfer,
    .download = fake_transfer,
    .finish = fake_finish,
    .normal = fake_normal,
    .constant = fake_constant,
    .widen = fake_widen,
    .supports = fake_supports,
    .work_bytes = fake_work_bytes,
    .context_create = fake_context_create,
    .context_destroy = fake_free,
    .prepare = fake_prepare,
    .call = fake_call,
    .fault = fake_finish,
    .stream_create = fake_stream_create,
    .stream_destroy = fake_free,
    .event_create = fake_event_create,
    .event_destroy = fake_free,
    .event_record = fake_order,
    .stream_wait = fake_order,
    .capture_begin = fake_capture_begin,
    .capture_end = fake_capture_end,
    .graph_destroy = fake_free,
    .launch = fake_launch,
    .copy = fake_copy,
    .move = fake_move,
    .sum = fake_sum,
    .stamp = fake_stamp,
    .mark = fake_mark,
    .advance = fake_advance,
    .clock = fake_clock,
    .op_begin = fake_op_begin,
    .op_end = fake_op_end,
    .watch = fake_watch,
    .comm_picks = fake_comm_picks,
    .comm_id = fake_comm_id,
    .comm_world = fake_comm_world,
    .comm_split = fake_comm_split,
    .comm_register = fake_comm_register,
    .comm_deregister = fake_comm_deregister,
    .comm_fault = fake_comm_fault,
    .comm_abort = fake_comm_end,
    .comm_destroy = fake_comm_end,
    .group_begin = fake_group,
    .group_end = fake_group,
    .message = fake_message,
    .group_estimate = fake_group_estimate,
};

static void fake_close(struct sfi_gpu_api *api) {
    (void)api;
    for (int i = 0; i < COMMS; i++) {
        if (gpu.comms[i].made && !gpu.comms[i].ended) {
            fprintf(stderr, "fake GPU: a communicator is left\n");
            abort();
        }
    }
}

int sfi_gpu_module(const struct sfi_gpu_open *how, struct sfi_gpu_api **out, void (**close)(struct sfi_gpu_api *),
                   struct sf_err *err);

int sfi_gpu_module(const struct sfi_gpu_open *how, struct sfi_gpu_api **out, void (**close)(struct sfi_gpu_api *),
                   struct sf_err *err) {
    (void)how;
    if (fails_now("open")) {
        return sf_fail(err, SF_E_FAULT, "fake GPU: open fails");
    }
    gpu.api = functions;
    *out = &gpu.api;
    *close = fake_close;
    return SF_OK;
}
