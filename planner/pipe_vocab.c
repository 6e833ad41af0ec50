/* Heads that are split by vocabulary over a pipeline. In the steady state of 1F1B every device takes turns: a forward
 * of one microbatch, a backward of another. Once in a turn, at its next boundary between the two, every device has a
 * backward of its part of the head for one microbatch and a forward for the next one. A microbatch waits a turn for the
 * one and a turn for the other, so two more are under way than in 1F1B; with that no device waits for any other once
 * the pipeline is full. arXiv 2411.05288 puts passes of a vocabulary into the period of a schedule in the same way.
 *
 * Times are those of a pipeline whose backwards take two forwards and whose parts of the head take nothing; they only
 * tell where in a row the parts go. Since all passes have their inputs in those times, the order fits any others. */
#include "planner/pipe_internal.h"

enum {
    FORWARD = 1,
    BACKWARD = 2,
    TURN = FORWARD + BACKWARD,
    MORE = 2 /* microbatches, than in 1F1B */
};

/* When parts are due in a turn, ahead of its begin. They may come a backward later and are to be over when the last
 * stage begins its own, a forward into the turn. Of two devices both are there in time without. */
static int64_t parts_ahead(const struct sf_pipe *p) {
    return p->devices > 2 ? BACKWARD - FORWARD : 0;
}

/* Of a turn: the backward of its microbatch, the forward of the next one. */
static void put_parts(struct sf_pipe *p, uint32_t d, int64_t turn) {
    uint32_t part = 2 * p->devices - 1 - d;
    if (turn >= 0) {
        sf_pipe_push(p, d, SF_PASS_BW, part, (uint32_t)turn, 0);
    }
    if (turn + 1 < p->microbatches) {
        sf_pipe_push(p, d, SF_PASS_F, part, (uint32_t)(turn + 1), 0);
    }
}

/* In turn b the last device has the forward that is MORE ahead of microbatch b, then the backward of b. */
static void fill_row(struct sf_pipe *p, uint32_t d) {
    int64_t behind = p->devices - 1 - d, ahead = parts_ahead(p), f = 0, b = 0, turn = -1;
    while (b < p->microbatches) {
        int64_t f_at = (f - behind - MORE) * TURN + behind * BACKWARD, b_at = b * TURN + FORWARD + behind * BACKWARD;
        bool forward = f < p->microbatches && f_at < b_at;
        for (; turn < p->microbatches && turn * TURN - ahead <= (forward ? f_at : b_at); turn++) {
            put_parts(p, d, turn);
        }
        sf_pipe_push(p, d, forward ? SF_PASS_F : SF_PASS_BW, d, (uint32_t)(forward ? f++ : b++), 0);
    }
}

int sf_pipe_split_head(uint32_t devices, uint32_t microbatches, struct sf_pipe **out, struct sf_err *err) {
    SF_TRY(sf_pipe_create(devices, devices <= SF_PIPE_MAX_STAGES / 2 ? 2 * devices : 0, microbatches, 1, out, err));
    (*out)->parts = devices;
    sfi_pipe_place_v(*out);
    for (uint32_t d = 0; d < devices; d++) {
        fill_row(*out, d);
    }
    return 0;
}
