/* Prices of one layer and of both ends, read off compiled miniatures: the same model with one layer and with two, one
 * pipeline stage, tp x max(cp, ep) ranks. Their difference is a layer, the rest are the ends. */
#include <math.h>
#include <string.h>

#include "core/scratch.h"
#include "planner/compile_internal.h"
#include "planner/estimate.h"

#define MINI_MICROBATCHES 2 /* the first overwrites gradients, the second adds to them */

struct sfi_degrees sfi_degrees_of(const struct sf_plan *plan) {
    return (struct sfi_degrees){.tp = plan->tp,
                                .cp = sf_plan_cp(plan),
                                .ep = plan->ep,
                                .micro_batch = plan->micro_batch,
                                .recompute = plan->recompute,
                                .partly = plan->partly,
                                .rest = plan->recompute_rest,
                                .etp = sf_plan_etp(plan),
                                .slices = sf_plan_slices(plan),
                                .gather = sf_plan_cp(plan) > 1 && plan->cp_gather,
                                .whole_rows = plan->tp > 1 && plan->whole_rows};
}

double sfi_collective_s(const struct sf_cost *cost, bool tuned, int kind, uint64_t bytes, const struct sf_span *span) {
    struct sf_span own = *span;
    own.quickest = tuned;
    return sf_ps_to_s(sf_cost_collective(cost, kind, bytes, &own));
}

static const struct sf_span *span_of(struct sfi_seated *at, uint32_t comm) {
    if ((at->known >> comm & 1) == 0) {
        sf_span_of(at->prog, at->topo, comm, at->rank, &at->span[comm]);
        at->known |= 1u << comm;
    }
    return &at->span[comm];
}

static double call_s(struct sfi_seated *at, const struct sf_cost *cost, const struct sf_call *call) {
    enum sf_grade grade;
    if (!sf_call_is_collective(call->kind)) {
        return sf_ps_to_s(sf_cost_call(cost, call, &grade));
    }
    return sfi_collective_s(cost, at->quickest, call->kind, (uint64_t)call->dims[0], span_of(at, call->comm));
}

/* As the simulator has it: a collective beside attention runs while the attention before it and the one behind it do.
 */
struct beside {
    double owed, slack;
};

static double end_beside(struct beside *b, double attention_s) {
    double hidden = fmin(b->owed, attention_s), shown = b->owed - hidden;
    *b = (struct beside){.slack = attention_s - hidden};
    return shown;
}

static void run_beside(struct beside *b, double s) {
    double hidden = fmin(s, b->slack);
    b->slack -= hidden;
    b->owed += s - hidden;
}

static bool is_attention(const struct sf_call *call) {
    return call->kind == SF_CALL_ATTN_FWD || call->kind == SF_CALL_ATTN_BWD;
}

/* Layers that predict further look rows up behind the first one that does, and bring their gradients before it. */
static bool is_outermost(const struct sf_recipe *r, uint32_t i, int kind) {
    bool forward = kind == SF_CALL_EMBED_FWD;
    uint32_t first = forward ? 0 : i + 1, end = forward ? i : r->calls_n;
    for (uint32_t k = first; k < end && r->calls[i].kind == kind; k++) {
        if (r->calls[k].kind == kind) {
            return false;
        }
    }
    return r->calls[i].kind == kind;
}

/* Of the first stage, with the collectives that share out what it looked up, or gather the gradients that it adds. */
static bool is_embedding(const struct sf_recipe *r, uint32_t i) {
    uint32_t before = i, behind = i;
    while (before > 0 && sf_call_is_collective(r->calls[before].kind)) {
        before--;
    }
    while (behind + 1 < r->calls_n && sf_call_is_collective(r->calls[behind].kind)) {
        behind++;
    }
    return is_outermost(r, before, SF_CALL_EMBED_FWD) || is_outermost(r, behind, SF_CALL_EMBED_BWD);
}

double sfi_seated_recipe_s(struct sfi_seated *at, const struct sf_cost *cost, uint32_t recipe) {
    const struct sf_recipe *r = &at->prog->recipes[recipe];
    struct beside beside = {0, 0};
    double sum = 0;
    for (uint32_t i = 0; i < r->calls_n; i++) {
        const struct sf_call *call = &r->calls[i];
        double s = call_s(at, cost, call);
        if (call->flags & SF_CALL_BESIDE_FLAG) {
            run_beside(&beside, s);
        } else {
            sum += s + end_beside(&beside, is_attention(call) ? s : 0);
        }
    }
    return sum + end_beside(&beside, 0);
}

double sfi_recipe_s(const struct sf_prog *prog, const struct sf_cost *cost, uint32_t recipe, uint32_t rank) {
    struct sfi_seated at = {.prog = prog, .topo = sf_cost_topo(cost), .rank = rank};
    return sfi_seated_recipe_s(&at, cost, recipe);
}

/* How the groups of one communicator lie in the real placement, each way once: a group of the miniature sits at the
 * start of a domain, others may straddle two. */
struct spans {
    struct sf_span each[SFI_MOST_SPANS], worst;
    uint32_t n;
};

/* Calls that were priced before: the layers of all miniatures make the same ones. */
#define MOST_CALLS 2048 /* a power of two */
struct known_call {
    struct sf_call call; /* without operands, in whose place a collective has what says where it runs */
    double worst_s, least_s;
};
struct sfi_calls {
    uint64_t made; /* in all miniatures; of one that is no program, the most that it can have had */
    struct known_call of[MOST_CALLS];
};

struct sfi_calls *sfi_calls_create(void) {
    return sf_calloc(1, sizeof(struct sfi_calls));
}

void sfi_calls_free(struct sfi_calls *calls) {
    sf_free(calls);
}

uint64_t sfi_calls_made(const struct sfi_calls *calls) {
    return calls != NULL ? calls->made : 0;
}

struct pricing {
    const struct sfi_base *base;
    struct sfi_calls *known;
    const struct sf_prog *prog;
    struct sfi_seated *seated; /* its rank 0 */
    uint32_t ep_comm, cp_comm, experts_beside;
    struct spans ep, cp;
};

static const struct spans *spans_of(const struct pricing *p, uint32_t comm) {
    return comm == p->ep_comm ? &p->ep : comm == p->cp_comm ? &p->cp : NULL;
}

static double worst_of(const struct pricing *p, const struct sf_call *call) {
    const struct spans *spans = sf_call_is_collective(call->kind) ? spans_of(p, call->comm) : NULL;
    if (spans == NULL) {
        return call_s(p->seated, p->base->cost, call);
    }
    return sfi_collective_s(p->base->cost, p->base->tuned, call->kind, (uint64_t)call->dims[0], &spans->worst);
}

static double least_on(const struct pricing *p, const struct sf_cost *cost, const struct sf_call *call) {
    const struct spans *spans = sf_call_is_collective(call->kind) ? spans_of(p, call->comm) : NULL;
    double least = INFINITY;
    if (spans == NULL) {
        return call_s(p->seated, cost, call);
    }
    for (uint32_t i = 0; i < spans->n; i++) {
        least =
            fmin(least, sfi_collective_s(cost, p->base->tuned, call->kind, (uint64_t)call->dims[0], &spans->each[i]));
    }
    return least;
}

static double least_of(const struct pricing *p, const struct sf_call *call) {
    double least = INFINITY;
    for (uint32_t kind = 0; kind < sf_cost_kinds(p->base->cost); kind++) {
        least = fmin(least, least_on(p, sf_cost_of(p->base->cost, kind), call));
    }
    return least;
}

/* Seats follow from tp, cp and ep, which all calls here share, and from how experts lie beside tp. */
struct where {
    char comm[SF_NAME];
    uint64_t experts_beside;
};

static struct known_call price_call(struct pricing *p, const struct sf_call *call) {
    struct sf_call key = *call;
    memset(key.operand, 0, sizeof key.operand);
    if (sf_call_is_collective(call->kind)) {
        struct where where = {.experts_beside = p->experts_beside};
        static_assert(sizeof key.operand >= sizeof where, "room for it");
        memcpy(where.comm, p->prog->comms[call->comm].name, SF_NAME);
        memcpy(key.operand, &where, sizeof where);
    }
    struct known_call fresh, *k = &fresh;
    if (p->known != NULL) {
        k = &p->known->of[sf_hash_bytes(&key, sizeof key).lo % MOST_CALLS];
    }
    if (p->known == NULL || memcmp(&k->call, &key, sizeof key) != 0) {
        *k = (struct known_call){key, worst_of(p, call), least_of(p, call)};
    }
    return *k;
}

/* ---- miniatures -------------------------------------------------------------------------------------------------- */

struct sums { /* of one microbatch */
    double all, embedding;
};

struct mini {
    struct sums time[SFI_TIMED], least[SFI_TIMED], chain[SFI_TIMED];
    double work;
};

static void add_recipe(struct pricing *p, uint32_t recipe, struct sums *time, struct sums *least) {
    const struct sf_recipe *r = &p->prog->recipes[recipe];
    struct beside beside = {0, 0};
    for (uint32_t i = 0; i < r->calls_n; i++) {
        const struct sf_call *call = &r->calls[i];
        const struct known_call known = price_call(p, call);
        double s = known.worst_s, at_least = known.least_s;
        if (call->flags & SF_CALL_BESIDE_FLAG) {
            run_beside(&beside, s);
            continue;
        }
        time->all += s + end_beside(&beside, is_attention(call) ? s : 0);
        least->all += at_least;
        bool embedding = is_embedding(r, i);
        time->embedding += embedding ? s : 0;
        least->embedding += embedding ? at_least : 0;
    }
    time->all += end_beside(&beside, 0);
}

static int timed_of(const struct sf_op *op) {
    switch (op->kind) {
    case SF_OP_FORWARD:
        return SFI_TIMED_F;
    case SF_OP_BACKWARD:
    case SF_OP_ACCUMULATE:
        return SFI_TIMED_BW;
    case SF_OP_BACKWARD_INPUT:
        return SFI_TIMED_B;
    case SF_OP_BACKWARD_WEIGHT:
        return SFI_TIMED_W;
    default:
        return -1;
    }
}

static struct sums smaller(struct sums a, struct sums b) {
    return a.all < b.all ? a : b;
}

/* Of one kind of pass: by microbatch and slice. */
struct slices {
    struct sums of[MINI_MICROBATCHES][SFI_MOST_SLICES];
};

static struct sums mean_of(const struct slices *s, uint32_t m, uint32_t slices) {
    struct sums sum = {0, 0};
    for (uint32_t i = 0; i < slices; i++) {
        sum.all += s->of[m][i].all / slices;
        sum.embedding += s->of[m][i].embedding / slices;
    }
    return sum;
}

static struct sums quickest_of(const struct slices *s, uint32_t m, uint32_t slices) {
    struct sums least = s->of[m][0];
    for (uint32_t i = 1; i < slices; i++) {
        least = smaller(s->of[m][i], least);
    }
    return least;
}

static void take_timed(int t, const struct slices *time, const struct slices *least, uint32_t slices,
                       struct mini *out) {
    struct sums a = mean_of(time, 0, slices), b = mean_of(time, 1, slices);
    out->time[t] = (struct sums){(a.all + b.all) / 2, (a.embedding + b.embedding) / 2};
    out->least[t] = smaller(mean_of(least, 0, slices), mean_of(least, 1, slices));
    out->chain[t] = smaller(quickest_of(least, 0, slices), quickest_of(least, 1, slices));
}

/* Beside what is kept: of the program, and of its kernels. */
static double work_bytes(const struct sf_prog *prog) {
    const struct sf_class *cls = &prog->classes[0];
    double most = 0;
    for (uint32_t i = 0; i < cls->bufs_n; i++) {
        most = cls->bufs[i].kind == SF_BUF_WORK ? fmax(most, (double)cls->bufs[i].bytes) : most;
    }
    return most + (double)sf_class_scratch_bytes(prog, 0);
}

static void read_mini(struct pricing *p, uint32_t slices, struct mini *out) {
    const struct sf_class *cls = &p->prog->classes[0];
    struct slices time[SFI_TIMED], least[SFI_TIMED];
    memset(time, 0, sizeof time);
    memset(least, 0, sizeof least);
    for (uint32_t i = 0; i < cls->ops_n; i++) {
        const struct sf_op *op = &cls->ops[i];
        int timed = timed_of(op);
        uint32_t m = op->microbatch % MINI_MICROBATCHES, i_slice = op->slice % slices;
        struct sums ignored = {0, 0};
        if (timed >= 0) {
            add_recipe(p, op->recipe, &time[timed].of[m][i_slice],
                       op->kind == SF_OP_ACCUMULATE ? &ignored : &least[timed].of[m][i_slice]);
        }
    }
    for (int t = 0; t < SFI_TIMED; t++) {
        take_timed(t, &time[t], &least[t], slices, out);
    }
    out->work = work_bytes(p->prog);
}

struct mini_kind {
    uint32_t layers;
    bool routed; /* its layers have experts */
    int schedule;
};

/* Ranks of those that share the batch. */
static uint32_t experts_beside(const struct sfi_degrees *d) {
    return d->etp > 0 && d->etp < d->tp ? d->ep / d->tp : d->ep;
}

static void mini_plan(const struct sfi_base *base, const struct sfi_degrees *d, const struct mini_kind *kind,
                      struct sf_scenario *s, struct sf_plan *plan) {
    uint32_t layers = kind->layers, shared = sfi_shared(d->cp, experts_beside(d));
    *s = *base->scenario;
    s->model.layers = layers;
    s->model.dense_first = kind->routed ? 0 : layers;
    s->model.moe_step = 0;
    s->job.gpus = d->tp * shared;
    s->job.global_batch_sequences = (uint64_t)shared / d->cp * d->micro_batch * MINI_MICROBATCHES;
    *plan = (struct sf_plan){.tp = d->tp,
                             .cp = d->cp,
                             .ep = d->ep,
                             .dp = shared / d->cp,
                             .pp = 1,
                             .vpp = 1,
                             .etp = d->etp,
                             .slices = d->slices,
                             .cp_gather = d->gather,
                             .whole_rows = d->whole_rows,
                             .micro_batch = d->micro_batch,
                             .microbatches = MINI_MICROBATCHES,
                             .schedule = kind->schedule,
                             .recompute = d->recompute,
                             .canonical = s->job.canonical,
                             .layers = {layers}};
    plan->ranks_per_domain = sfi_ranks_per_domain(s->topo, s->job.gpus, d->tp, shared);
}

static uint32_t comm_named(const struct sf_prog *prog, const char *name) {
    for (uint32_t i = 0; i < prog->comms_n; i++) {
        if (strcmp(prog->comms[i].name, name) == 0) {
            return i;
        }
    }
    return SF_NONE;
}

/* Where groups of `members` ranks fall over domains repeats after ranks_per_domain groups at the latest. The tier
 * that each crosses does not repeat, so the least is priced on the lowest. */
static void find_spans(const struct sfi_base *base, const struct sfi_degrees *d, uint32_t members, uint32_t stride,
                       struct spans *out) {
    const struct sf_topo *topo = base->scenario->topo;
    uint32_t gpus = base->scenario->job.gpus;
    uint32_t used = sfi_ranks_per_domain(topo, gpus, d->tp, sfi_shared(d->cp, experts_beside(d)));
    uint32_t groups = gpus / (stride * members);
    struct sfi_groups g = {
        .members = members, .stride = stride, .repeat = stride * members, .groups = groups < used ? groups : used};
    out->n = 0;
    sfi_span(topo, used, &g, &out->worst);
    groups = g.groups;
    g.groups = 1;
    for (uint32_t i = 0; i < groups; i++, g.first += g.repeat) {
        struct sf_span span;
        sfi_span(topo, used, &g, &span);
        span.kind = span.domains > 1 ? SF_ROUTE_LEAF : SF_ROUTE_DOMAIN;
        sfi_add_span(out->each, &out->n, &span);
    }
}

static void count_calls(struct sfi_calls *known, const struct sf_prog *prog) {
    uint64_t calls = prog != NULL ? 0 : SF_MAX_RECIPE_CALLS;
    for (uint32_t i = 0; prog != NULL && i < prog->recipes_n; i++) {
        calls += prog->recipes[i].calls_n;
    }
    if (known != NULL) {
        known->made += calls;
    }
}

static int price_mini(struct pricing *p, const struct sfi_degrees *d, const struct mini_kind *kind, struct mini *out,
                      struct sf_err *err) {
    struct sf_scenario s;
    struct sf_plan plan;
    struct sf_prog *prog;
    mini_plan(p->base, d, kind, &s, &plan);
    int rc = sfi_compile_unbounded(&s, &plan, &prog, err);
    count_calls(p->known, rc == 0 ? prog : NULL);
    SF_TRY(rc);
    struct sfi_seated seated = {.prog = prog, .topo = sf_cost_topo(p->base->cost), .quickest = p->base->tuned};
    p->prog = prog;
    p->seated = &seated;
    p->ep_comm = comm_named(prog, "ep");
    p->cp_comm = comm_named(prog, "cp");
    read_mini(p, sf_plan_slices(&plan), out);
    sf_prog_free(prog);
    return 0;
}

/* ---- prices ------------------------------------------------------------------------------------------------------ */

double sfi_layers_sum(const struct sf_model *m, const double of[2], uint32_t first, uint32_t layers) {
    uint32_t routed = sf_model_routed(m, first + layers) - sf_model_routed(m, first);
    return routed * of[1] + (layers - routed) * of[0];
}

double sfi_layers_partly(const struct sf_model *m, const double again[2], const double of[2], uint32_t first,
                         uint32_t again_n, uint32_t layers) {
    return sfi_layers_sum(m, again, first, again_n) + sfi_layers_sum(m, of, first + again_n, layers - again_n);
}

/* Ends are the same whatever the layers are, but for those that predict further, which are of the kind priced last: its
 * ends count. */
static void take_parts(bool routed, struct sums one, struct sums two, struct sfi_pass_time *out) {
    double layer = fmax(two.all - one.all, 0);
    out->of[routed] = out->again[routed] = layer;
    out->first = one.embedding;
    out->last = fmax(one.all - layer - one.embedding, 0);
}

static int price_passes(struct pricing *p, const struct sfi_degrees *d, bool routed, bool halves, struct sfi_price *out,
                        struct sf_err *err) {
    int schedule = halves ? SF_SCHEDULE_ZB_H1 : SF_SCHEDULE_1F1B;
    struct mini one, two;
    SF_TRY(price_mini(p, d, &(struct mini_kind){1, routed, schedule}, &one, err));
    SF_TRY(price_mini(p, d, &(struct mini_kind){2, routed, schedule}, &two, err));
    for (int t = halves ? SFI_TIMED_B : SFI_TIMED_F; t <= (halves ? SFI_TIMED_W : SFI_TIMED_BW); t++) {
        take_parts(routed, one.time[t], two.time[t], &out->time[t]);
        take_parts(routed, one.least[t], two.least[t], &out->least[t]);
        take_parts(routed, one.chain[t], two.chain[t], &out->chain[t]);
    }
    out->work = fmax(out->work, two.work);
    return 0;
}

static void weigh(const struct sfi_base *base, const struct sfi_degrees *d, bool routed, struct sfi_price *out) {
    struct sf_scenario s;
    struct sf_plan plan;
    struct sfi_shape shape;
    mini_plan(base, d, &(struct mini_kind){1, routed, SF_SCHEDULE_1F1B}, &s, &plan);
    (routed ? sfi_shape_init : sfi_shape_dense)(&s, &plan, &shape);
    out->kept_of[routed] = out->kept_again[routed] = (double)sfi_block_bytes(&shape);
    out->kept_chunk = (double)shape.row_bytes - (double)sfi_row_room(&shape);
    out->kept_last = (double)sfi_end_bytes(&s, &plan);
    out->p2p_bytes = (double)shape.row_bytes;
}

static int price_kind(struct pricing *p, const struct sfi_degrees *d, bool routed, struct sfi_price *out,
                      struct sf_err *err) {
    weigh(p->base, d, routed, out);
    SF_TRY(price_passes(p, d, routed, false, out, err));
    return out->halves ? price_passes(p, d, routed, true, out, err) : 0;
}

static void take_means(const struct sf_model *m, struct sfi_price *out) {
    for (int t = 0; t < SFI_TIMED; t++) {
        out->time[t].layer = sfi_layers_sum(m, out->time[t].of, 0, m->layers) / m->layers;
        out->least[t].layer = sfi_layers_sum(m, out->least[t].of, 0, m->layers) / m->layers;
        out->chain[t].layer = sfi_layers_sum(m, out->chain[t].of, 0, m->layers) / m->layers;
    }
    out->kept_layer = out->kept_layer_again = sfi_layers_sum(m, out->kept_of, 0, m->layers) / m->layers;
}

static void mix_times(const struct sfi_pass_time *again, struct sfi_pass_time *out) {
    for (int t = 0; t < SFI_TIMED; t++) {
        memcpy(out[t].again, again[t].of, sizeof out[t].again);
    }
}

void sfi_price_mix(const struct sfi_price *again, const struct sfi_price *rest, struct sfi_price *out) {
    *out = *rest;
    mix_times(again->time, out->time);
    mix_times(again->least, out->least);
    mix_times(again->chain, out->chain);
    memcpy(out->kept_again, again->kept_of, sizeof out->kept_again);
    out->kept_layer_again = again->kept_layer;
    out->work = fmax(again->work, rest->work);
    out->halves = again->halves && rest->halves;
}

static int price_both(const struct sfi_base *base, const struct sfi_degrees *d, struct sfi_price *out,
                      struct sf_err *err) {
    struct sfi_degrees one = *d;
    struct sfi_price again, rest;
    one.partly = false;
    SF_TRY(sfi_price_init(base, &one, &again, err));
    one.recompute = d->rest;
    SF_TRY(sfi_price_init(base, &one, &rest, err));
    sfi_price_mix(&again, &rest, out);
    return 0;
}

int sfi_price_init(const struct sfi_base *base, const struct sfi_degrees *d, struct sfi_price *out,
                   struct sf_err *err) {
    const struct sf_model *m = &base->scenario->model;
    struct pricing p = {.base = base, .known = base->calls, .experts_beside = experts_beside(d)};
    if (d->partly) {
        return price_both(base, d, out, err);
    }
    *out = (struct sfi_price){.halves = sfi_can_split(d->recompute) && d->slices <= 1};
    find_spans(base, d, d->ep, experts_beside(d) < d->ep ? 1 : d->tp, &p.ep);
    find_spans(base, d, d->cp, d->tp, &p.cp);
    bool last = sf_model_routes(m, m->layers), other = m->experts > 0 && m->dense_ffn > 0;
    if (other) {
        SF_TRY(price_kind(&p, d, !last, out, err));
    }
    SF_TRY(price_kind(&p, d, last, out, err));
    take_means(m, out);
    return 0;
}

static double both_ways(const struct sfi_price *p, double layers, double firsts, double lasts) {
    const struct sfi_pass_time *f = &p->time[SFI_TIMED_F], *b = &p->time[SFI_TIMED_BW];
    return layers * (f->layer + b->layer) + firsts * (f->first + b->first) + lasts * (f->last + b->last);
}

double sfi_price_layer(const struct sfi_price *p) {
    return both_ways(p, 1, 0, 0);
}

double sfi_price_first(const struct sfi_price *p) {
    return both_ways(p, 0, 1, 0);
}

double sfi_price_last(const struct sfi_price *p) {
    return both_ways(p, 0, 0, 1);
}
