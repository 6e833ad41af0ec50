/* Executing graphs on the host, in one of the orders that they allow.
 *
 * A node may start when everything before it is over. Communication also keeps the order of its capture: on a device it
 * starts in that order (communicators share the device's queue), and on a communicator it ends in that order. It is
 * over when all its partners have started. */
#include "core/rng.h"
#include "runtime/record_graph.h"

enum talk_state { NOT_YET, STARTED, OVER };

struct device {
    struct sfi_graph *g;
    struct sfi_node ***chain; /* [chains][nodes of it] */
    uint32_t *done;           /* [chains] nodes over; the next one may have started */
    uint8_t *talking;         /* [chains] enum talk_state of the node at done[] */
    struct sfi_node **talks;  /* in order of capture */
    uint32_t talks_n, talks_started;
};

struct runner {
    struct sfi_record *rec;
    struct sf_arena *arena;
    struct device *devices;
    size_t devices_n;
    struct sfi_transfers transfers;
    struct sf_rng rng;
    bool move;
};

static int index_graph(struct runner *r, struct device *d, struct sfi_graph *g, struct sf_err *err) {
    *d = (struct device){.g = g};
    d->chain = sf_arena_alloc(r->arena, g->chains_n, sizeof *d->chain);
    d->done = sf_arena_alloc(r->arena, g->chains_n, sizeof *d->done);
    d->talking = sf_arena_alloc(r->arena, g->chains_n, sizeof *d->talking);
    d->talks = sf_arena_alloc(r->arena, g->nodes_n, sizeof(struct sfi_node *));
    if (!d->chain || !d->done || !d->talking || !d->talks) {
        return sf_fail_memory(err, "executing a graph");
    }
    for (uint32_t c = 0; c < g->chains_n; c++) {
        d->chain[c] = sf_arena_alloc(r->arena, g->chain_n[c], sizeof(struct sfi_node *));
        if (!d->chain[c]) {
            return sf_fail_memory(err, "executing a graph");
        }
    }
    for (size_t i = 0; i < g->nodes_n; i++) {
        struct sfi_node *node = &g->nodes[i];
        d->chain[node->chain][node->position] = node;
        if (node->kind == SFI_NODE_TALK) {
            d->talks[d->talks_n++] = node;
        }
    }
    return SF_OK;
}

static struct sfi_node *head(const struct device *d, uint32_t chain) {
    return d->done[chain] < d->g->chain_n[chain] ? d->chain[chain][d->done[chain]] : NULL;
}

static bool is_collective(const struct sfi_talk *t) {
    return sf_op_group(t->m.kind) == SF_OP_IS_COLL;
}

/* Of one communicator, or both collective: the second waits for the end of the first. */
static bool share_queue(const struct sfi_talk *a, const struct sfi_talk *b) {
    return a->comm == b->comm || (is_collective(a) && is_collective(b));
}

static bool held_up(const struct device *d, const struct sfi_node *node) {
    for (uint32_t i = 0; i < d->talks_started; i++) {
        const struct sfi_node *other = d->talks[i];
        if (d->done[other->chain] > other->position) {
            continue;
        }
        for (uint32_t a = 0; a < node->u.talk.n; a++) {
            for (uint32_t b = 0; b < other->u.talk.n; b++) {
                if (share_queue(&node->u.talk.talks[a], &other->u.talk.talks[b])) {
                    return true;
                }
            }
        }
    }
    return false;
}

static bool startable(const struct runner *r, const struct device *d, uint32_t chain) {
    const struct sfi_node *node = head(d, chain);
    if (!node || sfi_record_hangs_at(r->rec, node) || d->talking[chain] != NOT_YET ||
        !sfi_moment_before(node->before, d->done, d->g->chains_n)) {
        return false;
    }
    return node->kind != SFI_NODE_TALK || (d->talks[d->talks_started] == node && !held_up(d, node));
}

static void complete(struct runner *r, struct device *d, uint32_t chain) {
    r->rec->ticks += SFI_RECORD_NODE_NS;
    d->talking[chain] = NOT_YET;
    d->done[chain]++;
}

static void start_talk(struct runner *r, struct device *d, struct sfi_node *node) {
    d->talks_started++;
    d->talking[node->chain] = STARTED;
    for (uint32_t i = 0; i < node->u.talk.n; i++) {
        struct sfi_transfer *t = &r->transfers.transfers[node->u.talk.talks[i].transfer];
        if (++t->started == t->n) {
            t->over = true;
            if (r->move && r->rec->options.execute) {
                sfi_record_transfer(t);
            }
        }
    }
}

static bool talk_is_over(const struct runner *r, const struct sfi_node *node) {
    for (uint32_t i = 0; i < node->u.talk.n; i++) {
        if (!r->transfers.transfers[node->u.talk.talks[i].transfer].over) {
            return false;
        }
    }
    return true;
}

static bool end_talks(struct runner *r) {
    bool any = false;
    for (size_t i = 0; i < r->devices_n; i++) {
        struct device *d = &r->devices[i];
        for (uint32_t c = 0; c < d->g->chains_n; c++) {
            if (d->talking[c] == STARTED && talk_is_over(r, head(d, c))) {
                complete(r, d, c);
                any = true;
            }
        }
    }
    return any;
}

/* One of the nodes that may start, drawn with equal chances; NULL when there is none. */
static struct sfi_node *draw(struct runner *r, struct device **device) {
    struct sfi_node *drawn = NULL;
    uint64_t seen = 0;
    for (size_t i = 0; i < r->devices_n; i++) {
        for (uint32_t c = 0; c < r->devices[i].g->chains_n; c++) {
            if (startable(r, &r->devices[i], c) && sf_rng_u64(&r->rng) % ++seen == 0) {
                drawn = head(&r->devices[i], c);
                *device = &r->devices[i];
            }
        }
    }
    return drawn;
}

static bool all_over(const struct runner *r) {
    for (size_t i = 0; i < r->devices_n; i++) {
        for (uint32_t c = 0; c < r->devices[i].g->chains_n; c++) {
            if (head(&r->devices[i], c)) {
                return false;
            }
        }
    }
    return true;
}

static int fail_stuck(const struct runner *r, struct sf_err *err) {
    for (size_t i = 0; i < r->devices_n; i++) {
        const struct device *d = &r->devices[i];
        const struct sfi_node *next = d->talks_started < d->talks_n ? d->talks[d->talks_started] : NULL;
        for (uint32_t c = 0; c < d->g->chains_n; c++) {
            if (d->talking[c] == STARTED) {
                const struct sfi_node *node = head(d, c);
                return sfi_record_violation(r->rec, err,
                                            "deadlock: rank %u op %d waits on communicator \"%s\" for ever; the next "
                                            "communication of its device is op %d",
                                            node->u.talk.talks[0].comm->rank, (int)node->op,
                                            node->u.talk.talks[0].comm->name, next ? (int)next->op : -1);
            }
        }
    }
    return sfi_record_violation(r->rec, err, "deadlock: nothing can start and nothing is under way");
}

static int run_all(struct runner *r, struct sf_err *err) {
    while (!all_over(r)) {
        struct device *d = NULL;
        struct sfi_node *node = draw(r, &d);
        if (!node) {
            if (!end_talks(r)) {
                r->rec->hangs = r->rec->fault.kind == SFI_RECORD_STALL && r->move;
                return r->rec->hangs ? SF_OK : fail_stuck(r, err);
            }
            continue;
        }
        if (node->kind == SFI_NODE_TALK) {
            start_talk(r, d, node);
            end_talks(r);
            continue;
        }
        int rc = r->move ? sfi_node_execute(r->rec, node, err) : SF_OK;
        if (rc != SF_OK) {
            return sf_err_wrap(err, "recording device: rank %u op %d", node->rank, (int)node->op);
        }
        complete(r, d, node->chain);
    }
    return SF_OK;
}

bool sfi_record_runs(const struct sfi_record *rec) {
    for (size_t i = 0; i < rec->graphs_n; i++) {
        if (rec->graphs[i]->launched) {
            return true;
        }
    }
    return false;
}

/* `waited` of a run whose graphs are gone concerns nobody. */
int sfi_record_begin_launch(struct sfi_record *rec, struct sfi_graph *graph, struct sf_err *err) {
    if (rec->waited && sfi_record_runs(rec)) {
        return sfi_record_violation(rec, err, "%s between two steps", rec->waited);
    }
    rec->waited = NULL;
    graph->launched = true;
    return SF_OK;
}

int sfi_record_run(struct sfi_record *rec, struct sfi_graph *const graphs[], size_t n, bool move, struct sf_err *err) {
    const struct sf_rng root = sf_rng_seed(rec->options.seed);
    struct runner r = {.rec = rec, .arena = sf_arena_create(), .devices_n = n, .move = move};
    r.rng = sf_rng_split(&root, rec->ticks);
    r.devices = r.arena ? sf_arena_alloc(r.arena, n, sizeof *r.devices) : NULL;
    int rc = r.devices ? SF_OK : sf_fail_memory(err, "executing graphs");
    for (size_t i = 0; i < n && rc == SF_OK; i++) {
        rc = index_graph(&r, &r.devices[i], graphs[i], err);
    }
    if (rc == SF_OK) {
        rc = sfi_record_match(rec, graphs, n, &r.transfers, err);
    }
    if (rc == SF_OK) {
        rc = run_all(&r, err);
        rec->steps += move;
    }
    sf_arena_free(r.transfers.arena);
    sf_arena_free(r.arena);
    return rc;
}
