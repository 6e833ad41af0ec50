#include "kernels/cuda/algo.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "core/prog_scan.h"

#define SHAPE_FLAGS (SF_CALL_TA_FLAG | SF_CALL_TB_FLAG | SF_CALL_ACC_FLAG)

static const char *const config_words[SFI_ALGO_CONFIG_N] = {
#define X(name) #name,
    SFI_ALGO_CONFIG(X)
#undef X
};

static const char *const dim_words[4] = {"m", "n", "k", "groups"};

void sfi_algos_clear(struct sfi_algos *a) {
    sf_free(a->at);
    *a = (struct sfi_algos){0};
}

static struct sfi_algo *find(const struct sfi_algos *a, uint8_t dtype, unsigned flags, const int64_t dims[4]) {
    for (size_t i = 0; i < a->n; i++) {
        if (a->at[i].dtype == dtype && a->at[i].flags == flags &&
            memcmp(a->at[i].dims, dims, sizeof a->at[i].dims) == 0) {
            return &a->at[i];
        }
    }
    return NULL;
}

const struct sfi_algo *sfi_algos_find(const struct sfi_algos *a, const struct sf_call *gemm) {
    return find(a, gemm->dtype, gemm->flags & SHAPE_FLAGS, gemm->dims);
}

int sfi_algos_add(struct sfi_algos *a, const struct sfi_algo *algo, struct sf_err *err) {
    struct sfi_algo *same = find(a, algo->dtype, algo->flags, algo->dims);
    if (same) {
        *same = *algo;
        return 0;
    }
    if (a->n == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 32;
        struct sfi_algo *grown = sf_realloc(a->at, capacity, sizeof *grown);
        if (!grown) {
            return sf_fail_memory(err, "GEMM algorithms");
        }
        a->at = grown;
        a->capacity = capacity;
    }
    a->at[a->n++] = *algo;
    return 0;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static void print_algo(const struct sfi_algo *algo, struct sf_buf *out) {
    sf_buf_printf(out, "gemm %s flags=%u", sf_dtype_name(algo->dtype), algo->flags);
    for (int d = 0; d < 4; d++) {
        sf_buf_printf(out, " %s=%lld", dim_words[d], (long long)algo->dims[d]);
    }
    for (int c = 0; c < SFI_ALGO_CONFIG_N; c++) {
        sf_buf_printf(out, " %s=%u", config_words[c], algo->config[c]);
    }
    sf_buf_printf(out, " workspace=%llu ns=%llu\n", (unsigned long long)algo->workspace_bytes,
                  (unsigned long long)algo->time_ns);
}

void sfi_algos_print(const struct sfi_algos *a, const struct sfi_algo_device *device, struct sf_buf *out) {
    sf_buf_printf(out, "staticfire gemm algorithms 1\ndevice \"%s\" arch=%llu sms=%llu cublaslt=%llu\n", device->name,
                  (unsigned long long)device->arch, (unsigned long long)device->sms_n,
                  (unsigned long long)device->cublaslt);
    for (size_t i = 0; i < a->n; i++) {
        print_algo(&a->at[i], out);
    }
    sf_buf_printf(out, "end %zu\n", a->n);
}

static int scan_number(struct sfi_scan *s, uint64_t max, uint64_t *out) {
    (void)sfi_scan_at_end(s); /* skips spaces */
    return sfi_scan_uint(s, max, out);
}

static int scan_field(struct sfi_scan *s, const char *key, uint64_t max, uint64_t *out) {
    char word[16];
    (void)sfi_scan_at_end(s);
    const char *at = s->at;
    SF_TRY(sfi_scan_plain(s, word, sizeof word, key));
    if (strcmp(word, key) != 0 || !sfi_scan_char(s, '=')) {
        return sfi_scan_fail(s, at, "expected %s=, found \"%s\"", key, word);
    }
    return sfi_scan_uint(s, max, out);
}

static int scan_header(struct sfi_scan *s, const struct sfi_algo_device *device) {
    struct sfi_algo_device found;
    uint64_t version;
    if (!sfi_scan_word(s, "staticfire") || !sfi_scan_word(s, "gemm") || !sfi_scan_word(s, "algorithms")) {
        return sfi_scan_expected(s, "\"staticfire gemm algorithms 1\"");
    }
    SF_TRY(scan_number(s, 1, &version));
    SF_TRY(sfi_scan_end_line(s));
    if (!sfi_scan_word(s, "device")) {
        return sfi_scan_expected(s, "the device");
    }
    (void)sfi_scan_at_end(s);
    SF_TRY(sfi_scan_name(s, found.name, sizeof found.name));
    SF_TRY(scan_field(s, "arch", 1000, &found.arch));
    SF_TRY(scan_field(s, "sms", 1000000, &found.sms_n));
    SF_TRY(scan_field(s, "cublaslt", UINT32_MAX, &found.cublaslt));
    if (version != 1 || strcmp(found.name, device->name) != 0 || found.arch != device->arch ||
        found.sms_n != device->sms_n || found.cublaslt != device->cublaslt) {
        return sfi_scan_fail(s, s->line, "written for %s with cuBLASLt %llu, found %s with %llu", found.name,
                             (unsigned long long)found.cublaslt, device->name, (unsigned long long)device->cublaslt);
    }
    return sfi_scan_end_line(s);
}

static int scan_dtype(struct sfi_scan *s, uint8_t *out) {
    char word[16];
    (void)sfi_scan_at_end(s);
    const char *at = s->at;
    SF_TRY(sfi_scan_plain(s, word, sizeof word, "a dtype"));
    int dtype = sf_dtype_parse(word);
    if (dtype < 0) {
        return sfi_scan_fail(s, at, "expected a dtype, found \"%s\"", word);
    }
    *out = (uint8_t)dtype;
    return 0;
}

static int scan_algo(struct sfi_scan *s, struct sfi_algos *out) {
    struct sfi_algo algo = {0};
    uint64_t v;
    SF_TRY(scan_dtype(s, &algo.dtype));
    SF_TRY(scan_field(s, "flags", SHAPE_FLAGS, &v));
    algo.flags = (uint16_t)v;
    for (int d = 0; d < 4; d++) {
        SF_TRY(scan_field(s, dim_words[d], UINT64_C(1) << 48, &v));
        algo.dims[d] = (int64_t)v;
    }
    for (int c = 0; c < SFI_ALGO_CONFIG_N; c++) {
        SF_TRY(scan_field(s, config_words[c], UINT32_MAX, &v));
        algo.config[c] = (uint32_t)v;
    }
    SF_TRY(scan_field(s, "workspace", UINT64_C(1) << 40, &algo.workspace_bytes));
    SF_TRY(scan_field(s, "ns", UINT64_C(1) << 48, &algo.time_ns));
    if (out->n == SFI_ALGOS_MAX || find(out, algo.dtype, algo.flags, algo.dims)) {
        return sfi_scan_fail(s, s->line, "expected each shape once and at most %d", SFI_ALGOS_MAX);
    }
    SF_TRY(sfi_algos_add(out, &algo, s->err));
    return sfi_scan_end_line(s);
}

static int scan_file(struct sfi_scan *s, const struct sfi_algo_device *device, struct sfi_algos *out) {
    uint64_t n;
    SF_TRY(scan_header(s, device));
    while (sfi_scan_word(s, "gemm")) {
        SF_TRY(scan_algo(s, out));
    }
    if (!sfi_scan_word(s, "end")) {
        return sfi_scan_expected(s, "gemm or end");
    }
    const char *at = s->at;
    SF_TRY(scan_number(s, SFI_ALGOS_MAX, &n));
    if (n != out->n) {
        return sfi_scan_fail(s, at, "%llu shapes announced, found %zu", (unsigned long long)n, out->n);
    }
    SF_TRY(sfi_scan_end_line(s));
    return s->rest == s->end && sfi_scan_at_end(s) ? 0 : sfi_scan_expected(s, "the end of the file");
}

int sfi_algos_parse(const char *text, size_t bytes, const char *name, const struct sfi_algo_device *device,
                    struct sfi_algos *out, struct sf_err *err) {
    struct sfi_scan s;
    *out = (struct sfi_algos){0};
    sfi_scan_start(&s, text, bytes, name, err);
    int rc = scan_file(&s, device, out);
    if (rc != 0) {
        sfi_algos_clear(out);
    }
    return rc;
}

int sfi_algo_path(const char *folder, const struct sfi_algo_device *device, char *out, size_t size,
                  struct sf_err *err) {
    char word[64];
    size_t n = 0;
    for (const char *c = device->name; *c != '\0' && n + 1 < sizeof word; c++) {
        if (isalnum((unsigned char)*c)) {
            word[n++] = (char)tolower((unsigned char)*c);
        }
    }
    word[n] = '\0';
    int length = snprintf(out, size, "%s/gemm-%s-%llu.txt", folder, word, (unsigned long long)device->cublaslt);
    if (length < 0 || (size_t)length >= size) {
        return sf_fail(err, SF_E_USAGE, "the path of the cache folder is too long: %s", folder);
    }
    return 0;
}

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

/* A row-major [rows, cols] read by columns is [cols, rows]. */
static struct sfi_gemm_matrix flipped(uint64_t rows, uint64_t cols) {
    return (struct sfi_gemm_matrix){.rows = cols, .cols = rows, .ld = cols, .stride = rows * cols};
}

struct sfi_gemm_layout sfi_gemm_layout_of(const struct sf_call *gemm) {
    uint64_t m = (uint64_t)gemm->dims[0], n = (uint64_t)gemm->dims[1], k = (uint64_t)gemm->dims[2];
    bool ta = (gemm->flags & SF_CALL_TA_FLAG) != 0, tb = (gemm->flags & SF_CALL_TB_FLAG) != 0;
    return (struct sfi_gemm_layout){
        .first = tb ? flipped(n, k) : flipped(k, n),
        .second = ta ? flipped(k, m) : flipped(m, k),
        .result = flipped(m, n),
        .transpose_first = tb,
        .transpose_second = ta,
    };
}
