/* Trees: chunks on their way up, where every member adds its own, and down again.
 *
 * Inside a domain the members form a chain whose first one talks to other domains; those form two binary trees that
 * carry half of the channels each. A member sends its next chunk when the link is ready for it (from chunk to chunk),
 * its children's have come, and its parent has a slot free. */
#include <math.h>

#include "sim/expand_internal.h"

/* ---- two binary trees over domains ---- */

static uint32_t parent_of(uint32_t at, uint32_t n) {
    uint32_t bit = at & -at, up = (at ^ bit) | bit << 1;
    return at == 0 ? SF_NONE : up < n ? up : at ^ bit;
}

/* The second tree is the first one turned by one place, or mirrored where the number is even, so that who is inside one
 * is a leaf of the other. */
static uint32_t turned(uint32_t at, uint32_t n, uint32_t tree) {
    return tree == 0 ? at : n % 2 == 0 ? n - 1 - at : (at + 1) % n;
}

void sfi_expand_binary(uint32_t n, uint32_t tree, uint32_t *parent, uint32_t *order) {
    uint32_t k = 0;
    for (uint32_t at = 0; at < n; at++) {
        uint32_t up = parent_of(at, n);
        parent[turned(at, n, tree)] = up == SF_NONE ? SF_NONE : turned(up, n, tree);
    }
    for (uint32_t bit = 1; bit < n; bit <<= 1) { /* a parent's lowest bit is higher than its children's */
        for (uint32_t at = bit; at < n; at += 2 * bit) {
            order[k++] = turned(at, n, tree);
        }
    }
    order[k] = turned(0, n, tree);
}

/* ---- members ---- */

struct tree {
    uint32_t n;
    uint64_t chunks;
    double drain; /* the last chunk takes from its start until it is through */
    uint32_t *parent, *order;
    double *gap, *hop; /* of the link to the parent: from chunk to chunk; until the parent can send it on */
    double *ready;     /* of the chunk in hand: its children's have come */
    double *up[SFI_SLOTS], *down, *begin;
};

struct sfi_room sfi_expand_tree_room(const struct sfi_expansion *x) {
    return (struct sfi_room){(SFI_SLOTS + 5) * (size_t)x->n, 2 * (size_t)x->n + 2 * (size_t)x->domains_n};
}

static void place(struct tree *t, const struct sfi_expansion *x) {
    double *room = x->room, **arrays[] = {&t->gap, &t->hop, &t->ready, &t->down, &t->begin};
    for (uint32_t i = 0; i < SFI_SLOTS; i++, room += t->n) {
        t->up[i] = room;
    }
    for (uint32_t i = 0; i < sizeof arrays / sizeof *arrays; i++, room += t->n) {
        *arrays[i] = room;
    }
    t->parent = x->numbers;
    t->order = t->parent + t->n;
}

/* The link of a domain's first member to its parent's. */
static void join_domains(const struct sfi_expansion *x, struct tree *t, const struct sfi_tree *steps, uint32_t d,
                         uint32_t up, uint32_t channel) {
    uint32_t m = sfi_expand_member(x, d, 0, channel), other = sfi_expand_member(x, up, 0, channel);
    uint32_t local = x->first[d + 1] - x->first[d], there = x->first[up + 1] - x->first[up];
    double share = sfi_lesser(sfi_expand_out(x, m), sfi_expand_out(x, other));
    double least = x->a.local, most = local < there ? local : there;
    t->parent[m] = other;
    t->gap[m] = sfi_expand_ps(steps->chunk_across_s * least / most / share);
    t->hop[m] = sfi_expand_ps(steps->hop_across);
}

static void link_members(const struct sfi_expansion *x, struct tree *t, const struct sfi_tree *steps, uint32_t tree,
                         uint32_t channel) {
    uint32_t *parent = x->numbers + 2 * (size_t)x->n, *order = parent + x->domains_n, k = 0;
    sfi_expand_binary(x->domains_n, tree, parent, order);
    for (uint32_t at = 0; at < x->domains_n; at++) {
        uint32_t d = order[at], local = x->first[d + 1] - x->first[d];
        for (uint32_t i = local; i-- > 0;) {
            uint32_t m = sfi_expand_member(x, d, i, channel);
            t->order[k++] = m;
            t->parent[m] = SF_NONE;
            t->gap[m] = t->hop[m] = 0;
            if (i > 0) {
                uint32_t next = sfi_expand_member(x, d, i - 1, channel);
                t->parent[m] = next;
                t->gap[m] = sfi_expand_ps(steps->chunk_s / sfi_lesser(sfi_expand_up(x, m), sfi_expand_up(x, next)));
                t->hop[m] = sfi_expand_ps(steps->hop);
            }
        }
        if (parent[d] != SF_NONE) {
            join_domains(x, t, steps, d, parent[d], channel);
        }
    }
}

static void go_up(struct tree *t, uint64_t k) {
    double *now = t->up[k % SFI_SLOTS];
    const double *before = t->up[(k + SFI_SLOTS - 1) % SFI_SLOTS];
    for (uint32_t m = 0; m < t->n; m++) {
        t->ready[m] = t->begin[m];
    }
    for (uint32_t at = 0; at < t->n; at++) { /* now[parent] still holds what it was SFI_SLOTS chunks ago */
        uint32_t m = t->order[at], up = t->parent[m];
        double sent = k > 0 ? sfi_later(t->ready[m], before[m] + t->gap[m]) : t->ready[m];
        sent = up != SF_NONE && k >= SFI_SLOTS ? sfi_later(sent, now[up]) : sent;
        now[m] = sent;
        if (up != SF_NONE) {
            t->ready[up] = sfi_later(t->ready[up], sent + t->hop[m]);
        }
    }
}

static void go_down(struct tree *t, uint64_t k) {
    const double *up = t->up[k % SFI_SLOTS];
    for (uint32_t at = t->n; at-- > 0;) {
        uint32_t m = t->order[at], from = t->parent[m];
        double there = from == SF_NONE ? up[m] : t->down[from] + t->hop[m];
        t->down[m] = k > 0 ? sfi_later(there, t->down[m] + t->gap[m]) : there;
    }
}

static void run(struct sfi_expansion *x, struct tree *t) {
    for (uint64_t k = 0; k < t->chunks; k++) {
        go_up(t, k);
        go_down(t, k);
    }
    for (uint32_t m = 0; m < t->n; m++) {
        x->end[m] = sfi_later(x->end[m], t->down[m] + t->drain);
    }
}

static uint64_t chunks_of(const struct sfi_tree *steps) {
    return steps->chunks > 1 ? (uint64_t)ceil(steps->chunks) : 1;
}

bool sfi_expand_tree(struct sfi_expansion *x) {
    int protocol = (int)x->ask->protocol;
    if (x->a.op != SF_COLL_ALL_REDUCE) {
        return false;
    }
    struct sfi_tree steps = sfi_tree_of(&x->a, protocol);
    struct tree t = {.n = x->n, .chunks = chunks_of(&steps)};
    t.drain = sfi_expand_ps((steps.chunks - ((double)t.chunks - 1)) * sfi_later(steps.chunk_s, steps.chunk_across_s));
    place(&t, x);
    for (uint32_t m = 0; m < x->n; m++) {
        t.begin[m] = x->arrive[m] + sfi_expand_ps(x->a.c->k.base[protocol]);
    }
    for (uint32_t tree = 0; tree < (x->domains_n > 1 ? 2 : 1); tree++) {
        for (uint32_t c = 0; c < x->channels; c++) {
            link_members(x, &t, &steps, tree, c);
            run(x, &t);
        }
    }
    return true;
}

double sfi_expand_tree_chunks(const struct sfi_expansion *x) {
    if (x->a.op != SF_COLL_ALL_REDUCE) {
        return 0;
    }
    struct sfi_tree steps = sfi_tree_of(&x->a, (int)x->ask->protocol);
    return 2.0 * (x->n - 1) * (double)chunks_of(&steps) * sfi_channels(&x->a, SF_COLL_TREE);
}
