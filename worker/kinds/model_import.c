/* Kind "model.import": {"name":"squeezenet","blob":hex} checks an ONNX file that the client has
 * uploaded (format, graph, every operator) and publishes it as it is. Result {"name","meta"}. */
#include "worker/exec/session.h"
#include "worker/kinds/body.h"
#include "worker/kinds/kind.h"
#include "worker/models/meta.h"

mq_kind_run mq_kind_run_model_import;

enum { PROBLEMS_BYTES_MAX = 64 << 10 };

/* Refuses a model that would not run, naming what stops it; all of it goes to the job's log. */
static mq_code check_runs(mq_host *host, const mq_model *model, mq_error *err)
{
    mq_buf text;
    mq_buf_init(&text, PROBLEMS_BYTES_MAX);
    size_t problems = mq_session_check(model, &text);
    mq_code code = MQ_OK;
    mq_span left = mq_buf_span(&text);
    if (problems > 0) {
        size_t line = left.len;
        const uint8_t *end = memchr(left.data, '\n', left.len);
        if (end != NULL) {
            line = (size_t)(end - left.data);
        }
        code = mq_fail(err, MQ_E_UNSUPPORTED, "%.*s%s", (int)line, (const char *)left.data,
                       problems > 1 ? " (and more: see the job's log)" : "");
    }
    while (problems > 0 && left.len > 0) {
        const uint8_t *end = memchr(left.data, '\n', left.len);
        size_t len = end == NULL ? left.len : (size_t)(end - left.data);
        host->ops->log(host, mq_span_of(left.data, len < 1000 ? len : 1000));
        size_t skip = end == NULL ? len : len + 1;
        left = mq_span_of(left.data + skip, left.len - skip);
    }
    mq_buf_release(&text);
    return code;
}

static mq_code import_file(mq_host *host, const char *name, const char *blob, mq_error *err)
{
    mq_map_file file = {0};
    mq_model *model = NULL;
    mq_code code = host->ops->blob_open(host, blob, &file, err);
    if (code == MQ_OK) {
        code = mq_model_load(&model, file.bytes, 0, err);
    }
    if (code == MQ_OK) {
        code = check_runs(host, model, err);
    }
    if (code == MQ_OK) {
        mq_model_meta meta;
        mq_model_meta_init(&meta);
        meta.kind = mq_model_metadata(model, "maasq.arch");
        meta.pass = "import";
        code = mq_model_publish_blob(host, name, model, blob, file.bytes.len, &meta, err);
    }
    mq_model_free(model);
    mq_map_file_release(&file);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "model %s", name);
}

mq_code mq_kind_run_model_import(mq_host *host, mq_error *err)
{
    const char *name = NULL, *blob = NULL;
    mq_body body;
    mq_code code = mq_body_open(&body, host->body, (const char *[]){"name", "blob", NULL}, err);
    if (code == MQ_OK) {
        code = mq_body_name(&body, "name", true, false, &name, err);
    }
    if (code == MQ_OK) {
        code = mq_body_hash(json_object_get(body.root, "blob"), "blob", &blob, err);
    }
    if (code == MQ_OK) {
        code = import_file(host, name, blob, err);
    }
    mq_body_close(&body);
    return code;
}
