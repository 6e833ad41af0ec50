#include "cli/seats.h"

#include "core/arena.h"
#include "sim/seats.h"

static int report_of(struct cli *cli, const struct cli_target *t, struct sf_seats_report *out) {
    struct sf_blocks blocks;
    sf_blocks_of(t->prog, &blocks);
    uint32_t *gpu = sf_calloc(blocks.ranks, sizeof *gpu);
    if (gpu == NULL) {
        return sf_fail_memory(&cli->err, "seats");
    }
    int rc = sf_seats_fill(cli_target_topo(t), &blocks, gpu, out, &cli->err);
    sf_free(gpu);
    return rc;
}

int cli_seats_print(struct cli *cli, const struct cli_target *t, struct sf_buf *out) {
    struct sf_seats_report r;
    if (!t->changed) {
        return 0;
    }
    SF_TRY(report_of(cli, t, &r));
    cli_heading(out, "Seats");
    cli_fact(out, "lost", "%s rank%s lost their seat", cli_count(r.lost), r.lost == 1 ? "" : "s");
    if (r.lost > 0) {
        cli_fact(out, "", "from rank %u on, in domain %u", r.first_lost, r.lost_domain);
    }
    cli_fact(out, "moved", "%s to another seat, %s of all ranks onto spare ones", cli_count(r.moved),
             cli_count(r.on_spares));
    return 0;
}

int cli_seats_json(struct cli *cli, const struct cli_target *t, json_t *doc) {
    struct sf_seats_report r;
    if (!t->changed) {
        return 0;
    }
    SF_TRY(report_of(cli, t, &r));
    json_object_set_new(doc, "seats",
                        json_pack("{s:I, s:I, s:I}", "ranks_lost", (json_int_t)r.lost, "ranks_moved",
                                  (json_int_t)r.moved, "ranks_on_spares", (json_int_t)r.on_spares));
    return 0;
}
