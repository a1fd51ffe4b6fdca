/* The world of a job without a broker: a directory that is blob store and registry in one. It runs
 * the same job kinds as a slot does; `maasq-worker --local` and tests use it.
 *
 *   DIR/blob/<2 hex>/<hash>        blobs
 *   DIR/model/<name>/<n>.json      what query answers: {"name","version","meta":{...}}
 *   DIR/model/<name>/<alias>       text "<n>"
 *   DIR/dataset/<name>/<n>.json    likewise
 *   DIR/memo/<key>/1.json          likewise
 *
 * A gang job gets a gang of one. Children that a result spawns run after it, one by one, in the
 * same call. One process at a time may publish under one name. Not thread-safe. */
#ifndef MQ_WORKER_SLOT_LOCAL_HOST_H
#define MQ_WORKER_SLOT_LOCAL_HOST_H

#include "worker/slot/host.h"

typedef struct mq_local_host mq_local_host;

typedef struct mq_local_job {
    const char *kind;
    mq_span body;
    const char *model;       /* "name", "name@version", "name@alias"; NULL or "" = none */
    const char *id;          /* NULL: a new one. The same id again continues from its checkpoint. */
    uint32_t attempt;        /* 0 counts as 1 */
    size_t memory_bytes_max; /* 0: not limited, as in a slot by default */

    /* Each may be NULL. is_cancelled is asked by host->check. */
    void (*progress)(void *arg, mq_span json);
    void (*log)(void *arg, mq_span text);
    bool (*is_cancelled)(void *arg);
    void *arg;
} mq_local_job;

enum { MQ_LOCAL_JOBS_MAX = 1000 /* children of children in one call */ };

/* Makes DIR when it is missing. */
MQ_MUST_USE mq_code mq_local_host_new(mq_local_host **out, const char *dir, mq_error *err);
void mq_local_host_free(mq_local_host *host);

/* Runs one job to its end and its children after it. What it published is stored only when it
 * succeeded. Appends the job's result bytes. */
MQ_MUST_USE mq_code mq_local_host_run(mq_local_host *host, const mq_local_job *job, mq_buf *result,
                                      mq_error *err);

/* Stores bytes as a blob, as a client would before it submits. */
MQ_MUST_USE mq_code mq_local_host_put(mq_local_host *host, mq_span bytes, char hash[MQ_SHA256_HEX],
                                      mq_error *err);

/* Appends the registry's answer; what = "model", "dataset" or "memo". */
MQ_MUST_USE mq_code mq_local_host_query(mq_local_host *host, const char *what, const char *name,
                                        mq_buf *json, mq_error *err);

/* Points an alias of a model to a version. */
MQ_MUST_USE mq_code mq_local_host_alias(mq_local_host *host, const char *model, const char *alias,
                                        uint64_t version, mq_error *err);

/* Maps a blob; its hash is checked. Release with mq_map_file_release. */
MQ_MUST_USE mq_code mq_local_host_blob(mq_local_host *host, const char *hash, mq_map_file *out,
                                       mq_error *err);

#endif
