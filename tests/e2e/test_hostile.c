/* What a broker stands: peers that lie, flood, vanish and speak nonsense, and stores that stop. A
 * real broker and real redis-servers; the peers are raw sockets. */
#include "tests/e2e/world.h"

enum {
    FLOOD_MESSAGES = 200,
    FLOOD_JOBS = 500, /* of one message */
    FLOOD_RSS_MAX = 1 << 30,
    JUNK_MESSAGES = 20000,
};

static int start(void **state)
{
    (void)state;
    sys_options options = {.workers = 0, .lease_ms = 4000, .beat_ms = 1000};
    context = zmq_ctx_new();
    sys_start(&system_, &options);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    sys_stop(&system_, false);
    if (peers_open == 0) {
        zmq_ctx_term(context);
    }
    return 0;
}

/* ---- nonsense ---- */

static void malformed_messages_are_dropped_or_refused_by_name(void **state)
{
    (void)state;
    peer p;
    open_client(&p);
    mq_span none = {0};
    uint8_t future[4] = {'M', 'Q', 9, MQ_CMD_hello}, head[4];
    mq_wire_head(MQ_CMD_submit, head);
    mq_span h = mq_span_of(head, 4), f = mq_span_of(future, 4);
    peer_send_raw(&p, (mq_span[]){h, none, none, none}, 4);
    peer_send_raw(&p, (mq_span[]){h, none}, 2);
    peer_send_raw(&p, (mq_span[]){none}, 1);
    peer_send_raw(&p, (mq_span[]){mq_str("XXXX"), none, none}, 3);
    peer_send_raw(&p, (mq_span[]){f, none, none}, 3);
    peer_await(&p, MQ_CMD_error); /* the only one of them that is answered */
    SAYS(p.m.error.code, "version");
    peer_send_raw(&p, (mq_span[]){h, mq_str("\xdd\x10\x00\x00\x00"), none}, 3);
    peer_await(&p, MQ_CMD_error);
    char id[MQ_ULID_SIZE];
    mq_ulid_new(id);
    mq_msg_submit_job job = {.id = mq_str(id), .kind = mq_str("x"), .len = UINT64_MAX};
    mq_msg_submit_job two[] = {job, {.id = mq_str(id), .kind = mq_str("x"), .len = 5}};
    mq_msg_submit message = {.rid = 3, .jobs = two, .jobs_count = 2};
    peer_send(&p, MQ_CMD_submit, &message, mq_str("four")); /* their sum overflows to 4 */
    peer_await(&p, MQ_CMD_error);
    assert_int_equal(p.m.error.rid, 3);
    SAYS(p.m.error.code, "bad_format");
    peer_get(&p, 4, "no id", 1000); /* told at once, not "busy" */
    peer_await(&p, MQ_CMD_state);
    SAYS(p.m.state.verdict, "not_found");
    peer_hello(&p);
    peer_close(&p);
}

static void a_routing_id_of_ones_own_choice_is_ignored(void **state)
{
    (void)state;
    peer stranger, p;
    peer_open(&stranger, context, system_.front, "myself");
    mq_msg_hello hello = {.role = mq_str("client"), .version_min = 1, .version_max = 1};
    peer_send(&stranger, MQ_CMD_hello, &hello, (mq_span){0});
    open_client(&p);
    json_t *status = query(&p, "status"); /* by then the stranger's hello has been read */
    assert_true(json_integer_value(json_object_get(json_object_get(status, "broker"), "dropped")) >
                0);
    json_decref(status);
    assert_false(peer_receive(&stranger, 0));
    peer_close(&stranger);
    peer_close(&p);
}

static void a_flood_of_junk_leaves_others_their_service(void **state)
{
    (void)state;
    peer junk, p;
    peer_open(&junk, context, system_.front, NULL);
    for (int i = 0; i < JUNK_MESSAGES; i++) {
        peer_send_raw(&junk, (mq_span[]){mq_str("junk")}, 1);
    }
    open_client(&p);
    char id[MQ_ULID_SIZE];
    submit(&p, "nobody-runs-this", id);
    peer_close(&junk);
    peer_close(&p);
}

static long rss_bytes(pid_t pid)
{
    char path[64];
    long pages = 0, resident = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &pages, &resident), 2);
    (void)fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

static void send_batch(peer *p, uint64_t rid)
{
    static char ids[FLOOD_JOBS][MQ_ULID_SIZE];
    static mq_msg_submit_job jobs[FLOOD_JOBS];
    static uint8_t bodies[FLOOD_JOBS * 100];
    for (int i = 0; i < FLOOD_JOBS; i++) {
        mq_ulid_new(ids[i]);
        jobs[i] = (mq_msg_submit_job){
            .id = mq_str(ids[i]), .kind = mq_str("flood"), .len = sizeof bodies / FLOOD_JOBS};
    }
    mq_msg_submit submit = {.rid = rid, .jobs = jobs, .jobs_count = FLOOD_JOBS};
    peer_send(p, MQ_CMD_submit, &submit, mq_span_of(bodies, sizeof bodies));
}

static int64_t submitted(peer *p)
{
    json_t *status = query(p, "status");
    int64_t count =
        json_integer_value(json_object_get(json_object_get(status, "counters"), "submitted"));
    json_decref(status);
    return count;
}

static void a_client_that_floods_and_never_reads_is_served_within_bounds(void **state)
{
    (void)state;
    peer flood, p;
    open_client(&flood);
    open_client(&p);
    int64_t before = submitted(&p);
    for (uint64_t i = 0; i < FLOOD_MESSAGES; i++) {
        send_batch(&flood, i);
    }
    int64_t until_ms = mq_clock_mono_ms() + 4 * PEER_WAIT_MS;
    int64_t count = 0;
    while (count < FLOOD_MESSAGES * FLOOD_JOBS) { /* another client is answered all the while */
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(20);
        count = submitted(&p) - before;
    }
    assert_int_equal(count, FLOOD_MESSAGES * FLOOD_JOBS);
    assert_true(rss_bytes(sys_pid(&system_, SYS_BROKER, 0)) < FLOOD_RSS_MAX);
    peer_close(&flood);
    peer_close(&p);
}

/* ---- gone peers ---- */

static void a_get_of_a_client_that_is_gone_hides_no_end_from_others(void **state)
{
    (void)state;
    peer gone, p, worker;
    char id[2][MQ_ULID_SIZE];
    uint64_t seq = 0;
    open_client(&gone);
    open_client(&p);
    submit(&p, "gone", id[0]);
    peer_get(&gone, 1, id[0], 30000);
    peer_hello(&gone); /* the get has been read */
    peer_close(&gone);
    submit(&p, "gone", id[1]);
    peer_get(&p, 5, id[1], 30000);
    open_worker(&worker, MINE, "gone");
    for (int i = 0; i < 2; i++) {
        mq_msg_held held = take_job(&worker, MINE, &seq, (uint64_t)i, id[i]);
        send_result(&worker, MINE, &held, "ok");
        await_verdict(&worker, "ok");
    }
    int64_t from_ms = mq_clock_mono_ms();
    peer_await(&p, MQ_CMD_state);
    SAYS(p.m.state.state, "succeeded");
    assert_true(mq_clock_mono_ms() - from_ms < 20000); /* by the end itself, not by the time-out */
    peer_close(&worker);
    peer_close(&p);
}

/* ---- workers that lie ---- */

static void a_result_counts_only_from_the_holder_of_the_lease(void **state)
{
    (void)state;
    peer p, worker, liar;
    char id[MQ_ULID_SIZE];
    uint64_t seq = 0;
    open_client(&p);
    submit(&p, "lie", id);
    open_worker(&worker, MINE, "lie");
    mq_msg_held held = take_job(&worker, MINE, &seq, 0, id);
    open_worker(&liar, OTHERS, "other");
    send_result(&liar, OTHERS, &held, "ok");
    await_verdict(&liar, "stale");
    mq_msg_held guess = held;
    guess.grant++;
    send_result(&liar, MINE, &guess, "ok");
    await_verdict(&liar, "stale");
    guess.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV");
    send_result(&liar, OTHERS, &guess, "ok");
    await_verdict(&liar, "unknown");
    peer_beat(&liar, OTHERS, 1, 0, 0, &held); /* claims to hold it */
    peer_await(&liar, MQ_CMD_beaten);
    SAYS(liar.m.beaten.verdicts[0].verdict, "stale");
    mq_msg_lost lost = {.id = held.id, .epoch = held.epoch, .grant = held.grant, .gang_epoch = 1};
    peer_send(&liar, MQ_CMD_lost, &lost, (mq_span){0});
    mq_msg_checkpoint checkpoint = {.id = held.id, .epoch = held.epoch, .grant = held.grant};
    checkpoint.blob = mq_str("not a hash");
    peer_send(&liar, MQ_CMD_checkpoint, &checkpoint, (mq_span){0});
    check_state(&p, id, "leased");
    send_result(&worker, MINE, &held, "ok");
    await_verdict(&worker, "ok");
    check_state(&p, id, "succeeded");
    peer_close(&liar);
    peer_close(&worker);
    peer_close(&p);
}

static void a_publication_with_a_bad_name_ends_its_job_and_changes_nothing(void **state)
{
    (void)state;
    peer p, worker;
    char id[MQ_ULID_SIZE];
    uint64_t seq = 0;
    open_client(&p);
    open_worker(&worker, MINE, "publish");
    static const char *const names[] = {"", "a b", "a@3", "../a", "\xff", "line\nline"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        submit(&p, "publish", id);
        mq_msg_held held = take_job(&worker, MINE, &seq, i, id);
        mq_msg_published thing = {
            .type = mq_str("model"), .name = mq_str(names[i]), .meta = mq_str("{}")};
        mq_msg_result_item item = {.id = held.id,
                                   .epoch = held.epoch,
                                   .grant = held.grant,
                                   .class = mq_str("ok"),
                                   .publish = &thing,
                                   .publish_count = 1};
        peer_result(&worker, MINE, &item, (mq_span){0});
        await_verdict(&worker, "ok");
        check_state(&p, id, "dead");
    }
    json_t *models = query(&p, "models");
    assert_int_equal(json_array_size(json_object_get(models, "models")), 0);
    json_decref(models);
    peer_close(&worker);
    peer_close(&p);
}

static void texts_that_are_no_json_spoil_no_answer(void **state)
{
    (void)state;
    peer p, worker;
    char id[MQ_ULID_SIZE];
    uint64_t seq = 0;
    open_client(&p);
    submit(&p, "spoil", id);
    open_worker(&worker, MINE, "spoil");
    mq_msg_held held = take_job(&worker, MINE, &seq, 0, id);
    held.progress = mq_str("{} , \"injected\": {}");
    peer_beat(&worker, MINE, ++seq, 0, 1, &held);
    mq_msg_progress progress = {.id = held.id,
                                .epoch = held.epoch,
                                .grant = held.grant,
                                .progress = mq_str("{\"a\":\"\xff\"}"),
                                .log = mq_str("\xff\"\n")};
    peer_send(&worker, MQ_CMD_progress, &progress, (mq_span){0});
    peer_beat(&worker, MINE, ++seq, 0, 1, &held);
    peer_await(&worker, MQ_CMD_beaten);
    json_decref(query(&p, "workers"));
    json_decref(query(&p, "jobs"));
    mq_msg_published thing = {
        .type = mq_str("model"), .name = mq_str("spoiled"), .meta = mq_str("{]}")};
    mq_msg_result_item item = {.id = held.id,
                               .epoch = held.epoch,
                               .grant = held.grant,
                               .class = mq_str("ok"),
                               .publish = &thing,
                               .publish_count = 1};
    peer_result(&worker, MINE, &item, (mq_span){0});
    await_verdict(&worker, "ok");
    json_t *models = query(&p, "models");
    assert_int_equal(json_array_size(json_object_get(models, "models")), 1);
    json_decref(models);
    peer_close(&worker);
    peer_close(&p);
}

static void a_text_above_its_limit_is_refused_by_name(void **state)
{
    (void)state;
    peer worker;
    static uint8_t header[80000] = "\x81\xa4jobs\x91\x81\xa7publish\x91\x81\xa4meta\xdb";
    uint8_t head[4];
    size_t at = strlen((const char *)header);
    const uint8_t len[4] = {0, 1, 0x11, 0x70}; /* 70,000 */
    memcpy(header + at, len, sizeof len);
    memset(header + at + sizeof len, 'x', 70000);
    open_worker(&worker, MINE, "large");
    mq_wire_head(MQ_CMD_result, head);
    peer_send_raw(
        &worker, (mq_span[]){mq_span_of(head, 4), mq_span_of(header, at + sizeof len + 70000), {0}},
        3);
    peer_await(&worker, MQ_CMD_error);
    char text[513];
    assert_true(mq_span_copy(worker.m.error.text, text, sizeof text));
    assert_non_null(strstr(text, "meta"));
    peer_close(&worker);
}

/* ---- stores that stop ---- */

/* As a client does it: while the shard is not served the answer is `busy`, then it sends again. */
static void send_until_taken(peer *p, const mq_msg_submit *submit, mq_span payload)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    do {
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("no submitted came in %d ms", PEER_WAIT_MS);
        }
        peer_send(p, MQ_CMD_submit, submit, payload);
        do {
            assert_true(peer_receive(p, PEER_WAIT_MS));
        } while (p->command != MQ_CMD_submitted && p->command != MQ_CMD_error);
        if (p->command == MQ_CMD_error) {
            assert_true(mq_span_is(p->m.error.code, "busy"));
            mq_clock_sleep_ms(100);
        }
    } while (p->command == MQ_CMD_error);
}

static void a_store_that_hangs_and_goes_on_loses_nothing_acknowledged(void **state)
{
    (void)state;
    peer p;
    char id[3][MQ_ULID_SIZE];
    open_client(&p);
    submit(&p, "hang", id[0]);
    int before = log_count("shard not served");
    kill(sys_pid(&system_, SYS_STATE_REDIS, 0), SIGSTOP);
    peer_submit(&p, "hang", mq_str("body"), id[1]); /* its commit is in the dark */
    await_log("shard not served", before);
    kill(sys_pid(&system_, SYS_STATE_REDIS, 0), SIGCONT);
    mq_msg_submit_job job = {.id = mq_str(id[1]), .kind = mq_str("hang"), .len = 4};
    mq_msg_submit again = {.rid = 2, .jobs = &job, .jobs_count = 1};
    send_until_taken(&p, &again, mq_str("body"));
    mq_span verdict = p.m.submitted.jobs[0].verdict;
    assert_true(mq_span_is(verdict, "ok") || mq_span_is(verdict, "dup"));
    submit(&p, "hang", id[2]);
    for (int i = 0; i < 3; i++) {
        check_state(&p, id[i], "queued");
    }
    peer_close(&p);
}

static long cpu_ticks(pid_t pid)
{
    char path[64];
    long user = 0, kernel = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(
        fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &kernel),
        2);
    (void)fclose(file);
    return user + kernel;
}

static void a_broker_without_its_store_waits_and_does_not_spin(void **state)
{
    (void)state;
    enum { LOOK_MS = 3000 };
    peer p;
    char id[MQ_ULID_SIZE];
    pid_t broker = sys_pid(&system_, SYS_BROKER, 0);
    open_client(&p);
    submit(&p, "away", id);
    peer_get(&p, 6, id, 1000); /* runs out while the store is away */
    int before = log_count("shard not served");
    sys_kill(&system_, SYS_STATE_REDIS, 0, SIGKILL);
    await_log("shard not served", before);
    mq_clock_sleep_ms(LOOK_MS); /* past the tenure and the get's time */
    long from = cpu_ticks(broker);
    mq_clock_sleep_ms(LOOK_MS);
    long used = cpu_ticks(broker) - from;
    assert_true(used * 1000 / sysconf(_SC_CLK_TCK) < LOOK_MS / 3);
    sys_spawn(&system_, SYS_STATE_REDIS, 0);
    peer_await(&p, MQ_CMD_state); /* late, but answered */
    SAYS(p.m.state.state, "queued");
    submit(&p, "away", id);
    peer_close(&p);
}

static void a_blob_store_that_is_away_holds_up_only_what_needs_it(void **state)
{
    (void)state;
    peer p, worker;
    char id[2][MQ_ULID_SIZE];
    uint64_t seq = 0;
    open_client(&p);
    submit(&p, "blob", id[0]);
    open_worker(&worker, MINE, "blob");
    mq_msg_held held = take_job(&worker, MINE, &seq, 0, id[0]);
    sys_kill(&system_, SYS_BLOB_REDIS, 0, SIGKILL);
    mq_span hash = mq_str("00000000000000000000000000000000000000000000000000000000000000ff");
    mq_msg_result_item item = {.id = held.id,
                               .epoch = held.epoch,
                               .grant = held.grant,
                               .class = mq_str("ok"),
                               .blobs = &hash,
                               .blobs_count = 1};
    peer_result(&worker, MINE, &item, (mq_span){0}); /* waits for its pin */
    submit(&p, "blob", id[1]);                       /* while others are served */
    check_state(&p, id[0], "leased");
    sys_spawn(&system_, SYS_BLOB_REDIS, 0);
    await_verdict(&worker, "missing"); /* the store is back and has no such blob */
    assert_int_equal(worker.m.verdict.verdicts[0].missing_count, 1);
    send_result(&worker, MINE, &held, "ok");
    await_verdict(&worker, "ok");
    check_state(&p, id[0], "succeeded");
    peer_close(&worker);
    peer_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_messages_are_dropped_or_refused_by_name),
        cmocka_unit_test(a_routing_id_of_ones_own_choice_is_ignored),
        cmocka_unit_test(a_flood_of_junk_leaves_others_their_service),
        cmocka_unit_test(a_get_of_a_client_that_is_gone_hides_no_end_from_others),
        cmocka_unit_test(a_result_counts_only_from_the_holder_of_the_lease),
        cmocka_unit_test(a_publication_with_a_bad_name_ends_its_job_and_changes_nothing),
        cmocka_unit_test(texts_that_are_no_json_spoil_no_answer),
        cmocka_unit_test(a_text_above_its_limit_is_refused_by_name),
        cmocka_unit_test(a_blob_store_that_is_away_holds_up_only_what_needs_it),
        cmocka_unit_test(a_store_that_hangs_and_goes_on_loses_nothing_acknowledged),
        cmocka_unit_test(a_broker_without_its_store_waits_and_does_not_spin),
        cmocka_unit_test(a_client_that_floods_and_never_reads_is_served_within_bounds),
    };
    if (getenv("MAASQ_ONLY") != NULL) {
        cmocka_set_test_filter(getenv("MAASQ_ONLY"));
    }
    return cmocka_run_group_tests(tests, start, stop);
}
