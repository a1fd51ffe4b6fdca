/* Short answers that travel together: what several steps of one turn say to one peer leaves as one
 * message at the turn's end. Each is written into its message at once: the core's outputs live
 * until its next step only. Must not know what an answer means. */
#include <stdlib.h>

#include "broker/io/broker.h"
#include "shared/base/assert.h"

enum {
    PAYLOAD_BYTES = 1 << 20,
    ITEM_PAYLOAD_MAX = 8 << 10, /* larger results are not copied: they go at once */
};

/* The message being put together for one peer. */
typedef struct open_message {
    uint64_t conn, rid;
    bool is_open;
    bool is_only_word; /* of a transient job: nobody can ask for it again */
    mq_wire_list list;
    mq_buf header, payload;
} open_message;

/* In the order in which they leave: an acceptance goes before the end of the same job. */
enum { BOX_SUBMITTED, BOX_DONE, BOX_VERDICT, BOX_COUNT };

struct mq_outbox {
    open_message boxes[BOX_COUNT];
};

static const mq_command commands[BOX_COUNT] = {MQ_CMD_submitted, MQ_CMD_done, MQ_CMD_verdict};

mq_code mq_outbox_new(mq_outbox **out, mq_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the broker's answers");
    }
    for (int i = 0; i < BOX_COUNT; i++) {
        mq_buf_init(&(*out)->boxes[i].header, MQ_HEADER_BYTES_MAX);
        mq_buf_init(&(*out)->boxes[i].payload, PAYLOAD_BYTES);
    }
    return MQ_OK;
}

void mq_outbox_free(mq_outbox *box)
{
    for (int i = 0; box != NULL && i < BOX_COUNT; i++) {
        mq_buf_release(&box->boxes[i].header);
        mq_buf_release(&box->boxes[i].payload);
    }
    free(box);
}

static void flush(mq_broker *b, int which)
{
    open_message *m = &b->outbox->boxes[which];
    if (!m->is_open) {
        return;
    }
    m->is_open = false;
    mq_wire_list_end(&m->list, &m->header);
    mq_span header = mq_buf_span(&m->header), payload = mq_buf_span(&m->payload);
    if (mq_act_send_packed(b, m->conn, commands[which], header, payload) == MQ_E_BUSY &&
        m->is_only_word) {
        mq_late_add(b, m->conn, header, payload);
    }
}

void mq_outbox_flush(mq_broker *b)
{
    for (int i = 0; i < BOX_COUNT; i++) {
        flush(b, i);
    }
}

/* Where an output goes; BOX_COUNT when it must go by itself. */
static int box_of(const mq_output *o)
{
    if (o->conn == 0 || o->payload.len > ITEM_PAYLOAD_MAX) {
        return BOX_COUNT;
    }
    if (o->type == MQ_OUT_VERDICT) {
        return o->as.verdict.missing_count > 0 ? BOX_COUNT : BOX_VERDICT;
    }
    return o->type == MQ_OUT_SUBMITTED ? BOX_SUBMITTED : BOX_DONE;
}

static bool begin(open_message *m, int which, const mq_output *o)
{
    const mq_msg_submitted submitted = {.rid = o->rid};
    const mq_msg_done done = {0};
    const mq_msg_verdict verdict = {0};
    const void *const messages[BOX_COUNT] = {&submitted, &done, &verdict};
    m->conn = o->conn;
    m->rid = o->rid;
    m->is_only_word = false;
    mq_buf_reset(&m->payload);
    m->is_open = mq_wire_list_begin(&m->list, commands[which], messages[which], &m->header);
    return m->is_open;
}

/* Writes one answer behind the others of its message. False: it has no room. */
static bool put(open_message *m, mq_output *o)
{
    if (o->type == MQ_OUT_SUBMITTED) {
        return mq_wire_list_add(&m->list, &o->as.submitted, &m->header);
    }
    if (o->type == MQ_OUT_VERDICT) {
        return mq_wire_list_add(&m->list, &o->as.verdict, &m->header);
    }
    o->as.ended.done.len = o->payload.len;
    if (m->payload.len + o->payload.len > PAYLOAD_BYTES ||
        !mq_wire_list_add(&m->list, &o->as.ended.done, &m->header)) {
        return false;
    }
    m->is_only_word |= o->as.ended.is_transient;
    bool is_kept = mq_buf_add_span(&m->payload, o->payload);
    MQ_ASSERT(is_kept);
    return true;
}

bool mq_outbox_add(mq_broker *b, mq_output *o)
{
    int which = box_of(o);
    if (which == BOX_COUNT) {
        mq_outbox_flush(b); /* nothing overtakes what was said before */
        return false;
    }
    open_message *m = &b->outbox->boxes[which];
    bool is_same = m->is_open && m->conn == o->conn && (which != BOX_SUBMITTED || m->rid == o->rid);
    if (is_same && put(m, o)) {
        return true;
    }
    if (which == BOX_DONE) { /* an acceptance goes before the end of the same job */
        flush(b, BOX_SUBMITTED);
    }
    flush(b, which);
    bool is_put = begin(m, which, o) && put(m, o);
    m->is_open = is_put;
    return is_put; /* else there is no memory: it is tried by itself */
}
