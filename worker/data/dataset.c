/* Reading a published dataset; see dataset.h. Knows the meta's JSON and the shards' layout, nothing
 * of the formats they came from. */
#include "worker/data/dataset.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/tensor/safetensors.h"

enum { META_BYTES_MAX = 4 << 20 };

typedef struct shard {
    char blob[MQ_SHA256_HEX];
    uint64_t first, rows; /* dataset rows first .. first+rows-1 */
    mq_map_file file;     /* empty until touched */
    const uint8_t *x;     /* NULL until touched; any alignment */
    const uint8_t *y;
} shard;

struct mq_dataset {
    mq_host *host; /* borrowed */
    mq_dataset_facts facts;
    mq_arena arena;
    shard *shards;   /* facts.shards of them, by first */
    uint32_t recent; /* the shard touched last */
};

static mq_code bad_meta(const mq_dataset *d, const char *what, mq_error *err)
{
    return mq_fail(err, MQ_E_FORMAT, "dataset %s: meta: %s", d->facts.name, what);
}

static mq_code parse_x(mq_dataset *d, const json_t *x, mq_error *err)
{
    mq_dataset_facts *f = &d->facts;
    const char *dtype = json_string_value(json_object_get(x, "dtype"));
    json_t *shape = json_object_get(x, "shape");
    f->x_dtype = mq_dtype_parse(mq_str(dtype));
    if (f->x_dtype != MQ_DT_U8 && f->x_dtype != MQ_DT_F32) {
        return bad_meta(d, "features.x.dtype: expected uint8 or float32", err);
    }
    if (!json_is_array(shape) || json_array_size(shape) >= MQ_RANK_MAX) {
        return bad_meta(d, "features.x.shape: expected a list of at most 7 dimensions", err);
    }
    for (size_t i = 0; i < json_array_size(shape); i++) {
        f->x_shape.dims[f->x_shape.rank++] = json_integer_value(json_array_get(shape, i));
    }
    if (mq_shape_count(&f->x_shape, &f->x_count, err) != MQ_OK || f->x_count == 0) {
        return bad_meta(d, "features.x.shape: a dimension is outside 1..2^31-1", err);
    }
    return MQ_OK;
}

static mq_code parse_y(mq_dataset *d, const json_t *y, mq_error *err)
{
    mq_dataset_facts *f = &d->facts;
    if (y == NULL || json_is_null(y)) {
        return MQ_OK;
    }
    json_int_t classes = json_integer_value(json_object_get(y, "classes"));
    f->y_dtype = mq_dtype_parse(mq_str(json_string_value(json_object_get(y, "dtype"))));
    if (f->y_dtype != MQ_DT_U8 && f->y_dtype != MQ_DT_I32 && f->y_dtype != MQ_DT_F32) {
        return bad_meta(d, "features.y.dtype: expected uint8, int32 or float32", err);
    }
    bool is_value = f->y_dtype == MQ_DT_F32;
    if (classes < !is_value || classes > (is_value ? 0 : MQ_DATASET_CLASSES_MAX)) {
        return bad_meta(d, "features.y.classes does not fit features.y.dtype", err);
    }
    f->classes = (int32_t)classes;
    return MQ_OK;
}

static mq_code parse_shards(mq_dataset *d, const json_t *list, mq_error *err)
{
    size_t count = json_array_size(list);
    if (count == 0 || count > MQ_DATASET_SHARDS_MAX) {
        return bad_meta(d, "shards: expected a list of 1..1000", err);
    }
    d->shards = mq_arena_new(&d->arena, shard, count);
    if (d->shards == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "dataset %s: no memory", d->facts.name);
    }
    uint64_t first = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        const char *blob = json_string_value(json_object_get(item, "blob"));
        json_int_t rows = json_integer_value(json_object_get(item, "rows"));
        if (blob == NULL || !mq_sha256_is_hex(mq_str(blob)) || rows < 1 ||
            (uint64_t)rows > MQ_DATASET_ROWS_MAX) {
            return bad_meta(d, "shards: a shard lacks blob or rows", err);
        }
        shard *s = &d->shards[i];
        memcpy(s->blob, blob, MQ_SHA256_HEX);
        s->first = first;
        s->rows = (uint64_t)rows;
        first += s->rows;
    }
    d->facts.shards = (uint32_t)count;
    return first == d->facts.rows ? MQ_OK : bad_meta(d, "shards: their rows do not add up", err);
}

static mq_code parse_answer(mq_dataset *d, const char *asked, mq_span answer, mq_error *err)
{
    json_t *root = json_loadb((const char *)answer.data, answer.len, JSON_REJECT_DUPLICATES, NULL);
    const char *name = asked;
    json_int_t version = 0, rows = 0;
    json_t *x = NULL, *y = NULL, *shards = NULL;
    mq_code code;
    snprintf(d->facts.name, sizeof d->facts.name, "%s", asked);
    if (root == NULL ||
        json_unpack(root, "{s:s,s:I,s:{s:I,s:o,s:{s:o,s?o}}}", "name", &name, "version", &version,
                    "meta", "rows", &rows, "shards", &shards, "features", "x", &x, "y", &y) != 0) {
        code = bad_meta(d, "lacks rows, shards or features.x", err);
    } else {
        snprintf(d->facts.name, sizeof d->facts.name, "%s@%lld", name, (long long)version);
        d->facts.rows = rows < 0 ? 0 : (uint64_t)rows;
        code = parse_x(d, x, err);
        if (code == MQ_OK) {
            code = parse_y(d, y, err);
        }
        if (code == MQ_OK) {
            code = parse_shards(d, shards, err);
        }
    }
    json_decref(root);
    return code;
}

mq_code mq_dataset_open(mq_dataset **out, mq_host *host, const char *name, mq_error *err)
{
    mq_buf answer;
    *out = NULL;
    mq_dataset *d = calloc(1, sizeof *d);
    if (d == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "dataset %s: no memory", name);
    }
    d->host = host;
    mq_arena_init(&d->arena, (size_t)4 << 20);
    mq_buf_init(&answer, META_BYTES_MAX);
    mq_code code = host->ops->query(host, "dataset", name, &answer, err);
    if (code == MQ_OK) {
        code = parse_answer(d, name, mq_buf_span(&answer), err);
    }
    mq_buf_release(&answer);
    if (code != MQ_OK) {
        mq_dataset_free(d);
        return code;
    }
    *out = d;
    return MQ_OK;
}

void mq_dataset_free(mq_dataset *d)
{
    if (d == NULL) {
        return;
    }
    for (uint32_t i = 0; i < d->facts.shards; i++) {
        mq_map_file_release(&d->shards[i].file);
    }
    mq_arena_release(&d->arena);
    free(d);
}

const mq_dataset_facts *mq_dataset_facts_of(const mq_dataset *d)
{
    return &d->facts;
}

/* The tensor's bytes when it is what the meta promised, else NULL. */
static const uint8_t *expect(const mq_safetensors *st, const char *name, mq_dtype dtype,
                             const mq_shape *shape)
{
    const mq_tensor *t = mq_safetensors_find(st, mq_str(name));
    return t != NULL && t->dtype == dtype && mq_shape_eq(&t->shape, shape) ? t->data : NULL;
}

static mq_code touch(mq_dataset *d, shard *s, mq_error *err)
{
    const mq_dataset_facts *f = &d->facts;
    mq_safetensors st;
    mq_code code = d->host->ops->blob_open(d->host, s->blob, &s->file, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "dataset %s, rows from %llu", f->name, (unsigned long long)s->first);
    }
    code = mq_safetensors_read(&st, s->file.bytes, err);
    const uint8_t *x = NULL, *y = NULL;
    if (code == MQ_OK) {
        mq_shape shape = {f->x_shape.rank + 1, {(int64_t)s->rows}};
        memcpy(shape.dims + 1, f->x_shape.dims, (size_t)f->x_shape.rank * sizeof *shape.dims);
        x = expect(&st, "x", f->x_dtype, &shape);
        y = expect(&st, "y", f->y_dtype, &(mq_shape){1, {(int64_t)s->rows}});
        if (x == NULL || (y == NULL && f->y_dtype != MQ_DT_NONE)) {
            code = mq_fail(err, MQ_E_CORRUPT, "tensor \"%s\" is not as the meta says",
                           x == NULL ? "x" : "y");
        }
    }
    mq_safetensors_release(&st);
    if (code != MQ_OK) {
        mq_map_file_release(&s->file);
        return mq_wrap(err, "dataset %s, shard %.12s", f->name, s->blob);
    }
    s->x = x;
    s->y = y;
    return MQ_OK;
}

static shard *shard_of(mq_dataset *d, uint64_t row)
{
    shard *s = &d->shards[d->recent];
    if (row - s->first < s->rows) { /* wraps around when row is before it */
        return s;
    }
    uint32_t low = 0, high = d->facts.shards;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (d->shards[middle].first <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    d->recent = low;
    return &d->shards[low];
}

static mq_code read_label(const mq_dataset *d, const shard *s, uint64_t row, int32_t *y,
                          float *value, mq_error *err)
{
    const mq_dataset_facts *f = &d->facts;
    uint64_t at = row - s->first;
    if (f->y_dtype == MQ_DT_NONE) {
        return mq_fail(err, MQ_E_ARG, "dataset %s has no labels", f->name);
    }
    if (f->y_dtype == MQ_DT_F32) {
        if (y != NULL) {
            return mq_fail(err, MQ_E_ARG, "dataset %s has values as labels, not classes", f->name);
        }
        memcpy(value, s->y + 4 * at, 4);
        return MQ_OK;
    }
    int32_t label = s->y[at * mq_dtype_bytes(f->y_dtype)];
    if (f->y_dtype == MQ_DT_I32) {
        memcpy(&label, s->y + 4 * at, 4);
    }
    if (label < 0 || label >= f->classes) {
        return mq_fail(err, MQ_E_CORRUPT, "dataset %s: row %llu: label %d is outside 0..%d",
                       f->name, (unsigned long long)row, label, f->classes - 1);
    }
    if (y != NULL) {
        *y = label;
    }
    if (value != NULL) {
        *value = (float)label;
    }
    return MQ_OK;
}

mq_code mq_dataset_row(mq_dataset *d, uint64_t row, float *x, int32_t *y, float *value,
                       mq_error *err)
{
    MQ_ASSERT(row < d->facts.rows);
    shard *s = shard_of(d, row);
    mq_code code = s->x == NULL ? touch(d, s, err) : MQ_OK;
    if (code != MQ_OK) {
        return code;
    }
    size_t n = d->facts.x_count;
    uint64_t at = row - s->first;
    if (d->facts.x_dtype == MQ_DT_U8) {
        mq_features_from_u8(s->x + at * n, n, x);
    } else {
        memcpy(x, s->x + at * n * sizeof *x, n * sizeof *x);
    }
    return y == NULL && value == NULL ? MQ_OK : read_label(d, s, row, y, value, err);
}

mq_code mq_dataset_rows(mq_dataset *d, uint64_t first, uint64_t count, float *x, int32_t *y,
                        float *value, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint64_t i = 0; i < count && code == MQ_OK; i++) {
        code = mq_dataset_row(d, first + i, x + i * d->facts.x_count, y == NULL ? NULL : y + i,
                              value == NULL ? NULL : value + i, err);
    }
    return code;
}

void mq_features_from_u8(const uint8_t *in, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (float)in[i] / 255.0f;
    }
}
