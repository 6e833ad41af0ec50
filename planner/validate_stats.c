/* What the errors of a table come to. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "planner/validate_internal.h"

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Ranks of v from 1, equal values sharing the mean of theirs. Quadratic would do for hundreds of rows, not thousands.
 */
static void ranks_of(const double *v, size_t n, double *sorted, double *out) {
    memcpy(sorted, v, n * sizeof *v);
    qsort(sorted, n, sizeof *sorted, compare_doubles);
    for (size_t i = 0; i < n; i++) {
        const double *at = bsearch(&v[i], sorted, n, sizeof *sorted, compare_doubles);
        size_t first = (size_t)(at - sorted), last = first;
        while (first > 0 && sorted[first - 1] >= v[i]) {
            first--;
        }
        while (last + 1 < n && sorted[last + 1] <= v[i]) {
            last++;
        }
        out[i] = ((double)first + (double)last) / 2.0 + 1.0;
    }
}

double sfi_spearman(const double *a, const double *b, size_t n, double *scratch) {
    double *ra = scratch, *rb = scratch + n, mean = ((double)n + 1.0) / 2.0, ab = 0, aa = 0, bb = 0;
    if (n < 2) {
        return 0;
    }
    ranks_of(a, n, scratch + 2 * n, ra);
    ranks_of(b, n, scratch + 2 * n, rb);
    for (size_t i = 0; i < n; i++) {
        ab += (ra[i] - mean) * (rb[i] - mean);
        aa += (ra[i] - mean) * (ra[i] - mean);
        bb += (rb[i] - mean) * (rb[i] - mean);
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

static bool belongs(const struct sf_validation_summary *s, const struct sf_validation *v) {
    return s->source_file[0] == '\0' ||
           (strcmp(s->source_file, v->row.source_file) == 0 && strcmp(s->tier, v->row.tier) == 0);
}

static void add_row(struct sf_validation_summary *s, const struct sf_validation *v, double *column[3]) {
    s->rows++;
    s->refused += v->refused[0] != '\0';
    if (v->refused[0] != '\0' || v->calibration) {
        s->calibration += v->calibration && v->refused[0] == '\0';
        return;
    }
    column[0][s->n] = v->row.step_time_s;
    column[1][s->n] = v->predicted_s;
    column[2][s->n] = fabs(v->error);
    s->covered += v->row.step_time_s >= v->low_s && v->row.step_time_s <= v->high_s;
    s->mean_abs += fabs(v->error);
    s->bias += v->error;
    s->max_abs = fmax(s->max_abs, fabs(v->error));
    s->n++;
}

static void summarise(const struct sf_validate *v, struct sf_validation_summary *s, double *scratch) {
    double *column[3] = {scratch, scratch + v->rows_n, scratch + 2 * v->rows_n};
    for (size_t i = 0; i < v->rows_n; i++) {
        if (belongs(s, &v->rows[i])) {
            add_row(s, &v->rows[i], column);
        }
    }
    if (s->n > 0) {
        s->mean_abs /= s->n;
        s->bias /= s->n;
        qsort(column[2], s->n, sizeof *column[2], compare_doubles);
        s->median_abs = column[2][s->n / 2];
        s->spearman = sfi_spearman(column[0], column[1], s->n, scratch + 3 * v->rows_n);
    }
}

static bool is_known(const struct sf_validate *v, const struct sf_validation *row) {
    for (size_t i = 0; i < v->summaries_n; i++) {
        if (belongs(&v->summaries[i], row)) {
            return true;
        }
    }
    return false;
}

int sfi_validate_summarise(struct sf_validate *v, struct sf_err *err) {
    double *scratch = sf_calloc(6 * v->rows_n + 1, sizeof *scratch);
    v->summaries = sf_calloc(v->rows_n + 1, sizeof *v->summaries);
    if (scratch == NULL || v->summaries == NULL) {
        sf_free(scratch);
        return sf_fail_memory(err, "summaries");
    }
    for (size_t i = 0; i < v->rows_n; i++) {
        if (!is_known(v, &v->rows[i])) {
            struct sf_validation_summary *s = &v->summaries[v->summaries_n++];
            memcpy(s->source_file, v->rows[i].row.source_file, sizeof s->source_file);
            memcpy(s->tier, v->rows[i].row.tier, sizeof s->tier);
        }
    }
    v->summaries_n++; /* everything */
    for (size_t i = 0; i < v->summaries_n; i++) {
        summarise(v, &v->summaries[i], scratch);
    }
    sf_free(scratch);
    return 0;
}
