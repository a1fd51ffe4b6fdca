/* The job as a handler of a shared object sees it: worker/include/maasq_worker.h over a mq_host. */
#ifndef MQ_WORKER_OWN_TASK_H
#define MQ_WORKER_OWN_TASK_H

#include "worker/include/maasq_worker.h"
#include "worker/own/own.h"

/* Runs one attempt: kind->what is its maasq_handler_kind. */
MQ_MUST_USE mq_code mq_task_run(mq_host *host, const mq_own_kind *kind, mq_error *err);

#endif
