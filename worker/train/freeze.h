/* Layers that stay as they are: a list of patterns over names of initializers. A frozen tensor is a
 * constant of the compiled net: it has no gradient, no optimizer state and no part in what members
 * exchange, and its bytes in the published model are those it came with. A normalization whose
 * running moments are frozen normalizes with them, as it does when serving; a frozen scale or shift
 * alone does not change what moments it takes. Dropout has no weights and draws all the same.
 *
 * Patterns: '*' is any run of characters, '?' any one; the whole name must fit. */
#ifndef MQ_WORKER_TRAIN_FREEZE_H
#define MQ_WORKER_TRAIN_FREEZE_H

#include <jansson.h>

#include "worker/onnx/model.h"

enum { MQ_FREEZE_MAX = 32, MQ_FREEZE_PATTERN_SIZE = 128 };

/* All zero: nothing is frozen. Ascending and without repeats, so that order does not matter. */
typedef struct mq_freeze {
    uint32_t count;
    char patterns[MQ_FREEZE_MAX][MQ_FREEZE_PATTERN_SIZE];
} mq_freeze;

/* Reads the field "freeze": a list of 1..32 texts of 1..127 bytes. MQ_E_ARG names the field. */
MQ_MUST_USE mq_code mq_freeze_read(mq_freeze *out, const json_t *o, mq_error *err);

/* Puts the list into the object that is hashed, unless it is empty. */
MQ_MUST_USE bool mq_freeze_write(const mq_freeze *freeze, json_t *o);

/* freeze may be NULL. */
bool mq_freeze_fits(const mq_freeze *freeze, const char *name);

/* MQ_E_ARG for a pattern that fits no trainable initializer of the model, naming some that it has,
 * and when nothing is left to train. */
MQ_MUST_USE mq_code mq_freeze_check(const mq_freeze *freeze, const mq_model *model, mq_error *err);

#endif
