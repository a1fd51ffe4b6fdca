/* Packed weights in files: the same bits with and without them, one process packs and others find,
 * what is torn or wrong is made again, the folder's limit, folders that cannot be written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/file.h"
#include "tests/worker/mlp.h"
#include "worker/exec/session.h"
#include "worker/packs/packs.h"

enum { BYTES = 64 * 1024, LIMIT = 64 << 20 };

static const char model_a[] = "00000000000000000000000000000000000000000000000000000000000000aa";
static const char model_b[] = "11000000000000000000000000000000000000000000000000000000000000bb";

static char folder[256], packs_dir[300];

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(folder, sizeof folder, "%s/maasq-packs-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    (void)snprintf(packs_dir, sizeof packs_dir, "%s/packs", mkdtemp(folder));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mq_error err;
    return mq_dir_remove(folder, &err) == MQ_OK ? 0 : 1;
}

static bool fill(void *arg, void *memory)
{
    memset(memory, *(const int *)arg, BYTES);
    return true;
}

static mq_packs *open_packs(const char *model, size_t limit)
{
    const mq_pack_place place = {.dir = packs_dir, .model = model, .limit_bytes = limit};
    mq_packs *p = mq_packs_new(&place, "test", LIMIT);
    assert_non_null(p);
    return p;
}

/* A piece full of `value`, of the constant number one. */
static const uint8_t *get(mq_packs *p, uint64_t form, int value)
{
    static const int source;
    const uint8_t *at =
        mq_packs_get(p, NULL, mq_pack_key_of(p, &source, form), BYTES, fill, &value);
    assert_non_null(at);
    return at;
}

static mq_packs_stats stats_of(const mq_packs *p)
{
    mq_packs_stats stats;
    mq_packs_stats_get(p, &stats);
    return stats;
}

/* Makes one piece and says how many were made and found. */
static mq_packs_stats one_round(const char *model, size_t limit, int value)
{
    mq_packs *p = open_packs(model, limit);
    const uint8_t *at = get(p, 1, value);
    for (size_t i = 0; i < BYTES; i++) {
        assert_int_equal(at[i], value);
    }
    mq_packs_settle(p);
    for (size_t i = 0; i < BYTES; i++) {
        assert_int_equal(at[i], value); /* at the same address, now from the file */
    }
    mq_packs_stats stats = stats_of(p);
    mq_packs_free(p);
    return stats;
}

/* The path of the only, or the first, file of pieces; false: none. */
static bool first_file(char *path, size_t room, const char *model)
{
    DIR *dir = opendir(packs_dir);
    const struct dirent *entry;
    bool found = false;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strstr(entry->d_name, ".packs") != NULL && strncmp(entry->d_name, model, 32) == 0) {
            (void)snprintf(path, room, "%s/%s", packs_dir, entry->d_name);
            found = true;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return found;
}

static void a_piece_is_made_once_and_found_by_the_next(void **state)
{
    (void)state;
    char path[700];
    struct stat st;
    mq_packs_stats made = one_round(model_a, LIMIT, 7), found = one_round(model_a, LIMIT, 7);
    assert_int_equal(made.made_count, 1);
    assert_int_equal(made.private_bytes, 0);
    assert_int_equal(found.made_count, 0);
    assert_int_equal(found.found_count, 1);
    assert_true(first_file(path, sizeof path, model_a));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(one_round(model_b, LIMIT, 9).made_count, 1); /* another model's are not its */
}

static void another_form_goes_to_another_file(void **state)
{
    (void)state;
    (void)one_round(model_a, LIMIT, 7);
    mq_packs *p = open_packs(model_a, LIMIT);
    assert_int_equal(get(p, 2, 3)[5], 3);
    assert_ptr_equal(get(p, 2, 3), get(p, 2, 4)); /* once a session */
    mq_packs_free(p);
    p = open_packs(model_a, LIMIT);
    assert_int_equal(get(p, 1, 0)[5], 7);
    assert_int_equal(get(p, 2, 0)[5], 3);
    assert_int_equal(stats_of(p).found_count, 2);
    mq_packs_free(p);
}

static void what_is_torn_or_wrong_is_made_again(void **state)
{
    (void)state;
    const off_t places[] = {0, 60, 200, 430,
                            256 * 1024 + 77}; /* head, sums, class, pieces, bytes */
    char path[700];
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        (void)one_round(model_a, LIMIT, 7);
        assert_true(first_file(path, sizeof path, model_a));
        int fd = open(path, O_RDWR);
        uint8_t byte = 0;
        assert_int_equal(pread(fd, &byte, 1, places[i]), 1);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, places[i]), 1);
        close(fd);
        mq_packs_stats stats = one_round(model_a, LIMIT, 7);
        assert_int_equal(stats.found_count, 0);
        assert_int_equal(stats.made_count, 1);
    }
    assert_int_equal(truncate(path, 256 * 1024 + 100), 0);
    assert_int_equal(one_round(model_a, LIMIT, 7).made_count, 1);
    assert_int_equal(truncate(path, 10), 0);
    assert_int_equal(one_round(model_a, LIMIT, 7).made_count, 1);
    assert_int_equal(one_round(model_a, LIMIT, 7).found_count, 1);
}

static void a_file_that_others_may_write_is_refused(void **state)
{
    (void)state;
    char path[700];
    (void)one_round(model_a, LIMIT, 7);
    assert_true(first_file(path, sizeof path, model_a));
    assert_int_equal(chmod(path, 0666), 0);
    assert_int_equal(one_round(model_a, LIMIT, 7).made_count, 1);
}

static void a_touched_file_is_checked_and_then_believed(void **state)
{
    (void)state;
    char path[700];
    (void)one_round(model_a, LIMIT, 7);
    assert_true(first_file(path, sizeof path, model_a));
    assert_int_equal(utimensat(AT_FDCWD, path, NULL, 0), 0);
    assert_int_equal(one_round(model_a, LIMIT, 7).found_count, 1);
    assert_int_equal(one_round(model_a, LIMIT, 7).found_count, 1);
}

static void two_processes_that_race_pack_once(void **state)
{
    (void)state;
    pid_t pids[4];
    int status, made = 0;
    for (int i = 0; i < 4; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            _exit(one_round(model_a, LIMIT, 7).made_count == 1 ? 1 : 0);
        }
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status));
        made += WEXITSTATUS(status);
    }
    assert_int_equal(made, 1);
}

static void a_process_killed_while_packing_leaves_nothing_in_the_way(void **state)
{
    (void)state;
    int ready[2], status;
    char byte, path[700];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        mq_packs *p = open_packs(model_a, LIMIT);
        (void)get(p, 1, 5); /* holds the lock, and a file that is not whole */
        (void)!write(ready[1], "x", 1);
        (void)pause();
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_false(first_file(path, sizeof path, model_a));
    assert_int_equal(one_round(model_a, LIMIT, 7).made_count, 1);
    assert_int_equal(one_round(model_a, LIMIT, 7).found_count, 1);
    close(ready[0]);
    close(ready[1]);
}

static void who_waits_too_long_packs_for_itself(void **state)
{
    (void)state;
    mq_packs *holder = open_packs(model_a, LIMIT);
    (void)get(holder, 1, 7);
    const mq_pack_place place = {.dir = packs_dir, .model = model_a, .deadline_ms = 20};
    mq_packs *p = mq_packs_new(&place, "test", LIMIT);
    assert_int_equal(get(p, 1, 7)[9], 7);
    assert_int_equal(stats_of(p).private_bytes, BYTES);
    mq_packs_free(p);
    mq_packs_free(holder);
}

static void the_folder_stays_below_its_limit(void **state)
{
    (void)state;
    char path[700];
    const size_t limit = 256 * 1024 + 2 * BYTES; /* one file and no second one */
    (void)one_round(model_a, limit, 7);
    (void)one_round(model_b, limit, 9);
    assert_false(first_file(path, sizeof path, model_a));
    assert_true(first_file(path, sizeof path, model_b));
    assert_int_equal(one_round(model_a, 1000, 7).private_bytes, BYTES); /* fits never */
    assert_false(first_file(path, sizeof path, model_a));
}

static void without_a_folder_memory_is_private(void **state)
{
    (void)state;
    (void)snprintf(packs_dir, sizeof packs_dir, "/proc/nowhere/packs");
    assert_int_equal(one_round(model_a, LIMIT, 7).private_bytes, BYTES);
    mq_packs *p = mq_packs_new(NULL, "test", BYTES + 1);
    assert_int_equal(get(p, 1, 8)[3], 8);
    int value = 1;
    assert_null(mq_packs_get(p, NULL, mq_pack_key_of(p, &p, 1), BYTES, fill, &value)); /* limit */
    mq_packs_free(p);
}

/* Runs the model with 32 rows and keeps the answer. */
static void answer_of(const mq_model *model, const mq_pack_place *place, float *out,
                      mq_session_stats *stats)
{
    mq_error err;
    mq_session *s;
    const mq_tensor *outputs;
    float *x = calloc(32 * 784, sizeof *x);
    for (size_t i = 0; i < 32 * 784; i++) {
        x[i] = (float)(i % 97) * 0.01f;
    }
    const mq_session_options options = {.packs = place};
    mlp_must(mq_session_new(&s, model, &options, &err), &err);
    const mq_tensor in = {MQ_DT_F32, {2, {32, 784}}, x, 32 * 784 * sizeof *x};
    mlp_must(mq_session_run(s, &in, 1, &outputs, &err), &err);
    memcpy(out, outputs[0].data, outputs[0].bytes);
    mq_session_stats_get(s, stats);
    mq_session_free(s);
    free(x);
}

static void answers_are_the_same_bits_with_and_without(void **state)
{
    (void)state;
    float out[3][320] = {{0}};
    mq_session_stats stats[3];
    const int64_t sizes[] = {784, 256, 10};
    mq_model *model = mlp_new(sizes, 3, 0, 1);
    const mq_pack_place place = {.dir = packs_dir, .model = model_a};
    answer_of(model, NULL, out[0], &stats[0]);
    answer_of(model, &place, out[1], &stats[1]);
    answer_of(model, &place, out[2], &stats[2]);
    assert_memory_equal(out[0], out[1], sizeof out[0]);
    assert_memory_equal(out[0], out[2], sizeof out[0]);
    assert_int_equal(stats[2].packs.made_count, 0);
    assert_int_equal(stats[2].packs.found_count, stats[1].packs.made_count);
    assert_int_equal(stats[1].packs.private_bytes, 0);
    mq_model_free(model);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_piece_is_made_once_and_found_by_the_next),
        CASE(another_form_goes_to_another_file),
        CASE(what_is_torn_or_wrong_is_made_again),
        CASE(a_file_that_others_may_write_is_refused),
        CASE(a_touched_file_is_checked_and_then_believed),
        CASE(two_processes_that_race_pack_once),
        CASE(a_process_killed_while_packing_leaves_nothing_in_the_way),
        CASE(who_waits_too_long_packs_for_itself),
        CASE(the_folder_stays_below_its_limit),
        CASE(without_a_folder_memory_is_private),
        CASE(answers_are_the_same_bits_with_and_without),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
