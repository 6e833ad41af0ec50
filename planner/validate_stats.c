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
    return s->source_file[0] == '\0' || (strcmp(s->source_file, v->row.source_file) == 0 &&
                                         strcmp(s->tier, v->row.tier) == 0 && s->assumed == (v->assumed[0] != '\0'));
}

/* No framework file is fitted to memory, so calibration rows count too. */
static void add_peak(struct sf_validation_summary *s, const struct sf_validation *v) {
    if (v->refused[0] == '\0' && v->row.peak_mem_gb > 0) {
        s->peaks++;
        s->peak_mean_abs += fabs(v->peak_error);
        s->peak_max_abs = fmax(s->peak_max_abs, fabs(v->peak_error));
        s->peak_least = fmin(s->peak_least, v->peak_error);
    }
}

static void add_row(struct sf_validation_summary *s, const struct sf_validation *v, double *column[3]) {
    s->rows++;
    s->refused += v->refused[0] != '\0';
    if (v->refused[0] == '\0' && !v->calibration && v->assumed[0] != '\0' && !s->assumed) {
        s->assumed_rows++; /* of everything: their errors are in summaries of their own */
        return;
    }
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
            add_peak(s, &v->rows[i]);
        }
    }
    s->peak_mean_abs /= s->peaks > 0 ? s->peaks : 1;
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

/* ---- intervals --------------------------------------------------------------------------------------------------- */

/* What a release adds to the errors of kernels and network, from calibration rows alone, as logarithms of measured over
 * predicted. docs/calibration.md, "Intervals":
 *
 *   many rows    the framework was fitted to far more rows than it has numbers: their residuals are what is left
 *   few rows     they would fit themselves. Leave one model out: what the framework changes is taken as one factor,
 * from its rows of other models, or of the device's other releases; rows of all such releases are pooled none         a
 * run without a framework file may be off by all that frameworks changed on this device class
 *
 * Each gives the (n+1) 0.9-th smallest residual, as split conformal prediction does. */
enum { MANY = 40 };
#define UNKNOWN_RELEASE 0.30

struct residuals {
    double *value, *scratch; /* [rows_n] */
    size_t n;
};

static bool calibrates(const struct sf_validation *r) {
    return r->calibration && r->refused[0] == '\0' && r->bare_s > 0;
}

static size_t calibration_n(const struct sf_validate *v, const char *framework) {
    size_t n = 0;
    for (size_t i = 0; i < v->rows_n; i++) {
        n += calibrates(&v->rows[i]) && strcmp(v->rows[i].framework, framework) == 0;
    }
    return n;
}

/* Median of what frameworks changed on rows like `r`: those of its release with another model, else of its device. */
static bool factor_of(const struct sf_validate *v, const struct sf_validation *r, struct residuals *s, double *out) {
    for (int own = 1; own >= 0; own--) {
        size_t n = 0;
        for (size_t i = 0; i < v->rows_n; i++) {
            const struct sf_validation *o = &v->rows[i];
            bool release = strcmp(o->framework, r->framework) == 0, model = strcmp(o->row.model, r->row.model) == 0;
            bool counts = own ? release && !model : !release && calibration_n(v, o->framework) < MANY;
            if (calibrates(o) && strcmp(o->device, r->device) == 0 && counts) {
                s->scratch[n++] = log(o->row.step_time_s / o->bare_s);
            }
        }
        if (n > 0) {
            qsort(s->scratch, n, sizeof *s->scratch, compare_doubles);
            *out = s->scratch[n / 2];
            return true;
        }
    }
    return false;
}

/* Residuals that stand for the release of `r`; `device`: all classes if NULL. */
static void gather(const struct sf_validate *v, const struct sf_validation *r, const char *device,
                   struct residuals *s) {
    bool many = r->framework[0] != '\0' && calibration_n(v, r->framework) >= MANY;
    s->n = 0;
    for (size_t i = 0; i < v->rows_n; i++) {
        const struct sf_validation *o = &v->rows[i];
        double factor = 0;
        if (!calibrates(o) || (device != NULL && strcmp(o->device, device) != 0)) {
            continue;
        }
        if (many && strcmp(o->framework, r->framework) == 0) {
            s->value[s->n++] = fabs(log(o->row.step_time_s / o->predicted_s));
        } else if (!many && calibration_n(v, o->framework) < MANY &&
                   (r->framework[0] == '\0' || factor_of(v, o, s, &factor))) {
            s->value[s->n++] = fabs(log(o->row.step_time_s / o->bare_s) - factor);
        }
    }
}

static double release_of(const struct sf_validate *v, const struct sf_validation *r, struct residuals *s) {
    gather(v, r, r->device, s);
    if (s->n == 0) {
        gather(v, r, NULL, s);
    }
    if (s->n == 0) {
        return UNKNOWN_RELEASE;
    }
    size_t at = (size_t)ceil(0.9 * (double)(s->n + 1));
    qsort(s->value, s->n, sizeof *s->value, compare_doubles);
    return expm1(s->value[(at < s->n ? at : s->n) - 1]);
}

/* Rows of one framework and device share their release. */
static const struct sf_validation *known_release(const struct sf_validate *v, size_t row) {
    for (size_t i = 0; i < row; i++) {
        const struct sf_validation *o = &v->rows[i], *r = &v->rows[row];
        if (o->refused[0] == '\0' && strcmp(o->framework, r->framework) == 0 && strcmp(o->device, r->device) == 0) {
            return o;
        }
    }
    return NULL;
}

static void set_intervals(struct sf_validate *v, double *scratch) {
    struct residuals s = {.value = scratch, .scratch = scratch + v->rows_n};
    for (size_t i = 0; i < v->rows_n; i++) {
        struct sf_validation *r = &v->rows[i];
        if (r->refused[0] != '\0') {
            continue;
        }
        const struct sf_validation *known = known_release(v, i);
        sf_interval_set(&r->interval, r->predicted_s, known ? known->interval.release : release_of(v, r, &s));
        r->low_s = r->interval.low_s;
        r->high_s = r->interval.high_s;
    }
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
            s->assumed = v->rows[i].assumed[0] != '\0';
        }
    }
    set_intervals(v, scratch);
    v->summaries_n++; /* everything */
    for (size_t i = 0; i < v->summaries_n; i++) {
        summarise(v, &v->summaries[i], scratch);
    }
    sf_free(scratch);
    return 0;
}
