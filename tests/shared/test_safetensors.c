/* The safetensors container: what is written is read back in place, and every way in which a file
 * can be wrong is refused with a sentence that says where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "shared/tensor/safetensors.h"

/* A file with this header and `data` bytes behind it, in exactly as many bytes (for ASan). */
static uint8_t *file_of(const char *header, size_t data, size_t *len)
{
    size_t n = strlen(header);
    *len = 8 + n + data;
    uint8_t *bytes = malloc(*len);
    assert_non_null(bytes);
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(n >> (8 * i));
    }
    memcpy(bytes + 8, header, n);
    memset(bytes + 8 + n, 7, data);
    return bytes;
}

static void refused(const char *header, size_t data, mq_code code, const char *words)
{
    size_t len;
    uint8_t *bytes = file_of(header, data, &len);
    mq_safetensors st;
    mq_error err = {0};
    mq_code got = mq_safetensors_read(&st, mq_span_of(bytes, len), &err);
    if (got != code || strstr(err.text, words) == NULL) {
        fail_msg("%s\n  gave %s: %s\n  expected %s: %s", header, mq_code_name(got), err.text,
                 mq_code_name(code), words);
    }
    assert_int_equal(st.count, 0);
    mq_safetensors_release(&st);
    free(bytes);
}

static void accepted(const char *header, size_t data, uint32_t count)
{
    size_t len;
    uint8_t *bytes = file_of(header, data, &len);
    mq_safetensors st;
    mq_error err = {0};
    if (mq_safetensors_read(&st, mq_span_of(bytes, len), &err) != MQ_OK) {
        fail_msg("%s: %s", header, err.text);
    }
    assert_int_equal(st.count, count);
    mq_safetensors_release(&st);
    free(bytes);
}

static void written_tensors_are_read_back_in_place(void **state)
{
    (void)state;
    uint8_t labels[5] = {1, 2, 3, 4, 5};
    float x[6] = {0.5f, -1.f, 2.f, 3.f, 4.f, 5.f};
    mq_st_entry in[2] = {
        {mq_str("y"), {MQ_DT_U8, {1, {5}}, labels, sizeof labels}},
        {mq_str("x"), {MQ_DT_F32, {2, {2, 3}}, x, sizeof x}},
    };
    mq_buf out;
    mq_buf_init(&out, 1 << 16);
    mq_error err = {0};
    assert_int_equal(mq_safetensors_write(in, 2, mq_str("{\"step\":\"7\"}"), &out, &err), MQ_OK);
    mq_safetensors st;
    assert_int_equal(mq_safetensors_read(&st, mq_buf_span(&out), &err), MQ_OK);
    assert_int_equal(st.count, 2);
    assert_true(st.is_aligned);
    assert_true(mq_span_is(st.metadata, "{\"step\":\"7\"}"));
    assert_true(mq_span_is(st.entries[0].name, "y"));
    const mq_tensor *t = mq_safetensors_find(&st, mq_str("x"));
    assert_non_null(t);
    assert_int_equal(t->dtype, MQ_DT_F32);
    assert_int_equal(t->shape.rank, 2);
    assert_int_equal(t->shape.dims[1], 3);
    assert_memory_equal(t->data, x, sizeof x);
    assert_true((uint8_t *)t->data > out.data && (uint8_t *)t->data < out.data + out.len);
    assert_null(mq_safetensors_find(&st, mq_str("z")));
    mq_safetensors_release(&st);
    mq_buf_release(&out);
}

static void every_dtype_and_a_scalar_and_an_empty_tensor_travel(void **state)
{
    (void)state;
    static const mq_dtype all[] = {
#define MQ_DTYPE(name, text, bytes, onnx, safetensors, oip) MQ_DT_##name,
#include "shared/tensor/dtype.def"
#undef MQ_DTYPE
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        uint64_t zeros[3] = {0};
        size_t each = mq_dtype_bytes(all[i]);
        mq_st_entry in[3] = {{mq_str("scalar"), {all[i], {0, {0}}, zeros, each}},
                             {mq_str("empty"), {all[i], {2, {0, 4}}, NULL, 0}},
                             {mq_str("three"), {all[i], {1, {3}}, zeros, 3 * each}}};
        mq_buf out;
        mq_buf_init(&out, 1 << 16);
        mq_error err = {0};
        mq_code code = mq_safetensors_write(in, 3, (mq_span){0}, &out, &err);
        assert_int_equal(code, each == 0 ? MQ_E_ARG : MQ_OK);
        if (code == MQ_OK) {
            mq_safetensors st;
            assert_int_equal(mq_safetensors_read(&st, mq_buf_span(&out), &err), MQ_OK);
            assert_int_equal(st.count, 3);
            assert_int_equal(st.entries[0].tensor.shape.rank, 0);
            assert_int_equal(st.entries[1].tensor.bytes, 0);
            assert_int_equal(st.entries[2].tensor.dtype, all[i]);
            mq_safetensors_release(&st);
        }
        mq_buf_release(&out);
    }
}

static void reserved_room_is_filled_by_the_caller(void **state)
{
    (void)state;
    mq_st_entry e[1] = {{mq_str("w"), {MQ_DT_I32, {1, {100}}, NULL, 0}}};
    mq_buf out;
    mq_buf_init(&out, 1 << 16);
    assert_int_equal(mq_safetensors_reserve(e, 1, (mq_span){0}, &out, NULL), MQ_OK);
    assert_int_equal(e[0].tensor.bytes, 400);
    memset(e[0].tensor.data, 9, 400);
    mq_safetensors st;
    assert_int_equal(mq_safetensors_read(&st, mq_buf_span(&out), NULL), MQ_OK);
    assert_ptr_equal(st.entries[0].tensor.data, e[0].tensor.data);
    mq_safetensors_release(&st);
    mq_buf_release(&out);
}

static void as_many_tensors_as_the_limit_are_read_and_one_more_refused(void **state)
{
    (void)state;
    for (uint32_t count = MQ_ST_TENSORS_MAX; count <= MQ_ST_TENSORS_MAX + 1; count++) {
        mq_buf text;
        mq_buf_init(&text, 1 << 20);
        for (uint32_t i = 0; i < count; i++) {
            mq_buf_printf(&text,
                          "%s\"t%u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%u,%u]}",
                          i == 0 ? "{" : ",", i, i, i + 1);
        }
        mq_buf_add(&text, "}", 2);
        if (count == MQ_ST_TENSORS_MAX) {
            accepted((const char *)text.data, count, count);
        } else {
            refused((const char *)text.data, count, MQ_E_LIMIT, "more than 4096 tensors");
        }
        mq_buf_release(&text);
    }
}

static void tensors_may_stand_in_any_order_with_spaces(void **state)
{
    (void)state;
    accepted("{}", 0, 0);
    accepted("{}   ", 0, 0);
    accepted("{\"__metadata__\":{}}", 0, 0);
    accepted("{ \"b\" : { \"shape\" : [ 2 , 2 ] ,\n\"data_offsets\":[4 , 8],\t\"dtype\":\"U8\"},"
             "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}",
             8, 2);
    accepted("{\"__metadata__\":{\"a\\\"\\u0041\":\"b\\\\\"},"
             "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}",
             4, 1);
}

static void a_short_or_overlong_file_is_refused(void **state)
{
    (void)state;
    mq_error err = {0};
    mq_safetensors st;
    uint8_t bytes[16] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}', 0};
    assert_int_equal(mq_safetensors_read(&st, mq_span_of(bytes, 7), &err), MQ_E_FORMAT);
    assert_non_null(strstr(err.text, "7 bytes; the length alone takes 8"));
    assert_int_equal(mq_safetensors_read(&st, mq_span_of(bytes, 9), &err), MQ_E_FORMAT);
    assert_non_null(strstr(err.text, "header of 2 bytes in a file of 9"));
    assert_int_equal(mq_safetensors_read(&st, mq_span_of(bytes, 11), &err), MQ_E_FORMAT);
    assert_non_null(strstr(err.text, "1 bytes of data where the header describes 0"));
    memset(bytes, 0xff, 8);
    assert_int_equal(mq_safetensors_read(&st, mq_span_of(bytes, 16), &err), MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "the limit is 1048576"));
}

#define T(dtype, shape, range)                                                                     \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" range "}"

static void a_malformed_header_is_refused_with_its_place(void **state)
{
    (void)state;
    refused("", 0, MQ_E_FORMAT, "ends at byte 8: expected '{'");
    refused(" {}", 0, MQ_E_FORMAT, "at byte 8: expected '{'");
    refused("{", 0, MQ_E_FORMAT, "ends at byte 9: expected a tensor's name");
    refused("{}x", 0, MQ_E_FORMAT, "byte 10: expected only spaces");
    refused("{\"a", 0, MQ_E_FORMAT, "expected the closing quote");
    refused("{\"a\\", 0, MQ_E_FORMAT, "expected the closing quote");
    refused("{\"a\"}", 0, MQ_E_FORMAT, "byte 12: expected ':'");
    refused("{\"a\":1}", 0, MQ_E_FORMAT, "expected '{' of a tensor");
    refused("{\"a\":{}}", 0, MQ_E_FORMAT, "expected \"dtype\"");
    refused("{\"a\":" T("U8", "[1]", "[0,1]") ",}", 1, MQ_E_FORMAT, "expected a tensor's name");
    refused("{\"a\":{\"dtype\":\"U8\"}}", 0, MQ_E_FORMAT, "\"a\" lacks shape");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 0, MQ_E_FORMAT, "lacks data_offsets");
    refused("{\"a\":{\"shape\":[],\"data_offsets\":[0,0]}}", 0, MQ_E_FORMAT, "lacks dtype");
    refused("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, MQ_E_FORMAT, "given twice");
    refused("{\"a\":{\"kind\":\"U8\"}}", 0, MQ_E_FORMAT, "key \"kind\" is not one of");
    refused("{\"a\":" T("U9", "[1]", "[0,1]") "}", 1, MQ_E_UNSUPPORTED, "dtype \"U9\"");
    refused("{\"a\":" T("U8", "[1,]", "[0,1]") "}", 1, MQ_E_FORMAT, "whole number");
    refused("{\"a\":" T("U8", "[01]", "[0,1]") "}", 1, MQ_E_FORMAT, "leading zero");
    refused("{\"a\":" T("U8", "[-1]", "[0,1]") "}", 1, MQ_E_FORMAT, "whole number");
    refused("{\"a\":" T("U8", "[1 1]", "[0,1]") "}", 1, MQ_E_FORMAT, "',' or ']' in a shape");
    refused("{\"a\":" T("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, MQ_E_FORMAT, "8 dimensions");
    refused("{\"a\":" T("U8", "[4294967296]", "[0,1]") "}", 1, MQ_E_FORMAT, "2^31-1");
    refused("{\"a\":" T("U8", "[1]", "[0,99999999999999999999]") "}", 1, MQ_E_FORMAT, "2^56");
    refused("{\"a\":" T("U8", "[1]", "[0]") "}", 1, MQ_E_FORMAT, "',' between data_offsets");
    refused("{\"a\":" T("U8", "[1]", "[0,1,2]") "}", 1, MQ_E_FORMAT, "']' after two");
    refused("{\"a\n\":1}", 0, MQ_E_FORMAT, "control character");
    refused("{\"\":" T("U8", "[1]", "[0,1]") "}", 1, MQ_E_FORMAT, "name has 0 bytes");
    refused("{\"a\\u0041\":" T("U8", "[1]", "[0,1]") "}", 1, MQ_E_FORMAT, "and an escape");
    refused("{\"__metadata__\":{\"a\":1}}", 0, MQ_E_FORMAT, "metadata value that is a string");
    refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, MQ_E_FORMAT, "__metadata__ is given");
    refused("{\"__metadata__\":[]}", 0, MQ_E_FORMAT, "'{' of __metadata__");
}

static void data_that_do_not_match_the_header_are_refused(void **state)
{
    (void)state;
    refused("{\"a\":" T("F32", "[2]", "[0,4]") "}", 4, MQ_E_FORMAT,
            "tensor \"a\": 4 bytes where "
            "float32 of [2] needs 8");
    refused("{\"a\":" T("U8", "[2]", "[1,3]") "}", 3, MQ_E_FORMAT, "leave a gap");
    refused("{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[1,3]") "}", 3, MQ_E_FORMAT,
            "overlap");
    refused("{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[3,5]") "}", 5, MQ_E_FORMAT,
            "gap");
    refused("{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[0,2]") "}", 2, MQ_E_FORMAT,
            "overlap");
    refused("{\"a\":" T("U8", "[2]", "[0,2]") "}", 1, MQ_E_FORMAT, "outside the 1 bytes");
    refused("{\"a\":" T("U8", "[2]", "[2,0]") "}", 2, MQ_E_FORMAT, "outside");
    refused("{\"a\":" T("U8", "[2]", "[0,2]") "}", 3, MQ_E_FORMAT, "3 bytes of data where");
    refused("{\"a\":" T("U8", "[1]", "[0,1]") ",\"a\":" T("U8", "[1]", "[1,2]") "}", 2, MQ_E_FORMAT,
            "\"a\" is given twice");
    refused("{\"a\":" T("F64", "[2147483647,2147483647,2147483647]", "[0,1]") "}", 1, MQ_E_FORMAT,
            "overflows");
}

static void twins_among_many_names_are_found(void **state)
{
    (void)state;
    mq_buf text;
    mq_buf_init(&text, 1 << 20);
    for (uint32_t i = 0; i < 100; i++) {
        mq_buf_printf(&text, "%s\"t%u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%u,%u]}",
                      i == 0 ? "{" : ",", i == 99 ? 42 : i, i, i + 1);
    }
    mq_buf_add(&text, "}", 2);
    refused((const char *)text.data, 100, MQ_E_FORMAT, "\"t42\" is given twice");
    mq_buf_release(&text);
}

static void a_writer_refuses_what_a_reader_would(void **state)
{
    (void)state;
    uint8_t byte = 0;
    mq_buf out;
    mq_buf_init(&out, 100);
    mq_error err = {0};
    mq_st_entry e = {mq_str("a\"b"), {MQ_DT_U8, {1, {1}}, &byte, 1}};
    assert_int_equal(mq_safetensors_write(&e, 1, (mq_span){0}, &out, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, "not writable"));
    e.name = mq_str("__metadata__");
    assert_int_equal(mq_safetensors_write(&e, 1, (mq_span){0}, &out, &err), MQ_E_ARG);
    e.name = mq_str("long enough to exceed the hundred bytes that this buffer may hold at most");
    assert_int_equal(mq_safetensors_write(&e, 1, (mq_span){0}, &out, &err), MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "exceed 100"));
    mq_buf_release(&out);
}

/* Every prefix of a good file and every single changed byte either reads or is refused; with ASan
 * this shows that no byte outside is touched. */
static void cut_and_changed_files_never_read_outside(void **state)
{
    (void)state;
    const char *header = "{\"__metadata__\":{\"k\":\"v\"},\"a\":" T(
        "F32", "[2,1]", "[0,8]") ",\"b\":" T("U8", "[3]", "[8,11]") "}";
    size_t len;
    uint8_t *good = file_of(header, 11, &len);
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *bytes = malloc(cut + 1);
        assert_non_null(bytes);
        memcpy(bytes, good, cut);
        mq_safetensors st;
        assert_int_not_equal(mq_safetensors_read(&st, mq_span_of(bytes, cut), NULL), MQ_OK);
        mq_safetensors_release(&st);
        free(bytes);
    }
    for (size_t at = 0; at < len; at++) {
        for (unsigned flip = 1; flip < 256; flip++) {
            good[at] = (uint8_t)(good[at] ^ flip);
            mq_safetensors st;
            mq_error err;
            (void)!mq_safetensors_read(&st, mq_span_of(good, len), &err);
            mq_safetensors_release(&st);
            good[at] = (uint8_t)(good[at] ^ flip);
        }
    }
    free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_tensors_are_read_back_in_place),
        cmocka_unit_test(every_dtype_and_a_scalar_and_an_empty_tensor_travel),
        cmocka_unit_test(reserved_room_is_filled_by_the_caller),
        cmocka_unit_test(as_many_tensors_as_the_limit_are_read_and_one_more_refused),
        cmocka_unit_test(tensors_may_stand_in_any_order_with_spaces),
        cmocka_unit_test(a_short_or_overlong_file_is_refused),
        cmocka_unit_test(a_malformed_header_is_refused_with_its_place),
        cmocka_unit_test(data_that_do_not_match_the_header_are_refused),
        cmocka_unit_test(twins_among_many_names_are_found),
        cmocka_unit_test(a_writer_refuses_what_a_reader_would),
        cmocka_unit_test(cut_and_changed_files_never_read_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
