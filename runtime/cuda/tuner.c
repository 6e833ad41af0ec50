#include "runtime/cuda/tuner.h"

#include <pthread.h>

#include "core/arena.h"

enum { NCCL_SUCCESS = 0, NCCL_SYSTEM_ERROR = 2 }; /* ncclResult_t */

/* Between the thread that makes communicators and those of NCCL. */
static struct {
    pthread_mutex_t lock;
    struct sf_coll_picks next;
    bool taken;
    int op; /* that NCCL has ruled out, on: */
    uint8_t pick;
} told = {.lock = PTHREAD_MUTEX_INITIALIZER};

void sfi_tuner_next(const struct sf_coll_picks *picks) {
    pthread_mutex_lock(&told.lock);
    told.next = *picks;
    told.taken = false;
    pthread_mutex_unlock(&told.lock);
}

int sfi_tuner_check(struct sf_err *err) {
    char text[SF_COLL_PICK_TEXT];
    pthread_mutex_lock(&told.lock);
    bool ignored = !told.taken && sf_coll_picks_any(&told.next);
    int op = told.op;
    uint8_t pick = told.pick;
    told.pick = 0;
    pthread_mutex_unlock(&told.lock);
    if (pick != 0) {
        return sf_fail(err, SF_E_FAULT,
                       "the program runs %s on %s, which NCCL has ruled out on these devices (NCCL_DEBUG=INFO and "
                       "NCCL_DEBUG_SUBSYS=TUNING say why); change collectives in the plan",
                       sf_coll_op_name(op), sf_coll_pick_text(pick, text));
    }
    return ignored ? sf_fail(err, SF_E_FAULT,
                             "the program says what collectives run on, and this NCCL asks for no tuner: it needs one "
                             "that knows ncclTunerPlugin_v4; or leave collectives out of the plan")
                   : SF_OK;
}

/* NCCL calls these, each of one communicator. */

static int start(size_t ranks, size_t nodes, void *log, void **context) {
    struct sf_coll_picks *picks = sf_malloc(sizeof *picks);
    (void)ranks;
    (void)nodes;
    (void)log;
    *context = picks;
    if (!picks) {
        return NCCL_SYSTEM_ERROR;
    }
    pthread_mutex_lock(&told.lock);
    *picks = told.next;
    told.taken = true;
    pthread_mutex_unlock(&told.lock);
    return NCCL_SUCCESS;
}

static int op_of(int func) {
    switch (func) {
    case SFI_NCCL_BROADCAST:
        return SF_COLL_BROADCAST;
    case SFI_NCCL_ALL_GATHER:
        return SF_COLL_ALL_GATHER;
    case SFI_NCCL_REDUCE_SCATTER:
        return SF_COLL_REDUCE_SCATTER;
    case SFI_NCCL_ALL_REDUCE:
        return SF_COLL_ALL_REDUCE;
    default:
        return -1;
    }
}

/* Of a switch's two ways, the one that NCCL has not ruled out. */
static int row_of(int algorithm, const float *table, int protocols, int protocol) {
    static const int rows[] = {
        [SF_COLL_TREE] = SFI_NCCL_TREE, [SF_COLL_RING] = SFI_NCCL_RING,           [SF_COLL_COLLNET] = -1,
        [SF_COLL_NVLS] = SFI_NCCL_NVLS, [SF_COLL_NVLS_TREE] = SFI_NCCL_NVLS_TREE, [SF_COLL_PAT] = SFI_NCCL_PAT};
    if (algorithm == SF_COLL_COLLNET) {
        bool direct = table[SFI_NCCL_COLLNET_DIRECT * protocols + protocol] >= 0;
        return direct ? SFI_NCCL_COLLNET_DIRECT : SFI_NCCL_COLLNET_CHAIN;
    }
    return algorithm >= 0 && algorithm < (int)(sizeof rows / sizeof *rows) ? rows[algorithm] : -1;
}

static void rule_out(int op, uint8_t pick) {
    pthread_mutex_lock(&told.lock);
    told.op = op;
    told.pick = pick;
    pthread_mutex_unlock(&told.lock);
}

/* The wanted one takes no time, so it is the quickest. What NCCL has ruled out stays so, and the runtime is told. */
static int answer(void *context, int func, size_t bytes, int pipe_ops, float **rows, int algorithms, int protocols,
                  int registered, int *channels) {
    const struct sf_coll_picks *picks = context;
    float *table = (float *)(void *)rows; /* declared as pointers to rows, passed as rows */
    int op = op_of(func);
    uint8_t pick = op >= 0 ? picks->of[op] : 0;
    (void)bytes;
    (void)pipe_ops;
    (void)registered;
    (void)channels;
    if (pick == 0) {
        return NCCL_SUCCESS;
    }
    int protocol = sf_coll_pick_protocol(pick);
    bool known = algorithms > SFI_NCCL_PAT && protocols == SF_COLL_PROTOCOLS_N;
    int row = known ? row_of(sf_coll_pick_algorithm(pick), table, protocols, protocol) : -1;
    if (row < 0 || table[row * protocols + protocol] < 0) {
        rule_out(op, pick);
    } else {
        table[row * protocols + protocol] = 0;
    }
    return NCCL_SUCCESS;
}

static int end(void *context) {
    sf_free(context);
    return NCCL_SUCCESS;
}

__attribute__((visibility("default")))
const struct sfi_nccl_tuner ncclTunerPlugin_v4 = {"staticfire", start, answer, end};
