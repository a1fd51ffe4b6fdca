/* The class `replicated` with a real primary and a real replica that die, stop and are promoted:
 * what was acknowledged of it is there afterwards, what was only durable is counted when it is not.
 */
#include <arpa/inet.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <zmq.h>

#include "tests/support/broker_process.h"

enum { JOBS = 300, WINDOW = 32, LOST = 20 };

typedef struct world {
    mq_test_redis primary, replica;
    broker b;
    peer client;
    int port;
    char follow[64];
} world;

/* A port that was free a moment ago: replication needs TCP. */
static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    close(fd);
    return ntohs(at.sin_port);
}

static void replica_start(world *w)
{
    mq_test_redis_start(&w->replica, w->follow);
}

static void world_open(world *w, const char *const *more)
{
    char line[96];
    memset(w, 0, sizeof *w);
    w->port = free_port();
    (void)snprintf(line, sizeof line, "port %d\nbind 127.0.0.1\nrepl-diskless-sync-delay 0\n",
                   w->port);
    (void)snprintf(w->follow, sizeof w->follow, "replicaof 127.0.0.1 %d\n", w->port);
    mq_test_redis_init(&w->primary);
    mq_test_redis_init(&w->replica);
    mq_test_redis_start(&w->primary, line);
    broker_init(&w->b, &w->primary, "one");
    w->b.more[0] = "--init";
    w->b.more[1] = "--replicate-ms";
    w->b.more[2] = "1000";
    for (int i = 0; more != NULL && more[i] != NULL; i++) {
        w->b.more[3 + i] = more[i];
    }
    broker_start(&w->b);
    peer_open(&w->client, w->b.front);
    hello(&w->client, "client");
}

static void world_close(world *w)
{
    peer_close(&w->client);
    broker_kill(&w->b);
    mq_test_redis_release(&w->primary);
    mq_test_redis_release(&w->replica);
}

static void submit_class(peer *p, const char *id, const char *class)
{
    mq_msg_submit_job job = {
        .id = mq_str(id), .kind = mq_str("echo"), .durability = mq_str(class), .len = strlen(id)};
    mq_msg_submit m = {.rid = 1, .jobs = &job, .jobs_count = 1};
    say(p, MQ_CMD_submit, &m, mq_str(id));
}

/* Verdict for this id. Borrowed until the next message. */
static const mq_msg_submitted_job *verdict_for(peer *p, const char *id)
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (mq_clock_mono_ms() < until_ms) {
        if (!hear(p, 100) || p->command != MQ_CMD_submitted) {
            continue;
        }
        for (uint32_t i = 0; i < p->as.submitted.jobs_count; i++) {
            if (mq_span_is(p->as.submitted.jobs[i].id, id)) {
                return &p->as.submitted.jobs[i];
            }
        }
    }
    fail_msg("no verdict came");
    abort();
}

static bool is_accepted(const mq_msg_submitted_job *j)
{
    return mq_span_is(j->verdict, "ok") || mq_span_is(j->verdict, "dup");
}

/* Submits under one id until it is accepted. */
static void submit_until(world *w, const char *id, const char *class)
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    for (;;) {
        submit_class(&w->client, id, class);
        const mq_msg_submitted_job *j = verdict_for(&w->client, id);
        if (is_accepted(j)) {
            return;
        }
        assert_true(mq_span_is(j->verdict, "busy"));
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(STEP_MS);
    }
}

/* The first verdict of a new id is busy and says why; true when it was accepted instead. */
static bool is_busy_because(world *w, const char *why)
{
    char id[MQ_ULID_SIZE];
    mq_ulid_new(id);
    submit_class(&w->client, id, "replicated");
    const mq_msg_submitted_job *j = verdict_for(&w->client, id);
    bool is_it = mq_span_is(j->verdict, "busy") && j->retry_ms > 0 && j->text.len > 0 &&
                 memmem(j->text.data, j->text.len, why, strlen(why)) != NULL;
    return is_it;
}

static void the_class_is_open_only_while_replicas_confirm(void **unused)
{
    (void)unused;
    static world w;
    char id[MQ_ULID_SIZE];
    world_open(&w, NULL);
    assert_true(is_busy_because(&w, "too few replicas"));
    mq_ulid_new(id);
    submit_until(&w, id, "durable"); /* which does not care */
    replica_start(&w);
    mq_ulid_new(id);
    submit_until(&w, id, "replicated");
    submit_class(&w.client, id, "replicated");
    assert_true(mq_span_is(verdict_for(&w.client, id)->verdict, "dup"));
    /* A replica that hangs: the job at hand is stored and not acknowledged, the class closes. */
    kill(w.replica.pid, SIGSTOP);
    mq_ulid_new(id);
    submit_class(&w.client, id, "replicated");
    const mq_msg_submitted_job *j = verdict_for(&w.client, id);
    assert_true(mq_span_is(j->verdict, "busy"));
    assert_true(is_busy_because(&w, "too few replicas"));
    char other[MQ_ULID_SIZE];
    mq_ulid_new(other);
    submit_until(&w, other, "durable");
    submit_class(&w.client, id, "replicated"); /* still nobody has it */
    assert_true(mq_span_is(verdict_for(&w.client, id)->verdict, "busy"));
    kill(w.replica.pid, SIGCONT);
    submit_until(&w, id, "replicated");
    /* One that dies, and comes back. */
    mq_test_redis_kill(&w.replica);
    log_wait(&w.b, "class=closed confirmed_by=0");
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (!is_busy_because(&w, "too few replicas")) {
        assert_true(mq_clock_mono_ms() < until_ms);
    }
    replica_start(&w);
    mq_ulid_new(id);
    submit_until(&w, id, "replicated");
    world_close(&w);
}

/* ---- jobs flow ---- */

typedef struct tracked {
    char id[MQ_ULID_SIZE];
    bool is_replicated, is_acked, is_done;
    int64_t sent_ms;
} tracked;

typedef struct flow {
    tracked all[JOBS];
    int acked, done;
} flow;

static tracked *tracked_of(flow *f, mq_span id)
{
    for (int i = 0; i < JOBS; i++) {
        if (mq_span_is(id, f->all[i].id)) {
            return &f->all[i];
        }
    }
    return NULL;
}

static void flow_hear(world *w, flow *f)
{
    while (hear(&w->client, 1)) {
        const peer *p = &w->client;
        for (uint32_t i = 0; p->command == MQ_CMD_submitted && i < p->as.submitted.jobs_count;
             i++) {
            const mq_msg_submitted_job *j = &p->as.submitted.jobs[i];
            tracked *t = tracked_of(f, j->id);
            if (t != NULL && is_accepted(j) && !t->is_acked) {
                t->is_acked = true;
                f->acked++;
            }
        }
        for (uint32_t i = 0; p->command == MQ_CMD_done && i < p->as.done.jobs_count; i++) {
            tracked *t = tracked_of(f, p->as.done.jobs[i].id);
            if (t != NULL && !t->is_done) {
                t->is_done = true;
                f->done++;
            }
        }
    }
}

/* A turn: a window of the jobs that are not acknowledged is submitted again and again. */
static void flow_turn(world *w, flow *f, echo_worker *worker, int limit)
{
    int64_t now_ms = mq_clock_mono_ms();
    worker_turn(worker, 0);
    flow_hear(w, f);
    int open = 0;
    for (int i = 0; i < limit && open < WINDOW; i++) {
        tracked *t = &f->all[i];
        if (!t->is_acked) {
            open++;
            if (now_ms - t->sent_ms > 500) {
                t->sent_ms = now_ms;
                submit_class(&w->client, t->id, t->is_replicated ? "replicated" : "durable");
            }
        }
    }
}

static void flow_init(flow *f)
{
    memset(f, 0, sizeof *f);
    for (int i = 0; i < JOBS; i++) {
        mq_ulid_new(f->all[i].id);
        f->all[i].is_replicated = i % 3 != 0;
    }
}

/* "" = the store knows no such job. */
static void state_of(world *w, const char *id, char out[16])
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (mq_clock_mono_ms() < until_ms) {
        mq_msg_get get = {.rid = 7, .id = mq_str(id), .want_result = true};
        say(&w->client, MQ_CMD_get, &get, (mq_span){0});
        for (int i = 0; i < 20; i++) {
            if (hear(&w->client, 20) && w->client.command == MQ_CMD_state &&
                mq_span_is(w->client.as.state.id, id)) {
                bool is_known = mq_span_is(w->client.as.state.verdict, "ok");
                (void)mq_span_copy(is_known ? w->client.as.state.state : (mq_span){0}, out, 16);
                return;
            }
        }
    }
    fail_msg("no state came");
}

static void acknowledged_jobs_of_both_classes_survive_a_replica_that_dies_and_hangs(void **unused)
{
    (void)unused;
    static world w;
    static flow f;
    static echo_worker worker;
    world_open(&w, NULL);
    replica_start(&w);
    worker_open(&worker, &w.b, 1);
    flow_init(&f);
    int64_t until_ms = mq_clock_mono_ms() + 3 * WAIT_MS;
    for (int step = 1; f.acked < JOBS || f.done < JOBS; flow_turn(&w, &f, &worker, JOBS)) {
        assert_true(mq_clock_mono_ms() < until_ms);
        if (f.acked < step * JOBS / 6) {
            continue;
        }
        if (step % 2 == 1) {
            kill(w.replica.pid, SIGSTOP);
            for (int i = 0; i < 30; i++) {
                flow_turn(&w, &f, &worker, JOBS);
            }
            kill(w.replica.pid, SIGCONT);
        } else {
            mq_test_redis_kill(&w.replica);
            for (int i = 0; i < 30; i++) {
                flow_turn(&w, &f, &worker, JOBS);
            }
            replica_start(&w);
        }
        step++;
    }
    for (int i = 0; i < JOBS; i++) {
        char state[16];
        state_of(&w, f.all[i].id, state);
        assert_string_equal(state, "succeeded");
    }
    peer_close(&worker.peer);
    world_close(&w);
}

/* ---- failover ---- */

/* The primary and its disk are gone; the replica, as far as it came, starts as a primary. */
static void fail_over(world *w)
{
    char log_folder[128];
    mq_test_redis_kill(&w->primary);
    (void)snprintf(log_folder, sizeof log_folder, "%s/appendonlydir", w->primary.dir);
    assert_int_equal(nftw(log_folder, mq_test_redis_remove, 16, FTW_DEPTH | FTW_PHYS), 0);
    mq_test_redis_kill(&w->replica);
    mq_test_redis_start(&w->replica, NULL);
    /* Its old broker sees that the store has gone and stays closed. */
    kill(w->b.pid, SIGTERM);
    assert_int_equal(broker_wait(&w->b), 0);
    w->b.redis = &w->replica;
}

/* "lost_jobs=N" of the broker's log, -1 when there is none. */
static long said_lost(const broker *b)
{
    FILE *file = fopen(b->log, "r");
    char line[1024];
    long lost_jobs = -1;
    while (fgets(line, sizeof line, file) != NULL) {
        const char *at = strstr(line, "lost_jobs=");
        lost_jobs = at == NULL ? lost_jobs : strtol(at + strlen("lost_jobs="), NULL, 10);
    }
    (void)fclose(file);
    return lost_jobs;
}

static void check_replicated(world *w, const flow *f)
{
    for (int i = 0; i < JOBS; i++) {
        char state[16] = "";
        if (f->all[i].is_replicated && f->all[i].is_acked) {
            state_of(w, f->all[i].id, state);
            if (state[0] == '\0') {
                fail_msg("acknowledged replicated job %s is lost", f->all[i].id);
            }
            /* Its result, once reported, is there too. */
            assert_true(!f->all[i].is_done || strcmp(state, "succeeded") == 0);
        }
    }
}

static void after_a_failover_every_acknowledged_replicated_job_is_there(void **unused)
{
    (void)unused;
    static world w;
    static flow f;
    static echo_worker worker;
    char seen[160];
    mq_test_redis_init(&w.replica); /* for the folder of the witness */
    (void)snprintf(seen, sizeof seen, "%s-witness", w.replica.dir);
    mq_test_redis_release(&w.replica);
    const char *more[] = {"--witness", seen, NULL};
    world_open(&w, more);
    replica_start(&w);
    worker_open(&worker, &w.b, 1);
    flow_init(&f);
    int64_t until_ms = mq_clock_mono_ms() + 3 * WAIT_MS;
    while (f.acked < JOBS / 2) {
        assert_true(mq_clock_mono_ms() < until_ms);
        flow_turn(&w, &f, &worker, JOBS);
    }
    /* What is acknowledged as durable while the replica hangs is what a failover loses. */
    char lost[LOST][MQ_ULID_SIZE];
    kill(w.replica.pid, SIGSTOP);
    for (int i = 0; i < LOST; i++) {
        mq_ulid_new(lost[i]);
        submit_until(&w, lost[i], "durable");
    }
    flow_hear(&w, &f);
    fail_over(&w);
    peer_close(&w.client);
    peer_close(&worker.peer);
    /* Older data are refused until an operator says so. */
    const char *later[] = {"--witness", seen, "--replicas", "0"}; /* there is none yet */
    memcpy(w.b.more, later, sizeof later);
    w.b.more[4] = NULL;
    broker_start(&w.b);
    log_wait(&w.b, "older than what was acknowledged");
    broker_kill(&w.b);
    w.b.more[4] = "--adopt";
    broker_start(&w.b);
    log_wait(&w.b, "older data adopted");
    long lost_jobs = said_lost(&w.b);
    peer_open(&w.client, w.b.front);
    hello(&w.client, "client");
    long gone = 0;
    for (int i = 0; i < LOST; i++) {
        char state[16];
        state_of(&w, lost[i], state);
        gone += state[0] == '\0';
    }
    assert_int_equal(gone, LOST);
    assert_true(lost_jobs >= gone);
    assert_true(lost_jobs <= gone + JOBS); /* those stored and not acknowledged count too */
    check_replicated(&w, &f);
    print_message("lost: %ld durable jobs, said: %ld; replicated: none of those acknowledged\n",
                  gone, lost_jobs);
    world_close(&w);
    nftw(seen, mq_test_redis_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- a former primary that comes back ---- */

static long long owner_number(const mq_test_redis *redis, const char *field)
{
    redisContext *c = redisConnectUnix(redis->socket);
    redisReply *r = redisCommand(c, "HGET {mq:0}:owner %s", field);
    assert_true(r != NULL && r->type == REDIS_REPLY_STRING);
    long long n = strtoll(r->str, NULL, 10);
    freeReplyObject(r);
    redisFree(c);
    return n;
}

/* Ends the broker as a crash does, and starts it over this store. */
static void move_broker(world *w, mq_test_redis *redis)
{
    peer_close(&w->client);
    broker_kill(&w->b);
    w->b.redis = redis;
    broker_start(&w->b);
}

static void client_open(world *w)
{
    peer_open(&w->client, w->b.front);
    hello(&w->client, "client");
}

static void submit_some(world *w, char ids[][MQ_ULID_SIZE], const char *class)
{
    for (int i = 0; i < LOST; i++) {
        mq_ulid_new(ids[i]);
        submit_until(w, ids[i], class);
    }
}

static void check_queued(world *w, char ids[][MQ_ULID_SIZE])
{
    for (int i = 0; i < LOST; i++) {
        char state[16];
        state_of(w, ids[i], state);
        assert_string_equal(state, "queued");
    }
}

/* Brokers that were cut off with it serve the former primary on: its epoch and its sequence become
 * larger than those of the one that was promoted. */
static void live_on(mq_test_redis *former, long long epoch, long long sequence)
{
    static world other;
    memset(&other, 0, sizeof other);
    broker_init(&other.b, former, "other");
    const char *more[] = {"--replicas", "0", NULL};
    memcpy(other.b.more, more, sizeof more);
    broker_start(&other.b);
    client_open(&other);
    char id[MQ_ULID_SIZE];
    do {
        mq_ulid_new(id);
        submit_until(&other, id, "durable");
    } while (owner_number(former, "sequence") <= sequence);
    while (owner_number(former, "epoch") < epoch) {
        long long before = owner_number(former, "epoch");
        broker_kill(&other.b);
        broker_start(&other.b);
        int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
        while (owner_number(former, "epoch") == before) {
            assert_true(mq_clock_mono_ms() < until_ms);
            mq_clock_sleep_ms(STEP_MS);
        }
    }
    peer_close(&other.client);
    kill(other.b.pid, SIGTERM); /* its tenure is not what refuses the next one */
    assert_int_equal(broker_wait(&other.b), 0);
}

static void a_former_primary_that_comes_back_is_refused_whatever_its_epoch(void **unused)
{
    (void)unused;
    static world w;
    char seen[160];
    char before[LOST][MQ_ULID_SIZE], after[LOST][MQ_ULID_SIZE];
    world_open(&w, NULL);
    (void)snprintf(seen, sizeof seen, "%s-witness", w.primary.dir);
    const char *more[] = {"--witness", seen, "--replicas", "0", NULL};
    peer_close(&w.client);
    broker_kill(&w.b);
    const char *first[] = {"--init", "--replicate-ms", "1000", "--witness", seen, NULL};
    memcpy(w.b.more, first, sizeof first);
    broker_start(&w.b);
    client_open(&w);
    replica_start(&w);
    submit_some(&w, before, "replicated");
    /* The primary is gone, and the replica, that has everything, is promoted. */
    mq_test_redis_kill(&w.primary);
    mq_test_redis_kill(&w.replica);
    mq_test_redis_start(&w.replica, NULL);
    memcpy(w.b.more, more, sizeof more);
    move_broker(&w, &w.replica);
    client_open(&w);
    check_queued(&w, before);
    submit_some(&w, after, "durable");
    long long epoch = owner_number(&w.replica, "epoch");
    long long sequence = owner_number(&w.replica, "sequence");
    /* The former one is back. */
    mq_test_redis_start(&w.primary, NULL);
    live_on(&w.primary, epoch, sequence);
    epoch = owner_number(&w.primary, "epoch");
    sequence = owner_number(&w.primary, "sequence");
    move_broker(&w, &w.primary);
    log_wait(&w.b, "another lineage");
    assert_int_equal(owner_number(&w.primary, "epoch"), epoch);
    assert_int_equal(owner_number(&w.primary, "until"), 0); /* nor held */
    broker_kill(&w.b);
    w.b.redis = &w.replica;
    broker_start(&w.b);
    client_open(&w);
    check_queued(&w, before);
    check_queued(&w, after);
    print_message("refused: epoch %lld of %lld, commit %lld of %lld\n", epoch,
                  owner_number(&w.replica, "epoch"), sequence,
                  owner_number(&w.replica, "sequence"));
    world_close(&w);
    nftw(seen, mq_test_redis_remove, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_class_is_open_only_while_replicas_confirm),
        cmocka_unit_test(acknowledged_jobs_of_both_classes_survive_a_replica_that_dies_and_hangs),
        cmocka_unit_test(after_a_failover_every_acknowledged_replicated_job_is_there),
        cmocka_unit_test(a_former_primary_that_comes_back_is_refused_whatever_its_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
