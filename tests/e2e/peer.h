/* A raw ZeroMQ peer of the broker, for tests that say what no well-behaved client or worker says.
 */
#ifndef MQ_TESTS_E2E_PEER_H
#define MQ_TESTS_E2E_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include <zmq.h>

#include "shared/base/clock.h"
#include "shared/base/ulid.h"
#include "shared/wire/messages.h"

enum { PEER_WAIT_MS = 60000 };

typedef struct peer {
    void *socket;
    mq_arena arena;
    mq_buf header;
    zmq_msg_t frames[3];
    bool has_frames;
    mq_command command; /* of the last message; what it says lies in `m` */
    mq_span payload;
    union {
        mq_msg_welcome welcome;
        mq_msg_error error;
        mq_msg_submitted submitted;
        mq_msg_state state;
        mq_msg_done done;
        mq_msg_answer answer;
        mq_msg_registered registered;
        mq_msg_beaten beaten;
        mq_msg_job job;
        mq_msg_verdict verdict;
        mq_msg_roster roster;
        mq_msg_reply reply;
    } m;
} peer;

#define PEER __attribute__((unused)) static

/* Those not closed: a test that failed leaves some, and then zmq_ctx_term would wait for them. */
static int peers_open;

/* identity: NULL as everybody, else a routing id of its own choice. */
PEER void peer_open(peer *p, void *context, const char *endpoint, const char *identity)
{
    int none = 0, hwm = 0;
    *p = (peer){.socket = zmq_socket(context, ZMQ_DEALER)};
    assert_non_null(p->socket);
    peers_open++;
    assert_int_equal(zmq_setsockopt(p->socket, ZMQ_LINGER, &none, sizeof none), 0);
    assert_int_equal(zmq_setsockopt(p->socket, ZMQ_SNDHWM, &hwm, sizeof hwm), 0);
    if (identity != NULL) {
        assert_int_equal(zmq_setsockopt(p->socket, ZMQ_ROUTING_ID, identity, strlen(identity)), 0);
    }
    assert_int_equal(zmq_connect(p->socket, endpoint), 0);
    mq_arena_init(&p->arena, 64 << 20);
    mq_buf_init(&p->header, MQ_HEADER_BYTES_MAX);
}

PEER void peer_frames_close(peer *p)
{
    for (int i = 0; p->has_frames && i < 3; i++) {
        zmq_msg_close(&p->frames[i]);
    }
    p->has_frames = false;
}

PEER void peer_close(peer *p)
{
    peer_frames_close(p);
    mq_arena_release(&p->arena);
    mq_buf_release(&p->header);
    zmq_close(p->socket);
    peers_open--;
}

/* Frames as they are, none of them checked. */
PEER void peer_send_raw(peer *p, const mq_span *frames, int count)
{
    for (int i = 0; i < count; i++) {
        assert_int_equal(
            zmq_send(p->socket, frames[i].data, frames[i].len, i + 1 < count ? ZMQ_SNDMORE : 0),
            (int)frames[i].len);
    }
}

PEER void peer_send(peer *p, mq_command command, const void *message, mq_span payload)
{
    mq_error err;
    uint8_t head[4];
    mq_wire_head(command, head);
    mq_buf_reset(&p->header);
    assert_int_equal(mq_wire_encode(command, message, &p->header, &err), MQ_OK);
    mq_span frames[3] = {mq_span_of(head, sizeof head), mq_buf_span(&p->header), payload};
    peer_send_raw(p, frames, 3);
}

/* The next message; false when none came in time. */
PEER bool peer_receive(peer *p, int64_t timeout_ms)
{
    mq_error err;
    zmq_pollitem_t item = {.socket = p->socket, .events = ZMQ_POLLIN};
    peer_frames_close(p);
    mq_arena_reset(&p->arena);
    if (zmq_poll(&item, 1, (long)timeout_ms) <= 0) {
        return false;
    }
    mq_span s[3];
    for (int i = 0; i < 3; i++) {
        zmq_msg_init(&p->frames[i]);
        assert_true(zmq_msg_recv(&p->frames[i], p->socket, 0) >= 0);
        assert_int_equal(zmq_msg_more(&p->frames[i]), i < 2);
        s[i] = mq_span_of(zmq_msg_data(&p->frames[i]), zmq_msg_size(&p->frames[i]));
    }
    p->has_frames = true;
    p->payload = s[2];
    assert_int_equal(mq_wire_command(s[0], &p->command, &err), MQ_OK);
    assert_int_equal(mq_wire_decode(p->command, s[1], &p->m, &p->arena, &err), MQ_OK);
    return true;
}

/* Reads on until a message of this kind comes. */
PEER void peer_await(peer *p, mq_command command)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    do {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms <= 0 || !peer_receive(p, left_ms)) {
            fail_msg("no %s came in %d ms", mq_command_name(command), PEER_WAIT_MS);
        }
    } while (p->command != command);
}

#define SAYS(span, text)                                                                           \
    assert_memory_equal((span).data, text, sizeof(text) - 1),                                      \
        assert_int_equal((span).len, sizeof(text) - 1)

/* ---- as a client ---- */

PEER void peer_hello(peer *p)
{
    mq_msg_hello hello = {.role = mq_str("client"), .version_min = 1, .version_max = 1};
    peer_send(p, MQ_CMD_hello, &hello, (mq_span){0});
    peer_await(p, MQ_CMD_welcome);
}

/* Submits one job with a fresh id. */
PEER void peer_submit(peer *p, const char *kind, mq_span body, char id[MQ_ULID_SIZE])
{
    mq_ulid_new(id);
    mq_msg_submit_job job = {.id = mq_str(id), .kind = mq_str(kind), .len = body.len};
    mq_msg_submit submit = {.rid = 1, .jobs = &job, .jobs_count = 1};
    peer_send(p, MQ_CMD_submit, &submit, body);
}

PEER void peer_get(peer *p, uint64_t rid, const char *id, uint64_t wait_ms)
{
    mq_msg_get get = {.rid = rid, .id = mq_str(id), .wait_ms = wait_ms};
    peer_send(p, MQ_CMD_get, &get, (mq_span){0});
}

PEER void peer_query(peer *p, const char *what)
{
    mq_msg_query query = {.rid = 9, .what = mq_str(what)};
    peer_send(p, MQ_CMD_query, &query, (mq_span){0});
    peer_await(p, MQ_CMD_answer);
}

/* ---- as a worker ---- */

/* uuid: 32 hex digits. Registers with one slot for one kind. */
PEER void peer_ready(peer *p, const char *uuid, const char *kind)
{
    mq_span kinds[] = {mq_str(kind)};
    mq_msg_ready ready = {.worker = mq_str(uuid),
                          .name = mq_str("raw"),
                          .host = mq_str("raw"),
                          .fingerprint = mq_str("raw"),
                          .slots = 1,
                          .kinds = kinds,
                          .kinds_count = 1};
    peer_send(p, MQ_CMD_ready, &ready, (mq_span){0});
    peer_await(p, MQ_CMD_registered);
}

/* seq must grow. */
PEER void peer_beat(peer *p, const char *uuid, uint64_t seq, uint64_t free, uint64_t seen,
                    mq_msg_held *held)
{
    mq_msg_beat beat = {.worker = mq_str(uuid),
                        .seq = seq,
                        .free = free,
                        .jobs_seen = seen,
                        .jobs = held,
                        .jobs_count = held == NULL ? 0 : 1};
    peer_send(p, MQ_CMD_beat, &beat, (mq_span){0});
}

PEER void peer_result(peer *p, const char *uuid, mq_msg_result_item *item, mq_span bytes)
{
    mq_msg_result result = {.worker = mq_str(uuid), .jobs = item, .jobs_count = 1};
    item->len = bytes.len;
    peer_send(p, MQ_CMD_result, &result, bytes);
}

#endif
