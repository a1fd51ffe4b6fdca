/* Inside worker/core: what happens to one job. Callers outside use session.h. */
#ifndef MQ_WORKER_CORE_JOB_H
#define MQ_WORKER_CORE_JOB_H

#include "worker/core/session.h"

/* Appends an action of this type, to be filled in by the caller. */
mq_ws_action *mq_ws_put(mq_ws_actions *out, mq_ws_action_type type);

/* Goes on to the next broker of the list and greets it. */
void mq_ws_next_broker(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);

/* Enters item number `item` of a JOB message; refuses it with a result of class return when there
 * is no room. A lease that is already here is the same message again. */
void mq_ws_job_accept(mq_worker_session *s, const mq_msg_job_item *it, uint32_t item,
                      int64_t now_ms, mq_ws_actions *out);

/* A verdict on a lease that is held. is_final: it answers a result ("ok" = committed); otherwise it
 * answers a beat or a registration ("ok" = renewed). */
void mq_ws_job_verdict(mq_worker_session *s, const mq_msg_held_verdict *v, bool is_final,
                       int64_t now_ms, mq_ws_actions *out);

/* Due cancels and kills; results to send; waiting jobs into idle slots; the drain's part. */
void mq_ws_jobs_timers(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);
void mq_ws_jobs_send(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);
void mq_ws_jobs_start(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);
void mq_ws_jobs_drain(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);

#endif
