/* All to all: who sends what over which link. */
#include "sim/coll_internal.h"

static double most(double a, double b) {
    return a > b ? a : b;
}

/* Bytes that one GPU moves, and messages that it posts. */
struct exchange {
    double inside, outside; /* over its NVLink; over its NIC */
    double messages;
    double hops; /* latency */
};

static struct exchange plan(const struct sfi_ask *a, int algorithm) {
    const struct sfi_kernels *k = &a->c->k;
    double n = a->n, local = a->local, own = a->bytes / n;
    struct exchange x = {.inside = own * (local - 1), .outside = own * (n - local)};
    x.hops = a->domains > 1 ? k->network_step[SF_COLL_SIMPLE] + a->hop_extra : k->step[SF_COLL_LL];
    if (algorithm == SF_COLL_DIRECT) {
        x.messages = n - local;
        /* where rails do not meet in the fabric, the way to another rail is over NVLink first */
        x.inside += a->c->rails_meet ? 0 : x.outside * (local - 1) / local;
    } else {
        x.messages = a->domains - 1.0;
        x.inside += x.outside * (local - 1) / local;
        x.hops += k->step[SF_COLL_SIMPLE];
    }
    return x;
}

double sfi_exchange_s(const struct sfi_ask *a, int algorithm) {
    const struct sfi_kernels *k = &a->c->k;
    if (a->op != SF_COLL_ALL_TO_ALL || (algorithm != SF_COLL_DIRECT && (a->domains == 1 || a->local == 1))) {
        return -1;
    }
    struct exchange x = plan(a, algorithm);
    double self = k->exchange_self * a->bytes / a->n; /* a rank's message to itself takes channels as well */
    double fill = a->bytes / 2 < k->exchange_fill ? a->bytes / 2 : k->exchange_fill; /* before all channels are busy */
    double inside = (x.inside + self + fill) / (a->up * k->exchange_share);
    double outside = x.outside > 0 ? x.outside / a->nic + x.messages * k->exchange_message : 0;
    double both = algorithm == SF_COLL_HIERARCHICAL ? inside + outside : most(inside, outside);
    return k->exchange_base + x.hops + both;
}
