/* A system's directory and its maasq.json; see system.h. Must not know how processes are started.
 */
#include "client/cli/system.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "shared/base/file.h"

enum { STAT_BYTES = 1024, FILE_BYTES_MAX = 1 << 20 };

/* /proc/PID/stat: pid (name) state ppid ... with the start time as field 22. The name may hold
 * blanks and brackets, so counting starts behind the last ')'. */
uint64_t mq_process_start(pid_t pid)
{
    char path[64];
    char text[STAT_BYTES];
    (void)snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    (void)close(fd);
    if (n <= 0) {
        return 0;
    }
    text[n] = '\0';
    const char *at = strrchr(text, ')');
    if (at == NULL || at[1] != ' ' || at[2] == 'Z' || at[2] == 'X') {
        return 0;
    }
    at += 2; /* field 3 */
    for (int field = 3; field < 22 && at != NULL; field++) {
        at = strchr(at, ' ');
        at = at == NULL ? NULL : at + 1;
    }
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}

bool mq_process_lives(mq_process process)
{
    return process.pid > 0 && process.start_time != 0 &&
           mq_process_start(process.pid) == process.start_time;
}

static mq_process read_process(const json_t *object)
{
    return (mq_process){.pid = (pid_t)mq_js_int(object, "pid"),
                        .start_time = (uint64_t)mq_js_int(object, "start")};
}

mq_code mq_system_read(mq_system_file *file, const char *dir, mq_error *err)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/maasq.json", dir);
    *file = (mq_system_file){0};
    if (access(path, F_OK) != 0) {
        return mq_fail(err, MQ_E_NOT_FOUND,
                       "nothing runs in %s; start it with `maasq up --data %s`", dir, dir);
    }
    json_error_t where;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (root == NULL) {
        return mq_fail(err, MQ_E_FORMAT, "%s: line %d: %s", path, where.line, where.text);
    }
    (void)snprintf(file->broker, sizeof file->broker, "%s", mq_js_text(root, "broker", ""));
    file->supervisor = read_process(json_object_get(root, "supervisor"));
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(root, "processes"), i, one)
    {
        if (file->member_count < MQ_SYSTEM_MEMBERS_MAX) {
            (void)snprintf(file->members[file->member_count].name, sizeof file->members->name, "%s",
                           mq_js_text(one, "name", "?"));
            file->members[file->member_count++].process = read_process(one);
        }
    }
    json_decref(root);
    return MQ_OK;
}

bool mq_system_broker(const char *dir, char *out, size_t size)
{
    mq_system_file *file = calloc(1, sizeof *file);
    bool is_up = file != NULL && mq_system_read(file, dir, NULL) == MQ_OK &&
                 mq_process_lives(file->supervisor) && file->broker[0] != '\0' &&
                 mq_span_copy(mq_str(file->broker), out, size);
    free(file);
    return is_up;
}

mq_code mq_system_dir(const char *given, bool make, char out[MQ_SYSTEM_DIR_MAX + 1], mq_error *err)
{
    char dir[4096];
    if (given != NULL && given[0] != '\0') {
        (void)snprintf(dir, sizeof dir, "%s", given);
    } else if (!mq_cli_data_dir(dir, sizeof dir)) {
        return mq_fail(err, MQ_E_ARG,
                       "--data: no default, since HOME is not set; name a directory");
    }
    if (make && mq_dir_make(dir, err) != MQ_OK) {
        return mq_wrap(err, "--data");
    }
    char *full = realpath(dir, NULL);
    if (full == NULL) {
        return mq_fail(err, MQ_E_NOT_FOUND, "--data: %s: %s", dir, strerror(errno));
    }
    bool fits = mq_span_copy(mq_str(full), out, MQ_SYSTEM_DIR_MAX + 1);
    free(full);
    if (!fits) {
        return mq_fail(
            err, MQ_E_ARG,
            "--data: %.200s is longer than %d bytes, too long for the sockets in it; take "
            "a shorter path",
            dir, MQ_SYSTEM_DIR_MAX);
    }
    return MQ_OK;
}
