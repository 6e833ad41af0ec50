/* Random meshes, placements and programs for the toy cluster. */
#ifndef SF_TESTS_UNIT_TEST_SIM_RANDOM_H
#define SF_TESTS_UNIT_TEST_SIM_RANDOM_H

#include "test_sim_fixture.h"

#include "core/rng.h"

static inline uint32_t pick(struct sf_rng *r, uint32_t lo, uint32_t hi) {
    return lo + (uint32_t)(sf_rng_u64(r) % (hi - lo + 1));
}

static inline bool chance(struct sf_rng *r, uint32_t percent) {
    return pick(r, 1, 100) <= percent;
}

static inline void random_pipe(struct sf_rng *r, struct pipe *p) {
    static const uint32_t domains[] = {1, 2, 3, 4, 5, 6, 6, 8, 9, 9};
    *p = (struct pipe){.tp = pick(r, 1, 4), .ep = pick(r, 1, 3), .dp = pick(r, 1, 4), .pp = pick(r, 1, 5)};
    p->microbatches = pick(r, 1, 6);
    p->domain_gpus = domains[pick(r, 0, 9)];
    p->per_domain = chance(r, 70) ? p->domain_gpus : pick(r, 1, p->domain_gpus);
    p->gpipe = chance(r, 30);
    bool uneven = chance(r, 50);
    uint32_t f = pick(r, 1, 50) * 100, b = pick(r, 1, 50) * 100;
    for (uint32_t s = 0; s < p->pp; s++) {
        p->f_ns[s] = uneven ? pick(r, 0, 5000) : f;
        p->b_ns[s] = uneven ? pick(r, 0, 5000) : b;
    }
    p->act_bytes = chance(r, 20) ? 64 : pick(r, 1, 8) * 600; /* short steps: ports are fought for */
    p->grad_bytes = chance(r, 80) ? (uint64_t)p->ep * p->dp * 64 * pick(r, 1, 60) : 0;
    p->tp_bytes = chance(r, 60) ? pick(r, 1, 4000) : 0;
    p->ep_bytes = chance(r, 60) ? pick(r, 1, 4000) : 0;
    p->shard = chance(r, 50);
    p->everyone = chance(r, 25);
    p->edp = chance(r, 40);
    p->ring = p->dp > 1 && chance(r, 40) ? (int32_t)pick(r, 1, p->dp - 1) : 0;
    p->cross = p->tp > 1 && chance(r, 40) ? (int32_t)pick(r, 1, p->tp - 1) : 0;
    p->tp_slower = p->tp > 1 && chance(r, 30) ? pick(r, 1, 900) : 0;
    if (p->tp_slower) { /* recipes may not join different classes */
        p->tp_bytes = 0;
    }
}

static inline void open_for(struct toy *t, const struct pipe *p, const char *kernels) {
    uint32_t ranks = p->tp * p->ep * p->dp * p->pp, domains = (ranks + p->per_domain - 1) / p->per_domain;
    uint32_t rails = p->domain_gpus % 3 == 0 ? 3 : p->domain_gpus % 2 == 0 ? 2 : 1;
    toy_open(t, domains, p->domain_gpus, rails, kernels);
}

/* A cluster of GPUs whose kernels feel their communication: the catalog's H100 with its collective model. */
static inline int gpu_read(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes,
                           struct sf_err *err) {
    if (strcmp(path, "cluster.yaml") == 0) {
        return toy_read(self, path, max_bytes, data, bytes, err);
    }
    if (strcmp(path, SF_CATALOG_DIR "/switches/box.yaml") != 0) {
        return sf_io_posix.read_all(sf_io_posix.self, path, max_bytes, data, bytes, err);
    }
    SF_TRY(toy_read(self, "cat/switches/box.yaml", max_bytes, data, bytes, err)); /* as many ports as anybody wants */
    memcpy(strstr(*data, "1GB/s"), "1TB/s", strlen("1TB/s"));
    return SF_OK;
}

static inline void open_gpus(struct toy *t, const struct pipe *p) {
    struct sf_err err = {0};
    uint32_t ranks = p->tp * p->ep * p->dp * p->pp, domains = (ranks + p->per_domain - 1) / p->per_domain;
    uint32_t rails = p->domain_gpus % 3 == 0 ? 3 : p->domain_gpus % 2 == 0 ? 2 : 1;
    char fabric[256] = "";
    if (domains > 1) {
        snprintf(fabric, sizeof fabric,
                 "nic: connectx7-400g\nrails: %u\nfabric: { switch: box, leaf_down: %u, tiers: 2, "
                 "oversubscription: 1, cables: { nic_leaf: 1m, leaf_spine: 2m } }\n",
                 rails, p->domain_gpus / rails);
    }
    snprintf(t->files.cluster, sizeof t->files.cluster,
             "name: gpus\ndevice: h100\ndomains: %u\ndomain: { kind: box, trays: 1, gpus_per_tray: %u, cpus_per_tray: "
             "0, nvswitches: 0, link: nvlink4, links_per_gpu: 18 }\n%s",
             domains, p->domain_gpus, fabric);
    t->io = (struct sf_io){&t->files, gpu_read, NULL};
    must(sf_topo_load(&t->io, "cluster.yaml", SF_CATALOG_DIR, &t->topo, &err), &err);
    must(sf_cost_create(t->topo, &t->io, NULL, &t->cost, &err), &err);
}

/* Long kernels and large messages, so that they meet. */
static inline void enlarge(struct pipe *p) {
    for (uint32_t s = 0; s < p->pp; s++) {
        p->f_ns[s] *= 1000;
        p->b_ns[s] *= 1000;
    }
    p->act_bytes *= 1000;
    p->grad_bytes *= 300;
}

static inline void describe(const struct pipe *p, char *text, size_t size) {
    snprintf(
        text, size,
        "tp %u ep %u dp %u pp %u m %u seats %u/%u gpipe %d act %llu grad %llu shard %d all %d edp %d ring %d cross %d "
        "slow %u",
        p->tp, p->ep, p->dp, p->pp, p->microbatches, p->per_domain, p->domain_gpus, p->gpipe,
        (unsigned long long)p->act_bytes, (unsigned long long)p->grad_bytes, p->shard, p->everyone, p->edp, p->ring,
        p->cross, p->tp_slower);
}

#endif
