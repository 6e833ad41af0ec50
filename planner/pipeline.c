/* Tables of passes: made, copied, freed. */
#include "planner/pipeline.h"

#include <string.h>

#include "core/arena.h"

static int check_shape(uint32_t devices, uint32_t stages, uint32_t microbatches, uint32_t slices, struct sf_err *err) {
    if (devices == 0 || devices > SF_PIPE_MAX_DEVICES) {
        return sf_fail(err, SF_E_INPUT, "a pipeline needs 1 to %d devices, found %u", SF_PIPE_MAX_DEVICES, devices);
    }
    if (stages == 0 || stages > SF_PIPE_MAX_STAGES || stages % devices != 0) {
        return sf_fail(
            err, SF_E_INPUT,
            "a pipeline needs 1 to %d virtual stages, the same number on each device; found %u on %u devices",
            SF_PIPE_MAX_STAGES, stages, devices);
    }
    if (slices == 0 || slices > SF_PIPE_MAX_SLICES) {
        return sf_fail(err, SF_E_INPUT, "a pipeline needs 1 to %d slices, found %u", SF_PIPE_MAX_SLICES, slices);
    }
    uint64_t passes = (uint64_t)stages * slices * 3; /* cannot overflow: 14 + 8 + 2 bits */
    if (microbatches == 0 || microbatches > SF_PIPE_MAX_PASSES / passes) {
        return sf_fail(err, SF_E_INPUT,
                       "a pipeline of %u virtual stages and %u slices needs 1 to %llu microbatches, found %u", stages,
                       slices, (unsigned long long)(SF_PIPE_MAX_PASSES / passes), microbatches);
    }
    return 0;
}

static int allocate(struct sf_pipe *p) {
    p->device_of = sf_calloc(p->stages, sizeof *p->device_of);
    p->passes = sf_calloc(p->devices, sizeof(struct sf_pass *));
    p->passes_n = sf_calloc(p->devices, sizeof *p->passes_n);
    if (p->device_of == NULL || p->passes == NULL || p->passes_n == NULL) {
        return -1;
    }
    p->passes[0] = sf_calloc((size_t)p->devices * p->room, sizeof **p->passes);
    if (p->passes[0] == NULL) {
        return -1;
    }
    for (uint32_t d = 0; d < p->devices; d++) {
        p->passes[d] = p->passes[0] + (size_t)d * p->room;
    }
    for (uint32_t s = 0; s < p->stages; s++) {
        p->device_of[s] = (uint16_t)(s % p->devices);
    }
    return 0;
}

int sf_pipe_create(uint32_t devices, uint32_t stages, uint32_t microbatches, uint32_t slices, struct sf_pipe **out,
                   struct sf_err *err) {
    *out = NULL;
    SF_TRY(check_shape(devices, stages, microbatches, slices, err));
    struct sf_pipe *p = sf_calloc(1, sizeof *p);
    if (p == NULL) {
        return sf_fail_memory(err, "pipeline");
    }
    *p = (struct sf_pipe){.devices = devices,
                          .stages = stages,
                          .microbatches = microbatches,
                          .slices = slices,
                          .ways = 1,
                          .room = 3 * (stages / devices) * microbatches * slices};
    if (allocate(p) != 0) {
        sf_pipe_free(p);
        return sf_fail_memory(err, "pipeline passes");
    }
    *out = p;
    return 0;
}

void sf_pipe_free(struct sf_pipe *p) {
    if (p == NULL) {
        return;
    }
    if (p->passes != NULL) {
        sf_free(p->passes[0]);
    }
    sf_free(p->passes);
    sf_free(p->passes_n);
    sf_free(p->device_of);
    sf_free(p);
}

int sf_pipe_copy(const struct sf_pipe *p, struct sf_pipe **out, struct sf_err *err) {
    SF_TRY(sf_pipe_create(p->devices, p->stages, p->microbatches, p->slices, out, err));
    struct sf_pipe *to = *out;
    to->ways = p->ways;
    to->parts = p->parts;
    memcpy(to->device_of, p->device_of, p->stages * sizeof *p->device_of);
    for (uint32_t d = 0; d < p->devices; d++) {
        to->passes_n[d] = p->passes_n[d];
        memcpy(to->passes[d], p->passes[d], p->passes_n[d] * sizeof **p->passes);
    }
    return 0;
}

sf_time_ps **sf_pipe_times_create(const struct sf_pipe *p) {
    size_t rows = p->devices * sizeof(sf_time_ps *), cells = (size_t)p->devices * p->room;
    sf_time_ps **times = sf_calloc(1, rows + cells * sizeof(sf_time_ps));
    if (times != NULL) {
        sf_time_ps *block = (sf_time_ps *)(void *)((char *)times + rows);
        for (uint32_t d = 0; d < p->devices; d++) {
            times[d] = block + (size_t)d * p->room;
        }
    }
    return times;
}

void sf_pipe_times_free(sf_time_ps **times) {
    sf_free(times);
}

const char *sf_pass_letter(int kind) {
    static const char *const letters[SF_PASS_KINDS] = {"F", "I", "W", "B", "F"};
    return kind >= 0 && kind < SF_PASS_KINDS ? letters[kind] : "?";
}
