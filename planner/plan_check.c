/* What a plan must satisfy before anything is compiled. Every refusal names the field, the rule and the numbers. */
#include "core/arena.h"
#include "planner/compile_internal.h"
#include "planner/schedule.h"
#include "sim/seats.h"

static int check_degrees(const struct sf_plan *p, struct sf_err *err) {
    const struct {
        const char *name;
        uint32_t value, limit;
    } fields[] = {
        {"tp", p->tp, SF_MAX_RANKS},
        {"ep", p->ep, SF_MAX_RANKS},
        {"cp", sf_plan_cp(p), SF_MAX_STAGES},
        {"dp", p->dp, SF_MAX_RANKS},
        {"pp", p->pp, SF_MAX_STAGES},
        {"vpp", p->vpp, SF_MAX_STAGES},
        {"micro_batch", p->micro_batch, 1u << 20},
        {"microbatches", p->microbatches, UINT16_MAX},
        {"ranks_per_domain", p->ranks_per_domain, SF_MAX_RANKS},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].value == 0 || fields[i].value > fields[i].limit) {
            return sf_fail(err, SF_E_INPUT, "plan: %s must be from 1 to %u, found %u", fields[i].name, fields[i].limit,
                           fields[i].value);
        }
    }
    if (p->recompute < 0 || p->recompute >= SF_RECOMPUTES_N) {
        return sf_fail(err, SF_E_INPUT, "plan: recompute %d is unknown", p->recompute);
    }
    if (p->zero > 3) {
        return sf_fail(err, SF_E_INPUT, "plan: zero must be from 0 to 3, found %u", p->zero);
    }
    return 0;
}

static int check_mesh(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint64_t ranks;
    uint32_t cp = sf_plan_cp(p);
    if (__builtin_mul_overflow((uint64_t)p->tp * p->dp, (uint64_t)p->pp, &ranks) ||
        __builtin_mul_overflow(ranks, (uint64_t)cp, &ranks) || ranks != s->job.gpus) {
        return sf_fail(err, SF_E_INPUT, "plan: tp * dp * pp%s must equal the job's %u GPUs, found %u * %u * %u%s%.0u",
                       cp > 1 ? " * cp" : "", s->job.gpus, p->tp, p->dp, p->pp, cp > 1 ? " * " : "", cp > 1 ? cp : 0);
    }
    if (ranks > SF_MAX_RANKS) {
        return sf_fail(err, SF_E_INPUT, "plan: at most %u ranks are supported, found %llu", SF_MAX_RANKS,
                       (unsigned long long)ranks);
    }
    if (cp * (uint64_t)p->dp % p->ep != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: ep must divide %sdp, found %u and %llu", cp > 1 ? "cp * " : "", p->ep,
                       cp * (unsigned long long)p->dp);
    }
    if (p->ep % cp != 0 && cp % p->ep != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: of ep and cp, one must divide the other, found %u and %u", p->ep, cp);
    }
    if (s->model.experts == 0 && p->ep != 1) {
        return sf_fail(err, SF_E_INPUT, "plan: ep must be 1 for a model without experts, found %u", p->ep);
    }
    if (s->model.experts != 0 && s->model.experts % p->ep != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: ep must divide the model's %u experts, found %u", s->model.experts,
                       p->ep);
    }
    return 0;
}

static int check_tp(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    const struct {
        const char *name;
        uint64_t value;
    } rules[] = {
        {"attention heads", s->model.heads},
        {"key-value heads", s->model.kv_heads},
        {"feed-forward width", s->model.ffn},
        {"vocabulary", s->model.vocab},
        {"tokens of a microbatch", (uint64_t)p->micro_batch * s->job.seq_len_tokens / sf_plan_cp(p)},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].value % p->tp != 0) {
            return sf_fail(err, SF_E_INPUT, "plan: tp must divide the %s: %llu is no multiple of %u", rules[i].name,
                           (unsigned long long)rules[i].value, p->tp);
        }
    }
    return 0;
}

static int check_layers(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint64_t stages = (uint64_t)p->pp * p->vpp, sum = 0;
    if (stages > SF_MAX_STAGES || stages > s->model.layers) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: pp * vpp = %llu virtual stages for %u layers; at most one per layer and %d in all",
                       (unsigned long long)stages, s->model.layers, SF_MAX_STAGES);
    }
    for (uint32_t i = 0; i < stages; i++) {
        if (p->layers[i] == 0) {
            return sf_fail(err, SF_E_INPUT, "plan: layers[%u] is 0; every virtual stage needs a layer", i);
        }
        sum += p->layers[i];
    }
    if (sum != s->model.layers) {
        return sf_fail(err, SF_E_INPUT, "plan: layers must add up to the model's %u, found %llu", s->model.layers,
                       (unsigned long long)sum);
    }
    return 0;
}

static int check_batch(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint64_t per_microbatch = (uint64_t)p->dp * p->micro_batch, batch;
    if (__builtin_mul_overflow(per_microbatch, (uint64_t)p->microbatches, &batch) ||
        batch != s->job.global_batch_sequences) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: dp * micro_batch * microbatches must equal the job's global batch of %llu sequences, "
                       "found %u * %u * %u",
                       (unsigned long long)s->job.global_batch_sequences, p->dp, p->micro_batch, p->microbatches);
    }
    return 0;
}

static int check_canonical(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (p->canonical != s->job.canonical) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical must be what the job says (%s), found %s",
                       s->job.canonical ? "true" : "false", p->canonical ? "true" : "false");
    }
    if (!p->canonical) {
        return 0;
    }
    if (s->job.precision != SF_F32) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical sums need precision f32, found %s",
                       sf_dtype_name(s->job.precision));
    }
    if ((p->dp & (p->dp - 1)) != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical sums need dp to be a power of two, found %u", p->dp);
    }
    return 0;
}

/* Two chunks of every sequence per rank, one from either end: causal attention then costs all the same. */
static int check_cp(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint32_t cp = sf_plan_cp(p);
    if (cp == 1) {
        return 0;
    }
    if (s->job.seq_len_tokens % (2 * (uint64_t)cp) != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: 2 * cp must divide the sequence: %u tokens are no multiple of 2 * %u",
                       s->job.seq_len_tokens, cp);
    }
    if (s->job.precision == SF_F32) {
        return sf_fail(err, SF_E_INPUT, "plan: cp %u needs precision bf16 or lower, found f32", cp);
    }
    return 0;
}

static int check_rows(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (p->whole_rows && s->model.experts > 0 && p->tp > 1) {
        return sf_fail(err, SF_E_INPUT, "plan: whole_rows is for models without experts, or tp 1; found tp %u", p->tp);
    }
    return 0;
}

/* Not on the seats in use alone: perhaps with spare ones. */
static int check_spares(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint32_t *gpu = sf_calloc(s->job.gpus, sizeof *gpu);
    if (gpu == NULL) {
        return sf_fail_memory(err, "seats");
    }
    int rc = sf_seats_fill(s->topo, s->job.gpus, p->ranks_per_domain, gpu, NULL, err);
    sf_free(gpu);
    return rc == 0 ? 0 : sf_err_wrap(err, "plan: ranks_per_domain %u", p->ranks_per_domain);
}

/* Tensor-parallel groups talk in every layer: they stay inside a scale-up domain. */
static int check_placement(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint32_t domain = sf_topo_domain_gpus(s->topo);
    if (p->ranks_per_domain > domain) {
        return sf_fail(err, SF_E_INPUT, "plan: ranks_per_domain is at most the %u GPUs of a domain, found %u", domain,
                       p->ranks_per_domain);
    }
    if (p->ranks_per_domain % p->tp != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: tp must divide ranks_per_domain, found %u and %u", p->tp,
                       p->ranks_per_domain);
    }
    return sf_seats_fit(s->topo, s->job.gpus, p->ranks_per_domain) ? 0 : check_spares(s, p, err);
}

#define MAX_SHARED_PASSES 8192 /* placing their buffers is quadratic */

/* Shared gradients are added on their shares, in the order in which they are made. */
int sf_zero_check(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (p->zero < 2) {
        return 0;
    }
    if (p->canonical) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical sums need zero 0 or 1, found %u", p->zero);
    }
    if (sf_schedule_copies(p) > 1) {
        return sf_fail(err, SF_E_INPUT, "plan: zero %u needs a schedule with one copy of the model, found %s", p->zero,
                       sf_schedule_name(p->schedule));
    }
    uint64_t sharers = (uint64_t)p->dp * sf_plan_cp(p);
    if (sharers == 1 || (s->model.experts > 0 && sharers == p->ep)) {
        return sf_fail(err, SF_E_INPUT, "plan: zero %u has nobody to share %s with: dp %u, ep %u; use zero 1", p->zero,
                       sharers == 1 ? "gradients" : "the experts' gradients", p->dp, p->ep);
    }
    uint64_t passes = (uint64_t)sfi_units_of(p) * p->vpp * p->microbatches;
    if (passes > MAX_SHARED_PASSES) {
        return sf_fail(
            err, SF_E_INPUT,
            "plan: zero %u makes a buffer for every unit of layers and microbatch of a rank: %llu, at most %d; "
            "use zero 1, more stages or larger microbatches",
            p->zero, (unsigned long long)passes, MAX_SHARED_PASSES);
    }
    if (p->zero == 3 && s->job.precision == SF_F32) {
        return sf_fail(err, SF_E_INPUT, "plan: zero 3 needs precision bf16 or lower, found f32; use zero 2");
    }
    return 0;
}

int sf_plan_check(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_err *err) {
    SF_TRY(check_degrees(plan, err));
    SF_TRY(check_mesh(s, plan, err));
    SF_TRY(check_tp(s, plan, err));
    SF_TRY(check_layers(s, plan, err));
    SF_TRY(check_batch(s, plan, err));
    SF_TRY(sf_schedule_check(plan, err));
    SF_TRY(check_canonical(s, plan, err));
    SF_TRY(sf_zero_check(s, plan, err));
    SF_TRY(check_cp(s, plan, err));
    SF_TRY(check_rows(s, plan, err));
    return check_placement(s, plan, err);
}
