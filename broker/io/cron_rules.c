/* Reads the rules of a recurring job; see cron_rules.h. Must not know which values are allowed: the
 * core says that of every job. */
#include "broker/io/cron_rules.h"

#include <stddef.h>

/* Words with a value, and the field that each one sets. */
static const struct {
    const char *word;
    size_t offset;
    bool is_text;
} words[] = {
    {"tenant", offsetof(mq_cron_rules, tenant), true},
    {"key", offsetof(mq_cron_rules, limit_key), true},
    {"need", offsetof(mq_cron_rules, needs), true},
    {"memory", offsetof(mq_cron_rules, memory_bytes), false},
    {"attempts", offsetof(mq_cron_rules, attempts_max), false},
    {"backoff", offsetof(mq_cron_rules, backoff_ms), false},
    {"backoff-max", offsetof(mq_cron_rules, backoff_max_ms), false},
    {"run-limit", offsetof(mq_cron_rules, max_run_ms), false},
    {"ttl", offsetof(mq_cron_rules, ttl_ms), false},
    {"keep", offsetof(mq_cron_rules, keep_ms), false},
};

enum { WORDS = sizeof words / sizeof words[0], DIGITS_MAX = 18 };

static bool number_of(mq_span text, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }
        *out = *out * 10 + (uint64_t)(text.data[i] - '0');
    }
    return text.len > 0 && text.len <= DIGITS_MAX && *out > 0;
}

/* One word; false: it cannot be read, or was there before. */
static bool read_word(mq_span word, uint32_t *seen, mq_cron_rules *out)
{
    if (mq_span_is(word, "alone")) {
        bool is_first = !out->is_alone;
        out->is_alone = true;
        return is_first;
    }
    size_t n = 0;
    while (n < word.len && word.data[n] != '=') {
        n++;
    }
    mq_span name = mq_span_of(word.data, n);
    mq_span value = n < word.len ? mq_span_of(word.data + n + 1, word.len - n - 1) : (mq_span){0};
    for (uint32_t i = 0; i < WORDS; i++) {
        void *field = (uint8_t *)out + words[i].offset;
        if (!mq_span_is(name, words[i].word)) {
            continue;
        }
        if (value.len == 0 || (*seen & 1U << i) != 0) {
            return false;
        }
        *seen |= 1U << i;
        if (!words[i].is_text) {
            return number_of(value, field);
        }
        *(mq_span *)field = value;
        return true;
    }
    return false;
}

mq_code mq_cron_rules_read(mq_span text, mq_cron_rules *out, mq_error *err)
{
    uint32_t seen = 0;
    *out = (mq_cron_rules){0};
    if (text.len > MQ_CRON_RULES_BYTES_MAX) {
        return mq_fail(err, MQ_E_ARG, "cron: rules of %zu bytes, at most %d", text.len,
                       MQ_CRON_RULES_BYTES_MAX);
    }
    for (size_t at = 0; at < text.len;) {
        size_t n = 0;
        while (at + n < text.len && text.data[at + n] != ' ') {
            n++;
        }
        mq_span word = mq_span_of(text.data + at, n);
        if (n > 0 && !read_word(word, &seen, out)) {
            return mq_fail(err, MQ_E_ARG,
                           "cron: the rule '%.*s' is not known, has no value above 0, or is there "
                           "twice",
                           word.len < 100 ? (int)word.len : 100, (const char *)word.data);
        }
        at += n + 1;
    }
    return MQ_OK;
}

void mq_cron_rules_set(const mq_cron_rules *rules, mq_msg_submit_job *item)
{
    item->tenant = rules->tenant;
    item->limit_key = rules->limit_key;
    item->needs = rules->needs;
    item->memory_bytes = rules->memory_bytes;
    item->attempts_max = rules->attempts_max;
    item->backoff_ms = rules->backoff_ms;
    item->backoff_max_ms = rules->backoff_max_ms;
    item->max_run_ms = rules->max_run_ms;
    item->ttl_ms = rules->ttl_ms;
    item->keep_ms = rules->keep_ms;
}
