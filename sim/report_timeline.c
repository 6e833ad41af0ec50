/* The timeline: per rank one lane of the prediction and below it one of the measurement, over one axis in ms. Compute
 * fills a lane, transfers and loads run along its lower edge. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "sim/compare_join.h"
#include "sim/report_part.h"

#define WIDTH 1120.0
#define LEFT 132.0
#define RIGHT 14.0
#define TOP 8.0
#define COMM 7.0 /* height of a lane's lower edge */
#define PAIR_GAP 14.0
#define LANE_GAP 4.0
#define RANKS_SHOWN 16
#define THIN 0.5 /* pixels: narrower neighbours of one kind are drawn as one */

struct timeline {
    const struct sf_report *report;
    struct sf_buf *out;
    double ps_per_pixel;
    double lane, compute; /* height of a lane, and of its part for compute */
    sf_time_ps origin[2]; /* time at the left edge: of the prediction, of the measurement */
};

static uint32_t last_rank_shown(const struct sf_report *r) {
    uint32_t ranks = sf_prog_ranks(r->prog);
    return ranks < RANKS_SHOWN ? ranks : RANKS_SHOWN;
}

/* Records of one rank and iteration: the traces are sorted by (iter, rank, op). */
static void block_find(const struct sf_trace *t, uint32_t iter, uint32_t rank, size_t *first, size_t *end) {
    size_t lo = 0, hi = t->recs_n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct sf_trace_rec *r = &t->recs[mid];
        if (r->iter < iter || (r->iter == iter && r->rank < rank)) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    *first = lo;
    while (lo < t->recs_n && t->recs[lo].iter == iter && t->recs[lo].rank == rank) {
        lo++;
    }
    *end = lo;
}

/* First start and last end over the ranks shown. */
static bool extent(const struct sf_trace *t, uint32_t iter, uint32_t ranks, sf_time_ps *start, sf_time_ps *end) {
    bool any = false;
    for (uint32_t rank = 0; rank < ranks; rank++) {
        size_t i, stop;
        for (block_find(t, iter, rank, &i, &stop); i < stop; i++) {
            *start = !any || t->recs[i].start < *start ? t->recs[i].start : *start;
            *end = !any || t->recs[i].end > *end ? t->recs[i].end : *end;
            any = true;
        }
    }
    return any;
}

struct bar { /* one rectangle: one op, or several thin ones of a kind */
    double x0, x1;
    int kind;
    uint32_t rank, op;
    uint64_t ops;
    sf_time_ps start, end, busy;
};

static void bar_title(const struct timeline *tl, const struct bar *b, const char *role) {
    char label[96], start[32], end[32], busy[32];
    sf_buf_printf(tl->out, "<title>");
    if (b->ops == 1) {
        sfi_html_text(tl->out, sf_op_label(tl->report->prog, sf_prog_class(tl->report->prog, b->rank), b->op, label,
                                           sizeof label));
    } else {
        sf_buf_printf(tl->out, "%llu ops of kind %s", (unsigned long long)b->ops, sf_op_name(b->kind));
    }
    sf_buf_printf(tl->out, "\n%s, rank %u: %s to %s\nbusy %s</title>", role, b->rank,
                  sf_format_time(b->start, start, sizeof start), sf_format_time(b->end, end, sizeof end),
                  sf_format_time(b->busy, busy, sizeof busy));
}

static void bar_draw(const struct timeline *tl, const struct bar *b, double y, bool compute, const char *role) {
    if (b->ops == 0) {
        return;
    }
    double width = b->x1 - b->x0 < 0.3 ? 0.3 : b->x1 - b->x0;
    width -= width > 4 ? 0.7 : 0; /* a hair between neighbours, so that single ops can be told apart */
    sf_buf_printf(tl->out, "<rect class='op k%d' x='%.2f' y='%.1f' width='%.2f' height='%.1f'>", b->kind, b->x0,
                  compute ? y : y + tl->compute + 1.5, width, compute ? tl->compute : COMM);
    bar_title(tl, b, role);
    sf_buf_printf(tl->out, "</rect>\n");
}

static struct bar bar_of(const struct timeline *tl, const struct sf_trace_rec *r, int kind, sf_time_ps origin) {
    struct bar b = {.kind = kind, .rank = r->rank, .op = r->op, .ops = 1, .busy = r->busy};
    b.start = r->start - origin;
    b.end = r->end - origin;
    b.x0 = LEFT + (double)b.start / tl->ps_per_pixel;
    b.x1 = LEFT + (double)b.end / tl->ps_per_pixel;
    return b;
}

static bool bar_merge(struct bar *last, const struct bar *next) {
    bool thin = last->x1 - last->x0 < THIN * (double)last->ops && next->x1 - next->x0 < THIN;
    if (last->ops == 0 || last->kind != next->kind || !thin || next->x0 - last->x1 > THIN) {
        return false;
    }
    last->x1 = next->x1 > last->x1 ? next->x1 : last->x1;
    last->end = next->end > last->end ? next->end : last->end;
    last->busy += next->busy;
    last->ops += next->ops;
    return true;
}

static int by_start(const void *pa, const void *pb) {
    const struct sf_trace_rec *a = *(const struct sf_trace_rec *const *)pa;
    const struct sf_trace_rec *b = *(const struct sf_trace_rec *const *)pb;
    if (a->start != b->start) {
        return a->start < b->start ? -1 : 1;
    }
    return a->op < b->op ? -1 : a->op > b->op;
}

/* One band of a lane: compute, or everything else. */
static void band_draw(const struct timeline *tl, const struct sf_trace_rec *const *recs, size_t n, bool compute,
                      double y, int side) {
    const char *role = side == 0 ? "predicted" : "measured";
    struct bar last = {0};
    for (size_t i = 0; i < n; i++) {
        int kind = sfi_op(tl->report->prog, recs[i]->rank, recs[i]->op)->kind;
        if ((sf_op_group(kind) == SF_OP_IS_COMPUTE) != compute) {
            continue;
        }
        struct bar next = bar_of(tl, recs[i], kind, tl->origin[side]);
        if (!bar_merge(&last, &next)) {
            bar_draw(tl, &last, y, compute, role);
            last = next;
        }
    }
    bar_draw(tl, &last, y, compute, role);
}

static int lane_draw(const struct timeline *tl, uint32_t rank, int side, double y, struct sf_err *err) {
    const struct sf_trace *t = side == 0 ? tl->report->predicted : tl->report->measured;
    uint32_t iter = side == 0 ? t->recs[t->recs_n - 1].iter : tl->report->compare->typical_iter;
    size_t first, end;
    block_find(t, iter, rank, &first, &end);
    sf_buf_printf(tl->out,
                  "<rect class='track' x='%.0f' y='%.1f' width='%.0f' height='%.1f'/>"
                  "<text x='%.0f' y='%.1f' text-anchor='end'>%s</text>\n",
                  LEFT, y, WIDTH - LEFT - RIGHT, tl->lane, LEFT - 10, y + tl->lane / 2 + 4,
                  side == 0 ? "predicted" : "measured");
    const struct sf_trace_rec **recs = sf_calloc(end - first, sizeof *recs);
    if (recs == NULL) {
        return sf_fail_memory(err, "report timeline");
    }
    for (size_t i = first; i < end; i++) {
        recs[i - first] = &t->recs[i];
    }
    qsort(recs, end - first, sizeof *recs, by_start);
    band_draw(tl, recs, end - first, true, y, side);
    band_draw(tl, recs, end - first, false, y, side);
    sf_free(recs);
    return 0;
}

static void axis_draw(const struct timeline *tl, double height, double span_ms) {
    double step = sfi_tick(span_ms, 9);
    int digits = step < 1 ? (int)ceil(-log10(step)) : 0;
    for (int i = 0; i * step <= span_ms * (1 + 1e-9); i++) {
        double x = LEFT + i * step * 1e9 / tl->ps_per_pixel;
        sf_buf_printf(tl->out,
                      "<line class='grid' x1='%.1f' y1='%.0f' x2='%.1f' y2='%.0f'/>"
                      "<text x='%.1f' y='%.0f' text-anchor='middle'>%.*f%s</text>\n",
                      x, TOP, x, height - 22, x, height - 7, digits, i * step, i == 0 ? "&#8201;ms" : "");
    }
}

static void legend(const struct sf_report *r, struct sf_buf *out) {
    sf_buf_printf(out, "<div class='legend'>");
    for (size_t i = 0; i < r->compare->kinds_n; i++) {
        sf_buf_printf(out, "<span><i class='chip k%d'></i>%s</span>", r->compare->kinds[i].kind,
                      r->compare->kinds[i].name);
    }
    sf_buf_printf(out, "</div>\n");
}

static int lanes(const struct timeline *tl, uint32_t ranks, struct sf_err *err) {
    for (uint32_t rank = 0; rank < ranks; rank++) {
        double y = TOP + 2 + rank * (2 * tl->lane + LANE_GAP + PAIR_GAP);
        sf_buf_printf(tl->out, "<text class='rank' x='0' y='%.1f'>rank %u</text>\n", y + tl->lane + LANE_GAP / 2 + 4,
                      rank);
        SF_TRY(lane_draw(tl, rank, 0, y, err));
        SF_TRY(lane_draw(tl, rank, 1, y + tl->lane + LANE_GAP, err));
    }
    return 0;
}

int sfi_report_timeline(const struct sf_report *r, struct sf_buf *out, struct sf_err *err) {
    struct timeline tl = {.report = r, .out = out};
    uint32_t ranks = last_rank_shown(r);
    sf_time_ps end[2] = {0, 0};
    uint32_t p_iter = r->predicted->recs[r->predicted->recs_n - 1].iter;
    extent(r->predicted, p_iter, ranks, &tl.origin[0], &end[0]);
    extent(r->measured, r->compare->typical_iter, ranks, &tl.origin[1], &end[1]);
    sf_time_ps span = end[0] - tl.origin[0] > end[1] - tl.origin[1] ? end[0] - tl.origin[0] : end[1] - tl.origin[1];
    span = span < 1 ? 1 : span;
    tl.ps_per_pixel = (double)span / (WIDTH - LEFT - RIGHT);
    tl.compute = ranks <= 4 ? 28 : 16;
    tl.lane = tl.compute + COMM + 2;
    double height = TOP + ranks * (2 * tl.lane + LANE_GAP + PAIR_GAP) - PAIR_GAP + 32;
    sf_buf_printf(out,
                  "<section><h2>Timeline</h2><p class='hint'>One step on one axis. Compute fills a lane, transfers and "
                  "loads run along its lower edge. Measured: iteration %u, whose wall time is the median",
                  r->compare->typical_iter);
    if (ranks < sf_prog_ranks(r->prog)) {
        sf_buf_printf(out, "; the first %u of %u ranks", ranks, sf_prog_ranks(r->prog));
    }
    sf_buf_printf(out, ". Point at an op for its name and times.</p>\n");
    legend(r, out);
    sf_buf_printf(out, "<svg viewBox='0 0 %.0f %.0f' role='img' aria-label='predicted and measured timeline'>\n", WIDTH,
                  height);
    axis_draw(&tl, height, (double)span / 1e9);
    SF_TRY(lanes(&tl, ranks, err));
    sf_buf_printf(out, "</svg></section>\n");
    return 0;
}
