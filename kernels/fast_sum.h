/* The canonical tree sum, block by block so that partial sums stay in the first cache. */
#ifndef SF_KERNELS_FAST_SUM_H
#define SF_KERNELS_FAST_SUM_H

#include "kernels/fast_vec.h"
#include "kernels/table.h"

enum {
    SUM_BLOCK = 256, /* elements */
    SUM_LEVELS = 32, /* up to 2^32 sources */
};

FN void sum_pair(float *y, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i += LANES) {
        store_n(y + i, load_n(a + i, n - i) + load_n(b + i, n - i), n - i);
    }
}

/* A binary counter over the sources: partial[l] is a finished subtree, and two subtrees of one size join at once. What
 * is left over joins from the right, which splits n at the largest power of two below it. */
FN void sum_block(float *y, const float *const src[], size_t n, size_t at, size_t count) {
    float partial[SUM_LEVELS][SUM_BLOCK];
    size_t depth = 0;
    for (size_t i = 0; i < n; i += 2) {
        if (i + 1 < n) {
            sum_pair(partial[depth], src[i] + at, src[i + 1] + at, count);
        } else {
            memcpy(partial[depth], src[i] + at, count * sizeof(float));
        }
        depth++;
        for (size_t pairs = i / 2 + 1; pairs % 2 == 0; pairs /= 2, depth--) {
            sum_pair(partial[depth - 2], partial[depth - 2], partial[depth - 1], count);
        }
    }
    for (; depth > 1; depth--) {
        sum_pair(partial[depth - 2], partial[depth - 2], partial[depth - 1], count);
    }
    memcpy(y + at, partial[0], count * sizeof(float));
}

FN void tree_sum(float *y, const float *const src[], size_t n, size_t count) {
    if (n == 0) {
        memset(y, 0, count * sizeof(float));
        return;
    }
    for (size_t at = 0; at < count; at += SUM_BLOCK) {
        sum_block(y, src, n, at, count - at < SUM_BLOCK ? count - at : SUM_BLOCK);
    }
}

#endif
