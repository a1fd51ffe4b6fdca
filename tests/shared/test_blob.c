/* Blobs in both stores and the local cache: what goes in comes out or is refused by name, a damaged
 * or half-vanished blob is noticed, a killed server is an error within the deadline and not the
 * end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/blob/blob.h"

enum { BIG = 5 * MQ_BLOB_CHUNK_BYTES + 12345 };

typedef struct fixture {
    char dir[96];
    char sock[128];
    char redis_url[160];
    char dir_url[160];
    pid_t redis;
    mq_blobs *blobs[2]; /* redis, dir */
    uint8_t *big;
} fixture;

static void spawn_redis(fixture *f)
{
    f->redis = fork();
    assert_true(f->redis >= 0);
    if (f->redis == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(null_fd, STDOUT_FILENO);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", f->sock, "--save", "",
               "--appendonly", "no", "--dir", f->dir, (char *)NULL);
        _exit(127);
    }
}

static void kill_redis(fixture *f)
{
    kill(f->redis, SIGKILL);
    assert_int_equal(waitpid(f->redis, NULL, 0), f->redis);
    f->redis = 0;
}

/* One command on a connection of its own; returns its integer, -1 for nil, -2 for other replies. */
static long long redis(const fixture *f, const char *format, const char *key)
{
    long long value = -2;
    redisContext *ctx = NULL;
    int64_t deadline_ms = mq_clock_mono_ms() + 30000;
    for (;;) {
        ctx = redisConnectUnix(f->sock);
        if (ctx->err == 0) {
            break;
        }
        assert_true(mq_clock_mono_ms() < deadline_ms);
        redisFree(ctx);
        mq_clock_sleep_ms(10);
    }
    redisReply *reply = redisCommand(ctx, format, key);
    assert_non_null(reply);
    value = reply->type == REDIS_REPLY_INTEGER ? reply->integer
            : reply->type == REDIS_REPLY_NIL   ? -1
                                               : -2;
    freeReplyObject(reply);
    redisFree(ctx);
    return value;
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    const char *tmp = getenv("TMPDIR");
    snprintf(f->dir, sizeof f->dir, "%.70s/mq-blob-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->sock, sizeof f->sock, "%s/r.sock", f->dir);
    snprintf(f->redis_url, sizeof f->redis_url, "unix:%s", f->sock);
    snprintf(f->dir_url, sizeof f->dir_url, "dir:%s/blobs", f->dir);
    spawn_redis(f);
    assert_int_equal(mq_blobs_new(&f->blobs[0], f->redis_url, NULL), MQ_OK);
    assert_int_equal(mq_blobs_new(&f->blobs[1], f->dir_url, NULL), MQ_OK);
    f->big = malloc(BIG);
    for (size_t i = 0; i < BIG; i++) {
        f->big[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    mq_blobs_free(f->blobs[0]);
    mq_blobs_free(f->blobs[1]);
    if (f->redis != 0) {
        kill_redis(f);
    }
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", f->dir);
    assert_int_equal(system(command), 0);
    free(f->big);
    free(f);
    return 0;
}

static int temp_file(const fixture *f)
{
    int fd = open(f->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static mq_code get(const fixture *f, mq_blobs *blobs, const char *hash, mq_span want, mq_error *err)
{
    int fd = temp_file(f);
    size_t size = 0;
    mq_code code = mq_blobs_get(blobs, hash, fd, &size, err);
    if (code == MQ_OK) {
        assert_int_equal(size, want.len);
        mq_map_file map;
        assert_int_equal(mq_map_file_fd(&map, fd, MQ_BLOB_BYTES_MAX, NULL), MQ_OK);
        assert_true(mq_span_eq(map.bytes, want));
        mq_map_file_release(&map);
    }
    close(fd);
    return code;
}

static void what_was_put_comes_back(void **state)
{
    fixture *f = *state;
    const size_t sizes[] = {0, 1, MQ_BLOB_CHUNK_BYTES, MQ_BLOB_CHUNK_BYTES + 1, BIG};
    for (int s = 0; s < 2; s++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            mq_span bytes = mq_span_of(f->big, sizes[i]);
            char hash[MQ_SHA256_HEX];
            char want[MQ_SHA256_HEX];
            mq_error err = {0};
            for (int twice = 0; twice < 2; twice++) {
                assert_int_equal(mq_blobs_put(f->blobs[s], bytes, hash, &err), MQ_OK);
            }
            mq_sha256_hex_of(bytes, want);
            assert_string_equal(hash, want);
            size_t size = 77;
            assert_int_equal(mq_blobs_find(f->blobs[s], hash, &size, &err), MQ_OK);
            assert_int_equal(size, bytes.len);
            assert_int_equal(get(f, f->blobs[s], hash, bytes, &err), MQ_OK);
        }
    }
}

static void a_blob_that_is_not_there_is_not_found(void **state)
{
    fixture *f = *state;
    char hash[MQ_SHA256_HEX];
    mq_sha256_hex_of(mq_str("nobody stored this"), hash);
    for (int s = 0; s < 2; s++) {
        mq_error err = {0};
        assert_int_equal(mq_blobs_find(f->blobs[s], hash, NULL, &err), MQ_E_NOT_FOUND);
        assert_int_equal(mq_blobs_pin(f->blobs[s], hash, &err), MQ_E_NOT_FOUND);
        assert_int_equal(mq_blobs_unpin(f->blobs[s], hash, &err), MQ_E_NOT_FOUND);
        assert_int_equal(get(f, f->blobs[s], hash, (mq_span){0}, &err), MQ_E_NOT_FOUND);
        assert_non_null(strstr(err.text, "not in the store"));
    }
}

static void only_a_hash_names_a_blob(void **state)
{
    fixture *f = *state;
    const char *bad[] = {"", "../../etc/passwd", "abc", NULL, NULL, NULL};
    char upper[MQ_SHA256_HEX];
    char slash[MQ_SHA256_HEX];
    memset(upper, 'A', 64);
    memset(slash, '/', 64);
    upper[64] = slash[64] = '\0';
    bad[3] = upper;
    bad[4] = slash;
    for (int s = 0; s < 2; s++) {
        for (int i = 0; i < 6; i++) {
            mq_error err = {0};
            assert_int_equal(mq_blobs_find(f->blobs[s], bad[i], NULL, &err), MQ_E_ARG);
            assert_int_equal(mq_blobs_get(f->blobs[s], bad[i], 1, NULL, &err), MQ_E_ARG);
            assert_int_equal(mq_blobs_pin(f->blobs[s], bad[i], &err), MQ_E_ARG);
            assert_int_equal(mq_blobs_unpin(f->blobs[s], bad[i], &err), MQ_E_ARG);
            assert_non_null(strstr(err.text, "64 lower-case hex digits"));
        }
    }
}

static void a_time_to_live_is_given_renewed_and_taken_by_pin(void **state)
{
    fixture *f = *state;
    char hash[MQ_SHA256_HEX];
    char head[128];
    char chunk[128];
    mq_blobs *blobs = f->blobs[0];
    mq_span bytes = mq_str("kept for a day");
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, NULL), MQ_OK);
    snprintf(head, sizeof head, "mq:b:%s", hash);
    snprintf(chunk, sizeof chunk, "mq:b:%s:0", hash);
    assert_in_range(redis(f, "PTTL %s", head), MQ_BLOB_TTL_MS / 2, MQ_BLOB_TTL_MS);
    assert_in_range(redis(f, "PTTL %s", chunk), MQ_BLOB_TTL_MS / 2, MQ_BLOB_TTL_MS);
    redis(f, "PEXPIRE %s 100000", chunk);
    redis(f, "PEXPIRE %s 100000", head);
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, NULL), MQ_OK);
    assert_in_range(redis(f, "PTTL %s", chunk), MQ_BLOB_TTL_MS / 2, MQ_BLOB_TTL_MS);
    assert_int_equal(mq_blobs_pin(blobs, hash, NULL), MQ_OK);
    assert_int_equal(redis(f, "PTTL %s", head), -1);
    assert_int_equal(redis(f, "PTTL %s", chunk), -1);
    /* Putting and finding it again leaves it permanent, even over a head that is gone. */
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, NULL), MQ_OK);
    redis(f, "DEL %s", head);
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, NULL), MQ_OK);
    assert_int_equal(redis(f, "PTTL %s", chunk), -1);
    assert_int_equal(mq_blobs_unpin(blobs, hash, NULL), MQ_OK);
    assert_in_range(redis(f, "PTTL %s", chunk), MQ_BLOB_TTL_MS / 2, MQ_BLOB_TTL_MS);
}

static void a_damaged_chunk_is_corrupt_and_a_missing_one_not_found(void **state)
{
    fixture *f = *state;
    char hash[MQ_SHA256_HEX];
    char key[128];
    mq_error err = {0};
    mq_span bytes = mq_span_of(f->big + 1, BIG - 1);
    mq_blobs *blobs = f->blobs[0];
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, NULL), MQ_OK);
    snprintf(key, sizeof key, "mq:b:%s:2", hash);
    redis(f, "SETRANGE %s 4711 x!", key);
    assert_int_equal(get(f, blobs, hash, bytes, &err), MQ_E_CORRUPT);
    assert_non_null(strstr(err.text, "hash to"));
    redis(f, "SET %s short", key);
    assert_int_equal(get(f, blobs, hash, bytes, &err), MQ_E_CORRUPT);
    assert_non_null(strstr(err.text, "chunk 2 of 6"));
    redis(f, "DEL %s", key);
    assert_int_equal(get(f, blobs, hash, bytes, &err), MQ_E_NOT_FOUND);
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, &err), MQ_E_NOT_FOUND);
    assert_int_equal(mq_blobs_pin(blobs, hash, &err), MQ_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "1 of 7 keys are gone"));
    /* Putting it again repairs it. */
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, &err), MQ_OK);
    assert_int_equal(get(f, blobs, hash, bytes, &err), MQ_OK);
    snprintf(key, sizeof key, "mq:b:%s", hash);
    redis(f, "SET %s 99999999999999", key);
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, &err), MQ_E_CORRUPT);
    redis(f, "SET %s -1", key);
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, &err), MQ_E_CORRUPT);
}

static void a_killed_server_is_an_error_and_works_again_after_a_restart(void **state)
{
    fixture *f = *state;
    char hash[MQ_SHA256_HEX];
    mq_error err = {0};
    mq_blobs *blobs = f->blobs[0];
    mq_span bytes = mq_str("before and after");
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, &err), MQ_OK);
    kill_redis(f);
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, &err), MQ_E_IO);
    assert_non_null(strstr(err.text, f->sock));
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, &err), MQ_E_IO);
    spawn_redis(f);
    redis(f, "EXISTS %s", "x");
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, &err), MQ_E_NOT_FOUND);
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, &err), MQ_OK);
    /* Killed and restarted between two calls: the caller does not even notice. */
    kill_redis(f);
    spawn_redis(f);
    redis(f, "EXISTS %s", "x");
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, &err), MQ_OK);
    assert_int_equal(get(f, blobs, hash, bytes, &err), MQ_OK);
}

static void a_full_server_is_busy_and_a_wrong_password_is_said(void **state)
{
    fixture *f = *state;
    char hash[MQ_SHA256_HEX];
    mq_error err = {0};
    redis(f, "CONFIG SET maxmemory %s", "1mb");
    assert_int_equal(mq_blobs_put(f->blobs[0], mq_span_of(f->big + 7, BIG - 7), hash, &err),
                     MQ_E_BUSY);
    redis(f, "CONFIG SET maxmemory %s", "0");
    assert_int_equal(mq_blobs_put(f->blobs[0], mq_span_of(f->big + 7, BIG - 7), hash, &err), MQ_OK);
    char secret[160];
    char url[400];
    snprintf(secret, sizeof secret, "%s/secret", f->dir);
    assert_int_equal(mq_file_write(secret, mq_str("sesame\n"), 0600, NULL), MQ_OK);
    redis(f, "ACL SETUSER w on >sesame ~mq:b:* -@all +%s +get +pexpire +persist +exists", "set");
    snprintf(url, sizeof url, "%s,user=w,secret=%s", f->redis_url, secret);
    mq_blobs *blobs;
    assert_int_equal(mq_blobs_new(&blobs, url, NULL), MQ_OK);
    assert_int_equal(mq_blobs_put(blobs, mq_str("by w"), hash, &err), MQ_OK);
    assert_int_equal(mq_blobs_pin(blobs, hash, &err), MQ_OK);
    assert_int_equal(mq_blobs_unpin(blobs, hash, &err), MQ_OK);
    assert_int_equal(get(f, blobs, hash, mq_str("by w"), &err), MQ_OK);
    mq_blobs_free(blobs);
    assert_int_equal(mq_file_write(secret, mq_str("wrong\n"), 0600, NULL), MQ_OK);
    assert_int_equal(mq_blobs_new(&blobs, url, NULL), MQ_OK);
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, "WRONGPASS"));
    unlink(secret);
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, secret));
    mq_blobs_free(blobs);
}

/* A server that sends rubbish, or a chunk without end, is an error and costs bounded memory. */
static void a_server_that_is_not_redis_is_an_error(void **state)
{
    fixture *f = *state;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s/false.sock", f->dir);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(listener, 16), 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGPIPE, SIG_IGN);
        for (int i = 0;; i++) {
            int fd = accept(listener, NULL, NULL);
            const char *say =
                i % 2 == 0 ? "HTTP/1.1 400 Bad Request\r\n\r\n" : ":0\r\n$999999999\r\n";
            ssize_t n = write(fd, say, strlen(say));
            while (i % 2 == 1 && n > 0) {
                n = write(fd, f->big, BIG);
            }
            close(fd);
        }
    }
    char url[160];
    mq_blobs *blobs;
    char hash[MQ_SHA256_HEX];
    mq_error err = {0};
    snprintf(url, sizeof url, "unix:%s", at.sun_path);
    mq_sha256_hex_of(mq_str("x"), hash);
    assert_int_equal(mq_blobs_new(&blobs, url, NULL), MQ_OK);
    mq_code code = mq_blobs_find(blobs, hash, NULL, &err);
    assert_true(code == MQ_E_IO || code == MQ_E_CORRUPT || code == MQ_E_TIMEOUT);
    mq_blobs_free(blobs);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(listener);
}

static void blob_file(const fixture *f, const char *hash, char path[256])
{
    snprintf(path, 256, "%s/blobs/%.2s/%s", f->dir, hash, hash);
}

static void a_damaged_file_is_corrupt_and_an_old_one_is_swept_unless_pinned(void **state)
{
    fixture *f = *state;
    mq_blobs *blobs = f->blobs[1];
    char hash[MQ_SHA256_HEX];
    char path[256];
    mq_error err = {0};
    mq_span bytes = mq_str("a file");
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, &err), MQ_OK);
    blob_file(f, hash, path);
    assert_int_equal(mq_file_write(path, mq_str("b file"), 0600, NULL), MQ_OK);
    assert_int_equal(get(f, blobs, hash, bytes, &err), MQ_E_CORRUPT);
    assert_int_equal(mq_file_write(path, mq_str("cut"), 0600, NULL), MQ_OK);
    assert_int_equal(mq_blobs_put(blobs, bytes, hash, &err), MQ_OK);
    assert_int_equal(get(f, blobs, hash, bytes, &err), MQ_OK);

    /* Two blobs in one folder: the second put sweeps the first, once it is old. */
    char other[MQ_SHA256_HEX];
    char text[32];
    for (int i = 0;; i++) {
        snprintf(text, sizeof text, "neighbour %d", i);
        mq_sha256_hex_of(mq_str(text), other);
        if (memcmp(other, hash, 2) == 0) {
            break;
        }
    }
    const struct timespec long_ago[2] = {{1000000, 0}, {1000000, 0}};
    assert_int_equal(mq_blobs_pin(blobs, hash, &err), MQ_OK);
    assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0);
    assert_int_equal(mq_blobs_put(blobs, mq_str(text), other, &err), MQ_OK);
    assert_int_equal(get(f, blobs, hash, bytes, &err), MQ_OK);
    assert_int_equal(mq_blobs_unpin(blobs, hash, &err), MQ_OK);
    assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0);
    blob_file(f, other, path);
    unlink(path);
    assert_int_equal(mq_blobs_put(blobs, mq_str(text), other, &err), MQ_OK);
    assert_int_equal(mq_blobs_find(blobs, hash, NULL, &err), MQ_E_NOT_FOUND);
}

static void the_cache_is_shared_and_survives_the_store(void **state)
{
    fixture *f = *state;
    char cache_dir[128];
    char hash[MQ_SHA256_HEX];
    mq_error err = {0};
    mq_span bytes = mq_span_of(f->big + 3, BIG - 3);
    snprintf(cache_dir, sizeof cache_dir, "%s/cache/blobs", f->dir);
    assert_int_equal(mq_blobs_put(f->blobs[0], bytes, hash, &err), MQ_OK);
    pid_t children[4];
    for (int i = 0; i < 4; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            mq_blobs *blobs;
            mq_blob_cache *cache;
            int fd = -1;
            mq_map_file map;
            bool is_good = mq_blobs_new(&blobs, f->redis_url, NULL) == MQ_OK &&
                           mq_blob_cache_new(&cache, cache_dir, 1 << 30, NULL) == MQ_OK &&
                           mq_blob_cache_open(cache, blobs, hash, &fd, NULL) == MQ_OK &&
                           mq_map_file_fd(&map, fd, BIG, NULL) == MQ_OK &&
                           mq_span_eq(map.bytes, bytes);
            _exit(is_good ? 0 : 1);
        }
    }
    for (int i = 0; i < 4; i++) {
        int status = 1;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    kill_redis(f);
    mq_blob_cache *cache;
    int fd;
    assert_int_equal(mq_blob_cache_new(&cache, cache_dir, 1 << 30, &err), MQ_OK);
    assert_int_equal(mq_blob_cache_open(cache, f->blobs[0], hash, &fd, &err), MQ_OK);
    close(fd);
    mq_sha256_hex_of(mq_str("not cached"), hash);
    assert_int_equal(mq_blob_cache_open(cache, f->blobs[0], hash, &fd, &err), MQ_E_IO);
    assert_int_equal(fd, -1);
    assert_int_equal(mq_blob_cache_open(cache, f->blobs[0], "../x", &fd, &err), MQ_E_ARG);
    mq_blob_cache_free(cache);
    spawn_redis(f);
    redis(f, "EXISTS %s", "x");
}

static bool is_cached(const char *dir, const char *hash)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, hash);
    return access(path, F_OK) == 0;
}

static void the_cache_drops_what_was_used_longest_ago(void **state)
{
    fixture *f = *state;
    mq_blob_cache *cache;
    char dir[128];
    char hash[4][MQ_SHA256_HEX];
    mq_error err = {0};
    snprintf(dir, sizeof dir, "%s/small", f->dir);
    assert_int_equal(mq_blob_cache_new(&cache, dir, 3000, &err), MQ_OK);
    mq_map_file map = {0};
    for (int i = 0; i < 4; i++) {
        mq_span bytes = mq_span_of(f->big + 100 + i, 1000);
        assert_int_equal(mq_blobs_put(f->blobs[1], bytes, hash[i], &err), MQ_OK);
        if (i == 3) {
            break;
        }
        int fd;
        assert_int_equal(mq_blob_cache_open(cache, f->blobs[1], hash[i], &fd, &err), MQ_OK);
        if (i == 1) {
            assert_int_equal(mq_map_file_fd(&map, fd, 1000, &err), MQ_OK);
        }
        close(fd);
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, hash[i]);
        const struct timespec used[2] = {{1000 + i, 0}, {1000 + i, 0}};
        assert_int_equal(utimensat(AT_FDCWD, path, used, 0), 0);
    }
    int fd;
    assert_int_equal(mq_blob_cache_open(cache, f->blobs[1], hash[0], &fd, &err), MQ_OK);
    close(fd);
    assert_int_equal(mq_blob_cache_open(cache, f->blobs[1], hash[3], &fd, &err), MQ_OK);
    close(fd);
    assert_true(is_cached(dir, hash[0]));
    assert_false(is_cached(dir, hash[1]));
    assert_true(is_cached(dir, hash[2]));
    assert_true(is_cached(dir, hash[3]));
    /* Evicted, yet still readable by who had it mapped. */
    assert_true(mq_span_eq(map.bytes, mq_span_of(f->big + 101, 1000)));
    mq_map_file_release(&map);
    char big[MQ_SHA256_HEX];
    assert_int_equal(mq_blobs_put(f->blobs[1], mq_span_of(f->big, 3001), big, &err), MQ_OK);
    assert_int_equal(mq_blob_cache_open(cache, f->blobs[1], big, &fd, &err), MQ_E_LIMIT);
    assert_true(is_cached(dir, hash[0]));
    mq_blob_cache_free(cache);
}

static void a_corrupt_blob_never_enters_the_cache(void **state)
{
    fixture *f = *state;
    mq_blob_cache *cache;
    char dir[128];
    char hash[MQ_SHA256_HEX];
    char key[128];
    int fd;
    mq_error err = {0};
    snprintf(dir, sizeof dir, "%s/clean", f->dir);
    assert_int_equal(mq_blob_cache_new(&cache, dir, 1 << 30, &err), MQ_OK);
    assert_int_equal(mq_blobs_put(f->blobs[0], mq_str("true bytes"), hash, &err), MQ_OK);
    snprintf(key, sizeof key, "mq:b:%s:0", hash);
    redis(f, "SET %s lies_bytes", key);
    assert_int_equal(mq_blob_cache_open(cache, f->blobs[0], hash, &fd, &err), MQ_E_CORRUPT);
    assert_false(is_cached(dir, hash));
    mq_blob_cache_free(cache);
}

static void a_blob_above_the_limit_is_refused_before_anything_is_read(void **state)
{
    fixture *f = *state;
    char hash[MQ_SHA256_HEX];
    mq_error err = {0};
    mq_span bytes = mq_span_of(f->big, MQ_BLOB_BYTES_MAX + 1);
    assert_int_equal(mq_blobs_put(f->blobs[0], bytes, hash, &err), MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "limit is 1073741824"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_comes_back),
        cmocka_unit_test(a_blob_that_is_not_there_is_not_found),
        cmocka_unit_test(only_a_hash_names_a_blob),
        cmocka_unit_test(a_time_to_live_is_given_renewed_and_taken_by_pin),
        cmocka_unit_test(a_damaged_chunk_is_corrupt_and_a_missing_one_not_found),
        cmocka_unit_test(a_killed_server_is_an_error_and_works_again_after_a_restart),
        cmocka_unit_test(a_full_server_is_busy_and_a_wrong_password_is_said),
        cmocka_unit_test(a_server_that_is_not_redis_is_an_error),
        cmocka_unit_test(a_damaged_file_is_corrupt_and_an_old_one_is_swept_unless_pinned),
        cmocka_unit_test(the_cache_is_shared_and_survives_the_store),
        cmocka_unit_test(the_cache_drops_what_was_used_longest_ago),
        cmocka_unit_test(a_corrupt_blob_never_enters_the_cache),
        cmocka_unit_test(a_blob_above_the_limit_is_refused_before_anything_is_read),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
