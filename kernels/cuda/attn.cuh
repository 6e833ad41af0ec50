/* Causal attention without tensor cores: the reference on the device, and what runs where cuDNN has no plan.
 *
 * A block takes TILE rows of one head, eight lanes per row. Scores of a tile of the other side live in shared memory;
 * nothing of size seq x seq exists. Every sum has one owner and one order. */
#ifndef SF_KERNELS_CUDA_ATTN_CUH
#define SF_KERNELS_CUDA_ATTN_CUH

#include "kernels/cuda/dev.cuh"

enum { TILE = 32, LANES = 8, ATTN_THREADS = TILE * LANES, ATTN_HEAD_MAX = 256 };

template <typename T> struct attn_args {
    const T *q, *k, *v, *o, *d_o;
    T *out, *dq, *dk, *dv;
    float *lse, *delta; /* [batch, heads, seq] */
    float *sum;         /* of a slice: f32 gradients of all keys, then of values, kv_stride apart; else NULL */
    int64_t row_stride, kv_stride, o_stride;
    int seq, keys, before; /* queries are the last `seq` of `keys` positions: before + seq */
    int heads, kv_heads, head_dim;
    float scale;
    bool add; /* to the sums of later slices */
};

/* Which row of its tile a thread works on, and which of the row's lanes it is. */
struct role {
    int row, lane;
};

FN struct role role_of(void) {
    return {(int)threadIdx.x / LANES, (int)threadIdx.x % LANES};
}

FN float lanes_sum(float v) {
    for (int step = LANES / 2; step > 0; step /= 2) {
        v += __shfl_xor_sync(ALL_LANES, v, step);
    }
    return v;
}

FN float lanes_max(float v) {
    for (int step = LANES / 2; step > 0; step /= 2) {
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, step));
    }
    return v;
}

/* Rows of a tile are head_dim + 1 floats apart, so that lanes that read different rows hit different banks. */
FN float *tile_row(float *tile, int row, int head_dim) {
    return tile + row * (head_dim + 1);
}

/* Rows first .. first + TILE - 1 of one head as f32; rows behind the end are 0. */
template <typename T> FN void load_tile(const T *from, int64_t stride, int first, int seq, int head_dim, float *tile) {
    for (int i = (int)threadIdx.x; i < TILE * head_dim; i += ATTN_THREADS) {
        int row = i / head_dim, c = i % head_dim;
        tile_row(tile, row, head_dim)[c] = first + row < seq ? to_f32(from[(first + row) * stride + c]) : 0;
    }
}

FN float dot_rows(const float *a, const float *b, int n) {
    float sum = 0;
    for (int c = 0; c < n; c++) {
        sum += a[c] * b[c];
    }
    return sum;
}

/* sum[i] += weights[0..TILE-1] . column lane + 8i of the tile. */
template <int C> FN void add_columns(const float *weights, float *tile, int head_dim, int lane, float *sum) {
    for (int j = 0; j < TILE; j++) {
        const float *row = tile_row(tile, j, head_dim);
#pragma unroll
        for (int i = 0; i < C; i++) {
            int c = lane + LANES * i;
            sum[i] += c < head_dim ? weights[j] * row[c] : 0;
        }
    }
}

template <typename T, int C> FN void store_columns(T *to, const float *sum, float factor, int head_dim, int lane) {
#pragma unroll
    for (int i = 0; i < C; i++) {
        int c = lane + LANES * i;
        if (c < head_dim) {
            to[c] = from_f32<T>(sum[i] * factor);
        }
    }
}

/* Arrays of a block, one after the other in shared memory. */
struct attn_tiles {
    float *a, *b, *c, *d; /* tiles of rows */
    float *p, *ds;        /* [TILE, TILE + 1] */
};

FN struct attn_tiles tiles_of(float *shared, int head_dim) {
    int tile = TILE * (head_dim + 1), square = TILE * (TILE + 1);
    float *p = shared + 4 * tile;
    return {shared, shared + tile, shared + 2 * tile, shared + 3 * tile, p, p + square};
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* Scores of one row against a tile of keys, turned into weights relative to the new maximum. Returns how much sums so
 * far shrink. */
FN float soft_tile(struct attn_tiles t, struct role me, int i, int first_key, int keys, int head_dim, float scale,
                   float *max, float *sum) {
    float s[TILE / LANES], top = *max, here = 0;
#pragma unroll
    for (int jj = 0; jj < TILE / LANES; jj++) {
        int j = me.lane + LANES * jj;
        bool seen = first_key + j <= i && first_key + j < keys;
        s[jj] = dot_rows(tile_row(t.a, me.row, head_dim), tile_row(t.b, j, head_dim), head_dim) * scale;
        s[jj] = seen ? s[jj] : -INFINITY;
        top = fmaxf(top, s[jj]);
    }
    top = lanes_max(top);
#pragma unroll
    for (int jj = 0; jj < TILE / LANES; jj++) {
        float p = expf(s[jj] - top);
        t.p[me.row * (TILE + 1) + me.lane + LANES * jj] = p;
        here += p;
    }
    float shrink = expf(*max - top);
    *sum = *sum * shrink + lanes_sum(here);
    *max = top;
    return shrink;
}

/* Grid: tiles of queries, heads, batch. */
template <typename T, int C> __global__ void __launch_bounds__(ATTN_THREADS, 1) attn_fwd(attn_args<T> a) {
    SF_DYNAMIC_SHARED(float, shared);
    struct attn_tiles t = tiles_of(shared, a.head_dim);
    struct role me = role_of();
    int head = (int)blockIdx.y, kv = head / (a.heads / a.kv_heads), first = (int)blockIdx.x * TILE, i = first + me.row;
    int64_t start = (int64_t)blockIdx.z * a.seq, kv_start = (int64_t)blockIdx.z * a.keys * a.kv_stride;
    const T *k = a.k + kv_start + kv * a.head_dim, *v = a.v + kv_start + kv * a.head_dim;
    float sum[C] = {0}, max = -INFINITY, total = 0;
    load_tile(a.q + start * a.row_stride + head * a.head_dim, a.row_stride, first, a.seq, a.head_dim, t.a);
    for (int key = 0; key < a.before + first + TILE && key < a.keys; key += TILE) {
        load_tile(k, a.kv_stride, key, a.keys, a.head_dim, t.b);
        load_tile(v, a.kv_stride, key, a.keys, a.head_dim, t.c);
        __syncthreads();
        float shrink = soft_tile(t, me, a.before + i, key, a.keys, a.head_dim, a.scale, &max, &total);
        __syncwarp();
#pragma unroll
        for (int c = 0; c < C; c++) {
            sum[c] *= shrink;
        }
        add_columns<C>(t.p + me.row * (TILE + 1), t.c, a.head_dim, me.lane, sum);
        __syncthreads();
    }
    if (i < a.seq) {
        store_columns<T, C>(a.out + (start + i) * a.o_stride + head * a.head_dim, sum, 1 / total, a.head_dim, me.lane);
        if (me.lane == 0) {
            a.lse[((int64_t)blockIdx.z * a.heads + head) * a.seq + i] = max + logf(total);
        }
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* delta = do . o per query and head. */
template <typename T> __global__ void attn_delta(attn_args<T> a, int64_t rows) {
    struct role me = role_of();
    int64_t r = (int64_t)blockIdx.x * TILE + me.row; /* (batch, head, query) */
    float sum = 0;
    if (r < rows) {
        int64_t query = r % a.seq, head = r / a.seq % a.heads, batch = r / a.seq / a.heads;
        int64_t at = (batch * a.seq + query) * a.o_stride + head * a.head_dim;
        for (int c = me.lane; c < a.head_dim; c += LANES) {
            sum += to_f32(a.o[at + c]) * to_f32(a.d_o[at + c]);
        }
    }
    sum = lanes_sum(sum);
    if (r < rows && me.lane == 0) {
        a.delta[r] = sum;
    }
}

/* Weight of the pair (query, key), and the gradient of its score before scaling, times the scale. */
FN void pair_of(const float *q, const float *k, const float *v, const float *d_o, int n, float scale, float lse,
                float delta, bool seen, float *p, float *ds) {
    *p = seen ? expf(dot_rows(q, k, n) * scale - lse) : 0;
    *ds = *p * (dot_rows(d_o, v, n) - delta) * scale;
}

/* Grid: tiles of queries, heads, batch. */
template <typename T, int C> __global__ void __launch_bounds__(ATTN_THREADS, 1) attn_bwd_q(attn_args<T> a) {
    SF_DYNAMIC_SHARED(float, shared);
    struct attn_tiles t = tiles_of(shared, a.head_dim);
    struct role me = role_of();
    int head = (int)blockIdx.y, kv = head / (a.heads / a.kv_heads), first = (int)blockIdx.x * TILE, i = first + me.row;
    int64_t start = (int64_t)blockIdx.z * a.seq, stat = ((int64_t)blockIdx.z * a.heads + head) * a.seq + i;
    int64_t kv_start = (int64_t)blockIdx.z * a.keys * a.kv_stride + kv * a.head_dim;
    float sum[C] = {0}, lse = i < a.seq ? a.lse[stat] : 0, delta = i < a.seq ? a.delta[stat] : 0;
    load_tile(a.q + start * a.row_stride + head * a.head_dim, a.row_stride, first, a.seq, a.head_dim, t.a);
    load_tile(a.d_o + start * a.o_stride + head * a.head_dim, a.o_stride, first, a.seq, a.head_dim, t.d);
    for (int key = 0; key < a.before + first + TILE && key < a.keys; key += TILE) {
        load_tile(a.k + kv_start, a.kv_stride, key, a.keys, a.head_dim, t.b);
        load_tile(a.v + kv_start, a.kv_stride, key, a.keys, a.head_dim, t.c);
        __syncthreads();
        for (int j = me.lane; j < TILE; j += LANES) {
            float p;
            bool seen = key + j <= a.before + i && i < a.seq;
            pair_of(tile_row(t.a, me.row, a.head_dim), tile_row(t.b, j, a.head_dim), tile_row(t.c, j, a.head_dim),
                    tile_row(t.d, me.row, a.head_dim), a.head_dim, a.scale, lse, delta, seen, &p,
                    &t.ds[me.row * (TILE + 1) + j]);
        }
        __syncwarp();
        add_columns<C>(t.ds + me.row * (TILE + 1), t.b, a.head_dim, me.lane, sum);
        __syncthreads();
    }
    if (i < a.seq) {
        store_columns<T, C>(a.dq + (start + i) * a.row_stride + head * a.head_dim, sum, 1, a.head_dim, me.lane);
    }
}

/* One tile of queries of one head for a tile of keys that lies in t.b and t.c. */
template <typename T, int C>
FN void key_tile(const attn_args<T> &a, struct attn_tiles t, struct role me, int head, int query, int j, float *dk,
                 float *dv) {
    int64_t start = (int64_t)blockIdx.z * a.seq, stats = ((int64_t)blockIdx.z * a.heads + head) * a.seq;
    load_tile(a.q + start * a.row_stride + head * a.head_dim, a.row_stride, query, a.seq, a.head_dim, t.a);
    load_tile(a.d_o + start * a.o_stride + head * a.head_dim, a.o_stride, query, a.seq, a.head_dim, t.d);
    __syncthreads();
    for (int r = me.lane; r < TILE; r += LANES) {
        int i = query + r;
        bool seen = j <= a.before + i && i < a.seq && j < a.keys;
        pair_of(tile_row(t.a, r, a.head_dim), tile_row(t.b, me.row, a.head_dim), tile_row(t.c, me.row, a.head_dim),
                tile_row(t.d, r, a.head_dim), a.head_dim, a.scale, seen ? a.lse[stats + i] : 0,
                seen ? a.delta[stats + i] : 0, seen, &t.p[me.row * (TILE + 1) + r], &t.ds[me.row * (TILE + 1) + r]);
    }
    __syncwarp();
    add_columns<C>(t.ds + me.row * (TILE + 1), t.a, a.head_dim, me.lane, dk);
    add_columns<C>(t.p + me.row * (TILE + 1), t.d, a.head_dim, me.lane, dv);
    __syncthreads();
}

/* Gradients of one key, of which this lane has every eighth column. Keys of earlier slices go on collecting in f32; the
 * own ones are complete. `kept`: where the first key's are in `sum`; `own`: the first own key's. */
template <typename T, int C>
FN void store_key(const attn_args<T> &a, float *made, int64_t kept, T *own, int j, int lane) {
    int64_t at = kept + j * a.kv_stride;
#pragma unroll
    for (int i = 0; i < C; i++) {
        int c = lane + LANES * i;
        made[i] += a.add && c < a.head_dim ? a.sum[at + c] : 0;
    }
    if (j < a.before) {
        store_columns<float, C>(a.sum + at, made, 1, a.head_dim, lane);
    } else {
        store_columns<T, C>(own + (j - a.before) * a.row_stride, made, 1, a.head_dim, lane);
    }
}

/* Grid: tiles of keys, key heads, batch. */
template <typename T, int C> __global__ void __launch_bounds__(ATTN_THREADS, 1) attn_bwd_kv(attn_args<T> a) {
    SF_DYNAMIC_SHARED(float, shared);
    struct attn_tiles t = tiles_of(shared, a.head_dim);
    struct role me = role_of();
    int kv = (int)blockIdx.y, group = a.heads / a.kv_heads, first = (int)blockIdx.x * TILE, j = first + me.row;
    int64_t at = (int64_t)blockIdx.z * a.keys * a.kv_stride + kv * a.head_dim;
    int64_t to = (int64_t)blockIdx.z * a.seq * a.row_stride + kv * a.head_dim;
    float dk[C] = {0}, dv[C] = {0};
    load_tile(a.k + at, a.kv_stride, first, a.keys, a.head_dim, t.b);
    load_tile(a.v + at, a.kv_stride, first, a.keys, a.head_dim, t.c);
    int from = first > a.before ? (first - a.before) / TILE * TILE : 0;
    for (int g = 0; g < group; g++) {
        for (int query = from; query < a.seq; query += TILE) {
            key_tile<T, C>(a, t, me, kv * group + g, query, j, dk, dv);
        }
    }
    if (j < a.keys) {
        store_key<T, C>(a, dk, at, a.dk + to, j, me.lane);
        store_key<T, C>(a, dv, at + a.kv_stride / 2, a.dv + to, j, me.lane);
    }
}

/* ---- slices ------------------------------------------------------------------------------------------------------ */

/* The slice's own keys and values behind those of the slices before it. n: elements of them. */
template <typename T> __global__ void slice_append(const T *qkv, T *kv, int64_t n, int64_t width, int64_t row_stride) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        kv[i] = qkv[i / width * row_stride + row_stride - width + i % width];
    }
}

#endif
