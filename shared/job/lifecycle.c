/* The life-cycle table built from lifecycle.def. It must not know who asks for a step or why. */
#include "shared/job/lifecycle.h"

#include "shared/base/assert.h"

/* One row of the table: 1 + the state after the step, so that a missing step reads 0. */
static const uint8_t next_state[MQ_STATE_COUNT][MQ_EVENT_COUNT] = {
#define MQ_STATE(symbol, text, is_terminal)
#define MQ_EVENT(symbol, text)
#define MQ_STEP(from, event, to) [MQ_STATE_##from][MQ_EVENT_##event] = (uint8_t)MQ_STATE_##to + 1,
#include "shared/job/lifecycle.def"
#undef MQ_STATE
#undef MQ_EVENT
#undef MQ_STEP
};

static const mq_span states[MQ_STATE_COUNT] = {
#define MQ_STATE(symbol, text, is_terminal)                                                        \
    [MQ_STATE_##symbol] = {(const uint8_t *)(text), sizeof(text) - 1},
#define MQ_EVENT(symbol, text)
#define MQ_STEP(from, event, to)
#include "shared/job/lifecycle.def"
#undef MQ_STATE
#undef MQ_EVENT
#undef MQ_STEP
};

static const char *const events[MQ_EVENT_COUNT] = {
#define MQ_STATE(symbol, text, is_terminal)
#define MQ_EVENT(symbol, text) [MQ_EVENT_##symbol] = text,
#define MQ_STEP(from, event, to)
#include "shared/job/lifecycle.def"
#undef MQ_STATE
#undef MQ_EVENT
#undef MQ_STEP
};

mq_state mq_lifecycle_next(mq_state from, mq_event event)
{
    MQ_ASSERT((unsigned)from < MQ_STATE_COUNT);
    MQ_ASSERT((unsigned)event < MQ_EVENT_COUNT);
    uint8_t next = next_state[from][event];
    return next == 0 ? MQ_STATE_REFUSED : (mq_state)(next - 1);
}

const char *mq_state_name(mq_state state)
{
    return (unsigned)state < MQ_STATE_COUNT ? (const char *)states[state].data : "refused";
}

mq_span mq_state_text(mq_state state)
{
    return (unsigned)state < MQ_STATE_COUNT ? states[state] : mq_str("refused");
}

const char *mq_event_name(mq_event event)
{
    return (unsigned)event < MQ_EVENT_COUNT ? events[event] : "unknown";
}

mq_state mq_state_parse(mq_span name)
{
    for (unsigned i = 0; i < MQ_STATE_COUNT; i++) {
        if (mq_span_is(name, (const char *)states[i].data)) {
            return (mq_state)i;
        }
    }
    return MQ_STATE_REFUSED;
}
