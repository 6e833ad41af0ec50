/* Collectives that were measured between ranks of one host, by size. Their bytes come out of some cache or out of
 * memory, so no single rate has them all: near a measured size the ring of sim/cost.h is corrected by what was measured
 * there. */
#include <math.h>

#include "sim/calib_internal.h"
#include "sim/cost_internal.h"

enum { POINTS_MAX = 1 << 16 };
#define DOUBT 0.1     /* the ring's single rate is no physics of caches: what was measured counts */
#define OTHER_OP 0.25 /* what another collective's time says about this one's: it moves bytes the same way */

static double rounds_of(int op) {
    return op == SF_CALL_ALL_REDUCE ? 2.0 : 1.0;
}

/* Seconds of one step of the ring, in which every member moves `share` bytes. */
static double step_s(const struct sf_cost *c, double share) {
    const struct sfi_tier *t = &c->tier[SF_ROUTE_DOMAIN];
    double moving = t->bytes_per_s > 0 ? share / (double)t->bytes_per_s : 0.0;
    return sf_ps_to_s(t->latency_ps) + moving;
}

static double residual_of(const struct sf_cost *c, const struct sf_calib_point *p) {
    double n = p->ranks, form = rounds_of(p->op) * (n - 1.0) * step_s(c, p->bytes / n);
    return form > 0.0 ? log(p->time_s / form) : 0.0;
}

double sfi_points_factor(const struct sf_cost *c, int kind, double bytes, uint32_t members) {
    double share = bytes / members, least = INFINITY, most = 0.0;
    struct sfi_near same = {0}, other = {0};
    if (c->points_n == 0 || kind == SF_CALL_ALL_TO_ALL || !(bytes > 0.0)) {
        return 1.0;
    }
    for (size_t i = 0; i < c->points_n; i++) {
        least = fmin(least, c->points[i].bytes / c->points[i].ranks);
        most = fmax(most, c->points[i].bytes / c->points[i].ranks);
    }
    const int64_t here[SF_CALL_DIMS] = {(int64_t)fmin(fmax(share, least), most) + 1};
    for (size_t i = 0; i < c->points_n; i++) {
        const struct sf_calib_point *p = &c->points[i];
        const int64_t there[SF_CALL_DIMS] = {(int64_t)(p->bytes / p->ranks) + 1};
        sfi_near_add(p->op == kind ? &same : &other, here, there, residual_of(c, p));
    }
    same.weight += OTHER_OP * other.weight;
    same.sum += OTHER_OP * other.sum;
    return sfi_near_factor(&same, DOUBT);
}

static int read_point(const struct sf_node *n, struct sf_calib_point *out, struct sf_err *err) {
    static const char *const keys[] = {"op", "ranks", "bytes", "time", NULL};
    const struct sf_node *v;
    const char *word = NULL;
    int64_t ranks, bytes;
    sf_time_ps t;
    if (!sf_node_is_map(n)) {
        return sf_node_fail(n, err, "expected { op, ranks, bytes, time }");
    }
    SF_TRY(sf_map_only(n, keys, err));
    SF_TRY(sf_map_need(n, "op", &v, err));
    SF_TRY(sf_node_str(v, &word, err));
    int op = sf_call_parse(word);
    if (op < 0 || !sf_call_is_collective(op)) {
        return sf_node_fail(v, err, "expected a collective such as all_reduce, found '%.40s'", word);
    }
    SF_TRY(sf_map_need(n, "ranks", &v, err));
    SF_TRY(sf_node_i64(v, 2, 1 << 24, &ranks, err));
    SF_TRY(sf_map_need(n, "bytes", &v, err));
    SF_TRY(sf_node_i64(v, 1, INT64_C(1) << 50, &bytes, err));
    SF_TRY(sf_map_need(n, "time", &v, err));
    SF_TRY(sf_node_time(v, &t, err));
    *out = (struct sf_calib_point){
        .op = (uint16_t)op, .ranks = (uint32_t)ranks, .bytes = (double)bytes, .time_s = sf_ps_to_s(t)};
    return t > 0 ? SF_OK : sf_node_fail(v, err, "expected a time above 0");
}

int sfi_points_load(struct sf_cost *c, const struct sf_node *list, struct sf_err *err) {
    if (!sf_node_is_seq(list) || sf_seq_size(list) > POINTS_MAX) {
        return sf_node_fail(list, err, "expected a list of at most %d collectives", POINTS_MAX);
    }
    size_t n = sf_seq_size(list);
    c->points = sf_calloc(n, sizeof *c->points);
    if (!c->points) {
        return sf_fail_memory(err, "measured collectives");
    }
    for (; c->points_n < n; c->points_n++) {
        SF_TRY(read_point(sf_seq_at(list, c->points_n), &c->points[c->points_n], err));
    }
    return SF_OK;
}
