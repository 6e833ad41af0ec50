/* One drawing of a cluster: a scale-up domain, a pod, all pods with their cores, and the counts. Colour is the rail,
 * from the GPU to its leaf; red is dead, amber spare, a red mark hurt. What does not fit is drawn in part and its count
 * written beside it. Where an overlay names something, the domain and the pod drawn are the first that have it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "topo/topo_state.h"

#define INK "#1d2433"
#define MUTED "#6b7385"
#define LINE "#d9dee8"
#define STEEL "#8792a8"
#define SPARE "#f0a020"
#define DEAD "#e5484d"
#define EMPTY "#e4e8f0"

struct box {
    double x, y, w, h;
};

/* None of them red or amber. */
static const char *const rail_colours[] = {"#2f6fde", "#12a594", "#8e4ec6", "#00a2c7",
                                           "#46a758", "#5b5bd6", "#0d74ce", "#2b9a66"};

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

/* What stands under the name: "2,304 gb200 + 9,216 gb300 in 160 domains of 72, 11,264 in use". */
static void lead(struct sf_buf *out, const struct sf_topo *t) {
    char number[32], line[256] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < t->stocks_n && n < sizeof line; i++) {
        const struct sfi_stock *s = &t->stock[i];
        sf_format_count((uint64_t)s->domains * s->domain.gpus, number, sizeof number);
        n += (size_t)snprintf(line + n, sizeof line - n, "%s%s \u00d7 %s", i > 0 ? " + " : "", number, s->device.name);
    }
    if (n < sizeof line) {
        sf_format_count(t->domains, number, sizeof number);
        n += (size_t)snprintf(line + n, sizeof line - n, " in %s domain%s of %u", number, plural(t->domains),
                              t->stock[0].domain.gpus);
    }
    if (n < sizeof line) {
        snprintf(line + n, sizeof line - n, ", %s in use", sf_format_count(t->in_use, number, sizeof number));
    }
    text(out, 40, 77, "lead", line);
}

/* What an overlay takes, at the right of the name. */
static void ailments(struct sf_buf *out, const struct sf_topo *t, double right) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    const struct {
        uint64_t n;
        const char *one, *many;
    } parts[] = {
        {n.dead_gpus, "dead GPU", "dead GPUs"},
        {n.dead_nics, "dead NIC", "dead NICs"},
        {n.dead_switches, "dead switch", "dead switches"},
        {n.dead_cables, "dead cable", "dead cables"},
        {n.degraded_links, "slow link", "slow links"},
        {n.spare_domains, "spare domain", "spare domains"},
    };
    char line[256] = "";
    size_t at = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].n > 0 && at < sizeof line) {
            at += (size_t)snprintf(line + at, sizeof line - at, "%s%llu %s", at > 0 ? ", " : "",
                                   (unsigned long long)parts[i].n, parts[i].n == 1 ? parts[i].one : parts[i].many);
        }
    }
    text(out, right, 77, "ails", line);
}

static void begin(struct sf_buf *out, const struct sf_topo *t, double w, double h) {
    sf_buf_printf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\">\n"
        "<style>text{font-family:Inter,'Helvetica Neue',Arial,sans-serif;fill:" INK "}"
        ".name{font-size:28px;font-weight:700;letter-spacing:-.4px}.lead{font-size:15px;fill:" MUTED "}"
        ".title{font-size:16px;font-weight:650}.note{font-size:12.5px;fill:" MUTED "}"
        ".small{font-size:11px;fill:" MUTED "}.ails{font-size:13px;text-anchor:end;fill:" DEAD "}"
        ".count{font-size:17px;font-weight:700;letter-spacing:-.3px}</style>\n",
        w, h, w, h);
    rect(out, (struct box){0, 0, w, h}, 0, "#f5f7fb");
    text(out, 40, 52, "name", t->name);
    lead(out, t);
    if (t->overlay.any) {
        ailments(out, t, w - 40);
    }
}

/* ---- the domain ---- */

static const char *gpu_fill(const struct sf_topo *t, uint32_t gpu) {
    const struct sfi_domain *d = &sfi_stock_of_gpu(t, gpu)->domain;
    switch (sf_topo_gpu_state(t, gpu)) {
    case SF_GPU_DEAD:
        return DEAD;
    case SF_GPU_SPARE:
        return gpu % d->gpus < d->in_use ? SPARE : EMPTY;
    default:
        return rail_colour(gpu % d->gpus % sf_topo_rails(t));
    }
}

/* `first` is the tray's first GPU. */
static void draw_tray(struct sf_buf *out, const struct sf_topo *t, struct box b, uint32_t first) {
    const struct sfi_domain *d = &sfi_stock_of_gpu(t, first)->domain;
    uint32_t gpus = at_most(d->gpus_per_tray, 16), cpus = at_most(d->cpus_per_tray, 4);
    double inner = b.h - 6, cpu_w = cpus > 0 ? 26 : 0, step = (b.w - 11 - cpu_w * cpus / 2) / gpus;
    frame(out, b, 4, "#f1f4f9", "#c9d1de");
    for (uint32_t i = 0; i < cpus; i++) {
        rect(out, (struct box){b.x + 6 + i * cpu_w / 2, b.y + 3, cpu_w / 2 - 4, inner}, 2, STEEL);
    }
    for (uint32_t i = 0; i < gpus; i++) {
        struct box gpu = {b.x + 8 + cpu_w * cpus / 2 + i * step, b.y + 3, step - 5, inner};
        rect(out, gpu, 3, gpu_fill(t, first + i));
        bool nic = t->fabric.tiers == 0 || sfi_nic_rate(t, first + i, 0, false) > 0;
        if (!nic && sf_topo_gpu_state(t, first + i) != SF_GPU_DEAD) {
            rect(out, (struct box){gpu.x + gpu.w - 7, gpu.y + gpu.h / 2 - 2.5, 5, 5}, 2.5, DEAD);
        }
    }
}

static void draw_switch_tray(struct sf_buf *out, const struct sf_topo *t, struct box b, uint64_t first,
                             uint32_t chips) {
    double step = (b.w - 11) / chips;
    frame(out, b, 4, "#2a3347", "#2a3347");
    for (uint32_t i = 0; i < chips; i++) {
        bool dead = sfi_ppm(&t->overlay.set[SFI_SET_NVSWITCH], first + i) == 0;
        rect(out, (struct box){b.x + 8 + i * step, b.y + b.h / 2 - 2, step - 5, 4}, 2, dead ? DEAD : "#9fb2d8");
    }
}

static void domain_facts(struct sf_buf *out, const struct sfi_stock *s, struct box b) {
    const struct sf_device_class *d = &s->device;
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
    snprintf(line, sizeof line, "%s: %.4g GB/s each way, %.4g usable", s->up.name,
             (double)s->up.peak_bytes_per_s * 1e-9, (double)s->up.bytes_per_s * 1e-9);
    text(out, b.x + 24, b.y + b.h - 23, "small", line);
}

static uint64_t used_before(const struct sf_topo *t, uint64_t gpu) {
    uint64_t seats = sfi_seats_before(t, gpu);
    return seats < t->in_use ? seats : t->in_use;
}

/* Something between all in use and all out of it. */
static bool is_odd(const struct sf_topo *t, uint32_t domain) {
    const struct sfi_domain *d = &sfi_stock_of_domain(t, domain)->domain;
    uint64_t first = (uint64_t)domain * d->gpus, used = used_before(t, first + d->gpus) - used_before(t, first);
    return used > 0 && used < d->in_use;
}

static uint32_t domain_to_draw(const struct sf_topo *t) {
    const struct sfi_overlay *o = &t->overlay;
    uint32_t gpus = t->stock[0].domain.gpus;
    for (uint32_t i = 0; i < o->out_n && gpus > 1; i++) {
        uint32_t domain = (uint32_t)(o->out[i].lo / gpus);
        if (is_odd(t, domain)) {
            return domain;
        }
    }
    return 0;
}

/* Trays with the switch chips, two to a row, between them as in an NVL72 rack. */
static void draw_domain(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    uint32_t domain = domain_to_draw(t);
    const struct sfi_stock *s = sfi_stock_of_domain(t, domain);
    const struct sfi_domain *d = &s->domain;
    uint32_t trays = at_most(d->trays, 36), rows = at_most((d->nvswitches + 1) / 2, 12);
    uint32_t above = trays - trays * 4 / 9;
    bool partly = trays < d->trays || d->gpus_per_tray > 16 || d->nvswitches > 24;
    char line[128], title[64];
    snprintf(title, sizeof title, domain > 0 || t->overlay.out_n > 0 ? "%s, domain %u" : "%s", s->kind, domain);
    snprintf(line, sizeof line, "%u GPUs, %u tray%s, %u switch%s%s", d->gpus, d->trays, plural(d->trays), d->nvswitches,
             d->nvswitches == 1 ? "" : "es", partly ? ", in part" : "");
    panel(out, b, title, line);
    double h = least((b.h - 176) / (trays + rows), 84);
    struct box row = {b.x + 34, b.y + 82, b.w - 68, h - 3};
    frame(out, (struct box){b.x + 24, b.y + 72, b.w - 48, h * (trays + rows) + 17}, 8, "none", "#aab4c5");
    uint64_t chip = s->first_nvswitch + (uint64_t)(domain - s->first_domain) * d->nvswitches;
    for (uint32_t i = 0; i < trays + rows; i++, row.y += h) {
        if (i >= above && i < above + rows) {
            uint32_t k = (i - above) * 2;
            draw_switch_tray(out, t, row, chip + k, k + 1 < d->nvswitches ? 2 : 1);
        } else {
            draw_tray(out, t, row, domain * d->gpus + (i < above ? i : i - rows) * d->gpus_per_tray);
        }
    }
    domain_facts(out, s, b);
}

/* ---- the pod ---- */

/* A row of switches of plane 0, from number `first` on. Those that lost cables have a red mark. */
static void switch_row(struct sf_buf *out, const struct sf_topo *t, struct box b, bool leaves, uint64_t first,
                       uint32_t drawn) {
    const struct sfi_fabric *f = &t->fabric;
    const struct sfi_ranges *set = &t->overlay.set[leaves ? SFI_SET_LEAF : SFI_SET_SPINE];
    double step = b.w / drawn, w = least(step * 0.72, 26);
    for (uint32_t i = 0; i < drawn; i++) {
        struct box s = {b.x + (i + 0.5) * step - w / 2, b.y, w, b.h};
        uint64_t number = first + i;
        bool dead = sfi_ppm(set, number) == 0, hurt = false;
        if (leaves) {
            hurt = sfi_leaf_ppm(t, (uint32_t)number, 0, false) < (uint64_t)f->leaf_up * SFI_WELL;
        } else if (f->spine_up > 0) {
            uint64_t cable = number * f->spine_up;
            hurt = sfi_missing(&t->overlay.set[SF_LINK_SPINE_UP], cable, cable + f->spine_up - 1) > 0;
        }
        rect(out, s, least(w / 3, 4), dead ? DEAD : leaves ? rail_colour(i % f->rails) : "#2a3347");
        if (hurt && !dead) {
            rect(out, (struct box){s.x, s.y + s.h - 7, s.w, 7}, least(w / 3, 4), DEAD);
        }
    }
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
static void draw_groups(struct sf_buf *out, const struct sf_topo *t, struct box b, uint32_t first, uint32_t groups) {
    uint32_t places = at_most(t->fabric.group_domains, 18);
    double step = b.w / groups, w = least(step - 3, 60), h = least((b.h - 4) / places, 34);
    for (uint32_t g = 0; g < groups; g++) {
        double x = b.x + (g + 0.5) * step - w / 2;
        struct sfi_run domains = sfi_group_domains(t, first + g);
        frame(out, (struct box){x, b.y, w, h * places + 4}, 3, "#f1f4f9", "#c9d1de");
        for (uint32_t d = 0; d < places; d++) {
            rect(out, (struct box){x + 3, b.y + 3 + d * h, w - 6, h - 2}, 1.5, d < domains.n ? "#b9c6e2" : EMPTY);
        }
    }
}

static void pod_captions(struct sf_buf *out, const struct sf_topo *t, struct box b, double leaves_y, uint32_t groups) {
    const struct sfi_fabric *f = &t->fabric;
    char line[160];
    if (f->tiers > 1) {
        snprintf(line, sizeof line, "%u spine%s of %u ports", f->pod_spines, plural(f->pod_spines), f->radix);
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

static uint64_t first_named(const struct sfi_ranges *s) {
    return s->n > 0 ? s->r[0].lo : UINT64_MAX;
}

/* The first pod of plane 0 that the overlay hurts. */
static uint32_t pod_to_draw(const struct sf_topo *t) {
    const struct sfi_fabric *f = &t->fabric;
    const struct sfi_ranges *set = t->overlay.set;
    uint64_t leaf = first_named(&set[SFI_SET_LEAF]), cable = first_named(&set[SF_LINK_LEAF_UP]);
    leaf = f->leaf_up > 0 && cable / f->leaf_up < leaf ? cable / f->leaf_up : leaf;
    if (leaf < f->leaves) {
        return sfi_pod_of_group(f, (uint32_t)leaf / f->rails);
    }
    uint64_t spine = first_named(&set[SFI_SET_SPINE]);
    return spine < sfi_plane_spines(f) ? (uint32_t)(spine / f->pod_spines) : 0;
}

/* As many sheets as there are planes, of which the front one is drawn. */
static void draw_planes(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    char line[64];
    uint32_t planes = t->fabric.planes;
    if (planes < 2) {
        return;
    }
    for (uint32_t i = planes; i > 0; i--) {
        struct box sheet = {b.x + b.w - 138 + 5 * i, b.y + 27 - 3 * i, 26, 15};
        frame(out, sheet, 3, i == 1 ? "#2a3347" : "#c4ccda", "#ffffff");
    }
    snprintf(line, sizeof line, "1 of %u planes", planes);
    text(out, b.x + b.w - 100, b.y + 34, "small", line);
}

/* Leaves down to their groups of domains. */
static void draw_pod_lower(struct sf_buf *out, const struct sf_topo *t, struct box b, struct box lower, uint32_t first,
                           uint32_t drawn) {
    const struct sfi_fabric *f = &t->fabric;
    double step = lower.w / drawn, groups_y = lower.y + 88;
    switch_row(out, t, lower, true, (uint64_t)first * f->rails, drawn * f->rails);
    sf_buf_printf(out, "<path fill=\"none\" stroke=\"#7f8fb0\" stroke-opacity=\".55\" d=\"");
    for (uint32_t i = 0; i < drawn * f->rails; i++) {
        double x = lower.x + (i + 0.5) * step / f->rails, to = lower.x + (i / f->rails + 0.5) * step;
        sf_buf_printf(out, "M%.1f %.1fL%.1f %.1f", x, lower.y + 42, to, groups_y);
    }
    sf_buf_printf(out, "\"/>\n");
    draw_groups(out, t, (struct box){lower.x, groups_y, lower.w, b.y + b.h - 66 - groups_y}, first, drawn);
}

static void draw_pod(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t pod = pod_to_draw(t), spines = at_most(f->pod_spines, 72);
    struct sfi_run groups = sfi_pod_groups(f, pod);
    uint32_t drawn = at_most(groups.n, f->rails < 72 ? 72 / f->rails : 1);
    char line[128], title[32];
    snprintf(title, sizeof title, pod > 0 || t->overlay.interior ? "pod %u" : "pod", pod);
    snprintf(line, sizeof line, "%s, %s per GPU", t->fabric_switch.name, t->stock[f->wide].out.name);
    panel(out, b, f->tiers > 2 ? title : "fabric", line);
    draw_planes(out, t, b);
    struct box upper = {b.x + 24, b.y + 98, b.w - 48, 22}, lower = {b.x + 24, b.y + b.h * 0.52, b.w - 48, 22};
    if (spines > 0) {
        weave(out, lower, drawn * f->rails, upper, spines);
        switch_row(out, t, upper, false, (uint64_t)pod * f->pod_spines, spines);
    }
    draw_pod_lower(out, t, b, lower, groups.first, drawn);
    pod_captions(out, t, b, lower.y, groups.n);
}

/* ---- the cluster ---- */

static void cells(struct sf_buf *out, struct box b, uint32_t columns, uint32_t rows, double step, double h, double w,
                  const struct sf_topo *t, bool dead) {
    sf_buf_printf(out, "<path fill=\"%s\" d=\"M0 0", dead ? DEAD : "#46557a");
    for (uint32_t i = 0; i < columns * rows; i++) {
        uint64_t core = (uint64_t)(i % columns) * t->fabric.slice_cores + i / columns;
        if ((sfi_ppm(&t->overlay.set[SFI_SET_CORE], core) == 0) == dead) {
            sf_buf_printf(out, "M%.1f %.1fh%.1fv%.1fh-%.1fz", b.x + i % columns * step, b.y + i / columns * h, w,
                          h - 1.4, w);
        }
    }
    sf_buf_printf(out, "\"/>\n");
}

/* Cores as a matrix: a column per slice, which is a spine's index in its pod. */
static double draw_cores(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t slices = at_most(f->pod_spines, 96), rows = at_most(f->slice_cores, 32);
    double step = b.w / slices, h = least(step, 5), w = least(step - 1.4, 12);
    char line[128], cores[32];
    sf_format_count((uint64_t)f->slice_cores * f->pod_spines, cores, sizeof cores);
    snprintf(line, sizeof line, "%s cores%s in %u slice%s, %u cable%s to each from the spines of its slice", cores,
             f->planes > 1 ? " of a plane" : "", f->pod_spines, plural(f->pod_spines), f->core_cables,
             plural(f->core_cables));
    text(out, b.x, b.y - 8, "small", line);
    cells(out, b, slices, rows, step, h, w, t, false);
    if (t->overlay.set[SFI_SET_CORE].n > 0) {
        cells(out, b, slices, rows, step, h, w, t, true);
    }
    return b.y + rows * h;
}

/* A place of a pod: whole domains have the colour of their stock. */
enum place { WHOLE, PARTLY, SPARES, DEADS, NOBODY, PLACES_N };

static const char *place_fill(enum place p, uint32_t stock) {
    static const char *const whole[] = {"#2f6fde", "#12a594", "#8e4ec6", "#00a2c7"};
    static const char *const part[] = {"#9dbcf3", "#96dccf", "#cdb0e6", "#9ddcec"};
    static const char *const rest[PLACES_N] = {NULL, NULL, SPARE, DEAD, EMPTY};
    return p == WHOLE ? whole[stock % 4] : p == PARTLY ? part[stock % 4] : rest[p];
}

static enum place place_of(const struct sf_topo *t, uint32_t domain) {
    const struct sfi_domain *d = &sfi_stock_of_domain(t, domain)->domain;
    uint64_t first = (uint64_t)domain * d->gpus, end = first + d->gpus;
    if (sfi_missing(&t->overlay.set[SFI_SET_DEAD_GPU], first, end - 1) > 0) {
        return DEADS;
    }
    if (used_before(t, end) - used_before(t, first) < d->in_use) {
        return SPARES;
    }
    return d->in_use < d->gpus ? PARTLY : WHOLE;
}

/* Domain at a place of a pod, counted group by group; t->domains when nobody is there. */
static uint32_t domain_at(const struct sf_topo *t, uint32_t pod, uint64_t place) {
    struct sfi_run groups = sfi_pod_groups(&t->fabric, pod);
    uint64_t group = place / t->fabric.group_domains, in_group = place % t->fabric.group_domains;
    if (group >= groups.n) {
        return t->domains;
    }
    struct sfi_run domains = sfi_group_domains(t, groups.first + (uint32_t)group);
    return in_group < domains.n ? domains.first + (uint32_t)in_group : t->domains;
}

/* The places of one pod as squares, a path per colour. */
static void draw_pod_cell(struct sf_buf *out, const struct sf_topo *t, struct box b, uint32_t pod, uint32_t limit) {
    uint64_t places = (uint64_t)t->fabric.groups_per_pod * t->fabric.group_domains;
    uint32_t drawn = at_most(places, limit), columns = grid_columns(drawn, b.w - 8, b.h - 8, 1);
    uint32_t rows = (drawn + columns - 1) / columns;
    double pitch = least(least((b.w - 8) / columns, (b.h - 8) / rows), 84), size = pitch * 0.8;
    double x = b.x + (b.w - columns * pitch) / 2, y = b.y + (b.h - rows * pitch) / 2;
    frame(out, (struct box){x - 4, y - 4, columns * pitch + 8 - pitch * 0.2, rows * pitch + 8 - pitch * 0.2}, 4,
          "#ffffff", "#c9d1de");
    for (uint32_t colour = 0; colour < PLACES_N * t->stocks_n; colour++) {
        enum place wanted = (enum place)(colour % PLACES_N);
        uint32_t stock = colour / PLACES_N, n = 0;
        for (uint32_t i = 0; i < drawn; i++) {
            uint32_t domain = domain_at(t, pod, i);
            bool there = domain < t->domains;
            uint32_t of = there ? (uint32_t)(sfi_stock_of_domain(t, domain) - t->stock) : 0;
            if (of != stock || (there ? place_of(t, domain) : NOBODY) != wanted) {
                continue;
            }
            if (n++ == 0) {
                sf_buf_printf(out, "<path fill=\"%s\" d=\"", place_fill(wanted, stock));
            }
            sf_buf_printf(out, "M%.1f %.1fh%.1fv%.1fh-%.1fz", x + i % columns * pitch, y + i / columns * pitch, size,
                          size, size);
        }
        if (n > 0) {
            sf_buf_printf(out, "\"/>\n");
        }
    }
}

/* One entry of the legend; returns where the next one begins. */
static double legend(struct sf_buf *out, double x, double y, const char *fill, const char *name) {
    rect(out, (struct box){x, y, 9, 9}, 2, fill);
    text(out, x + 13, y + 8, "small", name);
    return x + 26 + 6.0 * (double)strlen(name);
}

static void cluster_legend(struct sf_buf *out, const struct sf_topo *t, struct box b, uint32_t drawn) {
    double x = b.x + 24, y = b.y + b.h - 31;
    for (uint32_t i = 0; i < at_most(t->stocks_n, 4); i++) {
        const struct sfi_stock *s = &t->stock[i];
        enum place p = s->domain.in_use < s->domain.gpus ? PARTLY : WHOLE;
        char part[64];
        snprintf(part, sizeof part, "%s %u of %u", s->device.name, s->domain.in_use, s->domain.gpus);
        x = legend(out, x, y, place_fill(p, i), p == PARTLY ? part : t->stocks_n > 1 ? s->device.name : "in use");
    }
    x = legend(out, x, y, SPARE, "has spares");
    if (t->overlay.set[SFI_SET_DEAD_GPU].n > 0) {
        x = legend(out, x, y, DEAD, "has dead GPUs");
    }
    x = legend(out, x, y, EMPTY, "empty place");
    if (drawn < t->fabric.pods) {
        char line[64];
        snprintf(line, sizeof line, "%u of %u pods drawn", drawn, t->fabric.pods);
        text(out, x + 4, y + 8, "small", line);
    }
}

static void draw_cluster(struct sf_buf *out, const struct sf_topo *t, struct box b) {
    const struct sfi_fabric *f = &t->fabric;
    uint32_t pods = at_most(f->pods, 80), limit = 12000 / pods;
    char line[128];
    snprintf(line, sizeof line, "%u pod%s, %u tier%s, oversubscription %g at the leaves, %s routing", f->pods,
             plural(f->pods), f->tiers, plural(f->tiers), f->leaf_up > 0 ? (double)f->leaf_down / f->leaf_up : 1.0,
             sf_routing_name((int)t->routing));
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
