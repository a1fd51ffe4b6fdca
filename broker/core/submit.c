/* Taking a job in: checks, limits, repeats, and its first state. It must not know how jobs run. */
#include "broker/core/state.h"
#include "shared/job/kinds.h"

enum { POOL_RESERVE = 8 /* an eighth of the pool is kept for what is already accepted */ };

/* Content of a submit, so that a resend can be told from another job under the same id. What is
 * empty is told by the lengths alone; of the durability its first letter says which it is. */
static void hash_of(const mq_msg_submit_job *item, const mq_bytes *body, uint64_t out[2])
{
    const mq_span texts[] = {item->kind,   item->queue,  item->model,     item->memo,
                             item->tenant, item->unique, item->limit_key, item->needs};
    uint64_t lens = 0, letter = item->durability.len == 0 ? 0 : item->durability.data[0];
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        lens = lens << 7 ^ texts[i].len; /* at most 128 bytes each, but the last */
    }
    const uint64_t numbers[] = {
        lens, (uint64_t)item->run_at_ms, item->memory_bytes << 8 ^ (item->runs_anyway ? 1U : 0U),
        item->priority << 40 ^ item->seats_min << 32 ^ item->seats_max << 24 ^
            (uint64_t)item->deps_count << 16 ^ letter};
    out[0] = 1;
    out[1] = 2;
    mq_hash_wide(mq_span_of(numbers, sizeof numbers), out);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (texts[i].len > 0) {
            mq_hash_wide(texts[i], out);
        }
    }
    for (uint32_t i = 0; i < item->deps_count; i++) {
        mq_hash_wide(item->deps[i], out);
    }
    if (body != NULL) {
        mq_hash_wide(mq_span_of(body->data, body->len), out);
    }
}

static bool durability_of(const mq_msg_submit_job *item, const mq_kind_policy *kind,
                          bool *is_transient, mq_error *err)
{
    *is_transient = kind->is_transient;
    if (mq_span_is(item->durability, "transient")) {
        *is_transient = true;
    } else if (mq_span_is(item->durability, "durable") ||
               mq_span_is(item->durability, "replicated")) {
        *is_transient = false;
    } else if (item->durability.len > 0) {
        err->code = MQ_E_ARG;
        mq_text(err, "dur: must be transient, durable or replicated", (mq_span){0});
        return false;
    }
    return true;
}

static mq_code refuse(mq_error *err, mq_code code, const char *text)
{
    err->code = code;
    mq_text(err, text, (mq_span){0});
    return code;
}

static bool has_blank_name(const mq_msg_submit_job *item)
{
    return !mq_entry_name_ok(item->kind) || (item->queue.len > 0 && !mq_entry_name_ok(item->queue));
}

static mq_code check_deps(const mq_msg_submit_job *item, mq_error *err)
{
    for (uint32_t i = 0; i < item->deps_count; i++) {
        if (mq_ulid_ms(item->deps[i]) < 0 || mq_span_eq(item->deps[i], item->id)) {
            return refuse(err, MQ_E_ARG, "deps: each must be the id of another job");
        }
        for (uint32_t k = 0; k < i; k++) {
            if (mq_span_eq(item->deps[i], item->deps[k])) {
                return refuse(err, MQ_E_ARG, "deps: the same id twice");
            }
        }
    }
    return MQ_OK;
}

/* What needs the registry, or is one of its name in the deployment, lives in shard 0. */
static mq_code check_place(const mq_core *core, const mq_msg_submit_job *item,
                           const mq_kind_policy *kind, mq_error *err)
{
    bool is_gang = kind->is_gang || item->seats_min > 0 || item->seats_max > 0;
    bool is_home = is_gang || item->model.len > 0 || item->memo.len > 0 || item->unique.len > 0;
    if (core->config.is_away && is_home) {
        return refuse(err, MQ_E_ARG,
                      "id: jobs with seats, a model, a memo or a unique key live in shard 0: "
                      "letters 11 and 12 of the id must be 00");
    }
    return check_deps(item, err);
}

/* What is wrong with the request itself, whatever the state of the queue. */
static mq_code check_item(const mq_core *core, const mq_msg_submit_job *item, const mq_bytes *body,
                          const mq_kind_policy *kind, bool *is_transient, mq_error *err)
{
    int64_t ms = mq_ulid_ms(item->id);
    if (ms < 0) {
        return refuse(err, MQ_E_ARG, "id: must be a ULID of 26 upper-case letters and digits");
    }
    if (has_blank_name(item)) {
        return refuse(err, MQ_E_ARG, "kind, queue: 1 to 64 printable letters without blank / @");
    }
    if (!durability_of(item, kind, is_transient, err)) {
        return err->code;
    }
    if (!*is_transient &&
        (ms < core->now_ms - MQ_ID_PAST_MS || ms > core->now_ms + MQ_ID_FUTURE_MS)) {
        return refuse(err, MQ_E_CLOCK,
                      "id: its time must lie within 2 hours before and 5 minutes after the store's "
                      "clock; set this machine's clock");
    }
    if (item->priority > 9) {
        return refuse(err, MQ_E_ARG, "prio: must be 0..9");
    }
    if (item->seats_max > MQ_GANG_SEATS_MAX || item->seats_min > MQ_GANG_SEATS_MAX ||
        (item->seats_max > 0 && item->seats_min > item->seats_max)) {
        return refuse(err, MQ_E_ARG, "smin, smax: must be 1 <= smin <= smax <= 64");
    }
    if (body != NULL && body->len > kind->body_bytes_max) {
        return refuse(err, MQ_E_LIMIT,
                      "body: larger than this kind's limit; put large data into a blob");
    }
    if (*is_transient && (item->deps_count > 0 || item->seats_max > 0 || item->run_at_ms > 0 ||
                          item->unique.len > 0)) {
        return refuse(err, MQ_E_ARG, "a transient job has no deps, seats, run_at or unique key");
    }
    if (item->lease_ms > 3600000 || item->ttl_ms > INT64_C(30) * 86400000 ||
        item->attempts_max > 1000 || item->crashes_max > 1000 ||
        item->max_run_ms > INT64_C(30) * 86400000 || item->run_at_ms < 0 ||
        item->run_at_ms > core->now_ms + INT64_C(366) * 86400000) {
        return refuse(err, MQ_E_ARG,
                      "lease at most 1 h, ttl and run at most 30 days, att and crash at most 1000, "
                      "at within a year");
    }
    const uint64_t day_ms = 86400000;
    if (item->keep_ms > 365 * day_ms || (item->keep_ms > 0 && item->keep_ms < 1000) ||
        item->backoff_ms > day_ms || item->backoff_max_ms > day_ms) {
        return refuse(err, MQ_E_ARG,
                      "keep: 1 s to 365 days; bo, bomax: at most 1 day, in milliseconds");
    }
    if (item->limit_key.len > 0 &&
        (!mq_entry_name_ok(item->limit_key) || mq_span_is(item->limit_key, "*"))) {
        return refuse(err, MQ_E_ARG, "lkey: 1 to 64 printable letters without blank / @");
    }
    const char *needs = mq_needs_check(item);
    return needs != NULL ? refuse(err, MQ_E_ARG, needs) : check_place(core, item, kind, err);
}

mq_code mq_core_check(const mq_core *core, const mq_msg_submit_job *item, mq_error *err)
{
    bool is_transient;
    return check_item(core, item, NULL, mq_kinds_policy(core, item->kind), &is_transient, err);
}

/* Why there is no room now; NULL when there is. */
static const char *no_room(mq_core *core, const mq_msg_submit_job *item, const mq_bytes *body,
                           bool is_transient)
{
    const mq_core_config *c = &core->config;
    uint32_t tenant = mq_name_find(core, item->tenant);
    uint64_t bytes = body == NULL ? 0 : body->len;
    if (core->is_full) {
        return "the store is above its memory threshold or the broker is stopping";
    }
    if (!mq_slots_has(&core->job_slots, 256) || !mq_slots_has(&core->name_slots, 32) ||
        !mq_slots_has(&core->lane_slots, 1) || !mq_slots_has(&core->strand_slots, 1) ||
        !mq_slots_has(&core->flow_slots, 1) || !mq_slots_has(&core->limit_slots, 1) ||
        !mq_slots_has(&core->edge_slots, 64) ||
        core->pool.units - core->pool.high < core->pool.units / POOL_RESERVE) {
        return "the broker's job memory is full";
    }
    if (core->held_bytes + bytes > c->held_bytes_max) {
        return "the broker's memory for bodies is full";
    }
    mq_span queue = item->queue.len > 0 ? item->queue : mq_str("default");
    if (core->has_draining && mq_queue_is_draining(core, queue)) {
        return "the queue is being drained: it takes no new jobs until it is resumed";
    }
    if (is_transient) {
        uint64_t most = (uint64_t)c->transient_per_slot * (core->slots_connected + 1);
        most = most < c->transient_max ? most : c->transient_max;
        return core->transient >= most ? "too many transient jobs for the connected slots" : NULL;
    }
    if (core->live >= c->live_max) {
        return "too many live jobs";
    }
    if (tenant != MQ_NONE && core->names[tenant].live >= mq_tenant_quota(core, tenant)) {
        return "too many live jobs of this tenant: its quota";
    }
    return mq_wait_room(core, 4096) ? NULL : "too many answers wait for the store";
}

static bool fill_names(mq_core *core, mq_job *job, const mq_msg_submit_job *item)
{
    mq_span queue = item->queue.len > 0 ? item->queue : mq_str("default");
    enum { NAMES = 6 };
    uint32_t names[NAMES] = {
        mq_name_take(core, item->kind),      mq_name_take(core, queue),
        mq_name_take(core, item->model),     mq_name_take(core, item->tenant),
        mq_name_take(core, item->limit_key), mq_name_take(core, mq_needs_text(core, item))};
    for (int i = 0; i < NAMES; i++) {
        if (names[i] == MQ_NONE) {
            for (int k = 0; k < NAMES; k++) {
                mq_name_drop(core, names[k] == MQ_NONE ? 0 : names[k]);
            }
            return false;
        }
    }
    job->kind = names[0];
    job->queue = names[1];
    job->model = names[2];
    job->tenant = names[3];
    job->key = names[4];
    job->needs = names[5];
    return mq_pool_copy(&core->pool, item->memo, &job->memo) &&
           mq_pool_copy(&core->pool, item->trace, &job->trace) &&
           mq_pool_copy(&core->pool, item->unique, &job->unique);
}

static void fill_limits(const mq_core *core, mq_job *job, const mq_msg_submit_job *item,
                        const mq_kind_policy *kind)
{
    job->priority = (uint8_t)item->priority;
    job->is_quiet = item->is_quiet;
    job->run_at_ms = item->run_at_ms;
    job->lease_ms =
        (uint32_t)(item->lease_ms > 0 ? item->lease_ms : (uint64_t)core->config.lease_ms);
    job->max_run_ms = item->max_run_ms > 0 ? item->max_run_ms : kind->max_run_ms;
    job->attempts_max = item->attempts_max > 0 ? (uint32_t)item->attempts_max : kind->attempts_max;
    job->crashes_max = item->crashes_max > 0 ? (uint32_t)item->crashes_max : 3;
    uint64_t ttl_ms = item->ttl_ms;
    if (ttl_ms == 0 && job->is_transient) {
        ttl_ms = job->max_run_ms;
    }
    job->expires_ms = ttl_ms == 0 ? 0 : core->now_ms + (int64_t)ttl_ms;
    job->keep_ms = (int64_t)item->keep_ms;
    job->backoff_ms = (uint32_t)item->backoff_ms;
    job->backoff_max_ms = (uint32_t)item->backoff_max_ms;
    job->runs_anyway = item->runs_anyway;
    job->seats_min = (uint8_t)item->seats_min;
    job->seats_max = (uint8_t)item->seats_max;
    if (job->seats_max == 0 && (kind->is_gang || job->seats_min > 0)) {
        job->seats_max = job->seats_min > 0 ? job->seats_min : 1;
    }
    if (job->seats_max > 0 && job->seats_min == 0) {
        job->seats_min = 1;
    }
}

/* A first attempt may start before its create is stored when the id cannot have been used before:
 * younger than this ownership, and than everything that was forgotten. */
static bool is_surely_new(const mq_core *core, const mq_job *job)
{
    int64_t ms = mq_ulid_time(job->id);
    return !core->is_loading && ms >= core->begun_ms && ms > core->evicted_id_ms &&
           job->memo.at == 0;
}

/* A new job with its fields set, in state NONE; NULL when there is no room. Takes body. */
static mq_job *take_in(mq_core *core, const mq_msg_submit_job *item, mq_bytes *body,
                       const mq_kind_policy *kind, bool is_transient)
{
    mq_job *job = mq_job_new(core, item->id);
    if (job == NULL) {
        return NULL;
    }
    job->is_transient = is_transient;
    job->is_replicated = mq_span_is(item->durability, "replicated");
    job->number = core->next_number++;
    job->submitted_ms = core->now_ms;
    if (is_transient) {
        core->transient++;
    }
    if (!fill_names(core, job, item)) {
        mq_job_free(core, job);
        return NULL;
    }
    fill_limits(core, job, item, kind);
    hash_of(item, body, job->hash);
    mq_unique_hold(core, job);
    job->is_fresh = is_surely_new(core, job);
    job->has_body = true;
    job->body = body;
    job->body_bytes = body == NULL ? 0 : body->len;
    core->held_bytes += job->body_bytes;
    if (!is_transient) {
        core->live++;
        core->names[job->tenant].live++;
    }
    return job;
}

void mq_submit_place(mq_core *core, mq_job *job)
{
    MQ_ASSERT(job->state == MQ_STATE_NONE || job->state == MQ_STATE_BLOCKED);
    bool is_new = job->state == MQ_STATE_NONE;
    if (job->deps_left > 0) {
        if (is_new) {
            mq_job_move(core, job, MQ_EVENT_BLOCK, "deps");
        }
    } else if (job->run_at_ms > core->now_ms) {
        mq_job_move(core, job, MQ_EVENT_DELAY, "run_at");
    } else {
        mq_job_move(core, job, is_new ? MQ_EVENT_SUBMIT : MQ_EVENT_RELEASE, is_new ? "" : "deps");
    }
}

/* The parents of a new job: known ones become edges, the others are looked up. */
static bool place_deps(mq_core *core, mq_job *job, const mq_msg_submit_job *item)
{
    mq_ref ids = mq_pool_take(&core->pool, (size_t)item->deps_count * MQ_ULID_LEN);
    if (item->deps_count > 0 && ids.at == 0) {
        return false;
    }
    for (uint32_t i = 0; i < item->deps_count; i++) {
        memcpy(mq_pool_at(&core->pool, ids) + (size_t)i * MQ_ULID_LEN, item->deps[i].data,
               MQ_ULID_LEN);
    }
    job->deps = ids;
    job->deps_len = (uint16_t)(item->deps_count * MQ_ULID_LEN);
    if (item->deps_count > 0) {
        mq_keep_flush(core); /* its parents may be among them: they go first */
        mq_deps_later(core, job);
    } else {
        mq_submit_place(core, job);
    }
    return true;
}

/* The id is known: a repeat of the same job, or another one under its id. */
static void answer_known(mq_core *core, const mq_input *in, const uint64_t known[2], mq_job *job,
                         mq_state state, mq_outputs *out)
{
    uint64_t hash[2];
    hash_of(in->as.submit, in->body, hash);
    mq_span id = in->as.submit->id;
    if (hash[0] != known[0] || hash[1] != known[1]) {
        mq_say_submitted(out, in->conn, in->rid, id, "conflict", mq_state_name(state),
                         "id: used before by a job with other content", 0);
        return;
    }
    if (job != NULL && !in->as.submit->is_quiet) {
        job->conn = in->conn; /* whoever asks last is told of the end */
    }
    if (job != NULL && job->create == MQ_CREATE_STORED &&
        (job->is_unseen || !mq_replica_has(core, job))) {
        (void)mq_replica_hold_dup(core, job, in->conn, in->rid); /* else it is sent again */
        return;
    }
    bool must_wait =
        job != NULL && !job->is_transient && (job->create != MQ_CREATE_STORED || mq_job_ended(job));
    if (!must_wait) {
        mq_say_submitted(out, in->conn, in->rid, id, "dup", mq_state_name(state), "", 0);
        return;
    }
    mq_waiter *w = mq_wait_job(core, job, MQ_WAIT_SUBMITTED, in->conn, in->rid);
    if (w != NULL) {
        w->verdict = MQ_SAY_DUP;
        memcpy(w->hash, hash, sizeof hash);
    }
}

static bool answer_repeat(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_job *job = mq_job_find(core, in->as.submit->id);
    if (job != NULL) {
        answer_known(core, in, job->hash, job, (mq_state)job->state, out);
        return true;
    }
    const mq_recent *recent = mq_recent_find(core, in->as.submit->id);
    if (recent != NULL) {
        answer_known(core, in, recent->hash, NULL, (mq_state)recent->state, out);
        return true;
    }
    return false;
}

void mq_submit(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_submit_job *item = in->as.submit;
    mq_error *err = &core->err;
    bool is_transient = false;
    mq_job *job = NULL;
    const mq_kind_policy *kind = mq_kinds_policy(core, item->kind);
    mq_code code = check_item(core, item, in->body, kind, &is_transient, err);
    /* What was taken when the clocks were right is known whatever they say now. */
    bool is_repeat = (code == MQ_OK || code == MQ_E_CLOCK) && answer_repeat(core, in, out);
    if (code == MQ_E_CLOCK && !is_repeat && core->is_loading) {
        core->stats.refused_busy++; /* it may be one that is loaded yet */
        mq_say_submitted(out, in->conn, in->rid, item->id, "busy", "",
                         "the broker is still loading; ask again", MQ_RETRY_LATER_MS);
    } else if (code != MQ_OK && !is_repeat) {
        mq_say_submitted(out, in->conn, in->rid, item->id, mq_code_name(err->code), "", err->text,
                         0);
    } else if (!is_repeat && !mq_unique_answer(core, in, out)) {
        const char *why = no_room(core, item, in->body, is_transient);
        if (why == NULL && mq_span_is(item->durability, "replicated")) {
            why = mq_replica_closed(core);
        }
        job = why == NULL ? take_in(core, item, in->body, kind, is_transient) : NULL;
        if (job == NULL) {
            core->stats.refused_busy++;
            mq_say_submitted(out, in->conn, in->rid, item->id, "busy", "",
                             why != NULL ? why : "the broker's job memory is full",
                             MQ_RETRY_LATER_MS);
        }
    }
    if (job == NULL) {
        if (in->body != NULL) {
            mq_out_release(out, in->body);
        }
        return;
    }
    core->stats.submitted++;
    job->conn = item->is_quiet ? 0 : in->conn;
    if (is_transient) {
        core->stats.transient_submitted++;
        mq_say_submitted(out, in->conn, in->rid, item->id, "ok", "queued", "", 0);
        mq_submit_place(core, job);
        return;
    }
    mq_waiter *w = mq_wait_job(core, job, MQ_WAIT_SUBMITTED, in->conn, in->rid);
    MQ_ASSERT(w != NULL); /* no_room left enough */
    memcpy(w->hash, job->hash, sizeof w->hash);
    bool is_placed = place_deps(core, job, item);
    MQ_ASSERT(is_placed); /* no_room left an eighth of the pool */
}

mq_job *mq_submit_new(mq_core *core, const mq_msg_submit_job *item, mq_bytes *body)
{
    bool is_transient = false;
    const mq_kind_policy *kind = mq_kinds_policy(core, item->kind);
    if (check_item(core, item, body, kind, &is_transient, &core->err) != MQ_OK || is_transient ||
        no_room(core, item, body, false) != NULL) {
        return NULL;
    }
    mq_job *job = take_in(core, item, body, kind, false);
    core->stats.submitted += job != NULL;
    return job;
}

/* ---- children of a result ---- */

mq_code mq_spawn_check(const mq_core *core, const mq_msg_spawned *spawn, mq_error *err)
{
    const mq_kind_policy *kind = mq_kinds_policy(core, spawn->kind);
    if (mq_ulid_ms(spawn->id) < 0) {
        return refuse(err, MQ_E_ARG, "spawn: id must be a ULID");
    }
    if (!mq_entry_name_ok(spawn->kind)) {
        return refuse(err, MQ_E_ARG, "spawn: kind must be 1 to 64 printable letters");
    }
    if (core->config.is_away && (kind->is_gang || spawn->model.len > 0)) {
        return refuse(err, MQ_E_ARG,
                      "spawn: jobs with seats or a model live in shard 0, and children where their "
                      "parent does: submit it with an id whose letters 11 and 12 are 00");
    }
    if (spawn->body.len > kind->body_bytes_max) {
        return refuse(err, MQ_E_LIMIT, "spawn: body is larger than its kind's limit");
    }
    return MQ_OK;
}

mq_job *mq_spawn_new(mq_core *core, const mq_job *parent, const mq_msg_spawned *spawn,
                     mq_bytes *body)
{
    mq_msg_submit_job item = {
        .id = spawn->id,
        .kind = spawn->kind,
        .model = spawn->model,
        .queue = mq_name_text(core, parent->queue),
        .tenant = mq_name_text(core, parent->tenant),
        .limit_key = mq_name_text(core, parent->key),
        .needs = mq_name_text(core, parent->needs),
        .trace = mq_pool_span(&core->pool, parent->trace),
        .priority = parent->priority,
        .durability = mq_str(parent->is_replicated ? "replicated" : ""),
        .is_quiet = true,
    };
    mq_job *job = take_in(core, &item, body, mq_kinds_policy(core, item.kind), false);
    if (job != NULL) {
        job->is_spawned = true;
        job->is_fresh = false;
        mq_job_move(core, job, MQ_EVENT_SUBMIT, "spawned");
    }
    return job;
}

void mq_spawn_start(mq_core *core, mq_job *job)
{
    job->is_spawned = false;
    if (job->state == MQ_STATE_QUEUED) {
        mq_job_ready(core, job);
    }
}
