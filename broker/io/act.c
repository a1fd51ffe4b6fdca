/* Does what the core says: groups items that go to one connection into one message, encodes and
 * sends them, hands commits to own.c. Nothing here decides anything. */
#include <stdlib.h>

#include "broker/io/body.h"
#include "broker/io/broker.h"
#include "broker/io/dead.h"
#include "shared/base/assert.h"
#include "shared/base/log.h"

mq_code mq_act_send_packed(mq_broker *b, uint64_t conn, mq_command command, mq_span header,
                           mq_span payload)
{
    mq_side *side = mq_conn_side(conn) == MQ_FRONT ? b->front : b->back;
    mq_code code = mq_side_send(side, conn, command, header, payload);
    if (code == MQ_E_NOT_FOUND && side == b->front) {
        mq_gets_drop(b, conn);
    }
    return code;
}

mq_code mq_act_send(mq_broker *b, uint64_t conn, mq_command command, const void *message,
                    mq_span payload)
{
    mq_error err;
    if (conn == 0) {
        return MQ_E_NOT_FOUND;
    }
    mq_buf_reset(&b->header);
    if (mq_wire_encode(command, message, &b->header, &err) != MQ_OK) {
        mq_log(MQ_ERROR_LEVEL, "message too large", "command=%s error=%s", mq_command_name(command),
               err.text);
        return MQ_E_LIMIT;
    }
    return mq_act_send_packed(b, conn, command, mq_buf_span(&b->header), payload);
}

void mq_act_error(mq_broker *b, uint64_t conn, uint64_t rid, mq_code code, const char *text,
                  uint64_t retry_ms)
{
    mq_msg_error message = {
        .rid = rid, .code = mq_str(mq_code_name(code)), .text = mq_str(text), .retry_ms = retry_ms};
    mq_act_send(b, conn, MQ_CMD_error, &message, (mq_span){0});
}

/* Outputs of others between two that travel together: with a thousand peers none looks at all. */
enum { GAP_MAX = 64 };

/* Items that travel together: how each output type becomes a list message. */
typedef struct group {
    uint32_t count;
    uint32_t at[MQ_GROUP_MAX]; /* indices of outputs */
} group;

static bool is_grouped(mq_output_type type)
{
    return type == MQ_OUT_SUBMITTED || type == MQ_OUT_ENDED || type == MQ_OUT_JOB ||
           type == MQ_OUT_VERDICT;
}

static uint32_t group_limit(mq_output_type type)
{
    return type == MQ_OUT_SUBMITTED || type == MQ_OUT_ENDED ? 512 : 256;
}

/* A JOB that could not be sent goes back to the core at once, without penalty. Copied, since the
 * next step overwrites the outputs. */
typedef struct lost_job {
    char id[32];
    size_t id_len;
    uint64_t conn, grant;
    bool is_gone;
} lost_job;

typedef struct lost_jobs {
    lost_job *all; /* owned */
    uint32_t count;
} lost_jobs;

static void lose(mq_broker *b, lost_jobs *lost, const group *g, bool is_gone)
{
    lost_job *more = realloc(lost->all, (lost->count + g->count) * sizeof *more);
    MQ_ASSERT(more != NULL);
    lost->all = more;
    for (uint32_t i = 0; i < g->count; i++) {
        const mq_output *o = &b->out->items[g->at[i]];
        lost_job *job = &more[lost->count++];
        *job = (lost_job){.id_len = o->as.job.id.len,
                          .conn = o->conn,
                          .grant = o->as.job.grant,
                          .is_gone = is_gone};
        MQ_ASSERT(job->id_len <= sizeof job->id);
        memcpy(job->id, o->as.job.id.data, job->id_len);
    }
}

static void give_back(mq_broker *b, lost_jobs *lost)
{
    for (uint32_t i = 0; i < lost->count && b->core != NULL; i++) {
        const lost_job *job = &lost->all[i];
        mq_input in = {.type = MQ_IN_UNSENT, .conn = job->conn};
        in.as.unsent.id = mq_span_of(job->id, job->id_len);
        in.as.unsent.grant = job->grant;
        in.as.unsent.is_gone = job->is_gone;
        mq_act_step(b, &in);
    }
    free(lost->all);
}

static void send_submitted(mq_broker *b, const group *g)
{
    mq_msg_submitted_job items[MQ_GROUP_MAX];
    const mq_output *first = &b->out->items[g->at[0]];
    for (uint32_t i = 0; i < g->count; i++) {
        items[i] = b->out->items[g->at[i]].as.submitted;
    }
    mq_msg_submitted message = {.rid = first->rid, .jobs = items, .jobs_count = g->count};
    mq_act_send(b, first->conn, MQ_CMD_submitted, &message, (mq_span){0});
}

static void send_done(mq_broker *b, const group *g)
{
    mq_msg_done_job items[MQ_GROUP_MAX];
    const mq_output *first = &b->out->items[g->at[0]];
    mq_span payload = first->payload;
    bool is_only_word = false; /* of a transient job: nobody can ask for it again */
    mq_buf_reset(&b->payload);
    for (uint32_t i = 0; i < g->count; i++) {
        const mq_output *o = &b->out->items[g->at[i]];
        is_only_word |= o->as.ended.is_transient;
        items[i] = o->as.ended.done;
        items[i].len = o->payload.len;
        if (g->count > 1) {
            mq_buf_add_span(&b->payload, o->payload);
            payload = mq_buf_span(&b->payload);
        }
    }
    MQ_ASSERT(!b->payload.is_full);
    mq_msg_done message = {.jobs = items, .jobs_count = g->count};
    if (mq_act_send(b, first->conn, MQ_CMD_done, &message, payload) == MQ_E_BUSY && is_only_word) {
        mq_late_add(b, first->conn, mq_buf_span(&b->header), payload);
    }
}

static mq_code send_jobs(mq_broker *b, const group *g)
{
    const mq_msg_job message = {0};
    const mq_output *first = &b->out->items[g->at[0]];
    mq_span payload = first->payload;
    mq_wire_list list;
    mq_buf_reset(&b->payload);
    bool is_whole = mq_wire_list_begin(&list, MQ_CMD_job, &message, &b->header);
    for (uint32_t i = 0; i < g->count; i++) {
        mq_output *o = &b->out->items[g->at[i]];
        o->as.job.len = o->payload.len;
        is_whole = is_whole && mq_wire_list_add(&list, &o->as.job, &b->header);
        if (g->count > 1) {
            mq_buf_add_span(&b->payload, o->payload);
            payload = mq_buf_span(&b->payload);
        }
    }
    MQ_ASSERT(is_whole && !b->payload.is_full); /* group_from looked at the sizes */
    mq_wire_list_end(&list, &b->header);
    return mq_act_send_packed(b, first->conn, MQ_CMD_job, mq_buf_span(&b->header), payload);
}

static void send_verdicts(mq_broker *b, const group *g)
{
    mq_msg_held_verdict items[MQ_GROUP_MAX];
    for (uint32_t i = 0; i < g->count; i++) {
        items[i] = b->out->items[g->at[i]].as.verdict;
        if (mq_span_is(items[i].verdict, "stale")) {
            mq_log(MQ_DEBUG, "stale result refused", "job=%.*s epoch=%llu grant=%llu",
                   MQ_SPAN_ARG(items[i].id), (unsigned long long)items[i].epoch,
                   (unsigned long long)items[i].grant);
        }
    }
    mq_msg_verdict message = {.verdicts = items, .verdicts_count = g->count};
    mq_act_send(b, b->out->items[g->at[0]].conn, MQ_CMD_verdict, &message, (mq_span){0});
}

/* Sends one group. False when a JOB group could not be sent (the caller tells the core afterwards).
 */
static mq_code send_group(mq_broker *b, const group *g)
{
    switch (b->out->items[g->at[0]].type) { /* NOLINT: only grouped types come here */
    case MQ_OUT_SUBMITTED:
        send_submitted(b, g);
        return MQ_OK;
    case MQ_OUT_ENDED:
        send_done(b, g);
        return MQ_OK;
    case MQ_OUT_VERDICT:
        send_verdicts(b, g);
        return MQ_OK;
    case MQ_OUT_JOB:
        return send_jobs(b, g);
    case MQ_OUT_REPLY:
    case MQ_OUT_CHANGED:
    case MQ_OUT_REGISTERED:
    case MQ_OUT_BEATEN:
    case MQ_OUT_CHECKPOINTED:
    case MQ_OUT_ROSTER:
    case MQ_OUT_DRAIN:
    case MQ_OUT_ERROR:
    case MQ_OUT_RELEASE:
    case MQ_OUT_FETCH:
    case MQ_OUT_ASK:
    case MQ_OUT_UNPIN:
        break;
    }
    MQ_ASSERT(false);
    return MQ_E_INTERNAL;
}

static bool is_same_group(const mq_output *a, const mq_output *o)
{
    return a->type == o->type && a->conn == o->conn &&
           (a->type != MQ_OUT_SUBMITTED || a->rid == o->rid);
}

/* Rough size of an item in the header, so that a message stays below MQ_HEADER_BYTES_MAX. */
static size_t header_bytes(const mq_output *o)
{
    size_t bytes = 1100;
    if (o->type == MQ_OUT_JOB) {
        bytes += (size_t)o->as.job.members_count * 420 + o->as.job.meta.len;
    } else if (o->type == MQ_OUT_VERDICT) {
        bytes += (size_t)o->as.verdict.missing_count * 70;
    }
    return bytes;
}

/* Collects the group that begins at output i and marks its members as taken. */
static void group_from(mq_broker *b, uint32_t i, uint8_t *taken, group *g)
{
    const mq_output *first = &b->out->items[i];
    uint32_t limit = group_limit(first->type), misses = 0;
    size_t bytes = 0, header = 0;
    g->count = 0;
    for (uint32_t k = i; k < b->out->count && g->count < limit && misses < GAP_MAX; k++) {
        const mq_output *o = &b->out->items[k];
        if (taken[k] != 0 || !is_same_group(first, o)) {
            misses++;
            continue;
        }
        if (g->count > 0 && (bytes + o->payload.len > MQ_OUT_PAYLOAD_MAX ||
                             header + header_bytes(o) > MQ_HEADER_BYTES_MAX)) {
            break;
        }
        misses = 0;
        bytes += o->payload.len;
        header += header_bytes(o);
        taken[k] = 1;
        g->at[g->count++] = k;
    }
}

static void tell_ended(mq_broker *b, const mq_output *o)
{
    if (!o->as.ended.is_transient) {
        mq_gets_ended(b, &o->as.ended, o->payload);
    }
    if (o->as.ended.state == MQ_STATE_DEAD) {
        mq_answer_news(b, "dead", "job %.*s (%.*s): %.*s %.*s", MQ_SPAN_ARG(o->as.ended.done.id),
                       MQ_SPAN_ARG(o->as.ended.kind), MQ_SPAN_ARG(o->as.ended.done.why),
                       MQ_SPAN_ARG(o->as.ended.done.error));
    }
}

static void ask_store(mq_broker *b, const mq_output *o);

/* A question of the core to the store. */
typedef struct core_ask {
    mq_broker *b;
    uint64_t generation;
    uint32_t ask;
} core_ask;

static bool is_current(const core_ask *a)
{
    return a->generation == a->b->generation && a->b->core != NULL;
}

static void on_body(void *arg, mq_code code, mq_span id, mq_span body)
{
    core_ask *a = arg;
    bool is_full = false;
    if (is_current(a) && code == MQ_OK) {
        mq_input in = {.type = MQ_IN_BODY, .body = mq_body_new(body, &is_full)};
        in.as.id = id;
        mq_act_step(a->b, &in);
    } else if (is_current(a)) { /* the link broke: ask again */
        mq_output again = {.type = MQ_OUT_FETCH};
        again.as.ask.id = id;
        ask_store(a->b, &again);
    }
    free(a);
}

static void on_found(void *arg, mq_code code, mq_span record, mq_span result, const mq_error *err)
{
    core_ask *a = arg;
    (void)result;
    if (is_current(a)) {
        mq_input in = {.type = MQ_IN_FOUND};
        in.as.found.ask = a->ask;
        in.as.found.record = code == MQ_OK ? record : (mq_span){0};
        in.as.found.is_failed = code != MQ_OK && code != MQ_E_NOT_FOUND;
        mq_act_step(a->b, &in);
        if (in.as.found.is_failed) { /* what hung on the answer is lost with it: load anew */
            a->b->own = MQ_OWN_NONE;
            mq_own_trouble(a->b, err->text);
        }
    }
    free(a);
}

/* FETCH and ASK: a question to the store whose answer goes back into the core. */
static void ask_store(mq_broker *b, const mq_output *o)
{
    core_ask *a = calloc(1, sizeof *a);
    MQ_ASSERT(a != NULL);
    *a = (core_ask){.b = b, .generation = b->generation, .ask = o->as.ask.ask};
    mq_error err;
    mq_code code = o->type == MQ_OUT_FETCH ? mq_asks_body(b->asks, o->as.ask.id, on_body, a, &err)
                                           : mq_asks_job(b->asks, o->as.ask.id, on_found, a, &err);
    if (code != MQ_OK) { /* the lease of a job without its body lapses; senders ask again */
        mq_log(MQ_WARN, "store not asked", "job=%.*s error=%s", MQ_SPAN_ARG(o->as.ask.id),
               err.text);
        free(a);
    }
}

static void unpin(mq_broker *b, mq_span hash)
{
    mq_error err;
    if (mq_receive_is_pinning(b, hash)) {
        return;
    }
    if (mq_pins_ask(b->pins, MQ_UNPIN, 0, &hash, 1, &err) != MQ_OK) {
        mq_log(MQ_WARN, "blob stays pinned", "blob=%.*s error=%s", MQ_SPAN_ARG(hash), err.text);
    }
}

/* Everything that is not grouped. */
static void act_single(mq_broker *b, const mq_output *o)
{
    static const mq_span none = {0};
    switch (o->type) {
    case MQ_OUT_REPLY:
        if (o->conn == MQ_CONN_SELF) {
            mq_dead_replied(b, o->rid, o->as.reply.verdict);
        } else {
            mq_act_send(b, o->conn, MQ_CMD_reply, &o->as.reply, none);
        }
        break;
    case MQ_OUT_CHANGED:
        mq_gets_changed(b, o->as.changed.id, o->as.changed.state);
        break;
    case MQ_OUT_REGISTERED:
        mq_act_send(b, o->conn, MQ_CMD_registered, &o->as.registered, none);
        break;
    case MQ_OUT_BEATEN:
        mq_act_send(b, o->conn, MQ_CMD_beaten, &o->as.beaten, none);
        break;
    case MQ_OUT_CHECKPOINTED:
        mq_act_send(b, o->conn, MQ_CMD_checkpointed, &o->as.checkpointed, none);
        break;
    case MQ_OUT_ROSTER:
        mq_act_send(b, o->conn, MQ_CMD_roster, &o->as.roster, none);
        break;
    case MQ_OUT_DRAIN:
        mq_act_send(b, o->conn, MQ_CMD_drain, &o->as.drain, none);
        break;
    case MQ_OUT_ERROR:
        mq_act_send(b, o->conn, MQ_CMD_error, &o->as.error, none);
        break;
    case MQ_OUT_RELEASE:
        mq_body_release(o->bytes);
        break;
    case MQ_OUT_FETCH:
    case MQ_OUT_ASK:
        ask_store(b, o);
        break;
    case MQ_OUT_UNPIN:
        unpin(b, o->as.hash);
        break;
    case MQ_OUT_ENDED:
        tell_ended(b, o);
        break;
    case MQ_OUT_SUBMITTED:
    case MQ_OUT_JOB:
    case MQ_OUT_VERDICT:
        break;
    }
}

/* Sends what travels in groups. */
static void act_groups(mq_broker *b, lost_jobs *lost)
{
    static uint8_t taken[MQ_OUTPUTS_MAX]; /* one thread; not in use when a step nests */
    memset(taken, 0, b->out->count);
    for (uint32_t i = 0; i < b->out->count; i++) {
        mq_output *o = &b->out->items[i];
        if (taken[i] != 0 || !is_grouped(o->type) || o->conn == 0) {
            continue;
        }
        if (o->type != MQ_OUT_JOB && mq_outbox_add(b, o)) {
            continue;
        }
        group g;
        group_from(b, i, taken, &g);
        mq_code code = send_group(b, &g);
        if (code != MQ_OK && o->type == MQ_OUT_JOB) {
            lose(b, lost, &g, code == MQ_E_NOT_FOUND);
        }
    }
}

void mq_act_step(mq_broker *b, mq_input *in)
{
    in->now_ms = in->now_ms == 0 ? mq_broker_now(b) : in->now_ms;
    mq_core_step(b->core, in, b->out);
    uint64_t generation = b->generation;
    if (b->out->batch != NULL) {
        mq_commit_send(b, b->out);
    }
    lost_jobs lost = {0};
    act_groups(b, &lost);
    for (uint32_t i = 0; i < b->out->count; i++) {
        mq_output_type type = b->out->items[i].type;
        if (!is_grouped(type) || type == MQ_OUT_ENDED) {
            act_single(b, &b->out->items[i]);
        }
    }
    if (generation == b->generation) {
        give_back(b, &lost);
    } else {
        free(lost.all);
    }
}
