/* Who goes first and who is held back: limits, fairness between tenants, what jobs need. */
#include <string.h>

#include "shared/base/prng.h"
#include "tests/support/core_world.h"

static void command(world *w, const char *verb, const char *const args[], uint32_t count,
                    const char *verdict)
{
    mq_span spans[8];
    for (uint32_t i = 0; i < count; i++) {
        spans[i] = mq_str(args[i]);
    }
    mq_msg_command m = {.rid = 8, .verb = mq_str(verb), .args = spans, .args_count = count};
    mq_input in = {.type = MQ_IN_COMMAND, .conn = 3, .rid = 8, .as.command = &m};
    w_step(w, &in);
    w_turn(w);
    assert_string_equal(w_expect(w, MQ_OUT_REPLY, NULL)->verdict, verdict);
}

static void limit(world *w, const char *target, const char *concurrency, const char *rate,
                  const char *period_ms, const char *burst)
{
    const char *args[] = {target, concurrency, rate, period_ms, burst};
    command(w, "limit", args, 5, "ok");
}

static void tenant(world *w, const char *name, const char *weight, const char *quota)
{
    const char *args[] = {name, weight, quota};
    command(w, "tenant", args, 3, "ok");
}

typedef struct ask {
    const char *kind, *queue, *key, *tenant, *needs;
    uint64_t priority, memory;
} ask;

static void submit(world *w, char id[MQ_ULID_SIZE], ask a)
{
    w_id(w, id);
    mq_msg_submit_job item = {.id = mq_str(id),
                              .kind = mq_str(a.kind == NULL ? "echo" : a.kind),
                              .queue = mq_str(a.queue),
                              .limit_key = mq_str(a.key),
                              .tenant = mq_str(a.tenant),
                              .needs = mq_str(a.needs),
                              .memory_bytes = a.memory,
                              .priority = a.priority};
    w_submit_item(w, 1, 1, &item, "x");
}

static uint32_t running(world *w)
{
    mq_core_stats s;
    mq_core_stats_read(w->core, &s);
    return s.by_state[MQ_STATE_LEASED];
}

/* Ends one job that was sent to worker 1 with `done` jobs before; its slot is free again. */
static void finish(world *w, const w_entry *job)
{
    static uint64_t seq = 100;
    w_entry copy = *job;
    w_result(w, 1, &copy, "ok", "y");
    w_turn(w);
    uint64_t sent = 0;
    for (uint32_t i = 0; i < w->log_count; i++) {
        sent += w->log[i].type == MQ_OUT_JOB && w->log[i].conn == 101;
    }
    w_credit(w, 1, ++seq, 64 - running(w), sent);
    w_turn(w);
}

static mq_hold_view hold_of(world *w, const char *id)
{
    mq_hold_view view;
    uint32_t slot = mq_core_find(w->core, mq_str(id));
    assert_true(slot != MQ_CORE_NO_SLOT);
    assert_true(mq_core_job_hold(w->core, slot, &view));
    return view;
}

/* ---- limits ---- */

static void a_keys_cap_holds_its_jobs_and_no_others(void **unused)
{
    (void)unused;
    world w;
    char a[6][MQ_ULID_SIZE], b[MQ_ULID_SIZE];
    w_open(&w);
    limit(&w, "key=acme", "2", "0", "0", "0");
    for (int i = 0; i < 6; i++) {
        submit(&w, a[i], (ask){.key = "acme"});
    }
    submit(&w, b, (ask){.key = "other"});
    w_worker(&w, 1, 64);
    w_turn(&w);
    w_entry first = *w_expect(&w, MQ_OUT_JOB, a[0]);
    w_expect(&w, MQ_OUT_JOB, a[1]);
    w_expect(&w, MQ_OUT_JOB, b);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    mq_hold_view why = hold_of(&w, a[2]);
    assert_int_equal(why.hold, MQ_HOLD_LIMIT);
    assert_false(why.is_rate);
    assert_int_equal(why.limit.running, 2);
    assert_int_equal(why.limit.concurrency, 2);
    finish(&w, &first);
    w_expect(&w, MQ_OUT_JOB, a[2]);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void a_lapsed_lease_gives_its_place_back(void **unused)
{
    (void)unused;
    world w;
    char a[2][MQ_ULID_SIZE];
    w_open(&w);
    limit(&w, "key=k", "1", "0", "0", "0");
    submit(&w, a[0], (ask){.key = "k"});
    submit(&w, a[1], (ask){.key = "k"});
    w_worker(&w, 1, 4);
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, a[0]);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_sleep(&w, 10000); /* the worker is gone, and its lease */
    w_worker(&w, 2, 4);
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, a[0]);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void a_queues_rate_is_a_bucket_of_tokens(void **unused)
{
    (void)unused;
    world w;
    char id[8][MQ_ULID_SIZE], other[MQ_ULID_SIZE];
    w_open(&w);
    limit(&w, "queue=mail", "0", "2", "1000", "3");
    for (int i = 0; i < 8; i++) {
        submit(&w, id[i], (ask){.queue = "mail"});
    }
    submit(&w, other, (ask){.queue = "default"});
    w_worker(&w, 1, 64);
    w_turn(&w);
    for (int i = 0; i < 3; i++) { /* the burst */
        w_expect(&w, MQ_OUT_JOB, id[i]);
    }
    w_expect(&w, MQ_OUT_JOB, other);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    mq_hold_view why = hold_of(&w, id[3]);
    assert_int_equal(why.hold, MQ_HOLD_LIMIT);
    assert_true(why.is_rate);
    assert_int_equal(why.limit.next_ms, w.now_ms + 500);
    assert_true(mq_core_deadline(w.core) <= w.now_ms + 500);
    w_sleep(&w, 499);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_sleep(&w, 1);
    w_expect(&w, MQ_OUT_JOB, id[3]);
    w_sleep(&w, 1000);
    w_expect(&w, MQ_OUT_JOB, id[4]);
    w_expect(&w, MQ_OUT_JOB, id[5]);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void every_key_has_a_limit_of_its_own_by_the_star(void **unused)
{
    (void)unused;
    world w;
    char a[3][MQ_ULID_SIZE], b[3][MQ_ULID_SIZE], free_one[3][MQ_ULID_SIZE];
    mq_limit_view view;
    w_open(&w);
    limit(&w, "key=*", "1", "0", "0", "0");
    limit(&w, "key=big", "2", "0", "0", "0");
    for (int i = 0; i < 3; i++) {
        submit(&w, a[i], (ask){.key = "small"});
        submit(&w, b[i], (ask){.key = "big"});
        submit(&w, free_one[i], (ask){0});
    }
    w_worker(&w, 1, 64);
    w_turn(&w);
    w_entry small = *w_expect(&w, MQ_OUT_JOB, a[0]);
    w_expect(&w, MQ_OUT_JOB, b[0]);
    w_expect(&w, MQ_OUT_JOB, b[1]);
    for (int i = 0; i < 3; i++) {
        w_expect(&w, MQ_OUT_JOB, free_one[i]);
    }
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    uint32_t in_force = 0;
    for (uint32_t i = 0; i < w.config.limits_max; i++) {
        in_force += mq_core_limit(w.core, i, &view);
    }
    assert_int_equal(in_force, 3); /* the star, big, small */
    finish(&w, &small);
    w_entry next = *w_expect(&w, MQ_OUT_JOB, a[1]);
    finish(&w, &next);
    next = *w_expect(&w, MQ_OUT_JOB, a[2]);
    finish(&w, &next);
    in_force = 0;
    for (uint32_t i = 0; i < w.config.limits_max; i++) {
        in_force += mq_core_limit(w.core, i, &view);
    }
    assert_int_equal(in_force, 2); /* small is not in use any more */
    w_close(&w);
}

static void limits_hold_over_a_crash(void **unused)
{
    (void)unused;
    world w;
    char a[4][MQ_ULID_SIZE];
    w_open(&w);
    limit(&w, "key=k", "2", "0", "0", "0");
    limit(&w, "kind=echo", "0", "1", "60000", "1");
    limit(&w, "kind=echo", "0", "0", "0", "0"); /* removed again */
    for (int i = 0; i < 4; i++) {
        submit(&w, a[i], (ask){.key = "k"});
    }
    w_worker(&w, 1, 64);
    w_turn(&w);
    w_entry job[2] = {*w_expect(&w, MQ_OUT_JOB, a[0]), *w_expect(&w, MQ_OUT_JOB, a[1])};
    w_crash(&w);
    mq_msg_held held[2] = {w_held(&job[0]), w_held(&job[1])};
    w_ready_held(&w, 1, 64, "fp", held, 2);
    w_credit(&w, 1, 1, 62, 0);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL); /* two are leased still */
    assert_int_equal(hold_of(&w, a[2]).limit.running, 2);
    finish(&w, &job[0]);
    w_expect(&w, MQ_OUT_JOB, a[2]);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void a_limit_that_is_set_late_counts_what_runs_and_one_removed_lets_go(void **unused)
{
    (void)unused;
    world w;
    char a[6][MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 64);
    submit(&w, a[0], (ask){.key = "k"});
    submit(&w, a[1], (ask){.key = "k"});
    w_turn(&w);
    w_entry job[2] = {*w_expect(&w, MQ_OUT_JOB, a[0]), *w_expect(&w, MQ_OUT_JOB, a[1])};
    limit(&w, "key=k", "2", "0", "0", "0");
    submit(&w, a[2], (ask){.key = "k"});
    submit(&w, a[3], (ask){.key = "k"});
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    limit(&w, "key=k", "3", "0", "0", "0"); /* wider: blocked ones go on */
    w_expect(&w, MQ_OUT_JOB, a[2]);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    limit(&w, "key=k", "0", "0", "0", "0");
    w_expect(&w, MQ_OUT_JOB, a[3]);
    limit(&w, "key=k", "4", "0", "0", "0");
    finish(&w, &job[0]);
    finish(&w, &job[1]);
    submit(&w, a[4], (ask){.key = "k"});
    submit(&w, a[5], (ask){.key = "k"});
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, a[4]);
    w_expect(&w, MQ_OUT_JOB, a[5]);
    const char *none[] = {"key=nobody", "0", "0", "0", "0"};
    command(&w, "limit", none, 5, "not_found");
    const char *bad[] = {"customer=k", "1", "0", "0", "0"};
    command(&w, "limit", bad, 5, "bad_argument");
    w_close(&w);
}

/* Whatever is set, taken, lost and crashed: no cap is ever exceeded, and in the end all is done. */
static void caps_hold_in_random_lives(void **unused)
{
    (void)unused;
    static const char *const keys[] = {"a", "b", "c", ""};
    world w;
    mq_prng prng = {.state = 42};
    char id[MQ_ULID_SIZE];
    w_open(&w);
    limit(&w, "key=*", "2", "0", "0", "0");
    limit(&w, "queue=q1", "3", "0", "0", "0");
    w_worker(&w, 1, 64);
    for (int step = 0; step < 3000; step++) {
        uint64_t dice = mq_prng_below(&prng, 10);
        if (dice < 5 && step < 2000) {
            submit(&w, id,
                   (ask){.key = keys[mq_prng_below(&prng, 4)],
                         .queue = mq_prng_below(&prng, 2) == 0 ? "q1" : "q2",
                         .tenant = mq_prng_below(&prng, 2) == 0 ? "t1" : "t2",
                         .priority = mq_prng_below(&prng, 10)});
            w_turn(&w);
        } else {
            w_entry *job = w_find(&w, MQ_OUT_JOB, NULL);
            if (job != NULL) {
                finish(&w, job);
            }
        }
        if (step % 500 == 499) {
            limit(&w, "key=b", step % 1000 == 499 ? "1" : "0", "0", "0", "0");
        }
        mq_limit_view view;
        for (uint32_t i = 1; i < 16; i++) {
            if (mq_core_limit(w.core, i, &view)) {
                assert_true(view.running <= view.concurrency || step % 500 > 498 ||
                            mq_span_is(view.name, "b"));
            }
        }
    }
    for (w_entry *job = NULL; (job = w_find(&w, MQ_OUT_JOB, NULL)) != NULL;) {
        finish(&w, job);
    }
    mq_core_stats s;
    mq_core_stats_read(w.core, &s);
    assert_int_equal(s.by_state[MQ_STATE_QUEUED] + s.by_state[MQ_STATE_LEASED], 0);
    w_close(&w);
}

/* ---- fairness ---- */

/* Runs `count` jobs one at a time and counts whose they were. */
static void run_counted(world *w, int count, char ids[][MQ_ULID_SIZE], int first_of_b, int total,
                        int *a, int *b)
{
    *a = *b = 0;
    for (int i = 0; i < count; i++) {
        w_entry *job = w_expect(w, MQ_OUT_JOB, NULL);
        bool is_b = false;
        for (int k = first_of_b; k < total; k++) {
            is_b = is_b || strcmp(ids[k], job->id) == 0;
        }
        *(is_b ? b : a) += 1;
        w_entry copy = *job;
        w_result(w, 1, &copy, "ok", "y");
        w_credit(w, 1, 1000 + (uint64_t)i, 1, 1 + (uint64_t)i);
        w_turn(w);
    }
}

static void a_tenant_with_many_jobs_does_not_delay_one_with_one(void **unused)
{
    (void)unused;
    static char ids[301][MQ_ULID_SIZE];
    world w;
    int a = 0, b = 0;
    w_open(&w);
    for (int i = 0; i < 300; i++) {
        submit(&w, ids[i], (ask){.tenant = "many", .kind = i % 2 == 0 ? "echo" : "sleep"});
    }
    submit(&w, ids[300], (ask){.tenant = "one", .kind = "sleep"});
    w_worker(&w, 1, 1);
    w_turn(&w);
    run_counted(&w, 2, ids, 300, 301, &a, &b);
    assert_int_equal(b, 1);
    w_close(&w);
}

static void shares_follow_the_weights_and_outlive_a_crash(void **unused)
{
    (void)unused;
    static char ids[200][MQ_ULID_SIZE];
    world w;
    int a = 0, b = 0;
    w_open(&w);
    tenant(&w, "gold", "3", "");
    for (int i = 0; i < 200; i++) {
        submit(&w, ids[i], (ask){.tenant = i < 100 ? "gold" : "plain"});
    }
    w_turn(&w);
    w_crash(&w);
    w_worker(&w, 1, 1);
    w_turn(&w);
    run_counted(&w, 80, ids, 100, 200, &a, &b);
    assert_in_range(a, 59, 61);
    assert_in_range(b, 19, 21);
    w_close(&w);
}

static void priority_goes_before_fairness(void **unused)
{
    (void)unused;
    char low[MQ_ULID_SIZE], high[3][MQ_ULID_SIZE];
    world w;
    w_open(&w);
    submit(&w, low, (ask){.tenant = "b", .priority = 4});
    for (int i = 0; i < 3; i++) {
        submit(&w, high[i], (ask){.tenant = "a", .priority = 5});
    }
    w_worker(&w, 1, 3);
    w_turn(&w);
    for (int i = 0; i < 3; i++) {
        w_expect(&w, MQ_OUT_JOB, high[i]);
    }
    w_expect_none(&w, MQ_OUT_JOB, low);
    w_close(&w);
}

static void a_tenant_beyond_its_quota_is_told_to_come_later(void **unused)
{
    (void)unused;
    char id[3][MQ_ULID_SIZE];
    world w;
    w_open(&w);
    tenant(&w, "t", "", "2");
    tenant(&w, "t", "5", ""); /* leaves the quota */
    for (int i = 0; i < 3; i++) {
        submit(&w, id[i], (ask){.tenant = "t"});
        w_turn(&w);
        assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id[i])->verdict, i < 2 ? "ok" : "busy");
    }
    submit(&w, id[2], (ask){.tenant = "u"});
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id[2])->verdict, "ok");
    w_close(&w);
}

/* ---- needs ---- */

static void ready(world *w, uint32_t n, const char *a, const char *b, uint64_t memory)
{
    mq_span kinds[] = {mq_str("echo"), mq_str("infer")};
    mq_span tags[] = {mq_str(a), mq_str(b)};
    mq_msg_ready m = {.worker = mq_str(w_uuid(n)),
                      .name = mq_str("w"),
                      .host = mq_str("h"),
                      .fingerprint = mq_str("fp"),
                      .slots = 8,
                      .kinds = kinds,
                      .kinds_count = 2,
                      .tags = tags,
                      .tags_count = 2,
                      .memory_bytes = memory};
    mq_input in = {.type = MQ_IN_READY, .conn = 100 + n, .as.ready = &m};
    w_step(w, &in);
    w_credit(w, n, 1, 8, 0);
    w_turn(w);
}

static void a_job_waits_for_a_worker_that_has_what_it_needs_and_says_so(void **unused)
{
    (void)unused;
    char id[MQ_ULID_SIZE], plain[MQ_ULID_SIZE];
    world w;
    w_open(&w);
    submit(&w, id, (ask){.needs = "gpu,avx512"});
    submit(&w, plain, (ask){0});
    assert_int_equal(hold_of(&w, id).hold, MQ_HOLD_NO_WORKER);
    ready(&w, 1, "avx512", "region=eu", 0);
    w_expect(&w, MQ_OUT_JOB, plain);
    w_expect_none(&w, MQ_OUT_JOB, id);
    mq_hold_view why = hold_of(&w, id);
    assert_int_equal(why.hold, MQ_HOLD_NO_WORKER);
    assert_int_equal(why.misfit, MQ_MISFIT_TAGS);
    assert_true(mq_span_is(why.needs, "avx512,gpu"));
    w_crash(&w); /* needs are stored */
    ready(&w, 1, "avx512", "region=eu", 0);
    w_expect_none(&w, MQ_OUT_JOB, id);
    ready(&w, 2, "gpu", "avx512", 0);
    assert_int_equal(w_expect(&w, MQ_OUT_JOB, id)->conn, 102);
    w_close(&w);
}

static void memory_that_jobs_name_is_not_given_twice(void **unused)
{
    (void)unused;
    char id[4][MQ_ULID_SIZE];
    world w;
    w_open(&w);
    for (int i = 0; i < 3; i++) {
        submit(&w, id[i], (ask){.memory = 4000});
    }
    submit(&w, id[3], (ask){.memory = 9001});
    ready(&w, 1, "x", "y", 9000);
    w_entry first = *w_expect(&w, MQ_OUT_JOB, id[0]);
    w_expect(&w, MQ_OUT_JOB, id[1]);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    assert_int_equal(hold_of(&w, id[3]).misfit, MQ_MISFIT_MEMORY);
    finish(&w, &first);
    w_expect(&w, MQ_OUT_JOB, id[2]);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void bad_needs_are_refused_by_name(void **unused)
{
    (void)unused;
    static const char *const bad[] = {"a b", ",", "a,b,c,d,e,f,g,h,i", "mem=many",
                                      "a-tag-of-more-than-thirty-two-bytes"};
    char id[MQ_ULID_SIZE];
    world w;
    w_open(&w);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        submit(&w, id, (ask){.needs = bad[i]});
        w_entry *e = w_expect(&w, MQ_OUT_SUBMITTED, id);
        assert_string_equal(e->verdict, "bad_argument");
        assert_memory_equal(e->text, "needs", 5);
    }
    w_close(&w);
}

static void a_job_goes_to_the_worker_that_had_its_model(void **unused)
{
    (void)unused;
    world w;
    uint64_t conn[2] = {0};
    w_open(&w);
    ready(&w, 1, "x", "y", 0);
    ready(&w, 2, "x", "y", 0);
    for (int i = 0; i < 8; i++) {
        char id[MQ_ULID_SIZE];
        w_id(&w, id);
        mq_msg_submit_job item = {
            .id = mq_str(id), .kind = mq_str("echo"), .model = mq_str(i % 2 == 0 ? "a" : "b")};
        w_submit_item(&w, 1, 1, &item, "x");
        w_turn(&w);
        w_entry *job = w_expect(&w, MQ_OUT_JOB, id);
        if (i < 2) {
            conn[i] = job->conn;
        } else {
            assert_int_equal(job->conn, conn[i % 2]);
        }
    }
    assert_true(conn[0] != conn[1]);
    w_close(&w);
}

/* ---- kinds and queues that stand still ---- */

static void crash_one(world *w, char id[MQ_ULID_SIZE])
{
    submit(w, id, (ask){0});
    w_turn(w);
    w_entry job = *w_expect(w, MQ_OUT_JOB, id);
    w_result(w, 1, &job, "crash", NULL);
    w_turn(w);
}

static void a_kind_whose_jobs_crash_in_a_row_is_paused_until_it_is_resumed(void **unused)
{
    (void)unused;
    char id[4][MQ_ULID_SIZE], next[MQ_ULID_SIZE], other[MQ_ULID_SIZE];
    world w;
    mq_kind_view kind;
    mq_core_stats stats;
    mq_core_config config = w_config();
    config.quarantine_jobs = 3;
    w_open_config(&w, &config);
    w_worker(&w, 1, 64);
    crash_one(&w, id[0]);
    crash_one(&w, id[1]);
    submit(&w, next, (ask){0}); /* a success begins the row anew */
    w_turn(&w);
    w_entry good = *w_expect(&w, MQ_OUT_JOB, next);
    finish(&w, &good);
    for (int i = 0; i < 3; i++) {
        assert_false(mq_core_kind(w.core, mq_str("echo"), &kind));
        crash_one(&w, id[i]);
        if (i == 1) { /* one that found no slot free says nothing about the kind */
            submit(&w, id[3], (ask){0});
            w_turn(&w);
            w_entry unrun = *w_expect(&w, MQ_OUT_JOB, id[3]);
            w_result(&w, 1, &unrun, "return", NULL);
            w_turn(&w);
        }
    }
    assert_true(mq_core_kind(w.core, mq_str("echo"), &kind));
    assert_int_equal(kind.quarantined_after, 3);
    w_forget(&w);
    w_crash(&w); /* the quarantine is stored */
    w_worker(&w, 2, 64);
    mq_core_stats_read(w.core, &stats);
    assert_int_equal(stats.kinds_quarantined, 1);
    submit(&w, next, (ask){0});
    submit(&w, other, (ask){.kind = "sleep"});
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, other);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    assert_int_equal(hold_of(&w, next).hold, MQ_HOLD_KIND_PAUSED);
    const char *args[] = {"echo"};
    command(&w, "resume-kind", args, 1, "ok");
    w_expect(&w, MQ_OUT_JOB, next);
    mq_core_stats_read(w.core, &stats);
    assert_int_equal(stats.kinds_paused, 0);
    w_close(&w);
}

static void one_poison_job_puts_no_kind_into_quarantine(void **unused)
{
    (void)unused;
    char id[MQ_ULID_SIZE];
    world w;
    mq_kind_view kind;
    mq_core_config config = w_config();
    config.quarantine_jobs = 2;
    w_open_config(&w, &config);
    w_worker(&w, 1, 64);
    crash_one(&w, id);
    for (int i = 0; i < 2; i++) {
        w_sleep(&w, 2500);
        w_worker(&w, 1, 64);
        w_turn(&w);
        w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
        w_result(&w, 1, &job, "crash", NULL);
        w_turn(&w);
    }
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->why, "poison");
    assert_false(mq_core_kind(w.core, mq_str("echo"), &kind));
    assert_int_equal(kind.crash_row, 1);
    w_close(&w);
}

static void a_paused_kind_starts_nothing_and_a_drained_queue_takes_nothing(void **unused)
{
    (void)unused;
    char id[3][MQ_ULID_SIZE];
    const char *echo[] = {"echo"}, *mail[] = {"mail"};
    world w;
    w_open(&w);
    command(&w, "pause-kind", echo, 1, "ok");
    submit(&w, id[0], (ask){.queue = "mail"});
    command(&w, "drain-queue", mail, 1, "ok");
    w_crash(&w); /* both are stored */
    w_worker(&w, 1, 64);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_forget(&w);
    submit(&w, id[1], (ask){.queue = "mail"});
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id[1])->verdict, "busy");
    submit(&w, id[2], (ask){.queue = "other"});
    command(&w, "resume-kind", echo, 1, "ok");
    w_expect(&w, MQ_OUT_JOB, id[0]); /* what a drained queue has runs */
    w_expect(&w, MQ_OUT_JOB, id[2]);
    command(&w, "resume", mail, 1, "ok");
    submit(&w, id[1], (ask){.queue = "mail"});
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, id[1]);
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_keys_cap_holds_its_jobs_and_no_others),
        cmocka_unit_test(a_lapsed_lease_gives_its_place_back),
        cmocka_unit_test(a_queues_rate_is_a_bucket_of_tokens),
        cmocka_unit_test(every_key_has_a_limit_of_its_own_by_the_star),
        cmocka_unit_test(limits_hold_over_a_crash),
        cmocka_unit_test(a_limit_that_is_set_late_counts_what_runs_and_one_removed_lets_go),
        cmocka_unit_test(caps_hold_in_random_lives),
        cmocka_unit_test(a_tenant_with_many_jobs_does_not_delay_one_with_one),
        cmocka_unit_test(shares_follow_the_weights_and_outlive_a_crash),
        cmocka_unit_test(priority_goes_before_fairness),
        cmocka_unit_test(a_tenant_beyond_its_quota_is_told_to_come_later),
        cmocka_unit_test(a_job_waits_for_a_worker_that_has_what_it_needs_and_says_so),
        cmocka_unit_test(memory_that_jobs_name_is_not_given_twice),
        cmocka_unit_test(bad_needs_are_refused_by_name),
        cmocka_unit_test(a_job_goes_to_the_worker_that_had_its_model),
        cmocka_unit_test(a_kind_whose_jobs_crash_in_a_row_is_paused_until_it_is_resumed),
        cmocka_unit_test(one_poison_job_puts_no_kind_into_quarantine),
        cmocka_unit_test(a_paused_kind_starts_nothing_and_a_drained_queue_takes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
