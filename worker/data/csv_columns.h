/* What the columns of a CSV file turn out to be: names, types, categories, statistics. The rules
 * stand at the top of csv.c. */
#ifndef MQ_WORKER_DATA_CSV_COLUMNS_H
#define MQ_WORKER_DATA_CSV_COLUMNS_H

#include "worker/data/csv_read.h"
#include "worker/data/import.h"

enum {
    MQ_CSV_CATEGORIES_MAX = 65536, /* of one column */
    MQ_CSV_CATEGORY_BYTES_MAX = 1024,
    MQ_CSV_MEMORY_MAX = 256 << 20, /* for names and categories of all columns */
};
#define MQ_CSV_NO_LABEL SIZE_MAX

typedef struct mq_csv_column {
    const char *name;
    bool is_known; /* the type is decided */
    bool is_text;
    uint64_t known_line; /* by the cell in this line */
    uint64_t missing, present;
    bool is_whole;                     /* numeric: every number so far */
    double min, max, mean, square_sum; /* numeric; Welford's running mean and sum of squares */
    mq_span *categories;               /* text: sorted */
    uint32_t category_count, category_room;
} mq_csv_column;

typedef struct mq_csv_table {
    mq_arena arena;
    mq_csv_column *columns; /* count of them, from the first line on */
    size_t count;
    size_t label; /* index of the label column, or MQ_CSV_NO_LABEL */
    bool has_header;
    uint64_t rows;            /* of all files */
    const char *label_column; /* as asked for; or NULL */
    const char *const *categorical;
    mq_csv_cell *cells; /* owned: MQ_CSV_COLUMNS_MAX */
} mq_csv_table;

/* Owned; free with mq_csv_table_free (NULL is allowed). Borrows im's options. */
MQ_MUST_USE mq_code mq_csv_table_new(mq_csv_table **out, const mq_import *im, mq_error *err);
void mq_csv_table_free(mq_csv_table *t);

/* Makes the columns of the first file's first record, which is in t->cells; csv is for messages.
 * The second form checks another file's. */
MQ_MUST_USE mq_code mq_csv_table_header(mq_csv_table *t, const mq_csv *csv, size_t count,
                                        mq_error *err);
MQ_MUST_USE mq_code mq_csv_table_same_header(mq_csv_table *t, const mq_csv *csv, size_t count,
                                             mq_error *err);

/* Takes one cell into column c's type, categories and statistics. */
MQ_MUST_USE mq_code mq_csv_column_see(mq_csv_table *t, size_t c, const mq_csv *csv,
                                      const mq_csv_cell *cell, mq_missing_rule missing,
                                      mq_error *err);

/* After the survey: every column has a value. */
MQ_MUST_USE mq_code mq_csv_table_settle(mq_csv_table *t, mq_error *err);

/* The number a surveyed cell stands for. */
double mq_csv_column_value(const mq_csv_column *column, const mq_csv_cell *cell,
                           mq_missing_rule missing);

/* Fills im->columns and im->categories for the meta. */
void mq_csv_table_meta(const mq_csv_table *t, mq_import *im);

#endif
