/* staticfire coll: the time of a collective by size, as nccl-tests prints it. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/load.h"
#include "cli/print.h"
#include "cli/sources.h"
#include "core/arena.h"
#include "core/units.h"
#include "sim/coll.h"
#include "sim/seats.h"

#define SIZES_MAX 64

struct coll_args {
    const char *op, *bytes, *algorithm, *protocol;
    uint32_t ranks, per_domain;
    bool all;
};

static const struct cli_usage usage = {
    .verb = "coll",
    .operands = "CLUSTER.yaml",
    .about =
        "How long a collective takes over ranks that fill domains one by one, and what NCCL would run.\n"
        "time is derived from the steps of the algorithm; NCCL is what its tuning model expects, by which\n"
        "it picks. With --times nccl the two change places: NCCL's is the time where it has one (it does not\n"
        "tune all_to_all). Sizes are those of nccl-tests: the whole buffer of one rank. --bytes takes one size or\n"
        "a range, which doubles from the first to the last.",
    .examples = "  staticfire coll scenarios/clusters/gb300-nvl72-1rack.yaml --op all_reduce --ranks 72\n"
                "  staticfire coll cluster.yaml --op all_to_all --ranks 256 --per-domain 8 --bytes 1MiB..1GiB\n"
                "  staticfire coll cluster.yaml --op all_gather --ranks 8 --algorithm ring --protocol ll128\n"
                "  staticfire coll cluster.yaml --ranks 64 --bytes 256MiB --all\n"
                "  staticfire coll cluster.yaml --ranks 64 --times nccl\n",
    .operands_min = 1,
    .operands_max = 1,
};

struct sizes {
    uint64_t bytes[SIZES_MAX];
    size_t n;
};

static int parse_sizes(struct cli *cli, const char *text, struct sizes *out) {
    char first[64];
    const char *dots = strstr(text, "..");
    uint64_t from, to;
    size_t length = dots ? (size_t)(dots - text) : strlen(text);
    if (length >= sizeof first) {
        return cli_fail_usage(cli, "coll", "--bytes expects a size such as 1MiB, or 8B..8GiB");
    }
    memcpy(first, text, length);
    first[length] = '\0';
    SF_TRY(cli_option_check(cli, "coll", "bytes", sf_parse_bytes(first, &from, &cli->err)));
    to = from;
    SF_TRY(dots ? cli_option_check(cli, "coll", "bytes", sf_parse_bytes(dots + 2, &to, &cli->err)) : 0);
    if (from == 0 || from > to) {
        return cli_fail_usage(cli, "coll", "--bytes expects sizes above 0 that grow, found %.60s", text);
    }
    for (uint64_t b = from; out->n < SIZES_MAX && b <= to; b *= 2) {
        out->bytes[out->n++] = b;
        if (b > UINT64_MAX / 2) {
            break;
        }
    }
    return 0;
}

struct question {
    const struct sf_coll *coll;
    enum sf_coll_op op;
    struct sf_span span;
    int algorithm, protocol; /* -1: NCCL's choice */
    bool all;
    double left; /* of the bandwidth, by what the overlay hurts */
};

/* Ranks fill domains from the first seat in use on. */
static int check_ranks(struct cli *cli, const struct sf_topo *t, const struct coll_args *a, uint32_t *local) {
    uint32_t domain = sf_topo_domain_gpus(t);
    *local = a->per_domain ? a->per_domain : domain;
    if (*local > domain) {
        return cli_fail_usage(cli, "coll", "--per-domain %u, but a domain has %u GPUs", *local, domain);
    }
    *local = *local < a->ranks ? *local : a->ranks;
    if (a->ranks % *local != 0) {
        return cli_fail_usage(cli, "coll", "%u ranks do not fill domains of %u: set --per-domain to a divisor",
                              a->ranks, *local);
    }
    if (!sf_seats_fit(t, &(struct sf_blocks){.ranks = a->ranks, .most = *local})) {
        return cli_fail_usage(cli, "coll",
                              "%u ranks, %u per domain, need %u domains; %s has %u, some of them perhaps "
                              "with fewer GPUs in use",
                              a->ranks, *local, a->ranks / *local, sf_topo_name(t), sf_topo_gpus(t) / domain);
    }
    return 0;
}

/* From each member to the next of its domain, and to the same place in the next domain. */
static int see_ways(struct cli *cli, const struct sf_topo *t, const struct sf_cost *cost, const uint32_t *gpu,
                    struct question *q) {
    const struct sf_span *span = &q->span;
    for (uint32_t i = 0; i < span->members; i++) {
        uint32_t near = i / span->min_per_domain * span->min_per_domain + (i + 1) % span->min_per_domain;
        uint32_t far = (i + span->min_per_domain) % span->members;
        if (near != i) {
            SF_TRY(sf_cost_way_left(cost, gpu[i], gpu[near], &q->left, &cli->err));
        }
        if (span->domains > 1) {
            struct sf_route r;
            SF_TRY(sf_cost_way_left(cost, gpu[i], gpu[far], &q->left, &cli->err));
            sf_topo_route(t, gpu[i], gpu[far], &r);
            q->span.kind = (uint32_t)r.kind > q->span.kind ? (uint32_t)r.kind : q->span.kind;
        }
    }
    return 0;
}

static int spread(struct cli *cli, const struct sf_topo *t, const struct coll_args *a, const struct sf_cost *cost,
                  struct question *q) {
    uint8_t kind_of_stock[SF_KINDS_MAX];
    uint32_t local, *gpu;
    SF_TRY(check_ranks(cli, t, a, &local));
    gpu = sf_calloc(a->ranks, sizeof *gpu);
    if (gpu == NULL) {
        return sf_fail_memory(&cli->err, "seats");
    }
    q->left = 1.0;
    q->span = (struct sf_span){.members = a->ranks,
                               .domains = a->ranks / local,
                               .min_per_domain = local,
                               .kind = a->ranks > local ? SF_ROUTE_LEAF : SF_ROUTE_DOMAIN};
    bool mixed = sf_kinds_of(t, kind_of_stock) > 1;
    int rc = sf_seats_fill(t, &(struct sf_blocks){.ranks = a->ranks, .most = local}, gpu, NULL, &cli->err);
    for (uint32_t i = 0; rc == 0 && mixed && i < a->ranks; i++) {
        q->span.kinds |= 1u << kind_of_stock[sf_topo_stock_of(t, gpu[i])];
    }
    rc = rc == 0 ? see_ways(cli, t, cost, gpu, q) : rc;
    sf_free(gpu);
    return rc;
}

/* Of the members' kinds of GPUs the one that is slowest at the largest size. */
static const struct sf_coll *slowest(const struct sf_cost *cost, const struct question *q, uint64_t bytes) {
    const struct sf_coll *found = NULL;
    double most = -1;
    for (uint32_t kind = 0; kind < sf_cost_kinds(cost); kind++) {
        const struct sf_coll *coll = sf_cost_coll(sf_cost_of(cost, kind));
        if (coll == NULL || (q->span.kinds != 0 && (q->span.kinds >> kind & 1) == 0)) {
            continue;
        }
        const struct sf_coll_query query = {q->op, bytes, q->span};
        struct sf_coll_choice best;
        sf_coll_choose(coll, &query, &best);
        if (best.time_s > most) {
            most = best.time_s;
            found = coll;
        }
    }
    return found;
}

static int word(struct cli *cli, const char *option, const char *text, int (*find)(const char *), int *out) {
    *out = text ? find(text) : -1;
    return text == NULL || *out >= 0 ? 0 : cli_fail_usage(cli, "coll", "--%s: unknown word \"%.60s\"", option, text);
}

static bool wanted(const struct question *q, const struct sf_coll_choice *c) {
    return (q->algorithm < 0 || q->algorithm == (int)c->algorithm) &&
           (q->protocol < 0 || q->protocol == (int)c->protocol);
}

/* Slower by the share that bandwidth has in it; latency stays. */
static void slow_down(const struct question *q, struct sf_coll_choice *c) {
    const struct sf_coll_query empty = {q->op, 0, q->span};
    struct sf_coll_choice base;
    if (q->left < 1 && sf_coll_price(q->coll, &empty, c->algorithm, c->protocol, &base)) {
        c->time_s = base.time_s + (c->time_s - base.time_s) / q->left;
        c->steps_s = base.steps_s + (c->steps_s - base.steps_s) / q->left;
    }
}

/* The rows of one size: all candidates, those asked for, or the one that NCCL would run. */
static size_t answers(const struct question *q, uint64_t bytes, struct sf_coll_choice out[SF_COLL_CANDIDATES],
                      size_t *chosen) {
    const struct sf_coll_query query = {q->op, bytes, q->span};
    struct sf_coll_choice all[SF_COLL_CANDIDATES], best;
    size_t all_n = sf_coll_candidates(q->coll, &query, all), n = 0;
    sf_coll_choose(q->coll, &query, &best);
    *chosen = SF_COLL_CANDIDATES;
    bool named = q->algorithm >= 0 || q->protocol >= 0;
    for (size_t i = 0; i < all_n; i++) {
        bool is_best = all[i].algorithm == best.algorithm && all[i].protocol == best.protocol;
        if (q->all ? wanted(q, &all[i]) : named ? wanted(q, &all[i]) : is_best) {
            *chosen = is_best ? n : *chosen;
            slow_down(q, &all[i]);
            out[n++] = all[i];
        }
    }
    if (named && !q->all && n > 1) { /* of what was left open, NCCL's pick */
        size_t pick = 0;
        for (size_t i = 1; i < n; i++) {
            bool tuned = out[i].nccl_s >= 0, better = out[pick].nccl_s < 0 || out[i].nccl_s < out[pick].nccl_s;
            bool faster = out[i].nccl_s < 0 && out[pick].nccl_s < 0 && out[i].time_s < out[pick].time_s;
            pick = (tuned && better) || faster ? i : pick;
        }
        *chosen = *chosen == pick ? 0 : SF_COLL_CANDIDATES;
        out[0] = out[pick];
        n = 1;
    }
    return n;
}

static json_t *row_json(const struct question *q, uint64_t bytes, const struct sf_coll_choice *c, bool chosen) {
    double t = c->time_s;
    return json_pack("{s:I, s:f, s:f, s:f, s:s, s:s, s:o, s:f, s:s, s:b}", "bytes", (json_int_t)bytes, "time_us",
                     t * 1e6, "algbw_GBps", t > 0 ? (double)bytes / t / 1e9 : 0.0, "busbw_GBps",
                     sf_coll_busbw(q->op, q->span.members, bytes, t) / 1e9, "algorithm",
                     sf_coll_algorithm_name((int)c->algorithm), "protocol", sf_coll_protocol_name((int)c->protocol),
                     "nccl_us", c->nccl_s >= 0 ? json_real(c->nccl_s * 1e6) : json_null(), "steps_us", c->steps_s * 1e6,
                     "times", c->by_nccl ? "nccl" : "steps", "chosen", chosen);
}

static void heading(struct cli_table *t, bool by_nccl) {
    const char *const names[] = {
        "bytes", "algorithm", "protocol", "time us", "algbw GB/s", "busbw GB/s", by_nccl ? "steps us" : "NCCL us", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cli_cell(t, "%s", names[i]);
    }
}

static void row(struct cli_table *t, const struct question *q, uint64_t bytes, const struct sf_coll_choice *c,
                bool chosen) {
    double s = c->time_s;
    cli_cell(t, "%llu", (unsigned long long)bytes);
    cli_cell(t, "%s", sf_coll_algorithm_name((int)c->algorithm));
    cli_cell(t, "%s", sf_coll_protocol_name((int)c->protocol));
    cli_cell(t, "%.2f", s * 1e6);
    cli_cell(t, "%.2f", s > 0 ? (double)bytes / s / 1e9 : 0.0);
    cli_cell(t, "%.2f", sf_coll_busbw(q->op, q->span.members, bytes, s) / 1e9);
    double other = sf_coll_by_nccl(q->coll) ? c->steps_s : c->nccl_s;
    if (other >= 0) {
        cli_cell(t, "%.2f", other * 1e6);
    } else {
        cli_cell(t, "-");
    }
    cli_cell(t, "%s", chosen && q->all ? "<" : "");
}

static int nothing(struct cli *cli, const struct question *q) {
    return cli_fail_usage(cli, "coll", "%s over %u ranks in %u domain%s cannot run as %s %s here; --all lists what can",
                          sf_coll_op_name((int)q->op), q->span.members, q->span.domains,
                          q->span.domains == 1 ? "" : "s",
                          q->algorithm >= 0 ? sf_coll_algorithm_name(q->algorithm) : "anything",
                          q->protocol >= 0 ? sf_coll_protocol_name(q->protocol) : "");
}

static int print_rows(struct cli *cli, const struct sf_topo *t, const struct question *q, const struct sizes *sizes) {
    struct cli_table table = {.align = "rllrrrrl"};
    struct sf_buf out = {0};
    json_t *rows = json_array();
    size_t total = 0;
    heading(&table, sf_coll_by_nccl(q->coll));
    for (size_t i = 0; i < sizes->n; i++) {
        struct sf_coll_choice c[SF_COLL_CANDIDATES];
        size_t chosen, n = answers(q, sizes->bytes[i], c, &chosen);
        for (size_t k = 0; k < n; k++) {
            row(&table, q, sizes->bytes[i], &c[k], k == chosen);
            json_array_append_new(rows, row_json(q, sizes->bytes[i], &c[k], k == chosen));
        }
        total += n;
    }
    sf_buf_printf(&out, "%s over %u ranks of %s: %u domain%s of %u\n", sf_coll_op_name((int)q->op), q->span.members,
                  sf_topo_name(t), q->span.domains, q->span.domains == 1 ? "" : "s", q->span.min_per_domain);
    cli_table_print(&table, "", &out);
    if (sf_coll_by_nccl(q->coll)) {
        sf_buf_printf(&out, "time is %s\n",
                      q->op == SF_COLL_ALL_TO_ALL ? "by the steps: NCCL does not tune all_to_all"
                                                  : "what NCCL's tuning model expects");
    }
    if (total == 0) {
        json_decref(rows);
        sf_buf_free(&out);
        return nothing(cli, q);
    }
    if (cli->json) {
        sf_buf_free(&out);
        return cli_print_json(json_pack("{s:s, s:i, s:i, s:i, s:o}", "op", sf_coll_op_name((int)q->op), "ranks",
                                        (int)q->span.members, "domains", (int)q->span.domains, "per_domain",
                                        (int)q->span.min_per_domain, "rows", rows),
                              &cli->err);
    }
    json_decref(rows);
    return cli_print(&out, &cli->err);
}

static int read_question(struct cli *cli, const struct coll_args *a, struct question *q, struct sizes *sizes) {
    int op;
    SF_TRY(word(cli, "op", a->op ? a->op : "all_reduce", sf_coll_op_parse, &op));
    SF_TRY(word(cli, "algorithm", a->algorithm, sf_coll_algorithm_parse, &q->algorithm));
    SF_TRY(word(cli, "protocol", a->protocol, sf_coll_protocol_parse, &q->protocol));
    q->op = (enum sf_coll_op)op;
    return parse_sizes(cli, a->bytes ? a->bytes : "8B..8GiB", sizes);
}

static int answer(struct cli *cli, const struct sf_topo *t, const struct sf_cost *cost, const struct coll_args *a) {
    struct question q = {.all = a->all};
    struct sizes sizes = {.n = 0};
    SF_TRY(read_question(cli, a, &q, &sizes));
    SF_TRY(spread(cli, t, a, cost, &q));
    q.coll = slowest(cost, &q, sizes.bytes[sizes.n - 1]);
    if (q.coll == NULL) {
        return sf_fail(&cli->err, SF_E_INPUT, "device %s names no collective model (collectives: in its catalog file)",
                       sf_topo_device(t)->name);
    }
    return print_rows(cli, t, &q, &sizes);
}

static int load(struct cli *cli, const char *path, const struct cli_load *want, struct sf_topo **out) {
    struct sf_cluster_change change;
    SF_TRY(cli_cluster_change(cli, want, &change));
    SF_TRY(sf_topo_load(&sf_io_posix, path, cli->catalog, out, &cli->err));
    return sf_cluster_apply(&sf_io_posix, &change, *out, &cli->err);
}

int verb_coll(struct cli *cli, int argc, char **argv) {
    struct coll_args a = {0};
    struct cli_load want = {0};
    const struct cli_option options[] = {
        {"op", 0, CLI_TEXT, &a.op, "NAME", "all_reduce (default), all_gather, reduce_scatter, all_to_all or broadcast"},
        {"ranks", 'n', CLI_COUNT, &a.ranks, "N", "members; default: one domain"},
        {"per-domain", 0, CLI_COUNT, &a.per_domain, "K", "members per domain; default: as many as fit"},
        {"bytes", 'b', CLI_TEXT, &a.bytes, "SIZE[..SIZE]", "default 8B..8GiB"},
        {"algorithm", 0, CLI_TEXT, &a.algorithm, "NAME",
         "tree, ring, collnet, nvls, nvls_tree, pat, direct, rail or hierarchical"},
        {"protocol", 0, CLI_TEXT, &a.protocol, "NAME", "ll, ll128 or simple"},
        {"overlay", 0, CLI_TEXT, &want.overlay, "FILE", "dead, degraded and spare parts, instead of the cluster's own"},
        {"routing", 0, CLI_TEXT, &want.routing, "MODE", "adaptive, ecmp, rail-local or pxn, instead of the cluster's"},
        {"times", 0, CLI_TEXT, &want.times, "WORD", CLI_TIMES_HELP},
        {"all", 'a', CLI_FLAG, &a.all, NULL, "every pair that can do it; < marks what NCCL would run"},
        {NULL, 0, CLI_FLAG, NULL, NULL, NULL},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    struct sf_topo *t = NULL;
    struct sf_cost *cost = NULL;
    int rc = load(cli, argv[first], &want, &t);
    a.ranks = a.ranks == 0 && rc == 0 ? sf_topo_domain_gpus(t) : a.ranks;
    rc = rc == 0 ? sf_cost_create(t, &sf_io_posix, NULL, &cost, &cli->err) : rc;
    rc = rc == 0 ? answer(cli, t, cost, &a) : rc;
    sf_cost_free(cost);
    sf_topo_free(t);
    return rc;
}
