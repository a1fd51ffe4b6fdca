/* The rows of the failure matrix that need a machine which allows namespaces: a broker that does
 * not reach Redis any more, and a disk that is full. Skipped, with the reason, where it does not.
 */
#include "tests/e2e/world.h"

#include <sys/wait.h>

#include "tests/support/volume.h"

enum { DISK_BYTES = 24 << 20, BROKERS = 2, TAKEN_MAX = 64 };

static net net_;
static bool is_possible;

static int start(void **state)
{
    (void)state;
    char why[160] = "";
    is_possible = net_enter(&net_, why, sizeof why) &&
                  net_make(&net_, sys_node(SYS_BROKER, BROKERS - 1), why, sizeof why);
    if (!is_possible) {
        printf("%s\n", why);
        return 0;
    }
    sys_options options = {.lease_ms = 4000,
                           .beat_ms = 1000,
                           .brokers = BROKERS,
                           .broker_args = {"--tenure-ms", "1500"},
                           .net = &net_,
                           .disk_bytes = DISK_BYTES};
    sys_start(&system_, &options);
    context = zmq_ctx_new();
    return 0;
}

static int stop(void **state)
{
    (void)state;
    if (is_possible) {
        sys_stop(&system_, false);
        net_close(&net_);
        if (peers_open == 0) {
            zmq_ctx_term(context);
        }
    }
    return 0;
}

/* Offers a job to all brokers until one of them says that it has it; which one. The refusals on the
 * way go to `said`. must_know: it has to be a known one. */
static int submit_anywhere(const char *id, char said[512], bool must_know)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    said[0] = '\0';
    while (mq_clock_mono_ms() < until_ms) {
        for (int i = 0; i < BROKERS; i++) {
            char at[64];
            peer p;
            mq_msg_submit_job job = {.id = mq_str(id), .kind = mq_str("net"), .len = 4};
            mq_msg_submit m = {.rid = 1, .jobs = &job, .jobs_count = 1};
            snprintf(at, sizeof at, "tcp://10.77.0.%d:%d", 1 + sys_node(SYS_BROKER, i), NET_PORT);
            peer_open(&p, context, at, NULL);
            peer_send(&p, MQ_CMD_submit, &m, mq_str("body"));
            bool has_heard = peer_receive(&p, 700);
            bool is_taken = has_heard && p.command == MQ_CMD_submitted;
            if (has_heard && p.command == MQ_CMD_error && mq_span_is(p.m.error.code, "busy")) {
                (void)mq_span_copy(p.m.error.text, said, 512);
            }
            bool is_known = is_taken && mq_span_is(p.m.submitted.jobs[0].verdict, "dup");
            peer_close(&p);
            if (is_taken) {
                assert_true(is_known || !must_know);
                return i;
            }
        }
    }
    fail_msg("no broker takes a job; the last refusal: %s", said);
    return -1;
}

static void a_broker_cut_off_from_redis_serves_nobody_and_another_takes_over(void **state)
{
    (void)state;
    char id[3][MQ_ULID_SIZE], said[512];
    if (!is_possible) {
        skip();
    }
    mq_ulid_new(id[0]);
    int owner = submit_anywhere(id[0], said, false);
    net_block(&net_, sys_node(SYS_BROKER, owner), 0, true);
    mq_ulid_new(id[1]);
    int other = submit_anywhere(id[1], said, false);
    assert_int_not_equal(other, owner);
    assert_int_equal(submit_anywhere(id[0], said, true), other);
    net_block(&net_, sys_node(SYS_BROKER, owner), 0, false);
    mq_ulid_new(id[2]);
    (void)submit_anywhere(id[2], said, false);
}

/* Redis ends rather than acknowledge what it cannot write. Whoever started it starts it again. */
static void with_a_full_disk_clients_are_told_busy_until_there_is_room(void **state)
{
    (void)state;
    char id[MQ_ULID_SIZE], said[512] = "", taken[TAKEN_MAX][MQ_ULID_SIZE];
    int status, taken_count = 0;
    if (!is_possible) {
        skip();
    }
    mq_ulid_new(id);
    (void)submit_anywhere(id, said, false);
    volume_fill(&system_);
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    for (int i = 0; strstr(said, "not served") == NULL; i = (i + 1) % BROKERS) {
        char at[64];
        peer p;
        mq_msg_submit_job job = {.id = mq_str(id), .kind = mq_str("net"), .len = 4};
        mq_msg_submit m = {.rid = 1, .jobs = &job, .jobs_count = 1};
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_ulid_new(id); /* a new job each time */
        snprintf(at, sizeof at, "tcp://10.77.0.%d:%d", 1 + sys_node(SYS_BROKER, i), NET_PORT);
        peer_open(&p, context, at, NULL);
        peer_send(&p, MQ_CMD_submit, &m, mq_str("body"));
        if (peer_receive(&p, 700)) {
            if (p.command == MQ_CMD_submitted && mq_span_is(p.m.submitted.jobs[0].verdict, "ok")) {
                assert_true(taken_count < TAKEN_MAX); /* the last page of the log has little room */
                memcpy(taken[taken_count++], id, sizeof id);
            }
            if (p.command == MQ_CMD_error) {
                (void)mq_span_copy(p.m.error.text, said, sizeof said);
            }
        }
        peer_close(&p);
        (void)sys_has_ended(&system_, SYS_STATE_REDIS, 0, &status); /* and it stays away */
    }
    sys_kill(&system_, SYS_STATE_REDIS, 0, SIGKILL);
    volume_free(&system_);
    sys_spawn(&system_, SYS_STATE_REDIS, 0);
    for (int i = 0; i < taken_count; i++) {
        (void)submit_anywhere(taken[i], said, true);
    }
    (void)submit_anywhere(id, said, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broker_cut_off_from_redis_serves_nobody_and_another_takes_over),
        cmocka_unit_test(with_a_full_disk_clients_are_told_busy_until_there_is_room),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
