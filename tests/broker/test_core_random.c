/* Seeded random lives of the core: clients, workers and the broker fail at any moment, messages are
 * lost or come twice, answers of the store are held back or lost. What must hold: what was
 * acknowledged reaches one terminal state and stays; a job is committed at most once; whenever
 * nothing is under way the store's live records equal the core's field by field; in calm times
 * everything ends. The same with a real Redis, which is killed at half of the crashes
 * (MAASQ_REDIS_SEEDS=n lives). A failure prints its seed; MAASQ_SEED=n runs that one, MAASQ_SEEDS=n
 * so many. */
#include <string.h>

#include "shared/base/prng.h"
#include "tests/support/core_equal.h"
#include "tests/support/core_world.h"
#include "tests/support/redis.h"

enum {
    JOBS_MAX = 160,
    ALL_MAX = 2 * JOBS_MAX, /* with the children that results make */
    WORKERS = 4,
    HELD_MAX = 8,
    STEPS = 700,
    CALM_STEPS = 4000,
    SEEDS = 60,
    REDIS_SEEDS = 4,
};

typedef struct sim_job {
    char id[MQ_ULID_SIZE];
    char kind[8];
    char parent[MQ_ULID_SIZE]; /* "" = none */
    uint64_t priority, seats;
    bool is_acked, is_poison;
    bool is_child;            /* made by a result, not submitted */
    bool does_publish;        /* its result publishes a version of model "m" */
    bool does_spawn;          /* its result makes a child ... */
    char child[MQ_ULID_SIZE]; /* ... always this one */
    int ends, commits;
    char state[20];
} sim_job;

typedef struct sim_held {
    bool is_used, is_ended;
    char id[MQ_ULID_SIZE];
    char class[12];
    uint64_t epoch, grant, gang_epoch, step;
    uint64_t seat;
    bool is_lead;
} sim_held;

typedef struct sim_worker {
    bool is_alive;
    uint32_t number; /* uuid and connection: new at each start */
    uint64_t slots, seq, seen;
    sim_held held[HELD_MAX];
} sim_worker;

typedef struct sim {
    world w;
    mq_prng prng;
    uint64_t seed;
    uint32_t read; /* of the log */
    uint32_t job_count, submitted, starts;
    bool is_calm;
    sim_job jobs[ALL_MAX];
    sim_worker workers[WORKERS];
    mq_job_record a, b;
} sim;

static uint64_t draw(sim *s, uint64_t n)
{
    return mq_prng_below(&s->prng, n);
}

/* A fault happens in one of n cases, but not in calm times. */
static bool fault(sim *s, uint64_t n)
{
    return !s->is_calm && draw(s, n) == 0;
}

static sim_job *job_of(sim *s, const char *id)
{
    for (uint32_t i = 0; i < s->job_count; i++) {
        if (strcmp(s->jobs[i].id, id) == 0) {
            return &s->jobs[i];
        }
    }
    fail_msg("seed %llu: an unknown job %s", (unsigned long long)s->seed, id);
    abort(); /* fail_msg does not come back */
}

#define CHECK(s, cond, ...)                                                                        \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            print_error("seed %llu: ", (unsigned long long)(s)->seed);                             \
            fail_msg(__VA_ARGS__);                                                                 \
        }                                                                                          \
    } while (0)

/* ---- clients ---- */

static void send_submit(sim *s, const sim_job *job)
{
    mq_span deps[1] = {mq_str(job->parent)};
    mq_msg_submit_job item = {.id = mq_str(job->id),
                              .kind = mq_str(job->kind),
                              .priority = job->priority,
                              .attempts_max = 50,
                              .crashes_max = job->is_poison ? 3 : 1000,
                              .seats_min = job->seats > 0 ? 1 : 0,
                              .seats_max = job->seats,
                              .deps = deps,
                              .deps_count = job->parent[0] != '\0'};
    w_submit_item(&s->w, 1, 1, &item, job->id);
}

static void submit(sim *s)
{
    if (s->submitted < JOBS_MAX && draw(s, 3) > 0) {
        s->submitted++;
        sim_job *job = &s->jobs[s->job_count];
        w_id(&s->w, job->id);
        bool is_gang = draw(s, 8) == 0;
        (void)snprintf(job->kind, sizeof job->kind, "%s", is_gang ? "train" : "echo");
        job->seats = is_gang ? 1 + draw(s, 3) : 0;
        job->priority = draw(s, 10);
        job->is_poison = draw(s, 20) == 0;
        job->does_publish = draw(s, 5) == 0;
        job->does_spawn = draw(s, 5) == 0;
        if (s->job_count > 0 && draw(s, 4) == 0) {
            memcpy(job->parent, s->jobs[draw(s, s->job_count)].id, sizeof job->parent);
        }
        s->job_count++;
        send_submit(s, job);
        return;
    }
    if (s->job_count > 0) { /* clients send again what has no answer, and sometimes what has */
        const sim_job *job = &s->jobs[draw(s, s->job_count)];
        if (!job->is_child && (!job->is_acked || draw(s, 10) == 0)) {
            send_submit(s, job);
        }
    }
}

static void cancel(sim *s)
{
    if (s->job_count == 0) {
        return;
    }
    mq_msg_cancel m = {.id = mq_str(s->jobs[draw(s, s->job_count)].id), .is_hard = draw(s, 2) == 0};
    mq_input in = {.type = MQ_IN_CANCEL, .conn = 1, .rid = 2, .as.cancel = &m};
    w_step(&s->w, &in);
}

/* An operator sets something: it is in the registry from then on. */
static void command(sim *s)
{
    static const struct {
        const char *verb, *args[5];
        uint32_t count;
    } all[] = {
        {"limit", {"queue=default", "50", "0", "0", "0"}, 5},
        {"limit", {"key=*", "0", "100", "1000", "10"}, 5},
        {"limit", {"queue=default", "0", "0", "0", "0"}, 5},
        {"tenant", {"acme", "3", "500"}, 3},
        {"tenant", {"acme", "0", "0"}, 3},
        {"pause", {"other"}, 1},
        {"resume", {"other"}, 1},
        {"pause-kind", {"infer"}, 1},
        {"resume-kind", {"infer"}, 1},
    };
    uint64_t n = draw(s, sizeof all / sizeof all[0]);
    mq_span args[5];
    for (uint32_t i = 0; i < all[n].count; i++) {
        args[i] = mq_str(all[n].args[i]);
    }
    mq_msg_command m = {.verb = mq_str(all[n].verb), .args = args, .args_count = all[n].count};
    mq_input in = {.type = MQ_IN_COMMAND, .conn = 1, .rid = 3, .as.command = &m};
    w_step(&s->w, &in);
}

/* ---- workers ---- */

static void say_ready(sim *s, sim_worker *w)
{
    mq_msg_held held[HELD_MAX];
    uint32_t count = 0;
    for (int i = 0; i < HELD_MAX; i++) {
        const sim_held *h = &w->held[i];
        if (h->is_used) {
            held[count++] =
                (mq_msg_held){.id = mq_str(h->id), .epoch = h->epoch, .grant = h->grant};
        }
    }
    w_ready_held(&s->w, w->number, w->slots, "fp", held, count);
}

static uint64_t free_slots(const sim_worker *w)
{
    uint64_t used = 0;
    for (int i = 0; i < HELD_MAX; i++) {
        used += w->held[i].is_used;
    }
    return w->slots > used ? w->slots - used : 0;
}

static void start_worker(sim *s, sim_worker *w)
{
    *w = (sim_worker){.is_alive = true, .number = ++s->starts, .slots = 1 + draw(s, 3)};
    say_ready(s, w);
    w_credit(&s->w, w->number, ++w->seq, w->slots, 0);
}

static void beat(sim *s, sim_worker *w)
{
    mq_msg_held held[HELD_MAX];
    uint32_t count = 0;
    for (int i = 0; i < HELD_MAX; i++) {
        const sim_held *h = &w->held[i];
        if (h->is_used) {
            held[count++] =
                (mq_msg_held){.id = mq_str(h->id), .epoch = h->epoch, .grant = h->grant};
        }
    }
    if (!fault(s, 6)) {
        w_beat(&s->w, w->number, ++w->seq, free_slots(w), w->seen, held, count);
    }
}

/* What a result brings besides its bytes; the same at every attempt. */
static void add_effects(sim *s, sim_job *job, mq_msg_result_item *item, mq_msg_spawned *child,
                        mq_msg_published *model)
{
    if (job->does_publish) {
        item->publish = model;
        item->publish_count = 1;
    }
    if (!job->does_spawn) {
        return;
    }
    if (job->child[0] == '\0') {
        sim_job *made = &s->jobs[s->job_count++];
        w_id(&s->w, made->id);
        made->is_child = true;
        (void)snprintf(made->kind, sizeof made->kind, "echo");
        memcpy(job->child, made->id, sizeof job->child);
    }
    *child = (mq_msg_spawned){
        .id = mq_str(job->child), .kind = mq_str("echo"), .body = mq_str(job->child)};
    item->spawn = child;
    item->spawn_count = 1;
}

static void send_result(sim *s, sim_worker *w, sim_held *h)
{
    mq_msg_result_item item = {.id = mq_str(h->id),
                               .epoch = h->epoch,
                               .grant = h->grant,
                               .class = mq_str(h->class),
                               .code = mq_str("io")};
    char bytes[64]; /* tell who computed it, under which lease */
    (void)snprintf(bytes, sizeof bytes, "%llu.%llu.%s", (unsigned long long)h->epoch,
                   (unsigned long long)h->grant, w_uuid(w->number));
    bool is_lead = strcmp(h->class, "ok") == 0 && h->is_lead;
    mq_msg_spawned child = {0};
    mq_msg_published model = {.type = mq_str("model"), .name = mq_str("m"), .meta = mq_str("{}")};
    if (is_lead) {
        add_effects(s, job_of(s, h->id), &item, &child, &model);
    }
    if (!fault(s, 5)) {
        w_result_item(&s->w, w->number, &item, is_lead ? bytes : NULL);
    }
    if (fault(s, 8)) { /* twice */
        w_result_item(&s->w, w->number, &item, is_lead ? bytes : NULL);
    }
}

static void work(sim *s, sim_worker *w)
{
    static const char *const bad[] = {"retry", "crash", "return"};
    for (int i = 0; i < HELD_MAX; i++) {
        sim_held *h = &w->held[i];
        if (!h->is_used) {
            continue;
        }
        if (!h->is_ended && draw(s, 3) == 0) {
            const char *class = fault(s, 6) ? bad[draw(s, 3)] : "ok";
            if (job_of(s, h->id)->is_poison) {
                class = "crash";
            }
            h->is_ended = true;
            (void)snprintf(h->class, sizeof h->class, "%s", class);
        }
        if (h->is_ended) {
            send_result(s, w, h);
        }
    }
}

static sim_worker *worker_at(sim *s, uint64_t conn)
{
    for (int i = 0; i < WORKERS; i++) {
        if (s->workers[i].is_alive && 100 + s->workers[i].number == conn) {
            return &s->workers[i];
        }
    }
    return NULL;
}

static sim_held *held_of(sim_worker *w, const w_entry *e)
{
    for (int i = 0; i < HELD_MAX; i++) {
        sim_held *h = &w->held[i];
        if (h->is_used && strcmp(h->id, e->id) == 0 && h->epoch == e->epoch &&
            h->grant == e->grant) {
            return h;
        }
    }
    return NULL;
}

static void on_job(sim *s, sim_worker *w, const w_entry *e)
{
    CHECK(s, e->payload != NULL && strcmp(e->payload, e->id) == 0,
          "job %s (seat %d, grant %d) with the body %s", e->id, (int)e->seat, (int)e->grant,
          e->payload == NULL ? "none" : e->payload);
    for (int i = 0; i < HELD_MAX; i++) {
        sim_held *h = &w->held[i];
        if (!h->is_used) {
            w->seen++;
            *h = (sim_held){.is_used = true,
                            .epoch = e->epoch,
                            .grant = e->grant,
                            .gang_epoch = e->gang_epoch,
                            .seat = e->seat,
                            .is_lead = e->gang_epoch == 0 || e->seat == e->members[0]};
            memcpy(h->id, e->id, sizeof h->id);
            return;
        }
    }
    CHECK(s, false, "worker %u got more jobs than it has slots", w->number);
}

static void on_roster(sim_worker *w, const w_entry *e)
{
    sim_held *h = held_of(w, e);
    if (h != NULL && e->gang_epoch > h->gang_epoch) {
        h->gang_epoch = e->gang_epoch;
        h->is_lead = e->members[0] == h->seat;
    }
}

static void check_stored_end(void *arg, mq_code code, mq_span record, mq_span result,
                             const mq_error *err)
{
    sim *s = arg;
    (void)result;
    (void)err;
    CHECK(s, code == MQ_OK && mq_job_record_read(record, &s->a, NULL) == MQ_OK,
          "a result was taken of a job that is not stored");
    CHECK(s, mq_state_is_terminal(mq_state_parse(s->a.state)),
          "a result was taken before it was stored");
}

static void on_verdict(sim *s, sim_worker *w, const w_entry *e, bool is_final)
{
    sim_held *h = held_of(w, e);
    mq_error err = {0};
    if (h == NULL) {
        return;
    }
    bool is_taken = strcmp(e->verdict, "ok") == 0 || strcmp(e->verdict, "dup") == 0;
    if (is_final && is_taken && h->is_ended && strcmp(h->class, "ok") == 0 && !s->w.is_held) {
        assert_int_equal(s->w.store->ops->job(s->w.store, mq_str(h->id), check_stored_end, s, &err),
                         MQ_OK);
        w_process(&s->w);
    }
    if (is_final || strcmp(e->verdict, "stale") == 0) {
        h->is_used = false;
    } else if (strcmp(e->verdict, "cancel") == 0 && !h->is_ended) {
        h->is_ended = true;
        (void)snprintf(h->class, sizeof h->class, "cancelled");
    }
}

/* A training step's state, offered by the lead. */
static void checkpoint(sim *s, sim_worker *w)
{
    static const char digits[] = "0123456789abcdef";
    char blob[65];
    for (int i = 0; i < HELD_MAX; i++) {
        sim_held *h = &w->held[i];
        if (!h->is_used || h->gang_epoch == 0 || !h->is_lead || h->is_ended) {
            continue;
        }
        for (int k = 0; k < 64; k++) {
            blob[k] = digits[draw(s, 16)];
        }
        blob[64] = '\0';
        h->step++;
        mq_msg_checkpoint m = {.id = mq_str(h->id),
                               .epoch = h->epoch,
                               .grant = h->grant,
                               .gang_epoch = h->gang_epoch,
                               .step = h->step,
                               .blob = mq_str(blob)};
        mq_input in = {.type = MQ_IN_CHECKPOINT, .conn = 100 + w->number, .as.checkpoint = &m};
        w_step(&s->w, &in);
    }
}

/* ---- what came out ---- */

static void on_ended(sim *s, const w_entry *e)
{
    sim_job *job = job_of(s, e->id);
    job->ends++;
    CHECK(s, job->state[0] == '\0' || strcmp(job->state, e->state) == 0,
          "job %s was %s and is %s now", e->id, job->state, e->state);
    memcpy(job->state, e->state, sizeof job->state);
}

static void read_log(sim *s)
{
    for (; s->read < s->w.log_count; s->read++) {
        const w_entry *e = &s->w.log[s->read];
        sim_worker *w = worker_at(s, e->conn);
        if (e->type == MQ_OUT_SUBMITTED) {
            if (!fault(s, 5) && (strcmp(e->verdict, "ok") == 0 || strcmp(e->verdict, "dup") == 0)) {
                job_of(s, e->id)->is_acked = true;
            }
            CHECK(s, strcmp(e->verdict, "conflict") != 0, "job %s: conflict", e->id);
        } else if (e->type == MQ_OUT_ENDED) {
            on_ended(s, e);
        } else if (w == NULL || fault(s, 8)) {
            continue; /* lost on the way */
        } else if (e->type == MQ_OUT_JOB) {
            on_job(s, w, e);
        } else if (e->type == MQ_OUT_VERDICT) {
            on_verdict(s, w, e, true);
        } else if (e->type == MQ_OUT_BEATEN || e->type == MQ_OUT_REGISTERED) {
            on_verdict(s, w, e, false);
        } else if (e->type == MQ_OUT_ROSTER) {
            on_roster(w, e);
        } else if (e->type == MQ_OUT_ERROR && strcmp(e->code, "not_found") == 0) {
            say_ready(s, w);
            w_credit(&s->w, w->number, ++w->seq, free_slots(w), w->seen);
        }
    }
    if (s->w.log_count > W_LOG_MAX / 2) {
        w_forget(&s->w);
        s->read = 0;
    }
}

/* ---- checkers ---- */

typedef struct live_check {
    sim *s;
    uint32_t count;
} live_check;

static void compare_live(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    live_check *c = arg;
    sim *s = c->s;
    const char *name = "";
    (void)err;
    CHECK(s, code == MQ_OK, "scan failed");
    if (field.data == NULL) {
        return;
    }
    c->count++;
    CHECK(s, mq_job_record_read(value, &s->a, NULL) == MQ_OK, "a stored record is not readable");
    uint32_t slot = mq_core_find(s->w.core, field);
    CHECK(s, slot != MQ_CORE_NO_SLOT && mq_core_record(s->w.core, slot, &s->b),
          "job %.*s is stored but not in memory", MQ_SPAN_ARG(field));
    CHECK(s, mq_job_record_equal(&s->a, &s->b, &name), "job %.*s: %s differs from what is stored",
          MQ_SPAN_ARG(field), name);
}

static void compare_registry(void *arg, mq_code code, mq_span field, mq_span value,
                             const mq_error *err)
{
    live_check *c = arg;
    const world *w = &c->s->w;
    (void)err;
    CHECK(c->s, code == MQ_OK, "scan failed");
    if (field.data != NULL) {
        c->count += !core_is_tombstone(value);
        CHECK(c->s, core_has_entry(w->core, w->config.registry_max, field, value),
              "registry: %.*s differs from what is stored", MQ_SPAN_ARG(field));
    }
}

/* Nothing is under way: the store holds exactly what the core knows. */
static void check_equal(sim *s)
{
    mq_core_stats stats;
    mq_error err = {0};
    mq_core_stats_read(s->w.core, &stats);
    if (stats.commits_inflight > 0 || s->w.is_held || mq_core_deadline(s->w.core) <= s->w.now_ms) {
        return;
    }
    live_check c = {.s = s};
    s->w.segment_count = 0;
    assert_int_equal(s->w.store->ops->segments(s->w.store, w_on_segment, &s->w, &err), MQ_OK);
    w_process(&s->w);
    for (uint32_t i = 0; i < s->w.segment_count; i++) {
        assert_int_equal(s->w.store->ops->scan(s->w.store, MQ_PART_LIVE,
                                               strtoull(s->w.segments[i], NULL, 10), compare_live,
                                               &c, &err),
                         MQ_OK);
        w_process(&s->w);
    }
    CHECK(s, c.count == stats.jobs - stats.kept,
          "%u jobs are stored, %u in memory, %u of them kept", c.count, stats.jobs, stats.kept);
    live_check entries = {.s = s};
    assert_int_equal(
        s->w.store->ops->scan(s->w.store, MQ_PART_REGISTRY, 0, compare_registry, &entries, &err),
        MQ_OK);
    w_process(&s->w);
    uint32_t known = core_entries(s->w.core, s->w.config.registry_max);
    CHECK(s, entries.count == known, "registry: %u entries are stored, %u in memory", entries.count,
          known);
}

typedef struct end_check {
    sim *s;
    sim_job *job;
} end_check;

static void check_end(void *arg, mq_code code, mq_span record, mq_span result, const mq_error *err)
{
    end_check *c = arg;
    sim *s = c->s;
    const sim_job *job = c->job;
    (void)err;
    CHECK(s, code == MQ_OK, "acknowledged job %s is not in the store", job->id);
    CHECK(s, mq_job_record_read(record, &s->a, NULL) == MQ_OK, "unreadable");
    mq_state state = mq_state_parse(s->a.state);
    CHECK(s, mq_state_is_terminal(state), "job %s is stored as %s", job->id, mq_state_name(state));
    CHECK(s, job->state[0] == '\0' || mq_span_is(s->a.state, job->state),
          "job %s ended %s and is stored as %s", job->id, job->state, mq_state_name(state));
    CHECK(s, !job->is_poison || state != MQ_STATE_SUCCEEDED, "poison succeeded");
    CHECK(s, state != MQ_STATE_DEAD || job->is_poison || job->parent[0] != '\0',
          "job %s is dead: %.*s", job->id, MQ_SPAN_ARG(s->a.why));
    char bytes[64];
    (void)snprintf(bytes, sizeof bytes, "%llu.%llu.%.*s", (unsigned long long)s->a.epoch,
                   (unsigned long long)s->a.grant, MQ_SPAN_ARG(s->a.worker));
    bool is_right = mq_span_is(result, bytes) || (job->seats > 0 && result.len == 0);
    CHECK(s, state != MQ_STATE_SUCCEEDED || is_right,
          "job %s: the result is not that of the lease that committed it", job->id);
}

typedef struct found {
    sim *s;
    mq_state state;
} found;

static void on_found(void *arg, mq_code code, mq_span record, mq_span result, const mq_error *err)
{
    found *f = arg;
    (void)result;
    (void)err;
    f->state = MQ_STATE_REFUSED;
    if (code == MQ_OK && mq_job_record_read(record, &f->s->a, NULL) == MQ_OK) {
        f->state = mq_state_parse(f->s->a.state);
    }
}

static mq_state stored_state(sim *s, const char *id)
{
    mq_error err = {0};
    found f = {.s = s};
    assert_int_equal(s->w.store->ops->job(s->w.store, mq_str(id), on_found, &f, &err), MQ_OK);
    w_process(&s->w);
    return f.state;
}

/* Effects come with the commit or not at all: one version a publishing job, a child of each parent
 * that succeeded and of no other. */
static void check_effects(sim *s)
{
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < s->job_count; i++) {
        const sim_job *job = &s->jobs[i];
        bool has_succeeded = stored_state(s, job->id) == MQ_STATE_SUCCEEDED;
        bool is_gang = job->seats > 0; /* may end by empty results of all seats */
        if (job->child[0] != '\0' && !is_gang) {
            bool is_there = mq_state_is_terminal(stored_state(s, job->child));
            CHECK(s, is_there == has_succeeded, "child %s of job %s: %d", job->child, job->id,
                  is_there);
        }
        wanted += job->does_publish && has_succeeded && !is_gang;
    }
    mq_entry_view view;
    static mq_entry entry;
    uint32_t versions = 0;
    bool has_version[ALL_MAX] = {false};
    for (uint32_t i = 0; i < s->w.config.registry_max; i++) {
        if (!mq_core_entry(s->w.core, i, &view) || view.key.type != MQ_ENTRY_MODEL) {
            continue;
        }
        CHECK(s, mq_entry_read(view.value, &entry, NULL) == MQ_OK, "unreadable version");
        char id[32];
        w_copy(id, sizeof id, entry.job);
        const sim_job *job = job_of(s, id);
        uint32_t at = (uint32_t)(job - s->jobs);
        CHECK(s, !has_version[at], "job %s made two versions", id);
        has_version[at] = true;
        versions += job->seats == 0;
    }
    CHECK(s, versions == wanted, "%u versions of %u jobs that published", versions, wanted);
}

static void check_ends(sim *s)
{
    mq_error err = {0};
    for (uint32_t i = 0; i < s->job_count; i++) {
        end_check c = {s, &s->jobs[i]};
        CHECK(s, s->jobs[i].ends <= 1, "job %s ended %d times", s->jobs[i].id, s->jobs[i].ends);
        if (s->jobs[i].is_acked) {
            assert_int_equal(
                s->w.store->ops->job(s->w.store, mq_str(s->jobs[i].id), check_end, &c, &err),
                MQ_OK);
            w_process(&s->w);
        }
    }
}

/* ---- a life ---- */

static mq_test_redis server;

static void crash(sim *s)
{
    if (w_redis_url != NULL && draw(s, 2) == 0) { /* the store dies with it */
        mq_test_redis_kill(&server);
        w_drop_core(&s->w);
        mq_test_redis_start(&server, NULL);
        w_begin(&s->w);
        w_load(&s->w);
    } else if (draw(s, 2) == 0) { /* in the middle of loading, too */
        w_drop_core(&s->w);
        w_begin(&s->w);
        submit(s);
        w_turn(&s->w);
        submit(s);
        w_load(&s->w);
    } else {
        w_crash(&s->w);
    }
    s->w.is_held = false;
}

static void one_step(sim *s)
{
    sim_worker *w = &s->workers[draw(s, WORKERS)];
    uint64_t what = draw(s, 20);
    if (what < 5 && !s->is_calm) {
        submit(s);
    } else if (what < 12 && w->is_alive) {
        work(s, w);
        if (draw(s, 3) == 0) {
            checkpoint(s, w);
        }
        w_credit(&s->w, w->number, ++w->seq, free_slots(w), w->seen);
    } else if (what < 15) {
        s->w.now_ms += (int64_t)draw(s, 800);
    } else if (fault(s, 3)) {
        s->w.is_held = !s->w.is_held;
    } else if (fault(s, 12)) {
        crash(s);
    } else if (fault(s, 12)) {
        w->is_alive = false;
    } else if (fault(s, 12)) {
        cancel(s);
    } else if (fault(s, 4)) {
        command(s);
    } else if (!w->is_alive) {
        start_worker(s, w);
    }
    for (int i = 0; i < WORKERS; i++) {
        if (s->workers[i].is_alive) {
            beat(s, &s->workers[i]);
        }
    }
    w_turn(&s->w);
    read_log(s);
    check_equal(s);
}

static bool all_ended(sim *s)
{
    mq_core_stats stats;
    mq_core_stats_read(s->w.core, &stats);
    return stats.jobs == 0;
}

static void live(uint64_t seed)
{
    sim *s = calloc(1, sizeof *s);
    s->seed = seed;
    s->prng.state = seed;
    w_open(&s->w);
    for (int i = 0; i < WORKERS; i++) {
        start_worker(s, &s->workers[i]);
    }
    for (int i = 0; i < STEPS; i++) {
        one_step(s);
    }
    s->is_calm = true;
    s->w.is_held = false;
    for (uint32_t i = 0; i < s->job_count; i++) {
        if (!s->jobs[i].is_acked && !s->jobs[i].is_child) {
            send_submit(s, &s->jobs[i]);
        }
    }
    for (int i = 0; i < CALM_STEPS && !all_ended(s); i++) {
        one_step(s);
    }
    CHECK(s, all_ended(s), "jobs are left after a long calm time");
    for (uint32_t i = 0; i < s->job_count; i++) {
        CHECK(s, s->jobs[i].is_acked || s->jobs[i].is_child, "job %s was never acknowledged",
              s->jobs[i].id);
    }
    check_ends(s);
    check_effects(s);
    w_close(&s->w);
    free(s);
}

static void whatever_fails_acknowledged_jobs_end_once(void **unused)
{
    (void)unused;
    const char *one = getenv("MAASQ_SEED");
    const char *many = getenv("MAASQ_SEEDS");
    if (one != NULL) {
        live(strtoull(one, NULL, 10));
        return;
    }
    uint64_t count = many != NULL ? strtoull(many, NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= count; seed++) {
        live(seed);
    }
}

static void with_a_real_redis_the_record_equals_the_core_too(void **unused)
{
    (void)unused;
    const char *many = getenv("MAASQ_REDIS_SEEDS");
    uint64_t count = many != NULL ? strtoull(many, NULL, 10) : REDIS_SEEDS;
    mq_test_redis_init(&server);
    mq_test_redis_start(&server, NULL);
    w_redis_url = server.url;
    for (uint64_t seed = 1; seed <= count; seed++) {
        struct timeval limit = {.tv_sec = 30};
        redisContext *c = redisConnectUnixWithTimeout(server.socket, limit);
        redisReply *reply = redisCommand(c, "FLUSHALL");
        assert_true(reply != NULL && reply->type == REDIS_REPLY_STATUS);
        freeReplyObject(reply);
        redisFree(c);
        live(seed);
    }
    w_redis_url = NULL;
    mq_test_redis_release(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_fails_acknowledged_jobs_end_once),
        cmocka_unit_test(with_a_real_redis_the_record_equals_the_core_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
