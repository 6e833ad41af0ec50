/* Variants as the loop reads them.
 *
 * Variants of one class do the same, at other prices: whose groups lie how decides what their collectives take. So what
 * an op does is kept once for all of them, and of the prices, of which even thousands of ops have a few, each once.
 * Both together stay in the caches, where the variants' own lists would not. */
#include "sim/flow.h"

enum { PRICES_MAX = 256 }; /* of a mould; with more, every op has its own */

struct mould {               /* what variants of a class share */
    struct sfi_slim *ops;    /* in the order of the class */
    struct sfi_slim *placed; /* stream by stream */
    uint32_t *first;         /* by price: the first op that has it */
    uint32_t *parent;        /* by price: of which it was thought to be until they differed */
    uint32_t ops_n, prices_n;
    bool each; /* too many prices: every op has its own */
};

static struct sfi_slim slim_of(const struct sf_iclass *code, uint32_t op, const struct sfi_vop *f) {
    uint32_t needs_n = code->need_first[op + 1] - code->need_first[op];
    const struct sf_need *need = &code->needs[code->need_first[op]];
    struct sfi_slim s = {.op = op,
                         .partner = f->partner,
                         .partner_at = f->partner_at,
                         .way = f->way,
                         .kind = f->kind,
                         .needs_n = needs_n > SFI_SLIM_NEEDS ? SFI_SLIM_NEEDS + 1 : needs_n & 3u,
                         .stream = f->stream,
                         .partner_stream = f->partner_stream,
                         .wakes = code->wakes[op]};
    for (uint32_t n = 0; n < needs_n && needs_n <= SFI_SLIM_NEEDS; n++) {
        s.need[n] = need[n].count << SFI_NEED_STREAM_BITS | need[n].stream;
    }
    return s;
}

static struct sfi_toll toll_of(const struct sfi_vop *f) {
    return (struct sfi_toll){.time = f->time, .latency = f->latency, .load = f->load, .port = f->port};
}

static bool does_same(const struct sfi_vop *a, const struct sfi_vop *b) {
    return a->partner == b->partner && a->partner_at == b->partner_at && a->way == b->way && a->kind == b->kind &&
           a->stream == b->stream && a->partner_stream == b->partner_stream;
}

static bool costs_same(const struct sfi_vop *a, const struct sfi_vop *b) {
    return a->time == b->time && a->latency == b->latency && a->load == b->load && a->port == b->port;
}

static bool variants_do_same(const struct sfi_variant *a, const struct sfi_variant *b, uint32_t ops_n) {
    bool same = a->class_i == b->class_i;
    for (uint32_t i = 0; same && i < ops_n; i++) {
        same = does_same(&a->ops[i], &b->ops[i]);
    }
    return same;
}

/* The price of an op that differs, in this variant, from those it was thought to be like: `known` prices were there
 * before it, and the ops of those differ from this one in an earlier variant. */
static uint32_t price_apart(struct mould *m, const struct sfi_variant *v, uint32_t op, uint32_t known) {
    uint32_t from = m->ops[op].price;
    for (uint32_t p = known; p < m->prices_n; p++) {
        if (m->parent[p] == from && costs_same(&v->ops[m->first[p]], &v->ops[op])) {
            return p;
        }
    }
    if (m->prices_n == PRICES_MAX) {
        m->each = true;
        return from;
    }
    m->first[m->prices_n] = op;
    m->parent[m->prices_n] = from;
    return m->prices_n++;
}

/* Ops keep a price in common as long as no variant tells them apart. */
static void tell_apart(struct mould *m, const struct sfi_variant *v) {
    const uint32_t known = m->prices_n;
    for (uint32_t op = 0; op < m->ops_n && !m->each; op++) {
        uint32_t p = m->ops[op].price;
        if (!costs_same(&v->ops[m->first[p]], &v->ops[op])) {
            m->ops[op].price = price_apart(m, v, op, known);
        }
    }
}

/* Where a class's streams begin: each has one more than its ops. */
static uint32_t place_streams(const struct sf_iclass *code, uint32_t first[SF_MAX_STREAMS]) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < SF_MAX_STREAMS; s++) {
        first[s] = n;
        n += (s < code->streams_n ? code->stream_n[s] : 0) + 1;
    }
    return n;
}

/* As the loop reads them, once their prices are known. */
static void place_ops(struct mould *m, const struct sf_iclass *code) {
    uint32_t first[SF_MAX_STREAMS], n = place_streams(code, first);
    for (uint32_t i = 0; i < n; i++) { /* what is left of this is behind the last op of a stream */
        m->placed[i] = (struct sfi_slim){.op = SF_NONE, .needs_n = 1, .need = {UINT32_MAX}};
    }
    for (uint32_t op = 0; op < m->ops_n; op++) {
        m->placed[first[m->ops[op].stream] + code->position[op]] = m->ops[op];
    }
}

static bool cast_mould(struct mould *m, const struct sfi_variant *v, struct sf_arena *arena) {
    m->ops_n = v->cls->code->ops_n;
    m->ops = sf_arena_alloc(arena, m->ops_n, sizeof *m->ops);
    m->placed = sf_arena_alloc(arena, (size_t)m->ops_n + SF_MAX_STREAMS, sizeof *m->placed);
    m->each = false;
    m->prices_n = 1;
    m->first[0] = 0;
    m->parent[0] = SF_NONE;
    uint32_t last[SF_MAX_STREAMS] = {0}; /* op + 1 */
    for (uint32_t op = 0; m->ops && op < m->ops_n; op++) {
        const struct sfi_vop *f = &v->ops[op];
        m->ops[op] = slim_of(v->cls->code, op, f);
        last[f->stream] = f->kind == SFI_SEND || f->kind == SFI_RECV ? op + 1 : last[f->stream];
    }
    for (uint32_t s = 0; m->ops && s < SF_MAX_STREAMS; s++) {
        if (last[s] > 0) {
            m->ops[last[s] - 1].last = true;
        }
    }
    return m->ops && m->placed;
}

static bool give_prices(const struct mould *m, struct sfi_variant *v, struct sf_arena *arena) {
    uint32_t n = m->each ? m->ops_n : m->prices_n;
    struct sfi_toll *tolls = sf_arena_alloc(arena, n, sizeof *tolls);
    for (uint32_t p = 0; tolls && m->ops_n > 0 && p < n; p++) {
        tolls[p] = toll_of(&v->ops[m->each ? p : m->first[p]]);
    }
    v->code = v->cls->code;
    v->slim = m->placed;
    place_streams(v->code, v->first);
    v->tolls = tolls;
    return tolls != NULL;
}

/* A mould for the variants from `from` on, of one class one after the other; how many it is for, 0 without memory. */
static uint32_t pack_alike(const struct sfi_variants *all, uint32_t from, struct mould *m, struct sf_arena *arena) {
    uint32_t n = 1;
    if (!cast_mould(m, &all->v[from], arena)) {
        return 0;
    }
    while (from + n < all->n && variants_do_same(&all->v[from], &all->v[from + n], m->ops_n)) {
        n++;
    }
    for (uint32_t i = from; i < from + n; i++) {
        tell_apart(m, &all->v[i]);
    }
    for (uint32_t op = 0; m->each && op < m->ops_n; op++) {
        m->ops[op].price = op;
    }
    place_ops(m, all->v[from].cls->code);
    for (uint32_t i = from; i < from + n; i++) {
        if (!give_prices(m, &all->v[i], arena)) {
            return 0;
        }
    }
    return n;
}

int sfi_pack(const struct sfi_variants *all, struct sf_arena *arena, struct sf_err *err) {
    uint32_t first[PRICES_MAX], parent[PRICES_MAX];
    struct mould m = {.first = first, .parent = parent};
    for (uint32_t i = 0, n; i < all->n; i += n) {
        n = pack_alike(all, i, &m, arena);
        if (n == 0) {
            return sf_fail_memory(err, "ops of variants");
        }
    }
    return SF_OK;
}
