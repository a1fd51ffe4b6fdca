/* Limits of a batch; see batch.h. It must know neither Redis nor the model. */
#include "shared/store/batch.h"

#include "shared/base/assert.h"
#include "shared/base/ulid.h"

enum { MINUTE_MS = 60000 };

static const uint64_t number_max = UINT64_C(1) << 53; /* Lua counts in doubles */
static const int64_t retention_max_ms = INT64_C(3660) * 24 * 3600 * 1000;

int64_t mq_batch_minute(mq_span id)
{
    MQ_ASSERT(id.len == MQ_ULID_LEN);
    return mq_ulid_time((const char *)id.data) / MINUTE_MS;
}

mq_code mq_owner_check(mq_span owner, mq_span endpoint, int64_t ttl_ms, mq_error *err)
{
    if (owner.len == 0 || owner.len > 63 || endpoint.len > 127) {
        return mq_fail(err, MQ_E_ARG,
                       "owner: needs 1..63 bytes, its endpoint 0..127; got %zu and %zu", owner.len,
                       endpoint.len);
    }
    if (ttl_ms < 100 || ttl_ms > 3600000) {
        return mq_fail(err, MQ_E_ARG, "tenure of %lld ms is outside 100..3,600,000",
                       (long long)ttl_ms);
    }
    return MQ_OK;
}

mq_code mq_bodies_check(const mq_span *ids, uint32_t count, mq_error *err)
{
    if (count > MQ_STORE_JOBS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "%u ids, at most %d in one call", count, MQ_STORE_JOBS_MAX);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (mq_ulid_ms(ids[i]) < 0) {
            return mq_fail(err, MQ_E_ARG, "id %u is not a ULID", i);
        }
    }
    return MQ_OK;
}

static mq_code check_id(const char *what, uint32_t i, mq_span id, uint64_t number, mq_error *err)
{
    if (mq_ulid_ms(id) < 0) {
        return mq_fail(err, MQ_E_ARG, "%s %u: id \"%.*s\" is not a ULID", what, i,
                       (int)(id.len < 40 ? id.len : 40), id.len == 0 ? "" : (const char *)id.data);
    }
    if (number >= number_max) {
        return mq_fail(err, MQ_E_LIMIT, "%s %u: submission number is not below 2^53", what, i);
    }
    return MQ_OK;
}

static mq_code check_size(const char *what, uint32_t i, const char *field, mq_span value,
                          size_t limit, mq_error *err)
{
    if (value.len > limit) {
        return mq_fail(err, MQ_E_LIMIT, "%s %u: %s has %zu bytes, at most %zu are allowed", what, i,
                       field, value.len, limit);
    }
    return MQ_OK;
}

static mq_code check_creates(const mq_store_batch *b, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < b->create_count && code == MQ_OK; i++) {
        const mq_store_create *c = &b->creates[i];
        code = check_id("create", i, c->id, c->number, err);
        if (code == MQ_OK) {
            code = check_size("create", i, "record", c->record, MQ_STORE_RECORD_MAX, err);
        }
        if (code == MQ_OK) {
            code = check_size("create", i, "body", c->body, MQ_STORE_BODY_MAX, err);
        }
    }
    return code;
}

static mq_code check_changes(const mq_store_batch *b, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < b->put_count && code == MQ_OK; i++) {
        const mq_store_put *p = &b->puts[i];
        code = check_id("put", i, p->id, p->number, err);
        if (code == MQ_OK) {
            code = check_size("put", i, "record", p->record, MQ_STORE_RECORD_MAX, err);
        }
    }
    for (uint32_t i = 0; i < b->revive_count && code == MQ_OK; i++) {
        const mq_store_revive *r = &b->revives[i];
        code = check_id("revive", i, r->id, r->number, err);
        if (code == MQ_OK) {
            code = check_size("revive", i, "record", r->record, MQ_STORE_RECORD_MAX, err);
        }
    }
    return code;
}

static mq_code check_finishes(const mq_store_batch *b, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < b->finish_count && code == MQ_OK; i++) {
        const mq_store_finish *f = &b->finishes[i];
        code = check_id("finish", i, f->id, f->number, err);
        if (code == MQ_OK) {
            code = check_size("finish", i, "record", f->record, MQ_STORE_RECORD_MAX, err);
        }
        if (code == MQ_OK) {
            code = check_size("finish", i, "result", f->result, MQ_STORE_BODY_MAX, err);
        }
        if (code == MQ_OK && (f->retention_ms <= 0 || f->retention_ms > retention_max_ms)) {
            return mq_fail(err, MQ_E_ARG, "finish %u: retention of %lld ms is outside 1 ms..3660 d",
                           i, (long long)f->retention_ms);
        }
        if (code == MQ_OK && f->is_dead + f->is_new + f->was_dead > 1) {
            return mq_fail(err, MQ_E_ARG,
                           "finish %u: at most one of is_dead, is_new and was_dead may be set", i);
        }
    }
    return code;
}

static mq_code check_rest(const mq_store_batch *b, mq_error *err)
{
    mq_code code = check_size("event", 0, "entry", b->event, MQ_STORE_EVENT_MAX, err);
    for (uint32_t i = 0; i < b->registry_count && code == MQ_OK; i++) {
        const mq_store_set *r = &b->registry[i];
        code = check_size("registry", i, "field", r->field, MQ_STORE_NAME_MAX, err);
        if (code == MQ_OK) {
            code = check_size("registry", i, "value", r->value, MQ_STORE_REGISTRY_VALUE_MAX, err);
        }
    }
    const int64_t delta_max = INT64_C(1) << 31;
    for (uint32_t i = 0; i < b->counter_count && code == MQ_OK; i++) {
        const mq_store_count *c = &b->counters[i];
        code = check_size("counter", i, "name", c->name, MQ_STORE_NAME_MAX, err);
        if (code == MQ_OK && (c->delta > delta_max || c->delta < -delta_max)) {
            return mq_fail(err, MQ_E_LIMIT, "counter %u: delta is outside -2^31..2^31", i);
        }
    }
    return code;
}

mq_code mq_batch_check(const mq_store_batch *b, mq_error *err)
{
    uint64_t jobs = (uint64_t)b->create_count + b->put_count + b->finish_count + b->revive_count;
    if (jobs > MQ_STORE_JOBS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "batch: %llu jobs, at most %d fit one commit",
                       (unsigned long long)jobs, MQ_STORE_JOBS_MAX);
    }
    if (b->registry_count > MQ_STORE_REGISTRY_MAX || b->counter_count > MQ_STORE_COUNTERS_MAX) {
        return mq_fail(
            err, MQ_E_LIMIT, "batch: %u registry writes and %u counters, at most %d and %d fit",
            b->registry_count, b->counter_count, MQ_STORE_REGISTRY_MAX, MQ_STORE_COUNTERS_MAX);
    }
    if (b->epoch >= number_max || b->sequence == 0 || b->sequence >= number_max) {
        return mq_fail(err, MQ_E_ARG, "batch: epoch and sequence are outside 0..2^53 and 1..2^53");
    }
    mq_code code = check_creates(b, err);
    if (code == MQ_OK) {
        code = check_changes(b, err);
    }
    if (code == MQ_OK) {
        code = check_finishes(b, err);
    }
    return code == MQ_OK ? check_rest(b, err) : code;
}
