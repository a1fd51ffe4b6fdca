/* One attempt of an exec kind: feeds the program, collects what it says, judges how it ended. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "worker/own/exec.h"
#include "worker/slot/outcome.h"

enum { CHUNK = 65536, READS_A_TURN = 16 };

typedef struct run {
    mq_host *host;
    mq_exec_child child;
    size_t fed; /* bytes of the body that the program has taken */
    mq_buf result;
    mq_exec_lines lines;
    uint8_t
        tail[2 * MQ_EXEC_TAIL_BYTES]; /* the end of standard error, in its last tail_len bytes */
    size_t tail_len;
    bool is_stopped; /* SIGTERM was sent */
    int64_t kill_ms;
    bool is_too_long;
} run;

static void close_end(int *fd)
{
    close(*fd);
    *fd = -1;
}

static void feed(run *r)
{
    const mq_span *body = &r->host->body;
    while (r->fed < body->len) {
        ssize_t n = write(r->child.in, body->data + r->fed, mq_min_size(body->len - r->fed, CHUNK));
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        if (n < 0) { /* it reads no more, which is its right */
            break;
        }
        r->fed += (size_t)n;
    }
    close_end(&r->child.in);
}

static void tail_add(run *r, mq_span bytes)
{
    size_t keep = sizeof r->tail;
    if (bytes.len >= keep) {
        bytes = mq_span_of(bytes.data + bytes.len - keep, keep);
        r->tail_len = 0;
    }
    size_t over = r->tail_len + bytes.len > keep ? r->tail_len + bytes.len - keep : 0;
    memmove(r->tail, r->tail + over, r->tail_len - over);
    r->tail_len -= over;
    memcpy(r->tail + r->tail_len, bytes.data, bytes.len);
    r->tail_len += bytes.len;
}

static void take(run *r, const int *from, mq_span bytes)
{
    if (from == &r->child.err) {
        tail_add(r, bytes);
    } else if (from == &r->child.lines) {
        mq_exec_lines_add(&r->lines, r->host, bytes);
    } else if (!mq_buf_add(&r->result, bytes.data, bytes.len)) {
        r->is_too_long = true;
        mq_exec_signal(&r->child, SIGKILL);
    }
}

/* Reads what is there; false when nothing was. */
static bool drain(run *r, int *fd, int reads)
{
    uint8_t chunk[CHUNK];
    bool had_some = false;
    for (int i = 0; i < reads && *fd >= 0; i++) {
        ssize_t n = read(*fd, chunk, sizeof chunk);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            break;
        }
        if (n <= 0) {
            close_end(fd);
            break;
        }
        had_some = true;
        take(r, fd, mq_span_of(chunk, (size_t)n));
    }
    return had_some;
}

/* Soft: SIGTERM to all of the job's processes, then SIGKILL. */
static void look_for_cancel(run *r)
{
    int64_t now_ms = mq_clock_mono_ms();
    if (!r->is_stopped && r->host->ops->check(r->host, NULL) != MQ_OK) {
        r->is_stopped = true;
        r->kill_ms = now_ms + MQ_EXEC_TERM_MS;
        mq_exec_signal(&r->child, SIGTERM);
    } else if (r->is_stopped && now_ms >= r->kill_ms) {
        mq_exec_signal(&r->child, SIGKILL);
    }
}

/* Until the program itself has ended. What others that it started write later is not waited for. */
static void pump(run *r)
{
    for (bool is_ended = false; !is_ended;) {
        struct pollfd p[] = {{r->child.pidfd, POLLIN, 0},
                             {r->child.in, POLLOUT, 0},
                             {r->child.out, POLLIN, 0},
                             {r->child.err, POLLIN, 0},
                             {r->child.lines, POLLIN, 0}};
        (void)poll(p, sizeof p / sizeof p[0], MQ_EXEC_POLL_MS);
        is_ended = p[0].revents != 0;
        if (p[1].revents != 0) {
            feed(r);
        }
        (void)drain(r, &r->child.out, READS_A_TURN);
        (void)drain(r, &r->child.err, READS_A_TURN);
        (void)drain(r, &r->child.lines, READS_A_TURN);
        look_for_cancel(r);
    }
    /* A pipe holds at most some hundred KiB; another writer must not keep us here. */
    (void)drain(r, &r->child.out, READS_A_TURN);
    (void)drain(r, &r->child.err, READS_A_TURN);
    (void)drain(r, &r->child.lines, READS_A_TURN);
    mq_exec_lines_add(&r->lines, r->host, mq_str("\n")); /* a last line without its end */
}

/* ": " and the end of standard error, or nothing. */
static void add_tail(run *r, mq_error *err)
{
    char text[MQ_EXEC_TAIL_BYTES];
    size_t len = r->tail_len, at = len > sizeof text ? len - sizeof text : 0;
    while (at < len && (r->tail[at] & 0xC0) == 0x80) {
        at++; /* not in the middle of a letter */
    }
    while (len > at && r->tail[len - 1] <= ' ') {
        len--;
    }
    mq_span clean = mq_own_clean(mq_span_of(r->tail + at, len - at), text, sizeof text);
    size_t head = strlen(err->text);
    if (clean.len > 0) {
        (void)snprintf(err->text + head, sizeof err->text - head, ": %.*s", MQ_SPAN_ARG(clean));
    }
}

/* 75 and the three of sysexits.h that are about the machine, not the input. */
static bool is_retryable(int status)
{
    return status == MQ_EXEC_TEMPFAIL || status == 69 || status == 71 || status == 74;
}

static mq_code judge(run *r, int status, mq_error *err)
{
    mq_code code = MQ_OK;
    if (r->is_stopped) {
        return mq_fail(err, MQ_E_CANCELLED, "stopped by SIGTERM");
    }
    if (r->is_too_long) {
        return mq_fail(err, MQ_E_LIMIT, "result: more than %d bytes on standard output",
                       MQ_RESULT_BYTES_MAX);
    }
    if (WIFSIGNALED(status)) {
        r->host->is_crash = true;
        code = mq_fail(err, MQ_E_INTERNAL, "signal %d", WTERMSIG(status));
    } else if (WEXITSTATUS(status) != 0) {
        code = mq_fail(err, is_retryable(WEXITSTATUS(status)) ? MQ_E_INTERNAL : MQ_E_FAILED,
                       "exit status %d", WEXITSTATUS(status));
    }
    if (code != MQ_OK) {
        add_tail(r, err);
        return code;
    }
    if (r->lines.error.code != MQ_OK) {
        return mq_fail(err, MQ_E_FAILED, "%s", r->lines.error.text);
    }
    return r->host->ops->result(r->host, mq_buf_span(&r->result), err);
}

mq_code mq_exec_run(mq_host *host, const mq_own_kind *kind, mq_error *err)
{
    run r = {.host = host};
    mq_code code = mq_exec_start(&r.child, kind->what, host, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_buf_init(&r.result, MQ_RESULT_BYTES_MAX);
    mq_buf_init(&r.lines.buf, MQ_EXEC_LINE_BYTES_MAX);
    pump(&r);
    int status = mq_exec_end(&r.child);
    code = judge(&r, status, err);
    mq_buf_release(&r.result);
    mq_buf_release(&r.lines.buf);
    return code;
}
