/* One step, predicted: build, run, read. */
#include "sim/sim.h"
#include "sim/picks.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sim/contend.h"
#include "sim/expander.h"
#include "sim/parallel.h"
#include "sim/slow.h"

struct job {
    const struct sf_prog *prog;
    const struct sf_cost *cost;
    const struct sf_sim_options *options;
    struct sf_arena *arena;
    struct sfi_mesh *mesh;
    struct sfi_classes *classes;
    struct sfi_variants *variants;
    struct sfi_noise *noise;     /* NULL without jitter */
    struct sfi_contend *contend; /* NULL unless asked for */
    bool unfolded;
    struct sfi_run run;
};

static uint32_t threads_of(const struct sf_sim_options *o) {
    long cores = o->threads > 0 ? (long)o->threads : sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores > SFI_THREADS_MAX ? SFI_THREADS_MAX : (uint32_t)cores;
}

static int check_options(const struct sf_sim_options *o, struct sf_err *err) {
    if (o->replay && (o->jitter > 0.0 || o->slow_n > 0)) {
        return sf_fail(err, SF_E_USAGE, "replayed times already hold the jitter and the slow parts of their run");
    }
    if (!(o->jitter >= 0.0 && o->jitter <= 1.0)) {
        return sf_fail(err, SF_E_USAGE, "a jitter of %g; expected a relative standard deviation from 0 to 1",
                       o->jitter);
    }
    return SF_OK;
}

/* Kinds of ranks: what they are priced as, and whose jitter they share. */
static int sort_ranks(struct job *j, struct sf_err *err) {
    const struct sf_sim_options *o = j->options;
    uint32_t *leader = NULL;
    SF_TRY(sfi_slow_apply(j->mesh, o->slow, o->slow_n, o->seed, j->arena, &j->mesh->pace, err));
    bool stretched = j->mesh->pace && !(o->jitter > 0.0);
    if (stretched || j->mesh->kind) {
        SF_TRY(sfi_teams(j->mesh, j->classes, j->arena, &leader, err));
    }
    if (j->mesh->kind) {
        SF_TRY(sfi_mesh_teams(j->mesh, leader, j->arena, err));
    }
    leader = stretched ? leader : NULL;
    SF_TRY(sfi_variants_create(j->mesh, j->cost, j->classes, leader, j->arena, &j->variants, err));
    return o->jitter > 0.0
               ? sfi_noise_create(j->mesh, j->classes, j->variants, o, j->run.threads, j->arena, &j->noise, err)
               : SF_OK;
}

/* Which links inside the fabric can be contended. Simulating them takes every rank by itself. */
static int find_links(struct job *j, struct sf_err *err) {
    SF_TRY(sfi_contend_create(j->mesh, j->classes, j->variants, j->arena, &j->contend, err));
    j->classes->contend = j->contend->links_n > 0 ? j->contend : NULL;
    return SF_OK;
}

static void set_own_times(struct job *j) {
    for (uint32_t i = 0; i < j->run.table->n; i++) {
        j->run.table->inst[i].own = j->noise->times[j->noise->table_of[j->run.table->rank[i]]];
    }
}

/* Ranks by themselves where any two may differ: where all are simulated, and where chance or a list makes some slow. */
static int create_mesh(struct job *j, struct sf_err *err) {
    const struct sf_sim_options *o = j->options;
    const struct sf_topo *topo = sf_cost_topo(j->cost);
    uint32_t along[SF_MAX_AXES];
    if (o->unfolded || o->expand || o->links || o->slow_n > 0 || o->jitter > 0.0) {
        return sfi_mesh_create(j->prog, topo, j->arena, &j->mesh, err);
    }
    sfi_strips_find(j->prog, topo, j->classes, along);
    return sfi_mesh_create_strips(j->prog, topo, along, j->arena, &j->mesh, err);
}

/* Drawing the jitter has told its part already. */
static void tell(void *self, double fraction) {
    const struct job *j = self;
    double before = j->noise ? SFI_NOISE_SHARE : 0.0;
    j->options->progress(j->options->progress_self, before + (1.0 - before) * fraction);
}

static int build(struct job *j, struct sf_err *err) {
    uint32_t *colour_of = NULL, colours_n = 0;
    SF_TRY(check_options(j->options, err));
    j->run.threads = threads_of(j->options);
    SF_TRY(sfi_classes_create(j->prog, j->arena, &j->classes, err));
    SF_TRY(create_mesh(j, err));
    j->classes->alone = j->options->links;
    SF_TRY(sort_ranks(j, err));
    if (j->options->links) {
        SF_TRY(find_links(j, err));
    }
    j->unfolded = j->options->unfolded || j->options->expand || j->classes->contend;
    if (!j->unfolded) {
        const uint32_t *kind_of = j->noise ? j->noise->table_of : j->variants->of_rank;
        uint32_t kinds_n = j->noise ? j->noise->tables_n : j->variants->n;
        SF_TRY(sfi_fold(j->mesh, j->classes, kind_of, kinds_n, j->arena, &colour_of, &colours_n, err));
    }
    struct sfi_run *run = &j->run;
    SF_TRY(sfi_table_create(j->mesh, j->classes, j->variants, colour_of, colours_n, j->arena, &run->table, err));
    if (j->options->expand) {
        SF_TRY(sfi_expansions_create(j->mesh, j->classes, j->cost, run->table, j->arena, err));
    }
    if (j->noise) {
        set_own_times(j);
    }
    if (j->options->replay) {
        SF_TRY(sfi_replay_apply(j->prog, j->options->replay, j->variants, run->table, j->arena, err));
        run->replayed = true;
    }
    run->audit = j->options->audit;
    run->expand = j->options->expand;
    run->follow = !j->unfolded && !j->options->audit;
    run->skip = run->follow && !j->noise && !j->options->no_skip;
    run->prog = j->prog;
    run->variants = j->variants;
    run->dispatch = sf_cost_dispatch(j->cost);
    run->progress = j->options->progress ? tell : NULL;
    run->progress_self = j;
    return SF_OK;
}

/* Kernels of the compute stream. */
static sf_time_ps busy_of(const struct sfi_inst *in, const struct sfi_variant *v) {
    const struct sfi_class *c = v->cls;
    sf_time_ps busy = v->busy;
    if (in->own && c->compute_stream != SF_NONE) {
        busy = 0;
        for (uint32_t i = 0; i < c->kernels_n; i++) {
            bool counts = c->code->cls->ops[c->kernel_ops[i]].stream == c->compute_stream;
            busy = counts ? sfi_time_add(busy, in->own[i]) : busy;
        }
    }
    return sfi_time_add(busy, in->stretched);
}

/* From the first start to the last end on the compute stream. */
static sf_time_ps span_of(const struct sfi_run *run, uint32_t i, const struct sfi_class *c) {
    if (c->compute_stream == SF_NONE) {
        return 0;
    }
    struct sfi_ends ends = sfi_ends(run, i);
    const uint32_t *ops = c->code->stream_ops[c->compute_stream];
    sf_time_ps from = sfi_issue_time(c->code, ends, ops[0]) + run->dispatch;
    return sfi_end_of(ends, ops[c->code->stream_n[c->compute_stream] - 1]) - from;
}

static void add_instance(const struct job *j, uint32_t i, struct sf_sim_result *out) {
    const struct sfi_inst *in = &j->run.table->inst[i];
    const struct sfi_variant *v = &j->variants->v[in->variant];
    uint64_t count = j->run.table->count[i];
    uint64_t whole = sf_mix64(sf_mix64(UINT64_C(0x72616e6b), v->class_i), in->digest);
    sf_time_ps span = span_of(&j->run, i, v->cls), busy = busy_of(in, v);
    sf_time_ps end = sfi_last_end(v->cls->code, sfi_ends(&j->run, i));
    out->digest.lo += count * whole;
    out->digest.hi += count * sf_mix64(UINT64_C(0x6869), whole);
    out->step_time = end > out->step_time ? end : out->step_time;
    out->busy_s += (double)count * sf_ps_to_s(busy);
    out->slowed_s += (double)count * sf_ps_to_s(in->stretched);
    if (span > 0) {
        double bubble = 1.0 - (double)busy / (double)span;
        out->bubble_span = bubble > out->bubble_span ? bubble : out->bubble_span;
    }
}

/* Compute time by what it rests on; the worst grade that carries a hundredth of it. */
static void add_grades(const struct job *j, struct sf_sim_result *out) {
    double by_grade[SF_GRADES_N] = {0}, total = 0.0;
    for (uint32_t i = 0; i < j->run.table->n; i++) {
        const struct sfi_variant *v = &j->variants->v[j->run.table->inst[i].variant];
        for (int g = 0; g < SF_GRADES_N; g++) {
            by_grade[g] += (double)j->run.table->count[i] * (double)v->grade[g];
            total += (double)j->run.table->count[i] * (double)v->grade[g];
        }
    }
    out->grade = SF_GRADE_CALIBRATED;
    for (int g = 0; g < SF_GRADES_N && total > 0.0; g++) {
        out->grade = by_grade[g] >= 0.01 * total ? (enum sf_grade)g : out->grade;
        out->extrapolated_share += g > SF_GRADE_MEASURED ? by_grade[g] / total : 0.0;
    }
}

/* Of equally slow instances that of the lowest rank. `end` is when it ends. */
static uint32_t slowest(const struct sfi_run *run, sf_time_ps end) {
    const struct sfi_table *t = run->table;
    uint32_t last = SF_NONE;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct sf_iclass *code = run->variants->v[t->inst[i].variant].cls->code;
        if ((last == SF_NONE || t->rank[i] < t->rank[last]) && sfi_last_end(code, sfi_ends(run, i)) == end) {
            last = i;
        }
    }
    return last;
}

static struct sfi_times *times_buffer(const struct job *j) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < j->classes->n; i++) {
        uint32_t n = j->classes->cls[i].code->ops_n;
        most = n > most ? n : most;
    }
    return sf_arena_alloc(j->arena, most, sizeof(struct sfi_times));
}

static int trace_instance(const struct job *j, uint32_t i, struct sfi_times *times, struct sf_err *err) {
    const struct sfi_class *c = j->variants->v[j->run.table->inst[i].variant].cls;
    bool idle_sends = sf_cost_receiver_copies(j->cost);
    sfi_timeline(&j->run, i, times);
    for (uint32_t op = 0; op < c->code->ops_n; op++) {
        bool idle = idle_sends && c->code->cls->ops[op].kind == SF_OP_SEND;
        const struct sf_trace_rec rec = {.rank = j->run.table->rank[i],
                                         .op = op,
                                         .covers = 1,
                                         .source = SF_TIME_VIRTUAL,
                                         .stream = c->code->cls->ops[op].stream,
                                         .issue = times[op].issue,
                                         .start = times[op].start,
                                         .end = times[op].end,
                                         .busy = idle ? 0 : times[op].end - times[op].start,
                                         .bytes = c->code->cls->ops[op].bytes};
        SF_TRY(sf_trace_add(j->options->trace, &rec, err));
    }
    return SF_OK;
}

static int write_trace(const struct job *j, struct sfi_times *times, struct sf_err *err) {
    struct sf_trace *t = j->options->trace;
    t->meta = (struct sf_trace_meta){.prog = sf_prog_hash(j->prog),
                                     .topo = sf_topo_hash(sf_cost_topo(j->cost)),
                                     .cost = sf_cost_hash(j->cost),
                                     .seed = j->options->seed,
                                     .ranks = sf_prog_ranks(j->prog),
                                     .iterations = 1};
    snprintf(t->meta.origin, sizeof t->meta.origin, "%s", j->unfolded ? "sim-unfolded" : "sim");
    for (uint32_t i = 0; i < j->run.table->n; i++) {
        if (!j->unfolded || j->run.table->rank[i] < j->options->trace_ranks) {
            SF_TRY(trace_instance(j, i, times, err));
        }
    }
    sf_trace_sort(t);
    return SF_OK;
}

static int read_result(const struct job *j, struct sf_sim_result *out, struct sf_err *err) {
    struct sfi_times *times = times_buffer(j);
    if (!times) {
        return sf_fail_memory(err, "times of a rank");
    }
    for (uint32_t i = 0; i < j->run.table->n; i++) {
        add_instance(j, i, out);
    }
    add_grades(j, out);
    double whole = (double)sf_prog_ranks(j->prog) * sf_ps_to_s(out->step_time);
    out->bubble_makespan = whole > 0.0 ? 1.0 - out->busy_s / whole : 0.0;
    for (uint32_t i = 0; i < j->prog->classes_n; i++) {
        const struct sf_class *c = &j->prog->classes[i];
        out->peak_memory_bytes = c->arena_bytes > out->peak_memory_bytes ? c->arena_bytes : out->peak_memory_bytes;
        out->host_memory_bytes = c->host_bytes > out->host_memory_bytes ? c->host_bytes : out->host_memory_bytes;
    }
    uint32_t last = slowest(&j->run, out->step_time);
    sfi_timeline(&j->run, last, times);
    sfi_breakdown(&j->run, last, times, &out->breakdown);
    out->step_time = sfi_time_add(out->step_time, sf_cost_step(j->cost));
    out->breakdown.other = sfi_time_add(out->breakdown.other, sf_cost_step(j->cost));
    out->events = j->run.events;
    out->skipped = j->run.skipped;
    out->unfolded = j->unfolded;
    out->links_certified = j->contend && j->contend->certified;
    out->contended_links = j->contend ? j->contend->links_n : 0;
    out->chunks = j->run.chunks;
    out->audited = j->run.audited.checks;
    out->violations = j->run.audited.violations;
    memcpy(out->violation, j->run.audited.first, sizeof out->violation);
    out->instances = j->run.table->n;
    return j->options->trace ? write_trace(j, times, err) : SF_OK;
}

int sf_sim_run(const struct sf_prog *prog, const struct sf_cost *cost, const struct sf_sim_options *options,
               struct sf_sim_result *out, struct sf_err *err) {
    static const struct sf_sim_options defaults = {0};
    sf_time_ps began = sf_clock_host.now(sf_clock_host.self);
    struct job j = {.prog = prog, .cost = cost, .options = options ? options : &defaults};
    *out = (struct sf_sim_result){0};
    j.arena = sf_arena_create();
    if (!j.arena) {
        return sf_fail_memory(err, "simulation");
    }
    int rc = sf_picks_check(prog, cost, err);
    rc = rc ? rc : build(&j, err);
    sf_time_ps built = sf_clock_host.now(sf_clock_host.self);
    rc = rc ? rc : sfi_run(&j.run, j.arena, err);
    out->fold_s = sf_ps_to_s(built - began);
    out->run_s = sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - built);
    rc = rc ? rc : read_result(&j, out, err);
    sf_arena_free(j.arena);
    out->wall_s = sf_ps_to_s(sf_clock_host.now(sf_clock_host.self) - began);
    return rc;
}
