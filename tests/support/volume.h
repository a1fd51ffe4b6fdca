/* The disk of the state's Redis in the hands of an operator who makes mistakes: an older copy or
 * nothing at all is brought back, or it runs full. */
#ifndef MQ_TESTS_SUPPORT_VOLUME_H
#define MQ_TESTS_SUPPORT_VOLUME_H

#include "tests/support/system.h"

/* Copies the data as they are now; the state's Redis must not run. */
void volume_copy(const sys *s);

/* Puts the right data aside and the copy, or an empty folder, in their place; Redis must not run.
 */
void volume_exchange(const sys *s, bool is_empty);

/* The right data come back; what was written meanwhile is gone. Redis must not run. */
void volume_restore(const sys *s);

/* Fills the small disk (sys_options.disk_bytes) to the last byte, or frees it again. */
void volume_fill(const sys *s);
void volume_free(const sys *s);

#endif
