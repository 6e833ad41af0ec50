/* One drawing of a cluster: a scale-up domain, a pod, all pods with their cores, and the counts. Colour is the rail,
 * from the GPU to its leaf. What does not fit is drawn in part and its count written beside it. */
#include <math.h>
#include <stdio.h>

#include "topo/topo_state.h"

#define INK "#1d2433"
#define MUTED "#6b7385"
#define LINE "#d9dee8"
#define STEEL "#8792a8"
#define SPARE "#f0a020"

struct box {
    double x, y, w, h;
};

static const char *const rail_colours[] = {"#2f6fde", "#12a594", "#e5484d", "#f0a020",
                                           "#8e4ec6", "#46a758", "#d6409f", "#00a2c7"};

static const char *rail_colour(uint64_t rail) {
    return rail_colours[rail % (sizeof rail_colours / sizeof *rail_colours)];
}

static uint32_t at_most(uint64_t n, uint32_t limit) {
    return n < limit ? (uint32_t)n : limit;
}

static double least(double a, double b) {
    return a < b ? a : b;
}

static void escape(struct sf_buf *out, const char *text) {
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '<') {
            sf_buf_printf(out, "&lt;");
        } else if (*c == '&') {
            sf_buf_printf(out, "&amp;");
        } else {
            sf_buf_write(out, (unsigned char)*c < ' ' ? "?" : c, 1);
        }
    }
}

static const char *plural(uint64_t n) {
    return n == 1 ? "" : "s";
}

/* Columns of a grid for n cells in a box: near the wanted shape of a cell, with few empty places in the last row. */
static uint32_t grid_columns(uint32_t n, double w, double h, double aspect) {
    uint32_t best = 1;
    double best_score = INFINITY;
    for (uint32_t columns = 1; columns <= n; columns++) {
        uint32_t rows = (n + columns - 1) / columns;
        double shape = fabs(log(w / columns * rows / h / aspect));
        double score = shape + (double)(rows * columns - n) / columns;
        if (score < best_score) {
            best = columns;
            best_score = score;
        }
    }
    return best;
}

/* style is a class of the style sheet at the top of the document. */
static void text(struct sf_buf *out, double x, double y, const char *style, const char *content) {
    sf_buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, style);
    escape(out, content);
    sf_buf_printf(out, "</text>\n");
}

static void rect(struct sf_buf *out, struct box b, double radius, const char *fill) {
    sf_buf_printf(out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" rx=\"%.1f\" fill=\"%s\"/>\n", b.x,
                  b.y, b.w, b.h, radius, fill);
}

static void frame(struct sf_buf *out, struct box b, double radius, const char *fill, const char *stroke) {
    sf_buf_printf(
        out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" rx=\"%.1f\" fill=\"%s\" stroke=\"%s\"/>\n",
        b.x, b.y, b.w, b.h, radius, fill, stroke);
}

static void panel(struct sf_buf *out, struct box b, const char *title, const char *subtitle) {
    frame(out, b, 14, "#ffffff", LINE);
    text(out, b.x + 22, b.y + 34, "title", title);
    text(out, b.x + 22, b.y + 55, "note", subtitle);
}

static void begin(struct sf_buf *out, const struct sf_topo *t, double w, double h) {
    char gpus[32], domains[32], in_use[32], line[256];
    sf_buf_printf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\">\n"
        "<style>text{font-family:Inter,'Helvetica Neue',Arial,sans-serif;fill:" INK "}"
        ".name{font-size:28px;font-weight:700;letter-spacing:-.4px}.lead{font-size:15px;fill:" MUTED "}"
        ".title{font-size:16px;font-weight:650}.note{font-size:12.5px;fill:" MUTED "}"
        ".small{font-size:11px;fill:" MUTED "}"
        ".count{font-size:17px;font-weight:700;letter-spacing:-.3px}</style>\n",
        w, h, w, h);
    rect(out, (struct box){0, 0, w, h}, 0, "#f5f7fb");
    text(out, 40, 52, "name", t->name);
    snprintf(line, sizeof line, "%s \u00d7 %s in %s domain%s of %u, %s in use",
             sf_format_count(t->seats, gpus, sizeof gpus), t->device.name,
             sf_format_count(t->domains, domains, sizeof domains), plural(t->domains), t->domain.gpus,
             sf_format_count(t->in_use, in_use, sizeof in_use));
    text(out, 40, 77, "lead", line);
}

/* ---- the domain ---- */

static void draw_tray(struct sf_buf *out, const struct sf_topo *t, struct box b, uint32_t tray) {
    uint32_t gpus = at_most(t->domain.gpus_per_tray, 16), cpus = at_most(t->domain.cpus_per_tray, 4);
    uint64_t first = (uint64_t)tray * t->domain.gpus_per_tray;
    double inner = b.h - 6, cpu_w = cpus > 0 ? 26 : 0, step = (b.w - 11 - cpu_w * cpus / 2) / gpus;
    frame(out, b, 4, "#f1f4f9", "#c9d1de");
    for (uint32_t i = 0; i < cpus; i++) {
        rect(out, (struct box){b.x + 6 + i * cpu_w / 2, b.y + 3, cpu_w / 2 - 4, inner}, 2, STEEL);
    }
    for (uint32_t i = 0; i < gpus; i++) {
        struct box gpu = {b.x + 8 + cpu_w * cpus / 2 + i * step, b.y + 3, step - 5, inner};
        rect(out, gpu, 3, rail_colour((first + i) % sf_topo_rails(t)));
    }
}

static void draw_switch_tray(struct sf_buf *out, struct box b, uint32_t chips) {
    double step = (b.w - 11) / chips;
    frame(out, b, 4, "#2a3347", "#2a3347");
    for (uint32_t i = 0; i < chips; i++) {
        rect(out, (struct box){b.x + 8 + i * step, b.y + b.h / 2 - 2, step - 5, 4}, 2, "#9fb2d8");
    }
}

static void domain_facts(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    const struct sf_device_class *d = &t->device;
    char memory[32], line[160];
    bool bf16 = d->flops_per_s[SF_BF16] > 0;
    double rate = (double)d->memory_bytes_per_s * 1e-9;
    bool tera = rate >= 1000;
    snprintf(line, sizeof line, "%s: %s at %.4g %s", d->name, sf_format_bytes(d->memory_bytes, memory, sizeof memory),
             tera ? rate * 1e-3 : rate, tera ? "TB/s" : "GB/s");
    text(out, b.x + 24, b.y + b.h - 59, "small", line);
    snprintf(line, sizeof line, "%.5g TFLOP/s %s, dense peak", d->flops_per_s[bf16 ? SF_BF16 : SF_F32] * 1e-12,
             bf16 ? "bf16" : "f32");
    text(out, b.x + 24, b.y + b.h - 41, "small", line);
    snprintf(line, sizeof line, "%s: %.4g GB/s each way, %.4g usable", t->up.name,
             (double)t->up.peak_bytes_per_s * 1e-9, (double)t->up.bytes_per_s * 1e-9);
    text(out, b.x + 24, b.y + b.h - 23, "small", line);
}

/* Trays with the switch chips, two to a row, between them as in an NVL72 rack. */
static void draw_domain(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    uint32_t trays = at_most(t->domain.trays, 36), rows = at_most((t->domain.nvswitches + 1) / 2, 12);
    uint32_t above = trays - trays * 4 / 9;
    bool partly = trays < t->domain.trays || t->domain.gpus_per_tray > 16 || t->domain.nvswitches > 24;
    char line[128];
    snprintf(line, sizeof line, "%u GPUs, %u tray%s, %u switch%s%s", t->domain.gpus, t->domain.trays,
             plural(t->domain.trays), t->domain.nvswitches, t->domain.nvswitches == 1 ? "" : "es",
             partly ? ", in part" : "");
    panel(out, b, t->kind, line);
    double h = least((b.h - 176) / (trays + rows), 84);
    struct box row = {b.x + 34, b.y + 82, b.w - 68, h - 3};
    frame(out, (struct box){b.x + 24, b.y + 72, b.w - 48, h * (trays + rows) + 17}, 8, "none", "#aab4c5");
    for (uint32_t i = 0; i < trays + rows; i++, row.y += h) {
        if (i >= above && i < above + rows) {
            uint32_t chip = (i - above) * 2;
            draw_switch_tray(out, row, chip + 1 < t->domain.nvswitches ? 2 : 1);
        } else {
            draw_tray(out, t, row, i < above ? i : i - rows);
        }
    }
    domain_facts(out, t, b);
}

/* ---- the pod ---- */

/* A row of n switches; `limit` of them are drawn. Returns the distance between their centres. */
static double switch_row(struct sf_buf *out, struct box b, uint32_t drawn, uint32_t rails) {
    double step = b.w / drawn, w = least(step * 0.72, 26);
    for (uint32_t i = 0; i < drawn; i++) {
        struct box s = {b.x + (i + 0.5) * step - w / 2, b.y, w, b.h};
        rect(out, s, least(w / 3, 4), rails > 0 ? rail_colour(i % rails) : "#2a3347");
    }
    return step;
}

/* Some of the cables between two rows: enough to see that every switch below meets every one above. */
static void weave(struct sf_buf *out, struct box lower, uint32_t lower_n, struct box upper, uint32_t upper_n) {
    uint32_t low_drawn = at_most(lower_n, 19), up_drawn = at_most(upper_n, 19);
    sf_buf_printf(out, "<path fill=\"none\" stroke=\"#7f8fb0\" stroke-opacity=\".3\" stroke-width=\".8\" d=\"");
    for (uint32_t i = 0; i < low_drawn; i++) {
        uint32_t low = low_drawn > 1 ? i * (lower_n - 1) / (low_drawn - 1) : 0;
        for (uint32_t j = 0; j < up_drawn; j++) {
            uint32_t up = up_drawn > 1 ? j * (upper_n - 1) / (up_drawn - 1) : 0;
            sf_buf_printf(out, "M%.1f %.1fL%.1f %.1f", lower.x + (low + 0.5) * lower.w / lower_n, lower.y,
                          upper.x + (up + 0.5) * upper.w / upper_n, upper.y + upper.h);
        }
    }
    sf_buf_printf(out, "\"/>\n");
}

/* The groups below their leaves: a column of domains each. */
static void draw_groups(struct sf_buf *out, const struct sf_topo *t, struct box b, uint32_t groups) {
    uint32_t domains = at_most(t->fabric.group_domains, 18);
    double step = b.w / groups, w = least(step - 3, 60), h = least((b.h - 4) / domains, 34);
    for (uint32_t g = 0; g < groups; g++) {
        double x = b.x + (g + 0.5) * step - w / 2;
        frame(out, (struct box){x, b.y, w, h * domains + 4}, 3, "#f1f4f9", "#c9d1de");
        for (uint32_t d = 0; d < domains; d++) {
            rect(out, (struct box){x + 3, b.y + 3 + d * h, w - 6, h - 2}, 1.5, "#b9c6e2");
        }
    }
}

static void pod_captions(struct sf_buf *out, const struct sf_topo *t, struct box b, double leaves_y) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t groups = at_most(f->groups, f->groups_per_pod);
    char line[160];
    if (f->tiers > 1) {
        snprintf(line, sizeof line, "%u spine%s of %u ports", f->pod_spines, plural(f->pod_spines),
                 t->fabric_switch.ports);
        text(out, b.x + 24, b.y + 88, "small", line);
    }
    snprintf(line, sizeof line, "%u leaves: %u ports down, %u up", groups * f->rails, f->leaf_down, f->leaf_up);
    text(out, b.x + 24, leaves_y + 34, "small", line);
    snprintf(line, sizeof line, "%u group%s of %u domain%s, %u NIC%s of a domain on each rail", groups, plural(groups),
             f->group_domains, plural(f->group_domains), f->rail_nics, plural(f->rail_nics));
    text(out, b.x + 24, b.y + b.h - 44, "small", line);
    for (uint32_t i = 0; i < at_most(f->rails, 8); i++) {
        rect(out, (struct box){b.x + 24 + i * 52, b.y + b.h - 31, 9, 9}, 2, rail_colour(i));
        snprintf(line, sizeof line, "rail %u", i);
        text(out, b.x + 37 + i * 52, b.y + b.h - 23, "small", line);
    }
}

static void draw_pod(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t groups = at_most(f->groups, f->groups_per_pod), drawn = at_most(groups, f->rails < 72 ? 72 / f->rails : 1);
    uint32_t spines = at_most(f->pod_spines, 72);
    char line[128];
    snprintf(line, sizeof line, "%s, %s per GPU", t->fabric_switch.name, t->out.name);
    panel(out, b, f->tiers > 2 ? "pod" : "fabric", line);
    struct box upper = {b.x + 24, b.y + 98, b.w - 48, 22}, lower = {b.x + 24, b.y + b.h * 0.52, b.w - 48, 22};
    if (spines > 0) {
        weave(out, lower, drawn * f->rails, upper, spines);
        switch_row(out, upper, spines, 0);
    }
    switch_row(out, lower, drawn * f->rails, f->rails);
    sf_buf_printf(out, "<path fill=\"none\" stroke=\"#7f8fb0\" stroke-opacity=\".55\" d=\"");
    double step = lower.w / drawn, groups_y = lower.y + 88;
    for (uint32_t i = 0; i < drawn * f->rails; i++) {
        double x = lower.x + (i + 0.5) * step / f->rails, to = lower.x + (i / f->rails + 0.5) * step;
        sf_buf_printf(out, "M%.1f %.1fL%.1f %.1f", x, lower.y + 42, to, groups_y);
    }
    sf_buf_printf(out, "\"/>\n");
    draw_groups(out, t, (struct box){lower.x, groups_y, lower.w, b.y + b.h - 66 - groups_y}, drawn);
    pod_captions(out, t, b, lower.y);
}

/* ---- the cluster ---- */

/* Cores as a matrix: a column per plane, which is a spine's index in its pod. */
static double draw_cores(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t planes = at_most(f->pod_spines, 96), rows = at_most(f->plane_cores, 32);
    double step = b.w / planes, h = least(step, 5), w = least(step - 1.4, 12);
    char line[128], cores[32];
    sf_format_count((uint64_t)f->plane_cores * f->pod_spines, cores, sizeof cores);
    snprintf(line, sizeof line, "%s cores in %u plane%s, %u cable%s to each from the spines of its plane", cores,
             f->pod_spines, plural(f->pod_spines), f->core_cables, plural(f->core_cables));
    text(out, b.x, b.y - 8, "small", line);
    sf_buf_printf(out, "<path fill=\"#46557a\" d=\"");
    for (uint32_t i = 0; i < planes * rows; i++) {
        sf_buf_printf(out, "M%.1f %.1fh%.1fv%.1fh-%.1fz", b.x + i % planes * step, b.y + i / planes * h, w, h - 1.4, w);
    }
    sf_buf_printf(out, "\"/>\n");
    return b.y + rows * h;
}

static uint32_t used_gpus(const struct sf_topo *t, uint64_t domain) {
    uint64_t first = domain * t->domain.gpus;
    return first >= t->in_use ? 0 : at_most(t->in_use - first, t->domain.gpus);
}

static const char *const domain_fills[] = {"#2f6fde", SPARE, "#e4e8f0"};

/* 0: all its GPUs in use, 1: some or none, 2: no such domain. */
static size_t domain_state(const struct sf_topo *t, uint64_t domain) {
    return domain >= t->domains ? 2 : used_gpus(t, domain) < t->domain.gpus;
}

/* The places of one pod as squares, a path per state. */
static void draw_pod_cell(struct sf_buf *out, const struct sf_topo *t, struct box b, uint32_t pod, uint32_t limit) {
    uint64_t places = (uint64_t)t->fabric.groups_per_pod * t->fabric.group_domains, first = pod * places;
    uint32_t drawn = at_most(places, limit), columns = grid_columns(drawn, b.w - 8, b.h - 8, 1);
    uint32_t rows = (drawn + columns - 1) / columns;
    double pitch = least(least((b.w - 8) / columns, (b.h - 8) / rows), 84), size = pitch * 0.8;
    double x = b.x + (b.w - columns * pitch) / 2, y = b.y + (b.h - rows * pitch) / 2;
    frame(out, (struct box){x - 4, y - 4, columns * pitch + 8 - pitch * 0.2, rows * pitch + 8 - pitch * 0.2}, 4,
          "#ffffff", "#c9d1de");
    for (size_t state = 0; state < 3; state++) {
        sf_buf_printf(out, "<path fill=\"%s\" d=\"M0 0", domain_fills[state]);
        for (uint32_t i = 0; i < drawn; i++) {
            if (domain_state(t, first + i) == state) {
                sf_buf_printf(out, "M%.1f %.1fh%.1fv%.1fh-%.1fz", x + i % columns * pitch, y + i / columns * pitch,
                              size, size, size);
            }
        }
        sf_buf_printf(out, "\"/>\n");
    }
}

static void cluster_legend(struct sf_buf *out, const struct sf_topo *t, struct box b, uint32_t drawn) {
    static const char *const names[] = {"domain in use", "spare seats in it", "empty place"};
    double y = b.y + b.h - 31;
    for (uint32_t i = 0; i < 3; i++) {
        rect(out, (struct box){b.x + 24 + i * 118, y, 9, 9}, 2, domain_fills[i]);
        text(out, b.x + 38 + i * 118, y + 8, "small", names[i]);
    }
    if (drawn < t->fabric.pods) {
        char line[64];
        snprintf(line, sizeof line, "%u of %u pods drawn", drawn, t->fabric.pods);
        text(out, b.x + 38 + 3 * 118, y + 8, "small", line);
    }
}

static void draw_cluster(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t pods = at_most(f->pods, 80), limit = 12000 / pods;
    char line[128];
    snprintf(line, sizeof line, "%u pod%s, %u tier%s, oversubscription %g at the leaves", f->pods,
             f->pods > 1 ? "s" : "", f->tiers, f->tiers > 1 ? "s" : "",
             f->leaf_up > 0 ? (double)f->leaf_down / f->leaf_up : 1.0);
    panel(out, b, "cluster", line);
    double top = f->tiers > 2 ? draw_cores(out, t, (struct box){b.x + 24, b.y + 98, b.w - 48, 0}) : b.y + 34;
    double y = top + 42, height = b.y + b.h - 46 - y;
    uint32_t columns = grid_columns(pods, b.w - 48, height, 1.1), rows = (pods + columns - 1) / columns;
    if (f->tiers > 2) {
        weave(out, (struct box){b.x + 24, y + 2, b.w - 48, 1}, columns, (struct box){b.x + 24, top - 1, b.w - 48, 1},
              at_most(f->pod_spines, 96));
    }
    double w = (b.w - 48) / columns, h = height / rows;
    for (uint32_t i = 0; i < pods; i++) {
        struct box cell = {b.x + 24 + i % columns * w + 2, y + i / columns * h + 2, w - 4, h - 4};
        draw_pod_cell(out, t, cell, i, limit);
    }
    cluster_legend(out, t, b, pods);
}

/* ---- the counts ---- */

struct card {
    char value[48];
    const char *label;
};
#define CARDS 9
#define CARD_SWITCHES 6 /* three numbers, so wider */

static uint32_t fill_cards(const struct sf_topo *t, struct card cards[CARDS]) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    const struct {
        const char *label;
        uint64_t value;
    } counts[CARDS] = {
        {"GPUs", n.gpus},
        {"domains", n.domains},
        {"CPUs", n.cpus},
        {"switch chips", n.nvswitches},
        {"scale-up links", n.links_nvlink},
        {"NICs", n.nics},
        {"leaf / spine / core", n.leaves},
        {"fabric cables", n.links_nic + n.links_leaf_spine + n.links_spine_core},
        {"bisection", n.bisection_bytes_per_s},
    };
    for (uint32_t i = 0; i < CARDS; i++) {
        cards[i].label = counts[i].label;
        sf_format_count(counts[i].value, cards[i].value, sizeof cards[i].value);
    }
    snprintf(cards[CARD_SWITCHES].value, sizeof cards[0].value, "%llu / %llu / %llu", (unsigned long long)n.leaves,
             (unsigned long long)n.spines, (unsigned long long)n.cores);
    double terabytes = (double)n.bisection_bytes_per_s * 1e-12;
    bool peta = terabytes >= 1000;
    snprintf(cards[CARDS - 1].value, sizeof cards[0].value, "%.3g %s", peta ? terabytes * 1e-3 : terabytes,
             peta ? "PB/s" : "TB/s");
    return n.nics > 0 ? CARDS : 5;
}

static void draw_card(struct sf_buf *out, struct box b, const struct card *card) {
    frame(out, b, 12, "#ffffff", LINE);
    text(out, b.x + 14, b.y + b.h / 2 - 1, "count", card->value);
    text(out, b.x + 14, b.y + b.h / 2 + 20, "note", card->label);
}

static void draw_cards_row(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    struct card cards[CARDS];
    uint32_t n = fill_cards(t, cards);
    double unit = (b.w - 10 * (n - 1)) / (n + 0.7), x = b.x;
    for (uint32_t i = 0; i < n; i++) {
        double w = i == CARD_SWITCHES ? unit * 1.7 : unit;
        draw_card(out, (struct box){x, b.y, w, b.h}, &cards[i]);
        x += w + 10;
    }
}

static void draw_cards_column(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    struct card cards[CARDS];
    uint32_t n = fill_cards(t, cards);
    double h = (b.h - 16 * (n - 1)) / n;
    for (uint32_t i = 0; i < n; i++) {
        draw_card(out, (struct box){b.x, b.y + i * (h + 16), b.w, h}, &cards[i]);
    }
}

int sf_topo_svg(const struct sf_topo *t, struct sf_buf *out) {
    if (t->fabric.tiers == 0) {
        begin(out, t, 700, 800);
        draw_domain(out, t, (struct box){40, 104, 380, 656});
        draw_cards_column(out, t, (struct box){440, 104, 220, 656});
    } else {
        begin(out, t, 1400, 900);
        draw_domain(out, t, (struct box){40, 104, 300, 656});
        draw_pod(out, t, (struct box){360, 104, 470, 656});
        draw_cluster(out, t, (struct box){850, 104, 510, 656});
        draw_cards_row(out, t, (struct box){40, 780, 1320, 80});
    }
    sf_buf_printf(out, "</svg>\n");
    return out->failed ? SF_E_INTERNAL : 0;
}
