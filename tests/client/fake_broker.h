/* A broker for tests of the client: one thread, one ROUTER on an ipc socket, no store. What it does
 * with a job is in the job's kind:
 *
 *     echo      ack, done with the body          slow     ack, done only when asked by get
 *     deaf      never answered                   lossy    first submit ignored, then echo
 *     refused   verdict bad_argument             busy     busy twice, then echo
 *     twice     ack and done, both sent twice    open     ack; ends by cancel only, tells progress
 *     infer     echo, but "gone" after restart   dead     ack, done as dead with code numeric
 *
 * It remembers open jobs until it is stopped. */
#ifndef MQ_TESTS_FAKE_BROKER_H
#define MQ_TESTS_FAKE_BROKER_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zmq.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/wire/messages.h"

enum { FAKE_JOBS = 4096 };

typedef struct fake_job {
    char id[33];
    char kind[32];
    int seen; /* submits of it */
    uint8_t peer[8];
    size_t peer_len;
    uint8_t body[256];
    size_t body_len;
} fake_job;

typedef struct fake_broker {
    char url[256];
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    bool is_stopping;
    bool is_mute; /* reads and answers nothing */
    int hellos, submits, gets, commands, batch_max;
    int moved_from; /* submits answered with moved */
    char moved_to[256];
    fake_job jobs[FAKE_JOBS];
    int job_count;
} fake_broker;

static void fake_send(void *router, const fake_job *to, mq_command command, const void *message,
                      mq_span payload)
{
    uint8_t head[4];
    mq_wire_head(command, head);
    mq_buf header;
    mq_buf_init(&header, MQ_HEADER_BYTES_MAX);
    mq_error err;
    MQ_ASSERT(mq_wire_encode(command, message, &header, &err) == MQ_OK);
    (void)zmq_send(router, to->peer, to->peer_len, ZMQ_SNDMORE);
    (void)zmq_send(router, head, sizeof head, ZMQ_SNDMORE);
    (void)zmq_send(router, header.data, header.len, ZMQ_SNDMORE);
    (void)zmq_send(router, payload.data, payload.len, 0);
    mq_buf_release(&header);
}

static fake_job *fake_find(fake_broker *b, mq_span id)
{
    for (int i = 0; i < b->job_count; i++) {
        if (mq_span_is(id, b->jobs[i].id)) {
            return &b->jobs[i];
        }
    }
    return NULL;
}

static void fake_done(void *router, const fake_job *job, const char *state, const char *code)
{
    mq_msg_done_job item = {.id = mq_str(job->id),
                            .state = mq_str(state),
                            .code = mq_str(code),
                            .error = mq_str(code[0] == '\0' ? "" : "the job said no"),
                            .attempts = 1,
                            .queue_us = 5,
                            .run_us = 7,
                            .len = job->body_len};
    mq_msg_done message = {.jobs = &item, .jobs_count = 1};
    fake_send(router, job, MQ_CMD_done, &message, mq_span_of(job->body, job->body_len));
}

static void fake_ack(void *router, const fake_job *job, const char *verdict, uint64_t retry_ms)
{
    mq_msg_submitted_job item = {.id = mq_str(job->id),
                                 .verdict = mq_str(verdict),
                                 .state = mq_str("queued"),
                                 .text = mq_str(retry_ms == 0 ? "" : "full"),
                                 .retry_ms = retry_ms};
    mq_msg_submitted message = {.rid = 1, .jobs = &item, .jobs_count = 1};
    fake_send(router, job, MQ_CMD_submitted, &message, (mq_span){0});
}

static void fake_event(void *router, const fake_job *job)
{
    mq_msg_event event = {.id = mq_str(job->id),
                          .state = mq_str("leased"),
                          .progress = mq_str("{\"step\":3}"),
                          .log = mq_str("a line")};
    fake_send(router, job, MQ_CMD_event, &event, (mq_span){0});
}

/* What happens to a job that was just submitted, by its kind. */
static void fake_run(void *router, fake_job *job)
{
    const char *kind = job->kind;
    if (strcmp(kind, "deaf") == 0 || (strcmp(kind, "lossy") == 0 && job->seen == 1)) {
        return;
    }
    if (strcmp(kind, "refused") == 0) {
        fake_ack(router, job, "bad_argument", 0);
        return;
    }
    if (strcmp(kind, "busy") == 0 && job->seen <= 2) {
        fake_ack(router, job, "busy", 20);
        return;
    }
    fake_ack(router, job, job->seen > 1 ? "dup" : "ok", 0);
    if (strcmp(kind, "slow") == 0 || strcmp(kind, "open") == 0) {
        return;
    }
    bool is_dead = strcmp(kind, "dead") == 0;
    fake_done(router, job, is_dead ? "dead" : "succeeded", is_dead ? "numeric" : "");
    if (strcmp(kind, "twice") == 0) {
        fake_ack(router, job, "dup", 0);
        fake_done(router, job, "succeeded", "");
    }
}

static void fake_submit(fake_broker *b, void *router, const fake_job *peer, const mq_msg_submit *m,
                        mq_span payload)
{
    if (b->moved_from > 0) {
        b->moved_from--;
        mq_msg_error error = {.rid = m->rid, .code = mq_str("moved"), .text = mq_str(b->moved_to)};
        fake_send(router, peer, MQ_CMD_error, &error, (mq_span){0});
        return;
    }
    size_t at = 0;
    b->batch_max = (int)m->jobs_count > b->batch_max ? (int)m->jobs_count : b->batch_max;
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        const mq_msg_submit_job *j = &m->jobs[i];
        fake_job *job = fake_find(b, j->id);
        if (job == NULL) {
            MQ_ASSERT(b->job_count < FAKE_JOBS);
            job = &b->jobs[b->job_count++];
            *job = (fake_job){0};
            (void)mq_span_copy(j->id, job->id, sizeof job->id);
            (void)mq_span_copy(j->kind, job->kind, sizeof job->kind);
            job->body_len = j->len < sizeof job->body ? j->len : sizeof job->body;
            if (job->body_len > 0) {
                memcpy(job->body, payload.data + at, job->body_len);
            }
        }
        MQ_ASSERT(j->len <= payload.len - at);
        at += j->len;
        memcpy(job->peer, peer->peer, sizeof job->peer);
        job->peer_len = peer->peer_len;
        job->seen++;
        b->submits++;
        fake_run(router, job);
    }
    MQ_ASSERT(at == payload.len);
}

static void fake_get(fake_broker *b, void *router, const fake_job *peer, const mq_msg_get *m)
{
    fake_job *job = fake_find(b, m->id);
    mq_msg_state state = {.rid = m->rid, .id = m->id, .verdict = mq_str("not_found")};
    mq_span payload = {0};
    b->gets++;
    if (job != NULL) {
        bool is_open = strcmp(job->kind, "open") == 0 || strcmp(job->kind, "deaf") == 0;
        state.verdict = mq_str("ok");
        state.state = mq_str(is_open ? "leased" : "succeeded");
        payload = is_open ? payload : mq_span_of(job->body, job->body_len);
    }
    fake_send(router, peer, MQ_CMD_state, &state, payload);
}

static void fake_other(fake_broker *b, void *router, const fake_job *peer, mq_command command,
                       mq_span header, mq_arena *arena)
{
    mq_error err;
    if (command == MQ_CMD_hello) {
        mq_msg_welcome welcome = {.version = 1,
                                  .broker = mq_str("fake"),
                                  .blobs = mq_str(getenv("FAKE_BLOBS")),
                                  .now_ms = mq_clock_wall_ms()};
        b->hellos++;
        fake_send(router, peer, MQ_CMD_welcome, &welcome, (mq_span){0});
    } else if (command == MQ_CMD_query) {
        mq_msg_query m;
        MQ_ASSERT(mq_wire_decode(command, header, &m, arena, &err) == MQ_OK);
        bool is_known = !mq_span_is(m.name, "nobody");
        mq_msg_answer answer = {.rid = m.rid,
                                .verdict = mq_str(is_known ? "ok" : "not_found"),
                                .text = mq_str(is_known ? "" : "no such thing")};
        fake_send(router, peer, MQ_CMD_answer, &answer, mq_str(is_known ? "{\"n\":1}" : ""));
    } else if (command == MQ_CMD_command) {
        mq_msg_command m;
        MQ_ASSERT(mq_wire_decode(command, header, &m, arena, &err) == MQ_OK);
        mq_msg_reply reply = {.rid = m.rid, .verdict = mq_str("ok")};
        if (b->commands++ > 0) { /* the first answer gets lost */
            fake_send(router, peer, MQ_CMD_reply, &reply, (mq_span){0});
        }
    } else if (command == MQ_CMD_cancel || command == MQ_CMD_watch) {
        mq_msg_cancel m;
        mq_msg_watch w;
        bool is_cancel = command == MQ_CMD_cancel;
        void *message = is_cancel ? (void *)&m : (void *)&w;
        MQ_ASSERT(mq_wire_decode(command, header, message, arena, &err) == MQ_OK);
        fake_job *job = fake_find(b, is_cancel ? m.id : w.id);
        if (job != NULL && is_cancel) {
            mq_msg_reply reply = {.rid = m.rid, .verdict = mq_str("ok")};
            fake_send(router, peer, MQ_CMD_reply, &reply, (mq_span){0});
            fake_done(router, job, "cancelled", "cancelled");
        } else if (job != NULL) {
            fake_event(router, job);
        }
    }
}

static void fake_one(fake_broker *b, void *router, mq_arena *arena)
{
    zmq_msg_t frames[4];
    int count = 0;
    do {
        zmq_msg_init(&frames[count]);
        MQ_ASSERT(zmq_msg_recv(&frames[count], router, 0) >= 0);
        count++;
    } while (zmq_msg_more(&frames[count - 1]) && count < 4);
    MQ_ASSERT(count == 4);
    fake_job peer = {.peer_len = zmq_msg_size(&frames[0])};
    memcpy(peer.peer, zmq_msg_data(&frames[0]), peer.peer_len);
    mq_span header = mq_span_of(zmq_msg_data(&frames[2]), zmq_msg_size(&frames[2]));
    mq_span payload = mq_span_of(zmq_msg_data(&frames[3]), zmq_msg_size(&frames[3]));
    mq_command command = MQ_CMD_none;
    mq_error err;
    MQ_ASSERT(mq_wire_command(mq_span_of(zmq_msg_data(&frames[1]), zmq_msg_size(&frames[1])),
                              &command, &err) == MQ_OK);
    mq_arena_reset(arena);
    pthread_mutex_lock(&b->lock);
    if (!b->is_mute && command == MQ_CMD_submit) {
        mq_msg_submit m;
        MQ_ASSERT(mq_wire_decode(command, header, &m, arena, &err) == MQ_OK);
        fake_submit(b, router, &peer, &m, payload);
    } else if (!b->is_mute && command == MQ_CMD_get) {
        mq_msg_get m;
        MQ_ASSERT(mq_wire_decode(command, header, &m, arena, &err) == MQ_OK);
        fake_get(b, router, &peer, &m);
    } else if (!b->is_mute) {
        fake_other(b, router, &peer, command, header, arena);
    }
    pthread_mutex_unlock(&b->lock);
    for (int i = 0; i < count; i++) {
        zmq_msg_close(&frames[i]);
    }
}

static void *fake_thread(void *arg)
{
    fake_broker *b = arg;
    void *context = zmq_ctx_new();
    void *router = zmq_socket(context, ZMQ_ROUTER);
    int linger = 0;
    zmq_setsockopt(router, ZMQ_LINGER, &linger, sizeof linger);
    MQ_ASSERT(zmq_bind(router, b->url) == 0);
    mq_arena arena;
    mq_arena_init(&arena, 8 << 20);
    bool is_stopping = false;
    while (!is_stopping) {
        zmq_pollitem_t item = {.socket = router, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, 20) > 0) {
            fake_one(b, router, &arena);
        }
        pthread_mutex_lock(&b->lock);
        is_stopping = b->is_stopping;
        pthread_mutex_unlock(&b->lock);
    }
    mq_arena_release(&arena);
    zmq_close(router);
    zmq_ctx_term(context);
    return NULL;
}

static inline void fake_start(fake_broker *b, const char *dir, const char *name)
{
    memset(b, 0, sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    (void)snprintf(b->url, sizeof b->url, "ipc://%s/%s", dir, name);
    MQ_ASSERT(pthread_create(&b->thread, NULL, fake_thread, b) == 0);
}

static inline void fake_stop(fake_broker *b)
{
    pthread_mutex_lock(&b->lock);
    b->is_stopping = true;
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    pthread_mutex_destroy(&b->lock);
}

static inline int fake_read(fake_broker *b, const int *counter)
{
    pthread_mutex_lock(&b->lock);
    int value = *counter;
    pthread_mutex_unlock(&b->lock);
    return value;
}

#endif
