/* staticfire topo export, topo import. */
#include "cli/topo_io.h"

#include <string.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/print.h"
#include "topo/topo_io_formats.h"

static const struct cli_usage export_usage = {
    .verb = "topo export",
    .operands = "CLUSTER.yaml",
    .about = "nccl        NCCL's topology XML of one tray, for NCCL_TOPO_FILE\n"
             "hwloc       hwloc's XML of one tray, for lstopo -i\n"
             "infragraph  the whole cluster, every cable\n"
             "dot         a drawing for Graphviz; tiers with too many boxes become counts",
    .examples = "  staticfire topo export --format nccl cluster.yaml -o topo.xml\n"
                "  staticfire topo export --format dot --pod 0 cluster.yaml | dot -Tsvg -o pod.svg\n",
    .operands_min = 1,
    .operands_max = 1,
};

static const struct cli_usage import_usage = {
    .verb = "topo import",
    .operands = "FILE",
    .about =
        "Writes a cluster file and proves it: what it loads to has the parts that FILE has. What FILE does not say\n"
        "is asked for by its option; what is assumed stands in the cluster file's comments.",
    .examples = "  staticfire topo import --format nccl topo.xml -o node.yaml\n"
                "  staticfire topo import --format hwloc --device a100 --link nvlink3 lstopo.xml -o node.yaml\n",
    .operands_min = 1,
    .operands_max = 1,
};

static int find_format(struct cli *cli, const char *verb, const char *name, enum sf_topo_format *out) {
    if (name == NULL) {
        return cli_fail_usage(cli, verb, "--format is missing: nccl, hwloc, infragraph%s",
                              strcmp(verb, "topo export") == 0 ? " or dot" : "");
    }
    for (int i = 0; i < SF_TOPO_FORMATS_N; i++) {
        if (strcmp(sf_topo_format_names[i], name) == 0) {
            *out = (enum sf_topo_format)i;
            return 0;
        }
    }
    const char *near = cli_nearest(name, sf_topo_format_names);
    return cli_fail_usage(cli, verb, "unknown format \"%.40s\"%s%s", name, near != NULL ? "; did you mean " : "",
                          near != NULL ? near : ": nccl, hwloc, infragraph, dot");
}

/* With --json a file's text goes to its file and a summary to stdout; without -o it is part of the summary. */
static int print_json(struct cli *cli, json_t *doc, const char *output, struct sf_buf *text) {
    if (doc == NULL || output != NULL) {
        int rc = output != NULL ? cli_output(output, text, &cli->err) : 0;
        if (rc != 0) {
            json_decref(doc);
            return rc;
        }
        return cli_print_json(doc, &cli->err);
    }
    sf_buf_write(text, "", 1);
    json_object_set_new(doc, "text", cli_json_text(text->failed ? "" : text->data));
    sf_buf_free(text);
    return cli_print_json(doc, &cli->err);
}

struct export_args {
    const char *format, *output;
    uint32_t tray, pod;
    bool has_pod;
};

static int export_topo(struct cli *cli, const struct export_args *a, enum sf_topo_format format, const char *file) {
    struct sf_topo *t = NULL;
    struct sf_buf text = {0};
    const struct sf_topo_export what = {.tray = a->tray, .pod = a->has_pod ? (int64_t)a->pod : -1};
    SF_TRY(sf_output_check(a->output, &cli->err));
    SF_TRY(sf_topo_load(&sf_io_posix, file, cli->catalog, &t, &cli->err));
    int rc = sf_topo_export(t, format, &what, &text, &cli->err);
    sf_topo_free(t);
    if (rc != 0) {
        sf_buf_free(&text);
        return rc;
    }
    if (cli->json) {
        json_t *doc = json_pack("{s:s, s:o, s:I}", "format", sf_topo_format_names[format], "cluster",
                                cli_json_text(file), "bytes", (json_int_t)text.bytes);
        return print_json(cli, doc, a->output, &text);
    }
    return cli_output(a->output, &text, &cli->err);
}

static int check_export(struct cli *cli, const struct export_args *a, enum sf_topo_format format) {
    bool node = format == SF_TOPO_FORMAT_NCCL || format == SF_TOPO_FORMAT_HWLOC;
    if (a->tray != UINT32_MAX && !node) {
        return cli_fail_usage(cli, "topo export", "--tray belongs to the formats of a node: nccl, hwloc");
    }
    if (a->has_pod && format != SF_TOPO_FORMAT_DOT) {
        return cli_fail_usage(cli, "topo export", "--pod belongs to --format dot");
    }
    return 0;
}

static int verb_export(struct cli *cli, int argc, char **argv) {
    struct export_args a = {.tray = UINT32_MAX, .pod = UINT32_MAX};
    const struct cli_option options[] = {
        {"format", 0, CLI_TEXT, &a.format, "F", "nccl, hwloc, infragraph or dot"},
        {"output", 'o', CLI_TEXT, &a.output, "FILE", "where to write (default: standard output)"},
        {"tray", 0, CLI_U32, &a.tray, "N", "nccl, hwloc: which node, a tray (default: 0)"},
        {"pod", 0, CLI_U32, &a.pod, "N", "dot: this pod alone"},
        {0},
    };
    enum sf_topo_format format = SF_TOPO_FORMAT_NCCL;
    int first;
    SF_TRY(cli_parse(cli, &export_usage, options, argc, argv, &first));
    SF_TRY(find_format(cli, "topo export", a.format, &format));
    a.has_pod = a.pod != UINT32_MAX;
    SF_TRY(check_export(cli, &a, format));
    a.tray = a.tray != UINT32_MAX ? a.tray : 0;
    return export_topo(cli, &a, format, argv[first]);
}

static json_t *found_json(const struct sf_topo_found *f) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}",
                     "name", cli_json_text(f->name), "device", cli_json_text(f->device), "link", cli_json_text(f->link),
                     "cpu_link", cli_json_text(f->cpu_link), "nic", cli_json_text(f->nic), "domains",
                     (json_int_t)f->domains, "trays", (json_int_t)f->trays, "gpus",
                     (json_int_t)f->domains * f->trays * f->gpus_per_tray, "cpus",
                     (json_int_t)f->domains * f->trays * f->cpus_per_tray, "nvswitches",
                     (json_int_t)f->domains * f->nvswitches, "links_per_gpu", (json_int_t)f->links_per_gpu,
                     "nics_per_domain", (json_int_t)f->nics, "nic_bytes_per_s", (json_int_t)f->nic_bytes_per_s,
                     "pcie_bytes_per_s", (json_int_t)f->pcie_bytes_per_s, "leaves", (json_int_t)f->leaves, "spines",
                     (json_int_t)f->spines, "cores", (json_int_t)f->cores, "notes", cli_json_text(f->notes));
}

static int import_topo(struct cli *cli, enum sf_topo_format format, const struct sf_topo_wishes *wishes,
                       const char *file) {
    struct sf_buf text = {0};
    struct sf_topo_found found;
    SF_TRY(sf_output_check(wishes->path, &cli->err));
    int rc = sf_topo_import(&sf_io_posix, file, cli->catalog, format, wishes, &text, &found, &cli->err);
    if (rc != 0) {
        sf_buf_free(&text);
        return rc;
    }
    if (wishes->path != NULL && !cli->json) { /* else the notes are in what is printed */
        fprintf(stderr, "%s", found.notes);
    }
    return cli->json ? print_json(cli, found_json(&found), wishes->path, &text)
                     : cli_output(wishes->path, &text, &cli->err);
}

static int verb_import(struct cli *cli, int argc, char **argv) {
    const char *format_name = NULL;
    struct sf_topo_wishes w = {0};
    const struct cli_option options[] = {
        {"format", 0, CLI_TEXT, &format_name, "F", "nccl, hwloc or infragraph"},
        {"output", 'o', CLI_TEXT, &w.path, "FILE", "the cluster file (default: standard output)"},
        {"name", 0, CLI_TEXT, &w.name, "NAME", "of the cluster (default: the file's)"},
        {"device", 0, CLI_TEXT, &w.device, "CLASS", "of the GPUs, from the catalog or a path"},
        {"link", 0, CLI_TEXT, &w.link, "CLASS", "between GPUs of a domain"},
        {"nic", 0, CLI_TEXT, &w.nic, "CLASS", "of the NICs"},
        {"switch", 0, CLI_TEXT, &w.fabric_switch, "CLASS", "infragraph: of the fabric's switches"},
        {0},
    };
    enum sf_topo_format format = SF_TOPO_FORMAT_NCCL;
    int first;
    SF_TRY(cli_parse(cli, &import_usage, options, argc, argv, &first));
    SF_TRY(find_format(cli, "topo import", format_name, &format));
    if (format == SF_TOPO_FORMAT_DOT) {
        return cli_fail_usage(cli, "topo import", "dot is for drawings: it cannot be imported");
    }
    if (w.fabric_switch != NULL && format != SF_TOPO_FORMAT_INFRAGRAPH) {
        return cli_fail_usage(cli, "topo import", "--switch belongs to --format infragraph: a node has no fabric");
    }
    return import_topo(cli, format, &w, argv[first]);
}

int cli_topo_io(struct cli *cli, int argc, char **argv) {
    return strcmp(argv[0], "export") == 0 ? verb_export(cli, argc, argv) : verb_import(cli, argc, argv);
}
