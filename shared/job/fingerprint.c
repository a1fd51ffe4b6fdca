/* Fingerprints of failures; see fingerprint.h. It must not know jobs. */
#include "shared/job/fingerprint.h"

#include "shared/base/map.h"

static bool is_word(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c >= 0x80;
}

/* The next word or sign of the text; what separates words is taken off its front. */
static mq_span next_part(mq_span *rest, bool *has_digit)
{
    size_t n = 0;
    *has_digit = false;
    while (rest->len > 0 && rest->data[0] <= ' ') {
        *rest = mq_span_of(rest->data + 1, rest->len - 1);
    }
    while (n < rest->len && is_word(rest->data[n])) {
        *has_digit |= rest->data[n] >= '0' && rest->data[n] <= '9';
        n++;
    }
    n += n == 0 && rest->len > 0;
    mq_span part = mq_span_of(rest->data, n);
    *rest = mq_span_of(rest->data + n, rest->len - n);
    return part;
}

void mq_error_fingerprint(mq_span kind, mq_span why, mq_span code, mq_span error,
                          char out[MQ_FINGERPRINT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    uint64_t hash = mq_hash64(code, mq_hash64(why, mq_hash64(kind, 1)));
    bool has_digit = false;
    while (error.len > 0) {
        mq_span part = next_part(&error, &has_digit);
        hash = part.len > 0 ? mq_hash64(has_digit ? mq_str("#") : part, hash) : hash;
    }
    for (int i = 0; i < MQ_FINGERPRINT_SIZE - 1; i++) {
        out[i] = digits[hash >> (60 - 4 * i) & 15];
    }
    out[MQ_FINGERPRINT_SIZE - 1] = '\0';
}
