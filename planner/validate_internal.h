#ifndef SF_PLANNER_VALIDATE_INTERNAL_H
#define SF_PLANNER_VALIDATE_INTERNAL_H

#include "planner/plan_layout.h"
#include "planner/validate.h"

/* Columns are found by name; one that is missing or unknown is an error. */
struct sfi_case_columns {
    int at[64];
};
int sfi_case_columns(const struct sf_csv *csv, struct sfi_case_columns *out, struct sf_err *err);
int sfi_case_read(const struct sf_csv *csv, const struct sfi_case_columns *columns, size_t row, struct sf_case *out,
                  struct sf_err *err);

/* Gives a column a value where it has none, or `replace`s it; *set says whether. SF_E_INPUT: not this one. */
int sfi_case_set(struct sf_case *c, const char *column, const char *value, bool replace, bool *set);
/* Applies a rule that matches the row, and notes what it did. */
struct sf_node;
int sfi_assume(const struct sf_node *rule, struct sf_validation *v, struct sf_err *err);

/* Writes the reason and returns true when the row cannot be rerun. */
bool sfi_case_refuses(const struct sf_case *c, char *reason, size_t size);

const char *sfi_case_precision(const struct sf_case *c); /* of the job; NULL: unknown */

/* Layers of its stages; false: they are not stated. */
bool sfi_case_layers(const struct sf_case *c, uint32_t stages, struct sf_layout *out);
/* As tables write it; false: not supported. */
bool sfi_case_recompute(const struct sf_case *c, int *out);
/* As tables write it: enum sf_schedule_kind, or -1: not supported. */
int sfi_case_schedule(const struct sf_case *c);
/* The keys of its latent attention, as a config.json has them; NULL: unknown. */
const char *sfi_case_latent(const struct sf_case *c);

/* The row as a user would write it: cluster, model and scenario files, served from memory over `io`. */
struct sfi_case_files {
    const struct sf_io *under;
    struct sf_io io;
    struct sf_buf cluster, model, scenario;
};
#define SFI_CASE_SCENARIO "case/scenario.yaml"
int sfi_case_files(const struct sf_io *under, const struct sf_case *c, struct sfi_case_files *out, struct sf_err *err);
void sfi_case_files_clear(struct sfi_case_files *f);
void sfi_case_plan(const struct sf_case *c, const struct sf_scenario *s, struct sf_plan *out);

/* Compiled and simulated as `f` runs it. */
int sfi_case_run(const struct sf_scenario *s, const struct sf_cost *cost, const struct sf_framework *f,
                 const struct sf_plan *plan, struct sf_plan_result *out, struct sf_err *err);
/* Whether its passes wait for transfers. */
bool sfi_case_waits(const struct sf_plan *plan, const struct sf_framework *f);

/* Statistics. Spearman with ties; 0 for fewer than 2 rows. */
double sfi_spearman(const double *a, const double *b, size_t n, double *scratch);
int sfi_validate_summarise(struct sf_validate *v, struct sf_err *err);
int sfi_validate_goals(struct sf_validate *v, struct sf_err *err); /* of the summarised rows */

#endif
