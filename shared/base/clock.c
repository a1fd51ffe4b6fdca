/* The only reader of the system clocks. */
#include "shared/base/clock.h"

#include <time.h>

#include "shared/base/assert.h"

static int64_t read_ns(clockid_t id)
{
    struct timespec ts;
    MQ_ASSERT(clock_gettime(id, &ts) == 0);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t mq_clock_mono_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

int64_t mq_clock_mono_ms(void)
{
    return mq_clock_mono_ns() / 1000000;
}

int64_t mq_clock_wall_ms(void)
{
    return read_ns(CLOCK_REALTIME) / 1000000;
}

void mq_clock_sleep_ms(int64_t ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};
    nanosleep(&ts, NULL);
}
