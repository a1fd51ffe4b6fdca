/* Collection of blobs that nobody named, racing uploads of equal ones, in both stores: what an
 * upload, or a look at a blob, has answered for is there afterwards. MQ_RACE_ROUNDS=n for more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "shared/base/prng.h"
#include "shared/blob/blob.h"
#include "tests/support/redis.h"

enum { ROUNDS = 1500, BODY_BYTES = 3000, UPLOADERS = 2 };

typedef struct race {
    mq_test_redis server;
    pid_t others[UPLOADERS];
    mq_blobs *blobs;
    char url[160];
    char hash[MQ_SHA256_HEX];
    uint8_t body[BODY_BYTES];
} race;

static long rounds(void)
{
    const char *text = getenv("MQ_RACE_ROUNDS");
    return text == NULL ? ROUNDS : strtol(text, NULL, 10);
}

static int set_up(void **state)
{
    race *r = calloc(1, sizeof *r);
    mq_test_redis_init(&r->server);
    memset(r->body, 'x', sizeof r->body);
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    race *r = *state;
    for (int i = 0; i < UPLOADERS; i++) {
        if (r->others[i] > 0) {
            kill(r->others[i], SIGKILL);
            waitpid(r->others[i], NULL, 0);
        }
    }
    mq_blobs_free(r->blobs);
    mq_test_redis_release(&r->server);
    free(r);
    return 0;
}

/* Other bytes whose name begins alike: their upload clears the same folder. *from: where to
 * look, moved on, so that each is new to the store (what it has is only renewed). */
static void find_neighbour(const race *r, uint8_t bytes[BODY_BYTES], uint32_t *from)
{
    char hash[MQ_SHA256_HEX];
    memset(bytes, 'y', BODY_BYTES);
    for (;; ++*from) {
        memcpy(bytes, from, sizeof *from);
        mq_sha256_hex_of(mq_span_of(bytes, BODY_BYTES), hash);
        if (memcmp(hash, r->hash, 2) == 0) {
            ++*from;
            return;
        }
    }
}

/* Processes that put the same bytes again and again, or ever new ones into the same folder. */
static void upload_beside(race *r, bool is_equal)
{
    for (int i = 0; i < UPLOADERS; i++) {
        r->others[i] = fork();
        assert_true(r->others[i] >= 0);
        if (r->others[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            mq_blobs *blobs = NULL;
            char hash[MQ_SHA256_HEX];
            if (mq_blobs_new(&blobs, r->url, NULL) != MQ_OK) {
                _exit(1);
            }
            uint32_t from = (uint32_t)i << 28;
            for (;;) {
                uint8_t bytes[BODY_BYTES];
                if (!is_equal) {
                    find_neighbour(r, bytes, &from);
                }
                (void)!mq_blobs_put(blobs, mq_span_of(is_equal ? r->body : bytes, BODY_BYTES), hash,
                                    NULL);
            }
        }
    }
}

static void must_be_there(race *r, long round, const char *after)
{
    mq_error err;
    if (mq_blobs_find(r->blobs, r->hash, NULL, &err) != MQ_OK) {
        fail_msg("round %ld: gone after %s: %s", round, after, err.text);
    }
}

static long long ask(redisContext *c, const char *format, const char *hash)
{
    redisReply *reply = redisCommand(c, format, hash);
    assert_true(reply != NULL && reply->type == REDIS_REPLY_INTEGER);
    long long number = reply->integer;
    freeReplyObject(reply);
    return number;
}

/* The keys' lives end just while they are written. */
static void in_redis_an_upload_outlives_the_end_of_the_former_ones_life(void **state)
{
    race *r = *state;
    mq_prng prng = {7};
    struct timeval limit = {.tv_sec = 30};
    mq_test_redis_start(&r->server, "appendfsync no\nhz 100\n");
    snprintf(r->url, sizeof r->url, "%s", r->server.url);
    assert_int_equal(mq_blobs_new(&r->blobs, r->url, NULL), MQ_OK);
    redisContext *c = redisConnectUnixWithTimeout(r->server.socket, limit);
    assert_true(c != NULL && c->err == 0);
    mq_span body = mq_span_of(r->body, sizeof r->body);
    assert_int_equal(mq_blobs_put(r->blobs, body, r->hash, NULL), MQ_OK);
    for (long i = 0; i < rounds(); i++) {
        bool is_chunk = mq_prng_below(&prng, 2) == 0;
        (void)ask(c, is_chunk ? "PEXPIRE mq:b:%s:0 1" : "PEXPIRE mq:b:%s 1", r->hash);
        for (uint64_t spin = mq_prng_below(&prng, 4000); spin > 0; spin--) {
            __asm__ volatile("");
        }
        if (mq_prng_below(&prng, 2) == 0) {
            mq_clock_sleep_ms(1);
        }
        assert_int_equal(mq_blobs_put(r->blobs, body, r->hash, NULL), MQ_OK);
        must_be_there(r, i, "its upload");
        assert_true(ask(c, "PTTL mq:b:%s", r->hash) > MQ_BLOB_TTL_MS / 2);
        assert_true(ask(c, "PTTL mq:b:%s:0", r->hash) > MQ_BLOB_TTL_MS / 2);
    }
    redisFree(c);
}

/* A pin, and uploads of equal bytes by others at the same time: it stays permanent. */
static void in_redis_a_pin_is_not_undone_by_uploads_of_equal_bytes(void **state)
{
    race *r = *state;
    struct timeval limit = {.tv_sec = 30};
    mq_test_redis_start(&r->server, "appendfsync no\n");
    snprintf(r->url, sizeof r->url, "%s", r->server.url);
    assert_int_equal(mq_blobs_new(&r->blobs, r->url, NULL), MQ_OK);
    mq_span body = mq_span_of(r->body, sizeof r->body);
    assert_int_equal(mq_blobs_put(r->blobs, body, r->hash, NULL), MQ_OK);
    upload_beside(r, true);
    redisContext *c = redisConnectUnixWithTimeout(r->server.socket, limit);
    for (long i = 0; i < rounds() / 4; i++) {
        assert_int_equal(mq_blobs_pin(r->blobs, r->hash, NULL), MQ_OK);
        for (int k = 0; k < 4; k++) {
            assert_int_equal(ask(c, "PTTL mq:b:%s", r->hash), -1);
            assert_int_equal(ask(c, "PTTL mq:b:%s:0", r->hash), -1);
        }
        assert_int_equal(mq_blobs_unpin(r->blobs, r->hash, NULL), MQ_OK);
    }
    redisFree(c);
}

static void in_a_folder_an_upload_outlives_a_clearing_that_saw_the_former_one(void **state)
{
    race *r = *state;
    char path[300];
    snprintf(r->url, sizeof r->url, "dir:%s/blobs", r->server.dir);
    assert_int_equal(mq_blobs_new(&r->blobs, r->url, NULL), MQ_OK);
    mq_span body = mq_span_of(r->body, sizeof r->body);
    assert_int_equal(mq_blobs_put(r->blobs, body, r->hash, NULL), MQ_OK);
    snprintf(path, sizeof path, "%s/blobs/%.2s/%s", r->server.dir, r->hash, r->hash);
    upload_beside(r, false);
    for (long i = 0; i < rounds(); i++) {
        const struct timespec long_ago[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
        (void)!utimensat(AT_FDCWD, path, long_ago, 0); /* may be collected already */
        if (i % 2 == 0) {
            assert_int_equal(mq_blobs_put(r->blobs, body, r->hash, NULL), MQ_OK);
            must_be_there(r, i, "its upload");
        } else if (mq_blobs_find(r->blobs, r->hash, NULL, NULL) == MQ_OK) {
            must_be_there(r, i, "it was found"); /* and thereby renewed */
        }
    }
}

/* The mechanism behind it: while somebody gives a file of the folder a new life, none is removed.
 */
static void in_a_folder_nothing_is_removed_while_somebody_holds_its_lock(void **state)
{
    race *r = *state;
    char path[300], folder[300], other[MQ_SHA256_HEX];
    uint8_t neighbour[BODY_BYTES];
    const struct timespec long_ago[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    snprintf(r->url, sizeof r->url, "dir:%s/blobs", r->server.dir);
    assert_int_equal(mq_blobs_new(&r->blobs, r->url, NULL), MQ_OK);
    mq_span body = mq_span_of(r->body, sizeof r->body);
    assert_int_equal(mq_blobs_put(r->blobs, body, r->hash, NULL), MQ_OK);
    snprintf(folder, sizeof folder, "%s/blobs/%.2s", r->server.dir, r->hash);
    snprintf(path, sizeof path, "%.200s/%s", folder, r->hash);
    uint32_t from = 0;
    find_neighbour(r, neighbour, &from);
    mq_span beside = mq_span_of(neighbour, sizeof neighbour);
    int lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(lock, LOCK_SH), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0);
    assert_int_equal(mq_blobs_put(r->blobs, beside, other, NULL), MQ_OK);
    assert_int_equal(access(path, F_OK), 0);
    close(lock);
    find_neighbour(r, neighbour, &from);
    assert_int_equal(mq_blobs_put(r->blobs, beside, other, NULL), MQ_OK);
    assert_int_not_equal(access(path, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(in_redis_an_upload_outlives_the_end_of_the_former_ones_life,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(in_redis_a_pin_is_not_undone_by_uploads_of_equal_bytes,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            in_a_folder_an_upload_outlives_a_clearing_that_saw_the_former_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            in_a_folder_nothing_is_removed_while_somebody_holds_its_lock, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
