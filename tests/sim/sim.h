/* The simulator: the real cores of brokers, workers and clients over a network, a store and clocks
 * that a seed decides, in one thread and in no time.
 *
 *     sim.c     events in order of (time, number), processes that die, pause and come back, faults
 *     net.c     connections: order kept within one, delay, loss by breaking, stalls, full pipes
 *     store.c   the in-memory store behind a link that is slow, breaks, forgets answers and carries
 *               out late what was sent over a link long gone
 *     replica.c the store's replica: lags, dies, is promoted (a quarter of the seeds); the primary
 *               that was lost comes back
 *     broker.c  worker.c  client.c    the shells: what the programs' io/ folders do around a core
 *     jobs.c    the workload      check.c  what must hold after every step
 *     policy.c  what the order of starts must keep to
 *
 * Everything random is drawn from the seed's one generator, nothing is read from the machine: equal
 * seeds give equal traces. Nothing here decides what a core should do. */
#ifndef MQ_TESTS_SIM_H
#define MQ_TESTS_SIM_H

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/core.h"
#include "broker/io/witness.h"
#include "client/src/core.h"
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "shared/base/prng.h"
#include "shared/base/ulid.h"
#include "shared/store/memory.h"
#include "worker/core/session.h"

enum {
    SIM_BROKERS = 2,
    SIM_WORKERS = 4,
    SIM_CLIENTS = 3,
    SIM_PARTIES = SIM_BROKERS + SIM_WORKERS + SIM_CLIENTS,
    SIM_JOBS = 96,          /* submitted ones */
    SIM_ALL = 3 * SIM_JOBS, /* with those that results make */
    SIM_SLOTS = 4,
    SIM_SPAWNS = 2,
    SIM_DEPS = 3,
    SIM_RULES_MAX = 16,   /* limits in force */
    SIM_STARTS_MAX = 512, /* remembered of a limit with a rate */
    SIM_TRACE_LINES = 50,
    SIM_LINE = 192,
    SIM_FAULT_MS = 60000,      /* the time of faults, simulated */
    SIM_STEPS = 400000,        /* a seed that needs more has hung */
    SIM_CALM_MS = 2 * 3600000, /* time without faults in which everything must end */
    SIM_PIPE = 64,             /* messages on the way in one direction before a pipe can be full */
};
#define SIM_T0   INT64_C(1700000000000) /* wall time at the start */
#define SIM_NONE UINT32_MAX

/* Kinds of faults; a seed switches each on or off and draws its rate. */
typedef enum sim_fault {
#define SIM_FAULT(symbol, text) SIM_F_##symbol,
#include "tests/sim/faults.def"
#undef SIM_FAULT
    SIM_FAULTS
} sim_fault;

typedef struct sim sim;
typedef struct sim_event sim_event;
typedef void sim_run(sim *s, sim_event *e);

struct sim_event {
    int64_t at_ms;
    uint64_t number; /* orders events of one time */
    sim_run *run;
    uint32_t party; /* dropped when this process has died since; waits while it is paused */
    uint64_t life;
    bool is_put_off; /* to the end of a pause */
    uint64_t a;
    void *data; /* owned: one block, or NULL */
};

/* A process. Its number is also how others name it: brokers first, then workers, then clients. */
typedef struct sim_party {
    bool is_alive;
    uint64_t life; /* grows with each start */
    int64_t paused_until_ms;
    /* of workers and clients: */
    uint32_t broker; /* where it wants to be connected */
    uint64_t conn;   /* 0 = not connected */
    uint64_t attempt;
} sim_party;

typedef struct sim_conn {
    bool is_open;
    bool is_left; /* closed by the peer: what it had sent may still arrive */
    uint32_t peer, broker;
    int64_t last_ms[2]; /* when the last message on the way arrives, by direction */
    int64_t stall_ms[2];
    uint32_t queued[2];
} sim_conn;

typedef struct sim_message {
    uint64_t conn;
    bool is_down; /* broker -> peer */
    int64_t sent_ms;
    mq_command command;
    size_t header_len, payload_len;
    uint8_t bytes[]; /* header, payload */
} sim_message;

/* ---- jobs ---- */

typedef enum sim_outcome { SIM_OK, SIM_FATAL, SIM_POISON, SIM_HANG } sim_outcome;

typedef struct sim_job {
    char id[MQ_ULID_SIZE];
    uint32_t client; /* who submits it; SIM_NONE: made by a result */
    char kind[16], queue[8], tenant[8], key[8], unique[8], body[80];
    uint64_t priority, ttl_ms, max_run_ms, attempts_max, seats_min, seats_max, delay_ms;
    uint32_t deps[SIM_DEPS], dep_count;
    uint32_t parent;                          /* whose result makes it */
    uint32_t spawns[SIM_SPAWNS], spawn_count; /* children of its result */
    bool is_replicated;
    bool is_transient, is_quiet, does_publish, has_blob, runs_anyway;
    sim_outcome outcome;
    uint32_t failures; /* clean failures before it succeeds */
    int64_t run_ms;
    int64_t submit_ms, cancel_ms, retry_ms; /* when; 0 = never */
    bool is_cancel_hard;
    /* what has happened */
    bool is_made;  /* submitted once, or sent as somebody's child */
    bool is_acked; /* a client was told ok or dup */
    bool is_cancel_sent, is_retry_sent, is_cancel_acked, is_refused, is_told; /* end heard */
    uint64_t cancel_epoch, cancel_grant; /* token when the cancel was acknowledged */
    int64_t run_at_ms;                   /* fixed at the first submit */
    uint32_t handles, ends; /* client's handles opened, ended or lost with the client */
    uint32_t commits, versions;
    mq_state told;             /* when is_told */
    bool is_stored, has_ended; /* once: an operator may have brought it back */
    int64_t stored_ms;         /* when it was stored first */
    mq_state state;            /* as stored */
    uint64_t tokens;           /* sent out so far */
    uint64_t epoch, grant;     /* highest token sent out */
    char holder[33];           /* of that token */
} sim_job;

/* ---- processes ---- */

typedef enum sim_own { SIM_OWN_NONE, SIM_OWN_ASKED, SIM_OWN_READING, SIM_OWN_SERVING } sim_own;

typedef struct sim_op sim_op;         /* a call to the store, store.c */
typedef struct sim_policy sim_policy; /* what policy.c remembers */

typedef struct sim_broker {
    uint32_t no;
    sim_own own;
    void *memory;
    mq_core *core;
    uint64_t generation, epoch, sequence, used_bytes, max_bytes;
    uint32_t bytes_alive;
    int64_t renewed_ms, renew_sent_ms, retry_ms, offset_ms, wake_ms;
    uint64_t wake;
    bool is_renewing, is_full, is_loading, must_drop;
    bool is_asking_replicas;
    int64_t replicas_ms; /* when to ask again */
    uint32_t moved_to;   /* broker that owns the shard, or SIM_NONE */
    uint32_t waiting_reads;
    uint64_t max_segment, compared;
    bool has_segment;
    uint64_t segments[64];
    uint32_t segment_count, segment_next;
    /* its link to the store */
    bool is_linked;
    int64_t store_last_ms; /* requests are carried out in order */
    int64_t answer_last_ms;
    /* messages that wait until it serves */
    sim_message **inbox;
    uint32_t inbox_count, inbox_capacity;
} sim_broker;

typedef struct sim_kept {
    bool is_used, is_gang, is_lead, is_empty;
    char id[33];
    uint32_t job, attempt;
    uint64_t epoch, grant, gang_epoch, seat, step;
    char result[128];
} sim_kept;

typedef struct sim_slot {
    bool is_up, is_busy, is_stubborn;
    uint64_t run;
    uint32_t job;
    bool is_cancelled;
    uint32_t queue[MQ_WS_HAND_MAX]; /* given and not begun */
    uint32_t queue_count;
} sim_slot;

typedef struct sim_worker {
    uint32_t no;
    char uuid[33];
    mq_worker_session session;
    mq_ws_actions actions;
    sim_kept kept[MQ_WS_JOBS_MAX];
    sim_slot slots[SIM_SLOTS];
    int64_t wake_ms;
    uint64_t wake;
} sim_worker;

typedef struct sim_client {
    uint32_t no;
    mq_ccore core;
    bool has_core;
    uint32_t handles[512]; /* slot -> job, SIM_NONE */
    struct {
        char verb[16];
        char args[48]; /* blanks between them */
    } calls[512];
    int64_t wake_ms, skew_ms;
    uint64_t wake;
    uint32_t batch_max;
} sim_client;

/* ---- the world ---- */

struct sim {
    uint64_t seed, steps, hash;
    mq_prng prng;
    int64_t now_ms;
    bool is_calm, does_print;
    jmp_buf failed;
    char reason[512];
    char lines[SIM_TRACE_LINES][SIM_LINE];
    uint64_t line_count;
    sim_event **heap;
    uint32_t heap_count, heap_capacity;
    uint64_t event_numbers;
    sim_party parties[SIM_PARTIES];
    sim_conn *conns; /* conn number - 1 */
    uint32_t conn_count, conn_capacity;
    int64_t partition_ms[SIM_PARTIES][SIM_BROKERS]; /* until when */
    /* faults */
    uint32_t rate[SIM_FAULTS]; /* one in so many; 0 = off */
    uint64_t injected[SIM_FAULTS];
    int64_t delay_max_ms, store_max_ms, turn_max_ms, fault_ms;
    /* store */
    mq_memory *disk;
    int64_t store_clock_ms, store_skew_ms, store_down_ms, store_slow_ms, full_until_ms;
    /* replica.c */
    bool has_replica, is_replica_up, is_replica_due;
    mq_prng replica_prng, former_prng;
    mq_memory *replica;
    int64_t replica_stall_ms;
    uint64_t failovers, lost_durable;
    int64_t failover_ms;             /* when the last one was */
    mq_memory *former;               /* the primary that was lost, until it comes back; owned */
    mq_witness witness[SIM_BROKERS]; /* the real ones; they outlive processes, as files do */
    char known[SIM_BROKERS][MQ_LINEAGE_ID_SIZE]; /* what each broker must have seen of it */
    bool is_former_back;                         /* disk is that one: nobody may take it */
    uint64_t returns;                            /* times that it came back */
    sim_op *ops; /* under way, oldest first; also those of links that are gone */
    uint64_t op_numbers;
    uint64_t commits;
    /* settings of the seed */
    mq_core_config config;
    int64_t tenure_ms;
    uint32_t broker_count, worker_count, client_count, slot_count, prefetch, hand;
    sim_broker brokers[SIM_BROKERS];
    sim_worker workers[SIM_WORKERS];
    sim_client clients[SIM_CLIENTS];
    sim_job jobs[SIM_ALL];
    uint32_t job_count, submit_count;
    bool is_queue_paused;
    uint64_t ids, worker_starts;
    mq_outputs *out; /* shared by all brokers: one thread, emptied by each step */
    mq_arena arena;  /* of the message being read */
    mq_buf header, payload;
    mq_job_record a, b;
    uint64_t stored, dups, end_counts[MQ_STATE_COUNT];
    int64_t submits_end_ms;
    sim_policy *policy; /* owned */
    uint64_t shares;    /* times that fair shares were compared */
    bool is_rush;       /* much waits at once, of several tenants */
};

/* ---- sim.c ---- */

uint64_t sim_draw(sim *s, uint64_t bound);
/* True in one of rate[fault] cases, never in calm times; counts it. */
bool sim_fault_now(sim *s, sim_fault fault);
void sim_trace(sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void sim_fail(sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define SIM_CHECK(s, cond, ...)                                                                    \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            sim_fail(s, __VA_ARGS__);                                                              \
        }                                                                                          \
    } while (0)
/* run(s, e) at that time, if the process still lives then. Takes data (malloc). */
void sim_at(sim *s, int64_t at_ms, sim_run *run, uint32_t party, uint64_t a, void *data);
/* This process's pause ends now: what was put off comes first, in its order. */
void sim_resume(sim *s, uint32_t party);
static inline uint32_t sim_party_worker(uint32_t no)
{
    return SIM_BROKERS + no;
}
static inline uint32_t sim_party_client(uint32_t no)
{
    return SIM_BROKERS + SIM_WORKERS + no;
}
int64_t sim_wall(const sim *s);
void sim_new_id(sim *s, int64_t wall_ms, char out[MQ_ULID_SIZE]);
sim *sim_new(uint64_t seed, bool does_print);
void sim_free(sim *s);
/* Lives the whole life; false: something was violated, see reason. */
bool sim_live(sim *s);

/* ---- net.c ---- */

/* MQ_OK says nothing about arrival; MQ_E_BUSY: no room, MQ_E_NOT_FOUND: nobody there. */
mq_code sim_send(sim *s, uint64_t conn, bool is_down, mq_command command, const void *message,
                 mq_span payload);
void sim_connect(sim *s, uint32_t peer, uint32_t broker);
void sim_break(sim *s, uint64_t conn);
void sim_break_all_of(sim *s, uint32_t party);
void sim_partition(sim *s);
void sim_stall(sim *s);

/* ---- store.c ---- */

mq_code sim_store_acquire(sim *s, sim_broker *b, bool is_takeover);
bool sim_store_commit(sim *s, sim_broker *b, const mq_outputs *out);
void sim_store_segments(sim *s, sim_broker *b);
void sim_store_scan(sim *s, sim_broker *b, mq_store_part part, uint64_t segment);
void sim_store_body(sim *s, sim_broker *b, mq_span id);
/* ask: the core's question. SIM_NONE: a client's get, to be answered to conn and rid. */
void sim_store_job(sim *s, sim_broker *b, mq_span id, uint32_t ask, uint64_t conn, uint64_t rid);
void sim_store_break(sim *s, sim_broker *b);
void sim_store_abandon(sim *s, sim_broker *b); /* the broker died */
void sim_store_release(sim *s);
/* What the store holds of a job at this moment, wherever; false when it has nothing. */
bool sim_stored(const sim *s, mq_span id, mq_span *record, mq_span *result);

/* How many replicas hold what was sent before. */
void sim_store_replicas(sim *s, sim_broker *b);

/* ---- replica.c ---- */

void sim_replica_init(sim *s);   /* after the jobs are drawn */
void sim_replica_behind(sim *s); /* the store has changed */
void sim_replica_calm(sim *s);
void sim_replica_ask(sim *s, sim_broker *b);
/* What an owner call has found is the right store, as far as this broker has seen it. */
bool sim_replica_is_right(sim *s, sim_broker *b, mq_code code, const mq_store_owner *owner);
bool sim_replica_is_sure(const sim_broker *b, uint64_t flags);

/* ---- broker.c ---- */

void sim_broker_start(sim *s, sim_broker *b);
void sim_broker_stop(sim *s, sim_broker *b);
void sim_broker_receive(sim *s, sim_broker *b, sim_message *m); /* takes m */
void sim_broker_wake(sim *s, sim_broker *b, int64_t at_ms);
void sim_broker_drop(sim *s, sim_broker *b, const char *why);
bool sim_broker_step(sim *s, sim_broker *b, mq_input *in); /* false: there is no core any more */
/* answers of the store */
void sim_broker_owned(sim *s, sim_broker *b, bool is_takeover, mq_code code,
                      const mq_store_owner *owner);
void sim_broker_committed(sim *s, sim_broker *b, uint64_t generation, const mq_store_reply *reply);
void sim_broker_field(sim *s, sim_broker *b, uint64_t generation, mq_store_part part,
                      bool is_segment, mq_code code, mq_span field, mq_span value);
void sim_broker_body(sim *s, sim_broker *b, uint64_t generation, mq_span id, mq_code code,
                     mq_span value, bool is_there);
void sim_broker_found(sim *s, sim_broker *b, uint64_t generation, uint32_t ask, mq_code code,
                      mq_span record);
void sim_broker_looked(sim *s, sim_broker *b, uint64_t conn, uint64_t rid, mq_span id, mq_code code,
                       mq_span record, mq_span result);
void sim_broker_replicas(sim *s, sim_broker *b, uint64_t generation, uint64_t sequence,
                         uint32_t count);
bool sim_broker_is_serving(const sim *s, const sim_broker *b);

/* ---- worker.c, client.c ---- */

void sim_worker_start(sim *s, sim_worker *w);
void sim_worker_stop(sim *s, sim_worker *w);
void sim_worker_receive(sim *s, sim_worker *w, const sim_message *m);
void sim_worker_link(sim *s, sim_worker *w, bool is_up);
void sim_client_start(sim *s, sim_client *c);
void sim_client_stop(sim *s, sim_client *c);
void sim_client_receive(sim *s, sim_client *c, const sim_message *m);
void sim_client_link(sim *s, sim_client *c, bool is_up);
void sim_client_submit(sim *s, uint32_t job);
void sim_client_cancel(sim *s, uint32_t job);
void sim_client_command(sim *s, sim_client *c, const char *verb, const char *args);

/* ---- jobs.c ---- */

void sim_jobs_draw(sim *s);
uint32_t sim_job_find(const sim *s, mq_span id); /* SIM_NONE when there is none */
sim_job *sim_job_get(sim *s, mq_span id);
void sim_jobs_calm(sim *s);

/* ---- policy.c ---- */

/* A core has made a step: after a turn, caps, rates, order and shares hold. */
void sim_policy_step(sim *s, sim_broker *b, const mq_input *in);
void sim_policy_free(sim *s);

/* ---- equal.c ---- */

/* Nothing is under way: what the core knows besides its jobs is what is stored. */
void sim_check_rest_equal(sim *s, sim_broker *b);

/* ---- check.c ---- */

/* A commit is about to be carried out; it was, or was refused. */
void sim_check_before(sim *s, const mq_store_batch *batch);
void sim_check_recount(sim *s); /* the store is another one: its ends so far are its own */
void sim_check_applied(sim *s, const mq_store_batch *batch, bool is_applied);
void sim_check_job_out(sim *s, sim_broker *b, const mq_output *o); /* a lease goes to a worker */
void sim_check_acked(sim *s, sim_job *job, const char *verdict);
void sim_check_verdict(sim *s, const sim_worker *w, const mq_msg_held_verdict *v,
                       const mq_ws_job *job, int64_t sent_ms);
void sim_check_told(sim *s, sim_job *job, mq_span state, mq_span result, const char *by);
void sim_check_cancelled(sim *s, sim_job *job);
void sim_check_equal(sim *s, sim_broker *b);
void sim_check_step(sim *s);
bool sim_check_is_over(sim *s);
void sim_check_end(sim *s);
void sim_check_dump(sim *s); /* traces what is left, for whoever looks for the reason */

#endif
