/* Time zones; see zone.h. It must not know what the times are for. */
#include "shared/base/zone.h"

#include <stdio.h>

#include "shared/base/buf.h"
#include "shared/base/file.h"

enum { HEADER = 44, DAY_S = 86400, TYPES_MAX = 256 };

/* ---- dates (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms") ---- */

int64_t mq_civil_days(int64_t year, int32_t month, int32_t day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

void mq_civil_date(int64_t days, int64_t *year, int32_t *month, int32_t *day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t of_era = days - era * 146097;
    int64_t y = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * y + y / 4 - y / 100);
    int64_t m = (5 * of_year + 2) / 153;
    *day = (int32_t)(of_year - (153 * m + 2) / 5 + 1);
    *month = (int32_t)(m < 10 ? m + 3 : m - 9);
    *year = y + era * 400 + (*month <= 2);
}

/* ---- the footer: a POSIX TZ text ---- */

static bool take_number(mq_span *s, int32_t most, int32_t *out)
{
    size_t n = 0;
    int32_t value = 0;
    while (n < s->len && n < 4 && s->data[n] >= '0' && s->data[n] <= '9') {
        value = value * 10 + (s->data[n] - '0');
        n++;
    }
    *s = mq_span_of(s->data + n, s->len - n);
    *out = value;
    return n > 0 && value <= most;
}

static bool take_char(mq_span *s, char c)
{
    bool is_it = s->len > 0 && s->data[0] == (uint8_t)c;
    *s = is_it ? mq_span_of(s->data + 1, s->len - 1) : *s;
    return is_it;
}

/* "[+-]hh[:mm[:ss]]" in seconds. */
static bool take_time(mq_span *s, int32_t *out)
{
    int32_t sign = take_char(s, '-') ? -1 : 1;
    int32_t h = 0, m = 0, sec = 0;
    (void)(sign == 1 && take_char(s, '+'));
    bool is_ok = take_number(s, 167, &h);
    if (is_ok && take_char(s, ':')) {
        is_ok = take_number(s, 59, &m);
        is_ok = is_ok && (!take_char(s, ':') || take_number(s, 59, &sec));
    }
    *out = sign * (h * 3600 + m * 60 + sec);
    return is_ok;
}

/* "CET" or "<+03>". */
static bool take_name(mq_span *s)
{
    size_t n = 0;
    bool is_quoted = take_char(s, '<');
    while (n < s->len &&
           (is_quoted ? s->data[n] != '>' : (s->data[n] | 32) >= 'a' && (s->data[n] | 32) <= 'z')) {
        n++;
    }
    *s = mq_span_of(s->data + n, s->len - n);
    return n > 0 && (!is_quoted || take_char(s, '>'));
}

static bool take_rule(mq_span *s, mq_zone_rule *out)
{
    out->seconds = 7200;
    bool is_ok = take_char(s, ',') && take_char(s, 'M') && take_number(s, 12, &out->month) &&
                 take_char(s, '.') && take_number(s, 5, &out->week) && take_char(s, '.') &&
                 take_number(s, 6, &out->day);
    return is_ok && out->month >= 1 && out->week >= 1 &&
           (!take_char(s, '/') || take_time(s, &out->seconds));
}

static bool read_footer(mq_span s, mq_zone *out)
{
    int32_t west = 0;
    if (s.len == 0) {
        return true; /* no rule: the last transition holds */
    }
    if (!take_name(&s) || !take_time(&s, &west)) {
        return false;
    }
    out->has_footer = true;
    out->std_offset = -west;
    if (s.len == 0) {
        return true;
    }
    out->has_dst = true;
    out->dst_offset = out->std_offset + 3600;
    if (!take_name(&s)) {
        return false;
    }
    if (s.len > 0 && s.data[0] != ',') {
        if (!take_time(&s, &west)) {
            return false;
        }
        out->dst_offset = -west;
    }
    return take_rule(&s, &out->start) && take_rule(&s, &out->end) && s.len == 0;
}

/* ---- the file ---- */

static int64_t big_endian(const uint8_t *at, int bytes)
{
    uint64_t value = at[0] >= 128 ? UINT64_MAX : 0;
    for (int i = 0; i < bytes; i++) {
        value = value << 8 | at[i];
    }
    return (int64_t)value;
}

/* Counts of a header: isut, isstd, leap, time, type, char. */
static bool read_header(mq_span file, size_t from, int64_t counts[6], char *version)
{
    if (file.len < from + HEADER || memcmp(file.data + from, "TZif", 4) != 0) {
        return false;
    }
    *version = (char)file.data[from + 4];
    for (int i = 0; i < 6; i++) {
        counts[i] = big_endian(file.data + from + 20 + 4 * i, 4);
        if (counts[i] < 0 || counts[i] > MQ_ZONE_FILE_MAX) {
            return false;
        }
    }
    return true;
}

/* Bytes of the block behind a header whose times have `width` bytes. */
static size_t block_bytes(const int64_t c[6], size_t width)
{
    return (size_t)c[3] * (width + 1) + (size_t)c[4] * 6 + (size_t)c[5] +
           (size_t)c[2] * (width + 4) + (size_t)c[1] + (size_t)c[0];
}

static bool read_block(const uint8_t *at, const int64_t c[6], mq_zone *out)
{
    const uint8_t *types = at + 8 * c[3];
    const uint8_t *infos = types + c[3];
    out->count = (uint32_t)c[3];
    out->first_offset = (int32_t)big_endian(infos, 4);
    for (uint32_t i = 0; i < out->count; i++) {
        out->at[i] = big_endian(at + 8 * (size_t)i, 8);
        if (types[i] >= c[4] || (i > 0 && out->at[i] <= out->at[i - 1])) {
            return false;
        }
        out->offset[i] = (int32_t)big_endian(infos + 6 * (size_t)types[i], 4);
        if (out->offset[i] < -DAY_S || out->offset[i] > DAY_S) {
            return false;
        }
    }
    return true;
}

mq_code mq_zone_read(mq_span file, mq_zone *out, mq_error *err)
{
    int64_t c[6];
    char version = 0;
    memset(out, 0, sizeof *out);
    if (!read_header(file, 0, c, &version)) {
        return mq_fail(err, MQ_E_FORMAT, "zone file: does not begin as one (RFC 8536)");
    }
    size_t second = HEADER + block_bytes(c, 4);
    if (version < '2' || !read_header(file, second, c, &version)) {
        return mq_fail(err, MQ_E_FORMAT, "zone file: has no 64-bit part (version 2 or later)");
    }
    size_t end = second + HEADER + block_bytes(c, 8);
    if (c[3] > MQ_ZONE_TRANSITIONS_MAX || c[4] < 1 || c[4] > TYPES_MAX || end + 2 > file.len ||
        file.data[end] != '\n' || file.data[file.len - 1] != '\n' ||
        !read_block(file.data + second + HEADER, c, out)) {
        return mq_fail(err, MQ_E_FORMAT, "zone file: its counts, times or types do not fit");
    }
    if (!read_footer(mq_span_of(file.data + end + 1, file.len - end - 2), out)) {
        return mq_fail(err, MQ_E_FORMAT, "zone file: its footer is no rule that is understood");
    }
    return MQ_OK;
}

static bool is_name(mq_span name)
{
    bool is_ok = name.len > 0 && name.len <= MQ_ZONE_NAME_MAX;
    for (size_t i = 0; is_ok && i < name.len; i++) {
        uint8_t c = name.data[i];
        bool is_letter = (c | 32) >= 'a' && (c | 32) <= 'z';
        is_ok = is_letter ||
                (i > 0 && ((c >= '0' && c <= '9') || c == '/' || c == '_' || c == '-' || c == '+'));
    }
    return is_ok; /* no dots, so no way out of the folder */
}

mq_code mq_zone_open(mq_span name, mq_zone *out, mq_error *err)
{
    char path[128];
    mq_buf file;
    if (!is_name(name)) {
        return mq_fail(err, MQ_E_ARG, "time zone: \"%.*s\" is no name as Europe/Berlin",
                       (int)(name.len < 40 ? name.len : 40), (const char *)name.data);
    }
    (void)snprintf(path, sizeof path, "/usr/share/zoneinfo/%.*s", MQ_SPAN_ARG(name));
    mq_buf_init(&file, MQ_ZONE_FILE_MAX);
    mq_code code = MQ_OK;
    if (mq_file_read(path, &file, err) != MQ_OK) {
        code = mq_fail(err, MQ_E_NOT_FOUND,
                       "time zone: \"%.*s\" is not in /usr/share/zoneinfo (package tzdata)",
                       MQ_SPAN_ARG(name));
    } else {
        code = mq_zone_read(mq_buf_span(&file), out, err);
    }
    mq_buf_release(&file);
    return code;
}

/* ---- times ---- */

/* When a rule's change happens in a year, by the offset that holds before it. */
static int64_t rule_at(const mq_zone_rule *r, int64_t year, int32_t offset)
{
    int64_t first = mq_civil_days(year, r->month, 1);
    int64_t next =
        r->month == 12 ? mq_civil_days(year + 1, 1, 1) : mq_civil_days(year, r->month + 1, 1);
    int64_t weekday = ((first + 4) % 7 + 7) % 7; /* 1970-01-01 was a Thursday */
    int64_t day = first + (r->day - weekday + 7) % 7 + (int64_t)(r->week - 1) * 7;
    day = day >= next ? day - 7 : day;
    return day * DAY_S + r->seconds - offset;
}

static int32_t footer_offset(const mq_zone *z, int64_t utc_s)
{
    if (!z->has_dst) {
        return z->std_offset;
    }
    int64_t year = 0, local = utc_s + z->std_offset;
    int32_t month = 0, day = 0;
    mq_civil_date(local >= 0 ? local / DAY_S : (local - DAY_S + 1) / DAY_S, &year, &month, &day);
    int64_t start = rule_at(&z->start, year, z->std_offset);
    int64_t end = rule_at(&z->end, year, z->dst_offset);
    bool is_dst = start < end ? utc_s >= start && utc_s < end : utc_s >= start || utc_s < end;
    return is_dst ? z->dst_offset : z->std_offset;
}

int32_t mq_zone_offset(const mq_zone *z, int64_t utc_s)
{
    if (z->count == 0 || utc_s < z->at[0]) {
        return z->count == 0 && z->has_footer ? footer_offset(z, utc_s) : z->first_offset;
    }
    if (utc_s >= z->at[z->count - 1] && z->has_footer) {
        return footer_offset(z, utc_s);
    }
    uint32_t low = 0, high = z->count; /* at[low] <= utc_s < at[high] */
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (z->at[mid] <= utc_s) {
            low = mid;
        } else {
            high = mid;
        }
    }
    return z->offset[low];
}

int mq_zone_instants(const mq_zone *z, int64_t local_s, int64_t out[2], int64_t *gap_end)
{
    int64_t low = local_s - 2 * DAY_S, high = local_s + 2 * DAY_S;
    int32_t before = mq_zone_offset(z, low), after = mq_zone_offset(z, high);
    int64_t a = local_s - before, b = local_s - after;
    int count = 0;
    if (mq_zone_offset(z, a) == before) {
        out[count++] = a;
    }
    if (b != a && mq_zone_offset(z, b) == after) {
        out[count++] = b;
    }
    if (count == 2 && out[0] > out[1]) {
        int64_t first = out[1];
        out[1] = out[0];
        out[0] = first;
    }
    if (count == 0) {
        while (high - low > 1) {
            int64_t mid = low + (high - low) / 2;
            if (mq_zone_offset(z, mid) == before) {
                low = mid;
            } else {
                high = mid;
            }
        }
        *gap_end = high;
    }
    return count;
}
