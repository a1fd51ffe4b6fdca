/* Programs as job kinds (--exec) through a real broker: what they are given, what they say, how
 * they end, and that nothing of them stays behind, whoever dies. Kind "sh" runs its body. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>

#include "tests/support/own_kinds.h"

static sys s;
static maasq_client *client;
static bool is_over;

static int start(void **state)
{
    (void)state;
    sys_options options = {.workers = 1,
                           .slots = 2,
                           .lease_ms = 2000,
                           .beat_ms = 200,
                           .worker_args = {"--exec", "sh=/bin/sh -s", "--exec", "cat=cat",
                                           "--exec-limits", "cat=body_bytes:65536,attempts:2",
                                           "--exec", "small=/bin/sh -s", "--exec-limits",
                                           "small=memory_bytes:268435456,file_bytes:65536,files:32",
                                           "--env", "OWN_SETTING=two words"}};
    sys_start(&s, &options);
    client = own_client(&s);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    maasq_client_free(&client);
    sys_stop(&s, !is_over);
    return 0;
}

/* Runs a script as a job; the result or the error text goes to out. */
static int script(const char *text, const maasq_spec *spec, char *out, size_t size)
{
    maasq_info info;
    maasq_job *job = own_submit(client, "sh", text, spec);
    int code = own_end(job, &info, out, size);
    if (code != 0) {
        (void)snprintf(out, size, "%s|%s|%s", info.state, info.why, info.error);
    }
    maasq_job_release(&job);
    return code;
}

/* A duration for sleep that no other process has: how processes are found again. */
static const char *mark(void)
{
    static char text[32];
    static int count;
    (void)snprintf(text, sizeof text, "31%04d.%d", ++count, (int)getpid());
    return text;
}

static int living(const char *argument)
{
    int count = 0;
    DIR *dir = opendir("/proc");
    assert_non_null(dir);
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        char path[300], line[256] = "";
        (void)snprintf(path, sizeof path, "/proc/%s/cmdline", e->d_name);
        FILE *file = e->d_name[0] >= '0' && e->d_name[0] <= '9' ? fopen(path, "r") : NULL;
        size_t len = file == NULL ? 0 : fread(line, 1, sizeof line - 1, file);
        if (file != NULL) {
            (void)fclose(file);
        }
        count += len > 6 && strcmp(line, "sleep") == 0 && strcmp(line + 6, argument) == 0;
    }
    (void)closedir(dir);
    return count;
}

static void await_living(const char *argument, int wanted)
{
    int64_t give_up_ms = mq_clock_mono_ms() + OWN_WAIT_MS;
    while (living(argument) != wanted) {
        if (mq_clock_mono_ms() > give_up_ms) {
            fail_msg("%d processes sleep %s, expected %d", living(argument), argument, wanted);
        }
        mq_clock_sleep_ms(10);
    }
}

static void the_body_comes_in_and_the_result_out_byte_for_byte(void **state)
{
    (void)state;
    enum { BYTES = 65536 };
    maasq_info info;
    char *body = malloc(BYTES + 1), *out = malloc(BYTES + 2);
    assert_true(body != NULL && out != NULL);
    for (size_t i = 0; i < BYTES; i++) {
        body[i] = (char)('!' + i * 7 % 90);
    }
    body[BYTES] = '\0';
    maasq_job *job = own_submit(client, "cat", body, NULL);
    assert_int_equal(own_end(job, &info, out, BYTES + 2), 0);
    assert_string_equal(out, body);
    maasq_job_release(&job);
    assert_int_equal(script("exit 0", NULL, out, BYTES), 0); /* and an empty one */
    assert_string_equal(out, "");
    char *larger = malloc(BYTES + 2);
    assert_non_null(larger);
    memset(larger, 'x', BYTES + 1); /* one byte more than --exec-limits allows */
    larger[BYTES + 1] = '\0';
    job = own_submit(client, "cat", larger, NULL);
    assert_int_equal(own_end(job, &info, out, BYTES + 2), MAASQ_E_LIMIT);
    maasq_job_release(&job);
    free(larger);
    free(body);
    free(out);
}

static void the_environment_and_descriptors_are_as_stated(void **state)
{
    (void)state;
    char out[512];
    assert_int_equal(script("echo $MAASQ_KIND $MAASQ_ATTEMPT ${#MAASQ_JOB_ID} $OWN_SETTING; "
                            "ls -x /proc/$$/fd; env | grep -c ^MAASQ_",
                            NULL, out, sizeof out),
                     0);
    assert_string_equal(out, "sh 1 26 two words\n0  1  2  3\n4\n");
}

static void exit_statuses_have_their_classes(void **state)
{
    (void)state;
    char out[700];
    maasq_spec twice = {.attempts_max = 2};
    assert_int_equal(script("echo first >&2; echo the reason >&2; exit 3", NULL, out, sizeof out),
                     MAASQ_E_FAILED);
    assert_string_equal(out, "dead|error|exit status 3: first the reason");
    assert_int_equal(script("echo full >&2; exit 75", &twice, out, sizeof out), MAASQ_E_INTERNAL);
    assert_string_equal(out, "dead|attempts|exit status 75: full");
    assert_int_equal(
        script("[ $MAASQ_ATTEMPT = 2 ] || exit 75; echo at last", &twice, out, sizeof out), 0);
    assert_string_equal(out, "at last\n");
    maasq_spec crashes = {.crashes_max = 2};
    assert_int_not_equal(script("echo oops >&2; kill -SEGV $$", &crashes, out, sizeof out), 0);
    assert_string_equal(out, "dead|poison|signal 11: oops");
    assert_int_equal(script("head -c 40000000 /dev/zero", NULL, out, sizeof out), MAASQ_E_LIMIT);
}

static void the_tail_of_standard_error_is_kept(void **state)
{
    (void)state;
    char out[700];
    assert_int_equal(script("i=0; while [ $i -lt 500 ]; do echo line $i >&2; i=$((i+1)); done; "
                            "printf 'last \\001\\377 \\303\\251' >&2; exit 65",
                            NULL, out, sizeof out),
                     MAASQ_E_FAILED);
    assert_non_null(strstr(out, "exit status 65: "));
    assert_non_null(strstr(out, "line 499 last  ? \xC3\xA9"));
    assert_null(strstr(out, "line 300"));
}

static void descriptor_3_tells_progress_and_makes_children(void **state)
{
    (void)state;
    char out[64];
    char *text = NULL;
    maasq_error err;
    maasq_info info;
    int64_t give_up_ms = mq_clock_mono_ms() + OWN_WAIT_MS;
    maasq_job *job =
        own_submit(client, "sh",
                   "echo '{\"progress\":{\"step\":1,\"of\":1},\"log\":\"halfway\"}' >&3\n"
                   "echo nonsense >&3\n"
                   "printf '{\"spawn\":{\"kind\":\"cat\",\"body\":{\"a\":1}}}' >&3\n"
                   "echo done",
                   NULL);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(out, "done\n");
    maasq_job_release(&job);
    for (bool is_there = false; !is_there;) {
        assert_true(mq_clock_mono_ms() < give_up_ms);
        mq_clock_sleep_ms(20);
        assert_int_equal(maasq_query(client, "jobs", NULL, "kind=cat state=succeeded", 100,
                                     OWN_WAIT_MS, &text, &err),
                         0);
        int count = 0; /* the first test's, and the child */
        for (char *at = text; (at = strstr(at, "\"id\":")) != NULL; at++) {
            count++;
        }
        is_there = count == 2;
        maasq_free(text);
    }
    /* A child that cannot be made fails the job. */
    assert_int_equal(
        script("echo '{\"spawn\":{\"kind\":\"\",\"body\":\"x\"}}' >&3", NULL, out, sizeof out),
        MAASQ_E_FAILED);
}

static void cancel_is_sigterm_then_sigkill_for_all_its_processes(void **state)
{
    (void)state;
    char text[256], out[64];
    maasq_info info;
    static const char *const forms[] = {
        "trap 'exit 0' TERM; sleep %s & echo '{\"progress\":{}}' >&3; while :; do sleep 0.05; done",
        "trap '' TERM; sleep %s & echo '{\"progress\":{}}' >&3; sleep 1000; sleep 1000",
    };
    for (int i = 0; i < 4; i++) {
        const char *found = mark(), *form = forms[i % 2];
        size_t head = (size_t)(strstr(form, "%s") - form);
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)head, form, found, form + head + 2);
        maasq_job *job = own_submit(client, "sh", text, NULL);
        own_await_progress(job);
        maasq_cancel(job, i >= 2);
        assert_int_equal(own_end(job, &info, out, sizeof out), MAASQ_E_CANCELLED);
        assert_string_equal(info.state, "cancelled");
        maasq_job_release(&job);
        await_living(found, 0);
    }
}

static void a_run_limit_stops_it(void **state)
{
    (void)state;
    char text[64], out[700];
    const char *found = mark();
    maasq_spec spec = {.max_run_ms = 300, .attempts_max = 1};
    (void)snprintf(text, sizeof text, "sleep %s", found);
    assert_int_equal(script(text, &spec, out, sizeof out), MAASQ_E_TIMEOUT);
    await_living(found, 0);
}

static void a_kinds_own_limits_hold_for_its_processes(void **state)
{
    (void)state;
    static const char text[] = "ulimit -v; ulimit -n; ulimit -f; d=$(mktemp) || exit 1; "
                               "sh -c 'head -c 100000 /dev/zero >'\"$d\"; echo $?; "
                               "wc -c <\"$d\"; rm \"$d\"";
    char out[512];
    maasq_info info;
    maasq_job *job = own_submit(client, "small", text, NULL);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    maasq_job_release(&job);
    assert_string_equal(out, "262144\n32\n128\n153\n65536\n"); /* 153: SIGXFSZ */
}

static void nothing_stays_behind_when_a_job_ends(void **state)
{
    (void)state;
    char text[128], out[64];
    const char *found = mark();
    (void)snprintf(text, sizeof text, "sleep %s & setsid sleep %s & echo gone", found, found);
    assert_int_equal(script(text, NULL, out, sizeof out), 0);
    assert_string_equal(out, "gone\n");
    await_living(found, 0);
}

static void nothing_stays_behind_when_the_slot_or_the_worker_dies(void **state)
{
    (void)state;
    pid_t slots[SYS_SLOTS_MAX];
    char text[400], out[700];
    const char *found = mark();
    maasq_spec spec = {.crashes_max = 1};
    maasq_info info;
    (void)snprintf(text, sizeof text, "echo '{\"progress\":{}}' >&3; sleep %s | cat", found);
    maasq_job *job = own_submit(client, "sh", text, &spec);
    await_living(found, 1);
    int count = sys_children(sys_pid(&s, SYS_WORKER, 0), slots);
    for (int i = 0; i < count; i++) {
        kill(slots[i], SIGKILL);
    }
    assert_int_not_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(info.why, "poison");
    maasq_job_release(&job);
    await_living(found, 0);

    found = mark();
    (void)snprintf(text, sizeof text,
                   "[ $MAASQ_ATTEMPT = 1 ] && [ ! -e %s/seen ] || exit 0; "
                   ": >%s/seen; sleep %s | cat",
                   s.dir, s.dir, found);
    job = own_submit(client, "sh", text, NULL);
    await_living(found, 1);
    sys_kill(&s, SYS_WORKER, 0, SIGKILL);
    await_living(found, 0);
    sys_spawn(&s, SYS_WORKER, 0);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0); /* the next worker's attempt */
    maasq_job_release(&job);
}

static void a_wrong_option_is_refused_at_the_start(void **state)
{
    (void)state;
    own_refused(&s, "--exec", "x=/no/such/program", NULL, NULL, "not there or not executable");
    own_refused(&s, "--exec", "echo=cat", NULL, NULL, "is one of maasq's own");
    own_refused(&s, "--exec", "x=cat", "--exec", "x=tr a b", "is there already");
    own_refused(&s, "--exec", "just-a-kind", NULL, NULL, "must begin with a kind");
    own_refused(&s, "--exec", "x y=cat", NULL, NULL, "must be 1..64 letters");
    own_refused(&s, "--exec-limits", "x=run_ms:5", NULL, NULL, "no --exec gives it");
    own_refused(&s, "--exec", "x=cat", "--exec-limits", "x=run_ms:0", "a number above 0");
    own_refused(&s, "--exec", "x=cat", "--exec-limits", "x=speed:9", "known are run_ms");
    own_refused(&s, "--exec", "x=cat", "--exec-limits", "x=files:100000",
                "a slot itself has at most");
    own_refused(&s, "--exec", "x=cat", "--exec-limits", "x=files:3", "known are run_ms");
    own_refused(&s, "--exec", "x=/tmp", NULL, NULL, "not there or not executable");
    char script[128], given[160];
    (void)snprintf(script, sizeof script, "%s/broken", s.dir);
    (void)snprintf(given, sizeof given, "x=%s", script);
    FILE *file = fopen(script, "w");
    assert_non_null(file);
    assert_true(fputs("#!/no/such/interpreter -x\n", file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(script, 0700), 0);
    own_refused(&s, "--exec", given, NULL, NULL, "names the interpreter \"/no/such/interpreter\"");
    is_over = true;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_body_comes_in_and_the_result_out_byte_for_byte),
        cmocka_unit_test(the_environment_and_descriptors_are_as_stated),
        cmocka_unit_test(exit_statuses_have_their_classes),
        cmocka_unit_test(the_tail_of_standard_error_is_kept),
        cmocka_unit_test(descriptor_3_tells_progress_and_makes_children),
        cmocka_unit_test(cancel_is_sigterm_then_sigkill_for_all_its_processes),
        cmocka_unit_test(a_run_limit_stops_it),
        cmocka_unit_test(a_kinds_own_limits_hold_for_its_processes),
        cmocka_unit_test(nothing_stays_behind_when_a_job_ends),
        cmocka_unit_test(nothing_stays_behind_when_the_slot_or_the_worker_dies),
        cmocka_unit_test(a_wrong_option_is_refused_at_the_start),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
