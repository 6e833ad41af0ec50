/* staticfire run: compile what needs compiling, then hand over to staticfire-run. */
#include <sys/wait.h>
#include <signal.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/find.h"
#include "cli/load.h"
#include "cli/print.h"

struct run_args {
    const char *target, *transport, *backend, *trace, *data, *dump, *log, *stall, *output, *cluster, *program;
    uint32_t steps;
    char **rest; /* what follows "--", for staticfire-run as it is */
    int rest_n;
    bool dry, quiet, reference, virtual_ranks;
};

static const struct cli_usage usage = {
    .verb = "run",
    .operands = "PLAN.yaml|PROGRAM [-- ARGUMENTS]",
    .about = "Trains. A plan is compiled first (to the plan's name with .sfprog), a scenario planned and\n"
             "compiled. staticfire-run does the work, under mpirun with --transport mpi; its exit code is\n"
             "this one's. Arguments behind -- go to staticfire-run unchanged.",
    .examples = "  staticfire run plan.yaml --steps 20 --trace run.sftrace\n"
                "  staticfire run plan.yaml --transport mpi --steps 20\n"
                "  staticfire run step.sfprog --data text.txt --steps 5 --json\n"
                "  staticfire run plan.yaml --dry-run\n",
    .operands_min = 1,
    .operands_max = 1,
};

/* An argument list for exec. */
struct command {
    char *at[64];
    int n;
    char steps[16], ranks[16];
};

static void add(struct command *c, const char *word) {
    if (c->n + 1 < (int)(sizeof c->at / sizeof *c->at)) {
        c->at[c->n++] = (char *)(uintptr_t)word; /* exec takes char *const and writes to none */
        c->at[c->n] = NULL;
    }
}

static void add_option(struct command *c, const char *name, const char *value) {
    if (value != NULL) {
        add(c, name);
        add(c, value);
    }
}

/* mpirun counts cores; ranks of a program may be more, and Open MPI wants to be told that root is meant. */
static int add_mpirun(struct cli *cli, struct command *c, uint32_t ranks, char path[CLI_PATH]) {
    if (cli_find_program("mpirun", path) != 0) {
        return sf_fail(&cli->err, SF_E_USAGE, "no mpirun in PATH; install Open MPI or use --transport threads");
    }
    if (geteuid() == 0) {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    }
    snprintf(c->ranks, sizeof c->ranks, "%u", ranks);
    add(c, path);
    add_option(c, "-n", c->ranks);
    add(c, "--oversubscribe");
    return 0;
}

static void add_run(struct cli *cli, const struct run_args *a, const char *run, struct command *c) {
    add(c, run);
    add(c, a->program);
    if (a->backend == NULL || strcmp(a->backend, "cpu") == 0) {
        add_option(c, "--transport", a->transport);
    }
    add_option(c, "--backend", a->backend);
    if (a->virtual_ranks) {
        add(c, "--virtual-ranks");
    }
    if (a->steps > 0) {
        snprintf(c->steps, sizeof c->steps, "%u", a->steps);
        add_option(c, "--steps", c->steps);
    }
    add_option(c, "--data", a->data);
    add_option(c, "--trace", a->trace);
    add_option(c, "--dump", a->dump);
    add_option(c, "--log", a->log);
    add_option(c, "--stall", a->stall);
    if (a->reference) {
        add(c, "--reference-kernels");
    }
    if (a->quiet) {
        add(c, "--quiet");
    }
    if (cli->json) {
        add(c, "--json");
    }
    for (int i = 0; i < a->rest_n; i++) {
        add(c, a->rest[i]);
    }
}

static int print_command(struct cli *cli, const struct command *c) {
    if (cli->json) {
        json_t *words = json_array();
        for (int i = 0; i < c->n; i++) {
            json_array_append_new(words, cli_json_text(c->at[i]));
        }
        return cli_print_json(json_pack("{s:o}", "command", words), &cli->err);
    }
    struct sf_buf out = {0};
    for (int i = 0; i < c->n; i++) {
        sf_buf_printf(&out, "%s%s", i == 0 ? "" : " ", c->at[i]);
    }
    sf_buf_printf(&out, "\n");
    return cli_print(&out, &cli->err);
}

static int run_instead(struct cli *cli, const struct command *c) {
    execv(c->at[0], c->at);
    return sf_fail(&cli->err, SF_E_IO, "cannot start %s: %s", c->at[0], strerror(errno));
}

/* mpirun reports a killed rank as 128 + signal, which is nobody's exit code here. */
static int run_and_wait(struct cli *cli, const struct command *c) {
    int status;
    pid_t child = fork();
    if (child == 0) {
        _exit(run_instead(cli, c));
    }
    signal(SIGINT, SIG_IGN); /* the ranks get it too, and decide */
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (child < 0) {
        return sf_fail(&cli->err, SF_E_IO, "cannot start %s: %s", c->at[0], strerror(errno));
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (code > 128) {
        return sf_fail(&cli->err, SF_E_FAULT, "a rank was ended by signal %d", code - 128);
    }
    exit(code);
}

static int launch(struct cli *cli, const struct run_args *a, uint32_t ranks) {
    struct command c = {0};
    char run[CLI_PATH], mpirun[CLI_PATH];
    if (cli_find_program("staticfire-run", run) != 0) {
        return sf_fail(&cli->err, SF_E_USAGE,
                       "staticfire-run is neither beside staticfire nor in PATH; build it first");
    }
    if (a->rest_n > 32) {
        return cli_fail_usage(cli, "run", "more than 32 arguments behind --");
    }
    if (strcmp(a->transport, "mpi") == 0) {
        SF_TRY(add_mpirun(cli, &c, ranks, mpirun));
    }
    add_run(cli, a, run, &c);
    if (a->dry) {
        return print_command(cli, &c);
    }
    return strcmp(a->transport, "mpi") == 0 ? run_and_wait(cli, &c) : run_instead(cli, &c);
}

/* What the scenario says about the run, unless an option says otherwise. */
static void from_scenario(const struct cli_target *t, struct run_args *a, char data[CLI_PATH]) {
    if (!t->has_scenario) {
        return;
    }
    a->steps = a->steps > 0 ? a->steps : t->scenario.job.steps;
    if (a->data == NULL && t->scenario.job.data_path[0] != '\0') {
        snprintf(data, CLI_PATH, "%s", t->scenario.job.data_path);
        a->data = data;
    }
}

static int prepare(struct cli *cli, struct run_args *a, char program[CLI_PATH], char data[CLI_PATH], uint32_t *ranks) {
    struct cli_target t;
    SF_TRY(cli_target_load(cli, a->target, &(struct cli_load){.cluster = a->cluster, .program = true}, &t));
    *ranks = sf_prog_ranks(t.prog);
    from_scenario(&t, a, data);
    a->program = a->target;
    int rc = 0;
    if (t.has_scenario) {
        rc = a->output != NULL ? cli_path_copy(program, CLI_PATH, a->output, &cli->err)
                               : cli_path_with_suffix(a->target, ".sfprog", program, &cli->err);
        rc = rc == 0 ? cli_prog_write(program, t.prog, &cli->err) : rc;
        a->program = program;
    }
    cli_target_clear(&t);
    return rc;
}

static int check_args(struct cli *cli, const struct run_args *a) {
    if (strcmp(a->transport, "threads") != 0 && strcmp(a->transport, "mpi") != 0) {
        return cli_fail_usage(cli, "run", "--transport expects threads or mpi, found \"%.40s\"", a->transport);
    }
    if (a->virtual_ranks && strcmp(a->transport, "mpi") == 0) {
        return cli_fail_usage(cli, "run", "--virtual-ranks puts all ranks in one process: leave --transport mpi out");
    }
    const char *const outputs[] = {a->trace, a->dump, a->log, a->output};
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        SF_TRY(sf_output_check(outputs[i], &cli->err));
    }
    return 0;
}

/* Cut off "--" and what follows, before getopt moves words around. */
static int split_rest(int argc, char **argv, struct run_args *a) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            a->rest = argv + i + 1;
            a->rest_n = argc - i - 1;
            argv[i] = NULL;
            return i;
        }
    }
    return argc;
}

int verb_run(struct cli *cli, int argc, char **argv) {
    struct run_args a = {.transport = "threads"};
    const struct cli_option options[] = {
        {"steps", 's', CLI_COUNT, &a.steps, "N", "training steps (default: the scenario's)"},
        {"transport", 0, CLI_TEXT, &a.transport, "KIND", "threads (default) or mpi"},
        {"backend", 0, CLI_TEXT, &a.backend, "KIND",
         "cpu (default), cuda, or record: checks the GPU's way without one"},
        {"virtual-ranks", 0, CLI_FLAG, &a.virtual_ranks, NULL, "cuda, record: all ranks on one device"},
        {"trace", 't', CLI_TEXT, &a.trace, "FILE", "write what happened, op by op"},
        {"data", 'd', CLI_TEXT, &a.data, "FILE", "text to train on (default: the scenario's)"},
        {"dump", 0, CLI_TEXT, &a.dump, "FILE", "write final gradients, weights and losses"},
        {"log", 0, CLI_TEXT, &a.log, "FILE", "append one JSON object per step"},
        {"stall", 0, CLI_TEXT, &a.stall, "TIME", "give up when a rank makes no progress for so long (30s)"},
        {"reference-kernels", 0, CLI_FLAG, &a.reference, NULL, "use the plain C kernels"},
        {"quiet", 'q', CLI_FLAG, &a.quiet, NULL, "no line per step"},
        {"output", 'o', CLI_TEXT, &a.output, "FILE", "where the compiled program goes"},
        {"cluster", 0, CLI_TEXT, &a.cluster, "FILE", "instead of the scenario's cluster"},
        {"dry-run", 0, CLI_FLAG, &a.dry, NULL, "compile, then print the command instead of running it"},
        {0},
    };
    int first;
    char program[CLI_PATH], data[CLI_PATH];
    uint32_t ranks;
    argc = split_rest(argc, argv, &a);
    SF_TRY(cli_parse(cli, &usage, options, argc, argv, &first));
    SF_TRY(check_args(cli, &a));
    a.target = argv[first];
    SF_TRY(prepare(cli, &a, program, data, &ranks));
    return launch(cli, &a, ranks);
}
