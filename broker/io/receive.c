/* Messages in: decodes them, checks that their payload adds up, and feeds the core one input for
 * each job in them. Results and checkpoints that name blobs wait here until these are pinned. */
#include <stdlib.h>

#include "broker/io/body.h"
#include "broker/io/broker.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"

enum { ARENA_BYTES = 16 << 20 };

static const mq_span none = {0};

/* A message in work. */
typedef struct incoming {
    mq_broker *b;
    uint64_t conn;
    mq_command command;
    mq_span header, payload;
} incoming;

static void refuse(const incoming *m, uint64_t rid, const mq_error *err)
{
    mq_act_error(m->b, m->conn, rid, err->code, err->text, 0);
}

/* Decodes into *message; tells the sender what is wrong. */
static bool decode(const incoming *m, void *message)
{
    mq_error err;
    mq_arena_reset(&m->b->arena);
    mq_code code = mq_wire_decode(m->command, m->header, message, &m->b->arena, &err);
    if (code != MQ_OK) {
        mq_wrap(&err, "%s", mq_command_name(m->command));
        refuse(m, 0, &err);
        return false;
    }
    return true;
}

/* Takes the next `len` bytes of the payload. */
static bool slice(mq_span *rest, uint64_t len, mq_span *out)
{
    if (len > rest->len) {
        return false;
    }
    *out = mq_span_of(rest->data, (size_t)len);
    *rest = mq_span_of(rest->data + len, rest->len - (size_t)len);
    return true;
}

static bool payload_fits(const incoming *m, uint64_t rid, uint64_t sum, bool is_overflow)
{
    mq_error err;
    if (!is_overflow && sum == m->payload.len) {
        return true;
    }
    mq_fail(&err, MQ_E_FORMAT, "%s: the items' len add up to %llu, but the payload has %zu bytes",
            mq_command_name(m->command), (unsigned long long)sum, m->payload.len);
    refuse(m, rid, &err);
    return false;
}

static bool step(mq_broker *b, mq_input *in)
{
    if (b->core == NULL) {
        mq_body_release(in->body);
        return false;
    }
    mq_act_step(b, in);
    return true;
}

/* ---- both sides ---- */

static void on_hello(const incoming *m)
{
    mq_msg_hello hello;
    mq_error err;
    if (!decode(m, &hello)) {
        return;
    }
    if (hello.version_min > MQ_WIRE_VERSION || hello.version_max < MQ_WIRE_VERSION) {
        mq_fail(&err, MQ_E_VERSION, "this broker speaks version %d, the peer %llu to %llu",
                MQ_WIRE_VERSION, (unsigned long long)hello.version_min,
                (unsigned long long)hello.version_max);
        refuse(m, 0, &err);
        return;
    }
    const mq_broker *b = m->b;
    mq_msg_welcome welcome = {.version = MQ_WIRE_VERSION,
                              .broker = mq_str(b->config->name),
                              .instance = mq_str(b->instance),
                              .blobs = mq_str(b->config->blobs_told),
                              .now_ms = mq_broker_now(b),
                              .beat_ms = (uint64_t)b->config->beat_ms,
                              .lease_ms = (uint64_t)b->config->lease_ms};
    mq_act_send(m->b, m->conn, MQ_CMD_welcome, &welcome, none);
}

static void on_query(const incoming *m)
{
    mq_msg_query query;
    if (decode(m, &query)) {
        mq_answer_query(m->b, m->conn, &query);
    }
}

/* ---- clients ---- */

static void on_submit(const incoming *m)
{
    mq_msg_submit submit;
    if (!decode(m, &submit)) {
        return;
    }
    uint64_t sum = 0;
    bool is_overflow = false;
    for (uint32_t i = 0; i < submit.jobs_count; i++) {
        is_overflow |= __builtin_add_overflow(sum, submit.jobs[i].len, &sum);
    }
    if (!payload_fits(m, submit.rid, sum, is_overflow)) {
        return;
    }
    mq_span rest = m->payload, body;
    for (uint32_t i = 0; i < submit.jobs_count; i++) {
        bool is_full = false;
        MQ_ASSERT(slice(&rest, submit.jobs[i].len, &body));
        mq_input in = {.type = MQ_IN_SUBMIT, .conn = m->conn, .rid = submit.rid};
        in.body = mq_body_new(body, &is_full);
        in.as.submit = &submit.jobs[i];
        if (is_full) {
            mq_act_error(m->b, m->conn, submit.rid, MQ_E_BUSY, "no memory for the body", 1000);
            return;
        }
        if (!step(m->b, &in)) {
            return;
        }
    }
}

static void on_get(const incoming *m)
{
    mq_msg_get get;
    if (decode(m, &get)) {
        mq_gets_ask(m->b, m->conn, &get);
    }
}

static void on_cancel(const incoming *m)
{
    mq_msg_cancel cancel;
    if (decode(m, &cancel)) {
        mq_input in = {.type = MQ_IN_CANCEL, .conn = m->conn, .rid = cancel.rid};
        in.as.cancel = &cancel;
        step(m->b, &in);
    }
}

static void on_command(const incoming *m)
{
    mq_msg_command command;
    if (!decode(m, &command)) {
        return;
    }
    char args[256] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < command.args_count && used + 32 < sizeof args; i++) {
        used += (size_t)snprintf(args + used, sizeof args - used, " %.*s",
                                 (int)(command.args[i].len < 60 ? command.args[i].len : 60),
                                 (const char *)command.args[i].data);
    }
    mq_answer_news(m->b, "command", "%.*s%s", MQ_SPAN_ARG(command.verb), args);
    mq_input in = {.type = MQ_IN_COMMAND, .conn = m->conn, .rid = command.rid};
    in.as.command = &command;
    step(m->b, &in);
}

static void on_watch(const incoming *m)
{
    mq_msg_watch watch;
    if (!decode(m, &watch)) {
        return;
    }
    bool is_added = mq_gets_watch(m->b, m->conn, watch.id);
    mq_msg_reply reply = {.rid = watch.rid,
                          .verdict = mq_str(is_added ? "ok" : "busy"),
                          .text = mq_str(is_added ? "" : "too many watches; ask with get")};
    mq_act_send(m->b, m->conn, MQ_CMD_reply, &reply, none);
    if (is_added) {
        mq_input in = {.type = MQ_IN_WATCH, .conn = m->conn, .rid = watch.rid};
        in.as.id = watch.id;
        step(m->b, &in);
    }
}

/* ---- workers ---- */

static void on_ready(const incoming *m)
{
    mq_msg_ready ready;
    if (decode(m, &ready)) {
        mq_input in = {.type = MQ_IN_READY, .conn = m->conn};
        in.as.ready = &ready;
        step(m->b, &in);
    }
}

static void on_credit(const incoming *m)
{
    mq_msg_credit credit;
    if (decode(m, &credit)) {
        mq_input in = {.type = MQ_IN_CREDIT, .conn = m->conn};
        in.as.credit = &credit;
        step(m->b, &in);
    }
}

static void on_beat(const incoming *m)
{
    mq_msg_beat beat;
    if (!decode(m, &beat)) {
        return;
    }
    for (uint32_t i = 0; i < beat.jobs_count && m->b->core != NULL; i++) {
        const mq_msg_held *h = &beat.jobs[i];
        if (h->progress.len > 0 && mq_core_holds(m->b->core, h->id, h->epoch, h->grant, none)) {
            mq_gets_progress(m->b, h->id, h->progress, none);
        }
    }
    mq_input in = {.type = MQ_IN_BEAT, .conn = m->conn};
    in.as.beat = &beat;
    step(m->b, &in);
}

static void on_progress(const incoming *m)
{
    mq_msg_progress p;
    if (decode(m, &p) && m->b->core != NULL &&
        mq_core_holds(m->b->core, p.id, p.epoch, p.grant, none)) {
        mq_gets_progress(m->b, p.id, p.progress, p.log);
    }
}

static void on_lost(const incoming *m)
{
    mq_msg_lost lost;
    if (decode(m, &lost)) {
        mq_answer_news(m->b, "lost", "seat %llu of job %.*s, seen by a peer",
                       (unsigned long long)lost.seat, MQ_SPAN_ARG(lost.id));
        mq_input in = {.type = MQ_IN_LOST, .conn = m->conn};
        in.as.lost = &lost;
        step(m->b, &in);
    }
}

static void on_bye(const incoming *m)
{
    mq_msg_bye bye;
    if (decode(m, &bye)) {
        mq_input in = {.type = MQ_IN_BYE, .conn = m->conn};
        in.as.worker = bye.worker;
        step(m->b, &in);
    }
}

/* ---- results and checkpoints: after their blobs are pinned ---- */

static bool names_any(mq_span *const missing, uint32_t missing_count, const mq_span *blobs,
                      uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < missing_count; k++) {
            if (mq_span_eq(blobs[i], missing[k])) {
                return true;
            }
        }
    }
    return false;
}

static bool is_missing(const mq_msg_result_item *item, mq_span *missing, uint32_t missing_count)
{
    bool is = names_any(missing, missing_count, item->blobs, item->blobs_count);
    for (uint32_t i = 0; i < item->publish_count && !is; i++) {
        is =
            names_any(missing, missing_count, item->publish[i].blobs, item->publish[i].blobs_count);
    }
    return is;
}

static void tell_missing(const incoming *m, const mq_msg_result_item *item, mq_span *missing,
                         uint32_t count)
{
    mq_msg_held_verdict verdict = {.id = item->id,
                                   .epoch = item->epoch,
                                   .grant = item->grant,
                                   .verdict = mq_str("missing"),
                                   .missing = missing,
                                   .missing_count = count < 1024 ? count : 1024};
    mq_msg_verdict message = {.verdicts = &verdict, .verdicts_count = 1};
    mq_act_send(m->b, m->conn, MQ_CMD_verdict, &message, none);
}

/* One job of a result into the core. */
static bool feed_result(const incoming *m, mq_span worker, const mq_msg_result_item *item,
                        mq_span bytes)
{
    bool is_full = false;
    mq_bytes *bodies[64] = {NULL};
    for (uint32_t i = 0; i < item->spawn_count; i++) {
        bodies[i] = mq_body_new(item->spawn[i].body, &is_full);
    }
    mq_input in = {.type = MQ_IN_RESULT, .conn = m->conn, .body = mq_body_new(bytes, &is_full)};
    in.as.result.item = item;
    in.as.result.worker = worker;
    in.as.result.spawn_bodies = bodies;
    if (is_full || m->b->core == NULL) { /* the worker sends it again */
        for (uint32_t i = 0; i < item->spawn_count; i++) {
            mq_body_release(bodies[i]);
        }
        mq_body_release(in.body);
        return false;
    }
    mq_act_step(m->b, &in);
    return true;
}

static void feed_results(const incoming *m, const mq_msg_result *result, mq_span *missing,
                         uint32_t missing_count)
{
    mq_span rest = m->payload, bytes;
    for (uint32_t i = 0; i < result->jobs_count; i++) {
        const mq_msg_result_item *item = &result->jobs[i];
        MQ_ASSERT(slice(&rest, item->len, &bytes));
        if (missing_count > 0 && is_missing(item, missing, missing_count)) {
            tell_missing(m, item, missing, missing_count);
        } else if (!feed_result(m, result->worker, item, bytes)) {
            return;
        }
    }
}

static bool decode_result(const incoming *m, mq_msg_result *result)
{
    uint64_t sum = 0;
    bool is_overflow = false;
    if (!decode(m, result)) {
        return false;
    }
    for (uint32_t i = 0; i < result->jobs_count; i++) {
        is_overflow |= __builtin_add_overflow(sum, result->jobs[i].len, &sum);
    }
    return payload_fits(m, 0, sum, is_overflow);
}

/* Whether the core may commit it: only then its blobs are pinned, else nobody would ever let them
 * go again (a repeat after the verdict, a stale lease). */
static bool is_held(const incoming *m, const mq_msg_result *result, uint32_t i)
{
    const mq_msg_result_item *item = &result->jobs[i];
    return m->b->core != NULL &&
           mq_core_holds(m->b->core, item->id, item->epoch, item->grant, result->worker);
}

/* Hashes that are to be pinned, from the arena; NULL and *count 0 when none. */
static mq_span *blobs_of(const incoming *m, const mq_msg_result *result, uint32_t *count)
{
    size_t total = 0;
    for (uint32_t i = 0; i < result->jobs_count; i++) {
        total += is_held(m, result, i) ? result->jobs[i].blobs_count : 0;
        for (uint32_t k = 0; k < result->jobs[i].publish_count && is_held(m, result, i); k++) {
            total += result->jobs[i].publish[k].blobs_count;
        }
    }
    mq_span *all = total == 0 ? NULL : mq_arena_new(&m->b->arena, mq_span, total);
    *count = 0;
    for (uint32_t i = 0; all != NULL && i < result->jobs_count; i++) {
        const mq_msg_result_item *item = &result->jobs[i];
        if (!is_held(m, result, i)) {
            continue;
        }
        for (uint32_t n = 0; n < item->blobs_count; n++) {
            all[(*count)++] = item->blobs[n];
        }
        for (uint32_t k = 0; k < item->publish_count; k++) {
            for (uint32_t n = 0; n < item->publish[k].blobs_count; n++) {
                all[(*count)++] = item->publish[k].blobs[n];
            }
        }
    }
    return all;
}

/* Puts the message aside until its blobs are pinned. True when it was taken over. */
static bool put_aside(mq_broker *b, mq_frames *frames, const mq_span *blobs, uint32_t count)
{
    mq_error err;
    mq_pending *p = b->pending_count < MQ_PENDING_MAX ? malloc(sizeof *p) : NULL;
    if (p == NULL) {
        return false; /* the worker sends it again */
    }
    uint64_t ticket = ++b->next_ticket;
    mq_code code = mq_pins_ask(b->pins, MQ_PIN, ticket, blobs, count, &err);
    if (code != MQ_OK) {
        if (code == MQ_E_ARG) {
            mq_act_error(b, frames->conn, 0, code, err.text, 0);
        }
        free(p);
        return false;
    }
    *p = (mq_pending){.next = b->pending, .ticket = ticket, .frames = *frames};
    zmq_msg_init(&p->frames.header_msg);
    zmq_msg_init(&p->frames.payload_msg);
    zmq_msg_move(&p->frames.header_msg, &frames->header_msg);
    zmq_msg_move(&p->frames.payload_msg, &frames->payload_msg);
    p->frames.header =
        mq_span_of(zmq_msg_data(&p->frames.header_msg), zmq_msg_size(&p->frames.header_msg));
    p->frames.payload =
        mq_span_of(zmq_msg_data(&p->frames.payload_msg), zmq_msg_size(&p->frames.payload_msg));
    b->pending = p;
    b->pending_count++;
    return true;
}

static void on_result(const incoming *m, mq_frames *frames)
{
    mq_msg_result result;
    uint32_t count = 0;
    if (!decode_result(m, &result)) {
        return;
    }
    mq_span *blobs = blobs_of(m, &result, &count);
    if (count > 0) {
        put_aside(m->b, frames, blobs, count);
    } else {
        feed_results(m, &result, NULL, 0);
    }
}

static void feed_checkpoint(const incoming *m)
{
    mq_msg_checkpoint checkpoint;
    if (decode(m, &checkpoint)) {
        mq_input in = {.type = MQ_IN_CHECKPOINT, .conn = m->conn};
        in.as.checkpoint = &checkpoint;
        step(m->b, &in);
    }
}

static void on_checkpoint(const incoming *m, mq_frames *frames)
{
    mq_msg_checkpoint c;
    if (!decode(m, &c)) {
        return;
    }
    bool is_current = m->b->core != NULL && c.blob.len > 0 &&
                      mq_core_holds(m->b->core, c.id, c.epoch, c.grant, none);
    if (is_current) {
        put_aside(m->b, frames, &c.blob, 1);
    } else {
        feed_checkpoint(m); /* the core says why not */
    }
}

static void tell_missing_checkpoint(const incoming *m)
{
    mq_msg_checkpoint c;
    if (decode(m, &c)) {
        mq_msg_checkpointed told = {
            .id = c.id, .grant = c.grant, .step = c.step, .verdict = mq_str("missing")};
        mq_act_send(m->b, m->conn, MQ_CMD_checkpointed, &told, none);
    }
}

static void pinned(mq_broker *b, mq_pending *p, const mq_pin_answer *answer)
{
    incoming m = {b, p->frames.conn, p->frames.command, p->frames.header, p->frames.payload};
    mq_msg_result result;
    if (answer->code != MQ_OK && answer->code != MQ_E_MISSING) {
        mq_log(MQ_WARN, "blobs not pinned", "error=%s", answer->err.text);
    } else if (m.command == MQ_CMD_checkpoint) {
        if (answer->code == MQ_OK) {
            feed_checkpoint(&m);
        } else {
            tell_missing_checkpoint(&m);
        }
    } else if (decode_result(&m, &result)) {
        mq_span *missing = mq_arena_new(&b->arena, mq_span, answer->missing_count + 1);
        for (uint32_t i = 0; missing != NULL && i < answer->missing_count; i++) {
            missing[i] = mq_str(answer->missing[i]);
        }
        if (missing != NULL) {
            feed_results(&m, &result, missing, answer->missing_count);
        }
    }
}

void mq_receive_pinned(mq_broker *b)
{
    mq_pin_answer answer;
    while (mq_pins_next(b->pins, &answer)) {
        mq_pending **at = &b->pending;
        while (*at != NULL && (*at)->ticket != answer.ticket) {
            at = &(*at)->next;
        }
        mq_pending *p = *at;
        if (p == NULL) {
            continue; /* an unpin */
        }
        pinned(b, p, &answer); /* still listed: its blobs count as being pinned */
        for (at = &b->pending; *at != p; at = &(*at)->next) {
        }
        *at = p->next;
        b->pending_count--;
        mq_frames_release(&p->frames);
        free(p);
    }
}

static bool contains(mq_span haystack, mq_span needle)
{
    return needle.len > 0 && haystack.len >= needle.len &&
           memmem(haystack.data, haystack.len, needle.data, needle.len) != NULL;
}

bool mq_receive_is_pinning(const mq_broker *b, mq_span hash)
{
    for (const mq_pending *p = b->pending; p != NULL; p = p->next) {
        if (contains(p->frames.header, hash)) {
            return true;
        }
    }
    return false;
}

void mq_receive_release(mq_broker *b)
{
    while (b->pending != NULL) {
        mq_pending *p = b->pending;
        b->pending = p->next;
        mq_frames_release(&p->frames);
        free(p);
    }
    mq_arena_release(&b->arena);
}

/* Every message and the side it may come from. */
static void dispatch(const incoming *m, mq_frames *frames)
{
    typedef void handler(const incoming *);
    static const struct {
        mq_command command;
        mq_side_name side;
        handler *handle;
    } rows[] = {
        {MQ_CMD_submit, MQ_FRONT, on_submit},    {MQ_CMD_get, MQ_FRONT, on_get},
        {MQ_CMD_cancel, MQ_FRONT, on_cancel},    {MQ_CMD_command, MQ_FRONT, on_command},
        {MQ_CMD_watch, MQ_FRONT, on_watch},      {MQ_CMD_query, MQ_FRONT, on_query},
        {MQ_CMD_hello, MQ_FRONT, on_hello},      {MQ_CMD_hello, MQ_BACK, on_hello},
        {MQ_CMD_query, MQ_BACK, on_query},       {MQ_CMD_ready, MQ_BACK, on_ready},
        {MQ_CMD_credit, MQ_BACK, on_credit},     {MQ_CMD_beat, MQ_BACK, on_beat},
        {MQ_CMD_progress, MQ_BACK, on_progress}, {MQ_CMD_lost, MQ_BACK, on_lost},
        {MQ_CMD_bye, MQ_BACK, on_bye},
    };
    mq_side_name side = mq_conn_side(m->conn);
    if (side == MQ_BACK && m->command == MQ_CMD_result) {
        on_result(m, frames);
        return;
    }
    if (side == MQ_BACK && m->command == MQ_CMD_checkpoint) {
        on_checkpoint(m, frames);
        return;
    }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].command == m->command && rows[i].side == side) {
            rows[i].handle(m);
            return;
        }
    }
    mq_act_error(m->b, m->conn, 0, MQ_E_ARG, "this message is not for this socket", 0);
}

void mq_receive_moved(mq_broker *b, int limit)
{
    mq_frames frames;
    for (int i = 0; i < limit && mq_side_receive(&b->front, &frames); i++) {
        mq_act_error(b, frames.conn, 0, MQ_E_MOVED, b->moved_to, 0);
        mq_frames_release(&frames);
    }
}

int mq_receive(mq_broker *b, mq_side *side, int limit)
{
    int count = 0;
    if (b->arena.limit_bytes == 0) {
        mq_arena_init(&b->arena, ARENA_BYTES);
    }
    while (count < limit && b->core != NULL) {
        mq_frames frames;
        if (!mq_side_receive(side, &frames)) {
            break;
        }
        count++;
        if (frames.bad != MQ_OK) {
            mq_act_error(b, frames.conn, 0, frames.bad, frames.err.text, 0);
        } else {
            incoming m = {b, frames.conn, frames.command, frames.header, frames.payload};
            dispatch(&m, &frames);
        }
        mq_frames_release(&frames);
    }
    return count;
}
