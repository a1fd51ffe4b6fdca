/* Importing files into a dataset: which formats there are, and what an importer is given.
 *
 * A format is one file of worker/data and one row of formats.def. Files are bytes in memory,
 * decompressed already; which format they are is seen from their content unless it is named.
 *
 * Labels: a second file (`labels`), or for CSV a column. Class labels are whole numbers from 0;
 * `classes` is the largest one plus 1. Labels of a floating type are values (regression).
 * uint8 features stay bytes; every other number becomes float32. A number that is not finite is
 * refused. Missing values: see csv.c. */
#ifndef MQ_WORKER_DATA_IMPORT_H
#define MQ_WORKER_DATA_IMPORT_H

#include "worker/data/shards.h"

enum { MQ_IMPORT_FILES_MAX = 64 };
#define MQ_IMPORT_BYTES_MAX ((size_t)2 << 30) /* of one file, decompressed */

typedef struct mq_import_file {
    const char *name; /* for messages and detection by nothing else */
    mq_span bytes;
    mq_buf unpacked; /* owned: what bytes point to when the file was compressed */
} mq_import_file;

/* What to do with labels of a CSV column. */
typedef enum mq_label_type {
    MQ_LABEL_AUTO,  /* text, or whole numbers 0..999: classes; other numbers: values */
    MQ_LABEL_CLASS, /* classes: whole numbers from 0, else one class per distinct text */
    MQ_LABEL_VALUE,
} mq_label_type;

/* What to do with a missing numeric feature of a CSV file. */
typedef enum mq_missing_rule {
    MQ_MISSING_MEAN, /* the column's mean over the cells that are there */
    MQ_MISSING_ZERO,
    MQ_MISSING_REFUSE,
} mq_missing_rule;

typedef struct mq_import {
    mq_host *host;         /* borrowed */
    mq_import_file *files; /* file_count of them: rows of the one after rows of the other */
    uint32_t file_count;
    const mq_import_file *labels; /* or NULL */
    const char *label_column;     /* CSV: name, or 0-based index, or -1 = last; NULL: none */
    mq_label_type label_type;
    mq_missing_rule missing;
    const char *const *categorical; /* CSV: columns to take as text, NULL-terminated; or NULL */

    /* set by the format */
    mq_shards *shards; /* owned */
    mq_buf columns;    /* JSON list for the meta, or empty */
    mq_buf categories; /* JSON list of class names, or empty */
} mq_import;

/* Numbers of one file in place, row-major or column-major: what array formats parse to. */
typedef struct mq_array {
    mq_dtype dtype;
    bool is_big_endian;
    bool is_fortran;
    mq_shape shape; /* dims[0] = rows */
    mq_span data;   /* exactly the bytes that dtype and shape need */
} mq_array;

typedef struct mq_format {
    const char *name;
    bool (*detect)(mq_span bytes);

    /* Array formats: one file is one array; mq_import_arrays does the rest, and the file may be a
     * labels file. Messages do not name the file, the caller does. */
    mq_code (*parse)(mq_span bytes, mq_array *out, mq_error *err);

    /* Others: reads all of im->files, writes im->shards. Messages name the file. */
    mq_code (*run)(mq_import *im, mq_error *err);
} mq_format;

#define MQ_FORMAT(symbol) extern const mq_format mq_format_##symbol;
#include "worker/data/formats.def"
#undef MQ_FORMAT

/* The row of that name, or for "auto" the one whose content the file has. MQ_E_ARG lists the names,
 * MQ_E_FORMAT says what the file starts with. */
MQ_MUST_USE mq_code mq_format_find(const char *name, const mq_import_file *file,
                                   const mq_format **out, mq_error *err);

/* Decompresses the file in place when it is gzip. Release also after an error. */
MQ_MUST_USE mq_code mq_import_unpack(mq_import_file *file, mq_error *err);
void mq_import_file_release(mq_import_file *file);

/* Imports im->files as `format`; afterwards im->shards is complete. Release also after an error. */
MQ_MUST_USE mq_code mq_import_run(mq_import *im, const mq_format *format, mq_error *err);
void mq_import_release(mq_import *im);

/* The dataset's meta (see dataset.h) of a finished import. */
MQ_MUST_USE mq_code mq_import_meta(const mq_import *im, const mq_format *format, mq_buf *out,
                                   mq_error *err);

/* For array formats. */
MQ_MUST_USE mq_code mq_import_arrays(mq_import *im, const mq_format *format, mq_error *err);

#endif
