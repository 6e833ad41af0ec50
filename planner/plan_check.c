/* What a plan must satisfy before anything is compiled. Every refusal names the field, the rule and the numbers. */
#include "planner/compile.h"

static int check_degrees(const struct sf_plan *p, struct sf_err *err) {
    const struct {
        const char *name;
        uint32_t value, limit;
    } fields[] = {
        {"tp", p->tp, SF_MAX_RANKS},
        {"ep", p->ep, SF_MAX_RANKS},
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
    if (p->schedule < 0 || p->schedule >= SF_SCHEDULES_N || p->recompute < 0 || p->recompute >= SF_RECOMPUTES_N) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %d or recompute %d is unknown", p->schedule, p->recompute);
    }
    if (p->zero > 1) {
        return sf_fail(err, SF_E_INPUT, "plan: zero must be 0 or 1, found %u", p->zero);
    }
    return 0;
}

static int check_mesh(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint64_t ranks;
    if (__builtin_mul_overflow((uint64_t)p->tp * p->dp, (uint64_t)p->pp, &ranks) || ranks != s->job.gpus) {
        return sf_fail(err, SF_E_INPUT, "plan: tp * dp * pp must equal the job's %u GPUs, found %u * %u * %u",
                       s->job.gpus, p->tp, p->dp, p->pp);
    }
    if (ranks > SF_MAX_RANKS) {
        return sf_fail(err, SF_E_INPUT, "plan: at most %u ranks are supported, found %llu", SF_MAX_RANKS,
                       (unsigned long long)ranks);
    }
    if (p->dp % p->ep != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: ep must divide dp, found %u and %u", p->ep, p->dp);
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
        {"tokens of a microbatch", (uint64_t)p->micro_batch * s->job.seq_len_tokens},
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

static int check_schedule(const struct sf_plan *p, struct sf_err *err) {
    if (p->schedule != SF_SCHEDULE_INTERLEAVED && p->vpp != 1) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule %s needs vpp 1, found %u; use interleaved",
                       sf_schedule_name(p->schedule), p->vpp);
    }
    if (p->schedule != SF_SCHEDULE_INTERLEAVED) {
        return 0;
    }
    if (p->vpp < 2 || p->pp < 2) {
        return sf_fail(err, SF_E_INPUT, "plan: schedule interleaved needs vpp and pp of at least 2, found %u and %u",
                       p->vpp, p->pp);
    }
    if (p->microbatches % p->pp != 0) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: schedule interleaved needs microbatches to be a multiple of pp, found %u and %u",
                       p->microbatches, p->pp);
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

static int check_rows(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (p->whole_rows && s->model.experts > 0 && p->tp > 1) {
        return sf_fail(err, SF_E_INPUT, "plan: whole_rows is for models without experts, or tp 1; found tp %u", p->tp);
    }
    return 0;
}

/* Tensor-parallel groups talk in every layer: they stay inside a scale-up domain. */
static int check_placement(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint32_t domain = sf_topo_domain_gpus(s->topo), seats = sf_topo_gpus(s->topo);
    if (p->ranks_per_domain > domain) {
        return sf_fail(err, SF_E_INPUT, "plan: ranks_per_domain is at most the %u GPUs of a domain, found %u", domain,
                       p->ranks_per_domain);
    }
    if (p->ranks_per_domain % p->tp != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: tp must divide ranks_per_domain, found %u and %u", p->tp,
                       p->ranks_per_domain);
    }
    uint32_t last = s->job.gpus - 1;
    uint64_t seat = (uint64_t)(last / p->ranks_per_domain) * domain + last % p->ranks_per_domain;
    if (seat >= seats) {
        return sf_fail(err, SF_E_INPUT, "plan: %u ranks, %u to a domain of %u, need %llu seats; the cluster has %u",
                       s->job.gpus, p->ranks_per_domain, domain, (unsigned long long)seat + 1, seats);
    }
    return 0;
}

int sf_plan_check(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_err *err) {
    SF_TRY(check_degrees(plan, err));
    SF_TRY(check_mesh(s, plan, err));
    SF_TRY(check_tp(s, plan, err));
    SF_TRY(check_layers(s, plan, err));
    SF_TRY(check_batch(s, plan, err));
    SF_TRY(check_schedule(plan, err));
    SF_TRY(check_canonical(s, plan, err));
    SF_TRY(check_rows(s, plan, err));
    return check_placement(s, plan, err);
}
