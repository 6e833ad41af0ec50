/* What a cluster is made of: runs of domains of one kind. */
#include <string.h>

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

int sfi_read_name(const struct sf_node *map, const char *key, char *out, size_t size, struct sf_err *err) {
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

/* Of a NIC or a way to the CPU there is one per GPU. */
static int read_single_link(const struct sfi_catalog *c, const struct sf_node *ref, struct sf_link_class *out,
                            struct sf_err *err) {
    SF_TRY(sfi_catalog_link(c, ref, out, err));
    return out->links == 0 ? 0
                           : sf_node_fail(ref, err,
                                          "%s says links: %u, which belongs to a scale-up link: its rates are of one "
                                          "GPU's only way here",
                                          out->name, out->links);
}

static uint64_t part_of(uint64_t rate, uint32_t links, uint32_t of) {
    uint64_t part = (uint64_t)((unsigned __int128)rate * links / of);
    return part > 0 ? part : 1;
}

/* A GPU with fewer links than its link class speaks of has that part of its rates. */
static int scale_link(struct sfi_stock *s, const struct sf_node *links, struct sf_err *err) {
    struct sf_link_class *l = &s->up;
    uint32_t lanes = s->domain.lanes, of = l->links > 0 ? l->links : 1;
    if (lanes > of) {
        return sf_node_fail(links, err,
                            "expected at most the %u link%s that the rates of %s are of%s, found %u: a GPU with more "
                            "of them needs a link class of its own",
                            of, of == 1 ? "" : "s", l->name, l->links > 0 ? "" : " (its catalog file says no links:)",
                            lanes);
    }
    l->bytes_per_s = part_of(l->bytes_per_s, lanes, of);
    l->peak_bytes_per_s = part_of(l->peak_bytes_per_s, lanes, of);
    l->reduce_bytes_per_s = part_of(l->reduce_bytes_per_s, lanes, of);
    l->links_share = (double)lanes / of;
    return 0;
}

static int read_domain(const struct sfi_catalog *c, const struct sf_node *map, struct sfi_stock *s,
                       struct sf_err *err) {
    static const char *const keys[] = {"kind", "trays",         "gpus_per_tray", "cpus_per_tray", "nvswitches",
                                       "link", "links_per_gpu", "cpu_link",      "gpus_in_use",   NULL};
    struct sfi_domain *d = &s->domain;
    const struct sf_node *link, *cpu_link = sf_map_find(map, "cpu_link");
    SF_TRY(sf_map_only(map, keys, err));
    SF_TRY(sfi_read_name(map, "kind", s->kind, sizeof s->kind, err));
    SF_TRY(sfi_read_count(map, "trays", 1, SFI_MAX_SEATS, &d->trays, err));
    SF_TRY(sfi_read_count(map, "gpus_per_tray", 1, SFI_MAX_SEATS, &d->gpus_per_tray, err));
    SF_TRY(sfi_read_count(map, "cpus_per_tray", 0, 1024, &d->cpus_per_tray, err));
    SF_TRY(sfi_read_count(map, "nvswitches", 0, 1024, &d->nvswitches, err));
    SF_TRY(sfi_read_count(map, "links_per_gpu", 1, SFI_MAX_LANES, &d->lanes, err));
    SF_TRY(check_domain(d, map, err));
    d->gpus = d->in_use = d->trays * d->gpus_per_tray;
    if (sf_map_find(map, "gpus_in_use") != NULL) {
        SF_TRY(sfi_read_count(map, "gpus_in_use", 1, d->gpus, &d->in_use, err));
    }
    SF_TRY(sf_map_need(map, "link", &link, err));
    SF_TRY(sfi_catalog_link(c, link, &s->up, err));
    SF_TRY(scale_link(s, sf_map_find(map, "links_per_gpu"), err));
    return cpu_link != NULL ? read_single_link(c, cpu_link, &s->cpu, err) : 0;
}

/* `map` is the cluster file, or an item of its groups. The NIC is read once it is known whether there is a fabric. */
static int read_stock(const struct sfi_catalog *c, const struct sf_node *map, struct sf_err *err) {
    struct sf_topo *t = c->t;
    struct sfi_stock *s = &t->stock[t->stocks_n];
    const struct sf_node *device, *domain;
    SF_TRY(sf_map_need(map, "device", &device, err));
    SF_TRY(sfi_catalog_device(c, device, s, err));
    SF_TRY(sf_map_need(map, "domain", &domain, err));
    SF_TRY(read_domain(c, domain, s, err));
    SF_TRY(sfi_read_count(map, "domains", 1, SFI_MAX_SEATS, &s->domains, err));
    if (s->domain.gpus != t->stock[0].domain.gpus) {
        return sf_node_fail(domain, err,
                            "domains of %u GPUs beside domains of %u: a seat's number tells its domain, so all groups "
                            "need as many seats per domain; say gpus_in_use for what is not filled",
                            s->domain.gpus, t->stock[0].domain.gpus);
    }
    uint64_t seats = t->seats + (uint64_t)s->domains * s->domain.gpus;
    if (seats > SFI_MAX_SEATS) {
        return sf_node_fail(sf_map_find(map, "domains"), err, "%u domains of %u GPUs are %llu GPUs; the limit is %u",
                            t->domains + s->domains, s->domain.gpus, (unsigned long long)seats, SFI_MAX_SEATS);
    }
    s->first_domain = t->domains;
    t->domains += s->domains;
    t->seats = (uint32_t)seats;
    t->stocks_n++;
    return 0;
}

/* Numbers of parts go on from the stock before. */
static void number_parts(struct sf_topo *t) {
    for (uint32_t i = 1; i < t->stocks_n; i++) {
        const struct sfi_stock *a = &t->stock[i - 1];
        const struct sfi_domain *d = &a->domain;
        struct sfi_stock *s = &t->stock[i];
        s->first_lane = a->first_lane + (uint64_t)a->domains * d->gpus * d->lanes;
        s->first_nvswitch = a->first_nvswitch + (uint64_t)a->domains * d->nvswitches;
        s->first_cpu = a->first_cpu + (uint64_t)a->domains * d->trays * d->cpus_per_tray;
        s->slots_before = a->slots_before + (uint64_t)a->domains * d->in_use;
    }
}

static int read_start(struct sfi_stock *s, const struct sf_node *map, bool first, struct sf_err *err) {
    static const char *const words[] = {"group", "pod", NULL};
    const struct sf_node *n = sf_map_find(map, "starts");
    int word;
    if (n == NULL) {
        return 0;
    }
    if (first) {
        return sf_node_fail(n, err, "the first group starts everything: leave it out");
    }
    SF_TRY(sf_node_word(n, words, &word, err));
    s->starts_group = true;
    s->starts_pod = word == 1;
    return 0;
}

static int read_groups(const struct sfi_catalog *c, const struct sf_node *root, const struct sf_node *groups,
                       struct sf_err *err) {
    static const char *const own[] = {"device", "domain", "domains", "nic"};
    static const char *const keys[] = {"device", "domain", "domains", "nic", "starts", NULL};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        const struct sf_node *n = sf_map_find(root, own[i]);
        if (n != NULL) {
            return sf_node_fail(n, err, "%s stands in each of the groups, not beside them", own[i]);
        }
    }
    size_t n = sf_node_is_seq(groups) ? sf_seq_size(groups) : 0;
    if (n == 0 || n > SFI_MAX_STOCKS) {
        return sf_node_fail(groups, err, "expected a list of 1 to %d groups", SFI_MAX_STOCKS);
    }
    for (size_t i = 0; i < n; i++) {
        const struct sf_node *map = sf_seq_at(groups, i);
        SF_TRY(sf_map_only(map, keys, err));
        SF_TRY(read_start(&c->t->stock[i], map, i == 0, err));
        SF_TRY(read_stock(c, map, err));
    }
    return 0;
}

static int read_nic(const struct sfi_catalog *c, const struct sf_node *map, uint32_t stock, struct sf_err *err) {
    const struct sf_node *nic;
    SF_TRY(sf_map_need(map, "nic", &nic, err));
    return read_single_link(c, nic, &c->t->stock[stock].out, err);
}

/* One domain has no fabric; several need one. */
static int read_nics(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err) {
    static const char *const keys[] = {"nic", "rails", "planes", "fabric"};
    const struct sf_node *groups = sf_map_find(root, "groups");
    for (size_t i = 0; i < sizeof keys / sizeof *keys && c->t->domains == 1; i++) {
        const struct sf_node *n = sf_map_find(i == 0 && groups != NULL ? sf_seq_at(groups, 0) : root, keys[i]);
        if (n != NULL) {
            return sf_node_fail(n, err,
                                "a single domain has no fabric: leave out nic, rails, planes and fabric, or set "
                                "domains to 2 or more");
        }
    }
    for (uint32_t i = 0; i < c->t->stocks_n && c->t->domains > 1; i++) {
        SF_TRY(read_nic(c, groups != NULL ? sf_seq_at(groups, i) : root, i, err));
    }
    return 0;
}

static bool same_link(const struct sf_link_class *a, const struct sf_link_class *b) {
    return a->bytes_per_s == b->bytes_per_s && a->latency_ps == b->latency_ps &&
           a->peak_bytes_per_s == b->peak_bytes_per_s && a->reduce_bytes_per_s == b->reduce_bytes_per_s &&
           a->sharers == b->sharers && a->grade == b->grade;
}

static bool is_alike(const struct sfi_stock *a, const struct sfi_stock *b) {
    return same_link(&a->up, &b->up) && same_link(&a->out, &b->out) && same_link(&a->cpu, &b->cpu) &&
           a->domain.lanes == b->domain.lanes && strcmp(a->coll_model, b->coll_model) == 0 &&
           sfi_same_device(&a->device, &b->device);
}

static void find_alike(struct sf_topo *t) {
    for (uint32_t i = 0; i < t->stocks_n; i++) {
        uint32_t first = 0;
        while (first < i && !is_alike(&t->stock[first], &t->stock[i])) {
            first++;
        }
        t->stock[i].alike = first;
    }
}

int sfi_stocks_load(const struct sfi_catalog *c, const struct sf_node *root, struct sf_err *err) {
    const struct sf_node *groups = sf_map_find(root, "groups");
    SF_TRY(groups != NULL ? read_groups(c, root, groups, err) : read_stock(c, root, err));
    number_parts(c->t);
    memcpy(c->t->coll.model, c->t->stock[0].coll_model, sizeof c->t->coll.model);
    SF_TRY(read_nics(c, root, err));
    find_alike(c->t);
    return 0;
}
