/* A table over time as text. */
#include "planner/pipe_internal.h"

#include <string.h>

#include "core/arena.h"

sf_time_ps sfi_pipe_last_end(const struct sf_pipe *p, sf_time_ps *const *end) {
    sf_time_ps last = 1;
    for (uint32_t d = 0; d < p->devices; d++) {
        sf_time_ps own = p->passes_n[d] > 0 ? end[d][p->passes_n[d] - 1] : 0;
        last = own > last ? own : last;
    }
    return last;
}

static char letter(const struct sf_pipe *p, const struct sf_pass *x) {
    static const char first[SF_PASS_KINDS] = "FBWBX", other[SF_PASS_KINDS] = "fbwbx";
    return x == NULL ? '.' : x->stage < p->devices ? first[x->kind] : other[x->kind];
}

static void draw(struct sfi_column *columns, uint32_t columns_n, double start, double end, const struct sf_pass *x) {
    for (uint32_t i = (uint32_t)(start + 0.5); i < columns_n && i + 0.5 <= end; i++) {
        columns[i].pass = x;
    }
}

/* Pairs have one start and one end, so that only their first pass is drawn. */
void sfi_pipe_columns(const struct sf_pipe *p, uint32_t d, sf_time_ps *const *start, sf_time_ps *const *end,
                      double per_column, struct sfi_column *columns, uint32_t columns_n) {
    memset(columns, 0, columns_n * sizeof *columns);
    for (uint32_t i = 0; i < p->passes_n[d]; i++) {
        const struct sf_pass *x = &p->passes[d][i];
        draw(columns, columns_n, (double)start[d][i] / per_column, (double)end[d][i] / per_column, x);
        i += x->kind == SF_PASS_F_PAIR;
    }
}

void sf_pipe_chart(const struct sf_pipe *p, sf_time_ps *const *start, sf_time_ps *const *end, uint32_t columns_n,
                   struct sf_buf *out) {
    struct sfi_column *columns = sf_calloc(columns_n, sizeof *columns);
    double per_column = (double)sfi_pipe_last_end(p, end) / columns_n;
    if (columns == NULL) {
        out->failed = 1;
        return;
    }
    for (uint32_t d = 0; d < p->devices; d++) {
        sfi_pipe_columns(p, d, start, end, per_column, columns, columns_n);
        sf_buf_printf(out, "%4u ", d);
        for (uint32_t i = 0; i < columns_n; i++) {
            sf_buf_printf(out, "%c", letter(p, columns[i].pass));
        }
        sf_buf_printf(out, "\n");
    }
    sf_free(columns);
}
