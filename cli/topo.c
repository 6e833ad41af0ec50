/* staticfire topo: show, check, probe. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>
#include <sys/stat.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/print.h"
#include "cli/sources.h"
#include "topo/topo.h"

struct topo_args {
    const char *action, *file, *svg, *folder;
    uint32_t ranks;
};

static const struct cli_usage usage = {
    .verb = "topo",
    .operands = "show|check CLUSTER.yaml, or probe",
    .about = "show   counts, link classes and what each number rests on\n"
             "check  prove degrees, port budgets, link and path counts, bisection\n"
             "probe  describe this machine as a cluster: cluster.yaml and its device file",
    .examples = "  staticfire topo show scenarios/clusters/gb300-nvl72-220k.yaml\n"
                "  staticfire topo show cluster.yaml --svg cluster.svg\n"
                "  staticfire topo check cluster.yaml --json\n"
                "  staticfire topo probe -o machine --ranks 2\n",
    .operands_min = 1,
    .operands_max = 2,
};

static json_t *links_json(const struct sf_topo_counts *n) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "nvlink", (json_int_t)n->links_nvlink, "c2c",
                     (json_int_t)n->links_c2c, "nic", (json_int_t)n->links_nic, "leaf_spine",
                     (json_int_t)n->links_leaf_spine, "spine_core", (json_int_t)n->links_spine_core);
}

static json_t *switches_json(const struct sf_topo_counts *n) {
    return json_pack("{s:I, s:I, s:I, s:I}", "nvswitches", (json_int_t)n->nvswitches, "leaves", (json_int_t)n->leaves,
                     "spines", (json_int_t)n->spines, "cores", (json_int_t)n->cores);
}

static json_t *topo_json(const struct sf_topo *t, bool checked) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    return json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:I, s:b, s:o}", "name",
                     cli_json_text(sf_topo_name(t)), "hash", cli_json_hash(sf_topo_hash(t)), "gpus", (json_int_t)n.gpus,
                     "gpus_in_use", (json_int_t)n.gpus_in_use, "spare_gpus", (json_int_t)n.spare_gpus, "racks",
                     (json_int_t)n.domains, "trays", (json_int_t)n.trays, "cpus", (json_int_t)n.cpus, "nics",
                     (json_int_t)n.nics, "switches", switches_json(&n), "links", links_json(&n),
                     "bisection_bytes_per_s", (json_int_t)n.bisection_bytes_per_s, "checked", checked, "sources",
                     cli_sources_json(t));
}

/* Counts of zero say nothing about a cluster that lacks the part. */
static void count_fact(struct sf_buf *out, const char *name, uint64_t n) {
    if (n > 0) {
        cli_fact(out, name, "%12s", cli_count(n));
    }
}

static void print_counts(const struct sf_topo *t, struct sf_buf *out) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    count_fact(out, "GPUs", n.gpus);
    count_fact(out, "  in use", n.gpus_in_use);
    count_fact(out, "  spare", n.spare_gpus);
    count_fact(out, "scale-up domains", n.domains);
    count_fact(out, "trays", n.trays);
    count_fact(out, "CPUs", n.cpus);
    count_fact(out, "NICs", n.nics);
    count_fact(out, "NVSwitches", n.nvswitches);
    count_fact(out, "leaf switches", n.leaves);
    count_fact(out, "spine switches", n.spines);
    count_fact(out, "core switches", n.cores);
    count_fact(out, "links: NVLink", n.links_nvlink);
    count_fact(out, "links: C2C", n.links_c2c);
    count_fact(out, "links: NIC to leaf", n.links_nic);
    count_fact(out, "links: leaf to spine", n.links_leaf_spine);
    count_fact(out, "links: spine to core", n.links_spine_core);
    if (n.bisection_bytes_per_s > 0) {
        cli_fact(out, "bisection", "%12s/s one way", cli_bytes(n.bisection_bytes_per_s));
    }
}

static void link_row(struct cli_table *t, const char *where, const struct sf_link_class *c) {
    if (c == NULL) {
        return;
    }
    cli_cell(t, "%s", where);
    cli_cell(t, "%s", c->name);
    cli_cell(t, "%s/s", cli_bytes(c->bytes_per_s));
    cli_cell(t, "%s", cli_time(c->latency_ps));
    cli_cell(t, "%s", sf_grade_name((int)c->grade));
}

static void print_speeds(const struct sf_topo *t, struct sf_buf *out) {
    const struct sf_device_class *d = sf_topo_device(t);
    cli_heading(out, "Device");
    cli_fact(out, "class", "%s (%s)", d->name, sf_grade_name((int)d->grade));
    cli_fact(out, "memory", "%s at %s/s", cli_bytes(d->memory_bytes), cli_bytes(d->memory_bytes_per_s));
    for (int p = 0; p < SF_DTYPES_N; p++) {
        if (d->flops_per_s[p] > 0) {
            char name[32];
            snprintf(name, sizeof name, "%s peak", sf_dtype_name(p));
            cli_fact(out, name, "%s, GEMMs reach %.0f %%", cli_flops(d->flops_per_s[p]), d->gemm_efficiency[p] * 100);
        }
    }
    cli_heading(out, "Links");
    struct cli_table table = {.align = "llrrl"};
    cli_cell(&table, "where");
    cli_cell(&table, "class");
    cli_cell(&table, "one way");
    cli_cell(&table, "latency");
    cli_cell(&table, "grade");
    link_row(&table, "inside a domain", sf_topo_scale_up(t));
    link_row(&table, "across domains", sf_topo_scale_out(t));
    cli_table_print(&table, "  ", out);
}

static int write_svg(struct cli *cli, const struct sf_topo *t, const char *path) {
    struct sf_buf svg = {0};
    if (sf_topo_svg(t, &svg) != 0) {
        sf_buf_free(&svg);
        return sf_fail(&cli->err, SF_E_INTERNAL, "no memory for the drawing");
    }
    return cli_output(path, &svg, &cli->err);
}

static int print_topo(struct cli *cli, const struct sf_topo *t, const struct topo_args *a, bool checked) {
    if (cli->json) {
        return cli_print_json(topo_json(t, checked), &cli->err);
    }
    struct sf_buf out = {0};
    char hash[SF_HASH_TEXT];
    sf_buf_printf(&out, "%s%s%s  %s\n", cli_on(CLI_BOLD), sf_topo_name(t), cli_off(),
                  sf_hash_format(sf_topo_hash(t), hash));
    print_counts(t, &out);
    if (checked) {
        sf_buf_printf(&out, "%sEvery count, degree, port budget and path agrees.%s\n", cli_on(CLI_GREEN), cli_off());
    } else {
        print_speeds(t, &out);
        cli_sources_print(t, &out);
    }
    if (a->svg != NULL) {
        sf_buf_printf(&out, "Drawing: %s\n", a->svg);
    }
    return cli_print(&out, &cli->err);
}

static int show_or_check(struct cli *cli, const struct topo_args *a, bool check) {
    struct sf_topo *t = NULL;
    SF_TRY(sf_topo_load(&sf_io_posix, a->file, cli->catalog, &t, &cli->err));
    int rc = check ? sf_topo_check(t, &cli->err) : 0;
    if (rc == 0 && a->svg != NULL) {
        rc = write_svg(cli, t, a->svg);
    }
    if (rc == 0) {
        rc = print_topo(cli, t, a, check);
    }
    sf_topo_free(t);
    return rc;
}

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
    if (a->file == NULL) {
        return cli_fail_usage(cli, "topo", "topo %s needs a cluster file", a->action);
    }
    return a->folder == NULL && a->ranks == 0 ? 0 : cli_fail_usage(cli, "topo", "-o and --ranks belong to topo probe");
}

static int reads_machine(struct cli *cli, struct topo_args *a) {
    if (a->file != NULL || a->svg != NULL) {
        return cli_fail_usage(cli, "topo", "topo probe reads no file and draws nothing; -o names a folder");
    }
    a->folder = a->folder != NULL ? a->folder : ".";
    return 0;
}

int verb_topo(struct cli *cli, int argc, char **argv) {
    struct topo_args a = {0};
    const struct cli_option options[] = {
        {"svg", 0, CLI_TEXT, &a.svg, "FILE", "show, check: write a drawing"},
        {"output", 'o', CLI_TEXT, &a.folder, "DIR", "probe: folder for both files (default: here)"},
        {"ranks", 0, CLI_COUNT, &a.ranks, "N", "probe: devices of the cluster (default: one per core)"},
        {0},
    };
    int first;
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    a.action = argv[first];
    a.file = argv[first + 1];
    if (strcmp(a.action, "show") == 0 || strcmp(a.action, "check") == 0) {
        SF_TRY(reads_file(cli, &a));
        return show_or_check(cli, &a, a.action[0] == 'c');
    }
    if (strcmp(a.action, "probe") == 0) {
        SF_TRY(reads_machine(cli, &a));
        return probe(cli, &a);
    }
    return cli_fail_usage(cli, "topo", "expected show, check or probe, found \"%.60s\"", a.action);
}
