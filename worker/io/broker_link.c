/* The DEALER socket to the broker; see broker_link.h. Knows frames, not what they mean. */
#include "worker/io/broker_link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/assert.h"
#include "shared/base/log.h"

enum { ARENA_BYTES_MAX = 32 << 20, HWM = 1000 };

void mq_broker_link_init(mq_broker_link *link, void *context)
{
    *link = (mq_broker_link){.context = context};
    mq_buf_init(&link->header, MQ_HEADER_BYTES_MAX);
    mq_arena_init(&link->arena, ARENA_BYTES_MAX);
}

static void frames_close(mq_broker_link *link)
{
    for (int i = 0; link->has_frames && i < 3; i++) {
        zmq_msg_close(&link->frames[i]);
    }
    link->has_frames = false;
}

static void disconnect(mq_broker_link *link)
{
    frames_close(link);
    if (link->socket != NULL) {
        (void)zmq_socket_monitor(link->socket, NULL, 0);
        zmq_close(link->socket);
        link->socket = NULL;
        link->is_up = false;
    }
    if (link->monitor != NULL) {
        zmq_close(link->monitor);
        link->monitor = NULL;
    }
}

void mq_broker_link_release(mq_broker_link *link)
{
    disconnect(link);
    mq_buf_release(&link->header);
    mq_arena_release(&link->arena);
}

void mq_broker_link_linger(mq_broker_link *link, int ms)
{
    if (link->socket != NULL) {
        (void)zmq_setsockopt(link->socket, ZMQ_LINGER, &ms, sizeof ms);
    }
}

static void set_int(void *socket, int option, int value)
{
    MQ_ASSERT(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

static mq_code monitor_open(mq_broker_link *link, mq_error *err)
{
    char name[64];
    (void)snprintf(name, sizeof name, "inproc://broker-%p-%u", (void *)link,
                   link->monitor_number++);
    int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
    link->monitor = zmq_socket(link->context, ZMQ_PAIR);
    if (link->monitor == NULL || zmq_socket_monitor(link->socket, name, events) != 0 ||
        zmq_connect(link->monitor, name) != 0) {
        return mq_fail(err, MQ_E_IO, "broker: monitor: %s", zmq_strerror(errno));
    }
    return MQ_OK;
}

mq_code mq_broker_link_connect(mq_broker_link *link, const char *endpoint, mq_error *err)
{
    int64_t message_bytes = MQ_PAYLOAD_BYTES_MAX;
    disconnect(link);
    link->is_drained = link->is_monitor_drained = false;
    link->socket = zmq_socket(link->context, ZMQ_DEALER);
    if (link->socket == NULL) {
        return mq_fail(err, MQ_E_IO, "broker: socket: %s", zmq_strerror(errno));
    }
    snprintf(link->endpoint, sizeof link->endpoint, "%s", endpoint);
    set_int(link->socket, ZMQ_LINGER, 0);
    set_int(link->socket, ZMQ_SNDHWM, HWM);
    set_int(link->socket, ZMQ_RCVHWM, HWM);
    set_int(link->socket, ZMQ_RECONNECT_IVL, 50);
    set_int(link->socket, ZMQ_RECONNECT_IVL_MAX, 1000);
    set_int(link->socket, ZMQ_HEARTBEAT_IVL, 700);
    set_int(link->socket, ZMQ_HEARTBEAT_TIMEOUT, 2100);
    set_int(link->socket, ZMQ_HEARTBEAT_TTL, 6000);
    set_int(link->socket, ZMQ_HANDSHAKE_IVL, 5000);
    set_int(link->socket, ZMQ_TCP_KEEPALIVE, 1);
    MQ_ASSERT(zmq_setsockopt(link->socket, ZMQ_MAXMSGSIZE, &message_bytes, sizeof message_bytes) ==
              0);
    mq_code code = monitor_open(link, err);
    if (code == MQ_OK && zmq_connect(link->socket, endpoint) != 0) {
        code = mq_fail(err, MQ_E_ARG, "broker: \"%s\": %s", endpoint, zmq_strerror(errno));
    }
    if (code != MQ_OK) {
        disconnect(link);
    }
    return code;
}

static bool send_frames(mq_broker_link *link, mq_command command, mq_span payload)
{
    uint8_t head[6];
    size_t head_bytes = mq_wire_head_to(command, link->shard, head);
    link->is_drained = false;
    /* The first frame says whether there is room; the others then go with it. */
    return zmq_send(link->socket, head, head_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
           zmq_send(link->socket, link->header.data, link->header.len, ZMQ_SNDMORE) >= 0 &&
           zmq_send(link->socket, payload.data, payload.len, 0) >= 0;
}

bool mq_broker_link_send(mq_broker_link *link, mq_command command, const void *message,
                         mq_span payload)
{
    mq_error err = {.text = "payload above its limit"};
    mq_buf_reset(&link->header);
    if (payload.len > MQ_PAYLOAD_BYTES_MAX ||
        mq_wire_encode(command, message, &link->header, &err) != MQ_OK) {
        mq_log(MQ_ERROR_LEVEL, "message not sent", "command=%s error=\"%s\"",
               mq_command_name(command), err.text);
    } else if (link->is_up && send_frames(link, command, payload)) {
        return true;
    }
    link->unsent++;
    return false;
}

/* Receives one whole message; false when there is none. count: its frames, 4 = too many. */
static bool receive_frames(mq_broker_link *link, int *count)
{
    int more = 1;
    *count = 0;
    link->is_drained = false;
    while (more != 0) {
        zmq_msg_t extra;
        zmq_msg_t *to = *count < 3 ? &link->frames[*count] : &extra;
        zmq_msg_init(to);
        if (zmq_msg_recv(to, link->socket, ZMQ_DONTWAIT) < 0) {
            link->is_drained = *count == 0 && zmq_errno() == EAGAIN;
            zmq_msg_close(to);
            for (int i = 0; i < *count && i < 3; i++) {
                zmq_msg_close(&link->frames[i]);
            }
            return false;
        }
        more = zmq_msg_more(to);
        if (to == &extra) {
            zmq_msg_close(to);
        }
        *count = *count < 4 ? *count + 1 : 4;
    }
    for (int i = *count; i < 3; i++) {
        zmq_msg_init(&link->frames[i]);
    }
    link->has_frames = true;
    return true;
}

static mq_span frame_span(zmq_msg_t *frame)
{
    return mq_span_of(zmq_msg_data(frame), zmq_msg_size(frame));
}

mq_code mq_broker_link_receive(mq_broker_link *link, mq_broker_message *out)
{
    int count;
    for (;;) {
        frames_close(link);
        mq_arena_reset(&link->arena);
        if (link->socket == NULL || !receive_frames(link, &count)) {
            return MQ_E_BUSY;
        }
        mq_error err = {.text = "not three frames"};
        if (count == 3 &&
            mq_wire_command(frame_span(&link->frames[0]), &out->command, &err) == MQ_OK) {
            out->header = frame_span(&link->frames[1]);
            out->payload = frame_span(&link->frames[2]);
            return MQ_OK;
        }
        link->refused++;
        mq_log(MQ_WARN, "message of the broker refused", "error=\"%s\"", err.text);
    }
}

mq_broker_link_change mq_broker_link_event(mq_broker_link *link)
{
    uint8_t event[6];
    if (link->monitor == NULL ||
        zmq_recv(link->monitor, event, sizeof event, ZMQ_DONTWAIT) != (int)sizeof event) {
        link->is_monitor_drained = zmq_errno() == EAGAIN;
        return MQ_BROKER_LINK_SAME;
    }
    link->is_monitor_drained = false;
    char address[256];
    (void)zmq_recv(link->monitor, address, sizeof address, 0);
    uint16_t number;
    memcpy(&number, event, sizeof number);
    link->is_up = number != ZMQ_EVENT_DISCONNECTED;
    return link->is_up ? MQ_BROKER_LINK_UP : MQ_BROKER_LINK_GONE;
}
