/* SHA-256 (FIPS 180-4) through OpenSSL, which uses the CPU's own instructions. */
#ifndef MQ_BASE_SHA256_H
#define MQ_BASE_SHA256_H

#include "shared/base/span.h"

enum { MQ_SHA256_BYTES = 32, MQ_SHA256_HEX = 65 }; /* HEX counts the NUL */

typedef struct mq_sha256 mq_sha256; /* a running hash */

mq_sha256 *mq_sha256_new(void); /* aborts only when memory is gone */
void mq_sha256_add(mq_sha256 *hash, mq_span bytes);

/* Writes the digest and frees the running hash. */
void mq_sha256_end(mq_sha256 *hash, uint8_t out[MQ_SHA256_BYTES]);

void mq_sha256_of(mq_span bytes, uint8_t out[MQ_SHA256_BYTES]);

/* Digest of bytes as 64 lower-case hex digits and a NUL. */
void mq_sha256_hex_of(mq_span bytes, char out[MQ_SHA256_HEX]);
void mq_sha256_hex(const uint8_t digest[MQ_SHA256_BYTES], char out[MQ_SHA256_HEX]);

/* True when s is exactly 64 lower-case hex digits: the only form in which a blob is named. */
bool mq_sha256_is_hex(mq_span s);

#endif
