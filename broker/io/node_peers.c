/* What the process tells clients and workers about shards: who owns which, and that one has gone.
 * Every message here is a hint that saves time; a peer that misses it asks and is sent on. */
#include "broker/io/node.h"

#include <stdio.h>

#include "shared/base/log.h"

enum { PROBES = 16, RETRY_MS = 100, REFUSED_RETRY_MS = 1000 };

static const mq_span none = {0};

static mq_code send(mq_node *n, uint64_t conn, mq_command command, const void *message)
{
    mq_error err;
    mq_buf_reset(&n->header);
    if (mq_wire_encode(command, message, &n->header, &err) != MQ_OK) {
        mq_log(MQ_ERROR_LEVEL, "message too large", "command=%s error=%s", mq_command_name(command),
               err.text);
        return MQ_E_LIMIT;
    }
    mq_side *side = mq_conn_side(conn) == MQ_FRONT ? &n->front : &n->back;
    return mq_side_send(side, conn, command, mq_buf_span(&n->header), none);
}

static const char *endpoint_for(uint64_t conn, const mq_cluster_broker *b)
{
    return mq_conn_side(conn) == MQ_FRONT ? b->front : b->back;
}

static mq_code send_routes(mq_node *n, uint64_t conn)
{
    mq_msg_route rows[MQ_CLUSTER_SHARDS_MAX];
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        const mq_cluster_shard *shard = &n->view.shards[s];
        const mq_cluster_broker *b = mq_cluster_find(&n->view, shard->owner);
        rows[s] = (mq_msg_route){.shard = s, .epoch = shard->epoch};
        rows[s].endpoint = b == NULL || !b->is_alive ? none : mq_str(endpoint_for(conn, b));
    }
    mq_msg_routes m = {.version = n->view.version,
                       .shards = n->view.shard_count,
                       .routes = rows,
                       .routes_count = n->view.shard_count};
    return send(n, conn, MQ_CMD_routes, &m);
}

/* One broker and one shard: nobody needs to be told anything. */
static bool is_alone(const mq_node *n)
{
    return n->view.shard_count <= 1 && n->view.broker_count <= 1;
}

void mq_node_greeted(mq_node *n, uint64_t conn, uint32_t shard)
{
    uint64_t at = (conn ^ conn >> 32) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    mq_peer *peer = NULL;
    for (uint32_t i = 0; i < PROBES; i++) {
        mq_peer *p = &n->peers[(at + i) % MQ_PEERS_MAX];
        if (p->conn == conn) {
            peer = p;
            break;
        }
        peer = peer == NULL && p->conn == 0 ? p : peer;
    }
    /* Full around here: an older one is told no more, and asks when it needs to know. */
    peer = peer == NULL ? &n->peers[at % MQ_PEERS_MAX] : peer;
    bool is_new = peer->conn != conn;
    *peer = (mq_peer){conn, shard};
    if (is_new && !is_alone(n)) {
        (void)send_routes(n, conn);
    }
}

void mq_node_tell_routes(mq_node *n)
{
    if (n->told_version == n->view.version) {
        return;
    }
    n->told_version = n->view.version;
    if (is_alone(n)) {
        return;
    }
    for (uint32_t i = 0; i < MQ_PEERS_MAX; i++) {
        mq_peer *p = &n->peers[i];
        if (p->conn != 0 && send_routes(n, p->conn) == MQ_E_NOT_FOUND) {
            p->conn = 0;
        }
    }
}

static mq_code send_moved(mq_node *n, uint64_t conn, const mq_cluster_broker *to)
{
    bool is_known = to != NULL && strcmp(to->id, n->self.broker.id) != 0;
    mq_msg_error m = {
        .code = mq_str(mq_code_name(is_known ? MQ_E_MOVED : MQ_E_BUSY)),
        .text = mq_str(is_known ? endpoint_for(conn, to) : "nobody is known to own this shard now"),
        .retry_ms = is_known ? 0 : RETRY_MS};
    return send(n, conn, MQ_CMD_error, &m);
}

void mq_node_tell_moved(mq_node *n, uint32_t shard, const mq_cluster_broker *to)
{
    for (uint32_t i = 0; i < MQ_PEERS_MAX; i++) {
        mq_peer *p = &n->peers[i];
        if (p->conn != 0 && p->shard == shard) {
            (void)send_moved(n, p->conn, to);
            p->conn = 0;
        }
    }
}

void mq_node_error(mq_node *n, uint64_t conn, mq_code code, const char *text)
{
    mq_msg_error m = {.code = mq_str(mq_code_name(code)), .text = mq_str(text)};
    (void)send(n, conn, MQ_CMD_error, &m);
}

/* The request that a message is, so that its sender knows what to send again; 0 for none. */
static uint64_t rid_of(mq_node *n, const mq_frames *frames)
{
    union {
        mq_msg_submit submit;
        mq_msg_get get;
        mq_msg_cancel cancel;
        mq_msg_query query;
        mq_msg_command command;
    } m;
    mq_error err;
    mq_command command = frames->command;
    bool has_rid = command == MQ_CMD_submit || command == MQ_CMD_get || command == MQ_CMD_cancel ||
                   command == MQ_CMD_query || command == MQ_CMD_command;
    mq_arena_reset(&n->arena);
    if (!has_rid || mq_wire_decode(command, frames->header, &m, &n->arena, &err) != MQ_OK) {
        return 0;
    }
    return command == MQ_CMD_submit   ? m.submit.rid
           : command == MQ_CMD_get    ? m.get.rid
           : command == MQ_CMD_cancel ? m.cancel.rid
           : command == MQ_CMD_query  ? m.query.rid
                                      : m.command.rid;
}

void mq_node_refuse(mq_node *n, const mq_frames *frames)
{
    if (frames->shard >= mq_node_shards(n)) {
        mq_node_error(n, frames->conn, MQ_E_ARG,
                      "first frame: there is no such shard; welcome tells how many there are");
        return;
    }
    const mq_broker *b = n->shards[frames->shard];
    const mq_cluster_broker *owner = mq_node_owner(n, frames->shard);
    if (owner != NULL || b == NULL || !mq_own_is_refusing(b)) {
        (void)send_moved(n, frames->conn, owner);
        return;
    }
    char text[sizeof b->trouble + 64];
    snprintf(text, sizeof text, "shard %u is not served: %s", b->shard, b->trouble);
    mq_msg_error m = {.rid = rid_of(n, frames),
                      .code = mq_str(mq_code_name(MQ_E_BUSY)),
                      .text = mq_str(text),
                      .retry_ms = REFUSED_RETRY_MS};
    (void)send(n, frames->conn, MQ_CMD_error, &m);
}
