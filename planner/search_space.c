/* The search space: for each choice the values that can occur at all, cut down by what the scenario allows. */
#include <stdlib.h>

#include "planner/search_internal.h"

#define MOST_SLICES 16

bool sfi_pin_allows(const struct sf_pin *pin, uint32_t value) {
    for (uint32_t i = 0; i < pin->n; i++) {
        if (pin->value[i] == value) {
            return true;
        }
    }
    return pin->n == 0;
}

static void add(struct sfi_values *values, const struct sf_pin *pin, uint64_t value, uint64_t limit) {
    if (value <= limit && values->n < SFI_MAX_VALUES && sfi_pin_allows(pin, (uint32_t)value)) {
        values->value[values->n++] = (uint32_t)value;
    }
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void add_divisors(struct sfi_values *values, const struct sf_pin *pin, uint64_t n, uint64_t limit) {
    for (uint64_t d = 1; d * d <= n; d++) {
        if (n % d == 0) {
            add(values, pin, d, limit);
            if (d != n / d) {
                add(values, pin, n / d, limit);
            }
        }
    }
    qsort(values->value, values->n, sizeof values->value[0], ascending);
}

static void add_range(struct sfi_values *values, const struct sf_pin *pin, uint32_t from, uint32_t to) {
    for (uint32_t v = from; v <= to; v++) {
        add(values, pin, v, UINT32_MAX);
    }
}

/* 0 too: an all-reduce takes less than a reduce-scatter and an all-gather where thousands of ranks share. */
static void add_zero(struct sfi_values *values, const struct sf_scenario *s) {
    add_range(values, &s->pins.zero, 0, s->job.canonical ? 1 : 3);
}

/* Tables of one's own only where they are named. */
static void add_schedules(struct sfi_values *values, const struct sf_pin *pin) {
    for (uint32_t v = 0; v <= SF_SCHEDULE_AUTO; v++) {
        if (v != SF_SCHEDULE_TABLE || pin->n > 0) {
            add(values, pin, v, SF_SCHEDULE_AUTO);
        }
    }
}

/* Latent attention and layers that predict further work on whole sequences. */
static uint32_t most_slices(const struct sf_scenario *s) {
    return s->model.kv_rank > 0 ? 1 : s->job.seq_len_tokens;
}

static void add_flag(struct sfi_values *values, const struct sf_pin *pin, bool both) {
    add_range(values, pin, 0, both ? 1 : 0);
}

/* Every stock has a way to its host. */
static bool has_hosts(const struct sf_topo *topo) {
    for (uint32_t i = 0; i < sf_topo_stocks(topo); i++) {
        struct sf_stock stock;
        sf_topo_stock(topo, i, &stock);
        if (stock.cpu == NULL) {
            return false;
        }
    }
    return true;
}

/* What the plans of today's trainers choose beside the degrees. */
static void add_variants(struct sfi_space *out, const struct sf_scenario *s) {
    const struct sf_model *m = &s->model;
    const struct sf_pins *pins = &s->pins;
    static const struct sf_pin any = {.n = 0};
    add_flag(&out->etp, &pins->etp, m->experts > 0);
    add_flag(&out->gather, &pins->cp_exchange, s->job.precision != SF_F32);
    add_flag(&out->whole_rows, &pins->whole_rows, m->experts == 0);
    add_flag(&out->split_head, &pins->split_head,
             !m->tied && m->vocab_padding == 0 && (m->mtp == 0 || pins->split_head.n > 0) && !(s->job.clip_norm > 0));
    add_divisors(&out->slices, &pins->slices, most_slices(s), pins->slices.n > 0 ? SF_MAX_SLICES - 1 : MOST_SLICES);
    add(&out->zero_group, &pins->zero_group, 0, 0);
    add_divisors(&out->zero_group, &pins->zero_group, s->job.gpus, sf_topo_domain_gpus(s->topo));
    add_flag(&out->collectives, &pins->collectives, /* only where asked for: docs/collectives.md says why */
             pins->collectives.n > 0 && sf_topo_collectives(s->topo)->model[0] != '\0');
    bool away = pins->offload == 0 && has_hosts(s->topo);
    add_range(&out->offload, &any, pins->offload, away ? m->layers : pins->offload);
}

/* Layers of one plan may differ where two kinds are allowed. */
static void add_again(struct sfi_values *values, const struct sf_scenario *s, uint32_t kinds) {
    static const struct sf_pin any = {.n = 0};
    uint32_t pinned = s->pins.recompute_layers;
    add_range(values, &any, pinned, pinned > 0 ? pinned : kinds > 1 ? s->model.layers - 1 : 0);
}

static int need_some(const struct sfi_values *values, const char *name, const char *of, uint64_t n,
                     struct sf_err *err) {
    if (values->n > 0) {
        return 0;
    }
    return sf_fail(err, SF_E_NOPLAN, "no plan fits: none of the allowed values of %s is %s %llu; change plan.%s", name,
                   of, (unsigned long long)n, name);
}

static int need_choices(const struct sfi_space *space, struct sf_err *err) {
    const struct {
        const struct sfi_values *values;
        const char *name, *needs;
    } all[] = {{&space->etp, "etp", "1 needs experts"},
               {&space->gather, "cp_exchange", "gather needs precision bf16 or lower"},
               {&space->whole_rows, "whole_rows", "true needs a model without experts"},
               {&space->collectives, "collectives", "tuned needs devices that name a collective model"},
               {&space->split_head, "split_head",
                "true needs a head of its own (not tied), an unpadded vocabulary and no clip_norm"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i].values->n == 0) {
            return sf_fail(err, SF_E_NOPLAN, "no plan fits: plan.%s: %s", all[i].name, all[i].needs);
        }
    }
    return 0;
}

static int check_layout(const struct sf_scenario *s, struct sf_err *err) {
    const struct sf_layout *layout = &s->pins.layout;
    uint64_t layers = 0;
    for (uint32_t i = 0; i < layout->stages; i++) {
        layers += layout->layers[i];
    }
    if (layout->stages > 0 && layers != s->model.layers) {
        return sf_fail(err, SF_E_INPUT, "plan.layout has %llu layers, the model %u", (unsigned long long)layers,
                       s->model.layers);
    }
    return 0;
}

int sfi_space_init(const struct sf_scenario *s, struct sfi_space *out, struct sf_err *err) {
    const struct sf_pins *pins = &s->pins;
    uint32_t gpus = s->job.gpus, layers = s->model.layers < SF_MAX_STAGES ? s->model.layers : SF_MAX_STAGES;
    uint64_t batch = s->job.global_batch_sequences;
    *out = (struct sfi_space){0};
    SF_TRY(check_layout(s, err));
    add_divisors(&out->tp, &pins->tp, gpus, gpus);
    add_divisors(&out->cp, &pins->cp, gpus, SF_MAX_STAGES);
    add_divisors(&out->ep, &pins->ep, gpus, gpus);
    add_divisors(&out->pp, &pins->pp, gpus, SF_MAX_STAGES);
    add_divisors(&out->micro_batch, &pins->micro_batch, batch, 1u << 20);
    add_range(&out->vpp, &pins->vpp, 1, layers);
    add_schedules(&out->schedule, &pins->schedule);
    bool latent = s->model.kv_rank > 0;
    add_range(&out->recompute, &pins->recompute, 0, latent ? SF_RECOMPUTES_N - 1 : SF_RECOMPUTE_SELECTIVE);
    add_again(&out->again, s, out->recompute.n);
    add_zero(&out->zero, s);
    add_variants(out, s);
    SF_TRY(need_some(&out->tp, "tp", "a divisor of the GPUs", gpus, err));
    SF_TRY(need_some(&out->cp, "cp", "a divisor of the GPUs", gpus, err));
    SF_TRY(need_some(&out->ep, "ep", "a divisor of the GPUs", gpus, err));
    SF_TRY(need_some(&out->pp, "pp", "a divisor of the GPUs", gpus, err));
    SF_TRY(need_some(&out->vpp, "vpp", "at most the layers", layers, err));
    SF_TRY(need_some(&out->recompute, "recompute", "possible without latent attention, or in number", 0, err));
    SF_TRY(need_some(&out->zero, "zero",
                     "possible with canonical sums or layers that predict further, which need at most", 1, err));
    SF_TRY(need_some(&out->slices, "slices",
                     most_slices(s) > 1 ? "a divisor of the tokens"
                                        : "possible with latent attention or layers that predict further, which need",
                     most_slices(s), err));
    SF_TRY(need_some(&out->zero_group, "zero_group", "0, or a divisor of the GPUs and within a domain of",
                     sf_topo_domain_gpus(s->topo), err));
    SF_TRY(need_choices(out, err));
    return need_some(&out->micro_batch, "micro_batch", "a divisor of the global batch", batch, err);
}

uint64_t sfi_space_points(const struct sfi_space *space) {
    const uint32_t mixed = space->again.n > 1 ? 2 : 1; /* in part or not: how many layers is each rank's own choice */
    const uint32_t n[] = {space->tp.n,
                          space->cp.n,
                          space->ep.n,
                          space->pp.n,
                          space->vpp.n,
                          space->schedule.n,
                          space->micro_batch.n,
                          space->recompute.n,
                          space->zero.n,
                          space->etp.n,
                          space->slices.n,
                          space->gather.n,
                          space->whole_rows.n,
                          space->split_head.n,
                          space->zero_group.n,
                          space->collectives.n,
                          space->offload.n,
                          mixed,
                          SFI_CUTS_N};
    uint64_t points = 1;
    for (size_t i = 0; i < sizeof n / sizeof n[0]; i++) {
        if (__builtin_mul_overflow(points, (uint64_t)n[i], &points)) {
            return UINT64_MAX;
        }
    }
    return points;
}
