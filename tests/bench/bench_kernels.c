/* What the fast kernels reach on one core: GFLOP/s of products and attention (visible pairs only), GB/s of the others
 * beside memcpy. Prints the best of several runs in CPU time; with an argument, only lines whose name contains it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/call.h"
#include "kernels/table.h"

enum { RUNS = 8 };

struct bench {
    const char *label;
    struct sf_call call;
    double flops, bytes;            /* one of them 0 */
    size_t count[SF_CALL_OPERANDS]; /* 32-bit elements */
};

static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Small positive values: legal as inputs of every kind, and as ids they are 0. */
static void *filled(size_t count) {
    float *p = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    if (p == NULL) {
        abort();
    }
    for (size_t i = 0; i < count; i++) {
        p[i] = 0.25f + (float)(i % 97) / 97;
    }
    return p;
}

static void measure(const struct bench *b, const struct sfi_kern_table *table) {
    void *operand[SF_CALL_OPERANDS] = {NULL};
    double best = 1e9;
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        operand[i] = b->count[i] > 0 ? filled(b->count[i]) : NULL;
    }
    if (b->call.kind == SF_CALL_XENT) {
        memset(operand[1], 0, b->count[1] * sizeof(float));
    }
    for (int r = 0; r < RUNS; r++) {
        double start = cpu_s();
        if (table->kern[b->call.kind](&b->call, operand, NULL) != 0) {
            abort();
        }
        double took = cpu_s() - start;
        best = took < best ? took : best;
    }
    printf("%-9s %-28s %9.1f us %7.1f %s\n", table->name, b->label, 1e6 * best, 1e-9 * (b->flops + b->bytes) / best,
           b->flops > 0 ? "GFLOP/s" : "GB/s");
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        free(operand[i]);
    }
}

static const char *wanted = "";

static void run(const struct bench *b) {
    const struct sfi_kern_table *table;
    for (size_t t = 0; strstr(b->label, wanted) != NULL && (table = sfi_kern_fast(t)) != NULL; t++) {
        measure(b, table);
        if (b->call.kind == SF_CALL_GEMM) {
            break; /* the same in all tables */
        }
    }
}

static void gemms(void) {
    static const int shapes[][3] = {{512, 128, 128},  {512, 384, 128},  {1024, 256, 256}, {1024, 768, 256},
                                    {1024, 768, 768}, {256, 256, 1024}, {512, 257, 64}};
    static const char *const form[] = {"nn", "tn", "nt", "tt"};
    for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
        for (uint16_t flags = 0; flags < 4; flags++) {
            int m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            char label[64];
            snprintf(label, sizeof(label), "gemm %s %dx%dx%d", form[flags], m, n, k);
            run(&(struct bench){
                .label = label,
                .call = {.kind = SF_CALL_GEMM, .flags = flags, .dims = {m, n, k, 1}},
                .flops = 2.0 * m * n * k,
                .count = {(size_t)m * (size_t)k, (size_t)k * (size_t)n, (size_t)m * (size_t)n},
            });
        }
    }
}

static void attention(int seq, int head_dim) {
    enum { HEADS = 8, KV = 4 };
    size_t rows = (size_t)seq, stride = (HEADS + 2 * KV) * (size_t)head_dim, o = rows * HEADS * (size_t)head_dim;
    struct bench b = {
        .call = {.kind = SF_CALL_ATTN_FWD, .dims = {1, seq, HEADS, KV, head_dim, (int64_t)stride}},
        .flops = 4.0 * HEADS * head_dim * seq * (seq + 1) / 2,
        .count = {rows * stride, rows * stride, rows * stride, o, rows * HEADS},
    };
    char label[64];
    snprintf(label, sizeof(label), "attn_fwd seq %d dim %d", seq, head_dim);
    b.label = label;
    run(&b);
    snprintf(label, sizeof(label), "attn_bwd seq %d dim %d", seq, head_dim);
    b.call.kind = SF_CALL_ATTN_BWD;
    b.flops *= 2.5;
    b.count[5] = o;
    b.count[6] = b.count[7] = b.count[8] = rows * stride;
    b.count[9] = sf_kern_attn_bwd_work(&b.call) / sizeof(float);
    run(&b);
}

/* `words`: how many f32 per element the kernel reads and writes. */
static void stream(const char *label, struct sf_call call, double elements, double words, const size_t *count, int n) {
    struct bench b = {.label = label, .call = call, .bytes = elements * words * sizeof(float)};
    memcpy(b.count, count, (size_t)n * sizeof(*count));
    run(&b);
}

static void streams(size_t rows, size_t cols) {
    const int64_t r = (int64_t)rows, c = (int64_t)cols;
    const size_t n = rows * cols;
    const double all = (double)n;
#define STREAM(KIND, flag, words, dims_, ...)                                                                          \
    stream(sf_call_name(SF_CALL_##KIND),                                                                               \
           (struct sf_call){.kind = SF_CALL_##KIND, .flags = flag, .imm = {10000, 1}, .dims = dims_}, all, words,      \
           (size_t[]){__VA_ARGS__}, (int)(sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t)))
#define DIMS(...) {__VA_ARGS__}
    printf("-- %zu x %zu\n", rows, cols);
    STREAM(COPY, 0, 2, DIMS((int64_t)n), n, n);
    STREAM(ZERO, 0, 1, DIMS((int64_t)n), n);
    STREAM(ADD, 0, 3, DIMS((int64_t)n), n, n, n);
    STREAM(RMSNORM_FWD, 0, 2, DIMS(r, c), n, cols, n, rows);
    STREAM(RMSNORM_BWD, SF_CALL_ACC_FLAG, 4, DIMS(r, c), n, n, cols, rows, n, cols);
    STREAM(ROPE_FWD, 0, 2, DIMS(r, c / 64, 64, r, c), n);
    STREAM(GLU_FWD, 0, 3, DIMS(r, c), 2 * n, n);
    STREAM(GLU_FWD, SF_CALL_GELU_FLAG, 3, DIMS(r, c), 2 * n, n);
    STREAM(GLU_BWD, 0, 5, DIMS(r, c), n, 2 * n, 2 * n);
    STREAM(XENT, 0, 2, DIMS(r, c), n, rows, 1);
    STREAM(ADAMW, 0, 7, DIMS((int64_t)n), n, n, n, n, 8);
#undef DIMS
#undef STREAM
}

static void tree_sums(size_t sources_n, size_t count) {
    const float *src[16];
    float *y = filled(count);
    double best = 1e9;
    for (size_t i = 0; i < sources_n; i++) {
        src[i] = filled(count);
    }
    for (int r = 0; r < RUNS; r++) {
        double start = cpu_s();
        sf_kern_tree_sum(y, src, sources_n, count);
        double took = cpu_s() - start;
        best = took < best ? took : best;
    }
    printf("tree_sum of %zu x %zu: %.1f GB/s\n", sources_n, count,
           1e-9 * (double)((sources_n + 1) * count * sizeof(float)) / best);
    for (size_t i = 0; i < sources_n; i++) {
        free((void *)(uintptr_t)src[i]);
    }
    free(y);
}

int main(int argc, char **argv) {
    wanted = argc > 1 ? argv[1] : "";
    sf_kern_setup();
    gemms();
    for (int seq = 128; seq <= 512; seq *= 2) {
        attention(seq, 32);
        attention(seq, 64);
    }
    streams(512, 256);
    streams(8192, 2048);
    tree_sums(2, 1 << 20);
    tree_sums(8, 1 << 20);
    return 0;
}
