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

#define MQ_NONE UINT32_MAX

enum {
    MQ_UUID_LEN = 32,
    MQ_HASH_LEN = 64, /* a blob's name */
    MQ_TURN_TIMERS = 512,
    MQ_TURN_GRANTS = 1024,
    MQ_TURN_DEPS = 256,
    MQ_BATCH_WEIGHT_MAX = 4096,  /* answers and unpins that one commit releases */
    MQ_GANG_CHANGE_MS = 1000,    /* a gang takes new members in at most this often */
    MQ_GANG_PATIENCE_MS = 10000, /* then slots are kept free for it, half of the time */
    MQ_GANG_RESERVE_MS = 60000,
};

/* ---- jobs ---- */

typedef enum mq_create {
    MQ_CREATE_NEW,  /* the store does not know it yet */
    MQ_CREATE_SENT, /* its create is under way */
    MQ_CREATE_STORED,
    MQ_CREATE_REVIVE, /* it is in dead, to be brought back */
} mq_create;

typedef struct mq_job {
    char id[MQ_ULID_SIZE];
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
    bool is_transient, is_quiet, is_cancelling, is_spent, is_accepted, is_fresh, is_watched;
    bool is_dirty;      /* in the dirty list */
    bool is_held_dirty; /* changed while its create was under way */
    bool is_ending;     /* its finish is under way */
    bool is_timed_out;  /* ran longer than max_run_ms and was told so */
    bool has_result, has_body;
    bool wait_stored, wait_body; /* what its JOB message still waits for */
    bool is_sent, is_dup;
    bool in_lane, wants_lane, in_unresolved, is_spawned;
    uint32_t kind, queue, model, tenant; /* names */
    uint32_t lane;
    uint32_t worker; /* index of the worker that holds it, MQ_NONE: nobody connected */
    uint32_t held_prev, held_next;
    uint32_t heap_child, heap_next, heap_prev; /* in its lane */
    uint32_t next_free, next_dirty, next_spawn, next_unresolved;
    uint32_t waiters, waiters_tail, waiter_weight;
    uint32_t parents, children; /* edges */
    uint32_t deps_left;         /* parents in memory that are not done */
    uint32_t gang, seat_next;
    uint32_t spawns;  /* children made by its result, via next_spawn */
    uint32_t entries; /* registry entries made by its result, via next_of_job */
    uint32_t attempts, attempts_max, crashes, crashes_max, lapses, grants;
    uint32_t lease_ms;
    uint64_t max_run_ms;
    uint64_t number, epoch, grant;
    uint64_t hash[2];
    uint64_t conn; /* who submitted it; 0 = not of this broker's life */
    int64_t submitted_ms, run_at_ms, expires_ms, ready_ms, leased_ms, lease_until_ms, ended_ms;
    uint64_t queue_us, run_us, step;
    uint64_t body_bytes, result_bytes;
    mq_bytes *body, *result;
    mq_ref result_text;               /* result from a memo */
    mq_ref memo, trace, error, check; /* check: chain, blob, meta of the checkpoint */
    mq_ref deps;                      /* ids of parents that are no edges: not looked up yet */
    uint64_t history[MQ_RECORD_HISTORY_MAX];
} mq_job;

typedef struct mq_edge {
    uint32_t child, parent;
    uint32_t next_parent; /* of the same child */
    uint32_t next_child;  /* of the same parent */
    uint32_t prev_child, next_free;
} mq_edge;

/* Waiting jobs of one (queue, kind, gang or not, model of transient ones), a pairing heap by
 * priority, then age. */
typedef struct mq_lane {
    bool is_used, is_gang, is_paused;
    uint32_t queue, kind, model;
    uint32_t root, count;
    uint32_t next_free;
    uint64_t stuck_turn; /* nobody could take its first job in this pass */
} mq_lane;

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
    uint32_t kinds[64];
    uint32_t queues[16]; /* of tags "queue=NAME"; none = all */
    uint32_t held_head;  /* jobs it holds alone */
    uint32_t reserved;   /* granted, but not sent yet */
    uint32_t busy;       /* jobs and seats it holds */
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
    MQ_WAIT_JOB,   /* a later attempt, or seats that join */
    MQ_WAIT_UNPIN, /* text: blob names, 64 digits each */
} mq_wait_type;

typedef struct mq_waiter {
    uint32_t next, next_free;
    uint32_t job;    /* MQ_NONE: of a registry entry */
    uint8_t type;    /* mq_wait_type */
    uint8_t verdict; /* mq_wait_verdict */
    uint64_t conn, rid;
    uint64_t epoch, grant, step;
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
    MQ_ASK_RETRY, /* operator's retry of a dead job */
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
    bool is_deleted, is_paused; /* from the value */
    uint32_t target;            /* alias: version, from the value */
    uint8_t type;               /* mq_entry_type */
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

typedef enum mq_op { MQ_OP_CREATE, MQ_OP_PUT, MQ_OP_FINISH, MQ_OP_REVIVE } mq_op;

typedef struct mq_flight {
    uint64_t sequence; /* 0 = free */
    uint32_t job_count, entry_count, create_count;
    uint32_t waiters, waiters_tail;
    uint32_t jobs[MQ_STORE_JOBS_MAX];
    uint8_t ops[MQ_STORE_JOBS_MAX];
    uint32_t creates[MQ_STORE_JOBS_MAX]; /* job of the n-th create */
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

struct mq_core {
    mq_core_config config;
    int64_t now_ms;
    bool is_begun, is_loading, is_full;
    uint64_t epoch, sequence; /* of the last commit sent */
    uint64_t next_number, next_grant, next_gang;
    int64_t begun_ms;
    uint64_t turn;
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
    mq_error err;          /* of the input at hand */
    mq_job_record record;  /* scratch: the record at hand */
    mq_ask asked;          /* scratch: the question that was answered */
    mq_entry entry;        /* scratch: the registry value at hand */
    mq_entry making;       /* scratch: the registry value to be written */
    mq_buf packed;         /* scratch, over packed_bytes */
    uint8_t packed_bytes[MQ_ENTRY_BYTES_MAX];
    uint32_t reserved_for; /* fingerprint whose slots are kept for a gang in this pass; 0 = none */

    mq_job *jobs;
    mq_edge *edges;
    mq_name *names;
    mq_lane *lanes;
    mq_worker *workers;
    mq_gang *gangs;
    mq_waiter *waiters;
    mq_ask *asks;
    mq_object *objects;
    mq_reg *regs;
    mq_blob *blobs;
    mq_recent *recents;
    mq_slots job_slots, edge_slots, name_slots, lane_slots, worker_slots, gang_slots, waiter_slots,
        ask_slots, object_slots, reg_slots, blob_slots;
    uint64_t recent_total; /* ever remembered; the newest is at (total - 1) % recent_max */

    mq_index job_index, name_index, lane_index, worker_index, object_index, blob_index,
        recent_index;
    mq_heap timers; /* per job */
    mq_pool pool;

    uint32_t dirty_head, dirty_tail;
    uint32_t dirty_reg_head, dirty_reg_tail;
    uint32_t unresolved_head, unresolved_tail; /* jobs whose deps are not looked up yet */
    uint32_t worker_cursor;
    uint32_t flights_used;
    mq_flight flights[MQ_STORE_INFLIGHT_MAX];
    mq_assembly *assembly;

    /* Freed at the start of the next step, so that outputs may point at them. */
    uint32_t grave_count, grave_ref_count;
    uint32_t *graves;
    mq_ref *grave_refs;
    uint32_t graves_max;
};

/* ---- table.c: slots, indices, names ---- */

/* Takes a slot of an array whose elements hold the index of the next free one at next_offset;
 * MQ_NONE when all are taken. The caller zeroes the element. */
uint32_t mq_slots_take(mq_slots *slots, const void *array, size_t stride, size_t next_offset);
#define MQ_TAKE(core, kind, array, type)                                                           \
    mq_slots_take(&(core)->kind##_slots, (core)->array, sizeof(type), offsetof(type, next_free))

/* Gives it back; the caller has stored the returned value in the element's next_free. */
uint32_t mq_slots_give(mq_slots *slots, uint32_t index);
bool mq_slots_has(const mq_slots *slots, uint32_t spare);

typedef bool mq_index_is(const mq_core *core, uint32_t value, const void *key);
uint32_t mq_index_find(const mq_core *core, const mq_index *index, uint32_t hash, mq_index_is *is,
                       const void *key);
void mq_index_put(const mq_core *core, mq_index *index, uint32_t value);
void mq_index_remove(const mq_core *core, mq_index *index, uint32_t value);

/* Index of a name with one more reference, MQ_NONE when the table or pool is full; 0 for "". */
uint32_t mq_name_take(mq_core *core, mq_span text);
uint32_t mq_name_find(const mq_core *core, mq_span text);
void mq_name_hold(mq_core *core, uint32_t name);
void mq_name_drop(mq_core *core, uint32_t name);
mq_span mq_name_text(const mq_core *core, uint32_t name);

uint32_t mq_id_hash(mq_span id);
void mq_table_init(mq_core *core);

/* ---- pool.c ---- */

void mq_pool_init(mq_pool *pool, uint8_t *base, uint64_t bytes);
/* Room for len bytes, or a ref with at 0 when len is 0 or there is none. */
mq_ref mq_pool_take(mq_pool *pool, size_t len);
void mq_pool_give(mq_pool *pool, mq_ref ref);
bool mq_pool_copy(mq_pool *pool, mq_span s, mq_ref *out); /* false: no room */
bool mq_pool_has(const mq_pool *pool, uint64_t bytes);
static inline mq_span mq_pool_span(const mq_pool *pool, mq_ref ref)
{
    return (mq_span){ref.at == 0 ? NULL : pool->base + (uint64_t)ref.at * MQ_POOL_UNIT,
                     ref.at == 0 ? 0 : ref.len};
}
static inline uint8_t *mq_pool_at(mq_pool *pool, mq_ref ref)
{
    return pool->base + (uint64_t)ref.at * MQ_POOL_UNIT;
}
/* Frees at the start of the next step. */
void mq_ref_drop(mq_core *core, mq_ref *ref);
void mq_graves_clear(mq_core *core);

/* ---- job.c: one job's life ---- */

static inline mq_job *mq_job_at(mq_core *core, uint32_t job)
{
    MQ_ASSERT(job < core->config.jobs_max && core->jobs[job].is_used);
    return &core->jobs[job];
}
static inline uint32_t mq_job_no(const mq_core *core, const mq_job *job)
{
    return (uint32_t)(job - core->jobs);
}
mq_job *mq_job_find(mq_core *core, mq_span id);
mq_job *mq_job_new(mq_core *core, mq_span id); /* NULL when full; put into the index */
void mq_job_free(mq_core *core, mq_job *job);  /* at the next step; gives back all it holds */
bool mq_job_ended(const mq_job *job);
/* The only place that changes a state: lanes, timers, counters, history, the dirty list. */
void mq_job_move(mq_core *core, mq_job *job, mq_event event, const char *why);
void mq_job_why(mq_job *job, const char *text, mq_span tail);
/* Puts a job that is QUEUED and may run into its lane (or ends it by its memo). */
void mq_job_ready(mq_core *core, mq_job *job);
void mq_job_timer(mq_core *core, mq_job *job);
void mq_job_dirty(mq_core *core, mq_job *job);
void mq_job_set_error(mq_core *core, mq_job *job, mq_span code, mq_span text);
void mq_job_fill(const mq_core *core, const mq_job *job, bool as_stored, mq_job_record *out);
/* Takes the input's bytes as the job's result. */
void mq_job_set_result(mq_core *core, mq_job *job, mq_bytes *bytes);
void mq_bytes_release(mq_core *core, mq_bytes *bytes, mq_outputs *out);

/* ---- text.c: messages without printf ---- */

void mq_text(mq_error *err, const char *text, mq_span tail);
mq_span mq_digits(uint64_t n, char out[21]); /* decimal */

/* ---- wait.c: answers ---- */

mq_output *mq_out_add(mq_outputs *out, mq_output_type type, uint64_t conn, uint64_t rid);
/* Text that lives as long as the outputs. */
mq_span mq_out_text(mq_outputs *out, mq_span a, mq_span b, mq_span c);
/* Gives back bytes of an input that were not kept. */
void mq_out_refuse(mq_outputs *out, mq_bytes *bytes);
/* New waiter on the job (and the job becomes dirty, so that it is released), NULL when full. */
mq_waiter *mq_wait_job(mq_core *core, mq_job *job, mq_wait_type type, uint64_t conn, uint64_t rid);
mq_waiter *mq_wait_reg(mq_core *core, uint32_t reg, mq_wait_type type, uint64_t conn, uint64_t rid);
bool mq_wait_room(const mq_core *core, uint32_t count);
void mq_wait_release(mq_core *core, uint32_t head, mq_outputs *out);
void mq_wait_free(mq_core *core, uint32_t waiter);
void mq_say_submitted(mq_outputs *out, uint64_t conn, uint64_t rid, mq_span id, const char *verdict,
                      const char *state, const char *text, uint64_t retry_ms);
void mq_say_reply(mq_outputs *out, uint64_t conn, uint64_t rid, const char *verdict,
                  const char *state, const char *text);
void mq_say_verdict(mq_outputs *out, uint64_t conn, mq_span id, uint64_t epoch, uint64_t grant,
                    const char *verdict);
void mq_say_error(mq_outputs *out, uint64_t conn, uint64_t rid, mq_code code, const char *text);
void mq_say_ended(mq_core *core, mq_job *job, mq_outputs *out);

/* ---- ask.c: questions to the store, remembered ends ---- */

mq_ask *mq_ask_new(mq_core *core, mq_ask_type type, mq_span id, mq_outputs *out);
void mq_ask_found(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_recent_add(mq_core *core, const mq_job *job);
const mq_recent *mq_recent_find(const mq_core *core, mq_span id);

/* ---- lane.c ---- */

void mq_lane_init(mq_core *core);
bool mq_lane_push(mq_core *core, mq_job *job); /* false: no lane left */
void mq_lane_remove(mq_core *core, mq_job *job);
mq_job *mq_lane_top(mq_core *core, mq_lane *lane);
uint64_t mq_lane_key(const mq_job *job);
void mq_lanes_pause(mq_core *core, uint32_t queue, bool is_paused);

/* ---- submit.c, deps.c ---- */

void mq_submit(mq_core *core, const mq_input *in, mq_outputs *out);
/* A child of a result, not visible before its parent's commit. */
mq_code mq_spawn_check(const mq_core *core, const mq_msg_spawned *spawn, mq_error *err);
mq_job *mq_spawn_new(mq_core *core, const mq_job *parent, const mq_msg_spawned *spawn,
                     mq_bytes *body);
void mq_spawn_start(mq_core *core, mq_job *job); /* its parent's commit is stored */
/* First state of a job whose dependencies are known. */
void mq_submit_place(mq_core *core, mq_job *job);
bool mq_deps_add(mq_core *core, mq_job *child, mq_job *parent); /* false: full */
void mq_deps_later(mq_core *core, mq_job *job);
void mq_deps_turn(mq_core *core, mq_outputs *out);
void mq_deps_answer(mq_core *core, mq_job *child, mq_span parent, mq_state state);
void mq_deps_release(mq_core *core, mq_job *parent, mq_state state); /* its end is stored */
void mq_deps_orphan(mq_core *core, mq_job *parent); /* it was never ours: look it up */
void mq_deps_drop(mq_core *core, mq_job *child);    /* the child goes */

/* ---- dispatch.c, lease.c, result.c, gang.c ---- */

void mq_dispatch(mq_core *core, mq_outputs *out);
void mq_send_job(mq_core *core, mq_job *job, mq_outputs *out); /* when nothing is waited for */
bool mq_worker_fits(const mq_core *core, const mq_worker *worker, const mq_lane *lane);
/* Jobs it may be sent now: its credit, which may hold more than its idle slots (it prefetches). */
uint32_t mq_worker_free(const mq_worker *worker);
/* Slots that would start at once: what a seat of a gang needs. */
uint32_t mq_worker_idle(const mq_worker *worker);
mq_worker *mq_worker_find(mq_core *core, mq_span uuid);
void mq_worker_ready(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_worker_credit(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_worker_beat(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_worker_bye(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_worker_unsent(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_workers_turn(mq_core *core, mq_outputs *out);            /* those that fell silent */
void mq_fetch_body(mq_core *core, mq_job *job, mq_outputs *out); /* when it is not in memory */
void mq_body_came(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_job_item_fill(mq_core *core, const mq_job *job, mq_msg_job_item *item, mq_outputs *out);
void mq_hold(mq_core *core, mq_job *job, uint32_t worker);
void mq_unhold(mq_core *core, mq_job *job);
/* The lease is gone without a result: back to the queue, or the end. */
void mq_lapse(mq_core *core, mq_job *job, bool is_counted, const char *why, mq_outputs *out);
void mq_end_transient(mq_core *core, mq_job *job, mq_outputs *out);
void mq_timers_turn(mq_core *core, mq_outputs *out);
void mq_result(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_result_refuse(const mq_input *in, mq_outputs *out);
void mq_result_wait(mq_core *core, mq_job *job, const mq_input *in, mq_wait_verdict verdict);
void mq_result_failed(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out);
void mq_complete(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out);
void mq_end(mq_core *core, mq_job *job, mq_event event, const char *why, const mq_input *in,
            mq_outputs *out);
/* Names of blobs (64 digits each) to let go after the next commit of the job, unless still named.
 */
void mq_unpin_later(mq_core *core, mq_job *job, mq_ref text, uint32_t count);
void mq_complete_by_memo(mq_core *core, mq_job *job, uint32_t reg);
/* One clean failure: backs off or dies. */
void mq_fail_attempt(mq_core *core, mq_job *job, const char *why, mq_outputs *out);
void mq_cancel(mq_core *core, const mq_input *in, mq_outputs *out);

uint64_t mq_gang_next_epoch(mq_core *core);
uint32_t mq_gang_alive(const mq_gang *gang); /* seats that are not done */
mq_gang *mq_gang_of(mq_core *core, const mq_job *job);
uint32_t mq_gang_seat_at(const mq_gang *gang, uint64_t grant, mq_span worker);
mq_seat *mq_gang_seat(mq_gang *gang, uint64_t grant, mq_span worker);
bool mq_gang_form(mq_core *core, mq_lane *lane, mq_job *job, mq_outputs *out);
void mq_gang_turn(mq_core *core, mq_outputs *out); /* growth and rosters that are due */
void mq_gang_stored(mq_core *core, mq_job *job, mq_outputs *out);
bool mq_gang_load(mq_core *core, mq_job *job, const mq_job_record *record);
void mq_gang_claim(mq_core *core, mq_seat *seat, uint32_t worker);
/* A seat goes; with the last one the job goes back to the queue. */
void mq_gang_leave(mq_core *core, mq_job *job, mq_seat *seat, bool is_counted, mq_outputs *out);
void mq_gang_lapse(mq_core *core, mq_job *job, mq_outputs *out);
void mq_gang_worker_gone(mq_core *core, uint32_t worker, mq_outputs *out);
void mq_gang_end(mq_core *core, mq_job *job, uint64_t but_grant, mq_outputs *out);
void mq_gang_send_jobs(mq_core *core, mq_job *job, mq_outputs *out);
void mq_gang_cancel(mq_core *core, mq_job *job, mq_outputs *out);
int64_t mq_gang_lease_until(const mq_gang *gang);
void mq_gang_result(mq_core *core, mq_job *job, mq_seat *seat, const mq_input *in, mq_outputs *out);
void mq_checkpoint(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_lost(mq_core *core, const mq_input *in, mq_outputs *out);

/* ---- registry.c, command.c, blobs.c ---- */

void mq_registry_init(mq_core *core);
mq_code mq_publish_check(mq_core *core, const mq_msg_published *item, mq_error *err);
void mq_publish(mq_core *core, mq_job *job, const mq_msg_published *item, mq_span fingerprint);
void mq_publish_stored(mq_core *core, uint32_t reg);
uint32_t mq_memo_find(const mq_core *core, mq_span key);
bool mq_memo_usable(const mq_core *core, uint32_t reg);
void mq_registry_load(mq_core *core, const mq_input *in);
bool mq_queue_is_paused(const mq_core *core, mq_span name);
uint32_t mq_object_find(const mq_core *core, mq_entry_type type, mq_span name);
uint32_t mq_reg_new(mq_core *core, const mq_entry_key *key);
uint32_t mq_reg_find(const mq_core *core, const mq_entry_key *key);
bool mq_reg_set(mq_core *core, uint32_t reg, const mq_entry *entry);
void mq_reg_dirty(mq_core *core, uint32_t reg);
mq_entry_key mq_reg_key(const mq_core *core, const mq_reg *reg);
uint32_t mq_alias_version(const mq_core *core, mq_span model, mq_span alias);
void mq_command_do(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_blobs_init(mq_core *core);
void mq_blob_hold(mq_core *core, mq_span hash);
uint32_t mq_blob_drop(mq_core *core, mq_span hash); /* references left */
bool mq_blob_is_held(const mq_core *core, mq_span hash);
bool mq_blob_name_ok(mq_span hash);

/* ---- commit.c, recover.c ---- */

void mq_drop_job(mq_core *core, mq_job *job, mq_outputs *out);
void mq_commit_build(mq_core *core, mq_outputs *out);
void mq_commit_stored(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_recover_begin(mq_core *core, const mq_input *in);
void mq_recover_job(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_recover_done(mq_core *core, const mq_input *in);
/* A job from its record (which is stored): fields, names, state. False when there is no room. */
bool mq_recover_apply(mq_core *core, mq_job *job, const mq_job_record *record);

#endif
