/* XML from outside: a tree of elements and attributes, each with its place. libxml2 does the parsing, with the network
 * off and without entities; size, depth and counts are limited before and while it parses. Text between elements is
 * dropped where elements stand beside it. */
#ifndef SF_TOPO_TOPO_IO_XML_H
#define SF_TOPO_TOPO_IO_XML_H

#include "core/arena.h"
#include "core/err.h"
#include "core/io.h"

#define SFI_XML_MAX_BYTES ((size_t)16 << 20)

struct sfi_xml_attr {
    const char *name, *value;
    struct sfi_xml_attr *next;
};
struct sfi_xml {
    const char *file, *name;
    const char *text; /* between its tags, without elements; "" if none */
    uint32_t line, column;
    struct sfi_xml_attr *attrs;
    struct sfi_xml *parent, *first, *last, *next;
};

/* The tree lives in `arena`. Errors: SF_E_INPUT with file:line:column. */
int sfi_xml_parse(struct sf_arena *arena, const char *file, const char *data, size_t bytes, struct sfi_xml **root,
                  struct sf_err *err);

/* Fail at an element. Returns SF_E_INPUT. */
int sfi_xml_fail(const struct sfi_xml *x, struct sf_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

const char *sfi_xml_find(const struct sfi_xml *x, const char *name); /* NULL when the attribute is absent */
int sfi_xml_need(const struct sfi_xml *x, const char *name, const char **out, struct sf_err *err);
/* A decimal whole number, or with base 16 one in hexadecimal, with or without 0x. */
int sfi_xml_u64(const struct sfi_xml *x, const char *name, int base, uint64_t max, uint64_t *out, struct sf_err *err);
/* Like _u64, with `absent` when there is no such attribute or it is empty. */
int sfi_xml_u64_or(const struct sfi_xml *x, const char *name, int base, uint64_t max, uint64_t absent, uint64_t *out,
                   struct sf_err *err);

/* Next element in document order inside `top`, `top` itself not included; NULL at the end. Start with x = top. */
struct sfi_xml *sfi_xml_next(const struct sfi_xml *top, const struct sfi_xml *x);

#endif
