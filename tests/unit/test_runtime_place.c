/* Who a process is by its launcher's variables, and where processes meet that no MPI connects. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/run_place.h"
#include "runtime/rt.h"

static const char *const variables[] = {"RANK",
                                        "WORLD_SIZE",
                                        "LOCAL_WORLD_SIZE",
                                        "MASTER_ADDR",
                                        "MASTER_PORT",
                                        "SLURM_STEP_ID",
                                        "SLURM_STEP_NUM_TASKS",
                                        "SLURM_NTASKS",
                                        "SLURM_PROCID",
                                        "SLURM_JOB_ID",
                                        "SLURM_JOBID",
                                        "SLURM_STEP_NODELIST",
                                        "SLURM_NODELIST",
                                        "SLURM_STEP_NUM_NODES",
                                        "SLURM_NNODES",
                                        "PMIX_RANK",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "PMI_RANK",
                                        "TORCHELASTIC_RUN_ID",
                                        "TORCHELASTIC_USE_AGENT_STORE"};

/* "NAME=value NAME=value": these and no others. */
static void environment(const char *text) {
    char copy[1024], *rest = copy;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        unsetenv(variables[i]);
    }
    snprintf(copy, sizeof copy, "%s", text);
    for (char *one; (one = strsep(&rest, " ")) != NULL;) {
        char *value = strchr(one, '=');
        if (value) {
            *value++ = '\0';
            setenv(one, value, 1);
        }
    }
}

static int clear(void **state) {
    (void)state;
    environment("");
    return 0;
}

static void expect_place(const char *text, uint32_t rank, uint32_t ranks) {
    const struct sf_rt_gpu gpu = {.device = -1};
    struct sf_err err = {0};
    uint32_t r = 99, n = 99;
    bool mpi = true;
    environment(text);
    if (sf_rt_gpu_place(&gpu, &r, &n, &mpi, &err) != SF_OK || r != rank || n != ranks || mpi) {
        fail_msg("%s: rank %u of %u, mpi %d, \"%s\"", text, r, n, mpi, err.msg);
    }
}

static void expect_refused(const char *text, const char *why) {
    const struct sf_rt_gpu gpu = {.device = -1};
    struct sf_err err = {0};
    uint32_t r, n;
    bool mpi;
    environment(text);
    if (sf_rt_gpu_place(&gpu, &r, &n, &mpi, &err) != SF_E_USAGE || !strstr(err.msg, why)) {
        fail_msg("%s: expected \"%s\", found \"%s\"", text, why, err.msg);
    }
}

static void test_torchrun(void **state) {
    (void)state;
    expect_place("", 0, 1);
    expect_place("RANK=3 WORLD_SIZE=8 MASTER_ADDR=h", 3, 8);
    expect_place("RANK=0 WORLD_SIZE=1 MASTER_ADDR=h", 0, 1);
    expect_place("RANK=3 WORLD_SIZE=8 MASTER_ADDR=h SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=2", 3, 8);
    expect_place("RANK=3 WORLD_SIZE=8", 0, 1); /* left over from something else: nothing says where to meet */
    expect_refused("RANK=8 WORLD_SIZE=8 MASTER_ADDR=h", "8 of 8: expected a rank below the number of ranks");
    expect_refused("RANK=-1 WORLD_SIZE=8 MASTER_ADDR=h", "-1 of 8");
    expect_refused("RANK=1x WORLD_SIZE=8 MASTER_ADDR=h", "1x of 8");
    expect_refused("RANK= WORLD_SIZE=8 MASTER_ADDR=h", "RANK, WORLD_SIZE");
    expect_refused("RANK=1 WORLD_SIZE=99999999999999999999 MASTER_ADDR=h", "1 of 99999999999999999999");
    expect_refused("RANK=1 WORLD_SIZE=16777217 MASTER_ADDR=h", "expected a rank");
}

/* MPI_Init would end a process of srun that has no PMIx: reaching the end of this shows that it is not called. */
static void test_srun_without_pmix(void **state) {
    (void)state;
    expect_place("SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=6 SLURM_NTASKS=1", 5, 6);
    expect_place("SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=2", 1, 2);
    expect_place("SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=8", 0, 1);
    expect_place("SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=2 PMI_RANK=1", 1, 2);
    expect_refused("SLURM_STEP_ID=0 SLURM_PROCID=2 SLURM_NTASKS=2", "SLURM_PROCID, SLURM_STEP_NUM_TASKS: 2 of 2");
    expect_refused("SLURM_STEP_ID=0 SLURM_NTASKS=2", "nothing of 2");
    expect_place("SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_JOB_ID=7", 0, 1); /* in a batch script, not in a step */
}

/* ---- hosts ------------------------------------------------------------------------------------------------------ */

static void expect_host(const char *list, const char *expected) {
    char host[SFI_HOST_BYTES];
    struct sf_err err = {0};
    if (sfi_place_first_host(list, host, &err) != SF_OK || strcmp(host, expected) != 0) {
        fail_msg("%s: expected %s, found %s \"%s\"", list, expected, host, err.msg);
    }
}

static void expect_bad_list(const char *list, const char *why) {
    char host[SFI_HOST_BYTES];
    struct sf_err err = {0};
    if (sfi_place_first_host(list, host, &err) != SF_E_USAGE || !strstr(err.msg, why)) {
        fail_msg("%s: expected \"%s\", found \"%s\"", list, why, err.msg);
    }
}

static void test_host_lists(void **state) {
    (void)state;
    expect_host("x1", "x1");
    expect_host("x1,y2", "x1");
    expect_host("node[003-007,9],x1", "node003");
    expect_host("node[9,003-007]", "node9");
    expect_host("a[1-2]b[3-4]", "a1b3");
    expect_host("a[1-2]b[3-4]-ib0.x.example,z[01]", "a1b3-ib0.x.example");
    expect_host("[10-12]", "10");
    expect_host("n[0-0]", "n0");
    expect_host("gpu-a_1.dc[00-31]", "gpu-a_1.dc00");
    expect_host("n[000000000000000001-2]", "n000000000000000001");
}

static void test_hostile_host_lists(void **state) {
    char *longer = malloc(2u << 20);
    (void)state;
    expect_bad_list("", "character 1: expected a host, found its end");
    expect_bad_list(",x", "expected a host");
    expect_bad_list("x,", "character 3: expected a host");
    expect_bad_list("x,,y", "expected a host");
    expect_bad_list("n[", "character 3: expected a number, found its end");
    expect_bad_list("n[]", "expected a number, found \"]\"");
    expect_bad_list("n[1", "expected \"-\", \",\" or \"]\", found its end");
    expect_bad_list("n[1-", "expected a number");
    expect_bad_list("n[1-2", "expected \"-\"");
    expect_bad_list("n[1,]", "expected a number");
    expect_bad_list("n[7-3]", "the end of a range that is not below its begin, found \"3\"");
    expect_bad_list("n[1-2-3]", "found \"-\"");
    expect_bad_list("n[[1]]", "expected a number, found \"[\"");
    expect_bad_list("n]1", "expected a letter");
    expect_bad_list("n[1]x,m[2]$(reboot)", "found \"$\"");
    expect_bad_list("n 1", "found \" \"");
    expect_bad_list("n[1234567890123456789]", "a number of at most 18 digits");
    memset(longer, 'a', 300);
    longer[300] = '\0';
    expect_bad_list(longer, "a name of more than 255 bytes");
    memset(longer, 'a', (2u << 20) - 1);
    longer[(2u << 20) - 1] = '\0';
    expect_bad_list(longer, "a host list of more than");
    free(longer);
}

/* ---- where to meet ---------------------------------------------------------------------------------------------- */

static void expect_meeting(const char *text, const char *host, int nccl, int peers, const char *run) {
    struct sfi_meeting_place p;
    struct sf_err err = {0};
    environment(text);
    if (sfi_place_meeting(&p, &err) != SF_OK) {
        fail_msg("%s: %s", text, err.msg);
    }
    if (strcmp(p.host, host) != 0 || p.nccl_port != nccl || p.peers_port != peers || strcmp(p.run, run) != 0) {
        fail_msg("%s: %s, ports %u and %u, \"%s\"", text, p.host, p.nccl_port, p.peers_port, p.run);
    }
}

static void expect_no_meeting(const char *text, const char *why) {
    struct sfi_meeting_place p;
    struct sf_err err = {0};
    environment(text);
    if (sfi_place_meeting(&p, &err) != SF_E_USAGE || !strstr(err.msg, why)) {
        fail_msg("%s: expected \"%s\", found \"%s\"", text, why, err.msg);
    }
}

#define TORCHRUN "RANK=0 WORLD_SIZE=2 MASTER_ADDR=h "
#define AGENT "TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RUN_ID=r7 "
#define SRUN "SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2 "

static void test_ports(void **state) {
    (void)state;
    expect_meeting(TORCHRUN, "h", 29500, 29501, "");
    expect_meeting(TORCHRUN "MASTER_PORT=4000", "h", 4000, 4001, "");
    expect_meeting(TORCHRUN "MASTER_PORT=4000 TORCHELASTIC_USE_AGENT_STORE=False", "h", 4000, 4001, "");
    expect_meeting(TORCHRUN AGENT "MASTER_PORT=4000", "h", 4001, 4002, "r7");
    expect_meeting(TORCHRUN AGENT "MASTER_PORT=65535", "h", 65534, 65533, "r7");
    expect_meeting(TORCHRUN AGENT "MASTER_PORT=65533", "h", 65534, 65535, "r7");
    expect_meeting(TORCHRUN "MASTER_PORT=65535", "h", 65535, 65534, "");
    expect_no_meeting(TORCHRUN "MASTER_PORT=0", "MASTER_PORT=0: expected a number from 1 to 65535");
    expect_no_meeting(TORCHRUN "MASTER_PORT=65536", "MASTER_PORT=65536");
    expect_no_meeting(TORCHRUN "MASTER_PORT=http", "MASTER_PORT=http");
}

static void test_meeting_under_srun(void **state) {
    (void)state;
    expect_meeting(SRUN "SLURM_STEP_NODELIST=n[3-4] SLURM_NODELIST=n[1-4] SLURM_JOB_ID=21", "n3", 20042, 20043, "21.0");
    expect_meeting(SRUN "SLURM_NODELIST=n[1-4] SLURM_JOBID=5021", "n1", 20042, 20043, "5021.0");
    expect_meeting(SRUN "SLURM_NODELIST=n1 MASTER_ADDR=::1 MASTER_PORT=77", "::1", 77, 78, ".0");
    expect_no_meeting(SRUN, "neither MASTER_ADDR nor SLURM_STEP_NODELIST");
    expect_no_meeting(SRUN "SLURM_NODELIST=n[", "expected a number");
}

static void test_who_shares_a_host(void **state) {
    (void)state;
    environment(TORCHRUN "LOCAL_WORLD_SIZE=2");
    assert_true(sfi_place_shares_host());
    environment(TORCHRUN "LOCAL_WORLD_SIZE=1");
    assert_false(sfi_place_shares_host());
    environment(TORCHRUN);
    assert_false(sfi_place_shares_host());
    environment(SRUN "SLURM_STEP_NUM_NODES=1 SLURM_NNODES=4");
    assert_true(sfi_place_shares_host());
    environment(SRUN "SLURM_NNODES=4");
    assert_false(sfi_place_shares_host());
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_torchrun),
                                       cmocka_unit_test(test_srun_without_pmix),
                                       cmocka_unit_test(test_host_lists),
                                       cmocka_unit_test(test_hostile_host_lists),
                                       cmocka_unit_test(test_ports),
                                       cmocka_unit_test(test_meeting_under_srun),
                                       cmocka_unit_test(test_who_shares_a_host)};
    return cmocka_run_group_tests(tests, NULL, clear);
}
