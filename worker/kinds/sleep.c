/* Kind "sleep": {"ms":n,"progress":true?}. Waits and asks again and again whether to stop, so that
 * cancelling, leases and drain can be tried out. Result {"slept_ms":n}. */
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "worker/kinds/body.h"
#include "worker/kinds/kind.h"

mq_kind_run mq_kind_run_sleep;

enum { SLICE_MS = 5, SLEEP_MS_MAX = 3600000, PROGRESS_MS = 200 };

static void tell(mq_host *host, int64_t done_ms, int64_t ms)
{
    char text[96];
    int len = snprintf(text, sizeof text, "{\"done_ms\":%lld,\"ms\":%lld,\"fraction\":%.3f}",
                       (long long)done_ms, (long long)ms, (double)done_ms / (double)ms);
    host->ops->progress(host, mq_span_of(text, (size_t)len));
}

mq_code mq_kind_run_sleep(mq_host *host, mq_error *err)
{
    int64_t ms = -1;
    bool with_progress = false;
    mq_body body;
    mq_code code = mq_body_open(&body, host->body, (const char *[]){"ms", "progress", NULL}, err);
    if (code == MQ_OK) {
        code = mq_body_int(&body, "ms", 0, SLEEP_MS_MAX, &ms, err);
    }
    if (code == MQ_OK && ms < 0) {
        code = mq_fail(err, MQ_E_ARG, "ms: is required, 0..%d", SLEEP_MS_MAX);
    }
    if (code == MQ_OK) {
        code = mq_body_flag(&body, "progress", &with_progress, err);
    }
    mq_body_close(&body);
    int64_t start = mq_clock_mono_ms(), told = start;
    while (code == MQ_OK) {
        int64_t now = mq_clock_mono_ms();
        if (now - start >= ms) {
            break;
        }
        if (with_progress && now - told >= PROGRESS_MS) {
            told = now;
            tell(host, now - start, ms);
        }
        mq_clock_sleep_ms(mq_min_i64(SLICE_MS, ms - (now - start)));
        code = host->ops->check(host, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    char text[48];
    int len =
        snprintf(text, sizeof text, "{\"slept_ms\":%lld}", (long long)(mq_clock_mono_ms() - start));
    return host->ops->result(host, mq_span_of(text, (size_t)len), err);
}
