/* The two servers as deploy/redis ships them: what shared/store and shared/blob do works for their
 * users, and nothing else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shared/base/file.h"
#include "shared/base/sha256.h"
#include "shared/base/ulid.h"
#include "shared/blob/blob.h"
#include "tests/support/redis.h"
#include "tests/support/store.h"

static const char state_conf[] =
#include "redis/redis-state.conf.inc"
    ;
static const char blobs_conf[] =
#include "redis/redis-blobs.conf.inc"
    ;
static const char state_acl[] =
#include "redis/users-state.acl.inc"
    ;
static const char blobs_acl[] =
#include "redis/users-blobs.acl.inc"
    ;

enum { LARGE = 100000, HOUR_MS = 3600 * 1000, TEXT_MAX = 16384 };

typedef struct world {
    mq_test_redis state;
    mq_test_redis blobs;
    mq_test_answer got;
} world;

/* ---- filling the templates in, as `maasq up` does ---- */

typedef struct word {
    const char *name;
    const char *value;
} word;

static void fill(const char *text, const word *words, mq_buf *out)
{
    while (*text != '\0') {
        const word *w = words;
        while (w->name != NULL && strncmp(text, w->name, strlen(w->name)) != 0) {
            w++;
        }
        if (w->name != NULL) {
            mq_buf_add_str(out, w->value);
            text += strlen(w->name);
        } else {
            mq_buf_add(out, text++, 1);
        }
    }
    mq_buf_add(out, "", 1);
    assert_false(out->is_full);
}

static void hash_of(const char *password, char out[MQ_SHA256_HEX])
{
    uint8_t digest[32];
    mq_sha256_of(mq_str(password), digest);
    mq_sha256_hex(digest, out);
}

static void write_file(const char *dir, const char *name, const char *text, char path[128])
{
    assert_true(snprintf(path, 128, "%s/%s", dir, name) < 128);
    assert_int_equal(mq_file_write(path, mq_str(text), 0600, NULL), MQ_OK);
}

/* Every user's password is "<user>-password", kept in <dir>/<user>. */
static void start(mq_test_redis *redis, const char *conf, const char *acl)
{
    static const char *const users[] = {"broker", "dashboard", "deploy", "worker", "replica"};
    char hashes[5][MQ_SHA256_HEX];
    char path[128];
    mq_test_redis_init(redis);
    for (int i = 0; i < 5; i++) {
        char password[32];
        snprintf(password, sizeof password, "%s-password", users[i]);
        hash_of(password, hashes[i]);
        write_file(redis->dir, users[i], password, path);
    }
    const word acl_words[] = {{"@BROKER@", hashes[0]},  {"@DASHBOARD@", hashes[1]},
                              {"@DEPLOY@", hashes[2]},  {"@WORKER@", hashes[3]},
                              {"@REPLICA@", hashes[4]}, {NULL, NULL}};
    mq_buf text;
    mq_buf_init(&text, TEXT_MAX);
    fill(acl, acl_words, &text);
    write_file(redis->dir, "users.acl", (const char *)text.data, path);
    mq_buf_reset(&text);
    const word conf_words[] = {{"@SOCKET@", redis->socket}, {"@DIR@", redis->dir}, {"@ACL@", path},
                               {"@MAXMEMORY@", "64mb"},     {"@WORDS@", "words"},  {NULL, NULL}};
    fill(conf, conf_words, &text);
    assert_null(strchr((const char *)text.data, '@'));
    mq_test_redis_start_with(redis, (const char *)text.data);
    mq_buf_release(&text);
}

static void url_of(const mq_test_redis *redis, const char *user, char out[320])
{
    snprintf(out, 320, "unix:%s,user=%s,secret=%s/%s", redis->socket, user, redis->dir, user);
}

static int setup(void **state)
{
    world *w = calloc(1, sizeof *w);
    start(&w->state, state_conf, state_acl);
    start(&w->blobs, blobs_conf, blobs_acl);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    mq_test_redis_release(&w->state);
    mq_test_redis_release(&w->blobs);
    mq_test_answer_reset(&w->got);
    free(w);
    return 0;
}

/* ---- raw commands ---- */

static redisContext *log_in(const mq_test_redis *redis, const char *user)
{
    struct timeval limit = {.tv_sec = 30};
    redisContext *c = redisConnectUnixWithTimeout(redis->socket, limit);
    assert_non_null(c);
    assert_int_equal(c->err, 0);
    if (user != NULL) {
        redisReply *reply = redisCommand(c, "AUTH %s %s-password", user, user);
        assert_non_null(reply);
        assert_int_not_equal(reply->type, REDIS_REPLY_ERROR);
        freeReplyObject(reply);
    }
    return c;
}

/* Runs each command and wants the access list to refuse it. */
static void refused(redisContext *c, const char *const *commands)
{
    for (; *commands != NULL; commands++) {
        redisReply *reply = redisCommand(c, *commands);
        assert_non_null(reply);
        if (reply->type != REDIS_REPLY_ERROR ||
            (strncmp(reply->str, "NOPERM", 6) != 0 && strncmp(reply->str, "NOAUTH", 6) != 0)) {
            print_error("not refused: %s -> type %d %s\n", *commands, reply->type,
                        reply->str == NULL ? "" : reply->str);
        }
        assert_int_equal(reply->type, REDIS_REPLY_ERROR);
        assert_true(strncmp(reply->str, "NOPERM", 6) == 0 || strncmp(reply->str, "NOAUTH", 6) == 0);
        freeReplyObject(reply);
    }
}

static void allowed(redisContext *c, const char *const *commands)
{
    for (; *commands != NULL; commands++) {
        redisReply *reply = redisCommand(c, *commands);
        assert_non_null(reply);
        if (reply->type == REDIS_REPLY_ERROR) {
            print_error("refused: %s -> %s\n", *commands, reply->str);
        }
        assert_int_not_equal(reply->type, REDIS_REPLY_ERROR);
        freeReplyObject(reply);
    }
}

#define DANGEROUS                                                                                  \
    "EVAL return_1 0", "EVALSHA 0 0", "SCRIPT LOAD x", "CONFIG GET maxmemory",                     \
        "CONFIG SET maxmemory 0", "KEYS *", "SCAN 0", "RANDOMKEY", "FLUSHALL", "FLUSHDB",          \
        "SHUTDOWN NOSAVE", "ACL LIST", "ACL SETUSER x", "MONITOR", "SAVE", "BGREWRITEAOF",         \
        "REPLICAOF NO ONE", "CLIENT LIST", "MODULE LIST", "SLOWLOG GET", "RESTORE {mq:0}:x 0 x",   \
        "DUMP {mq:0}:owner", "RENAME {mq:0}:owner {mq:0}:x", "COPY {mq:0}:owner {mq:0}:x",         \
        "MIGRATE x 1 x 0 1", "SORT {mq:0}:segments", "SUBSCRIBE x", "PUBLISH x y", "SELECT 1",     \
        "SWAPDB 0 1", "FUNCTION FLUSH", "FUNCTION DUMP", "FUNCTION RESTORE x"

/* ---- the state's server ---- */

static mq_store *open_store(world *w, const char *user)
{
    char url[320];
    mq_store *store = NULL;
    url_of(&w->state, user, url);
    assert_int_equal(mq_store_redis_new(&store, url, 0, NULL), MQ_OK);
    return store;
}

static void load_library(world *w)
{
    char url[320];
    mq_error err = {.text = ""};
    url_of(&w->state, "deploy", url);
    mq_code code = mq_store_redis_load(url, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(code, MQ_OK);
}

static void only_the_deploy_user_loads_functions_and_the_broker_says_so(void **state)
{
    world *w = *state;
    mq_store *store = open_store(w, "broker");
    int64_t give_up_ms = mq_clock_mono_ms() + 30000;
    while (strstr(mq_store_redis_trouble(store), "load it as the deploy user") == NULL) {
        assert_true(mq_clock_mono_ms() < give_up_ms);
        mq_test_store_turn(store);
        assert_false(store->ops->is_connected(store));
    }
    load_library(w);
    load_library(w);
    mq_test_store_connect(store);
    store->ops->free(store);
}

static void a_wrong_password_is_named(void **state)
{
    world *w = *state;
    char path[128];
    write_file(w->state.dir, "broker", "wrong", path);
    mq_store *store = open_store(w, "broker");
    int64_t give_up_ms = mq_clock_mono_ms() + 30000;
    while (strstr(mq_store_redis_trouble(store), "login of user \"broker\" refused") == NULL) {
        assert_true(mq_clock_mono_ms() < give_up_ms);
        mq_test_store_turn(store);
    }
    store->ops->free(store);
}

static void commit(world *w, mq_store *store, mq_store_batch batch, uint64_t sequence)
{
    batch.epoch = 1;
    batch.sequence = sequence;
    mq_test_commit(store, &batch, &w->got);
    assert_string_equal(w->got.reply.err.text, "");
    assert_int_equal(w->got.reply.verdict, MQ_STORE_OK);
}

static void commit_every_kind(world *w, mq_store *store, char ids[4][MQ_ULID_SIZE])
{
    static uint8_t bytes[LARGE];
    mq_span large = mq_span_of(bytes, LARGE);
    mq_span none = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV");
    mq_store_create creates[4];
    for (int i = 0; i < 4; i++) {
        mq_ulid_new(ids[i]);
        creates[i] = (mq_store_create){mq_str(ids[i]), (uint64_t)i, mq_str("r"),
                                       i < 2 ? large : mq_str("body")};
    }
    commit(w, store, (mq_store_batch){.creates = creates, .create_count = 4}, 1);
    mq_store_put put = {mq_str(ids[3]), 3, mq_str("r2")};
    mq_store_set sets[] = {{mq_str("f"), mq_str("v")}, {mq_str("g"), (mq_span){0}}};
    mq_store_count count = {mq_str("n"), 1};
    mq_store_batch second = {.creates = creates,
                             .create_count = 1,
                             .puts = &put,
                             .put_count = 1,
                             .registry = sets,
                             .registry_count = 2,
                             .counters = &count,
                             .counter_count = 1,
                             .event = mq_str("e")};
    commit(w, store, second, 2);
    mq_store_finish ends[] = {
        {.id = mq_str(ids[0]), .number = 0, .retention_ms = HOUR_MS, .is_dead = true},
        {.id = mq_str(ids[1]), .number = 1, .retention_ms = HOUR_MS, .is_dead = true},
        {.id = mq_str(ids[2]), .number = 2, .result = large, .retention_ms = HOUR_MS},
        {.id = none, .record = mq_str("d"), .retention_ms = HOUR_MS},
    };
    commit(w, store, (mq_store_batch){.finishes = ends, .finish_count = 4}, 3);
    mq_store_revive revive = {mq_str(ids[0]), 9, mq_str("again")};
    mq_store_finish away = {.id = mq_str(ids[1]), .retention_ms = HOUR_MS, .was_dead = true};
    mq_store_put stray = {none, 9, mq_str("no")};
    mq_store_batch fourth = {.revives = &revive,
                             .revive_count = 1,
                             .finishes = &away,
                             .finish_count = 1,
                             .puts = &stray,
                             .put_count = 1};
    commit(w, store, fourth, 4);
}

/* Every path of the library that touches Redis: a command the list forgot fails here. */
static void the_broker_may_do_everything_the_store_does(void **state)
{
    world *w = *state;
    load_library(w);
    mq_store *store = open_store(w, "broker");
    mq_test_store_connect(store);
    mq_test_acquire(store, "b", HOUR_MS, true, true, &w->got);
    assert_string_equal(w->got.err.text, "");
    char ids[4][MQ_ULID_SIZE];
    commit_every_kind(w, store, ids);
    mq_span wanted[] = {mq_str(ids[0]), mq_str(ids[3])};
    mq_test_bodies(store, wanted, 2, &w->got);
    assert_string_equal(w->got.err.text, "");
    assert_int_equal(w->got.pair_count, 2);
    for (int i = 0; i < 4; i++) {
        mq_test_job(store, mq_str(ids[i]), &w->got);
        assert_string_equal(w->got.err.text, "");
    }
    mq_test_segments(store, &w->got);
    assert_string_equal(w->got.err.text, "");
    for (mq_store_part part = MQ_PART_LIVE; part <= MQ_PART_EVENTS; part++) {
        mq_test_scan(store, part, 0, &w->got);
        assert_string_equal(w->got.err.text, "");
    }
    mq_test_release(store, 1, &w->got);
    assert_string_equal(w->got.err.text, "");
    store->ops->free(store);
}

/* The log is replayed under the access list as well. */
static void commits_are_there_again_after_a_restart(void **state)
{
    world *w = *state;
    load_library(w);
    mq_store *store = open_store(w, "broker");
    mq_test_store_connect(store);
    mq_test_acquire(store, "b", HOUR_MS, true, true, &w->got);
    char ids[4][MQ_ULID_SIZE];
    commit_every_kind(w, store, ids);
    store->ops->free(store);
    char path[128];
    assert_true(snprintf(path, sizeof path, "%s/redis.conf", w->state.dir) < 128);
    mq_buf conf;
    mq_buf_init(&conf, TEXT_MAX);
    assert_int_equal(mq_file_read(path, &conf, NULL), MQ_OK);
    assert_true(mq_buf_add(&conf, "", 1));
    mq_test_redis_kill(&w->state);
    mq_test_redis_start_with(&w->state, (const char *)conf.data);
    mq_buf_release(&conf);
    store = open_store(w, "broker");
    mq_test_store_connect(store);
    mq_test_scan(store, MQ_PART_REGISTRY, 0, &w->got);
    assert_string_equal(w->got.err.text, "");
    assert_int_equal(w->got.pair_count, 1);
    mq_test_job(store, mq_str(ids[2]), &w->got);
    assert_string_equal(w->got.err.text, "");
    store->ops->free(store);
}

static void the_broker_may_do_nothing_else(void **state)
{
    world *w = *state;
    load_library(w);
    redisContext *c = log_in(&w->state, "broker");
    static const char *const commands[] = {
        DANGEROUS,
        "FUNCTION LOAD x",
        "FUNCTION DELETE maasq1",
        "FUNCTION LIST",
        "DEL {mq:0}:owner",
        "EXPIRE {mq:0}:owner 1",
        "GET other",
        "SET other x",
        "HSET other f v",
        "HGETALL mq:b:x",
        "SET mq:instance2 x",
        "FCALL mq1_put_large 1 other x 1000",
        "EXISTS other",
        NULL,
    };
    refused(c, commands);
    redisFree(c);
}

static void a_function_reaches_no_key_that_its_caller_may_not(void **state)
{
    world *w = *state;
    load_library(w);
    redisContext *c = log_in(&w->state, "deploy");
    /* Undeclared keys inside a function are checked as well. */
    redisReply *reply = redisCommand(c, "FCALL mq1_acquire 1 {mq:0}:owner me there 1000 1");
    assert_non_null(reply);
    assert_int_equal(reply->type, REDIS_REPLY_ERROR);
    freeReplyObject(reply);
    reply = redisCommand(c, "FCALL mq1_version 0");
    assert_int_equal(reply->type, REDIS_REPLY_INTEGER);
    freeReplyObject(reply);
    redisFree(c);
}

static void the_dashboard_reads_records_and_counters_and_no_payloads(void **state)
{
    world *w = *state;
    load_library(w);
    redisContext *c = log_in(&w->state, "dashboard");
    static const char *const may[] = {
        "PING",
        "INFO",
        "TIME",
        "GET mq:instance",
        "HGETALL {mq:0}:owner",
        "SMEMBERS {mq:0}:segments",
        "HSCAN {mq:0}:live:0 0",
        "HGETALL {mq:0}:count",
        "HGET {mq:0}:reg m",
        "HLEN {mq:0}:dead",
        "XREVRANGE {mq:0}:events + - COUNT 5",
        NULL,
    };
    static const char *const may_not[] = {
        DANGEROUS,
        "HSET {mq:0}:owner owner me",
        "HDEL {mq:0}:count x",
        "SET mq:instance x",
        "DEL {mq:0}:live:0",
        "XADD {mq:0}:events * e x",
        "HGETALL {mq:0}:req",
        "HGETALL {mq:0}:dead:req",
        "GET {mq:0}:body:1.1:x",
        "GET {mq:0}:result:1.1:x",
        "HGETALL {mq:0}:done:1",
        "FCALL mq1_version 0",
        "FCALL_RO mq1_version 0",
        NULL,
    };
    allowed(c, may);
    refused(c, may_not);
    redisFree(c);
}

static void the_deploy_user_reads_and_writes_no_key(void **state)
{
    world *w = *state;
    redisContext *c = log_in(&w->state, "deploy");
    static const char *const may[] = {"PING", "FUNCTION LIST", NULL};
    static const char *const may_not[] = {
        "GET mq:instance", "HGETALL {mq:0}:owner",
        "SET x y",         "CONFIG GET *",
        "EVAL return_1 0", "FUNCTION FLUSH",
        "ACL LIST",        "INFO",
        "KEYS *",          NULL,
    };
    allowed(c, may);
    refused(c, may_not);
    redisFree(c);
}

static void the_replicas_user_replicates_and_nothing_else(void **state)
{
    world *w = *state;
    redisContext *c = log_in(&w->state, "replica");
    static const char *const may[] = {"PING", "REPLCONF listening-port 7", NULL};
    static const char *const may_not[] = {
        "GET mq:instance", "INFO",          "SET x y",        "FCALL mq1_version 0",
        "KEYS *",          "REPLICAOF a 1", "WAIT 0 1",       "CONFIG GET *",
        "FUNCTION LIST",   "ACL LIST",      "SUBSCRIBE news", NULL,
    };
    allowed(c, may);
    refused(c, may_not);
    redisFree(c);
}

static void workers_and_strangers_have_no_way_into_the_state(void **state)
{
    world *w = *state;
    redisContext *c = log_in(&w->state, NULL);
    static const char *const commands[] = {"PING", "GET mq:instance",     "HGETALL {mq:0}:owner",
                                           "INFO", "FCALL mq1_version 0", NULL};
    refused(c, commands);
    static const char *const logins[] = {"AUTH worker worker-password",
                                         "AUTH default default-password",
                                         "AUTH broker worker-password"};
    for (int i = 0; i < 3; i++) {
        redisReply *reply = redisCommand(c, logins[i]);
        assert_non_null(reply);
        assert_int_equal(reply->type, REDIS_REPLY_ERROR);
        freeReplyObject(reply);
    }
    refused(c, commands);
    redisFree(c);
}

/* ---- the blobs' server ---- */

static mq_blobs *open_blobs(world *w, const char *user)
{
    char url[320];
    mq_blobs *blobs = NULL;
    url_of(&w->blobs, user, url);
    assert_int_equal(mq_blobs_new(&blobs, url, NULL), MQ_OK);
    return blobs;
}

static void workers_store_blobs_and_the_broker_pins_them(void **state)
{
    world *w = *state;
    mq_blobs *worker = open_blobs(w, "worker");
    mq_blobs *broker = open_blobs(w, "broker");
    static uint8_t bytes[3 * MQ_BLOB_CHUNK_BYTES / 2];
    char hash[MQ_SHA256_HEX];
    mq_error err = {.text = ""};
    assert_int_equal(mq_blobs_put(worker, mq_span_of(bytes, sizeof bytes), hash, &err), MQ_OK);
    assert_int_equal(mq_blobs_put(worker, mq_span_of(bytes, sizeof bytes), hash, &err), MQ_OK);
    size_t size = 0;
    assert_int_equal(mq_blobs_find(worker, hash, &size, &err), MQ_OK);
    assert_int_equal(size, sizeof bytes);
    assert_int_equal(mq_blobs_pin(broker, hash, &err), MQ_OK);
    assert_int_equal(mq_blobs_unpin(broker, hash, &err), MQ_OK);
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_int_equal(mq_blobs_get(worker, hash, fd, &size, &err), MQ_OK);
    close(fd);
    assert_int_not_equal(mq_blobs_pin(worker, hash, &err), MQ_OK);
    assert_int_not_equal(mq_blobs_put(broker, mq_span_of(bytes, 10), hash, &err), MQ_OK);
    mq_blobs_free(worker);
    mq_blobs_free(broker);
}

static void a_worker_reaches_blob_keys_by_name_and_nothing_else(void **state)
{
    world *w = *state;
    redisContext *c = log_in(&w->blobs, "worker");
    static const char *const commands[] = {
        DANGEROUS,    "GET other",     "SET {mq:0}:owner x", "SET mq:instance x",
        "DEL mq:b:x", "UNLINK mq:b:x", "PERSIST mq:b:x",     "APPEND mq:b:x y",
        "INFO",       "FCALL x 0",     "FUNCTION LOAD x",    NULL,
    };
    refused(c, commands);
    redisFree(c);
    c = log_in(&w->blobs, NULL);
    refused(c, (const char *const[]){"GET mq:b:x", "PING", NULL});
    redisFree(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_the_deploy_user_loads_functions_and_the_broker_says_so,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_wrong_password_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(the_broker_may_do_everything_the_store_does, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(commits_are_there_again_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(the_broker_may_do_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(a_function_reaches_no_key_that_its_caller_may_not, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_dashboard_reads_records_and_counters_and_no_payloads,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(the_deploy_user_reads_and_writes_no_key, setup, teardown),
        cmocka_unit_test_setup_teardown(the_replicas_user_replicates_and_nothing_else, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(workers_and_strangers_have_no_way_into_the_state, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(workers_store_blobs_and_the_broker_pins_them, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_worker_reaches_blob_keys_by_name_and_nothing_else, setup,
                                        teardown),
    };
    return cmocka_run_group_tests_name("acl", tests, NULL, NULL);
}
