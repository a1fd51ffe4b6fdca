/* A job goes to a worker whose cache holds its model, and waits for one only when told to. */
#include "tests/support/core_world.h"

static const char hash[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/* The model "m", made by a job of worker 31, which then leaves. */
static void publish(world *w)
{
    char id[MQ_ULID_SIZE];
    w_worker(w, 31, 1);
    w_submit(w, id, "echo", "x");
    w_turn(w);
    w_entry job = *w_expect(w, MQ_OUT_JOB, id);
    mq_span blobs[1] = {mq_str(hash)};
    mq_msg_published p = {.type = mq_str("model"),
                          .name = mq_str("m"),
                          .meta = mq_str("{}"),
                          .blobs = blobs,
                          .blobs_count = 1};
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = job.epoch,
                               .grant = job.grant,
                               .class = mq_str("ok"),
                               .publish = &p,
                               .publish_count = 1};
    w_result_item(w, 31, &item, "{}");
    w_turn(w);
    mq_input bye = {.type = MQ_IN_BYE, .conn = 131, .as.worker = mq_str(w_uuid(31))};
    w_step(w, &bye);
    w_turn(w);
    w_forget(w);
}

static void beat_with(world *w, uint32_t n, uint64_t seq, uint64_t free_slots, uint64_t seen,
                      const char *blob)
{
    mq_span blobs[1] = {mq_str(blob)};
    mq_msg_beat m = {.worker = mq_str(w_uuid(n)),
                     .seq = seq,
                     .free = free_slots,
                     .jobs_seen = seen,
                     .blobs = blobs,
                     .blobs_count = blob == NULL ? 0 : 1};
    mq_input in = {.type = MQ_IN_BEAT, .conn = 100 + n, .as.beat = &m};
    w_step(w, &in);
}

static void submit_for_model(world *w, char id[MQ_ULID_SIZE])
{
    w_id(w, id);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo"), .model = mq_str("m")};
    w_submit_item(w, 1, 1, &item, "x");
    w_turn(w);
}

static void a_worker_that_says_it_holds_the_model_comes_first(void **unused)
{
    (void)unused;
    for (uint32_t holder = 1; holder <= 3; holder++) {
        world w;
        char id[MQ_ULID_SIZE];
        w_open(&w);
        publish(&w);
        for (uint32_t n = 1; n <= 3; n++) {
            w_worker(&w, n, 2);
            beat_with(&w, n, 2, 2, 0, n == holder ? hash : NULL);
        }
        submit_for_model(&w, id);
        assert_int_equal(w_expect(&w, MQ_OUT_JOB, id)->conn, 100 + holder);
        w_close(&w);
    }
}

/* Worker 1 holds the model and has no slot free, worker 2 is idle; the job goes out after wait_ms.
 */
static void check_wait(int64_t wait_ms)
{
    world w;
    char first[MQ_ULID_SIZE], id[MQ_ULID_SIZE];
    mq_core_config config = w_config();
    config.affinity_wait_ms = wait_ms;
    w_open_config(&w, &config);
    publish(&w);
    w_worker(&w, 1, 1);
    beat_with(&w, 1, 2, 1, 0, hash);
    w_submit(&w, first, "echo", "x");
    w_turn(&w);
    assert_int_equal(w_expect(&w, MQ_OUT_JOB, first)->conn, 101);
    w_worker(&w, 2, 1);
    submit_for_model(&w, id);
    if (wait_ms > 0) {
        w_expect_none(&w, MQ_OUT_JOB, id);
        assert_true(mq_core_deadline(w.core) <= w.now_ms + wait_ms);
        w_sleep(&w, wait_ms);
    }
    assert_int_equal(w_expect(&w, MQ_OUT_JOB, id)->conn, 102);
    w_close(&w);
}

static void a_job_waits_for_a_busy_holder_only_as_long_as_it_is_told_to(void **unused)
{
    (void)unused;
    check_wait(0);
    check_wait(50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_that_says_it_holds_the_model_comes_first),
        cmocka_unit_test(a_job_waits_for_a_busy_holder_only_as_long_as_it_is_told_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
