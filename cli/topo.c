/* staticfire topo: the actions, and probe. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>
#include <sys/stat.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/print.h"
#include "cli/topo_io.h"
#include "cli/topo_show.h"
#include "topo/topo.h"

struct topo_args {
    const char *action, *folder;
    struct cli_topo_show show;
    uint32_t ranks;
};

static const struct cli_usage usage = {
    .verb = "topo",
    .operands = "show|check CLUSTER.yaml, or probe, export, import",
    .about = "show    counts, link classes and what each number rests on; with --route the way between two GPUs\n"
             "check   prove degrees, port budgets, link and path counts, bisection, and what an overlay leaves\n"
             "probe   describe this machine as a cluster: cluster.yaml and its device file\n"
             "export  write a cluster in another format; see staticfire topo export --help\n"
             "import  make a cluster file of another format; see staticfire topo import --help",
    .examples = "  staticfire topo show scenarios/clusters/gb300-nvl72-220k.yaml\n"
                "  staticfire topo show cluster.yaml --svg cluster.svg\n"
                "  staticfire topo show cluster.yaml --overlay today.yaml --routing pxn --route 0:73\n"
                "  staticfire topo check cluster.yaml --json\n"
                "  staticfire topo probe -o machine --ranks 2\n",
    .operands_min = 1,
    .operands_max = 2,
};

static json_t *probe_json(const struct sf_probe *p, const char *cluster, const char *device) {
    return json_pack("{s:o, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:o, s:o}", "cpu", cli_json_text(p->cpu_model), "cores",
                     (int)p->cores, "threads", (int)p->threads, "numa_nodes", (int)p->numa_nodes, "packages",
                     (int)p->packages, "memory_bytes", (json_int_t)p->memory_bytes, "l2_bytes", (json_int_t)p->l2_bytes,
                     "l3_bytes", (json_int_t)p->l3_bytes, "cluster_file", cli_json_text(cluster), "device_file",
                     cli_json_text(device));
}

static int probe_print(struct cli *cli, const struct sf_probe *p, uint32_t ranks, const char *cluster,
                       const char *device) {
    if (cli->json) {
        return cli_print_json(probe_json(p, cluster, device), &cli->err);
    }
    struct sf_buf out = {0};
    cli_heading(&out, "This machine");
    cli_fact(&out, "CPU", "%s", p->cpu_model);
    cli_fact(&out, "cores, threads", "%u, %u", p->cores, p->threads);
    cli_fact(&out, "packages, NUMA nodes", "%u, %u", p->packages, p->numa_nodes);
    cli_fact(&out, "memory", "%s", cli_bytes(p->memory_bytes));
    cli_fact(&out, "L2, L3", "%s, %s", cli_bytes(p->l2_bytes), cli_bytes(p->l3_bytes));
    cli_fact(&out, "cluster file", "%s (%u rank%s)", cluster, ranks, ranks == 1 ? "" : "s");
    cli_fact(&out, "device file", "%s", device);
    sf_buf_printf(&out, "Rates are conservative guesses until staticfire-run --measure has timed this machine.\n");
    return cli_print(&out, &cli->err);
}

static int make_folder(struct cli *cli, const char *folder) {
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return sf_fail(&cli->err, SF_E_IO, "cannot make folder %s: %s", folder, strerror(errno));
    }
    return 0;
}

/* Both texts are complete before the first file is touched. */
static int probe_texts(struct cli *cli, const struct sf_probe *p, uint32_t ranks, struct sf_buf *cluster,
                       struct sf_buf *device) {
    int rc = sf_probe_print_cluster(p, ranks, cluster);
    if (rc == SF_E_USAGE) {
        return cli_fail_usage(cli, "topo", "a cluster of %u ranks cannot be written", ranks);
    }
    rc = rc == 0 ? sf_probe_print_device(p, device) : rc;
    return rc == 0 ? 0 : sf_fail(&cli->err, rc, "cannot describe this machine: %s", sf_code_text(rc));
}

static int probe(struct cli *cli, const struct topo_args *a) {
    struct sf_probe p;
    struct sf_buf cluster = {0}, device = {0};
    char cluster_path[CLI_PATH], device_path[CLI_PATH];
    SF_TRY(sf_probe_node(&p, &cli->err));
    uint32_t ranks = a->ranks > 0 ? a->ranks : p.cores;
    snprintf(cluster_path, sizeof cluster_path, "%.900s/machine.yaml", a->folder);
    snprintf(device_path, sizeof device_path, "%.900s/%s", a->folder, SF_PROBE_DEVICE_FILE);
    int rc = probe_texts(cli, &p, ranks, &cluster, &device);
    rc = rc == 0 ? make_folder(cli, a->folder) : rc;
    if (rc != 0) {
        sf_buf_free(&cluster);
        sf_buf_free(&device);
        return rc;
    }
    rc = cli_output(device_path, &device, &cli->err);
    if (rc != 0) {
        sf_buf_free(&cluster);
        return rc;
    }
    SF_TRY(cli_output(cluster_path, &cluster, &cli->err));
    return probe_print(cli, &p, ranks, cluster_path, device_path);
}

static int reads_file(struct cli *cli, const struct topo_args *a) {
    if (a->show.file == NULL) {
        return cli_fail_usage(cli, "topo", "topo %s needs a cluster file", a->action);
    }
    if (a->show.seeded && (a->show.routing == NULL || strcmp(a->show.routing, "ecmp") != 0)) {
        return cli_fail_usage(cli, "topo", "--seed changes nothing without --routing ecmp");
    }
    return a->folder == NULL && a->ranks == 0 ? 0 : cli_fail_usage(cli, "topo", "-o and --ranks belong to topo probe");
}

static int reads_machine(struct cli *cli, struct topo_args *a) {
    const struct cli_topo_show *s = &a->show;
    if (s->file != NULL || s->svg != NULL || s->overlay != NULL || s->routing != NULL || s->route != NULL ||
        s->seeded) {
        return cli_fail_usage(cli, "topo", "topo probe reads no file and draws nothing; -o names a folder");
    }
    a->folder = a->folder != NULL ? a->folder : ".";
    return 0;
}

int verb_topo(struct cli *cli, int argc, char **argv) {
    struct topo_args a = {.show.seed = UINT64_MAX};
    const struct cli_option options[] = {
        {"svg", 0, CLI_TEXT, &a.show.svg, "FILE", "show, check: write a drawing"},
        {"overlay", 0, CLI_TEXT, &a.show.overlay, "FILE", "show, check: what is dead, degraded or spare instead"},
        {"routing", 0, CLI_TEXT, &a.show.routing, "R", "show, check: adaptive, ecmp, rail-local or pxn instead"},
        {"seed", 0, CLI_U64, &a.show.seed, "N", "show, check: of --routing ecmp (default: 0)"},
        {"route", 0, CLI_TEXT, &a.show.route, "A:B", "show, check: the way from GPU A to GPU B"},
        {"output", 'o', CLI_TEXT, &a.folder, "DIR", "probe: folder for both files (default: here)"},
        {"ranks", 0, CLI_COUNT, &a.ranks, "N", "probe: devices of the cluster (default: one per core)"},
        {0},
    };
    int first;
    if (argc > 1 && (strcmp(argv[1], "export") == 0 || strcmp(argv[1], "import") == 0)) {
        return cli_topo_io(cli, argc - 1, argv + 1);
    }
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    a.action = argv[first];
    a.show.file = argv[first + 1];
    a.show.seeded = a.show.seed != UINT64_MAX;
    if (strcmp(a.action, "show") == 0 || strcmp(a.action, "check") == 0) {
        SF_TRY(reads_file(cli, &a));
        return cli_topo_show(cli, &a.show, a.action[0] == 'c');
    }
    if (strcmp(a.action, "probe") == 0) {
        SF_TRY(reads_machine(cli, &a));
        return probe(cli, &a);
    }
    return cli_fail_usage(cli, "topo", "expected show, check or probe, found \"%.60s\"", a.action);
}
