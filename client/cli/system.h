/* The private system that `maasq up` starts: its directory, and the file that says what runs there.
 *
 *     DIR/maasq.json    endpoints and processes, written when all are ready and at each restart
 *     DIR/lock          held (flock) by the process that supervises
 *     DIR/run/          sockets, generated configuration      DIR/secret/   passwords, mode 0600
 *     DIR/state/        redis: jobs and registry              DIR/blobs/    redis: blobs
 *     DIR/cache/        the workers' copies of blobs          DIR/log/      one file a process
 *
 * A process is named by its pid and its start time (/proc/PID/stat), so that a pid that was used
 * again is never mistaken for ours. */
#ifndef MQ_CLI_SYSTEM_H
#define MQ_CLI_SYSTEM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shared/base/error.h"

enum {
    MQ_SYSTEM_DIR_MAX = 80, /* a Unix socket's path has at most 107 bytes */
    MQ_SYSTEM_URL_MAX = 512,
    MQ_SYSTEM_MEMBERS_MAX = 72,
    MQ_SYSTEM_WORKERS_MAX = 64,
};

typedef struct mq_process {
    pid_t pid;           /* 0 = none */
    uint64_t start_time; /* clock ticks since boot */
} mq_process;

/* Start time of a living process that is no zombie; 0 when there is none. */
uint64_t mq_process_start(pid_t pid);

/* Whether exactly this process still lives. */
bool mq_process_lives(mq_process process);

/* What maasq.json says. */
typedef struct mq_system_file {
    char broker[MQ_SYSTEM_URL_MAX];
    mq_process supervisor;
    struct {
        char name[32];
        mq_process process;
    } members[MQ_SYSTEM_MEMBERS_MAX];
    int member_count;
} mq_system_file;

/* MQ_E_NOT_FOUND when nothing was ever started in dir. */
MQ_MUST_USE mq_code mq_system_read(mq_system_file *file, const char *dir, mq_error *err);

/* The broker's endpoint of the system that runs in dir; false when none does. */
bool mq_system_broker(const char *dir, char *out, size_t size);

/* Absolute path of a data directory; made when `make`. MQ_E_ARG when it is too long for sockets. */
MQ_MUST_USE mq_code mq_system_dir(const char *given, bool make, char out[MQ_SYSTEM_DIR_MAX + 1],
                                  mq_error *err);

#endif
