/* Who runs what: the first job of the best lane goes to the next worker that may take it. Order is
 * priority, then age. A job whose lane nobody can serve is passed by; it holds nobody up. It must
 * not know how a lease ends. */
#include "broker/core/state.h"

uint32_t mq_worker_free(const mq_worker *worker)
{
    if (!worker->is_used || worker->is_draining || worker->conn == 0 || !worker->is_credit_known) {
        return 0;
    }
    uint64_t under_way = worker->reserved;
    under_way += worker->sent > worker->seen ? worker->sent - worker->seen : 0;
    return worker->free > under_way ? (uint32_t)(worker->free - under_way) : 0;
}

/* Online slots are kept from batch jobs by what these hold already: what a worker prefetches for a
 * batch job must not end up before an inference request either. */
uint32_t mq_worker_batch(const mq_worker *worker)
{
    uint32_t free = mq_worker_free(worker);
    if (worker->online == 0) {
        return free;
    }
    uint32_t most = worker->slots > worker->online ? worker->slots - worker->online : 0;
    uint32_t left = most > worker->busy_batch ? most - worker->busy_batch : 0;
    return left < free ? left : free;
}

uint32_t mq_worker_idle(const mq_worker *worker)
{
    uint32_t idle = worker->slots > worker->busy ? worker->slots - worker->busy : 0;
    uint32_t free = mq_worker_batch(worker);
    return idle < free ? idle : free;
}

void mq_hold(mq_core *core, mq_job *job, uint32_t worker)
{
    MQ_ASSERT(job->worker == MQ_NONE);
    uint32_t no = mq_job_no(core, job);
    mq_worker *w = &core->workers[worker];
    job->worker = worker;
    job->held_prev = MQ_NONE;
    job->held_next = w->held_head;
    if (w->held_head != MQ_NONE) {
        core->jobs[w->held_head].held_prev = no;
    }
    w->held_head = no;
    w->busy++;
    w->busy_batch += !job->is_transient;
    w->memory_held += job->needs == 0 ? 0 : mq_job_memory(core, job);
}

void mq_unhold(mq_core *core, mq_job *job)
{
    mq_worker *w = &core->workers[job->worker];
    if (job->held_prev != MQ_NONE) {
        core->jobs[job->held_prev].held_next = job->held_next;
    } else {
        w->held_head = job->held_next;
    }
    if (job->held_next != MQ_NONE) {
        core->jobs[job->held_next].held_prev = job->held_prev;
    }
    MQ_ASSERT(w->busy > 0);
    w->busy--;
    w->busy_batch -= !job->is_transient;
    w->memory_held -= job->needs == 0 ? 0 : mq_job_memory(core, job);
    if (!job->is_sent) {
        MQ_ASSERT(w->reserved > 0);
        w->reserved--;
        job->is_sent = true;
        mq_idle_note(core, job->worker);
    }
    job->worker = job->held_prev = job->held_next = MQ_NONE;
}

/* The lane whose first flow goes before those of all others: it is not paused, not full and not
 * stuck. */
static mq_lane *best_lane(mq_core *core)
{
    mq_lane *best = NULL;
    const mq_flow *best_flow = NULL;
    for (uint32_t i = 0; i < core->lane_slots.high; i++) {
        mq_lane *lane = &core->lanes[i];
        if (!lane->is_used || lane->is_paused || lane->stuck_turn == core->turn ||
            !mq_lane_open(core, lane)) {
            continue;
        }
        const mq_flow *flow = mq_lane_flow(core, lane);
        if (flow != NULL && (best_flow == NULL || mq_node_before(&flow->node, &best_flow->node))) {
            best = lane;
            best_flow = flow;
        }
    }
    return best;
}

/* What a start counts for: its tenant's share, and the limits it is under. */
void mq_start_count(mq_core *core, mq_job *job, uint32_t starts)
{
    const mq_strand *strand = &core->strands[job->strand];
    mq_fair_charge(core, job, starts);
    if (strand->limit != 0 || mq_lane_of(core, strand)->is_limited) {
        mq_limits_take(core, job);
    }
}

/* A worker that could start a job of the lane now. */
static bool may_take(const mq_core *core, const mq_worker *w, const mq_lane *lane)
{
    bool is_reserved = core->reserved_for != 0 && w->fingerprint == core->reserved_for;
    uint32_t free = lane->is_transient ? mq_worker_free(w) : mq_worker_batch(w);
    /* A transient job waits for nobody: slots kept for a gang are not kept from it for long. */
    return free > 0 && (!is_reserved || lane->is_transient) && mq_worker_fits(w, lane) &&
           (lane->memory_bytes == 0 || w->memory_held + lane->memory_bytes <= w->memory_bytes);
}

/* How many jobs of the lane go to one worker before the next one gets some. A message costs all
 * those who handle it more time than such a job takes: sent one by one, they would end later. One
 * that has been long of late is waited for by nobody. Models: pick prefers those that hold them. */
static uint32_t pack_of(const mq_core *core, const mq_lane *lane)
{
    uint32_t run_us = core->names[lane->kind].run_us;
    if (run_us == 0 || lane->model != 0 || lane->memory_bytes > 0) {
        return 1;
    }
    uint32_t count = MQ_PACK_US / run_us;
    return count < 1 ? 1 : count > MQ_PACK_MAX ? MQ_PACK_MAX : count;
}

/* Rises at once, by a half of what a run took longer, and falls slowly: a kind whose jobs are quick
 * but for some is not taken for a quick one. */
void mq_run_note(mq_core *core, uint32_t kind, uint64_t run_us)
{
    uint32_t *mean = &core->names[kind].run_us;
    uint32_t now = run_us < UINT32_MAX / 4 ? (uint32_t)run_us + 1 : UINT32_MAX / 4;
    *mean = *mean == 0    ? now
            : now > *mean ? *mean + (now - *mean + 1) / 2
                          : *mean - (*mean - now) / 32;
}

typedef struct choice {
    uint32_t worker; /* MQ_NONE: none yet */
    uint32_t affinity;
} choice;

/* The best of the idle workers from `from` to before `to`, unless there is as good a one already.
 */
static void look(mq_core *core, const mq_lane *lane, uint32_t model, mq_span blob, uint32_t from,
                 uint32_t to, choice *best)
{
    while (best->worker == MQ_NONE || best->affinity < MQ_AFFINITY_MOST) {
        uint32_t no = mq_idle_next(core, from, to);
        if (no == MQ_NONE) {
            return;
        }
        from = no + 1;
        if (!may_take(core, &core->workers[no], lane)) {
            continue;
        }
        uint32_t affinity = mq_affinity_of(&core->workers[no], model, blob);
        if (best->worker == MQ_NONE || affinity > best->affinity) {
            *best = (choice){no, affinity};
        }
    }
}

/* Next fitting worker after the last one that got a job, before it one that holds the job's model
 * (affinity.c); MQ_NONE when there is none. */
static uint32_t pick(mq_core *core, const mq_lane *lane, uint32_t model)
{
    uint32_t count = core->worker_slots.high;
    if (lane == core->pack_lane && core->pack_left > 0 && model == 0 &&
        may_take(core, &core->workers[core->pack_worker], lane)) {
        core->pack_left--;
        return core->pack_worker;
    }
    mq_span blob = mq_model_blob(core, model);
    uint32_t middle = core->worker_cursor < count ? core->worker_cursor : 0;
    choice best = {.worker = MQ_NONE};
    look(core, lane, model, blob, middle, count, &best);
    look(core, lane, model, blob, 0, middle, &best);
    if (best.worker != MQ_NONE) {
        core->worker_cursor = (best.worker + 1) % count;
        core->pack_worker = best.worker;
        core->pack_lane = lane;
        core->pack_left = pack_of(core, lane) - 1;
    }
    return best.worker;
}

void mq_fetch_body(mq_core *core, mq_job *job, mq_outputs *out)
{
    (void)core;
    if (!job->has_body && !job->wait_body) {
        job->wait_body = true;
        mq_out_add(out, MQ_OUT_FETCH, 0, 0)->as.ask.id = mq_span_of(job->id, MQ_ULID_LEN);
    }
}

static void grant(mq_core *core, mq_job *job, uint32_t worker, mq_outputs *out)
{
    mq_worker *w = &core->workers[worker];
    job->epoch = core->epoch;
    job->grant = ++core->next_grant;
    memcpy(job->holder, w->uuid, sizeof job->holder);
    job->leased_ms = core->now_ms;
    job->lease_until_ms = core->now_ms + job->lease_ms;
    job->queue_us = (uint64_t)(core->now_ms - job->ready_ms) * 1000;
    job->grants++;
    job->is_accepted = job->is_spent = job->is_timed_out = job->is_sent = false;
    mq_start_count(core, job, 1);
    mq_job_move(core, job, MQ_EVENT_GRANT, "");
    mq_hold(core, job, worker);
    w->reserved++;
    if (job->model != 0) {
        mq_worker_saw_model(core, w, job->model);
    }
    core->stats.granted++;
    core->tally.granted += !job->is_transient;
    /* What other shards count on is stored first, so that a takeover knows all that runs. */
    job->wait_stored =
        (job->grants > 1 || (core->config.shards > 1 && job->limited != 0)) && !job->is_transient;
    if (job->wait_stored) {
        mq_waiter *wait = mq_wait_job(core, job, MQ_WAIT_JOB, 0, 0);
        MQ_ASSERT(wait != NULL); /* dispatch left room */
        wait->grant = job->grant;
    }
    mq_fetch_body(core, job, out);
    mq_send_job(core, job, out);
}

/* "m", "m@3" or "m@prod" as it stands now; what cannot be resolved goes as it is. */
static void resolve(mq_core *core, const mq_job *job, mq_msg_job_item *item, mq_outputs *out)
{
    mq_entry_view view;
    item->model = mq_name_text(core, job->model);
    if (item->model.len == 0 ||
        mq_core_resolve(core, MQ_ENTRY_MODEL, item->model, &view, NULL) != MQ_OK) {
        return;
    }
    if (mq_entry_read(view.value, &core->entry, NULL) == MQ_OK && core->entry.blob_count > 0) {
        item->model_blob = core->entry.blobs[0];
    }
    char digits[21];
    item->model = mq_out_text(out, view.key.name, mq_str("@"), mq_digits(view.key.version, digits));
}

void mq_job_item_fill(mq_core *core, const mq_job *job, mq_msg_job_item *item, mq_outputs *out)
{
    *item = (mq_msg_job_item){
        .id = mq_span_of(job->id, MQ_ULID_LEN),
        .epoch = job->epoch,
        .grant = job->grant,
        .kind = mq_name_text(core, job->kind),
        .trace = mq_pool_span(&core->pool, job->trace),
        .attempt = job->attempts + job->crashes + job->lapses + 1,
        .lease_ms = job->lease_ms,
        .max_run_ms = job->max_run_ms,
        .is_transient = job->is_transient,
        .len = job->body == NULL ? 0 : job->body->len,
    };
    resolve(core, job, item, out);
    mq_span check = mq_pool_span(&core->pool, job->check);
    if (check.len > 0) {
        item->step = job->step;
        item->chain = mq_span_of(check.data, job->chain_len);
        item->blob = mq_span_of(check.data + job->chain_len, job->blob_len);
        item->meta = mq_span_of(check.data + job->chain_len + job->blob_len, job->meta_len);
    }
}

void mq_send_job(mq_core *core, mq_job *job, mq_outputs *out)
{
    if (job->gang != MQ_NONE) {
        mq_gang_send_jobs(core, job, out);
        return;
    }
    if (job->wait_stored || job->wait_body || job->is_sent || job->worker == MQ_NONE) {
        return;
    }
    MQ_ASSERT(job->state == MQ_STATE_LEASED && job->has_body);
    mq_worker *w = &core->workers[job->worker];
    MQ_ASSERT(w->reserved > 0);
    w->reserved--;
    w->sent++;
    mq_idle_note(core,
                 job->worker); /* it has seen more than is counted as sent after an unsent one */
    job->is_sent = true;
    mq_output *item = mq_out_job(out, w->conn);
    mq_job_item_fill(core, job, &item->as.job, out);
    item->bytes = job->body;
    item->payload = job->body == NULL ? (mq_span){0} : mq_span_of(job->body->data, job->body->len);
}

/* The store has no body for a job that had one: it cannot run. */
static void lose_body(mq_core *core, mq_job *job, mq_outputs *out)
{
    mq_job_set_error(core, job, mq_str(mq_code_name(MQ_E_CORRUPT)),
                     mq_str("the store has lost the body"));
    if (job->gang != MQ_NONE) {
        mq_gang_end(core, job, 0, out);
    }
    if (job->state == MQ_STATE_LEASED) {
        mq_job_move(core, job, MQ_EVENT_FAIL, "body lost");
    }
}

void mq_body_came(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_job *job = mq_job_find(core, in->as.id);
    if (job == NULL || job->has_body) {
        if (in->body != NULL) {
            mq_out_release(out, in->body);
        }
        return;
    }
    job->wait_body = false;
    if (in->body == NULL && job->body_bytes > 0) {
        lose_body(core, job, out);
        return;
    }
    job->has_body = true;
    job->body = in->body;
    core->held_bytes += in->body == NULL ? 0 : in->body->len;
    if (job->state == MQ_STATE_LEASED) {
        mq_send_job(core, job, out);
    }
}

static bool try_lane(mq_core *core, mq_lane *lane, mq_outputs *out)
{
    mq_job *job = mq_lane_top(core, lane);
    MQ_ASSERT(job != NULL && job->state == MQ_STATE_QUEUED);
    if (job->memo.at != 0 && !job->is_transient) { /* equal work may have ended while it waited */
        uint32_t memo = mq_memo_find(core, mq_pool_span(&core->pool, job->memo));
        if (memo != MQ_NONE && mq_memo_usable(core, memo)) {
            mq_complete_by_memo(core, job, memo);
            return true;
        }
    }
    if (lane->is_gang) {
        return mq_gang_form(core, lane, job, out);
    }
    uint32_t worker = pick(core, lane, job->model);
    if (worker == MQ_NONE || mq_affinity_waits(core, lane, job, worker)) {
        return false;
    }
    grant(core, job, worker, out);
    return true;
}

void mq_dispatch(mq_core *core, mq_outputs *out)
{
    core->turn++;
    core->reserved_for = 0;
    core->pack_left = 0;
    core->affinity_ms = INT64_MAX;
    mq_limits_turn(core);
    for (int i = 0; i < MQ_TURN_GRANTS; i++) {
        if (mq_idle_next(core, 0, core->worker_slots.high) == MQ_NONE || !mq_wait_room(core, 256) ||
            out->count > MQ_OUTPUTS_MAX / 2) {
            return;
        }
        mq_lane *lane = best_lane(core);
        if (lane == NULL) {
            return;
        }
        uint32_t strand = mq_lane_flow(core, lane)->root;
        if (!mq_strand_open(core, strand)) {
            mq_limit_block(core, strand); /* the lane's next job is another key's */
        } else if (!try_lane(core, lane, out)) {
            lane->stuck_turn = core->turn;
        }
    }
    core->wants_turn = true;
}
