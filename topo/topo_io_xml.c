/* libxml2 calls back for every tag; the tree is ours, so that nothing is allocated without a limit. */
#include "topo/topo_io_xml.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libxml/parser.h>
#include <libxml/parserInternals.h>

#define MAX_DEPTH 64
#define MAX_ELEMENTS ((size_t)1 << 18)
#define MAX_ATTRS 64
#define MAX_VALUE 4096
#define MAX_TEXT ((size_t)1 << 16) /* of one element */

struct parse {
    struct sf_arena *arena;
    struct sf_err *err;
    const char *file, *data;
    size_t bytes;
    size_t seen; /* bytes whose lines are counted */
    uint32_t line, column;
    xmlParserCtxtPtr ctxt;
    struct sfi_xml *root, *open;
    struct sf_buf text; /* of the open element */
    size_t depth, elements_n;
    int rc;
};

/* Line and column of a byte; bytes are asked for in order. */
static void locate(struct parse *p, size_t at) {
    if (at < p->seen) {
        p->seen = 0;
        p->line = p->column = 1;
    }
    for (; p->seen < at && p->seen < p->bytes; p->seen++) {
        bool newline = p->data[p->seen] == '\n';
        p->line += newline;
        p->column = newline ? 1 : p->column + 1;
    }
}

static size_t consumed(const struct parse *p) {
    long n = xmlByteConsumed(p->ctxt);
    return n < 0 ? 0 : (size_t)n < p->bytes ? (size_t)n : p->bytes;
}

/* The parser stands at the end of a tag; a "<" cannot be inside one. */
static void locate_tag(struct parse *p) {
    size_t at = consumed(p);
    while (at > 0 && (at == p->bytes || p->data[at] != '<')) {
        at--;
    }
    locate(p, at);
}

static int stop(struct parse *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int stop(struct parse *p, const char *fmt, ...) {
    char msg[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    if (p->rc == 0) {
        p->rc = sf_fail_at(p->err, SF_E_INPUT, p->file, p->line, p->column, "%s", msg);
        xmlStopParser(p->ctxt);
    }
    return p->rc;
}

static void stop_memory(struct parse *p) {
    if (p->rc == 0) {
        p->rc = sf_fail_memory(p->err, "an XML file");
        xmlStopParser(p->ctxt);
    }
}

static char *copy(struct parse *p, const xmlChar *text, size_t bytes) {
    char *out = sf_arena_alloc(p->arena, bytes + 1, 1);
    if (out == NULL) {
        stop_memory(p);
        return NULL;
    }
    memcpy(out, text, bytes);
    return out;
}

static struct sfi_xml *new_element(struct parse *p, const xmlChar *name) {
    struct sfi_xml *x = sf_arena_alloc(p->arena, 1, sizeof *x);
    char *own = x != NULL ? copy(p, name, strlen((const char *)name)) : NULL;
    if (own == NULL) {
        stop_memory(p);
        return NULL;
    }
    *x = (struct sfi_xml){
        .file = p->file, .name = own, .text = "", .line = p->line, .column = p->column, .parent = p->open};
    return x;
}

static void hang(struct parse *p, struct sfi_xml *x) {
    if (p->open == NULL) {
        p->root = x;
    } else if (p->open->last == NULL) {
        p->open->first = p->open->last = x;
    } else {
        p->open->last->next = x;
        p->open->last = x;
    }
}

/* libxml2 gives five pointers per attribute: name, prefix, namespace, value, end of value. */
static void read_attrs(struct parse *p, struct sfi_xml *x, size_t n, const xmlChar **attrs) {
    struct sfi_xml_attr **tail = &x->attrs;
    for (size_t i = 0; i < n && p->rc == 0; i++) {
        const xmlChar **a = attrs + 5 * i;
        size_t bytes = (size_t)(a[4] - a[3]);
        if (bytes > MAX_VALUE) {
            stop(p, "expected values of at most %d bytes, found %zu in attribute \"%.60s\"", MAX_VALUE, bytes,
                 (const char *)a[0]);
            return;
        }
        struct sfi_xml_attr *attr = sf_arena_alloc(p->arena, 1, sizeof *attr);
        char *name = attr != NULL ? copy(p, a[0], strlen((const char *)a[0])) : NULL;
        char *value = name != NULL ? copy(p, a[3], bytes) : NULL;
        if (value == NULL) {
            stop_memory(p);
            return;
        }
        *attr = (struct sfi_xml_attr){name, value, NULL};
        *tail = attr;
        tail = &attr->next;
    }
}

static void start_element(void *self, const xmlChar *name, const xmlChar *prefix, const xmlChar *uri, int namespaces_n,
                          const xmlChar **namespaces, int attrs_n, int defaulted_n, const xmlChar **attrs) {
    struct parse *p = self;
    (void)prefix, (void)uri, (void)namespaces_n, (void)namespaces, (void)defaulted_n;
    if (p->rc != 0) {
        return;
    }
    locate_tag(p);
    if (++p->depth > MAX_DEPTH) {
        stop(p, "expected elements at most %d deep", MAX_DEPTH);
    } else if (++p->elements_n > MAX_ELEMENTS) {
        stop(p, "expected at most %zu elements in a file", MAX_ELEMENTS);
    }
    struct sfi_xml *x = p->rc == 0 ? new_element(p, name) : NULL;
    if (x == NULL) {
        return;
    }
    read_attrs(p, x, (size_t)attrs_n, attrs);
    hang(p, x);
    p->open = x;
    p->text.bytes = 0;
}

static bool is_blank(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (strchr(" \t\r\n", text[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static void end_element(void *self, const xmlChar *name, const xmlChar *prefix, const xmlChar *uri) {
    struct parse *p = self;
    (void)name, (void)prefix, (void)uri;
    if (p->rc != 0 || p->open == NULL) {
        return;
    }
    if (p->open->first == NULL && !is_blank(p->text.data, p->text.bytes)) {
        const char *text = copy(p, (const xmlChar *)p->text.data, p->text.bytes);
        p->open->text = text != NULL ? text : "";
    }
    p->text.bytes = 0;
    p->open = p->open->parent;
    p->depth--;
}

static void characters(void *self, const xmlChar *text, int bytes) {
    struct parse *p = self;
    if (p->rc != 0 || p->open == NULL || bytes <= 0) {
        return;
    }
    if (p->text.bytes + (size_t)bytes > MAX_TEXT) {
        locate(p, consumed(p));
        stop(p, "expected at most %zu bytes of text in an element", MAX_TEXT);
        return;
    }
    sf_buf_write(&p->text, text, (size_t)bytes);
    if (p->text.failed) {
        stop_memory(p);
    }
}

/* Entities are how a kilobyte becomes a gigabyte, and no topology file needs one. */
static void refuse_entity(struct parse *p) {
    locate(p, consumed(p));
    stop(p, "expected a file without entities and declarations of its own; take the <!...> lines inside DOCTYPE out");
}

static void entity_decl(void *self, const xmlChar *name, int type, const xmlChar *public_id, const xmlChar *system_id,
                        xmlChar *content) {
    (void)name, (void)type, (void)public_id, (void)system_id, (void)content;
    refuse_entity(self);
}

static void attribute_decl(void *self, const xmlChar *element, const xmlChar *name, int type, int preset,
                           const xmlChar *value, xmlEnumerationPtr tree) {
    (void)element, (void)name, (void)type, (void)preset, (void)value;
    xmlFreeEnumeration(tree); /* the callback owns it */
    refuse_entity(self);
}

static void element_decl(void *self, const xmlChar *name, int type, xmlElementContentPtr content) {
    (void)name, (void)type, (void)content;
    refuse_entity(self);
}

/* One line, without libxml2's full stop and newline. */
static void complain(void *self, xmlErrorPtr e) {
    struct parse *p = self;
    if (p->rc != 0 || e->level < XML_ERR_ERROR) {
        return;
    }
    const char *msg = e->message != NULL ? e->message : "not well-formed";
    locate(p, consumed(p));
    p->line = e->line > 0 ? (uint32_t)e->line : p->line;
    stop(p, "expected well-formed XML: %.*s", (int)strcspn(msg, "\n"), msg);
}

static xmlSAXHandler handler(void) {
    return (xmlSAXHandler){
        .initialized = XML_SAX2_MAGIC,
        .startElementNs = start_element,
        .endElementNs = end_element,
        .characters = characters,
        .ignorableWhitespace = characters,
        .cdataBlock = characters,
        .entityDecl = entity_decl,
        .attributeDecl = attribute_decl,
        .elementDecl = element_decl,
        .serror = complain,
    };
}

/* Only UTF-8 is read, so that a byte is what it seems to be. */
static int check_bytes(struct parse *p) {
    const char *nul = memchr(p->data, '\0', p->bytes);
    if (p->bytes > SFI_XML_MAX_BYTES) {
        return sf_fail_at(p->err, SF_E_INPUT, p->file, 0, 0, "expected at most %zu bytes of XML, found %zu",
                          SFI_XML_MAX_BYTES, p->bytes);
    }
    if (nul != NULL) {
        locate(p, (size_t)(nul - p->data));
        return sf_fail_at(p->err, SF_E_INPUT, p->file, p->line, p->column,
                          "expected XML in UTF-8, found a NUL byte (UTF-16?)");
    }
    return 0;
}

/* Behind what is no tag: comments, sections and instructions hold anything. `at` itself for a tag. */
static size_t skip_others(const struct parse *p, size_t at) {
    static const char *const ends[][2] = {{"<!--", "-->"}, {"<![CDATA[", "]]>"}, {"<?", "?>"}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i][0]), left = p->bytes - at;
        if (left >= n && memcmp(p->data + at, ends[i][0], n) == 0) {
            const char *end = memmem(p->data + at + n, left - n, ends[i][1], strlen(ends[i][1]));
            return end != NULL ? (size_t)(end - p->data) + strlen(ends[i][1]) : p->bytes;
        }
    }
    return at;
}

/* libxml2 compares all attributes of a tag with each other before it shows them: a tag of a million takes hours. */
static int check_tags(struct parse *p) {
    size_t tag = 0, behind;
    int attrs_n = 0;
    char quote = '\0';
    bool inside = false;
    for (size_t i = 0; i < p->bytes; i++) {
        char c = p->data[i];
        if (quote != '\0') {
            quote = c == quote ? '\0' : quote;
        } else if (c == '<') {
            behind = skip_others(p, i);
            inside = behind == i;
            tag = i;
            attrs_n = 0;
            i = inside ? i : behind - 1;
        } else if (c == '>') {
            inside = false;
        } else if (inside && (c == '"' || c == '\'')) {
            quote = c;
        } else if (inside && c == '=' && ++attrs_n > MAX_ATTRS) {
            locate(p, tag);
            return sf_fail_at(p->err, SF_E_INPUT, p->file, p->line, p->column,
                              "expected at most %d attributes in an element, found more", MAX_ATTRS);
        }
    }
    return 0;
}

static int run(struct parse *p) {
    xmlSAXHandler sax = handler();
    p->ctxt = xmlCreateMemoryParserCtxt(p->data, (int)p->bytes);
    if (p->ctxt == NULL) {
        return p->bytes < 4 ? sf_fail_at(p->err, SF_E_INPUT, p->file, 1, 1, "expected XML, found an empty file")
                            : sf_fail_memory(p->err, "an XML file");
    }
    xmlSAXHandlerPtr own = p->ctxt->sax;
    p->ctxt->sax = &sax;
    p->ctxt->userData = p;
    xmlCtxtUseOptions(p->ctxt, XML_PARSE_NONET | XML_PARSE_IGNORE_ENC);
    xmlParseDocument(p->ctxt);
    bool whole = p->ctxt->wellFormed != 0;
    p->ctxt->sax = own;
    if (p->ctxt->myDoc != NULL) {
        xmlFreeDoc(p->ctxt->myDoc);
    }
    xmlFreeParserCtxt(p->ctxt);
    if (p->rc == 0 && (!whole || p->root == NULL)) {
        p->rc = sf_fail_at(p->err, SF_E_INPUT, p->file, 1, 1, "expected well-formed XML");
    }
    return p->rc;
}

int sfi_xml_parse(struct sf_arena *arena, const char *file, const char *data, size_t bytes, struct sfi_xml **root,
                  struct sf_err *err) {
    struct parse p = {.arena = arena, .err = err, .file = file, .data = data, .bytes = bytes, .line = 1, .column = 1};
    SF_TRY(check_bytes(&p));
    SF_TRY(check_tags(&p));
    int rc = run(&p);
    sf_buf_free(&p.text);
    *root = p.root;
    return rc;
}

int sfi_xml_fail(const struct sfi_xml *x, struct sf_err *err, const char *fmt, ...) {
    char msg[768];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    return sf_fail_at(err, SF_E_INPUT, x->file, x->line, x->column, "%s", msg);
}

const char *sfi_xml_find(const struct sfi_xml *x, const char *name) {
    for (const struct sfi_xml_attr *a = x->attrs; a != NULL; a = a->next) {
        if (strcmp(a->name, name) == 0) {
            return a->value;
        }
    }
    return NULL;
}

int sfi_xml_need(const struct sfi_xml *x, const char *name, const char **out, struct sf_err *err) {
    *out = sfi_xml_find(x, name);
    return *out != NULL ? 0 : sfi_xml_fail(x, err, "expected attribute \"%s\" in <%.60s>", name, x->name);
}

static bool parse_u64(const char *text, int base, uint64_t *out) {
    const char *digits = base == 16 ? "0123456789abcdefABCDEFxX" : "0123456789";
    size_t n = strlen(text);
    char *end = NULL;
    if (n == 0 || strspn(text, digits) != n) {
        return false;
    }
    errno = 0;
    *out = strtoull(text, &end, base);
    return errno == 0 && *end == '\0';
}

int sfi_xml_u64(const struct sfi_xml *x, const char *name, int base, uint64_t max, uint64_t *out, struct sf_err *err) {
    const char *text;
    SF_TRY(sfi_xml_need(x, name, &text, err));
    if (!parse_u64(text, base, out) || *out > max) {
        return sfi_xml_fail(x, err, "expected a %s number from 0 to %llu in %s, found \"%.40s\"",
                            base == 16 ? "hexadecimal" : "whole", (unsigned long long)max, name, text);
    }
    return 0;
}

int sfi_xml_u64_or(const struct sfi_xml *x, const char *name, int base, uint64_t max, uint64_t absent, uint64_t *out,
                   struct sf_err *err) {
    const char *text = sfi_xml_find(x, name);
    if (text == NULL || *text == '\0') {
        *out = absent;
        return 0;
    }
    return sfi_xml_u64(x, name, base, max, out, err);
}

struct sfi_xml *sfi_xml_next(const struct sfi_xml *top, const struct sfi_xml *x) {
    if (x->first != NULL) {
        return x->first;
    }
    while (x != top && x->next == NULL) {
        x = x->parent;
    }
    return x == top ? NULL : x->next;
}
