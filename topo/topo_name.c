/* Names of links and nodes, read back: "leaf-up 17:3", "leaf-up 17:3 (leaf 17 to spine 3), 800 Gb/s", and runs of them:
 * "leaf-up 17:0..5", "leaf-up 17..19" for all ports of three leaves, "17..20" for numbers alone. */
#include <stdio.h>
#include <string.h>

#include "topo/topo_name.h"

static void skip(const char **at, char c) {
    while (**at == c) {
        (*at)++;
    }
}

/* At most 15 digits, so that nothing can overflow; no sign, no leading space. */
static bool number(const char **at, uint64_t *out) {
    const char *from = *at;
    *out = 0;
    while (**at >= '0' && **at <= '9' && *at - from < 15) {
        *out = *out * 10 + (uint64_t)(*(*at)++ - '0');
    }
    return *at > from && !(**at >= '0' && **at <= '9');
}

/* "3" or "3..7". */
static bool run(const char **at, uint64_t *lo, uint64_t *hi) {
    if (!number(at, lo)) {
        return false;
    }
    *hi = *lo;
    if (strncmp(*at, "..", 2) != 0) {
        return true;
    }
    *at += 2;
    return number(at, hi) && *lo <= *hi;
}

static int fail_range(uint64_t hi, uint64_t n, const char *what, struct sf_err *err) {
    return sf_fail(err, SF_E_INPUT, "%s %llu is out of range: there are %llu, numbered from 0", what,
                   (unsigned long long)hi, (unsigned long long)n);
}

int sfi_parse_run(const char *text, const char *what, uint64_t n, struct sfi_range *out, struct sf_err *err) {
    const char *at = text;
    if (!run(&at, &out->lo, &out->hi) || *at != '\0') {
        return sf_fail(err, SF_E_INPUT, "expected a number or a range like 17..20, found \"%.60s\"", text);
    }
    return out->hi < n ? 0 : fail_range(out->hi, n, what, err);
}

/* Length of the longest of `names` that begins `text` and ends at a space; -1 when none does. */
static int word_of(const char *text, const char *(*name)(int), int n, const char **rest) {
    size_t length = strcspn(text, " ");
    for (int i = 0; i < n; i++) {
        if (strlen(name(i)) == length && strncmp(text, name(i), length) == 0) {
            *rest = text + length;
            skip(rest, ' ');
            return i;
        }
    }
    return -1;
}

static const char *node_name(int kind) {
    static const char *const names[] = {
#define X(NAME, name) name,
        SFI_NODES(X)
#undef X
    };
    return names[kind];
}

int sfi_parse_switch(const struct sf_topo *t, const char *text, int *set, struct sfi_range *out, struct sf_err *err) {
    const char *rest;
    switch (word_of(text, node_name, SFI_NODES_N, &rest)) {
    case SFI_NODE_NVSWITCH:
        *set = SFI_SET_NVSWITCH;
        return sfi_parse_run(rest, "nvswitch", sfi_node_count(t, SFI_NODE_NVSWITCH), out, err);
    case SFI_NODE_LEAF:
        *set = SFI_SET_LEAF;
        return sfi_parse_run(rest, "leaf", sfi_node_count(t, SFI_NODE_LEAF), out, err);
    case SFI_NODE_SPINE:
        *set = SFI_SET_SPINE;
        return sfi_parse_run(rest, "spine", sfi_node_count(t, SFI_NODE_SPINE), out, err);
    case SFI_NODE_CORE:
        *set = SFI_SET_CORE;
        return sfi_parse_run(rest, "core", sfi_node_count(t, SFI_NODE_CORE), out, err);
    default:
        return sf_fail(err, SF_E_INPUT, "expected leaf, spine, core or nvswitch and a number, found \"%.60s\"", text);
    }
}

/* How many nodes have links of a kind. */
static uint64_t owners(const struct sf_topo *t, int kind) {
    switch (kind) {
    case SF_LINK_LEAF_UP:
    case SF_LINK_LEAF_DOWN:
        return t->fabric.tiers > 1 ? sfi_node_count(t, SFI_NODE_LEAF) : 0;
    case SF_LINK_SPINE_UP:
    case SF_LINK_SPINE_DOWN:
        return t->fabric.tiers > 2 ? sfi_node_count(t, SFI_NODE_SPINE) : 0;
    case SF_LINK_NIC_UP:
    case SF_LINK_NIC_DOWN:
        return t->fabric.tiers > 0 ? t->seats : 0;
    default:
        return t->seats;
    }
}

/* First index and number of the links of a node; 0 links of a GPU that has none. */
static uint64_t first_index(const struct sf_topo *t, int kind, uint64_t node, uint64_t *ports) {
    const struct sfi_stock *s = sfi_stock_of_gpu(t, node);
    uint64_t index;
    switch (kind) {
    case SF_LINK_C2C_UP:
    case SF_LINK_C2C_DOWN:
        *ports = sfi_c2c_index(t, node, &index);
        return index;
    case SF_LINK_NVLINK_UP:
    case SF_LINK_NVLINK_DOWN:
        *ports = s->domain.lanes;
        return s->first_lane + (node - (uint64_t)s->first_domain * s->domain.gpus) * s->domain.lanes;
    default:
        *ports = sfi_link_ports(t, kind);
        return node * *ports;
    }
}

/* `first` and `last` are nodes; ":ports" narrows one of them. */
static int parse_ports(const struct sf_topo *t, int kind, const char **at, struct sfi_range *out, struct sf_err *err) {
    uint64_t node, last, lo, hi, ports;
    if (!run(at, &node, &last)) {
        return sf_fail(err, SF_E_INPUT, "expected a number, as in \"%s 17\"", sfi_link_kind_name(kind));
    }
    uint64_t n = owners(t, kind);
    if (last >= n) {
        return fail_range(last, n, sfi_link_kind_name(kind), err);
    }
    out->lo = first_index(t, kind, node, &ports);
    out->hi = first_index(t, kind, last, &ports) + ports - 1;
    if (ports == 0) {
        return sf_fail(err, SF_E_INPUT, "gpu %llu has no such link", (unsigned long long)last);
    }
    if (**at != ':') {
        return 0;
    }
    (*at)++;
    if (node != last || !run(at, &lo, &hi)) {
        return sf_fail(err, SF_E_INPUT, "expected a port or a range of ports of one node, as in \"%s 17:0..5\"",
                       sfi_link_kind_name(kind));
    }
    if (hi >= ports) {
        return fail_range(hi, ports, "port", err);
    }
    out->hi = out->lo + hi;
    out->lo += lo;
    return 0;
}

int sfi_parse_links(const struct sf_topo *t, const char *text, int *kind, struct sfi_range *out, struct sf_err *err) {
    const char *at;
    *kind = word_of(text, sfi_link_kind_name, SF_LINK_KINDS_N, &at);
    if (*kind < 0) {
        return sf_fail(err, SF_E_INPUT, "expected a link like \"leaf-up 17:3\", found \"%.60s\"", text);
    }
    SF_TRY(parse_ports(t, *kind, &at, out, err));
    if (*at != '\0' && strncmp(at, " (", 2) != 0) {
        return sf_fail(err, SF_E_INPUT, "unexpected \"%.40s\" behind the name of a link", at);
    }
    return 0;
}

int sf_topo_link_parse(const struct sf_topo *t, const char *text, sf_link *out, struct sf_err *err) {
    struct sfi_range r;
    int kind;
    SF_TRY(sfi_parse_links(t, text, &kind, &r, err));
    if (r.lo != r.hi) {
        return sf_fail(err, SF_E_INPUT, "\"%.60s\" names %llu links, expected one", text,
                       (unsigned long long)(r.hi - r.lo + 1));
    }
    *out = SF_LINK(kind, r.lo);
    struct sfi_end from, to;
    return sfi_link_ends(t, *out, &from, &to)
               ? 0
               : fail_range(r.lo, sf_topo_link_count(t, (enum sf_link_kind)kind), "link", err);
}
