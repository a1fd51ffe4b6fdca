/* Parts of the command line: tensors in files, progress lines, processes, supervised children. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cli/follow.h"
#include "client/cli/npy.h"
#include "client/cli/out.h"
#include "client/cli/supervise.h"
#include "shared/base/clock.h"

enum { LONG_MS = 60000 };

static void npy_files_come_back_as_they_were(void **state)
{
    (void)state;
    const float numbers[6] = {1, 2.5F, -3, 0, 1e9F, 6};
    maasq_tensor in = {
        .dtype = MAASQ_F32, .rank = 2, .shape = {2, 3}, .data = numbers, .bytes = sizeof numbers};
    mq_buf file;
    mq_error err;
    mq_buf_init(&file, 1 << 20);
    assert_int_equal(mq_npy_write(&in, &file, &err), MQ_OK);
    assert_int_equal(file.len, 128 + sizeof numbers);
    maasq_tensor out;
    assert_int_equal(mq_npy_read(mq_buf_span(&file), &out, &err), MQ_OK);
    assert_int_equal(out.dtype, MAASQ_F32);
    assert_int_equal(out.rank, 2);
    assert_int_equal(out.shape[1], 3);
    assert_memory_equal(out.data, numbers, sizeof numbers);
    for (size_t len = 0; len < file.len; len++) { /* every truncation is refused */
        assert_int_not_equal(mq_npy_read(mq_span_of(file.data, len), &out, &err), MQ_OK);
    }
    mq_buf_release(&file);
}

static void foreign_npy_headers_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *header, *word;
    } cases[] = {
        {"{'descr': '<c16', 'fortran_order': False, 'shape': (1,), }", "element type"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", "Fortran"},
        {"{'descr': '<f4', 'fortran_order': False, }", "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,), }", "dimensions"},
        {"{'fortran_order': False, 'shape': (1,), }", "descr"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mq_buf file;
        mq_error err;
        maasq_tensor out;
        mq_buf_init(&file, 4096);
        size_t len = strlen(cases[i].header);
        uint8_t prefix[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)len, 0};
        mq_buf_add(&file, prefix, sizeof prefix);
        mq_buf_add_str(&file, cases[i].header);
        mq_buf_add(&file, "\0\0\0\0", 4);
        assert_int_not_equal(mq_npy_read(mq_buf_span(&file), &out, &err), MQ_OK);
        assert_non_null(strstr(err.text, cases[i].word));
        mq_buf_release(&file);
    }
}

static void nested_lists_become_tensors(void **state)
{
    (void)state;
    mq_buf store;
    mq_error err;
    maasq_tensor out;
    mq_buf_init(&store, 4096);
    json_t *good = json_loads("[[1,2,3],[4,5,6.5]]", 0, NULL);
    assert_int_equal(mq_json_tensor(good, MAASQ_F32, &out, &store, &err), MQ_OK);
    assert_int_equal(out.rank, 2);
    assert_int_equal(out.shape[0], 2);
    assert_int_equal(out.bytes, 24);
    assert_true(mq_tensor_number(&out, 5) == 6.5);
    json_t *back = mq_tensor_json(&out);
    assert_true(json_equal(json_array_get(json_array_get(back, 1), 2),
                           json_array_get(json_array_get(good, 1), 2)));
    json_decref(back);
    json_decref(good);
    static const char *const bad[] = {"[[1,2],[3]]", "[[1,2],3]", "[\"x\"]", "[[1],[[2]]]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *lists = json_loads(bad[i], 0, NULL);
        assert_int_equal(mq_json_tensor(lists, MAASQ_F32, &out, &store, &err), MQ_E_FORMAT);
        json_decref(lists);
    }
    json_t *large = json_loads("[300]", 0, NULL);
    assert_int_equal(mq_json_tensor(large, MAASQ_U8, &out, &store, &err), MQ_E_FORMAT);
    json_decref(large);
    mq_buf_release(&store);
}

static void progress_line_tells_what_is_there(void **state)
{
    (void)state;
    char line[256];
    json_t *progress = json_loads("{\"stage\":\"train\",\"step\":50,\"steps\":100,\"loss\":0.5,"
                                  "\"remaining_s\":12.3,\"workers\":3}",
                                  0, NULL);
    mq_progress_line(progress, "leased", 10, line, sizeof line);
    assert_string_equal(line,
                        "[#####.....]  50% train step 50/100  loss 0.5000  workers 3  12 s left");
    mq_progress_line(NULL, "queued", 10, line, sizeof line);
    assert_string_equal(line, "queued");
    json_decref(progress);
}

static void sizes_and_times_are_short(void **state)
{
    (void)state;
    assert_string_equal(mq_out_bytes(17), "17 B");
    assert_string_equal(mq_out_bytes(1234567), "1.2 MB");
    assert_string_equal(mq_out_ms(1500), "1.5 s");
    assert_string_equal(mq_out_ms(3600000 * 3), "3 h");
    assert_string_equal(mq_out_time(0), "-");
    assert_string_equal(mq_out_time(1000), "1970-01-01 00:00:01");
    assert_string_equal(mq_out_number((double)NAN, 2), "-");
}

static void numbers_are_read_whole_or_not_at_all(void **state)
{
    (void)state;
    int64_t whole = 7;
    double real = 7;
    assert_true(mq_text_int("-12", &whole) && whole == -12);
    assert_false(mq_text_int("12x", &whole));
    assert_false(mq_text_int("", &whole));
    assert_false(mq_text_int(" 1", &whole));
    assert_false(mq_text_int("99999999999999999999", &whole));
    assert_true(mq_text_real("1e-3", &real) && real == 1e-3);
    assert_false(mq_text_real("nan", &real));
    assert_false(mq_text_real("1,5", &real));
}

static void process_is_told_from_a_later_one_with_its_pid(void **state)
{
    (void)state;
    mq_process self = {getpid(), mq_process_start(getpid())};
    assert_true(self.start_time > 0);
    assert_true(mq_process_lives(self));
    self.start_time++;
    assert_false(mq_process_lives(self));
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    mq_process child = {pid, 0};
    int64_t end_ms = mq_clock_mono_ms() + LONG_MS;
    while (mq_process_start(pid) != 0 && mq_clock_mono_ms() < end_ms) {
        mq_clock_sleep_ms(1);
    }
    assert_int_equal(mq_process_start(pid), 0); /* a zombie does not live */
    assert_false(mq_process_lives(child));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void tend_until(mq_family *family, int wanted_restarts)
{
    int64_t end_ms = mq_clock_mono_ms() + LONG_MS;
    bool changed = false;
    while (family->members[0].restarts < wanted_restarts && mq_clock_mono_ms() < end_ms) {
        mq_family_tend(family, &changed);
        mq_clock_sleep_ms(mq_family_pause_ms(family, 5));
    }
    assert_int_equal(family->members[0].restarts, wanted_restarts);
}

static void killed_child_is_started_again_and_stopping_leaves_none(void **state)
{
    (void)state;
    static mq_family family;
    mq_error err;
    mq_member *member = mq_family_add(&family, "sleeper", "sleep");
    mq_member_arg(member, "%d", 1000);
    (void)snprintf(member->log, sizeof member->log, "/dev/null");
    mq_member *stubborn = mq_family_add(&family, "stubborn", "sh");
    mq_member_arg(stubborn, "-c");
    mq_member_arg(stubborn, "trap '' TERM; exec sleep 1000");
    (void)snprintf(stubborn->log, sizeof stubborn->log, "/dev/null");
    stubborn->stop_ms = 100;
    assert_int_equal(mq_member_start(member, &err), MQ_OK);
    assert_int_equal(mq_member_start(stubborn, &err), MQ_OK);
    mq_process first = member->process;
    assert_true(mq_process_lives(first));
    assert_int_equal(kill(first.pid, SIGKILL), 0);
    tend_until(&family, 1);
    mq_process second = member->process;
    assert_true(mq_process_lives(second));
    assert_false(mq_process_lives(first));
    mq_process third = stubborn->process;
    mq_family_stop(&family);
    assert_false(mq_process_lives(second));
    assert_false(mq_process_lives(third)); /* SIGKILL after its time */
    mq_family_release(&family);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(npy_files_come_back_as_they_were),
        cmocka_unit_test(foreign_npy_headers_are_refused_by_name),
        cmocka_unit_test(nested_lists_become_tensors),
        cmocka_unit_test(progress_line_tells_what_is_there),
        cmocka_unit_test(sizes_and_times_are_short),
        cmocka_unit_test(numbers_are_read_whole_or_not_at_all),
        cmocka_unit_test(process_is_told_from_a_later_one_with_its_pid),
        cmocka_unit_test(killed_child_is_started_again_and_stopping_leaves_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
