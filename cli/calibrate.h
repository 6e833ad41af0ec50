/* What the files of the verb calibrate share. */
#ifndef SF_CLI_CALIBRATE_H
#define SF_CLI_CALIBRATE_H

#include "cli/cli.h"
#include "sim/calib.h"

#define CLI_CALIBRATE_MODELS 6 /* of GPUs */
#define CLI_CALIBRATE_CPU_MODELS 12

/* What is measured here. */
struct cli_calibrate {
    const char
        *backend; /* cpu, cuda or record; NULL: cuda where there is a GPU and this build has its module, else cpu */
    const char *device; /* GPUs: its class in the catalog; NULL: by its name */
    uint32_t models;    /* the first so many; 0: all */
    bool mpi;           /* cores: ranks are processes under mpirun */
    uint32_t ranks;     /* cores, or GPUs under mpirun; 0: all cores, one GPU */
};

/* cpu, cuda or record, whichever it will be. SF_E_USAGE for another word. */
int cli_calibrate_backend(struct cli *cli, struct cli_calibrate *how);

/* Trains a few small models for seconds each under the eyes of staticfire-run --measure, and adds what it finds. */
int cli_calibrate_measure(struct cli *cli, const struct cli_calibrate *how, struct sf_calib_data *out);

/* ---- GPUs (calibrate_gpu.c) ---- */

/* A model to train, as a config.json. */
struct cli_calibrate_model {
    uint32_t hidden, heads, kv_heads, ffn, seq_len, vocab, layers;
    bool gpt2;
};
void cli_calibrate_model(const struct cli_calibrate_model *m, struct sf_buf *out);

/* The class of the catalog that a GPU of this name is of; NULL: none that is known. */
const char *cli_calibrate_class(const char *name);
/* A node of `ranks` such GPUs, as a cluster file. */
void cli_calibrate_cluster(const char *class_name, uint32_t ranks, struct sf_buf *out);
/* Model and scenario of the n-th job. */
void cli_calibrate_job(uint32_t n, uint32_t ranks, struct sf_buf *model, struct sf_buf *job);
void cli_calibrate_job_name(uint32_t n, char *name, size_t size);

#endif
