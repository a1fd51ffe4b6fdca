/* Redis configuration of a private system: the templates of deploy/redis (embedded by the build)
 * with their words filled in, and one password file a user. See redis_conf.h. */
#include "client/cli/redis_conf.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "shared/base/file.h"
#include "shared/base/sha256.h"

static const char state_conf[] =
#include "redis/redis-state.conf.inc"
    ;
static const char blobs_conf[] =
#include "redis/redis-blobs.conf.inc"
    ;
static const char state_acl[] =
#include "redis/users-state.acl.inc"
    ;
static const char blobs_acl[] =
#include "redis/users-blobs.acl.inc"
    ;

enum { SECRET_BYTES = 32, FILE_BYTES_MAX = 65536, WORDS_MAX = 8, VALUE_MAX = 256 };

typedef struct word {
    const char *name; /* "@DIR@" */
    char value[VALUE_MAX];
} word;

/* A server: its templates, and the users in its ACL. */
typedef struct server {
    const char *name;
    const char *conf, *acl;
    struct {
        const char *word, *user;
    } users[4];
    int memory_percent; /* of the machine */
} server;

static const server servers[] = {
    {"state",
     state_conf,
     state_acl,
     {{"@BROKER@", "broker"},
      {"@DASHBOARD@", "dashboard"},
      {"@DEPLOY@", "deploy"},
      {"@REPLICA@", "replica"}},
     20},
    {"blobs", blobs_conf, blobs_acl, {{"@WORKER@", "worker"}, {"@BROKER@", "broker"}}, 35},
};

/* Reads DIR/secret/SERVER-USER, or makes a new random password there. */
static mq_code get_secret(const char *path, char out[MQ_SHA256_HEX], mq_error *err)
{
    if (access(path, F_OK) != 0) {
        uint8_t random[SECRET_BYTES];
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
            return mq_fail(err, MQ_E_IO, "no random numbers from the system");
        }
        mq_sha256_hex(random, out);
        return mq_file_write(path, mq_str(out), 0600, err);
    }
    mq_buf text;
    mq_buf_init(&text, 4096);
    mq_code code = mq_file_read(path, &text, err);
    if (code == MQ_OK && text.len != MQ_SHA256_HEX - 1) {
        code = mq_fail(err, MQ_E_FORMAT, "%s: no password of 64 letters; remove it", path);
    }
    if (code == MQ_OK) {
        (void)mq_span_copy(mq_buf_span(&text), out, MQ_SHA256_HEX);
    }
    mq_buf_release(&text);
    return code;
}

static mq_code fill(const char *text, const word *words, int count, const char *path, mq_error *err)
{
    mq_buf out;
    mq_buf_init(&out, FILE_BYTES_MAX);
    while (*text != '\0') {
        int i = 0;
        while (i < count && strncmp(text, words[i].name, strlen(words[i].name)) != 0) {
            i++;
        }
        if (i < count) {
            mq_buf_add_str(&out, words[i].value);
            text += strlen(words[i].name);
        } else {
            mq_buf_add(&out, text++, 1);
        }
    }
    mq_code code = out.is_full ? mq_fail(err, MQ_E_LIMIT, "%s: too long", path)
                               : mq_file_write(path, mq_buf_span(&out), 0600, err);
    mq_buf_release(&out);
    return code;
}

static mq_code write_acl(const server *s, const char *dir, mq_error *err)
{
    word words[4];
    int count = 0;
    mq_code code = MQ_OK;
    char path[VALUE_MAX];
    for (int i = 0; code == MQ_OK && i < 4 && s->users[i].word != NULL; i++) {
        char password[MQ_SHA256_HEX];
        words[count].name = s->users[i].word;
        (void)snprintf(path, sizeof path, "%s/secret/%s-%s", dir, s->name, s->users[i].user);
        code = get_secret(path, password, err);
        if (code == MQ_OK) {
            mq_sha256_hex_of(mq_str(password), words[count++].value);
        }
    }
    (void)snprintf(path, sizeof path, "%s/run/%s.acl", dir, s->name);
    return code != MQ_OK ? code : fill(s->acl, words, count, path, err);
}

static mq_code write_conf(const server *s, const char *dir, mq_error *err)
{
    word words[] = {{"@SOCKET@", ""}, {"@DIR@", ""}, {"@ACL@", ""}, {"@MAXMEMORY@", ""}};
    long long bytes = (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    char path[VALUE_MAX];
    (void)snprintf(words[0].value, VALUE_MAX, "\"%s/run/%s.sock\"", dir, s->name);
    (void)snprintf(words[1].value, VALUE_MAX, "\"%s/%s\"", dir, s->name);
    (void)snprintf(words[2].value, VALUE_MAX, "\"%s/run/%s.acl\"", dir, s->name);
    (void)snprintf(words[3].value, VALUE_MAX, "%lld", bytes / 100 * s->memory_percent);
    (void)snprintf(path, sizeof path, "%s/run/%s.conf", dir, s->name);
    return fill(s->conf, words, sizeof words / sizeof *words, path, err);
}

mq_code mq_redis_conf_write(const char *dir, mq_error *err)
{
    mq_code code = MQ_OK;
    for (size_t i = 0; code == MQ_OK && i < sizeof servers / sizeof *servers; i++) {
        code = write_acl(&servers[i], dir, err);
        code = code != MQ_OK ? code : write_conf(&servers[i], dir, err);
    }
    return code;
}

void mq_redis_url(const char *dir, const char *server_name, const char *user, char *out,
                  size_t size)
{
    (void)snprintf(out, size, "unix:%s/run/%s.sock,user=%s,secret=%s/secret/%s-%s", dir,
                   server_name, user, dir, server_name, user);
}
