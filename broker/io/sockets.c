/* ROUTER sockets; see sockets.h. Must not know what messages mean. */
#include "broker/io/sockets.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/assert.h"

enum { IDENTITY_BYTES = 5, HEAD_BYTES = 4, BACKLOG = 1024, DROPS_MAX = 256 };

static bool set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

mq_code mq_side_open(mq_side *side, mq_side_name name, void *context, const char *endpoint, int hwm,
                     int64_t frame_bytes_max, mq_error *err)
{
    *side = (mq_side){.name = name};
    void *s = zmq_socket(context, ZMQ_ROUTER);
    if (s == NULL) {
        return mq_fail(err, MQ_E_IO, "ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    }
    side->socket = s;
    bool is_set = set(s, ZMQ_ROUTER_MANDATORY, 1) && set(s, ZMQ_LINGER, 0) &&
                  set(s, ZMQ_SNDHWM, hwm) && set(s, ZMQ_RCVHWM, hwm) && set(s, ZMQ_IPV6, 0) &&
                  set(s, ZMQ_HANDSHAKE_IVL, 5000) && set(s, ZMQ_HEARTBEAT_IVL, 2000) &&
                  set(s, ZMQ_HEARTBEAT_TIMEOUT, 6000) && set(s, ZMQ_HEARTBEAT_TTL, 6000) &&
                  set(s, ZMQ_BACKLOG, BACKLOG) && set(s, ZMQ_TCP_KEEPALIVE, 1) &&
                  zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &frame_bytes_max, sizeof frame_bytes_max) == 0;
    if (!is_set) {
        return mq_fail(err, MQ_E_IO, "ZeroMQ option: %s", zmq_strerror(zmq_errno()));
    }
    if (zmq_bind(s, endpoint) != 0) {
        return mq_fail(err, MQ_E_ARG, "--%s %s: %s", name == MQ_FRONT ? "front" : "back", endpoint,
                       zmq_strerror(zmq_errno()));
    }
    size_t size = sizeof side->endpoint;
    if (zmq_getsockopt(s, ZMQ_LAST_ENDPOINT, side->endpoint, &size) != 0) {
        return mq_fail(err, MQ_E_IO, "ZeroMQ endpoint: %s", zmq_strerror(zmq_errno()));
    }
    return MQ_OK;
}

void mq_side_close(mq_side *side)
{
    if (side->socket != NULL) {
        zmq_close(side->socket);
        side->socket = NULL;
    }
}

/* Reads one multi-part message into at most 4 frames; returns how many parts it had, 0 when there
 * is none, or -1 when the socket failed. All four frames are initialized afterwards. */
static int receive_parts(mq_side *side, zmq_msg_t frames[4])
{
    side->is_drained = false;
    int parts = 0;
    bool is_more = true;
    for (int i = 0; i < 4; i++) {
        zmq_msg_init(&frames[i]);
    }
    while (is_more) {
        zmq_msg_t surplus;
        zmq_msg_t *into = &surplus;
        if (parts < 4) {
            into = &frames[parts];
        } else {
            zmq_msg_init(&surplus);
        }
        int got;
        do {
            got = zmq_msg_recv(into, side->socket, ZMQ_DONTWAIT);
        } while (got < 0 && zmq_errno() == EINTR);
        if (got < 0) {
            side->is_drained = parts == 0 && zmq_errno() == EAGAIN;
            return side->is_drained ? 0 : -1;
        }
        is_more = zmq_msg_more(into) != 0;
        if (into == &surplus) {
            zmq_msg_close(&surplus);
        }
        parts++;
    }
    return parts;
}

static mq_span span_of(zmq_msg_t *msg)
{
    return mq_span_of(zmq_msg_data(msg), zmq_msg_size(msg));
}

static bool take(mq_side *side, zmq_msg_t frames[4], mq_frames *out)
{
    mq_span identity = span_of(&frames[0]);
    if (identity.len != IDENTITY_BYTES || identity.data[0] != 0) {
        return false;
    }
    uint32_t number = 0;
    memcpy(&number, identity.data + 1, sizeof number);
    out->conn = (uint64_t)side->name << 32 | number;
    out->shard = mq_wire_shard(span_of(&frames[1]));
    out->bad = mq_wire_command(span_of(&frames[1]), &out->command, &out->err);
    if (out->bad != MQ_OK && out->bad != MQ_E_VERSION) {
        return false;
    }
    zmq_msg_init(&out->header_msg);
    zmq_msg_init(&out->payload_msg);
    zmq_msg_move(&out->header_msg, &frames[2]);
    zmq_msg_move(&out->payload_msg, &frames[3]);
    out->header = span_of(&out->header_msg);
    out->payload = span_of(&out->payload_msg);
    return true;
}

bool mq_side_receive(mq_side *side, mq_frames *out)
{
    for (int drops = 0; drops < DROPS_MAX; drops++) {
        zmq_msg_t frames[4];
        int parts = receive_parts(side, frames);
        bool is_taken = parts == 4 && take(side, frames, out);
        for (int i = 0; i < 4; i++) {
            zmq_msg_close(&frames[i]);
        }
        if (is_taken) {
            side->received++;
            return true;
        }
        if (parts <= 0) {
            return false;
        }
        side->dropped++;
    }
    return false; /* a flood of them must not hold up the loop: the rest in the next turn */
}

void mq_frames_release(mq_frames *frames)
{
    zmq_msg_close(&frames->header_msg);
    zmq_msg_close(&frames->payload_msg);
}

mq_code mq_side_send(mq_side *side, uint64_t conn, mq_command command, mq_span header,
                     mq_span payload)
{
    uint8_t identity[IDENTITY_BYTES] = {0};
    uint8_t head[HEAD_BYTES];
    uint32_t number = (uint32_t)conn;
    memcpy(identity + 1, &number, sizeof number);
    mq_wire_head(command, head);
    side->is_drained = false;
    mq_span parts[4] = {{identity, sizeof identity}, {head, sizeof head}, header, payload};
    for (int i = 0; i < 4; i++) {
        int flags = ZMQ_DONTWAIT | (i < 3 ? ZMQ_SNDMORE : 0);
        int sent;
        do {
            sent = zmq_send(side->socket, parts[i].data, parts[i].len, flags);
        } while (sent < 0 && zmq_errno() == EINTR);
        if (sent < 0) {
            MQ_ASSERT(i == 0 ||
                      zmq_errno() != EAGAIN); /* a ROUTER refuses at the first part only */
            side->unroutable++;
            return zmq_errno() == EAGAIN ? MQ_E_BUSY : MQ_E_NOT_FOUND;
        }
    }
    side->sent++;
    return MQ_OK;
}
