/* What a topology says about collectives: the device's model, the cluster's wishes. The model is read where it is used,
 * in sim/. */
#include <stdio.h>
#include <string.h>

#include "topo/topo_state.h"

int sfi_catalog_collectives(const struct sfi_catalog *c, const struct sf_node *ref, struct sfi_stock *out,
                            struct sf_err *err) {
    struct sf_doc *doc = NULL;
    SF_TRY(sfi_catalog_open(c, "nccl", ref, &doc, err));
    int n = snprintf(out->coll_model, sizeof out->coll_model, "%s", sf_doc_name(doc));
    sf_doc_free(doc);
    return n > 0 && (size_t)n < sizeof out->coll_model
               ? 0
               : sf_node_fail(ref, err, "path is longer than %zu bytes", sizeof out->coll_model - 1);
}

static int read_word(const struct sf_node *map, const char *key, const char *const words[], char *out, size_t size,
                     struct sf_err *err) {
    const struct sf_node *n = sf_map_find(map, key);
    int word;
    if (n == NULL) {
        return 0;
    }
    SF_TRY(sf_node_word(n, words, &word, err));
    snprintf(out, size, "%s", words[word]);
    return 0;
}

static const char *const times[] = {"steps", "nccl", NULL};

int sf_topo_set_times(struct sf_topo *t, const char *word, struct sf_err *err) {
    if (t->coll.model[0] == '\0') {
        return sf_fail(err, SF_E_USAGE, "%s's device names no collective model, so times would change no result",
                       t->name);
    }
    for (int i = 0; times[i] != NULL; i++) {
        if (strcmp(times[i], word) == 0) {
            t->coll.nccl_times = i == 1;
            return 0;
        }
    }
    return sf_fail(err, SF_E_USAGE, "times of collectives: expected steps or nccl, found \"%.40s\"", word);
}

static int read_times(struct sf_topo *t, const struct sf_node *n, struct sf_err *err) {
    int word = 0;
    SF_TRY(n != NULL ? sf_node_word(n, times, &word, err) : 0);
    t->coll.nccl_times = word == 1;
    return 0;
}

int sfi_coll_wishes(struct sf_topo *t, const struct sf_node *map, struct sf_err *err) {
    static const char *const keys[] = {"algorithm", "protocol", "sharp", "times", NULL};
    static const char *const algorithms[] = {"tree", "ring",   "collnet", "nvls",         "nvls_tree",
                                             "pat",  "direct", "rail",    "hierarchical", NULL};
    static const char *const protocols[] = {"ll", "ll128", "simple", NULL};
    if (map == NULL) {
        return 0;
    }
    if (t->coll.model[0] == '\0') {
        return sf_node_fail(map, err, "the device names no collective model, so nothing here would change a result");
    }
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_word(map, "algorithm", algorithms, t->coll.algorithm, sizeof t->coll.algorithm, err));
    SF_TRY(read_word(map, "protocol", protocols, t->coll.protocol, sizeof t->coll.protocol, err));
    SF_TRY(read_times(t, sf_map_find(map, "times"), err));
    const struct sf_node *sharp = sf_map_find(map, "sharp");
    SF_TRY(sharp != NULL ? sf_node_bool(sharp, &t->coll.sharp, err) : 0);
    if (t->coll.sharp && t->domains == 1) {
        return sf_node_fail(sharp, err, "a single domain has no network whose switches could add: leave out sharp");
    }
    if (strcmp(t->coll.algorithm, "collnet") == 0 && !t->coll.sharp) {
        return sf_node_fail(map, err, "algorithm collnet needs switches that add: set sharp: true");
    }
    return 0;
}
