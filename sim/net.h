/* A network at the level of flows: messages over links in virtual time.
 *
 * A message occupies all links of its path at once, at one rate; the messages that share links share them max-min
 * fairly (sim/fair.h). Rates change only when a message starts or has been sent, and only in the component of links
 * that it joins or leaves. A link that could carry the full rates of all its messages joins nothing.
 *
 *   ready --bytes at the shared rate--> sent --latency of the links, software--> delivered
 *
 * Traffic is a graph: messages and delays (compute), each waiting for others to be sent, delivered or over. What it
 * leaves out and how it compares with packet-level simulation: docs/network.md. */
#ifndef SF_SIM_NET_H
#define SF_SIM_NET_H

#include <stdbool.h>

#include "core/io.h"
#include "core/units.h"
#include "sim/coll.h"
#include "topo/topo.h"

#define SF_NET_HOPS SF_ROUTE_LINKS             /* links of a path, at most */
#define SF_NET_ITEMS_MAX (UINT32_C(1) << 25)   /* messages and delays */
#define SF_NET_RATE_MAX (UINT64_C(1) << 56)    /* bytes per second of a link; bundles between pods have 2^49 */
#define SF_NET_BYTES_MAX (UINT64_C(1) << 50)   /* of one message */
#define SF_NET_DELAY_MAX_PS (INT64_C(1) << 58) /* of one delay, or latency of one link: three days */
#define SF_NET_NO_LINK UINT64_MAX

struct sf_net_link {
    uint64_t bytes_per_s;
    uint64_t shared_bytes_per_s; /* while messages compete for it: less where a switch class loses to congestion */
    sf_time_ps latency_ps;       /* to the far end, switching there included */
    sf_link link;                /* in the topology, the first of its cables; SF_NET_NO_LINK when made by hand */
    uint32_t cables;             /* that it stands for */
};
#define SF_NET_STRIPES_MAX 64

struct sf_net_path {
    uint32_t src, dst;        /* endpoints; only reported */
    sf_time_ps software_ps;   /* of sender and receiver, on top of what the links take */
    uint64_t cap_bytes_per_s; /* what a window allows, for example; SF_FAIR_NO_CAP without */
    uint32_t stripes;         /* each of its links is this many, packet by packet in turn: planes; 0 as 1 */
    uint32_t links_n;
    uint32_t links[SF_NET_HOPS];
};

/* How bytes become packets. */
struct sf_net_wire {
    uint32_t packet_bytes;  /* payload of a full packet */
    uint32_t header_bytes;  /* that each packet adds on every link; 0 where link rates are payload rates */
    bool store_and_forward; /* switches wait for whole packets; else they cut through */
};

enum sf_net_edge { SF_NET_DELIVERED, SF_NET_SENT }; /* what an item waits for; of a delay both are its end */

struct sf_net; /* a network and the traffic over it */

struct sf_net *sf_net_create(struct sf_net_wire wire); /* NULL when out of memory */
void sf_net_free(struct sf_net *n);                    /* NULL is legal */

/* Builders return the new number, 0 .. Errors stick: they make the run fail, with the first one told. */
uint32_t sf_net_add_link(struct sf_net *n, const struct sf_net_link *link);
uint32_t sf_net_add_path(struct sf_net *n, const struct sf_net_path *path);
uint32_t sf_net_add_message(struct sf_net *n, uint32_t path, uint64_t bytes);
uint32_t sf_net_add_delay(struct sf_net *n, uint32_t endpoint, sf_time_ps delay_ps);
/* `item` waits for `on`, which was added before it. */
void sf_net_add_wait(struct sf_net *n, uint32_t item, uint32_t on, enum sf_net_edge edge);
int sf_net_check(const struct sf_net *n, struct sf_err *err); /* the first error of the builders */

uint32_t sf_net_links(const struct sf_net *n);
uint32_t sf_net_items(const struct sf_net *n);
uint32_t sf_net_messages(const struct sf_net *n);
const struct sf_net_link *sf_net_link(const struct sf_net *n, uint32_t link);

struct sf_net_use { /* of one link */
    uint64_t bytes; /* on the wire, headers included */
    uint32_t messages;
    uint32_t most;        /* at once */
    sf_time_ps shared_ps; /* how long messages wanted more than it has */
};

struct sf_net_result {
    sf_time_ps time;        /* all delivered, all delays over */
    sf_time_ps p50, p99;    /* of a message, from ready to delivered */
    uint64_t bytes;         /* of all messages, headers not counted */
    uint64_t events;        /* starts, ends and arrivals */
    uint64_t solves;        /* components whose rates were computed anew */
    uint64_t solved_flows;  /* messages in them */
    uint32_t most_flows;    /* messages under way at once */
    double wall_s, cpu_s;   /* how long simulating took: by the wall, and of the processor */
    struct sf_net_use *use; /* by link; owned, sf_net_result_free */
    sf_time_ps *end;        /* by item: delivered, or delay over; owned */
};

/* The same traffic gives the same result on every machine. SF_E_INPUT for errors of the builders and for messages that
 * can never end (a link without capacity). */
int sf_net_run(const struct sf_net *n, const struct sf_clock *clock, struct sf_net_result *out, struct sf_err *err);
void sf_net_result_free(struct sf_net_result *r); /* frees what it owns */

/* ---- networks and traffic patterns on a cluster ------------------------------------------------------------------ */

/* X(NAME, "name") */
#define SF_NET_PATTERNS(X)                                                                                             \
    X(INCAST, "incast")           /* all to endpoint 0 */                                                              \
    X(PERMUTATION, "permutation") /* each to one other, a seeded derangement */                                        \
    X(ALL_TO_ALL, "all-to-all")   /* each to all others of its rail */                                                 \
    X(RING, "ring")               /* all-reduce: reduce-scatter, then all-gather, around a ring */                     \
    X(PIPELINE, "pipeline")       /* 1F1B: activations forward, gradients back, compute between */
enum sf_net_pattern {
#define X(NAME, name) SF_NET_##NAME,
    SF_NET_PATTERNS(X)
#undef X
        SF_NET_PATTERNS_N
};
const char *sf_net_pattern_name(int pattern);
int sf_net_pattern_parse(const char *name); /* -1 when unknown */

struct sf_net_job {
    enum sf_net_pattern pattern;
    uint32_t endpoints;
    uint32_t per_domain; /* GPUs of each domain that take part; 0: one (all-to-all: one per rail), more where needed */
    uint64_t bytes;      /* incast, permutation: of a message; all-to-all: sent by an endpoint in all; ring: the vector;
                            pipeline: an activation */
    uint64_t seed;       /* of the derangement */
    enum sf_coll_protocol protocol;
    struct sf_net_wire wire;
    uint32_t channels; /* of the protocol: each has its own buffer, 1 to 64 */
    uint32_t peers;    /* all-to-all: messages of one sender under way at once; 0: all */
    uint32_t stages;   /* pipeline: stages of one pipeline, a divisor of endpoints; 0: the largest divisor up to 16 */
    uint32_t microbatches; /* pipeline; 0: four per stage */
    sf_time_ps forward_ps; /* pipeline: compute of one microbatch on one stage; backward takes twice as long */
    uint32_t rails;        /* filled in: of the cluster */
    uint32_t fullest_rail; /* filled in, all-to-all: endpoints of the rail that has most */
    void (*progress)(void *self, double fraction); /* of building and of running what was built; may be NULL */
    void *progress_self;
};

/* Fills in the job's defaults. Refuses endpoints that the cluster does not have, and, before anything is built, jobs of
 * more than SF_NET_ITEMS_MAX items. */
int sf_net_of_job(const struct sf_topo *t, struct sf_net_job *job, struct sf_net **out, struct sf_err *err);
/* Bus bandwidth as nccl-tests counts it: incast and pipeline have no such count and give 0. */
double sf_net_busbw(const struct sf_net_job *job, sf_time_ps time);

/* The network and its traffic as text, for other simulators: docs/network.md has the format. */
int sf_net_dump(const struct sf_net *n, struct sf_buf *out, struct sf_err *err);

#endif
