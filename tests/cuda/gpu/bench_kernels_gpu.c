/* Rates of the kernels on this GPU, one JSON object per line: {"kernel", "dtype", "us", "tb_per_s" or "tflop_per_s"}.
 * bench_kernels_gpu [CACHE_FOLDER]. Exit 77 where there is no GPU.
 *
 * Bytes are those that have to cross the memory bus: what is read plus what is written, once each; weights, statistics
 * and tokens are left out. Buffers are larger than the caches. The device's own copy is printed beside them. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/kern_cuda.h"
#include "kernels/cuda/random.h"

enum { WARM_UP = 3, RUNS = 20 };

struct bench {
    struct sf_cuda *ctx;
    cudaStream_t stream;
    cudaEvent_t start, stop;
    char *memory;
    size_t memory_bytes;
};

/* Traffic in bytes per element of `rows x cols`, or FLOPs per m*n*k. */
struct row {
    struct sf_call call;
    double per_element;
};

#define ROWS 16384
#define COLS 4096
#define CALL(KIND, dtype_, flags_, ...)                                                                                \
    {                                                                                                                  \
        .kind = SF_CALL_##KIND, .dtype = dtype_, .flags = flags_, .comm = SF_NONE, .imm = {1e-5f, 1}, .dims = {        \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }

static const struct row rows[] = {
    {CALL(COPY, SF_BF16, 0, (int64_t)ROWS *COLS, 1), 4},
    {CALL(ADD, SF_BF16, 0, (int64_t)ROWS *COLS, 1), 6},
    {CALL(ZERO, SF_BF16, 0, (int64_t)ROWS *COLS, 1), 2},
    {CALL(CAST_DOWN, SF_BF16, 0, (int64_t)ROWS *COLS, 1), 6},
    {CALL(CAST_UP, SF_BF16, 0, (int64_t)ROWS *COLS, 1), 6},
    {CALL(RMSNORM_FWD, SF_BF16, 0, ROWS, COLS), 4},
    {CALL(RMSNORM_FWD, SF_BF16, 0, ROWS * 4, 768), 4},
    {CALL(RMSNORM_ADD_FWD, SF_BF16, 0, ROWS, COLS), 8},
    {CALL(RMSNORM_BWD, SF_BF16, 0, ROWS, COLS), 6},
    {CALL(RMSNORM_BWD, SF_BF16, SF_CALL_ACC_FLAG, ROWS, COLS), 8},
    {CALL(RMSNORM_BWD, SF_BF16, SF_CALL_ACC_FLAG, ROWS * 4, 768), 8},
    {CALL(LAYERNORM_FWD, SF_BF16, 0, ROWS, COLS), 4},
    {CALL(LAYERNORM_ADD_FWD, SF_BF16, 0, ROWS, COLS), 8},
    {CALL(LAYERNORM_BWD, SF_BF16, SF_CALL_ACC_FLAG, ROWS, COLS), 8},
    {CALL(GLU_FWD, SF_BF16, 0, ROWS, COLS), 6},
    {CALL(GLU_BWD, SF_BF16, 0, ROWS, COLS), 10},
    {CALL(GLU_FWD, SF_BF16, SF_CALL_GELU_FLAG | SF_CALL_PLAIN_FLAG, ROWS, COLS), 4},
    {CALL(GLU_BWD, SF_BF16, SF_CALL_GELU_FLAG | SF_CALL_PLAIN_FLAG, ROWS, COLS), 6},
    {CALL(ROPE_FWD, SF_BF16, 0, ROWS, 32, 128, 8192, COLS), 4},
    {CALL(ROPE_BWD, SF_BF16, 0, ROWS, 32, 128, 8192, COLS), 4},
    {CALL(BIAS_FWD, SF_BF16, 0, ROWS, COLS), 6},
    {CALL(BIAS_BWD, SF_BF16, 0, ROWS, COLS), 2},
    {CALL(XENT, SF_BF16, 0, 1024, 128256), 4},
    {CALL(XENT, SF_BF16, 0, 2048, 50257), 4},
    {CALL(XENT_PADDED, SF_BF16, 0, 2048, 50304, 47), 4},
    {CALL(XENT_STATS, SF_BF16, 0, 4096, 16032), 2},
    {CALL(XENT_PART, SF_BF16, 0, 4096, 16032, 8), 4},
    {CALL(ADAMW, SF_BF16, 0, (int64_t)ROWS *COLS, 1), 28},
    {CALL(ADAMW, SF_BF16, SF_CALL_LEAN_FLAG, (int64_t)ROWS *COLS, 1), 20},
    {CALL(SUMSQ, SF_BF16, 0, (int64_t)ROWS *COLS, 1), 2},
    {CALL(EMBED_FWD, SF_BF16, 0, ROWS, COLS, 128256), 4},
    {CALL(EMBED_BWD, SF_BF16, 0, ROWS, COLS, 128256), 6},
    {CALL(GEMM, SF_BF16, SF_CALL_TB_FLAG, 8192, 8192, 8192, 1), 2},
    {CALL(GEMM, SF_BF16, SF_CALL_TB_FLAG, 8192, 6144, 4096, 1), 2},
    {CALL(GEMM, SF_BF16, 0, 8192, 4096, 6144, 1), 2},
    {CALL(GEMM, SF_BF16, SF_CALL_TA_FLAG | SF_CALL_ACC_FLAG, 6144, 4096, 8192, 1), 2},
    {CALL(GEMM, SF_BF16, SF_CALL_TB_FLAG, 16384, 2304, 768, 1), 2},
    {CALL(ATTN_FWD, SF_BF16, 0, 1, 4096, 32, 8, 128, 48 * 128), 0},
};

/* Operands one after the other, far enough apart for any of them; ids are zeros but for the tables, which get a spread.
 */
static void place(struct bench *b, const struct sf_call *call, void *operand[SF_CALL_OPERANDS]) {
    size_t share = b->memory_bytes / 8 / 256 * 256;
    int n = sf_call_operands_n(call->kind);
    sfi_cuda_fill_random(b->memory, b->memory_bytes / 2, SF_BF16, b->stream);
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        operand[i] = i < n ? b->memory + (size_t)i % 8 * share : NULL;
    }
}

static int set_ids(const struct sf_call *call, void *operand[SF_CALL_OPERANDS]) {
    static int32_t ids[ROWS];
    bool loss = call->kind == SF_CALL_XENT || call->kind == SF_CALL_XENT_PADDED || call->kind == SF_CALL_XENT_STATS ||
                call->kind == SF_CALL_XENT_PART;
    if (!loss && call->kind != SF_CALL_EMBED_FWD && call->kind != SF_CALL_EMBED_BWD) {
        return 0;
    }
    int64_t padding = call->kind == SF_CALL_XENT_PADDED ? call->dims[2] : 0;
    int64_t vocab = loss ? call->dims[1] - padding : call->dims[2];
    for (int64_t i = 0; i < call->dims[0] && i < ROWS; i++) {
        ids[i] = (int32_t)((uint64_t)i * 2654435761u % (uint64_t)vocab);
    }
    return cudaMemcpy(operand[loss ? 1 : 0], ids, (size_t)call->dims[0] * 4, cudaMemcpyHostToDevice) != cudaSuccess;
}

/* Mean of RUNS back to back, in microseconds; negative when something failed. */
static double time_call(struct bench *b, const struct sf_call *call, struct sf_err *err) {
    void *operand[SF_CALL_OPERANDS];
    float ms = 0;
    sf_kern_cuda kern = sf_kern_cuda_find(call, sf_cuda_arch(b->ctx));
    place(b, call, operand);
    if (!kern || set_ids(call, operand) != 0 || sf_cuda_prepare(b->ctx, call, err) != 0) {
        return -1;
    }
    for (int run = -WARM_UP; run < RUNS; run++) {
        if (run == 0) {
            cudaEventRecord(b->start, b->stream);
        }
        if (kern(b->ctx, call, operand, b->stream, err) != 0) {
            return -1;
        }
    }
    cudaEventRecord(b->stop, b->stream);
    bool done =
        cudaEventSynchronize(b->stop) == cudaSuccess && cudaEventElapsedTime(&ms, b->start, b->stop) == cudaSuccess;
    return done ? (double)ms * 1e3 / RUNS : -1;
}

static void print_row(const struct row *row, double us) {
    const int64_t *d = row->call.dims;
    printf("{\"kernel\": \"%s\", \"dtype\": \"%s\", \"flags\": %u, \"dims\": [%lld, %lld, %lld, %lld], \"us\": %.2f",
           sf_call_name(row->call.kind), sf_dtype_name(row->call.dtype), row->call.flags, (long long)d[0],
           (long long)d[1], (long long)d[2], (long long)d[3], us);
    if (row->call.kind == SF_CALL_GEMM) {
        double flops = row->per_element * (double)d[0] * (double)d[1] * (double)d[2] * (double)d[3];
        printf(", \"tflop_per_s\": %.1f", flops / us / 1e6);
    } else if (row->call.kind == SF_CALL_ATTN_FWD) { /* half of the square counts */
        double flops = 2.0 * (double)d[0] * (double)d[1] * (double)d[1] * (double)d[2] * (double)d[4];
        printf(", \"tflop_per_s\": %.2f", flops / us / 1e6);
    } else {
        double elements = (double)d[0] * (double)d[1];
        bool rope = row->call.kind == SF_CALL_ROPE_FWD || row->call.kind == SF_CALL_ROPE_BWD;
        elements = rope ? (double)d[0] * (double)d[1] * (double)d[2] : elements;
        printf(", \"tb_per_s\": %.3f", row->per_element * elements / us / 1e6);
    }
    printf("}\n");
}

static void device_copy(struct bench *b) {
    size_t bytes = b->memory_bytes / 8 / 256 * 256;
    float ms = 0;
    for (int run = -WARM_UP; run < RUNS; run++) {
        if (run == 0) {
            cudaEventRecord(b->start, b->stream);
        }
        cudaMemcpyAsync(b->memory + bytes, b->memory, bytes, cudaMemcpyDeviceToDevice, b->stream);
    }
    cudaEventRecord(b->stop, b->stream);
    if (cudaEventSynchronize(b->stop) == cudaSuccess && cudaEventElapsedTime(&ms, b->start, b->stop) == cudaSuccess) {
        printf("{\"kernel\": \"device copy\", \"tb_per_s\": %.3f}\n", 2.0 * (double)bytes * RUNS / (double)ms / 1e9);
    }
}

static bool set_up(struct bench *b, const char *cache, struct sf_err *err) {
    static const size_t gib = (size_t)1 << 30, work_bytes = (size_t)1 << 30;
    void *work = NULL, *memory = NULL;
    if (sf_cuda_create(0, cache, &b->ctx, err) != 0) {
        return false;
    }
    b->memory_bytes = 16 * gib;
    if (cudaMalloc(&memory, b->memory_bytes) != cudaSuccess || cudaMalloc(&work, work_bytes) != cudaSuccess ||
        cudaStreamCreate(&b->stream) != cudaSuccess || cudaEventCreate(&b->start) != cudaSuccess ||
        cudaEventCreate(&b->stop) != cudaSuccess) {
        (void)sf_fail(err, SF_E_FAULT, "no room for 17 GiB of buffers");
        return false;
    }
    b->memory = memory;
    sf_cuda_set_work(b->ctx, work, work_bytes, NULL);
    return true;
}

int main(int argc, char **argv) {
    struct bench b = {0};
    struct sf_err err = {0};
    int failed = 0;
    if (!set_up(&b, argc > 1 ? argv[1] : NULL, &err)) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    printf("{\"device\": \"%s\", \"note\": \"%s\"}\n", sf_cuda_device_name(b.ctx), sf_cuda_note(b.ctx));
    device_copy(&b);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double us = time_call(&b, &rows[i].call, &err);
        if (us < 0) {
            fprintf(stderr, "%s: %s\n", sf_call_name(rows[i].call.kind), err.msg);
            failed = 1;
            continue;
        }
        print_row(&rows[i], us);
    }
    sf_cuda_destroy(b.ctx);
    return failed;
}
