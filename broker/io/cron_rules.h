/* Rules of a recurring job's runs: what `job submit` may say of a job, as words with a blank
 * between them: "alone tenant=acme key=stripe need=avx2,gpu memory=1000000 attempts=3 backoff=500
 * backoff-max=60000 run-limit=3600000 ttl=60000 keep=86400000"; all times in ms. Each word may be
 * left out and comes at most once. Private to broker/io. */
#ifndef MQ_BROKER_IO_CRON_RULES_H
#define MQ_BROKER_IO_CRON_RULES_H

#include "shared/base/error.h"
#include "shared/wire/messages.h"

enum { MQ_CRON_RULES_BYTES_MAX = 1024 };

typedef struct mq_cron_rules {
    bool is_alone; /* a time goes by while the job before still lives */
    mq_span tenant, limit_key, needs;
    uint64_t memory_bytes, attempts_max, backoff_ms, backoff_max_ms, max_run_ms, ttl_ms, keep_ms;
} mq_cron_rules;

/* MQ_E_ARG names the word that cannot be read. Spans borrow from text. */
MQ_MUST_USE mq_code mq_cron_rules_read(mq_span text, mq_cron_rules *out, mq_error *err);

/* Sets the fields of a submit that the rules are about; the core checks them. */
void mq_cron_rules_set(const mq_cron_rules *rules, mq_msg_submit_job *item);

#endif
