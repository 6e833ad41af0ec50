/* The network and its traffic as text. */
#include <inttypes.h>

#include "core/arena.h"
#include "core/call.h"
#include "sim/net_internal.h"

static void dump_links(const struct sf_net *n, struct sf_buf *out) {
    sf_buf_printf(out, "links %zu\n", n->links_n);
    for (size_t i = 0; i < n->links_n; i++) {
        sf_buf_printf(out, "%" PRIu64 " %" PRId64 "\n", n->links[i].bytes_per_s, n->links[i].latency_ps);
    }
}

static void dump_paths(const struct sf_net *n, struct sf_buf *out) {
    sf_buf_printf(out, "paths %zu\n", n->paths_n);
    for (size_t i = 0; i < n->paths_n; i++) {
        const struct sf_net_path *p = &n->paths[i].path;
        sf_buf_printf(out, "%u %u %" PRId64 " %" PRIu64 " %u", p->src, p->dst, p->software_ps, p->cap_bytes_per_s,
                      p->links_n);
        for (uint32_t k = 0; k < p->links_n; k++) {
            sf_buf_printf(out, " %u", p->links[k]);
        }
        sf_buf_printf(out, "\n");
    }
}

static void dump_items(const struct sf_net *n, struct sf_buf *out) {
    sf_buf_printf(out, "items %zu\n", n->items_n);
    for (size_t i = 0; i < n->items_n; i++) {
        const struct sfi_net_item *item = &n->items[i];
        if (item->path == SF_NONE) {
            sf_buf_printf(out, "delay %" PRIu64 "\n", item->amount);
        } else {
            sf_buf_printf(out, "message %u %" PRIu64 "\n", item->path, item->amount);
        }
    }
    sf_buf_printf(out, "waits %zu\n", n->waits_n);
    for (size_t i = 0; i < n->waits_n; i++) {
        const struct sfi_net_wait *w = &n->waits[i];
        sf_buf_printf(out, "%u %u %s\n", w->item >> 1, w->on, w->item & 1 ? "sent" : "delivered");
    }
}

int sf_net_dump(const struct sf_net *n, struct sf_buf *out, struct sf_err *err) {
    SF_TRY(sf_net_check(n, err));
    sf_buf_printf(out, "staticfire-net 1\npacket %u %u %s\n", n->wire.packet_bytes, n->wire.header_bytes,
                  n->wire.store_and_forward ? "store" : "cut");
    dump_links(n, out);
    dump_paths(n, out);
    dump_items(n, out);
    return out->failed ? sf_fail_memory(err, "the dump") : 0;
}
