/* Questions to the store, against a store that this test plays: they wait while it takes none, are
 * answered once and in order, and a store that refuses them is not asked without end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/io/asks.h"

enum { CALLS_MAX = 64, ANSWERS_MAX = 20000 };

/* The store: how it takes calls, and those that it took. */
typedef struct played {
    mq_store base;
    mq_code takes; /* MQ_OK, or what each call is answered with */
    uint32_t tried, taken;
    struct {
        mq_store_on_field *on_field;
        mq_store_on_job *on_job;
        void *arg;
        uint32_t count;
        char ids[MQ_ASKS_BODIES_MAX][32];
    } calls[CALLS_MAX];
} played;

static played store;
static mq_asks *asks;
static char answers[ANSWERS_MAX]; /* "id=code " of each, in order */
static bool asks_again;

static mq_code take(const mq_span *ids, uint32_t count, mq_store_on_field *on_field,
                    mq_store_on_job *on_job, void *arg, mq_error *err)
{
    store.tried++;
    if (store.takes != MQ_OK) {
        return mq_fail(err, store.takes, "not now");
    }
    assert_true(store.taken < CALLS_MAX && count <= MQ_ASKS_BODIES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(store.calls[store.taken].ids[i], 32, "%.*s", MQ_SPAN_ARG(ids[i]));
    }
    store.calls[store.taken].on_field = on_field;
    store.calls[store.taken].on_job = on_job;
    store.calls[store.taken].arg = arg;
    store.calls[store.taken++].count = count;
    return MQ_OK;
}

static mq_code take_bodies(mq_store *s, const mq_span *ids, uint32_t count,
                           mq_store_on_field *on_field, void *arg, mq_error *err)
{
    assert_ptr_equal(s, &store.base);
    return take(ids, count, on_field, NULL, arg, err);
}

static mq_code take_job(mq_store *s, mq_span id, mq_store_on_job *on_job, void *arg, mq_error *err)
{
    assert_ptr_equal(s, &store.base);
    return take(&id, 1, NULL, on_job, arg, err);
}

static const mq_store_ops ops = {.bodies = take_bodies, .job = take_job};

static void note(mq_span id, mq_code code)
{
    size_t len = strlen(answers);
    (void)snprintf(answers + len, sizeof answers - len, "%.*s=%s ", MQ_SPAN_ARG(id),
                   mq_code_name(code));
}

static void on_body(void *arg, mq_code code, mq_span id, mq_span body)
{
    (void)arg;
    (void)body;
    note(id, code);
    if (asks_again) {
        assert_int_equal(mq_asks_body(asks, id, on_body, NULL, NULL), MQ_OK);
    }
}

static void on_job(void *arg, mq_code code, mq_span record, mq_span result, const mq_error *err)
{
    (void)record;
    (void)result;
    (void)err;
    note(mq_str(arg), code);
}

static int begin(void **unused)
{
    (void)unused;
    mq_error err;
    store = (played){.base = {&ops}, .takes = MQ_OK};
    answers[0] = '\0';
    asks_again = false;
    return mq_asks_new(&asks, &store.base, &err) == MQ_OK ? 0 : -1;
}

static int end(void **unused)
{
    (void)unused;
    asks_again = false;
    mq_asks_free(asks);
    return 0;
}

static void ask_bodies(uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "%u", i);
        assert_int_equal(mq_asks_body(asks, mq_str(id), on_body, NULL, NULL), MQ_OK);
    }
}

/* The store answers a call: all its questions in reverse order, and its end. */
static void answer_bodies(uint32_t n)
{
    mq_error err = {MQ_OK, ""};
    for (uint32_t i = store.calls[n].count; i > 0; i--) {
        store.calls[n].on_field(store.calls[n].arg, MQ_OK, mq_str(store.calls[n].ids[i - 1]),
                                mq_str("body"), &err);
    }
    store.calls[n].on_field(store.calls[n].arg, MQ_OK, (mq_span){0}, (mq_span){0}, &err);
}

static void questions_wait_in_their_order_while_the_store_takes_none(void **unused)
{
    (void)unused;
    mq_error err = {MQ_OK, ""};
    static char job[] = "job";
    store.takes = MQ_E_BUSY;
    ask_bodies(0, 3);
    assert_int_equal(mq_asks_job(asks, mq_str("j"), on_job, job, NULL), MQ_OK);
    for (uint32_t turn = 1; turn <= 5; turn++) {
        mq_asks_turn(asks);
        assert_int_equal(store.tried, turn); /* one try a turn, and no more */
        assert_string_equal(answers, "");
    }
    ask_bodies(3, 4);
    store.takes = MQ_OK;
    mq_asks_turn(asks);
    assert_int_equal(store.taken, 2); /* the bodies in one call, the job in one */
    assert_int_equal(store.calls[0].count, 4);
    for (uint32_t i = 0; i < 4; i++) {
        char want[16];
        (void)snprintf(want, sizeof want, "%u", i);
        assert_string_equal(store.calls[0].ids[i], want);
    }
    answer_bodies(0);
    assert_string_equal(answers, "3=ok 2=ok 1=ok 0=ok ");
    store.calls[1].on_job(store.calls[1].arg, MQ_OK, (mq_span){0}, (mq_span){0}, &err);
    assert_string_equal(answers, "3=ok 2=ok 1=ok 0=ok job=ok ");
    mq_asks_turn(asks);
    assert_int_equal(store.taken, 2);
}

static void a_refused_question_is_answered_and_asked_again_in_the_next_turn_only(void **unused)
{
    (void)unused;
    store.takes = MQ_E_IO;
    asks_again = true;
    ask_bodies(7, 8);
    for (uint32_t turn = 1; turn <= 4; turn++) {
        mq_asks_turn(asks);
        assert_int_equal(store.tried, turn);
    }
    assert_string_equal(answers, "7=io 7=io 7=io 7=io ");
}

static void calls_and_questions_are_limited_and_a_call_that_ends_makes_room(void **unused)
{
    (void)unused;
    mq_error err;
    ask_bodies(0, MQ_ASKS_MAX);
    assert_int_equal(mq_asks_body(asks, mq_str("x"), on_body, NULL, &err), MQ_E_BUSY);
    assert_int_equal(mq_asks_body(asks, mq_str(""), on_body, NULL, &err), MQ_E_ARG);
    mq_asks_turn(asks);
    assert_int_equal(store.taken, MQ_ASKS_INFLIGHT_MAX);
    assert_int_equal(store.calls[0].count, MQ_ASKS_BODIES_MAX);
    mq_asks_turn(asks);
    assert_int_equal(store.taken, MQ_ASKS_INFLIGHT_MAX);
    answer_bodies(0);
    ask_bodies(0, MQ_ASKS_BODIES_MAX);
    assert_int_equal(mq_asks_body(asks, mq_str("x"), on_body, NULL, &err), MQ_E_BUSY);
    mq_asks_turn(asks);
    assert_int_equal(store.taken, MQ_ASKS_INFLIGHT_MAX + 1);
    answers[0] = '\0';
    for (uint32_t i = 1; i < store.taken; i++) {
        answer_bodies(i);
    }
}

static void a_body_that_the_store_lacks_is_answered_without_one(void **unused)
{
    (void)unused;
    mq_error err = {MQ_OK, ""};
    ask_bodies(1, 3);
    mq_asks_turn(asks);
    store.calls[0].on_field(store.calls[0].arg, MQ_OK, mq_str("2"), mq_str("b"), &err);
    store.calls[0].on_field(store.calls[0].arg, MQ_OK, (mq_span){0}, (mq_span){0}, &err);
    assert_string_equal(answers, "2=ok 1=ok ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(questions_wait_in_their_order_while_the_store_takes_none,
                                        begin, end),
        cmocka_unit_test_setup_teardown(
            a_refused_question_is_answered_and_asked_again_in_the_next_turn_only, begin, end),
        cmocka_unit_test_setup_teardown(
            calls_and_questions_are_limited_and_a_call_that_ends_makes_room, begin, end),
        cmocka_unit_test_setup_teardown(a_body_that_the_store_lacks_is_answered_without_one, begin,
                                        end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
