/* Kind "crash": {"signal":9,"attempts":n?} kills its own process by that signal, in every attempt
 * or only in the first n (then it succeeds with {"survived_attempt":a}). The planted poison that
 * shows that a dying slot harms nobody else. */
#include <signal.h>
#include <stdlib.h>

#include "worker/kinds/body.h"
#include "worker/kinds/kind.h"

mq_kind_run mq_kind_run_crash;

static const int deadly[] = {SIGKILL, SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGTERM};

static mq_code die(int64_t number, mq_error *err)
{
    for (size_t i = 0; i < sizeof deadly / sizeof deadly[0]; i++) {
        if (deadly[i] == number) {
            signal(deadly[i], SIG_DFL);
            raise(deadly[i]);
            abort();
        }
    }
    return mq_fail(err, MQ_E_ARG,
                   "signal: %lld is not one of 4 (ILL), 6 (ABRT), 7 (BUS), 8 (FPE), 9 (KILL), "
                   "11 (SEGV), 15 (TERM)",
                   (long long)number);
}

mq_code mq_kind_run_crash(mq_host *host, mq_error *err)
{
    int64_t number = SIGKILL, attempts = INT64_MAX;
    mq_body body;
    mq_code code =
        mq_body_open(&body, host->body, (const char *[]){"signal", "attempts", NULL}, err);
    if (code == MQ_OK) {
        code = mq_body_int(&body, "signal", 1, 64, &number, err);
    }
    if (code == MQ_OK) {
        code = mq_body_int(&body, "attempts", 0, 1000, &attempts, err);
    }
    mq_body_close(&body);
    if (code != MQ_OK) {
        return code;
    }
    if (host->attempt <= attempts) {
        return die(number, err);
    }
    char text[48];
    int len = snprintf(text, sizeof text, "{\"survived_attempt\":%u}", host->attempt);
    return host->ops->result(host, mq_span_of(text, (size_t)len), err);
}
