/* Inside worker/core: what happens to one job. Callers outside use session.h. */
#ifndef MQ_WORKER_CORE_JOB_H
#define MQ_WORKER_CORE_JOB_H

#include "worker/core/session.h"

/* Appends an action of this type, to be filled in by the caller. */
mq_ws_action *mq_ws_put(mq_ws_actions *out, mq_ws_action_type type);

/* How many shards there are: links for the new ones begin. */
void mq_ws_talks(mq_worker_session *s, uint64_t shards);

/* Lending of slots to several shards: computes what each is to be told; a job came from the shard
 * at hand; it was told free_told, `before` being what it could still use; its beat was answered;
 * its link is gone. */
void mq_ws_lend(mq_worker_session *s, int64_t now_ms);
void mq_ws_lend_job(mq_worker_session *s, int64_t now_ms);
void mq_ws_lend_told(mq_worker_session *s, uint64_t before, int64_t now_ms);
void mq_ws_lend_back(mq_worker_session *s, uint64_t seq, uint64_t reserved);
void mq_ws_lend_lost(mq_worker_session *s);

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

/* Every change of a job's state, but for its entry. */
void mq_ws_job_set(mq_worker_session *s, uint32_t index, mq_ws_state state);
/* It has ended for the reason it was stopped for; its slot is no longer at work on it. */
void mq_ws_job_stopped(mq_worker_session *s, uint32_t index, mq_ws_actions *out);
/* Ends the job: it waits for its verdict from now on. */
void mq_ws_job_end(mq_worker_session *s, uint32_t index, mq_ws_class class, mq_code code,
                   mq_span text, size_t kept_bytes);

/* Short jobs behind the one that a slot runs (hand.c). */
void mq_ws_hand_out(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);
/* The slot's own job is over: the next one of those it was given runs now. False: there is none. */
bool mq_ws_hand_next(mq_worker_session *s, uint32_t slot, int64_t now_ms, mq_ws_actions *out);
/* The slot is dead: what it was given and has not begun waits again. */
void mq_ws_hand_back(mq_worker_session *s, uint32_t slot, mq_ws_actions *out);
void mq_ws_hand_recall(mq_worker_session *s, uint32_t index, mq_ws_actions *out);
void mq_ws_hand_timers(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);
int64_t mq_ws_hand_deadline(const mq_worker_session *s, int64_t at_ms);

/* Due cancels and kills; results to send; waiting jobs into idle slots; the drain's part. */
void mq_ws_jobs_timers(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);
void mq_ws_jobs_send(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);
void mq_ws_jobs_start(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);
void mq_ws_jobs_drain(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);

#endif
