#include "sim/seats.h"

#include "core/arena.h"

/* Domains with GPUs in use, one after the other. Runs of seats in use are found by doubling, so that thousands of
 * untouched domains cost a few steps each. */
struct walk {
    const struct sf_topo *topo;
    uint32_t in_use, domain_gpus;
    uint32_t n, seat, left; /* the next GPU in use, its seat, how many follow each other from there on */
};

struct stay { /* what one domain has */
    uint32_t domain, seats;
    uint32_t gapless; /* of them, in a row from its first seat on */
};

static void find_run(struct walk *w) {
    uint32_t most = w->in_use - w->n, good = 1, bad = most;
    w->seat = sf_topo_seat(w->topo, w->n);
    if (sf_topo_seat(w->topo, w->in_use - 1) - w->seat == most - 1) {
        w->left = most;
        return;
    }
    while (2 * (uint64_t)good < most && sf_topo_seat(w->topo, w->n + 2 * good - 1) - w->seat == 2 * good - 1) {
        good *= 2;
    }
    bad = 2 * (uint64_t)good < most ? 2 * good : most;
    while (bad - good > 1) {
        uint32_t middle = good + (bad - good) / 2;
        if (sf_topo_seat(w->topo, w->n + middle - 1) - w->seat == middle - 1) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    w->left = good;
}

static struct walk walk_of(const struct sf_topo *topo) {
    struct walk w = {.topo = topo, .in_use = sf_topo_gpus_in_use(topo), .domain_gpus = sf_topo_domain_gpus(topo)};
    if (w.in_use > 0) {
        find_run(&w);
    }
    return w;
}

static bool next_domain(struct walk *w, struct stay *out) {
    if (w->n == w->in_use) {
        return false;
    }
    *out = (struct stay){.domain = w->seat / w->domain_gpus};
    uint64_t end = ((uint64_t)out->domain + 1) * w->domain_gpus;
    while (w->n < w->in_use && w->seat < end) {
        uint32_t here = (uint32_t)(end - w->seat), take = w->left < here ? w->left : here;
        bool first = out->seats == 0 && w->seat % w->domain_gpus == 0;
        out->gapless = first ? take : out->gapless;
        out->seats += take;
        w->n += take;
        w->seat += take;
        w->left -= take;
        if (w->left == 0 && w->n < w->in_use) {
            find_run(w);
        }
    }
    return true;
}

bool sf_seats_plain(const struct sf_topo *topo) {
    uint32_t in_use = sf_topo_gpus_in_use(topo);
    return in_use > 0 && sf_topo_seat(topo, in_use - 1) == in_use - 1;
}

static uint64_t plain_seat(const struct sf_topo *topo, uint32_t ranks_per_domain, uint32_t rank) {
    return (uint64_t)(rank / ranks_per_domain) * sf_topo_domain_gpus(topo) + rank % ranks_per_domain;
}

bool sf_seats_in_order(const struct sf_topo *topo, uint32_t ranks, uint32_t ranks_per_domain) {
    return sf_seats_plain(topo) && plain_seat(topo, ranks_per_domain, ranks - 1) < sf_topo_gpus_in_use(topo);
}

bool sf_seats_fit(const struct sf_topo *topo, uint32_t ranks, uint32_t ranks_per_domain) {
    if (ranks == 0 || ranks_per_domain == 0 || ranks_per_domain > sf_topo_domain_gpus(topo)) {
        return false;
    }
    if (sf_seats_plain(topo)) {
        return plain_seat(topo, ranks_per_domain, ranks - 1) < sf_topo_gpus(topo);
    }
    struct walk w = walk_of(topo);
    struct stay s;
    uint32_t left = ranks;
    while (left > 0 && next_domain(&w, &s)) {
        uint32_t need = left < ranks_per_domain ? left : ranks_per_domain;
        left -= s.seats >= need ? need : 0;
    }
    return left == 0;
}

/* ---- single seats ---- */

static bool is_filled(const struct sf_topo *topo, uint32_t gpu) {
    struct sf_stock stock;
    sf_topo_stock(topo, sf_topo_stock_of(topo, gpu), &stock);
    return gpu % sf_topo_domain_gpus(topo) < stock.domain_in_use;
}

static bool is_usable(const struct sf_topo *topo, uint32_t gpu, bool spares) {
    enum sf_gpu_state state = sf_topo_gpu_state(topo, gpu);
    return state == SF_GPU_IN_USE || (spares && state == SF_GPU_SPARE && is_filled(topo, gpu));
}

/* The n-th usable seat of a domain; SF_NONE when there are fewer. */
static uint32_t usable_seat(const struct sf_topo *topo, uint32_t domain, uint32_t n, bool spares) {
    uint32_t first = domain * sf_topo_domain_gpus(topo), end = first + sf_topo_domain_gpus(topo);
    for (uint32_t gpu = first; gpu < end; gpu++) {
        if (is_usable(topo, gpu, spares) && n-- == 0) {
            return gpu;
        }
    }
    return SF_NONE;
}

/* Passes over untouched domains, a block in each. */
static void skip_whole(struct walk *w, uint32_t *blocks) {
    uint32_t whole = w->n < w->in_use && w->seat % w->domain_gpus == 0 ? (w->left - 1) / w->domain_gpus : 0;
    whole = whole < *blocks ? whole : *blocks;
    *blocks -= whole;
    w->n += whole * w->domain_gpus;
    w->seat += whole * w->domain_gpus;
    w->left -= whole * w->domain_gpus;
}

uint32_t sf_seats_of(const struct sf_topo *topo, uint32_t ranks_per_domain, uint32_t rank) {
    if (sf_seats_plain(topo)) {
        uint64_t seat = plain_seat(topo, ranks_per_domain, rank);
        return seat < sf_topo_gpus(topo) ? (uint32_t)seat : SF_NONE;
    }
    struct walk w = walk_of(topo);
    struct stay s;
    uint32_t blocks = rank / ranks_per_domain, slot = rank % ranks_per_domain;
    while (skip_whole(&w, &blocks), next_domain(&w, &s)) {
        bool whole = s.seats >= ranks_per_domain;
        if (blocks == 0 && (whole || s.seats > slot)) {
            return slot < s.gapless ? s.domain * w.domain_gpus + slot : usable_seat(topo, s.domain, slot, false);
        }
        blocks -= whole;
    }
    return SF_NONE;
}

/* ---- all seats ---- */

struct fill {
    const struct sf_topo *topo;
    uint32_t ranks, per_domain;
    uint32_t *gpu;
    uint32_t placed;                                /* ranks that have a seat */
    uint32_t short_rank, short_domain, short_seats; /* the first block that lost its domain */
};

static uint32_t block_ranks(const struct fill *f) {
    uint32_t left = f->ranks - f->placed;
    return left < f->per_domain ? left : f->per_domain;
}

static void fill_domain(struct fill *f, const struct stay *s, bool spares) {
    uint32_t n = block_ranks(f), first = s->domain * sf_topo_domain_gpus(f->topo), seat = first;
    for (uint32_t i = 0; i < n; i++, seat++) {
        while (s->gapless < n && !is_usable(f->topo, seat, spares)) {
            seat++;
        }
        f->gpu[f->placed++] = seat;
    }
}

static void see_short(struct fill *f, const struct stay *s) {
    if (f->short_rank == SF_NONE) {
        f->short_rank = f->placed;
        f->short_domain = s->domain;
        f->short_seats = s->seats;
    }
}

/* How many seats of each domain were filled to begin with. */
static uint32_t filled_of(const struct sf_topo *topo, uint32_t domain) {
    struct sf_stock stock;
    sf_topo_stock(topo, sf_topo_stock_of(topo, domain * sf_topo_domain_gpus(topo)), &stock);
    return stock.domain_in_use;
}

static void fill_in_use(struct fill *f) {
    struct walk w = walk_of(f->topo);
    struct stay s;
    uint32_t expected = 0;
    while (f->placed < f->ranks && next_domain(&w, &s)) {
        for (; expected < s.domain; expected++) {
            see_short(f, &(struct stay){.domain = expected});
        }
        expected = s.domain + 1;
        if (s.seats >= block_ranks(f)) {
            fill_domain(f, &s, false);
        } else if (filled_of(f->topo, s.domain) >= block_ranks(f)) {
            see_short(f, &s);
        }
    }
}

/* Domains that only spare seats make large enough: those with fewer in use than a block needs. */
static void fill_spares(struct fill *f) {
    uint32_t gpus = sf_topo_domain_gpus(f->topo), domains = sf_topo_gpus(f->topo) / gpus, full = f->per_domain;
    for (uint32_t d = 0; d < domains && f->placed < f->ranks; d++) {
        struct stay s = {.domain = d};
        uint32_t used = 0, need = block_ranks(f);
        for (uint32_t gpu = d * gpus; gpu < (d + 1) * gpus; gpu++) {
            used += is_usable(f->topo, gpu, false);
            s.seats += is_usable(f->topo, gpu, true);
        }
        if (used < full && used < need && s.seats >= need) {
            fill_domain(f, &s, true);
        }
    }
}

static int refuse(const struct fill *f, struct sf_err *err) {
    struct sf_topo_counts n;
    sf_topo_count(f->topo, &n);
    if (f->short_rank != SF_NONE && n.dead_gpus + n.spare_gpus > 0) {
        uint32_t end = f->short_rank + f->per_domain;
        return sf_fail(
            err, SF_E_INPUT,
            "ranks %u to %u find no seats: domain %u has %u of the %u that they need, and no spare domain is "
            "left for the %u ranks at the end (%llu dead GPUs, %llu spare); plan again for this cluster",
            f->short_rank, (end < f->ranks ? end : f->ranks) - 1, f->short_domain, f->short_seats, f->per_domain,
            f->ranks - f->placed, (unsigned long long)n.dead_gpus, (unsigned long long)n.spare_gpus);
    }
    return sf_fail(err, SF_E_INPUT, "%u ranks, %u to a domain, need %u domains; the cluster %s has seats for %u ranks",
                   f->ranks, f->per_domain, (f->ranks - 1) / f->per_domain + 1, sf_topo_name(f->topo), f->placed);
}

/* Against the placement on the same cluster with nothing dead or spare. */
static void compare_healthy(const struct fill *f, struct sf_seats_report *report) {
    uint32_t gpus = sf_topo_domain_gpus(f->topo), domains = sf_topo_gpus(f->topo) / gpus, d = 0;
    for (uint32_t r = 0; r < f->ranks; d++) {
        uint32_t left = f->ranks - r, need = left < f->per_domain ? left : f->per_domain;
        if (d < domains && filled_of(f->topo, d) < need) {
            continue;
        }
        for (uint32_t i = 0; i < need; i++, r++) {
            uint32_t before = d < domains ? d * gpus + i : f->gpu[r];
            bool lost = before != f->gpu[r] && sf_topo_gpu_state(f->topo, before) != SF_GPU_IN_USE;
            if (lost && report->lost++ == 0) {
                report->first_lost = r;
                report->lost_domain = d;
            }
            report->moved += before != f->gpu[r];
        }
    }
}

int sf_seats_fill(const struct sf_topo *topo, uint32_t ranks, uint32_t ranks_per_domain, uint32_t *gpu,
                  struct sf_seats_report *report, struct sf_err *err) {
    struct fill f = {topo, ranks, ranks_per_domain, gpu, 0, SF_NONE, 0, 0};
    if (sf_seats_in_order(topo, ranks, ranks_per_domain)) {
        for (; f.placed < ranks;) {
            fill_domain(&f, &(struct stay){f.placed / ranks_per_domain, ranks_per_domain, ranks_per_domain}, false);
        }
    } else {
        fill_in_use(&f);
        fill_spares(&f);
    }
    if (f.placed < ranks) {
        return refuse(&f, err);
    }
    if (report) {
        *report = (struct sf_seats_report){0};
        for (uint32_t r = 0; r < ranks; r++) {
            report->on_spares += sf_topo_gpu_state(topo, gpu[r]) != SF_GPU_IN_USE;
        }
        compare_healthy(&f, report);
    }
    return SF_OK;
}

/* ---- what sits there ---- */

uint64_t sf_seats_memory(const struct sf_topo *topo) {
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < sf_topo_stocks(topo); i++) {
        struct sf_stock stock;
        sf_topo_stock(topo, i, &stock);
        least = stock.device->memory_bytes < least ? stock.device->memory_bytes : least;
    }
    return least;
}

uint64_t sf_seats_host_memory(const struct sf_topo *topo) {
    uint64_t least = 0;
    for (uint32_t i = 0; i < sf_topo_stocks(topo); i++) {
        struct sf_stock stock;
        sf_topo_stock(topo, i, &stock);
        bool less = stock.host_bytes > 0 && (least == 0 || stock.host_bytes < least);
        least = less ? stock.host_bytes : least;
    }
    return least;
}

double sf_seats_peak(const struct sf_topo *topo, const struct sf_prog *prog, int precision) {
    uint32_t n = sf_prog_ranks(prog), *gpu = sf_topo_mixed(topo) ? sf_calloc(n, sizeof *gpu) : NULL;
    bool placed = gpu != NULL && sf_seats_fill(topo, n, prog->ranks_per_domain, gpu, NULL, NULL) == 0;
    double sum = 0;
    for (uint32_t r = 0; placed && r < n; r++) {
        sum += sf_topo_device_of(topo, gpu[r])->flops_per_s[precision];
    }
    sf_free(gpu);
    return placed ? sum / n : sf_topo_device(topo)->flops_per_s[precision];
}
