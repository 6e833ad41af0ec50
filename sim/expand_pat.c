/* PAT: in phase i every member sends what it has to the one 2^i places on (all_gather) or back (reduce_scatter). */
#include "sim/expand_internal.h"

struct sfi_room sfi_expand_pat_room(const struct sfi_expansion *x) {
    return (struct sfi_room){3 * (size_t)x->n, 0};
}

double sfi_expand_pat_chunks(const struct sfi_expansion *x) {
    return (double)x->n * (x->n - 1.0) * sfi_channels(&x->a, SF_COLL_PAT);
}

/* A member's NIC sends its shares one after the other; what the next phase sends on has come by then. */
static void phase(const struct sfi_expansion *x, uint32_t reach, double share_s, double hop, const double *before,
                  double *now) {
    uint32_t n = x->n, shares = reach < n - reach ? reach : n - reach;
    for (uint32_t m = 0; m < n; m++) {
        uint32_t from = x->a.op == SF_COLL_ALL_GATHER ? (m + n - reach % n) % n : (m + reach) % n;
        double rate = sfi_lesser(sfi_expand_out(x, m), sfi_expand_out(x, from));
        double come = before[from] + sfi_expand_ps(shares * share_s / rate) + hop;
        now[m] = sfi_later(come, before[m] + sfi_expand_ps(shares * share_s / sfi_expand_out(x, m)));
    }
}

bool sfi_expand_pat(struct sfi_expansion *x) {
    const struct sfi_kernels *k = &x->a.c->k;
    if (sfi_pat_s(&x->a) < 0) {
        return false;
    }
    double share_s = x->a.bytes / x->n / (x->a.nic * k->pat_share);
    double hop = sfi_expand_ps(k->network_step[SF_COLL_SIMPLE] + x->a.hop_extra);
    double *before = x->room, *now = x->room + x->n;
    for (uint32_t m = 0; m < x->n; m++) {
        before[m] = x->arrive[m] + sfi_expand_ps(k->base[SF_COLL_SIMPLE]);
    }
    for (uint32_t reach = 1; reach < x->n; reach *= 2) {
        phase(x, reach, share_s, hop, before, now);
        double *spare = before;
        before = now;
        now = spare;
    }
    for (uint32_t m = 0; m < x->n; m++) {
        x->end[m] = before[m];
    }
    return true;
}
