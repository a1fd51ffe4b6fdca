/* A real supervisor with real slot processes against a broker played by the test. This program is
 * all three: started with --broker it is a supervisor, with --slot a slot. */
#include "tests/worker/fake_broker.h"
#include "worker/slot/slot_main.h"

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

static void an_echo_job_gives_its_body_back(void **state)
{
    (void)state;
    char out[64];
    uint32_t w = fake_start(&f, "2", NULL);
    fake_wait_free(&f, w, 2);
    assert_int_equal(strlen(f.workers[w].fingerprint), 64);
    uint64_t grant = fake_job(&f, w, "echo", "{\"hello\":1}", 0);
    mq_msg_result_item r = fake_result(&f, grant, out, sizeof out);
    assert_true(mq_span_is(r.class, "ok"));
    assert_string_equal(out, "{\"hello\":1}");
    assert_int_equal(f.workers[w].jobs_seen, 1);
    fake_verdict(&f, w, grant, "ok");
    fake_wait_free(&f, w, 2);
}

static void many_jobs_in_one_message_all_come_back(void **state)
{
    (void)state;
    enum { JOBS = 40 };
    mq_msg_job_item items[JOBS];
    char bodies[JOBS * 8 + 1] = "";
    uint32_t w = fake_start(&f, "2", (const char *const[]){"--prefetch", "64", NULL});
    fake_wait_free(&f, w, 2);
    for (uint32_t i = 0; i < JOBS; i++) {
        items[i] = (mq_msg_job_item){.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                                     .epoch = 1,
                                     .grant = i + 1,
                                     .kind = mq_str("echo"),
                                     .len = 8};
        (void)snprintf(bodies + 8 * i, 9, "body%04u", i);
    }
    mq_msg_job m = {.jobs = items, .jobs_count = JOBS};
    fake_send(&f, &f.workers[w], MQ_CMD_job, &m, mq_str(bodies));
    bool seen[JOBS + 1] = {false};
    for (uint32_t got = 0; got < JOBS;) {
        mq_msg_held_verdict v[JOBS];
        size_t at = 0;
        fake_expect(&f, MQ_CMD_result);
        uint32_t n = f.m.result.jobs_count;
        assert_in_range(n, 1, JOBS);
        for (uint32_t i = 0; i < n; i++) {
            const mq_msg_result_item *r = &f.m.result.jobs[i];
            assert_in_range(r->grant, 1, JOBS);
            if (mq_span_is(r->class, "ok")) {
                assert_int_equal(r->len, 8);
                assert_memory_equal(f.payload.data + at, bodies + 8 * (r->grant - 1), 8);
            } else { /* it had waited too long on a busy machine */
                assert_true(mq_span_is(r->class, "return"));
            }
            got += !seen[r->grant];
            seen[r->grant] = true;
            at += r->len;
            v[i] = (mq_msg_held_verdict){
                .id = r->id, .epoch = 1, .grant = r->grant, .verdict = mq_str("ok")};
        }
        assert_int_equal(at, f.payload.len);
        mq_msg_verdict answer = {.verdicts = v, .verdicts_count = n};
        fake_send(&f, &f.workers[w], MQ_CMD_verdict, &answer, (mq_span){0});
    }
    fake_wait_free(&f, w, 66); /* they were quick: it asks for more */
}

static void a_crash_is_reported_with_its_signal_and_the_slot_comes_back(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "crash", "{\"signal\":11}", 0);
    mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "crash"));
    assert_true(mq_span_is(r.error, "signal 11"));
    fake_verdict(&f, w, grant, "ok");
    fake_wait_free(&f, w, 1);
    char out[16];
    r = fake_result(&f, fake_job(&f, w, "echo", "again", 0), out, sizeof out);
    assert_string_equal(out, "again");
}

static void kill_9_of_a_slot_is_noticed_and_reported(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "sleep", "{\"ms\":600000,\"progress\":true}", 0);
    fake_expect(&f, MQ_CMD_progress); /* it runs */
    pid_t pid = fake_slot_pid(&f, w);
    assert_true(pid > 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "crash"));
    assert_true(mq_span_is(r.error, "signal 9"));
}

static void an_unknown_kind_and_a_bad_body_fail_for_good(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    mq_msg_result_item r = fake_result(&f, fake_job(&f, w, "no-such-kind", "", 0), NULL, 0);
    assert_true(mq_span_is(r.class, "fatal"));
    assert_true(mq_span_is(r.code, "unsupported"));
    fake_wait_free(&f, w, 1);
    r = fake_result(&f, fake_job(&f, w, "sleep", "{\"ms\":\"x\"}", 0), NULL, 0);
    assert_true(mq_span_is(r.class, "fatal"));
    assert_true(r.error.len > 0);
}

static void cancel_and_max_run_stop_a_running_job(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "sleep", "{\"ms\":600000,\"progress\":true}", 0);
    fake_expect(&f, MQ_CMD_progress);
    fake_beaten(&f, w, grant, "cancel");
    mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "cancelled"));
    fake_verdict(&f, w, grant, "ok");
    fake_wait_free(&f, w, 1);
    grant = fake_job(&f, w, "sleep", "{\"ms\":600000}", 300);
    r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "retry"));
    assert_true(mq_span_is(r.code, "timeout"));
}

static void a_stale_lease_ends_the_job_without_a_result(void **state)
{
    (void)state;
    char out[16];
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "sleep", "{\"ms\":600000,\"progress\":true}", 0);
    fake_expect(&f, MQ_CMD_progress);
    fake_beaten(&f, w, grant, "stale");
    fake_wait_free(&f, w, 1);
    uint64_t next = fake_job(&f, w, "echo", "next", 0);
    fake_expect(&f, MQ_CMD_result);
    assert_int_equal(f.m.result.jobs_count, 1);
    assert_int_equal(f.m.result.jobs[0].grant, next);
    (void)out;
}

static void a_result_is_sent_again_until_its_verdict(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "echo", "x", 0);
    (void)fake_result(&f, grant, NULL, 0);
    (void)fake_result(&f, grant, NULL, 0); /* no verdict: again */
    fake_verdict(&f, w, grant, "dup");
    uint64_t next = fake_job(&f, w, "echo", "y", 0);
    (void)fake_result(&f, next, NULL, 0);
    fake_verdict(&f, w, next, "ok");
    for (uint64_t beats = f.workers[w].beats; f.workers[w].beats < beats + 3;) {
        fake_expect(&f, MQ_CMD_beat);
        assert_int_equal(f.m.beat.jobs_count, 0);
    }
}

static void beats_go_on_while_a_slot_computes(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "sleep", "{\"ms\":3000}", 0);
    uint64_t with_job = 0;
    while (with_job < 5) {
        fake_expect(&f, MQ_CMD_beat);
        with_job += f.m.beat.jobs_count == 1 && f.m.beat.jobs[0].grant == grant;
    }
    mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "ok"));
}

static void a_lost_broker_is_found_again_with_what_is_held(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "sleep", "{\"ms\":600000,\"progress\":true}", 0);
    fake_expect(&f, MQ_CMD_progress);
    zmq_close(f.router);
    f.workers[w].is_registered = false;
    f.workers[w].identity_len = 0;
    fake_bind(&f);
    fake_expect(&f, MQ_CMD_ready);
    assert_int_equal(f.m.ready.held_count, 1);
    assert_int_equal(f.m.ready.held[0].grant, grant);
}

static void a_second_broker_is_tried_when_the_first_does_not_answer(void **state)
{
    (void)state;
    char list[512];
    (void)snprintf(list, sizeof list, "ipc://%s/nobody.sock,%s", f.dir, f.endpoint);
    uint32_t w = fake_start(&f, "1", (const char *const[]){"--broker", list, NULL});
    fake_wait_free(&f, w, 1);
}

static void sigterm_drains_and_exits_cleanly(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "sleep", "{\"ms\":500,\"progress\":true}", 0);
    fake_expect(&f, MQ_CMD_progress);
    assert_int_equal(kill(f.workers[w].pid, SIGTERM), 0);
    mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "ok")); /* what runs is finished */
    assert_int_equal(f.workers[w].free, 0);
    fake_verdict(&f, w, grant, "ok");
    fake_expect(&f, MQ_CMD_bye);
    int status = fake_reap(&f, w);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void a_drain_past_its_deadline_returns_the_job(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", (const char *const[]){"--drain-ms", "300", NULL});
    fake_wait_free(&f, w, 1);
    uint64_t grant = fake_job(&f, w, "sleep", "{\"ms\":600000,\"progress\":true}", 0);
    fake_expect(&f, MQ_CMD_progress);
    assert_int_equal(kill(f.workers[w].pid, SIGTERM), 0);
    mq_msg_result_item r = fake_result(&f, grant, NULL, 0);
    assert_true(mq_span_is(r.class, "return"));
    fake_verdict(&f, w, grant, "ok");
    fake_expect(&f, MQ_CMD_bye);
    int status = fake_reap(&f, w);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void slots_die_with_their_supervisor(void **state)
{
    (void)state;
    uint32_t w = fake_start(&f, "1", NULL);
    fake_wait_free(&f, w, 1);
    pid_t slot = fake_slot_pid(&f, w);
    assert_int_equal(kill(f.workers[w].pid, SIGKILL), 0);
    (void)fake_reap(&f, w);
    int64_t until_ms = mq_clock_mono_ms() + FAKE_WAIT_MS;
    char path[64], line[256] = "";
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)slot);
    for (;;) { /* gone, or a zombie that nobody has collected yet */
        FILE *file = fopen(path, "r");
        bool is_there = file != NULL && fgets(line, sizeof line, file) != NULL;
        if (file != NULL) {
            (void)fclose(file);
        }
        if (!is_there || strstr(line, ") Z ") != NULL || strstr(line, ") X ") != NULL) {
            return;
        }
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(5);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_broker, close_broker)

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--slot") == 0) {
        return mq_slot_main((int)strtol(argv[2], NULL, 10));
    }
    if (argc > 2 && strcmp(argv[1], "--broker") == 0) {
        return fake_worker_main(argc, argv);
    }
    const struct CMUnitTest tests[] = {
        TEST(an_echo_job_gives_its_body_back),
        TEST(many_jobs_in_one_message_all_come_back),
        TEST(a_crash_is_reported_with_its_signal_and_the_slot_comes_back),
        TEST(kill_9_of_a_slot_is_noticed_and_reported),
        TEST(an_unknown_kind_and_a_bad_body_fail_for_good),
        TEST(cancel_and_max_run_stop_a_running_job),
        TEST(a_stale_lease_ends_the_job_without_a_result),
        TEST(a_result_is_sent_again_until_its_verdict),
        TEST(beats_go_on_while_a_slot_computes),
        TEST(a_lost_broker_is_found_again_with_what_is_held),
        TEST(a_second_broker_is_tried_when_the_first_does_not_answer),
        TEST(sigterm_drains_and_exits_cleanly),
        TEST(a_drain_past_its_deadline_returns_the_job),
        TEST(slots_die_with_their_supervisor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
