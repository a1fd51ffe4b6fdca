/* Text for people; see out.h. */
#include "client/cli/out.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shared/base/assert.h"

enum { COLUMNS_MAX = 16, CELL_BYTES = 96, TEXTS = 4, TEXT_BYTES = 48 };

struct mq_table {
    char headings[COLUMNS_MAX][CELL_BYTES];
    bool is_right[COLUMNS_MAX];
    int columns;
    char (*cells)[CELL_BYTES]; /* owned */
    size_t count, room;
};

mq_table *mq_table_new(const char *headings)
{
    mq_table *table = calloc(1, sizeof *table);
    MQ_ASSERT(table != NULL);
    for (const char *at = headings; *at != '\0';) {
        size_t len = strcspn(at, "|");
        MQ_ASSERT(table->columns < COLUMNS_MAX);
        table->is_right[table->columns] = *at == '>';
        size_t skip = *at == '>' ? 1 : 0;
        (void)snprintf(table->headings[table->columns++], CELL_BYTES, "%.*s", (int)(len - skip),
                       at + skip);
        at += len + (at[len] == '|');
    }
    return table;
}

void mq_table_cell(mq_table *table, const char *fmt, ...)
{
    if (table->count == table->room) {
        table->room = table->room == 0 ? 64 : table->room * 2;
        table->cells = realloc(table->cells, table->room * CELL_BYTES);
        MQ_ASSERT(table->cells != NULL);
    }
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(table->cells[table->count++], CELL_BYTES, fmt, args);
    va_end(args);
}

static void print_row(const mq_table *table, char (*cells)[CELL_BYTES], const int *widths)
{
    for (int c = 0; c < table->columns; c++) {
        bool is_last = c == table->columns - 1;
        if (table->is_right[c]) {
            printf("%*s%s", widths[c], cells[c], is_last ? "\n" : "  ");
        } else if (is_last) {
            printf("%s\n", cells[c]);
        } else {
            printf("%-*s  ", widths[c], cells[c]);
        }
    }
}

void mq_table_print(mq_table *table, const char *none)
{
    int widths[COLUMNS_MAX];
    MQ_ASSERT(table->count % (size_t)table->columns == 0);
    for (int c = 0; c < table->columns; c++) {
        widths[c] = (int)strlen(table->headings[c]);
        for (size_t i = (size_t)c; i < table->count; i += (size_t)table->columns) {
            int len = (int)strlen(table->cells[i]);
            widths[c] = len > widths[c] ? len : widths[c];
        }
    }
    if (table->count == 0) {
        printf("%s\n", none);
    } else {
        print_row(table, table->headings, widths);
    }
    for (size_t i = 0; i < table->count; i += (size_t)table->columns) {
        print_row(table, table->cells + i, widths);
    }
    free(table->cells);
    free(table);
}

static char *next_text(void)
{
    static char texts[TEXTS][TEXT_BYTES];
    static unsigned next;
    return texts[next++ % TEXTS];
}

const char *mq_out_bytes(double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    char *out = next_text();
    int unit = 0;
    if (isnan(bytes)) {
        return "-";
    }
    while (bytes >= 1000 && unit < 4) {
        bytes /= 1000;
        unit++;
    }
    (void)snprintf(out, TEXT_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return out;
}

const char *mq_out_ms(int64_t ms)
{
    char *out = next_text();
    double s = (double)ms / 1000;
    if (s < 60) {
        (void)snprintf(out, TEXT_BYTES, "%.1f s", s);
    } else if (s < 5400) {
        (void)snprintf(out, TEXT_BYTES, "%.0f min", s / 60);
    } else if (s < 172800) {
        (void)snprintf(out, TEXT_BYTES, "%.0f h", s / 3600);
    } else {
        (void)snprintf(out, TEXT_BYTES, "%.0f d", s / 86400);
    }
    return out;
}

const char *mq_out_time(int64_t wall_ms)
{
    char *out = next_text();
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm parts;
    if (wall_ms <= 0 || gmtime_r(&seconds, &parts) == NULL ||
        strftime(out, TEXT_BYTES, "%Y-%m-%d %H:%M:%S", &parts) == 0) {
        return "-";
    }
    return out;
}

const char *mq_out_number(double value, int decimals)
{
    char *out = next_text();
    if (isnan(value)) {
        return "-";
    }
    (void)snprintf(out, TEXT_BYTES, "%.*f", decimals, value);
    return out;
}
