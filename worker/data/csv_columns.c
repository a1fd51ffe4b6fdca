/* Columns of a CSV file; see csv_columns.h. */
#include "worker/data/csv_columns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/map.h"

enum { CELL_SHOWN = 40 };

mq_code mq_csv_table_new(mq_csv_table **out, const mq_import *im, mq_error *err)
{
    mq_csv_table *t = calloc(1, sizeof *t);
    *out = NULL;
    if (t != NULL) {
        mq_arena_init(&t->arena, MQ_CSV_MEMORY_MAX);
        t->cells = calloc(MQ_CSV_COLUMNS_MAX, sizeof *t->cells);
    }
    if (t == NULL || t->cells == NULL) {
        mq_csv_table_free(t);
        return mq_fail(err, MQ_E_LIMIT, "no memory for a table of columns");
    }
    t->label = MQ_CSV_NO_LABEL;
    t->label_column = im->label_column;
    t->categorical = im->categorical;
    *out = t;
    return MQ_OK;
}

void mq_csv_table_free(mq_csv_table *t)
{
    if (t == NULL) {
        return;
    }
    for (size_t c = 0; c < t->count; c++) {
        free(t->columns[c].categories);
    }
    mq_arena_release(&t->arena);
    free(t->cells);
    free(t);
}

static mq_code no_memory(const mq_csv *csv, mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "%s: names and categories take more than %d bytes", csv->name,
                   MQ_CSV_MEMORY_MAX);
}

/* Index of the column of that name, or count. */
static size_t find_column(const mq_csv_table *t, const char *name)
{
    size_t c = 0;
    while (c < t->count && strcmp(t->columns[c].name, name) != 0) {
        c++;
    }
    return c;
}

static mq_code find_label(mq_csv_table *t, const mq_csv *csv, mq_error *err)
{
    if (t->label_column == NULL) {
        return MQ_OK;
    }
    size_t c = find_column(t, t->label_column);
    if (c == t->count) {
        char *end;
        long index = strtol(t->label_column, &end, 10);
        bool is_number = end != t->label_column && *end == '\0';
        c = is_number && index < 0 ? t->count + (size_t)index : is_number ? (size_t)index : c;
    }
    if (c >= t->count) {
        return mq_fail(err, MQ_E_ARG,
                       "%s: line 1: label_column \"%.64s\" is neither a name in the header nor an "
                       "index in 0..%zu (-1 = last); the first column is \"%.64s\"",
                       csv->name, t->label_column, t->count - 1, t->columns[0].name);
    }
    t->label = c;
    return MQ_OK;
}

static mq_code mark_categorical(mq_csv_table *t, const mq_csv *csv, mq_error *err)
{
    for (size_t i = 0; t->categorical != NULL && t->categorical[i] != NULL; i++) {
        size_t c = find_column(t, t->categorical[i]);
        if (c == t->count) {
            return mq_fail(err, MQ_E_ARG, "%s: line 1: categorical: there is no column \"%.64s\"",
                           csv->name, t->categorical[i]);
        }
        t->columns[c].is_known = t->columns[c].is_text = true;
    }
    return MQ_OK;
}

static mq_code check_names(const mq_csv_table *t, const mq_csv *csv, mq_error *err)
{
    mq_map map;
    mq_code code = mq_map_init(&map, (uint32_t)t->count, (uint64_t)(uintptr_t)t, err);
    if (code != MQ_OK) {
        return code;
    }
    for (size_t c = 0; c < t->count && code == MQ_OK; c++) {
        mq_span name = mq_str(t->columns[c].name);
        uint32_t other = mq_map_find(&map, name);
        if (other != MQ_MAP_NONE) {
            code = mq_fail(err, MQ_E_FORMAT,
                           "%s: line 1, column %zu: the name \"%.64s\" is that of column %u too",
                           csv->name, c + 1, t->columns[c].name, other + 1);
        }
        mq_map_put(&map, name, (uint32_t)c);
    }
    mq_map_release(&map);
    return code;
}

/* The rule of csv.c: a header unless all cells are numbers. */
static bool is_header(const mq_csv_cell *cells, size_t count)
{
    double ignored;
    for (size_t c = 0; c < count; c++) {
        if (!mq_csv_number(&cells[c], &ignored)) {
            return true;
        }
    }
    return false;
}

mq_code mq_csv_table_header(mq_csv_table *t, const mq_csv *csv, size_t count, mq_error *err)
{
    if (t->columns != NULL) { /* second pass */
        return MQ_OK;
    }
    t->columns = mq_arena_new(&t->arena, mq_csv_column, count);
    if (t->columns == NULL) {
        return no_memory(csv, err);
    }
    t->count = count;
    t->has_header = is_header(t->cells, count);
    for (size_t c = 0; c < count; c++) {
        mq_span text = t->cells[c].text;
        bool is_named = t->has_header && text.len > 0;
        if (text.len > MQ_CSV_CATEGORY_BYTES_MAX ||
            (text.len > 0 && memchr(text.data, 0, text.len) != NULL)) {
            return mq_fail(err, MQ_E_FORMAT,
                           "%s: line 1, column %zu: a name with a zero byte or more than %d bytes",
                           csv->name, c + 1, MQ_CSV_CATEGORY_BYTES_MAX);
        }
        t->columns[c].name =
            is_named ? mq_arena_str(&t->arena, text) : mq_arena_printf(&t->arena, "c%zu", c + 1);
        t->columns[c].is_whole = true;
        if (t->columns[c].name == NULL) {
            return no_memory(csv, err);
        }
    }
    mq_code code = check_names(t, csv, err);
    if (code == MQ_OK) {
        code = find_label(t, csv, err);
    }
    return code == MQ_OK ? mark_categorical(t, csv, err) : code;
}

mq_code mq_csv_table_same_header(mq_csv_table *t, const mq_csv *csv, size_t count, mq_error *err)
{
    bool is_same = count == t->count && is_header(t->cells, count) == t->has_header;
    for (size_t c = 0; is_same && t->has_header && c < count; c++) {
        is_same = t->cells[c].text.len == 0 || mq_span_is(t->cells[c].text, t->columns[c].name);
    }
    return is_same ? MQ_OK
                   : mq_fail(err, MQ_E_FORMAT, "%s: line 1: other columns than in the first file",
                             csv->name);
}

/* Position of text among the categories; *is_there says whether it stands there. */
static uint32_t search(const mq_csv_column *col, mq_span text, bool *is_there)
{
    uint32_t low = 0, high = col->category_count;
    *is_there = false;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        mq_span other = col->categories[middle];
        size_t n = other.len < text.len ? other.len : text.len;
        int order = n == 0 ? 0 : memcmp(other.data, text.data, n);
        if (order == 0) {
            order = other.len < text.len ? -1 : other.len > text.len;
        }
        if (order == 0) {
            *is_there = true;
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static mq_code see_text(mq_csv_table *t, size_t c, const mq_csv *csv, mq_span text, mq_error *err)
{
    mq_csv_column *col = &t->columns[c];
    bool is_there;
    uint32_t at = search(col, text, &is_there);
    if (is_there) {
        return MQ_OK;
    }
    if (col->category_count == MQ_CSV_CATEGORIES_MAX || text.len > MQ_CSV_CATEGORY_BYTES_MAX) {
        return mq_fail(err, MQ_E_LIMIT,
                       "%s: line %llu, column %zu (%s): more than %d different texts, or one of "
                       "more than %d bytes",
                       csv->name, (unsigned long long)csv->line, c + 1, col->name,
                       MQ_CSV_CATEGORIES_MAX, MQ_CSV_CATEGORY_BYTES_MAX);
    }
    if (col->category_count == col->category_room) {
        uint32_t room = col->category_room == 0 ? 16 : 2 * col->category_room;
        mq_span *more = realloc(col->categories, room * sizeof *more);
        if (more == NULL) {
            return no_memory(csv, err);
        }
        col->categories = more;
        col->category_room = room;
    }
    const char *copy = mq_arena_str(&t->arena, text);
    if (copy == NULL) {
        return no_memory(csv, err);
    }
    memmove(col->categories + at + 1, col->categories + at,
            (col->category_count - at) * sizeof *col->categories);
    col->categories[at] = mq_span_of(copy, text.len);
    col->category_count++;
    return MQ_OK;
}

static mq_code see_number(mq_csv_column *col, size_t c, const mq_csv *csv, const mq_csv_cell *cell,
                          mq_error *err)
{
    double v;
    if (!mq_csv_number(cell, &v)) {
        return mq_fail(err, MQ_E_FORMAT,
                       "%s: line %llu, column %zu (%s): \"%.*s\" is not a finite number; the "
                       "column is numeric since line %llu (list it as categorical to take it as "
                       "text)",
                       csv->name, (unsigned long long)csv->line, c + 1, col->name,
                       cell->text.len < CELL_SHOWN ? (int)cell->text.len : CELL_SHOWN,
                       (const char *)cell->text.data, (unsigned long long)col->known_line);
    }
    col->min = col->present == 0 || v < col->min ? v : col->min;
    col->max = col->present == 0 || v > col->max ? v : col->max;
    col->is_whole = col->is_whole && v == floor(v);
    col->present++;
    double delta = v - col->mean;
    col->mean += delta / (double)col->present;
    col->square_sum += delta * (v - col->mean);
    return MQ_OK;
}

mq_code mq_csv_column_see(mq_csv_table *t, size_t c, const mq_csv *csv, const mq_csv_cell *cell,
                          mq_missing_rule missing, mq_error *err)
{
    mq_csv_column *col = &t->columns[c];
    if (mq_csv_is_missing(cell)) {
        col->missing++;
        if (c == t->label || missing == MQ_MISSING_REFUSE) {
            return mq_fail(err, MQ_E_FORMAT, "%s: line %llu, column %zu (%s): a missing value%s",
                           csv->name, (unsigned long long)csv->line, c + 1, col->name,
                           c == t->label ? " in the label column" : "");
        }
        return MQ_OK;
    }
    if (!col->is_known) {
        double ignored;
        col->is_known = true;
        col->is_text = !mq_csv_number(cell, &ignored);
        col->known_line = csv->line;
    }
    if (!col->is_text) {
        return see_number(col, c, csv, cell, err);
    }
    col->present++;
    return see_text(t, c, csv, cell->text, err);
}

mq_code mq_csv_table_settle(mq_csv_table *t, mq_error *err)
{
    for (size_t c = 0; c < t->count; c++) {
        mq_csv_column *col = &t->columns[c];
        if (col->present == 0) {
            return mq_fail(err, MQ_E_FORMAT, "column %zu (%s): every value is missing", c + 1,
                           col->name);
        }
        if (col->is_text && col->missing > 0) {
            mq_csv csv = {.name = "csv"};
            mq_code code = see_text(t, c, &csv, mq_str(""), err);
            if (code != MQ_OK) {
                return code;
            }
        }
    }
    return MQ_OK;
}

double mq_csv_column_value(const mq_csv_column *col, const mq_csv_cell *cell,
                           mq_missing_rule missing)
{
    double v = 0;
    bool is_missing = mq_csv_is_missing(cell), is_there;
    if (col->is_text) {
        v = (double)search(col, is_missing ? mq_str("") : cell->text, &is_there);
        MQ_ASSERT(is_there);
    } else if (is_missing) {
        v = missing == MQ_MISSING_MEAN ? col->mean : 0;
    } else {
        bool is_number = mq_csv_number(cell, &v);
        MQ_ASSERT(is_number);
    }
    return v;
}

static void add_categories(const mq_csv_column *col, mq_buf *out)
{
    for (uint32_t i = 0; i < col->category_count; i++) {
        mq_buf_add_str(out, i == 0 ? "[" : ",");
        mq_buf_add_json(out, col->categories[i]);
    }
    mq_buf_add_str(out, "]");
}

static void add_column(const mq_csv_column *col, bool is_label, mq_missing_rule missing,
                       mq_buf *out)
{
    mq_buf_add_str(out, out->len == 0 ? "[{\"name\":" : ",{\"name\":");
    mq_buf_add_json(out, mq_str(col->name));
    if (is_label) {
        mq_buf_add_str(out, ",\"label\":true");
    }
    mq_buf_printf(out, ",\"missing\":%llu", (unsigned long long)col->missing);
    if (col->is_text) {
        mq_buf_add_str(out, ",\"type\":\"category\",\"categories\":");
        add_categories(col, out);
    } else {
        double fill = missing == MQ_MISSING_MEAN ? col->mean : 0;
        mq_buf_printf(out,
                      ",\"type\":\"number\",\"min\":%.9g,\"max\":%.9g,\"mean\":%.9g,\"std\":%.9g",
                      col->min, col->max, col->mean, sqrt(col->square_sum / (double)col->present));
        if (col->missing > 0) {
            mq_buf_printf(out, ",\"fill\":%.9g", fill);
        }
    }
    mq_buf_add_str(out, "}");
}

void mq_csv_table_meta(const mq_csv_table *t, mq_import *im)
{
    for (size_t c = 0; c < t->count; c++) {
        if (c != t->label) {
            add_column(&t->columns[c], false, im->missing, &im->columns);
        }
    }
    if (t->label != MQ_CSV_NO_LABEL) {
        const mq_csv_column *col = &t->columns[t->label];
        add_column(col, true, im->missing, &im->columns);
        if (col->is_text) {
            add_categories(col, &im->categories);
        }
    }
    mq_buf_add_str(&im->columns, "]");
}
