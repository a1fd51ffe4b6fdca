/* A bare redis-server and what it does with the store's commits and with plain writes; see
 * ceiling.h. Knows no broker. */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cli/ceiling.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/math.h"
#include "shared/base/ulid.h"
#include "shared/store/store.h"

enum { START_MS = 30000, ANSWER_MS = 60000, RECORD = 250, BODY = 100 };

/* ---- the server ---- */

static _Noreturn void serve(const mq_bare_redis *r, pid_t parent)
{
    static char program[] = "redis-server", unixsocket[] = "--unixsocket", port[] = "--port",
                zero[] = "0", appendonly[] = "--appendonly", yes[] = "yes", dir[] = "--dir",
                appendfsync[] = "--appendfsync", always[] = "always", save[] = "--save",
                nothing[] = "", logfile[] = "--logfile", null[] = "/dev/null";
    char *argv[] = {program,
                    port,
                    zero,
                    unixsocket,
                    (char *)(uintptr_t)r->socket,
                    appendonly,
                    yes,
                    dir,
                    (char *)(uintptr_t)r->dir,
                    appendfsync,
                    always,
                    save,
                    nothing,
                    logfile,
                    null,
                    NULL};
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent) {
        (void)execvp(program, argv);
    }
    _exit(127);
}

static redisContext *connect_to(const mq_bare_redis *r)
{
    struct timeval limit = {.tv_sec = ANSWER_MS / 1000};
    redisContext *c = redisConnectUnixWithTimeout(r->socket, limit);
    if (c != NULL && (c->err != 0 || redisSetTimeout(c, limit) != REDIS_OK)) {
        redisFree(c);
        c = NULL;
    }
    return c;
}

mq_code mq_bare_redis_start(mq_bare_redis *r, mq_error *err)
{
    *r = (mq_bare_redis){0};
    (void)snprintf(r->dir, sizeof r->dir, "/tmp/maasq-redis-XXXXXX");
    if (mkdtemp(r->dir) == NULL) {
        return mq_fail(err, MQ_E_IO, "%s: %s", r->dir, strerror(errno));
    }
    (void)snprintf(r->socket, sizeof r->socket, "%s/redis.sock", r->dir);
    pid_t parent = getpid();
    r->pid = fork();
    if (r->pid == 0) {
        serve(r, parent);
    }
    int64_t until_ms = mq_clock_mono_ms() + START_MS;
    while (mq_clock_mono_ms() < until_ms) {
        redisContext *c = connect_to(r);
        redisReply *reply = c == NULL ? NULL : redisCommand(c, "PING");
        bool is_up = reply != NULL && reply->type == REDIS_REPLY_STATUS;
        freeReplyObject(reply);
        if (c != NULL) {
            redisFree(c);
        }
        if (is_up) {
            return MQ_OK;
        }
        (void)poll(NULL, 0, 10);
    }
    return mq_fail(err, MQ_E_IO, "redis-server does not start: is it installed?");
}

void mq_bare_redis_stop(mq_bare_redis *r)
{
    if (r->pid > 0) {
        (void)kill(r->pid, SIGKILL);
        (void)waitpid(r->pid, NULL, 0);
    }
    if (r->dir[0] != '\0') {
        mq_error err;
        if (mq_dir_remove(r->dir, &err) != MQ_OK) {
            (void)fprintf(stderr, "maasq: %s\n", err.text);
        }
    }
    *r = (mq_bare_redis){0};
}

/* ---- the store's commits ---- */

typedef struct replay {
    mq_store *store;
    uint32_t under_way, jobs, created, put, finished;
    uint64_t epoch, sequence;
    bool is_acquired, is_failed;
    char (*ids)[MQ_ULID_SIZE]; /* owned */
    uint8_t bytes[RECORD];
    mq_store_create creates[MQ_STORE_JOBS_MAX];
    mq_store_put puts[MQ_STORE_JOBS_MAX];
    mq_store_finish finishes[MQ_STORE_JOBS_MAX];
} replay;

static void on_owner(void *arg, mq_code code, const mq_store_owner *owner, const mq_error *err)
{
    replay *b = arg;
    (void)err;
    b->is_acquired = code == MQ_OK;
    b->is_failed = code != MQ_OK;
    b->epoch = code == MQ_OK ? owner->epoch : 0;
    b->sequence = code == MQ_OK ? owner->sequence : 0;
}

static void on_commit(void *arg, const mq_store_reply *reply)
{
    replay *b = arg;
    b->under_way--;
    b->is_failed = b->is_failed || reply->verdict != MQ_STORE_OK || reply->dup_count > 0;
}

/* Jobs that are created, older ones that are put, and yet older ones that end. */
static bool commit(replay *b, uint32_t each)
{
    mq_store_batch turn = {.epoch = b->epoch,
                           .sequence = ++b->sequence,
                           .creates = b->creates,
                           .puts = b->puts,
                           .finishes = b->finishes,
                           .event = mq_str("turn")};
    uint32_t may_finish = b->put, may_put = b->created;
    while (turn.create_count < each && b->created < b->jobs) {
        uint32_t i = b->created++;
        b->creates[turn.create_count++] =
            (mq_store_create){mq_span_of(b->ids[i], MQ_ULID_LEN), i, mq_span_of(b->bytes, RECORD),
                              mq_span_of(b->bytes, BODY)};
    }
    while (turn.put_count < each && b->put < may_put) {
        uint32_t i = b->put++;
        b->puts[turn.put_count++] =
            (mq_store_put){mq_span_of(b->ids[i], MQ_ULID_LEN), i, mq_span_of(b->bytes, RECORD)};
    }
    while (turn.finish_count < each && b->finished < may_finish) {
        uint32_t i = b->finished++;
        b->finishes[turn.finish_count++] =
            (mq_store_finish){.id = mq_span_of(b->ids[i], MQ_ULID_LEN),
                              .number = i,
                              .record = mq_span_of(b->bytes, RECORD),
                              .result = mq_span_of(b->bytes, BODY),
                              .retention_ms = 24 * 3600 * 1000};
    }
    mq_error err;
    b->under_way++;
    return b->store->ops->commit(b->store, &turn, on_commit, b, &err) == MQ_OK;
}

static void turn(mq_store *store)
{
    int fd = store->ops->fd(store);
    struct pollfd p = {.fd = fd, .events = fd < 0 ? 0 : store->ops->events(store)};
    int ready = poll(&p, fd < 0 ? 0 : 1, 50);
    store->ops->process(store, ready > 0 ? p.revents : 0, mq_clock_mono_ms());
}

static bool acquire(replay *b)
{
    int64_t until_ms = mq_clock_mono_ms() + ANSWER_MS;
    mq_error err;
    while (!b->store->ops->is_connected(b->store) && mq_clock_mono_ms() < until_ms) {
        turn(b->store);
    }
    if (b->store->ops->acquire(b->store, mq_str("bench"), mq_str("none"), 3600 * 1000, true, true,
                               mq_str(""), on_owner, b, &err) != MQ_OK) {
        return false;
    }
    while (!b->is_acquired && !b->is_failed && mq_clock_mono_ms() < until_ms) {
        turn(b->store);
    }
    return b->is_acquired;
}

/* Ids of this minute and the next ones, as a busy second spreads them. */
static void name_jobs(replay *b)
{
    int64_t now_ms = mq_clock_wall_ms();
    for (uint32_t i = 0; i < b->jobs; i++) {
        uint8_t random[10] = {0};
        memcpy(random, &i, sizeof i);
        int64_t salt = mq_clock_mono_ns();
        memcpy(random + sizeof i, &salt, 6);
        mq_ulid_make(now_ms + i / 50, random, b->ids[i]);
    }
}

mq_code mq_bare_redis_commits(mq_bare_redis *r, uint32_t jobs, uint32_t batch, double *rate,
                              mq_error *err)
{
    static replay b; /* one thread */
    char url[128];
    (void)snprintf(url, sizeof url, "unix:%s", r->socket);
    memset(&b, 0, sizeof b);
    b.jobs = jobs;
    b.ids = calloc(jobs, sizeof *b.ids);
    mq_code code = b.ids == NULL ? mq_fail(err, MQ_E_LIMIT, "no memory for %u ids", jobs)
                                 : mq_store_redis_new(&b.store, url, 0, err);
    if (code == MQ_OK && !acquire(&b)) {
        code = mq_fail(err, MQ_E_IO, "the bare redis-server gives no shard");
    }
    if (code == MQ_OK) {
        name_jobs(&b);
    }
    int64_t start_ns = mq_clock_mono_ns(), until_ms = mq_clock_mono_ms() + ANSWER_MS;
    while (code == MQ_OK && (b.finished < jobs || b.under_way > 0)) {
        while (b.under_way < MQ_STORE_INFLIGHT_MAX && b.finished < jobs && code == MQ_OK) {
            code = commit(&b, batch / 3) ? MQ_OK : mq_fail(err, MQ_E_IO, "commit not sent");
        }
        turn(b.store);
        if (b.is_failed || mq_clock_mono_ms() > until_ms) {
            code = mq_fail(err, MQ_E_IO, "the bare redis-server refused a commit");
        }
    }
    *rate = jobs / ((double)(mq_clock_mono_ns() - start_ns) / 1e9);
    if (b.store != NULL) {
        b.store->ops->free(b.store);
    }
    free(b.ids);
    return code;
}

/* ---- plain writes ---- */

static bool answer(redisContext *c)
{
    void *reply = NULL;
    bool is_ok =
        redisGetReply(c, &reply) == REDIS_OK && ((redisReply *)reply)->type != REDIS_REPLY_ERROR;
    if (reply != NULL) {
        freeReplyObject(reply);
    }
    return is_ok;
}

/* One HSET of the jobs from..to. */
static bool hset(redisContext *c, const char *key, char (*ids)[MQ_ULID_SIZE], uint32_t from,
                 uint32_t to, const uint8_t *bytes, size_t len)
{
    static const char *argv[2 + 2 * MQ_STORE_JOBS_MAX];
    static size_t lens[2 + 2 * MQ_STORE_JOBS_MAX];
    int argc = 2;
    argv[0] = "HSET";
    lens[0] = 4;
    argv[1] = key;
    lens[1] = strlen(key);
    for (uint32_t i = from; i < to; i++) {
        argv[argc] = ids[i];
        lens[argc++] = MQ_ULID_LEN;
        argv[argc] = (const char *)bytes;
        lens[argc++] = len;
    }
    return redisAppendCommandArgv(c, argc, argv, lens) == REDIS_OK;
}

mq_code mq_bare_redis_hsets(mq_bare_redis *r, uint32_t jobs, uint32_t batch, double *rate,
                            mq_error *err)
{
    static replay b; /* its ids and bytes */
    static const char *const keys[] = {"bare:live", "bare:req", "bare:done"};
    uint32_t each = batch / 3, under_way = 0;
    b = (replay){.jobs = jobs, .ids = calloc(jobs, sizeof *b.ids)};
    redisContext *c = b.ids == NULL ? NULL : connect_to(r);
    if (c == NULL) {
        free(b.ids);
        return mq_fail(err, MQ_E_IO, "no connection to the bare redis-server");
    }
    name_jobs(&b);
    bool is_ok = true;
    int64_t start_ns = mq_clock_mono_ns();
    for (uint32_t from = 0; (from < jobs || under_way > 0) && is_ok; from += each) {
        uint32_t to = from + each < jobs ? from + each : jobs;
        for (int i = 0; i < 3 && from < jobs && is_ok; i++) {
            is_ok = hset(c, keys[i], b.ids, from, to, b.bytes, i == 1 ? BODY : RECORD);
            under_way++;
        }
        for (uint32_t most = from < jobs ? 3 : 0; under_way > most && is_ok; under_way--) {
            is_ok = answer(c);
        }
    }
    *rate = jobs / ((double)(mq_clock_mono_ns() - start_ns) / 1e9);
    redisFree(c);
    free(b.ids);
    return is_ok ? MQ_OK : mq_fail(err, MQ_E_IO, "the bare redis-server refused a write");
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

mq_code mq_bare_redis_values(mq_bare_redis *r, uint32_t jobs, uint32_t window, size_t bytes,
                             double *rate, double *p50_ms, mq_error *err)
{
    uint8_t *body = calloc(1, bytes + 1);
    double *each = calloc(jobs, sizeof *each);
    redisContext *c = body == NULL || each == NULL ? NULL : connect_to(r);
    bool is_ok = c != NULL;
    uint32_t sent = 0, values = window == 1 ? 1 : 2; /* latency: of one write */
    int64_t start_ns = mq_clock_mono_ns();
    for (uint32_t got = 0; got < jobs && is_ok; got++) {
        int64_t shot_ns = mq_clock_mono_ns();
        for (; sent < jobs && sent - got < window && is_ok; sent++) {
            for (uint32_t k = 0; k < values && is_ok; k++) {
                is_ok = redisAppendCommand(c, "SET value:%u:%u %b", sent % 256, k, body, bytes) ==
                        REDIS_OK;
            }
        }
        for (uint32_t k = 0; k < values && is_ok; k++) {
            is_ok = answer(c);
        }
        each[got] = (double)(mq_clock_mono_ns() - shot_ns) / 1e6;
    }
    *rate = jobs / ((double)(mq_clock_mono_ns() - start_ns) / 1e9);
    if (each != NULL) {
        qsort(each, jobs, sizeof *each, by_size);
        *p50_ms = each[jobs / 2];
    }
    if (c != NULL) {
        redisFree(c);
    }
    free(each);
    free(body);
    return is_ok ? MQ_OK : mq_fail(err, MQ_E_IO, "the bare redis-server refused a write");
}
