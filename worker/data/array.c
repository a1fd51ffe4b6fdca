/* Importing array files (IDX, NPY): parse each, convert numbers, pair them with labels. Knows
 * mq_array, no file format. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/data/import.h"

enum { CHUNK_BYTES = 1 << 20 };

/* Labels of all rows; exactly one of the two lists, or none. */
typedef struct label_list {
    int32_t *classes; /* owned */
    float *values;    /* owned */
    uint64_t count;
    int32_t class_count;
} label_list;

static uint64_t load_bits(const uint8_t *at, size_t bytes, bool is_big_endian)
{
    uint64_t v = 0;
    for (size_t i = 0; i < bytes; i++) {
        v = v << 8 | at[is_big_endian ? i : bytes - 1 - i];
    }
    return v;
}

/* IEEE 754 binary16. */
static double half_value(uint64_t bits)
{
    int exponent = (int)(bits >> 10 & 31);
    double fraction = (double)(bits & 1023);
    double v = exponent == 31  ? (bits & 1023) != 0 ? (double)NAN : (double)INFINITY
               : exponent == 0 ? ldexp(fraction, -24)
                               : ldexp(1024 + fraction, exponent - 25);
    return (bits >> 15) != 0 ? -v : v;
}

static double load_number(const uint8_t *at, mq_dtype dtype, bool is_big_endian)
{
    size_t bytes = mq_dtype_bytes(dtype);
    uint64_t bits = load_bits(at, bytes, is_big_endian);
    switch ((int)dtype) {
    case MQ_DT_F32: {
        uint32_t low = (uint32_t)bits;
        float f;
        memcpy(&f, &low, sizeof f);
        return (double)f;
    }
    case MQ_DT_F64: {
        double d;
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    case MQ_DT_F16:
        return half_value(bits);
    case MQ_DT_I8:
        return (double)(int8_t)bits;
    case MQ_DT_I16:
        return (double)(int16_t)bits;
    case MQ_DT_I32:
        return (double)(int32_t)bits;
    case MQ_DT_I64:
        return (double)(int64_t)bits;
    default:
        return (double)bits;
    }
}

static bool is_float(mq_dtype dtype)
{
    return dtype == MQ_DT_F16 || dtype == MQ_DT_F32 || dtype == MQ_DT_F64;
}

/* Shape of one row: [rows] counts as [rows, 1]. */
static mq_shape row_shape(const mq_array *a)
{
    mq_shape s = {a->shape.rank - 1, {0}};
    if (s.rank == 0) {
        return (mq_shape){1, {1}};
    }
    memcpy(s.dims, a->shape.dims + 1, (size_t)s.rank * sizeof *s.dims);
    return s;
}

static mq_code fill_labels(label_list *out, const mq_array *a, mq_error *err)
{
    size_t each = mq_dtype_bytes(a->dtype);
    int32_t largest = 0;
    for (uint64_t r = 0; r < out->count; r++) {
        double v = load_number(a->data.data + r * each, a->dtype, a->is_big_endian);
        if (out->values != NULL) {
            if (!isfinite(v) || fabs(v) > 3.4e38) {
                return mq_fail(err, MQ_E_FORMAT, "row %llu: label %g is not a finite float32",
                               (unsigned long long)r, v);
            }
            out->values[r] = (float)v;
            continue;
        }
        if (v < 0 || v >= MQ_DATASET_CLASSES_MAX) {
            return mq_fail(err, MQ_E_FORMAT, "row %llu: label %.0f is outside 0..%d",
                           (unsigned long long)r, v, MQ_DATASET_CLASSES_MAX - 1);
        }
        out->classes[r] = (int32_t)v;
        largest = out->classes[r] > largest ? out->classes[r] : largest;
    }
    out->class_count = out->values != NULL ? 0 : largest + 1;
    return MQ_OK;
}

static mq_code read_labels(const mq_import *im, label_list *out, mq_error *err)
{
    const mq_import_file *file = im->labels;
    const mq_format *format;
    mq_array a;
    char text[128];
    mq_code code = mq_format_find("auto", file, &format, err);
    if (code != MQ_OK) {
        return code;
    }
    if (format->parse == NULL) {
        return mq_fail(err, MQ_E_ARG, "%s: labels are taken from IDX and NPY files, this is %s",
                       file->name, format->name);
    }
    code = format->parse(file->bytes, &a, err);
    if (code == MQ_OK && a.shape.rank != 1 && !(a.shape.rank == 2 && a.shape.dims[1] == 1)) {
        code = mq_fail(err, MQ_E_FORMAT, "labels have the shape %s; expected one number a row",
                       mq_shape_text(&a.shape, text, sizeof text));
    }
    if (code == MQ_OK) {
        out->count = (uint64_t)a.shape.dims[0];
        if (is_float(a.dtype)) {
            out->values = calloc(out->count + 1, sizeof *out->values);
        } else {
            out->classes = calloc(out->count + 1, sizeof *out->classes);
        }
        code = out->values == NULL && out->classes == NULL
                   ? mq_fail(err, MQ_E_LIMIT, "no memory for %llu labels",
                             (unsigned long long)out->count)
                   : fill_labels(out, &a, err);
    }
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "%s", file->name);
}

/* Where element k of row 0 stands in a column-major array. */
static void element_places(const mq_array *a, const mq_shape *row, uint64_t *places, size_t count)
{
    for (size_t k = 0; k < count; k++) {
        uint64_t left = k, place = 0;
        uint64_t stride[MQ_RANK_MAX];
        stride[0] = 1;
        for (int d = 1; d < row->rank; d++) {
            stride[d] = stride[d - 1] * (uint64_t)row->dims[d - 1];
        }
        for (int d = row->rank - 1; d >= 0; d--) {
            place += left % (uint64_t)row->dims[d] * stride[d];
            left /= (uint64_t)row->dims[d];
        }
        places[k] = place * (uint64_t)a->shape.dims[0];
    }
}

/* One file's rows, converted where they have to be. */
typedef struct reading {
    const mq_array *array;
    const char *name;
    size_t count; /* elements of a row */
    bool to_bytes;
    uint64_t chunk_rows;
    uint64_t *places; /* owned; NULL: element k stands at k */
    float *floats;    /* owned: chunk_rows rows */
    uint8_t *bytes;   /* the same memory as bytes */
} reading;

static mq_code convert_row(reading *in, uint64_t row, size_t at, mq_error *err)
{
    const mq_array *a = in->array;
    size_t each = mq_dtype_bytes(a->dtype);
    uint64_t first = a->is_fortran ? row : row * in->count;
    for (size_t k = 0; k < in->count; k++) {
        uint64_t place = in->places == NULL ? k : in->places[k];
        const uint8_t *from = a->data.data + (first + place) * each;
        if (in->to_bytes) {
            in->bytes[at * in->count + k] = *from;
            continue;
        }
        float f = (float)load_number(from, a->dtype, a->is_big_endian);
        if (!isfinite(f)) {
            return mq_fail(
                err, MQ_E_FORMAT, "%s: row %llu, element %zu: %g is not a finite float32", in->name,
                (unsigned long long)row, k, load_number(from, a->dtype, a->is_big_endian));
        }
        in->floats[at * in->count + k] = f;
    }
    return MQ_OK;
}

/* y: labels of the file's first row on, in the shards' type, or NULL. */
static mq_code add_rows(mq_import *im, reading *in, const uint8_t *y, size_t y_bytes, mq_error *err)
{
    const mq_array *a = in->array;
    uint64_t rows = (uint64_t)a->shape.dims[0];
    if (in->to_bytes && !a->is_fortran) {
        return mq_shards_add(im->shards, rows, a->data.data, y, err);
    }
    for (uint64_t r = 0; r < rows; r += in->chunk_rows) {
        uint64_t n = rows - r < in->chunk_rows ? rows - r : in->chunk_rows;
        for (uint64_t i = 0; i < n; i++) {
            mq_code code = convert_row(in, r + i, i, err);
            if (code != MQ_OK) {
                return code;
            }
        }
        mq_code code =
            mq_shards_add(im->shards, n, in->floats, y == NULL ? NULL : y + r * y_bytes, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code read_file(mq_import *im, const mq_array *a, const char *name, bool to_bytes,
                         const uint8_t *y, size_t y_bytes, mq_error *err)
{
    mq_shape row = row_shape(a);
    reading in = {.array = a, .name = name, .to_bytes = to_bytes};
    mq_code code = mq_shape_count(&row, &in.count, err);
    if (code != MQ_OK) {
        return code;
    }
    in.chunk_rows = CHUNK_BYTES / (in.count * sizeof *in.floats) + 1;
    in.floats = calloc(in.count * in.chunk_rows, sizeof *in.floats);
    in.bytes = (uint8_t *)in.floats;
    if (a->is_fortran) {
        in.places = calloc(in.count, sizeof *in.places);
    }
    if (in.floats == NULL || (a->is_fortran && in.places == NULL)) {
        code = mq_fail(err, MQ_E_LIMIT, "%s: no memory for rows of %zu numbers", name, in.count);
    } else {
        if (a->is_fortran) {
            element_places(a, &row, in.places, in.count);
        }
        code = add_rows(im, &in, y, y_bytes, err);
    }
    free(in.places);
    free(in.floats);
    return code;
}

/* Parses every file and checks that their rows are alike; totals their rows. */
static mq_code parse_files(mq_import *im, const mq_format *format, mq_array *arrays,
                           bool *are_bytes, uint64_t *rows, mq_error *err)
{
    char one[128], two[128];
    *are_bytes = true;
    *rows = 0;
    for (uint32_t i = 0; i < im->file_count; i++) {
        mq_array *a = &arrays[i];
        mq_code code = format->parse(im->files[i].bytes, a, err);
        if (code != MQ_OK) {
            return mq_wrap(err, "%s", im->files[i].name);
        }
        if (a->shape.rank == 0) {
            return mq_fail(err, MQ_E_FORMAT, "%s: a single number; expected rows",
                           im->files[i].name);
        }
        mq_shape row = row_shape(a), first = row_shape(&arrays[0]);
        if (!mq_shape_eq(&row, &first)) {
            return mq_fail(err, MQ_E_FORMAT, "%s: rows of %s where %s has rows of %s",
                           im->files[i].name, mq_shape_text(&row, one, sizeof one),
                           im->files[0].name, mq_shape_text(&first, two, sizeof two));
        }
        *are_bytes = *are_bytes && a->dtype == MQ_DT_U8;
        *rows += (uint64_t)a->shape.dims[0];
    }
    return MQ_OK;
}

/* Narrows class numbers to bytes where they fit; *y is what goes into the shards. */
static mq_dtype label_bytes(const label_list *labels, const uint8_t **y)
{
    if (labels->values != NULL) {
        *y = (const uint8_t *)labels->values;
        return MQ_DT_F32;
    }
    if (labels->classes == NULL) {
        *y = NULL;
        return MQ_DT_NONE;
    }
    *y = (const uint8_t *)labels->classes;
    if (labels->class_count > 256) {
        return MQ_DT_I32;
    }
    uint8_t *narrow = (uint8_t *)labels->classes; /* entry r is read before byte r is written */
    for (uint64_t r = 0; r < labels->count; r++) {
        int32_t label;
        memcpy(&label, labels->classes + r, sizeof label);
        narrow[r] = (uint8_t)label;
    }
    return MQ_DT_U8;
}

static mq_code import_all(mq_import *im, const mq_array *arrays, bool are_bytes, uint64_t rows,
                          const label_list *labels, mq_error *err)
{
    const uint8_t *y;
    mq_shards_spec spec = {are_bytes ? MQ_DT_U8 : MQ_DT_F32, row_shape(&arrays[0]),
                           label_bytes(labels, &y), labels->class_count};
    size_t y_bytes = mq_dtype_bytes(spec.y_dtype);
    mq_code code = mq_shards_new(&im->shards, im->host, &spec, rows, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "%s", im->files[0].name);
    }
    for (uint32_t i = 0; i < im->file_count && code == MQ_OK; i++) {
        code = read_file(im, &arrays[i], im->files[i].name, are_bytes, y, y_bytes, err);
        if (y != NULL) {
            y += (uint64_t)arrays[i].shape.dims[0] * y_bytes;
        }
    }
    return code;
}

mq_code mq_import_arrays(mq_import *im, const mq_format *format, mq_error *err)
{
    mq_array arrays[MQ_IMPORT_FILES_MAX];
    label_list labels = {0};
    bool are_bytes;
    uint64_t rows;
    MQ_ASSERT(im->file_count <= MQ_IMPORT_FILES_MAX);
    if (im->label_column != NULL) {
        return mq_fail(err, MQ_E_ARG,
                       "label_column: is for CSV files, not for %s: give a labels "
                       "file",
                       format->name);
    }
    mq_code code = parse_files(im, format, arrays, &are_bytes, &rows, err);
    if (code == MQ_OK && im->labels != NULL) {
        code = read_labels(im, &labels, err);
    }
    if (code == MQ_OK && im->labels != NULL && labels.count != rows) {
        code =
            mq_fail(err, MQ_E_FORMAT, "%s: %llu labels for %llu rows of %s", im->labels->name,
                    (unsigned long long)labels.count, (unsigned long long)rows, im->files[0].name);
    }
    if (code == MQ_OK) {
        code = import_all(im, arrays, are_bytes, rows, &labels, err);
    }
    free(labels.classes);
    free(labels.values);
    return code;
}
