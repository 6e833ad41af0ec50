/* Tables of the report: by kind, by recipe, largest gaps, order, and what everything rests on. */
#include <math.h>
#include <stdio.h>

#include "sim/report_part.h"

#define RECIPES_SHOWN 12

/* Predicted over measured, both on the scale of the largest group. */
static void bars(struct sf_buf *out, const struct sf_compare_group *g, double scale) {
    double p = (double)g->predicted / scale * 100, m = (double)g->measured / scale * 100;
    sf_buf_printf(out,
                  "<td class='bars'><svg viewBox='0 0 100 16' preserveAspectRatio='none'>"
                  "<rect class='k%d' y='1' width='%.2f' height='6'/><rect class='k%d meas' y='9' width='%.2f' "
                  "height='6'/></svg></td>",
                  g->kind, p, g->kind, m);
}

static void error_cells(struct sf_buf *out, const struct sf_compare_group *g) {
    if (g->timed == 0) {
        sf_buf_printf(out, "<td class='n'>&ndash;</td><td class='n'>&ndash;</td><td class='n'>&ndash;</td>");
        return;
    }
    sf_buf_printf(out, "<td class='n'>");
    sfi_html_percent(out, g->error);
    sf_buf_printf(out, "</td><td class='n'>%.1f&nbsp;%%</td><td class='n'>%.1f&nbsp;%%</td>", g->p50 * 100,
                  g->p90 * 100);
}

static void times(struct sf_buf *out, sf_time_ps predicted, sf_time_ps measured) {
    sf_buf_printf(out, "<td class='n'>");
    sfi_html_time(out, predicted);
    sf_buf_printf(out, "</td><td class='n'>");
    sfi_html_time(out, measured);
    sf_buf_printf(out, "</td>");
}

static void count(struct sf_buf *out, uint64_t n) {
    char text[32];
    sf_buf_printf(out, "<td class='n'>%s</td>", sf_format_count(n, text, sizeof text));
}

static double largest(const struct sf_compare *c) {
    double top = 1;
    for (size_t i = 0; i < c->kinds_n; i++) {
        top = fmax(top, fmax((double)c->kinds[i].predicted, (double)c->kinds[i].measured));
    }
    return top;
}

void sfi_report_kinds(const struct sf_report *r, struct sf_buf *out) {
    const struct sf_compare *c = r->compare;
    sf_buf_printf(out, "<section><h2>By kind of op</h2><p class='hint'>Busy time of all ranks in one step. Error is "
                       "(predicted &minus; measured) / measured; p50 and p90 are of the absolute errors of single ops; "
                       "share is the part of all group errors that falls on this kind.</p>\n"
                       "<table><tr><th>Kind<th class='n'>Ops<th class='n'>Predicted<th class='n'>Measured<th>Predicted "
                       "over measured<th class='n'>Error<th class='n'>p50<th class='n'>p90<th class='n'>Share</tr>\n");
    for (size_t i = 0; i < c->kinds_n; i++) {
        const struct sf_compare_group *g = &c->kinds[i];
        sf_buf_printf(out, "<tr><td><i class='chip k%d'></i>%s</td>", g->kind, g->name);
        count(out, g->count);
        times(out, g->predicted, g->measured);
        bars(out, g, largest(c));
        error_cells(out, g);
        sf_buf_printf(out, "<td class='n'>%.0f&nbsp;%%</td></tr>\n", g->share * 100);
    }
    sf_buf_printf(out, "<tr class='sum'><td>Whole step</td>");
    count(out, c->step.count);
    times(out, c->step.predicted, c->step.measured);
    sf_buf_printf(out, "<td></td>");
    error_cells(out, &c->step);
    sf_buf_printf(out, "<td></td></tr></table></section>\n");
}

void sfi_report_recipes(const struct sf_report *r, struct sf_buf *out) {
    const struct sf_compare *c = r->compare;
    size_t shown = c->recipes_n < RECIPES_SHOWN ? c->recipes_n : RECIPES_SHOWN;
    sf_buf_printf(out,
                  "<section><h2>Where the error comes from</h2><p class='hint'>Compute by recipe, communication by "
                  "kind, the largest contribution first");
    sf_buf_printf(out, shown < c->recipes_n ? "; the first %zu of %zu.</p>\n" : ".</p>\n", shown, c->recipes_n);
    sf_buf_printf(out, "<table><tr><th>Recipe<th class='n'>Ops<th class='n'>Predicted<th class='n'>Measured"
                       "<th class='n'>Error<th class='n'>p50<th class='n'>p90<th class='n'>Share</tr>\n");
    for (size_t i = 0; i < shown; i++) {
        const struct sf_compare_group *g = &c->recipes[i];
        sf_buf_printf(out, "<tr><td class='wrap'>");
        sfi_html_text(out, g->name);
        sf_buf_printf(out, "</td>");
        count(out, g->count);
        times(out, g->predicted, g->measured);
        error_cells(out, g);
        sf_buf_printf(out, "<td class='n'>%.0f&nbsp;%%</td></tr>\n", g->share * 100);
    }
    sf_buf_printf(out, "</table></section>\n");
}

void sfi_report_gaps(const struct sf_report *r, struct sf_buf *out) {
    const struct sf_compare *c = r->compare;
    if (c->gaps_n == 0) {
        return;
    }
    sf_buf_printf(out, "<section><h2>Largest gaps</h2><p class='hint'>Single ops, by the absolute difference of "
                       "predicted and median measured busy time.</p>\n<table><tr><th>Op<th class='n'>Rank<th "
                       "class='n'>Index<th class='n'>Predicted<th class='n'>Measured<th class='n'>Error</tr>\n");
    for (size_t i = 0; i < c->gaps_n; i++) {
        const struct sf_compare_gap *g = &c->gaps[i];
        sf_buf_printf(out, "<tr><td class='wrap'><i class='chip k%d'></i>", g->kind);
        sfi_html_text(out, g->label);
        sf_buf_printf(out, "</td><td class='n'>%u</td><td class='n'>%u</td>", g->rank, g->op);
        times(out, g->predicted, g->measured);
        sf_buf_printf(out, "<td class='n'>");
        if (g->measured > 0) {
            sfi_html_percent(out, (double)(g->predicted - g->measured) / (double)g->measured);
        }
        sf_buf_printf(out, "</td></tr>\n");
    }
    sf_buf_printf(out, "</table></section>\n");
}

static void violation_row(struct sf_buf *out, const struct sf_order_violation *v) {
    sf_buf_printf(out, "<tr><td class='n'>%u</td><td class='n'>%u</td><td class='wrap'>", v->rank, v->iter);
    sfi_html_text(out, v->label);
    sf_buf_printf(out, "</td><td class='wrap'>");
    sfi_html_text(out, v->before_label);
    sf_buf_printf(out, "</td><td>%s</td><td class='n'>", sf_order_rule_name(v->rule));
    sfi_html_time(out, v->by);
    sf_buf_printf(out, "</td></tr>\n");
}

void sfi_report_order(const struct sf_report *r, struct sf_buf *out) {
    const struct sf_compare *c = r->compare;
    if (c->order_violations_n == 0) {
        return;
    }
    sf_buf_printf(out,
                  "<section><h2>Order violations</h2><p class='hint'>Ops that started before something the program "
                  "puts in front of them; the first %d are listed.</p>\n<table><tr><th class='n'>Rank<th "
                  "class='n'>Iteration<th>Op<th>Started too early against<th>Rule<th class='n'>By</tr>\n",
                  SF_COMPARE_VIOLATIONS);
    for (size_t i = 0; i < c->order_violations_n && i < SF_COMPARE_VIOLATIONS; i++) {
        violation_row(out, &c->order_violations[i]);
    }
    sf_buf_printf(out, "</table></section>\n");
}
