/* The broker's policy: a pure state machine. It decides everything about jobs, leases, gangs and
 * the registry of one shard, and does nothing itself: no I/O, no clock, no allocation, no floats.
 *
 *     memory = calloc(1, mq_core_bytes(&config));
 *     core = mq_core_init(memory, &config);
 *     mq_core_step(core, &input, &outputs);        for every input; then act on outputs, in order
 *     mq_core_step(core, &turn, &outputs);         once at the end of a turn: timers, dispatch and
 *                                                  the next commit (outputs.batch)
 *
 * The contract that makes it safe:
 *  - A change is acknowledged (submitted, verdict, reply, checkpointed, done) only by the step that
 *    is told MQ_IN_STORED for the commit that holds it.
 *  - A commit that is refused, or whose outcome is not known, ends this core: the shell throws it
 *    away, takes the shard over under a new epoch and loads a new core from the store. Nothing that
 *    was not answered had been acknowledged, so nothing acknowledged is lost.
 *  - All times are milliseconds of the store's clock, given with each input.
 *
 * Memory is fixed by the config and handed in zeroed; pages that are never used are never touched,
 * so a large limit costs address space only. Bodies and results are the shell's (mq_bytes): the
 * core takes one reference with the input and gives it back by MQ_OUT_RELEASE. */
#ifndef MQ_BROKER_CORE_CORE_H
#define MQ_BROKER_CORE_CORE_H

#include "shared/job/entry.h"
#include "shared/job/record.h"
#include "shared/store/store.h"
#include "shared/wire/messages.h"

#define MQ_CORE_NO_SLOT UINT32_MAX
/* ms: an hour, cut among 1024 shards */
#define MQ_LIMIT_PERIOD_MAX (UINT32_C(3600000) * 1024)

enum {
    MQ_SLOTS_MAX = 256,          /* of one worker */
    MQ_GANG_SEATS_MAX = 64,      /* of one gang */
    MQ_LAPSES_MAX = 20,          /* then a job is dead "undeliverable" */
    MQ_RETRY_LATER_MS = 1000,    /* in busy answers */
    MQ_OUTPUTS_MAX = 16384,      /* of one step */
    MQ_OUT_MEMBERS_MAX = 8192,   /* roster rows of one step */
    MQ_OUT_VERDICTS_MAX = 512,   /* held verdicts of one step */
    MQ_OUT_TEXT_MAX = 512 << 10, /* bytes of texts made for one step */
    MQ_BATCH_BYTES_MAX =
        8 << 20, /* records, bodies and results of one commit (one job may be more) */
    MQ_ID_PAST_MS =
        2 * 3600 * 1000, /* a new id's time must lie within [now - past, now + future] */
    MQ_ID_FUTURE_MS = 5 * 60 * 1000,
    MQ_WEIGHT_MAX = 1000,        /* of a tenant */
    MQ_LIMIT_RATE_MAX = 1000000, /* starts in a period, and burst */
    MQ_NEEDS_BYTES_MAX = 320,    /* of a job's needs as text */
    MQ_NEEDS_TAGS_MAX = 8,
    MQ_TAG_BYTES_MAX = 32,
};

/* Bytes that the shell keeps: a request body or a result. The shell embeds this as first member of
 * whatever it counts references with. Read-only. */
typedef struct mq_bytes {
    const uint8_t *data;
    size_t len;
} mq_bytes;

typedef struct mq_core_config {
    uint32_t jobs_max;           /* job slots in memory, transient ones included */
    uint32_t live_max;           /* durable jobs that are not ended; more are answered busy */
    uint32_t tenant_live_max;    /* of one tenant */
    uint32_t transient_max;      /* queued and running transient jobs */
    uint32_t transient_per_slot; /* of them, for each slot of the connected workers */
    uint32_t workers_max;
    uint32_t gangs_max;      /* running gangs */
    uint32_t names_max;      /* different kinds, queues, models, tenants in use */
    uint32_t lanes_max;      /* different (queue, kind, needs) with waiting jobs */
    uint32_t strands_max;    /* of them, different (tenant, limit key) */
    uint32_t limits_max;     /* rate limits and caps in force, one a key in use of "key=*" */
    uint32_t edges_max;      /* dependencies between live jobs */
    uint32_t waiters_max;    /* answers that wait for a commit */
    uint32_t asks_max;       /* questions to the store under way */
    uint32_t registry_max;   /* versions, aliases, memos, paused queues */
    uint32_t blobs_max;      /* different blobs named by registry and checkpoints */
    uint32_t recent_max;     /* ended jobs that are remembered */
    uint64_t pool_bytes;     /* texts, checkpoints, registry values */
    uint64_t held_bytes_max; /* bodies and results held through mq_bytes; more are answered busy */
    int64_t lease_ms;        /* default lease; a worker is gone after one without a beat */
    int64_t beat_ms;
    int64_t retention_ms;      /* of ended jobs */
    int64_t dead_retention_ms; /* of dead letters */
    uint32_t replicas;        /* that must confirm a `replicated` job; 0 = there is no such class */
    int64_t replicate_ms;     /* then its submit is answered busy */
    uint32_t shards;          /* of the deployment: more than 1 share limits of queues and kinds */
    uint32_t quarantine_jobs; /* so many jobs of a kind in a row crash: it is paused; 0 = never */
    bool is_away;             /* not shard 0: the registry and what needs it are elsewhere */
    int64_t
        affinity_wait_ms; /* a job waits so long for a busy worker that has its model; 0 = not */
    uint64_t seed;        /* of the jitter */
} mq_core_config;

/* Limits of a broker with default settings. */
mq_core_config mq_core_config_default(void);

typedef struct mq_core mq_core;

/* Bytes of memory for a core of this config. */
size_t mq_core_bytes(const mq_core_config *config);

/* Lays the core out in zeroed memory (borrowed for its life). It serves nothing before MQ_IN_BEGIN.
 */
mq_core *mq_core_init(void *memory, const mq_core_config *config);

/* ---- inputs ---- */

typedef enum mq_input_type {
    MQ_IN_BEGIN,    /* the shard is ours: begin */
    MQ_IN_REGISTRY, /* load: one registry field (all before the first MQ_IN_LOAD) */
    MQ_IN_LOAD,     /* load: one live record */
    MQ_IN_LOADED,   /* load: that was the last one */
    MQ_IN_TURN,     /* end of a turn of the loop */
    MQ_IN_SUBMIT,   /* one job of a submit: item; takes body */
    MQ_IN_CANCEL,
    MQ_IN_COMMAND,
    MQ_IN_CRON,  /* a recurring job: changed (conn, rid: who wants it), or due; takes body */
    MQ_IN_WATCH, /* id: MQ_OUT_CHANGED for this job from now on */
    MQ_IN_NOTE,  /* progress or a log line of a running job */
    MQ_IN_READY,
    MQ_IN_CREDIT,
    MQ_IN_BEAT,
    MQ_IN_RESULT,     /* one job of a result, its blobs pinned; takes body and spawn_bodies */
    MQ_IN_CHECKPOINT, /* its blob pinned */
    MQ_IN_LOST,
    MQ_IN_BYE,
    MQ_IN_UNSENT,   /* a message to conn could not be sent: id and grant of a JOB item */
    MQ_IN_STORED,   /* commit `sequence` answered OK */
    MQ_IN_BODY,     /* answer to MQ_OUT_FETCH; takes body; NULL = the store has none */
    MQ_IN_FOUND,    /* answer to MQ_OUT_ASK: packed record, empty = the store has none */
    MQ_IN_REPLICAS, /* so many replicas hold what was written up to commit `sequence` */
    MQ_IN_LENT,     /* answer to one ask of mq_core_lend_asks */
    MQ_IN_PRESSURE, /* is_full: the store is above its threshold, or the broker is stopping */
} mq_input_type;

typedef enum mq_cron_what {
    MQ_CRON_ADD,
    MQ_CRON_PAUSE,
    MQ_CRON_RESUME,
    MQ_CRON_REMOVE,
    MQ_CRON_SKIP, /* a time goes by without a job */
    MQ_CRON_FIRE,
} mq_cron_what;

typedef struct mq_input {
    mq_input_type type;
    int64_t now_ms; /* store time */
    uint64_t conn;  /* connection it came from */
    uint64_t rid;
    mq_bytes *body; /* SUBMIT, RESULT, BODY: may be NULL; one reference is taken */
    union {
        struct {
            uint64_t epoch, sequence, first_number; /* first_number: beyond every live segment */
        } begin;
        struct {
            mq_span field, value;
        } registry;
        mq_span record; /* LOAD */
        const mq_msg_submit_job *submit;
        const mq_msg_cancel *cancel;
        const mq_msg_command *command;
        struct {
            mq_cron_what what;
            mq_span name;
            mq_span meta;                  /* ADD: the definition, kept unread */
            int64_t at_ms;                 /* SKIP, FIRE: the time that is dealt with */
            const mq_msg_submit_job *item; /* FIRE: durable, its id the same for each attempt */
        } cron;
        const mq_msg_ready *ready;
        const mq_msg_credit *credit;
        const mq_msg_beat *beat;
        struct {
            const mq_msg_result_item *item;
            mq_span worker;
            mq_bytes *const *spawn_bodies; /* one per item->spawn, entries may be NULL */
        } result;
        const mq_msg_checkpoint *checkpoint;
        const mq_msg_lost *lost;
        mq_span worker; /* BYE */
        struct {
            mq_span id;
            uint64_t grant;
            bool is_gone; /* no such peer (else: its queue is full) */
        } unsent;
        struct {
            uint64_t sequence;
            const uint32_t *dups;
            uint32_t dup_count;
        } stored;
        mq_span id; /* WATCH, BODY */
        struct {
            mq_span id, progress, log; /* either text may be empty */
        } note;
        struct {
            uint32_t ask;
            mq_span record;
            bool is_failed; /* the store gave no answer */
        } found;
        struct {
            uint64_t sequence;
            uint32_t count;
        } replicas;
        struct {
            const struct mq_lend_line *line;
            const struct mq_lend_grant *grant;
        } lent;
        bool is_full; /* PRESSURE */
    } as;
} mq_input;

/* ---- outputs ---- */

typedef enum mq_output_type {
    MQ_OUT_SUBMITTED, /* to a client: items of one (conn, rid) go into one message */
    MQ_OUT_REPLY,     /* to a client */
    MQ_OUT_ENDED,     /* a job has ended and that is stored: done to conn, waiting gets, watchers */
    MQ_OUT_CHANGED,   /* a watched job has a new stored state */
    MQ_OUT_JOB,       /* to a worker: items of one conn go into one message */
    MQ_OUT_VERDICT,   /* to a worker: items of one conn go into one message */
    MQ_OUT_REGISTERED,   /* to a worker */
    MQ_OUT_BEATEN,       /* to a worker */
    MQ_OUT_CHECKPOINTED, /* to a worker */
    MQ_OUT_ROSTER,       /* to a worker */
    MQ_OUT_DRAIN,        /* to a worker */
    MQ_OUT_ERROR,        /* refusal of a whole message */
    MQ_OUT_RELEASE,      /* bytes are not needed any more */
    MQ_OUT_FETCH,        /* read the body of live job id: answer MQ_IN_BODY */
    MQ_OUT_ASK,          /* read the ended or dead job id: answer MQ_IN_FOUND with ask */
    MQ_OUT_UNPIN,        /* nothing here names this blob any more */
} mq_output_type;

/* What is known of an ended job; spans are borrowed like everything in outputs. */
typedef struct mq_ended {
    mq_msg_done_job done; /* len = payload's */
    mq_span kind, queue, model, worker;
    mq_state state;
    int64_t submitted_ms, ended_ms;
    bool is_quiet, is_transient;
} mq_ended;

typedef struct mq_output {
    mq_output_type type;
    uint64_t conn; /* 0 = nobody */
    uint64_t rid;
    mq_span payload; /* JOB: body. ENDED: result */
    mq_bytes *bytes; /* the owner of payload (NULL: copy it at once), or what to release */
    union {
        mq_msg_submitted_job submitted;
        mq_msg_reply reply;
        mq_ended ended;
        struct {
            mq_span id;
            mq_state state;
        } changed;
        mq_msg_job_item job;
        mq_msg_held_verdict verdict;
        mq_msg_registered registered;
        mq_msg_beaten beaten;
        mq_msg_checkpointed checkpointed;
        mq_msg_roster roster;
        mq_msg_drain drain;
        mq_msg_error error;
        struct {
            mq_span id;
            uint32_t ask;
        } ask;        /* FETCH, ASK */
        mq_span hash; /* UNPIN */
    } as;
} mq_output;

/* What a commit does, in numbers: the shell makes counters and the event entry from it. */
typedef struct mq_tally {
    uint32_t submitted, granted, succeeded, dead, cancelled, expired, retried, lapsed, crashed,
        spawned, published, checkpoints;
} mq_tally;

/* Outputs of one step. Spans and rows are borrowed from the core until its next step. The shell
 * owns the struct (it is large) and passes it to every step, which empties it first. */
typedef struct mq_outputs {
    uint32_t count, member_count, verdict_count, text_len;
    const mq_store_batch *batch; /* NULL, or a commit to send now; borrowed until the next step */
    bool wants_replicas;         /* of the batch: what waits for it also waits for MQ_IN_REPLICAS */
    mq_tally tally;              /* of the batch */
    mq_output items[MQ_OUTPUTS_MAX];
    mq_msg_member members[MQ_OUT_MEMBERS_MAX];
    mq_msg_held_verdict verdicts[MQ_OUT_VERDICTS_MAX];
    uint8_t text[MQ_OUT_TEXT_MAX];
} mq_outputs;

void mq_core_step(mq_core *core, const mq_input *in, mq_outputs *out);

/* The core ends: puts out MQ_OUT_RELEASE for the bytes it still holds, at most MQ_OUTPUTS_MAX of
 * them; false when there are more (call again). It must not be stepped any more. */
bool mq_core_drain_bytes(mq_core *core, mq_outputs *out);

/* When it wants the next MQ_IN_TURN at the latest, in the time of the inputs; INT64_MAX = whenever.
 */
int64_t mq_core_deadline(const mq_core *core);

/* ---- what the shell may read between steps ---- */

typedef struct mq_core_stats {
    uint64_t epoch, sequence;
    uint32_t by_state[MQ_STATE_COUNT]; /* live jobs in memory, as decided */
    uint32_t jobs, jobs_max, transient, workers, slots, free_slots, gangs;
    uint32_t waiters, commits_inflight, models, datasets, memos, crons;
    uint32_t kept; /* live jobs whose create waits for their end (keep.c) */
    uint64_t held_bytes, pool_bytes_used;
    bool is_loading, is_full;
    uint32_t kinds_paused, kinds_quarantined; /* the latter are among the former */
    /* since the core began */
    uint64_t submitted, granted, succeeded, dead, cancelled, expired, retried, lapsed, crashed,
        refused_busy, memo_hits, transient_submitted, transient_ended, load_errors,
        quarantines,  /* kinds that were paused for their crashes */
        replica_late, /* answered busy: no replica confirmed in time */
        unpublished;  /* a memo that came twice, or a full registry */
} mq_core_stats;

void mq_core_stats_read(const mq_core *core, mq_core_stats *out); /* looks at all idle workers */
uint32_t mq_core_crons(const mq_core *core);                      /* the same as in stats, cheap */

/* What is wrong with a job itself, whatever room there is: MQ_OK, or as its submit would be
 * refused.
 */
MQ_MUST_USE mq_code mq_core_check(const mq_core *core, const mq_msg_submit_job *item,
                                  mq_error *err);

/* The class `replicated` (replica.c). */
typedef struct mq_replica_view {
    bool is_open;        /* new jobs of the class are taken */
    bool is_loaded;      /* what was stored before this ownership has been confirmed */
    uint32_t count;      /* replicas that confirmed last */
    uint32_t wanted;     /* of config */
    uint32_t waiting;    /* answers and ends that wait for a replica */
    uint64_t replicated; /* last commit that enough replicas hold; 0 = none of this ownership */
} mq_replica_view;
void mq_core_replicas(const mq_core *core, mq_replica_view *out);

/* Slot of a job by id; MQ_CORE_NO_SLOT when it is not in memory. Slots go from 0 to mq_core_slots
 * - 1.
 */
uint32_t mq_core_find(const mq_core *core, mq_span id);
uint32_t mq_core_slots(const mq_core *core);

/* Fills *out from the job in a slot; false when the slot is empty. A state that is decided but not
 * stored yet is not shown: the state before is. */
bool mq_core_record(const mq_core *core, uint32_t slot, mq_job_record *out);

/* A submit of this id is a few steps away: what its look-ups will touch is brought into the caches
 * meanwhile. A hint, it changes nothing. */
void mq_core_foresee(const mq_core *core, mq_span id);

/* Cheap facts of a job for filters and lists. */
typedef struct mq_job_view {
    mq_span id, kind, queue, model, tenant, worker;
    mq_state state; /* as stored */
    uint64_t number;
    int64_t submitted_ms, leased_ms, run_at_ms;
    uint32_t priority, attempts, seats;
    bool is_transient;
} mq_job_view;
bool mq_core_job(const mq_core *core, uint32_t slot, mq_job_view *out);

/* True when (epoch, grant) is the current lease of job id and worker (empty = any) holds it. */
bool mq_core_holds(const mq_core *core, mq_span id, uint64_t epoch, uint64_t grant, mq_span worker);

/* Remembered ended jobs, newest first: false when there are not so many. */
typedef struct mq_recent_view {
    mq_span id, kind, queue, model, why;
    mq_state state;
    int64_t submitted_ms, ended_ms;
    uint64_t queue_us, run_us;
} mq_recent_view;
bool mq_core_recent(const mq_core *core, uint32_t back, mq_recent_view *out);
/* How many have been remembered so far: a job's place among them is total - 1 - back. */
uint64_t mq_core_recent_total(const mq_core *core);

/* The first thing that a worker lacks for a job. */
typedef enum mq_misfit {
    MQ_MISFIT_NONE,
    MQ_MISFIT_MEMORY,
    MQ_MISFIT_TAGS,
    MQ_MISFIT_QUEUE,
    MQ_MISFIT_KIND,
} mq_misfit;

typedef struct mq_worker_view {
    mq_span uuid, name, host, version, fingerprint;
    uint32_t slots, free, kind_count;
    mq_span kinds[64];
    uint32_t tag_count;
    mq_span tags[16];
    uint64_t memory_bytes, memory_held;
    uint64_t conn, pid, rss_bytes, load_milli;
    int64_t seen_ms, joined_ms;
    bool is_draining;
} mq_worker_view;
/* Workers 0..config.workers_max - 1; false = empty. */
bool mq_core_worker(const mq_core *core, uint32_t index, mq_worker_view *out);
/* Calls back for each job (and each seat of a gang) that the worker holds. */
typedef void mq_core_on_held(void *arg, const mq_job_view *job, uint32_t seat, bool is_accepted);
void mq_core_held(const mq_core *core, uint32_t worker, mq_core_on_held *on_held, void *arg);

/* Members of a running gang in seat order; 0 when the job has none. */
uint32_t mq_core_members(const mq_core *core, uint32_t slot, uint64_t *gang_epoch,
                         mq_record_member out[MQ_GANG_SEATS_MAX]);

typedef struct mq_lane_view {
    mq_span queue, kind, model, needs;
    uint32_t waiting;
    uint32_t blocked; /* of them, by a limit of their key */
    uint32_t tenants;
    int64_t oldest_ms; /* when the job that is next was submitted */
    bool is_paused, is_draining, is_gang;
} mq_lane_view;
/* Lanes 0..config.lanes_max - 1; false = empty. */
bool mq_core_lane(const mq_core *core, uint32_t index, mq_lane_view *out);

/* What a limit is of. */
typedef enum mq_limit_type {
    MQ_LIMIT_QUEUE,
    MQ_LIMIT_KIND,
    MQ_LIMIT_KEY,
    MQ_LIMIT_TYPES,
} mq_limit_type;
const char *mq_limit_type_name(mq_limit_type type);

typedef struct mq_limit_view {
    mq_limit_type type;
    mq_span name; /* "*": the rule for each key that has none */
    uint32_t concurrency, rate, period_ms, burst;
    uint32_t running, tokens;
    int64_t next_ms;    /* when the next token is there; of limits with a rate */
    bool is_own;        /* set for this name; else made from "key=*" */
    bool is_waited_for; /* jobs of this key wait */
} mq_limit_view;
/* Limits 0..config.limits_max - 1; false = empty. */
bool mq_core_limit(const mq_core *core, uint32_t index, mq_limit_view *out);

/* Limits that several shards share (shared/store/lend.h): what to ask the book for now, at most
 * `most` asks; the shell fills in the shard. Each answer comes back as MQ_IN_LENT; one that is lost
 * needs nothing. due: when there may be asks. */
struct mq_lend_line;
uint32_t mq_core_lend_asks(mq_core *core, struct mq_lend_line *out, uint32_t most);
int64_t mq_core_lend_due(const mq_core *core);

/* What holds a job back that could otherwise start. */
typedef enum mq_hold_reason {
    MQ_HOLD_NONE, /* it is about to start, or behind others */
    MQ_HOLD_QUEUE_PAUSED,
    MQ_HOLD_KIND_PAUSED,
    MQ_HOLD_LIMIT,
    MQ_HOLD_NO_WORKER, /* nobody that is connected could ever run it */
    MQ_HOLD_BUSY,
} mq_hold_reason;

typedef struct mq_hold_view {
    mq_hold_reason hold;
    mq_span queue, kind, needs;
    mq_limit_view limit; /* LIMIT */
    bool is_rate;        /* LIMIT: its rate, else its concurrency */
    mq_misfit misfit;    /* NO_WORKER: what the nearest worker lacks */
    uint32_t workers;    /* that are connected and not draining */
} mq_hold_view;
/* False: the job in this slot does not wait for a worker, or the lane is empty. */
bool mq_core_job_hold(const mq_core *core, uint32_t slot, mq_hold_view *out);
bool mq_core_lane_hold(const mq_core *core, uint32_t index, mq_hold_view *out);

typedef struct mq_kind_view {
    mq_span name;
    bool is_paused;
    uint32_t quarantined_after; /* jobs in a row that crashed; 0: an operator paused it */
    uint32_t crash_row;         /* now */
    mq_span value;              /* of its registry entry: when, the last job; borrowed */
} mq_kind_view;
/* False: the kind is not paused (name and crash_row are set all the same). */
bool mq_core_kind(const mq_core *core, mq_span name, mq_kind_view *out);

typedef struct mq_tenant_view {
    mq_span name;
    uint32_t live; /* durable jobs that are not ended */
    uint32_t weight, quota;
} mq_tenant_view;
/* Tenants with live jobs or settings: 0..config.names_max - 1; false = not one. */
bool mq_core_tenant(const mq_core *core, uint32_t index, mq_tenant_view *out);

/* Registry entries 0..config.registry_max - 1, stored ones only; false = empty. value: packed
 * (mq_entry_read). */
typedef struct mq_entry_view {
    mq_entry_key key;
    mq_span value;
} mq_entry_view;
bool mq_core_entry(const mq_core *core, uint32_t index, mq_entry_view *out);

/* Finds "m" (alias prod, else the highest version), "m@3", "m@alias", or a memo's key. */
MQ_MUST_USE mq_code mq_core_resolve(const mq_core *core, mq_entry_type type, mq_span name,
                                    mq_entry_view *out, mq_error *err);

#endif
