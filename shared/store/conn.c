/* Connection to the state's Redis; see conn.h. hiredis frees its context by itself in many places,
 * so every use of it is followed by a look whether it is still there, and the rest of going down
 * waits for the end of the turn. */
#include "shared/store/conn.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "shared/store/library.h"

enum { READS_PER_TURN = 64, LIBRARY_BYTES_MAX = 1 << 20 };

static void connect_now(mq_conn *conn);
static void greet(mq_conn *conn);
static void on_login(void *arg, const redisReply *reply);
static void on_version(void *arg, const redisReply *reply);
static void load_library(mq_conn *conn);
static void on_loaded(void *arg, const redisReply *reply);
static void is_ready(mq_conn *conn);
static void finish_down(mq_conn *conn);
static bool push(mq_conn *conn, mq_conn_reply *fn, void *arg);
static void on_reply(redisAsyncContext *redis, void *reply, void *arg);

mq_code mq_conn_init(mq_conn *conn, const mq_url *url, void (*on_down)(void *), void *arg,
                     mq_error *err)
{
    *conn = (mq_conn){.url = *url, .on_down = on_down, .arg = arg};
    conn->calls = calloc(MQ_CONN_PENDING_MAX, sizeof *conn->calls);
    if (conn->calls == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a connection");
    }
    /* A write to a Redis that has died must be an error, not the end of this process. */
    struct sigaction old;
    if (sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_DFL) {
        signal(SIGPIPE, SIG_IGN);
    }
    conn->backoff_ms = MQ_CONN_RETRY_MIN_MS;
    mq_fail(&conn->trouble, MQ_E_IO, "not connected yet");
    return MQ_OK;
}

void mq_conn_release(mq_conn *conn)
{
    conn->state = MQ_CONN_DOWN;
    if (conn->redis != NULL) {
        redisAsyncFree(conn->redis);
        conn->redis = NULL;
    }
    MQ_ASSERT(conn->count == 0);
    free(conn->calls);
    conn->calls = NULL;
}

/* ---- hiredis's hooks ---- */

static void want_read(void *arg)
{
    (void)arg; /* always wanted */
}

static void want_write(void *arg)
{
    ((mq_conn *)arg)->wants_write = true;
}

static void no_write(void *arg)
{
    ((mq_conn *)arg)->wants_write = false;
}

static void note_loss(mq_conn *conn, const redisAsyncContext *redis)
{
    if (!conn->must_drop) {
        mq_fail(&conn->trouble, MQ_E_IO, "connection lost: %s",
                redis->errstr != NULL && redis->errstr[0] != '\0' ? redis->errstr : "closed");
    }
    conn->redis = NULL; /* hiredis frees it right after this */
    conn->must_drop = true;
}

static void on_disconnect(const redisAsyncContext *redis, int status)
{
    (void)status;
    note_loss(redis->data, redis);
}

static void on_connect(const redisAsyncContext *redis, int status)
{
    if (status != REDIS_OK) {
        note_loss(redis->data, redis);
    }
}

/* ---- calls ---- */

/* Remembers who waits; hiredis answers in order. */
static bool push(mq_conn *conn, mq_conn_reply *fn, void *arg)
{
    if (conn->redis == NULL || conn->must_drop || conn->count == MQ_CONN_PENDING_MAX) {
        return false;
    }
    conn->calls[(conn->first + conn->count) % MQ_CONN_PENDING_MAX] =
        (mq_conn_call){fn, arg, INT64_MAX};
    conn->count++;
    conn->unstamped++;
    return true;
}

static bool sent(mq_conn *conn, int status)
{
    if (status != REDIS_OK) { /* only while it is being torn down */
        conn->count--;
        conn->unstamped--;
        conn->must_drop = true;
    }
    return status == REDIS_OK;
}

static bool send_any(mq_conn *conn, mq_conn_reply *fn, void *arg, int argc, const char **argv,
                     const size_t *lens)
{
    return push(conn, fn, arg) &&
           sent(conn, redisAsyncCommandArgv(conn->redis, on_reply, conn, argc, argv, lens));
}

bool mq_conn_send(mq_conn *conn, mq_conn_reply *fn, void *arg, int argc, const char **argv,
                  const size_t *lens)
{
    return conn->state == MQ_CONN_UP && send_any(conn, fn, arg, argc, argv, lens);
}

bool mq_conn_send_raw(mq_conn *conn, mq_conn_reply *fn, void *arg, const char *command, size_t len)
{
    return conn->state == MQ_CONN_UP && push(conn, fn, arg) &&
           sent(conn, redisAsyncFormattedCommand(conn->redis, on_reply, conn, command, len));
}

static void on_reply(redisAsyncContext *redis, void *reply, void *arg)
{
    mq_conn *conn = arg;
    (void)redis;
    MQ_ASSERT(conn->count > 0);
    mq_conn_call call = conn->calls[conn->first];
    conn->first = (conn->first + 1) % MQ_CONN_PENDING_MAX;
    conn->count--;
    conn->unstamped = conn->unstamped < conn->count ? conn->unstamped : conn->count;
    if (reply == NULL) {
        conn->state = MQ_CONN_DOWN; /* nothing may be sent from inside these answers */
    }
    call.fn(call.arg, reply);
}

void mq_conn_drop(mq_conn *conn, const char *fmt, ...)
{
    if (!conn->must_drop) {
        conn->must_drop = true;
        conn->trouble.code = MQ_E_IO;
        va_list args;
        va_start(args, fmt);
        vsnprintf(conn->trouble.text, sizeof conn->trouble.text, fmt, args);
        va_end(args);
    }
}

/* ---- coming up ---- */

static void connect_now(mq_conn *conn)
{
    conn->wants_write = false;
    redisAsyncContext *redis = conn->url.kind == MQ_URL_UNIX
                                   ? redisAsyncConnectUnix(conn->url.path)
                                   : redisAsyncConnect(conn->url.host, conn->url.port);
    if (redis == NULL || redis->err != 0) {
        mq_conn_drop(conn, "cannot connect: %s", redis == NULL ? "no memory" : redis->errstr);
        if (redis != NULL) {
            redisAsyncFree(redis);
        }
        return;
    }
    conn->redis = redis;
    conn->state = MQ_CONN_GREETING;
    redis->data = conn;
    redis->ev.data = conn;
    redis->ev.addRead = want_read;
    redis->ev.addWrite = want_write;
    redis->ev.delWrite = no_write;
    redisAsyncSetConnectCallback(redis, on_connect);
    redisAsyncSetDisconnectCallback(redis, on_disconnect);
    greet(conn);
}

static void greet(mq_conn *conn)
{
    char password[MQ_URL_SECRET_MAX];
    mq_error err;
    if (mq_url_password(&conn->url, password, &err) != MQ_OK) {
        mq_conn_drop(conn, "%s", err.text);
        return;
    }
    if (password[0] != '\0') {
        const char *user = conn->url.user[0] != '\0' ? conn->url.user : "default";
        const char *argv[] = {"AUTH", user, password};
        size_t lens[] = {4, strlen(user), strlen(password)};
        (void)send_any(conn, on_login, conn, 3, argv, lens);
    }
    const char *argv[] = {"FCALL", "mq1_version", "0"};
    size_t lens[] = {5, 11, 1};
    (void)send_any(conn, on_version, conn, 3, argv, lens);
}

static void on_login(void *arg, const redisReply *reply)
{
    mq_conn *conn = arg;
    if (reply != NULL && reply->type == REDIS_REPLY_ERROR) {
        mq_conn_drop(conn, "login of user \"%s\" refused: %s", conn->url.user, reply->str);
    }
}

static void on_version(void *arg, const redisReply *reply)
{
    mq_conn *conn = arg;
    if (reply == NULL || conn->must_drop) {
        return;
    }
    if (reply->type == REDIS_REPLY_INTEGER && reply->integer >= MQ_LIBRARY_REVISION) {
        is_ready(conn);
    } else if (reply->type == REDIS_REPLY_INTEGER ||
               (reply->type == REDIS_REPLY_ERROR &&
                strstr(reply->str, "Function not found") != NULL)) {
        load_library(conn);
    } else {
        mq_conn_drop(conn, "Redis does not serve: %s",
                     reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
    }
}

static void load_library(mq_conn *conn)
{
    mq_buf text;
    mq_buf_init(&text, LIBRARY_BYTES_MAX);
    mq_library_text(&text);
    MQ_ASSERT(!text.is_full);
    const char *argv[] = {"FUNCTION", "LOAD", "REPLACE", (const char *)text.data};
    size_t lens[] = {8, 4, 7, text.len};
    (void)send_any(conn, on_loaded, conn, 4, argv, lens);
    mq_buf_release(&text);
}

static void on_loaded(void *arg, const redisReply *reply)
{
    mq_conn *conn = arg;
    if (reply == NULL || conn->must_drop) {
        return;
    }
    if (reply->type == REDIS_REPLY_ERROR) {
        mq_conn_drop(conn,
                     "the function library is missing or older than revision %d and this user may "
                     "not load it (load it as the deploy user): %s",
                     MQ_LIBRARY_REVISION, reply->str);
        return;
    }
    is_ready(conn);
}

static void is_ready(mq_conn *conn)
{
    conn->state = MQ_CONN_UP;
    conn->trouble.text[0] = '\0';
    conn->backoff_ms = MQ_CONN_RETRY_MIN_MS;
}

/* ---- the loop's side ---- */

int mq_conn_fd(const mq_conn *conn)
{
    return conn->redis == NULL ? -1 : conn->redis->c.fd;
}

short mq_conn_events(const mq_conn *conn)
{
    if (conn->redis == NULL) {
        return 0;
    }
    return (short)(conn->wants_write ? POLLIN | POLLOUT : POLLIN);
}

static bool is_readable(const mq_conn *conn)
{
    struct pollfd p = {.fd = conn->redis->c.fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

/* hiredis reads 16 KiB a time; a segment of jobs has megabytes. */
static void read_some(mq_conn *conn)
{
    for (int i = 0; i < READS_PER_TURN; i++) {
        redisAsyncHandleRead(conn->redis);
        if (conn->redis == NULL || conn->must_drop || !is_readable(conn)) {
            return;
        }
    }
}

/* A call is made between two turns, after the loop may have slept for long: its time starts now. */
static void stamp(mq_conn *conn)
{
    for (; conn->unstamped > 0; conn->unstamped--) {
        uint32_t at = conn->first + conn->count - conn->unstamped;
        conn->calls[at % MQ_CONN_PENDING_MAX].sent_ms = conn->now_ms;
    }
}

static bool is_late(const mq_conn *conn)
{
    return conn->count > 0 && conn->now_ms - conn->calls[conn->first].sent_ms > MQ_CONN_CALL_MS;
}

static void check_time(mq_conn *conn)
{
    /* Perhaps it was this process that slept, and the answer is there. */
    if (is_late(conn) && conn->redis != NULL && !conn->must_drop && is_readable(conn)) {
        read_some(conn);
    }
    if (is_late(conn)) {
        mq_conn_drop(conn, "no answer from Redis within %d ms", MQ_CONN_CALL_MS);
    }
}

void mq_conn_process(mq_conn *conn, short revents, int64_t now_ms)
{
    conn->now_ms = now_ms;
    stamp(conn);
    if (conn->redis == NULL && !conn->must_drop && now_ms >= conn->retry_at_ms) {
        connect_now(conn);
    } else if (conn->redis != NULL && (revents & (POLLIN | POLLERR | POLLHUP)) != 0) {
        read_some(conn);
    }
    /* Once up, what callers have just queued is worth a try without asking poll first. */
    if (conn->redis != NULL && !conn->must_drop && conn->wants_write &&
        (conn->state == MQ_CONN_UP || (revents & POLLOUT) != 0)) {
        redisAsyncHandleWrite(conn->redis);
    }
    check_time(conn);
    if (conn->must_drop) {
        finish_down(conn);
    }
}

static void finish_down(mq_conn *conn)
{
    conn->state = MQ_CONN_DOWN;
    if (conn->redis != NULL) {
        redisAsyncContext *redis = conn->redis;
        redisAsyncFree(redis); /* answers what is pending */
        conn->redis = NULL;
    }
    MQ_ASSERT(conn->count == 0);
    conn->must_drop = false;
    conn->retry_at_ms = conn->now_ms + conn->backoff_ms;
    conn->backoff_ms = mq_min_i64(conn->backoff_ms * 2, MQ_CONN_RETRY_MAX_MS);
    if (conn->on_down != NULL) {
        conn->on_down(conn->arg);
    }
}

int64_t mq_conn_deadline(const mq_conn *conn)
{
    if (conn->redis == NULL || conn->must_drop) {
        return conn->retry_at_ms;
    }
    if (conn->count == 0 || conn->unstamped == conn->count) {
        return conn->count == 0 ? INT64_MAX : conn->now_ms;
    }
    return conn->calls[conn->first].sent_ms + MQ_CONN_CALL_MS + 1;
}
