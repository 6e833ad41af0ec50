/* A bound on what no schedule can beat, whatever the cut of the layers and the placement of the stages.
 *
 * Count the ranks of a pipeline in the order in which the first microbatch reaches them. The k-th has no work before k
 * other ranks had a layer's forward each (half as many where two copies of the model start at both ends). From then on
 * it does all of its work, one pass at a time. Its last pass of the chain is a backward of its lowest stage, unless it
 * is a weight gradient that waited; after that backward at least k more stages have theirs.
 *
 * So a rank that has n layers ends no earlier than start + m n (F + B + W), where backwards are whole also than that
 * plus k backwards, and where they are split than start + m n (F + B) + k B + W. For a step time T each rank has room
 * for a whole number of layers; T is possible only if all ranks together have room for all layers and one of them for
 * the head besides.
 *
 * Gradients. The collectives of a rank follow each other. Those of a chunk begin when its last gradient has been made,
 * after all work of the chunk; where shares are taken after every microbatch (zero 2 and 3), those of the last one
 * after all work but its backward, and all of them take their time, whatever runs beside them. */
#include <math.h>

#include "planner/search_internal.h"

/* Called more often than anything else in a search: the library's have to mind what is no number. */
static inline double lesser(double a, double b) {
    return a < b ? a : b;
}

static inline double larger(double a, double b) {
    return a > b ? a : b;
}

struct sfi_freedom sfi_freedom_of(uint32_t schedule, uint32_t vpp) {
    struct sfi_freedom f = {.ways = 1, .chunks = vpp, .chunks_least = schedule == SF_SCHEDULE_TABLE ? 1 : vpp};
    switch (schedule) {
    case SF_SCHEDULE_GPIPE:
    case SF_SCHEDULE_1F1B:
    case SF_SCHEDULE_INTERLEAVED:
    case SF_SCHEDULE_BREADTH_FIRST:
    case SF_SCHEDULE_1F1B_V:
        return f;
    case SF_SCHEDULE_DUALPIPE:
    case SF_SCHEDULE_TABLE: /* of the user's own: perhaps of two ways */
        f.ways = 2;
        f.chunks = 2 * vpp;
        break;
    default:
        break;
    }
    f.split = true;
    return f;
}

/* Least seconds of one microbatch in one layer, or in an end. */
struct least {
    double f, b, w;
};

struct pipe {
    struct least layer, first, last; /* of the mean slice, where sequences are cut */
    struct least fill, fill_first;   /* of the quickest one */
    double m;                        /* slices of microbatches of one way */
    /* Of each layer: collectives that nothing of the last chunk runs beside; its work with those that wait for
     * gradients, as far as chunks cannot hide them; and all that run beside passes. */
    double tail_of_one, with_tail, beside;
    struct sfi_line buckets; /* of all that run beside passes: fixed parts of each, and of each layer */
    uint32_t ways, ranks;
    bool split;
};

static struct least least_of(double f, double whole, double b, double w, bool split) {
    double all = split ? lesser(whole, b + w) : whole;
    double input = split ? lesser(b, all) : all;
    return (struct least){f, input, all - input};
}

static double part(const struct sfi_pass_time *times, int timed, int which) {
    const struct sfi_pass_time *t = &times[timed];
    double layer = t->of[0] > 0 && t->of[1] > 0 ? lesser(t->of[0], t->of[1]) : larger(t->of[0], t->of[1]);
    return which == 0 ? layer : which == 1 ? t->first : t->last;
}

static struct least least_part(const struct sfi_pass_time *times, int which, bool split) {
    return least_of(part(times, SFI_TIMED_F, which), part(times, SFI_TIMED_BW, which), part(times, SFI_TIMED_B, which),
                    part(times, SFI_TIMED_W, which), split);
}

/* In the units of a rank's layers, so that times need not be divided by what layers take again and again. */
struct per_layer {
    double work, passes, with_tail, beside, bucket; /* layers a second */
};

static struct per_layer per_layer_of(const struct pipe *p) {
    double in = p->layer.f + p->layer.b, work = p->m * (in + p->layer.w);
    return (struct per_layer){.work = 1 / work,
                              .passes = 1 / (p->split ? p->m * in : work),
                              .with_tail = 1 / p->with_tail,
                              .beside = p->beside > 0 ? 1 / p->beside : INFINITY,
                              .bucket = p->buckets.s_per_unit > 0 ? 1 / p->buckets.s_per_unit : INFINITY};
}

/* Layers for which a rank behind `before` others has room in T seconds, with a head of that much work or none. */
static inline double room(const struct pipe *p, const struct per_layer *per, double before, double t, double most,
                          struct least head) {
    double ends = before > 0 ? 1 : 0, left = t - before * p->fill.f - ends * p->fill_first.f;
    double behind = left - before * p->fill.b - ends * p->fill_first.b;
    double passes = p->m * (head.f + head.b), work = passes + p->m * head.w;
    double n = lesser((left - work - p->tail_of_one) * per->work, left * per->with_tail);
    n = lesser(n, (behind - (p->split ? passes : work)) * per->passes);
    return floor(lesser(n, most) + 1e-9);
}

/* Ranks further back have no more room than those before them, and none has more with the head than without it. */
static bool possible(const struct pipe *p, const struct per_layer *per, uint32_t layers, double t) {
    const struct least none = {0, 0, 0};
    double need = (double)layers * p->ways, sum = 0;
    double most = p->beside > 0 ? t * per->beside : INFINITY;
    most = p->buckets.s_per_unit > 0 ? lesser(most, (t - p->buckets.fixed_s) * per->bucket) : most;
    uint32_t last = (p->ranks - 1) / p->ways;
    if (room(p, per, 0, t, most, none) * p->ranks < need || !(room(p, per, last, t, most, none) >= 1)) {
        return false;
    }
    for (uint32_t before = 0; before < last; before++) {
        sum += room(p, per, before, t, most, none) * p->ways;
    }
    sum += room(p, per, last, t, most, none) * (p->ranks - last * p->ways);
    for (uint32_t before = 0; before <= last && sum >= need; before++) {
        double n = room(p, per, before, t, most, p->last);
        if (n >= 1 && sum + n - room(p, per, before, t, most, none) >= need) {
            return true;
        }
    }
    return false;
}

/* Work a and collectives t of each layer, in chunks that are done one after the other: everything up to a chunk is
 * worked on before its collectives, and those of the chunk and of all later ones come then. The shares of the chunks
 * for which all of these take equally long, a geometric series, are the best. */
static double in_chunks(double a, double t, double chunks) {
    double r = t / a;
    double spread = fabs(r - 1) < 1e-6 ? 1 / chunks : (r - 1) / (pow(r, chunks) - 1);
    return isfinite(spread) ? t + a * spread * (1 - 1e-6) : t;
}

/* `scatters` and `gathers` of everything. */
static struct sfi_line in_buckets(const struct sfi_layout *l, double scatters, double gathers, double buckets) {
    const struct sfi_line *s = &l->scatter_line, *g = &l->gather_line;
    return (struct sfi_line){.fixed_s = buckets * (scatters * s->fixed_s + gathers * g->fixed_s),
                             .s_per_unit = scatters * s->s_per_unit + gathers * g->s_per_unit};
}

static void add_collectives(const struct sfi_bounded *b, const struct sfi_freedom *f, struct pipe *p) {
    const struct sfi_layout *l = b->layout;
    double chunks = f->chunks, buckets = (double)f->chunks_least * b->units;
    double m = p->m, last = p->layer.b + p->layer.w, work = m * (p->layer.f + last);
    double scatter = l->least_scatter_flow, gather = l->least_gather_flow;
    switch (b->zero) {
    case 0:
        p->tail_of_one = l->least_all_reduce;
        break;
    case 1:
        p->tail_of_one = l->least_scatter + l->least_gather + l->least_across;
        break;
    case 2:
        p->beside = m * scatter + gather;
        p->buckets = in_buckets(l, m, 1, buckets);
        p->with_tail = in_chunks(work - last, scatter + gather, chunks);
        return;
    default:
        p->beside = m * (scatter + 2 * gather);
        p->buckets = in_buckets(l, m, 2 * m, buckets);
        p->with_tail = in_chunks(work - last, scatter, chunks);
        return;
    }
    p->with_tail = in_chunks(work, p->tail_of_one / p->ways, chunks);
}

static double least_kept(const struct sfi_price *price) {
    const double *of = price->kept_again;
    return of[0] > 0 && of[1] > 0 ? lesser(of[0], of[1]) : larger(of[0], of[1]);
}

/* All work, shared equally. */
static double work_bound_s(const struct sfi_bounded *b, const struct pipe *p, bool split) {
    const struct sfi_pass_time *t = b->price->least;
    double whole = t[SFI_TIMED_BW].layer, halves = t[SFI_TIMED_B].layer + t[SFI_TIMED_W].layer;
    return (double)b->microbatches * b->slices * b->layers *
           (t[SFI_TIMED_F].layer + (split ? lesser(whole, halves) : whole)) / p->ranks;
}

/* The i-th layer from the end keeps a microbatch for at least i forwards and i backwards. All that is kept, times how
 * long, is no more than the memory that weights leave, times the step. */
static double memory_bound_s(const struct sfi_bounded *b, const struct pipe *p) {
    double n = b->layers, kept = least_kept(b->price),
           held = (double)b->microbatches * b->slices * kept * (p->fill.f + p->fill.b) * n * (n + 1) / 2;
    return b->free_bytes > 0 ? held / b->free_bytes : INFINITY;
}

double sfi_bound_s(const struct sfi_bounded *b, const struct sfi_freedom *freedom) {
    return sfi_bound_within_s(b, freedom, INFINITY);
}

double sfi_bound_within_s(const struct sfi_bounded *b, const struct sfi_freedom *freedom, double most_s) {
    bool split = freedom->split && b->price->halves;
    struct pipe p = {.layer = least_part(b->price->least, 0, split),
                     .first = least_part(b->price->least, 1, split),
                     .last = least_part(b->price->least, 2, split),
                     .fill = least_part(b->price->chain, 0, split),
                     .fill_first = least_part(b->price->chain, 1, split),
                     .m = (double)b->microbatches * b->slices / freedom->ways,
                     .ways = freedom->ways,
                     .ranks = b->layout->pp,
                     .split = split};
    p.last = b->split_head ? (struct least){0, 0, 0} : p.last; /* parts of it are known to take no time at all */
    add_collectives(b, freedom, &p);
    const struct per_layer per = per_layer_of(&p);
    double others = larger(memory_bound_s(b, &p), work_bound_s(b, &p, split) * (1 - 1e-9));
    if (others >= most_s || (isfinite(most_s) && !possible(&p, &per, b->layers, most_s))) {
        return most_s;
    }
    double low = 0, layer = p.layer.f + p.layer.b + p.layer.w + p.tail_of_one + p.with_tail + p.beside;
    double high = (layer * b->layers + p.last.f + p.last.b + p.last.w + p.first.f + p.first.b) * (p.m * p.ways + 1.0) +
                  p.buckets.fixed_s;
    if (!(p.layer.f + p.layer.b > 0) || !possible(&p, &per, b->layers, high)) {
        return 0;
    }
    for (int i = 0; i < 30; i++) {
        double middle = low + (high - low) / 2;
        *(possible(&p, &per, b->layers, middle) ? &high : &low) = middle;
    }
    return larger(low, others);
}

/* ---- with a cut --------------------------------------------------------------------------------------------------
 *
 * The layers of every virtual stage are known, where it is placed is not. No pass of stage v or a later one begins
 * before all earlier stages had a forward each. The last forward or backward among them is a backward of v itself, and
 * all earlier stages have one each behind it. Between the two all of their forwards and backwards find place on at most
 * as many ranks as there are such stages. The last stage of that chain is the first of the model, whose gradients and
 * collectives come then. Whole backwards make gradients on the way, so for them all work is between the two; where they
 * are split it is at least behind the first. */
struct cut {
    struct least work[SF_MAX_STAGES]; /* of a mean slice in every virtual stage */
    struct least fill[SF_MAX_STAGES]; /* of the quickest one */
    uint32_t stages;
};

static struct least of_stage(const struct sf_model *m, const struct sfi_pass_time times[SFI_TIMED], uint32_t from,
                             uint32_t layers, bool split) {
    double s[SFI_TIMED];
    for (int k = 0; k < SFI_TIMED; k++) {
        s[k] = sfi_layers_sum(m, times[k].of, from, layers);
    }
    return split ? least_of(s[SFI_TIMED_F], s[SFI_TIMED_BW], s[SFI_TIMED_B], s[SFI_TIMED_W], true)
                 : (struct least){s[SFI_TIMED_F], s[SFI_TIMED_BW], 0};
}

static struct least of_end(const struct sfi_pass_time times[SFI_TIMED], int which, bool split) {
    const struct least end = least_part(times, which, split);
    return split ? end : (struct least){end.f, end.b + end.w, 0};
}

static void add(struct least *to, struct least more) {
    to->f += more.f;
    to->b += more.b;
    to->w += more.w;
}

static void find_cut(const struct sfi_bounded *b, const struct sf_model *m, const struct sf_plan *plan, bool split,
                     struct cut *out) {
    uint32_t from = 0;
    out->stages = plan->pp * plan->vpp;
    for (uint32_t v = 0; v < out->stages; from += plan->layers[v++]) {
        out->work[v] = of_stage(m, b->price->least, from, plan->layers[v], split);
        out->fill[v] = of_stage(m, b->price->chain, from, plan->layers[v], split);
    }
    add(&out->work[0], of_end(b->price->least, 1, split));
    add(&out->fill[0], of_end(b->price->chain, 1, split));
    if (!b->split_head) {
        add(&out->work[out->stages - 1], of_end(b->price->least, 2, split));
        add(&out->fill[out->stages - 1], of_end(b->price->chain, 2, split));
    }
}

static double cut_bound_s(const struct cut *c, double m, uint32_t ranks, uint32_t ways, bool split, double tail_s) {
    double before = 0, after = 0, most = 0, work = 0, passes = 0;
    for (uint32_t v = 0; v < c->stages; v++) {
        before += c->fill[v].f;
        after += c->fill[v].b;
    }
    for (uint32_t v = c->stages; v-- > 0;) {
        double places = lesser(ranks, (double)(c->stages - v) * ways);
        before -= c->fill[v].f;
        after -= c->fill[v].b;
        passes += m * (c->work[v].f + c->work[v].b);
        work += m * (c->work[v].f + c->work[v].b + c->work[v].w);
        double behind = v == 0 ? 0 : after + c->fill[0].w + tail_s;
        most = larger(most, before + (split ? passes : work) / places + behind);
        most = larger(most, before + work / places);
    }
    return most;
}

/* Rank k begins after k stages at least, in the order in which the first microbatch reaches them; on average over all
 * of them. Where backwards are whole as many have one behind its last. */
static double spread_bound_s(const struct cut *c, double m, uint32_t ranks, uint32_t ways, bool split) {
    double starts = 0, ends = 0, start = 0, end = 0, passes = 0, work = 0;
    for (uint32_t k = 0, v = 0; k < ranks; k++) {
        starts += start;
        ends += end;
        if ((k + 1) % ways == 0) {
            start += c->fill[v].f;
            end += c->fill[v++].b;
        }
    }
    for (uint32_t v = 0; v < c->stages; v++) {
        passes += m * (c->work[v].f + c->work[v].b);
        work += m * (c->work[v].f + c->work[v].b + c->work[v].w);
    }
    return larger(starts + work, starts + ends + (split ? passes : work)) / ranks;
}

double sfi_bound_cut_s(const struct sfi_bounded *b, const struct sfi_freedom *freedom, const struct sf_model *model,
                       const struct sf_plan *plan, double most_s) {
    const struct sfi_layout *l = b->layout;
    bool split = freedom->split && b->price->halves;
    double m = (double)b->microbatches * b->slices, kept = least_kept(b->price) * b->layers;
    double tail = b->zero == 0 ? l->least_all_reduce : l->least_scatter + l->least_gather + l->least_across;
    struct cut c;
    if (b->free_bytes < kept) { /* when the last stage begins its first backward, all others keep what was before */
        return most_s;
    }
    find_cut(b, model, plan, split, &c);
    tail *= b->zero <= 1 ? (double)plan->layers[0] / freedom->ways : 0;
    double least = cut_bound_s(&c, m, l->pp, freedom->ways, split, tail) * (1 - 1e-9);
    least = larger(least, spread_bound_s(&c, m, l->pp, freedom->ways, split) * (1 - 1e-9));
    return least < most_s ? larger(least, sfi_bound_within_s(b, freedom, most_s)) : most_s;
}
