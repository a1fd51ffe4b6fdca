/* The embedded function library; see library.h. */
#include "shared/store/library.h"

/* The order matters: later files use what earlier ones define. */
/* clang-format off */
static const char text[] =
#include "lua/commit.inc"
#include "lua/owner.inc"
#include "lua/read.inc"
#include "lua/trim.inc"
#include "lua/cluster.inc"
#include "lua/lend.inc"
    ;
/* clang-format on */

void mq_library_text(mq_buf *buf)
{
    mq_buf_printf(buf, "#!lua name=maasq1\nlocal REVISION = %d\n", MQ_LIBRARY_REVISION);
    mq_buf_add_str(buf, text);
}
