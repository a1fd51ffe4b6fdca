/* Counted bytes; see body.h. */
#include "broker/io/body.h"

#include <stdlib.h>

#include "shared/base/assert.h"

typedef struct counted {
    mq_bytes bytes; /* first: the core sees only this */
    uint32_t references;
    uint8_t data[];
} counted;

mq_bytes *mq_body_new(mq_span s, bool *is_full)
{
    if (s.len == 0) {
        return NULL;
    }
    counted *c = malloc(sizeof *c + s.len);
    if (c == NULL) {
        *is_full = true;
        return NULL;
    }
    memcpy(c->data, s.data, s.len);
    c->references = 1;
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
    if (--c->references == 0) {
        free(c);
    }
}
