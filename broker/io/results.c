/* Results and checkpoints: those that name blobs wait here until these are pinned, so that a commit
 * never names a blob that may go. Decides nothing about jobs. */
#include <stdlib.h>
#include <string.h>

#include "broker/io/body.h"
#include "broker/io/node.h"
#include "broker/io/receive.h"
#include "shared/base/assert.h"
#include "shared/base/log.h"

static const mq_span none = {0};

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

static void tell_missing(const mq_incoming *m, const mq_msg_result_item *item, mq_span *missing,
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
static bool feed_result(const mq_incoming *m, mq_span worker, const mq_msg_result_item *item,
                        mq_span bytes, int64_t now_ms)
{
    bool is_full = false;
    mq_bytes *bodies[64]; /* item->spawn_count of them */
    for (uint32_t i = 0; i < item->spawn_count; i++) {
        bodies[i] = mq_body_new(item->spawn[i].body, &is_full);
    }
    mq_input in = {.type = MQ_IN_RESULT,
                   .now_ms = now_ms,
                   .conn = m->conn,
                   .body = mq_body_new(bytes, &is_full)};
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

static void feed_results(const mq_incoming *m, const mq_msg_result *result, mq_span *missing,
                         uint32_t missing_count)
{
    mq_span rest = m->payload, bytes;
    int64_t now_ms = mq_broker_now(m->b);
    for (uint32_t i = 0; i < result->jobs_count; i++) {
        const mq_msg_result_item *item = &result->jobs[i];
        MQ_ASSERT(mq_incoming_slice(&rest, item->len, &bytes));
        if (missing_count > 0 && is_missing(item, missing, missing_count)) {
            tell_missing(m, item, missing, missing_count);
        } else if (!feed_result(m, result->worker, item, bytes, now_ms)) {
            return;
        }
    }
}

static bool decode_result(const mq_incoming *m, mq_msg_result *result)
{
    uint64_t sum = 0;
    bool is_overflow = false;
    if (!mq_incoming_decode(m, result)) {
        return false;
    }
    for (uint32_t i = 0; i < result->jobs_count; i++) {
        is_overflow |= __builtin_add_overflow(sum, result->jobs[i].len, &sum);
    }
    return mq_incoming_fits(m, 0, sum, is_overflow);
}

/* Whether the core may commit it: only then its blobs are pinned, else nobody would ever let them
 * go again (a repeat after the verdict, a stale lease). */
static bool is_held(const mq_incoming *m, const mq_msg_result *result, uint32_t i)
{
    const mq_msg_result_item *item = &result->jobs[i];
    return m->b->own == MQ_OWN_LOADING || /* it may be loaded before the answer comes */
           mq_core_holds(m->b->core, item->id, item->epoch, item->grant, result->worker);
}

static bool names_blobs(const mq_msg_result_item *item)
{
    return item->blobs_count > 0 || item->publish_count > 0;
}

/* Hashes that are to be pinned, from the arena; *count 0 when none; NULL when there is no memory.
 */
static mq_span *blobs_of(const mq_incoming *m, const mq_msg_result *result, uint32_t *count)
{
    size_t total = 0;
    for (uint32_t i = 0; i < result->jobs_count; i++) {
        if (!names_blobs(&result->jobs[i])) {
            continue;
        }
        total += is_held(m, result, i) ? result->jobs[i].blobs_count : 0;
        for (uint32_t k = 0; k < result->jobs[i].publish_count && is_held(m, result, i); k++) {
            total += result->jobs[i].publish[k].blobs_count;
        }
    }
    mq_span *all = mq_arena_new(&m->b->arena, mq_span, total + 1);
    *count = 0;
    for (uint32_t i = 0; all != NULL && i < result->jobs_count; i++) {
        const mq_msg_result_item *item = &result->jobs[i];
        if (!names_blobs(item) || !is_held(m, result, i)) {
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
    size_t bytes = frames->header.len + frames->payload.len;
    bool has_room = b->pending_count < MQ_PENDING_MAX &&
                    (b->pending == NULL || b->pending_bytes + bytes <= MQ_PENDING_BYTES_MAX);
    mq_pending *p = has_room ? malloc(sizeof *p) : NULL;
    if (p == NULL) {
        return false; /* the worker sends it again */
    }
    uint64_t ticket = mq_node_ticket(b->node, b->shard);
    mq_code code = mq_pins_ask(b->pins, MQ_PIN, ticket, blobs, count, &err);
    if (code != MQ_OK) {
        if (code == MQ_E_ARG) {
            mq_act_error(b, frames->conn, 0, code, err.text, 0);
        }
        free(p);
        return false;
    }
    *p = (mq_pending){
        .next = b->pending, .ticket = ticket, .generation = b->generation, .frames = *frames};
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
    b->pending_bytes += bytes;
    return true;
}

void mq_incoming_result(const mq_incoming *m, mq_frames *frames)
{
    mq_msg_result result;
    uint32_t count = 0;
    if (!decode_result(m, &result)) {
        return;
    }
    mq_span *blobs = blobs_of(m, &result, &count);
    if (blobs == NULL) {
        return; /* the worker sends it again */
    }
    if (count > 0) {
        put_aside(m->b, frames, blobs, count);
    } else {
        feed_results(m, &result, NULL, 0);
    }
}

static void feed_checkpoint(const mq_incoming *m)
{
    mq_msg_checkpoint checkpoint;
    if (mq_incoming_decode(m, &checkpoint)) {
        mq_input in = {.type = MQ_IN_CHECKPOINT, .conn = m->conn};
        in.as.checkpoint = &checkpoint;
        mq_incoming_step(m->b, &in);
    }
}

void mq_incoming_checkpoint(const mq_incoming *m, mq_frames *frames)
{
    mq_msg_checkpoint c;
    if (!mq_incoming_decode(m, &c)) {
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

static void tell_missing_checkpoint(const mq_incoming *m)
{
    mq_msg_checkpoint c;
    if (mq_incoming_decode(m, &c)) {
        mq_msg_checkpointed told = {
            .id = c.id, .grant = c.grant, .step = c.step, .verdict = mq_str("missing")};
        mq_act_send(m->b, m->conn, MQ_CMD_checkpointed, &told, none);
    }
}

static void pinned(mq_broker *b, mq_pending *p, const mq_pin_answer *answer)
{
    mq_incoming m = {b, p->frames.conn, p->frames.command, p->frames.header, p->frames.payload};
    mq_msg_result result;
    if (p->generation !=
        b->generation) { /* this core may hold what was not pinned for the former */
        mq_log(MQ_INFO, "message of a former core dropped", "command=%s",
               mq_command_name(m.command));
    } else if (answer->code != MQ_OK && answer->code != MQ_E_MISSING) {
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

void mq_receive_pinned(mq_broker *b, const mq_pin_answer *answer)
{
    mq_pending **at = &b->pending;
    while (*at != NULL && (*at)->ticket != answer->ticket) {
        at = &(*at)->next;
    }
    mq_pending *p = *at;
    if (p == NULL) {
        return; /* an unpin */
    }
    pinned(b, p, answer); /* still listed: its blobs count as being pinned */
    for (at = &b->pending; *at != p; at = &(*at)->next) {
    }
    *at = p->next;
    b->pending_count--;
    b->pending_bytes -= p->frames.header.len + p->frames.payload.len;
    mq_frames_release(&p->frames);
    free(p);
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
