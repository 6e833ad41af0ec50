/* What a plan must satisfy before anything is compiled. Every refusal names the field, the rule and the numbers. */
#include <string.h>

#include "core/arena.h"
#include "planner/compile_internal.h"
#include "planner/schedule.h"
#include "planner/stage_degrees.h"
#include "sim/seats.h"

static int check_degrees(const struct sf_plan *p, struct sf_err *err) {
    const struct {
        const char *name;
        uint32_t value, limit;
    } fields[] = {
        {"tp", p->tp, SF_MAX_RANKS},
        {"ep", p->ep, SF_MAX_RANKS},
        {"cp", sf_plan_cp(p), SF_MAX_STAGES},
        {"dp", p->dp, SF_MAX_RANKS},
        {"pp", p->pp, SF_MAX_STAGES},
        {"vpp", p->vpp, SF_MAX_STAGES},
        {"micro_batch", p->micro_batch, 1u << 20},
        {"microbatches", p->microbatches, UINT16_MAX},
        {"ranks_per_domain", p->ranks_per_domain, SF_MAX_RANKS},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].value == 0 || fields[i].value > fields[i].limit) {
            return sf_fail(err, SF_E_INPUT, "plan: %s must be from 1 to %u, found %u", fields[i].name, fields[i].limit,
                           fields[i].value);
        }
    }
    if (p->recompute < 0 || p->recompute >= SF_RECOMPUTES_N || p->recompute_rest < 0 ||
        p->recompute_rest >= SF_RECOMPUTES_N) {
        return sf_fail(err, SF_E_INPUT, "plan: recompute %d or its rest %d is unknown", p->recompute,
                       p->recompute_rest);
    }
    if (p->order < 0 || p->order >= SF_ORDERS_N) {
        return sf_fail(err, SF_E_INPUT, "plan: order %d is unknown", p->order);
    }
    if (p->zero > 3) {
        return sf_fail(err, SF_E_INPUT, "plan: zero must be from 0 to 3, found %u", p->zero);
    }
    return 0;
}

/* Whole experts on every rank: the ranks of tp are among those that share them. */
static int check_etp(const struct sf_plan *p, struct sf_err *err) {
    uint32_t etp = sf_plan_etp(p);
    if (etp != p->tp && etp != 1) {
        return sf_fail(err, SF_E_INPUT, "plan: etp must be tp %u or 1, found %u", p->tp, etp);
    }
    if (etp != p->tp && p->ep % p->tp != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: with etp 1, tp must divide ep, found tp %u and ep %u", p->tp, p->ep);
    }
    return 0;
}

static int check_recompute_kind(const struct sf_scenario *s, int kind, struct sf_err *err) {
    bool up = kind == SF_RECOMPUTE_MLA_UP || kind == SF_RECOMPUTE_SELECTIVE_UP;
    if (up && s->model.kv_rank == 0) {
        return sf_fail(err, SF_E_INPUT, "plan: recompute %s is for latent attention, which the model has not",
                       sf_recompute_name(kind));
    }
    return 0;
}

/* First layers of every virtual stage have one kind, the others another that keeps more. */
static int check_recompute_layers(const struct sf_plan *p, struct sf_err *err) {
    if (p->recompute == SF_RECOMPUTE_NONE) {
        return sf_fail(err, SF_E_INPUT, "plan: recompute_layers says which layers recompute, but recompute is none");
    }
    if (p->recompute_rest == SF_RECOMPUTE_FULL || p->recompute_rest == p->recompute) {
        return sf_fail(err, SF_E_INPUT, "plan: recompute_rest must not be full, nor what recompute is; found %s",
                       sf_recompute_name(p->recompute_rest));
    }
    for (uint32_t v = 0; v < p->pp * p->vpp; v++) {
        if (p->recompute_layers[v] > p->layers[v]) {
            return sf_fail(
                err, SF_E_INPUT,
                "plan: recompute_layers is at most the layers of a virtual stage, found %u; layers[%u] is %u",
                p->recompute_layers[v], v, p->layers[v]);
        }
    }
    return 0;
}

static int check_recompute(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    SF_TRY(check_recompute_kind(s, p->recompute, err));
    SF_TRY(check_recompute_kind(s, p->recompute_rest, err));
    if (!p->partly && p->recompute_rest != SF_RECOMPUTE_NONE) {
        return sf_fail(err, SF_E_INPUT, "plan: recompute_rest is for what recompute_layers leaves out");
    }
    return p->partly ? check_recompute_layers(p, err) : 0;
}

static int check_mesh(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint64_t ranks;
    uint32_t cp = sf_plan_cp(p);
    if (p->gpus > 0 && (p->gpus != s->job.gpus || p->gpus > s->job.gpus_asked)) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: gpus is what the degrees multiply to, %u, and at most the job's %u; found %u",
                       s->job.gpus, s->job.gpus_asked, p->gpus);
    }
    if (__builtin_mul_overflow((uint64_t)p->tp * p->dp, (uint64_t)p->pp, &ranks) ||
        __builtin_mul_overflow(ranks, (uint64_t)cp, &ranks) || ranks != s->job.gpus) {
        return sf_fail(err, SF_E_INPUT, "plan: tp * dp * pp%s must equal the job's %u GPUs, found %u * %u * %u%s%.0u",
                       cp > 1 ? " * cp" : "", s->job.gpus, p->tp, p->dp, p->pp, cp > 1 ? " * " : "", cp > 1 ? cp : 0);
    }
    if (ranks > SF_MAX_RANKS) {
        return sf_fail(err, SF_E_INPUT, "plan: at most %u ranks are supported, found %llu", SF_MAX_RANKS,
                       (unsigned long long)ranks);
    }
    SF_TRY(check_etp(p, err));
    uint32_t ep = sf_plan_ep_beside_tp(p);
    if (cp * (uint64_t)p->dp % ep != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: ep must divide %sdp, found %u and %llu", cp > 1 ? "cp * " : "", ep,
                       cp * (unsigned long long)p->dp);
    }
    if (ep % cp != 0 && cp % ep != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: of ep and cp, one must divide the other, found %u and %u", ep, cp);
    }
    if (s->model.experts == 0 && p->ep != 1) {
        return sf_fail(err, SF_E_INPUT, "plan: ep must be 1 for a model without experts, found %u", p->ep);
    }
    if (s->model.experts != 0 && s->model.experts % p->ep != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: ep must divide the model's %u experts, found %u", s->model.experts,
                       p->ep);
    }
    return 0;
}

static int check_tp(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    const struct {
        const char *name;
        uint64_t value;
    } rules[] = {
        {"attention heads", s->model.heads},
        {"key-value heads", s->model.kv_heads},
        {"feed-forward width", sf_plan_etp(p) > 1 ? s->model.ffn : 0},
        {"width of layers without experts", s->model.dense_ffn},
        {"width of the shared experts", s->model.shared_ffn},
        {"vocabulary", sf_model_rows(&s->model)},
        {"tokens of a microbatch", (uint64_t)p->micro_batch * s->job.seq_len_tokens / sf_plan_cp(p)},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].value % p->tp != 0) {
            return sf_fail(err, SF_E_INPUT, "plan: tp must divide the %s: %llu is no multiple of %u", rules[i].name,
                           (unsigned long long)rules[i].value, p->tp);
        }
    }
    return 0;
}

static int check_layers(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint64_t stages = (uint64_t)p->pp * p->vpp, sum = 0;
    if (stages > SF_MAX_STAGES || stages > s->model.layers + UINT64_C(2)) {
        return sf_fail(
            err, SF_E_INPUT,
            "plan: pp * vpp = %llu virtual stages for %u layers; at most one per layer, one for the embedding "
            "and one for the loss, and %d in all",
            (unsigned long long)stages, s->model.layers, SF_MAX_STAGES);
    }
    for (uint32_t i = 0; i < stages; i++) {
        bool end = stages > 1 && (i == 0 || i + 1 == stages) && !sfi_cuts_stages(p);
        if (p->layers[i] == 0 && !end) {
            return sf_fail(err, SF_E_INPUT, "plan: layers[%u] is 0; every virtual stage%s needs a layer", i,
                           sfi_cuts_stages(p) ? "" : " between the first and the last");
        }
        sum += p->layers[i];
    }
    if (sum != s->model.layers) {
        return sf_fail(err, SF_E_INPUT, "plan: layers must add up to the model's %u, found %llu", s->model.layers,
                       (unsigned long long)sum);
    }
    return 0;
}

static int check_batch(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint64_t per_microbatch = (uint64_t)p->dp * p->micro_batch, batch;
    if (__builtin_mul_overflow(per_microbatch, (uint64_t)p->microbatches, &batch) ||
        batch != s->job.global_batch_sequences) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: dp * micro_batch * microbatches must equal the job's global batch of %llu sequences, "
                       "found %u * %u * %u",
                       (unsigned long long)s->job.global_batch_sequences, p->dp, p->micro_batch, p->microbatches);
    }
    return 0;
}

static int check_canonical(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (p->canonical != s->job.canonical) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical must be what the job says (%s), found %s",
                       s->job.canonical ? "true" : "false", p->canonical ? "true" : "false");
    }
    if (!p->canonical) {
        return 0;
    }
    if (s->job.precision != SF_F32) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical sums need precision f32, found %s",
                       sf_dtype_name(s->job.precision));
    }
    if ((p->dp & (p->dp - 1)) != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical sums need dp to be a power of two, found %u", p->dp);
    }
    return 0;
}

/* Two chunks of every sequence per rank, one from either end: causal attention then costs all the same. */
static int check_cp(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint32_t cp = sf_plan_cp(p);
    if (cp == 1) {
        return 0;
    }
    if (s->job.seq_len_tokens % (2 * (uint64_t)cp) != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: 2 * cp must divide the sequence: %u tokens are no multiple of 2 * %u",
                       s->job.seq_len_tokens, cp);
    }
    if (s->job.precision == SF_F32) {
        return sf_fail(err, SF_E_INPUT, "plan: cp %u needs precision bf16 or lower, found f32", cp);
    }
    return 0;
}

static int check_rows(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (p->whole_rows && s->model.experts > 0 && p->tp > 1) {
        return sf_fail(err, SF_E_INPUT, "plan: whole_rows is for models without experts, or tp 1; found tp %u", p->tp);
    }
    return 0;
}

/* As the compiled program will have them. */
static void blocks_of(const struct sf_scenario *s, const struct sf_plan *p, struct sf_blocks *out) {
    uint32_t cp = sf_plan_cp(p), ep = p->ep, inner = cp < ep ? cp : ep, outer = cp < ep ? ep : cp;
    sf_blocks_init(out, s->job.gpus, p->ranks_per_domain, (uint32_t[]){p->tp, inner, outer / inner}, 3);
}

/* Not on the seats in use alone: perhaps with spare ones. */
static int check_spares(const struct sf_scenario *s, const struct sf_plan *p, const struct sf_blocks *blocks,
                        struct sf_err *err) {
    uint32_t *gpu = sf_calloc(s->job.gpus, sizeof *gpu);
    if (gpu == NULL) {
        return sf_fail_memory(err, "seats");
    }
    int rc = sf_seats_fill(s->topo, blocks, gpu, NULL, err);
    sf_free(gpu);
    return rc == 0 ? 0 : sf_err_wrap(err, "plan: ranks_per_domain %u", p->ranks_per_domain);
}

/* Tensor-parallel groups talk in every layer: they stay inside a scale-up domain. */
static int check_placement(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint32_t domain = sf_topo_domain_gpus(s->topo);
    if (p->ranks_per_domain > domain) {
        return sf_fail(err, SF_E_INPUT, "plan: ranks_per_domain is at most the %u GPUs of a domain, found %u", domain,
                       p->ranks_per_domain);
    }
    if (p->ranks_per_domain % p->tp != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: tp must divide ranks_per_domain, found %u and %u", p->tp,
                       p->ranks_per_domain);
    }
    struct sf_blocks blocks;
    blocks_of(s, p, &blocks);
    return sf_seats_fit(s->topo, &blocks) ? 0 : check_spares(s, p, &blocks, err);
}

#define MAX_SHARED_PASSES 8192 /* placing their buffers is quadratic */

/* A share of everything that a rank has begins anywhere: it is not known what in it counts once, and a share of a sum
 * has no order that all layouts have in common. */
static int check_clip(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (!(s->job.clip_norm > 0)) {
        return 0;
    }
    if (p->zero >= 1 && p->canonical && (uint64_t)p->dp * sf_plan_cp(p) > 1) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical sums and clip_norm need zero 0, found %u", p->zero);
    }
    if (p->zero == 2 && p->tp > 1) { /* zero 3 is for pricing, which makes no difference there */
        return sf_fail(
            err, SF_E_INPUT,
            "plan: clip_norm with tp above 1 trains with zero 0 or 1, found %u: a share mixes what tensor-parallel "
            "ranks have parts of and what they have whole",
            p->zero);
    }
    return 0;
}

/* Groups are whole parts of dp that have all experts and all ranks of a sequence in them. */
static int check_groups(const struct sf_plan *p, struct sf_err *err) {
    uint32_t ep = sf_plan_ep_beside_tp(p), cp = sf_plan_cp(p), inner = ep > cp ? ep : cp, group = p->zero_group;
    uint64_t all = (uint64_t)p->dp * cp;
    if (group == 0) {
        return 0;
    }
    if (p->zero == 0) {
        return sf_fail(err, SF_E_INPUT, "plan: zero_group %u says who shares, but zero 0 shares nothing", group);
    }
    if (all % group != 0 || group % inner != 0) {
        return sf_fail(err, SF_E_INPUT, "plan: zero_group must divide %sdp = %llu and be a multiple of %s %u, found %u",
                       cp > 1 ? "cp * " : "", (unsigned long long)all, ep > cp ? "ep" : "cp", inner, group);
    }
    return 0;
}

/* Shared gradients are added on their shares, in the order in which they are made. */
int sf_zero_check(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    SF_TRY(check_clip(s, p, err));
    SF_TRY(check_groups(p, err));
    if (p->zero < 2) {
        return 0;
    }
    if (p->canonical) {
        return sf_fail(err, SF_E_INPUT, "plan: canonical sums need zero 0 or 1, found %u", p->zero);
    }
    if (sf_schedule_copies(p) > 1) {
        return sf_fail(err, SF_E_INPUT, "plan: zero %u needs a schedule with one copy of the model, found %s", p->zero,
                       sf_schedule_name(p->schedule));
    }
    uint64_t sharers = sf_plan_sharers(p);
    if (sharers == 1 || (s->model.experts > 0 && sharers == sf_plan_ep_beside_tp(p))) {
        return sf_fail(err, SF_E_INPUT, "plan: zero %u has nobody to share %s with: dp %u, ep %u; use zero 1", p->zero,
                       sharers == 1 ? "gradients" : "the experts' gradients", p->dp, p->ep);
    }
    uint64_t passes = (uint64_t)sfi_units_of(p) * p->vpp * p->microbatches;
    if (passes > MAX_SHARED_PASSES) {
        return sf_fail(
            err, SF_E_INPUT,
            "plan: zero %u makes a buffer for every unit of layers and microbatch of a rank: %llu, at most %d; "
            "use zero 1, more stages or larger microbatches",
            p->zero, (unsigned long long)passes, MAX_SHARED_PASSES);
    }
    if (p->zero == 3 && s->job.precision == SF_F32) {
        return sf_fail(err, SF_E_INPUT, "plan: zero 3 needs precision bf16 or lower, found f32; use zero 2");
    }
    return 0;
}

/* What recipes cannot express where ranks of tp each have another part of it. */
static int check_vocabulary(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (p->tp > 1 && s->model.vocab_padding > 0) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: a padded vocabulary needs tp 1, found %u with %u rows of padding: leave vocab_multiple "
                       "out of the job",
                       p->tp, s->model.vocab_padding);
    }
    return 0;
}

/* Every rank adds them to whole sequences. */
static int check_positions(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (s->model.positions == 0) {
        return 0;
    }
    if (s->job.seq_len_tokens > s->model.positions) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: the model has %u positions, fewer than the job's %u tokens of a sequence",
                       s->model.positions, s->job.seq_len_tokens);
    }
    if (!p->whole_rows && p->micro_batch % p->tp != 0) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: with learned positions, tp must divide the sequences of a microbatch: %u is no multiple "
                       "of %u; or use whole_rows",
                       p->micro_batch, p->tp);
    }
    return 0;
}

/* A slice is the next rows of one sequence, and what its queries see lies in one piece. */
static int check_slices(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    uint32_t slices = sf_plan_slices(p);
    if (slices == 1) {
        return 0;
    }
    if (p->micro_batch != 1 || sf_plan_cp(p) != 1) {
        return sf_fail(err, SF_E_INPUT, "plan: slices need micro_batch 1 and cp 1, found %u and %u", p->micro_batch,
                       sf_plan_cp(p));
    }
    if (s->job.seq_len_tokens % ((uint64_t)slices * p->tp) != 0) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: slices * tp must divide the sequence: %u tokens are no multiple of %u * %u",
                       s->job.seq_len_tokens, slices, p->tp);
    }
    if (s->model.kv_rank > 0) {
        return sf_fail(err, SF_E_INPUT, "plan: latent attention works on whole sequences, found %u slices", slices);
    }
    if (p->zero >= 2) {
        return sf_fail(err, SF_E_INPUT, "plan: slices need zero 0 or 1, found %u: gradients are shared by microbatch",
                       p->zero);
    }
    return 0;
}

/* A device without a link to a host is its own. */
static int check_host(const struct sf_topo *topo, struct sf_err *err) {
    for (uint32_t i = 0; i < sf_topo_stocks(topo); i++) {
        struct sf_stock stock;
        sf_topo_stock(topo, i, &stock);
        if (stock.cpu == NULL && strcmp(stock.kind, "host") != 0) {
            return sf_fail(err, SF_E_INPUT,
                           "plan: offload needs a way to the host's memory: the cluster's domains of kind %s name no "
                           "cpu_link",
                           stock.kind);
        }
    }
    return 0;
}

static int check_offload(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    for (uint32_t i = 0; i < p->pp * p->vpp && p->offload > 0; i++) {
        if (p->layers[i] < p->offload) {
            return sf_fail(err, SF_E_INPUT,
                           "plan: offload is at most the layers of a virtual stage, found %u; layers[%u] "
                           "is %u",
                           p->offload, i, p->layers[i]);
        }
    }
    if (p->offload > 0 && sf_schedule_copies(p) > 1) {
        return sf_fail(err, SF_E_INPUT, "plan: offload needs a schedule with one copy of the model, found %s",
                       sf_schedule_name(p->schedule));
    }
    return p->offload > 0 ? check_host(s->topo, err) : 0;
}

/* Parts of the head are chunks of their own, which know no other way of sharing yet. */
static int check_split_head(const struct sf_scenario *s, const struct sf_plan *p, struct sf_err *err) {
    if (!p->split_head) {
        return 0;
    }
    if (p->schedule != SF_SCHEDULE_1F1B || p->pp < 2 || p->pp > SF_MAX_STAGES / 2 || sf_plan_cp(p) != 1 ||
        sf_plan_slices(p) != 1 || p->zero > 1 || p->offload > 0) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: split_head needs schedule 1f1b, pp from 2 to 512, cp and slices 1, zero 0 or 1 and no "
                       "offload");
    }
    if (s->model.tied || s->model.vocab % ((uint64_t)p->pp * p->tp) != 0 || s->model.vocab_padding > 0 ||
        s->job.clip_norm > 0) {
        return sf_fail(err, SF_E_INPUT,
                       "plan: split_head needs a head of its own, pp * tp to divide its %llu tokens, no padding and no "
                       "clip_norm; pp is %u, tp %u",
                       (unsigned long long)s->model.vocab, p->pp, p->tp);
    }
    return p->layers[p->pp - 1] > 0 ? 0 : sf_fail(err, SF_E_INPUT, "plan: split_head needs a layer in the last stage");
}

int sf_plan_check(const struct sf_scenario *s, const struct sf_plan *plan, struct sf_err *err) {
    SF_TRY(check_degrees(plan, err));
    SF_TRY(check_mesh(s, plan, err));
    SF_TRY(check_tp(s, plan, err));
    SF_TRY(check_layers(s, plan, err));
    SF_TRY(check_recompute(s, plan, err));
    SF_TRY(check_batch(s, plan, err));
    SF_TRY(sf_schedule_check(plan, err));
    SF_TRY(check_canonical(s, plan, err));
    SF_TRY(sf_zero_check(s, plan, err));
    SF_TRY(check_offload(s, plan, err));
    SF_TRY(check_cp(s, plan, err));
    SF_TRY(check_slices(s, plan, err));
    SF_TRY(check_split_head(s, plan, err));
    SF_TRY(sfi_stage_degrees_check(plan, err));
    SF_TRY(check_rows(s, plan, err));
    SF_TRY(check_vocabulary(s, plan, err));
    SF_TRY(check_positions(s, plan, err));
    return check_placement(s, plan, err);
}
