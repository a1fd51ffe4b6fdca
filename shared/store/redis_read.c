/* Reading from Redis: segments, parts piece by piece, bodies, single jobs. */
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/store/batch.h"
#include "shared/store/redis_store.h"
#include "shared/store/value.h"

/* Fields an HSCAN step looks at; events a scan gives. */
#define SCAN_STEP   "512"
#define EVENTS_STEP "256"
_Static_assert(MQ_STORE_EVENTS_SCAN == 256, "EVENTS_STEP is it in decimal");

static mq_redis_store *self(mq_store *store)
{
    return (mq_redis_store *)store;
}

static mq_span text_of(const redisReply *r)
{
    return r->type == REDIS_REPLY_STRING ? mq_span_of(r->str, r->len) : (mq_span){0};
}

static bool expect(mq_call *call, const redisReply *reply, bool is_right)
{
    if (!is_right) {
        mq_redis_fail(&call->err, reply);
    }
    return is_right;
}

/* ---- segments and scans ---- */

static void give(mq_call *call, mq_span field, mq_span value)
{
    mq_value stored;
    if (call->part == MQ_PART_DEAD) {
        if (mq_value_read(&stored, value, &call->err) != MQ_OK) {
            return;
        }
        value = stored.record;
    }
    call->on_field(call->arg, MQ_OK, field, value, NULL);
}

static void give_pairs(mq_call *call, const redisReply *list)
{
    for (size_t i = 0; i + 1 < list->elements && call->err.code == MQ_OK; i += 2) {
        give(call, text_of(list->element[i]), text_of(list->element[i + 1]));
    }
}

static void on_members(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply) && expect(call, reply, reply->type == REDIS_REPLY_ARRAY)) {
        for (size_t i = 0; i < reply->elements; i++) {
            call->on_field(call->arg, MQ_OK, text_of(reply->element[i]), (mq_span){0}, NULL);
        }
    }
    mq_call_end(call);
}

mq_code mq_redis_segments(mq_store *store, mq_store_on_field *callback, void *arg, mq_error *err)
{
    mq_redis_store *s = self(store);
    mq_call *call = mq_call_new(s, arg, err);
    if (call == NULL) {
        return MQ_E_BUSY;
    }
    call->on_field = callback;
    mq_call_ask(call, on_members,
                (const char *const[]){"SMEMBERS", s->keys.fixed[MQ_KEY_SEGMENTS], NULL});
    return MQ_OK;
}

static void on_whole(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply) && expect(call, reply, reply->type == REDIS_REPLY_ARRAY)) {
        give_pairs(call, reply);
    }
    mq_call_end(call);
}

static void on_step(void *arg, const redisReply *reply);

static void ask_step(mq_call *call)
{
    mq_call_ask(call, on_step,
                (const char *const[]){"HSCAN", call->key, call->cursor, "COUNT", SCAN_STEP, NULL});
}

static void on_step(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply) &&
        expect(call, reply,
               reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
                   reply->element[0]->type == REDIS_REPLY_STRING &&
                   reply->element[1]->type == REDIS_REPLY_ARRAY)) {
        give_pairs(call, reply->element[1]);
        mq_span_copy(text_of(reply->element[0]), call->cursor, sizeof call->cursor);
        if (strcmp(call->cursor, "0") != 0 && call->err.code == MQ_OK) {
            ask_step(call);
        }
    }
    mq_call_end(call);
}

/* Stream entries: [id, [name, entry]]; an id starts with its time in ms. */
static void on_events(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply) && expect(call, reply, reply->type == REDIS_REPLY_ARRAY)) {
        for (size_t i = 0; i < reply->elements; i++) {
            const redisReply *entry = reply->element[i];
            if (entry->type != REDIS_REPLY_ARRAY || entry->elements != 2 ||
                entry->element[1]->type != REDIS_REPLY_ARRAY || entry->element[1]->elements < 2) {
                continue; /* deleted meanwhile */
            }
            mq_span id = text_of(entry->element[0]);
            const uint8_t *dash = id.len == 0 ? NULL : memchr(id.data, '-', id.len);
            mq_span ms = mq_span_of(id.data, dash == NULL ? id.len : (size_t)(dash - id.data));
            call->on_field(call->arg, MQ_OK, ms, text_of(entry->element[1]->element[1]), NULL);
        }
    }
    mq_call_end(call);
}

mq_code mq_redis_scan(mq_store *store, mq_store_part part, uint64_t segment,
                      mq_store_on_field *callback, void *arg, mq_error *err)
{
    static const mq_key key_of[] = {
        [MQ_PART_REQ] = MQ_KEY_REQ,       [MQ_PART_DEAD] = MQ_KEY_DEAD,
        [MQ_PART_REGISTRY] = MQ_KEY_REG,  [MQ_PART_COUNTERS] = MQ_KEY_COUNT,
        [MQ_PART_EVENTS] = MQ_KEY_EVENTS,
    };
    mq_redis_store *s = self(store);
    mq_call *call = mq_call_new(s, arg, err);
    if (call == NULL) {
        return MQ_E_BUSY;
    }
    call->on_field = callback;
    call->part = part;
    switch (part) {
    case MQ_PART_LIVE: /* at most MQ_STORE_SEGMENT_JOBS fields: one snapshot */
        mq_key_numbered(s->keys.live, segment, call->key);
        mq_call_ask(call, on_whole, (const char *const[]){"HGETALL", call->key, NULL});
        break;
    case MQ_PART_EVENTS:
        mq_call_ask(call, on_events,
                    (const char *const[]){"XREVRANGE", s->keys.fixed[MQ_KEY_EVENTS], "+", "-",
                                          "COUNT", EVENTS_STEP, NULL});
        break;
    case MQ_PART_REQ:
    case MQ_PART_DEAD:
    case MQ_PART_REGISTRY:
    case MQ_PART_COUNTERS:
        mq_span_copy(mq_str(s->keys.fixed[key_of[part]]), call->key, sizeof call->key);
        mq_span_copy(mq_str("0"), call->cursor, sizeof call->cursor);
        ask_step(call);
        break;
    }
    return MQ_OK;
}

/* ---- bodies ---- */

/* Each large body that was named takes one slot in call->kept: its id, then its key. */
typedef struct large_slot {
    char id[32];
    char key[MQ_KEY_BYTES];
} large_slot;

static void on_large(void *arg, const redisReply *reply);

/* Asks for the next large body: one at a time, they may have megabytes. */
static void ask_large(mq_call *call)
{
    large_slot slot;
    size_t at = (size_t)call->large_next * sizeof slot;
    if (at < call->kept.len) {
        memcpy(&slot, call->kept.data + at, sizeof slot);
        mq_call_ask(call, on_large, (const char *const[]){"GET", slot.key, NULL});
    }
}

static void on_large(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply)) {
        large_slot slot;
        memcpy(&slot, call->kept.data + (size_t)call->large_next * sizeof slot, sizeof slot);
        if (reply->type == REDIS_REPLY_STRING) {
            call->on_field(call->arg, MQ_OK, mq_str(slot.id), text_of(reply), NULL);
            call->large_next++;
            ask_large(call);
        } else {
            mq_fail(&call->err, MQ_E_CORRUPT, "body of job %s is not in the store (key %s)",
                    slot.id, slot.key);
        }
    }
    mq_call_end(call);
}

/* [tokens of large bodies, bodies], in the order of the ids that were kept in the call. */
static void on_bodies(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (!mq_call_reply(call, reply)) {
        mq_call_end(call);
        return;
    }
    mq_buf ids = call->kept;
    mq_buf_init(&call->kept, sizeof(large_slot) * MQ_STORE_JOBS_MAX);
    size_t count = ids.len / 32;
    if (expect(call, reply,
               reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
                   reply->element[0]->elements == count && reply->element[1]->elements == count)) {
        for (size_t i = 0; i < count; i++) {
            mq_span token = text_of(reply->element[0]->element[i]);
            const redisReply *body = reply->element[1]->element[i];
            large_slot slot = {.id = ""};
            memcpy(slot.id, ids.data + i * 32, 32);
            if (token.len > 0 && token.len < MQ_TOKEN_BYTES && body->type == REDIS_REPLY_STRING) {
                mq_key_large(call->store->keys.body, token, mq_str(slot.id), slot.key);
                mq_buf_add(&call->kept, &slot, sizeof slot);
            } else if (body->type == REDIS_REPLY_STRING) {
                call->on_field(call->arg, MQ_OK, mq_str(slot.id), text_of(body), NULL);
            }
        }
        if (call->kept.is_full) {
            mq_fail(&call->err, MQ_E_LIMIT, "no memory for %zu bodies", count);
        } else {
            ask_large(call);
        }
    }
    mq_buf_release(&ids);
    mq_call_end(call);
}

mq_code mq_redis_bodies(mq_store *store, const mq_span *ids, uint32_t count,
                        mq_store_on_field *callback, void *arg, mq_error *err)
{
    mq_redis_store *s = self(store);
    mq_code code = mq_bodies_check(ids, count, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_call *call = mq_call_new(s, arg, err);
    if (call == NULL) {
        return MQ_E_BUSY;
    }
    call->on_field = callback;
    mq_args args = {.arena = NULL};
    const char *const head[] = {"FCALL", "mq1_bodies", "2", s->keys.fixed[MQ_KEY_REQ],
                                s->keys.fixed[MQ_KEY_REF]};
    for (size_t i = 0; i < sizeof head / sizeof head[0]; i++) {
        mq_args_text(&args, head[i]);
    }
    mq_buf_init(&call->kept, (size_t)32 * MQ_STORE_JOBS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        char text[32] = "";
        memcpy(text, ids[i].data, ids[i].len);
        mq_buf_add(&call->kept, text, sizeof text);
        mq_args_add(&args, ids[i]);
    }
    if (count == 0) { /* HMGET wants a field: any that is no id */
        mq_args_text(&args, "-");
        char text[32] = "-";
        mq_buf_add(&call->kept, text, sizeof text);
    }
    mq_call_ask_args(call, on_bodies, &args);
    mq_args_release(&args);
    return MQ_OK;
}

/* ---- one job ---- */

static void on_result(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply)) {
        call->record_bytes = call->kept.len;
        mq_span result = text_of(reply);
        call->kept.limit += result.len;
        mq_buf_add_span(&call->kept, result);
    }
    mq_call_end(call);
}

/* [where, value], or nothing. The record is kept with the result behind it. */
static void on_found(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    mq_value value = {.is_large = false};
    if (mq_call_reply(call, reply) && expect(call, reply, reply->type == REDIS_REPLY_ARRAY)) {
        if (reply->elements < 2) {
            mq_fail(&call->err, MQ_E_NOT_FOUND, "no job has the id %s", call->cursor);
        } else if (mq_span_is(text_of(reply->element[0]), "live")) {
            value.record = text_of(reply->element[1]);
        } else if (mq_value_read(&value, text_of(reply->element[1]), &call->err) == MQ_OK &&
                   value.is_large && value.token.len < MQ_TOKEN_BYTES) {
            mq_key_large(call->store->keys.result, value.token, mq_str(call->cursor), call->key);
            mq_call_ask(call, on_result, (const char *const[]){"GET", call->key, NULL});
        }
        mq_buf_init(&call->kept, value.record.len + value.result.len + 1);
        mq_buf_add_span(&call->kept, value.record);
        call->record_bytes = value.record.len;
        mq_buf_add_span(&call->kept, value.result);
    }
    mq_call_end(call);
}

mq_code mq_redis_job(mq_store *store, mq_span id, mq_store_on_job *callback, void *arg,
                     mq_error *err)
{
    mq_redis_store *s = self(store);
    mq_code code = mq_bodies_check(&id, 1, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_call *call = mq_call_new(s, arg, err);
    if (call == NULL) {
        return MQ_E_BUSY;
    }
    call->on_job = callback;
    mq_span_copy(id, call->cursor, sizeof call->cursor);
    mq_key_numbered(s->keys.done, (uint64_t)mq_batch_minute(id), call->key);
    mq_call_ask(call, on_found,
                (const char *const[]){"FCALL", "mq1_job", "4", s->keys.fixed[MQ_KEY_REQ],
                                      s->keys.fixed[MQ_KEY_SEGMENTS], s->keys.fixed[MQ_KEY_DEAD],
                                      call->key, call->cursor, s->keys.live, NULL});
    return MQ_OK;
}

/* ---- making room ---- */

static void on_trimmed(void *arg, const redisReply *reply);

static void ask_trim(mq_call *call)
{
    static const char *const modes[] = {"0", "1", "2"};
    const mq_keys *k = &call->store->keys;
    char epoch[24];
    snprintf(epoch, sizeof epoch, "%llu", (unsigned long long)call->epoch);
    mq_call_ask(call, on_trimmed,
                (const char *const[]){"FCALL", "mq1_trim", "3", k->fixed[MQ_KEY_OWNER], call->key,
                                      k->fixed[MQ_KEY_COUNT], epoch, call->cursor, k->result,
                                      call->counter, modes[call->mode], NULL});
}

static void give_number(mq_call *call, const char *name, uint64_t number)
{
    char text[24];
    int len = snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    call->on_field(call->arg, MQ_OK, mq_str(name), mq_span_of(text, (size_t)len), NULL);
}

static void on_trimmed(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (!mq_call_reply(call, reply) || !expect(call, reply, reply->type == REDIS_REPLY_ARRAY)) {
        mq_call_end(call);
        return;
    }
    if (reply->elements == 0) {
        mq_fail(&call->err, MQ_E_STALE, "store: epoch %llu does not own the shard",
                (unsigned long long)call->epoch);
    } else if (expect(call, reply,
                      reply->elements == 3 && reply->element[1]->type == REDIS_REPLY_INTEGER &&
                          reply->element[2]->type == REDIS_REPLY_INTEGER)) {
        mq_span_copy(text_of(reply->element[0]), call->cursor, sizeof call->cursor);
        call->freed += (uint64_t)reply->element[1]->integer;
        if (strcmp(call->cursor, "0") != 0) {
            ask_trim(call);
        } else {
            give_number(call, "freed", call->freed);
            give_number(call, "there", reply->element[2]->integer != 0);
        }
    }
    mq_call_end(call);
}

mq_code mq_redis_trim(mq_store *store, uint64_t epoch, uint64_t minute, mq_store_trim mode,
                      mq_store_on_field *callback, void *arg, mq_error *err)
{
    mq_redis_store *s = self(store);
    mq_call *call = mq_call_new(s, arg, err);
    if (call == NULL) {
        return MQ_E_BUSY;
    }
    call->on_field = callback;
    call->epoch = epoch;
    call->mode = mode;
    mq_key_numbered(s->keys.done, minute, call->key);
    mq_key_numbered(MQ_STORE_KEPT_PREFIX, minute, call->counter);
    mq_span_copy(mq_str("0"), call->cursor, sizeof call->cursor);
    ask_trim(call);
    return MQ_OK;
}
