/* A replica of the store: it takes over what the primary holds, some time later; it stalls, dies,
 * comes back, and one day the primary is lost with its disk and the replica is what there is. What
 * was acknowledged as replicated must be in it; the rest may be missing, and the world's own books
 * are put right by what it holds. In a quarter of the seeds, drawn from a generator of its own, so
 * that the other seeds live as they would without it. */
#include "shared/job/entry.h"
#include "tests/sim/sim.h"

static uint64_t draw(sim *s, uint64_t bound)
{
    return mq_prng_below(&s->replica_prng, bound);
}

static void copy_dict(mq_dict *to, const mq_dict *from)
{
    mq_dict_release(to);
    for (uint32_t i = 0; i < from->count; i++) {
        const mq_dict_entry *e = &from->entries[i];
        mq_dict_put(to, e->key, e->value, e->extra);
    }
}

/* As a whole: what a replica holds is what the primary held at one moment. */
static void copy_disk(mq_memory *to, const mq_memory *from)
{
    mq_memory before = *to;
    *to = *from;
    to->live = before.live;
    to->req = before.req;
    to->done = before.done;
    to->buckets = before.buckets;
    to->dead = before.dead;
    to->dead_req = before.dead_req;
    to->registry = before.registry;
    to->counters = before.counters;
    to->events = before.events;
    copy_dict(&to->live, &from->live);
    copy_dict(&to->req, &from->req);
    copy_dict(&to->done, &from->done);
    copy_dict(&to->buckets, &from->buckets);
    copy_dict(&to->dead, &from->dead);
    copy_dict(&to->dead_req, &from->dead_req);
    copy_dict(&to->registry, &from->registry);
    copy_dict(&to->counters, &from->counters);
    copy_dict(&to->events, &from->events);
}

static void follow(sim *s, sim_event *e)
{
    (void)e;
    s->is_replica_due = false;
    bool is_stalled = !s->is_calm && s->now_ms < s->replica_stall_ms;
    if (is_stalled) {
        s->is_replica_due = true;
        sim_at(s, s->replica_stall_ms, follow, SIM_NONE, 0, NULL);
        return;
    }
    if (!s->is_replica_up || s->is_former_back) {
        return; /* it does not follow a stranger */
    }
    copy_disk(s->replica, s->disk);
    mq_memory_set_replicas(s->disk, 1, s->replica->sequence);
}

void sim_replica_behind(sim *s)
{
    if (s->has_replica && s->is_replica_up && !s->is_replica_due) {
        s->is_replica_due = true;
        int64_t ms = draw(s, 8) == 0 ? (int64_t)draw(s, 400) : (int64_t)draw(s, 6);
        sim_at(s, s->now_ms + ms, follow, SIM_NONE, 0, NULL);
    }
}

static void go_up(sim *s, sim_event *e)
{
    (void)e;
    if (!s->is_replica_up) {
        sim_trace(s, "a replica attaches");
        s->is_replica_up = true;
        sim_replica_behind(s);
    }
}

static void go_down(sim *s)
{
    s->is_replica_up = false;
    mq_memory_set_replicas(s->disk, 0, 0);
    sim_at(s, s->now_ms + (int64_t)draw(s, 3000), go_up, SIM_NONE, 0, NULL);
}

/* ---- the shell's questions ---- */

/* As broker/io/replica.c: behind commits (step), again while something waits, now and then. */
void sim_replica_ask(sim *s, sim_broker *b)
{
    if (s->has_replica && !b->is_asking_replicas && s->now_ms >= b->replicas_ms &&
        sim_broker_is_serving(s, b)) {
        b->replicas_ms = s->now_ms + 1000;
        sim_store_replicas(s, b);
    }
}

void sim_broker_replicas(sim *s, sim_broker *b, uint64_t generation, uint64_t sequence,
                         uint32_t count)
{
    if (generation != b->generation || b->core == NULL) {
        return;
    }
    b->is_asking_replicas = false;
    mq_input in = {.type = MQ_IN_REPLICAS};
    in.as.replicas.sequence = sequence;
    in.as.replicas.count = count;
    (void)sim_broker_step(s, b, &in);
    mq_replica_view view;
    mq_core_replicas(b->core, &view);
    b->replicas_ms = s->now_ms + (view.waiting > 0 ? 50 : 1000);
    sim_broker_wake(s, b, view.waiting > 0 ? b->replicas_ms : s->now_ms);
}

/* What the store says of an ended job of this broker's may be told. */
bool sim_replica_is_sure(const sim_broker *b, uint64_t flags)
{
    mq_replica_view view = {0};
    if (b->core != NULL) {
        mq_core_replicas(b->core, &view);
    }
    return (flags & MQ_REC_REPLICATED) == 0 || view.is_loaded;
}

/* ---- the loss of the primary ---- */

static uint32_t versions_of(const sim *s, const sim_job *j)
{
    static mq_entry entry;
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->disk->registry.count; i++) {
        const mq_dict_entry *e = &s->disk->registry.entries[i];
        count += mq_entry_read(e->value, &entry, NULL) == MQ_OK && mq_span_is(entry.job, j->id);
    }
    return count;
}

/* What the world knows of a job is what the replica knows; what was told of a replicated one is in
 * it. */
static void put_right(sim *s, sim_job *j)
{
    mq_span record, result;
    bool is_there = sim_stored(s, mq_str(j->id), &record, &result);
    SIM_CHECK(s, is_there || !j->is_replicated || !j->is_acked,
              "job %s was acknowledged as replicated and is lost by the failover", j->id);
    s->lost_durable += !is_there && j->is_acked && !j->is_transient;
    mq_state state = MQ_STATE_NONE;
    j->is_cancel_acked = false;
    if (is_there) {
        SIM_CHECK(s, mq_job_record_read(record, &s->a, NULL) == MQ_OK, "unreadable record");
        state = mq_state_parse(s->a.state);
    }
    SIM_CHECK(s, !j->is_replicated || !j->is_told || j->is_retry_sent || state == j->told,
              "job %s, replicated, was told to be %s, and is %s after the failover", j->id,
              mq_state_name(j->told), mq_state_name(state));
    j->epoch = is_there ? s->a.epoch : 0; /* later leases are not known any more */
    j->grant = is_there ? s->a.grant : 0;
    (void)mq_span_copy(is_there ? s->a.worker : (mq_span){0}, j->holder, sizeof j->holder);
    j->is_acked = j->is_acked && (is_there || j->is_transient);
    j->is_stored = is_there;
    j->state = state;
    j->has_ended = mq_state_is_terminal(state);
    j->commits = state == MQ_STATE_SUCCEEDED;
    j->versions = versions_of(s, j);
    s->stored += is_there;
}

/* Nobody is connected to the store any more, and what was on its way there is lost. */
static void leave_store(sim *s)
{
    for (uint32_t i = 0; i < s->broker_count; i++) {
        sim_resume(s, i);
        if (s->brokers[i].core != NULL) {
            sim_broker_drop(s, &s->brokers[i], "the store is lost");
        }
        sim_store_break(s, &s->brokers[i]);
    }
    sim_store_release(s);
}

static void fail_over(sim *s)
{
    sim_trace(s, "the primary is lost: the replica is promoted, %llu commits behind",
              (unsigned long long)(s->disk->sequence - s->replica->sequence));
    leave_store(s);
    for (uint32_t i = 0; i < s->broker_count; i++) { /* --adopt */
        s->witness[i] = (mq_witness){.fd = -1};
        s->known[i][0] = '\0';
    }
    if (s->former == NULL) {
        s->former = mq_memory_new();
    }
    copy_disk(s->former, s->disk); /* its disk is found again later */
    uint64_t epoch = s->disk->epoch;
    mq_memory *old = s->disk;
    s->disk = s->replica;
    s->replica = old;
    s->disk->epoch = epoch; /* --adopt: on to an epoch that no lease has ever had */
    s->failovers++;
    s->failover_ms = s->now_ms;
    s->stored = 0;
    sim_check_recount(s);
    for (uint32_t i = 0; i < s->job_count; i++) {
        put_right(s, &s->jobs[i]);
    }
    go_down(s);
}

/* ---- a former primary comes back ---- */

static void swap_former(sim *s)
{
    leave_store(s);
    mq_memory *now = s->disk;
    s->disk = s->former;
    s->former = now;
    mq_memory_set_max(s->disk, now->max_bytes); /* the fault is the machine's */
    s->is_former_back = !s->is_former_back;
}

static void former_leaves(sim *s, sim_event *e)
{
    SIM_CHECK(s, s->disk->epoch == e->a, "the former primary has been taken over: epoch %llu",
              (unsigned long long)s->disk->epoch);
    sim_trace(s, "the right primary is there again");
    swap_former(s);
    mq_memory_free(s->former);
    s->former = NULL;
    sim_replica_behind(s);
}

/* All brokers have seen something that it has not: otherwise nobody could tell the two apart. */
static bool is_known_better(const sim *s)
{
    for (uint32_t i = 0; i < s->broker_count; i++) {
        const char *seen = s->known[i];
        if (seen[0] == '\0' || strstr(s->former->lineage, seen) != NULL) {
            return false;
        }
    }
    return true;
}

static uint64_t at_least(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Others have worked on it meanwhile, so that its numbers are the same or larger. */
static void former_comes(sim *s)
{
    uint64_t epoch = at_least(s->former->epoch, s->disk->epoch) + mq_prng_below(&s->former_prng, 3);
    uint64_t sequence =
        at_least(s->former->sequence, s->disk->sequence) + mq_prng_below(&s->former_prng, 3);
    sim_trace(s, "the former primary comes back, epoch %llu, commit %llu",
              (unsigned long long)epoch, (unsigned long long)sequence);
    s->returns++;
    s->former->epoch = epoch;
    s->former->sequence = sequence;
    s->former->owner[0] = '\0';
    swap_former(s);
    sim_at(s, s->now_ms + 200 + (int64_t)mq_prng_below(&s->former_prng, 4000), former_leaves,
           SIM_NONE, epoch, NULL);
}

/* As is_our_deployment of broker/io/own.c. */
bool sim_replica_is_right(sim *s, sim_broker *b, mq_code code, const mq_store_owner *owner)
{
    mq_error why;
    if (code != MQ_OK) {
        return false;
    }
    if (mq_witness_check(&s->witness[b->no], owner->instance, owner->sequence, owner->lineage,
                         &why) != MQ_OK) {
        sim_trace(s, "broker %u: %.120s", b->no, why.text);
        return false;
    }
    SIM_CHECK(s, !s->is_former_back, "broker %u accepts a former primary, epoch %llu, commit %llu",
              b->no, (unsigned long long)owner->epoch, (unsigned long long)owner->sequence);
    mq_witness_note(&s->witness[b->no], owner->instance, owner->sequence, owner->lineage,
                    s->now_ms);
    (void)snprintf(s->known[b->no], sizeof s->known[b->no], "%.16s", owner->lineage);
    return true;
}

static void tick(sim *s, sim_event *e)
{
    (void)e;
    if (s->is_calm) {
        return;
    }
    sim_at(s, s->now_ms + 100, tick, SIM_NONE, 0, NULL);
    if (s->is_former_back) {
        return;
    }
    if (s->former != NULL && is_known_better(s) && mq_prng_below(&s->former_prng, 40) == 0) {
        former_comes(s);
        return;
    }
    if (draw(s, 30) == 0) {
        s->replica_stall_ms = s->now_ms + (int64_t)draw(s, 3000);
        sim_trace(s, "the replica stalls");
    }
    bool has_copy = s->replica->sequence > 0 && s->is_replica_up;
    if (has_copy && draw(s, 60) == 0) {
        fail_over(s);
    } else if (s->is_replica_up && draw(s, 60) == 0) {
        sim_trace(s, "the replica dies");
        go_down(s);
    }
}

void sim_replica_init(sim *s)
{
    for (uint32_t i = 0; i < SIM_BROKERS; i++) {
        s->witness[i].fd = -1; /* no file */
    }
    s->has_replica = s->seed % 4 == 0;
    s->config.replicas = 1;
    s->config.replicate_ms = 1500;
    if (!s->has_replica) {
        return;
    }
    s->replica_prng.state = s->seed * 0x9e3779b97f4a7c15 + 7;
    s->former_prng.state = s->seed * 0x9e3779b97f4a7c15 + 11;
    s->replica = mq_memory_new();
    for (uint32_t i = 0; i < s->submit_count; i++) {
        sim_job *j = &s->jobs[i];
        j->is_replicated = !j->is_transient && draw(s, 2) == 0;
    }
    go_up(s, NULL);
    sim_at(s, 100, tick, SIM_NONE, 0, NULL);
}

void sim_replica_calm(sim *s)
{
    if (s->has_replica) {
        go_up(s, NULL);
        sim_replica_behind(s);
    }
}
