/* Communicators of the recording device: how worlds meet, what becomes of each communicator, and failures that a test
 * orders. */
#include <stdio.h>
#include <string.h>

#include "runtime/record_graph.h"

/* ---- meeting ---------------------------------------------------------------------------------------------------- */

/* No two are alike. */
static int record_comm_id(void *self, unsigned char id[SFI_NCCL_ID_BYTES], struct sf_err *err) {
    struct sfi_record *rec = self;
    (void)err;
    memset(id, 0, SFI_NCCL_ID_BYTES);
    rec->ids_made++;
    memcpy(id, &rec->ids_made, sizeof rec->ids_made);
    return SF_OK;
}

/* As many as the rule of gpu.h says, each made here, each another one. */
static int check_ids(const struct sfi_record *rec, const unsigned char (*ids)[SFI_NCCL_ID_BYTES], uint32_t ids_n,
                     uint32_t ranks, struct sf_err *err) {
    if (ids_n != sfi_gpu_roots(ranks)) {
        return sfi_record_violation(rec, err, "%u ranks meet at %u roots, expected %u", ranks, ids_n,
                                    sfi_gpu_roots(ranks));
    }
    for (uint32_t i = 0; i < ids_n; i++) {
        uint32_t number;
        memcpy(&number, ids[i], sizeof number);
        if (number == 0 || number > rec->ids_made) {
            return sfi_record_violation(rec, err, "root %u: nobody made this id", i);
        }
        for (uint32_t k = 0; k < i; k++) {
            if (memcmp(ids[i], ids[k], SFI_NCCL_ID_BYTES) == 0) {
                return sfi_record_violation(rec, err, "roots %u and %u have one id", k, i);
            }
        }
    }
    return SF_OK;
}

/* Every rank is told the same ids; those of the rank that came first are kept, until its world has ended. */
static int meet(struct sfi_record *rec, const unsigned char (*ids)[SFI_NCCL_ID_BYTES], uint32_t ids_n, uint32_t ranks,
                uint32_t rank, struct sf_err *err) {
    size_t bytes = ids_n * (size_t)SFI_NCCL_ID_BYTES;
    SF_TRY(check_ids(rec, ids, ids_n, ranks, err));
    if (rec->comms_live == 0) {
        sf_free(rec->ids);
        rec->ids = sf_calloc(bytes, 1);
        if (!rec->ids) {
            return sf_fail_memory(err, "ids");
        }
        memcpy(rec->ids, ids, bytes);
        rec->world = ranks;
    }
    if (rec->world != ranks || memcmp(rec->ids, ids, bytes) != 0) {
        return sfi_record_violation(rec, err, "rank %u of %u meets elsewhere than those before it, of %u", rank, ranks,
                                    rec->world);
    }
    return SF_OK;
}

static int new_comm(struct sfi_record *rec, struct sfi_record_comm init, const char *name, void **out,
                    struct sf_err *err) {
    SF_TRY(sfi_record_forbid_in_run(rec, "a communicator is made", err));
    SF_TRY(sfi_record_grow((void **)&rec->comms, rec->comms_n, sizeof(struct sfi_record_comm *), err));
    struct sfi_record_comm *c = sf_calloc(1, sizeof *c);
    if (!c) {
        return sf_fail_memory(err, "a communicator of the recording device");
    }
    *c = init;
    c->rec = rec;
    c->picks = rec->picks;
    snprintf(c->name, sizeof c->name, "%s", name);
    rec->comms[rec->comms_n++] = c;
    rec->comms_live++;
    *out = c;
    return SF_OK;
}

static int record_comm_picks(void *self, const struct sf_coll_picks *picks, struct sf_err *err) {
    struct sfi_record *rec = self;
    rec->picks = *picks;
    return sfi_record_forbid_in_run(rec, "the algorithms of a communicator are told", err);
}

static int record_comm_world(void *self, const unsigned char (*ids)[SFI_NCCL_ID_BYTES], uint32_t ids_n, uint32_t ranks,
                             uint32_t rank, void **out, struct sf_err *err) {
    struct sfi_record *rec = self;
    if (ranks > sizeof rec->splits / sizeof *rec->splits || rank >= ranks) {
        return sfi_record_violation(rec, err, "rank %u of %u ranks", rank, ranks);
    }
    SF_TRY(meet(rec, ids, ids_n, ranks, rank, err));
    return new_comm(rec, (struct sfi_record_comm){.key = rank, .rank = rank}, "world", out, err);
}

/* Two members on different algorithms wait for each other for ever. */
static int check_picks(const struct sfi_record *rec, const struct sfi_record_comm *c, struct sf_err *err) {
    for (size_t i = 0; i < rec->comms_n; i++) {
        const struct sfi_record_comm *other = rec->comms[i];
        bool same = !other->ended && other->split == c->split && other->color == c->color;
        if (same && memcmp(&other->picks, &c->picks, sizeof c->picks) != 0) {
            return sfi_record_violation(rec, err,
                                        "ranks %u and %u were told different algorithms for communicator \"%s\"",
                                        other->rank, c->rank, c->name);
        }
    }
    return SF_OK;
}

static int record_comm_split(void *self, void *comm, uint32_t color, uint32_t key, const char *name, void **out,
                             struct sf_err *err) {
    struct sfi_record *rec = self;
    const struct sfi_record_comm *parent = comm;
    SF_TRY(new_comm(rec,
                    (struct sfi_record_comm){
                        .split = ++rec->splits[parent->rank], .color = color, .key = key, .rank = parent->rank},
                    name, out, err));
    return check_picks(rec, *out, err);
}

static int record_comm_register(void *self, void *comm, void *base, uint64_t bytes, void **handle, struct sf_err *err) {
    const struct sfi_record_comm *c = comm;
    *handle = base;
    SF_TRY(sfi_record_forbid_in_run(self, "memory is registered", err));
    return sfi_record_inside(self, base, bytes, c->rank)
               ? SF_OK
               : sfi_record_violation(self, err, "memory is registered that the rank does not have");
}

/* ---- ends ------------------------------------------------------------------------------------------------------- */

/* What ends a communicator returns nothing, so the first violation waits for sfi_record_check_ends. */
static void end_comm(struct sfi_record_comm *c, bool aborted) {
    struct sfi_record *rec = c->rec;
    if (c->ended && rec->ending.code == SF_OK) {
        sfi_record_violation(rec, &rec->ending, "rank %u: communicator \"%s\" is %s, but was %s before", c->rank,
                             c->name, aborted ? "aborted" : "destroyed", c->aborted ? "aborted" : "destroyed");
    }
    rec->comms_live -= !c->ended;
    c->ended = true;
    c->aborted |= aborted;
}

static void record_comm_deregister(void *self, void *comm, void *handle) {
    const struct sfi_record_comm *c = comm;
    struct sfi_record *rec = self;
    (void)handle;
    if (c->ended && rec->ending.code == SF_OK) {
        sfi_record_violation(rec, &rec->ending, "rank %u: memory leaves communicator \"%s\", which is no more", c->rank,
                             c->name);
    }
}

static void record_comm_abort(void *self, void *comm) {
    (void)self;
    end_comm(comm, true);
}

static void record_comm_destroy(void *self, void *comm) {
    (void)self;
    end_comm(comm, false);
}

static void record_watch(void *self, const struct sfi_watch *watch) {
    (void)self;
    (void)watch;
}

int sfi_record_check_ends(const struct sfi_record *rec, bool aborted, struct sf_err *err) {
    if (rec->ending.code != SF_OK) {
        *err = rec->ending;
        return err->code;
    }
    for (size_t i = 0; i < rec->comms_n; i++) {
        const struct sfi_record_comm *c = rec->comms[i];
        if (!c->ended || c->aborted != aborted) {
            return sfi_record_violation(rec, err, "rank %u: communicator \"%s\" was %s, expected %s", c->rank, c->name,
                                        !c->ended    ? "left"
                                        : c->aborted ? "aborted"
                                                     : "destroyed",
                                        aborted ? "aborted" : "destroyed");
        }
    }
    if (rec->memory_n > 0 || rec->streams_n > 0 || rec->graphs_n > 0) {
        return sfi_record_violation(rec, err, "%zu pieces of memory, %zu streams and %zu graphs were left",
                                    rec->memory_n, rec->streams_n, rec->graphs_n);
    }
    return SF_OK;
}

/* ---- ordered failures ------------------------------------------------------------------------------------------- */

void sfi_record_inject(struct sfi_record *rec, const struct sfi_record_fault *fault) {
    rec->fault = *fault;
}

bool sfi_record_is_down(const struct sfi_record *rec) {
    return rec->hangs || (rec->fault.kind == SFI_RECORD_ASYNC_ERROR && rec->steps >= rec->fault.step);
}

bool sfi_record_hangs_at(const struct sfi_record *rec, const struct sfi_node *node) {
    const struct sfi_record_fault *f = &rec->fault;
    return f->kind == SFI_RECORD_STALL && rec->steps == f->step && node->rank == f->rank && node->op == f->op &&
           (node->kind == SFI_NODE_CALL || node->kind == SFI_NODE_TALK);
}

static int record_comm_fault(void *self, void *comm, struct sf_err *err) {
    const struct sfi_record *rec = self;
    const struct sfi_record_comm *c = comm;
    if (rec->fault.kind != SFI_RECORD_ASYNC_ERROR || !sfi_record_is_down(rec) || c->rank != rec->fault.rank ||
        strcmp(c->name, rec->fault.comm) != 0) {
        return SF_OK;
    }
    return sf_fail(err, SF_E_FAULT, "recording device: the link that a test has cut");
}

void sfi_record_fill_comms(struct sfi_gpu_api *api) {
    api->watch = record_watch;
    api->comm_picks = record_comm_picks;
    api->comm_id = record_comm_id;
    api->comm_world = record_comm_world;
    api->comm_split = record_comm_split;
    api->comm_register = record_comm_register;
    api->comm_deregister = record_comm_deregister;
    api->comm_fault = record_comm_fault;
    api->comm_abort = record_comm_abort;
    api->comm_destroy = record_comm_destroy;
}

void sfi_record_free_comms(struct sfi_record *rec) {
    while (rec->comms_n > 0) {
        sf_free(rec->comms[--rec->comms_n]);
    }
    sf_free(rec->comms);
    sf_free(rec->ids);
}
