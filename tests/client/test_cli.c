/* The program `maasq` as a user meets it: exit statuses, messages, output, against a fake broker.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "tests/client/fixture.h"

enum { TEXT_MAX = 65536, WORDS_MAX = 24 };

typedef struct outcome {
    int status;
    char out[TEXT_MAX];
    char err[TEXT_MAX];
} outcome;

static outcome result;

static void read_all(const char *path, char out[TEXT_MAX])
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(out, 1, TEXT_MAX - 1, file);
    out[n] = '\0';
    (void)fclose(file);
}

/* Runs `maasq WORDS...`. */
static void run(const char *const words[])
{
    char dir[64], out[80], err[80];
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(dir, sizeof dir, "%.40s/maasq-cli-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    assert_non_null(mkdtemp(dir));
    (void)snprintf(out, sizeof out, "%s/out", dir);
    (void)snprintf(err, sizeof err, "%s/err", dir);
    char *argv[WORDS_MAX + 2] = {(char *)(uintptr_t) "maasq"};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++) {
        assert_true(argc < WORDS_MAX);
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    }
    /* The program itself: this process has threads (the broker's), whose locks a mere fork would
     * keep. */
    char program[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 32);
    assert_true(len > 0);
    program[len] = '\0';
    for (int up = 0; up < 3; up++) {
        *strrchr(program, '/') = '\0';
    }
    (void)snprintf(program + strlen(program), 32, "/maasq");
    (void)fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int out_fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        int err_fd = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (dup2(out_fd, STDOUT_FILENO) >= 0 && dup2(err_fd, STDERR_FILENO) >= 0) {
            execv(program, argv);
        }
        _exit(99);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    result.status = WEXITSTATUS(status);
    read_all(out, result.out);
    read_all(err, result.err);
    (void)unlink(out);
    (void)unlink(err);
    (void)rmdir(dir);
}

#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void expect(int status, const char *text)
{
    if (result.status != status || strstr(result.err, text) == NULL) {
        fail_msg("status %d, stderr: %s (wanted %d and '%s')", result.status, result.err, status,
                 text);
    }
}

static void wrong_usage_is_status_2_with_the_reason(void **state)
{
    (void)state;
    RUN("frobnicate");
    expect(2, "unknown command 'frobnicate'");
    RUN("dataset");
    expect(2, "usage: maasq dataset import");
    RUN("dataset", "frobnicate");
    expect(2, "unknown command 'dataset frobnicate'");
    RUN("status", "--frobnicate");
    expect(2, "unknown option --frobnicate");
    RUN("status", "more");
    expect(2, "unexpected argument 'more'");
    RUN("dataset", "import");
    expect(2, "NAME is missing");
    RUN("dataset", "import", "d");
    expect(2, "FILE... is missing");
    RUN("status", "--timeout");
    expect(2, "--timeout needs a value");
    RUN("status", "--timeout", "0");
    expect(2, "whole number in 1..86400");
    RUN("status", "--json=yes");
    expect(2, "takes no value");
    RUN("status", "--json", "--json");
    expect(2, "given twice");
    RUN("status", "-j");
    expect(2, "two dashes");
    RUN("train", "m", "--data", "d");
    expect(2, "--arch");
    RUN("train", "m", "--data", "d", "--arch", "a", "--from", "m@1");
    expect(2, "--arch");
    RUN("train", "m", "--arch", "a");
    expect(2, "--data is missing");
    RUN("train", "m", "--data", "d", "--arch", "a", "--workers", "3..1");
    expect(2, "--workers");
    RUN("train", "m", "--data", "d", "--arch", "a", "--lr", "fast");
    expect(2, "--lr");
    RUN("optimize", "m");
    expect(2, "--pass is missing");
    RUN("optimize", "m", "--pass", "prune:0.8", "--finetune", "2");
    expect(2, "--finetune needs --data");
    RUN("job", "submit", "echo", "--param", "novalue");
    expect(2, "KEY=VALUE");
    RUN("job", "submit", "echo", "--at", "tomorrow");
    expect(2, "--at");
    RUN("model", "promote", "m", "prod");
    expect(2, "names no version");
    RUN("infer", "m");
    expect(2, "--input is missing");
    RUN("up", "--workers", "0");
    expect(2, "--workers");
}

static void no_system_is_said_with_what_to_do(void **state)
{
    (void)state;
    RUN("status", "--broker", "ipc:///nowhere/at-all", "--timeout", "1");
    expect(1, "ipc:///nowhere/at-all; start a system with `maasq up`");
    RUN("down", "--data", "/nowhere/at-all");
    expect(1, "/nowhere/at-all");
    RUN("status", "--broker", "nonsense");
    expect(1, "nonsense");
}

static void help_tells_every_command(void **state)
{
    (void)state;
    size_t count = 0;
    const mq_command_row *rows = mq_commands(&count);
    RUN("help");
    assert_int_equal(result.status, 0);
    for (size_t i = 0; i < count; i++) {
        assert_non_null(strstr(result.out, rows[i].words));
        assert_non_null(strstr(result.out, rows[i].summary));
    }
    RUN("train", "--help");
    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.out, "--shards S"));
    RUN("help", "--words");
    assert_non_null(strstr(result.out, "job submit: --param --input"));
    RUN("version");
    assert_non_null(strstr(result.out, MQ_VERSION));
}

static void every_usage_text_can_be_read(void **state)
{
    (void)state;
    size_t count = 0;
    const mq_command_row *rows = mq_commands(&count);
    assert_true(count >= 37);
    for (size_t i = 0; i < count; i++) {
        static mq_usage usage;
        usage = (mq_usage){0};
        mq_usage_read(&usage, rows[i].arguments); /* asserts what it cannot read */
        assert_true(usage.words_min <= usage.words_max || usage.is_any);
        assert_true(strlen(rows[i].summary) > 5);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(rows[i].words, rows[k].words);
        }
        for (size_t k = 0; k < usage.option_count; k++) {
            for (size_t n = 0; n < k; n++) {
                assert_false(mq_span_eq(usage.options[k].name, usage.options[n].name));
            }
        }
    }
}

static void job_goes_through_a_broker(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    RUN("job", "submit", "echo", "--param", "n=3", "--param", "t=x", "--wait", "--broker",
        f->broker.url);
    assert_int_equal(result.status, 0);
    assert_string_equal(result.out, "{\"n\":3,\"t\":\"x\"}\n");
    RUN("job", "submit", "echo", "--param", "n=3", "--wait", "--json", "--broker", f->broker.url);
    assert_int_equal(result.status, 0);
    json_t *json = json_loads(result.out, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    assert_string_equal(mq_js_text(json, "state", ""), "succeeded");
    assert_int_equal(mq_js_int(json, "result.n"), 3);
    const char *id = mq_js_text(json, "id", "");
    assert_int_equal(strlen(id), 26);
    RUN("job", "wait", id, "--broker", f->broker.url);
    assert_int_equal(result.status, 0);
    json_decref(json);
    RUN("job", "submit", "nosuchkind", "--broker", f->broker.url);
    expect(1, "kind 'nosuchkind'");
    RUN("job", "wait", "01ARYZ6S41TSV4RRFFQ69G5FAV", "--broker", f->broker.url);
    expect(1, "no such job");
    RUN("job", "wait", "short", "--broker", f->broker.url);
    expect(1, "'short' is not a job id");
    RUN("job", "submit", "echo", "--input", "/nowhere/file", "--broker", f->broker.url);
    expect(1, "/nowhere/file");
    RUN("job", "submit", "echo", "--json", "--broker", f->broker.url);
    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.out, "\"id\""));
    tear_down(f);
}

static void refusals_of_the_broker_are_status_1(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    RUN("model", "show", "nobody", "--broker", f->broker.url);
    expect(1, "model nobody: no such thing");
    RUN("train", "m", "--arch", "mlp:4-2", "--data", "nobody", "--broker", f->broker.url);
    expect(1, "dataset nobody");
    RUN("infer", "nobody", "--input", "/nowhere", "--broker", f->broker.url);
    expect(1, "nobody");
    RUN("status", "--json", "--broker", f->broker.url);
    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.out, "\"status\""));
    RUN("queue", "pause", "default", "--broker", f->broker.url, "--json");
    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.out, "\"pause\""));
    RUN("top", "--broker", f->broker.url);
    expect(2, "--once");
    tear_down(f);
}

static void bench_counts_every_job(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    RUN("bench", "queue", "--jobs", "300", "--window", "50", "--json", "--broker", f->broker.url);
    assert_int_equal(result.status, 0);
    json_t *json = json_loads(result.out, 0, NULL);
    assert_int_equal(mq_js_int(json, "jobs"), 300);
    assert_int_equal(mq_js_int(json, "failed"), 0);
    assert_true(mq_js_real(json, "value") > 0);
    assert_true(mq_js_real(json, "latency_ms.p99") >= mq_js_real(json, "latency_ms.p50"));
    json_decref(json);
    tear_down(f);
}

int main(void)
{
    (void)unsetenv("MAASQ_BROKER");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_usage_is_status_2_with_the_reason),
        cmocka_unit_test(no_system_is_said_with_what_to_do),
        cmocka_unit_test(help_tells_every_command),
        cmocka_unit_test(every_usage_text_can_be_read),
        cmocka_unit_test(job_goes_through_a_broker),
        cmocka_unit_test(refusals_of_the_broker_are_status_1),
        cmocka_unit_test(bench_counts_every_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
