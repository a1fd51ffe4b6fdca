/* Dropout while training (Srivastava and others, 2014; scaled so that serving needs nothing): what
 * a graph's Dropout becomes inside a net. Which elements fall is a function of the job's seed, the
 * step, the row's place in the batch, the layer and the element alone (philox.h), so it does not
 * depend on who computes the row, and backward draws the same ones again instead of keeping them.
 */
#ifndef MQ_WORKER_TRAIN_DROPOUT_H
#define MQ_WORKER_TRAIN_DROPOUT_H

#include "worker/ops/op.h"

/* What the numbers of one call are drawn for. */
typedef struct mq_draw {
    uint64_t seed, step;
    uint64_t first_row; /* of the batch */
} mq_draw;

typedef struct mq_dropout_attrs {
    float ratio;         /* 0 <= . < 1 of the elements fall */
    uint32_t layer;      /* number of the Dropout in its graph */
    const mq_draw *draw; /* borrowed; set before each call */
} mq_dropout_attrs;

/* x [rows, ...] -> y; attrs: mq_dropout_attrs. */
extern const mq_op mq_op_training_dropout;

#endif
