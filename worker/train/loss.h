/* Losses: from the outputs of a batch and its labels to a sum over rows and its derivative. z: a
 * row's outputs, y: its label, C: their number. Each row is computed by itself in a fixed order.
 *
 *   cross-entropy  - sum_c t_c log softmax(z)_c, t = (1 - s) onehot(y) + s / C with label smoothing
 * s binary         log(1 + exp(-u)), u = z for y = 1 and -z for y = 0; one output hinge max(0, 1 -
 * z_y + max_{c != y} z_c)   Crammer and Singer, 2001; with one output max(0, 1 - u), u as above mse
 * (z - y)^2; one output l1             |z - y|; one output
 *
 * The first three may have a weight for each class, by which a row's loss is multiplied. */
#ifndef MQ_WORKER_TRAIN_LOSS_H
#define MQ_WORKER_TRAIN_LOSS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"

typedef enum mq_loss {
#define MQ_LOSS(symbol, id, name, values, softmax) MQ_LOSS_##symbol,
#include "worker/train/loss.def"
#undef MQ_LOSS
    MQ_LOSS_COUNT
} mq_loss;

enum { MQ_LOSS_WEIGHTS_MAX = 256 };

typedef struct mq_loss_row {
    const char *name;
    bool is_value;       /* targets are values */
    const char *softmax; /* cut off the graph's end, "" = nothing */
} mq_loss_row;

const mq_loss_row *mq_loss_of(mq_loss loss);

/* All zero is plain cross-entropy. */
typedef struct mq_loss_spec {
    mq_loss loss;
    float smoothing;       /* cross-entropy: 0 <= . < 1 */
    uint32_t weight_count; /* 0 = all 1, else as many as classes */
    float weights[MQ_LOSS_WEIGHTS_MAX];
} mq_loss_spec;

/* A row's label: which of the two is meant follows from the loss. */
typedef union mq_label {
    int32_t class_number;
    float value;
} mq_label;

/* Sums over rows. */
typedef struct mq_loss_sums {
    double loss;
    int64_t correct; /* rows whose class is right; 0 for values */
} mq_loss_sums;

/* Outputs a row that a loss can work with; MQ_E_ARG says what it needs. */
MQ_MUST_USE mq_code mq_loss_check_width(const mq_loss_spec *spec, int64_t width, mq_error *err);

/* Labels of a batch: class numbers 0..classes-1 (0..1 with one output), finite values. MQ_E_ARG
 * names the row. */
MQ_MUST_USE mq_code mq_loss_check_labels(const mq_loss_spec *spec, const mq_label *labels,
                                         int64_t rows, int64_t width, mq_error *err);

/* d: rows x width, the derivative of the row's loss by its outputs. */
void mq_loss_rows(const mq_loss_spec *spec, const float *out, const mq_label *labels, int64_t rows,
                  int64_t width, float *d, mq_loss_sums *sums);

#endif
