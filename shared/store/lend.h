/* Limits of the whole fleet, lent to shards. Each limit has a book in the store: which shard holds
 * how many permits of a cap, and a token bucket for a rate. A shard starts a job only with a permit
 * (and a token) of its own, and asks for more when jobs wait. Nothing here expires: the permits of
 * a shard whose owner is away stay its own until the next owner says what still runs.
 *
 * Why a cap is never exceeded, whoever dies: the book's `held` of a shard is never less than what
 * that shard may use. It grows in the book first (the answer to an ask), and shrinks in the shard
 * first (the next ask). Each ask says all that the shard holds and carries the owner's epoch and a
 * number: a shard takes only the answer to its latest ask, the book refuses older ones. A new owner
 * begins with what it has loaded as running, which is never more than its predecessor held.
 *
 * Why a rate is never exceeded: tokens in the bucket and tokens lent, used or not as far as the
 * book knows, are together never more than the burst.
 *
 * This is the arithmetic, pure, and the model of shared/store/lua/lend.lua; the two are compared by
 * a test. */
#ifndef MQ_STORE_LEND_H
#define MQ_STORE_LEND_H

#include "shared/base/error.h"
#include "shared/base/ulid.h"

enum {
    MQ_LEND_ASKS_MAX = 64, /* in one call */
    MQ_LEND_NAME_MAX = 72, /* "queue=" and a name, "kind=" and a name */
};

/* What a shard says of itself and wants, for one limit. */
typedef struct mq_lend_ask {
    uint32_t shard;
    uint64_t epoch, number;          /* of the shard's owner; numbers grow within an epoch */
    uint64_t cap;                    /* jobs at once in the fleet; 0 = any number */
    uint64_t held;                   /* permits that it keeps */
    uint64_t need;                   /* permits that it could use: jobs that run and wait */
    uint64_t rate, period_ms, burst; /* of the bucket; rate 0: there is none */
    uint64_t have;                   /* tokens that it keeps */
    uint64_t back;                   /* tokens that it gives back */
    uint64_t want;                   /* tokens that it could use beside those it has */
} mq_lend_ask;

typedef struct mq_lend_grant {
    bool is_good;     /* false: the epoch or number is old, or the shard is another owner's */
    uint64_t held;    /* permits that are its own now, at least those that it kept */
    uint64_t share;   /* more than these it should give back, as jobs end: others wait */
    uint64_t tokens;  /* more than it has */
    uint64_t wait_ms; /* until the bucket has one */
} mq_lend_grant;

typedef struct mq_lend_row {
    uint64_t epoch, number, held, need, out; /* out: tokens lent */
} mq_lend_row;

/* All zero is a new one. */
typedef struct mq_lend_book {
    uint64_t level; /* tokens x period_ms */
    uint64_t period_ms;
    int64_t at_ms; /* when level was right; 0: a bucket that begins, full */
    mq_lend_row rows[MQ_ULID_SHARDS_MAX];
} mq_lend_book;

/* Applies one ask. now_ms: the store's time; it may go backwards. */
void mq_lend(mq_lend_book *book, uint32_t shards, const mq_lend_ask *ask, int64_t now_ms,
             mq_lend_grant *out);

/* ---- lend_redis.c: books in Redis ---- */

struct mq_cluster;

/* One of the asks of a call: which limit. */
typedef struct mq_lend_line {
    char name[MQ_LEND_NAME_MAX];
    mq_lend_ask ask;
} mq_lend_line;

/* grants: one per line, NULL when there is no answer (whether they were applied is unknown). */
typedef void mq_lend_on_grants(void *arg, const mq_lend_grant *grants, uint32_t count);

/* Sends up to MQ_LEND_ASKS_MAX asks; they are applied in order, each only while its epoch is that
 * of the shard's owner. False: not connected, the callback is not called. Borrows lines during the
 * call. */
MQ_MUST_USE bool mq_lend_send(struct mq_cluster *cluster, uint32_t shards,
                              const mq_lend_line *lines, uint32_t count,
                              mq_lend_on_grants *on_grants, void *arg);

#endif
