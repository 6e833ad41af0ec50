/* Which pins leave no plan, and by how much. What arithmetic shows is said in its numbers: of every pin alone, of the
 * first pair, of all degrees together. Where it shows nothing, the search itself is asked: without any pin, with every
 * pin alone, and with pairs of those that could be met alone, until an effort is spent; what that leaves open is said.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "planner/search_internal.h"

/* In what takes as long as compiling and pricing a call: about two seconds for all questions, and no more than a part
 * of it for one. */
#define MOST_WORK UINT64_C(12000000)
#define MOST_OF_ONE (MOST_WORK / 3)
#define TABLE_PASSES 100000 /* of a table made to measure */

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
    ALL,
    NONE = ALL
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

enum verdict {
    MET,   /* there is a plan */
    FAILS, /* there is none */
    NOT_FOUND,
    OPEN /* nobody had effort for it */
};

struct diagnosis {
    struct sfi_search *s;
    struct sf_pins pins;
    int of[ALL], n;
    uint64_t work; /* left */
    struct sf_err *err;
    char open[160]; /* what is not settled */
    unsigned open_pairs;
};

struct asked {
    struct sf_search_stats stats;
    struct sf_search_options with;
    const struct sf_search_options *outer;
    struct sf_plan_result result;
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

static enum verdict verdict_of(int rc, const struct sf_search_stats *stats) {
    if (rc == SF_E_NOPLAN) {
        return stats->passed_over > 0 ? NOT_FOUND : FAILS;
    }
    return stats->simulated > 0 ? MET : OPEN;
}

/* The scenario with these pins alone; NONE for less. One thread, so that work ends at the same place each time. */
static int search_with(struct diagnosis *d, int a, int b, struct asked *asked, struct sf_scenario *one,
                       enum verdict *verdict, struct why *why) {
    struct sf_err said = {0};
    uint32_t n = 0;
    asked->outer = d->s->options;
    asked->with = (struct sf_search_options){.top = 1,
                                             .simulate = 1,
                                             .threads = 1,
                                             .no_advice = true,
                                             .most_work = d->work < MOST_OF_ONE ? d->work : MOST_OF_ONE,
                                             .auto_budget = TABLE_PASSES,
                                             .stop = one_is_enough,
                                             .self = asked};
    *one = *d->s->scenario;
    for (int i = 0; i < ALL; i++) {
        if (i != a && i != b) {
            release(&one->pins, i);
        }
    }
    int rc = sf_search(one, d->s->base.cost, &asked->with, &asked->result, &n, &asked->stats, &said);
    sf_plan_results_clear(&asked->result, n);
    d->work -= asked->stats.work < d->work ? asked->stats.work : d->work;
    *verdict = verdict_of(rc, &asked->stats);
    say(why, "%.310s", gist(said.msg));
    if (rc != 0 && rc != SF_E_NOPLAN && rc != SF_E_INTERRUPTED) {
        return sfi_pass_on(&said, rc, d->err);
    }
    return is_stopped(d->s) && *verdict != FAILS ? SF_E_INTERRUPTED : 0; /* what was asked has no answer */
}

static int ask(struct diagnosis *d, int a, int b, enum verdict *verdict, struct why *why) {
    *verdict = OPEN;
    if (d->work == 0) {
        return 0;
    }
    struct asked *asked = sf_calloc(1, sizeof *asked);
    struct sf_scenario *one = sf_calloc(1, sizeof *one);
    int rc = asked != NULL && one != NULL ? 0 : sf_fail_memory(d->err, "a look at the pins");
    rc = rc == 0 ? search_with(d, a, b, asked, one, verdict, why) : rc;
    sf_free(one);
    sf_free(asked);
    return rc;
}

/* ---- advice ------------------------------------------------------------------------------------------------------ */

/* As scenarios write it; NULL: a number. */
static const char *word_of(int which, uint32_t v) {
    switch (which) {
    case SCHEDULE:
        return sf_schedule_name((int)v);
    case RECOMPUTE:
        return sf_recompute_name((int)v);
    case ORDER:
        return sf_order_name((int)v);
    case ETP:
        return v > 0 ? "1" : "tp";
    case CP_EXCHANGE:
        return v > 0 ? "gather" : "ring";
    case WHOLE_ROWS:
    case SPLIT_HEAD:
        return v > 0 ? "true" : "false";
    case COLLECTIVES:
        return v > 0 ? "tuned" : "nccl";
    default:
        return NULL;
    }
}

static void name_pin(struct sf_pins *pins, int which, char *out, size_t size) {
    size_t used = (size_t)snprintf(out, size, "%s", names[which]);
    const struct sf_pin *p = which < PINS ? pin_of(pins, which) : NULL;
    for (uint32_t i = 0; p != NULL && i < p->n && used < size; i++) {
        const char *word = word_of(which, p->value[i]);
        used += (size_t)(word != NULL ? snprintf(out + used, size - used, " %s", word)
                                      : snprintf(out + used, size - used, " %u", p->value[i]));
    }
}

/* a == b: one pin. What has been said, or has no room any more, is left out. */
static void blame(struct diagnosis *d, int a, int b, enum verdict verdict, bool asked, const struct why *why) {
    char x[64], y[64];
    bool said = strstr(d->err->msg, why->text) != NULL;
    bool room = strlen(d->err->msg) + strlen(why->text) + 2 * sizeof x + 200 < sizeof d->err->msg;
    name_pin(&d->pins, a, x, sizeof x);
    name_pin(&d->pins, b, y, sizeof y);
    sfi_explain_more(d->err, "; pinned %s%s%s %s%s%s%s", x, a == b ? " alone" : " with ", a == b ? "" : y,
                     a != b && asked ? "(each alone can be met) " : "", verdict == FAILS ? "fails" : "finds none",
                     said || room ? ": " : "",
                     said   ? "the same"
                     : room ? why->text
                            : "");
}

/* All four degrees that make up the GPUs have one value each, and make another number; or some do not divide it. */
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

/* Returns how many faults it found. */
static int try_arithmetic(struct diagnosis *d) {
    const struct sf_scenario *s = d->s->scenario;
    struct why why = {""};
    int faults = 0;
    for (int i = 0; i < d->n; i++) {
        if (arithmetic_fails(s, &d->pins, d->of[i], d->of[i], &why)) {
            blame(d, d->of[i], d->of[i], FAILS, false, &why);
            faults++;
        }
    }
    for (int i = 0; i < d->n && faults == 0; i++) {
        for (int k = i + 1; k < d->n && faults == 0; k++) {
            if (arithmetic_fails(s, &d->pins, d->of[i], d->of[k], &why)) {
                blame(d, d->of[i], d->of[k], FAILS, false, &why);
                faults++;
            }
        }
    }
    if (faults == 0 && degrees_fail(s, &d->pins, &why)) {
        sfi_explain_more(d->err, "; the pinned degrees together fail: %s", why.text);
        faults++;
    }
    return faults;
}

/* *faults: nothing fits without pins either. */
static int try_none(struct diagnosis *d, int *faults) {
    enum verdict verdict;
    struct why why = {""};
    SF_TRY(ask(d, NONE, NONE, &verdict, &why));
    if (verdict == FAILS) {
        sfi_explain_more(d->err, "; without pins no plan fits either: %s", why.text);
        ++*faults;
    }
    return 0;
}

static int try_each(struct diagnosis *d, int *faults) {
    for (int i = 0; i < d->n; i++) {
        enum verdict verdict;
        struct why why = {""};
        SF_TRY(ask(d, d->of[i], d->of[i], &verdict, &why));
        if (verdict == FAILS || verdict == NOT_FOUND) {
            blame(d, d->of[i], d->of[i], verdict, true, &why);
            ++*faults;
        } else if (verdict == OPEN) {
            size_t used = strlen(d->open);
            snprintf(d->open + used, sizeof d->open - used, "%s%s", used > 0 ? ", " : "", names[d->of[i]]);
        }
    }
    return 0;
}

static int try_pairs(struct diagnosis *d, int *faults) {
    for (int i = 0; i < d->n; i++) {
        for (int k = i + 1; k < d->n; k++) {
            enum verdict verdict;
            struct why why = {""};
            SF_TRY(ask(d, d->of[i], d->of[k], &verdict, &why));
            if (verdict == FAILS || verdict == NOT_FOUND) {
                blame(d, d->of[i], d->of[k], verdict, d->open[0] == '\0', &why);
                ++*faults;
                return 0;
            }
            d->open_pairs += verdict == OPEN;
        }
    }
    return 0;
}

static void conclude(struct diagnosis *d, int faults) {
    if (d->open[0] != '\0' || d->open_pairs > 0) {
        sfi_explain_more(d->err, "; not settled within the effort of a diagnosis: %s%s", d->open,
                         d->open[0] != '\0' ? " alone" : "");
        if (d->open_pairs > 0) {
            sfi_explain_more(d->err, "%s%u pairs", d->open[0] != '\0' ? " and " : "", d->open_pairs);
        }
    } else if (faults == 0) {
        sfi_explain_more(d->err,
                         d->n == 2 ? "; each of the two pins can be met, both together cannot"
                                   : "; every two of the pins can be met, all %d together cannot",
                         d->n);
    }
}

/* Of one pin alone the search has just said what it would say again. */
static int ask_all(struct diagnosis *d) {
    int faults = 0;
    SF_TRY(try_none(d, &faults));
    if (faults > 0 || d->n < 2) {
        return 0;
    }
    SF_TRY(try_each(d, &faults));
    SF_TRY(faults == 0 && d->n > 2 ? try_pairs(d, &faults) : 0);
    conclude(d, faults);
    return 0;
}

/* Keeps the code of `err` and adds to what it says. */
int sfi_search_pins(struct sfi_search *s, struct sf_err *err) {
    struct diagnosis *d = sf_calloc(1, sizeof *d);
    if (d == NULL) {
        return sf_fail_memory(err, "a look at the pins");
    }
    d->s = s;
    d->pins = s->scenario->pins;
    d->work = MOST_WORK;
    d->err = err;
    for (int i = 0; i < ALL; i++) {
        d->of[d->n] = i;
        d->n += is_pinned(&d->pins, i) ? 1 : 0;
    }
    int rc = d->n > 0 && try_arithmetic(d) == 0 ? ask_all(d) : 0;
    sf_free(d);
    if (rc == SF_E_INTERRUPTED) {
        sfi_explain_more(err, "; interrupted while working out which of the pins do not fit");
        err->code = rc;
    }
    return rc == 0 ? SF_E_NOPLAN : rc;
}
