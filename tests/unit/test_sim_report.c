/* The report: complete, self-contained, safe against names from outside. */
#include <math.h>

#include "sim/report.h"
#include "tests/unit/test_sim_fixture.h"

struct page {
    struct toy toy;
    struct sf_prog *prog;
    struct sf_trace predicted, measured;
    struct sf_compare compare;
    struct sf_buf html;
};

static void page_open(struct page *g, const char *title, const char *note) {
    struct sf_err err = {0};
    struct sf_sim_result result;
    struct pipe p = {.tp = 1,
                     .ep = 1,
                     .dp = 1,
                     .pp = 2,
                     .microbatches = 4,
                     .per_domain = 2,
                     .domain_gpus = 2,
                     .f_ns = {1000, 1100},
                     .b_ns = {2000, 2100},
                     .act_bytes = 512};
    *g = (struct page){0};
    toy_open(&g->toy, 1, 2, 1, NULL);
    g->prog = pipe_build(&p);
    snprintf(g->prog->title, sizeof g->prog->title, "%s", title);
    sf_trace_init(&g->predicted);
    sf_trace_init(&g->measured);
    struct sf_sim_options options = {.unfolded = true, .trace = &g->predicted, .trace_ranks = 2};
    must_run(g->prog, &g->toy, &options, &result);
    options.trace = &g->measured;
    must_run(g->prog, &g->toy, &options, &result);
    sf_trace_sort(&g->predicted);
    sf_trace_sort(&g->measured);
    snprintf(g->measured.meta.note, sizeof g->measured.meta.note, "%s", note);
    struct sf_compare_options o = {.skip = 0, .tolerance = 0.1, .gaps = 5, .cost = g->toy.cost};
    must(sf_compare_run(g->prog, &g->predicted, &g->measured, &o, &g->compare, &err), &err);
}

static void page_print(struct page *g, const double *losses, size_t losses_n) {
    struct sf_err err = {0};
    struct sf_report r = {.prog = g->prog,
                          .compare = &g->compare,
                          .predicted = &g->predicted,
                          .measured = &g->measured,
                          .topo = g->toy.topo,
                          .losses = losses,
                          .losses_n = losses_n};
    must(sf_report_html(&r, &g->html, &err), &err);
    sf_buf_write(&g->html, "", 1);
}

static void page_close(struct page *g) {
    sf_compare_clear(&g->compare);
    sf_trace_clear(&g->predicted);
    sf_trace_clear(&g->measured);
    sf_prog_free(g->prog);
    sf_buf_free(&g->html);
    toy_close(&g->toy);
}

static size_t count(const char *text, const char *word) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at += strlen(word)) {
        n++;
    }
    return n;
}

/* Every element that has to be closed is, in the right order. */
static void assert_nested(const char *html) {
    static const char *const watched[] = {"html",  "head", "body", "main", "header", "section",
                                          "table", "svg",  "dl",   "div",  "title",  "style",
                                          "h1",    "h2",   "p",    "rect", "text",   "footer"};
    char stack[64][16];
    size_t depth = 0;
    for (const char *at = strchr(html, '<'); at != NULL; at = strchr(at + 1, '<')) {
        bool closing = at[1] == '/';
        const char *name = at + 1 + closing;
        size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz123456789");
        bool known = false;
        for (size_t i = 0; i < sizeof watched / sizeof *watched; i++) {
            known |= n == strlen(watched[i]) && strncmp(name, watched[i], n) == 0;
        }
        const char *end = strchr(at, '>');
        assert_non_null(end);
        if (!known || end[-1] == '/') {
            continue;
        }
        if (!closing) {
            assert_true(depth < 64);
            snprintf(stack[depth++], 16, "%.*s", (int)n, name);
        } else {
            assert_true(depth > 0);
            depth--;
            if (strlen(stack[depth]) != n || strncmp(stack[depth], name, n) != 0) {
                fail_msg("</%.*s> closes <%s>", (int)n, name, stack[depth]);
            }
        }
    }
    assert_int_equal(depth, 0);
}

static void test_it_is_one_complete_file(void **state) {
    (void)state;
    struct page g;
    double losses[] = {5.5, 4.25, NAN, 3.0};
    page_open(&g, "toy", "a host");
    page_print(&g, losses, 4);
    const char *html = g.html.data;
    assert_nested(html);
    assert_int_equal(count(html, "<script"), 0);
    assert_int_equal(count(html, "http"), 0);
    assert_int_equal(count(html, " src="), 0);
    assert_int_equal(count(html, "@import"), 0);
    assert_int_equal(count(html, "url("), 0);
    assert_non_null(strstr(html, "prefers-color-scheme:dark"));
    assert_non_null(strstr(html, "CPU time within tolerance"));
    assert_non_null(strstr(html, "polyline"));
    assert_int_equal(count(html, "nan"), 0);
    assert_int_equal(count(html, ">rank "), 2);
    char hash[SF_HASH_TEXT];
    assert_non_null(strstr(html, sf_hash_format(sf_prog_hash(g.prog), hash)));
    assert_non_null(strstr(html, sf_hash_format(sf_cost_hash(g.toy.cost), hash)));
    assert_non_null(strstr(html, "toy.peak.bf16"));
    assert_non_null(strstr(html, "<title>forward c0 m0\npredicted, rank 0: "));
    page_close(&g);
}

static void test_text_from_outside_is_escaped(void **state) {
    (void)state;
    struct page g;
    page_open(&g, "<b>\"x'&\x01\xff", "</dd><script>alert(1)</script>");
    page_print(&g, NULL, 0);
    assert_nested(g.html.data);
    assert_int_equal(count(g.html.data, "<script"), 0);
    assert_int_equal(count(g.html.data, "<b>\""), 0);
    assert_non_null(strstr(g.html.data, "<h1>&lt;b&gt;&quot;x&#39;&amp;&#xfffd;&#xfffd;</h1>"));
    assert_non_null(strstr(g.html.data, "&lt;/dd&gt;&lt;script&gt;"));
    assert_null(strstr(g.html.data, "polyline")); /* no losses, no curve */
    page_close(&g);
}

static void test_the_same_inputs_give_the_same_bytes(void **state) {
    (void)state;
    struct page a, b;
    page_open(&a, "toy", "host");
    page_open(&b, "toy", "host");
    page_print(&a, NULL, 0);
    page_print(&b, NULL, 0);
    assert_int_equal(a.html.bytes, b.html.bytes);
    assert_memory_equal(a.html.data, b.html.data, a.html.bytes);
    page_close(&a);
    page_close(&b);
}

static void test_a_bad_verdict_says_so(void **state) {
    (void)state;
    struct page g;
    page_open(&g, "toy", "host");
    g.compare.within = false;
    g.compare.step.error = -0.25;
    g.compare.order_violations_n = 1;
    g.compare.order_violations[0] = (struct sf_order_violation){.by = 1500, .label = "a<", .before_label = "b"};
    page_print(&g, NULL, 0);
    assert_nested(g.html.data);
    assert_non_null(strstr(g.html.data, "CPU time outside tolerance"));
    assert_non_null(strstr(g.html.data, "25.0&nbsp;% too low"));
    assert_non_null(strstr(g.html.data, "Order violations"));
    assert_non_null(strstr(g.html.data, "a&lt;"));
    page_close(&g);
}

static void test_memory_running_out(void **state) {
    (void)state;
    struct page g;
    page_open(&g, "toy", "host");
    struct sf_report r = {.prog = g.prog, .compare = &g.compare, .predicted = &g.predicted, .measured = &g.measured};
    int rc = SF_E_INTERNAL;
    size_t n = 1;
    for (; rc != SF_OK; n++) {
        struct sf_err err = {0};
        struct sf_buf html = {0};
        sf_alloc_fail_after(n);
        rc = sf_report_html(&r, &html, &err);
        sf_alloc_fail_after(0);
        assert_true(rc == SF_OK || rc == SF_E_INTERNAL);
        sf_buf_free(&html);
    }
    assert_true(n > 3);
    page_close(&g);
}

static void test_every_kind_of_op_has_a_colour(void **state) {
    struct page g;
    (void)state;
    page_open(&g, "toy", "");
    page_print(&g, NULL, 0);
    for (int kind = 0; kind < SF_OP_KINDS; kind++) {
        char rule[16];
        snprintf(rule, sizeof rule, ".k%d{fill:", kind);
        assert_non_null(strstr(g.html.data, rule));
    }
    page_close(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_is_one_complete_file),
        cmocka_unit_test(test_text_from_outside_is_escaped),
        cmocka_unit_test(test_the_same_inputs_give_the_same_bytes),
        cmocka_unit_test(test_a_bad_verdict_says_so),
        cmocka_unit_test(test_every_kind_of_op_has_a_colour),
        cmocka_unit_test(test_memory_running_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
