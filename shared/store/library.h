/* The function library that is loaded into Redis: the files of lua/, embedded at build. Function
 * names are global in a Redis, so a library with other meanings takes another generation (mq2_*,
 * maasq2) and lives beside this one until the last old broker has left; a change that old brokers
 * can live with raises the revision. */
#ifndef MQ_STORE_LIBRARY_H
#define MQ_STORE_LIBRARY_H

#include "shared/base/buf.h"

enum { MQ_LIBRARY_REVISION = 6 };

/* Appends the whole text for FUNCTION LOAD. */
void mq_library_text(mq_buf *buf);

#endif
