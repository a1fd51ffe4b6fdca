/* Importing files into datasets, through the job kind: what good files become, and what is said of
 * every way in which a file can be wrong. */
#include "tests/worker/local.h"
#include "tests/worker/rows.h"

#include <math.h>
#include <zlib.h>

#include "worker/data/gunzip.h"

/* --- IDX --- */

#define IDX_2x3 "\0\0\x08\2\0\0\0\2\0\0\0\3"

static void an_idx_file_keeps_its_bytes_and_shape(void **state)
{
    (void)state;
    json_t *meta = imported("x.idx", S(IDX_2x3 "\0\1\2\3\4\377"), "");
    assert_string_equal(json_string_value(at_path(meta, "format")), "idx");
    assert_string_equal(json_string_value(at_path(meta, "features.x.dtype")), "uint8");
    assert_int_equal(number_at(meta, "features.x.shape.0"), 3);
    assert_int_equal(number_at(meta, "rows"), 2);
    assert_int_equal(number_at(meta, "stats.min"), 0);
    assert_int_equal(number_at(meta, "stats.max"), 255);
    assert_true(fabs(number_at(meta, "stats.mean") - 265.0 / 6) < 1e-6);
    assert_true(json_is_null(at_path(meta, "features.y")));
    assert_string_equal(json_string_value(at_path(meta, "source.0")), "x.idx");
    json_decref(meta);
    rows_are("d", 2, 3, (float[]){0, 1 / 255.f, 2 / 255.f, 3 / 255.f, 4 / 255.f, 1}, NULL);
}

static void an_idx_file_of_other_numbers_becomes_float32(void **state)
{
    (void)state;
    json_decref(imported("x.idx", S("\0\0\x0b\2\0\0\0\1\0\0\0\2\377\376\1\0"), ""));
    rows_are("d", 1, 2, (float[]){-2, 256}, NULL);
    json_decref(imported("x.idx", S("\0\0\x0d\1\0\0\0\1\x3f\xc0\0\0"), ""));
    rows_are("d", 1, 1, (float[]){1.5f}, NULL);
}

static void broken_idx_files_are_refused_with_what_was_expected(void **state)
{
    (void)state;
    const char *idx = ",\"format\":\"idx\"";
    refused("a.idx", S("\0\0\x08"), idx, MQ_E_FORMAT, "a.idx: IDX header is cut: 3 bytes");
    refused("a.idx", S("\0\1\x08\1\0\0\0\0"), idx, MQ_E_FORMAT,
            "a.idx: byte 0: 00 01 08 01 is no IDX magic; expected 00 00");
    refused("a.idx", S("\0\0\x0a\1\0\0\0\0"), idx, MQ_E_FORMAT, "is no IDX magic");
    refused("a.idx", S("\0\0\x08\3\0\0\0\2"), idx, MQ_E_FORMAT,
            "header is cut: 8 bytes, 16 expected for 3 dimensions");
    refused("a.idx", S(IDX_2x3 "\0\1\2\3\4"), "", MQ_E_FORMAT,
            "uint8 of [2,3] needs 6 bytes behind the header of 12; there are 5");
    refused("a.idx", S(IDX_2x3 "\0\1\2\3\4\5\6"), "", MQ_E_FORMAT, "there are 7");
    refused("a.idx", S("\0\0\x08\3\177\377\377\377\177\377\377\377\177\377\377\377"), "",
            MQ_E_FORMAT, "IDX header: the product of the dimensions overflows");
    refused("a.idx", S("\0\0\x08\1\377\377\377\377"), "", MQ_E_FORMAT, "outside 0..2147483647");
    refused("a.idx", S("\0\0\x08\1\0\0\0\0"), "", MQ_E_FORMAT, "a.idx: there is no row of data");
    refused("a.idx", S("\0\0\x08\2\0\0\0\1\0\0\0\0"), "", MQ_E_LIMIT,
            "a row of [0] has no elements");
    refused("a.idx", S("\0\0\x0d\1\0\0\0\1\x7f\x80\0\0"), "", MQ_E_FORMAT,
            "a.idx: row 0, element 0: inf is not a finite float32");
    refused("a.bin", S("\1\2\3\4\5\6\7\10\11"), "", MQ_E_FORMAT,
            "a.bin: 9 bytes starting 01 02 03 04 05 06 07 08 are none of the formats");
    refused("a.bin", S(""), "", MQ_E_FORMAT, "a.bin: 0 bytes starting are none");
    refused("a.bin", S("1,2"), ",\"format\":\"parquet\"", MQ_E_ARG,
            "\"parquet\" is not known; known are auto, npy, idx, csv");
}

/* --- labels files --- */

static void labels_of_a_second_file_go_with_the_rows(void **state)
{
    (void)state;
    json_t *meta =
        imported("x.idx", S(IDX_2x3 "\0\0\0\0\0\0"), with_labels(S("\0\0\x08\1\0\0\0\2\4\1")));
    assert_int_equal(number_at(meta, "features.y.classes"), 5);
    assert_string_equal(json_string_value(at_path(meta, "features.y.dtype")), "uint8");
    assert_int_equal(number_at(meta, "stats.class_counts.4"), 1);
    assert_int_equal(number_at(meta, "stats.class_counts.0"), 0);
    assert_string_equal(json_string_value(at_path(meta, "source.1")), "y.idx");
    json_decref(meta);
    rows_are("d", 2, 3, (float[6]){0}, (float[]){4, 1});
    meta = imported("x.idx", S(IDX_2x3 "\0\0\0\0\0\0"),
                    with_labels(S("\0\0\x0b\2\0\0\0\2\0\0\0\1\1\1\0\1")));
    assert_int_equal(number_at(meta, "features.y.classes"), 258);
    assert_string_equal(json_string_value(at_path(meta, "features.y.dtype")), "int32");
    json_decref(meta);
    rows_are("d", 2, 3, (float[6]){0}, (float[]){257, 1});
}

static void labels_of_a_floating_type_are_values(void **state)
{
    (void)state;
    json_t *meta = imported("x.idx", S(IDX_2x3 "\0\0\0\0\0\0"),
                            with_labels(S("\0\0\x0d\1\0\0\0\2\x3f\xc0\0\0\xbf\xc0\0\0")));
    assert_null(at_path(meta, "features.y.classes"));
    assert_string_equal(json_string_value(at_path(meta, "features.y.dtype")), "float32");
    json_decref(meta);
    rows_are("d", 2, 3, (float[6]){0}, (float[]){1.5f, -1.5f});
}

static void labels_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    mq_span x = S(IDX_2x3 "\0\0\0\0\0\0");
    refused("x.idx", x, with_labels(S("\0\0\x08\1\0\0\0\3\1\2\3")), MQ_E_FORMAT,
            "y.idx: 3 labels for 2 rows of x.idx");
    refused("x.idx", x, with_labels(S("\0\0\x09\1\0\0\0\2\0\377")), MQ_E_FORMAT,
            "y.idx: row 1: label -1 is outside 0..1048575");
    refused("x.idx", x, with_labels(x), MQ_E_FORMAT, "y.idx: labels have the shape [2,3]");
    refused("x.idx", x, with_labels(S("a,b\n1,2\n")), MQ_E_ARG, "this is csv");
    refused("x.idx", x, with_labels(S("\0\0\x08\1\0\0\0\3\1\2")), MQ_E_FORMAT,
            "y.idx: uint8 of [3] needs 3 bytes");
    refused("x.idx", x, ",\"label_column\":\"y\"", MQ_E_ARG, "label_column: is for CSV files");
}

static void several_files_are_read_one_after_the_other(void **state)
{
    (void)state;
    char body[1024];
    snprintf(body, sizeof body, TWO_FILES, put(S("\0\0\x08\1\0\0\0\1\377")),
             put(S("\0\0\x08\1\0\0\0\2\0\377")));
    json_decref(run_body("dataset.import", body));
    rows_are("d", 3, 1, (float[]){1, 0, 1}, NULL);
    snprintf(body, sizeof body, TWO_FILES, put(S("\0\0\x08\1\0\0\0\1\377")),
             put(S(IDX_2x3 "123456")));
    run_refused(&(mq_local_job){.kind = "dataset.import", .body = mq_str(body)}, MQ_E_FORMAT,
                "b: rows of [3] where a has rows of [1]");
    snprintf(body, sizeof body,
             "{\"name\":\"d\",\"files\":[{\"name\":\"a\",\"blobs\":[\"%s\",\"%s\"]}]}",
             put(S("\0\0\x08\1\0\0")), put(S("\0\1\377")));
    json_decref(run_body("dataset.import", body));
    rows_are("d", 1, 1, (float[]){1}, NULL);
}

/* --- gzip --- */

static mq_buf gzip_of(mq_span bytes)
{
    mq_buf out;
    z_stream z = {0};
    mq_buf_init(&out, 1 << 20);
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)bytes.data;
    z.avail_in = (uInt)bytes.len;
    uint8_t *at = mq_buf_extend(&out, 1 << 20);
    assert_non_null(at);
    z.next_out = at;
    z.avail_out = 1 << 20;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    out.len = z.total_out;
    deflateEnd(&z);
    return out;
}

static void compressed_files_are_read_and_damaged_ones_refused(void **state)
{
    (void)state;
    mq_buf gz = gzip_of(S(IDX_2x3 "\0\1\2\3\4\377"));
    json_decref(imported("x.gz", mq_buf_span(&gz), ""));
    rows_are("d", 2, 3, (float[]){0, 1 / 255.f, 2 / 255.f, 3 / 255.f, 4 / 255.f, 1}, NULL);
    for (size_t cut = 3; cut < gz.len; cut++) {
        refused("x.gz", mq_span_of(gz.data, cut), "", MQ_E_FORMAT, "x.gz: gzip: the file ends");
    }
    gz.data[gz.len - 6] ^= 1; /* the checksum */
    refused("x.gz", mq_buf_span(&gz), "", MQ_E_FORMAT, "x.gz: gzip: damaged before byte");
    gz.data[gz.len - 6] ^= 1;
    mq_buf_add_str(&gz, "more");
    refused("x.gz", mq_buf_span(&gz), "", MQ_E_FORMAT, "gzip: 4 bytes of something else from byte");
    mq_buf_release(&gz);
}

static void a_file_that_explodes_is_stopped(void **state)
{
    (void)state;
    size_t zeros = (size_t)200 << 20;
    uint8_t *big = calloc(zeros, 1);
    assert_non_null(big);
    mq_buf gz = gzip_of(mq_span_of(big, zeros)), out;
    mq_error err = {0};
    free(big);
    mq_buf_init(&out, (size_t)1 << 30);
    assert_int_equal(mq_gunzip(mq_buf_span(&gz), &out, &err), MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "the limit is 200 times the file"));
    assert_true(out.len < (size_t)130 << 20);
    mq_buf_release(&out);
    mq_buf_init(&out, 1000);
    assert_int_equal(mq_gunzip(mq_buf_span(&gz), &out, &err), MQ_E_LIMIT);
    mq_buf_release(&out);
    mq_buf_release(&gz);
}

/* --- NPY --- */

/* Version 1 (or `version`) file with this dictionary. */
static mq_span npy(const char *dict, const void *data, size_t len, uint8_t version)
{
    static uint8_t file[1024];
    size_t n = strlen(dict), before = version == 1 ? 10 : 12;
    memcpy(file, "\x93NUMPY", 6);
    file[6] = version;
    file[7] = 0;
    file[8] = (uint8_t)n;
    file[9] = (uint8_t)(n >> 8);
    file[10] = file[11] = 0;
    memcpy(file + before, dict, n);
    memcpy(file + before + n, data, len);
    return mq_span_of(file, before + n + len);
}

#define DICT(descr, order, shape)                                                                  \
    "{'descr': '" descr "', 'fortran_order': " order ", 'shape': " shape ", }  \n"

static void npy_files_of_each_version_and_order_are_read(void **state)
{
    (void)state;
    const float x[6] = {1, 2, 3, 4, 5, 6};
    for (uint8_t version = 1; version <= 3; version++) {
        json_decref(
            imported("x.npy", npy(DICT("<f4", "False", "(2, 3)"), x, sizeof x, version), ""));
        rows_are("d", 2, 3, x, NULL);
    }
    json_decref(imported("x.npy", npy(DICT("<f4", "True", "(2, 3)"), x, sizeof x, 1), ""));
    rows_are("d", 2, 3, (float[]){1, 3, 5, 2, 4, 6}, NULL);
    json_decref(imported("x.npy", npy(DICT("|u1", "True", "(2, 2)"), "\0\377\0\377", 4, 1), ""));
    rows_are("d", 2, 2, (float[]){0, 0, 1, 1}, NULL);
    json_t *meta = imported("x.npy", npy(DICT("|u1", "True", "(1, 2, 2)"), "\1\2\3\4", 4, 1), "");
    assert_int_equal(json_array_size(at_path(meta, "features.x.shape")), 2);
    json_decref(meta);
    rows_are("d", 1, 4, (float[]){1 / 255.f, 3 / 255.f, 2 / 255.f, 4 / 255.f}, NULL);
}

static void npy_numbers_of_each_type_are_converted(void **state)
{
    (void)state;
    static const struct {
        const char *dict;
        const char *bytes;
        size_t len;
        float value;
    } cases[] = {
        {DICT("|b1", "False", "(1,)"), "\1", 1, 1},
        {DICT("|i1", "False", "(1,)"), "\377", 1, -1},
        {DICT("<i2", "False", "(1,)"), "\376\377", 2, -2},
        {DICT(">u2", "False", "(1,)"), "\1\0", 2, 256},
        {DICT("<i4", "False", "(1,)"), "\375\377\377\377", 4, -3},
        {DICT(">u4", "False", "(1,)"), "\0\0\1\0", 4, 256},
        {DICT("<i8", "False", "(1,)"), "\374\377\377\377\377\377\377\377", 8, -4},
        {DICT("<u8", "False", "(1,)"), "\0\0\1\0\0\0\0\0", 8, 65536},
        {DICT("<f2", "False", "(1,)"), "\0\x3e", 2, 1.5f},
        {DICT("<f2", "False", "(1,)"), "\1\x80", 2, -5.9604645e-8f},
        {DICT(">f4", "False", "(1,)"), "\x3f\xc0\0\0", 4, 1.5f},
        {DICT("<f8", "False", "(1,)"), "\0\0\0\0\0\0\xf8\x3f", 8, 1.5f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_decref(imported("x.npy", npy(cases[i].dict, cases[i].bytes, cases[i].len, 1), ""));
        rows_are("d", 1, 1, &cases[i].value, NULL);
    }
}

static void broken_npy_files_are_refused(void **state)
{
    (void)state;
    const char *form = ",\"format\":\"npy\"";
    refused("a.npy", S("\x93NUM"), form, MQ_E_FORMAT, "a.npy: byte 0: no NPY header");
    refused("a.npy", npy(DICT("<f4", "False", "(1,)"), "1234", 4, 4), "", MQ_E_VERSION,
            "NPY version 4.0");
    refused("a.npy", S("\x93NUMPY\1\0\377\0{}"), "", MQ_E_FORMAT, "header of 255 bytes is cut");
    refused("a.npy", npy(DICT("<f4", "False", "(2, 3)"), "1234", 4, 1), "", MQ_E_FORMAT,
            "float32 of [2,3] needs 24 bytes");
    refused("a.npy", npy(DICT("<f4", "False", "(1,)"), "123456", 6, 1), "", MQ_E_FORMAT,
            "there are 6");
    refused("a.npy", npy(DICT("<c8", "False", "(1,)"), "12345678", 8, 1), "", MQ_E_UNSUPPORTED,
            "NPY type \"c8', 'fo\" is not supported");
    refused("a.npy", npy(DICT("O", "False", "(1,)"), "", 0, 1), "", MQ_E_FORMAT,
            "expected '<', '>' or '|'");
    refused("a.npy",
            npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "", 0, 1), "",
            MQ_E_FORMAT, "records and objects are not supported");
    refused("a.npy", npy(DICT("<f4", "Maybe", "(1,)"), "1234", 4, 1), "", MQ_E_FORMAT,
            "expected True or False");
    refused("a.npy", npy(DICT("<f4", "False", "1"), "1234", 4, 1), "", MQ_E_FORMAT,
            "expected '(' of a shape");
    refused("a.npy", npy(DICT("<f4", "False", "(1, -1)"), "", 0, 1), "", MQ_E_FORMAT,
            "expected a dimension");
    refused("a.npy", npy(DICT("<f4", "False", "(1,1,1,1,1,1,1,1,1)"), "1234", 4, 1), "",
            MQ_E_FORMAT, "at most 8 dimensions");
    refused("a.npy", npy("{'descr': '<f4'}", "", 0, 1), "", MQ_E_FORMAT,
            "expected descr, fortran_order and shape");
    refused("a.npy", npy("{'x': 1}", "", 0, 1), "", MQ_E_FORMAT, "expected 'descr'");
    refused("a.npy", npy(DICT("<f4", "False", "()"), "1234", 4, 1), "", MQ_E_FORMAT,
            "a single number; expected rows");
    refused("a.npy", npy(DICT("<f4", "False", "(1,)"), "\0\0\xc0\x7f", 4, 1), "", MQ_E_FORMAT,
            "row 0, element 0: nan is not a finite");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idx_file_keeps_its_bytes_and_shape),
        cmocka_unit_test(an_idx_file_of_other_numbers_becomes_float32),
        cmocka_unit_test(broken_idx_files_are_refused_with_what_was_expected),
        cmocka_unit_test(labels_of_a_second_file_go_with_the_rows),
        cmocka_unit_test(labels_of_a_floating_type_are_values),
        cmocka_unit_test(labels_that_do_not_fit_are_refused),
        cmocka_unit_test(several_files_are_read_one_after_the_other),
        cmocka_unit_test(compressed_files_are_read_and_damaged_ones_refused),
        cmocka_unit_test(a_file_that_explodes_is_stopped),
        cmocka_unit_test(npy_files_of_each_version_and_order_are_read),
        cmocka_unit_test(npy_numbers_of_each_type_are_converted),
        cmocka_unit_test(broken_npy_files_are_refused),
    };
    return cmocka_run_group_tests(tests, local_setup, local_teardown);
}
