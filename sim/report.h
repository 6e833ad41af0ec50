/* report.html: one file, no network, no scripts; readable in light and dark. */
#ifndef SF_SIM_REPORT_H
#define SF_SIM_REPORT_H

#include "core/io.h"
#include "sim/compare.h"
#include "topo/topo.h"

struct sf_report {
    const struct sf_prog *prog;
    const struct sf_compare *compare;
    const struct sf_trace *predicted, *measured;
    const struct sf_topo *topo;         /* NULL: no sources listed */
    const struct sf_cost *cost;         /* what the prediction was priced with; NULL: no kernels listed */
    const struct sf_forecast *forecast; /* NULL: the prediction was not sealed */
    const double *losses;               /* per step; NULL: no curve */
    size_t losses_n;
};

int sf_report_html(const struct sf_report *r, struct sf_buf *out, struct sf_err *err);

#endif
