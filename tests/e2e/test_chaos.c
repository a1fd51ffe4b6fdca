/* The promise of the queue, with real processes: clients submit to all shards of several brokers
 * while brokers, workers, slots, clients and both redis-servers are killed with SIGKILL, stopped
 * past their lease or tenure and cut off the network at random moments, and while an operator moves
 * shards and drains brokers. Every acknowledged job must reach one terminal state with
 * at most one commit, and none may be dead but the planted poison.
 *
 * The short form is a test; `make chaos SECONDS=n SEED=s` the long one, which has links of its own
 * to cut where the machine allows network namespaces. MAASQ_CHAOS_SECONDS and MAASQ_SEED do the
 * same. */
#include "tests/e2e/chaos_check.h"

#include <sys/prctl.h>
#include <sys/wait.h>

#include "shared/base/prng.h"
#include "tests/support/system.h"
#include "tests/support/volume.h"

enum {
    SECONDS = 14,
    LONG_SECONDS = 40, /* from here on with network namespaces */
    WORKERS = 3,
    CLIENTS = 3,
    BROKERS = 3,
    SHARDS = 4,
    SLOTS = 2,
    LEASE_MS = 2000,
    TENURE_MS = 1500,
    STEP_MS = 20,
    PAUSE_MS = 600, /* mean time between two faults */
    BUSY_MAX = 3,   /* processes that are away at a time */
    END_MS = 240000,
    GROW_JOBS = 8,     /* ended jobs of each shard that show that the service runs */
    GROW_MS = 1500,    /* and at least so long, so that all brokers have seen them in the table */
    WISH_MS = 900,     /* mean time between two wishes of the operator */
    REFUSED_MS = 2500, /* nothing may be acknowledged for so long */
    DISK_BYTES = 96 << 20,
};

typedef enum fault { KILL, STOP, CUT, BLOCK, FAULTS } fault;

typedef enum victim { BROKER, WORKER, SLOT, CLIENT, STATE, BLOBS, VICTIMS } victim;

static const char *const victim_names[] = {"broker", "worker", "slot", "client", "redis", "blobs"};

/* Out of 100: how often a fault hits whom; how long it lasts, in ms. */
static const struct {
    victim who;
    fault what;
    int weight, from_ms, to_ms;
    bool needs_net;
} faults[] = {
    {BROKER, KILL, 12, 0, 1500, false},   {WORKER, KILL, 16, 0, 1500, false},
    {SLOT, KILL, 13, 0, 0, false},        {CLIENT, KILL, 14, 0, 1500, false},
    {STATE, KILL, 9, 0, 1500, false},     {BLOBS, KILL, 3, 0, 1500, false},
    {BROKER, STOP, 8, 1000, 4500, false}, /* past the tenure: another one takes over */
    {WORKER, STOP, 6, 1000, 6000, false}, /* past the lease: its results are stale */
    {SLOT, STOP, 3, 500, 4000, false},    {CLIENT, STOP, 2, 500, 8000, false},
    {STATE, STOP, 3, 500, 7000, false}, /* past what a commit is waited for */
    {BROKER, CUT, 3, 1000, 5000, true},   {WORKER, CUT, 4, 1000, 6000, true},
    {CLIENT, CUT, 2, 1000, 8000, true},   {BROKER, BLOCK, 2, 1000, 5000, true},
};

typedef enum wish { MOVE, MOVE_AUTO, DRAIN, UNDRAIN, WISHES } wish;

typedef struct away {
    bool is_away;
    fault what;
    int64_t back_ms; /* monotonic */
    sys_role role;
    int index;
    pid_t slot; /* STOP of one of a worker's children */
} away;

typedef struct chaos {
    sys s;
    net net;
    bool has_net;
    mq_prng prng;
    away away[SYS_PLACES];
    int counts[FAULTS][VICTIMS];
    int kills, phases;
    pid_t wish; /* of the operator, under way; 0 = none */
    int64_t wish_ms;
    int wish_kind, wishes[WISHES]; /* that were accepted */
} chaos;

static int number_from(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text == NULL || text[0] == '\0' ? otherwise : (int)strtol(text, NULL, 10);
}

static uint64_t draw(chaos *c, uint64_t n)
{
    return mq_prng_below(&c->prng, n);
}

static int count_away(const chaos *c)
{
    int count = 0;
    for (int i = 0; i < SYS_PLACES; i++) {
        count += c->away[i].is_away;
    }
    return count;
}

/* ---- faults ---- */

static void bring_back(chaos *c, away *a)
{
    int node = sys_node(a->role, a->index);
    a->is_away = false;
    if (a->what == KILL) {
        sys_spawn(&c->s, a->role, a->index);
    } else if (a->what == STOP) {
        kill(a->slot > 0 ? a->slot : sys_pid(&c->s, a->role, a->index), SIGCONT);
    } else if (a->what == CUT) {
        net_cut(&c->net, node, false);
    } else {
        net_block(&c->net, node, 0, false);
    }
}

static void bring_back_due(chaos *c, int64_t now_ms)
{
    for (int i = 0; i < SYS_PLACES; i++) {
        if (c->away[i].is_away && now_ms >= c->away[i].back_ms) {
            bring_back(c, &c->away[i]);
        }
    }
}

/* A slot of a worker, or 0. */
static pid_t some_slot(chaos *c, int worker)
{
    pid_t slots[SYS_SLOTS_MAX];
    int count = sys_children(sys_pid(&c->s, SYS_WORKER, worker), slots);
    return count == 0 ? 0 : slots[draw(c, (uint64_t)count)];
}

static void strike(chaos *c, size_t which)
{
    static const sys_role roles[] = {SYS_BROKER, SYS_WORKER,      SYS_WORKER,
                                     SYS_CLIENT, SYS_STATE_REDIS, SYS_BLOB_REDIS};
    static const int many[] = {BROKERS, WORKERS, WORKERS, CLIENTS, 1, 1};
    victim who = faults[which].who;
    fault what = faults[which].what;
    sys_role role = roles[who];
    int index = (int)draw(c, (uint64_t)many[who]);
    int length_ms = faults[which].to_ms - faults[which].from_ms;
    away *a = &c->away[sys_place(role, index)];
    pid_t slot = who == SLOT && !a->is_away ? some_slot(c, index) : 0;
    if (a->is_away || (who == SLOT && slot == 0)) {
        return;
    }
    int64_t lasts_ms = faults[which].from_ms + (int64_t)draw(c, (uint64_t)length_ms + 1);
    *a = (away){true, what, mq_clock_mono_ms() + lasts_ms, role, index, slot};
    c->counts[what][who]++;
    c->kills += what == KILL;
    if (what == KILL && who == SLOT) {
        kill(slot, SIGKILL);
        a->is_away = false; /* its worker brings it back */
    } else if (what == KILL) {
        sys_kill(&c->s, role, index, SIGKILL);
    } else if (what == STOP) {
        kill(slot > 0 ? slot : sys_pid(&c->s, role, index), SIGSTOP);
    } else if (what == CUT) {
        net_cut(&c->net, sys_node(role, index), true);
    } else {
        net_block(&c->net, sys_node(role, index), 0, true);
    }
}

static void strike_something(chaos *c)
{
    int at = (int)draw(c, 100);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        at -= faults[i].weight;
        if (at < 0) {
            if (c->has_net || !faults[i].needs_net) {
                strike(c, i);
            }
            return;
        }
    }
}

/* ---- what an operator wishes meanwhile ---- */

static void wish_something(chaos *c)
{
    char program[600], shard[8], broker[8];
    snprintf(program, sizeof program, "%s/maasq", c->s.bin);
    snprintf(shard, sizeof shard, "%d", (int)draw(c, SHARDS));
    snprintf(broker, sizeof broker, "b%d", (int)draw(c, BROKERS));
    static const wish often[] = {MOVE, MOVE, MOVE, MOVE_AUTO, DRAIN, UNDRAIN, UNDRAIN};
    c->wish_kind = (int)often[draw(c, sizeof often / sizeof often[0])];
    const char *const argv[WISHES][9] = {
        [MOVE] = {"maasq", "shard", "move", shard, broker, "--timeout", "3"},
        [MOVE_AUTO] = {"maasq", "shard", "move", shard, "auto", "--timeout", "3"},
        [DRAIN] = {"maasq", "broker", "drain", broker, "--timeout", "3"},
        [UNDRAIN] = {"maasq", "broker", "drain", broker, "--undo", "--timeout", "3"},
    };
    c->wish = fork();
    assert_true(c->wish >= 0);
    if (c->wish == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setenv("MAASQ_BROKER", c->s.front, 1);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO); /* a broker that is away is refused, and not there to be asked */
        dup2(null, STDERR_FILENO);
        execv(program, (char *const *)(uintptr_t)argv[c->wish_kind]);
        _exit(127);
    }
}

static void operate(chaos *c, int64_t now_ms)
{
    int status = 0;
    if (c->wish > 0 && waitpid(c->wish, &status, WNOHANG) == c->wish) {
        c->wish = 0;
        c->wishes[c->wish_kind] += WIFEXITED(status) && WEXITSTATUS(status) == 0;
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 127);
    } else if (c->wish == 0 && now_ms >= c->wish_ms) {
        c->wish_ms = now_ms + (int64_t)draw(c, 2 * WISH_MS);
        wish_something(c);
    }
}

/* Nothing may end by itself. */
static void check_alive(chaos *c)
{
    static const struct {
        sys_role role;
        int count;
        const char *name;
    } all[] = {{SYS_STATE_REDIS, 1, "redis"},
               {SYS_BLOB_REDIS, 1, "blobs"},
               {SYS_BROKER, BROKERS, "broker"},
               {SYS_WORKER, WORKERS, "worker"},
               {SYS_CLIENT, CLIENTS, "client"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (int k = 0; k < all[i].count; k++) {
            int status = 0;
            if (sys_has_ended(&c->s, all[i].role, k, &status)) {
                sys_stop(&c->s, true);
                fail_msg("%s %d ended by itself (wait status %d)", all[i].name, k, status);
            }
        }
    }
}

static void run_for(chaos *c, int64_t length_ms, bool has_faults)
{
    int64_t now_ms = mq_clock_mono_ms();
    int64_t until_ms = now_ms + length_ms;
    int64_t strike_ms = now_ms + PAUSE_MS;
    while ((now_ms = mq_clock_mono_ms()) < until_ms) {
        bring_back_due(c, now_ms);
        check_alive(c);
        if (has_faults || c->wish > 0) {
            operate(c, now_ms);
        }
        if (has_faults && now_ms >= strike_ms && count_away(c) < BUSY_MAX) {
            strike_something(c);
            strike_ms = now_ms + (int64_t)draw(c, 2 * PAUSE_MS);
        }
        mq_clock_sleep_ms(STEP_MS);
    }
}

static void all_back(chaos *c)
{
    bring_back_due(c, INT64_MAX);
}

/* ---- what an operator does wrong ---- */

static void fail_with_logs(chaos *c, const char *what)
{
    sys_stop(&c->s, true);
    fail_msg("%s", what);
}

/* The service runs: jobs of every shard end. */
static void await_growth(chaos *c)
{
    long before[CHAOS_SHARDS_MAX], now[CHAOS_SHARDS_MAX];
    (void)chaos_ends(c->s.dir, CLIENTS, SHARDS, before);
    int64_t until_ms = mq_clock_mono_ms() + END_MS;
    bool is_enough = false;
    while (!is_enough) {
        if (mq_clock_mono_ms() > until_ms) {
            fail_with_logs(c, "the service does not come back");
        }
        run_for(c, 5 * STEP_MS, false);
        (void)chaos_ends(c->s.dir, CLIENTS, SHARDS, now);
        is_enough = true;
        for (int s = 0; s < SHARDS; s++) {
            is_enough = is_enough && now[s] >= before[s] + GROW_JOBS;
        }
    }
    run_for(c, GROW_MS, false);
}

static int count_log(const chaos *c, int broker, const char *text)
{
    char command[256];
    int count = 0;
    snprintf(command, sizeof command, "grep -acE '%s' %s/broker%d.log", text, c->s.dir, broker);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

/* Waits until a broker says it more often than before; which one. Those that do not own the shard
 * do not look at it. */
static int await_refusal(chaos *c, const int before[BROKERS], const char *text)
{
    int64_t until_ms = mq_clock_mono_ms() + END_MS;
    for (;;) {
        for (int i = 0; i < BROKERS; i++) {
            if (count_log(c, i, text) > before[i]) {
                return i;
            }
        }
        if (mq_clock_mono_ms() > until_ms) {
            fail_with_logs(c, "no broker says that the store is not the right one");
        }
        run_for(c, 5 * STEP_MS, false);
    }
}

/* Redis comes back with older data or none: its broker does not serve it, nor when it was started
 * after that. With the right data everything goes on. */
static void bring_wrong_data(chaos *c, bool is_empty)
{
    static const char text[] = "store is older|store: it is empty|another deployment";
    int before[BROKERS];
    all_back(c);
    await_growth(c);
    sys_kill(&c->s, SYS_STATE_REDIS, 0, SIGKILL);
    volume_copy(&c->s);
    sys_spawn(&c->s, SYS_STATE_REDIS, 0);
    await_growth(c);
    for (int i = 0; i < BROKERS; i++) {
        before[i] = count_log(c, i, text);
    }
    sys_kill(&c->s, SYS_STATE_REDIS, 0, SIGKILL);
    volume_exchange(&c->s, is_empty);
    sys_spawn(&c->s, SYS_STATE_REDIS, 0);
    int owner = await_refusal(c, before, text);
    for (int i = 0; i < BROKERS; i++) {
        before[i] = count_log(c, i, text);
    }
    sys_kill(&c->s, SYS_BROKER, owner, SIGKILL);
    sys_spawn(&c->s, SYS_BROKER, owner);
    (void)await_refusal(c, before, text);
    long acks = chaos_lines(c->s.dir, CLIENTS, 'a');
    run_for(c, REFUSED_MS, false);
    if (chaos_lines(c->s.dir, CLIENTS, 'a') != acks) {
        fail_with_logs(c, "jobs were acknowledged by a store that had forgotten others");
    }
    sys_kill(&c->s, SYS_STATE_REDIS, 0, SIGKILL);
    volume_restore(&c->s);
    sys_spawn(&c->s, SYS_STATE_REDIS, 0);
    await_growth(c);
    c->kills += 4;
    c->counts[KILL][STATE] += 3;
    c->counts[KILL][BROKER]++;
    printf("%s data brought back: refused\n", is_empty ? "no" : "older");
    (void)fflush(stdout);
}

/* The disk runs full: Redis ends rather than acknowledge what it cannot write, again at each start,
 * and nothing is acknowledged until there is room. */
static void fill_disk(chaos *c)
{
    int status, ends = 0;
    all_back(c);
    await_growth(c);
    volume_fill(&c->s);
    int64_t until_ms = mq_clock_mono_ms() + END_MS;
    while (ends < 3) {
        if (sys_has_ended(&c->s, SYS_STATE_REDIS, 0, &status)) {
            ends++;
            sys_spawn(&c->s, SYS_STATE_REDIS, 0);
        }
        if (mq_clock_mono_ms() > until_ms) {
            fail_with_logs(c, "Redis goes on although its disk is full");
        }
        mq_clock_sleep_ms(STEP_MS);
    }
    long acks = chaos_lines(c->s.dir, CLIENTS, 'a');
    until_ms = mq_clock_mono_ms() + REFUSED_MS;
    while (mq_clock_mono_ms() < until_ms) {
        if (sys_has_ended(&c->s, SYS_STATE_REDIS, 0, &status)) {
            ends++;
            sys_spawn(&c->s, SYS_STATE_REDIS, 0);
        }
        mq_clock_sleep_ms(STEP_MS);
    }
    if (chaos_lines(c->s.dir, CLIENTS, 'a') != acks) {
        fail_with_logs(c, "jobs were acknowledged with a full disk");
    }
    volume_free(&c->s);
    sys_kill(&c->s, SYS_STATE_REDIS, 0, SIGKILL);
    sys_spawn(&c->s, SYS_STATE_REDIS, 0);
    await_growth(c);
    printf("disk full: Redis ended %d times, nothing was acknowledged until there was room\n",
           ends);
    (void)fflush(stdout);
}

/* ---- the end ---- */

/* Clients end once all their jobs have. */
static void drain(chaos *c)
{
    int64_t until_ms = mq_clock_mono_ms() + END_MS;
    for (int i = 0; i < CLIENTS; i++) {
        kill(sys_pid(&c->s, SYS_CLIENT, i), SIGTERM);
    }
    for (int i = 0; i < CLIENTS; i++) {
        int status = 0;
        while (!sys_has_ended(&c->s, SYS_CLIENT, i, &status) || status == SIGTERM) {
            if (mq_clock_mono_ms() > until_ms) {
                sys_stop(&c->s, true);
                fail_msg("client %d does not end", i);
            }
            mq_clock_sleep_ms(STEP_MS);
            if (status == SIGTERM) { /* it had just been started and did not listen yet */
                sys_spawn(&c->s, SYS_CLIENT, i);
                mq_clock_sleep_ms(10 * STEP_MS);
                kill(sys_pid(&c->s, SYS_CLIENT, i), SIGTERM);
                status = 0;
            }
        }
        if (status != 0) {
            sys_stop(&c->s, true);
            fail_msg("client %d has jobs that did not end in time (wait status %d)", i, status);
        }
    }
}

static int log_lines(const chaos *c, const char *text)
{
    char command[256];
    int count = 0;
    snprintf(command, sizeof command, "cat %s/broker*.log | grep -ac '%s'", c->s.dir, text);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

static void print_counts(const chaos *c)
{
    static const char *const what[] = {"kills", "stops", "cuts", "cut off from redis"};
    for (int f = 0; f < FAULTS; f++) {
        int sum = 0;
        for (int v = 0; v < VICTIMS; v++) {
            sum += c->counts[f][v];
        }
        printf("%s %d (", what[f], sum);
        for (int v = 0; v < VICTIMS; v++) {
            printf("%s%s %d", v > 0 ? ", " : "", victim_names[v], c->counts[f][v]);
        }
        printf(")\n");
    }
}

static void report(const chaos *c)
{
    static chaos_report r;
    char url[160];
    snprintf(url, sizeof url, "unix:%s/state.sock", c->s.dir);
    chaos_check(&r, c->s.dir, CLIENTS, SHARDS, url);
    print_counts(c);
    printf("%d brokers, %d shards: shards moved by command %d times (and %d times let go), brokers "
           "drained %d times (and %d times undone), takeovers and hand-overs %d, commits of former "
           "owners refused %d\n",
           BROKERS, SHARDS, c->wishes[MOVE], c->wishes[MOVE_AUTO], c->wishes[DRAIN],
           c->wishes[UNDRAIN], log_lines(c, "shard loaded"),
           log_lines(c, "commit refused.*another broker took"));
    for (int s = 0; s < SHARDS; s++) {
        printf("%sshard %d: %ld jobs%s", s > 0 ? ", " : "", s, r.in_shard[s],
               s + 1 < SHARDS ? "" : "\n");
    }
    printf("jobs acknowledged %ld, lost %ld, committed twice %ld, ended wrongly %ld, stale commits "
           "refused %d, dead %ld (planted %ld)\n",
           r.ended, r.lost, r.twice, r.bad, log_lines(c, "stale result refused"), r.dead,
           r.planted);
    printf("counters: submitted %ld of which known before %ld, succeeded %ld, dead %ld\n",
           r.counted[0], r.counted[1], r.counted[2], r.counted[3]);
    (void)fflush(stdout);
    assert_true(r.jobs > 0);
    for (int s = 0; s < SHARDS; s++) {
        assert_true(r.in_shard[s] > 0);
    }
    assert_int_equal(r.ended, r.jobs);
    assert_int_equal(r.lost, 0);
    assert_int_equal(r.twice, 0);
    assert_int_equal(r.bad, 0);
    assert_int_equal(r.dead, r.planted);
    assert_int_equal(r.counted[0] - r.counted[1], r.jobs);
    assert_int_equal(r.counted[2], r.succeeded);
    assert_int_equal(r.counted[3], r.dead);
}

static void start(chaos *c, bool is_long)
{
    char why[160] = "";
    sys_options options = {.workers = WORKERS,
                           .slots = SLOTS,
                           .brokers = BROKERS,
                           .lease_ms = LEASE_MS,
                           .beat_ms = LEASE_MS / 5,
                           .broker_args = {"--tenure-ms", "1500", "--log-level", "debug",
                                           "--quarantine", "0", "--shards", "4"}};
    _Static_assert(TENURE_MS == 1500, "as the brokers are told");
    if (is_long) {
        c->has_net = net_enter(&c->net, why, sizeof why) &&
                     net_make(&c->net, sys_node(SYS_CLIENT, CLIENTS - 1), why, sizeof why);
        printf(c->has_net ? "links: each process in a network namespace of its own%s\n"
                          : "links are not cut: %s\n",
               why);
        options.net = c->has_net ? &c->net : NULL;
        options.disk_bytes = c->has_net ? DISK_BYTES : 0;
    }
    sys_start(&c->s, &options);
    for (int i = 0; i < CLIENTS; i++) {
        sys_spawn(&c->s, SYS_CLIENT, i);
    }
}

static void acknowledged_jobs_end_once_whatever_is_killed(void **state)
{
    (void)state;
    static chaos c;
    int seconds = number_from("MAASQ_CHAOS_SECONDS", SECONDS);
    c.prng.state = (uint64_t)number_from("MAASQ_SEED", (int)(mq_clock_wall_ms() & 0xffffff));
    printf("seed %llu, %d seconds\n", (unsigned long long)c.prng.state, seconds);
    (void)fflush(stdout);
    start(&c, seconds >= LONG_SECONDS);
    int64_t part_ms = seconds * INT64_C(250);
    for (int part = 0; part < 4; part++) {
        run_for(&c, part_ms, true);
        if (seconds >= LONG_SECONDS && part < 2) {
            bring_wrong_data(&c, part == 1);
        } else if (part == 2 && c.has_net) {
            fill_disk(&c);
        }
    }
    all_back(&c);
    drain(&c);
    report(&c);
    sys_stop(&c.s, false);
    net_close(&c.net);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "--client") == 0) {
        return chaos_client_main((int)strtol(argv[2], NULL, 10), argv[3], argv[4]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_jobs_end_once_whatever_is_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
