/* Training against its bare matrix products; see bench.h. It runs the train kind itself in forked
 * processes, so what it shows is what a job gets, without broker and network. */
#include "worker/train/bench.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "shared/base/clock.h"
#include "shared/tensor/safetensors.h"
#include "worker/blas/blas.h"
#include "worker/kinds/kind.h"
#include "worker/models/arch.h"
#include "worker/train/forked_gang.h"
#include "worker/train/net.h"
#include "worker/train/philox.h"

enum {
    ROUNDS_MAX = 99,
    ROWS = 60000,
    FEATURES = 784,
    CLASSES = 10,
    BATCH = 256,
    SHARDS = 8,
    GEMM_MS = 250, /* of bare products a round */
    RUN_MS_MAX = 300000,
    IDX_IMAGES_HEAD = 16,
    IDX_LABELS_HEAD = 8,
};

static const char images_path[] = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz";
static const char labels_path[] = "/usr/share/datasets/fashion-mnist/train-labels-idx1-ubyte.gz";
static const char arch[] = "mlp:784-256-128-10";

mq_kind_run mq_kind_run_train;

typedef struct bench {
    bool is_json;
    long rounds, steps;
    char dir[64];
    mq_forked_gang *gang;
    mq_model *model;
    mq_net *net;
    float *flat;
    const char *data;
    char hash[MQ_SHA256_HEX]; /* weights of the first run */
    double gemm[ROUNDS_MAX], rate[2][ROUNDS_MAX];
} bench;

/* --- data --- */

static bool read_gz(const char *path, size_t skip, uint8_t *out, size_t len)
{
    gzFile file = gzopen(path, "rb");
    if (file == NULL) {
        return false;
    }
    bool is_ok =
        gzseek(file, (z_off_t)skip, SEEK_SET) >= 0 && gzread(file, out, (unsigned)len) == (int)len;
    gzclose(file);
    return is_ok;
}

static void make_up(uint8_t *x, uint8_t *y)
{
    for (uint32_t r = 0; r < ROWS; r++) {
        y[r] = (uint8_t)(r % CLASSES);
        for (uint32_t i = 0; i < FEATURES; i += 4) {
            uint32_t counter[4] = {i, r, 0, MQ_PURPOSE_AUGMENT};
            mq_philox_block b = mq_philox(1, counter);
            for (uint32_t j = 0; j < 4; j++) {
                x[r * FEATURES + i + j] = (uint8_t)(b.word[j] & (i % CLASSES == y[r] ? 255 : 63));
            }
        }
    }
}

static mq_code store_data(bench *b, uint8_t *x, uint8_t *y, mq_error *err)
{
    char hash[MQ_SHA256_HEX], meta[512];
    mq_buf bytes;
    mq_st_entry entries[2] = {
        {mq_str("x"), {MQ_DT_U8, {3, {ROWS, 28, 28}}, x, (size_t)ROWS * FEATURES}},
        {mq_str("y"), {MQ_DT_U8, {1, {ROWS}}, y, ROWS}},
    };
    mq_buf_init(&bytes, (size_t)64 << 20);
    mq_code code = mq_safetensors_write(entries, 2, mq_str(""), &bytes, err);
    code = code != MQ_OK ? code : mq_forked_gang_put(b->gang, mq_buf_span(&bytes), hash, err);
    mq_buf_release(&bytes);
    if (code == MQ_OK) {
        (void)snprintf(meta, sizeof meta,
                       "{\"name\":\"bench\",\"version\":1,\"meta\":{\"rows\":%d,\"features\":{"
                       "\"x\":{\"dtype\":\"uint8\",\"shape\":[28,28]},\"y\":{\"dtype\":\"uint8\","
                       "\"classes\":%d}},\"shards\":[{\"blob\":\"%s\",\"rows\":%d}]}}",
                       ROWS, CLASSES, hash, ROWS);
        mq_forked_gang_answer(b->gang, "dataset", "bench@1", meta);
    }
    return code;
}

static mq_code make_data(bench *b, mq_error *err)
{
    uint8_t *x = malloc((size_t)ROWS * FEATURES), *y = malloc(ROWS);
    mq_code code = MQ_OK;
    if (x == NULL || y == NULL) {
        code = mq_fail(err, MQ_E_LIMIT, "no memory for %d rows", ROWS);
    } else if (read_gz(images_path, IDX_IMAGES_HEAD, x, (size_t)ROWS * FEATURES) &&
               read_gz(labels_path, IDX_LABELS_HEAD, y, ROWS)) {
        b->data = "fashion-mnist";
    } else {
        make_up(x, y);
        b->data = "made-up";
    }
    code = code != MQ_OK ? code : store_data(b, x, y, err);
    free(x);
    free(y);
    return code;
}

/* --- measurements --- */

static mq_code make_net(bench *b, mq_error *err)
{
    mq_net_options options = {
        .rows = BATCH / SHARDS, .stage_count = 1, .memory_bytes_max = (size_t)256 << 20};
    mq_code code = mq_arch_build(&b->model, arch, 1, err);
    code = code != MQ_OK ? code : mq_net_new(&b->net, b->model, &options, err);
    if (code != MQ_OK) {
        return code;
    }
    b->flat = calloc(mq_net_param_total(b->net), sizeof *b->flat);
    if (b->flat == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the weights");
    }
    mq_net_params_get(b->net, b->flat);
    return MQ_OK;
}

/* Samples per second when a step were nothing but its matrix products. */
static double gemm_rate(bench *b)
{
    int64_t begin_ns = mq_clock_mono_ns(), past_ns;
    int64_t shards = 0;
    do {
        mq_net_gemm_only(b->net, b->flat);
        shards++;
        past_ns = mq_clock_mono_ns() - begin_ns;
    } while (past_ns < (int64_t)GEMM_MS * 1000000);
    int64_t shard_rows = BATCH / SHARDS, rows = shards * shard_rows;
    return (double)rows * 1e9 / (double)past_ns;
}

static bool field_of(const char *json, const char *key, char *out, size_t size)
{
    const char *at = strstr(json, key);
    if (at == NULL) {
        return false;
    }
    at += strlen(key);
    return mq_span_copy(mq_span_of(at, strcspn(at, "\",}")), out, size);
}

static mq_code train_rate(bench *b, uint32_t workers, double *rate, mq_error *err)
{
    static mq_forked_outcome out;
    char body[512], text[MQ_SHA256_HEX];
    /* One progress report, at the end: its rate is the mean over all steps. */
    int len = snprintf(body, sizeof body,
                       "{\"model\":\"bench\",\"data\":\"bench@1\",\"init\":{\"arch\":\"%s\"},"
                       "\"epochs\":1000,\"max_steps\":%ld,\"batch\":%d,\"shards\":%d,"
                       "\"run\":{\"progress_ms\":60000,\"reuse\":false}}",
                       arch, b->steps, BATCH, SHARDS);
    mq_forked_job job = {.run = mq_kind_run_train,
                         .body = mq_span_of(body, (size_t)len),
                         .memory_bytes_max = (size_t)1 << 30};
    mq_code code = mq_forked_gang_start(b->gang, &job, workers, err);
    code = code != MQ_OK ? code : mq_forked_gang_wait(b->gang, RUN_MS_MAX, &out, err);
    if (code != MQ_OK || out.code != MQ_OK) {
        return code != MQ_OK ? code : mq_fail(err, out.code, "%s", out.error);
    }
    if (!field_of(out.progress, "\"samples_per_s\":", text, sizeof text)) {
        return mq_fail(err, MQ_E_INTERNAL, "no rate in the progress: %.200s", out.progress);
    }
    *rate = strtod(text, NULL);
    if (!field_of(out.result, "\"weights_hash\":\"", text, sizeof text)) {
        return mq_fail(err, MQ_E_INTERNAL, "no weights hash in the result");
    }
    if (b->hash[0] != '\0' && strcmp(b->hash, text) != 0) {
        return mq_fail(err, MQ_E_NUMERIC, "%u workers gave the weights %.16s, others %.16s",
                       workers, text, b->hash);
    }
    memcpy(b->hash, text, sizeof b->hash);
    return MQ_OK;
}

/* --- report --- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, long count)
{
    qsort(values, (size_t)count, sizeof *values, compare);
    return values[count / 2];
}

static void line(const bench *b, const char *name, double value, const char *ceiling,
                 double ceiling_value)
{
    if (b->is_json) {
        printf("{\"bench\":\"train\",\"case\":\"%s\",\"value\":%.0f,\"unit\":\"samples/s\","
               "\"ceiling\":\"%s\",\"ceiling_value\":%.0f,\"ratio\":%.3f,\"data\":\"%s\","
               "\"rounds\":%ld,\"steps\":%ld,\"weights_hash\":\"%s\"}\n",
               name, value, ceiling, ceiling_value, value / ceiling_value, b->data, b->rounds,
               b->steps, b->hash);
    } else {
        printf("%-22s %9.0f samples/s   %.2f x %s (%.0f)\n", name, value, value / ceiling_value,
               ceiling, ceiling_value);
    }
}

static void print_all(bench *b)
{
    double gemm = median(b->gemm, b->rounds);
    double one = median(b->rate[0], b->rounds), two = median(b->rate[1], b->rounds);
    if (!b->is_json) {
        printf("%s, batch %d, %d shards, %s, %s; %ld steps, medians of %ld rounds\n", arch, BATCH,
               SHARDS, b->data, mq_blas_core(), b->steps, b->rounds);
    }
    line(b, "mlp-1-worker", one, "bare-gemms", gemm);
    line(b, "mlp-2-workers", two, "mlp-1-worker", one);
    if (!b->is_json) {
        printf("weights %s from 1 and from 2 workers\n", b->hash);
    }
}

static mq_code run_all(bench *b, mq_error *err)
{
    mq_code code = mq_forked_gang_new(&b->gang, b->dir, err);
    code = code != MQ_OK ? code : make_data(b, err);
    code = code != MQ_OK ? code : make_net(b, err);
    for (long i = 0; i < b->rounds && code == MQ_OK; i++) {
        b->gemm[i] = gemm_rate(b);
        code = train_rate(b, 1, &b->rate[0][i], err);
        code = code != MQ_OK ? code : train_rate(b, 2, &b->rate[1][i], err);
    }
    if (code == MQ_OK) {
        print_all(b);
    }
    return code;
}

static void remove_dir(const char *path)
{
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return;
    }
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        char name[400];
        (void)snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        (void)unlink(name);
    }
    closedir(dir);
    (void)rmdir(path);
}

static bool read_number(const char *text, long least, long most, long *out)
{
    char *end = NULL;
    *out = text == NULL ? 0 : strtol(text, &end, 10);
    return text != NULL && *text != '\0' && *end == '\0' && *out >= least && *out <= most;
}

static int usage(const char *what)
{
    (void)fprintf(stderr, "bench-train: %s; options: --json, --rounds 3..99, --steps 50..100000\n",
                  what);
    return 2;
}

int mq_bench_train(int argc, char **argv)
{
    bench *b = calloc(1, sizeof *b);
    mq_error err = {MQ_OK, ""};
    int status = b == NULL ? 1 : 0;
    for (int i = 0; i < argc && status == 0; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--json") == 0) {
            b->is_json = true;
        } else if (strcmp(argv[i], "--rounds") == 0 &&
                   read_number(value, 3, ROUNDS_MAX, &b->rounds)) {
            i++;
        } else if (strcmp(argv[i], "--steps") == 0 && read_number(value, 50, 100000, &b->steps)) {
            i++;
        } else {
            status = usage(argv[i]);
        }
    }
    if (status == 0) {
        const char *tmp = getenv("TMPDIR");
        b->rounds = b->rounds == 0 ? 7 : b->rounds;
        b->steps = b->steps == 0 ? 468 : b->steps;
        (void)snprintf(b->dir, sizeof b->dir, "%.40s/mq-bench-XXXXXX", tmp == NULL ? "/tmp" : tmp);
        mq_blas_init();
        if (mkdtemp(b->dir) == NULL || run_all(b, &err) != MQ_OK) {
            (void)fprintf(stderr, "bench-train: %s\n",
                          err.code == MQ_OK ? "no temporary directory" : err.text);
            status = 1;
        }
        mq_forked_gang_free(b->gang);
        mq_net_free(b->net);
        mq_model_free(b->model);
        free(b->flat);
        remove_dir(b->dir);
    }
    free(b);
    return status;
}
