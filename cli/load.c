#include "cli/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/interrupt.h"
#include "cli/progress.h"
#include "core/arena.h"
#include "core/doc.h"
#include "planner/compile.h"

static bool search_stop(void *self) {
    (void)self;
    return cli_interrupted();
}

int cli_search(struct cli *cli, const struct sf_scenario *s, const struct sf_cost *cost,
               const struct sf_search_options *want, struct sf_plan_result *results, uint32_t *results_n,
               struct sf_search_stats *stats) {
    struct cli_progress progress = cli_progress_begin("planning");
    struct sf_search_options options = *want;
    options.stop = search_stop;
    options.progress = cli_progress_update;
    options.self = &progress;
    const struct cli_listening before = cli_listen();
    int rc = sf_search(s, cost, &options, results, results_n, stats, &cli->err);
    cli_listen_no_more(&before);
    cli_progress_end(&progress);
    if (rc == 0 && stats->stopped) {
        fprintf(stderr, "staticfire: interrupted, these are the best plans so far\n");
    }
    return rc;
}

int cli_search_fewer(struct cli *cli, const struct sf_scenario *s, const struct sf_cost *cost,
                     const struct sf_search_options *want, const struct sf_plan_result *best,
                     struct sf_plan_result *out, bool *found) {
    struct sf_search_options options = *want;
    options.stop = search_stop;
    const struct cli_listening before = cli_listen();
    int rc = sf_search_fewer(s, cost, &options, best, out, found, &cli->err);
    cli_listen_no_more(&before);
    return rc;
}

const struct sf_topo *cli_target_topo(const struct cli_target *t) {
    return t->has_scenario ? t->scenario.topo : t->own_topo;
}

static int load_cost(struct cli *cli, const struct cli_load *want, struct cli_target *t) {
    const struct sf_topo *topo = cli_target_topo(t);
    if (!want->cost || topo == NULL) {
        return 0;
    }
    return sf_cost_create(topo, &sf_io_posix, want->kernels, &t->cost, &cli->err);
}

/* The scenario keeps no name of its cluster file; forecasts need it. */
static int find_cluster_path(struct cli *cli, const char *scenario, const struct cli_load *want, struct cli_target *t) {
    if (want->cluster != NULL) {
        return cli_path_copy(t->cluster_path, sizeof t->cluster_path, want->cluster, &cli->err);
    }
    struct sf_doc *doc = NULL;
    SF_TRY(sf_doc_load(&sf_io_posix, scenario, &doc, &cli->err));
    const struct sf_node *node = sf_map_find(sf_doc_root(doc), "cluster");
    const char *name = NULL;
    int rc = node == NULL ? 0 : sf_node_str(node, &name, &cli->err);
    if (rc == 0 && name != NULL) {
        rc = cli_path_beside(scenario, name, t->cluster_path, &cli->err);
    }
    sf_doc_free(doc);
    return rc;
}

static uint32_t plan_gpus(const struct sf_plan *p) {
    uint64_t gpus = (uint64_t)p->tp * p->dp;
    return __builtin_mul_overflow(gpus, (uint64_t)sf_plan_cp(p), &gpus) ||
                   __builtin_mul_overflow(gpus, (uint64_t)p->pp, &gpus) || gpus > SF_MAX_RANKS
               ? 0
               : (uint32_t)gpus;
}

int cli_cluster_change(struct cli *cli, const struct cli_load *want, struct sf_cluster_change *out) {
    *out = (struct sf_cluster_change){.overlay = want->overlay,
                                      .routing = -1,
                                      .routing_seed = want->routing_seed,
                                      .times = want->times,
                                      .fewer = want->fewer};
    for (int r = 0; want->routing != NULL && r < SF_ROUTINGS_N; r++) {
        out->routing = strcmp(sf_routing_name(r), want->routing) == 0 ? r : out->routing;
    }
    if (want->routing != NULL && out->routing < 0) {
        return sf_fail(&cli->err, SF_E_USAGE, "--routing expects adaptive, ecmp, rail-local or pxn, found \"%.40s\"",
                       want->routing);
    }
    return 0;
}

/* With a plan the job has the plan's GPUs: on a changed cluster, or by choice, they are not what it asks for. */
static int load_scenario(struct cli *cli, const char *path, const struct cli_load *want, struct cli_target *t) {
    struct sf_cluster_change change;
    SF_TRY(cli_cluster_change(cli, want, &change));
    t->changed = want->overlay != NULL;
    change.gpus = t->has_plan && (t->changed || t->plan.gpus > 0) ? plan_gpus(&t->plan) : 0;
    SF_TRY(sf_scenario_load_on(&sf_io_posix, path, cli->catalog, want->cluster, &change, &t->scenario, &cli->err));
    t->has_scenario = true;
    return find_cluster_path(cli, path, want, t);
}

static int choose_plan(struct cli *cli, struct cli_target *t) {
    struct sf_cost *cost = t->cost;
    struct sf_plan_result *best = sf_calloc(1, sizeof *best);
    struct sf_search_stats stats;
    uint32_t n = 0;
    int rc = best == NULL ? sf_fail_memory(&cli->err, "plan") : 0;
    if (rc == 0 && cost == NULL) {
        rc = sf_cost_create(t->scenario.topo, &sf_io_posix, NULL, &cost, &cli->err);
    }
    if (rc == 0) {
        rc = cli_search(cli, &t->scenario, cost, &(struct sf_search_options){.top = 1}, best, &n, &stats);
    }
    if (rc == 0) {
        t->plan = best->plan;
        t->scenario.job.gpus = t->plan.gpus > 0 ? t->plan.gpus : t->scenario.job.gpus;
        t->has_plan = true;
        t->searched = true;
    }
    if (cost != t->cost) {
        sf_cost_free(cost);
    }
    sf_free(best);
    return rc;
}

static int compile_plan(struct cli *cli, const struct cli_load *want, struct cli_target *t) {
    if (!want->program) {
        return 0;
    }
    return sf_compile(&t->scenario, &t->plan, &t->prog, &cli->err);
}

/* What is wrong with a plan begins with the key at fault: find it in the file. */
static void locate_in_plan(const char *path, struct sf_err *err) {
    static const char prefix[] = "plan: ";
    char key[32] = "";
    struct sf_doc *doc = NULL;
    if (err->file[0] != '\0') {
        return;
    }
    snprintf(err->file, sizeof err->file, "%s", path);
    if (strncmp(err->msg, prefix, sizeof prefix - 1) != 0 || sf_doc_load(&sf_io_posix, path, &doc, NULL) != 0) {
        return;
    }
    sscanf(err->msg + sizeof prefix - 1, "%31[a-z_]", key);
    const struct sf_node *node = sf_map_find(sf_doc_root(doc), key);
    if (node != NULL) {
        char msg[sizeof err->msg];
        snprintf(msg, sizeof msg, "%s", err->msg);
        int code = err->code;
        sf_node_fail(node, err, "%s", msg);
        err->code = code;
    }
    sf_doc_free(doc);
}

/* The file that the error is about, in the words of the plan that led to it. */
static int blame(struct cli *cli, int rc, const char *plan, const char *scenario, const struct cli_load *with) {
    const char *file = cli->err.file;
    bool is_scenario = file[0] == '\0' || strcmp(file, scenario) == 0;
    bool is_overlay = with->overlay != NULL && strcmp(file, with->overlay) == 0;
    bool other = rc == SF_E_IO && with->cluster == NULL && !is_scenario && !is_overlay;
    return sf_err_wrap(&cli->err, "%s plan %s%s",
                       is_scenario  ? "the scenario of"
                       : is_overlay ? "the overlay over the cluster of"
                                    : "a file of the scenario of",
                       plan, other ? " (--cluster FILE names another cluster)" : "");
}

/* Of a plan that was made for fewer GPUs than the job's, and does not say so any more. */
static int check_idle(struct cli *cli, const char *path, const struct cli_target *t, struct sf_hash wanted) {
    struct sf_plan said = t->plan;
    struct sf_scenario used;
    said.gpus = plan_gpus(&t->plan);
    sf_scenario_narrow(&t->scenario, &said, &used);
    if (said.gpus == 0 || said.gpus == t->scenario.job.gpus || !sf_hash_equal(sf_scenario_hash(&used), wanted)) {
        return 0;
    }
    return sf_fail_at(&cli->err, SF_E_INPUT, path, 0, 0,
                      "the plan's degrees use %u GPUs, the job has %u; a plan that uses fewer says so: add gpus: %u",
                      said.gpus, t->scenario.job.gpus, said.gpus);
}

static int load_plan(struct cli *cli, const char *path, const struct cli_load *want, struct cli_target *t) {
    struct sf_hash hash;
    char scenario[CLI_PATH], cluster[CLI_PATH], overlay[CLI_PATH], wanted[SF_HASH_TEXT], found[SF_HASH_TEXT];
    struct cli_load with = *want;
    SF_TRY(sf_plan_load(&sf_io_posix, path, &t->plan, &hash, &cli->err));
    t->has_plan = true;
    with.fewer = false; /* the plan's own */
    SF_TRY(cli_path_beside(path, t->plan.scenario, scenario, &cli->err));
    if (want->cluster == NULL && t->plan.cluster[0] != '\0') {
        SF_TRY(cli_path_beside(path, t->plan.cluster, cluster, &cli->err));
        with.cluster = cluster;
    }
    if (want->overlay == NULL && t->plan.overlay[0] != '\0') {
        SF_TRY(cli_path_beside(path, t->plan.overlay, overlay, &cli->err));
        with.overlay = overlay;
    }
    int rc = load_scenario(cli, scenario, &with, t);
    if (rc != 0) {
        return blame(cli, rc, path, scenario, &with);
    }
    struct sf_hash own = sf_scenario_hash(&t->scenario);
    SF_TRY(sf_hash_equal(own, hash) ? 0 : check_idle(cli, path, t, hash));
    if (!sf_hash_equal(own, hash)) {
        return sf_fail_at(&cli->err, SF_E_INPUT, path, 0, 0,
                          "the plan was made for scenario %s, but %s is %s now; plan again",
                          sf_hash_format(hash, wanted), scenario, sf_hash_format(own, found));
    }
    SF_TRY(load_cost(cli, want, t));
    rc = compile_plan(cli, want, t);
    if (rc != 0) {
        locate_in_plan(path, &cli->err);
    }
    return rc;
}

static int load_prog(struct cli *cli, const char *path, const struct cli_load *want, struct cli_target *t) {
    SF_TRY(sf_prog_read(&sf_io_posix, path, &t->prog, &cli->err));
    if (want->cluster == NULL) {
        return want->cost
                   ? sf_fail(&cli->err, SF_E_USAGE,
                             "%s is a program, which holds no speeds; name the cluster with --cluster FILE", path)
                   : 0;
    }
    SF_TRY(cli_path_copy(t->cluster_path, sizeof t->cluster_path, want->cluster, &cli->err));
    SF_TRY(sf_topo_load(&sf_io_posix, want->cluster, cli->catalog, &t->own_topo, &cli->err));
    struct sf_cluster_change change;
    SF_TRY(cli_cluster_change(cli, want, &change));
    t->changed = want->overlay != NULL;
    SF_TRY(sf_cluster_apply(&sf_io_posix, &change, t->own_topo, &cli->err));
    return load_cost(cli, want, t);
}

static int is_plan(struct cli *cli, const char *path, bool *out) {
    struct sf_doc *doc = NULL;
    SF_TRY(sf_doc_load(&sf_io_posix, path, &doc, &cli->err));
    const struct sf_node *root = sf_doc_root(doc);
    *out = sf_node_is_map(root) && sf_map_find(root, "plan_version") != NULL;
    sf_doc_free(doc);
    return 0;
}

static int target_load(struct cli *cli, const char *path, const struct cli_load *want, struct cli_target *t) {
    enum cli_file kind;
    bool plan = false;
    SF_TRY(cli_file_kind(path, &kind, &cli->err));
    if (kind == CLI_FILE_BINARY || kind == CLI_FILE_ASSEMBLY) {
        return load_prog(cli, path, want, t);
    }
    SF_TRY(is_plan(cli, path, &plan));
    if (plan) {
        return load_plan(cli, path, want, t);
    }
    SF_TRY(load_scenario(cli, path, want, t));
    SF_TRY(load_cost(cli, want, t));
    if (want->program) {
        SF_TRY(choose_plan(cli, t));
    }
    return compile_plan(cli, want, t);
}

int cli_target_load(struct cli *cli, const char *path, const struct cli_load *want, struct cli_target *out) {
    memset(out, 0, sizeof *out);
    int rc = target_load(cli, path, want, out);
    if (rc != 0) {
        cli_target_clear(out);
    }
    return rc;
}

void cli_target_clear(struct cli_target *t) {
    sf_prog_free(t->prog);
    sf_cost_free(t->cost);
    sf_topo_free(t->own_topo);
    sf_plan_clear(&t->plan);
    sf_scenario_clear(&t->scenario);
    memset(t, 0, sizeof *t);
}
