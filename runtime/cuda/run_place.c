#include "runtime/cuda/run_place.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/prog.h"
#include "runtime/rt.h"

#define DEFAULT_PORT 29500 /* torchrun's */
#define SLURM_PORT 20000   /* below those that the kernel hands out by itself */
#define SLURM_PORTS 10000
#define LIST_BYTES (1u << 20)
#define NUMBER_DIGITS 18u

/* ---- environment ------------------------------------------------------------------------------------------------ */

static bool parse_number(const char *text, uint64_t most, uint64_t *out) {
    size_t digits = text ? strspn(text, "0123456789") : 0;
    if (digits == 0 || digits > NUMBER_DIGITS || text[digits] != '\0') {
        return false;
    }
    *out = strtoull(text, NULL, 10);
    return *out <= most;
}

/* The first of two variables that is set. */
static const char *either(const char *first, const char *second) {
    const char *text = getenv(first);
    return text && *text ? text : getenv(second);
}

static bool torchrun_launched(void) {
    return getenv("RANK") && getenv("WORLD_SIZE") && getenv("MASTER_ADDR");
}

static bool srun_launched(void) {
    return getenv("SLURM_STEP_ID") && !getenv("OMPI_COMM_WORLD_SIZE");
}

static int read_place(const char *names, const char *rank_text, const char *ranks_text, uint32_t *rank, uint32_t *ranks,
                      struct sf_err *err) {
    uint64_t r, n;
    if (!parse_number(rank_text, SF_MAX_RANKS, &r) || !parse_number(ranks_text, SF_MAX_RANKS, &n) || r >= n) {
        return sf_fail(err, SF_E_USAGE, "%s: %.20s of %.20s: expected a rank below the number of ranks", names,
                       rank_text ? rank_text : "nothing", ranks_text ? ranks_text : "nothing");
    }
    *rank = (uint32_t)r;
    *ranks = (uint32_t)n;
    return SF_OK;
}

static int srun_place(uint32_t *rank, uint32_t *ranks, struct sf_err *err) {
    return read_place("SLURM_PROCID, SLURM_STEP_NUM_TASKS", getenv("SLURM_PROCID"),
                      either("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), rank, ranks, err);
}

int sf_rt_gpu_place(const struct sf_rt_gpu *gpu, uint32_t *rank, uint32_t *ranks, bool *mpi, struct sf_err *err) {
    *rank = 0;
    *ranks = 1;
    *mpi = false;
    if (gpu->virtual_ranks || gpu->record) {
        return SF_OK;
    }
    if (torchrun_launched()) {
        return read_place("RANK, WORLD_SIZE", getenv("RANK"), getenv("WORLD_SIZE"), rank, ranks, err);
    }
    if (srun_launched() && !getenv("PMIX_RANK")) {
        return srun_place(rank, ranks, err);
    }
    if (!sf_rt_mpi_launched()) {
        return SF_OK;
    }
    SF_TRY(sf_rt_mpi_begin(rank, ranks, err));
    *mpi = *ranks > 1 || !srun_launched();
    return *mpi ? SF_OK : srun_place(rank, ranks, err); /* MPI may have found nobody where srun has started several */
}

/* ---- hosts ------------------------------------------------------------------------------------------------------ */

struct host_list {
    const char *text;
    size_t at;
    char *out; /* the first host; NULL behind it */
    size_t used;
};

static int refuse(const struct host_list *l, const char *expected, struct sf_err *err) {
    const char *found = l->text + l->at;
    return sf_fail(err, SF_E_USAGE, "host list \"%.200s\": character %zu: expected %s, found %s%.1s%s", l->text,
                   l->at + 1, expected, *found ? "\"" : "its end", found, *found ? "\"" : "");
}

static int keep(struct host_list *l, const char *text, size_t n, struct sf_err *err) {
    if (l->out) {
        if (l->used + n >= SFI_HOST_BYTES) {
            return sf_fail(err, SF_E_USAGE, "host list \"%.200s\": a name of more than %d bytes", l->text,
                           SFI_HOST_BYTES - 1);
        }
        memcpy(l->out + l->used, text, n);
        l->used += n;
        l->out[l->used] = '\0';
    }
    return SF_OK;
}

static int read_number(struct host_list *l, uint64_t *value, struct sf_err *err) {
    size_t digits = strspn(l->text + l->at, "0123456789");
    if (digits == 0 || digits > NUMBER_DIGITS) {
        return refuse(l, digits == 0 ? "a number" : "a number of at most 18 digits", err);
    }
    *value = strtoull(l->text + l->at, NULL, 10);
    l->at += digits;
    return SF_OK;
}

/* "[003-007,9]": the first number as it is written, with its zeros. */
static int read_brackets(struct host_list *l, struct sf_err *err) {
    for (bool first = true; first || l->text[l->at] == ','; first = false) {
        uint64_t low = 0, high = 0;
        size_t begin = ++l->at;
        SF_TRY(read_number(l, &low, err));
        SF_TRY(first ? keep(l, l->text + begin, l->at - begin, err) : SF_OK);
        if (l->text[l->at] == '-') {
            begin = ++l->at;
            SF_TRY(read_number(l, &high, err));
            if (high < low) {
                l->at = begin;
                return refuse(l, "the end of a range that is not below its begin", err);
            }
        }
    }
    if (l->text[l->at] != ']') {
        return refuse(l, "\"-\", \",\" or \"]\"", err);
    }
    l->at++;
    return SF_OK;
}

static bool names_host(char c) {
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.' || c == ':';
}

static int read_host(struct host_list *l, struct sf_err *err) {
    size_t begin = l->at;
    while (l->text[l->at] != '\0' && l->text[l->at] != ',') {
        if (l->text[l->at] == '[') {
            SF_TRY(read_brackets(l, err));
            continue;
        }
        if (!names_host(l->text[l->at])) {
            return refuse(l, "a letter, a digit, \"-\", \"_\", \".\", \":\" or \"[\"", err);
        }
        SF_TRY(keep(l, l->text + l->at, 1, err));
        l->at++;
    }
    return l->at > begin ? SF_OK : refuse(l, "a host", err);
}

int sfi_place_first_host(const char *list, char out[SFI_HOST_BYTES], struct sf_err *err) {
    struct host_list l = {.text = list, .out = out};
    if (strnlen(list, LIST_BYTES) == LIST_BYTES) {
        return sf_fail(err, SF_E_USAGE, "a host list of more than %u bytes", LIST_BYTES - 1);
    }
    SF_TRY(read_host(&l, err));
    l.out = NULL;
    while (list[l.at] == ',') {
        l.at++;
        SF_TRY(read_host(&l, err));
    }
    return SF_OK;
}

/* ---- where to meet ---------------------------------------------------------------------------------------------- */

static int find_host(char out[SFI_HOST_BYTES], struct sf_err *err) {
    const char *master = getenv("MASTER_ADDR"), *nodes = either("SLURM_STEP_NODELIST", "SLURM_NODELIST");
    if (master && *master) {
        if (strlen(master) >= SFI_HOST_BYTES) {
            return sf_fail(err, SF_E_USAGE, "MASTER_ADDR: more than %d bytes", SFI_HOST_BYTES - 1);
        }
        memcpy(out, master, strlen(master) + 1);
        return SF_OK;
    }
    if (!nodes || !*nodes) {
        return sf_fail(err, SF_E_USAGE, "where rank 0 is, neither MASTER_ADDR nor SLURM_STEP_NODELIST says: set one");
    }
    return sfi_place_first_host(nodes, out, err);
}

/* Jobs that share a node should not meet in one place. */
static uint64_t slurm_port(void) {
    uint64_t job = 0, step = 0;
    parse_number(either("SLURM_JOB_ID", "SLURM_JOBID"), UINT64_MAX, &job);
    parse_number(getenv("SLURM_STEP_ID"), UINT64_MAX, &step);
    return SLURM_PORT + 2 * ((job % SLURM_PORTS + 977 * (step % SLURM_PORTS)) % (SLURM_PORTS / 2));
}

static int find_ports(struct sfi_meeting_place *p, struct sf_err *err) {
    const char *text = getenv("MASTER_PORT"), *agent = getenv("TORCHELASTIC_USE_AGENT_STORE");
    uint64_t port = torchrun_launched() ? DEFAULT_PORT : slurm_port();
    bool taken = torchrun_launched() && agent && strcmp(agent, "True") == 0;
    if (text && *text && (!parse_number(text, 65535, &port) || port == 0)) {
        return sf_fail(err, SF_E_USAGE, "MASTER_PORT=%.20s: expected a number from 1 to 65535", text);
    }
    int step = port > 65533 ? -1 : 1;
    p->nccl_port = (uint16_t)((int)port + (taken ? step : 0));
    p->peers_port = (uint16_t)(p->nccl_port + step);
    return SF_OK;
}

int sfi_place_meeting(struct sfi_meeting_place *out, struct sf_err *err) {
    *out = (struct sfi_meeting_place){.host = ""};
    SF_TRY(find_host(out->host, err));
    SF_TRY(find_ports(out, err));
    if (torchrun_launched()) {
        const char *run = getenv("TORCHELASTIC_RUN_ID");
        snprintf(out->run, sizeof out->run, "%s", run ? run : "");
    } else {
        const char *job = either("SLURM_JOB_ID", "SLURM_JOBID"), *step = getenv("SLURM_STEP_ID");
        snprintf(out->run, sizeof out->run, "%.30s.%.30s", job ? job : "", step ? step : "");
    }
    return SF_OK;
}

bool sfi_place_shares_host(void) {
    uint64_t here, all, nodes;
    if (torchrun_launched()) {
        return parse_number(getenv("LOCAL_WORLD_SIZE"), SF_MAX_RANKS, &here) &&
               parse_number(getenv("WORLD_SIZE"), SF_MAX_RANKS, &all) && here == all;
    }
    return parse_number(either("SLURM_STEP_NUM_NODES", "SLURM_NNODES"), SF_MAX_RANKS, &nodes) && nodes == 1;
}
