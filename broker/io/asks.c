/* Questions to the store; see asks.h. Knows nothing of what the answers are for. */
#include "broker/io/asks.h"

#include <stdlib.h>

#include "shared/base/assert.h"

/* One question; in the waiting list, then part of a call. */
typedef struct ask {
    struct ask *next;
    mq_asks_on_body *on_body; /* exactly one of the two is set */
    mq_store_on_job *on_job;
    void *arg;
    bool is_answered;
    uint8_t id_len;
    char id[32];
} ask;

typedef struct ask_list {
    ask *head, **tail;
} ask_list;

struct mq_asks {
    mq_store *store;
    ask_list bodies, jobs;
    uint32_t count, inflight;
};

/* A call under way: its questions in a row. */
typedef struct call {
    mq_asks *asks;
    uint32_t count;
    ask *all[MQ_ASKS_BODIES_MAX];
} call;

mq_code mq_asks_new(mq_asks **out, mq_store *store, mq_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for questions to the store");
    }
    (*out)->store = store;
    (*out)->bodies.tail = &(*out)->bodies.head;
    (*out)->jobs.tail = &(*out)->jobs.head;
    return MQ_OK;
}

static ask *pop(ask_list *list)
{
    ask *a = list->head;
    if (a != NULL) {
        list->head = a->next;
        list->tail = list->head == NULL ? &list->head : list->tail;
    }
    return a;
}

static mq_code add(mq_asks *asks, ask_list *list, mq_span id, const ask *model, mq_error *err)
{
    if (id.len == 0 || id.len > sizeof model->id) {
        return mq_fail(err, MQ_E_ARG, "id: %zu bytes, outside 1..%zu", id.len, sizeof model->id);
    }
    ask *a = asks->count < MQ_ASKS_MAX ? malloc(sizeof *a) : NULL;
    if (a == NULL) {
        return mq_fail(err, MQ_E_BUSY, "%u questions wait for the store already", asks->count);
    }
    *a = *model;
    memcpy(a->id, id.data, id.len);
    a->id_len = (uint8_t)id.len;
    *list->tail = a;
    list->tail = &a->next;
    asks->count++;
    return MQ_OK;
}

mq_code mq_asks_body(mq_asks *asks, mq_span id, mq_asks_on_body *on_body, void *arg, mq_error *err)
{
    return add(asks, &asks->bodies, id, &(ask){.on_body = on_body, .arg = arg}, err);
}

mq_code mq_asks_job(mq_asks *asks, mq_span id, mq_store_on_job *on_job, void *arg, mq_error *err)
{
    return add(asks, &asks->jobs, id, &(ask){.on_job = on_job, .arg = arg}, err);
}

static void answer_body(ask *a, mq_code code, mq_span body)
{
    a->is_answered = true;
    a->on_body(a->arg, code, mq_span_of(a->id, a->id_len), body);
}

static void call_end(call *c)
{
    for (uint32_t i = 0; i < c->count; i++) {
        free(c->all[i]);
    }
    c->asks->count -= c->count;
    c->asks->inflight--;
    free(c);
}

static void on_bodies(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    call *c = arg;
    (void)err;
    bool is_end = code != MQ_OK || field.data == NULL;
    for (uint32_t i = 0; i < c->count; i++) {
        ask *a = c->all[i];
        if (a->is_answered) {
            continue;
        }
        if (is_end) {
            answer_body(a, code, (mq_span){0});
        } else if (mq_span_eq(field, mq_span_of(a->id, a->id_len))) {
            answer_body(a, MQ_OK, value);
        }
    }
    if (is_end) {
        call_end(c);
    }
}

static void on_job(void *arg, mq_code code, mq_span record, mq_span result, const mq_error *err)
{
    call *c = arg;
    c->all[0]->on_job(c->all[0]->arg, code, record, result, err);
    call_end(c);
}

static call *call_new(mq_asks *asks, ask_list *list, uint32_t most)
{
    call *c = calloc(1, sizeof *c);
    MQ_ASSERT(c != NULL);
    c->asks = asks;
    while (c->count < most && list->head != NULL) {
        c->all[c->count++] = pop(list);
    }
    asks->inflight++;
    return c;
}

/* The call cannot be made: every question of it is answered with that. */
static void fail_call(call *c, mq_code code, const mq_error *err)
{
    if (c->all[0]->on_job != NULL) {
        on_job(c, code, (mq_span){0}, (mq_span){0}, err);
    } else {
        on_bodies(c, code, (mq_span){0}, (mq_span){0}, err);
    }
}

/* The store takes no more calls for now: the questions wait on, in their places. */
static void put_back(call *c, ask_list *list)
{
    while (c->count > 0) {
        ask *a = c->all[--c->count];
        a->next = list->head;
        list->tail = list->head == NULL ? &a->next : list->tail;
        list->head = a;
    }
    c->asks->inflight--;
    free(c);
}

static mq_code ask_bodies(mq_asks *asks, call *c, mq_error *err)
{
    mq_span ids[MQ_ASKS_BODIES_MAX];
    for (uint32_t i = 0; i < c->count; i++) {
        ids[i] = mq_span_of(c->all[i]->id, c->all[i]->id_len);
    }
    return asks->store->ops->bodies(asks->store, ids, c->count, on_bodies, c, err);
}

void mq_asks_turn(mq_asks *asks)
{
    mq_error err;
    mq_code code = MQ_OK;
    while (code == MQ_OK && asks->inflight < MQ_ASKS_INFLIGHT_MAX &&
           (asks->bodies.head != NULL || asks->jobs.head != NULL)) {
        bool is_bodies = asks->bodies.head != NULL;
        ask_list *list = is_bodies ? &asks->bodies : &asks->jobs;
        call *c = call_new(asks, list, is_bodies ? MQ_ASKS_BODIES_MAX : 1);
        mq_span id = mq_span_of(c->all[0]->id, c->all[0]->id_len);
        code = is_bodies ? ask_bodies(asks, c, &err)
                         : asks->store->ops->job(asks->store, id, on_job, c, &err);
        if (code == MQ_E_BUSY) {
            put_back(c, list);
        } else if (code != MQ_OK) { /* then no more in this turn: the asker may ask again at once */
            fail_call(c, code, &err);
        }
    }
}

void mq_asks_free(mq_asks *asks)
{
    mq_error err;
    if (asks == NULL) {
        return;
    }
    mq_fail(&err, MQ_E_CANCELLED, "the broker stops");
    while (asks->bodies.head != NULL) {
        fail_call(call_new(asks, &asks->bodies, MQ_ASKS_BODIES_MAX), MQ_E_CANCELLED, &err);
    }
    while (asks->jobs.head != NULL) {
        fail_call(call_new(asks, &asks->jobs, 1), MQ_E_CANCELLED, &err);
    }
    free(asks);
}
