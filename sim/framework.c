/* Reading a framework file:
 *
 *   name: megatron-2021
 *   about: text for people
 *   attention: unfused        # or fused
 *   rolling: true             # optional: steps of split backwards follow one another without a barrier
 *   calibration: [case ids]   # rows that the numbers below were fitted to; never part of a reported error
 *   grade: calibrated
 *   devices:
 *     a100: { host_call: 60us, step: 5ms, pointwise: 1.8, loss: 10, gemm_share: 0.95 }
 *
 *   host_call        host time to issue a kernel call and what it stands for: biases, views, autograd
 *   step             host time per step outside forward and backward
 *   pointwise        traffic of the cheap kernels, times that of one fused kernel each
 *   loss             traffic of the cross entropy, likewise: logits in f32, one pass for each part of it
 *   loss_parallel    optional: likewise where ranks share the vocabulary, which other kernels compute
 *   resume           optional: host time from the end of a transfer to the next call, where passes wait for transfers
 *   gemm_share       of the rate that a product reaches alone: clocks under load, other layouts
 *   gemm_share_fp8   optional: likewise in fp8, where casts may be fused into the kernel before
 *   moe              optional: traffic of routing, sorting and merging tokens, as pointwise
 *   attention_share  optional: of the rate that fused attention reaches alone: kernels of another make
 *   kernels          optional: small ones on the device that a call is issued as besides itself: biases, casts, dropout
 *   tp_hidden        optional: share of the tensor parallel collectives that run under the products beside them
 *   gather_hidden    optional: share of the gathering of updated weights that runs under the next step's forward
 *   gather_slow      optional: how many times what the network needs a gathering of weights takes: one parameter after
 *                    the other, copies before and after
 *   spread           optional: standard deviation of how fast devices of one class are; the slowest sets the pace */
#include <stdio.h>
#include <string.h>

#include "core/doc.h"
#include "sim/cost.h"

/* Words of a list, separated by spaces. */
static int read_words(const struct sf_node *root, const char *key, char *out, size_t size, struct sf_err *err) {
    const struct sf_node *list = sf_map_find(root, key);
    size_t used = 0;
    if (list == NULL) {
        return 0;
    }
    if (!sf_node_is_seq(list)) {
        return sf_node_fail(list, err, "expected a list of names");
    }
    for (size_t i = 0; i < sf_seq_size(list); i++) {
        const struct sf_node *n = sf_seq_at(list, i);
        const char *word;
        SF_TRY(sf_node_str(n, &word, err));
        size_t length = strlen(word);
        if (length == 0 || strchr(word, ' ') != NULL || length + 2 > size - used) {
            return sf_node_fail(n, err, "expected a name without spaces, and at most %zu bytes of them", size - 1);
        }
        used += (size_t)snprintf(out + used, size - used, "%s%s", i == 0 ? "" : " ", word);
    }
    return 0;
}

/* Keys that may be left out: 0 then, which is without effect. */
static int read_optional(const struct sf_node *map, struct sf_framework *f, struct sf_err *err) {
    const struct {
        const char *key;
        double least, most, *to;
    } optional[] = {
        {"gemm_share_fp8", 0.1, 2, &f->gemm_share_fp8},
        {"loss_parallel", 0.1, 100, &f->loss_parallel},
        {"moe", 0.1, 100, &f->moe},
        {"attention_share", 0.05, 2, &f->attention_share},
        {"kernels", 0, 100, &f->kernels},
        {"tp_hidden", 0, 1, &f->tp_hidden},
        {"gather_hidden", 0, 1, &f->gather_hidden},
        {"gather_slow", 1, 1000, &f->gather_slow},
        {"spread", 0, 0.2, &f->spread},
    };
    for (size_t i = 0; i < sizeof optional / sizeof optional[0]; i++) {
        const struct sf_node *n = sf_map_find(map, optional[i].key);
        if (n != NULL) {
            SF_TRY(sf_node_f64(n, optional[i].least, optional[i].most, optional[i].to, err));
        }
    }
    return 0;
}

static int read_device(const struct sf_node *map, struct sf_framework *f, struct sf_err *err) {
    static const char *const keys[] = {
        "host_call", "step",      "pointwise",       "loss",          "loss_parallel", "gemm_share", "kernels",
        "moe",       "tp_hidden", "attention_share", "gather_hidden", "gather_slow",   "spread",     "gemm_share_fp8",
        "resume",    NULL};
    const struct sf_node *n;
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(sf_map_need(map, "host_call", &n, err));
    SF_TRY(sf_node_time(n, &f->host_call_ps, err));
    SF_TRY(sf_map_need(map, "step", &n, err));
    SF_TRY(sf_node_time(n, &f->step_ps, err));
    SF_TRY(sf_map_need(map, "pointwise", &n, err));
    SF_TRY(sf_node_f64(n, 0.1, 20, &f->pointwise, err));
    SF_TRY(sf_map_need(map, "loss", &n, err));
    SF_TRY(sf_node_f64(n, 0.1, 100, &f->loss, err));
    SF_TRY(sf_map_need(map, "gemm_share", &n, err));
    SF_TRY(sf_node_f64(n, 0.1, 2, &f->gemm_share, err));
    if ((n = sf_map_find(map, "resume")) != NULL) {
        SF_TRY(sf_node_time(n, &f->resume_ps, err));
    }
    return read_optional(map, f, err);
}

static int read_text(const struct sf_node *root, struct sf_framework *f, struct sf_err *err) {
    static const char *const grades[] = {"calibrated", "measured", "datasheet", "extrapolated", NULL};
    static const char *const attention[] = {"fused", "unfused", NULL};
    const struct sf_node *n;
    const char *name;
    int word;
    SF_TRY(sf_map_need(root, "name", &n, err));
    SF_TRY(sf_node_str(n, &name, err));
    if (strlen(name) >= sizeof f->name) {
        return sf_node_fail(n, err, "expected a name below %zu bytes", sizeof f->name);
    }
    snprintf(f->name, sizeof f->name, "%s", name);
    SF_TRY(sf_map_need(root, "attention", &n, err));
    SF_TRY(sf_node_word(n, attention, &word, err));
    f->unfused_attention = word == 1;
    if ((n = sf_map_find(root, "rolling")) != NULL) {
        SF_TRY(sf_node_bool(n, &f->rolling, err));
    }
    SF_TRY(sf_map_need(root, "grade", &n, err));
    SF_TRY(sf_node_word(n, grades, &word, err));
    f->grade = (enum sf_grade)word;
    return read_words(root, "calibration", f->calibration, sizeof f->calibration, err);
}

static int read_framework(const struct sf_node *root, const char *device, struct sf_framework *f, struct sf_err *err) {
    static const char *const keys[] = {"name",  "about",   "attention", "calibration",
                                       "grade", "devices", "rolling",   NULL};
    const struct sf_node *devices, *own;
    if (!sf_node_is_map(root)) {
        return sf_node_fail(root, err, "expected a framework: name, attention, sources, calibration, grade, devices");
    }
    SF_TRY(sf_map_only(root, keys, err));
    SF_TRY(read_text(root, f, err));
    SF_TRY(sf_map_need(root, "devices", &devices, err));
    if (device == NULL) {
        return 0;
    }
    own = sf_map_find(devices, device);
    if (own == NULL) {
        return sf_node_fail(devices, err, "framework %s has no numbers for %s", f->name, device);
    }
    return read_device(own, f, err);
}

int sf_framework_load(const struct sf_io *io, const char *path, const char *device, struct sf_framework *out,
                      struct sf_err *err) {
    struct sf_doc *doc = NULL;
    memset(out, 0, sizeof *out);
    SF_TRY(sf_doc_load(io, path, &doc, err));
    int rc = read_framework(sf_doc_root(doc), device, out, err);
    sf_doc_free(doc);
    return rc;
}
