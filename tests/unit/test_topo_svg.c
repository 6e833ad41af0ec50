/* The drawing: well-formed, escaped, complete for every kind of cluster, and honest about its counts. */
#include "test_topo_fixture.h"

/* Every element closed in order, every attribute value quoted, no bare ampersand. */
static void must_be_well_formed(const char *svg) {
    char open[16][16];
    size_t depth = 0;
    for (const char *c = strpbrk(svg, "<&"); c != NULL; c = strpbrk(c + 1, "<&")) {
        if (*c == '&') {
            assert_true(strncmp(c, "&lt;", 4) == 0 || strncmp(c, "&amp;", 5) == 0);
            continue;
        }
        bool closing = c[1] == '/';
        const char *name = c + 1 + closing, *end = strchr(c, '>');
        size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz");
        assert_true(end != NULL && length > 0 && length < sizeof open[0]);
        size_t quotes = 0;
        for (const char *q = c; q < end; q++) {
            quotes += *q == '"';
        }
        assert_int_equal(quotes % 2, 0);
        if (closing) {
            assert_true(depth > 0);
            depth--;
            assert_true(strncmp(open[depth], name, length) == 0 && open[depth][length] == '\0');
        } else if (end[-1] != '/') {
            assert_true(depth < sizeof open / sizeof *open);
            snprintf(open[depth++], sizeof open[0], "%.*s", (int)length, name);
        }
    }
    assert_int_equal(depth, 0);
}

static char *draw(const struct sf_topo *t) {
    struct sf_buf b = {0};
    assert_int_equal(sf_topo_svg(t, &b), 0);
    sf_buf_write(&b, "", 1);
    assert_false(b.failed);
    must_be_well_formed(b.data);
    assert_true(strncmp(b.data, "<svg ", 5) == 0);
    assert_null(strstr(b.data, "nan"));
    assert_null(strstr(b.data, "inf"));
    return b.data;
}

static void test_the_large_cluster(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k");
    char *svg = draw(t);
    static const char *const facts[] = {"220,032", "3,960,576",   "3056 / 3096 / 1728",
                                        "43 pods", "1,728 cores", "10.3 PB/s"};
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        assert_non_null(strstr(svg, facts[i]));
    }
    assert_true(strlen(svg) < 400000);
    sf_free(svg);
    sf_topo_free(t);
}

static void test_other_clusters(void **state) {
    (void)state;
    static const char *const names[] = {"gb300-nvl72-4rack", "gb300-nvl72-1rack", "hgx-h100-16k", "cpu-8",
                                        "hgx-a100-3072"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct sf_topo *t = must_load_cluster(names[i]);
        char *svg = draw(t);
        assert_non_null(strstr(svg, names[i]));
        sf_free(svg);
        sf_topo_free(t);
    }
}

static void test_extreme_shapes(void **state) {
    (void)state;
    const struct shape shapes[] = {
        {2, 1, 1, 1, 2, 1, 1, "quantum-x800-q3400"},
        {2, 60, 20, 20, 120, 1, 1, "quantum-x800-q3400"},
        {10368, 18, 4, 4, 72, 3, 1, "quantum-x800-q3400"},
        {130, 1, 64, 64, 1, 3, 1, "quantum-x800-q3400"},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct sf_topo *t = must_load_shape(&shapes[i]);
        sf_free(draw(t));
        sf_topo_free(t);
    }
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what)) {
        n++;
    }
    return n;
}

/* What is dead is red, what is spare amber, and the drawing says so. */
static void test_overlay_and_stocks_show(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-220k-today");
    char *svg = draw(t);
    assert_non_null(strstr(svg, "5 dead GPUs, 2 dead NICs, 3 dead switches, 10 dead cables, 6 slow links, 16 spare"));
    assert_non_null(strstr(svg, "has dead GPUs"));
    assert_true(count(svg, "#e5484d") >= 6); /* NIC, two leaves, core, racks, legend */
    sf_free(svg);
    sf_topo_free(t);
    t = must_load_cluster("gb300-nvl72-220k");
    svg = draw(t);
    assert_int_equal(count(svg, "\"#e5484d\""), 0);
    sf_free(svg);
    sf_topo_free(t);
    t = must_load_cluster("gb200-gb300-mixed");
    svg = draw(t);
    assert_non_null(strstr(svg, "2,304 \u00d7 gb200 + 8,640 \u00d7 gb300 + 576 \u00d7 gb300"));
    assert_non_null(strstr(svg, "gb300 40 of 72"));
    sf_free(svg);
    sf_topo_free(t);
    t = must_load_cluster("gb300-nvl72-220k-4plane");
    svg = draw(t);
    assert_non_null(strstr(svg, "1 of 4 planes"));
    sf_free(svg);
    sf_topo_free(t);
}

static void test_names_are_escaped(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("cpu-8");
    snprintf(t->name, sizeof t->name, "a<b & c\001\"");
    char *svg = draw(t);
    assert_non_null(strstr(svg, "a&lt;b &amp; c?\""));
    sf_free(svg);
    struct sf_buf b = {0};
    sf_alloc_fail_after(1);
    assert_int_equal(sf_topo_svg(t, &b), SF_E_INTERNAL);
    sf_alloc_fail_after(0);
    sf_buf_free(&b);
    sf_topo_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_large_cluster), cmocka_unit_test(test_other_clusters),
        cmocka_unit_test(test_extreme_shapes),    cmocka_unit_test(test_overlay_and_stocks_show),
        cmocka_unit_test(test_names_are_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
