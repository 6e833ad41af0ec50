#include "topo/topo_state.h"

#include <assert.h>

#include "core/arena.h"

const char *sf_grade_name(int grade) {
    static const char *const names[] = {
#define X(NAME, name) name,
        SF_GRADES(X)
#undef X
    };
    return grade >= 0 && grade < SF_GRADES_N ? names[grade] : "?";
}

void sf_topo_free(struct sf_topo *t) {
    sf_free(t);
}

const char *sf_topo_name(const struct sf_topo *t) {
    return t->name;
}

uint32_t sf_topo_gpus(const struct sf_topo *t) {
    return t->seats;
}

uint32_t sf_topo_gpus_in_use(const struct sf_topo *t) {
    return t->in_use;
}

uint32_t sf_topo_domain_gpus(const struct sf_topo *t) {
    return t->domain.gpus;
}

uint32_t sf_topo_domain(const struct sf_topo *t, uint32_t gpu) {
    assert(gpu < t->seats);
    return gpu / t->domain.gpus;
}

uint32_t sf_topo_rails(const struct sf_topo *t) {
    return t->fabric.tiers > 0 ? t->fabric.rails : 1;
}

const struct sf_topo_coll *sf_topo_collectives(const struct sf_topo *t) {
    return &t->coll;
}

const struct sf_device_class *sf_topo_device(const struct sf_topo *t) {
    return &t->device;
}

const struct sf_link_class *sf_topo_scale_up(const struct sf_topo *t) {
    return &t->up;
}

const struct sf_link_class *sf_topo_scale_out(const struct sf_topo *t) {
    return t->fabric.tiers > 0 ? &t->out : NULL;
}

size_t sf_topo_sources(const struct sf_topo *t, const struct sf_source **out) {
    *out = t->sources;
    return t->sources_n;
}

/* The most even cut along groups, or along domains when one set of leaves serves them all. Each side can send what its
 * NICs and its leaves' uplinks both carry; only the last group may be partly filled. */
uint64_t sfi_bisection_links(const struct sf_topo *t) {
    const struct sfi_fabric *f = &t->fabric;
    if (f->tiers == 0) {
        return 0;
    }
    if (f->groups == 1) {
        return (uint64_t)(t->domains / 2) * t->domain.gpus;
    }
    uint64_t lower = f->groups / 2, full = t->domains / f->group_domains;
    uint64_t rest_nics = (uint64_t)(t->domains % f->group_domains) * f->rail_nics;
    uint64_t rest = rest_nics < f->leaf_up ? rest_nics : f->leaf_up;
    uint64_t low = lower * f->rails * f->leaf_up;
    uint64_t high = f->rails * ((full - lower) * f->leaf_up + rest);
    return low < high ? low : high;
}

static uint64_t bisection_rate(const struct sf_topo *t) {
    uint64_t rate;
    return __builtin_mul_overflow(sfi_bisection_links(t), t->out.bytes_per_s, &rate) ? UINT64_MAX : rate;
}

void sf_topo_count(const struct sf_topo *t, struct sf_topo_counts *out) {
    const struct sfi_fabric *f = &t->fabric;
    uint64_t trays = (uint64_t)t->domains * t->domain.trays;
    uint64_t spines = (uint64_t)f->pods * f->pod_spines;
    *out = (struct sf_topo_counts){
        .gpus = t->seats,
        .gpus_in_use = t->in_use,
        .spare_gpus = t->seats - t->in_use,
        .domains = t->domains,
        .trays = trays,
        .cpus = trays * t->domain.cpus_per_tray,
        .nvswitches = (uint64_t)t->domains * t->domain.nvswitches,
        .nics = f->tiers > 0 ? t->seats : 0,
        .leaves = f->leaves,
        .spines = spines,
        .cores = (uint64_t)f->plane_cores * f->pod_spines,
        .links_nvlink = (uint64_t)t->seats * t->domain.lanes,
        .links_c2c = t->cpu.name[0] != '\0' ? t->seats : 0,
        .links_nic = f->tiers > 0 ? t->seats : 0,
        .links_leaf_spine = (uint64_t)f->leaves * f->leaf_up,
        .links_spine_core = spines * f->spine_up,
        .bisection_bytes_per_s = bisection_rate(t),
    };
}

static void hash_link(struct sf_buf *b, const struct sf_link_class *l) {
    sf_buf_printf(b, "link %llu %lld %d %llu %llu\n", (unsigned long long)l->bytes_per_s, (long long)l->latency_ps,
                  (int)l->grade, (unsigned long long)l->peak_bytes_per_s, (unsigned long long)l->reduce_bytes_per_s);
}

static void hash_range(struct sf_buf *b, const struct sf_measured_range *r) {
    sf_buf_printf(b, "[%llu %llu]", (unsigned long long)r->lo, (unsigned long long)r->hi);
}

static void hash_kernels(struct sf_buf *b, const struct sf_kernel_model *k) {
    const struct sf_attn_model *attn[] = {&k->attn_fwd, &k->attn_bwd};
    sf_buf_printf(b, "kernels %u %.17g %lld %d\n", k->cores, k->memory_share, (long long)k->memory_launch_ps,
                  (int)k->memory_grade);
    for (int i = 0; i < SF_DTYPES_N; i++) {
        const struct sf_gemm_model *g = &k->gemm[i];
        sf_buf_printf(b, "gemm %.17g %.17g %.17g %.17g %.17g %.17g %lld %d ", g->peak_share, g->tile_loss,
                      g->k_prologue, g->wave, g->memory_share, g->cast_share, (long long)g->launch_ps, (int)g->grade);
        hash_range(b, &g->m);
        hash_range(b, &g->n);
        hash_range(b, &g->k);
    }
    for (int i = 0; i < 2; i++) {
        sf_buf_printf(b, "attn %.17g %.17g %.17g %d ", attn[i]->peak_share, attn[i]->softmax_dim, attn[i]->seq_prologue,
                      (int)attn[i]->grade);
        hash_range(b, &attn[i]->seq);
        hash_range(b, &attn[i]->head_dim);
    }
}

static void hash_device(struct sf_buf *b, const struct sf_device_class *d) {
    sf_buf_printf(b, "device %llu %llu %.17g %.17g %.17g %lld %.17g %d %d\n", (unsigned long long)d->memory_bytes,
                  (unsigned long long)d->memory_bytes_per_s, d->memory_efficiency, d->attn_fwd_efficiency,
                  d->attn_bwd_efficiency, (long long)d->launch_ps, d->power_watts, (int)d->grade, (int)d->attn_grade);
    for (int i = 0; i < SF_DTYPES_N; i++) {
        sf_buf_printf(b, "%s %.17g %.17g %d\n", sf_dtype_name(i), d->flops_per_s[i], d->gemm_efficiency[i],
                      (int)d->gemm_grade[i]);
    }
}

static void hash_fabric(struct sf_buf *b, const struct sf_topo *t) {
    const struct sfi_fabric *f = &t->fabric;
    const struct sfi_switch *s = &t->fabric_switch;
    sf_buf_printf(b, "fabric %u %u %u %u %u %u %u %u\n", f->tiers, f->rails, f->leaf_down, f->leaf_up, f->pod_spines,
                  f->spine_up, f->plane_cores, s->ports);
    sf_buf_printf(b, "delay %lld %lld %lld %lld %d\n", (long long)f->cable_ps[0], (long long)f->cable_ps[1],
                  (long long)f->cable_ps[2], (long long)s->hop_ps, (int)s->grade);
}

/* Over a canonical text of numbers: neither names, comments, spelling of units nor wording of sources can change it. */
struct sf_hash sf_topo_hash(const struct sf_topo *t) {
    struct sf_buf b = {0};
    const struct sfi_domain *d = &t->domain;
    sf_buf_printf(&b, "topo 1 %u %u %u %u %u %u %u\n", t->domains, t->in_use, d->trays, d->gpus_per_tray,
                  d->cpus_per_tray, d->nvswitches, d->lanes);
    hash_device(&b, &t->device);
    hash_kernels(&b, &t->device.kernels);
    hash_link(&b, &t->up);
    hash_link(&b, &t->cpu);
    hash_link(&b, &t->out);
    hash_fabric(&b, t);
    sf_buf_printf(&b, "collectives %s %s %d\n", t->coll.algorithm, t->coll.protocol, t->coll.sharp);
    struct sf_hash h = b.failed ? (struct sf_hash){0, 0} : sf_hash_bytes(b.data, b.bytes);
    sf_buf_free(&b);
    return h;
}
