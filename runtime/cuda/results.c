/* What comes back from the device: times of ops, gradients, weights. */
#include <string.h>

#include "runtime/cuda/session.h"

#define PS_PER_NS 1000

static sf_time_ps since(uint64_t origin_ns, uint64_t ns) {
    return ns > origin_ns ? (sf_time_ps)(ns - origin_ns) * PS_PER_NS : 0;
}

/* The graph hands an op to the device when all that it waits for is over, so it is issued when it begins. */
void sfi_gpu_take_stamps(struct sfi_gpu_rank *r, uint32_t step, uint64_t origin_ns, const char *page) {
    uint64_t stamps[2];
    for (uint32_t i = 0; i < r->host->cls->ops_n; i++) {
        struct sf_trace_rec *rec = &r->host->recs[(uint64_t)step * r->host->cls->ops_n + i];
        memcpy(stamps, page + r->stamps_at + 2 * (size_t)i * sizeof *stamps, sizeof stamps);
        rec->source = SF_TIME_DEVICE;
        rec->issue = rec->start = since(origin_ns, stamps[0]);
        rec->end = since(origin_ns, stamps[1]);
        rec->end = rec->end > rec->start ? rec->end : rec->start;
        rec->busy = rec->end - rec->start;
    }
}

void sfi_gpu_floats(float *to, const void *from, int dtype, uint64_t n) {
    if (dtype == SF_F32) {
        memcpy(to, from, n * sizeof *to);
        return;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint16_t high;
        memcpy(&high, (const char *)from + i * sizeof high, sizeof high);
        uint32_t bits = (uint32_t)high << 16;
        memcpy(&to[i], &bits, sizeof bits);
    }
}

void sfi_gpu_take_gradients(struct sfi_gpu_rank *r) {
    const char *from = r->grads_host;
    for (size_t i = 0; i < sfi_capture_blocks(r->host); i++) {
        struct sfi_capture_block b = sfi_capture_block(r->host, i);
        sfi_gpu_floats(b.grad, from, b.dtype, b.count);
        from += b.count * (uint64_t)sf_dtype_bytes(b.dtype);
    }
}

int sfi_gpu_read_tensor(void *self, const struct sfi_rank *host, const struct sf_tensor *t, float *out,
                        struct sf_err *err) {
    struct sfi_session *s = self;
    uint64_t n = t->rows * t->cols, bytes = n * (uint64_t)sf_dtype_bytes((int)t->dtype);
    const struct sfi_gpu_rank *r = s->ranks;
    while (r->host != host) {
        r++;
    }
    if (t->dtype == SF_F32) {
        return s->api->download(s->api->self, out, sfi_gpu_at(r, t->buf, t->offset), bytes, err);
    }
    char *narrow = sf_malloc(bytes);
    int rc = narrow ? s->api->download(s->api->self, narrow, sfi_gpu_at(r, t->buf, t->offset), bytes, err)
                    : sf_fail_memory(err, "weights for the dump");
    if (rc == SF_OK) {
        sfi_gpu_floats(out, narrow, (int)t->dtype, n);
    }
    sf_free(narrow);
    return rc;
}
