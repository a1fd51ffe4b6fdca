/* Bytes of finished jobs; see retention.h. Buckets are minutes of ids, as in the store. What is
 * older than the time in which an id may be sent again goes with its record; of younger ones only
 * the results go, because their ids must still be known. */
#include "broker/io/retention.h"

#include <stdio.h>
#include <stdlib.h>

#include "broker/io/answers.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/ulid.h"

enum {
    TICK_MS = 1000,
    LOOK_AGAIN_MS = 600000,
    MINUTE_MS = 60000,
    LOW_PERCENT = 95,
    FRESH_MS = 180000
};

typedef struct bucket {
    uint64_t minute;
    int64_t bytes;
    int64_t looked_ms; /* monotonic; when it was asked for last */
    bool is_stripped;  /* has records only, as far as known */
} bucket;

struct mq_retention {
    bucket *all; /* owned; by minute */
    uint32_t count, capacity;
    int64_t bytes;
    int64_t tick_ms;
    bool is_asking;
    uint64_t minute; /* of the question under way */
    mq_store_trim mode;
    uint64_t freed;
    bool is_there;
    int level;                /* 0 ok, 1 warn, 2 full */
    uint64_t made_room_bytes; /* since the last word about it */
};

static mq_retention *state_of(mq_broker *b)
{
    if (b->retention == NULL) {
        b->retention = calloc(1, sizeof *b->retention);
        MQ_ASSERT(b->retention != NULL);
    }
    return b->retention;
}

void mq_retention_release(mq_broker *b)
{
    if (b->retention != NULL) {
        free(b->retention->all);
    }
    free(b->retention);
    b->retention = NULL;
}

void mq_retention_reset(mq_broker *b)
{
    mq_retention *r = state_of(b);
    r->count = 0;
    r->bytes = 0;
}

/* The bucket of a minute, made when there is none; NULL when memory is gone. */
static bucket *bucket_of(mq_retention *r, uint64_t minute, bool may_make)
{
    uint32_t at = r->count; /* new minutes are at the end */
    while (at > 0 && r->all[at - 1].minute > minute) {
        at--;
    }
    if (at > 0 && r->all[at - 1].minute == minute) {
        return &r->all[at - 1];
    }
    if (may_make && r->count == r->capacity) {
        uint32_t capacity = r->capacity == 0 ? 256 : r->capacity * 2;
        bucket *all = realloc(r->all, capacity * sizeof *all);
        r->all = all == NULL ? r->all : all;
        r->capacity = all == NULL ? r->capacity : capacity;
    }
    if (!may_make || r->count == r->capacity) {
        return NULL;
    }
    memmove(&r->all[at + 1], &r->all[at], (r->count - at) * sizeof *r->all);
    r->count++;
    r->all[at] = (bucket){.minute = minute, .looked_ms = INT64_MIN};
    return &r->all[at];
}

static void add_bytes(mq_broker *b, uint64_t minute, int64_t bytes)
{
    mq_retention *r = state_of(b);
    bucket *k = bucket_of(r, minute, true);
    if (k != NULL) {
        k->bytes += bytes;
        r->bytes += bytes;
        k->is_stripped = false;
    }
}

void mq_retention_sum(const mq_store_batch *batch, mq_kept_delta *out)
{
    out->count = 0;
    for (uint32_t i = 0; i < batch->finish_count; i++) {
        const mq_store_finish *f = &batch->finishes[i];
        if (f->is_dead) {
            continue;
        }
        uint64_t minute = (uint64_t)(mq_ulid_time((const char *)f->id.data) / MINUTE_MS);
        uint32_t at = 0;
        while (at < out->count && out->minutes[at] != minute && at + 1 < MQ_KEPT_PER_COMMIT) {
            at++;
        }
        if (at == out->count) {
            out->minutes[at] = minute;
            out->bytes[at] = 0;
            out->count++;
        }
        out->bytes[at] += (int64_t)(f->record.len + f->result.len);
    }
}

void mq_retention_add(mq_broker *b, const mq_kept_delta *delta)
{
    for (uint32_t i = 0; i < delta->count; i++) {
        add_bytes(b, delta->minutes[i], delta->bytes[i]);
    }
}

void mq_retention_load(mq_broker *b, mq_span name, mq_span value)
{
    size_t n = strlen(MQ_STORE_KEPT_PREFIX);
    char text[24], bytes[24];
    if (name.len <= n || memcmp(name.data, MQ_STORE_KEPT_PREFIX, n) != 0 ||
        !mq_span_copy(mq_span_of(name.data + n, name.len - n), text, sizeof text) ||
        !mq_span_copy(value, bytes, sizeof bytes)) {
        return;
    }
    uint64_t minute = strtoull(text, NULL, 10);
    bucket *k = bucket_of(state_of(b), minute, true);
    if (k != NULL) { /* a scan may give it twice: the later one counts */
        b->retention->bytes += strtoll(bytes, NULL, 10) - k->bytes;
        k->bytes = strtoll(bytes, NULL, 10);
    }
}

/* ---- figures ---- */

int64_t mq_retention_bytes(const mq_broker *b)
{
    return b->retention == NULL || b->retention->bytes < 0 ? 0 : b->retention->bytes;
}

int64_t mq_retention_max(const mq_broker *b)
{
    return b->config->results_bytes_max > 0 ? b->config->results_bytes_max
                                            : (int64_t)(b->store_max_bytes / 2);
}

uint32_t mq_retention_percent(const mq_broker *b)
{
    return b->store_max_bytes == 0
               ? 0
               : (uint32_t)((double)b->used_bytes / (double)b->store_max_bytes * 100);
}

static int level_of(const mq_broker *b)
{
    uint32_t percent = mq_retention_percent(b);
    return (percent >= MQ_STORE_WARN_PERCENT) + (percent >= MQ_STORE_FULL_PERCENT);
}

const char *mq_retention_level(const mq_broker *b)
{
    static const char *const names[] = {"ok", "warn", "full"};
    return names[level_of(b)];
}

/* ---- making room ---- */

typedef struct question {
    mq_broker *b;
    uint64_t generation;
} question;

static void on_trimmed(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    question *q = arg;
    mq_retention *r = q->b->retention;
    char text[24];
    if (code == MQ_OK && field.data != NULL) {
        (void)mq_span_copy(value, text, sizeof text);
        if (mq_span_is(field, "freed")) {
            r->freed = strtoull(text, NULL, 10);
        } else {
            r->is_there = text[0] == '1';
        }
        return;
    }
    r->is_asking = false;
    bucket *k = q->generation == q->b->generation ? bucket_of(r, r->minute, false) : NULL;
    if (code != MQ_OK) {
        mq_log(MQ_WARN, "no room made", "error=%s", err->text);
    } else if (k != NULL) {
        k->bytes -= (int64_t)r->freed;
        r->bytes -= (int64_t)r->freed;
        r->made_room_bytes += r->freed;
        k->is_stripped = k->is_stripped || r->mode != MQ_TRIM_LOOK;
        if (!r->is_there) {
            uint32_t at = (uint32_t)(k - r->all);
            r->bytes -= k->bytes;
            memmove(k, k + 1, (r->count - at - 1) * sizeof *k);
            r->count--;
        }
    }
    free(q);
}

static void ask(mq_broker *b, bucket *k, mq_store_trim mode)
{
    mq_retention *r = b->retention;
    mq_error err;
    question *q = malloc(sizeof *q);
    k->looked_ms = mq_clock_mono_ms();
    r->minute = k->minute;
    r->mode = mode;
    r->freed = 0;
    r->is_there = true;
    if (q == NULL) {
        return;
    }
    *q = (question){b, b->generation};
    r->is_asking = true;
    if (b->store->ops->trim(b->store, b->epoch, k->minute, mode, on_trimmed, q, &err) != MQ_OK) {
        r->is_asking = false;
        free(q);
    }
}

/* The oldest bucket that has something to give; false when none has. What was submitted in the last
 * minutes is for those who wait for it. */
static bool make_room(mq_broker *b)
{
    mq_retention *r = b->retention;
    int64_t known_ms = mq_broker_now(b) - MQ_ID_PAST_MS - MQ_ID_FUTURE_MS - 2 * MINUTE_MS;
    int64_t fresh_ms = mq_broker_now(b) - FRESH_MS;
    for (uint32_t i = 0; i < r->count && (int64_t)r->all[i].minute * MINUTE_MS < fresh_ms; i++) {
        bucket *k = &r->all[i];
        bool is_old = (int64_t)k->minute * MINUTE_MS < known_ms;
        if (is_old || !k->is_stripped) {
            ask(b, k, is_old ? MQ_TRIM_ALL : MQ_TRIM_RESULTS);
            return true;
        }
    }
    return false;
}

/* A bucket that is older than the usual retention may have gone by itself. */
static void look(mq_broker *b, int64_t now_ms)
{
    mq_retention *r = b->retention;
    int64_t over_ms = mq_broker_now(b) - b->config->retention_ms;
    for (uint32_t i = 0; i < r->count && (int64_t)r->all[i].minute * MINUTE_MS < over_ms; i++) {
        if (r->all[i].looked_ms == INT64_MIN || now_ms - r->all[i].looked_ms > LOOK_AGAIN_MS) {
            ask(b, &r->all[i], MQ_TRIM_LOOK);
            return;
        }
    }
}

static void warn(mq_broker *b)
{
    mq_retention *r = b->retention;
    int level = level_of(b);
    if (level > r->level) {
        mq_answer_news(b, level == 2 ? "full" : "warning",
                       "the store holds %llu of %llu bytes (%u %%)%s",
                       (unsigned long long)b->used_bytes, (unsigned long long)b->store_max_bytes,
                       mq_retention_percent(b),
                       level == 2 ? ": new jobs are answered busy" : "; at 80 % new jobs are busy");
        mq_log(MQ_WARN, "store fills up", "percent=%u used=%llu limit=%llu",
               mq_retention_percent(b), (unsigned long long)b->used_bytes,
               (unsigned long long)b->store_max_bytes);
    }
    r->level = level;
}

void mq_retention_tick(mq_broker *b)
{
    mq_retention *r = state_of(b);
    int64_t now_ms = mq_clock_mono_ms();
    bool is_over = mq_retention_max(b) > 0 && r->bytes > mq_retention_max(b);
    bool is_busy = r->made_room_bytes > 0 && mq_retention_max(b) > 0 &&
                   r->bytes > mq_retention_max(b) / 100 * LOW_PERCENT;
    if (r->is_asking || b->own != MQ_OWN_SERVING) {
        return;
    }
    if ((is_over || is_busy) && make_room(b)) { /* once begun, a little more than needed */
        return;
    }
    if (r->made_room_bytes > 0) {
        mq_answer_news(b, "retention", "%llu bytes of the oldest results made room",
                       (unsigned long long)r->made_room_bytes);
        r->made_room_bytes = 0;
    }
    if (now_ms >= r->tick_ms) {
        r->tick_ms = now_ms + TICK_MS;
        warn(b);
        look(b, now_ms);
    }
}
