/* Blobs in a redis-server of their own (the layout is in blob.h). Knows chunks, keys and times to
 * live; bytes on the socket are redis_link.c's.
 *
 * Everything may be done twice and by several processes at once. A chunk is written with NX, so
 * that one process's upload cannot give another's pinned chunk a time to live; times to live are
 * only ever lengthened (PEXPIRE GT leaves permanent keys alone). The head is written last and
 * stands for the whole; whoever finds it counts the chunks behind it. */
#include "shared/blob/store.h"

#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/blob/redis_link.h"

enum {
    WINDOW = 4,        /* chunks under way at a time */
    ATTEMPTS = 3,      /* connections one call may use */
    KEY_BYTES = 96,    /* "mq:b:" + hash + ":" + chunk number */
    CHUNKS_MAX = 1024, /* MQ_BLOB_BYTES_MAX / MQ_BLOB_CHUNK_BYTES */
    REWRITES_MAX = 3,  /* of one chunk whose key comes and goes */
};

#define TTL_TEXT "86400000"
_Static_assert(MQ_BLOB_TTL_MS == 86400000, "TTL_TEXT is MQ_BLOB_TTL_MS in decimal");
_Static_assert(MQ_BLOB_BYTES_MAX / MQ_BLOB_CHUNK_BYTES == CHUNKS_MAX, "chunks of the largest blob");

typedef struct redis_blobs {
    mq_blobs base;
    mq_redis_link link;
} redis_blobs;

/* One call's place in a blob: it goes on from `next` after a reconnect. */
typedef struct cursor {
    const char *hash;
    mq_span bytes; /* put */
    size_t size;
    uint32_t next; /* first chunk that is not done */
    uint32_t count;
    mq_blob_sink *sink; /* get */
    void *arg;
} cursor;

typedef mq_code step(mq_redis_link *link, cursor *at, mq_error *err);

static mq_code redis_put(mq_blobs *, const char *, mq_span, int64_t, mq_error *);
static mq_code redis_get(mq_blobs *, const char *, int64_t, mq_blob_sink *, void *, mq_error *);
static mq_code redis_find(mq_blobs *, const char *, size_t *, int64_t, mq_error *);
static mq_code redis_pin(mq_blobs *, const char *, int64_t, mq_error *);
static mq_code redis_unpin(mq_blobs *, const char *, int64_t, mq_error *);
static void redis_free(mq_blobs *);
static mq_code run(mq_blobs *blobs, cursor *at, int64_t deadline_ms, step *what, mq_error *err);
static mq_code put_step(mq_redis_link *link, cursor *at, mq_error *err);
static mq_code get_step(mq_redis_link *link, cursor *at, mq_error *err);
static mq_code find_step(mq_redis_link *link, cursor *at, mq_error *err);
static mq_code pin_step(mq_redis_link *link, cursor *at, mq_error *err);
static mq_code unpin_step(mq_redis_link *link, cursor *at, mq_error *err);
static mq_code read_head(mq_redis_link *link, cursor *at, mq_error *err);
static mq_code read_chunk(mq_redis_link *link, cursor *at, mq_error *err);
static mq_code check_whole(mq_redis_link *link, const cursor *at, mq_error *err);
static mq_code for_all_keys(mq_redis_link *link, const cursor *at, const char *command,
                            const char *option, mq_error *err);
static mq_code rewrite_chunk(mq_redis_link *link, const char *key, mq_span chunk, mq_error *err);
static void head_key(const cursor *at, char key[KEY_BYTES]);
static void chunk_key(const cursor *at, uint32_t n, char key[KEY_BYTES]);
static mq_span chunk_of(const cursor *at, uint32_t n);
static size_t chunk_bytes(size_t size, uint32_t n);
static uint32_t chunks_of(size_t size);

static const mq_blob_ops ops = {
    .put = redis_put,
    .get = redis_get,
    .find = redis_find,
    .pin = redis_pin,
    .unpin = redis_unpin,
    .free = redis_free,
};

mq_code mq_blobs_redis_new(mq_blobs **out, const mq_url *url, mq_error *err)
{
    redis_blobs *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a blob store");
    }
    r->base.ops = &ops;
    mq_redis_link_init(&r->link, url);
    *out = &r->base;
    return MQ_OK;
}

static void redis_free(mq_blobs *blobs)
{
    redis_blobs *r = (redis_blobs *)blobs;
    mq_redis_link_release(&r->link);
    free(r);
}

static mq_code redis_put(mq_blobs *blobs, const char *hash, mq_span bytes, int64_t deadline_ms,
                         mq_error *err)
{
    cursor at = {.hash = hash, .bytes = bytes, .size = bytes.len, .count = chunks_of(bytes.len)};
    return run(blobs, &at, deadline_ms, put_step, err);
}

static mq_code redis_get(mq_blobs *blobs, const char *hash, int64_t deadline_ms, mq_blob_sink *sink,
                         void *arg, mq_error *err)
{
    cursor at = {.hash = hash, .sink = sink, .arg = arg};
    return run(blobs, &at, deadline_ms, get_step, err);
}

static mq_code redis_find(mq_blobs *blobs, const char *hash, size_t *size, int64_t deadline_ms,
                          mq_error *err)
{
    cursor at = {.hash = hash};
    mq_code code = run(blobs, &at, deadline_ms, find_step, err);
    *size = at.size;
    return code;
}

static mq_code redis_pin(mq_blobs *blobs, const char *hash, int64_t deadline_ms, mq_error *err)
{
    cursor at = {.hash = hash};
    return run(blobs, &at, deadline_ms, pin_step, err);
}

static mq_code redis_unpin(mq_blobs *blobs, const char *hash, int64_t deadline_ms, mq_error *err)
{
    cursor at = {.hash = hash};
    return run(blobs, &at, deadline_ms, unpin_step, err);
}

/* Runs a step, again on a new connection when the old one broke: every step goes on where it was.
 */
static mq_code run(mq_blobs *blobs, cursor *at, int64_t deadline_ms, step *what, mq_error *err)
{
    mq_redis_link *link = &((redis_blobs *)blobs)->link;
    mq_code code = MQ_OK;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        code = mq_redis_link_open(link, deadline_ms, err);
        if (code != MQ_OK) {
            return code;
        }
        code = what(link, at, err);
        if (!link->is_broken) {
            return code;
        }
    }
    return code;
}

static mq_code put_step(mq_redis_link *link, cursor *at, mq_error *err)
{
    char key[KEY_BYTES];
    mq_code code = MQ_OK;
    while (at->next < at->count && code == MQ_OK) {
        uint32_t end = at->next + WINDOW < at->count ? at->next + WINDOW : at->count;
        for (uint32_t n = at->next; n < end; n++) {
            chunk_key(at, n, key);
            mq_redis_link_add(link, 6,
                              (mq_span[]){mq_str("SET"), mq_str(key), chunk_of(at, n), mq_str("NX"),
                                          mq_str("PX"), mq_str(TTL_TEXT)});
        }
        bool is_set[WINDOW] = {false};
        for (uint32_t n = at->next; n < end && code == MQ_OK; n++) {
            code = mq_redis_link_flag(link, &is_set[n - at->next], err);
        }
        for (uint32_t n = at->next; n < end && code == MQ_OK; n++) {
            if (!is_set[n - at->next]) {
                chunk_key(at, n, key);
                code = rewrite_chunk(link, key, chunk_of(at, n), err);
            }
        }
        at->next = code == MQ_OK ? end : at->next;
    }
    if (code != MQ_OK) {
        return code;
    }
    head_key(at, key);
    char size[24];
    snprintf(size, sizeof size, "%zu", at->size);
    return rewrite_chunk(link, key, mq_str(size), err);
}

/* Writes a key that may be there already (from a broken upload, or damaged), without ever giving a
 * permanent key a time to live. Its life is lengthened before it is written: the other way round it
 * could end between the two, and a 0 from PEXPIRE does not tell that from a permanent key. */
static mq_code rewrite_chunk(mq_redis_link *link, const char *key, mq_span chunk, mq_error *err)
{
    for (int i = 0; i < REWRITES_MAX; i++) {
        bool is_set = false;
        mq_redis_link_add(
            link, 4, (mq_span[]){mq_str("PEXPIRE"), mq_str(key), mq_str(TTL_TEXT), mq_str("GT")});
        mq_redis_link_add(
            link, 5,
            (mq_span[]){mq_str("SET"), mq_str(key), chunk, mq_str("XX"), mq_str("KEEPTTL")});
        mq_code code = mq_redis_link_flag(link, NULL, err);
        if (code == MQ_OK) {
            code = mq_redis_link_flag(link, &is_set, err);
        }
        if (code != MQ_OK || is_set) {
            return code;
        }
        mq_redis_link_add(link, 6,
                          (mq_span[]){mq_str("SET"), mq_str(key), chunk, mq_str("NX"), mq_str("PX"),
                                      mq_str(TTL_TEXT)});
        code = mq_redis_link_flag(link, &is_set, err);
        if (code != MQ_OK || is_set) {
            return code;
        }
    }
    return mq_fail(err, MQ_E_IO, "%s: the key comes and goes; is something else writing to it?",
                   key);
}

static mq_code get_step(mq_redis_link *link, cursor *at, mq_error *err)
{
    mq_code code = read_head(link, at, err);
    uint32_t asked = at->next;
    while (at->next < at->count && code == MQ_OK) {
        for (; asked < at->count && asked < at->next + WINDOW; asked++) {
            char key[KEY_BYTES];
            chunk_key(at, asked, key);
            mq_redis_link_add(link, 2, (mq_span[]){mq_str("GET"), mq_str(key)});
        }
        code = read_chunk(link, at, err);
    }
    return code;
}

static mq_code read_chunk(mq_redis_link *link, cursor *at, mq_error *err)
{
    redisReply *reply;
    mq_code code = mq_redis_link_reply(link, &reply, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t want = chunk_bytes(at->size, at->next);
    if (reply->type == REDIS_REPLY_NIL) {
        code = mq_fail(err, MQ_E_NOT_FOUND, "chunk %u of %u is gone: upload the blob again",
                       at->next, at->count);
    } else if (reply->type != REDIS_REPLY_STRING || reply->len != want) {
        code = mq_fail(err, MQ_E_CORRUPT, "chunk %u of %u has %zu bytes instead of %zu", at->next,
                       at->count, reply->len, want);
    } else {
        code = at->sink(at->arg, mq_span_of(reply->str, reply->len), err);
        at->next++;
    }
    freeReplyObject(reply);
    return code;
}

static mq_code find_step(mq_redis_link *link, cursor *at, mq_error *err)
{
    mq_code code = read_head(link, at, err);
    if (code == MQ_OK) {
        code = for_all_keys(link, at, "PEXPIRE", "GT", err);
    }
    return code == MQ_OK ? check_whole(link, at, err) : code;
}

static mq_code pin_step(mq_redis_link *link, cursor *at, mq_error *err)
{
    mq_code code = read_head(link, at, err);
    if (code == MQ_OK) {
        code = for_all_keys(link, at, "PERSIST", NULL, err);
    }
    return code == MQ_OK ? check_whole(link, at, err) : code;
}

static mq_code unpin_step(mq_redis_link *link, cursor *at, mq_error *err)
{
    mq_code code = read_head(link, at, err);
    return code == MQ_OK ? for_all_keys(link, at, "PEXPIRE", "", err) : code;
}

/* Size and chunk count from the head. */
static mq_code read_head(mq_redis_link *link, cursor *at, mq_error *err)
{
    char key[KEY_BYTES];
    head_key(at, key);
    mq_redis_link_add(link, 2, (mq_span[]){mq_str("GET"), mq_str(key)});
    redisReply *reply;
    mq_code code = mq_redis_link_reply(link, &reply, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t size = 0;
    bool is_number = reply->type == REDIS_REPLY_STRING && reply->len > 0 && reply->len <= 10;
    for (size_t i = 0; is_number && i < reply->len; i++) {
        is_number = reply->str[i] >= '0' && reply->str[i] <= '9';
        size = is_number ? size * 10 + (size_t)(reply->str[i] - '0') : 0;
    }
    if (reply->type == REDIS_REPLY_NIL) {
        code = mq_fail(err, MQ_E_NOT_FOUND, "not in the store");
    } else if (!is_number || size > MQ_BLOB_BYTES_MAX) {
        code = mq_fail(err, MQ_E_CORRUPT, "%s does not hold a size of at most %zu", key,
                       MQ_BLOB_BYTES_MAX);
    }
    freeReplyObject(reply);
    at->size = size;
    at->count = chunks_of(size);
    return code;
}

static mq_code check_whole(mq_redis_link *link, const cursor *at, mq_error *err)
{
    char key[KEY_BYTES];
    uint32_t missing = 0;
    for (uint32_t n = 0; n <= at->count; n++) {
        n < at->count ? chunk_key(at, n, key) : head_key(at, key);
        mq_redis_link_add(link, 2, (mq_span[]){mq_str("EXISTS"), mq_str(key)});
    }
    for (uint32_t n = 0; n <= at->count; n++) {
        bool is_there = false;
        mq_code code = mq_redis_link_flag(link, &is_there, err);
        if (code != MQ_OK) {
            return code;
        }
        missing += is_there ? 0 : 1;
    }
    if (missing > 0) {
        return mq_fail(err, MQ_E_NOT_FOUND, "%u of %u keys are gone: upload the blob again",
                       missing, at->count + 1);
    }
    return MQ_OK;
}

/* PERSIST, or PEXPIRE with an option ("" for none), on every chunk and then the head. */
static mq_code for_all_keys(mq_redis_link *link, const cursor *at, const char *command,
                            const char *option, mq_error *err)
{
    int argc = option == NULL ? 2 : option[0] == '\0' ? 3 : 4;
    char key[KEY_BYTES];
    for (uint32_t n = 0; n <= at->count; n++) {
        n < at->count ? chunk_key(at, n, key) : head_key(at, key);
        mq_redis_link_add(
            link, argc,
            (mq_span[]){mq_str(command), mq_str(key), mq_str(TTL_TEXT), mq_str(option)});
    }
    mq_code code = MQ_OK;
    for (uint32_t n = 0; n <= at->count && code == MQ_OK; n++) {
        code = mq_redis_link_flag(link, NULL, err);
    }
    return code;
}

static void head_key(const cursor *at, char key[KEY_BYTES])
{
    snprintf(key, KEY_BYTES, "mq:b:%s", at->hash);
}

static void chunk_key(const cursor *at, uint32_t n, char key[KEY_BYTES])
{
    MQ_ASSERT(n < CHUNKS_MAX);
    snprintf(key, KEY_BYTES, "mq:b:%s:%u", at->hash, n);
}

static mq_span chunk_of(const cursor *at, uint32_t n)
{
    return mq_span_of(at->bytes.data + (size_t)n * MQ_BLOB_CHUNK_BYTES, chunk_bytes(at->size, n));
}

static size_t chunk_bytes(size_t size, uint32_t n)
{
    size_t from = (size_t)n * MQ_BLOB_CHUNK_BYTES;
    MQ_ASSERT(from < size);
    return size - from < MQ_BLOB_CHUNK_BYTES ? size - from : MQ_BLOB_CHUNK_BYTES;
}

static uint32_t chunks_of(size_t size)
{
    return (uint32_t)((size + MQ_BLOB_CHUNK_BYTES - 1) / MQ_BLOB_CHUNK_BYTES);
}
