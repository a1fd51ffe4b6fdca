/* `maasq up` and `maasq down`: a private system of two redis-servers, a broker, workers and a
 * gateway in one directory. Which processes there are stands in add_members; how they are kept
 * alive in supervise.c. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/redis_conf.h"
#include "client/cli/supervise.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/math.h"

enum {
    READY_MS = 60000, /* for each step of starting */
    TICK_MS = 20,
    CRASHES_MAX = 3, /* of one process while starting */
    PORT_DEFAULT = 7700,
    GATEWAY_PORT_DEFAULT = 7780,
    DOWN_MS = 90000,
};

typedef struct up {
    mq_cli *cli;
    char dir[MQ_SYSTEM_DIR_MAX + 1];
    char bin[512];
    int64_t workers, slots, port, gateway_port;
    bool is_default_dir;
    bool is_detached;
    int lock_fd;
    mq_family family;
    mq_member *broker;
    mq_member *gateway;
    int broker_front_arg;          /* index of the front endpoint in the broker's arguments */
    char front[MQ_SYSTEM_URL_MAX]; /* the bound one */
    char gateway_url[64];
    int64_t started_ms;
} up;

/* ---- preparing ---- */

static mq_code make_dirs(const up *u, mq_error *err)
{
    static const char *const names[] = {"run", "secret", "state", "blobs", "cache", "log"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        (void)snprintf(path, sizeof path, "%s/%s", u->dir, names[i]);
        mq_code code = mq_dir_make(path, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

/* The lock says that the system runs; it is held until the supervisor is gone. */
static mq_code take_lock(up *u, mq_error *err)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/lock", u->dir);
    u->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (u->lock_fd < 0) {
        return mq_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
    }
    if (flock(u->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        return mq_fail(err, MQ_E_EXISTS,
                       "a system is running in %s already; `maasq status` shows it, `maasq down "
                       "--data %s` stops it",
                       u->dir, u->dir);
    }
    return MQ_OK;
}

static bool port_is_free(int64_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0) {
        return false;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool is_free = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    (void)close(fd);
    return is_free;
}

/* Port 0 = any: the well-known one for the default directory while it is free. */
static int64_t pick_port(const up *u, int64_t asked, int64_t usual)
{
    if (asked != 0) {
        return asked;
    }
    return u->is_default_dir && port_is_free(usual) ? usual : 0;
}

static bool find_program(const up *u, const char *name, char *out, size_t size)
{
    (void)snprintf(out, size, "%s/%s", u->bin, name);
    return access(out, X_OK) == 0;
}

/* ---- the processes ---- */

static mq_member *add(up *u, const char *name, const char *program)
{
    mq_member *member = mq_family_add(&u->family, name, program);
    if (member != NULL) {
        (void)snprintf(member->log, sizeof member->log, "%s/log/%s.log", u->dir, name);
    }
    return member;
}

static void add_redis(up *u, const char *name)
{
    char process[32];
    (void)snprintf(process, sizeof process, "redis-%s", name);
    mq_member *redis = add(u, process, "redis-server");
    mq_member_arg(redis, "%s/run/%s.conf", u->dir, name);
    redis->death_signal = SIGTERM;
    redis->stop_ms = 30000;
}

static mq_code add_broker(up *u, mq_error *err)
{
    char program[600];
    if (!find_program(u, "maasq-broker", program, sizeof program)) {
        return mq_fail(err, MQ_E_NOT_FOUND, "%s is missing; build it with `make`", program);
    }
    u->broker = add(u, "broker", program);
    int64_t port = pick_port(u, u->port, PORT_DEFAULT);
    mq_member_arg(u->broker, "--front");
    u->broker_front_arg = u->broker->argc;
    if (port == 0) {
        mq_member_arg(u->broker, "tcp://127.0.0.1:*");
    } else {
        mq_member_arg(u->broker, "tcp://127.0.0.1:%lld", (long long)port);
    }
    mq_member_arg(u->broker, "--back");
    mq_member_arg(u->broker, "ipc://%s/run/back", u->dir);
    mq_member_arg(u->broker, "--store");
    mq_member_arg(u->broker, "unix:%s/run/state.sock,secret=%s/secret/state", u->dir, u->dir);
    mq_member_arg(u->broker, "--blobs");
    mq_member_arg(u->broker, "unix:%s/run/blobs.sock,secret=%s/secret/blobs", u->dir, u->dir);
    mq_member_arg(u->broker, "--endpoint-file");
    mq_member_arg(u->broker, "%s/run/endpoints", u->dir);
    mq_member_arg(u->broker, "--init");
    return MQ_OK;
}

static mq_code add_workers(up *u, mq_error *err)
{
    char program[600];
    if (!find_program(u, "maasq-worker", program, sizeof program)) {
        return mq_fail(err, MQ_E_NOT_FOUND, "%s is missing; build it with `make`", program);
    }
    for (int64_t i = 1; i <= u->workers; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "worker-%lld", (long long)i);
        mq_member *worker = add(u, name, program);
        mq_member_arg(worker, "--broker");
        mq_member_arg(worker, "ipc://%s/run/back", u->dir);
        mq_member_arg(worker, "--name");
        mq_member_arg(worker, "%s", name);
        mq_member_arg(worker, "--slots");
        mq_member_arg(worker, "%lld", (long long)u->slots);
        mq_member_arg(worker, "--cache");
        mq_member_arg(worker, "%s/cache", u->dir);
    }
    return MQ_OK;
}

/* ---- waiting until they are ready ---- */

/* Last lines of a log, for an error message. */
static void print_tail(const char *path)
{
    mq_map_file map;
    if (mq_map_file_open(&map, path, (size_t)1 << 30, NULL) != MQ_OK) {
        return;
    }
    size_t at = map.bytes.len;
    for (int lines = 0; at > 0 && lines < 8; at--) {
        lines += map.bytes.data[at - 1] == '\n';
    }
    fprintf(stderr, "  from %s:\n%.*s\n", path, (int)mq_min_size(map.bytes.len - at, 4000),
            (const char *)map.bytes.data + at);
    mq_map_file_release(&map);
}

static mq_code wait_until(up *u, bool (*is_ready)(up *), const char *what, mq_error *err)
{
    int64_t end_ms = mq_clock_mono_ms() + READY_MS;
    bool changed = false;
    while (!is_ready(u)) {
        mq_family_tend(&u->family, &changed);
        for (int i = 0; i < u->family.count; i++) {
            if (u->family.members[i].restarts >= CRASHES_MAX) {
                print_tail(u->family.members[i].log);
                return mq_fail(err, MQ_E_IO, "%s does not start, see %s", u->family.members[i].name,
                               u->family.members[i].log);
            }
        }
        if (mq_clock_mono_ms() > end_ms) {
            return mq_fail(err, MQ_E_TIMEOUT, "%s not ready after %d s, see %s/log", what,
                           READY_MS / 1000, u->dir);
        }
        mq_clock_sleep_ms(TICK_MS);
    }
    return MQ_OK;
}

/* A redis-server answers PING, be it by asking for the password. */
static bool redis_answers(const up *u, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/run/%s.sock", u->dir, name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = 2};
    char answer[64] = "";
    bool is_up = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
                 connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
                 write(fd, "PING\r\n", 6) == 6 && read(fd, answer, sizeof answer - 1) > 0 &&
                 strncmp(answer, "-LOADING", 8) != 0;
    if (fd >= 0) {
        (void)close(fd);
    }
    return is_up;
}

static bool both_redis_answer(up *u)
{
    return redis_answers(u, "state") && redis_answers(u, "blobs");
}

/* The broker writes its endpoints once it is ready; the front one is what clients use. */
static bool broker_is_bound(up *u)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/run/endpoints", u->dir);
    mq_buf text;
    mq_buf_init(&text, 4096);
    bool is_bound = false;
    if (access(path, R_OK) == 0 && mq_file_read(path, &text, NULL) == MQ_OK &&
        mq_buf_add(&text, "", 1)) {
        const char *at = strstr((const char *)text.data, "tcp://");
        if (at != NULL) {
            (void)mq_span_copy(mq_span_of(at, strcspn(at, " \t\r\n\",")), u->front,
                               sizeof u->front);
            is_bound = true;
        }
    }
    mq_buf_release(&text);
    return is_bound;
}

static bool workers_are_there(up *u)
{
    maasq_options options = {.size = sizeof options,
                             .brokers = u->front,
                             .name = "maasq up",
                             .jobs_max = 16,
                             .own_loop = 1};
    maasq_client *client = maasq_client_new(&options, NULL);
    char *text = NULL;
    size_t count = 0;
    if (client != NULL &&
        maasq_query(client, "workers", "", "", 0, 2000, &text, NULL) == MAASQ_OK) {
        json_t *root = json_loads(text, 0, NULL);
        count = json_array_size(json_object_get(root, "workers"));
        json_decref(root);
    }
    maasq_free(text);
    (void)maasq_client_free(&client);
    return count >= (size_t)u->workers;
}

/* ---- maasq.json ---- */

static json_t *process_json(const mq_process *process)
{
    return json_pack("{s:I, s:I}", "pid", (json_int_t)process->pid, "start",
                     (json_int_t)process->start_time);
}

static json_t *system_json(const up *u)
{
    json_t *processes = json_array();
    for (int i = 0; i < u->family.count; i++) {
        const mq_member *member = &u->family.members[i];
        json_t *one = process_json(&member->process);
        (void)json_object_set_new(one, "name", json_string(member->name));
        (void)json_object_set_new(one, "restarts", json_integer(member->restarts));
        (void)json_object_set_new(one, "log", json_string(member->log));
        (void)json_array_append_new(processes, one);
    }
    mq_process self = {getpid(), mq_process_start(getpid())};
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:o}", "version", MQ_VERSION, "data",
                     u->dir, "broker", u->front, "gateway", u->gateway_url, "workers",
                     (json_int_t)u->workers, "slots", (json_int_t)u->slots, "started_ms",
                     (json_int_t)u->started_ms, "supervisor", process_json(&self), "processes",
                     processes);
}

static mq_code write_json(const up *u, mq_error *err)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/maasq.json", u->dir);
    json_t *root = system_json(u);
    char *text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    if (text == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for %s", path);
    }
    mq_code code = mq_file_write(path, mq_str(text), 0600, err);
    free(text);
    return code;
}

static void remove_json(const char *dir)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/maasq.json", dir);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/run/endpoints", dir);
    (void)unlink(path);
}

/* ---- starting ---- */

/* A supervisor that was killed leaves its children dying; they must be gone before new ones start.
 */
static void end_leftovers(const char *dir)
{
    mq_system_file *file = calloc(1, sizeof *file);
    if (file == NULL || mq_system_read(file, dir, NULL) != MQ_OK) {
        free(file);
        return;
    }
    int64_t start_ms = mq_clock_mono_ms();
    for (int i = 0; i < file->member_count; i++) {
        mq_process process = file->members[i].process;
        if (mq_process_lives(process)) {
            (void)kill(process.pid, SIGTERM);
        }
        while (mq_process_lives(process)) {
            if (mq_clock_mono_ms() - start_ms > 10000) {
                (void)kill(process.pid, SIGKILL);
            }
            mq_clock_sleep_ms(TICK_MS);
        }
    }
    free(file);
    remove_json(dir);
}

static mq_code start_range(up *u, int from, mq_error *err)
{
    for (int i = from; i < u->family.count; i++) {
        mq_code code = mq_member_start(&u->family.members[i], err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code start_redis(up *u, mq_error *err)
{
    mq_code code = mq_redis_conf_write(u->dir, err);
    if (code != MQ_OK) {
        return code;
    }
    add_redis(u, "state");
    add_redis(u, "blobs");
    code = start_range(u, 0, err);
    return code != MQ_OK ? code : wait_until(u, both_redis_answer, "redis", err);
}

static mq_code start_broker(up *u, mq_error *err)
{
    mq_code code = add_broker(u, err);
    code = code != MQ_OK ? code : start_range(u, u->family.count - 1, err);
    code = code != MQ_OK ? code : wait_until(u, broker_is_bound, "the broker", err);
    if (code == MQ_OK) { /* a restarted broker must be where the first one was */
        char *front = strdup(u->front);
        if (front == NULL) {
            return mq_fail(err, MQ_E_LIMIT, "no memory");
        }
        free(u->broker->argv[u->broker_front_arg]);
        u->broker->argv[u->broker_front_arg] = front;
    }
    return code;
}

static mq_code start_workers(up *u, mq_error *err)
{
    int first = u->family.count;
    mq_code code = add_workers(u, err);
    code = code != MQ_OK ? code : start_range(u, first, err);
    return code != MQ_OK ? code : wait_until(u, workers_are_there, "the workers", err);
}

static mq_code start_all(up *u, mq_error *err)
{
    end_leftovers(u->dir);
    mq_code code = start_redis(u, err);
    code = code != MQ_OK ? code : start_broker(u, err);
    code = code != MQ_OK ? code : start_workers(u, err);
    return code != MQ_OK ? code : write_json(u, err);
}

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
        int64_t pause_ms = mq_family_pause_ms(&u->family, 1000);
        struct timespec pause = {.tv_sec = pause_ms / 1000,
                                 .tv_nsec = (long)(pause_ms % 1000) * 1000000};
        int signal_number = sigtimedwait(set, NULL, &pause);
        is_asked = signal_number == SIGINT || signal_number == SIGTERM || signal_number == SIGHUP;
        bool changed = false;
        mq_error err;
        mq_family_tend(&u->family, &changed);
        if (changed && write_json(u, &err) != MQ_OK) {
            fprintf(stderr, "maasq up: %s\n", err.text);
        }
    }
}

static int print_ready(const up *u)
{
    if (u->cli->is_json) {
        return mq_cli_json(system_json(u));
    }
    printf("maasq is up: %lld worker%s with %lld slot%s, data in %s\n\n"
           "  broker    %s        export MAASQ_BROKER=%s\n",
           (long long)u->workers, u->workers == 1 ? "" : "s", (long long)u->slots,
           u->slots == 1 ? "" : "s", u->dir, u->front, u->front);
    if (u->gateway_url[0] != '\0') {
        printf("  gateway   %s        dashboard and HTTP inference\n", u->gateway_url);
    }
    printf("  logs      %s/log\n  stop      %smaasq down --data %s\n\n"
           "Try: maasq job submit echo --param hello=world --wait\n",
           u->dir, u->is_detached ? "" : "Ctrl-C, or ", u->dir);
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
    mq_code code = start_all(u, &err);
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
    mq_family_stop(&u->family);
    remove_json(u->dir);
    mq_family_release(&u->family);
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
        (void)snprintf(log, sizeof log, "%s/log/up.log", u->dir);
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
    (void)snprintf(path, sizeof path, "%s/maasq.json", u->dir);
    json_t *root = json_load_file(path, 0, NULL);
    if (u->cli->is_json) {
        return mq_cli_json(root);
    }
    (void)snprintf(u->front, sizeof u->front, "%s", mq_js_text(root, "broker", ""));
    (void)snprintf(u->gateway_url, sizeof u->gateway_url, "%.63s", mq_js_text(root, "gateway", ""));
    json_decref(root);
    return print_ready(u);
}

int mq_cmd_up(mq_cli *cli, const mq_args *args)
{
    static up u;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    u = (up){.cli = cli, .workers = 2, .started_ms = mq_clock_wall_ms()};
    mq_error err;
    int64_t none = 0;
    if (mq_args_int(args, "workers", 1, MQ_SYSTEM_WORKERS_MAX, &u.workers, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    u.slots = mq_max_i64(1, cpus / u.workers);
    if (mq_args_int(args, "slots", 1, 64, &u.slots, &err) != MQ_OK ||
        mq_args_int(args, "port", 0, 65535, &u.port, &err) != MQ_OK ||
        mq_args_int(args, "gateway-port", 0, 65535, &none, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    u.gateway_port = none;
    u.is_default_dir = !mq_args_has(args, "data");
    u.is_detached = mq_args_has(args, "detach");
    if (!mq_cli_bin_dir(u.bin, sizeof u.bin) ||
        mq_system_dir(mq_args_text(args, "data", NULL), true, u.dir, &err) != MQ_OK ||
        make_dirs(&u, &err) != MQ_OK || take_lock(&u, &err) != MQ_OK) {
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
    end_leftovers(dir);
    return !any_lives(file);
}

int mq_cmd_down(mq_cli *cli, const mq_args *args)
{
    char dir[MQ_SYSTEM_DIR_MAX + 1];
    mq_error err;
    mq_system_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return mq_cli_fail(cli, "no memory");
    }
    mq_code code = mq_system_dir(mq_args_text(args, "data", NULL), false, dir, &err);
    code = code != MQ_OK ? code : mq_system_read(file, dir, &err);
    int status = MQ_EXIT_OK;
    if (code != MQ_OK) {
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
