/* Cross entropy over logits that are overwritten by their gradient; no f32 logits anywhere.
 *
 * A block takes a row. The first pass finds maximum and sum together and keeps as much of the row as fits in shared
 * memory, the second writes the gradient: 4 bytes per element below f32. Rows may start anywhere (odd vocabularies), so
 * words are those of memory, and elements of other rows in the first and last one are left alone.
 *
 * Where ranks each have a part of the vocabulary, the passes are calls of their own: 2 bytes per element below f32 for
 * the first and 4 for the second, whatever the rows' length. */
#ifndef SF_KERNELS_CUDA_XENT_CUH
#define SF_KERNELS_CUDA_XENT_CUH

#include "kernels/cuda/dev.cuh"

template <typename T> struct xent_args {
    T *logits;
    const int32_t *targets;
    float *losses; /* [rows] */
    struct sf_cuda_fault *fault;
    int64_t rows;
    int vocab, kept; /* words of a row that shared memory holds */
    int padding;     /* elements between a row and the next; cleared */
    float scale;
};

/* Running maximum and sum of e^(x - maximum). */
struct soft {
    float max, sum;
};

template <typename T> FN struct soft soft_join(struct soft a, struct soft b) {
    float max = fmaxf(a.max, b.max);
    struct soft s = {max, 0};
    s.sum += a.max == max ? a.sum : a.sum * exp_of<T>(a.max - max);
    s.sum += b.max == max ? b.sum : b.sum * exp_of<T>(b.max - max);
    return s;
}

template <typename T> FN struct soft soft_block(struct soft s) {
    __shared__ struct soft shared[32];
    for (int step = 16; step > 0; step /= 2) {
        struct soft other = {__shfl_xor_sync(ALL_LANES, s.max, step), __shfl_xor_sync(ALL_LANES, s.sum, step)};
        s = soft_join<T>(s, other);
    }
    if (threadIdx.x % 32 == 0) {
        shared[threadIdx.x / 32] = s;
    }
    __syncthreads();
    s = shared[0];
    for (int i = 1; i < (int)blockDim.x / 32; i++) {
        s = soft_join<T>(s, shared[i]);
    }
    return s;
}

/* Word i of a row: elements first .. first + n - 1, of which those in [0, vocab) belong to it. */
template <typename T> FN bool whole_word(const xent_args<T> &a, int first) {
    return first >= 0 && first + width<T>::n <= a.vocab;
}

template <typename T> FN raw<T, width<T>::n> xent_load(const xent_args<T> &a, const T *row, int first) {
    constexpr int n = width<T>::n;
    if (whole_word(a, first)) {
        return load<true, AGAIN, n>(row + first, n);
    }
    raw<T, n> v;
    float x[n];
#pragma unroll
    for (int e = 0; e < n; e++) {
        x[e] = first + e >= 0 && first + e < a.vocab ? to_f32(row[first + e]) : -INFINITY;
    }
    pack<n>(x, &v);
    return v;
}

template <typename T> FN void xent_store(const xent_args<T> &a, T *row, int first, const raw<T, width<T>::n> &v) {
    constexpr int n = width<T>::n;
    if (whole_word(a, first)) {
        store<true, n>(row + first, v, n);
        return;
    }
#pragma unroll
    for (int e = 0; e < n; e++) {
        if (first + e >= 0 && first + e < a.vocab) {
            row[first + e] = from_f32<T>(at(v, e));
        }
    }
}

template <typename T> FN struct soft soft_word(struct soft s, const raw<T, width<T>::n> &v) {
    constexpr int n = width<T>::n;
    float max = s.max;
#pragma unroll
    for (int e = 0; e < n; e++) {
        max = fmaxf(max, at(v, e));
    }
    if (max > s.max) {
        s.sum *= exp_of<T>(s.max - max);
        s.max = max;
    }
    float base = max == -INFINITY ? 0 : max;
#pragma unroll
    for (int e = 0; e < n; e++) {
        s.sum += exp_of<T>(at(v, e) - base);
    }
    return s;
}

/* Elements of the row's first word that lie before the row. */
template <typename T> FN int words_lead(const T *row) {
    return (int)((uintptr_t)row % 16 / sizeof(T));
}

template <typename T> FN struct soft xent_first_pass(const xent_args<T> &a, const T *row, raw<T, width<T>::n> *kept) {
    constexpr int n = width<T>::n;
    int lead = words_lead(row), words = (a.vocab + lead + n - 1) / n;
    struct soft s = {-INFINITY, 0};
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < words; i += (int)blockDim.x) {
        raw<T, n> v = xent_load(a, row, i * n - lead);
        if (i < a.kept) {
            kept[i] = v;
        }
        s = soft_word<T>(s, v);
    }
    return soft_block<T>(s);
}

/* The gradient of a row: share * e^(x - max), less the scale at the target. */
struct slope {
    float share, max;
    int target; /* -1: not in this row */
};

template <typename T>
FN void xent_second_pass(const xent_args<T> &a, T *row, const raw<T, width<T>::n> *kept, struct slope s, bool counts) {
    constexpr int n = width<T>::n;
    int lead = words_lead(row), words = (a.vocab + lead + n - 1) / n;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < words; i += (int)blockDim.x) {
        int first = i * n - lead;
        raw<T, n> v = i < a.kept ? kept[i] : xent_load(a, row, first);
        float d[n];
#pragma unroll
        for (int e = 0; e < n; e++) {
            d[e] = counts ? s.share * exp_of<T>(at(v, e) - s.max) : 0;
            d[e] -= first + e == s.target ? a.scale : 0;
        }
        pack<n>(d, &v);
        xent_store(a, row, first, v);
    }
}

/* A target outside the vocabulary leaves a loss and a gradient of zero. */
template <typename T> __global__ void __launch_bounds__(1024, 1) xent_kernel(xent_args<T> a) {
    typedef raw<T, width<T>::n> word;
    SF_DYNAMIC_SHARED(word, kept);
    for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
        T *row = a.logits + r * ((int64_t)a.vocab + a.padding);
        int target = a.targets[r];
        if (target < 0 || target >= a.vocab) {
            if (threadIdx.x == 0) {
                report_fault(a.fault, SF_CALL_XENT, r, target, a.vocab);
            }
            target = -1;
        }
        float wanted = target >= 0 ? to_f32(row[target]) : 0; /* before anybody overwrites it: see the barrier inside */
        struct soft s = xent_first_pass(a, row, kept);
        struct slope slope = {a.scale / s.sum, s.max, target};
        xent_second_pass(a, row, kept, slope, target >= 0);
        for (int i = (int)threadIdx.x; i < a.padding; i += (int)blockDim.x) {
            row[a.vocab + i] = from_f32<T>(0);
        }
        if (threadIdx.x == 0) {
            a.losses[r] = target >= 0 ? logf(s.sum) + s.max - wanted : 0;
        }
        __syncthreads(); /* soft_block's array and the kept words serve the next row */
    }
}

/* ---- a vocabulary in parts --------------------------------------------------------------------------------------- */

enum { PART_THREADS = 512 };

/* The target's place in the part of this rank, or -1. */
template <typename T> FN int part_target(const xent_args<T> &a, int64_t row) {
    int target = a.targets[row];
    return target >= 0 && target < a.vocab ? target : -1;
}

template <typename T> __global__ void __launch_bounds__(PART_THREADS) xent_stats_kernel(xent_args<T> a, float *stats) {
    for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
        const T *row = a.logits + r * a.vocab;
        struct soft s = xent_first_pass<T>(a, row, NULL);
        if (threadIdx.x == 0) {
            int target = part_target(a, r);
            stats[r] = logf(s.sum) + s.max;
            stats[a.rows + r] = target >= 0 ? to_f32(row[target]) : 0;
        }
        __syncthreads(); /* soft_block's array serves the next row */
    }
}

/* The whole row's log of the sum of exp, and its loss; all threads and ranks find the same. */
FN float join_parts(const float *stats, int64_t row, int64_t rows, int64_t parts, float *loss) {
    float max = -INFINITY, sum = 0, target = 0;
    for (int64_t p = 0; p < parts; p++) {
        max = fmaxf(max, stats[2 * p * rows + row]);
        target += stats[(2 * p + 1) * rows + row];
    }
    for (int64_t p = 0; p < parts; p++) {
        sum += expf(stats[2 * p * rows + row] - max);
    }
    float lse = logf(sum) + max;
    *loss = lse - target;
    return lse;
}

/* Reads each logit once, so nothing is kept. */
template <typename T>
__global__ void __launch_bounds__(PART_THREADS) xent_part_kernel(xent_args<T> a, const float *stats, int64_t parts) {
    for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
        float loss, lse = join_parts(stats, r, a.rows, parts, &loss);
        struct slope slope = {a.scale, lse, part_target(a, r)};
        xent_second_pass<T>(a, a.logits + r * a.vocab, NULL, slope, true);
        if (threadIdx.x == 0) {
            a.losses[r] = loss;
        }
    }
}

#endif
