/* Blobs for clients: the store that the options or the broker named, opened at the first use. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/src/client.h"
#include "shared/base/file.h"

enum { WELCOME_MS = 10000 };

/* Opens the store, or opens it again when the broker names another one. Under blob_lock. */
static int open_blobs(maasq_client *client, maasq_error *err)
{
    char url[513];
    (void)snprintf(url, sizeof url, "%s", client->blob_url);
    if (url[0] == '\0') {
        pthread_mutex_lock(&client->lock);
        bool was_welcome = client->was_welcome;
        pthread_mutex_unlock(&client->lock);
        if (!was_welcome && maasq_connect(client, WELCOME_MS, err) != MAASQ_OK) {
            return err == NULL ? MAASQ_E_TIMEOUT : err->code;
        }
        pthread_mutex_lock(&client->lock);
        (void)snprintf(url, sizeof url, "%s", client->welcome_blobs);
        pthread_mutex_unlock(&client->lock);
    }
    if (url[0] == '\0') {
        return mq_client_fail(err, MQ_E_NOT_FOUND,
                              "the broker names no blob store: set MAASQ_BLOBS or options.blobs");
    }
    if (client->blobs != NULL && strcmp(url, client->blobs_url) == 0) {
        return MAASQ_OK;
    }
    mq_blobs_free(client->blobs);
    client->blobs = NULL;
    mq_error why = {0};
    if (mq_blobs_new(&client->blobs, url, &why) != MQ_OK) {
        return mq_client_error(err, &why);
    }
    memcpy(client->blobs_url, url, sizeof url);
    return MAASQ_OK;
}

int maasq_blob_put(maasq_client *client, const void *data, size_t bytes, char hash[MAASQ_HASH_SIZE],
                   maasq_error *err)
{
    pthread_mutex_lock(&client->blob_lock);
    mq_error why = {0};
    int code = open_blobs(client, err);
    if (code == MAASQ_OK &&
        mq_blobs_put(client->blobs, mq_span_of(data, bytes), hash, &why) != MQ_OK) {
        code = mq_client_error(err, &why);
    }
    pthread_mutex_unlock(&client->blob_lock);
    return code;
}

int maasq_blob_put_file(maasq_client *client, const char *path, char hash[MAASQ_HASH_SIZE],
                        maasq_error *err)
{
    mq_map_file map = {0};
    mq_error why = {0};
    if (mq_map_file_open(&map, path, MQ_BLOB_BYTES_MAX, &why) != MQ_OK) {
        return mq_client_error(err, &why);
    }
    int code = maasq_blob_put(client, map.bytes.data, map.bytes.len, hash, err);
    mq_map_file_release(&map);
    return code;
}

static int get_fd(maasq_client *client, const char *hash, int fd, size_t *bytes, maasq_error *err)
{
    if (hash == NULL || !mq_sha256_is_hex(mq_str(hash))) {
        return mq_client_fail(err, MQ_E_ARG, "hash: not 64 lower-case hex digits");
    }
    pthread_mutex_lock(&client->blob_lock);
    mq_error why = {0};
    int code = open_blobs(client, err);
    if (code == MAASQ_OK && mq_blobs_get(client->blobs, hash, fd, bytes, &why) != MQ_OK) {
        code = mq_client_error(err, &why);
    }
    pthread_mutex_unlock(&client->blob_lock);
    return code;
}

int maasq_blob_get(maasq_client *client, const char *hash, void **data, size_t *bytes,
                   maasq_error *err)
{
    FILE *file = tmpfile();
    if (file == NULL) {
        return mq_client_fail(err, MQ_E_IO, "temporary file: %s", strerror(errno));
    }
    size_t size = 0;
    int code = get_fd(client, hash, fileno(file), &size, err);
    mq_map_file map = {0};
    mq_error why = {0};
    void *copy = NULL;
    if (code == MAASQ_OK && size > 0 &&
        mq_map_file_fd(&map, fileno(file), MQ_BLOB_BYTES_MAX, &why) != MQ_OK) {
        code = mq_client_error(err, &why);
    }
    if (code == MAASQ_OK) {
        copy = malloc(size + 1);
        if (copy == NULL) {
            code = mq_client_fail(err, MQ_E_LIMIT, "no memory for a blob of %zu bytes", size);
        }
    }
    if (code == MAASQ_OK) {
        (void)mq_span_copy(map.bytes, copy, size + 1);
        *data = copy;
        *bytes = size;
    }
    if (map.bytes.data != NULL) {
        mq_map_file_release(&map);
    }
    (void)fclose(file);
    return code;
}

int maasq_blob_get_file(maasq_client *client, const char *hash, const char *path, maasq_error *err)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s.part.%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof temporary) {
        return mq_client_fail(err, MQ_E_ARG, "path: longer than %zu bytes", sizeof temporary - 32);
    }
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return mq_client_fail(err, MQ_E_IO, "%s: %s", temporary, strerror(errno));
    }
    int code = get_fd(client, hash, fd, NULL, err);
    if (close(fd) != 0 && code == MAASQ_OK) {
        code = mq_client_fail(err, MQ_E_IO, "%s: %s", temporary, strerror(errno));
    }
    if (code == MAASQ_OK && rename(temporary, path) != 0) {
        code = mq_client_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
    }
    if (code != MAASQ_OK) {
        (void)unlink(temporary);
    }
    return code;
}
