/* Matrix products. The library runs one tile of C per core at a time and picks the tile, and into how many parts to cut
 * k, that finish first; so does this model.
 *
 *   rate of a core   peak_share * peak / cores / (1 + tile_loss * (1/rows + 1/columns of the tile))
 *                    small tiles load more operands per product
 *   waves            tiles * parts / cores, at least 1; `wave` is how far the last one counts as a whole wave: 0 when
 * cores that are done help the others a tile           k / parts + k_prologue steps: filling the pipeline before,
 * writing C after parts            leave sums in memory that are read again: 4 bytes * m * n per part
 *
 * The memory moves every operand once at memory_share of its peak, whichever takes longer counts. In fp8 and
 * below the rows of A are quantised first: two bytes read, and one or half of one written, at cast_share of the peak.
 * Every call begins with `launch`.
 */
#include <math.h>

#include "sim/cost_internal.h"

static const struct { double m, n; } tiles[] = {{256, 128}, {128, 256}, {128, 128}, {128, 64}, {64, 128}, {64, 64}};

struct product {
    double m, n, k, groups;
    double core_rate;   /* of one core, before the loss of its tile */
    double memory_rate; /* bytes per second */
    uint32_t cores;
};

static double tiled_s(const struct product *p, const struct sf_gemm_model *g, size_t tile, double parts) {
    double tm = tiles[tile].m, tn = tiles[tile].n;
    double rate = p->core_rate / (1.0 + g->tile_loss * (1.0 / tm + 1.0 / tn));
    double load = ceil(p->m / tm) * ceil(p->n / tn) * p->groups * parts / p->cores;
    double waves = fmax(g->wave * ceil(load) + (1.0 - g->wave) * load, 1.0);
    double sums = parts > 1.0 ? 4.0 * p->m * p->n * p->groups * parts / p->memory_rate : 0.0;
    return waves * (p->k / parts + g->k_prologue) * 2.0 * tm * tn / rate + sums;
}

static double fastest_s(const struct product *p, const struct sf_gemm_model *g) {
    double best = INFINITY;
    for (size_t tile = 0; tile < sizeof tiles / sizeof tiles[0]; tile++) {
        for (double parts = 1.0; parts <= 8.0; parts *= 2.0) {
            best = fmin(best, tiled_s(p, g, tile, parts));
        }
    }
    return best;
}

static bool is_inside(const struct sf_measured_range *r, double v) {
    return v >= (double)r->lo && v <= (double)r->hi;
}

const struct sf_gemm_model *sfi_gemm_model(const struct sf_device_class *d, int dtype) {
    bool stands_in = dtype == SF_MXFP8 && d->kernels.gemm[dtype].peak_share <= 0.0;
    return &d->kernels.gemm[stands_in ? SF_FP8 : dtype];
}

double sfi_gemm_s(const struct sf_device_class *d, const struct sfi_gemm *call, enum sf_grade *grade) {
    const struct sf_gemm_model *g = sfi_gemm_model(d, call->dtype);
    double memory = (double)d->memory_bytes_per_s;
    const struct product p = {call->m,
                              call->n,
                              call->k,
                              call->groups,
                              d->flops_per_s[call->dtype] * g->peak_share / d->kernels.cores,
                              memory * g->memory_share,
                              d->kernels.cores};
    bool measured = call->groups <= 1.0 && is_inside(&g->m, p.m) && is_inside(&g->n, p.n) && is_inside(&g->k, p.k);
    double t = fmax(fastest_s(&p, g), call->bytes / p.memory_rate);
    if (g->cast_share > 0.0) {
        t += (call->dtype == SF_NVFP4 ? 2.5 : 3.0) * p.m * p.k * p.groups / (memory * g->cast_share);
    }
    measured = measured && g == &d->kernels.gemm[call->dtype];
    *grade = measured ? g->grade : SF_GRADE_EXTRAPOLATED;
    return sf_ps_to_s(g->launch_ps) + t;
}
