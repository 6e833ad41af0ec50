/* Calibration: what was measured on a device, fitted. A table of kernel times covers the shapes it lists; the models
 * fitted to it cover the shapes between and beside them, each with an interval. docs/calibration.md has the formulas.
 *
 * Every fit is robust (GSL's non-linear least squares on logarithms of times, reweighted until outliers count little)
 * and its error is what rows show that had no part in it. */
#ifndef SF_SIM_CALIB_H
#define SF_SIM_CALIB_H

#include "core/call.h"
#include "core/err.h"
#include "core/hash.h"
#include "core/io.h"
#include "core/prog.h"
#include "core/trace.h"

#define SF_CALIB_SOURCES 64
#define SF_CALIB_ROWS (1u << 20)

/* ---- what was measured ---- */

struct sf_calib_row { /* one kernel call, in one source */
    uint16_t kind, dtype, flags, source;
    int64_t dims[SF_CALL_DIMS];
    double time_s;
};

struct sf_calib_point { /* one message (ranks 2, op SF_CALL_COPY) or collective */
    uint16_t op;        /* enum sf_call_kind */
    uint16_t source;
    uint32_t ranks;
    double bytes, time_s; /* bytes as in call.h */
};

struct sf_calib_source {
    char name[96]; /* without its folder: the file must not tell where it was made */
    char form[16]; /* "kernels", "gemm", "nccl-tests", "trace" */
    struct sf_hash hash;
    uint32_t rows, left_out; /* left out: what such a file holds and no model here can use */
};

struct sf_calib_data {
    struct sf_calib_row *rows;
    struct sf_calib_point *points;
    size_t rows_n, rows_room, points_n, points_room;
    struct sf_calib_source source[SF_CALIB_SOURCES];
    uint32_t sources_n;
    char cpu[128], date[32];          /* of the first kernel table that says so */
    char device[128], libraries[128]; /* likewise, of a GPU; tables of another one are refused */
    double dispatch_s[SF_CALIB_SOURCES], message_s[SF_CALIB_SOURCES], message_rate[SF_CALIB_SOURCES],
        collective_s[SF_CALIB_SOURCES], collective_rate[SF_CALIB_SOURCES]; /* by source; 0: not stated */
};
void sf_calib_data_clear(struct sf_calib_data *d); /* legal on a zeroed one */

/* A new source; `path` is only named. SF_E_INPUT when there are too many. */
int sf_calib_source(struct sf_calib_data *d, const char *path, const char *form, struct sf_hash hash,
                    struct sf_err *err);
/* Belongs to the last source. */
int sf_calib_add_row(struct sf_calib_data *d, const struct sf_calib_row *row, struct sf_err *err);
int sf_calib_add_point(struct sf_calib_data *d, const struct sf_calib_point *point, struct sf_err *err);

/* Readers, each for a whole file in memory; SF_E_INPUT with file and line. A kernel table or calibration file; what
 * nccl-tests prints (collective and ranks are those that its comments name; `op`, -1 for none, and `ranks`, 0 for none,
 * where they name none); a trace of `prog`. */
int sf_calib_read_kernels(struct sf_calib_data *d, const char *text, size_t bytes, const char *path,
                          struct sf_err *err);
int sf_calib_read_nccl(struct sf_calib_data *d, const char *text, size_t bytes, const char *path, int op,
                       uint32_t ranks, struct sf_err *err);
int sf_calib_read_trace(struct sf_calib_data *d, const struct sf_trace *trace, const struct sf_prog *prog,
                        struct sf_hash hash, const char *path, struct sf_err *err);

/* ---- what it comes to ---- */

/* X(NAME, "name", parameters in order). Which kinds of calls share a form: docs/calibration.md. */
#define SF_CALIB_FORMS(X)                                                                                              \
    X(PRODUCT, "product", "launch rate tile_loss k_prologue memory_rate ta tb")                                        \
    X(ATTENTION, "attention", "launch rate softmax_dim seq_prologue")                                                  \
    X(STREAM, "stream", "launch memory_rate")                                                                          \
    X(LINK, "link", "latency rate")

enum sf_calib_form {
#define X(NAME, name, params) SF_CALIB_##NAME,
    SF_CALIB_FORMS(X)
#undef X
        SF_CALIB_FORMS_N
};
#define SF_CALIB_PARAMS 7

struct sf_calib_param {
    double value, low, high; /* 90 % */
};

struct sf_calib_model {
    uint16_t kind, dtype; /* of the calls it prices; a link: SF_CALL_COPY for messages, else the collective */
    int form;             /* enum sf_calib_form */
    struct sf_calib_param param[SF_CALIB_PARAMS];
    double median, p90; /* size of the relative error on rows that were held out */
    uint32_t rows;      /* fitted to */
    bool held_out;      /* false: too few rows to hold any out; the errors are a cautious guess */
};

struct sf_calib {
    struct sf_calib_model *models; /* kernels in the order of kind and dtype, then links */
    size_t models_n;
    struct sf_calib_row *rows; /* merged, in the order of kernel tables */
    size_t rows_n;
    double repeat;     /* 90 % of rows measured in several sources were within this of their mean */
    uint32_t repeat_n; /* how many there were; 0: a cautious guess */
    struct sf_calib_param dispatch, message_s, message_rate, collective_s, collective_rate; /* value 0: not measured */
};

/* SF_E_INPUT when there is nothing to fit. */
int sf_calib_fit(const struct sf_calib_data *d, struct sf_calib *out, struct sf_err *err);
void sf_calib_clear(struct sf_calib *c); /* legal on a zeroed one */
/* The file that `--kernels` reads. The same input gives the same bytes. */
void sf_calib_print(const struct sf_calib_data *d, const struct sf_calib *c, struct sf_buf *out);

int sf_calib_form_of(int kind);                   /* of a compute call: enum sf_calib_form */
const char *sf_calib_param_name(int form, int i); /* NULL behind the last one; the text is static */
const char *sf_calib_form_name(int form);

#endif
