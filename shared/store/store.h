/* The durable record of one shard. Policy lives in the broker's core; the store only applies what
 * the core decided, fenced and atomic, and gives it back after a crash. Two implementations of one
 * interface: Redis Functions (store_redis.c) and an in-memory model (store_memory.c), which the
 * differential test and later the simulator run against each other.
 *
 * Keys in Redis (keys.c holds every name), {s} = {mq:<shard>} so that a shard stays in one slot:
 *   mq:instance              UUID of this deployment, written once at init
 *   mq:cluster               hash: brokers, who owns which shard, wishes of operators (cluster.h)
 *   mq:lend                  hash: permits of limits, lent to shards (lend.h)
 *   {s}:owner                hash: owner, epoch, until, sequence, endpoint, lineage
 *   {s}:segments             set: numbers of the live segments that are not empty
 *   {s}:live:<segment>       hash id -> packed record; segment = submission number / 16,384
 *   {s}:req                  hash id -> request body, written once (empty when it is a large one)
 *   {s}:ref                  hash id -> token of its large body; only ids that have one
 *   {s}:done:<minute>        hash id -> packed record + result (value.h); expires as a whole,
 *                            extended by each finish
 *   {s}:dead, {s}:dead:req   hashes id -> packed record + result / request body
 *   {s}:reg                  hash field -> registry value (versions, aliases, datasets, memos)
 *   {s}:count                hash of counters
 *   {s}:events               stream, capped at about 10,000
 *   {s}:body:<token>:<id>    bodies above MQ_STORE_INLINE_MAX; token = epoch.sequence.attempt
 *   {s}:result:<token>:<id>  results above it, with an expiry of their own
 *
 * All calls are asynchronous: an answer comes through the callback from mq_store_process. One
 * thread. */
#ifndef MQ_STORE_STORE_H
#define MQ_STORE_STORE_H

#include "shared/base/buf.h"
#include "shared/base/error.h"

enum {
    MQ_STORE_SEGMENT_JOBS = 16384,
    MQ_STORE_INLINE_MAX = 4096,     /* larger values do not pass through Lua */
    MQ_STORE_JOBS_MAX = 512,        /* creates + puts + finishes + revives in one commit */
    MQ_STORE_REGISTRY_MAX = 256,    /* registry writes in one commit */
    MQ_STORE_COUNTERS_MAX = 256,    /* counters in one commit */
    MQ_STORE_INFLIGHT_MAX = 2,      /* commits under way at a time */
    MQ_STORE_WAIT_MS_MAX = 1000,    /* of ops.replicas */
    MQ_STORE_CALLS_MAX = 64,        /* other calls under way at a time */
    MQ_STORE_RECORD_MAX = 64 << 10, /* bytes of a packed record */
    MQ_STORE_REGISTRY_VALUE_MAX = 1 << 20,
    MQ_STORE_BODY_MAX = 16 << 20, /* bytes of a body or result */
    MQ_STORE_EVENT_MAX = 64 << 10,
    MQ_STORE_NAME_MAX = 512,    /* bytes of a registry field or counter name */
    MQ_STORE_EVENTS_SCAN = 256, /* newest events a scan gives */
};

/* Ids are ULIDs in every call. Within one batch an id stands at most once (what happened to a job
 * in one turn is folded into its final record); the model asserts it.
 *
 * A job that is new to the store. Refused (reported in `dups`, nothing written for it) when its id
 * is in live, in dead, or in the done bucket of its ULID's minute. */
typedef struct mq_store_create {
    mq_span id;      /* ULID */
    uint64_t number; /* submission number: gives the live segment */
    mq_span record;
    mq_span body; /* may be empty */
} mq_store_create;

/* New record of a live job. Ignored (counted in ignored_count) when the id is not live in the
 * segment of `number`: a change of a job whose create was refused in an earlier commit has no
 * effect. */
typedef struct mq_store_put {
    mq_span id;
    uint64_t number;
    mq_span record;
} mq_store_put;

/* The end of a job: removed from live and req; written to the done bucket of its id's minute with
 * its result, whose expiry becomes at least now + retention_ms; or, when is_dead, to dead with its
 * body, for as long as it takes until it is revived or put away. Ignored, like a put, when the job
 * is not live; an is_new one is refused, like a create, when the id exists anywhere. was_dead: it
 * is a dead letter that goes to done for good (sweep, or an operator discards it); ignored when it
 * is not in dead. At most one of the three flags may be set. */
typedef struct mq_store_finish {
    mq_span id;
    uint64_t number;
    mq_span record;
    mq_span result;       /* may be empty */
    int64_t retention_ms; /* 1 ms .. 3660 days; of a dead letter: of a result that is large */
    bool is_dead;
    bool is_new;   /* never was in live: created and ended at once (memo, failed parent) */
    bool was_dead; /* is in dead, not in live */
} mq_store_finish;

/* dead -> live again (operator's retry); its body goes back to req. Ignored when it is not in dead.
 */
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
    int64_t delta; /* -2^31 .. 2^31 */
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
    MQ_STORE_FULL,   /* creates refused for memory, or an earlier commit still under way was;
                        nothing applied: send again without creates, same sequence */
    MQ_STORE_FAILED, /* no answer or an error reply (text in err): outcome unknown, reconnect and
                        reload */
} mq_store_verdict;

typedef struct mq_store_reply {
    mq_store_verdict verdict;
    uint64_t sequence;
    const uint32_t *dups; /* indices of creates whose ids already existed, ascending; create_count +
                             i is finish i, an is_new one. Borrowed during the call. */
    uint32_t dup_count;
    uint32_t ignored_count; /* puts, finishes and revives without a job to apply to */
    mq_error err;
} mq_store_reply;

typedef void mq_store_on_commit(void *arg, const mq_store_reply *reply);

/* Each takeover gives the shard's data a random id, 16 hexadecimal digits; the newest of them are
 * kept with the data, newest first, dots between: their lineage. Data that lack an id that they
 * once had are not what they were: a former primary, a restored copy, whatever their epoch and
 * sequence say. */
enum {
    MQ_LINEAGE_IDS = 64,
    MQ_LINEAGE_ID_SIZE = 17,
    MQ_LINEAGE_SIZE = MQ_LINEAGE_IDS * MQ_LINEAGE_ID_SIZE,
};

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
    uint32_t replicas;             /* connected and online; only a hint, see ops.replicas */
    char lineage[MQ_LINEAGE_SIZE]; /* "" before the first takeover; of acquire only */
    char instance[64]; /* mq:instance; created by the very first acquire on an empty store when
                          may_init, else empty and MQ_E_NOT_FOUND. A shard with data but without it
                          is a damaged store: MQ_E_CORRUPT, never initialised again. */
} mq_store_owner;

typedef void mq_store_on_owner(void *arg, mq_code code, const mq_store_owner *owner,
                               const mq_error *err);

/* Which part a scan or get reads. */
typedef enum mq_store_part {
    MQ_PART_LIVE, /* one segment: field = id, value = record */
    MQ_PART_REQ,  /* bodies; a large one comes empty here, ask `bodies` */
    MQ_PART_DEAD, /* field = id, value = record */
    MQ_PART_REGISTRY,
    MQ_PART_COUNTERS, /* value in decimal */
    MQ_PART_EVENTS,   /* field = time in ms, value = entry; newest first, MQ_STORE_EVENTS_SCAN */
} mq_store_part;

/* One call per field, then one with field.data == NULL and code MQ_OK (end) or an error. A segment
 * is one snapshot. The other parts are read in pieces: a field that changes meanwhile may come with
 * its old or its new value or twice (the later one counts), one that is added may be missed. Spans
 * are borrowed during the call. */
typedef void mq_store_on_field(void *arg, mq_code code, mq_span field, mq_span value,
                               const mq_error *err);

/* A live, finished or dead job (looked up in this order): record and result, or MQ_E_NOT_FOUND. A
 * result whose own retention is over comes empty. */
typedef void mq_store_on_job(void *arg, mq_code code, mq_span record, mq_span result,
                             const mq_error *err);

/* What trim does to a bucket. */
typedef enum mq_store_trim {
    MQ_TRIM_LOOK,    /* nothing */
    MQ_TRIM_RESULTS, /* its results go, the records stay: their ids are still known */
    MQ_TRIM_ALL,     /* records too */
} mq_store_trim;

/* Name of the counter that commits keep for a done bucket: bytes of its records and results. */
#define MQ_STORE_KEPT_PREFIX "kept/"

/* So many replicas have received everything up to commit `sequence` of this shard, and all that was
 * read by the acquire before it; received, not fsynced. With a code other than MQ_OK, count is 0.
 */
typedef void mq_store_on_replicas(void *arg, mq_code code, uint64_t sequence, uint32_t count,
                                  const mq_error *err);

typedef struct mq_store mq_store;

/* Calls return MQ_OK when the answer will come by the callback, exactly once (free counts: then
 * with an error). On an error here the callback is never called and nothing was sent: MQ_E_BUSY
 * (too many calls under way, or not connected), MQ_E_ARG and MQ_E_LIMIT (the batch breaks a stated
 * limit). Callbacks may call the store again, but must not free it. */
typedef struct mq_store_ops {
    /* Takes ownership of the shard, or renews it (same owner): with is_takeover the epoch grows.
     * Expiry of another's tenure is judged by the store's own clock. seen: an id of the lineage,
     * "" = none known; a store that lacks it is left as it is, and is not ours. */
    mq_code (*acquire)(mq_store *, mq_span owner, mq_span endpoint, int64_t ttl_ms,
                       bool is_takeover, bool may_init, mq_span seen, mq_store_on_owner *,
                       void *arg, mq_error *);
    /* Gives the shard up at a clean stop; MQ_E_STALE when epoch is not the owner's. */
    mq_code (*release)(mq_store *, uint64_t epoch, mq_store_on_owner *, void *arg, mq_error *);
    mq_code (*commit)(mq_store *, const mq_store_batch *, mq_store_on_commit *, void *arg,
                      mq_error *);
    /* segments: numbers of non-empty live segments come as fields (decimal text). */
    mq_code (*segments)(mq_store *, mq_store_on_field *, void *arg, mq_error *);
    mq_code (*scan)(mq_store *, mq_store_part, uint64_t segment, mq_store_on_field *, void *arg,
                    mq_error *);
    /* Bodies of the given live ids, large ones included, in any order; ids that are not live are
     * left out. At most MQ_STORE_JOBS_MAX. */
    mq_code (*bodies)(mq_store *, const mq_span *ids, uint32_t count, mq_store_on_field *,
                      void *arg, mq_error *);
    mq_code (*job)(mq_store *, mq_span id, mq_store_on_job *, void *arg, mq_error *);
    /* The done bucket of a minute makes room before its time. Gives two fields in decimal: "freed",
     * bytes, which the counter MQ_STORE_KEPT_PREFIX<minute> loses, and "there", 1 while the bucket
     * is; without it the counter goes too. MQ_E_STALE when epoch is not the owner's. Piece by
     * piece: jobs that end meanwhile may be left out. */
    mq_code (*trim)(mq_store *, uint64_t epoch, uint64_t minute, mq_store_trim, mq_store_on_field *,
                    void *arg, mq_error *);
    /* How many replicas hold all commits sent so far (those whose large values are still on their
     * way are not among them). Returns when `enough` of them do, after wait_ms (1 .. 1000) at the
     * latest; what is sent behind it waits as long. */
    mq_code (*replicas)(mq_store *, uint32_t enough, int64_t wait_ms, mq_store_on_replicas *,
                        void *arg, mq_error *);
    /* Descriptor to poll and the events wanted; -1 while not connected. */
    int (*fd)(mq_store *);
    short (*events)(mq_store *);
    /* revents: as poll gave them for fd. Reads, writes, calls back, reconnects with backoff (0.1 s
     * to 2 s); now_ms is monotonic. Calls that got no answer within 5 s, or whose connection broke,
     * call back with an error: outcome unknown. */
    void (*process)(mq_store *, short revents, int64_t now_ms);
    int64_t (*deadline)(mq_store *); /* monotonic ms at which process wants to run anyway */
    bool (*is_connected)(mq_store *);
    void (*free)(mq_store *);
} mq_store_ops;

struct mq_store {
    const mq_store_ops *ops;
};

/* url: "unix:/path/redis.sock[,user=U,secret=FILE]" or "tcp:HOST:PORT[,user=U,secret=FILE]" (the
 * secret file holds the password). Loads the function library when it is missing or older; where
 * its user may not do that (the broker's user in deploy/redis), mq_store_redis_load must have run
 * before. Returns owned, not yet connected: call process until is_connected. */
MQ_MUST_USE mq_code mq_store_redis_new(mq_store **out, const char *url, uint32_t shard,
                                       mq_error *err);

/* Why there is no connection (text of the last failed attempt), or "" while there is one. Borrowed
 * until the next process. Redis store only. */
const char *mq_store_redis_trouble(const mq_store *store);

/* Loads the function library and waits for it, at most 30 s: for the deploy user, before brokers
 * start. Nothing is done when the same or a newer revision is there. */
MQ_MUST_USE mq_code mq_store_redis_load(const char *url, mq_error *err);

/* In-memory model. State survives `free` when the same mq_memory is given again (that is its
 * "disk"); several stores may work on one at a time. A commit is applied when it is called; freeing
 * the store before process has run is the crash in which the answer is lost. */
typedef struct mq_memory mq_memory;
mq_memory *mq_memory_new(void);
void mq_memory_free(mq_memory *memory);
/* Creates are refused (MQ_STORE_FULL) while more than max_bytes are stored; 0 = no limit. */
void mq_memory_set_max(mq_memory *memory, uint64_t max_bytes);
/* So many replicas hold the commits up to this one; none at first. */
void mq_memory_set_replicas(mq_memory *memory, uint32_t count, uint64_t sequence);
/* clock: the model's time in ms, read at each call; borrowed. Answers are queued until process. */
MQ_MUST_USE mq_code mq_store_memory_new(mq_store **out, mq_memory *memory, const int64_t *clock_ms,
                                        mq_error *err);

#endif
