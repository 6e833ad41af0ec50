/* Tables of the families that try many orders before they settle for one. They depend on few things, so plans that
 * differ in how layers are cut, or in degrees that leave the ratio of the passes alone, have the same. */
#include "core/arena.h"
#include "planner/estimate.h"

#define MOST 64 /* the oldest goes first */

struct sfi_memo {
    struct sf_pipe_spec spec[MOST];
    struct sf_pipe *table[MOST];
    uint32_t n, next;
};

int sfi_memo_create(struct sfi_memo **out, struct sf_err *err) {
    *out = sf_calloc(1, sizeof **out);
    return *out != NULL ? 0 : sf_fail_memory(err, "tables of schedules");
}

void sfi_memo_free(struct sfi_memo *m) {
    for (uint32_t i = 0; m != NULL && i < m->n; i++) {
        sf_pipe_free(m->table[i]);
    }
    sf_free(m);
}

static bool same_spec(const struct sf_pipe_spec *a, const struct sf_pipe_spec *b) {
    return a->family == b->family && a->devices == b->devices && a->microbatches == b->microbatches &&
           a->chunks == b->chunks && a->slices == b->slices && a->f == b->f && a->b == b->b && a->w == b->w;
}

static bool is_costly(int family) {
    switch (family) {
    case SF_PIPE_V_HALF:
    case SF_PIPE_V_MIN:
    case SF_PIPE_1F1B_V:
    case SF_PIPE_ZB_V:
        return true;
    default:
        return false;
    }
}

static int remember(struct sfi_memo *m, const struct sf_pipe_spec *spec, const struct sf_pipe *table) {
    struct sf_pipe *own;
    SF_TRY(sf_pipe_copy(table, &own, NULL));
    if (m->n == MOST) {
        sf_pipe_free(m->table[m->next]);
    }
    m->spec[m->next] = *spec;
    m->table[m->next] = own;
    m->n += m->n < MOST ? 1 : 0;
    m->next = (m->next + 1) % MOST;
    return 0;
}

int sfi_memo_table(struct sfi_memo *m, const struct sf_plan *plan, const struct sf_pass_weights *weights,
                   struct sf_pipe **out) {
    struct sf_pipe_spec spec;
    if (m == NULL || !is_costly(plan->schedule)) {
        return sf_schedule_make(plan, weights, out, NULL);
    }
    sf_schedule_spec(plan, weights, &spec);
    for (uint32_t i = 0; i < m->n; i++) {
        if (same_spec(&m->spec[i], &spec)) {
            return sf_pipe_copy(m->table[i], out, NULL);
        }
    }
    SF_TRY(sf_schedule_make(plan, weights, out, NULL));
    int rc = remember(m, &spec, *out);
    if (rc != 0) {
        sf_pipe_free(*out);
        *out = NULL;
    }
    return rc;
}
