/* Jobs under way, bounded by a window, and their latencies: what the benchmarks of the command line
 * drive. One thread submits; the client's thread ends jobs. */
#ifndef MQ_CLI_LOAD_H
#define MQ_CLI_LOAD_H

#include <pthread.h>

#include "client/cli/cli.h"

enum { MQ_LOAD_JOBS_MAX = 10000000 };

typedef struct mq_load {
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t changed;
    int64_t count; /* jobs in all */
    int64_t sent, ended, failed, correct;
    int64_t window;
    int64_t wake_at;   /* jobs under way at which the submitter wants to be woken */
    float *latency_ms; /* owned; one per job, in order of their end */
    char error[512];   /* of the first that failed */
} mq_load;

typedef struct mq_shot {
    mq_load *load;
    int64_t start_ns;
    double label; /* NAN: none to compare with */
} mq_shot;

/* False: no memory. */
bool mq_load_init(mq_load *l, int64_t count, int64_t window);
void mq_load_release(mq_load *l);

/* The callback of a job whose argument is a shot, which it frees. */
void mq_load_done(maasq_job *job, void *arg);

/* Waits until fewer than `most` jobs are under way. False when nothing ended for a minute. */
bool mq_load_wait(mq_load *l, int64_t most);

/* A job that is about to be submitted, NULL without memory; unsent takes it back. */
mq_shot *mq_load_shot(mq_load *l, double label);
void mq_load_unsent(mq_load *l, mq_shot *s);

/* Milliseconds under which the share p of the jobs ended; sorts the latencies. NAN without any. */
double mq_load_percentile(mq_load *l, double p);
json_t *mq_load_json(mq_load *l);
void mq_load_print(const json_t *latency);

/* Echo jobs. */
typedef struct mq_echo {
    const char *queue; /* NULL: the default one */
    int64_t bytes, jobs, window;
    bool is_transient;
} mq_echo;

/* Submits them all and waits for their ends; l is initialized for them. MQ_EXIT_OK with *seconds,
 * or the error has been printed and the client freed. */
int mq_load_echo(mq_cli *cli, mq_load *l, const mq_echo *echo, double *seconds);

#endif
