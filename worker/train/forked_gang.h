/* A gang of forked processes on this machine, without a broker: what the bench and the tests train
 * with. The parent plays the broker (it deals rosters, sees deaths, ends the job), each child gets
 * an mq_host whose gang part works over memory that all share. Members are real processes and are
 * killed by real SIGKILLs, at chosen moments.
 *
 *     mq_forked_gang *g;
 *     mq_forked_gang_new(&g, dir, &err);                  dir keeps the blobs
 *     mq_forked_gang_put(g, bytes, hash, &err);
 *     mq_forked_gang_answer(g, "dataset", "d@1", json);
 *     mq_forked_gang_start(g, &job, 2, &err);
 *     mq_forked_gang_wait(g, 30000, &outcome, &err);
 *
 * One job after another may be started. Call from a process with one thread. */
#ifndef MQ_WORKER_TRAIN_FORKED_GANG_H
#define MQ_WORKER_TRAIN_FORKED_GANG_H

#include "worker/slot/host.h"

enum {
    MQ_FORKED_SEATS_MAX = 16,   /* of one job, the dead ones too */
    MQ_FORKED_EPOCHS_MAX = 256, /* rosters of one job */
    MQ_FORKED_TEXT_MAX = 65536, /* bytes of a result, and of all that is published */
    MQ_FORKED_ANSWERS_MAX = 64,
};

typedef struct mq_forked_gang mq_forked_gang;

typedef struct mq_forked_job {
    mq_code (*run)(mq_host *host, mq_error *err); /* in the child */
    mq_span body;
    const char *model;      /* NULL = "" */
    const char *model_blob; /* NULL = "" */
    bool is_spread;         /* members say that they are on different hosts */
    bool keep_checkpoint;   /* begin with the checkpoint that the job before left */
    size_t memory_bytes_max;
} mq_forked_job;

typedef struct mq_forked_outcome {
    mq_code code; /* of the first member that returned something else than cancelled */
    char error[MQ_ERROR_TEXT_MAX];
    char result[MQ_FORKED_TEXT_MAX];    /* NUL-terminated */
    char published[MQ_FORKED_TEXT_MAX]; /* "type name meta\n" for each thing */
    char progress[4097];                /* the last one */
    uint64_t progress_count;
    uint64_t checkpoint_step;
    char checkpoint_chain[MQ_SHA256_HEX];
    uint64_t calls[MQ_FORKED_SEATS_MAX]; /* host calls made by each seat */
    uint32_t deaths, epochs;
} mq_forked_outcome;

/* dir must exist; it is borrowed. */
MQ_MUST_USE mq_code mq_forked_gang_new(mq_forked_gang **out, const char *dir, mq_error *err);
void mq_forked_gang_free(mq_forked_gang *gang);

MQ_MUST_USE mq_code mq_forked_gang_put(mq_forked_gang *gang, mq_span bytes,
                                       char hash[MQ_SHA256_HEX], mq_error *err);

/* What query answers from the next start on; texts are copied. An answer to the same question
 * replaces the one before. */
void mq_forked_gang_answer(mq_forked_gang *gang, const char *what, const char *name,
                           const char *json);

/* Seat `seat` of the next job kills itself at its n-th call of a host function (0 = never). Also
 * for seats that join later. Forgotten when a job ends. */
void mq_forked_gang_kill_at(mq_forked_gang *gang, uint32_t seat, uint64_t call);

/* Forks `count` members (seats 0..count-1) under epoch 1. */
MQ_MUST_USE mq_code mq_forked_gang_start(mq_forked_gang *gang, const mq_forked_job *job,
                                         uint32_t count, mq_error *err);

/* Adds a member under a new epoch. MQ_E_LIMIT when all seats are used. */
MQ_MUST_USE mq_code mq_forked_gang_join(mq_forked_gang *gang, mq_error *err);

/* Kills a member now. */
void mq_forked_gang_kill(mq_forked_gang *gang, uint32_t seat);

/* Makes a member hang (SIGSTOP), and go on. */
void mq_forked_gang_stop(mq_forked_gang *gang, uint32_t seat);
void mq_forked_gang_go_on(mq_forked_gang *gang, uint32_t seat);

/* Host calls that a seat has made; for choosing moments. */
uint64_t mq_forked_gang_calls(const mq_forked_gang *gang, uint32_t seat);

/* Plays the broker for one turn: deaths, new rosters. True when the job is over. */
bool mq_forked_gang_turn(mq_forked_gang *gang);

/* Plays the broker until the job is over and all members are gone. When all have died: code
 * MQ_E_IO; when one crashed by itself (another signal than SIGKILL): MQ_E_INTERNAL. MQ_E_TIMEOUT
 * kills what is left. */
MQ_MUST_USE mq_code mq_forked_gang_wait(mq_forked_gang *gang, int64_t timeout_ms,
                                        mq_forked_outcome *out, mq_error *err);

/* --- between forked_gang.c and forked_host.c --- */

enum { MQ_FORKED_RING_BYTES = 4 << 20 };

/* Bytes from one seat to another; one writer, one reader. Positions only grow. */
typedef struct mq_forked_ring {
    _Alignas(128) _Atomic uint64_t written;
    _Alignas(128) _Atomic uint64_t read;
    uint8_t bytes[MQ_FORKED_RING_BYTES];
} mq_forked_ring;

typedef struct mq_forked_roster {
    uint32_t count;
    uint32_t seats[MQ_FORKED_SEATS_MAX];
    _Atomic size_t segment; /* offset in the pool + 1; 0 = not made yet */
} mq_forked_roster;

typedef struct mq_forked_seat {
    _Atomic uint64_t calls, kill_at;
    _Atomic uint32_t is_done; /* code, error, result and published are complete */
    mq_code code;
    char error[MQ_ERROR_TEXT_MAX];
    char result[MQ_FORKED_TEXT_MAX];
    char published[MQ_FORKED_TEXT_MAX];
    char progress[4097];
    uint64_t progress_count;
} mq_forked_seat;

typedef struct mq_forked_checkpoint {
    uint64_t step;
    char chain[MQ_SHA256_HEX], blob[MQ_SHA256_HEX], meta[4097];
} mq_forked_checkpoint;

/* What all processes share. Rosters are written before epoch says that they are there. */
typedef struct mq_forked_shared {
    _Atomic uint64_t epoch;
    _Atomic uint32_t is_over;
    _Atomic uint32_t broken_seats; /* bit per seat: its death was seen */
    _Atomic uint32_t lost_seats;   /* bit per seat: reported lost */
    _Atomic uint32_t checkpoint;   /* index of the valid one of two; 2 = none */
    _Atomic size_t pool_used;
    mq_forked_checkpoint checkpoints[2];
    mq_forked_roster rosters[MQ_FORKED_EPOCHS_MAX];
    mq_forked_seat seats[MQ_FORKED_SEATS_MAX];
    mq_forked_ring rings[MQ_FORKED_SEATS_MAX][MQ_FORKED_SEATS_MAX]; /* [from][to] */
} mq_forked_shared;

#define MQ_FORKED_POOL_BYTES ((size_t)8 << 30) /* of address space; segments of all rosters */

typedef struct mq_forked_answer {
    char *what, *name, *json; /* owned */
} mq_forked_answer;

struct mq_forked_gang {
    const char *dir;
    mq_forked_answer answers[MQ_FORKED_ANSWERS_MAX];
    uint32_t answer_count;
    mq_forked_shared *shared; /* mapped for one job */
    uint8_t *pool;            /* mapped for one job */
    mq_forked_job job;
    mq_forked_checkpoint before; /* the last job's */
    uint64_t kill_at[MQ_FORKED_SEATS_MAX];
    int pids[MQ_FORKED_SEATS_MAX]; /* 0 = gone */
    uint32_t seat_count;           /* seats used so far */
    uint32_t deaths;
    uint32_t crashes; /* members that ended by anything else than their job's end or SIGKILL */
    uint32_t winner;  /* seat that ended the job; UINT32_MAX = none yet */
};

/* The child's whole life; does not return. */
_Noreturn void mq_forked_host_run(mq_forked_gang *gang, uint32_t seat);

#endif
