/* Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): every page
 * listens to one stream of frames. A client that is slow gets the newest frame next, never a
 * backlog. */
#ifndef MQ_GATEWAY_EVENTS_H
#define MQ_GATEWAY_EVENTS_H

#include "client/gateway/gateway.h"

MQ_MUST_USE mq_code mq_events_new(mq_events **out, mq_gateway *gateway, mq_error *err);

/* There is a new frame, or it is time for a heartbeat. Any thread. NULL is ignored. */
void mq_events_wake(mq_events *events);

/* Ends all streams; new ones are refused. */
void mq_events_close(mq_events *events);
uint32_t mq_events_count(mq_events *events);

/* After the server has stopped. */
void mq_events_free(mq_events *events);

#endif
