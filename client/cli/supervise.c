/* Child processes of `maasq up`; see supervise.h. Must not know what the programs are. */
#include "client/cli/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum { STEADY_MS = 60000, TICK_MS = 10 };

mq_member *mq_family_add(mq_family *family, const char *name, const char *program)
{
    if (family->count == MQ_SYSTEM_MEMBERS_MAX) {
        return NULL;
    }
    mq_member *member = &family->members[family->count++];
    *member =
        (mq_member){.death_signal = SIGKILL, .stop_ms = 10000, .restart_ms = MQ_RESTART_MIN_MS};
    (void)snprintf(member->name, sizeof member->name, "%s", name);
    mq_member_arg(member, "%s", program);
    return member;
}

void mq_member_arg(mq_member *member, const char *fmt, ...)
{
    MQ_ASSERT(member->argc < MQ_MEMBER_ARGS_MAX);
    va_list args;
    va_start(args, fmt);
    char *text = NULL;
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    MQ_ASSERT(n >= 0);
    member->argv[member->argc++] = text;
}

/* In the child: only async-signal-safe calls until exec. */
static void run_child(const mq_member *member, pid_t parent)
{
    (void)prctl(PR_SET_PDEATHSIG, member->death_signal);
    if (getppid() != parent) {
        _exit(126);
    }
    (void)setpgid(0, 0); /* a Ctrl-C at the terminal is for the supervisor, which stops in order */
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    int in = open("/dev/null", O_RDONLY);
    int log = open(member->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (in < 0 || log < 0 || dup2(in, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) {
        _exit(126);
    }
    (void)execvp(member->argv[0], member->argv);
    _exit(127);
}

mq_code mq_member_start(mq_member *member, mq_error *err)
{
    pid_t parent = getpid();
    member->restart_at_ms = 0;
    pid_t pid = fork();
    if (pid < 0) {
        return mq_fail(err, MQ_E_IO, "%s: fork: %s", member->name, strerror(errno));
    }
    if (pid == 0) {
        run_child(member, parent);
    }
    member->process = (mq_process){pid, mq_process_start(pid)};
    member->started_ms = mq_clock_mono_ms();
    return MQ_OK;
}

static void note_death(mq_family *family, pid_t pid, int status)
{
    for (int i = 0; i < family->count; i++) {
        mq_member *member = &family->members[i];
        if (member->process.pid != pid) {
            continue;
        }
        int64_t now_ms = mq_clock_mono_ms();
        member->process = (mq_process){0};
        if (family->is_stopping) {
            return;
        }
        if (member->may_end && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            fprintf(stderr, "maasq up: %s (pid %ld) has ended and stays away\n", member->name,
                    (long)pid);
            return;
        }
        if (now_ms - member->started_ms > STEADY_MS) {
            member->restart_ms = MQ_RESTART_MIN_MS;
        }
        member->restart_at_ms = now_ms + member->restart_ms;
        fprintf(stderr,
                "maasq up: %s (pid %ld) ended with %s %d; starting it again in %lld ms, see %s\n",
                member->name, (long)pid, WIFSIGNALED(status) ? "signal" : "status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
                (long long)member->restart_ms, member->log);
        member->restart_ms = mq_min_i64(member->restart_ms * 2, MQ_RESTART_MAX_MS);
    }
}

static bool reap(mq_family *family)
{
    bool changed = false;
    int status = 0;
    pid_t pid = 0;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        note_death(family, pid, status);
        changed = true;
    }
    return changed;
}

void mq_family_tend(mq_family *family, bool *changed)
{
    *changed = reap(family);
    int64_t now_ms = mq_clock_mono_ms();
    for (int i = 0; i < family->count; i++) {
        mq_member *member = &family->members[i];
        if (member->restart_at_ms == 0 || member->restart_at_ms > now_ms) {
            continue;
        }
        mq_error err;
        member->restarts++;
        *changed = true;
        if (mq_member_start(member, &err) != MQ_OK) {
            fprintf(stderr, "maasq up: %s\n", err.text);
            member->restart_at_ms = now_ms + MQ_RESTART_MAX_MS;
        }
    }
}

int64_t mq_family_pause_ms(const mq_family *family, int64_t limit_ms)
{
    int64_t now_ms = mq_clock_mono_ms();
    for (int i = 0; i < family->count; i++) {
        if (family->members[i].restart_at_ms != 0) {
            limit_ms = mq_min_i64(limit_ms, family->members[i].restart_at_ms - now_ms);
        }
    }
    return mq_max_i64(limit_ms, 0);
}

/* Members from..to-1 get SIGTERM together, and SIGKILL when their time is over. */
static void stop_range(mq_family *family, int from, int to)
{
    int64_t start_ms = mq_clock_mono_ms();
    for (int i = from; i < to; i++) {
        if (family->members[i].process.pid > 0) {
            (void)kill(family->members[i].process.pid, SIGTERM);
        }
    }
    bool is_left = true;
    while (is_left) {
        (void)reap(family);
        is_left = false;
        for (int i = from; i < to; i++) {
            const mq_member *member = &family->members[i];
            if (member->process.pid == 0) {
                continue;
            }
            is_left = true;
            if (mq_clock_mono_ms() - start_ms > member->stop_ms) {
                (void)kill(member->process.pid, SIGKILL);
            }
        }
        if (is_left) {
            mq_clock_sleep_ms(TICK_MS);
        }
    }
}

void mq_family_stop(mq_family *family)
{
    family->is_stopping = true;
    for (int i = 0; i < family->count; i++) {
        family->members[i].restart_at_ms = 0;
    }
    /* Neighbours of one program (worker-1, worker-2) stop together. */
    int to = family->count;
    while (to > 0) {
        int from = to - 1;
        while (from > 0 &&
               strcmp(family->members[from - 1].argv[0], family->members[to - 1].argv[0]) == 0) {
            from--;
        }
        stop_range(family, from, to);
        to = from;
    }
}

void mq_family_release(mq_family *family)
{
    for (int i = 0; i < family->count; i++) {
        for (int k = 0; k < family->members[i].argc; k++) {
            free(family->members[i].argv[k]);
        }
    }
    family->count = 0;
}
