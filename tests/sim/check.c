/* What must hold. Safety is asked at the moment when it could break: when a commit is carried out,
 * when a lease leaves a broker, when a peer is told something. Knows the rules, not the cores. */
#include "shared/job/entry.h"
#include "tests/sim/sim.h"

static const sim_job *job_at(const sim *s, uint32_t no)
{
    return &s->jobs[no];
}

/* Reads what is stored of a job into *out; false when there is nothing. */
static bool read_stored(sim *s, const char *id, mq_job_record *out, mq_span *result)
{
    mq_span record;
    if (!sim_stored(s, mq_str(id), &record, result)) {
        return false;
    }
    SIM_CHECK(s, mq_job_record_read(record, out, NULL) == MQ_OK, "job %s: unreadable record", id);
    return true;
}

static mq_state stored_state(sim *s, const char *id)
{
    mq_span result;
    return read_stored(s, id, &s->b, &result) ? mq_state_parse(s->b.state) : MQ_STATE_NONE;
}

/* ---- commits ---- */

static bool existed[2 * MQ_STORE_JOBS_MAX];

void sim_check_before(sim *s, const mq_store_batch *batch)
{
    mq_span record, result;
    for (uint32_t i = 0; i < batch->create_count; i++) {
        existed[i] = sim_stored(s, batch->creates[i].id, &record, &result);
    }
}

/* Whether some parent had not succeeded, or was not there yet, when the child was cancelled. */
static bool has_bad_parent(sim *s, const sim_job *j)
{
    for (uint32_t i = 0; i < j->dep_count; i++) {
        const sim_job *dep = job_at(s, j->deps[i]);
        if (dep->state != MQ_STATE_SUCCEEDED || dep->stored_ms >= j->submit_ms) {
            return true;
        }
    }
    return false;
}

/* No other live job has its key. */
static void check_unique(sim *s, const sim_job *j)
{
    for (uint32_t i = 0; i < s->job_count && j->unique[0] != '\0'; i++) {
        const sim_job *other = job_at(s, i);
        bool is_live = other->is_stored && !mq_state_is_terminal(other->state);
        SIM_CHECK(s, other == j || !is_live || strcmp(other->unique, j->unique) != 0,
                  "jobs %s and %s live with the key %s", j->id, other->id, j->unique);
    }
}

static void check_reason(sim *s, const sim_job *j, mq_state state, const mq_job_record *r)
{
    bool is_planned = j->outcome == SIM_POISON || j->outcome == SIM_FATAL;
    switch ((int)state) {
    case MQ_STATE_SUCCEEDED:
        SIM_CHECK(s, !is_planned, "job %s succeeded, though it cannot", j->id);
        SIM_CHECK(s,
                  !j->is_cancel_acked || j->seats_max > 0 || r->epoch < j->cancel_epoch ||
                      (r->epoch == j->cancel_epoch && r->grant <= j->cancel_grant),
                  "job %s: a lease granted after its cancel was acknowledged has committed", j->id);
        break;
    case MQ_STATE_DEAD:
        SIM_CHECK(s,
                  is_planned || r->attempts >= r->attempts_max || r->crashes >= r->crashes_max ||
                      r->lapses >= MQ_LAPSES_MAX,
                  "job %s is dead without reason: %.*s, %llu attempts, %llu crashes", j->id,
                  MQ_SPAN_ARG(r->why), (unsigned long long)r->attempts,
                  (unsigned long long)r->crashes);
        break;
    case MQ_STATE_CANCELLED:
        SIM_CHECK(s, j->is_cancel_sent || has_bad_parent(s, j), "job %s is cancelled: %.*s", j->id,
                  MQ_SPAN_ARG(r->why));
        break;
    case MQ_STATE_EXPIRED:
        SIM_CHECK(s, j->ttl_ms > 0, "job %s has expired, without a time to live", j->id);
        break;
    default:
        break;
    }
}

/* The result that is stored is the one that the lease of the record computed. */
static void check_commit(sim *s, sim_job *j, const mq_job_record *r, mq_span result)
{
    char text[128];
    j->commits++;
    SIM_CHECK(s, j->commits == 1, "job %s was committed %u times", j->id, j->commits);
    (void)snprintf(text, sizeof text, "%llu.%llu.%.*s", (unsigned long long)r->epoch,
                   (unsigned long long)r->grant, MQ_SPAN_ARG(r->worker));
    bool is_gang = j->seats_max > 0;
    SIM_CHECK(s, is_gang || mq_span_is(result, text), "job %s: the result %.*s is not of lease %s",
              j->id, MQ_SPAN_ARG(result), text);
    SIM_CHECK(s, is_gang || (r->epoch == j->epoch && r->grant == j->grant),
              "job %s: %s has committed, but %llu.%llu is the latest lease", j->id, text,
              (unsigned long long)j->epoch, (unsigned long long)j->grant);
}

static void check_limits(sim *s, const sim_job *j, const mq_job_record *r)
{
    SIM_CHECK(s, r->attempts <= r->attempts_max, "job %s: %llu attempts of %llu", j->id,
              (unsigned long long)r->attempts, (unsigned long long)r->attempts_max);
    SIM_CHECK(s, r->crashes <= r->crashes_max, "job %s: %llu crashes", j->id,
              (unsigned long long)r->crashes);
    SIM_CHECK(s, r->lapses <= MQ_LAPSES_MAX, "job %s: %llu lapses", j->id,
              (unsigned long long)r->lapses);
}

/* A record that was written. */
static void on_record(sim *s, mq_span id)
{
    sim_job *j = sim_job_get(s, id);
    mq_span result;
    mq_job_record *r = &s->a;
    SIM_CHECK(s, read_stored(s, j->id, r, &result), "job %s is not stored any more", j->id);
    mq_state state = mq_state_parse(r->state);
    bool was_ended = mq_state_is_terminal(j->state);
    SIM_CHECK(s, state != MQ_STATE_REFUSED && state != MQ_STATE_NONE, "job %s: state %.*s", j->id,
              MQ_SPAN_ARG(r->state));
    bool may_leave = j->state == MQ_STATE_DEAD && j->is_retry_sent;
    SIM_CHECK(s, !was_ended || state == j->state || may_leave, "job %s was %s and is %s", j->id,
              mq_state_name(j->state), mq_state_name(state));
    check_limits(s, j, r);
    if (mq_state_is_terminal(state) && (!was_ended || may_leave)) {
        s->end_counts[state]++;
        j->has_ended = true;
        check_reason(s, j, state, r);
        if (state == MQ_STATE_SUCCEEDED) {
            check_commit(s, j, r, result);
        }
        sim_trace(s, "stored: %s is %s", j->id, mq_state_name(state));
    }
    j->state = state;
}

static uint64_t counter(const sim *s, const char *name)
{
    const mq_dict_entry *e = mq_dict_find(&s->disk->counters, mq_str(name));
    return e == NULL ? 0 : e->extra;
}

static const struct {
    const char *name;
    mq_state state;
} rows[] = {{"succeeded", MQ_STATE_SUCCEEDED},
            {"dead", MQ_STATE_DEAD},
            {"cancelled", MQ_STATE_CANCELLED},
            {"expired", MQ_STATE_EXPIRED}};

void sim_check_recount(sim *s)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        s->end_counts[rows[i].state] = counter(s, rows[i].name);
    }
}

static void check_counters(sim *s)
{
    uint64_t submitted = counter(s, "submitted") - counter(s, "dups");
    SIM_CHECK(s, submitted == s->stored, "counters say %llu submitted, %llu are stored",
              (unsigned long long)submitted, (unsigned long long)s->stored);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t n = counter(s, rows[i].name);
        SIM_CHECK(s, n == s->end_counts[rows[i].state], "counters say %llu %s, it were %llu",
                  (unsigned long long)n, rows[i].name,
                  (unsigned long long)s->end_counts[rows[i].state]);
    }
}

static void on_version(sim *s, const mq_store_set *set)
{
    static mq_entry entry;
    if (set->value.data == NULL || mq_entry_read(set->value, &entry, NULL) != MQ_OK ||
        entry.job.len == 0) {
        return;
    }
    sim_job *j = sim_job_get(s, entry.job);
    j->versions++;
    SIM_CHECK(s, j->versions == 1, "job %s has made %u versions", j->id, j->versions);
    SIM_CHECK(s, stored_state(s, j->id) == MQ_STATE_SUCCEEDED,
              "job %s has published without having succeeded", j->id);
}

void sim_check_applied(sim *s, const mq_store_batch *batch, bool is_applied)
{
    if (!is_applied) {
        return;
    }
    for (uint32_t i = 0; i < batch->create_count; i++) {
        if (existed[i]) {
            continue;
        }
        sim_job *j = sim_job_get(s, batch->creates[i].id);
        SIM_CHECK(s, !j->is_stored, "job %s is made a second time", j->id);
        j->is_stored = true;
        j->stored_ms = s->now_ms;
        s->stored++;
        on_record(s, batch->creates[i].id);
        SIM_CHECK(s,
                  j->parent == SIM_NONE ||
                      stored_state(s, job_at(s, j->parent)->id) == MQ_STATE_SUCCEEDED,
                  "child %s is stored, its parent has not succeeded", j->id);
    }
    for (uint32_t i = 0; i < batch->put_count; i++) {
        on_record(s, batch->puts[i].id);
    }
    for (uint32_t i = 0; i < batch->finish_count; i++) {
        sim_job *j = sim_job_get(s, batch->finishes[i].id);
        if (!j->is_stored) { /* created and ended at once */
            s->stored++;
            j->is_stored = true;
            j->stored_ms = s->now_ms;
        }
        on_record(s, batch->finishes[i].id);
    }
    for (uint32_t i = 0; i < batch->revive_count; i++) {
        on_record(s, batch->revives[i].id);
    }
    for (uint32_t i = 0; i < batch->create_count; i++) {
        check_unique(s, sim_job_get(s, batch->creates[i].id));
    }
    for (uint32_t i = 0; i < batch->registry_count; i++) {
        on_version(s, &batch->registry[i]);
    }
    check_counters(s);
}

/* ---- leases ---- */

static void check_parents(sim *s, const sim_job *j)
{
    for (uint32_t i = 0; i < j->dep_count; i++) {
        const sim_job *dep = job_at(s, j->deps[i]);
        bool is_done = j->runs_anyway ? dep->has_ended : dep->state == MQ_STATE_SUCCEEDED;
        SIM_CHECK(s, is_done, "job %s is sent, its parent %s is %s", j->id, dep->id,
                  mq_state_name(dep->state));
    }
    SIM_CHECK(s, j->parent == SIM_NONE || job_at(s, j->parent)->state == MQ_STATE_SUCCEEDED,
              "job %s is sent before its parent's end is stored", j->id);
}

/* Of the owner, not of a broker that does not know yet that it is not. */
static void check_owners_lease(sim *s, sim_job *j, const mq_msg_job_item *it, const char *uuid,
                               bool is_new)
{
    mq_span result;
    bool is_there = read_stored(s, j->id, &s->a, &result);
    SIM_CHECK(s, !mq_state_is_terminal(j->state), "job %s is sent after its end was stored", j->id);
    SIM_CHECK(s,
              !is_new || j->tokens == 0 || j->epoch != it->epoch ||
                  (is_there && s->a.epoch == it->epoch && s->a.grant == it->grant),
              "job %s: a later lease is sent before it is stored", j->id);
    SIM_CHECK(s, is_new || strcmp(j->holder, uuid) == 0, "lease %llu.%llu of %s has two holders",
              (unsigned long long)it->epoch, (unsigned long long)it->grant, j->id);
    SIM_CHECK(s, !is_new || !j->is_cancel_acked || j->is_retry_sent,
              "job %s is sent out after its cancel was acknowledged", j->id);
    bool is_steady = s->rate[SIM_F_CLOCK] == 0; /* a core's time does not go back with its clock */
    SIM_CHECK(s, !is_steady || j->run_at_ms <= sim_wall(s), "job %s runs too early", j->id);
}

void sim_check_job_out(sim *s, sim_broker *b, const mq_output *o)
{
    const mq_msg_job_item *it = &o->as.job;
    sim_job *j = sim_job_get(s, it->id);
    const char *uuid =
        o->conn == 0 ? "" : s->workers[s->conns[o->conn - 1].peer - SIM_BROKERS].uuid;
    sim_trace(s, "broker %u sends %s as %llu.%llu on %llu", b->no, j->id,
              (unsigned long long)it->epoch, (unsigned long long)it->grant,
              (unsigned long long)o->conn);
    check_parents(s, j);
    if (j->is_transient || j->seats_max > 0) {
        return;
    }
    bool is_new = it->epoch > j->epoch || (it->epoch == j->epoch && it->grant > j->grant);
    bool is_old = it->epoch < j->epoch || (it->epoch == j->epoch && it->grant < j->grant);
    if (b->epoch == s->disk->epoch) {
        SIM_CHECK(s, !is_old, "job %s: lease %llu.%llu is sent after %llu.%llu", j->id,
                  (unsigned long long)it->epoch, (unsigned long long)it->grant,
                  (unsigned long long)j->epoch, (unsigned long long)j->grant);
        check_owners_lease(s, j, it, uuid, is_new);
    }
    if (is_new) {
        j->tokens++;
        j->epoch = it->epoch;
        j->grant = it->grant;
        (void)snprintf(j->holder, sizeof j->holder, "%s", uuid);
    }
}

/* ---- what peers are told ---- */

/* What was on its way to a peer may have been lost by a failover; not of replicated jobs. */
static bool may_be_lost(const sim *s, const sim_job *j)
{
    return s->failovers > 0 && !j->is_replicated;
}

void sim_check_acked(sim *s, sim_job *j, const char *verdict)
{
    mq_span record, result;
    bool is_there = j->is_transient || sim_stored(s, mq_str(j->id), &record, &result);
    SIM_CHECK(s, is_there || may_be_lost(s, j), "job %s is acknowledged (%s) and not stored", j->id,
              verdict);
    s->lost_durable += !is_there;
    j->is_acked = is_there;
}

void sim_check_verdict(sim *s, const sim_worker *w, const mq_msg_held_verdict *v,
                       const mq_ws_job *job, int64_t sent_ms)
{
    mq_span result;
    const sim_job *j = sim_job_get(s, v->id);
    bool is_taken = mq_span_is(v->verdict, "ok") || mq_span_is(v->verdict, "dup");
    bool is_result = job->state == MQ_WS_ENDED && job->class == MQ_WS_CLASS_OK;
    if (!is_taken || !is_result || j->is_transient || j->seats_max > 0) {
        return;
    }
    /* What was on its way before a failover may be of a commit that the replica lacks: a worker is
     * told when it is stored, also of replicated jobs; their client only when a replica has it. */
    if (s->failovers > 0 && sent_ms <= s->failover_ms) {
        return;
    }
    SIM_CHECK(s, read_stored(s, j->id, &s->a, &result) && mq_span_is(s->a.state, "succeeded"),
              "worker %u: the result of %s was taken and is not stored", w->no, j->id);
    SIM_CHECK(
        s, s->a.epoch == v->epoch && s->a.grant == v->grant && mq_span_is(s->a.worker, w->uuid),
        "worker %u: lease %llu.%llu of %s was told %.*s, another one has committed", w->no,
        (unsigned long long)v->epoch, (unsigned long long)v->grant, j->id, MQ_SPAN_ARG(v->verdict));
}

void sim_check_told(sim *s, sim_job *j, mq_span state, mq_span result, const char *by)
{
    mq_span stored;
    if (j->is_transient || may_be_lost(s, j)) {
        return;
    }
    SIM_CHECK(s, read_stored(s, j->id, &s->a, &stored), "%s: job %s has ended and is not stored",
              by, j->id);
    SIM_CHECK(s, mq_span_eq(state, s->a.state) || j->is_retry_sent,
              "%s: job %s is said to be %.*s and is stored as %.*s", by, j->id, MQ_SPAN_ARG(state),
              MQ_SPAN_ARG(s->a.state));
    SIM_CHECK(s, !mq_span_is(state, "succeeded") || mq_span_eq(result, stored),
              "%s: job %s came with the result %.*s, stored is %.*s", by, j->id,
              MQ_SPAN_ARG(result), MQ_SPAN_ARG(stored));
}

void sim_check_cancelled(sim *s, sim_job *j)
{
    mq_span result;
    if (j->is_transient || j->is_cancel_acked || may_be_lost(s, j)) {
        return;
    }
    SIM_CHECK(s, read_stored(s, j->id, &s->a, &result), "job %s is cancelled and not stored",
              j->id);
    bool is_ended = mq_state_is_terminal(mq_state_parse(s->a.state));
    SIM_CHECK(s, is_ended || (s->a.flags & MQ_REC_CANCELLING) != 0 || j->is_retry_sent,
              "job %s: its cancel was acknowledged and is not stored", j->id);
    j->is_cancel_acked = true;
    j->cancel_epoch = j->epoch;
    j->cancel_grant = j->grant;
}

/* ---- the store against the core ---- */

/* Jobs that a commit has made; one whose parents are being looked up is not stored yet. */
static uint32_t count_durable(const mq_core *core)
{
    mq_job_view view;
    uint32_t count = 0;
    for (uint32_t i = 0; i < mq_core_slots(core); i++) {
        count += mq_core_job(core, i, &view) && !view.is_transient && view.state != MQ_STATE_NONE;
    }
    return count;
}

void sim_check_equal(sim *s, sim_broker *b)
{
    mq_core_stats stats;
    const char *name = "";
    mq_core_stats_read(b->core, &stats);
    mq_replica_view replicas; /* ends that wait for a replica are stored and still in memory */
    mq_core_replicas(b->core, &replicas);
    bool is_quiet = !b->is_loading && replicas.waiting == 0 && !b->must_drop &&
                    stats.commits_inflight == 0 && b->epoch == s->disk->epoch &&
                    stats.sequence == s->disk->sequence &&
                    mq_core_deadline(b->core) > s->now_ms + b->offset_ms;
    if (!is_quiet || b->compared == stats.sequence) {
        return;
    }
    b->compared = stats.sequence;
    uint32_t count = s->disk->live.count;
    uint32_t durable = count_durable(b->core) - stats.kept; /* those are not written yet */
    SIM_CHECK(s, count == durable, "%u jobs are stored, %u are in memory", count, durable);
    for (uint32_t i = 0; i < count; i++) {
        const mq_dict_entry *e = &s->disk->live.entries[i];
        uint32_t slot = mq_core_find(b->core, e->key);
        SIM_CHECK(s, slot != MQ_CORE_NO_SLOT && mq_core_record(b->core, slot, &s->b),
                  "job %.*s is stored and not in memory", MQ_SPAN_ARG(e->key));
        SIM_CHECK(s, mq_job_record_read(e->value, &s->a, NULL) == MQ_OK, "unreadable record");
        SIM_CHECK(s, mq_job_record_equal(&s->a, &s->b, &name),
                  "job %.*s: %s differs between store and memory", MQ_SPAN_ARG(e->key), name);
    }
    sim_check_rest_equal(s, b);
}

void sim_check_step(sim *s)
{
    mq_core_stats stats;
    uint32_t serving = 0;
    if (s->steps % 16 != 0) {
        return;
    }
    for (uint32_t i = 0; i < s->broker_count; i++) {
        const sim_broker *b = &s->brokers[i];
        if (!s->parties[i].is_alive || b->core == NULL) {
            continue;
        }
        serving += sim_broker_is_serving(s, b);
        mq_core_stats_read(b->core, &stats);
        SIM_CHECK(s, stats.transient <= s->config.transient_max, "%u transient jobs",
                  stats.transient);
        SIM_CHECK(s, stats.held_bytes <= s->config.held_bytes_max, "%llu bytes are held",
                  (unsigned long long)stats.held_bytes);
    }
    SIM_CHECK(s, serving <= 1 || s->rate[SIM_F_CLOCK] != 0,
              "two brokers serve within their tenure");
}

/* ---- the end ---- */

/* Whom the owner takes for draining has heard of it. */
static bool is_drain_known(const sim *s, const mq_core *core)
{
    mq_worker_view view;
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        bool is_draining = mq_core_worker(core, i, &view) && view.is_draining;
        for (uint32_t k = 0; k < s->worker_count && is_draining; k++) {
            const sim_worker *w = &s->workers[k];
            if (mq_span_is(view.uuid, w->uuid) && !w->session.is_draining) {
                return false;
            }
        }
    }
    return true;
}

bool sim_check_is_over(sim *s)
{
    if (s->steps % 32 != 0 || s->now_ms < s->submits_end_ms + 20000 || s->disk->live.count > 0 ||
        s->is_former_back) {
        return false;
    }
    for (uint32_t i = 0; i < s->client_count; i++) {
        if (mq_ccore_count(&s->clients[i].core) > 0) {
            return false;
        }
    }
    for (uint32_t i = 0; i < s->worker_count; i++) {
        if (s->workers[i].session.used > 0) {
            return false;
        }
    }
    for (uint32_t i = 0; i < s->broker_count; i++) {
        const sim_broker *b = &s->brokers[i];
        mq_core_stats stats;
        if (sim_broker_is_serving(s, b) && !b->is_loading) {
            mq_core_stats_read(b->core, &stats);
            return stats.jobs == 0 && stats.waiters == 0 && stats.commits_inflight == 0 &&
                   is_drain_known(s, b->core);
        }
    }
    return false;
}

void sim_check_dump(sim *s)
{
    for (uint32_t i = 0; i < s->broker_count; i++) {
        const sim_broker *b = &s->brokers[i];
        mq_job_view job;
        mq_worker_view w;
        mq_lane_view lane;
        for (uint32_t k = 0; b->core != NULL && k < mq_core_slots(b->core); k++) {
            if (mq_core_job(b->core, k, &job)) {
                sim_trace(s, "broker %u: job %.*s %s %.*s of worker %.*s", i, MQ_SPAN_ARG(job.id),
                          mq_state_name(job.state), MQ_SPAN_ARG(job.kind), MQ_SPAN_ARG(job.worker));
            }
        }
        for (uint32_t k = 0; b->core != NULL && k < s->config.workers_max; k++) {
            if (mq_core_worker(b->core, k, &w)) {
                sim_trace(s, "broker %u: worker %.*s has %u free of %u at %llu%s", i,
                          MQ_SPAN_ARG(w.uuid), w.free, w.slots, (unsigned long long)w.conn,
                          w.is_draining ? ", drains" : "");
            }
        }
        for (uint32_t k = 0; b->core != NULL && k < s->config.lanes_max; k++) {
            if (mq_core_lane(b->core, k, &lane)) {
                sim_trace(s, "broker %u: %u wait in %.*s %.*s%s", i, lane.waiting,
                          MQ_SPAN_ARG(lane.queue), MQ_SPAN_ARG(lane.kind),
                          lane.is_paused ? ", paused" : "");
            }
        }
    }
    for (uint32_t i = 0; i < s->worker_count; i++) {
        const mq_worker_session *session = &s->workers[i].session;
        sim_trace(s, "worker %u: link %d, %u jobs, %llu free told%s", i, (int)session->link,
                  session->used, (unsigned long long)session->free_told,
                  session->is_draining ? ", drains" : "");
    }
    for (uint32_t i = 0; i < s->client_count; i++) {
        sim_trace(s, "client %u: %u open", i, mq_ccore_count(&s->clients[i].core));
    }
}

static void check_job_end(sim *s, const sim_job *j)
{
    mq_span result;
    bool is_stored = read_stored(s, j->id, &s->a, &result);
    SIM_CHECK(s, j->ends == j->handles, "job %s: %u handles, %u ends", j->id, j->handles, j->ends);
    SIM_CHECK(s, !j->is_acked || j->is_transient || is_stored, "acknowledged job %s is lost",
              j->id);
    SIM_CHECK(s, is_stored == j->is_stored, "job %s was stored and is gone", j->id);
    if (!is_stored) {
        return;
    }
    mq_state state = mq_state_parse(s->a.state);
    SIM_CHECK(s, mq_state_is_terminal(state), "job %s is stored as %s", j->id,
              mq_state_name(state));
    bool is_ok = state == MQ_STATE_SUCCEEDED;
    SIM_CHECK(s, !is_ok || j->versions == (j->does_publish ? 1 : 0), "job %s has made %u versions",
              j->id, j->versions);
    for (uint32_t i = 0; i < j->spawn_count; i++) {
        const sim_job *child = job_at(s, j->spawns[i]);
        SIM_CHECK(s, child->is_stored == is_ok, "job %s is %s and its child %s is %s", j->id,
                  mq_state_name(state), child->id, child->is_stored ? "there" : "not there");
    }
}

void sim_check_end(sim *s)
{
    for (uint32_t i = 0; i < s->job_count; i++) {
        check_job_end(s, &s->jobs[i]);
    }
    for (uint32_t i = 0; i < s->broker_count; i++) {
        const sim_broker *b = &s->brokers[i];
        SIM_CHECK(s, b->core == NULL || b->epoch != s->disk->epoch || b->bytes_alive == 0,
                  "broker %u still holds %u bodies", i, b->bytes_alive);
    }
}
