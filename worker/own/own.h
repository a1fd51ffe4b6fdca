/* Users' own job kinds in a slot process: functions of shared objects (--handlers) and programs
 * (--exec). The supervisor never loads any of it: slots tell it the names and limits.
 *
 * One table a process, filled once at the slot's start; the only thread that uses it is the one
 * that runs jobs. */
#ifndef MQ_WORKER_OWN_OWN_H
#define MQ_WORKER_OWN_OWN_H

#include "worker/slot/host.h"

enum {
    MQ_OWN_KINDS_MAX = 32,
    MQ_OWN_RUN_MS = 3600000, /* defaults, as shared/job/kinds.c has them for kinds that it */
    MQ_OWN_ATTEMPTS = 5,     /* does not know */
    MQ_OWN_BODY_BYTES = 1 << 20,
    MQ_OWN_RUN_MS_MAX = 604800000,
    MQ_OWN_ATTEMPTS_MAX = 1000,
};

/* What the fleet knows of a kind. */
typedef struct mq_own_policy {
    char name[65];
    uint64_t max_run_ms;
    uint32_t attempts_max;
    uint32_t body_bytes_max;
} mq_own_policy;

typedef struct mq_own_kind {
    mq_own_policy policy;
    mq_code (*run)(mq_host *host, const struct mq_own_kind *kind, mq_error *err);
    const void *what; /* of the run function: a maasq_handler_kind or a mq_exec_program */
    struct mq_exec_program *program; /* the same while its limits are read; NULL for others */
    void *state;
    void (*release)(void *state); /* or NULL */
} mq_own_kind;

/* Reads pairs such as "--handlers FILE" from argv[0..], loads and checks everything. Errors name
 * the option, the file and what to do; the process is of no use then. */
MQ_MUST_USE mq_code mq_own_load(int argc, char **argv, mq_error *err);

/* Calls what the kinds want to have called at the end. */
void mq_own_release(void);

/* NULL when it is not one of the user's own. */
const mq_own_kind *mq_own_find(mq_span name);
uint32_t mq_own_count(void);
const mq_own_kind *mq_own_at(uint32_t index);

/* Runs the job: its body's limit first. */
MQ_MUST_USE mq_code mq_own_run(mq_host *host, const mq_own_kind *kind, mq_error *err);

/* --- inside worker/own --- */

/* Enters a kind; limits of 0 become the defaults. MQ_E_ARG: name not allowed, one of maasq's own,
 * or entered before; MQ_E_LIMIT: too many. */
MQ_MUST_USE mq_code mq_own_add(const mq_own_kind *kind, mq_own_kind **out, mq_error *err);

/* What the user's code said, fit for the wire and a terminal: UTF-8 (else '?'), no control
 * characters (else ' '), cut between letters to size bytes. Returns what was written to out. */
mq_span mq_own_clean(mq_span text, char *out, size_t size);

/* The kind of this name, to be changed; NULL when it is not entered. */
mq_own_kind *mq_own_entered(const char *name);

/* exec.c: enters a program, "KIND=PROGRAM ARG..."; sets the limits of one, "KIND=run_ms:60000,...".
 */
MQ_MUST_USE mq_code mq_exec_add(const char *text, mq_error *err);
MQ_MUST_USE mq_code mq_exec_limits(const char *text, mq_error *err);

/* handlers.c: loads one file and enters its kinds. */
MQ_MUST_USE mq_code mq_handlers_load(const char *path, mq_error *err);

#endif
