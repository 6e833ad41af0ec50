/* The transport between threads by itself: sums against a reference, bit by bit, and who gets which message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/prog_build.h"
#include "core/rng.h"
#include "runtime/transport.h"

#define MAX_RANKS 16
#define MAX_XFERS 8

/* What one thread does: start all its transfers in the order given, then poll until all are done; `rounds` times. */
struct actor {
    pthread_t thread;
    struct sfi_transport net;
    struct sfi_xfer xfers[MAX_XFERS];
    uint32_t order[MAX_XFERS];
    uint32_t rank, n, rounds;
    bool failed;
};

struct scene {
    struct sf_prog *prog;
    struct sfi_threads *net;
    struct actor actors[MAX_RANKS];
    uint32_t ranks;
};

/* Meshes of one axis, with a communicator over it; the one op of its class is there because there must be one. */
static void scene_open(struct scene *s, uint32_t ranks) {
    static const uint32_t class_of[] = {0};
    struct sf_build *b = sf_build_create();
    uint32_t axis = sf_build_axis(b, "dp", ranks);
    memset(s, 0, sizeof *s);
    struct sf_op op = {.kind = SF_OP_ALL_REDUCE, .recipe = SF_NONE, .bytes = sizeof(float)};
    op.comm = sf_build_comm(b, "dp", 1u << axis);
    sf_build_stream(b, "only");
    sf_build_class_begin(b, "all", 0);
    struct sf_arg arg = {.access = SF_READ_WRITE, .bytes = op.bytes};
    arg.buf = sf_build_buffer(b, "unused", SF_BUF_WORK, op.bytes, true);
    sf_build_op(b, &op, &arg, 1, NULL, 0);
    sf_build_class_end(b);
    struct sf_err err = {0};
    if (sf_build_finish(b, class_of, 1, &s->prog, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    sf_build_free(b);
    s->ranks = ranks;
    for (uint32_t r = 0; r < ranks; r++) {
        s->actors[r].rank = r;
        s->actors[r].rounds = 1;
    }
}

static struct sfi_xfer *add(struct scene *s, uint32_t rank, uint8_t kind, void *x, void *y, uint64_t bytes) {
    struct actor *a = &s->actors[rank];
    a->order[a->n] = a->n;
    struct sfi_xfer *f = &a->xfers[a->n++];
    bool p2p = kind == SF_OP_SEND || kind == SF_OP_RECV;
    *f = (struct sfi_xfer){.kind = kind, .x = x, .y = y, .bytes = bytes};
    f->n = p2p ? 2 : s->ranks;
    f->index = p2p ? kind == SF_OP_RECV : rank;
    return f;
}

static void *act(void *self) {
    struct actor *a = self;
    struct sf_err err;
    bool done[MAX_XFERS];
    for (uint32_t round = 0; round < a->rounds && !a->failed; round++) {
        for (uint32_t i = 0; i < a->n; i++) {
            enum sf_issue state = a->net.start(a->net.self, a->rank, &a->xfers[a->order[i]], &err);
            a->failed |= state == SF_ISSUE_FAILED;
            done[a->order[i]] = state == SF_ISSUE_DONE;
        }
        for (uint32_t left = 1; left > 0 && !a->failed;) {
            left = 0;
            for (uint32_t i = 0; i < a->n; i++) {
                enum sf_issue state = done[i] ? SF_ISSUE_DONE : a->net.test(a->net.self, a->rank, &a->xfers[i], &err);
                a->failed |= state == SF_ISSUE_FAILED;
                done[i] = state == SF_ISSUE_DONE;
                left += !done[i];
            }
            if (left > 0) {
                a->net.idle(a->net.self, a->rank);
            }
        }
    }
    return NULL;
}

static void scene_play(struct scene *s) {
    struct sfi_xfer *xfers[MAX_RANKS];
    uint32_t xfers_n[MAX_RANKS];
    struct sf_err err = {0};
    for (uint32_t r = 0; r < s->ranks; r++) {
        xfers[r] = s->actors[r].xfers;
        xfers_n[r] = s->actors[r].n;
    }
    if (sfi_threads_create(s->prog, xfers, xfers_n, 8, &s->net, &err) != SF_OK) {
        fail_msg("%s", err.msg);
    }
    for (uint32_t r = 0; r < s->ranks; r++) {
        s->actors[r].net = sfi_threads_transport(s->net);
        assert_int_equal(pthread_create(&s->actors[r].thread, NULL, act, &s->actors[r]), 0);
    }
    for (uint32_t r = 0; r < s->ranks; r++) {
        pthread_join(s->actors[r].thread, NULL);
    }
}

static void scene_close(struct scene *s) {
    sfi_threads_destroy(s->net);
    sf_prog_free(s->prog);
}

/* The canonical tree over members, written out: neighbours first, an odd one out waits for the next level. */
static float tree(const float *v, uint32_t n) {
    float level[MAX_RANKS];
    memcpy(level, v, n * sizeof *v);
    while (n > 1) {
        uint32_t m = 0;
        for (uint32_t i = 0; i < n; i += 2, m++) {
            level[m] = i + 1 < n ? level[i] + level[i + 1] : level[i];
        }
        n = m;
    }
    return level[0];
}

#define COUNT 1001 /* divides by no group size but 7, 11, 13 */

static void fill(float *x, uint32_t rank) {
    struct sf_rng root = sf_rng_seed(3), r = sf_rng_split(&root, rank);
    for (uint32_t i = 0; i < COUNT; i++) {
        x[i] = (float)(sf_rng_normal(&r) * (double)(1u << (4 * (rank % 4))));
    }
}

static float input[MAX_RANKS][COUNT * MAX_RANKS], output[MAX_RANKS][COUNT * MAX_RANKS];

static float reference(uint32_t n, uint32_t element) {
    float v[MAX_RANKS];
    for (uint32_t r = 0; r < n; r++) {
        v[r] = input[r][element];
    }
    return tree(v, n);
}

static void test_all_reduce_is_the_canonical_sum(void **state) {
    (void)state;
    static float before[MAX_RANKS][COUNT], want[COUNT];
    static const uint32_t sizes[] = {1, 2, 3, 4, 5, 8, 13};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct scene s;
        uint32_t n = sizes[k];
        scene_open(&s, n);
        for (uint32_t r = 0; r < n; r++) {
            fill(input[r], r);
            memcpy(before[r], input[r], sizeof before[r]);
            add(&s, r, SF_OP_ALL_REDUCE, input[r], NULL, COUNT * sizeof(float));
        }
        for (uint32_t i = 0; i < COUNT; i++) {
            want[i] = reference(n, i);
        }
        scene_play(&s);
        for (uint32_t r = 0; r < n; r++) {
            assert_false(s.actors[r].failed);
            assert_memory_equal(input[r], want, sizeof want);
        }
        assert_true(n == 1 || memcmp(before[0], want, sizeof want) != 0);
        scene_close(&s);
    }
}

static void test_scatter_and_gather_are_the_two_halves(void **state) {
    (void)state;
    for (uint32_t n = 1; n <= 6; n++) {
        struct scene s;
        uint64_t share = 160, whole = share * n;
        scene_open(&s, n);
        for (uint32_t r = 0; r < n; r++) {
            struct sf_rng root = sf_rng_seed(5), g = sf_rng_split(&root, r);
            for (uint64_t i = 0; i < whole; i++) {
                input[r][i] = (float)sf_rng_normal(&g);
            }
            memset(output[r], 0, sizeof output[r]);
            add(&s, r, SF_OP_REDUCE_SCATTER, input[r], output[r], whole * sizeof(float));
        }
        scene_play(&s);
        for (uint32_t r = 0; r < n; r++) {
            for (uint32_t i = 0; i < share; i++) {
                assert_true(output[r][i] == reference(n, (uint32_t)(r * share + i)));
            }
        }
        scene_close(&s);
        scene_open(&s, n);
        for (uint32_t r = 0; r < n; r++) {
            add(&s, r, SF_OP_ALL_GATHER, output[r], input[r], whole * sizeof(float));
        }
        scene_play(&s);
        for (uint32_t r = 0; r < n; r++) {
            for (uint32_t i = 0; i < n; i++) {
                assert_memory_equal(input[r] + i * share, output[i], share * sizeof(float));
            }
        }
        scene_close(&s);
    }
}

/* Two messages of one pair, posted in opposite orders by its ends: numbers decide, not the order of arrival. */
static void test_messages_match_by_number(void **state) {
    (void)state;
    struct scene s;
    char sent[3][64], got[3][64];
    scene_open(&s, 2);
    for (uint32_t i = 0; i < 3; i++) {
        memset(sent[i], 'a' + (int)i, sizeof sent[i]);
        memset(got[i], 0, sizeof got[i]);
        struct sfi_xfer *out = add(&s, 0, SF_OP_SEND, sent[i], NULL, sizeof sent[i]);
        out->peer = 1;
        out->seq = i;
        struct sfi_xfer *in = add(&s, 1, SF_OP_RECV, got[i], NULL, sizeof got[i]);
        in->peer = 0;
        in->seq = i;
        s.actors[1].order[i] = 2 - i;
    }
    scene_play(&s);
    assert_memory_equal(got, sent, sizeof sent);
    scene_close(&s);
}

/* A token goes round a ring many times; ranks sleep in between, and every link is used again and again. */
static void test_ring_of_more_ranks_than_cores(void **state) {
    (void)state;
    enum { ROUNDS = 50 };
    struct scene s;
    static uint32_t value[MAX_RANKS][2];
    scene_open(&s, MAX_RANKS);
    for (uint32_t r = 0; r < MAX_RANKS; r++) {
        value[r][0] = 1000 + r;
        add(&s, r, SF_OP_SEND, &value[r][0], NULL, sizeof value[r][0])->peer = (r + 1) % MAX_RANKS;
        add(&s, r, SF_OP_RECV, &value[r][1], NULL, sizeof value[r][1])->peer = (r + MAX_RANKS - 1) % MAX_RANKS;
        s.actors[r].rounds = ROUNDS;
    }
    scene_play(&s);
    for (uint32_t r = 0; r < MAX_RANKS; r++) {
        assert_int_equal(value[r][1], 1000 + (r + MAX_RANKS - 1) % MAX_RANKS);
        assert_int_equal(s.actors[r].xfers[1].round, ROUNDS);
        assert_true(s.actors[r].xfers[1].busy_ns >= 0 && s.actors[r].xfers[1].start_ns > 0);
    }
    scene_close(&s);
}

static void test_unmatched_transfers_are_refused(void **state) {
    (void)state;
    struct scene s;
    struct sfi_threads *net = NULL;
    struct sf_err err = {0};
    char byte = 0;
    scene_open(&s, 2);
    add(&s, 0, SF_OP_SEND, &byte, NULL, 1)->peer = 1;
    struct sfi_xfer *xfers[] = {s.actors[0].xfers, s.actors[1].xfers};
    const uint32_t none[] = {1, 0};
    assert_int_equal(sfi_threads_create(s.prog, xfers, none, 8, &net, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "rank 0: send number 0"));
    add(&s, 1, SF_OP_RECV, &byte, NULL, 2)->peer = 0;
    const uint32_t both[] = {1, 1};
    assert_int_equal(sfi_threads_create(s.prog, xfers, both, 8, &net, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "does not fit its partners"));
    sf_prog_free(s.prog);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_reduce_is_the_canonical_sum),
        cmocka_unit_test(test_scatter_and_gather_are_the_two_halves),
        cmocka_unit_test(test_messages_match_by_number),
        cmocka_unit_test(test_ring_of_more_ranks_than_cores),
        cmocka_unit_test(test_unmatched_transfers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
