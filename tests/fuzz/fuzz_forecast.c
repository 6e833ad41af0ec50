/* Sealed forecasts: nothing but the very content that was sealed is accepted. */
#include <string.h>

#include "sim/compare.h"
#include "tests/fuzz/fuzz.h"

static const struct sf_forecast good = {.seed = 7,
                                        .step_cpu = 2000000,
                                        .step_time = 1000000,
                                        .trace_file = "forecast.sftrace",
                                        .prog_file = "forecast.sfprog",
                                        .cluster_file = "cluster.yaml"};

bool fuzz_seed(size_t i, struct sf_buf *out) {
    struct sf_forecast f = good;
    return i == 0 && sf_forecast_print(&f, out, NULL) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    const struct fuzz_file file = {"forecast.json", data, bytes};
    struct fuzz_files files = {&file, 1};
    const struct sf_io io = fuzz_io(&files);
    struct sf_forecast f;
    struct sf_err err = {0};
    int rc = sf_forecast_load(&io, "forecast.json", &f, &err);
    fuzz_check_result(rc, &err, rc == 0);
    if (rc == 0 && (f.step_time != good.step_time || f.step_cpu != good.step_cpu || f.seed != good.seed)) {
        fuzz_fail("a forecast was changed and its seal still holds");
    }
    return 0;
}
