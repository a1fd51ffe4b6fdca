/* The options --exec and --exec-limits: programs become kinds. It must not know how they run. */
#include "worker/own/exec.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder may be "executed" too, as far as access() goes. */
static bool is_program(const char *path)
{
    struct stat what;
    return stat(path, &what) == 0 && S_ISREG(what.st_mode) && access(path, X_OK) == 0;
}

/* Full path of a program: as given when it has a '/', else the first in PATH. Owned, or NULL. */
static char *find_program(const char *name)
{
    char path[4096];
    if (strchr(name, '/') != NULL) {
        return is_program(name) ? realpath(name, NULL) : NULL;
    }
    const char *at = getenv("PATH");
    at = at != NULL ? at : "/usr/local/bin:/usr/bin:/bin";
    while (*at != '\0') {
        size_t len = strcspn(at, ":");
        int n = snprintf(path, sizeof path, "%.*s/%s", (int)len, at, name);
        if (len > 0 && n > 0 && (size_t)n < sizeof path && is_program(path)) {
            return strdup(path);
        }
        at += len + (at[len] == ':');
    }
    return NULL;
}

/* Cuts at blanks; a backslash keeps the letter behind it. No shell is involved. */
static mq_code split(const char *text, mq_exec_program *out, mq_error *err)
{
    uint32_t count = 0;
    while (*text != '\0') {
        char word[4096];
        size_t len = 0;
        for (; *text == ' ' || *text == '\t'; text++) {
        }
        if (*text == '\0') {
            break;
        }
        for (; *text != '\0' && *text != ' ' && *text != '\t' && len + 1 < sizeof word; text++) {
            text += *text == '\\' && text[1] != '\0';
            word[len++] = *text;
        }
        word[len] = '\0';
        if (count == MQ_EXEC_ARGS_MAX) {
            return mq_fail(err, MQ_E_ARG, "more than %d arguments; put them into a script",
                           MQ_EXEC_ARGS_MAX - 1);
        }
        out->argv[count] = strdup(word);
        if (out->argv[count++] == NULL) {
            return mq_fail(err, MQ_E_LIMIT, "no memory");
        }
    }
    return count > 0 ? MQ_OK : mq_fail(err, MQ_E_ARG, "no program; write KIND=PROGRAM [ARG...]");
}

/* A script whose "#!" names nobody would fail each job; it is better said now. */
static mq_code check_interpreter(const char *path, mq_error *err)
{
    char head[512] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, head, sizeof head - 1);
    if (fd >= 0) {
        close(fd);
    }
    head[got > 0 ? got : 0] = '\0';
    if (head[0] != '#' || head[1] != '!') {
        return MQ_OK;
    }
    char *name = head + 2 + strspn(head + 2, " \t");
    name[strcspn(name, " \t\r\n")] = '\0';
    if (!is_program(name)) {
        return mq_fail(err, MQ_E_NOT_FOUND,
                       "program \"%.200s\": its first line names the interpreter \"%.200s\", which "
                       "is not there or not executable",
                       path, name);
    }
    return MQ_OK;
}

static mq_code resolve(mq_exec_program *program, mq_error *err)
{
    char *path = find_program(program->argv[0]);
    if (path == NULL) {
        return mq_fail(err, MQ_E_NOT_FOUND,
                       "program \"%.200s\": not there or not executable; give its full path",
                       program->argv[0]);
    }
    free(program->argv[0]);
    program->argv[0] = path;
    return check_interpreter(path, err);
}

/* Name before '='; the rest. */
static mq_code take_name(const char *text, char name[65], const char **rest, mq_error *err)
{
    size_t len = strcspn(text, "=");
    if (text[len] != '=' || len == 0 || len > 64) {
        return mq_fail(err, MQ_E_ARG, "must begin with a kind of 1..64 letters and \"=\"");
    }
    (void)mq_span_copy(mq_span_of(text, len), name, 65);
    *rest = text + len + 1;
    return MQ_OK;
}

mq_code mq_exec_add(const char *text, mq_error *err)
{
    mq_own_kind kind = {.run = mq_exec_run};
    mq_own_kind *entered = NULL;
    const char *rest = NULL;
    mq_exec_program *program = calloc(1, sizeof *program);
    if (program == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory");
    }
    mq_code code = take_name(text, kind.policy.name, &rest, err);
    if (code == MQ_OK) {
        code = split(rest, program, err);
    }
    if (code == MQ_OK) {
        code = resolve(program, err);
    }
    kind.what = kind.program = program;
    if (code == MQ_OK) {
        code = mq_own_add(&kind, &entered, err);
    }
    if (code != MQ_OK) {
        for (uint32_t i = 0; program->argv[i] != NULL; i++) {
            free(program->argv[i]);
        }
        free(program);
    }
    return code; /* entered: it lives as long as the process */
}

/* The limits of a program: where each goes, and what the slot's own one is called. */
static mq_code set_rlimit(uint64_t *out, int resource, const char *name, uint64_t value,
                          mq_error *err)
{
    struct rlimit own;
    if (getrlimit((__rlimit_resource_t)resource, &own) == 0 && value > own.rlim_max) {
        return mq_fail(err, MQ_E_ARG, "\"%s:%llu\": a slot itself has at most %llu", name,
                       (unsigned long long)value, (unsigned long long)own.rlim_max);
    }
    *out = value;
    return MQ_OK;
}

/* "run_ms:60000" and the like. */
static mq_code set_limit(mq_own_policy *p, mq_exec_program *program, mq_span word, mq_error *err)
{
    char text[64], *end = NULL;
    (void)mq_span_copy(word, text, sizeof text);
    char *colon = strchr(text, ':');
    unsigned long value = colon == NULL ? 0 : strtoul(colon + 1, &end, 10);
    if (colon == NULL || colon[1] < '0' || colon[1] > '9' || *end != '\0' || value == 0) {
        return mq_fail(err, MQ_E_ARG, "\"%s\": must be a name, \":\" and a number above 0", text);
    }
    *colon = '\0';
    if (strcmp(text, "run_ms") == 0 && value <= MQ_OWN_RUN_MS_MAX) {
        p->max_run_ms = value;
    } else if (strcmp(text, "attempts") == 0 && value <= MQ_OWN_ATTEMPTS_MAX) {
        p->attempts_max = (uint32_t)value;
    } else if (strcmp(text, "body_bytes") == 0 && value <= MQ_OWN_BODY_BYTES) {
        p->body_bytes_max = (uint32_t)value;
    } else if (strcmp(text, "memory_bytes") == 0) {
        return set_rlimit(&program->memory_bytes, RLIMIT_AS, text, value, err);
    } else if (strcmp(text, "file_bytes") == 0) {
        return set_rlimit(&program->file_bytes, RLIMIT_FSIZE, text, value, err);
    } else if (strcmp(text, "files") == 0 && value >= MQ_EXEC_FILES_MIN) {
        return set_rlimit(&program->files, RLIMIT_NOFILE, text, value, err);
    } else {
        return mq_fail(err, MQ_E_ARG,
                       "\"%s\": known are run_ms:1..%d, attempts:1..%d, body_bytes:1..%d, "
                       "memory_bytes, file_bytes, files:%d and more",
                       text, MQ_OWN_RUN_MS_MAX, MQ_OWN_ATTEMPTS_MAX, MQ_OWN_BODY_BYTES,
                       MQ_EXEC_FILES_MIN);
    }
    return MQ_OK;
}

mq_code mq_exec_limits(const char *text, mq_error *err)
{
    char name[65];
    const char *at = NULL;
    mq_code code = take_name(text, name, &at, err);
    mq_own_kind *kind = code == MQ_OK ? mq_own_entered(name) : NULL;
    if (code == MQ_OK && (kind == NULL || kind->run != mq_exec_run)) {
        return mq_fail(err, MQ_E_NOT_FOUND, "kind \"%s\": no --exec gives it", name);
    }
    while (code == MQ_OK && *at != '\0') {
        size_t len = strcspn(at, ",");
        code = set_limit(&kind->policy, kind->program, mq_span_of(at, len), err);
        at += len + (at[len] == ',');
    }
    return code;
}
