/* The ranks of a program as arrays: class, seat and domain of each, and the groups of a communicator as one base per
 * group plus one offset per member, so that walking all groups costs an addition per member.
 *
 * A mesh may hold strips of ranks that behave alike instead of single ranks (strips.c). Whatever is said of ranks, here
 * and where the mesh is sorted, priced and folded, is then said of strips, each with the seat of its first rank; what
 * counts members, counts ranks. */
#ifndef SF_SIM_MESH_H
#define SF_SIM_MESH_H

#include "core/arena.h"
#include "core/prog.h"
#include "sim/cost.h"
#include "topo/topo.h"

struct sfi_comm {     /* geometry of one communicator */
    uint32_t *base;   /* [groups_n] first rank of each group */
    uint32_t *offset; /* [members_n] member i of a group is base + offset[i]; ascending */
    uint32_t groups_n, members_n;
    uint32_t stride;   /* of the innermost axis: what a p2p offset of one means */
    uint32_t *at;      /* by rank: place along the innermost axis; NULL until sfi_mesh_places */
    uint32_t together; /* ranks of a strip that are in one group, and how far the last of them is from the first */
    uint32_t reach;
    struct sf_coll_picks picks;
};

struct sfi_pace { /* what is left of the speed of a rank's device, scale-up port and NIC: 0 < pace <= 1 */
    double gpu, up, out;
};

struct sfi_mesh {
    const struct sf_prog *prog;
    const struct sf_topo *topo;
    const struct sfi_pace *pace; /* by rank; NULL: nothing is slow */
    uint32_t ranks_n;            /* strips of ranks */
    uint32_t strip;              /* ranks in each; 1: every rank is there by itself */
    uint32_t along[SF_MAX_AXES]; /* of them along each axis */
    uint32_t row;                /* from a multiple of it to the next they sit side by side in one domain */
    uint32_t class_row;          /* and are of one class */
    uint32_t *class_of;          /* by rank */
    uint32_t *gpu;
    uint32_t *domain;
    uint32_t *rail;                      /* of its NIC */
    uint8_t *kind;                       /* of GPU; NULL: all are alike */
    uint32_t *kinds;                     /* bit set: kinds of GPUs of its team; NULL likewise */
    bool hurt;                           /* routes may be slower than their tier, or missing */
    struct sfi_comm comms[SF_MAX_COMMS]; /* filled on demand */
};

/* Refuses a program that needs more seats than the cluster has or that assumes domains of another size. */
int sfi_mesh_create(const struct sf_prog *prog, const struct sf_topo *topo, struct sf_arena *arena,
                    struct sfi_mesh **out, struct sf_err *err);
/* With strips of so many ranks along each axis; NULL: none. */
int sfi_mesh_create_strips(const struct sf_prog *prog, const struct sf_topo *topo, const uint32_t *along,
                           struct sf_arena *arena, struct sfi_mesh **out, struct sf_err *err);
int sfi_mesh_comm(struct sfi_mesh *m, uint32_t comm, struct sf_arena *arena, struct sf_err *err);
/* The groups of ranks that agree on all coordinates outside `axes`. */
int sfi_mesh_groups(const struct sfi_mesh *m, uint32_t axes, struct sf_arena *arena, struct sfi_comm *out,
                    struct sf_err *err);

/* Where all ranks of a team wait for each other, the team goes at the pace of its slowest kind. leader[rank] is the
 * lowest rank of its team. Only where GPUs are of several kinds. */
int sfi_mesh_teams(struct sfi_mesh *m, const uint32_t *leader, struct sf_arena *arena, struct sf_err *err);

int sfi_mesh_places(struct sfi_mesh *m, uint32_t comm, struct sf_arena *arena, struct sf_err *err);

/* The rank at `delta` (already reduced to 0 .. size-1) along a communicator of one axis, whose places are known. */
static inline uint32_t sfi_mesh_peer(const struct sfi_comm *c, uint32_t rank, uint32_t delta) {
    uint32_t at = c->at[rank];
    return at + delta < c->members_n ? rank + delta * c->stride : rank - (c->members_n - delta) * c->stride;
}

/* Span of one group of a communicator. */
void sfi_mesh_span(const struct sfi_mesh *m, const struct sfi_comm *c, uint32_t group, struct sf_span *out);

#endif
