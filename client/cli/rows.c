/* Rows of a dataset; see rows.h. */
#include "client/cli/rows.h"

#include <stdio.h>

#include "shared/base/math.h"

enum { ROW_ELEMENTS_MAX = 1 << 26 };

static int read_shape(mq_rows *rows, const json_t *x)
{
    const json_t *dims = json_object_get(x, "shape");
    size_t rank = json_array_size(dims);
    mq_error err;
    if (rank > MQ_RANK_MAX - 1) {
        return mq_cli_fail(rows->cli, "dataset %s: rows of %zu dimensions", rows->name, rank);
    }
    rows->x_shape.rank = (int32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        rows->x_shape.dims[i] = json_integer_value(json_array_get(dims, i));
    }
    if (mq_shape_count(&rows->x_shape, &rows->x_count, &err) != MQ_OK || rows->x_count == 0 ||
        rows->x_count > ROW_ELEMENTS_MAX) {
        return mq_cli_fail(rows->cli, "dataset %s: a row has no usable shape", rows->name);
    }
    return MQ_EXIT_OK;
}

int mq_rows_open(mq_rows *rows, mq_cli *cli, const char *dataset)
{
    *rows = (mq_rows){.cli = cli};
    int status = mq_cli_query(cli, "dataset", dataset, "", 0, &rows->answer);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    const json_t *meta = json_object_get(rows->answer, "meta");
    (void)snprintf(rows->name, sizeof rows->name, "%s@%lld",
                   mq_js_text(rows->answer, "name", dataset),
                   (long long)mq_js_int(rows->answer, "version"));
    rows->count = (uint64_t)mq_js_int(meta, "rows");
    rows->shards = json_object_get(meta, "shards");
    rows->is_labelled = json_is_object(mq_js(meta, "features.y"));
    rows->classes = mq_js_int(meta, "features.y.classes");
    return read_shape(rows, mq_js(meta, "features.x"));
}

static void close_shard(mq_rows *rows)
{
    if (rows->bytes != NULL) {
        mq_safetensors_release(&rows->file);
        maasq_free(rows->bytes);
        rows->bytes = NULL;
    }
    rows->first = rows->last = 0;
}

void mq_rows_release(mq_rows *rows)
{
    close_shard(rows);
    json_decref(rows->answer);
    rows->answer = NULL;
}

/* x is [rows, shape...] of bytes or floats, y is [rows]. */
static bool shard_is_good(const mq_rows *rows)
{
    size_t count = (size_t)(rows->last - rows->first);
    const mq_tensor *x = mq_safetensors_find(&rows->file, mq_str("x"));
    const mq_tensor *y = mq_safetensors_find(&rows->file, mq_str("y"));
    size_t need = 0;
    return x != NULL && (x->dtype == MQ_DT_U8 || x->dtype == MQ_DT_F32) &&
           mq_mul_size(count, rows->x_count, &need) &&
           mq_mul_size(need, mq_dtype_bytes(x->dtype), &need) && x->bytes == need &&
           (!rows->is_labelled || (y != NULL && y->bytes == count * mq_dtype_bytes(y->dtype)));
}

static int open_shard(mq_rows *rows, uint64_t row)
{
    close_shard(rows);
    uint64_t first = 0;
    size_t i = 0;
    uint64_t count = 0;
    for (; i < json_array_size(rows->shards); i++) {
        count = (uint64_t)mq_js_int(json_array_get(rows->shards, i), "rows");
        if (row < first + count) {
            break;
        }
        first += count;
    }
    const char *hash = mq_js_text(json_array_get(rows->shards, i), "blob", "");
    maasq_error err;
    mq_error why = {0};
    size_t bytes = 0;
    if (maasq_blob_get(rows->cli->client, hash, &rows->bytes, &bytes, &err) != MAASQ_OK) {
        return mq_cli_fail(rows->cli, "dataset %s, shard %zu: %s", rows->name, i, err.text);
    }
    rows->first = first;
    rows->last = first + count;
    if (mq_safetensors_read(&rows->file, mq_span_of(rows->bytes, bytes), &why) != MQ_OK ||
        !shard_is_good(rows)) {
        return mq_cli_fail(rows->cli, "dataset %s, shard %zu does not hold its rows: %s",
                           rows->name, i, why.text);
    }
    return MQ_EXIT_OK;
}

static double label_of(const mq_tensor *y, size_t at)
{
    const uint8_t *bytes = y->data;
    float real = 0;
    int32_t whole = 0;
    switch ((int)y->dtype) {
    case MQ_DT_U8:
        return bytes[at];
    case MQ_DT_I32:
        memcpy(&whole, bytes + at * sizeof whole, sizeof whole);
        return whole;
    default:
        memcpy(&real, bytes + at * sizeof real, sizeof real);
        return (double)real;
    }
}

int mq_rows_get(mq_rows *rows, uint64_t i, float *x, double *y)
{
    if (i >= rows->count) {
        return mq_cli_fail(rows->cli, "dataset %s has %llu rows, there is no row %llu", rows->name,
                           (unsigned long long)rows->count, (unsigned long long)i);
    }
    if (i < rows->first || i >= rows->last) {
        int status = open_shard(rows, i);
        if (status != MQ_EXIT_OK) {
            return status;
        }
    }
    size_t at = (size_t)(i - rows->first);
    const mq_tensor *features = mq_safetensors_find(&rows->file, mq_str("x"));
    if (features->dtype == MQ_DT_F32) {
        memcpy(x, (const uint8_t *)features->data + at * rows->x_count * sizeof *x,
               rows->x_count * sizeof *x);
    } else {
        const uint8_t *bytes = (const uint8_t *)features->data + at * rows->x_count;
        for (size_t k = 0; k < rows->x_count; k++) {
            x[k] = (float)bytes[k] / 255.0f;
        }
    }
    *y = rows->is_labelled ? label_of(mq_safetensors_find(&rows->file, mq_str("y")), at) : 0;
    return MQ_EXIT_OK;
}
