/* Format "csv". Two passes over the files: the first learns what the columns are, the second writes
 * rows. The rules:
 *
 * - The first line is a header unless all its cells are numbers; then columns are c1, c2, ...
 * - A column is numeric or text, decided by its first cell that is not missing (or by being listed
 *   in `categorical`). A cell of a numeric column that is not a number is an error, never a guess.
 * - A text column is coded 0..k-1 by its distinct texts in byte order.
 * - A missing cell (csv_read.h) of a numeric feature becomes the column's mean (or 0, or an error:
 *   `missing`); of a text feature the category ""; of the label column it is an error.
 * - All features become float32 in the columns' order, without the label column.
 * - Labels: text gives classes named in the meta; whole numbers 0..999 give classes; other numbers
 *   give values. `label_type` overrides that. */
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "worker/data/csv_columns.h"

static bool detect(mq_span bytes);
static mq_code run(mq_import *im, mq_error *err);

const mq_format mq_format_csv = {.name = "csv", .detect = detect, .run = run};

enum { SNIFF_BYTES = 4096 };

static bool detect(mq_span bytes)
{
    size_t n = bytes.len < SNIFF_BYTES ? bytes.len : SNIFF_BYTES;
    bool has_comma = false;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = bytes.data[i];
        if (c < 0x20 && c != '\n' && c != '\r' && c != '\t') {
            return false;
        }
        has_comma = has_comma || c == ',';
    }
    return has_comma;
}

/* What a walk does with each record of data. */
typedef mq_code record_fn(mq_csv_table *table, const mq_csv *csv, const mq_csv_cell *cells,
                          void *arg, mq_error *err);

/* Checks a later file's first line against the first one's, and skips it when it is a header. */
static mq_code read_first_line(mq_csv_table *t, mq_csv *csv, bool is_first_file, mq_error *err)
{
    size_t count;
    mq_csv ahead = *csv;
    mq_arena_init(&ahead.unescaped, csv->unescaped.limit_bytes);
    mq_code code = mq_csv_next(&ahead, t->cells, MQ_CSV_COLUMNS_MAX, &count, err);
    if (code == MQ_OK && count == 0) {
        code = mq_fail(err, MQ_E_FORMAT, "%s: line 1: the file is empty; expected a header",
                       csv->name);
    }
    if (code == MQ_OK && is_first_file) {
        code = mq_csv_table_header(t, &ahead, count, err);
    } else if (code == MQ_OK) {
        code = mq_csv_table_same_header(t, &ahead, count, err);
    }
    if (code == MQ_OK && t->has_header) {
        csv->at = ahead.at;
        csv->next_line = ahead.next_line;
    }
    mq_csv_release(&ahead);
    return code;
}

static mq_code walk_file(mq_csv_table *t, const mq_import_file *file, bool is_first_file,
                         record_fn *each, void *arg, mq_error *err)
{
    mq_csv csv;
    size_t count;
    mq_csv_open(&csv, file->name, file->bytes);
    mq_code code = read_first_line(t, &csv, is_first_file, err);
    while (code == MQ_OK) {
        code = mq_csv_next(&csv, t->cells, MQ_CSV_COLUMNS_MAX, &count, err);
        if (code != MQ_OK || count == 0) {
            break;
        }
        if (count != t->count) {
            code = mq_fail(err, MQ_E_FORMAT, "%s: line %llu: %zu cells; expected %zu as in line 1",
                           csv.name, (unsigned long long)csv.line, count, t->count);
        } else {
            code = each(t, &csv, t->cells, arg, err);
        }
    }
    mq_csv_release(&csv);
    return code;
}

static mq_code survey_record(mq_csv_table *t, const mq_csv *csv, const mq_csv_cell *cells,
                             void *arg, mq_error *err)
{
    mq_import *im = arg;
    t->rows++;
    for (size_t c = 0; c < t->count; c++) {
        mq_code code = mq_csv_column_see(t, c, csv, &cells[c], im->missing, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return t->rows % 4096 == 0 ? im->host->ops->check(im->host, err) : MQ_OK;
}

/* Where rows go in the second pass. */
typedef struct writing {
    mq_import *im;
    float *x; /* one row */
    mq_dtype y_dtype;
} writing;

static mq_code write_record(mq_csv_table *t, const mq_csv *csv, const mq_csv_cell *cells, void *arg,
                            mq_error *err)
{
    writing *w = arg;
    size_t at = 0;
    double label = 0;
    for (size_t c = 0; c < t->count; c++) {
        double v = mq_csv_column_value(&t->columns[c], &cells[c], w->im->missing);
        if (c == t->label) {
            label = v;
        } else {
            w->x[at++] = (float)v;
        }
    }
    (void)csv;
    float value = (float)label;
    int32_t number = (int32_t)label;
    uint8_t byte = (uint8_t)number;
    const void *y = w->y_dtype == MQ_DT_F32   ? (const void *)&value
                    : w->y_dtype == MQ_DT_I32 ? (const void *)&number
                                              : (const void *)&byte;
    return mq_shards_add(w->im->shards, 1, w->x, y, err);
}

static mq_code walk(mq_csv_table *t, const mq_import *im, record_fn *each, void *arg, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < im->file_count && code == MQ_OK; i++) {
        code = walk_file(t, &im->files[i], i == 0, each, arg, err);
    }
    return code;
}

/* Type of y and number of classes from what the survey saw in the label column. */
static mq_code choose_labels(const mq_csv_table *t, const mq_import *im, mq_shards_spec *spec,
                             mq_error *err)
{
    spec->y_dtype = MQ_DT_NONE;
    spec->classes = 0;
    if (t->label == MQ_CSV_NO_LABEL) {
        return MQ_OK;
    }
    const mq_csv_column *c = &t->columns[t->label];
    bool is_class = c->is_text || (c->is_whole && c->min >= 0 && c->max < 1000);
    if (im->label_type == MQ_LABEL_CLASS && !c->is_text) {
        if (!c->is_whole || c->min < 0 || c->max >= MQ_DATASET_CLASSES_MAX) {
            return mq_fail(err, MQ_E_ARG,
                           "label column \"%s\" has numbers from %g to %g%s; classes are whole "
                           "numbers in 0..%d, or list the column as categorical",
                           c->name, c->min, c->max, c->is_whole ? "" : ", not all whole",
                           MQ_DATASET_CLASSES_MAX - 1);
        }
        is_class = true;
    }
    if (im->label_type == MQ_LABEL_VALUE) {
        if (c->is_text) {
            return mq_fail(err, MQ_E_ARG, "label column \"%s\" is text; values are numbers",
                           c->name);
        }
        is_class = false;
    }
    if (is_class) {
        spec->classes = c->is_text ? (int32_t)c->category_count : (int32_t)c->max + 1;
    }
    spec->y_dtype = !is_class ? MQ_DT_F32 : spec->classes <= 256 ? MQ_DT_U8 : MQ_DT_I32;
    return MQ_OK;
}

static mq_code write_rows(mq_csv_table *t, mq_import *im, mq_error *err)
{
    size_t features = t->count - (t->label != MQ_CSV_NO_LABEL);
    mq_shards_spec spec = {.x_dtype = MQ_DT_F32, .x_shape = {1, {(int64_t)features}}};
    if (features == 0) {
        return mq_fail(err, MQ_E_FORMAT, "%s: line 1: only the label column; expected features",
                       im->files[0].name);
    }
    mq_code code = choose_labels(t, im, &spec, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "%s", im->files[0].name);
    }
    code = mq_shards_new(&im->shards, im->host, &spec, t->rows, err);
    if (code != MQ_OK) {
        return code;
    }
    writing w = {im, calloc(features, sizeof(float)), spec.y_dtype};
    code = w.x == NULL ? mq_fail(err, MQ_E_LIMIT, "no memory for a row of %zu numbers", features)
                       : walk(t, im, write_record, &w, err);
    free(w.x);
    return code;
}

static mq_code run(mq_import *im, mq_error *err)
{
    mq_csv_table *t;
    if (im->labels != NULL) {
        return mq_fail(err, MQ_E_ARG,
                       "labels: a CSV file has its labels in a column; name it by "
                       "label_column");
    }
    mq_code code = mq_csv_table_new(&t, im, err);
    if (code == MQ_OK) {
        code = walk(t, im, survey_record, im, err);
    }
    if (code == MQ_OK && t->rows == 0) {
        code = mq_fail(err, MQ_E_FORMAT, "%s: line 2: there is no row of data behind the header",
                       im->files[0].name);
    }
    if (code == MQ_OK) {
        code = mq_csv_table_settle(t, err);
    }
    if (code == MQ_OK) {
        code = write_rows(t, im, err);
    }
    if (code == MQ_OK) {
        mq_csv_table_meta(t, im);
    }
    mq_csv_table_free(t);
    return code;
}
