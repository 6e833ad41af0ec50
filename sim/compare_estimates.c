/* Estimates of a communication library, as staticfire-run --estimates writes them. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "sim/compare.h"

#define ESTIMATES_MAX_BYTES ((size_t)256 << 20)
#define ESTIMATE_MAX_S 1e6

struct file {
    const char *path;
    const struct sf_prog *prog;
    size_t entry; /* being read */
};

static int fail_entry(const struct file *f, struct sf_err *err, const char *expected) {
    return sf_fail_at(err, SF_E_INPUT, f->path, 0, 0, "entry %zu of \"collectives\": expected %s", f->entry, expected);
}

static int whole_number(const struct file *f, const json_t *entry, const char *key, json_int_t limit, json_int_t *out,
                        struct sf_err *err) {
    const json_t *v = json_object_get(entry, key);
    char expected[96];
    if (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < limit) {
        *out = json_integer_value(v);
        return 0;
    }
    snprintf(expected, sizeof expected, "\"%s\" as a whole number below %lld", key, (long long)limit);
    return fail_entry(f, err, expected);
}

static bool is_text(const json_t *entry, const char *key, const char *wanted) {
    const char *found = json_string_value(json_object_get(entry, key));
    return found != NULL && strcmp(found, wanted) == 0;
}

/* What the entry says of the op must be what the program says: an op of another program would join silently. */
static int check_op(const struct file *f, const json_t *entry, const struct sf_estimate *e, struct sf_err *err) {
    const struct sf_op *op = &f->prog->classes[sf_prog_class(f->prog, e->rank)].ops[e->op];
    char expected[200];
    json_int_t bytes = json_integer_value(json_object_get(entry, "bytes"));
    if (sf_op_group(op->kind) != SF_OP_IS_COLL) {
        snprintf(expected, sizeof expected, "a collective, but op %u of rank %u is a %s", e->op, e->rank,
                 sf_op_name(op->kind));
        return fail_entry(f, err, expected);
    }
    if (!is_text(entry, "kind", sf_op_name(op->kind)) ||
        !is_text(entry, "communicator", f->prog->comms[op->comm].name) || (uint64_t)bytes != op->bytes) {
        snprintf(expected, sizeof expected, "%s of %llu bytes on \"%s\", which op %u of rank %u is",
                 sf_op_name(op->kind), (unsigned long long)op->bytes, f->prog->comms[op->comm].name, e->op, e->rank);
        return fail_entry(f, err, expected);
    }
    return 0;
}

static int read_seconds(const struct file *f, const json_t *entry, sf_time_ps *out, struct sf_err *err) {
    const json_t *v = json_object_get(entry, "seconds");
    double seconds = json_number_value(v);
    if (json_is_null(v)) {
        *out = -1;
        return 0;
    }
    if (!json_is_number(v) || !(seconds >= 0) || seconds > ESTIMATE_MAX_S) {
        return fail_entry(f, err, "\"seconds\" as a number from 0 to 1e6, or null");
    }
    *out = sf_s_to_ps(seconds);
    return 0;
}

static int read_entry(const struct file *f, const json_t *entry, struct sf_estimate *out, struct sf_err *err) {
    json_int_t rank, op;
    if (!json_is_object(entry)) {
        return fail_entry(f, err, "an object of rank, op, kind, communicator, bytes and seconds");
    }
    SF_TRY(whole_number(f, entry, "rank", sf_prog_ranks(f->prog), &rank, err));
    SF_TRY(whole_number(f, entry, "op", f->prog->classes[sf_prog_class(f->prog, (uint32_t)rank)].ops_n, &op, err));
    *out = (struct sf_estimate){.rank = (uint32_t)rank, .op = (uint32_t)op};
    SF_TRY(check_op(f, entry, out, err));
    return read_seconds(f, entry, &out->time, err);
}

static int by_op(const void *pa, const void *pb) {
    const struct sf_estimate *a = pa, *b = pb;
    if (a->rank != b->rank) {
        return a->rank < b->rank ? -1 : 1;
    }
    return a->op < b->op ? -1 : a->op > b->op;
}

static int read_list(struct file *f, const json_t *list, struct sf_estimates *out, struct sf_err *err) {
    out->list = sf_calloc(json_array_size(list), sizeof *out->list);
    if (out->list == NULL) {
        return sf_fail_memory(err, "estimates");
    }
    for (f->entry = 0; f->entry < json_array_size(list); f->entry++) {
        SF_TRY(read_entry(f, json_array_get(list, f->entry), &out->list[out->n], err));
        out->n++;
    }
    qsort(out->list, out->n, sizeof *out->list, by_op);
    for (size_t i = 1; i < out->n; i++) {
        if (by_op(&out->list[i - 1], &out->list[i]) == 0) {
            return sf_fail_at(err, SF_E_INPUT, f->path, 0, 0, "op %u of rank %u is estimated twice", out->list[i].op,
                              out->list[i].rank);
        }
    }
    return 0;
}

static int read_root(struct file *f, const json_t *root, struct sf_estimates *out, struct sf_err *err) {
    char hash[SF_HASH_TEXT];
    const char *program = json_string_value(json_object_get(root, "program"));
    const char *source = json_string_value(json_object_get(root, "source"));
    const json_t *list = json_object_get(root, "collectives");
    if (program == NULL || source == NULL || !json_is_array(list)) {
        return sf_fail_at(
            err, SF_E_INPUT, f->path, 0, 0,
            "expected an object of program, source and collectives, as staticfire-run --estimates writes");
    }
    out->prog = sf_prog_hash(f->prog);
    if (strcmp(program, sf_hash_format(out->prog, hash)) != 0) {
        return sf_fail_at(err, SF_E_INPUT, f->path, 0, 0,
                          "the estimates are of program %.40s, but the program given is %s: estimate the one that ran",
                          program, hash);
    }
    snprintf(out->source, sizeof out->source, "%s", source);
    return read_list(f, list, out, err);
}

int sf_estimates_load(const struct sf_io *io, const char *path, const struct sf_prog *prog, struct sf_estimates *out,
                      struct sf_err *err) {
    struct file f = {.path = path, .prog = prog};
    json_error_t where;
    char *data = NULL;
    size_t bytes = 0;
    *out = (struct sf_estimates){0};
    SF_TRY(io->read_all(io->self, path, ESTIMATES_MAX_BYTES, &data, &bytes, err));
    json_t *root = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, &where);
    sf_free(data);
    if (root == NULL) {
        return sf_fail_at(err, SF_E_INPUT, path, (uint32_t)where.line, (uint32_t)where.column,
                          "expected the JSON of staticfire-run --estimates: %s", where.text);
    }
    int rc = read_root(&f, root, out, err);
    json_decref(root);
    if (rc != 0) {
        sf_estimates_clear(out);
    }
    return rc;
}

void sf_estimates_clear(struct sf_estimates *e) {
    sf_free(e->list);
    *e = (struct sf_estimates){0};
}
