/* ULID: 48 bits of milliseconds and 80 random bits as 26 letters of Crockford's base 32, so that
 * text order is time order (https://github.com/ulid/spec). The client makes job ids with it. */
#ifndef MQ_BASE_ULID_H
#define MQ_BASE_ULID_H

#include "shared/base/span.h"

enum { MQ_ULID_LEN = 26, MQ_ULID_SIZE = 27 }; /* SIZE counts the NUL */

/* New id from the wall clock and getrandom(2). Thread-safe. */
void mq_ulid_new(char out[MQ_ULID_SIZE]);

/* The same from given parts; pure. random: 10 bytes. */
void mq_ulid_make(int64_t wall_ms, const uint8_t random[10], char out[MQ_ULID_SIZE]);

/* Milliseconds in an id, or -1 when s is not a ULID in upper case. */
int64_t mq_ulid_ms(mq_span s);

#endif
