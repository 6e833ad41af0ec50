/* Embedding. Forward gathers rows: 4 bytes per element below f32.
 *
 * Backward never adds two rows at the same time: positions are sorted by token, stably and in two passes of a radix
 * sort, so that the rows of a token stand together in their order. Windows of WINDOW sorted positions then add up in
 * f32 what belongs to one token. A token that lies in one window is added to the table at once; where it goes on into
 * other windows, the parts are left as f32 sums and joined by a second kernel in order. 6 bytes per element of each row
 * at worst, less where tokens repeat. */
#ifndef SF_KERNELS_CUDA_EMBED_CUH
#define SF_KERNELS_CUDA_EMBED_CUH

#include "kernels/cuda/dev.cuh"

enum {
    WINDOW = 32,    /* sorted positions whose rows one block adds up */
    DIGIT_BITS = 9, /* per pass of the sort */
    DIGITS = 512,
    SORT_BLOCK = 256, /* positions per block of the sort */
    EMBED_THREADS = 128
};

FN bool is_token(int32_t token, int64_t vocab) {
    return token >= 0 && token < vocab;
}

template <typename T, bool WIDE>
__global__ void embed_fwd(const int32_t *tokens, const T *table, T *y, int cols, int64_t rows, int64_t vocab,
                          struct sf_cuda_fault *fault) {
    constexpr int n = width<T>::n;
    for (int64_t r = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += (int64_t)gridDim.x * blockDim.y) {
        int32_t token = tokens[r];
        bool known = is_token(token, vocab);
        if (!known && threadIdx.x == 0) {
            report_fault(fault, SF_CALL_EMBED_FWD, r, token, vocab);
        }
        for (int c = (int)threadIdx.x * n; c < cols; c += (int)blockDim.x * n) {
            raw<T, n> v;
            clear(&v);
            if (known) {
                v = load<WIDE, CONSTANT, n>(table + token * (int64_t)cols + c, cols - c);
            }
            store<WIDE, n>(y + r * cols + c, v, cols - c);
        }
    }
}

/* ---- sorting positions by token ---------------------------------------------------------------------------------- */

/* A position and its token; the token is the key. Unknown tokens sort behind all others. */
struct place {
    int32_t token, row;
};

struct sort_args {
    const int32_t *tokens;  /* read by the first pass, */
    const struct place *in; /* which has no `in` */
    struct place *out;
    int32_t *counts; /* [DIGITS, blocks] */
    int64_t vocab;
    int rows, shift;
    struct sf_cuda_fault *fault;
};

FN struct place sort_item(const sort_args &a, int i) {
    if (a.in != NULL) {
        return a.in[i];
    }
    struct place p = {a.tokens[i], i};
    if (!is_token(p.token, a.vocab)) {
        report_fault(a.fault, SF_CALL_EMBED_BWD, i, p.token, a.vocab);
        p.token = INT32_MAX;
    }
    return p;
}

FN int digit_of(struct place p, int shift) {
    return p.token >> shift & (DIGITS - 1);
}

/* How often each digit occurs in this block's positions. Adding integers is exact in any order. */
static __global__ void sort_count(sort_args a) {
    __shared__ int32_t count[DIGITS];
    int i = (int)(blockIdx.x * SORT_BLOCK + threadIdx.x);
    for (int d = (int)threadIdx.x; d < DIGITS; d += SORT_BLOCK) {
        count[d] = 0;
    }
    __syncthreads();
    if (i < a.rows) {
        atomicAdd(&count[digit_of(sort_item(a, i), a.shift)], 1);
    }
    __syncthreads();
    for (int d = (int)threadIdx.x; d < DIGITS; d += SORT_BLOCK) {
        a.counts[d * (int)gridDim.x + (int)blockIdx.x] = count[d];
    }
}

/* counts[i] = sum of counts[0..i-1]; one block of 1024. */
static __global__ void sort_scan(int32_t *counts, int count) {
    __shared__ int32_t sums[1024];
    int t = (int)threadIdx.x, share = (count + 1023) / 1024;
    int first = min(t * share, count), end = min(first + share, count), sum = 0;
    for (int i = first; i < end; i++) {
        sum += counts[i];
    }
    sums[t] = sum;
    __syncthreads();
    for (int step = 1; step < 1024; step *= 2) {
        int before = t >= step ? sums[t - step] : 0;
        __syncthreads();
        sums[t] += before;
        __syncthreads();
    }
    int at = t > 0 ? sums[t - 1] : 0;
    for (int i = first; i < end; i++) {
        int here = counts[i];
        counts[i] = at;
        at += here;
    }
}

static __global__ void sort_move(sort_args a) {
    __shared__ int32_t digits[SORT_BLOCK];
    int t = (int)threadIdx.x, i = (int)blockIdx.x * SORT_BLOCK + t;
    struct place p = {0, 0};
    digits[t] = -1;
    if (i < a.rows) {
        p = sort_item(a, i);
        digits[t] = digit_of(p, a.shift);
    }
    __syncthreads();
    if (i < a.rows) {
        int before = 0;
        for (int j = 0; j < t; j++) {
            before += digits[j] == digits[t];
        }
        a.out[a.counts[digits[t] * (int)gridDim.x + (int)blockIdx.x] + before] = p;
    }
}

/* ---- adding up --------------------------------------------------------------------------------------------------- */

template <typename T> struct embed_bwd_args {
    const struct place *sorted;
    const T *dy;
    T *dtable;
    float *parts; /* [windows, 2, cols]: of the token that began before the window; of the one that goes on after it */
    int rows, cols;
    int64_t vocab;
};

template <typename T, bool WIDE, int N> FN void add_to_table(T *to, const float *sum, int left) {
    raw<T, N> v = load<WIDE, AGAIN, N>(to, left);
    float total[N];
#pragma unroll
    for (int e = 0; e < N; e++) {
        total[e] = at(v, e) + sum[e];
    }
    pack<N>(total, &v);
    store<WIDE, N>(to, v, left);
}

/* The rows of one token that end before sorted position `end` of this window. */
template <typename T, bool WIDE>
FN void embed_flush(const embed_bwd_args<T> &a, int32_t token, bool from_before, bool goes_on, int c, float *sum) {
    constexpr int n = width<T>::n;
    if (token == INT32_MAX) {
        /* an unknown id: reported, and not added anywhere */
    } else if (!from_before && !goes_on) {
        add_to_table<T, WIDE, n>(a.dtable + (int64_t)token * a.cols + c, sum, a.cols - c);
    } else {
        float *to = a.parts + ((int64_t)blockIdx.x * 2 + (from_before ? 0 : 1)) * a.cols + c;
        for (int e = 0; e < n; e++) {
            if (c + e < a.cols) {
                to[e] = sum[e];
            }
        }
    }
    for (int e = 0; e < n; e++) {
        sum[e] = 0;
    }
}

FN int32_t token_at(const struct place *sorted, int i, int rows) {
    return i >= 0 && i < rows ? sorted[i].token : -1;
}

template <typename T, bool WIDE> __global__ void __launch_bounds__(EMBED_THREADS) embed_add(embed_bwd_args<T> a) {
    constexpr int n = width<T>::n;
    __shared__ struct place places[WINDOW + 2]; /* with the neighbours on both sides */
    int first = (int)blockIdx.x * WINDOW, end = min(first + WINDOW, a.rows);
    int c = (int)(blockIdx.y * EMBED_THREADS + threadIdx.x) * n, left = a.cols - c;
    for (int i = (int)threadIdx.x; i < WINDOW + 2; i += EMBED_THREADS) {
        int at = first - 1 + i;
        places[i].token = token_at(a.sorted, at, a.rows);
        places[i].row = at >= 0 && at < a.rows ? a.sorted[at].row : 0;
    }
    __syncthreads();
    if (left <= 0 || places[1].token == INT32_MAX) { /* of a split table most windows may hold unknown tokens alone */
        return;
    }
    float sum[n] = {0};
    bool from_before = places[0].token == places[1].token;
    for (int i = first; i < end; i += 4) {
        raw<T, n> v[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            clear(&v[k]);
            if (i + k < end) {
                v[k] = load<WIDE, ONCE, n>(a.dy + (int64_t)places[i + k - first + 1].row * a.cols + c, left);
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (i + k >= end) {
                continue;
            }
#pragma unroll
            for (int e = 0; e < n; e++) {
                sum[e] += at(v[k], e);
            }
            int32_t token = places[i + k - first + 1].token, next = places[i + k - first + 2].token;
            if (i + k + 1 == end || next != token) {
                embed_flush<T, WIDE>(a, token, from_before, next == token, c, sum);
                from_before = false;
            }
        }
    }
}

/* Tokens that reach over the end of window blockIdx.x and began in it. */
template <typename T, bool WIDE> __global__ void __launch_bounds__(EMBED_THREADS) embed_join(embed_bwd_args<T> a) {
    constexpr int n = width<T>::n;
    int first = (int)blockIdx.x * WINDOW, end = first + WINDOW;
    int c = (int)(blockIdx.y * EMBED_THREADS + threadIdx.x) * n, left = a.cols - c;
    int32_t token = token_at(a.sorted, end - 1, a.rows);
    bool began_before = token == token_at(a.sorted, first, a.rows) && token == token_at(a.sorted, first - 1, a.rows);
    if (left <= 0 || token < 0 || token == INT32_MAX || began_before || token_at(a.sorted, end, a.rows) != token) {
        return;
    }
    float sum[n] = {0};
    int w = (int)blockIdx.x, part = 1;
    do {
        const float *from = a.parts + ((int64_t)w * 2 + part) * a.cols + c;
#pragma unroll
        for (int e = 0; e < n; e++) {
            sum[e] += e < left ? from[e] : 0;
        }
        w++;
        part = 0;
    } while (token_at(a.sorted, w * WINDOW, a.rows) == token);
    add_to_table<T, WIDE, n>(a.dtable + (int64_t)token * a.cols + c, sum, left);
}

#endif
