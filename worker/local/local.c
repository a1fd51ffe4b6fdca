/* The commands without a broker; see local.h. */
#include "worker/local/local.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/blas/blas.h"
#include "worker/io/slot_process.h"
#include "worker/slot/local_host.h"
#include "worker/train/bench.h"
#include "worker/train/fingerprint.h"

enum { USAGE = 2, RESULT_BYTES_MAX = 64 << 20 };

typedef struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *arguments;
    const char *help;
} command;

static const command commands[] = {
#define MQ_LOCAL(name, function, arguments, help) {name, function, arguments, help},
#include "worker/local/commands.def"
#undef MQ_LOCAL
};

enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

/* OpenBLAS reads its settings when the program is loaded, so the same program starts again with the
 * environment that slots get. */
static void use_slot_kernels(void)
{
    static const char mark[] = "MAASQ_LOCAL_KERNELS";
    char text[65536];
    char *argv[1024];
    size_t count = 0;
    FILE *f = getenv(mark) != NULL ? NULL : fopen("/proc/self/cmdline", "r");
    if (f == NULL) {
        return;
    }
    size_t len = fread(text, 1, sizeof text - 1, f);
    text[len] = '\0';
    (void)fclose(f);
    for (size_t at = 0; at < len && count < 1023; at += strlen(text + at) + 1) {
        argv[count++] = text + at;
    }
    argv[count] = NULL;
    if (count > 0 && len < sizeof text - 1) {
        char **envp = mq_slot_environment(mq_slot_blas_core(), "MAASQ_LOCAL_KERNELS=1");
        (void)execve("/proc/self/exe", argv, envp); /* if it fails, the default kernels do */
        mq_slot_environment_free(envp);
    }
}

static int help(FILE *to)
{
    fputs("usage: maasq-worker --local COMMAND ...\n", to);
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        fprintf(to, "  %s %s\n        %s\n", commands[i].name, commands[i].arguments,
                commands[i].help);
    }
    return to == stdout ? 0 : USAGE;
}

int mq_local_main(int argc, char **argv)
{
    if (argc < 1) {
        return help(stderr);
    }
    if (strcmp(argv[0], "help") == 0 || strcmp(argv[0], "--help") == 0) {
        return help(stdout);
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(argv[0], commands[i].name) == 0) {
            use_slot_kernels();
            mq_blas_init();
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    fprintf(stderr, "maasq-worker: --local: no command \"%s\"\n", argv[0]);
    return help(stderr);
}

int mq_local_fingerprint(int argc, char **argv)
{
    (void)argv;
    char text[MQ_SHA256_HEX];
    if (argc > 0) {
        return help(stderr);
    }
    mq_fingerprint(text);
    printf("%s %s\n", text, mq_blas_core());
    return 0;
}

/* Finds "--name value" among the arguments; NULL when it is not there. */
static const char *option(int argc, char **argv, const char *name)
{
    for (int i = 0; i + 1 < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return argv[i + 1];
        }
    }
    return NULL;
}

static void on_progress(void *arg, mq_span json)
{
    (void)arg;
    fprintf(stderr, "%.*s\n", MQ_SPAN_ARG(json));
}

static mq_code run_job(int argc, char **argv, mq_buf *body, mq_buf *result, mq_error *err)
{
    const char *dir = option(argc, argv, "--dir");
    const char *text = option(argc, argv, "--body");
    mq_local_host *host = NULL;
    mq_code code = MQ_OK;
    if (argc < 1 || argv[0][0] == '-' || dir == NULL) {
        return mq_fail(err, MQ_E_ARG, "run: KIND and --dir DIR are needed");
    }
    if (text != NULL && text[0] == '@') {
        code = mq_file_read(text + 1, body, err);
    } else if (text != NULL && !mq_buf_add_str(body, text)) {
        code = mq_fail(err, MQ_E_LIMIT, "--body: too long");
    }
    if (code == MQ_OK) {
        code = mq_local_host_new(&host, dir, err);
    }
    if (code == MQ_OK) {
        mq_local_job job = {.kind = argv[0],
                            .body = mq_buf_span(body),
                            .model = option(argc, argv, "--model"),
                            .progress = on_progress,
                            .log = on_progress};
        code = mq_local_host_run(host, &job, result, err);
    }
    mq_local_host_free(host);
    return code;
}

int mq_local_run(int argc, char **argv)
{
    mq_error err = {0};
    mq_buf body, result;
    mq_buf_init(&body, 1 << 20);
    mq_buf_init(&result, RESULT_BYTES_MAX);
    mq_code code = run_job(argc, argv, &body, &result, &err);
    if (code == MQ_OK) {
        (void)fwrite(result.data, 1, result.len, stdout);
        (void)fputc('\n', stdout);
    } else {
        fprintf(stderr, "maasq-worker: %s: %s\n", mq_code_name(code), err.text);
    }
    mq_buf_release(&body);
    mq_buf_release(&result);
    return code == MQ_OK ? 0 : argc < 1 ? USAGE : 1;
}
