/* Pricing one kernel call: the measured table first, then the fitted kernel model, then the roofline. */
#include "sim/calib_internal.h"
#include "sim/cost_internal.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <gsl/gsl_cdf.h>

static bool is_attention(const struct sf_call *call) {
    return sf_call_is_attention(call->kind);
}

/* Which peak the arithmetic of a call runs at: attention never below bf16, cheap kernels on the vector units. Peaks
 * that a device does not have are taken from f32. */
static int peak_of(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    if (!is_attention(call) && call->kind != SF_CALL_GEMM) {
        *grade = d->grade;
        return SF_F32;
    }
    int dtype = is_attention(call) && call->dtype >= SF_FP8 ? SF_BF16 : call->dtype;
    if (d->flops_per_s[dtype] <= 0.0) {
        *grade = SF_GRADE_EXTRAPOLATED;
        return SF_F32;
    }
    *grade = is_attention(call) ? d->attn_grade : d->gemm_grade[dtype];
    return dtype;
}

static double arithmetic_s(const struct sf_device_class *d, const struct sf_call *call, double flops, int dtype) {
    double efficiency = d->gemm_efficiency[dtype];
    if (is_attention(call)) {
        efficiency = sf_call_is_attention_fwd(call->kind) ? d->attn_fwd_efficiency : d->attn_bwd_efficiency;
    }
    double rate = d->flops_per_s[dtype] * efficiency;
    return rate > 0.0 ? flops / rate : 0.0;
}

static sf_time_ps roofline(const struct sf_device_class *d, const struct sf_call *call, enum sf_grade *grade) {
    struct sf_work w = sf_call_work(call);
    int dtype = peak_of(d, call, grade);
    double busy = arithmetic_s(d, call, w.flops, dtype);
    double rate = (double)d->memory_bytes_per_s * d->memory_efficiency;
    double traffic = rate > 0.0 ? w.bytes / rate : 0.0;
    sf_time_ps t = sf_s_to_ps(fmax(busy, traffic));
    return t > d->launch_ps ? t : d->launch_ps;
}

/* How often the framework moves what one fused kernel would move once. The optimizer is one kernel everywhere. */
static double passes_of(const struct sf_framework *f, int kind) {
    double passes = f->pointwise;
    switch (kind) {
    case SF_CALL_ADAMW:
        return 1.0;
    case SF_CALL_XENT:
    case SF_CALL_XENT_PADDED:
        passes = f->loss;
        break;
    case SF_CALL_XENT_STATS:
    case SF_CALL_XENT_PART: /* both together move the logits three times, one whole does twice: the factor is for that
                             */
        passes = (f->loss_parallel > 0.0 ? f->loss_parallel : f->loss) * 2.0 / 3.0;
        break;
    case SF_CALL_RMSNORM_ADD_FWD:
    case SF_CALL_LAYERNORM_ADD_FWD: /* they add first and normalise then: five movements for our four */
        passes = f->pointwise * 5.0 / 4.0;
        break;
    case SF_CALL_MOE_ROUTE_FWD:
    case SF_CALL_MOE_ROUTE_BWD:
    case SF_CALL_MOE_PERMUTE:
    case SF_CALL_MOE_UNPERMUTE:
        passes = f->moe > 0.0 ? f->moe : f->pointwise;
        break;
    default:
        break;
    }
    return passes > 0.0 ? passes : 1.0;
}

/* Kernels that only stream: launch + bytes / (memory_share * peak). */
static double stream_s(const struct sf_cost *c, const struct sf_call *call, enum sf_grade *grade) {
    const struct sf_kernel_model *k = &c->device->kernels;
    double bytes = passes_of(&c->framework, call->kind) * sf_call_work(call).bytes;
    *grade = k->memory_grade;
    return sf_ps_to_s(k->memory_launch_ps) + bytes / ((double)c->device->memory_bytes_per_s * k->memory_share);
}

static double share_of(const struct sf_framework *f, int dtype) {
    double share = dtype >= SF_FP8 && f->gemm_share_fp8 > 0.0 ? f->gemm_share_fp8 : f->gemm_share;
    return share > 0.0 ? share : 1.0;
}

static double product_s(const struct sf_cost *c, const struct sf_call *call, enum sf_grade *grade) {
    double share = share_of(&c->framework, call->dtype);
    const struct sfi_gemm g = {.dtype = call->dtype,
                               .m = (double)call->dims[0] * sfi_call_fill(call),
                               .n = (double)call->dims[1],
                               .k = (double)call->dims[2],
                               .groups = (double)call->dims[3],
                               .bytes = sf_call_work(call).bytes};
    return sfi_gemm_s(c->device, &g, grade) / share;
}

static double attention_s(const struct sf_cost *c, const struct sf_call *call, enum sf_grade *grade) {
    const struct sf_framework *f = &c->framework;
    if (f->unfused_attention) {
        return sfi_attention_unfused_s(c->device, call, grade);
    }
    return sfi_attention_s(c->device, call, grade) / (f->attention_share > 0.0 ? f->attention_share : 1.0);
}

/* What else runs on the device around a call: too small to move much, so each takes what a kernel takes to start. The
 * optimizer is one kernel everywhere. */
static double beside_s(const struct sf_cost *c, const struct sf_call *call) {
    return call->kind == SF_CALL_ADAMW ? 0.0 : c->framework.kernels * sf_ps_to_s(c->device->kernels.memory_launch_ps);
}

/* False where the device has no fitted model for the call. */
static bool fitted(const struct sf_cost *c, const struct sf_call *call, sf_time_ps *t, enum sf_grade *grade) {
    const struct sf_kernel_model *k = &c->device->kernels;
    bool needs_cores = is_attention(call) || call->kind == SF_CALL_GEMM;
    if (k->cores == 0 || (needs_cores && (call->dtype == SF_F32 || k->gemm[SF_BF16].peak_share <= 0.0))) {
        return false;
    }
    if (call->kind == SF_CALL_GEMM) {
        if (sfi_gemm_model(c->device, call->dtype)->peak_share <= 0.0) {
            return false;
        }
        *t = sf_s_to_ps(product_s(c, call, grade));
    } else if (is_attention(call)) {
        *t = sf_s_to_ps(attention_s(c, call, grade));
    } else {
        *t = sf_s_to_ps(stream_s(c, call, grade));
    }
    *t = sf_s_to_ps((sf_ps_to_s(*t) + beside_s(c, call)) * fmax(c->slowest, 1.0));
    return true;
}

/* False where no calibration has a model for the call. */
static bool modelled(const struct sf_cost *c, const struct sf_call *call, sf_time_ps *t) {
    const struct sfi_calib_model *m = sfi_model_find(c, call);
    if (m) {
        *t = sf_s_to_ps(sfi_model_s(c, m, call));
    }
    return m != NULL;
}

static sf_time_ps call_of_kind(const struct sf_cost *c, const struct sf_call *call, enum sf_grade *grade) {
    const struct sfi_kernel *k = sfi_kernel_find(c, call);
    enum sf_grade rests_on = SF_GRADE_CALIBRATED;
    sf_time_ps t;
    if (k) {
        double fill = sfi_call_fill(call);
        t = fill < 1.0 ? sf_s_to_ps(sf_ps_to_s(k->time) * fill) : k->time;
    } else if (modelled(c, call, &t)) {
        rests_on = SF_GRADE_EXTRAPOLATED;
    } else if (!fitted(c, call, &t, &rests_on)) {
        t = roofline(c->device, call, &rests_on);
    }
    *grade = rests_on;
    return t;
}

sf_time_ps sf_cost_call(const struct sf_cost *c, const struct sf_call *call, enum sf_grade *grade) {
    enum sf_grade rests_on;
    sf_time_ps most = call_of_kind(c->kinds_n > 0 ? c->kind[0] : c, call, &rests_on);
    for (uint32_t i = 1; i < c->kinds_n; i++) {
        enum sf_grade own;
        sf_time_ps t = call_of_kind(c->kind[i], call, &own);
        rests_on = t > most ? own : rests_on;
        most = t > most ? t : most;
    }
    if (grade) {
        *grade = rests_on;
    }
    return most;
}

static int load_kernels(struct sf_cost *c, const struct sf_io *io, const char *path, struct sf_err *err) {
    struct sf_doc *doc = NULL;
    char *text = NULL;
    size_t bytes = 0;
    int rc;
    SF_TRY_GOTO(rc, io->read_all(io->self, path, SF_DOC_MAX_BYTES, &text, &bytes, err), out);
    c->hash = sf_hash_bytes(text, bytes);
    SF_TRY_GOTO(rc, sf_doc_parse(text, bytes, path, &doc, err), out);
    SF_TRY_GOTO(rc, sfi_cost_load(c, sf_doc_root(doc), err), out);
out:
    sf_doc_free(doc);
    sf_free(text);
    return rc;
}

uint32_t sf_kinds_of(const struct sf_topo *topo, uint8_t kind_of_stock[SF_KINDS_MAX]) {
    uint32_t stocks = sf_topo_stocks(topo), n = 0;
    assert(stocks <= SF_KINDS_MAX);
    for (uint32_t i = 0; i < stocks; i++) {
        struct sf_stock s;
        sf_topo_stock(topo, i, &s);
        kind_of_stock[i] = s.alike == i ? (uint8_t)n++ : kind_of_stock[s.alike];
    }
    return n;
}

static int create_kind(const struct sf_topo *topo, uint32_t stock, const struct sf_io *io, const char *kernels_path,
                       struct sf_cost **out, struct sf_err *err) {
    struct sf_cost *c = sf_calloc(1, sizeof *c);
    *out = c;
    if (!c) {
        return sf_fail_memory(err, "cost model");
    }
    c->topo = topo;
    sf_topo_stock(topo, stock, &c->stock);
    c->device = c->stock.device;
    c->dispatch_ps = c->device->launch_ps;
    SF_TRY(sfi_cost_tiers(c, err));
    SF_TRY(sfi_coll_create_of(topo, &c->stock, io, &c->coll, err));
    SF_TRY(kernels_path ? load_kernels(c, io, kernels_path, err) : SF_OK);
    if (c->coll && c->collectives_measured && sf_coll_by_nccl(c->coll)) {
        return sf_fail(err, SF_E_INPUT,
                       "%s measured collectives, so NCCL's own times of them (times: nccl) would "
                       "change nothing: leave one of the two out",
                       kernels_path);
    }
    const struct sf_hash topo_hash = sf_topo_hash(topo), none = {0, 0};
    const struct sf_hash coll_hash = c->coll ? sf_coll_hash(c->coll) : none;
    const uint64_t all[6] = {topo_hash.hi, topo_hash.lo, c->hash.hi, c->hash.lo, coll_hash.hi, coll_hash.lo};
    c->hash = sf_hash_bytes(all, sizeof all);
    return SF_OK;
}

static int create_kinds(struct sf_cost *c, const uint8_t *kind_of_stock, const struct sf_io *io, struct sf_err *err) {
    for (uint32_t i = 0; i < sf_topo_stocks(c->topo); i++) {
        if (kind_of_stock[i] == c->kinds_n) {
            SF_TRY(create_kind(c->topo, i, io, NULL, &c->kind[c->kinds_n++], err));
            const struct sf_cost *k = c->kind[c->kinds_n - 1];
            c->dispatch_ps = k->dispatch_ps > c->dispatch_ps ? k->dispatch_ps : c->dispatch_ps;
            c->hash.lo = sf_mix64(c->hash.lo, k->hash.lo);
        }
    }
    return SF_OK;
}

int sf_cost_create(const struct sf_topo *topo, const struct sf_io *io, const char *kernels_path, struct sf_cost **out,
                   struct sf_err *err) {
    uint8_t kind_of_stock[SF_KINDS_MAX];
    struct sf_cost *c = NULL;
    uint32_t kinds = sf_kinds_of(topo, kind_of_stock);
    if (kinds > 1 && kernels_path) {
        return sf_fail(err, SF_E_INPUT,
                       "%s holds times of one device, but the cluster %s has %u kinds of them: leave the table out",
                       kernels_path, sf_topo_name(topo), kinds);
    }
    int rc = create_kind(topo, 0, io, kernels_path, &c, err);
    rc = rc == SF_OK && kinds > 1 ? create_kinds(c, kind_of_stock, io, err) : rc;
    if (rc) {
        sf_cost_free(c);
        return rc;
    }
    *out = c;
    return SF_OK;
}

const struct sf_coll *sf_cost_coll(const struct sf_cost *c) {
    return c->coll;
}

uint32_t sf_cost_kinds(const struct sf_cost *c) {
    return c->kinds_n > 0 ? c->kinds_n : 1;
}

const struct sf_cost *sf_cost_of(const struct sf_cost *c, uint32_t kind) {
    assert(kind < sf_cost_kinds(c));
    return c->kinds_n > 0 ? c->kind[kind] : c;
}

void sf_cost_free(struct sf_cost *c) {
    if (c) {
        for (uint32_t i = 0; i < c->kinds_n; i++) {
            sf_cost_free(c->kind[i]);
        }
        sf_coll_free(c->coll);
        sf_free(c->kernels);
        sf_free(c->models);
        sf_free(c->points);
        sf_free(c);
    }
}

struct sf_hash sf_cost_hash(const struct sf_cost *c) {
    return c->hash;
}

const struct sf_topo *sf_cost_topo(const struct sf_cost *c) {
    return c->topo;
}

/* Where all keep step with the slowest of n devices whose speeds are spread normally (Blom's approximation). */
static double slowest_of(const struct sf_cost *c, const struct sf_framework *f) {
    double n = sf_topo_gpus(c->topo);
    return 1.0 + f->spread * gsl_cdf_ugaussian_Pinv((n - 0.375) / (n + 0.25));
}

static void set_framework(struct sf_cost *c, const struct sf_framework *f) {
    c->framework = *f;
    c->slowest = slowest_of(c, f);
}

/* The text of the numbers and the cost's own hash make the new one, so that forecasts with and without differ. */
void sf_cost_set_framework(struct sf_cost *c, const struct sf_framework *f) {
    const double numbers[] = {f->pointwise,      f->moe,           f->loss,        f->loss_parallel,   f->gemm_share,
                              f->gemm_share_fp8, f->gather_hidden, f->gather_slow, f->attention_share, f->tp_hidden,
                              f->kernels,        f->spread};
    char text[512];
    int n = snprintf(text, sizeof text, "%016llx %016llx %s %d %lld %lld %lld %d", (unsigned long long)c->hash.hi,
                     (unsigned long long)c->hash.lo, f->name, f->unfused_attention, (long long)f->host_call_ps,
                     (long long)f->step_ps, (long long)f->resume_ps, f->rolling);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        n += snprintf(text + n, sizeof text - (size_t)n, " %.17g", numbers[i]);
    }
    c->hash = sf_hash_bytes(text, (size_t)n);
    set_framework(c, f);
    for (uint32_t i = 0; i < c->kinds_n; i++) {
        set_framework(c->kind[i], f);
    }
}

sf_time_ps sf_cost_host(const struct sf_cost *c) {
    return c->framework.host_call_ps;
}

sf_time_ps sf_cost_step(const struct sf_cost *c) {
    return c->framework.step_ps;
}

sf_time_ps sf_cost_resume(const struct sf_cost *c) {
    return c->framework.resume_ps;
}

double sf_cost_tp_share(const struct sf_cost *c) {
    return 1.0 - c->framework.tp_hidden;
}

double sf_cost_gather_share(const struct sf_cost *c) {
    return (1.0 - c->framework.gather_hidden) * fmax(c->framework.gather_slow, 1.0);
}

bool sf_cost_receiver_copies(const struct sf_cost *c) {
    return c->messages_measured;
}

sf_time_ps sf_cost_dispatch(const struct sf_cost *c) {
    return c->dispatch_ps;
}
