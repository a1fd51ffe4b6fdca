/* Starting a private system; see launch.h. Must not know the command line. */
#include "client/cli/launch.h"

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
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/math.h"
#include "shared/store/store.h"

enum {
    READY_MS = 60000, /* for each step of starting */
    TICK_MS = 20,
    CRASHES_MAX = 3, /* of one process while starting */
    PORT_DEFAULT = 7700,
    GATEWAY_PORT_DEFAULT = 7780,
    DRAIN_MS = 5000, /* running jobs may go on so long at `down`; then they are given back */
};

/* ---- preparing ---- */

static mq_code make_dirs(const mq_launch *u, mq_error *err)
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
static mq_code take_lock(mq_launch *u, mq_error *err)
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
static int64_t pick_port(const mq_launch *u, int64_t asked, int64_t usual)
{
    if (asked != 0) {
        return asked;
    }
    return u->is_default_dir && port_is_free(usual) ? usual : 0;
}

static bool find_program(const mq_launch *u, const char *name, char *out, size_t size)
{
    (void)snprintf(out, size, "%s/%s", u->bin, name);
    return access(out, X_OK) == 0;
}

mq_code mq_launch_prepare(mq_launch *u, mq_error *err)
{
    mq_code code = make_dirs(u, err);
    return code != MQ_OK ? code : take_lock(u, err);
}

/* ---- the processes ---- */

static mq_member *add(mq_launch *u, const char *name, const char *program)
{
    mq_member *member = mq_family_add(&u->family, name, program);
    if (member != NULL) {
        (void)snprintf(member->log, sizeof member->log, "%s/log/%s.log", u->dir, name);
    }
    return member;
}

/* Through `maasq redis serve`, which repairs the log before each start and then becomes the server.
 */
static mq_code add_redis(mq_launch *u, const char *name, mq_error *err)
{
    char program[600];
    if (!find_program(u, "maasq", program, sizeof program)) {
        return mq_fail(err, MQ_E_NOT_FOUND, "%s is missing; build it with `make`", program);
    }
    char process[32];
    (void)snprintf(process, sizeof process, "redis-%s", name);
    mq_member *redis = add(u, process, program);
    mq_member_arg(redis, "redis");
    mq_member_arg(redis, "serve");
    mq_member_arg(redis, "%s/%s", u->dir, name);
    mq_member_arg(redis, "%s/run/%s.conf", u->dir, name);
    redis->death_signal = SIGTERM;
    redis->stop_ms = 30000;
    return MQ_OK;
}

/* Where a broker and its clients meet on this host: the first one at its port, others beside it. */
static void add_broker_front(mq_launch *u, mq_member *broker, int64_t index)
{
    int64_t port = index == 0 ? pick_port(u, u->port, PORT_DEFAULT) : 0;
    if (index > 0) {
        mq_member_arg(broker, "ipc://%s/run/front-%lld", u->dir, (long long)index);
    } else if (port == 0) {
        mq_member_arg(broker, "tcp://127.0.0.1:*");
    } else {
        mq_member_arg(broker, "tcp://127.0.0.1:%lld", (long long)port);
    }
}

static void back_of(const mq_launch *u, int64_t index, char *out, size_t size)
{
    if (index == 0) {
        (void)snprintf(out, size, "ipc://%s/run/back", u->dir);
    } else {
        (void)snprintf(out, size, "ipc://%s/run/back-%lld", u->dir, (long long)index);
    }
}

static mq_code add_broker(mq_launch *u, int64_t index, mq_error *err)
{
    char program[600], name[32] = "broker", back[300];
    if (!find_program(u, "maasq-broker", program, sizeof program)) {
        return mq_fail(err, MQ_E_NOT_FOUND, "%s is missing; build it with `make`", program);
    }
    if (index > 0) {
        (void)snprintf(name, sizeof name, "broker-%lld", (long long)index);
    }
    mq_member *broker = add(u, name, program);
    u->broker = index == 0 ? broker : u->broker;
    mq_member_arg(broker, "--name");
    mq_member_arg(broker, "%s", name);
    mq_member_arg(broker, "--front");
    u->broker_front_arg = index == 0 ? broker->argc : u->broker_front_arg;
    add_broker_front(u, broker, index);
    back_of(u, index, back, sizeof back);
    mq_member_arg(broker, "--back");
    mq_member_arg(broker, "%s", back);
    if (u->shards > 0) {
        mq_member_arg(broker, "--shards");
        mq_member_arg(broker, "%lld", (long long)u->shards);
    }
    static const struct {
        const char *option, *server, *user;
    } urls[] = {{"--store", "state", "broker"},
                {"--blobs", "blobs", "broker"},
                {"--blobs-told", "blobs", "worker"}};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        char url[MQ_SYSTEM_URL_MAX];
        mq_redis_url(u->dir, urls[i].server, urls[i].user, url, sizeof url);
        mq_member_arg(broker, "%s", urls[i].option);
        mq_member_arg(broker, "%s", url);
    }
    if (index == 0) {
        mq_member_arg(broker, "--endpoint-file");
        mq_member_arg(broker, "%s/run/broker", u->dir);
    }
    mq_member_arg(broker, "--init");
    mq_member_arg(broker, "--witness"); /* removed by hand to accept older data on purpose */
    mq_member_arg(broker, "%s/%s%s", u->dir, "witness", name + strlen("broker"));
    return MQ_OK;
}

static mq_code add_workers(mq_launch *u, mq_error *err)
{
    char program[600];
    if (!find_program(u, "maasq-worker", program, sizeof program)) {
        return mq_fail(err, MQ_E_NOT_FOUND, "%s is missing; build it with `make`", program);
    }
    for (int64_t i = 1; i <= u->workers; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "worker-%lld", (long long)i);
        mq_member *worker = add(u, name, program);
        worker->may_end = true;
        mq_member_arg(worker, "--broker");
        mq_member_arg(worker, "ipc://%s/run/back", u->dir);
        mq_member_arg(worker, "--name");
        mq_member_arg(worker, "%s", name);
        mq_member_arg(worker, "--slots");
        mq_member_arg(worker, "%lld", (long long)u->slots);
        mq_member_arg(worker, "--cache");
        mq_member_arg(worker, "%s/cache", u->dir);
        mq_member_arg(worker, "--drain-ms");
        mq_member_arg(worker, "%d", DRAIN_MS);
        for (int k = 0; k < u->worker_arg_count; k++) {
            mq_member_arg(worker, "%s", u->worker_args[k]);
        }
    }
    return MQ_OK;
}

/* The gateway is optional: a build without libmicrohttpd has none. */
static bool add_gateway(mq_launch *u)
{
    char program[600];
    if (!find_program(u, "maasq-gateway", program, sizeof program)) {
        return false;
    }
    int64_t port = pick_port(u, u->gateway_port, GATEWAY_PORT_DEFAULT);
    u->gateway = add(u, "gateway", program);
    mq_member_arg(u->gateway, "--broker");
    mq_member_arg(u->gateway, "%s", u->front);
    mq_member_arg(u->gateway, "--listen");
    u->gateway_listen_arg = u->gateway->argc;
    mq_member_arg(u->gateway, "127.0.0.1:%lld", (long long)port);
    mq_member_arg(u->gateway, "--endpoint-file");
    mq_member_arg(u->gateway, "%s/run/gateway", u->dir);
    return true;
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

static mq_code wait_until(mq_launch *u, bool (*is_ready)(mq_launch *), const char *what,
                          mq_error *err)
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
static bool redis_answers(const mq_launch *u, const char *name)
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

static bool both_redis_answer(mq_launch *u)
{
    return redis_answers(u, "state") && redis_answers(u, "blobs");
}

/* A program writes its bound endpoints to a file once it is ready: the first one that begins with
 * `scheme`. */
static bool read_endpoint(const mq_launch *u, const char *file, const char *scheme, char *out,
                          size_t size)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/run/%s", u->dir, file);
    mq_buf text;
    mq_buf_init(&text, 4096);
    bool is_bound = false;
    if (access(path, R_OK) == 0 && mq_file_read(path, &text, NULL) == MQ_OK &&
        mq_buf_add(&text, "", 1)) {
        const char *at = strstr((const char *)text.data, scheme);
        is_bound = at != NULL && mq_span_copy(mq_span_of(at, strcspn(at, " \t\r\n\",")), out, size);
    }
    mq_buf_release(&text);
    return is_bound;
}

static bool broker_is_bound(mq_launch *u)
{
    return read_endpoint(u, "broker", "tcp://", u->front, sizeof u->front);
}

static bool gateway_is_bound(mq_launch *u)
{
    return read_endpoint(u, "gateway", "http://", u->gateway_url, sizeof u->gateway_url);
}

static bool workers_are_there(mq_launch *u)
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

json_t *mq_launch_json(const mq_launch *u)
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

mq_code mq_launch_write(const mq_launch *u, mq_error *err)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/maasq.json", u->dir);
    json_t *root = mq_launch_json(u);
    char *text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    if (text == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for %s", path);
    }
    mq_code code = mq_file_write(path, mq_str(text), 0600, err);
    free(text);
    return code;
}

void mq_launch_forget(const char *dir)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/maasq.json", dir);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/run/broker", dir);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/run/gateway", dir);
    (void)unlink(path);
}

/* ---- starting ---- */

/* A supervisor that was killed leaves its children dying; they must be gone before new ones start.
 */
void mq_launch_end_leftovers(const char *dir)
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
    mq_launch_forget(dir);
}

static mq_code start_range(mq_launch *u, int from, mq_error *err)
{
    for (int i = from; i < u->family.count; i++) {
        mq_code code = mq_member_start(&u->family.members[i], err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code start_redis(mq_launch *u, mq_error *err)
{
    mq_code code = mq_redis_conf_write(u->dir, err);
    if (code != MQ_OK) {
        return code;
    }
    code = add_redis(u, "state", err);
    code = code != MQ_OK ? code : add_redis(u, "blobs", err);
    code = code != MQ_OK ? code : start_range(u, 0, err);
    code = code != MQ_OK ? code : wait_until(u, both_redis_answer, "redis", err);
    char url[MQ_SYSTEM_URL_MAX];
    mq_redis_url(u->dir, "state", "deploy", url, sizeof url);
    return code != MQ_OK ? code : mq_store_redis_load(url, err);
}

/* Whoever is restarted must be where it was: a free port that was found becomes a fixed one. */
static mq_code fix_arg(mq_member *member, int index, const char *value, mq_error *err)
{
    char *copy = strdup(value);
    if (copy == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory");
    }
    free(member->argv[index]);
    member->argv[index] = copy;
    return MQ_OK;
}

static mq_code start_broker(mq_launch *u, mq_error *err)
{
    int first = u->family.count;
    mq_code code = MQ_OK;
    for (int64_t i = 0; code == MQ_OK && i < mq_max_i64(u->brokers, 1); i++) {
        code = add_broker(u, i, err);
    }
    code = code != MQ_OK ? code : start_range(u, first, err);
    code = code != MQ_OK ? code : wait_until(u, broker_is_bound, "the broker", err);
    return code != MQ_OK ? code : fix_arg(u->broker, u->broker_front_arg, u->front, err);
}

static mq_code start_gateway(mq_launch *u, mq_error *err)
{
    if (!add_gateway(u)) {
        return MQ_OK;
    }
    mq_code code = start_range(u, u->family.count - 1, err);
    code = code != MQ_OK ? code : wait_until(u, gateway_is_bound, "the gateway", err);
    return code != MQ_OK ? code
                         : fix_arg(u->gateway, u->gateway_listen_arg,
                                   u->gateway_url + strlen("http://"), err);
}

static mq_code start_workers(mq_launch *u, mq_error *err)
{
    int first = u->family.count;
    mq_code code = add_workers(u, err);
    code = code != MQ_OK ? code : start_range(u, first, err);
    return code != MQ_OK ? code : wait_until(u, workers_are_there, "the workers", err);
}

mq_code mq_launch_start(mq_launch *u, mq_error *err)
{
    mq_launch_end_leftovers(u->dir);
    mq_code code = start_redis(u, err);
    code = code != MQ_OK ? code : start_broker(u, err);
    code = code != MQ_OK ? code : start_workers(u, err);
    code = code != MQ_OK ? code : start_gateway(u, err);
    return code != MQ_OK ? code : mq_launch_write(u, err);
}
