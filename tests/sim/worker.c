/* The worker's shell: what worker/io does around a session, with slots that compute nothing but
 * take the time, fail and die as their job's plan says. */
#include "tests/sim/sim.h"

static void flush(sim *s, sim_worker *w);

static uint32_t party_of(const sim_worker *w)
{
    return sim_party_worker(w->no);
}

static void wake(sim *s, sim_worker *w, int64_t at_ms);

/* ---- messages out ---- */

static bool send(sim *s, sim_worker *w, mq_command command, const void *m, mq_span payload)
{
    return sim_send(s, s->parties[party_of(w)].conn, false, command, m, payload) == MQ_OK;
}

static void send_ready(sim *s, sim_worker *w)
{
    static mq_span kinds[] = {
        {(const uint8_t *)"echo", 4}, {(const uint8_t *)"train", 5}, {(const uint8_t *)"infer", 5}};
    static mq_msg_held held[MQ_WS_JOBS_MAX];
    static uint32_t jobs[MQ_WS_JOBS_MAX];
    mq_msg_ready m = {.worker = mq_str(w->uuid),
                      .name = mq_str("w"),
                      .host = mq_str("h"),
                      .fingerprint = mq_str("fp"),
                      .gang_unix = mq_str("/g"),
                      .gang_tcp = mq_str("tcp://g"),
                      .slots = s->slot_count,
                      .kinds = kinds,
                      .kinds_count = 3,
                      .held = held,
                      .held_count = mq_ws_held(&w->session, held, jobs)};
    (void)send(s, w, MQ_CMD_ready, &m, (mq_span){0});
}

static void send_beat(sim *s, sim_worker *w)
{
    static mq_msg_held held[MQ_WS_JOBS_MAX];
    static uint32_t jobs[MQ_WS_JOBS_MAX];
    mq_msg_beat m = {.worker = mq_str(w->uuid),
                     .seq = w->session.seq,
                     .free = w->session.free_told,
                     .jobs_seen = w->session.jobs_seen,
                     .is_draining = w->session.is_draining,
                     .jobs = held,
                     .jobs_count = mq_ws_held(&w->session, held, jobs)};
    (void)send(s, w, MQ_CMD_beat, &m, (mq_span){0});
}

static void add_effects(sim *s, const sim_job *job, mq_msg_result_item *item, mq_msg_spawned *spawn,
                        mq_msg_published *publish)
{
    static mq_span blob = {
        (const uint8_t *)"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 64};
    for (uint32_t i = 0; i < job->spawn_count; i++) {
        sim_job *child = &s->jobs[job->spawns[i]];
        child->is_made = true;
        spawn[i] = (mq_msg_spawned){
            .id = mq_str(child->id), .kind = mq_str(child->kind), .body = mq_str(child->body)};
    }
    item->spawn = spawn;
    item->spawn_count = job->spawn_count;
    if (job->does_publish) {
        *publish =
            (mq_msg_published){.type = mq_str("model"), .name = mq_str("m"), .meta = mq_str("{}")};
        item->publish = publish;
        item->publish_count = 1;
    }
    if (job->has_blob) {
        item->blobs = &blob;
        item->blobs_count = 1;
    }
}

static void send_result(sim *s, sim_worker *w, uint32_t index, int64_t now_ms)
{
    const mq_ws_job *job = &w->session.jobs[index];
    const sim_kept *kept = &w->kept[index];
    mq_msg_spawned spawn[SIM_SPAWNS];
    mq_msg_published publish;
    mq_msg_result_item item = {.id = mq_str(job->id),
                               .epoch = job->epoch,
                               .grant = job->grant,
                               .class = mq_str(mq_ws_class_name(job->class)),
                               .code = mq_str(mq_code_name(job->error.code)),
                               .error = mq_str(job->error.text),
                               .run_us = job->run_us};
    const char *older = "of an older owner";
    mq_span payload = {0};
    if (job->class == MQ_WS_CLASS_OK && !kept->is_empty) {
        payload = mq_str(kept->result);
        item.len = payload.len;
        if (!job->is_transient) {
            add_effects(s, &s->jobs[kept->job], &item, spawn, &publish);
        }
    }
    mq_msg_result m = {.worker = mq_str(w->uuid), .jobs = &item, .jobs_count = 1};
    if (payload.len > 0 && job->epoch > 1 && !kept->is_gang && !job->is_transient &&
        sim_fault_now(s, SIM_F_STALE)) { /* each owner counts its grants anew, so numbers meet */
        item.epoch--;
        item.len = strlen(older);
        (void)send(s, w, MQ_CMD_result, &m, mq_str(older));
        item.epoch++;
        item.len = payload.len;
    }
    sim_trace(s, "worker %u sends result %s of %s %llu.%llu", w->no, mq_ws_class_name(job->class),
              job->id, (unsigned long long)job->epoch, (unsigned long long)job->grant);
    if (!send(s, w, MQ_CMD_result, &m, payload)) {
        mq_ws_on_unsent(&w->session, index, now_ms);
    }
}

/* ---- slots ---- */

static void slot_up(sim *s, sim_event *e)
{
    sim_worker *w = &s->workers[e->party - SIM_BROKERS];
    sim_slot *slot = &w->slots[e->a];
    if (!slot->is_up) {
        slot->is_up = true;
        mq_ws_on_slot_ready(&w->session, (uint32_t)e->a, s->now_ms, &w->actions);
        flush(s, w);
    }
}

static void slot_died(sim *s, sim_worker *w, uint32_t no, bool has_begun)
{
    w->slots[no] = (sim_slot){.run = w->slots[no].run + 1};
    mq_ws_on_slot_dead(&w->session, no, mq_str("signal 11"), has_begun, s->now_ms, &w->actions);
    sim_at(s, s->now_ms + 5 + (int64_t)sim_draw(s, 100), slot_up, party_of(w), no, NULL);
}

static void slot_next(sim *s, sim_worker *w, uint32_t no);

/* What a run comes to. a: run << 8 | slot. */
static void slot_end(sim *s, sim_event *e)
{
    sim_worker *w = &s->workers[e->party - SIM_BROKERS];
    uint32_t no = (uint32_t)(e->a & 255);
    sim_slot *slot = &w->slots[no];
    if (!slot->is_up || !slot->is_busy || slot->run != e->a >> 8) {
        return;
    }
    sim_kept *kept = &w->kept[slot->job];
    const sim_job *job = &s->jobs[kept->job];
    mq_error error = {.code = MQ_OK};
    if (slot->is_cancelled && sim_draw(s, 3) > 0) {
        (void)mq_fail(&error, MQ_E_CANCELLED, "stopped as asked");
    } else if (job->outcome == SIM_POISON || sim_fault_now(s, SIM_F_SLOT_CRASH)) {
        slot_died(s, w, no, job->outcome == SIM_POISON || sim_draw(s, 3) > 0);
        flush(s, w);
        return;
    } else if (job->outcome == SIM_FATAL) {
        (void)mq_fail(&error, MQ_E_ARG, "the input is wrong");
    } else if (kept->attempt <= job->failures) {
        (void)mq_fail(&error, MQ_E_IO, "attempt %u fails as planned", kept->attempt);
    } else {
        kept->is_empty = kept->is_gang && !kept->is_lead;
        char text[sizeof kept->result];
        (void)snprintf(text, sizeof text, "%llu.%llu.%s", (unsigned long long)kept->epoch,
                       (unsigned long long)kept->grant, w->uuid);
        memcpy(kept->result, text, sizeof text);
    }
    slot_next(s, w, no);
    /* In every other life jobs say that they were quick: what is done for such jobs then meets ones
     * that are not, too. */
    uint64_t run_us = s->seed % 2 == 0 ? (uint64_t)job->run_ms * 1000 : (uint64_t)job->run_ms / 10;
    mq_ws_on_ended(&w->session, no, &error, run_us, 100, s->now_ms, &w->actions);
    flush(s, w);
}

static void slot_killed(sim *s, sim_event *e)
{
    sim_worker *w = &s->workers[e->party - SIM_BROKERS];
    uint32_t no = (uint32_t)(e->a & 255);
    if (w->slots[no].is_up && w->slots[no].run == e->a >> 8) {
        slot_died(s, w, no, true);
        flush(s, w);
    }
}

/* The lead of a gang offers the state of a step; a: run << 8 | slot. */
static void checkpoint(sim *s, sim_event *e)
{
    sim_worker *w = &s->workers[e->party - SIM_BROKERS];
    sim_slot *slot = &w->slots[e->a & 255];
    if (!slot->is_up || !slot->is_busy || slot->run != e->a >> 8) {
        return;
    }
    sim_kept *kept = &w->kept[slot->job];
    if (kept->is_lead) {
        char blob[65];
        (void)snprintf(blob, sizeof blob, "%064llx", (unsigned long long)sim_draw(s, UINT64_MAX));
        mq_msg_checkpoint m = {.id = mq_str(kept->id),
                               .epoch = kept->epoch,
                               .grant = kept->grant,
                               .gang_epoch = kept->gang_epoch,
                               .step = ++kept->step,
                               .blob = mq_str(blob)};
        (void)send(s, w, MQ_CMD_checkpoint, &m, (mq_span){0});
    }
    sim_at(s, s->now_ms + 200 + (int64_t)sim_draw(s, 500), checkpoint, party_of(w), e->a, NULL);
}

/* The slot takes the next of the jobs that it was given. */
static void slot_begin(sim *s, sim_worker *w, uint32_t no)
{
    sim_slot *slot = &w->slots[no];
    uint32_t index = slot->queue[0];
    sim_kept *kept = &w->kept[index];
    const sim_job *job = &s->jobs[kept->job];
    memmove(slot->queue, slot->queue + 1, --slot->queue_count * sizeof slot->queue[0]);
    slot->is_busy = true;
    slot->is_cancelled = false;
    slot->job = index;
    slot->run++;
    slot->is_stubborn = job->outcome == SIM_HANG && sim_draw(s, 2) == 0;
    uint64_t run = slot->run << 8 | no;
    sim_trace(s, "worker %u slot %u starts %s", w->no, no, kept->id);
    bool does_hang = job->outcome == SIM_HANG && kept->attempt <= 1;
    if (!does_hang) {
        int64_t ms = 1 + job->run_ms / 2 + (int64_t)sim_draw(s, (uint64_t)job->run_ms + 1);
        sim_at(s, s->now_ms + ms, slot_end, party_of(w), run, NULL);
    }
    if (kept->is_gang) {
        sim_at(s, s->now_ms + 100, checkpoint, party_of(w), run, NULL);
    }
}

static void slot_next(sim *s, sim_worker *w, uint32_t no)
{
    sim_slot *slot = &w->slots[no];
    slot->is_busy = slot->is_cancelled = false;
    slot->run++;
    if (slot->queue_count > 0) {
        slot_begin(s, w, no);
    }
}

static void slot_start(sim *s, sim_worker *w, uint32_t index, uint32_t no)
{
    sim_slot *slot = &w->slots[no];
    const sim_kept *kept = &w->kept[index];
    SIM_CHECK(s, slot->is_up && slot->queue_count < MQ_WS_HAND_MAX,
              "worker %u: slot %u cannot take a job", w->no, no);
    SIM_CHECK(s, kept->is_used && strcmp(kept->id, w->session.jobs[index].id) == 0,
              "worker %u starts a job whose body it does not have", w->no);
    slot->queue[slot->queue_count++] = index;
    if (!slot->is_busy) {
        slot_begin(s, w, no);
    }
}

/* Takes a job back that the slot has not begun. */
static void slot_recall(sim_worker *w, uint32_t index, uint32_t no)
{
    sim_slot *slot = &w->slots[no];
    for (uint32_t i = 0; i < slot->queue_count; i++) {
        if (slot->queue[i] == index) {
            memmove(slot->queue + i, slot->queue + i + 1,
                    (--slot->queue_count - i) * sizeof slot->queue[0]);
            mq_ws_on_recalled(&w->session, index, &w->actions);
            return;
        }
    }
}

static void slot_cancel(sim *s, sim_worker *w, uint32_t no)
{
    sim_slot *slot = &w->slots[no];
    slot->is_cancelled = true;
    if (!slot->is_stubborn) {
        sim_at(s, s->now_ms + (int64_t)sim_draw(s, 100), slot_end, party_of(w), slot->run << 8 | no,
               NULL);
    }
}

static void uploaded(sim *s, sim_event *e)
{
    sim_worker *w = &s->workers[e->party - SIM_BROKERS];
    mq_ws_on_uploaded(&w->session, (uint32_t)e->a, sim_draw(s, 5) > 0, s->now_ms);
    flush(s, w);
}

/* ---- the session's actions ---- */

static void left(sim *s, sim_event *e)
{
    sim_worker *w = &s->workers[e->party - SIM_BROKERS];
    sim_worker_stop(s, w);
    s->parties[party_of(w)].life++; /* a new process */
    sim_worker_start(s, w);
}

static void act(sim *s, sim_worker *w, const mq_ws_action *a)
{
    switch ((int)a->type) {
    case MQ_WS_CONNECT:
        sim_connect(s, party_of(w), a->index);
        break;
    case MQ_WS_SEND_HELLO: {
        mq_msg_hello m = {.role = mq_str("worker"),
                          .version_min = MQ_WIRE_VERSION,
                          .version_max = MQ_WIRE_VERSION};
        (void)send(s, w, MQ_CMD_hello, &m, (mq_span){0});
        break;
    }
    case MQ_WS_SEND_READY:
        send_ready(s, w);
        break;
    case MQ_WS_SEND_BEAT:
        send_beat(s, w);
        break;
    case MQ_WS_SEND_CREDIT: {
        mq_msg_credit m = {.worker = mq_str(w->uuid),
                           .seq = w->session.seq,
                           .free = w->session.free_told,
                           .jobs_seen = w->session.jobs_seen};
        (void)send(s, w, MQ_CMD_credit, &m, (mq_span){0});
        break;
    }
    case MQ_WS_SEND_RESULT:
        send_result(s, w, a->index, s->now_ms);
        break;
    case MQ_WS_SEND_BYE: {
        mq_msg_bye m = {.worker = mq_str(w->uuid)};
        (void)send(s, w, MQ_CMD_bye, &m, (mq_span){0});
        break;
    }
    case MQ_WS_START:
        slot_start(s, w, a->index, a->slot);
        break;
    case MQ_WS_RECALL:
        slot_recall(w, a->index, a->slot);
        break;
    case MQ_WS_CANCEL:
        slot_cancel(s, w, a->slot);
        break;
    case MQ_WS_KILL:
        sim_at(s, s->now_ms + 1 + (int64_t)sim_draw(s, 20), slot_killed, party_of(w),
               w->slots[a->slot].run << 8 | a->slot, NULL);
        break;
    case MQ_WS_UPLOAD:
        sim_at(s, s->now_ms + (int64_t)sim_draw(s, 500), uploaded, party_of(w), a->index, NULL);
        break;
    case MQ_WS_FORGET:
        w->kept[a->index].is_used = false;
        break;
    case MQ_WS_EXIT:
        sim_trace(s, "worker %u leaves", w->no);
        sim_at(s, s->now_ms, left, party_of(w), 0, NULL);
        break;
    case MQ_WS_ACCEPT: /* done where the message is at hand */
        break;
    }
}

static void act_all(sim *s, sim_worker *w)
{
    for (uint32_t i = 0; i < w->actions.count; i++) {
        act(s, w, &w->actions.at[i]);
    }
    w->actions.count = 0;
}

static void flush(sim *s, sim_worker *w)
{
    act_all(s, w);
    mq_ws_flush(&w->session, s->now_ms, &w->actions);
    act_all(s, w);
    int64_t at_ms = mq_ws_deadline(&w->session, s->now_ms);
    wake(s, w, mq_max_i64(at_ms, s->now_ms + 1));
}

static void turn(sim *s, sim_event *e)
{
    sim_worker *w = &s->workers[e->party - SIM_BROKERS];
    if (e->a == w->wake) {
        w->wake_ms = INT64_MAX;
        flush(s, w);
    }
}

static void wake(sim *s, sim_worker *w, int64_t at_ms)
{
    if (at_ms < w->wake_ms) {
        w->wake_ms = at_ms;
        sim_at(s, at_ms, turn, party_of(w), ++w->wake, NULL);
    }
}

/* ---- messages in ---- */

static void keep(sim *s, sim_worker *w, uint32_t index, const mq_msg_job_item *it, mq_span body)
{
    sim_kept *kept = &w->kept[index];
    uint32_t job = sim_job_find(s, it->id);
    SIM_CHECK(s, job != SIM_NONE, "worker %u: a job that nobody made", w->no);
    SIM_CHECK(s, mq_span_is(body, s->jobs[job].body), "job %s came with the body %.*s",
              s->jobs[job].id, MQ_SPAN_ARG(body));
    *kept = (sim_kept){.is_used = true,
                       .is_gang = it->members_count > 0,
                       .job = job,
                       .attempt = (uint32_t)it->attempt,
                       .epoch = it->epoch,
                       .grant = it->grant,
                       .gang_epoch = it->gang_epoch,
                       .seat = it->seat,
                       .step = it->step};
    kept->is_lead = it->members_count > 0 && it->members[0].seat == it->seat;
    (void)mq_span_copy(it->id, kept->id, sizeof kept->id);
}

static void on_job(sim *s, sim_worker *w, const sim_message *in, const mq_msg_job *m)
{
    size_t at = in->header_len;
    mq_ws_on_job(&w->session, m, s->now_ms, &w->actions);
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        mq_span body = mq_span_of(in->bytes + at, m->jobs[i].len);
        at += m->jobs[i].len;
        for (uint32_t k = 0; k < w->actions.count; k++) {
            const mq_ws_action *a = &w->actions.at[k];
            if (a->type == MQ_WS_ACCEPT && a->item == i) {
                keep(s, w, a->index, &m->jobs[i], body);
            }
        }
    }
}

static void on_verdict(sim *s, sim_worker *w, const sim_message *in, const mq_msg_verdict *m)
{
    for (uint32_t i = 0; i < m->verdicts_count; i++) {
        const mq_msg_held_verdict *v = &m->verdicts[i];
        uint32_t index = mq_ws_find(&w->session, v->id, v->epoch, v->grant);
        if (index != UINT32_MAX) {
            sim_check_verdict(s, w, v, &w->session.jobs[index], in->sent_ms);
        }
    }
    mq_ws_on_verdict(&w->session, m, s->now_ms, &w->actions);
}

static void on_roster(sim *s, sim_worker *w, const mq_msg_roster *m)
{
    uint32_t index = mq_ws_find(&w->session, m->id, m->epoch, m->grant);
    mq_ws_on_other(&w->session, s->now_ms);
    if (index != UINT32_MAX && w->kept[index].is_used && m->members_count > 0 &&
        m->gang_epoch > w->kept[index].gang_epoch) {
        w->kept[index].gang_epoch = m->gang_epoch;
        w->kept[index].is_lead = m->members[0].seat == w->kept[index].seat;
    }
}

void sim_worker_receive(sim *s, sim_worker *w, const sim_message *in)
{
    union {
        mq_msg_welcome welcome;
        mq_msg_error error;
        mq_msg_registered registered;
        mq_msg_job job;
        mq_msg_beaten beaten;
        mq_msg_verdict verdict;
        mq_msg_roster roster;
        mq_msg_drain drain;
        mq_msg_checkpointed checkpointed;
    } any;
    mq_error err = {0};
    mq_arena_reset(&s->arena);
    mq_code code =
        mq_wire_decode(in->command, mq_span_of(in->bytes, in->header_len), &any, &s->arena, &err);
    SIM_CHECK(s, code == MQ_OK, "message %s: %s", mq_command_name(in->command), err.text);
    switch ((int)in->command) {
    case MQ_CMD_welcome:
        mq_ws_on_welcome(&w->session, &any.welcome, s->now_ms, &w->actions);
        break;
    case MQ_CMD_error:
        mq_ws_on_error(&w->session, &any.error, s->now_ms, &w->actions);
        break;
    case MQ_CMD_registered:
        mq_ws_on_registered(&w->session, &any.registered, s->now_ms, &w->actions);
        break;
    case MQ_CMD_job:
        on_job(s, w, in, &any.job);
        break;
    case MQ_CMD_beaten:
        mq_ws_on_beaten(&w->session, &any.beaten, s->now_ms, &w->actions);
        break;
    case MQ_CMD_verdict:
        on_verdict(s, w, in, &any.verdict);
        break;
    case MQ_CMD_roster:
        on_roster(s, w, &any.roster);
        break;
    case MQ_CMD_drain:
        mq_ws_drain(&w->session, (int64_t)any.drain.deadline_ms, s->now_ms);
        break;
    default:
        mq_ws_on_other(&w->session, s->now_ms);
        break;
    }
    act_all(s, w); /* they may borrow from the message */
    wake(s, w, s->now_ms + (int64_t)sim_draw(s, 3));
}

void sim_worker_link(sim *s, sim_worker *w, bool is_up)
{
    if (is_up) {
        mq_ws_on_link_up(&w->session, s->now_ms);
    } else {
        mq_ws_on_link_down(&w->session, s->now_ms);
    }
    wake(s, w, s->now_ms);
}

/* ---- life ---- */

void sim_worker_start(sim *s, sim_worker *w)
{
    uint32_t no = (uint32_t)(w - s->workers);
    uint64_t wakes = w->wake;
    memset(w, 0, sizeof *w);
    w->no = no;
    w->wake = wakes + 1;
    w->wake_ms = INT64_MAX;
    (void)snprintf(w->uuid, sizeof w->uuid, "%016llx%016llx",
                   (unsigned long long)++s->worker_starts, (unsigned long long)no);
    mq_ws_config config = {.broker_count = s->broker_count,
                           .slot_count = s->slot_count,
                           .prefetch = s->prefetch,
                           .hand = s->hand,
                           .drain_ms = 5000,
                           .seed = sim_draw(s, UINT64_MAX)};
    mq_ws_init(&w->session, &config, s->now_ms);
    w->session.broker = (uint32_t)sim_draw(s, s->broker_count);
    for (uint32_t i = 0; i < s->slot_count; i++) {
        sim_at(s, s->now_ms + 1 + (int64_t)sim_draw(s, 100), slot_up, party_of(w), i, NULL);
    }
    wake(s, w, s->now_ms);
}

void sim_worker_stop(sim *s, sim_worker *w)
{
    sim_break_all_of(s, party_of(w));
    s->parties[party_of(w)].conn = 0;
}
