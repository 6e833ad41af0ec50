/* The same cluster with other links or more memory, to ask what would be if. */
#include "core/arena.h"
#include "topo/topo_state.h"

static uint64_t times(uint64_t rate, double by) {
    double scaled = (double)rate * by;
    return scaled < 1 ? 1 : scaled < 0x1p62 ? (uint64_t)scaled : UINT64_C(1) << 62;
}

static void scale_link(struct sf_link_class *link, double by) {
    if (link->name[0] != '\0') {
        link->bytes_per_s = times(link->bytes_per_s, by);
        link->peak_bytes_per_s = times(link->peak_bytes_per_s, by);
        link->reduce_bytes_per_s = times(link->reduce_bytes_per_s, by);
    }
}

int sf_topo_scaled(const struct sf_topo *t, const struct sf_topo_scale *by, struct sf_topo **out, struct sf_err *err) {
    struct sf_topo *copy = sf_malloc(sizeof *copy);
    *out = copy;
    if (copy == NULL) {
        return sf_fail_memory(err, "a cluster with other links");
    }
    *copy = *t;
    for (uint32_t i = 0; i < copy->stocks_n; i++) {
        scale_link(&copy->stock[i].up, by->up);
        scale_link(&copy->stock[i].out, by->out);
        copy->stock[i].device.memory_bytes = times(copy->stock[i].device.memory_bytes, by->memory);
    }
    copy->fabric_switch.port_bytes_per_s = times(copy->fabric_switch.port_bytes_per_s, by->out);
    return 0;
}

void sf_topo_scaled_free(struct sf_topo *t) {
    sf_free(t); /* all it points to is the original's */
}
