/* One connection to the blobs' redis-server: commands out in a pipeline, replies in, all within a
 * deadline. hiredis connects, formats and parses; reading and writing are done here, because its
 * own calls can neither keep a deadline over a whole reply nor write without SIGPIPE. One thread.
 */
#ifndef MQ_BLOB_REDIS_LINK_H
#define MQ_BLOB_REDIS_LINK_H

#include <hiredis/hiredis.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/url.h"

enum {
    MQ_REDIS_LINK_CONNECT_MS = 3000, /* a server that restarts is waited for that long */
    MQ_REDIS_LINK_PENDING_MAX = 1 << 12,
    MQ_REDIS_LINK_OUT_MAX = 8 << 20,   /* bytes of commands not yet sent */
    MQ_REDIS_LINK_REPLY_MAX = 2 << 20, /* bytes of one reply */
};

typedef struct mq_redis_link {
    mq_url url;
    redisContext *ctx;   /* owned; NULL while there is no connection */
    mq_buf out;          /* commands that are not sent yet */
    int64_t deadline_ms; /* of the call under way */
    uint32_t pending;    /* replies still to come */
    bool is_broken;      /* the connection failed in this call; the next open makes a new one */
} mq_redis_link;

void mq_redis_link_init(mq_redis_link *link, const mq_url *url);
void mq_redis_link_release(mq_redis_link *link);

/* Starts a call: a connection that is alive, has nothing pending and is logged in. Tries again for
 * MQ_REDIS_LINK_CONNECT_MS (less when the deadline is earlier); then MQ_E_IO. */
MQ_MUST_USE mq_code mq_redis_link_open(mq_redis_link *link, int64_t deadline_ms, mq_error *err);

/* Appends a command; sent with the next reply that is waited for. argc at most 6. */
void mq_redis_link_add(mq_redis_link *link, int argc, const mq_span *argv);

/* The oldest pending reply, owned by the caller (freeReplyObject). An error reply becomes a code:
 * memory is full: MQ_E_BUSY, refused login or command: MQ_E_ARG. */
MQ_MUST_USE mq_code mq_redis_link_reply(mq_redis_link *link, redisReply **out, mq_error *err);

/* The same for yes/no replies: OK or 1 is true, nil or 0 is false. flag may be NULL. */
MQ_MUST_USE mq_code mq_redis_link_flag(mq_redis_link *link, bool *flag, mq_error *err);

#endif
