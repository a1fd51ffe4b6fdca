/* A private redis-server for a test: own temporary directory, Unix socket, durable by default. It
 * dies with the test, whatever ends it. Include after cmocka.h; link with hiredis.
 *
 *     mq_test_redis redis;
 *     mq_test_redis_init(&redis);                 makes the directory
 *     mq_test_redis_start(&redis, NULL);          waits until it answers
 *     ... redis.url, redis.socket, redis.pid ...
 *     mq_test_redis_kill(&redis);                 SIGKILL; start again to recover from its log
 *     mq_test_redis_release(&redis);              kills it and removes the directory */
#ifndef MQ_TEST_REDIS_H
#define MQ_TEST_REDIS_H

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <hiredis/hiredis.h>

#include "shared/base/clock.h"
#include "shared/store/aof.h"

enum { MQ_TEST_REDIS_START_MS = 60000, MQ_TEST_REDIS_MAX = 8 };

typedef struct mq_test_redis {
    pid_t pid; /* 0 = not running */
    char dir[80];
    char socket[104];
    char url[112]; /* "unix:<socket>", for mq_store_redis_new and mq_blobs_new */
} mq_test_redis;

/* Servers of this process, for the exit handler. */
static mq_test_redis *mq_test_redis_all[MQ_TEST_REDIS_MAX];

/* What a server writes to its disk must survive kill -9: that is what tests are about. */
static const char mq_test_redis_durable[] = "port 0\n"
                                            "appendonly yes\n"
                                            "appendfsync always\n"
                                            "no-appendfsync-on-rewrite no\n"
                                            "aof-load-truncated no\n"
                                            "save \"\"\n"
                                            "maxmemory-policy noeviction\n"
                                            "lazyfree-lazy-expire yes\n";

static inline void mq_test_redis_kill(mq_test_redis *redis)
{
    if (redis->pid > 0) {
        kill(redis->pid, SIGKILL);
        waitpid(redis->pid, NULL, 0);
        redis->pid = 0;
    }
}

static inline int mq_test_redis_remove(const char *path, const struct stat *st, int flag,
                                       struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static inline void mq_test_redis_release(mq_test_redis *redis)
{
    mq_test_redis_kill(redis);
    if (redis->dir[0] != '\0') {
        nftw(redis->dir, mq_test_redis_remove, 16, FTW_DEPTH | FTW_PHYS);
        redis->dir[0] = '\0';
    }
    for (int i = 0; i < MQ_TEST_REDIS_MAX; i++) {
        if (mq_test_redis_all[i] == redis) {
            mq_test_redis_all[i] = NULL;
        }
    }
}

static inline void mq_test_redis_at_exit(void)
{
    for (int i = 0; i < MQ_TEST_REDIS_MAX; i++) {
        if (mq_test_redis_all[i] != NULL) {
            mq_test_redis_release(mq_test_redis_all[i]);
        }
    }
}

/* Storage must live until release. */
static inline void mq_test_redis_init(mq_test_redis *redis)
{
    static int has_handler = 0;
    if (!has_handler) {
        has_handler = 1;
        atexit(mq_test_redis_at_exit);
    }
    memset(redis, 0, sizeof *redis);
    const char *tmp = getenv("TMPDIR");
    int len = snprintf(redis->dir, sizeof redis->dir, "%s/maasq-redis-XXXXXX",
                       tmp == NULL || tmp[0] == '\0' ? "/tmp" : tmp);
    if (len < 0 || (size_t)len >= sizeof redis->dir || mkdtemp(redis->dir) == NULL) {
        fprintf(stderr, "cannot make a temporary directory in TMPDIR (at most 60 bytes long)\n");
        exit(1);
    }
    snprintf(redis->socket, sizeof redis->socket, "%s/redis.sock", redis->dir);
    snprintf(redis->url, sizeof redis->url, "unix:%s", redis->socket);
    for (int i = 0; i < MQ_TEST_REDIS_MAX; i++) {
        if (mq_test_redis_all[i] == NULL) {
            mq_test_redis_all[i] = redis;
            return;
        }
    }
    fprintf(stderr, "a test may run %d servers at a time\n", MQ_TEST_REDIS_MAX);
    exit(1);
}

/* True once the server answers a PING, be it with a refusal of its access list. */
static inline int mq_test_redis_answers(const mq_test_redis *redis)
{
    struct timeval limit = {.tv_sec = 5};
    redisContext *c = redisConnectUnixWithTimeout(redis->socket, limit);
    int is_up = 0;
    if (c != NULL && c->err == 0 && redisSetTimeout(c, limit) == REDIS_OK) {
        redisReply *reply = redisCommand(c, "PING");
        if (reply != NULL) {
            is_up = reply->type != REDIS_REPLY_ERROR || strncmp(reply->str, "LOADING", 7) != 0;
            freeReplyObject(reply);
        }
    }
    if (c != NULL) {
        redisFree(c);
    }
    return is_up;
}

static inline void mq_test_redis_wait(mq_test_redis *redis)
{
    int64_t until_ms = mq_clock_mono_ms() + MQ_TEST_REDIS_START_MS;
    while (!mq_test_redis_answers(redis)) {
        int status;
        if (waitpid(redis->pid, &status, WNOHANG) == redis->pid || mq_clock_mono_ms() > until_ms) {
            fprintf(stderr, "redis-server does not start; its log:\n");
            char cat[160];
            snprintf(cat, sizeof cat, "tail -n 20 '%s/redis.log' >&2", redis->dir);
            (void)!system(cat);
            exit(1);
        }
        mq_clock_sleep_ms(5);
    }
}

/* Starts with a whole configuration text; socket and directory are added to it. */
static inline void mq_test_redis_start_with(mq_test_redis *redis, const char *config)
{
    char path[128];
    snprintf(path, sizeof path, "%s/redis.conf", redis->dir);
    FILE *f = fopen(path, "w");
    if (f == NULL) {
        perror(path);
        exit(1);
    }
    fprintf(f, "%s\nunixsocket %s\ndir %s\nlogfile %s/redis.log\ndaemonize no\n", config,
            redis->socket, redis->dir, redis->dir);
    fclose(f);
    unlink(redis->socket);
    mq_error err;
    if (mq_aof_repair(redis->dir, NULL, &err) != MQ_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    pid_t parent = getpid();
    redis->pid = fork();
    if (redis->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(127);
        }
        execlp("redis-server", "redis-server", path, (char *)NULL);
        _exit(127);
    }
    mq_test_redis_wait(redis);
}

/* Starts with the durable profile and more lines of configuration (NULL: none). What an earlier
 * server of the same directory had written is there again. */
static inline void mq_test_redis_start(mq_test_redis *redis, const char *more)
{
    char config[4096];
    snprintf(config, sizeof config, "%s%s", mq_test_redis_durable, more == NULL ? "" : more);
    mq_test_redis_start_with(redis, config);
}

#endif
