/* Tables of the families that try many orders before they settle for one. They depend on few things, so plans that
 * differ in how layers are cut, or in degrees that leave the ratio of the passes alone, have the same. Of several
 * threads that want one table the first makes it. */
#include <pthread.h>

#include "core/arena.h"
#include "planner/estimate.h"

#define MOST 64 /* the oldest goes first */

struct entry {
    struct sf_pipe_spec spec;
    struct sf_pipe *table; /* NULL while somebody makes it, and where that failed: */
    struct sf_err why;
    bool used;
};

struct sfi_memo {
    pthread_mutex_t lock;
    pthread_cond_t made;
    struct entry entry[MOST];
    uint32_t next;
};

int sfi_memo_create(struct sfi_memo **out, struct sf_err *err) {
    *out = sf_calloc(1, sizeof **out);
    if (*out == NULL) {
        return sf_fail_memory(err, "tables of schedules");
    }
    pthread_mutex_init(&(*out)->lock, NULL);
    pthread_cond_init(&(*out)->made, NULL);
    return 0;
}

void sfi_memo_free(struct sfi_memo *m) {
    if (m == NULL) {
        return;
    }
    for (uint32_t i = 0; i < MOST; i++) {
        sf_pipe_free(m->entry[i].table);
    }
    pthread_cond_destroy(&m->made);
    pthread_mutex_destroy(&m->lock);
    sf_free(m);
}

static bool same_spec(const struct sf_pipe_spec *a, const struct sf_pipe_spec *b) {
    return a->family == b->family && a->devices == b->devices && a->microbatches == b->microbatches &&
           a->chunks == b->chunks && a->slices == b->slices && a->f == b->f && a->b == b->b && a->w == b->w &&
           a->comm == b->comm && a->memory_limit == b->memory_limit && a->weight_share == b->weight_share &&
           a->wrap_first == b->wrap_first && a->published == b->published;
}

static bool is_made(const struct entry *e) {
    return e->table != NULL || e->why.code != 0;
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

static struct entry *find(struct sfi_memo *m, const struct sf_pipe_spec *spec) {
    for (uint32_t i = 0; i < MOST; i++) {
        if (m->entry[i].used && same_spec(&m->entry[i].spec, spec)) {
            return &m->entry[i];
        }
    }
    return NULL;
}

/* A place for a table to be made, instead of the oldest that is not just being made; NULL: they all are. */
static struct entry *begin(struct sfi_memo *m, const struct sf_pipe_spec *spec) {
    for (uint32_t i = 0; i < MOST; i++) {
        struct entry *e = &m->entry[(m->next + i) % MOST];
        if (!e->used || is_made(e)) {
            m->next = (m->next + i + 1) % MOST;
            sf_pipe_free(e->table);
            *e = (struct entry){.spec = *spec, .used = true};
            return e;
        }
    }
    return NULL;
}

static void end(struct sfi_memo *m, struct entry *e, const struct sf_pipe *table, const struct sf_err *why) {
    pthread_mutex_lock(&m->lock);
    if (table == NULL && (why->code == SF_E_NOPLAN || why->code == SF_E_INPUT)) {
        e->why = *why;
    } else if (table == NULL || sf_pipe_copy(table, &e->table, NULL) != 0) {
        *e = (struct entry){.used = false};
    }
    pthread_cond_broadcast(&m->made);
    pthread_mutex_unlock(&m->lock);
}

/* Its table, once it is made, or why there is none; a place to make it; or neither. */
static int look_up(struct sfi_memo *m, const struct sf_pipe_spec *spec, struct entry **place, struct sf_pipe **out,
                   struct sf_err *err) {
    int rc = 0;
    pthread_mutex_lock(&m->lock);
    struct entry *e = find(m, spec);
    while (e != NULL && !is_made(e)) {
        pthread_cond_wait(&m->made, &m->lock);
        e = find(m, spec);
    }
    *place = e == NULL ? begin(m, spec) : NULL;
    if (e != NULL && e->table == NULL) {
        *err = e->why;
        rc = e->why.code;
    } else if (e != NULL) {
        rc = sf_pipe_copy(e->table, out, err);
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

int sfi_memo_generate(void *memo, const struct sf_pipe_spec *spec, struct sf_pipe **out, struct sf_err *err) {
    struct entry *place = NULL;
    struct sf_err why = {0};
    if (memo == NULL || !is_costly(spec->family)) {
        return sf_pipe_generate(spec, out, err);
    }
    *out = NULL;
    int rc = look_up(memo, spec, &place, out, &why);
    if (rc == 0 && *out == NULL) {
        rc = sf_pipe_generate(spec, out, &why);
    }
    if (place != NULL) {
        end(memo, place, *out, &why);
    }
    if (rc != 0 && err != NULL) {
        *err = why;
    }
    return rc;
}

/* No costly family has overlapping pairs, of which a plan's tables are free. */
int sfi_memo_table(struct sfi_memo *m, const struct sf_plan *plan, const struct sf_pass_weights *weights,
                   struct sf_pipe **out) {
    struct sf_pipe_spec spec;
    if (m == NULL || !is_costly(plan->schedule)) {
        return sf_schedule_make(plan, weights, out, NULL);
    }
    *out = NULL;
    SF_TRY(sf_schedule_check(plan, NULL));
    sf_schedule_spec(plan, weights, &spec);
    return sfi_memo_generate(m, &spec, out, NULL);
}
