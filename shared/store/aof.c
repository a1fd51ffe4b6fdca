/* Finds where the last whole transaction of a Redis log ends; see aof.h. It reads the protocol and
 * knows only two commands: MULTI and EXEC. */
#include "shared/store/aof.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "shared/base/file.h"

enum {
    PATH_BYTES = 1024,
    NAME_BYTES = 256,
    MANIFEST_BYTES_MAX = 1 << 20,
    ARGS_MAX = 1 << 20,
};
static const size_t file_bytes_max = (size_t)1 << 40;
static const size_t arg_bytes_max = (size_t)512 << 20;

#define LOG_DIR      "appendonlydir"
#define LOG_MANIFEST "appendonly.aof.manifest"

typedef enum step { STEP_OK, STEP_TORN, STEP_DAMAGED } step;

typedef struct cursor {
    mq_span bytes;
    size_t at;
    mq_span command; /* first word of the last command, when it has only one */
} cursor;

/* From the mark that must be here to the end of its line: a number. */
static step read_number(cursor *c, uint8_t mark, size_t limit, size_t *out)
{
    size_t at = c->at;
    if (at == c->bytes.len) {
        return STEP_TORN;
    }
    if (c->bytes.data[at++] != mark) {
        return STEP_DAMAGED;
    }
    size_t number = 0;
    size_t digits = 0;
    for (; at < c->bytes.len && c->bytes.data[at] != '\r'; at++, digits++) {
        uint8_t d = c->bytes.data[at];
        if (d < '0' || d > '9' || digits > 12) {
            return STEP_DAMAGED;
        }
        number = number * 10 + (size_t)(d - '0');
    }
    if (c->bytes.len - at < 2) {
        return STEP_TORN;
    }
    if (digits == 0 || number > limit || c->bytes.data[at + 1] != '\n') {
        return STEP_DAMAGED;
    }
    c->at = at + 2;
    *out = number;
    return STEP_OK;
}

/* "$<n>\r\n<n bytes>\r\n" */
static step read_word(cursor *c, mq_span *word)
{
    size_t len = 0;
    step s = read_number(c, '$', arg_bytes_max, &len);
    if (s != STEP_OK) {
        return s;
    }
    size_t left = c->bytes.len - c->at;
    if (left < len + 2) {
        return STEP_TORN;
    }
    if (memcmp(c->bytes.data + c->at + len, "\r\n", 2) != 0) {
        return STEP_DAMAGED;
    }
    *word = mq_span_of(c->bytes.data + c->at, len);
    c->at += len + 2;
    return STEP_OK;
}

/* "*<n>\r\n" and n words, or a line of annotation. */
static step read_command(cursor *c)
{
    c->command = (mq_span){0};
    if (c->bytes.data[c->at] == '#') {
        const uint8_t *end = memchr(c->bytes.data + c->at, '\n', c->bytes.len - c->at);
        if (end == NULL) {
            return STEP_TORN;
        }
        c->at = (size_t)(end - c->bytes.data) + 1;
        return STEP_OK;
    }
    size_t count = 0;
    step s = read_number(c, '*', ARGS_MAX, &count);
    for (size_t i = 0; i < count && s == STEP_OK; i++) {
        mq_span word;
        s = read_word(c, &word);
        if (i == 0 && count == 1 && s == STEP_OK) {
            c->command = word;
        }
    }
    return s;
}

static bool is_word(mq_span word, const char *name)
{
    return word.len == strlen(name) && strncasecmp((const char *)word.data, name, word.len) == 0;
}

/* Bytes up to the end of the last command that stands in no open transaction. Zeros at the end are
 * no part of any command: a file system may have made the file longer before its bytes arrived. */
static step whole_bytes(mq_span bytes, size_t *whole, size_t *damaged_at)
{
    cursor c = {.bytes = bytes};
    while (c.bytes.len > 0 && bytes.data[c.bytes.len - 1] == 0) {
        c.bytes.len--;
    }
    bool is_in_multi = false;
    *whole = 0;
    while (c.at < c.bytes.len) {
        size_t from = c.at;
        step s = read_command(&c);
        bool is_multi = s == STEP_OK && is_word(c.command, "MULTI");
        if (s == STEP_DAMAGED || (is_multi && is_in_multi)) {
            *damaged_at = from;
            return STEP_DAMAGED;
        }
        if (s == STEP_TORN) {
            return STEP_TORN;
        }
        is_in_multi = is_multi || (is_in_multi && !is_word(c.command, "EXEC"));
        *whole = is_in_multi ? *whole : c.at;
    }
    return *whole < bytes.len ? STEP_TORN : STEP_OK;
}

/* Name of the log's last incremental file, from "file NAME seq N type i" lines; empty: there is
 * none. */
static mq_code last_file(const char *dir, char name[NAME_BYTES], mq_error *err)
{
    char path[PATH_BYTES];
    name[0] = '\0';
    snprintf(path, sizeof path, "%s/" LOG_DIR "/" LOG_MANIFEST, dir);
    if (access(path, F_OK) != 0) {
        return MQ_OK; /* a server that never ran here */
    }
    mq_buf text;
    mq_buf_init(&text, MANIFEST_BYTES_MAX);
    mq_code code = mq_file_read(path, &text, err);
    mq_buf_add(&text, "", 1);
    const char *line = (const char *)text.data;
    while (code == MQ_OK && line != NULL && *line != '\0') {
        char file[NAME_BYTES];
        char type;
        if (sscanf(line, "file %255s seq %*u type %c", file, &type) == 2 && type == 'i') {
            memcpy(name, file, NAME_BYTES);
        }
        line = strchr(line, '\n');
        line = line == NULL ? NULL : line + 1;
    }
    mq_buf_release(&text);
    if (code == MQ_OK && strchr(name, '/') != NULL) {
        code = mq_fail(err, MQ_E_CORRUPT, "%s: names a file outside its folder", path);
    }
    return code;
}

static mq_code cut(const char *path, size_t whole, mq_error *err)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)whole) != 0 || fsync(fd) != 0) {
        mq_code code = mq_fail(err, MQ_E_IO, "%s: cannot be cut: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return code;
    }
    close(fd);
    return MQ_OK;
}

mq_code mq_aof_repair(const char *dir, size_t *cut_bytes, mq_error *err)
{
    char name[NAME_BYTES];
    char path[PATH_BYTES];
    if (cut_bytes != NULL) {
        *cut_bytes = 0;
    }
    mq_code code = last_file(dir, name, err);
    if (code != MQ_OK || name[0] == '\0') {
        return code;
    }
    int len = snprintf(path, sizeof path, "%s/" LOG_DIR "/%s", dir, name);
    if (len < 0 || (size_t)len >= sizeof path) {
        return mq_fail(err, MQ_E_LIMIT, "%s: the path is longer than %d bytes", dir, PATH_BYTES);
    }
    mq_map_file map;
    code = mq_map_file_open(&map, path, file_bytes_max, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t bytes = map.bytes.len;
    size_t whole = 0;
    size_t damaged_at = 0;
    step s = whole_bytes(map.bytes, &whole, &damaged_at);
    mq_map_file_release(&map);
    if (s == STEP_DAMAGED) {
        return mq_fail(
            err, MQ_E_CORRUPT,
            "%s: damaged at byte %zu of %zu, not just torn at its end; restore it from a "
            "backup, or look at it with redis-check-aof",
            path, damaged_at, bytes);
    }
    if (s == STEP_TORN) {
        code = cut(path, whole, err);
        if (code == MQ_OK && cut_bytes != NULL) {
            *cut_bytes = bytes - whole;
        }
    }
    return code;
}
