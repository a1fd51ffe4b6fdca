/* A job kind as the worker knows it: one file in worker/kinds and one row in shared/job/kinds.def.
 * A kind is pure but for its mq_host. */
#ifndef MQ_WORKER_KINDS_KIND_H
#define MQ_WORKER_KINDS_KIND_H

#include "worker/slot/host.h"

/* Runs the job. MQ_OK: succeeded, with what was given to host->result/publish/spawn.
 * Every other code fails the attempt with err's text:
 *   MQ_E_IO, MQ_E_BUSY, MQ_E_TIMEOUT, MQ_E_MISSING, MQ_E_INTERNAL -> may be retried
 *   MQ_E_CANCELLED -> cancelled;   anything else -> fatal (bad input does not get better). */
typedef mq_code mq_kind_run(mq_host *host, mq_error *err);

typedef struct mq_kind {
    const char *name; /* as in kinds.def */
    mq_kind_run *run;
} mq_kind;

/* NULL when the kind is not known. */
const mq_kind *mq_kind_find(mq_span name);

#endif
