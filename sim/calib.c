/* From measurements to models: groups of calls, one fit each, errors on rows that were held out. */
#include "sim/calib.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "sim/calib_internal.h"
#include "sim/cost.h"

enum { FOLDS = 5, FIT_ROWS = 4096, MANY_ROWS = 8 * SFI_NEAR_ROWS };
#define RANGE 3.0 /* a prior that allows for anything: a factor of 20 either way */

void sf_calib_data_clear(struct sf_calib_data *d) {
    sf_free(d->rows);
    sf_free(d->points);
    memset(d, 0, sizeof *d);
}

void sf_calib_clear(struct sf_calib *c) {
    sf_free(c->models);
    sf_free(c->rows);
    memset(c, 0, sizeof *c);
}

/* ---- rows, equal calls side by side ------------------------------------------------------------------------------ */

static int compare_keys(const struct sf_calib_row *a, const struct sf_calib_row *b) {
    const int64_t x[3] = {a->kind, a->dtype, a->flags}, y[3] = {b->kind, b->dtype, b->flags};
    for (int i = 0; i < 3; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    for (int i = 0; i < SF_CALL_DIMS; i++) {
        if (a->dims[i] != b->dims[i]) {
            return a->dims[i] < b->dims[i] ? -1 : 1;
        }
    }
    return 0;
}

static int compare_rows(const void *a, const void *b) {
    const struct sf_calib_row *x = a, *y = b;
    int order = compare_keys(x, y);
    if (order == 0 && x->source != y->source) {
        order = x->source < y->source ? -1 : 1;
    }
    return order ? order : (x->time_s > y->time_s) - (x->time_s < y->time_s);
}

/* Equal calls become one row of their geometric mean; *spread gets how far each of several was from it. */
static size_t merge(struct sf_calib_row *rows, size_t n, double *spread, size_t *spread_n) {
    size_t out = 0;
    *spread_n = 0;
    for (size_t first = 0, last; first < n; first = last) {
        double sum = 0.0;
        for (last = first; last < n && compare_keys(&rows[first], &rows[last]) == 0; last++) {
            sum += log(rows[last].time_s);
        }
        double mean = sum / (double)(last - first);
        for (size_t i = first; i < last && last - first > 1; i++) {
            spread[(*spread_n)++] = fabs(log(rows[i].time_s) - mean);
        }
        rows[out] = rows[first];
        rows[out++].time_s = exp(mean);
    }
    return out;
}

static int merge_rows(const struct sf_calib_row *sorted, size_t n, struct sf_calib *out, struct sf_err *err) {
    double *spread = sf_calloc(n, sizeof *spread);
    size_t spread_n = 0;
    out->rows = sf_calloc(n, sizeof *out->rows);
    if (!spread || !out->rows) {
        sf_free(spread);
        return sf_fail_memory(err, "rows");
    }
    if (n > 0) {
        memcpy(out->rows, sorted, n * sizeof *sorted);
    }
    out->rows_n = merge(out->rows, n, spread, &spread_n);
    out->repeat = spread_n > 0 ? expm1(sfi_quantile(spread, spread_n, 0.9)) : SFI_REPEAT;
    out->repeat_n = (uint32_t)spread_n;
    sf_free(spread);
    return SF_OK;
}

/* ---- one group --------------------------------------------------------------------------------------------------- */

struct group {
    int form;
    struct sf_call *calls;                /* [n] kernels */
    const struct sf_calib_point **points; /* [n] links */
    double *time_s;                       /* [n] */
    uint32_t *fold;                       /* [n] */
    size_t n;
    uint32_t folds; /* below 2: nothing to hold out */
    double start[SF_CALIB_PARAMS], prior[SF_CALIB_PARAMS];
};

struct part { /* of a group: what is fitted */
    const struct group *g;
    size_t *row;
    double *time_s;
    size_t n;
};

static double row_s(const struct group *g, size_t i, const double *param) {
    return g->form == SF_CALIB_LINK ? sfi_calib_link_s(param, g->points[i]) : sfi_calib_s(g->form, param, &g->calls[i]);
}

static double time_of(const void *self, size_t row, const double *param) {
    const struct part *p = self;
    return row_s(p->g, p->row[row], param);
}

static uint32_t params_n(int form) {
    uint32_t n = 0;
    while (sf_calib_param_name(form, (int)n)) {
        n++;
    }
    return n;
}

/* Where every row is stored in one way, what the way costs is part of the rate. */
static void fix_layouts(struct group *g) {
    static const unsigned bits[] = {SF_CALL_TA_FLAG, SF_CALL_TB_FLAG};
    for (int b = 0; b < 2 && g->form == SF_CALIB_PRODUCT; b++) {
        size_t with = 0;
        for (size_t i = 0; i < g->n; i++) {
            with += (g->calls[i].flags & bits[b]) != 0;
        }
        g->prior[5 + b] = with == 0 || with == g->n ? 0.01 : g->prior[5 + b];
    }
}

/* Rates are known to an order of magnitude from the rows; what loses time is guessed, and may be nothing. */
static void guess(struct group *g, double *scratch) {
    static const double start[SF_CALIB_FORMS_N][SF_CALIB_PARAMS] = {
        [SF_CALIB_PRODUCT] = {1e-6, 0, 1, 10, 0, 1, 1},
        [SF_CALIB_ATTENTION] = {1e-6, 0, 10, 50},
        [SF_CALIB_STREAM] = {5e-7, 0},
        [SF_CALIB_LINK] = {0, 0},
    };
    static const double prior[SF_CALIB_FORMS_N][SF_CALIB_PARAMS] = {
        [SF_CALIB_PRODUCT] = {2, RANGE, 2, 2, RANGE, 0.7, 0.7},
        [SF_CALIB_ATTENTION] = {2, RANGE, 2, 2},
        [SF_CALIB_STREAM] = {1.5, RANGE},
        [SF_CALIB_LINK] = {RANGE, RANGE},
    };
    memcpy(g->start, start[g->form], sizeof g->start);
    memcpy(g->prior, prior[g->form], sizeof g->prior);
    for (size_t i = 0; i < g->n; i++) {
        double work = g->form == SF_CALIB_LINK ? g->points[i]->bytes : sfi_calib_work(&g->calls[i]);
        scratch[i] = fmax(work, 1.0) / g->time_s[i];
    }
    fix_layouts(g);
    double rate = sfi_quantile(scratch, g->n, g->form == SF_CALIB_LINK ? 1.0 : 0.75);
    g->start[1] = rate;
    g->start[4] = g->form == SF_CALIB_PRODUCT ? rate : 0.0;
    if (g->form == SF_CALIB_LINK) {
        memcpy(scratch, g->time_s, g->n * sizeof *scratch);
        g->start[0] = sfi_quantile(scratch, g->n, 0.0);
    }
}

/* Fit the rows outside fold `out` (UINT32_MAX: all of them). */
static int fit_part(const struct group *g, uint32_t out, struct part *p, struct sfi_fitted *fitted,
                    struct sf_err *err) {
    p->n = 0;
    for (size_t i = 0; i < g->n; i++) {
        if (g->fold[i] != out) {
            p->row[p->n] = i;
            p->time_s[p->n++] = g->time_s[i];
        }
    }
    size_t step = 1 + (p->n - 1) / FIT_ROWS; /* very long tables are thinned: the rest still tests */
    for (size_t i = 0; step > 1 && i * step < p->n; i++) {
        p->row[i] = p->row[i * step];
        p->time_s[i] = p->time_s[i * step];
    }
    const struct sfi_fit fit = {.self = p,
                                .time = time_of,
                                .measured = p->time_s,
                                .rows_n = (p->n + step - 1) / step,
                                .params_n = params_n(g->form),
                                .start = g->start,
                                .prior = g->prior};
    return sfi_fit(&fit, fitted, err);
}

static bool is_family(const struct group *g, size_t i, size_t k) {
    return g->form != SF_CALIB_LINK && g->calls[i].flags == g->calls[k].flags;
}

/* The rows beside row i outside its fold, as a forecast of it would find them. */
static double near_factor(const struct group *g, size_t i, const double *residual) {
    struct sfi_near near = {0};
    size_t n = g->n > MANY_ROWS ? SFI_NEAR_ROWS + 1 : 0;
    for (size_t k = 0; k < g->n && n <= SFI_NEAR_ROWS; k++) {
        if (is_family(g, i, k) && g->fold[k] != g->fold[i]) {
            sfi_near_add(&near, g->calls[i].dims, g->calls[k].dims, residual[k]);
            n++;
        }
    }
    return n <= SFI_NEAR_ROWS ? sfi_near_factor(&near, SFI_NEAR_DOUBT) : 1.0;
}

/* Every row is predicted by a fit that knows nothing of its source (or, with one source, of its fifth of the rows), and
 * by the rows beside it outside of these. */
static int hold_out(const struct group *g, struct part *p, double *error, struct sf_err *err) {
    for (uint32_t fold = 0; fold < g->folds; fold++) {
        struct sfi_fitted fitted;
        SF_TRY(fit_part(g, fold, p, &fitted, err));
        for (size_t i = 0; i < g->n; i++) {
            p->time_s[i] = log(g->time_s[i] / row_s(g, i, fitted.param)); /* the fit is over: room for residuals */
        }
        for (size_t i = 0; i < g->n; i++) {
            if (g->fold[i] == fold) {
                error[i] = fabs(log(near_factor(g, i, p->time_s)) - p->time_s[i]);
            }
        }
    }
    return SF_OK;
}

static void set_params(const struct sfi_fitted *f, int form, struct sf_calib_model *out) {
    for (uint32_t i = 0; i < params_n(form); i++) {
        double reach = exp(fmin(f->quantile * f->sigma[i], 30.0));
        out->param[i] = (struct sf_calib_param){f->param[i], f->param[i] / reach, f->param[i] * reach};
    }
}

static int fit_group(struct group *g, struct sf_calib_model *out, struct sf_err *err) {
    struct part p = {.g = g, .row = sf_calloc(g->n, sizeof *p.row), .time_s = sf_calloc(g->n, sizeof *p.time_s)};
    double *error = sf_calloc(g->n, sizeof *error);
    struct sfi_fitted fitted;
    int rc = p.row && p.time_s && error ? SF_OK : sf_fail_memory(err, "fit");
    if (rc == SF_OK) {
        guess(g, error);
        rc = fit_part(g, UINT32_MAX, &p, &fitted, err);
    }
    out->form = g->form;
    out->rows = (uint32_t)g->n;
    out->held_out = g->folds > 1;
    out->median = out->p90 = SFI_FEW_ROWS_ERROR;
    if (rc == SF_OK && out->held_out) {
        rc = hold_out(g, &p, error, err);
        out->median = expm1(sfi_quantile(error, g->n, 0.5));
        out->p90 = expm1(sfi_quantile(error, g->n, 0.9));
    }
    if (rc == SF_OK) {
        set_params(&fitted, g->form, out);
    }
    sf_free(error);
    sf_free(p.time_s);
    sf_free(p.row);
    return rc;
}

static int group_create(struct group *g, int form, size_t n, struct sf_err *err) {
    *g = (struct group){.form = form, .n = n};
    g->calls = sf_calloc(n, sizeof *g->calls);
    g->points = sf_calloc(n, sizeof *g->points);
    g->time_s = sf_calloc(n, sizeof *g->time_s);
    g->fold = sf_calloc(n, sizeof *g->fold);
    return g->calls && g->points && g->time_s && g->fold ? SF_OK : sf_fail_memory(err, "fit");
}

static void group_clear(struct group *g) {
    sf_free(g->calls);
    sf_free(g->points);
    sf_free(g->time_s);
    sf_free(g->fold);
}

/* `fold` holds the sources on entry: as they are where there are several, else every fifth row. */
static void set_folds(struct group *g) {
    uint32_t last = 0;
    bool several = false;
    for (size_t i = 0; i < g->n; i++) {
        several |= g->fold[i] != g->fold[0];
        last = g->fold[i] > last ? g->fold[i] : last;
    }
    g->folds = last + 1;
    if (!several) {
        bool enough = g->n > params_n(g->form) + 1;
        g->folds = !enough ? 0 : g->n < FOLDS ? (uint32_t)g->n : FOLDS;
        for (size_t i = 0; i < g->n; i++) {
            g->fold[i] = enough ? (uint32_t)(i % g->folds) : 0;
        }
    }
}

/* ---- kernels and links ------------------------------------------------------------------------------------------- */

static int fit_rows(const struct sf_calib_row *rows, size_t n, struct sf_calib_model *out, struct sf_err *err) {
    struct group g;
    int rc = group_create(&g, sf_calib_form_of(rows->kind), n, err);
    for (size_t i = 0; i < n && rc == SF_OK; i++) {
        g.calls[i] = sfi_calib_call(&rows[i]);
        g.time_s[i] = rows[i].time_s;
        g.fold[i] = rows[i].source;
    }
    *out = (struct sf_calib_model){.kind = rows->kind, .dtype = rows->dtype};
    if (rc == SF_OK) {
        set_folds(&g);
        rc = fit_group(&g, out, err);
    }
    group_clear(&g);
    return rc ? sf_err_wrap(err, "%s %s", sf_call_name(rows->kind), sf_dtype_name(rows->dtype)) : SF_OK;
}

static int fit_kernels(const struct sf_calib_row *rows, size_t n, struct sf_calib *out, struct sf_err *err) {
    for (size_t first = 0, last; first < n; first = last) {
        for (last = first; last < n && rows[last].kind == rows[first].kind && rows[last].dtype == rows[first].dtype;) {
            last++;
        }
        SF_TRY(fit_rows(rows + first, last - first, &out->models[out->models_n], err));
        out->models_n++;
    }
    return SF_OK;
}

/* Those of a kernel table are rows: every forecast looks at them. */
static bool of_table(const struct sf_calib_data *d, const struct sf_calib_point *p) {
    return strcmp(d->source[p->source].form, "kernels") == 0;
}

static int fit_link(const struct sf_calib_data *d, int op, struct sf_calib *out, struct sf_err *err) {
    struct group g;
    size_t n = 0;
    int rc = group_create(&g, SF_CALIB_LINK, d->points_n, err);
    for (size_t i = 0; i < d->points_n && rc == SF_OK; i++) {
        if (d->points[i].op == op && !of_table(d, &d->points[i])) {
            g.points[n] = &d->points[i];
            g.time_s[n] = d->points[i].time_s;
            g.fold[n++] = d->points[i].source;
        }
    }
    g.n = n;
    if (rc == SF_OK && n > 0) {
        struct sf_calib_model *m = &out->models[out->models_n++];
        *m = (struct sf_calib_model){.kind = (uint16_t)op, .dtype = SF_F32};
        set_folds(&g);
        rc = fit_group(&g, m, err);
    }
    group_clear(&g);
    return rc;
}

/* ---- what each source states by itself --------------------------------------------------------------------------- */

static double itself(const void *self, size_t row, const double *param) {
    (void)self;
    (void)row;
    return param[0];
}

static int combine(const double *values, struct sf_calib_param *out, struct sf_err *err) {
    double stated[SF_CALIB_SOURCES];
    size_t n = 0;
    for (size_t i = 0; i < SF_CALIB_SOURCES; i++) {
        if (values[i] > 0.0) {
            stated[n++] = values[i];
        }
    }
    if (n == 0) {
        return SF_OK;
    }
    const double start = stated[0], prior = RANGE;
    const struct sfi_fit fit = {
        .time = itself, .measured = stated, .rows_n = n, .params_n = 1, .start = &start, .prior = &prior};
    struct sfi_fitted fitted;
    SF_TRY(sfi_fit(&fit, &fitted, err));
    double reach = exp(fmin(fitted.quantile * fitted.sigma[0], 30.0));
    *out = (struct sf_calib_param){fitted.param[0], fitted.param[0] / reach, fitted.param[0] * reach};
    return SF_OK;
}

/* Points of their own are better than what a table came to. */
static void links_of_points(struct sf_calib *out) {
    for (size_t i = 0; i < out->models_n; i++) {
        const struct sf_calib_model *m = &out->models[i];
        if (m->form == SF_CALIB_LINK && m->kind == SF_CALL_COPY) {
            out->message_s = m->param[0];
            out->message_rate = m->param[1];
        } else if (m->form == SF_CALIB_LINK && (m->kind == SF_CALL_ALL_REDUCE || out->collective_s.value <= 0.0)) {
            out->collective_s = m->param[0];
            out->collective_rate = m->param[1];
        }
    }
}

static int fit_transport(const struct sf_calib_data *d, struct sf_calib *out, struct sf_err *err) {
    static const int ops[] = {SF_CALL_COPY, SF_CALL_ALL_REDUCE, SF_CALL_ALL_GATHER, SF_CALL_REDUCE_SCATTER,
                              SF_CALL_ALL_TO_ALL};
    SF_TRY(combine(d->dispatch_s, &out->dispatch, err));
    SF_TRY(combine(d->message_s, &out->message_s, err));
    SF_TRY(combine(d->message_rate, &out->message_rate, err));
    SF_TRY(combine(d->collective_s, &out->collective_s, err));
    SF_TRY(combine(d->collective_rate, &out->collective_rate, err));
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        SF_TRY(fit_link(d, ops[i], out, err));
    }
    links_of_points(out);
    return SF_OK;
}

static int fit_all(const struct sf_calib_data *d, struct sf_calib_row *sorted, struct sf_calib *out,
                   struct sf_err *err) {
    if (!sorted || !out->models) {
        return sf_fail_memory(err, "calibration");
    }
    if (d->rows_n > 0) {
        memcpy(sorted, d->rows, d->rows_n * sizeof *sorted);
        qsort(sorted, d->rows_n, sizeof *sorted, compare_rows);
    }
    SF_TRY(fit_kernels(sorted, d->rows_n, out, err));
    SF_TRY(merge_rows(sorted, d->rows_n, out, err));
    return fit_transport(d, out, err);
}

int sf_calib_fit(const struct sf_calib_data *d, struct sf_calib *out, struct sf_err *err) {
    *out = (struct sf_calib){.models_n = 0};
    if (d->rows_n == 0 && d->points_n == 0) {
        return sf_fail(err, SF_E_INPUT, "nothing to fit: no kernel time and no transfer in what was read");
    }
    struct sf_calib_row *sorted = sf_calloc(d->rows_n, sizeof *sorted);
    out->models = sf_calloc((size_t)SF_CALL_KINDS * SF_DTYPES_N + SF_CALL_KINDS, sizeof *out->models);
    int rc = fit_all(d, sorted, out, err);
    sf_free(sorted);
    if (rc) {
        sf_calib_clear(out);
    }
    return rc;
}
