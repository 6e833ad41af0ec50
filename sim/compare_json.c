/* A comparison as JSON: times in seconds, errors as fractions. */
#include <jansson.h>
#include <stdio.h>

#include "sim/compare.h"

/* A time that is not known is null. */
static json_t *seconds(sf_time_ps t) {
    return t < 0 ? json_null() : json_real(sf_ps_to_s(t));
}

/* No error can be stated for what took no measured time. */
static json_t *fraction(const struct sf_compare_group *g, double value) {
    return g->timed > 0 ? json_real(value) : json_null();
}

static json_t *group_json(const struct sf_compare_group *g) {
    return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f}", "count", (json_int_t)g->count, "predicted_s",
                     seconds(g->predicted), "measured_s", seconds(g->measured), "error", fraction(g, g->error),
                     "p50_abs_error", fraction(g, g->p50), "p90_abs_error", fraction(g, g->p90), "time_p50_abs_error",
                     fraction(g, g->time_p50), "time_p90_abs_error", fraction(g, g->time_p90), "share_of_error",
                     g->share);
}

/* Forecast, estimate and measurement of the same ops. */
static json_t *estimate_json(const struct sf_compare_group *g) {
    return json_pack("{s:I, s:o, s:o, s:o}", "count", (json_int_t)g->estimated_n, "predicted_s",
                     seconds(g->estimated_predicted), "estimated_s", seconds(g->estimated), "measured_s",
                     seconds(g->estimated_measured));
}

static json_t *kinds_json(const struct sf_compare *c) {
    json_t *out = json_object();
    for (size_t i = 0; i < c->kinds_n; i++) {
        json_t *one = group_json(&c->kinds[i]);
        if (c->kinds[i].estimated_n > 0) {
            json_object_set_new(one, "estimate", estimate_json(&c->kinds[i]));
        }
        json_object_set_new(out, c->kinds[i].name, one);
    }
    return out;
}

static json_t *recipes_json(const struct sf_compare *c) {
    json_t *out = json_array();
    for (size_t i = 0; i < c->recipes_n; i++) {
        const struct sf_compare_group *g = &c->recipes[i];
        json_t *one = group_json(g);
        json_object_set_new(one, g->recipe == SF_NONE ? "kind" : "recipe", json_string(g->name));
        json_array_append_new(out, one);
    }
    return out;
}

static json_t *gaps_json(const struct sf_compare *c) {
    json_t *out = json_array();
    for (size_t i = 0; i < c->gaps_n; i++) {
        const struct sf_compare_gap *g = &c->gaps[i];
        json_array_append_new(out, json_pack("{s:i, s:i, s:s, s:s, s:o, s:o}", "rank", (int)g->rank, "op", (int)g->op,
                                             "kind", sf_op_name(g->kind), "label", g->label, "predicted_s",
                                             seconds(g->predicted), "measured_s", seconds(g->measured)));
    }
    return out;
}

static json_t *violations_json(const struct sf_compare *c) {
    json_t *out = json_array();
    for (size_t i = 0; i < c->order_violations_n && i < SF_COMPARE_VIOLATIONS; i++) {
        const struct sf_order_violation *v = &c->order_violations[i];
        json_array_append_new(out, json_pack("{s:s, s:i, s:i, s:i, s:s, s:i, s:s, s:o}", "rule",
                                             sf_order_rule_name(v->rule), "rank", (int)v->rank, "iteration",
                                             (int)v->iter, "op", (int)v->op, "label", v->label, "before",
                                             (int)v->before, "before_label", v->before_label, "by_s", seconds(v->by)));
    }
    return out;
}

static json_t *order_json(const struct sf_compare *c) {
    return json_pack("{s:I, s:I, s:I, s:o}", "checked", (json_int_t)c->order_checked, "violations",
                     (json_int_t)c->order_violations_n, "missing_ops", (json_int_t)c->missing_ops, "first",
                     violations_json(c));
}

static const char *verdict(const struct sf_compare *c) {
    if (c->order_only) {
        return c->within ? "in order" : "out of order";
    }
    return c->within ? "within tolerance" : "outside tolerance";
}

struct json_t *sf_compare_json(const struct sf_compare *c) {
    char hash[SF_HASH_TEXT];
    json_t *out = json_pack("{s:s, s:i, s:i, s:i, s:s, s:f, s:o}", "program", sf_hash_format(c->prog, hash), "ranks",
                            (int)c->ranks, "iterations", (int)c->iterations, "skipped", (int)c->skip, "verdict",
                            verdict(c), "tolerance", c->tolerance, "step_error", fraction(&c->step, c->step.error));
    json_t *more =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:o}", "step_cpu_predicted_s",
                  seconds(c->step.predicted), "step_cpu_measured_s", seconds(c->step.measured), "p50_abs_error",
                  fraction(&c->step, c->step.p50), "p90_abs_error", fraction(&c->step, c->step.p90),
                  "time_p50_abs_error", fraction(&c->step, c->step.time_p50), "time_p90_abs_error",
                  fraction(&c->step, c->step.time_p90), "makespan_predicted_s", seconds(c->predicted_makespan),
                  "makespan_replayed_s", seconds(c->replayed_makespan), "wall_median_s", seconds(c->wall), "per_kind",
                  kinds_json(c), "attribution", recipes_json(c), "unpredicted_records", (json_int_t)c->unpredicted,
                  "unmeasured_records", (json_int_t)c->unmeasured, "gaps", gaps_json(c));
    if (out == NULL || more == NULL || json_object_update(out, more) != 0 ||
        json_object_set_new(out, "order_violations", json_integer((json_int_t)c->order_violations_n)) != 0 ||
        json_object_set_new(out, "order", order_json(c)) != 0) {
        json_decref(out);
        out = NULL;
    }
    json_decref(more);
    return out;
}
