/* From files to a dataset: the table of formats and what all of them share; see import.h. */
#include "worker/data/import.h"

#include <stdio.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/data/gunzip.h"

enum { META_BYTES_MAX = 64 << 10 /* as much as a publish takes */ };

static const mq_format *const formats[] = {
#define MQ_FORMAT(symbol) &mq_format_##symbol,
#include "worker/data/formats.def"
#undef MQ_FORMAT
};
enum { FORMAT_COUNT = sizeof formats / sizeof formats[0] };

mq_code mq_format_find(const char *name, const mq_import_file *file, const mq_format **out,
                       mq_error *err)
{
    bool is_auto = strcmp(name, "auto") == 0;
    char list[128] = "auto";
    for (size_t i = 0; i < FORMAT_COUNT; i++) {
        if (is_auto ? formats[i]->detect(file->bytes) : strcmp(name, formats[i]->name) == 0) {
            *out = formats[i];
            return MQ_OK;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, ", %s", formats[i]->name);
    }
    if (!is_auto) {
        return mq_fail(err, MQ_E_ARG, "format: \"%.32s\" is not known; known are %s", name, list);
    }
    char start[3 * 8 + 1] = "";
    for (size_t i = 0; i < 8 && i < file->bytes.len; i++) {
        snprintf(start + 3 * i, sizeof start - 3 * i, " %02x", file->bytes.data[i]);
    }
    return mq_fail(
        err, MQ_E_FORMAT,
        "%s: %zu bytes starting%s are none of the formats known here; name it, one of %s",
        file->name, file->bytes.len, start, list);
}

mq_code mq_import_unpack(mq_import_file *file, mq_error *err)
{
    mq_buf_init(&file->unpacked, MQ_IMPORT_BYTES_MAX);
    if (!mq_gunzip_is(file->bytes)) {
        return file->bytes.len <= MQ_IMPORT_BYTES_MAX
                   ? MQ_OK
                   : mq_fail(err, MQ_E_LIMIT, "%s: %zu bytes; the limit is %zu", file->name,
                             file->bytes.len, MQ_IMPORT_BYTES_MAX);
    }
    mq_code code = mq_gunzip(file->bytes, &file->unpacked, err);
    file->bytes = mq_buf_span(&file->unpacked);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "%s", file->name);
}

void mq_import_file_release(mq_import_file *file)
{
    mq_buf_release(&file->unpacked);
    file->bytes = (mq_span){0};
}

mq_code mq_import_run(mq_import *im, const mq_format *format, mq_error *err)
{
    MQ_ASSERT(im->shards == NULL && im->file_count > 0);
    mq_buf_init(&im->columns, META_BYTES_MAX);
    mq_buf_init(&im->categories, META_BYTES_MAX);
    mq_code code = format->parse != NULL ? mq_import_arrays(im, format, err) : format->run(im, err);
    if (code == MQ_OK) {
        code = mq_shards_end(im->shards, err);
        if (code != MQ_OK) {
            mq_wrap(err, "%s", im->files[0].name);
        }
    }
    return code;
}

void mq_import_release(mq_import *im)
{
    mq_shards_free(im->shards);
    im->shards = NULL;
    mq_buf_release(&im->columns);
    mq_buf_release(&im->categories);
}

mq_code mq_import_meta(const mq_import *im, const mq_format *format, mq_buf *out, mq_error *err)
{
    mq_buf_printf(out, "{\"format\":\"%s\",", format->name);
    mq_shards_meta(im->shards, mq_buf_span(&im->categories), out);
    if (im->columns.len > 0) {
        mq_buf_add_str(out, ",\"columns\":");
        mq_buf_add_span(out, mq_buf_span(&im->columns));
    }
    mq_buf_add_str(out, ",\"source\":[");
    for (uint32_t i = 0; i < im->file_count; i++) {
        mq_buf_add_str(out, i == 0 ? "" : ",");
        mq_buf_add_json(out, mq_str(im->files[i].name));
    }
    if (im->labels != NULL) {
        mq_buf_add_str(out, ",");
        mq_buf_add_json(out, mq_str(im->labels->name));
    }
    mq_buf_add_str(out, "]}");
    if (out->is_full || im->columns.is_full || im->categories.is_full) {
        return mq_fail(err, MQ_E_LIMIT,
                       "the dataset's description is larger than %d bytes: fewer columns, "
                       "categories or files are needed",
                       META_BYTES_MAX);
    }
    return MQ_OK;
}
