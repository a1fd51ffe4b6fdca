/* Request bodies and results as the shell keeps them for the core: one allocation, counted
 * references (one thread, so plain numbers). */
#ifndef MQ_BROKER_IO_BODY_H
#define MQ_BROKER_IO_BODY_H

#include "broker/core/core.h"

/* A copy with one reference; NULL for no bytes at all, and (with *is_full set) when memory is gone.
 */
mq_bytes *mq_body_new(mq_span s, bool *is_full);

void mq_body_release(mq_bytes *bytes); /* NULL is ignored */

#endif
