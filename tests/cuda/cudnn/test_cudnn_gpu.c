/* cuDNN's attention on a GPU: against the reference on random shapes, bit for bit where that is promised, captured, and
 * its speed. Exit 77 where there is no GPU. */
#include "tests/unit/test_kernels_util.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

#include "kernels/cuda/attn_cudnn.h"
#include "kernels/cuda/random.h"

enum { FORWARD, BACKWARD, SAME_BITS, WAYS };

static struct sf_cuda *ctx;
static cudaStream_t stream;

static void must(cudaError_t st) {
    if (st != cudaSuccess) {
        fail_msg("%s", cudaGetErrorString(st));
    }
}

static struct sf_call call_of(int way, int64_t batch, int64_t seq, int64_t heads, int64_t kv, int64_t head_dim) {
    return (struct sf_call){.kind = way == FORWARD ? SF_CALL_ATTN_FWD : SF_CALL_ATTN_BWD,
                            .dtype = SF_BF16,
                            .imm = {0, 1},
                            .dims = {batch, seq, heads, kv, head_dim, (heads + 2 * kv) * head_dim}};
}

/* ---- one call's operands ----------------------------------------------------------------------------------------- */

/* qkv and its gradient are fused; o, lse, do stand alone. Host copies are f32, values those of bf16. */
enum { QKV, O, LSE, D_O, D_QKV, PARTS };

struct part {
    size_t n;
    bool wide;
    float *host;
    void *device;
};

struct job {
    struct sf_call call;
    struct part part[PARTS];
    void *work, *spare;
    size_t work_bytes;
};

static float rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void push(const struct part *p) {
    uint16_t *half = malloc(p->n * 2);
    for (size_t i = 0; i < p->n; i++) {
        memcpy(&half[i], (const char *)&p->host[i] + 2, 2);
    }
    must(cudaMemcpy(p->device, p->wide ? (const void *)p->host : half, p->n * (p->wide ? 4 : 2), cudaMemcpyDefault));
    free(half);
}

static float *pull(const struct part *p) {
    float *host = calloc(p->n, sizeof *host);
    uint16_t *half = malloc(p->n * 2);
    must(cudaMemcpy(p->wide ? (void *)host : half, p->device, p->n * (p->wide ? 4 : 2), cudaMemcpyDefault));
    for (size_t i = 0; i < p->n && !p->wide; i++) {
        memcpy((char *)&host[i] + 2, &half[i], 2);
    }
    free(half);
    return host;
}

static void job_create(struct job *j, const struct sf_call *call, bool deterministic) {
    const int64_t *d = call->dims;
    size_t rows = (size_t)(d[0] * d[1]), out = rows * (size_t)(d[2] * d[4]), qkv = rows * (size_t)d[5];
    const size_t n[PARTS] = {qkv, out, rows * (size_t)d[2], out, qkv};
    *j = (struct job){.call = *call, .work_bytes = sfi_attn_work(call, deterministic)};
    for (int i = 0; i < PARTS; i++) {
        j->part[i] = (struct part){.n = n[i], .wide = i == LSE};
        must(cudaMalloc(&j->part[i].device, n[i] * 4));
        must(cudaMemset(j->part[i].device, 0, n[i] * 4));
    }
    must(cudaMalloc(&j->work, j->work_bytes + 256));
    must(cudaMalloc(&j->spare, sf_cuda_attn_bwd_work(call) + 256));
}

static void job_free(struct job *j) {
    for (int i = 0; i < PARTS; i++) {
        must(cudaFree(j->part[i].device));
        free(j->part[i].host);
    }
    must(cudaFree(j->work));
    must(cudaFree(j->spare));
}

/* Addresses in call.h's order; on the host elements are f32. */
static void operands_of(const struct job *j, bool host, void *operand[SF_CALL_OPERANDS]) {
    size_t q = (size_t)(j->call.dims[2] * j->call.dims[4]), kv = (size_t)(j->call.dims[3] * j->call.dims[4]);
    char *at[PARTS];
    size_t size = host ? 4 : 2;
    for (int i = 0; i < PARTS; i++) {
        at[i] = host ? (char *)j->part[i].host : j->part[i].device;
    }
    void *all[SF_CALL_OPERANDS] = {
        at[QKV],   at[QKV] + q * size,   at[QKV] + (q + kv) * size,   at[O],   at[LSE], at[D_O],
        at[D_QKV], at[D_QKV] + q * size, at[D_QKV] + (q + kv) * size, j->spare};
    memcpy(operand, all, sizeof all);
}

/* False when cuDNN has no plan for it. */
static bool enqueue(const struct job *j) {
    void *operand[SF_CALL_OPERANDS];
    struct sf_err err = {0};
    operands_of(j, false, operand);
    sf_cuda_set_work(ctx, j->work, j->work_bytes, NULL);
    if (sfi_attn_prepare(ctx, &j->call, &err) != 0 || sfi_attn_run(ctx, &j->call, operand, stream, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return sfi_attn_has_plan(ctx, &j->call);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void fill(struct job *j, uint64_t *state) {
    for (int i = 0; i < PARTS; i++) {
        struct part *p = &j->part[i];
        p->host = calloc(p->n, sizeof(float));
        for (size_t e = 0; e < p->n && i != D_QKV; e++) {
            p->host[e] = rounded(random_float(state));
        }
        push(p);
    }
}

static void reference(struct job *j, uint8_t kind) {
    struct sf_call wide = j->call;
    void *operand[SF_CALL_OPERANDS];
    wide.kind = kind;
    wide.dtype = SF_F32;
    operands_of(j, true, operand);
    assert_int_equal(sf_kern_find(SF_KERN_REFERENCE, &wide)(&wide, operand, NULL), 0);
}

/* Root of the mean square of the difference, over that of the expected values. */
static void assert_close(const struct job *j, int part, const char *what) {
    float *found = pull(&j->part[part]);
    double difference = 0, size = 0;
    for (size_t i = 0; i < j->part[part].n; i++) {
        double e = (double)j->part[part].host[i], d = (double)found[i] - e;
        difference += d * d;
        size += e * e;
    }
    free(found);
    const int64_t *d = j->call.dims;
    if (!(sqrt(difference) <= 1e-2 * sqrt(size))) {
        fail_msg("%s of %lld x %lld, %lld/%lld heads of %lld: off by %.3g of its size", what, (long long)d[0],
                 (long long)d[1], (long long)d[2], (long long)d[3], (long long)d[4], sqrt(difference / size));
    }
}

static void check_random(int way, uint64_t *state) {
    int64_t kv = random_int(state, 1, 3), head_dim = 16 * random_int(state, 4, 16);
    struct job j;
    struct sf_call call =
        call_of(way, random_int(state, 1, 2), random_int(state, 1, 300), kv * random_int(state, 1, 4), kv, head_dim);
    call.dims[5] = (call.dims[2] + 2 * kv) * head_dim;
    sfi_attn_set_deterministic(ctx, way == SAME_BITS);
    job_create(&j, &call, way == SAME_BITS);
    fill(&j, state);
    reference(&j, SF_CALL_ATTN_FWD);
    if (way != FORWARD) {
        push(&j.part[LSE]);
        for (size_t i = 0; i < j.part[O].n; i++) {
            j.part[O].host[i] = rounded(j.part[O].host[i]);
        }
        push(&j.part[O]);
        reference(&j, SF_CALL_ATTN_BWD);
    }
    (void)enqueue(&j);
    must(cudaStreamSynchronize(stream));
    assert_close(&j, O, "o");
    assert_close(&j, LSE, "lse");
    if (way != FORWARD) {
        assert_close(&j, D_QKV, "dq, dk, dv");
    }
    job_free(&j);
}

static void test_against_reference(void **unused) {
    (void)unused;
    uint64_t state = 5;
    for (int i = 0; i < 30; i++) {
        check_random(i % WAYS, &state);
    }
}

static void randomise(const struct job *j) {
    for (int i = 0; i < PARTS; i++) {
        sfi_cuda_fill_random(j->part[i].device, j->part[i].n, i == LSE ? SF_F32 : SF_BF16, stream);
    }
}

/* A backward pass straight, again, and from a graph that was captured. */
static void test_same_bits(void **unused) {
    (void)unused;
    struct sf_call call = call_of(SAME_BITS, 2, 2048, 16, 4, 128);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    struct job j;
    sfi_attn_set_deterministic(ctx, true);
    job_create(&j, &call, true);
    randomise(&j);
    (void)enqueue(&j);
    must(cudaStreamSynchronize(stream));
    float *first = pull(&j.part[D_QKV]);
    for (int captured = 0; captured < 2; captured++) {
        must(cudaMemset(j.part[D_QKV].device, 0x55, j.part[D_QKV].n * 2));
        if (captured) {
            must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        }
        (void)enqueue(&j);
        if (captured) {
            must(cudaStreamEndCapture(stream, &graph));
            must(cudaGraphInstantiate(&exec, graph, 0));
            must(cudaGraphLaunch(exec, stream));
        }
        must(cudaStreamSynchronize(stream));
        float *again = pull(&j.part[D_QKV]);
        assert_memory_equal(first, again, j.part[D_QKV].n * sizeof *first);
        free(again);
    }
    must(cudaGraphExecDestroy(exec));
    must(cudaGraphDestroy(graph));
    free(first);
    job_free(&j);
}

/* ---- speed ------------------------------------------------------------------------------------------------------- */

static double mean_ms(const struct job *j, int runs) {
    cudaEvent_t start, stop;
    float ms = 0;
    must(cudaEventCreate(&start));
    must(cudaEventCreate(&stop));
    (void)enqueue(j);
    must(cudaEventRecord(start, stream));
    for (int i = 0; i < runs; i++) {
        (void)enqueue(j);
    }
    must(cudaEventRecord(stop, stream));
    must(cudaEventSynchronize(stop));
    must(cudaEventElapsedTime(&ms, start, stop));
    must(cudaEventDestroy(start));
    must(cudaEventDestroy(stop));
    return (double)ms / runs;
}

/* Half of the square counts; a backward pass has five products where a forward pass has two. */
static void measure(const char *model, int way, const struct sf_call *call) {
    static const char *const ways[] = {"forward", "backward", "backward, same bits"};
    const int64_t *d = call->dims;
    struct job j;
    double flops = 2.0 * (double)d[0] * (double)d[1] * (double)d[1] * (double)d[2] * (double)d[4];
    sfi_attn_set_deterministic(ctx, way == SAME_BITS);
    job_create(&j, call, way == SAME_BITS);
    randomise(&j);
    bool plan = enqueue(&j);
    double ms = plan ? mean_ms(&j, 20) : 0;
    printf("{\"attention\": \"%s\", \"way\": \"%s\", \"work_mb\": %.1f, ", model, ways[way],
           (double)j.work_bytes / 1e6);
    if (plan) {
        printf("\"us\": %.1f, \"tflop_per_s\": %.1f}\n", ms * 1e3, flops * (way == FORWARD ? 1 : 2.5) / ms / 1e9);
    } else {
        printf("\"refused\": true}\n");
    }
    job_free(&j);
}

static void test_speed(void **unused) {
    static const struct {
        const char *name;
        int64_t dims[5];
    } models[] = {
        {"GPT-2 124M", {16, 1024, 12, 12, 64}},   {"Qwen2.5 0.5B", {8, 2048, 14, 2, 64}},
        {"Qwen2.5 1.5B", {4, 4096, 12, 2, 128}},  {"Llama 3 8B", {1, 8192, 32, 8, 128}},
        {"head size 256", {4, 2048, 16, 8, 256}},
    };
    (void)unused;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        for (int way = 0; way < WAYS; way++) {
            const int64_t *d = models[i].dims;
            const struct sf_call call = call_of(way, d[0], d[1], d[2], d[3], d[4]);
            measure(models[i].name, way, &call);
        }
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_speed),
    };
    struct sf_err err = {0};
    const char *cache = argc > 1 ? argv[1] : NULL;
    int rc = sf_cuda_create(0, cache, &ctx, &err);
    rc = rc == 0 && !ctx->attn ? sfi_attn_create(cache, ctx, &err) : rc;
    if (rc != 0) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) {
        return 1;
    }
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    sfi_attn_destroy(ctx);
    sf_cuda_destroy(ctx);
    return rc;
}
