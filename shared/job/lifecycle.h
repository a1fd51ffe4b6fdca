/* The life of a job as a table: what may follow what. The rows are in lifecycle.def; everything
 * else (names, the check, the test, the diagram) comes from them. Pure. */
#ifndef MQ_JOB_LIFECYCLE_H
#define MQ_JOB_LIFECYCLE_H

#include "shared/base/span.h"

typedef enum mq_state {
#define MQ_STATE(symbol, text, is_terminal) MQ_STATE_##symbol,
#define MQ_EVENT(symbol, text)
#define MQ_STEP(from, event, to)
#include "shared/job/lifecycle.def"
#undef MQ_STATE
#undef MQ_EVENT
#undef MQ_STEP
    MQ_STATE_COUNT,
    MQ_STATE_REFUSED = MQ_STATE_COUNT
} mq_state;

typedef enum mq_event {
#define MQ_STATE(symbol, text, is_terminal)
#define MQ_EVENT(symbol, text) MQ_EVENT_##symbol,
#define MQ_STEP(from, event, to)
#include "shared/job/lifecycle.def"
#undef MQ_STATE
#undef MQ_EVENT
#undef MQ_STEP
    MQ_EVENT_COUNT
} mq_event;

/* State after `event`, or MQ_STATE_REFUSED when the table has no such step. */
mq_state mq_lifecycle_next(mq_state from, mq_event event);

bool mq_state_is_terminal(mq_state state);

/* Names as they travel and are stored; never NULL. */
const char *mq_state_name(mq_state state);
const char *mq_event_name(mq_event event);

/* State of a name, MQ_STATE_REFUSED when there is none. */
mq_state mq_state_parse(mq_span name);

#endif
