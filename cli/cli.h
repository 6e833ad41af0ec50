/* What every verb shares. A verb parses its arguments, calls the libraries and prints; it returns an enum sf_code, with
 * cli->err filled where the code says that something failed. */
#ifndef SF_CLI_CLI_H
#define SF_CLI_CLI_H

#include <stdbool.h>

#include "core/err.h"
#include "core/io.h"

#define SF_VERSION "0.1.0"

struct cli {
    const char *catalog; /* folder of the device and link catalogs */
    bool json;           /* one JSON document on stdout instead of text */
    struct sf_err err;
};

/* X(name, function, "one line") - in the order in which help lists them. */
#define CLI_VERBS(X)                                                                                                   \
    X("topo", verb_topo, "show, check or probe a cluster")                                                             \
    X("plan", verb_plan, "choose how to split a training job over a cluster")                                          \
    X("schedule", verb_schedule, "make one pipeline schedule and time it exactly")                                     \
    X("cut", verb_cut, "cut a model's layers into pipeline stages, exactly")                                           \
    X("sim", verb_sim, "predict one training step")                                                                    \
    X("compile", verb_compile, "turn a plan into a program file")                                                      \
    X("prog", verb_prog, "dump, check, hash or assemble a program")                                                    \
    X("coll", verb_coll, "the time of a collective by size, algorithm and protocol")                                   \
    X("net", verb_net, "a traffic pattern over the shared links of a cluster")                                         \
    X("trace", verb_trace, "print a trace")                                                                            \
    X("run", verb_run, "train: execute a program for real")                                                            \
    X("compare", verb_compare, "join a forecast with a measurement")                                                   \
    X("calibrate", verb_calibrate, "measure kernels and links, fit models with intervals")                             \
    X("validate", verb_validate, "rerun published measurements, signed error per row")                                 \
    X("doctor", verb_doctor, "what was found on this machine")

#define X(name, function, text) int function(struct cli *cli, int argc, char **argv);
CLI_VERBS(X)
#undef X

#endif
