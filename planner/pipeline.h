/* Pipeline schedules as tables: for every device, the order of its passes; and their exact timing by replay.
 *
 * A pass is the forward (F), the input gradient (B), the weight gradient (W) or both gradients at once (BW) of one
 * chunk of layers for one microbatch (and sequence slice). Chunks are virtual stages 0 .. stages-1 in data order;
 * `device_of` says where each lives (sequential: s % p; V: s for s < p, then 2p-1-s). With two `ways` (DualPipe) stages
 * 0 .. stages/2-1 and the rest are two chains of their own: the first half of the microbatches runs through the first
 * chain, the second half through the second.
 *
 * Replay rules (Zero Bubble, arXiv 2401.10241, and every cell of its tables): one pass at a time per device, in the
 * table's order; a pass starts when the device is free and its inputs have arrived; an input made on another device
 * arrives `comm` after its producer ended; sends occupy nobody. Inputs: F needs F of the stage before; B and BW need
 * their own F and B (or BW) of the stage behind; W needs its B. Slices are causal: F runs from slice 0 up, B from the
 * last slice down.
 *
 * The last `parts` stages may lie side by side behind all others: parts of a head that is split by vocabulary. F of
 * each needs F of the stage before all of them, from which one collective reaches every part `comm_parts` later. B and
 * BW of each need F of all, B and BW of the stage before them those of all parts, whose sum arrives `comm_parts` later.
 */
#ifndef SF_PLANNER_PIPELINE_H
#define SF_PLANNER_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/io.h"
#include "core/units.h"

#define SF_PIPE_MAX_DEVICES 1024
#define SF_PIPE_MAX_STAGES 16384
#define SF_PIPE_MAX_SLICES 256
#define SF_PIPE_MAX_PASSES (1u << 24)

enum sf_pass_kind {
    SF_PASS_F,
    SF_PASS_B,
    SF_PASS_W,
    SF_PASS_BW,
    SF_PASS_F_PAIR, /* F that overlaps with the B or BW next in its row (DualPipe): both start when the inputs of both
                     * are there, take as long as one after the other, and end together */
    SF_PASS_KINDS
};

struct sf_pass {
    uint8_t kind; /* enum sf_pass_kind */
    uint8_t slice;
    uint16_t stage; /* virtual stage, 0 .. stages-1 */
    uint32_t microbatch;
};

/* What passes cost. Times are of one pass: per virtual stage, microbatch and slice; memory units are the caller's
 * (bytes or shares of M). */
struct sf_pipe_costs {
    const sf_time_ps *f, *b, *w; /* [stages] */
    sf_time_ps comm;             /* one hop between devices */
    sf_time_ps comm_parts;       /* from one stage to all parts of a head, and back; on one device too */
    const double *mem_f;         /* [stages] taken by F; NULL: memory is not followed */
    const double *mem_b;         /* [stages] given back by B (BW gives back mem_f whole) */
    const double *mem_w;         /* [stages] given back by W; mem_b + mem_w = mem_f */
    bool wrap_first;             /* passes across the wrap edge (last device to device 0) depend on each other only for
                                  * the first microbatch of every `devices`: what the published 1F1B-I figures count */
};

struct sf_pipe {
    uint32_t devices, stages, microbatches, slices;
    uint32_t ways;           /* 1, or 2: two chains of stages, half of the microbatches each */
    uint32_t parts;          /* how many of the last stages are side by side; 0: all stages are a chain */
    uint32_t room;           /* passes that every row can hold */
    uint16_t *device_of;     /* [stages] */
    struct sf_pass **passes; /* [devices] in execution order */
    uint32_t *passes_n;      /* [devices] */
};

struct sf_pipe_timing {
    sf_time_ps span;        /* longest over devices of last end - first start */
    sf_time_ps makespan;    /* last end - first start over all devices */
    sf_time_ps busiest;     /* most work of one device */
    double bubble_span;     /* (span - busiest device's work) / span: the papers' rate */
    double bubble_makespan; /* idle share of all devices over the makespan */
    double peak_memory;     /* largest over devices */
};

/* A table without passes: one way, stage s on device s % devices (change device_of freely as long as every device has
 * stages / devices of them), room for 3 passes of every stage, microbatch and slice. SF_E_INPUT outside the limits
 * above or when stages is no multiple of devices. */
int sf_pipe_create(uint32_t devices, uint32_t stages, uint32_t microbatches, uint32_t slices, struct sf_pipe **out,
                   struct sf_err *err);
void sf_pipe_free(struct sf_pipe *p); /* NULL is legal */
int sf_pipe_copy(const struct sf_pipe *p, struct sf_pipe **out, struct sf_err *err);

/* Append; a full row is left as it is, and replay will say that passes are doubled. */
static inline void sf_pipe_push(struct sf_pipe *p, uint32_t device, enum sf_pass_kind kind, uint32_t stage,
                                uint32_t microbatch, uint32_t slice) {
    if (p->passes_n[device] < p->room) {
        p->passes[device][p->passes_n[device]++] = (struct sf_pass){
            .kind = (uint8_t)kind, .slice = (uint8_t)slice, .stage = (uint16_t)stage, .microbatch = microbatch};
    }
}

/* Time a table exactly. start/end may be NULL; else [devices][passes] laid out as passes are. SF_E_INPUT when passes
 * are missing, doubled, out of order, or wait for each other in a circle (names the pass). */
int sf_pipe_replay(const struct sf_pipe *p, const struct sf_pipe_costs *c, struct sf_pipe_timing *out,
                   sf_time_ps **start, sf_time_ps **end, struct sf_err *err);

/* The same for inner loops: memory is kept from call to call (grown when a larger table comes). */
struct sf_pipe_scratch;
struct sf_pipe_scratch *sf_pipe_scratch_create(void); /* NULL when out of memory */
void sf_pipe_scratch_free(struct sf_pipe_scratch *s); /* NULL is legal */
int sf_pipe_replay_with(struct sf_pipe_scratch *s, const struct sf_pipe *p, const struct sf_pipe_costs *c,
                        struct sf_pipe_timing *out, sf_time_ps **start, sf_time_ps **end, struct sf_err *err);

/* Zeroed [devices][passes] for start or end, in one block. Free with sf_pipe_times_free. */
sf_time_ps **sf_pipe_times_create(const struct sf_pipe *p); /* NULL when out of memory */
void sf_pipe_times_free(sf_time_ps **times);                /* NULL is legal */

/* ---- families ---------------------------------------------------------------------------------------------------- */

/* X(NAME, "name", chunks per device (0: any number), "what it is") */
#define SF_PIPE_FAMILIES(X)                                                                                            \
    X(GPIPE, "gpipe", 1, "all forwards, then all backwards")                                                           \
    X(1F1B, "1f1b", 1, "PipeDream-Flush; over sequence slices Seq1F1B")                                                \
    X(INTERLEAVED, "interleaved", 0, "Megatron's virtual pipeline: 1F1B over chunks")                                  \
    X(BREADTH_FIRST, "breadth-first", 0, "GPipe over chunks, one chunk at a time")                                     \
    X(ZB_H1, "zb-h1", 1, "1F1B with W at the end, memory of 1F1B")                                                     \
    X(ZB_H2, "zb-h2", 1, "twice the warm-up, no bubble if F = B = W")                                                  \
    X(ZB_1P, "zb-1p", 1, "greedy under p M")                                                                           \
    X(ZB_2P, "zb-2p", 1, "greedy under 2 p M")                                                                         \
    X(ZB_V, "zb-v", 2, "greedy on a V of two chunks under p M")                                                        \
    X(V_HALF, "v-half", 2, "V pattern, half the memory of 1F1B")                                                       \
    X(V_MIN, "v-min", 2, "V pattern, a third of the memory of 1F1B")                                                   \
    X(1F1B_V, "1f1b-v", 2, "V pattern of whole backwards, two thirds of the memory of 1F1B")                           \
    X(DUALPIPE, "dualpipe", 2, "both directions at once, two copies of the parameters")                                \
    X(DUALPIPEV, "dualpipev", 2, "DualPipe cut in half: a V of two chunks")

enum sf_pipe_family {
#define X(NAME, name, chunks, text) SF_PIPE_##NAME,
    SF_PIPE_FAMILIES(X)
#undef X
        SF_PIPE_FAMILIES_N
};

/* Costs of equal devices: one device's whole share of one microbatch, over all its chunks and slices. */
struct sf_pipe_spec {
    int family; /* enum sf_pipe_family */
    uint32_t devices, microbatches;
    uint32_t chunks; /* per device; 0: the family's own number (interleaved and breadth-first: 2) */
    uint32_t slices; /* 0 means 1; above 1: gpipe and 1f1b only */
    sf_time_ps f, b, w, comm;
    double memory_limit; /* in M; 0: the family's own. zb-1p, zb-2p and zb-v stay below it */
    double weight_share; /* share of M that lives until W; 0: 1, everything */
    bool wrap_first;
    bool published; /* zb-v, v-half, v-min: exactly the published schedule, even where a wider search finds better */
};

const char *sf_pipe_family_name(int family); /* "?" outside the enum */
const char *sf_pipe_family_text(int family); /* one line about it */
int sf_pipe_family_parse(const char *name);  /* -1 when unknown */
uint32_t sf_pipe_family_chunks(int family);  /* 0: any number */

/* Make the table. SF_E_INPUT when the family cannot be built for these numbers (says which and why), SF_E_NOPLAN when
 * nothing fits the memory limit. */
int sf_pipe_generate(const struct sf_pipe_spec *spec, struct sf_pipe **out, struct sf_err *err);

/* 1F1B with the head split over all devices: stages p .. 2p-1 are parts of the head side by side, the first of them on
 * the last device and the last on the first. Two microbatches more than 1F1B are under way. */
int sf_pipe_split_head(uint32_t devices, uint32_t microbatches, struct sf_pipe **out, struct sf_err *err);

/* Costs of a table on equal devices: shares of `spec` per pass; arrays are owned. */
int sf_pipe_costs_create(const struct sf_pipe *p, const struct sf_pipe_spec *spec, struct sf_pipe_costs *out,
                         struct sf_err *err);
void sf_pipe_costs_clear(struct sf_pipe_costs *c);

/* No order of passes on this placement has a shorter span, backwards split or whole. `memory_limit` is of each device
 * in the units of mem_f; 0: none. */
sf_time_ps sf_pipe_lower_bound(const struct sf_pipe *p, const struct sf_pipe_costs *c, double memory_limit);

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* A row per device, cells "2F5": stage, action, microbatch (slices: "2F5.1"). Actions: F, I (input gradient), W, B
 * (both gradients). Ahead of the rows, where the last 4 stages are parts of a head: "parts 4". Read also accepts empty
 * cells (idle) and pairs "(0F1;1B0)OVERLAP_F_B", which run one after the other. Placement follows from the rows.
 * Located SF_E_INPUT errors; `name` is the file in messages. */
int sf_pipe_read_csv(const char *text, size_t bytes, const char *name, struct sf_pipe **out, struct sf_err *err);
void sf_pipe_print_csv(const struct sf_pipe *p, struct sf_buf *out);
const char *sf_pass_letter(int kind); /* "F" "I" "W" "B" "F" */

/* ---- uneven stages ----------------------------------------------------------------------------------------------- */

/* What each virtual stage holds, from Megatron's layout string: E embedding, t layer, m multi-token prediction layer, L
 * loss, | next stage; "t*3" and "(tt|)*29" repeat, commas only part. "Et*3|(tt|)*29,m|L" */
struct sf_pipe_contents {
    uint32_t layers, mtp;
    bool embedding, loss;
};
struct sf_pipe_layout {
    uint32_t stages_n, layers, mtp;
    struct sf_pipe_contents *stages;
};
/* SF_E_INPUT with the column, also unless there is one E in front of all layers and one L behind them. */
int sf_pipe_layout_parse(const char *text, struct sf_pipe_layout *out, struct sf_err *err);
void sf_pipe_layout_clear(struct sf_pipe_layout *l);
/* Costs by content: `spec` is the share of an average device, the loss weighs as much as `loss_layers` layers, an MTP
 * layer as much as a layer, the embedding nothing. Activations by layers. */
int sf_pipe_layout_costs(const struct sf_pipe_layout *l, const struct sf_pipe *p, const struct sf_pipe_spec *spec,
                         double loss_layers, struct sf_pipe_costs *out, struct sf_err *err);
/* The same for a table of sf_pipe_split_head: L does not count where the layout has it, its work is shared by all parts
 * of the head, which hold no activations. SF_E_INPUT unless the layout has a stage per device. */
int sf_pipe_split_head_costs(const struct sf_pipe_layout *l, const struct sf_pipe *p, const struct sf_pipe_spec *spec,
                             double loss_layers, struct sf_pipe_costs *out, struct sf_err *err);

/* ---- drawings ---------------------------------------------------------------------------------------------------- */

/* Passes over time, as text: a line per device of `columns` characters, each the pass in the middle of its time. F B W
 * of a device's first chunk, f b w of the others, X x overlapping F and B, '.' idle. */
void sf_pipe_chart(const struct sf_pipe *p, sf_time_ps *const *start, sf_time_ps *const *end, uint32_t columns,
                   struct sf_buf *out);

/* The same as a drawing. `title` and `subtitle` may hold any text. */
void sf_pipe_svg(const struct sf_pipe *p, sf_time_ps *const *start, sf_time_ps *const *end, const char *title,
                 const char *subtitle, struct sf_buf *out);

#endif
