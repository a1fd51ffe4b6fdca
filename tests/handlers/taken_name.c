/* A kind with the name of one that the worker has by itself. */
#include "worker/include/maasq_worker.h"

static int run(maasq_task *task, void *state)
{
    (void)task;
    (void)state;
    return MAASQ_SUCCEEDED;
}

static const maasq_handler_kind kinds[] = {{.name = "echo", .run = run}};
MAASQ_HANDLERS(kinds)
