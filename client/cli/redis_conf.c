/* Redis configuration of a private system; see redis_conf.h. */
#include "client/cli/redis_conf.h"

#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "shared/base/file.h"
#include "shared/base/sha256.h"

enum { SECRET_BYTES = 32 };

/* Writes a random password to DIR/secret/NAME unless there is one; reads it into out. */
static mq_code make_secret(const char *dir, const char *name, char out[MQ_SHA256_HEX],
                           mq_error *err)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/secret/%s", dir, name);
    mq_buf text;
    mq_buf_init(&text, 4096);
    mq_code code = MQ_OK;
    if (access(path, F_OK) != 0) {
        uint8_t random[SECRET_BYTES];
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
            return mq_fail(err, MQ_E_IO, "no random numbers from the system");
        }
        mq_sha256_hex(random, out);
        code = mq_file_write(path, mq_str(out), 0600, err);
    } else {
        code = mq_file_read(path, &text, err);
        if (code == MQ_OK && text.len < MQ_SHA256_HEX - 1) {
            code = mq_fail(err, MQ_E_FORMAT, "%s: no password of 64 letters; remove it", path);
        }
        if (code == MQ_OK) {
            (void)mq_span_copy(mq_span_of(text.data, MQ_SHA256_HEX - 1), out, MQ_SHA256_HEX);
        }
    }
    mq_buf_release(&text);
    return code;
}

static mq_code write_one(const char *dir, const char *name, bool is_state, mq_error *err)
{
    char password[MQ_SHA256_HEX];
    mq_code code = make_secret(dir, name, password, err);
    if (code != MQ_OK) {
        return code;
    }
    char path[256];
    (void)snprintf(path, sizeof path, "%s/run/%s.conf", dir, name);
    mq_buf text;
    mq_buf_init(&text, 65536);
    mq_buf_printf(&text,
                  "port 0\nunixsocket \"%s/run/%s.sock\"\nunixsocketperm 700\ndir \"%s/%s\"\n"
                  "daemonize no\nappendonly yes\nappendfsync %s\nno-appendfsync-on-rewrite no\n"
                  "save \"\"\nmaxmemory-policy noeviction\nlazyfree-lazy-expire yes\n"
                  "requirepass %s\n",
                  dir, name, dir, name, is_state ? "always" : "everysec", password);
    code = mq_file_write(path, mq_buf_span(&text), 0600, err);
    mq_buf_release(&text);
    return code;
}

mq_code mq_redis_conf_write(const char *dir, mq_error *err)
{
    mq_code code = write_one(dir, "state", true, err);
    return code != MQ_OK ? code : write_one(dir, "blobs", false, err);
}
