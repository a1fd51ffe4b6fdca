/* Kind "dataset.import": turns files that the client has uploaded as blobs into a dataset.
 *
 *   {"name":"fashion",
 *    "files":[{"name":"train-images-idx3-ubyte.gz","blob":hex}],   or "blobs":[hex,...]: pieces
 *    "labels":{"name":"train-labels-idx1-ubyte.gz","blob":hex},    or null
 *    "format":"auto", "label_column":"species"|4|-1, "label_type":"auto"|"class"|"value",
 *    "missing":"mean"|"zero"|"refuse", "categorical":["city"]}
 *
 * Publishes type "dataset"; result {"name":name,"meta":{...}} (worker/data/dataset.h). */
#include <stdlib.h>

#include "shared/base/assert.h"
#include "worker/data/import.h"
#include "worker/kinds/body.h"
#include "worker/kinds/kind.h"

mq_kind_run mq_kind_run_dataset_import;

enum { PIECES_MAX = 4096, CATEGORICAL_MAX = 1024, META_BYTES_MAX = 64 << 10, FILE_NAME_MAX = 256 };

/* One uploaded file: its import view and what holds its bytes. */
typedef struct upload {
    mq_import_file *file; /* borrowed */
    mq_map_file map;      /* of a single blob */
    mq_buf joined;        /* of pieces */
} upload;

typedef struct request {
    const char *name, *format;
    char label_index[24];
    mq_import import;
    mq_import_file files[MQ_IMPORT_FILES_MAX + 1]; /* the last is the labels file */
    upload uploads[MQ_IMPORT_FILES_MAX + 1];
    uint32_t upload_count;
    const char *categorical[CATEGORICAL_MAX + 1];
} request;

static mq_code join_pieces(mq_host *host, upload *up, const json_t *blobs, const char *field,
                           mq_error *err)
{
    size_t count = json_array_size(blobs);
    if (count == 0 || count > PIECES_MAX) {
        return mq_fail(err, MQ_E_ARG, "%s: blobs: expected a list of 1..%d hashes", field,
                       PIECES_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        const char *hash;
        mq_map_file piece;
        mq_code code = mq_body_hash(json_array_get(blobs, i), "blobs", &hash, err);
        if (code == MQ_OK) {
            code = host->ops->blob_open(host, hash, &piece, err);
        }
        if (code != MQ_OK) {
            return mq_wrap(err, "%s", field);
        }
        bool fits = mq_buf_add_span(&up->joined, piece.bytes);
        mq_map_file_release(&piece);
        if (!fits) {
            return mq_fail(err, MQ_E_LIMIT, "%s: more than %zu bytes", field, MQ_IMPORT_BYTES_MAX);
        }
    }
    up->file->bytes = mq_buf_span(&up->joined);
    return MQ_OK;
}

/* {"name","blob"} or {"name","blobs"}: maps or joins, then decompresses. */
static mq_code open_file(mq_host *host, request *r, mq_import_file *file, const json_t *item,
                         const char *field, mq_error *err)
{
    const char *hash;
    const char *name = json_string_value(json_object_get(item, "name"));
    const json_t *blob = json_object_get(item, "blob"), *blobs = json_object_get(item, "blobs");
    if (name == NULL || name[0] == '\0' || strlen(name) > FILE_NAME_MAX ||
        (blob == NULL) == (blobs == NULL) || json_object_size(item) != 2) {
        return mq_fail(err, MQ_E_ARG,
                       "%s: expected {\"name\":1..%d bytes, and \"blob\":hash or "
                       "\"blobs\":[hash,...]}",
                       field, FILE_NAME_MAX);
    }
    upload *up = &r->uploads[r->upload_count++];
    up->file = file;
    mq_buf_init(&up->joined, MQ_IMPORT_BYTES_MAX);
    file->name = name;
    mq_code code;
    if (blobs != NULL) {
        code = join_pieces(host, up, blobs, name, err);
    } else {
        code = mq_body_hash(blob, field, &hash, err);
        if (code == MQ_OK) {
            code = host->ops->blob_open(host, hash, &up->map, err);
        }
        file->bytes = up->map.bytes;
    }
    return code == MQ_OK ? mq_import_unpack(file, err) : mq_wrap(err, "%s", name);
}

static mq_code open_files(mq_host *host, request *r, const mq_body *body, mq_error *err)
{
    const json_t *list = json_object_get(body->root, "files");
    const json_t *labels = json_object_get(body->root, "labels");
    size_t count = json_array_size(list);
    if (count == 0 || count > MQ_IMPORT_FILES_MAX) {
        return mq_fail(err, MQ_E_ARG, "files: expected a list of 1..%d files", MQ_IMPORT_FILES_MAX);
    }
    r->import.files = r->files;
    r->import.file_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        mq_code code = open_file(host, r, &r->files[i], json_array_get(list, i), "files", err);
        if (code != MQ_OK) {
            return code;
        }
    }
    if (labels == NULL || json_is_null(labels)) {
        return MQ_OK;
    }
    r->import.labels = &r->files[MQ_IMPORT_FILES_MAX];
    return open_file(host, r, &r->files[MQ_IMPORT_FILES_MAX], labels, "labels", err);
}

/* One of the texts in a NULL-terminated list, by its position. */
static mq_code read_choice(const mq_body *body, const char *field, const char *const *choices,
                           int *out, mq_error *err)
{
    const char *text = choices[*out];
    mq_code code = mq_body_text(body, field, false, 32, &text, err);
    for (int i = 0; code == MQ_OK && choices[i] != NULL; i++) {
        if (strcmp(choices[i], text) == 0) {
            *out = i;
            return MQ_OK;
        }
    }
    return code != MQ_OK ? code
                         : mq_fail(err, MQ_E_ARG, "%s: \"%s\" is none of %s, %s, %s", field, text,
                                   choices[0], choices[1], choices[2]);
}

static mq_code read_label_column(const mq_body *body, request *r, mq_error *err)
{
    const json_t *value = json_object_get(body->root, "label_column");
    if (json_is_integer(value)) {
        snprintf(r->label_index, sizeof r->label_index, "%lld",
                 (long long)json_integer_value(value));
        r->import.label_column = r->label_index;
        return MQ_OK;
    }
    return mq_body_text(body, "label_column", false, 1024, &r->import.label_column, err);
}

static mq_code read_categorical(const mq_body *body, request *r, mq_error *err)
{
    const json_t *list = json_object_get(body->root, "categorical");
    if (list == NULL || json_is_null(list)) {
        return MQ_OK;
    }
    size_t count = json_array_size(list);
    bool is_good = json_is_array(list) && count <= CATEGORICAL_MAX;
    for (size_t i = 0; is_good && i < count; i++) {
        r->categorical[i] = json_string_value(json_array_get(list, i));
        is_good = r->categorical[i] != NULL;
    }
    r->import.categorical = r->categorical;
    return is_good ? MQ_OK
                   : mq_fail(err, MQ_E_ARG, "categorical: expected a list of at most %d names",
                             CATEGORICAL_MAX);
}

static mq_code read_options(const mq_body *body, request *r, mq_error *err)
{
    static const char *const types[] = {"auto", "class", "value", NULL};
    static const char *const rules[] = {"mean", "zero", "refuse", NULL};
    int type = 0, rule = 0;
    r->format = "auto";
    mq_code code = mq_body_name(body, "name", true, false, &r->name, err);
    if (code == MQ_OK) {
        code = mq_body_text(body, "format", false, 32, &r->format, err);
    }
    if (code == MQ_OK) {
        code = read_choice(body, "label_type", types, &type, err);
    }
    if (code == MQ_OK) {
        code = read_choice(body, "missing", rules, &rule, err);
    }
    if (code == MQ_OK) {
        code = read_label_column(body, r, err);
    }
    if (code == MQ_OK) {
        code = read_categorical(body, r, err);
    }
    r->import.label_type = (mq_label_type)type;
    r->import.missing = (mq_missing_rule)rule;
    return code;
}

static mq_code publish(mq_host *host, const request *r, const mq_format *format, mq_error *err)
{
    mq_buf meta, result;
    mq_buf_init(&meta, META_BYTES_MAX);
    mq_buf_init(&result, META_BYTES_MAX + 1024);
    mq_code code = mq_import_meta(&r->import, format, &meta, err);
    if (code == MQ_OK) {
        const char **blobs;
        uint32_t count = mq_shards_blobs(r->import.shards, &blobs);
        mq_publish what = {"dataset", r->name, mq_buf_span(&meta), blobs, count};
        code = host->ops->publish(host, &what, err);
    }
    if (code == MQ_OK) {
        mq_buf_printf(&result, "{\"name\":\"%s\",\"meta\":", r->name);
        mq_buf_add_span(&result, mq_buf_span(&meta));
        mq_buf_add_str(&result, "}");
        MQ_ASSERT(!result.is_full);
        code = host->ops->result(host, mq_buf_span(&result), err);
    }
    mq_buf_release(&meta);
    mq_buf_release(&result);
    return code;
}

static void release(request *r)
{
    mq_import_release(&r->import);
    for (uint32_t i = 0; i < r->upload_count; i++) {
        mq_import_file_release(r->uploads[i].file);
        mq_buf_release(&r->uploads[i].joined);
        mq_map_file_release(&r->uploads[i].map);
    }
    free(r);
}

mq_code mq_kind_run_dataset_import(mq_host *host, mq_error *err)
{
    static const char *const known[] = {"name",    "files",        "labels",
                                        "format",  "label_column", "label_type",
                                        "missing", "categorical",  NULL};
    mq_body body;
    const mq_format *format = NULL;
    request *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory");
    }
    r->import.host = host;
    mq_code code = mq_body_open(&body, host->body, known, err);
    if (code == MQ_OK) {
        code = read_options(&body, r, err);
    }
    if (code == MQ_OK) {
        code = open_files(host, r, &body, err);
    }
    if (code == MQ_OK) {
        code = mq_format_find(r->format, &r->files[0], &format, err);
    }
    if (code == MQ_OK) {
        code = mq_import_run(&r->import, format, err);
    }
    if (code == MQ_OK) {
        code = publish(host, r, format, err);
    }
    release(r);
    mq_body_close(&body);
    return code;
}
