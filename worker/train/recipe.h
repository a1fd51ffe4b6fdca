/* The part of a train manifest that says how weights follow from losses: loss, optimizer, schedule,
 * clipping. Its JSON fields, all hashed:
 *
 * field            limit / default              meaning
 * loss             "cross-entropy", ...          loss.def
 * label_smoothing  0 <= . < 1, 0                cross-entropy only
 * class_weights    1..256 numbers 0..1000       a factor of the loss for each class; all 1
 * optimizer        "sgd", ...                   optimizer.def
 * lr               > 0, <= 100                  learning rate; the optimizer's default
 * momentum         0 <= . < 1, 0.9              sgd only
 * nesterov         false                        sgd only
 * beta1, beta2     0 <= . < 1, 0.9, 0.999       adam, adamw, lamb
 * rho              0 <= . < 1, 0.99             rmsprop
 * epsilon          1e-12..1                     all but sgd; the optimizer's default
 * weight_decay     0..1, 0                      see optimizer.h for what it does in each
 * schedule         "cosine", ...                schedule.def
 * warmup_steps     0..10^9, 0                   not with one-cycle
 * step_epochs      1..10000, 10                 step only
 * gamma            0..1, 0.1                    step only
 * clip_value       0..10^6, 0 = none            each element of the batch's gradient, into -v..v
 * clip_norm        0..10^6, 0 = none            L2 norm of the whole gradient, after clip_value
 *
 * A field that the chosen loss, optimizer or schedule does not have is refused, not ignored. */
#ifndef MQ_WORKER_TRAIN_RECIPE_H
#define MQ_WORKER_TRAIN_RECIPE_H

#include <jansson.h>

#include "worker/train/loss.h"
#include "worker/train/optimizer.h"
#include "worker/train/schedule.h"

typedef struct mq_recipe {
    mq_loss_spec loss;
    mq_optimizer optimizer;
    double lr, momentum, beta1, beta2, rho, epsilon, weight_decay;
    bool is_nesterov;
    mq_schedule_spec schedule;
    double clip_value, clip_norm; /* 0 = none */
} mq_recipe;

/* Names of its JSON fields, NULL at the end. */
extern const char *const mq_recipe_fields[];

/* Reads and checks the object's fields; others are left alone. MQ_E_ARG names the field. */
MQ_MUST_USE mq_code mq_recipe_read(mq_recipe *out, const json_t *o, mq_error *err);

/* Puts its fields into the object that is hashed: those of optimizer "sgd" with a cosine or
 * constant schedule always, any other only where it applies and does something. */
MQ_MUST_USE bool mq_recipe_write(const mq_recipe *r, json_t *o);

/* The numbers of step 0.. of a run. */
mq_opt_step mq_recipe_step(const mq_recipe *r, uint64_t step, uint64_t steps,
                           uint64_t steps_per_epoch);

#endif
