/* Time. Cores never read it: the caller passes `now` in. Monotonic for durations, wall for ids. */
#ifndef MQ_BASE_CLOCK_H
#define MQ_BASE_CLOCK_H

#include <stdint.h>

int64_t mq_clock_mono_ms(void);
int64_t mq_clock_mono_ns(void);
int64_t mq_clock_wall_ms(void); /* since 1970-01-01 UTC */

/* Sleeps about ms milliseconds; only for programs that wait for another process. */
void mq_clock_sleep_ms(int64_t ms);

#endif
