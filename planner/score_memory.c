#include "planner/score_memory.h"

#include <math.h>

enum { KEPT_BYTES = 5, GRADIENT_BYTES = 4 };

struct scores {
    double live, most, largest; /* kept now, at most, and by one call; of all layers, recomputed or not */
    double calls, again;        /* forward ones, and those of them that only recompute */
};

static void add_call(const struct sf_call *call, struct scores *s) {
    bool slice = call->kind == SF_CALL_ATTN_SLICE_FWD || call->kind == SF_CALL_ATTN_SLICE_BWD;
    double pairs =
        (double)call->dims[0] * (double)call->dims[2] * (double)call->dims[1] * (slice ? 1.0 : (double)call->dims[1]);
    if (sf_call_is_attention(call->kind) && !sf_call_is_attention_fwd(call->kind)) {
        s->live -= KEPT_BYTES * pairs;
    } else if (sf_call_is_attention_fwd(call->kind)) {
        bool again = (call->flags & SF_CALL_RECOMPUTE_FLAG) != 0;
        s->calls += again ? 0 : 1;
        s->again += again ? 1 : 0;
        s->live += again ? 0 : KEPT_BYTES * pairs;
        s->most = fmax(s->most, s->live);
        s->largest = fmax(s->largest, pairs);
    }
}

static double of_class(const struct sf_prog *prog, const struct sf_class *c) {
    struct scores s = {.live = 0.0};
    for (uint32_t i = 0; i < c->ops_n; i++) {
        const struct sf_recipe *r = c->ops[i].recipe != SF_NONE ? &prog->recipes[c->ops[i].recipe] : NULL;
        for (uint32_t k = 0; r && k < r->calls_n; k++) {
            add_call(&r->calls[k], &s);
        }
    }
    double kept = s.calls > 0 ? fmax(1 - s.again / s.calls, 0) * s.most : 0;
    return kept + ((s.again > 0 ? KEPT_BYTES : 0) + GRADIENT_BYTES) * s.largest;
}

uint64_t sfi_unfused_peak_bytes(const struct sf_prog *prog) {
    double most = 0.0;
    for (uint32_t i = 0; i < prog->classes_n; i++) {
        const struct sf_class *c = &prog->classes[i];
        most = fmax(most, (double)c->arena_bytes + of_class(prog, c));
    }
    return most < 1e18 ? (uint64_t)most : UINT64_MAX;
}
