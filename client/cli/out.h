/* Text for people: columns, sizes, times. */
#ifndef MQ_CLI_OUT_H
#define MQ_CLI_OUT_H

#include <stddef.h>
#include <stdint.h>

/* A table: rows of cells, printed with columns as wide as their widest cell. Cells are copied. */
typedef struct mq_table mq_table;

/* headings: "name|version|bytes"; a heading with '>' in front is aligned to the right. */
mq_table *mq_table_new(const char *headings);

/* The next cell; a row is full after as many cells as there are headings. */
void mq_table_cell(mq_table *table, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints to standard output, `none` instead when there are no rows, and frees the table. */
void mq_table_print(mq_table *table, const char *none);

/* "1.2 MB", "17 B"; "3.4 s", "5 min", "2 h"; borrowed until the fourth next call. */
const char *mq_out_bytes(double bytes);
const char *mq_out_ms(int64_t ms);

/* "2026-11-23 16:00:12" UTC, "-" for 0; likewise. */
const char *mq_out_time(int64_t wall_ms);

/* A number, "-" when it is not one; likewise. decimals: behind the point. */
const char *mq_out_number(double value, int decimals);

#endif
