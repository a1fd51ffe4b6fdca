/* The embedded function library; see library.h. */
#include "shared/store/library.h"

static const char text[] =
#include "lua/commit.inc"
#include "lua/owner.inc"
#include "lua/read.inc"
#include "lua/cluster.inc"
    ;

void mq_library_text(mq_buf *buf)
{
    mq_buf_printf(buf, "#!lua name=maasq1\nlocal REVISION = %d\n", MQ_LIBRARY_REVISION);
    mq_buf_add_str(buf, text);
}
