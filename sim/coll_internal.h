/* What the files of the collective model share. Times in seconds, rates in bytes per second. */
#ifndef SF_SIM_COLL_INTERNAL_H
#define SF_SIM_COLL_INTERNAL_H

#include "core/doc.h"
#include "sim/coll.h"

/* Algorithms that NCCL tunes come first in enum sf_coll_algorithm. */
#define SFI_TUNED SF_COLL_DIRECT
#define SFI_NODES 3 /* columns of NCCL's tables: one node, two, more */
#define SFI_LADDER_MAX 32
#define SFI_CORRECTION 24

enum sfi_arch { SFI_AMPERE, SFI_HOPPER, SFI_BLACKWELL };

/* NCCL's constants for one architecture, in its own units: microseconds and GB/s. */
struct sfi_tuning {
    double base[SFI_TUNED][SF_COLL_PROTOCOLS_N];
    double nvlink_hop[SFI_TUNED][SF_COLL_PROTOCOLS_N], network_hop[SFI_TUNED][SF_COLL_PROTOCOLS_N];
    double network_post, simple_posts, ring_plateau, collnet_arity, pat_hop_divisor, pat_rank;
    double ring_ll_share, ring_ll128_share, tree_share, tree_ll_divisor, tree_ll128_share[SFI_NODES];
    double pat_share, collnet_share, nvls_share, nvls_arity;
    double tree_correction[SF_COLL_PROTOCOLS_N][SFI_CORRECTION];
    double ll_max[SFI_NODES], host_ll_max[SFI_NODES];
    double ring_ll128_channel[SFI_NODES], tree_ll128_channel[SFI_NODES];
    double tree_channel[SFI_NODES], nvls_tree_channel[SFI_NODES];
    double ladder[SFI_LADDER_MAX], network_ladder[SFI_LADDER_MAX];
    uint32_t ladder_n, network_ladder_n;
    double duplicate_from, duplicate_always;
};

/* Channels that NCCL's search finds, and the rate of one, in GB/s. */
struct sfi_graph {
    uint32_t channels;
    double intra, inter;
};
struct sfi_graphs {
    struct sfi_graph of[SFI_TUNED];
};

/* What kernels of one device generation need beyond the link rates; calibrated once per generation. */
struct sfi_kernels {
    enum sfi_arch arch;
    double nvlink_gbps; /* all links of a GPU as NCCL counts them */
    double base[SF_COLL_PROTOCOLS_N], step[SF_COLL_PROTOCOLS_N], network_step[SF_COLL_PROTOCOLS_N];
    double share[SF_COLL_PROTOCOLS_N];        /* of a link's rate that is payload */
    double exposed;                           /* share of a Simple step's latency that slices in flight never hide */
    double turnover;                          /* of a step's time, lost whenever the ring starts over */
    double turnover_gather;                   /* the same where a rank also copies its own share */
    double network_tree[SF_COLL_PROTOCOLS_N]; /* one level of a tree of domains */
    double channel_bytes[SF_COLL_PROTOCOLS_N], tree_chunk[SF_COLL_PROTOCOLS_N]; /* per channel and step */
    uint32_t channels_max;
    double nvls_rate, nvls_base, nvls_turn, nvls_fill, nvls_network_step; /* nvls_rate 0: switches that only switch */
    double nvls_nics;                                                     /* of a domain that its tree keeps busy */
    uint32_t nvls_channels, nvls_heads, nvls_large_turns, nvls_middle_turns;
    double collnet_share, pat_share;
    double exchange_base, exchange_share, exchange_self, exchange_message, exchange_fill; /* _fill: bytes */
};

struct sf_coll {
    struct sfi_tuning tuning;
    struct sfi_kernels k;
    double up, out, out_peak;               /* usable of a GPU inside and across domains; on the wire */
    double tier_latency[SF_ROUTE_CORE + 1]; /* beyond a message of one leaf */
    double tier_rate[SF_ROUTE_CORE + 1];
    bool switches, sharp, rails_meet;
    int algorithm, protocol; /* wanted; -1: whatever NCCL picks */
    uint32_t domain_gpus;
    struct sfi_graphs *inside, *across; /* by members in a domain, 0 .. domain_gpus */
    struct sf_hash hash;
};

/* A question in the form that every formula wants. */
struct sfi_ask {
    const struct sf_coll *c;
    enum sf_coll_op op;
    double bytes;
    uint32_t n, domains, local; /* local: members in the emptiest domain */
    uint32_t levels;            /* of a binary tree over the domains */
    double up, nic, nics;       /* one GPU into its domain; one NIC; all NICs of a domain's members */
    double hop_extra;           /* what the tier adds to a network hop */
};
struct sfi_ask sfi_ask_of(const struct sf_coll *c, const struct sf_coll_query *q);

int sfi_coll_load(struct sf_coll *c, const struct sf_io *io, const char *path, struct sf_err *err);
/* Fill inside[] and across[]. */
void sfi_graph_search(const struct sf_coll *c, uint32_t local, bool across, struct sfi_graphs *out);

/* What NCCL expects, in seconds; negative when it would not consider the pair. */
double sfi_tuning_s(const struct sfi_ask *a, int algorithm, int protocol);

/* Each negative when the algorithm cannot do it. */
double sfi_ring_s(const struct sfi_ask *a, int protocol);
double sfi_pat_s(const struct sfi_ask *a);
double sfi_tree_s(const struct sfi_ask *a, int protocol);
double sfi_collnet_s(const struct sfi_ask *a);
double sfi_nvls_s(const struct sfi_ask *a);
double sfi_nvls_tree_s(const struct sfi_ask *a);
double sfi_exchange_s(const struct sfi_ask *a, int algorithm);
/* Bytes that the busiest domain of a double binary tree sends, over the vector's; the same are received. */
double sfi_tree_load(uint32_t domains);
/* Channels of a kernel: NCCL runs two per channel of the graph it found. */
uint32_t sfi_channels(const struct sfi_ask *a, int algorithm);

#endif
