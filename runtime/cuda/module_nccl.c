/* Communicators over NCCL. They do not block: every call is followed until NCCL says that it is done, so a partner that
 * never comes is an error after a while and not a process that hangs. */
#include <dlfcn.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/prog.h"
#include "runtime/clock.h"
#include "runtime/cuda/module.h"
#include "runtime/cuda/tuner.h"

#define LOOK_EVERY_NS 100000000
#define SETUP_NS (300 * INT64_C(1000000000)) /* thousands of ranks may come minutes apart */

static int fail(struct sf_err *err, ncclResult_t rc, ncclComm_t comm, const char *what) {
    const char *detail = ncclGetLastError(comm);
    return sf_fail(err, SF_E_FAULT, "NCCL: %s: %s%s%.300s", what, ncclGetErrorString(rc), detail && *detail ? ": " : "",
                   detail ? detail : "");
}

static int look(const struct sfi_module *m, struct sf_err *err) {
    return m->watch ? m->watch->look(m->watch->self, err) : SF_OK;
}

/* Until what was asked of the communicator is done, or another rank has said why it never will be. */
static int follow(const struct sfi_module *m, ncclResult_t rc, ncclComm_t comm, const char *what, struct sf_err *err) {
    int64_t begin = sfi_now_ns(), looked = begin;
    while (rc == ncclInProgress && comm) {
        ncclResult_t asked = ncclCommGetAsyncError(comm, &rc);
        int64_t now = sfi_now_ns();
        rc = asked != ncclSuccess ? asked : rc;
        if (rc == ncclInProgress && now - begin > SETUP_NS) {
            return sf_fail(err, SF_E_FAULT, "NCCL: %s: not all ranks came within %d s", what,
                           (int)(SETUP_NS / 1000000000));
        }
        if (now - looked > LOOK_EVERY_NS) {
            SF_TRY(look(m, err));
            looked = now;
        }
    }
    if (rc == ncclSuccess) {
        return SF_OK;
    }
    SF_TRY(look(m, err)); /* the cause, where this is a consequence */
    return fail(err, rc, comm, what);
}

/* NCCL opens its tuner by the name of a file, once for a process, and finds this module open already. */
static int nccl_comm_picks(void *self, const struct sf_coll_picks *picks, struct sf_err *err) {
    Dl_info module;
    (void)self;
    if (dladdr(&ncclTunerPlugin_v4, &module) == 0) {
        return sf_fail(err, SF_E_INTERNAL, "the module does not find itself");
    }
    const char *before = getenv("NCCL_TUNER_PLUGIN");
    if (before && strcmp(before, module.dli_fname) != 0) {
        return sf_fail(err, SF_E_USAGE,
                       "the program says what collectives run on, and NCCL_TUNER_PLUGIN names another tuner, %.300s: "
                       "unset it, or leave collectives out of the plan",
                       before);
    }
    setenv("NCCL_TUNER_PLUGIN", module.dli_fname, 1);
    sfi_tuner_next(picks);
    return SF_OK;
}

static int nccl_comm_id(void *self, unsigned char id[SFI_NCCL_ID_BYTES], struct sf_err *err) {
    ncclUniqueId unique;
    _Static_assert(sizeof unique == SFI_NCCL_ID_BYTES, "ids travel between ranks as they are");
    SF_TRY(follow(self, ncclGetUniqueId(&unique), NULL, "an id for all ranks", err));
    memcpy(id, &unique, sizeof unique);
    return SF_OK;
}

static int nccl_comm_world(void *self, const unsigned char (*ids)[SFI_NCCL_ID_BYTES], uint32_t ids_n, uint32_t ranks,
                           uint32_t rank, void **out, struct sf_err *err) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId *unique = sf_calloc(ids_n, sizeof *unique);
    ncclComm_t comm = NULL;
    if (!unique) {
        return sf_fail_memory(err, "ids");
    }
    memcpy(unique, ids, ids_n * sizeof *unique);
    config.blocking = 0;
    config.commName = "world";
    ncclResult_t rc = ncclCommInitRankScalable(&comm, (int)ranks, (int)rank, (int)ids_n, unique, &config);
    int met = follow(self, rc, comm, "meeting of all ranks", err);
    sf_free(unique);
    if (met != SF_OK && comm) {
        ncclCommAbort(comm);
    }
    *out = met == SF_OK ? comm : NULL;
    return met;
}

/* The new one is there when its parent is done. NCCL's own thread writes the handle, maybe after a failure was heard
 * of: so straight to where the caller keeps it. */
static int nccl_comm_split(void *self, void *parent, uint32_t color, uint32_t key, const char *name, void **out,
                           struct sf_err *err) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.commName = name;
    ncclResult_t rc = ncclCommSplit(parent, (int)color, (int)key, (ncclComm_t *)out, &config);
    SF_TRY(follow(self, rc, parent, "splitting a communicator", err));
    SF_TRY(follow(self, ncclInProgress, *out, "a communicator", err));
    return sfi_tuner_check(err);
}

static int nccl_comm_register(void *self, void *comm, void *base, uint64_t bytes, void **handle, struct sf_err *err) {
    return follow(self, ncclCommRegister(comm, base, bytes, handle), comm, "registering the arena", err);
}

static void nccl_comm_deregister(void *self, void *comm, void *handle) {
    (void)self;
    ncclCommDeregister(comm, handle);
}

static int nccl_comm_fault(void *self, void *comm, struct sf_err *err) {
    ncclResult_t state = ncclSuccess;
    (void)self;
    ncclResult_t rc = ncclCommGetAsyncError(comm, &state);
    rc = rc == ncclSuccess ? state : rc;
    return rc == ncclSuccess || rc == ncclInProgress ? SF_OK : fail(err, rc, comm, "a rank or a link failed");
}

/* Revoked first, so that what is in flight on this member ends; the others find out by themselves. */
static void nccl_comm_abort(void *self, void *comm) {
    (void)self;
    ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT);
    ncclCommAbort(comm);
}

static void nccl_comm_destroy(void *self, void *comm) {
    if (follow(self, ncclCommFinalize(comm), comm, "finishing", NULL) == SF_OK) {
        ncclCommDestroy(comm);
    } else {
        ncclCommAbort(comm);
    }
}

static void nccl_watch(void *self, const struct sfi_watch *watch) {
    ((struct sfi_module *)self)->watch = watch;
}

/* ---- messages --------------------------------------------------------------------------------------------------- */

static int nccl_group_begin(void *self, struct sf_err *err) {
    struct sfi_module *m = self;
    m->group_n = 0;
    m->group_depth = 1;
    return follow(m, ncclGroupStart(), NULL, "a group", err);
}

static int nccl_group_end(void *self, struct sf_err *err) {
    struct sfi_module *m = self;
    m->group_depth = 0;
    ncclResult_t rc = ncclGroupEnd();
    if (rc != ncclSuccess && rc != ncclInProgress) {
        return fail(err, rc, m->group_n > 0 ? m->group[0] : NULL, "a group of transfers");
    }
    for (uint32_t i = 0; i < m->group_n; i++) {
        SF_TRY(follow(m, ncclInProgress, m->group[i], "a group of transfers", err));
    }
    return SF_OK;
}

static int nccl_group_estimate(void *self, double *seconds, struct sf_err *err) {
    struct sfi_module *m = self;
    ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
    m->group_depth = 0;
    ncclResult_t rc = ncclGroupSimulateEnd(&info);
    *seconds = info.estimatedTime < 0.0f ? -1.0 : (double)info.estimatedTime * 1e-6;
    return rc == ncclSuccess || rc == ncclInProgress ? SF_OK : fail(err, rc, NULL, "an estimate");
}

static ncclResult_t call(const struct sfi_gpu_message *x, ncclComm_t comm, cudaStream_t stream) {
    ncclDataType_t type = x->dtype == SF_F32 ? ncclFloat32 : ncclBfloat16;
    size_t element = x->dtype == SF_F32 ? 4 : 2;
    int members = 0;
    ncclResult_t rc = ncclCommCount(comm, &members);
    if (rc != ncclSuccess) {
        return rc;
    }
    size_t count = x->bytes / element, share = count / (size_t)members;
    switch (x->kind) {
    case SF_OP_SEND:
        return ncclSend(x->x, x->bytes, ncclUint8, (int)x->peer, comm, stream);
    case SF_OP_RECV:
        return ncclRecv(x->x, x->bytes, ncclUint8, (int)x->peer, comm, stream);
    case SF_OP_ALL_REDUCE:
        return ncclAllReduce(x->x, x->y, count, type, ncclSum, comm, stream);
    case SF_OP_REDUCE_SCATTER:
        return ncclReduceScatter(x->x, x->y, share, type, ncclSum, comm, stream);
    default:
        return ncclAllGather(x->x, x->y, x->bytes / (size_t)members, ncclUint8, comm, stream);
    }
}

static int nccl_message(void *self, void *comm, const struct sfi_gpu_message *x, void *stream, struct sf_err *err) {
    struct sfi_module *m = self;
    ncclResult_t rc = call(x, comm, ((struct sfi_module_stream *)stream)->stream);
    if (m->group_depth == 0) {
        SF_TRY(follow(m, rc, comm, sf_op_name(x->kind), err));
        return sfi_tuner_check(err);
    }
    if (rc != ncclSuccess && rc != ncclInProgress) {
        return fail(err, rc, comm, sf_op_name(x->kind));
    }
    if (m->group_n == SFI_MODULE_GROUP) {
        return sf_fail(err, SF_E_INPUT, "more than %d transfers in a group", SFI_MODULE_GROUP);
    }
    m->group[m->group_n++] = comm;
    return SF_OK;
}

void sfi_module_nccl_version(int *version) {
    ncclGetVersion(version);
}

/* Called before NCCL reads its environment.
 *
 * A graph gives no order to transfers of different communicators that nothing else orders: two ranks could start them
 * the other way round and, with the device's multiprocessors full of the one, wait for each other for ever. Edges of
 * the program's own do not exclude that. NCCL adds them when told to: in a capture each transfer then starts after the
 * start (not the end) of the one captured before it, which is what the recording device assumes and proves free of
 * deadlock. Before drivers for CUDA 12.9 NCCL would let it wait for the end; this module's runtime needs newer ones
 * anyway. */
void sfi_module_nccl_fill(struct sfi_gpu_api *api) {
    setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
    api->watch = nccl_watch;
    api->comm_picks = nccl_comm_picks;
    api->comm_id = nccl_comm_id;
    api->comm_world = nccl_comm_world;
    api->comm_split = nccl_comm_split;
    api->comm_register = nccl_comm_register;
    api->comm_deregister = nccl_comm_deregister;
    api->comm_fault = nccl_comm_fault;
    api->comm_abort = nccl_comm_abort;
    api->comm_destroy = nccl_comm_destroy;
    api->group_begin = nccl_group_begin;
    api->group_end = nccl_group_end;
    api->message = nccl_message;
    api->group_estimate = nccl_group_estimate;
}
