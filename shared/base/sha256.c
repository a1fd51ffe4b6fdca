/* SHA-256 through OpenSSL's EVP interface. */
#include "shared/base/sha256.h"

#include <openssl/evp.h>

#include "shared/base/assert.h"

mq_sha256 *mq_sha256_new(void)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    MQ_ASSERT(ctx != NULL);
    MQ_ASSERT(EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1);
    return (mq_sha256 *)ctx;
}

void mq_sha256_add(mq_sha256 *hash, mq_span bytes)
{
    if (bytes.len > 0) {
        MQ_ASSERT(EVP_DigestUpdate((EVP_MD_CTX *)hash, bytes.data, bytes.len) == 1);
    }
}

void mq_sha256_end(mq_sha256 *hash, uint8_t out[MQ_SHA256_BYTES])
{
    unsigned len = 0;
    MQ_ASSERT(EVP_DigestFinal_ex((EVP_MD_CTX *)hash, out, &len) == 1);
    MQ_ASSERT(len == MQ_SHA256_BYTES);
    EVP_MD_CTX_free((EVP_MD_CTX *)hash);
}

void mq_sha256_of(mq_span bytes, uint8_t out[MQ_SHA256_BYTES])
{
    mq_sha256 *hash = mq_sha256_new();
    mq_sha256_add(hash, bytes);
    mq_sha256_end(hash, out);
}

void mq_sha256_hex(const uint8_t digest[MQ_SHA256_BYTES], char out[MQ_SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < MQ_SHA256_BYTES; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[MQ_SHA256_HEX - 1] = '\0';
}

void mq_sha256_hex_of(mq_span bytes, char out[MQ_SHA256_HEX])
{
    uint8_t digest[MQ_SHA256_BYTES];
    mq_sha256_of(bytes, digest);
    mq_sha256_hex(digest, out);
}

bool mq_sha256_is_hex(mq_span s)
{
    if (s.len != MQ_SHA256_HEX - 1) {
        return false;
    }
    for (size_t i = 0; i < s.len; i++) {
        if (!((s.data[i] >= '0' && s.data[i] <= '9') || (s.data[i] >= 'a' && s.data[i] <= 'f'))) {
            return false;
        }
    }
    return true;
}
