#include "cli/sources.h"

#include <string.h>

#include "sim/coll.h"

const char *cli_times_word(const struct sf_cost *cost) {
    const struct sf_coll *coll = sf_cost_coll(cost);
    return coll == NULL ? "rings" : sf_coll_by_nccl(coll) ? "nccl" : "steps";
}

const char *cli_times_text(const struct sf_cost *cost) {
    const struct sf_coll *coll = sf_cost_coll(cost);
    return coll != NULL && sf_coll_by_nccl(coll)
               ? "what NCCL's tuning model expects; all_to_all and messages, which it does not tune, by their steps"
               : NULL;
}

json_t *cli_sources_json(const struct sf_topo *t) {
    const struct sf_source *sources = NULL;
    size_t n = t != NULL ? sf_topo_sources(t, &sources) : 0;
    json_t *out = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(out,
                              json_pack("{s:o, s:o, s:s, s:o}", "item", cli_json_text(sources[i].item), "value",
                                        cli_json_text(sources[i].value), "grade", sf_grade_name((int)sources[i].grade),
                                        "source", cli_json_text(sources[i].source)));
    }
    return out;
}

void cli_sources_print(const struct sf_topo *t, struct sf_buf *out) {
    const struct sf_source *sources = NULL;
    size_t n = sf_topo_sources(t, &sources);
    if (n == 0) {
        return;
    }
    cli_heading(out, "Sources");
    struct cli_table table = {.align = "lrll"};
    cli_cell(&table, "quantity");
    cli_cell(&table, "value");
    cli_cell(&table, "grade");
    cli_cell(&table, "source");
    for (size_t i = 0; i < n; i++) {
        cli_cell(&table, "%s", sources[i].item);
        cli_cell(&table, "%s", sources[i].value);
        cli_cell(&table, "%s", sf_grade_name((int)sources[i].grade));
        cli_cell(&table, "%s", sources[i].source);
    }
    cli_table_print(&table, "  ", out);
}
