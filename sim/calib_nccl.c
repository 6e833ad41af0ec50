/* What nccl-tests prints: comments that name the ranks and the columns, then a line per size.
 *
 *   #  Rank  0 Group  0 Pid   7 on  host device  0 [0x1b] NVIDIA H100
 *   #       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw
 * #wrong 33554432       8388608     float     sum      -1    198.1  169.36  296.37      0    197.5  169.92  297.36 0
 *
 * Lines of a launcher or of NCCL itself, which begin with no digit, are passed over. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "sim/calib.h"

enum { WORDS = 32, WORD = 32, RANKS = 1u << 20 };

struct lines {
    const char *at, *end, *path;
    uint32_t line, ranks;
    int op, time_column; /* -1: not known yet */
    char word[WORDS][WORD];
    int words_n;
};

/* The next line as words, cut to what can matter; false at the end. */
static bool next_line(struct lines *l) {
    if (l->at >= l->end) {
        return false;
    }
    const char *stop = memchr(l->at, '\n', (size_t)(l->end - l->at));
    stop = stop ? stop : l->end;
    l->words_n = 0;
    l->line++;
    for (const char *c = l->at; c < stop && l->words_n < WORDS;) {
        while (c < stop && (*c == ' ' || *c == '\t' || *c == '\r')) {
            c++;
        }
        const char *first = c;
        while (c < stop && *c != ' ' && *c != '\t' && *c != '\r') {
            c++;
        }
        if (c > first) {
            int n = c - first < WORD ? (int)(c - first) : WORD - 1;
            snprintf(l->word[l->words_n++], WORD, "%.*s", n, first);
        }
    }
    l->at = stop < l->end ? stop + 1 : l->end;
    return true;
}

static int op_of(const char *word) {
    static const struct {
        const char *name;
        int op;
    } known[] = {{"all_reduce_perf", SF_CALL_ALL_REDUCE},
                 {"all_gather_perf", SF_CALL_ALL_GATHER},
                 {"reduce_scatter_perf", SF_CALL_REDUCE_SCATTER},
                 {"alltoall_perf", SF_CALL_ALL_TO_ALL},
                 {"sendrecv_perf", SF_CALL_COPY}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const char *slash = strrchr(word, '/');
        if (strcmp(slash ? slash + 1 : word, known[i].name) == 0) {
            return known[i].op;
        }
    }
    return -1;
}

/* Behind the "#": column names, a rank, or the name of the test. */
static void read_comment(struct lines *l) {
    for (int i = 0; i < l->words_n; i++) {
        int op = op_of(l->word[i]);
        l->op = op >= 0 ? op : l->op;
    }
    if (l->words_n > 2 && strcmp(l->word[1], "Rank") == 0) {
        l->ranks += l->ranks < RANKS;
    }
    bool heads = l->words_n > 2 && strcmp(l->word[1], "size") == 0;
    for (int i = 2; heads && i < l->words_n; i++) {
        if (strcmp(l->word[i], "time") == 0) {
            l->time_column = i - 1;
            return;
        }
    }
}

static bool read_number(const char *word, double *out) {
    char *end;
    errno = 0;
    *out = strtod(word, &end);
    return word[0] >= '0' && word[0] <= '9' && errno == 0 && *end == '\0' && !strpbrk(word, "xXpP");
}

static int need(const struct lines *l, struct sf_err *err) {
    if (l->time_column < 0) {
        return sf_fail_at(err, SF_E_INPUT, l->path, l->line, 1,
                          "expected the line \"# size count type ... time\" before the first result");
    }
    if (l->op < 0) {
        return sf_fail_at(err, SF_E_INPUT, l->path, l->line, 1,
                          "no comment names the test (all_reduce_perf, ...): say which one with --op");
    }
    return l->ranks >= 2 ? SF_OK
                         : sf_fail_at(err, SF_E_INPUT, l->path, l->line, 1,
                                      "no comments \"# Rank ...\" name at least 2 ranks: say how many with --ranks");
}

static int read_result(struct sf_calib_data *d, const struct lines *l, struct sf_err *err) {
    struct sf_calib_point p = {.op = (uint16_t)l->op, .ranks = l->op == SF_CALL_COPY ? 2 : l->ranks};
    double us;
    SF_TRY(need(l, err));
    if (l->words_n <= l->time_column) {
        return sf_fail_at(err, SF_E_INPUT, l->path, l->line, 1, "expected at least %d columns, found %d",
                          l->time_column + 1, l->words_n);
    }
    if (!read_number(l->word[0], &p.bytes) || p.bytes > 1e15) {
        return sf_fail_at(err, SF_E_INPUT, l->path, l->line, 1, "expected a size in bytes, found \"%s\"", l->word[0]);
    }
    if (!read_number(l->word[l->time_column], &us) || !(us > 0.0 && us < 1e12)) {
        return sf_fail_at(err, SF_E_INPUT, l->path, l->line, 1, "expected a time in us above 0, found \"%s\"",
                          l->word[l->time_column]);
    }
    p.time_s = us * 1e-6;
    if (p.bytes < 1.0) { /* a size too small for one element per rank is shown as 0 */
        d->source[d->sources_n - 1].left_out++;
        return SF_OK;
    }
    return sf_calib_add_point(d, &p, err);
}

int sf_calib_read_nccl(struct sf_calib_data *d, const char *text, size_t bytes, const char *path, int op,
                       uint32_t ranks, struct sf_err *err) {
    struct lines l = {.at = text, .end = text + bytes, .path = path, .op = -1, .time_column = -1};
    SF_TRY(sf_calib_source(d, path, "nccl-tests", sf_hash_bytes(text, bytes), err));
    struct sf_calib_source *source = &d->source[d->sources_n - 1];
    while (next_line(&l)) {
        bool result = l.words_n > 0 && l.word[0][0] >= '0' && l.word[0][0] <= '9';
        if (l.words_n > 0 && l.word[0][0] == '#') {
            read_comment(&l);
        } else if (result) {
            l.op = l.op < 0 ? op : l.op;
            l.ranks = l.ranks == 0 ? ranks : l.ranks;
            SF_TRY(read_result(d, &l, err));
        } else {
            source->left_out += l.words_n > 0;
        }
    }
    return source->rows > 0
               ? SF_OK
               : sf_fail_at(err, SF_E_INPUT, path, l.line, 0, "no result of nccl-tests in this file: is it complete?");
}
