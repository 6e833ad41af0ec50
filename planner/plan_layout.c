#include "planner/plan_layout.h"

#include <string.h>

enum { MOST_REPEATS = 4096, MOST_PIECES = 16384, MOST_DEPTH = 8 };

struct reader {
    const char *text;
    size_t at;
    struct sf_layout *out;
    uint32_t pieces; /* read in all, repeats counted */
    uint32_t depth;
    bool begun, ended; /* the embedding has come; the loss has */
    struct sf_err *err;
};

static int fail(struct reader *r, const char *what) {
    return sf_fail(r->err, SF_E_INPUT, "layout \"%.60s\", character %zu: %s", r->text, r->at + 1, what);
}

static void skip(struct reader *r) {
    while (r->text[r->at] == ',' || r->text[r->at] == ' ') {
        r->at++;
    }
}

static int new_stage(struct reader *r) {
    struct sf_layout *l = r->out;
    if (l->layers[l->stages - 1] == 0 && l->stages > 1) {
        return fail(r, "a stage without layers is the first or the last one");
    }
    if (l->mtp > 0) {
        return fail(r, "expected m in the stage of the loss");
    }
    if (l->stages == SF_MAX_STAGES) {
        return fail(r, "too many stages");
    }
    l->layers[l->stages++] = 0;
    return 0;
}

static int letter(struct reader *r, char c) {
    struct sf_layout *l = r->out;
    if (++r->pieces > MOST_PIECES) {
        return fail(r, "too many layers");
    }
    if (r->ended) {
        return fail(r, "expected nothing behind L");
    }
    if (c != 'E' && !r->begun) {
        return fail(r, "expected E first");
    }
    switch (c) {
    case '|':
        return new_stage(r);
    case 't':
        l->layers[l->stages - 1]++;
        return l->mtp > 0 ? fail(r, "expected no t behind m") : 0;
    case 'm':
        l->mtp++;
        return 0;
    case 'E':
        if (r->begun) {
            return fail(r, "expected one E");
        }
        r->begun = true;
        return 0;
    case 'L':
        r->ended = true;
        return 0;
    default:
        return fail(r, "expected E, t, m, L, |, * or a parenthesis");
    }
}

static int repeats(struct reader *r, uint32_t *out) {
    size_t first = r->at + 1;
    *out = 1;
    if (r->text[r->at] != '*') {
        return 0;
    }
    *out = 0;
    for (r->at++; r->text[r->at] >= '0' && r->text[r->at] <= '9' && *out <= MOST_REPEATS; r->at++) {
        *out = *out * 10 + (uint32_t)(r->text[r->at] - '0');
    }
    return r->at > first && *out > 0 && *out <= MOST_REPEATS ? 0 : fail(r, "expected a number from 1 to 4096 behind *");
}

static int sequence(struct reader *r);

/* A group is read once for each of its repeats. */
static int group(struct reader *r) {
    size_t begin = ++r->at;
    uint32_t times = 1;
    if (++r->depth > MOST_DEPTH) {
        return fail(r, "too many parentheses inside each other");
    }
    for (uint32_t i = 0; i < times; i++) {
        r->at = begin;
        SF_TRY(sequence(r));
        if (r->text[r->at] != ')') {
            return fail(r, "expected )");
        }
        r->at++;
        SF_TRY(repeats(r, &times));
        if (++r->pieces > MOST_PIECES) {
            return fail(r, "too many layers");
        }
    }
    r->depth--;
    return 0;
}

static int sequence(struct reader *r) {
    for (skip(r); r->text[r->at] != '\0' && r->text[r->at] != ')'; skip(r)) {
        if (r->text[r->at] == '(') {
            SF_TRY(group(r));
            continue;
        }
        char c = r->text[r->at++];
        uint32_t times;
        SF_TRY(repeats(r, &times));
        for (uint32_t i = 0; i < times; i++) {
            SF_TRY(letter(r, c));
        }
    }
    return 0;
}

int sf_layout_parse(const char *text, struct sf_layout *out, struct sf_err *err) {
    struct reader r = {.text = text, .out = out, .err = err};
    memset(out, 0, sizeof *out);
    out->stages = 1;
    SF_TRY(sequence(&r));
    if (text[r.at] == ')') {
        return fail(&r, "expected no ) without (");
    }
    return r.ended ? 0 : fail(&r, "expected L at the end");
}
