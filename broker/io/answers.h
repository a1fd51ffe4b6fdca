/* What the files that answer questions share. Private to broker/io. */
#ifndef MQ_BROKER_IO_ANSWERS_H
#define MQ_BROKER_IO_ANSWERS_H

#include "broker/io/broker.h"

/* Appends `"key":` with a comma in front where one is due (out ends in the object so far). */
void mq_json_key(mq_buf *out, const char *key);
void mq_json_comma(mq_buf *out);
void mq_json_text(mq_buf *out, const char *key, mq_span value);
void mq_json_int(mq_buf *out, const char *key, int64_t value);
void mq_json_bool(mq_buf *out, const char *key, bool value);
/* A JSON object as it came from a worker; null when it is not well-formed. */
void mq_json_raw(mq_buf *out, const char *key, mq_span object);

/* Rows that a list query wants: its limit, 100 when it names none, at most 1,000. */
uint32_t mq_answer_limit(const mq_msg_query *query);
void mq_answer_send(mq_broker *b, uint64_t conn, uint64_t rid, mq_code code, const char *text,
                    mq_buf *out);

/* answer_holds.c: why a job or a lane waits, "" for no reason; limits; tenants. */
const char *mq_hold_text(const mq_broker *b, const mq_hold_view *hold, char *out, size_t size);
void mq_answer_limits(mq_broker *b, const mq_msg_query *query, mq_buf *out);
void mq_answer_kinds(mq_broker *b, const mq_msg_query *query, mq_buf *out);
/* Rows of the answer `queues` for queues that are paused or drained and have no lane: no job waits.
 */
void mq_answer_idle_queues(const mq_broker *b, mq_buf *out);
/* Fields of status: how many jobs are held back by what, kinds in quarantine. */
void mq_status_holds(const mq_broker *b, const mq_core_stats *s, mq_buf *out);
void mq_answer_tenants(mq_broker *b, const mq_msg_query *query, mq_buf *out);

/* answer_registry.c: models, model, datasets, dataset, memo. MQ_E_UNSUPPORTED: not one of them. */
MQ_MUST_USE mq_code mq_answer_registry(mq_broker *b, const mq_msg_query *query, mq_buf *out,
                                       mq_error *err);

/* answer_jobs.c: jobs, job. False: not one of them. Answers itself, now or when the store has. */
bool mq_answer_jobs(mq_broker *b, uint64_t conn, const mq_msg_query *query);

#endif
