/* One slot process as its supervisor sees it: started, talked to, killed, reaped. */
#ifndef MQ_WORKER_IO_SLOT_PROCESS_H
#define MQ_WORKER_IO_SLOT_PROCESS_H

#include <sys/types.h>

#include "worker/slot/stream.h"

enum {
    MQ_SLOT_BACKOFF_MS = 100, /* before a dead slot starts again; doubles up to ... */
    MQ_SLOT_BACKOFF_MS_MAX = 10000,
    MQ_SLOT_START_MS = 60000, /* a slot that has not said hello by then is killed */
    MQ_SLOT_QUEUE_BYTES = 1 << 30,
};

typedef enum mq_slot_state {
    MQ_SLOT_DOWN,     /* no process */
    MQ_SLOT_STARTING, /* no hello yet */
    MQ_SLOT_UP,
    MQ_SLOT_DYING, /* killed or its stream ended: waits to be reaped */
} mq_slot_state;

typedef struct mq_slot_process {
    mq_slot_state state;
    uint32_t index;
    uint32_t generation; /* counts processes: answers to an earlier one are dropped */
    pid_t pid;
    mq_stream stream;
    mq_slot_page *page; /* mapped for good; its memfd is given to every process */
    int page_fd;
    mq_claims_page *claims; /* the same */
    int claims_fd;
    uint64_t ring_head;      /* of claims->ring: read up to here */
    uint64_t frames_handled; /* of this process */
    uint64_t run;            /* number of the run given last; grows */
    bool is_running;
    bool is_unsent;   /* frames wait to go out together at the end of the turn's work */
    int64_t start_ms; /* when to start, or when it was started */
    int64_t backoff_ms;
    uint32_t log_count; /* lines passed on in this second */
    int64_t log_ms;
} mq_slot_process;

typedef struct mq_slot_settings {
    char *const *envp;     /* borrowed */
    char *const *argv;     /* borrowed: more arguments, NULL-terminated; NULL = none */
    size_t address_bytes;  /* RLIMIT_AS; 0 = none */
    size_t memory_bytes;   /* told to jobs */
    bool want_fingerprint; /* of the next one started */
} mq_slot_settings;

MQ_MUST_USE mq_code mq_slot_process_init(mq_slot_process *p, uint32_t index, mq_error *err);

/* Kills the process when there is one and waits for it. */
void mq_slot_process_release(mq_slot_process *p);

/* Forks and executes; sends start. Call from the main thread only: the slot dies with the thread
 * that made it (PR_SET_PDEATHSIG). */
MQ_MUST_USE mq_code mq_slot_process_start(mq_slot_process *p, const mq_slot_settings *settings,
                                          int64_t now_ms, mq_error *err);

/* SIGKILL; its end comes as any other. */
void mq_slot_process_kill(mq_slot_process *p);

/* True when the process has ended: why gets "signal 9" or "exit status 1". State becomes DOWN and
 * its next start is due after the backoff. Frames it had sent must have been read before. */
bool mq_slot_process_reap(mq_slot_process *p, int64_t now_ms, char *why, size_t why_size);

/* True when waitpid would find it ended; leaves it to be reaped. */
bool mq_slot_process_is_ended(const mq_slot_process *p);

/* Environment for slots: what OpenBLAS, libc and sanitizers need, and nothing else. blas_core: "" =
 * leave the choice to OpenBLAS. extra: "" or one more NAME=VALUE. OPENBLAS_* of our own environment
 * does not pass: it changes bits. Returns owned; free with mq_slot_environment_free. */
char **mq_slot_environment(const char *blas_core, const char *extra);

/* Adds NAME=VALUE, in place of one of that name; MQ_E_ARG when it is not one or may not pass,
 * MQ_E_LIMIT when there are too many. */
MQ_MUST_USE mq_code mq_slot_environment_add(char **envp, const char *entry, mq_error *err);
void mq_slot_environment_free(char **envp);

/* Core name for --blas-core auto on this CPU; "" when OpenBLAS shall choose. MAASQ_BLAS_CORE in the
 * environment overrides it. With AVX-512 its kernels: for the products of training (32 rows) they
 * were measured at 1.0 to 2.7 times Haswell's speed on Zen 4 and 5, at one row at 5, and a served
 * answer does not depend on the batch that it was part of (8 rows and more). */
const char *mq_slot_blas_core(void);

#endif
