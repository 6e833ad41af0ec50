/* Graphviz: the cluster as boxes joined by edges that say how many cables they are. Tiers with too many boxes to look
 * at become one box with a count, from the top down. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "topo/topo_io_write.h"

#define MAX_BOXES 200
#define MAX_EDGES 400

typedef uint64_t box; /* kind above, index below, as in links */
#define BOX(kind, index) (((box)(kind) << 56) | (box)(index))
#define BOX_KIND(b) ((int)((b) >> 56))
#define BOX_INDEX(b) ((b) & ((UINT64_C(1) << 56) - 1))
#define BOX_ALL ((UINT64_C(1) << 56) - 1) /* index of a tier drawn as one */
enum { KIND_DOMAIN = 32, KINDS_N };       /* besides those of enum sfi_node_kind */

struct edge {
    box low, high;
    uint64_t cables, dead;
};

struct drawing {
    const struct sf_topo *t;
    struct edge *edges;
    size_t edges_n, capacity;
    box *boxes; /* both ends of every edge, sorted, each once */
    size_t boxes_n;
    bool collapsed[KINDS_N];
};

static int compare_edges(const void *a, const void *b) {
    const struct edge *x = a, *y = b;
    return x->low != y->low ? (x->low < y->low ? -1 : 1) : (x->high > y->high) - (x->high < y->high);
}

static int compare_boxes(const void *a, const void *b) {
    box x = *(const box *)a, y = *(const box *)b;
    return (x > y) - (x < y);
}

static void merge_edges(struct drawing *d) {
    size_t n = 0;
    qsort(d->edges, d->edges_n, sizeof *d->edges, compare_edges);
    for (size_t i = 0; i < d->edges_n; i++) {
        if (n > 0 && compare_edges(&d->edges[n - 1], &d->edges[i]) == 0) {
            d->edges[n - 1].cables += d->edges[i].cables;
            d->edges[n - 1].dead += d->edges[i].dead;
        } else {
            d->edges[n++] = d->edges[i];
        }
    }
    d->edges_n = n;
}

static int add_edge(struct drawing *d, box low, box high, bool dead) {
    if (d->edges_n == d->capacity) {
        size_t capacity = d->capacity > 0 ? 2 * d->capacity : 1024;
        struct edge *more = sf_realloc(d->edges, capacity, sizeof *more);
        if (more == NULL) {
            return -1;
        }
        d->edges = more;
        d->capacity = capacity;
    }
    d->edges[d->edges_n++] = (struct edge){low, high, 1, dead};
    return 0;
}

/* ---- which pod a switch is in: domains, leaves and spines that cables join ---- */

struct pods {
    uint64_t *up; /* union-find over domains, then leaves, then spines */
    uint64_t domains, leaves;
};

static uint64_t find(struct pods *p, uint64_t i) {
    while (p->up[i] != i) {
        p->up[i] = p->up[p->up[i]];
        i = p->up[i];
    }
    return i;
}

/* The smaller index stays the root, so that pods are numbered by their first domain. */
static void join(struct pods *p, uint64_t a, uint64_t b) {
    a = find(p, a);
    b = find(p, b);
    p->up[a > b ? a : b] = a < b ? a : b;
}

static uint64_t place_of(const struct pods *p, const struct sf_topo *t, const struct sfi_end *e) {
    switch (e->kind) {
    case SFI_NODE_GPU:
        return sf_topo_domain(t, (uint32_t)e->index);
    case SFI_NODE_LEAF:
        return p->domains + e->index;
    default:
        return p->domains + p->leaves + e->index;
    }
}

static void join_ends(struct pods *p, const struct sf_topo *t, enum sf_link_kind kind) {
    struct sfi_end from, to;
    for (uint64_t i = 0; i < sf_topo_link_count(t, kind); i++) {
        if (sfi_link_ends(t, SF_LINK(kind, i), &from, &to)) {
            join(p, place_of(p, t, &from), place_of(p, t, &to));
        }
    }
}

static int find_pods(const struct sf_topo *t, struct pods *p) {
    struct sf_topo_counts n;
    sf_topo_count(t, &n);
    *p = (struct pods){.domains = n.domains, .leaves = n.leaves};
    uint64_t all = n.domains + n.leaves + n.spines;
    p->up = sf_calloc(all + 1, sizeof *p->up);
    if (p->up == NULL) {
        return -1;
    }
    for (uint64_t i = 0; i < all; i++) {
        p->up[i] = i;
    }
    join_ends(p, t, SF_LINK_NIC_UP);
    join_ends(p, t, SF_LINK_LEAF_UP);
    return 0;
}

/* The root of pod `pod`; SF_E_INPUT when there are fewer pods. */
static int root_of_pod(struct pods *p, int64_t pod, uint64_t *root, struct sf_err *err) {
    int64_t n = 0;
    for (uint64_t i = 0; i < p->domains; i++) {
        if (find(p, i) == i && n++ == pod) {
            *root = i;
            return 0;
        }
    }
    return sf_fail(err, SF_E_INPUT, "expected a pod from 0 to %" PRId64 ", found %" PRId64, n > 0 ? n - 1 : 0, pod);
}

/* ---- what is drawn ---- */

static int add_links(struct drawing *d, enum sf_link_kind kind, struct pods *p, uint64_t root, struct sf_err *err) {
    struct sfi_end from, to;
    bool by_domain = kind == SF_LINK_NIC_UP;
    uint64_t n = sf_topo_link_count(d->t, kind);
    for (uint64_t i = 0; i < n; i++) {
        if (!sfi_link_ends(d->t, SF_LINK(kind, i), &from, &to) ||
            (p->up != NULL && find(p, place_of(p, d->t, &from)) != root)) {
            continue;
        }
        box low = by_domain ? BOX(KIND_DOMAIN, sf_topo_domain(d->t, (uint32_t)from.index)) : BOX(from.kind, from.index);
        bool dead = sf_topo_link_rate(d->t, SF_LINK(kind, i)) == 0;
        box high = BOX(to.kind, to.index);
        bool down = kind == SF_LINK_C2C_UP; /* CPUs stand below their GPUs */
        if (add_edge(d, down ? high : low, down ? low : high, dead) != 0) {
            return sf_fail_memory(err, "a drawing");
        }
    }
    return 0;
}

/* A single domain is drawn from inside. */
static int collect(struct drawing *d, struct pods *p, uint64_t root, struct sf_err *err) {
    if (sf_topo_switch(d->t) == NULL) {
        SF_TRY(add_links(d, SF_LINK_NVLINK_UP, p, root, err));
        return add_links(d, SF_LINK_C2C_UP, p, root, err);
    }
    SF_TRY(add_links(d, SF_LINK_NIC_UP, p, root, err));
    SF_TRY(add_links(d, SF_LINK_LEAF_UP, p, root, err));
    return add_links(d, SF_LINK_SPINE_UP, p, root, err);
}

static int list_boxes(struct drawing *d, struct sf_err *err) {
    d->boxes = sf_calloc(2 * d->edges_n + 1, sizeof *d->boxes);
    if (d->boxes == NULL) {
        return sf_fail_memory(err, "a drawing");
    }
    size_t n = 0;
    for (size_t i = 0; i < d->edges_n; i++) {
        d->boxes[2 * i] = d->edges[i].low;
        d->boxes[2 * i + 1] = d->edges[i].high;
    }
    qsort(d->boxes, 2 * d->edges_n, sizeof *d->boxes, compare_boxes);
    for (size_t i = 0; i < 2 * d->edges_n; i++) {
        if (n == 0 || d->boxes[n - 1] != d->boxes[i]) {
            d->boxes[n++] = d->boxes[i];
        }
    }
    d->boxes_n = n;
    return 0;
}

static uint64_t members(const struct drawing *d, int kind) {
    uint64_t n = 0;
    for (size_t i = 0; i < d->boxes_n; i++) {
        n += BOX_KIND(d->boxes[i]) == kind;
    }
    return n;
}

static size_t boxes_drawn(const struct drawing *d) {
    size_t n = 0;
    bool seen[KINDS_N] = {false};
    for (size_t i = 0; i < d->boxes_n; i++) {
        int kind = BOX_KIND(d->boxes[i]);
        n += !d->collapsed[kind] || !seen[kind];
        seen[kind] = true;
    }
    return n;
}

/* One tier more is drawn as one box; the lists of boxes stay whole, to count from. */
static void collapse(struct drawing *d, int kind) {
    d->collapsed[kind] = true;
    for (size_t i = 0; i < d->edges_n; i++) {
        struct edge *e = &d->edges[i];
        e->low = BOX_KIND(e->low) == kind ? BOX(kind, BOX_ALL) : e->low;
        e->high = BOX_KIND(e->high) == kind ? BOX(kind, BOX_ALL) : e->high;
    }
    merge_edges(d);
}

static void collapse_until_it_fits(struct drawing *d) {
    static const int order[] = {SFI_NODE_CORE,     SFI_NODE_SPINE, SFI_NODE_LEAF, KIND_DOMAIN,
                                SFI_NODE_NVSWITCH, SFI_NODE_CPU,   SFI_NODE_GPU};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        if (d->edges_n <= MAX_EDGES && boxes_drawn(d) <= MAX_BOXES) {
            return;
        }
        collapse(d, order[i]);
    }
}

/* ---- text ---- */

static void print_quoted(struct sf_buf *out, const char *text) {
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') {
            sf_buf_write(out, "\\", 1);
        }
        sf_buf_write(out, (unsigned char)*c < ' ' ? " " : c, 1);
    }
}

static const char *kind_name(int kind) {
    static const char *const names[] = {"GPU", "CPU", "switch chip", "memory", "leaf", "spine", "core"};
    return names[kind]; /* enum sfi_node_kind */
}

static void print_name(struct sf_buf *out, box b) {
    static const char letters[] = "gcxmlsk"; /* enum sfi_node_kind */
    char letter = BOX_KIND(b) == KIND_DOMAIN ? 'd' : letters[BOX_KIND(b)];
    if (BOX_INDEX(b) == BOX_ALL) {
        sf_buf_printf(out, "%c_all", letter);
    } else {
        sf_buf_printf(out, "%c%" PRIu64, letter, BOX_INDEX(b));
    }
}

/* "nvl72 3" and its GPUs; all of a tier: "3,056 domains", for there may be several kinds. */
static void print_domains(const struct drawing *d, box b, uint64_t n, struct sf_buf *out) {
    char count[32];
    uint32_t gpus = sf_topo_domain_gpus(d->t);
    bool all = BOX_INDEX(b) == BOX_ALL, one_kind = sf_topo_stocks(d->t) == 1;
    struct sf_stock stock;
    sf_topo_stock(d->t, all ? 0 : sf_topo_stock_of(d->t, (uint32_t)BOX_INDEX(b) * gpus), &stock);
    if (all) {
        sf_buf_printf(out, "%s x ", sf_format_count(n, count, sizeof count));
        print_quoted(out, one_kind ? stock.kind : "domain");
    } else {
        print_quoted(out, stock.kind);
        sf_buf_printf(out, " %" PRIu64, BOX_INDEX(b));
    }
    sf_buf_printf(out, "\\n%s x ", sf_format_count(n * gpus, count, sizeof count));
    print_quoted(out, all && !one_kind ? "GPU" : stock.device->name);
}

static void print_box(const struct drawing *d, box b, struct sf_buf *out) {
    char count[32];
    int kind = BOX_KIND(b);
    bool all = BOX_INDEX(b) == BOX_ALL;
    uint64_t n = all ? members(d, kind) : 1;
    sf_buf_printf(out, "    ");
    print_name(out, b);
    sf_buf_printf(out, " [label=\"");
    if (kind == KIND_DOMAIN) {
        print_domains(d, b, n, out);
    } else if (all) {
        sf_buf_printf(out, "%s x %s", sf_format_count(n, count, sizeof count), kind_name(kind));
    } else {
        sf_buf_printf(out, "%s %" PRIu64, kind_name(kind), BOX_INDEX(b));
    }
    sf_buf_printf(out, "\"%s];\n", all ? ", peripheries=2" : "");
}

/* No label: one cable. */
static void print_edge(const struct edge *e, struct sf_buf *out) {
    char count[32];
    sf_buf_printf(out, "  ");
    print_name(out, e->low);
    sf_buf_printf(out, " -- ");
    print_name(out, e->high);
    if (e->cables > 1 || e->dead > 0) {
        sf_buf_printf(out, " [label=\"%s", sf_format_count(e->cables, count, sizeof count));
        if (e->dead > 0) {
            sf_buf_printf(out, ", %s dead", sf_format_count(e->dead, count, sizeof count));
        }
        sf_buf_printf(out, "\"%s]", e->dead > 0 ? ", color=red, fontcolor=red" : "");
    }
    sf_buf_printf(out, ";\n");
}

static const char *fill(int kind) {
    switch (kind) {
    case SFI_NODE_LEAF:
    case SFI_NODE_NVSWITCH:
        return "#d9f0dd";
    case SFI_NODE_SPINE:
        return "#fdf0c8";
    case SFI_NODE_CORE:
        return "#f9dcd8";
    default:
        return "#dde8fb";
    }
}

/* Boxes of one tier stand in one row, and edges that nobody sees keep them in order. */
static void print_tier(const struct drawing *d, int kind, struct sf_buf *out) {
    if (members(d, kind) == 0) {
        return;
    }
    sf_buf_printf(out, "  { rank=same; node [fillcolor=\"%s\"];\n", fill(kind));
    if (d->collapsed[kind]) {
        print_box(d, BOX(kind, BOX_ALL), out);
    }
    size_t first = d->boxes_n, last = 0;
    for (size_t i = 0; i < d->boxes_n && !d->collapsed[kind]; i++) {
        if (BOX_KIND(d->boxes[i]) == kind) {
            print_box(d, d->boxes[i], out);
            first = first == d->boxes_n ? i : first;
            last = i;
        }
    }
    for (size_t i = first; i < last; i++) {
        sf_buf_printf(out, i == first ? "    " : " -- ");
        print_name(out, d->boxes[i]);
    }
    if (first < last) {
        sf_buf_printf(out, " -- ");
        print_name(out, d->boxes[last]);
        sf_buf_printf(out, " [style=invis];\n");
    }
    sf_buf_printf(out, "  }\n");
}

static void print_drawing(const struct drawing *d, int64_t pod, struct sf_buf *out) {
    static const int tiers[] = {SFI_NODE_CPU,      SFI_NODE_GPU,  KIND_DOMAIN,    SFI_NODE_MEMORY,
                                SFI_NODE_NVSWITCH, SFI_NODE_LEAF, SFI_NODE_SPINE, SFI_NODE_CORE};
    sf_buf_printf(out, "graph \"");
    print_quoted(out, sf_topo_name(d->t));
    sf_buf_printf(
        out, "\" {\n  graph [rankdir=BT, ranksep=2, nodesep=0.4, splines=polyline, fontname=\"sans-serif\", label=\"");
    print_quoted(out, sf_topo_name(d->t));
    if (pod >= 0) {
        sf_buf_printf(out, ", pod %" PRId64, pod);
    }
    sf_buf_printf(
        out, "\"];\n  node [shape=box, style=filled, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\"];\n");
    for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++) {
        print_tier(d, tiers[i], out);
    }
    for (size_t i = 0; i < d->edges_n; i++) {
        print_edge(&d->edges[i], out);
    }
    sf_buf_printf(out, "}\n");
}

static int draw(struct drawing *d, struct pods *p, int64_t pod, struct sf_buf *out, struct sf_err *err) {
    uint64_t root = 0;
    if (pod >= 0 && find_pods(d->t, p) != 0) {
        return sf_fail_memory(err, "a drawing");
    }
    if (pod >= 0) {
        SF_TRY(root_of_pod(p, pod, &root, err));
    }
    SF_TRY(collect(d, p, root, err));
    merge_edges(d);
    SF_TRY(list_boxes(d, err));
    collapse_until_it_fits(d);
    print_drawing(d, pod, out);
    return 0;
}

int sfi_dot_write(const struct sf_topo *t, int64_t pod, struct sf_buf *out, struct sf_err *err) {
    struct drawing d = {.t = t};
    struct pods p = {0};
    if (pod >= 0 && sf_topo_switch(t) == NULL) {
        return sf_fail(err, SF_E_INPUT, "%s has one domain and no pods", sf_topo_name(t));
    }
    int rc = draw(&d, &p, pod, out, err);
    sf_free(p.up);
    sf_free(d.edges);
    sf_free(d.boxes);
    return rc;
}
