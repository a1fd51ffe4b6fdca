/* The worker's side of the talk with its brokers, as a pure state machine: no I/O, no clock, no
 * allocation. The loop feeds it events with the time, and does what it puts out. It decides when to
 * greet, register, beat, ask for work, start, stop and kill jobs, how long results are kept and
 * sent again, and when to try the next broker.
 *
 *     DOWN --connect--> GREETING --welcome--> REGISTERING --registered--> SERVING
 *       ^                  |  no answer            | error                  |  3 silent intervals,
 *       +------------------+-----------------------+------------------------+  link down, error
 *
 *     a job:  FREE -> WAITING -> RUNNING -> ENDED -> FREE       (ENDED <-> UPLOADING on "missing")
 *                       ^  `-> HANDED ->^
 *                       `--------'
 *             WAITING: accepted, no slot free yet. ENDED: its result has no verdict yet.
 *             HANDED: given to a slot behind the job it runs, so that short jobs cost no round trip
 *             each; taken back, unhurt, when the one before it turns out to be long, when it is to
 *             stop, and when the slot dies.
 *
 * A job that waits is given back when no slot comes free in time: it must not stand behind a long
 * one here while another worker is idle.
 *
 * Results are kept and sent again until a verdict comes, whatever happens to the broker; a job
 * whose lease is stale is stopped and forgotten. Transient jobs get no verdict: sent once.
 *
 * Usage, once per turn of the loop:
 *     mq_ws_on_...(s, ..., now_ms, &out);   as events come; then
 *     mq_ws_flush(s, now_ms, &out);         what is due: beats, credit, results, timers
 * and execute the actions of `out` in order after each call. */
#ifndef MQ_WORKER_CORE_SESSION_H
#define MQ_WORKER_CORE_SESSION_H

#include "shared/base/prng.h"
#include "shared/wire/messages.h"

enum {
    MQ_WS_JOBS_MAX = 512,
    MQ_WS_SLOTS_MAX = 128,
    MQ_WS_TALKS_MAX = 64,       /* shards */
    MQ_WS_WANT_MS = 1000,       /* so long a word that jobs wait is believed */
    MQ_WS_PATIENCE_MS = 250,    /* unused credit stays so long while others want some */
    MQ_WS_MOVED_MS = 1000,      /* for an owner's answer that another broker sent us to */
    MQ_WS_GONE_MS = 500,        /* for a broker to come back before the next one is tried */
    MQ_WS_HELLO_MS = 1000,      /* greeting and registration are repeated so often */
    MQ_WS_ANSWER_MS = 5000,     /* without an answer to them: next broker */
    MQ_WS_BEAT_MS = 5000,       /* until the broker says */
    MQ_WS_SILENT_INTERVALS = 3, /* of beat_ms without any message: next broker */
    MQ_WS_RESEND_MS = 2000,     /* a result without a verdict; doubles up to ... */
    MQ_WS_RESEND_MS_MAX = 15000,
    MQ_WS_UNSENT_MS = 20,     /* a result that found no room in the socket */
    MQ_WS_CANCEL_MS = 5000,   /* from cancel to SIGKILL */
    MQ_WS_STALE_MS = 1000,    /* the same when the lease is gone: nothing can be saved */
    MQ_WS_FAREWELL_MS = 5000, /* how long a drained worker waits for the last verdicts */
    MQ_WS_QUICK_US = 20000,   /* jobs are asked for beyond free slots when they take less ... */
    MQ_WS_WAIT_MS = 250,      /* ... and given back when one has waited so long for a slot */
    MQ_WS_HAND_MAX = 64,      /* jobs in a slot beyond the one it runs ... */
    MQ_WS_HAND_US = 5000,     /* ... which are so much work together at most, by recent jobs ... */
    MQ_WS_HAND_BYTES = 128 << 10,     /* ... with bodies up to this ... */
    MQ_WS_HAND_MS = 10,               /* ... and go back when the one that runs takes longer */
    MQ_WS_KEPT_BYTES_MAX = 256 << 20, /* results kept; above it no more work is asked for */
    MQ_WS_ACTIONS_MAX = 4 * MQ_WS_JOBS_MAX,
    MQ_WS_HASH_SIZE = 512, /* a power of two */
};

typedef enum mq_ws_link { MQ_WS_DOWN, MQ_WS_GREETING, MQ_WS_REGISTERING, MQ_WS_SERVING } mq_ws_link;

typedef enum mq_ws_state {
    MQ_WS_FREE,
    MQ_WS_WAITING,
    MQ_WS_HANDED,
    MQ_WS_RUNNING,
    MQ_WS_ENDED,
    MQ_WS_UPLOADING,
} mq_ws_state;

/* Why a job is being stopped. The first reason holds, but a stale lease overrides. */
typedef enum mq_ws_stop {
    MQ_WS_STOP_NONE,
    MQ_WS_STOP_CANCEL,
    MQ_WS_STOP_TIMEOUT,
    MQ_WS_STOP_RETURN, /* drain deadline */
    MQ_WS_STOP_STALE,
} mq_ws_stop;

/* Class of a result, as in messages.def. */
typedef enum mq_ws_class {
    MQ_WS_CLASS_OK,
    MQ_WS_CLASS_RETRY,
    MQ_WS_CLASS_FATAL,
    MQ_WS_CLASS_CRASH,
    MQ_WS_CLASS_RETURN,
    MQ_WS_CLASS_CANCELLED,
} mq_ws_class;

typedef struct mq_ws_job {
    mq_ws_state state;
    mq_ws_stop stop;
    char id[33];
    uint64_t epoch, grant; /* the lease */
    bool is_transient;
    bool is_alone;    /* of a gang, or large: never HANDED */
    bool is_sent;     /* its result, at least once */
    bool is_recalled; /* HANDED: asked back already, but the slot had begun it */
    uint32_t slot;
    uint32_t talk;       /* shard it came from */
    uint32_t prev, next; /* WAITING: its neighbours in order; FREE: next */
    uint32_t same;       /* next job with the same hash of its grant */
    int64_t max_run_ms;
    int64_t stop_ms;  /* when max_run is over; 0 = no limit */
    int64_t kill_ms;  /* when to kill after a cancel; 0 = not cancelled */
    uint64_t order;   /* of acceptance: WAITING jobs start in this order */
    int64_t since_ms; /* WAITING: accepted; RUNNING: started */
    /* once ENDED: */
    mq_ws_class class;
    mq_error error; /* code and text of the result */
    uint64_t run_us;
    size_t kept_bytes;
    int64_t resend_ms; /* when it is sent (again); 0 = at the next flush */
    int64_t resend_after_ms;
} mq_ws_job;

typedef enum mq_ws_action_type {
    MQ_WS_CONNECT, /* (re)connect to broker number `index` */
    MQ_WS_SEND_HELLO,
    MQ_WS_SEND_READY,  /* with mq_ws_held */
    MQ_WS_SEND_BEAT,   /* with mq_ws_held, seq, free, jobs_seen, is_draining */
    MQ_WS_SEND_CREDIT, /* with seq, free, jobs_seen */
    MQ_WS_SEND_RESULT, /* of job `index`; consecutive ones may share a message */
    MQ_WS_SEND_BYE,
    MQ_WS_ACCEPT, /* keep the body of item `item` of the JOB message for job `index` */
    MQ_WS_START,  /* run job `index` in slot `slot`, after those that it was given before */
    MQ_WS_RECALL, /* take job `index` back from slot `slot` if that has not begun it: then
                     mq_ws_on_recalled, else nothing */
    MQ_WS_CANCEL, /* ask slot `slot` to stop job `index` */
    MQ_WS_KILL,   /* kill slot `slot` */
    MQ_WS_UPLOAD, /* store job `index`'s blobs `missing` again, then mq_ws_on_uploaded */
    MQ_WS_FORGET, /* nothing of job `index` is needed any more */
    MQ_WS_EXIT,   /* drained: leave the loop */
} mq_ws_action_type;

/* What is kept of the talk with one shard's owner while another one is at hand. */
typedef struct mq_ws_talk {
    mq_ws_link link;
    uint32_t broker;
    int64_t heard_ms, asked_ms, ask_ms, next_beat_ms;
    uint64_t epoch, seq, jobs_seen, free_told, seen_told;
    bool want_beat;
} mq_ws_talk;

/* What of the free slots is lent to a shard's owner (lend.c). */
typedef struct mq_ws_loan {
    uint64_t share;      /* what it is to be told */
    uint64_t held;       /* what it may use at most: more than `share` until a beat is answered */
    uint64_t back_seq;   /* of the beat that takes some back; 0 = none */
    int64_t wanted_ms;   /* jobs wait there until then at least */
    int64_t patience_ms; /* how long unused credit is left there while others want some */
    int64_t used_ms;     /* when it last got or used some */
} mq_ws_loan;

typedef struct mq_ws_action {
    mq_ws_action_type type;
    uint32_t talk;  /* shard whose owner it is about */
    uint32_t index; /* job or broker */
    uint32_t slot;
    uint32_t item;
    const mq_span *missing; /* borrowed from the verdict's message */
    uint32_t missing_count;
} mq_ws_action;

typedef struct mq_ws_actions {
    mq_ws_action at[MQ_WS_ACTIONS_MAX];
    uint32_t count;
} mq_ws_actions;

typedef struct mq_ws_config {
    uint32_t broker_count; /* > 0 */
    uint32_t slot_count;   /* 1..MQ_WS_SLOTS_MAX */
    uint32_t prefetch;     /* jobs asked for beyond free slots at most, while jobs are quick */
    uint32_t hand;         /* jobs in a slot beyond the one it runs, 0..MQ_WS_HAND_MAX */
    int64_t drain_ms;      /* what runs may go on so long after a drain without its own deadline */
    uint64_t seed;         /* jitter */
} mq_ws_config;

/* In place of a job's index: nothing. */
#define MQ_WS_NONE UINT32_MAX
/* In a slot in place of a job's index. */
#define MQ_WS_SLOT_DEAD UINT32_MAX
#define MQ_WS_SLOT_IDLE (UINT32_MAX - 1)

typedef struct mq_worker_session {
    mq_ws_config config;
    mq_prng prng;
    uint32_t talk_count; /* shards of the deployment, at least 1 */
    uint32_t at;         /* the shard at hand: the next fields, down to want_beat, are of it */
    uint32_t lend_next;  /* shard that gets the next slot */
    mq_ws_talk talks[MQ_WS_TALKS_MAX]; /* of the other shards */
    mq_ws_loan loans[MQ_WS_TALKS_MAX];
    mq_ws_link link;
    uint32_t broker; /* of the list */
    int64_t beat_ms;
    int64_t heard_ms; /* last message of the broker */
    int64_t asked_ms; /* when greeting or registration began */
    int64_t ask_ms;   /* when to send hello or ready next */
    int64_t next_beat_ms;
    uint64_t epoch; /* of the broker, as registered; information only */
    uint64_t seq;
    uint64_t jobs_seen; /* never falls: a broker that is new to us counts from our first word */
    uint64_t free_told; /* in the last beat or credit */
    uint64_t seen_told; /* jobs_seen in the same */
    bool want_beat;
    uint64_t run_us; /* of recent jobs, a moving mean; 0 = none yet */
    bool is_draining, is_stopping, is_gone;
    int64_t drain_until_ms; /* then jobs are stopped */
    int64_t leave_ms;       /* then it exits whatever is open */
    uint64_t order;
    size_t kept_bytes;
    uint32_t used, high; /* jobs that are not FREE; all of them are below index `high` */
    uint32_t free_head;  /* FREE jobs below `high` */
    uint32_t waiting_head, waiting_tail, waiting_count, handed_count;
    uint32_t by_grant[MQ_WS_HASH_SIZE]; /* heads of chains through `same` */
    uint32_t slots[MQ_WS_SLOTS_MAX];    /* index of the job it runs, or MQ_WS_SLOT_* */
    uint16_t handed[MQ_WS_SLOTS_MAX][MQ_WS_HAND_MAX]; /* in the order of their runs */
    uint8_t handed_by[MQ_WS_SLOTS_MAX];               /* how many */
    mq_ws_job jobs[MQ_WS_JOBS_MAX];
} mq_worker_session;

/* Starts DOWN with all slots dead; the first flush connects. */
void mq_ws_init(mq_worker_session *s, const mq_ws_config *config, int64_t now_ms);

/* A deployment of several shards has one link for each. Takes shard `at` in hand: what comes next
 * is from its owner. */
void mq_ws_from(mq_worker_session *s, uint32_t at);

/* Jobs wait at this shard (0: no more). */
void mq_ws_on_want(mq_worker_session *s, const mq_msg_want *m, int64_t now_ms);

/* Messages of the broker. */
void mq_ws_on_welcome(mq_worker_session *s, const mq_msg_welcome *m, int64_t now_ms,
                      mq_ws_actions *out);
void mq_ws_on_registered(mq_worker_session *s, const mq_msg_registered *m, int64_t now_ms,
                         mq_ws_actions *out);
void mq_ws_on_job(mq_worker_session *s, const mq_msg_job *m, int64_t now_ms, mq_ws_actions *out);
void mq_ws_on_beaten(mq_worker_session *s, const mq_msg_beaten *m, int64_t now_ms,
                     mq_ws_actions *out);
void mq_ws_on_verdict(mq_worker_session *s, const mq_msg_verdict *m, int64_t now_ms,
                      mq_ws_actions *out);
void mq_ws_on_error(mq_worker_session *s, const mq_msg_error *m, int64_t now_ms,
                    mq_ws_actions *out);
/* Another broker owns this shard under this epoch than the one that it is talked about
 * with, or is asked about it. Then: greets the next broker about it. */
bool mq_ws_is_behind(const mq_worker_session *s, uint64_t shard, uint64_t epoch);
void mq_ws_go(mq_worker_session *s, uint32_t shard, int64_t now_ms, mq_ws_actions *out);
/* Any other message: the broker is alive. */
void mq_ws_on_other(mq_worker_session *s, int64_t now_ms);

/* The connection broke: greet again. It is there: do so at once. */
void mq_ws_on_link_down(mq_worker_session *s, int64_t now_ms);
void mq_ws_on_link_up(mq_worker_session *s, int64_t now_ms);

/* Slots. ready: it can take jobs. dead: its process ended; `why` (borrowed, such as "signal 9")
 * goes into the result of the job it ran. has_begun: that job had begun; else it goes back like
 * those behind it, as if nothing had been. */
void mq_ws_on_slot_ready(mq_worker_session *s, uint32_t slot, int64_t now_ms, mq_ws_actions *out);
void mq_ws_on_slot_dead(mq_worker_session *s, uint32_t slot, mq_span why, bool has_begun,
                        int64_t now_ms, mq_ws_actions *out);

/* A START of this job could not be carried out: it ends as a failure that another attempt may cure.
 */
void mq_ws_on_refused(mq_worker_session *s, uint32_t job, const mq_error *error, int64_t now_ms,
                      mq_ws_actions *out);

/* A RECALL was carried out: the slot will not run the job. */
void mq_ws_on_recalled(mq_worker_session *s, uint32_t job, mq_ws_actions *out);

/* The job in this slot has ended. error->code MQ_OK: succeeded. kept_bytes: of its result. */
void mq_ws_on_ended(mq_worker_session *s, uint32_t slot, const mq_error *error, uint64_t run_us,
                    size_t kept_bytes, int64_t now_ms, mq_ws_actions *out);

/* The job in this slot ended by the death of a process of its own; the slot lives. It counts as the
 * slot's death does. */
void mq_ws_on_crashed(mq_worker_session *s, uint32_t slot, mq_span why, uint64_t run_us,
                      int64_t now_ms, mq_ws_actions *out);

/* SEND_RESULT of this job could not be carried out: there was no room. It comes again soon. */
void mq_ws_on_unsent(mq_worker_session *s, uint32_t job, int64_t now_ms);

/* The upload asked for is done, or failed: then the job is given back as MQ_E_MISSING. */
void mq_ws_on_uploaded(mq_worker_session *s, uint32_t job, bool is_ok, int64_t now_ms);

/* Take no more jobs, finish within deadline_ms (0: the configured time), return the rest, exit. */
void mq_ws_drain(mq_worker_session *s, int64_t deadline_ms, int64_t now_ms);

/* Stop at once: what runs is killed and returned. */
void mq_ws_stop_now(mq_worker_session *s, int64_t now_ms);

/* Everything that is due. */
void mq_ws_flush(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out);

/* When flush wants to be called next. */
int64_t mq_ws_deadline(const mq_worker_session *s, int64_t now_ms);

/* Free slots to announce, and some more while jobs are so quick that a slot would wait for the
 * broker longer than it works: about 20 ms of work, only for slots that are not at a long job. */
uint64_t mq_ws_credit(const mq_worker_session *s, int64_t now_ms);

/* Jobs of the shard at hand that READY and BEAT list, into held[MQ_WS_JOBS_MAX] (texts borrowed
 * from the session, progress left empty); indices of them into jobs. Returns how many. */
uint32_t mq_ws_held(const mq_worker_session *s, mq_msg_held *held, uint32_t *jobs);

/* Job of a lease, or UINT32_MAX. */
uint32_t mq_ws_find(const mq_worker_session *s, mq_span id, uint64_t epoch, uint64_t grant);

const char *mq_ws_class_name(mq_ws_class class);

#endif
