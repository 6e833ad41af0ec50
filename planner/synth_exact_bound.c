/* What a state can still become, at best. By way and work: chains of what is left, and what memory lets a device leave
 * for the end. By windows: each pass has a head, before which nothing can start it, and a deadline, after which the
 * span would be no shorter; a device that cannot do all its passes inside their windows, even if it might cut them as
 * it likes (Jackson's preemptive rule, exact for one machine), rules the state out. */
#include <math.h>
#include <string.h>

#include "planner/synth_exact.h"

/* The most work of passes that fit into memory, by the densest of them. */
void sfi_exact_set_limits(struct sfi_exact_run *x, uint32_t d) {
    const struct sfi_synth *s = x->s;
    double w_dense = 0, dense = 0, slow = 1e300, limit = s->limit * (1 + SFI_EXACT_ROUNDING);
    for (uint32_t j = 0; j < s->chunks; j++) {
        uint32_t i = s->held[d * s->chunks + j];
        double w = s->w[i] == 0 ? 0 : s->mem_w[i] > 0 ? (double)s->w[i] / s->mem_w[i] : INFINITY;
        double all = s->b[i] + s->w[i] == 0 ? 0
                     : s->mem_f[i] > 0      ? (double)(s->b[i] + s->w[i]) / s->mem_f[i]
                                            : INFINITY;
        slow = s->mem_b[i] > 0 ? fmin(slow, (double)s->b[i] / s->mem_b[i]) : slow;
        slow = s->mem_w[i] > 0 ? fmin(slow, (double)s->w[i] / s->mem_w[i]) : slow;
        w_dense = w > w_dense ? w : w_dense;
        dense = all > dense ? all : dense;
    }
    dense = w_dense > dense ? w_dense : dense;
    double most = (double)x->n.left[d];
    x->slow[d] = slow;
    x->rest[d] = limit * dense * (1 + SFI_EXACT_ROUNDING) < most
                     ? (sf_time_ps)(limit * dense * (1 + SFI_EXACT_ROUNDING)) + 1
                     : x->n.left[d];
    x->late_w[d] = limit * w_dense * (1 + SFI_EXACT_ROUNDING) < most
                       ? (sf_time_ps)(limit * w_dense * (1 + SFI_EXACT_ROUNDING)) + 1
                       : x->n.left[d];
}

/* ---- what is left ------------------------------------------------------------------------------------------------ */

/* Earliest end of the last microbatch's B of `stage` and the W behind it. */
static sf_time_ps chain_end(const struct sfi_exact_run *x, uint32_t stage) {
    const struct sfi_synth *s = x->s;
    uint32_t m = s->microbatches, last = s->stages - 1;
    for (uint32_t i = 0; i <= last; i++) {
        if (x->n.done[SF_PASS_B][i] == m) {
            return i <= stage ? 0
                              : x->b_end[i * m + m - 1] + sfi_hop(s, i, i - 1) + s->b_at[stage] - s->b_at[i - 1] +
                                    s->b[stage] + s->w[stage];
        }
    }
    sf_time_ps at = 0;
    uint32_t from = 0;
    for (uint32_t i = 0; i <= last && x->n.done[SF_PASS_F][i] == m; i++) {
        at = x->f_end[i * m + m - 1] + (i < last ? sfi_hop(s, i, i + 1) : 0);
        from = i + 1;
    }
    sf_time_ps ahead = from <= last ? s->b_at[stage] - s->f_at[from] : s->b_at[stage] - s->b_at[last];
    return at + ahead + s->b[stage] + s->w[stage];
}

static sf_time_ps left_w(const struct sfi_exact_run *x, uint32_t e) {
    const struct sfi_synth *s = x->s;
    sf_time_ps left = 0;
    for (uint32_t j = 0; j < s->chunks; j++) {
        uint32_t stage = s->held[e * s->chunks + j];
        left += s->w[stage] * (s->microbatches - x->n.done[SF_PASS_W][stage]);
    }
    return left;
}

/* Memory limits what device e leaves for after its last F, which has to go to the last stage yet, and the W it leaves
 * for after its last B, which has to go to the first stage. Less the way to them of a microbatch that nothing delays.
 */
static sf_time_ps last_f_delay(const struct sfi_exact_run *x, uint32_t e) {
    const struct sfi_synth *s = x->s;
    uint32_t high = s->held[e * s->chunks + s->chunks - 1];
    if (x->n.done[SF_PASS_F][high] == s->microbatches) {
        return 0;
    }
    return x->n.free[e] + x->n.left[e] - x->rest[e] - s->f_at[high] - s->f[high];
}

static sf_time_ps last_b_delay(const struct sfi_exact_run *x, uint32_t e) {
    const struct sfi_synth *s = x->s;
    uint32_t low = s->held[e * s->chunks];
    sf_time_ps w = left_w(x, e);
    if (x->n.done[SF_PASS_B][low] == s->microbatches) {
        return 0;
    }
    return x->n.free[e] + x->n.left[e] - (w < x->late_w[e] ? w : x->late_w[e]) - s->b_at[low] - s->b[low];
}

/* Earliest end of device d, for what the others have to do before. */
static sf_time_ps end_by_others(const struct sfi_exact_run *x, uint32_t d, const sf_time_ps *by_f,
                                const sf_time_ps *by_b) {
    const struct sfi_synth *s = x->s;
    uint32_t low = s->held[d * s->chunks];
    sf_time_ps delay = 0;
    if (x->n.done[SF_PASS_B][low] == s->microbatches) {
        return 0;
    }
    for (uint32_t e = 0; e < s->devices; e++) {
        delay = by_f[e] > delay ? by_f[e] : delay;
        delay = s->held[e * s->chunks] >= low && by_b[e] > delay ? by_b[e] : delay;
    }
    return delay + s->b_at[low] + s->b[low] + s->w[low];
}

/* No completion has a span below this. */
sf_time_ps sfi_exact_outlook(const struct sfi_exact_run *x) {
    const struct sfi_synth *s = x->s;
    sf_time_ps most = 0, by_f[SFI_EXACT_STAGES], by_b[SFI_EXACT_STAGES];
    for (uint32_t e = 0; e < s->devices; e++) {
        by_f[e] = last_f_delay(x, e);
        by_b[e] = last_b_delay(x, e);
    }
    for (uint32_t d = 0; d < s->devices; d++) {
        if (x->n.first[d] != SFI_NEVER) {
            sf_time_ps by_work = x->n.free[d] + x->n.left[d], by_chain = chain_end(x, s->held[d * s->chunks]);
            sf_time_ps end = by_work > by_chain ? by_work : by_chain, others = end_by_others(x, d, by_f, by_b);
            end = others > end ? others : end;
            most = end - x->n.first[d] > most ? end - x->n.first[d] : most;
        }
    }
    return most;
}
/* ---- windows ----------------------------------------------------------------------------------------------------- */

static sf_time_ps later(sf_time_ps a, sf_time_ps b) {
    return a > b ? a : b;
}
static sf_time_ps sooner(sf_time_ps a, sf_time_ps b) {
    return a < b ? a : b;
}

/* The earliest start of F of the chunk `j` of device d for microbatch i, for the memory it needs: all F of this and the
 * lower chunks up to this microbatch come before it, and so does work that gives back what is too much. */
static sf_time_ps memory_head(const struct sfi_exact_run *x, uint32_t d, uint32_t j, uint32_t i) {
    const struct sfi_synth *s = x->s;
    double need = x->n.memory[d] - s->limit * (1 + SFI_EXACT_ROUNDING);
    sf_time_ps work = -s->f[s->held[d * s->chunks + j]];
    for (uint32_t l = 0; l <= j; l++) {
        uint32_t st = s->held[d * s->chunks + l], done = x->n.done[SF_PASS_F][st];
        if (done <= i) {
            work += s->f[st] * (i + 1 - done);
            need += s->mem_f[st] * (i + 1 - done);
        }
    }
    sf_time_ps back = need > 0 ? (sf_time_ps)(need * x->slow[d] * (1 - SFI_EXACT_ROUNDING)) : 0;
    return x->n.free[d] + work + back;
}

static void set_head(struct sfi_exact_run *x, sf_time_ps *head, uint32_t d, sf_time_ps at) {
    x->moved[d] = x->moved[d] || *head != at;
    *head = at;
}

/* When each pass that is left can start at the earliest, for the passes it follows. */
void sfi_exact_find_heads(struct sfi_exact_run *x) {
    const struct sfi_synth *s = x->s;
    uint32_t m = s->microbatches;
    sf_time_ps *f = x->head[SF_PASS_F], *b = x->head[SF_PASS_B], *w = x->head[SF_PASS_W];
    for (uint32_t st = 0; st < s->stages; st++) {
        uint32_t d = s->device_of[st], chunk = 0;
        sf_time_ps at = x->n.free[d], hop = st > 0 ? sfi_hop(s, st - 1, st) : 0;
        while (s->held[d * s->chunks + chunk] != st) {
            chunk++;
        }
        for (uint32_t i = x->n.done[SF_PASS_F][st]; i < m; i++) {
            if (st > 0) {
                sf_time_ps end =
                    i < x->n.done[SF_PASS_F][st - 1] ? x->f_end[(st - 1) * m + i] : f[(st - 1) * m + i] + s->f[st - 1];
                at = later(at, end + hop);
            }
            at = later(at, memory_head(x, d, chunk, i));
            set_head(x, &f[st * m + i], d, at);
            at += s->f[st];
        }
    }
    for (uint32_t st = s->stages; st-- > 0;) {
        bool last = st + 1 == s->stages;
        uint32_t d = s->device_of[st];
        sf_time_ps at = x->n.free[d], hop = last ? 0 : sfi_hop(s, st, st + 1);
        for (uint32_t i = x->n.done[SF_PASS_B][st]; i < m; i++) {
            sf_time_ps own = i < x->n.done[SF_PASS_F][st] ? x->f_end[st * m + i] : f[st * m + i] + s->f[st];
            at = later(at, own);
            if (!last) {
                sf_time_ps end =
                    i < x->n.done[SF_PASS_B][st + 1] ? x->b_end[(st + 1) * m + i] : b[(st + 1) * m + i] + s->b[st + 1];
                at = later(at, end + hop);
            }
            set_head(x, &b[st * m + i], d, at);
            at += s->b[st];
        }
        at = x->n.free[d];
        for (uint32_t i = x->n.done[SF_PASS_W][st]; i < m; i++) {
            at = later(at, i < x->n.done[SF_PASS_B][st] ? x->b_end[st * m + i] : b[st * m + i] + s->b[st]);
            set_head(x, &w[st * m + i], d, at);
            at += s->w[st];
        }
    }
}

/* When each has to have ended at the latest, for a span shorter than the best. */
static void find_deadlines(const struct sfi_exact_run *x) {
    const struct sfi_synth *s = x->s;
    uint32_t m = s->microbatches;
    sf_time_ps *f = x->dead[SF_PASS_F], *b = x->dead[SF_PASS_B], *w = x->dead[SF_PASS_W];
    for (uint32_t st = 0; st < s->stages; st++) {
        sf_time_ps first = x->n.first[s->device_of[st]], end = first == SFI_NEVER ? SFI_NEVER / 2 : first + x->span - 1;
        sf_time_ps at = end;
        for (uint32_t i = m; i-- > 0;) {
            w[st * m + i] = at;
            at -= s->w[st];
        }
        at = end;
        sf_time_ps hop = st > 0 ? sfi_hop(s, st - 1, st) : 0;
        for (uint32_t i = m; i-- > 0;) {
            at = sooner(at, w[st * m + i] - s->w[st]);
            if (st > 0) {
                at = sooner(at, b[(st - 1) * m + i] - s->b[st - 1] - hop);
            }
            b[st * m + i] = at;
            at -= s->b[st];
        }
    }
    for (uint32_t st = s->stages; st-- > 0;) {
        sf_time_ps at = SFI_NEVER / 2, hop = st + 1 < s->stages ? sfi_hop(s, st, st + 1) : 0;
        for (uint32_t i = m; i-- > 0;) {
            at = sooner(at, b[st * m + i] - s->b[st]);
            if (st + 1 < s->stages) {
                at = sooner(at, f[(st + 1) * m + i] - s->f[st + 1] - hop);
            }
            f[st * m + i] = at;
            at -= s->f[st];
        }
    }
}

struct lane { /* passes of one kind and stage, in their order */
    const sf_time_ps *head, *dead;
    sf_time_ps cost, left; /* left: of the first */
    uint32_t at, end;
};

/* Can the device do all it has left inside the windows, with passes cut as one likes? The one that is due first goes
 * first (Jackson's preemptive rule). */
static bool in_time(const struct sfi_exact_run *x, uint32_t d) {
    const struct sfi_synth *s = x->s;
    struct lane lane[SFI_SYNTH_KINDS * SF_SYNTH_MAX_CHUNKS];
    uint32_t n = 0, m = s->microbatches;
    for (uint32_t j = 0; j < s->chunks; j++) {
        uint32_t st = s->held[d * s->chunks + j];
        for (int k = 0; k < SFI_SYNTH_KINDS; k++) {
            if (x->n.done[k][st] < m) {
                sf_time_ps cost = sfi_cost_of(s, k, st);
                lane[n++] = (struct lane){x->head[k] + st * m, x->dead[k] + st * m, cost, cost, x->n.done[k][st], m};
            }
        }
    }
    sf_time_ps t = x->n.free[d];
    while (n > 0) {
        uint32_t best = UINT32_MAX;
        sf_time_ps due = SFI_NEVER, next = SFI_NEVER;
        for (uint32_t i = 0; i < n; i++) {
            const struct lane *l = &lane[i];
            if (l->head[l->at] > t) {
                next = sooner(next, l->head[l->at]);
            } else if (l->dead[l->at] < due) {
                due = l->dead[l->at];
                best = i;
            }
        }
        if (best == UINT32_MAX) {
            t = next;
            continue;
        }
        struct lane *l = &lane[best];
        sf_time_ps run = sooner(l->left, next - t);
        t += run;
        l->left -= run;
        if (l->left > 0) {
            continue;
        }
        if (t > due) {
            return false;
        }
        l->left = l->cost;
        if (++l->at == l->end) {
            lane[best] = lane[--n];
        }
    }
    return true;
}

/* Deadlines follow from when devices began and the span to beat. */
static void renew_deadlines(struct sfi_exact_run *x) {
    size_t size = x->s->devices * sizeof *x->n.first;
    if (x->span != x->due_span || memcmp(x->n.first, x->due_first, size) != 0) {
        find_deadlines(x);
        x->due_span = x->span;
        memcpy(x->due_first, x->n.first, size);
        memset(x->moved, true, sizeof x->moved);
    }
}

/* Has the device more or less to do than when its windows were looked at last? */
static bool has_moved_on(struct sfi_exact_run *x, uint32_t d) {
    bool moved = false;
    for (uint32_t j = 0; j < x->s->chunks; j++) {
        uint32_t st = x->s->held[d * x->s->chunks + j];
        for (int k = 0; k < SFI_SYNTH_KINDS; k++) {
            moved = moved || x->then[k][st] != x->n.done[k][st];
            x->then[k][st] = x->n.done[k][st];
        }
    }
    return moved;
}

bool sfi_exact_in_time(struct sfi_exact_run *x) {
    sfi_exact_find_heads(x);
    if (x->span == SFI_NEVER) { /* there is nothing to beat yet */
        return true;
    }
    renew_deadlines(x);
    for (uint32_t d = 0; d < x->s->devices; d++) {
        if (has_moved_on(x, d) || x->moved[d]) {
            x->in_time[d] = in_time(x, d);
            x->moved[d] = false;
        }
        if (!x->in_time[d]) {
            return false;
        }
    }
    return true;
}
