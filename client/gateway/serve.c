/* Handlers of the Open Inference Protocol: health, metadata, inference. Knows the protocol's paths
 * and answers; bytes of requests and responses are oip.h's, versions registry.h's. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/gateway/gateway.h"
#include "client/gateway/oip.h"
#include "client/gateway/registry.h"
#include "client/gateway/snapshot.h"

static const char type_json[] = "application/json";
static const char type_bytes[] = "application/octet-stream";
static const char header_length[] = "Inference-Header-Content-Length";

/* One request on its way: what the answer needs after the wait. */
typedef struct serving {
    mq_oip_request request;
    char version[24]; /* the one that serves it */
} serving;

typedef void on_model(mq_exchange *exchange, const mq_model_view *model);

static void with_model(mq_exchange *exchange, on_model *then, mq_handler *again);
static void ask_model(mq_exchange *exchange);
static void infer_again(mq_exchange *exchange);
static void infer_model(mq_exchange *exchange, const mq_model_view *model);
static mq_code read_request(mq_exchange *exchange, const mq_model_view *model, mq_arena *arena,
                            mq_oip_request *out, mq_error *err);
static void start(mq_exchange *exchange, serving *s);
static void on_done(maasq_job *job, void *arg);
static void finish(mq_exchange *exchange);
static void model_again(mq_exchange *exchange);
static void model_ready_again(mq_exchange *exchange);
static void model_config_again(mq_exchange *exchange);
static void write_model(mq_exchange *exchange, const mq_model_view *model);
static void write_model_ready(mq_exchange *exchange, const mq_model_view *model);
static void write_model_config(mq_exchange *exchange, const mq_model_view *model);
static void write_tensors(mq_buf *out, const mq_model_view *model, const char *which,
                          bool is_config);

void mq_gw_live(mq_exchange *exchange)
{
    mq_buf_add_str(&exchange->out, "{\"live\":true}\n");
    mq_answer(exchange, 200, type_json);
}

/* Ready: the broker answered within the last seconds. What the clients look at is the status. */
void mq_gw_ready(mq_exchange *exchange)
{
    mq_frame *frame = mq_snapshot_take(exchange->gateway->snapshot);
    bool is_ready = frame->is_ok;
    mq_frame_release(frame);
    mq_buf_printf(&exchange->out, "{\"live\":true,\"ready\":%s}\n", is_ready ? "true" : "false");
    mq_answer(exchange, is_ready ? 200 : 400, type_json);
}

void mq_gw_server(mq_exchange *exchange)
{
    mq_buf_add_str(&exchange->out, "{\"name\":\"maasq\",\"version\":\"" MQ_VERSION
                                   "\",\"extensions\":[\"binary_tensor_data\","
                                   "\"model_configuration\",\"parameters\"]}\n");
    mq_answer(exchange, 200, type_json);
}

void mq_gw_model_list(mq_exchange *exchange)
{
    mq_frame *frame = mq_snapshot_take(exchange->gateway->snapshot);
    const json_t *models = json_object_get(json_object_get(frame->root, "models"), "models");
    mq_buf_add_str(&exchange->out, "{\"models\":[");
    for (size_t i = 0; i < json_array_size(models); i++) {
        const json_t *name = json_object_get(json_array_get(models, i), "name");
        mq_buf_add_str(&exchange->out, i > 0 ? "," : "");
        mq_buf_add_json(&exchange->out, mq_str(json_string_value(name)));
    }
    mq_buf_add_str(&exchange->out, "]}\n");
    mq_frame_release(frame);
    mq_answer(exchange, 200, type_json);
}

/* Triton's model repository extension, the part that reads: a row for each version. */
void mq_gw_repository_index(mq_exchange *exchange)
{
    mq_frame *frame = mq_snapshot_take(exchange->gateway->snapshot);
    const json_t *models = json_object_get(json_object_get(frame->root, "models"), "models");
    size_t rows = 0;
    mq_buf_add_str(&exchange->out, "[");
    for (size_t i = 0; i < json_array_size(models); i++) {
        const json_t *model = json_array_get(models, i);
        const json_t *versions = json_object_get(model, "versions");
        for (size_t v = 0; v < json_array_size(versions); v++) {
            const json_t *entry = json_array_get(versions, v);
            mq_buf_add_str(&exchange->out, rows++ > 0 ? ",{\"name\":" : "{\"name\":");
            mq_buf_add_json(&exchange->out,
                            mq_str(json_string_value(json_object_get(model, "name"))));
            mq_buf_printf(&exchange->out,
                          ",\"version\":\"%lld\",\"state\":\"READY\",\"reason\":\"\"}",
                          (long long)json_integer_value(json_object_get(entry, "version")));
        }
    }
    mq_buf_add_str(&exchange->out, "]\n");
    mq_frame_release(frame);
    mq_answer(exchange, 200, type_json);
}

void mq_gw_model(mq_exchange *exchange)
{
    with_model(exchange, write_model, model_again);
}

void mq_gw_model_ready(mq_exchange *exchange)
{
    with_model(exchange, write_model_ready, model_ready_again);
}

void mq_gw_model_config(mq_exchange *exchange)
{
    with_model(exchange, write_model_config, model_config_again);
}

void mq_gw_infer(mq_exchange *exchange)
{
    with_model(exchange, infer_model, infer_again);
}

/* Finds a numbered version, which never changes, in the latest frame; else asks the broker: an
 * alias may have moved since that frame, and a promotion must count for the very next request. Goes
 * on in `then`. `again`: a handler that calls this with the same `then`. */
static void with_model(mq_exchange *exchange, on_model *then, mq_handler *again)
{
    mq_model_view model;
    const mq_route *route = &exchange->route;
    if (exchange->detail != NULL) {
        const json_t *answer = exchange->detail;
        if (mq_registry_find(answer, route->model, route->version, &model)) {
            then(exchange, &model);
        } else {
            mq_answer_error(exchange, 404, "model %s has no version \"%s\"", route->model,
                            route->version);
        }
        return;
    }
    mq_frame *frame = mq_snapshot_take(exchange->gateway->snapshot);
    bool is_fixed = route->version[0] >= '0' && route->version[0] <= '9';
    if (is_fixed && mq_registry_find(json_object_get(frame->root, "models"), route->model,
                                     route->version, &model)) {
        then(exchange, &model);
        mq_frame_release(frame);
        return;
    }
    mq_frame_release(frame);
    mq_exchange_ask(exchange, ask_model, again);
}

static void free_answer(void *detail)
{
    json_decref(detail);
}

/* On an asker thread. */
static void ask_model(mq_exchange *exchange)
{
    maasq_error why = {0};
    char *text = NULL;
    json_error_t at;
    int code = maasq_query(exchange->gateway->client, "model", exchange->route.model, NULL, 0,
                           MQ_GW_ASK_MS, &text, &why);
    json_t *answer = code == 0 ? json_loads(text, JSON_REJECT_DUPLICATES, &at) : NULL;
    maasq_free(text);
    if (answer != NULL) {
        exchange->detail = answer;
        exchange->free_detail = free_answer;
        return;
    }
    exchange->next = NULL;
    if (code == 0) {
        mq_answer_code(exchange, MQ_E_INTERNAL, "the broker's answer is no JSON");
    } else {
        mq_answer_maasq(exchange, &why);
    }
}

static void infer_again(mq_exchange *exchange)
{
    with_model(exchange, infer_model, infer_again);
}

static void model_again(mq_exchange *exchange)
{
    with_model(exchange, write_model, model_again);
}

static void model_ready_again(mq_exchange *exchange)
{
    with_model(exchange, write_model_ready, model_ready_again);
}

static void model_config_again(mq_exchange *exchange)
{
    with_model(exchange, write_model_config, model_config_again);
}

static void infer_model(mq_exchange *exchange, const mq_model_view *model)
{
    serving *s = calloc(1, sizeof *s);
    mq_arena arena;
    mq_error err = {0};
    if (s == NULL) {
        mq_answer_code(exchange, MQ_E_BUSY, "no memory for another request");
        return;
    }
    snprintf(s->version, sizeof s->version, "%lld", (long long)model->version);
    mq_arena_init(&arena, MQ_OIP_TENSOR_BYTES_MAX + (1 << 20));
    mq_code code = read_request(exchange, model, &arena, &s->request, &err);
    if (exchange->free_detail != NULL) {
        exchange->free_detail(exchange->detail);
    }
    exchange->detail = s;
    exchange->free_detail = free;
    if (code != MQ_OK) {
        mq_answer_code(exchange, code, err.text);
    } else {
        start(exchange, s);
    }
    /* The library has copied the inputs. */
    mq_arena_release(&arena);
}

static mq_code read_request(mq_exchange *exchange, const mq_model_view *model, mq_arena *arena,
                            mq_oip_request *out, mq_error *err)
{
    mq_span body = mq_buf_span(&exchange->body);
    const char *length = mq_exchange_header(exchange, header_length);
    int64_t json_bytes = -1;
    if (length != NULL) {
        char *end = NULL;
        errno = 0;
        json_bytes = strtoll(length, &end, 10);
        if (length[0] < '0' || length[0] > '9' || *end != '\0' || errno != 0) {
            return mq_fail(err, MQ_E_ARG, "%s: must be a number of bytes", header_length);
        }
    }
    if (json_bytes != 0) {
        return mq_oip_read(out, arena, body, json_bytes, err);
    }
    const char *name;
    mq_dtype dtype;
    mq_shape shape;
    if (!mq_registry_tensor(model, "inputs", 0, &name, &dtype, &shape) ||
        json_array_size(json_object_get(model->meta, "inputs")) != 1) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "raw request: only for models with one input that is known");
    }
    return mq_oip_read_raw(out, body, name, dtype, &shape, err);
}

static void start(mq_exchange *exchange, serving *s)
{
    char model[2 * MQ_ROUTE_NAME_SIZE];
    maasq_error why = {0};
    snprintf(model, sizeof model, "%s@%s", exchange->route.model, s->version);
    maasq_client *client = mq_client_borrow(exchange->gateway);
    if (client == NULL) {
        mq_client_return(exchange->gateway);
        mq_answer_code(exchange, MQ_E_CANCELLED, "the gateway is stopping");
        return;
    }
    mq_exchange_wait(exchange, finish);
    exchange->job = maasq_infer(client, model, s->request.inputs, s->request.input_count,
                                s->request.timeout_ms, on_done, exchange, &why);
    mq_client_return(exchange->gateway);
    if (exchange->job == NULL) {
        exchange->next = NULL;
        mq_answer_maasq(exchange, &why);
        mq_exchange_wake(exchange);
    }
}

/* On the client's thread. */
static void on_done(maasq_job *job, void *arg)
{
    (void)job;
    mq_exchange_wake(arg);
}

static void finish(mq_exchange *exchange)
{
    serving *s = exchange->detail;
    maasq_tensor outputs[MAASQ_TENSORS_MAX];
    maasq_error why = {0};
    mq_error err = {0};
    size_t count = 0;
    if (maasq_outputs(exchange->job, outputs, MAASQ_TENSORS_MAX, &count, &why) != 0) {
        mq_answer_maasq(exchange, &why);
        return;
    }
    count = count < MAASQ_TENSORS_MAX ? count : MAASQ_TENSORS_MAX;
    mq_code code = mq_oip_write(&s->request, exchange->route.model, s->version, outputs, count,
                                &exchange->out, &exchange->json_bytes, &err);
    if (code != MQ_OK) {
        mq_answer_code(exchange, code, err.text);
        return;
    }
    mq_answer(exchange, 200, exchange->json_bytes > 0 ? type_bytes : type_json);
}

static void write_model(mq_exchange *exchange, const mq_model_view *model)
{
    mq_buf *out = &exchange->out;
    const char *kind = json_string_value(json_object_get(model->meta, "kind"));
    mq_buf_add_str(out, "{\"name\":");
    mq_buf_add_json(out, mq_str(exchange->route.model));
    mq_buf_add_str(out, ",\"versions\":[");
    for (size_t i = 0; i < json_array_size(model->versions); i++) {
        const json_t *entry = json_array_get(model->versions, i);
        mq_buf_printf(out, "%s\"%lld\"", i > 0 ? "," : "",
                      (long long)json_integer_value(json_object_get(entry, "version")));
    }
    mq_buf_add_str(out, "],\"platform\":\"onnx_onnxv1\",\"inputs\":");
    write_tensors(out, model, "inputs", false);
    mq_buf_add_str(out, ",\"outputs\":");
    write_tensors(out, model, "outputs", false);
    mq_buf_printf(out, ",\"properties\":{\"version\":\"%lld\"", (long long)model->version);
    if (kind != NULL) {
        mq_buf_add_str(out, ",\"kind\":");
        mq_buf_add_json(out, mq_str(kind));
    }
    mq_buf_add_str(out, "}}\n");
    mq_answer(exchange, 200, type_json);
}

static void write_model_ready(mq_exchange *exchange, const mq_model_view *model)
{
    (void)model;
    mq_buf_add_str(&exchange->out, "{\"name\":");
    mq_buf_add_json(&exchange->out, mq_str(exchange->route.model));
    mq_buf_add_str(&exchange->out, ",\"ready\":true}\n");
    mq_answer(exchange, 200, type_json);
}

static void write_model_config(mq_exchange *exchange, const mq_model_view *model)
{
    mq_buf *out = &exchange->out;
    mq_buf_add_str(out, "{\"name\":");
    mq_buf_add_json(out, mq_str(exchange->route.model));
    mq_buf_add_str(out, ",\"platform\":\"onnx_onnxv1\",\"backend\":\"maasq\",\"max_batch_size\":0,"
                        "\"input\":");
    write_tensors(out, model, "inputs", true);
    mq_buf_add_str(out, ",\"output\":");
    write_tensors(out, model, "outputs", true);
    mq_buf_add_str(out, ",\"dynamic_batching\":{}}\n");
    mq_answer(exchange, 200, type_json);
}

/* As metadata says it (datatype, shape) or as Triton's configuration does (data_type, dims). */
static void write_tensors(mq_buf *out, const mq_model_view *model, const char *which,
                          bool is_config)
{
    const char *name;
    mq_dtype dtype;
    mq_shape shape;
    mq_buf_add_str(out, "[");
    for (size_t i = 0; mq_registry_tensor(model, which, i, &name, &dtype, &shape); i++) {
        mq_buf_add_str(out, i > 0 ? ",{\"name\":" : "{\"name\":");
        mq_buf_add_json(out, mq_str(name));
        mq_buf_printf(out,
                      is_config ? ",\"data_type\":\"TYPE_%s\",\"dims\":["
                                : ",\"datatype\":\"%s\",\"shape\":[",
                      mq_dtype_oip(dtype));
        for (int32_t d = 0; d < shape.rank; d++) {
            mq_buf_printf(out, "%s%lld", d > 0 ? "," : "", (long long)shape.dims[d]);
        }
        mq_buf_add_str(out, "]}");
    }
    mq_buf_add_str(out, "]");
}
