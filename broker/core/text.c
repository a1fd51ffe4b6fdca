/* Puts messages together without printf, so that the core stays free of the C library. */
#include "broker/core/state.h"

void mq_text(mq_error *err, const char *text, mq_span tail)
{
    mq_span head = mq_str(text);
    size_t n = mq_min_size(head.len, sizeof err->text - 1);
    size_t m = mq_min_size(tail.len, sizeof err->text - 1 - n);
    memcpy(err->text, head.data, n);
    if (m > 0) {
        memcpy(err->text + n, tail.data, m);
    }
    err->text[n + m] = '\0';
}

mq_span mq_digits(uint64_t n, char out[21])
{
    size_t at = 21;
    do {
        out[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    return mq_span_of(out + at, 21 - at);
}
