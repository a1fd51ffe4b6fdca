/* Starts, kills and reaps slot processes; see slot_process.h. Knows no jobs. */
#include "worker/io/slot_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"

enum { SLOT_FD = 3, SLOT_FILES_MAX = 256, SOCKET_BYTES = 1 << 20, ARGS_MAX = 3 + 2 * 96 };

/* Shared memory of one page: its descriptor and our own map of it. */
static mq_code page_new(const char *name, size_t bytes, int *fd, void **map, mq_error *err)
{
    *fd = memfd_create(name, MFD_CLOEXEC);
    if (*fd < 0 || ftruncate(*fd, (off_t)bytes) != 0) {
        return mq_fail(err, MQ_E_IO, "slot page: %s", strerror(errno));
    }
    *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (*map == MAP_FAILED) {
        *map = NULL;
        return mq_fail(err, MQ_E_IO, "slot page: %s", strerror(errno));
    }
    return MQ_OK;
}

mq_code mq_slot_process_init(mq_slot_process *p, uint32_t index, mq_error *err)
{
    *p = (mq_slot_process){.index = index,
                           .backoff_ms = MQ_SLOT_BACKOFF_MS,
                           .page_fd = -1,
                           .claims_fd = -1,
                           .stream = {.fd = -1}};
    void *map = NULL;
    mq_code code = page_new("maasq-slot-page", sizeof *p->page, &p->page_fd, &map, err);
    p->page = map;
    if (code == MQ_OK) {
        code = page_new("maasq-slot-claims", sizeof *p->claims, &p->claims_fd, &map, err);
        p->claims = map;
    }
    return code;
}

static void page_free(void *map, size_t bytes, int *fd)
{
    if (map != NULL) {
        munmap(map, bytes);
    }
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

void mq_slot_process_release(mq_slot_process *p)
{
    if (p->pid > 0) {
        kill(p->pid, SIGKILL);
        while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR) {
        }
        p->pid = 0;
    }
    mq_stream_release(&p->stream);
    page_free(p->page, sizeof *p->page, &p->page_fd);
    p->page = NULL;
    page_free(p->claims, sizeof *p->claims, &p->claims_fd);
    p->claims = NULL;
}

/* In the child, between fork and exec: only async-signal-safe calls. */
static _Noreturn void child(int fd, pid_t parent, const mq_slot_settings *settings)
{
    static char name[] = "maasq-worker", flag[] = "--slot", number[] = "3";
    char *argv[ARGS_MAX + 1] = {name, flag, number, NULL};
    for (int i = 3; settings->argv != NULL && settings->argv[i - 3] != NULL && i < ARGS_MAX; i++) {
        argv[i] = settings->argv[i - 3];
    }
    sigset_t none;
    sigemptyset(&none);
    struct rlimit core = {0, 0}, files = {SLOT_FILES_MAX, SLOT_FILES_MAX};
    struct rlimit as = {settings->address_bytes, settings->address_bytes};
    int null = open("/dev/null", O_RDONLY);
    bool is_set = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent &&
                  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && setpgid(0, 0) == 0 && null >= 0 &&
                  dup2(null, 0) == 0 && setrlimit(RLIMIT_CORE, &core) == 0 &&
                  (settings->address_bytes == 0 || setrlimit(RLIMIT_AS, &as) == 0) &&
                  sigprocmask(SIG_SETMASK, &none, NULL) == 0;
    /* dup2 onto itself would keep the close-on-exec flag. */
    is_set = is_set && (fd == SLOT_FD ? fcntl(fd, F_SETFD, 0) == 0 : dup2(fd, SLOT_FD) == SLOT_FD);
    if (is_set) {
        (void)close_range(SLOT_FD + 1, ~0U, 0);
        (void)setrlimit(RLIMIT_NOFILE, &files);
        execve("/proc/self/exe", argv, settings->envp);
    }
    _exit(127);
}

static mq_code send_start(mq_slot_process *p, const mq_slot_settings *settings, mq_error *err)
{
    mq_slot_start m = {.memory_bytes_max = settings->memory_bytes,
                       .want_fingerprint = settings->want_fingerprint};
    /* The slot may only look: a descriptor of its own that cannot be written through. */
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", p->page_fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return mq_fail(err, MQ_E_IO, "slot page: %s: %s", path, strerror(errno));
    }
    mq_code code = mq_stream_send(&p->stream, MQ_FRAME_start, &m, fd, err);
    close(fd);
    mq_slot_claims claims = {.runs_max = MQ_SLOT_RUNS_MAX};
    return code != MQ_OK ? code
                         : mq_stream_send(&p->stream, MQ_FRAME_claims, &claims, p->claims_fd, err);
}

mq_code mq_slot_process_start(mq_slot_process *p, const mq_slot_settings *settings, int64_t now_ms,
                              mq_error *err)
{
    int pair[2];
    MQ_ASSERT(p->state == MQ_SLOT_DOWN && p->pid == 0);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return mq_fail(err, MQ_E_IO, "slot: socketpair: %s", strerror(errno));
    }
    for (int i = 0; i < 2; i++) {
        int bytes = SOCKET_BYTES; /* fewer wake-ups for gang pieces; a smaller one works too */
        (void)setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        child(pair[1], parent, settings);
    }
    int failure = errno;
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return mq_fail(err, MQ_E_IO, "slot: fork: %s", strerror(failure));
    }
    mq_stream_release(&p->stream);
    mq_stream_init(&p->stream, pair[0], MQ_SLOT_QUEUE_BYTES);
    p->pid = pid;
    p->generation++;
    p->state = MQ_SLOT_STARTING;
    p->start_ms = now_ms;
    p->is_running = p->is_unsent = false;
    p->ring_head = p->frames_handled = 0;
    atomic_store(&p->claims->ring.head, 0);
    atomic_store(&p->claims->ring.tail, 0);
    return send_start(p, settings, err);
}

void mq_slot_process_kill(mq_slot_process *p)
{
    if (p->pid > 0) {
        kill(p->pid, SIGKILL);
    }
    if (p->state != MQ_SLOT_DOWN) {
        p->state = MQ_SLOT_DYING;
    }
}

bool mq_slot_process_is_ended(const mq_slot_process *p)
{
    siginfo_t info = {0};
    return p->pid > 0 && waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == p->pid;
}

bool mq_slot_process_reap(mq_slot_process *p, int64_t now_ms, char *why, size_t why_size)
{
    int status = 0;
    if (p->pid <= 0 || waitpid(p->pid, &status, WNOHANG) != p->pid) {
        return false;
    }
    if (WIFSIGNALED(status)) {
        (void)snprintf(why, why_size, "signal %d", WTERMSIG(status));
    } else {
        (void)snprintf(why, why_size, "exit status %d", WEXITSTATUS(status));
    }
    mq_stream_release(&p->stream);
    p->pid = 0;
    p->state = MQ_SLOT_DOWN;
    p->is_running = false;
    p->start_ms = now_ms + p->backoff_ms;
    p->backoff_ms = mq_min_i64(p->backoff_ms * 2, MQ_SLOT_BACKOFF_MS_MAX);
    return true;
}
