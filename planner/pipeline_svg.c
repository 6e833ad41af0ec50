/* A table over time as a drawing: a lane per device, forward, backward and weight gradients in three colours, chunks in
 * shades of them, the microbatch's number where there is room. */
#include "planner/pipe_internal.h"

#include <stdio.h>
#include <string.h>

#define WIDTH 1400
#define LEFT 56
#define RIGHT 20
#define TOP 92.0
#define BOTTOM 44.0
#define LANE_HIGH 26.0
#define LANE_LOW 5.0
#define GAP 3.0
#define HEIGHT_WANTED 900.0
#define NUMBER_ROOM 6.4 /* pixels that a digit takes */
#define DENSE 2.0       /* pixels per pass: below, a lane shows for each pixel the pass in its middle */

struct drawing {
    const struct sf_pipe *p;
    sf_time_ps *const *start, *const *end;
    struct sf_buf *out;
    double per_pixel, lane;
};

/* hue and saturation of F, B, W, BW, F of a pair */
static const char *const hues[SF_PASS_KINDS] = {"214,72%", "158,58%", "32,88%", "158,58%", "214,72%"};

static void print_escaped(struct sf_buf *out, const char *text) {
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '<':
            sf_buf_printf(out, "&lt;");
            break;
        case '>':
            sf_buf_printf(out, "&gt;");
            break;
        case '&':
            sf_buf_printf(out, "&amp;");
            break;
        default:
            sf_buf_printf(out, "%c", (unsigned char)*text >= ' ' && (unsigned char)*text < 127 ? *text : '?');
        }
    }
}

static double x_of(const struct drawing *d, sf_time_ps t) {
    return LEFT + (double)t / d->per_pixel;
}

static double y_of(const struct drawing *d, uint32_t device) {
    return TOP + device * (d->lane + (d->lane > 12 ? GAP : 1));
}

/* Later chunks are darker. */
static int lightness(const struct sf_pipe *p, const struct sf_pass *x) {
    uint32_t chunks = p->stages / p->devices, chunk = x->stage / p->devices;
    return chunks == 1 ? 62 : 70 - (int)(26 * chunk / (chunks - 1));
}

struct box {
    double x0, x1, y, height;
    const struct sf_pass *pass;
    bool numbered;
};

static void print_box(const struct drawing *d, const struct box *b) {
    const struct sf_pass *x = b->pass;
    int light = lightness(d->p, x);
    char text[16];
    sf_buf_printf(d->out, "<rect x='%.2f' y='%.2f' width='%.2f' height='%.2f' fill='hsl(%s,%d%%)'/>\n", b->x0, b->y,
                  b->x1 - b->x0, b->height, hues[x->kind], light);
    int n = snprintf(text, sizeof text, "%u", x->microbatch);
    if (b->numbered && b->height >= 11 && b->x1 - b->x0 >= NUMBER_ROOM * n + 2) {
        sf_buf_printf(d->out, "<text x='%.2f' y='%.2f' fill='%s'>%s</text>\n", (b->x0 + b->x1) / 2,
                      b->y + b->height / 2 + 3.6, light < 58 ? "#fff" : "#0b1f33", text);
    }
}

static struct box box_of(const struct drawing *d, uint32_t device, uint32_t i) {
    const struct sf_pass *x = &d->p->passes[device][i];
    struct box b = {.x0 = x_of(d, d->start[device][i]),
                    .x1 = x_of(d, d->end[device][i]),
                    .y = y_of(d, device),
                    .height = d->lane,
                    .pass = x,
                    .numbered = true};
    bool first = x->kind == SF_PASS_F_PAIR, second = i > 0 && x[-1].kind == SF_PASS_F_PAIR;
    b.height = first || second ? d->lane / 2 : d->lane; /* passes of a pair share the lane */
    b.y += second ? d->lane / 2 : 0;
    return b;
}

static bool looks_like(const struct sf_pass *a, const struct sf_pass *b, uint32_t devices) {
    return a == b || (a != NULL && b != NULL && a->kind == b->kind && a->stage / devices == b->stage / devices);
}

/* Runs of pixels with one look. */
static void print_dense(const struct drawing *d, uint32_t device) {
    struct sfi_column pixels[WIDTH - LEFT - RIGHT];
    uint32_t n = sizeof pixels / sizeof *pixels;
    sfi_pipe_columns(d->p, device, d->start, d->end, d->per_pixel, pixels, n);
    for (uint32_t i = 0; i < n;) {
        uint32_t from = i;
        while (i < n && looks_like(pixels[from].pass, pixels[i].pass, d->p->devices)) {
            i++;
        }
        if (pixels[from].pass != NULL) {
            struct box b = {
                .x0 = LEFT + from, .x1 = LEFT + i, .y = y_of(d, device), .height = d->lane, .pass = pixels[from].pass};
            print_box(d, &b);
        }
    }
}

static void print_lane(const struct drawing *d, uint32_t device) {
    double y = y_of(d, device);
    uint32_t n = d->p->passes_n[device];
    sf_buf_printf(d->out, "<rect x='%d' y='%.2f' width='%d' height='%.2f' fill='#eef1f5'/>\n", LEFT, y,
                  WIDTH - LEFT - RIGHT, d->lane);
    if (d->lane > 9 || device % 8 == 0) {
        sf_buf_printf(d->out, "<text class='d' x='%d' y='%.2f'>%u</text>\n", LEFT - 8, y + d->lane / 2 + 4, device);
    }
    if (n * DENSE > WIDTH - LEFT - RIGHT) {
        print_dense(d, device);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct box b = box_of(d, device, i);
        print_box(d, &b);
    }
}

/* 1, 2 or 5 times a power of ten, six to fourteen ticks. */
static sf_time_ps tick_of(sf_time_ps whole) {
    sf_time_ps tick = 1;
    for (int i = 0; whole / tick > 14; i++) {
        tick = i % 3 == 1 ? tick / 2 * 5 : tick * 2;
    }
    return tick;
}

static void print_axis(const struct drawing *d, sf_time_ps whole) {
    double y = y_of(d, d->p->devices) + 4;
    sf_time_ps tick = tick_of(whole);
    char text[48];
    for (sf_time_ps t = 0; t <= whole; t += tick) {
        sf_buf_printf(d->out,
                      "<path d='M%.2f %.2fV%.2f' stroke='#9aa7b5'/>\n<text class='a' x='%.2f' y='%.2f'>%s</text>\n",
                      x_of(d, t), y, y + 5, x_of(d, t), y + 19, t == 0 ? "0" : sf_format_time(t, text, sizeof text));
    }
}

static void print_legend(const struct drawing *d) {
    static const struct {
        int kind;
        const char *text;
    } entries[] = {{SF_PASS_F, "forward"}, {SF_PASS_B, "backward"}, {SF_PASS_W, "weight gradient"}};
    double x = LEFT;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        sf_buf_printf(d->out,
                      "<rect x='%.1f' y='66' width='14' height='14' rx='2' fill='hsl(%s,62%%)'/>\n"
                      "<text class='l' x='%.1f' y='77.5'>%s</text>\n",
                      x, hues[entries[i].kind], x + 20, entries[i].text);
        x += 46 + 6.6 * (double)strlen(entries[i].text);
    }
    sf_buf_printf(d->out,
                  "<rect x='%.1f' y='66' width='14' height='14' rx='2' fill='#eef1f5' stroke='#c8d0d9'/>\n"
                  "<text class='l' x='%.1f' y='77.5'>idle%s</text>\n",
                  x, x + 20, d->p->stages > d->p->devices ? "; later chunks are darker" : "");
}

void sf_pipe_svg(const struct sf_pipe *p, sf_time_ps *const *start, sf_time_ps *const *end, const char *title,
                 const char *subtitle, struct sf_buf *out) {
    sf_time_ps whole = sfi_pipe_last_end(p, end);
    double lane = HEIGHT_WANTED / p->devices - GAP;
    struct drawing d = {.p = p,
                        .start = start,
                        .end = end,
                        .out = out,
                        .per_pixel = (double)whole / (WIDTH - LEFT - RIGHT),
                        .lane = lane > LANE_HIGH  ? LANE_HIGH
                                : lane < LANE_LOW ? LANE_LOW
                                                  : lane};
    double height = y_of(&d, p->devices) + BOTTOM;
    sf_buf_printf(out,
                  "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %.0f' width='%d' height='%.0f'>\n"
                  "<style>text{font:11px system-ui,sans-serif;text-anchor:middle}.h{font-size:20px;font-weight:600;"
                  "text-anchor:start;fill:#0b1f33}.s,.l{font-size:13px;text-anchor:start;fill:#46566a}"
                  ".d{font-size:12px;text-anchor:end;fill:#46566a}.a{fill:#6b7a8c}</style>\n"
                  "<rect width='100%%' height='100%%' fill='#fff'/>\n<text class='h' x='%d' y='30'>",
                  WIDTH, height, WIDTH, height, LEFT);
    print_escaped(out, title);
    sf_buf_printf(out, "</text>\n<text class='s' x='%d' y='51'>", LEFT);
    print_escaped(out, subtitle);
    sf_buf_printf(out, "</text>\n");
    print_legend(&d);
    for (uint32_t device = 0; device < p->devices; device++) {
        print_lane(&d, device);
    }
    print_axis(&d, whole);
    sf_buf_printf(out, "</svg>\n");
}
