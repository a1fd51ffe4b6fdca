/* Commits under way: large values first, then the one call, in order, at most two at a time. It
 * knows what a verdict means for the order of commits and nothing of what is in them. */
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/store/batch.h"
#include "shared/store/redis_store.h"

/* A large value that no commit publishes within this time goes by itself. */
#define UNPUBLISHED_TTL_MS "3600000"

enum { FULL_RESULTS_BYTES_MAX = 1 << 30 };

_Static_assert(MQ_STORE_OK == 0 && MQ_STORE_DUP == 1 && MQ_STORE_FENCED == 2 && MQ_STORE_GAP == 3,
               "lua/commit.lua answers with these numbers");

static mq_flight *flight_at(mq_redis_store *s, uint32_t i)
{
    MQ_ASSERT(i < s->flight_count);
    return &s->flights[(s->flight_first + i) % MQ_STORE_INFLIGHT_MAX];
}

static void decide(mq_flight *f, mq_store_verdict verdict)
{
    if (!f->is_decided) {
        f->is_decided = true;
        f->reply.verdict = verdict;
    }
}

static bool is_oom(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "OOM ", 4) == 0;
}

/* An error that says nothing about the order of commits: start over on a new connection. */
static void decide_failed(mq_flight *f, const redisReply *reply)
{
    mq_redis_fail(&f->reply.err, reply);
    decide(f, MQ_STORE_FAILED);
    mq_conn_drop(&f->store->conn, "commit: %s", f->reply.err.text);
}

/* ---- large values ---- */

static void on_large(void *arg, const redisReply *reply);

static bool send_large(mq_large_flight *large, mq_span value, bool is_forced)
{
    mq_conn *conn = &large->flight->store->conn;
    const char *bytes = value.len == 0 ? "" : (const char *)value.data;
    const char *plain[] = {"SET", large->key, bytes, "PX", UNPUBLISHED_TTL_MS};
    const size_t plain_lens[] = {3, strlen(large->key), value.len, 2,
                                 sizeof UNPUBLISHED_TTL_MS - 1};
    const char *forced[] = {"FCALL", "mq1_put_large", "1", large->key, bytes, UNPUBLISHED_TTL_MS};
    const size_t forced_lens[] = {
        5, 13, 1, strlen(large->key), value.len, sizeof UNPUBLISHED_TTL_MS - 1};
    bool is_sent = is_forced ? mq_conn_send(conn, on_large, large, 6, forced, forced_lens)
                             : mq_conn_send(conn, on_large, large, 5, plain, plain_lens);
    large->flight->waiting += is_sent;
    return is_sent;
}

static void on_large(void *arg, const redisReply *reply)
{
    mq_large_flight *large = arg;
    mq_flight *f = large->flight;
    f->waiting--;
    if (reply == NULL) {
        return; /* mq_redis_commits_fail follows */
    }
    if (is_oom(reply) && !large->is_result) {
        decide(f, MQ_STORE_FULL);
    } else if (is_oom(reply)) {
        if (!send_large(large, large->value, true)) {
            decide_failed(f, reply);
        }
    } else if (reply->type == REDIS_REPLY_ERROR) {
        decide_failed(f, reply);
    }
    mq_redis_commits_advance(f->store);
}

/* Queues a flight's large values; results are copied, because they must get in even when memory is
 * full. */
static mq_code send_all_large(mq_flight *f, const mq_commit_args *c, mq_error *err)
{
    if (c->large_count == 0) {
        return MQ_OK;
    }
    mq_large_flight *all = mq_arena_new(&f->arena, mq_large_flight, c->large_count);
    for (uint32_t i = 0; all != NULL && i < c->large_count; i++) {
        const mq_large *from = &c->large[i];
        all[i] = (mq_large_flight){.flight = f, .is_result = from->is_result};
        mq_span_copy(mq_str(from->key), all[i].key, sizeof all[i].key);
        if (from->is_result) {
            const void *copy = mq_arena_copy(&f->arena, from->value);
            if (copy == NULL) {
                all = NULL;
                break;
            }
            all[i].value = mq_span_of(copy, from->value.len);
        }
    }
    if (all == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory to send %u large values", c->large_count);
    }
    for (uint32_t i = 0; i < c->large_count; i++) {
        if (!send_large(&all[i], c->large[i].value, false)) {
            mq_conn_drop(&f->store->conn, "commit: its large values cannot be sent");
            return MQ_OK; /* the flight fails with the connection */
        }
    }
    return MQ_OK;
}

/* ---- the call ---- */

static void read_verdict(mq_flight *f, const redisReply *reply)
{
    const redisReply *verdict = reply->elements > 0 ? reply->element[0] : NULL;
    if (verdict == NULL || verdict->type != REDIS_REPLY_INTEGER || verdict->integer < MQ_STORE_OK ||
        verdict->integer > MQ_STORE_GAP) {
        decide_failed(f, reply);
        return;
    }
    decide(f, (mq_store_verdict)verdict->integer);
    for (size_t i = 1; i < reply->elements; i++) {
        long long number = reply->element[i]->integer;
        if (i == 1) {
            f->reply.ignored_count = (uint32_t)number;
        } else {
            MQ_ASSERT(number >= 0 && number < MQ_STORE_JOBS_MAX);
            f->dups[f->reply.dup_count++] = f->order[number];
        }
    }
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void on_commit(void *arg, const redisReply *reply)
{
    mq_flight *f = arg;
    if (reply == NULL) {
        return; /* mq_redis_commits_fail follows */
    }
    if (is_oom(reply)) {
        decide(f, MQ_STORE_FULL);
    } else if (reply->type == REDIS_REPLY_ARRAY) {
        read_verdict(f, reply);
    } else {
        decide_failed(f, reply);
    }
    if (f->reply.verdict == MQ_STORE_GAP && f->is_after_full) {
        f->reply.verdict = MQ_STORE_FULL;
    }
    qsort(f->dups, f->reply.dup_count, sizeof f->dups[0], by_number);
    mq_redis_commits_advance(f->store);
}

/* Calls back for the oldest commit and takes it out. */
static void deliver(mq_redis_store *s)
{
    mq_flight *f = flight_at(s, 0);
    f->reply.dups = f->dups;
    if (f->reply.verdict == MQ_STORE_FULL) {
        for (uint32_t i = 1; i < s->flight_count; i++) {
            flight_at(s, i)->is_after_full = true;
        }
    }
    mq_store_on_commit *callback = f->callback;
    void *arg = f->arg;
    mq_store_reply reply = f->reply;
    uint32_t dups[MQ_STORE_JOBS_MAX];
    memcpy(dups, f->dups, sizeof f->dups[0] * reply.dup_count);
    reply.dups = dups;
    free(f->command);
    f->command = NULL;
    mq_arena_release(&f->arena);
    s->flight_first = (s->flight_first + 1) % MQ_STORE_INFLIGHT_MAX;
    s->flight_count--;
    callback(arg, &reply); /* may commit again, into the place that is free now */
}

void mq_redis_commits_advance(mq_redis_store *s)
{
    while (s->flight_count > 0 && flight_at(s, 0)->is_decided && flight_at(s, 0)->waiting == 0) {
        deliver(s);
    }
    for (uint32_t i = 0; i < s->flight_count; i++) {
        mq_flight *f = flight_at(s, i);
        if (f->is_sent) {
            continue;
        }
        if (f->is_decided || f->waiting > 0) {
            return; /* nothing may overtake it */
        }
        f->is_sent = mq_conn_send_raw(&s->conn, on_commit, f, f->command, f->command_bytes);
        if (!f->is_sent) {
            mq_conn_drop(&s->conn, "commit: it cannot be sent");
            return;
        }
        s->sent_sequence = f->sequence;
        free(f->command);
        f->command = NULL;
    }
}

void mq_redis_commits_fail(mq_redis_store *s, const mq_error *why)
{
    while (s->flight_count > 0) {
        mq_flight *f = flight_at(s, 0);
        MQ_ASSERT(f->waiting == 0);
        if (!f->is_decided) {
            f->reply.err = *why;
            decide(f, MQ_STORE_FAILED);
        }
        deliver(s);
    }
}

/* "*3\r\n" or "$26\r\n". */
static char *put_length(char *at, char mark, size_t length)
{
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + length % 10);
        length /= 10;
    } while (length > 0);
    *at++ = mark;
    while (count > 0) {
        *at++ = digits[--count];
    }
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

static char *put_text(char *at, const char *text, size_t len)
{
    at = put_length(at, '$', len);
    if (len > 0) {
        memcpy(at, text, len);
    }
    at += len;
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

static char *put_args(char *at, const mq_args *args)
{
    for (uint32_t i = 0; i < args->count; i++) {
        at = put_text(at, args->argv[i], args->lens[i]);
    }
    return at;
}

static size_t bytes_of(const mq_args *args)
{
    size_t bytes = (size_t)args->count * 32; /* "$26\r\n" and "\r\n" around each */
    for (uint32_t i = 0; i < args->count; i++) {
        bytes += args->lens[i];
    }
    return bytes;
}

/* FCALL name keys args as bytes of the protocol: the same as redisFormatCommandArgv's, without its
 * sprintf for each of some thousand arguments. */
static mq_code format(mq_flight *f, mq_commit_args *c, bool adds, mq_error *err)
{
    const char *name = adds ? "mq1_commit_new" : "mq1_commit";
    char keys[24];
    int keys_len = snprintf(keys, sizeof keys, "%u", c->keys.count);
    f->command = malloc(256 + bytes_of(&c->keys) + bytes_of(&c->args));
    if (f->command == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory to send a commit");
    }
    char *at = put_length(f->command, '*', (size_t)c->keys.count + c->args.count + 3);
    at = put_text(at, "FCALL", 5);
    at = put_text(at, name, strlen(name));
    at = put_text(at, keys, (size_t)keys_len);
    at = put_args(put_args(at, &c->keys), &c->args);
    f->command_bytes = (size_t)(at - f->command);
    return MQ_OK;
}

mq_code mq_redis_commit(mq_store *store, const mq_store_batch *batch, mq_store_on_commit *callback,
                        void *arg, mq_error *err)
{
    mq_redis_store *s = (mq_redis_store *)store;
    mq_code code = mq_batch_check(batch, err);
    if (code != MQ_OK) {
        return code;
    }
    if (s->conn.state != MQ_CONN_UP || s->conn.must_drop) {
        return mq_fail(err, MQ_E_BUSY, "store: not connected: %s", s->conn.trouble.text);
    }
    if (s->flight_count == MQ_STORE_INFLIGHT_MAX) {
        return mq_fail(err, MQ_E_BUSY, "store: %d commits are under way, the most there may be",
                       MQ_STORE_INFLIGHT_MAX);
    }
    code = mq_commit_args_build(&s->args, &s->keys, batch, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_flight *f = &s->flights[(s->flight_first + s->flight_count) % MQ_STORE_INFLIGHT_MAX];
    *f = (mq_flight){.store = s, .callback = callback, .arg = arg, .sequence = batch->sequence};
    f->reply.sequence = batch->sequence;
    memcpy(f->order, s->args.order, sizeof f->order);
    mq_arena_init(&f->arena, FULL_RESULTS_BYTES_MAX);
    code = format(f, &s->args, mq_batch_adds(batch), err);
    if (code == MQ_OK) {
        code = send_all_large(f, &s->args, err);
    }
    if (code != MQ_OK) {
        free(f->command);
        mq_arena_release(&f->arena);
        return code;
    }
    s->flight_count++;
    mq_redis_commits_advance(s);
    return MQ_OK;
}
