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

/* Where a class touches its buffers: those of one in op order, so that what concerns a range looks at its buffer
 * alone. Long programs have as many buffers as microbatches; to look at all ops for each would take their square. */
struct sfi_touch {
    uint32_t op, arg; /* arg: among the class's */
};
struct sfi_touches {
    struct sfi_touch *all;
    uint32_t *first; /* [bufs_n + 1] of each buffer's in it */
};

/* Needs arguments that name buffers. Free with sfi_touches_free. */
int sfi_touches_create(const struct sf_class *c, struct sfi_touches *out, struct sf_err *err);
void sfi_touches_free(struct sfi_touches *t);
/* Where the touches of a buffer by `op` and later ones begin. */
uint32_t sfi_touches_from(const struct sfi_touches *t, uint32_t buf, uint32_t op);

#endif
