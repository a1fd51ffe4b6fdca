/* One connection to the state's Redis: hiredis's asynchronous context driven by the owner's event
 * loop. Logs in, sees to the function library, answers calls in order, gives every call five
 * seconds, reconnects with backoff. Knows nothing of jobs. One thread. */
#ifndef MQ_STORE_CONN_H
#define MQ_STORE_CONN_H

#include <hiredis/async.h>

#include "shared/base/error.h"
#include "shared/base/url.h"

enum {
    MQ_CONN_PENDING_MAX = 4096, /* calls without an answer */
    MQ_CONN_CALL_MS = 5000,
    MQ_CONN_RETRY_MIN_MS = 100,
    MQ_CONN_RETRY_MAX_MS = 2000,
};

/* reply: borrowed; NULL when the connection broke first (outcome unknown). Errors of Redis come as
 * a reply of type REDIS_REPLY_ERROR. */
typedef void mq_conn_reply(void *arg, const redisReply *reply);

typedef struct mq_conn_call {
    mq_conn_reply *fn;
    void *arg;
    int64_t sent_ms;
} mq_conn_call;

typedef enum mq_conn_state { MQ_CONN_DOWN, MQ_CONN_GREETING, MQ_CONN_UP } mq_conn_state;

typedef struct mq_conn {
    mq_url url;
    redisAsyncContext *redis; /* owned by hiredis, NULL while down */
    mq_conn_state state;
    bool wants_write;
    bool must_drop;
    int64_t now_ms;
    int64_t retry_at_ms;
    int64_t backoff_ms;
    void (*on_down)(void *arg); /* after all its calls were answered with NULL; may be NULL */
    void *arg;
    mq_conn_call *calls; /* owned ring of MQ_CONN_PENDING_MAX */
    uint32_t first, count;
    uint32_t unstamped; /* newest calls, whose five seconds start with the next process */
    mq_error trouble;   /* text empty while all is well */
} mq_conn;

MQ_MUST_USE mq_code mq_conn_init(mq_conn *conn, const mq_url *url, void (*on_down)(void *),
                                 void *arg, mq_error *err);
/* Answers what is pending with NULL. */
void mq_conn_release(mq_conn *conn);

/* Queues a command; false when not up or too many are pending (then fn is never called). */
bool mq_conn_send(mq_conn *conn, mq_conn_reply *fn, void *arg, int argc, const char **argv,
                  const size_t *lens);
/* The same with a command that is already in Redis's protocol (redisFormatCommandArgv). */
bool mq_conn_send_raw(mq_conn *conn, mq_conn_reply *fn, void *arg, const char *command, size_t len);

/* Breaks the connection at the end of this turn, saying why. */
void mq_conn_drop(mq_conn *conn, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int mq_conn_fd(const mq_conn *conn);
short mq_conn_events(const mq_conn *conn);
void mq_conn_process(mq_conn *conn, short revents, int64_t now_ms);
int64_t mq_conn_deadline(const mq_conn *conn);

#endif
