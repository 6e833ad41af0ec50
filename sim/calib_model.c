/* The forms that kernel times are fitted to. Work is that of sim/work.c: flops and compulsory bytes.
 *
 *   product    launch + flops/rate * layout * (1 + tile_loss (1/m + 1/n)) (1 + k_prologue/k) + bytes/memory_rate
 *              layout: 1, or `ta` or `tb` where A or B is stored transposed
 *   attention  launch + flops/rate * (1 + softmax_dim/head_dim) (1 + seq_prologue/keys), keys = seq/2
 *   stream     launch + bytes/memory_rate, one per kind of kernel
 *   link       message: latency + bytes/rate; collective of n ranks: rounds (n-1) (latency + bytes/n / rate), with two
 *              rounds for all_reduce: the ring of sim/cost.h */
#include <string.h>

#include "sim/calib_internal.h"
#include "sim/cost.h"

static const char *const form_names[] = {
#define X(NAME, name, params) name,
    SF_CALIB_FORMS(X)
#undef X
};

static const char *const param_names[SF_CALIB_FORMS_N][SF_CALIB_PARAMS] = {
    [SF_CALIB_PRODUCT] = {"launch", "rate", "tile_loss", "k_prologue", "memory_rate", "ta", "tb"},
    [SF_CALIB_ATTENTION] = {"launch", "rate", "softmax_dim", "seq_prologue"},
    [SF_CALIB_STREAM] = {"launch", "memory_rate"},
    [SF_CALIB_LINK] = {"latency", "rate"},
};

const char *sf_calib_form_name(int form) {
    return form >= 0 && form < SF_CALIB_FORMS_N ? form_names[form] : "?";
}

const char *sf_calib_param_name(int form, int i) {
    return i >= 0 && i < SF_CALIB_PARAMS ? param_names[form][i] : NULL;
}

int sf_calib_form_of(int kind) {
    switch (kind) {
    case SF_CALL_GEMM:
        return SF_CALIB_PRODUCT;
    case SF_CALL_ATTN_FWD:
    case SF_CALL_ATTN_BWD:
    case SF_CALL_ATTN_SLICE_FWD:
    case SF_CALL_ATTN_SLICE_BWD:
        return SF_CALIB_ATTENTION;
    default:
        return SF_CALIB_STREAM;
    }
}

struct sf_call sfi_calib_call(const struct sf_calib_row *row) {
    struct sf_call c = {.kind = (uint8_t)row->kind, .dtype = (uint8_t)row->dtype, .flags = row->flags, .comm = SF_NONE};
    c.imm[1] = 1.0f;
    memcpy(c.dims, row->dims, sizeof c.dims);
    return c;
}

double sfi_calib_work(const struct sf_call *call) {
    struct sf_work w = sf_call_work(call);
    return sf_calib_form_of(call->kind) == SF_CALIB_STREAM ? w.bytes : w.flops;
}

static double at_least_one(int64_t dim) {
    return dim > 0 ? (double)dim : 1.0;
}

static double product_s(const double *p, const struct sf_call *c, const struct sf_work *w) {
    double m = at_least_one(c->dims[0]), n = at_least_one(c->dims[1]), k = at_least_one(c->dims[2]);
    double layout = (c->flags & SF_CALL_TA_FLAG ? p[5] : 1.0) * (c->flags & SF_CALL_TB_FLAG ? p[6] : 1.0);
    double busy = w->flops / p[1] * layout * (1.0 + p[2] * (1.0 / m + 1.0 / n)) * (1.0 + p[3] / k);
    return p[0] + busy + w->bytes / p[4];
}

double sfi_calib_s(int form, const double *p, const struct sf_call *c) {
    struct sf_work w = sf_call_work(c);
    switch (form) {
    case SF_CALIB_PRODUCT:
        return product_s(p, c, &w);
    case SF_CALIB_ATTENTION:
        return p[0] + w.flops / p[1] * (1.0 + p[2] / at_least_one(c->dims[4])) *
                          (1.0 + p[3] / (at_least_one(c->dims[1]) / 2.0));
    default:
        return p[0] + w.bytes / p[1];
    }
}

double sfi_calib_link_s(const double *p, const struct sf_calib_point *point) {
    if (point->op == SF_CALL_COPY) {
        return p[0] + point->bytes / p[1];
    }
    double n = point->ranks, rounds = point->op == SF_CALL_ALL_REDUCE ? 2.0 : 1.0;
    return rounds * (n - 1.0) * (p[0] + point->bytes / n / p[1]);
}
