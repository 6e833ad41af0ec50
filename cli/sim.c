/* staticfire sim: one training step, predicted. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/forecast.h"
#include "cli/load.h"
#include "cli/print.h"
#include "cli/progress.h"
#include "cli/seats.h"
#include "cli/sources.h"
#include "core/scratch.h"
#include "sim/interval.h"
#include "sim/seats.h"
#include "sim/sim.h"

#define SEED_OF_JOB UINT64_MAX
#define SEEDS_MAX 100000

struct sim_args {
    const char *target, *trace, *kernels, *cluster, *forecast, *jitter_kind, *slow_list, *overlay, *routing, *times;
    bool unfolded, both, links, expand, audit, no_skip;
    uint64_t seed, routing_seed;
    uint32_t trace_ranks, seeds;
    double jitter;
    int jitter_of; /* enum sf_jitter */
    struct sf_slow slow[SF_SLOW_MAX];
    uint32_t slow_n;
};

static const struct cli_usage usage = {
    .verb = "sim",
    .operands = "SCENARIO.yaml|PLAN.yaml|PROGRAM",
    .about = "Simulates one training step. A scenario is planned first; a program needs --cluster.\n"
             "Ranks that behave alike are simulated once; --unfolded simulates every rank, --both does\n"
             "both and fails unless they agree to the picosecond. A trace of a program with up to\n"
             "4,096 ranks holds every rank, else one rank per kind of behaviour.",
    .examples = "  staticfire sim scenarios/grok1-gb300-220k/scenario.yaml\n"
                "  staticfire sim plan.yaml --both\n"
                "  staticfire sim plan.yaml --kernels kernels.yaml --forecast forecast.json\n"
                "  staticfire sim step.sfprog --cluster machine.yaml --trace step.sftrace --json\n",
    .operands_min = 1,
    .operands_max = 1,
};

struct results {
    struct sf_sim_result main, unfolded;         /* the second only with --both */
    uint64_t main_rss_bytes, unfolded_rss_bytes; /* peak of the process after each */
    struct sf_spread spread;
};

/* Figures that follow from a result and its program. */
struct figures {
    double step_s, tokens_per_s_per_gpu, model_flops_per_gpu, mfu, peak_flops;
    struct sf_interval interval;
    int precision;
};

/* Without a scenario the precision is that of the most GEMM work. */
static int main_precision(const struct sf_prog *prog) {
    double flops[SF_DTYPES_N] = {0};
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t c = 0; c < prog->recipes[r].calls_n; c++) {
            const struct sf_call *call = &prog->recipes[r].calls[c];
            if (call->kind == SF_CALL_GEMM) {
                flops[call->dtype] += sf_call_work(call).flops;
            }
        }
    }
    int best = SF_F32;
    for (int p = 0; p < SF_DTYPES_N; p++) {
        best = flops[p] > flops[best] ? p : best;
    }
    return best;
}

static uint64_t max_rss_bytes(void) {
    struct rusage usage_self;
    return getrusage(RUSAGE_SELF, &usage_self) == 0 ? (uint64_t)usage_self.ru_maxrss * 1024 : 0;
}

static struct figures figures_of(const struct cli_target *t, const struct sf_sim_result *r) {
    const struct sf_prog_job *job = &t->prog->job;
    double gpus = sf_prog_ranks(t->prog), tokens = (double)job->global_batch_sequences * job->seq_len_tokens;
    struct figures f = {.step_s = sf_ps_to_s(r->step_time)};
    f.precision = t->has_scenario ? t->scenario.job.precision : main_precision(t->prog);
    f.peak_flops = sf_seats_peak(cli_target_topo(t), t->prog, f.precision);
    if (f.step_s > 0) {
        f.tokens_per_s_per_gpu = tokens / f.step_s / gpus;
        f.model_flops_per_gpu = job->model_flops_per_step / f.step_s / gpus;
    }
    f.mfu = f.peak_flops > 0 ? f.model_flops_per_gpu / f.peak_flops : 0;
    sf_interval_of(t->prog, t->cost, r, 0.0, &f.interval);
    return f;
}

struct part {
    const char *name;
    sf_time_ps time;
};
#define PARTS_N 10

static void parts_of(const struct sf_breakdown *b, struct part out[PARTS_N]) {
    const struct part parts[PARTS_N] = {
        {"compute", b->compute}, {"recompute", b->recompute}, {"tp_comm", b->tp_comm},     {"ep_comm", b->ep_comm},
        {"p2p", b->p2p},         {"dp_comm", b->dp_comm},     {"optimizer", b->optimizer}, {"bubble", b->bubble},
        {"other", b->other},     {"offload", b->offload},
    };
    memcpy(out, parts, sizeof parts);
}

static json_t *breakdown_json(const struct sf_sim_result *r) {
    struct part parts[PARTS_N];
    parts_of(&r->breakdown, parts);
    json_t *out = json_object();
    for (int i = 0; i < PARTS_N; i++) {
        json_object_set_new(out, parts[i].name, json_real(sf_ps_to_s(parts[i].time)));
    }
    return out;
}

static json_t *basis_json(const struct cli_target *t, const struct sf_sim_result *r, uint64_t seed) {
    return json_pack("{s:o, s:o, s:o, s:o, s:s, s:s, s:f, s:o}", "program", cli_json_hash(sf_prog_hash(t->prog)),
                     "topo", cli_json_hash(sf_topo_hash(cli_target_topo(t))), "cost",
                     cli_json_hash(sf_cost_hash(t->cost)), "seed", cli_json_u64(seed), "times", cli_times_word(t->cost),
                     "grade", sf_grade_name((int)r->grade), "extrapolated_share", r->extrapolated_share, "sources",
                     cli_sources_json(cli_target_topo(t)));
}

static json_t *interval_json(const struct figures *f) {
    const struct sf_interval *i = &f->interval;
    char basis[160];
    return json_pack("{s:f, s:f, s:f, s:f, s:s}", "low_s", i->low_s, "high_s", i->high_s, "kernels", i->kernels,
                     "network", i->network, "basis", sf_interval_text(i, basis, sizeof basis));
}

static json_t *sim_json(const struct cli_target *t, const struct sim_args *a, const struct results *results) {
    const struct sf_sim_result *r = &results->main;
    struct figures f = figures_of(t, r);
    json_t *out = json_pack(
        "{s:o, s:i, s:f, s:f, s:f, s:o, s:I, s:I, s:f, s:f, s:f}", "title", cli_json_text(t->prog->title), "ranks",
        (int)sf_prog_ranks(t->prog), "step_time_s", f.step_s, "tokens_per_s_per_gpu", f.tokens_per_s_per_gpu,
        "model_tflops_per_gpu", f.model_flops_per_gpu / 1e12, "mfu", cli_json_mfu(f.mfu), "peak_memory_bytes",
        (json_int_t)r->peak_memory_bytes, "device_memory_bytes", (json_int_t)sf_prog_device_bytes(t->prog), "bubble",
        r->bubble_makespan, "bubble_span", r->bubble_span, "bubble_makespan", r->bubble_makespan);
    json_t *more =
        json_pack("{s:o, s:o, s:f, s:I, s:I, s:I, s:f, s:I, s:o, s:b, s:o}", "breakdown_s", breakdown_json(r),
                  "interval", interval_json(&f), "busy_s", r->busy_s, "events", (json_int_t)r->events, "skipped",
                  (json_int_t)r->skipped, "instances", (json_int_t)r->instances, "wall_s", r->wall_s, "max_rss_bytes",
                  (json_int_t)results->main_rss_bytes, "digest", cli_json_hash(r->digest), "unfolded", r->unfolded,
                  "rests_on", basis_json(t, r, a->seed));
    if (out != NULL && more != NULL) {
        json_object_update(out, more);
    }
    json_decref(more);
    if (out != NULL && r->host_memory_bytes > 0) {
        json_object_set_new(out, "host_memory_bytes", cli_json_u64(r->host_memory_bytes));
    }
    return out;
}

static void print_spread(const struct sf_spread *s, struct sf_buf *out) {
    if (s->seeds_n > 1) {
        cli_fact(out, "spread", "%12s   p95 %s, p99 %s over %u seeds", cli_time(s->p50), cli_time(s->p95),
                 cli_time(s->p99), s->seeds_n);
    }
}

static void spread_json(const struct sim_args *a, const struct results *r, json_t *doc) {
    const struct sf_spread *s = &r->spread;
    json_object_set_new(doc, "slowed_s", json_real(r->main.slowed_s));
    json_object_set_new(doc, "fold_s", json_real(r->main.fold_s));
    json_object_set_new(doc, "run_s", json_real(r->main.run_s));
    json_object_update_new(doc, json_pack("{s:f, s:f, s:f, s:i, s:f, s:s, s:s}", "step_time_p50_s", sf_ps_to_s(s->p50),
                                          "step_time_p95_s", sf_ps_to_s(s->p95), "step_time_p99_s", sf_ps_to_s(s->p99),
                                          "seeds", (int)s->seeds_n, "jitter", a->jitter, "jitter_kind",
                                          sf_jitter_name(a->jitter_of), "slow", a->slow_list ? a->slow_list : ""));
}

static void print_host(const struct cli_target *t, const struct sf_sim_result *r, struct sf_buf *out) {
    uint64_t have = sf_seats_host_memory(cli_target_topo(t));
    if (r->host_memory_bytes > 0) {
        cli_fact(out, "on the host", "%12s%s%s", cli_bytes(r->host_memory_bytes), have > 0 ? "   of " : "",
                 have > 0 ? cli_bytes(have) : "");
    }
}

static void print_step(const struct cli_target *t, const struct sf_sim_result *r, struct sf_buf *out) {
    struct figures f = figures_of(t, r);
    char basis[160];
    cli_fact(out, "step time", "%12s   %s to %s; %s", cli_time(r->step_time), cli_seconds(f.interval.low_s),
             cli_seconds(f.interval.high_s), sf_interval_text(&f.interval, basis, sizeof basis));
    cli_fact(out, "tokens/s/GPU", "%12.1f", f.tokens_per_s_per_gpu);
    cli_fact(out, "model TFLOP/s/GPU", "%12.*f", f.model_flops_per_gpu < 1e12 ? 4 : 1, f.model_flops_per_gpu / 1e12);
    cli_fact(out, "MFU", "%12s   of %s, the %s peak%s", cli_mfu(f.mfu), cli_flops(f.peak_flops),
             sf_dtype_name(f.precision), f.mfu <= 1 ? "" : ", which the cluster file puts too low");
    uint64_t reserve = t->has_scenario ? t->scenario.job.memory_reserve_bytes : 0;
    cli_fact(out, "peak memory", "%12s   of %s%s%s", cli_bytes(r->peak_memory_bytes),
             cli_bytes(sf_seats_memory(cli_target_topo(t)) - reserve), reserve > 0 ? ", beside a reserve of " : "",
             reserve > 0 ? cli_bytes(reserve) : "");
    uint64_t whole = sf_prog_device_bytes(t->prog);
    if (whole > r->peak_memory_bytes) {
        cli_fact(out, "", "%12s   with the work areas of its kernels", cli_bytes(whole));
    }
    print_host(t, r, out);
    cli_fact(out, "bubble", "%10.1f %%   compute stream idle between its first and last op, worst stage",
             r->bubble_span * 100);
    cli_fact(out, "", "%10.1f %%   the same over the whole step, mean over stages; waiting of every kind counts",
             r->bubble_makespan * 100);
    if (r->slowed_s > 0) {
        cli_fact(out, "slowed", "%10.1f %%   of kernel time, by communication that takes cores and memory beside it",
                 r->slowed_s / r->busy_s * 100);
    }
}

static void print_breakdown(const struct sf_sim_result *r, struct sf_buf *out) {
    struct part parts[PARTS_N];
    parts_of(&r->breakdown, parts);
    cli_heading(out, "Where the step goes, on the rank that finishes last");
    for (int i = 0; i < PARTS_N; i++) {
        if (parts[i].time > 0) {
            cli_fact(out, parts[i].name, "%12s  %5.1f %%", cli_time(parts[i].time),
                     r->step_time > 0 ? (double)parts[i].time / (double)r->step_time * 100 : 0.0);
        }
    }
}

static void print_effort(const struct cli_target *t, const struct results *results, struct sf_buf *out) {
    const struct sf_sim_result *r = &results->main;
    char hash[SF_HASH_TEXT];
    uint32_t ranks = sf_prog_ranks(t->prog);
    cli_heading(out, "Simulation");
    cli_fact(out, "instances", "%s for %s rank%s", cli_count(r->instances), cli_count(ranks), ranks == 1 ? "" : "s");
    cli_fact(out, "events", "%s in %s, %s resident at most", cli_count(r->events), cli_seconds(r->wall_s),
             cli_bytes(results->main_rss_bytes));
    if (r->skipped > 0) {
        cli_fact(out, "", "%s of them in periods like the one before, copied", cli_count(r->skipped));
    }
    cli_fact(out, "", "%s to %s the ranks, %s for the events", cli_seconds(r->fold_s), r->unfolded ? "lay out" : "fold",
             cli_seconds(r->run_s));
    cli_fact(out, "digest", "%s", sf_hash_format(r->digest, hash));
}

static void print_basis(const struct cli_target *t, const struct sim_args *a, const struct sf_sim_result *r,
                        struct sf_buf *out) {
    char hash[SF_HASH_TEXT];
    cli_heading(out, "What it rests on");
    cli_fact(out, "grade", "%s; %.1f %% of the compute time is extrapolated", sf_grade_name((int)r->grade),
             r->extrapolated_share * 100);
    cli_fact(out, "program", "%s", sf_hash_format(sf_prog_hash(t->prog), hash));
    cli_fact(out, "topology", "%s  %s", sf_hash_format(sf_topo_hash(cli_target_topo(t)), hash),
             sf_topo_name(cli_target_topo(t)));
    cli_fact(out, "cost model", "%s  %s", sf_hash_format(sf_cost_hash(t->cost), hash),
             a->kernels != NULL ? a->kernels : "no kernel table");
    if (cli_times_text(t->cost) != NULL) {
        cli_fact(out, "collectives", "%s", cli_times_text(t->cost));
    }
    cli_fact(out, "seed", "%" PRIu64, a->seed);
}

static void print_sim(const struct cli_target *t, const struct sim_args *a, const struct results *results,
                      struct sf_buf *out) {
    const struct sf_sim_result *r = &results->main;
    sf_buf_printf(out, "%s%s%s\n", cli_on(CLI_BOLD), t->prog->title, cli_off());
    if (t->searched) {
        const struct sf_plan *p = &t->plan;
        char recompute[64];
        sf_buf_printf(out, "planned: tp %u, ep %u, pp %u, dp %u, vpp %u, %u x %u sequences, %s, recompute %s\n", p->tp,
                      p->ep, p->pp, p->dp, p->vpp, p->microbatches, p->micro_batch, sf_schedule_name(p->schedule),
                      sf_plan_recompute_text(p, recompute, sizeof recompute));
    }
    print_step(t, r, out);
    print_spread(&results->spread, out);
    print_breakdown(r, out);
    print_effort(t, results, out);
    print_basis(t, a, r, out);
}

static int simulate(struct cli *cli, const struct cli_target *t, const struct sim_args *a, bool unfolded,
                    struct sf_trace *trace, struct sf_sim_result *out, struct sf_spread *spread) {
    struct cli_progress progress = cli_progress_begin("simulating");
    struct sf_sim_options options = {.unfolded = unfolded,
                                     .no_skip = a->no_skip,
                                     .seed = a->seed,
                                     .jitter = a->jitter,
                                     .jitter_kind = (enum sf_jitter)a->jitter_of,
                                     .slow = a->slow,
                                     .slow_n = a->slow_n,
                                     .links = a->links,
                                     .expand = a->expand,
                                     .audit = a->audit,
                                     .trace = trace,
                                     .trace_ranks = a->trace_ranks,
                                     .progress = cli_progress_update,
                                     .progress_self = &progress};
    int rc = spread != NULL ? sf_sim_spread(t->prog, t->cost, &options, a->seeds, out, spread, &cli->err)
                            : sf_sim_run(t->prog, t->cost, &options, out, &cli->err);
    cli_progress_end(&progress);
    return rc;
}

/* Folded and unfolded must be equal for every op of every rank: the digest covers them all. */
static int both_agree(struct cli *cli, const struct cli_target *t, const struct sim_args *a,
                      const struct sf_sim_result *folded, struct sf_sim_result *unfolded) {
    char f[SF_HASH_TEXT], u[SF_HASH_TEXT];
    SF_TRY(simulate(cli, t, a, true, NULL, unfolded, NULL));
    if (!sf_hash_equal(folded->digest, unfolded->digest) || folded->step_time != unfolded->step_time) {
        return sf_fail(&cli->err, SF_E_INTERNAL,
                       "folded and unfolded simulation differ: step %s and %s, digests %s and %s",
                       cli_time(folded->step_time), cli_time(unfolded->step_time), sf_hash_format(folded->digest, f),
                       sf_hash_format(unfolded->digest, u));
    }
    return 0;
}

static void print_files(const struct sim_args *a, const struct cli_forecast_files *files, struct sf_buf *out) {
    if (a->trace != NULL || a->forecast != NULL) {
        cli_heading(out, "Files");
        cli_fact(out, "trace", "%s", files->trace);
        cli_fact(out, "program", "%s", files->prog);
    }
    if (a->forecast != NULL) {
        char seal[SF_HASH_TEXT];
        cli_fact(out, "forecast", "%s", a->forecast);
        cli_fact(out, "seal", "%s", sf_hash_format(files->seal, seal));
    }
}

static void both_json(const struct results *r, json_t *doc) {
    const struct sf_sim_result *u = &r->unfolded;
    json_object_set_new(doc, "folded_equals_unfolded", json_true());
    json_object_set_new(doc, "unfolded_run",
                        json_pack("{s:I, s:I, s:f, s:I, s:o}", "instances", (json_int_t)u->instances, "events",
                                  (json_int_t)u->events, "wall_s", u->wall_s, "max_rss_bytes",
                                  (json_int_t)r->unfolded_rss_bytes, "digest", cli_json_hash(u->digest)));
}

static void links_json(const struct sim_args *a, const struct results *r, json_t *doc) {
    if (a->links) {
        json_object_set_new(doc, "contended_links", json_integer((json_int_t)r->main.contended_links));
        json_object_set_new(doc, "links_certified", json_boolean(r->main.links_certified));
    }
    if (a->expand) {
        json_object_set_new(doc, "chunks", cli_json_u64(r->main.chunks));
    }
    if (a->audit) {
        json_object_set_new(doc, "audited", cli_json_u64(r->main.audited));
        json_object_set_new(doc, "violations", cli_json_u64(r->main.violations));
    }
}

static void print_links(const struct sim_args *a, const struct results *r, struct sf_buf *out) {
    if (a->links) {
        cli_fact(out, "links", "%s%s", cli_count(r->main.contended_links),
                 r->main.links_certified ? " can be contended: the fabric carries whatever its NICs send"
                                         : " inside the fabric can be contended and took part");
    }
    if (a->expand) {
        cli_fact(out, "chunks", "%s moved in collectives between ops; every rank by itself", cli_count(r->main.chunks));
    }
    if (a->audit) {
        cli_fact(out, "audit", "%s checks, %s violations%s%s", cli_count(r->main.audited),
                 cli_count(r->main.violations), r->main.violations > 0 ? ": " : "", r->main.violation);
    }
}

static int report_json(struct cli *cli, const struct cli_target *t, const struct sim_args *a, const struct results *r,
                       const struct cli_forecast_files *files) {
    json_t *doc = sim_json(t, a, r);
    if (doc == NULL) {
        return cli_print_json(doc, &cli->err);
    }
    spread_json(a, r, doc);
    links_json(a, r, doc);
    if (a->both) {
        both_json(r, doc);
    }
    if (a->forecast != NULL) {
        json_object_set_new(doc, "forecast_seal", cli_json_hash(files->seal));
    }
    int rc = cli_seats_json(cli, t, doc);
    if (rc != 0) {
        json_decref(doc);
        return rc;
    }
    return cli_print_json(doc, &cli->err);
}

static int report(struct cli *cli, const struct cli_target *t, const struct sim_args *a, const struct results *r,
                  const struct cli_forecast_files *files) {
    if (cli->json) {
        return report_json(cli, t, a, r, files);
    }
    struct sf_buf out = {0};
    print_sim(t, a, r, &out);
    print_links(a, r, &out);
    int rc = cli_seats_print(cli, t, &out);
    if (rc != 0) {
        sf_buf_free(&out);
        return rc;
    }
    if (a->both) {
        const struct sf_sim_result *u = &r->unfolded;
        cli_heading(&out, "Unfolded");
        cli_fact(&out, "instances", "%s", cli_count(u->instances));
        cli_fact(&out, "events", "%s in %s (%s a second), %s resident at most", cli_count(u->events),
                 cli_seconds(u->wall_s), cli_count(u->wall_s > 0 ? (uint64_t)((double)u->events / u->wall_s) : 0),
                 cli_bytes(r->unfolded_rss_bytes));
        sf_buf_printf(&out, "%sFolded and unfolded agree on every op of every rank.%s\n", cli_on(CLI_GREEN), cli_off());
    }
    print_files(a, files, &out);
    return cli_print(&out, &cli->err);
}

/* A trace of all ranks while that stays small; beyond, the folded simulation's one rank per behaviour. */
#define TRACE_ALL_RANKS 4096

static int simulate_all(struct cli *cli, const struct cli_target *t, struct sim_args *a, struct sf_trace *trace,
                        struct results *r) {
    bool tracing = a->trace != NULL || a->forecast != NULL;
    uint32_t ranks = sf_prog_ranks(t->prog);
    bool every = a->unfolded || a->trace_ranks > 0 || ranks <= TRACE_ALL_RANKS;
    if (a->forecast != NULL && (ranks > TRACE_ALL_RANKS || (a->trace_ranks > 0 && a->trace_ranks < ranks))) {
        return cli_fail_usage(cli, "sim",
                              "a forecast holds the trace of every rank, which works up to %d ranks; this "
                              "program has %u",
                              TRACE_ALL_RANKS, ranks);
    }
    a->trace_ranks = a->trace_ranks > 0 ? a->trace_ranks : ranks < TRACE_ALL_RANKS ? ranks : TRACE_ALL_RANKS;
    bool main_traces = tracing && every == a->unfolded;
    SF_TRY(simulate(cli, t, a, a->unfolded, main_traces ? trace : NULL, &r->main, &r->spread));
    if (tracing && !main_traces) {
        struct sf_sim_result traced;
        SF_TRY(simulate(cli, t, a, every, trace, &traced, NULL));
    }
    r->main_rss_bytes = max_rss_bytes();
    int rc = a->both ? both_agree(cli, t, a, &r->main, &r->unfolded) : 0;
    r->unfolded_rss_bytes = max_rss_bytes();
    return rc;
}

static int sim_target(struct cli *cli, const struct cli_target *t, struct sim_args *a) {
    struct sf_trace trace;
    struct results r;
    struct cli_forecast_files files = {0};
    sf_trace_init(&trace);
    int rc = simulate_all(cli, t, a, &trace, &r);
    if (rc == 0) {
        struct cli_forecast_write job = {.target = t,
                                         .result = &r.main,
                                         .trace = &trace,
                                         .trace_path = a->trace,
                                         .forecast_path = a->forecast,
                                         .kernels_path = a->kernels,
                                         .seed = a->seed};
        rc = cli_forecast_write(&job, &files, &cli->err);
    }
    if (rc == 0) {
        rc = report(cli, t, a, &r, &files);
    }
    sf_trace_clear(&trace);
    return rc;
}

static int check_noise(struct cli *cli, struct sim_args *a) {
    bool random = a->jitter > 0 || (a->slow_list != NULL && strchr(a->slow_list, '%') != NULL);
    a->jitter_of = a->jitter_kind != NULL ? sf_jitter_parse(a->jitter_kind) : SF_JITTER_LOGNORMAL;
    if (a->jitter > 1) {
        return cli_fail_usage(cli, "sim", "--jitter %g is more than 100%%", a->jitter);
    }
    if (a->jitter_of < 0) {
        return cli_fail_usage(cli, "sim", "--jitter-kind %.40s is unknown; expected lognormal or normal",
                              a->jitter_kind);
    }
    if (a->jitter_kind != NULL && a->jitter <= 0) {
        return cli_fail_usage(cli, "sim", "--jitter-kind changes nothing without --jitter");
    }
    if (a->seeds > 0 && !random) {
        return cli_fail_usage(cli, "sim", "--seeds changes nothing without --jitter or a random share in --slow");
    }
    if (a->seeds > SEEDS_MAX) {
        return cli_fail_usage(cli, "sim", "--seeds expects at most %d, found %u", SEEDS_MAX, a->seeds);
    }
    a->seeds = a->seeds > 0 ? a->seeds : 1;
    return a->slow_list != NULL ? sf_slow_parse(a->slow_list, a->slow, &a->slow_n, &cli->err) : 0;
}

static int check_network(struct cli *cli, const struct sim_args *a) {
    if (a->routing_seed > 0 && (!a->links || a->routing == NULL || strcmp(a->routing, "ecmp") != 0)) {
        return cli_fail_usage(cli, "sim", "--routing-seed picks single paths: it needs --routing ecmp and --links");
    }
    if (a->forecast != NULL && a->expand) {
        return cli_fail_usage(cli, "sim",
                              "a forecast is replayed with whole collectives when it is compared: leave out --expand");
    }
    if (a->forecast != NULL && (a->overlay != NULL || a->routing != NULL || a->times != NULL || a->links)) {
        return cli_fail_usage(cli, "sim",
                              "a forecast is joined through its cluster file: say overlay, routing and times there, "
                              "and leave out --overlay, --routing, --times and --links");
    }
    return 0;
}

int verb_sim(struct cli *cli, int argc, char **argv) {
    struct sim_args a = {.seed = SEED_OF_JOB};
    const struct cli_option options[] = {
        {"unfolded", 0, CLI_FLAG, &a.unfolded, NULL, "simulate every rank by itself"},
        {"both", 0, CLI_FLAG, &a.both, NULL, "folded and unfolded; fail unless they agree"},
        {"no-skip", 0, CLI_FLAG, &a.no_skip, NULL, "folded, simulate repeated periods one by one"},
        {"cluster", 0, CLI_TEXT, &a.cluster, "FILE", "instead of the scenario's cluster"},
        {"kernels", 0, CLI_TEXT, &a.kernels, "FILE", "measured kernel table"},
        {"seed", 0, CLI_U64, &a.seed, "N", "of jitter and slow shares (default: the job's)"},
        {"jitter", 0, CLI_FRACTION, &a.jitter, "SHARE", "relative spread of kernel times, each rank and op its own"},
        {"jitter-kind", 0, CLI_TEXT, &a.jitter_kind, "KIND", "lognormal (default) or normal"},
        {"seeds", 0, CLI_COUNT, &a.seeds, "N", "simulate N seeds: p50, p95, p99 of the step"},
        {"overlay", 0, CLI_TEXT, &a.overlay, "FILE", "dead, degraded and spare parts, instead of the cluster's own"},
        {"routing", 0, CLI_TEXT, &a.routing, "MODE", "adaptive, ecmp, rail-local or pxn, instead of the cluster's"},
        {"times", 0, CLI_TEXT, &a.times, "WORD", CLI_TIMES_HELP},
        {"routing-seed", 0, CLI_U64, &a.routing_seed, "N", "of the hash that --routing ecmp picks paths by"},
        {"links", 0, CLI_FLAG, &a.links, NULL, "simulate every link inside the fabric that can be contended"},
        {"expand", 0, CLI_FLAG, &a.expand, NULL,
         "run collectives between ops chunk by chunk, each rank with its own end"},
        {"audit", 0, CLI_FLAG, &a.audit, NULL, "check bytes, causes and capacities while running"},
        {"slow", 0, CLI_TEXT, &a.slow_list, "LIST", "gpu:7=0.9,nic:3=0.5,nvlink:2=0.8,gpus:0.1%=0.95"},
        {"trace", 't', CLI_TEXT, &a.trace, "FILE", "write the trace, and the program beside it"},
        {"trace-ranks", 0, CLI_COUNT, &a.trace_ranks, "N", "trace ranks 0 to N-1 only"},
        {"forecast", 'f', CLI_TEXT, &a.forecast, "FILE", "seal the prediction, with trace and program beside it"},
        {0},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    a.target = argv[first];
    SF_TRY(check_noise(cli, &a));
    if (a.no_skip && (a.unfolded || a.expand || a.audit || a.jitter > 0)) {
        return cli_fail_usage(cli, "sim", "--no-skip changes nothing: with --%s every period is simulated",
                              a.unfolded ? "unfolded"
                              : a.expand ? "expand"
                              : a.audit  ? "audit"
                                         : "jitter");
    }
    if (a.both && a.unfolded) {
        return cli_fail_usage(cli, "sim", "--both already simulates unfolded; leave one of the two out");
    }
    if (a.both && a.expand) {
        return cli_fail_usage(cli, "sim", "--expand simulates every rank: --both has nothing folded to compare with");
    }
    SF_TRY(check_network(cli, &a));
    if (a.trace_ranks > 0 && a.trace == NULL) {
        return cli_fail_usage(cli, "sim", "--trace-ranks changes nothing without --trace");
    }
    SF_TRY(sf_output_check(a.trace, &cli->err));
    SF_TRY(sf_output_check(a.forecast, &cli->err));
    struct cli_target t;
    struct cli_load want = {.cluster = a.cluster,
                            .kernels = a.kernels,
                            .overlay = a.overlay,
                            .routing = a.routing,
                            .routing_seed = a.routing_seed,
                            .times = a.times,
                            .program = true,
                            .cost = true};
    SF_TRY(cli_target_load(cli, a.target, &want, &t));
    a.seed = a.seed == SEED_OF_JOB ? t.prog->job.seed : a.seed;
    int rc = sim_target(cli, &t, &a);
    cli_target_clear(&t);
    return rc;
}
