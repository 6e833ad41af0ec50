/* Cluster files: what there is, the fabric between it, and what differs today. */
#include "core/arena.h"
#include "topo/topo_state.h"

static int read_cluster(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err) {
    static const char *const keys[] = {"name",   "device", "domain", "domains",     "groups",  "gpus_in_use", "nic",
                                       "planes", "rails",  "fabric", "collectives", "overlay", NULL};
    struct sf_topo *t = c->t;
    SF_TRY(sf_map_only(root, keys, err));
    SF_TRY(sfi_read_name(root, "name", t->name, sizeof t->name, err));
    SF_TRY(sfi_stocks_load(c, root, err));
    if (sf_map_find(root, "gpus_in_use") != NULL) {
        SF_TRY(sfi_read_count(root, "gpus_in_use", 1, SFI_MAX_SEATS, &t->wanted, err));
    }
    SF_TRY(sfi_coll_wishes(t, sf_map_find(root, "collectives"), err));
    SF_TRY(t->domains > 1 ? sfi_fabric_load(c, root, err) : 0);
    return sfi_overlay_load(c, root, err);
}

int sf_topo_load(const struct sf_io *io, const char *path, const char *catalog_dir, struct sf_topo **out,
                 struct sf_err *err) {
    struct sf_doc *doc = NULL;
    SF_TRY(sf_doc_load(io, path, &doc, err));
    struct sf_topo *t = sf_calloc(1, sizeof *t);
    if (t == NULL) {
        sf_doc_free(doc);
        return sf_fail_memory(err, "a topology");
    }
    const struct sfi_catalog c = {io, catalog_dir, path, t};
    int rc = read_cluster(&c, sf_doc_root(doc), err);
    sf_doc_free(doc);
    if (rc != 0) {
        sf_topo_free(t);
        return rc;
    }
    *out = t;
    return 0;
}
