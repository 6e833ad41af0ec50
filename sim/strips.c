/* Strips: ranks side by side that nothing can tell apart, so that whole strips are sorted and folded instead of ranks.
 *
 * A strip is a box of the mesh: all places on the innermost axes, or an equal part of the axis they end at. It begins
 * at a multiple of its size, and its size divides the ranks of a domain, so its ranks sit side by side in one domain.
 * None of its axes chooses the class or carries transfers. Hence
 *   - a transfer moves a strip as it is: the i-th rank of one strip talks to the i-th rank of another. Both pairs of
 *     domains are the same for all i, and so is whether the rails are, which is all that a route depends on;
 *   - the groups of two ranks of a strip are the same, or one is the other moved along inside every strip it meets,
 * with as many members in each domain and neighbours as far apart. So ranks of a strip start with one colour, and as
 * long as all strips are of one colour each, a round of refinement leaves them so: the coarsest partition of the strips
 * is that of the ranks. */
#include "sim/mesh.h"

#include "sim/cost_internal.h"
#include "sim/engine.h"
#include "sim/seats.h"

static uint32_t axes_of_transfers(const struct sf_prog *prog, const struct sfi_classes *classes) {
    uint32_t axes = 0;
    for (uint32_t i = 0; i < classes->n; i++) {
        for (uint32_t w = 0; w < classes->cls[i].ways_n; w++) {
            axes |= prog->comms[classes->cls[i].ways[w].comm].axes;
        }
    }
    return axes;
}

/* The largest part of `size` that, `strip` times over, still divides the ranks of a domain. */
static uint32_t largest_part(uint32_t size, uint32_t strip, uint32_t per_domain) {
    uint32_t part = size < per_domain / strip ? size : per_domain / strip;
    while (part > 1 && (size % part != 0 || per_domain / strip % part != 0)) {
        part--;
    }
    return part;
}

void sfi_strips_find(const struct sf_prog *prog, const struct sf_topo *topo, const struct sfi_classes *classes,
                     uint32_t along[SF_MAX_AXES]) {
    uint32_t kept = prog->class_axes | axes_of_transfers(prog, classes), strip = 1, a = 0;
    struct sf_topo_counts counts;
    for (uint32_t i = 0; i < SF_MAX_AXES; i++) {
        along[i] = 1;
    }
    sf_topo_count(topo, &counts);
    if (sfi_is_hurt(&counts) || !sf_seats_in_order(topo, sf_prog_ranks(prog), prog->ranks_per_domain)) {
        return;
    }
    for (bool whole = true; whole && a < prog->axes_n && (kept >> a & 1) == 0; a++) {
        along[a] = largest_part(prog->axes[a].size, strip, prog->ranks_per_domain);
        strip *= along[a];
        whole = along[a] == prog->axes[a].size;
    }
}
