/* YAML and JSON: whatever is accepted can be walked to its end, and every getter returns. */
#include <string.h>

#include "core/doc.h"
#include "tests/fuzz/fuzz.h"

bool fuzz_seed(size_t i, struct sf_buf *out) {
    const char *const seeds[] = {fuzz_scenario_yaml, fuzz_config_json, fuzz_kernels_yaml, fuzz_cluster_yaml};
    if (i >= sizeof seeds / sizeof *seeds) {
        return false;
    }
    sf_buf_write(out, seeds[i], strlen(seeds[i]));
    return true;
}

static void get_everything(const struct sf_node *n) {
    const char *text;
    int64_t whole;
    double number;
    bool truth;
    sf_time_ps time;
    uint64_t bytes;
    (void)sf_node_str(n, &text, NULL);
    (void)sf_node_i64(n, INT64_MIN, INT64_MAX, &whole, NULL);
    (void)sf_node_f64(n, -1e300, 1e300, &number, NULL);
    (void)sf_node_bool(n, &truth, NULL);
    (void)sf_node_time(n, &time, NULL);
    (void)sf_node_bytes(n, &bytes, NULL);
}

static void walk(const struct sf_node *n) {
    get_everything(n);
    for (size_t i = 0; sf_node_is_seq(n) && i < sf_seq_size(n); i++) {
        walk(sf_seq_at(n, i));
    }
    for (size_t i = 0; sf_node_is_map(n) && i < sf_map_size(n); i++) {
        const struct sf_node *value = NULL;
        const char *key = sf_map_key(n, i, &value);
        if (sf_map_find(n, key) != value) {
            fuzz_fail("key \"%s\" leads elsewhere", key);
        }
        walk(value);
    }
}

static void parse(const uint8_t *data, size_t bytes, const char *name) {
    struct sf_doc *doc = NULL;
    struct sf_err err = {0};
    int rc = sf_doc_parse((const char *)data, bytes, name, &doc, &err);
    fuzz_check_result(rc, &err, doc != NULL);
    if (rc == 0) {
        walk(sf_doc_root(doc));
    } else if (err.line == 0 && bytes < SF_DOC_MAX_BYTES) {
        fuzz_fail("a complaint without its place: %s", err.msg);
    }
    sf_doc_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    parse(data, bytes, "input.yaml");
    parse(data, bytes, "input.json");
    return 0;
}
