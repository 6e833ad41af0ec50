/* Weights, shards and hyperparameters. */
#include <string.h>

#include "core/rng.h"
#include "runtime/rank.h"

struct sfi_place sfi_rank_place(const struct sfi_rank *r, const struct sf_tensor *t) {
    struct sfi_place p = {.first_row = t->first_row, .rows = t->rows, .cols = t->cols};
    if (t->whole_rows > 0) {
        p.rows = t->whole_rows;
        p.first_row += sf_prog_comm_index(r->run->image->prog, r->rank, t->comm) * t->rows;
    } else if (t->whole_cols > 0) {
        p.cols = t->whole_cols;
        p.first_col = sf_prog_comm_index(r->run->image->prog, r->rank, t->comm) * t->cols;
    }
    return p;
}

#define DRAWS_PER_NORMAL 2 /* of sf_rng_normal */

/* One stream per row, so that rows can be made anywhere in any order. */
static void fill_normal(float *w, const struct sf_tensor *t, const struct sfi_place *place, uint64_t seed) {
    struct sf_rng root = sf_rng_seed(seed);
    struct sf_rng tensor = sf_rng_split_text(&root, t->name);
    for (uint64_t row = 0; row < t->rows; row++) {
        struct sf_rng r = sf_rng_split(&tensor, place->first_row + row);
        r.counter += DRAWS_PER_NORMAL * place->first_col;
        for (uint64_t col = 0; col < t->cols; col++) {
            *w++ = (float)(sf_rng_normal(&r) * (double)t->init_std);
        }
    }
}

static void init_tensor(struct sfi_rank *r, const struct sf_tensor *t) {
    float *w = (float *)sfi_rank_at(r, t->buf, t->offset);
    const struct sfi_place place = sfi_rank_place(r, t);
    switch (t->init) {
    case SF_INIT_NORMAL:
        fill_normal(w, t, &place, r->run->image->prog->job.seed);
        break;
    case SF_INIT_ONE:
        for (uint64_t i = 0; i < t->rows * t->cols; i++) {
            w[i] = 1.0f;
        }
        break;
    default:
        break; /* the arena is zero */
    }
}

/* A rank that will gather weights from shards owns its shard from the start. */
static void init_shards(struct sfi_rank *r) {
    for (uint32_t i = 0; i < r->cls->ops_n; i++) {
        const struct sf_op *op = &r->cls->ops[i];
        if (op->kind != SF_OP_ALL_GATHER) {
            continue;
        }
        const struct sf_arg *args = &r->cls->args[op->arg_first];
        if (r->cls->bufs[args[1].buf].kind == SF_BUF_PARAM) {
            const char *own = sfi_rank_arg(r, op, 1) + r->xfers[i].index * args[0].bytes;
            memmove(sfi_rank_arg(r, op, 0), own, args[0].bytes);
        }
    }
}

void sfi_rank_init_weights(struct sfi_rank *r) {
    memset(r->mem, 0, r->cls->arena_bytes + r->cls->host_bytes); /* also the first touch */
    for (uint32_t i = 0; i < r->cls->tensors_n; i++) {
        init_tensor(r, &r->cls->tensors[i]);
    }
    init_shards(r);
}

static double power(double base, uint32_t exponent) {
    double p = 1.0;
    for (double b = base; exponent > 0; exponent >>= 1, b *= b) {
        p = exponent & 1 ? p * b : p;
    }
    return p;
}

void sfi_hyper(const struct sf_prog_job *job, uint32_t step, float out[8]) {
    uint32_t t = step + 1;
    double warm = t < job->warmup_steps ? (double)t / job->warmup_steps : 1.0;
    const float hyper[8] = {(float)((double)job->lr * warm),
                            job->beta1,
                            job->beta2,
                            job->eps,
                            job->weight_decay,
                            (float)(1.0 - power((double)job->beta1, t)),
                            (float)(1.0 - power((double)job->beta2, t)),
                            1.0f};
    memcpy(out, hyper, sizeof hyper);
}

void sfi_rank_set_hyper(struct sfi_rank *r) {
    float hyper[8];
    sfi_hyper(&r->run->image->prog->job, r->step, hyper);
    for (uint32_t i = 0; i < r->cls->bufs_n; i++) {
        if (r->cls->bufs[i].kind == SF_BUF_HYPER) {
            memcpy(sfi_rank_at(r, i, 0), hyper, sizeof hyper);
        }
    }
}
