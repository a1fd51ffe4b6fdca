/* Messages in: decodes them, checks that their payload adds up, and feeds the core one input for
 * each job in them. */
#include <stdio.h>
#include <stdlib.h>

#include "broker/io/body.h"
#include "broker/io/cron.h"
#include "broker/io/dead.h"
#include "broker/io/node.h"
#include "broker/io/receive.h"
#include "shared/base/assert.h"
#include "shared/base/ulid.h"

enum { ARENA_BYTES = 16 << 20, AHEAD = 4 /* jobs that are foreseen */ };

static const mq_span none = {0};

static void refuse(const mq_incoming *m, uint64_t rid, const mq_error *err)
{
    mq_act_error(m->b, m->conn, rid, err->code, err->text, 0);
}

/* Decodes into *message; tells the sender what is wrong. */
bool mq_incoming_decode(const mq_incoming *m, void *message)
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
bool mq_incoming_slice(mq_span *rest, uint64_t len, mq_span *out)
{
    if (len > rest->len) {
        return false;
    }
    *out = mq_span_of(rest->data, (size_t)len);
    *rest = mq_span_of(rest->data + len, rest->len - (size_t)len);
    return true;
}

bool mq_incoming_fits(const mq_incoming *m, uint64_t rid, uint64_t sum, bool is_overflow)
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

bool mq_incoming_step(mq_broker *b, mq_input *in)
{
    if (b->core == NULL) {
        mq_body_release(in->body);
        return false;
    }
    mq_act_step(b, in);
    return true;
}

/* ---- both sides ---- */

static void on_hello(const mq_incoming *m)
{
    mq_msg_hello hello;
    mq_error err;
    if (!mq_incoming_decode(m, &hello)) {
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
                              .instance = mq_str(b->witness->instance),
                              .blobs = mq_str(b->config->blobs_told),
                              .now_ms = mq_broker_now(b),
                              .beat_ms = (uint64_t)b->config->beat_ms,
                              .lease_ms = (uint64_t)b->config->lease_ms,
                              .shards = mq_node_shards(b->node),
                              .shard = b->shard};
    mq_act_send(m->b, m->conn, MQ_CMD_welcome, &welcome, none);
    mq_node_greeted(b->node, m->conn, b->shard);
}

static void on_query(const mq_incoming *m)
{
    mq_msg_query query;
    if (mq_incoming_decode(m, &query)) {
        mq_answer_query(m->b, m->conn, &query);
    }
}

/* ---- clients ---- */

/* Ids and the ids of deps must be of this shard: nobody would find the job otherwise. */
static bool is_at_home(const mq_incoming *m, const mq_msg_submit *submit)
{
    uint32_t shards = mq_node_shards(m->b->node);
    for (uint32_t i = 0; shards > 1 && i < submit->jobs_count; i++) {
        const mq_msg_submit_job *j = &submit->jobs[i];
        bool is_here = mq_ulid_shard(j->id, shards) == m->b->shard;
        for (uint32_t k = 0; k < j->deps_count; k++) {
            is_here = is_here && mq_ulid_shard(j->deps[k], shards) == m->b->shard;
        }
        if (!is_here) {
            mq_error err;
            mq_fail(&err, MQ_E_ARG,
                    "id: %.*s or one of its deps is not of shard %u, to which it was sent; an id's "
                    "letters 11 and 12 tell its shard, and deps live in one shard",
                    MQ_SPAN_ARG(j->id), m->b->shard);
            refuse(m, submit->rid, &err);
            return false;
        }
    }
    return true;
}

static void on_submit(const mq_incoming *m)
{
    mq_msg_submit submit;
    if (!mq_incoming_decode(m, &submit)) {
        return;
    }
    uint64_t sum = 0;
    bool is_overflow = false;
    for (uint32_t i = 0; i < submit.jobs_count; i++) {
        is_overflow |= __builtin_add_overflow(sum, submit.jobs[i].len, &sum);
    }
    if (!mq_incoming_fits(m, submit.rid, sum, is_overflow)) {
        return;
    }
    if (!is_at_home(m, &submit)) {
        return;
    }
    mq_span rest = m->payload, body;
    int64_t now_ms = mq_broker_now(m->b);
    for (uint32_t i = 0; i < submit.jobs_count; i++) {
        bool is_full = false;
        if (i + AHEAD < submit.jobs_count && m->b->core != NULL) {
            mq_core_foresee(m->b->core, submit.jobs[i + AHEAD].id);
        }
        MQ_ASSERT(mq_incoming_slice(&rest, submit.jobs[i].len, &body));
        mq_input in = {.type = MQ_IN_SUBMIT, .now_ms = now_ms, .conn = m->conn, .rid = submit.rid};
        in.body = mq_body_new(body, &is_full);
        in.as.submit = &submit.jobs[i];
        if (is_full) {
            mq_act_error(m->b, m->conn, submit.rid, MQ_E_BUSY, "no memory for the body", 1000);
            return;
        }
        if (!mq_incoming_step(m->b, &in)) {
            return;
        }
    }
}

static void on_get(const mq_incoming *m)
{
    mq_msg_get get;
    if (mq_incoming_decode(m, &get)) {
        mq_gets_ask(m->b, m->conn, &get);
    }
}

static void on_cancel(const mq_incoming *m)
{
    mq_msg_cancel cancel;
    if (mq_incoming_decode(m, &cancel)) {
        mq_input in = {.type = MQ_IN_CANCEL, .conn = m->conn, .rid = cancel.rid};
        in.as.cancel = &cancel;
        mq_incoming_step(m->b, &in);
    }
}

static void on_command(const mq_incoming *m)
{
    mq_msg_command command;
    if (!mq_incoming_decode(m, &command)) {
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
    if (m->b->core == NULL || mq_dead_command(m->b, m->conn, &command) ||
        mq_cron_command(m->b, m->conn, &command, m->payload)) {
        return;
    }
    mq_input in = {.type = MQ_IN_COMMAND, .conn = m->conn, .rid = command.rid};
    in.as.command = &command;
    mq_incoming_step(m->b, &in);
}

static void on_watch(const mq_incoming *m)
{
    mq_msg_watch watch;
    if (!mq_incoming_decode(m, &watch)) {
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
        mq_incoming_step(m->b, &in);
    }
}

/* ---- workers ---- */

static void on_ready(const mq_incoming *m)
{
    mq_msg_ready ready;
    if (mq_incoming_decode(m, &ready)) {
        mq_input in = {.type = MQ_IN_READY, .conn = m->conn};
        in.as.ready = &ready;
        mq_incoming_step(m->b, &in);
    }
}

static void on_credit(const mq_incoming *m)
{
    mq_msg_credit credit;
    if (mq_incoming_decode(m, &credit)) {
        mq_input in = {.type = MQ_IN_CREDIT, .conn = m->conn};
        in.as.credit = &credit;
        mq_incoming_step(m->b, &in);
    }
}

static void note(mq_broker *b, mq_span id, mq_span progress, mq_span log)
{
    mq_input in = {.type = MQ_IN_NOTE};
    in.as.note.id = id;
    in.as.note.progress = progress;
    in.as.note.log = log;
    mq_incoming_step(b, &in);
}

static void on_beat(const mq_incoming *m)
{
    mq_msg_beat beat;
    if (!mq_incoming_decode(m, &beat)) {
        return;
    }
    for (uint32_t i = 0; i < beat.jobs_count && m->b->core != NULL; i++) {
        const mq_msg_held *h = &beat.jobs[i];
        if (h->progress.len > 0 &&
            mq_core_holds(m->b->core, h->id, h->epoch, h->grant, beat.worker)) {
            mq_gets_progress(m->b, h->id, h->progress, none);
            note(m->b, h->id, h->progress, none);
        }
    }
    mq_input in = {.type = MQ_IN_BEAT, .conn = m->conn};
    in.as.beat = &beat;
    mq_incoming_step(m->b, &in);
}

static void on_progress(const mq_incoming *m)
{
    mq_msg_progress p;
    if (mq_incoming_decode(m, &p) && m->b->core != NULL &&
        mq_core_holds(m->b->core, p.id, p.epoch, p.grant, none)) {
        mq_gets_progress(m->b, p.id, p.progress, p.log);
        note(m->b, p.id, p.progress, p.log);
    }
}

static void on_lost(const mq_incoming *m)
{
    mq_msg_lost lost;
    if (mq_incoming_decode(m, &lost) && m->b->core != NULL) {
        if (mq_core_holds(m->b->core, lost.id, lost.epoch, lost.grant, none)) {
            mq_answer_news(m->b, "lost", "seat %llu of job %.*s, seen by a peer",
                           (unsigned long long)lost.seat, MQ_SPAN_ARG(lost.id));
        }
        mq_input in = {.type = MQ_IN_LOST, .conn = m->conn};
        in.as.lost = &lost;
        mq_incoming_step(m->b, &in);
    }
}

static void on_bye(const mq_incoming *m)
{
    mq_msg_bye bye;
    if (mq_incoming_decode(m, &bye)) {
        mq_input in = {.type = MQ_IN_BYE, .conn = m->conn};
        in.as.worker = bye.worker;
        mq_incoming_step(m->b, &in);
    }
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
static void dispatch(const mq_incoming *m, mq_frames *frames)
{
    typedef void handler(const mq_incoming *);
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
        mq_incoming_result(m, frames);
        return;
    }
    if (side == MQ_BACK && m->command == MQ_CMD_checkpoint) {
        mq_incoming_checkpoint(m, frames);
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

void mq_receive(mq_broker *b, mq_frames *frames)
{
    if (b->arena.limit_bytes == 0) {
        mq_arena_init(&b->arena, ARENA_BYTES);
    }
    mq_incoming m = {b, frames->conn, frames->command, frames->header, frames->payload};
    dispatch(&m, frames);
}
