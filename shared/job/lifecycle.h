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

/* A bit for each state that nothing follows. */
enum {
    MQ_STATES_TERMINAL = 0
#define MQ_STATE(symbol, text, is_terminal) | ((is_terminal) ? 1 << MQ_STATE_##symbol : 0)
#define MQ_EVENT(symbol, text)
#define MQ_STEP(from, event, to)
#include "shared/job/lifecycle.def"
#undef MQ_STATE
#undef MQ_EVENT
#undef MQ_STEP
};

static inline bool mq_state_is_terminal(mq_state state)
{
    return (MQ_STATES_TERMINAL >> (unsigned)state & 1) != 0; /* REFUSED has no bit */
}

/* Names as they travel and are stored; never NULL. */
const char *mq_state_name(mq_state state);
mq_span mq_state_text(mq_state state); /* the same, its length known */
const char *mq_event_name(mq_event event);

/* State of a name, MQ_STATE_REFUSED when there is none. */
mq_state mq_state_parse(mq_span name);

#endif
