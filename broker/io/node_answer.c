/* Shards and brokers for operators: any broker answers from the table of the cluster, and passes
 * wishes on to it. Fields: shared/wire/ANSWERS.md. */
#include <stdio.h>
#include <stdlib.h>

#include "broker/io/answers.h"
#include "broker/io/node.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"

static void send(mq_node *n, uint64_t conn, mq_command command, const void *message,
                 mq_span payload)
{
    mq_error err;
    mq_buf_reset(&n->header);
    if (mq_wire_encode(command, message, &n->header, &err) == MQ_OK) {
        mq_side *side = mq_conn_side(conn) == MQ_FRONT ? &n->front : &n->back;
        (void)mq_side_send(side, conn, command, mq_buf_span(&n->header), payload);
    }
}

/* ---- questions ---- */

static void list_shards(mq_node *n, mq_buf *out)
{
    mq_json_int(out, "version", (int64_t)n->view.version);
    mq_json_int(out, "now_ms", n->view.now_ms);
    mq_json_key(out, "shards");
    mq_buf_add_str(out, "[");
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        const mq_cluster_shard *shard = &n->view.shards[s];
        const mq_cluster_broker *owner = mq_cluster_find(&n->view, shard->owner);
        bool is_owned = owner != NULL && owner->is_alive;
        uint32_t target = n->target[s];
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_int(out, "shard", s);
        mq_json_text(out, "owner", mq_str(is_owned ? owner->id : ""));
        mq_json_text(out, "name", mq_str(is_owned ? owner->name : ""));
        mq_json_int(out, "epoch", (int64_t)shard->epoch);
        mq_json_int(out, "jobs", (int64_t)shard->jobs);
        mq_json_int(out, "since_ms", shard->since_ms);
        mq_json_text(out, "pin", mq_str(shard->pin));
        mq_json_text(out, "target",
                     mq_str(target < n->view.broker_count ? n->view.brokers[target].id : ""));
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
}

static void list_brokers(mq_node *n, mq_buf *out)
{
    mq_json_int(out, "now_ms", n->view.now_ms);
    mq_json_key(out, "brokers");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < n->view.broker_count; i++) {
        const mq_cluster_broker *b = &n->view.brokers[i];
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "broker", mq_str(b->id));
        mq_json_text(out, "name", mq_str(b->name));
        mq_json_text(out, "front", mq_str(b->front));
        mq_json_text(out, "back", mq_str(b->back));
        mq_json_int(out, "since_ms", b->since_ms);
        mq_json_int(out, "beat_age_ms", n->view.now_ms - (b->until_ms - n->config->tenure_ms));
        mq_json_int(out, "load_milli", (int64_t)b->load_milli);
        mq_json_bool(out, "is_alive", b->is_alive);
        mq_json_bool(out, "is_draining", b->is_draining);
        int64_t jobs = 0;
        mq_json_key(out, "shards");
        mq_buf_add_str(out, "[");
        for (uint32_t s = 0; s < n->view.shard_count; s++) {
            if (strcmp(n->view.shards[s].owner, b->id) == 0) {
                mq_json_comma(out);
                mq_buf_printf(out, "%u", s);
                jobs += (int64_t)n->view.shards[s].jobs;
            }
        }
        mq_buf_add_str(out, "]");
        mq_json_int(out, "jobs", jobs);
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
}

static bool answer_query(mq_node *n, const mq_frames *frames)
{
    mq_msg_query query;
    mq_arena_reset(&n->arena);
    if (mq_wire_decode(frames->command, frames->header, &query, &n->arena, NULL) != MQ_OK) {
        return false;
    }
    bool is_shards = mq_span_is(query.what, "shards");
    if (!is_shards && !mq_span_is(query.what, "brokers")) {
        return false;
    }
    mq_buf_reset(&n->answer);
    mq_buf_add_str(&n->answer, "{");
    if (is_shards) {
        list_shards(n, &n->answer);
    } else {
        list_brokers(n, &n->answer);
    }
    mq_buf_add_str(&n->answer, "}");
    mq_msg_answer answer = {.rid = query.rid, .verdict = mq_str(mq_code_name(MQ_OK))};
    send(n, frames->conn, MQ_CMD_answer, &answer, mq_buf_span(&n->answer));
    return true;
}

/* ---- commands ---- */

/* A wish under way. */
typedef struct wish {
    mq_node *node;
    uint64_t conn, rid;
} wish;

static void reply(mq_node *n, uint64_t conn, uint64_t rid, mq_code code, const char *text)
{
    mq_msg_reply m = {.rid = rid, .verdict = mq_str(mq_code_name(code)), .text = mq_str(text)};
    send(n, conn, MQ_CMD_reply, &m, (mq_span){0});
}

static void on_set(void *arg, mq_code code, const mq_error *err)
{
    wish *w = arg;
    w->node->is_settled = false; /* look at once what has become of it */
    reply(w->node, w->conn, w->rid, code, code == MQ_OK ? "" : err->text);
    free(w);
}

/* The one broker with this id, this name, or an id that begins so. */
static mq_code find_broker(const mq_node *n, mq_span given, const mq_cluster_broker **out,
                           mq_error *err)
{
    uint32_t found = 0, named = 0;
    for (uint32_t i = 0; i < n->view.broker_count; i++) {
        const mq_cluster_broker *b = &n->view.brokers[i];
        bool is_start = given.len > 0 && given.len <= strlen(b->id) &&
                        memcmp(b->id, given.data, given.len) == 0;
        if (mq_span_is(given, b->id)) {
            *out = b;
            return MQ_OK;
        }
        named += mq_span_is(given, b->name);
        found += is_start;
        bool is_best = mq_span_is(given, b->name) || (named == 0 && is_start);
        *out = is_best ? b : *out;
    }
    found = named > 0 ? named : found;
    return found == 1
               ? MQ_OK
               : mq_fail(err, found == 0 ? MQ_E_NOT_FOUND : MQ_E_ARG,
                         "broker %.*s: %s; `maasq broker list` shows their ids", MQ_SPAN_ARG(given),
                         found == 0 ? "there is none" : "several are named so");
}

static mq_code move_shard(mq_node *n, const mq_msg_command *m, wish *w, mq_error *err)
{
    char number[8];
    if (m->args_count != 2 || !mq_span_copy(m->args[0], number, sizeof number)) {
        return mq_fail(err, MQ_E_ARG, "shard-move: takes a shard and a broker, or \"auto\"");
    }
    char *end = NULL;
    unsigned long shard = strtoul(number, &end, 10);
    if (number[0] == '\0' || *end != '\0' || shard >= n->view.shard_count) {
        return mq_fail(err, MQ_E_ARG, "shard %s: outside 0..%u", number, n->view.shard_count - 1);
    }
    const mq_cluster_broker *b = NULL;
    if (!mq_span_is(m->args[1], "auto")) {
        mq_code code = find_broker(n, m->args[1], &b, err);
        if (code != MQ_OK) {
            return code;
        }
        if (!b->is_alive || b->is_draining) {
            return mq_fail(err, MQ_E_ARG, "broker %s: it %s", b->name,
                           b->is_alive ? "is draining" : "is not there now");
        }
    }
    return mq_cluster_pin(n->cluster, (uint32_t)shard, b == NULL ? "" : b->id, on_set, w, err);
}

static mq_code drain_broker(mq_node *n, const mq_msg_command *m, wish *w, mq_error *err)
{
    const mq_cluster_broker *b = NULL;
    if (m->args_count != 1) {
        return mq_fail(err, MQ_E_ARG, "%.*s: takes a broker", MQ_SPAN_ARG(m->verb));
    }
    mq_code code = find_broker(n, m->args[0], &b, err);
    return code != MQ_OK ? code
                         : mq_cluster_drain(n->cluster, b->id, mq_span_is(m->verb, "broker-drain"),
                                            on_set, w, err);
}

static bool answer_command(mq_node *n, const mq_frames *frames)
{
    mq_msg_command m;
    mq_error err = {0};
    mq_arena_reset(&n->arena);
    if (mq_conn_side(frames->conn) != MQ_FRONT ||
        mq_wire_decode(frames->command, frames->header, &m, &n->arena, NULL) != MQ_OK) {
        return false;
    }
    bool is_move = mq_span_is(m.verb, "shard-move");
    if (!is_move && !mq_span_is(m.verb, "broker-drain") && !mq_span_is(m.verb, "broker-undrain")) {
        return false;
    }
    wish *w = malloc(sizeof *w);
    MQ_ASSERT(w != NULL);
    *w = (wish){n, frames->conn, m.rid};
    mq_code code = is_move ? move_shard(n, &m, w, &err) : drain_broker(n, &m, w, &err);
    if (code != MQ_OK) {
        free(w);
        reply(n, frames->conn, m.rid, code, err.text);
    }
    return true;
}

bool mq_node_answer(mq_node *n, const mq_frames *frames)
{
    if (frames->command == MQ_CMD_query) {
        return answer_query(n, frames);
    }
    return frames->command == MQ_CMD_command && answer_command(n, frames);
}
