/* Bounds and the exhaustive search on thousands of random small problems, against brute force. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/rng.h"
#include "planner/synth_internal.h"

enum { MAX_STAGES = 8, MAX_ROW = 12, MAX_ROWS = 128 };

struct problem {
    sf_time_ps f[MAX_STAGES], b[MAX_STAGES], w[MAX_STAGES];
    double mem_f[MAX_STAGES], mem_b[MAX_STAGES], mem_w[MAX_STAGES];
    uint16_t device_of[MAX_STAGES];
    struct sf_synth_problem p;
};

static uint32_t below(struct sf_rng *r, uint32_t n) {
    return (uint32_t)(sf_rng_u64(r) % n);
}

/* Chunks in a V, a loop, or side by side; some passes free of cost or memory. */
static void random_problem(struct sf_rng *r, uint32_t devices, uint32_t chunks, uint32_t microbatches,
                           struct problem *x) {
    uint32_t placement = below(r, 3), equal = below(r, 3), range = 1 + below(r, 9);
    double device_memory[MAX_STAGES] = {0}, most = 0;
    for (uint32_t i = 0; i < devices * chunks; i++) {
        bool again = equal == 0 && i > 0;
        uint32_t d = placement == 2 ? i / chunks : i % devices;
        x->device_of[i] = (uint16_t)(placement == 0 && i / devices % 2 == 1 ? devices - 1 - d : d);
        x->f[i] = again ? x->f[0] : 1 + below(r, range);
        x->b[i] = again ? x->b[0] : below(r, range + 1);
        x->w[i] = again ? x->w[0] : below(r, range + 1);
        x->mem_f[i] = again ? x->mem_f[0] : 1 + below(r, 4);
        x->mem_w[i] = x->mem_f[i] * (again ? x->mem_w[0] / x->mem_f[0] : 0.25 * below(r, 5));
        x->mem_b[i] = x->mem_f[i] - x->mem_w[i];
        device_memory[x->device_of[i]] += x->mem_f[i];
    }
    for (uint32_t d = 0; d < devices; d++) {
        most = device_memory[d] > most ? device_memory[d] : most;
    }
    x->p = (struct sf_synth_problem){.devices = devices,
                                     .microbatches = microbatches,
                                     .stages = devices * chunks,
                                     .f = x->f,
                                     .b = x->b,
                                     .w = x->w,
                                     .comm = below(r, 4),
                                     .mem_f = x->mem_f,
                                     .mem_b = x->mem_b,
                                     .mem_w = x->mem_w,
                                     .memory_limit = most * (1 + 0.25 * below(r, 9)),
                                     .device_of = x->device_of};
}

/* ---- every order of every device, replayed ----------------------------------------------------------------------- */

struct rows { /* of one device */
    uint32_t n, length;
    struct sf_pass row[MAX_ROWS][MAX_ROW];
};

/* Microbatches in any order where there are two, so that renaming them is put to the test too. */
static void list_rows(const struct problem *x, uint32_t d, struct rows *out, struct sf_pass *row, uint32_t at,
                      uint8_t *next) {
    uint32_t stages = x->p.stages, m = x->p.microbatches;
    if (at == 3 * m * stages / x->p.devices) {
        assert_true(out->n < MAX_ROWS);
        out->length = at;
        memcpy(out->row[out->n++], row, at * sizeof *row);
        return;
    }
    for (uint32_t i = 0; i < stages * m; i++) {
        uint32_t stage = i / m, mb = i % m;
        uint8_t kind = next[i];
        bool early = m > 2 && mb > 0 && next[i - 1] <= kind;
        if (x->device_of[stage] == d && kind <= SF_PASS_W && !early) {
            row[at] = (struct sf_pass){.kind = kind, .stage = (uint16_t)stage, .microbatch = mb};
            next[i]++;
            list_rows(x, d, out, row, at + 1, next);
            next[i]--;
        }
    }
}

static sf_time_ps brute_force(const struct problem *x) {
    static struct rows rows[MAX_STAGES];
    struct sf_pipe_costs c = {
        .f = x->f, .b = x->b, .w = x->w, .comm = x->p.comm, .mem_f = x->mem_f, .mem_b = x->mem_b, .mem_w = x->mem_w};
    struct sf_pipe_scratch *scratch = sf_pipe_scratch_create();
    struct sf_pipe *pipe;
    struct sf_err err;
    sf_time_ps best = INT64_MAX;
    uint32_t all = 1;
    assert_int_equal(sf_pipe_create(x->p.devices, x->p.stages, x->p.microbatches, 1, &pipe, &err), 0);
    memcpy(pipe->device_of, x->device_of, x->p.stages * sizeof *x->device_of);
    for (uint32_t d = 0; d < x->p.devices; d++) {
        struct sf_pass row[MAX_ROW];
        uint8_t next[MAX_ROW] = {0}; /* kind, by stage and microbatch */
        rows[d].n = 0;
        list_rows(x, d, &rows[d], row, 0, next);
        all *= rows[d].n;
    }
    for (uint32_t code = 0; code < all; code++) {
        uint32_t left = code;
        for (uint32_t d = 0; d < x->p.devices; d++) {
            pipe->passes_n[d] = rows[d].length;
            memcpy(pipe->passes[d], rows[d].row[left % rows[d].n], rows[d].length * sizeof(struct sf_pass));
            left /= rows[d].n;
        }
        struct sf_pipe_timing t;
        if (sf_pipe_replay_with(scratch, pipe, &c, &t, NULL, NULL, &err) == 0 &&
            t.peak_memory <= x->p.memory_limit * (1 + 1e-9)) {
            best = t.span < best ? t.span : best;
        }
    }
    sf_pipe_free(pipe);
    sf_pipe_scratch_free(scratch);
    return best;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

struct tally {
    uint32_t n, proven, tight, by_reason[SF_BOUND_SEARCH + 1];
};

/* What was found is a schedule, keeps the limit and takes as long as the search says. */
static void check_replay(const struct problem *x, const struct sfi_exact *e) {
    struct sf_pipe_costs c = {
        .f = x->f, .b = x->b, .w = x->w, .comm = x->p.comm, .mem_f = x->mem_f, .mem_b = x->mem_b, .mem_w = x->mem_w};
    struct sf_pipe_timing t;
    struct sf_pipe *pipe;
    struct sf_err err;
    assert_int_equal(sf_pipe_create(x->p.devices, x->p.stages, x->p.microbatches, 1, &pipe, &err), 0);
    memcpy(pipe->device_of, x->device_of, x->p.stages * sizeof *x->device_of);
    for (uint32_t i = 0; i < 3 * x->p.stages * x->p.microbatches; i++) {
        const struct sf_pass *p = &e->best[i];
        sf_pipe_push(pipe, x->device_of[p->stage], (enum sf_pass_kind)p->kind, p->stage, p->microbatch, 0);
    }
    assert_int_equal(sf_pipe_replay(pipe, &c, &t, NULL, NULL, &err), 0);
    assert_int_equal(t.span, e->span);
    assert_true(t.peak_memory <= x->p.memory_limit * (1 + 1e-9));
    sf_pipe_free(pipe);
}

/* INT64_MAX: nothing keeps the limit; -1: out of steps. */
static sf_time_ps search_all(const struct problem *x, uint64_t steps, struct tally *t) {
    struct sfi_shape shape = {.chunks = x->p.stages / x->p.devices};
    struct sfi_synth s;
    struct sf_err err;
    struct sf_bound_why why;
    static struct sfi_exact e;
    e = (struct sfi_exact){.span = INT64_MAX, .steps = steps};
    assert_int_equal(sfi_synth_init(&x->p, &shape, &s, &err), 0);
    sf_time_ps bound = sfi_bound(&s, &why);
    assert_int_equal(sfi_bound_machines(&s, &bound, &why, &err), 0);
    assert_int_equal(sfi_exact(&s, 0, &e, &err), 0);
    sf_time_ps span = e.span;
    bool proven = e.proven;
    if (span < INT64_MAX) {
        check_replay(x, &e);
    }
    sfi_synth_clear(&s);
    if (bound > span) {
        fail_msg("%u devices, %u stages, %u microbatches: bound %lld (%s) above the span %lld of a schedule",
                 x->p.devices, x->p.stages, x->p.microbatches, (long long)bound, sf_bound_reason_text(why.reason),
                 (long long)span);
    }
    t->n++;
    t->proven += proven;
    t->tight += proven && bound == span;
    t->by_reason[why.reason]++;
    return proven ? span : -1;
}

static void exhaustive_search_equals_brute_force(void **state) {
    (void)state;
    static const uint32_t sizes[][3] = {{2, 1, 2}, {3, 1, 2}, {2, 1, 3}, {2, 2, 1}, {3, 2, 1}, {1, 2, 1}};
    struct sf_rng r = sf_rng_seed(7);
    struct tally t = {.n = 0};
    for (int i = 0; i < 240; i++) {
        const uint32_t *size = sizes[i % 6];
        struct problem x;
        random_problem(&r, size[0], size[1], size[2], &x);
        assert_int_equal(search_all(&x, UINT64_C(50000000), &t), brute_force(&x));
    }
}

static void no_schedule_is_below_the_bound(void **state) {
    (void)state;
    struct sf_rng r = sf_rng_seed(11);
    struct tally t = {.n = 0};
    for (int i = 0; i < 12000; i++) {
        struct problem x;
        uint32_t devices = 1 + below(&r, 4), chunks = 1 + below(&r, devices > 2 ? 2 : 3);
        random_problem(&r, devices, chunks, 1 + below(&r, devices * chunks > 5 ? 4 : 6), &x);
        search_all(&x, 3000, &t);
    }
    print_message("%u problems, %u searched to the end, bound reached by %u of them; by reason %u %u %u %u %u %u\n",
                  t.n, t.proven, t.tight, t.by_reason[0], t.by_reason[1], t.by_reason[2], t.by_reason[3],
                  t.by_reason[4], t.by_reason[5]);
    for (int reason = 0; reason < SF_BOUND_SEARCH; reason++) {
        assert_true(t.by_reason[reason] > 0); /* every kind of bound was put to the test */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exhaustive_search_equals_brute_force),
        cmocka_unit_test(no_schedule_is_below_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
