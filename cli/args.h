/* Arguments of a verb: one table of options, parsed with getopt_long; help and hints come from the same table. */
#ifndef SF_CLI_ARGS_H
#define SF_CLI_ARGS_H

#include "cli/cli.h"

enum cli_type {
    CLI_FLAG,     /* bool */
    CLI_TEXT,     /* const char * */
    CLI_U32,      /* uint32_t */
    CLI_COUNT,    /* uint32_t above 0, so that 0 can mean "not given" */
    CLI_U64,      /* uint64_t */
    CLI_FRACTION, /* double; "10%" or "0.1" */
};

struct cli_option {
    const char *name; /* without dashes; NULL ends the table */
    char letter;      /* 0: no short form */
    enum cli_type type;
    void *value;
    const char *arg; /* what help calls the value; NULL for flags */
    const char *help;
};

struct cli_usage {
    const char *verb;
    const char *operands; /* "PREDICTED MEASURED" */
    const char *about;    /* paragraphs */
    const char *examples; /* lines */
    int operands_min, operands_max;
};

#define CLI_STOP (-1) /* help was printed: nothing is left to do, and that is a success */

/* Fills the options' values and moves the operands to argv[*first ..argc-1]. Returns 0, CLI_STOP or SF_E_USAGE.
 * --help, --json and --catalog belong to every verb and are not in `options`. */
int cli_parse(struct cli *cli, const struct cli_usage *usage, const struct cli_option *options, int argc, char **argv,
              int *first);

/* For values that a verb takes apart itself: when `rc` is a failure, what is wrong becomes a wrong --name. */
int cli_option_check(struct cli *cli, const char *verb, const char *name, int rc);

/* SF_E_USAGE with a pointer to the verb's help. */
int cli_fail_usage(struct cli *cli, const char *verb, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The entry of a NULL-terminated list nearest to `word`, or NULL when none is near. */
const char *cli_nearest(const char *word, const char *const list[]);

#endif
