/* Loads shared objects with users' own kinds. It trusts the file as much as a program that the
 * operator starts, but checks its version and its table before it calls anything. */
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>

#include "worker/own/task.h"

enum { REASON_MAX = 400 };

/* One kind of the table: `at` may be a smaller struct of an older header. */
static mq_code add_kind(const void *at, size_t size, mq_error *err)
{
    maasq_handler_kind *handler = calloc(1, sizeof *handler);
    if (handler == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory");
    }
    memcpy(handler, at, size < sizeof *handler ? size : sizeof *handler);
    mq_own_kind kind = {.run = mq_task_run, .what = handler, .release = handler->release};
    mq_own_kind *entered = NULL;
    mq_code code = MQ_OK;
    if (handler->name == NULL || handler->run == NULL) {
        code = mq_fail(err, MQ_E_ARG, "a kind without a name or without run");
    } else {
        (void)snprintf(kind.policy.name, sizeof kind.policy.name, "%s", handler->name);
        kind.policy.max_run_ms = handler->max_run_ms;
        kind.policy.attempts_max = handler->attempts_max;
        kind.policy.body_bytes_max = handler->body_bytes_max;
        code = strlen(handler->name) >= sizeof kind.policy.name
                   ? mq_fail(err, MQ_E_ARG, "kind \"%.80s...\": longer than 64", handler->name)
                   : mq_own_add(&kind, &entered, err);
    }
    char reason[REASON_MAX] = "";
    if (code == MQ_OK && handler->init != NULL &&
        handler->init(&entered->state, reason, sizeof reason) != 0) {
        reason[sizeof reason - 1] = '\0';
        entered->release = NULL;
        return mq_fail(err, MQ_E_FAILED, "kind \"%s\": its init refuses: %s", handler->name,
                       reason[0] != '\0' ? reason : "without a reason");
    }
    if (code != MQ_OK) {
        free(handler);
    }
    /* Entered: the handler lives as long as the process. */
    return code; /* NOLINT(clang-analyzer-unix.Malloc) */
}

mq_code mq_handlers_load(const char *path, mq_error *err)
{
    char full[PATH_MAX];
    if (realpath(path, full) == NULL) { /* a bare name would be looked for in system folders */
        return mq_fail(err, MQ_E_NOT_FOUND, "no such file");
    }
    void *library = dlopen(full, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return mq_fail(err, MQ_E_FORMAT, "%s", dlerror());
    }
    const maasq_handlers *table = dlsym(library, "maasq_handler");
    if (table == NULL) {
        return mq_fail(err, MQ_E_FORMAT,
                       "exports no maasq_handler; include maasq_worker.h and put "
                       "MAASQ_HANDLERS(kinds) into one file");
    }
    if (table->abi != MAASQ_WORKER_ABI) {
        return mq_fail(err, MQ_E_VERSION,
                       "was built for handler version %u, this worker has version %d; build it "
                       "again with this version's maasq_worker.h",
                       table->abi, MAASQ_WORKER_ABI);
    }
    size_t least = offsetof(maasq_handler_kind, run) + sizeof(void *);
    if (table->kind_count < 1 || table->kind_count > MQ_OWN_KINDS_MAX || table->kinds == NULL ||
        table->kind_size < least || table->kind_size > 4096) {
        return mq_fail(err, MQ_E_FORMAT, "its table has %u kinds of %zu bytes; 1..%d are allowed",
                       table->kind_count, table->kind_size, MQ_OWN_KINDS_MAX);
    }
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < table->kind_count && code == MQ_OK; i++) {
        const char *at = (const char *)table->kinds + (size_t)i * table->kind_size;
        code = add_kind(at, table->kind_size, err);
    }
    return code;
}
