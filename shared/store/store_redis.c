/* The store over Redis Functions: its place in the event loop, calls under way, ownership. Commits
 * are in redis_commit.c, reading in redis_read.c, the connection in conn.c. It must not know what
 * records mean. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/store/batch.h"
#include "shared/store/library.h"
#include "shared/store/redis_store.h"

enum { WORDS_MAX = 16, LOAD_WAIT_MS = 30000, TURN_MS = 50 };

static mq_redis_store *self(mq_store *store)
{
    return (mq_redis_store *)store;
}

/* ---- calls ---- */

mq_code mq_redis_fail(mq_error *err, const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_ERROR) {
        return mq_fail(err, MQ_E_IO, "Redis answers: %.300s", reply->str);
    }
    return mq_fail(err, MQ_E_INTERNAL,
                   "Redis answers with a reply of type %d where another belongs", reply->type);
}

mq_call *mq_call_new(mq_redis_store *s, void *arg, mq_error *err)
{
    if (s->conn.state != MQ_CONN_UP || s->conn.must_drop) {
        mq_fail(err, MQ_E_BUSY, "store: not connected: %s", s->conn.trouble.text);
        return NULL;
    }
    for (uint32_t i = 0; i < MQ_STORE_CALLS_MAX; i++) {
        if (!s->calls[i].is_used) {
            s->calls[i] = (mq_call){.store = s, .is_used = true, .arg = arg};
            return &s->calls[i];
        }
    }
    mq_fail(err, MQ_E_BUSY, "store: %d calls are under way, the most there may be",
            MQ_STORE_CALLS_MAX);
    return NULL;
}

static void ask(mq_call *call, mq_conn_reply *fn, int argc, const char **argv, const size_t *lens)
{
    if (mq_conn_send(&call->store->conn, fn, call, argc, argv, lens)) {
        call->waiting++;
    } else {
        /* The connection is going down, or takes no more: the call ends with it. */
        mq_conn_drop(&call->store->conn, "a command cannot be sent");
        mq_fail(&call->err, MQ_E_IO, "store: connection lost");
    }
}

void mq_call_ask(mq_call *call, mq_conn_reply *fn, const char *const *words)
{
    const char *argv[WORDS_MAX];
    size_t lens[WORDS_MAX];
    int argc = 0;
    for (; words[argc] != NULL; argc++) {
        MQ_ASSERT(argc < WORDS_MAX);
        argv[argc] = words[argc];
        lens[argc] = strlen(words[argc]);
    }
    ask(call, fn, argc, argv, lens);
}

void mq_call_ask_args(mq_call *call, mq_conn_reply *fn, mq_args *args)
{
    if (args->is_full) {
        mq_conn_drop(&call->store->conn, "no memory to send a command");
        return;
    }
    ask(call, fn, (int)args->count, args->argv, args->lens);
}

bool mq_call_reply(mq_call *call, const redisReply *reply)
{
    MQ_ASSERT(call->waiting > 0);
    call->waiting--;
    if (reply == NULL) {
        if (call->err.code == MQ_OK) {
            mq_fail(&call->err, MQ_E_IO, "store: no answer, connection lost");
        }
    } else if (reply->type == REDIS_REPLY_ERROR && call->err.code == MQ_OK) {
        mq_redis_fail(&call->err, reply);
    }
    return call->err.code == MQ_OK;
}

static void finish(mq_call *call)
{
    if (call->kept.is_full && call->err.code == MQ_OK) {
        mq_fail(&call->err, MQ_E_LIMIT, "store: no memory to keep an answer");
    }
    mq_call done = *call;
    call->is_used = false; /* the callback may want it again */
    mq_code code = done.err.code;
    if (done.on_owner != NULL) {
        done.on_owner(done.arg, code, &done.owner, &done.err);
    } else if (done.on_replicas != NULL) {
        done.on_replicas(done.arg, code, done.sequence, code == MQ_OK ? done.replicas : 0,
                         &done.err);
    } else if (done.on_field != NULL) {
        done.on_field(done.arg, code, (mq_span){0}, (mq_span){0}, &done.err);
    } else {
        mq_span all = code == MQ_OK ? mq_buf_span(&done.kept) : (mq_span){0};
        size_t cut = code == MQ_OK ? done.record_bytes : 0;
        done.on_job(done.arg, code, mq_span_of(all.data, cut),
                    mq_span_of(all.len == cut ? NULL : all.data + cut, all.len - cut), &done.err);
    }
    mq_buf_release(&done.kept);
}

void mq_call_end(mq_call *call)
{
    /* While the connection goes down everything ends in on_down, where nothing waits any more. */
    if (call->waiting == 0 && call->store->conn.state == MQ_CONN_UP) {
        finish(call);
    }
}

static void on_down(void *arg)
{
    mq_redis_store *s = arg;
    mq_error why;
    mq_fail(&why, MQ_E_IO, "store: outcome unknown: %.400s", s->conn.trouble.text);
    mq_redis_commits_fail(s, &why);
    for (uint32_t i = 0; i < MQ_STORE_CALLS_MAX; i++) {
        mq_call *call = &s->calls[i];
        if (call->is_used) {
            MQ_ASSERT(call->waiting == 0);
            call->err = why;
            finish(call);
        }
    }
}

/* ---- ownership ---- */

static void read_text(const redisReply *r, char *out, size_t size)
{
    mq_span_copy(r->type == REDIS_REPLY_STRING ? mq_span_of(r->str, r->len) : (mq_span){0}, out,
                 size);
}

/* [ours, epoch, sequence, until, now, owner, endpoint, lineage of acquire]; false (with the error)
 * for anything else.
 */
static bool read_owner(mq_call *call, const redisReply *reply)
{
    bool is_right =
        reply->type == REDIS_REPLY_ARRAY && (reply->elements == 7 || reply->elements == 8);
    for (size_t i = 0; is_right && i < 5; i++) {
        is_right = reply->element[i]->type == REDIS_REPLY_INTEGER;
    }
    if (!is_right) {
        mq_redis_fail(&call->err, reply);
        return false;
    }
    mq_store_owner *o = &call->owner;
    o->is_ours = reply->element[0]->integer == 1;
    o->epoch = (uint64_t)reply->element[1]->integer;
    o->sequence = (uint64_t)reply->element[2]->integer;
    o->until_ms = reply->element[3]->integer;
    o->now_ms = reply->element[4]->integer;
    read_text(reply->element[5], o->owner, sizeof o->owner);
    read_text(reply->element[6], o->endpoint, sizeof o->endpoint);
    if (reply->elements == 8) {
        read_text(reply->element[7], o->lineage, sizeof o->lineage);
    }
    return true;
}

static void on_acquired(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply) && read_owner(call, reply) && call->owner.is_ours) {
        mq_redis_store *s = call->store;
        s->sent_sequence =
            call->owner.sequence > s->sent_sequence ? call->owner.sequence : s->sent_sequence;
    }
    mq_call_end(call);
}

static void fill_random(void *out, size_t size)
{
    while (getrandom(out, size, 0) != (ssize_t)size) {
        MQ_ASSERT(errno == EINTR);
    }
}

static void ask_acquire(mq_call *call)
{
    char ttl[24], fresh[MQ_LINEAGE_ID_SIZE];
    uint64_t id;
    fill_random(&id, sizeof id);
    snprintf(ttl, sizeof ttl, "%lld", (long long)call->ttl_ms);
    snprintf(fresh, sizeof fresh, "%016llx", (unsigned long long)id);
    mq_call_ask(call, on_acquired,
                (const char *const[]){
                    "FCALL", "mq1_acquire", "1", call->store->keys.fixed[MQ_KEY_OWNER], call->name,
                    call->endpoint, ttl, call->is_takeover ? "1" : "0", fresh, call->seen, NULL});
}

static void on_instance(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply)) {
        read_text(reply, call->owner.instance, sizeof call->owner.instance);
    }
    mq_call_end(call);
}

static void on_owner_exists(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply)) {
        call->has_owner_key = reply->type == REDIS_REPLY_INTEGER && reply->integer > 0;
    }
    mq_call_end(call);
}

static void on_set(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    (void)mq_call_reply(call, reply); /* nil: another broker was first, and its UUID comes next */
    mq_call_end(call);
}

/* UUID, version 4 (RFC 9562). */
static void make_instance(char out[64])
{
    uint8_t r[16];
    fill_random(r, sizeof r);
    r[6] = (uint8_t)((r[6] & 0x0f) | 0x40);
    r[8] = (uint8_t)((r[8] & 0x3f) | 0x80);
    snprintf(out, 64, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0],
             r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13],
             r[14], r[15]);
}

/* Everything about the store is known now: go on, initialise, or refuse. */
static void decide_acquire(mq_call *call)
{
    if (call->owner.instance[0] != '\0') {
        ask_acquire(call);
    } else if (call->has_owner_key) {
        mq_fail(&call->err, MQ_E_CORRUPT,
                "store: it has data of this shard but no %s; restore it from a backup",
                MQ_KEY_INSTANCE);
    } else if (!call->may_init) {
        mq_fail(&call->err, MQ_E_NOT_FOUND,
                "store: it is empty and this broker may not initialise it");
    } else {
        char instance[64];
        make_instance(instance);
        mq_call_ask(call, on_set,
                    (const char *const[]){"SET", MQ_KEY_INSTANCE, instance, "NX", NULL});
        mq_call_ask(call, on_instance, (const char *const[]){"GET", MQ_KEY_INSTANCE, NULL});
        ask_acquire(call);
    }
}

/* Value of "name:<number>" in INFO's text, or 0. */
static uint64_t info_number(const char *info, const char *name)
{
    const char *at = strstr(info, name);
    return at == NULL ? 0 : strtoull(at + strlen(name), NULL, 10);
}

/* Replicas that are connected and have finished their first copy: lines
 * "slave0:ip=..,state=online". */
static uint32_t info_replicas(const char *info)
{
    uint32_t count = 0;
    for (const char *at = strstr(info, "\nslave"); at != NULL; at = strstr(at + 1, "\nslave")) {
        const char *state = strstr(at, "state=online");
        const char *end = strchr(at + 1, '\n');
        count += state != NULL && (end == NULL || state < end);
    }
    return count;
}

static void on_memory(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply)) {
        if (reply->type == REDIS_REPLY_STRING) {
            call->owner.used_bytes = info_number(reply->str, "\nused_memory:");
            call->owner.max_bytes = info_number(reply->str, "\nmaxmemory:");
            call->owner.replicas = info_replicas(reply->str);
        }
        decide_acquire(call);
    }
    mq_call_end(call);
}

static mq_code acquire(mq_store *store, mq_span owner, mq_span endpoint, int64_t ttl_ms,
                       bool is_takeover, bool may_init, mq_span seen, mq_store_on_owner *callback,
                       void *arg, mq_error *err)
{
    mq_redis_store *s = self(store);
    mq_code code = mq_owner_check(owner, endpoint, ttl_ms, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_call *call = mq_call_new(s, arg, err);
    if (call == NULL) {
        return MQ_E_BUSY;
    }
    call->on_owner = callback;
    mq_span_copy(owner, call->name, sizeof call->name);
    mq_span_copy(endpoint, call->endpoint, sizeof call->endpoint);
    MQ_ASSERT(mq_span_copy(seen, call->seen, sizeof call->seen));
    call->ttl_ms = ttl_ms;
    call->is_takeover = is_takeover;
    call->may_init = may_init;
    mq_call_ask(call, on_instance, (const char *const[]){"GET", MQ_KEY_INSTANCE, NULL});
    mq_call_ask(call, on_owner_exists,
                (const char *const[]){"EXISTS", s->keys.fixed[MQ_KEY_OWNER], NULL});
    mq_call_ask(call, on_memory, (const char *const[]){"INFO", "memory", "replication", NULL});
    return MQ_OK;
}

static void on_replicas(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply)) {
        if (reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0) {
            call->replicas = (uint32_t)reply->integer;
        } else {
            mq_redis_fail(&call->err, reply);
        }
    }
    mq_call_end(call);
}

/* WAIT looks at the offset after this connection's last command: everything before it, whoever
 * wrote it, is covered (Redis 7.0, processCommand). */
static mq_code replicas(mq_store *store, uint32_t enough, int64_t wait_ms,
                        mq_store_on_replicas *callback, void *arg, mq_error *err)
{
    mq_redis_store *s = self(store);
    if (enough < 1 || wait_ms < 1 || wait_ms > MQ_STORE_WAIT_MS_MAX) {
        return mq_fail(err, MQ_E_ARG, "replicas: at least 1, for 1 to %d ms", MQ_STORE_WAIT_MS_MAX);
    }
    mq_call *call = mq_call_new(s, arg, err);
    if (call == NULL) {
        return MQ_E_BUSY;
    }
    char count[16], ms[16];
    snprintf(count, sizeof count, "%u", enough);
    snprintf(ms, sizeof ms, "%lld", (long long)wait_ms);
    call->on_replicas = callback;
    call->sequence = s->sent_sequence;
    mq_call_ask(call, on_replicas, (const char *const[]){"WAIT", count, ms, NULL});
    return MQ_OK;
}

static void on_released(void *arg, const redisReply *reply)
{
    mq_call *call = arg;
    if (mq_call_reply(call, reply) && read_owner(call, reply)) {
        if (!call->owner.is_ours) {
            mq_fail(&call->err, MQ_E_STALE, "store: epoch %s does not own the shard", call->cursor);
        }
        call->owner.is_ours = false;
    }
    mq_call_end(call);
}

static mq_code release(mq_store *store, uint64_t epoch, mq_store_on_owner *callback, void *arg,
                       mq_error *err)
{
    mq_redis_store *s = self(store);
    mq_call *call = mq_call_new(s, arg, err);
    if (call == NULL) {
        return MQ_E_BUSY;
    }
    call->on_owner = callback;
    snprintf(call->cursor, sizeof call->cursor, "%llu", (unsigned long long)epoch);
    mq_call_ask(call, on_released,
                (const char *const[]){"FCALL", "mq1_release", "1", s->keys.fixed[MQ_KEY_OWNER],
                                      call->cursor, NULL});
    return MQ_OK;
}

/* ---- the loop's side ---- */

static int store_fd(mq_store *store)
{
    return mq_conn_fd(&self(store)->conn);
}

static short store_events(mq_store *store)
{
    return mq_conn_events(&self(store)->conn);
}

static void process(mq_store *store, short revents, int64_t now_ms)
{
    mq_conn_process(&self(store)->conn, revents, now_ms);
}

static int64_t deadline(mq_store *store)
{
    return mq_conn_deadline(&self(store)->conn);
}

static bool is_connected(mq_store *store)
{
    const mq_redis_store *s = self(store);
    return s->conn.state == MQ_CONN_UP && !s->conn.must_drop;
}

static void free_store(mq_store *store)
{
    mq_redis_store *s = self(store);
    if (s->conn.trouble.text[0] == '\0') {
        mq_fail(&s->conn.trouble, MQ_E_CANCELLED, "closed before its answer came");
    }
    mq_conn_release(&s->conn);
    on_down(s);
    mq_commit_args_release(&s->args);
    free(s);
}

static const mq_store_ops ops = {
    .acquire = acquire,
    .release = release,
    .replicas = replicas,
    .commit = mq_redis_commit,
    .segments = mq_redis_segments,
    .scan = mq_redis_scan,
    .bodies = mq_redis_bodies,
    .job = mq_redis_job,
    .trim = mq_redis_trim,
    .fd = store_fd,
    .events = store_events,
    .process = process,
    .deadline = deadline,
    .is_connected = is_connected,
    .free = free_store,
};

mq_code mq_store_redis_new(mq_store **out, const char *url, uint32_t shard, mq_error *err)
{
    mq_url at;
    mq_code code = mq_url_parse(&at, url, err);
    if (code != MQ_OK) {
        return code;
    }
    if (at.kind == MQ_URL_DIR) {
        return mq_fail(err, MQ_E_ARG, "state store: %s is no Redis (unix: or tcp:)", url);
    }
    mq_redis_store *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a store");
    }
    code = mq_conn_init(&s->conn, &at, on_down, s, err);
    if (code != MQ_OK) {
        free(s);
        return code;
    }
    s->base.ops = &ops;
    mq_keys_init(&s->keys, shard);
    mq_commit_args_init(&s->args);
    *out = &s->base;
    return MQ_OK;
}

const char *mq_store_redis_trouble(const mq_store *store)
{
    MQ_ASSERT(store->ops == &ops);
    return ((const mq_redis_store *)store)->conn.trouble.text;
}

mq_code mq_store_redis_load(const char *url, mq_error *err)
{
    mq_store *store = NULL;
    mq_code code = mq_store_redis_new(&store, url, 0, err);
    if (code != MQ_OK) {
        return code;
    }
    MQ_ASSERT(store != NULL);
    int64_t until_ms = mq_clock_mono_ms() + LOAD_WAIT_MS;
    while (!is_connected(store) && mq_clock_mono_ms() < until_ms) {
        struct pollfd p = {.fd = store_fd(store), .events = store_events(store)};
        int ready = poll(&p, p.fd < 0 ? 0 : 1, TURN_MS);
        process(store, ready > 0 ? p.revents : 0, mq_clock_mono_ms());
    }
    if (!is_connected(store)) {
        code = mq_fail(err, MQ_E_TIMEOUT, "function library: not loaded within %d s: %.400s",
                       LOAD_WAIT_MS / 1000, mq_store_redis_trouble(store));
    }
    free_store(store);
    return code;
}
