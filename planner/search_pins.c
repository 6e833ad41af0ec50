/* Which pins leave no plan, and by how much: every pin alone, then the first pair of those that could be met alone.
 * What arithmetic shows is said in its numbers; for the rest the search itself is asked, with the other pins taken out.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "planner/search_internal.h"

enum pinned {
    TP,
    CP,
    EP,
    PP,
    DP,
    VPP,
    MICRO_BATCH,
    SCHEDULE,
    RECOMPUTE,
    ZERO,
    ORDER,
    ETP,
    CP_EXCHANGE,
    WHOLE_ROWS,
    SPLIT_HEAD,
    SLICES,
    ZERO_GROUP,
    COLLECTIVES,
    PINS,
    LAYOUT = PINS,
    OFFLOAD,
    RECOMPUTE_LAYERS,
    ALL
};

static const char *const names[ALL] = {
    "tp",         "cp",        "ep",         "pp",          "dp",     "vpp",         "micro_batch",
    "schedule",   "recompute", "zero",       "order",       "etp",    "cp_exchange", "whole_rows",
    "split_head", "slices",    "zero_group", "collectives", "layout", "offload",     "recompute_layers"};

static struct sf_pin *pin_of(struct sf_pins *p, int which) {
    struct sf_pin *const pins[PINS] = {&p->tp,     &p->cp,          &p->ep,          &p->pp,         &p->dp,
                                       &p->vpp,    &p->micro_batch, &p->schedule,    &p->recompute,  &p->zero,
                                       &p->order,  &p->etp,         &p->cp_exchange, &p->whole_rows, &p->split_head,
                                       &p->slices, &p->zero_group,  &p->collectives};
    return pins[which];
}

static bool is_pinned(struct sf_pins *p, int which) {
    return which == LAYOUT             ? p->layout.stages > 0
           : which == OFFLOAD          ? p->offload > 0
           : which == RECOMPUTE_LAYERS ? p->recompute_layers > 0
                                       : pin_of(p, which)->n > 0;
}

static void release(struct sf_pins *p, int which) {
    if (which == LAYOUT) {
        p->layout.stages = 0;
    } else if (which == OFFLOAD) {
        p->offload = 0;
    } else if (which == RECOMPUTE_LAYERS) {
        p->recompute_layers = 0;
    } else {
        pin_of(p, which)->n = 0;
    }
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

struct why {
    char text[320];
};

static bool say(struct why *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool say(struct why *why, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why->text, sizeof why->text, fmt, ap);
    va_end(ap);
    return true;
}

static bool leaves(struct why *why, const char *what, uint64_t total, uint64_t by) {
    if (total == 0 || total % by == 0) {
        return false;
    }
    if (by > total) {
        return say(why, "%llu is %llu over the %llu %s", (unsigned long long)by, (unsigned long long)(by - total),
                   (unsigned long long)total, what);
    }
    return say(why, "%llu %s leave %llu over when divided by %llu", (unsigned long long)total, what,
               (unsigned long long)(total % by), (unsigned long long)by);
}

static bool over(struct why *why, const char *what, uint64_t value, uint64_t most) {
    return value > most && say(why, "%llu is %llu over the %llu %s", (unsigned long long)value,
                               (unsigned long long)(value - most), (unsigned long long)most, what);
}

static bool tp_fails(const struct sf_scenario *s, uint32_t v, struct why *why) {
    const struct sf_model *m = &s->model;
    return over(why, "GPUs of a scale-up domain, which tp never leaves", v, sf_topo_domain_gpus(s->topo)) ||
           leaves(why, "GPUs", s->job.gpus, v) || leaves(why, "attention heads", m->heads, v) ||
           leaves(why, "key-value heads", m->kv_heads, v) || leaves(why, "columns of the feed-forward", m->ffn, v) ||
           leaves(why, "words", sf_model_rows(m), v);
}

static bool value_fails(const struct sf_scenario *s, int which, uint32_t v, struct why *why) {
    uint64_t batch = s->job.global_batch_sequences;
    switch (which) {
    case TP:
        return tp_fails(s, v, why);
    case CP:
        return leaves(why, "GPUs", s->job.gpus, v) ||
               (v > 1 && leaves(why, "tokens of a sequence", s->job.seq_len_tokens, 2 * (uint64_t)v)) ||
               (v > 1 && s->job.precision == SF_F32 && say(why, "cp above 1 needs precision bf16 or lower, found f32"));
    case EP:
        return s->model.experts == 0 ? v > 1 && say(why, "the model has no experts")
                                     : leaves(why, "experts", s->model.experts, v);
    case PP:
        return leaves(why, "GPUs", s->job.gpus, v) || over(why, "layers", v, s->model.layers);
    case DP:
        return leaves(why, "GPUs", s->job.gpus, v) || leaves(why, "sequences of a step", batch, v);
    case VPP:
        return over(why, "layers", v, s->model.layers);
    case MICRO_BATCH:
        return leaves(why, "sequences of a step", batch, v);
    default:
        return false;
    }
}

static bool shares_gpus(int which) {
    return which == TP || which == CP || which == PP || which == DP;
}

static bool pair_fails(const struct sf_scenario *s, int a, int b, const uint32_t v[2], struct why *why) {
    uint64_t both = (uint64_t)v[0] * v[1];
    if (shares_gpus(a) && shares_gpus(b)) {
        return leaves(why, "GPUs", s->job.gpus, both);
    }
    if (a == PP && b == VPP) {
        return over(why, "layers", both, s->model.layers);
    }
    if (a == DP && b == MICRO_BATCH) {
        return leaves(why, "sequences of a step", s->job.global_batch_sequences, both);
    }
    if (a == CP && b == EP) {
        return v[0] % v[1] != 0 && v[1] % v[0] != 0 &&
               say(why, "of cp %u and ep %u one must divide the other", v[0], v[1]);
    }
    return false;
}

/* Every value, or pair of values, fails; why the first does. a == b: one pin. */
static bool arithmetic_fails(const struct sf_scenario *s, struct sf_pins *pins, int a, int b, struct why *why) {
    if (a >= PINS || b >= PINS) {
        return false;
    }
    const struct sf_pin *x = pin_of(pins, a), *y = pin_of(pins, b);
    for (uint32_t i = x->n; i-- > 0;) {
        for (uint32_t k = a == b ? 1 : y->n; k-- > 0;) {
            const uint32_t v[2] = {x->value[i], y->value[k]};
            if (!(a == b ? value_fails(s, a, v[0], why) : pair_fails(s, a, b, v, why))) {
                return false;
            }
        }
    }
    return true;
}

/* ---- the search itself ------------------------------------------------------------------------------------------- */

struct asked {
    struct sf_search_stats stats;
    struct sf_search_options with;
    const struct sf_search_options *outer;
};

static bool one_is_enough(void *self) {
    const struct asked *a = self;
    return a->stats.simulated > 0 || (a->outer->stop != NULL && a->outer->stop(a->outer->self));
}

static bool is_stopped(const struct sfi_search *s) {
    return s->options->stop != NULL && s->options->stop(s->options->self);
}

/* The rule alone. */
static const char *gist(const char *text) {
    static const char *const before[] = {"at last this one: ", "no plan fits: "};
    for (size_t i = 0; i < sizeof before / sizeof *before; i++) {
        const char *at = strstr(text, before[i]);
        if (at != NULL) {
            return at + strlen(before[i]);
        }
    }
    return text;
}

/* Sets *fails; other errors than that there is no plan are returned. */
static int ask(const struct sfi_search *s, int a, int b, bool *fails, struct why *why, struct sf_err *err) {
    struct asked *asked = sf_calloc(1, sizeof *asked);
    struct sf_plan_result *result = sf_calloc(1, sizeof *result);
    struct sf_scenario *one = sf_calloc(1, sizeof *one);
    struct sf_err said = {0};
    uint32_t n = 0;
    int rc = asked != NULL && result != NULL && one != NULL ? 0 : sf_fail_memory(err, "a look at the pins");
    if (rc == 0) {
        asked->outer = s->options;
        asked->with = (struct sf_search_options){
            .top = 1, .simulate = 1, .no_advice = true, .stop = one_is_enough, .self = asked};
        *one = *s->scenario;
        for (int i = 0; i < ALL; i++) {
            if (i != a && i != b) {
                release(&one->pins, i);
            }
        }
        rc = sf_search(one, s->base.cost, &asked->with, result, &n, &asked->stats, &said);
        *fails = rc == SF_E_NOPLAN;
        say(why, "%.310s", gist(said.msg));
        rc = rc == SF_E_NOPLAN || rc == SF_E_INTERRUPTED ? 0 : rc;
        if (rc != 0 && err != NULL) {
            *err = said;
        }
        sf_plan_results_clear(result, n);
    }
    sf_free(one);
    sf_free(result);
    sf_free(asked);
    return rc;
}

/* ---- advice ------------------------------------------------------------------------------------------------------ */

/* As scenarios write it; NULL: a number. */
static const char *word_of(int which, int v) {
    switch (which) {
    case SCHEDULE:
        return sf_schedule_name(v);
    case RECOMPUTE:
        return sf_recompute_name(v);
    case ORDER:
        return sf_order_name(v);
    case CP_EXCHANGE:
        return v ? "gather" : "ring";
    case COLLECTIVES:
        return v ? "tuned" : "nccl";
    case WHOLE_ROWS:
    case SPLIT_HEAD:
        return v ? "true" : "false";
    default:
        return NULL;
    }
}

static void name_pin(struct sf_pins *pins, int which, char *out, size_t size) {
    if (which >= PINS) {
        snprintf(out, size, "%s", names[which]);
        return;
    }
    const struct sf_pin *p = pin_of(pins, which);
    size_t used = (size_t)snprintf(out, size, "%s", names[which]);
    for (uint32_t i = 0; i < p->n && used < size; i++) {
        int v = (int)p->value[i];
        const char *word = word_of(which, v);
        int n =
            word != NULL ? snprintf(out + used, size - used, " %s", word) : snprintf(out + used, size - used, " %d", v);
        used += n > 0 ? (size_t)n : 0;
    }
}

static void advise(struct sf_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void advise(struct sf_err *err, const char *fmt, ...) {
    size_t used = err != NULL ? strlen(err->msg) : 0;
    va_list ap;
    va_start(ap, fmt);
    if (err != NULL) {
        vsnprintf(err->msg + used, sizeof err->msg - used, fmt, ap);
    }
    va_end(ap);
}

/* `Where it is the `only` pin there is, the search has just said what it would say again. */
static int try_pins(struct sfi_search *s, struct sf_pins *pins, int a, int b, bool only, bool *fails,
                    struct sf_err *err) {
    struct why why = {""};
    char x[64], y[64];
    *fails = arithmetic_fails(s->scenario, pins, a, b, &why);
    SF_TRY(*fails || only ? 0 : ask(s, a, b, fails, &why, err));
    if (!*fails && is_stopped(s)) { /* what was asked has no answer */
        return SF_E_INTERRUPTED;
    }
    if (*fails) {
        name_pin(pins, a, x, sizeof x);
        name_pin(pins, b, y, sizeof y);
        advise(err, "; pinned %s%s%s %s fails: %s", x, a == b ? "" : " with ", a == b ? "" : y,
               a == b ? "alone" : "(each alone can be met)", why.text);
    }
    return 0;
}

/* All four degrees that make up the GPUs have one value each, and make another number. */
static bool degrees_fail(const struct sf_scenario *s, struct sf_pins *pins, struct why *why) {
    const struct sf_pin *all[] = {&pins->tp, &pins->cp, &pins->pp, &pins->dp};
    uint64_t ranks = 1;
    bool given = true;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        given = given && all[i]->n == 1;
        ranks *= all[i]->n == 1 && ranks < SF_MAX_RANKS ? all[i]->value[0] : 1;
    }
    return leaves(why, "GPUs", s->job.gpus, ranks) ||
           (given && ranks != s->job.gpus &&
            say(why, "tp * cp * pp * dp is %llu, of %u GPUs", (unsigned long long)ranks, s->job.gpus));
}

/* Of two pins, the search has just said what it would say again. */
static int try_pairs(struct sfi_search *s, struct sf_pins *pins, const int *of, int n, struct sf_err *err) {
    struct why why;
    for (int i = 0; i < n; i++) {
        for (int k = i + 1; k < n; k++) {
            bool fails;
            SF_TRY(try_pins(s, pins, of[i], of[k], n == 2, &fails, err));
            if (fails) {
                return 0;
            }
        }
    }
    if (n > 2) {
        bool known = degrees_fail(s->scenario, pins, &why);
        advise(err, "; every two of the pins can be met, all %d together cannot%s%s", n, known ? ": " : "",
               known ? why.text : "");
    }
    return 0;
}

/* Keeps the code of `err` and adds to what it says. */
int sfi_search_pins(struct sfi_search *s, struct sf_err *err) {
    struct sf_pins *pins = sf_malloc(sizeof *pins);
    int of[ALL], n = 0, failed = 0, rc = pins == NULL ? SF_E_INTERNAL : 0;
    if (rc == 0) {
        *pins = s->scenario->pins;
    }
    for (int i = 0; i < ALL && rc == 0; i++) {
        of[n] = i;
        n += is_pinned(pins, i) ? 1 : 0;
    }
    for (int i = 0; i < n && rc == 0; i++) {
        bool fails;
        rc = try_pins(s, pins, of[i], of[i], n == 1, &fails, err);
        failed += fails;
    }
    if (rc == 0 && failed == 0 && n >= 2) {
        rc = try_pairs(s, pins, of, n, err);
    }
    sf_free(pins);
    if (rc == SF_E_INTERRUPTED) {
        advise(err, "; interrupted while working out which of the pins do not fit");
        if (err != NULL) {
            err->code = rc;
        }
    }
    return rc == 0 ? SF_E_NOPLAN : rc;
}
