/* The frontier table: smallest span bubble under a memory limit, with a proven bound, on published costs.
 *
 *     bench_synth [budget [chunks_min chunks_max]]        budget in passes placed; 0: the default
 *
 * Costs: Zero Bubble, arXiv 2401.10241, table 8 (F, B, W per half stage); memory that waits for W: 32h of 34h + 5as
 * bytes per layer, h = 128 a, s = 1024. `before`: the best of the authors' schedulers on the same costs and limit. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "planner/synth.h"

#define US INT64_C(1000000)
#define W_SHARE (32.0 / 74.0)

struct row {
    const char *model;
    uint32_t devices, microbatches;
    sf_time_ps f_half, b_half, w_half, comm;
    double before[3]; /* at 1, 1.25 and 1.5 p M */
};

static const struct row rows[] = {
    {"6.2B", 16, 64, 14412 * US, 14393 * US, 9688 * US, 1621 * US, {.0533, .0233, .0049}},
    {"14.6B", 24, 96, 6783 * US, 6984 * US, 5259 * US, 758 * US, {.0483, .0176, .0029}},
    {"28.3B", 32, 128, 9469 * US, 9744 * US, 7306 * US, 892 * US, {.0451, .0145, .0024}},
};

static double cpu_seconds(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

static double bubble(const struct sf_synth_result *r, sf_time_ps span) {
    return (double)(span - r->timing.busiest) / (double)span;
}

static void print_row(const struct row *row, double limit, double before, const struct sf_synth_options *options) {
    sf_time_ps f = 2 * row->f_half, b = 2 * row->b_half, w = 2 * row->w_half;
    double mem_f = 1, mem_w = W_SHARE, mem_b = 1 - W_SHARE;
    struct sf_synth_problem p = {.devices = row->devices,
                                 .microbatches = row->microbatches,
                                 .f = &f,
                                 .b = &b,
                                 .w = &w,
                                 .comm = row->comm,
                                 .mem_f = &mem_f,
                                 .mem_b = &mem_b,
                                 .mem_w = &mem_w,
                                 .memory_limit = limit * row->devices};
    struct sf_synth_result r;
    struct sf_err err = {.code = 0};
    double begin = cpu_seconds();
    if (sf_synth(&p, options, &r, &err) != 0) {
        sf_err_print(&err);
        exit(err.code);
    }
    double took = cpu_seconds() - begin;
    printf("%-6s p=%-2u m=%-3u %5.2f %7.4f %7.4f %7.4f %8.4f %6.2f%% %2u  %-18s %6.2f %8llu %6.1f  %s\n", row->model,
           row->devices, row->microbatches, limit, before, r.timing.bubble_span, bubble(&r, r.lower_bound_span),
           bubble(&r, r.problem_bound_span), 100 * r.gap, r.chunks, r.placement, took, (unsigned long long)r.evaluated,
           (double)r.passes / took / 1e6, sf_bound_reason_text(r.bound.reason));
    fflush(stdout);
    sf_synth_result_clear(&r);
}

/* Small problems: how many are solved, how many tables a second are built and timed. */
static void print_small(uint32_t devices, uint32_t microbatches, double limit, uint64_t budget) {
    sf_time_ps f = 18522 * US, b = 18086 * US, w = 9337 * US; /* table 9, 1.5B */
    double mem_f = 1, mem_w = 48.0 / 131, mem_b = 1 - 48.0 / 131;
    struct sf_synth_problem p = {.devices = devices,
                                 .microbatches = microbatches,
                                 .f = &f,
                                 .b = &b,
                                 .w = &w,
                                 .comm = 601 * US,
                                 .mem_f = &mem_f,
                                 .mem_b = &mem_b,
                                 .mem_w = &mem_w,
                                 .memory_limit = limit * devices};
    struct sf_synth_options options = {.budget = budget};
    struct sf_synth_result r;
    struct sf_err err = {.code = 0};
    double begin = cpu_seconds();
    if (sf_synth(&p, &options, &r, &err) != 0) {
        sf_err_print(&err);
        exit(err.code);
    }
    double took = cpu_seconds() - begin;
    printf("p=%u m=%-2u %5.2f  %7.4f %7.4f %8.4f %6.2f%% %2u  %-18s %6.2f %9.0f  %s%s\n", devices, microbatches, limit,
           r.timing.bubble_span, bubble(&r, r.lower_bound_span), bubble(&r, r.problem_bound_span), 100 * r.gap,
           r.chunks, r.placement, took, (double)r.evaluated / took, r.optimal ? "optimal: " : "",
           sf_bound_reason_text(r.bound.reason));
    sf_synth_result_clear(&r);
}

static void print_all_small(uint64_t budget) {
    printf("\nproblem  limit  bubble   bound any-place    gap chunks placement       cpu s   tries/s  what enforces "
           "the bound\n");
    for (uint32_t devices = 2; devices <= 8; devices *= 2) {
        for (uint32_t microbatches = 2; microbatches <= 16; microbatches *= 2) {
            for (int k = 0; k < 3; k++) {
                print_small(devices, microbatches, 1 + 0.25 * k, budget);
            }
        }
    }
}

int main(int argc, char **argv) {
    struct sf_synth_options options = {.budget = argc > 1 ? strtoull(argv[1], NULL, 10) : 0};
    options.chunks_min = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    options.chunks_max = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    printf("model              limit  before  bubble   bound any-place    gap chunks placement       cpu s    tries "
           "Mpass/s  what enforces the bound\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int k = 0; k < 3; k++) {
            print_row(&rows[i], 1 + 0.25 * k, rows[i].before[k], &options);
        }
    }
    print_all_small(options.budget);
    return 0;
}
