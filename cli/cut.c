/* staticfire cut: a model's units onto pipeline stages, exactly. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/print.h"
#include "core/arena.h"
#include "planner/cut_units.h"

#define VERB "cut"
#define BAR 24

struct cut_args {
    const char *memory, *costs;
    uint32_t stages, devices, microbatches;
};

static const struct cli_usage usage = {
    .verb = VERB,
    .operands = "UNITS.csv --stages P",
    .about = "Cuts a model into P pipeline stages so that the slowest is as fast as can be, exactly, under a memory\n"
             "limit; and says how much better that is than equal numbers of layers. UNITS.csv has a row per kind of\n"
             "unit (encoder, embedding, layer, MTP layer, head), in data order, with the columns\n\n"
             "  unit,count,devices,f,b,w,state,activation\n"
             "  embedding,1,1,0.1ms,0ms,0.1ms,8GB,0B\n"
             "  layer,80,1,4.1ms,4.2ms,4.0ms,6GB,500MB\n"
             "  head,1,1,9ms,9ms,9ms,8GB,1GB\n\n"
             "f, b and w are forward, input gradient and weight gradient of one microbatch; state and activation are\n"
             "bytes of one device. Further rows of the same name on more devices (tp, ep) are other ways to run it,\n"
             "of which every stage takes one; --devices is then how many all stages together may take.",
    .examples = "  staticfire cut units.csv --stages 16\n"
                "  staticfire cut units.csv --stages 16 --memory 279GB --microbatches 64 --costs stages.csv\n"
                "  staticfire schedule --kind auto --stages 16 --microbatches 64 --costs stages.csv\n"
                "  staticfire cut units.csv --stages 16 --devices 96 --json\n",
    .operands_min = 1,
    .operands_max = 1,
};

struct answer {
    struct sf_cut_units units;
    struct sf_cut cut, even;
    bool has_even;
    uint32_t stages;
    uint32_t in_flight[SF_CUT_STAGES];
    uint64_t limit_bytes;
};

static const char *unit_name(const struct sf_cut_units *u, uint32_t r, uint32_t n, char *out, size_t size) {
    if (n == 1) {
        snprintf(out, size, "%s", u->rows[r].unit);
    } else {
        snprintf(out, size, "%s x %u", u->rows[r].unit, n);
    }
    return out;
}

/* "embedding, layer x 12" */
static void contents(const struct sf_cut_units *u, uint32_t from, uint32_t to, struct sf_buf *out) {
    char one[SF_CUT_NAME + 16];
    for (uint32_t r = 0; r < u->rows_n; r++) {
        uint32_t begin = u->rows[r].first > from ? u->rows[r].first : from, end = u->rows[r].first + u->rows[r].count;
        end = end < to ? end : to;
        if (end > begin) {
            sf_buf_printf(out, "%s%s", out->bytes > 0 ? ", " : "", unit_name(u, r, end - begin, one, sizeof one));
        }
    }
}

static sf_time_ps time_of(const struct sf_cut_stage *c) {
    return c->f + c->b + c->w;
}

static uint64_t bytes_of(const struct answer *a, uint32_t s, const struct sf_cut_stage *c) {
    return c->state_bytes + a->in_flight[s] * c->activation_bytes;
}

static double gain(const struct answer *a) {
    return a->cut.slowest > 0 ? (double)a->even.slowest / (double)a->cut.slowest : 1;
}

/* No cut whatever, memory aside, has a faster slowest stage: all in the fastest way shared out, or the longest unit. */
static sf_time_ps bound_of(const struct sf_cut_units *u, uint32_t stages) {
    sf_time_ps sum = 0, longest = 0;
    for (uint32_t i = 0; i < u->units_n; i++) {
        sf_time_ps least = u->units[i].time[0];
        for (uint32_t way = 1; way < u->ways_n; way++) {
            least = u->units[i].time[way] < least ? u->units[i].time[way] : least;
        }
        sum += least;
        longest = least > longest ? least : longest;
    }
    sf_time_ps mean = (sum + stages - 1) / stages;
    return mean > longest ? mean : longest;
}

static json_t *stages_json(const struct answer *a) {
    json_t *list = json_array();
    for (uint32_t s = 0; s < a->stages; s++) {
        struct sf_buf text = {0};
        uint32_t from = a->cut.first[s], to = a->cut.first[s + 1], way = a->cut.way[s];
        struct sf_cut_stage c = sf_cut_stage_of(&a->units, from, to, way);
        contents(&a->units, from, to, &text);
        json_array_append_new(
            list,
            json_pack("{s:i, s:i, s:o, s:i, s:f, s:f, s:f, s:o, s:o}", "first", (int)from, "units", (int)(to - from),
                      "contents", cli_json_text(text.data ? text.data : ""), "devices", (int)a->units.way_devices[way],
                      "f_s", sf_ps_to_s(c.f), "b_s", sf_ps_to_s(c.b), "w_s", sf_ps_to_s(c.w), "memory_bytes",
                      cli_json_u64(bytes_of(a, s, &c)), "activation_bytes", cli_json_u64(c.activation_bytes)));
        sf_buf_free(&text);
    }
    return list;
}

static json_t *answer_json(const struct answer *a) {
    return json_pack("{s:o, s:f, s:f, s:i, s:o, s:o}", "stages", stages_json(a), "slowest_s",
                     sf_ps_to_s(a->cut.slowest), "bound_s", sf_ps_to_s(bound_of(&a->units, a->stages)), "devices",
                     (int)a->cut.devices, "even_slowest_s",
                     a->has_even ? json_real(sf_ps_to_s(a->even.slowest)) : json_null(), "gain_over_even",
                     a->has_even ? json_real(gain(a)) : json_null());
}

static void add_stage(const struct answer *a, uint32_t s, struct cli_table *t) {
    struct sf_buf text = {0};
    uint32_t way = a->cut.way[s];
    struct sf_cut_stage c = sf_cut_stage_of(&a->units, a->cut.first[s], a->cut.first[s + 1], way);
    double share = a->cut.slowest > 0 ? (double)time_of(&c) / (double)a->cut.slowest : 0;
    contents(&a->units, a->cut.first[s], a->cut.first[s + 1], &text);
    cli_cell(t, "%u", s);
    cli_cell(t, "%s", text.data ? text.data : "");
    cli_cell(t, "%u", a->units.way_devices[way]);
    cli_cell(t, "%s", cli_time(time_of(&c)));
    cli_cell(t, "%s", cli_bytes(bytes_of(a, s, &c)));
    cli_cell(t, "%.*s", (int)(share * BAR + 0.5), "########################");
    sf_buf_free(&text);
}

static int print_answer(struct cli *cli, const struct answer *a) {
    static const char *const heads[] = {"stage", "units", "devices", "time", "memory", "of the slowest"};
    struct cli_table t = {.align = "rlrrrl"};
    struct sf_buf out = {0};
    sf_time_ps bound = bound_of(&a->units, a->stages);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        cli_cell(&t, "%s", heads[i]);
    }
    for (uint32_t s = 0; s < a->stages; s++) {
        add_stage(a, s, &t);
    }
    cli_table_print(&t, "", &out);
    sf_buf_printf(&out, "\n");
    cli_fact(&out, "slowest stage", "%s, no cut is faster%s", cli_time(a->cut.slowest),
             a->limit_bytes == UINT64_MAX ? "" : " and fits");
    cli_fact(&out, "work shared out", "%s: what units that could be cut anywhere would take", cli_time(bound));
    if (a->units.ways_n > 1) {
        cli_fact(&out, "devices", "%u", a->cut.devices);
    }
    if (a->has_even) {
        cli_fact(&out, "equal numbers", "%s, %.1f %% slower", cli_time(a->even.slowest), (gain(a) - 1) * 100);
    }
    return cli_print(&out, &cli->err);
}

static int solve(const struct cut_args *a, struct answer *out, struct sf_err *err) {
    uint64_t limits[SF_CUT_STAGES];
    for (uint32_t s = 0; s < a->stages; s++) {
        uint32_t behind = a->stages - s;
        out->in_flight[s] = a->microbatches > 0 && a->microbatches < behind ? a->microbatches : behind;
        limits[s] = out->limit_bytes;
    }
    const struct sf_cut_units *u = &out->units;
    struct sf_cut_problem problem = {.units = u->units,
                                     .units_n = u->units_n,
                                     .stages_n = a->stages,
                                     .ways_n = u->ways_n,
                                     .way_devices = u->way_devices,
                                     .devices = a->devices > 0 ? a->devices : UINT32_MAX,
                                     .in_flight = out->in_flight,
                                     .limit_bytes = limits};
    SF_TRY(sf_cut(&problem, &out->cut, err));
    out->stages = a->stages;
    out->has_even = sf_cut_even(u, a->stages, &out->even);
    return 0;
}

static int check(struct cli *cli, const struct cut_args *a, struct answer *out) {
    out->limit_bytes = UINT64_MAX;
    if (a->stages == 0 || a->stages > SF_CUT_STAGES) {
        return cli_fail_usage(cli, VERB, "--stages expects 1 to %d", SF_CUT_STAGES);
    }
    SF_TRY(a->memory ? cli_option_check(cli, VERB, "memory", sf_parse_bytes(a->memory, &out->limit_bytes, &cli->err))
                     : 0);
    return sf_output_check(a->costs, &cli->err);
}

static int run(struct cli *cli, const struct cut_args *a, const char *path, struct answer *out) {
    SF_TRY(check(cli, a, out));
    SF_TRY(sf_cut_units_load(&sf_io_posix, path, &out->units, &cli->err));
    if (out->units.ways_n == 1 && a->devices > 0) {
        return cli_fail_usage(cli, VERB, "--devices chooses among ways to run a unit, and %s has one of each", path);
    }
    SF_TRY(solve(a, out, &cli->err));
    if (a->costs != NULL) {
        struct sf_buf csv = {0};
        sf_stage_costs_print(&out->units, &out->cut, out->stages, &csv);
        SF_TRY(cli_output(a->costs, &csv, &cli->err));
    }
    return cli->json ? cli_print_json(answer_json(out), &cli->err) : print_answer(cli, out);
}

int verb_cut(struct cli *cli, int argc, char **argv) {
    struct cut_args a = {0};
    const struct cli_option options[] = {
        {"stages", 'p', CLI_COUNT, &a.stages, "P", "pipeline stages; every one gets a unit at least"},
        {"memory", 0, CLI_TEXT, &a.memory, "SIZE", "of one device; a stage holds what 1F1B holds"},
        {"microbatches", 'm', CLI_COUNT, &a.microbatches, "M", "in a step, where they are fewer than stages"},
        {"devices", 0, CLI_COUNT, &a.devices, "N", "of all stages together (default: any number)"},
        {"costs", 0, CLI_TEXT, &a.costs, "FILE", "write the stages' costs as CSV, for schedule --costs"},
        {NULL, 0, CLI_FLAG, NULL, NULL, NULL},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    struct answer *out = sf_calloc(1, sizeof *out);
    int rc = out ? run(cli, &a, argv[first], out) : sf_fail_memory(&cli->err, "a cut");
    if (out != NULL) {
        sf_cut_units_clear(&out->units);
    }
    sf_free(out);
    return rc;
}
