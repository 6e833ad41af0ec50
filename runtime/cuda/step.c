/* Steps: launching them, and their results. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "runtime/clock.h"
#include "runtime/cuda/session.h"

#define LOOKS_BETWEEN_CLOCKS 1024
#define REASON_NS 200000000
#define FAULT_EVERY_NS 100000000 /* communicators are asked how they are ten times a second */

bool sfi_session_over(const struct sfi_session *s, uint32_t step) {
    return __atomic_load_n(s->done_host, __ATOMIC_ACQUIRE) > step; /* the results were written before it */
}

static void fill_loads(struct sfi_session *s, const struct sfi_gpu_rank *r, char *page) {
    const struct sfi_loads who = {s->run->image->prog, r->host->rank, r->host->dp_index, s->launched};
    for (uint32_t i = 0; i < r->host->cls->ops_n; i++) {
        const struct sf_op *op = &r->host->cls->ops[i];
        if (op->kind == SF_OP_LOAD) {
            sfi_data_load_op(s->run->data, &who, op, (int32_t *)(void *)(page + r->load_at[i]));
        }
    }
}

static void fill_page(struct sfi_session *s) {
    char *page = s->in.host + (s->launched & 1) * s->in.stride;
    const struct sfi_gpu_report head = {.stop = sfi_stop_requested() || sfi_gpu_probe_over(s), .shift_ns = s->shift_ns};
    float hyper[8];
    sfi_hyper(&s->run->image->prog->job, s->launched, hyper);
    memcpy(page, hyper, sizeof hyper);
    memcpy(page + s->head_at, &head, offsetof(struct sfi_gpu_report, begin_ns));
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        fill_loads(s, &s->ranks[i], page);
    }
}

static void *graph_of_step(const struct sfi_session *s) {
    bool last = s->launched + 1 == s->run->options->steps;
    bool calls = s->run->probe && s->run->probe->times_calls(s->launched);
    return s->graphs[calls || (last && s->run->options->dump_path) ? 1 : 0];
}

int sfi_session_launch(struct sfi_session *s, struct sf_err *err) {
    int64_t first = sfi_now_ns();
    s->first_launch_ns = s->launched == 0 ? first : s->first_launch_ns;
    fill_page(s);
    int64_t begin = sfi_now_ns();
    SF_TRY(s->api->launch(s->api->self, graph_of_step(s), s->stream, err));
    int64_t end = sfi_now_ns();
    s->launch_s[s->launched & 1] = (double)(end - begin) * 1e-9;
    s->host_s[s->launched & 1] = (double)(end - first) * 1e-9;
    s->launched++;
    return SF_OK;
}

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

/* The transfers that were begun last on each stream: where a rank that stands still waits. */
static int fail_stuck(struct sfi_session *s, struct sf_err *err) {
    const struct sfi_gpu_rank *r = &s->ranks[0];
    const struct sf_prog *prog = s->run->image->prog;
    char text[512] = "", label[96];
    size_t used = 0;
    for (uint32_t k = 0; r->progress_host && k < prog->streams_n && used < sizeof text; k++) {
        uint32_t op = r->progress_host[k];
        if (op > 0 && op <= r->host->cls->ops_n) {
            used += (size_t)snprintf(text + used, sizeof text - used, "%s op %u (%s)", used ? "," : "", op - 1,
                                     sf_op_label(prog, r->host->class_i, op - 1, label, sizeof label));
        }
    }
    return sf_fail(err, SF_E_FAULT,
                   "rank %u: step %u made no progress for %.3g s; the transfers that began last on each stream are%s",
                   r->host->rank, s->concluded, sf_ps_to_s(s->run->options->stall_limit), text[0] ? text : " none");
}

static int ask_comms(struct sfi_session *s, struct sf_err *err) {
    if (*s->world) {
        SF_TRY(s->api->comm_fault(s->api->self, *s->world, err));
    }
    for (uint32_t i = 0; i < SF_MAX_COMMS * SFI_GPU_COLORS; i++) {
        void *comm = s->comms[i / SFI_GPU_COLORS].comm[i % SFI_GPU_COLORS];
        if (comm && s->api->comm_fault(s->api->self, comm, err) != SF_OK) {
            return sf_err_wrap(err, "communicator \"%s\"", s->run->image->prog->comms[i / SFI_GPU_COLORS].name);
        }
    }
    return SF_OK;
}

/* A rank that gives up says why before it aborts, but its links may be heard of first. */
static int await_reason(const struct sfi_watch *watch, struct sf_err *err) {
    const struct timespec pause = {.tv_nsec = FAULT_EVERY_NS / 10};
    for (int64_t begin = sfi_now_ns(); sfi_now_ns() - begin < REASON_NS;) {
        SF_TRY(watch->look(watch->self, err));
        nanosleep(&pause, NULL);
    }
    return SF_OK;
}

static int look_for_faults(struct sfi_session *s, struct sf_err *err) {
    const struct sfi_watch *watch = s->run->watch;
    SF_TRY(s->api->fault(s->api->self, err));
    SF_TRY(watch ? watch->look(watch->self, err) : SF_OK);
    int rc = ask_comms(s, err);
    if (rc != SF_OK && watch) {
        struct sf_err reason = {0};
        if (await_reason(watch, &reason) != SF_OK) {
            *err = reason;
            rc = reason.code;
        }
    }
    return rc;
}

/* The world first: that ends a split that is under way (comm_split of gpu.h). The end of every step gathers on it, and
 * what waits there for a rank that is gone would wait for ever. */
void sfi_session_give_up(struct sfi_session *s, const struct sf_err *why) {
    if (s->run->watch && !s->gave_up) {
        s->run->watch->tell(s->run->watch->self, why);
    }
    s->gave_up = true;
    if (*s->world) {
        s->api->comm_abort(s->api->self, *s->world);
        *s->world = NULL;
    }
    for (uint32_t i = 0; i < SF_MAX_COMMS * SFI_GPU_COLORS; i++) {
        struct sfi_gpu_comm *c = &s->comms[i / SFI_GPU_COLORS];
        if (c->comm[i % SFI_GPU_COLORS]) {
            s->api->comm_abort(s->api->self, c->comm[i % SFI_GPU_COLORS]);
            c->comm[i % SFI_GPU_COLORS] = c->registered[i % SFI_GPU_COLORS] = NULL;
        }
    }
}

static int wait_until_over(struct sfi_session *s, uint32_t step, struct sf_err *err) {
    int64_t begin = sfi_now_ns(), asked = begin, stall = s->run->options->stall_limit / 1000;
    for (uint32_t looks = 1; !sfi_session_over(s, step); looks++) {
        if (looks % LOOKS_BETWEEN_CLOCKS != 0) {
            continue;
        }
        int64_t now = sfi_now_ns();
        if (now - asked > FAULT_EVERY_NS) {
            SF_TRY(look_for_faults(s, err));
            asked = now;
        }
        if (stall > 0 && now - begin > stall) {
            return fail_stuck(s, err);
        }
    }
    return s->api->fault(s->api->self, err);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static const struct sfi_gpu_report *report_of(const struct sfi_session *s, const char *page, uint32_t rank) {
    return (const void *)(page + s->reports_at + rank * s->report_bytes);
}

/* Sum over all microbatches of the global batch, along the same tree as gradients; NaN when somebody's is missing. */
static float add_losses(struct sfi_session *s, const char *page) {
    const struct sfi_image *im = s->run->image;
    uint32_t per_rank = im->prog->job.microbatches;
    size_t n = (size_t)im->dp_n * per_rank;
    float sum = 0.0f;
    memset(s->loss_src, 0, n * sizeof *s->loss_src);
    for (uint32_t rank = 0; rank < im->ranks; rank++) {
        if (im->classes[sf_prog_class(im->prog, rank)].loss_buf == SF_NONE || !sfi_image_counts(im, rank)) {
            continue;
        }
        for (uint32_t m = 0; m < per_rank; m++) { /* copies of the model each know all of them */
            s->loss_src[(size_t)sfi_image_dp_index(im, rank) * per_rank + m] = &report_of(s, page, rank)->loss[m];
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (!s->loss_src[i]) {
            return NAN;
        }
    }
    if (n > 0) {
        sf_kern_tree_sum(&sum, s->loss_src, n, 1);
    }
    return sum;
}

static double norm_of(const struct sfi_session *s, const char *page) {
    const struct sfi_rank *first = s->ranks[0].host;
    bool clips = s->run->image->classes[first->class_i].norm_buf != SF_NONE;
    return clips ? (double)report_of(s, page, first->rank)->norm : NAN;
}

/* Times count from the moment when the last rank began, on this rank's device clock. */
static uint64_t find_origin(struct sfi_session *s, const char *page) {
    const struct sfi_gpu_report *mine = report_of(s, page, s->ranks[0].host->rank);
    int64_t last = INT64_MIN;
    if (s->clock_is_own) {
        return mine->begin_ns;
    }
    for (uint32_t rank = 0; rank < s->run->image->ranks; rank++) {
        const struct sfi_gpu_report *r = report_of(s, page, rank);
        int64_t began = (int64_t)r->begin_ns + r->shift_ns;
        last = began > last ? began : last;
    }
    return (uint64_t)(last - mine->shift_ns);
}

static void take_clock(struct sfi_session *s, const char *page) {
    uint64_t clock[2];
    memcpy(clock, page + s->begin_at, sizeof clock);
    uint64_t from = s->last_end_ns > 0 ? s->last_end_ns : clock[0];
    s->wall_s = clock[1] > from ? (double)(clock[1] - from) * 1e-9 : 0.0;
    s->last_end_ns = clock[1];
}

int sfi_session_conclude(struct sfi_session *s, struct sf_err *err) {
    const char *page = s->out.host + (s->concluded & 1) * s->out.stride;
    int rc = wait_until_over(s, s->concluded, err);
    if (rc != SF_OK) {
        sfi_session_give_up(s, err);
        return rc;
    }
    int64_t begin = sfi_now_ns();
    take_clock(s, page);
    s->losses[s->concluded] = add_losses(s, page);
    s->norm = norm_of(s, page);
    for (uint32_t rank = 0; rank < s->run->image->ranks; rank++) {
        s->stop |= report_of(s, page, rank)->stop != 0;
    }
    for (uint32_t i = 0; i < s->ranks_n; i++) {
        struct sfi_gpu_rank *r = &s->ranks[i];
        if (s->traced) {
            sfi_gpu_take_stamps(r, s->concluded, find_origin(s, page), page);
        }
        if (s->run->probe) {
            sfi_gpu_probe_take(s, r, page);
        }
        if (s->concluded + 1 == s->run->options->steps && r->grads) {
            sfi_gpu_take_gradients(r);
        }
        r->host->steps_done = s->concluded + 1;
    }
    s->host_s[s->concluded & 1] += (double)(sfi_now_ns() - begin) * 1e-9;
    s->concluded++;
    return SF_OK;
}
