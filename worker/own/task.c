/* What a handler may call, over the job's host; see task.h. It checks all that it is given: a
 * handler is the user's code, and what it says goes to the fleet. */
#include "worker/own/task.h"

#include "shared/base/json.h"

enum { BLOBS_MAX = 16, LOG_BYTES_MAX = 1024, PROGRESS_BYTES_MAX = 4096 };

typedef struct task {
    maasq_task seen; /* first: a maasq_task * is a task * */
    mq_host *host;
    mq_error error;   /* of the last call that failed */
    mq_error failure; /* what `fail` was told */
    mq_map_file blobs[BLOBS_MAX];
    bool is_open[BLOBS_MAX];
} task;

static task *task_of(maasq_task *seen)
{
    return (task *)(void *)seen;
}

static int answer(mq_code code)
{
    return -(int)code;
}

static int call_result(maasq_task *seen, const void *data, size_t bytes)
{
    task *t = task_of(seen);
    return answer(t->host->ops->result(t->host, mq_span_of(data, bytes), &t->error));
}

static int call_progress(maasq_task *seen, const char *json)
{
    task *t = task_of(seen);
    mq_span text = mq_str(json);
    if (text.len > PROGRESS_BYTES_MAX || !mq_json_is_object(text)) {
        return answer(mq_fail(&t->error, MQ_E_ARG,
                              "progress: %zu bytes that must be one JSON object of at most %d",
                              text.len, PROGRESS_BYTES_MAX));
    }
    t->host->ops->progress(t->host, text);
    return 0;
}

static void call_log(maasq_task *seen, const char *text)
{
    task *t = task_of(seen);
    char line[LOG_BYTES_MAX];
    t->host->ops->log(t->host, mq_own_clean(mq_str(text), line, sizeof line));
}

static int call_is_cancelled(maasq_task *seen)
{
    task *t = task_of(seen);
    return t->host->ops->check(t->host, &t->error) != MQ_OK;
}

static int call_fail(maasq_task *seen, int end, const char *text)
{
    task *t = task_of(seen);
    char line[MQ_ERROR_TEXT_MAX - 1];
    mq_span kept = mq_own_clean(mq_str(text), line, sizeof line);
    (void)mq_span_copy(kept, t->failure.text, sizeof t->failure.text);
    return end == MAASQ_RETRY ? MAASQ_RETRY : MAASQ_PERMANENT;
}

static int call_spawn(maasq_task *seen, const char *kind, const char *model, const void *body,
                      size_t bytes)
{
    task *t = task_of(seen);
    mq_spawn child = {.kind = kind == NULL ? "" : kind,
                      .model = model == NULL ? "" : model,
                      .body = mq_span_of(body, bytes)};
    return answer(t->host->ops->spawn(t->host, &child, &t->error));
}

static int call_blob_put(maasq_task *seen, const void *data, size_t bytes,
                         char hash[MAASQ_TASK_HASH_SIZE])
{
    _Static_assert((int)MAASQ_TASK_HASH_SIZE == (int)MQ_SHA256_HEX, "hashes");
    task *t = task_of(seen);
    return answer(t->host->ops->blob_put(t->host, mq_span_of(data, bytes), hash, &t->error));
}

static int call_blob_open(maasq_task *seen, const char *hash, maasq_task_blob *out)
{
    task *t = task_of(seen);
    uint32_t at = 0;
    while (at < BLOBS_MAX && t->is_open[at]) {
        at++;
    }
    if (at == BLOBS_MAX) {
        return answer(
            mq_fail(&t->error, MQ_E_LIMIT, "blob: more than %d open; close some", BLOBS_MAX));
    }
    mq_code code =
        t->host->ops->blob_open(t->host, hash == NULL ? "" : hash, &t->blobs[at], &t->error);
    if (code == MQ_OK) {
        t->is_open[at] = true;
        *out = (maasq_task_blob){t->blobs[at].bytes.data, t->blobs[at].bytes.len};
    }
    return answer(code);
}

static void call_blob_close(maasq_task *seen, maasq_task_blob *blob)
{
    task *t = task_of(seen);
    for (uint32_t i = 0; i < BLOBS_MAX; i++) {
        if (t->is_open[i] && t->blobs[i].bytes.data == blob->data) {
            mq_map_file_release(&t->blobs[i]);
            t->is_open[i] = false;
            break;
        }
    }
    *blob = (maasq_task_blob){0};
}

static const char *call_error(const maasq_task *seen)
{
    return ((const task *)(const void *)seen)->error.text;
}

static const maasq_task_calls calls = {
    .size = sizeof calls,
    .result = call_result,
    .progress = call_progress,
    .log = call_log,
    .is_cancelled = call_is_cancelled,
    .fail = call_fail,
    .spawn = call_spawn,
    .blob_put = call_blob_put,
    .blob_open = call_blob_open,
    .blob_close = call_blob_close,
    .error = call_error,
};

static mq_code code_of(const task *t, int end, mq_error *err)
{
    const char *text = t->failure.text[0] != '\0' ? t->failure.text : "the handler gave no reason";
    switch (end) {
    case MAASQ_SUCCEEDED:
        return MQ_OK;
    case MAASQ_RETRY:
        return mq_fail(err, MQ_E_INTERNAL, "%s", text);
    case MAASQ_PERMANENT:
        return mq_fail(err, MQ_E_FAILED, "%s", text);
    case MAASQ_STOPPED:
        return mq_fail(err, MQ_E_CANCELLED, "stopped by the handler");
    default:
        return mq_fail(err, MQ_E_FAILED, "the handler returned %d, which means nothing", end);
    }
}

mq_code mq_task_run(mq_host *host, const mq_own_kind *kind, mq_error *err)
{
    const maasq_handler_kind *handler = kind->what;
    task t = {
        .host = host,
        .seen = {.calls = &calls,
                 .job_id = host->job_id,
                 .kind = host->kind,
                 .model = host->model,
                 .model_blob = host->model_blob,
                 .input = host->body.data,
                 .input_bytes = host->body.len,
                 .attempt = host->attempt},
    };
    int end = handler->run(&t.seen, kind->state);
    for (uint32_t i = 0; i < BLOBS_MAX; i++) {
        if (t.is_open[i]) {
            mq_map_file_release(&t.blobs[i]);
        }
    }
    return code_of(&t, end, err);
}
