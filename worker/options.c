/* The worker's command line; see options.h. */
#include "worker/options.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/math.h"
#include "shared/base/options.h"

enum { SLOTS_MAX = 128, NAME_MAX_BYTES = 64 };

/* Options that slots get as they are. */
static char opt_handlers[] = "--handlers", opt_exec[] = "--exec",
            opt_exec_limits[] = "--exec-limits";

#define AT(field) offsetof(mq_worker_options, field)
#define BYTES_MAX ((int64_t)1 << 50)

static const mq_option table[] = {
    {"broker", "ENDPOINT[,ENDPOINT...]", MQ_OPT_TEXT, AT(brokers_text), 1, 2048,
     "back endpoints of the brokers, tried in this order"},
    {"slots", "N", MQ_OPT_INT, AT(slots), 0, SLOTS_MAX,
     "jobs at a time, each in a process of its own (default: one a core)"},
    {"threads", "N", MQ_OPT_INT, AT(threads), 1, SLOTS_MAX,
     "threads of one slot where oneDNN computes (default 1; slots are then fewer by default)"},
    {"prefetch", "N", MQ_OPT_INT, AT(prefetch), 0, 256,
     "jobs kept ready beyond free slots at most, only while jobs take some ms (default 192)"},
    {"name", "NAME", MQ_OPT_TEXT, AT(name), 1, NAME_MAX_BYTES,
     "shown to operators (default: host and process number)"},
    {"tags", "TAG[,TAG...]", MQ_OPT_TEXT, AT(tags_text), 0, 1024,
     "what jobs may ask for, 16 at most"},
    {"handlers", "FILE.so", MQ_OPT_LIST, AT(handlers), 1, 3000,
     "job kinds of your own, built with maasq_worker.h; may be given again"},
    {"exec", "KIND=PROGRAM ARG...", MQ_OPT_LIST, AT(exec), 3, 8192,
     "a job kind that runs this program, body on stdin, result on stdout; again and again"},
    {"exec-limits", "KIND=LIMIT:N,...", MQ_OPT_LIST, AT(exec_limits), 3, 512,
     "limits of such a kind: run_ms, attempts, body_bytes, memory_bytes, file_bytes, files"},
    {"env", "NAME=VALUE", MQ_OPT_LIST, AT(env), 1, 4096,
     "set for slots and what they run, which see little else of the environment; again and again"},
    {"memory", "BYTES", MQ_OPT_BYTES, AT(memory_bytes), 0, BYTES_MAX,
     "address space of one slot, 0 = unlimited (default 0)"},
    {"blobs", "URL", MQ_OPT_TEXT, AT(blobs), 0, 512, "blob store (default: as the broker says)"},
    {"cache", "DIR", MQ_OPT_TEXT, AT(cache), 1, 3000,
     "files of blobs, shared by the workers of a host (default $TMPDIR/maasq-cache-UID)"},
    {"cache-bytes", "BYTES", MQ_OPT_BYTES, AT(cache_bytes), 1 << 20, BYTES_MAX,
     "the cache is kept below this (default 8G)"},
    {"packs-bytes", "BYTES", MQ_OPT_BYTES, AT(packs_bytes), 0, BYTES_MAX,
     "packed weights, in the folder packs of the cache, mapped by all slots of a host, are kept "
     "below this; 0: each slot packs its own (default 4G)"},
    {"drain-ms", "MS", MQ_OPT_INT, AT(drain_ms), 0, 86400000,
     "after SIGTERM running jobs may go on so long (default 30000)"},
    {"blas-core", "CORE", MQ_OPT_TEXT, AT(blas_core), 1, 32,
     "OpenBLAS kernels: auto, none, or a core such as Haswell (default auto); equal on all workers "
     "that train together"},
    {"gang-bind", "ENDPOINT", MQ_OPT_TEXT, AT(gang_bind), 1, 128,
     "where workers of other hosts reach this one (default tcp://127.0.0.1:*)"},
    {"gang-host", "ADDRESS", MQ_OPT_TEXT, AT(gang_host), 0, 100,
     "the address told to them when bound to all (default: the one that routes to the broker)"},
    {"host-id", "ID", MQ_OPT_TEXT, AT(host_id), 0, NAME_MAX_BYTES,
     "workers with equal ids share memory (default: found out)"},
    {"endpoint-file", "FILE", MQ_OPT_TEXT, AT(endpoint_file), 0, 3000,
     "written once registered: worker, pid, gang endpoints"},
    {"log-level", "LEVEL", MQ_OPT_TEXT, AT(log_level_text), 1, 8,
     "debug, info, warn or error (default info)"},
    {"log-json", "", MQ_OPT_FLAG, AT(is_log_json), 0, 0, "log lines as JSON objects"},
};

enum { TABLE_COUNT = sizeof table / sizeof table[0] };

/* Cuts text at commas into owned copies. */
static mq_code split(const char *option, const char *text, char **out, uint32_t max,
                     uint32_t *count, mq_error *err)
{
    while (*text != '\0') {
        size_t len = strcspn(text, ",");
        if (len == 0) {
            return mq_fail(err, MQ_E_ARG, "--%s: an empty entry", option);
        }
        if (*count == max) {
            return mq_fail(err, MQ_E_ARG, "--%s: more than %u entries", option, max);
        }
        char *copy = strndup(text, len);
        if (copy == NULL) {
            return mq_fail(err, MQ_E_LIMIT, "--%s: no memory", option);
        }
        out[(*count)++] = copy;
        text += len + (text[len] == ',');
    }
    return MQ_OK;
}

static uint32_t slot_args_add(mq_worker_options *o, uint32_t at, char *name,
                              const mq_option_list *list)
{
    for (uint32_t i = 0; i < list->count; i++) {
        o->slot_args[at++] = name;
        o->slot_args[at++] = (char *)(uintptr_t)list->at[i];
    }
    return at;
}

static mq_code finish(mq_worker_options *o, mq_error *err)
{
    uint32_t at = slot_args_add(o, 0, opt_handlers, &o->handlers);
    at = slot_args_add(o, at, opt_exec, &o->exec);
    (void)slot_args_add(o, at, opt_exec_limits, &o->exec_limits);
    if (!mq_log_level_parse(o->log_level_text, &o->log_level)) {
        return mq_fail(err, MQ_E_ARG, "--log-level: \"%s\" is not debug, info, warn or error",
                       o->log_level_text);
    }
    if (o->brokers_text == NULL) {
        return mq_fail(err, MQ_E_ARG,
                       "--broker: missing; name the back endpoint of a broker, such "
                       "as tcp://127.0.0.1:7411");
    }
    if (o->slots == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        o->slots = mq_min_i64(mq_max_i64(cores / o->threads, 1), SLOTS_MAX);
    }
    mq_code code =
        split("broker", o->brokers_text, o->brokers, MQ_WORKER_BROKERS_MAX, &o->broker_count, err);
    if (code == MQ_OK) {
        code = split("tags", o->tags_text, o->tags, MQ_WORKER_TAGS_MAX, &o->tag_count, err);
    }
    for (uint32_t i = 0; code == MQ_OK && i < o->tag_count; i++) {
        if (strlen(o->tags[i]) > NAME_MAX_BYTES) {
            code = mq_fail(err, MQ_E_ARG, "--tags: one of %zu bytes; the limit is %d",
                           strlen(o->tags[i]), NAME_MAX_BYTES);
        }
    }
    return code;
}

mq_code mq_worker_options_read(mq_worker_options *options, int argc, char **argv, mq_error *err)
{
    *options = (mq_worker_options){
        .tags_text = "",
        .name = "",
        .blobs = "",
        .cache = "",
        .host_id = "",
        .gang_bind = "tcp://127.0.0.1:*",
        .gang_host = "",
        .blas_core = "auto",
        .endpoint_file = "",
        .log_level_text = "info",
        .cache_bytes = (int64_t)8 << 30,
        .packs_bytes = (int64_t)4 << 30,
        .threads = 1,
        .prefetch = 192,
        .drain_ms = 30000,
    };
    mq_code code = mq_options_parse(table, TABLE_COUNT, argc, argv, options, err);
    if (code == MQ_OK) {
        code = finish(options, err);
    }
    if (code != MQ_OK) {
        mq_worker_options_release(options);
    }
    return code;
}

void mq_worker_options_release(mq_worker_options *options)
{
    for (uint32_t i = 0; i < options->broker_count; i++) {
        free(options->brokers[i]);
    }
    for (uint32_t i = 0; i < options->tag_count; i++) {
        free(options->tags[i]);
    }
    options->broker_count = options->tag_count = 0;
}

void mq_worker_options_help(void)
{
    puts("usage: maasq-worker --broker ENDPOINT[,ENDPOINT...] [options]\n"
         "       maasq-worker --local COMMAND ...    without a broker; --local help lists them\n"
         "       maasq-worker --version | --help\n\n"
         "Serves jobs of a broker in slot processes. SIGTERM drains: takes no more jobs, lets\n"
         "running ones finish within --drain-ms, returns the rest, exits 0; again: at once.\n");
    mq_options_help(table, TABLE_COUNT);
}
