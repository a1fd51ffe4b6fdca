/* Cron schedules and time zones: tables of schedule, zone, moment and the times that follow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "shared/job/cron.h"

/* "2026-03-29T01:00:00" as seconds since 1970, UTC. */
static int64_t utc(const char *text)
{
    struct tm parts = {0};
    assert_non_null(strptime(text, "%Y-%m-%dT%H:%M:%S", &parts));
    return (int64_t)timegm(&parts);
}

static const char *text_of(int64_t at)
{
    static char text[4][32];
    static int n;
    n = (n + 1) % 4;
    time_t t = (time_t)at;
    struct tm parts;
    assert_non_null(gmtime_r(&t, &parts));
    (void)strftime(text[n], sizeof text[n], "%Y-%m-%dT%H:%M:%S", &parts);
    return text[n];
}

static const struct {
    const char *schedule, *zone, *from, *next[4]; /* UTC */
} next_rows[] = {
    {"*/5 * * * *",
     "UTC",
     "2026-11-23T20:17:55",
     {"2026-11-23T20:20:00", "2026-11-23T20:25:00", NULL, NULL}},
    {"0 9 * * mon-fri",
     "UTC",
     "2026-11-20T09:00:00", /* a Friday */
     {"2026-11-23T09:00:00", "2026-11-24T09:00:00", NULL, NULL}},
    {"30 4 1,15 * 5",
     "UTC",
     "2026-11-01T05:00:00", /* either day is enough */
     {"2026-11-06T04:30:00", "2026-11-13T04:30:00", "2026-11-15T04:30:00", "2026-11-20T04:30:00"}},
    {"0 0 29 2 *",
     "UTC",
     "2026-01-01T00:00:00",
     {"2028-02-29T00:00:00", "2032-02-29T00:00:00", NULL, NULL}},
    {"59 23 31 12 *", "UTC", "2026-12-31T23:59:00", {"2027-12-31T23:59:00", NULL, NULL, NULL}},
    {"@weekly",
     "UTC",
     "2026-11-23T00:00:00",
     {"2026-11-29T00:00:00", "2026-12-06T00:00:00", NULL, NULL}},
    {"0 9 * * *",
     "Europe/Berlin",
     "2026-10-24T08:00:00", /* summer, then winter time */
     {"2026-10-25T08:00:00", "2026-10-26T08:00:00", NULL, NULL}},
    {"0 9 * * *", "Asia/Kolkata", "2026-11-23T00:00:00", {"2026-11-23T03:30:00", NULL, NULL, NULL}},
    /* 29 March 2026, 02:00 -> 03:00: 02:30 does not come, it runs at the jump, once. */
    {"30 2 * * *",
     "Europe/Berlin",
     "2026-03-28T00:00:00",
     {"2026-03-28T01:30:00", "2026-03-29T01:00:00", "2026-03-30T00:30:00", NULL}},
    {"0,15,30,45 2 * * *",
     "Europe/Berlin",
     "2026-03-29T00:00:00",
     {"2026-03-29T01:00:00", "2026-03-30T00:00:00", NULL, NULL}},
    /* 25 October 2026, 03:00 -> 02:00: 02:30 comes twice, it runs the first time. */
    {"30 2 * * *",
     "Europe/Berlin",
     "2026-10-24T12:00:00",
     {"2026-10-25T00:30:00", "2026-10-26T01:30:00", NULL, NULL}},
    /* An hour of every kind: each half hour that really comes. */
    {"*/30 * * * *",
     "Europe/Berlin",
     "2026-03-29T00:29:00",
     {"2026-03-29T00:30:00", "2026-03-29T01:00:00", "2026-03-29T01:30:00", "2026-03-29T02:00:00"}},
    {"30 * * * *",
     "Europe/Berlin",
     "2026-10-25T00:00:00",
     {"2026-10-25T00:30:00", "2026-10-25T01:30:00", "2026-10-25T02:30:00", NULL}},
    {"0 2 * * *",
     "America/New_York",
     "2026-03-07T12:00:00", /* gap 8 March */
     {"2026-03-08T07:00:00", "2026-03-09T06:00:00", NULL, NULL}},
    /* Beyond the file's last transition: the rule of its footer. */
    {"0 9 1 7 *",
     "Europe/Berlin",
     "2050-01-01T00:00:00",
     {"2050-07-01T07:00:00", "2051-07-01T07:00:00", NULL, NULL}},
    {"0 9 1 1 *",
     "Australia/Sydney",
     "2050-02-01T00:00:00", /* summer over the new year */
     {"2050-12-31T22:00:00", NULL, NULL, NULL}},
    /* 30 December 2011 did not come in Samoa. */
    {"0 12 30 12 *",
     "Pacific/Apia",
     "2011-12-01T00:00:00",
     {"2011-12-30T10:00:00", "2012-12-29T22:00:00", NULL, NULL}},
};

static void the_next_times_are_those_of_the_table(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof next_rows / sizeof next_rows[0]; i++) {
        mq_cron cron;
        mq_error err;
        mq_zone *zone = calloc(1, sizeof *zone);
        assert_non_null(zone);
        if (mq_cron_parse(mq_str(next_rows[i].schedule), &cron, &err) != MQ_OK ||
            mq_zone_open(mq_str(next_rows[i].zone), zone, &err) != MQ_OK) {
            fail_msg("%s", err.text);
        }
        int64_t at = utc(next_rows[i].from);
        for (int k = 0; k < 4 && next_rows[i].next[k] != NULL; k++) {
            int64_t from = at;
            at = mq_cron_next(&cron, zone, at);
            if (at != utc(next_rows[i].next[k])) {
                fail_msg("%s in %s after %s: %s, not %s", next_rows[i].schedule, next_rows[i].zone,
                         text_of(from), text_of(at), next_rows[i].next[k]);
            }
            assert_int_equal(mq_cron_last(&cron, zone, from, at), at);
        }
        free(zone);
    }
}

static void wrong_schedules_are_refused_by_field(void **unused)
{
    (void)unused;
    static const char *const rows[][2] = {
        {"", "0 fields"},           {"* * * *", "4 fields"},
        {"* * * * * *", "more"},    {"60 * * * *", "minute"},
        {"* 24 * * *", "hour"},     {"* * 0 * *", "day of month"},
        {"* * 32 * *", "day of"},   {"* * * 13 *", "month"},
        {"* * * foo *", "month"},   {"* * * * 8", "day of week"},
        {"*/0 * * * *", "minute"},  {"5-1 * * * *", "minute"},
        {"1, * * * *", "minute"},   {",1 * * * *", "minute"},
        {"0 0 30 2 *", "no such"},  {"0 0 31 4,6 *", "no such"},
        {"-1 * * * *", "minute"},   {"1-2-3 * * * *", "minute"},
        {"@never", "1 fields"},     {"99999999999999 * * * *", "minute"},
        {"*/5/5 * * * *", "minute"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mq_cron cron;
        mq_error err = {0};
        assert_int_equal(mq_cron_parse(mq_str(rows[i][0]), &cron, &err), MQ_E_ARG);
        if (strstr(err.text, rows[i][1]) == NULL) {
            fail_msg("\"%s\": %s", rows[i][0], err.text);
        }
    }
}

/* The C library reads the same database: offsets of ten zones at thousands of moments. */
static void offsets_are_those_of_the_c_library(void **unused)
{
    (void)unused;
    static const char *const names[] = {"UTC",           "Europe/Berlin",       "America/New_York",
                                        "Asia/Kolkata",  "Australia/Lord_Howe", "America/Sao_Paulo",
                                        "Asia/Tehran",   "Africa/Casablanca",   "Pacific/Apia",
                                        "Europe/Dublin", "Antarctica/Troll"};
    char *before = getenv("TZ");
    char *kept = before == NULL ? NULL : strdup(before);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        mq_zone *zone = calloc(1, sizeof *zone);
        mq_error err;
        assert_non_null(zone);
        if (mq_zone_open(mq_str(names[i]), zone, &err) != MQ_OK) {
            fail_msg("%s", err.text);
        }
        assert_int_equal(setenv("TZ", names[i], 1), 0);
        tzset();
        for (int64_t at = utc("1975-01-01T00:00:00"); at < utc("2070-01-01T00:00:00");
             at += 33 * 3600 + 1111) {
            time_t t = (time_t)at;
            struct tm parts;
            assert_non_null(localtime_r(&t, &parts));
            if (parts.tm_gmtoff != mq_zone_offset(zone, at)) {
                fail_msg("%s at %s: %d, not %ld", names[i], text_of(at), mq_zone_offset(zone, at),
                         parts.tm_gmtoff);
            }
        }
        free(zone);
    }
    assert_int_equal(kept == NULL ? unsetenv("TZ") : setenv("TZ", kept, 1), 0);
    tzset();
    free(kept);
}

static void zones_that_are_none_are_refused(void **unused)
{
    (void)unused;
    static mq_zone zone;
    mq_error err;
    assert_int_equal(mq_zone_open(mq_str("../../etc/passwd"), &zone, &err), MQ_E_ARG);
    assert_int_equal(mq_zone_open(mq_str("/etc/passwd"), &zone, &err), MQ_E_ARG);
    assert_int_equal(mq_zone_open(mq_str(""), &zone, &err), MQ_E_ARG);
    assert_int_equal(mq_zone_open(mq_str("Europe/Atlantis"), &zone, &err), MQ_E_NOT_FOUND);
    assert_int_equal(mq_zone_read(mq_str("TZif"), &zone, &err), MQ_E_FORMAT);
    uint8_t lie[44 * 2] = "TZif2";
    memset(lie + 20, 0x7f, 24);
    assert_int_equal(mq_zone_read(mq_span_of(lie, sizeof lie), &zone, &err), MQ_E_FORMAT);
}

static void dates_and_days_are_inverse(void **unused)
{
    (void)unused;
    for (int64_t days = -200000; days < 200000; days += 13) {
        int64_t year = 0;
        int32_t month = 0, day = 0;
        mq_civil_date(days, &year, &month, &day);
        assert_in_range(month, 1, 12);
        assert_in_range(day, 1, 31);
        assert_int_equal(mq_civil_days(year, month, day), days);
    }
    assert_int_equal(mq_civil_days(1970, 1, 1), 0);
    assert_int_equal(mq_civil_days(2000, 3, 1), 11017);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_times_are_those_of_the_table),
        cmocka_unit_test(wrong_schedules_are_refused_by_field),
        cmocka_unit_test(offsets_are_those_of_the_c_library),
        cmocka_unit_test(zones_that_are_none_are_refused),
        cmocka_unit_test(dates_and_days_are_inverse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
