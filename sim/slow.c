/* Slow GPUs, NICs and scale-up ports: reading the list, finding the ranks. */
#include "sim/slow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"

static const char *const ones[] = {
#define X(NAME, one, many) one,
    SF_SLOWS(X)
#undef X
};

static const char *const manys[] = {
#define X(NAME, one, many) many,
    SF_SLOWS(X)
#undef X
};

static bool is_word(const char *text, size_t length, const char *word) {
    return strlen(word) == length && memcmp(text, word, length) == 0;
}

static int fail_entry(struct sf_err *err, const char *text, const char *what) {
    return sf_fail(err, SF_E_INPUT,
                   "%s in \"%.*s\": expected something like gpu:1234=0.9, nic:77=0.5, nvlink:3=0.8 or gpus:0.1%%=0.95",
                   what, (int)strcspn(text, ","), text);
}

/* "gpu:1234" or "gpus:0.1%"; *rest is set behind it. */
static int parse_which(const char *text, struct sf_slow *out, const char **rest, struct sf_err *err) {
    size_t length = strcspn(text, ":,");
    const char *number = text + length + 1;
    char *end = NULL;
    int kind = 0;
    while (kind < SF_SLOWS_N && !is_word(text, length, ones[kind]) && !is_word(text, length, manys[kind])) {
        kind++;
    }
    if (kind == SF_SLOWS_N || text[length] != ':') {
        return fail_entry(err, text, "unknown part");
    }
    *out = (struct sf_slow){.kind = (enum sf_slow_kind)kind};
    if (number[0] < '0' || number[0] > '9') {
        return fail_entry(err, text, "no number behind the colon");
    }
    if (is_word(text, length, ones[kind])) {
        unsigned long long gpu = strtoull(number, &end, 10);
        if (gpu >= SF_NONE) {
            return fail_entry(err, text, "a GPU number out of range");
        }
        out->gpu = (uint32_t)gpu;
    } else {
        out->share = strtod(number, &end) / 100.0;
        if (*end != '%' || !(out->share > 0.0 && out->share <= 1.0)) {
            return fail_entry(err, text, "a share that is not above 0% and up to 100%");
        }
        end++;
    }
    *rest = end;
    return SF_OK;
}

static int parse_entry(const char *text, struct sf_slow *out, const char **rest, struct sf_err *err) {
    const char *at = text;
    char *end = NULL;
    SF_TRY(parse_which(text, out, &at, err));
    if (*at != '=' || at[1] < '0' || at[1] > '9') {
        return fail_entry(err, text, "no = and pace");
    }
    out->pace = strtod(at + 1, &end);
    if (!(out->pace >= 0.001 && out->pace < 1.0)) {
        return fail_entry(err, text, "a pace that is not from 0.001 to below 1");
    }
    *rest = end;
    return SF_OK;
}

int sf_slow_parse(const char *text, struct sf_slow out[SF_SLOW_MAX], uint32_t *n, struct sf_err *err) {
    const char *at = text;
    for (*n = 0; *n < SF_SLOW_MAX;) {
        SF_TRY(parse_entry(at, &out[(*n)++], &text, err));
        if (*text == '\0') {
            return SF_OK;
        }
        if (*text != ',') {
            return fail_entry(err, at, "unexpected text at the end");
        }
        at = text + 1;
    }
    return sf_fail(err, SF_E_INPUT, "more than %d slow parts in one list", SF_SLOW_MAX);
}

/* Of the part that an entry means. */
static double *part_of(struct sfi_pace *pace, const struct sf_slow *slow) {
    return slow->kind == SF_SLOW_GPU ? &pace->gpu : slow->kind == SF_SLOW_NIC ? &pace->out : &pace->up;
}

static int slow_one(const struct sfi_mesh *m, const struct sf_slow *slow, struct sfi_pace *pace, struct sf_err *err) {
    uint32_t rank = 0;
    while (rank < m->ranks_n && m->gpu[rank] != slow->gpu) {
        rank++;
    }
    if (rank == m->ranks_n) {
        return sf_fail(err, SF_E_INPUT, "%s:%u is slow, but no rank runs there: %u ranks, %u on each domain of %u",
                       ones[slow->kind], slow->gpu, m->ranks_n, m->prog->ranks_per_domain, m->prog->domain_gpus);
    }
    *part_of(&pace[rank], slow) *= slow->pace;
    return SF_OK;
}

/* A share that is no whole number of ranks is rounded to the nearest. */
static int count_share(const struct sfi_mesh *m, const struct sf_slow *slow, uint32_t *n, struct sf_err *err) {
    double wanted = slow->share * m->ranks_n;
    *n = (uint32_t)floor(wanted + 0.5);
    return wanted >= 1.0 - 1e-9
               ? SF_OK
               : sf_fail(err, SF_E_INPUT,
                         "%s:%g%% of %u ranks is less than one: expected at least %.3g%%, or a single one as "
                         "%s:NUMBER",
                         manys[slow->kind], slow->share * 100, m->ranks_n, 100.0 / m->ranks_n, ones[slow->kind]);
}

/* The beginning of a random permutation. */
static void slow_share(const struct sfi_mesh *m, const struct sf_slow *slow, uint32_t n, struct sf_rng rng,
                       uint32_t *order, struct sfi_pace *pace) {
    for (uint32_t r = 0; r < m->ranks_n; r++) {
        order[r] = r;
    }
    for (uint32_t i = 0; i < n && i < m->ranks_n; i++) {
        uint32_t j = i + (uint32_t)(sf_rng_u64(&rng) % (m->ranks_n - i)), t = order[i];
        order[i] = order[j];
        order[j] = t;
        *part_of(&pace[order[i]], slow) *= slow->pace;
    }
}

/* Nothing is named twice: which of two paces would hold? A share and a single part may meet, and then both count. */
static int check_twice(const struct sf_slow *slow, uint32_t slow_n, struct sf_err *err) {
    for (uint32_t i = 0; i < slow_n; i++) {
        for (uint32_t k = 0; k < i; k++) {
            bool alike = slow[i].kind == slow[k].kind && (slow[i].share > 0.0) == (slow[k].share > 0.0);
            if (alike && slow[i].share > 0.0) {
                return sf_fail(err, SF_E_INPUT, "%s is named twice in the list of slow parts: expected one share",
                               manys[slow[i].kind]);
            }
            if (alike && slow[i].gpu == slow[k].gpu) {
                return sf_fail(err, SF_E_INPUT,
                               "%s:%u is named twice in the list of slow parts, with %g and %g: expected one pace",
                               ones[slow[i].kind], slow[i].gpu, slow[k].pace, slow[i].pace);
            }
        }
    }
    return SF_OK;
}

/* Parts that this cluster does not have. */
static int check_part(const struct sfi_mesh *m, const struct sf_slow *slow, struct sf_err *err) {
    if (slow->kind == SF_SLOW_NIC && sf_topo_scale_out(m->topo) == NULL) {
        return sf_fail(err, SF_E_INPUT,
                       "%s is slow, but %s has one domain and no NICs: expected gpu or nvlink, or a cluster of two "
                       "domains or more",
                       slow->share > 0.0 ? manys[slow->kind] : ones[slow->kind], sf_topo_name(m->topo));
    }
    return SF_OK;
}

static int slow_all(const struct sfi_mesh *m, const struct sf_slow *slow, struct sf_rng rng, uint32_t *order,
                    struct sfi_pace *pace, struct sf_err *err) {
    uint32_t n = 0;
    SF_TRY(check_part(m, slow, err));
    if (!(slow->share > 0.0)) {
        return slow_one(m, slow, pace, err);
    }
    SF_TRY(count_share(m, slow, &n, err));
    slow_share(m, slow, n, rng, order, pace);
    return SF_OK;
}

int sfi_slow_apply(const struct sfi_mesh *mesh, const struct sf_slow *slow, uint32_t slow_n, uint64_t seed,
                   struct sf_arena *arena, const struct sfi_pace **out, struct sf_err *err) {
    struct sf_rng root = sf_rng_seed(seed), stream = sf_rng_split_text(&root, "slow");
    if (slow_n == 0) {
        return SF_OK;
    }
    SF_TRY(check_twice(slow, slow_n, err));
    struct sfi_pace *pace = sf_arena_alloc(arena, mesh->ranks_n, sizeof *pace);
    uint32_t *order = sf_arena_alloc(arena, mesh->ranks_n, sizeof *order);
    if (!pace || !order) {
        return sf_fail_memory(err, "slow parts");
    }
    for (uint32_t r = 0; r < mesh->ranks_n; r++) {
        pace[r] = (struct sfi_pace){1.0, 1.0, 1.0};
    }
    for (uint32_t i = 0; i < slow_n; i++) {
        SF_TRY(slow_all(mesh, &slow[i], sf_rng_split(&stream, i), order, pace, err));
    }
    *out = pace;
    return SF_OK;
}
