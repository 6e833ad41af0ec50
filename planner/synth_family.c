/* The published schedules take part: the synthesiser's result is never worse than any of them under the same limit. */
#include <string.h>

#include "planner/synth_internal.h"

/* Larger tables would take the greedy generators longer than the search. */
#define MOST_PASSES 60000

static struct sfi_contender *same_placement(const struct sfi_search_run *run, const struct sf_pipe *p) {
    for (uint32_t i = 0; i < run->n; i++) {
        struct sfi_contender *c = run->all[i];
        if (!c->s.uneven && c->s.stages == p->stages &&
            memcmp(c->s.device_of, p->device_of, p->stages * sizeof *p->device_of) == 0) {
            return c;
        }
    }
    return NULL;
}

/* Takes `p` over. */
static void take_part(struct sfi_search_run *run, int family, struct sf_pipe *p) {
    struct sfi_contender *c = same_placement(run, p);
    struct sf_pipe_timing t;
    struct sf_err ignored = {.code = 0};
    if (c != NULL && p->ways == 1) {
        struct sf_pipe_costs costs = sfi_synth_costs(&c->s);
        sf_time_ps work = c->s.period * c->s.microbatches;
        if (sf_pipe_replay(p, &costs, &t, NULL, NULL, &ignored) == 0 && t.peak_memory <= c->s.limit * (1 + 1e-9) &&
            t.span - work < c->whole.excess) {
            sf_pipe_free(c->given);
            c->given = p;
            c->family = family;
            c->whole = (struct sfi_try){.excess = t.span - work};
            return;
        }
    }
    sf_pipe_free(p);
}

/* Equal devices that are like the mean of the problem's: families are made for such. */
static struct sf_pipe_spec mean_spec(const struct sf_synth_problem *p) {
    struct sf_pipe_spec spec = {.devices = p->devices, .microbatches = p->microbatches, .comm = p->comm};
    uint32_t n = p->stages > 0 ? p->stages : 1, devices = p->stages > 0 ? p->devices : 1;
    double mem_f = 0, mem_w = 0;
    for (uint32_t i = 0; i < n; i++) {
        spec.f += p->f[i];
        spec.b += p->b[i];
        spec.w += p->w[i];
        mem_f += p->mem_f[i];
        mem_w += p->mem_w[i];
    }
    spec.f /= devices;
    spec.b /= devices;
    spec.w /= devices;
    spec.memory_limit = p->memory_limit / (mem_f / devices);
    spec.weight_share = mem_w / mem_f;
    return spec;
}

static int generate(const struct sf_synth_options *o, const struct sf_pipe_spec *spec, struct sf_pipe **out) {
    struct sf_err ignored = {.code = 0}; /* a family that cannot be built is none to beat */
    return o->generate != NULL ? o->generate(o->self, spec, out, &ignored) : sf_pipe_generate(spec, out, &ignored);
}

static void offer(const struct sf_synth_options *o, struct sfi_search_run *run, const struct sf_pipe_spec *spec,
                  uint32_t chunks) {
    struct sf_pipe *p = NULL;
    if ((uint64_t)3 * chunks * spec->devices * spec->microbatches <= MOST_PASSES && generate(o, spec, &p) == 0) {
        run->evaluated++;
        take_part(run, spec->family, p);
    }
}

void sfi_synth_families(const struct sf_synth_problem *problem, const struct sf_synth_options *options,
                        struct sfi_search_run *run) {
    for (int family = 0; family < SF_PIPE_FAMILIES_N; family++) {
        struct sf_pipe_spec spec = mean_spec(problem);
        uint32_t chunks = sf_pipe_family_chunks(family);
        spec.family = family;
        for (uint32_t own = chunks > 0 ? 0 : 2; own <= (chunks > 0 ? 0 : 4); own++) {
            spec.chunks = own;
            offer(options, run, &spec, own > 0 ? own : chunks);
        }
    }
}
