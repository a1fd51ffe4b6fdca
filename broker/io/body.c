/* Counted bytes; see body.h. */
#include "broker/io/body.h"

#include <stdlib.h>

#include "shared/base/assert.h"

enum {
    SMALL_BYTES = 256, /* most bodies and results are; they are kept for the next one */
    SPARES_MAX = 4096, /* 1 MiB of them */
};

typedef struct counted {
    mq_bytes bytes; /* first: the core sees only this */
    uint32_t references;
    bool is_small; /* has room for SMALL_BYTES */
    struct counted *next;
    uint8_t data[];
} counted;

static counted *spares; /* of the one thread that has bodies */
static uint32_t spare_count;

static counted *take(size_t len)
{
    counted *c = spares;
    if (len > SMALL_BYTES || c == NULL) {
        return malloc(sizeof *c + (len > SMALL_BYTES ? len : SMALL_BYTES));
    }
    spares = c->next;
    spare_count--;
    return c;
}

mq_bytes *mq_body_new(mq_span s, bool *is_full)
{
    if (s.len == 0) {
        return NULL;
    }
    counted *c = take(s.len);
    if (c == NULL) {
        *is_full = true;
        return NULL;
    }
    memcpy(c->data, s.data, s.len);
    c->references = 1;
    c->is_small = s.len <= SMALL_BYTES;
    c->bytes = (mq_bytes){c->data, s.len};
    return &c->bytes;
}

void mq_body_release(mq_bytes *bytes)
{
    if (bytes == NULL) {
        return;
    }
    counted *c = (counted *)bytes;
    MQ_ASSERT(c->references > 0);
    if (--c->references > 0) {
        return;
    }
    if (c->is_small && spare_count < SPARES_MAX) {
        c->next = spares;
        spares = c;
        spare_count++;
    } else {
        free(c);
    }
}
