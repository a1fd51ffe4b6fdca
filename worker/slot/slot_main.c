/* The slot process: takes a job, runs its kind, says how it ended. It has one socket, to its
 * supervisor, and no keys; a crash here costs one attempt of one job. */
#include "worker/slot/slot_main.h"

#include <stdlib.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "worker/blas/blas.h"
#include "worker/kinds/kind.h"
#include "worker/own/own.h"
#include "worker/slot/slot_host.h"
#include "worker/train/fingerprint.h"

enum { START_MS = 30000 };

static mq_code run_kind(mq_host *host, mq_error *err)
{
    const mq_kind *kind = mq_kind_find(mq_str(host->kind));
    const mq_own_kind *own = kind != NULL ? NULL : mq_own_find(mq_str(host->kind));
    if (own != NULL) {
        return mq_own_run(host, own, err);
    }
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

/* Loads the user's kinds and tells them. MQ_E_IO: the supervisor is gone. */
static mq_code announce(mq_slot_host *sh, int argc, char **argv, mq_error *err)
{
    mq_code code = mq_own_load(argc, argv, err);
    if (code != MQ_OK) {
        mq_error why = *err;
        code = mq_slot_host_unfit(sh, why.text, err);
        *err = why;
        return code != MQ_OK ? code : why.code == MQ_E_IO ? MQ_E_FAILED : why.code;
    }
    for (uint32_t i = 0; i < mq_own_count() && code == MQ_OK; i++) {
        const mq_own_policy *p = &mq_own_at(i)->policy;
        mq_slot_kind m = {.name = mq_str(p->name),
                          .max_run_ms = p->max_run_ms,
                          .attempts_max = p->attempts_max,
                          .body_bytes_max = p->body_bytes_max};
        code = mq_slot_host_kind(sh, &m, err);
    }
    return code;
}

static int serve_slot(int fd, mq_kind_run *run, int argc, char **argv)
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
        code = announce(sh, argc, argv, &err);
    }
    if (code == MQ_OK) {
        code = mq_slot_host_hello(sh, fingerprint, &err);
    }
    if (code == MQ_OK) {
        code = serve(sh, run, &err);
    }
    mq_own_release();
    mq_slot_host_release(sh);
    free(sh);
    if (code != MQ_E_IO) { /* a supervisor that is gone is the ordinary end */
        mq_log(MQ_ERROR_LEVEL, "slot stops", "error=\"%s\"", err.text);
        return 1;
    }
    return 0;
}

int mq_slot_main(int fd)
{
    return mq_slot_serve(fd, run_kind);
}

int mq_slot_serve(int fd, mq_kind_run *run)
{
    return serve_slot(fd, run, 0, NULL);
}

int mq_slot_main_own(int fd, int argc, char **argv)
{
    return serve_slot(fd, run_kind, argc, argv);
}
