/* The train kind in real slots of real supervisors, over the real gang plane: the same manifest
 * gives the same weights on one worker, on several, by any transport, and when members are killed.
 * The broker is played by the test, by the rules of rosters and checkpoints. */
#include "tests/worker/fake_broker.h"
#include "tests/worker/train_fixture.h"
#include "worker/slot/local_host.h"
#include "worker/slot/slot_main.h"

enum { MEMBERS_MAX = 4, CHECKPOINTS_SKIPPED = 1 };

typedef enum victim { NOBODY, A_SUPERVISOR, A_SLOT } victim;

typedef struct scenario {
    const char *mode, *transport;
    uint32_t workers;
    bool is_spread; /* the last worker says that it is on another host */
    victim victim;  /* the second member, once the first checkpoint was offered */
} scenario;

static fake_broker f;
static mq_local_host *world; /* blobs and registry */
static char world_dir[160];

static int open_world(void **state)
{
    (void)state;
    fake_open(&f);
    (void)snprintf(world_dir, sizeof world_dir, "%s/world", f.dir);
    (void)snprintf(f.blobs, sizeof f.blobs, "dir:%s/blob", world_dir);
    assert_int_equal(mq_local_host_new(&world, world_dir, NULL), MQ_OK);
    static uint8_t x[FX_ROWS * FX_FEATURES], y[FX_ROWS];
    char hash[MQ_SHA256_HEX], path[300], meta[600];
    fx_rows(FX_ROWS, x, y);
    mq_st_entry entries[2] = {
        {mq_str("x"), {MQ_DT_U8, {2, {FX_ROWS, FX_FEATURES}}, x, sizeof x}},
        {mq_str("y"), {MQ_DT_U8, {1, {FX_ROWS}}, y, sizeof y}},
    };
    mq_buf bytes;
    mq_buf_init(&bytes, 1 << 20);
    assert_int_equal(mq_safetensors_write(entries, 2, mq_str(""), &bytes, NULL), MQ_OK);
    assert_int_equal(mq_local_host_put(world, mq_buf_span(&bytes), hash, NULL), MQ_OK);
    mq_buf_release(&bytes);
    (void)snprintf(path, sizeof path, "%s/dataset/d", world_dir);
    assert_int_equal(mq_dir_make(path, NULL), MQ_OK);
    (void)snprintf(path, sizeof path, "%s/dataset/d/1.json", world_dir);
    (void)snprintf(meta, sizeof meta,
                   "{\"name\":\"d\",\"version\":1,\"meta\":{\"rows\":%d,\"features\":{\"x\":{"
                   "\"dtype\":\"uint8\",\"shape\":[%d]},\"y\":{\"dtype\":\"uint8\",\"classes\":%d}"
                   "},\"shards\":[{\"blob\":\"%s\",\"rows\":%d}]}}",
                   FX_ROWS, FX_FEATURES, FX_CLASSES, hash, FX_ROWS);
    assert_int_equal(mq_file_write(path, mq_str(meta), 0600, NULL), MQ_OK);
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    mq_local_host_free(world);
    fake_close(&f);
    return 0;
}

/* --- the broker's part --- */

typedef struct gang {
    fake_member members[MEMBERS_MAX];
    uint32_t count;
    uint64_t epoch, step, checkpoints;
} gang;

static void answer_query(void)
{
    char what[40], name[200];
    mq_buf json;
    mq_error err;
    mq_buf_init(&json, 1 << 20);
    mq_span_copy(f.m.query.what, what, sizeof what);
    mq_span_copy(f.m.query.name, name, sizeof name);
    mq_code code = mq_local_host_query(world, what, name, &json, &err);
    mq_msg_answer a = {.rid = f.m.query.rid,
                       .verdict = mq_str(mq_code_name(code)),
                       .text = mq_str(code == MQ_OK ? "" : err.text)};
    fake_send(&f, f.from, MQ_CMD_answer, &a, mq_buf_span(&json));
    mq_buf_release(&json);
}

static void answer_checkpoint(gang *g)
{
    const mq_msg_checkpoint *m = &f.m.checkpoint;
    bool is_ok = m->gang_epoch == g->epoch && m->step > g->step;
    g->checkpoints++;
    g->step = is_ok ? m->step : g->step;
    mq_msg_checkpointed c = {
        .id = m->id, .grant = m->grant, .step = m->step, .verdict = mq_str(is_ok ? "ok" : "stale")};
    fake_send(&f, f.from, MQ_CMD_checkpointed, &c, (mq_span){0});
}

/* The member with this seat is gone: the others get a new roster. */
static void leave(gang *g, uint64_t seat)
{
    uint32_t at = 0;
    while (at < g->count && g->members[at].seat != seat) {
        at++;
    }
    if (at == g->count) {
        return;
    }
    g->count--;
    memmove(&g->members[at], &g->members[at + 1], (g->count - at) * sizeof g->members[0]);
    assert_true(g->count > 0);
    g->epoch++;
    fake_roster(&f, g->members, g->count, g->epoch);
}

static uint64_t seat_of(const gang *g, uint64_t grant)
{
    for (uint32_t i = 0; i < g->count; i++) {
        if (g->members[i].grant == grant) {
            return g->members[i].seat;
        }
    }
    return UINT64_MAX;
}

/* True when this message holds the gang's result; its weights' hash into out. */
static bool take_results(gang *g, char out[MQ_SHA256_HEX])
{
    bool is_done = false;
    size_t at = 0;
    for (uint32_t i = 0; i < f.m.result.jobs_count; i++) {
        const mq_msg_result_item *r = &f.m.result.jobs[i];
        if (mq_span_is(r->class, "ok")) {
            char json[8192];
            mq_span_copy(mq_span_of(f.payload.data + at, r->len), json, sizeof json);
            fx_field(json, "weights_hash", out, MQ_SHA256_HEX);
            is_done = true;
        } else if (seat_of(g, r->grant) != UINT64_MAX) {
            if (!mq_span_is(r->class, "crash")) {
                fail_msg("%.*s %.*s", MQ_SPAN_ARG(r->class), MQ_SPAN_ARG(r->error));
            }
            leave(g, seat_of(g, r->grant));
        }
        at += r->len;
    }
    return is_done;
}

static void run(const scenario *sc, char out[MQ_SHA256_HEX])
{
    char body[600];
    gang g = {.count = sc->workers, .epoch = 1};
    bool is_killed = sc->victim == NOBODY;
    (void)snprintf(body, sizeof body,
                   "{\"model\":\"m\",\"data\":\"d@1\",\"batch\":64,\"epochs\":240,"
                   "\"init\":{\"arch\":\"mlp:20-24-16-4\"},\"mode\":\"%s\","
                   "\"run\":{\"commit_ms\":10,\"reuse\":false,\"transport\":\"%s\"}}",
                   sc->mode, sc->transport);
    uint32_t first = f.worker_count;
    for (uint32_t i = 0; i < sc->workers; i++) {
        bool is_far = sc->is_spread && i + 1 == sc->workers;
        uint32_t w = fake_start(
            &f, "1", is_far ? (const char *const[]){"--host-id", "elsewhere", NULL} : NULL);
        fake_wait_free(&f, w, 1);
        g.members[i] = (fake_member){w, i, 0};
    }
    for (uint32_t i = 0; i < sc->workers; i++) {
        fake_gang_job(&f, g.members, sc->workers, i, 1, "train", body);
    }
    int64_t until_ms = mq_clock_mono_ms() + FAKE_WAIT_MS;
    for (bool is_done = false; !is_done;) {
        assert_true(mq_clock_mono_ms() < until_ms);
        if (!fake_receive(&f, 1000) || fake_routine(&f)) {
            continue;
        }
        if (f.command == MQ_CMD_query) {
            answer_query();
        } else if (f.command == MQ_CMD_checkpoint) {
            answer_checkpoint(&g);
        } else if (f.command == MQ_CMD_lost && f.m.lost.gang_epoch == g.epoch) {
            leave(&g, f.m.lost.seat);
        } else if (f.command == MQ_CMD_result) {
            is_done = take_results(&g, out);
        }
        if (!is_killed && g.checkpoints > CHECKPOINTS_SKIPPED) {
            is_killed = true;
            pid_t pid =
                sc->victim == A_SLOT ? fake_slot_pid(&f, first + 1) : f.workers[first + 1].pid;
            assert_int_equal(kill(pid, SIGKILL), 0);
        }
    }
    assert_true(is_killed);
    assert_int_equal(g.count, sc->workers - (sc->victim != NOBODY));
    for (uint32_t i = first; i < f.worker_count; i++) {
        kill(f.workers[i].pid, SIGKILL);
        (void)fake_reap(&f, i);
    }
    f.worker_count = first;
}

/* --- tests --- */

static void compare(const scenario *scenarios, size_t count)
{
    char calm[MQ_SHA256_HEX], other[MQ_SHA256_HEX];
    run(&(scenario){"gang", "auto", 1, false, NOBODY}, calm);
    for (size_t i = 0; i < count; i++) {
        run(&scenarios[i], other);
        assert_string_equal(other, calm);
    }
}

static void any_number_of_workers_and_any_transport_give_the_same_weights(void **state)
{
    (void)state;
    compare((const scenario[]){{"gang", "shm", 2, false, NOBODY},
                               {"gang", "message", 2, false, NOBODY},
                               {"gang", "auto", 3, true, NOBODY},
                               {"pipeline:2", "auto", 2, false, NOBODY},
                               {"pipeline:2", "auto", 2, true, NOBODY}},
            5);
}

static void a_killed_member_changes_no_weight(void **state)
{
    (void)state;
    compare((const scenario[]){{"gang", "auto", 2, false, A_SUPERVISOR},
                               {"gang", "auto", 3, false, A_SLOT},
                               {"gang", "message", 3, true, A_SUPERVISOR},
                               {"pipeline:2", "auto", 2, false, A_SLOT}},
            4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_world, close_world)

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--slot") == 0) {
        return mq_slot_main((int)strtol(argv[2], NULL, 10));
    }
    if (argc > 2 && strcmp(argv[1], "--broker") == 0) {
        return fake_worker_main(argc, argv);
    }
    const struct CMUnitTest tests[] = {
        TEST(any_number_of_workers_and_any_transport_give_the_same_weights),
        TEST(a_killed_member_changes_no_weight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
