/* Validation: rows that no step trains on, scored at the end of every epoch, which decide which
 * epoch's weights are published and whether training ends early. Its JSON fields, all hashed:
 *
 * field       limit / default         meaning
 * validation  0 < . <= 0.5, or text   a share of data's rows, held out; or another dataset
 * patience    1..10000, none          stop after so many epochs without a better loss
 * min_delta   0..10^6, 0              by how much a loss must fall to count as better for patience
 * last        false                   publish the last epoch's weights, not the best ones
 *
 * The last three need the first. Which rows are held out is a function of (seed, number of rows):
 * the first ones of a keyed permutation. The score is the mean of the recipe's loss, nets being in
 * the form that serves (running moments, no Dropout), by the kernels of training, in the order of
 * rows: a function of the weights alone. Every member scores for itself and comes to the same end,
 * so there is nothing to agree on; in a pipeline the first one scores, where the state is whole. */
#ifndef MQ_WORKER_TRAIN_VALIDATION_H
#define MQ_WORKER_TRAIN_VALIDATION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"

enum { MQ_VALIDATION_REF_SIZE = 129 };

/* All zero: none. */
typedef struct mq_validation {
    double share;                      /* of data's rows; 0 = none */
    char data[MQ_VALIDATION_REF_SIZE]; /* "" = none */
    uint32_t patience;                 /* 0 = never stop */
    double min_delta;
    bool is_last;
} mq_validation;

bool mq_validation_is_on(const mq_validation *v);

/* Rows of the dataset that are held out, at least one when there is a share. */
uint64_t mq_validation_held(const mq_validation *v, uint64_t rows);

/* MQ_E_ARG names the field. */
MQ_MUST_USE mq_code mq_validation_read(mq_validation *out, const json_t *o, mq_error *err);

/* Puts its fields into the object that is hashed, when there is validation. */
MQ_MUST_USE bool mq_validation_write(const mq_validation *v, json_t *o);

/* What a run has seen of it; part of the state's record, so without padding. */
typedef struct mq_validated {
    double loss, accuracy;           /* after the last epoch; accuracy is 0 for values */
    double best_loss, best_accuracy; /* of the epoch whose weights are the best */
    uint64_t best_step;              /* 0 = no epoch has ended */
    double patience_loss;            /* what the next one must beat by min_delta */
    uint32_t waited;                 /* epochs since that was reached */
    uint32_t is_stopped;
} mq_validated;

/* Takes in an epoch's score. True when it is the best so far. */
bool mq_validated_take(mq_validated *seen, const mq_validation *v, uint64_t step, double loss,
                       double accuracy);

#endif
