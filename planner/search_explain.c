/* Why a search has found nothing: the last rule that anything reached, and what was not looked at. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/units.h"
#include "planner/search_internal.h"

#define FACTORS_TEXT 160

void sfi_explain_more(struct sf_err *err, const char *fmt, ...) {
    size_t used = err != NULL ? strlen(err->msg) : 0;
    va_list ap;
    va_start(ap, fmt);
    if (err != NULL) {
        vsnprintf(err->msg + used, sizeof err->msg - used, fmt, ap);
    }
    va_end(ap);
}

/* "2^2 x 5^4 x 11" */
static const char *factors_of(uint64_t n, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (uint64_t f = 2; n > 1 && used<size; f = f * f> n ? n : f + 1) {
        unsigned power = 0;
        for (; n % f == 0; n /= f) {
            power++;
        }
        if (power > 0) {
            used += (size_t)snprintf(out + used, size - used, "%s%llu", used > 0 ? " x " : "", (unsigned long long)f);
        }
        if (power > 1 && used < size) {
            used += (size_t)snprintf(out + used, size - used, "^%u", power);
        }
    }
    return out;
}

static void say_batch(const struct sfi_search *s, struct sf_err *err) {
    const struct sf_job *job = &s->scenario->job;
    unsigned long long batch = job->global_batch_sequences;
    char of_gpus[FACTORS_TEXT], of_batch[FACTORS_TEXT];
    sfi_explain_more(err, "; dp is what tp * cp * pp leave of %u GPUs (%s), the batch is %llu (%s)", job->gpus,
                     factors_of(job->gpus, of_gpus, sizeof of_gpus), batch,
                     factors_of(batch, of_batch, sizeof of_batch));
    if (!job->fewer && !s->options->no_advice) {
        sfi_explain_more(err, "; --fewer searches smaller numbers of GPUs, too");
    }
}

/* Limits are no reason that memory could be blamed for. */
static void say_limits(const struct sfi_search *s, struct sf_err *err) {
    if (s->refused[SFI_RULE_LONG] > 0) {
        sfi_explain_more(err, "; smaller values of micro_batch are left out where a rank would have more than 65,535 "
                              "microbatches in a step");
    }
    if (s->refused[SFI_RULE_MINI] > 0 && s->mini_err.code != SF_E_INPUT) {
        sfi_explain_more(err, "; other degrees make no program: %.200s", s->program_err.msg);
    }
}

static void say_passed_over(const struct sfi_search *s, struct sf_err *err) {
    for (size_t i = 0; i < s->groups_n; i++) {
        const struct sfi_group *g = &s->groups[i];
        if (!g->looked) {
            sfi_explain_more(err,
                             "; %llu more kinds of plans were not looked at, for the effort of a search had run out, "
                             "first of them tp %u, cp %u, ep %u, pp %u, vpp %u, micro_batch %u, %s: pins narrow it",
                             (unsigned long long)s->stats->passed_over, g->tp, g->cp, g->ep, g->pp, g->vpp,
                             g->micro_batch, sf_schedule_name(g->schedule));
            return;
        }
    }
}

/* Not one table was priced. */
static int explain_degrees(const struct sfi_search *s, struct sf_err *err) {
    const struct sf_plan *p = &s->least_mini;
    return sf_fail(err, SF_E_NOPLAN,
                   "no plan fits: not even two layers %s with tp %u, cp %u, ep %u, micro_batch %u, recompute %s: %s",
                   s->mini_err.code == SF_E_INPUT ? "make a program" : "fit a device", p->tp, p->cp, p->ep,
                   p->micro_batch, sf_recompute_name(p->recompute), s->mini_err.msg);
}

static int explain_memory(const struct sfi_search *s, struct sf_err *err) {
    char need[32], have[32], over[32];
    const struct sfi_candidate *c = &s->least;
    const struct sfi_group *g = &c->group;
    double device = sfi_device_bytes(s);
    sf_format_bytes((uint64_t)c->memory_bytes, need, sizeof need);
    sf_format_bytes((uint64_t)device, have, sizeof have);
    sf_format_bytes((uint64_t)(c->memory_bytes > device ? c->memory_bytes - device : 0), over, sizeof over);
    sf_fail(err, SF_E_NOPLAN,
            "no plan fits: all %llu plans that %s need more memory than the device's %s; the "
            "nearest (tp %u, cp %u, ep %u, pp %u, vpp %u, micro_batch %u, %s, recompute %s, zero %u) needs %s: %s over",
            (unsigned long long)s->refused[SFI_RULE_MEMORY],
            s->stats->passed_over > 0 ? "were looked at" : "the rules allow", have, g->tp, g->cp, g->ep, g->pp, g->vpp,
            g->micro_batch, sf_schedule_name(g->schedule), sf_recompute_name(g->recompute), c->zero, need, over);
    return SF_E_NOPLAN;
}

static int explain_rule(const struct sfi_search *s, int last, struct sf_err *err) {
    static const char *const rules[] = {
#define X(NAME, text) text,
        SFI_RULES(X)
#undef X
    };
    sf_fail(err, SF_E_NOPLAN,
            "no plan fits %u GPUs and a batch of %llu sequences: every combination fails a rule, %llu of them at last "
            "this one: %s",
            s->scenario->job.gpus, (unsigned long long)s->scenario->job.global_batch_sequences,
            (unsigned long long)s->refused[last], rules[last]);
    if (last == SFI_RULE_BATCH) {
        say_batch(s, err);
    }
    return SF_E_NOPLAN;
}

int sfi_search_explain(const struct sfi_search *s, struct sf_err *err) {
    int last = SFI_RULES_N - 1;
    while (last > 0 && s->refused[last] == 0) {
        last--;
    }
    if (last == SFI_RULE_PROGRAM) {
        sf_fail(err, SF_E_NOPLAN, "no plan fits: no program passed its check; the first: %s", s->program_err.msg);
    } else if (last == SFI_RULE_MEMORY && s->least.memory_bytes > 0) {
        explain_memory(s, err);
    } else if (last == SFI_RULE_MEMORY || last == SFI_RULE_MINI) {
        explain_degrees(s, err);
    } else if (s->stats->passed_over > 0) {
        sf_fail(err, SF_E_NOPLAN, "no plan was found");
    } else {
        explain_rule(s, last, err);
    }
    if (last == SFI_RULE_MEMORY || last == SFI_RULE_MINI) {
        say_limits(s, err);
    }
    say_passed_over(s, err);
    return SF_E_NOPLAN;
}
