/* Finished jobs as stored; see value.h. */
#include "shared/store/value.h"

mq_span mq_value_pack(mq_arena *arena, const mq_value *value)
{
    size_t n = value->record.len;
    mq_span tail = value->is_large ? value->token : value->result;
    uint8_t *p = mq_arena_alloc(arena, MQ_VALUE_HEAD_BYTES + n + tail.len, 1);
    if (p == NULL) {
        return (mq_span){0};
    }
    const uint8_t head[MQ_VALUE_HEAD_BYTES] = {value->is_large ? 'r' : 'i', (uint8_t)n,
                                               (uint8_t)(n >> 8), (uint8_t)(n >> 16),
                                               (uint8_t)(n >> 24)};
    memcpy(p, head, sizeof head);
    if (n > 0) {
        memcpy(p + sizeof head, value->record.data, n);
    }
    if (tail.len > 0) {
        memcpy(p + sizeof head + n, tail.data, tail.len);
    }
    return mq_span_of(p, MQ_VALUE_HEAD_BYTES + n + tail.len);
}

mq_code mq_value_read(mq_value *value, mq_span bytes, mq_error *err)
{
    *value = (mq_value){0};
    if (bytes.len < MQ_VALUE_HEAD_BYTES || (bytes.data[0] != 'i' && bytes.data[0] != 'r')) {
        return mq_fail(err, MQ_E_FORMAT, "stored job: not a value of this version");
    }
    const uint8_t *p = bytes.data;
    size_t n = p[1] | (size_t)p[2] << 8 | (size_t)p[3] << 16 | (size_t)p[4] << 24;
    size_t rest = bytes.len - MQ_VALUE_HEAD_BYTES;
    if (n > rest) {
        return mq_fail(err, MQ_E_FORMAT, "stored job: record of %zu bytes in %zu", n, rest);
    }
    value->record = mq_span_of(p + MQ_VALUE_HEAD_BYTES, n);
    value->is_large = p[0] == 'r';
    mq_span tail = mq_span_of(p + MQ_VALUE_HEAD_BYTES + n, rest - n);
    *(value->is_large ? &value->token : &value->result) = tail;
    return MQ_OK;
}
