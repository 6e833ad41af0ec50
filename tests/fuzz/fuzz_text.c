/* Programs in text form: what is accepted, printed and read again prints the same, and it can be simulated. */
#include <string.h>

#include "core/prog.h"
#include "sim/sim.h"
#include "tests/fuzz/fuzz.h"

bool fuzz_seed(size_t i, struct sf_buf *out) {
    return i == 0 && sf_prog_print(fuzz_program(), out, NULL) == 0;
}

/* NULL when refused. */
static struct sf_prog *parse(const char *text, size_t bytes) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    int rc = sf_prog_parse(text, bytes, "input.txt", &prog, &err);
    fuzz_check_result(rc, &err, prog != NULL);
    if (rc != 0 && strcmp(err.file, "input.txt") != 0) {
        fuzz_fail("a complaint without its file: %s", err.msg);
    }
    return prog;
}

static const struct sf_cost *cost_model(void) {
    static struct sf_topo *topo; /* reachable to the end, so no leak */
    static struct sf_cost *cost;
    const struct fuzz_file file = {"cluster.yaml", fuzz_cluster_yaml, strlen(fuzz_cluster_yaml)};
    struct fuzz_files files = {&file, 1};
    const struct sf_io io = fuzz_io(&files);
    if (cost == NULL && (sf_topo_load(&io, file.path, SF_CATALOG_DIR, &topo, NULL) != 0 ||
                         sf_cost_create(topo, &io, NULL, &cost, NULL) != 0)) {
        fuzz_fail("the good cluster is not good");
    }
    return cost;
}

static void simulate(const struct sf_prog *prog) {
    for (int unfolded = 0; unfolded < 2 && sf_prog_ranks(prog) <= 256; unfolded++) {
        const struct sf_sim_options options = {.unfolded = unfolded != 0};
        struct sf_sim_result result;
        struct sf_err err = {0};
        int rc = sf_sim_run(prog, cost_model(), &options, &result, &err);
        fuzz_check_result(rc, &err, rc == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct sf_prog *first = parse((const char *)data, bytes), *second;
    struct sf_buf a = {0}, b = {0};
    if (first == NULL) {
        return 0;
    }
    if (sf_prog_print(first, &a, NULL) != 0 || (second = parse(a.data, a.bytes)) == NULL ||
        sf_prog_print(second, &b, NULL) != 0 || a.bytes != b.bytes || memcmp(a.data, b.data, a.bytes) != 0) {
        fuzz_fail("accepted, but printed and read again it is another program");
    }
    simulate(second);
    sf_prog_free(first);
    sf_prog_free(second);
    sf_buf_free(&a);
    sf_buf_free(&b);
    return 0;
}
