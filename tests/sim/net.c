/* Connections between peers and brokers. Within one, messages keep their order, as over TCP; what
 * is lost is lost with the connection, or found no room. Nobody learns what arrived. */
#include "tests/sim/sim.h"

static sim_conn *conn_of(sim *s, uint64_t conn)
{
    MQ_ASSERT(conn > 0 && conn <= s->conn_count);
    return &s->conns[conn - 1];
}

static void link_tell(sim *s, uint32_t peer, bool is_up)
{
    if (peer < SIM_BROKERS + SIM_WORKERS) {
        sim_worker_link(s, &s->workers[peer - SIM_BROKERS], is_up);
    } else {
        sim_client_link(s, &s->clients[peer - SIM_BROKERS - SIM_WORKERS], is_up);
    }
}

static uint64_t open_conn(sim *s, uint32_t peer, uint32_t broker)
{
    if (s->conn_count == s->conn_capacity) {
        s->conn_capacity = s->conn_capacity * 2 + 64;
        s->conns = realloc(s->conns, s->conn_capacity * sizeof *s->conns);
        MQ_ASSERT(s->conns != NULL);
    }
    s->conns[s->conn_count++] = (sim_conn){.is_open = true, .peer = peer, .broker = broker};
    return s->conn_count;
}

/* a: attempt. */
static void try_connect(sim *s, sim_event *e)
{
    uint32_t peer = e->party;
    sim_party *p = &s->parties[peer];
    if (p->attempt != e->a || p->conn != 0) {
        return;
    }
    bool is_there = s->parties[p->broker].is_alive && s->partition_ms[peer][p->broker] <= s->now_ms;
    if (!is_there) {
        sim_at(s, s->now_ms + 100 + (int64_t)sim_draw(s, 400), try_connect, peer, e->a, NULL);
        return;
    }
    p->conn = open_conn(s, peer, p->broker);
    sim_trace(s, "party %u connects to broker %u: %llu", peer, p->broker,
              (unsigned long long)p->conn);
    link_tell(s, peer, true);
}

void sim_connect(sim *s, uint32_t peer, uint32_t broker)
{
    sim_party *p = &s->parties[peer];
    if (p->conn != 0) {
        sim_conn *old = conn_of(s, p->conn);
        old->is_left = old->is_open && !s->is_calm && sim_draw(s, 2) == 0;
        old->is_open = false;
        p->conn = 0;
    }
    p->broker = broker;
    p->attempt++;
    sim_at(s, s->now_ms + 1 + (int64_t)sim_draw(s, (uint64_t)s->delay_max_ms), try_connect, peer,
           p->attempt, NULL);
}

/* The peer sees that its connection is gone; a: that connection. It tries again by itself. */
static void notice(sim *s, sim_event *e)
{
    sim_party *p = &s->parties[e->party];
    if (p->conn != e->a) {
        return;
    }
    p->conn = 0;
    link_tell(s, e->party, false);
    if (p->conn == 0) {
        sim_connect(s, e->party, p->broker);
    }
}

void sim_break(sim *s, uint64_t conn)
{
    sim_conn *c = conn_of(s, conn);
    if (!c->is_open) {
        return;
    }
    sim_trace(s, "connection %llu breaks", (unsigned long long)conn);
    c->is_open = false;
    sim_at(s, s->now_ms + (int64_t)sim_draw(s, 200), notice, c->peer, conn, NULL);
}

void sim_break_all_of(sim *s, uint32_t party)
{
    for (uint32_t i = 0; i < s->conn_count; i++) {
        const sim_conn *c = &s->conns[i];
        if (c->is_open && (c->broker == party || c->peer == party)) {
            sim_break(s, i + 1);
        }
    }
}

/* A peer, or all of them, cannot reach a broker for a while, or only not be reached by it. */
void sim_partition(sim *s)
{
    uint32_t broker = (uint32_t)sim_draw(s, s->broker_count);
    uint64_t which = sim_draw(s, SIM_PARTIES + 2), ways = sim_draw(s, 3);
    int64_t until_ms = s->now_ms + (int64_t)sim_draw(s, sim_draw(s, 2) == 0 ? 2000 : 20000);
    sim_trace(s, "partition of %d from broker %u until %lld", (int)which, broker,
              (long long)until_ms);
    for (uint32_t i = SIM_BROKERS; i < SIM_PARTIES; i++) {
        if (which < SIM_PARTIES && which != i) {
            continue;
        }
        s->partition_ms[i][broker] = until_ms;
        sim_conn *c = s->parties[i].conn == 0 ? NULL : conn_of(s, s->parties[i].conn);
        if (c != NULL && c->broker == broker) {
            c->stall_ms[0] = ways != 1 ? until_ms : c->stall_ms[0];
            c->stall_ms[1] = ways != 2 ? until_ms : c->stall_ms[1];
        }
    }
}

/* A slow peer: one connection carries nothing for a while in one direction. */
void sim_stall(sim *s)
{
    uint64_t recent = mq_min_size(s->conn_count, 8);
    sim_conn *c = conn_of(s, s->conn_count - sim_draw(s, recent));
    c->stall_ms[sim_draw(s, 2)] = s->now_ms + (int64_t)sim_draw(s, 6000);
}

static void deliver(sim *s, sim_event *e)
{
    sim_message *m = e->data;
    sim_conn *c = conn_of(s, m->conn);
    c->queued[m->is_down]--;
    if (!c->is_open && (m->is_down || !c->is_left)) {
        return;
    }
    if (!m->is_down) {
        e->data = NULL;
        sim_broker_receive(s, &s->brokers[c->broker], m);
    } else if (c->peer < SIM_BROKERS + SIM_WORKERS) {
        sim_worker_receive(s, &s->workers[c->peer - SIM_BROKERS], m);
    } else {
        sim_client_receive(s, &s->clients[c->peer - SIM_BROKERS - SIM_WORKERS], m);
    }
}

static sim_message *message_new(const sim *s, uint64_t conn, bool is_down, mq_command command,
                                mq_span payload)
{
    size_t len = s->header.len + payload.len;
    sim_message *m = malloc(sizeof *m + len + 1);
    MQ_ASSERT(m != NULL);
    *m = (sim_message){.conn = conn,
                       .is_down = is_down,
                       .sent_ms = s->now_ms,
                       .command = command,
                       .header_len = s->header.len,
                       .payload_len = payload.len};
    if (s->header.len > 0) {
        memcpy(m->bytes, s->header.data, s->header.len);
    }
    if (payload.len > 0) {
        memcpy(m->bytes + s->header.len, payload.data, payload.len);
    }
    return m;
}

/* When a message that is sent now arrives: never before one that was sent earlier. */
static int64_t arrival(sim *s, sim_conn *c, bool is_down)
{
    int64_t at_ms = s->now_ms + (int64_t)sim_draw(s, (uint64_t)s->delay_max_ms + 1);
    at_ms = mq_max_i64(at_ms, c->last_ms[is_down]);
    at_ms = mq_max_i64(at_ms, s->is_calm ? 0 : c->stall_ms[is_down]);
    c->last_ms[is_down] = at_ms;
    return at_ms;
}

mq_code sim_send(sim *s, uint64_t conn, bool is_down, mq_command command, const void *message,
                 mq_span payload)
{
    mq_error err = {0};
    if (conn == 0) {
        return MQ_E_NOT_FOUND;
    }
    sim_conn *c = conn_of(s, conn);
    if (!c->is_open && (is_down || sim_draw(s, 2) == 0)) {
        return MQ_E_NOT_FOUND;
    }
    if ((c->queued[is_down] >= SIM_PIPE && !s->is_calm) || sim_fault_now(s, SIM_F_PIPE_FULL)) {
        return MQ_E_BUSY;
    }
    mq_buf_reset(&s->header);
    mq_code code = mq_wire_encode(command, message, &s->header, &err);
    SIM_CHECK(s, code == MQ_OK, "a message %s cannot be encoded: %s", mq_command_name(command),
              err.text);
    uint32_t to = is_down ? c->peer : c->broker;
    bool may_repeat = command != MQ_CMD_job && command != MQ_CMD_roster;
    int copies = may_repeat && sim_fault_now(s, SIM_F_REPEAT) ? 2 : 1;
    for (int i = 0; i < copies; i++) {
        c->queued[is_down]++;
        sim_at(s, arrival(s, c, is_down), deliver, to, 0,
               message_new(s, conn, is_down, command, payload));
    }
    return MQ_OK;
}
