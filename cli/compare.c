/* staticfire compare: a forecast and a measurement, joined op by op. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/compare_load.h"
#include "cli/print.h"
#include "sim/report.h"

static const struct cli_usage usage = {
    .verb = "compare",
    .operands = "PREDICTED MEASURED",
    .about = "PREDICTED is a sealed forecast (JSON) or a trace, MEASURED a trace of the same program. The\n"
             "program is looked for in the forecast and beside the traces (.sfprog). With a cluster, named\n"
             "here or in the forecast, the program is replayed with the measured times. Exit code 5: the\n"
             "CPU time of the step is outside the tolerance.",
    .examples = "  staticfire compare forecast.json run.sftrace --report report.html\n"
                "  staticfire compare sim.sftrace run.sftrace --program step.sfprog --tolerance 5%\n"
                "  staticfire compare sim.sftrace run.sftrace --forecast forecast.json --json\n",
    .operands_min = 2,
    .operands_max = 2,
};

static void group_cells(struct cli_table *t, const struct sf_compare_group *g) {
    cli_cell(t, "%s", cli_count(g->count));
    cli_cell(t, "%s", cli_time(g->predicted));
    cli_cell(t, "%s", cli_time(g->measured));
    if (g->timed == 0) {
        cli_cell(t, "-");
        cli_cell(t, "-");
        cli_cell(t, "-");
        return;
    }
    cli_cell(t, "%+.1f %%", g->error * 100);
    cli_cell(t, "%.1f %%", g->p50 * 100);
    cli_cell(t, "%.1f %%", g->p90 * 100);
}

static void group_head(struct cli_table *t, const char *what) {
    const char *const names[] = {what, "ops", "predicted", "measured", "error", "p50", "p90", "share"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cli_cell(t, "%s", names[i]);
    }
}

static void print_groups(const char *what, const struct sf_compare_group *groups, size_t n,
                         const struct sf_compare_group *total, struct sf_buf *out) {
    struct cli_table t = {.align = "lrrrrrrr"};
    group_head(&t, what);
    for (size_t i = 0; i < n; i++) {
        cli_cell(&t, "%s", groups[i].name);
        group_cells(&t, &groups[i]);
        cli_cell(&t, "%.0f %%", groups[i].share * 100);
    }
    if (total != NULL) {
        cli_cell(&t, "whole step");
        group_cells(&t, total);
        cli_cell(&t, "%s", "");
    }
    cli_table_print(&t, "  ", out);
}

static void print_gaps(const struct sf_compare *c, struct sf_buf *out) {
    if (c->gaps_n == 0) {
        return;
    }
    cli_heading(out, "Largest gaps");
    struct cli_table t = {.align = "rrlrrr"};
    static const char *const names[] = {"rank", "op", "what", "predicted", "measured", "difference"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cli_cell(&t, "%s", names[i]);
    }
    for (size_t i = 0; i < c->gaps_n; i++) {
        const struct sf_compare_gap *g = &c->gaps[i];
        bool low = g->predicted < g->measured;
        cli_cell(&t, "%u", g->rank);
        cli_cell(&t, "%u", g->op);
        cli_cell(&t, "%s", g->label);
        cli_cell(&t, "%s", cli_time(g->predicted));
        cli_cell(&t, "%s", cli_time(g->measured));
        cli_cell(&t, "%s%s", low ? "-" : "+", cli_time(low ? g->measured - g->predicted : g->predicted - g->measured));
    }
    cli_table_print(&t, "  ", out);
}

static void print_order(const struct sf_compare *c, struct sf_buf *out) {
    cli_heading(out, "Order");
    if (c->order_violations_n == 0) {
        cli_fact(out, "as programmed", "%s orderings of streams and dependencies checked", cli_count(c->order_checked));
    } else {
        cli_fact(out, "broken", "%s of %s orderings", cli_count(c->order_violations_n), cli_count(c->order_checked));
    }
    for (size_t i = 0; i < c->order_violations_n && i < SF_COMPARE_VIOLATIONS; i++) {
        const struct sf_order_violation *v = &c->order_violations[i];
        sf_buf_printf(out, "  rank %u, iteration %u: \"%s\" started %s too early for \"%s\" (%s)\n", v->rank, v->iter,
                      v->label, cli_time(v->by), v->before_label, sf_order_rule_name(v->rule));
    }
    if (c->missing_ops > 0) {
        cli_fact(out, "without a record", "%s ops", cli_count(c->missing_ops));
    }
    if (c->unpredicted + c->unmeasured > 0) {
        cli_fact(out, "not joined", "%s measured and %s predicted records have no partner", cli_count(c->unpredicted),
                 cli_count(c->unmeasured));
    }
}

/* The same ops three times: as predicted, as the library says, as measured. */
static void print_estimates(const struct cli_compare *in, const struct sf_compare *c, struct sf_buf *out) {
    struct cli_table t = {.align = "lrrrrr"};
    static const char *const names[] = {"kind", "ops", "predicted", "estimated", "measured", "estimate's error"};
    if (in->estimates_path == NULL) {
        return;
    }
    cli_heading(out, "Collectives, with the library's own estimate");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cli_cell(&t, "%s", names[i]);
    }
    for (size_t i = 0; i < c->kinds_n; i++) {
        const struct sf_compare_group *g = &c->kinds[i];
        if (g->estimated_n > 0) {
            cli_cell(&t, "%s", g->name);
            cli_cell(&t, "%s", cli_count(g->estimated_n));
            cli_cell(&t, "%s", cli_time(g->estimated_predicted));
            cli_cell(&t, "%s", cli_time(g->estimated));
            cli_cell(&t, "%s", cli_time(g->estimated_measured));
            cli_cell(&t, g->estimated_measured > 0 ? "%+.1f %%" : "-",
                     100.0 * ((double)g->estimated / (double)g->estimated_measured - 1.0));
        }
    }
    cli_table_print(&t, "  ", out);
    cli_fact(out, "source", "%s", in->estimates.source);
}

static void print_verdict(const struct sf_compare *c, struct sf_buf *out) {
    sf_buf_printf(out, "%s%s%s: ", cli_on(c->within ? CLI_GREEN : CLI_RED),
                  c->within  ? "CPU time within tolerance"
                  : c->whole ? "CPU time outside tolerance"
                             : "Not the program's run: see Order below",
                  cli_off());
    if (c->step.timed == 0) {
        sf_buf_printf(out, "no op took measurable time\n");
        return;
    }
    sf_buf_printf(out, "the step's was predicted %.1f %% too %s, +-%g %% is allowed\n", fabs(c->step.error) * 100,
                  c->step.error < 0 ? "low" : "high", c->tolerance * 100);
}

/* The ranks' own work would have taken much less than the wall time: something else had the cores. */
static bool is_slowed(const struct sf_compare *c) {
    return c->replayed_makespan > 0 && (double)c->wall > 1.15 * (double)c->replayed_makespan;
}

static void print_step(const struct sf_compare *c, struct sf_buf *out) {
    cli_fact(out, "CPU time of the step", "%12s predicted, %12s measured", cli_time(c->step.predicted),
             cli_time(c->step.measured));
    cli_fact(out, "errors of single ops", "%.1f %% p50, %.1f %% p90; weighted by time %.1f %% p50, %.1f %% p90",
             c->step.p50 * 100, c->step.p90 * 100, c->step.time_p50 * 100, c->step.time_p90 * 100);
    cli_fact(out, "makespan", "%12s predicted, %12s replayed with the measured times", cli_time(c->predicted_makespan),
             c->replayed_makespan < 0 ? "unknown" : cli_time(c->replayed_makespan));
    cli_fact(out, "wall time", "%12s predicted, %12s measured (median of iterations %u to %u): %+.1f %%%s",
             cli_time(c->predicted_makespan), cli_time(c->wall), c->skip, c->iterations - 1,
             c->wall > 0 ? 100.0 * ((double)c->predicted_makespan / (double)c->wall - 1.0) : 0.0,
             is_slowed(c) ? "; ranks had to wait for a core" : "");
}

static void print_forecast(const struct cli_compare *in, struct sf_buf *out) {
    if (!in->has_forecast) {
        return;
    }
    char seal[SF_HASH_TEXT];
    cli_heading(out, "Forecast");
    cli_fact(out, "seal", "%s, unbroken", sf_hash_format(in->forecast.seal, seal));
    cli_fact(out, "predicted then", "%s CPU time, %s step", cli_time(in->forecast.step_cpu),
             cli_time(in->forecast.step_time));
}

static void print_compare(const struct cli_compare *in, const struct sf_compare *c, struct sf_buf *out) {
    sf_buf_printf(out, "%s%s%s: %s against %s, %s rank%s\n", cli_on(CLI_BOLD), in->prog->title, cli_off(),
                  in->predicted.meta.origin, in->measured.meta.origin, cli_count(c->ranks), c->ranks == 1 ? "" : "s");
    if (c->order_only) {
        print_order(c, out);
        return;
    }
    print_verdict(c, out);
    print_step(c, out);
    cli_heading(out, "By kind of op");
    print_groups("kind", c->kinds, c->kinds_n, &c->step, out);
    print_estimates(in, c, out);
    cli_heading(out, "Where the error comes from");
    print_groups("recipe", c->recipes, c->recipes_n < 8 ? c->recipes_n : 8, NULL, out);
    print_gaps(c, out);
    print_order(c, out);
    print_forecast(in, out);
    if (in->report != NULL) {
        sf_buf_printf(out, "Report: %s\n", in->report);
    }
}

static json_t *forecast_json(const struct sf_forecast *f) {
    return json_pack("{s:o, s:b, s:f, s:f}", "seal", cli_json_hash(f->seal), "verified", 1, "step_cpu_s",
                     sf_ps_to_s(f->step_cpu), "step_time_s", sf_ps_to_s(f->step_time));
}

static json_t *compare_json(const struct cli_compare *in, const struct sf_compare *c) {
    json_t *doc = sf_compare_json(c);
    if (doc != NULL) {
        json_object_set_new(doc, "title", cli_json_text(in->prog->title));
        json_object_set_new(doc, "predicted_by", cli_json_text(in->predicted.meta.origin));
        json_object_set_new(doc, "measured_by", cli_json_text(in->measured.meta.origin));
        json_object_set_new(doc, "host", cli_json_text(in->measured.meta.note));
        json_object_set_new(doc, "estimated_by",
                            in->estimates_path != NULL ? cli_json_text(in->estimates.source) : json_null());
        json_object_set_new(doc, "forecast", in->has_forecast ? forecast_json(&in->forecast) : json_null());
    }
    return doc;
}

static int write_report(struct cli *cli, const struct cli_compare *in, const struct sf_compare *c) {
    const struct sf_report r = {.prog = in->prog,
                                .compare = c,
                                .predicted = &in->predicted,
                                .measured = &in->measured,
                                .topo = in->topo,
                                .cost = in->cost,
                                .forecast = in->has_forecast ? &in->forecast : NULL,
                                .losses = in->losses,
                                .losses_n = in->losses_n};
    struct sf_buf html = {0};
    int rc = sf_report_html(&r, &html, &cli->err);
    if (rc != 0) {
        sf_buf_free(&html);
        return rc;
    }
    return cli_output(in->report, &html, &cli->err);
}

static int output(struct cli *cli, const struct cli_compare *in, const struct sf_compare *c) {
    if (in->report != NULL) {
        SF_TRY(write_report(cli, in, c));
    }
    if (cli->json) {
        return cli_print_json(compare_json(in, c), &cli->err);
    }
    struct sf_buf out = {0};
    print_compare(in, c, &out);
    return cli_print(&out, &cli->err);
}

/* Being outside the tolerance is a result, not an error: it has an exit code and no message. */
static int compare_and_print(struct cli *cli, const struct cli_compare *in, struct sf_compare_options *options) {
    struct sf_compare c;
    options->cost = in->cost;
    options->estimates = in->estimates_path != NULL ? &in->estimates : NULL;
    SF_TRY(sf_compare_run(in->prog, &in->predicted, &in->measured, options, &c, &cli->err));
    int rc = output(cli, in, &c);
    if (rc == 0 && !c.within) {
        rc = SF_E_TOLERANCE;
    }
    sf_compare_clear(&c);
    return rc;
}

int verb_compare(struct cli *cli, int argc, char **argv) {
    struct cli_compare in = {0};
    struct sf_compare_options o = {.skip = SF_COMPARE_SKIP, .tolerance = SF_COMPARE_TOLERANCE, .gaps = 10};
    const struct cli_option options[] = {
        {"report", 'r', CLI_TEXT, &in.report, "FILE", "write report.html: one file, timelines, tables, sources"},
        {"forecast", 'f', CLI_TEXT, &in.forecast_path, "FILE", "verify that PREDICTED was sealed in this forecast"},
        {"program", 'p', CLI_TEXT, &in.prog_path, "FILE", "the program both traces are of"},
        {"cluster", 0, CLI_TEXT, &in.cluster, "FILE", "for the replay, and the sources in the report"},
        {"kernels", 0, CLI_TEXT, &in.kernels, "FILE", "measured kernel table of the prediction"},
        {"loss", 0, CLI_TEXT, &in.loss_path, "FILE", "log or JSON of the run, for the report's curve"},
        {"estimates", 0, CLI_TEXT, &in.estimates_path, "FILE", "what NCCL thinks, from staticfire-run --estimates"},
        {"order-only", 0, CLI_FLAG, &o.order_only, NULL, "look at the order of ops alone, not at times"},
        {"tolerance", 0, CLI_FRACTION, &o.tolerance, "SHARE", "of the step's CPU time (default 10%)"},
        {"skip", 0, CLI_U32, &o.skip, "N", "leave out the first N iterations (default 2)"},
        {"top", 'n', CLI_U32, &o.gaps, "N", "largest gaps to list (default 10)"},
        {0},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    if (o.gaps > 10000) {
        return cli_fail_usage(cli, "compare", "--top expects at most 10000, found %u", o.gaps);
    }
    if (o.order_only && (in.estimates_path != NULL || in.report != NULL || in.cluster != NULL)) {
        return cli_fail_usage(cli, "compare",
                              "--order-only looks at no times: leave --estimates, --report and "
                              "--cluster out");
    }
    int rc = cli_compare_load(cli, argv[first], argv[first + 1], &in);
    if (rc == 0) {
        rc = compare_and_print(cli, &in, &o);
    }
    cli_compare_clear(&in);
    return rc;
}
