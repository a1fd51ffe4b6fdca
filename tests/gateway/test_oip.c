/* The inference protocol's exchange: what is read is what was written, and bad input is refused by
 * a sentence that names the place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/gateway/oip.h"

static mq_oip_request request;
static mq_arena arena;

static int set_up(void **state)
{
    (void)state;
    mq_arena_init(&arena, MQ_OIP_TENSOR_BYTES_MAX + (1 << 20));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    mq_arena_release(&arena);
    return 0;
}

static mq_code read_text(const char *text, mq_error *err)
{
    /* In exactly as many bytes, so that ASan sees a step beyond. */
    size_t len = strlen(text);
    char *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, text, len);
    *err = (mq_error){0};
    mq_code code = mq_oip_read(&request, &arena, mq_span_of(copy, len), -1, err);
    free(copy);
    return code;
}

static void refused(const char *text, mq_code code, const char *words)
{
    mq_error err;
    mq_code got = read_text(text, &err);
    if (got != code || strstr(err.text, words) == NULL) {
        fail_msg("%s\n  gave %s: %s\n  expected %s: %s", text, mq_code_name(got), err.text,
                 mq_code_name(code), words);
    }
}

static void a_request_is_read(void **state)
{
    (void)state;
    mq_error err;
    assert_int_equal(
        read_text(
            "{\"id\":\"a1\",\"parameters\":{\"timeout\":2500000,\"priority\":1},\"unknown\":[{}],"
            "\"inputs\":[{\"name\":\"x\",\"shape\":[2,2],\"datatype\":\"FP32\",\"data\":[[1,2.5],[-"
            "3e2,0]]},"
            "{\"name\":\"n\",\"shape\":[3],\"datatype\":\"INT8\",\"data\":[-128,0,127]},"
            "{\"name\":\"e\",\"shape\":[0,4],\"datatype\":\"FP64\",\"data\":[]}],"
            "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data\":true}},{\"name\":\"z\"}]"
            "}",
            &err),
        MQ_OK);
    assert_string_equal(request.id, "a1");
    assert_int_equal(request.timeout_ms, 2500);
    assert_int_equal(request.input_count, 3);
    const maasq_tensor *x = &request.inputs[0];
    assert_string_equal(x->name, "x");
    assert_int_equal(x->dtype, MAASQ_F32);
    assert_int_equal(x->rank, 2);
    assert_int_equal(x->shape[1], 2);
    assert_int_equal(x->bytes, 16);
    const float want[] = {1.f, 2.5f, -300.f, 0.f};
    assert_memory_equal(x->data, want, sizeof want);
    const int8_t small[] = {-128, 0, 127};
    assert_memory_equal(request.inputs[1].data, small, 3);
    assert_int_equal(request.inputs[2].bytes, 0);
    assert_int_equal(request.output_count, 2);
    assert_true(request.outputs[0].is_binary);
    assert_false(request.outputs[1].is_binary);
}

/* One input with this type, shape and data. */
static void refused_input(const char *input, mq_code code, const char *words)
{
    char text[1024];
    snprintf(text, sizeof text, "{\"inputs\":[{\"name\":\"x\",%s}]}", input);
    refused(text, code, words);
}

static void bad_requests_are_refused_by_name(void **state)
{
    (void)state;
    refused("", MQ_E_FORMAT, "JSON");
    refused("[]", MQ_E_FORMAT, "must be an object");
    refused("{} x", MQ_E_FORMAT, "JSON: line 1");
    refused("{\"inputs\":[],\"inputs\":[]}", MQ_E_FORMAT, "duplicate");
    refused("{\"id\":\"\xff\"}", MQ_E_FORMAT, "JSON");
    refused("{}", MQ_E_ARG, "inputs");
    refused("{\"inputs\":[]}", MQ_E_ARG, "inputs");
    refused("{\"inputs\":{}}", MQ_E_ARG, "inputs");
    refused("{\"inputs\":[1]}", MQ_E_ARG, "inputs[0]");
    refused("{\"id\":7,\"inputs\":[]}", MQ_E_ARG, "id");
    refused("{\"parameters\":[],\"inputs\":[]}", MQ_E_ARG, "parameters");
    refused("{\"parameters\":{\"a\":[]},\"inputs\":[]}", MQ_E_ARG, "parameters.a");
    refused("{\"parameters\":{\"timeout\":-1},\"inputs\":[]}", MQ_E_ARG, "timeout");
    refused("{\"parameters\":{\"timeout\":1.5},\"inputs\":[]}", MQ_E_ARG, "timeout");
    refused("{\"parameters\":{\"binary_data_output\":1},\"inputs\":[]}", MQ_E_ARG,
            "binary_data_output");
    refused("{\"inputs\":[{\"name\":\"\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]}]}",
            MQ_E_ARG, "inputs[0]: name");
    refused_input("\"datatype\":\"FP32\",\"data\":[1]", MQ_E_ARG, "shape");
    refused_input("\"shape\":[1],\"data\":[1]", MQ_E_ARG, "datatype");
    refused_input("\"shape\":[1],\"datatype\":\"float32\",\"data\":[1]", MQ_E_ARG, "datatype");
    refused_input("\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"a\"]", MQ_E_UNSUPPORTED,
                  "BYTES");
    refused_input("\"shape\":[1],\"datatype\":\"FP16\",\"data\":[1]", MQ_E_ARG, "binary");
    refused_input("\"shape\":[1],\"datatype\":\"FP32\"", MQ_E_ARG, "either data or");
    refused_input("\"shape\":[1],\"datatype\":\"FP32\",\"data\":7", MQ_E_ARG,
                  "data: must be a list");
    refused_input("\"shape\":[-1],\"datatype\":\"FP32\",\"data\":[]", MQ_E_ARG, "shape");
    refused_input("\"shape\":[1.0],\"datatype\":\"FP32\",\"data\":[1]", MQ_E_ARG, "shape");
    refused_input("\"shape\":[2,2,2,2,2,2,2,2,2],\"datatype\":\"FP32\",\"data\":[1]", MQ_E_ARG,
                  "shape");
    refused_input("\"shape\":[2147483647,2147483647,2147483647],\"datatype\":\"FP32\",\"data\":[1]",
                  MQ_E_ARG, "shape");
    refused_input("\"shape\":[2147483647],\"datatype\":\"FP32\",\"data\":[1]", MQ_E_LIMIT, "shape");
    refused_input("\"shape\":[2],\"datatype\":\"FP32\",\"data\":[1]", MQ_E_ARG,
                  "1 elements, but the shape has 2");
    refused_input("\"shape\":[2],\"datatype\":\"FP32\",\"data\":[1,2,3]", MQ_E_ARG, "element 2");
    refused_input("\"shape\":[1],\"datatype\":\"FP32\",\"data\":[\"1\"]", MQ_E_ARG,
                  "element 0: must be a number");
    refused_input("\"shape\":[1],\"datatype\":\"FP32\",\"data\":[null]", MQ_E_ARG, "number");
    refused_input("\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1e39]", MQ_E_ARG,
                  "does not fit FP32");
    refused_input("\"shape\":[1],\"datatype\":\"FP64\",\"data\":[1e999]", MQ_E_FORMAT, "JSON");
    refused_input("\"shape\":[1],\"datatype\":\"FP32\",\"data\":[NaN]", MQ_E_FORMAT, "JSON");
    refused_input("\"shape\":[1],\"datatype\":\"UINT8\",\"data\":[256]", MQ_E_ARG,
                  "does not fit UINT8");
    refused_input("\"shape\":[1],\"datatype\":\"UINT8\",\"data\":[-1]", MQ_E_ARG, "does not fit");
    refused_input("\"shape\":[1],\"datatype\":\"INT16\",\"data\":[32768]", MQ_E_ARG,
                  "does not fit");
    refused_input("\"shape\":[1],\"datatype\":\"INT32\",\"data\":[1.0]", MQ_E_ARG,
                  "must be an integer");
    refused_input("\"shape\":[1],\"datatype\":\"INT64\",\"data\":[9223372036854775808]",
                  MQ_E_FORMAT, "JSON");
    refused_input("\"shape\":[1],\"datatype\":\"BOOL\",\"data\":[1]", MQ_E_ARG, "true or false");
    refused_input(
        "\"shape\":[1],\"datatype\":\"FP32\",\"data\":[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]",
        MQ_E_ARG, "nested");
    refused("{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]},"
            "{\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]}]}",
            MQ_E_ARG, "there twice");
    refused("{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]}],"
            "\"outputs\":[{}]}",
            MQ_E_ARG, "outputs[0]: name");
}

static void too_many_values_are_refused_before_they_take_memory(void **state)
{
    (void)state;
    size_t len = 2 * (MQ_OIP_VALUES_MAX + 10);
    char *text = malloc(len + 1);
    for (size_t i = 0; i < len; i += 2) {
        memcpy(text + i, "0,", 2);
    }
    text[len] = '\0';
    refused(text, MQ_E_LIMIT, "binary form");
    /* Deeply nested lists end in an error too. */
    memset(text, '[', 100000);
    text[100000] = '\0';
    refused(text, MQ_E_FORMAT, "JSON");
    free(text);
}

static void binary_tensors_follow_the_json(void **state)
{
    (void)state;
    const char *json = "{\"parameters\":{\"binary_data_output\":true},\"inputs\":["
                       "{\"name\":\"a\",\"shape\":[1,2],\"datatype\":\"FP16\",\"parameters\":{"
                       "\"binary_data_size\":4}},"
                       "{\"name\":\"b\",\"shape\":[1],\"datatype\":\"UINT8\",\"data\":[9]},"
                       "{\"name\":\"c\",\"shape\":[3],\"datatype\":\"BOOL\",\"parameters\":{"
                       "\"binary_data_size\":3}}]}";
    char body[512];
    size_t json_bytes = strlen(json);
    memcpy(body, json, json_bytes);
    memcpy(body + json_bytes, "abcd\1\0\1", 7);
    mq_error err = {0};
    int64_t head = (int64_t)json_bytes;
    assert_int_equal(mq_oip_read(&request, &arena, mq_span_of(body, json_bytes + 7), head, &err),
                     MQ_OK);
    assert_true(request.is_binary);
    assert_memory_equal(request.inputs[0].data, "abcd", 4);
    assert_int_equal(*(const uint8_t *)request.inputs[1].data, 9);
    assert_memory_equal(request.inputs[2].data, "\1\0\1", 3);
    assert_int_equal(mq_oip_read(&request, &arena, mq_span_of(body, json_bytes + 6), head, &err),
                     MQ_E_ARG);
    assert_non_null(strstr(err.text, "inputs[2]: the body ends 1 bytes before"));
    body[json_bytes + 7] = 'x';
    assert_int_equal(mq_oip_read(&request, &arena, mq_span_of(body, json_bytes + 8), head, &err),
                     MQ_E_ARG);
    assert_non_null(strstr(err.text, "1 bytes follow"));
    assert_int_equal(mq_oip_read(&request, &arena, mq_span_of(body, 10), 11, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, "Inference-Header-Content-Length"));
    assert_int_equal(mq_oip_read(&request, &arena, mq_span_of(body, 10), -2, &err), MQ_E_ARG);
    refused_input("\"shape\":[2],\"datatype\":\"FP32\",\"parameters\":{\"binary_data_size\":7}",
                  MQ_E_ARG, "must be 8");
    refused_input("\"shape\":[2],\"datatype\":\"FP32\",\"data\":[1,2],\"parameters\":{\"binary_"
                  "data_size\":8}",
                  MQ_E_ARG, "not both");
}

static void a_raw_body_takes_the_models_shape(void **state)
{
    (void)state;
    uint8_t body[24] = {0};
    mq_error err = {0};
    mq_shape rows = {2, {-1, 3}};
    assert_int_equal(mq_oip_read_raw(&request, mq_span_of(body, 24), "x", MQ_DT_F32, &rows, &err),
                     MQ_OK);
    assert_int_equal(request.inputs[0].shape[0], 2);
    assert_int_equal(request.inputs[0].shape[1], 3);
    assert_true(request.is_binary);
    assert_int_equal(mq_oip_read_raw(&request, mq_span_of(body, 20), "x", MQ_DT_F32, &rows, &err),
                     MQ_E_ARG);
    mq_shape fixed = {1, {6}};
    assert_int_equal(mq_oip_read_raw(&request, mq_span_of(body, 24), "x", MQ_DT_F32, &fixed, &err),
                     MQ_OK);
    assert_int_equal(mq_oip_read_raw(&request, mq_span_of(body, 12), "x", MQ_DT_F32, &fixed, &err),
                     MQ_E_ARG);
    mq_shape two = {2, {-1, -1}};
    assert_int_equal(mq_oip_read_raw(&request, mq_span_of(body, 24), "x", MQ_DT_F32, &two, &err),
                     MQ_E_UNSUPPORTED);
    assert_int_equal(mq_oip_read_raw(&request, mq_span_of(body, 24), "x", MQ_DT_STR, &rows, &err),
                     MQ_E_UNSUPPORTED);
}

static maasq_tensor tensor(const char *name, int dtype, int64_t count, const void *data,
                           size_t bytes)
{
    maasq_tensor t = {.dtype = dtype, .rank = 1, .shape = {count}, .data = data, .bytes = bytes};
    snprintf(t.name, sizeof t.name, "%s", name);
    return t;
}

static void a_response_reads_back_bit_for_bit(void **state)
{
    (void)state;
    const float f[] = {0.1f, -1e-38f, 3.4028235e38f, 16777217.f};
    const double d[] = {0.1, 1.0 / 3.0};
    const int64_t n[] = {INT64_MIN, INT64_MAX};
    const uint8_t b[] = {1, 0};
    maasq_tensor outputs[] = {
        tensor("f", MAASQ_F32, 4, f, sizeof f), tensor("d", MAASQ_F64, 2, d, sizeof d),
        tensor("n", MAASQ_I64, 2, n, sizeof n), tensor("b\"", MAASQ_BOOL, 2, b, sizeof b)};
    mq_oip_request asked = {.id = "q\"1"};
    mq_buf out;
    size_t json_bytes = 99;
    mq_error err = {0};
    mq_buf_init(&out, 1 << 16);
    assert_int_equal(mq_oip_write(&asked, "m", "3", outputs, 4, &out, &json_bytes, &err), MQ_OK);
    assert_int_equal(json_bytes, 0);
    json_t *root = json_loadb((const char *)out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "model_name")), "m");
    assert_string_equal(json_string_value(json_object_get(root, "model_version")), "3");
    assert_string_equal(json_string_value(json_object_get(root, "id")), "q\"1");
    json_t *list = json_object_get(root, "outputs");
    assert_int_equal(json_array_size(list), 4);
    uint8_t back[32];
    for (size_t i = 0; i < 4; i++) {
        json_t *data = json_object_get(json_array_get(list, i), "data");
        assert_int_equal(json_array_size(data), outputs[i].shape[0]);
        for (size_t k = 0; k < json_array_size(data); k++) {
            assert_int_equal(
                mq_oip_store((mq_dtype)outputs[i].dtype, json_array_get(data, k), back, k, &err),
                MQ_OK);
        }
        assert_memory_equal(back, outputs[i].data, outputs[i].bytes);
    }
    json_decref(root);
    mq_buf_release(&out);
}

static void a_binary_response_carries_the_bytes_behind_the_json(void **state)
{
    (void)state;
    const float f[] = {NAN, 2};
    const uint16_t h[] = {1, 2, 3};
    maasq_tensor outputs[] = {tensor("f", MAASQ_F32, 2, f, sizeof f),
                              tensor("h", MAASQ_F16, 3, h, sizeof h)};
    mq_oip_request asked = {.is_binary = true};
    mq_buf out;
    size_t json_bytes = 0;
    mq_error err = {0};
    mq_buf_init(&out, 1 << 16);
    assert_int_equal(mq_oip_write(&asked, "m", "", outputs, 2, &out, &json_bytes, &err), MQ_OK);
    assert_int_equal(out.len, json_bytes + sizeof f + sizeof h);
    assert_memory_equal(out.data + json_bytes, f, sizeof f);
    assert_memory_equal(out.data + json_bytes + sizeof f, h, sizeof h);
    json_t *root = json_loadb((const char *)out.data, json_bytes, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_null(json_object_get(root, "model_version"));
    json_decref(root);
    /* The same as JSON cannot be said. */
    asked.is_binary = false;
    mq_buf_reset(&out);
    assert_int_equal(mq_oip_write(&asked, "m", "", outputs, 1, &out, &json_bytes, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, "output f: holds NaN"));
    assert_int_equal(mq_oip_write(&asked, "m", "", outputs + 1, 1, &out, &json_bytes, &err),
                     MQ_E_ARG);
    assert_non_null(strstr(err.text, "FP16"));
    asked.output_count = 1;
    snprintf(asked.outputs[0].name, sizeof asked.outputs[0].name, "nope");
    assert_int_equal(mq_oip_write(&asked, "m", "", outputs, 2, &out, &json_bytes, &err),
                     MQ_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "\"nope\""));
    mq_buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_request_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_requests_are_refused_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(too_many_values_are_refused_before_they_take_memory, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(binary_tensors_follow_the_json, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_raw_body_takes_the_models_shape, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_response_reads_back_bit_for_bit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_binary_response_carries_the_bytes_behind_the_json, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
