/* Augmentation: a function of (seed, row, epoch), the same for any gang; off, a row stays as it is.
 */
#include "tests/worker/train_fixture.h"

#include "worker/train/augment.h"

enum { HEIGHT = 6, WIDTH = 5, COUNT = HEIGHT * WIDTH, ROWS = 400 };

static const mq_shape image = {2, {HEIGHT, WIDTH}};

static void fill(float *x)
{
    for (uint32_t i = 0; i < COUNT; i++) {
        x[i] = (float)i + 1;
    }
}

static void changed(const mq_augment *a, uint64_t row, uint32_t epoch, float *x)
{
    float own[COUNT];
    fill(x);
    mq_augment_row(a, &image, 7, row, epoch, x, own);
}

static void each_change_is_what_its_name_says(void **state)
{
    (void)state;
    float x[COUNT], plain[COUNT];
    fill(plain);
    uint32_t flipped = 0, moved = 0;
    for (uint64_t row = 0; row < ROWS; row++) {
        changed(&(mq_augment){.flip = true}, row, 3, x);
        bool is_flipped = x[0] == (float)WIDTH;
        for (uint32_t i = 0; i < COUNT; i++) {
            uint32_t k = is_flipped ? WIDTH - 1 - i % WIDTH : i % WIDTH;
            assert_true(x[i] == plain[i - i % WIDTH + k]);
        }
        flipped += is_flipped;
        changed(&(mq_augment){.shift = 1}, row, 3, x);
        /* the pixel in the middle shows by how much; all others have moved by as much */
        int32_t at = (int32_t)x[2 * WIDTH + 2] - 1, down = 2 - at / WIDTH, right = 2 - at % WIDTH;
        assert_true(down >= -1 && down <= 1 && right >= -1 && right <= 1);
        for (int32_t i = 0; i < COUNT; i++) {
            int32_t y = i / WIDTH - down, z = i % WIDTH - right;
            bool is_in = y >= 0 && y < HEIGHT && z >= 0 && z < WIDTH;
            assert_true(x[i] == (is_in ? plain[y * WIDTH + z] : 0.0F));
        }
        moved += down != 0 || right != 0;
        changed(&(mq_augment){.crop = 2}, row, 3, x);
        for (uint32_t i = 1; i < WIDTH; i++) { /* nothing is lost but at the borders, order stays */
            assert_true(x[i] == x[i - 1] || x[i] == x[i - 1] + 1);
        }
    }
    assert_true(flipped > ROWS * 2 / 5 && flipped < ROWS * 3 / 5);
    assert_true(moved > ROWS * 4 / 5 && moved < ROWS);
}

static void a_change_follows_from_seed_row_and_epoch_alone(void **state)
{
    (void)state;
    static const mq_augment all = {.crop = 2, .shift = 2, .flip = true};
    float a[COUNT], b[COUNT], own[COUNT];
    uint32_t by_row = 0, by_epoch = 0, by_seed = 0;
    for (uint64_t row = 0; row < ROWS; row++) {
        changed(&all, row, 1, a);
        changed(&all, row, 1, b);
        assert_memory_equal(a, b, sizeof a);
        changed(&all, row + 1, 1, b);
        by_row += memcmp(a, b, sizeof a) != 0;
        changed(&all, row, 2, b);
        by_epoch += memcmp(a, b, sizeof a) != 0;
        fill(b);
        mq_augment_row(&all, &image, 8, row, 1, b, own);
        by_seed += memcmp(a, b, sizeof a) != 0;
    }
    assert_true(by_row > ROWS / 2 && by_epoch > ROWS / 2 && by_seed > ROWS / 2);
}

static void channels_change_alike(void **state)
{
    (void)state;
    static const mq_augment all = {.crop = 2, .shift = 2, .flip = true};
    const mq_shape two = {3, {2, HEIGHT, WIDTH}};
    float x[2 * COUNT], own[2 * COUNT], one[COUNT];
    for (uint64_t row = 0; row < 20; row++) {
        fill(x);
        fill(x + COUNT);
        mq_augment_row(&all, &two, 7, row, 1, x, own);
        changed(&all, row, 1, one);
        assert_memory_equal(x, one, sizeof one);
        assert_memory_equal(x + COUNT, one, sizeof one);
    }
}

static mq_forked_outcome outcome;

/* Rows of the fixture's dataset "d", published as images of 4 x 5. */
static void put_images(fixture *f)
{
    static uint8_t x[FX_ROWS * FX_FEATURES], y[FX_ROWS];
    char hash[MQ_SHA256_HEX], meta[512];
    mq_buf bytes;
    fx_rows(FX_ROWS, x, y);
    mq_st_entry entries[2] = {
        {mq_str("x"), {MQ_DT_U8, {3, {FX_ROWS, 4, 5}}, x, sizeof x}},
        {mq_str("y"), {MQ_DT_U8, {1, {FX_ROWS}}, y, sizeof y}},
    };
    mq_buf_init(&bytes, 1 << 20);
    assert_int_equal(mq_safetensors_write(entries, 2, mq_str(""), &bytes, NULL), MQ_OK);
    assert_int_equal(mq_forked_gang_put(f->gang, mq_buf_span(&bytes), hash, NULL), MQ_OK);
    mq_buf_release(&bytes);
    (void)snprintf(meta, sizeof meta,
                   "{\"name\":\"i\",\"version\":1,\"meta\":{\"rows\":%d,\"features\":{\"x\":{"
                   "\"dtype\":\"uint8\",\"shape\":[4,5]},\"y\":{\"dtype\":\"uint8\",\"classes\":%d}"
                   "},\"shards\":[{\"blob\":\"%s\",\"rows\":%d}]}}",
                   FX_ROWS, FX_CLASSES, hash, FX_ROWS);
    mq_forked_gang_answer(f->gang, "dataset", "i", meta);
    mq_forked_gang_answer(f->gang, "dataset", "i@1", meta);
}

static mq_code run(fixture *f, const char *fields, uint32_t members, char weights[MQ_SHA256_HEX])
{
    mq_error err = {MQ_OK, ""};
    char body[512];
    (void)snprintf(body, sizeof body,
                   "{\"model\":\"m\",\"batch\":64,\"epochs\":3,\"run\":{\"reuse\":false},%s}",
                   fields);
    mq_forked_job job = {.run = mq_kind_run_train,
                         .body = mq_str(body),
                         .model_blob = f->model_blob,
                         .memory_bytes_max = (size_t)512 << 20};
    assert_int_equal(mq_forked_gang_start(f->gang, &job, members, &err), MQ_OK);
    assert_int_equal(mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err), MQ_OK);
    if (outcome.code == MQ_OK) {
        fx_field(outcome.result, "weights_hash", weights, MQ_SHA256_HEX);
    }
    return outcome.code;
}

static void a_run_has_one_hash_for_any_gang_and_another_than_without(void **state)
{
    static const char fields[] = "\"data\":\"i\",\"crop\":1,\"shift\":1,\"flip\":true";
    static const char *const modes[] = {"gang", "gang", "pipeline:3"};
    char want[MQ_SHA256_HEX] = "", got[MQ_SHA256_HEX], all[256];
    put_images(*state);
    for (uint32_t i = 0; i < 3; i++) {
        (void)snprintf(all, sizeof all, "%s,\"mode\":\"%s\"", fields, modes[i]);
        assert_int_equal(run(*state, all, i + 1, got), MQ_OK);
        if (i == 0) {
            memcpy(want, got, sizeof want);
        }
        assert_string_equal(want, got);
    }
    assert_int_equal(run(*state, "\"data\":\"i\"", 1, got), MQ_OK);
    assert_string_not_equal(want, got);
}

static void what_is_no_image_is_refused(void **state)
{
    char none[MQ_SHA256_HEX];
    put_images(*state);
    assert_int_equal(run(*state, "\"data\":\"d\",\"flip\":true", 1, none), MQ_E_ARG);
    assert_non_null(strstr(outcome.error, "[height,width]"));
    assert_int_equal(run(*state, "\"data\":\"i\",\"shift\":4", 1, none), MQ_E_ARG);
    assert_non_null(strstr(outcome.error, "4 is too much"));
    assert_int_equal(run(*state, "\"data\":\"i\",\"crop\":33", 1, none), MQ_E_ARG);
    assert_non_null(strstr(outcome.error, "crop"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_change_is_what_its_name_says),
        cmocka_unit_test(a_change_follows_from_seed_row_and_epoch_alone),
        cmocka_unit_test(channels_change_alike),
        cmocka_unit_test(a_run_has_one_hash_for_any_gang_and_another_than_without),
        cmocka_unit_test(what_is_no_image_is_refused),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}
