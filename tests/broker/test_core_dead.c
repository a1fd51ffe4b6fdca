/* Dead letters in the core: brought back, or put away for good. */
#include "tests/support/core_world.h"

static void command(world *w, const char *verb, const char *id)
{
    mq_span arg = mq_str(id);
    mq_msg_command m = {.rid = 9, .verb = mq_str(verb), .args = &arg, .args_count = 1};
    mq_input in = {.type = MQ_IN_COMMAND, .conn = 5, .rid = 9, .as.command = &m};
    w_step(w, &in);
    w_turn(w);
}

static void kill_job(world *w, char id[MQ_ULID_SIZE])
{
    w_submit(w, id, "echo", "x");
    w_turn(w);
    w_entry job = *w_expect(w, MQ_OUT_JOB, id);
    w_result(w, 1, &job, "fatal", NULL);
    w_credit(w, 1, w->ids + 10, 1, w->ids);
    w_turn(w);
    assert_string_equal(w_expect(w, MQ_OUT_ENDED, id)->state, "dead");
}

typedef struct looked {
    mq_code code;
    char state[20];
    uint64_t flags;
} looked;

static void on_looked(void *arg, mq_code code, mq_span record, mq_span result, const mq_error *err)
{
    static mq_job_record r;
    looked *l = arg;
    (void)result;
    (void)err;
    l->code = code;
    if (code == MQ_OK) {
        assert_int_equal(mq_job_record_read(record, &r, NULL), MQ_OK);
        w_copy(l->state, sizeof l->state, r.state);
        l->flags = r.flags;
    }
}

static looked look(world *w, const char *id)
{
    looked out = {0};
    mq_error err;
    assert_int_equal(w->store->ops->job(w->store, mq_str(id), on_looked, &out, &err), MQ_OK);
    w_process(w);
    return out;
}

static void on_dead(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    uint32_t *count = arg;
    (void)value;
    (void)err;
    assert_int_equal(code, MQ_OK);
    *count += field.data != NULL;
}

static uint32_t count_dead(world *w)
{
    uint32_t count = 0;
    mq_error err;
    assert_int_equal(w->store->ops->scan(w->store, MQ_PART_DEAD, 0, on_dead, &count, &err), MQ_OK);
    w_process(w);
    return count;
}

static void a_discarded_dead_job_is_readable_but_gone_from_the_dead(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    kill_job(&w, id);
    assert_int_equal(count_dead(&w), 1);
    command(&w, "discard", id);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    assert_int_equal(count_dead(&w), 0);
    looked l = look(&w, id);
    assert_int_equal(l.code, MQ_OK);
    assert_string_equal(l.state, "dead");
    assert_true((l.flags & MQ_REC_DISCARDED) != 0);
    w_close(&w);
}

static void the_answer_to_a_discard_waits_for_its_commit(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    kill_job(&w, id);
    command(&w, "discard", id);
    (void)w_expect(&w, MQ_OUT_REPLY, NULL);
    kill_job(&w, id);
    mq_span arg = mq_str(id);
    mq_msg_command m = {.rid = 9, .verb = mq_str("discard"), .args = &arg, .args_count = 1};
    mq_input in = {.type = MQ_IN_COMMAND, .conn = 5, .rid = 9, .as.command = &m};
    w_step(&w, &in);
    w_process(&w); /* the look-up is answered, nothing is committed */
    w_expect_none(&w, MQ_OUT_REPLY, NULL);
    w_crash(&w);
    assert_int_equal(count_dead(&w), 1);
    w_close(&w);
}

static void a_discarded_job_can_not_be_brought_back(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    kill_job(&w, id);
    command(&w, "discard", id);
    (void)w_expect(&w, MQ_OUT_REPLY, NULL);
    command(&w, "retry", id);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "not_found");
    command(&w, "discard", id);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "not_found");
    w_expect_none(&w, MQ_OUT_JOB, id);
    w_close(&w);
}

static void a_retried_dead_job_runs_again(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    kill_job(&w, id);
    command(&w, "retry", id);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    assert_int_equal(count_dead(&w), 0);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "ok", "done");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "succeeded");
    w_close(&w);
}

static void a_live_job_can_not_be_discarded(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    command(&w, "discard", id);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "not_found");
    assert_string_equal(w_state(&w, id), "queued");
    w_close(&w);
}

static void a_resend_of_a_discarded_job_is_a_dup(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    kill_job(&w, id);
    command(&w, "discard", id);
    w_crash(&w);
    w_forget(&w);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo")};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "dup");
    w_expect_none(&w, MQ_OUT_JOB, id);
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_discarded_dead_job_is_readable_but_gone_from_the_dead),
        cmocka_unit_test(the_answer_to_a_discard_waits_for_its_commit),
        cmocka_unit_test(a_discarded_job_can_not_be_brought_back),
        cmocka_unit_test(a_retried_dead_job_runs_again),
        cmocka_unit_test(a_live_job_can_not_be_discarded),
        cmocka_unit_test(a_resend_of_a_discarded_job_is_a_dup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
