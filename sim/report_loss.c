/* The loss curve. */
#include <math.h>
#include <stdio.h>

#include "sim/report_part.h"

#define WIDTH 1120.0
#define HEIGHT 240.0
#define LEFT 62.0
#define BOTTOM 30.0

struct range {
    double low, high;
};

/* Losses that are no finite number are left out of the scale and the curve. */
static struct range finite_range(const double *v, size_t n) {
    struct range r = {INFINITY, -INFINITY};
    for (size_t i = 0; i < n; i++) {
        if (isfinite(v[i])) {
            r.low = v[i] < r.low ? v[i] : r.low;
            r.high = v[i] > r.high ? v[i] : r.high;
        }
    }
    return r;
}

static double y_of(const struct range *r, double loss) {
    return 10 + (r->high - loss) / (r->high - r->low) * (HEIGHT - BOTTOM - 16);
}

static double x_of(size_t step, size_t n) {
    return LEFT + (n > 1 ? (double)step / (double)(n - 1) : 0.5) * (WIDTH - LEFT - 20);
}

static void axes(struct sf_buf *out, const struct range *r, size_t n) {
    double tick = sfi_tick(r->high - r->low, 5);
    int digits = tick < 1 ? (int)ceil(-log10(tick)) : 0;
    for (double v = ceil(r->low / tick) * tick; v <= r->high + tick * 1e-9; v += tick) {
        sf_buf_printf(out,
                      "<line class='grid' x1='%.0f' x2='%.0f' y1='%.1f' y2='%.1f'/>"
                      "<text x='%.0f' y='%.1f' text-anchor='end'>%.*f</text>\n",
                      LEFT, WIDTH - 20, y_of(r, v), y_of(r, v), LEFT - 9, y_of(r, v) + 4, digits, v);
    }
    size_t step = (size_t)fmax(1, sfi_tick((double)n, 10));
    for (size_t i = 0; i < n; i += step) {
        sf_buf_printf(out, "<text x='%.1f' y='%.0f' text-anchor='middle'>%s%zu</text>\n", x_of(i, n), HEIGHT - 8,
                      i == 0 ? "step " : "", i + 1);
    }
}

void sfi_report_loss(const struct sf_report *r, struct sf_buf *out) {
    struct range range = finite_range(r->losses, r->losses_n);
    if (r->losses == NULL || range.low > range.high) {
        return;
    }
    double pad = range.high > range.low ? (range.high - range.low) * 0.06 : fmax(1e-3, fabs(range.high) * 0.01);
    range = (struct range){range.low - pad, range.high + pad};
    sf_buf_printf(out,
                  "<section><h2>Loss</h2><p class='hint'>Mean cross entropy per token, in nats, after each step of "
                  "the measured run.</p>\n<svg viewBox='0 0 %.0f %.0f' role='img' aria-label='loss curve'>\n",
                  WIDTH, HEIGHT);
    axes(out, &range, r->losses_n);
    sf_buf_printf(out, "<polyline class='curve' points='");
    for (size_t i = 0; i < r->losses_n; i++) {
        if (isfinite(r->losses[i])) {
            sf_buf_printf(out, "%.1f,%.1f ", x_of(i, r->losses_n), y_of(&range, r->losses[i]));
        }
    }
    sf_buf_printf(out, "'/></svg></section>\n");
}
