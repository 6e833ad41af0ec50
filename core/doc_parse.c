#include <libfyaml.h>
#include <stdlib.h>
#include <string.h>

#include "core/doc_node.h"

#define MAX_DEPTH 64
#define MAX_NODES ((size_t)1 << 20)
/* Everything in a line may turn out to be a key, so the library keeps hundreds of bytes per token until its end. */
#define MAX_YAML_LINE ((size_t)64 << 10)

/* A container whose end has not been seen. */
struct level {
    struct sf_node *node;
    struct sf_node *first, **tail;
    const char *key; /* mappings: set between a key and its value */
    struct sf_place key_at;
};

struct builder {
    struct sf_doc *doc;
    struct sf_err *err;
    struct sf_place last; /* of what was read last: where to look when the library gives no place */
    struct level stack[MAX_DEPTH];
    size_t depth, nodes_n;
    bool done; /* one document has ended */
    bool json; /* by its name: JSON and nothing more is accepted */
};

static int fail_at(const struct builder *b, struct sf_place at, const char *msg) {
    return sf_fail_at(b->err, SF_E_INPUT, b->doc->name, at.line, at.column, "%s", msg);
}

static struct sf_place place_of_mark(const struct fy_mark *mark) {
    if (mark == NULL) {
        return (struct sf_place){1, 1};
    }
    return (struct sf_place){(uint32_t)mark->line + 1, (uint32_t)mark->column + 1};
}

static struct sf_place place_of(struct fy_event *event) {
    return place_of_mark(fy_event_start_mark(event));
}

static int copy_text(struct builder *b, struct fy_event *event, struct sf_place at, const char **out) {
    size_t bytes = 0;
    const char *text = fy_token_get_text(event->scalar.value, &bytes);
    char *copy = text != NULL || event->scalar.value == NULL ? sf_arena_alloc(b->doc->arena, bytes + 1, 1) : NULL;
    if (copy == NULL) {
        return sf_fail_memory(b->err, "a document");
    }
    if (bytes > 0) {
        memcpy(copy, text, bytes);
    }
    if (strlen(copy) != bytes) {
        return fail_at(b, at, "expected text, found a NUL character in it");
    }
    *out = copy;
    return 0;
}

/* Make a node and hang it where the next value belongs. */
static int add_node(struct builder *b, enum sf_node_kind kind, struct sf_place at, struct sf_node **out) {
    if (++b->nodes_n > MAX_NODES) {
        return sf_fail_at(b->err, SF_E_INPUT, b->doc->name, at.line, at.column, "expected at most %zu values in a file",
                          MAX_NODES);
    }
    struct sf_node *n = sf_arena_alloc(b->doc->arena, 1, sizeof *n);
    if (n == NULL) {
        return sf_fail_memory(b->err, "a document");
    }
    n->doc = b->doc;
    n->kind = kind;
    n->text = "";
    n->at = at;
    if (b->depth == 0) {
        b->doc->root = n;
    } else {
        struct level *up = &b->stack[b->depth - 1];
        n->key = up->key;
        n->key_at = up->key_at;
        up->key = NULL;
        *up->tail = n;
        up->tail = &n->next;
        up->node->children_n++;
    }
    *out = n;
    return 0;
}

static bool expects_key(const struct builder *b) {
    return b->depth > 0 && b->stack[b->depth - 1].node->kind == SF_NODE_MAP && b->stack[b->depth - 1].key == NULL;
}

/* The library's marks of quoted text, anchors and aliases stand behind the quote, "&" or "*". */
static struct sf_place before(struct sf_place at) {
    at.column -= at.column > 1;
    return at;
}

/* A value that was left out has no place of its own: take its key's, or its list's. */
static struct sf_place place_of_missing(const struct builder *b) {
    if (b->depth == 0) {
        return (struct sf_place){1, 1};
    }
    const struct level *up = &b->stack[b->depth - 1];
    return up->key != NULL ? up->key_at : up->node->at;
}

static int take_scalar(struct builder *b, struct fy_event *event) {
    struct fy_token *value = event->scalar.value;
    enum fy_scalar_style style = value != NULL ? fy_token_scalar_style(value) : FYSS_PLAIN;
    struct sf_place at = value != NULL ? place_of(event) : place_of_missing(b);
    if (style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED) {
        at = before(at);
    }
    const char *text = NULL;
    SF_TRY(copy_text(b, event, at, &text));
    if (expects_key(b)) {
        struct level *up = &b->stack[b->depth - 1];
        up->key = text;
        up->key_at = at;
        return 0;
    }
    struct sf_node *n = NULL;
    SF_TRY(add_node(b, style == FYSS_PLAIN ? SF_NODE_PLAIN : SF_NODE_QUOTED, at, &n));
    n->text = text;
    return 0;
}

static int open_container(struct builder *b, enum sf_node_kind kind, struct sf_place at) {
    if (expects_key(b)) {
        return fail_at(b, at, "expected a word as the key, found a list or a mapping");
    }
    if (b->depth == MAX_DEPTH) {
        return sf_fail_at(b->err, SF_E_INPUT, b->doc->name, at.line, at.column, "expected at most %d levels of nesting",
                          MAX_DEPTH);
    }
    struct sf_node *n = NULL;
    SF_TRY(add_node(b, kind, at, &n));
    struct level *l = &b->stack[b->depth++];
    *l = (struct level){.node = n};
    l->tail = &l->first;
    return 0;
}

static int compare_keys(const void *pa, const void *pb) {
    const struct sf_node *a = *(struct sf_node *const *)pa, *b = *(struct sf_node *const *)pb;
    int order = strcmp(a->key, b->key);
    if (order != 0) {
        return order;
    }
    if (a->key_at.line != b->key_at.line) {
        return a->key_at.line < b->key_at.line ? -1 : 1;
    }
    return (a->key_at.column > b->key_at.column) - (a->key_at.column < b->key_at.column);
}

static int sort_keys(struct builder *b, struct sf_node *map) {
    map->by_key = sf_arena_alloc(b->doc->arena, map->children_n, sizeof *map->by_key);
    if (map->by_key == NULL) {
        return sf_fail_memory(b->err, "a document");
    }
    memcpy(map->by_key, map->children, map->children_n * sizeof *map->by_key);
    qsort(map->by_key, map->children_n, sizeof *map->by_key, compare_keys);
    for (size_t i = 1; i < map->children_n; i++) {
        const struct sf_node *first = map->by_key[i - 1], *second = map->by_key[i];
        if (strcmp(first->key, second->key) == 0) {
            return sf_fail_at(b->err, SF_E_INPUT, b->doc->name, second->key_at.line, second->key_at.column,
                              "duplicate key \"%.80s\", first seen in line %u", second->key, first->key_at.line);
        }
    }
    return 0;
}

static int close_container(struct builder *b) {
    struct level *l = &b->stack[--b->depth];
    struct sf_node *n = l->node;
    n->children = sf_arena_alloc(b->doc->arena, n->children_n, sizeof *n->children);
    if (n->children == NULL) {
        return sf_fail_memory(b->err, "a document");
    }
    struct sf_node *child = l->first;
    for (size_t i = 0; i < n->children_n; i++, child = child->next) {
        n->children[i] = child;
    }
    return n->kind == SF_NODE_MAP ? sort_keys(b, n) : 0;
}

static int refuse_properties(const struct builder *b, struct fy_token *anchor, struct fy_token *tag) {
    if (anchor != NULL) {
        return fail_at(b, before(place_of_mark(fy_token_start_mark(anchor))),
                       "anchors are not supported: write the value where it is used");
    }
    if (tag != NULL) {
        return fail_at(b, place_of_mark(fy_token_start_mark(tag)),
                       "tags are not supported: leave out the word that starts with \"!\"");
    }
    return 0;
}

static int start_document(struct builder *b, struct fy_event *event) {
    if (b->done) {
        return fail_at(b, place_of(event), "expected one document, found a second one (\"---\")");
    }
    return 0;
}

static int take_event(struct builder *b, struct fy_event *event) {
    switch (event->type) {
    case FYET_DOCUMENT_START:
        return start_document(b, event);
    case FYET_DOCUMENT_END:
        b->done = true;
        return 0;
    case FYET_ALIAS:
        return fail_at(b, before(place_of(event)), "aliases are not supported: write the value out");
    case FYET_SCALAR:
        SF_TRY(refuse_properties(b, event->scalar.anchor, event->scalar.tag));
        return take_scalar(b, event);
    case FYET_SEQUENCE_START:
        SF_TRY(refuse_properties(b, event->sequence_start.anchor, event->sequence_start.tag));
        return open_container(b, SF_NODE_SEQ, place_of(event));
    case FYET_MAPPING_START:
        SF_TRY(refuse_properties(b, event->mapping_start.anchor, event->mapping_start.tag));
        return open_container(b, SF_NODE_MAP, place_of(event));
    case FYET_SEQUENCE_END:
    case FYET_MAPPING_END:
        return close_container(b);
    default:
        return 0;
    }
}

/* The library's first complaint, under our position. */
static int report(const struct builder *b, struct fy_diag *diag) {
    void *iterator = NULL;
    const struct fy_diag_error *e = fy_diag_errors_iterate(diag, &iterator);
    if (e == NULL || e->msg == NULL) {
        return fail_at(b, b->last, "what follows cannot be read as YAML or JSON");
    }
    return sf_fail_at(b->err, SF_E_INPUT, b->doc->name, e->line > 0 ? (uint32_t)e->line : 1,
                      e->column > 0 ? (uint32_t)e->column : 1, "%s", e->msg);
}

static int run_parser(struct builder *b, struct fy_parser *parser, struct fy_diag *diag) {
    for (;;) {
        struct fy_event *event = fy_parser_parse(parser);
        if (event == NULL) {
            return report(b, diag);
        }
        bool last = event->type == FYET_STREAM_END;
        b->last = place_of(event);
        int rc = take_event(b, event);
        fy_parser_event_free(parser, event);
        if (rc != 0 || last) {
            return rc;
        }
    }
}

/* Errors are collected, never printed. */
static void discard_output(struct fy_diag *diag, void *user, const char *buf, size_t len) {
    (void)diag, (void)user, (void)buf, (void)len;
}

static struct fy_diag *silent_diag(void) {
    struct fy_diag_cfg cfg;
    fy_diag_cfg_default(&cfg);
    cfg.fp = NULL;
    cfg.output_fn = discard_output;
    cfg.colorize = false;
    struct fy_diag *diag = fy_diag_create(&cfg);
    if (diag != NULL) {
        fy_diag_set_collect_errors(diag, true);
    }
    return diag;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static int parse_text(struct builder *b, const char *text, size_t bytes) {
    struct fy_diag *diag = silent_diag();
    struct fy_parse_cfg cfg = {
        .search_path = "",
        .flags = FYPCF_SLOPPY_FLOW_INDENTATION | (b->json ? FYPCF_JSON_FORCE : FYPCF_JSON_NONE),
        .diag = diag,
    };
    struct fy_parser *parser = diag != NULL ? fy_parser_create(&cfg) : NULL;
    int rc;
    if (parser == NULL || fy_parser_set_string(parser, text, bytes) != 0) {
        rc = sf_fail_memory(b->err, "a YAML parser");
    } else {
        rc = run_parser(b, parser, diag);
    }
    fy_parser_destroy(parser);
    fy_diag_destroy(diag);
    return rc;
}

/* Bytes of the character at `s`, 0 if it is not one that YAML allows. The library ends its input there in silence. */
static size_t character(const unsigned char *s, size_t left) {
    if (s[0] < 0x80) {
        return s[0] >= 0x20 ? s[0] != 0x7f : s[0] == '\t' || s[0] == '\n' || s[0] == '\r';
    }
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (s[0] < 0xc2 || s[0] > 0xf4 || n > left) {
        return 0;
    }
    uint32_t c = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = c << 6 | (s[i] & 0x3fu);
    }
    bool excluded = (c < 0xa0 && c != 0x85) || (c >= 0xd800 && c <= 0xdfff) || c == 0xfffe || c == 0xffff;
    return c < smallest[n] || c > 0x10ffff || excluded ? 0 : n;
}

static int check_characters(const struct builder *b, const char *text, size_t bytes) {
    const unsigned char *s = (const unsigned char *)text;
    struct sf_place at = {1, 1};
    for (size_t i = 0, line = 0; i < bytes;) {
        size_t n = character(s + i, bytes - i);
        if (n == 0) {
            return sf_fail_at(b->err, SF_E_INPUT, b->doc->name, at.line, at.column,
                              "expected UTF-8 text, found the byte 0x%02x", s[i]);
        }
        if (!b->json && i - line > MAX_YAML_LINE) {
            return sf_fail_at(b->err, SF_E_INPUT, b->doc->name, at.line, at.column,
                              "expected lines of at most %zu bytes", MAX_YAML_LINE);
        }
        at.column++;
        if (s[i] == '\n') {
            at = (struct sf_place){at.line + 1, 1};
            line = i + 1;
        }
        i += n;
    }
    return 0;
}

static int build(struct builder *b, const char *text, size_t bytes) {
    if (bytes > SF_DOC_MAX_BYTES) {
        return sf_fail_at(b->err, SF_E_INPUT, b->doc->name, 0, 0, "file is too large: expected at most %u bytes",
                          SF_DOC_MAX_BYTES);
    }
    SF_TRY(check_characters(b, text, bytes));
    if (bytes > 0) {
        SF_TRY(parse_text(b, text, bytes));
    }
    if (b->doc->root == NULL) { /* an empty file, or only comments */
        struct sf_node *n = NULL;
        SF_TRY(add_node(b, SF_NODE_PLAIN, (struct sf_place){1, 1}, &n));
    }
    return 0;
}

int sf_doc_parse(const char *text, size_t bytes, const char *name, struct sf_doc **out, struct sf_err *err) {
    *out = NULL;
    struct sf_arena *arena = sf_arena_create();
    struct builder *b = arena != NULL ? sf_arena_alloc(arena, 1, sizeof *b) : NULL;
    struct sf_doc *doc = b != NULL ? sf_arena_alloc(arena, 1, sizeof *doc) : NULL;
    char *own_name = doc != NULL ? sf_arena_strdup(arena, name) : NULL;
    if (own_name == NULL) {
        sf_arena_free(arena);
        return sf_fail_memory(err, "a document");
    }
    doc->arena = arena;
    doc->name = own_name;
    b->doc = doc;
    b->err = err;
    b->json = ends_with(name, ".json");
    b->last = (struct sf_place){1, 1};
    int rc = build(b, text, bytes);
    if (rc != 0) {
        sf_doc_free(doc);
        return rc;
    }
    *out = doc;
    return 0;
}

int sf_doc_load(const struct sf_io *io, const char *path, struct sf_doc **out, struct sf_err *err) {
    char *text = NULL;
    size_t bytes = 0;
    *out = NULL;
    SF_TRY(io->read_all(io->self, path, SF_DOC_MAX_BYTES, &text, &bytes, err));
    int rc = sf_doc_parse(text, bytes, path, out, err);
    sf_free(text);
    return rc;
}

void sf_doc_free(struct sf_doc *doc) {
    if (doc != NULL) {
        sf_arena_free(doc->arena); /* the document itself lives in it */
    }
}
