/* Names of links and nodes, as an overlay spells them. Private to topo/. Errors carry no position: the caller has it.
 */
#ifndef SF_TOPO_TOPO_NAME_H
#define SF_TOPO_TOPO_NAME_H

#include "topo/topo_state.h"

/* "17" or "17..20" of n things called `what`. Sets lo and hi alone, like the others here. */
int sfi_parse_run(const char *text, const char *what, uint64_t n, struct sfi_range *out, struct sf_err *err);
/* "leaf 3", "spine 2..5": a range of an enum sfi_set. */
int sfi_parse_switch(const struct sf_topo *t, const char *text, int *set, struct sfi_range *out, struct sf_err *err);
/* "leaf-up 17:3": a range of links of an enum sf_link_kind. */
int sfi_parse_links(const struct sf_topo *t, const char *text, int *kind, struct sfi_range *out, struct sf_err *err);

#endif
