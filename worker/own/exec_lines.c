/* Descriptor 3 of a program: one JSON object a line, {"progress":{...}}, {"log":"text"},
 * {"spawn":{"kind","model","body"}}; several of them may stand in one. */
#include <jansson.h>
#include <stdlib.h>

#include "worker/own/exec.h"

enum { PROGRESS_BYTES_MAX = 4096, LOG_BYTES_MAX = 1024 };

/* A line that means nothing is no reason to fail a job, but it must not vanish silently. */
static void wrong(mq_exec_lines *lines, mq_host *host, const char *why)
{
    char text[LOG_BYTES_MAX];
    if (!lines->has_wrong) {
        lines->has_wrong = true;
        int n = snprintf(text, sizeof text, "descriptor 3: line ignored: %s", why);
        host->ops->log(host, mq_span_of(text, (size_t)n));
    }
}

static void on_spawn(mq_exec_lines *lines, mq_host *host, const json_t *spawn)
{
    const char *kind = json_string_value(json_object_get(spawn, "kind"));
    const char *model = json_string_value(json_object_get(spawn, "model"));
    const json_t *body = json_object_get(spawn, "body");
    if (kind == NULL) {
        wrong(lines, host, "spawn: kind: is required, a text");
        return;
    }
    char *dumped = json_is_string(body) || body == NULL ? NULL : json_dumps(body, JSON_COMPACT);
    mq_span bytes = dumped != NULL ? mq_str(dumped)
                                   : mq_span_of(json_string_value(body), json_string_length(body));
    mq_spawn child = {.kind = kind, .model = model == NULL ? "" : model, .body = bytes};
    mq_error err = {0};
    if (host->ops->spawn(host, &child, &err) != MQ_OK && lines->error.code == MQ_OK) {
        lines->error = err;
    }
    free(dumped);
}

static void on_progress(mq_exec_lines *lines, mq_host *host, const json_t *progress)
{
    char *dumped = json_is_object(progress) ? json_dumps(progress, JSON_COMPACT) : NULL;
    if (dumped == NULL || strlen(dumped) > PROGRESS_BYTES_MAX) {
        wrong(lines, host, "progress: must be an object of at most 4096 bytes");
    } else {
        host->ops->progress(host, mq_str(dumped));
    }
    free(dumped);
}

static void on_line(mq_exec_lines *lines, mq_host *host, mq_span line)
{
    char text[LOG_BYTES_MAX];
    json_error_t why;
    json_t *root = json_loadb((const char *)line.data, line.len, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(root)) {
        wrong(lines, host, "not a JSON object");
        json_decref(root);
        return;
    }
    const json_t *log = json_object_get(root, "log"), *spawn = json_object_get(root, "spawn");
    const json_t *progress = json_object_get(root, "progress");
    if (log == NULL && spawn == NULL && progress == NULL) {
        wrong(lines, host, "has none of progress, log, spawn");
    }
    if (progress != NULL) {
        on_progress(lines, host, progress);
    }
    if (json_is_string(log)) {
        mq_span said = mq_span_of(json_string_value(log), json_string_length(log));
        host->ops->log(host, mq_own_clean(said, text, sizeof text));
    }
    if (spawn != NULL) {
        on_spawn(lines, host, spawn);
    }
    json_decref(root);
}

void mq_exec_lines_add(mq_exec_lines *lines, mq_host *host, mq_span bytes)
{
    while (bytes.len > 0) {
        const uint8_t *newline = memchr(bytes.data, '\n', bytes.len);
        size_t len = newline == NULL ? bytes.len : (size_t)(newline - bytes.data);
        lines->is_long = lines->is_long || !mq_buf_add(&lines->buf, bytes.data, len);
        if (newline != NULL) {
            if (lines->is_long) {
                wrong(lines, host, "longer than 96 KiB");
            } else if (lines->buf.len > 0) {
                on_line(lines, host, mq_buf_span(&lines->buf));
            }
            mq_buf_reset(&lines->buf);
            lines->is_long = false;
            len++;
        }
        bytes = mq_span_of(bytes.data + len, bytes.len - len);
    }
}
