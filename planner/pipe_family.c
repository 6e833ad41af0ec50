/* Families by name: defaults, limits, dispatch, and what passes cost on equal devices. */
#include "planner/pipe_internal.h"

#include <string.h>

#include "core/arena.h"

struct family {
    const char *name, *text;
    uint32_t chunks;
};

static const struct family families[SF_PIPE_FAMILIES_N] = {
#define X(NAME, name_, chunks_, text_) {.name = (name_), .text = (text_), .chunks = (chunks_)},
    SF_PIPE_FAMILIES(X)
#undef X
};

static sfi_generate_fn *const generators[SF_PIPE_FAMILIES_N] = {
    [SF_PIPE_GPIPE] = sfi_pipe_gpipe,
    [SF_PIPE_1F1B] = sfi_pipe_1f1b,
    [SF_PIPE_INTERLEAVED] = sfi_pipe_interleaved,
    [SF_PIPE_BREADTH_FIRST] = sfi_pipe_breadth_first,
    [SF_PIPE_ZB_H1] = sfi_pipe_zb_h,
    [SF_PIPE_ZB_H2] = sfi_pipe_zb_h,
    [SF_PIPE_ZB_1P] = sfi_pipe_zb,
    [SF_PIPE_ZB_2P] = sfi_pipe_zb,
    [SF_PIPE_ZB_V] = sfi_pipe_zb_v,
    [SF_PIPE_V_HALF] = sfi_pipe_v_pattern,
    [SF_PIPE_V_MIN] = sfi_pipe_v_pattern,
    [SF_PIPE_1F1B_V] = sfi_pipe_v_pattern,
    [SF_PIPE_DUALPIPE] = sfi_pipe_dualpipe,
    [SF_PIPE_DUALPIPEV] = sfi_pipe_dualpipev,
};

const char *sf_pipe_family_name(int family) {
    return family >= 0 && family < SF_PIPE_FAMILIES_N ? families[family].name : "?";
}

const char *sf_pipe_family_text(int family) {
    return family >= 0 && family < SF_PIPE_FAMILIES_N ? families[family].text : "?";
}

uint32_t sf_pipe_family_chunks(int family) {
    return family >= 0 && family < SF_PIPE_FAMILIES_N ? families[family].chunks : 0;
}

int sf_pipe_family_parse(const char *name) {
    for (int i = 0; i < SF_PIPE_FAMILIES_N; i++) {
        if (strcmp(families[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* ---- defaults and limits ----------------------------------------------------------------------------------------- */

/* What the greedy families stay below on their own account, in M; 0: whatever their order takes. */
static double own_limit(const struct sf_pipe_spec *s) {
    uint32_t p = s->devices;
    switch (s->family) {
    case SF_PIPE_ZB_1P:
    case SF_PIPE_ZB_V:
        return p;
    case SF_PIPE_ZB_2P:
        return 2.0 * p;
    case SF_PIPE_V_HALF:
        return (p + 2) / 2; /* whole microbatches */
    case SF_PIPE_V_MIN:
        return (p + 4) / 3;
    case SF_PIPE_1F1B_V:
        return (2 * p + 2) / 3 + 1;
    default:
        return 0;
    }
}

static int check_times(const struct sf_pipe_spec *s, struct sf_err *err) {
    sf_time_ps sum = 0;
    bool bad = s->f < 0 || s->b < 0 || s->w < 0 || s->comm < 0 || __builtin_add_overflow(s->f, s->b, &sum) ||
               __builtin_add_overflow(sum, s->w, &sum) || __builtin_add_overflow(sum, s->comm, &sum) ||
               __builtin_mul_overflow(sum, 4 * (sf_time_ps)s->devices, &sum) ||
               __builtin_mul_overflow(sum, s->microbatches, &sum);
    if (bad) {
        return sf_fail(err, SF_E_INPUT,
                       "%s: times may not be negative, and all passes together may not last longer "
                       "than 106 days; check f, b, w and comm",
                       sf_pipe_family_name(s->family));
    }
    if (!(s->memory_limit >= 0 && s->memory_limit <= 1e9) || !(s->weight_share >= 0 && s->weight_share <= 1)) {
        return sf_fail(err, SF_E_INPUT,
                       "%s: expected a memory limit of 0 to 1e9 M and a weight share of 0 to 1, found "
                       "%g and %g",
                       sf_pipe_family_name(s->family), s->memory_limit, s->weight_share);
    }
    return 0;
}

static int check_shape(const struct sf_pipe_spec *s, struct sf_err *err) {
    const struct family *f = &families[s->family];
    if (f->chunks != 0 && s->chunks != f->chunks) {
        return sf_fail(err, SF_E_INPUT, "%s has %u chunk%s per device, found %u", f->name, f->chunks,
                       f->chunks == 1 ? "" : "s", s->chunks);
    }
    if (f->chunks == 0 && s->chunks < 2) {
        return sf_fail(err, SF_E_INPUT, "%s needs at least 2 chunks per device, found %u", f->name, s->chunks);
    }
    if (s->slices > 1 && s->family != SF_PIPE_GPIPE && s->family != SF_PIPE_1F1B) {
        return sf_fail(err, SF_E_INPUT, "%s cannot be sliced; slices work with gpipe and 1f1b", f->name);
    }
    return 0;
}

static int prepare(const struct sf_pipe_spec *spec, struct sfi_family *out, struct sf_err *err) {
    if (spec->family < 0 || spec->family >= SF_PIPE_FAMILIES_N) {
        return sf_fail(err, SF_E_INPUT, "schedule family %d is unknown", spec->family);
    }
    struct sf_pipe_spec s = *spec;
    uint32_t own = families[s.family].chunks;
    s.chunks = s.chunks != 0 ? s.chunks : own != 0 ? own : 2;
    s.slices = s.slices != 0 ? s.slices : 1;
    s.weight_share = s.weight_share > 0 ? s.weight_share : 1;
    SF_TRY(check_times(spec, err));
    SF_TRY(check_shape(&s, err));
    uint32_t ways = s.family == SF_PIPE_DUALPIPE ? 2 : 1;
    if (s.devices == 0 || s.chunks > SF_PIPE_MAX_STAGES / s.devices) {
        return sf_fail(err, SF_E_INPUT, "%s: devices * chunks must be 1 to %d, found %u * %u",
                       sf_pipe_family_name(s.family), SF_PIPE_MAX_STAGES, s.devices, s.chunks);
    }
    uint32_t parts = s.chunks / ways; /* of a device's share, per microbatch */
    double limit = s.memory_limit > 0 ? s.memory_limit : own_limit(&s);
    *out = (struct sfi_family){.spec = s,
                               .stages = s.devices * s.chunks,
                               .ways = ways,
                               .f = s.f / parts,
                               .b = s.b / parts,
                               .w = s.w / parts,
                               .limit = limit * parts,
                               .b_frees = 1 - s.weight_share,
                               .w_frees = s.weight_share};
    return 0;
}

int sfi_pipe_make(const struct sfi_family *f, struct sf_pipe **out, struct sf_err *err) {
    SF_TRY(sf_pipe_create(f->spec.devices, f->stages, f->spec.microbatches, f->spec.slices, out, err));
    (*out)->ways = f->ways;
    return 0;
}

void sfi_pipe_place_v(struct sf_pipe *p) {
    for (uint32_t s = 0; s < p->stages; s++) {
        p->device_of[s] = (uint16_t)(s < p->devices ? s : 2 * p->devices - 1 - s);
    }
}

/* Families with a fixed order take the memory they take: that is only checked. */
static int check_memory(const struct sf_pipe_spec *spec, const struct sf_pipe *p, struct sf_err *err) {
    struct sf_pipe_costs costs;
    struct sf_pipe_timing t;
    SF_TRY(sf_pipe_costs_create(p, spec, &costs, err));
    int rc = sf_pipe_replay(p, &costs, &t, NULL, NULL, err);
    sf_pipe_costs_clear(&costs);
    if (rc == 0 && t.peak_memory > spec->memory_limit + 1e-9) {
        rc = sf_fail(err, SF_E_NOPLAN, "%s needs %.3f M on a device, and the limit is %.3f M",
                     sf_pipe_family_name(spec->family), t.peak_memory, spec->memory_limit);
    }
    return rc;
}

int sf_pipe_generate(const struct sf_pipe_spec *spec, struct sf_pipe **out, struct sf_err *err) {
    struct sfi_family f;
    *out = NULL;
    SF_TRY(prepare(spec, &f, err));
    SF_TRY(generators[spec->family](&f, out, err));
    int rc = spec->memory_limit > 0 ? check_memory(spec, *out, err) : 0;
    if (rc != 0) {
        sf_pipe_free(*out);
        *out = NULL;
    }
    return rc;
}

/* ---- costs ------------------------------------------------------------------------------------------------------- */

int sf_pipe_costs_create(const struct sf_pipe *p, const struct sf_pipe_spec *spec, struct sf_pipe_costs *out,
                         struct sf_err *err) {
    uint32_t n = p->stages, parts = p->stages / p->devices / p->ways * p->slices;
    *out = (struct sf_pipe_costs){0};
    sf_time_ps *times = sf_calloc(3 * (size_t)n, sizeof *times);
    double *memory = sf_calloc(3 * (size_t)n, sizeof *memory), share = spec->weight_share > 0 ? spec->weight_share : 1;
    if (times == NULL || memory == NULL) {
        sf_free(times);
        sf_free(memory);
        return sf_fail_memory(err, "pass costs");
    }
    for (uint32_t s = 0; s < n; s++) {
        times[s] = spec->f / parts;
        times[n + s] = spec->b / parts;
        times[2 * n + s] = spec->w / parts;
        memory[s] = 1.0 / parts;
        memory[n + s] = (1 - share) / parts;
        memory[2 * n + s] = share / parts;
    }
    *out = (struct sf_pipe_costs){.f = times,
                                  .b = times + n,
                                  .w = times + 2 * (size_t)n,
                                  .comm = spec->comm,
                                  .comm_parts = spec->comm,
                                  .mem_f = memory,
                                  .mem_b = memory + n,
                                  .mem_w = memory + 2 * (size_t)n,
                                  .wrap_first = spec->wrap_first};
    return 0;
}

void sf_pipe_costs_clear(struct sf_pipe_costs *c) {
    sf_free((void *)(uintptr_t)c->f);
    sf_free((void *)(uintptr_t)c->mem_f);
    *c = (struct sf_pipe_costs){0};
}
