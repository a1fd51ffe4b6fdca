/* Messages to the broker: turns the core's actions into frames, and packs what is ready at the
 * moment into as few messages as their limits allow. Must not know sockets. */
#include "client/src/client.h"
#include "shared/base/assert.h"

enum {
    BATCH_JOBS_MAX = 512,
    BATCH_BYTES_MAX =
        1 << 20, /* payload of a message of several jobs; a single one may be larger */
    BATCH_HEADER_MAX = 256 << 10, /* texts of a message of several jobs */
    ACTIONS_MAX = 4096,           /* of one turn */
};

typedef struct batch {
    mq_msg_submit_job jobs[BATCH_JOBS_MAX];
    uint32_t slots[BATCH_JOBS_MAX];
    uint32_t count;
    size_t header_bytes;
    bool is_solo;
} batch;

static void flush(maasq_client *client, batch *b)
{
    if (b->count == 0) {
        return;
    }
    mq_msg_submit message = {
        .rid = mq_ccore_new_batch(&client->core), .jobs = b->jobs, .jobs_count = b->count};
    for (uint32_t i = 0; i < b->count; i++) {
        mq_ccore_batched(&client->core, b->slots[i], message.rid);
    }
    /* What could not go out is sent again by the core's timers. */
    (void)mq_io_send(&client->io, MQ_CMD_submit, &message, mq_buf_span(&client->io.payload));
    mq_buf_reset(&client->io.payload);
    b->count = 0;
    b->header_bytes = 0;
    b->is_solo = false;
}

static size_t header_bytes(const mq_msg_submit_job *r)
{
    return 256 + r->kind.len + r->queue.len + r->model.len + r->tenant.len + r->memo.len +
           r->trace.len + r->unique.len + r->limit_key.len + r->needs.len +
           r->deps_count * (size_t)MQ_CCORE_ID_SIZE;
}

static void add(maasq_client *client, batch *b, const mq_ccore_action *action)
{
    maasq_job *job = client->slots[action->slot].job;
    MQ_ASSERT(job != NULL);
    size_t bytes = header_bytes(&job->request);
    if (action->is_solo || b->is_solo || b->count == BATCH_JOBS_MAX ||
        b->header_bytes + bytes > BATCH_HEADER_MAX ||
        client->io.payload.len + job->body.len > BATCH_BYTES_MAX) {
        flush(client, b);
    }
    if (!mq_buf_add_span(&client->io.payload, job->body)) {
        return; /* no memory at the moment: resent later */
    }
    b->jobs[b->count] = job->request;
    b->slots[b->count] = action->slot;
    b->count++;
    b->header_bytes += bytes;
    b->is_solo = action->is_solo;
}

static void hello(maasq_client *client)
{
    mq_msg_hello message = {.role = mq_str("client"),
                            .name = mq_str(client->name),
                            .version_min = MQ_WIRE_VERSION,
                            .version_max = MQ_WIRE_VERSION};
    (void)mq_io_send(&client->io, MQ_CMD_hello, &message, (mq_span){0});
}

static void ask(maasq_client *client, const mq_ccore_action *action)
{
    maasq_job *job = client->slots[action->slot].job;
    MQ_ASSERT(job != NULL);
    mq_span id = mq_str(job->id);
    if (action->cancel != 0) {
        mq_msg_cancel cancel = {.rid = action->rid, .id = id, .is_hard = action->cancel == 2};
        (void)mq_io_send(&client->io, MQ_CMD_cancel, &cancel, (mq_span){0});
    }
    if (action->wants_watch) {
        mq_msg_watch watch = {.rid = action->rid, .id = id};
        (void)mq_io_send(&client->io, MQ_CMD_watch, &watch, (mq_span){0});
    }
    mq_msg_get get = {.rid = action->rid, .id = id, .want_result = true};
    (void)mq_io_send(&client->io, MQ_CMD_get, &get, (mq_span){0});
}

static void call(maasq_client *client, const mq_ccore_action *action)
{
    mq_call *call = client->slots[action->slot].call;
    if (call == NULL) { /* maasq_connect: any answer will do */
        hello(client);
    } else if (call->command == MQ_CMD_query) {
        call->query.rid = action->rid;
        (void)mq_io_send(&client->io, MQ_CMD_query, &call->query, (mq_span){0});
    } else {
        call->request.rid = action->rid;
        (void)mq_io_send(&client->io, MQ_CMD_command, &call->request, call->body);
    }
}

/* The core gave a job up. */
static void end(maasq_client *client, const mq_ccore_action *action)
{
    mq_slot *slot = &client->slots[action->slot];
    if (slot->job == NULL) {
        return; /* a call: whoever waits for it sees its own limit */
    }
    mq_span text = mq_str(client->refusal.text);
    if (action->code == MQ_E_TIMEOUT) {
        text = mq_str("no answer from any broker in time");
    }
    mq_job_end(
        client, action->slot,
        &(mq_end){.state = "lost", .code = action->code, .error = text, .sends = action->sends});
}

bool mq_client_act(maasq_client *client, int64_t now_ms)
{
    batch b;
    b.count = 0;
    b.header_bytes = 0;
    b.is_solo = false;
    mq_buf_reset(&client->io.payload);
    mq_ccore_action action;
    int count = 0;
    /* Room is asked for once a message, not once a job. Without a link the core only ends and
     * rotates, which needs none. */
    uint64_t sent = client->io.sent;
    bool has_room = mq_ccore_deadline(&client->core) <= now_ms &&
                    (!client->core.is_linked || mq_io_is_writable(&client->io));
    while (count < ACTIONS_MAX && has_room && mq_ccore_next(&client->core, now_ms, &action)) {
        count++;
        switch (action.what) {
        case MQ_CCORE_HELLO:
            hello(client);
            break;
        case MQ_CCORE_ROTATE:
            flush(client, &b);
            mq_io_reconnect(client);
            break;
        case MQ_CCORE_SUBMIT:
            add(client, &b, &action);
            break;
        case MQ_CCORE_ASK:
            ask(client, &action);
            break;
        case MQ_CCORE_SEND:
            call(client, &action);
            break;
        case MQ_CCORE_END:
            end(client, &action);
            break;
        }
        if (client->io.sent != sent || !client->core.is_linked) {
            sent = client->io.sent;
            has_room = !client->core.is_linked || mq_io_is_writable(&client->io);
        }
    }
    flush(client, &b);
    return count == ACTIONS_MAX;
}
