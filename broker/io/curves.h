/* Progress of running jobs, in memory: for each job a list of at most MQ_CURVE_POINTS objects in
 * the order they came. When a list is full every second point goes, so that it always spans the
 * whole run: a training's loss curve. A hint, lost with the broker; the result holds the curve that
 * is kept, and a job's last log lines are kept with its end (core/note.c). */
#ifndef MQ_BROKER_IO_CURVES_H
#define MQ_BROKER_IO_CURVES_H

#include "shared/base/error.h"
#include "shared/base/span.h"

enum {
    MQ_CURVES_MAX = 256,       /* jobs; the one heard of longest ago makes room */
    MQ_CURVE_POINTS = 256,     /* of one job */
    MQ_CURVE_POINT_MAX = 4096, /* bytes of one point */
    MQ_CURVE_LOG_LINES = 64,   /* log lines of one job */
};

typedef struct mq_curves mq_curves;

MQ_MUST_USE mq_code mq_curves_new(mq_curves **out, mq_error *err);
void mq_curves_free(mq_curves *curves);

/* Adds a point (a JSON object, unread) or a log line; either may be empty. Copies. */
void mq_curves_add(mq_curves *curves, mq_span id, mq_span point, mq_span log);

/* Latest point of a job, empty when none. Borrowed until the next add. */
mq_span mq_curves_last(const mq_curves *curves, mq_span id);

/* Points 0..n-1 (oldest first) and log lines; empty beyond the end. Borrowed until the next add. */
mq_span mq_curves_point(const mq_curves *curves, mq_span id, uint32_t index);
/* Log lines that ever came, also those that made room. */
uint64_t mq_curves_log_total(const mq_curves *curves, mq_span id);
mq_span mq_curves_log(const mq_curves *curves, mq_span id, uint32_t index);

#endif
