/* staticfire compile and prog: program files. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/files.h"
#include "cli/load.h"
#include "cli/print.h"

static const struct cli_usage compile_usage = {
    .verb = "compile",
    .operands = "PLAN.yaml|SCENARIO.yaml",
    .about = "Compiles a plan to the program that simulator and runtimes execute; the program is proven\n"
             "sound before it is written. A scenario is planned first.",
    .examples = "  staticfire compile plan.yaml -o step.sfprog\n"
                "  staticfire compile plan.yaml            writes plan.sfprog\n",
    .operands_min = 1,
    .operands_max = 1,
};

static const struct cli_usage prog_usage = {
    .verb = "prog",
    .operands = "dump|check|hash|asm FILE",
    .about = "dump   the program as text, one line per object\n"
             "check  prove it sound: bounds, memory, matching transfers, no deadlock, gradients complete\n"
             "hash   its identity, which joins forecasts to measurements\n"
             "asm    text to the binary form (needs -o)",
    .examples = "  staticfire prog dump step.sfprog | less\n"
                "  staticfire prog check step.sfprog --json\n"
                "  staticfire prog asm step.txt -o step.sfprog\n",
    .operands_min = 2,
    .operands_max = 2,
};

static uint64_t ops_n(const struct sf_prog *prog) {
    uint64_t n = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        n += prog->classes[c].ops_n;
    }
    return n;
}

static uint64_t arena_max(const struct sf_prog *prog) {
    uint64_t top = 0;
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        top = prog->classes[c].arena_bytes > top ? prog->classes[c].arena_bytes : top;
    }
    return top;
}

static json_t *prog_json(const struct sf_prog *prog) {
    return json_pack("{s:o, s:o, s:i, s:i, s:i, s:I, s:I}", "hash", cli_json_hash(sf_prog_hash(prog)), "title",
                     cli_json_text(prog->title), "ranks", (int)sf_prog_ranks(prog), "classes", (int)prog->classes_n,
                     "recipes", (int)prog->recipes_n, "ops", (json_int_t)ops_n(prog), "peak_memory_bytes",
                     (json_int_t)arena_max(prog));
}

/* What every verb here says about the program in its hands. `path`: where it was written, or NULL. */
static int print_prog(struct cli *cli, const struct sf_prog *prog, const char *path, const char *verdict) {
    if (cli->json) {
        json_t *doc = prog_json(prog);
        if (doc != NULL && path != NULL) {
            json_object_set_new(doc, "file", cli_json_text(path));
        }
        return cli_print_json(doc, &cli->err);
    }
    struct sf_buf out = {0};
    char hash[SF_HASH_TEXT];
    sf_buf_printf(&out, "%s%s%s\n", cli_on(CLI_BOLD), prog->title, cli_off());
    cli_fact(&out, "hash", "%s", sf_hash_format(sf_prog_hash(prog), hash));
    cli_fact(&out, "ranks", "%s in %s class%s", cli_count(sf_prog_ranks(prog)), cli_count(prog->classes_n),
             prog->classes_n == 1 ? "" : "es");
    cli_fact(&out, "ops, recipes", "%s, %s", cli_count(ops_n(prog)), cli_count(prog->recipes_n));
    cli_fact(&out, "peak memory", "%s", cli_bytes(arena_max(prog)));
    if (path != NULL) {
        cli_fact(&out, "written to", "%s", path);
    }
    sf_buf_printf(&out, "%s%s%s\n", cli_on(CLI_GREEN), verdict, cli_off());
    return cli_print(&out, &cli->err);
}

static const char sound[] = "Sound: bounds, memory, matching transfers, no deadlock, gradients complete.";

int verb_compile(struct cli *cli, int argc, char **argv) {
    const char *output = NULL, *cluster = NULL;
    const struct cli_option options[] = {
        {"output", 'o', CLI_TEXT, &output, "FILE", "program file (default: the plan's name with .sfprog)"},
        {"cluster", 0, CLI_TEXT, &cluster, "FILE", "instead of the scenario's cluster"},
        {0},
    };
    int first;
    char beside[CLI_PATH];
    SF_TRY(cli_parse(cli, &compile_usage, options, argc, argv, &first));
    if (output == NULL) {
        SF_TRY(cli_path_with_suffix(argv[first], ".sfprog", beside, &cli->err));
        output = beside;
    }
    SF_TRY(sf_output_check(output, &cli->err));
    struct cli_target t;
    SF_TRY(cli_target_load(cli, argv[first], &(struct cli_load){.cluster = cluster, .program = true}, &t));
    int rc = !t.has_scenario ? sf_fail(&cli->err, SF_E_USAGE, "%s is a compiled program already", argv[first])
                             : cli_prog_write(output, t.prog, &cli->err);
    if (rc == 0) {
        rc = print_prog(cli, t.prog, output, sound);
    }
    cli_target_clear(&t);
    return rc;
}

static int prog_dump(struct cli *cli, const struct sf_prog *prog, const char *output) {
    struct sf_buf text = {0};
    int rc = sf_prog_print(prog, &text, &cli->err);
    if (rc != 0) {
        sf_buf_free(&text);
        return rc;
    }
    if (!cli->json) {
        return cli_output(output, &text, &cli->err);
    }
    json_t *doc = prog_json(prog);
    sf_buf_write(&text, "", 1);
    if (doc != NULL && !text.failed && output == NULL) {
        json_object_set_new(doc, "text", cli_json_text(text.data));
    }
    if (output != NULL) {
        text.bytes -= !text.failed;
        rc = cli_output(output, &text, &cli->err);
    } else {
        sf_buf_free(&text);
    }
    if (rc != 0) {
        json_decref(doc);
        return rc;
    }
    return cli_print_json(doc, &cli->err);
}

static int prog_hash(struct cli *cli, const struct sf_prog *prog) {
    if (cli->json) {
        return cli_print_json(prog_json(prog), &cli->err);
    }
    struct sf_buf out = {0};
    char hash[SF_HASH_TEXT];
    sf_buf_printf(&out, "%s\n", sf_hash_format(sf_prog_hash(prog), hash));
    return cli_print(&out, &cli->err);
}

static int prog_act(struct cli *cli, const char *action, const struct sf_prog *prog, const char *output) {
    if (strcmp(action, "dump") == 0) {
        return prog_dump(cli, prog, output);
    }
    if (strcmp(action, "hash") == 0) {
        return prog_hash(cli, prog);
    }
    if (strcmp(action, "check") == 0) {
        SF_TRY(sf_prog_check(prog, &cli->err));
        return print_prog(cli, prog, NULL, sound);
    }
    SF_TRY(cli_prog_write(output, prog, &cli->err));
    return print_prog(cli, prog, output, sound);
}

int verb_prog(struct cli *cli, int argc, char **argv) {
    static const char *const actions[] = {"dump", "check", "hash", "asm", NULL};
    const char *output = NULL;
    const struct cli_option options[] = {
        {"output", 'o', CLI_TEXT, &output, "FILE", "dump, asm: write there"},
        {0},
    };
    int first, known = 0;
    SF_TRY(cli_parse(cli, &prog_usage, options, argc, argv, &first));
    const char *action = argv[first];
    while (actions[known] != NULL && strcmp(actions[known], action) != 0) {
        known++;
    }
    if (actions[known] == NULL) {
        return cli_fail_usage(cli, "prog", "expected dump, check, hash or asm, found \"%.60s\"", action);
    }
    bool writes = known == 0 || known == 3;
    if (known == 3 && output == NULL) {
        return cli_fail_usage(cli, "prog", "prog asm needs -o FILE");
    }
    if (!writes && output != NULL) {
        return cli_fail_usage(cli, "prog", "prog %s writes no file, leave -o out", action);
    }
    struct sf_prog *prog = NULL;
    SF_TRY(sf_prog_read(&sf_io_posix, argv[first + 1], &prog, &cli->err));
    int rc = prog_act(cli, action, prog, output);
    sf_prog_free(prog);
    return rc;
}
