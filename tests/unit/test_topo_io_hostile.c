/* Files that are wrong, on purpose or not: each is refused at its place, in no time and without a leak. */
#include "test_topo_fixture.h"

#include <time.h>

#include "topo/topo_io_formats.h"

static int import_text(const char *text, enum sf_topo_format format, const struct sf_topo_wishes *w,
                       struct sf_err *err) {
    const struct memory_file file = {"dir/file", text};
    struct memory_io m = {&file, 1};
    const struct sf_io io = {&m, memory_read_all, NULL};
    struct sf_buf out = {0};
    int rc = sf_topo_import(&io, "dir/file", SF_CATALOG_DIR, format, w, &out, NULL, err);
    sf_buf_free(&out);
    return rc;
}

struct row {
    const char *text, *message;
    uint32_t line, column; /* 0: whatever it is */
};

static void refuse(const struct row *rows, size_t n, enum sf_topo_format format) {
    for (size_t i = 0; i < n; i++) {
        struct sf_err err = {0};
        int rc = import_text(rows[i].text, format, NULL, &err);
        bool at =
            (rows[i].line == 0 || rows[i].line == err.line) && (rows[i].column == 0 || rows[i].column == err.column);
        if (rc != SF_E_INPUT || !at || err.line == 0 || strstr(err.msg, rows[i].message) == NULL ||
            strcmp(err.file, "dir/file") != 0) {
            fail_msg("row %zu: %d %s:%u:%u: %s", i, rc, err.file, err.line, err.column, err.msg);
        }
    }
}

/* ---- XML ---- */

#define LOL(n, below) "<!ENTITY l" n " \"&l" below ";&l" below ";&l" below ";&l" below ";&l" below ";&l" below ";\">\n"

static void test_xml(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"", "expected XML, found an empty file", 1, 1},
        {"<", "well-formed", 1, 0},
        {"hello", "well-formed", 1, 0},
        {"<system version=\"1\">\n<cpu>\n</system>", "well-formed", 3, 0},
        {"<system version=\"1\"/>\n<system version=\"1\"/>", "well-formed", 2, 0},
        {"<!DOCTYPE system [\n<!ENTITY l0 \"lol\">\n" LOL("1", "0") LOL("2", "1") LOL("3", "2") LOL("4", "3")
             LOL("5", "4") LOL("6", "5") "]>\n<system version=\"&l6;\"/>",
         "without entities", 2, 0},
        {"<!DOCTYPE s [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>\n<system version=\"1\">&x;</system>",
         "without entities", 1, 0},
        {"<!DOCTYPE s [<!ENTITY % x SYSTEM \"http://127.0.0.1:1/x\"> %x;]>\n<system version=\"1\"/>",
         "without entities", 1, 0},
        {"<!DOCTYPE s [<!ATTLIST system version CDATA \"1\">]>\n<system/>", "without entities", 1, 0},
        {"<!DOCTYPE s [<!ELEMENT system ANY>]>\n<system/>", "without entities", 1, 0},
        {"<system version=\"&nothing;\"/>", "well-formed", 1, 0},
        {"<system version=\"1\" version=\"1\"/>", "well-formed", 1, 0},
        {"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>\n<system version=\"\xe9\"/>", "well-formed", 2, 0},
        {"<x:system version=\"1\"/>", "Namespace prefix x", 1, 0},
    };
    refuse(rows, sizeof rows / sizeof *rows, SF_TOPO_FORMAT_NCCL);
}

static void test_xml_limits(void **state) {
    (void)state;
    struct sf_err err = {0};
    struct sf_buf text = {0};
    for (int i = 0; i < 80; i++) {
        sf_buf_printf(&text, "<pci>\n");
    }
    sf_buf_write(&text, "", 1);
    assert_int_equal(import_text(text.data, SF_TOPO_FORMAT_NCCL, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "at most 64 deep"));
    assert_int_equal(err.line, 65);
    assert_int_equal(err.column, 1);
    text.bytes = 0;
    sf_buf_printf(&text, "<system\n  version=\"");
    for (int i = 0; i < 500; i++) {
        sf_buf_printf(&text, "0123456789");
    }
    sf_buf_printf(&text, "\"/>");
    sf_buf_write(&text, "", 1);
    assert_int_equal(import_text(text.data, SF_TOPO_FORMAT_NCCL, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "at most 4096 bytes, found 5000"));
    assert_int_equal(err.line, 1);
    text.bytes = 0;
    sf_buf_printf(&text, "<?pi a=\"?>\n<!-- 1' -->\n <system");
    for (int i = 0; i < 1000000; i++) { /* each compared with each other would be hours */
        sf_buf_printf(&text, " a%d='>'", i);
    }
    sf_buf_printf(&text, "/>");
    sf_buf_write(&text, "", 1);
    assert_int_equal(import_text(text.data, SF_TOPO_FORMAT_NCCL, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "at most 64 attributes"));
    assert_int_equal(err.line, 3);
    assert_int_equal(err.column, 2);
    sf_buf_free(&text);
}

static void test_utf16(void **state) {
    (void)state;
    static const char text[] = "\xff\xfe<\0s\0/\0>\0";
    const struct memory_file file = {"f", text};
    struct memory_io m = {&file, 1};
    const struct sf_io io = {&m, memory_read_all, NULL};
    struct sf_buf out = {0};
    struct sf_err err = {0};
    assert_int_equal(sf_topo_import(&io, "f", SF_CATALOG_DIR, SF_TOPO_FORMAT_NCCL, NULL, &out, NULL, &err),
                     SF_E_INPUT); /* cut at the first NUL by strlen: a byte order mark and nothing behind it */
    assert_int_equal(err.line, 1);
    sf_buf_free(&out);
}

/* ---- NCCL ---- */

#define NODE(gpu) "<system version=\"1\">\n<cpu numaid=\"0\">\n" gpu "</cpu>\n</system>\n"
#define GPU(attributes, inside)                                                                                        \
    "<pci busid=\"0000:01:00.0\" class=\"0x030200\" vendor=\"0x10de\" device=\"0x2330\" " attributes ">\n" inside      \
    "</pci>\n"

static void test_nccl(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"<graphs version=\"1\"/>", "NCCL_TOPO_DUMP_FILE writes the topology", 1, 1},
        {"<system/>", "expected attribute \"version\"", 1, 1},
        {"<system version=\"2\"/>", "expected version 1", 1, 1},
        {"<system version=\"-1\"/>", "a whole number from 0", 1, 1},
        {"<system version=\"99999999999999999999\"/>", "a whole number from 0", 1, 1},
        {"<system version=\"1\"><cpu/></system>", "expected GPUs", 1, 1},
        {NODE("<pci class=\"0x0302\"/>"), "expected attribute \"busid\"", 3, 1},
        {NODE(GPU("link_speed=\"fast\"", "")), "like \"32.0 GT/s PCIe\", found \"fast\"", 3, 1},
        {NODE(GPU("link_width=\"9223372036854775808\"", "")), "from 0 to 64 in link_width", 3, 1},
        {NODE(GPU("", "<gpu dev=\"0\"/>\n")), "expected attribute \"sm\"", 4, 1},
        {NODE(GPU("", "<gpu sm=\"80\"/>\n")), "has sm 90, but the file says sm 80", 3, 1},
        {NODE(GPU("", "<gpu sm=\"90\"><nvlink count=\"1\"/></gpu>\n")), "expected attribute \"target\"", 4, 14},
        {NODE(GPU("", "<gpu sm=\"90\"><nvlink target=\"x\" count=\"0\"/></gpu>\n")), "one link or more", 4, 14},
        {NODE(GPU("", "<gpu sm=\"90\"><nvlink target=\"x\" count=\"129\"/></gpu>\n")), "from 0 to 128", 4, 14},
        {NODE(GPU("", "<gpu sm=\"90\">\n<nvlink target=\"x\" count=\"128\"/>\n<nvlink target=\"y\" "
                      "count=\"128\"/></gpu>\n")),
         "at most 128 NVLinks", 6, 1},
        {NODE(GPU("", "<gpu sm=\"90\"><nvlink target=\"x\" count=\"1\" tclass=\"0x0101\"/></gpu>\n")),
         "0x068000 (NVSwitch) or 0x0302 (GPU)", 4, 14},
        {NODE(GPU("", "<gpu sm=\"90\"><nvlink target=\"x\" count=\"1\"/></gpu>\n")
                  GPU("", "<gpu sm=\"90\"><nvlink target=\"x\" count=\"2\"/></gpu>\n")),
         "NVLinks to switch chips is 2 here and 1 at the first GPU (line 3)", 6, 1},
        {"<system version=\"1\">\n<cpu host_hash=\"0x1\"/>\n<cpu host_hash=\"0x2\"/></system>", "of one host", 3, 1},
        {NODE("<pci busid=\"0\" class=\"0x0302\" vendor=\"0x10de\" device=\"0x1\"/>"), "0x10de:0x0001 is unknown", 3,
         1},
        {NODE("<pci busid=\"0\"><gpu sm=\"90\"/></pci>"),
         "may be several GPUs: name one with --device, for instance "
         "h100 or h200",
         3, 1},
        {NODE("<pci busid=\"0\" class=\"0x0302\" vendor=\"0x10de\" device=\"12345\"/>"), "hexadecimal", 3, 1},
    };
    refuse(rows, sizeof rows / sizeof *rows, SF_TOPO_FORMAT_NCCL);
}

static void test_wishes(void **state) {
    (void)state;
    static const struct {
        struct sf_topo_wishes wishes;
        const char *message;
    } rows[] = {
        {{.device = "a b"}, "expected the device as a catalog name"},
        {{.device = ""}, "expected the device as a catalog name"},
        {{.device = "x\ny: 1"}, "expected the device as a catalog name"},
        {{.device = "nothing"}, "cannot read"},
        {{.link = "\""}, "expected the link class as a catalog name"},
        {{.nic = "--json"}, "expected the NIC as a catalog name"},
        {{.name = "a: b"}, "expected the cluster's name as a catalog name"},
    };
    static const char good[] = NODE(GPU("", "<gpu sm=\"90\"><nvlink target=\"x\" count=\"18\"/></gpu>\n"));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sf_err err = {0};
        int rc = import_text(good, SF_TOPO_FORMAT_NCCL, &rows[i].wishes, &err);
        if ((rc != SF_E_INPUT && rc != SF_E_IO) || strstr(err.msg, rows[i].message) == NULL) {
            fail_msg("row %zu: %d %s", i, rc, err.msg);
        }
    }
    struct sf_err err = {0};
    assert_int_equal(import_text(good, SF_TOPO_FORMAT_NCCL, NULL, &err), 0);
}

/* ---- hwloc ---- */

#define HWLOC(inside) "<topology version=\"2.0\">\n<object type=\"Machine\">\n" inside "</object>\n"
#define HGPU(more)                                                                                                     \
    "<object type=\"PCIDev\" gp_index=\"7\" pci_type=\"0302 [10de:2330] [0:0] 00\" " more ">\n<object type=\"OSDev\" " \
    "gp_index=\"8\" subtype=\"NVML\"/></object>\n"
#define MATRIX(indexes, values)                                                                                        \
    "<distances2hetero name=\"NVLinkBandwidth\" nbobjs=\"2\">\n<indexes>" indexes "</indexes>\n<u64values>" values     \
    "</u64values>\n</distances2hetero>\n"

static void test_hwloc(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"<topology/>", "expected version 2 or 3", 1, 1},
        {"<topology version=\"1.0\"/>", "expected version 2 or 3", 1, 1},
        {"<root/>", "expected <topology", 1, 1},
        {HWLOC("") "</topology>", "expected GPUs", 1, 1},
        {HWLOC("<object type=\"PCIDev\"/>") "</topology>", "expected attribute \"pci_type\"", 3, 1},
        {HWLOC("<object type=\"PCIDev\" pci_type=\"0302\"/>") "</topology>", "like \"0302 [10de:2330]\"", 3, 1},
        {HWLOC(HGPU("pci_link_speed=\"nan\"")) "</topology>", "pci_link_speed in GB/s", 3, 1},
        {HWLOC(HGPU("pci_link_speed=\"1e300\"")) "</topology>", "pci_link_speed in GB/s", 3, 1},
        {HWLOC(HGPU("pci_link_speed=\"\"")) "</topology>", "pci_link_speed in GB/s", 3, 1},
        {HWLOC(HGPU("")) MATRIX("OSDev:8 PCIDev:7", "0 0 0") "</topology>", "expected 4 numbers in MB/s, found 3", 6,
         1},
        {HWLOC(HGPU("")) MATRIX("OSDev:8 PCIDev:7", "0 0 0 0 0") "</topology>", "expected 4 numbers in MB/s", 8, 1},
        {HWLOC(HGPU("")) MATRIX("OSDev:8 PCIDev:7", "0 -1 0 0") "</topology>", "expected 4 numbers in MB/s", 8, 1},
        {HWLOC(HGPU("")) MATRIX("OSDev:8 PCIDev:7", "0 99999999999 0 0") "</topology>", "1 to 128 NVLinks", 8, 1},
        {HWLOC(HGPU("")) MATRIX("OSDev:8 PCIDev:7", "0 26000 0 0") "</topology>", "NVLinks of 20000 MB/s", 8, 1},
        {HWLOC(HGPU("")) MATRIX("OSDev:8 PCIDev:", "0 0 0 0") "</topology>", "indexes like OSDev:802", 7, 1},
    };
    refuse(rows, sizeof rows / sizeof *rows, SF_TOPO_FORMAT_HWLOC);
}

/* ---- InfraGraph ---- */

#define COMPONENTS                                                                                                     \
    "components: [{ name: xpu, count: 2, choice: xpu, description: catalog device h100 }, { name: sw, count: 1, "      \
    "choice: switch }, { name: nic, count: 2, choice: nic }]"
#define HOST(edges)                                                                                                    \
    "devices:\n- { name: host, " COMPONENTS ", links: [{ name: nvlink }], edges: [" edges "] }\n"                      \
    "- { name: switch, components: [{ name: port, count: 64, choice: port }], links: [], edges: [] }\n"
#define JOIN "{ ep1: { component: xpu }, ep2: { component: sw }, scheme: many2many, link: nvlink }"
#define SITE "instances:\n- { name: h, device: host, count: 2 }\n- { name: s, device: switch, count: 2 }\n"
#define LINKS "links:\n- { name: l, physical: { bandwidth: { gigabits_per_second: 400 } } }\n"
#define EDGE(a, b) "- { ep1: { instance: " a " }, ep2: { instance: " b " }, scheme: one2one, link: l }\n"

static void test_infragraph(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"[]", "expected a mapping that describes an infrastructure", 1, 1},
        {"a: &a [1]\nb: *a\n", "", 1, 0},
        {"devices: 1", "expected a list of devices", 1, 10},
        {"devices: [1]", "a mapping that describes a device", 1, 11},
        {"devices: []", "expected instances of a device with xpus", 1, 1},
        {"devices: [{ name: d, components: [{ name: d, count: 1, choice: device }] }]", "that holds itself", 1, 11},
        {"devices: [{ name: d, components: [{ name: e, count: 1, choice: device }] }]", "the name of a device", 1, 35},
        {"devices: [{ name: d, components: [{ name: e, count: -1, choice: xpu }] }]", "whole number from 0", 1, 0},
        {"devices: [{ name: d, components: [{ name: e, count: 9223372036854775808, choice: xpu }] }]",
         "whole number from 0", 1, 0},
        {"devices: [{ name: d, components: [{ name: e, count: 1, choice: gpu }] }]", "unknown word \"gpu\"", 1, 0},
        {"devices:\n- { name: a, components: [{ name: x, count: 1048576, choice: xpu }] }\n"
         "- { name: b, components: [{ name: a, count: 1048576, choice: device }] }\n",
         "at most 1048576 components in a device", 3, 0},
        {"instances: [{ name: h, device: d, count: 1 }]", "the name of a device", 1, 0},
        {HOST("{ ep1: { component: \"xpu[0:3]\" }, ep2: { component: sw }, scheme: one2one, link: nvlink }") SITE,
         "a slice like name[0:4] within 0 to 2", 2, 0},
        {HOST("{ ep1: { component: \"xpu[1:0]\" }, ep2: { component: sw }, scheme: one2one, link: nvlink }") SITE,
         "a slice", 2, 0},
        {HOST("{ ep1: { component: \"xpu[0:2:0]\" }, ep2: { component: sw }, scheme: one2one, link: nvlink }") SITE,
         "a slice", 2, 0},
        {HOST("{ ep1: { component: \"xpu[99999999999999999999]\" }, ep2: { component: sw }, scheme: one2one, link: "
              "nvlink }") SITE,
         "a slice", 2, 0},
        {HOST("{ ep1: { component: \"xpu[\" }, ep2: { component: sw }, scheme: one2one, link: nvlink }") SITE,
         "a slice", 2, 0},
        {HOST("{ ep1: { component: tpu }, ep2: { component: sw }, scheme: one2one, link: nvlink }") SITE,
         "a component of device host, found \"tpu\"", 2, 0},
        {HOST("{ ep1: { component: xpu }, ep2: { component: sw }, scheme: ring, link: nvlink }") SITE, "one2one", 2, 0},
        {HOST("{ ep1: { component: xpu }, ep2: { component: sw }, scheme: one2one, link: x }") SITE,
         "the name of one of 1 links", 2, 0},
        {HOST("") SITE, "links whose name or description says nvlink or scale-up", 2, 0},
        {HOST("{ ep1: { component: xpu }, ep2: { component: sw }, scheme: one2one, link: nvlink }") SITE,
         "xpus that are all alike", 2, 0},
        {HOST(JOIN) SITE, "edges from the 2 instances of host to switches", 1, 1},
        {HOST(JOIN) SITE LINKS "edges:\n" EDGE("\"h[0:9]\", component: nic", "\"s[0]\", component: port"), "a slice",
         10, 0},
        {HOST(JOIN) SITE LINKS "edges:\n" EDGE("\"x[0]\", component: nic", "\"s[0]\", component: port"),
         "the name of one of 2 instances", 10, 0},
        {HOST(JOIN) SITE LINKS "edges:\n" EDGE("\"h[0]\", component: nic", "\"h[1]\", component: nic"), "two domains",
         10, 0},
        {HOST(JOIN) SITE LINKS "edges:\n" EDGE("h, component: nic", "\"s[0]\", component: port")
             EDGE("\"s[0]\", component: \"port[9]\"", "\"s[0]\", component: \"port[10]\""),
         "one inside a tier", 11, 0},
        {HOST(JOIN) SITE LINKS "edges:\n" EDGE("h, component: \"nic[0]\"", "\"s[0]\", component: port"),
         "expected 2 NIC cables", 5, 0},
        {HOST(JOIN) SITE LINKS "edges:\n" EDGE("\"h[0]\", component: nic", "\"s[0]\", component: port")
             EDGE("\"h[1]\", component: nic", "s, component: \"port[5]\""),
         "expected every domain on 1 leaves", 11, 0},
    };
    refuse(rows, sizeof rows / sizeof *rows, SF_TOPO_FORMAT_INFRAGRAPH);
}

/* Edges that multiply: 64 of a million ends each would be 64 million. */
static void test_infragraph_bombs(void **state) {
    (void)state;
    struct sf_buf text = {0};
    struct sf_err err = {0};
    sf_buf_printf(&text,
                  "devices: [{ name: d, components: [{ name: x, count: 1048576, choice: xpu }], links: [{ name: l "
                  "}], edges: [\n");
    for (int i = 0; i < 64; i++) {
        sf_buf_printf(&text, "{ ep1: { component: x }, ep2: { component: \"x[0]\" }, scheme: one2one, link: l },\n");
    }
    sf_buf_printf(&text, "] }]\n");
    sf_buf_write(&text, "", 1);
    clock_t start = clock();
    assert_int_equal(import_text(text.data, SF_TOPO_FORMAT_INFRAGRAPH, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "when slices are expanded"));
    text.bytes = 0;
    sf_buf_printf(&text,
                  "devices: [{ name: d, components: [{ name: x, count: 1048576, choice: xpu }], links: [{ name: l "
                  "}], edges: [{ ep1: { component: x }, ep2: { component: x }, scheme: many2many, link: l }] }]");
    sf_buf_write(&text, "", 1);
    assert_int_equal(import_text(text.data, SF_TOPO_FORMAT_INFRAGRAPH, NULL, &err), SF_E_INPUT);
    assert_non_null(strstr(err.msg, "when slices are expanded"));
    assert_true(clock() - start < CLOCKS_PER_SEC);
    sf_buf_free(&text);
}

/* ---- memory ---- */

static void run_out(const char *file, enum sf_topo_format format, const struct sf_topo_wishes *w) {
    char path[512];
    snprintf(path, sizeof path, "%s/tests/data/topo/%s", SF_SOURCE_DIR, file);
    int rc = SF_E_INTERNAL;
    for (size_t n = 1; rc == SF_E_INTERNAL && n < 5000; n += 1 + n / 8) {
        struct sf_buf out = {0};
        struct sf_err err = {0};
        sf_alloc_fail_after(n);
        rc = sf_topo_import(&sf_io_posix, path, SF_CATALOG_DIR, format, w, &out, NULL, &err);
        sf_alloc_fail_after(0);
        assert_true(rc == 0 || (rc == SF_E_INTERNAL && strstr(err.msg, "memory") != NULL));
        sf_buf_free(&out);
    }
    assert_int_equal(rc, 0);
}

static void test_memory_runs_out(void **state) {
    (void)state;
    const struct sf_topo_wishes h100 = {.device = "h100", .fabric_switch = "quantum2-qm9700"};
    const struct sf_topo_wishes a100 = {.device = "a100", .link = "nvlink3"};
    run_out("nccl-dgx-a100.xml", SF_TOPO_FORMAT_NCCL, &a100);
    run_out("hwloc-dgx2.xml", SF_TOPO_FORMAT_HWLOC, &a100);
    run_out("infragraph-dgx-h100.yaml", SF_TOPO_FORMAT_INFRAGRAPH, &h100);
}

static void test_export_runs_out_of_memory(void **state) {
    (void)state;
    struct sf_topo *t = must_load_cluster("gb300-nvl72-4rack");
    for (int format = 0; format < SF_TOPO_FORMATS_N; format++) {
        int rc = SF_E_INTERNAL;
        for (size_t n = 1; rc == SF_E_INTERNAL && n < 1000; n++) {
            const struct sf_topo_export what = {0, 0};
            struct sf_buf out = {0};
            struct sf_err err = {0};
            sf_alloc_fail_after(n);
            rc = sf_topo_export(t, (enum sf_topo_format)format, &what, &out, &err);
            sf_alloc_fail_after(0);
            assert_true(rc == 0 || (rc == SF_E_INTERNAL && strstr(err.msg, "memory") != NULL));
            sf_buf_free(&out);
        }
        assert_int_equal(rc, 0);
    }
    sf_topo_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xml),
        cmocka_unit_test(test_xml_limits),
        cmocka_unit_test(test_utf16),
        cmocka_unit_test(test_nccl),
        cmocka_unit_test(test_wishes),
        cmocka_unit_test(test_hwloc),
        cmocka_unit_test(test_infragraph),
        cmocka_unit_test(test_infragraph_bombs),
        cmocka_unit_test(test_memory_runs_out),
        cmocka_unit_test(test_export_runs_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
