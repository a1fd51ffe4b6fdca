/* Training that cannot be disturbed, with real processes on real data: the same manifest gives the
 * same weight hash on one undisturbed worker, on 1, 2 and 3 workers of which random ones are killed
 * with SIGKILL at random steps (20 kills in all), and as a pipeline over two workers.
 *
 * Data: the first 6,000 rows of Fashion-MNIST (Debian package dataset-fashion-mnist).
 * MAASQ_SEED repeats a choice of victims; MAASQ_TRAIN_KILLS changes the number of kills. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/prng.h"
#include "tests/support/system.h"

enum { ROWS = 6000, KILLS = 20, OUT_MAX = 1 << 20, WORKERS = 3, HASH_SIZE = 65 };

#define FASHION "/usr/share/datasets/fashion-mnist/"

static sys system_;
static mq_prng prng;

/* The first ROWS items of an IDX file, with the count in its header set to match. */
static void cut_idx(const char *from, const char *to, size_t header_bytes, size_t item_bytes)
{
    gzFile in = gzopen(from, "rb");
    if (in == NULL) {
        fail_msg("%s is missing: run deploy/bootstrap.sh", from);
    }
    size_t bytes = header_bytes + ROWS * item_bytes;
    uint8_t *data = malloc(bytes);
    assert_non_null(data);
    assert_int_equal(gzread(in, data, (unsigned)bytes), (int)bytes);
    gzclose(in);
    for (int i = 0; i < 4; i++) {
        data[4 + i] = (uint8_t)((uint32_t)ROWS >> (24 - 8 * i));
    }
    mq_error err;
    assert_int_equal(mq_file_write(to, mq_span_of(data, bytes), 0600, &err), MQ_OK);
    free(data);
}

static void import(const char *name)
{
    char images[160], labels[160], out[4096], err[4096];
    snprintf(images, sizeof images, "%s/images", system_.dir);
    snprintf(labels, sizeof labels, "%s/labels", system_.dir);
    cut_idx(FASHION "train-images-idx3-ubyte.gz", images, 16, 784);
    cut_idx(FASHION "train-labels-idx1-ubyte.gz", labels, 8, 1);
    const char *const argv[] = {"maasq", "dataset",  "import", name,
                                images,  "--labels", labels,   NULL};
    if (sys_run(&system_, argv, out, sizeof out, err, sizeof err) != 0) {
        fail_msg("import: %s", err);
    }
}

typedef struct training {
    const char *workers; /* "1..3" */
    const char *mode;
    const char *epochs;
    atomic_bool is_over;
    int status;
    char *out;
    char err[4096];
} training;

static void *run_training(void *arg)
{
    training *t = arg;
    const char *const argv[] = {"maasq",      "train",    "m",        "--arch",     "mlp:784-64-10",
                                "--data",     "f",        "--epochs", t->epochs,    "--batch",
                                "256",        "--shards", "8",        "--lr",       "0.05",
                                "--momentum", "0.9",      "--seed",   "7",          "--workers",
                                t->workers,   "--mode",   t->mode,    "--no-reuse", "--follow",
                                "--json",     NULL};
    t->status = sys_run(&system_, argv, t->out, OUT_MAX, t->err, sizeof t->err);
    atomic_store(&t->is_over, true);
    return NULL;
}

/* A random worker that holds a seat of the running training; -1 when none does (yet). */
static int member(void)
{
    static char out[OUT_MAX], err[4096];
    const char *const argv[] = {"maasq", "worker", "list", "--json", NULL};
    if (sys_run(&system_, argv, out, sizeof out, err, sizeof err) != 0) {
        return -1;
    }
    json_t *json = json_loads(out, 0, NULL);
    json_t *workers = json_object_get(json, "workers");
    int found[WORKERS], count = 0;
    for (size_t i = 0; i < json_array_size(workers); i++) {
        json_t *worker = json_array_get(workers, i);
        const char *name = json_string_value(json_object_get(worker, "name"));
        json_int_t pid = json_integer_value(json_object_get(worker, "pid"));
        for (int w = 0; w < WORKERS && name != NULL; w++) {
            bool is_it =
                name[0] == 'w' && name[1] == '0' + w && pid == sys_pid(&system_, SYS_WORKER, w);
            if (is_it && json_array_size(json_object_get(worker, "jobs")) > 0) {
                found[count++] = w;
            }
        }
    }
    json_decref(json);
    return count == 0 ? -1 : found[mq_prng_below(&prng, (uint64_t)count)];
}

/* Trains while `kills` random members die at random moments; writes the weight hash. */
static int train(training *t, int kills, char hash[HASH_SIZE])
{
    pthread_t thread;
    t->out = calloc(1, OUT_MAX);
    assert_non_null(t->out);
    assert_int_equal(pthread_create(&thread, NULL, run_training, t), 0);
    int done = 0;
    while (!atomic_load(&t->is_over) && done < kills) {
        mq_clock_sleep_ms(200 + (int64_t)mq_prng_below(&prng, 700));
        if (atomic_load(&t->is_over)) {
            break;
        }
        int victim = member();
        if (victim < 0) {
            continue;
        }
        sys_kill(&system_, SYS_WORKER, victim, SIGKILL);
        sys_spawn(&system_, SYS_WORKER, victim);
        done++;
    }
    pthread_join(thread, NULL);
    if (t->status != 0) {
        fail_msg("training with %s workers (%s, %d kills): %s", t->workers, t->mode, done, t->err);
    }
    json_t *json = json_loads(t->out, 0, NULL);
    assert_non_null(json);
    const char *text = json_string_value(json_object_get(json, "weights_hash"));
    assert_non_null(text);
    snprintf(hash, HASH_SIZE, "%s", text);
    printf("workers %s, %s, killed %d: %s\n", t->workers, t->mode, done, hash);
    json_decref(json);
    free(t->out);
    return done;
}

static void killed_trainings_give_the_same_weights(void **state)
{
    (void)state;
    char expected[HASH_SIZE], hash[HASH_SIZE];
    training calm = {.workers = "1..1", .mode = "gang", .epochs = "150"};
    train(&calm, 0, expected);
    const char *wanted = getenv("MAASQ_TRAIN_KILLS");
    int kills_wanted = wanted == NULL ? KILLS : (int)strtol(wanted, NULL, 10);
    static const char *const fleets[] = {"1..1", "1..2", "1..3"};
    int kills = 0;
    for (int round = 0; kills < kills_wanted; round++) {
        assert_true(round < 30);
        training t = {.workers = fleets[round % 3], .mode = "gang", .epochs = "150"};
        int left = kills_wanted - kills;
        kills += train(&t, left < 7 ? left : 7, hash);
        assert_string_equal(hash, expected);
    }
    printf("%d kills, one hash\n", kills);
}

static void a_pipeline_over_two_workers_gives_the_same_weights(void **state)
{
    (void)state;
    char expected[HASH_SIZE], hash[HASH_SIZE];
    training one = {.workers = "1..1", .mode = "gang", .epochs = "4"};
    training two = {.workers = "2..2", .mode = "pipeline:2", .epochs = "4"};
    train(&one, 0, expected);
    train(&two, 0, hash);
    assert_string_equal(hash, expected);
}

/* Workers that do not share a host exchange over ZeroMQ instead of shared memory. */
static void workers_on_hosts_of_their_own_give_the_same_weights(void **state)
{
    (void)state;
    char expected[HASH_SIZE], hash[HASH_SIZE];
    training calm = {.workers = "1..1", .mode = "gang", .epochs = "30"};
    train(&calm, 0, expected);
    sys_stop(&system_, false);
    sys_options options = {
        .workers = WORKERS, .slots = 1, .lease_ms = 2000, .beat_ms = 400, .is_apart = true};
    sys_start(&system_, &options);
    import("f");
    training apart = {.workers = "3..3", .mode = "gang", .epochs = "30"};
    train(&apart, 0, hash);
    assert_string_equal(hash, expected);
    apart = (training){.workers = "2..3", .mode = "gang", .epochs = "30"};
    assert_true(train(&apart, 3, hash) > 0);
    assert_string_equal(hash, expected);
    apart = (training){.workers = "2..2", .mode = "pipeline:2", .epochs = "30"};
    train(&apart, 0, hash);
    assert_string_equal(hash, expected);
}

static int setup(void **state)
{
    (void)state;
    const char *seed = getenv("MAASQ_SEED");
    prng.state = seed == NULL ? (uint64_t)mq_clock_wall_ms() : strtoull(seed, NULL, 10);
    printf("seed %llu\n", (unsigned long long)prng.state);
    sys_options options = {.workers = WORKERS, .slots = 1, .lease_ms = 2000, .beat_ms = 400};
    sys_start(&system_, &options);
    import("f");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sys_stop(&system_, false);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_trainings_give_the_same_weights),
        cmocka_unit_test(a_pipeline_over_two_workers_gives_the_same_weights),
        cmocka_unit_test(workers_on_hosts_of_their_own_give_the_same_weights),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
