/* Workers: who is there, how many slots are free, which leases are renewed. It must not know what
 * follows from the end of a lease (lease.c, gang.c). */
#include "broker/core/state.h"

static bool worker_is(const mq_core *core, uint32_t value, const void *key)
{
    const mq_span *uuid = key;
    return memcmp(core->workers[value].uuid, uuid->data, MQ_UUID_LEN) == 0;
}

mq_worker *mq_worker_find(mq_core *core, mq_span uuid)
{
    if (uuid.len != MQ_UUID_LEN) {
        return NULL;
    }
    uint32_t no = mq_index_find(core, &core->worker_index, mq_id_hash(uuid), worker_is, &uuid);
    return no == MQ_NONE ? NULL : &core->workers[no];
}

static uint32_t number_of(const mq_core *core, const mq_worker *w)
{
    return (uint32_t)(w - core->workers);
}

static bool is_uuid(mq_span s)
{
    bool is_ok = s.len == MQ_UUID_LEN;
    for (size_t i = 0; i < s.len && is_ok; i++) {
        uint8_t c = s.data[i];
        is_ok = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    }
    return is_ok;
}

static void drop_names(mq_core *core, mq_worker *w)
{
    for (uint32_t i = 0; i < w->kind_count; i++) {
        mq_name_drop(core, w->kinds[i]);
    }
    for (uint32_t i = 0; i < w->queue_count; i++) {
        mq_name_drop(core, w->queues[i]);
    }
    for (uint32_t i = 0; i < w->tag_count; i++) {
        mq_name_drop(core, w->tags[i]);
    }
    mq_name_drop(core, w->fingerprint);
    w->kind_count = w->queue_count = w->tag_count = w->fingerprint = 0;
}

/* Ends a worker: whatever it held goes back. */
static void remove(mq_core *core, mq_worker *w, bool is_counted, const char *why, mq_outputs *out)
{
    while (w->held_head != MQ_NONE) {
        mq_lapse(core, mq_job_at(core, w->held_head), is_counted, why, out);
    }
    mq_gang_worker_gone(core, number_of(core, w), out);
    mq_index_remove(core, &core->worker_index, number_of(core, w));
    drop_names(core, w);
    mq_worker_forget_models(core, w);
    core->slots_connected -= w->slots;
    w->is_used = false;
    w->next_free = mq_slots_give(&core->worker_slots, number_of(core, w));
}

static bool tag_value(mq_span tag, const char *prefix, mq_span *value)
{
    mq_span head = mq_str(prefix);
    bool is_it = tag.len >= head.len && memcmp(tag.data, head.data, head.len) == 0;
    if (is_it) {
        *value = mq_span_of(tag.data + head.len, tag.len - head.len);
    }
    return is_it;
}

/* Digits up to MQ_SLOTS_MAX; what is none counts as 0. */
static uint32_t small_number(mq_span text)
{
    uint32_t n = 0;
    for (size_t i = 0; i < text.len && text.data[i] >= '0' && text.data[i] <= '9'; i++) {
        n = n < MQ_SLOTS_MAX ? n * 10 + (uint32_t)(text.data[i] - '0') : n;
    }
    return n < MQ_SLOTS_MAX ? n : MQ_SLOTS_MAX;
}

static bool take_kinds(mq_core *core, mq_worker *w, const mq_msg_ready *m)
{
    for (uint32_t i = 0; i < m->kinds_count; i++) {
        uint32_t name = mq_name_take(core, m->kinds[i]);
        if (name == MQ_NONE) {
            return false;
        }
        w->kinds[w->kind_count++] = name;
    }
    w->online = 0;
    for (uint32_t i = 0; i < m->tags_count; i++) {
        mq_span value = {0};
        if (tag_value(m->tags[i], "online=", &value)) {
            w->online = small_number(value);
        } else if (tag_value(m->tags[i], "queue=", &value) && value.len > 0) {
            uint32_t name = mq_name_take(core, value);
            if (name == MQ_NONE) {
                return false;
            }
            w->queues[w->queue_count++] = name;
        } else if (mq_entry_name_ok(m->tags[i])) {
            uint32_t name = mq_name_take(core, m->tags[i]);
            if (name == MQ_NONE) {
                return false;
            }
            w->tags[w->tag_count++] = name;
        }
    }
    w->fingerprint = mq_name_take(core, m->fingerprint);
    if (w->fingerprint == MQ_NONE) {
        w->fingerprint = 0;
        return false;
    }
    return true;
}

static mq_worker *take_slot(mq_core *core, mq_span uuid)
{
    uint32_t no = MQ_TAKE(core, worker, workers, mq_worker);
    if (no == MQ_NONE) {
        return NULL;
    }
    mq_worker *w = &core->workers[no];
    memset(w, 0, sizeof *w);
    w->is_used = true;
    w->held_head = MQ_NONE;
    w->joined_ms = core->now_ms;
    memcpy(w->uuid, uuid.data, MQ_UUID_LEN);
    mq_index_put(core, &core->worker_index, no);
    return w;
}

/* A worker is at a connection now. At a new one nothing sent before arrives any more, so its count
 * of jobs starts from what it says next. */
static void bind(mq_worker *w, uint64_t conn)
{
    if (w->conn != conn) {
        w->conn = conn;
        w->is_credit_known = false;
        w->credit_seq = w->beat_seq = 0;
    }
}

/* One lease that a worker says it holds. */
static const char *judge(mq_core *core, mq_worker *w, const mq_msg_held *held)
{
    mq_seat *seat = NULL;
    mq_job *job = mq_job_find(core, held->id);
    if (job == NULL) {
        const mq_recent *recent = mq_recent_find(core, held->id);
        bool is_gang_end = recent != NULL && recent->is_gang;
        return core->is_loading ? "ok" : is_gang_end ? "cancel" : "stale";
    }
    mq_gang *gang = mq_gang_of(core, job);
    if (gang != NULL) {
        seat = mq_gang_seat(gang, held->grant, mq_str(w->uuid));
        if (seat == NULL || held->epoch != job->epoch) {
            return "stale";
        }
        mq_gang_claim(core, seat, number_of(core, w));
    } else {
        bool is_it = job->state == MQ_STATE_LEASED && job->epoch == held->epoch &&
                     job->grant == held->grant && memcmp(job->holder, w->uuid, MQ_UUID_LEN) == 0;
        if (!is_it) {
            /* its own result may be under way to the store: no reason to kill anything */
            bool is_ours = job->epoch == held->epoch && job->grant == held->grant &&
                           memcmp(job->holder, w->uuid, MQ_UUID_LEN) == 0;
            return is_ours && (mq_job_ended(job) || job->is_spent) ? "ok" : "stale";
        }
        if (job->worker == MQ_NONE) { /* loaded, and its holder is back */
            job->is_sent = true;
            mq_hold(core, job, number_of(core, w));
        }
    }
    job->is_accepted = true;
    if (core->now_ms - job->leased_ms > (int64_t)job->max_run_ms && job->max_run_ms > 0) {
        job->is_timed_out = true; /* no renewal: if it does not stop, its lease runs out */
        return "timeout";
    }
    *(seat != NULL ? &seat->lease_until_ms : &job->lease_until_ms) = core->now_ms + job->lease_ms;
    mq_job_timer(core, job);
    return job->is_cancelling ? "cancel" : "ok";
}

static void judge_all(mq_core *core, mq_worker *w, const mq_msg_held *held, uint32_t count,
                      mq_outputs *out)
{
    for (uint32_t i = 0; i < count; i++) {
        MQ_ASSERT(out->verdict_count < MQ_OUT_VERDICTS_MAX);
        out->verdicts[out->verdict_count++] =
            (mq_msg_held_verdict){.id = held[i].id,
                                  .epoch = held[i].epoch,
                                  .grant = held[i].grant,
                                  .verdict = mq_str(judge(core, w, &held[i]))};
    }
}

static void fill(mq_worker *w, const mq_msg_ready *m)
{
    (void)mq_span_copy(m->name, w->name, sizeof w->name);
    (void)mq_span_copy(m->host, w->host, sizeof w->host);
    (void)mq_span_copy(m->version, w->version, sizeof w->version);
    (void)mq_span_copy(m->gang_unix, w->gang_unix, sizeof w->gang_unix);
    (void)mq_span_copy(m->gang_tcp, w->gang_tcp, sizeof w->gang_tcp);
    w->pid = m->pid;
    w->memory_bytes = m->memory_bytes;
}

void mq_worker_ready(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_ready *m = in->as.ready;
    if (!is_uuid(m->worker)) {
        mq_say_error(out, in->conn, 0, MQ_E_ARG, "worker: must be 32 lower-case hex digits");
        return;
    }
    if (m->slots < 1 || m->slots > MQ_SLOTS_MAX) {
        mq_say_error(out, in->conn, 0, MQ_E_ARG, "slots: must be 1..256");
        return;
    }
    mq_worker *w = mq_worker_find(core, m->worker);
    if (w == NULL) {
        w = take_slot(core, m->worker);
    }
    if (w == NULL) {
        mq_say_error(out, in->conn, 0, MQ_E_BUSY, "too many workers");
        return;
    }
    drop_names(core, w);
    fill(w, m);
    core->slots_connected += (uint32_t)m->slots - w->slots;
    w->slots = (uint32_t)m->slots;
    w->seen_ms = core->now_ms;
    bind(w, in->conn);
    mq_worker_told_blobs(w, m->blobs, m->blobs_count);
    if (!take_kinds(core, w, m)) {
        remove(core, w, false, "unready", out);
        mq_say_error(out, in->conn, 0, MQ_E_BUSY, "too many different names in use");
        return;
    }
    for (uint32_t i = 0; i < m->limits_count; i++) {
        mq_kinds_told(core, &m->limits[i]);
    }
    judge_all(core, w, m->held, m->held_count, out);
    mq_output *item = mq_out_add(out, MQ_OUT_REGISTERED, in->conn, 0);
    item->as.registered = (mq_msg_registered){.worker = mq_str(w->uuid),
                                              .epoch = core->epoch,
                                              .beat_ms = (uint64_t)core->config.beat_ms,
                                              .lease_ms = (uint64_t)core->config.lease_ms,
                                              .verdicts = out->verdicts,
                                              .verdicts_count = out->verdict_count};
}

static void set_credit(mq_worker *w, uint64_t *last_seq, uint64_t seq, uint64_t free, uint64_t seen)
{
    if (w->is_credit_known && seq <= *last_seq) {
        return;
    }
    if (!w->is_credit_known) {
        w->sent = seen;
    }
    w->is_credit_known = true;
    *last_seq = seq;
    w->seen = seen;
    w->free = free < MQ_SLOTS_MAX ? free : MQ_SLOTS_MAX;
}

/* The worker a message comes from; an unknown one is told to say ready. */
static mq_worker *sender(mq_core *core, const mq_input *in, mq_span uuid, mq_outputs *out)
{
    mq_worker *w = mq_worker_find(core, uuid);
    if (w == NULL) {
        mq_say_error(out, in->conn, 0, MQ_E_NOT_FOUND, "unknown worker: send ready");
        return NULL;
    }
    w->seen_ms = core->now_ms;
    bind(w, in->conn);
    return w;
}

void mq_worker_credit(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_credit *m = in->as.credit;
    mq_worker *w = sender(core, in, m->worker, out);
    if (w != NULL) {
        set_credit(w, &w->credit_seq, m->seq, m->free, m->jobs_seen);
        mq_idle_note(core, number_of(core, w));
    }
}

void mq_worker_beat(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_beat *m = in->as.beat;
    mq_worker *w = sender(core, in, m->worker, out);
    if (w == NULL) {
        return;
    }
    set_credit(w, &w->beat_seq, m->seq, m->free, m->jobs_seen);
    mq_idle_note(core, number_of(core, w));
    mq_worker_told_blobs(w, m->blobs, m->blobs_count);
    w->rss_bytes = m->rss_bytes;
    w->load_milli = m->load_milli;
    if (w->is_draining && !m->is_draining) { /* the word was lost on its way */
        mq_out_add(out, MQ_OUT_DRAIN, w->conn, 0);
    }
    w->is_draining = w->is_draining || m->is_draining;
    judge_all(core, w, m->jobs, m->jobs_count, out);
    mq_output *item = mq_out_add(out, MQ_OUT_BEATEN, in->conn, 0);
    item->as.beaten = (mq_msg_beaten){.reserved = w->reserved,
                                      .seq = m->seq,
                                      .verdicts = out->verdicts,
                                      .verdicts_count = out->verdict_count};
}

void mq_worker_bye(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_worker *w = mq_worker_find(core, in->as.worker);
    if (w != NULL) {
        remove(core, w, false, "bye", out);
    }
}

void mq_worker_unsent(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_job *job = mq_job_find(core, in->as.unsent.id);
    if (job == NULL || job->state != MQ_STATE_LEASED) {
        return;
    }
    mq_gang *gang = mq_gang_of(core, job);
    mq_seat *seat = gang == NULL ? NULL : mq_gang_seat(gang, in->as.unsent.grant, (mq_span){0});
    uint32_t no = gang == NULL ? job->worker : seat == NULL ? MQ_NONE : seat->worker;
    bool is_it = gang != NULL ? seat != NULL : job->grant == in->as.unsent.grant;
    if (!is_it || no == MQ_NONE || core->workers[no].conn != in->conn) {
        return;
    }
    mq_worker *w = &core->workers[no];
    w->sent -= w->sent > 0;
    w->free = 0; /* until it speaks again */
    if (in->as.unsent.is_gone) {
        w->conn = 0;
    }
    if (gang != NULL) {
        mq_gang_leave(core, job, seat, false, out);
    } else {
        mq_lapse(core, job, false, "unsent", out);
    }
}

void mq_workers_turn(mq_core *core, mq_outputs *out)
{
    if (core->now_ms - core->workers_checked_ms < core->config.lease_ms / 4) {
        return;
    }
    core->workers_checked_ms = core->now_ms;
    for (uint32_t i = 0; i < core->worker_slots.high; i++) {
        mq_worker *w = &core->workers[i];
        MQ_ASSERT(mq_worker_free(w) == 0 || mq_idle_is(core, i));
        if (w->is_used && core->now_ms - w->seen_ms > core->config.lease_ms) {
            remove(core, w, true, "worker lost", out);
        }
    }
}

bool mq_core_worker(const mq_core *core, uint32_t index, mq_worker_view *out)
{
    if (index >= core->worker_slots.high || !core->workers[index].is_used) {
        return false;
    }
    const mq_worker *w = &core->workers[index];
    *out = (mq_worker_view){.uuid = mq_str(w->uuid),
                            .name = mq_str(w->name),
                            .host = mq_str(w->host),
                            .version = mq_str(w->version),
                            .fingerprint = mq_name_text(core, w->fingerprint),
                            .slots = w->slots,
                            .free = mq_worker_free(w),
                            .kind_count = w->kind_count,
                            .conn = w->conn,
                            .pid = w->pid,
                            .rss_bytes = w->rss_bytes,
                            .load_milli = w->load_milli,
                            .seen_ms = w->seen_ms,
                            .joined_ms = w->joined_ms,
                            .is_draining = w->is_draining};
    for (uint32_t i = 0; i < w->kind_count; i++) {
        out->kinds[i] = mq_name_text(core, w->kinds[i]);
    }
    out->tag_count = w->tag_count;
    for (uint32_t i = 0; i < w->tag_count; i++) {
        out->tags[i] = mq_name_text(core, w->tags[i]);
    }
    out->memory_bytes = w->memory_bytes;
    out->memory_held = w->memory_held;
    return true;
}
