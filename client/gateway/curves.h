/* Curves of running trainings, kept from the progress that the broker tells: what the pages draw.
 * Bounded: a curve that is full drops every second point and takes only every second from then on.
 * Pure, one thread. */
#ifndef MQ_GATEWAY_CURVES_H
#define MQ_GATEWAY_CURVES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { MQ_CURVES_MAX = 6, MQ_CURVE_POINTS_MAX = 240, MQ_CURVE_TEXT_SIZE = 130 };

typedef struct mq_curve_point {
    double step, loss, accuracy; /* accuracy: NAN when not told */
} mq_curve_point;

typedef struct mq_curve {
    char job[32]; /* "" = free */
    char model[MQ_CURVE_TEXT_SIZE];
    bool is_running;
    bool is_final; /* the whole curve, as it stands with the version that came out */
    uint64_t seen; /* round of mq_curves_add in which it last ran */
    uint32_t count;
    uint32_t stride, skipped; /* one point in `stride` is kept */
    mq_curve_point points[MQ_CURVE_POINTS_MAX];
    mq_curve_point last; /* the newest, whether kept or not */
} mq_curve;

typedef struct mq_curves {
    uint64_t round;
    mq_curve curves[MQ_CURVES_MAX];
} mq_curves;

/* jobs: the broker's list of jobs. Every leased one whose progress has a step and a loss adds a
 * point; curves whose job is not in it are not running any more and give way to new ones. */
void mq_curves_add(mq_curves *curves, const json_t *jobs);

/* models: the broker's list of models. The curve that is kept with the newest version is taken
 * over, whole, once its training does not run any more: also that of a training which nobody
 * watched. */
void mq_curves_recall(mq_curves *curves, const json_t *models);

/* [{"job","model","running","points":[[step,loss,accuracy|null],...]}], newest first. Owned. */
json_t *mq_curves_json(const mq_curves *curves);

#endif
