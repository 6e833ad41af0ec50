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

/* ---- blocks ---- */

static uint32_t axes_in_recipes(const struct sf_prog *prog) {
    uint32_t axes = 0;
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        const struct sf_recipe *recipe = &prog->recipes[r];
        for (uint32_t i = 0; i < recipe->calls_n; i++) {
            uint32_t comm = recipe->calls[i].comm;
            axes |= comm < prog->comms_n ? prog->comms[comm].axes : 0;
        }
    }
    return axes;
}

void sf_blocks_init(struct sf_blocks *out, uint32_t ranks, uint32_t most, const uint32_t *sizes, uint32_t n) {
    uint64_t team = 1;
    *out = (struct sf_blocks){.ranks = ranks, .most = most};
    for (uint32_t i = 0; i < n && i < SF_MAX_AXES; i++) {
        team *= sizes[i];
        if (team == 0 || team > most || most % team != 0) {
            return;
        }
        out->team[out->teams_n++] = (uint32_t)team;
    }
}

void sf_blocks_of(const struct sf_prog *prog, struct sf_blocks *out) {
    uint32_t sizes[SF_MAX_AXES], n = 0, axes = axes_in_recipes(prog);
    for (; n < prog->axes_n && (prog->axes[n].size == 1 || (axes >> n & 1)); n++) {
        sizes[n] = prog->axes[n].size;
    }
    sf_blocks_init(out, sf_prog_ranks(prog), prog->ranks_per_domain, sizes, n);
}

/* How many seats of each domain were filled to begin with. */
static uint32_t filled_of(const struct sf_topo *topo, uint32_t domain) {
    struct sf_stock stock;
    sf_topo_stock(topo, sf_topo_stock_of(topo, domain * sf_topo_domain_gpus(topo)), &stock);
    return stock.domain_in_use;
}

static uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Ranks that a domain with so many filled seats takes of those left, where it is too small for a whole block. */
static uint32_t part_block(const struct sf_blocks *b, uint32_t filled, uint32_t left) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->teams_n && b->team[i] <= filled; i++) {
        n = filled / b->team[i] * b->team[i];
    }
    return least(n, left);
}

/* Of the ranks left, those for one domain: in the first pass a whole block, or the last of all, in the second a part
 * where the domain never had the seats for a whole one. */
static uint32_t block_for(const struct sf_topo *topo, const struct sf_blocks *b, uint32_t domain, uint32_t left,
                          bool smaller) {
    uint32_t need = least(left, b->most), filled = filled_of(topo, domain);
    if (!smaller) {
        return filled >= need ? need : 0;
    }
    return filled < b->most ? part_block(b, filled, left) : 0;
}

static uint64_t plain_seat(const struct sf_topo *topo, uint32_t ranks_per_domain, uint32_t rank) {
    return (uint64_t)(rank / ranks_per_domain) * sf_topo_domain_gpus(topo) + rank % ranks_per_domain;
}

bool sf_seats_in_order(const struct sf_topo *topo, uint32_t ranks, uint32_t ranks_per_domain) {
    return sf_seats_plain(topo) && plain_seat(topo, ranks_per_domain, ranks - 1) < sf_topo_gpus_in_use(topo);
}

bool sf_seats_fit(const struct sf_topo *topo, const struct sf_blocks *b) {
    if (b->ranks == 0 || b->most == 0 || b->most > sf_topo_domain_gpus(topo)) {
        return false;
    }
    if (sf_seats_plain(topo)) {
        return plain_seat(topo, b->most, b->ranks - 1) < sf_topo_gpus(topo);
    }
    uint32_t left = b->ranks;
    for (int smaller = 0; smaller < 2; smaller++) {
        struct walk w = walk_of(topo);
        struct stay s;
        while (left > 0 && next_domain(&w, &s)) {
            uint32_t need = block_for(topo, b, s.domain, left, smaller);
            left -= s.seats >= need ? need : 0;
        }
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

/* Passes over untouched domains, a block in each, as long as whole blocks come before `rank`. */
static void skip_whole(struct walk *w, uint32_t most, uint32_t rank, uint32_t *placed) {
    uint32_t whole = w->n < w->in_use && w->seat % w->domain_gpus == 0 ? (w->left - 1) / w->domain_gpus : 0;
    whole = least(whole, (rank - *placed) / most);
    *placed += whole * most;
    w->n += whole * w->domain_gpus;
    w->seat += whole * w->domain_gpus;
    w->left -= whole * w->domain_gpus;
}

uint32_t sf_seats_of(const struct sf_topo *topo, const struct sf_blocks *b, uint32_t rank) {
    if (sf_seats_plain(topo)) {
        uint64_t seat = plain_seat(topo, b->most, rank);
        return seat < sf_topo_gpus(topo) ? (uint32_t)seat : SF_NONE;
    }
    uint32_t placed = 0;
    for (int smaller = 0; smaller < 2; smaller++) {
        struct walk w = walk_of(topo);
        struct stay s;
        while ((smaller ? (void)0 : skip_whole(&w, b->most, rank, &placed)), next_domain(&w, &s)) {
            uint32_t need = block_for(topo, b, s.domain, b->ranks - placed, smaller);
            bool takes = need > 0 && s.seats >= need;
            if (takes && rank - placed < need) {
                uint32_t slot = rank - placed;
                return slot < s.gapless ? s.domain * w.domain_gpus + slot : usable_seat(topo, s.domain, slot, false);
            }
            placed += takes ? need : 0;
        }
    }
    return SF_NONE;
}

/* ---- all seats ---- */

struct fill {
    const struct sf_topo *topo;
    const struct sf_blocks *blocks;
    uint32_t *gpu;
    uint32_t placed;                                            /* ranks that have a seat */
    uint32_t short_rank, short_domain, short_seats, short_need; /* the first block that lost its domain */
};

static uint32_t left_of(const struct fill *f) {
    return f->blocks->ranks - f->placed;
}

static void fill_domain(struct fill *f, const struct stay *s, uint32_t n, bool spares) {
    uint32_t seat = s->domain * sf_topo_domain_gpus(f->topo);
    for (uint32_t i = 0; i < n; i++, seat++) {
        while (s->gapless < n && !is_usable(f->topo, seat, spares)) {
            seat++;
        }
        f->gpu[f->placed++] = seat;
    }
}

static void see_short(struct fill *f, const struct stay *s, uint32_t need) {
    if (f->short_rank == SF_NONE && need > s->seats) {
        f->short_rank = f->placed;
        f->short_domain = s->domain;
        f->short_seats = s->seats;
        f->short_need = need;
    }
}

static void fill_in_use(struct fill *f, bool smaller) {
    struct walk w = walk_of(f->topo);
    struct stay s;
    uint32_t expected = 0;
    while (left_of(f) > 0 && next_domain(&w, &s)) {
        for (; expected < s.domain; expected++) {
            see_short(f, &(struct stay){.domain = expected},
                      block_for(f->topo, f->blocks, expected, left_of(f), smaller));
        }
        expected = s.domain + 1;
        uint32_t need = block_for(f->topo, f->blocks, s.domain, left_of(f), smaller);
        if (s.seats >= need) {
            fill_domain(f, &s, need, false);
        } else {
            see_short(f, &s, need);
        }
    }
}

/* Domains that only spare seats make large enough: those with fewer in use than a block needs. */
static void fill_spares(struct fill *f) {
    uint32_t gpus = sf_topo_domain_gpus(f->topo), domains = sf_topo_gpus(f->topo) / gpus;
    for (uint32_t d = 0; d < domains && left_of(f) > 0; d++) {
        struct stay s = {.domain = d};
        uint32_t used = 0, whole = block_for(f->topo, f->blocks, d, f->blocks->most, false);
        whole = whole > 0 ? whole : part_block(f->blocks, filled_of(f->topo, d), f->blocks->most);
        for (uint32_t gpu = d * gpus; gpu < (d + 1) * gpus; gpu++) {
            used += is_usable(f->topo, gpu, false);
            s.seats += is_usable(f->topo, gpu, true);
        }
        uint32_t need = least(whole, left_of(f));
        if (used < need && s.seats >= need) {
            fill_domain(f, &s, need, true);
        }
    }
}

static int refuse(const struct fill *f, struct sf_err *err) {
    const struct sf_blocks *b = f->blocks;
    struct sf_topo_counts n;
    sf_topo_count(f->topo, &n);
    if (f->short_rank != SF_NONE && n.dead_gpus + n.spare_gpus > 0) {
        return sf_fail(
            err, SF_E_INPUT,
            "ranks %u to %u find no seats: domain %u has %u of the %u that they need, and no spare domain is "
            "left for the %u ranks at the end (%llu dead GPUs, %llu spare); plan again for this cluster",
            f->short_rank, f->short_rank + f->short_need - 1, f->short_domain, f->short_seats, f->short_need,
            left_of(f), (unsigned long long)n.dead_gpus, (unsigned long long)n.spare_gpus);
    }
    return sf_fail(err, SF_E_INPUT, "%u ranks, %u to a domain, need %u domains; the cluster %s has seats for %u ranks",
                   b->ranks, b->most, (b->ranks - 1) / b->most + 1, sf_topo_name(f->topo), f->placed);
}

static int fill_all(struct fill *f, struct sf_err *err) {
    const struct sf_blocks *b = f->blocks;
    if (b->most > 0 && sf_seats_in_order(f->topo, b->ranks, b->most)) {
        while (left_of(f) > 0) {
            uint32_t need = least(left_of(f), b->most);
            fill_domain(f, &(struct stay){f->placed / b->most, need, need}, need, false);
        }
        return SF_OK;
    }
    fill_in_use(f, false);
    fill_in_use(f, true);
    fill_spares(f);
    return left_of(f) == 0 ? SF_OK : refuse(f, err);
}

/* Against the placement on the same cluster with nothing dead or spare. */
static int compare_planned(const struct fill *f, struct sf_seats_report *report, struct sf_err *err) {
    struct sf_topo *planned = NULL;
    uint32_t n = f->blocks->ranks, *gpu = sf_calloc(n, sizeof *gpu);
    int rc = gpu ? sf_topo_planned(f->topo, &planned, err) : sf_fail_memory(err, "seats");
    struct fill before = {.topo = planned, .blocks = f->blocks, .gpu = gpu, .short_rank = SF_NONE};
    rc = rc == 0 ? fill_all(&before, err) : rc;
    for (uint32_t r = 0; rc == 0 && r < n; r++) {
        bool moved = gpu[r] != f->gpu[r], lost = moved && sf_topo_gpu_state(f->topo, gpu[r]) != SF_GPU_IN_USE;
        if (lost && report->lost++ == 0) {
            report->first_lost = r;
            report->lost_domain = sf_topo_domain(f->topo, gpu[r]);
        }
        report->moved += moved;
        report->on_spares += sf_topo_gpu_state(f->topo, f->gpu[r]) != SF_GPU_IN_USE;
    }
    sf_topo_free(planned);
    sf_free(gpu);
    return rc;
}

int sf_seats_fill(const struct sf_topo *topo, const struct sf_blocks *blocks, uint32_t *gpu,
                  struct sf_seats_report *report, struct sf_err *err) {
    struct fill f = {.topo = topo, .blocks = blocks, .gpu = gpu, .short_rank = SF_NONE};
    if (report) {
        *report = (struct sf_seats_report){0};
    }
    SF_TRY(fill_all(&f, err));
    return report ? compare_planned(&f, report, err) : SF_OK;
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
    struct sf_blocks blocks;
    sf_blocks_of(prog, &blocks);
    uint32_t n = blocks.ranks, *gpu = sf_topo_mixed(topo) ? sf_calloc(n, sizeof *gpu) : NULL;
    bool placed = gpu != NULL && sf_seats_fill(topo, &blocks, gpu, NULL, NULL) == 0;
    double sum = 0;
    for (uint32_t r = 0; placed && r < n; r++) {
        sum += sf_topo_device_of(topo, gpu[r])->flops_per_s[precision];
    }
    sf_free(gpu);
    return placed ? sum / n : sf_topo_device(topo)->flops_per_s[precision];
}
