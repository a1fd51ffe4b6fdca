/* Inside of the Redis store, shared by its files: store_redis.c (ownership, the loop's side),
 * redis_commit.c (commits under way), redis_read.c (scans, bodies, jobs). Private to shared/store.
 */
#ifndef MQ_STORE_REDIS_STORE_H
#define MQ_STORE_REDIS_STORE_H

#include "shared/base/buf.h"
#include "shared/store/conn.h"
#include "shared/store/redis_args.h"

typedef struct mq_redis_store mq_redis_store;
typedef struct mq_flight mq_flight;

/* One call other than a commit, from its first command to its callback. */
typedef struct mq_call {
    mq_redis_store *store;
    bool is_used;
    uint32_t waiting;            /* commands without a reply */
    mq_error err;                /* first error; code MQ_OK: none */
    mq_store_on_owner *on_owner; /* exactly one of the four is set */
    mq_store_on_replicas *on_replicas;
    mq_store_on_field *on_field;
    mq_store_on_job *on_job;
    void *arg;
    mq_store_owner owner;
    char name[64]; /* acquire: who asks, from where, how */
    char endpoint[128];
    char seen[MQ_LINEAGE_ID_SIZE];
    int64_t ttl_ms;
    bool is_takeover;
    bool may_init;
    bool has_owner_key;
    mq_store_part part;
    char cursor[32]; /* scan */
    char key[MQ_KEY_BYTES];
    mq_buf kept;           /* bodies: ids of large ones and their keys; job: its record. Owned */
    uint32_t large_next;   /* bodies: which large one is asked for */
    size_t record_bytes;   /* job */
    uint64_t epoch, freed; /* trim */
    uint64_t sequence;     /* replicas */
    uint32_t replicas;
    mq_store_trim mode;
    char counter[MQ_KEY_BYTES];
} mq_call;

/* A large value on its way ahead of a commit; a copy is kept for the case that memory is full. */
typedef struct mq_large_flight {
    mq_flight *flight;
    char key[MQ_KEY_BYTES];
    mq_span value; /* results only; in the flight's arena */
    bool is_result;
} mq_large_flight;

/* A commit under way. */
struct mq_flight {
    mq_redis_store *store;
    mq_store_on_commit *callback;
    void *arg;
    uint64_t sequence;
    uint16_t order[MQ_STORE_JOBS_MAX];
    uint32_t dups[MQ_STORE_JOBS_MAX];
    mq_arena arena;
    uint32_t waiting; /* large values without a reply */
    bool is_sent;
    bool is_decided; /* verdict is in reply, callback still to come */
    bool is_after_full;
    mq_store_reply reply;
    char *command; /* owned; in Redis's protocol, until it is sent */
    size_t command_bytes;
};

struct mq_redis_store {
    mq_store base;
    mq_conn conn;
    mq_keys keys;
    mq_commit_args args;
    mq_flight flights[MQ_STORE_INFLIGHT_MAX]; /* ring, oldest first */
    uint32_t flight_first, flight_count;
    uint64_t sent_sequence; /* of the last commit that went out, or was read at acquire */
    mq_call calls[MQ_STORE_CALLS_MAX];
};

/* ---- store_redis.c ---- */

/* A free call, or NULL with MQ_E_BUSY in err. */
mq_call *mq_call_new(mq_redis_store *store, void *arg, mq_error *err);

/* Sends a command of NUL-terminated words (NULL ends them). A refusal is kept in call->err. */
void mq_call_ask(mq_call *call, mq_conn_reply *fn, const char *const *words);
void mq_call_ask_args(mq_call *call, mq_conn_reply *fn, mq_args *args);

/* Opens a reply: false when there is nothing to go on with (the call then ends by itself). */
bool mq_call_reply(mq_call *call, const redisReply *reply);

/* Calls back and frees the call when no command is waiting. Last line of every reply function. */
void mq_call_end(mq_call *call);

/* An error reply or a reply of the wrong type as an error. */
mq_code mq_redis_fail(mq_error *err, const redisReply *reply);

/* ---- redis_commit.c ---- */

mq_code mq_redis_commit(mq_store *store, const mq_store_batch *batch, mq_store_on_commit *callback,
                        void *arg, mq_error *err);
/* The connection is gone: outcome of every commit under way is unknown. */
void mq_redis_commits_fail(mq_redis_store *store, const mq_error *why);
/* Sends and delivers what can be. */
void mq_redis_commits_advance(mq_redis_store *store);

/* ---- redis_read.c ---- */

mq_code mq_redis_segments(mq_store *store, mq_store_on_field *callback, void *arg, mq_error *err);
mq_code mq_redis_scan(mq_store *store, mq_store_part part, uint64_t segment,
                      mq_store_on_field *callback, void *arg, mq_error *err);
mq_code mq_redis_bodies(mq_store *store, const mq_span *ids, uint32_t count,
                        mq_store_on_field *callback, void *arg, mq_error *err);
mq_code mq_redis_trim(mq_store *store, uint64_t epoch, uint64_t minute, mq_store_trim mode,
                      mq_store_on_field *callback, void *arg, mq_error *err);
mq_code mq_redis_job(mq_store *store, mq_span id, mq_store_on_job *callback, void *arg,
                     mq_error *err);

#endif
