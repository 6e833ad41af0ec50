/* Reading YAML and JSON (libfyaml) with an exact position for every complaint.
 *
 * Aliases and anchors are refused, duplicate keys are refused, unknown keys are refused by sf_map_only, and a quantity
 * without its unit is refused by the typed getters. Nodes are borrowed from the document. */
#ifndef SF_CORE_DOC_H
#define SF_CORE_DOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/io.h"
#include "core/units.h"

struct sf_doc;  /* a parsed file */
struct sf_node; /* a scalar, sequence or mapping inside it */

#define SF_DOC_MAX_BYTES (16u << 20)

int sf_doc_load(const struct sf_io *io, const char *path, struct sf_doc **out, struct sf_err *err);
int sf_doc_parse(const char *text, size_t bytes, const char *name, struct sf_doc **out, struct sf_err *err);
void sf_doc_free(struct sf_doc *doc); /* NULL is legal */
const struct sf_node *sf_doc_root(const struct sf_doc *doc);
const char *sf_doc_name(const struct sf_doc *doc); /* path as given, for error messages and relative paths */

bool sf_node_is_map(const struct sf_node *n);
bool sf_node_is_seq(const struct sf_node *n);
bool sf_node_is_null(const struct sf_node *n);

/* Fail with this node's file:line:column. Code SF_E_INPUT. */
int sf_node_fail(const struct sf_node *n, struct sf_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Mapping access. _find returns NULL when the key is absent; _need fails and names the key and the mapping. */
const struct sf_node *sf_map_find(const struct sf_node *map, const char *key);
int sf_map_need(const struct sf_node *map, const char *key, const struct sf_node **out, struct sf_err *err);
size_t sf_map_size(const struct sf_node *map);
const char *sf_map_key(const struct sf_node *map, size_t i, const struct sf_node **value);
/* Refuse keys that are not in the NULL-terminated list; says which key, where, and the closest known one. */
int sf_map_only(const struct sf_node *map, const char *const keys[], struct sf_err *err);

size_t sf_seq_size(const struct sf_node *seq);
const struct sf_node *sf_seq_at(const struct sf_node *seq, size_t i);

/* Scalars. Each fails with position, what was expected (range included) and what was found. */
int sf_node_str(const struct sf_node *n, const char **out, struct sf_err *err); /* borrowed until sf_doc_free */
int sf_node_i64(const struct sf_node *n, int64_t lo, int64_t hi, int64_t *out, struct sf_err *err);
int sf_node_f64(const struct sf_node *n, double lo, double hi, double *out, struct sf_err *err);
int sf_node_bool(const struct sf_node *n, bool *out, struct sf_err *err);
int sf_node_time(const struct sf_node *n, sf_time_ps *out, struct sf_err *err);
int sf_node_bytes(const struct sf_node *n, uint64_t *out, struct sf_err *err);
int sf_node_rate(const struct sf_node *n, uint64_t *bytes_per_s, struct sf_err *err);
int sf_node_flops(const struct sf_node *n, double *per_s, struct sf_err *err);
int sf_node_power(const struct sf_node *n, double *watts, struct sf_err *err);
/* One of a NULL-terminated list of words; *out is its index. */
int sf_node_word(const struct sf_node *n, const char *const words[], int *out, struct sf_err *err);

#endif
