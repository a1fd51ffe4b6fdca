/* What the parts that the queue is made of can do by themselves on this machine: a bare ZeroMQ echo
 * through two ROUTERs, and a bare redis-server that syncs its log at each turn. */
#ifndef MQ_CLI_CEILING_H
#define MQ_CLI_CEILING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "shared/base/error.h"

/* DEALER -> ROUTER (tcp) | ROUTER -> DEALER (ipc): this process, and two of its own for broker and
 * worker, as the system has. */
typedef struct mq_zmq_echo {
    char dir[64];
    char front[128];
    pid_t broker, worker;
    void *context, *socket;
} mq_zmq_echo;

MQ_MUST_USE mq_code mq_zmq_echo_start(mq_zmq_echo *e, mq_error *err);
/* Sends `count` messages of `bytes`, `window` under way; *seconds they took, and their p50 in ms
 * when window is 1. */
MQ_MUST_USE mq_code mq_zmq_echo_run(mq_zmq_echo *e, int64_t count, int64_t window, size_t bytes,
                                    double *seconds, double *p50_ms, mq_error *err);
void mq_zmq_echo_stop(mq_zmq_echo *e);

/* p50 of handing a word to another process over a socketpair and getting it back: two wake-ups,
 * what keeping each job's handler in a process of its own costs at least. */
MQ_MUST_USE mq_code mq_wake_run(uint32_t count, double *p50_ms, mq_error *err);

/* A redis-server of its own in a temporary directory, appendfsync always. */
typedef struct mq_bare_redis {
    char dir[64];
    char socket[96];
    pid_t pid;
} mq_bare_redis;

MQ_MUST_USE mq_code mq_bare_redis_start(mq_bare_redis *r, mq_error *err);
void mq_bare_redis_stop(mq_bare_redis *r);

/* Jobs a second through the store's own commit calls: created, put and finished, `batch` record
 * writes in a call at most, two calls under way. */
MQ_MUST_USE mq_code mq_bare_redis_commits(mq_bare_redis *r, uint32_t jobs, uint32_t batch,
                                          double *rate, mq_error *err);
/* The same bytes as plain pipelined HSETs of `batch` fields. */
MQ_MUST_USE mq_code mq_bare_redis_hsets(mq_bare_redis *r, uint32_t jobs, uint32_t batch,
                                        double *rate, mq_error *err);
/* Jobs a second when each is two values of `bytes`, `window` under way; window 1: *p50_ms of one.
 */
MQ_MUST_USE mq_code mq_bare_redis_values(mq_bare_redis *r, uint32_t jobs, uint32_t window,
                                         size_t bytes, double *rate, double *p50_ms, mq_error *err);

#endif
