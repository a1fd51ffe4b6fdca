/* The witness of a shard's store; see witness.h. Knows no store and no jobs. */
#include "broker/io/witness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/file.h"

enum { LINE_MAX_BYTES = 96 };

static mq_code read_line(mq_witness *w, const char *path, mq_error *err)
{
    char line[LINE_MAX_BYTES + 1] = "";
    unsigned long long sequence = 0;
    ssize_t len = pread(w->fd, line, LINE_MAX_BYTES, 0);
    if (len < 0) {
        return mq_fail(err, MQ_E_IO, "--witness: %s: %s", path, strerror(errno));
    }
    if (len == 0) {
        return MQ_OK;
    }
    /* our own writing */
    if (sscanf(line, /* NOLINT(cert-err34-c) */ "%63s %llu", w->instance, &sequence) != 2 ||
        strchr(line, '\n') == NULL) {
        return mq_fail(err, MQ_E_FORMAT,
                       "--witness: %s is not \"INSTANCE SEQUENCE\"; remove it, or start with "
                       "--adopt, when the store's data are known to be the right ones",
                       path);
    }
    w->sequence = w->written = sequence;
    return MQ_OK;
}

/* One write of one line of fixed length: whole or not at all for whoever reads it after a kill. */
static void write_line(mq_witness *w)
{
    char line[LINE_MAX_BYTES + 1];
    int len = snprintf(line, sizeof line, "%-36s %020llu\n", w->instance,
                       (unsigned long long)w->sequence);
    if (len > 0 && pwrite(w->fd, line, (size_t)len, 0) == len) {
        w->written = w->sequence;
    }
}

mq_code mq_witness_open(mq_witness *w, const char *dir, int64_t shard, bool must_adopt,
                        mq_error *err)
{
    char path[512];
    *w = (mq_witness){.fd = -1};
    if (dir[0] == '\0') {
        return MQ_OK;
    }
    mq_code code = mq_dir_make(dir, err);
    if (code != MQ_OK) {
        return code;
    }
    snprintf(path, sizeof path, "%s/shard-%lld", dir, (long long)shard);
    int flags = O_RDWR | O_CREAT | O_CLOEXEC | (must_adopt ? O_TRUNC : 0);
    w->fd = open(path, flags, 0600);
    if (w->fd < 0) {
        return mq_fail(err, MQ_E_IO, "--witness: %s: %s", path, strerror(errno));
    }
    code = read_line(w, path, err);
    if (code != MQ_OK) {
        mq_witness_close(w);
    }
    return code;
}

void mq_witness_close(mq_witness *w)
{
    if (w->fd >= 0) {
        if (w->sequence != w->written) {
            write_line(w);
        }
        close(w->fd);
    }
    w->fd = -1;
}

mq_code mq_witness_check(const mq_witness *w, const char *instance, uint64_t sequence,
                         mq_error *err)
{
    if (w->instance[0] == '\0') {
        return MQ_OK;
    }
    if (strcmp(w->instance, instance) != 0) {
        return mq_fail(err, MQ_E_CONFLICT,
                       "the store is another deployment's (its instance id changed): restore the "
                       "right data, or start the broker with --adopt to accept this one");
    }
    if (sequence < w->sequence) {
        return mq_fail(err, MQ_E_CONFLICT,
                       "the store is older than what was acknowledged (commit %llu, seen %llu): "
                       "restore newer data, or start the broker with --adopt to accept the loss",
                       (unsigned long long)sequence, (unsigned long long)w->sequence);
    }
    return MQ_OK;
}

void mq_witness_note(mq_witness *w, const char *instance, uint64_t sequence, int64_t now_ms)
{
    if (w->instance[0] == '\0') {
        snprintf(w->instance, sizeof w->instance, "%s", instance);
        w->write_ms = now_ms;
    }
    w->sequence = sequence > w->sequence ? sequence : w->sequence;
    mq_witness_flush(w, now_ms);
}

void mq_witness_flush(mq_witness *w, int64_t now_ms)
{
    int64_t at_ms = mq_witness_deadline(w);
    if (at_ms < INT64_MAX && now_ms >= at_ms) {
        w->write_ms = (now_ms == INT64_MAX ? at_ms : now_ms) + MQ_WITNESS_WRITE_MS;
        write_line(w);
    }
}

int64_t mq_witness_deadline(const mq_witness *w)
{
    return w->fd >= 0 && w->sequence != w->written ? w->write_ms : INT64_MAX;
}
