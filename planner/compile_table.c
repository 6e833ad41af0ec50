/* The schedule's table as the compiler needs it: where every stage lives, which step of which rank runs each pass, and
 * when passes end in a replay by FLOPs. Those times never reach the program; they only decide the order in which
 * transfers are posted and how long a buffer must be kept free. */
#include "core/arena.h"
#include "planner/compile_internal.h"

/* Multiply-adds of one microbatch: matrices of a layer, attention scores and sums of a layer, the head. */
struct work {
    uint64_t matrices, attention, head;
};

/* Of latent attention, on one rank. */
static uint64_t latent_weights(const struct sfi_shape *s) {
    uint64_t queries = sfi_mul(s->q_rank > 0 ? s->q_rank : s->hidden, s->qkv_local);
    return queries + sfi_mul(s->kv_rank, s->kv_up) + sfi_mul(s->latent, s->hidden) / s->tp;
}

static struct work work_of(const struct sfi_shape *s) {
    uint64_t ffn_rows = s->experts ? s->expert_room : s->tokens;
    uint64_t qkv = s->kv_rank == 0 ? sfi_mul(s->hidden, s->qkv_local) : latent_weights(s);
    uint64_t dense = sfi_mul(s->tokens, qkv + sfi_mul(s->hidden, s->attn_local));
    uint64_t shared = sfi_mul(sfi_mul(s->tokens, s->hidden), s->shared_up + s->shared_local);
    uint64_t ffn = sfi_mul(sfi_mul(ffn_rows, s->hidden), s->up_local + s->ffn_local) + shared;
    return (struct work){
        .matrices = dense + ffn,
        .attention =
            sfi_mul(sfi_mul(s->tokens, s->seq), s->kv_rank == 0 ? s->attn_local : (s->qkv_local + s->attn_local) / 2),
        .head = sfi_mul(sfi_mul(s->tokens, s->hidden), s->vocab_local),
    };
}

/* The work of `layers` layers from `first` on. */
static struct work work_of_layers(const struct sf_model *m, const struct work of[2], uint32_t first, uint32_t layers) {
    uint64_t routed = sf_model_routed(m, first + layers) - sf_model_routed(m, first);
    return (struct work){
        .matrices = sfi_mul(routed, of[1].matrices) + sfi_mul(layers - routed, of[0].matrices),
        .attention = sfi_mul(layers, of[0].attention),
    };
}

/* All depths of what predicts further: a layer, the projections of its input, a head. */
static struct work work_of_further(const struct sf_model *m, const struct work of[2], const struct sfi_shape *s) {
    struct work one = work_of_layers(m, of, m->layers, m->mtp);
    one.matrices += sfi_mul(2 * (uint64_t)m->mtp, sfi_mul(sfi_mul(s->rows, s->hidden), s->hidden));
    one.head = sfi_mul(m->mtp, of[0].head);
    return one;
}

void sfi_pass_flops(const struct sf_scenario *scenario, const struct sf_plan *plan, uint64_t *f, uint64_t *b,
                    uint64_t *w) {
    struct sfi_shape routed, dense;
    sfi_shape_init(scenario, plan, &routed);
    sfi_shape_dense(scenario, plan, &dense);
    const struct work of[2] = {work_of(&dense), work_of(&routed)};
    uint32_t stages = plan->pp * plan->vpp, layer = 0;
    for (uint32_t i = 0; i < stages; i++) {
        struct work all = work_of_layers(&scenario->model, of, layer, plan->layers[i]);
        bool last = i + 1 == stages;
        struct work further = last ? work_of_further(&scenario->model, of, &dense) : (struct work){0};
        all.matrices += further.matrices;
        all.attention += further.attention;
        uint64_t head = last && !plan->split_head ? of[0].head + further.head : 0,
                 logits = dense.loss_rows > 0 ? head : 0; /* in backward */
        f[i] = 1 + all.matrices + head + all.attention - logits;
        w[i] = 1 + all.matrices + head;
        b[i] = 1 + all.matrices + head + 2 * all.attention + logits;
        if (plan->recompute == SF_RECOMPUTE_FULL && (!plan->partly || plan->recompute_layers[i] > 0)) {
            struct work again = work_of_layers(&scenario->model, of, layer, sf_plan_again(plan, i));
            b[i] += 1 + again.matrices + again.attention;
        }
        layer += plan->layers[i];
    }
}

static int index_stages(struct sfi_table *t, struct sf_err *err) {
    const struct sf_pipe *p = t->pipe;
    uint32_t n[SF_PIPE_MAX_DEVICES] = {0};
    t->chunks_n = p->stages / p->devices;
    t->chunk_of = sf_calloc(p->stages, sizeof *t->chunk_of);
    t->stage_at = sf_calloc(p->stages, sizeof *t->stage_at);
    if (!t->chunk_of || !t->stage_at) {
        return sf_fail_memory(err, "schedule table");
    }
    for (uint32_t s = 0; s < p->stages; s++) {
        uint32_t d = p->device_of[s];
        if (n[d] == t->chunks_n) {
            return sf_fail(err, SF_E_INPUT, "plan: schedule puts more than %u stages on rank %u of the pipeline",
                           t->chunks_n, d);
        }
        t->chunk_of[s] = n[d];
        t->stage_at[d * t->chunks_n + n[d]++] = s;
    }
    return 0;
}

static int index_passes(struct sfi_table *t, struct sf_err *err) {
    const struct sf_pipe *p = t->pipe;
    size_t units = sfi_pass_index(p, p->stages, 0, 0);
    for (int k = 0; k < SFI_PASSES; k++) {
        t->step[k] = sf_calloc(units, sizeof *t->step[k]);
        if (!t->step[k]) {
            return sf_fail_memory(err, "schedule table");
        }
    }
    for (uint32_t d = 0; d < p->devices; d++) {
        for (uint32_t i = 0; i < p->passes_n[d]; i++) {
            const struct sf_pass *x = &p->passes[d][i];
            size_t unit = sfi_pass_index(p, x->stage, x->microbatch, x->slice);
            t->split |= x->kind == SF_PASS_W;
            t->whole |= x->kind == SF_PASS_BW;
            if (x->kind == SF_PASS_F) {
                t->step[SFI_PASS_F][unit] = i;
            }
            if (x->kind == SF_PASS_B || x->kind == SF_PASS_BW) {
                t->step[SFI_PASS_B][unit] = i;
            }
            if (x->kind == SF_PASS_W || x->kind == SF_PASS_BW) {
                t->step[SFI_PASS_W][unit] = i;
            }
        }
    }
    return 0;
}

static int replay(struct sfi_table *t, const struct sf_pass_weights *weights, struct sf_err *err) {
    struct sf_pipe_costs costs;
    struct sf_pipe_timing timing;
    t->start = sf_pipe_times_create(t->pipe);
    t->end = sf_pipe_times_create(t->pipe);
    if (!t->start || !t->end) {
        return sf_fail_memory(err, "schedule table");
    }
    SF_TRY(sf_schedule_costs(t->pipe, weights, &costs, err));
    int rc = sf_pipe_replay(t->pipe, &costs, &timing, t->start, t->end, err);
    sf_pipe_costs_clear(&costs);
    return rc;
}

/* From the last, so that no stage's times are overwritten before they are shared. */
static void share_among_units(const struct sfi_compile *c, uint64_t *times) {
    for (uint32_t k = 0; k < 3; k++) {
        uint64_t *of = times + k * (size_t)c->vs_n;
        for (uint32_t i = c->vs_n; i-- > 0;) {
            of[i] = of[i / c->units] / c->units + 1;
        }
    }
}

int sfi_table_init(struct sfi_compile *c, struct sf_err *err) {
    uint64_t *times = sf_calloc(3 * (size_t)c->vs_n, sizeof *times);
    if (!times) {
        return sf_fail_memory(err, "schedule table");
    }
    const struct sf_pass_weights weights = {.f = times, .b = times + c->vs_n, .w = times + 2 * (size_t)c->vs_n};
    sfi_pass_flops(c->s, c->plan, times, times + c->vs_n, times + 2 * (size_t)c->vs_n);
    struct sfi_table *t = &c->table;
    for (uint32_t i = c->plan->pp; i < c->vs_n && c->plan->split_head; i++) {
        uint64_t part = sfi_mul(sfi_mul(c->shape.tokens, c->shape.hidden), c->shape.vocab_part);
        times[i] = times[c->vs_n + i] = times[2 * (size_t)c->vs_n + i] =
            1 + sfi_mul(c->s->model.mtp + UINT64_C(1), part);
    }
    int rc = sf_schedule_make(c->plan, &weights, &t->pipe, err);
    if (rc == 0 && c->units > 1) {
        share_among_units(c, times);
        rc = sfi_cut_stages(&t->pipe, c->units, err);
    }
    rc = rc == 0 ? replay(t, &weights, err) : rc;
    rc = rc == 0 ? index_stages(t, err) : rc;
    rc = rc == 0 ? index_passes(t, err) : rc;
    sf_free(times);
    return rc;
}

void sfi_table_clear(struct sfi_table *t) {
    for (int k = 0; k < SFI_PASSES; k++) {
        sf_free(t->step[k]);
    }
    sf_free(t->stage_at);
    sf_free(t->chunk_of);
    sf_pipe_times_free(t->start);
    sf_pipe_times_free(t->end);
    sf_pipe_free(t->pipe);
}
