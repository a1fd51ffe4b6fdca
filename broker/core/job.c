/* One job: its slot, its state, what follows from a change of state. It must not know messages. */
#include "broker/core/state.h"

static bool job_is(const mq_core *core, uint32_t value, const void *key)
{
    const mq_span *id = key;
    return id->len == MQ_ULID_LEN && memcmp(core->jobs[value].id, id->data, MQ_ULID_LEN) == 0;
}

mq_job *mq_job_find(mq_core *core, mq_span id)
{
    uint32_t job = mq_core_find(core, id);
    return job == MQ_NONE ? NULL : &core->jobs[job];
}

uint32_t mq_core_find(const mq_core *core, mq_span id)
{
    if (id.len != MQ_ULID_LEN) {
        return MQ_NONE;
    }
    return mq_index_find(core, &core->job_index, mq_id_hash(id), job_is, &id);
}

void mq_core_foresee(const mq_core *core, mq_span id)
{
    uint32_t hash = mq_id_hash(id);
    mq_index_foresee(&core->job_index, hash);
    mq_index_foresee(&core->recent_index, hash);
}

mq_job *mq_job_new(mq_core *core, mq_span id)
{
    MQ_ASSERT(id.len == MQ_ULID_LEN);
    uint32_t no = MQ_TAKE(core, job, jobs, mq_job);
    if (no == MQ_NONE) {
        return NULL;
    }
    mq_job *job = &core->jobs[no];
    memset(job, 0, sizeof *job);
    memcpy(job->id, id.data, MQ_ULID_LEN);
    job->id_hash = mq_id_hash(id);
    job->is_used = true;
    job->state = MQ_STATE_NONE;
    job->before = MQ_STATE_NONE;
    job->worker = job->gang = job->strand = MQ_NONE;
    job->held_prev = job->held_next = MQ_NONE;
    job->heap_child = job->heap_next = job->heap_prev = MQ_NONE;
    job->next_dirty = job->next_spawn = job->next_unresolved = MQ_NONE;
    job->waiters = job->waiters_tail = MQ_NONE;
    job->kept_prev = job->kept_next = MQ_NONE;
    job->parents = job->children = MQ_NONE;
    job->spawns = job->entries = MQ_NONE;
    mq_index_put(core, &core->job_index, no);
    core->stats.by_state[MQ_STATE_NONE]++;
    return job;
}

void mq_bytes_release(mq_core *core, mq_bytes *bytes, mq_outputs *out)
{
    if (bytes != NULL) {
        MQ_ASSERT(core->held_bytes >= bytes->len);
        core->held_bytes -= bytes->len;
        mq_out_release(out, bytes);
    }
}

void mq_job_free(mq_core *core, mq_job *job)
{
    MQ_ASSERT(!job->in_lane && !job->is_dirty && !job->is_kept);
    MQ_ASSERT(job->worker == MQ_NONE && job->gang == MQ_NONE && job->waiters == MQ_NONE);
    MQ_ASSERT(job->body == NULL && job->result == NULL && job->children == MQ_NONE);
    uint32_t no = mq_job_no(core, job);
    mq_deps_drop(core, job);
    mq_heap_remove(&core->timers, no);
    mq_unique_drop(core, job);
    mq_index_remove(core, &core->job_index, no);
    core->stats.by_state[job->state]--;
    if (job->is_transient) {
        core->transient--;
    }
    mq_ref_drop(core, &job->memo);
    mq_ref_drop(core, &job->trace);
    mq_ref_drop(core, &job->error);
    mq_ref_drop(core, &job->deps);
    mq_ref_drop(core, &job->check);
    mq_ref_drop(core, &job->result_text);
    mq_ref_drop(core, &job->unique);
    mq_ref_drop(core, &job->log);
    mq_ref_drop(core, &job->progress);
    mq_name_drop(core, job->kind);
    mq_name_drop(core, job->queue);
    mq_name_drop(core, job->model);
    mq_name_drop(core, job->tenant);
    mq_name_drop(core, job->key);
    mq_name_drop(core, job->needs);
    job->is_used = false;
    MQ_ASSERT(core->grave_count < core->graves_max);
    core->graves[core->grave_count++] = no;
}

void mq_job_why(mq_job *job, const char *text, mq_span tail)
{
    mq_span head = mq_str(text);
    size_t n = mq_min_size(head.len, sizeof job->why - 1);
    size_t m = mq_min_size(tail.len, sizeof job->why - 1 - n);
    memcpy(job->why, head.data, n);
    if (m > 0) {
        memcpy(job->why + n, tail.data, m);
    }
    job->why[n + m] = '\0';
}

/* Takes the job out of whatever its state had it in. */
static void leave(mq_core *core, mq_job *job)
{
    if (job->in_lane) {
        mq_lane_remove(core, job);
    }
    if (job->worker != MQ_NONE) {
        mq_unhold(core, job);
    }
    if (job->limited != 0 && job->state == MQ_STATE_LEASED) {
        mq_limits_give(core, job);
    }
}

static void count_end(mq_core *core, mq_job *job)
{
    mq_state state = (mq_state)job->state;
    core->stats.succeeded += state == MQ_STATE_SUCCEEDED;
    core->stats.dead += state == MQ_STATE_DEAD;
    core->stats.cancelled += state == MQ_STATE_CANCELLED;
    core->stats.expired += state == MQ_STATE_EXPIRED;
    if (job->is_transient) {
        core->stats.transient_ended++;
        return;
    }
    MQ_ASSERT(core->live > 0 && core->names[job->tenant].live > 0);
    core->live--;
    core->names[job->tenant].live--;
}

static void remember(mq_job *job, mq_transition step)
{
    if (job->history_count == MQ_RECORD_HISTORY_MAX) {
        memmove(job->history, job->history + 1,
                sizeof job->history[0] * (MQ_RECORD_HISTORY_MAX - 1));
        job->history_count--;
    }
    job->history[job->history_count++] = mq_transition_pack(step);
}

void mq_job_lease_counts(mq_job *job)
{
    job->lease_counts[0] = (uint16_t)job->attempts;
    job->lease_counts[1] = (uint16_t)job->crashes;
    job->lease_counts[2] = (uint16_t)job->lapses;
}

void mq_job_move(mq_core *core, mq_job *job, mq_event event, const char *why)
{
    mq_state to = mq_lifecycle_next((mq_state)job->state, event);
    MQ_ASSERT(to != MQ_STATE_REFUSED);
    leave(core, job);
    job->wants_lane = false;
    core->stats.by_state[job->state]--;
    core->stats.by_state[to]++;
    job->before = job->state;
    job->state = (uint8_t)to;
    if (why != NULL) {
        mq_job_why(job, why, (mq_span){0});
    }
    remember(job, (mq_transition){core->now_ms, job->grants, event, to});
    if (to == MQ_STATE_QUEUED) {
        job->ready_ms = core->now_ms;
    } else if (to == MQ_STATE_LEASED) {
        mq_job_lease_counts(job);
    }
    if (mq_job_ended(job)) {
        job->ended_ms = core->now_ms;
        count_end(core, job);
    }
    mq_job_timer(core, job);
    mq_job_dirty(core, job);
    if (to == MQ_STATE_QUEUED) {
        mq_job_ready(core, job);
    }
}

void mq_job_ready(mq_core *core, mq_job *job)
{
    MQ_ASSERT(job->state == MQ_STATE_QUEUED && !job->in_lane);
    bool is_stored = job->is_transient || job->create == MQ_CREATE_STORED;
    if ((!is_stored && !job->is_fresh) || job->is_spawned) {
        return; /* comes again when it is stored */
    }
    if (job->memo.at != 0 && is_stored && !job->is_transient) {
        uint32_t memo = mq_memo_find(core, mq_pool_span(&core->pool, job->memo));
        if (memo != MQ_NONE && mq_memo_usable(core, memo)) {
            mq_complete_by_memo(core, job, memo);
            return;
        }
    }
    job->wants_lane = !mq_lane_push(core, job);
    if (job->wants_lane) { /* all lanes are in use: tried again by its timer */
        mq_job_timer(core, job);
    }
}

void mq_job_timer(mq_core *core, mq_job *job)
{
    int64_t at = INT64_MAX;
    switch ((mq_state)job->state) {
    case MQ_STATE_SCHEDULED:
        at = job->run_at_ms;
        break;
    case MQ_STATE_LEASED:
        at = job->gang != MQ_NONE ? mq_gang_lease_until(&core->gangs[job->gang])
                                  : job->lease_until_ms;
        break;
    case MQ_STATE_QUEUED:
        at = job->wants_lane ? core->now_ms + MQ_RETRY_LATER_MS : INT64_MAX;
        break;
    case MQ_STATE_NONE:
    case MQ_STATE_BLOCKED:
    case MQ_STATE_SUCCEEDED:
    case MQ_STATE_DEAD:
    case MQ_STATE_CANCELLED:
    case MQ_STATE_EXPIRED:
    case MQ_STATE_COUNT:
        break;
    }
    bool may_expire = !mq_job_ended(job) && job->expires_ms > 0 &&
                      (job->state != MQ_STATE_LEASED || job->is_transient);
    if (may_expire) {
        at = mq_min_i64(at, job->expires_ms);
    }
    if (at == INT64_MAX) {
        mq_heap_remove(&core->timers, mq_job_no(core, job));
    } else {
        mq_heap_set(&core->timers, mq_job_no(core, job), at);
    }
}

void mq_job_dirty(mq_core *core, mq_job *job)
{
    if (job->is_transient || job->is_dirty || job->is_spawned || job->is_ending) {
        return;
    }
    if (job->create == MQ_CREATE_SENT) {
        job->is_held_dirty = true; /* it may be a dup: nothing of it goes before the answer */
        return;
    }
    if (job->create == MQ_CREATE_NEW && job->state == MQ_STATE_NONE) {
        return; /* its first state is not known yet */
    }
    uint32_t no = mq_job_no(core, job);
    job->is_dirty = true;
    job->next_dirty = MQ_NONE;
    if (core->dirty_head == MQ_NONE) {
        core->dirty_head = no;
    } else {
        core->jobs[core->dirty_tail].next_dirty = no;
    }
    core->dirty_tail = no;
}

void mq_job_set_error(mq_core *core, mq_job *job, mq_span code, mq_span text)
{
    mq_ref_drop(core, &job->error);
    job->code = (uint8_t)mq_code_parse((const char *)code.data, code.len);
    text.len = mq_min_size(text.len, 512);
    (void)mq_pool_copy(&core->pool, text,
                       &job->error); /* a full pool costs the text, not the job */
}

void mq_job_set_result(mq_core *core, mq_job *job, mq_bytes *bytes)
{
    MQ_ASSERT(job->result == NULL);
    job->has_result = true;
    job->result = bytes;
    job->result_bytes = bytes == NULL ? 0 : bytes->len;
    core->held_bytes += job->result_bytes;
}

static uint64_t flags_of(const mq_job *job)
{
    uint64_t flags = 0;
    flags |= job->is_quiet ? MQ_REC_QUIET : 0;
    flags |= job->is_replicated ? MQ_REC_REPLICATED : 0;
    flags |= job->is_cancelling ? MQ_REC_CANCELLING : 0;
    flags |= job->is_spent ? MQ_REC_SPENT : 0;
    flags |= job->has_result ? MQ_REC_HAS_RESULT : 0;
    flags |= job->runs_anyway ? MQ_REC_ANYWAY : 0;
    flags |= job->create == MQ_CREATE_DISCARD ? MQ_REC_DISCARDED : 0;
    return flags;
}

static void fill_deps(const mq_core *core, const mq_job *job, mq_job_record *r)
{
    for (uint32_t e = job->parents; e != MQ_NONE; e = core->edges[e].next_parent) {
        MQ_ASSERT(r->dep_count < MQ_RECORD_DEPS_MAX);
        r->deps[r->dep_count++] = mq_span_of(core->jobs[core->edges[e].parent].id, MQ_ULID_LEN);
    }
    mq_span left = mq_pool_span(&core->pool, job->deps);
    for (size_t at = 0; at < job->deps_len; at += MQ_ULID_LEN) {
        MQ_ASSERT(r->dep_count < MQ_RECORD_DEPS_MAX);
        r->deps[r->dep_count++] = mq_span_of(left.data + at, MQ_ULID_LEN);
    }
}

static void fill_gang(const mq_core *core, const mq_job *job, mq_job_record *r)
{
    if (job->gang != MQ_NONE) {
        const mq_gang *gang = &core->gangs[job->gang];
        r->gang_epoch = gang->gang_epoch;
        for (uint32_t i = 0; i < gang->count; i++) {
            const mq_seat *seat = &gang->seats[i];
            r->members[r->member_count++] =
                (mq_record_member){seat->seat, seat->grant, mq_span_of(seat->uuid, MQ_UUID_LEN)};
        }
    }
    mq_span check = mq_pool_span(&core->pool, job->check);
    if (check.len > 0) {
        r->chain = mq_span_of(check.data, job->chain_len);
        r->blob = mq_span_of(check.data + job->chain_len, job->blob_len);
        r->meta = mq_span_of(check.data + job->chain_len + job->blob_len, job->meta_len);
    }
}

/* The state a client may be told: what is decided but not stored is not shown. */
static mq_state shown_state(const mq_job *job)
{
    bool is_hidden = mq_job_ended(job) && !job->is_transient;
    return (mq_state)(is_hidden ? job->before : job->state);
}

static void fill_counts(const mq_job *job, mq_job_record *r)
{
    r->number = job->number;
    r->priority = job->priority;
    r->run_at_ms = job->run_at_ms;
    r->expires_ms = job->expires_ms;
    r->lease_ms = job->lease_ms;
    r->max_run_ms = job->max_run_ms;
    r->attempts_max = job->attempts_max;
    r->crashes_max = job->crashes_max;
    r->seats_min = job->seats_min;
    r->seats_max = job->seats_max;
    r->flags = flags_of(job);
    r->epoch = job->epoch;
    r->grant = job->grant;
    r->attempts = job->attempts;
    r->crashes = job->crashes;
    r->lapses = job->lapses;
    r->submitted_ms = job->submitted_ms;
    r->leased_ms = job->leased_ms;
    r->ended_ms = job->ended_ms;
    r->queue_us = job->queue_us;
    r->run_us = job->run_us;
    r->body_bytes = job->body_bytes;
    r->result_bytes = job->result_bytes;
    r->step = job->step;
    r->seat_next = job->seat_next;
    r->keep_ms = (uint64_t)job->keep_ms;
    r->backoff_ms = job->backoff_ms;
    r->backoff_max_ms = job->backoff_max_ms;
}

/* What the end brought is not part of a record that is stored before it: after a takeover its
 * result would be taken for one that has been counted. */
static void hide_end(const mq_job *job, mq_job_record *r)
{
    if (job->before == MQ_STATE_LEASED) { /* nowhere else an end counts anything */
        r->attempts = job->lease_counts[0];
        r->crashes = job->lease_counts[1];
        r->lapses = job->lease_counts[2];
    }
    r->flags &= ~(uint64_t)(MQ_REC_SPENT | MQ_REC_HAS_RESULT);
    r->result_bytes = r->run_us = 0;
    r->ended_ms = 0;
    r->code = r->error = (mq_span){0};
}

void mq_job_fill(const mq_core *core, const mq_job *job, bool as_stored, mq_job_record *out)
{
    memset(out, 0, offsetof(mq_job_record, deps));
    out->id = mq_span_of(job->id, MQ_ULID_LEN);
    out->kind = mq_name_text(core, job->kind);
    out->queue = mq_name_text(core, job->queue);
    out->model = mq_name_text(core, job->model);
    out->tenant = mq_name_text(core, job->tenant);
    out->limit_key = mq_name_text(core, job->key);
    out->needs = mq_name_text(core, job->needs);
    out->memo = mq_pool_span(&core->pool, job->memo);
    out->trace = mq_pool_span(&core->pool, job->trace);
    out->hash = mq_span_of(job->hash, sizeof job->hash);
    out->state = mq_state_text(as_stored ? shown_state(job) : (mq_state)job->state);
    out->why = mq_str(job->why);
    out->code = job->code == 0 ? (mq_span){0} : mq_str(mq_code_name((mq_code)job->code));
    out->error = mq_pool_span(&core->pool, job->error);
    out->worker = mq_str(job->holder);
    out->unique = mq_pool_span(&core->pool, job->unique);
    if (!as_stored && mq_job_ended(job)) { /* what it said is kept with its end */
        out->log = mq_pool_span(&core->pool, job->log);
        out->progress = mq_pool_span(&core->pool, job->progress);
        out->log_lines = job->log_lines;
    }
    fill_counts(job, out);
    fill_deps(core, job, out);
    fill_gang(core, job, out);
    uint32_t count = job->history_count;
    if (as_stored && shown_state(job) != (mq_state)job->state && count > 0) {
        count--; /* the end is not part of it yet */
        hide_end(job, out);
    }
    out->history_count = count;
    memcpy(out->history, job->history, sizeof job->history[0] * count);
}
