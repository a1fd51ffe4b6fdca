/* Blobs and versions in a directory; see local_registry.h. */
#include "worker/slot/local_registry.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct path {
    char text[MQ_LOCAL_PATH_MAX];
} path;

static mq_code path_of(path *out, mq_error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static mq_code path_of(path *out, mq_error *err, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(out->text, sizeof out->text, fmt, args);
    va_end(args);
    return len < 0 || (size_t)len >= sizeof out->text
               ? mq_fail(err, MQ_E_LIMIT, "a path is longer than %d bytes", MQ_LOCAL_PATH_MAX)
               : MQ_OK;
}

static bool is_safe(const char *s, size_t len)
{
    bool ok = len > 0 && len <= 255 && isalnum((unsigned char)s[0]);
    for (size_t i = 0; ok && i < len; i++) {
        ok = isalnum((unsigned char)s[i]) || s[i] == '.' || s[i] == '_' || s[i] == '-';
    }
    return ok;
}

mq_code mq_local_blob_put(const char *dir, mq_span bytes, char hash[MQ_SHA256_HEX], mq_error *err)
{
    path folder, file;
    if (bytes.len > MQ_LOCAL_BLOB_BYTES_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "a blob of %zu bytes; the limit is %zu", bytes.len,
                       MQ_LOCAL_BLOB_BYTES_MAX);
    }
    mq_sha256_hex_of(bytes, hash);
    mq_code code = path_of(&folder, err, "%s/blob/%.2s", dir, hash);
    if (code == MQ_OK) {
        code = path_of(&file, err, "%s/%s", folder.text, hash);
    }
    if (code == MQ_OK && access(file.text, R_OK) != 0) {
        code = mq_dir_make(folder.text, err);
        if (code == MQ_OK) {
            code = mq_file_write(file.text, bytes, 0400, err);
        }
    }
    return code;
}

mq_code mq_local_blob_open(const char *dir, const char *hash, mq_map_file *out, mq_error *err)
{
    path file;
    char found[MQ_SHA256_HEX];
    *out = (mq_map_file){0};
    if (!mq_sha256_is_hex(mq_str(hash))) {
        return mq_fail(err, MQ_E_ARG, "blob: \"%.80s\" is not 64 lower-case hex digits", hash);
    }
    mq_code code = path_of(&file, err, "%s/blob/%.2s/%s", dir, hash, hash);
    if (code == MQ_OK) {
        code = mq_map_file_open(out, file.text, MQ_LOCAL_BLOB_BYTES_MAX, err);
    }
    if (code == MQ_E_NOT_FOUND) {
        return mq_fail(err, MQ_E_NOT_FOUND, "blob %s is not in the store", hash);
    }
    if (code != MQ_OK) {
        return code;
    }
    mq_sha256_hex_of(out->bytes, found);
    if (strcmp(found, hash) != 0) {
        mq_map_file_release(out);
        return mq_fail(err, MQ_E_CORRUPT, "blob %s: its bytes hash to %s", hash, found);
    }
    return MQ_OK;
}

/* Highest version in a folder, 0 when there is none. */
static uint64_t newest(const char *folder)
{
    DIR *d = opendir(folder);
    uint64_t best = 0;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char *end;
        uint64_t n = strtoull(e->d_name, &end, 10);
        if (strcmp(end, ".json") == 0 && n > best) {
            best = n;
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return best;
}

mq_code mq_local_publish(const char *dir, const char *type, const char *name, mq_span meta,
                         mq_error *err)
{
    path folder, file;
    mq_buf text;
    if (!is_safe(name, strlen(name))) {
        return mq_fail(err, MQ_E_ARG, "%s name \"%.64s\": letters, digits, '.', '_', '-' only",
                       type, name);
    }
    mq_code code = path_of(&folder, err, "%s/%s/%s", dir, type, name);
    if (code == MQ_OK) {
        code = mq_dir_make(folder.text, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    uint64_t version = newest(folder.text) + 1;
    mq_buf_init(&text, MQ_LOCAL_META_BYTES_MAX);
    mq_buf_printf(&text, "{\"name\":\"%s\",\"version\":%llu,\"meta\":", name,
                  (unsigned long long)version);
    mq_buf_add_span(&text, meta);
    mq_buf_add_str(&text, "}");
    code = path_of(&file, err, "%s/%llu.json", folder.text, (unsigned long long)version);
    if (code == MQ_OK && text.is_full) {
        code = mq_fail(err, MQ_E_LIMIT, "%s %s: meta is larger than %d bytes", type, name,
                       MQ_LOCAL_META_BYTES_MAX);
    }
    if (code == MQ_OK) {
        code = mq_file_write(file.text, mq_buf_span(&text), 0600, err);
    }
    mq_buf_release(&text);
    return code;
}

/* The number that "3" or an alias means; 0 when it means none. */
static uint64_t version_of(const char *folder, const char *text)
{
    path file;
    mq_buf bytes;
    char *end, digits[24];
    uint64_t n = strtoull(text, &end, 10);
    if (*end == '\0') {
        return n;
    }
    mq_buf_init(&bytes, sizeof digits - 1);
    n = 0;
    if (path_of(&file, NULL, "%s/%s", folder, text) == MQ_OK &&
        mq_file_read(file.text, &bytes, NULL) == MQ_OK) {
        mq_span_copy(mq_buf_span(&bytes), digits, sizeof digits);
        n = strtoull(digits, &end, 10);
    }
    mq_buf_release(&bytes);
    return n;
}

mq_code mq_local_query(const char *dir, const char *what, const char *name, mq_buf *json,
                       mq_error *err)
{
    path folder, file;
    const char *at = strchr(name, '@');
    size_t len = at == NULL ? strlen(name) : (size_t)(at - name);
    bool is_known =
        strcmp(what, "model") == 0 || strcmp(what, "dataset") == 0 || strcmp(what, "memo") == 0;
    if (!is_known || !is_safe(name, len) || (at != NULL && !is_safe(at + 1, strlen(at + 1)))) {
        return mq_fail(err, MQ_E_ARG, "%s \"%.64s\" is not a name", what, name);
    }
    mq_code code = path_of(&folder, err, "%s/%s/%.*s", dir, what, (int)len, name);
    if (code != MQ_OK) {
        return code;
    }
    uint64_t version = at == NULL ? newest(folder.text) : version_of(folder.text, at + 1);
    code = path_of(&file, err, "%s/%llu.json", folder.text, (unsigned long long)version);
    if (code == MQ_OK && (version == 0 || access(file.text, R_OK) != 0)) {
        return mq_fail(err, MQ_E_NOT_FOUND, "%s %s is not in the registry", what, name);
    }
    return code == MQ_OK ? mq_file_read(file.text, json, err) : code;
}

mq_code mq_local_alias(const char *dir, const char *model, const char *alias, uint64_t version,
                       mq_error *err)
{
    path file;
    char text[32];
    if (!is_safe(model, strlen(model)) || !is_safe(alias, strlen(alias)) ||
        isdigit((unsigned char)alias[0])) {
        return mq_fail(err, MQ_E_ARG, "alias \"%.64s\" of model \"%.64s\": not names", alias,
                       model);
    }
    int len = snprintf(text, sizeof text, "%llu", (unsigned long long)version);
    mq_code code = path_of(&file, err, "%s/model/%s/%s", dir, model, alias);
    return code == MQ_OK ? mq_file_write(file.text, mq_span_of(text, (size_t)len), 0600, err)
                         : code;
}
