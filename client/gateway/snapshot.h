/* What the pages show: the broker asked once a second, for all of them together. A frame is one
 * such answer; it never changes and is shared by counting references. */
#ifndef MQ_GATEWAY_SNAPSHOT_H
#define MQ_GATEWAY_SNAPSHOT_H

#include <stdint.h>

#include "client/gateway/gateway.h"

enum {
    MQ_SNAPSHOT_EVERY_MS = 1000,
    MQ_SNAPSHOT_ASK_MS = 2000, /* for one of its questions */
    MQ_SNAPSHOT_SLOW_MS =
        10000, /* lists that rarely change: when they seem to have, else that often */
};

/* Members of root: at_ms, ok, error (text of the last failure), gateway, and the broker's answers
 * (fields: broker/README.md), each null until it came once: status, events, workers, queues,
 * running (jobs that are leased), jobs (the newest), models, datasets, dead (jobs). curves as
 * curves.h says. Of what a version's meta holds, the long parts (curve, report) are left out. */
typedef struct mq_frame {
    atomic_uint references;
    uint64_t number; /* 1, 2, ... */
    bool is_ok;      /* the broker answered */
    json_t *root;    /* read-only */
    char *text;      /* root as compact JSON; NUL-terminated */
    size_t len;
} mq_frame;

MQ_MUST_USE mq_code mq_snapshot_new(mq_snapshot **out, mq_gateway *gateway, mq_error *err);

/* Stops asking; the last frame stays. Free: frames that are still referenced stay. NULL is ignored.
 */
void mq_snapshot_stop(mq_snapshot *snapshot);
void mq_snapshot_free(mq_snapshot *snapshot);

/* The latest frame, never NULL, with a reference for the caller (mq_frame_release). Any thread. */
mq_frame *mq_snapshot_take(mq_snapshot *snapshot);
uint64_t mq_snapshot_number(mq_snapshot *snapshot);
void mq_frame_release(mq_frame *frame);

#endif
