/* Backoff between attempts; see retry.h. It must not know the clock. */
#include "shared/job/retry.h"

int64_t mq_retry_ceiling_ms(uint32_t attempts)
{
    int64_t ceiling = MQ_RETRY_BASE_MS;
    for (uint32_t i = 0; i < attempts && ceiling < MQ_RETRY_MAX_MS; i++) {
        ceiling *= 2;
    }
    return ceiling < MQ_RETRY_MAX_MS ? ceiling : MQ_RETRY_MAX_MS;
}

int64_t mq_retry_delay_ms(uint32_t attempts, mq_prng *prng)
{
    return (int64_t)mq_prng_below(prng, (uint64_t)mq_retry_ceiling_ms(attempts) + 1);
}
