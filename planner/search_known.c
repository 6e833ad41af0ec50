/* What a search knows of degrees, whoever asked first: prices of layers and layouts, each made once. Threads make what
 * they miss outside the lock; of two that made the same the first counts, and they are equal. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core/arena.h"
#include "core/rng.h"
#include "planner/search_internal.h"

#define MOST_PRICES (1u << 18) /* and places for twice as many */
#define LAYOUTS (1u << 16)     /* places; half of them are used at most */

struct priced {
    struct sfi_degrees degrees;
    uint64_t seating;
    bool too_large;
    struct sf_err why;
    struct sfi_price price;
};

struct sfi_known {
    pthread_mutex_t lock;
    atomic_bool stopped;
    atomic_uint_fast64_t work;
    size_t priced_n, layouts_n;
    struct priced *priced[2 * MOST_PRICES];
    struct sfi_layout *layouts[LAYOUTS];
};

int sfi_known_create(struct sfi_known **out, struct sf_err *err) {
    *out = sf_calloc(1, sizeof **out);
    if (*out == NULL) {
        return sf_fail_memory(err, "search");
    }
    pthread_mutex_init(&(*out)->lock, NULL);
    return 0;
}

void sfi_known_free(struct sfi_known *k) {
    for (size_t i = 0; k != NULL && i < 2 * MOST_PRICES; i++) {
        sf_free(k->priced[i]);
    }
    for (size_t i = 0; k != NULL && i < LAYOUTS; i++) {
        sf_free(k->layouts[i]);
    }
    if (k != NULL) {
        pthread_mutex_destroy(&k->lock);
    }
    sf_free(k);
}

void sfi_work(struct sfi_search *s, uint64_t calls) {
    s->stats->work = calls + atomic_fetch_add_explicit(&s->known->work, calls, memory_order_relaxed);
}

bool sfi_stopped(struct sfi_search *s) {
    const struct sf_search_options *o = s->options;
    uint64_t work = atomic_load_explicit(&s->known->work, memory_order_relaxed);
    if ((o->most_work > 0 && work >= o->most_work) || (!s->helps && o->stop != NULL && o->stop(o->self))) {
        atomic_store_explicit(&s->known->stopped, true, memory_order_relaxed);
    }
    if (!s->helps && o->progress != NULL) {
        o->progress(o->self, s->done);
    }
    s->stats->stopped |= atomic_load_explicit(&s->known->stopped, memory_order_relaxed);
    return s->stats->stopped;
}

/* ---- prices ------------------------------------------------------------------------------------------------------ */

/* A microbatch whose residual stream alone exceeds the device needs no miniature to be refused. */
static bool hopeless(const struct sfi_search *s, struct sf_err *why) {
    const struct sf_job *job = &s->scenario->job;
    double memory = sfi_reach_bytes(s);
    double bytes = (double)s->plan.micro_batch * job->seq_len_tokens * s->scenario->model.hidden *
                   s->base.weight_bytes / s->plan.tp / sf_plan_cp(&s->plan);
    if (bytes > memory) {
        sf_fail(why, SF_E_NOPLAN, "one layer's input needs %.3f GB but its device has %.3f GB", bytes / 1e9,
                memory / 1e9);
    }
    return bytes > memory;
}

static bool nearer(const struct sf_plan *p, const struct sf_plan *best) {
    uint64_t share = (uint64_t)p->tp * sfi_shared(sf_plan_cp(p), p->ep);
    uint64_t best_share = (uint64_t)best->tp * sfi_shared(sf_plan_cp(best), best->ep);
    bool smaller =
        p->micro_batch < best->micro_batch || (p->micro_batch == best->micro_batch && p->recompute > best->recompute);
    return share > best_share || (share == best_share && smaller);
}

void sfi_remember_mini(struct sfi_search *s, const struct sf_plan *mini, const struct sf_err *why) {
    if (nearer(mini, &s->least_mini)) {
        s->least_mini = *mini;
        s->mini_err = *why;
    }
}

/* How groups of these degrees may lie over domains: so many GPUs repeat all ways after as many groups as a domain has
 * seats. */
static uint64_t seating_of(const struct sfi_search *s) {
    uint32_t gpus = s->scenario->job.gpus, used = s->plan.ranks_per_domain;
    uint64_t group = (uint64_t)s->plan.tp * sfi_shared(sf_plan_cp(&s->plan), sf_plan_ep_beside_tp(&s->plan));
    return gpus / group >= used ? used : (uint64_t)gpus << 32 | used;
}

static uint64_t degrees_hash(const struct sfi_degrees *d, uint64_t seating) {
    uint64_t h = sf_mix64(sf_mix64(UINT64_C(0x646567) ^ seating, d->tp), d->cp);
    h = sf_mix64(sf_mix64(h, d->ep), d->micro_batch);
    h = sf_mix64(sf_mix64(h, d->etp), d->slices);
    h = sf_mix64(h, d->partly ? 1 + (uint64_t)(uint32_t)d->rest : 0);
    return sf_mix64(h, (uint64_t)(uint32_t)d->recompute * 4 + d->gather * 2u + d->whole_rows);
}

static bool same_degrees(const struct sfi_degrees *a, const struct sfi_degrees *b) {
    return a->tp == b->tp && a->cp == b->cp && a->ep == b->ep && a->micro_batch == b->micro_batch &&
           a->recompute == b->recompute && a->etp == b->etp && a->slices == b->slices && a->gather == b->gather &&
           a->whole_rows == b->whole_rows && a->partly == b->partly && a->rest == b->rest;
}

static struct priced **price_place(struct sfi_known *k, const struct sfi_degrees *d, uint64_t seating) {
    uint32_t at = (uint32_t)degrees_hash(d, seating) % (2 * MOST_PRICES);
    while (k->priced[at] != NULL && (k->priced[at]->seating != seating || !same_degrees(&k->priced[at]->degrees, d))) {
        at = (at + 1) % (2 * MOST_PRICES);
    }
    return &k->priced[at];
}

static const struct priced *look_up(struct sfi_known *k, const struct sfi_degrees *d, uint64_t seating) {
    pthread_mutex_lock(&k->lock);
    const struct priced *entry = *price_place(k, d, seating);
    pthread_mutex_unlock(&k->lock);
    return entry;
}

/* Of two kinds of layers from what is known of either, if it is. */
static int price_layers(const struct sfi_search *s, const struct sfi_degrees *d, struct sfi_price *out,
                        struct sf_err *why) {
    struct sfi_degrees one = *d;
    const struct priced *again = NULL, *rest = NULL;
    if (d->partly) {
        one.partly = false;
        one.rest = SF_RECOMPUTE_NONE;
        again = look_up(s->known, &one, seating_of(s));
        one.recompute = d->rest;
        rest = look_up(s->known, &one, seating_of(s));
    }
    if (again == NULL || rest == NULL || again->too_large || rest->too_large) {
        return sfi_price_init(&s->base, d, out, why);
    }
    sfi_price_mix(&again->price, &rest->price, out);
    return 0;
}

static int make_price(struct sfi_search *s, const struct sfi_degrees *d, struct priced **out, struct sf_err *err) {
    struct priced *made = sf_calloc(1, sizeof *made);
    if (made == NULL) {
        return sf_fail_memory(err, "prices of layers");
    }
    made->degrees = *d;
    made->seating = seating_of(s);
    uint64_t before = sfi_calls_made(s->base.calls);
    int rc = hopeless(s, &made->why) ? SF_E_NOPLAN : 0;
    rc = rc == 0 ? price_layers(s, d, &made->price, &made->why) : rc;
    sfi_work(s, sfi_calls_made(s->base.calls) - before);
    made->too_large = rc != 0; /* for a device, or for a program: a million sequences in a microbatch */
    if (rc != 0 && rc != SF_E_NOPLAN && rc != SF_E_INPUT) {
        rc = sf_fail(err, rc, "pricing tp %u, cp %u, ep %u, micro_batch %u: %s", d->tp, d->cp, d->ep, d->micro_batch,
                     made->why.msg);
        sf_free(made);
        return rc;
    }
    *out = made;
    return 0;
}

static int add_price(struct sfi_known *k, struct priced *made, const struct priced **out, struct sf_err *err) {
    pthread_mutex_lock(&k->lock);
    struct priced **at = price_place(k, &made->degrees, made->seating);
    bool first = *at == NULL, room = k->priced_n < MOST_PRICES;
    if (first && room) {
        *at = made;
        k->priced_n++;
    }
    *out = *at;
    pthread_mutex_unlock(&k->lock);
    if (!first || !room) {
        sf_free(made);
    }
    return *out != NULL ? 0 : sf_fail_memory(err, "prices of layers");
}

int sfi_find_price(struct sfi_search *s, const struct sfi_price **out, struct sf_err *err) {
    const struct sfi_degrees d = sfi_degrees_of(&s->plan);
    struct sfi_known *k = s->known;
    const struct priced *entry = look_up(k, &d, seating_of(s));
    if (entry == NULL) {
        struct priced *made = NULL;
        SF_TRY(make_price(s, &d, &made, err));
        SF_TRY(add_price(k, made, &entry, err));
    }
    if (entry->too_large) {
        sfi_remember_mini(s, &s->plan, &entry->why);
    }
    if (entry->too_large && entry->why.code == SF_E_INPUT && s->program_err.code == 0) {
        s->program_err = entry->why;
    }
    s->unpriced = entry->too_large ? entry->why.code : 0;
    *out = entry->too_large ? NULL : &entry->price;
    return 0;
}

/* ---- layouts ----------------------------------------------------------------------------------------------------- */

static bool is_layout_of(const struct sfi_layout *l, const struct sf_plan *p) {
    return l->tp == p->tp && l->cp == sf_plan_cp(p) && l->ep == p->ep && l->pp == p->pp && l->etp == sf_plan_etp(p) &&
           l->dp == p->dp && l->zero_group == p->zero_group;
}

static struct sfi_layout **layout_place(struct sfi_known *k, const struct sf_plan *p) {
    uint64_t h = sf_mix64(sf_mix64(sf_mix64(UINT64_C(0x6c6179), p->tp), sf_plan_cp(p)), p->ep);
    h = sf_mix64(sf_mix64(sf_mix64(sf_mix64(h, p->pp), sf_plan_etp(p)), p->zero_group), p->dp);
    uint32_t at = (uint32_t)h % LAYOUTS;
    while (k->layouts[at] != NULL && !is_layout_of(k->layouts[at], p)) {
        at = (at + 1) % LAYOUTS;
    }
    return &k->layouts[at];
}

int sfi_find_layout(struct sfi_search *s, const struct sfi_layout **out, struct sf_err *err) {
    struct sfi_known *k = s->known;
    pthread_mutex_lock(&k->lock);
    *out = *layout_place(k, &s->plan);
    pthread_mutex_unlock(&k->lock);
    if (*out != NULL) {
        return 0;
    }
    struct sfi_layout *l = sf_calloc(1, sizeof *l);
    if (l == NULL) {
        return sf_fail_memory(err, "layouts");
    }
    sfi_layout_init(&s->base, &s->plan, l);
    pthread_mutex_lock(&k->lock);
    struct sfi_layout **at = layout_place(k, &s->plan);
    bool first = *at == NULL, room = k->layouts_n < LAYOUTS / 2;
    if (first && room) {
        *at = l;
        k->layouts_n++;
    }
    *out = *at;
    pthread_mutex_unlock(&k->lock);
    if (!first || !room) {
        sf_free(l);
    }
    return *out != NULL ? 0 : sf_fail_memory(err, "layouts");
}
