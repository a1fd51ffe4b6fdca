/* What the files of the client library share: the client, its jobs and its calls.
 *
 *     maasq_client --- lock, changed (condition)          any thread
 *       |-- core      sessions as pure data (core.h)      under the lock
 *       |-- slots[]   core slot -> maasq_job or mq_call   under the lock
 *       |-- io        sockets                             only the thread that dispatches
 *       `-- ended, events: callbacks to run               filled under the lock, run without it
 *
 * Reference counts (under the lock): a job is held by its caller and, until its callback has run,
 * by the session; a client is held by its owner and by each of its jobs. */
#ifndef MQ_CLIENT_CLIENT_H
#define MQ_CLIENT_CLIENT_H

#include <pthread.h>

#include "client/include/maasq.h"
#include "client/src/core.h"
#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/blob/blob.h"
#include "shared/wire/messages.h"

enum {
    MQ_CLIENT_BROKERS_MAX = 16,
    MQ_CLIENT_URL_MAX = 256,
    MQ_CLIENT_CALLS_MAX = 1024,         /* queries and commands under way, beside jobs_max */
    MQ_CLIENT_BODY_BYTES_MAX = 1 << 20, /* of a kind that is not in the table */
    MQ_CLIENT_EVENTS_MAX = 4096,        /* waiting for their callbacks; more are dropped */
};
#define MQ_CLIENT_WAIT_MS_MAX INT64_C(604800000)

/* A message out of the core's sight: its request fields, in one block with their texts. */
struct maasq_job {
    maasq_client *_Atomic client; /* counted; changes once at most, see mq_job_lock */
    uint32_t refs;
    uint32_t slot; /* MQ_CCORE_NONE when the session does not hold it */
    char id[MQ_CCORE_ID_SIZE];
    mq_msg_submit_job request; /* texts point into block */
    mq_span body;              /* into block */
    void *block;               /* owned, freed at the end of the job */
    size_t block_bytes;
    maasq_done_fn *done;
    void *done_arg;
    maasq_event_fn *event;
    bool is_counted; /* in client->callbacks */
    void *event_arg;
    maasq_job *next; /* in client->ended */

    bool is_done;
    const char *state; /* static */
    char *progress;    /* owned, NULL when none */
    int code;          /* MAASQ_E_* of the end */
    char *error;       /* owned, NULL when none */
    char why[64];
    char other[MQ_CCORE_ID_SIZE]; /* the live job that has its unique key */
    void *result;                 /* owned */
    size_t result_bytes;
    uint32_t attempts;
    uint32_t sends;
    uint64_t queue_us;
    uint64_t run_us;
};

/* A question or command under way; on the stack of the thread that waits for it. */
typedef struct mq_call {
    mq_command command;
    mq_msg_query query;
    mq_msg_command request;
    mq_span body; /* of the request; borrowed */
    bool is_done;
    uint32_t slot;
    int code;
    char text[MAASQ_ERROR_TEXT_MAX];
    char *json; /* owned; the answer of a query */
} mq_call;

typedef struct mq_slot {
    maasq_job *job; /* counted, or NULL */
    mq_call *call;
} mq_slot;

/* What an epoll descriptor speaks of; MQ_IO_SHARD: another shard's client. */
typedef enum mq_io_source {
    MQ_IO_DEALER,
    MQ_IO_MONITOR,
    MQ_IO_WOKEN,
    MQ_IO_TIMER,
    MQ_IO_SHARD,
    MQ_IO_SOURCES
} mq_io_source;

/* Sockets and timers of one client; see io.c. */
typedef struct mq_io {
    void *context;
    void *dealer;
    void *monitor;
    int epoll_fd;
    int event_fd;
    int timer_fd;
    int64_t timer_ms;                    /* what timer_fd is set to, monotonic */
    bool is_blocked;                     /* the send queue is full */
    bool is_drained, is_monitor_drained; /* the last call was a receive that found nothing */
    uint64_t links;                      /* sockets opened so far */
    uint64_t sent;                       /* messages tried */
    uint32_t shard;                      /* that its messages are for */
    mq_buf header;
    mq_buf payload;
    mq_arena arena;
} mq_io;

/* An event for a callback. */
typedef struct mq_told {
    maasq_job *job; /* counted */
    const char *state;
    char *progress; /* owned, may be NULL */
    char *log;      /* owned, may be NULL */
    struct mq_told *next;
} mq_told;

/* Where the shards are, as any broker said last; shared by the clients of all shards. Its lock is
 * the innermost. */
typedef struct mq_client_routes {
    pthread_mutex_t lock;
    uint64_t version;
    struct {
        uint64_t epoch;
        char url[MQ_CLIENT_URL_MAX]; /* "" = nobody */
    } at[MQ_ULID_SHARDS_MAX];
} mq_client_routes;

struct maasq_client {
    pthread_mutex_t lock;   /* everything below but io and what never changes */
    pthread_cond_t changed; /* some job or call ended, a broker answered, nobody leads */
    pthread_cond_t attend;  /* the client's own thread is wanted; see lead.c */
    uint32_t refs;

    /* Never changes after maasq_client_new. */
    char brokers[MQ_CLIENT_BROKERS_MAX][MQ_CLIENT_URL_MAX];
    uint32_t broker_count;
    uint32_t shard;        /* of the deployment; the client that was given to the user has 0 */
    maasq_client *primary; /* of a further shard's client: the user's; else NULL */
    char name[65];
    char tenant[65];
    char blob_url[513]; /* from the options, or "" */
    uint32_t jobs_max;
    uint64_t bytes_max;
    int64_t submit_ms;
    bool is_own_loop;
    pthread_t thread;

    maasq_client *others[MQ_ULID_SHARDS_MAX]; /* primary: clients of further shards, as needed */
    uint32_t window;
    bool must_move;              /* primary: held jobs go to the clients of their shards */
    uint32_t shard_count;        /* of the deployment, as a broker said; 0 = not known yet */
    int64_t again_ms;            /* everything is sent again then; 0 = no need */
    mq_client_routes *routes;    /* the primary's */
    uint64_t routes_seen;        /* version of those that have been followed */
    uint64_t route_epoch;        /* of the owner that welcomed us; 0 = not known yet */
    char url[MQ_CLIENT_URL_MAX]; /* where the connection goes */

    mq_ccore core;
    mq_slot *slots; /* owned, one per core slot */
    uint32_t job_count;
    uint64_t job_bytes;
    uint32_t broker_index;
    char moved_to[MQ_CLIENT_URL_MAX]; /* the owner's endpoint when a broker said moved, or "" */
    bool is_welcome;                  /* a broker has answered on this connection */
    bool was_welcome;                 /* or once before */
    char welcome_blobs[513];
    int64_t clock_ahead_ms; /* the broker's wall clock minus ours */
    mq_error refusal;       /* text of the latest error message */
    char busy[160];         /* why a submit was told busy last; empty once one was taken */
    bool is_woken;          /* event_fd has been written and not read */
    bool is_led;            /* a thread that waits takes the turns; see lead.c */
    bool is_parked_long;    /* the client's own thread sleeps until it is told */
    uint64_t leads;         /* so many times */
    int64_t led_ms;         /* when the last one ended, monotonic; 0 = never */
    uint32_t callbacks;     /* jobs that have one and are not over */
    bool is_closing;
    bool is_dispatching; /* own_loop: inside maasq_dispatch */
    maasq_job *ended, *ended_tail;
    mq_told *told, *told_tail;
    uint32_t told_count;

    mq_io io;

    pthread_mutex_t blob_lock; /* blobs, blobs_url */
    mq_blobs *blobs;
    char blobs_url[513];
};

/* ---- client.c ---- */

/* ---- shards.c ---- */

/* Waits until a broker has said how many shards there are, at most until deadline_ms; 1 when none
 * has. Not under the lock. */
uint32_t mq_client_shards(maasq_client *primary, int64_t deadline_ms);

/* The client for a shard, made when it is new. Not under the lock. NULL with err. */
maasq_client *mq_client_of(maasq_client *primary, uint32_t shard, mq_error *err);

/* The client for a job's id, locked: that of its shard, or the primary while nobody has said how
 * many shards there are; the primary holds such jobs back and gives them away later. NULL with err,
 * nothing locked. */
maasq_client *mq_client_lock_for(maasq_client *primary, const char *id, mq_error *err);

/* Gives held jobs to the clients of their shards, once a broker has said how many there are. Under
 * no lock, in the dispatching thread. */
void mq_client_move_held(maasq_client *primary);

/* Keeps what a broker says of the shards' owners, unless it is old news. */
void mq_client_routes_learn(maasq_client *client, const mq_msg_routes *m);

/* True, with the owner's endpoint in url, when this client's broker is not the one that owns its
 * shard according to the latest routes: it had not welcomed us, or it has a successor. Under the
 * lock. */
bool mq_client_routes_follow(maasq_client *client, char url[MQ_CLIENT_URL_MAX]);

/* Epoch of this client's shard in the latest routes, 0 = not known. Under the lock. */
uint64_t mq_client_routes_epoch(maasq_client *client);

/* Version of the latest routes. */
uint64_t mq_client_routes_version(maasq_client *client);

/* Clients of all shards that there are so far, the primary first. Returns how many. */
uint32_t mq_client_all(maasq_client *primary, maasq_client *out[MQ_ULID_SHARDS_MAX]);

/* True when this job must live in shard 0: it needs the registry, a key or a gang. */
bool mq_spec_is_home(const maasq_spec *spec);

/* ---- call.c: one question or command to one shard; under no lock ---- */

/* Sends it, again and again until it is answered or ended; false when there is no room. */
MQ_MUST_USE bool mq_client_call_begin(maasq_client *client, mq_call *call);
/* MQ_OK: it is answered. MQ_E_TIMEOUT; MQ_E_ARG in a callback. */
mq_code mq_client_call_wait(maasq_client *client, const mq_call *call, int64_t deadline_ms);
/* After it nobody writes to *call. False: there is no answer, call->text says why. */
bool mq_client_call_end(maasq_client *client, mq_call *call);

/* Submits like maasq_submit. near: id of a job whose shard is wanted, or NULL. */
maasq_job *mq_client_submit_near(maasq_client *client, const maasq_spec *spec, const char *near,
                                 maasq_done_fn *done, void *arg, mq_error *err);

/* Makes a client for a further shard, with the primary's settings. Under no lock. */
maasq_client *mq_client_new_shard(maasq_client *primary, uint32_t shard, mq_error *err);

/* Lets the dispatching thread look again. Under the lock. */
void mq_client_wake(maasq_client *client);

/* Drops one reference; frees at the last. Under the lock, which is gone or released afterwards. */
void mq_client_unref_unlock(maasq_client *client);

/* Waits, under the lock, until is_met(arg), at most until deadline_ms (monotonic). MQ_OK,
 * MQ_E_TIMEOUT, or MQ_E_ARG when called in a callback. With own_loop it dispatches meanwhile. */
mq_code mq_client_wait(maasq_client *client, bool (*is_met)(const void *), const void *arg,
                       int64_t deadline_ms);

/* Turns mq_fail's result into the public form. */
int mq_client_fail(maasq_error *err, mq_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int mq_client_error(maasq_error *err, const mq_error *from);

/* timeout_ms in range: the deadline; else -1 and err. */
int64_t mq_client_deadline(int64_t timeout_ms, maasq_error *err);

/* ---- future.c ---- */

/* How a job ended. Texts are borrowed and copied. */
typedef struct mq_end {
    const char *state; /* static */
    mq_code code;
    mq_span error;
    mq_span why;
    mq_span other;
    mq_span result;
    uint32_t attempts;
    uint32_t sends;
    uint64_t queue_us;
    uint64_t run_us;
} mq_end;

/* Completes the job of a slot that the core has just freed, and queues its callback. */
void mq_job_end(maasq_client *client, uint32_t slot, const mq_end *end);

/* Static text of a state's wire name, NULL when unknown; *is_terminal may be NULL. */
const char *mq_job_state(mq_span name, bool *is_terminal);

/* New state or progress (empty = unchanged) of an open job. */
void mq_job_tell(maasq_client *client, uint32_t slot, const char *state, mq_span progress,
                 mq_span log);

/* The job was accepted: when nobody waits for it any more, the session lets it go. */
void mq_job_accepted(maasq_client *client, uint32_t slot);

/* Locks the client that has the job, and returns it. A job that was submitted before the shards
 * were known changes its client once. */
maasq_client *mq_job_lock(const maasq_job *job);

/* Drops one reference, under the lock. */
void mq_job_unref(maasq_job *job);

/* Runs the callbacks that are due. Takes the lock only for moments. Returns jobs that ended. */
int mq_job_callbacks(maasq_client *client);

/* Lets go of jobs that have ended, none of which has a callback. Under the lock. */
void mq_job_reap(maasq_client *client);

/* Counts a job that has a callback, until that has run. Under the lock. */
void mq_job_count(maasq_job *job);

/* ---- lead.c ---- */

/* The client's own thread sleeps here while others lead; false when it is to wait for messages.
 * *leads: its memory between calls. Not under the lock. */
bool mq_lead_park(maasq_client *client, uint64_t *leads);

/* A thread that waits takes the turns now. Not under the lock. */
bool mq_lead_is_taken(maasq_client *client);

/* Wakes the client's own thread when it is parked. Under the lock. */
void mq_lead_attend(maasq_client *client);

/* Whether a thread that waits may take the turns. Under the lock. */
bool mq_lead_may(const maasq_client *client);

/* One sleep, at most until deadline_ms, and one turn. Under the lock, given up meanwhile. */
void mq_lead(maasq_client *client, int64_t deadline_ms);

/* ---- io.c ---- */

MQ_MUST_USE mq_code mq_io_init(maasq_client *client, mq_error *err);
void mq_io_release(mq_io *io);

/* Whether a message can go out now; remembers it for the timer. */
bool mq_io_is_writable(mq_io *io);

/* Lets the core act, sends, sets the timer: the second half of a turn, by whoever holds the lock.
 * True: a turn is due. */
bool mq_io_push(maasq_client *client, int64_t now_ms);

/* One turn: receives, lets the core act, sends, sets the timer. Under the lock. True: more waits.
 */
bool mq_io_turn(maasq_client *client);

/* Sends one message. header_of: struct of the command. False when it could not go out. */
bool mq_io_send(mq_io *io, mq_command command, const void *message, mq_span payload);

/* ---- send.c, receive.c ---- */

/* Does what the core wants done. True when it stopped at its bound of actions. */
bool mq_client_act(maasq_client *client, int64_t now_ms);

/* One message from the broker. Bad ones are dropped. */
void mq_client_receive(maasq_client *client, int64_t now_ms, mq_span head, mq_span header,
                       mq_span payload);

/* Goes to the owner of this client's shard when the latest routes name another one. Under the lock.
 */
void mq_client_follow_routes(maasq_client *client);

/* Drops the connection and connects to moved_to, else to the next broker of the list. */
void mq_io_reconnect(maasq_client *client);

#endif
