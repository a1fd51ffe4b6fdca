/* The client's session with a broker as pure data: which jobs and calls are open, what is to be
 * sent next, when to send it again, when to try another broker. No I/O, no clock, no threads, and
 * no memory taken after init: the caller passes `now_ms` (monotonic) in and pulls actions out.
 *
 *     mq_ccore_submit(..)                     a job enters
 *     while (mq_ccore_next(&core, now, &action)) { send, reconnect or end something }
 *     wait until mq_ccore_deadline(&core) or a message, then tell the core about it
 *
 *                  next: SUBMIT        submitted ok/dup           done, or state is terminal
 *     WAITING ----------------> SENT -------------------> OPEN -------------------------> (free)
 *        |                      |  ^ resend, busy         | ^  ASK: get, again after a while
 *        | cancel               |  +--------- not known --+ +--+
 *        v                      v refused, gave up          v gave up (transient)
 *      (free)                 (free)                      (free)
 *
 * Exactly once: an entry is freed by the one call that returns its slot as ended; every later
 * answer for it finds nothing. The caller completes the job that belongs to the slot right then. */
#ifndef MQ_CLIENT_CORE_H
#define MQ_CLIENT_CORE_H

#include "shared/base/error.h"
#include "shared/base/heap.h"
#include "shared/base/map.h"
#include "shared/base/prng.h"
#include "shared/base/ulid.h"

#define MQ_CCORE_NONE UINT32_MAX

enum {
    MQ_CCORE_RESEND_MS = 1000,      /* first resend; then twice as long each time, full jitter */
    MQ_CCORE_RESEND_MAX_MS = 30000, /* at most */
    MQ_CCORE_ENDED_MAX = 2,  /* answers "has ended" without an end, then the job is given up */
    MQ_CCORE_POLL_MS = 2000, /* first GET of an open job, then twice as long each time */
    MQ_CCORE_POLL_MAX_MS = 30000,
    MQ_CCORE_WATCH_POLL_MAX_MS = 4000, /* for jobs whose progress somebody watches */
    MQ_CCORE_SILENT_MS = 1000,         /* one silent interval */
    MQ_CCORE_SILENT_MAX = 3,           /* then the next broker */
    MQ_CCORE_ASK_RATE = 1000,          /* GETs a second after a reconnection */
    MQ_CCORE_ID_SIZE = 33,
};

typedef struct mq_ccore_config {
    uint32_t capacity; /* jobs and calls together */
    uint32_t window;   /* jobs sent and not answered */
    uint64_t seed;     /* of the jitter */
} mq_ccore_config;

typedef enum mq_ccore_phase {
    MQ_CCORE_FREE,
    MQ_CCORE_WAITING, /* not sent yet: the window is full, or no link */
    MQ_CCORE_SENT,    /* a submit without an answer */
    MQ_CCORE_OPEN,    /* accepted (or opened by id), not ended */
    MQ_CCORE_CALL,    /* a query or a command without an answer */
} mq_ccore_phase;

typedef struct mq_ccore_entry {
    char id[MQ_CCORE_ID_SIZE]; /* of the job; empty for a call */
    uint8_t phase;             /* mq_ccore_phase */
    uint8_t cancel;            /* 0, 1 soft, 2 hard: not answered yet */
    bool is_transient;
    bool is_opened;  /* by id: there is nothing to submit */
    bool is_solo;    /* goes alone, to find out which one of a batch was refused */
    bool is_watched; /* events wanted */
    uint8_t ended;   /* times that a submit was answered: has ended already */
    uint32_t tries;  /* sends in this phase */
    uint32_t sends;  /* submits, in all */
    uint32_t generation;
    uint32_t prev, next; /* list of WAITING */
    uint64_t batch;      /* rid of the last submit message it was in */
    int64_t give_up_ms;  /* ends with MQ_E_TIMEOUT then; INT64_MAX never */
    mq_code refused;     /* refusal still to be reported by next(), or MQ_OK */
} mq_ccore_entry;

typedef struct mq_ccore {
    mq_ccore_entry *entries; /* owned, capacity of them */
    mq_heap_entry *heap_entries;
    uint32_t *heap_positions;
    uint32_t *free_slots; /* owned stack of free slots */
    uint32_t free_count;
    uint32_t capacity;
    uint32_t window;
    mq_map ids;     /* job id -> slot */
    mq_heap timers; /* next thing to do for a slot */
    mq_prng prng;
    uint32_t waiting_head, waiting_tail;
    uint32_t waiting_count; /* phase WAITING */
    uint32_t sent_count;    /* phase SENT */
    uint32_t silent_count;  /* intervals since the last message */
    int64_t silent_due_ms;  /* end of the interval that runs; INT64_MAX when nothing is open */
    uint64_t batches;       /* submit messages made */
    bool is_linked;         /* messages can go out */
    bool is_held;           /* no job is sent or asked for: where they belong is not known yet */
    bool wants_hello;
} mq_ccore;

typedef enum mq_ccore_what {
    MQ_CCORE_HELLO,  /* send hello */
    MQ_CCORE_ROTATE, /* drop the connection, connect to the next broker */
    MQ_CCORE_SUBMIT, /* send the job of `slot`; mq_ccore_batched tells in which message */
    MQ_CCORE_ASK,    /* send get (and watch, cancel as flagged) for the job of `slot` */
    MQ_CCORE_SEND,   /* send the call of `slot` */
    MQ_CCORE_END,    /* `slot` has ended with `code` and is free */
} mq_ccore_what;

typedef struct mq_ccore_action {
    mq_ccore_what what;
    uint32_t slot;
    uint64_t rid;     /* for ASK and SEND */
    bool is_solo;     /* SUBMIT: alone in its message */
    bool wants_watch; /* ASK */
    uint8_t cancel;   /* ASK: 0, 1 soft, 2 hard */
    uint32_t sends;   /* END of a job: how often it was submitted */
    mq_code code;     /* END */
} mq_ccore_action;

/* Takes memory for `capacity` entries (about 130 bytes each). capacity, window: at least 1. */
MQ_MUST_USE mq_code mq_ccore_init(mq_ccore *core, const mq_ccore_config *config, mq_error *err);
void mq_ccore_release(mq_ccore *core);

/* ---- things to do; each returns a slot, MQ_CCORE_NONE when all are taken ---- */

/* A job to submit. MQ_CCORE_NONE also when its id is open already. id: at most 32 bytes. */
uint32_t mq_ccore_submit(mq_ccore *core, int64_t now_ms, mq_span id, bool is_transient,
                         int64_t give_up_ms);

/* A job that exists: only asked for. */
uint32_t mq_ccore_open(mq_ccore *core, int64_t now_ms, mq_span id);

/* A query or command: sent until mq_ccore_answered, with one rid. */
uint32_t mq_ccore_call(mq_ccore *core, int64_t now_ms, int64_t give_up_ms);

/* Marks a job for cancellation. True: it had never been sent, has ended and its slot is free. */
MQ_MUST_USE bool mq_ccore_cancel(mq_ccore *core, int64_t now_ms, uint32_t slot, bool is_hard);

void mq_ccore_watch(mq_ccore *core, int64_t now_ms, uint32_t slot, bool is_watched);

/* Frees the slot without a word: nobody wants the answer any more. */
void mq_ccore_drop(mq_ccore *core, uint32_t slot);

/* ---- what happened ---- */

void mq_ccore_linked(mq_ccore *core, int64_t now_ms);   /* a connection is up: all is sent again */
void mq_ccore_unlinked(mq_ccore *core, int64_t now_ms); /* it is gone */
void mq_ccore_heard(mq_ccore *core, int64_t now_ms);    /* any message came */

/* Whether jobs go out. Calls, hello and giving up are not held. */
void mq_ccore_hold(mq_ccore *core, int64_t now_ms, bool is_held);

/* Puts the slot of the latest SUBMIT into message `rid` = mq_ccore_new_batch(). */
uint64_t mq_ccore_new_batch(mq_ccore *core);
void mq_ccore_batched(mq_ccore *core, uint32_t slot, uint64_t rid);

/* One verdict of `submitted`. Returns the slot when the job was refused for good and has ended
 * here, else MQ_CCORE_NONE. *accepted (may be NULL): slot of a job that has just become OPEN, else
 * NONE. is_ended: the broker says that it is in a terminal state already (its result is asked for).
 */
uint32_t mq_ccore_submitted(mq_ccore *core, int64_t now_ms, mq_span id, mq_code verdict,
                            uint64_t retry_ms, bool is_ended, uint32_t *accepted);

/* One job of `done`. Returns its slot, freed; MQ_CCORE_NONE when it is not open here (any more). */
uint32_t mq_ccore_done(mq_ccore *core, mq_span id);

/* Answer to ASK. verdict MQ_OK or MQ_E_NOT_FOUND. Returns the slot, freed, when the job has ended
 * (terminal, or not known and impossible to submit again: then *code is MQ_E_NOT_FOUND). */
uint32_t mq_ccore_state(mq_ccore *core, int64_t now_ms, uint64_t rid, mq_code verdict,
                        bool is_terminal, mq_code *code);

/* `reply` or `answer` to a call: its slot, freed. For a job's cancel NONE: the wish is met, or is
 * told again when the verdict is busy, moved or stale. */
uint32_t mq_ccore_answered(mq_ccore *core, int64_t now_ms, uint64_t rid, mq_code verdict);

/* `error` for a whole message: busy and moved are tried again after retry_ms; other codes end a
 * call (its slot is returned, freed), and jobs of a batch through next(). */
uint32_t mq_ccore_error(mq_ccore *core, int64_t now_ms, uint64_t rid, mq_code code,
                        uint64_t retry_ms);

/* ---- what to do ---- */

/* Next action, false when there is none at the moment. */
bool mq_ccore_next(mq_ccore *core, int64_t now_ms, mq_ccore_action *out);

/* When to call next again at the latest; INT64_MAX when only a message can change anything. */
int64_t mq_ccore_deadline(const mq_ccore *core);

/* Slot of an open job, MQ_CCORE_NONE otherwise. */
uint32_t mq_ccore_find(const mq_ccore *core, mq_span id);

/* Entries that are not free. */
uint32_t mq_ccore_count(const mq_ccore *core);

#endif
