/* `maasq job submit KIND --group FILE`: the jobs of a file, then KIND once they have ended. */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/group.h"
#include "client/cli/out.h"
#include "shared/base/file.h"

enum { MEMBERS_MAX = 4096, FILE_BYTES_MAX = 64 << 20 };

/* One line of the file and what its spec borrows from. */
typedef struct member {
    json_t *json; /* owned */
    char *body;   /* owned */
} member;

typedef struct group_file {
    mq_buf text;
    size_t count;
    maasq_spec *specs; /* owned; borrow from members */
    member *members;   /* owned */
} group_file;

static void file_release(group_file *f)
{
    for (size_t i = 0; i < f->count; i++) {
        json_decref(f->members[i].json);
        free(f->members[i].body);
    }
    free(f->specs);
    free(f->members);
    mq_buf_release(&f->text);
}

/* {"kind":"echo","param":{...} or "body":"text","queue","model","tenant","priority","id","unique"}
 */
static mq_code read_line(group_file *f, mq_span line, const char *default_queue, mq_error *err)
{
    static const char *const known[] = {"kind",   "param",    "body", "queue", "model",
                                        "tenant", "priority", "id",   "unique"};
    member *m = &f->members[f->count];
    json_t *json = json_loadb((const char *)line.data, line.len, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(json) || !json_is_string(json_object_get(json, "kind"))) {
        json_decref(json);
        return mq_fail(err, MQ_E_FORMAT,
                       "line %zu: must be a JSON object as {\"kind\":\"echo\",\"param\":{...}}",
                       f->count + 1);
    }
    const char *key;
    json_t *value;
    json_object_foreach(json, key, value)
    {
        bool is_known = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            is_known |= strcmp(key, known[i]) == 0;
        }
        if (!is_known) {
            mq_fail(err, MQ_E_FORMAT, "line %zu: there is no field \"%.40s\"", f->count + 1, key);
            json_decref(json);
            return MQ_E_FORMAT;
        }
    }
    m->json = json;
    const json_t *param = json_object_get(json, "param");
    const char *text = json_string_value(json_object_get(json, "body"));
    m->body = param != NULL  ? json_dumps(param, JSON_COMPACT | JSON_ENCODE_ANY)
              : text != NULL ? strdup(text)
                             : NULL;
    f->specs[f->count++] =
        (maasq_spec){.size = sizeof(maasq_spec),
                     .kind = json_string_value(json_object_get(json, "kind")),
                     .body = m->body,
                     .body_bytes = m->body == NULL ? 0 : strlen(m->body),
                     .queue = mq_js_text(json, "queue", default_queue),
                     .model = json_string_value(json_object_get(json, "model")),
                     .tenant = json_string_value(json_object_get(json, "tenant")),
                     .id = json_string_value(json_object_get(json, "id")),
                     .unique = json_string_value(json_object_get(json, "unique")),
                     .durability = MAASQ_DURABLE,
                     .priority = (uint32_t)mq_js_int(json, "priority")};
    return MQ_OK;
}

static mq_code file_read(group_file *f, const char *path, const char *queue, mq_error *err)
{
    mq_buf_init(&f->text, FILE_BYTES_MAX);
    f->specs = calloc(MEMBERS_MAX, sizeof *f->specs);
    f->members = calloc(MEMBERS_MAX, sizeof *f->members);
    if (f->specs == NULL || f->members == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a group");
    }
    mq_code code = mq_file_read(path, &f->text, err);
    mq_span rest = mq_buf_span(&f->text);
    while (code == MQ_OK && rest.len > 0) {
        size_t n = 0;
        while (n < rest.len && rest.data[n] != '\n') {
            n++;
        }
        if (n > 0 && f->count == MEMBERS_MAX) {
            return mq_fail(err, MQ_E_LIMIT, "%s: more than %d jobs", path, MEMBERS_MAX);
        }
        code = n > 0 ? read_line(f, mq_span_of(rest.data, n), queue, err) : MQ_OK;
        n += n < rest.len;
        rest = mq_span_of(rest.data + n, rest.len - n);
    }
    if (code == MQ_OK && f->count == 0) {
        return mq_fail(err, MQ_E_FORMAT, "%s: no jobs in it", path);
    }
    return code;
}

int mq_group_submit(mq_cli *cli, const mq_argv *args, const maasq_spec *callback, maasq_job **out)
{
    group_file f = {.count = 0};
    mq_error err;
    maasq_error why;
    *out = NULL;
    if (file_read(&f, mq_argv_text(args, "group", ""), callback->queue, &err) != MQ_OK) {
        file_release(&f);
        return mq_cli_fail(cli, "--group: %s", err.text);
    }
    maasq_job **jobs = calloc(f.count + 1, sizeof(maasq_job *));
    int status = MQ_EXIT_OK;
    json_t *ids = json_array();
    if (jobs != NULL) {
        *out = maasq_group(cli->client, f.specs, f.count, mq_argv_has(args, "chain"), callback,
                           jobs, cli->timeout_ms, &why);
        status = *out == NULL ? mq_cli_fail(cli, "%s", why.text) : MQ_EXIT_OK;
    }
    for (size_t i = 0; jobs != NULL && i < f.count; i++) {
        if (jobs[i] != NULL) {
            json_array_append_new(ids, json_string(maasq_job_id(jobs[i])));
            maasq_job_release(&jobs[i]);
        }
    }
    if (status == MQ_EXIT_OK && cli->is_json && !mq_argv_has(args, "wait")) {
        status = mq_cli_json(
            json_pack("{s:s, s:O}", "id", *out == NULL ? "" : maasq_job_id(*out), "members", ids));
    } else if (status == MQ_EXIT_OK && !mq_argv_has(args, "wait")) {
        printf("%s\n", maasq_job_id(*out));
    }
    json_decref(ids);
    free(jobs);
    file_release(&f);
    return status;
}
