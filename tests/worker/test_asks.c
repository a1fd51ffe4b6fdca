/* What a job may ask of its host, through a real slot and supervisor: blobs, registry, log lines,
 * checkpoints, and what its result carries. The broker is played by the test. */
#include "tests/worker/fake_broker.h"
#include "worker/slot/slot_main.h"

enum { WAIT_MS = 30000 };

/* --- jobs --- */

/* Stores a blob, reads it back, publishes it, spawns a child. */
static mq_code run_publish(mq_host *host, mq_error *err)
{
    char hash[MQ_SHA256_HEX], missing[MQ_SHA256_HEX];
    mq_map_file map;
    static const char bytes[] = "the bytes of a model";
    mq_code code = host->ops->blob_put(host, mq_str(bytes), hash, err);
    if (code == MQ_OK) {
        code = host->ops->blob_open(host, hash, &map, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    bool is_equal = mq_span_is(map.bytes, bytes);
    mq_map_file_release(&map);
    memset(missing, 'a', 64);
    missing[64] = '\0';
    if (!is_equal || host->ops->blob_open(host, missing, &map, err) != MQ_E_NOT_FOUND) {
        return mq_fail(err, MQ_E_CORRUPT, "blobs: %s", err->text);
    }
    const char *blobs[] = {hash};
    mq_publish p = {
        .type = "model", .name = "m", .meta = mq_str("{\"x\":1}"), .blobs = blobs, .blob_count = 1};
    mq_spawn child = {.kind = "echo", .model = "", .body = mq_str("child body")};
    host->ops->log(host, mq_str("a line"));
    code = host->ops->publish(host, &p, err);
    if (code == MQ_OK) {
        code = host->ops->spawn(host, &child, err);
    }
    return code == MQ_OK ? host->ops->result(host, mq_str(hash), err) : code;
}

static mq_code run_query(mq_host *host, mq_error *err)
{
    mq_buf json;
    mq_buf_init(&json, 4096);
    mq_code code = host->ops->query(host, "model", "m@prod", &json, err);
    if (code == MQ_OK) {
        code = host->ops->result(host, mq_buf_span(&json), err);
    }
    mq_buf_release(&json);
    return code;
}

static mq_code run_checkpoints(mq_host *host, mq_error *err)
{
    char blob[65];
    mq_roster r;
    memset(blob, 'b', 64);
    blob[64] = '\0';
    host->ops->roster(host, &r);
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    for (uint64_t step = host->checkpoint_step + 10; step <= 50; step += 10) {
        mq_code code = host->ops->checkpoint(host, r.epoch, step, "chain", blob, mq_str("{}"), err);
        if (code != MQ_OK) {
            return code;
        }
    }
    while (host->ops->checkpointed(host) < 50) {
        mq_code code = host->ops->check(host, err);
        if (code != MQ_OK || mq_clock_mono_ms() > until_ms) {
            return code != MQ_OK ? code : mq_fail(err, MQ_E_TIMEOUT, "no checkpoint");
        }
        mq_clock_sleep_ms(2);
    }
    return host->ops->result(host, mq_str(host->checkpoint_chain), err);
}

static mq_code run_facts(mq_host *host, mq_error *err)
{
    char text[512];
    int n = snprintf(text, sizeof text, "%s %s %u %s %s openblas=%s secret=%s", host->job_id,
                     host->kind, host->attempt, host->model, host->model_blob,
                     getenv("OPENBLAS_NUM_THREADS") == NULL ? "" : getenv("OPENBLAS_NUM_THREADS"),
                     getenv("MAASQ_SECRET") == NULL ? "none" : "seen");
    return host->ops->result(host, mq_span_of(text, (size_t)n), err);
}

static mq_code run_limits(mq_host *host, mq_error *err)
{
    static uint8_t big[70000];
    mq_publish p = {.type = "model", .name = "m", .meta = mq_span_of(big, sizeof big)};
    mq_publish bad = {.type = "model", .name = "../m"};
    mq_spawn child = {.kind = "echo", .model = "", .body = mq_span_of(big, 60000)};
    if (host->ops->publish(host, &p, err) != MQ_E_LIMIT ||
        host->ops->publish(host, &bad, err) != MQ_E_ARG) {
        return mq_fail(err, MQ_E_INTERNAL, "publish took what it should refuse");
    }
    mq_code code = MQ_OK;
    uint32_t count = 0;
    for (; code == MQ_OK && count <= MQ_SPAWN_MAX; count++) {
        code = host->ops->spawn(host, &child, err);
    }
    return code == MQ_E_LIMIT ? mq_fail(err, MQ_E_ARG, "refused at the limit")
                              : mq_fail(err, MQ_E_INTERNAL, "spawn took %u", count);
}

static mq_code run_memory(mq_host *host, mq_error *err)
{
    void *p = malloc((size_t)4 << 30);
    if (p != NULL) {
        free(p);
        return mq_fail(err, MQ_E_INTERNAL, "4 GiB were given");
    }
    return host->memory_bytes_max < ((size_t)2 << 30) ? host->ops->result(host, mq_str("no"), err)
                                                      : MQ_E_INTERNAL;
}

/* Breaks the slot protocol in the way that body says. */
static mq_code run_rogue(mq_host *host, mq_error *err)
{
    static const uint8_t too_long[8] = {0xff, 0xff, 0xff, 0xff, MQ_FRAME_done};
    static const uint8_t unknown[8] = {0, 0, 0, 0, 200};
    static const uint8_t not_a_slots[8] = {0, 0, 0, 0, MQ_FRAME_run};
    static const uint8_t cut[16] = {4, 0, 0, 0, MQ_FRAME_query};
    static const uint8_t second_hello[12] = {4, 0, 0, 0, MQ_FRAME_hello};
    static const uint8_t wrong_run[32] = {24, 0, 0, 0, MQ_FRAME_done, 0, 0, 0, 99};
    static const struct {
        const uint8_t *bytes;
        size_t len;
    } ways[] = {{too_long, 8}, {unknown, 8},       {not_a_slots, 8},
                {cut, 12},     {second_hello, 12}, {wrong_run, 32}};
    size_t way = (size_t)(host->body.data[0] - '0');
    assert_true(way < sizeof ways / sizeof ways[0]);
    assert_int_equal(write(3, ways[way].bytes, ways[way].len), ways[way].len);
    for (int64_t until_ms = mq_clock_mono_ms() + WAIT_MS; mq_clock_mono_ms() < until_ms;) {
        mq_clock_sleep_ms(10); /* to be killed */
    }
    return mq_fail(err, MQ_E_INTERNAL, "nobody minded");
}

static mq_code run_job(mq_host *host, mq_error *err)
{
    static const struct {
        const char *kind;
        mq_kind_run *run;
    } kinds[] = {{"publish", run_publish}, {"query", run_query},   {"checkpoints", run_checkpoints},
                 {"facts", run_facts},     {"limits", run_limits}, {"memory", run_memory},
                 {"rogue", run_rogue}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(host->kind, kinds[i].kind) == 0) {
            return kinds[i].run(host, err);
        }
    }
    return mq_fail(err, MQ_E_UNSUPPORTED, "%s", host->kind);
}

/* --- tests --- */

static fake_broker f;

static int open_broker(void **state)
{
    (void)state;
    fake_open(&f);
    return 0;
}

static int close_broker(void **state)
{
    (void)state;
    fake_close(&f);
    return 0;
}

static uint32_t start(const char *const *more)
{
    uint32_t w = fake_start(&f, "1", more);
    fake_wait_free(&f, w, 1);
    return w;
}

static void a_result_carries_what_was_published_and_spawned(void **state)
{
    (void)state;
    char hash[128];
    uint32_t w = start(NULL);
    uint64_t grant = fake_job(&f, w, "publish", "", 0);
    fake_expect(&f, MQ_CMD_progress);
    assert_true(mq_span_is(f.m.progress.log, "a line"));
    mq_msg_result_item r = fake_result(&f, grant, hash, sizeof hash);
    assert_true(mq_span_is(r.class, "ok"));
    assert_int_equal(r.publish_count, 1);
    assert_true(mq_span_is(r.publish[0].type, "model"));
    assert_true(mq_span_is(r.publish[0].name, "m"));
    assert_true(mq_span_is(r.publish[0].meta, "{\"x\":1}"));
    assert_int_equal(r.publish[0].blobs_count, 1);
    assert_true(mq_span_is(r.publish[0].blobs[0], hash));
    assert_int_equal(r.spawn_count, 1);
    assert_int_equal(r.spawn[0].id.len, 26);
    assert_true(mq_span_is(r.spawn[0].kind, "echo"));
    assert_true(mq_span_is(r.spawn[0].body, "child body"));
}

static void a_blob_that_the_store_lost_is_stored_again_and_the_result_resent(void **state)
{
    (void)state;
    char hash[128], path[400];
    uint32_t w = start(NULL);
    uint64_t grant = fake_job(&f, w, "publish", "", 0);
    (void)fake_result(&f, grant, hash, sizeof hash);
    (void)snprintf(path, sizeof path, "%s/blobs/%.2s/%s", f.dir, hash, hash);
    assert_int_equal(access(path, R_OK), 0);
    assert_int_equal(unlink(path), 0);
    mq_span missing[] = {mq_str(hash)};
    mq_msg_held_verdict v = {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                             .epoch = 1,
                             .grant = grant,
                             .verdict = mq_str("missing"),
                             .missing = missing,
                             .missing_count = 1};
    mq_msg_verdict m = {.verdicts = &v, .verdicts_count = 1};
    fake_send(&f, &f.workers[w], MQ_CMD_verdict, &m, (mq_span){0});
    mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "ok"));
    assert_int_equal(access(path, R_OK), 0);
    /* One that the worker never had cannot come back: the attempt failed. */
    char other[65];
    memset(other, 'c', 64);
    other[64] = '\0';
    missing[0] = mq_str(other);
    fake_send(&f, &f.workers[w], MQ_CMD_verdict, &m, (mq_span){0});
    do {
        r = fake_result(&f, grant, NULL, 0);
    } while (mq_span_is(r.class, "ok")); /* a resend that had been under way */
    assert_true(mq_span_is(r.class, "retry"));
    assert_true(mq_span_is(r.code, "missing"));
}

static void a_query_is_answered_by_the_broker(void **state)
{
    (void)state;
    char out[64];
    uint32_t w = start(NULL);
    uint64_t grant = fake_job(&f, w, "query", "", 0);
    fake_expect(&f, MQ_CMD_query);
    fake_expect(&f, MQ_CMD_query); /* unanswered, it is asked again */
    assert_true(mq_span_is(f.m.query.what, "model"));
    assert_true(mq_span_is(f.m.query.name, "m@prod"));
    mq_msg_answer a = {.rid = f.m.query.rid, .verdict = mq_str("ok")};
    fake_send(&f, f.from, MQ_CMD_answer, &a, mq_str("{\"name\":\"m\"}"));
    (void)fake_result(&f, grant, out, sizeof out);
    assert_string_equal(out, "{\"name\":\"m\"}");
    fake_verdict(&f, w, grant, "ok");
    grant = fake_job(&f, w, "query", "", 0);
    fake_expect(&f, MQ_CMD_query);
    a = (mq_msg_answer){
        .rid = f.m.query.rid, .verdict = mq_str("not_found"), .text = mq_str("no model m")};
    fake_send(&f, f.from, MQ_CMD_answer, &a, (mq_span){0});
    mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "fatal"));
    assert_true(mq_span_is(r.code, "not_found"));
    assert_true(mq_span_is(r.error, "no model m"));
}

static void of_many_checkpoints_the_newest_is_committed(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}};
    uint32_t w = start(NULL);
    fake_gang_job(&f, m, 1, 0, 3, "checkpoints", "");
    fake_expect(&f, MQ_CMD_checkpoint);
    assert_int_equal(f.m.checkpoint.step, 10);
    assert_int_equal(f.m.checkpoint.gang_epoch, 3);
    assert_int_equal(f.m.checkpoint.grant, m[0].grant);
    fake_expect(&f, MQ_CMD_checkpoint); /* unanswered, it is sent again */
    assert_int_equal(f.m.checkpoint.step, 10);
    mq_msg_checkpointed c = {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                             .grant = m[0].grant,
                             .step = 10,
                             .verdict = mq_str("ok")};
    fake_send(&f, &f.workers[w], MQ_CMD_checkpointed, &c, (mq_span){0});
    do {
        fake_expect(&f, MQ_CMD_checkpoint);
    } while (f.m.checkpoint.step == 10);
    assert_int_equal(f.m.checkpoint.step, 50); /* 20, 30 and 40 were replaced while it waited */
    c.step = 50;
    fake_send(&f, &f.workers[w], MQ_CMD_checkpointed, &c, (mq_span){0});
    mq_msg_result_item r = fake_result(&f, m[0].grant, NULL, 0);
    assert_true(mq_span_is(r.class, "ok"));
}

static void a_slot_knows_its_job_and_nothing_of_the_environment(void **state)
{
    (void)state;
    char out[256];
    assert_int_equal(setenv("MAASQ_SECRET", "s3cret", 1), 0);
    uint32_t w = start(NULL);
    assert_int_equal(unsetenv("MAASQ_SECRET"), 0);
    (void)fake_result(&f, fake_job(&f, w, "facts", "", 0), out, sizeof out);
    assert_string_equal(out, "01ARZ3NDEKTSV4RRFFQ69G5FAV facts 1   openblas=1 secret=none");
}

static void what_a_job_gives_is_limited(void **state)
{
    (void)state;
    uint32_t w = start(NULL);
    mq_msg_result_item r = fake_result(&f, fake_job(&f, w, "limits", "", 0), NULL, 0);
    assert_true(mq_span_is(r.class, "fatal"));
    assert_true(mq_span_is(r.error, "refused at the limit"));
}

static void a_slot_that_breaks_the_protocol_is_killed(void **state)
{
    (void)state;
    uint32_t w = start(NULL);
    for (int way = '0'; way <= '5'; way++) {
        char body[2] = {(char)way, '\0'};
        uint64_t grant = fake_job(&f, w, "rogue", body, 0);
        mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
        assert_true(mq_span_is(r.class, "crash"));
        assert_true(mq_span_is(r.error, "signal 9"));
        fake_verdict(&f, w, grant, "ok");
        fake_wait_free(&f, w, 1);
    }
    assert_true(mq_span_is(fake_result(&f, fake_job(&f, w, "facts", "", 0), NULL, 0).class, "ok"));
}

static void a_slot_stays_below_its_memory(void **state)
{
    (void)state;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    uint32_t w = start((const char *const[]){"--memory", "2G", NULL});
    mq_msg_result_item r = fake_result(&f, fake_job(&f, w, "memory", "", 0), NULL, 0);
    assert_true(mq_span_is(r.class, "ok"));
#endif
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_broker, close_broker)

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--slot") == 0) {
        return mq_slot_serve((int)strtol(argv[2], NULL, 10), run_job);
    }
    if (argc > 2 && strcmp(argv[1], "--broker") == 0) {
        return fake_worker_main(argc, argv);
    }
    const struct CMUnitTest tests[] = {
        TEST(a_result_carries_what_was_published_and_spawned),
        TEST(a_blob_that_the_store_lost_is_stored_again_and_the_result_resent),
        TEST(a_query_is_answered_by_the_broker),
        TEST(of_many_checkpoints_the_newest_is_committed),
        TEST(a_slot_knows_its_job_and_nothing_of_the_environment),
        TEST(what_a_job_gives_is_limited),
        TEST(a_slot_that_breaks_the_protocol_is_killed),
        TEST(a_slot_stays_below_its_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
