/* model.new, model.import, infer and evaluate in a directory: what they publish and answer, and
 * what they say of wrong requests. */
#include "tests/worker/rows.h"

#include "shared/tensor/safetensors.h"
#include "worker/kinds/session_cache.h"
#include "worker/onnx/model.h"

static void new_model(const char *name, const char *arch, int seed)
{
    char body[256];
    snprintf(body, sizeof body, "{\"name\":\"%s\",\"arch\":\"%s\",\"seed\":%d}", name, arch, seed);
    json_decref(run_body("model.new", body));
}

/* A request of one float32 tensor [rows, cols]; the buffer is the caller's. */
static mq_buf request_of(const char *name, mq_dtype dtype, int64_t rows, int64_t cols,
                         const void *data)
{
    mq_buf out;
    mq_buf_init(&out, 1 << 20);
    size_t bytes = (size_t)(rows * cols) * mq_dtype_bytes(dtype);
    mq_st_entry e = {mq_str(name), {dtype, {2, {rows, cols}}, (void *)(uintptr_t)data, bytes}};
    assert_int_equal(mq_safetensors_write(&e, 1, (mq_span){0}, &out, NULL), MQ_OK);
    return out;
}

static mq_buf infer(const char *model, mq_span request)
{
    mq_buf out;
    mq_error err = {0};
    mq_local_job job = {.kind = "infer", .body = request, .model = model};
    mq_buf_init(&out, 1 << 20);
    if (mq_local_host_run(local, &job, &out, &err) != MQ_OK) {
        fail_msg("infer %s: %s", model, err.text);
    }
    return out;
}

static void a_new_model_is_published_with_its_record(void **state)
{
    (void)state;
    json_t *r =
        run_body("model.new", "{\"name\":\"m\",\"arch\":\"mlp:784-256-128-10\",\"seed\":3}");
    assert_string_equal(json_string_value(at_path(r, "name")), "m");
    assert_string_equal(json_string_value(at_path(r, "meta.kind")), "mlp:784-256-128-10");
    assert_string_equal(json_string_value(at_path(r, "meta.pass")), "new");
    assert_int_equal(number_at(r, "meta.params"), 235146);
    assert_true(number_at(r, "meta.bytes") > 4 * 235146);
    assert_true(number_at(r, "meta.latency_us") > 0);
    assert_true(json_is_null(at_path(r, "meta.parent")));
    assert_int_equal(number_at(r, "meta.inputs.0.shape.1"), 784);
    json_t *again =
        run_body("model.new", "{\"name\":\"m\",\"arch\":\"mlp:784-256-128-10\",\"seed\":3}");
    assert_string_equal(json_string_value(at_path(r, "meta.blob")),
                        json_string_value(at_path(again, "meta.blob")));
    json_decref(r);
    json_decref(again);
    mq_buf text;
    mq_buf_init(&text, 1 << 20);
    assert_int_equal(mq_local_host_query(local, "model", "m@2", &text, NULL), MQ_OK);
    assert_int_equal(mq_local_host_query(local, "model", "m@3", &text, NULL), MQ_E_NOT_FOUND);
    mq_buf_release(&text);
}

static void wrong_requests_for_new_models_are_refused(void **state)
{
    (void)state;
    run_refused(&(mq_local_job){.kind = "model.new", .body = mq_str("{\"name\":\"m\"}")}, MQ_E_ARG,
                "arch: is required");
    run_refused(
        &(mq_local_job){.kind = "model.new", .body = mq_str("{\"name\":\"m\",\"arch\":\"vgg:1\"}")},
        MQ_E_ARG, "arch \"vgg:1\" is not known; there are mlp:");
    run_refused(&(mq_local_job){.kind = "model.new",
                                .body = mq_str("{\"name\":\"m@1\",\"arch\":\"mlp:1-1\"}")},
                MQ_E_ARG, "name: \"m@1\" is not a name");
}

static void an_answer_has_the_models_outputs_for_any_batch(void **state)
{
    (void)state;
    float x[5 * 4] = {1, 2, 3, 4, 0, 0, 0, 0, -1, 1, -1, 1, 1, 2, 3, 4, 9, 9, 9, 9};
    new_model("small", "mlp:4-8-3", 1);
    mq_session_cache_clear();
    float first[3] = {0};
    for (int64_t rows = 1; rows <= 5; rows++) {
        mq_buf request = request_of("input", MQ_DT_F32, rows, 4, x);
        mq_buf answer = infer("small", mq_buf_span(&request));
        mq_safetensors st;
        assert_int_equal(mq_safetensors_read(&st, mq_buf_span(&answer), NULL), MQ_OK);
        assert_int_equal(st.count, 1);
        const mq_tensor *y = mq_safetensors_find(&st, mq_str("logits"));
        assert_non_null(y);
        assert_int_equal(y->shape.dims[0], rows);
        assert_int_equal(y->shape.dims[1], 3);
        if (rows == 1) {
            memcpy(first, y->data, sizeof first);
        }
        for (int i = 0; i < 3; i++) {
            assert_true(fabsf(((const float *)y->data)[i] - first[i]) < 1e-5f);
        }
        mq_safetensors_release(&st);
        mq_buf_release(&request);
        mq_buf_release(&answer);
    }
    assert_int_equal(mq_session_cache_count(), 1);
}

static void an_answer_does_not_depend_on_where_the_request_lies(void **state)
{
    (void)state;
    float x[4] = {1, 2, 3, 4};
    mq_buf request = request_of("input", MQ_DT_F32, 1, 4, x), shifted;
    mq_buf_init(&shifted, 1 << 20);
    mq_buf_add(&shifted, "?", 1);
    mq_buf_add_span(&shifted, mq_buf_span(&request));
    mq_buf one = infer("small", mq_buf_span(&request));
    mq_buf two = infer("small", mq_span_of(shifted.data + 1, shifted.len - 1));
    assert_true(mq_span_eq(mq_buf_span(&one), mq_buf_span(&two)));
    mq_buf_release(&one);
    mq_buf_release(&two);
    mq_buf_release(&request);
    mq_buf_release(&shifted);
}

static void infer_refused(const char *model, mq_buf request, mq_code code, const char *words)
{
    run_refused(&(mq_local_job){.kind = "infer", .body = mq_buf_span(&request), .model = model},
                code, words);
    mq_buf_release(&request);
}

static void wrong_inference_requests_are_refused_by_tensor(void **state)
{
    (void)state;
    const float x[16] = {0};
    infer_refused("small", request_of("x", MQ_DT_F32, 1, 4, x), MQ_E_ARG,
                  "input \"input\": is missing; expected float32 [-1,4]");
    infer_refused("small", request_of("input", MQ_DT_F32, 1, 5, x), MQ_E_ARG,
                  "input \"input\": given float32 [1,5]; expected float32 [-1,4]");
    infer_refused("small", request_of("input", MQ_DT_U8, 1, 4, x), MQ_E_ARG,
                  "input \"input\": given uint8 [1,4]; expected float32 [-1,4]");
    mq_st_entry two[2] = {
        {mq_str("input"), {MQ_DT_F32, {2, {1, 4}}, (void *)(uintptr_t)x, 16}},
        {mq_str("more"), {MQ_DT_F32, {1, {1}}, (void *)(uintptr_t)x, 4}},
    };
    mq_buf both, broken;
    mq_buf_init(&both, 1 << 16);
    assert_int_equal(mq_safetensors_write(two, 2, (mq_span){0}, &both, NULL), MQ_OK);
    infer_refused("small", both, MQ_E_ARG,
                  "tensor \"more\": is no input of the model; it takes \"input\"");
    mq_buf_init(&broken, 100);
    mq_buf_add(&broken, "\1\0\0\0\0\0\0\0[", 9);
    infer_refused("small", broken, MQ_E_FORMAT, "body: safetensors header at byte 8");
    infer_refused("", request_of("input", MQ_DT_F32, 1, 4, x), MQ_E_ARG, "model: is required");
    infer_refused("none", request_of("input", MQ_DT_F32, 1, 4, x), MQ_E_NOT_FOUND, "model none");
}

static void warm_sessions_are_bounded_in_number(void **state)
{
    (void)state;
    const float x[4] = {0};
    mq_session_cache_clear();
    for (int i = 0; i < MQ_SESSION_CACHE_COUNT_MAX + 4; i++) {
        new_model("many", "logistic:4-2", i + 1);
        mq_buf request = request_of("input", MQ_DT_F32, 1, 4, x);
        mq_buf answer = infer("many", mq_buf_span(&request));
        mq_buf_release(&request);
        mq_buf_release(&answer);
    }
    assert_int_equal(mq_session_cache_count(), MQ_SESSION_CACHE_COUNT_MAX);
    mq_session_cache_clear();
    assert_int_equal(mq_session_cache_count(), 0);
}

/* --- import --- */

static mq_buf model_file(const char *op_type)
{
    mq_model *m;
    mq_buf file;
    mq_buf_init(&file, 1 << 20);
    assert_int_equal(mq_model_new(&m, "g", 0, NULL), MQ_OK);
    mq_value_info x = {"x", MQ_DT_F32, 1, {3}, {NULL}}, y = {"y", MQ_DT_F32, 1, {3}, {NULL}};
    assert_int_equal(mq_model_set_input(m, &x, NULL), MQ_OK);
    assert_int_equal(mq_model_set_output(m, &y, NULL), MQ_OK);
    mq_node_spec spec = {op_type, "", "the-node", MQ_NODE_ARGS("x"), MQ_NODE_ARGS("y")};
    assert_int_equal(mq_model_add_node(m, 0, &spec, NULL, NULL), MQ_OK);
    assert_int_equal(mq_model_verify(m, NULL), MQ_OK);
    assert_int_equal(mq_model_save(m, &file, NULL), MQ_OK);
    mq_model_free(m);
    return file;
}

static const char *import_body(mq_span file)
{
    static char body[256];
    snprintf(body, sizeof body, "{\"name\":\"imported\",\"blob\":\"%s\"}", put(file));
    return body;
}

static void an_imported_model_keeps_its_file_and_answers(void **state)
{
    (void)state;
    mq_buf file = model_file("Relu");
    json_t *r = run_body("model.import", import_body(mq_buf_span(&file)));
    assert_string_equal(json_string_value(at_path(r, "meta.pass")), "import");
    assert_string_equal(json_string_value(at_path(r, "meta.kind")), "onnx");
    char hash[MQ_SHA256_HEX];
    mq_sha256_hex_of(mq_buf_span(&file), hash);
    assert_string_equal(json_string_value(at_path(r, "meta.blob")), hash);
    json_decref(r);
    mq_buf_release(&file);
}

static void import_refused(mq_span file, mq_code code, const char *words)
{
    run_refused(&(mq_local_job){.kind = "model.import", .body = mq_str(import_body(file))}, code,
                words);
}

static void a_model_that_cannot_run_is_refused_by_node_and_operator(void **state)
{
    (void)state;
    mq_buf file = model_file("Frobnicate");
    import_refused(mq_buf_span(&file), MQ_E_UNSUPPORTED, "the-node");
    import_refused(mq_buf_span(&file), MQ_E_UNSUPPORTED, "Frobnicate");
    mq_buf_release(&file);
}

static void a_truncated_model_is_refused_with_an_offset(void **state)
{
    (void)state;
    mq_buf file = model_file("Relu");
    for (size_t cut = 1; cut < file.len; cut += 7) {
        mq_buf out;
        mq_error err = {0};
        mq_local_job job = {.kind = "model.import",
                            .body = mq_str(import_body(mq_span_of(file.data, cut)))};
        mq_buf_init(&out, 1 << 20);
        assert_int_not_equal(mq_local_host_run(local, &job, &out, &err), MQ_OK);
        assert_non_null(strstr(err.text, "model imported: "));
        mq_buf_release(&out);
    }
    import_refused(mq_span_of(file.data, file.len / 2), MQ_E_FORMAT, "offset");
    import_refused(mq_str("this is not a model at all"), MQ_E_FORMAT, "offset");
    mq_buf_release(&file);
}

/* --- evaluate --- */

static void evaluate_counts_rows_per_class(void **state)
{
    (void)state;
    json_decref(imported("a.csv", S("a,b,y\n1,0,0\n0,1,1\n2,0,0\n0,2,1\n5,0,1\n"),
                         ",\"label_column\":\"y\""));
    mq_model *m;
    mq_buf file;
    mq_buf_init(&file, 1 << 20);
    const float identity[4] = {1, 0, 0, 1};
    assert_int_equal(mq_model_new(&m, "g", 0, NULL), MQ_OK);
    mq_value_info x = {"x", MQ_DT_F32, 2, {-1, 2}, {"N"}}, y = {"y", MQ_DT_F32, 2, {-1, 2}, {"N"}};
    assert_int_equal(mq_model_set_input(m, &x, NULL), MQ_OK);
    assert_int_equal(mq_model_set_output(m, &y, NULL), MQ_OK);
    assert_int_equal(mq_model_set_init(m, "w", MQ_DT_F32, &(mq_shape){2, {2, 2}},
                                       mq_span_of(identity, sizeof identity), NULL),
                     MQ_OK);
    mq_node_spec spec = {"MatMul", "", "mm", MQ_NODE_ARGS("x", "w"), MQ_NODE_ARGS("y")};
    assert_int_equal(mq_model_add_node(m, 0, &spec, NULL, NULL), MQ_OK);
    assert_int_equal(mq_model_save(m, &file, NULL), MQ_OK);
    mq_model_free(m);
    json_decref(run_body("model.import", import_body(mq_buf_span(&file))));
    json_t *r = run_body("evaluate", "{\"model\":\"imported\",\"data\":\"d\",\"batch\":2}");
    assert_int_equal(number_at(r, "rows"), 5);
    assert_true(fabs(number_at(r, "accuracy") - 0.8) < 1e-9);
    assert_int_equal(number_at(r, "classes.1.rows"), 3);
    assert_int_equal(number_at(r, "classes.1.correct"), 2);
    double loss = (2 * log1p(exp(-1)) + 2 * log1p(exp(-2)) + log1p(exp(5))) / 5;
    assert_true(fabs(number_at(r, "loss") - loss) < 1e-5);
    assert_true(number_at(r, "rows_per_s") > 0);
    json_decref(r);
    mq_buf_release(&file);
}

static void evaluate_refuses_what_does_not_fit(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        mq_code code;
        const char *words;
    } cases[] = {
        {"{\"data\":\"d\"}", MQ_E_ARG, "model: is required"},
        {"{\"model\":\"small\"}", MQ_E_ARG, "data: is required"},
        {"{\"model\":\"small\",\"data\":\"none\"}", MQ_E_NOT_FOUND, "dataset none"},
        {"{\"model\":\"none\",\"data\":\"d\"}", MQ_E_NOT_FOUND, "model none"},
        {"{\"model\":\"small@9\",\"data\":\"d\"}", MQ_E_NOT_FOUND, "model small@9"},
        {"{\"model\":\"small\",\"data\":\"d\",\"batch\":0}", MQ_E_ARG,
         "batch: 0 is outside 1..65536"},
        {"{\"model\":\"small\",\"data\":\"d\"}", MQ_E_ARG,
         "model input \"input\" takes 4 numbers a row; dataset d@1 has 2 ([2])"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_refused(&(mq_local_job){.kind = "evaluate", .body = mq_str(cases[i].body)},
                    cases[i].code, cases[i].words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_model_is_published_with_its_record),
        cmocka_unit_test(wrong_requests_for_new_models_are_refused),
        cmocka_unit_test(an_answer_has_the_models_outputs_for_any_batch),
        cmocka_unit_test(an_answer_does_not_depend_on_where_the_request_lies),
        cmocka_unit_test(wrong_inference_requests_are_refused_by_tensor),
        cmocka_unit_test(warm_sessions_are_bounded_in_number),
        cmocka_unit_test(an_imported_model_keeps_its_file_and_answers),
        cmocka_unit_test(a_model_that_cannot_run_is_refused_by_node_and_operator),
        cmocka_unit_test(a_truncated_model_is_refused_with_an_offset),
        cmocka_unit_test(evaluate_counts_rows_per_class),
        cmocka_unit_test(evaluate_refuses_what_does_not_fit),
    };
    int failed = cmocka_run_group_tests(tests, local_setup, local_teardown);
    mq_session_cache_clear();
    return failed;
}
