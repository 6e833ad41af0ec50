/* Tables made to measure: the synthesiser gets the prices of a group's stages and the memory that weights leave. */
#include <math.h>
#include <string.h>

#include "core/arena.h"
#include "planner/search_internal.h"
#include "planner/synth.h"

#define DEFAULT_BUDGET UINT64_C(1000000) /* passes placed for one table */

struct stages {
    sf_time_ps *time[3];
    double *memory[2]; /* given back by B; taken by F and given back by W */
    uint32_t n;
};

static int allocate(struct stages *st, uint32_t n, struct sf_err *err) {
    *st = (struct stages){.n = n};
    sf_time_ps *times = sf_calloc(3 * (size_t)n, sizeof *times);
    double *memory = sf_calloc(2 * (size_t)n, sizeof *memory);
    for (size_t k = 0; k < 3 && times; k++) {
        st->time[k] = times + k * n;
    }
    for (size_t k = 0; k < 2 && memory; k++) {
        st->memory[k] = memory + k * n;
    }
    return times && memory ? 0 : sf_fail_memory(err, "stages to schedule");
}

static void clear(struct stages *st) {
    sf_free(st->time[0]);
    sf_free(st->memory[0]);
}

static sf_time_ps ps_of(const struct sfi_pass_time *t, double layers_s, bool first, bool last) {
    double s = layers_s + (first ? t->first : 0) + (last ? t->last : 0);
    return 1 + (sf_time_ps)(fmin(s, 1e4) * 1e12);
}

static void fill(const struct sfi_search *s, const struct sfi_price *price, struct stages *st) {
    static const int timed[3] = {SFI_TIMED_F, SFI_TIMED_B, SFI_TIMED_W};
    const struct sf_model *m = &s->scenario->model;
    uint32_t layer = 0;
    for (uint32_t v = 0; v < st->n; layer += s->plan.layers[v++]) {
        bool first = v == 0, last = v + 1 == st->n;
        uint32_t n = s->plan.layers[v], again = sf_plan_again(&s->plan, v);
        for (int k = 0; k < 3; k++) {
            const struct sfi_pass_time *t = &price->time[timed[k]];
            st->time[k][v] = ps_of(t, sfi_layers_partly(m, t->again, t->of, layer, again, n), first, last);
        }
        st->memory[1][v] = sfi_layers_partly(m, price->kept_again, price->kept_of, layer, again, n) +
                           price->kept_chunk + (last ? price->kept_last : 0);
    }
}

/* Of the fullest rank, whose stages are not known yet: as if it had the average and both ends. */
static double weight_bytes(const struct sfi_search *s, const struct sfi_at *at) {
    const struct sfi_layout *l = at->layout;
    const struct sfi_price *price = at->price;
    double layers = ceil((double)s->scenario->model.layers / l->pp) + 1 + l->further;
    double dense = layers * l->layer_dense + (1 + l->head_tables) * l->table, expert = layers * l->layer_expert;
    double owned =
        s->space->zero.value[s->space->zero.n - 1] >= 1 ? (dense + expert * l->experts) / l->group : dense + expert;
    return 2 * (dense + expert) * s->base.weight_bytes + owned * s->base.optimizer_bytes + price->work +
           6 * price->p2p_bytes;
}

/* What plain 1F1B keeps where layers recompute until it fits: they were chosen rank by rank, and the program will
 * settle how many there are, so no less is asked for. */
static double kept_bytes(const struct sfi_search *s, const struct stages *st) {
    double most = 0;
    for (uint32_t v = 0; v < st->n; v++) {
        most = fmax(most, sfi_cut_in_flight(&s->plan, v) * st->memory[1][v] * s->plan.vpp);
    }
    return most;
}

static uint64_t budget_of(const struct sfi_search *s) {
    return s->options->auto_budget > 0 ? s->options->auto_budget : DEFAULT_BUDGET;
}

/* What a synthesiser leaves undone with its budget lies between the group's bound and its table. */
int sfi_refine_auto(struct sfi_search *s, const struct sfi_group *g, const struct sfi_at *at, struct sf_err *err) {
    const struct sfi_layout *l = at->layout;
    const struct sfi_price *price = at->price;
    struct sf_synth_result r;
    struct stages st;
    double room = sfi_device_bytes(s) - weight_bytes(s, at);
    s->plan.schedule = SF_SCHEDULE_TABLE;
    s->plan.zero = sfi_cut_zero(s, SFI_CUT_TIME);
    sfi_cut_layers(s, at, SFI_CUT_TIME, &s->plan);
    if (g->partly) {
        sfi_again_likely(s, at, &s->plan);
    }
    int rc = allocate(&st, g->pp * g->vpp, err);
    if (rc == 0 && (room > 0 || g->partly)) {
        fill(s, price, &st);
        room = g->partly ? fmax(room, kept_bytes(s, &st)) : room;
        memset(s->plan.recompute_layers, 0, sizeof s->plan.recompute_layers); /* the table itself will say */
        const struct sf_synth_problem problem = {.devices = g->pp,
                                                 .microbatches = s->plan.microbatches,
                                                 .stages = st.n,
                                                 .f = st.time[0],
                                                 .b = st.time[1],
                                                 .w = st.time[2],
                                                 .comm =
                                                     sf_s_to_ps(l->p2p.fixed_s + l->p2p.s_per_unit * price->p2p_bytes),
                                                 .mem_f = st.memory[1],
                                                 .mem_b = st.memory[0],
                                                 .mem_w = st.memory[1],
                                                 .memory_limit = room};
        const struct sf_synth_options options = {.budget = budget_of(s),
                                                 .seed = s->options->auto_seed + g->draw / 2,
                                                 .as_found = g->draw % 2 != 0,
                                                 .generate = sfi_memo_generate,
                                                 .self = s->base.memo};
        rc = sf_synth(&problem, &options, &r, err);
        if (rc == 0) {
            s->plan.table = s->made = r.pipe;
            r.pipe = NULL;
            sf_synth_result_clear(&r);
            rc = sfi_refine_plan(s, g, at, true, err);
        }
    }
    clear(&st);
    return rc == SF_E_NOPLAN || rc == SF_E_INPUT ? 0 : rc;
}
