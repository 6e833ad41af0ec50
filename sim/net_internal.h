/* Inside the flow network: how what was built is kept, and the state of a run. */
#ifndef SF_SIM_NET_INTERNAL_H
#define SF_SIM_NET_INTERNAL_H

#include "sim/fair.h"
#include "sim/net.h"

_Static_assert(SF_NET_HOPS == SF_FAIR_LINKS, "a path is a flow");

struct sfi_net_path {
    struct sf_net_path path;
    uint64_t bound;     /* bytes per second that nobody could exceed here alone */
    uint64_t narrowest; /* of its links, all stripes together */
    sf_time_ps latency; /* of all links, and the software */
    sf_time_ps flight;  /* of a full packet, from its leaving to its arrival */
};

struct sfi_net_item {
    uint64_t amount; /* bytes, headers not counted; of a delay, picoseconds */
    uint32_t path;   /* SF_NONE: a delay */
    uint32_t waits_n;
};

struct sfi_net_wait {
    uint32_t on;
    uint32_t item; /* the lowest bit tells the edge: enum sf_net_edge */
};

struct sf_net {
    struct sf_net_wire wire;
    struct sf_net_link *links;
    struct sfi_net_path *paths;
    struct sfi_net_item *items;
    struct sfi_net_wait *waits;
    size_t links_n, paths_n, items_n, waits_n, messages_n;
    size_t links_room, paths_room, items_room, waits_room;
    uint64_t bytes;
    void (*progress)(void *self, double fraction); /* may be NULL */
    void *progress_self;
    struct sf_err err; /* the first */
};
#define SFI_NET_BUILT 0.3 /* of the whole work, when all is built */

uint64_t sfi_net_wire_bytes(const struct sf_net *n, uint64_t bytes);
/* Bytes per second that a message could not exceed alone: the fewer packets, the fewer stripes it keeps busy. */
uint64_t sfi_net_bound(const struct sf_net *n, const struct sfi_net_item *message);
/* From the last byte's leaving to its arrival. */
sf_time_ps sfi_net_flight(const struct sf_net *n, const struct sfi_net_item *message);

/* ---- a run ------------------------------------------------------------------------------------------------------- */

/* What is left of a message, in bytes / 10^12, so that rate x picoseconds is exact. */
__extension__ typedef unsigned __int128 sfi_net_left;

#define SFI_NET_NEVER INT64_MAX

enum sfi_net_phase { SFI_NET_FREE, SFI_NET_DELAY, SFI_NET_SENDING, SFI_NET_FLYING };

struct sfi_net_around { /* places in the list of a link */
    uint32_t next, prev;
};

/* An item between ready and over has a slot; slots are reused, so the working set is what is under way. */
struct sfi_net_slot {
    sfi_net_left left;
    uint64_t rate, bound, wire_bytes;
    sf_time_ps since; /* when `left` was true */
    uint32_t item;
    uint32_t moment;        /* in the queue; SF_NONE */
    uint32_t later, sooner; /* in the list of its moment */
    uint32_t seen;          /* epoch of the last component it was in */
    uint8_t phase, links_n; /* phase: enum sfi_net_phase */
    bool rated, dirty;      /* `rate` was set; it is in the run's list of what changed */
    uint32_t links[SF_NET_HOPS];
    struct sfi_net_around at[SF_NET_HOPS];
};
_Static_assert(sizeof(struct sfi_net_slot) == 192, "three cache lines, of which most messages use two and a half");

/* A place in a link's list: slot * SF_NET_HOPS + hop. */
#define SFI_NET_PLACE(slot, hop) ((slot)*SF_NET_HOPS + (uint32_t)(hop))

struct sfi_net_state {       /* of a link; its first cache line is what every message needs */
    sfi_net_left demand;     /* sum of the bounds of its messages, bytes per second */
    uint64_t alone, crowded; /* bytes per second for one message, for several */
    uint64_t bytes;          /* of all messages that began, on the wire */
    uint32_t first;          /* place, or SF_NONE */
    uint32_t flows_n;        /* now */
    uint32_t messages, most; /* that began; at once */
    bool shared;             /* demand above capacity: it couples its messages */
    bool dirty;              /* in the run's list of what changed */
    uint32_t seen, local;    /* epoch and number in that component */
    sf_time_ps shared_since, shared_ps;
};

struct sfi_net_moment { /* at which something happens to one slot or more */
    sf_time_ps time;
    uint32_t first, last; /* slots */
    uint32_t heap_at;     /* position in the heap */
    uint32_t next;        /* of those with the same hash, or of those that are free */
};

struct sfi_net_event {
    sf_time_ps time;
    uint32_t moment;
};

struct sfi_net_run {
    const struct sf_net *net;
    struct sf_net_result *out;
    sf_time_ps now;
    /* By link of the network. */
    struct sfi_net_state *links;
    uint64_t *capacity;    /* of the component at hand */
    uint32_t *dirty_links; /* shared links that a message left */
    /* By item. */
    uint32_t *waits_left;
    uint32_t *first; /* [items + 1] into `after`: what waits for it, with the edge in the lowest bit */
    uint32_t *after;
    sf_time_ps *ready;
    /* By slot; these grow together, when more is under way than ever before. */
    struct sfi_net_slot *slots;
    struct sfi_net_moment *moments;
    struct sfi_net_event *heap; /* of moments, each once */
    uint32_t *chains;           /* by hash of the time: its first moment */
    uint32_t *free_slots;
    uint32_t *dirty;            /* messages that started */
    struct sf_fair_flow *flows; /* the component at hand, with its members and their rates */
    uint32_t *members;
    uint64_t *rates;
    void *scratch;
    struct sfi_net_memo {           /* regular traffic asks for the same again and again */
        uint64_t bytes, wire_bytes; /* of a message */
        uint64_t rate, work;        /* bytes on the wire that take `time` */
        sf_time_ps time;
    } memo;
    uint32_t slots_n, free_n, heap_n, free_moment, dirty_n, dirty_links_n, epoch, sending_n, ready_n;
    uint32_t recent; /* the moment last put something into; SF_NONE */
    bool failed;     /* out of memory */
};

/* Joins the links of its path; the next sfi_net_share has its rate. */
void sfi_net_join(struct sfi_net_run *r, uint32_t slot);
void sfi_net_leave(struct sfi_net_run *r, uint32_t slot);
/* New rates where something changed since the last call. */
void sfi_net_share(struct sfi_net_run *r);

/* When something happens to a slot, in place of what was known before. */
void sfi_net_queue_put(struct sfi_net_run *r, uint32_t slot, sf_time_ps time);
void sfi_net_queue_take(struct sfi_net_run *r, uint32_t slot);
/* Empties the first moment; its slots, in order, follow one another by `later`. */
uint32_t sfi_net_queue_pop(struct sfi_net_run *r);
/* There were `moments_n` slots, and moments, before the arrays grew. */
void sfi_net_queue_grown(struct sfi_net_run *r, uint32_t moments_n);

int sfi_net_run_create(const struct sf_net *n, struct sf_net_result *out, struct sfi_net_run *r, struct sf_err *err);
void sfi_net_run_clear(struct sfi_net_run *r);
/* Doubles what is kept by slot. */
int sfi_net_run_grow(struct sfi_net_run *r, struct sf_err *err);

#endif
