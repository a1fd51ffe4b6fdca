/* Cron schedules: "minute hour day-of-month month day-of-week", in a time zone. Fields hold `*`,
 * numbers, ranges, lists and steps ("5,10-20/2"); names jan..dec and sun..sat; 7 is Sunday too;
 * also
 * @hourly, @daily, @weekly, @monthly, @yearly. When both days are restricted, either one is enough
 * (as in Vixie's cron).
 *
 * Clock changes: a schedule whose hour begins with `*` runs at every instant whose local time fits:
 * in the hour that comes twice both times, and never in an hour that does not come. Any other
 * schedule runs once for each local time: the first time of two, and where clocks jump over it, at
 * the moment of the jump (once, however many of its times were jumped over). Pure. */
#ifndef MQ_JOB_CRON_H
#define MQ_JOB_CRON_H

#include "shared/base/zone.h"

typedef struct mq_cron {
    uint64_t minutes; /* bits */
    uint32_t hours, days, months, weekdays;
    bool is_any_day, is_any_weekday, is_real; /* is_real: the hour begins with a star */
} mq_cron;

/* MQ_E_ARG names the field, its limits and what stands there. A schedule with no time at all (30
 * February) is refused. */
MQ_MUST_USE mq_code mq_cron_parse(mq_span text, mq_cron *out, mq_error *err);

/* First time after after_s; INT64_MAX when there is none within 9 years. Seconds since 1970. */
int64_t mq_cron_next(const mq_cron *cron, const mq_zone *zone, int64_t after_s);

/* Latest time within (after_s, until_s]; INT64_MIN when there is none. Looks for it within the last
 * hour, day, month and 5 years before until_s, in this order. */
int64_t mq_cron_last(const mq_cron *cron, const mq_zone *zone, int64_t after_s, int64_t until_s);

#endif
