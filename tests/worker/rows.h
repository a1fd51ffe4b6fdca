/* For tests of importing: one file through the job kind, and the rows that came of it. */
#ifndef MQ_TESTS_WORKER_ROWS_H
#define MQ_TESTS_WORKER_ROWS_H

#include <math.h>

#include "tests/worker/local.h"
#include "worker/data/dataset.h"

#define S(literal) mq_span_of("" literal, sizeof(literal) - 1)

/* A body for one file, with further fields such as ",\"format\":\"csv\"". */
static inline const char *body_of(const char *name, mq_span bytes, const char *more)
{
    static char text[4096];
    snprintf(text, sizeof text, "{\"name\":\"d\",\"files\":[{\"name\":\"%s\",\"blob\":\"%s\"}]%s}",
             name, put(bytes), more);
    return text;
}

static inline void refused(const char *name, mq_span bytes, const char *more, mq_code code,
                           const char *words)
{
    mq_local_job job = {.kind = "dataset.import", .body = mq_str(body_of(name, bytes, more))};
    run_refused(&job, code, words);
}

/* Imports and checks the meta; the caller decrefs. */
static inline json_t *imported(const char *name, mq_span bytes, const char *more)
{
    json_t *result = run_body("dataset.import", body_of(name, bytes, more));
    json_t *meta = json_incref(json_object_get(result, "meta"));
    assert_non_null(meta);
    json_decref(result);
    return meta;
}

/* Reading back needs a host as a job sees it: a kind of its own is not in the table, so the dataset
 * is opened over a host with two functions. */
static inline mq_code open_blob(mq_host *host, const char *hash, mq_map_file *out, mq_error *err)
{
    (void)host;
    return mq_local_host_blob(local, hash, out, err);
}

static inline mq_code ask(mq_host *host, const char *what, const char *name, mq_buf *json,
                          mq_error *err)
{
    (void)host;
    return mq_local_host_query(local, what, name, json, err);
}

static const mq_host_ops reader_ops = {.blob_open = open_blob, .query = ask};
static mq_host reader = {.ops = &reader_ops};

static inline mq_dataset *open_newest(const char *name)
{
    mq_dataset *d;
    mq_error err = {0};
    if (mq_dataset_open(&d, &reader, name, &err) != MQ_OK) {
        fail_msg("%s: %s", name, err.text);
    }
    return d;
}

static inline void rows_are(const char *name, uint64_t rows, size_t count, const float *x,
                            const float *labels)
{
    mq_dataset *d = open_newest(name);
    assert_int_equal(mq_dataset_facts_of(d)->rows, rows);
    assert_int_equal(mq_dataset_facts_of(d)->x_count, count);
    for (uint64_t r = 0; r < rows; r++) {
        float got[16], value = 0;
        assert_true(count <= 16);
        assert_int_equal(mq_dataset_row(d, r, got, NULL, labels == NULL ? NULL : &value, NULL),
                         MQ_OK);
        for (size_t i = 0; i < count; i++) {
            assert_true(fabsf(got[i] - x[r * count + i]) < 1e-6f);
        }
        assert_true(labels == NULL || fabsf(value - labels[r]) < 1e-6f);
    }
    mq_dataset_free(d);
}

/* Further field: a labels file. */
static inline const char *with_labels(mq_span labels)
{
    static char more[256];
    snprintf(more, sizeof more, ",\"labels\":{\"name\":\"y.idx\",\"blob\":\"%s\"}", put(labels));
    return more;
}

#define TWO_FILES                                                                                  \
    "{\"name\":\"d\",\"files\":[{\"name\":\"a\",\"blob\":\"%s\"},{\"name\":\"b\",\"blob\":\"%s\"}" \
    "]}"

#endif
