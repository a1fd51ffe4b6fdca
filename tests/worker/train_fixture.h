/* A small world to train in: a directory of blobs, a synthetic dataset, a small MLP, a forked gang.
 * Included by the tests of worker/train; everything is static and may be left unused. */
#ifndef MQ_TESTS_WORKER_TRAIN_FIXTURE_H
#define MQ_TESTS_WORKER_TRAIN_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/prng.h"
#include "shared/tensor/safetensors.h"
#include "worker/kinds/kind.h"
#include "worker/models/arch.h"
#include "worker/train/forked_gang.h"

enum { FX_FEATURES = 20, FX_CLASSES = 4, FX_ROWS = 640, FX_TIMEOUT_MS = 60000 };

#define FX_MAY __attribute__((unused))

mq_kind_run mq_kind_run_train;

typedef struct fixture {
    char dir[64];
    mq_forked_gang *gang;
    char model_blob[MQ_SHA256_HEX];
} fixture;

/* Rows whose class is the largest of four sums of features: something an MLP can learn. */
FX_MAY static void fx_rows(uint32_t rows, uint8_t *x, uint8_t *y)
{
    mq_prng prng = {rows};
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t sums[FX_CLASSES] = {0}, best = 0;
        for (uint32_t i = 0; i < FX_FEATURES; i++) {
            x[r * FX_FEATURES + i] = (uint8_t)mq_prng_next(&prng);
            sums[i % FX_CLASSES] += x[r * FX_FEATURES + i];
        }
        for (uint32_t c = 1; c < FX_CLASSES; c++) {
            best = sums[c] > sums[best] ? c : best;
        }
        y[r] = (uint8_t)best;
    }
}

/* Publishes such rows in two shards; bad_row (or -1) gets a label that is no class. */
FX_MAY static void fx_dataset(fixture *f, const char *name, uint32_t rows, int bad_row)
{
    uint8_t *x = malloc((size_t)rows * FX_FEATURES), *y = malloc(rows);
    assert_non_null(x);
    assert_non_null(y);
    char shards[512] = "", meta[1024], question[64];
    fx_rows(rows, x, y);
    if (bad_row >= 0) {
        y[bad_row] = 77;
    }
    for (uint32_t part = 0; part < 2; part++) {
        uint32_t first = part * (rows / 2), count = part == 0 ? rows / 2 : rows - rows / 2;
        mq_st_entry entries[2] = {
            {mq_str("x"),
             {MQ_DT_U8,
              {2, {count, FX_FEATURES}},
              x + first * FX_FEATURES,
              (size_t)count * FX_FEATURES}},
            {mq_str("y"), {MQ_DT_U8, {1, {count}}, y + first, count}},
        };
        mq_buf bytes;
        char hash[MQ_SHA256_HEX];
        mq_buf_init(&bytes, 1 << 24);
        assert_int_equal(mq_safetensors_write(entries, 2, mq_str(""), &bytes, NULL), MQ_OK);
        assert_int_equal(mq_forked_gang_put(f->gang, mq_buf_span(&bytes), hash, NULL), MQ_OK);
        mq_buf_release(&bytes);
        size_t at = strlen(shards);
        (void)snprintf(shards + at, sizeof shards - at, "%s{\"blob\":\"%s\",\"rows\":%u}",
                       part > 0 ? "," : "", hash, count);
    }
    (void)snprintf(meta, sizeof meta,
                   "{\"name\":\"%s\",\"version\":1,\"meta\":{\"rows\":%u,\"features\":{\"x\":{"
                   "\"dtype\":\"uint8\",\"shape\":[%d]},\"y\":{\"dtype\":\"uint8\",\"classes\":%d}"
                   "},\"shards\":[%s]}}",
                   name, rows, FX_FEATURES, FX_CLASSES, shards);
    (void)snprintf(question, sizeof question, "%s@1", name);
    mq_forked_gang_answer(f->gang, "dataset", name, meta);
    mq_forked_gang_answer(f->gang, "dataset", question, meta);
    free(x);
    free(y);
}

FX_MAY static void fx_model(fixture *f, const char *arch, char hash[MQ_SHA256_HEX])
{
    mq_model *model;
    mq_buf bytes;
    mq_buf_init(&bytes, 1 << 24);
    assert_int_equal(mq_arch_build(&model, arch, 3, NULL), MQ_OK);
    assert_int_equal(mq_model_save(model, &bytes, NULL), MQ_OK);
    assert_int_equal(mq_forked_gang_put(f->gang, mq_buf_span(&bytes), hash, NULL), MQ_OK);
    mq_buf_release(&bytes);
    mq_model_free(model);
}

FX_MAY static int fx_setup(void **state)
{
    static fixture f;
    const char *tmp = getenv("TMPDIR");
    mq_error err = {MQ_OK, ""};
    (void)snprintf(f.dir, sizeof f.dir, "%.40s/mq-train-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(f.dir) == NULL || mq_forked_gang_new(&f.gang, f.dir, &err) != MQ_OK) {
        return 1;
    }
    fx_dataset(&f, "d", FX_ROWS, -1);
    fx_model(&f, "mlp:20-24-16-4", f.model_blob);
    *state = &f;
    return 0;
}

static int fx_remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

/* rm -r */
static int fx_remove(const char *dir)
{
    return nftw(dir, fx_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

FX_MAY static int fx_teardown(void **state)
{
    fixture *f = *state;
    mq_forked_gang_free(f->gang);
    return fx_remove(f->dir);
}

/* Text of a JSON field in flat JSON, for comparing hashes. */
FX_MAY static void fx_field(const char *json, const char *field, char *out, size_t size)
{
    char key[64];
    (void)snprintf(key, sizeof key, "\"%s\":\"", field);
    const char *at = strstr(json, key);
    if (at == NULL) {
        fail_msg("no field %s in %.200s", field, json);
        return;
    }
    at += strlen(key);
    (void)mq_span_copy(mq_span_of(at, strcspn(at, "\"")), out, size);
}

#endif
