/* Starts and ends the processes of one job; see exec.h. Knows no results. */
#include "worker/own/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/math.h"

enum { PIPES = 5, ENTRIES_MAX = 128, TEXT_MAX = 256, REAP_ROUNDS_MAX = 100, ORPHANS_MAX = 64 };

typedef struct ends {
    int read, write;
} ends;

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

static mq_code pipes_open(ends pipes[PIPES], mq_error *err)
{
    for (int i = 0; i < PIPES; i++) {
        int pair[2];
        if (pipe2(pair, O_CLOEXEC) != 0) {
            return mq_fail(err, MQ_E_IO, "exec: pipe: %s", strerror(errno));
        }
        pipes[i] = (ends){pair[0], pair[1]};
    }
    return MQ_OK;
}

/* In the guard, after fork: only async-signal-safe calls. Waits for the slot's end, then takes the
 * whole group with it, itself included. Its own end is SIGKILL by the slot. */
static _Noreturn void guard(int life)
{
    char byte;
    sigset_t all;
    sigfillset(&all); /* SIGTERM to the group is for the program */
    sigprocmask(SIG_SETMASK, &all, NULL);
    (void)setpgid(0, 0);
    (void)prctl(PR_SET_NAME, "maasq-guard");
    if (life != 0) {
        (void)dup2(life, 0);
    }
    (void)close_range(1, ~0U, 0);
    while (read(0, &byte, 1) < 0 && errno == EINTR) {
    }
    kill(0, SIGKILL);
    _exit(0);
}

static bool limit_set(int resource, uint64_t value)
{
    struct rlimit limit = {value, value};
    return value == 0 || setrlimit((__rlimit_resource_t)resource, &limit) == 0;
}

/* In the child, between fork and exec: only async-signal-safe calls. */
static _Noreturn void program_exec(const mq_exec_program *program, char *const *envp,
                                   const ends pipes[PIPES], pid_t group, pid_t slot)
{
    static const char cannot[] = "cannot be executed: ";
    sigset_t none;
    sigemptyset(&none);
    struct sigaction plain = {.sa_handler = SIG_DFL};
    bool is_set = setpgid(0, group) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 &&
                  getppid() == slot && dup2(pipes[0].read, 0) == 0 &&
                  dup2(pipes[1].write, 1) == 1 && dup2(pipes[2].write, 2) == 2 &&
                  sigaction(SIGPIPE, &plain, NULL) == 0 &&
                  sigprocmask(SIG_SETMASK, &none, NULL) == 0;
    /* dup2 onto itself would keep the close-on-exec flag. */
    is_set =
        is_set && (pipes[3].write == 3 ? fcntl(3, F_SETFD, 0) == 0 : dup2(pipes[3].write, 3) == 3);
    is_set = is_set && limit_set(RLIMIT_FSIZE, program->file_bytes) &&
             limit_set(RLIMIT_NOFILE, program->files) &&
             limit_set(RLIMIT_AS, program->memory_bytes);
    if (is_set) {
        (void)close_range(4, ~0U, 0);
        execve(program->argv[0], program->argv, envp);
        const char *why = strerrordesc_np(errno);
        (void)!write(2, cannot, sizeof cannot - 1);
        (void)!write(2, why, why == NULL ? 0 : strlen(why));
    }
    _exit(126);
}

/* The slot's environment and the job's own four. Borrows texts. */
static void environment_fill(char *envp[ENTRIES_MAX + 5], char texts[4][TEXT_MAX],
                             const mq_host *host)
{
    size_t n = 0;
    for (char **e = environ; *e != NULL && n < ENTRIES_MAX; e++) {
        if (strncmp(*e, "MAASQ_", 6) != 0) {
            envp[n++] = *e;
        }
    }
    (void)snprintf(texts[0], TEXT_MAX, "MAASQ_JOB_ID=%s", host->job_id);
    (void)snprintf(texts[1], TEXT_MAX, "MAASQ_KIND=%s", host->kind);
    (void)snprintf(texts[2], TEXT_MAX, "MAASQ_ATTEMPT=%u", host->attempt);
    (void)snprintf(texts[3], TEXT_MAX, "MAASQ_MODEL=%s", host->model);
    for (int i = 0; i < 4; i++) {
        envp[n++] = texts[i];
    }
    envp[n] = NULL;
}

static mq_code fork_both(mq_exec_child *child, const mq_exec_program *program, const mq_host *host,
                         const ends pipes[PIPES], mq_error *err)
{
    char *envp[ENTRIES_MAX + 5], texts[4][TEXT_MAX];
    pid_t slot = getpid();
    environment_fill(envp, texts, host);
    child->guard = fork();
    if (child->guard == 0) {
        guard(pipes[4].read);
    }
    if (child->guard < 0) {
        return mq_fail(err, MQ_E_IO, "exec: fork: %s", strerror(errno));
    }
    (void)setpgid(child->guard, child->guard); /* whoever is first: the group must be there now */
    child->pid = fork();
    if (child->pid == 0) {
        program_exec(program, envp, pipes, child->guard, slot);
    }
    if (child->pid < 0) {
        return mq_fail(err, MQ_E_IO, "exec: fork: %s", strerror(errno));
    }
    child->pidfd = pidfd_open(child->pid, 0);
    return child->pidfd >= 0 ? MQ_OK
                             : mq_fail(err, MQ_E_IO, "exec: pidfd_open: %s", strerror(errno));
}

static int keep(int fd)
{
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

mq_code mq_exec_start(mq_exec_child *child, const mq_exec_program *program, const mq_host *host,
                      mq_error *err)
{
    ends pipes[PIPES];
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    for (int i = 0; i < PIPES; i++) {
        pipes[i] = (ends){-1, -1};
    }
    *child = (mq_exec_child){.pidfd = -1, .in = -1, .out = -1, .err = -1, .lines = -1, .life = -1};
    (void)sigaction(SIGPIPE, &ignore, NULL); /* a program need not read its input */
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);  /* what it leaves behind comes to us */
    mq_code code = pipes_open(pipes, err);
    if (code == MQ_OK) {
        code = fork_both(child, program, host, pipes, err);
    }
    if (code == MQ_OK) {
        child->in = keep(pipes[0].write);
        child->out = keep(pipes[1].read);
        child->err = keep(pipes[2].read);
        child->lines = keep(pipes[3].read);
        child->life = pipes[4].write;
        pipes[0].write = pipes[4].write = -1;
        pipes[1].read = pipes[2].read = pipes[3].read = -1;
    }
    for (int i = 0; i < PIPES; i++) {
        close_fd(&pipes[i].read);
        close_fd(&pipes[i].write);
    }
    if (code != MQ_OK) {
        (void)mq_exec_end(child);
    }
    return code;
}

void mq_exec_signal(const mq_exec_child *child, int number)
{
    if (child->guard > 0) {
        (void)kill(-child->guard, number);
    }
}

static int reap(pid_t pid)
{
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

/* Children that left the group (setsid) came to us when their parents died. */
static void orphans_kill(void)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)gettid());
    for (int round = 0; round < REAP_ROUNDS_MAX; round++) {
        FILE *file = fopen(path, "re");
        int pid = 0, count = 0;
        /* The kernel's own numbers. NOLINTNEXTLINE(cert-err34-c) */
        while (file != NULL && count < ORPHANS_MAX && fscanf(file, "%d", &pid) == 1) {
            (void)kill((pid_t)pid, SIGKILL);
            (void)reap((pid_t)pid);
            count++;
        }
        if (file != NULL) {
            (void)fclose(file);
        }
        if (count == 0) {
            return;
        }
    }
}

int mq_exec_end(mq_exec_child *child)
{
    mq_exec_signal(child, SIGKILL);
    int status = reap(child->pid);
    (void)reap(child->guard);
    orphans_kill();
    close_fd(&child->pidfd);
    close_fd(&child->in);
    close_fd(&child->out);
    close_fd(&child->err);
    close_fd(&child->lines);
    close_fd(&child->life);
    child->pid = child->guard = 0;
    return status;
}
