/* Commits: what has changed since the last one goes to the store as one batch, at most
 * MQ_STORE_INFLIGHT_MAX under way; answers are given when the store has answered. A job is in a
 * batch once, with its latest record. What a result makes (children, registry entries) goes in the
 * same batch as the result. It must not decide anything about a job. */
#include "broker/core/state.h"

static mq_flight *free_flight(mq_core *core)
{
    for (int i = 0; i < MQ_STORE_INFLIGHT_MAX; i++) {
        if (core->flights[i].sequence == 0) {
            return &core->flights[i];
        }
    }
    return NULL;
}

static uint32_t count_list(const mq_core *core, const mq_job *job, uint32_t *entries)
{
    uint32_t children = 0;
    for (uint32_t c = job->spawns; c != MQ_NONE; c = core->jobs[c].next_spawn) {
        children++;
    }
    *entries = 0;
    for (uint32_t r = job->entries; r != MQ_NONE; r = core->regs[r].next_of_job) {
        ++*entries;
    }
    *entries += job->cron != 0;
    return children;
}

/* Most bytes that a job and what it makes add to a batch. */
static size_t size_of(const mq_core *core, const mq_job *job)
{
    size_t bytes = MQ_RECORD_BYTES_MAX + job->body_bytes + job->result_bytes;
    for (uint32_t c = job->spawns; c != MQ_NONE; c = core->jobs[c].next_spawn) {
        bytes += MQ_RECORD_BYTES_MAX + core->jobs[c].body_bytes;
    }
    return bytes;
}

static bool fits(const mq_core *core, const mq_flight *f, const mq_job *job)
{
    const mq_assembly *a = core->assembly;
    uint32_t entries;
    uint32_t children = count_list(core, job, &entries);
    bool is_first = f->job_count == 0 && f->entry_count == 0;
    return f->job_count + 1 + children <= MQ_STORE_JOBS_MAX &&
           f->entry_count + entries <= MQ_STORE_REGISTRY_MAX &&
           (is_first || a->bytes + size_of(core, job) <= MQ_BATCH_BYTES_MAX) &&
           (is_first || a->weight + job->waiter_weight <= MQ_BATCH_WEIGHT_MAX);
}

static void move_waiters(mq_core *core, mq_flight *f, uint32_t *head, uint32_t *tail)
{
    if (*head == MQ_NONE) {
        return;
    }
    if (f->waiters == MQ_NONE) {
        f->waiters = *head;
    } else {
        core->waiters[f->waiters_tail].next = *head;
    }
    f->waiters_tail = *tail;
    *head = *tail = MQ_NONE;
}

static mq_span pack(mq_core *core, const mq_job *job, bool as_stored)
{
    mq_buf *buf = &core->assembly->records;
    size_t from = buf->len;
    mq_job_fill(core, job, as_stored, &core->record);
    mq_code code = mq_job_record_pack(&core->record, buf, NULL);
    MQ_ASSERT(code == MQ_OK); /* size_of left room */
    return mq_span_of(buf->data + from, buf->len - from);
}

static mq_span bytes_of(const mq_bytes *bytes)
{
    return bytes == NULL ? (mq_span){0} : mq_span_of(bytes->data, bytes->len);
}

static void note(mq_flight *f, const mq_core *core, const mq_job *job, mq_op op)
{
    f->jobs[f->job_count] = mq_job_no(core, job);
    f->ops[f->job_count++] = (uint8_t)op;
}

static void add_reg(mq_core *core, mq_flight *f, uint32_t no)
{
    mq_assembly *a = core->assembly;
    mq_reg *reg = &core->regs[no];
    uint32_t at = a->batch.registry_count++;
    mq_entry_key key = mq_reg_key(core, reg);
    a->field_len[at] = (uint32_t)mq_entry_field(&key, a->fields[at]);
    a->sets[at] = (mq_store_set){.field = mq_span_of(a->fields[at], a->field_len[at]),
                                 .value = mq_pool_span(&core->pool, reg->value)};
    f->entries[f->entry_count++] = no;
    move_waiters(core, f, &reg->waiters, &reg->waiters_tail);
}

static void add_create(mq_core *core, mq_flight *f, mq_job *job)
{
    mq_assembly *a = core->assembly;
    a->creates[a->batch.create_count++] = (mq_store_create){.id = mq_span_of(job->id, MQ_ULID_LEN),
                                                            .number = job->number,
                                                            .record = pack(core, job, true),
                                                            .body = bytes_of(job->body)};
    f->creates[f->create_count++] = mq_job_no(core, job);
    f->is_replicated |= job->is_replicated;
    note(f, core, job, MQ_OP_CREATE);
    if (job->cron != 0) { /* the firing that made it */
        add_reg(core, f, job->cron - 1);
        job->cron = 0;
    }
    core->tally.submitted++;
    job->create = MQ_CREATE_SENT;
    /* An end that was decided already follows when the create is answered. */
    job->is_held_dirty = mq_job_ended(job);
}

/* It ended before its create was written, and nothing has to stand in the store before its end. An
 * id that may be known there is asked for first: what ends here must not count twice. */
static bool is_finish_new(const mq_job *job)
{
    return job->create == MQ_CREATE_NEW && job->is_fresh && mq_job_ended(job) &&
           job->state != MQ_STATE_DEAD && !job->is_replicated && job->cron == 0 &&
           job->seats_max == 0 && job->parents == MQ_NONE && job->spawns == MQ_NONE &&
           job->entries == MQ_NONE;
}

static void add_finish(mq_core *core, mq_flight *f, mq_job *job)
{
    mq_assembly *a = core->assembly;
    bool is_new = job->create == MQ_CREATE_NEW;
    bool is_dead = job->state == MQ_STATE_DEAD;
    mq_span result =
        job->result != NULL ? bytes_of(job->result) : mq_pool_span(&core->pool, job->result_text);
    f->finishes[a->batch.finish_count] = mq_job_no(core, job);
    a->finishes[a->batch.finish_count++] = (mq_store_finish){
        .id = mq_span_of(job->id, MQ_ULID_LEN),
        .number = job->number,
        .record = pack(core, job, false),
        .result = result,
        .retention_ms = is_dead            ? core->config.dead_retention_ms
                        : job->keep_ms > 0 ? job->keep_ms
                                           : core->config.retention_ms,
        .is_dead = is_dead,
        .is_new = is_new,
    };
    note(f, core, job, is_new ? MQ_OP_FINISH_NEW : MQ_OP_FINISH);
    job->create = is_new ? MQ_CREATE_SENT : job->create;
    job->is_ending = true;
    f->is_replicated |= job->is_replicated;
    core->tally.submitted += is_new;
    /* Counted, as creates are, with the commit that stores it: what is lost and decided again
     * counts once. */
    core->tally.succeeded += job->state == MQ_STATE_SUCCEEDED;
    core->tally.dead += is_dead;
    core->tally.cancelled += job->state == MQ_STATE_CANCELLED;
    core->tally.expired += job->state == MQ_STATE_EXPIRED;
    for (uint32_t c = job->spawns; c != MQ_NONE; c = core->jobs[c].next_spawn) {
        add_create(core, f, &core->jobs[c]);
    }
    for (uint32_t r = job->entries; r != MQ_NONE; r = core->regs[r].next_of_job) {
        add_reg(core, f, r);
    }
}

/* A dead letter goes to the finished ones, without its request. */
static void add_discard(mq_core *core, mq_flight *f, mq_job *job)
{
    mq_assembly *a = core->assembly;
    f->finishes[a->batch.finish_count] = mq_job_no(core, job);
    a->finishes[a->batch.finish_count++] =
        (mq_store_finish){.id = mq_span_of(job->id, MQ_ULID_LEN),
                          .number = job->number,
                          .record = pack(core, job, false),
                          .retention_ms = core->config.retention_ms,
                          .was_dead = true};
    note(f, core, job, MQ_OP_DISCARD);
    job->is_ending = true;
}

static void add_job(mq_core *core, mq_flight *f, mq_job *job)
{
    mq_assembly *a = core->assembly;
    mq_span id = mq_span_of(job->id, MQ_ULID_LEN);
    f->is_replicated |= job->is_replicated && job->waiters != MQ_NONE;
    a->bytes += size_of(core, job);
    a->weight += job->waiter_weight;
    job->waiter_weight = 0;
    MQ_ASSERT(job->create != MQ_CREATE_SENT);
    bool is_finish = is_finish_new(job);
    if (is_finish) {
        add_finish(core, f, job);
    } else if (job->create == MQ_CREATE_NEW) {
        add_create(core, f, job);
    } else if (job->create == MQ_CREATE_REVIVE) {
        a->revives[a->batch.revive_count++] =
            (mq_store_revive){.id = id, .number = job->number, .record = pack(core, job, true)};
        note(f, core, job, MQ_OP_REVIVE);
        job->create = MQ_CREATE_SENT;
        job->is_held_dirty = mq_job_ended(job);
    } else if (job->create == MQ_CREATE_DISCARD) {
        add_discard(core, f, job);
    } else if (mq_job_ended(job)) {
        add_finish(core, f, job);
    } else {
        a->puts[a->batch.put_count++] =
            (mq_store_put){.id = id, .number = job->number, .record = pack(core, job, false)};
        note(f, core, job, MQ_OP_PUT);
    }
    /* An answer to the end of a job does not go with its create. */
    if (is_finish || !(job->create == MQ_CREATE_SENT && mq_job_ended(job))) {
        move_waiters(core, f, &job->waiters, &job->waiters_tail);
    }
}

static void fill_from_lists(mq_core *core, mq_flight *f)
{
    while (core->dirty_reg_head != MQ_NONE && f->entry_count < MQ_STORE_REGISTRY_MAX) {
        uint32_t no = core->dirty_reg_head;
        core->dirty_reg_head = core->regs[no].next_dirty;
        core->regs[no].is_dirty = false;
        add_reg(core, f, no);
    }
    while (core->dirty_head != MQ_NONE) {
        mq_job *job = mq_job_at(core, core->dirty_head);
        if (!fits(core, f, job)) {
            break;
        }
        core->dirty_head = job->next_dirty;
        job->is_dirty = false;
        if (!mq_keep(core, job)) {
            add_job(core, f, job);
        }
    }
}

void mq_commit_build(mq_core *core, mq_outputs *out)
{
    mq_assembly *a = core->assembly;
    mq_flight *f = free_flight(core);
    bool has_work = core->dirty_head != MQ_NONE || core->dirty_reg_head != MQ_NONE;
    if (f == NULL || !has_work) {
        return;
    }
    memset(&a->batch, 0, sizeof a->batch);
    mq_buf_reset(&a->records);
    a->bytes = a->weight = 0;
    f->job_count = f->entry_count = f->create_count = 0;
    f->waiters = f->waiters_tail = MQ_NONE;
    f->is_replicated = false;
    fill_from_lists(core, f);
    if (f->job_count == 0 && f->entry_count == 0) {
        return; /* all of them are kept */
    }
    f->sequence = ++core->sequence;
    f->finish_count = a->batch.finish_count;
    a->batch.epoch = core->epoch;
    a->batch.sequence = f->sequence;
    a->batch.creates = a->creates;
    a->batch.puts = a->puts;
    a->batch.finishes = a->finishes;
    a->batch.revives = a->revives;
    a->batch.registry = a->sets;
    out->batch = &a->batch;
    out->wants_replicas = f->is_replicated;
    out->tally = core->tally;
    core->tally = (mq_tally){0};
    core->stats.commits_inflight++;
}

/* ---- the answer ---- */

/* Takes the answers of one type out of a job's list and gives them. */
static void release_type(mq_core *core, mq_job *job, mq_wait_type type, mq_outputs *out)
{
    uint32_t *at = &job->waiters;
    uint32_t taken = MQ_NONE;
    uint32_t *end = &taken;
    job->waiters_tail = MQ_NONE;
    while (*at != MQ_NONE) {
        uint32_t no = *at;
        if (core->waiters[no].type == (uint8_t)type) {
            *at = core->waiters[no].next;
            core->waiters[no].next = MQ_NONE;
            *end = no;
            end = &core->waiters[no].next;
        } else {
            job->waiters_tail = no;
            at = &core->waiters[no].next;
        }
    }
    mq_wait_release(core, mq_replica_hold_all(core, taken, core->stored), out);
}

static void created(mq_core *core, mq_job *job, mq_outputs *out)
{
    job->create = MQ_CREATE_STORED;
    job->stored_sequence = core->stored;
    release_type(core, job, MQ_WAIT_SUBMITTED, out);
    release_type(core, job, MQ_WAIT_UNIQUE, out);
    if (job->is_spawned) {
        mq_spawn_start(core, job);
    } else if (job->state == MQ_STATE_QUEUED && !job->in_lane) {
        mq_job_ready(core, job);
    }
    if (job->is_held_dirty) {
        job->is_held_dirty = false;
        mq_job_dirty(core, job);
    }
}

/* The id had been used before: this job never was. Whoever submitted it is told how the other one
 * stands; whoever ran it has a stale lease. */
static void was_dup(mq_core *core, mq_job *job, mq_outputs *out)
{
    if (job->create == MQ_CREATE_STORED) {
        return; /* its record was loaded meanwhile: it is the other one */
    }
    while (job->waiters != MQ_NONE) {
        uint32_t no = job->waiters;
        mq_waiter *w = &core->waiters[no];
        job->waiters = w->next;
        if (w->type == MQ_WAIT_SUBMITTED) {
            mq_ask *ask = mq_ask_new(core, MQ_ASK_SUBMIT, mq_span_of(job->id, MQ_ULID_LEN), out);
            if (ask != NULL) { /* else the client sends it again */
                ask->conn = w->conn;
                ask->rid = w->rid;
                memcpy(ask->hash, w->hash, sizeof ask->hash);
            }
        } else if (w->type == MQ_WAIT_VERDICT) {
            mq_say_verdict(out, w->conn, mq_span_of(job->id, MQ_ULID_LEN), w->epoch, w->grant,
                           "stale");
        } else if (w->type == MQ_WAIT_UNIQUE) {
            mq_say_submitted(out, w->conn, w->rid, mq_pool_span(&core->pool, w->text), "busy", "",
                             "unique: the key is free again; ask again", MQ_RETRY_LATER_MS);
        } else if (w->type == MQ_WAIT_REPLY) {
            mq_say_reply(out, w->conn, w->rid, "busy", "",
                         "the id had been used before; ask again");
        }
        mq_wait_free(core, no);
    }
    mq_drop_job(core, job, out);
}

/* Takes a job that is not to be out of everything. */
void mq_drop_job(mq_core *core, mq_job *job, mq_outputs *out)
{
    if (job->gang != MQ_NONE) {
        mq_gang_end(core, job, 0, out);
    }
    if (job->in_lane) {
        mq_lane_remove(core, job);
    }
    if (job->worker != MQ_NONE) {
        mq_unhold(core, job);
    }
    if (job->limited != 0) {
        mq_limits_give(core, job);
    }
    if (!mq_job_ended(job)) {
        MQ_ASSERT(core->live > 0 && core->names[job->tenant].live > 0);
        core->live--;
        core->names[job->tenant].live--;
    }
    mq_deps_orphan(core, job);
    mq_bytes_release(core, job->body, out);
    mq_bytes_release(core, job->result, out);
    job->body = job->result = NULL;
    mq_job_free(core, job);
}

static void release_children(mq_core *core, mq_job *job, mq_outputs *out)
{
    while (job->spawns != MQ_NONE) {
        mq_job *child = &core->jobs[job->spawns];
        job->spawns = child->next_spawn;
        child->next_spawn = MQ_NONE;
        (void)out;
    }
    while (job->entries != MQ_NONE) {
        mq_reg *reg = &core->regs[job->entries];
        uint32_t no = job->entries;
        job->entries = reg->next_of_job;
        reg->next_of_job = MQ_NONE;
        mq_publish_stored(core, no);
    }
}

/* Its checkpoint is not needed any more, but by a dead one that may be tried again. */
static void release_checkpoint(mq_core *core, mq_job *job, mq_outputs *out)
{
    if (job->blob_len != MQ_HASH_LEN) {
        return;
    }
    mq_span check = mq_pool_span(&core->pool, job->check);
    mq_span hash = mq_span_of(check.data + job->chain_len, MQ_HASH_LEN);
    uint32_t left = mq_blob_drop(core, hash);
    if (left == 0 && job->state != MQ_STATE_DEAD) {
        mq_out_add(out, MQ_OUT_UNPIN, 0, 0)->as.hash = hash;
    }
}

void mq_job_finished(mq_core *core, mq_job *job, mq_outputs *out)
{
    mq_say_ended(core, job, out);
    mq_recent_add(core, job);
    uint32_t waiters = job->waiters;
    job->waiters = job->waiters_tail = MQ_NONE;
    mq_wait_release(core, waiters, out); /* those that came after the batch had gone */
    release_children(core, job, out);
    mq_deps_release(core, job, (mq_state)job->state);
    release_checkpoint(core, job, out);
    mq_bytes_release(core, job->body, out);
    mq_bytes_release(core, job->result, out);
    job->body = job->result = NULL;
    mq_job_free(core, job);
}

/* An end is told when it is stored; a replicated job's when replicas have it as well. */
static void end_stored(mq_core *core, mq_job *job, mq_outputs *out)
{
    job->stored_sequence = core->stored;
    if (!mq_replica_has(core, job)) {
        mq_replica_hold_end(core, job);
    } else {
        mq_job_finished(core, job, out);
    }
}

static void tell_watchers(const mq_core *core, const mq_job *job, mq_outputs *out)
{
    (void)core;
    if (job->is_watched) {
        mq_output *item = mq_out_add(out, MQ_OUT_CHANGED, 0, 0);
        item->as.changed.id = mq_span_of(job->id, MQ_ULID_LEN);
        item->as.changed.state = (mq_state)(mq_job_ended(job) ? job->before : job->state);
    }
}

static mq_flight *flight_of(mq_core *core, uint64_t sequence)
{
    mq_flight *f = NULL;
    for (int i = 0; i < MQ_STORE_INFLIGHT_MAX; i++) {
        MQ_ASSERT(core->flights[i].sequence == 0 || core->flights[i].sequence >= sequence);
        f = core->flights[i].sequence == sequence ? &core->flights[i] : f;
    }
    MQ_ASSERT(f != NULL); /* answers come in order, one for each commit */
    return f;
}

/* Answers that ride on a create which was a dup go back to the job, which deals with them. */
static void give_back_waiters(mq_core *core, mq_flight *f)
{
    uint32_t *at = &f->waiters;
    while (*at != MQ_NONE) {
        uint32_t no = *at;
        mq_waiter *w = &core->waiters[no];
        bool is_dup = w->job != MQ_NONE && core->jobs[w->job].is_dup &&
                      core->jobs[w->job].create != MQ_CREATE_STORED;
        if (w->job != MQ_NONE && core->jobs[w->job].is_dup && !is_dup) {
            w->verdict = MQ_SAY_DUP; /* loaded meanwhile: it stands as its record says */
        }
        if (!is_dup) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        w->next = core->jobs[w->job].waiters;
        core->jobs[w->job].waiters = no;
    }
}

void mq_commit_stored(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_flight *f = flight_of(core, in->as.stored.sequence);
    core->stored = f->sequence;
    f->sequence = 0;
    core->stats.commits_inflight--;
    for (uint32_t i = 0; i < in->as.stored.dup_count; i++) {
        uint32_t at = in->as.stored.dups[i];
        MQ_ASSERT(at < f->create_count + f->finish_count);
        uint32_t no = at < f->create_count ? f->creates[at] : f->finishes[at - f->create_count];
        core->jobs[no].is_dup = true;
    }
    if (in->as.stored.dup_count > 0) {
        give_back_waiters(core, f);
    }
    if (f->is_replicated) {
        f->waiters = mq_replica_hold_all(core, f->waiters, core->stored);
    }
    mq_wait_release(core, f->waiters, out);
    for (uint32_t i = 0; i < f->entry_count; i++) {
        core->regs[f->entries[i]].is_pending = false;
    }
    for (uint32_t i = 0; i < f->job_count; i++) {
        mq_job *job = mq_job_at(core, f->jobs[i]);
        mq_op op = (mq_op)f->ops[i];
        tell_watchers(core, job, out);
        if (job->is_dup && (op == MQ_OP_CREATE || op == MQ_OP_FINISH_NEW)) {
            job->is_dup = false;
            was_dup(core, job, out);
        } else if (op == MQ_OP_CREATE || op == MQ_OP_REVIVE) {
            created(core, job, out);
        } else if (op == MQ_OP_FINISH || op == MQ_OP_FINISH_NEW) {
            job->create = MQ_CREATE_STORED;
            end_stored(core, job, out);
        } else if (op == MQ_OP_DISCARD) {
            mq_discard_stored(core, job, out);
        }
    }
    core->wants_turn = true;
}
