/* The durable record of one shard. Policy lives in the broker's core; the store only applies what
 * the core decided, fenced and atomic, and gives it back after a crash. Two implementations of one
 * interface: Redis Functions (store_redis.c) and an in-memory model (store_memory.c), which the
 * differential test and later the simulator run against each other.
 *
 * Keys in Redis (keys.c holds every name), {s} = {mq:<shard>} so that a shard stays in one slot:
 *   mq:instance              UUID of this deployment, written once at init
 *   {s}:owner                hash: owner, epoch, until_ms, sequence, endpoint
 *   {s}:live:<segment>       hash id -> packed record; segment = submission number / 16,384
 *   {s}:req                  hash id -> request body, written once
 *   {s}:done:<minute>        hash id -> packed record + result; expires as a whole, extended by
 * each finish {s}:dead, {s}:dead:req   hashes id -> packed record / request body {s}:reg hash field
 * -> registry value (versions, aliases, datasets, memos) {s}:count                hash of counters
 * {s}:events   stream, capped at 10,000 {s}:body:<epoch>:<id>    bodies and results above
 * MQ_STORE_INLINE_MAX, plain strings
 *
 * All calls are asynchronous: an answer comes through the callback from mq_store_process. One
 * thread. */
#ifndef MQ_STORE_STORE_H
#define MQ_STORE_STORE_H

#include "shared/base/buf.h"
#include "shared/base/error.h"

enum {
    MQ_STORE_SEGMENT_JOBS = 16384,
    MQ_STORE_INLINE_MAX = 4096,  /* larger values do not pass through Lua */
    MQ_STORE_JOBS_MAX = 512,     /* creates + puts + finishes in one commit */
    MQ_STORE_REGISTRY_MAX = 256, /* registry writes in one commit */
    MQ_STORE_INFLIGHT_MAX = 2,   /* commits under way at a time */
};

/* A job that is new to the store. Refused (reported in `dups`, nothing written for it) when its id
 * is in live, in dead, or in the done bucket of its ULID's minute or any later one up to now + 1
 * (the finish bucket is the minute of the id, see `finish`). */
typedef struct mq_store_create {
    mq_span id;      /* ULID */
    uint64_t number; /* submission number: gives the live segment */
    mq_span record;
    mq_span body; /* may be empty */
} mq_store_create;

/* New record of a live job. */
typedef struct mq_store_put {
    mq_span id;
    uint64_t number;
    mq_span record;
} mq_store_put;

/* The end of a job: removed from live and req; written to the done bucket of its id's minute with
 * its result, whose expiry becomes at least now + retention_ms; or, when is_dead, to dead with its
 * body. */
typedef struct mq_store_finish {
    mq_span id;
    uint64_t number;
    mq_span record;
    mq_span result;       /* may be empty */
    int64_t retention_ms; /* > 0; dead letters use it too (their own sweep is the core's) */
    bool is_dead;
    bool is_new; /* never was in live: created and ended at once (memo, failed parent) */
} mq_store_finish;

/* dead -> live again (operator's retry); its body goes back to req. */
typedef struct mq_store_revive {
    mq_span id;
    uint64_t number;
    mq_span record;
} mq_store_revive;

typedef struct mq_store_set {
    mq_span field;
    mq_span value; /* empty data (NULL): delete the field */
} mq_store_set;

typedef struct mq_store_count {
    mq_span name;
    int64_t delta;
} mq_store_count;

/* One turn's changes. Everything is borrowed until mq_store_commit returns. */
typedef struct mq_store_batch {
    uint64_t epoch;    /* the owner's */
    uint64_t sequence; /* stored + 1 */
    const mq_store_create *creates;
    const mq_store_put *puts;
    const mq_store_finish *finishes;
    const mq_store_revive *revives;
    const mq_store_set *registry;
    const mq_store_count *counters;
    uint32_t create_count, put_count, finish_count, revive_count, registry_count, counter_count;
    mq_span event; /* one packed or JSON entry for the events stream; empty = none */
} mq_store_batch;

typedef enum mq_store_verdict {
    MQ_STORE_OK,     /* applied (but for the creates listed as dups) */
    MQ_STORE_DUP,    /* this sequence had been applied before; dups as then are not known */
    MQ_STORE_FENCED, /* epoch is not the owner's: stop serving, reload */
    MQ_STORE_GAP,    /* sequence is not stored + 1: reload */
    MQ_STORE_FULL,   /* creates refused for memory; nothing applied */
    MQ_STORE_FAILED, /* no answer or an error reply (text in err): outcome unknown, reconnect and
                        reload */
} mq_store_verdict;

typedef struct mq_store_reply {
    mq_store_verdict verdict;
    uint64_t sequence;
    const uint32_t *dups; /* indices into creates whose ids already existed */
    uint32_t dup_count;
    mq_error err;
} mq_store_reply;

typedef void mq_store_on_commit(void *arg, const mq_store_reply *reply);

/* What acquire found. */
typedef struct mq_store_owner {
    uint64_t epoch;    /* ours when is_ours */
    uint64_t sequence; /* last applied */
    bool is_ours;
    char owner[64]; /* who holds it when not ours */
    char endpoint[128];
    int64_t until_ms;    /* Redis time */
    int64_t now_ms;      /* Redis time at the answer */
    uint64_t used_bytes; /* INFO memory, for the BUSY threshold; 0 = no maxmemory */
    uint64_t max_bytes;
    char instance[64]; /* mq:instance; created by the very first acquire on an empty store when
                          may_init, else empty and MQ_E_NOT_FOUND */
} mq_store_owner;

typedef void mq_store_on_owner(void *arg, mq_code code, const mq_store_owner *owner,
                               const mq_error *err);

/* Which part a scan or get reads. */
typedef enum mq_store_part {
    MQ_PART_LIVE, /* one segment: field = id, value = record */
    MQ_PART_REQ,  /* bodies */
    MQ_PART_DEAD,
    MQ_PART_REGISTRY,
    MQ_PART_COUNTERS,
} mq_store_part;

/* One call per field, then one with field.data == NULL and code MQ_OK (end) or an error. */
typedef void mq_store_on_field(void *arg, mq_code code, mq_span field, mq_span value,
                               const mq_error *err);

/* A finished or dead job: record and result, or MQ_E_NOT_FOUND. */
typedef void mq_store_on_job(void *arg, mq_code code, mq_span record, mq_span result,
                             const mq_error *err);

typedef struct mq_store mq_store;

typedef struct mq_store_ops {
    /* Takes ownership of the shard, or renews it (same owner): with is_takeover the epoch grows.
     * Expiry of another's tenure is judged by the store's own clock. */
    mq_code (*acquire)(mq_store *, mq_span owner, mq_span endpoint, int64_t ttl_ms,
                       bool is_takeover, bool may_init, mq_store_on_owner *, void *arg, mq_error *);
    /* Gives the shard up at a clean stop, if epoch is still ours. */
    mq_code (*release)(mq_store *, uint64_t epoch, mq_store_on_owner *, void *arg, mq_error *);
    mq_code (*commit)(mq_store *, const mq_store_batch *, mq_store_on_commit *, void *arg,
                      mq_error *);
    /* segments: numbers of non-empty live segments come as fields (decimal text). */
    mq_code (*segments)(mq_store *, mq_store_on_field *, void *arg, mq_error *);
    mq_code (*scan)(mq_store *, mq_store_part, uint64_t segment, mq_store_on_field *, void *arg,
                    mq_error *);
    /* Bodies of the given live ids (large ones included). */
    mq_code (*bodies)(mq_store *, const mq_span *ids, uint32_t count, mq_store_on_field *,
                      void *arg, mq_error *);
    mq_code (*job)(mq_store *, mq_span id, mq_store_on_job *, void *arg, mq_error *);
    /* Descriptor to poll and the events wanted; -1 while not connected. */
    int (*fd)(mq_store *);
    short (*events)(mq_store *);
    /* Reads, writes, calls back, reconnects with backoff (0.1 s to 2 s); now_ms is monotonic. Calls
     * that got no answer within 5 s, or whose connection broke, call back with an error: outcome
     * unknown. */
    void (*process)(mq_store *, short revents, int64_t now_ms);
    int64_t (*deadline)(mq_store *); /* monotonic ms at which process wants to run anyway */
    bool (*is_connected)(mq_store *);
    void (*free)(mq_store *);
} mq_store_ops;

struct mq_store {
    const mq_store_ops *ops;
};

/* url: "unix:/path/redis.sock[,user=U,secret=FILE]" or "tcp:HOST:PORT[,user=U,secret=FILE]" (the
 * secret file holds the password). Loads the function library when it is missing or older. Returns
 * owned, not yet connected. */
MQ_MUST_USE mq_code mq_store_redis_new(mq_store **out, const char *url, uint32_t shard,
                                       mq_error *err);

/* In-memory model. State survives `free` when the same mq_memory is given again (that is its
 * "disk"). */
typedef struct mq_memory mq_memory;
mq_memory *mq_memory_new(void);
void mq_memory_free(mq_memory *memory);
/* clock: the model's time in ms, read at each call; borrowed. Answers are queued until process. */
MQ_MUST_USE mq_code mq_store_memory_new(mq_store **out, mq_memory *memory, const int64_t *clock_ms,
                                        mq_error *err);

#endif
