/* What the numbers of a report rest on: hashes, the grade of every kernel's price, the catalog. */
#include <inttypes.h>

#include "sim/report_part.h"

static void fact_hash(struct sf_buf *out, const char *name, struct sf_hash h) {
    char text[SF_HASH_TEXT];
    sf_buf_printf(out, "<dt>%s</dt><dd><code>%s</code></dd>\n", name, sf_hash_format(h, text));
}

static void fact_text(struct sf_buf *out, const char *name, const char *text) {
    sf_buf_printf(out, "<dt>%s</dt><dd>", name);
    sfi_html_text(out, text[0] != '\0' ? text : "none given");
    sf_buf_printf(out, "</dd>\n");
}

static void facts(const struct sf_report *r, struct sf_buf *out) {
    const struct sf_trace_meta *p = &r->predicted->meta, *m = &r->measured->meta;
    sf_buf_printf(out, "<dl class='facts'>\n");
    fact_hash(out, "Program", r->compare->prog);
    fact_hash(out, "Topology", p->topo);
    fact_hash(out, "Cost model, kernel table included", p->cost);
    if (r->forecast != NULL) {
        fact_hash(out, "Seal of the forecast", r->forecast->seal);
    }
    sf_buf_printf(out, "<dt>Seed</dt><dd>%" PRIu64 "</dd>\n", p->seed);
    fact_text(out, "Prediction by", p->origin);
    fact_text(out, "Measurement by", m->origin);
    sf_buf_printf(out, "<dt>Time source of the measurement</dt><dd>%s</dd>\n",
                  sf_time_source_name(r->measured->recs[0].source));
    fact_text(out, "Host of the measurement", m->note);
    sf_buf_printf(out, "</dl>\n");
}

struct kernel_use {
    sf_time_ps time; /* of one pass through every class */
    uint64_t calls;
    enum sf_grade grade; /* the worst of them */
};

static void use_recipe(const struct sf_cost *cost, const struct sf_recipe *recipe, struct kernel_use use[]) {
    for (uint32_t i = 0; i < recipe->calls_n; i++) {
        const struct sf_call *call = &recipe->calls[i];
        enum sf_grade grade;
        if (!sf_call_is_collective(call->kind)) {
            struct kernel_use *u = &use[call->kind];
            u->time += sf_cost_call(cost, call, &grade);
            u->grade = u->calls == 0 || grade > u->grade ? grade : u->grade;
            u->calls++;
        }
    }
}

static void kernel_rows(struct sf_buf *out, const struct kernel_use use[SF_CALL_KINDS]) {
    sf_time_ps total = 0;
    for (int k = 0; k < SF_CALL_KINDS; k++) {
        total += use[k].time;
    }
    for (int k = 0; k < SF_CALL_KINDS; k++) {
        if (use[k].calls > 0) {
            sf_buf_printf(out,
                          "<tr><td>%s</td><td class='n'>%" PRIu64 "</td><td class='n'>%.1f&nbsp;%%</td><td><span "
                          "class='grade'>%s</span></td></tr>\n",
                          sf_call_name(k), use[k].calls, total > 0 ? 100.0 * (double)use[k].time / (double)total : 0.0,
                          sf_grade_name((int)use[k].grade));
        }
    }
}

/* The price of every kernel call of the program, by kind. */
static void kernels(const struct sf_report *r, struct sf_buf *out) {
    struct kernel_use use[SF_CALL_KINDS] = {{0}};
    for (uint32_t c = 0; c < r->prog->classes_n; c++) {
        const struct sf_class *cls = &r->prog->classes[c];
        for (uint32_t i = 0; i < cls->ops_n; i++) {
            if (cls->ops[i].recipe != SF_NONE) {
                use_recipe(r->cost, &r->prog->recipes[cls->ops[i].recipe], use);
            }
        }
    }
    sf_buf_printf(out,
                  "<table><tr><th>Kernel<th class='n'>Calls a step<th class='n'>Share of the predicted time<th>Its "
                  "price is</tr>\n");
    kernel_rows(out, use);
    sf_buf_printf(out, "</table>\n");
}

static void catalog(const struct sf_report *r, struct sf_buf *out) {
    const struct sf_source *sources = NULL;
    size_t n = sf_topo_sources(r->topo, &sources);
    sf_buf_printf(out, "<p class='hint'>Catalog values of the cluster file, used where nothing was measured:</p>\n"
                       "<table><tr><th>Quantity<th>Value<th>Grade<th>Source</tr>\n");
    for (size_t i = 0; i < n; i++) {
        sf_buf_printf(out, "<tr><td class='wrap'>");
        sfi_html_text(out, sources[i].item);
        sf_buf_printf(out, "</td><td>");
        sfi_html_text(out, sources[i].value);
        sf_buf_printf(out, "</td><td><span class='grade'>%s</span></td><td class='wrap'>",
                      sf_grade_name((int)sources[i].grade));
        sfi_html_text(out, sources[i].source);
        sf_buf_printf(out, "</td></tr>\n");
    }
    sf_buf_printf(out, "</table>\n");
}

void sfi_report_basis(const struct sf_report *r, struct sf_buf *out) {
    sf_buf_printf(out, "<section><h2>What these numbers rest on</h2><p class='hint'>The same hashes mean the same "
                       "inputs.</p>\n");
    facts(r, out);
    if (r->cost != NULL) {
        kernels(r, out);
    }
    if (r->topo != NULL) {
        catalog(r, out);
    }
    sf_buf_printf(out, "</section>\n");
}
