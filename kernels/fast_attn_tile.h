/* Register tiles and layouts of the attention kernels (see fast_attn.h for the method). */
#ifndef SF_KERNELS_FAST_ATTN_TILE_H
#define SF_KERNELS_FAST_ATTN_TILE_H

#include "kernels/fast_vec.h"
#include "kernels/table.h"

enum {
    QV = SFI_LANES == 16 ? 4 : 2, /* vectors of queries in a tile */
    QT = QV * SFI_LANES,          /* queries in a tile */
    KT = 64,                      /* keys in a tile, at most */
    HD = SFI_ATTN_HEAD_DIM_MAX,
    MR = 4, /* scalars of the left factor per register tile */
};
_Static_assert(KT % QT == 0 && HD % SFI_LANES == 0, "tiles nest");

/* One factor of a tile product: element (r, k) of the left is a[r * a_row + k * a_k], row k of the right starts at
 * b[k * b_row], row r of the result at c[r * c_row]. */
struct mul {
    const float *a, *b;
    float *c;
    size_t a_row, a_k, b_row, c_row;
    size_t rows, k_n; /* rows is a multiple of MR */
};

enum mul_mode { MUL_SET, MUL_ADD, MUL_RESCALE /* c * scale[vector] + a b */ };

/* c[MR rows][nv vectors]; nv and mode are constants at every call, so the accumulators live in registers. */
INLINE void mul_block(const struct mul *p, size_t r, const int nv, const enum mul_mode mode, const vf *scale) {
    vf acc[MR][QV];
    float *c = p->c + r * p->c_row;
    const float *a = p->a + r * p->a_row;
    const float *b = p->b;
    UNROLL
    for (int i = 0; i < MR; i++) {
        UNROLL
        for (int v = 0; v < nv; v++) {
            vf old = mode == MUL_SET ? splat(0) : load(c + (size_t)i * p->c_row + v * LANES);
            acc[i][v] = mode == MUL_RESCALE ? old * scale[v] : old;
        }
    }
    for (size_t k = 0; k < p->k_n; k++) {
        UNROLL
        for (int i = 0; i < MR; i++) {
            vf s = splat(a[(size_t)i * p->a_row + k * p->a_k]);
            UNROLL
            for (int v = 0; v < nv; v++) {
                acc[i][v] += s * load(b + k * p->b_row + v * LANES);
            }
        }
    }
    UNROLL
    for (int i = 0; i < MR; i++) {
        UNROLL
        for (int v = 0; v < nv; v++) {
            store(c + (size_t)i * p->c_row + v * LANES, acc[i][v]);
        }
    }
}

INLINE void mul_rows(const struct mul *p, const int nv, const enum mul_mode mode, const vf *scale) {
    for (size_t r = 0; r < p->rows; r += MR) {
        mul_block(p, r, nv, mode, scale);
    }
}

/* nv in 1..QV vectors wide. */
INLINE void mul_narrow(const struct mul *p, size_t nv, const enum mul_mode mode, const vf *scale) {
    switch (nv) {
#if SFI_LANES == 16
    case 4:
        mul_rows(p, 4, mode, scale);
        break;
    case 3:
        mul_rows(p, 3, mode, scale);
        break;
#endif
    case 2:
        mul_rows(p, 2, mode, scale);
        break;
    default:
        mul_rows(p, 1, mode, scale);
        break;
    }
}

FN void mul_set(const struct mul *p, size_t nv) {
    mul_narrow(p, nv, MUL_SET, NULL);
}

FN void mul_rescale(const struct mul *p, size_t nv, const vf *scale) {
    mul_narrow(p, nv, MUL_RESCALE, scale);
}

/* Any number of vectors wide. */
FN void mul_add(const struct mul *p, size_t nv) {
    struct mul part = *p;
    for (; nv > 0; part.b += QT, part.c += QT) {
        size_t now = nv < QV ? nv : QV;
        mul_narrow(&part, now, MUL_ADD, NULL);
        nv -= now;
    }
}

/* Rows of `cols` values, `stride` apart, into dense rows of `width` >= cols, zero beyond cols and beyond rows. */
FN void pack_rows(const float *src, size_t stride, size_t rows, size_t cols, size_t rows_out, size_t width,
                  float *dst) {
    for (size_t r = 0; r < rows_out; r++) {
        size_t filled = r < rows ? cols : 0;
        if (filled > 0) {
            memcpy(dst + r * width, src + r * stride, filled * sizeof(float));
        }
        memset(dst + r * width + filled, 0, (width - filled) * sizeof(float));
    }
}

/* The first and the second half of a and b, interleaved. */
INLINE vf zip_low(vf a, vf b) {
#if SFI_LANES == 16
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif SFI_LANES == 8
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}

INLINE vf zip_high(vf a, vf b) {
#if SFI_LANES == 16
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif SFI_LANES == 8
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

/* Transposes a LANES x LANES block: zipping row i with row i + LANES/2, log2(LANES) times. */
FN void transpose_block(const float *src, size_t src_row, float *dst, size_t dst_row) {
    vf a[LANES], b[LANES];
    for (int i = 0; i < LANES; i++) {
        a[i] = load(src + (size_t)i * src_row);
    }
    for (int step = 1; step < LANES; step *= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            b[2 * i] = zip_low(a[i], a[i + LANES / 2]);
            b[2 * i + 1] = zip_high(a[i], a[i + LANES / 2]);
        }
        memcpy(a, b, sizeof(a));
    }
    for (int i = 0; i < LANES; i++) {
        store(dst + (size_t)i * dst_row, a[i]);
    }
}

/* dst[cols][dst_row] = src[rows][src_row] transposed; rows and cols are multiples of LANES. */
FN void transpose(const float *src, size_t src_row, size_t rows, size_t cols, float *dst, size_t dst_row) {
    for (size_t r = 0; r < rows; r += LANES) {
        for (size_t c = 0; c < cols; c += LANES) {
            transpose_block(src + r * src_row + c, src_row, dst + c * dst_row + r, dst_row);
        }
    }
}

#endif
