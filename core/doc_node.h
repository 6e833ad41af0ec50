/* The document tree, shared by the parser and the getters. Nodes are copied out of libfyaml's event stream. */
#ifndef SF_CORE_DOC_NODE_H
#define SF_CORE_DOC_NODE_H

#include "core/arena.h"
#include "core/doc.h"

enum sf_node_kind { SF_NODE_PLAIN, SF_NODE_QUOTED, SF_NODE_SEQ, SF_NODE_MAP };

struct sf_place {
    uint32_t line, column; /* 1-based */
};

struct sf_node {
    const struct sf_doc *doc;
    enum sf_node_kind kind;
    struct sf_place at;
    const char *text; /* of a scalar, no NUL inside; else "" */
    const char *key;  /* NULL unless it is a value of a mapping */
    struct sf_place key_at;
    struct sf_node *next;      /* sibling */
    struct sf_node **children; /* in file order */
    struct sf_node **by_key;   /* mappings: the same nodes sorted by key */
    size_t children_n;
};

struct sf_doc {
    struct sf_arena *arena;
    const char *name;
    struct sf_node *root;
};

#endif
