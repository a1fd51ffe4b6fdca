/* Prometheus exposition text (version 0.0.4) from a snapshot. Pure.
 * https://prometheus.io/docs/instrumenting/exposition_formats/ */
#ifndef MQ_GATEWAY_METRICS_H
#define MQ_GATEWAY_METRICS_H

#include <jansson.h>

#include "shared/base/buf.h"

/* What the gateway counts itself. */
typedef struct mq_metrics_gateway {
    bool is_ok; /* the broker answered the last time */
    uint32_t streams, waiting;
    uint64_t answers[6]; /* by status / 100 */
} mq_metrics_gateway;

/* Appends all families; what the snapshot does not have is left out. */
void mq_metrics_write(const json_t *root, const mq_metrics_gateway *own, mq_buf *out);

#endif
