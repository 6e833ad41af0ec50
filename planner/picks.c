#include "planner/picks.h"

#include <stdio.h>
#include <string.h>

#include "core/arena.h"

/* ---- files ------------------------------------------------------------------------------------------------------- */

static int read_pick(const char *op, const struct sf_node *node, struct sf_coll_picks *out, struct sf_err *err) {
    const char *text;
    int kind = sf_coll_op_parse(op), pick;
    if (kind < 0) {
        return sf_node_fail(
            node, err, "unknown operation \"%.40s\": expected all_reduce, all_gather, reduce_scatter or all_to_all",
            op);
    }
    SF_TRY(sf_node_str(node, &text, err));
    pick = sf_coll_pick_parse(text);
    if (pick <= 0) {
        return sf_node_fail(node, err,
                            "expected an algorithm and a protocol, such as ring/ll128 or nvls/simple (staticfire coll "
                            "--all lists them), found \"%.40s\"",
                            text);
    }
    out->of[kind] = (uint8_t)pick;
    return 0;
}

static int read_comm(const char *comm, const struct sf_node *map, struct sf_plan *out, struct sf_err *err) {
    if (!sf_node_is_map(map) || sf_map_size(map) == 0) {
        return sf_node_fail(map, err, "expected operations, such as { all_gather: ring/ll128 }");
    }
    if (out->picks_n == SF_PLAN_PICKS || strlen(comm) >= SF_NAME) {
        return sf_node_fail(map, err, "expected at most %d communicators with names of at most %d bytes", SF_PLAN_PICKS,
                            SF_NAME - 1);
    }
    struct sf_plan_picks *p = &out->picks[out->picks_n++];
    snprintf(p->comm, sizeof p->comm, "%s", comm);
    for (size_t i = 0; i < sf_map_size(map); i++) {
        const struct sf_node *value;
        const char *op = sf_map_key(map, i, &value);
        SF_TRY(read_pick(op, value, &p->of, err));
    }
    return 0;
}

int sfi_picks_read(const struct sf_node *map, struct sf_plan *out, struct sf_err *err) {
    if (!sf_node_is_map(map)) {
        return sf_node_fail(map, err, "expected communicators, such as tp: { all_gather: ring/ll128 }");
    }
    for (size_t i = 0; i < sf_map_size(map); i++) {
        const struct sf_node *value;
        const char *comm = sf_map_key(map, i, &value);
        SF_TRY(read_comm(comm, value, out, err));
    }
    return 0;
}

void sfi_picks_print(const struct sf_plan *plan, struct sf_buf *out) {
    char room[SF_COLL_PICK_TEXT];
    if (plan->picks_n > 0) {
        sf_buf_printf(out, "# What these collectives run on; what is not named is left to NCCL.\ncollectives:\n");
    }
    for (uint32_t i = 0; i < plan->picks_n; i++) {
        const struct sf_plan_picks *p = &plan->picks[i];
        const char *gap = "";
        sf_buf_printf(out, "  %s: {", p->comm);
        for (int op = 0; op < SF_COLL_OPS_N; op++) {
            if (p->of.of[op] != 0) {
                sf_buf_printf(out, "%s %s: %s", gap, sf_coll_op_name(op), sf_coll_pick_text(p->of.of[op], room));
                gap = ",";
            }
        }
        sf_buf_printf(out, " }\n");
    }
}

/* ---- programs ---------------------------------------------------------------------------------------------------- */

static int find_comm(const struct sf_prog *prog, const char *name, uint32_t *out, struct sf_err *err) {
    char list[256] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < prog->comms_n; i++) {
        if (strcmp(prog->comms[i].name, name) == 0) {
            *out = i;
            return 0;
        }
        int more = snprintf(list + n, sizeof list - n, "%s%s", n > 0 ? ", " : "", prog->comms[i].name);
        n = more > 0 && n + (size_t)more < sizeof list ? n + (size_t)more : n;
    }
    return sf_fail(err, SF_E_INPUT, "plan: collectives name a communicator \"%s\"; this plan has %s", name,
                   n > 0 ? list : "none");
}

static bool does(const struct sf_prog *prog, uint32_t comm, int op) {
    for (uint32_t r = 0; r < prog->recipes_n; r++) {
        for (uint32_t i = 0; i < prog->recipes[r].calls_n; i++) {
            const struct sf_call *call = &prog->recipes[r].calls[i];
            if (sf_call_collective(call->kind) == op && call->comm == comm) {
                return true;
            }
        }
    }
    for (uint32_t c = 0; c < prog->classes_n; c++) {
        for (uint32_t i = 0; i < prog->classes[c].ops_n; i++) {
            const struct sf_op *o = &prog->classes[c].ops[i];
            if (o->comm == comm && sf_call_collective(sf_op_call(o->kind)) == op) {
                return true;
            }
        }
    }
    return false;
}

int sfi_picks_apply(const struct sf_plan *plan, struct sf_prog *prog, struct sf_err *err) {
    for (uint32_t i = 0; i < plan->picks_n; i++) {
        const struct sf_plan_picks *p = &plan->picks[i];
        uint32_t comm = 0;
        SF_TRY(find_comm(prog, p->comm, &comm, err));
        for (int op = 0; op < SF_COLL_OPS_N; op++) {
            if (p->of.of[op] != 0 && !does(prog, comm, op)) {
                return sf_fail(err, SF_E_INPUT, "plan: collectives say what %s of %s runs on, and this plan has none",
                               sf_coll_op_name(op), p->comm);
            }
        }
        prog->comms[comm].picks = p->of;
    }
    return 0;
}

int sfi_picks_tune(struct sf_prog *prog, const struct sf_cost *cost, struct sf_plan *plan, struct sf_err *err) {
    struct sf_pick_use *uses = sf_calloc(SF_PICK_USES, sizeof *uses);
    if (uses == NULL) {
        return sf_fail_memory(err, "collectives");
    }
    plan->picks_n = 0;
    for (uint32_t comm = 0; comm < prog->comms_n; comm++) {
        prog->comms[comm].picks = (struct sf_coll_picks){{0}};
    }
    size_t n = sf_picks_find(prog, cost, uses);
    for (size_t i = 0; i < n; i++) {
        const struct sf_pick_use *u = &uses[i];
        struct sf_comm *comm = &prog->comms[u->comm];
        bool more = u->best != 0 && !sf_coll_picks_any(&comm->picks);
        if (u->best == 0 || (more && plan->picks_n == SF_PLAN_PICKS)) {
            continue;
        }
        comm->picks.of[u->op] = u->best;
        plan->picks_n += more;
        struct sf_plan_picks *p = &plan->picks[plan->picks_n - 1]; /* uses come communicator by communicator */
        memcpy(p->comm, comm->name, sizeof p->comm);
        p->of = comm->picks;
    }
    sf_free(uses);
    return 0;
}
