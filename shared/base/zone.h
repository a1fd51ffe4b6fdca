/* Time zones from the system's zone database (tzdata): the offset from UTC at an instant, and the
 * instants of a local time. Format: RFC 8536 (TZif), with the rule in its footer for times beyond
 * the file's last transition. Reading is pure; opening reads one file. */
#ifndef MQ_BASE_ZONE_H
#define MQ_BASE_ZONE_H

#include "shared/base/error.h"
#include "shared/base/span.h"

enum {
    MQ_ZONE_TRANSITIONS_MAX = 2048,
    MQ_ZONE_NAME_MAX = 64,
    MQ_ZONE_FILE_MAX = 128 << 10, /* bytes of a zone's file */
};

/* "Mm.w.d/time": week w (5 = last) and weekday d (0 = Sunday) of month m, at `seconds` local time.
 */
typedef struct mq_zone_rule {
    int32_t month, week, day, seconds;
} mq_zone_rule;

typedef struct mq_zone {
    uint32_t count;
    int64_t at[MQ_ZONE_TRANSITIONS_MAX]; /* seconds since 1970, ascending */
    int32_t offset[MQ_ZONE_TRANSITIONS_MAX];
    int32_t first_offset; /* before the first transition */
    bool has_footer, has_dst;
    int32_t std_offset, dst_offset; /* of the footer; seconds east of UTC */
    mq_zone_rule start, end;        /* of daylight saving time */
} mq_zone;

/* Reads a TZif file of version 2 or later. MQ_E_FORMAT says what is wrong with it. Pure. */
MQ_MUST_USE mq_code mq_zone_read(mq_span file, mq_zone *out, mq_error *err);

/* "Europe/Berlin" or "UTC". MQ_E_ARG for a name that is none, MQ_E_NOT_FOUND for an unknown one (or
 * when tzdata is not installed). */
MQ_MUST_USE mq_code mq_zone_open(mq_span name, mq_zone *out, mq_error *err);

/* Seconds east of UTC at an instant. Pure. */
int32_t mq_zone_offset(const mq_zone *zone, int64_t utc_s);

/* The instants whose local time is local_s (civil time counted as if it were UTC): 1, or 2 where
 * clocks go back (ascending), or 0 where they jump over it; then *gap_end is the instant of the
 * jump. Pure. */
int mq_zone_instants(const mq_zone *zone, int64_t local_s, int64_t out[2], int64_t *gap_end);

/* Days since 1970-01-01 of a civil date (proleptic Gregorian), and back. */
int64_t mq_civil_days(int64_t year, int32_t month, int32_t day);
void mq_civil_date(int64_t days, int64_t *year, int32_t *month, int32_t *day);

#endif
