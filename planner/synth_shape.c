/* From a problem and a shape to one placement with its costs. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "planner/synth_internal.h"

/* Every composition of `chunks` into widths, with every choice of directions; the first sweep goes up, because a
 * mirrored machine is the same machine. Code: per chunk after the first, 0 widens the sweep, 1 and 2 start a new one.
 */
static bool decode(uint32_t chunks, uint32_t code, struct sfi_shape *out) {
    *out = (struct sfi_shape){.sweeps_n = 1, .chunks = chunks, .sweeps = {{.width = 1, .parts = 1}}};
    for (uint32_t i = 1; i < chunks; i++, code /= 3) {
        if (code % 3 == 0) {
            out->sweeps[out->sweeps_n - 1].width++;
        } else {
            out->sweeps[out->sweeps_n++] = (struct sfi_sweep){.down = code % 3 == 2, .width = 1, .parts = 1};
        }
    }
    return out->sweeps_n > 1 || chunks == 1; /* one wide sweep is a single chunk */
}

uint32_t sfi_shapes(uint32_t chunks, struct sfi_shape *out, uint32_t room) {
    uint32_t codes = 1, n = 0;
    for (uint32_t i = 1; i < chunks; i++) {
        codes *= 3;
    }
    for (uint32_t code = 0; code < codes && n < room; code++) {
        n += decode(chunks, code, &out[n]);
    }
    return n;
}

/* Two sweeps up of neighbours, then a shorter one down. The last F of the device that turns the sweeps around then
 * comes late on the way of its microbatch, with few hops behind it; halves of its share of a sweep keep passes short.
 */
uint32_t sfi_shapes_uneven(struct sfi_shape *out, uint32_t room) {
    static const uint8_t last[] = {68, 75}; /* of 50 for the others */
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof last / sizeof *last && n < room; i++) {
        out[n++] = (struct sfi_shape){.sweeps_n = 3,
                                      .chunks = SFI_UNEVEN_CHUNKS,
                                      .sweeps = {{.width = 2, .parts = 50},
                                                 {.width = 2, .parts = 50},
                                                 {.down = true, .width = 1, .parts = last[i]}}};
    }
    return n;
}

static size_t add_text(char *out, size_t size, size_t at, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = at < size ? vsnprintf(out + at, size - at, format, args) : 0;
    va_end(args);
    return at + (n > 0 ? (size_t)n : 0);
}

/* Chunks that are larger or smaller than the first one say so. */
static void name_shape(const struct sfi_shape *shape, char *out, size_t size) {
    size_t at = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < shape->sweeps_n; i++) {
        const struct sfi_sweep *w = &shape->sweeps[i];
        at = add_text(out, size, at, "%s", i > 0 ? " " : "");
        at = w->width > 1 ? add_text(out, size, at, "%u", w->width) : at;
        at = add_text(out, size, at, "%s", w->down ? "down" : "up");
        if (w->parts != shape->sweeps[0].parts) {
            at = add_text(out, size, at, "*%.3g", (double)w->parts / shape->sweeps[0].parts);
        }
    }
}

static void place_sweeps(const struct sfi_shape *shape, struct sfi_synth *s) {
    uint32_t stage = 0;
    for (uint32_t i = 0; i < shape->sweeps_n; i++) {
        for (uint32_t d = 0; d < s->devices; d++) {
            for (uint32_t k = 0; k < shape->sweeps[i].width; k++) {
                s->device_of[stage++] = (uint16_t)(shape->sweeps[i].down ? s->devices - 1 - d : d);
            }
        }
    }
}

static int allocate(struct sfi_synth *s, struct sf_err *err) {
    size_t n = s->stages;
    size_t bytes =
        n * (5 * sizeof(sf_time_ps) + 3 * sizeof(double) + 2 * sizeof(uint16_t)) + s->devices * sizeof(sf_time_ps);
    char *at = s->memory = sf_calloc(1, bytes);
    if (at == NULL) {
        return sf_fail_memory(err, "schedule search");
    }
    sf_time_ps **times[] = {&s->f, &s->b, &s->w, &s->f_at, &s->b_at};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++, at += n * sizeof(sf_time_ps)) {
        *times[i] = (sf_time_ps *)(void *)at;
    }
    s->work = (sf_time_ps *)(void *)at;
    at += s->devices * sizeof(sf_time_ps);
    double **memories[] = {&s->mem_f, &s->mem_b, &s->mem_w};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++, at += n * sizeof(double)) {
        *memories[i] = (double *)(void *)at;
    }
    s->device_of = (uint16_t *)(void *)at;
    s->held = s->device_of + n;
    return 0;
}

/* Parts `from` to `to` of a device's whole share of a microbatch; those of all its chunks add up exactly. */
struct part {
    uint32_t from, to, all;
};

static sf_time_ps part_of(sf_time_ps whole, const struct part *p) {
    sf_time_ps each = whole / p->all, rest = whole % p->all; /* the first `rest` parts get one more */
    sf_time_ps to = rest < p->to ? rest : p->to, from = rest < p->from ? rest : p->from;
    return each * (p->to - p->from) + to - from;
}

/* Of the j-th chunk of every device. */
static struct part part_at(const struct sfi_shape *shape, uint32_t j) {
    struct part p = {.all = 0};
    for (uint32_t i = 0, chunk = 0; i < shape->sweeps_n; i++) {
        for (uint32_t k = 0; k < shape->sweeps[i].width; k++, chunk++) {
            if (chunk == j) {
                p.from = p.all;
                p.to = p.all + shape->sweeps[i].parts;
            }
            p.all += shape->sweeps[i].parts;
        }
    }
    return p;
}

static void set_cost(const struct sf_synth_problem *problem, const struct part *part, uint32_t stage,
                     struct sfi_synth *s) {
    uint32_t from = problem->stages > 0 ? stage : 0;
    double share = (double)part->all / (part->to - part->from);
    s->f[stage] = part_of(problem->f[from], part);
    s->b[stage] = part_of(problem->b[from], part);
    s->w[stage] = part_of(problem->w[from], part);
    s->mem_f[stage] = problem->mem_f[from] / share;
    s->mem_b[stage] = problem->mem_b[from] / share;
    s->mem_w[stage] = problem->mem_w[from] / share;
}

static void set_costs(const struct sf_synth_problem *problem, const struct sfi_shape *shape, struct sfi_synth *s) {
    for (uint32_t d = 0; d < s->devices; d++) {
        for (uint32_t j = 0; j < s->chunks; j++) {
            uint32_t stage = s->held[d * s->chunks + j];
            struct part part = problem->stages > 0 ? (struct part){0, 1, 1} : part_at(shape, j);
            set_cost(problem, &part, stage, s);
            s->work[d] += s->f[stage] + s->b[stage] + s->w[stage];
        }
        s->period = s->work[d] > s->period ? s->work[d] : s->period;
    }
}

static void set_paths(struct sfi_synth *s) {
    for (uint32_t i = 1; i < s->stages; i++) {
        s->f_at[i] = s->f_at[i - 1] + s->f[i - 1] + sfi_hop(s, i - 1, i);
    }
    uint32_t last = s->stages - 1;
    s->b_at[last] = s->f_at[last] + s->f[last];
    for (uint32_t i = last; i-- > 0;) {
        s->b_at[i] = s->b_at[i + 1] + s->b[i + 1] + sfi_hop(s, i + 1, i);
    }
}

static bool has_unequal(const struct sfi_shape *shape) {
    bool unequal = false;
    for (uint32_t i = 1; i < shape->sweeps_n; i++) {
        unequal = unequal || shape->sweeps[i].parts != shape->sweeps[0].parts;
    }
    return unequal;
}

static int set_held(struct sfi_synth *s, struct sf_err *err) {
    for (uint32_t d = 0; d < s->devices; d++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < s->stages; i++) {
            if (s->device_of[i] == d && n++ < s->chunks) {
                s->held[d * s->chunks + n - 1] = (uint16_t)i;
            }
        }
        if (n != s->chunks) {
            return sf_fail(err, SF_E_INPUT, "every device must hold %u virtual stages; device %u holds %u", s->chunks,
                           d, n);
        }
    }
    return 0;
}

int sfi_synth_init(const struct sf_synth_problem *problem, const struct sfi_shape *shape, struct sfi_synth *out,
                   struct sf_err *err) {
    *out = (struct sfi_synth){.devices = problem->devices,
                              .stages = problem->devices * shape->chunks,
                              .chunks = shape->chunks,
                              .microbatches = problem->microbatches,
                              .comm = problem->comm,
                              .limit = problem->memory_limit};
    SF_TRY(allocate(out, err));
    if (problem->device_of != NULL) {
        memcpy(out->device_of, problem->device_of, out->stages * sizeof *out->device_of);
        snprintf(out->name, sizeof out->name, "given");
    } else {
        place_sweeps(shape, out);
        name_shape(shape, out->name, sizeof out->name);
        out->uneven = problem->stages == 0 && has_unequal(shape);
    }
    int rc = set_held(out, err);
    if (rc != 0) {
        sfi_synth_clear(out);
        return rc;
    }
    set_costs(problem, shape, out);
    set_paths(out);
    return 0;
}

struct sf_pipe_costs sfi_synth_costs(const struct sfi_synth *s) {
    return (struct sf_pipe_costs){
        .f = s->f, .b = s->b, .w = s->w, .comm = s->comm, .mem_f = s->mem_f, .mem_b = s->mem_b, .mem_w = s->mem_w};
}

sf_time_ps sfi_bound(const struct sfi_synth *s, struct sf_bound_why *why) {
    struct sf_pipe shape = {.devices = s->devices,
                            .stages = s->stages,
                            .microbatches = s->microbatches,
                            .slices = 1,
                            .ways = 1,
                            .device_of = s->device_of};
    struct sf_pipe_costs costs = sfi_synth_costs(s);
    return sf_pipe_lower_bound_why(&shape, &costs, s->limit, why);
}

void sfi_synth_clear(struct sfi_synth *s) {
    sf_free(s->memory);
    s->memory = NULL;
}
