/* Happens-before of one class: which ops are certainly complete when an op starts, whatever the timing. */
#ifndef SF_CORE_PROG_ORDER_H
#define SF_CORE_PROG_ORDER_H

#include "core/prog.h"

struct sfi_order {
    uint32_t ops_n;
    uint32_t *position;                /* [ops_n] place of an op on its stream */
    uint32_t (*known)[SF_MAX_STREAMS]; /* [ops_n] ops of each stream complete before this op starts */
};

/* Needs valid streams and deps that point backwards. Free with sfi_order_free. */
int sfi_order_create(const struct sf_op *ops, uint32_t ops_n, const uint32_t *deps, struct sfi_order *out,
                     struct sf_err *err);
void sfi_order_free(struct sfi_order *o);

/* True when op `a` has completed before op `b` starts in every execution. */
static inline bool sfi_before(const struct sfi_order *o, const struct sf_op *ops, uint32_t a, uint32_t b) {
    return o->position[a] < o->known[b][ops[a].stream];
}

/* The uses of a buffer, reduced to what ordering against another buffer needs. */
struct sfi_uses {
    uint32_t last[SF_MAX_STREAMS];  /* per stream, 1 + position of the last use; 0 = none */
    uint32_t known[SF_MAX_STREAMS]; /* complete before every use */
    bool used;
};

void sfi_uses_init(struct sfi_uses *u);
void sfi_uses_add(struct sfi_uses *u, const struct sfi_order *o, const struct sf_op *ops, uint32_t op);
/* Every use of `a` happens before every use of `b`. */
bool sfi_uses_before(const struct sfi_uses *a, const struct sfi_uses *b);

#endif
