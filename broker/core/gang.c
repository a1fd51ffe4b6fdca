/* Gangs: the members of one job, their leases, and the roster they share.
 *
 * Rules. A gang forms only when one numeric fingerprint has seats_min free slots at once; until
 * then it holds none. It takes up to seats_max of what is free, one slot a worker first. Later it
 * grows, at most once a second, by slots that no waiting job could use, so it never starves others.
 * When it has waited for 10 s itself, slots of its fingerprint that come free are kept for it,
 * every other minute, so others do not starve it either. A member that goes costs no attempt: the
 * survivors get a new roster and go on; with the last one the job is queued again, with its
 * checkpoint.
 *
 * The gang's epoch is the owner's epoch and a counter, so it grows over every takeover without
 * being stored first. It must not know what a gang computes. */
#include "broker/core/state.h"

enum { FINGERPRINTS_MAX = 64, GANG_EPOCH_BITS = 24 };

mq_gang *mq_gang_of(mq_core *core, const mq_job *job)
{
    return job->gang == MQ_NONE ? NULL : &core->gangs[job->gang];
}

uint32_t mq_gang_seat_at(const mq_gang *gang, uint64_t grant, mq_span worker)
{
    for (uint32_t i = 0; i < gang->count; i++) {
        const mq_seat *seat = &gang->seats[i];
        if (seat->grant == grant && (worker.len == 0 || mq_span_is(worker, seat->uuid))) {
            return i;
        }
    }
    return MQ_NONE;
}

mq_seat *mq_gang_seat(mq_gang *gang, uint64_t grant, mq_span worker)
{
    uint32_t at = mq_gang_seat_at(gang, grant, worker);
    return at == MQ_NONE ? NULL : &gang->seats[at];
}

int64_t mq_gang_lease_until(const mq_gang *gang)
{
    int64_t until = INT64_MAX;
    for (uint32_t i = 0; i < gang->count; i++) {
        if (gang->seats[i].phase != MQ_SEAT_DONE) {
            until = mq_min_i64(until, gang->seats[i].lease_until_ms);
        }
    }
    return until;
}

uint64_t mq_gang_next_epoch(mq_core *core)
{
    MQ_ASSERT(core->next_gang < UINT64_C(1) << GANG_EPOCH_BITS);
    return core->epoch << GANG_EPOCH_BITS | ++core->next_gang;
}

uint32_t mq_gang_alive(const mq_gang *gang)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < gang->count; i++) {
        count += gang->seats[i].phase != MQ_SEAT_DONE;
    }
    return count;
}

static mq_gang *new_gang(mq_core *core, mq_job *job)
{
    uint32_t no = MQ_TAKE(core, gang, gangs, mq_gang);
    if (no == MQ_NONE) {
        return NULL;
    }
    mq_gang *gang = &core->gangs[no];
    memset(gang, 0, sizeof *gang);
    gang->is_used = true;
    gang->job = mq_job_no(core, job);
    gang->changed_ms = gang->told_ms = core->now_ms;
    job->gang = no;
    return gang;
}

static void add_seat(mq_core *core, mq_gang *gang, uint32_t worker, mq_seat_phase phase)
{
    MQ_ASSERT(gang->count < MQ_GANG_SEATS_MAX);
    mq_worker *w = &core->workers[worker];
    mq_seat *seat = &gang->seats[gang->count++];
    *seat = (mq_seat){
        .seat = core->jobs[gang->job].seat_next++,
        .worker = worker,
        .grant = ++core->next_grant,
        .lease_until_ms = core->now_ms + core->jobs[gang->job].lease_ms,
        .phase = phase,
    };
    memcpy(seat->uuid, w->uuid, sizeof seat->uuid);
    w->reserved++;
    w->busy++;
    w->busy_batch++;
}

/* ---- forming ---- */

typedef struct fleet {
    uint32_t fingerprint;
    uint32_t free, slots;
} fleet;

static uint32_t count_fleets(mq_core *core, const mq_lane *lane, fleet fleets[FINGERPRINTS_MAX])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < core->worker_slots.high; i++) {
        const mq_worker *w = &core->workers[i];
        if (!w->is_used || w->is_draining || w->conn == 0 || !mq_worker_fits(w, lane)) {
            continue;
        }
        uint32_t k = 0;
        while (k < count && fleets[k].fingerprint != w->fingerprint) {
            k++;
        }
        if (k == count) {
            if (count == FINGERPRINTS_MAX) {
                continue;
            }
            fleets[count++] = (fleet){.fingerprint = w->fingerprint};
        }
        bool is_reserved = core->reserved_for != 0 && w->fingerprint == core->reserved_for;
        fleets[k].free += is_reserved ? 0 : mq_worker_idle(w);
        fleets[k].slots += w->slots;
    }
    return count;
}

/* Takes up to `seats` slots, one a worker in each round. */
static void take_seats(mq_core *core, mq_gang *gang, const mq_lane *lane, uint32_t seats,
                       mq_seat_phase phase)
{
    uint32_t before;
    do {
        before = gang->count;
        for (uint32_t i = 0; i < core->worker_slots.high && seats > 0; i++) {
            const mq_worker *w = &core->workers[i];
            if (w->is_used && w->fingerprint == gang->fingerprint && mq_worker_idle(w) > 0 &&
                mq_worker_fits(w, lane)) {
                add_seat(core, gang, i, phase);
                seats--;
            }
        }
    } while (gang->count > before && seats > 0);
}

static void start(mq_core *core, mq_job *job, mq_gang *gang, mq_outputs *out)
{
    job->epoch = core->epoch;
    job->grant = gang->seats[0].grant;
    memcpy(job->holder, gang->seats[0].uuid, sizeof job->holder);
    job->leased_ms = core->now_ms;
    job->queue_us = (uint64_t)(core->now_ms - job->ready_ms) * 1000;
    job->grants++;
    job->is_accepted = job->is_spent = job->is_timed_out = false;
    gang->gang_epoch = mq_gang_next_epoch(core);
    mq_start_count(core, job, gang->count);
    mq_job_move(core, job, MQ_EVENT_GRANT, "");
    core->stats.granted++;
    core->tally.granted++;
    job->wait_stored = job->grants > 1 || (core->config.shards > 1 && job->limited != 0);
    if (job->wait_stored) {
        mq_waiter *wait = mq_wait_job(core, job, MQ_WAIT_JOB, 0, 0);
        MQ_ASSERT(wait != NULL); /* dispatch left room */
        wait->grant = job->grants;
    }
    mq_fetch_body(core, job, out);
    mq_gang_send_jobs(core, job, out);
}

bool mq_gang_form(mq_core *core, mq_lane *lane, mq_job *job, mq_outputs *out)
{
    fleet fleets[FINGERPRINTS_MAX];
    uint32_t count = count_fleets(core, lane, fleets);
    const fleet *best = NULL;
    const fleet *wanted = NULL;
    for (uint32_t i = 0; i < count; i++) {
        best = best == NULL || fleets[i].free > best->free ? &fleets[i] : best;
        if (fleets[i].slots >= job->seats_min) {
            wanted = wanted == NULL || fleets[i].slots > wanted->slots ? &fleets[i] : wanted;
        }
    }
    if (best == NULL || best->free < job->seats_min) {
        int64_t waited = core->now_ms - job->ready_ms;
        bool is_turn = waited / MQ_GANG_RESERVE_MS % 2 == 0;
        if (wanted != NULL && waited > MQ_GANG_PATIENCE_MS && is_turn && core->reserved_for == 0) {
            core->reserved_for = wanted->fingerprint;
        }
        return false;
    }
    mq_gang *gang = new_gang(core, job);
    if (gang == NULL) {
        return false;
    }
    gang->fingerprint = best->fingerprint;
    mq_name_hold(core, gang->fingerprint);
    take_seats(core, gang, lane, job->seats_max, MQ_SEAT_ACTIVE);
    MQ_ASSERT(gang->count >= job->seats_min);
    start(core, job, gang, out);
    return true;
}

/* ---- rosters ---- */

/* Rows of the active members; NULL when there is no room in this step. */
static mq_msg_member *fill_members(const mq_core *core, const mq_gang *gang, mq_outputs *out,
                                   uint32_t *count)
{
    if (out->member_count + gang->count > MQ_OUT_MEMBERS_MAX) {
        return NULL;
    }
    mq_msg_member *rows = &out->members[out->member_count];
    *count = 0;
    for (uint32_t i = 0; i < gang->count; i++) {
        const mq_seat *seat = &gang->seats[i];
        if (seat->phase != MQ_SEAT_ACTIVE || seat->worker == MQ_NONE) {
            continue;
        }
        const mq_worker *w = &core->workers[seat->worker];
        rows[(*count)++] = (mq_msg_member){.seat = seat->seat,
                                           .worker = mq_str(w->uuid),
                                           .host = mq_str(w->host),
                                           .gang_unix = mq_str(w->gang_unix),
                                           .gang_tcp = mq_str(w->gang_tcp)};
    }
    out->member_count += *count;
    return rows;
}

void mq_gang_send_jobs(mq_core *core, mq_job *job, mq_outputs *out)
{
    MQ_ASSERT(job->gang != MQ_NONE);
    mq_gang *gang = &core->gangs[job->gang];
    uint32_t count = 0;
    if (job->wait_stored || job->wait_body) {
        return;
    }
    mq_msg_member *rows = fill_members(core, gang, out, &count);
    if (rows == NULL) {
        gang->jobs_due = true;
        core->wants_turn = true;
        return;
    }
    gang->jobs_due = false;
    MQ_ASSERT(job->has_body);
    for (uint32_t i = 0; i < gang->count; i++) {
        mq_seat *seat = &gang->seats[i];
        if (seat->is_sent || seat->phase != MQ_SEAT_ACTIVE) {
            continue;
        }
        mq_worker *w = &core->workers[seat->worker];
        MQ_ASSERT(w->reserved > 0);
        w->reserved--;
        w->sent++;
        mq_idle_note(core, seat->worker);
        seat->is_sent = true;
        mq_output *item = mq_out_add(out, MQ_OUT_JOB, w->conn, 0);
        mq_job_item_fill(core, job, &item->as.job, out);
        item->as.job.grant = seat->grant;
        item->as.job.seat = seat->seat;
        item->as.job.gang_epoch = gang->gang_epoch;
        item->as.job.members = rows;
        item->as.job.members_count = count;
        item->bytes = job->body;
        item->payload =
            job->body == NULL ? (mq_span){0} : mq_span_of(job->body->data, job->body->len);
    }
}

static void send_rosters(mq_core *core, mq_gang *gang, mq_outputs *out)
{
    const mq_job *job = &core->jobs[gang->job];
    uint32_t count = 0;
    mq_msg_member *rows = fill_members(core, gang, out, &count);
    if (rows == NULL || out->count + gang->count > MQ_OUTPUTS_MAX / 2) {
        core->wants_turn = true;
        return;
    }
    gang->roster_due = false;
    gang->told_ms = core->now_ms;
    for (uint32_t i = 0; i < gang->count; i++) {
        const mq_seat *seat = &gang->seats[i];
        if (seat->phase != MQ_SEAT_ACTIVE || seat->worker == MQ_NONE || !seat->is_sent) {
            continue;
        }
        mq_output *item = mq_out_add(out, MQ_OUT_ROSTER, core->workers[seat->worker].conn, 0);
        item->as.roster = (mq_msg_roster){.id = mq_span_of(job->id, MQ_ULID_LEN),
                                          .epoch = job->epoch,
                                          .grant = seat->grant,
                                          .gang_epoch = gang->gang_epoch,
                                          .members = rows,
                                          .members_count = count};
    }
}

void mq_gang_stored(mq_core *core, mq_job *job, mq_outputs *out)
{
    MQ_ASSERT(job->gang != MQ_NONE);
    mq_gang *gang = &core->gangs[job->gang];
    bool has_joined = false;
    for (uint32_t i = 0; i < gang->count; i++) {
        if (gang->seats[i].phase == MQ_SEAT_JOINING) {
            gang->seats[i].phase = MQ_SEAT_ACTIVE;
            has_joined = true;
        }
    }
    job->wait_stored = false;
    if (has_joined) {
        gang->gang_epoch = mq_gang_next_epoch(core);
        gang->roster_due = true;
        core->wants_turn = true;
        mq_job_dirty(core, job); /* so that a checkpoint of this roster counts after a takeover */
    }
    mq_gang_send_jobs(core, job, out);
}

/* ---- growing ---- */

static bool is_wanted_elsewhere(const mq_core *core, const mq_worker *w)
{
    for (uint32_t i = 0; i < core->lane_slots.high; i++) {
        const mq_lane *lane = &core->lanes[i];
        if (lane->is_used && !lane->is_paused && lane->root != MQ_NONE && mq_worker_fits(w, lane)) {
            return true;
        }
    }
    return core->reserved_for != 0 && w->fingerprint == core->reserved_for;
}

static void grow(mq_core *core, mq_gang *gang, mq_outputs *out)
{
    mq_job *job = &core->jobs[gang->job];
    bool may = gang->count < job->seats_max && !job->is_cancelling && !job->is_timed_out &&
               !job->wait_stored && !job->wait_body && !gang->is_recovered &&
               core->now_ms - gang->changed_ms >= MQ_GANG_CHANGE_MS && mq_wait_room(core, 256);
    for (uint32_t i = 0; i < gang->count && may; i++) {
        may = gang->seats[i].phase == MQ_SEAT_ACTIVE && gang->seats[i].is_accepted;
    }
    if (!may) {
        return;
    }
    mq_lane like = {.queue = job->queue, .kind = job->kind, .needs = job->needs};
    bool is_known = mq_lane_needs(core, &like);
    uint32_t before = gang->count;
    for (uint32_t i = 0; is_known && i < core->worker_slots.high && gang->count < job->seats_max;
         i++) {
        const mq_worker *w = &core->workers[i];
        if (w->is_used && w->fingerprint == gang->fingerprint && mq_worker_idle(w) > 0 &&
            mq_worker_fits(w, &like) && !is_wanted_elsewhere(core, w)) {
            add_seat(core, gang, i, MQ_SEAT_JOINING);
        }
    }
    mq_lane_needs_drop(core, &like);
    if (gang->count > before) {
        gang->changed_ms = core->now_ms;
        mq_job_timer(core, job);
        mq_waiter *wait = mq_wait_job(core, job, MQ_WAIT_JOB, 0, 0);
        MQ_ASSERT(wait != NULL); /* asked above */
        wait->grant = job->grants;
        mq_fetch_body(core, job, out);
    }
}

/* After a takeover the old roster's epoch is not ours: when all are back, they get a new one. */
static void refresh(mq_core *core, mq_gang *gang)
{
    for (uint32_t i = 0; i < gang->count; i++) {
        if (gang->seats[i].worker == MQ_NONE) {
            return;
        }
    }
    gang->is_recovered = false;
    gang->fingerprint = core->workers[gang->seats[0].worker].fingerprint;
    mq_name_hold(core, gang->fingerprint);
    gang->gang_epoch = mq_gang_next_epoch(core);
    gang->roster_due = true;
    mq_job_dirty(core, &core->jobs[gang->job]);
}

void mq_gang_turn(mq_core *core, mq_outputs *out)
{
    for (uint32_t i = 0; i < core->gang_slots.high; i++) {
        mq_gang *gang = &core->gangs[i];
        if (!gang->is_used) {
            continue;
        }
        if (gang->is_recovered) {
            refresh(core, gang);
        }
        grow(core, gang, out);
        if (gang->jobs_due) {
            mq_gang_send_jobs(core, &core->jobs[gang->job], out);
        }
        /* Nobody acknowledges a roster, so it is told again now and then. */
        bool is_old = core->now_ms - gang->told_ms >= core->config.lease_ms;
        if (gang->roster_due || (is_old && !gang->is_recovered && gang->gang_epoch != 0)) {
            send_rosters(core, gang, out);
        }
    }
}

/* ---- loading ---- */

bool mq_gang_load(mq_core *core, mq_job *job, const mq_job_record *record)
{
    mq_gang *gang = new_gang(core, job);
    if (gang == NULL) {
        return false;
    }
    gang->is_recovered = true;
    gang->gang_epoch = record->gang_epoch;
    gang->count = record->member_count;
    for (uint32_t i = 0; i < gang->count; i++) {
        const mq_record_member *m = &record->members[i];
        mq_seat *seat = &gang->seats[i];
        *seat = (mq_seat){.seat = (uint32_t)m->seat,
                          .worker = MQ_NONE,
                          .grant = m->grant,
                          .lease_until_ms = core->now_ms + 2 * (int64_t)job->lease_ms,
                          .phase = MQ_SEAT_ACTIVE,
                          .is_sent = true};
        (void)mq_span_copy(m->worker, seat->uuid, sizeof seat->uuid);
    }
    return true;
}

uint32_t mq_core_members(const mq_core *core, uint32_t slot, uint64_t *gang_epoch,
                         mq_record_member out[MQ_GANG_SEATS_MAX])
{
    if (slot >= core->job_slots.high || !core->jobs[slot].is_used ||
        core->jobs[slot].gang == MQ_NONE) {
        return 0;
    }
    const mq_gang *gang = &core->gangs[core->jobs[slot].gang];
    *gang_epoch = gang->gang_epoch;
    for (uint32_t i = 0; i < gang->count; i++) {
        out[i] = (mq_record_member){gang->seats[i].seat, gang->seats[i].grant,
                                    mq_str(gang->seats[i].uuid)};
    }
    return gang->count;
}
