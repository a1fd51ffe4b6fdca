/* Answers of transient jobs that found their client's queue full. They are the only word that a
 * client gets of such a job, so they are kept and offered again each turn: at most MQ_LATE_MAX
 * messages and MQ_LATE_BYTES_MAX bytes; beyond that the newest is dropped and the client learns by
 * its deadline. */
#include <stdlib.h>

#include "broker/io/broker.h"

struct mq_late {
    mq_late *next;
    uint64_t conn;
    size_t header_bytes, bytes;
    uint8_t data[]; /* header, then payload */
};

bool mq_late_add(mq_broker *b, uint64_t conn, mq_span header, mq_span payload)
{
    size_t bytes = header.len + payload.len;
    if (b->late_count == MQ_LATE_MAX || bytes > MQ_LATE_BYTES_MAX - b->late_bytes) {
        return false;
    }
    mq_late *late = malloc(sizeof *late + bytes);
    if (late == NULL) {
        return false;
    }
    *late = (mq_late){.conn = conn, .header_bytes = header.len, .bytes = bytes};
    memcpy(late->data, header.data, header.len);
    if (payload.len > 0) {
        memcpy(late->data + header.len, payload.data, payload.len);
    }
    mq_late **end = &b->late;
    while (*end != NULL) { /* in order; the list is short */
        end = &(*end)->next;
    }
    *end = late;
    b->late_count++;
    b->late_bytes += bytes;
    return true;
}

static void take_out(mq_broker *b, mq_late **at)
{
    mq_late *late = *at;
    *at = late->next;
    b->late_count--;
    b->late_bytes -= late->bytes;
    free(late);
}

void mq_late_turn(mq_broker *b)
{
    uint64_t full = 0; /* the connection met last that is still full: keeps its answers in order */
    mq_late **at = &b->late;
    while (*at != NULL) {
        const mq_late *late = *at;
        mq_code code = MQ_E_BUSY;
        if (late->conn != full) {
            code = mq_side_send(
                b->front, late->conn, MQ_CMD_done, mq_span_of(late->data, late->header_bytes),
                mq_span_of(late->data + late->header_bytes, late->bytes - late->header_bytes));
        }
        if (code == MQ_E_BUSY) {
            full = late->conn;
            at = &(*at)->next;
        } else {
            take_out(b, at);
        }
    }
}

int64_t mq_late_wait_ms(const mq_broker *b)
{
    return b->late == NULL ? INT64_MAX : 1;
}

void mq_late_release(mq_broker *b)
{
    while (b->late != NULL) {
        take_out(b, &b->late);
    }
}
