/* A worker and a client in plain Python (python_worker.py, python_client.py), written from
 * shared/wire/PROTOCOL.md, against a real broker: results, failures, progress, cancel, renewed
 * leases, death of a worker and redelivery, death of the broker, drain. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/support/own_kinds.h"

enum { WORKERS = 2, LEASE_MS = 1500 };

static sys s;
static maasq_client *client;
static pid_t workers[WORKERS];
static const char *python; /* one that has both modules, or NULL */
static bool is_over;

static const char *find_python(void)
{
    static const char *const tried[] = {"/usr/bin/python3", "python3"};
    for (size_t i = 0; i < sizeof tried / sizeof tried[0]; i++) {
        char command[128];
        (void)snprintf(command, sizeof command, "%s -c 'import zmq, msgpack' 2>/dev/null",
                       tried[i]);
        if (system(command) == 0) {
            return tried[i];
        }
    }
    return NULL;
}

static void start_worker(int index)
{
    char log[200];
    (void)snprintf(log, sizeof log, "%s/python%d.log", s.dir, index);
    workers[index] = fork();
    assert_true(workers[index] >= 0);
    if (workers[index] == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(fd, STDERR_FILENO);
        (void)execlp(python, python, "tests/e2e/python_worker.py", s.back, "2", (char *)NULL);
        _exit(127);
    }
}

/* Ends a worker by a signal; returns its wait status. */
static int end_worker(int index, int number)
{
    int status = 0;
    kill(workers[index], number);
    assert_int_equal(waitpid(workers[index], &status, 0), workers[index]);
    workers[index] = 0;
    return status;
}

static int start(void **state)
{
    (void)state;
    (void)setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
    python = find_python();
    if (python == NULL) {
        return 0;
    }
    sys_options options = {.lease_ms = LEASE_MS, .beat_ms = 300};
    sys_start(&s, &options);
    client = own_client(&s);
    for (int i = 0; i < WORKERS; i++) {
        start_worker(i);
    }
    return 0;
}

static int stop(void **state)
{
    (void)state;
    if (python != NULL) {
        maasq_client_free(&client);
        for (int i = 0; i < WORKERS; i++) {
            if (workers[i] > 0) {
                (void)end_worker(i, SIGKILL);
            }
        }
        sys_stop(&s, !is_over);
    }
    return 0;
}

static void need_python(void)
{
    if (python == NULL) {
        puts("python3 with the modules zmq and msgpack is not there: install python3-zmq and "
             "python3-msgpack");
        skip();
    }
}

static int run(const char *kind, const char *body, const maasq_spec *spec, char *out, size_t size)
{
    maasq_info info;
    maasq_job *job = own_submit(client, kind, body, spec);
    int code = own_end(job, &info, out, size);
    if (code != 0) {
        (void)snprintf(out, size, "%s|%s", info.state, info.error);
    }
    maasq_job_release(&job);
    return code;
}

/* Which of the two runs the job: the pid that the broker names for its holder. */
static int holder_of(const char *id)
{
    maasq_error err;
    char *text = NULL;
    int64_t give_up_ms = mq_clock_mono_ms() + OWN_WAIT_MS;
    for (;;) {
        assert_int_equal(maasq_query(client, "workers", NULL, NULL, 0, OWN_WAIT_MS, &text, &err),
                         0);
        char *at = strstr(text, id), *pid = NULL;
        for (char *p = text; at != NULL && (p = strstr(p, "\"pid\":")) != NULL && p < at; p++) {
            pid = p;
        }
        long number = pid == NULL ? 0 : strtol(pid + 6, NULL, 10);
        maasq_free(text);
        for (int i = 0; i < WORKERS; i++) {
            if (number == workers[i] && number > 0) {
                return i;
            }
        }
        assert_true(mq_clock_mono_ms() < give_up_ms);
        mq_clock_sleep_ms(20);
    }
}

static void it_echoes_fails_and_spawns(void **state)
{
    (void)state;
    need_python();
    char out[600];
    maasq_spec once = {.attempts_max = 1}, transient = {.durability = MAASQ_TRANSIENT};
    assert_int_equal(run("py.echo", "hello, W\xC3\xB6rld", NULL, out, sizeof out), 0);
    assert_string_equal(out, "hello, W\xC3\xB6rld");
    assert_int_equal(run("py.echo", "in memory only", &transient, out, sizeof out), 0);
    assert_string_equal(out, "in memory only");
    assert_int_equal(run("py.fail", "fatal", NULL, out, sizeof out), MAASQ_E_FAILED);
    assert_string_equal(out, "dead|fails for good, as it was asked to");
    assert_int_equal(run("py.fail", "retry", &once, out, sizeof out), MAASQ_E_INTERNAL);
    assert_string_equal(out, "dead|attempt 1 fails as it was asked to");
    /* Two attempts, as the worker announced. */
    assert_int_equal(run("py.fail", "retry", NULL, out, sizeof out), MAASQ_E_INTERNAL);
    assert_string_equal(out, "dead|attempt 2 fails as it was asked to");
    assert_int_equal(run("py.sleep", "no json", &once, out, sizeof out), MAASQ_E_INTERNAL);
    assert_int_equal(run("py.family", "one two three", NULL, out, sizeof out), 0);
    assert_string_equal(out, "3");
}

static void a_lease_is_renewed_while_a_job_runs_longer_than_it(void **state)
{
    (void)state;
    need_python();
    char out[64], text[256];
    maasq_info info;
    (void)snprintf(text, sizeof text, "{\"ms\":%d}", 2 * LEASE_MS);
    maasq_job *job = own_submit(client, "py.sleep", text, NULL);
    own_await_progress(job);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(out, "{\"slept\":true}");
    assert_true(maasq_progress(job, text, sizeof text) > 0);
    assert_non_null(strstr(text, "\"attempt\": 1"));
    maasq_job_release(&job);
}

static void cancel_and_run_limit_stop_a_running_job(void **state)
{
    (void)state;
    need_python();
    char out[600];
    maasq_info info;
    for (int hard = 0; hard < 2; hard++) {
        maasq_job *job = own_submit(client, "py.sleep", "{\"ms\":600000}", NULL);
        own_await_progress(job);
        maasq_cancel(job, hard);
        assert_int_equal(own_end(job, &info, out, sizeof out), MAASQ_E_CANCELLED);
        maasq_job_release(&job);
    }
    maasq_spec spec = {.max_run_ms = 300, .attempts_max = 1};
    assert_int_equal(run("py.sleep", "{\"ms\":600000}", &spec, out, sizeof out), MAASQ_E_TIMEOUT);
}

static void a_job_of_a_killed_worker_goes_to_the_other(void **state)
{
    (void)state;
    need_python();
    char out[64], progress[256];
    maasq_info info;
    maasq_job *job = own_submit(client, "py.sleep", "{\"ms\":1000}", NULL);
    own_await_progress(job);
    int first = holder_of(maasq_job_id(job));
    (void)end_worker(first, SIGKILL);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(out, "{\"slept\":true}");
    assert_true(maasq_progress(job, progress, sizeof progress) > 0);
    maasq_job_release(&job);
    start_worker(first);
}

static void a_job_outlives_the_death_of_its_broker(void **state)
{
    (void)state;
    need_python();
    char out[64];
    maasq_info info;
    maasq_job *job = own_submit(client, "py.sleep", "{\"ms\":1500}", NULL);
    own_await_progress(job);
    sys_kill(&s, SYS_BROKER, 0, SIGKILL);
    sys_spawn(&s, SYS_BROKER, 0);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(out, "{\"slept\":true}");
    maasq_job_release(&job);
}

static void the_python_client_gets_its_results(void **state)
{
    (void)state;
    need_python();
    char command[800], out[128] = "";
    (void)snprintf(command, sizeof command,
                   "%.200s tests/e2e/python_client.py %s py.echo 'from python' 120", python,
                   s.front);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    (void)!fread(out, 1, sizeof out - 1, pipe);
    assert_int_equal(pclose(pipe), 0);
    assert_string_equal(out, "from python");
    (void)snprintf(command, sizeof command,
                   "%.200s tests/e2e/python_client.py %s py.fail x 120 >/dev/null", python,
                   s.front);
    assert_int_not_equal(system(command), 0);
}

static void sigterm_finishes_what_runs_and_leaves(void **state)
{
    (void)state;
    need_python();
    char out[64];
    maasq_info info;
    maasq_job *job = own_submit(client, "py.sleep", "{\"ms\":700}", NULL);
    own_await_progress(job);
    int index = holder_of(maasq_job_id(job));
    int status = end_worker(index, SIGTERM);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(out, "{\"slept\":true}");
    maasq_job_release(&job);
    is_over = true;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_echoes_fails_and_spawns),
        cmocka_unit_test(a_lease_is_renewed_while_a_job_runs_longer_than_it),
        cmocka_unit_test(cancel_and_run_limit_stop_a_running_job),
        cmocka_unit_test(a_job_of_a_killed_worker_goes_to_the_other),
        cmocka_unit_test(a_job_outlives_the_death_of_its_broker),
        cmocka_unit_test(the_python_client_gets_its_results),
        cmocka_unit_test(sigterm_finishes_what_runs_and_leaves),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
