/* Recurring jobs: when they are due. The registry of the core holds them (core/cron.c); here their
 * schedules are read and their times computed, and the core is told when one has come. Private to
 * broker/io. */
#ifndef MQ_BROKER_IO_CRON_H
#define MQ_BROKER_IO_CRON_H

#include "broker/io/broker.h"

enum {
    MQ_CRONS_MAX = 1024,
    MQ_CRON_ZONES_MAX = 64,     /* different time zones in use */
    MQ_CRON_LATE_S = 60,        /* a firing this late is no missed one */
    MQ_CRON_BODY_MAX = 32768,   /* bytes of a recurring job's body */
    MQ_CRON_FIRES_PER_TURN = 64 /* made up for, of `--missed all` */
};

/* Verbs "cron-add" (name, schedule, zone, missed: skip | once | all, kind, queue, model, priority
 * and a first rule, more rules (cron_rules.h); body), "cron-remove", "cron-pause", "cron-resume"
 * (name). False: another verb. */
bool mq_cron_command(mq_broker *b, uint64_t conn, const mq_msg_command *command, mq_span body);

/* Query "cron": all, or one by name with its next `limit` times (at most 100). */
bool mq_cron_query(mq_broker *b, uint64_t conn, const mq_msg_query *query);

/* Once a second: what is due is fired. */
void mq_cron_tick(mq_broker *b);
void mq_cron_release(mq_broker *b);

#endif
