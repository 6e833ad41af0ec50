/* Links, paths, messages and what waits for what, checked as they are added. */
#include <inttypes.h>
#include <string.h>

#include "core/arena.h"
#include "sim/net_internal.h"

#define BYTES_ALL_MAX (UINT64_C(1) << 60) /* with headers, sums still fit 64 bits */

struct sf_net *sf_net_create(struct sf_net_wire wire) {
    struct sf_net *n = sf_calloc(1, sizeof *n);
    if (n == NULL) {
        return NULL;
    }
    n->wire = wire;
    if (wire.packet_bytes == 0 || wire.header_bytes > wire.packet_bytes) {
        sf_fail(&n->err, SF_E_INPUT,
                "a packet of %u bytes with %u bytes of headers: expected at least 1 byte, and "
                "headers no larger than it",
                wire.packet_bytes, wire.header_bytes);
    }
    return n;
}

void sf_net_free(struct sf_net *n) {
    if (n != NULL) {
        sf_free(n->links);
        sf_free(n->paths);
        sf_free(n->items);
        sf_free(n->waits);
        sf_free(n);
    }
}

int sf_net_check(const struct sf_net *n, struct sf_err *err) {
    if (n->err.code != 0 && err != NULL) {
        *err = n->err;
    }
    return n->err.code;
}

uint32_t sf_net_links(const struct sf_net *n) {
    return (uint32_t)n->links_n;
}

uint32_t sf_net_items(const struct sf_net *n) {
    return (uint32_t)n->items_n;
}

uint32_t sf_net_messages(const struct sf_net *n) {
    return (uint32_t)n->messages_n;
}

const struct sf_net_link *sf_net_link(const struct sf_net *n, uint32_t link) {
    return link < n->links_n ? &n->links[link] : NULL;
}

/* The array with room for one more; without memory, itself, and the error is set. */
static void *grown(struct sf_net *n, void *array, size_t used, size_t *room, size_t size) {
    if (n->err.code != 0 || used < *room) {
        return array;
    }
    size_t more = *room ? *room * 2 : 64;
    void *p = sf_realloc(array, more, size);
    if (p == NULL) {
        sf_fail_memory(&n->err, "a network");
        return array;
    }
    *room = more;
    return p;
}

#define GROW(n, what)                                                                                                  \
    ((n)->what = grown((n), (n)->what, (n)->what##_n, &(n)->what##_room, sizeof *(n)->what), (n)->err.code == 0)

uint32_t sf_net_add_link(struct sf_net *n, const struct sf_net_link *link) {
    if (!GROW(n, links)) {
        return 0;
    }
    if (link->bytes_per_s > SF_NET_RATE_MAX || link->shared_bytes_per_s > link->bytes_per_s || link->latency_ps < 0 ||
        link->latency_ps > SF_NET_DELAY_MAX_PS) {
        sf_fail(&n->err, SF_E_INPUT,
                "link %zu: rate %" PRIu64 " B/s (shared %" PRIu64 "), latency %" PRId64
                " ps: expected at most 2^56 B/s, shared no faster, and a latency from 0 to 2^58 ps",
                n->links_n, link->bytes_per_s, link->shared_bytes_per_s, link->latency_ps);
        return 0;
    }
    n->links[n->links_n] = *link;
    return (uint32_t)n->links_n++;
}

static int path_check(struct sf_net *n, const struct sf_net_path *p) {
    if (p->links_n > SF_NET_HOPS || p->software_ps < 0 || p->software_ps > SF_NET_DELAY_MAX_PS) {
        return sf_fail(&n->err, SF_E_INPUT,
                       "path %zu: %u links and %" PRId64 " ps of software: expected at most %d and 0 to 2^58 ps",
                       n->paths_n, p->links_n, p->software_ps, SF_NET_HOPS);
    }
    if (p->stripes > SF_NET_STRIPES_MAX) {
        return sf_fail(&n->err, SF_E_INPUT, "path %zu: %u stripes: expected at most %d", n->paths_n, p->stripes,
                       SF_NET_STRIPES_MAX);
    }
    if (p->links_n == 0 && p->cap_bytes_per_s == SF_FAIR_NO_CAP) {
        return sf_fail(&n->err, SF_E_INPUT, "path %zu has neither a link nor a rate of its own", n->paths_n);
    }
    for (uint32_t i = 0; i < p->links_n; i++) {
        if (p->links[i] >= n->links_n) {
            return sf_fail(&n->err, SF_E_INPUT, "path %zu uses link %u of %zu", n->paths_n, p->links[i], n->links_n);
        }
        for (uint32_t k = 0; k < i; k++) {
            if (p->links[k] == p->links[i]) {
                return sf_fail(&n->err, SF_E_INPUT, "path %zu uses link %u twice", n->paths_n, p->links[i]);
            }
        }
    }
    return 0;
}

/* Where switches wait for whole packets, the last one crosses every link on its own, the slowest one excepted: there it
 * is part of the message's own time. */
static sf_time_ps flight_of(const struct sf_net *n, const struct sfi_net_path *p, uint64_t packet) {
    sf_time_ps sum = 0, slowest = 0;
    for (uint32_t i = 0; i < p->path.links_n && n->wire.store_and_forward; i++) {
        uint64_t rate = n->links[p->path.links[i]].bytes_per_s / (p->path.stripes > 0 ? p->path.stripes : 1);
        sf_time_ps t = rate > 0 ? sf_transfer_ps(packet + n->wire.header_bytes, rate) : 0;
        sum += t;
        slowest = t > slowest ? t : slowest;
    }
    return p->latency + sum - slowest;
}

uint32_t sf_net_add_path(struct sf_net *n, const struct sf_net_path *path) {
    if (!GROW(n, paths) || path_check(n, path) != 0) {
        return 0;
    }
    struct sfi_net_path *p = &n->paths[n->paths_n];
    *p = (struct sfi_net_path){
        .path = *path, .bound = path->cap_bytes_per_s, .narrowest = SF_FAIR_NO_CAP, .latency = path->software_ps};
    for (uint32_t i = 0; i < path->links_n; i++) {
        const struct sf_net_link *l = &n->links[path->links[i]];
        p->narrowest = l->bytes_per_s < p->narrowest ? l->bytes_per_s : p->narrowest;
        p->bound = p->narrowest < p->bound ? p->narrowest : p->bound;
        p->latency += l->latency_ps;
    }
    p->flight = flight_of(n, p, n->wire.packet_bytes);
    return (uint32_t)n->paths_n++;
}

static uint32_t add_item(struct sf_net *n, uint64_t amount, uint32_t path) {
    if (!GROW(n, items)) {
        return 0;
    }
    if (n->items_n == SF_NET_ITEMS_MAX) {
        sf_fail(&n->err, SF_E_INPUT, "more than %u messages and delays: ask for fewer endpoints or larger messages",
                SF_NET_ITEMS_MAX);
        return 0;
    }
    n->items[n->items_n] = (struct sfi_net_item){.amount = amount, .path = path};
    return (uint32_t)n->items_n++;
}

uint32_t sf_net_add_message(struct sf_net *n, uint32_t path, uint64_t bytes) {
    if (n->err.code == 0 && (path >= n->paths_n || bytes > SF_NET_BYTES_MAX)) {
        sf_fail(&n->err, SF_E_INPUT, "a message of %" PRIu64 " bytes over path %u of %zu: expected at most 2^50 bytes",
                bytes, path, n->paths_n);
    }
    if (n->err.code == 0 && n->bytes > BYTES_ALL_MAX - bytes) {
        sf_fail(&n->err, SF_E_INPUT, "messages of more than 2^60 bytes in all");
    }
    n->messages_n += n->err.code == 0;
    n->bytes += n->err.code == 0 ? bytes : 0;
    return add_item(n, bytes, path);
}

uint32_t sf_net_add_delay(struct sf_net *n, uint32_t endpoint, sf_time_ps delay_ps) {
    if (n->err.code == 0 && (delay_ps < 0 || delay_ps > SF_NET_DELAY_MAX_PS)) {
        char text[48];
        sf_fail(&n->err, SF_E_INPUT, "a delay of %s at endpoint %u: expected 0s to 80h",
                sf_format_time(delay_ps, text, sizeof text), endpoint);
    }
    return add_item(n, (uint64_t)delay_ps, SF_NONE);
}

void sf_net_add_wait(struct sf_net *n, uint32_t item, uint32_t on, enum sf_net_edge edge) {
    if (!GROW(n, waits)) {
        return;
    }
    if (on >= item || item >= n->items_n) {
        sf_fail(&n->err, SF_E_INPUT, "item %u of %zu cannot wait for item %u: expected an earlier one", item,
                n->items_n, on);
        return;
    }
    n->waits[n->waits_n++] = (struct sfi_net_wait){.on = on, .item = item << 1 | (uint32_t)edge};
    n->items[item].waits_n++;
}

uint64_t sfi_net_wire_bytes(const struct sf_net *n, uint64_t bytes) {
    uint64_t packets = bytes / n->wire.packet_bytes + (bytes % n->wire.packet_bytes != 0);
    return bytes + packets * n->wire.header_bytes;
}

/* Packets go out in rounds, one for each stripe; in the last round some stripes have none. */
uint64_t sfi_net_bound(const struct sf_net *n, const struct sfi_net_item *message) {
    const struct sfi_net_path *p = &n->paths[message->path];
    uint64_t stripes = p->path.stripes, packet = n->wire.packet_bytes;
    uint64_t packets = message->amount / packet + (message->amount % packet != 0);
    if (stripes < 2 || packets == 0 || p->path.links_n == 0) {
        return p->bound;
    }
    uint64_t rounds = (packets + stripes - 1) / stripes;
    uint64_t rate = (uint64_t)((sfi_net_left)p->narrowest * packets / (stripes * rounds));
    return rate < p->bound ? rate : p->bound;
}

sf_time_ps sfi_net_flight(const struct sf_net *n, const struct sfi_net_item *message) {
    const struct sfi_net_path *p = &n->paths[message->path];
    return message->amount >= n->wire.packet_bytes ? p->flight : flight_of(n, p, message->amount);
}
