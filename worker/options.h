/* The worker's settings, from the command line. */
#ifndef MQ_WORKER_OPTIONS_H
#define MQ_WORKER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"
#include "shared/base/log.h"
#include "shared/base/options.h"

enum { MQ_WORKER_BROKERS_MAX = 16, MQ_WORKER_TAGS_MAX = 16 };

typedef struct mq_worker_options {
    const char *brokers_text; /* as given, comma-separated */
    const char *tags_text;
    const char *name;
    const char *blobs; /* "" = as the broker says */
    const char *cache;
    const char *host_id; /* "" = found out */
    const char *gang_bind;
    const char *gang_host; /* address told to peers; "" = found out */
    const char *blas_core; /* "auto", "none" or an OpenBLAS core name */
    const char *endpoint_file;
    const char *log_level_text;
    int64_t slots; /* 0 = one a core */
    int64_t prefetch;
    int64_t cache_bytes, packs_bytes;
    int64_t threads;      /* of one slot's kernels */
    int64_t memory_bytes; /* of one slot; 0 = no limit, arenas get their share of the machine */
    int64_t drain_ms;
    bool is_log_json;
    mq_option_list handlers, exec, exec_limits, env;
    /* From the above: */
    mq_log_level log_level;
    char *brokers[MQ_WORKER_BROKERS_MAX]; /* owned */
    uint32_t broker_count;
    char *tags[MQ_WORKER_TAGS_MAX]; /* owned */
    uint32_t tag_count;
    /* For slots: --handlers and the like with their values, NULL-terminated; borrowed. */
    char *slot_args[6 * MQ_OPTION_LIST_MAX + 1];
} mq_worker_options;

/* Defaults, then argv. MQ_E_ARG names the option. Release with mq_worker_options_release. */
MQ_MUST_USE mq_code mq_worker_options_read(mq_worker_options *options, int argc, char **argv,
                                           mq_error *err);
void mq_worker_options_release(mq_worker_options *options);

/* Help text to standard output. */
void mq_worker_options_help(void);

#endif
