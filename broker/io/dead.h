/* What operators do with dead letters in bulk, and their retention. One list of ids is read from
 * the store, then each goes through the core like an operator's single command; the answer counts
 * those whose change is stored. Private to broker/io. */
#ifndef MQ_BROKER_IO_DEAD_H
#define MQ_BROKER_IO_DEAD_H

#include "broker/io/broker.h"

enum {
    MQ_BULKS_MAX = 4, /* bulk actions under way */
    MQ_BULK_IDS_MAX =
        100000,          /* of one action; more stay for the next one and are counted as left */
    MQ_BULK_WINDOW = 64, /* jobs of one action under way in the core */
    MQ_DEAD_GROUPS_MAX = 1000, /* causes told apart in one answer; more go into "others" */
};

/* Connection of the broker itself: replies to it are mq_dead_replied. */
#define MQ_CONN_SELF UINT64_MAX

/* Verbs "retry-all" and "purge", args: filter text ("" = all). False: another verb. */
bool mq_dead_command(mq_broker *b, uint64_t conn, const mq_msg_command *command);

/* Query "dead": groups by fingerprint; filter as for jobs. False: another question. */
bool mq_dead_query(mq_broker *b, uint64_t conn, const mq_msg_query *query);

/* The core's answer to a command of mq_conn_self. */
void mq_dead_replied(mq_broker *b, uint64_t rid, mq_span verdict);

/* Feeds the core, answers what is done, starts the sweep when it is due. */
void mq_dead_tick(mq_broker *b);
void mq_dead_release(mq_broker *b);

#endif
