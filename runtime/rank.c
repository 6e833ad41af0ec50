#include "runtime/rank.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/clock.h"
#include "runtime/dump.h"

#define MAX_RECORD_BYTES (UINT64_C(4) << 30)
#define MAX_XFERS (1u << 24)

/* What every rank tells the others at the end of a step. */
struct report {
    int64_t end_ns, cpu_ns; /* end on rank 0's clock */
    uint32_t stop, reserved;
    float loss[];
};

size_t sfi_rank_exchange_bytes(const struct sfi_image *image) {
    size_t bytes = sizeof(struct report) + image->prog->job.microbatches * sizeof(float);
    return (bytes + 7) / 8 * 8;
}

/* Numbers transfers between the same partners in program order, so that both sides agree on which is which whatever
 * order their streams reach them in. */
struct numbering {
    uint32_t *sends[SF_MAX_COMMS], *recvs[SF_MAX_COMMS]; /* [position of the peer] */
    uint32_t collectives[SF_MAX_COMMS];
};

static void join_group(const struct sfi_rank *r, struct sfi_xfer *x, struct numbering *n, uint32_t *const members[]) {
    const struct sf_prog *prog = r->run->image->prog;
    x->n = sf_prog_comm_size(prog, x->comm);
    x->index = sf_prog_comm_index(prog, r->rank, x->comm);
    x->members = members[x->comm];
    x->seq = n->collectives[x->comm]++;
}

static void fill_xfer(struct sfi_rank *r, uint32_t op_i, struct numbering *n, uint32_t *const members[]) {
    const struct sf_prog *prog = r->run->image->prog;
    const struct sf_op *op = &r->cls->ops[op_i];
    struct sfi_xfer *x = &r->xfers[op_i];
    *x = (struct sfi_xfer){.kind = op->kind, .stream = op->stream, .comm = op->comm, .bytes = op->bytes};
    enum sf_op_group group = sf_op_group(op->kind);
    if (group == SF_OP_IS_COLL) {
        join_group(r, x, n, members);
    } else if (group == SF_OP_IS_P2P) {
        x->peer = sf_prog_peer(prog, r->rank, op->comm, op->peer_delta);
        x->n = 2;
        x->index = op->kind == SF_OP_RECV;
        uint32_t *const *counts = op->kind == SF_OP_RECV ? n->recvs : n->sends;
        x->seq = counts[op->comm][sf_prog_comm_index(prog, x->peer, op->comm)]++;
    } else {
        return;
    }
    x->x = sfi_rank_arg(r, op, 0);
    x->y = op->arg_n > 1 ? sfi_rank_arg(r, op, 1) : NULL;
}

/* Collectives inside a recipe become transfers like those of ops; their ranges are known once the op is. */
static void fill_call_xfers(struct sfi_rank *r, uint32_t op_i, uint32_t *at, struct numbering *n,
                            uint32_t *const members[]) {
    static const uint8_t kinds[SF_CALL_KINDS] = {[SF_CALL_ALL_REDUCE] = SF_OP_ALL_REDUCE,
                                                 [SF_CALL_ALL_GATHER] = SF_OP_ALL_GATHER,
                                                 [SF_CALL_REDUCE_SCATTER] = SF_OP_REDUCE_SCATTER};
    const struct sf_op *op = &r->cls->ops[op_i];
    const struct sf_recipe *recipe = op->recipe == SF_NONE ? NULL : &r->run->image->prog->recipes[op->recipe];
    r->call_xfers[op_i] = *at;
    for (uint32_t c = 0; recipe && c < recipe->calls_n; c++) {
        const struct sf_call *call = &recipe->calls[c];
        if (!sf_call_is_collective(call->kind)) {
            continue;
        }
        struct sfi_xfer *x = &r->xfers[(*at)++];
        sf_ref from = call->operand[0], to = call->operand[1];
        *x = (struct sfi_xfer){
            .kind = kinds[call->kind], .stream = op->stream, .comm = call->comm, .bytes = (uint64_t)call->dims[0]};
        x->x = sfi_rank_arg(r, op, SF_REF_FORMAL(from)) + SF_REF_OFFSET(from);
        x->y = sfi_rank_arg(r, op, SF_REF_FORMAL(to)) + SF_REF_OFFSET(to);
        join_group(r, x, n, members);
    }
}

static int allocate_xfers(struct sfi_rank *r, struct sf_err *err) {
    const struct sfi_image *im = r->run->image;
    uint64_t n = r->cls->ops_n;
    for (uint32_t i = 0; i < r->cls->ops_n && !im->target; i++) {
        n += r->cls->ops[i].recipe == SF_NONE ? 0 : im->collectives[r->cls->ops[i].recipe];
    }
    if (n > MAX_XFERS) {
        return sf_fail(err, SF_E_INPUT, "class \"%s\" has %llu transfers per step: at most %u", r->cls->name,
                       (unsigned long long)n, MAX_XFERS);
    }
    r->xfers_n = (uint32_t)n;
    r->xfers = sf_arena_alloc(r->arena, n, sizeof *r->xfers);
    r->call_xfers = sf_arena_alloc(r->arena, r->cls->ops_n, sizeof *r->call_xfers);
    return r->xfers && r->call_xfers ? SF_OK : sf_fail_memory(err, "transfers of a rank");
}

static int create_xfers(struct sfi_rank *r, struct sf_err *err) {
    const struct sf_prog *prog = r->run->image->prog;
    struct numbering n = {0};
    uint32_t *members[SF_MAX_COMMS];
    for (uint32_t c = 0; c < prog->comms_n; c++) {
        uint32_t size = sf_prog_comm_size(prog, c);
        n.sends[c] = sf_arena_alloc(r->arena, size, sizeof(uint32_t));
        n.recvs[c] = sf_arena_alloc(r->arena, size, sizeof(uint32_t));
        members[c] = sf_arena_alloc(r->arena, size, sizeof(uint32_t));
        if (!n.sends[c] || !n.recvs[c] || !members[c]) {
            return sf_fail_memory(err, "communicators of a rank");
        }
        for (uint32_t i = 0; i < size; i++) {
            members[c][i] = sf_prog_comm_member(prog, r->rank, c, i);
        }
    }
    SF_TRY(allocate_xfers(r, err));
    for (uint32_t i = 0, at = r->cls->ops_n; i < r->cls->ops_n; i++) {
        fill_xfer(r, i, &n, members);
        if (!r->run->image->target) { /* a device walks recipes its own way */
            fill_call_xfers(r, i, &at, &n, members);
        }
    }
    return SF_OK;
}

static int create_records(struct sfi_rank *r, struct sf_err *err) {
    uint32_t steps = r->run->options->trace ? r->run->options->steps : 1;
    uint64_t n = (uint64_t)steps * r->cls->ops_n;
    if (n > MAX_RECORD_BYTES / sizeof *r->recs) {
        return sf_fail(err, SF_E_INPUT, "a trace of %u steps of %u ops is too large: trace fewer steps", steps,
                       r->cls->ops_n);
    }
    r->recs = sf_malloc(n * sizeof *r->recs);
    if (!r->recs) {
        return sf_fail_memory(err, "trace records");
    }
    memset(r->recs, 0, n * sizeof *r->recs); /* touch every page now, not during a step */
    for (uint64_t i = 0; i < n; i++) {
        const struct sf_op *op = &r->cls->ops[i % r->cls->ops_n];
        r->recs[i] = (struct sf_trace_rec){.rank = r->rank,
                                           .iter = (uint32_t)(i / r->cls->ops_n),
                                           .op = (uint32_t)(i % r->cls->ops_n),
                                           .covers = 1,
                                           .source = SF_TIME_HOST,
                                           .stream = op->stream,
                                           .bytes = op->bytes};
    }
    return SF_OK;
}

static int create_losses(struct sfi_rank *r, struct sf_err *err) {
    const struct sfi_image *im = r->run->image;
    r->loss_rank = sf_arena_alloc(r->arena, im->dp_n, sizeof *r->loss_rank);
    r->losses = sf_arena_alloc(r->arena, r->run->options->steps, sizeof *r->losses);
    r->loss_src = sf_arena_alloc(r->arena, (size_t)im->dp_n * im->prog->job.microbatches, sizeof *r->loss_src);
    if (!r->loss_rank || !r->loss_src || !r->losses) {
        return sf_fail_memory(err, "losses");
    }
    for (uint32_t d = 0; d < im->dp_n; d++) {
        r->loss_rank[d] = SF_NONE;
    }
    for (uint32_t rank = 0; rank < im->ranks; rank++) {
        if (im->classes[sf_prog_class(im->prog, rank)].loss_buf != SF_NONE && sfi_image_counts(im, rank)) {
            r->loss_rank[sfi_image_dp_index(im, rank)] = rank;
        }
    }
    return SF_OK;
}

/* More than there can be, where the sum wraps: mapping it fails. */
static size_t memory_bytes(const struct sf_class *c) {
    size_t bytes;
    bool wraps = __builtin_add_overflow(c->arena_bytes, c->host_bytes, &bytes);
    return wraps ? SIZE_MAX : bytes > 0 ? bytes : 1;
}

static int map_memory(struct sfi_rank *r, struct sf_err *err) {
    size_t bytes = memory_bytes(r->cls);
    void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED) {
        return sf_fail_memory(err, "the arena of a rank");
    }
    madvise(mem, bytes, MADV_HUGEPAGE); /* fewer TLB misses where the kernel grants it */
    r->mem = mem;
    return SF_OK;
}

static int fill_rank(struct sfi_rank *r, struct sf_err *err) {
    SF_TRY(map_memory(r, err));
    SF_TRY(create_xfers(r, err));
    SF_TRY(create_records(r, err));
    if (r->rank == 0) {
        SF_TRY(create_losses(r, err));
    }
    return r->run->options->dump_path ? sfi_capture_create(r, &r->capture, err) : SF_OK;
}

int sfi_rank_create(const struct sfi_run *run, uint32_t rank, struct sfi_rank **out, struct sf_err *err) {
    struct sf_arena *arena = sf_arena_create();
    struct sfi_rank *r = arena ? sf_arena_alloc(arena, 1, sizeof *r) : NULL;
    if (!r) {
        sf_arena_free(arena);
        return sf_fail_memory(err, "a rank");
    }
    const struct sf_prog *prog = run->image->prog;
    r->arena = arena;
    r->run = run;
    r->rank = rank;
    r->class_i = sf_prog_class(prog, rank);
    r->cls = &prog->classes[r->class_i];
    r->dp_index = sfi_image_dp_index(run->image, rank);
    int rc = fill_rank(r, err);
    if (rc != SF_OK) {
        sfi_rank_destroy(r);
        return rc;
    }
    *out = r;
    return SF_OK;
}

void sfi_rank_destroy(struct sfi_rank *r) {
    if (r) {
        if (r->mem) {
            munmap(r->mem, memory_bytes(r->cls));
        }
        sf_free(r->recs);
        sf_arena_free(r->arena); /* the rank itself lives in it */
    }
}

int sfi_rank_records(const struct sfi_rank *r, struct sf_trace *trace, struct sf_err *err) {
    uint64_t n = (uint64_t)r->steps_done * r->cls->ops_n;
    for (uint64_t i = 0; i < n; i++) {
        SF_TRY(sf_trace_add(trace, &r->recs[i], err));
    }
    return SF_OK;
}

/* Times of all ranks count from the moment when the last one came. */
static int meet(struct sfi_rank *r, struct sf_err *err) {
    int64_t here = sfi_now_ns() - r->clock_offset_ns, last = INT64_MIN;
    const void *all;
    int64_t stall =
        r->step == 0 ? 0 : r->run->options->stall_limit / 1000; /* making weights takes as long as it takes */
    SF_TRY(r->net.exchange(r->net.self, r->rank, &here, sizeof here, stall, &all, err));
    for (uint32_t i = 0; i < r->run->image->ranks; i++) {
        int64_t came;
        memcpy(&came, (const char *)all + i * sizeof came, sizeof came);
        last = came > last ? came : last;
    }
    r->origin_ns = last + r->clock_offset_ns;
    return SF_OK;
}

static const struct report *report_at(const void *all, size_t stride, uint32_t rank) {
    return (const void *)((const char *)all + rank * stride);
}

/* Sum over all microbatches of the global batch, along the same tree as gradients; NaN when somebody's is missing. */
static float add_losses(const struct sfi_rank *r, const void *all, size_t stride) {
    uint32_t microbatches = r->run->image->prog->job.microbatches;
    size_t n = 0;
    for (uint32_t d = 0; d < r->run->image->dp_n; d++) {
        if (r->loss_rank[d] == SF_NONE) {
            return NAN;
        }
        for (uint32_t m = 0; m < microbatches; m++) {
            r->loss_src[n++] = &report_at(all, stride, r->loss_rank[d])->loss[m];
        }
    }
    float sum = 0.0f;
    if (n > 0) {
        sf_kern_tree_sum(&sum, r->loss_src, n, 1);
    }
    return sum;
}

static double norm_of(const struct sfi_rank *r) {
    uint32_t buf = r->run->image->classes[r->class_i].norm_buf;
    float norm = NAN;
    if (buf != SF_NONE) {
        memcpy(&norm, sfi_rank_at(r, buf, 0), sizeof norm);
    }
    return (double)norm;
}

/* Rank 0 learns what the step came to; everybody learns whether to stop. */
static int conclude(struct sfi_rank *r, struct report *mine, bool *stop, struct sf_err *err) {
    const struct sf_rt_options *o = r->run->options;
    size_t stride = sfi_rank_exchange_bytes(r->run->image);
    const void *all;
    SF_TRY(r->net.exchange(r->net.self, r->rank, mine, stride, o->stall_limit / 1000, &all, err));
    int64_t end = INT64_MIN, cpu = 0;
    for (uint32_t i = 0; i < r->run->image->ranks; i++) {
        const struct report *other = report_at(all, stride, i);
        end = other->end_ns > end ? other->end_ns : end;
        cpu += other->cpu_ns;
        *stop |= other->stop != 0;
    }
    r->steps_done = r->step + 1;
    if (r->rank == 0) {
        r->losses[r->step] = add_losses(r, all, stride);
        if (o->on_step) {
            const struct sf_rt_step step = {.step = r->step,
                                            .loss = (double)r->losses[r->step],
                                            .norm = norm_of(r),
                                            .wall_s = (double)(end - (r->origin_ns - r->clock_offset_ns)) * 1e-9,
                                            .cpu_s = (double)cpu * 1e-9,
                                            .host_s = NAN,
                                            .launch_s = NAN};
            o->on_step(o->self, &step);
        }
    }
    return SF_OK;
}

static int run_step(struct sfi_rank *r, const struct sf_backend *be, const struct sf_run_options *options,
                    struct report *mine, bool *stop, struct sf_err *err) {
    const struct sfi_image *im = r->run->image;
    r->rec = r->recs + (r->run->options->trace ? (uint64_t)r->step * r->cls->ops_n : 0);
    r->last_end_ns = 0;
    sfi_rank_set_hyper(r);
    SF_TRY(meet(r, err));
    int64_t cpu = sfi_cpu_ns();
    SF_TRY(sf_interp_run(im->classes[r->class_i].order, r->rank, be, options, err));
    int64_t end = sfi_now_ns();
    mine->cpu_ns = sfi_cpu_ns() - cpu;
    mine->end_ns = end - r->clock_offset_ns;
    const struct sfi_probe *probe = r->run->probe;
    mine->stop = sfi_stop_requested() || (probe && r->step + 1 >= probe->min_steps && end > probe->deadline_ns);
    uint32_t loss = im->classes[r->class_i].loss_buf;
    if (loss != SF_NONE) {
        memcpy(mine->loss, sfi_rank_at(r, loss, 0), im->prog->job.microbatches * sizeof(float));
    }
    return conclude(r, mine, stop, err);
}

/* Hooks fail without knowing where; the rank does. */
struct named_hooks {
    const struct sf_hooks *inner;
    struct sfi_rank *rank;
};

static int before_op(void *self, uint32_t rank, uint32_t op, struct sf_err *err) {
    struct named_hooks *h = self;
    int rc = h->inner->before(h->inner->self, rank, op, err);
    if (rc != SF_OK) {
        char label[96];
        return sf_err_wrap(err, "rank %u op %u (%s)", rank, op,
                           sf_op_label(h->rank->run->image->prog, h->rank->class_i, op, label, sizeof label));
    }
    return SF_OK;
}

static int run_steps(struct sfi_rank *r, struct report *mine, struct sf_err *err) {
    struct named_hooks named = {.inner = r->run->options->hooks, .rank = r};
    const struct sf_hooks hooks = {.self = &named, .before = before_op};
    const struct sf_run_options options = {
        .stall_limit = r->run->options->stall_limit, .hooks = named.inner ? &hooks : NULL, .prog = r->run->image->prog};
    const struct sf_backend be = sfi_rank_backend(r);
    bool stop = false;
    for (r->step = 0; r->step < r->run->options->steps && !stop; r->step++) {
        int rc = run_step(r, &be, &options, mine, &stop, err);
        if (rc != SF_OK) {
            be.abort(be.self, r->rank, err);
            return SF_E_FAULT;
        }
    }
    if (r->steps_done < r->run->options->steps) {
        return sf_fail(err, SF_E_INTERRUPTED, "stopped after step %u of %u", r->steps_done, r->run->options->steps);
    }
    return SF_OK;
}

int sfi_rank_train(struct sfi_rank *r, struct sf_err *err) {
    struct report *mine = sf_calloc(1, sfi_rank_exchange_bytes(r->run->image));
    if (!mine) {
        int rc = sf_fail_memory(err, "a rank's report");
        r->net.abort(r->net.self, r->rank, err);
        return rc;
    }
    sfi_rank_init_weights(r);
    int rc = run_steps(r, mine, err);
    sf_free(mine);
    return rc;
}
