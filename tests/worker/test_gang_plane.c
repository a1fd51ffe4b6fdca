/* Members of a gang reach each other: real supervisors and slots, a broker played by the test. The
 * slots run the jobs at the top of this file. */
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/worker/fake_broker.h"
#include "worker/slot/slot_main.h"

enum { PIECE = 100000, WAIT_MS = 30000, MIB = 1 << 20 };

/* --- jobs --- */

static void fill(uint8_t *bytes, size_t len, uint32_t seat)
{
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)(i * 7 + seat * 31);
    }
}

/* Every member sends a piece to every other one and checks what it gets; members of one host write
 * their mark into the segment and wait for the others' marks. */
static mq_code exchange(mq_host *host, const mq_roster *r, uint32_t *same, mq_error *err)
{
    static uint8_t mine[PIECE], theirs[PIECE];
    uint32_t self = r->members[r->self].seat;
    mq_code code = MQ_OK;
    fill(mine, PIECE, self);
    for (uint32_t i = 0; code == MQ_OK && i < r->count; i++) {
        if (i != r->self) {
            code = host->ops->gang_send(host, r->epoch, r->members[i].seat, self,
                                        mq_span_of(mine, PIECE), err);
        }
    }
    host->ops->progress(host, mq_str("{\"sent\":true}"));
    for (uint32_t i = 1; code == MQ_OK && i < r->count; i++) {
        mq_gang_message m;
        code = host->ops->gang_recv(host, r->epoch, WAIT_MS, &m, err);
        if (code == MQ_OK) {
            fill(theirs, PIECE, m.from_seat);
            if (m.tag != m.from_seat || m.epoch != r->epoch ||
                !mq_span_eq(m.bytes, mq_span_of(theirs, PIECE))) {
                code = mq_fail(err, MQ_E_CORRUPT, "piece of seat %u is damaged", m.from_seat);
            }
        }
    }
    void *at = NULL;
    if (code == MQ_OK) {
        code = host->ops->segment(host, r->epoch, 64 * sizeof(uint64_t), WAIT_MS, &at, err);
    }
    _Atomic uint64_t *marks = at;
    if (code == MQ_OK) {
        atomic_store(&marks[self], r->epoch);
    }
    *same = 0;
    for (uint32_t i = 0; code == MQ_OK && i < r->count; i++) {
        *same += r->members[i].is_same_host;
        while (code == MQ_OK && r->members[i].is_same_host &&
               atomic_load(&marks[r->members[i].seat]) != r->epoch) {
            code = host->ops->check(host, err);
            if (host->ops->is_broken(host, r->epoch)) {
                code = mq_fail(err, MQ_E_STALE, "broken");
            }
        }
    }
    if (at != NULL) {
        host->ops->segment_release(host, at, 64 * sizeof(uint64_t));
    }
    return code;
}

/* Exchanges under every roster until one has body's number of members; then waits for it to break,
 * unless it is meant to be the last ("=N"). */
static mq_code run_exchange(mq_host *host, mq_error *err)
{
    char text[64];
    mq_roster r;
    uint32_t same = 0;
    bool is_last = host->body.len > 1 && host->body.data[0] == '=';
    mq_span_copy(host->body, text, sizeof text);
    unsigned long want = strtoul(text + is_last, NULL, 10);
    host->ops->roster(host, &r);
    for (;;) {
        mq_code code = exchange(host, &r, &same, err);
        while (code == MQ_OK && !(r.count == want) && !host->ops->is_broken(host, r.epoch)) {
            code = host->ops->check(host, err);
        }
        if (code == MQ_OK && r.count == want) {
            break;
        }
        if (code != MQ_OK && code != MQ_E_STALE) {
            return code;
        }
        code = host->ops->roster_wait(host, r.epoch, WAIT_MS, &r, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    int n = snprintf(text, sizeof text, "epoch=%llu count=%u same=%u", (unsigned long long)r.epoch,
                     r.count, same);
    return host->ops->result(host, mq_span_of(text, (size_t)n), err);
}

/* The lower seat sends body's number of MiB without receiving; the other receives after it was told
 * by the first piece, slowly at first. */
static mq_code run_flood(mq_host *host, mq_error *err)
{
    char text[64];
    mq_roster r;
    mq_code code = MQ_OK;
    host->ops->roster(host, &r);
    mq_span_copy(host->body, text, sizeof text);
    unsigned long count = strtoul(text, NULL, 10);
    uint8_t *bytes = malloc(MIB);
    fill(bytes, MIB, 0);
    for (uint32_t i = 0; code == MQ_OK && i < count && r.self == 0; i++) {
        memcpy(bytes, &i, sizeof i);
        code =
            host->ops->gang_send(host, r.epoch, r.members[1].seat, i, mq_span_of(bytes, MIB), err);
    }
    if (r.self == 1) {
        mq_clock_sleep_ms(300); /* let it fill up; nothing depends on how far it got */
    }
    for (uint32_t i = 0; code == MQ_OK && i < count && r.self == 1; i++) {
        mq_gang_message m;
        code = host->ops->gang_recv(host, r.epoch, WAIT_MS, &m, err);
        memcpy(bytes, &i, sizeof i);
        if (code == MQ_OK && (m.tag != i || !mq_span_eq(m.bytes, mq_span_of(bytes, MIB)))) {
            code = mq_fail(err, MQ_E_CORRUPT, "piece %u", i);
        }
    }
    free(bytes);
    return code == MQ_OK ? host->ops->result(host, mq_str("flooded"), err) : code;
}

static mq_code run_job(mq_host *host, mq_error *err)
{
    if (strcmp(host->kind, "exchange") == 0) {
        return run_exchange(host, err);
    }
    if (strcmp(host->kind, "flood") == 0) {
        return run_flood(host, err);
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

static void start(uint32_t count, const char *slots, const char *const *more)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t w = fake_start(&f, slots, more);
        fake_wait_free(&f, w, strtoul(slots, NULL, 10));
    }
}

/* Serves until all these members have a result, and checks each against wants[], or all against
 * wants[0] when there is only one. */
static void expect_each(const fake_member *members, uint32_t count, const char *const *wants,
                        uint32_t want_count)
{
    bool seen[8] = {false};
    for (uint32_t got = 0; got < count;) {
        fake_expect(&f, MQ_CMD_result);
        size_t at = 0;
        for (uint32_t i = 0; i < f.m.result.jobs_count; i++) {
            const mq_msg_result_item *r = &f.m.result.jobs[i];
            for (uint32_t k = 0; k < count; k++) {
                if (r->grant != members[k].grant || seen[k]) {
                    continue;
                }
                seen[k] = true;
                got++;
                if (!mq_span_is(r->class, "ok")) {
                    fail_msg("seat %u: %.*s %.*s", (unsigned)members[k].seat, MQ_SPAN_ARG(r->class),
                             MQ_SPAN_ARG(r->error));
                }
                const char *want = wants[k < want_count ? k : 0];
                assert_int_equal(r->len, strlen(want));
                assert_memory_equal(f.payload.data + at, want, r->len);
            }
            at += r->len;
        }
    }
}

static void expect_results(const fake_member *members, uint32_t count, const char *want)
{
    expect_each(members, count, &want, 1);
}

static void deal(fake_member *members, uint32_t count, const char *kind, const char *body)
{
    for (uint32_t i = 0; i < count; i++) {
        fake_gang_job(&f, members, count, i, 1, kind, body);
    }
}

static void members_of_one_host_share_a_segment_and_messages(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}, {2, 2, 0}};
    start(3, "1", NULL);
    deal(m, 3, "exchange", "3");
    expect_results(m, 3, "epoch=1 count=3 same=3");
}

static void two_slots_of_one_supervisor_are_members_too(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {0, 4, 0}, {1, 7, 0}};
    start(2, "2", NULL);
    deal(m, 3, "exchange", "3");
    expect_results(m, 3, "epoch=1 count=3 same=3");
}

static void members_of_two_hosts_talk_by_zeromq(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {0, 1, 0}, {1, 2, 0}};
    start(1, "2", NULL);
    start(1, "1", (const char *const[]){"--host-id", "elsewhere", NULL});
    deal(m, 3, "exchange", "3");
    const char *const wants[] = {"epoch=1 count=3 same=2", "epoch=1 count=3 same=2",
                                 "epoch=1 count=3 same=1"};
    expect_each(m, 3, wants, 3);
}

static void a_piece_that_comes_before_the_job_waits_for_it(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}};
    start(2, "1", NULL);
    fake_gang_job(&f, m, 2, 0, 1, "exchange", "2");
    fake_expect(&f, MQ_CMD_progress); /* seat 0 has sent */
    fake_gang_job(&f, m, 2, 1, 1, "exchange", "2");
    expect_results(m, 2, "epoch=1 count=2 same=2");
}

static void a_sender_waits_for_a_slow_receiver_and_nothing_is_lost(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}};
    start(2, "1", NULL);
    deal(m, 2, "flood", "150");
    expect_results(m, 2, "flooded");
}

static void the_same_between_hosts(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}};
    start(1, "1", NULL);
    start(1, "1", (const char *const[]){"--host-id", "elsewhere", NULL});
    deal(m, 2, "flood", "150");
    expect_results(m, 2, "flooded");
}

/* Connects to the abstract address of a worker and writes these bytes. */
static int intrude(const fake_worker *w, const void *bytes, size_t len)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t name = strlen(w->gang_unix);
    memcpy(to.sun_path + 1, w->gang_unix + 1, name - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to,
                             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name)),
                     0);
    assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
    return fd;
}

static void garbage_at_the_ports_does_no_harm(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}};
    static const uint8_t long_frame[16] = {0xff, 0xff, 0xff, 0xff, 65};
    static const uint8_t no_hello[16] = {8, 0, 0, 0, 65};
    uint8_t noise[4096];
    start(2, "1", NULL);
    fill(noise, sizeof noise, 3);
    int fds[] = {intrude(&f.workers[0], long_frame, sizeof long_frame),
                 intrude(&f.workers[0], no_hello, sizeof no_hello),
                 intrude(&f.workers[1], noise, sizeof noise)};
    void *dealer = zmq_socket(f.context, ZMQ_DEALER);
    assert_int_equal(zmq_connect(dealer, f.workers[0].gang_tcp), 0);
    for (int i = 0; i < 100; i++) {
        noise[0] = (uint8_t)(60 + i % 12); /* around the types of peers' frames */
        assert_true(zmq_send(dealer, noise, (size_t)i * 7, i % 5 == 0 ? ZMQ_SNDMORE : 0) >= 0);
    }
    deal(m, 2, "exchange", "2");
    expect_results(m, 2, "epoch=1 count=2 same=2");
    for (int i = 0; i < 3; i++) {
        close(fds[i]);
    }
    int none = 0;
    (void)zmq_setsockopt(dealer, ZMQ_LINGER, &none, sizeof none);
    zmq_close(dealer);
}

static void a_killed_supervisor_is_reported_and_survivors_go_on(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}, {2, 2, 0}};
    start(3, "1", NULL);
    deal(m, 3, "exchange", "2");
    for (uint32_t i = 0; i < 3; i++) {
        fake_expect(&f, MQ_CMD_progress);
    }
    assert_int_equal(kill(f.workers[1].pid, SIGKILL), 0);
    int64_t killed_ns = mq_clock_mono_ns();
    (void)fake_reap(&f, 1);
    fake_expect(&f, MQ_CMD_lost);
    print_message("death known after %.1f ms\n", (double)(mq_clock_mono_ns() - killed_ns) / 1e6);
    assert_int_equal(f.m.lost.seat, 1);
    assert_int_equal(f.m.lost.gang_epoch, 1);
    fake_member left[] = {m[0], m[2]};
    fake_roster(&f, left, 2, 2);
    expect_results(left, 2, "epoch=2 count=2 same=2");
}

static void a_killed_supervisor_of_another_host_is_reported_too(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}, {2, 2, 0}};
    start(2, "1", NULL);
    start(1, "1", (const char *const[]){"--host-id", "elsewhere", NULL});
    deal(m, 3, "exchange", "2");
    for (uint32_t i = 0; i < 3; i++) {
        fake_expect(&f, MQ_CMD_progress);
    }
    assert_int_equal(kill(f.workers[2].pid, SIGKILL), 0);
    int64_t killed_ns = mq_clock_mono_ns();
    (void)fake_reap(&f, 2);
    fake_expect(&f, MQ_CMD_lost);
    print_message("death known after %.1f ms\n", (double)(mq_clock_mono_ns() - killed_ns) / 1e6);
    assert_int_equal(f.m.lost.seat, 2);
    fake_roster(&f, m, 2, 2);
    expect_results(m, 2, "epoch=2 count=2 same=2");
}

static void a_killed_slot_breaks_the_epoch_for_the_others(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}, {1, 2, 0}};
    start(1, "1", NULL);
    start(1, "2", NULL);
    deal(m, 3, "exchange", "2");
    for (uint32_t i = 0; i < 3; i++) {
        fake_expect(&f, MQ_CMD_progress);
    }
    assert_int_equal(kill(fake_slot_pid(&f, 0), SIGKILL), 0);
    mq_msg_result_item r = fake_result(&f, m[0].grant, NULL, 0);
    assert_true(mq_span_is(r.class, "crash"));
    assert_true(mq_span_is(r.error, "signal 9"));
    fake_roster(&f, m + 1, 2, 2);
    expect_results(m + 1, 2, "epoch=2 count=2 same=2");
}

static void a_member_that_joins_gets_the_new_roster_with_its_job(void **state)
{
    (void)state;
    fake_member m[] = {{0, 0, 0}, {1, 1, 0}};
    start(2, "1", NULL);
    fake_gang_job(&f, m, 1, 0, 1, "exchange", "2");
    fake_expect(&f, MQ_CMD_progress);
    fake_gang_job(&f, m, 2, 1, 2, "exchange", "2");
    fake_roster(&f, m, 2, 2);
    expect_results(m, 2, "epoch=2 count=2 same=2");
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
        TEST(members_of_one_host_share_a_segment_and_messages),
        TEST(two_slots_of_one_supervisor_are_members_too),
        TEST(members_of_two_hosts_talk_by_zeromq),
        TEST(a_piece_that_comes_before_the_job_waits_for_it),
        TEST(a_sender_waits_for_a_slow_receiver_and_nothing_is_lost),
        TEST(the_same_between_hosts),
        TEST(garbage_at_the_ports_does_no_harm),
        TEST(a_killed_supervisor_is_reported_and_survivors_go_on),
        TEST(a_killed_supervisor_of_another_host_is_reported_too),
        TEST(a_killed_slot_breaks_the_epoch_for_the_others),
        TEST(a_member_that_joins_gets_the_new_roster_with_its_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
