/* The channel between processes that no MPI connects: each test runs its ranks as processes of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/clock.h"
#include "runtime/cuda/run_peers.h"

#define RANKS 4
#define SECOND INT64_C(1000000000)
#define PART_BYTES (5u << 20) /* more than sockets hold */

static struct sfi_meeting_place place = {.host = "127.0.0.1", .run = "test"};
static struct sf_err *seen; /* [RANKS] shared: what each rank found */

static int listener_at(uint16_t port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(s, (const struct sockaddr *)&at, sizeof at) != 0 || listen(s, 4) != 0) {
        close(s);
        return -1;
    }
    return s;
}

/* A port that is free together with the two after it. */
static uint16_t free_port(void) {
    for (uint16_t port = (uint16_t)(21000 + getpid() % 9000);; port = (uint16_t)(port + 3)) {
        int s[3] = {listener_at(port), listener_at((uint16_t)(port + 1)), listener_at((uint16_t)(port + 2))};
        bool free = s[0] >= 0 && s[1] >= 0 && s[2] >= 0;
        for (int i = 0; i < 3; i++) {
            close(s[i]);
        }
        if (free) {
            return port;
        }
    }
}

static int set_up(void **state) {
    (void)state;
    if (!seen) {
        seen = mmap(NULL, RANKS * sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        signal(SIGPIPE, SIG_DFL); /* to be ended by it would be a fault */
    }
    memset(seen, 0, RANKS * sizeof *seen);
    place.peers_port = free_port();
    place.nccl_port = (uint16_t)(place.peers_port + 1);
    return 0;
}

static void nap(int64_t ns) {
    const struct timespec t = {.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
    nanosleep(&t, NULL);
}

typedef int (*work_fn)(struct sf_rt_peers *p, uint32_t rank, struct sf_err *err);

static int be_rank(uint32_t rank, work_fn work, struct sf_err *err) {
    struct sf_rt_peers *p = NULL;
    int rc = sfi_peers_join(&place, rank, RANKS, 5 * SECOND, &p, err);
    rc = rc == SF_OK ? work(p, rank, err) : rc;
    sf_rt_peers_close(p, rc, err);
    return rc;
}

/* Every rank's exit code is that of its error; all within two seconds. */
static void run_ranks(work_fn work, uint32_t first, uint32_t end) {
    pid_t pid[RANKS];
    int64_t begin = sfi_now_ns();
    for (uint32_t r = first; r < end; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            _exit(be_rank(r, work, &seen[r]));
        }
    }
    for (uint32_t r = first; r < end; r++) {
        int status;
        waitpid(pid[r], &status, 0);
        if (WIFEXITED(status)) {
            assert_int_equal(WEXITSTATUS(status), seen[r].code);
        } else {
            assert_int_equal(WTERMSIG(status), SIGKILL);
        }
    }
    assert_true(sfi_now_ns() - begin < 2 * SECOND);
}

static void expect_seen(uint32_t rank, int code, const char *text) {
    if (seen[rank].code != code || !strstr(seen[rank].msg, text)) {
        fail_msg("rank %u: expected code %d \"%s\", found %d \"%s\"", rank, code, text, seen[rank].code,
                 seen[rank].msg);
    }
}

static void expect_all_well(void) {
    for (uint32_t r = 0; r < RANKS; r++) {
        expect_seen(r, SF_OK, "");
    }
}

/* ---- going well ------------------------------------------------------------------------------------------------- */

struct taken {
    uint32_t next;
    bool equal;
};

static void fill(unsigned char *part, uint32_t rank, size_t n) {
    for (size_t i = 0; i < n; i++) {
        part[i] = (unsigned char)(i * 31 + rank);
    }
}

static size_t part_bytes(uint32_t rank) {
    return rank == 2 ? 0 : PART_BYTES + rank;
}

static int take(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err) {
    struct taken *t = self;
    unsigned char *expected = malloc(PART_BYTES + RANKS);
    fill(expected, rank, part_bytes(rank));
    bool equal = rank == t->next++ && bytes == part_bytes(rank) && (bytes == 0 || memcmp(data, expected, bytes) == 0);
    free(expected);
    return equal ? SF_OK : sf_fail(err, SF_E_INTERNAL, "another part than rank %u sent", rank);
}

static int work_together(struct sf_rt_peers *p, uint32_t rank, struct sf_err *err) {
    unsigned char *mine = malloc(PART_BYTES + RANKS);
    struct taken t = {0};
    fill(mine, rank, part_bytes(rank));
    int rc = sf_rt_peers_agree(p, SF_OK, err);
    nap(rank * SECOND / 50);
    rc = rc == SF_OK ? sfi_peers_agree_on(p, SF_OK, 77, "number", err) : rc;
    rc = rc == SF_OK ? sfi_peers_gather(p, mine, part_bytes(rank), take, &t, err) : rc;
    rc = rc == SF_OK ? sf_rt_peers_agree(p, SF_OK, err) : rc;
    nap((RANKS - rank) * SECOND / 50); /* rank 0 leaves last, then first */
    rc = rc == SF_OK ? sfi_peers_look(p, err) : rc;
    free(mine);
    return rc;
}

static int leave_early(struct sf_rt_peers *p, uint32_t rank, struct sf_err *err) {
    int rc = sf_rt_peers_agree(p, SF_OK, err);
    nap(rank * SECOND / 20); /* rank 0 is gone when the others look */
    return rc == SF_OK ? sfi_peers_look(p, err) : rc;
}

static void test_agree_and_gather(void **state) {
    (void)state;
    run_ranks(work_together, 0, RANKS);
    expect_all_well();
}

static void test_leaving_is_no_failure(void **state) {
    (void)state;
    run_ranks(leave_early, 0, RANKS);
    expect_all_well();
}

/* ---- going wrong ------------------------------------------------------------------------------------------------ */

/* As a rank does that waits for NCCL. */
static int watch(struct sf_rt_peers *p, struct sf_err *err) {
    for (int64_t begin = sfi_now_ns(); sfi_now_ns() - begin < 10 * SECOND; nap(SECOND / 100)) {
        SF_TRY(sfi_peers_look(p, err));
    }
    return sf_fail(err, SF_E_INTERNAL, "nobody said anything");
}

static uint32_t culprit;

static int one_fails_in_setup(struct sf_rt_peers *p, uint32_t rank, struct sf_err *err) {
    int rc = rank == culprit ? sf_fail_at(err, SF_E_INPUT, "model.json", 3, 7, "no such layer") : SF_OK;
    return sf_rt_peers_agree(p, rc, err);
}

static int one_gives_up(struct sf_rt_peers *p, uint32_t rank, struct sf_err *err) {
    SF_TRY(sf_rt_peers_agree(p, SF_OK, err));
    if (rank == culprit) {
        nap(SECOND / 20);
        sf_fail(err, SF_E_FAULT, "the link is cut");
        sfi_peers_tell(p, err);
        return err->code;
    }
    return watch(p, err);
}

static int one_is_killed(struct sf_rt_peers *p, uint32_t rank, struct sf_err *err) {
    SF_TRY(sf_rt_peers_agree(p, SF_OK, err));
    if (rank == culprit) {
        raise(SIGKILL);
    }
    return rank % 2 ? watch(p, err) : sf_rt_peers_agree(p, SF_OK, err);
}

static void expect_others(int code, const char *text) {
    for (uint32_t r = 0; r < RANKS; r++) {
        char named[256];
        snprintf(named, sizeof named, "rank %u: %s", culprit, text);
        if (r != culprit) {
            expect_seen(r, code, named);
        }
    }
}

static void test_a_failure_reaches_all(void **state) {
    (void)state;
    for (culprit = 0; culprit < RANKS; culprit++) {
        set_up(NULL);
        run_ranks(one_fails_in_setup, 0, RANKS);
        expect_others(SF_E_INPUT, "no such layer");
        expect_seen(culprit, SF_E_INPUT, "no such layer");
        assert_string_equal(seen[(culprit + 1) % RANKS].file, "model.json");
        set_up(NULL);
        run_ranks(one_gives_up, 0, RANKS);
        expect_others(SF_E_FAULT, "the link is cut");
    }
}

static void test_a_death_reaches_all(void **state) {
    (void)state;
    for (culprit = 0; culprit < RANKS; culprit++) {
        set_up(NULL);
        run_ranks(one_is_killed, 0, RANKS);
        expect_others(SF_E_FAULT, "is gone, without a word");
    }
}

static int another_program(struct sf_rt_peers *p, uint32_t rank, struct sf_err *err) {
    return sfi_peers_agree_on(p, SF_OK, rank == 2 ? 8 : 9, "program", err);
}

static void test_all_mean_the_same(void **state) {
    (void)state;
    run_ranks(another_program, 0, RANKS);
    for (uint32_t r = 0; r < RANKS; r++) {
        expect_seen(r, SF_E_USAGE, r == 2 ? "has another program than rank 0" : "rank 2: has another program");
    }
}

static int refuse(void *self, uint32_t rank, const void *data, uint64_t bytes, struct sf_err *err) {
    (void)self;
    (void)data;
    (void)bytes;
    return rank == 1 ? sf_fail(err, SF_E_IO, "the disk is full") : SF_OK;
}

static int gather_in_vain(struct sf_rt_peers *p, uint32_t rank, struct sf_err *err) {
    unsigned char *mine = calloc(PART_BYTES, 1);
    (void)rank;
    int rc = sf_rt_peers_agree(p, sfi_peers_gather(p, mine, PART_BYTES, refuse, NULL, err), err);
    free(mine);
    return rc;
}

static void test_who_sends_learns_too(void **state) {
    (void)state;
    culprit = 0;
    run_ranks(gather_in_vain, 0, RANKS);
    expect_others(SF_E_IO, "the disk is full");
}

/* ---- the door --------------------------------------------------------------------------------------------------- */

static int stranger(const void *data, size_t bytes) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(place.peers_port)};
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    for (int i = 0; i < 200; i++, nap(SECOND / 100)) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s, (const struct sockaddr *)&at, sizeof at) == 0) {
            (void)!write(s, data, bytes);
            return s;
        }
        close(s);
    }
    return -1;
}

static void test_strangers_are_sent_away(void **state) {
    const char request[] =
        "GET / HTTP/1.1\r\nHost: somebody who has come to the wrong door and says far too much of it\r\n"
        "Accept: everything, at length, until the greeting of a rank would be full\r\n\r\n";
    struct sf_rt_peers *p = NULL;
    (void)state;
    pid_t first = fork();
    if (first == 0) {
        _exit(be_rank(0, work_together, &seen[0]));
    }
    int silent[8];
    for (int i = 0; i < 8; i++) {
        silent[i] = stranger("x", (size_t)(i % 2));
        close(stranger(request, sizeof request));
    }
    struct sfi_meeting_place other = place;
    snprintf(other.run, sizeof other.run, "another");
    struct sf_err err = {0};
    assert_int_equal(sfi_peers_join(&other, 1, RANKS, SECOND, &p, &err), SF_E_USAGE);
    assert_non_null(strstr(err.msg, "belongs to another run"));
    assert_int_equal(sfi_peers_join(&place, RANKS, RANKS + 1, SECOND, &p, &err), SF_E_USAGE);
    run_ranks(work_together, 1, RANKS);
    waitpid(first, NULL, 0);
    expect_all_well();
    for (int i = 0; i < 8; i++) {
        close(silent[i]);
    }
}

static void test_nobody_comes(void **state) {
    struct sf_rt_peers *p = NULL;
    struct sf_err err = {0};
    (void)state;
    assert_int_equal(sfi_peers_join(&place, 0, 3, SECOND / 10, &p, &err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "of 3 ranks 2 did not come"));
    assert_non_null(strstr(err.msg, ": 1 2"));
    assert_int_equal(sfi_peers_join(&place, 1, 3, SECOND / 10, &p, &err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "rank 0 did not answer at 127.0.0.1 port"));
}

static void test_a_port_that_is_taken(void **state) {
    struct sf_rt_peers *p = NULL;
    struct sf_err err = {0};
    int held = listener_at(place.peers_port);
    (void)state;
    assert_int_equal(sfi_peers_join(&place, 0, 2, SECOND, &p, &err), SF_E_FAULT);
    assert_non_null(strstr(err.msg, "Address already in use"));
    assert_non_null(strstr(err.msg, "MASTER_PORT"));
    close(held);
}

/* ---- under torchrun --------------------------------------------------------------------------------------------- */

static int open_under_torchrun(uint32_t rank, struct sf_err *err) {
    struct sf_rt_peers *p = NULL;
    char expected[64];
    int rc = sf_rt_peers_open(rank, 2, &p, err);
    sf_rt_peers_close(p, rc, err);
    snprintf(expected, sizeof expected, "127.0.0.1:%u", place.nccl_port);
    const char *told = getenv("NCCL_COMM_ID");
    return rc == SF_OK && (!told || strcmp(told, expected) != 0)
               ? sf_fail(err, SF_E_INTERNAL, "NCCL_COMM_ID=%s", told ? told : "")
               : rc;
}

/* The agent listens on MASTER_PORT as torchrun's does. */
static void run_under_torchrun(uint16_t port, const char *agent) {
    char text[16];
    snprintf(text, sizeof text, "%u", port);
    for (uint32_t r = 0; r < 2; r++) {
        if (fork() == 0) {
            setenv("RANK", r == 0 ? "0" : "1", 1);
            setenv("WORLD_SIZE", "2", 1);
            setenv("MASTER_ADDR", "127.0.0.1", 1);
            setenv("MASTER_PORT", text, 1);
            setenv("TORCHELASTIC_USE_AGENT_STORE", agent, 1);
            _exit(open_under_torchrun(r, &seen[r]));
        }
    }
    while (wait(NULL) > 0) {
    }
}

static void test_beside_the_agent(void **state) {
    uint16_t port = place.peers_port;
    int held = listener_at(port);
    (void)state;
    place.nccl_port = (uint16_t)(port + 1);
    run_under_torchrun(port, "True");
    expect_seen(0, SF_OK, "");
    expect_seen(1, SF_OK, "");
    run_under_torchrun(port, "False"); /* somebody else's port, then */
    expect_seen(0, SF_E_FAULT, "where NCCL's first rank is to listen, cannot be had: Address already in use");
    expect_seen(1, SF_E_FAULT, "rank 0: port");
    close(held);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_agree_and_gather, set_up),
        cmocka_unit_test_setup(test_leaving_is_no_failure, set_up),
        cmocka_unit_test_setup(test_a_failure_reaches_all, set_up),
        cmocka_unit_test_setup(test_a_death_reaches_all, set_up),
        cmocka_unit_test_setup(test_all_mean_the_same, set_up),
        cmocka_unit_test_setup(test_who_sends_learns_too, set_up),
        cmocka_unit_test_setup(test_strangers_are_sent_away, set_up),
        cmocka_unit_test_setup(test_nobody_comes, set_up),
        cmocka_unit_test_setup(test_a_port_that_is_taken, set_up),
        cmocka_unit_test_setup(test_beside_the_agent, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
