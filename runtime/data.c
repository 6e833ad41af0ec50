#include "runtime/data.h"

#include <string.h>

#include "core/arena.h"
#include "core/io.h"
#include "core/rng.h"

struct sfi_data {
    unsigned char *text;
    uint64_t windows; /* of seq_len tokens, each followed by 1 + further bytes: the last targets */
    uint64_t seq_len, batch;
    struct sf_rng order;
    uint32_t half_bits; /* of the shuffle's domain */
    uint32_t further;
};

/* An invertible mix of numbers below 4^half_bits: a Feistel network, four rounds. */
static uint64_t permute(const struct sf_rng *key, uint32_t half_bits, uint64_t value) {
    uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint64_t left = value >> half_bits, right = value & mask;
    for (uint64_t round = 0; round < 4; round++) {
        struct sf_rng r = sf_rng_split(key, round << 32 | right);
        uint64_t next = left ^ (sf_rng_u64(&r) & mask);
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

uint64_t sfi_data_offset(const struct sfi_data *d, uint64_t step, uint64_t sequence) {
    uint64_t sample = step * d->batch + sequence;
    struct sf_rng epoch = sf_rng_split(&d->order, sample / d->windows);
    uint64_t window = sample % d->windows;
    do { /* walk the cycle until it is back inside: still a permutation of the windows */
        window = permute(&epoch, d->half_bits, window);
    } while (window >= d->windows);
    return window * d->seq_len;
}

static int32_t *fill(const struct sfi_data *d, uint64_t step, uint64_t sequence, uint64_t first, uint64_t tokens,
                     int32_t *out) {
    const unsigned char *text = d->text + sfi_data_offset(d, step, sequence) + first;
    for (uint64_t i = 0; i < tokens; i++) {
        *out++ = text[i];
    }
    return out;
}

void sfi_data_fill(const struct sfi_data *d, uint64_t step, uint64_t first_sequence, uint32_t sequences, uint32_t shift,
                   int32_t *out) {
    for (uint32_t s = 0; s < sequences; s++) {
        out = fill(d, step, first_sequence + s, shift, d->seq_len, out);
    }
}

uint64_t sfi_load_tokens(const struct sf_prog_job *job) {
    return (uint64_t)job->micro_batch_sequences * job->seq_len_tokens / sf_prog_slices(job);
}

void sfi_data_load_op(const struct sfi_data *d, const struct sfi_loads *who, const struct sf_op *op, int32_t *out) {
    const struct sf_prog_job *job = &who->prog->job;
    uint64_t sequence = ((uint64_t)who->dp_index * job->microbatches + op->microbatch) * job->micro_batch_sequences;
    uint64_t tokens = job->seq_len_tokens / sf_prog_slices(job);
    bool targets = op->flags & SF_OP_TARGETS;
    uint64_t first = op->slice * tokens + targets, end = first + (targets ? d->further : 0);
    int32_t *ids = out;
    for (; first <= end; first++) {
        for (uint32_t s = 0; s < job->micro_batch_sequences; s++) {
            out = fill(d, who->step, sequence + s, first, tokens, out);
        }
    }
    if (op->comm != SF_NONE) {
        uint64_t part = job->vocab / sf_prog_comm_size(who->prog, op->comm);
        int32_t own = (int32_t)(part * sf_prog_comm_index(who->prog, who->rank, op->comm));
        for (; ids < out; ids++) {
            *ids -= own;
        }
    }
}

static int check_vocab(const struct sf_prog_job *job, const unsigned char *text, size_t bytes, const char *path,
                       struct sf_err *err) {
    uint32_t line = 1, column = 1;
    for (size_t i = 0; i < bytes && job->vocab < 256; i++) {
        if (text[i] >= job->vocab) {
            return sf_fail_at(
                err, SF_E_INPUT, path, line, column,
                "byte %u is outside the vocabulary of %llu tokens: use a model with a vocabulary of 256 or "
                "more, or a text without such bytes",
                text[i], (unsigned long long)job->vocab);
        }
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    return SF_OK;
}

/* Takes `text` over, also when it fails. */
static int create(const struct sf_prog_job *job, uint32_t further, unsigned char *text, size_t bytes, const char *path,
                  struct sfi_data **out, struct sf_err *err) {
    struct sfi_data *d = NULL;
    int rc = check_vocab(job, text, bytes, path, err);
    size_t behind = (size_t)further + 1;
    if (rc == SF_OK && (job->seq_len_tokens == 0 || bytes < (size_t)job->seq_len_tokens + behind)) {
        rc = sf_fail_at(err, SF_E_INPUT, path, 0, 0,
                        "the text has %zu bytes: expected at least %zu for one sequence and the %s after it", bytes,
                        job->seq_len_tokens + behind, further > 0 ? "bytes" : "byte");
    }
    d = rc == SF_OK ? sf_calloc(1, sizeof *d) : NULL;
    if (!d) {
        sf_free(text);
        return rc != SF_OK ? rc : sf_fail_memory(err, "training data");
    }
    struct sf_rng seed = sf_rng_seed(job->seed);
    d->text = text;
    d->seq_len = job->seq_len_tokens;
    d->batch = job->global_batch_sequences;
    d->further = further;
    d->windows = (bytes - behind) / d->seq_len;
    d->order = sf_rng_split_text(&seed, "data order");
    while (UINT64_C(1) << 2 * d->half_bits < d->windows) {
        d->half_bits++;
    }
    *out = d;
    return SF_OK;
}

int sfi_data_load(const struct sf_prog_job *job, uint32_t further, const char *path, struct sfi_data **out,
                  struct sf_err *err) {
    char *text;
    size_t bytes;
    SF_TRY(sf_io_posix.read_all(sf_io_posix.self, path, SFI_DATA_MAX_BYTES, &text, &bytes, err));
    return create(job, further, (unsigned char *)text, bytes, path, out, err);
}

int sfi_data_random(const struct sf_prog_job *job, uint32_t further, struct sfi_data **out, struct sf_err *err) {
    size_t bytes = (size_t)job->seq_len_tokens * 64 + 1 + further;
    unsigned char *text = sf_malloc(bytes);
    if (!text) {
        return sf_fail_memory(err, "training data");
    }
    uint64_t vocab = job->vocab < 256 ? job->vocab : 256;
    struct sf_rng r = sf_rng_seed(1);
    for (size_t i = 0; i < bytes; i++) {
        text[i] = (unsigned char)(vocab > 0 ? sf_rng_u64(&r) % vocab : 0);
    }
    return create(job, further, text, bytes, "(random bytes)", out, err);
}

void sfi_data_free(struct sfi_data *d) {
    if (d) {
        sf_free(d->text);
        sf_free(d);
    }
}
