/* Short answers that travel together: what several steps of one turn say to one peer leaves as one
 * message at the turn's end. The core's outputs live until its next step only, so their texts are
 * copied. Must not know what an answer means. */
#include <stdlib.h>

#include "broker/io/broker.h"
#include "shared/base/assert.h"

enum {
    TEXT_BYTES = 256 << 10, /* copied texts of one message */
    PAYLOAD_BYTES = 1 << 20,
    ITEM_PAYLOAD_MAX = 8 << 10, /* larger results are not copied: they go at once */
};

typedef union item {
    mq_msg_submitted_job submitted;
    mq_msg_done_job done;
    mq_msg_held_verdict verdict;
} item;

/* The message being put together for one peer. */
typedef struct open_message {
    uint64_t conn, rid;
    uint32_t count;
    bool is_only_word; /* of a transient job: nobody can ask for it again */
    item items[MQ_GROUP_MAX];
    mq_buf text, payload;
} open_message;

/* In the order in which they leave: an acceptance goes before the end of the same job. */
enum { BOX_SUBMITTED, BOX_DONE, BOX_VERDICT, BOX_COUNT };

struct mq_outbox {
    open_message boxes[BOX_COUNT];
};

mq_code mq_outbox_new(mq_outbox **out, mq_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the broker's answers");
    }
    for (int i = 0; i < BOX_COUNT; i++) {
        open_message *m = &(*out)->boxes[i];
        mq_buf_init(&m->text, TEXT_BYTES);
        mq_buf_init(&m->payload, PAYLOAD_BYTES);
        /* Never moved afterwards: items point into it. */
        if (mq_buf_extend(&m->text, TEXT_BYTES) == NULL) {
            return mq_fail(err, MQ_E_LIMIT, "no memory for the broker's answers");
        }
        mq_buf_reset(&m->text);
    }
    return MQ_OK;
}

void mq_outbox_free(mq_outbox *box)
{
    for (int i = 0; box != NULL && i < BOX_COUNT; i++) {
        mq_buf_release(&box->boxes[i].text);
        mq_buf_release(&box->boxes[i].payload);
    }
    free(box);
}

static mq_span keep(open_message *m, mq_span text)
{
    size_t at = m->text.len;
    if (text.len == 0) {
        return (mq_span){0};
    }
    bool is_kept = mq_buf_add_span(&m->text, text);
    MQ_ASSERT(is_kept); /* room was looked at before */
    return mq_span_of(m->text.data + at, text.len);
}

static void flush(mq_broker *b, int which)
{
    open_message *m = &b->outbox->boxes[which];
    uint32_t count = m->count;
    m->count = 0;
    if (count == 0) {
        return;
    }
    if (which == BOX_SUBMITTED) {
        mq_msg_submitted_job all[MQ_GROUP_MAX];
        for (uint32_t i = 0; i < count; i++) {
            all[i] = m->items[i].submitted;
        }
        mq_msg_submitted message = {.rid = m->rid, .jobs = all, .jobs_count = count};
        mq_act_send(b, m->conn, MQ_CMD_submitted, &message, (mq_span){0});
    } else if (which == BOX_VERDICT) {
        mq_msg_held_verdict all[MQ_GROUP_MAX];
        for (uint32_t i = 0; i < count; i++) {
            all[i] = m->items[i].verdict;
        }
        mq_msg_verdict message = {.verdicts = all, .verdicts_count = count};
        mq_act_send(b, m->conn, MQ_CMD_verdict, &message, (mq_span){0});
    } else {
        mq_msg_done_job all[MQ_GROUP_MAX];
        for (uint32_t i = 0; i < count; i++) {
            all[i] = m->items[i].done;
        }
        mq_msg_done message = {.jobs = all, .jobs_count = count};
        mq_span payload = mq_buf_span(&m->payload);
        if (mq_act_send(b, m->conn, MQ_CMD_done, &message, payload) == MQ_E_BUSY &&
            m->is_only_word) {
            mq_late_add(b, m->conn, mq_buf_span(&b->header), payload);
        }
    }
    m->is_only_word = false;
    mq_buf_reset(&m->text);
    mq_buf_reset(&m->payload);
}

void mq_outbox_flush(mq_broker *b)
{
    for (int i = 0; i < BOX_COUNT; i++) {
        flush(b, i);
    }
}

static size_t text_bytes(const mq_output *o)
{
    if (o->type == MQ_OUT_SUBMITTED) {
        const mq_msg_submitted_job *j = &o->as.submitted;
        return j->id.len + j->verdict.len + j->state.len + j->text.len;
    }
    if (o->type == MQ_OUT_ENDED) {
        const mq_msg_done_job *j = &o->as.ended.done;
        return j->id.len + j->state.len + j->why.len + j->code.len + j->error.len;
    }
    const mq_msg_held_verdict *v = &o->as.verdict;
    return v->missing_count > 0 ? TEXT_BYTES : v->id.len + v->verdict.len;
}

/* Where an output goes; BOX_COUNT when it must go by itself. */
static int box_of(const mq_output *o)
{
    if (o->conn == 0 || o->payload.len > ITEM_PAYLOAD_MAX || text_bytes(o) > TEXT_BYTES / 16) {
        return BOX_COUNT;
    }
    return o->type == MQ_OUT_SUBMITTED ? BOX_SUBMITTED
           : o->type == MQ_OUT_ENDED   ? BOX_DONE
                                       : BOX_VERDICT;
}

/* Copies one answer behind the others of its message. */
static void put(open_message *m, const mq_output *o)
{
    item *to = &m->items[m->count++];
    if (o->type == MQ_OUT_SUBMITTED) {
        mq_msg_submitted_job *j = &to->submitted;
        *j = o->as.submitted;
        j->id = keep(m, j->id);
        j->verdict = keep(m, j->verdict);
        j->state = keep(m, j->state);
        j->text = keep(m, j->text);
    } else if (o->type == MQ_OUT_VERDICT) {
        mq_msg_held_verdict *v = &to->verdict;
        *v = o->as.verdict;
        v->id = keep(m, v->id);
        v->verdict = keep(m, v->verdict);
    } else {
        mq_msg_done_job *j = &to->done;
        *j = o->as.ended.done;
        j->id = keep(m, j->id);
        j->state = keep(m, j->state);
        j->why = keep(m, j->why);
        j->code = keep(m, j->code);
        j->error = keep(m, j->error);
        j->len = o->payload.len;
        m->is_only_word |= o->as.ended.is_transient;
        bool is_kept = mq_buf_add_span(&m->payload, o->payload);
        MQ_ASSERT(is_kept);
    }
}

bool mq_outbox_add(mq_broker *b, const mq_output *o)
{
    int which = box_of(o);
    if (which == BOX_COUNT) {
        mq_outbox_flush(b); /* nothing overtakes what was said before */
        return false;
    }
    open_message *m = &b->outbox->boxes[which];
    bool is_same = m->conn == o->conn && (which != BOX_SUBMITTED || m->rid == o->rid);
    uint32_t limit = which == BOX_VERDICT ? 256 : MQ_GROUP_MAX;
    if (!is_same || m->count == limit || m->text.len + text_bytes(o) > TEXT_BYTES ||
        m->payload.len + o->payload.len > PAYLOAD_BYTES) {
        if (which == BOX_DONE) { /* an acceptance goes before the end of the same job */
            flush(b, BOX_SUBMITTED);
        }
        flush(b, which);
        m->conn = o->conn;
        m->rid = o->rid;
    }
    put(m, o);
    return true;
}
