/* staticfire doctor: what was found here and what is therefore on or off. */
#include <gsl/gsl_version.h>
#include <hwloc.h>
#include <libfyaml.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "cli/args.h"
#include "cli/find.h"
#include "cli/print.h"
#include "topo/topo.h"

static const struct cli_usage usage = {
    .verb = "doctor",
    .operands = "",
    .about = "Lists the parts this build uses or looks for, whether each is on, and why not.",
    .examples = "  staticfire doctor\n"
                "  staticfire doctor --json\n",
    .operands_min = 0,
    .operands_max = 0,
};

struct component {
    const char *name;
    bool on;
    char detail[CLI_PATH + 64];
};
#define COMPONENTS 16

struct findings {
    struct component at[COMPONENTS];
    size_t n;
};

static char *found(struct findings *f, const char *name, bool on) {
    struct component *c = &f->at[f->n < COMPONENTS ? f->n++ : COMPONENTS - 1];
    c->name = name;
    c->on = on;
    return c->detail;
}
#define DETAIL (sizeof((struct component *)0)->detail)

static void find_machine(struct findings *f) {
    struct sf_probe p;
    struct sf_err err = {0};
    bool ok = sf_probe_node(&p, &err) == 0;
    char *detail = found(f, "machine", ok);
    if (ok) {
        snprintf(detail, DETAIL, "%s, %u cores, %u NUMA node%s, %s", p.cpu_model, p.cores, p.numa_nodes,
                 p.numa_nodes == 1 ? "" : "s", cli_bytes(p.memory_bytes));
    } else {
        snprintf(detail, DETAIL, "%s", err.msg);
    }
    unsigned v = hwloc_get_api_version();
    snprintf(found(f, "hwloc", true), DETAIL, "%u.%u.%u, finds cores, caches and memory nodes", v >> 16, (v >> 8) & 255,
             v & 255);
}

static void find_libraries(struct findings *f) {
    snprintf(found(f, "libfyaml", true), DETAIL, "%s, reads YAML", fy_library_version());
    snprintf(found(f, "jansson", true), DETAIL, "%s, writes JSON", jansson_version_str());
    snprintf(found(f, "zstd", true), DETAIL, "%s, packs traces", ZSTD_versionString());
    unsigned v = XXH_versionNumber();
    snprintf(found(f, "xxhash", true), DETAIL, "%u.%u.%u, hashes content", v / 10000, v / 100 % 100, v % 100);
    snprintf(found(f, "gsl", true), DETAIL, "%s, statistics", gsl_version);
}

static void find_runtime(struct findings *f) {
    char path[CLI_PATH];
    bool run = cli_find_program("staticfire-run", path) == 0;
    snprintf(found(f, "staticfire-run", run), DETAIL, "%s",
             run ? path : "neither beside staticfire nor in PATH; run is off");
    bool mpi = cli_find_program("mpirun", path) == 0;
    snprintf(found(f, "mpi", mpi), DETAIL, "%s", mpi ? path : "no mpirun in PATH; run --transport mpi is off");
}

static void find_gpu(struct findings *f) {
    char path[CLI_PATH];
    bool module = cli_find_program("libstaticfire-cuda.so", path) == 0, device = access("/dev/nvidiactl", F_OK) == 0;
    snprintf(found(f, "cuda", module && device), DETAIL, "%s; %s NVIDIA device on this machine",
             module ? "libstaticfire-cuda.so is there"
                    : "this build has no libstaticfire-cuda.so: it was made without CUDA",
             device ? "there is an" : "there is no");
}

static json_t *findings_json(const struct findings *f) {
    json_t *components = json_array();
    for (size_t i = 0; i < f->n; i++) {
        json_array_append_new(components, json_pack("{s:s, s:b, s:o}", "name", f->at[i].name, "on", f->at[i].on,
                                                    "detail", cli_json_text(f->at[i].detail)));
    }
    return json_pack("{s:s, s:s, s:o}", "version", SF_VERSION, "compiler", __VERSION__, "components", components);
}

int verb_doctor(struct cli *cli, int argc, char **argv) {
    struct findings f = {0};
    int first;
    SF_TRY(cli_parse(cli, &usage, NULL, argc, argv, &first));
    find_machine(&f);
    find_libraries(&f);
    find_runtime(&f);
    find_gpu(&f);
    snprintf(found(&f, "catalog", access(cli->catalog, R_OK) == 0), DETAIL, "%s", cli->catalog);
    if (cli->json) {
        return cli_print_json(findings_json(&f), &cli->err);
    }
    struct sf_buf out = {0};
    sf_buf_printf(&out, "%sstaticfire %s%s, compiled with %s\n", cli_on(CLI_BOLD), SF_VERSION, cli_off(), __VERSION__);
    for (size_t i = 0; i < f.n; i++) {
        const struct component *c = &f.at[i];
        sf_buf_printf(&out, "  %s%-3s%s  %-15s %s\n", cli_on(c->on ? CLI_GREEN : CLI_YELLOW), c->on ? "on" : "off",
                      cli_off(), c->name, c->detail);
    }
    return cli_print(&out, &cli->err);
}
