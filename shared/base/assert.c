/* Prints the broken invariant and aborts. Knows nothing of logs or sockets: it must work anywhere.
 */
#include "shared/base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void mq_assert_fail(const char *expr, const char *file, int line, const char *func)
{
    fprintf(stderr, "maasq: assertion failed: %s (%s:%d, %s)\n", expr, file, line, func);
    abort();
}
