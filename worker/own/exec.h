/* Programs as job kinds (--exec): one child process a job.
 *
 *     slot --fork--> guard   leads the job's process group; when the slot is gone it kills the
 * group
 *          --fork--> program in that group: stdin = body, stdout = result, stderr's tail = error
 *                    text, descriptor 3 = progress, log lines, children (JSON lines)
 *
 * The guard is there because PR_SET_PDEATHSIG reaches the program only, not what it has started.
 * Whatever way a job ends, the whole group is killed and everything reaped before the slot says so.
 */
#ifndef MQ_WORKER_OWN_EXEC_H
#define MQ_WORKER_OWN_EXEC_H

#include <sys/types.h>

#include "worker/own/own.h"

enum {
    MQ_EXEC_ARGS_MAX = 64,
    MQ_EXEC_TAIL_BYTES = 400,          /* of standard error, kept for the error text */
    MQ_EXEC_LINE_BYTES_MAX = 96 << 10, /* of descriptor 3: a child's body with its quoting */
    MQ_EXEC_TERM_MS = 4000, /* from SIGTERM to SIGKILL; the slot itself is killed at 5 s */
    MQ_EXEC_POLL_MS = 20,   /* how often a cancel is looked for */
    MQ_EXEC_TEMPFAIL = 75,  /* EX_TEMPFAIL of sysexits.h */
    MQ_EXEC_FILES_MIN = 8,  /* descriptors 0 to 3 and a few of its own */
};

/* A program and its arguments, as given with --exec. Lives as long as the process. */
typedef struct mq_exec_program {
    char *argv[MQ_EXEC_ARGS_MAX + 1]; /* argv[0] is the path that is executed */
    /* Of each process of a job; 0 = as the slot's. Within the slot's own when it was started. */
    uint64_t memory_bytes; /* address space */
    uint64_t file_bytes;   /* size of a file that it writes */
    uint64_t files;        /* open descriptors */
} mq_exec_program;

/* What runs for one job. Descriptors are our ends, -1 = closed. */
typedef struct mq_exec_child {
    pid_t pid, guard; /* guard is also the group's number */
    int pidfd;        /* readable once the program has ended */
    int in, out, err, lines;
    int life; /* held open by the slot alone: its end tells the guard */
} mq_exec_child;

/* exec_child.c: starts the program with the job's environment. MQ_E_IO. */
MQ_MUST_USE mq_code mq_exec_start(mq_exec_child *child, const mq_exec_program *program,
                                  const mq_host *host, mq_error *err);
/* Sends a signal to the whole group. */
void mq_exec_signal(const mq_exec_child *child, int number);
/* Kills what is left, reaps it, closes everything. Returns the program's wait status. */
int mq_exec_end(mq_exec_child *child);

/* exec_lines.c: what a program says on descriptor 3. Sticky error: a child that cannot be made. */
typedef struct mq_exec_lines {
    mq_buf buf;     /* the line under way */
    bool is_long;   /* it is too long: dropped up to its end */
    bool has_wrong; /* a wrong line was said in the log once */
    mq_error error;
} mq_exec_lines;

void mq_exec_lines_add(mq_exec_lines *lines, mq_host *host, mq_span bytes);

/* exec_run.c: runs one attempt; kind->what is the mq_exec_program. */
MQ_MUST_USE mq_code mq_exec_run(mq_host *host, const mq_own_kind *kind, mq_error *err);

#endif
