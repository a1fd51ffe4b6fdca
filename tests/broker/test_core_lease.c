/* The core's rules for leases, dependencies, children, memos and the registry. */
#include "tests/support/core_world.h"

static void beats_renew_and_silence_ends_a_lease(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    mq_msg_held held = w_held(&job);
    for (uint64_t i = 1; i <= 10; i++) {
        w_sleep(&w, 1000);
        w_beat(&w, 1, i, 0, 1, &held, 1);
        assert_string_equal(w_expect(&w, MQ_OUT_BEATEN, id)->verdict, "ok");
    }
    assert_string_equal(w_state(&w, id), "leased");
    w_worker(&w, 2, 1);
    for (int i = 0; i < 8; i++) { /* worker 2 stays, worker 1 is silent */
        w_sleep(&w, 500);
        w_credit(&w, 2, (uint64_t)i + 2, 1, 0);
    }
    w_entry again = *w_expect(&w, MQ_OUT_JOB, id);
    assert_int_equal(again.conn, 102);
    assert_int_equal(again.attempt, 2);
    w_result(&w, 1, &job, "ok", "late");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "stale");
    w_result(&w, 2, &again, "ok", "good");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->payload, "good");
    w_close(&w);
}

static void a_late_result_of_the_last_holder_counts(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_sleep(&w, 4000);
    assert_string_equal(w_state(&w, id), "queued");
    w_crash(&w);
    w_result(&w, 1, &job, "ok", "late");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "ok");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->payload, "late");
    w_close(&w);
}

static void a_lease_is_bound_to_its_worker(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_worker(&w, 2, 1);
    w_result(&w, 2, &job, "ok", "stolen");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "stale");
    mq_msg_held held = w_held(&job);
    w_beat(&w, 2, 1, 0, 0, &held, 1);
    assert_string_equal(w_expect(&w, MQ_OUT_BEATEN, id)->verdict, "stale");
    assert_string_equal(w_state(&w, id), "leased");
    w_close(&w);
}

static void a_result_of_an_unknown_job_is_told_so(void **unused)
{
    (void)unused;
    world w;
    w_open(&w);
    w_entry job = {.epoch = 1, .grant = 1};
    memcpy(job.id, "01ARZ3NDEKTSV4RRFFQ69G5FAV", 27);
    w_result(&w, 1, &job, "ok", "x");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, NULL)->verdict, "unknown");
    w_close(&w);
}

static void a_run_longer_than_its_limit_is_an_attempt(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_id(&w, id);
    mq_msg_submit_job item = {
        .id = mq_str(id), .kind = mq_str("echo"), .max_run_ms = 2500, .attempts_max = 1};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    mq_msg_held held = w_held(&job);
    const char *verdict = "";
    for (uint64_t i = 1; i <= 3; i++) {
        w_sleep(&w, 1000);
        w_beat(&w, 1, i, 0, 1, &held, 1);
        verdict = w_expect(&w, MQ_OUT_BEATEN, id)->verdict;
    }
    assert_string_equal(verdict, "timeout");
    for (uint64_t i = 4; i <= 8; i++) { /* it does not stop: its lease is not renewed */
        w_sleep(&w, 1000);
        w_beat(&w, 1, i, 0, 1, &held, 1);
    }
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "dead");
    assert_string_equal(end->code, "timeout");
    w_close(&w);
}

static void twenty_lapses_are_undeliverable(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    for (uint32_t i = 1; i <= 20; i++) {
        w_worker(&w, i, 1);
        w_turn(&w);
        w_expect(&w, MQ_OUT_JOB, id);
        w_sleep(&w, 4000);
    }
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->why, "undeliverable");
    w_close(&w);
}

static void an_unknown_worker_is_asked_to_register(void **unused)
{
    (void)unused;
    world w;
    w_open(&w);
    w_beat(&w, 5, 1, 1, 0, NULL, 0);
    assert_string_equal(w_expect(&w, MQ_OUT_ERROR, NULL)->code, "not_found");
    w_ready_held(&w, 5, 1, "fp", NULL, 0);
    w_expect(&w, MQ_OUT_REGISTERED, NULL);
    w_beat(&w, 5, 1, 1, 0, NULL, 0);
    w_expect(&w, MQ_OUT_BEATEN, NULL);
    w_close(&w);
}

static void credit_is_absolute_and_counts_what_is_under_way(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 2);
    for (int i = 0; i < 5; i++) {
        w_submit(&w, id, "echo", "x");
    }
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, NULL);
    w_expect(&w, MQ_OUT_JOB, NULL);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_credit(&w, 1, 2, 2, 0); /* not seen yet: two are under way */
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_credit(&w, 1, 3, 1, 2);
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, NULL);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_credit(&w, 1, 2, 2, 2); /* an old one */
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void command(world *w, const char *verb, const char *a, const char *b, const char *c,
                    const char *d)
{
    mq_span args[4] = {mq_str(a), mq_str(b), mq_str(c), mq_str(d)};
    uint32_t count = d != NULL ? 4 : c != NULL ? 3 : b != NULL ? 2 : a != NULL ? 1 : 0;
    mq_msg_command m = {.rid = 8, .verb = mq_str(verb), .args = args, .args_count = count};
    mq_input in = {.type = MQ_IN_COMMAND, .conn = 3, .rid = 8, .as.command = &m};
    w_step(w, &in);
    w_turn(w);
}

static void online_slots_are_kept_for_transient_jobs(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    mq_span kinds[] = {mq_str("echo"), mq_str("infer"), mq_str("train")};
    mq_span tags[] = {mq_str("online=1")};
    mq_msg_ready m = {.worker = mq_str(w_uuid(1)),
                      .slots = 2,
                      .kinds = kinds,
                      .kinds_count = 3,
                      .tags = tags,
                      .tags_count = 1};
    mq_input in = {.type = MQ_IN_READY, .conn = 101, .as.ready = &m};
    w_step(&w, &in);
    w_credit(&w, 1, 1, 4, 0); /* two slots, two in advance */
    for (int i = 0; i < 3; i++) {
        w_submit(&w, id, "echo", "batch");
    }
    w_turn(&w);
    w_entry batch = *w_expect(&w, MQ_OUT_JOB, NULL);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_submit(&w, id, "infer", "online");
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &batch, "ok", "y");
    w_turn(&w);
    w_credit(&w, 1, 2, 3, 2);
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, NULL);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void a_drained_worker_gets_no_more(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 4);
    command(&w, "drain", w_uuid(1), NULL, NULL, NULL);
    assert_int_equal(w_expect(&w, MQ_OUT_DRAIN, NULL)->conn, 101);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    command(&w, "undrain", w_uuid(1), NULL, NULL, NULL);
    w_expect(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void a_paused_queue_waits_over_a_crash(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    command(&w, "pause", "default", NULL, NULL, NULL);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    w_crash(&w);
    w_worker(&w, 1, 1);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    command(&w, "resume", "default", NULL, NULL, NULL);
    w_expect(&w, MQ_OUT_JOB, NULL);
    command(&w, "fly", "x", NULL, NULL, NULL);
    w_expect(&w, MQ_OUT_REPLY, NULL);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "bad_argument");
    w_close(&w);
}

static void submit_after(world *w, char id[MQ_ULID_SIZE], const char *const *parents,
                         uint32_t count)
{
    mq_span deps[8];
    for (uint32_t i = 0; i < count; i++) {
        deps[i] = mq_str(parents[i]);
    }
    w_id(w, id);
    mq_msg_submit_job item = {
        .id = mq_str(id), .kind = mq_str("echo"), .deps = deps, .deps_count = count};
    w_submit_item(w, 1, 1, &item, "child");
}

static void a_child_runs_when_all_parents_are_stored_as_done(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE], child[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, a, "echo", "a");
    w_submit(&w, b, "echo", "b");
    submit_after(&w, child, (const char *[]){a, b}, 2);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, child)->state, "blocked");
    w_worker(&w, 1, 3);
    w_turn(&w);
    w_entry ja = *w_expect(&w, MQ_OUT_JOB, a);
    w_entry jb = *w_expect(&w, MQ_OUT_JOB, b);
    w_expect_none(&w, MQ_OUT_JOB, child);
    w_result(&w, 1, &ja, "ok", "1");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, child);
    w_crash(&w); /* the child remembers only b; b is still held */
    w_worker(&w, 2, 1);
    w_result(&w, 1, &jb, "ok", "2");
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, child);
    w_close(&w);
}

static void a_failed_parent_cancels_what_hangs_on_it(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE], c[MQ_ULID_SIZE], late[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, a, "echo", "a");
    submit_after(&w, b, (const char *[]){a}, 1);
    submit_after(&w, c, (const char *[]){b}, 1);
    w_worker(&w, 1, 1);
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, a);
    w_result(&w, 1, &job, "fatal", NULL);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, a)->state, "dead");
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, b);
    assert_string_equal(end->state, "cancelled");
    assert_memory_equal(end->why, "dep:", 4);
    assert_string_equal(end->why + 4, a);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, c)->state, "cancelled");
    submit_after(&w, late, (const char *[]){a}, 1);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, late)->verdict, "ok");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, late)->state, "cancelled");
    w_close(&w);
}

static void parents_that_ended_before_are_looked_up_in_the_store(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE], child[MQ_ULID_SIZE], orphan[MQ_ULID_SIZE],
        unknown[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 2);
    w_submit(&w, a, "echo", "a");
    w_submit(&w, b, "echo", "b");
    w_turn(&w);
    w_entry ja = *w_expect(&w, MQ_OUT_JOB, a);
    w_entry jb = *w_expect(&w, MQ_OUT_JOB, b);
    w_result(&w, 1, &ja, "ok", "1");
    w_result(&w, 1, &jb, "fatal", NULL);
    w_turn(&w);
    w_crash(&w);
    submit_after(&w, child, (const char *[]){a}, 1);
    submit_after(&w, orphan, (const char *[]){a, b}, 2);
    w_id(&w, unknown);
    char of_unknown[MQ_ULID_SIZE];
    submit_after(&w, of_unknown, (const char *[]){unknown}, 1);
    w_turn(&w);
    w_worker(&w, 2, 3);
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, child);
    w_expect_none(&w, MQ_OUT_JOB, orphan);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, orphan)->state, "cancelled");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, of_unknown)->state, "cancelled");
    w_close(&w);
}

static void a_crash_between_parent_and_child_loses_nothing(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], bad[MQ_ULID_SIZE], child[MQ_ULID_SIZE], doomed[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, a, "echo", "a");
    w_submit(&w, bad, "echo", "b");
    submit_after(&w, child, (const char *[]){a}, 1);
    submit_after(&w, doomed, (const char *[]){bad}, 1);
    w_worker(&w, 1, 2);
    w_turn(&w);
    w_entry ja = *w_expect(&w, MQ_OUT_JOB, a);
    w_entry jb = *w_expect(&w, MQ_OUT_JOB, bad);
    w.is_held = true; /* the parents' ends are stored, their answers are lost */
    w_result(&w, 1, &ja, "ok", "1");
    w_result(&w, 1, &jb, "fatal", NULL);
    mq_input in = {.type = MQ_IN_TURN};
    w_step(&w, &in);
    w.is_held = false;
    w_crash(&w);
    w_turn(&w);
    w_worker(&w, 2, 2);
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, child);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, doomed)->state, "cancelled");
    w_close(&w);
}

static void children_of_a_result_come_with_it_or_not_at_all(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], child[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 2);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_id(&w, child);
    mq_msg_spawned spawn = {
        .id = mq_str(child), .kind = mq_str("echo"), .body = mq_str("child's body")};
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = job.epoch,
                               .grant = job.grant,
                               .class = mq_str("ok"),
                               .spawn = &spawn,
                               .spawn_count = 1};
    w.is_held = true;
    w_result_item(&w, 1, &item, "done");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, child);
    w.is_held = false;
    w_turn(&w);
    w_entry got = *w_expect(&w, MQ_OUT_JOB, child);
    assert_string_equal(got.payload, "child's body");
    w_expect_none(&w, MQ_OUT_SUBMITTED, child);
    w_crash(&w);
    assert_string_equal(w_state(&w, child), "leased");
    assert_string_equal(w_state(&w, id), "");
    w_close(&w);
}

static void a_result_with_a_bad_child_ends_the_job_with_the_reason(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 2);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    mq_msg_spawned spawn = {.id = mq_str("nonsense"), .kind = mq_str("echo"), .body = mq_str("b")};
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = job.epoch,
                               .grant = job.grant,
                               .class = mq_str("ok"),
                               .spawn = &spawn,
                               .spawn_count = 1};
    w_result_item(&w, 1, &item, "done");
    w_turn(&w);
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "dead");
    assert_non_null(strstr(end->text, "spawn"));
    w_close(&w);
}

/* ---- registry ---- */

static const char hash_a[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
static const char hash_b[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

static void publish(world *w, const char *type, const char *name, const char *meta,
                    const char *blob)
{
    char id[MQ_ULID_SIZE];
    w_forget(w);
    w_worker(w, 31, 1);
    w_submit(w, id, "echo", "x");
    w_turn(w);
    w_entry job = *w_expect(w, MQ_OUT_JOB, id);
    mq_span blobs[1] = {mq_str(blob)};
    mq_msg_published p = {.type = mq_str(type),
                          .name = mq_str(name),
                          .meta = mq_str(meta),
                          .blobs = blobs,
                          .blobs_count = blob == NULL ? 0 : 1};
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = job.epoch,
                               .grant = job.grant,
                               .class = mq_str("ok"),
                               .publish = &p,
                               .publish_count = 1};
    w_result_item(w, 31, &item, "{}");
    w_turn(w);
    assert_string_equal(w_expect(w, MQ_OUT_VERDICT, id)->verdict, "ok");
    mq_input in = {.type = MQ_IN_BYE, .conn = 131, .as.worker = mq_str(w_uuid(31))};
    w_step(w, &in);
    w_turn(w);
}

static uint32_t resolve(world *w, mq_entry_type type, const char *name, char meta[200])
{
    mq_entry_view view;
    mq_error err = {0};
    static mq_entry entry;
    if (mq_core_resolve(w->core, type, mq_str(name), &view, &err) != MQ_OK) {
        assert_non_null(strstr(err.text, name));
        return 0;
    }
    assert_int_equal(mq_entry_read(view.value, &entry, &err), MQ_OK);
    w_copy(meta, 200, entry.meta);
    return type == MQ_ENTRY_MEMO ? 1 : view.key.version;
}

static void versions_count_upwards_and_aliases_are_compare_and_set(void **unused)
{
    (void)unused;
    world w;
    char meta[200];
    w_open(&w);
    publish(&w, "model", "m", "{\"v\":1}", hash_a);
    publish(&w, "model", "m", "{\"v\":2}", hash_b);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m", meta), 2);
    assert_string_equal(meta, "{\"v\":2}");
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m@1", meta), 1);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m@3", meta), 0);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m@prod", meta), 0);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "other", meta), 0);
    command(&w, "alias", "m", "prod", "1", "0");
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m", meta), 1);
    command(&w, "alias", "m", "prod", "2", "2");
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "conflict");
    command(&w, "alias", "m", "prod", "7", "");
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "not_found");
    command(&w, "alias", "m", "prod", "2", "1");
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    w_crash(&w);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m@prod", meta), 2);
    publish(&w, "model", "m", "{\"v\":3}", hash_b);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m", meta), 2);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m@3", meta), 3);
    w_close(&w);
}

static void a_version_with_an_alias_is_not_deleted_and_numbers_never_return(void **unused)
{
    (void)unused;
    world w;
    char meta[200];
    w_open(&w);
    publish(&w, "model", "m", "{}", hash_a);
    publish(&w, "model", "m", "{}", hash_b);
    command(&w, "alias", "m", "prod", "2", "");
    w_expect(&w, MQ_OUT_REPLY, NULL);
    command(&w, "delete-version", "m", "2", NULL, NULL);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "conflict");
    command(&w, "alias", "m", "prod", "1", "");
    w_expect(&w, MQ_OUT_REPLY, NULL);
    command(&w, "delete-version", "m", "2", NULL, NULL);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    assert_int_equal(w.unpinned_count, 1);
    assert_string_equal(w.unpinned[0], hash_b);
    w_crash(&w);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m@2", meta), 0);
    publish(&w, "model", "m", "{}", hash_b);
    assert_int_equal(resolve(&w, MQ_ENTRY_MODEL, "m@3", meta), 3);
    w_close(&w);
}

static void a_job_gets_its_model_as_it_stands_when_it_is_sent(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    command(&w, "pause", "later", NULL, NULL, NULL);
    publish(&w, "model", "m", "{}", hash_a);
    w_id(&w, id);
    mq_msg_submit_job item = {
        .id = mq_str(id), .kind = mq_str("echo"), .model = mq_str("m"), .queue = mq_str("later")};
    w_submit_item(&w, 1, 1, &item, "x");
    publish(&w, "model", "m", "{}", hash_b);
    w_worker(&w, 1, 1);
    command(&w, "resume", "later", NULL, NULL, NULL);
    w_entry *job = w_expect(&w, MQ_OUT_JOB, id);
    assert_string_equal(job->model, "m@2");
    assert_string_equal(job->text, hash_b);
    w_close(&w);
}

static void equal_work_is_not_done_twice(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], meta[200];
    w_open(&w);
    publish(&w, "memo", "key/1@x", "{\"version\":7}", NULL);
    assert_int_equal(resolve(&w, MQ_ENTRY_MEMO, "key/1@x", meta), 1);
    w_id(&w, id);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo"), .memo = mq_str("key/1@x")};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "ok");
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "succeeded");
    assert_string_equal(end->why, "memo");
    assert_string_equal(end->payload, "{\"version\":7}");
    w_ready_held(&w, 1, 1, "another fingerprint", NULL, 0);
    w_credit(&w, 1, 1, 1, 0);
    w_id(&w, id);
    item.id = mq_str(id);
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, id); /* equal bits are not promised there: it runs */
    w_close(&w);
}

static void work_that_waits_ends_when_its_equal_is_done(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_id(&w, id);
    mq_msg_submit_job item = {
        .id = mq_str(id), .kind = mq_str("echo"), .memo = mq_str("k"), .priority = 0};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    /* While it waits the same memo is made by another job, which goes first. */
    char other[MQ_ULID_SIZE];
    w_id(&w, other);
    mq_msg_submit_job first = {.id = mq_str(other), .kind = mq_str("echo"), .priority = 9};
    w_submit_item(&w, 1, 1, &first, "x");
    w_turn(&w);
    w_worker(&w, 1, 1);
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, other);
    mq_msg_published p = {.type = mq_str("memo"), .name = mq_str("k"), .meta = mq_str("{\"r\":1}")};
    mq_msg_result_item result = {.id = mq_str(other),
                                 .epoch = job.epoch,
                                 .grant = job.grant,
                                 .class = mq_str("ok"),
                                 .publish = &p,
                                 .publish_count = 1};
    w_result_item(&w, 1, &result, "{}");
    w_turn(&w);
    w_credit(&w, 1, 2, 1, 1);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->why, "memo");
    w_expect_none(&w, MQ_OUT_JOB, id);
    w_close(&w);
}

static void a_dead_job_is_brought_back_by_an_operator(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "body of it");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "fatal", NULL);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "dead");
    command(&w, "retry", id, NULL, NULL, NULL);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    w_credit(&w, 1, 2, 1, 1);
    w_turn(&w);
    w_entry again = *w_expect(&w, MQ_OUT_JOB, id);
    assert_string_equal(again.payload, "body of it");
    w_result(&w, 1, &again, "ok", "y");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "succeeded");
    command(&w, "retry", id, NULL, NULL, NULL);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "not_found");
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beats_renew_and_silence_ends_a_lease),
        cmocka_unit_test(a_late_result_of_the_last_holder_counts),
        cmocka_unit_test(a_lease_is_bound_to_its_worker),
        cmocka_unit_test(a_result_of_an_unknown_job_is_told_so),
        cmocka_unit_test(a_run_longer_than_its_limit_is_an_attempt),
        cmocka_unit_test(twenty_lapses_are_undeliverable),
        cmocka_unit_test(an_unknown_worker_is_asked_to_register),
        cmocka_unit_test(credit_is_absolute_and_counts_what_is_under_way),
        cmocka_unit_test(online_slots_are_kept_for_transient_jobs),
        cmocka_unit_test(a_drained_worker_gets_no_more),
        cmocka_unit_test(a_paused_queue_waits_over_a_crash),
        cmocka_unit_test(a_child_runs_when_all_parents_are_stored_as_done),
        cmocka_unit_test(a_failed_parent_cancels_what_hangs_on_it),
        cmocka_unit_test(parents_that_ended_before_are_looked_up_in_the_store),
        cmocka_unit_test(a_crash_between_parent_and_child_loses_nothing),
        cmocka_unit_test(children_of_a_result_come_with_it_or_not_at_all),
        cmocka_unit_test(a_result_with_a_bad_child_ends_the_job_with_the_reason),
        cmocka_unit_test(versions_count_upwards_and_aliases_are_compare_and_set),
        cmocka_unit_test(a_version_with_an_alias_is_not_deleted_and_numbers_never_return),
        cmocka_unit_test(a_job_gets_its_model_as_it_stands_when_it_is_sent),
        cmocka_unit_test(equal_work_is_not_done_twice),
        cmocka_unit_test(work_that_waits_ends_when_its_equal_is_done),
        cmocka_unit_test(a_dead_job_is_brought_back_by_an_operator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
