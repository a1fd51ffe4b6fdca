/* The witness of a shard's store; see witness.h. Knows no store and no jobs. */
#include "broker/io/witness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/file.h"

enum { LINE_MAX_BYTES = 160 };

static mq_code read_line(mq_witness *w, const char *path, mq_error *err)
{
    char line[LINE_MAX_BYTES + 1] = "";
    unsigned long long sequence = 0, epoch = 0, submitted = 0, ended = 0;
    ssize_t len = pread(w->fd, line, LINE_MAX_BYTES, 0);
    if (len < 0) {
        return mq_fail(err, MQ_E_IO, "--witness: %s: %s", path, strerror(errno));
    }
    if (len == 0) {
        return MQ_OK;
    }
    /* our own writing */
    int fields = sscanf(line, /* NOLINT(cert-err34-c) */ "%63s %llu %llu %llu %llu %16s",
                        w->instance, &sequence, &epoch, &submitted, &ended, w->lineage);
    if ((fields != 2 && fields != 5 && fields != 6) ||
        strchr(line, '\n') == NULL) { /* of older brokers */
        return mq_fail(
            err, MQ_E_FORMAT,
            "--witness: %s is not \"INSTANCE SEQUENCE EPOCH SUBMITTED ENDED LINEAGE\"; remove "
            "it, or start with "
            "--adopt, when the store's data are known to be the right ones",
            path);
    }
    w->sequence = w->written = sequence;
    w->epoch = epoch;
    w->submitted = submitted;
    w->ended = ended;
    return MQ_OK;
}

/* One write of one line of fixed length: whole or not at all for whoever reads it after a kill. */
static void write_line(mq_witness *w)
{
    char line[LINE_MAX_BYTES + 1];
    int len = snprintf(line, sizeof line, "%-36s %020llu %020llu %020llu %020llu %-16s\n",
                       w->instance, (unsigned long long)w->sequence, (unsigned long long)w->epoch,
                       (unsigned long long)w->submitted, (unsigned long long)w->ended, w->lineage);
    if (len > 0 && pwrite(w->fd, line, (size_t)len, 0) == len) {
        w->written = w->sequence;
    }
}

/* Nothing has been seen, whatever the file says; an unreadable one goes too. */
static mq_code adopt(mq_witness *w, const char *path, mq_error *err)
{
    int fd = w->fd;
    mq_witness before = *w;
    *w = (mq_witness){.fd = fd};
    w->left.is_set = before.instance[0] != '\0';
    memcpy(w->left.instance, before.instance, sizeof w->left.instance);
    w->left.sequence = before.sequence;
    w->left.epoch = before.epoch;
    w->left.submitted = before.submitted;
    w->left.ended = before.ended;
    return ftruncate(fd, 0) == 0
               ? MQ_OK
               : mq_fail(err, MQ_E_IO, "--witness: %s: %s", path, strerror(errno));
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
    w->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (w->fd < 0) {
        return mq_fail(err, MQ_E_IO, "--witness: %s: %s", path, strerror(errno));
    }
    code = read_line(w, path, err);
    if (must_adopt) {
        code = adopt(w, path, err);
    }
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
                         const char *lineage, mq_error *err)
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
    if (strstr(lineage, w->lineage) == NULL) {
        return mq_fail(err, MQ_E_CONFLICT,
                       "the store is of another lineage: it has never seen takeover %s that was "
                       "seen here (a former primary, or a copy that lived on): bring the right one "
                       "back, or start the broker with --adopt to accept this one",
                       w->lineage);
    }
    return MQ_OK;
}

void mq_witness_note(mq_witness *w, const char *instance, uint64_t sequence, const char *lineage,
                     int64_t now_ms)
{
    if (w->instance[0] == '\0') {
        snprintf(w->instance, sizeof w->instance, "%s", instance);
        w->write_ms = now_ms;
    }
    w->sequence = sequence > w->sequence ? sequence : w->sequence;
    if (lineage[0] != '\0' && strncmp(lineage, w->lineage, sizeof w->lineage - 1) != 0) {
        snprintf(w->lineage, sizeof w->lineage, "%.16s", lineage);
        w->written = UINT64_MAX; /* to be written with the next flush, commit or not */
    }
    mq_witness_flush(w, now_ms);
}

void mq_witness_count(mq_witness *w, uint64_t epoch, uint64_t submitted, uint64_t ended)
{
    if (w->epoch != epoch) {
        w->written = UINT64_MAX; /* to be written with the next flush, commit or not */
    }
    w->epoch = epoch;
    w->submitted = submitted;
    w->ended = ended;
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
