/* Robust non-linear least squares: GSL solves, weights follow Huber's rule until they settle.
 *
 * Parameters are positive and unknown by factors, so their logarithms are fitted, to logarithms of times: a relative
 * error counts the same for a short kernel and for a long one. A weak prior on every parameter keeps one that the rows
 * say nothing about where it started, with an interval that says so. */
#include <gsl/gsl_cdf.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_multifit_nlinear.h>
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>

#include "core/arena.h"
#include "sim/calib_internal.h"

enum { ROUNDS = 8, ITERATIONS = 100 };
#define HUBER 1.345
#define MAD_TO_SIGMA 1.4826
#define LEAST_SCALE 1e-4  /* clocks do not tell times apart by less */
#define UNKNOWN_SCALE 0.1 /* where there are no more rows than parameters, they say nothing about their spread */

double sfi_quantile(double *values, size_t n, double q) {
    if (n == 0) {
        return 0.0;
    }
    gsl_sort(values, 1, n);
    return gsl_stats_quantile_from_sorted_data(values, 1, n, q);
}

static double row_residual(const struct sfi_fit *f, size_t row, const double *param) {
    double t = f->time(f->self, row, param);
    return log(t > 1e-15 ? t : 1e-15) - log(f->measured[row]);
}

/* Rows, then one residual per parameter: how far it is from its prior. */
static int residuals(const gsl_vector *x, void *self, gsl_vector *out) {
    const struct sfi_fit *f = self;
    double param[SF_CALIB_PARAMS];
    for (uint32_t p = 0; p < f->params_n; p++) {
        double theta = gsl_vector_get(x, p);
        param[p] = exp(fmin(fmax(theta, -600.0), 600.0));
        gsl_vector_set(out, f->rows_n + p, (theta - log(f->start[p])) / f->prior[p]);
    }
    for (size_t i = 0; i < f->rows_n; i++) {
        gsl_vector_set(out, i, row_residual(f, i, param));
    }
    return GSL_SUCCESS;
}

struct work {
    gsl_multifit_nlinear_workspace *solver;
    gsl_multifit_nlinear_fdf fdf;
    gsl_vector *start, *weights;
    gsl_matrix *covariance;
    double *size; /* [rows_n] scratch */
    double scale; /* of the residuals of rows */
};

static void read_param(const struct sfi_fit *f, const gsl_vector *x, double *param) {
    for (uint32_t p = 0; p < f->params_n; p++) {
        param[p] = exp(gsl_vector_get(x, p));
    }
}

/* Huber: rows within 1.345 standard deviations count fully, others less the farther they are. */
static void reweight(const struct sfi_fit *f, struct work *w) {
    double param[SF_CALIB_PARAMS];
    read_param(f, gsl_multifit_nlinear_position(w->solver), param);
    for (size_t i = 0; i < f->rows_n; i++) {
        w->size[i] = fabs(row_residual(f, i, param));
    }
    double spread = fmax(MAD_TO_SIGMA * sfi_quantile(w->size, f->rows_n, 0.5), LEAST_SCALE);
    w->scale = f->rows_n > f->params_n ? spread : UNKNOWN_SCALE;
    for (size_t i = 0; i < f->rows_n; i++) {
        double size = fabs(row_residual(f, i, param)) / w->scale;
        gsl_vector_set(w->weights, i, (size > HUBER ? HUBER / size : 1.0) / (w->scale * w->scale));
    }
    for (uint32_t p = 0; p < f->params_n; p++) {
        gsl_vector_set(w->weights, f->rows_n + p, 1.0);
    }
}

static int solve(const struct sfi_fit *f, struct work *w, struct sf_err *err) {
    int info = 0;
    gsl_vector_set_all(w->weights, 1.0);
    for (uint32_t p = 0; p < f->params_n; p++) {
        gsl_vector_set(w->start, p, log(f->start[p]));
        gsl_vector_set(w->weights, f->rows_n + p, 0.01); /* until the scale of the rows is known */
    }
    for (int round = 0; round < ROUNDS; round++) {
        int rc = gsl_multifit_nlinear_winit(w->start, w->weights, &w->fdf, w->solver);
        rc = rc ? rc : gsl_multifit_nlinear_driver(ITERATIONS, 1e-9, 1e-9, 0.0, NULL, NULL, &info, w->solver);
        if (rc != GSL_SUCCESS && rc != GSL_EMAXITER && rc != GSL_ENOPROG) {
            return sf_fail(err, SF_E_INPUT, "the fit does not settle (%s): are the times those of one machine?",
                           gsl_strerror(rc));
        }
        gsl_vector_memcpy(w->start, gsl_multifit_nlinear_position(w->solver));
        reweight(f, w);
    }
    return SF_OK;
}

/* The weights hold the variance of the rows, so the covariance needs no scaling. */
static void read_result(const struct sfi_fit *f, struct work *w, struct sfi_fitted *out) {
    double freedom = fmax((double)f->rows_n - (double)f->params_n, 1.0);
    gsl_multifit_nlinear_covar(gsl_multifit_nlinear_jac(w->solver), 0.0, w->covariance);
    read_param(f, w->start, out->param);
    for (uint32_t p = 0; p < f->params_n; p++) {
        out->sigma[p] = sqrt(fmax(gsl_matrix_get(w->covariance, p, p), 0.0));
    }
    out->quantile = gsl_cdf_tdist_Pinv(0.95, freedom);
}

static int fit_with(const struct sfi_fit *f, struct work *w, struct sfi_fitted *out, struct sf_err *err) {
    if (!w->solver || !w->start || !w->weights || !w->covariance || !w->size) {
        return sf_fail_memory(err, "fit");
    }
    SF_TRY(solve(f, w, err));
    read_result(f, w, out);
    return SF_OK;
}

int sfi_fit(const struct sfi_fit *fit, struct sfi_fitted *out, struct sf_err *err) {
    gsl_error_handler_t *before = gsl_set_error_handler_off();
    gsl_multifit_nlinear_parameters how = gsl_multifit_nlinear_default_parameters();
    size_t n = fit->rows_n + fit->params_n, p = fit->params_n;
    struct work w = {.solver = gsl_multifit_nlinear_alloc(gsl_multifit_nlinear_trust, &how, n, p),
                     .fdf = {.f = residuals, .n = n, .p = p, .params = (void *)(uintptr_t)fit},
                     .start = gsl_vector_alloc(p),
                     .weights = gsl_vector_alloc(n),
                     .covariance = gsl_matrix_alloc(p, p),
                     .size = sf_calloc(fit->rows_n, sizeof *w.size)};
    int rc = fit_with(fit, &w, out, err);
    sf_free(w.size);
    gsl_matrix_free(w.covariance);
    gsl_vector_free(w.weights);
    gsl_vector_free(w.start);
    if (w.solver) {
        gsl_multifit_nlinear_free(w.solver);
    }
    gsl_set_error_handler(before);
    return rc;
}
