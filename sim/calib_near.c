/* What a form leaves over, from the rows beside a call: blocking inside a library, power-of-two strides and the sizes
 * of caches make times that no smooth form has, but calls of nearly the same sizes share them.
 *
 * The mean of the logarithms of measured/form over rows of the same kind, precision and flags, weighted by a normal
 * curve over the distance of their dims (a factor of two is one standard deviation), and drawn towards nothing by
 * `doubt` rows that agree with the form. */
#include <math.h>

#include "sim/calib_internal.h"

#define WIDTH 0.69314718055994531 /* of the curve, in logarithms of dims */
#define FAR 9.0                   /* squared distance, in widths, from which on a row says nothing */

/* Squared distance in widths; FAR where one has a dim that the other lacks. */
static double distance(const int64_t *a, const int64_t *b) {
    double sum = 0.0;
    for (int d = 0; d < SF_CALL_DIMS && sum < FAR; d++) {
        if (a[d] == b[d]) {
            continue;
        }
        if (a[d] <= 0 || b[d] <= 0) {
            return FAR;
        }
        double apart = log((double)a[d] / (double)b[d]) / WIDTH;
        sum += apart * apart;
    }
    return sum;
}

void sfi_near_add(struct sfi_near *near, const int64_t *dims, const int64_t *row_dims, double residual) {
    double apart = distance(dims, row_dims);
    if (apart < FAR) {
        double weight = exp(-apart / 2.0);
        near->weight += weight;
        near->sum += weight * residual;
    }
}

double sfi_near_factor(const struct sfi_near *near, double doubt) {
    return exp(near->sum / (near->weight + doubt));
}
