/* The slot process: `maasq-worker --slot FD`, started by the supervisor only. */
#ifndef MQ_WORKER_SLOT_SLOT_MAIN_H
#define MQ_WORKER_SLOT_SLOT_MAIN_H

#include "worker/kinds/kind.h"

/* Serves jobs that come over the socket fd until its other end closes. Returns the exit status: 0,
 * or 1 when the supervisor broke the protocol. */
int mq_slot_main(int fd);

/* The same with kinds of the user's own: argv as for mq_own_load. */
int mq_slot_main_own(int fd, int argc, char **argv);

/* The same with one function for every kind: tests bring their own. */
int mq_slot_serve(int fd, mq_kind_run *run);

#endif
