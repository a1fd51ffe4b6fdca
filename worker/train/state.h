/* Where a training run stands: everything that the next step depends on, and what has been seen so
 * far. A state is a function of (manifest, step), whoever computed it, so any copy will do: a
 * peer's, or a checkpoint's. Nothing else has to be saved: rows, dropout and learning rate follow
 * from the step by counters.
 *
 *     mq_state
 *      ├─ record     step, hash chain, sums for the curve   (plain bytes, travels as it is)
 *      └─ vectors    floats of all parameters in graph order: the weights, then as many of each
 *                    vector that the optimizer keeps; with validation the best epoch's weights
 *
 * A checkpoint is a safetensors blob with the tensors "weights", "optimizer.1", .., "best" (F32)
 * and "record" (U8), and the manifest's family hash in its metadata.
 *
 * Hash chain: link 0 is the manifest's family hash; at each end of an epoch, and after the last
 * step, link' = SHA-256(link, step as 8 bytes LE, SHA-256(weights)). All members compute it. A
 * checkpoint inside an epoch shows the link that would follow at its step, so that any two runs of
 * a manifest can be compared wherever they were saved. */
#ifndef MQ_WORKER_TRAIN_STATE_H
#define MQ_WORKER_TRAIN_STATE_H

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/sha256.h"
#include "worker/train/manifest.h"
#include "worker/train/tree.h"

enum {
    MQ_CURVE_MAX = 40,
    MQ_STATE_VECTORS_MAX = 2 + MQ_OPTIMIZER_VECTORS_MAX,
};

/* Mean over the steps since the point before. */
typedef struct mq_curve_point {
    uint64_t step;
    double loss, accuracy;
} mq_curve_point;

typedef struct mq_sums {
    double loss;      /* summed over rows */
    uint64_t correct; /* rows whose class is right */
    uint64_t rows;
} mq_sums;

typedef struct mq_record {
    uint64_t step;                  /* updates done */
    uint8_t chain[MQ_SHA256_BYTES]; /* last link */
    mq_sums epoch;                  /* of the epoch under way */
    mq_sums epoch_before;           /* of the last whole one (or of all, for less than one) */
    mq_sums point;                  /* since the last point of the curve */
    uint32_t curve_count;
    uint32_t workers_seen; /* the most members at once; not a function of the manifest */
    mq_curve_point curve[MQ_CURVE_MAX];
    mq_validated validated;
} mq_record;

/* One parameter: where it lies in the vectors. */
typedef struct mq_state_param {
    mq_piece at;
    bool follows; /* a running moment: the sum of the shards is its new value */
} mq_state_param;

typedef struct mq_state {
    mq_record record;
    float *weights;                       /* vectors[0] */
    float *vectors[MQ_STATE_VECTORS_MAX]; /* arena; count floats each */
    uint32_t vector_count;
    uint32_t moment_count; /* those of the optimizer, behind the weights */
    float *best;           /* the last vector, or NULL */
    size_t count;
    const mq_state_param *params; /* borrowed, ascending */
    size_t param_count;
} mq_state;

/* What of the plan a step needs. */
typedef struct mq_plan {
    uint64_t rows;            /* that are trained on */
    uint64_t held_rows;       /* others of the dataset, for validation */
    uint64_t steps;           /* of the whole run */
    uint64_t steps_per_epoch; /* whole batches */
    uint64_t point_steps;     /* steps per point of the curve */
} mq_plan;

MQ_MUST_USE mq_code mq_plan_make(mq_plan *plan, const mq_manifest *m, uint64_t rows, mq_error *err);

/* Learning rate of a step. */
float mq_plan_rate(const mq_plan *plan, const mq_manifest *m, uint64_t step);

/* params: of the whole model, borrowed. */
MQ_MUST_USE mq_code mq_state_init(mq_state *state, mq_arena *arena, mq_optimizer optimizer,
                                  bool keeps_best, const mq_state_param *params, size_t param_count,
                                  mq_error *err);

/* The present weights are the best so far. */
void mq_state_keep_best(mq_state *state);

/* True when no step is left: the last one is done, or validation has ended the run. */
bool mq_state_is_over(const mq_state *state, const mq_plan *plan);

/* Step 0 of a manifest: weights are already set by the caller, the other vectors become 0. */
void mq_state_begin(mq_state *state, const mq_manifest *m);

/* --- update.c; pieces: unions of whole parameters, ascending --- */

/* For clip_norm: squares[p] of parameter p's gradient; 0 for one that is not in the pieces, and for
 * running moments. */
void mq_state_squares(const mq_state *state, const mq_recipe *r, const mq_tree_view *sum,
                      const mq_piece *pieces, size_t piece_count, mq_tree_scratch *scratch,
                      double *squares);

/* What all gradients are multiplied by, from the squares of all parameters. */
float mq_state_clip(const mq_recipe *r, const double *squares, size_t count);

/* One step: optimizer over the pieces with the sum of the view, in blocks; running moments become
 * that sum. The record is not touched. */
void mq_state_update(mq_state *state, const mq_recipe *r, const mq_plan *plan,
                     const mq_tree_view *sum, float scale, const mq_piece *pieces,
                     size_t piece_count, mq_tree_scratch *scratch);

/* --- state.c --- */

/* Moves the record past a step with these sums (over the whole batch). MQ_E_NUMERIC when the loss
 * is not finite, naming the step. Does not touch the chain. */
MQ_MUST_USE mq_code mq_state_count(mq_state *state, const mq_plan *plan, const mq_sums *step,
                                   mq_error *err);

/* True when record.step (after mq_state_count) is one where the chain gets a link. */
bool mq_state_is_link(const mq_state *state, const mq_plan *plan);
void mq_state_link(mq_state *state);

/* The link that the present weights would make: what a checkpoint shows. At a link step, the link.
 */
void mq_state_chain_hex(const mq_state *state, const mq_plan *plan, char out[MQ_SHA256_HEX]);

void mq_state_weights_hex(const mq_state *state, char out[MQ_SHA256_HEX]);

/* Digest of step, chain and vectors: equal states have equal ones. */
void mq_state_digest(const mq_state *state, uint8_t out[MQ_SHA256_BYTES]);

/* Appends a checkpoint / takes one over. mq_state_load: MQ_E_CONFLICT when it belongs to another
 * manifest, MQ_E_FORMAT when it does not fit the model. */
MQ_MUST_USE mq_code mq_state_save(const mq_state *state, const mq_manifest *m, mq_buf *out,
                                  mq_error *err);
MQ_MUST_USE mq_code mq_state_load(mq_state *state, const mq_manifest *m, mq_span bytes,
                                  mq_error *err);

#endif
