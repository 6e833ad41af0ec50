/* staticfire net: a traffic pattern over the links of a cluster. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/print.h"
#include "cli/progress.h"
#include "core/arena.h"
#include "sim/net.h"

static const struct cli_usage usage = {
    .verb = "net",
    .operands = "PATTERN CLUSTER.yaml",
    .about = "How long a traffic pattern takes when every link is shared max-min fairly, and which links were\n"
             "shared. Patterns: incast (all to endpoint 0), permutation (each to one other), all-to-all (within\n"
             "each rail), ring (all-reduce) and pipeline (1F1B, transfers between computes).\n"
             "--bytes: incast and permutation, one message; all-to-all, what an endpoint sends; ring, the vector;\n"
             "pipeline, an activation.",
    .examples = "  staticfire net permutation scenarios/clusters/hgx-h100-16k.yaml --endpoints 256 --seed 7\n"
                "  staticfire net ring scenarios/clusters/gb300-nvl72-220k.yaml --endpoints 1024 --bytes 1GiB\n"
                "  staticfire net pipeline cluster.yaml --endpoints 64 --stages 8 --forward 2ms --json\n"
                "  staticfire net incast cluster.yaml --endpoints 16 --dump-oracle incast.net\n",
    .operands_min = 2,
    .operands_max = 2,
};

struct net_args {
    const char *bytes, *protocol, *forward, *header, *packet, *dump, *routing;
    uint32_t top;
    bool store;
    struct sf_net_job job;
};

struct answer {
    const struct sf_topo *topo;
    const struct sf_net *net;
    const struct net_args *args;
    const struct sf_net_job *job; /* defaults filled in */
    struct sf_net_result result;
    uint32_t *order; /* links, the busiest first */
    uint32_t listed; /* how many of them are told */
    uint32_t shared;
};

/* ---- arguments --------------------------------------------------------------------------------------------------- */

static int small_bytes(struct cli *cli, const char *name, const char *text, uint32_t otherwise, uint32_t *out) {
    uint64_t bytes = otherwise;
    SF_TRY(text != NULL ? cli_option_check(cli, "net", name, sf_parse_bytes(text, &bytes, &cli->err)) : 0);
    if (bytes > 1 << 24) {
        return cli_fail_usage(cli, "net", "--%s expects at most 16MiB, found %.60s", name, text);
    }
    *out = (uint32_t)bytes;
    return 0;
}

/* An option that a pattern does not look at is refused, not ignored. */
static int refuse_useless(struct cli *cli, const struct net_args *a) {
    bool pipeline = a->job.pattern == SF_NET_PIPELINE;
    const char *useless = NULL;
    useless = !pipeline && a->job.stages ? "stages" : useless;
    useless = !pipeline && a->job.microbatches ? "microbatches" : useless;
    useless = !pipeline && a->forward ? "forward" : useless;
    useless = a->job.pattern != SF_NET_ALL_TO_ALL && a->job.peers ? "peers" : useless;
    useless = a->packet && !a->store && !a->header ? "packet" : useless;
    return useless == NULL ? 0
                           : cli_fail_usage(cli, "net", "--%s changes nothing for %s%s", useless,
                                            sf_net_pattern_name((int)a->job.pattern),
                                            useless[1] == 'a' ? " without --header or --store-and-forward" : "");
}

/* A backward pass takes twice as long. */
static int read_forward(struct cli *cli, struct net_args *a) {
    const char *text = a->forward ? a->forward : "1ms";
    SF_TRY(cli_option_check(cli, "net", "forward", sf_parse_time(text, &a->job.forward_ps, &cli->err)));
    return a->job.forward_ps <= SF_NET_DELAY_MAX_PS / 2
               ? 0
               : cli_fail_usage(cli, "net", "--forward expects a time up to 40h, found %.60s", text);
}

static int read_args(struct cli *cli, const char *pattern, struct net_args *a) {
    int which = sf_net_pattern_parse(pattern);
    int protocol = sf_coll_protocol_parse(a->protocol ? a->protocol : "simple");
    if (which < 0) {
        return cli_fail_usage(cli, "net",
                              "unknown pattern \"%.60s\": expected incast, permutation, all-to-all, ring or "
                              "pipeline",
                              pattern);
    }
    if (protocol < 0) {
        return cli_fail_usage(cli, "net", "--protocol expects ll, ll128 or simple, found \"%.60s\"", a->protocol);
    }
    a->job.pattern = (enum sf_net_pattern)which;
    a->job.protocol = (enum sf_coll_protocol)protocol;
    SF_TRY(refuse_useless(cli, a));
    const char *bytes = a->bytes ? a->bytes : "64MiB";
    SF_TRY(cli_option_check(cli, "net", "bytes", sf_parse_bytes(bytes, &a->job.bytes, &cli->err)));
    SF_TRY(read_forward(cli, a));
    SF_TRY(small_bytes(cli, "packet", a->packet, 4096, &a->job.wire.packet_bytes));
    SF_TRY(small_bytes(cli, "header", a->header, 0, &a->job.wire.header_bytes));
    a->job.wire.store_and_forward = a->store;
    return 0;
}

static int parse_routing(struct cli *cli, const char *text, int *out) {
    for (*out = 0; *out < SF_ROUTINGS_N; ++*out) {
        if (strcmp(text, sf_routing_name(*out)) == 0) {
            return 0;
        }
    }
    return cli_fail_usage(cli, "net", "--routing expects adaptive, ecmp, rail-local or pxn, found \"%.60s\"", text);
}

static int set_routing(struct cli *cli, const struct net_args *a, struct sf_topo *t) {
    int routing = (int)sf_topo_routing(t);
    SF_TRY(a->routing != NULL ? parse_routing(cli, a->routing, &routing) : 0);
    bool hashed = routing == SF_ROUTING_ECMP;
    if (a->job.seed != 0 && !hashed && a->job.pattern != SF_NET_PERMUTATION) {
        return cli_fail_usage(cli, "net", "--seed changes nothing for %s with %s routing",
                              sf_net_pattern_name((int)a->job.pattern), sf_routing_name(routing));
    }
    bool change = a->routing != NULL || (hashed && a->job.seed != 0);
    uint64_t seed = hashed ? a->job.seed : 0;
    return change ? sf_topo_set_routing(t, (enum sf_routing)routing, seed, &cli->err) : 0;
}

/* ---- the answer -------------------------------------------------------------------------------------------------- */

static double share_used(const struct answer *a, uint32_t link) {
    double most = (double)sf_net_link(a->net, link)->bytes_per_s * sf_ps_to_s(a->result.time);
    return most > 0 ? (double)a->result.use[link].bytes / most : 0;
}

/* Shared the longest first, then the most used, then by number: sorting is total. */
static int compare_links(const void *x, const void *y, void *self) {
    const struct answer *a = self;
    uint32_t i = *(const uint32_t *)x, k = *(const uint32_t *)y;
    const struct sf_net_use *u = &a->result.use[i], *v = &a->result.use[k];
    if (u->shared_ps != v->shared_ps) {
        return u->shared_ps > v->shared_ps ? -1 : 1;
    }
    double p = share_used(a, i), q = share_used(a, k);
    return p > q ? -1 : p < q ? 1 : (i > k) - (i < k);
}

static int rank_links(struct cli *cli, struct answer *a) {
    uint32_t n = sf_net_links(a->net);
    a->order = sf_calloc(n, sizeof *a->order);
    if (a->order == NULL) {
        return sf_fail_memory(&cli->err, "links");
    }
    for (uint32_t i = 0; i < n; i++) {
        a->order[i] = i;
        a->shared += a->result.use[i].shared_ps > 0;
    }
    qsort_r(a->order, n, sizeof *a->order, compare_links, a);
    a->listed = a->args->top < n ? a->args->top : n;
    return 0;
}

/* The first cable of a link, and how many more it stands for. */
static const char *link_name(const struct answer *a, uint32_t link, char *buf, size_t size) {
    const struct sf_net_link *l = sf_net_link(a->net, link);
    sf_topo_link_text(a->topo, l->link, buf, size);
    size_t used = strlen(buf);
    if (l->cables > 1) {
        snprintf(buf + used, size - used, " and %u more", l->cables - 1);
    }
    return buf;
}

static json_t *links_json(const struct answer *a) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < a->listed; i++) {
        char name[160];
        uint32_t link = a->order[i];
        const struct sf_net_use *u = &a->result.use[link];
        link_name(a, link, name, sizeof name);
        json_array_append_new(rows,
                              json_pack("{s:s, s:o, s:f, s:i, s:i, s:f}", "link", name, "bytes", cli_json_u64(u->bytes),
                                        "used", share_used(a, link), "messages", (int)u->messages, "at_once",
                                        (int)u->most, "shared_s", sf_ps_to_s(u->shared_ps)));
    }
    return rows;
}

static int print_json(struct cli *cli, const struct answer *a) {
    const struct sf_net_result *r = &a->result;
    json_t *doc = json_pack(
        "{s:s, s:o, s:s, s:i, s:i, s:o, s:s, s:f, s:f, s:f, s:f, s:i, s:i, s:i, s:i, s:I, s:I, s:f, s:f, s:o}",
        "pattern", sf_net_pattern_name((int)a->job->pattern), "cluster", cli_json_text(sf_topo_name(a->topo)),
        "routing", sf_routing_name((int)sf_topo_routing(a->topo)), "endpoints", (int)a->job->endpoints, "per_domain",
        (int)a->job->per_domain, "bytes", cli_json_u64(a->job->bytes), "protocol",
        sf_coll_protocol_name((int)a->job->protocol), "time_s", sf_ps_to_s(r->time), "message_p50_s",
        sf_ps_to_s(r->p50), "message_p99_s", sf_ps_to_s(r->p99), "busbw_GBps", sf_net_busbw(a->job, r->time) / 1e9,
        "messages", (int)sf_net_messages(a->net), "links_used", (int)sf_net_links(a->net), "links_shared",
        (int)a->shared, "flows_at_once", (int)r->most_flows, "events", (json_int_t)r->events, "rate_solves",
        (json_int_t)r->solves, "wall_s", r->wall_s, "cpu_s", r->cpu_s, "links", links_json(a));
    return cli_print_json(doc, &cli->err);
}

static void print_facts(const struct answer *a, struct sf_buf *out) {
    const struct sf_net_result *r = &a->result;
    double busbw = sf_net_busbw(a->job, r->time);
    cli_fact(out, "time", "%s", cli_time(r->time));
    cli_fact(out, "message", "p50 %s, p99 %s", cli_time(r->p50), cli_time(r->p99));
    if (busbw > 0) {
        cli_fact(out, "bus bandwidth", "%.2f GB/s", busbw / 1e9);
    }
    cli_fact(out, "messages", "%s over %s links, %s of them shared", cli_count(sf_net_messages(a->net)),
             cli_count(sf_net_links(a->net)), cli_count(a->shared));
    cli_fact(out, "wall time", "%s for %s events and %s rate solves", cli_seconds(r->wall_s), cli_count(r->events),
             cli_count(r->solves));
}

static int print_text(struct cli *cli, const struct answer *a) {
    struct cli_table table = {.align = "lrrrr"};
    struct sf_buf out = {0};
    sf_buf_printf(&out, "%s over %u endpoints of %s, %u per domain, %s, %s routing\n",
                  sf_net_pattern_name((int)a->job->pattern), a->job->endpoints, sf_topo_name(a->topo),
                  a->job->per_domain, cli_bytes(a->job->bytes), sf_routing_name((int)sf_topo_routing(a->topo)));
    print_facts(a, &out);
    static const char *const heads[] = {"busiest links", "used", "messages", "at once", "shared for"};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        cli_cell(&table, "%s", heads[i]);
    }
    for (uint32_t i = 0; i < a->listed; i++) {
        char name[160];
        uint32_t link = a->order[i];
        const struct sf_net_use *u = &a->result.use[link];
        cli_cell(&table, "%s", link_name(a, link, name, sizeof name));
        cli_cell(&table, "%.1f %%", 100 * share_used(a, link));
        cli_cell(&table, "%u", u->messages);
        cli_cell(&table, "%u", u->most);
        cli_cell(&table, "%s", u->shared_ps > 0 ? cli_time(u->shared_ps) : "-");
    }
    sf_buf_printf(&out, "\n");
    cli_table_print(&table, "", &out);
    return cli_print(&out, &cli->err);
}

static int write_dump(struct cli *cli, const struct answer *a) {
    struct sf_buf out = {0};
    int rc = sf_net_dump(a->net, &out, &cli->err);
    rc = rc ? rc : sf_io_posix.write_all(NULL, a->args->dump, out.data, out.bytes, &cli->err);
    sf_buf_free(&out);
    return rc;
}

static int simulate(struct cli *cli, struct answer *a) {
    SF_TRY(a->args->dump != NULL ? write_dump(cli, a) : 0);
    return sf_net_run(a->net, &sf_clock_host, &a->result, &cli->err);
}

static int answer(struct cli *cli, struct answer *a) {
    SF_TRY(rank_links(cli, a));
    return cli->json ? print_json(cli, a) : print_text(cli, a);
}

static int run(struct cli *cli, const char *cluster, struct net_args *args) {
    struct sf_topo *t = NULL;
    struct sf_net *n = NULL;
    SF_TRY(sf_output_check(args->dump, &cli->err));
    SF_TRY(sf_topo_load(&sf_io_posix, cluster, cli->catalog, &t, &cli->err));
    int rc = set_routing(cli, args, t);
    struct cli_progress progress = cli_progress_begin("simulating");
    args->job.progress = cli_progress_update;
    args->job.progress_self = &progress;
    rc = rc ? rc : sf_net_of_job(t, &args->job, &n, &cli->err);
    struct answer a = {.topo = t, .net = n, .args = args, .job = &args->job};
    rc = rc ? rc : simulate(cli, &a);
    cli_progress_end(&progress);
    rc = rc ? rc : answer(cli, &a);
    sf_free(a.order);
    sf_net_result_free(&a.result);
    sf_net_free(n);
    sf_topo_free(t);
    return rc;
}

int verb_net(struct cli *cli, int argc, char **argv) {
    struct net_args a = {.top = 8, .job = {.endpoints = 16, .channels = 2}};
    const struct cli_option options[] = {
        {"endpoints", 'n', CLI_COUNT, &a.job.endpoints, "N", "GPUs that take part; default 16"},
        {"per-domain", 0, CLI_COUNT, &a.job.per_domain, "K", "of each domain; default: spread as thinly as it goes"},
        {"bytes", 'b', CLI_TEXT, &a.bytes, "SIZE", "default 64MiB"},
        {"routing", 0, CLI_TEXT, &a.routing, "NAME", "adaptive, ecmp, rail-local or pxn; default: the cluster's"},
        {"seed", 0, CLI_U64, &a.job.seed, "N", "of the permutation, and of the hash of --routing ecmp"},
        {"protocol", 0, CLI_TEXT, &a.protocol, "NAME", "ll, ll128 or simple (default)"},
        {"channels", 0, CLI_COUNT, &a.job.channels, "N", "of the protocol, each with its window; default 2"},
        {"peers", 0, CLI_COUNT, &a.job.peers, "N", "all-to-all: messages of one sender under way; default: all"},
        {"stages", 0, CLI_COUNT, &a.job.stages, "N", "pipeline: default the largest divisor up to 16"},
        {"microbatches", 0, CLI_COUNT, &a.job.microbatches, "N", "pipeline: default four per stage"},
        {"forward", 0, CLI_TEXT, &a.forward, "TIME", "pipeline: compute of a stage, backward twice that; default 1ms"},
        {"packet", 0, CLI_TEXT, &a.packet, "SIZE", "payload of a packet; default 4096B"},
        {"header", 0, CLI_TEXT, &a.header, "SIZE", "added to each packet; default 0B: link rates are payload rates"},
        {"store-and-forward", 0, CLI_FLAG, &a.store, NULL, "switches wait for whole packets; default: cut through"},
        {"top", 0, CLI_COUNT, &a.top, "N", "busiest links to list; default 8"},
        {"dump-oracle", 0, CLI_TEXT, &a.dump, "FILE", "write network and traffic for other simulators"},
        {NULL, 0, CLI_FLAG, NULL, NULL, NULL},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    SF_TRY(read_args(cli, argv[first], &a));
    return run(cli, argv[first + 1], &a);
}
