/* Questions about single jobs: `get` (now, at the end, or after a while), watches and progress.
 * What is in memory is answered from the core, what has ended from the store: a job is in one of
 * the two at any moment, so a get never misses an end. */
#include <stdlib.h>

#include "broker/io/broker.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/heap.h"
#include "shared/base/map.h"
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
    mq_replica_view replicas = {0};
    if (l->b->core != NULL) {
        mq_core_replicas(l->b->core, &replicas);
    }
    bool is_read = code == MQ_OK && mq_job_record_read(packed, &record, &why) == MQ_OK;
    if (is_read && (record.flags & MQ_REC_REPLICATED) != 0 && !replicas.is_loaded) {
        mq_act_error(l->b, l->conn, l->rid, MQ_E_BUSY,
                     "durability replicated: since this broker took over, no replica has confirmed "
                     "what is stored of the job",
                     1000);
    } else if (is_read) {
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

/* Waiting gets of one job are a chain; the map leads from the id (kept in the first of the chain)
 * to it. Deadlines are in a heap, so nothing here grows with the number that wait. */
struct mq_gets {
    mq_map by_id;
    mq_heap timers;
    uint32_t free_head, end;
    mq_get_wait all[MQ_GETS_MAX];
    mq_heap_entry entries[MQ_GETS_MAX];
    uint32_t positions[MQ_GETS_MAX];
};

mq_code mq_gets_new(mq_gets **out, mq_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for waiting gets");
    }
    mq_gets *w = *out;
    w->free_head = MQ_MAP_NONE;
    mq_heap_init(&w->timers, w->entries, w->positions, MQ_GETS_MAX);
    return mq_map_init(&w->by_id, MQ_GETS_MAX, (uint64_t)mq_clock_mono_ns(), err);
}

void mq_gets_free(mq_gets *gets)
{
    if (gets != NULL) {
        mq_map_release(&gets->by_id);
    }
    free(gets);
}

static mq_span id_of(const mq_get_wait *wait)
{
    return mq_span_of(wait->id, wait->id_len);
}

static bool park(mq_broker *b, uint64_t conn, const mq_msg_get *get)
{
    mq_gets *w = b->gets;
    if (b->get_count == MQ_GETS_MAX) {
        return false;
    }
    uint32_t no = w->free_head != MQ_MAP_NONE ? w->free_head : w->end++;
    mq_get_wait *wait = &w->all[no];
    w->free_head = no == w->free_head ? wait->next : w->free_head;
    *wait = (mq_get_wait){.conn = conn,
                          .rid = get->rid,
                          .want_result = get->want_result,
                          .is_used = true,
                          .next = MQ_MAP_NONE};
    bool is_copied = id_copy(get->id, wait->id, &wait->id_len);
    MQ_ASSERT(is_copied);
    uint32_t first = mq_map_find(&w->by_id, get->id);
    if (first == MQ_MAP_NONE) {
        bool is_put = mq_map_put(&w->by_id, id_of(wait), no);
        MQ_ASSERT(is_put);
    } else {
        wait->next = w->all[first].next;
        w->all[first].next = no;
    }
    int64_t wait_ms = (int64_t)mq_min_size(get->wait_ms, WAIT_MS_MAX);
    mq_heap_set(&w->timers, no, mq_clock_mono_ms() + wait_ms);
    b->get_count++;
    return true;
}

static void unpark(mq_broker *b, uint32_t no)
{
    mq_gets *w = b->gets;
    mq_get_wait *wait = &w->all[no];
    uint32_t at = mq_map_find(&w->by_id, id_of(wait));
    if (at == no) {
        (void)mq_map_remove(&w->by_id, id_of(wait));
        if (wait->next != MQ_MAP_NONE) { /* the map's key must be in a wait that stays */
            bool is_put = mq_map_put(&w->by_id, id_of(&w->all[wait->next]), wait->next);
            MQ_ASSERT(is_put);
        }
    } else {
        while (w->all[at].next != no) {
            at = w->all[at].next;
            MQ_ASSERT(at != MQ_MAP_NONE);
        }
        w->all[at].next = wait->next;
    }
    mq_heap_remove(&w->timers, no);
    wait->is_used = false;
    wait->next = w->free_head;
    w->free_head = no;
    b->get_count--;
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
    mq_gets *w = b->gets;
    uint32_t no = mq_map_find(&w->by_id, ended->done.id);
    while (no != MQ_MAP_NONE) {
        uint32_t next = w->all[no].next;
        mq_get_wait copy = w->all[no];
        unpark(b, no);
        send_ended(b, &copy, ended, result);
        no = next;
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
    mq_gets *w = b->gets;
    for (uint32_t no = 0; no < w->end; no++) {
        if (w->all[no].is_used && mq_core_find(b->core, id_of(&w->all[no])) == MQ_CORE_NO_SLOT) {
            mq_heap_set(&w->timers, no, 0); /* due: the next tick looks it up in the store */
        }
    }
}

void mq_gets_tick(mq_broker *b)
{
    mq_gets *w = b->gets;
    int64_t now_ms = mq_clock_mono_ms();
    for (const mq_heap_entry *top = mq_heap_top(&w->timers); top != NULL && top->key <= now_ms;
         top = mq_heap_top(&w->timers)) {
        mq_get_wait copy = w->all[top->id];
        unpark(b, top->id);
        if (!answer_live(b, copy.conn, copy.rid, id_of(&copy), false)) {
            mq_msg_get get = {.rid = copy.rid, .id = id_of(&copy), .want_result = copy.want_result};
            look_up(b, copy.conn, &get);
        }
    }
}

int64_t mq_gets_deadline(const mq_broker *b)
{
    const mq_heap_entry *top = mq_heap_top(&b->gets->timers);
    return top == NULL ? INT64_MAX : top->key;
}

void mq_gets_drop(mq_broker *b, uint64_t conn)
{
    /* Waiting gets of a gone connection end by their own deadline: it is at most half a minute. */
    for (uint32_t i = 0; i < b->watch_end; i++) {
        b->watches[i].id_len = b->watches[i].conn == conn ? 0 : b->watches[i].id_len;
    }
}
