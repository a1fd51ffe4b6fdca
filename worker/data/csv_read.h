/* Cells of a CSV file (RFC 4180), one record at a time, in place. Commas between cells; LF or CRLF
 * ends a record; a quoted cell may hold commas, line ends and doubled quotes; blanks around an
 * unquoted cell do not count; a byte order mark is skipped; empty lines at the end are no records.
 * Messages name the file, the line and the column. */
#ifndef MQ_WORKER_DATA_CSV_READ_H
#define MQ_WORKER_DATA_CSV_READ_H

#include "shared/base/arena.h"
#include "shared/base/error.h"

enum { MQ_CSV_COLUMNS_MAX = 65536, MQ_CSV_CELL_BYTES_MAX = 1 << 20 };

typedef struct mq_csv_cell {
    mq_span text; /* without quotes and surrounding blanks; borrowed until the next record */
    bool is_quoted;
} mq_csv_cell;

typedef struct mq_csv {
    const char *name; /* borrowed, for messages */
    const uint8_t *at, *end;
    uint64_t line;      /* where the record last read begins, from 1 */
    uint64_t next_line; /* where the next one does */
    mq_arena unescaped; /* cells with doubled quotes, of this record */
} mq_csv;

/* Borrows both until release. */
void mq_csv_open(mq_csv *csv, const char *name, mq_span bytes);
void mq_csv_release(mq_csv *csv);

/* Reads a record of at most room cells; *count 0: the file's end. */
MQ_MUST_USE mq_code mq_csv_next(mq_csv *csv, mq_csv_cell *cells, size_t room, size_t *count,
                                mq_error *err);

/* True for an empty cell, and for NA, N/A, NaN or null in any case without quotes. */
bool mq_csv_is_missing(const mq_csv_cell *cell);

/* A decimal number: sign, digits with one point, exponent; nothing else. False when it is not, or
 * is not finite as float32. */
bool mq_csv_number(const mq_csv_cell *cell, double *out);

#endif
