/* The identity of a topology. */
#include <string.h>

#include "topo/topo_state.h"

static void hash_link(struct sf_buf *b, const struct sf_link_class *l) {
    sf_buf_printf(b, "link %llu %lld %d %llu %llu\n", (unsigned long long)l->bytes_per_s, (long long)l->latency_ps,
                  (int)l->grade, (unsigned long long)l->peak_bytes_per_s, (unsigned long long)l->reduce_bytes_per_s);
    if (l->sharers > 1 || l->memory_bytes > 0) {
        sf_buf_printf(b, "host %u %llu\n", l->sharers, (unsigned long long)l->memory_bytes);
    }
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
    if (d->p2p_copy_engines || d->p2p_channels_per_link != SF_P2P_CHANNELS_PER_LINK ||
        d->p2p_channel_bytes_per_s != SF_P2P_CHANNEL_BYTES_PER_S) { /* else the hash stays what it was */
        sf_buf_printf(b, "messages %.17g %llu %d\n", d->p2p_channels_per_link,
                      (unsigned long long)d->p2p_channel_bytes_per_s, d->p2p_copy_engines);
    }
    if (d->copy_engines != SF_COPY_ENGINES) {
        sf_buf_printf(b, "copies %u\n", d->copy_engines);
    }
    for (int i = 0; i < SF_DTYPES_N; i++) {
        sf_buf_printf(b, "%s %.17g %.17g %d\n", sf_dtype_name(i), d->flops_per_s[i], d->gemm_efficiency[i],
                      (int)d->gemm_grade[i]);
    }
}

bool sfi_same_device(const struct sf_device_class *x, const struct sf_device_class *y) {
    struct sf_buf a = {0}, b = {0};
    hash_device(&a, x);
    hash_kernels(&a, &x->kernels);
    hash_device(&b, y);
    hash_kernels(&b, &y->kernels);
    bool same = !a.failed && !b.failed && a.bytes == b.bytes && memcmp(a.data, b.data, a.bytes) == 0;
    sf_buf_free(&a);
    sf_buf_free(&b);
    return same;
}

static void hash_fabric(struct sf_buf *b, const struct sf_topo *t) {
    const struct sfi_fabric *f = &t->fabric;
    const struct sf_switch_class *s = &t->fabric_switch;
    sf_buf_printf(b, "fabric %u %u %u %u %u %u %u %u\n", f->tiers, f->rails, f->leaf_down, f->leaf_up, f->pod_spines,
                  f->spine_up, f->slice_cores, s->ports);
    sf_buf_printf(b, "delay %lld %lld %lld %lld %d\n", (long long)f->cable_ps[0], (long long)f->cable_ps[1],
                  (long long)f->cable_ps[2], (long long)s->hop_ps, (int)s->grade);
}

static void hash_stock(struct sf_buf *b, const struct sfi_stock *s) {
    hash_device(b, &s->device);
    hash_kernels(b, &s->device.kernels);
    hash_link(b, &s->up);
    hash_link(b, &s->cpu);
    hash_link(b, &s->out);
}

/* What clusters of one stock, one plane and the usual routing lack adds nothing, so that theirs stays what it was. */
static void hash_more(struct sf_buf *b, const struct sf_topo *t) {
    const struct sfi_stock *first = &t->stock[0];
    for (uint32_t i = 1; i < t->stocks_n; i++) {
        const struct sfi_stock *s = &t->stock[i];
        const struct sfi_domain *d = &s->domain;
        sf_buf_printf(b, "stock %u %u %u %u %u %u %u %d %d\n", s->first_domain, d->trays, d->gpus_per_tray,
                      d->cpus_per_tray, d->nvswitches, d->lanes, d->in_use, s->starts_group, s->starts_pod);
        hash_stock(b, s);
    }
    if (first->domain.in_use < first->domain.gpus) {
        sf_buf_printf(b, "seats %u\n", first->domain.in_use);
    }
    if (t->fabric.planes > 1) {
        sf_buf_printf(b, "planes %u %u\n", t->fabric.planes, t->fabric.radix);
    }
    if (t->routing != SF_ROUTING_ADAPTIVE) {
        sf_buf_printf(b, "routing %d %llu\n", (int)t->routing, (unsigned long long)t->seed);
    }
    if (t->routing == SF_ROUTING_ECMP) {
        sf_buf_printf(b, "ecmp %.17g\n", t->fabric_switch.ecmp_share);
    }
    if (t->fabric_switch.incast_share < 1 && t->fabric.tiers > 0) {
        sf_buf_printf(b, "incast %.17g\n", t->fabric_switch.incast_share);
    }
    for (int set = 0; set < SFI_SETS_N; set++) {
        for (uint32_t i = 0; i < t->overlay.set[set].n; i++) {
            const struct sfi_range *r = &t->overlay.set[set].r[i];
            sf_buf_printf(b, "overlay %d %llu %llu %u\n", set, (unsigned long long)r->lo, (unsigned long long)r->hi,
                          r->ppm);
        }
    }
}

/* Over a canonical text of numbers: neither names, comments, spelling of units nor wording of sources can change it. */
struct sf_hash sf_topo_hash(const struct sf_topo *t) {
    struct sf_buf b = {0};
    const struct sfi_domain *d = &t->stock[0].domain;
    sf_buf_printf(&b, "topo 1 %u %u %u %u %u %u %u\n", t->domains, t->in_use, d->trays, d->gpus_per_tray,
                  d->cpus_per_tray, d->nvswitches, d->lanes);
    hash_stock(&b, &t->stock[0]);
    hash_fabric(&b, t);
    sf_buf_printf(&b, "collectives %s %s %d\n", t->coll.algorithm, t->coll.protocol, t->coll.sharp);
    if (t->coll.nccl_times) {
        sf_buf_printf(&b, "times nccl\n");
    }
    hash_more(&b, t);
    struct sf_hash h = b.failed ? (struct sf_hash){0, 0} : sf_hash_bytes(b.data, b.bytes);
    sf_buf_free(&b);
    return h;
}
