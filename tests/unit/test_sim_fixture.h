/* A toy cluster with round numbers and pipeline programs of any mesh, built in memory.
 *
 * Device: copying one f32 element takes 1 ns, launching nothing. Inside a domain 1 GB/s and 2 us, between domains
 * 0.5 GB/s and 5 us plus the fabric's hops. */
#ifndef SF_TESTS_UNIT_TEST_SIM_FIXTURE_H
#define SF_TESTS_UNIT_TEST_SIM_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/prog_build.h"
#include "core/trace.h"
#include "sim/sim.h"

#define NS INT64_C(1000)
#define US INT64_C(1000000)
#define BYTE_PS INT64_C(1000) /* one byte inside a domain */

struct toy_files {
    char cluster[1024];
    const char *kernels; /* NULL: none */
};

static const char toy_device[] = "name: toy\n"
                                 "memory: { value: 4GB, source: test, grade: measured }\n"
                                 "memory_rate: { value: 8GB/s, source: test, grade: measured }\n"
                                 "memory_efficiency: { value: 1.0, source: test, grade: measured }\n"
                                 "peak:\n"
                                 "  f32: { value: 10TFLOP/s, source: test, grade: measured }\n"
                                 "  bf16: { value: 100TFLOP/s, source: test, grade: measured }\n"
                                 "gemm_efficiency:\n"
                                 "  f32: { value: 0.5, source: test, grade: measured }\n"
                                 "  bf16: { value: 0.5, source: test, grade: measured }\n"
                                 "attention_forward: { value: 0.25, source: test, grade: extrapolated }\n"
                                 "attention_backward: { value: 0.2, source: test, grade: extrapolated }\n"
                                 "launch: { value: 0ns, source: test, grade: measured }\n";
static const char toy_wire[] = "name: wire\n"
                               "peak: { value: 1GB/s, source: test, grade: measured }\n"
                               "usable: { value: 1GB/s, source: test, grade: measured }\n"
                               "latency: { value: 2us, source: test, grade: measured }\n";
static const char toy_card[] = "name: card\n"
                               "peak: { value: 0.5GB/s, source: test, grade: measured }\n"
                               "usable: { value: 0.5GB/s, source: test, grade: measured }\n"
                               "latency: { value: 5us, source: test, grade: measured }\n";
static const char toy_switch[] = "name: box\n"
                                 "ports: { value: 1024, source: test, grade: measured }\n"
                                 "port_rate: { value: 1GB/s, source: test, grade: measured }\n"
                                 "hop_latency: { value: 100ns, source: test, grade: measured }\n"
                                 "cable_latency_per_m: { value: 5ns, source: test, grade: measured }\n";

static inline int toy_read(void *self, const char *path, size_t max_bytes, char **data, size_t *bytes,
                           struct sf_err *err) {
    const struct toy_files *files = self;
    const struct {
        const char *path, *text;
    } all[] = {{"cat/devices/toy.yaml", toy_device}, {"cat/links/wire.yaml", toy_wire},
               {"cat/links/card.yaml", toy_card},    {"cat/switches/box.yaml", toy_switch},
               {"cluster.yaml", files->cluster},     {"kernels.yaml", files->kernels}};
    (void)max_bytes;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i].text && strcmp(path, all[i].path) == 0) {
            *bytes = strlen(all[i].text);
            *data = sf_malloc(*bytes + 1);
            if (!*data) {
                return sf_fail_memory(err, "a file");
            }
            memcpy(*data, all[i].text, *bytes + 1);
            return SF_OK;
        }
    }
    return sf_fail(err, SF_E_IO, "no file %s", path);
}

/* A priced toy cluster of domains with `gpus` devices each. */
struct toy {
    struct toy_files files;
    struct sf_io io;
    struct sf_topo *topo;
    struct sf_cost *cost;
};

static inline void must(int rc, const struct sf_err *err) {
    if (rc != SF_OK) {
        fail_msg("%s:%u:%u: %s", err->file, err->line, err->column, err->msg);
    }
}

/* rails must divide gpus; every leaf serves one domain's NICs of a rail, so domains meet in spines. */
static inline void toy_open(struct toy *t, uint32_t domains, uint32_t gpus, uint32_t rails, const char *kernels) {
    struct sf_err err = {0};
    char fabric[256] = "";
    t->files.kernels = kernels;
    t->io = (struct sf_io){&t->files, toy_read, NULL};
    if (domains > 1) {
        snprintf(fabric, sizeof fabric,
                 "nic: card\nrails: %u\nfabric: { switch: box, leaf_down: %u, tiers: 2, oversubscription: 1, cables: "
                 "{ nic_leaf: 1m, leaf_spine: 2m } }\n",
                 rails, gpus / rails);
    }
    snprintf(
        t->files.cluster, sizeof t->files.cluster,
        "name: toys\ndevice: toy\ndomains: %u\ndomain: { kind: box, trays: 1, gpus_per_tray: %u, cpus_per_tray: 0, "
        "nvswitches: 0, link: wire, links_per_gpu: 1 }\n%s",
        domains, gpus, fabric);
    must(sf_topo_load(&t->io, "cluster.yaml", "cat", &t->topo, &err), &err);
    must(sf_cost_create(t->topo, &t->io, kernels ? "kernels.yaml" : NULL, &t->cost, &err), &err);
}

static inline void toy_close(struct toy *t) {
    sf_cost_free(t->cost);
    sf_topo_free(t->topo);
}

enum { COMPUTE, FRECV, FSEND, BRECV, BSEND, GRAD, STREAMS_N };
enum { AXIS_TP, AXIS_EP, AXIS_DP, AXIS_PP };

#define PIPE_STAGES 16

/* A training step on a mesh tp x ep x dp x pp. */
struct pipe {
    uint32_t tp, ep, dp, pp, microbatches;
    uint32_t per_domain, domain_gpus;
    bool gpipe;
    uint32_t f_ns[PIPE_STAGES], b_ns[PIPE_STAGES]; /* kernels of a forward and a backward, per stage */
    uint64_t act_bytes;
    uint64_t grad_bytes;         /* 0: no reduction */
    uint64_t tp_bytes, ep_bytes; /* all_reduce and all_to_all inside forwards; 0: none */
    bool shard;                  /* reduce_scatter and all_gather instead of all_reduce */
    bool everyone;               /* a last all_reduce over all ranks */
    bool edp;                    /* reduce over dp alone */
    int32_t ring;                /* before all else, every rank passes act_bytes this far around the dp axis; 0: no */
    int32_t cross;               /* and this far around the tp axis, at the same moment; 0: no */
    uint32_t tp_slower;          /* ranks with tp coordinate 1 run classes of their own, forwards this much longer */

    struct sf_build *b; /* while building */
    uint32_t comm_tp, comm_ep, comm_dp, comm_edp, comm_fwd, comm_bwd, comm_all;
    uint32_t in_place; /* recipe formals */
};

static inline struct sf_arg whole(uint32_t buf, uint32_t access, uint64_t bytes) {
    return (struct sf_arg){.buf = buf, .access = access, .bytes = bytes};
}

static inline uint32_t pipe_recipe(struct pipe *p, const char *name, uint32_t ns, bool collectives) {
    struct sf_call copy = {.kind = SF_CALL_COPY, .comm = SF_NONE, .dims = {ns}};
    struct sf_call tp = {.kind = SF_CALL_ALL_REDUCE, .comm = p->comm_tp, .dims = {(int64_t)p->tp_bytes}};
    struct sf_call ep = {.kind = SF_CALL_ALL_TO_ALL, .comm = p->comm_ep, .dims = {(int64_t)p->ep_bytes}};
    for (int i = 0; i < SF_CALL_OPERANDS; i++) {
        copy.operand[i] = tp.operand[i] = ep.operand[i] = SF_REF_NONE;
    }
    sf_build_recipe_begin(p->b, name, 2);
    sf_build_call(p->b, &copy);
    if (collectives && p->tp_bytes > 0) {
        sf_build_call(p->b, &tp);
    }
    if (collectives && p->ep_bytes > 0) {
        sf_build_call(p->b, &ep);
    }
    return sf_build_recipe_end(p->b);
}

static inline uint32_t pipe_compute(struct pipe *p, int kind, uint32_t m, uint32_t recipe, struct sf_arg x,
                                    struct sf_arg y, uint32_t dep) {
    struct sf_arg args[2] = {x, y};
    struct sf_op op = {
        .kind = (uint8_t)kind, .stream = COMPUTE, .recipe = recipe, .comm = SF_NONE, .microbatch = (uint16_t)m};
    return sf_build_op(p->b, &op, args, 2, &dep, dep != SF_NONE);
}

static inline uint32_t pipe_transfer(struct pipe *p, int kind, uint8_t stream, uint32_t comm, int32_t delta, uint32_t m,
                                     uint32_t buf, uint32_t dep) {
    struct sf_arg arg = whole(buf, kind == SF_OP_SEND ? SF_READ : SF_WRITE, p->act_bytes);
    struct sf_op op = {.kind = (uint8_t)kind,
                       .stream = stream,
                       .recipe = SF_NONE,
                       .comm = comm,
                       .peer_delta = delta,
                       .microbatch = (uint16_t)m,
                       .bytes = p->act_bytes};
    return sf_build_op(p->b, &op, &arg, 1, &dep, dep != SF_NONE);
}

static inline uint32_t pipe_reduce(struct pipe *p, int kind, uint32_t comm, uint32_t grad, uint32_t share,
                                   uint32_t share_n, uint32_t dep) {
    struct sf_arg all = whole(grad, SF_READ_WRITE, p->grad_bytes);
    struct sf_arg own = whole(share, SF_READ_WRITE, p->grad_bytes / share_n);
    struct sf_arg args[2] = {kind == SF_OP_ALL_GATHER ? own : all, kind == SF_OP_ALL_GATHER ? all : own};
    struct sf_op op = {.kind = (uint8_t)kind, .stream = GRAD, .recipe = SF_NONE, .comm = comm, .bytes = p->grad_bytes};
    return sf_build_op(p->b, &op, args, kind == SF_OP_ALL_REDUCE ? 1 : 2, &dep, dep != SF_NONE);
}

struct pipe_stage { /* buffers of the class being built */
    uint32_t stage, forward, backward, optimizer;
    uint32_t param, grad, last;
    uint32_t in[64], out[64], din[64], dout[64];
};

static inline uint32_t pipe_forward(struct pipe *p, struct pipe_stage *s, uint32_t m, uint32_t after) {
    uint32_t ready = SF_NONE;
    s->in[m] = sf_build_buffer(p->b, "in", SF_BUF_COMM, p->act_bytes, true);
    s->out[m] = sf_build_buffer(p->b, "out", SF_BUF_ACTIVATION, p->act_bytes, true);
    if (s->stage > 0) {
        ready = pipe_transfer(p, SF_OP_RECV, FRECV, p->comm_fwd, -1, m, s->in[m], SF_NONE);
    } else {
        ready = after;
    }
    uint32_t f = pipe_compute(p, SF_OP_FORWARD, m, s->forward, whole(s->in[m], SF_READ, p->act_bytes),
                              whole(s->out[m], SF_WRITE, p->act_bytes), ready);
    if (s->stage + 1 < p->pp) {
        pipe_transfer(p, SF_OP_SEND, FSEND, p->comm_fwd, 1, m, s->out[m], f);
    }
    return f;
}

static inline void pipe_backward(struct pipe *p, struct pipe_stage *s, uint32_t m) {
    uint32_t ready = SF_NONE;
    s->din[m] = sf_build_buffer(p->b, "din", SF_BUF_COMM, p->act_bytes, true);
    if (s->stage + 1 < p->pp) {
        ready = pipe_transfer(p, SF_OP_RECV, BRECV, p->comm_bwd, 1, m, s->din[m], SF_NONE);
    }
    s->last = pipe_compute(p, SF_OP_BACKWARD, m, s->backward, whole(s->din[m], SF_READ_WRITE, p->act_bytes),
                           whole(s->grad, SF_READ_WRITE, p->grad_bytes ? p->grad_bytes : 64), ready);
    if (s->stage > 0) {
        pipe_transfer(p, SF_OP_SEND, BSEND, p->comm_bwd, -1, m, s->din[m], s->last);
    }
}

/* One step around a ring: a rank is in the middle of both a send and a receive, with ranks of its own kind. */
static inline uint32_t pipe_ring(struct pipe *p, uint32_t comm, int32_t delta, uint8_t send, uint8_t receive) {
    uint32_t give = sf_build_buffer(p->b, "give", SF_BUF_WORK, p->act_bytes, true);
    uint32_t take = sf_build_buffer(p->b, "take", SF_BUF_WORK, p->act_bytes, true);
    pipe_transfer(p, SF_OP_SEND, send, comm, delta, 0, give, SF_NONE);
    return pipe_transfer(p, SF_OP_RECV, receive, comm, -delta, 0, take, SF_NONE);
}

static inline void pipe_finish(struct pipe *p, struct pipe_stage *s) {
    uint32_t comm = p->edp ? p->comm_edp : p->comm_dp, n = p->edp ? p->dp : p->dp * p->ep, last = s->last;
    uint32_t share = sf_build_buffer(p->b, "share", SF_BUF_WORK, p->grad_bytes ? p->grad_bytes : 64, true);
    if (p->grad_bytes > 0) {
        last = pipe_reduce(p, p->shard ? SF_OP_REDUCE_SCATTER : SF_OP_ALL_REDUCE, comm, s->grad, share, n, last);
        if (p->everyone) {
            last = pipe_reduce(p, SF_OP_ALL_REDUCE, p->comm_all, s->grad, share, 1, last);
        }
    }
    last = pipe_compute(p, SF_OP_OPTIMIZER, 0, s->optimizer, whole(s->grad, SF_READ, 64),
                        whole(s->param, SF_READ_WRITE, 64), last);
    if (p->grad_bytes > 0 && p->shard) {
        pipe_reduce(p, SF_OP_ALL_GATHER, comm, s->param, share, n, last);
    }
}

static inline void pipe_class(struct pipe *p, uint32_t stage, bool slower) {
    struct pipe_stage s = {.stage = stage, .last = SF_NONE};
    char name[SF_NAME];
    snprintf(name, sizeof name, "f%u.%d", stage, slower);
    s.forward = pipe_recipe(p, name, p->f_ns[stage] + (slower ? p->tp_slower : 0), true);
    snprintf(name, sizeof name, "b%u", stage);
    s.backward = pipe_recipe(p, name, p->b_ns[stage], false);
    s.optimizer = pipe_recipe(p, "optimizer", 70, false);
    snprintf(name, sizeof name, "stage%u%s", stage, slower ? " slow" : "");
    sf_build_class_begin(p->b, name, stage);
    s.param = sf_build_buffer(p->b, "param", SF_BUF_PARAM, p->grad_bytes > 64 ? p->grad_bytes : 64, true);
    s.grad = sf_build_buffer(p->b, "grad", SF_BUF_GRAD, p->grad_bytes > 64 ? p->grad_bytes : 64, true);
    uint32_t after = p->ring ? pipe_ring(p, p->comm_edp, p->ring, FSEND, FRECV) : SF_NONE;
    if (p->cross) {
        pipe_ring(p, p->comm_tp, p->cross, BSEND, BRECV);
    }
    uint32_t warm = p->gpipe || p->pp - 1 - stage > p->microbatches ? p->microbatches : p->pp - 1 - stage;
    uint32_t forwards = 0;
    while (forwards < warm) {
        pipe_forward(p, &s, forwards++, after);
    }
    for (uint32_t m = 0; m < p->microbatches; m++) {
        if (forwards < p->microbatches) {
            pipe_forward(p, &s, forwards++, after);
        }
        pipe_backward(p, &s, m);
    }
    pipe_finish(p, &s);
    sf_build_class_end(p->b);
}

static inline void pipe_mesh(struct pipe *p) {
    static const char *const streams[] = {"compute", "fwd.recv", "fwd.send", "bwd.recv", "bwd.send", "grad"};
    sf_build_axis(p->b, "tp", p->tp);
    sf_build_axis(p->b, "ep", p->ep);
    sf_build_axis(p->b, "replica", p->dp); /* not "dp": these toys may leave their gradients apart */
    sf_build_axis(p->b, "pp", p->pp);
    p->comm_tp = sf_build_comm(p->b, "tp", 1u << AXIS_TP);
    p->comm_ep = sf_build_comm(p->b, "ep", 1u << AXIS_EP);
    p->comm_dp = sf_build_comm(p->b, "dp", 1u << AXIS_EP | 1u << AXIS_DP);
    p->comm_edp = sf_build_comm(p->b, "edp", 1u << AXIS_DP);
    p->comm_fwd = sf_build_comm(p->b, "pp.fwd", 1u << AXIS_PP);
    p->comm_bwd = sf_build_comm(p->b, "pp.bwd", 1u << AXIS_PP);
    p->comm_all = sf_build_comm(p->b, "all", 15);
    for (int i = 0; i < STREAMS_N; i++) {
        sf_build_stream(p->b, streams[i]);
    }
}

static inline struct sf_prog *pipe_build(struct pipe *p) {
    struct sf_prog *prog = NULL;
    struct sf_err err = {0};
    uint32_t class_of[64], n = 0, kinds = p->tp_slower ? p->tp : 1;
    p->b = sf_build_create();
    assert_non_null(p->b);
    assert_true(p->pp <= PIPE_STAGES && p->pp * kinds <= 64 && p->microbatches <= 64);
    pipe_mesh(p);
    prog = sf_build_prog(p->b);
    prog->class_axes = 1u << AXIS_PP | (p->tp_slower ? 1u << AXIS_TP : 0);
    prog->ranks_per_domain = p->per_domain;
    prog->domain_gpus = p->domain_gpus;
    prog->device_memory_bytes = UINT64_C(1) << 40;
    prog->job = (struct sf_prog_job){.microbatches = p->microbatches, .chunks = 1};
    for (uint32_t s = 0; s < p->pp; s++) {
        pipe_class(p, s, false);
        if (p->tp_slower) {
            pipe_class(p, s, true);
        }
        for (uint32_t k = 0; k < kinds; k++) {
            class_of[n++] = p->tp_slower ? 2 * s + (k == 1) : s;
        }
    }
    must(sf_build_finish(p->b, class_of, n, &prog, &err), &err);
    sf_build_free(p->b);
    return prog;
}

static inline void must_run(const struct sf_prog *prog, const struct toy *t, const struct sf_sim_options *options,
                            struct sf_sim_result *out) {
    struct sf_err err = {0};
    must(sf_sim_run(prog, t->cost, options, out, &err), &err);
}

static inline sf_time_ps breakdown_sum(const struct sf_breakdown *b) {
    return b->compute + b->recompute + b->tp_comm + b->ep_comm + b->p2p + b->dp_comm + b->optimizer + b->bubble +
           b->other + b->offload;
}

#endif
