/* The connection under blob_redis.c; see redis_link.h. Knows no blobs. */
#include "shared/blob/redis_link.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"

enum { ARGS_MAX = 6, READ_BYTES = 1 << 16, RETRY_MS = 50 };

static mq_code connect_once(mq_redis_link *link, mq_error *err);
static mq_code log_in(mq_redis_link *link, mq_error *err);
static mq_code flush(mq_redis_link *link, mq_error *err);
static mq_code receive(mq_redis_link *link, size_t *received, mq_error *err);
static mq_code wait_for(mq_redis_link *link, short events, mq_error *err);
static mq_code broke(mq_redis_link *link, mq_code code, mq_error *err, const char *what,
                     const char *why);
static mq_code refused(mq_redis_link *link, const redisReply *reply, mq_error *err);
static bool is_alive(const mq_redis_link *link);
static void drop(mq_redis_link *link);

void mq_redis_link_init(mq_redis_link *link, const mq_url *url)
{
    *link = (mq_redis_link){.url = *url};
    mq_buf_init(&link->out, MQ_REDIS_LINK_OUT_MAX);
}

void mq_redis_link_release(mq_redis_link *link)
{
    drop(link);
    mq_buf_release(&link->out);
}

mq_code mq_redis_link_open(mq_redis_link *link, int64_t deadline_ms, mq_error *err)
{
    int64_t give_up_ms = mq_clock_mono_ms() + MQ_REDIS_LINK_CONNECT_MS;
    give_up_ms = give_up_ms < deadline_ms ? give_up_ms : deadline_ms;
    link->deadline_ms = deadline_ms;
    if (is_alive(link)) {
        link->is_broken = false;
        return MQ_OK;
    }
    for (;;) {
        drop(link);
        link->is_broken = false;
        link->deadline_ms = give_up_ms;
        mq_code code = connect_once(link, err);
        if (code == MQ_OK) {
            code = log_in(link, err);
        }
        link->deadline_ms = deadline_ms;
        if (code == MQ_OK) {
            return MQ_OK;
        }
        int64_t left_ms = give_up_ms - mq_clock_mono_ms();
        if (!link->is_broken || left_ms <= 0) {
            drop(link);
            return code;
        }
        mq_clock_sleep_ms(left_ms < RETRY_MS ? left_ms : RETRY_MS);
    }
}

void mq_redis_link_add(mq_redis_link *link, int argc, const mq_span *argv)
{
    MQ_ASSERT(argc <= ARGS_MAX && link->pending < MQ_REDIS_LINK_PENDING_MAX);
    mq_buf_printf(&link->out, "*%d\r\n", argc);
    for (int i = 0; i < argc; i++) {
        mq_buf_printf(&link->out, "$%zu\r\n", argv[i].len);
        mq_buf_add_span(&link->out, argv[i]);
        mq_buf_add_str(&link->out, "\r\n");
    }
    MQ_ASSERT(!link->out.is_full);
    link->pending++;
}

mq_code mq_redis_link_reply(mq_redis_link *link, redisReply **out, mq_error *err)
{
    MQ_ASSERT(link->pending > 0 && link->ctx != NULL);
    *out = NULL;
    size_t received = 0;
    mq_code code = flush(link, err);
    while (code == MQ_OK) {
        void *reply = NULL;
        if (redisReaderGetReply(link->ctx->reader, &reply) != REDIS_OK) {
            return broke(link, MQ_E_IO, err, "reply", link->ctx->reader->errstr);
        }
        if (reply != NULL) {
            link->pending--;
            *out = reply;
            break;
        }
        code = receive(link, &received, err);
    }
    if (code == MQ_OK && (*out)->type == REDIS_REPLY_ERROR) {
        code = refused(link, *out, err);
        freeReplyObject(*out);
        *out = NULL;
    }
    return code;
}

mq_code mq_redis_link_flag(mq_redis_link *link, bool *flag, mq_error *err)
{
    redisReply *reply;
    mq_code code = mq_redis_link_reply(link, &reply, err);
    if (code != MQ_OK) {
        return code;
    }
    bool is_yes = reply->type == REDIS_REPLY_STATUS ||
                  (reply->type == REDIS_REPLY_INTEGER && reply->integer == 1);
    freeReplyObject(reply);
    if (flag != NULL) {
        *flag = is_yes;
    }
    return MQ_OK;
}

static mq_code connect_once(mq_redis_link *link, mq_error *err)
{
    const mq_url *url = &link->url;
    link->ctx = url->kind == MQ_URL_UNIX ? redisConnectUnixNonBlock(url->path)
                                         : redisConnectNonBlock(url->host, url->port);
    MQ_ASSERT(link->ctx != NULL); /* memory is gone */
    if (link->ctx->err != 0) {
        return broke(link, MQ_E_IO, err, "connect", link->ctx->errstr);
    }
    mq_code code = wait_for(link, POLLOUT, err);
    if (code != MQ_OK) {
        return code;
    }
    int failure = 0;
    socklen_t len = sizeof failure;
    if (getsockopt(link->ctx->fd, SOL_SOCKET, SO_ERROR, &failure, &len) != 0 || failure != 0) {
        return broke(link, MQ_E_IO, err, "connect", strerror(failure));
    }
    return MQ_OK;
}

/* Password if there is one, then a harmless command that fails while the server is still loading.
 */
static mq_code log_in(mq_redis_link *link, mq_error *err)
{
    char password[MQ_URL_SECRET_MAX];
    mq_code code = mq_url_password(&link->url, password, err);
    if (code != MQ_OK) {
        /* A missing secret must not read as a missing blob. */
        return mq_fail(err, MQ_E_ARG, "secret: %s cannot be read", link->url.secret);
    }
    if (password[0] != '\0') {
        const char *user = link->url.user[0] != '\0' ? link->url.user : "default";
        mq_redis_link_add(link, 3, (mq_span[]){mq_str("AUTH"), mq_str(user), mq_str(password)});
        code = mq_redis_link_flag(link, NULL, err);
    }
    explicit_bzero(password, sizeof password);
    if (code == MQ_OK) {
        mq_redis_link_add(link, 2, (mq_span[]){mq_str("EXISTS"), mq_str("mq:b:")});
        code = mq_redis_link_flag(link, NULL, err);
    }
    return code;
}

static mq_code flush(mq_redis_link *link, mq_error *err)
{
    size_t sent = 0;
    while (sent < link->out.len) {
        ssize_t n = send(link->ctx->fd, link->out.data + sent, link->out.len - sent, MSG_NOSIGNAL);
        if (n >= 0) {
            sent += (size_t)n;
        } else if (errno == EAGAIN) {
            mq_code code = wait_for(link, POLLOUT, err);
            if (code != MQ_OK) {
                return code;
            }
        } else if (errno != EINTR) {
            return broke(link, MQ_E_IO, err, "send", strerror(errno));
        }
    }
    mq_buf_reset(&link->out);
    return MQ_OK;
}

static mq_code receive(mq_redis_link *link, size_t *received, mq_error *err)
{
    char bytes[READ_BYTES];
    mq_code code = wait_for(link, POLLIN, err);
    if (code != MQ_OK) {
        return code;
    }
    ssize_t n = recv(link->ctx->fd, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return MQ_OK;
    }
    if (n <= 0) {
        return broke(link, MQ_E_IO, err, "receive", n == 0 ? "server closed" : strerror(errno));
    }
    *received += (size_t)n;
    if (*received > MQ_REDIS_LINK_REPLY_MAX + sizeof bytes) {
        return broke(link, MQ_E_CORRUPT, err, "reply", "larger than any chunk");
    }
    if (redisReaderFeed(link->ctx->reader, bytes, (size_t)n) != REDIS_OK) {
        return broke(link, MQ_E_IO, err, "reply", link->ctx->reader->errstr);
    }
    return MQ_OK;
}

static mq_code wait_for(mq_redis_link *link, short events, mq_error *err)
{
    for (;;) {
        int64_t left_ms = link->deadline_ms - mq_clock_mono_ms();
        if (left_ms <= 0) {
            return broke(link, MQ_E_TIMEOUT, err, "wait", "no answer within the deadline");
        }
        struct pollfd at = {link->ctx->fd, events, 0};
        int n = poll(&at, 1, (int)(left_ms < 1000 ? left_ms : 1000));
        if (n > 0) {
            return MQ_OK;
        }
        if (n < 0 && errno != EINTR) {
            return broke(link, MQ_E_IO, err, "poll", strerror(errno));
        }
    }
}

static mq_code broke(mq_redis_link *link, mq_code code, mq_error *err, const char *what,
                     const char *why)
{
    /* Past its deadline a call must not start over. */
    link->is_broken = code == MQ_E_IO;
    link->pending = link->pending > 0 ? link->pending : 1;
    if (link->url.kind == MQ_URL_UNIX) {
        return mq_fail(err, code, "blob server unix:%s: %s: %s", link->url.path, what, why);
    }
    return mq_fail(err, code, "blob server tcp:%s:%d: %s: %s", link->url.host, link->url.port, what,
                   why);
}

static mq_code refused(mq_redis_link *link, const redisReply *reply, mq_error *err)
{
    mq_span text = mq_span_of(reply->str, reply->len);
    if (text.len >= 7 && memcmp(text.data, "LOADING", 7) == 0) {
        return broke(link, MQ_E_IO, err, "server", "still loading its data");
    }
    if (text.len >= 3 && memcmp(text.data, "OOM", 3) == 0) {
        return mq_fail(err, MQ_E_BUSY,
                       "the blob server's memory is full: raise its maxmemory or delete versions");
    }
    return mq_fail(err, MQ_E_ARG, "the blob server refused: %.*s", MQ_SPAN_ARG(text));
}

/* A connection that can be used as it is: nothing pending, nothing to read, not closed. */
static bool is_alive(const mq_redis_link *link)
{
    if (link->ctx == NULL || link->pending > 0 || link->is_broken) {
        return false;
    }
    struct pollfd at = {link->ctx->fd, POLLIN, 0};
    return poll(&at, 1, 0) == 0;
}

static void drop(mq_redis_link *link)
{
    if (link->ctx != NULL) {
        redisFree(link->ctx);
        link->ctx = NULL;
    }
    mq_buf_reset(&link->out);
    link->pending = 0;
}
