/* A handful of child processes: started, watched, started again when they die, stopped in reverse.
 * One thread. Children die with the supervisor (PDEATHSIG), whatever ends it. */
#ifndef MQ_CLI_SUPERVISE_H
#define MQ_CLI_SUPERVISE_H

#include "client/cli/system.h"

enum {
    MQ_MEMBER_ARGS_MAX = 40,
    MQ_RESTART_MIN_MS = 100,  /* then twice as long each time */
    MQ_RESTART_MAX_MS = 5000, /* at most; back to the shortest after a minute of life */
};

typedef struct mq_member {
    char name[32];
    char *argv[MQ_MEMBER_ARGS_MAX + 1]; /* owned */
    int argc;
    char log[256];    /* standard output and error go here */
    int death_signal; /* when the supervisor dies */
    bool may_end; /* exit status 0 is an end on purpose (a drained worker), no reason to restart */
    int64_t stop_ms; /* how long after SIGTERM until SIGKILL */
    mq_process process;
    int64_t started_ms;    /* monotonic */
    int64_t restart_at_ms; /* 0 = not waiting */
    int64_t restart_ms;    /* next pause */
    int restarts;
} mq_member;

typedef struct mq_family {
    mq_member members[MQ_SYSTEM_MEMBERS_MAX];
    int count;
    bool is_stopping;
} mq_family;

/* A new member; the first word is the program. Returns borrowed until release, NULL when full. */
mq_member *mq_family_add(mq_family *family, const char *name, const char *program);

/* One more argument, printf-like. Too many or too long ones are our own mistake (asserted). */
void mq_member_arg(mq_member *member, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Starts it. MQ_E_IO names program and reason. */
MQ_MUST_USE mq_code mq_member_start(mq_member *member, mq_error *err);

/* Notes deaths and restarts what is due. *changed: some process came or went. */
void mq_family_tend(mq_family *family, bool *changed);

/* Milliseconds until tend has something to do, at most limit_ms. */
int64_t mq_family_pause_ms(const mq_family *family, int64_t limit_ms);

/* Stops all, last started first: SIGTERM, then SIGKILL after stop_ms. Returns when all are gone. */
void mq_family_stop(mq_family *family);

void mq_family_release(mq_family *family);

#endif
