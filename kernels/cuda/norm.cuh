/* RMS and layer normalisation. One pass: a row lives in registers, R words of 16 bytes per thread.
 *
 * Bytes per element below f32: forward 4, with the residual 8, backward 6, adding into dx 8. Weights and statistics are
 * read from cache. */
#ifndef SF_KERNELS_CUDA_NORM_CUH
#define SF_KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/dev.cuh"

template <typename T> struct norm_args {
    const T *x, *r, *w, *b;
    T *s, *y;
    float *mean, *rstd;
    int64_t rows;
    int cols;
    float eps;
};

template <typename T> struct norm_bwd_args {
    const T *dy, *x, *w;
    const float *mean, *rstd;
    T *dx;
    float *dw, *db; /* [blocks, cols] */
    int64_t rows;
    int cols;
    bool acc;
};

/* Column where word i of this thread begins. */
FN int norm_column(int i, int n) {
    return (i * (int)blockDim.x + (int)threadIdx.x) * n;
}

template <typename T, int R> FN float row_sum(const raw<T, width<T>::n> *x, float *shared) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int e = 0; e < width<T>::n; e++) {
            sum += at(x[i], e);
        }
    }
    return group_sum(sum, shared);
}

template <typename T, int R> FN float row_squares(const raw<T, width<T>::n> *x, float mean, int cols, float *shared) {
    constexpr int n = width<T>::n;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int e = 0; e < n; e++) {
            float d = at(x[i], e) - mean;
            sum += norm_column(i, n) + e < cols ? d * d : 0;
        }
    }
    return group_sum(sum, shared);
}

template <typename T, int R, bool WIDE, bool ADD>
FN void norm_load_row(const norm_args<T> &a, int64_t row, raw<T, width<T>::n> *x) {
    constexpr int n = width<T>::n;
#pragma unroll
    for (int i = 0; i < R; i++) {
        int c = norm_column(i, n), left = a.cols - c;
        clear(&x[i]);
        if (row >= a.rows || left <= 0) {
            continue;
        }
        x[i] = load<WIDE, ONCE, n>(a.x + row * a.cols + c, left);
        if (ADD) {
            raw<T, n> r = load<WIDE, ONCE, n>(a.r + row * a.cols + c, left);
            float sum[n];
#pragma unroll
            for (int e = 0; e < n; e++) {
                sum[e] = at(x[i], e) + at(r, e);
            }
            pack<n>(sum, &x[i]);
            store<WIDE, n>(a.s + row * a.cols + c, x[i], left);
        }
    }
}

template <typename T, int R, bool WIDE, bool LAYER>
FN void norm_store_row(const norm_args<T> &a, int64_t row, const raw<T, width<T>::n> *x, float mean, float rstd) {
    constexpr int n = width<T>::n;
#pragma unroll
    for (int i = 0; i < R; i++) {
        int c = norm_column(i, n), left = a.cols - c;
        if (row >= a.rows || left <= 0) {
            continue;
        }
        raw<T, n> w = load<WIDE, CONSTANT, n>(a.w + c, left), b, out;
        float y[n];
        if (LAYER) {
            b = load<WIDE, CONSTANT, n>(a.b + c, left);
        }
#pragma unroll
        for (int e = 0; e < n; e++) {
            y[e] = (at(x[i], e) - mean) * rstd * at(w, e) + (LAYER ? at(b, e) : 0);
        }
        pack<n>(y, &out);
        store<WIDE, n>(a.y + row * a.cols + c, out, left);
    }
}

template <typename T, int R, bool WIDE, bool LAYER, bool ADD>
__global__ void __launch_bounds__(512) norm_fwd(norm_args<T> a) {
    __shared__ float shared[2][32];
    for (int64_t first = (int64_t)blockIdx.x * blockDim.y; first < a.rows; first += (int64_t)gridDim.x * blockDim.y) {
        int64_t row = first + threadIdx.y;
        raw<T, width<T>::n> x[R];
        norm_load_row<T, R, WIDE, ADD>(a, row, x);
        float mean = LAYER ? row_sum<T, R>(x, shared[0]) / (float)a.cols : 0;
        float squares = row_squares<T, R>(x, mean, a.cols, shared[1]);
        float rstd = 1 / sqrtf(squares / (float)a.cols + a.eps);
        if (!LAYER) {
            __syncthreads(); /* one array alone is in use: nobody may still be reading it */
        }
        norm_store_row<T, R, WIDE, LAYER>(a, row, x, mean, rstd);
        if (threadIdx.x == 0 && row < a.rows) {
            a.rstd[row] = rstd;
            if (LAYER) {
                a.mean[row] = mean;
            }
        }
    }
}

/* A row of the backward pass, packed as it was loaded. */
template <typename T, int R> struct norm_row {
    raw<T, width<T>::n> x[R], dy[R];
    float mean, rstd;
};

template <typename T, int R, bool WIDE, bool LAYER>
FN void norm_bwd_load(const norm_bwd_args<T> &a, int64_t row, norm_row<T, R> *v) {
    constexpr int n = width<T>::n;
    v->mean = LAYER && row < a.rows ? a.mean[row] : 0;
    v->rstd = row < a.rows ? a.rstd[row] : 0;
#pragma unroll
    for (int i = 0; i < R; i++) {
        int c = norm_column(i, n), left = a.cols - c;
        clear(&v->x[i]);
        clear(&v->dy[i]);
        if (row < a.rows && left > 0) {
            v->x[i] = load<WIDE, ONCE, n>(a.x + row * a.cols + c, left);
            v->dy[i] = load<WIDE, ONCE, n>(a.dy + row * a.cols + c, left);
        }
    }
}

/* Adds this row's share to dw and db; leaves the sums of g*xhat and of g, with g = dy*w. */
template <typename T, int R, bool WIDE, bool LAYER>
FN void norm_bwd_sums(const norm_bwd_args<T> &a, const norm_row<T, R> &v, float *dw, float *db, float *pull,
                      float *mean_g) {
    constexpr int n = width<T>::n;
    *pull = *mean_g = 0;
#pragma unroll
    for (int i = 0; i < R; i++) {
        int c = norm_column(i, n), left = a.cols - c;
        if (left <= 0) {
            continue;
        }
        raw<T, n> w = load<WIDE, CONSTANT, n>(a.w + c, left);
#pragma unroll
        for (int e = 0; e < n; e++) {
            float dy = at(v.dy[i], e), xhat = (at(v.x[i], e) - v.mean) * v.rstd;
            *pull += dy * at(w, e) * xhat;
            *mean_g += dy * at(w, e);
            dw[i * n + e] += dy * xhat;
            if (LAYER) {
                db[i * n + e] += dy;
            }
        }
    }
}

template <typename T, int R, bool WIDE, bool LAYER>
FN void norm_bwd_store(const norm_bwd_args<T> &a, int64_t row, const norm_row<T, R> &v, float pull, float mean_g) {
    constexpr int n = width<T>::n;
#pragma unroll
    for (int i = 0; i < R; i++) {
        int c = norm_column(i, n), left = a.cols - c;
        if (row >= a.rows || left <= 0) {
            continue;
        }
        T *at_dx = a.dx + row * a.cols + c;
        raw<T, n> w = load<WIDE, CONSTANT, n>(a.w + c, left), old, out;
        clear(&old);
        if (a.acc) {
            old = load<WIDE, AGAIN, n>(at_dx, left);
        }
        float dx[n];
#pragma unroll
        for (int e = 0; e < n; e++) {
            float xhat = (at(v.x[i], e) - v.mean) * v.rstd;
            dx[e] = at(old, e) + v.rstd * (at(v.dy[i], e) * at(w, e) - xhat * pull - mean_g);
        }
        pack<n>(dx, &out);
        store<WIDE, n>(at_dx, out, left);
    }
}

/* Sums of the block's groups, in the order of y, into row blockIdx.x of `out`. */
template <typename T, int R> FN void norm_partial(const float *sums, int cols, float *out) {
    SF_DYNAMIC_SHARED(float, combined);
    constexpr int n = width<T>::n;
    for (int y = 0; y < (int)blockDim.y; y++) {
#pragma unroll
        for (int i = 0; i < R * n; i++) {
            int c = norm_column(i / n, n) + i % n;
            if (y != (int)threadIdx.y || c >= cols) {
                continue;
            }
            float sum = sums[i] + (y > 0 ? combined[c] : 0);
            if (y + 1 < (int)blockDim.y) {
                combined[c] = sum;
            } else {
                out[(int64_t)blockIdx.x * cols + c] = sum;
            }
        }
        __syncthreads();
    }
}

template <typename T, int R, bool WIDE, bool LAYER>
__global__ void __launch_bounds__(512) norm_bwd(norm_bwd_args<T> a) {
    __shared__ float shared[2][32];
    float dw[R * width<T>::n] = {0}, db[R * width<T>::n] = {0};
    for (int64_t first = (int64_t)blockIdx.x * blockDim.y; first < a.rows; first += (int64_t)gridDim.x * blockDim.y) {
        norm_row<T, R> v;
        float pull, mean_g;
        norm_bwd_load<T, R, WIDE, LAYER>(a, first + threadIdx.y, &v);
        norm_bwd_sums<T, R, WIDE, LAYER>(a, v, dw, db, &pull, &mean_g);
        pull = group_sum(pull, shared[0]) / (float)a.cols;
        if (LAYER) {
            mean_g = group_sum(mean_g, shared[1]) / (float)a.cols;
        } else {
            mean_g = 0;
            __syncthreads(); /* one array alone is in use */
        }
        norm_bwd_store<T, R, WIDE, LAYER>(a, first + threadIdx.y, v, pull, mean_g);
    }
    norm_partial<T, R>(dw, a.cols, a.dw);
    if (LAYER) {
        norm_partial<T, R>(db, a.cols, a.db);
    }
}

#endif
