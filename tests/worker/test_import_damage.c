/* Damaged files: every prefix and many changed bytes of good files of each format either import or
 * are refused with a sentence; with ASan and UBSan this shows that no parser reads outside or
 * computes nonsense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "shared/base/prng.h"
#include "worker/data/import.h"

#define S(literal) mq_span_of("" literal, sizeof(literal) - 1)

static mq_code put_nothing(mq_host *host, mq_span bytes, char hash[MQ_SHA256_HEX], mq_error *err)
{
    (void)host, (void)err;
    mq_sha256_hex_of(bytes, hash);
    return MQ_OK;
}

static mq_code go_on(mq_host *host, mq_error *err)
{
    (void)host, (void)err;
    return MQ_OK;
}

static void tell_nobody(mq_host *host, mq_span json)
{
    (void)host, (void)json;
}

static const mq_host_ops ops = {.blob_put = put_nothing, .check = go_on, .progress = tell_nobody};

/* Imports a copy of exactly these bytes; what comes of it does not matter but for the message. */
static void try_import(const char *format_name, mq_span bytes, const char *label_column)
{
    mq_host host = {.ops = &ops};
    uint8_t *copy = malloc(bytes.len + 1);
    assert_non_null(copy);
    memcpy(copy, bytes.data, bytes.len);
    mq_import_file file = {.name = "f", .bytes = mq_span_of(copy, bytes.len)};
    mq_import im = {.host = &host, .files = &file, .file_count = 1, .label_column = label_column};
    const mq_format *format;
    mq_error err = {0};
    mq_code code = mq_import_unpack(&file, &err);
    if (code == MQ_OK) {
        code = mq_format_find(format_name, &file, &format, &err);
    }
    if (code == MQ_OK) {
        code = mq_import_run(&im, format, &err);
        mq_import_release(&im);
    }
    assert_true(code == MQ_OK || err.text[0] != '\0');
    mq_import_file_release(&file);
    free(copy);
}

static void damage(const char *format, mq_span good, const char *label_column)
{
    mq_prng prng = {7};
    for (size_t cut = 0; cut <= good.len; cut++) {
        try_import(format, mq_span_of(good.data, cut), label_column);
    }
    uint8_t *bytes = malloc(good.len);
    assert_non_null(bytes);
    for (int i = 0; i < 3000; i++) {
        memcpy(bytes, good.data, good.len);
        for (uint64_t n = 1 + mq_prng_below(&prng, 3); n > 0; n--) {
            uint64_t r = mq_prng_next(&prng);
            static const char tricky[] = "\0\377\x7f\x80,\"\n\r'([0.-eE";
            bytes[r % good.len] = (r >> 32 & 1) != 0
                                      ? (uint8_t)(r >> 40)
                                      : (uint8_t)tricky[(r >> 40) % (sizeof tricky - 1)];
        }
        try_import(format, mq_span_of(bytes, good.len), label_column);
    }
    free(bytes);
}

static void damaged_idx_files_do_no_harm(void **state)
{
    (void)state;
    damage("idx", S("\0\0\x08\3\0\0\0\2\0\0\0\2\0\0\0\2\1\2\3\4\5\6\7\10"), NULL);
    damage("auto", S("\0\0\x0e\1\0\0\0\1\x3f\xf8\0\0\0\0\0\0"), NULL);
}

static void damaged_npy_files_do_no_harm(void **state)
{
    (void)state;
    damage("npy",
           S("\x93NUMPY\1\0\x3e\0{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2, 1), } \n"
             "\0\0\x80?\0\0\0@\0\0\0@\0\0\x80?"),
           NULL);
}

static void damaged_csv_files_do_no_harm(void **state)
{
    (void)state;
    damage("csv", S("a,\"b \"\"x\"\"\",y\r\n1,\"p,q\",0\n2.5e3,\"r\n\",1\nNA,,1\n"), "y");
    damage("auto", S("1,2,3\n4,5,6\n"), "-1");
}

static void damaged_gzip_files_do_no_harm(void **state)
{
    (void)state;
    damage("csv",
           S("\x1f\x8b\x08\0\0\0\0\0\x02\x03\x4b\xd4\x49\xe2\x32\xd4\x31\xe2\x32\xd6\x31\xe1\x02\0"
             "\x9a\x31\x0d\x0f\x0c\0\0\0"),
           NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_idx_files_do_no_harm),
        cmocka_unit_test(damaged_npy_files_do_no_harm),
        cmocka_unit_test(damaged_csv_files_do_no_harm),
        cmocka_unit_test(damaged_gzip_files_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
