/* What the files of the collective model share. Times in seconds, rates in bytes per second. */
#ifndef SF_SIM_COLL_INTERNAL_H
#define SF_SIM_COLL_INTERNAL_H

#include "core/doc.h"
#include "sim/coll.h"

/* Algorithms that NCCL tunes come first in enum sf_coll_algorithm. */
#define SFI_TUNED SF_COLL_DIRECT
#define SFI_SLOTS 8 /* steps that a channel's buffer holds: NCCL_STEPS */
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
    double compared[2]; /* with how many published points, inside a domain and across */
    enum sf_grade compared_grade[2];
    double nvlink_gbps; /* all links of a GPU as NCCL counts them */
    double base[SF_COLL_PROTOCOLS_N], step[SF_COLL_PROTOCOLS_N], network_step[SF_COLL_PROTOCOLS_N];
    double step_scatter;               /* as step[SIMPLE], of a ring that only adds: it writes nothing of its own */
    double share[SF_COLL_PROTOCOLS_N]; /* of a link's rate that is payload */
    double exposed;                    /* share of a Simple step's latency that slices in flight never hide */
    double turnover;                   /* of a step's time, lost whenever the ring starts over */
    double turnover_gather;            /* the same where a rank also copies its own share */
    double turnover_scatter;           /* the same where its last step adds without sending */
    double network_tree[SF_COLL_PROTOCOLS_N];                                   /* one level of a tree of domains */
    double channel_bytes[SF_COLL_PROTOCOLS_N], tree_chunk[SF_COLL_PROTOCOLS_N]; /* per channel and step */
    uint32_t channels_max;
    double nvls_rate, nvls_base, nvls_turn, nvls_turn_least, nvls_fill,
        nvls_network_step; /* nvls_rate 0: switches that only switch */
    double nvls_link_peak; /* of the GPU's links that nvls_rate was measured on */
    double nvls_nics;      /* of a domain that its tree keeps busy */
    double nvls_relay;     /* of a turn, lost at every domain that passes chunks on: their buffers are finite */
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
    double tier_alone[SF_ROUTE_CORE + 1]; /* where nobody else is on the way */
    double incast_share;                  /* of a NIC's rate where many send to it at once */
    bool switches, sharp, rails_meet;
    enum sf_grade grade[2];  /* of a time inside a domain and across */
    int algorithm, protocol; /* wanted; -1: whatever NCCL picks */
    bool nccl_times;         /* time_s is NCCL's own expectation where it has one */
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

/* ---- what an algorithm does step by step, shared by its closed form and by its expansion to chunks ---- */

struct sfi_lap {              /* once around the ring */
    double steps, across;     /* hops in a row; those over the network, of the chunk that has most */
    double hop, hop_across;   /* latency of one */
    double latency;           /* of all of them */
    double rate, rate_across; /* of payload inside a domain; over the network, at the emptiest domain */
    double rate_usual;        /* over the network at the mean domain */
    double loops, share;      /* a share that is larger than a channel's chunks goes round in several loops */
    uint32_t slices;          /* of a step */
    double idle;              /* that a step keeps its link busy beyond its bytes */
    double turn, drain;       /* between loops; how late the last slice may come for that */
};
struct sfi_lap sfi_lap_of(const struct sfi_ask *a, int protocol);
/* Rate of payload of a protocol on a link; LL and LL128 are also held back by what a channel's threads can flag. */
double sfi_payload_rate(const struct sfi_ask *a, int protocol, double rate);

struct sfi_tree {                   /* chunks of all channels on their way up and down */
    double chunks;                  /* a fraction when the last one is short */
    double hop, hop_across;         /* until the next GPU of the chain, the next domain can send a chunk on */
    double chunk_s, chunk_across_s; /* from chunk to chunk, once everybody has work */
};
struct sfi_tree sfi_tree_of(const struct sfi_ask *a, int protocol);

/* Algorithms in which a switch is a station: every member gives it a chunk per turn and takes one back. */
enum sfi_pump_shape { SFI_PUMP_ALONE, SFI_PUMP_STAR, SFI_PUMP_TREE }; /* how domains meet */
struct sfi_pump {
    enum sfi_pump_shape shape;
    double turns;              /* a fraction when the last one is short */
    double fill;               /* from the start until the first chunk is through */
    double hop;                /* STAR: to the network's switches and back; TREE: from domain to domain */
    double member_s, domain_s; /* a turn, by a GPU's links and by the NICs of a domain */
    double least_s;            /* a turn that waits for the one two before it: all but the first two */
};
bool sfi_nvls_pump(const struct sfi_ask *a, struct sfi_pump *out); /* false: cannot do it */
bool sfi_nvls_tree_pump(const struct sfi_ask *a, struct sfi_pump *out);
bool sfi_collnet_pump(const struct sfi_ask *a, struct sfi_pump *out);

struct sfi_exchange { /* what one GPU does in an all_to_all, seconds */
    double start;     /* before the first byte, latency of the hops included */
    double own_s;     /* over NVLink: what it sends itself, and before all channels are busy */
    double inside_s;  /* over NVLink: one message */
    double outside_s; /* over its NIC: one message, posting it included */
    double forward_s; /* over NVLink: bringing one message to the rail that it leaves by */
    double pieces;    /* that a message is cut into */
    uint32_t inside_n, outside_n;
};
bool sfi_exchange_of(const struct sfi_ask *a, int algorithm, struct sfi_exchange *out); /* false: cannot do it */

/* ---- closed forms: seconds, negative when the algorithm cannot do it ---- */

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
