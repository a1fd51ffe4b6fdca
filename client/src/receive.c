/* Messages from the broker: checks them, tells the core, completes what has ended. A message that
 * does not decode is dropped: the core asks again. Must not know sockets. */
#include <stdio.h>
#include <stdlib.h>

#include "client/src/client.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"

/* A verdict's text as a code: "ok" and "dup" are both success. */
static mq_code verdict_of(mq_span text)
{
    if (mq_span_is(text, "ok") || mq_span_is(text, "dup")) {
        return MQ_OK;
    }
    return mq_code_parse((const char *)text.data, text.len);
}

static void on_welcome(maasq_client *client, int64_t now_ms, mq_msg_welcome *m, mq_span payload)
{
    (void)payload;
    if (!client->is_welcome) {
        client->route_epoch = mq_client_routes_epoch(client);
    }
    client->is_welcome = true;
    client->was_welcome = true;
    (void)mq_span_copy(m->blobs, client->welcome_blobs, sizeof client->welcome_blobs);
    client->shard_count =
        m->shards == 0 || m->shards > MQ_ULID_SHARDS_MAX ? 1 : (uint32_t)m->shards;
    if (client->core.is_held && client->shard_count == 1) {
        mq_ccore_hold(&client->core, now_ms, false);
    }
    client->must_move = client->core.is_held;
    client->again_ms = 0;
    client->clock_ahead_ms = m->now_ms == 0 ? 0 : m->now_ms - mq_clock_wall_ms();
}

/* The owner of what was asked for is elsewhere; its text is the endpoint to go to. */
static void on_moved(maasq_client *client, mq_span text)
{
    char url[MQ_CLIENT_URL_MAX];
    bool is_url = text.len > 6 &&
                  (memcmp(text.data, "tcp://", 6) == 0 || memcmp(text.data, "ipc://", 6) == 0);
    if (is_url && mq_span_copy(text, url, sizeof url)) {
        memcpy(client->moved_to, url, sizeof url);
        mq_io_reconnect(client);
        mq_ccore_unlinked(&client->core, mq_clock_mono_ms());
    }
}

/* A broker that was not in the list may be the one that is left one day. */
static void learn(maasq_client *client, mq_span url)
{
    bool is_known = client->broker_count == MQ_CLIENT_BROKERS_MAX || url.len >= MQ_CLIENT_URL_MAX;
    for (uint32_t i = 0; i < client->broker_count; i++) {
        is_known |= mq_span_is(url, client->brokers[i]);
    }
    if (!is_known) {
        (void)mq_span_copy(url, client->brokers[client->broker_count++], MQ_CLIENT_URL_MAX);
    }
}

void mq_client_follow_routes(maasq_client *client)
{
    char url[MQ_CLIENT_URL_MAX];
    if (mq_client_routes_follow(client, url)) {
        on_moved(client, mq_str(url));
    }
}

/* This shard, or another one's client, may have to go to another broker. */
static void on_routes(maasq_client *client, int64_t now_ms, mq_msg_routes *m, mq_span payload)
{
    (void)payload;
    (void)now_ms;
    for (uint32_t i = 0; i < m->routes_count; i++) {
        if (m->routes[i].endpoint.len > 6) {
            learn(client, m->routes[i].endpoint);
        }
    }
    mq_client_routes_learn(client, m);
    mq_client_follow_routes(client);
}

static void end_call(maasq_client *client, uint32_t slot, mq_code code, mq_span text, mq_span json)
{
    mq_call *call = client->slots[slot].call;
    client->slots[slot].call = NULL;
    if (call == NULL) {
        return;
    }
    call->is_done = true;
    call->code = -(int)code;
    (void)mq_span_copy(text, call->text, sizeof call->text);
    if (code == MQ_OK && call->command == MQ_CMD_query) {
        call->json = malloc(json.len + 1);
        if (call->json == NULL) {
            call->code = MAASQ_E_LIMIT;
            return;
        }
        (void)mq_span_copy(json, call->json, json.len + 1);
    }
}

static void on_error(maasq_client *client, int64_t now_ms, mq_msg_error *m, mq_span payload)
{
    (void)payload;
    mq_code code = mq_code_parse((const char *)m->code.data, m->code.len);
    /* A broker that cannot serve says busy: another one may be able to, so that counts as silence.
     */
    if (code != MQ_E_BUSY) {
        mq_ccore_heard(&client->core, now_ms);
    }
    client->refusal.code = code;
    (void)mq_span_copy(m->text, client->refusal.text, sizeof client->refusal.text);
    uint32_t slot = mq_ccore_error(&client->core, now_ms, m->rid, code, m->retry_ms);
    if (slot != MQ_CCORE_NONE) {
        end_call(client, slot, code, m->text, (mq_span){0});
    }
    if (code == MQ_E_MOVED) {
        on_moved(client, m->text);
    } else if (code == MQ_E_BUSY && m->rid == 0 && m->retry_ms > 0) {
        client->again_ms = now_ms + (int64_t)(m->retry_ms < 5000 ? m->retry_ms : 5000);
    }
}

static void on_submitted(maasq_client *client, int64_t now_ms, mq_msg_submitted *m, mq_span payload)
{
    (void)payload;
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        const mq_msg_submitted_job *j = &m->jobs[i];
        mq_code verdict = j->live.len > 0 ? MQ_E_EXISTS : verdict_of(j->verdict);
        bool is_ended = false;
        (void)mq_job_state(j->state, &is_ended);
        uint32_t accepted = MQ_CCORE_NONE;
        uint32_t before = mq_ccore_find(&client->core, j->id);
        uint32_t sends = before == MQ_CCORE_NONE ? 0 : client->core.entries[before].sends;
        uint32_t slot = mq_ccore_submitted(&client->core, now_ms, j->id, verdict, j->retry_ms,
                                           is_ended, &accepted);
        (void)mq_span_copy(verdict == MQ_E_BUSY ? j->text : mq_str(""), client->busy,
                           sizeof client->busy);
        if (slot != MQ_CCORE_NONE) {
            mq_job_end(client, slot,
                       &(mq_end){.state = "lost",
                                 .code = verdict,
                                 .error = j->text.len > 0 ? j->text : j->verdict,
                                 .why = mq_str(j->live.len > 0 ? "unique" : "refused"),
                                 .other = j->live,
                                 .sends = sends});
        }
        if (accepted != MQ_CCORE_NONE) {
            mq_job_accepted(client, accepted);
        }
    }
}

/* Code of a job's end: an ended job that did not succeed always has one. */
static mq_code end_code(const char *state, mq_span code)
{
    if (strcmp(state, "succeeded") == 0) {
        return MQ_OK;
    }
    if (strcmp(state, "cancelled") == 0) {
        return MQ_E_CANCELLED;
    }
    if (code.len == 0 || mq_span_is(code, "ok")) {
        return strcmp(state, "expired") == 0 ? MQ_E_TIMEOUT : MQ_E_INTERNAL;
    }
    return mq_code_parse((const char *)code.data, code.len);
}

static void on_done(maasq_client *client, int64_t now_ms, mq_msg_done *m, mq_span payload)
{
    (void)now_ms;
    size_t at = 0;
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        const mq_msg_done_job *j = &m->jobs[i];
        if (j->len > payload.len - at) {
            return; /* the rest cannot be trusted; the core asks for those jobs */
        }
        mq_span result = mq_span_of(payload.data + at, j->len);
        at += j->len;
        bool is_terminal = false;
        const char *state = mq_job_state(j->state, &is_terminal);
        uint32_t open = mq_ccore_find(&client->core, j->id);
        if (!is_terminal || open == MQ_CCORE_NONE) {
            continue;
        }
        uint32_t sends = client->core.entries[open].sends;
        uint32_t slot = mq_ccore_done(&client->core, j->id);
        MQ_ASSERT(slot == open);
        mq_job_end(client, slot,
                   &(mq_end){.state = state,
                             .code = end_code(state, j->code),
                             .error = j->error,
                             .why = j->why,
                             .result = result,
                             .attempts = (uint32_t)j->attempts,
                             .sends = sends,
                             .queue_us = j->queue_us,
                             .run_us = j->run_us});
    }
}

/* Microseconds between two wall times in ms, 0 when unknown. */
static uint64_t between_us(int64_t from_ms, int64_t to_ms)
{
    return from_ms > 0 && to_ms > from_ms ? (uint64_t)(to_ms - from_ms) * 1000 : 0;
}

static void on_state(maasq_client *client, int64_t now_ms, mq_msg_state *m, mq_span payload)
{
    bool is_terminal = false;
    const char *state = mq_job_state(m->state, &is_terminal);
    uint32_t open = mq_ccore_find(&client->core, m->id);
    uint32_t sends = open == MQ_CCORE_NONE ? 0 : client->core.entries[open].sends;
    mq_code lost = MQ_OK;
    uint32_t slot =
        mq_ccore_state(&client->core, now_ms, m->rid, verdict_of(m->verdict), is_terminal, &lost);
    if (slot == MQ_CCORE_NONE) {
        if (open != MQ_CCORE_NONE && state != NULL && !is_terminal) {
            mq_job_tell(client, open, state, m->progress, (mq_span){0});
        }
        return;
    }
    mq_end end = {.state = state,
                  .code = lost,
                  .error = m->error,
                  .why = m->why,
                  .result = payload,
                  .attempts = (uint32_t)m->attempts,
                  .sends = sends,
                  .queue_us = between_us(m->submitted_ms, m->leased_ms),
                  .run_us = between_us(m->leased_ms, m->ended_ms)};
    if (lost != MQ_OK) {
        end.state = "lost";
        end.error = mq_str("no such job: its id is wrong, or its result was kept long enough");
    } else {
        end.code = end_code(state, m->code);
    }
    mq_job_end(client, slot, &end);
}

static void on_reply(maasq_client *client, int64_t now_ms, mq_msg_reply *m, mq_span payload)
{
    (void)payload;
    uint32_t slot = mq_ccore_answered(&client->core, now_ms, m->rid, verdict_of(m->verdict));
    if (slot != MQ_CCORE_NONE) {
        end_call(client, slot, verdict_of(m->verdict), m->text.len > 0 ? m->text : m->verdict,
                 (mq_span){0});
    }
}

static void on_answer(maasq_client *client, int64_t now_ms, mq_msg_answer *m, mq_span payload)
{
    uint32_t slot = mq_ccore_answered(&client->core, now_ms, m->rid, verdict_of(m->verdict));
    if (slot != MQ_CCORE_NONE) {
        end_call(client, slot, verdict_of(m->verdict), m->text.len > 0 ? m->text : m->verdict,
                 payload);
    }
}

static void on_event(maasq_client *client, int64_t now_ms, mq_msg_event *m, mq_span payload)
{
    (void)now_ms;
    (void)payload;
    uint32_t slot = mq_ccore_find(&client->core, m->id);
    if (slot != MQ_CCORE_NONE) {
        mq_job_tell(client, slot, mq_job_state(m->state, NULL), m->progress, m->log);
    }
}

void mq_client_receive(maasq_client *client, int64_t now_ms, mq_span head, mq_span header,
                       mq_span payload)
{
    mq_command command = MQ_CMD_none;
    if (mq_wire_command(head, &command, NULL) != MQ_OK) {
        return;
    }
    if (command != MQ_CMD_error) {
        mq_ccore_heard(&client->core, now_ms);
    }
    mq_arena_reset(&client->io.arena);
    switch ((int)command) {
#define CASE(name)                                                                                 \
    case MQ_CMD_##name: {                                                                          \
        mq_msg_##name m;                                                                           \
        if (mq_wire_decode(command, header, &m, &client->io.arena, NULL) == MQ_OK) {               \
            on_##name(client, now_ms, &m, payload);                                                \
        }                                                                                          \
        break;                                                                                     \
    }
        CASE(welcome)
        CASE(routes)
        CASE(error)
        CASE(submitted)
        CASE(done)
        CASE(state)
        CASE(reply)
        CASE(answer)
        CASE(event)
#undef CASE
    default:
        break; /* not for clients */
    }
}
