/* Inside the report: escaping, number formats and the page's parts. Every part appends to `out`. */
#ifndef SF_SIM_REPORT_PART_H
#define SF_SIM_REPORT_PART_H

#include "sim/report.h"

/* Text from outside, safe inside elements and quoted attributes; bytes that are no UTF-8 become U+FFFD. */
void sfi_html_text(struct sf_buf *out, const char *text);
/* "1.234 ms" with a no-break space; "unknown" below zero. */
void sfi_html_time(struct sf_buf *out, sf_time_ps t);
/* "+3.2 %", with a real minus sign. */
void sfi_html_percent(struct sf_buf *out, double fraction);

extern const char sfi_report_style[]; /* the style sheet, colours of op kinds included */

void sfi_report_kinds(const struct sf_report *r, struct sf_buf *out);
void sfi_report_recipes(const struct sf_report *r, struct sf_buf *out);
void sfi_report_gaps(const struct sf_report *r, struct sf_buf *out);
void sfi_report_order(const struct sf_report *r, struct sf_buf *out);
void sfi_report_basis(const struct sf_report *r, struct sf_buf *out);

/* Lanes of both traces over one axis. */
int sfi_report_timeline(const struct sf_report *r, struct sf_buf *out, struct sf_err *err);
void sfi_report_loss(const struct sf_report *r, struct sf_buf *out);

/* Distance of axis ticks: 1, 2 or 5 times a power of ten, so that about `ticks` of them span `range` (above 0). */
double sfi_tick(double range, int ticks);

#endif
