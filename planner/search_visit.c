/* Visiting the space, one choice per level, so that a rule cuts off everything below it at once. */
#include <string.h>

#include "planner/compile.h"
#include "planner/schedule.h"
#include "planner/search_internal.h"
#include "sim/seats.h"

/* The estimate of memory is not exact: what misses by less is left for compile to decide. */
#define MEMORY_SLACK 1.02

static bool is_power_of_two(uint32_t v) {
    return (v & (v - 1)) == 0;
}

static void refuse(struct sfi_search *s, enum sfi_rule rule) {
    s->refused[rule]++;
}

static int compare_u32(uint32_t a, uint32_t b) {
    return a < b ? -1 : a > b;
}

/* Equal times are ordered by memory and degrees, so that the result never depends on the order of visits. */
int sfi_candidate_compare(const struct sfi_candidate *a, const struct sfi_candidate *b) {
    if (a->estimate_s != b->estimate_s) {
        return a->estimate_s < b->estimate_s ? -1 : 1;
    }
    if (a->memory_bytes != b->memory_bytes) {
        return a->memory_bytes < b->memory_bytes ? -1 : 1;
    }
    const uint32_t x[] = {a->tp, a->ep, a->pp, a->vpp, a->micro_batch, a->recompute, a->schedule, a->zero};
    const uint32_t y[] = {b->tp, b->ep, b->pp, b->vpp, b->micro_batch, b->recompute, b->schedule, b->zero};
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) {
        if (x[i] != y[i]) {
            return compare_u32(x[i], y[i]);
        }
    }
    return 0;
}

static void keep(struct sfi_search *s, const struct sfi_candidate *c) {
    if (s->best_n == s->best_room && sfi_candidate_compare(c, &s->best[s->best_n - 1]) >= 0) {
        return;
    }
    size_t at = s->best_n < s->best_room ? s->best_n++ : s->best_n - 1;
    for (; at > 0 && sfi_candidate_compare(c, &s->best[at - 1]) < 0; at--) {
        s->best[at] = s->best[at - 1];
    }
    s->best[at] = *c;
}

static struct sfi_candidate candidate_of(const struct sfi_search *s, const struct sfi_price *price) {
    const struct sf_plan *p = &s->plan;
    return (struct sfi_candidate){
        .tp = p->tp,
        .ep = p->ep,
        .pp = p->pp,
        .vpp = p->vpp,
        .micro_batch = p->micro_batch,
        .schedule = (uint32_t)p->schedule,
        .recompute = (uint32_t)p->recompute,
        .zero = p->zero,
        .layer = price->layer_f + price->layer_b,
        .first = price->first_f + price->first_b,
        .last = price->last_f + price->last_b,
    };
}

static void too_large(struct sfi_search *s, const struct sfi_candidate *c) {
    refuse(s, SFI_RULE_MEMORY);
    s->stats->too_large++;
    if (!(s->least.memory_bytes > 0) || c->memory_bytes < s->least.memory_bytes) {
        s->least = *c;
    }
}

static void visit_zero(struct sfi_search *s, const struct sfi_price *price) {
    double memory = (double)sf_seats_memory(s->scenario->topo);
    for (uint32_t i = 0; i < s->space.zero.n; i++) {
        s->plan.zero = s->space.zero.value[i];
        if (s->plan.zero == 1 && s->plan.dp == 1 && s->space.zero.n > 1) {
            continue; /* nothing to shard over: the same plan as zero 0 */
        }
        if (sf_zero_check(s->scenario, &s->plan, NULL) != 0) {
            refuse(s, SFI_RULE_DP);
            continue;
        }
        struct sfi_estimate e = sfi_estimate_plan(&s->base, &s->layout, price, &s->plan);
        struct sfi_candidate c = candidate_of(s, price);
        c.estimate_s = e.step_s;
        c.memory_bytes = e.memory_bytes;
        s->stats->evaluated++;
        if (e.memory_bytes > memory * MEMORY_SLACK) {
            too_large(s, &c);
        } else {
            keep(s, &c);
        }
    }
}

static void visit_vpp(struct sfi_search *s, const struct sfi_price *price) {
    struct sf_plan *p = &s->plan;
    bool interleaved = p->schedule == SF_SCHEDULE_INTERLEAVED;
    bool same_as_1f1b = p->schedule == SF_SCHEDULE_GPIPE && (p->pp == 1 || p->microbatches == 1);
    if (same_as_1f1b && sfi_pin_allows(&s->scenario->pins.schedule, SF_SCHEDULE_1F1B)) {
        return; /* equally fast, and 1f1b keeps less */
    }
    if (interleaved && (p->pp < 2 || p->microbatches % p->pp != 0)) {
        refuse(s, SFI_RULE_SCHEDULE);
        return;
    }
    for (uint32_t i = 0; i < s->space.vpp.n; i++) {
        p->vpp = s->space.vpp.value[i];
        if (sf_schedule_check(p, NULL) != 0 || (uint64_t)p->pp * p->vpp > s->scenario->model.layers ||
            p->pp * p->vpp > SF_MAX_STAGES) {
            refuse(s, SFI_RULE_SCHEDULE);
            continue;
        }
        sfi_plan_layers(p, s->scenario->model.layers, price->layer_f + price->layer_b, price->first_f + price->first_b,
                        price->last_f + price->last_b);
        visit_zero(s, price);
    }
}

/* A microbatch whose residual stream alone exceeds the device needs no miniature to be refused. */
static bool hopeless(const struct sfi_search *s, struct sf_err *why) {
    const struct sf_job *job = &s->scenario->job;
    double memory = (double)sf_seats_memory(s->scenario->topo);
    double bytes = (double)s->plan.micro_batch * job->seq_len_tokens * s->scenario->model.hidden *
                   s->base.weight_bytes / s->plan.tp;
    if (bytes > memory) {
        sf_fail(why, SF_E_NOPLAN, "one layer's input needs %.3f GB but its device has %.3f GB", bytes / 1e9,
                memory / 1e9);
    }
    return bytes > memory;
}

/* Of all miniatures that do not fit, the one that most nearly would explains best. */
static void remember_mini(struct sfi_search *s, const struct sf_err *why) {
    const struct sf_plan *p = &s->plan, *best = &s->least_mini;
    uint64_t share = (uint64_t)p->tp * p->ep, best_share = (uint64_t)best->tp * best->ep;
    bool smaller =
        p->micro_batch < best->micro_batch || (p->micro_batch == best->micro_batch && p->recompute > best->recompute);
    if (share > best_share || (share == best_share && smaller)) {
        s->least_mini = *p;
        s->mini_err = *why;
    }
}

static int find_price(struct sfi_search *s, uint32_t micro_batch_i, const struct sfi_price **out, struct sf_err *err) {
    struct sf_plan *p = &s->plan;
    struct sfi_priced *entry = &s->priced[micro_batch_i * SF_RECOMPUTES_N + (uint32_t)p->recompute];
    struct sf_err why = {0};
    *out = NULL;
    if (entry->state == SFI_PRICE_UNKNOWN) {
        int rc = hopeless(s, &why)
                     ? SF_E_NOPLAN
                     : sfi_price_init(&s->base, p->tp, p->ep, p->micro_batch, p->recompute, &entry->price, &why);
        if (rc != 0 && rc != SF_E_NOPLAN) {
            return sf_fail(err, rc, "pricing tp %u, ep %u, micro_batch %u: %s", p->tp, p->ep, p->micro_batch, why.msg);
        }
        if (rc == SF_E_NOPLAN) {
            remember_mini(s, &why);
        }
        entry->state = rc == 0 ? SFI_PRICE_KNOWN : SFI_PRICE_TOO_LARGE;
    }
    if (entry->state == SFI_PRICE_KNOWN) {
        *out = &entry->price;
    } else {
        refuse(s, SFI_RULE_MEMORY);
        s->stats->too_large++;
    }
    return 0;
}

static int visit_recompute(struct sfi_search *s, uint32_t micro_batch_i, struct sf_err *err) {
    for (uint32_t i = 0; i < s->space.recompute.n; i++) {
        const struct sfi_price *price;
        s->plan.recompute = (int)s->space.recompute.value[i];
        SF_TRY(find_price(s, micro_batch_i, &price, err));
        for (uint32_t k = 0; price != NULL && k < s->space.schedule.n; k++) {
            s->plan.schedule = (int)s->space.schedule.value[k];
            s->plan.table = s->plan.schedule == SF_SCHEDULE_TABLE ? s->scenario->pins.table : NULL;
            visit_vpp(s, price);
        }
    }
    return 0;
}

static int visit_micro_batch(struct sfi_search *s, struct sf_err *err) {
    const struct sf_job *job = &s->scenario->job;
    uint64_t per_rank = job->global_batch_sequences / s->plan.dp;
    if (job->global_batch_sequences % s->plan.dp != 0) {
        refuse(s, SFI_RULE_BATCH);
        return 0;
    }
    for (uint32_t i = 0; i < s->space.micro_batch.n; i++) {
        uint32_t micro_batch = s->space.micro_batch.value[i];
        uint64_t microbatches = per_rank / micro_batch;
        if (per_rank % micro_batch != 0 || microbatches > UINT16_MAX ||
            (uint64_t)micro_batch * job->seq_len_tokens % s->plan.tp != 0) {
            refuse(s, SFI_RULE_BATCH);
            continue;
        }
        s->plan.micro_batch = micro_batch;
        s->plan.microbatches = (uint32_t)microbatches;
        SF_TRY(visit_recompute(s, i, err));
    }
    return 0;
}

static int visit_pp(struct sfi_search *s, struct sf_err *err) {
    uint32_t gpus = s->scenario->job.gpus;
    struct sf_plan *p = &s->plan;
    for (uint32_t i = 0; i < s->space.pp.n && !s->stats->stopped; i++) {
        p->pp = s->space.pp.value[i];
        if ((uint64_t)p->tp * p->pp > gpus || gpus % (p->tp * p->pp) != 0 || p->pp > s->scenario->model.layers) {
            refuse(s, SFI_RULE_PP);
            continue;
        }
        p->dp = gpus / p->tp / p->pp;
        if (p->dp % p->ep != 0 || !sfi_pin_allows(&s->scenario->pins.dp, p->dp) ||
            (s->scenario->job.canonical && !is_power_of_two(p->dp))) {
            refuse(s, SFI_RULE_DP);
            continue;
        }
        sfi_layout_init(&s->base, p->tp, p->ep, p->pp, &s->layout);
        if (s->layout.ranks_per_domain == 0) {
            refuse(s, SFI_RULE_SEATS);
            continue;
        }
        p->ranks_per_domain = s->layout.ranks_per_domain;
        SF_TRY(visit_micro_batch(s, err));
        s->stats->stopped = s->options->stop != NULL && s->options->stop(s->options->self);
    }
    return 0;
}

static int visit_ep(struct sfi_search *s, struct sf_err *err) {
    uint32_t experts = s->scenario->model.experts;
    size_t priced_n = (size_t)s->space.micro_batch.n * SF_RECOMPUTES_N;
    for (uint32_t i = 0; i < s->space.ep.n && !s->stats->stopped; i++) {
        s->plan.ep = s->space.ep.value[i];
        if (experts == 0 ? s->plan.ep != 1 : experts % s->plan.ep != 0) {
            refuse(s, SFI_RULE_EP);
            continue;
        }
        memset(s->priced, 0, priced_n * sizeof *s->priced);
        SF_TRY(visit_pp(s, err));
    }
    return 0;
}

int sfi_search_visit(struct sfi_search *s, struct sf_err *err) {
    const struct sf_model *m = &s->scenario->model;
    s->plan.canonical = s->scenario->job.canonical;
    for (uint32_t i = 0; i < s->space.tp.n && !s->stats->stopped; i++) {
        uint32_t tp = s->plan.tp = s->space.tp.value[i];
        if (m->heads % tp != 0 || m->kv_heads % tp != 0 || m->ffn % tp != 0 || m->vocab % tp != 0) {
            refuse(s, SFI_RULE_TP);
            continue;
        }
        SF_TRY(visit_ep(s, err));
    }
    return 0;
}
