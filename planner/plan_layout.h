/* How layers are cut, in the notation of Megatron's pipeline layouts: virtual stages in data order between bars, `E`
 * the embedding, `t` a layer, `m` a layer that predicts further, `L` the loss. `*3` repeats what stands before it, a
 * letter or a group in parentheses, which may hold bars: "Et*3|(tt|)*29,m|L". Commas and blanks only part what they
 * part. */
#ifndef SF_PLANNER_PLAN_LAYOUT_H
#define SF_PLANNER_PLAN_LAYOUT_H

#include "core/err.h"
#include "planner/plan.h"

struct sf_layout {
    uint32_t stages; /* virtual ones */
    uint32_t mtp;    /* layers that predict further, in the stage of the loss */
    uint32_t layers[SF_MAX_STAGES];
};

/* SF_E_INPUT says at which character what was expected. The embedding comes first, the loss last; a stage between them
 * has layers. */
int sf_layout_parse(const char *text, struct sf_layout *out, struct sf_err *err);

#endif
