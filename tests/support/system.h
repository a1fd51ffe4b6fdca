/* A private maasq of real processes for end-to-end tests: two redis-servers, brokers and workers in
 * a temporary directory, on Unix sockets or each in a network namespace of its own. Any of them can
 * be killed and started again at any moment; everything dies with the test process (PDEATHSIG) and
 * is stopped by pid at the end. */
#ifndef MQ_TESTS_SUPPORT_SYSTEM_H
#define MQ_TESTS_SUPPORT_SYSTEM_H

#include <stdbool.h>
#include <sys/types.h>

#include "tests/support/net.h"

enum { SYS_BROKERS_MAX = 4, SYS_WORKERS_MAX = 8, SYS_CLIENTS_MAX = 4, SYS_SLOTS_MAX = 16 };
enum { SYS_PLACES = 2 + SYS_BROKERS_MAX + SYS_WORKERS_MAX + SYS_CLIENTS_MAX };

typedef enum sys_role {
    SYS_STATE_REDIS,
    SYS_BLOB_REDIS,
    SYS_BROKER,
    SYS_WORKER,
    SYS_CLIENT
} sys_role;

typedef struct sys_options {
    int workers;
    int slots;    /* per worker; 0 = 1 */
    int lease_ms; /* 0 = the broker's default */
    int beat_ms;
    bool is_apart;              /* each worker on a host of its own, as far as they can tell */
    const char *worker_args[16]; /* more arguments of every worker, NULL-terminated */
    int brokers;                /* over one Redis; 0 = 1 */
    const char *broker_args[8]; /* more arguments of every broker, NULL-terminated */
    const net *net;             /* entered: each process behind a link of its own, over TCP */
    size_t disk_bytes; /* the state's disk is this small (needs an entered net); 0: a folder */
} sys_options;

typedef struct sys {
    sys_options options;
    char dir[96];
    char bin[512];   /* where the programs are: next to the tests' build folder */
    char front[512]; /* what a client connects to: all brokers, with commas */
    char back[512];
    char blobs[160];
    char data[128];         /* folder of the state's Redis */
    pid_t pids[SYS_PLACES]; /* 0 = not running */
} sys;

/* Place of a process in `pids`, and its node in the network. */
int sys_place(sys_role role, int index);
int sys_node(sys_role role, int index);

/* Starts everything but clients and waits until the broker answers and all workers have registered
 * (cmocka failure after 60 s). */
void sys_start(sys *s, const sys_options *options);

/* Stops everything, removes the directory. Prints the log files when `is_failed`. A sanitizer's
 * report in a log is a failure of the test. */
void sys_stop(sys *s, bool is_failed);

/* index: of the broker, worker or client; 0 for the others. Kill waits until the process is gone. A
 * client is this test's own program, with the arguments --client INDEX DIR FRONT. */
void sys_kill(sys *s, sys_role role, int index, int signal_number);
void sys_spawn(sys *s, sys_role role, int index);
/* True when it has ended by itself; then it counts as not running, and *status is what waitpid
 * said. */
bool sys_has_ended(sys *s, sys_role role, int index, int *status);
pid_t sys_pid(const sys *s, sys_role role, int index);

/* Direct children of a process (a worker's slots); returns how many. */
int sys_children(pid_t pid, pid_t out[SYS_SLOTS_MAX]);

/* Runs "program args..." from the build folder with MAASQ_BROKER set; returns its exit status; its
 * standard output (cut at size) goes to out and standard error to err when they are not NULL. */
int sys_run(const sys *s, const char *const argv[], char *out, size_t out_size, char *err,
            size_t err_size);

#endif
