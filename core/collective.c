#include "core/collective.h"

#include <stdio.h>
#include <string.h>

static const char *const op_names[] = {
#define X(NAME, name) name,
    SF_COLL_OPS(X)};
static const char *const algorithm_names[] = {SF_COLL_ALGORITHMS(X)};
static const char *const protocol_names[] = {SF_COLL_PROTOCOLS(X)
#undef X
};

const char *sf_coll_op_name(int op) {
    return op >= 0 && op < SF_COLL_OPS_N ? op_names[op] : "?";
}

const char *sf_coll_algorithm_name(int algorithm) {
    return algorithm >= 0 && algorithm < SF_COLL_ALGORITHMS_N ? algorithm_names[algorithm] : "?";
}

const char *sf_coll_protocol_name(int protocol) {
    return protocol >= 0 && protocol < SF_COLL_PROTOCOLS_N ? protocol_names[protocol] : "?";
}

static int parse(const char *const *names, int n, const char *name) {
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

int sf_coll_op_parse(const char *name) {
    return parse(op_names, SF_COLL_OPS_N, name);
}

int sf_coll_algorithm_parse(const char *name) {
    return parse(algorithm_names, SF_COLL_ALGORITHMS_N, name);
}

int sf_coll_protocol_parse(const char *name) {
    return parse(protocol_names, SF_COLL_PROTOCOLS_N, name);
}

bool sf_coll_picks_any(const struct sf_coll_picks *picks) {
    for (int op = 0; op < SF_COLL_OPS_N; op++) {
        if (picks->of[op] != 0) {
            return true;
        }
    }
    return false;
}

const char *sf_coll_pick_text(uint8_t pick, char out[SF_COLL_PICK_TEXT]) {
    if (pick == 0) {
        return "nccl";
    }
    snprintf(out, SF_COLL_PICK_TEXT, "%s/%s", sf_coll_algorithm_name(sf_coll_pick_algorithm(pick)),
             sf_coll_protocol_name(sf_coll_pick_protocol(pick)));
    return out;
}

int sf_coll_pick_parse(const char *text) {
    char room[SF_COLL_PICK_TEXT];
    for (int pick = 0; pick < SF_COLL_PICKS_N; pick++) {
        if (strcmp(sf_coll_pick_text((uint8_t)pick, room), text) == 0) {
            return pick;
        }
    }
    return -1;
}
