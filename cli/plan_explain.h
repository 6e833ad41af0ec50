/* `plan --explain`: where the time of each plan goes, and what would have to change for a runner-up to win. */
#ifndef SF_CLI_PLAN_EXPLAIN_H
#define SF_CLI_PLAN_EXPLAIN_H

#include <jansson.h>

#include "cli/load.h"
#include "planner/placement.h"
#include "planner/what_if.h"

struct cli_explained {
    const struct sf_plan_result *results; /* best first */
    uint32_t n;
    int objective;
    struct sf_what_if *turns;                      /* of all but the first; owned */
    struct sf_placement seats[SF_PLACEMENTS_MOST]; /* of the first, its own first, and what each is worth */
    double seats_s[SF_PLACEMENTS_MOST];
    uint32_t seats_n;
    struct sf_prog *prog; /* of the first; owned */
};
int cli_explain(struct cli *cli, const struct cli_target *t, const char *kernels, const struct sf_plan_result *results,
                uint32_t n, int objective, struct cli_explained *out);
void cli_explained_clear(struct cli_explained *e);

void cli_print_components(const struct cli_explained *e, struct sf_buf *out);
void cli_print_seats(const struct sf_topo *topo, const struct cli_explained *e, struct sf_buf *out);
/* What the first one's collectives run on, and what that gains over NCCL's own choice. */
void cli_print_picks(const struct sf_cost *cost, const struct cli_explained *e, struct sf_buf *out);
void cli_print_turns(const struct sf_scenario *s, const struct cli_explained *e, const struct sf_search_stats *stats,
                     struct sf_buf *out);
json_t *cli_breakdown_json(const struct sf_breakdown *b);
json_t *cli_turns_json(const struct sf_what_if *w);

#endif
