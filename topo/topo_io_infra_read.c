/* InfraGraph files: from names and slices to numbered nodes and edges. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "topo/topo_io_infra.h"

#define MAX_NAMED 1024 /* devices, components, links, instances; each */
#define MAX_LIST ((size_t)1 << 18)
#define MAX_DEPTH 8 /* of devices inside devices */
#define MAX_COUNT ((int64_t)SFI_INFRA_MAX_NODES)

/* ---- small pieces ---- */

static int text_of(const struct sf_node *map, const char *key, const char **out, struct sf_err *err) {
    const struct sf_node *n;
    SF_TRY(sf_map_need(map, key, &n, err));
    return sf_node_str(n, out, err);
}

static int text_or_empty(const struct sf_node *map, const char *key, const char **out, struct sf_err *err) {
    const struct sf_node *n = sf_map_find(map, key);
    *out = "";
    return n == NULL || sf_node_is_null(n) ? 0 : sf_node_str(n, out, err);
}

static int count_of(const struct sf_node *map, uint64_t *out, struct sf_err *err) {
    const struct sf_node *n;
    int64_t count;
    SF_TRY(sf_map_need(map, "count", &n, err));
    SF_TRY(sf_node_i64(n, 0, MAX_COUNT, &count, err));
    *out = (uint64_t)count;
    return 0;
}

/* The list under `key`, which may be absent: then *n is 0. Names are looked up one by one, so few may have one. */
static int list_of(const struct sf_node *map, const char *key, const struct sf_node **out, size_t *n,
                   struct sf_err *err) {
    size_t max = strcmp(key, "edges") == 0 ? MAX_LIST : MAX_NAMED;
    *out = sf_map_find(map, key);
    *n = 0;
    if (*out == NULL || sf_node_is_null(*out)) {
        return 0;
    }
    if (!sf_node_is_seq(*out)) {
        return sf_node_fail(*out, err, "expected a list of %s", key);
    }
    *n = sf_seq_size(*out);
    return *n <= max ? 0 : sf_node_fail(*out, err, "expected at most %zu %s, found %zu", max, key, *n);
}

static int need_map(const struct sf_node *n, const char *what, struct sf_err *err) {
    return sf_node_is_map(n) ? 0 : sf_node_fail(n, err, "expected a mapping that describes %s", what);
}

static void *room(struct sf_arena *arena, size_t n, size_t size, struct sf_err *err) {
    void *p = sf_arena_alloc(arena, n + 1, size);
    if (p == NULL) {
        sf_fail_memory(err, "an InfraGraph file");
    }
    return p;
}

/* ---- links ---- */

struct unit {
    const char *name;
    double factor;
};

/* { choice: gigabits_per_second, gigabits_per_second: 400 }; several units at once are refused. */
static int read_quantity(const struct sf_node *map, const struct unit *units, double *out, struct sf_err *err) {
    const struct sf_node *seen = NULL;
    for (; map != NULL && units->name != NULL; units++) {
        const struct sf_node *n = sf_map_find(map, units->name);
        double value;
        if (n == NULL || sf_node_is_null(n)) {
            continue;
        }
        if (seen != NULL) {
            return sf_node_fail(n, err, "expected one unit, found a second one: %s", units->name);
        }
        SF_TRY(sf_node_f64(n, 0, 1e9, &value, err));
        *out = value * units->factor;
        seen = n;
    }
    return 0;
}

static int read_link(const struct sf_node *n, struct sfi_infra_link *out, struct sf_err *err) {
    static const struct unit rates[] = {{"gigabits_per_second", 1e9 / 8}, {"gigabytes_per_second", 1e9}, {NULL, 0}};
    static const struct unit times[] = {{"ms", 1e6}, {"us", 1e3}, {"ns", 1}, {NULL, 0}};
    double rate = 0, latency = 0;
    SF_TRY(need_map(n, "a link", err));
    out->at = n;
    SF_TRY(text_of(n, "name", &out->name, err));
    SF_TRY(text_or_empty(n, "description", &out->about, err));
    const struct sf_node *physical = sf_map_find(n, "physical");
    if (physical != NULL && !sf_node_is_null(physical)) {
        SF_TRY(need_map(physical, "a link's physics", err));
        const struct sf_node *b = sf_map_find(physical, "bandwidth"), *l = sf_map_find(physical, "latency");
        SF_TRY(read_quantity(b != NULL && sf_node_is_map(b) ? b : NULL, rates, &rate, err));
        SF_TRY(read_quantity(l != NULL && sf_node_is_map(l) ? l : NULL, times, &latency, err));
    }
    out->bytes_per_s = (uint64_t)llround(rate);
    out->latency_ns = latency;
    return 0;
}

static int read_links(struct sf_arena *arena, const struct sf_node *map, struct sfi_infra_link **out, size_t *n,
                      struct sf_err *err) {
    const struct sf_node *list;
    SF_TRY(list_of(map, "links", &list, n, err));
    *out = room(arena, *n, sizeof **out, err);
    for (size_t i = 0; *out != NULL && i < *n; i++) {
        SF_TRY(read_link(sf_seq_at(list, i), &(*out)[i], err));
    }
    return *out != NULL ? 0 : SF_E_INTERNAL;
}

static int find_link(const struct sf_node *edge, const struct sfi_infra_link *links, size_t n,
                     const struct sfi_infra_link **out, struct sf_err *err) {
    const struct sf_node *at;
    const char *name;
    SF_TRY(sf_map_need(edge, "link", &at, err));
    SF_TRY(sf_node_str(at, &name, err));
    for (size_t i = 0; i < n; i++) {
        if (strcmp(links[i].name, name) == 0) {
            *out = &links[i];
            return 0;
        }
    }
    return sf_node_fail(at, err, "expected the name of one of %zu links beside these edges, found \"%.80s\"", n, name);
}

/* ---- slices: "port[0:72:2]", "port[3]", "port" ---- */

struct slice {
    size_t name_bytes;
    uint64_t start, stop, step;
};

static bool take_number(const char **text, uint64_t *out) {
    size_t n = strspn(*text, "0123456789");
    if (n > 0 && n < 12) {
        *out = strtoull(*text, NULL, 10);
    }
    *text += n;
    return n < 12;
}

/* One element of a path; *text is moved behind it. */
static bool take_slice(const char **text, size_t bytes, uint64_t count, struct slice *out) {
    const char *c = *text + bytes;
    *out = (struct slice){bytes, 0, count, 1};
    if (*c == '[') {
        bool range = strchr(c, ':') != NULL && strchr(c, ':') < strchr(c, ']');
        c++;
        if (!take_number(&c, &out->start) || (!range && c[-1] == '[')) {
            return false;
        }
        out->stop = range ? count : out->start + 1;
        if (range && (*c++ != ':' || !take_number(&c, &out->stop))) {
            return false;
        }
        if (*c == ':' && (c++, !take_number(&c, &out->step))) {
            return false;
        }
        if (*c++ != ']') {
            return false;
        }
    }
    *text = c;
    return (*c == '\0' || *c == '.') && out->step > 0 && out->start < out->stop && out->stop <= count;
}

static int fail_slice(const struct sf_node *at, const char *text, uint64_t count, struct sf_err *err) {
    return sf_node_fail(at, err, "expected a slice like name[0:4] within 0 to %llu, found \"%.80s\"",
                        (unsigned long long)count, text);
}

/* A growing list of nodes. */
struct list {
    uint32_t *at;
    size_t n;
};

static int list_resize(struct sfi_infra *g, struct list *l, uint64_t n, const struct sf_node *at, struct sf_err *err) {
    if (n > SFI_INFRA_MAX_EDGES || g->ends_all + n > 4 * SFI_INFRA_MAX_EDGES) {
        return sf_node_fail(at, err, "expected at most %llu ends of an edge when slices are expanded",
                            (unsigned long long)SFI_INFRA_MAX_EDGES);
    }
    g->ends_all += n;
    l->at = room(g->arena, (size_t)n, sizeof *l->at, err);
    l->n = (size_t)n;
    return l->at != NULL ? 0 : SF_E_INTERNAL;
}

/* Every node so far times every index of the slice, in that order. */
static int multiply(struct sfi_infra *g, struct list *l, const struct sfi_infra_component *c, const struct slice *s,
                    const struct sf_node *at, struct sf_err *err) {
    struct list more;
    uint64_t picks = (s->stop - s->start + s->step - 1) / s->step, width = c->device != NULL ? c->device->nodes_n : 1;
    SF_TRY(list_resize(g, &more, l->n * picks, at, err));
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++) {
        for (uint64_t k = s->start; k < s->stop; k += s->step) {
            more.at[n++] = (uint32_t)(l->at[i] + c->first + k * width);
        }
    }
    *l = more;
    return 0;
}

static const struct sfi_infra_component *find_component(const struct sfi_infra_device *d, const char *name, size_t n) {
    for (size_t i = 0; i < d->components_n; i++) {
        if (strlen(d->components[i].name) == n && memcmp(d->components[i].name, name, n) == 0) {
            return &d->components[i];
        }
    }
    return NULL;
}

/* Take path elements until one is no device; *d is the device the next element is of. */
static int expand_path(struct sfi_infra *g, const struct sfi_infra_device **d, const struct sf_node *at, struct list *l,
                       struct sf_err *err) {
    const char *text;
    SF_TRY(sf_node_str(at, &text, err));
    for (const char *c = text;;) {
        size_t n = strcspn(c, "[.");
        const struct sfi_infra_component *component = *d != NULL ? find_component(*d, c, n) : NULL;
        struct slice s;
        if (component == NULL) {
            return sf_node_fail(at, err, "expected a component of device %.60s, found \"%.80s\"",
                                *d != NULL ? (*d)->name : "(none)", text);
        }
        if (!take_slice(&c, n, component->count, &s)) {
            return fail_slice(at, text, component->count, err);
        }
        SF_TRY(multiply(g, l, component, &s, at, err));
        *d = component->device;
        if (*c++ == '\0') {
            return 0;
        }
    }
}

static int expand_component(struct sfi_infra *g, const struct sfi_infra_device *d, const struct sf_node *end,
                            struct list *l, struct sf_err *err) {
    const struct sf_node *component, *device = sf_map_find(end, "device");
    SF_TRY(list_resize(g, l, 1, end, err));
    l->at[0] = 0;
    SF_TRY(sf_map_need(end, "component", &component, err));
    if (device != NULL && !sf_node_is_null(device)) {
        SF_TRY(expand_path(g, &d, device, l, err));
    }
    SF_TRY(expand_path(g, &d, component, l, err));
    return d == NULL
               ? 0
               : sf_node_fail(component, err, "expected a component, found the device %.60s: add .component", d->name);
}

/* ---- pairs of an edge ---- */

struct pairing {
    bool many;
    uint64_t n; /* edges */
};

static int pair_up(struct sfi_infra *g, const struct sf_node *edge, uint64_t a, uint64_t b, struct pairing *out,
                   struct sf_err *err) {
    static const char *const schemes[] = {"one2one", "many2many", NULL};
    const struct sf_node *scheme;
    int word;
    SF_TRY(sf_map_need(edge, "scheme", &scheme, err));
    SF_TRY(sf_node_word(scheme, schemes, &word, err));
    out->many = word == 1;
    out->n = out->many ? a * b : a < b ? a : b;
    g->edges_all += out->n;
    if (g->edges_all > SFI_INFRA_MAX_EDGES) {
        return sf_node_fail(edge, err, "expected at most %llu edges when slices are expanded",
                            (unsigned long long)SFI_INFRA_MAX_EDGES);
    }
    return 0;
}

static size_t first_of(const struct pairing *p, uint64_t i, size_t b) {
    return (size_t)(p->many ? i / b : i);
}

static size_t second_of(const struct pairing *p, uint64_t i, size_t b) {
    return (size_t)(p->many ? i % b : i);
}

/* ---- devices ---- */

static int ends_of(const struct sf_node *edge, const struct sf_node **a, const struct sf_node **b, struct sf_err *err) {
    SF_TRY(need_map(edge, "an edge", err));
    SF_TRY(sf_map_need(edge, "ep1", a, err));
    SF_TRY(sf_map_need(edge, "ep2", b, err));
    SF_TRY(need_map(*a, "an end of an edge", err));
    return need_map(*b, "an end of an edge", err);
}

static int grow_edges(struct sfi_infra *g, struct sfi_infra_device *d, uint64_t more, struct sf_err *err) {
    size_t need = d->edges_n + (size_t)more;
    if (need <= d->edges_capacity) {
        return 0;
    }
    size_t capacity = need > 2 * d->edges_capacity ? need : 2 * d->edges_capacity;
    struct sfi_infra_edge *list = room(g->arena, capacity, sizeof *list, err);
    if (list == NULL) {
        return SF_E_INTERNAL;
    }
    if (d->edges_n > 0) {
        memcpy(list, d->edges, d->edges_n * sizeof *list);
    }
    d->edges = list;
    d->edges_capacity = capacity;
    return 0;
}

static int read_device_edge(struct sfi_infra *g, struct sfi_infra_device *d, const struct sf_node *edge,
                            struct sf_err *err) {
    const struct sf_node *end_a, *end_b;
    const struct sfi_infra_link *link;
    struct list a, b;
    struct pairing p;
    SF_TRY(ends_of(edge, &end_a, &end_b, err));
    SF_TRY(find_link(edge, d->links, d->links_n, &link, err));
    SF_TRY(expand_component(g, d, end_a, &a, err));
    SF_TRY(expand_component(g, d, end_b, &b, err));
    SF_TRY(pair_up(g, edge, a.n, b.n, &p, err));
    SF_TRY(grow_edges(g, d, p.n, err));
    for (uint64_t i = 0; i < p.n; i++) {
        uint32_t from = a.at[first_of(&p, i, b.n)], to = b.at[second_of(&p, i, b.n)];
        if (from != to) {
            d->edges[d->edges_n++] = (struct sfi_infra_edge){from, to, link};
        }
    }
    return 0;
}

static int read_device_edges(struct sfi_infra *g, struct sfi_infra_device *d, struct sf_err *err) {
    const struct sf_node *list;
    size_t n;
    SF_TRY(list_of(d->at, "edges", &list, &n, err));
    for (size_t i = 0; i < n; i++) {
        SF_TRY(read_device_edge(g, d, sf_seq_at(list, i), err));
    }
    return 0;
}

static int read_component(const struct sf_node *n, struct sfi_infra_component *out, struct sf_err *err) {
    static const char *const choices[] = {"custom", "device", "cpu", "xpu", "nic", "memory", "port", "switch", NULL};
    const struct sf_node *choice, *custom = NULL;
    int word;
    SF_TRY(need_map(n, "a component", err));
    out->at = n;
    out->type = "";
    SF_TRY(text_of(n, "name", &out->name, err));
    SF_TRY(text_or_empty(n, "description", &out->about, err));
    SF_TRY(count_of(n, &out->count, err));
    SF_TRY(sf_map_need(n, "choice", &choice, err));
    SF_TRY(sf_node_word(choice, choices, &word, err));
    out->choice = (enum sfi_infra_choice)word;
    if (out->choice == SFI_INFRA_CUSTOM) {
        custom = sf_map_find(n, "custom");
    }
    return custom != NULL && sf_node_is_map(custom) ? text_or_empty(custom, "type", &out->type, err) : 0;
}

static int read_device(struct sfi_infra *g, const struct sf_node *n, struct sfi_infra_device *d, struct sf_err *err) {
    const struct sf_node *list;
    SF_TRY(need_map(n, "a device", err));
    d->at = n;
    SF_TRY(text_of(n, "name", &d->name, err));
    SF_TRY(text_or_empty(n, "description", &d->about, err));
    SF_TRY(list_of(n, "components", &list, &d->components_n, err));
    SF_TRY(read_links(g->arena, n, &d->links, &d->links_n, err));
    d->components = room(g->arena, d->components_n, sizeof *d->components, err);
    if (d->components == NULL) {
        return SF_E_INTERNAL;
    }
    for (size_t i = 0; i < d->components_n; i++) {
        SF_TRY(read_component(sf_seq_at(list, i), &d->components[i], err));
    }
    return 0;
}

static struct sfi_infra_device *find_device(const struct sfi_infra *g, const char *name) {
    for (size_t i = 0; i < g->devices_n; i++) {
        if (strcmp(g->devices[i].name, name) == 0) {
            return &g->devices[i];
        }
    }
    return NULL;
}

static int resolve_device(struct sfi_infra *g, struct sfi_infra_device *d, int depth, struct sf_err *err);

static int resolve_component(struct sfi_infra *g, struct sfi_infra_device *d, struct sfi_infra_component *c, int depth,
                             struct sf_err *err) {
    uint64_t width = 1, nodes;
    if (c->choice == SFI_INFRA_DEVICE) {
        struct sfi_infra_device *inner = find_device(g, c->name);
        if (inner == NULL) {
            return sf_node_fail(c->at, err, "expected the name of a device of this file, found \"%.80s\"", c->name);
        }
        SF_TRY(resolve_device(g, inner, depth + 1, err));
        c->device = inner;
        width = inner->nodes_n;
    }
    c->first = d->nodes_n;
    if (__builtin_mul_overflow(width, c->count, &nodes) || nodes > SFI_INFRA_MAX_NODES - d->nodes_n) {
        return sf_node_fail(c->at, err, "expected at most %llu components in a device",
                            (unsigned long long)SFI_INFRA_MAX_NODES);
    }
    d->nodes_n += nodes;
    return 0;
}

static int resolve_device(struct sfi_infra *g, struct sfi_infra_device *d, int depth, struct sf_err *err) {
    if (d->state == 2) {
        return 0;
    }
    if (d->state == 1 || depth > MAX_DEPTH) {
        return sf_node_fail(d->at, err, "expected devices at most %d deep, found one that holds itself or too many",
                            MAX_DEPTH);
    }
    d->state = 1;
    for (size_t i = 0; i < d->components_n; i++) {
        SF_TRY(resolve_component(g, d, &d->components[i], depth, err));
    }
    d->state = 2;
    return read_device_edges(g, d, err);
}

static int read_devices(struct sfi_infra *g, struct sf_err *err) {
    const struct sf_node *list;
    SF_TRY(list_of(g->root, "devices", &list, &g->devices_n, err));
    g->devices = room(g->arena, g->devices_n, sizeof *g->devices, err);
    if (g->devices == NULL) {
        return SF_E_INTERNAL;
    }
    for (size_t i = 0; i < g->devices_n; i++) {
        SF_TRY(read_device(g, sf_seq_at(list, i), &g->devices[i], err));
    }
    for (size_t i = 0; i < g->devices_n; i++) {
        SF_TRY(resolve_device(g, &g->devices[i], 0, err));
    }
    return 0;
}

/* The last that begins at or before the node: those without any nodes begin where their successor does. */
const struct sfi_infra_component *sfi_infra_component_of(const struct sfi_infra_device *d, uint64_t node) {
    size_t low = 0, high = d->components_n;
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        *(d->components[mid].first <= node ? &low : &high) = mid;
    }
    const struct sfi_infra_component *c = &d->components[low];
    return c->device == NULL ? c : sfi_infra_component_of(c->device, (node - c->first) % c->device->nodes_n);
}

/* ---- instances and the edges between them ---- */

static int read_instance(struct sfi_infra *g, const struct sf_node *n, struct sfi_infra_instance *out,
                         struct sf_err *err) {
    const struct sf_node *device;
    const char *name;
    SF_TRY(need_map(n, "an instance", err));
    out->at = n;
    SF_TRY(text_of(n, "name", &out->name, err));
    SF_TRY(count_of(n, &out->count, err));
    SF_TRY(sf_map_need(n, "device", &device, err));
    SF_TRY(sf_node_str(device, &name, err));
    out->device = find_device(g, name);
    if (out->device == NULL) {
        return sf_node_fail(device, err, "expected the name of a device of this file, found \"%.80s\"", name);
    }
    out->first = g->instances_all;
    g->instances_all += out->count;
    return g->instances_all <= SFI_INFRA_MAX_NODES
               ? 0
               : sf_node_fail(n, err, "expected at most %llu instances", (unsigned long long)SFI_INFRA_MAX_NODES);
}

static int read_instances(struct sfi_infra *g, struct sf_err *err) {
    const struct sf_node *list;
    SF_TRY(list_of(g->root, "instances", &list, &g->instances_n, err));
    g->instances = room(g->arena, g->instances_n, sizeof *g->instances, err);
    if (g->instances == NULL) {
        return SF_E_INTERNAL;
    }
    for (size_t i = 0; i < g->instances_n; i++) {
        SF_TRY(read_instance(g, sf_seq_at(list, i), &g->instances[i], err));
    }
    return 0;
}

const struct sfi_infra_instance *sfi_infra_instance_of(const struct sfi_infra *g, uint32_t number) {
    size_t low = 0, high = g->instances_n;
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        *(g->instances[mid].first <= number ? &low : &high) = mid;
    }
    return &g->instances[low];
}

struct ends {
    const struct sfi_infra_instance *instance;
    struct slice slice; /* of the instance */
    struct list nodes;  /* of its device */
    uint64_t n;
};

static int read_end(struct sfi_infra *g, const struct sf_node *end, struct ends *out, struct sf_err *err) {
    const struct sf_node *at;
    const char *text;
    SF_TRY(sf_map_need(end, "instance", &at, err));
    SF_TRY(sf_node_str(at, &text, err));
    size_t n = strcspn(text, "[.");
    for (size_t i = 0; i < g->instances_n && out->instance == NULL; i++) {
        const struct sfi_infra_instance *in = &g->instances[i];
        out->instance = strlen(in->name) == n && memcmp(in->name, text, n) == 0 ? in : NULL;
    }
    if (out->instance == NULL) {
        return sf_node_fail(at, err, "expected the name of one of %zu instances, found \"%.80s\"", g->instances_n,
                            text);
    }
    const char *c = text;
    if (!take_slice(&c, n, out->instance->count, &out->slice) || *c != '\0') {
        return fail_slice(at, text, out->instance->count, err);
    }
    SF_TRY(expand_component(g, out->instance->device, end, &out->nodes, err));
    out->n = (out->slice.stop - out->slice.start + out->slice.step - 1) / out->slice.step * out->nodes.n;
    return 0;
}

static struct sfi_infra_end end_at(const struct ends *e, size_t i) {
    uint64_t instance = e->instance->first + e->slice.start + i / e->nodes.n * e->slice.step;
    return (struct sfi_infra_end){(uint32_t)instance, e->nodes.at[i % e->nodes.n]};
}

static int grow_cables(struct sfi_infra *g, uint64_t more, struct sf_err *err) {
    size_t need = g->cables_n + (size_t)more;
    if (need <= g->cables_capacity) {
        return 0;
    }
    size_t capacity = need > 2 * g->cables_capacity ? need : 2 * g->cables_capacity;
    struct sfi_infra_cable *list = room(g->arena, capacity, sizeof *list, err);
    if (list == NULL) {
        return SF_E_INTERNAL;
    }
    if (g->cables_n > 0) {
        memcpy(list, g->cables, g->cables_n * sizeof *list);
    }
    g->cables = list;
    g->cables_capacity = capacity;
    return 0;
}

static int read_edge(struct sfi_infra *g, const struct sf_node *edge, struct sf_err *err) {
    const struct sf_node *end_a, *end_b;
    const struct sfi_infra_link *link;
    struct ends a = {0}, b = {0};
    struct pairing p;
    SF_TRY(ends_of(edge, &end_a, &end_b, err));
    SF_TRY(find_link(edge, g->links, g->links_n, &link, err));
    SF_TRY(read_end(g, end_a, &a, err));
    SF_TRY(read_end(g, end_b, &b, err));
    SF_TRY(pair_up(g, edge, a.n, b.n, &p, err));
    SF_TRY(grow_cables(g, p.n, err));
    for (uint64_t i = 0; i < p.n; i++) {
        g->cables[g->cables_n++] = (struct sfi_infra_cable){end_at(&a, first_of(&p, i, (size_t)b.n)),
                                                            end_at(&b, second_of(&p, i, (size_t)b.n)), edge, link};
    }
    return 0;
}

int sfi_infra_parse(const struct sf_doc *doc, struct sf_arena *arena, struct sfi_infra *out, struct sf_err *err) {
    const struct sf_node *root = sf_doc_root(doc), *list;
    size_t n;
    SF_TRY(need_map(root, "an infrastructure", err));
    const struct sf_node *wrapped = sf_map_find(root, "infrastructure");
    *out = (struct sfi_infra){.root = wrapped != NULL && sf_node_is_map(wrapped) ? wrapped : root, .arena = arena};
    SF_TRY(text_or_empty(out->root, "name", &out->name, err));
    SF_TRY(read_links(arena, out->root, &out->links, &out->links_n, err));
    SF_TRY(read_devices(out, err));
    SF_TRY(read_instances(out, err));
    SF_TRY(list_of(out->root, "edges", &list, &n, err));
    for (size_t i = 0; i < n; i++) {
        SF_TRY(read_edge(out, sf_seq_at(list, i), err));
    }
    return 0;
}
