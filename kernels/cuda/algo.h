/* GEMM algorithms by shape, as they are kept on disk. Needs no CUDA: algorithms are the numbers that cuBLASLt builds
 * them from, never its opaque bytes.
 *
 *   staticfire gemm algorithms 1
 *   device "NVIDIA H200" arch=90 sms=132 cublaslt=130100
 *   gemm bf16 flags=2 m=8192 n=6144 k=4096 groups=1 id=66 tile=.. splitk=1 .. workspace=0 ns=812345
 *   end 1
 *
 * A file of another device or library version is not read. One that is cut off, too large or says anything else is
 * refused as a whole. */
#ifndef SF_KERNELS_CUDA_ALGO_H
#define SF_KERNELS_CUDA_ALGO_H

#include <stddef.h>
#include <stdint.h>

#include "core/call.h"
#include "core/err.h"
#include "core/io.h"

/* X(name in the file); the order is that of cublasLtMatmulAlgoConfigAttributes_t, from CUBLASLT_ALGO_CONFIG_ID = 0. */
#define SFI_ALGO_CONFIG(X) X(id) X(tile) X(splitk) X(reduction) X(swizzle) X(custom) X(stages) X(inner) X(cluster)

enum sfi_algo_config {
#define X(name) SFI_ALGO_##name,
    SFI_ALGO_CONFIG(X)
#undef X
        SFI_ALGO_CONFIG_N
};

struct sfi_algo {
    uint8_t dtype;
    uint16_t flags;  /* TA, TB, ACC */
    int64_t dims[4]; /* m n k groups */
    uint32_t config[SFI_ALGO_CONFIG_N];
    uint64_t workspace_bytes, time_ns;
};

/* What a file belongs to. */
struct sfi_algo_device {
    char name[256];
    uint64_t arch, sms_n, cublaslt;
};

#define SFI_ALGO_FILE_BYTES ((size_t)4 << 20)
#define SFI_ALGOS_MAX 20000

struct sfi_algos { /* array owned; sf_free */
    struct sfi_algo *at;
    size_t n, capacity;
};

void sfi_algos_clear(struct sfi_algos *a);
/* Replaces one of the same shape. */
int sfi_algos_add(struct sfi_algos *a, const struct sfi_algo *algo, struct sf_err *err);
const struct sfi_algo *sfi_algos_find(const struct sfi_algos *a, const struct sf_call *gemm); /* NULL: not there */

void sfi_algos_print(const struct sfi_algos *a, const struct sfi_algo_device *device, struct sf_buf *out);
/* `out` is empty when the text is refused. */
int sfi_algos_parse(const char *text, size_t bytes, const char *name, const struct sfi_algo_device *device,
                    struct sfi_algos *out, struct sf_err *err);

/* "<folder>/gemm-<device>-<library version>.txt"; letters and digits of the device's name alone. */
int sfi_algo_path(const char *folder, const struct sfi_algo_device *device, char *out, size_t size, struct sf_err *err);

/* The same shapes to cuBLASLt, which is column major: C^T = op(B)^T op(A)^T, so its first matrix is our b. */
struct sfi_gemm_matrix {
    uint64_t rows, cols, ld, stride; /* stride: elements from one group to the next */
};

struct sfi_gemm_layout {
    struct sfi_gemm_matrix first, second, result;
    bool transpose_first, transpose_second;
};

struct sfi_gemm_layout sfi_gemm_layout_of(const struct sf_call *gemm);

#endif
