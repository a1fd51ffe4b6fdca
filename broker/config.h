/* The broker's settings, from the command line. */
#ifndef MQ_BROKER_CONFIG_H
#define MQ_BROKER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"
#include "shared/base/log.h"

typedef struct mq_broker_config {
    const char *front;         /* ZeroMQ endpoint for clients; port * = any free one */
    const char *back;          /* ... for workers */
    const char *store;         /* state Redis, URL of shared/store/store.h */
    const char *blobs;         /* blob store URL: pinned from here, told to clients and workers */
    const char *blobs_told;    /* what clients and workers are told instead, "" = blobs */
    const char *name;          /* shown to operators */
    const char *endpoint_file; /* where the bound endpoints are written once ready, "" = nowhere */
    const char *log_level_text;
    const char *front_told;    /* front endpoint as others reach it, "" = as bound */
    const char *back_told;     /* likewise */
    int64_t shards;            /* of a deployment that begins; must fit otherwise; 0 = as it is */
    int64_t lease_ms;          /* default lease of a job */
    int64_t beat_ms;           /* workers beat this often; at most lease / 2 */
    int64_t tenure_ms;         /* ownership lease in the store */
    int64_t jobs_max;          /* live jobs held */
    int64_t tenant_jobs_max;   /* live jobs of one tenant */
    int64_t body_bytes_max;    /* bodies held in memory, all jobs together */
    int64_t retention_ms;      /* finished jobs stay readable that long */
    int64_t replicas;          /* that confirm a replicated job; 0 = no such class */
    int64_t replicate_ms;      /* or its submit is answered busy */
    int64_t affinity_wait_ms;  /* for a busy worker that has a job's model; 0 = not */
    int64_t quarantine_jobs;   /* of a kind that crash in a row; then it is paused */
    int64_t results_bytes_max; /* of finished jobs kept; 0 = half of the store's memory limit */
    int64_t dead_retention_ms; /* dead letters stay that long, then go */
    int64_t workers_max;
    const char *witness; /* folder of what was seen of the store; "" = none */
    bool must_adopt;     /* what the store holds is right, whatever was seen before */
    bool may_init;       /* an empty store may become a new deployment */
    bool is_prepare;     /* load the function library as the store's user, then end */
    bool is_log_json;
    mq_log_level log_level;
} mq_broker_config;

/* Defaults, then argv. Prints and sets *is_done for --help and --version. MQ_E_ARG names the
 * option. */
MQ_MUST_USE mq_code mq_broker_config_read(mq_broker_config *config, int argc, char **argv,
                                          bool *is_done, mq_error *err);

#endif
