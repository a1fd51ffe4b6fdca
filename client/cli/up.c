/* `maasq up` and `maasq down`: a private system of two redis-servers, a broker, workers and a
 * gateway in one directory. Which processes there are stands in launch.c, how they are kept alive
 * in supervise.c. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/launch.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/math.h"

enum { BROKERS_MAX = 4, TICK_MS = 20, DOWN_MS = 90000 };

typedef struct up {
    mq_cli *cli;
    mq_launch launch;
    bool is_detached;
} up;

/* ---- supervising ---- */

static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGCHLD);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, set, NULL);
}

/* Until a signal asks to stop. */
static void supervise(up *u, const sigset_t *set)
{
    bool is_asked = false;
    while (!is_asked) {
        int64_t pause_ms = mq_family_pause_ms(&u->launch.family, 1000);
        struct timespec pause = {.tv_sec = pause_ms / 1000,
                                 .tv_nsec = (long)(pause_ms % 1000) * 1000000};
        int signal_number = sigtimedwait(set, NULL, &pause);
        is_asked = signal_number == SIGINT || signal_number == SIGTERM || signal_number == SIGHUP;
        bool changed = false;
        mq_error err;
        mq_family_tend(&u->launch.family, &changed);
        if (changed && mq_launch_write(&u->launch, &err) != MQ_OK) {
            fprintf(stderr, "maasq up: %s\n", err.text);
        }
    }
}

static int print_ready(const up *u)
{
    if (u->cli->is_json) {
        return mq_cli_json(mq_launch_json(&u->launch));
    }
    printf("maasq is up: %lld worker%s with %lld slot%s, data in %s\n\n"
           "  broker    %s        export MAASQ_BROKER=%s\n",
           (long long)u->launch.workers, u->launch.workers == 1 ? "" : "s",
           (long long)u->launch.slots, u->launch.slots == 1 ? "" : "s", u->launch.dir,
           u->launch.front, u->launch.front);
    if (u->launch.gateway_url[0] != '\0') {
        printf("  gateway   %s        dashboard and HTTP inference\n", u->launch.gateway_url);
    }
    printf("  logs      %s/log\n  stop      %smaasq down --data %s\n\n"
           "Try: maasq job submit echo --param hello=world --wait\n",
           u->launch.dir, u->is_detached ? "" : "Ctrl-C, or ", u->launch.dir);
    (void)fflush(stdout);
    return MQ_EXIT_OK;
}

/* Runs the system in this process until it is asked to stop. ready_fd: told "ok" or an error text;
 * -1 when this process prints itself. */
static int run(up *u, int ready_fd)
{
    sigset_t set;
    mq_error err = {0};
    block_signals(&set);
    mq_code code = mq_launch_start(&u->launch, &err);
    int status = code == MQ_OK ? MQ_EXIT_OK : MQ_EXIT_FAILED;
    if (ready_fd >= 0) {
        mq_span told = code == MQ_OK ? mq_str("ok") : mq_str(err.text);
        if (mq_fd_write(ready_fd, told, &err) != MQ_OK) {
            fprintf(stderr, "maasq up: %s\n", err.text); /* nobody waits any more; go on */
        }
        (void)close(ready_fd);
    } else if (code == MQ_OK) {
        status = print_ready(u);
    } else {
        (void)mq_cli_fail(u->cli, "%s", err.text);
    }
    if (code == MQ_OK) {
        supervise(u, &set);
        fprintf(stderr, "maasq up: stopping\n");
    }
    mq_family_stop(&u->launch.family);
    mq_launch_forget(u->launch.dir);
    mq_family_release(&u->launch.family);
    return status;
}

/* The supervisor goes to the background; this process waits until it is ready and tells. */
static int detach(up *u)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) != 0) {
        return mq_cli_fail(u->cli, "pipe: %s", strerror(errno));
    }
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        return mq_cli_fail(u->cli, "fork: %s", strerror(errno));
    }
    if (pid == 0) {
        char log[256];
        (void)snprintf(log, sizeof log, "%s/log/up.log", u->launch.dir);
        int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
        int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        bool is_moved = setsid() >= 0 && in >= 0 && out >= 0 && dup2(in, 0) >= 0 &&
                        dup2(out, 1) >= 0 && dup2(out, 2) >= 0 && close(ready[0]) == 0;
        _exit(is_moved ? run(u, ready[1]) : MQ_EXIT_FAILED);
    }
    (void)close(ready[1]);
    char answer[MQ_ERROR_TEXT_MAX + 1] = "";
    size_t len = 0;
    ssize_t n = 0;
    while (len < sizeof answer - 1 &&
           ((n = read(ready[0], answer + len, sizeof answer - 1 - len)) > 0 || errno == EINTR)) {
        len += n > 0 ? (size_t)n : 0;
        errno = 0;
    }
    (void)close(ready[0]);
    if (strcmp(answer, "ok") != 0) {
        return mq_cli_fail(u->cli, "%s",
                           answer[0] == '\0' ? "the supervisor ended, see log/up.log" : answer);
    }
    return MQ_EXIT_OK;
}

/* What the detached supervisor has written says what to print. */
static int print_detached(up *u)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/maasq.json", u->launch.dir);
    json_t *root = json_load_file(path, 0, NULL);
    if (u->cli->is_json) {
        return mq_cli_json(root);
    }
    (void)snprintf(u->launch.front, sizeof u->launch.front, "%s", mq_js_text(root, "broker", ""));
    (void)snprintf(u->launch.gateway_url, sizeof u->launch.gateway_url, "%.63s",
                   mq_js_text(root, "gateway", ""));
    json_decref(root);
    return print_ready(u);
}

/* Options that go to every worker as they are. */
static mq_code take_worker_args(mq_launch *u, const mq_argv *args, mq_error *err)
{
    static const char *const options[] = {"--handlers", "--exec", "--exec-limits", "--env"};
    for (size_t k = 0; k < sizeof options / sizeof options[0]; k++) {
        const char *value = NULL;
        for (size_t i = 0; (value = mq_argv_nth(args, options[k] + 2, i)) != NULL; i++) {
            if (u->worker_arg_count + 2 > MQ_LAUNCH_WORKER_ARGS_MAX) {
                return mq_fail(
                    err, MQ_E_ARG,
                    "%s: more than %d options for the workers; start maasq-worker itself",
                    options[k], MQ_LAUNCH_WORKER_ARGS_MAX / 2);
            }
            u->worker_args[u->worker_arg_count++] = options[k];
            u->worker_args[u->worker_arg_count++] = value;
        }
    }
    return MQ_OK;
}

int mq_cmd_up(mq_cli *cli, const mq_argv *args)
{
    static up u;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    u = (up){.cli = cli, .launch = {.workers = 2, .started_ms = mq_clock_wall_ms()}};
    mq_error err;
    int64_t none = 0;
    if (mq_argv_int(args, "workers", 1, MQ_SYSTEM_WORKERS_MAX, &u.launch.workers, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    u.launch.slots = mq_max_i64(1, cpus / u.launch.workers);
    if (mq_argv_int(args, "slots", 1, 64, &u.launch.slots, &err) != MQ_OK ||
        mq_argv_int(args, "port", 0, 65535, &u.launch.port, &err) != MQ_OK ||
        mq_argv_int(args, "gateway-port", 0, 65535, &none, &err) != MQ_OK ||
        take_worker_args(&u.launch, args, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    if (mq_argv_int(args, "brokers", 1, BROKERS_MAX, &u.launch.brokers, &err) != MQ_OK ||
        mq_argv_int(args, "shards", 1, 64, &u.launch.shards, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    u.launch.gateway_port = none;
    u.launch.is_default_dir = !mq_argv_has(args, "data");
    u.is_detached = mq_argv_has(args, "detach");
    if (!mq_cli_bin_dir(u.launch.bin, sizeof u.launch.bin) ||
        mq_system_dir(mq_argv_text(args, "data", NULL), true, u.launch.dir, &err) != MQ_OK ||
        mq_launch_prepare(&u.launch, &err) != MQ_OK) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    if (!u.is_detached) {
        return run(&u, -1);
    }
    int status = detach(&u);
    return status == MQ_EXIT_OK ? print_detached(&u) : status;
}

/* ---- down ---- */

static bool any_lives(const mq_system_file *file)
{
    bool is_alive = mq_process_lives(file->supervisor);
    for (int i = 0; i < file->member_count; i++) {
        is_alive |= mq_process_lives(file->members[i].process);
    }
    return is_alive;
}

/* The supervisor stops its children in order; without one they are ended here. */
static bool stop_system(const mq_system_file *file, const char *dir)
{
    if (mq_process_lives(file->supervisor)) {
        (void)kill(file->supervisor.pid, SIGTERM);
        int64_t end_ms = mq_clock_mono_ms() + DOWN_MS;
        while (mq_process_lives(file->supervisor) && mq_clock_mono_ms() < end_ms) {
            mq_clock_sleep_ms(TICK_MS);
        }
        if (mq_process_lives(file->supervisor)) {
            (void)kill(file->supervisor.pid, SIGKILL);
        }
    }
    mq_launch_end_leftovers(dir);
    return !any_lives(file);
}

int mq_cmd_down(mq_cli *cli, const mq_argv *args)
{
    char dir[MQ_SYSTEM_DIR_MAX + 1];
    mq_error err;
    mq_system_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return mq_cli_fail(cli, "no memory");
    }
    int status = MQ_EXIT_OK;
    if (mq_system_dir(mq_argv_text(args, "data", NULL), false, dir, &err) != MQ_OK) {
        free(file);
        return mq_cli_fail(cli, "%s", err.text);
    }
    mq_code code = mq_system_read(file, dir, &err);
    if (code == MQ_E_NOT_FOUND) { /* stopping twice is no failure */
        status = cli->is_json ? mq_cli_json(json_pack("{s:s, s:b}", "data", dir, "stopped", 0))
                              : printf("nothing runs in %s\n", dir) < 0;
    } else if (code != MQ_OK) {
        status = mq_cli_fail(cli, "%s", err.text);
    } else if (!stop_system(file, dir)) {
        status = mq_cli_fail(cli, "some process did not end, see %s/log", dir);
    } else if (cli->is_json) {
        status = mq_cli_json(json_pack("{s:s, s:b}", "data", dir, "stopped", 1));
    } else {
        printf("stopped; the data stay in %s\n", dir);
    }
    free(file);
    return status;
}
