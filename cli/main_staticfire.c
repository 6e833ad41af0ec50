/* staticfire: plans, simulates, compares. Dispatch to one function per verb. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/print.h"

struct verb {
    const char *name;
    int (*run)(struct cli *cli, int argc, char **argv);
    const char *text;
};

static const struct verb verbs[] = {
#define X(name, function, text) {name, function, text},
    CLI_VERBS(X)
#undef X
};
#define VERBS_N (sizeof verbs / sizeof *verbs)

static void usage(FILE *to) {
    fprintf(to, "Usage: staticfire VERB [arguments]\n\n"
                "Fires a training job in virtual time before the cluster exists, runs the same program\n"
                "for real, and shows where the two differ.\n\nVerbs:\n");
    for (size_t i = 0; i < VERBS_N; i++) {
        fprintf(to, "  %-9s %s\n", verbs[i].name, verbs[i].text);
    }
    fprintf(to, "\nstaticfire VERB --help explains a verb, with examples. --json works with each of them.\n"
                "Exit codes: ");
#define X(name, value, text) fprintf(to, "%s%d %s", value == 0 ? "" : ", ", value, text);
    SF_CODES(X)
#undef X
    fprintf(to, ".\n");
}

static const struct verb *find(const char *name) {
    for (size_t i = 0; i < VERBS_N; i++) {
        if (strcmp(verbs[i].name, name) == 0) {
            return &verbs[i];
        }
    }
    return NULL;
}

static int unknown_verb(struct cli *cli, const char *name) {
    if (strcmp(name, "check") == 0) {
        return sf_fail(&cli->err, SF_E_USAGE,
                       "unknown verb \"check\"; compile checks a plan, prog check a program, topo check a cluster");
    }
    const char *names[VERBS_N + 1] = {0};
    for (size_t i = 0; i < VERBS_N; i++) {
        names[i] = verbs[i].name;
    }
    const char *near = cli_nearest(name, names);
    if (near != NULL) {
        return sf_fail(&cli->err, SF_E_USAGE, "unknown verb \"%.60s\"; did you mean %s?", name, near);
    }
    return sf_fail(&cli->err, SF_E_USAGE, "unknown verb \"%.60s\"; staticfire --help lists them", name);
}

static bool asks_for_help(const char *word) {
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static int dispatch(struct cli *cli, int argc, char **argv) {
    if (argc < 2) {
        usage(stderr);
        return SF_E_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("staticfire %s\n", SF_VERSION);
        return 0;
    }
    if (asks_for_help(argv[1]) && argc == 2) {
        usage(stdout);
        return 0;
    }
    bool help_verb = asks_for_help(argv[1]);
    const struct verb *verb = find(argv[help_verb ? 2 : 1]);
    if (verb == NULL) {
        return unknown_verb(cli, argv[help_verb ? 2 : 1]);
    }
    char *help_args[] = {argv[0], "--help", NULL};
    int rc = help_verb ? verb->run(cli, 2, help_args) : verb->run(cli, argc - 1, argv + 1);
    return rc == CLI_STOP ? 0 : rc;
}

/* Scripts that asked for JSON get a JSON document even when there is no result. */
static void print_json_error(const struct sf_err *e) {
    json_t *doc = json_pack("{s:{s:i, s:s, s:o}}", "error", "code", e->code, "kind", sf_code_text(e->code), "message",
                            cli_json_text(e->msg));
    if (doc != NULL && e->file[0] != '\0') {
        json_t *inner = json_object_get(doc, "error");
        json_object_set_new(inner, "file", cli_json_text(e->file));
        if (e->line > 0) {
            json_object_set_new(inner, "line", json_integer(e->line));
        }
        if (e->column > 0) {
            json_object_set_new(inner, "column", json_integer(e->column));
        }
    }
    cli_print_json(doc, NULL);
}

static bool wants_json(int argc, char **argv) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv) {
    /* Known before parsing, so that a mistake in the arguments is reported as JSON as well. */
    struct cli cli = {.catalog = SF_CATALOG_DIR, .json = wants_json(argc, argv)};
    int rc = dispatch(&cli, argc, argv);
    if (rc != 0 && cli.err.code != 0) {
        sf_err_print(&cli.err);
        if (cli.json) {
            print_json_error(&cli.err);
        }
    }
    if (fflush(stdout) != 0 && rc == 0) {
        sf_fail(&cli.err, SF_E_IO, "cannot write to standard output");
        sf_err_print(&cli.err);
        rc = SF_E_IO;
    }
    return rc;
}
