/* What it costs here to hand something to another process and get it back; see ceiling.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cli/ceiling.h"
#include "shared/base/clock.h"
#include "shared/base/span.h"

enum { WAIT_MS = 30000 };

/* As both sides of a slot's socket do: poll, then read. */
static bool take(int fd, uint64_t *word)
{
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, WAIT_MS) == 1 && read(fd, word, sizeof *word) == (ssize_t)sizeof *word;
}

static bool give(int fd, uint64_t word)
{
    return write(fd, &word, sizeof word) == (ssize_t)sizeof word;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

mq_code mq_wake_run(uint32_t count, double *p50_ms, mq_error *err)
{
    int pair[2];
    double *each = calloc(count, sizeof *each);
    if (each == NULL || count == 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
        free(each);
        return mq_fail(err, MQ_E_LIMIT, "no socketpair for a hand-over: %s", strerror(errno));
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        uint64_t word = 0;
        bool is_up = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
        (void)close(pair[0]);
        while (is_up && take(pair[1], &word)) {
            is_up = give(pair[1], word);
        }
        _exit(0);
    }
    (void)close(pair[1]);
    bool is_up = pid > 0;
    for (uint32_t i = 0; i < count && is_up; i++) {
        uint64_t word = i;
        int64_t start_ns = mq_clock_mono_ns();
        is_up = give(pair[0], i) && take(pair[0], &word) && word == i;
        each[i] = (double)(mq_clock_mono_ns() - start_ns) / 1e6;
    }
    (void)close(pair[0]);
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
    qsort(each, count, sizeof *each, by_size);
    *p50_ms = each[count / 2];
    free(each);
    return is_up ? MQ_OK : mq_fail(err, MQ_E_TIMEOUT, "the other process answers nothing");
}
