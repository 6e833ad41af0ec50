/* Megatron's layout strings, and what the stages of one cost. */
#include "planner/pipeline.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"

#define SYMBOLS_MAX 65536

struct parser {
    const char *text;
    size_t bytes;
    char *symbols; /* repeats written out */
    size_t *from;  /* [symbols] where each is in the text, for messages */
    size_t n;
    struct sf_err *err;
};

static int fail(const struct parser *p, size_t at, const char *what) {
    return sf_fail_at(p->err, SF_E_INPUT, NULL, 1, (uint32_t)at + 1, "layout \"%.60s\", column %zu: %s", p->text,
                      at + 1, what);
}

static int put(struct parser *p, char symbol, size_t at, size_t times) {
    if (times > SYMBOLS_MAX - p->n) {
        return fail(p, at, "too long: expected at most 65536 parts");
    }
    for (size_t i = 0; i < times; i++) {
        p->symbols[p->n] = symbol;
        p->from[p->n++] = at;
    }
    return 0;
}

/* "*12" at `*at`, or nothing, which is once. */
static int read_times(const struct parser *p, size_t *at, size_t *times) {
    *times = 1;
    if (p->text[*at] != '*') {
        return 0;
    }
    size_t from = ++*at;
    for (*times = 0; p->text[*at] >= '0' && p->text[*at] <= '9' && *times <= SYMBOLS_MAX; ++*at) {
        *times = *times * 10 + (size_t)(p->text[*at] - '0');
    }
    return *at > from && *times > 0 && *times <= SYMBOLS_MAX ? 0 : fail(p, from, "expected a count of 1 to 65536");
}

static int read_symbol(struct parser *p, size_t *at) {
    size_t from = (*at)++, times;
    char symbol = p->text[from];
    if (symbol == ',' || symbol == ' ') {
        return 0;
    }
    if (symbol == '(') {
        return fail(p, from, "brackets inside brackets; write the inner ones out");
    }
    if (symbol == '\0' || strchr("EtmL|", symbol) == NULL) {
        return fail(p, from, "expected E, t, m, L, |, a bracket or a comma");
    }
    SF_TRY(read_times(p, at, &times));
    return put(p, symbol, from, times);
}

static int repeat(struct parser *p, size_t start, size_t open, size_t times) {
    size_t n = p->n - start;
    if (n == 0) {
        return fail(p, open, "empty brackets");
    }
    if (n * (times - 1) > SYMBOLS_MAX - p->n) { /* both at most 65536 */
        return fail(p, open, "too long: expected at most 65536 parts");
    }
    for (size_t i = 0; i < n * (times - 1); i++) {
        p->symbols[p->n] = p->symbols[start + i];
        p->from[p->n++] = p->from[start + i];
    }
    return 0;
}

static int read_group(struct parser *p, size_t *at) {
    size_t open = (*at)++, start = p->n, times;
    while (p->text[*at] != ')') {
        if (p->text[*at] == '\0') {
            return fail(p, open, "this bracket is not closed");
        }
        SF_TRY(read_symbol(p, at));
    }
    ++*at;
    SF_TRY(read_times(p, at, &times));
    return repeat(p, start, open, times);
}

/* One E in front of everything, one L behind. */
static int check_ends(const struct parser *p) {
    for (size_t i = 0; i < p->n; i++) {
        if ((p->symbols[i] == 'E') != (i == 0)) {
            return fail(p, p->from[i], "expected one E, as the first part");
        }
        bool last = i + 1 == p->n;
        if ((p->symbols[i] == 'L') != last) {
            return fail(p, p->from[last ? i : i + 1], "expected one L, as the last part");
        }
    }
    return p->n > 0 ? 0 : fail(p, 0, "expected one E, layers, and one L");
}

static int count(const struct parser *p, struct sf_pipe_layout *out) {
    for (size_t i = 0; i < p->n; i++) {
        out->stages_n += p->symbols[i] == '|';
    }
    out->stages_n++;
    out->stages = sf_calloc(out->stages_n, sizeof *out->stages);
    if (out->stages == NULL) {
        return sf_fail_memory(p->err, "layout");
    }
    struct sf_pipe_contents *stage = out->stages;
    for (size_t i = 0; i < p->n; i++) {
        char symbol = p->symbols[i];
        stage->embedding |= symbol == 'E';
        stage->loss |= symbol == 'L';
        stage->layers += symbol == 't';
        stage->mtp += symbol == 'm';
        out->layers += symbol == 't';
        out->mtp += symbol == 'm';
        stage += symbol == '|';
    }
    return 0;
}

int sf_pipe_layout_parse(const char *text, struct sf_pipe_layout *out, struct sf_err *err) {
    struct parser p = {.text = text, .bytes = strlen(text), .err = err};
    *out = (struct sf_pipe_layout){0};
    p.symbols = sf_malloc(SYMBOLS_MAX);
    p.from = sf_calloc(SYMBOLS_MAX, sizeof *p.from);
    int rc = p.symbols == NULL || p.from == NULL ? sf_fail_memory(err, "layout") : 0;
    for (size_t at = 0; rc == 0 && at < p.bytes;) {
        rc = text[at] == '(' ? read_group(&p, &at) : read_symbol(&p, &at);
    }
    rc = rc == 0 ? check_ends(&p) : rc;
    rc = rc == 0 ? count(&p, out) : rc;
    sf_free(p.symbols);
    sf_free(p.from);
    return rc;
}

void sf_pipe_layout_clear(struct sf_pipe_layout *l) {
    sf_free(l->stages);
    *l = (struct sf_pipe_layout){0};
}

static sf_time_ps share(sf_time_ps device, double devices, double part) {
    return (sf_time_ps)llround((double)device * devices * part);
}

/* Costs of stage s: `part` of all work, activations of `layers` of the layout's layers. */
static void set_stage(const struct sf_pipe *p, const struct sf_pipe_spec *spec, uint32_t s, double part, double layers,
                      struct sf_pipe_costs *out) {
    sf_time_ps *times = (void *)(uintptr_t)out->f;
    double *held = (void *)(uintptr_t)out->mem_f, keep = spec->weight_share > 0 ? spec->weight_share : 1;
    double devices = p->devices, mem = layers * devices;
    times[s] = share(spec->f, devices, part);
    times[p->stages + s] = share(spec->b, devices, part);
    times[2 * (size_t)p->stages + s] = share(spec->w, devices, part);
    held[s] = mem;
    held[p->stages + s] = mem * (1 - keep);
    held[2 * (size_t)p->stages + s] = mem * keep;
}

static int check_layers(const struct sf_pipe_layout *l, struct sf_err *err) {
    return l->layers + l->mtp > 0 ? 0 : sf_fail(err, SF_E_INPUT, "the layout has no layers");
}

int sf_pipe_layout_costs(const struct sf_pipe_layout *l, const struct sf_pipe *p, const struct sf_pipe_spec *spec,
                         double loss_layers, struct sf_pipe_costs *out, struct sf_err *err) {
    double layers = l->layers + l->mtp, all = layers + loss_layers;
    if (l->stages_n != p->stages || p->ways != 1 || p->slices != 1) {
        return sf_fail(err, SF_E_INPUT,
                       "the layout has %u stages, and the schedule has %u (devices times chunks; one way, no slices)",
                       l->stages_n, p->stages);
    }
    SF_TRY(check_layers(l, err));
    SF_TRY(sf_pipe_costs_create(p, spec, out, err));
    for (uint32_t s = 0; s < p->stages; s++) {
        const struct sf_pipe_contents *c = &l->stages[s];
        double own = c->layers + c->mtp;
        set_stage(p, spec, s, (own + (c->loss ? loss_layers : 0)) / all, own / layers, out);
    }
    return 0;
}

int sf_pipe_split_head_costs(const struct sf_pipe_layout *l, const struct sf_pipe *p, const struct sf_pipe_spec *spec,
                             double loss_layers, struct sf_pipe_costs *out, struct sf_err *err) {
    double layers = l->layers + l->mtp, all = layers + loss_layers;
    if (l->stages_n != p->devices || p->stages != 2 * p->devices || p->parts != p->devices) {
        return sf_fail(err, SF_E_INPUT, "a split head needs a layout of one stage per device, found %u on %u devices",
                       l->stages_n, p->devices);
    }
    SF_TRY(check_layers(l, err));
    SF_TRY(sf_pipe_costs_create(p, spec, out, err));
    for (uint32_t s = 0; s < p->devices; s++) {
        double own = l->stages[s].layers + l->stages[s].mtp;
        set_stage(p, spec, s, own / all, own / layers, out);
        set_stage(p, spec, p->devices + s, loss_layers / p->devices / all, 0, out);
    }
    return 0;
}
