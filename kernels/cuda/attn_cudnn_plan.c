#include "kernels/cuda/attn_cudnn_plan.h"

#include <cudnn.h>
#include <string.h>

#include "core/arena.h"
#include "core/hash.h"

/* Tensors, ops with their descriptions, and a handful around them. */
enum { DESCRIPTORS_MAX = SFI_ATTN_IDS + 2 * SFI_ATTN_OPS_MAX + 96, CONFIGS_MAX = 16, NOTES_MAX = 32 };

enum { PACKS = 256 };

struct pack {
    cudnnBackendDescriptor_t desc;
    void *at[SFI_ATTN_IDS];
    const void *workspace;
};

struct sfi_attn_plan {
    cudnnBackendDescriptor_t parts[DESCRIPTORS_MAX]; /* the plan may refer to them */
    uint32_t parts_n;
    cudnnBackendDescriptor_t plan;
    size_t workspace_bytes;
    struct pack packs[PACKS]; /* by a digest of their addresses */
};

/* Building stops at the first thing that cuDNN refuses: what follows does nothing. */
struct build {
    struct sfi_attn_plan *to;
    cudnnStatus_t status;
    const char *what;
};

static int refused(int code, cudnnStatus_t status, const char *what, struct sf_err *err) {
    char why[256] = "";
    cudnnGetLastErrorString(why, sizeof why);
    return sf_fail(err, code, "cuDNN %zu refuses %s: %s%s%s", cudnnGetVersion(), what, cudnnGetErrorString(status),
                   why[0] ? ": " : "", why);
}

static bool note(struct build *b, cudnnStatus_t status, const char *what) {
    if (b->status == CUDNN_STATUS_SUCCESS && status != CUDNN_STATUS_SUCCESS) {
        b->status = status;
        b->what = what;
    }
    return b->status == CUDNN_STATUS_SUCCESS;
}

static cudnnBackendDescriptor_t make(struct build *b, cudnnBackendDescriptorType_t type, const char *what) {
    cudnnBackendDescriptor_t d = NULL;
    bool ok = b->status == CUDNN_STATUS_SUCCESS && b->to->parts_n < DESCRIPTORS_MAX &&
              note(b, cudnnBackendCreateDescriptor(type, &d), what);
    if (!ok) {
        note(b, CUDNN_STATUS_INTERNAL_ERROR, what);
        return NULL;
    }
    b->to->parts[b->to->parts_n++] = d;
    return d;
}

static void set(struct build *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *value) {
    if (b->status == CUDNN_STATUS_SUCCESS) {
        note(b, cudnnBackendSetAttribute(d, name, type, n, value), "an attribute");
    }
}

static void set_part(struct build *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                     cudnnBackendDescriptor_t part) {
    set(b, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

static void set_type(struct build *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                     cudnnDataType_t type) {
    set(b, d, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

static void finish(struct build *b, cudnnBackendDescriptor_t d, const char *what) {
    if (b->status == CUDNN_STATUS_SUCCESS) {
        note(b, cudnnBackendFinalize(d), what);
    }
}

static cudnnDataType_t type_of(const struct sfi_attn_tensor *t) {
    static const cudnnDataType_t types[] = {
        [SFI_ATTN_F32] = CUDNN_DATA_FLOAT,
        [SFI_ATTN_BF16] = CUDNN_DATA_BFLOAT16,
        [SFI_ATTN_I32] = CUDNN_DATA_INT32,
        [SFI_ATTN_BOOL] = CUDNN_DATA_BOOLEAN,
    };
    return types[t->type];
}

static cudnnBackendDescriptor_t tensor(struct build *b, const struct sfi_attn_tensor *t, int64_t id) {
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR, "a tensor");
    bool is_virtual = t->place == SFI_ATTN_VIRTUAL, is_value = t->place == SFI_ATTN_VALUE;
    int64_t alignment = SFI_ATTN_ALIGN_BYTES, uid = id + 1;
    set(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set_type(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, type_of(t));
    set(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, t->dim);
    set(b, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, t->stride);
    set(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    set(b, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &is_value);
    finish(b, d, "a tensor");
    return d;
}

typedef cudnnBackendDescriptor_t tensor_set[SFI_ATTN_IDS];

static cudnnBackendDescriptor_t matmul(struct build *b, const struct sfi_attn_op *op, const tensor_set at) {
    cudnnBackendDescriptor_t how = make(b, CUDNN_BACKEND_MATMUL_DESCRIPTOR, "a matmul");
    set_type(b, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    finish(b, how, "a matmul");
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "a matmul");
    set_part(b, d, CUDNN_ATTR_OPERATION_MATMUL_ADESC, at[op->a]);
    set_part(b, d, CUDNN_ATTR_OPERATION_MATMUL_BDESC, at[op->b]);
    set_part(b, d, CUDNN_ATTR_OPERATION_MATMUL_CDESC, at[op->out]);
    set_part(b, d, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    finish(b, d, "a matmul");
    return d;
}

static cudnnBackendDescriptor_t reduction(struct build *b, const struct sfi_attn_op *op, const tensor_set at) {
    cudnnReduceTensorOp_t with = op->kind == SFI_ATTN_MAX ? CUDNN_REDUCE_TENSOR_MAX : CUDNN_REDUCE_TENSOR_ADD;
    cudnnBackendDescriptor_t how = make(b, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "a reduction");
    set(b, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &with);
    set_type(b, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    finish(b, how, "a reduction");
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "a reduction");
    set_part(b, d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, at[op->a]);
    set_part(b, d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, at[op->out]);
    set_part(b, d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    finish(b, d, "a reduction");
    return d;
}

static cudnnBackendDescriptor_t reshape(struct build *b, const struct sfi_attn_op *op, const tensor_set at) {
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, "a reshape");
    set_part(b, d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, at[op->a]);
    set_part(b, d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, at[op->out]);
    finish(b, d, "a reshape");
    return d;
}

static cudnnBackendDescriptor_t pointwise(struct build *b, const struct sfi_attn_op *op, const tensor_set at) {
    static const cudnnPointwiseMode_t modes[] = {
        [SFI_ATTN_MUL] = CUDNN_POINTWISE_MUL,       [SFI_ATTN_ADD] = CUDNN_POINTWISE_ADD,
        [SFI_ATTN_SUB] = CUDNN_POINTWISE_SUB,       [SFI_ATTN_DIV] = CUDNN_POINTWISE_DIV,
        [SFI_ATTN_EXP] = CUDNN_POINTWISE_EXP,       [SFI_ATTN_LOG] = CUDNN_POINTWISE_LOG,
        [SFI_ATTN_COPY] = CUDNN_POINTWISE_IDENTITY, [SFI_ATTN_INDEX] = CUDNN_POINTWISE_GEN_INDEX,
        [SFI_ATTN_GE] = CUDNN_POINTWISE_CMP_GE,     [SFI_ATTN_SELECT] = CUDNN_POINTWISE_BINARY_SELECT,
    };
    int64_t axis = op->axis;
    cudnnBackendDescriptor_t how = make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "a pointwise op");
    set(b, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &modes[op->kind]);
    set_type(b, how, CUDNN_ATTR_POINTWISE_MATH_PREC, op->kind == SFI_ATTN_GE ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT);
    if (op->kind == SFI_ATTN_INDEX) {
        set(b, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    }
    finish(b, how, "a pointwise op");
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "a pointwise op");
    set_part(b, d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_part(b, d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at[op->a]);
    if (op->b != SFI_ATTN_NONE) {
        set_part(b, d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, at[op->b]);
    }
    if (op->c != SFI_ATTN_NONE) {
        set_part(b, d, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, at[op->c]);
    }
    set_part(b, d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at[op->out]);
    finish(b, d, "a pointwise op");
    return d;
}

static cudnnBackendDescriptor_t operation(struct build *b, const struct sfi_attn_op *op, const tensor_set at) {
    switch ((enum sfi_attn_op_kind)op->kind) {
    case SFI_ATTN_MATMUL:
        return matmul(b, op, at);
    case SFI_ATTN_MAX:
    case SFI_ATTN_SUM:
        return reduction(b, op, at);
    case SFI_ATTN_RESHAPE:
        return reshape(b, op, at);
    default:
        return pointwise(b, op, at);
    }
}

static cudnnBackendDescriptor_t op_graph(struct build *b, const struct sfi_attn_target *target,
                                         const struct sfi_attn_graph *graph) {
    cudnnBackendDescriptor_t at[SFI_ATTN_IDS] = {0}, ops[SFI_ATTN_OPS_MAX];
    for (int i = 0; i < SFI_ATTN_IDS; i++) {
        if (graph->tensors[i].used) {
            at[i] = tensor(b, &graph->tensors[i], i);
        }
    }
    for (uint32_t i = 0; i < graph->ops_n; i++) {
        ops[i] = operation(b, &graph->ops[i], at);
    }
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "the graph");
    set(b, d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, graph->ops_n, ops);
    if (target->handle) {
        set(b, d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target->handle);
    }
    finish(b, d, "the graph");
    return d;
}

/* Configurations that cuDNN proposes, best first. */
static int64_t propose(struct build *b, const struct sfi_attn_target *target, cudnnBackendDescriptor_t graph,
                       cudnnBackendHeurMode_t mode, cudnnBackendDescriptor_t configs[CONFIGS_MAX]) {
    int64_t n = 0;
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "the choice of an engine");
    set_part(b, d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(b, d, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (target->device) {
        set_part(b, d, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, target->device);
    }
    finish(b, d, "the choice of an engine");
    for (int i = 0; i < CONFIGS_MAX; i++) {
        configs[i] = make(b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "an engine's configuration");
    }
    if (b->status == CUDNN_STATUS_SUCCESS) {
        note(b,
             cudnnBackendGetAttribute(d, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS_MAX, &n,
                                      configs),
             "the choice of an engine");
    }
    return b->status == CUDNN_STATUS_SUCCESS ? n : 0;
}

static bool has_note(cudnnBackendDescriptor_t config, cudnnBackendNumericalNote_t wanted) {
    cudnnBackendNumericalNote_t notes[NOTES_MAX];
    cudnnBackendDescriptor_t engine = NULL;
    int64_t n = 0;
    bool found = false;
    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != CUDNN_STATUS_SUCCESS) {
        return true; /* not known to be free of it */
    }
    if (cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine) !=
            CUDNN_STATUS_SUCCESS ||
        cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, NOTES_MAX, &n,
                                 notes) != CUDNN_STATUS_SUCCESS) {
        n = 0;
        found = true;
    }
    for (int64_t i = 0; i < n && i < NOTES_MAX; i++) {
        found = found || notes[i] == wanted;
    }
    cudnnBackendDestroyDescriptor(engine);
    return found;
}

static cudnnBackendDescriptor_t start_plan(struct build *b, const struct sfi_attn_target *target) {
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "a plan");
    if (target->handle) {
        set(b, d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target->handle);
    } else {
        set_part(b, d, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, target->device);
    }
    return d;
}

/* Take the plan if it works and its workspace fits. */
static void end_plan(struct build *b, cudnnBackendDescriptor_t d, size_t workspace_limit) {
    int64_t bytes = 0, n = 0;
    finish(b, d, "the plan");
    if (b->status == CUDNN_STATUS_SUCCESS) {
        note(b, cudnnBackendGetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, &bytes),
             "the plan's workspace");
    }
    if (b->status == CUDNN_STATUS_SUCCESS && (bytes < 0 || (uint64_t)bytes > workspace_limit)) {
        note(b, CUDNN_STATUS_NOT_SUPPORTED, "the plan's workspace");
    }
    if (b->status == CUDNN_STATUS_SUCCESS) {
        b->to->plan = d;
        b->to->workspace_bytes = (size_t)bytes;
    }
}

/* The first of the mode's configurations that will do; *b says why there is none. */
static bool try_mode(struct build *b, const struct sfi_attn_target *target, cudnnBackendDescriptor_t graph,
                     cudnnBackendHeurMode_t mode, bool deterministic, size_t workspace_limit) {
    cudnnBackendDescriptor_t configs[CONFIGS_MAX];
    *b = (struct build){.to = b->to};
    int64_t n = propose(b, target, graph, mode, configs);
    for (int64_t i = 0; i < n && !b->to->plan; i++) {
        if (deterministic && has_note(configs[i], CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)) {
            continue;
        }
        *b = (struct build){.to = b->to};
        cudnnBackendDescriptor_t d = start_plan(b, target);
        set_part(b, d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configs[i]);
        end_plan(b, d, workspace_limit);
    }
    note(b, b->to->plan ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED, "every engine");
    return b->to->plan != NULL;
}

int sfi_attn_plan_build(const struct sfi_attn_target *target, const struct sfi_attn_graph *graph, bool deterministic,
                        size_t workspace_limit, struct sfi_attn_plan **out, struct sf_err *err) {
    struct build b = {.to = sf_calloc(1, sizeof *b.to)};
    *out = NULL;
    if (!b.to) {
        return sf_fail_memory(err, "attention plan");
    }
    cudnnBackendDescriptor_t g = op_graph(&b, target, graph);
    if (b.status == CUDNN_STATUS_SUCCESS &&
        (try_mode(&b, target, g, CUDNN_HEUR_MODE_A, deterministic, workspace_limit) ||
         try_mode(&b, target, g, CUDNN_HEUR_MODE_FALLBACK, deterministic, workspace_limit))) {
        *out = b.to;
        return 0;
    }
    int rc = refused(SF_E_NOPLAN, b.status, b.what, err);
    sfi_attn_plan_destroy(b.to);
    return rc;
}

void sfi_attn_plan_destroy(struct sfi_attn_plan *plan) {
    for (int i = 0; plan && i < PACKS; i++) {
        if (plan->packs[i].desc) {
            cudnnBackendDestroyDescriptor(plan->packs[i].desc);
        }
    }
    while (plan && plan->parts_n > 0) {
        cudnnBackendDestroyDescriptor(plan->parts[--plan->parts_n]);
    }
    sf_free(plan);
}

size_t sfi_attn_plan_workspace(const struct sfi_attn_plan *plan) {
    return plan->workspace_bytes;
}

int sfi_attn_plan_save(const struct sfi_attn_plan *plan, struct sf_buf *out, struct sf_err *err) {
    int64_t n = 0;
    cudnnStatus_t st = cudnnBackendGetAttribute(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                                                CUDNN_TYPE_CHAR, 0, &n, NULL);
    char *text = st == CUDNN_STATUS_SUCCESS && n > 0 ? sf_malloc((size_t)n) : NULL;
    if (!text) {
        return st == CUDNN_STATUS_SUCCESS ? sf_fail_memory(err, "attention plan")
                                          : refused(SF_E_NOPLAN, st, "a plan's text", err);
    }
    st = cudnnBackendGetAttribute(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, n, &n,
                                  text);
    if (st == CUDNN_STATUS_SUCCESS) {
        sf_buf_write(out, text, (size_t)n);
    }
    sf_free(text);
    return st == CUDNN_STATUS_SUCCESS ? 0 : refused(SF_E_NOPLAN, st, "a plan's text", err);
}

int sfi_attn_plan_load(const struct sfi_attn_target *target, const char *json, size_t bytes, size_t workspace_limit,
                       struct sfi_attn_plan **out, struct sf_err *err) {
    struct build b = {.to = sf_calloc(1, sizeof *b.to)};
    *out = NULL;
    if (!b.to) {
        return sf_fail_memory(err, "attention plan");
    }
    cudnnBackendDescriptor_t d = start_plan(&b, target);
    set(&b, d, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)bytes, json);
    end_plan(&b, d, workspace_limit);
    if (b.to->plan) {
        *out = b.to;
        return 0;
    }
    int rc = refused(SF_E_NOPLAN, b.status, b.what, err);
    sfi_attn_plan_destroy(b.to);
    return rc;
}

int sfi_attn_device_create(const char *json, size_t bytes, void **out, struct sf_err *err) {
    cudnnBackendDescriptor_t d = NULL;
    cudnnStatus_t st = cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &d);
    if (st == CUDNN_STATUS_SUCCESS) {
        st = cudnnBackendSetAttribute(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)bytes,
                                      json);
    }
    st = st == CUDNN_STATUS_SUCCESS ? cudnnBackendFinalize(d) : st;
    *out = d;
    if (st != CUDNN_STATUS_SUCCESS) {
        sfi_attn_device_destroy(d);
        *out = NULL;
        return refused(SF_E_NOPLAN, st, "the device's description", err);
    }
    return 0;
}

void sfi_attn_device_destroy(void *device) {
    if (device) {
        cudnnBackendDestroyDescriptor(device);
    }
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* cuDNN's pack of addresses cannot be changed once it is finished; an op of a program comes back with the same ones. */
static cudnnStatus_t fill_pack(cudnnBackendDescriptor_t d, const struct sfi_attn_graph *graph,
                               void *const at[SFI_ATTN_IDS], void *workspace) {
    int64_t ids[SFI_ATTN_IDS], n = 0;
    const void *where[SFI_ATTN_IDS];
    for (int i = 0; i < SFI_ATTN_IDS; i++) {
        const struct sfi_attn_tensor *t = &graph->tensors[i];
        if (t->used && t->place != SFI_ATTN_VIRTUAL) {
            ids[n] = i + 1;
            where[n++] = t->place == SFI_ATTN_VALUE ? &t->value : at[i];
        }
    }
    cudnnStatus_t st = cudnnBackendSetAttribute(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids);
    if (st == CUDNN_STATUS_SUCCESS) {
        st = cudnnBackendSetAttribute(d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, where);
    }
    if (st == CUDNN_STATUS_SUCCESS) {
        st = cudnnBackendSetAttribute(d, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    }
    return st == CUDNN_STATUS_SUCCESS ? cudnnBackendFinalize(d) : st;
}

static uint64_t addresses(void *const at[SFI_ATTN_IDS], const void *workspace) {
    uint64_t digest = sf_mix64(0, (uintptr_t)workspace);
    for (int i = 0; i < SFI_ATTN_IDS; i++) {
        digest = sf_mix64(digest, (uintptr_t)at[i]);
    }
    return digest;
}

static bool same_addresses(const struct pack *p, void *const at[SFI_ATTN_IDS], const void *workspace) {
    return p->desc && p->workspace == workspace && memcmp(p->at, at, sizeof p->at) == 0;
}

/* The pack of these addresses: the kept one, or a new one in its place. */
static cudnnStatus_t find_pack(struct sfi_attn_plan *plan, const struct sfi_attn_graph *graph,
                               void *const at[SFI_ATTN_IDS], void *workspace, cudnnBackendDescriptor_t *out) {
    struct pack *p = &plan->packs[addresses(at, workspace) % PACKS];
    if (!same_addresses(p, at, workspace)) {
        if (p->desc) {
            cudnnBackendDestroyDescriptor(p->desc);
        }
        *p = (struct pack){.workspace = workspace};
        memcpy(p->at, at, sizeof p->at);
        cudnnStatus_t st = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &p->desc);
        st = st == CUDNN_STATUS_SUCCESS ? fill_pack(p->desc, graph, at, workspace) : st;
        if (st != CUDNN_STATUS_SUCCESS) {
            p->workspace = p; /* matches nobody */
            return st;
        }
    }
    *out = p->desc;
    return CUDNN_STATUS_SUCCESS;
}

int sfi_attn_plan_run(struct sfi_attn_plan *plan, const struct sfi_attn_graph *graph, void *handle,
                      void *const at[SFI_ATTN_IDS], void *workspace, struct sf_err *err) {
    cudnnBackendDescriptor_t pack = NULL;
    cudnnStatus_t st = find_pack(plan, graph, at, workspace, &pack);
    st = st == CUDNN_STATUS_SUCCESS ? cudnnBackendExecute(handle, plan->plan, pack) : st;
    if (st != CUDNN_STATUS_SUCCESS) {
        return refused(SF_E_FAULT, st, "an execution", err);
    }
    return 0;
}
