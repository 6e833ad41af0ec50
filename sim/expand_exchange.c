/* All to all: every message takes its turn at the sender's and the receiver's port of its tier. The chunks of a message
 * follow each other, so a message is one stretch of time on both.
 *
 * Messages are queued by when they would start on idle ports: NCCL's order of them (by distance in domains, then inside
 * them), in which equal members never get in each other's way, counted from the later of the two arrivals. So somebody
 * late holds up nobody else, and is not made to wait for everybody else either. */
#include <math.h>

#include "sim/expand_internal.h"

enum { SORTED_MAX = 1 << 26 };

struct port {
    double sends, receives; /* free from then on */
};

struct exchange {
    struct sfi_exchange steps;
    double start;
    bool own_first;          /* a member's message to itself; else last, because a rail's NIC waits for the others */
    struct port *up, *out;   /* by member */
    double *come;            /* rail: when the pieces of the block in hand are all on their rail */
    double *due;             /* direct: by round and sender */
    uint32_t *order, *spare; /* direct: rounds and senders by that; rail: domains by their last arrival */
};

static bool arrive_together(const struct sfi_expansion *x) {
    for (uint32_t m = 1; m < x->n; m++) {
        if (x->ask->arrive[m] != x->ask->arrive[0]) {
            return false;
        }
    }
    return true;
}

/* Messages of members that arrive one by one are sorted, all at once. */
static size_t sorted_n(const struct sfi_expansion *x) {
    size_t all = (size_t)x->domains_n * x->most * x->n;
    return x->ask->algorithm != SF_COLL_DIRECT ? x->domains_n : arrive_together(x) || all > SORTED_MAX ? 0 : all;
}

struct sfi_room sfi_expand_exchange_room(const struct sfi_expansion *x) {
    return (struct sfi_room){4 * (size_t)x->n + x->domains_n + sorted_n(x), 2 * sorted_n(x)};
}

static void place(struct exchange *e, const struct sfi_expansion *x) {
    _Static_assert(sizeof(struct port) == 2 * sizeof(double), "ports lie in the room's doubles");
    e->up = (struct port *)(void *)x->room;
    e->out = e->up + x->n;
    e->come = x->room + 4 * (size_t)x->n;
    e->due = e->come + x->domains_n;
    e->order = x->numbers;
    e->spare = x->numbers + sorted_n(x);
}

static void sort_by(uint32_t *order, uint32_t n, const double *key, uint32_t *spare) {
    for (uint32_t i = 0; i < n; i++) {
        order[i] = i;
    }
    for (uint32_t width = 1; width < n; width *= 2) { /* merging keeps equal ones in order */
        for (uint32_t from = 0; from < n; from += 2 * width) {
            uint32_t mid = from + width < n ? from + width : n, to = mid + width < n ? mid + width : n;
            uint32_t a = from, b = mid;
            for (uint32_t k = from; k < to; k++) {
                bool left = b == to || (a < mid && key[order[a]] <= key[order[b]]);
                spare[k] = left ? order[a++] : order[b++];
            }
        }
        for (uint32_t i = 0; i < n; i++) {
            order[i] = spare[i];
        }
    }
}

static double own_of(const struct sfi_expansion *x, const struct exchange *e, uint32_t member) {
    return sfi_expand_ps(e->steps.own_s / sfi_expand_up(x, member));
}

static void begin(struct sfi_expansion *x, struct exchange *e) {
    e->start = sfi_expand_ps(e->steps.start);
    for (uint32_t m = 0; m < x->n; m++) {
        double own = e->own_first ? own_of(x, e, m) : 0, at = x->arrive[m];
        e->up[m] = (struct port){at + own, at + own};
        e->out[m] = (struct port){at, at};
        x->end[m] = sfi_later(x->end[m], at + own + e->start);
    }
}

static double pass(struct port *from, struct port *to, double since, double time) {
    double end = sfi_later(since, sfi_later(from->sends, to->receives)) + time;
    from->sends = to->receives = end;
    return end;
}

/* ---- direct ---- */

static void send(struct sfi_expansion *x, const struct exchange *e, uint32_t src, uint32_t dst) {
    double since = sfi_later(x->arrive[src], x->arrive[dst]), end;
    if (x->domain[src] == x->domain[dst]) {
        double share = sfi_lesser(sfi_expand_up(x, src), sfi_expand_up(x, dst));
        end = pass(&e->up[src], &e->up[dst], since, sfi_expand_ps(e->steps.inside_s / share));
    } else {
        double share = sfi_lesser(sfi_expand_out(x, src), sfi_expand_out(x, dst));
        e->up[src].sends += sfi_expand_ps(e->steps.forward_s / sfi_expand_up(x, src));
        end = pass(&e->out[src], &e->out[dst], since, sfi_expand_ps(e->steps.outside_s / share));
        end = sfi_later(end, e->up[src].sends);
    }
    x->end[src] = sfi_later(x->end[src], end + e->start);
    x->end[dst] = sfi_later(x->end[dst], end + e->start);
}

/* The member at a distance of `domains` and, inside, of `places`; SF_NONE where that domain is short. */
static uint32_t at_distance(const struct sfi_expansion *x, uint32_t m, uint32_t domains, uint32_t places) {
    uint32_t d = x->domain[m], there = (d + domains) % x->domains_n;
    uint32_t place = (m - x->first[d] + places) % x->most;
    return place < x->first[there + 1] - x->first[there] ? x->first[there] + place : SF_NONE;
}

static uint32_t receiver(const struct sfi_expansion *x, uint32_t round, uint32_t src) {
    return at_distance(x, src, round / x->most, round % x->most);
}

/* When a message would start if its two ends had nothing else to do than what is due before. */
static double due(const struct sfi_expansion *x, const struct exchange *e, uint32_t round, uint32_t src, uint32_t dst) {
    double each = x->domain[src] == x->domain[dst] ? e->steps.inside_s : e->steps.outside_s;
    return sfi_later(x->arrive[src], x->arrive[dst]) + round * sfi_expand_ps(each);
}

static void run_direct(struct sfi_expansion *x, const struct exchange *e) {
    const uint32_t rounds = x->domains_n * x->most;
    const size_t all = (size_t)rounds * x->n;
    const bool sorted = sorted_n(x) == 0;
    for (size_t i = x->n; i < all && !sorted; i++) {
        uint32_t round = (uint32_t)(i / x->n), src = (uint32_t)(i % x->n), dst = receiver(x, round, src);
        e->due[i] = dst != SF_NONE ? due(x, e, round, src, dst) : 0;
    }
    if (!sorted) {
        sort_by(e->order, (uint32_t)all, e->due, e->spare);
    }
    for (size_t i = sorted ? x->n : 0; i < all; i++) { /* round 0 is everybody with itself */
        uint32_t at = sorted ? (uint32_t)i : e->order[i], round = at / x->n, src = at % x->n;
        uint32_t dst = receiver(x, round, src);
        if (round > 0 && dst != SF_NONE) {
            send(x, e, src, dst);
        }
    }
}

/* ---- by rail ---- */

static void run_inside(struct sfi_expansion *x, const struct exchange *e) {
    for (uint32_t places = 1; places < x->most; places++) {
        for (uint32_t m = 0; m < x->n; m++) {
            uint32_t dst = at_distance(x, m, 0, places);
            if (dst != SF_NONE) {
                send(x, e, m, dst);
            }
        }
    }
}

/* One piece of a domain's block for another: over NVLink to the rails, then over them. */
static void collect_piece(struct sfi_expansion *x, const struct exchange *e, uint32_t d, double forward_s) {
    double come = 0;
    for (uint32_t m = x->first[d]; m < x->first[d + 1]; m++) {
        double end = e->up[m].sends + sfi_expand_ps(forward_s / sfi_expand_up(x, m));
        e->up[m].sends = end;
        come = sfi_later(come, end);
    }
    e->come[d] = come;
}

static void send_piece(struct sfi_expansion *x, const struct exchange *e, uint32_t d, uint32_t there, double piece_s) {
    uint32_t local = x->first[there + 1] - x->first[there];
    for (uint32_t m = x->first[d]; m < x->first[d + 1]; m++) {
        uint32_t dst = x->first[there] + (m - x->first[d]) % local;
        double share = sfi_lesser(sfi_expand_out(x, m), sfi_expand_out(x, dst));
        double since = sfi_later(e->come[d], x->arrive[dst]);
        double end = pass(&e->out[m], &e->out[dst], since, sfi_expand_ps(piece_s / share)) + e->start;
        x->end[m] = sfi_later(x->end[m], end);
        x->end[dst] = sfi_later(x->end[dst], end);
    }
}

/* Blocks for domains whose members are all there come first. */
static void run_blocks(struct sfi_expansion *x, const struct exchange *e) {
    uint32_t *order = e->order;
    uint64_t pieces = (uint64_t)e->steps.pieces;
    for (uint32_t d = 0; d < x->domains_n; d++) {
        e->come[d] = 0;
        for (uint32_t m = x->first[d]; m < x->first[d + 1]; m++) {
            e->come[d] = sfi_later(e->come[d], x->arrive[m]);
        }
    }
    sort_by(order, x->domains_n, e->come, e->spare);
    double forward_s = e->steps.forward_s / e->steps.pieces, piece_s = e->steps.outside_s / e->steps.pieces;
    for (uint64_t round = 0; round < (x->domains_n - 1) * pieces; round++) {
        uint32_t away = 1 + (uint32_t)(round / pieces);
        for (uint32_t i = 0; i < x->domains_n; i++) {
            collect_piece(x, e, order[i], forward_s);
            send_piece(x, e, order[i], order[(i + away) % x->domains_n], piece_s);
        }
    }
}

/* Two phases: nobody uses its NIC before its domain has sorted everything by rail. */
static void finish_inside(struct sfi_expansion *x, const struct exchange *e) {
    for (uint32_t d = 0; d < x->domains_n; d++) {
        double done = 0, all = e->steps.forward_s * (x->domains_n - 1);
        for (uint32_t m = x->first[d]; m < x->first[d + 1]; m++) {
            done = sfi_later(done, e->up[m].sends + sfi_expand_ps(all / sfi_expand_up(x, m)));
        }
        for (uint32_t m = x->first[d]; m < x->first[d + 1]; m++) {
            e->out[m].sends = e->up[m].sends = done;
        }
    }
}

static void finish_own(struct sfi_expansion *x, const struct exchange *e) {
    for (uint32_t m = 0; m < x->n; m++) {
        x->end[m] = sfi_later(x->end[m], e->up[m].sends + own_of(x, e, m) + e->start);
    }
}

bool sfi_expand_exchange(struct sfi_expansion *x) {
    struct exchange e;
    bool many = x->ask->algorithm == SF_COLL_DIRECT && sorted_n(x) == 0 && !arrive_together(x);
    if (many || !sfi_exchange_of(&x->a, (int)x->ask->algorithm, &e.steps)) {
        return false;
    }
    e.own_first = x->ask->algorithm != SF_COLL_RAIL;
    place(&e, x);
    begin(x, &e);
    switch (x->ask->algorithm) {
    case SF_COLL_RAIL:
        run_blocks(x, &e);
        run_inside(x, &e);
        finish_own(x, &e);
        break;
    case SF_COLL_HIERARCHICAL:
        run_inside(x, &e);
        finish_inside(x, &e);
        e.steps.forward_s = 0;
        run_blocks(x, &e);
        break;
    default:
        run_direct(x, &e);
        break;
    }
    return true;
}

double sfi_expand_exchange_chunks(const struct sfi_expansion *x) {
    struct sfi_exchange steps;
    if (!sfi_exchange_of(&x->a, (int)x->ask->algorithm, &steps)) {
        return 0;
    }
    double own = x->a.bytes / x->n, piece = x->a.c->k.tree_chunk[SF_COLL_SIMPLE];
    return (double)x->n * (x->n - 1.0) * ceil(own / piece);
}
