/* What an alias remembers of where it pointed, so that it can go back. */
#include "tests/support/core_world.h"

/* A job publishes four versions of the model m. */
static void publish_four(world *w)
{
    static const char hash[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    char id[MQ_ULID_SIZE];
    w_worker(w, 1, 1);
    w_submit(w, id, "echo", "x");
    w_turn(w);
    w_entry job = *w_expect(w, MQ_OUT_JOB, id);
    mq_span blobs[1] = {mq_str(hash)};
    mq_msg_published four[4];
    for (int i = 0; i < 4; i++) {
        four[i] = (mq_msg_published){.type = mq_str("model"),
                                     .name = mq_str("m"),
                                     .meta = mq_str("{}"),
                                     .blobs = blobs,
                                     .blobs_count = 1};
    }
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = job.epoch,
                               .grant = job.grant,
                               .class = mq_str("ok"),
                               .publish = four,
                               .publish_count = 4};
    w_result_item(w, 1, &item, "{}");
    w_turn(w);
    assert_string_equal(w_expect(w, MQ_OUT_VERDICT, id)->verdict, "ok");
}

/* Moves prod and tells what it remembers then, "2 1", latest first. */
static const char *moved(world *w, const char *version, const char *expected, const char *how)
{
    static char text[128];
    static mq_entry entry;
    mq_span args[5] = {mq_str("m"), mq_str("prod"), mq_str(version), mq_str(expected), mq_str(how)};
    mq_msg_command m = {.rid = 8, .verb = mq_str("alias"), .args = args, .args_count = 5};
    mq_input in = {.type = MQ_IN_COMMAND, .conn = 3, .rid = 8, .as.command = &m};
    w_step(w, &in);
    w_turn(w);
    assert_string_equal(w_expect(w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    w_crash(w);
    mq_error err;
    text[0] = '\0';
    for (uint32_t i = 0; i < w->config.registry_max; i++) {
        mq_entry_view v;
        if (!mq_core_entry(w->core, i, &v) || v.key.type != MQ_ENTRY_ALIAS) {
            continue;
        }
        assert_int_equal(mq_entry_read(v.value, &entry, &err), MQ_OK);
        for (uint32_t k = 0; k < entry.before_count; k++) {
            size_t len = strlen(text);
            (void)snprintf(text + len, sizeof text - len, "%s%u", k == 0 ? "" : " ",
                           entry.before[k]);
        }
    }
    return text;
}

static void an_alias_remembers_where_it_pointed_and_goes_back(void **unused)
{
    (void)unused;
    world w;
    w_open(&w);
    publish_four(&w);
    assert_string_equal(moved(&w, "1", "0", ""), "");
    assert_string_equal(moved(&w, "4", "1", ""), "1");
    assert_string_equal(moved(&w, "4", "1", ""), "1"); /* sent again */
    assert_string_equal(moved(&w, "2", "", ""), "4 1");
    assert_string_equal(moved(&w, "4", "2", "back"), "1");
    assert_string_equal(moved(&w, "4", "2", "back"), "1"); /* sent again */
    assert_string_equal(moved(&w, "1", "4", "back"), "");
    assert_string_equal(moved(&w, "4", "1", ""), "1");
    assert_string_equal(moved(&w, "1", "4", ""), "4 1"); /* a promotion is no way back */
    for (int i = 0; i < MQ_ENTRY_BEFORE_MAX; i++) {
        (void)moved(&w, i % 2 == 0 ? "2" : "3", "", "");
    }
    assert_string_equal(moved(&w, "4", "", ""), "3 2 3 2 3 2 3 2 3 2 3 2 3 2 3 2");
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_alias_remembers_where_it_pointed_and_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
