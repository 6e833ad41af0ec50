/* The parts of sf_prog_check. Each assumes that the ones before it passed. */
#ifndef SF_CORE_PROG_CHECK_H
#define SF_CORE_PROG_CHECK_H

#include "core/prog_order.h"

/* Ops that make gradients with kernels: the whole backward or a half of it. */
static inline bool sfi_is_backward(int kind) {
    return kind == SF_OP_BACKWARD || kind == SF_OP_BACKWARD_INPUT || kind == SF_OP_BACKWARD_WEIGHT;
}

/* Axes, communicators, streams, placement; *ranks and *class_of_n are what the tables must cover. */
int sfi_check_mesh(const struct sf_prog *prog, uint32_t *ranks, uint32_t *class_of_n, struct sf_err *err);
int sfi_check_recipes(const struct sf_prog *prog, struct sf_err *err);
/* What a recipe asks of the range bound to a formal. */
struct sfi_formal {
    uint64_t reach; /* its bytes: more than this */
    bool touched;   /* else nothing is asked */
    bool written;
};
struct sfi_formals {
    struct sfi_formal *all; /* recipe by recipe */
    uint32_t *first;        /* of each recipe */
};
int sfi_check_class(const struct sf_prog *prog, uint32_t class_i, const struct sfi_formals *formals,
                    struct sf_err *err);
int sfi_check_passes(const struct sf_prog *prog, uint32_t class_i, struct sf_err *err);
/* With the happens-before order of the class: */
int sfi_check_memory(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, struct sf_err *err);
int sfi_check_gradients(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order,
                        struct sf_err *err);
/* What OFFLOAD took to the host is back before it is used. */
int sfi_check_host(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, struct sf_err *err);
int sfi_check_clip(const struct sf_prog *prog, uint32_t class_i, const struct sfi_order *order, struct sf_err *err);
/* Over all classes: one norm for all; */
int sfi_check_clips_agree(const struct sf_prog *prog, struct sf_err *err);
/* matching, agreement, deadlock. */
int sfi_check_communication(const struct sf_prog *prog, struct sf_err *err);

/* "class 3 "stage3" op 17 (send c0 m2 +1 pp.fwd): message". Returns SF_E_INPUT. */
int sfi_fail_op(const struct sf_prog *prog, uint32_t class_i, uint32_t op, struct sf_err *err, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

#endif
