/* The workload of a seed: which jobs, what they do, and when their clients ask for what. */
#include "tests/sim/sim.h"

static bool one_in(sim *s, uint64_t n)
{
    return sim_draw(s, n) == 0;
}

static void submit(sim *s, sim_event *e)
{
    sim_client_submit(s, (uint32_t)e->a);
}

static void cancel(sim *s, sim_event *e)
{
    sim_client_cancel(s, (uint32_t)e->a);
}

static void retry(sim *s, sim_event *e)
{
    sim_job *j = &s->jobs[e->a];
    j->is_retry_sent = true;
    sim_client_command(s, &s->clients[j->client], "retry", j->id);
}

/* a: 0 resume, 1 pause, 2 drain the queue. */
static void pause_queue(sim *s, sim_event *e)
{
    static const char *const verbs[] = {"resume", "pause", "drain-queue"};
    if (e->a == 0 || !s->is_calm) {
        sim_client_command(s, &s->clients[0], verbs[e->a], "q1");
    }
}

/* An operator brings a kind back that too many crashes have stopped. */
static void resume_kinds(sim *s, sim_event *e)
{
    (void)e;
    sim_client_command(s, &s->clients[0], "resume-kind", "echo");
    sim_client_command(s, &s->clients[0], "resume-kind", "train");
}

static void set_limits(sim *s, sim_event *e)
{
    static const char *const limits[] = {"queue=q1 1 0 0 0",     "kind=echo 2 0 0 0",
                                         "key=* 1 0 0 0",        "key=k1 0 5 1000 2",
                                         "queue=q1 0 0 0 0",     "queue=default 0 20 1000 3",
                                         "queue=default 2 0 0 0"};
    sim_client_command(s, &s->clients[0], "limit", limits[e->a]);
}

uint32_t sim_job_find(const sim *s, mq_span id)
{
    for (uint32_t i = 0; i < s->job_count; i++) {
        if (mq_span_eq(id, mq_span_of(s->jobs[i].id, MQ_ULID_LEN))) {
            return i;
        }
    }
    return SIM_NONE;
}

sim_job *sim_job_get(sim *s, mq_span id)
{
    uint32_t no = sim_job_find(s, id);
    SIM_CHECK(s, no != SIM_NONE, "nobody made the job %.*s", MQ_SPAN_ARG(id));
    return &s->jobs[no];
}

static void draw_what(sim *s, sim_job *j)
{
    uint64_t kind = sim_draw(s, 20);
    bool is_gang = kind < 2;
    j->is_transient = kind >= 2 && kind < 5;
    (void)snprintf(j->kind, sizeof j->kind, "%s", is_gang ? "train" : "echo");
    (void)snprintf(j->queue, sizeof j->queue, "%s", one_in(s, 4) ? "q1" : "default");
    (void)snprintf(j->tenant, sizeof j->tenant, "t%d", (int)sim_draw(s, 3));
    j->priority = sim_draw(s, 10);
    if (one_in(s, 6)) {
        (void)snprintf(j->key, sizeof j->key, "k%d", (int)sim_draw(s, 3));
    }
    j->run_ms = one_in(s, 8) ? (int64_t)sim_draw(s, 4000) : 1 + (int64_t)sim_draw(s, 80);
    j->attempts_max = 5;
    if (is_gang) {
        j->seats_min = 1 + sim_draw(s, mq_min_size(s->slot_count, 2));
        j->seats_max = j->seats_min + sim_draw(s, 2);
    }
    uint64_t outcome = is_gang || j->is_transient ? 100 : sim_draw(s, 100);
    j->outcome = outcome < 4    ? SIM_POISON
                 : outcome < 9  ? SIM_FATAL
                 : outcome < 13 ? SIM_HANG
                                : SIM_OK;
    if (j->outcome == SIM_HANG) {
        j->max_run_ms = 300 + sim_draw(s, 3000);
    }
    if (j->outcome == SIM_OK && one_in(s, 6)) {
        j->failures = 1 + (uint32_t)sim_draw(s, 2);
        j->attempts_max = 1 + sim_draw(s, 4);
    }
}

static void draw_ties(sim *s, sim_job *j, uint32_t no)
{
    j->is_quiet = one_in(s, 10);
    if (j->is_transient) {
        j->ttl_ms = 500 + sim_draw(s, 20000);
        return;
    }
    j->ttl_ms = one_in(s, 12) ? 300 + sim_draw(s, 8000) : 0;
    j->delay_ms = one_in(s, 10) ? sim_draw(s, 5000) : 0;
    for (uint32_t n = one_in(s, 4) && no > 0 ? 1 + (uint32_t)sim_draw(s, SIM_DEPS) : 0; n > 0;
         n--) {
        uint32_t dep = (uint32_t)sim_draw(s, no);
        bool is_new = !s->jobs[dep].is_transient;
        for (uint32_t i = 0; i < j->dep_count; i++) {
            is_new = is_new && j->deps[i] != dep;
        }
        if (is_new) {
            j->deps[j->dep_count++] = dep;
        }
    }
    j->runs_anyway = j->dep_count > 0 && one_in(s, 3);
    if (one_in(s, 10)) {
        (void)snprintf(j->unique, sizeof j->unique, "u%d", (int)sim_draw(s, 3));
    }
    if (j->seats_max == 0) {
        j->does_publish = one_in(s, 10);
        j->has_blob = one_in(s, 8);
        j->spawn_count = one_in(s, 8) ? 1 + (uint32_t)sim_draw(s, SIM_SPAWNS) : 0;
    }
}

static void name(sim *s, sim_job *j, int64_t at_ms)
{
    char id[MQ_ULID_SIZE];
    sim_new_id(s, SIM_T0 + at_ms, id);
    memcpy(j->id, id, sizeof id);
    (void)snprintf(j->body, sizeof j->body, "body of %s", id);
}

static void draw_children(sim *s, uint32_t parent, int64_t at_ms)
{
    for (uint32_t i = 0; i < s->jobs[parent].spawn_count; i++) {
        uint32_t no = s->job_count++;
        sim_job *j = &s->jobs[no];
        *j = (sim_job){.client = SIM_NONE,
                       .parent = parent,
                       .run_ms = 1 + (int64_t)sim_draw(s, 80),
                       .kind = "echo",
                       .attempts_max = 5};
        name(s, j, at_ms);
        s->jobs[parent].spawns[i] = no;
    }
}

static void draw_wishes(sim *s, uint32_t no)
{
    sim_job *j = &s->jobs[no];
    uint32_t party = SIM_NONE;
    sim_at(s, j->submit_ms, submit, party, no, NULL);
    if (one_in(s, 8)) {
        j->is_cancel_hard = one_in(s, 2);
        sim_at(s, j->submit_ms + (int64_t)sim_draw(s, one_in(s, 2) ? 200 : 5000), cancel, party, no,
               NULL);
    }
    if ((j->outcome == SIM_POISON || j->outcome == SIM_FATAL) && one_in(s, 2)) {
        sim_at(s, j->submit_ms + (int64_t)sim_draw(s, 15000), retry, party, no, NULL);
    }
}

/* Plain jobs of a few priorities that all come at once: what is started next is decided by policy
 * alone. */
static void make_rush(sim *s, sim_job *j)
{
    j->is_transient = j->runs_anyway = j->does_publish = j->has_blob = false;
    j->seats_min = j->seats_max = j->delay_ms = j->ttl_ms = j->max_run_ms = 0;
    j->dep_count = j->spawn_count = j->failures = 0;
    j->attempts_max = 5;
    j->outcome = SIM_OK;
    j->key[0] = j->unique[0] = '\0';
    j->priority = one_in(s, 4) ? 6 : 5;
    (void)snprintf(j->kind, sizeof j->kind, "echo");
    (void)snprintf(j->queue, sizeof j->queue, "default");
}

static void set_weights(sim *s, sim_event *e)
{
    static const char *const weights[] = {"t0 3 0", "t1 2 0", "t0 1 0", "t2 5 0"};
    sim_client_command(s, &s->clients[0], "tenant", weights[e->a]);
}

void sim_jobs_draw(sim *s)
{
    s->submit_count = 4 + (uint32_t)sim_draw(s, one_in(s, 4) ? SIM_JOBS - 4 : 28);
    s->submit_count = s->is_rush ? SIM_JOBS - (uint32_t)sim_draw(s, 20) : s->submit_count;
    int64_t at_ms = 0;
    bool is_burst = one_in(s, 3) || s->is_rush;
    int64_t gap_ms = s->fault_ms * 8 / 10 / (int64_t)s->submit_count;
    s->job_count = s->submit_count;
    for (uint32_t i = 0; i < s->submit_count; i++) {
        sim_job *j = &s->jobs[i];
        at_ms += is_burst && !one_in(s, s->is_rush ? 60 : 10)
                     ? (int64_t)sim_draw(s, 3)
                     : (int64_t)sim_draw(s, (uint64_t)gap_ms * 2 + 1);
        *j = (sim_job){.client = (uint32_t)sim_draw(s, s->client_count), .parent = SIM_NONE};
        j->submit_ms = at_ms;
        name(s, j,
             at_ms + (sim_fault_now(s, SIM_F_SKEW) ? (int64_t)sim_draw(s, 500000) - 250000 : 0));
        draw_what(s, j);
        draw_ties(s, j, i);
        if (s->is_rush) {
            make_rush(s, j);
        }
        draw_children(s, i, at_ms);
        draw_wishes(s, i);
    }
    s->submits_end_ms = at_ms;
    for (uint64_t n = one_in(s, 3) ? 1 + sim_draw(s, 3) : 0; n > 0; n--) {
        sim_at(s, (int64_t)sim_draw(s, (uint64_t)s->fault_ms), set_limits, SIM_NONE, sim_draw(s, 5),
               NULL);
    }
    for (uint64_t n = s->is_rush ? sim_draw(s, 3) : 0; n > 0; n--) {
        sim_at(s, (int64_t)sim_draw(s, 200), set_weights, SIM_NONE, sim_draw(s, 4), NULL);
    }
    if (s->is_rush && one_in(s, 3)) {
        sim_at(s, (int64_t)sim_draw(s, 200), set_limits, SIM_NONE, 5 + sim_draw(s, 2), NULL);
    }
    for (int i = (int)sim_draw(s, 4) - 1; i > 0; i--) {
        int64_t ms = (int64_t)sim_draw(s, (uint64_t)s->fault_ms);
        sim_at(s, ms, pause_queue, SIM_NONE, 1 + sim_draw(s, 2), NULL);
        sim_at(s, ms + (int64_t)sim_draw(s, 8000), pause_queue, SIM_NONE, 0, NULL);
    }
}

void sim_jobs_calm(sim *s)
{
    for (int i = 0; i < 4; i++) { /* a pause may still be on its way */
        sim_at(s, s->now_ms + i * 30000, pause_queue, SIM_NONE, 0, NULL);
        sim_at(s, s->now_ms + i * 30000, resume_kinds, SIM_NONE, 0, NULL);
    }
}
