/* Cluster files: scale-up domains, how many, and the fabric between them. */
#include <string.h>

#include "core/arena.h"
#include "topo/topo_state.h"

int sfi_read_count(const struct sf_node *map, const char *key, uint32_t lo, uint32_t hi, uint32_t *out,
                   struct sf_err *err) {
    const struct sf_node *n;
    int64_t value;
    SF_TRY(sf_map_need(map, key, &n, err));
    SF_TRY(sf_node_i64(n, lo, hi, &value, err));
    *out = (uint32_t)value;
    return 0;
}

static int read_name(const struct sf_node *map, const char *key, char *out, size_t size, struct sf_err *err) {
    const struct sf_node *n;
    const char *text;
    SF_TRY(sf_map_need(map, key, &n, err));
    SF_TRY(sf_node_str(n, &text, err));
    size_t length = strlen(text);
    if (length == 0 || length >= size) {
        return sf_node_fail(n, err, "expected a name of 1 to %zu bytes, found %zu", size - 1, length);
    }
    memcpy(out, text, length + 1);
    return 0;
}

static int check_domain(const struct sfi_domain *d, const struct sf_node *map, struct sf_err *err) {
    if ((uint64_t)d->trays * d->gpus_per_tray > SFI_MAX_SEATS) {
        return sf_node_fail(map, err, "a domain of %u trays with %u GPUs each is over the limit of %u GPUs", d->trays,
                            d->gpus_per_tray, SFI_MAX_SEATS);
    }
    if (d->nvswitches > d->lanes) {
        return sf_node_fail(sf_map_find(map, "links_per_gpu"), err,
                            "%u links cannot reach all %u switch chips: every GPU needs a link to each", d->lanes,
                            d->nvswitches);
    }
    const struct sf_node *cpu_link = sf_map_find(map, "cpu_link");
    if (cpu_link != NULL && d->cpus_per_tray == 0) {
        return sf_node_fail(cpu_link, err, "a tray without CPUs (cpus_per_tray: 0) has no link to them");
    }
    return 0;
}

static int read_domain(const struct sfi_catalog *c, const struct sf_node *map, struct sf_err *err) {
    static const char *const keys[] = {
        "kind", "trays", "gpus_per_tray", "cpus_per_tray", "nvswitches", "link", "links_per_gpu", "cpu_link", NULL};
    struct sfi_domain *d = &c->t->domain;
    const struct sf_node *link, *cpu_link = sf_map_find(map, "cpu_link");
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(read_name(map, "kind", c->t->kind, sizeof c->t->kind, err));
    SF_TRY(sfi_read_count(map, "trays", 1, SFI_MAX_SEATS, &d->trays, err));
    SF_TRY(sfi_read_count(map, "gpus_per_tray", 1, SFI_MAX_SEATS, &d->gpus_per_tray, err));
    SF_TRY(sfi_read_count(map, "cpus_per_tray", 0, 1024, &d->cpus_per_tray, err));
    SF_TRY(sfi_read_count(map, "nvswitches", 0, 1024, &d->nvswitches, err));
    SF_TRY(sfi_read_count(map, "links_per_gpu", 1, 128, &d->lanes, err));
    SF_TRY(check_domain(d, map, err));
    d->gpus = d->trays * d->gpus_per_tray;
    SF_TRY(sf_map_need(map, "link", &link, err));
    SF_TRY(sfi_catalog_link(c, link, &c->t->up, err));
    return cpu_link != NULL ? sfi_catalog_link(c, cpu_link, &c->t->cpu, err) : 0;
}

static int read_seats(struct sf_topo *t, const struct sf_node *root, struct sf_err *err) {
    const struct sf_node *n = sf_map_find(root, "gpus_in_use");
    SF_TRY(sfi_read_count(root, "domains", 1, SFI_MAX_SEATS, &t->domains, err));
    uint64_t seats = (uint64_t)t->domains * t->domain.gpus;
    if (seats > SFI_MAX_SEATS) {
        return sf_node_fail(sf_map_find(root, "domains"), err, "%u domains of %u GPUs are %llu GPUs; the limit is %u",
                            t->domains, t->domain.gpus, (unsigned long long)seats, SFI_MAX_SEATS);
    }
    t->seats = t->in_use = (uint32_t)seats;
    if (n == NULL) {
        return 0;
    }
    SF_TRY(sfi_read_count(root, "gpus_in_use", 1, SFI_MAX_SEATS, &t->in_use, err));
    return t->in_use <= t->seats ? 0
                                 : sf_node_fail(n, err, "%u GPUs in use, but %u domains of %u GPUs have %u seats",
                                                t->in_use, t->domains, t->domain.gpus, t->seats);
}

/* One domain has no fabric; several need one. */
static int read_scale_out(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err) {
    static const char *const keys[] = {"nic", "rails", "fabric"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys && c->t->domains == 1; i++) {
        const struct sf_node *n = sf_map_find(root, keys[i]);
        if (n != NULL) {
            return sf_node_fail(n, err,
                                "a single domain has no fabric: leave out nic, rails and fabric, or set domains "
                                "to 2 or more");
        }
    }
    if (c->t->domains == 1) {
        return 0;
    }
    const struct sf_node *nic;
    SF_TRY(sf_map_need(root, "nic", &nic, err));
    SF_TRY(sfi_catalog_link(c, nic, &c->t->out, err));
    return sfi_fabric_load(c, root, err);
}

static int read_cluster(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err) {
    static const char *const keys[] = {"name", "device", "domain", "domains",     "gpus_in_use",
                                       "nic",  "rails",  "fabric", "collectives", NULL};
    const struct sf_node *device, *domain;
    SF_TRY(sf_map_only(root, keys, err));
    SF_TRY(read_name(root, "name", c->t->name, sizeof c->t->name, err));
    SF_TRY(sf_map_need(root, "device", &device, err));
    SF_TRY(sfi_catalog_device(c, device, &c->t->device, err));
    SF_TRY(sf_map_need(root, "domain", &domain, err));
    SF_TRY(read_domain(c, domain, err));
    SF_TRY(read_seats(c->t, root, err));
    SF_TRY(sfi_coll_wishes(c->t, sf_map_find(root, "collectives"), err));
    return read_scale_out(c, root, err);
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
