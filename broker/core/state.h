/* The core's state, for the files of broker/core only. Everything is an array of fixed capacity and
 * an index into it; MQ_NONE is "no index". Nothing here is a pointer that outlives a step but for
 * the arrays themselves and the shell's mq_bytes. */
#ifndef MQ_BROKER_CORE_STATE_H
#define MQ_BROKER_CORE_STATE_H

#include "broker/core/core.h"
#include "broker/core/parts.h"
#include "shared/base/assert.h"
#include "shared/base/heap.h"
#include "shared/base/map.h"
#include "shared/base/math.h"
#include "shared/base/prng.h"
#include "shared/base/ulid.h"
#include "shared/job/kinds.h"

#define MQ_NONE UINT32_MAX

enum {
    MQ_UUID_LEN = 32,
    MQ_HASH_LEN = 64, /* a blob's name */
    MQ_TURN_TIMERS = 512,
    MQ_TURN_GRANTS = 1024,
    MQ_KEEP_MS = 10,  /* a create waits no longer for the end of its job */
    MQ_PACK_US = 200, /* jobs that together take no longer go to one worker ... */
    MQ_PACK_MAX = 64, /* ... up to so many */
    MQ_TURN_DEPS = 256,
    MQ_BATCH_WEIGHT_MAX = 4096,  /* answers and unpins that one commit releases */
    MQ_GANG_CHANGE_MS = 1000,    /* a gang takes new members in at most this often */
    MQ_GANG_PATIENCE_MS = 10000, /* then slots are kept free for it, half of the time */
    MQ_GANG_RESERVE_MS = 60000,
    MQ_NOTE_LOG_MAX = 4096, /* bytes of a job's last log lines that are kept */
    MQ_NOTE_LINE_MAX = 1024,
    MQ_NOTE_PROGRESS_MAX = 1024, /* a longer progress is not kept after the end */
    MQ_WORKER_MODELS = 8,        /* that a worker is remembered for */
    MQ_NAME_HINTS = 32,          /* names that are found without a look into their index */
};

/* ---- jobs ---- */

typedef enum mq_create {
    MQ_CREATE_NEW,  /* the store does not know it yet */
    MQ_CREATE_SENT, /* its create is under way */
    MQ_CREATE_STORED,
    MQ_CREATE_REVIVE,  /* it is in dead, to be brought back */
    MQ_CREATE_DISCARD, /* it is in dead, to be put away for good */
} mq_create;

typedef struct mq_job {
    char id[MQ_ULID_SIZE];
    uint32_t id_hash;             /* mq_id_hash of it */
    char holder[MQ_UUID_LEN + 1]; /* UUID of the last worker it was granted to */
    char why[40];
    bool is_used;
    uint8_t state;  /* mq_state, as decided */
    uint8_t before; /* of a terminal state: the state before */
    uint8_t create; /* mq_create */
    uint8_t priority, code;
    uint8_t seats_min, seats_max;
    uint8_t chain_len, blob_len;
    uint16_t meta_len;
    uint16_t deps_len,
        deps_asked; /* bytes of `deps` in use; the first of them are being asked for */
    uint8_t history_count;
    bool is_replicated;
    bool is_unseen; /* its end is stored and waits for a replica */
    bool is_transient, is_quiet, is_cancelling, is_spent, is_accepted, is_fresh, is_watched;
    bool is_dirty;      /* in the dirty list */
    bool is_held_dirty; /* changed while its create was under way */
    bool is_ending;     /* its finish is under way */
    bool is_timed_out;  /* ran longer than max_run_ms and was told so */
    bool has_result, has_body;
    bool wait_stored, wait_body; /* what its JOB message still waits for */
    bool is_sent, is_dup;
    bool is_kept, was_kept; /* its create waits for its end (keep.c); did so */
    bool in_lane, wants_lane, in_unresolved, is_spawned;
    bool holds_key;                      /* is in the index of unique keys */
    bool runs_anyway;                    /* parents need only end */
    uint32_t kind, queue, model, tenant; /* names */
    uint32_t key, needs;                 /* names: limit key, what its worker must have */
    uint8_t limited; /* bits of mq_limit_type that count it while it is leased */
    uint32_t strand;
    uint32_t worker; /* index of the worker that holds it, MQ_NONE: nobody connected */
    uint32_t held_prev, held_next;
    uint32_t heap_child, heap_next, heap_prev; /* in its lane */
    uint32_t next_free, next_dirty, next_spawn, next_unresolved, next_unseen;
    uint32_t kept_prev, kept_next;
    uint32_t waiters, waiters_tail, waiter_weight;
    uint32_t parents, children; /* edges */
    uint32_t deps_left;         /* parents in memory that are not done */
    uint32_t gang, seat_next;
    uint32_t spawns;  /* children made by its result, via next_spawn */
    uint32_t entries; /* registry entries made by its result, via next_of_job */
    uint32_t attempts, attempts_max, crashes, crashes_max, lapses, grants;
    uint16_t lease_counts[3]; /* attempts, crashes, lapses when it was leased last */
    uint32_t lease_ms;
    uint64_t max_run_ms;
    uint64_t stored_sequence; /* replicated ones: commit of its create, then of its end */
    uint64_t number, epoch, grant;
    uint64_t hash[2];
    uint64_t conn; /* who submitted it; 0 = not of this broker's life */
    int64_t submitted_ms, run_at_ms, expires_ms, ready_ms, leased_ms, lease_until_ms, ended_ms;
    int64_t kept_ms;
    uint64_t queue_us, run_us, step;
    uint64_t body_bytes, result_bytes;
    mq_bytes *body, *result;
    mq_ref result_text;               /* result from a memo */
    mq_ref memo, trace, error, check; /* check: chain, blob, meta of the checkpoint */
    mq_ref unique, log, progress;
    uint32_t cron; /* registry entry + 1 that is written with its create; 0 = none */
    uint32_t backoff_ms, backoff_max_ms, log_lines;
    int64_t keep_ms;
    mq_ref deps; /* ids of parents that are no edges: not looked up yet */
    uint64_t history[MQ_RECORD_HISTORY_MAX];
} mq_job;

typedef struct mq_edge {
    uint32_t child, parent;
    uint32_t next_parent; /* of the same child */
    uint32_t next_child;  /* of the same parent */
    uint32_t prev_child, next_free;
} mq_edge;

/* Waiting jobs are kept in four levels, each a heap of the next:
 *     lane    (queue, kind, needs, gang or not, model of transient ones): the same workers fit
 *     flow    (lane, tenant): fairness
 *     strand  (flow, limit key): what a limit of a key holds back as a whole
 *     job     by priority, then age
 * So whatever holds a job back - a pause, a limit, no worker - is found once for all jobs that it
 * holds back, and none of them is looked at. */
typedef struct mq_lane {
    bool is_used, is_gang, is_transient, is_paused;
    bool is_limited; /* one of limits is not 0 */
    uint32_t queue, kind, model, needs;
    uint32_t limits[2];  /* of its queue and of its kind; 0 = none */
    uint32_t root;       /* heap of flows that have a ready strand */
    uint32_t flow_count; /* all of them */
    uint32_t count;      /* jobs */
    uint32_t blocked;    /* of them, in strands that wait for the limit of their key */
    uint32_t next_free;
    uint64_t stuck_turn; /* nobody could take its first job in this pass */
    uint8_t tag_count;
    uint32_t tags[MQ_NEEDS_TAGS_MAX]; /* names of the tags among its needs */
    uint64_t memory_bytes;            /* that a job of it needs */
} mq_lane;

typedef struct mq_flow {
    mq_node node; /* in its lane while a strand is ready */
    bool is_used;
    uint32_t lane, tenant;
    uint32_t root;         /* heap of ready strands */
    uint32_t strand_count; /* all of them */
    uint32_t next_free;
} mq_flow;

typedef struct mq_strand {
    mq_node node; /* in its flow while it is ready */
    bool is_used, is_blocked;
    uint32_t flow, key;
    uint32_t root, count; /* heap of jobs */
    uint32_t limit;       /* of its key; 0 = none */
    uint32_t blocked_prev, blocked_next;
    uint32_t next_free;
} mq_strand;

/* What a limit has of the fleet's, when several shards share it (lend.c). */
typedef struct mq_lent {
    bool is_lent;
    bool must_tell, is_wanted, was_needed; /* needed: as the book knows it */
    uint32_t held, share;                  /* permits; all but running and share go back */
    uint32_t tokens;
    uint32_t waiting; /* jobs under it; right only while asks are made */
    uint64_t number;  /* of the latest ask: only its answer counts */
    int64_t poll_ms, again_ms;
} mq_lent;

/* A limit in force, for the whole fleet (limit.c). Slot 0 is not used. */
typedef struct mq_limit {
    bool is_used;
    bool is_own;  /* set for this name, not made from "key=*" */
    uint8_t type; /* mq_limit_type */
    uint32_t name;
    uint32_t concurrency;     /* jobs leased at once; 0 = any number */
    uint32_t rate, period_ms; /* starts in each period; 0 = any number */
    uint32_t burst;           /* starts at once after a rest */
    uint32_t running;
    uint32_t strands; /* that wait under it, blocked or not */
    uint64_t level;   /* tokens x period_ms, at most burst x period_ms */
    int64_t filled_ms;
    uint32_t blocked_head, blocked_tail; /* strands */
    uint32_t next_free;
    mq_lent lent;
} mq_limit;

/* ---- workers and gangs ---- */

typedef struct mq_worker {
    bool is_used, is_draining, is_credit_known;
    char uuid[MQ_UUID_LEN + 1];
    char name[65], host[65], version[33], gang_unix[109], gang_tcp[129];
    uint64_t conn, pid, rss_bytes, load_milli;
    uint64_t credit_seq, beat_seq; /* each grows by itself */
    uint64_t free, sent, seen;
    uint32_t slots, fingerprint; /* fingerprint: a name */
    uint32_t kind_count, queue_count;
    uint32_t tag_count;
    uint32_t tags[16];                 /* names; but "queue=" and "online=" */
    uint64_t memory_bytes;             /* that its jobs may use together */
    uint64_t memory_held;              /* by those that said how much they need */
    uint32_t models[MQ_WORKER_MODELS]; /* names: of jobs it was sent last, newest first; 0 = none */
    uint32_t blob_count;
    char blobs[MQ_WORKER_MODELS][MQ_HASH_LEN]; /* of models, that its cache holds, as it says */
    uint32_t kinds[64];
    uint32_t queues[16]; /* of tags "queue=NAME"; none = all */
    uint32_t held_head;  /* jobs it holds alone */
    uint32_t reserved;   /* granted, but not sent yet */
    uint32_t busy;       /* jobs and seats it holds */
    uint32_t busy_batch; /* of them, those that are not transient */
    uint32_t online;     /* slots that only transient jobs may take (tag "online=N") */
    uint32_t next_free;
    int64_t seen_ms, joined_ms;
} mq_worker;

typedef enum mq_seat_phase {
    MQ_SEAT_JOINING, /* waits until its lease is stored */
    MQ_SEAT_ACTIVE,
    MQ_SEAT_DONE, /* gave its empty result */
} mq_seat_phase;

typedef struct mq_seat {
    uint32_t seat;
    uint32_t worker; /* MQ_NONE: loaded and not claimed yet */
    uint64_t grant;
    int64_t lease_until_ms;
    mq_seat_phase phase;
    bool is_accepted, is_sent;
    char uuid[MQ_UUID_LEN + 1];
} mq_seat;

typedef struct mq_gang {
    bool is_used;
    bool is_recovered; /* loaded: no roster of this owner yet */
    bool roster_due, jobs_due;
    uint32_t job, count, next_free, fingerprint;
    uint64_t gang_epoch;
    int64_t changed_ms;
    int64_t told_ms; /* last roster */
    mq_seat seats[MQ_GANG_SEATS_MAX];
} mq_gang;

/* ---- answers that wait ---- */

typedef enum mq_wait_type {
    MQ_WAIT_SUBMITTED,
    MQ_WAIT_REPLY,
    MQ_WAIT_VERDICT,
    MQ_WAIT_CHECKPOINTED,
    MQ_WAIT_JOB,    /* a later attempt, or seats that join */
    MQ_WAIT_UNPIN,  /* text: blob names, 64 digits each */
    MQ_WAIT_UNIQUE, /* text: id of a submit that this live job's key kept out */
} mq_wait_type;

typedef struct mq_waiter {
    uint32_t next, next_free;
    uint32_t job;    /* MQ_NONE: of a registry entry */
    uint8_t type;    /* mq_wait_type */
    uint8_t verdict; /* mq_wait_verdict */
    uint64_t conn, rid;
    uint64_t epoch, grant, step;
    uint64_t sequence; /* held for a replica (replica.c): step is then a state, text an id */
    int64_t until_ms;
    uint64_t hash[2];
    mq_ref text;
} mq_waiter;

typedef enum mq_wait_verdict { MQ_SAY_OK, MQ_SAY_DUP, MQ_SAY_STALE } mq_wait_verdict;

typedef enum mq_ask_type {
    MQ_ASK_NONE,
    MQ_ASK_DEP,    /* is this parent of job done? */
    MQ_ASK_SUBMIT, /* a create was a dup: how does the job stand? */
    MQ_ASK_RESULT, /* result of a job that is not in memory */
    MQ_ASK_CANCEL,
    MQ_ASK_RETRY,   /* operator's retry of a dead job */
    MQ_ASK_DISCARD, /* a dead job is to go for good */
} mq_ask_type;

typedef struct mq_ask {
    uint8_t type;
    char id[MQ_ULID_SIZE]; /* of the job that is asked for */
    char worker[MQ_UUID_LEN + 1];
    uint32_t job; /* DEP: the child */
    uint32_t next_free;
    uint64_t conn, rid, epoch, grant;
    uint64_t number; /* DEP: of the child */
    uint64_t hash[2];
} mq_ask;

/* ---- registry ---- */

/* A model, a dataset, a memo or a queue's settings. */
typedef struct mq_object {
    bool is_used;
    uint8_t type; /* mq_entry_type: MODEL, DATASET, MEMO or QUEUE */
    mq_ref name;
    uint32_t entries;      /* versions upwards, then aliases */
    uint32_t last_version; /* ever given */
    uint32_t next_free;
} mq_object;

typedef struct mq_reg {
    bool is_used;
    bool is_pending; /* waits for the commit of the job that made it */
    bool is_dirty;
    bool is_deleted, is_paused, is_draining; /* from the value */
    uint32_t number;                         /* the first one, from the value */
    uint32_t target;                         /* alias: version, from the value */
    uint8_t type;                            /* mq_entry_type */
    uint32_t object, version;
    mq_ref alias, value; /* value: packed, as stored */
    uint32_t next;       /* of its object */
    uint32_t next_dirty, next_of_job, next_free;
    uint32_t waiters, waiters_tail;
} mq_reg;

typedef struct mq_blob {
    char hash[MQ_HASH_LEN];
    uint32_t refs, next_free;
} mq_blob;

/* ---- ended jobs that are remembered ---- */

typedef struct mq_recent {
    char id[MQ_ULID_SIZE];
    uint32_t id_hash;
    uint8_t state;
    bool is_gang;
    char why[40];
    uint32_t kind, queue, model; /* names, one reference each */
    uint64_t hash[2], epoch, grant;
    uint64_t queue_us, run_us;
    int64_t submitted_ms, ended_ms;
    char holder[MQ_UUID_LEN + 1];
} mq_recent;

/* ---- commits ---- */

typedef enum mq_op {
    MQ_OP_CREATE,
    MQ_OP_PUT,
    MQ_OP_FINISH,
    MQ_OP_FINISH_NEW, /* created and ended at once */
    MQ_OP_REVIVE,
    MQ_OP_DISCARD,
} mq_op;

typedef struct mq_flight {
    uint64_t sequence;  /* 0 = free */
    bool is_replicated; /* answers of it wait for a replica too */
    uint32_t job_count, entry_count, create_count, finish_count;
    uint32_t waiters, waiters_tail;
    uint32_t jobs[MQ_STORE_JOBS_MAX];
    uint8_t ops[MQ_STORE_JOBS_MAX];
    uint32_t creates[MQ_STORE_JOBS_MAX];  /* job of the n-th create */
    uint32_t finishes[MQ_STORE_JOBS_MAX]; /* the same of finishes */
    uint32_t entries[MQ_STORE_REGISTRY_MAX];
    mq_tally tally;
} mq_flight;

/* What a batch is made of; reused for each. */
typedef struct mq_assembly {
    mq_store_batch batch;
    mq_store_create creates[MQ_STORE_JOBS_MAX];
    mq_store_put puts[MQ_STORE_JOBS_MAX];
    mq_store_finish finishes[MQ_STORE_JOBS_MAX];
    mq_store_revive revives[MQ_STORE_JOBS_MAX];
    mq_store_set sets[MQ_STORE_REGISTRY_MAX];
    char fields[MQ_STORE_REGISTRY_MAX][MQ_ENTRY_FIELD_MAX];
    uint32_t field_len[MQ_STORE_REGISTRY_MAX];
    size_t bytes, weight;
    mq_buf records;
    uint8_t record_bytes[MQ_BATCH_BYTES_MAX + 2 * MQ_RECORD_BYTES_MAX * 65];
} mq_assembly;

/* ---- the core ---- */

/* A kind of the user's own, as a worker announced it (kinds.c). */
enum { MQ_TOLD_KINDS_MAX = 128 };

typedef struct mq_told_kind {
    char name[65];
    mq_kind_policy policy; /* its name points at the above */
} mq_told_kind;

struct mq_core {
    mq_core_config config;
    int64_t now_ms;
    bool is_begun, is_loading, is_full;
    uint64_t epoch, sequence; /* of the last commit sent */
    /* replica.c: commits up to `stored` are stored, up to `replicated` held by enough replicas */
    uint64_t stored, replicated, begun_sequence;
    bool is_replica_open, was_replica_open;
    uint32_t replica_count;
    uint32_t confirm_head, confirm_tail, confirm_count; /* answers that wait for a replica */
    uint32_t unseen_head, unseen_tail, unseen_count;    /* jobs whose end does */
    uint64_t next_number, next_grant, next_gang;
    int64_t begun_ms; /* ids of this time and later were not used before this ownership */
    uint64_t turn;
    int64_t affinity_ms; /* when the first job stops waiting for a worker that has its model */
    int64_t workers_checked_ms;
    mq_prng prng;
    mq_core_stats stats;
    mq_tally tally; /* since the last commit */
    uint64_t held_bytes;
    uint32_t live; /* durable jobs not ended */
    uint32_t transient;
    uint32_t slots_connected;
    int64_t evicted_id_ms; /* newest id that was forgotten again */
    bool wants_turn;       /* work is left over */
    mq_told_kind told_kinds[MQ_TOLD_KINDS_MAX];
    uint32_t told_kind_count, told_kind_next;
    mq_error err;         /* of the input at hand */
    mq_job_record record; /* scratch: the record at hand */
    mq_ask asked;         /* scratch: the question that was answered */
    mq_entry entry;       /* scratch: the registry value at hand */
    mq_entry making;      /* scratch: the registry value to be written */
    mq_buf packed;        /* scratch, over packed_bytes */
    uint8_t packed_bytes[MQ_ENTRY_BYTES_MAX];
    char needs[MQ_NEEDS_BYTES_MAX + 1]; /* scratch of mq_needs_text */
    uint32_t reserved_for; /* fingerprint whose slots are kept for a gang in this pass; 0 = none */

    mq_job *jobs;
    mq_edge *edges;
    mq_name *names;
    mq_lane *lanes;
    mq_flow *flows;
    mq_strand *strands;
    mq_limit *limits;
    mq_worker *workers;
    mq_gang *gangs;
    mq_waiter *waiters;
    mq_ask *asks;
    mq_object *objects;
    mq_reg *regs;
    mq_blob *blobs;
    mq_recent *recents;
    mq_slots job_slots, edge_slots, name_slots, lane_slots, flow_slots, strand_slots, limit_slots,
        worker_slots, gang_slots, waiter_slots, ask_slots, object_slots, reg_slots, blob_slots;
    uint64_t lend_number;
    int64_t lend_due_ms;   /* when asks are looked for */
    uint64_t recent_total; /* ever remembered; the newest is at (total - 1) % recent_max */

    mq_index job_index, name_index, lane_index, flow_index, strand_index, worker_index,
        object_index, blob_index, recent_index, unique_index;
    mq_heap timers;       /* per job */
    mq_heap limit_timers; /* per limit: when to look at it again */
    mq_limit every_key;   /* "key=*": what each key gets that has no limit of its own */
    uint32_t name_hints[MQ_NAME_HINTS]; /* table.c */
    uint32_t strand_hint;               /* strand.c */
    bool has_draining;                  /* some queue takes no new jobs */
    uint64_t virtual_now[MQ_RANKS];     /* fairness: start of what was granted last (fair.c) */
    mq_pool pool;

    uint32_t dirty_head, dirty_tail;
    uint32_t kept_head, kept_tail; /* jobs whose create waits, oldest first */
    uint32_t dirty_reg_head, dirty_reg_tail;
    uint32_t unresolved_head, unresolved_tail; /* jobs whose deps are not looked up yet */
    uint64_t *idle;                            /* a bit for each worker (idle.c) */
    uint32_t worker_cursor;
    uint32_t pack_worker, pack_left; /* it gets so many more jobs of pack_lane in this pass */
    const mq_lane *pack_lane;
    uint32_t flights_used;
    mq_flight flights[MQ_STORE_INFLIGHT_MAX];
    mq_assembly *assembly;

    /* Freed at the start of the next step, so that outputs may point at them. */
    uint32_t grave_count, grave_ref_count;
    uint32_t *graves;
    mq_ref *grave_refs;
    uint32_t graves_max;
};

#include "broker/core/calls.h"

#endif
