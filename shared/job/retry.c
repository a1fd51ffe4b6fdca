/* Backoff between attempts; see retry.h. It must not know the clock. */
#include "shared/job/retry.h"

static int64_t ceiling(uint32_t attempts, int64_t base_ms, int64_t max_ms)
{
    int64_t out = base_ms;
    for (uint32_t i = 0; i < attempts && out < max_ms; i++) {
        out = out > INT64_MAX / 2 ? max_ms : out * 2;
    }
    return out < max_ms ? out : max_ms;
}

int64_t mq_retry_ceiling_ms(uint32_t attempts)
{
    return ceiling(attempts, MQ_RETRY_BASE_MS, MQ_RETRY_MAX_MS);
}

int64_t mq_retry_delay_own(uint32_t attempts, int64_t base_ms, int64_t max_ms, mq_prng *prng)
{
    base_ms = base_ms > 0 ? base_ms : MQ_RETRY_BASE_MS;
    max_ms = max_ms > 0 ? max_ms : MQ_RETRY_MAX_MS;
    return (int64_t)mq_prng_below(prng, (uint64_t)ceiling(attempts, base_ms, max_ms) + 1);
}

int64_t mq_retry_delay_ms(uint32_t attempts, mq_prng *prng)
{
    return mq_retry_delay_own(attempts, 0, 0, prng);
}
