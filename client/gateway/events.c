/* Event streams; see events.h. The server asks a stream for bytes when its socket takes some; a
 * stream that has none sleeps (suspended) until mq_events_wake. */
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/gateway/events.h"
#include "client/gateway/snapshot.h"

#include "shared/base/clock.h"

enum { HEAD_BYTES = 64 };

/* One client. */
typedef struct stream {
    mq_events *events;
    struct stream *next;
    struct MHD_Connection *connection;
    mq_frame *frame; /* being sent; one reference is ours */
    uint64_t number; /* of the frame sent last */
    size_t sent;     /* bytes of head, text and tail */
    char head[HEAD_BYTES];
    int64_t last_ms; /* something was sent */
    bool is_asleep;  /* suspended */
} stream;

struct mq_events {
    mq_gateway *gateway;
    pthread_mutex_t lock; /* guards the list and every is_asleep */
    stream *first;
    uint32_t count;
    bool is_closed;
};

static const char tail[] = "\n\n";
static const char heartbeat[] = ":\n\n"; /* a comment */

static ssize_t fill(void *arg, uint64_t pos, char *out, size_t max);
static size_t copy_frame(stream *s, char *out, size_t max);
static bool next_frame(stream *s);
static void end_stream(void *arg);

mq_code mq_events_new(mq_events **out, mq_gateway *gateway, mq_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for event streams");
    }
    (*out)->gateway = gateway;
    pthread_mutex_init(&(*out)->lock, NULL);
    return MQ_OK;
}

void mq_events_free(mq_events *events)
{
    if (events != NULL) {
        pthread_mutex_destroy(&events->lock);
        free(events);
    }
}

void mq_events_wake(mq_events *events)
{
    if (events == NULL) {
        return;
    }
    pthread_mutex_lock(&events->lock);
    for (stream *s = events->first; s != NULL; s = s->next) {
        if (s->is_asleep) {
            s->is_asleep = false;
            MHD_resume_connection(s->connection);
        }
    }
    pthread_mutex_unlock(&events->lock);
}

void mq_events_close(mq_events *events)
{
    if (events == NULL) {
        return;
    }
    pthread_mutex_lock(&events->lock);
    events->is_closed = true;
    pthread_mutex_unlock(&events->lock);
    mq_events_wake(events);
}

uint32_t mq_events_count(mq_events *events)
{
    pthread_mutex_lock(&events->lock);
    uint32_t count = events->count;
    pthread_mutex_unlock(&events->lock);
    return count;
}

void mq_gw_events(mq_exchange *exchange)
{
    mq_events *events = exchange->gateway->events;
    stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        mq_answer_code(exchange, MQ_E_BUSY, "no memory for another stream");
        return;
    }
    *s = (stream){
        .events = events, .connection = exchange->connection, .last_ms = mq_clock_mono_ms()};
    pthread_mutex_lock(&events->lock);
    bool fits = events->count < MQ_GW_EVENT_CLIENTS_MAX && !events->is_closed;
    if (fits) {
        s->next = events->first;
        events->first = s;
        events->count++;
    }
    pthread_mutex_unlock(&events->lock);
    if (!fits) {
        free(s);
        mq_answer_error(exchange, MHD_HTTP_SERVICE_UNAVAILABLE,
                        "%d event streams are open already: poll /v1/status instead",
                        MQ_GW_EVENT_CLIENTS_MAX);
        return;
    }
    exchange->stream =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 32768, fill, s, end_stream);
    if (exchange->stream == NULL) {
        end_stream(s);
    }
    exchange->status = MHD_HTTP_OK;
    exchange->content_type = "text/event-stream";
}

/* Bytes for the client; 0 with the connection suspended when there are none now. */
static ssize_t fill(void *arg, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    stream *s = arg;
    mq_events *events = s->events;
    if (s->frame == NULL && !next_frame(s)) {
        int64_t now_ms = mq_clock_mono_ms();
        if (now_ms - s->last_ms >= MQ_GW_HEARTBEAT_MS && max >= sizeof heartbeat) {
            s->last_ms = now_ms;
            memcpy(out, heartbeat, sizeof heartbeat);
            return sizeof heartbeat - 1;
        }
        pthread_mutex_lock(&events->lock);
        bool is_closed = events->is_closed;
        /* A frame published between the look and here would otherwise wait for its successor. */
        bool is_late = mq_snapshot_number(events->gateway->snapshot) > s->number;
        if (!is_closed && !is_late) {
            s->is_asleep = true;
            MHD_suspend_connection(s->connection);
        }
        pthread_mutex_unlock(&events->lock);
        return is_closed ? MHD_CONTENT_READER_END_OF_STREAM : 0;
    }
    return (ssize_t)copy_frame(s, out, max);
}

static bool next_frame(stream *s)
{
    mq_frame *frame = mq_snapshot_take(s->events->gateway->snapshot);
    if (frame->number == s->number) {
        mq_frame_release(frame);
        return false;
    }
    /* After a lost connection the browser comes back by itself, 3 s later. */
    snprintf(s->head, sizeof s->head, "%sid: %llu\ndata: ", s->number == 0 ? "retry: 3000\n" : "",
             (unsigned long long)frame->number);
    s->number = frame->number;
    s->frame = frame;
    s->sent = 0;
    return true;
}

static size_t copy_frame(stream *s, char *out, size_t max)
{
    const mq_span parts[] = {mq_str(s->head), mq_span_of(s->frame->text, s->frame->len),
                             mq_str(tail)};
    size_t used = 0;
    size_t start = 0; /* of the part in the whole */
    for (size_t i = 0; i < 3; i++) {
        size_t end = start + parts[i].len;
        if (s->sent >= start && s->sent < end && used < max) {
            size_t n = end - s->sent;
            n = n < max - used ? n : max - used;
            memcpy(out + used, parts[i].data + (s->sent - start), n);
            used += n;
            s->sent += n;
        }
        start = end;
    }
    if (s->sent == start) {
        mq_frame_release(s->frame);
        s->frame = NULL;
        s->last_ms = mq_clock_mono_ms();
    }
    return used;
}

static void end_stream(void *arg)
{
    stream *s = arg;
    mq_events *events = s->events;
    pthread_mutex_lock(&events->lock);
    stream **at = &events->first;
    while (*at != s) {
        at = &(*at)->next;
    }
    *at = s->next;
    events->count--;
    pthread_mutex_unlock(&events->lock);
    mq_frame_release(s->frame);
    free(s);
}
