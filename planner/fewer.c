/* Which smaller numbers of GPUs are worth a search of their own: those that many degrees divide, with whole groups to
 * every scale-up domain.
 */
#include "core/arena.h"
#include "planner/search.h"
#include "sim/seats.h"

#define LEAST(gpus) ((gpus) / 4 * 3)

/* Of tp * cp ranks, all in one domain; some tp and cp make it that heads and sequence allow. */
static bool can_share_layers(const struct sf_scenario *s, uint32_t ranks) {
    const struct sf_model *m = &s->model;
    for (uint32_t tp = 1; tp <= ranks; tp++) {
        uint32_t cp = ranks / tp;
        if (ranks % tp == 0 && m->heads % tp == 0 && m->kv_heads % tp == 0 && m->ffn % tp == 0 &&
            (cp == 1 || (s->job.precision != SF_F32 && s->job.seq_len_tokens % (2 * cp) == 0))) {
            return true;
        }
    }
    return false;
}

static bool finds_whole_seats(const struct sf_scenario *s, uint32_t gpus, uint32_t group) {
    const struct sf_blocks blocks = {.ranks = gpus, .most = sf_topo_domain_gpus(s->topo) / group * group};
    return sf_seats_fit(s->topo, &blocks);
}

/* ways[i]: of the degrees that use least + i GPUs, in pipelines with as many microbatches as stages. */
static void count_ways(const struct sf_scenario *s, uint32_t least, uint32_t *ways) {
    uint32_t most_stages = s->model.layers < SF_MAX_STAGES ? s->model.layers : SF_MAX_STAGES;
    uint64_t batch = s->job.global_batch_sequences;
    for (uint32_t group = 1; group <= sf_topo_domain_gpus(s->topo); group++) {
        if (!can_share_layers(s, group)) {
            continue;
        }
        for (uint32_t pp = 2; pp <= most_stages; pp++) {
            uint64_t from = (least + (uint64_t)group * pp - 1) / (group * pp);
            for (uint64_t dp = from > 0 ? from : 1; dp * group * pp < s->job.gpus && dp * pp <= batch; dp++) {
                uint32_t gpus = (uint32_t)(dp * group * pp);
                ways[gpus - least] += batch % dp == 0 && finds_whole_seats(s, gpus, group) ? 1 : 0;
            }
        }
    }
}

uint32_t sf_search_counts(const struct sf_scenario *s, uint32_t most, uint32_t *out) {
    uint32_t least = LEAST(s->job.gpus), n = 0;
    uint32_t *ways = sf_calloc(s->job.gpus - least + 1, sizeof *ways);
    if (ways == NULL) {
        return 0;
    }
    count_ways(s, least, ways);
    for (; n < most; n++) {
        double best = 0;
        for (uint32_t gpus = least; gpus < s->job.gpus; gpus++) {
            double worth = (double)ways[gpus - least] * gpus * gpus;
            out[n] = worth > best ? gpus : out[n];
            best = worth > best ? worth : best;
        }
        if (best <= 0) {
            break;
        }
        ways[out[n] - least] = 0;
    }
    sf_free(ways);
    return n;
}
