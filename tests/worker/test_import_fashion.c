/* The real Fashion-MNIST of the Debian package dataset-fashion-mnist, imported whole: counts, sums
 * and hashes are facts of the published files. Skipped where the package is not installed. */
#include "tests/worker/rows.h"

#define FOLDER "/usr/share/datasets/fashion-mnist/"

static json_t *import_pair(const char *name, const char *prefix)
{
    char path[2][256], body[1024], hash[2][MQ_SHA256_HEX];
    snprintf(path[0], sizeof path[0], FOLDER "%s-images-idx3-ubyte.gz", prefix);
    snprintf(path[1], sizeof path[1], FOLDER "%s-labels-idx1-ubyte.gz", prefix);
    for (int i = 0; i < 2; i++) {
        mq_map_file file;
        if (mq_map_file_open(&file, path[i], (size_t)64 << 20, NULL) != MQ_OK) {
            skip();
        }
        assert_int_equal(mq_local_host_put(local, file.bytes, hash[i], NULL), MQ_OK);
        mq_map_file_release(&file);
    }
    snprintf(body, sizeof body,
             "{\"name\":\"%s\",\"files\":[{\"name\":\"images.gz\",\"blob\":\"%s\"}],"
             "\"labels\":{\"name\":\"labels.gz\",\"blob\":\"%s\"}}",
             name, hash[0], hash[1]);
    return run_body("dataset.import", body);
}

/* SHA-256 over the pixels (as bytes) and over the labels of all rows. */
static void hash_rows(const char *name, char x_hash[MQ_SHA256_HEX], char y_hash[MQ_SHA256_HEX])
{
    mq_dataset *d = open_newest(name);
    mq_sha256 *hx = mq_sha256_new(), *hy = mq_sha256_new();
    uint64_t rows = mq_dataset_facts_of(d)->rows;
    for (uint64_t r = 0; r < rows; r++) {
        float x[784];
        uint8_t pixels[784], label;
        int32_t y;
        assert_int_equal(mq_dataset_row(d, r, x, &y, NULL, NULL), MQ_OK);
        for (int i = 0; i < 784; i++) {
            pixels[i] = (uint8_t)lrintf(x[i] * 255.0f);
        }
        label = (uint8_t)y;
        mq_sha256_add(hx, mq_span_of(pixels, sizeof pixels));
        mq_sha256_add(hy, mq_span_of(&label, 1));
    }
    uint8_t digest[MQ_SHA256_BYTES];
    mq_sha256_end(hx, digest);
    mq_sha256_hex(digest, x_hash);
    mq_sha256_end(hy, digest);
    mq_sha256_hex(digest, y_hash);
    mq_dataset_free(d);
}

static void the_training_images_arrive_bit_for_bit(void **state)
{
    (void)state;
    char x[MQ_SHA256_HEX], y[MQ_SHA256_HEX];
    json_t *result = import_pair("fashion", "train");
    assert_int_equal(number_at(result, "meta.rows"), 60000);
    assert_string_equal(json_string_value(at_path(result, "meta.format")), "idx");
    assert_int_equal(number_at(result, "meta.features.x.shape.0"), 28);
    assert_int_equal(number_at(result, "meta.features.y.classes"), 10);
    assert_true(fabs(number_at(result, "meta.stats.mean") - 72.94035223214286) < 1e-5);
    size_t shards = json_array_size(at_path(result, "meta.shards"));
    assert_true(shards >= 6 && shards <= 12);
    for (size_t i = 0; i < 10; i++) {
        char path[64];
        snprintf(path, sizeof path, "meta.stats.class_counts.%zu", i);
        assert_int_equal(number_at(result, path), 6000);
    }
    double rows = 0;
    for (size_t i = 0; i < shards; i++) {
        char path[64];
        snprintf(path, sizeof path, "meta.shards.%zu.rows", i);
        rows += number_at(result, path);
        snprintf(path, sizeof path, "meta.shards.%zu.bytes", i);
        assert_true(number_at(result, path) <= 8 << 20);
    }
    assert_int_equal(rows, 60000);
    json_decref(result);
    hash_rows("fashion", x, y);
    assert_string_equal(x, "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012");
    assert_string_equal(y, "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7");
}

static void the_test_images_arrive_bit_for_bit_and_twice_the_same(void **state)
{
    (void)state;
    char x[MQ_SHA256_HEX], y[MQ_SHA256_HEX];
    json_t *one = import_pair("fashion-test", "t10k"), *two = import_pair("fashion-test", "t10k");
    assert_int_equal(number_at(one, "meta.rows"), 10000);
    assert_true(json_equal(one, two));
    json_decref(one);
    json_decref(two);
    hash_rows("fashion-test@2", x, y);
    assert_string_equal(x, "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a");
    assert_string_equal(y, "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_training_images_arrive_bit_for_bit),
        cmocka_unit_test(the_test_images_arrive_bit_for_bit_and_twice_the_same),
    };
    return cmocka_run_group_tests(tests, local_setup, local_teardown);
}
