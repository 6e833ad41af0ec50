/* The compiler's spine; see compile_internal.h for the parts. */
#include "planner/compile.h"

#include <stdio.h>

#include "core/scratch.h"
#include "planner/compile_internal.h"
#include "planner/picks.h"
#include "sim/seats.h"

/* Parts of equal size, as few as keep below a bound. The same in every layout of a job: of the whole vocabulary,
 * whatever tp. */
static uint64_t loss_rows(const struct sf_scenario *s, const struct sfi_shape *shape) {
    const uint64_t most_bytes = UINT64_C(256) << 20, unit = 128;
    uint64_t row = sfi_mul(sf_model_rows(&s->model), shape->elem), rows = s->job.loss_rows;
    if (rows == 0 && sfi_mul(shape->tokens, row) > most_bytes) {
        uint64_t most = most_bytes / row / unit * unit;
        uint64_t parts = (shape->tokens - 1) / (most > 0 ? most : unit) + 1;
        rows = sfi_round_up((shape->tokens + parts - 1) / parts, unit);
    }
    return rows < shape->tokens ? rows : 0;
}

static void shape_experts(const struct sf_model *m, const struct sf_plan *plan, struct sfi_shape *out) {
    out->experts_local = m->experts / plan->ep;
    out->picks = sfi_mul(out->rows, m->topk);
    out->all_picks = sfi_mul(out->etp > 1 ? out->tokens : out->rows, m->topk);
    out->expert_rows = sfi_round_up(out->all_picks, out->experts_local) / out->experts_local;
    out->expert_room = sfi_mul(out->expert_rows, out->experts_local);
    out->expert_fill = (float)((double)out->all_picks / (double)out->expert_room);
    out->shared_local = m->shared_ffn / plan->tp;
    out->shared_up = 2 * out->shared_local;
    out->shared_gate = m->shared_gate;
}

static void make_shape(const struct sf_scenario *s, const struct sf_plan *plan, bool routed, int recompute,
                       struct sfi_shape *out) {
    const struct sf_model *m = &s->model;
    *out =
        (struct sfi_shape){.batch = plan->micro_batch,
                           .seq = s->job.seq_len_tokens,
                           .hidden = m->hidden,
                           .head_dim = m->head_dim,
                           .experts = routed ? m->experts : 0,
                           .topk = routed ? m->topk : 0,
                           .etp = sf_plan_etp(plan),
                           .tp = plan->tp,
                           .cp = sf_plan_cp(plan),
                           .slices = sf_plan_slices(plan),
                           .ep = plan->ep,
                           .recompute = recompute == SF_RECOMPUTE_FULL,
                           .selective = recompute == SF_RECOMPUTE_SELECTIVE || recompute == SF_RECOMPUTE_SELECTIVE_UP,
                           .redo_up = recompute == SF_RECOMPUTE_MLA_UP || recompute == SF_RECOMPUTE_SELECTIVE_UP,
                           .expert_fill = 1};
    out->dtype = s->job.precision == SF_F32 ? SF_F32 : SF_BF16;
    out->gemm_dtype = s->job.precision;
    out->elem = (uint64_t)sf_dtype_bytes(out->dtype);
    out->tokens = sfi_mul(out->batch, out->seq) / out->cp / out->slices;
    out->whole_rows = plan->whole_rows;
    out->rows = plan->whole_rows ? out->tokens : out->tokens / plan->tp;
    out->row_bytes = sfi_mul(sfi_mul(out->rows, out->hidden), out->elem);
    out->vocab_local = sf_model_rows(m) / plan->tp;
    out->vocab_padding = m->vocab_padding;
    out->layernorm = m->layernorm;
    out->qkv_bias = m->qkv_bias;
    out->out_bias = m->out_bias;
    out->ffn_bias = m->ffn_bias;
    out->positions = m->positions;
    out->loss_rows = plan->split_head ? 0 : loss_rows(s, out);
    out->vocab_part = plan->split_head ? out->vocab_local / plan->pp : 0;
    out->vocab_parts = plan->split_head ? plan->tp * plan->pp : 1;
    out->heads_local = m->heads / plan->tp;
    out->kv_heads_local = m->kv_heads / plan->tp;
    out->attn_local = sfi_mul(out->heads_local, m->head_dim);
    out->qkv_local = sfi_mul(out->heads_local + 2 * out->kv_heads_local, m->head_dim);
    sfi_shape_latent(m, plan->tp, out);
    out->ffn_local = sf_model_width(m, routed) / (routed ? out->etp : plan->tp);
    out->up_local = m->plain ? out->ffn_local : 2 * out->ffn_local;
    if (routed) {
        shape_experts(m, plan, out);
    }
}

void sfi_shape_init(const struct sf_scenario *s, const struct sf_plan *plan, struct sfi_shape *out) {
    make_shape(s, plan, s->model.experts > 0, plan->recompute, out);
}

void sfi_shape_dense(const struct sf_scenario *s, const struct sf_plan *plan, struct sfi_shape *out) {
    make_shape(s, plan, false, plan->recompute, out);
}

void sfi_shape_further(const struct sf_scenario *s, const struct sf_plan *plan, struct sfi_shape *out) {
    make_shape(s, plan, sf_model_routes(&s->model, s->model.layers), SF_RECOMPUTE_NONE, out);
}

static void make_all_shapes(struct sfi_compile *c) {
    const struct sf_plan *plan = c->plan;
    sfi_shape_init(c->s, plan, &c->shape);
    sfi_shape_dense(c->s, plan, &c->dense);
    make_shape(c->s, plan, c->s->model.experts > 0, plan->recompute_rest, &c->rest);
    make_shape(c->s, plan, false, plan->recompute_rest, &c->rest_dense);
    sfi_shape_further(c->s, plan, &c->mtp);
}

static void note_split(struct sfi_compile *c) {
    c->shape.split = c->dense.split = c->rest.split = c->rest_dense.split = c->mtp.split = c->table.split;
}

static int make_shapes(struct sfi_compile *c, struct sf_err *err) {
    const struct sf_plan *plan = c->plan;
    make_all_shapes(c);
    if (!plan->partly) {
        return 0;
    }
    c->left_out = sf_calloc(c->s->model.layers, sizeof *c->left_out);
    if (c->left_out == NULL) {
        return sf_fail_memory(err, "compilation");
    }
    for (uint32_t v = 0, layer = 0; v < plan->pp * plan->vpp; v++) {
        for (uint32_t i = 0; i < plan->layers[v]; i++) {
            c->left_out[layer++] = i >= plan->recompute_layers[v];
        }
    }
    return 0;
}

static uint32_t comm(struct sf_build *b, const char *name, uint32_t axes, uint32_t members) {
    return members > 1 ? sf_build_comm(b, name, axes) : SF_NONE;
}

/* Axes of one degree, of which stages of smaller ones use the inner parts; `before` is what other axes make of it. */
static uint32_t build_chain(struct sfi_compile *c, const char *name, uint32_t before) {
    uint32_t axes = 0;
    for (uint32_t i = 0; i < c->degrees_n; i++) {
        char text[SF_NAME];
        snprintf(text, sizeof text, i == 0 ? "%s" : "%s.%u", name, c->degrees[i]);
        axes |= 1u << sf_build_axis(c->b, text, c->degrees[i] / before);
        c->axes_of[i] = axes;
        before = c->degrees[i];
    }
    return axes;
}

static uint32_t build_tp(struct sfi_compile *c) {
    return c->by_ep ? 1u << sf_build_axis(c->b, "tp", c->plan->tp) : build_chain(c, "tp", 1);
}

/* Ranks that share sequences or experts are next to each other, so that the smaller groups are parts of the larger: two
 * axes, or one where nobody shares sequences. Returns the axes of ep. */
static uint32_t build_shares(struct sfi_compile *c, uint32_t *cp) {
    struct sf_build *b = c->b;
    uint32_t share = sf_plan_cp(c->plan), experts = sf_plan_ep_beside_tp(c->plan);
    if (share == 1) {
        return c->by_ep ? build_chain(c, "ep", c->plan->ep / experts) : 1u << sf_build_axis(b, "ep", experts);
    }
    if (experts >= share) {
        *cp = 1u << sf_build_axis(b, "cp", share);
        return *cp | 1u << sf_build_axis(b, "ep", experts / share);
    }
    uint32_t ep = 1u << sf_build_axis(b, "ep", experts);
    *cp = ep | 1u << sf_build_axis(b, "cp", share / experts);
    return ep;
}

/* Groups that share weights, gradients or optimizer: the inner part of dp. Returns their axis; 0: all of dp is one. */
static uint32_t build_groups(struct sfi_compile *c, uint32_t inner) {
    uint32_t sharers = (uint32_t)sf_plan_sharers(c->plan);
    return sharers < c->comms.dp_n ? 1u << sf_build_axis(c->b, "shard", sharers / inner) : 0;
}

static uint32_t replicas_of(const struct sfi_compile *c, uint32_t inner) {
    uint32_t sharers = (uint32_t)sf_plan_sharers(c->plan);
    return c->comms.dp_n / (sharers < c->comms.dp_n ? sharers : inner);
}

static void build_shards(struct sfi_compile *c, uint32_t both, uint32_t ep, uint32_t shard, uint32_t dp) {
    struct sfi_comms *k = &c->comms;
    uint32_t sharers = (uint32_t)sf_plan_sharers(c->plan), experts = sf_plan_ep_beside_tp(c->plan);
    k->share[SFI_DENSE] = k->dp;
    k->share[SFI_EXPERT] = k->edp;
    k->share_n[SFI_DENSE] = sharers;
    k->share_n[SFI_EXPERT] = sharers / experts;
    k->across = SF_NONE;
    if (shard != 0) {
        k->share[SFI_DENSE] = comm(c->b, "shard", both | shard, sharers);
        k->share[SFI_EXPERT] =
            c->s->model.experts ? comm(c->b, "eshard", (both & ~ep) | shard, k->share_n[SFI_EXPERT]) : SF_NONE;
        k->across = comm(c->b, "across", dp, k->dp_n / sharers);
    }
}

/* The axis of stages, where the plan's order has it; 0 elsewhere. */
static uint32_t build_stages(struct sfi_compile *c, int order) {
    return c->plan->order == order ? 1u << sf_build_axis(c->b, "pp", c->plan->pp) : 0;
}

static void build_mesh(struct sfi_compile *c) {
    const struct sf_plan *p = c->plan;
    const char *const streams[] = {
        [SFI_COMPUTE] = "compute",   [SFI_LOAD] = "load",
        [SFI_FWD_RECV] = "fwd.recv", [SFI_FWD_SEND] = "fwd.send",
        [SFI_BWD_RECV] = "bwd.recv", [SFI_BWD_SEND] = "bwd.send",
        [SFI_GRAD] = "grad",         [SFI_OFFLOAD] = p->split_head ? "head" : "offload",
    };
    c->by_ep = sfi_stages_differ_in_ep(p);
    c->degrees_n = sfi_stage_degrees(p, c->degrees);
    uint32_t tp = build_tp(c);
    uint32_t pp = build_stages(c, SF_ORDER_PP_FIRST);
    uint32_t cp = 0, ep = build_shares(c, &cp), both = ep | cp;
    c->comms.dp_n = p->dp * sf_plan_cp(p);
    uint32_t experts = sf_plan_ep_beside_tp(p);
    c->comms.edp_n = c->comms.dp_n / experts;
    uint32_t inner = experts > sf_plan_cp(p) ? experts : sf_plan_cp(p);
    pp |= build_stages(c, SF_ORDER_PP_MIDDLE);
    uint32_t shard = build_groups(c, inner), dp = 1u << sf_build_axis(c->b, "dp", replicas_of(c, inner));
    uint32_t replicas = shard | dp;
    pp |= build_stages(c, SF_ORDER_PP_LAST);
    c->comms.outer = SF_NONE;
    c->comms.tp = comm(c->b, "tp", tp, p->tp);
    c->comms.vocab = p->split_head ? comm(c->b, "pp.vocab", pp | tp, p->pp * p->tp) : SF_NONE;
    c->comms.parts = p->split_head ? comm(c->b, "pp.head", pp, p->pp) : SF_NONE;
    c->comms.ep = comm(c->b, "ep", sf_plan_etp(p) < p->tp ? ep | tp : ep, p->ep);
    c->comms.cp = comm(c->b, "cp", cp, sf_plan_cp(p));
    c->comms.dp = comm(c->b, "dp", both | replicas, c->comms.dp_n);
    c->comms.edp = c->s->model.experts ? comm(c->b, "edp", (both & ~ep) | replicas, c->comms.edp_n) : SF_NONE;
    build_shards(c, both, ep, shard, dp);
    c->comms.fwd = comm(c->b, "pp.fwd", pp, p->pp);
    c->comms.bwd = comm(c->b, "pp.bwd", pp, p->pp);
    c->comms.swap = c->s->model.tied || c->s->model.mtp > 0 || sf_schedule_copies(p) > 1
                        ? comm(c->b, "pp.swap", pp, p->pp)
                        : SF_NONE;
    bool shares = p->zero > 0 && c->comms.dp_n > 1;
    c->comms.norm = sfi_squares_bytes(c) > 0 ? comm(c->b, "norm", shares ? both | (shard ? shard : dp) | pp : pp,
                                                    p->pp * (shares ? c->comms.share_n[SFI_DENSE] : 1))
                                             : SF_NONE;
    size_t streams_n = sizeof streams / sizeof *streams - (p->offload == 0 && !p->split_head); /* it is the last */
    for (size_t i = 0; i < streams_n; i++) {
        sf_build_stream(c->b, streams[i]);
    }
    sf_build_prog(c->b)->class_axes = pp;
}

/* ---- stages of smaller degrees ----------------------------------------------------------------------------------- */

struct sfi_seen {
    struct sf_plan plan;
    struct sfi_compile c;
};

static uint32_t degree_comm(const struct sfi_compile *c, const char *name, uint32_t degree, uint32_t axes,
                            uint32_t members) {
    char text[2 * SF_NAME];
    snprintf(text, sizeof text, "%s.%u", name, degree);
    return comm(c->b, text, axes, members);
}

static uint32_t axes_of_comm(const struct sfi_compile *c, uint32_t comm) {
    return comm == SF_NONE ? 0 : sf_build_prog(c->b)->comms[comm].axes;
}

static void see_tp(const struct sfi_compile *c, uint32_t tp, uint32_t inner, uint32_t outer, struct sfi_seen *out) {
    struct sfi_comms *k = &out->c.comms;
    uint32_t parts = c->plan->tp / tp;
    k->dp_n *= parts;
    k->tp = degree_comm(c, "tp", tp, inner, tp);
    k->dp = degree_comm(c, "dp", tp, outer | axes_of_comm(c, c->comms.dp), k->dp_n);
    bool adds = out->plan.zero > 0 && sfi_squares_bytes(c) > 0;
    k->outer = adds ? degree_comm(c, "outer", tp, outer, parts) : SF_NONE;
    k->share[SFI_DENSE] = k->dp;
    k->share_n[SFI_DENSE] = k->dp_n;
    bool cut = c->s->model.experts > 0 && sf_plan_etp(c->plan) == c->plan->tp;
    if (cut) { /* whole experts are among the same ranks in every stage */
        k->edp_n *= parts;
        k->edp = degree_comm(c, "edp", tp, outer | axes_of_comm(c, c->comms.edp), k->edp_n);
        k->share[SFI_EXPERT] = k->edp;
        k->share_n[SFI_EXPERT] = k->edp_n;
    }
}

static void see_ep(const struct sfi_compile *c, uint32_t ep, uint32_t inner, uint32_t outer, struct sfi_seen *out) {
    struct sfi_comms *k = &out->c.comms;
    bool whole = sf_plan_etp(c->plan) < c->plan->tp; /* among the ranks of tp, too */
    k->edp_n = k->dp_n / sf_plan_ep_beside_tp(&out->plan);
    k->ep = degree_comm(c, "ep", ep, inner | (whole ? axes_of_comm(c, c->comms.tp) : 0), ep);
    k->edp = degree_comm(c, "edp", ep, outer | axes_of_comm(c, c->comms.edp), k->edp_n);
    k->share[SFI_EXPERT] = k->edp;
    k->share_n[SFI_EXPERT] = k->edp_n;
}

static void see(const struct sfi_compile *c, uint32_t i, struct sfi_seen *out) {
    uint32_t degree = c->degrees[i], inner = c->axes_of[i], outer = c->axes_of[c->degrees_n - 1] & ~inner;
    out->c = *c;
    sfi_stage_plan(c->plan, degree, &out->plan);
    out->c.plan = &out->plan;
    make_all_shapes(&out->c);
    note_split(&out->c);
    (c->by_ep ? see_ep : see_tp)(c, degree, inner, outer, out);
}

static int see_degrees(struct sfi_compile *c, struct sf_err *err) {
    const uint16_t *device_of = c->table.pipe->device_of;
    if (c->degrees_n == 1) {
        return 0;
    }
    SF_TRY(sfi_stage_ends_check(c->plan, device_of[0], device_of[c->vs_n - 1], err));
    c->seen = sf_calloc(c->degrees_n - 1, sizeof *c->seen);
    if (c->seen == NULL) {
        return sf_fail_memory(err, "stages of smaller degrees");
    }
    for (uint32_t i = 0; i + 1 < c->degrees_n; i++) {
        see(c, i, &c->seen[i]);
    }
    return 0;
}

/* As a rank of the pipeline sees it. */
static struct sfi_compile *seen_by(struct sfi_compile *c, uint32_t rank) {
    for (uint32_t i = 0; i + 1 < c->degrees_n; i++) {
        if (sfi_stage_degree(c->plan, rank) == c->degrees[i]) {
            return &c->seen[i].c;
        }
    }
    return c;
}

/* Identity of what is compiled: what files hold, not where they lie. */
static int plan_identity(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_hash *out,
                         struct sf_err *err) {
    struct sf_plan copy = *plan;
    struct sf_buf text = {0};
    copy.scenario[0] = copy.schedule_file[0] = '\0';
    int rc = sf_plan_print(&copy, sf_scenario_hash(s), &text);
    if (plan->table != NULL) {
        sf_pipe_print_csv(plan->table, &text);
    }
    if (rc != 0 || text.failed) {
        sf_buf_free(&text);
        return sf_fail_memory(err, "plan identity");
    }
    *out = sf_hash_bytes(text.data, text.bytes);
    sf_buf_free(&text);
    return 0;
}

static int build_facts(const struct sfi_compile *c, struct sf_err *err) {
    struct sf_prog *prog = sf_build_prog(c->b);
    const struct sf_plan *p = c->plan;
    const struct sf_job *job = &c->s->job;
    uint64_t tokens = sfi_mul(job->global_batch_sequences, job->seq_len_tokens);
    snprintf(prog->title, sizeof prog->title, "%.40s on %.24s: tp%u ep%u dp%u pp%u vpp%u, %u x %u sequences, %s",
             c->s->model.name, sf_topo_name(c->s->topo), p->tp, p->ep, p->dp, p->pp, p->vpp, p->microbatches,
             p->micro_batch, sf_schedule_name(p->schedule));
    prog->job = (struct sf_prog_job){
        .microbatches = p->microbatches,
        .micro_batch_sequences = p->micro_batch,
        .seq_len_tokens = job->seq_len_tokens,
        .chunks = c->table.chunks_n,
        .extra_copies = c->table.pipe->ways - 1,
        .slices = c->shape.slices > 1 ? c->shape.slices : 0,
        .global_batch_sequences = job->global_batch_sequences,
        .model_flops_per_step = sf_model_flops(&c->s->model, tokens, job->seq_len_tokens),
        .vocab = c->s->model.vocab,
        .lr = (float)job->lr,
        .beta1 = (float)job->beta1,
        .beta2 = (float)job->beta2,
        .eps = (float)job->eps,
        .weight_decay = (float)job->weight_decay,
        .warmup_steps = job->warmup_steps,
        .seed = job->seed,
    };
    prog->ranks_per_domain = p->ranks_per_domain;
    prog->domain_gpus = sf_topo_domain_gpus(c->s->topo);
    prog->device_memory_bytes = c->unbounded ? 0 : sf_scenario_memory(c->s);
    prog->host_memory_bytes = c->unbounded || p->offload == 0 ? 0 : sf_seats_host_memory(c->s->topo);
    return plan_identity(c->s, p, &prog->source, err);
}

static bool same_kinds(const struct sf_model *m, const struct sfi_vstage *a, const struct sfi_vstage *b) {
    for (uint32_t i = 0; i < a->layers; i++) {
        if (sf_model_routes(m, a->first_layer + i) != sf_model_routes(m, b->first_layer + i)) {
            return false;
        }
    }
    return true;
}

/* An earlier virtual stage with the same contents, or NULL. */
static const struct sfi_vstage *find_equal(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    for (uint32_t i = 0; i < vs->index; i++) {
        const struct sfi_vstage *o = &c->vs[i];
        if (o->owns_params && o->tp == vs->tp && o->ep == vs->ep && o->layers == vs->layers && o->again == vs->again &&
            o->is_first == vs->is_first && o->is_last == vs->is_last && o->ends == vs->ends && o->head == vs->head &&
            same_kinds(&c->s->model, o, vs)) {
            return o;
        }
    }
    return NULL;
}

static int refuse_size(const struct sfi_vstage *vs, const char *what, uint64_t bytes, struct sf_err *err) {
    if (bytes < SFI_TOO_MANY_BYTES) {
        return 0;
    }
    return sf_fail(err, SF_E_NOPLAN, "virtual stage %u needs at least %llu bytes of %s", vs->index,
                   (unsigned long long)bytes, what);
}

static int build_vstage(struct sfi_compile *c, struct sfi_vstage *vs, struct sf_err *err) {
    const struct sfi_vstage *equal = find_equal(c, vs);
    if (equal) {
        uint32_t index = vs->index, first_layer = vs->first_layer;
        *vs = *equal;
        vs->index = index;
        vs->first_layer = first_layer;
        vs->owns_params = false;
        return 0;
    }
    vs->owns_params = true;
    SF_TRY(sfi_params_init(c, vs, &vs->params, err));
    SF_TRY(refuse_size(vs, "activations", sfi_stash_bytes(c, vs), err));
    SF_TRY(refuse_size(vs, "activations", sfi_held_bytes(c, vs), err));
    SF_TRY(refuse_size(vs, "logits", sfi_head_bytes(&c->shape, vs), err));
    vs->recipes = sf_calloc(c->shape.slices, sizeof *vs->recipes);
    if (!vs->recipes) {
        return sf_fail_memory(err, "recipes");
    }
    sfi_forward_recipes(c, vs);
    sfi_backward_recipes(c, vs);
    return refuse_size(vs, "working memory", vs->work_bytes, err);
}

static uint32_t again_of(const struct sfi_compile *c, const struct sfi_vstage *vs) {
    uint32_t n = 0;
    while (n < vs->layers && !sfi_is_left_out(c, vs->first_layer + n)) {
        n++;
    }
    return n;
}

static int build_vstages(struct sfi_compile *c, struct sf_err *err) {
    uint32_t layer = 0;
    for (uint32_t i = 0; i < c->vs_n; i++) {
        struct sfi_vstage *vs = &c->vs[i];
        vs->index = i;
        vs->layers = c->plan->split_head && i >= c->plan->pp ? 0 : sfi_unit_layers(c->plan, c->units, i);
        vs->first_layer = layer;
        vs->again = again_of(c, vs);
        vs->is_first = i == 0;
        vs->is_last = i + 1 == c->vs_n;
        vs->ends = c->plan->split_head ? i + 1 == c->plan->pp : vs->is_last;
        vs->head = c->plan->split_head ? i >= c->plan->pp : vs->is_last;
        vs->mtp = vs->ends ? c->s->model.mtp : 0;
        layer += vs->layers;
        struct sfi_compile *seen = seen_by(c, c->table.pipe->device_of[i]);
        vs->tp = seen->plan->tp;
        vs->ep = seen->plan->ep;
        SF_TRY(build_vstage(seen, vs, err));
    }
    return 0;
}

/* That arenas fit is part of the program's check; kernels have more than their operands on the device. */
static int check_work_areas(const struct sf_prog *prog, struct sf_err *err) {
    for (uint32_t i = 0; i < prog->classes_n && prog->device_memory_bytes > 0; i++) {
        uint64_t arena = prog->classes[i].arena_bytes, work = sf_class_scratch_bytes(prog, i);
        uint64_t have = prog->device_memory_bytes;
        if (work > have - arena) {
            char text[3][32];
            return sf_fail(
                err, SF_E_NOPLAN, "class %u \"%s\" needs %s and its kernels %s beside it, but its device has %s", i,
                prog->classes[i].name, sf_format_bytes(arena, text[0], sizeof text[0]),
                sf_format_bytes(work, text[1], sizeof text[1]), sf_format_bytes(have, text[2], sizeof text[2]));
        }
    }
    return 0;
}

static int finish(struct sfi_compile *c, const uint32_t *class_of, struct sf_prog **out, struct sf_err *err) {
    struct sf_prog *prog;
    SF_TRY(sf_build_finish(c->b, class_of, c->plan->pp, &prog, err));
    int rc = sfi_picks_apply(c->plan, prog, err);
    rc = rc == 0 ? check_work_areas(prog, err) : rc;
    if (rc != 0) {
        sf_prog_free(prog);
        return rc;
    }
    *out = prog;
    return 0;
}

static int build_classes(struct sfi_compile *c, struct sf_prog **out, struct sf_err *err) {
    uint32_t *class_of = sf_calloc(c->plan->pp, sizeof *class_of);
    if (!class_of) {
        return sf_fail_memory(err, "binding");
    }
    int rc = 0;
    for (uint32_t i = 0; i < c->plan->pp && rc == 0; i++) {
        class_of[i] = i;
        rc = sfi_stage_compile(seen_by(c, i), i, err);
    }
    if (rc == 0) {
        rc = finish(c, class_of, out, err);
    }
    sf_free(class_of);
    return rc;
}

static int check_halves(const struct sfi_compile *c, struct sf_err *err) {
    const struct sfi_shape *both[] = {&c->shape, &c->rest};
    const int kinds[] = {c->plan->recompute, c->plan->recompute_rest};
    for (int i = 0; i < 2 && c->table.split; i++) {
        if (both[i]->selective || both[i]->redo_up) {
            return sf_fail(err, SF_E_INPUT, "plan: recompute %s needs a schedule of whole backwards, found %s",
                           sf_recompute_name(kinds[i]), sf_schedule_name(c->plan->schedule));
        }
    }
    return 0;
}

static int compile_all(struct sfi_compile *c, struct sf_prog **out, struct sf_err *err) {
    SF_TRY(sfi_table_init(c, err));
    note_split(c);
    SF_TRY(check_halves(c, err));
    build_mesh(c);
    SF_TRY(build_facts(c, err));
    SF_TRY(see_degrees(c, err));
    SF_TRY(build_vstages(c, err));
    return build_classes(c, out, err);
}

static int compile(const struct sf_scenario *s, const struct sf_plan *plan, bool unbounded, struct sf_prog **out,
                   struct sf_err *err) {
    SF_TRY(sf_plan_check(s, plan, err));
    uint32_t units = sfi_units_of(plan);
    struct sfi_compile c = {.s = s,
                            .plan = plan,
                            .vs_n = plan->pp * plan->vpp * units * (plan->split_head ? 2 : 1),
                            .units = units,
                            .unbounded = unbounded};
    c.b = sf_build_create();
    c.vs = sf_calloc(c.vs_n, sizeof *c.vs);
    int rc = c.b && c.vs ? make_shapes(&c, err) : sf_fail_memory(err, "compilation");
    rc = rc == 0 ? compile_all(&c, out, err) : rc;
    for (uint32_t i = 0; c.vs && i < c.vs_n; i++) {
        if (c.vs[i].owns_params) {
            sf_free(c.vs[i].params.buckets);
            sf_free(c.vs[i].params.at);
            sf_free(c.vs[i].recipes);
        }
    }
    sf_free(c.seen);
    sf_free(c.vs);
    sf_free(c.left_out);
    sfi_table_clear(&c.table);
    sf_build_free(c.b);
    return rc;
}

int sf_compile(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_prog **out, struct sf_err *err) {
    return compile(s, plan, false, out, err);
}

int sfi_compile_unbounded(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_prog **out,
                          struct sf_err *err) {
    return compile(s, plan, true, out, err);
}
