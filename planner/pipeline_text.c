/* Tables of passes as CSV, in the notation that PyTorch's pipeline schedules use. */
#include "planner/pipeline.h"

#include <string.h>

#include "core/arena.h"

#define OVERLAP "OVERLAP_F_B"

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct reader {
    const char *end, *at, *line_start, *name;
    uint32_t line;
    struct cell {
        struct sf_pass pass;
        uint32_t device, line, column;
    } * cells;
    size_t cells_n, cells_room;
    uint32_t devices, stages, microbatches, slices, parts;
    struct sf_err *err;
};

static int fail(const struct reader *r, const char *at, const char *what) {
    char found[24];
    size_t n = 0;
    while (at + n < r->end && n + 1 < sizeof found && at[n] != ',' && at[n] >= ' ' && at[n] <= '~') {
        found[n] = at[n];
        n++;
    }
    found[n] = '\0';
    return sf_fail_at(r->err, SF_E_INPUT, r->name, r->line, (uint32_t)(at - r->line_start) + 1, "%s, found \"%s\"",
                      what, found);
}

static bool number(struct reader *r, uint32_t limit, uint32_t *out) {
    const char *from = r->at;
    uint32_t v = 0;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9' && v <= limit) {
        v = v * 10 + (uint32_t)(*r->at++ - '0');
    }
    *out = v;
    return r->at > from && v < limit;
}

static bool word(struct reader *r, const char *w) {
    size_t n = strlen(w);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, w, n) != 0) {
        return false;
    }
    r->at += n;
    return true;
}

static int kind_of(char letter) {
    switch (letter) {
    case 'F':
        return SF_PASS_F;
    case 'I':
        return SF_PASS_B;
    case 'W':
        return SF_PASS_W;
    case 'B':
        return SF_PASS_BW;
    default:
        return -1;
    }
}

static int keep(struct reader *r, const struct cell *c) {
    if (r->cells_n == SF_PIPE_MAX_PASSES) {
        return fail(r, r->at, "too many passes: expected at most 16,777,216");
    }
    if (r->cells_n == r->cells_room) {
        size_t room = r->cells_room == 0 ? 1024 : 2 * r->cells_room;
        struct cell *cells = sf_realloc(r->cells, room, sizeof *cells);
        if (cells == NULL) {
            return sf_fail_memory(r->err, "schedule table");
        }
        r->cells = cells;
        r->cells_room = room;
    }
    r->cells[r->cells_n++] = *c;
    return 0;
}

static void take_maxima(struct reader *r, const struct sf_pass *x) {
    r->stages = x->stage >= r->stages ? x->stage + 1u : r->stages;
    r->microbatches = x->microbatch >= r->microbatches ? x->microbatch + 1 : r->microbatches;
    r->slices = x->slice >= r->slices ? x->slice + 1u : r->slices;
}

/* "2F5" or "2F5.1". */
static int read_pass(struct reader *r, bool pair) {
    const char *from = r->at;
    uint32_t stage, microbatch, slice = 0;
    struct cell c = {.device = r->devices, .line = r->line, .column = (uint32_t)(from - r->line_start) + 1};
    if (!number(r, SF_PIPE_MAX_STAGES, &stage) || r->at == r->end) {
        return fail(r, from, "expected a pass such as 0F3: stage (below 16384), action F, I, W or B, microbatch");
    }
    int kind = kind_of(*r->at++);
    if (kind < 0 || !number(r, SF_PIPE_MAX_PASSES, &microbatch)) {
        return fail(r, from,
                    "expected a pass such as 0F3 with action F, I (input gradient), W or B (both gradients); sends, "
                    "receives and resharding follow from the passes and are left out");
    }
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        if (!number(r, SF_PIPE_MAX_SLICES, &slice)) {
            return fail(r, from, "expected a slice below 256 behind the point");
        }
    }
    c.pass = (struct sf_pass){.kind = (uint8_t)(pair && kind == SF_PASS_F ? SF_PASS_F_PAIR : kind),
                              .slice = (uint8_t)slice,
                              .stage = (uint16_t)stage,
                              .microbatch = microbatch};
    take_maxima(r, &c.pass);
    return keep(r, &c);
}

static int read_pair(struct reader *r) {
    const char *from = r->at++;
    SF_TRY(read_pass(r, true));
    if (!word(r, ";")) {
        return fail(r, from, "expected a pair such as (0F1;1B0)" OVERLAP);
    }
    SF_TRY(read_pass(r, true));
    if (!word(r, ")" OVERLAP)) {
        return fail(r, from, "expected a pair such as (0F1;1B0)" OVERLAP);
    }
    return 0;
}

static void skip_blanks(struct reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\r')) {
        r->at++;
    }
}

static bool at_line_end(const struct reader *r) {
    return r->at == r->end || *r->at == '\n';
}

static int read_row(struct reader *r) {
    if (r->devices == SF_PIPE_MAX_DEVICES) {
        return fail(r, r->at, "too many rows: expected at most 1024, one per device");
    }
    for (bool more = true; more;) {
        skip_blanks(r);
        if (r->at < r->end && *r->at == '(') {
            SF_TRY(read_pair(r));
        } else if (!at_line_end(r) && *r->at != ',') {
            SF_TRY(read_pass(r, false));
        }
        skip_blanks(r);
        more = word(r, ",");
        if (!more && !at_line_end(r)) {
            return fail(r, r->at, "expected a comma or the end of the line");
        }
    }
    r->devices++;
    return 0;
}

/* "parts 4", before all rows. */
static int read_parts(struct reader *r) {
    const char *from = r->at;
    bool good = number(r, SF_PIPE_MAX_STAGES, &r->parts);
    skip_blanks(r);
    if (!good || r->parts == 0 || r->cells_n > 0 || !at_line_end(r)) {
        return fail(r, from,
                    "expected, before all rows and once, how many of the last stages are parts of a head side by side");
    }
    return 0;
}

static int read_rows(struct reader *r) {
    while (r->at < r->end) {
        r->line++;
        r->line_start = r->at;
        skip_blanks(r);
        if (r->parts == 0 && word(r, "parts ")) {
            SF_TRY(read_parts(r));
        } else if (!at_line_end(r)) {
            SF_TRY(read_row(r));
        }
        r->at += r->at < r->end;
    }
    if (r->cells_n == 0) {
        return sf_fail_at(r->err, SF_E_INPUT, r->name, 1, 1, "expected a row of passes for each device, found none");
    }
    return 0;
}

/* Two chains of stages with half of the microbatches each, as DualPipe has. */
static bool goes_two_ways(const struct reader *r) {
    bool two = r->stages % 2 == 0 && r->microbatches % 2 == 0;
    for (size_t i = 0; i < r->cells_n && two; i++) {
        const struct sf_pass *x = &r->cells[i].pass;
        two = (x->stage >= r->stages / 2) == (x->microbatch >= r->microbatches / 2);
    }
    return two;
}

static int place(const struct reader *r, struct sf_pipe *p) {
    for (uint32_t s = 0; s < p->stages; s++) {
        p->device_of[s] = UINT16_MAX;
    }
    for (size_t i = 0; i < r->cells_n; i++) {
        const struct cell *c = &r->cells[i];
        uint16_t *device = &p->device_of[c->pass.stage];
        if (*device != UINT16_MAX && *device != c->device) {
            return sf_fail_at(r->err, SF_E_INPUT, r->name, c->line, c->column,
                              "stage %u is on device %u and on device %u; expected each stage in one row",
                              c->pass.stage, *device, c->device);
        }
        *device = (uint16_t)c->device;
        if (p->passes_n[c->device] == p->room) {
            return sf_fail_at(r->err, SF_E_INPUT, r->name, c->line, c->column,
                              "device %u has more than %u passes, the most that %u stages per device can make",
                              c->device, p->room, p->stages / p->devices);
        }
        sf_pipe_push(p, c->device, c->pass.kind, c->pass.stage, c->pass.microbatch, c->pass.slice);
    }
    for (uint32_t s = 0; s < p->stages; s++) {
        if (p->device_of[s] == UINT16_MAX) {
            return sf_fail_at(r->err, SF_E_INPUT, r->name, 1, 1, "stage %u has no passes, but stage %u has", s,
                              p->stages - 1);
        }
    }
    return 0;
}

static int assemble(const struct reader *r, struct sf_pipe **out) {
    uint32_t ways = r->parts == 0 && goes_two_ways(r) ? 2 : 1;
    uint64_t least = (uint64_t)r->stages * r->microbatches / ways; /* cannot overflow: 14 + 24 bits */
    if (least * r->slices > r->cells_n) {
        return sf_fail_at(r->err, SF_E_INPUT, r->name, 1, 1,
                          "%u stages, %u microbatches and %u slices (the highest numbers found) need more than the %zu "
                          "passes of this table",
                          r->stages, r->microbatches, r->slices, r->cells_n);
    }
    if (sf_pipe_create(r->devices, r->stages, r->microbatches, r->slices, out, r->err) != 0) {
        return sf_err_wrap(r->err, "%s", r->name);
    }
    (*out)->ways = ways;
    (*out)->parts = r->parts;
    int rc = r->parts < r->stages
                 ? place(r, *out)
                 : sf_fail_at(r->err, SF_E_INPUT, r->name, 1, 1,
                              "expected stages before the %u parts of the head, found %u stages in all", r->parts,
                              r->stages);
    if (rc != 0) {
        sf_pipe_free(*out);
        *out = NULL;
    }
    return rc;
}

int sf_pipe_read_csv(const char *text, size_t bytes, const char *name, struct sf_pipe **out, struct sf_err *err) {
    struct reader r = {.end = text + bytes, .at = text, .line_start = text, .name = name, .slices = 1, .err = err};
    *out = NULL;
    int rc = read_rows(&r);
    rc = rc == 0 ? assemble(&r, out) : rc;
    sf_free(r.cells);
    return rc;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void print_pass(const struct sf_pipe *p, const struct sf_pass *x, struct sf_buf *out) {
    sf_buf_printf(out, "%u%s%u", x->stage, sf_pass_letter(x->kind), x->microbatch);
    if (p->slices > 1) {
        sf_buf_printf(out, ".%u", x->slice);
    }
}

void sf_pipe_print_csv(const struct sf_pipe *p, struct sf_buf *out) {
    if (p->parts > 0) {
        sf_buf_printf(out, "parts %u\n", p->parts);
    }
    for (uint32_t d = 0; d < p->devices; d++) {
        for (uint32_t i = 0; i < p->passes_n[d]; i++) {
            const struct sf_pass *x = &p->passes[d][i];
            sf_buf_printf(out, "%s", i == 0 ? "" : ",");
            if (x->kind == SF_PASS_F_PAIR && i + 1 < p->passes_n[d]) {
                sf_buf_printf(out, "(");
                print_pass(p, x, out);
                sf_buf_printf(out, ";");
                print_pass(p, &p->passes[d][++i], out);
                sf_buf_printf(out, ")" OVERLAP);
            } else {
                print_pass(p, x, out);
            }
        }
        sf_buf_printf(out, "\n");
    }
}
