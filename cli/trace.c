/* staticfire trace: what a trace holds. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/print.h"

static const struct cli_usage usage = {
    .verb = "trace",
    .operands = "dump|info FILE",
    .about = "dump  one line per record\n"
             "info  what it is a trace of, and how much of it there is",
    .examples = "  staticfire trace dump run.sftrace | head\n"
                "  staticfire trace info run.sftrace --json\n",
    .operands_min = 2,
    .operands_max = 2,
};

static json_t *info_json(const struct sf_trace *t) {
    const struct sf_trace_meta *m = &t->meta;
    return json_pack("{s:o, s:o, s:o, s:o, s:i, s:i, s:I, s:o, s:o}", "program", cli_json_hash(m->prog), "topo",
                     cli_json_hash(m->topo), "cost", cli_json_hash(m->cost), "seed", cli_json_u64(m->seed), "ranks",
                     (int)m->ranks, "iterations", (int)m->iterations, "records", (json_int_t)t->recs_n, "origin",
                     cli_json_text(m->origin), "note", cli_json_text(m->note));
}

static int trace_info(struct cli *cli, const struct sf_trace *t) {
    if (cli->json) {
        return cli_print_json(info_json(t), &cli->err);
    }
    struct sf_buf out = {0};
    char hash[SF_HASH_TEXT];
    cli_fact(&out, "origin", "%s", t->meta.origin);
    cli_fact(&out, "program", "%s", sf_hash_format(t->meta.prog, hash));
    cli_fact(&out, "topology", "%s", sf_hash_format(t->meta.topo, hash));
    cli_fact(&out, "cost model", "%s", sf_hash_format(t->meta.cost, hash));
    cli_fact(&out, "seed", "%" PRIu64, t->meta.seed);
    cli_fact(&out, "ranks, iterations", "%s, %s", cli_count(t->meta.ranks), cli_count(t->meta.iterations));
    cli_fact(&out, "records", "%s", cli_count(t->recs_n));
    cli_fact(&out, "note", "%s", t->meta.note);
    return cli_print(&out, &cli->err);
}

static json_t *records_json(const struct sf_trace *t) {
    json_t *out = json_array();
    for (size_t i = 0; i < t->recs_n; i++) {
        const struct sf_trace_rec *r = &t->recs[i];
        json_array_append_new(out, json_pack("{s:i, s:i, s:i, s:i, s:s, s:i, s:I, s:I, s:I, s:I, s:I}", "rank",
                                             (int)r->rank, "iter", (int)r->iter, "op", (int)r->op, "covers",
                                             (int)r->covers, "source", sf_time_source_name(r->source), "stream",
                                             (int)r->stream, "issue_ps", (json_int_t)r->issue, "start_ps",
                                             (json_int_t)r->start, "end_ps", (json_int_t)r->end, "busy_ps",
                                             (json_int_t)r->busy, "bytes", (json_int_t)r->bytes));
    }
    return out;
}

static int trace_dump(struct cli *cli, const struct sf_trace *t, const char *output) {
    if (cli->json) {
        json_t *doc = info_json(t);
        if (doc != NULL) {
            json_object_set_new(doc, "recs", records_json(t));
        }
        return cli_print_json(doc, &cli->err);
    }
    struct sf_buf text = {0};
    int rc = sf_trace_print(t, &text, &cli->err);
    if (rc != 0) {
        sf_buf_free(&text);
        return rc;
    }
    return cli_output(output, &text, &cli->err);
}

int verb_trace(struct cli *cli, int argc, char **argv) {
    const char *output = NULL;
    const struct cli_option options[] = {
        {"output", 'o', CLI_TEXT, &output, "FILE", "dump: write the text there"},
        {0},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    bool dump = strcmp(argv[first], "dump") == 0;
    if (!dump && strcmp(argv[first], "info") != 0) {
        return cli_fail_usage(cli, "trace", "expected dump or info, found \"%.60s\"", argv[first]);
    }
    if (output != NULL && (!dump || cli->json)) {
        return cli_fail_usage(cli, "trace", "-o writes the text of trace dump; it goes with nothing else");
    }
    struct sf_trace t;
    sf_trace_init(&t);
    int rc = cli_trace_read(argv[first + 1], &t, NULL, &cli->err);
    if (rc == 0) {
        rc = dump ? trace_dump(cli, &t, output) : trace_info(cli, &t);
    }
    sf_trace_clear(&t);
    return rc;
}
