/* The processes of a private system and how they get ready, one depending on the other:
 *
 *     redis-state, redis-blobs -> function library -> broker -> workers -> gateway
 *
 * `maasq up` (up.c) supervises them then. */
#ifndef MQ_CLI_LAUNCH_H
#define MQ_CLI_LAUNCH_H

#include <jansson.h>

#include "client/cli/supervise.h"

enum { MQ_LAUNCH_WORKER_ARGS_MAX = 24 };

typedef struct mq_launch {
    char dir[MQ_SYSTEM_DIR_MAX + 1];
    char bin[512];
    int64_t workers, slots, port, gateway_port;
    int64_t brokers, shards;                            /* shards: 0 = as the deployment is */
    const char *worker_args[MQ_LAUNCH_WORKER_ARGS_MAX]; /* users' own kinds; borrowed */
    int worker_arg_count;
    bool is_default_dir;
    int lock_fd;
    mq_family family;
    mq_member *broker;
    mq_member *gateway;
    int broker_front_arg;          /* index of the front endpoint in the broker's arguments */
    int gateway_listen_arg;        /* likewise */
    char front[MQ_SYSTEM_URL_MAX]; /* the bound one */
    char gateway_url[64];
    int64_t started_ms;
} mq_launch;

/* Makes the folders of u->dir and takes its lock. MQ_E_EXISTS when a system runs there. */
MQ_MUST_USE mq_code mq_launch_prepare(mq_launch *u, mq_error *err);

/* Starts everything and waits until it is ready, each step at most a minute; writes maasq.json.
 * After a failure the last lines of the culprit's log are on standard error; stop the family. */
MQ_MUST_USE mq_code mq_launch_start(mq_launch *u, mq_error *err);

/* What maasq.json says (owned by the caller), and writing it. */
json_t *mq_launch_json(const mq_launch *u);
MQ_MUST_USE mq_code mq_launch_write(const mq_launch *u, mq_error *err);

/* Ends what a killed supervisor left in dir: SIGTERM, after ten seconds SIGKILL; removes
 * maasq.json. */
void mq_launch_end_leftovers(const char *dir);

/* Removes maasq.json and the endpoints. */
void mq_launch_forget(const char *dir);

#endif
