/* Which errors are the same one: a short name for a failure, so that a thousand dead letters of one
 * cause are shown, tried again or put away together. Pure. */
#ifndef MQ_JOB_FINGERPRINT_H
#define MQ_JOB_FINGERPRINT_H

#include "shared/base/span.h"

enum { MQ_FINGERPRINT_SIZE = 17 /* 16 hex digits and NUL */ };

/* Kind, reason, code and text, where every word of the text with a digit in it counts as the same
 * word: numbers, ids, addresses and dates do not tell causes apart. Blanks count once. */
void mq_error_fingerprint(mq_span kind, mq_span why, mq_span code, mq_span error,
                          char out[MQ_FINGERPRINT_SIZE]);

#endif
