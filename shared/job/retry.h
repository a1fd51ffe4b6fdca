/* How long to wait before the next attempt: full jitter, rand(0, min(300 s, 1 s * 2^attempts))
 * (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). Pure. */
#ifndef MQ_JOB_RETRY_H
#define MQ_JOB_RETRY_H

#include "shared/base/prng.h"

enum { MQ_RETRY_BASE_MS = 1000, MQ_RETRY_MAX_MS = 300000 };

/* Upper bound of the wait after `attempts` failed attempts (>= 1), in ms. */
int64_t mq_retry_ceiling_ms(uint32_t attempts);

/* A wait in 0..ceiling ms. */
int64_t mq_retry_delay_ms(uint32_t attempts, mq_prng *prng);

/* The same for a job's own base (ceiling = base * 2^attempts) and longest wait; 0 = as above. */
int64_t mq_retry_delay_own(uint32_t attempts, int64_t base_ms, int64_t max_ms, mq_prng *prng);

#endif
