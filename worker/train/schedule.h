/* Schedules of the learning rate: a factor of lr for every step, a function of the manifest and the
 * step alone. With T steps after the warm-up and x = step / T:
 *
 *   constant    1
 *   cosine      (1 + cos(pi x)) / 2                                  Loshchilov and Hutter, 2017
 *   linear      1 - x
 *   step        gamma ^ floor(epoch / step_epochs)
 *   one-cycle   1/25 up to 1 by a cosine over 0.3 T, then down to 1/250000    Smith, 2018
 *
 * Before all but the last a warm-up of W steps may come: (step + 1) / W. */
#ifndef MQ_WORKER_TRAIN_SCHEDULE_H
#define MQ_WORKER_TRAIN_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum mq_schedule {
#define MQ_SCHEDULE(symbol, name, warms) MQ_SCHEDULE_##symbol,
#include "worker/train/schedule.def"
#undef MQ_SCHEDULE
    MQ_SCHEDULE_COUNT
} mq_schedule;

/* Its name in manifests. */
const char *mq_schedule_name(mq_schedule schedule);
bool mq_schedule_warms(mq_schedule schedule);

typedef struct mq_schedule_spec {
    mq_schedule schedule;
    uint32_t warmup_steps; /* less than the steps of the run, or all of them warm up */
    uint32_t step_epochs;  /* step: epochs between two falls, at least 1 */
    double gamma;          /* step: factor of each */
} mq_schedule_spec;

/* Factor for step 0..steps-1 of a run. */
double mq_schedule_factor(const mq_schedule_spec *spec, uint64_t step, uint64_t steps,
                          uint64_t steps_per_epoch);

#endif
