/* A private system of real processes; see system.h. */
#include "tests/support/system.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/store/aof.h"

enum { ARGS_MAX = 40, TEXT_MAX = 640, START_MS = 60000 };

int sys_place(sys_role role, int index)
{
    static const int first[] = {0, 1, 2, 2 + SYS_BROKERS_MAX,
                                2 + SYS_BROKERS_MAX + SYS_WORKERS_MAX};
    return first[role] + index;
}

/* Both servers are with the test itself. */
int sys_node(sys_role role, int index)
{
    return role < SYS_BROKER ? 0 : sys_place(role, index) - 1;
}

pid_t sys_pid(const sys *s, sys_role role, int index)
{
    return s->pids[sys_place(role, index)];
}

static int brokers_of(const sys *s)
{
    return s->options.brokers > 0 ? s->options.brokers : 1;
}

static pid_t spawn(const sys *s, int node, const char *const argv[], const char *log_path)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(126);
        }
        if (s->options.net != NULL && !net_move(s->options.net, node)) {
            _exit(125);
        }
        int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid;
}

typedef struct arguments {
    const char *argv[ARGS_MAX];
    char text[ARGS_MAX][TEXT_MAX];
    int count;
} arguments;

__attribute__((format(printf, 2, 3))) static void add(arguments *a, const char *fmt, ...)
{
    assert_true(a->count < ARGS_MAX - 1);
    va_list args;
    va_start(args, fmt);
    vsnprintf(a->text[a->count], TEXT_MAX, fmt, args);
    va_end(args);
    a->argv[a->count] = a->text[a->count];
    a->argv[++a->count] = NULL;
}

static void redis_arguments(const sys *s, arguments *a, const char *name, bool is_durable)
{
    char dir[256];
    snprintf(dir, sizeof dir, "%s/%s", s->dir, name);
    if (is_durable) {
        snprintf(dir, sizeof dir, "%s", s->data);
    }
    mq_error err;
    assert_int_equal(mq_dir_make(dir, &err), MQ_OK);
    assert_int_equal(mq_aof_repair(dir, NULL, &err), MQ_OK); /* as `maasq redis serve` does */
    add(a, "redis-server");
    add(a, "--port");
    if (s->options.net != NULL) {
        add(a, "%d", NET_PORT + 10 + is_durable);
        add(a, "--bind");
        add(a, "10.77.0.1");
        add(a, "--protected-mode");
        add(a, "no");
    } else {
        add(a, "0");
    }
    add(a, "--unixsocket");
    add(a, "%s/%s.sock", s->dir, name);
    add(a, "--dir");
    add(a, "%s", dir);
    add(a, "--save");
    add(a, "%s", "");
    add(a, "--appendonly");
    add(a, "%s", "yes");
    add(a, "--appendfsync");
    add(a, "%s", is_durable ? "always" : "everysec");
    add(a, "--aof-load-truncated");
    add(a, "no");
    add(a, "--lazyfree-lazy-expire");
    add(a, "yes");
}

static void endpoint(const sys *s, int broker, bool is_back, char *out, size_t size)
{
    const char *name = is_back ? "back" : "front";
    if (s->options.net != NULL) {
        snprintf(out, size, "tcp://10.77.0.%d:%d", 1 + sys_node(SYS_BROKER, broker),
                 NET_PORT + is_back);
    } else if (broker == 0) {
        snprintf(out, size, "ipc://%s/%s", s->dir, name);
    } else {
        snprintf(out, size, "ipc://%s/%s%d", s->dir, name, broker);
    }
}

static void broker_arguments(const sys *s, arguments *a, int index)
{
    char at[160];
    add(a, "%s/maasq-broker", s->bin);
    add(a, "--name");
    add(a, "b%d", index);
    add(a, "--front");
    endpoint(s, index, false, at, sizeof at);
    add(a, "%s", at);
    add(a, "--back");
    endpoint(s, index, true, at, sizeof at);
    add(a, "%s", at);
    add(a, "--store");
    if (s->options.net != NULL) {
        add(a, "tcp:10.77.0.1:%d", NET_PORT + 11);
    } else {
        add(a, "unix:%s/state.sock", s->dir);
    }
    add(a, "--blobs");
    add(a, "%s", s->blobs);
    add(a, "--init");
    add(a, "--witness");
    add(a, "%s/witness%d", s->dir, index);
    if (s->options.lease_ms > 0) {
        add(a, "--lease-ms");
        add(a, "%d", s->options.lease_ms);
        add(a, "--beat-ms");
        add(a, "%d", s->options.beat_ms);
    }
    for (int i = 0; i < 8 && s->options.broker_args[i] != NULL; i++) {
        add(a, "%s", s->options.broker_args[i]);
    }
}

static void client_arguments(const sys *s, arguments *a, int index)
{
    char self[512];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(len > 0);
    self[len] = '\0';
    add(a, "%s", self);
    add(a, "--client");
    add(a, "%d", index);
    add(a, "%s", s->dir);
    add(a, "%s", s->front);
}

static void worker_arguments(const sys *s, arguments *a, int index)
{
    add(a, "%s/maasq-worker", s->bin);
    add(a, "--broker");
    add(a, "%s", s->back);
    add(a, "--name");
    add(a, "w%d", index);
    add(a, "--slots");
    add(a, "%d", s->options.slots > 0 ? s->options.slots : 1);
    add(a, "--cache");
    add(a, "%s/cache", s->dir);
    if (s->options.is_apart) {
        add(a, "--host-id");
        add(a, "host-%d", index);
    }
    for (int i = 0; i < 16 && s->options.worker_args[i] != NULL; i++) {
        add(a, "%s", s->options.worker_args[i]);
    }
}

void sys_spawn(sys *s, sys_role role, int index)
{
    static const char *const names[] = {"state", "blob", "broker", "worker", "client"};
    int at = sys_place(role, index);
    assert_int_equal(s->pids[at], 0);
    arguments *a = calloc(1, sizeof *a);
    assert_non_null(a);
    if (role == SYS_BROKER) {
        broker_arguments(s, a, index);
    } else if (role == SYS_WORKER) {
        worker_arguments(s, a, index);
    } else if (role == SYS_CLIENT) {
        client_arguments(s, a, index);
    } else {
        redis_arguments(s, a, names[role], role == SYS_STATE_REDIS);
    }
    char log_path[256];
    snprintf(log_path, sizeof log_path, "%s/%s%d.log", s->dir, names[role], index);
    s->pids[at] = spawn(s, sys_node(role, index), a->argv, log_path);
    free(a);
}

bool sys_has_ended(sys *s, sys_role role, int index, int *status)
{
    int at = sys_place(role, index);
    if (s->pids[at] == 0 || waitpid(s->pids[at], status, WNOHANG) != s->pids[at]) {
        return false;
    }
    s->pids[at] = 0;
    return true;
}

void sys_kill(sys *s, sys_role role, int index, int signal_number)
{
    int at = sys_place(role, index);
    if (s->pids[at] == 0) {
        return;
    }
    kill(s->pids[at], signal_number);
    int64_t give_up_ms = mq_clock_mono_ms() + START_MS;
    while (waitpid(s->pids[at], NULL, WNOHANG) == 0) {
        if (mq_clock_mono_ms() > give_up_ms) {
            kill(s->pids[at], SIGKILL);
        }
        mq_clock_sleep_ms(2);
    }
    s->pids[at] = 0;
}

static void await_workers(sys *s)
{
    const char *const argv[] = {"maasq", "worker", "list", "--json", NULL};
    static char out[65536], err[4096];
    int64_t give_up_ms = mq_clock_mono_ms() + START_MS;
    for (;;) {
        int status = sys_run(s, argv, out, sizeof out, err, sizeof err);
        int count = 0;
        for (char *at = out; (at = strstr(at, "\"fingerprint\"")) != NULL; at++) {
            count++;
        }
        if (status == 0 && count >= s->options.workers) {
            return;
        }
        if (mq_clock_mono_ms() > give_up_ms) {
            sys_stop(s, true);
            fail_msg("the system did not become ready in %d ms: %s %s", START_MS, out, err);
        }
        mq_clock_sleep_ms(50);
    }
}

static void name_endpoints(sys *s)
{
    char at[160];
    for (int i = 0; i < brokers_of(s); i++) {
        size_t front = strlen(s->front), back = strlen(s->back);
        endpoint(s, i, false, at, sizeof at);
        snprintf(s->front + front, sizeof s->front - front, "%s%s", i > 0 ? "," : "", at);
        endpoint(s, i, true, at, sizeof at);
        snprintf(s->back + back, sizeof s->back - back, "%s%s", i > 0 ? "," : "", at);
    }
    snprintf(s->blobs, sizeof s->blobs, "unix:%s/blob.sock", s->dir);
    if (s->options.net != NULL) {
        snprintf(s->blobs, sizeof s->blobs, "tcp:10.77.0.1:%d", NET_PORT + 10);
    }
}

static void make_disk(sys *s)
{
    char why[160] = "", disk[128];
    snprintf(s->data, sizeof s->data, "%s/state", s->dir);
    if (s->options.disk_bytes == 0) {
        return;
    }
    snprintf(disk, sizeof disk, "%s/disk", s->dir);
    mq_error err;
    assert_int_equal(mq_dir_make(disk, &err), MQ_OK);
    if (!net_disk(disk, s->options.disk_bytes, why, sizeof why)) {
        fail_msg("%s", why);
    }
    snprintf(s->data, sizeof s->data, "%s/disk/state", s->dir);
}

void sys_start(sys *s, const sys_options *options)
{
    *s = (sys){.options = *options};
    const char *temp = getenv("TMPDIR");
    snprintf(s->dir, sizeof s->dir, "%.60s/maasq-e2e-XXXXXX", temp == NULL ? "/tmp" : temp);
    assert_non_null(mkdtemp(s->dir));
    ssize_t len = readlink("/proc/self/exe", s->bin, sizeof s->bin - 1);
    assert_true(len > 0);
    s->bin[len] = '\0';
    for (int up = 0; up < 3; up++) { /* build/V/tests/e2e/test_x -> build/V */
        *strrchr(s->bin, '/') = '\0';
    }
    name_endpoints(s);
    make_disk(s);
    sys_spawn(s, SYS_STATE_REDIS, 0);
    sys_spawn(s, SYS_BLOB_REDIS, 0);
    for (int i = 0; i < brokers_of(s); i++) {
        sys_spawn(s, SYS_BROKER, i);
    }
    for (int i = 0; i < options->workers; i++) {
        sys_spawn(s, SYS_WORKER, i);
    }
    await_workers(s);
}

/* A process may have met undefined behaviour or leaked although its test passed. */
static bool has_reports(const sys *s)
{
    char command[512];
    snprintf(command, sizeof command,
             "grep -aE -A 30 'ERROR: AddressSanitizer|runtime error:|LeakSanitizer|"
             "WARNING: ThreadSanitizer' %s/*.log >&2",
             s->dir);
    return system(command) == 0;
}

void sys_stop(sys *s, bool is_failed)
{
    for (int i = 0; i < SYS_CLIENTS_MAX; i++) {
        sys_kill(s, SYS_CLIENT, i, SIGKILL);
    }
    for (int i = s->options.workers - 1; i >= 0; i--) {
        sys_kill(s, SYS_WORKER, i, is_failed ? SIGKILL : SIGTERM);
    }
    for (int i = 0; i < brokers_of(s); i++) {
        sys_kill(s, SYS_BROKER, i, is_failed ? SIGKILL : SIGTERM);
    }
    sys_kill(s, SYS_BLOB_REDIS, 0, SIGTERM);
    sys_kill(s, SYS_STATE_REDIS, 0, SIGTERM);
    char command[256];
    if (is_failed) {
        snprintf(command, sizeof command, "tail -n 40 %s/*.log >&2", s->dir);
        if (system(command) != 0) {
            fprintf(stderr, "no logs in %s\n", s->dir);
        }
    }
    bool is_clean = !has_reports(s);
    if (s->options.disk_bytes > 0) {
        snprintf(command, sizeof command, "%s/disk", s->dir);
        umount2(command, MNT_DETACH);
    }
    snprintf(command, sizeof command, "rm -rf %s", s->dir);
    assert_int_equal(system(command), 0);
    if (!is_clean && !is_failed) { /* else the test fails already, with its own reason */
        fail_msg("a process of the system printed a sanitizer's report (above)");
    }
}

int sys_children(pid_t pid, pid_t out[SYS_SLOTS_MAX])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return 0;
    }
    int count = 0, child = 0;
    while (count < SYS_SLOTS_MAX && fscanf(file, "%d", &child) == 1) {
        out[count++] = child;
    }
    fclose(file);
    return count;
}

/* Reads both pipes until they close; what does not fit is dropped. */
static void drain(int fds[2], char *outs[2], const size_t sizes[2])
{
    size_t used[2] = {0, 0};
    struct pollfd polls[2] = {{fds[0], POLLIN, 0}, {fds[1], POLLIN, 0}};
    while (polls[0].fd >= 0 || polls[1].fd >= 0) {
        if (poll(polls, 2, -1) < 0 && errno != EINTR) {
            break;
        }
        for (int i = 0; i < 2; i++) {
            char chunk[4096];
            if (polls[i].fd < 0 || polls[i].revents == 0) {
                continue;
            }
            ssize_t n = read(polls[i].fd, chunk, sizeof chunk);
            if (n <= 0) {
                polls[i].fd = -1;
            } else if (outs[i] != NULL) {
                size_t room = sizes[i] - 1 - used[i];
                size_t take = (size_t)n < room ? (size_t)n : room;
                memcpy(outs[i] + used[i], chunk, take);
                used[i] += take;
            }
        }
    }
    for (int i = 0; i < 2; i++) {
        if (outs[i] != NULL) {
            outs[i][used[i]] = '\0';
        }
    }
}

int sys_run(const sys *s, const char *const argv[], char *out, size_t out_size, char *err,
            size_t err_size)
{
    int pipes[2][2];
    assert_int_equal(pipe(pipes[0]), 0);
    assert_int_equal(pipe(pipes[1]), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(pipes[0][1], STDOUT_FILENO);
        dup2(pipes[1][1], STDERR_FILENO);
        for (int i = 0; i < 4; i++) {
            close(pipes[i / 2][i % 2]);
        }
        setenv("MAASQ_BROKER", s->front, 1);
        char path[TEXT_MAX];
        snprintf(path, sizeof path, "%s/%s", s->bin, argv[0]);
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(pipes[0][1]);
    close(pipes[1][1]);
    drain((int[2]){pipes[0][0], pipes[1][0]}, (char *[2]){out, err},
          (size_t[2]){out_size, err_size});
    close(pipes[0][0]);
    close(pipes[1][0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
