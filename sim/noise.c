/* Jitter: a factor for every kernel op of every rank, and the times that teams come to. */
#include <gsl/gsl_cdf.h>
#include <math.h>
#include <string.h>

#include "core/rng.h"
#include "sim/parallel.h"
#include "sim/slow.h"

static const char *const names[] = {
#define X(NAME, name) name,
    SF_JITTERS(X)
#undef X
};

const char *sf_jitter_name(int kind) {
    return kind >= 0 && kind < SF_JITTERS_N ? names[kind] : "?";
}

int sf_jitter_parse(const char *name) {
    for (int i = 0; i < SF_JITTERS_N; i++) {
        if (strcmp(name, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

struct jitter { /* mean 1 and the relative standard deviation asked for */
    enum sf_jitter kind;
    double mu, sigma;
};

static struct jitter jitter_of(enum sf_jitter kind, double relative) {
    if (kind == SF_JITTER_NORMAL) {
        return (struct jitter){kind, 1.0, relative};
    }
    double variance = log1p(relative * relative);
    return (struct jitter){kind, -0.5 * variance, sqrt(variance)};
}

static uint64_t draw(struct sf_rng stream, uint32_t op) {
    stream.counter = op;
    return sf_rng_u64(&stream) >> 11;
}

/* Grows with what was drawn. */
static double factor_of(const struct jitter *j, uint64_t drawn) {
    double u = ((double)drawn + 0.5) * 0x1p-53;
    double x = j->mu + gsl_cdf_gaussian_Pinv(u, j->sigma);
    return j->kind == SF_JITTER_NORMAL ? fmax(x, 0.1) : exp(x);
}

/* ---- teams ---- */

/* All members of a team run one class: sf_prog_check refuses recipes whose collectives join different ones. */
static int find_teams(const struct sfi_mesh *m, const struct sfi_classes *classes, uint32_t axes, uint32_t *leader,
                      struct sf_arena *arena, struct sf_err *err) {
    struct sfi_comm c;
    SF_TRY(sfi_mesh_groups(m, axes, arena, &c, err));
    for (uint32_t g = 0; g < c.groups_n; g++) {
        for (uint32_t i = 0; i < c.members_n; i++) {
            uint32_t r = c.base[g] + c.offset[i];
            if (classes->cls[m->class_of[r]].together == axes) {
                leader[r] = c.base[g];
            }
        }
    }
    return SF_OK;
}

int sfi_teams(const struct sfi_mesh *mesh, const struct sfi_classes *classes, struct sf_arena *arena, uint32_t **leader,
              struct sf_err *err) {
    *leader = sf_arena_alloc(arena, mesh->ranks_n, sizeof **leader);
    if (!*leader) {
        return sf_fail_memory(err, "teams of ranks");
    }
    for (uint32_t i = 0; i < classes->n; i++) {
        bool seen = false;
        for (uint32_t before = 0; before < i; before++) {
            seen |= classes->cls[before].together == classes->cls[i].together;
        }
        if (!seen) {
            SF_TRY(find_teams(mesh, classes, classes->cls[i].together, *leader, arena, err));
        }
    }
    return SF_OK;
}

/* ---- tables ---- */

struct table {
    uint32_t leader, variant, next; /* next table of the same leader */
};

struct weaver {
    const struct sfi_mesh *mesh;
    const struct sfi_classes *classes;
    const struct sfi_variants *variants;
    struct jitter jitter;
    struct sf_rng stream;
    uint32_t *leader;
    uint32_t *next_mate;   /* by rank: the next of its team */
    uint32_t *last_mate;   /* by leader, while linking */
    uint32_t *first_table; /* by leader */
    struct table *tables;
    double *factors; /* of one team, for each thread */
    uint64_t *drawn;
    uint32_t factors_n;
    const struct sf_sim_options *options;
    struct sfi_noise *out;
};

static uint32_t table_for(struct weaver *w, uint32_t leader, uint32_t variant) {
    uint32_t *at = &w->first_table[leader];
    while (*at != SF_NONE && w->tables[*at].variant != variant) {
        at = &w->tables[*at].next;
    }
    if (*at == SF_NONE) {
        *at = w->out->tables_n++;
        w->tables[*at] = (struct table){leader, variant, SF_NONE};
    }
    return *at;
}

static int link_teams(struct weaver *w, struct sf_arena *arena, struct sf_err *err) {
    uint32_t n = w->mesh->ranks_n;
    w->next_mate = sf_arena_alloc(arena, n, sizeof *w->next_mate);
    w->last_mate = sf_arena_alloc(arena, n, sizeof *w->last_mate);
    w->first_table = sf_arena_alloc(arena, n, sizeof *w->first_table);
    w->tables = sf_arena_alloc(arena, n, sizeof *w->tables);
    w->out->table_of = sf_arena_alloc(arena, n, sizeof *w->out->table_of);
    if (!w->next_mate || !w->last_mate || !w->first_table || !w->tables || !w->out->table_of) {
        return sf_fail_memory(err, "jitter");
    }
    memset(w->first_table, 0xff, n * sizeof *w->first_table);
    for (uint32_t r = 0; r < n; r++) {
        uint32_t l = w->leader[r];
        w->next_mate[r] = SF_NONE;
        if (l != r) {
            w->next_mate[w->last_mate[l]] = r;
        }
        w->last_mate[l] = r;
        w->out->table_of[r] = table_for(w, l, w->variants->of_rank[r]);
    }
    return SF_OK;
}

/* The largest factors of the members from `r` on that are as slow as it; the rest is left at the last one looked at. */
static uint32_t mates_factors(const struct weaver *w, const struct sfi_class *c, uint32_t r, uint64_t *drawn,
                              double *factor) {
    const struct sfi_pace *pace = w->mesh->pace;
    double speed = pace ? pace[r].gpu : 1.0;
    memset(drawn, 0, c->kernels_n * sizeof *drawn);
    for (; r != SF_NONE && (!pace || pace[r].gpu == speed); r = w->next_mate[r]) {
        struct sf_rng stream = sf_rng_split(&w->stream, r);
        for (uint32_t k = 0; k < c->kernels_n; k++) {
            uint64_t d = draw(stream, c->kernel_ops[k]);
            drawn[k] = d > drawn[k] ? d : drawn[k];
        }
    }
    for (uint32_t k = 0; k < c->kernels_n; k++) {
        double f = 1.0 / speed * factor_of(&w->jitter, drawn[k]);
        factor[k] = f > factor[k] ? f : factor[k];
    }
    return r;
}

/* The slowest member decides, so what most of them drew needs no more than a look. */
static void team_factors(const struct weaver *w, const struct sfi_class *c, uint32_t leader, uint64_t *drawn,
                         double *factor) {
    memset(factor, 0, c->kernels_n * sizeof *factor);
    for (uint32_t r = leader; r != SF_NONE;) {
        r = mates_factors(w, c, r, drawn, factor);
    }
}

static void fill_table(const struct sfi_variant *v, const double *factor, sf_time_ps *times) {
    for (uint32_t k = 0; k < v->cls->kernels_n; k++) {
        const struct sfi_price *p = v->price[v->cls->kernel_ops[k]];
        sf_time_ps own = p->part[SFI_PART_COMPUTE] + p->part[SFI_PART_RECOMPUTE];
        double kernels = (double)own * factor[k];
        times[k] =
            sfi_time_add(p->total - own, kernels < (double)SFI_TIME_MAX ? (sf_time_ps)llround(kernels) : SFI_TIME_MAX);
    }
}

/* One of the threads speaks for all: none gets further than another. */
static void tell(const struct weaver *w, uint32_t thread, uint32_t rank, uint32_t end) {
    const struct sf_sim_options *o = w->options;
    if (thread == 0 && o->progress && rank % 1024 == 0) {
        o->progress(o->progress_self, SFI_NOISE_SHARE * rank / end);
    }
}

static void fill_tables(void *self, uint32_t k, uint32_t from, uint32_t to) {
    const struct weaver *w = self;
    double *factor = &w->factors[(size_t)k * w->factors_n];
    for (uint32_t r = from; r < to; r++) {
        tell(w, k, r, to);
        for (uint32_t t = w->first_table[r]; t != SF_NONE; t = w->tables[t].next) {
            const struct sfi_variant *v = &w->variants->v[w->tables[t].variant];
            if (t == w->first_table[r]) {
                team_factors(w, v->cls, r, &w->drawn[(size_t)k * w->factors_n], factor);
            }
            fill_table(v, factor, w->out->times[t]);
        }
    }
}

static bool place_times(struct weaver *w, struct sf_arena *arena) {
    struct sfi_noise *out = w->out;
    size_t n = 0;
    for (uint32_t t = 0; t < out->tables_n; t++) {
        n += w->variants->v[w->tables[t].variant].cls->kernels_n;
    }
    sf_time_ps *times = sf_arena_alloc(arena, n, sizeof *times);
    for (uint32_t t = 0; t < out->tables_n && times; t++) {
        out->times[t] = times;
        times += w->variants->v[w->tables[t].variant].cls->kernels_n;
    }
    return times != NULL;
}

static int make_tables(struct weaver *w, uint32_t threads, struct sf_arena *arena, struct sf_err *err) {
    for (uint32_t i = 0; i < w->classes->n; i++) {
        uint32_t kernels_n = w->classes->cls[i].kernels_n;
        w->factors_n = kernels_n > w->factors_n ? kernels_n : w->factors_n;
    }
    w->out->times = sf_arena_alloc(arena, w->out->tables_n, sizeof *w->out->times);
    w->factors = sf_arena_alloc(arena, (size_t)threads * w->factors_n, sizeof *w->factors);
    w->drawn = sf_arena_alloc(arena, (size_t)threads * w->factors_n, sizeof *w->drawn);
    if (!w->out->times || !w->factors || !w->drawn || !place_times(w, arena)) {
        return sf_fail_memory(err, "jitter");
    }
    return SF_OK;
}

int sfi_noise_create(const struct sfi_mesh *mesh, const struct sfi_classes *classes,
                     const struct sfi_variants *variants, const struct sf_sim_options *options, uint32_t threads,
                     struct sf_arena *arena, struct sfi_noise **out, struct sf_err *err) {
    struct sf_rng root = sf_rng_seed(options->seed);
    struct weaver w = {.mesh = mesh,
                       .classes = classes,
                       .variants = variants,
                       .jitter = jitter_of(options->jitter_kind, options->jitter),
                       .stream = sf_rng_split_text(&root, "jitter"),
                       .options = options,
                       .out = sf_arena_alloc(arena, 1, sizeof *w.out)};
    if (!w.out) {
        return sf_fail_memory(err, "jitter");
    }
    SF_TRY(sfi_teams(mesh, classes, arena, &w.leader, err));
    SF_TRY(link_teams(&w, arena, err));
    SF_TRY(make_tables(&w, threads, arena, err));
    sfi_parallel(threads, mesh->ranks_n, 1, fill_tables, &w);
    *out = w.out;
    return SF_OK;
}
