#include "core/prog_place.h"

#include <stdlib.h>

#define ALIGN 64u
#define SF_MAX_ARENA_BYTES (UINT64_C(1) << 50)

struct place {
    const struct sf_op *ops;
    struct sf_buffer *bufs;
    struct sfi_uses *uses; /* [bufs_n] */
    uint32_t *placed;      /* transient buffers so far, by offset */
    uint32_t placed_n;
    uint64_t end; /* high water */
};

static uint64_t align_up(uint64_t v) {
    return (v + ALIGN - 1) / ALIGN * ALIGN;
}

static bool is_persistent(const struct sf_buffer *b) {
    return b->last_op == SF_NONE && b->first_op == 0;
}

static void find_uses(struct place *p, uint32_t ops_n, const struct sf_arg *args, const struct sfi_order *order) {
    for (uint32_t i = 0; i < ops_n; i++) {
        for (uint32_t a = 0; a < p->ops[i].arg_n; a++) {
            uint32_t buf = args[p->ops[i].arg_first + a].buf;
            struct sf_buffer *b = &p->bufs[buf];
            if (!is_persistent(b)) {
                b->first_op = p->uses[buf].used ? b->first_op : i;
                b->last_op = i;
            }
            sfi_uses_add(&p->uses[buf], order, p->ops, i);
        }
    }
}

static bool conflict(const struct place *p, uint32_t a, uint32_t b) {
    return !sfi_uses_before(&p->uses[a], &p->uses[b]) && !sfi_uses_before(&p->uses[b], &p->uses[a]);
}

/* What lies within a buffer that is placed now is used up before it: whoever has to keep clear of that has to keep
 * clear of the new one as well, because no later buffer is used up before this one begins. */
static void forget(struct place *p, uint64_t from, uint64_t to) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->placed_n; i++) {
        const struct sf_buffer *other = &p->bufs[p->placed[i]];
        if (other->offset < from || other->offset + align_up(other->bytes) > to) {
            p->placed[n++] = p->placed[i];
        }
    }
    p->placed_n = n;
}

/* First fit: walk the placed buffers by offset and stop at the first gap among those that conflict. */
static void place_one(struct place *p, uint32_t buf, uint64_t floor) {
    uint64_t size = align_up(p->bufs[buf].bytes), at = floor;
    for (uint32_t i = 0; i < p->placed_n; i++) {
        const struct sf_buffer *other = &p->bufs[p->placed[i]];
        if (other->offset >= at + size) {
            break; /* sorted by offset: nothing later can reach into the gap */
        }
        uint64_t other_end = other->offset + align_up(other->bytes);
        if (other_end > at && conflict(p, buf, p->placed[i])) {
            at = other_end;
        }
    }
    p->bufs[buf].offset = at;
    p->end = at + size > p->end ? at + size : p->end;
    forget(p, at, at + size);
    uint32_t i = p->placed_n++;
    for (; i > 0 && p->bufs[p->placed[i - 1]].offset > at; i--) {
        p->placed[i] = p->placed[i - 1];
    }
    p->placed[i] = buf;
}

struct by_first {
    uint32_t first, buf;
};

static int compare_first(const void *a, const void *b) {
    const struct by_first *x = a, *y = b;
    if (x->first != y->first) {
        return x->first < y->first ? -1 : 1;
    }
    return x->buf < y->buf ? -1 : x->buf > y->buf;
}

/* The buffers on the host, or all others. */
static uint64_t place_all(struct place *p, struct by_first *queue, uint32_t bufs_n, bool host) {
    uint32_t n = 0;
    p->end = p->placed_n = 0;
    for (uint32_t i = 0; i < bufs_n; i++) {
        if ((p->bufs[i].kind == SF_BUF_HOST) != host) {
            continue;
        }
        if (is_persistent(&p->bufs[i])) {
            p->bufs[i].offset = p->end;
            p->end += align_up(p->bufs[i].bytes);
        } else if (p->uses[i].used) {
            queue[n++] = (struct by_first){p->bufs[i].first_op, i};
        }
    }
    qsort(queue, n, sizeof *queue, compare_first);
    uint64_t floor = p->end;
    for (uint32_t i = 0; i < n; i++) {
        place_one(p, queue[i].buf, floor);
    }
    return p->end;
}

static int check_sizes(const struct sf_buffer *bufs, uint32_t bufs_n, struct sf_err *err) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < bufs_n; i++) {
        if (bufs[i].bytes > SF_MAX_ARENA_BYTES || (total += align_up(bufs[i].bytes)) > SF_MAX_ARENA_BYTES) {
            return sf_fail(err, SF_E_NOPLAN, "buffers add up to more than %llu bytes (at \"%s\")",
                           (unsigned long long)SF_MAX_ARENA_BYTES, bufs[i].name);
        }
    }
    return SF_OK;
}

int sfi_place_buffers(const struct sf_op *ops, uint32_t ops_n, const struct sf_arg *args, const uint32_t *deps,
                      struct sf_buffer *bufs, uint32_t bufs_n, uint64_t *arena_bytes, uint64_t *host_bytes,
                      struct sf_err *err) {
    SF_TRY(check_sizes(bufs, bufs_n, err));
    struct sfi_order order;
    SF_TRY(sfi_order_create(ops, ops_n, deps, &order, err));
    struct place p = {.ops = ops, .bufs = bufs};
    p.uses = sf_calloc(bufs_n, sizeof *p.uses);
    p.placed = sf_calloc(bufs_n, sizeof *p.placed);
    struct by_first *queue = sf_calloc(bufs_n, sizeof *queue);
    int rc = SF_OK;
    if (!p.uses || !p.placed || !queue) {
        rc = sf_fail_memory(err, "buffer placement");
        goto done;
    }
    for (uint32_t i = 0; i < bufs_n; i++) {
        sfi_uses_init(&p.uses[i]);
    }
    find_uses(&p, ops_n, args, &order);
    *arena_bytes = place_all(&p, queue, bufs_n, false);
    *host_bytes = place_all(&p, queue, bufs_n, true);
done:
    sf_free(queue);
    sf_free(p.placed);
    sf_free(p.uses);
    sfi_order_free(&order);
    return rc;
}
