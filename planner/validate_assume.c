/* What a row leaves unstated, filled from what its framework's release does when it is not told: rules of the catalog's
 * index, each with its reason. What a rule sets is noted in the row, which then counts apart. */
#include <stdio.h>
#include <string.h>

#include "core/doc.h"
#include "planner/validate_internal.h"

/* "column=value" for people, then the reason once per rule. */
static void note(struct sf_validation *v, const char *fmt, const char *a, const char *b) {
    size_t used = strlen(v->assumed);
    snprintf(v->assumed + used, sizeof v->assumed - used, fmt, a, b);
}

static int set_one(const struct sf_node *map, size_t i, bool replace, struct sf_validation *v, bool *changed,
                   struct sf_err *err) {
    const struct sf_node *node;
    const char *column = sf_map_key(map, i, &node), *value;
    bool set = false;
    SF_TRY(sf_node_str(node, &value, err));
    int rc = sfi_case_set(&v->row, column, value, replace, &set);
    if (rc != 0) {
        return sf_node_fail(node, err, "\"%.40s\" cannot be assumed, or not as \"%.40s\"", column, value);
    }
    if (set) {
        note(v, v->assumed[0] == '\0' ? "" : *changed ? ", " : "; ", "", "");
        note(v, "%s=%s", column, value);
        *changed = true;
    }
    return 0;
}

static int set_all(const struct sf_node *rule, const char *key, bool replace, struct sf_validation *v, bool *changed,
                   struct sf_err *err) {
    const struct sf_node *map = sf_map_find(rule, key);
    if (map == NULL) {
        return 0;
    }
    if (!sf_node_is_map(map)) {
        return sf_node_fail(map, err, "expected columns and their values");
    }
    for (size_t i = 0; i < sf_map_size(map); i++) {
        SF_TRY(set_one(map, i, replace, v, changed, err));
    }
    return 0;
}

int sfi_assume(const struct sf_node *rule, struct sf_validation *v, struct sf_err *err) {
    const struct sf_node *because;
    const char *text;
    bool changed = false;
    SF_TRY(sf_map_need(rule, "because", &because, err));
    SF_TRY(sf_node_str(because, &text, err));
    SF_TRY(set_all(rule, "assume", false, v, &changed, err));
    SF_TRY(set_all(rule, "correct", true, v, &changed, err));
    if (changed) {
        note(v, " (%s%s)", text, "");
    }
    return 0;
}
