/* An attention plan on disk: two lines that say what it is for and a digest, then cuDNN's JSON. Needs no CUDA.
 *
 *   staticfire attention plan 1
 *   device "NVIDIA H200" arch=90 sms=132 cudnn=91900
 *   attn_bwd batch=1 seq=8192 ... deterministic=0
 *   json bytes=121898 xxh3=00112233445566778899aabbccddeeff
 *   {...}
 *
 * A file is used only when every byte before the JSON is what this build, on this device, would write for it, and the
 * digest holds. The digest finds damage, not forgery: the folder must be one that nobody else may write to. */
#ifndef SF_KERNELS_CUDA_ATTN_CUDNN_FILE_H
#define SF_KERNELS_CUDA_ATTN_CUDNN_FILE_H

#include "core/io.h"
#include "kernels/cuda/attn_cudnn_graph.h"

struct sfi_attn_device {
    char name[256];
    uint64_t arch, sms_n, cudnn;
};

#define SFI_ATTN_FILE_BYTES ((size_t)4 << 20)

/* "<folder>/attn-<device>-<cuDNN version>-<direction and dims>.plan"; letters and digits of the device's name alone. */
int sfi_attn_file_path(const char *folder, const struct sfi_attn_device *device, const struct sfi_attn_shape *shape,
                       char *out, size_t size, struct sf_err *err);

void sfi_attn_file_print(const struct sfi_attn_device *device, const struct sfi_attn_shape *shape, const char *json,
                         size_t bytes, struct sf_buf *out);

/* Where in `text` the JSON is, or SF_E_INPUT and the reason why the file is not used. */
int sfi_attn_file_check(const char *text, size_t bytes, const char *name, const struct sfi_attn_device *device,
                        const struct sfi_attn_shape *shape, const char **json, size_t *json_bytes, struct sf_err *err);

#endif
