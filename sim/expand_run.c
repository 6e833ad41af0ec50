/* The question, its limits, and who answers it. */
#include <math.h>

#include "core/arena.h"
#include "sim/expand_internal.h"

#define EXACT 9007199254740992.0 /* 2^53: whole numbers below are exact in a double */

struct sfi_expand {
    double *doubles;
    uint32_t *numbers;
    size_t doubles_n, numbers_n;
};

struct sfi_expand *sfi_expand_create(void) {
    return sf_calloc(1, sizeof(struct sfi_expand));
}

void sfi_expand_free(struct sfi_expand *x) {
    if (x) {
        sf_free(x->doubles);
        sf_free(x->numbers);
        sf_free(x);
    }
}

double sfi_expand_ps(double seconds) {
    return nearbyint(seconds * (double)SF_PS_PER_S);
}

struct way {
    double (*chunks)(const struct sfi_expansion *x);
    struct sfi_room (*room)(const struct sfi_expansion *x);
    bool (*run)(struct sfi_expansion *x);
};

static struct way way_of(enum sf_coll_algorithm algorithm) {
    switch (algorithm) {
    case SF_COLL_RING:
        return (struct way){sfi_expand_ring_chunks, sfi_expand_ring_room, sfi_expand_ring};
    case SF_COLL_TREE:
        return (struct way){sfi_expand_tree_chunks, sfi_expand_tree_room, sfi_expand_tree};
    case SF_COLL_PAT:
        return (struct way){sfi_expand_pat_chunks, sfi_expand_pat_room, sfi_expand_pat};
    case SF_COLL_DIRECT:
    case SF_COLL_RAIL:
    case SF_COLL_HIERARCHICAL:
        return (struct way){sfi_expand_exchange_chunks, sfi_expand_exchange_room, sfi_expand_exchange};
    default:
        return (struct way){sfi_expand_pump_chunks, sfi_expand_pump_room, sfi_expand_pump};
    }
}

/* All that counting needs: no arrays. */
static struct sfi_expansion expansion_of(const struct sfi_expand_ask *ask) {
    struct sfi_expansion x = {.ask = ask, .a = sfi_ask_of(ask->coll, &ask->query), .n = ask->query.span.members};
    uint32_t begin = 0;
    for (uint32_t m = 0; m < x.n; m++) {
        if (m == 0 || ask->domain[m] != ask->domain[m - 1]) {
            x.domains_n++;
            begin = m;
        }
        x.most = m + 1 - begin > x.most ? m + 1 - begin : x.most;
    }
    /* Inside one domain every channel's ring is the same, only begun elsewhere; a chain has ends, so trees differ */
    bool turns = x.domains_n > 1 || ask->algorithm == SF_COLL_TREE;
    uint32_t channels = ask->algorithm < SFI_TUNED ? sfi_channels(&x.a, (int)ask->algorithm) : 1;
    x.channels = turns ? (x.most < channels ? x.most : channels) : 1;
    return x;
}

static double chunks_of(const struct sfi_expansion *x) {
    return x->n > 1 ? way_of(x->ask->algorithm).chunks(x) : 0;
}

uint64_t sfi_expand_chunks(const struct sfi_expand_ask *ask) {
    struct sfi_expansion x = expansion_of(ask);
    double n = chunks_of(&x);
    return n >= 0x1p64 ? UINT64_MAX : (uint64_t)n;
}

static int grow(struct sfi_expand *w, size_t doubles_n, size_t numbers_n, struct sf_err *err) {
    if (doubles_n > w->doubles_n) {
        sf_free(w->doubles);
        w->doubles = sf_calloc(doubles_n, sizeof *w->doubles);
        w->doubles_n = w->doubles ? doubles_n : 0;
    }
    if (numbers_n > w->numbers_n) {
        sf_free(w->numbers);
        w->numbers = sf_calloc(numbers_n, sizeof *w->numbers);
        w->numbers_n = w->numbers ? numbers_n : 0;
    }
    return w->doubles_n < doubles_n || w->numbers_n < numbers_n ? sf_fail_memory(err, "chunks of a collective") : SF_OK;
}

static int place(struct sfi_expand *w, struct sfi_expansion *x, struct sf_err *err) {
    struct sfi_room room = way_of(x->ask->algorithm).room(x);
    size_t n = x->n;
    SF_TRY(grow(w, room.doubles + 2 * n, room.numbers + 2 * n + 1, err));
    x->arrive = w->doubles;
    x->end = w->doubles + n;
    x->room = w->doubles + 2 * n;
    x->first = w->numbers;
    x->domain = w->numbers + n + 1;
    x->numbers = w->numbers + 2 * n + 1;
    return SF_OK;
}

static sf_time_ps gather(struct sfi_expansion *x) {
    sf_time_ps begin = x->ask->arrive[0];
    uint32_t d = 0;
    for (uint32_t m = 0; m < x->n; m++) {
        begin = x->ask->arrive[m] < begin ? x->ask->arrive[m] : begin;
        if (m == 0 || x->ask->domain[m] != x->ask->domain[m - 1]) {
            x->first[d++] = m;
        }
        x->domain[m] = d - 1;
    }
    x->first[d] = x->n;
    for (uint32_t m = 0; m < x->n; m++) {
        x->arrive[m] = (double)(x->ask->arrive[m] - begin);
        x->end[m] = x->arrive[m];
    }
    return begin;
}

static int refuse(const struct sfi_expand_ask *ask, struct sf_err *err) {
    return sf_fail(err, SF_E_INPUT, "%s cannot be expanded to chunks by %s, protocol %s, over %u members in %u domains",
                   sf_coll_op_name((int)ask->query.op), sf_coll_algorithm_name((int)ask->algorithm),
                   sf_coll_protocol_name((int)ask->protocol), ask->query.span.members, ask->query.span.domains);
}

static int too_long(const struct sfi_expand_ask *ask, struct sf_err *err) {
    return sf_fail(err, SF_E_INPUT, "%s of %llu bytes takes more than two hours of virtual time: check its size",
                   sf_coll_op_name((int)ask->query.op), (unsigned long long)ask->query.bytes);
}

static int check(const struct sfi_expansion *x, uint64_t chunks_max, struct sf_err *err) {
    const struct sfi_expand_ask *ask = x->ask;
    struct sf_coll_choice whole;
    if (ask->query.op == SF_COLL_BROADCAST ||
        !sf_coll_price(ask->coll, &ask->query, ask->algorithm, ask->protocol, &whole)) {
        return refuse(ask, err);
    }
    if (!(whole.time_s * (double)SF_PS_PER_S < EXACT)) {
        return too_long(ask, err);
    }
    double chunks = chunks_of(x);
    if (!(chunks <= (double)chunks_max)) {
        return sf_fail(err, SF_E_INPUT,
                       "%s of %llu bytes over %u members is %.4g transfers of chunks, the limit is %llu: raise it, or "
                       "leave collectives whole",
                       sf_coll_op_name((int)ask->query.op), (unsigned long long)ask->query.bytes, x->n, chunks,
                       (unsigned long long)chunks_max);
    }
    return SF_OK;
}

int sfi_expand_run(struct sfi_expand *w, const struct sfi_expand_ask *ask, uint64_t chunks_max, sf_time_ps *end,
                   struct sf_err *err) {
    struct sfi_expansion x = expansion_of(ask);
    if (x.n < 2) {
        for (uint32_t m = 0; m < x.n; m++) {
            end[m] = ask->arrive[m];
        }
        return SF_OK;
    }
    SF_TRY(check(&x, chunks_max, err));
    SF_TRY(place(w, &x, err));
    sf_time_ps begin = gather(&x);
    if (!way_of(ask->algorithm).run(&x)) {
        return refuse(ask, err);
    }
    for (uint32_t m = 0; m < x.n; m++) {
        if (!(x.end[m] < EXACT)) {
            return sf_fail(err, SF_E_INPUT,
                           "%s of %llu bytes takes more than two hours of virtual time: check its size",
                           sf_coll_op_name((int)ask->query.op), (unsigned long long)ask->query.bytes);
        }
        end[m] = begin + (sf_time_ps)x.end[m];
    }
    return SF_OK;
}
