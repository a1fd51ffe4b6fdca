/* What a submit may ask for: unique keys, its own backoff and retention, parents that need only
 * end; and what a job said, kept with its end. */
#include "tests/support/core_world.h"

static void submit_unique(world *w, char id[MQ_ULID_SIZE], const char *key)
{
    w_id(w, id);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo"), .unique = mq_str(key)};
    w_submit_item(w, 1, 1, &item, "x");
}

static mq_span live_of(const world *w)
{
    for (uint32_t i = 0; i < w->out->count; i++) {
        if (w->out->items[i].type == MQ_OUT_SUBMITTED) {
            return w->out->items[i].as.submitted.live;
        }
    }
    return (mq_span){0};
}

static void a_second_job_with_a_live_key_is_a_dup_of_the_first(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE], c[MQ_ULID_SIZE];
    w_open(&w);
    submit_unique(&w, a, "nightly");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, a)->verdict, "ok");
    submit_unique(&w, b, "nightly");
    assert_true(mq_span_is(live_of(&w), a));
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, b)->verdict, "dup");
    assert_string_equal(w_state(&w, b), "");
    submit_unique(&w, c, "other");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, c)->verdict, "ok");
    w_close(&w);
}

static void the_answer_waits_until_the_job_with_the_key_is_stored(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE];
    w_open(&w);
    w.is_held = true;
    submit_unique(&w, a, "k");
    submit_unique(&w, b, "k");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_SUBMITTED, NULL);
    w.is_held = false;
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, a)->verdict, "ok");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, b)->verdict, "dup");
    assert_string_equal(w_state(&w, b), "");
    w_close(&w);
}

static void tell_replicas(world *w, uint64_t sequence)
{
    mq_input in = {.type = MQ_IN_REPLICAS};
    in.as.replicas.count = 1;
    in.as.replicas.sequence = sequence;
    w_step(w, &in);
}

static void send_replicated(world *w, char id[MQ_ULID_SIZE], const char *key)
{
    w_id(w, id);
    mq_msg_submit_job item = {.id = mq_str(id),
                              .kind = mq_str("echo"),
                              .unique = mq_str(key),
                              .durability = mq_str("replicated")};
    w_submit_item(w, 1, 1, &item, "x");
}

static void submit_replicated(world *w, char id[MQ_ULID_SIZE], const char *key)
{
    send_replicated(w, id, key);
    w_turn(w);
}

/* Who is told of the live job relies on it as whoever submitted it. */
static void a_replicated_job_with_the_key_is_told_of_when_a_replica_has_it(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE];
    w_open(&w);
    tell_replicas(&w, 0);
    submit_replicated(&w, a, "k");
    w_expect_none(&w, MQ_OUT_SUBMITTED, NULL);
    submit_replicated(&w, b, "k");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, b)->verdict, "busy");
    tell_replicas(&w, UINT64_MAX);
    submit_replicated(&w, b, "k");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, b)->verdict, "dup");
    w_close(&w);
}

/* The same for whoever asks before the commit of that job is sent, or while it is under way. */
static void who_waits_for_the_store_is_not_told_of_a_job_that_no_replica_has(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE], c[MQ_ULID_SIZE];
    w_open(&w);
    tell_replicas(&w, 0);
    w.is_held = true;
    send_replicated(&w, a, "k");
    send_replicated(&w, b, "k");
    w_turn(&w);
    submit_replicated(&w, c, "k");
    w_expect_none(&w, MQ_OUT_SUBMITTED, NULL);
    w.is_held = false;
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, b)->verdict, "busy");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, c)->verdict, "busy");
    w_close(&w);
}

static void a_key_is_free_again_when_its_job_has_ended(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    submit_unique(&w, a, "k");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, a);
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    submit_unique(&w, b, "k");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, b)->verdict, "ok");
    w_close(&w);
}

static void a_key_holds_over_a_takeover(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE], c[MQ_ULID_SIZE];
    w_open(&w);
    submit_unique(&w, a, "k");
    w_turn(&w);
    w_drop_core(&w);
    w_begin(&w); /* not loaded yet: nobody can tell */
    w_forget(&w);
    submit_unique(&w, b, "k");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, b)->verdict, "busy");
    w_load(&w);
    w_turn(&w);
    submit_unique(&w, c, "k");
    assert_true(mq_span_is(live_of(&w), a));
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, c)->verdict, "dup");
    w_close(&w);
}

static void a_dead_job_does_not_come_back_while_another_has_its_key(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    submit_unique(&w, a, "k");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, a);
    w_result(&w, 1, &job, "fatal", NULL);
    w_turn(&w);
    submit_unique(&w, b, "k");
    w_turn(&w);
    mq_span arg = mq_str(a);
    mq_msg_command m = {.rid = 9, .verb = mq_str("retry"), .args = &arg, .args_count = 1};
    mq_input in = {.type = MQ_IN_COMMAND, .conn = 5, .rid = 9, .as.command = &m};
    w_step(&w, &in);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "conflict");
    w_close(&w);
}

static void a_callback_runs_after_all_parents_however_they_ended(void **unused)
{
    (void)unused;
    world w;
    char good[MQ_ULID_SIZE], bad[MQ_ULID_SIZE], callback[MQ_ULID_SIZE], strict[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 2);
    w_submit(&w, good, "echo", "x");
    w_submit(&w, bad, "echo", "y");
    w_turn(&w);
    mq_span deps[2] = {mq_str(good), mq_str(bad)};
    w_id(&w, callback);
    mq_msg_submit_job item = {.id = mq_str(callback),
                              .kind = mq_str("echo"),
                              .deps = deps,
                              .deps_count = 2,
                              .runs_anyway = true};
    w_submit_item(&w, 1, 1, &item, "c");
    w_id(&w, strict);
    item.id = mq_str(strict);
    item.runs_anyway = false;
    w_submit_item(&w, 1, 1, &item, "c");
    w_turn(&w);
    assert_string_equal(w_state(&w, callback), "blocked");
    w_entry job = *w_expect(&w, MQ_OUT_JOB, bad);
    w_result(&w, 1, &job, "fatal", NULL);
    w_turn(&w);
    assert_string_equal(w_state(&w, callback), "blocked");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, strict)->state, "cancelled");
    w_crash(&w); /* the rule is stored */
    w_ready_held(&w, 1, 2, "fp", (mq_msg_held[]){w_held(w_expect(&w, MQ_OUT_JOB, good))}, 1);
    w_turn(&w);
    assert_string_equal(w_state(&w, callback), "blocked");
    job = (w_entry){0};
    memcpy(job.id, good, sizeof good);
    for (uint32_t i = 0; i < w.log_count; i++) {
        if (w.log[i].type == MQ_OUT_JOB && strcmp(w.log[i].id, good) == 0) {
            job = w.log[i];
        }
    }
    w_result(&w, 1, &job, "ok", "z");
    w_turn(&w);
    assert_string_equal(w_state(&w, callback), "queued");
    w_credit(&w, 1, 1000, 2, 0);
    w_turn(&w);
    (void)w_expect(&w, MQ_OUT_JOB, callback);
    w_close(&w);
}

static void a_parent_that_nobody_knows_cancels_even_such_a_callback(void **unused)
{
    (void)unused;
    world w;
    char no[MQ_ULID_SIZE], id[MQ_ULID_SIZE];
    w_open(&w);
    w_id(&w, no);
    w_id(&w, id);
    mq_span dep = mq_str(no);
    mq_msg_submit_job item = {.id = mq_str(id),
                              .kind = mq_str("echo"),
                              .deps = &dep,
                              .deps_count = 1,
                              .runs_anyway = true};
    w_submit_item(&w, 1, 1, &item, "c");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "cancelled");
    w_close(&w);
}

static void a_job_has_its_own_backoff_and_attempts(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_id(&w, id);
    mq_msg_submit_job item = {.id = mq_str(id),
                              .kind = mq_str("echo"),
                              .attempts_max = 4,
                              .backoff_ms = 10,
                              .backoff_max_ms = 20};
    w_submit_item(&w, 1, 1, &item, "c");
    w_turn(&w);
    w_crash(&w); /* both are stored */
    w_worker(&w, 1, 1);
    for (int i = 0; i < 4; i++) {
        w_turn(&w);
        w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
        assert_int_equal(job.attempt, i + 1);
        w_result(&w, 1, &job, "retry", NULL);
        w_credit(&w, 1, (uint64_t)i + 2, 1, (uint64_t)i + 1);
        w_turn(&w);
        w_sleep(&w, 20); /* never more than that */
    }
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "dead");
    w_close(&w);
}

typedef struct kept {
    mq_code code;
    char log[5000], progress[200];
    uint64_t lines;
} kept;

static void on_kept(void *arg, mq_code code, mq_span record, mq_span result, const mq_error *err)
{
    static mq_job_record r;
    kept *k = arg;
    (void)result;
    (void)err;
    k->code = code;
    if (code == MQ_OK && mq_job_record_read(record, &r, NULL) == MQ_OK) {
        w_copy(k->log, sizeof k->log, r.log);
        w_copy(k->progress, sizeof k->progress, r.progress);
        k->lines = r.log_lines;
    }
}

static kept look(world *w, const char *id)
{
    kept out = {0};
    mq_error err;
    assert_int_equal(w->store->ops->job(w->store, mq_str(id), on_kept, &out, &err), MQ_OK);
    w_process(w);
    return out;
}

static void say(world *w, const char *id, const char *progress, const char *log)
{
    mq_input in = {.type = MQ_IN_NOTE, .as.note = {mq_str(id), mq_str(progress), mq_str(log)}};
    w_step(w, &in);
}

static void what_a_job_said_is_kept_with_its_end(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], line[64];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    for (int i = 0; i < 1000; i++) {
        (void)snprintf(line, sizeof line, "line %d", i);
        say(&w, id, "{\"n\":1}", line);
    }
    say(&w, id, "{\"n\":2}", "two\nlines");
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    kept k = look(&w, id);
    assert_int_equal(k.lines, 1001);
    assert_string_equal(k.progress, "{\"n\":2}");
    size_t len = strlen(k.log);
    assert_in_range(len, 3900, 4096);
    assert_memory_equal(k.log, "line ", 5); /* cut at the end of a line */
    assert_string_equal(k.log + len - 10, "two lines\n");
    say(&w, id, "{}", "too late");
    w_close(&w);
}

static void a_job_is_kept_as_long_as_it_asked_for(void **unused)
{
    (void)unused;
    world w;
    char shortly[MQ_ULID_SIZE], usual[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 2);
    w_id(&w, shortly);
    mq_msg_submit_job item = {.id = mq_str(shortly), .kind = mq_str("echo"), .keep_ms = 5000};
    w_submit_item(&w, 1, 1, &item, "c");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, shortly);
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    assert_int_equal(look(&w, shortly).code, MQ_OK);
    w.now_ms += 120000; /* the bucket of its minute ends with the last of its jobs */
    assert_int_equal(look(&w, shortly).code, MQ_E_NOT_FOUND);
    w_credit(&w, 1, 9, 2, 1);
    w_submit(&w, usual, "echo", "x");
    w_turn(&w);
    job = *w_expect(&w, MQ_OUT_JOB, usual);
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    w.now_ms += 120000;
    assert_int_equal(look(&w, usual).code, MQ_OK);
    w_close(&w);
}

/* Of a shard that has no registry. */
static void what_needs_the_registry_is_refused_outside_shard_0(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    mq_core_config config = w_config();
    config.is_away = true;
    w_open_config(&w, &config);
    const mq_msg_submit_job items[] = {
        {.kind = mq_str("echo"), .model = mq_str("m")},
        {.kind = mq_str("echo"), .memo = mq_str("k")},
        {.kind = mq_str("echo"), .unique = mq_str("k")},
        {.kind = mq_str("echo"), .seats_min = 1, .seats_max = 2},
    };
    for (size_t i = 0; i < sizeof items / sizeof items[0]; i++) {
        mq_msg_submit_job item = items[i];
        w_id(&w, id);
        item.id = mq_str(id);
        w_submit_item(&w, 1, 1, &item, "x");
        assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "bad_argument");
        assert_string_equal(w_state(&w, id), "");
    }
    w_close(&w);
}

static void a_job_that_publishes_outside_shard_0_dies_with_the_reason(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    mq_core_config config = w_config();
    config.is_away = true;
    w_open_config(&w, &config);
    mq_span blob = mq_str("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    mq_msg_published version = {.type = mq_str("model"),
                                .name = mq_str("m"),
                                .meta = mq_str("{}"),
                                .blobs = &blob,
                                .blobs_count = 1};
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = job.epoch,
                               .grant = job.grant,
                               .class = mq_str("ok"),
                               .publish = &version,
                               .publish_count = 1};
    w_result_item(&w, 1, &item, "{}");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "dead");
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_job_with_a_live_key_is_a_dup_of_the_first),
        cmocka_unit_test(the_answer_waits_until_the_job_with_the_key_is_stored),
        cmocka_unit_test(a_replicated_job_with_the_key_is_told_of_when_a_replica_has_it),
        cmocka_unit_test(who_waits_for_the_store_is_not_told_of_a_job_that_no_replica_has),
        cmocka_unit_test(a_key_is_free_again_when_its_job_has_ended),
        cmocka_unit_test(a_key_holds_over_a_takeover),
        cmocka_unit_test(a_dead_job_does_not_come_back_while_another_has_its_key),
        cmocka_unit_test(a_callback_runs_after_all_parents_however_they_ended),
        cmocka_unit_test(a_parent_that_nobody_knows_cancels_even_such_a_callback),
        cmocka_unit_test(a_job_has_its_own_backoff_and_attempts),
        cmocka_unit_test(what_a_job_said_is_kept_with_its_end),
        cmocka_unit_test(a_job_is_kept_as_long_as_it_asked_for),
        cmocka_unit_test(what_needs_the_registry_is_refused_outside_shard_0),
        cmocka_unit_test(a_job_that_publishes_outside_shard_0_dies_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
