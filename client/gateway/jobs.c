/* Handlers of asynchronous jobs over HTTP: submit, look, result, cancel. Everything here blocks for
 * a moment and therefore runs on an asker thread. Knows no job kind. */
#include <stdio.h>
#include <stdlib.h>

#include "client/gateway/gateway.h"
#include "client/gateway/oip.h"

#include "shared/base/assert.h"
#include "shared/base/ulid.h"

enum { FILTER_MAX = 256, LIMIT_MAX = 1000, END_MS = 2000, DEPS_MAX = 64 };

static const char type_json[] = "application/json";

/* What a submit needs on the asker's thread. */
typedef struct submitting {
    json_t *root; /* owned: the request */
    char id[32];  /* "" = a new one */
} submitting;

/* What a list needs there. */
typedef struct listing {
    char filter[FILTER_MAX + 1];
    uint32_t limit;
} listing;

static bool may_act(mq_exchange *exchange);
static void free_submitting(void *detail);
static void submit(mq_exchange *exchange);
static mq_code read_spec(const submitting *s, maasq_spec *spec, char **body, const char **deps,
                         mq_error *err);
static mq_code read_text(const json_t *root, const char *key, const char **out, mq_error *err);
static mq_code read_number(const json_t *root, const char *key, int64_t *out, mq_error *err);
static mq_code read_body(const json_t *root, maasq_spec *spec, char **body, mq_error *err);
static mq_code read_deps(const json_t *root, maasq_spec *spec, const char **deps, mq_error *err);
static void accepted(mq_exchange *exchange, const maasq_job *job);
static void list(mq_exchange *exchange);
static void get(mq_exchange *exchange);
static void result(mq_exchange *exchange);
static void cancel(mq_exchange *exchange);
static void question(mq_exchange *exchange, const char *what, const char *name, const char *filter,
                     uint32_t limit);

void mq_gw_job_submit(mq_exchange *exchange)
{
    mq_error err = {0};
    const char *id = mq_exchange_header(exchange, "Idempotency-Key");
    if (!may_act(exchange)) {
        return;
    }
    submitting *s = calloc(1, sizeof *s);
    if (s == NULL) {
        mq_answer_code(exchange, MQ_E_BUSY, "no memory for another request");
        return;
    }
    exchange->detail = s;
    exchange->free_detail = free_submitting;
    s->root = mq_json_read(mq_buf_span(&exchange->body), &err);
    if (s->root == NULL) {
        mq_answer_code(exchange, err.code, err.text);
    } else if (id != NULL && !mq_span_copy(mq_str(id), s->id, sizeof s->id)) {
        mq_answer_code(exchange, MQ_E_ARG,
                       "Idempotency-Key: must be a job id, a ULID of 26 letters");
    } else {
        mq_exchange_ask(exchange, submit, NULL);
    }
}

void mq_gw_job_list(mq_exchange *exchange)
{
    const char *filter = mq_exchange_query(exchange, "filter");
    const char *limit = mq_exchange_query(exchange, "limit");
    listing *l = calloc(1, sizeof *l);
    if (l == NULL) {
        mq_answer_code(exchange, MQ_E_BUSY, "no memory for another request");
        return;
    }
    exchange->detail = l;
    exchange->free_detail = free;
    l->limit = 100;
    if (filter != NULL && !mq_percent_decode(mq_str(filter), true, l->filter, sizeof l->filter)) {
        mq_answer_error(exchange, 400, "filter: at most %d bytes, such as state=dead kind=train",
                        FILTER_MAX);
        return;
    }
    if (limit != NULL) {
        long n = strspn(limit, "0123456789") == strlen(limit) && strlen(limit) < 6
                     ? strtol(limit, NULL, 10)
                     : 0;
        if (n < 1 || n > LIMIT_MAX) {
            mq_answer_error(exchange, 400, "limit: must be 1..%d", LIMIT_MAX);
            return;
        }
        l->limit = (uint32_t)n;
    }
    mq_exchange_ask(exchange, list, NULL);
}

void mq_gw_job_get(mq_exchange *exchange)
{
    mq_exchange_ask(exchange, get, NULL);
}

void mq_gw_job_result(mq_exchange *exchange)
{
    mq_exchange_ask(exchange, result, NULL);
}

void mq_gw_job_cancel(mq_exchange *exchange)
{
    const char *hard = mq_exchange_query(exchange, "hard");
    if (may_act(exchange)) {
        exchange->detail = hard != NULL && strcmp(hard, "1") == 0 ? exchange : NULL;
        mq_exchange_ask(exchange, cancel, NULL);
    }
}

static bool may_act(mq_exchange *exchange)
{
    if (exchange->gateway->config.is_read_only) {
        mq_answer_error(exchange, 403, "this gateway was started with --read-only");
        return false;
    }
    return true;
}

static void free_submitting(void *detail)
{
    submitting *s = detail;
    json_decref(s->root);
    free(s);
}

static void submit(mq_exchange *exchange)
{
    submitting *s = exchange->detail;
    const char *deps[DEPS_MAX];
    char *body = NULL;
    maasq_spec spec;
    maasq_error why = {0};
    mq_error err = {0};
    mq_code code = read_spec(s, &spec, &body, deps, &err);
    if (code != MQ_OK) {
        mq_answer_code(exchange, code, err.text);
        free(body);
        return;
    }
    maasq_job *job = maasq_submit(exchange->gateway->client, &spec, NULL, NULL, &why);
    free(body);
    if (job == NULL) {
        mq_answer_maasq(exchange, &why);
        return;
    }
    /* 202 is said when the job is stored, not when it was sent. */
    int64_t waits_ms = 0;
    while (waits_ms < MQ_GW_ASK_MS && strcmp(maasq_state(job), "sending") == 0) {
        maasq_flush(exchange->gateway->client, 50, NULL);
        waits_ms += 50;
    }
    accepted(exchange, job);
    maasq_job_release(&job);
}

static void accepted(mq_exchange *exchange, const maasq_job *job)
{
    maasq_info info = {.size = sizeof info};
    maasq_job_info(job, &info);
    if (strcmp(info.state, "sending") == 0) {
        mq_answer_error(exchange, 503,
                        "the broker has not acknowledged job %s; send it again with this id as "
                        "Idempotency-Key",
                        info.id);
        return;
    }
    if (strcmp(info.state, "lost") == 0 && info.other[0] != '\0') {
        char text[128];
        snprintf(text, sizeof text, "unique: job %s lives and has this key", info.other);
        mq_answer_code(exchange, mq_code_of(info.code), text);
        return;
    }
    if (strcmp(info.state, "lost") == 0) {
        mq_answer_code(exchange, mq_code_of(info.code), info.error);
        return;
    }
    snprintf(exchange->location, sizeof exchange->location, "/v1/jobs/%s", info.id);
    mq_buf_printf(&exchange->out, "{\"id\":\"%s\",\"state\":\"%s\"}\n", info.id, info.state);
    mq_answer(exchange, 202, type_json);
}

/* -1: no such class. */
static int durability_of(const char *text)
{
    if (text == NULL) {
        return MAASQ_BY_KIND;
    }
    return strcmp(text, "transient") == 0    ? MAASQ_TRANSIENT
           : strcmp(text, "durable") == 0    ? MAASQ_DURABLE
           : strcmp(text, "replicated") == 0 ? MAASQ_REPLICATED
                                             : -1;
}

/* The fields of a submit: those of maasq_spec by the same names, and what needs more than a copy.
 */
typedef enum { TEXT, U32, U64, I64, OTHER } field_type;
static const struct {
    const char *name;
    field_type type;
    size_t at;
} fields[] = {
    {"kind", TEXT, offsetof(maasq_spec, kind)},
    {"model", TEXT, offsetof(maasq_spec, model)},
    {"queue", TEXT, offsetof(maasq_spec, queue)},
    {"tenant", TEXT, offsetof(maasq_spec, tenant)},
    {"memo", TEXT, offsetof(maasq_spec, memo)},
    {"unique", TEXT, offsetof(maasq_spec, unique)},
    {"limit_key", TEXT, offsetof(maasq_spec, limit_key)},
    {"needs", TEXT, offsetof(maasq_spec, needs)},
    {"memory_bytes", U64, offsetof(maasq_spec, memory_bytes)},
    {"priority", U32, offsetof(maasq_spec, priority)},
    {"run_at_ms", I64, offsetof(maasq_spec, run_at_ms)},
    {"ttl_ms", U64, offsetof(maasq_spec, ttl_ms)},
    {"lease_ms", U64, offsetof(maasq_spec, lease_ms)},
    {"max_run_ms", U64, offsetof(maasq_spec, max_run_ms)},
    {"keep_ms", U64, offsetof(maasq_spec, keep_ms)},
    {"attempts_max", U32, offsetof(maasq_spec, attempts_max)},
    {"backoff_ms", U64, offsetof(maasq_spec, backoff_ms)},
    {"backoff_max_ms", U64, offsetof(maasq_spec, backoff_max_ms)},
    {"body", OTHER, 0},
    {"after", OTHER, 0},
    {"on_failure", OTHER, 0},
    {"durability", OTHER, 0},
};
enum { FIELDS = sizeof fields / sizeof *fields };

static mq_code check_known(const json_t *root, mq_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        bool is_known = false;
        char known[400] = "";
        size_t len = 0;
        for (size_t i = 0; i < FIELDS; i++) {
            is_known = is_known || strcmp(key, fields[i].name) == 0;
            len += (size_t)snprintf(known + len, sizeof known - len, "%s%s", i == 0 ? "" : ", ",
                                    fields[i].name);
            MQ_ASSERT(len < sizeof known);
        }
        if (!is_known) {
            return mq_fail(err, MQ_E_ARG, "%.64s: unknown field; known are %s", key, known);
        }
    }
    return MQ_OK;
}

static mq_code read_field(const json_t *root, size_t no, maasq_spec *spec, mq_error *err)
{
    void *at = (uint8_t *)spec + fields[no].at;
    int64_t number = 0;
    if (fields[no].type == OTHER) {
        return MQ_OK;
    }
    if (fields[no].type == TEXT) {
        return read_text(root, fields[no].name, at, err);
    }
    mq_code code = read_number(root, fields[no].name, &number, err);
    if (code == MQ_OK && fields[no].type == U32 && number > UINT32_MAX) {
        return mq_fail(err, MQ_E_ARG, "%s: at most %u", fields[no].name, UINT32_MAX);
    }
    uint32_t small = (uint32_t)number;
    memcpy(at, fields[no].type == U32 ? (void *)&small : (void *)&number,
           fields[no].type == U32 ? sizeof small : sizeof number);
    return code;
}

/* The request as a spec that borrows from it; *body and deps are its storage. */
static mq_code read_spec(const submitting *s, maasq_spec *spec, char **body, const char **deps,
                         mq_error *err)
{
    const char *durability = NULL, *on_failure = NULL;
    *spec = (maasq_spec){.size = sizeof *spec};
    mq_code code = check_known(s->root, err);
    for (size_t i = 0; code == MQ_OK && i < FIELDS; i++) {
        code = read_field(s->root, i, spec, err);
    }
    code = code != MQ_OK ? code : read_text(s->root, "durability", &durability, err);
    code = code != MQ_OK ? code : read_text(s->root, "on_failure", &on_failure, err);
    code = code != MQ_OK ? code : read_body(s->root, spec, body, err);
    code = code != MQ_OK ? code : read_deps(s->root, spec, deps, err);
    if (code != MQ_OK) {
        return code;
    }
    spec->id = s->id[0] != '\0' ? s->id : NULL;
    spec->durability = durability_of(durability);
    bool must_run = on_failure != NULL && strcmp(on_failure, "run") == 0;
    spec->on_failure = must_run ? MAASQ_RUN : MAASQ_CANCEL;
    if (on_failure != NULL && !must_run && strcmp(on_failure, "cancel") != 0) {
        return mq_fail(err, MQ_E_ARG, "on_failure: must be cancel or run");
    }
    if (spec->kind == NULL || spec->priority > 9 || spec->durability < 0) {
        return mq_fail(err, MQ_E_ARG, "%s",
                       spec->kind == NULL   ? "kind: is missing"
                       : spec->priority > 9 ? "priority: must be 1..9"
                                            : "durability: must be transient, durable or "
                                              "replicated");
    }
    return MQ_OK;
}

static mq_code read_text(const json_t *root, const char *key, const char **out, mq_error *err)
{
    const json_t *value = json_object_get(root, key);
    *out = json_string_value(value);
    if (value != NULL && !json_is_string(value)) {
        return mq_fail(err, MQ_E_ARG, "%s: must be text", key);
    }
    return MQ_OK;
}

static mq_code read_number(const json_t *root, const char *key, int64_t *out, mq_error *err)
{
    const json_t *value = json_object_get(root, key);
    if (value == NULL) {
        return MQ_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return mq_fail(err, MQ_E_ARG, "%s: must be a number, 0 or more", key);
    }
    *out = json_integer_value(value);
    return MQ_OK;
}

/* Text goes as it is, an object as JSON. */
static mq_code read_body(const json_t *root, maasq_spec *spec, char **body, mq_error *err)
{
    const json_t *value = json_object_get(root, "body");
    if (json_is_string(value)) {
        spec->body = json_string_value(value);
        spec->body_bytes = json_string_length(value);
    } else if (json_is_object(value)) {
        *body = json_dumps(value, JSON_COMPACT);
        spec->body = *body;
        spec->body_bytes = *body == NULL ? 0 : strlen(*body);
    } else if (value != NULL) {
        return mq_fail(err, MQ_E_ARG, "body: must be an object or text");
    }
    return MQ_OK;
}

static mq_code read_deps(const json_t *root, maasq_spec *spec, const char **deps, mq_error *err)
{
    const json_t *after = json_object_get(root, "after");
    size_t count = json_array_size(after);
    if (after == NULL) {
        return MQ_OK;
    }
    if (!json_is_array(after) || count > DEPS_MAX) {
        return mq_fail(err, MQ_E_ARG, "after: must be a list of at most %d job ids", DEPS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        deps[i] = json_string_value(json_array_get(after, i));
        if (deps[i] == NULL) {
            return mq_fail(err, MQ_E_ARG, "after[%zu]: must be a job id", i);
        }
    }
    spec->deps = deps;
    spec->deps_count = count;
    return MQ_OK;
}

static void list(mq_exchange *exchange)
{
    const listing *l = exchange->detail;
    question(exchange, "jobs", NULL, l->filter, l->limit);
}

static void get(mq_exchange *exchange)
{
    question(exchange, "job", exchange->route.id, NULL, 0);
}

/* The broker's answer as it is. */
static void question(mq_exchange *exchange, const char *what, const char *name, const char *filter,
                     uint32_t limit)
{
    char *text = NULL;
    maasq_error why = {0};
    if (maasq_query(exchange->gateway->client, what, name, filter, limit, MQ_GW_ASK_MS, &text,
                    &why) != 0) {
        mq_answer_maasq(exchange, &why);
        return;
    }
    mq_buf_add_str(&exchange->out, text);
    mq_buf_add_str(&exchange->out, "\n");
    maasq_free(text);
    mq_answer(exchange, 200, type_json);
}

static void result(mq_exchange *exchange)
{
    maasq_error why = {0};
    maasq_view view;
    maasq_job *job = maasq_open(exchange->gateway->client, exchange->route.id, NULL, NULL, &why);
    if (job == NULL) {
        mq_answer_maasq(exchange, &why);
        return;
    }
    if (maasq_wait(job, END_MS, &why) != 0) {
        mq_answer_error(exchange, 409, "the job has not ended (it is %s): ask again later",
                        maasq_state(job));
    } else if (maasq_result(job, &view, &why) != 0) {
        mq_answer_maasq(exchange, &why);
    } else {
        json_t *json = json_loadb(view.data, view.bytes, JSON_REJECT_DUPLICATES, NULL);
        mq_buf_add(&exchange->out, view.data, view.bytes);
        mq_answer(exchange, 200, json != NULL ? type_json : "application/octet-stream");
        json_decref(json);
    }
    maasq_job_release(&job);
}

static void cancel(mq_exchange *exchange)
{
    maasq_error why = {0};
    maasq_info info = {.size = sizeof info};
    maasq_job *job = maasq_open(exchange->gateway->client, exchange->route.id, NULL, NULL, &why);
    if (job == NULL) {
        mq_answer_maasq(exchange, &why);
        return;
    }
    maasq_cancel(job, exchange->detail != NULL); /* set: ?hard=1 */
    maasq_wait(job, END_MS, NULL);
    maasq_job_info(job, &info);
    if (strcmp(info.state, "lost") == 0) {
        mq_answer_code(exchange, mq_code_of(info.code), info.error);
    } else {
        mq_buf_printf(&exchange->out, "{\"id\":\"%s\",\"state\":\"%s\"}\n", info.id, info.state);
        mq_answer(exchange, 200, type_json);
    }
    maasq_job_release(&job);
}
