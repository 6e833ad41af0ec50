/* The page: head, verdict, summary numbers, then the parts. */
#include "sim/report.h"

#include <math.h>
#include <stdio.h>

#include "core/arena.h"
#include "sim/report_part.h"

static const char *title_of(const struct sf_report *r) {
    return r->prog->title[0] != '\0' ? r->prog->title : "Untitled program";
}

static void head(const struct sf_report *r, struct sf_buf *out) {
    char ranks[32];
    sf_buf_printf(out, "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>\n"
                       "<meta name='viewport' content='width=device-width,initial-scale=1'>\n<title>");
    sfi_html_text(out, title_of(r));
    sf_buf_printf(out,
                  " - forecast and measurement</title>\n<style>%s</style></head>\n<body><main>\n<header><p "
                  "class='brand'>Staticfire &middot; forecast and measurement</p><h1>",
                  sfi_report_style);
    sfi_html_text(out, title_of(r));
    sf_buf_printf(out,
                  "</h1>\n<p>%s rank%s, %u microbatch%s per rank and step, %u measured iteration%s, the first %u "
                  "left out. Prediction: ",
                  sf_format_count(r->compare->ranks, ranks, sizeof ranks), r->compare->ranks == 1 ? "" : "s",
                  r->prog->job.microbatches, r->prog->job.microbatches == 1 ? "" : "es", r->compare->iterations,
                  r->compare->iterations == 1 ? "" : "s", r->compare->skip);
    sfi_html_text(out, r->predicted->meta.origin);
    sf_buf_printf(out, ". Measurement: ");
    sfi_html_text(out, r->measured->meta.origin);
    sf_buf_printf(out, ".</p></header>\n");
}

static void verdict(const struct sf_report *r, struct sf_buf *out) {
    const struct sf_compare *c = r->compare;
    sf_buf_printf(out, "<p class='verdict %s'><b>%s.</b> ", c->within ? "good" : "bad",
                  c->within  ? "CPU time within tolerance"
                  : c->whole ? "CPU time outside tolerance"
                             : "Not the program's run, ops are missing or out of order");
    if (c->step.timed == 0) {
        sf_buf_printf(out, "No op took measurable time.</p>\n");
        return;
    }
    sf_buf_printf(out, "The step's was predicted %.1f&nbsp;%% too %s; &plusmn;%g&nbsp;%% is allowed.",
                  fabs(c->step.error) * 100, c->step.error < 0 ? "low" : "high", c->tolerance * 100);
    if (c->order_violations_n > 0) {
        sf_buf_printf(out, " The program's order was broken %llu times.", (unsigned long long)c->order_violations_n);
    }
    sf_buf_printf(out, "</p>\n");
}

static void tile_time(struct sf_buf *out, const char *name, sf_time_ps t, const char *note) {
    sf_buf_printf(out, "<div class='tile'><dt>%s</dt><dd>", name);
    sfi_html_time(out, t);
    sf_buf_printf(out, "<small>%s</small></dd></div>\n", note);
}

static void tile_error(const struct sf_compare *c, struct sf_buf *out) {
    sf_buf_printf(out,
                  "<div class='tile'><dt>Error of single ops</dt><dd>%.1f&nbsp;%%<small>median, weighted by time; "
                  "90&nbsp;%% of the time is in ops within %.1f&nbsp;%%</small></dd></div>\n",
                  c->step.time_p50 * 100, c->step.time_p90 * 100);
}

static void tile_order(const struct sf_compare *c, struct sf_buf *out) {
    char checked[32], broken[32], missing[32];
    sf_buf_printf(out, "<div class='tile'><dt>Order</dt><dd>%s<small>%s orderings of streams and dependencies checked",
                  c->order_violations_n == 0 ? "as programmed"
                                             : sf_format_count(c->order_violations_n, broken, sizeof broken),
                  sf_format_count(c->order_checked, checked, sizeof checked));
    if (c->order_violations_n > 0) {
        sf_buf_printf(out, "; these were broken");
    }
    if (c->missing_ops > 0) {
        sf_buf_printf(out, "; %s ops left no record", sf_format_count(c->missing_ops, missing, sizeof missing));
    }
    sf_buf_printf(out, "</small></dd></div>\n");
}

static void tile_seal(const struct sf_report *r, struct sf_buf *out) {
    if (r->forecast == NULL) {
        sf_buf_printf(out, "<div class='tile'><dt>Forecast</dt><dd>not sealed<small>no forecast file was "
                           "given</small></dd></div>\n");
        return;
    }
    char hash[SF_HASH_TEXT];
    sf_buf_printf(out, "<div class='tile'><dt>Forecast</dt><dd>sealed<small><code>%s</code></small></dd></div>\n",
                  sf_hash_format(r->forecast->seal, hash));
}

static void tiles(const struct sf_report *r, struct sf_buf *out) {
    const struct sf_compare *c = r->compare;
    sf_buf_printf(out, "<dl class='tiles'>\n");
    tile_time(out, "Predicted CPU time", c->step.predicted, "busy time of all ranks in one step");
    tile_time(out, "Measured CPU time", c->step.measured, "medians over iterations, all ranks");
    tile_error(c, out);
    tile_order(c, out);
    tile_time(out, "Predicted makespan", c->predicted_makespan, "first start to last end");
    tile_time(out, "Replayed makespan", c->replayed_makespan,
              c->replayed_makespan < 0 ? "needs the cluster file"
                                       : "the same program with the measured busy times, unthrottled");
    tile_time(out, "Measured wall time", c->wall, "median over iterations");
    tile_seal(r, out);
    sf_buf_printf(out, "</dl>\n");
}

int sf_report_html(const struct sf_report *r, struct sf_buf *out, struct sf_err *err) {
    head(r, out);
    verdict(r, out);
    tiles(r, out);
    SF_TRY(sfi_report_timeline(r, out, err));
    sfi_report_kinds(r, out);
    sfi_report_order(r, out);
    sfi_report_gaps(r, out);
    sfi_report_recipes(r, out);
    sfi_report_loss(r, out);
    sfi_report_basis(r, out);
    sf_buf_printf(out, "<footer>Written by staticfire compare. One file, no scripts, nothing loaded from "
                       "elsewhere.</footer>\n</main></body></html>\n");
    return out->failed ? sf_fail_memory(err, "report") : 0;
}
