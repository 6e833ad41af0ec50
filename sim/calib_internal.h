/* What the files of calibration share with the cost model. */
#ifndef SF_SIM_CALIB_INTERNAL_H
#define SF_SIM_CALIB_INTERNAL_H

#include "core/doc.h"
#include "sim/calib.h"

/* Without two measurements of anything, what to expect of a third. */
#define SFI_REPEAT 0.05
#define SFI_FEW_ROWS_ERROR 0.30
/* Error of a model outside the sizes it was fitted to, in its own p90. */
#define SFI_OUTSIDE 2.0

/* A model as a calibration file states it. */
struct sfi_calib_model {
    uint16_t kind, dtype;
    int form;
    double param[SF_CALIB_PARAMS];
    double p90;
    double work_lo, work_hi; /* flops or bytes of the smallest and the largest call fitted to */
};

/* What decides a call's time: kind, dtype, flags and dims count. */
struct sf_call sfi_calib_call(const struct sf_calib_row *row);
double sfi_calib_s(int form, const double *param, const struct sf_call *call);
double sfi_calib_link_s(const double *param, const struct sf_calib_point *point);
double sfi_calib_work(const struct sf_call *call); /* flops of products and attention, else bytes */

/* Robust fit of positive parameters to positive times, all in logarithms. */
struct sfi_fit {
    const void *self;
    double (*time)(const void *self, size_t row, const double *param);
    const double *measured; /* [rows_n] seconds */
    size_t rows_n;
    uint32_t params_n;
    const double *start, *prior; /* start value, and how far it may be wrong: standard deviation of its logarithm */
};
struct sfi_fitted {
    double param[SF_CALIB_PARAMS], sigma[SF_CALIB_PARAMS]; /* sigma: of the logarithm */
    double quantile;                                       /* how many sigmas the 90 % interval reaches */
};
int sfi_fit(const struct sfi_fit *fit, struct sfi_fitted *out, struct sf_err *err);

/* calib_near.c: how far rows of the same kind, precision and flags are from their form, near a call's dims. Begins
 * zeroed; long tables, of more than SFI_NEAR_ROWS such rows, are described by the form alone. */
#define SFI_NEAR_ROWS 1024
struct sfi_near {
    double weight, sum;
};
void sfi_near_add(struct sfi_near *near, const int64_t *dims, const int64_t *row_dims, double residual);
/* On what the form says, drawn towards 1 by `doubt` rows that agree with it. */
double sfi_near_factor(const struct sfi_near *near, double doubt);
#define SFI_NEAR_DOUBT 0.4

double sfi_quantile(double *values, size_t n, double q); /* sorts; interpolates; 0 when there are none */

/* Reads the entries `models` and `calibration` of a kernel table. */
int sfi_calib_read_models(const struct sf_node *list, struct sfi_calib_model **out, size_t *n, struct sf_err *err);
int sfi_calib_read_head(const struct sf_node *map, double *repeat, struct sf_err *err);

#endif
