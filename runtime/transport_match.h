/* Which transfers belong together: the two ends of a message, the members of a collective. */
#ifndef SF_RUNTIME_TRANSPORT_MATCH_H
#define SF_RUNTIME_TRANSPORT_MATCH_H

#include "runtime/transport.h"

struct sfi_end {
    uint32_t rank;
    struct sfi_xfer *x;
};

/* Transfers of all ranks: xfers[rank] has xfers_n[rank] entries; kinds other than communication are skipped. `join`
 * gets the ends of each transfer in the order of their index. Refuses transfers whose ends are missing or do not fit.
 */
int sfi_match_transfers(const struct sf_prog *prog, struct sfi_xfer *const xfers[], const uint32_t xfers_n[],
                        uint32_t ranks,
                        int (*join)(void *self, const struct sfi_end *ends, uint32_t n, struct sf_err *err), void *self,
                        struct sf_err *err);

#endif
