/* Cron schedules; see cron.h. It must not know the clock nor what is run. */
#include "shared/job/cron.h"

#include <stdio.h>

enum { DAY_S = 86400, DAYS_MAX = 366 * 9 };

/* ---- reading ---- */

typedef struct field_rule {
    const char *name;
    uint32_t min, max;
    const char *const *names; /* of min, min + 1, ...; NULL-terminated */
} field_rule;

static const char *const months[] = {"jan", "feb", "mar", "apr", "may", "jun", "jul",
                                     "aug", "sep", "oct", "nov", "dec", NULL};
static const char *const weekdays[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL};
static const field_rule rules[5] = {{"minute", 0, 59, NULL},
                                    {"hour", 0, 23, NULL},
                                    {"day of month", 1, 31, NULL},
                                    {"month", 1, 12, months},
                                    {"day of week", 0, 7, weekdays}};
static const struct {
    const char *name, *text;
} shorthands[] = {{"@hourly", "0 * * * *"},  {"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
                  {"@weekly", "0 0 * * 0"},  {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"},
                  {"@annually", "0 0 1 1 *"}};

static mq_span take_until(mq_span *rest, const char *ends)
{
    size_t n = 0;
    while (n < rest->len && strchr(ends, rest->data[n]) == NULL) {
        n++;
    }
    mq_span out = mq_span_of(rest->data, n);
    n += n < rest->len;
    *rest = mq_span_of(rest->data + n, rest->len - n);
    return out;
}

static bool number_of(const field_rule *rule, mq_span text, uint32_t *out)
{
    for (uint32_t i = 0; rule->names != NULL && rule->names[i] != NULL && text.len == 3; i++) {
        bool is_it = true;
        for (size_t k = 0; k < 3; k++) {
            is_it = is_it && (text.data[k] | 32) == rule->names[i][k];
        }
        if (is_it) {
            *out = rule->min + i;
            return true;
        }
    }
    *out = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9' || *out > 1000) {
            return false;
        }
        *out = *out * 10 + (uint32_t)(text.data[i] - '0');
    }
    return text.len > 0;
}

/* "*", "n", "n-m", each with "/step". */
static bool read_part(const field_rule *rule, mq_span part, uint64_t *bits)
{
    mq_span step_text = part;
    mq_span range = take_until(&step_text, "/");
    bool has_step = range.len < part.len;
    mq_span to_text = range;
    mq_span from_text = take_until(&to_text, "-");
    bool has_range = from_text.len < range.len;
    uint32_t from = rule->min, to = rule->max, step = 1;
    if (has_step && (!number_of(rule, step_text, &step) || step == 0 || step > rule->max)) {
        return false;
    }
    if (!mq_span_is(range, "*")) {
        if (!number_of(rule, from_text, &from)) {
            return false;
        }
        to = has_step ? rule->max : from;
        if (has_range && !number_of(rule, to_text, &to)) {
            return false;
        }
    }
    if (from < rule->min || to > rule->max || from > to) {
        return false;
    }
    for (uint32_t i = from; i <= to; i += step) {
        *bits |= UINT64_C(1) << i;
    }
    return true;
}

static mq_code read_field(const field_rule *rule, mq_span text, uint64_t *bits, mq_error *err)
{
    mq_span rest = text;
    *bits = 0;
    bool is_ok = text.len > 0 && text.data[text.len - 1] != ',';
    while (is_ok && rest.len > 0) {
        is_ok = read_part(rule, take_until(&rest, ","), bits);
    }
    if (!is_ok) {
        return mq_fail(err, MQ_E_ARG,
                       "schedule, %s: \"%.*s\" is not *, %u..%u, a range 1-5, a list 1,2 or a step "
                       "*/5",
                       rule->name, MQ_SPAN_ARG(text), rule->min, rule->max);
    }
    return MQ_OK;
}

mq_code mq_cron_parse(mq_span text, mq_cron *out, mq_error *err)
{
    uint64_t bits[5];
    mq_span fields[5];
    uint32_t count = 0;
    for (size_t i = 0; i < sizeof shorthands / sizeof shorthands[0]; i++) {
        text = mq_span_is(text, shorthands[i].name) ? mq_str(shorthands[i].text) : text;
    }
    mq_span rest = text;
    while (rest.len > 0) {
        mq_span field = take_until(&rest, " \t");
        if (field.len > 0 && count == 5) {
            return mq_fail(err, MQ_E_ARG, "schedule: more than 5 fields");
        }
        if (field.len > 0) {
            fields[count++] = field;
        }
    }
    if (count < 5) {
        return mq_fail(err, MQ_E_ARG,
                       "schedule: %u fields, must be 5: minute hour day month weekday", count);
    }
    for (int i = 0; i < 5; i++) {
        if (read_field(&rules[i], fields[i], &bits[i], err) != MQ_OK) {
            return MQ_E_ARG;
        }
    }
    *out = (mq_cron){.minutes = bits[0],
                     .hours = (uint32_t)bits[1],
                     .days = (uint32_t)bits[2],
                     .months = (uint32_t)bits[3],
                     .weekdays = (uint32_t)((bits[4] | bits[4] >> 7) & 127),
                     .is_any_day = fields[2].data[0] == '*',
                     .is_any_weekday = fields[4].data[0] == '*',
                     .is_real = fields[1].data[0] == '*'};
    static const mq_zone utc = {.has_footer = true};
    if (mq_cron_next(out, &utc, 0) == INT64_MAX) {
        return mq_fail(err, MQ_E_ARG, "schedule: there is no such day in any month named");
    }
    return MQ_OK;
}

/* ---- times ---- */

static bool fits_day(const mq_cron *c, int64_t days)
{
    int64_t year = 0;
    int32_t month = 0, day = 0;
    mq_civil_date(days, &year, &month, &day);
    int64_t weekday = ((days + 4) % 7 + 7) % 7;
    bool is_day = (c->days >> day & 1) != 0;
    bool is_weekday = (c->weekdays >> weekday & 1) != 0;
    bool both = c->is_any_day || c->is_any_weekday;
    return (c->months >> month & 1) != 0 && (both ? is_day && is_weekday : is_day || is_weekday);
}

/* The earliest time of a local time that lies behind after_s; INT64_MAX when none does. */
static int64_t instant_of(const mq_cron *c, const mq_zone *zone, int64_t local_s, int64_t after_s)
{
    int64_t at[2] = {0, 0}, gap_end = 0;
    int count = mq_zone_instants(zone, local_s, at, &gap_end);
    if (count == 0) {
        return c->is_real || gap_end <= after_s ? INT64_MAX : gap_end;
    }
    if (at[0] > after_s) {
        return at[0];
    }
    return c->is_real && count == 2 && at[1] > after_s ? at[1] : INT64_MAX;
}

static int64_t first_of_day(const mq_cron *c, const mq_zone *zone, int64_t days, int64_t after_s)
{
    int64_t best = INT64_MAX;
    for (int h = 0; h < 24; h++) {
        for (int m = 0; (c->hours >> h & 1) != 0 && m < 60; m++) {
            if ((c->minutes >> m & 1) == 0) {
                continue;
            }
            int64_t at = instant_of(c, zone, days * DAY_S + h * 3600 + m * 60, after_s);
            best = at < best ? at : best;
        }
    }
    return best;
}

int64_t mq_cron_next(const mq_cron *c, const mq_zone *zone, int64_t after_s)
{
    int64_t local_s = after_s + mq_zone_offset(zone, after_s);
    int64_t today = (local_s >= 0 ? local_s : local_s - DAY_S + 1) / DAY_S;
    /* Clocks that went back over midnight give yesterday's times again. */
    bool is_changed = mq_zone_offset(zone, after_s - DAY_S) != mq_zone_offset(zone, after_s);
    for (int64_t days = today - is_changed; days <= today + DAYS_MAX; days++) {
        int64_t at = fits_day(c, days) ? first_of_day(c, zone, days, after_s) : INT64_MAX;
        if (at != INT64_MAX) {
            return at;
        }
    }
    return INT64_MAX;
}

int64_t mq_cron_last(const mq_cron *c, const mq_zone *zone, int64_t after_s, int64_t until_s)
{
    static const int64_t windows[] = {3600, DAY_S, 32 * DAY_S, INT64_C(5) * 366 * DAY_S};
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        int64_t from = until_s - windows[i] > after_s ? until_s - windows[i] : after_s;
        int64_t last = INT64_MIN;
        for (int64_t at = mq_cron_next(c, zone, from); at <= until_s;
             at = mq_cron_next(c, zone, at)) {
            last = at;
        }
        if (last != INT64_MIN || from == after_s) {
            return last;
        }
    }
    return INT64_MIN;
}
