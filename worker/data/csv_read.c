/* Splitting CSV into cells; see csv_read.h. Knows nothing of columns' meanings. */
#include "worker/data/csv_read.h"

#include <math.h>
#include <stdlib.h>
#include <strings.h>

#include "shared/base/math.h"

enum { NUMBER_BYTES_MAX = 64 };

void mq_csv_open(mq_csv *csv, const char *name, mq_span bytes)
{
    static const uint8_t mark[3] = {0xEF, 0xBB, 0xBF};
    size_t skip = bytes.len >= 3 && memcmp(bytes.data, mark, 3) == 0 ? 3 : 0;
    *csv = (mq_csv){.name = name, .line = 1, .next_line = 1};
    csv->at = bytes.len == 0 ? NULL : bytes.data + skip;
    csv->end = bytes.len == 0 ? NULL : bytes.data + bytes.len;
    mq_arena_init(&csv->unescaped, (size_t)MQ_CSV_CELL_BYTES_MAX * 64);
}

void mq_csv_release(mq_csv *csv)
{
    mq_arena_release(&csv->unescaped);
}

static mq_code bad(const mq_csv *csv, size_t column, const char *what, mq_error *err)
{
    return mq_fail(err, MQ_E_FORMAT, "%s: line %llu, column %zu: %s", csv->name,
                   (unsigned long long)csv->next_line, column + 1, what);
}

static bool is_end_of_line(const mq_csv *csv)
{
    return csv->at == csv->end || *csv->at == '\n' ||
           (*csv->at == '\r' && csv->at + 1 < csv->end && csv->at[1] == '\n');
}

static void skip_end_of_line(mq_csv *csv)
{
    if (csv->at < csv->end) {
        csv->at += *csv->at == '\r' ? 2 : 1;
        csv->next_line++;
    }
}

/* Copies text with each doubled quote made one. */
static mq_code unescape(mq_csv *csv, mq_span raw, size_t column, mq_span *out, mq_error *err)
{
    uint8_t *copy = mq_arena_alloc(&csv->unescaped, raw.len, 1);
    size_t n = 0;
    if (copy == NULL) {
        return bad(csv, column, "quoted cells of this record are too large", err);
    }
    for (size_t i = 0; i < raw.len; i++) {
        copy[n++] = raw.data[i];
        i += raw.data[i] == '"';
    }
    *out = mq_span_of(copy, n);
    return MQ_OK;
}

static mq_code take_quoted(mq_csv *csv, size_t column, mq_csv_cell *cell, mq_error *err)
{
    const uint8_t *from = ++csv->at;
    uint64_t opened = csv->next_line;
    bool has_pairs = false;
    for (;; csv->at++) {
        if (csv->at == csv->end) {
            csv->next_line = opened;
            return bad(csv, column, "the quote opened here is not closed before the file's end",
                       err);
        }
        if (*csv->at == '"') {
            if (csv->at + 1 == csv->end || csv->at[1] != '"') {
                break;
            }
            has_pairs = true;
            csv->at++;
        }
        csv->next_line += *csv->at == '\n';
    }
    cell->is_quoted = true;
    cell->text = mq_span_of(from, (size_t)(csv->at - from));
    csv->at++;
    while (csv->at < csv->end && (*csv->at == ' ' || *csv->at == '\t')) {
        csv->at++;
    }
    if (!is_end_of_line(csv) && *csv->at != ',') {
        return bad(csv, column, "expected ',' or the line's end after a closing quote", err);
    }
    return has_pairs ? unescape(csv, cell->text, column, &cell->text, err) : MQ_OK;
}

static mq_code take_plain(mq_csv *csv, size_t column, mq_csv_cell *cell, mq_error *err)
{
    const uint8_t *from = csv->at;
    while (!is_end_of_line(csv) && *csv->at != ',') {
        if (*csv->at == '"') {
            return bad(csv, column,
                       "a quote inside an unquoted cell: quote the whole cell and "
                       "double the quote",
                       err);
        }
        if (*csv->at < 0x20 && *csv->at != '\t') {
            return bad(csv, column,
                       *csv->at == '\r' ? "a carriage return without a line feed"
                                        : "a control character",
                       err);
        }
        csv->at++;
    }
    const uint8_t *to = csv->at;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t')) {
        to--;
    }
    *cell = (mq_csv_cell){mq_span_of(from, (size_t)(to - from)), false};
    return MQ_OK;
}

static mq_code take_cell(mq_csv *csv, size_t column, mq_csv_cell *cell, mq_error *err)
{
    while (csv->at < csv->end && (*csv->at == ' ' || *csv->at == '\t')) {
        csv->at++;
    }
    bool is_quoted = csv->at < csv->end && *csv->at == '"';
    mq_code code =
        is_quoted ? take_quoted(csv, column, cell, err) : take_plain(csv, column, cell, err);
    if (code == MQ_OK && cell->text.len > MQ_CSV_CELL_BYTES_MAX) {
        code = bad(csv, column, "a cell of more than 1 MiB", err);
    }
    return code;
}

/* True when nothing but line ends is left. */
static bool is_over(mq_csv *csv)
{
    const uint8_t *p = csv->at;
    while (p < csv->end && (*p == '\n' || *p == '\r')) {
        p++;
    }
    return p == csv->end;
}

mq_code mq_csv_next(mq_csv *csv, mq_csv_cell *cells, size_t room, size_t *count, mq_error *err)
{
    *count = 0;
    csv->line = csv->next_line;
    mq_arena_reset(&csv->unescaped);
    if (is_over(csv)) {
        return MQ_OK;
    }
    for (;;) {
        if (*count == room) {
            return mq_fail(err, MQ_E_FORMAT, "%s: line %llu: more than %zu cells", csv->name,
                           (unsigned long long)csv->line, room);
        }
        mq_code code = take_cell(csv, *count, &cells[*count], err);
        if (code != MQ_OK) {
            return code;
        }
        ++*count;
        if (is_end_of_line(csv)) {
            skip_end_of_line(csv);
            return MQ_OK;
        }
        csv->at++; /* the comma */
    }
}

bool mq_csv_is_missing(const mq_csv_cell *cell)
{
    static const char *const words[] = {"NA", "N/A", "NaN", "null"};
    if (cell->text.len == 0) {
        return true;
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0] && !cell->is_quoted; i++) {
        if (cell->text.len == strlen(words[i]) &&
            strncasecmp((const char *)cell->text.data, words[i], cell->text.len) == 0) {
            return true;
        }
    }
    return false;
}

bool mq_csv_number(const mq_csv_cell *cell, double *out)
{
    char text[NUMBER_BYTES_MAX + 1];
    size_t i = 0, digits = 0, n = cell->text.len;
    if (n == 0 || n > NUMBER_BYTES_MAX) {
        return false;
    }
    mq_span_copy(cell->text, text, sizeof text);
    i += text[i] == '+' || text[i] == '-';
    for (int part = 0; part < 2; part++) {
        while (text[i] >= '0' && text[i] <= '9') {
            i++;
            digits++;
        }
        if (part == 0 && text[i] == '.') {
            i++;
        } else {
            break;
        }
    }
    if (digits > 0 && (text[i] == 'e' || text[i] == 'E')) {
        i++;
        i += text[i] == '+' || text[i] == '-';
        size_t from = i;
        while (text[i] >= '0' && text[i] <= '9') {
            i++;
        }
        digits = i > from ? digits : 0;
    }
    if (digits == 0 || i != n) {
        return false;
    }
    *out = strtod(text, NULL);
    return isfinite((float)*out);
}
