/* What was promised of the published rows, and what came of it. Errors are of test rows alone; slopes and orders need
 * whole series, calibration rows in them too. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/validate_internal.h"

/* Source file and GPU begin with, and the case contains, what is named. */
struct filter {
    const char *source_file, *case_part, *gpu, *tiers;
};

struct list {
    const struct sf_validation **row;
    size_t n;
};

static bool is_tested(const struct sf_validation *v) {
    return v->refused[0] == '\0' && !v->calibration;
}

static bool passes(const struct filter *f, const struct sf_validation *v) {
    const struct sf_case *c = &v->row;
    return strncmp(c->source_file, f->source_file, strlen(f->source_file)) == 0 &&
           strstr(c->case_id, f->case_part) != NULL && strncmp(c->gpu, f->gpu, strlen(f->gpu)) == 0 &&
           strstr(f->tiers, c->tier) != NULL;
}

static void pick(const struct sf_validate *v, const struct filter *f, bool tested, struct list *out) {
    for (size_t i = 0; i < v->rows_n; i++) {
        const struct sf_validation *r = &v->rows[i];
        if (r->refused[0] == '\0' && (!tested || is_tested(r)) && passes(f, r)) {
            out->row[out->n++] = r;
        }
    }
}

static struct sf_validation_goal *add_goal(struct sf_validate *v, const char *name, size_t n) {
    struct sf_validation_goal *g = &v->goals[v->goals_n++];
    *g = (struct sf_validation_goal){.n = (uint32_t)n};
    snprintf(g->name, sizeof g->name, "%s", name);
    return g;
}

static void say(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void say(char *out, size_t size, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, size, fmt, ap);
    va_end(ap);
}

struct errors {
    double mean, worst;
};

static struct errors errors_of(const struct list *l) {
    struct errors e = {0, 0};
    for (size_t i = 0; i < l->n; i++) {
        e.mean += fabs(l->row[i]->error) / (double)l->n;
        e.worst = fmax(e.worst, fabs(l->row[i]->error));
    }
    return e;
}

/* ---- single lines ------------------------------------------------------------------------------------------------ */

/* Kendall's tau over pairs that differ in what was measured. */
static double kendall(const struct list *l) {
    double agree = 0, pairs = 0;
    for (size_t i = 0; i < l->n; i++) {
        for (size_t k = 0; k < i; k++) {
            double a = l->row[i]->row.step_time_s - l->row[k]->row.step_time_s;
            double b = l->row[i]->predicted_s - l->row[k]->predicted_s;
            agree += a * b > 0 ? 1 : a * b < 0 ? -1 : 0;
            pairs += a != 0;
        }
    }
    return pairs > 0 ? agree / pairs : 0;
}

static void goal_vtrain(struct sf_validate *v, struct list *l) {
    const struct filter f = {"vtrain_single", "", "", "ABC"};
    pick(v, &f, true, l);
    struct sf_validation_goal *g = add_goal(v, "vTrain's single-node A100 plans", l->n);
    struct errors e = errors_of(l);
    double tau = l->n > 0 ? kendall(l) : 0;
    say(g->promise, sizeof g->promise, "mean <= 5 %%, Kendall's tau >= 0.9");
    say(g->figure, sizeof g->figure, "mean %.1f %%, worst %.1f %%, tau %.3f", 100 * e.mean, 100 * e.worst, tau);
    g->met = e.mean <= 0.05 && tau >= 0.9;
}

static void goal_clusters(struct sf_validate *v, struct list *l, bool assumed) {
    static const struct filter dense[] = {{"megatron_sc21_table", "", "", "AB"},
                                          {"mlperf_llm_summary", "gpt3-h100", "H100", "AB"},
                                          {"dgxc_h100_gb200_steptime", "llama3.1", "H100", "AB"},
                                          {"dgxc_h100_gb200_steptime", "gpt3", "H100", "AB"}};
    size_t kept = 0;
    for (size_t i = 0; i < sizeof dense / sizeof dense[0]; i++) {
        pick(v, &dense[i], true, l);
    }
    for (size_t i = 0; i < l->n; i++) {
        if ((l->row[i]->assumed[0] != '\0') == assumed) {
            l->row[kept++] = l->row[i];
        }
    }
    l->n = kept;
    struct sf_validation_goal *g =
        add_goal(v, assumed ? "dense A100 and H100 clusters, with assumptions" : "dense A100 and H100 clusters", l->n);
    struct errors e = errors_of(l);
    say(g->promise, sizeof g->promise, "mean <= 4 %%, worst <= 10 %%");
    say(g->figure, sizeof g->figure, "mean %.1f %%, worst %.1f %%", 100 * e.mean, 100 * e.worst);
    g->met = e.mean <= 0.04 && e.worst <= 0.10;
}

static void goal_grok(struct sf_validate *v, struct list *l) {
    const struct filter f = {"dgxc_h100_gb200_steptime", "grok1", "H100", "B"};
    pick(v, &f, true, l);
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (l->row[i]->assumed[0] == '\0') {
            l->row[kept++] = l->row[i];
        }
    }
    l->n = kept;
    struct sf_validation_goal *g = add_goal(v, "Grok-1 weak scaling, 8 to 2,048 H100", l->n);
    struct errors e = errors_of(l);
    say(g->promise, sizeof g->promise, "each <= 6 %%");
    say(g->figure, sizeof g->figure, "mean %.1f %%, worst %.1f %%", 100 * e.mean, 100 * e.worst);
    g->met = e.worst <= 0.06;
}

/* What a doubling of the GPUs costs where the work of each stays the same: the slope of the logarithm of the step. */
static double slope_of(const struct list *l, bool predicted) {
    double x = 0, y = 0, xx = 0, xy = 0, n = (double)l->n;
    for (size_t i = 0; i < l->n; i++) {
        double a = log2(l->row[i]->row.gpus), b = log(predicted ? l->row[i]->predicted_s : l->row[i]->row.step_time_s);
        x += a;
        y += b;
        xx += a * a;
        xy += a * b;
    }
    double spread = n * xx - x * x;
    return spread > 0 ? (n * xy - x * y) / spread : 0;
}

/* Rows of one framework and precision from 128 GPUs on, where all are pipelines over the same number of chunks. */
static void goal_slope(struct sf_validate *v, struct list *l, const char *framework, const char *precision) {
    const struct filter f = {"dgxc_h100_gb200_steptime", "grok1", "H100", "B"};
    char name[96];
    size_t kept = 0;
    pick(v, &f, false, l);
    for (size_t i = 0; i < l->n; i++) {
        const struct sf_validation *r = l->row[i];
        if (strcmp(r->framework, framework) == 0 && strcmp(r->row.precision, precision) == 0 && r->row.gpus >= 128) {
            l->row[kept++] = r;
        }
    }
    l->n = kept;
    snprintf(name, sizeof name, "its loss per doubling from 128 on, %s %s", framework, precision);
    struct sf_validation_goal *g = add_goal(v, name, l->n);
    double measured = slope_of(l, false), predicted = slope_of(l, true);
    say(g->promise, sizeof g->promise, "sign, and within 25 %%");
    say(g->figure, sizeof g->figure, "measured %.2f %%, predicted %.2f %%, %+.0f %%", 100 * measured, 100 * predicted,
        measured != 0 ? 100 * (predicted / measured - 1) : 0);
    g->met = measured * predicted > 0 && fabs(predicted / measured - 1) <= 0.25;
}

/* ---- pairs ------------------------------------------------------------------------------------------------------- */

static bool same_release(const char *a, const char *b) {
    const char *x = strstr(a, "@v"), *y = strstr(b, "@v");
    return x != NULL && y != NULL && strncmp(x, y, 7) == 0;
}

/* NeMo's row of the same model, release, precision, GPUs, batch and sequence. */
static const struct sf_validation *beside(const struct sf_validate *v, const struct sf_validation *r) {
    const struct sf_case *a = &r->row;
    for (size_t i = 0; i < v->rows_n; i++) {
        const struct sf_case *b = &v->rows[i].row;
        if (&v->rows[i] != r && v->rows[i].refused[0] == '\0' && strcmp(b->source_file, a->source_file) != 0 &&
            strcmp(a->model, b->model) == 0 && strcmp(a->precision, b->precision) == 0 && a->gpus == b->gpus &&
            a->global_batch == b->global_batch && a->seq_len_tokens == b->seq_len_tokens &&
            strcmp(a->gpu, b->gpu) == 0 && same_release(a->source, b->source)) {
            return &v->rows[i];
        }
    }
    return NULL;
}

static void goal_jax(struct sf_validate *v, struct list *l) {
    const struct filter f = {"dgxc_jax", "", "", "ABC"};
    struct errors e = {0, 0};
    uint32_t n = 0;
    pick(v, &f, true, l);
    for (size_t i = 0; i < l->n; i++) {
        const struct sf_validation *jax = l->row[i], *nemo = beside(v, jax);
        if (nemo != NULL) {
            double off = fabs((1 + jax->error) / (1 + nemo->error) - 1);
            e.mean += off;
            e.worst = fmax(e.worst, off);
            n++;
        }
    }
    struct sf_validation_goal *g = add_goal(v, "JAX beside NeMo, ratio of steps", n);
    say(g->promise, sizeof g->promise, "each within 8 %%");
    say(g->figure, sizeof g->figure, "mean %.1f %%, worst %.1f %%", n > 0 ? 100 * e.mean / n : 0, 100 * e.worst);
    g->met = n > 0 && e.worst <= 0.08;
}

/* ---- Zero Bubble ------------------------------------------------------------------------------------------------- */

static void goal_zero_bubble(struct sf_validate *v, struct list *l) {
    const struct filter f = {"zerobubble_table4", "", "", "ABC"};
    pick(v, &f, true, l);
    struct sf_validation_goal *g = add_goal(v, "Zero Bubble's Table 4", l->n);
    struct errors e = errors_of(l);
    say(g->promise, sizeof g->promise, "each <= 5 %%");
    say(g->figure, sizeof g->figure, "mean %.1f %%, worst %.1f %%", 100 * e.mean, 100 * e.worst);
    g->met = l->n > 0 && e.worst <= 0.05;
}

static void goal_order(struct sf_validate *v, struct list *l) {
    const struct filter f = {"zerobubble_table4", "", "", "ABC"};
    uint32_t pairs = 0, right = 0;
    pick(v, &f, false, l);
    for (size_t i = 0; i < l->n; i++) {
        for (size_t k = 0; k < i; k++) {
            const struct sf_validation *a = l->row[i], *b = l->row[k];
            if (strcmp(a->row.model, b->row.model) == 0 && a->row.microbatches == b->row.microbatches) {
                pairs++;
                right += (a->row.step_time_s < b->row.step_time_s) == (a->predicted_s < b->predicted_s);
            }
        }
    }
    struct sf_validation_goal *g = add_goal(v, "its schedules in the measured order, pairs", pairs);
    say(g->promise, sizeof g->promise, "all");
    say(g->figure, sizeof g->figure, "%u of %u", right, pairs);
    g->met = pairs > 0 && right == pairs;
}

/* ---- Blackwell, one model left out ------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median of what other models of the same release and device were off by, as a logarithm: in the same precision, or,
 * where no other model runs in it, in any. */
static bool left_out(const struct list *l, const struct sf_validation *r, double *scratch, double *out) {
    size_t n = 0;
    for (int any = 0; any < 2 && n == 0; any++) {
        for (size_t i = 0; i < l->n; i++) {
            const struct sf_validation *o = l->row[i];
            if (strcmp(o->row.source, r->row.source) == 0 && strcmp(o->row.gpu, r->row.gpu) == 0 &&
                strcmp(o->row.model, r->row.model) != 0 && (any || strcmp(o->row.precision, r->row.precision) == 0)) {
                scratch[n++] = log(o->row.step_time_s / o->predicted_s);
            }
        }
    }
    if (n > 0) {
        qsort(scratch, n, sizeof *scratch, compare_doubles);
        *out = (scratch[(n - 1) / 2] + scratch[n / 2]) / 2;
    }
    return n > 0;
}

static void goal_blackwell(struct sf_validate *v, struct list *l, double *scratch) {
    const struct filter f = {"nemo_perf_bridge", "", "GB", "ABC"};
    double *measured = scratch, *predicted = scratch + v->rows_n, *rest = scratch + 2 * v->rows_n, factor;
    size_t n = 0;
    struct errors e = {0, 0};
    pick(v, &f, true, l);
    for (size_t i = 0; i < l->n; i++) {
        if (left_out(l, l->row[i], rest, &factor)) {
            measured[n] = l->row[i]->row.step_time_s;
            predicted[n] = l->row[i]->predicted_s * exp(factor);
            double off = fabs(predicted[n] / measured[n] - 1);
            e.mean += off;
            e.worst = fmax(e.worst, off);
            n++;
        }
    }
    struct sf_validation_goal *g = add_goal(v, "GB300 and GB200, one model left out of its release", n);
    double rho = sfi_spearman(measured, predicted, n, rest);
    say(g->promise, sizeof g->promise, "<= 8 %%, Spearman >= 0.95");
    say(g->figure, sizeof g->figure, "mean %.1f %%, worst %.1f %%, Spearman %.3f", n > 0 ? 100 * e.mean / (double)n : 0,
        100 * e.worst, rho);
    g->met = n > 0 && e.mean / (double)n <= 0.08 && rho >= 0.95;
}

/* ---- of everything ----------------------------------------------------------------------------------------------- */

static void goal_memory(struct sf_validate *v) {
    const struct sf_validation_summary *all = &v->summaries[v->summaries_n - 1];
    struct sf_validation_goal *g = add_goal(v, "peak memory", all->peaks);
    say(g->promise, sizeof g->promise, "mean <= 1 %%, worst <= 3 %%, none under by more than 1 %%");
    say(g->figure, sizeof g->figure, "mean %.1f %%, worst %.1f %%, furthest under %.1f %%", 100 * all->peak_mean_abs,
        100 * all->peak_max_abs, -100 * all->peak_least);
    g->met = all->peaks > 0 && all->peak_mean_abs <= 0.01 && all->peak_max_abs <= 0.03 && all->peak_least >= -0.01;
}

static void goal_coverage(struct sf_validate *v) {
    uint32_t n = 0, covered = 0;
    for (size_t i = 0; i < v->rows_n; i++) {
        const struct sf_validation *r = &v->rows[i];
        n += is_tested(r);
        covered += is_tested(r) && r->row.step_time_s >= r->low_s && r->row.step_time_s <= r->high_s;
    }
    struct sf_validation_goal *g = add_goal(v, "90 % intervals, rows with assumptions too", n);
    say(g->promise, sizeof g->promise, "hold >= 85 %% of test rows");
    say(g->figure, sizeof g->figure, "%.0f %%", n > 0 ? 100.0 * covered / n : 0);
    g->met = n > 0 && covered >= 0.85 * n;
}

/* Each goal starts with an empty list of the same room. */
static void set_goals(struct sf_validate *v, const struct sf_validation **room, double *scratch) {
    static const struct {
        const char *framework, *precision;
    } series[] = {{"nemo-dgxc-24.11", "bf16"},
                  {"nemo-dgxc-24.11", "fp8"},
                  {"nemo-dgxc-25.02", "bf16"},
                  {"nemo-dgxc-25.02", "fp8"}};
    goal_vtrain(v, &(struct list){room, 0});
    goal_clusters(v, &(struct list){room, 0}, false);
    goal_clusters(v, &(struct list){room, 0}, true);
    goal_grok(v, &(struct list){room, 0});
    for (size_t i = 0; i < sizeof series / sizeof series[0]; i++) {
        goal_slope(v, &(struct list){room, 0}, series[i].framework, series[i].precision);
    }
    goal_jax(v, &(struct list){room, 0});
    goal_zero_bubble(v, &(struct list){room, 0});
    goal_order(v, &(struct list){room, 0});
    goal_blackwell(v, &(struct list){room, 0}, scratch);
    goal_memory(v);
    goal_coverage(v);
}

int sfi_validate_goals(struct sf_validate *v, struct sf_err *err) {
    const struct sf_validation **room = sf_calloc(v->rows_n + 1, sizeof *room);
    double *scratch = sf_calloc(6 * v->rows_n + 1, sizeof *scratch);
    int rc = room == NULL || scratch == NULL ? sf_fail_memory(err, "goals") : 0;
    if (rc == 0) {
        set_goals(v, room, scratch);
    }
    sf_free(scratch);
    sf_free(room);
    return rc;
}
