/* Tables of matrix products for calibration. */
#ifndef SF_PLANNER_CALIB_CSV_H
#define SF_PLANNER_CALIB_CSV_H

#include "planner/csv.h"
#include "sim/calib.h"

/* Columns m, n, k, dtype and one of time_s, time_ms, time_us, time_ns, tflops, found by name; others are for people.
 * Rows of precisions that no program has count as left out. As frameworks store weights, B is [n, k]. */
int sf_calib_read_gemm(struct sf_calib_data *d, const char *text, size_t bytes, const char *path, struct sf_err *err);

#endif
