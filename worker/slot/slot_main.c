/* The slot process: takes a job, runs its kind, says how it ended. It has one socket, to its
 * supervisor, and no keys; a crash here costs one attempt of one job. */
#include "worker/slot/slot_main.h"

#include <stdlib.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "worker/blas/blas.h"
#include "worker/kinds/kind.h"
#include "worker/slot/slot_host.h"
#include "worker/train/fingerprint.h"

enum { START_MS = 30000 };

static mq_code run_kind(mq_host *host, mq_error *err)
{
    const mq_kind *kind = mq_kind_find(mq_str(host->kind));
    if (kind == NULL) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "kind: \"%.64s\" is not one of this worker's",
                       host->kind);
    }
    return kind->run(host, err);
}

static mq_code serve(mq_slot_host *sh, mq_kind_run *run, mq_error *err)
{
    for (;;) {
        mq_error failure = {0};
        mq_code code = mq_slot_host_next(sh, err);
        if (code != MQ_OK) {
            return code;
        }
        int64_t start_ns = mq_clock_mono_ns();
        mq_code ran = run(&sh->host, &failure);
        uint64_t run_us = (uint64_t)(mq_clock_mono_ns() - start_ns) / 1000;
        code = mq_slot_host_end(sh, ran, run_us, &failure, err);
        if (code != MQ_OK) {
            return code;
        }
    }
}

int mq_slot_main(int fd)
{
    return mq_slot_serve(fd, run_kind);
}

int mq_slot_serve(int fd, mq_kind_run *run)
{
    mq_error err = {0};
    char fingerprint[MQ_SHA256_HEX] = "";
    mq_slot_host *sh = calloc(1, sizeof *sh);
    if (sh == NULL) {
        return 1;
    }
    mq_slot_host_init(sh, fd);
    mq_code code = mq_slot_host_start(sh, START_MS, &err);
    if (code == MQ_OK) {
        mq_blas_init();
        if (sh->want_fingerprint) {
            mq_fingerprint(fingerprint);
        }
        code = mq_slot_host_hello(sh, fingerprint, &err);
    }
    if (code == MQ_OK) {
        code = serve(sh, run, &err);
    }
    mq_slot_host_release(sh);
    free(sh);
    if (code != MQ_E_IO) { /* a supervisor that is gone is the ordinary end */
        mq_log(MQ_ERROR_LEVEL, "slot stops", "error=\"%s\"", err.text);
        return 1;
    }
    return 0;
}
