/* Gathering rows into shards; see shards.h. Knows no input format. */
#include "worker/data/shards.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "shared/tensor/safetensors.h"

enum { PROGRESS_MS = 200 };

typedef struct stored {
    char blob[MQ_SHA256_HEX];
    uint64_t rows;
    size_t bytes;
} stored;

struct mq_shards {
    mq_host *host; /* borrowed */
    mq_shards_spec spec;
    size_t x_bytes, y_bytes; /* of one row */
    size_t x_count;
    uint64_t rows_per_shard;
    uint8_t *x, *y; /* rows gathered, rows_per_shard at most */
    uint64_t gathered;
    uint64_t rows, rows_total;
    stored done[MQ_DATASET_SHARDS_MAX];
    const char *hashes[MQ_DATASET_SHARDS_MAX];
    uint32_t done_count;
    mq_buf file;
    int64_t told_ms;
    /* statistics: bytes are counted, floats summed around the first of them */
    uint64_t histogram[256];
    double min, max, pivot, sum, square_sum;
    uint64_t *class_counts; /* NULL when there are too many classes */
};

static size_t label_bytes(const mq_shards_spec *spec)
{
    return spec->y_dtype == MQ_DT_NONE ? 0 : mq_dtype_bytes(spec->y_dtype);
}

mq_code mq_shards_new(mq_shards **out, mq_host *host, const mq_shards_spec *spec,
                      uint64_t rows_total, mq_error *err)
{
    char text[128];
    *out = NULL;
    mq_shards *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for shards");
    }
    s->host = host;
    s->spec = *spec;
    s->rows_total = rows_total;
    s->told_ms = mq_clock_mono_ms();
    s->min = DBL_MAX;
    s->max = -DBL_MAX;
    s->y_bytes = label_bytes(spec);
    mq_buf_init(&s->file, (size_t)MQ_SHARD_ROW_BYTES_MAX + 2 * (size_t)MQ_SHARD_BYTES);
    if (mq_shape_count(&spec->x_shape, &s->x_count, err) != MQ_OK || s->x_count == 0 ||
        !mq_mul_size(s->x_count, mq_dtype_bytes(spec->x_dtype), &s->x_bytes) ||
        s->x_bytes > MQ_SHARD_ROW_BYTES_MAX) {
        mq_shards_free(s);
        return mq_fail(err, MQ_E_LIMIT, "a row of %s has no elements or more than %d bytes",
                       mq_shape_text(&spec->x_shape, text, sizeof text), MQ_SHARD_ROW_BYTES_MAX);
    }
    s->rows_per_shard = MQ_SHARD_BYTES / (s->x_bytes + s->y_bytes);
    s->rows_per_shard = s->rows_per_shard == 0 ? 1 : s->rows_per_shard;
    s->x = malloc(s->rows_per_shard * s->x_bytes);
    s->y = malloc(s->rows_per_shard * s->y_bytes + 1);
    if (spec->classes > 0 && spec->classes <= MQ_SHARD_CLASS_COUNTS_MAX) {
        s->class_counts = calloc((size_t)spec->classes, sizeof *s->class_counts);
    }
    if (s->x == NULL || s->y == NULL) {
        mq_shards_free(s);
        return mq_fail(err, MQ_E_LIMIT, "no memory for shards");
    }
    *out = s;
    return MQ_OK;
}

void mq_shards_free(mq_shards *s)
{
    if (s != NULL) {
        mq_buf_release(&s->file);
        free(s->x);
        free(s->y);
        free(s->class_counts);
        free(s);
    }
}

uint64_t mq_shards_rows(const mq_shards *s)
{
    return s->rows;
}

static void tell(mq_shards *s)
{
    char text[96];
    int64_t now = mq_clock_mono_ms();
    if (now - s->told_ms >= PROGRESS_MS) {
        s->told_ms = now;
        int len = snprintf(text, sizeof text, "{\"stage\":\"import\",\"rows\":%llu,\"of\":%llu}",
                           (unsigned long long)s->rows, (unsigned long long)s->rows_total);
        s->host->ops->progress(s->host, mq_span_of(text, (size_t)len));
    }
}

/* Writes the gathered rows as one blob. */
static mq_code flush(mq_shards *s, mq_error *err)
{
    if (s->done_count == MQ_DATASET_SHARDS_MAX) {
        return mq_fail(err, MQ_E_LIMIT,
                       "more than %d shards of about %d bytes: import the data "
                       "in parts",
                       MQ_DATASET_SHARDS_MAX, MQ_SHARD_BYTES);
    }
    mq_st_entry entries[2] = {
        {mq_str("x"),
         {s->spec.x_dtype, {s->spec.x_shape.rank + 1, {(int64_t)s->gathered}}, NULL, 0}},
        {mq_str("y"), {s->spec.y_dtype, {1, {(int64_t)s->gathered}}, NULL, 0}},
    };
    memcpy(entries[0].tensor.shape.dims + 1, s->spec.x_shape.dims,
           (size_t)s->spec.x_shape.rank * sizeof *s->spec.x_shape.dims);
    entries[0].tensor.data = s->x;
    entries[0].tensor.bytes = s->gathered * s->x_bytes;
    entries[1].tensor.data = s->y;
    entries[1].tensor.bytes = s->gathered * s->y_bytes;
    stored *done = &s->done[s->done_count];
    mq_buf_reset(&s->file);
    mq_code code =
        mq_safetensors_write(entries, s->y_bytes > 0 ? 2 : 1, (mq_span){0}, &s->file, err);
    if (code == MQ_OK) {
        code = s->host->ops->blob_put(s->host, mq_buf_span(&s->file), done->blob, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    done->rows = s->gathered;
    done->bytes = s->file.len;
    s->hashes[s->done_count++] = done->blob;
    s->gathered = 0;
    tell(s);
    return s->host->ops->check(s->host, err);
}

static void count_bytes(mq_shards *s, const uint8_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        s->histogram[x[i]]++;
    }
}

static void count_floats(mq_shards *s, const uint8_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float f;
        memcpy(&f, x + 4 * i, 4);
        double v = (double)f;
        if (s->rows == 0 && i == 0) {
            s->pivot = v;
        }
        s->min = v < s->min ? v : s->min;
        s->max = v > s->max ? v : s->max;
        s->sum += v - s->pivot;
        s->square_sum += (v - s->pivot) * (v - s->pivot);
    }
}

static void count_labels(mq_shards *s, const uint8_t *y, uint64_t count)
{
    for (uint64_t i = 0; i < count && s->spec.classes > 0; i++) {
        int32_t label = y[i * s->y_bytes];
        if (s->spec.y_dtype == MQ_DT_I32) {
            memcpy(&label, y + 4 * i, 4);
        }
        MQ_ASSERT(label >= 0 && label < s->spec.classes);
        if (s->class_counts != NULL) {
            s->class_counts[label]++;
        }
    }
}

mq_code mq_shards_add(mq_shards *s, uint64_t count, const void *x, const void *y, mq_error *err)
{
    const uint8_t *from_x = x, *from_y = y;
    while (count > 0) {
        uint64_t n = s->rows_per_shard - s->gathered;
        n = n < count ? n : count;
        memcpy(s->x + s->gathered * s->x_bytes, from_x, n * s->x_bytes);
        if (s->y_bytes > 0) {
            memcpy(s->y + s->gathered * s->y_bytes, from_y, n * s->y_bytes);
            count_labels(s, from_y, n);
            from_y += n * s->y_bytes;
        }
        if (s->spec.x_dtype == MQ_DT_U8) {
            count_bytes(s, from_x, n * s->x_count);
        } else {
            count_floats(s, from_x, n * s->x_count);
        }
        from_x += n * s->x_bytes;
        s->gathered += n;
        s->rows += n;
        count -= n;
        if (s->rows > MQ_DATASET_ROWS_MAX) {
            return mq_fail(err, MQ_E_LIMIT, "more than %llu rows",
                           (unsigned long long)MQ_DATASET_ROWS_MAX);
        }
        mq_code code = s->gathered == s->rows_per_shard ? flush(s, err) : MQ_OK;
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

mq_code mq_shards_end(mq_shards *s, mq_error *err)
{
    if (s->rows == 0) {
        return mq_fail(err, MQ_E_FORMAT, "there is no row of data");
    }
    return s->gathered > 0 ? flush(s, err) : MQ_OK;
}

uint32_t mq_shards_blobs(const mq_shards *s, const char ***out)
{
    *out = (const char **)(uintptr_t)s->hashes;
    return s->done_count;
}

/* Minimum, maximum, mean and standard deviation of all elements of x. */
static void x_stats(const mq_shards *s, double out[4])
{
    double n = (double)s->rows * (double)s->x_count;
    double min = s->min, max = s->max, mean = s->pivot + s->sum / n;
    double variance = s->square_sum / n - (s->sum / n) * (s->sum / n);
    if (s->spec.x_dtype == MQ_DT_U8) {
        double sum = 0, squares = 0;
        for (int v = 255; v >= 0; v--) {
            min = s->histogram[v] > 0 ? v : min;
            sum += (double)v * (double)s->histogram[v];
        }
        mean = sum / n;
        for (int v = 0; v < 256; v++) {
            max = s->histogram[v] > 0 ? v : max;
            squares += ((double)v - mean) * ((double)v - mean) * (double)s->histogram[v];
        }
        variance = squares / n;
    }
    out[0] = min;
    out[1] = max;
    out[2] = mean;
    out[3] = sqrt(variance > 0 ? variance : 0);
}

static void add_features(const mq_shards *s, mq_span categories, mq_buf *out)
{
    char shape[128];
    mq_buf_printf(out, "\"features\":{\"x\":{\"dtype\":\"%s\",\"shape\":%s},\"y\":",
                  mq_dtype_name(s->spec.x_dtype),
                  mq_shape_text(&s->spec.x_shape, shape, sizeof shape));
    if (s->y_bytes == 0) {
        mq_buf_add_str(out, "null}");
        return;
    }
    mq_buf_printf(out, "{\"dtype\":\"%s\"", mq_dtype_name(s->spec.y_dtype));
    if (s->spec.classes > 0) {
        mq_buf_printf(out, ",\"classes\":%d", s->spec.classes);
    }
    if (categories.len > 0) {
        mq_buf_add_str(out, ",\"categories\":");
        mq_buf_add_span(out, categories);
    }
    mq_buf_add_str(out, "}}");
}

void mq_shards_meta(const mq_shards *s, mq_span categories, mq_buf *out)
{
    double x[4];
    x_stats(s, x);
    mq_buf_printf(out, "\"rows\":%llu,", (unsigned long long)s->rows);
    add_features(s, categories, out);
    for (uint32_t i = 0; i < s->done_count; i++) {
        mq_buf_printf(out, "%s{\"blob\":\"%s\",\"rows\":%llu,\"bytes\":%zu}",
                      i == 0 ? ",\"shards\":[" : ",", s->done[i].blob,
                      (unsigned long long)s->done[i].rows, s->done[i].bytes);
    }
    mq_buf_printf(out, "],\"stats\":{\"min\":%.9g,\"max\":%.9g,\"mean\":%.9g,\"std\":%.9g", x[0],
                  x[1], x[2], x[3]);
    for (int32_t c = 0; s->class_counts != NULL && c < s->spec.classes; c++) {
        mq_buf_printf(out, "%s%llu", c == 0 ? ",\"class_counts\":[" : ",",
                      (unsigned long long)s->class_counts[c]);
    }
    mq_buf_add_str(out, s->class_counts != NULL ? "]}" : "}");
}
