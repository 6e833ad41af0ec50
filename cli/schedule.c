/* staticfire schedule: one pipeline schedule alone, exactly timed. */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/print.h"
#include "cli/schedule_auto.h"
#include "core/arena.h"
#include "planner/cut_units.h"

#define VERB "schedule"
#define TABLE_MAX_BYTES (64u << 20)
#define NOT_GIVEN (-1.0) /* as long as nobody names a number */
#define SPLIT_HEAD "split-head"
#define CHART_DEVICES 64 /* more would scroll away */

struct schedule_args {
    const char *kind, *f, *b, *w, *comm, *wrap, *table, *layout, *svg, *csv, *stage_costs;
    double limit, weight_share; /* limit in p M */
    double loss_layers;
    bool published, share_matters; /* the weight share was asked for, so a schedule it says nothing about is refused */
    struct sf_pipe_spec spec;
    struct sf_stage_costs costs; /* of stage_costs */
};

static const struct cli_usage usage = {
    .verb = VERB,
    .operands = "--kind KIND --stages P --microbatches M --f TIME --b TIME --w TIME",
    .about = "Makes a pipeline schedule, replays it pass by pass and prints its bubbles and its memory.\n"
             "f, b and w are the forward, the input gradient and the weight gradient of ONE device's whole share\n"
             "of one microbatch; a device's chunks and slices get equal parts of them.\n\n"
             "Kinds:\n"
             "  gpipe, 1f1b (both also with --slices), interleaved, breadth-first, zb-h1, zb-h2, zb-1p, zb-2p,\n"
             "  zb-v, v-half, v-min, 1f1b-v, dualpipe, dualpipev\n"
             "  auto      the shortest span under --memory-limit (1 p M), searched for over orders and placements\n"
             "            of 1 to 4 chunks or of --chunks, no worse than any of the above, with what is provably\n"
             "            possible on its placement. Ctrl-C prints the best so far.\n"
             "  split-head\n"
             "            1f1b with the output head split by vocabulary over all devices. --layout says where the\n"
             "            layers are and --loss-layers what the head weighs; its parts hold no activations here\n"
             "  all       every family side by side\n"
             "  table     the passes in --table FILE.csv: a row per device, cells such as 0F0 0I0 0W0 or 0B0\n\n"
             "M is the activation of one microbatch on one device; 1F1B holds p M.\n"
             "span_bubble counts every device from its own start to its own end (what papers on zero bubble\n"
             "schedules print), makespan_bubble from the first start to the last end.",
    .examples = "  staticfire schedule --kind zb-2p --stages 8 --microbatches 24 --f 18.522ms --b 18.086ms \\\n"
                "      --w 9.337ms --comm 0.601ms --svg zb-2p.svg\n"
                "  staticfire schedule --kind all --stages 16 --microbatches 64 --f 28.8ms --b 28.8ms --w 19.4ms\n"
                "  staticfire schedule --kind 1f1b --stages 4 --microbatches 16 --f 9ms --b 9ms --w 9ms \\\n"
                "      --layout 'Et*7|t*8|t*8|t*5L' --loss-layers 3\n"
                "  staticfire schedule --kind all --stages 16 --microbatches 64 --costs stages.csv\n"
                "  staticfire schedule --kind 1f1b --slices 8 --stages 8 --microbatches 8 --f 1ms --b 1ms --w 1ms\n",
};

/* ---- one schedule ------------------------------------------------------------------------------------------------ */

static void result_clear(struct cli_schedule *r) {
    sf_pipe_free(r->pipe);
    sf_pipe_costs_clear(&r->costs);
    *r = (struct cli_schedule){0};
}

static double seconds_now(void) {
    return sf_ps_to_s(sf_clock_host.now(sf_clock_host.self));
}

static int set_costs(const struct schedule_args *a, struct cli_schedule *out, struct sf_err *err) {
    struct sf_pipe_layout layout;
    if (a->stage_costs != NULL) {
        return sf_stage_costs_set(&a->costs, out->pipe, &a->spec, &out->costs, err);
    }
    if (a->layout == NULL) {
        return sf_pipe_costs_create(out->pipe, &a->spec, &out->costs, err);
    }
    int rc = sf_pipe_layout_parse(a->layout, &layout, err);
    bool split = out->pipe->parts > 0;
    rc = rc != 0 ? rc
         : split ? sf_pipe_split_head_costs(&layout, out->pipe, &a->spec, a->loss_layers, &out->costs, err)
                 : sf_pipe_layout_costs(&layout, out->pipe, &a->spec, a->loss_layers, &out->costs, err);
    sf_pipe_layout_clear(&layout);
    return rc;
}

static int make_split_head(const struct schedule_args *a, struct cli_schedule *out, struct sf_err *err) {
    SF_TRY(sf_pipe_split_head(a->spec.devices, a->spec.microbatches, &out->pipe, err));
    return set_costs(a, out, err);
}

static int make_family(const struct schedule_args *a, struct cli_schedule *out, struct sf_err *err) {
    double begin = seconds_now();
    SF_TRY(sf_pipe_generate(&a->spec, &out->pipe, err));
    out->search_time_s = seconds_now() - begin;
    return set_costs(a, out, err);
}

/* Stages with costs of their own; where they live is searched for. */
static int make_auto_uneven(const struct schedule_args *a, struct cli_schedule *out, struct sf_err *err) {
    uint32_t n = a->costs.stages_n;
    struct sf_pipe *shape = NULL;
    struct sf_pipe_costs costs = {.f = NULL};
    int rc = sf_pipe_create(a->spec.devices, n, a->spec.microbatches, 1, &shape, err);
    rc = rc == 0 ? sf_stage_costs_set(&a->costs, shape, &a->spec, &costs, err) : rc;
    rc = rc == 0 ? cli_schedule_auto(&a->spec, n, &costs, out, err) : rc;
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(shape);
    return rc;
}

/* A layout says how many virtual stages there are and what they cost. */
static int make_auto(const struct schedule_args *a, struct cli_schedule *out, struct sf_err *err) {
    struct sf_pipe_layout layout;
    struct sf_pipe *shape = NULL;
    struct sf_pipe_costs costs = {.f = NULL};
    if (a->stage_costs != NULL) {
        return make_auto_uneven(a, out, err);
    }
    if (a->layout == NULL) {
        return cli_schedule_auto(&a->spec, 0, NULL, out, err);
    }
    SF_TRY(sf_pipe_layout_parse(a->layout, &layout, err));
    int rc = sf_pipe_create(a->spec.devices, layout.stages_n, a->spec.microbatches, 1, &shape, err);
    rc = rc == 0 ? sf_pipe_layout_costs(&layout, shape, &a->spec, a->loss_layers, &costs, err) : rc;
    rc = rc == 0 ? cli_schedule_auto(&a->spec, layout.stages_n, &costs, out, err) : rc;
    sf_pipe_costs_clear(&costs);
    sf_pipe_free(shape);
    sf_pipe_layout_clear(&layout);
    return rc;
}

static int make_table(const struct schedule_args *a, struct cli_schedule *out, struct sf_err *err) {
    char *text = NULL;
    size_t bytes = 0;
    struct stat st;
    if (stat(a->table, &st) == 0 && !S_ISREG(st.st_mode)) { /* a pipe might keep us waiting forever */
        return sf_fail_at(err, SF_E_INPUT, a->table, 0, 0, "expected a regular file with a table of passes");
    }
    SF_TRY(sf_io_posix.read_all(sf_io_posix.self, a->table, TABLE_MAX_BYTES, &text, &bytes, err));
    int rc = sf_pipe_read_csv(text, bytes, a->table, &out->pipe, err);
    sf_free(text);
    return rc == 0 ? set_costs(a, out, err) : rc;
}

/* Families keep the limit on equal devices; tables, and families on uneven ones, may not. */
static int check_limit(const struct schedule_args *a, const struct cli_schedule *r, struct sf_err *err) {
    double limit = a->limit * r->pipe->devices;
    if (a->limit > 0 && r->timing.peak_memory > limit + 1e-9) {
        return sf_fail(err, SF_E_NOPLAN, "this schedule needs %.3f M on a device, and the limit is %.3f M",
                       r->timing.peak_memory, limit);
    }
    return 0;
}

static bool has_weight_passes(const struct sf_pipe *p) {
    for (uint32_t d = 0; d < p->devices; d++) {
        for (uint32_t i = 0; i < p->passes_n[d]; i++) {
            if (p->passes[d][i].kind == SF_PASS_W) {
                return true;
            }
        }
    }
    return false;
}

static int check_share(const struct schedule_args *a, const struct cli_schedule *r, struct sf_err *err) {
    if (!a->share_matters || has_weight_passes(r->pipe)) {
        return 0;
    }
    return sf_fail(err, SF_E_USAGE,
                   "--weight-share says nothing about this schedule: every backward of %s is whole, B and W in one "
                   "pass, and gives all of M back at its end; leave it out, or split backwards as zb-h1, zb-1p, zb-v, "
                   "v-half, v-min and auto do",
                   a->kind);
}

/* The bound is on schedules that need no more memory than was allowed, or than this one takes. */
static int time_it(const struct schedule_args *a, struct cli_schedule *r, struct sf_err *err) {
    SF_TRY(sf_pipe_replay(r->pipe, &r->costs, &r->timing, NULL, NULL, err));
    double limit = a->limit > 0 ? a->limit * r->pipe->devices : r->timing.peak_memory;
    if (r->lower_bound == 0) {
        r->lower_bound = sf_pipe_lower_bound(r->pipe, &r->costs, limit);
    }
    return check_limit(a, r, err);
}

static int make(const struct schedule_args *a, struct cli_schedule *out, struct sf_err *err) {
    int rc;
    if (strcmp(a->kind, "table") == 0) {
        rc = make_table(a, out, err);
    } else if (strcmp(a->kind, "auto") == 0) {
        rc = make_auto(a, out, err);
    } else if (strcmp(a->kind, SPLIT_HEAD) == 0) {
        rc = make_split_head(a, out, err);
    } else {
        rc = make_family(a, out, err);
    }
    rc = rc == 0 ? check_share(a, out, err) : rc;
    rc = rc == 0 ? time_it(a, out, err) : rc;
    if (rc != 0) {
        result_clear(out);
    }
    return rc;
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */

static double bound_bubble(const struct cli_schedule *r) {
    return r->lower_bound > 0 ? (double)(r->lower_bound - r->timing.busiest) / (double)r->lower_bound : 0;
}

/* The same of the shortest span that any of the placements tried allows. */
static double placements_bubble(const struct cli_schedule *r) {
    return (double)(r->placements_bound - r->timing.busiest) / (double)r->placements_bound;
}

static double gap(const struct cli_schedule *r) {
    return r->timing.span > 0 ? 1 - (double)r->lower_bound / (double)r->timing.span : 0;
}

static json_t *result_json(const char *kind, const struct cli_schedule *r) {
    const struct sf_pipe *p = r->pipe;
    json_t *doc =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "kind", kind, "stages",
                  (int)p->devices, "microbatches", (int)p->microbatches, "chunks", (int)(p->stages / p->devices),
                  "slices", (int)p->slices, "span_s", sf_ps_to_s(r->timing.span), "makespan_s",
                  sf_ps_to_s(r->timing.makespan), "span_bubble", r->timing.bubble_span, "makespan_bubble",
                  r->timing.bubble_makespan, "peak_activation", r->timing.peak_memory, "lower_bound", bound_bubble(r),
                  "lower_bound_span_s", sf_ps_to_s(r->lower_bound), "search_time_s", r->search_time_s);
    if (r->proof != NULL) {
        json_object_set_new(doc, "placement", json_string(r->placement));
        json_object_set_new(doc, "gap", json_real(gap(r)));
        json_object_set_new(doc, "lower_bound_by", json_string(r->proof));
        json_object_set_new(doc, "lower_bound_any_placement", json_real(placements_bubble(r)));
        json_object_set_new(doc, "stopped", json_boolean(r->stopped));
    }
    return doc;
}

static void print_result(const char *kind, const struct cli_schedule *r, struct sf_buf *out) {
    const struct sf_pipe *p = r->pipe;
    const struct sf_pipe_timing *t = &r->timing;
    uint32_t chunks = p->stages / p->devices;
    int family = sf_pipe_family_parse(kind);
    sf_buf_printf(out, "%s%s%s  %u devices, %u microbatches, %u chunk%s per device", cli_on(CLI_BOLD), kind, cli_off(),
                  p->devices, p->microbatches, chunks, chunks == 1 ? "" : "s");
    if (p->slices > 1) {
        sf_buf_printf(out, ", %u slices", p->slices);
    }
    sf_buf_printf(out, "%s%s\n", family >= 0 ? ": " : "", family >= 0 ? sf_pipe_family_text(family) : "");
    cli_fact(out, "span bubble", "%8.2f %%   %s", t->bubble_span * 100, cli_time(t->span));
    cli_fact(out, "makespan bubble", "%8.2f %%   %s", t->bubble_makespan * 100, cli_time(t->makespan));
    cli_fact(out, "lower bound of span", "%8.2f %%   %s", bound_bubble(r) * 100, cli_time(r->lower_bound));
    if (r->proof != NULL) {
        cli_fact(out, "gap", "%8.2f %%   bound by: %s", gap(r) * 100, r->proof);
        cli_fact(out, "bound, any placement", "%8.2f %%   %s", placements_bubble(r) * 100,
                 cli_time(r->placements_bound));
        cli_fact(out, "placement", "%s", r->placement);
    }
    cli_fact(out, "peak activation", "%8.3f M   %.2f p M", t->peak_memory, t->peak_memory / p->devices);
    if (r->search_time_s > 0) {
        cli_fact(out, "search time", "%s", cli_seconds(r->search_time_s));
    }
}

static uint32_t terminal_columns(void) {
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) {
        return size.ws_col;
    }
    return 100;
}

struct times {
    sf_time_ps **start, **end;
};

static int times_of(const struct cli_schedule *r, struct times *out, struct sf_err *err) {
    struct sf_pipe_timing t;
    *out = (struct times){sf_pipe_times_create(r->pipe), sf_pipe_times_create(r->pipe)};
    if (out->start == NULL || out->end == NULL) {
        return sf_fail_memory(err, "times of passes");
    }
    return sf_pipe_replay(r->pipe, &r->costs, &t, out->start, out->end, err);
}

static void times_clear(struct times *t) {
    sf_pipe_times_free(t->start);
    sf_pipe_times_free(t->end);
}

static int write_svg(const char *kind, const struct schedule_args *a, const struct cli_schedule *r,
                     const struct times *t, struct sf_err *err) {
    char title[120], subtitle[320];
    struct sf_buf svg = {0};
    snprintf(title, sizeof title, "%s: %u devices, %u microbatches", kind, r->pipe->devices, r->pipe->microbatches);
    snprintf(subtitle, sizeof subtitle,
             "span bubble %.2f %%, makespan %s, peak activation %.2f M; F %s, B %s, W %s, hop %s",
             r->timing.bubble_span * 100, cli_time(r->timing.makespan), r->timing.peak_memory, cli_time(a->spec.f),
             cli_time(a->spec.b), cli_time(a->spec.w), cli_time(a->spec.comm));
    sf_pipe_svg(r->pipe, t->start, t->end, title, subtitle, &svg);
    return cli_output(a->svg, &svg, err);
}

static int write_files(const struct schedule_args *a, const struct cli_schedule *r, const struct times *t,
                       struct sf_err *err) {
    if (a->csv != NULL) {
        struct sf_buf csv = {0};
        sf_pipe_print_csv(r->pipe, &csv);
        SF_TRY(cli_output(a->csv, &csv, err));
    }
    return a->svg != NULL ? write_svg(a->kind, a, r, t, err) : 0;
}

static int print_one(struct cli *cli, const struct schedule_args *a, const struct cli_schedule *r,
                     const struct times *t) {
    if (cli->json) {
        return cli_print_json(result_json(a->kind, r), &cli->err);
    }
    struct sf_buf out = {0};
    print_result(a->kind, r, &out);
    if (r->pipe->devices <= CHART_DEVICES) {
        sf_buf_printf(&out, "\nF B W of a device's first chunk, f b w of others, X x an F beside a B, . idle\n");
        sf_pipe_chart(r->pipe, t->start, t->end, terminal_columns() - 6, &out);
    }
    if (a->svg != NULL) {
        sf_buf_printf(&out, "Drawing: %s\n", a->svg);
    }
    return cli_print(&out, &cli->err);
}

static int show_one(struct cli *cli, const struct schedule_args *a) {
    struct cli_schedule r = {0};
    struct times t = {0};
    SF_TRY(make(a, &r, &cli->err));
    int rc = times_of(&r, &t, &cli->err);
    rc = rc == 0 ? write_files(a, &r, &t, &cli->err) : rc;
    rc = rc == 0 ? print_one(cli, a, &r, &t) : rc;
    times_clear(&t);
    result_clear(&r);
    return rc;
}

/* ---- all families ------------------------------------------------------------------------------------------------ */

static struct sf_pipe_spec spec_for(const struct schedule_args *a, int family) {
    struct sf_pipe_spec s = a->spec;
    s.family = family;
    s.chunks = sf_pipe_family_chunks(family) == 0 ? s.chunks : 0;
    s.slices = family == SF_PIPE_GPIPE || family == SF_PIPE_1F1B ? s.slices : 0;
    return s;
}

static void add_row(struct cli_table *t, const char *kind, const struct cli_schedule *r, const struct sf_err *e) {
    cli_cell(t, "%s", kind);
    if (r->pipe == NULL) {
        for (int i = 0; i < 5; i++) {
            cli_cell(t, "-");
        }
        cli_cell(t, "%.160s", e->msg);
        return;
    }
    cli_cell(t, "%.2f %%", r->timing.bubble_span * 100);
    cli_cell(t, "%.2f %%", r->timing.bubble_makespan * 100);
    cli_cell(t, "%.2f %%", bound_bubble(r) * 100);
    cli_cell(t, "%s", cli_time(r->timing.makespan));
    cli_cell(t, "%.2f", r->timing.peak_memory);
    cli_cell(t, "%s", sf_pipe_family_text(sf_pipe_family_parse(kind)));
}

static json_t *refusal_json(const char *kind, const struct sf_err *e) {
    return json_pack("{s:s, s:o}", "kind", kind, "refused", cli_json_text(e->msg));
}

static int show_all(struct cli *cli, const struct schedule_args *a) {
    static const char *const heads[] = {"kind", "span", "makespan", "bound", "time", "peak M", ""};
    struct cli_table table = {.align = "lrrrrrl"};
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        cli_cell(&table, "%s", heads[i]);
    }
    for (int family = 0; family < SF_PIPE_FAMILIES_N; family++) {
        struct schedule_args one = *a;
        struct cli_schedule r = {0};
        struct sf_err why = {0};
        one.kind = sf_pipe_family_name(family);
        one.spec = spec_for(a, family);
        one.share_matters = false; /* it does for some of them */
        bool made = make(&one, &r, &why) == 0;
        json_array_append_new(list, made ? result_json(one.kind, &r) : refusal_json(one.kind, &why));
        add_row(&table, one.kind, &r, &why);
        result_clear(&r);
    }
    if (cli->json) {
        sf_buf_free(&table.cells);
        return cli_print_json(json_pack("{s:o}", "schedules", list), &cli->err);
    }
    json_decref(list);
    struct sf_buf out = {0};
    cli_table_print(&table, "", &out);
    return cli_print(&out, &cli->err);
}

/* ---- arguments --------------------------------------------------------------------------------------------------- */

static int parse_time(struct cli *cli, const char *name, const char *text, sf_time_ps *out) {
    if (text == NULL) {
        return cli_fail_usage(cli, VERB, "--%s is missing: the time of one device's whole share of a microbatch", name);
    }
    return cli_option_check(cli, VERB, name, sf_parse_time(text, out, &cli->err));
}

static int check_kind(struct cli *cli, const char *kind) {
    const char *names[SF_PIPE_FAMILIES_N + 5] = {0};
    int n = 0;
    for (; n < SF_PIPE_FAMILIES_N; n++) {
        names[n] = sf_pipe_family_name(n);
    }
    names[n++] = SPLIT_HEAD;
    names[n++] = "auto";
    names[n++] = "all";
    names[n++] = "table";
    for (int i = 0; i < n; i++) {
        if (strcmp(kind, names[i]) == 0) {
            return 0;
        }
    }
    const char *near = cli_nearest(kind, names);
    return near != NULL ? cli_fail_usage(cli, VERB, "unknown kind \"%.40s\"; did you mean %s?", kind, near)
                        : cli_fail_usage(cli, VERB, "unknown kind \"%.40s\"", kind);
}

static int check_table_use(struct cli *cli, struct schedule_args *a) {
    bool is_table = strcmp(a->kind, "table") == 0;
    if (is_table != (a->table != NULL)) {
        return cli_fail_usage(cli, VERB, "--table FILE.csv and --kind table go together");
    }
    if (is_table && (a->spec.devices > 0 || a->spec.microbatches > 0 || a->spec.chunks > 0 || a->spec.slices > 0)) {
        return cli_fail_usage(cli, VERB, "--stages, --microbatches, --chunks and --slices follow from the table");
    }
    if (!is_table && (a->spec.devices == 0 || a->spec.microbatches == 0)) {
        return cli_fail_usage(cli, VERB, "--stages and --microbatches are needed");
    }
    return 0;
}

static int check_wrap(struct cli *cli, struct schedule_args *a) {
    if (a->wrap == NULL) {
        return 0;
    }
    a->spec.wrap_first = strcmp(a->wrap, "first") == 0;
    if (!a->spec.wrap_first && strcmp(a->wrap, "every") != 0) {
        return cli_fail_usage(cli, VERB, "--wrap-edge expects first or every, found \"%.40s\"", a->wrap);
    }
    static const char *const kinds[] = {"interleaved", "breadth-first", "table", "all"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(a->kind, kinds[i]) == 0) {
            return 0;
        }
    }
    return cli_fail_usage(cli, VERB, "--wrap-edge is for schedules that go around: interleaved and breadth-first");
}

static int check_auto(struct cli *cli, struct schedule_args *a) {
    if (a->spec.slices > 0) {
        return cli_fail_usage(cli, VERB, "--kind auto takes whole sequences; --slices is for gpipe and 1f1b");
    }
    if ((a->layout != NULL || a->stage_costs != NULL) && a->spec.chunks > 0) {
        return cli_fail_usage(cli, VERB, "--chunks follows from %s", a->layout != NULL ? "--layout" : "--costs");
    }
    a->limit = a->limit > 0 ? a->limit : 1;
    return 0;
}

static int check_split_head(struct cli *cli, const struct schedule_args *a) {
    if (a->spec.slices > 0 || a->spec.chunks > 0) {
        return cli_fail_usage(cli, VERB,
                              "--kind " SPLIT_HEAD " takes whole sequences and one chunk of layers per device");
    }
    if (a->layout == NULL || !(a->loss_layers > 0)) {
        return cli_fail_usage(cli, VERB,
                              "--kind " SPLIT_HEAD " needs --layout, such as 'Et*8|t*8|t*8|t*8L', and --loss-layers: "
                              "how many layers the head weighs as much as");
    }
    return 0;
}

static int check_share_range(struct cli *cli, struct schedule_args *a) {
    a->share_matters = a->weight_share > NOT_GIVEN;
    a->weight_share = a->share_matters ? a->weight_share : 1;
    if (a->weight_share <= 0 || a->weight_share > 1) {
        return cli_fail_usage(cli, VERB, "--weight-share expects a share above 0 %% and up to 100 %%");
    }
    return 0;
}

static int parse_times(struct cli *cli, struct schedule_args *a) {
    SF_TRY(parse_time(cli, "f", a->f, &a->spec.f));
    if (a->spec.f == 0) {
        return cli_fail_usage(cli, VERB, "--f expects a time above 0: a forward takes some");
    }
    SF_TRY(parse_time(cli, "b", a->b, &a->spec.b));
    return parse_time(cli, "w", a->w, &a->spec.w);
}

static sf_time_ps mean_of(const sf_time_ps *of, uint32_t n, uint32_t devices) {
    sf_time_ps sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += of[i]; /* at most 16,384 times 100 s */
    }
    return sum / (devices > 0 ? devices : 1);
}

/* Families are made for devices alike, with the mean of what is in the table. */
static int take_costs(struct cli *cli, struct schedule_args *a) {
    const struct sf_stage_costs *c = &a->costs;
    if (a->f != NULL || a->b != NULL || a->w != NULL || a->layout != NULL) {
        return cli_fail_usage(cli, VERB, "--f, --b, --w and --layout follow from --costs");
    }
    SF_TRY(sf_stage_costs_load(&sf_io_posix, a->stage_costs, &a->costs, &cli->err));
    a->spec.f = mean_of(c->f, c->stages_n, a->spec.devices);
    a->spec.b = mean_of(c->b, c->stages_n, a->spec.devices);
    a->spec.w = mean_of(c->w, c->stages_n, a->spec.devices);
    return 0;
}

static int complete(struct cli *cli, struct schedule_args *a) {
    if (a->limit <= 0 && a->limit > NOT_GIVEN) {
        return cli_fail_usage(cli, VERB, "--memory-limit expects a share of p M above 0; leave it out for no limit");
    }
    a->limit = a->limit > 0 ? a->limit : 0;
    a->kind = a->kind != NULL ? a->kind : a->table != NULL ? "table" : NULL;
    if (a->kind == NULL) {
        return cli_fail_usage(cli, VERB, "--kind is missing");
    }
    SF_TRY(check_kind(cli, a->kind));
    SF_TRY(check_table_use(cli, a));
    SF_TRY(check_wrap(cli, a));
    if (strcmp(a->kind, "all") == 0 && (a->svg != NULL || a->csv != NULL)) {
        return cli_fail_usage(cli, VERB, "--svg and --csv are for one kind at a time");
    }
    SF_TRY(check_share_range(cli, a));
    SF_TRY(strcmp(a->kind, SPLIT_HEAD) == 0 ? check_split_head(cli, a) : 0);
    SF_TRY(a->stage_costs != NULL ? take_costs(cli, a) : parse_times(cli, a));
    SF_TRY(a->comm != NULL ? parse_time(cli, "comm", a->comm, &a->spec.comm) : 0);
    a->spec.family = sf_pipe_family_parse(a->kind);
    a->spec.weight_share = a->weight_share;
    if (strcmp(a->kind, "auto") == 0) {
        SF_TRY(check_auto(cli, a));
    }
    a->spec.memory_limit = a->limit * a->spec.devices;
    a->spec.published = a->published;
    return 0;
}

int verb_schedule(struct cli *cli, int argc, char **argv) {
    struct schedule_args a = {.weight_share = NOT_GIVEN, .limit = NOT_GIVEN};
    const struct cli_option options[] = {
        {"kind", 'k', CLI_TEXT, &a.kind, "KIND", "see above"},
        {"stages", 'p', CLI_COUNT, &a.spec.devices, "P", "devices in the pipeline"},
        {"microbatches", 'm', CLI_COUNT, &a.spec.microbatches, "M", "microbatches in one step"},
        {"chunks", 'v', CLI_COUNT, &a.spec.chunks, "V", "chunks per device (interleaved, breadth-first)"},
        {"slices", 'n', CLI_COUNT, &a.spec.slices, "N", "slices of each sequence (gpipe, 1f1b)"},
        {"f", 0, CLI_TEXT, &a.f, "TIME", "forward, such as 18.522ms"},
        {"b", 0, CLI_TEXT, &a.b, "TIME", "gradient of the input"},
        {"w", 0, CLI_TEXT, &a.w, "TIME", "gradient of the weights"},
        {"costs", 0, CLI_TEXT, &a.stage_costs, "FILE", "instead of f, b and w: a CSV of stages, as cut --costs writes"},
        {"comm", 0, CLI_TEXT, &a.comm, "TIME", "one hop between devices (default 0)"},
        {"memory-limit", 0, CLI_FRACTION, &a.limit, "K", "activations of a device in p M, such as 1.5"},
        {"weight-share", 0, CLI_FRACTION, &a.weight_share, "S", "of an activation that lives until W (100%)"},
        {"wrap-edge", 0, CLI_TEXT, &a.wrap, "EDGE", "every microbatch around (default), or first of P only"},
        {"published", 0, CLI_FLAG, &a.published, NULL, "zb-v, v-half, v-min as published, without our search"},
        {"layout", 0, CLI_TEXT, &a.layout, "TEXT", "uneven stages, as Megatron writes them: \"Et*3|(tt|)*29,m|L\""},
        {"loss-layers", 0, CLI_FRACTION, &a.loss_layers, "X", "with --layout: layers that L weighs as much as (0)"},
        {"table", 0, CLI_TEXT, &a.table, "FILE", "read the passes from CSV"},
        {"csv", 0, CLI_TEXT, &a.csv, "FILE", "write the passes as CSV"},
        {"svg", 0, CLI_TEXT, &a.svg, "FILE", "write a drawing"},
        {0},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    int rc = complete(cli, &a);
    rc = rc != 0 ? rc : strcmp(a.kind, "all") == 0 ? show_all(cli, &a) : show_one(cli, &a);
    sf_stage_costs_clear(&a.costs);
    return rc;
}
