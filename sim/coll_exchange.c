/* All to all: who sends what over which link. */
#include "sim/coll_internal.h"

#include <math.h>

static double most(double a, double b) {
    return a > b ? a : b;
}

static double least(double a, double b) {
    return a < b ? a : b;
}

/* Direct: a message per peer. Else a message per domain, after its bytes have moved over NVLink to the GPU on the rail
 * of their destination. */
bool sfi_exchange_of(const struct sfi_ask *a, int algorithm, struct sfi_exchange *out) {
    const struct sfi_kernels *k = &a->c->k;
    bool direct = algorithm == SF_COLL_DIRECT;
    if (a->op != SF_COLL_ALL_TO_ALL || (!direct && (a->domains == 1 || a->local == 1))) {
        return false;
    }
    double own = a->bytes / a->n, up = a->up * k->exchange_share, outside = own * (a->n - a->local);
    struct sfi_exchange x = {.inside_n = a->local - 1, .outside_n = direct ? a->n - a->local : a->domains - 1};
    double message = x.outside_n > 0 ? outside / x.outside_n : 0;
    double fill = least(a->bytes / 2, k->exchange_fill); /* before all channels are busy */
    double incast = x.outside_n > 1 ? a->c->incast_share : 1;
    x.start = k->exchange_base;
    x.start += a->domains > 1 ? k->network_step[SF_COLL_SIMPLE] + a->hop_extra : k->step[SF_COLL_LL];
    x.start += direct ? 0 : k->step[SF_COLL_SIMPLE];
    x.own_s = (k->exchange_self * own + fill) / up; /* a rank's message to itself takes channels as well */
    x.inside_s = own / up;
    x.outside_s = a->domains > 1 ? message / (a->nic * incast) + k->exchange_message : 0;
    /* where rails do not meet in the fabric, the way to another rail is over NVLink first */
    x.forward_s = direct && a->c->rails_meet ? 0 : message * (a->local - 1) / a->local / up;
    x.pieces = direct ? 1 : floor(message / k->tree_chunk[SF_COLL_SIMPLE]) + 1;
    *out = x;
    return true;
}

/* NVLink and NIC side by side; a rail's NIC has nothing to send before the first piece has come to it. */
double sfi_exchange_s(const struct sfi_ask *a, int algorithm) {
    struct sfi_exchange x;
    if (!sfi_exchange_of(a, algorithm, &x)) {
        return -1;
    }
    double inside = x.own_s + x.inside_n * x.inside_s + x.outside_n * x.forward_s;
    double outside = x.outside_n * x.outside_s;
    switch (algorithm) {
    case SF_COLL_HIERARCHICAL:
        return x.start + inside + outside;
    case SF_COLL_RAIL:
        outside = most(outside + x.forward_s / x.pieces, x.outside_n * x.forward_s + x.outside_s / x.pieces);
        return x.start + most(inside, outside);
    default:
        return x.start + most(inside, outside);
    }
}
