/* Questions about single jobs: `get` (now, at the end, or after a while), watches and progress.
 * What is in memory is answered from the core, what has ended from the store: a job is in one of
 * the two at any moment, so a get never misses an end. */
#include <stdlib.h>

#include "broker/io/broker.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "shared/base/ulid.h"

enum { WAIT_MS_MAX = 30000, TELL_MS = 100 };

static bool id_copy(mq_span id, char out[32], uint8_t *len)
{
    if (id.len == 0 || id.len > 32) {
        return false;
    }
    memcpy(out, id.data, id.len);
    *len = (uint8_t)id.len;
    return true;
}

static void send_not_found(mq_broker *b, uint64_t conn, uint64_t rid, mq_span id,
                           const char *verdict)
{
    mq_msg_state message = {.rid = rid, .verdict = mq_str(verdict), .id = id};
    mq_act_send(b, conn, MQ_CMD_state, &message, (mq_span){0});
}

static void send_record(mq_broker *b, uint64_t conn, uint64_t rid, const mq_job_record *r,
                        mq_span result)
{
    mq_msg_state message = {
        .rid = rid,
        .verdict = mq_str("ok"),
        .id = r->id,
        .kind = r->kind,
        .queue = r->queue,
        .model = r->model,
        .state = r->state,
        .why = r->why,
        .code = r->code,
        .error = r->error,
        .worker = r->worker,
        .progress = mq_curves_last(b->curves, r->id),
        .epoch = r->epoch,
        .grant = r->grant,
        .attempts = r->attempts,
        .crashes = r->crashes,
        .submitted_ms = r->submitted_ms,
        .leased_ms = r->leased_ms,
        .ended_ms = r->ended_ms,
    };
    mq_act_send(b, conn, MQ_CMD_state, &message, result);
}

/* ---- ended jobs: from the store ---- */

typedef struct lookup {
    mq_broker *b;
    uint64_t conn, rid;
    bool want_result;
    uint8_t id_len;
    char id[32];
} lookup;

static void on_job(void *arg, mq_code code, mq_span packed, mq_span result, const mq_error *err)
{
    static mq_job_record record; /* large; one thread */
    lookup *l = arg;
    mq_error why;
    mq_span id = mq_span_of(l->id, l->id_len);
    l->b->lookups--;
    if (code == MQ_OK && mq_job_record_read(packed, &record, &why) == MQ_OK) {
        send_record(l->b, l->conn, l->rid, &record, l->want_result ? result : (mq_span){0});
    } else if (code == MQ_E_NOT_FOUND) {
        send_not_found(l->b, l->conn, l->rid, id, "not_found");
    } else {
        mq_act_error(l->b, l->conn, l->rid, MQ_E_BUSY, code == MQ_OK ? why.text : err->text, 1000);
    }
    free(l);
}

static void look_up(mq_broker *b, uint64_t conn, const mq_msg_get *get)
{
    mq_error err;
    lookup *l = b->lookups < MQ_LOOKUPS_MAX ? malloc(sizeof *l) : NULL;
    if (l == NULL) {
        mq_act_error(b, conn, get->rid, MQ_E_BUSY, "too many look-ups under way", 1000);
        return;
    }
    *l = (lookup){.b = b, .conn = conn, .rid = get->rid, .want_result = get->want_result};
    bool is_copied = id_copy(get->id, l->id, &l->id_len);
    MQ_ASSERT(is_copied);
    b->lookups++;
    mq_code code = mq_asks_job(b->asks, mq_span_of(l->id, l->id_len), on_job, l, &err);
    if (code != MQ_OK) {
        b->lookups--;
        free(l);
        mq_act_error(b, conn, get->rid, MQ_E_BUSY, err.text, 1000);
    }
}

/* ---- live jobs ---- */

static bool park(mq_broker *b, uint64_t conn, const mq_msg_get *get)
{
    uint32_t at = 0;
    if (b->get_count == MQ_GETS_MAX) {
        return false;
    }
    while (at < b->get_end && b->gets[at].is_used) {
        at++;
    }
    mq_get_wait *w = &b->gets[at];
    *w = (mq_get_wait){
        .conn = conn,
        .rid = get->rid,
        .want_result = get->want_result,
        .is_used = true,
        .deadline_ms = mq_clock_mono_ms() +
                       mq_min_i64((int64_t)mq_min_size(get->wait_ms, WAIT_MS_MAX), WAIT_MS_MAX)};
    bool is_copied = id_copy(get->id, w->id, &w->id_len);
    MQ_ASSERT(is_copied);
    b->get_end = at == b->get_end ? at + 1 : b->get_end;
    b->get_count++;
    return true;
}

/* Nothing happens when it is not parked any more: its connection was found gone while answering. */
static void unpark(mq_broker *b, mq_get_wait *w)
{
    if (!w->is_used) {
        return;
    }
    w->is_used = false;
    b->get_count--;
    while (b->get_end > 0 && !b->gets[b->get_end - 1].is_used) {
        b->get_end--;
    }
}

/* Answers from memory when the job is there; false when it is not. */
static bool answer_live(mq_broker *b, uint64_t conn, uint64_t rid, mq_span id, bool may_be_over)
{
    static mq_job_record record;
    uint32_t slot = b->core == NULL ? MQ_CORE_NO_SLOT : mq_core_find(b->core, id);
    if (slot == MQ_CORE_NO_SLOT || !mq_core_record(b->core, slot, &record)) {
        return false;
    }
    if (!may_be_over && mq_state_is_terminal(mq_state_parse(record.state))) {
        return false; /* the store has its result */
    }
    send_record(b, conn, rid, &record, (mq_span){0});
    return true;
}

void mq_gets_ask(mq_broker *b, uint64_t conn, const mq_msg_get *get)
{
    static mq_job_record record;
    uint32_t slot = mq_core_find(b->core, get->id);
    bool is_live = slot != MQ_CORE_NO_SLOT && mq_core_record(b->core, slot, &record) &&
                   !mq_state_is_terminal(mq_state_parse(record.state));
    if (mq_ulid_ms(get->id) < 0) {
        send_not_found(b, conn, get->rid, get->id, "not_found");
    } else if (!is_live) {
        look_up(b, conn, get);
    } else if (get->wait_ms == 0) {
        send_record(b, conn, get->rid, &record, (mq_span){0});
    } else if (!park(b, conn, get)) {
        mq_act_error(b, conn, get->rid, MQ_E_BUSY, "too many waiting gets", 1000);
    }
}

static void send_ended(mq_broker *b, const mq_get_wait *w, const mq_ended *e, mq_span result)
{
    mq_msg_state message = {
        .rid = w->rid,
        .verdict = mq_str("ok"),
        .id = e->done.id,
        .kind = e->kind,
        .queue = e->queue,
        .model = e->model,
        .state = mq_str(mq_state_name(e->state)),
        .why = e->done.why,
        .code = e->done.code,
        .error = e->done.error,
        .worker = e->worker,
        .progress = mq_curves_last(b->curves, e->done.id),
        .attempts = e->done.attempts,
        .submitted_ms = e->submitted_ms,
        .ended_ms = e->ended_ms,
    };
    mq_act_send(b, w->conn, MQ_CMD_state, &message, w->want_result ? result : (mq_span){0});
}

static bool is_job(const char id[32], uint8_t len, mq_span other)
{
    return len > 0 && mq_span_eq(mq_span_of(id, len), other);
}

void mq_gets_ended(mq_broker *b, const mq_ended *ended, mq_span result)
{
    for (uint32_t i = 0; b->get_count > 0 && i < b->get_end; i++) {
        mq_get_wait *w = &b->gets[i];
        if (w->is_used && is_job(w->id, w->id_len, ended->done.id)) {
            send_ended(b, w, ended, result);
            unpark(b, w);
        }
    }
    mq_gets_changed(b, ended->done.id, ended->state);
}

/* ---- watches ---- */

bool mq_gets_watch(mq_broker *b, uint64_t conn, mq_span id)
{
    uint32_t at = 0;
    for (; at < b->watch_end && b->watches[at].id_len > 0; at++) {
        if (b->watches[at].conn == conn && is_job(b->watches[at].id, b->watches[at].id_len, id)) {
            return true;
        }
    }
    if (at == MQ_WATCHES_MAX) {
        return false;
    }
    mq_watch *w = &b->watches[at];
    *w = (mq_watch){.conn = conn};
    if (!id_copy(id, w->id, &w->id_len)) {
        return false;
    }
    b->watch_end = at == b->watch_end ? at + 1 : b->watch_end;
    return true;
}

static void tell(mq_broker *b, mq_watch *w, const mq_msg_event *event)
{
    if (mq_act_send(b, w->conn, MQ_CMD_event, event, (mq_span){0}) == MQ_E_NOT_FOUND) {
        w->id_len = 0;
    }
}

void mq_gets_changed(mq_broker *b, mq_span id, mq_state state)
{
    mq_msg_event event = {.id = id, .state = mq_str(mq_state_name(state))};
    for (uint32_t i = 0; i < b->watch_end; i++) {
        mq_watch *w = &b->watches[i];
        if (is_job(w->id, w->id_len, id)) {
            tell(b, w, &event);
            w->id_len = mq_state_is_terminal(state) ? 0 : w->id_len;
        }
    }
    while (b->watch_end > 0 && b->watches[b->watch_end - 1].id_len == 0) {
        b->watch_end--;
    }
}

void mq_gets_progress(mq_broker *b, mq_span id, mq_span progress, mq_span log)
{
    int64_t now_ms = mq_clock_mono_ms();
    mq_curves_add(b->curves, id, progress, log);
    mq_msg_event event = {.id = id, .progress = progress, .log = log};
    for (uint32_t i = 0; i < b->watch_end; i++) {
        mq_watch *w = &b->watches[i];
        if (is_job(w->id, w->id_len, id) && (log.len > 0 || now_ms >= w->told_ms + TELL_MS)) {
            w->told_ms = now_ms;
            tell(b, w, &event);
        }
    }
}

/* ---- time and gone connections ---- */

void mq_gets_loaded(mq_broker *b)
{
    for (uint32_t i = 0; i < b->get_end; i++) {
        mq_get_wait *w = &b->gets[i];
        if (w->is_used && mq_core_find(b->core, mq_span_of(w->id, w->id_len)) == MQ_CORE_NO_SLOT) {
            w->deadline_ms = 0; /* due: the next tick looks it up in the store */
        }
    }
}

void mq_gets_tick(mq_broker *b)
{
    int64_t now_ms = mq_clock_mono_ms();
    for (uint32_t i = 0; i < b->get_end; i++) {
        mq_get_wait *w = &b->gets[i];
        if (!w->is_used || now_ms < w->deadline_ms) {
            continue;
        }
        mq_get_wait copy = *w;
        mq_span id = mq_span_of(copy.id, copy.id_len);
        unpark(b, w);
        if (!answer_live(b, copy.conn, copy.rid, id, false)) {
            mq_msg_get get = {.rid = copy.rid, .id = id, .want_result = copy.want_result};
            look_up(b, copy.conn, &get);
        }
    }
}

int64_t mq_gets_deadline(const mq_broker *b)
{
    int64_t least_ms = INT64_MAX;
    for (uint32_t i = 0; i < b->get_end; i++) {
        if (b->gets[i].is_used) {
            least_ms = mq_min_i64(least_ms, b->gets[i].deadline_ms);
        }
    }
    return least_ms;
}

void mq_gets_drop(mq_broker *b, uint64_t conn)
{
    for (uint32_t i = 0; i < b->get_end; i++) {
        if (b->gets[i].is_used && b->gets[i].conn == conn) {
            unpark(b, &b->gets[i]);
        }
    }
    for (uint32_t i = 0; i < b->watch_end; i++) {
        b->watches[i].id_len = b->watches[i].conn == conn ? 0 : b->watches[i].id_len;
    }
}
