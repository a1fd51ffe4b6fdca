/* From the store back into memory: after every start and every takeover. New jobs are taken in
 * meanwhile. It must not know how the store is read. */
#include "broker/core/state.h"

void mq_recover_begin(mq_core *core, const mq_input *in)
{
    MQ_ASSERT(!core->is_begun);
    core->is_begun = true;
    core->is_loading = true;
    core->epoch = in->as.begin.epoch;
    core->sequence = in->as.begin.sequence;
    core->next_number = in->as.begin.first_number;
    mq_replica_begin(core);
    /* A clock that runs ahead gives ids that are as much younger than they are old. */
    core->begun_ms = core->sequence == 0 ? INT64_MIN : core->now_ms + MQ_ID_FUTURE_MS;
    core->workers_checked_ms = core->now_ms;
}

static bool take_names(mq_core *core, mq_job *job, const mq_job_record *r)
{
    const mq_span texts[] = {r->kind, r->queue, r->model, r->tenant, r->limit_key, r->needs};
    uint32_t *names[] = {&job->kind,   &job->queue, &job->model,
                         &job->tenant, &job->key,   &job->needs};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        uint32_t name = mq_name_take(core, texts[i]);
        if (name == MQ_NONE) {
            return false;
        }
        *names[i] = name;
    }
    return true;
}

static bool take_texts(mq_core *core, mq_job *job, const mq_job_record *r)
{
    mq_pool *pool = &core->pool;
    job->chain_len = (uint8_t)r->chain.len;
    job->blob_len = (uint8_t)r->blob.len;
    job->meta_len = (uint16_t)r->meta.len;
    job->check = mq_pool_take(pool, r->chain.len + r->blob.len + r->meta.len);
    if (job->check.at != 0) {
        uint8_t *at = mq_pool_at(pool, job->check);
        const mq_span parts[3] = {r->chain, r->blob, r->meta};
        for (int i = 0; i < 3; i++) {
            if (parts[i].len > 0) {
                memcpy(at, parts[i].data, parts[i].len);
                at += parts[i].len;
            }
        }
    }
    job->deps = mq_pool_take(pool, (size_t)r->dep_count * MQ_ULID_LEN);
    for (uint32_t i = 0; i < r->dep_count && job->deps.at != 0; i++) {
        uint8_t *at = mq_pool_at(pool, job->deps) + (size_t)i * MQ_ULID_LEN;
        memcpy(at, r->deps[i].data, mq_min_size(r->deps[i].len, MQ_ULID_LEN));
        job->deps_len = (uint16_t)(job->deps_len + MQ_ULID_LEN);
    }
    bool has_deps = r->dep_count == 0 || job->deps.at != 0;
    bool has_check = r->chain.len + r->blob.len + r->meta.len == 0 || job->check.at != 0;
    return has_deps && has_check && mq_pool_copy(pool, r->memo, &job->memo) &&
           mq_pool_copy(pool, r->trace, &job->trace) && mq_pool_copy(pool, r->error, &job->error) &&
           mq_pool_copy(pool, r->unique, &job->unique) && mq_pool_copy(pool, r->log, &job->log) &&
           mq_pool_copy(pool, r->progress, &job->progress);
}

static void take_counts(mq_job *job, const mq_job_record *r)
{
    job->number = r->number;
    job->priority = (uint8_t)(r->priority <= 9 ? r->priority : 9);
    job->run_at_ms = r->run_at_ms;
    job->expires_ms = r->expires_ms;
    job->lease_ms = (uint32_t)r->lease_ms;
    job->max_run_ms = r->max_run_ms;
    job->attempts_max = (uint32_t)r->attempts_max;
    job->crashes_max = (uint32_t)r->crashes_max;
    job->seats_min = (uint8_t)r->seats_min;
    job->seats_max = (uint8_t)r->seats_max;
    job->seat_next = (uint32_t)r->seat_next;
    job->is_quiet = (r->flags & MQ_REC_QUIET) != 0;
    job->is_cancelling = (r->flags & MQ_REC_CANCELLING) != 0;
    job->is_spent = (r->flags & MQ_REC_SPENT) != 0;
    job->epoch = r->epoch;
    job->grant = r->grant;
    job->attempts = (uint32_t)r->attempts;
    job->crashes = (uint32_t)r->crashes;
    job->lapses = (uint32_t)r->lapses;
    mq_job_lease_counts(job);
    job->submitted_ms = r->submitted_ms;
    job->leased_ms = r->leased_ms;
    job->ended_ms = r->ended_ms;
    job->queue_us = r->queue_us;
    job->run_us = r->run_us;
    job->body_bytes = r->body_bytes;
    job->step = r->step;
    job->has_body = r->body_bytes == 0;
    job->keep_ms = (int64_t)r->keep_ms;
    job->backoff_ms = (uint32_t)r->backoff_ms;
    job->backoff_max_ms = (uint32_t)r->backoff_max_ms;
    job->runs_anyway = (r->flags & MQ_REC_ANYWAY) != 0;
    job->is_replicated = (r->flags & MQ_REC_REPLICATED) != 0;
    job->log_lines = (uint32_t)r->log_lines;
}

/* How often it had been granted stands in its last transition (12 bits are enough: only 0, 1 and
 * more matter). */
static uint32_t grants_of(const mq_job_record *r)
{
    return r->history_count == 0 ? 0
                                 : mq_transition_unpack(r->history[r->history_count - 1]).grants;
}

bool mq_recover_apply(mq_core *core, mq_job *job, const mq_job_record *record)
{
    const mq_job_record *r = record;
    MQ_ASSERT(job->state == MQ_STATE_NONE);
    take_counts(job, r);
    job->grants = grants_of(r);
    if (r->hash.len == sizeof job->hash) {
        memcpy(job->hash, r->hash.data, sizeof job->hash);
    }
    (void)mq_span_copy(r->worker, job->holder, sizeof job->holder);
    mq_job_why(job, "", r->why);
    job->code =
        r->code.len == 0 ? 0 : (uint8_t)mq_code_parse((const char *)r->code.data, r->code.len);
    job->history_count = (uint8_t)r->history_count;
    memcpy(job->history, r->history, sizeof r->history[0] * r->history_count);
    job->ready_ms = core->now_ms;
    if (!take_names(core, job, r) || !take_texts(core, job, r)) {
        return false;
    }
    if (job->blob_len == MQ_HASH_LEN) {
        mq_blob_hold(core, r->blob);
    }
    core->stats.by_state[MQ_STATE_NONE]--;
    job->state = (uint8_t)mq_state_parse(r->state);
    job->before = job->state;
    core->stats.by_state[job->state]++;
    return true;
}

/* Sets what its state needs: timers, lanes, lookups, grace for its holder. */
static bool place(mq_core *core, mq_job *job, const mq_job_record *r)
{
    switch ((mq_state)job->state) {
    case MQ_STATE_BLOCKED:
        mq_deps_later(core, job);
        break;
    case MQ_STATE_QUEUED:
        mq_job_ready(core, job);
        break;
    case MQ_STATE_LEASED:
        job->lease_until_ms = core->now_ms + 2 * (int64_t)job->lease_ms;
        mq_limits_load(core, job);
        if (job->seats_max > 0 && r->member_count > 0 && !mq_gang_load(core, job, r)) {
            return false;
        }
        break;
    case MQ_STATE_SCHEDULED:
        break;
    case MQ_STATE_NONE:
    case MQ_STATE_SUCCEEDED:
    case MQ_STATE_DEAD:
    case MQ_STATE_CANCELLED:
    case MQ_STATE_EXPIRED:
    case MQ_STATE_COUNT:
        return false; /* never stored as live */
    }
    if (!mq_job_ended(job)) {
        mq_job_timer(core, job);
    }
    return true;
}

/* A submit under an id that is now loaded: the loaded one is the job, this one only asked for it.
 */
static void clear_for_load(mq_core *core, mq_job *job, mq_outputs *out)
{
    MQ_ASSERT(!job->in_lane && job->worker == MQ_NONE && job->gang == MQ_NONE);
    if (!mq_job_ended(job)) {
        core->live--;
        core->names[job->tenant].live--;
    }
    mq_deps_drop(core, job);
    mq_unique_drop(core, job);
    mq_heap_remove(&core->timers, mq_job_no(core, job));
    core->stats.by_state[job->state]--;
    core->stats.by_state[MQ_STATE_NONE]++;
    mq_ref_drop(core, &job->memo);
    mq_ref_drop(core, &job->trace);
    mq_ref_drop(core, &job->error);
    mq_ref_drop(core, &job->deps);
    mq_ref_drop(core, &job->check);
    mq_ref_drop(core, &job->unique);
    mq_ref_drop(core, &job->log);
    mq_ref_drop(core, &job->progress);
    mq_name_drop(core, job->kind);
    mq_name_drop(core, job->queue);
    mq_name_drop(core, job->model);
    mq_name_drop(core, job->tenant);
    mq_name_drop(core, job->key);
    mq_name_drop(core, job->needs);
    mq_bytes_release(core, job->body, out);
    mq_keep_drop(core, job);
    mq_job keep = *job;
    memset(job, 0, sizeof *job);
    memcpy(job->id, keep.id, sizeof job->id);
    job->id_hash = keep.id_hash;
    job->is_used = true;
    job->is_dirty = keep.is_dirty;
    job->next_dirty = keep.next_dirty;
    job->is_held_dirty = false;
    job->conn = keep.conn;
    job->waiters = keep.waiters;
    job->waiters_tail = keep.waiters_tail;
    job->waiter_weight = keep.waiter_weight;
    job->children = keep.children;
    job->is_watched = keep.is_watched;
    job->worker = job->gang = job->strand = job->held_prev = job->held_next = MQ_NONE;
    job->heap_child = job->heap_next = job->heap_prev = MQ_NONE;
    job->next_spawn = job->next_unresolved = job->parents = MQ_NONE;
    job->spawns = job->entries = MQ_NONE;
}

static void answer_dups(mq_core *core, mq_job *job)
{
    for (uint32_t w = job->waiters; w != MQ_NONE; w = core->waiters[w].next) {
        if (core->waiters[w].type == MQ_WAIT_SUBMITTED) {
            core->waiters[w].verdict = MQ_SAY_DUP;
        }
    }
    if (job->waiters != MQ_NONE) {
        mq_job_dirty(core, job);
    }
}

void mq_recover_job(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_job_record *r = &core->record;
    if (mq_job_record_read(in->as.record, r, &core->err) != MQ_OK || r->id.len != MQ_ULID_LEN) {
        core->stats.load_errors++;
        return;
    }
    mq_job *job = mq_job_find(core, r->id);
    if (job != NULL && job->is_transient) {
        if (job->state == MQ_STATE_LEASED) {
            mq_job_move(core, job, MQ_EVENT_LAPSE, "");
        }
        mq_job_move(core, job, MQ_EVENT_EXPIRE, "the id is a durable job's");
        mq_end_transient(core, job, out);
        job = NULL;
    }
    if (job != NULL && (job->create == MQ_CREATE_STORED || job->create == MQ_CREATE_REVIVE)) {
        return;
    }
    if (job != NULL) {
        clear_for_load(core, job, out);
    } else {
        job = mq_job_new(core, r->id);
    }
    if (job == NULL || !mq_recover_apply(core, job, r)) {
        core->stats.load_errors++; /* the shell stops: this broker's limits are too small */
        return;
    }
    job->create = MQ_CREATE_STORED;
    if (job->unique.at != 0 &&
        mq_unique_find(core, mq_pool_span(&core->pool, job->unique)) == NULL) {
        mq_unique_hold(core, job);
    }
    job->stored_sequence = core->begun_sequence;
    core->live++;
    core->names[job->tenant].live++;
    if (!place(core, job, r)) {
        core->stats.load_errors++;
    }
    answer_dups(core, job);
}

void mq_recover_done(mq_core *core, const mq_input *in)
{
    (void)in;
    core->is_loading = false;
    mq_limits_loaded(core);
    core->wants_turn = true;
}
