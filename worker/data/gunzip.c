/* Decompression with limits; see gunzip.h. The only user of zlib. */
#include "worker/data/gunzip.h"

#include <zlib.h>

#include "shared/base/math.h"

enum { STEP_BYTES = 1 << 20, WINDOW_GZIP = 15 + 16 };

bool mq_gunzip_is(mq_span bytes)
{
    return bytes.len >= 3 && bytes.data[0] == 0x1f && bytes.data[1] == 0x8b && bytes.data[2] == 8;
}

/* Lets inflate write the next piece; bounds what there is so far. */
static mq_code step(z_stream *z, mq_span bytes, size_t limit, mq_buf *out, int *status,
                    mq_error *err)
{
    size_t room = mq_min_size(STEP_BYTES, limit - out->len);
    size_t start = out->len;
    uint8_t *at = mq_buf_extend(out, room == 0 ? 1 : room);
    if (at == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "gzip: more than %zu bytes when decompressed", out->limit);
    }
    z->next_out = at;
    z->avail_out = (uInt)(room == 0 ? 1 : room);
    *status = inflate(z, Z_NO_FLUSH);
    out->len -= z->avail_out;
    if (out->len > limit) {
        return mq_fail(err, MQ_E_LIMIT,
                       "gzip: more than %zu bytes when decompressed; the limit is %d times the "
                       "file and %d more",
                       limit, MQ_GUNZIP_RATIO_MAX, MQ_GUNZIP_FREE_BYTES);
    }
    size_t offset = (size_t)(z->next_in - bytes.data);
    if (*status == Z_BUF_ERROR || (*status == Z_OK && out->len == start && z->avail_in == 0)) {
        return mq_fail(err, MQ_E_FORMAT, "gzip: the file ends at byte %zu inside the data", offset);
    }
    if (*status != Z_OK && *status != Z_STREAM_END) {
        return mq_fail(err, MQ_E_FORMAT, "gzip: damaged before byte %zu: %s", offset,
                       z->msg == NULL ? "not readable" : z->msg);
    }
    return MQ_OK;
}

mq_code mq_gunzip(mq_span bytes, mq_buf *out, mq_error *err)
{
    z_stream z = {0};
    size_t limit;
    if (bytes.len > UINT32_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "gzip: a file of %zu bytes; the limit is 4 GiB", bytes.len);
    }
    if (!mq_mul_size(bytes.len, MQ_GUNZIP_RATIO_MAX, &limit) ||
        !mq_add_size(limit, MQ_GUNZIP_FREE_BYTES, &limit)) {
        limit = SIZE_MAX;
    }
    limit = mq_min_size(limit, out->limit);
    z.next_in = (Bytef *)(uintptr_t)bytes.data;
    z.avail_in = (uInt)bytes.len;
    if (inflateInit2(&z, WINDOW_GZIP) != Z_OK) {
        return mq_fail(err, MQ_E_LIMIT, "gzip: no memory");
    }
    mq_code code = MQ_OK;
    int status = Z_OK;
    while (code == MQ_OK && (status != Z_STREAM_END || z.avail_in > 0)) {
        if (status == Z_STREAM_END) {
            mq_span rest = mq_span_of(z.next_in, z.avail_in);
            if (!mq_gunzip_is(rest)) {
                code = mq_fail(err, MQ_E_FORMAT, "gzip: %u bytes of something else from byte %zu",
                               z.avail_in, bytes.len - z.avail_in);
                break;
            }
            inflateReset(&z);
        }
        code = step(&z, bytes, limit, out, &status, err);
    }
    inflateEnd(&z);
    return code;
}
