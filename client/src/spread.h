/* Questions and commands that are about the whole deployment: asked of every shard at once, their
 * answers made one (merge.h). A deployment of one shard never comes here. */
#ifndef MQ_CLIENT_SPREAD_H
#define MQ_CLIENT_SPREAD_H

#include "client/src/merge.h"

enum {
    MQ_SPREAD_PATIENCE_MS = 1500
}; /* a list waits no longer for a shard once another is there */

/* Asks all shards; those that have not answered in time are named in the answer's `missing`. Fails
 * when no shard answers, and when one refuses the question itself. *json: owned. */
int mq_spread_query(maasq_client *primary, uint32_t shards, const mq_msg_query *query,
                    int64_t timeout_ms, char **json, maasq_error *err);

/* True for commands that every shard obeys. */
bool mq_spread_is_wanted(const char *verb);

/* Sends the command to all shards and waits for all. When some fail, the error names them, and says
 * of the others what they did: such a command does no harm when it is given again. text, unless
 * NULL: owned, the counts of all shards together, or the first shard's text. */
int mq_spread_command(maasq_client *primary, uint32_t shards, const mq_msg_command *request,
                      int64_t timeout_ms, char **text, maasq_error *err);

#endif
