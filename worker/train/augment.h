/* Augmentation of images: each row of the data changed a little, differently in every epoch, as a
 * pure function of (seed, row of the dataset, epoch): whoever loads a row gets the same numbers.
 * Its JSON fields, all hashed, for data whose rows are [height, width] or [channels, height,
 * width]:
 *
 * field   limit / default     meaning, in this order
 * crop    0..32, 0            cut to n rows and columns less at a drawn place, n drawn from
 * 0..crop, and stretched back (each place takes its nearest one) shift   0..32, 0            moved
 * by -shift..shift rows and columns; what comes in is 0 flip    false               mirrored left
 * to right, every second time
 *
 * Only training sees it; validation and evaluation take rows as they are. */
#ifndef MQ_WORKER_TRAIN_AUGMENT_H
#define MQ_WORKER_TRAIN_AUGMENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"
#include "shared/tensor/tensor.h"

/* All zero: rows stay as they are. */
typedef struct mq_augment {
    uint32_t crop, shift;
    bool flip;
} mq_augment;

bool mq_augment_is_on(const mq_augment *a);

/* MQ_E_ARG names the field. */
MQ_MUST_USE mq_code mq_augment_read(mq_augment *out, const json_t *o, mq_error *err);
MQ_MUST_USE bool mq_augment_write(const mq_augment *a, json_t *o);

/* MQ_E_ARG when rows of this shape are no images, or too small for crop and shift. */
MQ_MUST_USE mq_code mq_augment_check(const mq_augment *a, const mq_shape *row, mq_error *err);

/* Changes x, a row of the shape that was checked; own: room for as many floats. */
void mq_augment_row(const mq_augment *a, const mq_shape *shape, uint64_t seed, uint64_t row,
                    uint32_t epoch, float *x, float *own);

#endif
