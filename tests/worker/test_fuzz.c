/* The corpus of tests/fuzz, and a fixed number of mutations of each file: nothing crashes. With
 * MAASQ_SEED other mutations are tried. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/file.h"
#include "shared/base/map.h"
#include "shared/base/prng.h"
#include "tests/fuzz/onnx.h"

enum { MUTATIONS = 24, BYTES_MAX = 64 << 10 };

#define CORPUS "tests/fuzz/corpus/onnx"

typedef void on_file(const uint8_t *data, size_t len, uint64_t seed);

static int each_file(on_file *run)
{
    int count = 0;
    DIR *dir = opendir(CORPUS);
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        char path[512];
        mq_map_file map;
        mq_error err;
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof path, "%s/%.250s", CORPUS, entry->d_name);
        assert_int_equal(mq_map_file_open(&map, path, BYTES_MAX, &err), MQ_OK);
        run(map.bytes.data, map.bytes.len, mq_hash64(mq_str(entry->d_name), 1));
        mq_map_file_release(&map);
        count++;
    }
    closedir(dir);
    return count;
}

static void as_it_is(const uint8_t *data, size_t len, uint64_t seed)
{
    (void)seed;
    fuzz_onnx(data, len);
}

/* Some bytes flipped, set to an extreme, doubled or dropped. */
static void mutate(uint8_t *bytes, size_t *len, mq_prng *prng)
{
    static const uint8_t extremes[] = {0, 1, 0x7f, 0x80, 0xff, 8, 18};
    for (uint64_t n = 1 + mq_prng_below(prng, 3); n > 0 && *len > 1; n--) {
        size_t at = mq_prng_below(prng, *len);
        switch (mq_prng_below(prng, 4)) {
        case 0:
            bytes[at] ^= (uint8_t)(1 << mq_prng_below(prng, 8));
            break;
        case 1:
            bytes[at] = extremes[mq_prng_below(prng, sizeof extremes)];
            break;
        case 2: /* another place's bytes */
            bytes[at] = bytes[mq_prng_below(prng, *len)];
            break;
        default:
            memmove(bytes + at, bytes + at + 1, *len - at - 1);
            --*len;
            break;
        }
    }
}

static void mutated(const uint8_t *data, size_t len, uint64_t seed)
{
    const char *text = getenv("MAASQ_SEED");
    mq_prng prng = {seed + (text == NULL ? 0 : strtoull(text, NULL, 10))};
    uint8_t *bytes = malloc(len + 1);
    assert_non_null(bytes);
    for (int i = 0; i < MUTATIONS; i++) {
        size_t left = len;
        memcpy(bytes, data, len);
        mutate(bytes, &left, &prng);
        fuzz_onnx(bytes, left);
    }
    free(bytes);
}

static void every_file_of_the_corpus_ends_with_a_code(void **state)
{
    (void)state;
    assert_true(each_file(as_it_is) > 100);
}

static void mutations_of_the_corpus_end_with_a_code(void **state)
{
    (void)state;
    assert_true(each_file(mutated) > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_of_the_corpus_ends_with_a_code),
        cmocka_unit_test(mutations_of_the_corpus_end_with_a_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
