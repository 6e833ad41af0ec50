/* Every collective between the ops of a program, chunk by chunk, each group's members arriving at times of their own.
 *
 *     bench_expand PROGRAM CLUSTER.yaml [--threads N] [--ops N] [--late PS]
 *
 * Arrivals are lognormal around the same moment, a mean of --late picoseconds apart (default 1 ms), by (group, op,
 * rank). Prints collectives, transfers, seconds, and a hash of all ends that must not depend on the number of threads.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "core/hash.h"
#include "core/rng.h"
#include "sim/cost_internal.h"
#include "sim/expand.h"
#include "sim/mesh.h"
#include "sim/parallel.h"

struct job { /* one collective op of one group */
    uint32_t comm, group, class_i, op;
};

struct bench {
    const struct sf_prog *prog;
    const struct sf_coll *coll;
    struct sfi_mesh *mesh;
    struct job *jobs;
    uint32_t jobs_n;
    double late_ps;
    uint64_t transfers[SFI_THREADS_MAX];
    uint64_t *hash; /* by job */
    double *last;   /* by job: latest end, less latest arrival */
};

static void check(int rc, const struct sf_err *err) {
    if (rc) {
        sf_err_print(err);
        exit(rc);
    }
}

static void list_jobs(struct bench *b, struct sf_arena *arena, uint32_t ops_most) {
    struct sf_err err = {0};
    size_t room = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t c = 0; c < b->prog->comms_n; c++) {
            check(sfi_mesh_comm(b->mesh, c, arena, &err), &err);
            for (uint32_t g = 0; g < b->mesh->comms[c].groups_n; g++) {
                const uint32_t class_i = b->mesh->class_of[b->mesh->comms[c].base[g]];
                const struct sf_class *cls = &b->prog->classes[class_i];
                uint32_t ops = 0;
                for (uint32_t i = 0; i < cls->ops_n && ops < ops_most; i++) {
                    bool is = sf_op_group(cls->ops[i].kind) == SF_OP_IS_COLL && cls->ops[i].comm == c &&
                              b->mesh->comms[c].members_n > 1;
                    if (is && pass == 1) {
                        b->jobs[b->jobs_n++] = (struct job){c, g, class_i, i};
                    }
                    room += is && pass == 0;
                    ops += is;
                }
            }
        }
        b->jobs = pass == 0 ? sf_arena_alloc(arena, room, sizeof *b->jobs) : b->jobs;
    }
    b->hash = sf_arena_alloc(arena, room, sizeof *b->hash);
    b->last = sf_arena_alloc(arena, room, sizeof *b->last);
}

static enum sf_coll_op op_of(int kind) {
    return kind == SF_OP_ALL_REDUCE       ? SF_COLL_ALL_REDUCE
           : kind == SF_OP_REDUCE_SCATTER ? SF_COLL_REDUCE_SCATTER
                                          : SF_COLL_ALL_GATHER;
}

struct members {
    uint32_t *domain;
    sf_time_ps *arrive, *end;
};

static void run_job(struct bench *b, uint32_t k, uint32_t j, struct sfi_expand *x, const struct members *m) {
    const struct job *job = &b->jobs[j];
    const struct sfi_comm *c = &b->mesh->comms[job->comm];
    const struct sf_op *op = &b->prog->classes[job->class_i].ops[job->op];
    struct sfi_expand_ask ask = {
        .coll = b->coll, .query = {op_of(op->kind), op->bytes, {0}}, .domain = m->domain, .arrive = m->arrive};
    struct sf_coll_choice choice;
    struct sf_rng root = sf_rng_seed(1), rng = sf_rng_split(&root, (uint64_t)job->group << 32 | job->op);
    struct sf_err err = {0};
    sf_time_ps latest = 0, done = 0;
    sfi_mesh_span(b->mesh, c, job->group, &ask.query.span);
    for (uint32_t i = 0; i < c->members_n; i++) {
        m->domain[i] = b->mesh->domain[c->base[job->group] + c->offset[i]];
        m->arrive[i] = (sf_time_ps)(b->late_ps * exp(sf_rng_normal(&rng) - 0.5));
        latest = m->arrive[i] > latest ? m->arrive[i] : latest;
    }
    sf_coll_choose(b->coll, &ask.query, &choice);
    ask.algorithm = choice.algorithm;
    ask.protocol = choice.protocol;
    check(sfi_expand_run(x, &ask, UINT64_MAX, m->end, &err), &err);
    b->transfers[k] += sfi_expand_chunks(&ask);
    for (uint32_t i = 0; i < c->members_n; i++) {
        b->hash[j] = sf_mix64(b->hash[j], (uint64_t)m->end[i]);
        done = m->end[i] > done ? m->end[i] : done;
    }
    b->last[j] = sf_ps_to_s(done - latest) / choice.time_s;
}

static void work(void *self, uint32_t k, uint32_t from, uint32_t to) {
    struct bench *b = self;
    struct sf_arena *arena = sf_arena_create();
    struct sfi_expand *x = sfi_expand_create();
    uint32_t n = b->mesh->ranks_n;
    struct members m = {sf_arena_alloc(arena, n, sizeof(uint32_t)), sf_arena_alloc(arena, n, sizeof(sf_time_ps)),
                        sf_arena_alloc(arena, n, sizeof(sf_time_ps))};
    for (uint32_t j = from; j < to; j++) {
        run_job(b, k, j, x, &m);
    }
    sfi_expand_free(x);
    sf_arena_free(arena);
}

static double number(const char *text) {
    char *end;
    double x = strtod(text, &end);
    if (*end != '\0' || !(x >= 0 && x <= UINT32_MAX * 1e6)) {
        fprintf(stderr, "expected a number, found %s\n", text);
        exit(SF_E_USAGE);
    }
    return x;
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(const struct bench *b, uint32_t threads, double wall) {
    struct rusage use;
    uint64_t hash = 0;
    double transfers = 0, least = INFINITY, most = 0;
    getrusage(RUSAGE_SELF, &use);
    for (uint32_t j = 0; j < b->jobs_n; j++) {
        hash = sf_mix64(hash, b->hash[j]);
        least = fmin(least, b->last[j]);
        most = fmax(most, b->last[j]);
    }
    for (uint32_t k = 0; k < SFI_THREADS_MAX; k++) {
        transfers += (double)b->transfers[k];
    }
    printf("%u ranks, %u collectives, %.4g transfers in %.2f s on %u threads: %.3f ns each; %.1f MiB; ends %016llx\n",
           b->mesh->ranks_n, b->jobs_n, transfers, wall, threads, 1e9 * wall / transfers, (double)use.ru_maxrss / 1024,
           (unsigned long long)hash);
    printf("from the last arrival to the last end: %.3f to %.3f of the closed form\n", least, most);
}

int main(int argc, char **argv) {
    struct sf_err err = {0};
    struct bench b = {.late_ps = 1e9};
    uint32_t threads = 2, ops = SF_MAX_CLASS_OPS;
    for (int i = 3; i + 1 < argc; i += 2) {
        threads = strcmp(argv[i], "--threads") == 0 ? (uint32_t)number(argv[i + 1]) : threads;
        ops = strcmp(argv[i], "--ops") == 0 ? (uint32_t)number(argv[i + 1]) : ops;
        b.late_ps = strcmp(argv[i], "--late") == 0 ? number(argv[i + 1]) : b.late_ps;
    }
    if (argc < 3) {
        fprintf(stderr, "usage: bench_expand PROGRAM CLUSTER.yaml [--threads N] [--ops N] [--late PS]\n");
        return SF_E_USAGE;
    }
    struct sf_prog *prog = NULL;
    struct sf_topo *topo = NULL;
    struct sf_coll *coll = NULL;
    struct sf_arena *arena = sf_arena_create();
    check(sf_topo_load(&sf_io_posix, argv[2], SF_CATALOG_DIR, &topo, &err), &err);
    check(sf_coll_create(topo, &sf_io_posix, &coll, &err), &err);
    check(sf_prog_read(&sf_io_posix, argv[1], &prog, &err), &err);
    b.prog = prog;
    b.coll = coll;
    check(sfi_mesh_create(prog, topo, arena, &b.mesh, &err), &err);
    list_jobs(&b, arena, ops);
    double began = now_s();
    sfi_parallel(threads, b.jobs_n, 1, work, &b);
    report(&b, threads, now_s() - began);
    sf_arena_free(arena);
    sf_prog_free(prog);
    sf_coll_free(coll);
    sf_topo_free(topo);
    return 0;
}
