/* The broker's option table. */
#include "broker/config.h"

#include <stddef.h>
#include <stdio.h>

#include "shared/base/options.h"
#include "shared/base/ulid.h"

#define TEXT(field)  MQ_OPT_TEXT, offsetof(mq_broker_config, field), 1, 400
#define INT(field)   MQ_OPT_INT, offsetof(mq_broker_config, field)
#define BYTES(field) MQ_OPT_BYTES, offsetof(mq_broker_config, field)
#define FLAG(field)  MQ_OPT_FLAG, offsetof(mq_broker_config, field), 0, 0

enum { DAY_MS = 24 * 3600 * 1000 };

static const mq_option options[] = {
    {"front", "ENDPOINT", TEXT(front), "where clients connect (tcp://127.0.0.1:7700; ipc:// too)"},
    {"back", "ENDPOINT", TEXT(back), "where workers connect (tcp://127.0.0.1:7701)"},
    {"store", "URL", TEXT(store), "state Redis: unix:/path[,user=U,secret=FILE] or tcp:HOST:PORT"},
    {"blobs", "URL", TEXT(blobs), "blob store: unix:..., tcp:... or dir:/path"},
    {"blobs-told", "URL", TEXT(blobs_told), "blob store as clients and workers reach it"},
    {"name", "NAME", TEXT(name), "name shown to operators (broker)"},
    {"front-told", "ENDPOINT", TEXT(front_told), "--front as clients and other brokers reach it"},
    {"back-told", "ENDPOINT", TEXT(back_told), "--back as workers reach it"},
    {"shards", "S", INT(shards), 1, MQ_ULID_SHARDS_MAX,
     "a new deployment is cut into S shards (1); fixed from then on"},
    {"lease-ms", "MS", INT(lease_ms), 200, DAY_MS, "default lease of a job (15000)"},
    {"beat-ms", "MS", INT(beat_ms), 50, 60000, "how often workers beat (lease / 3)"},
    {"tenure-ms", "MS", INT(tenure_ms), 500, 60000, "ownership lease in the store (3000)"},
    {"jobs-max", "N", INT(jobs_max), 16, 10000000, "live jobs held (1100000)"},
    {"tenant-jobs-max", "N", INT(tenant_jobs_max), 1, 10000000,
     "live jobs of one tenant (jobs-max)"},
    {"body-bytes-max", "BYTES", BYTES(body_bytes_max), 1 << 20, INT64_C(1) << 40,
     "request bodies held in memory (2G)"},
    {"retention-ms", "MS", INT(retention_ms), 1000, INT64_C(365) * DAY_MS,
     "how long finished jobs stay readable (86400000)"},
    {"results-bytes-max", "BYTES", BYTES(results_bytes_max), 0, INT64_C(1) << 50,
     "finished jobs kept; then the oldest results go (0: half of the store's memory limit)"},
    {"dead-retention-ms", "MS", INT(dead_retention_ms), 1000, INT64_C(365) * DAY_MS,
     "how long dead letters stay, then they go (604800000)"},
    {"replicas", "N", INT(replicas), 0, 16,
     "replicas of the store that must have a job of durability replicated (1); 0 = no such class"},
    {"replicate-ms", "MS", INT(replicate_ms), 100, 600000,
     "how long a submit waits for them, then it is answered busy (5000)"},
    {"affinity-wait-ms", "MS", INT(affinity_wait_ms), 0, 10000,
     "how long a job waits for a busy worker that has its model, while others are idle (0: not)"},
    {"quarantine", "N", INT(quarantine_jobs), 0, 1000000,
     "so many jobs of a kind in a row crash: the kind is paused; 0 = never (10)"},
    {"workers-max", "N", INT(workers_max), 1, 100000, "workers connected at a time (4096)"},
    {"endpoint-file", "PATH", TEXT(endpoint_file), "write the bound endpoints here once ready"},
    {"witness", "DIR", TEXT(witness),
     "remember here what the store held; with less it is not served (none)"},
    {"adopt", "", FLAG(must_adopt), "accept what the store holds, whatever was seen before"},
    {"init", "", FLAG(may_init), "an empty store may become a new deployment"},
    {"prepare", "", FLAG(is_prepare),
     "load the function library into --store as its user (deploy), then end"},
    {"log-level", "LEVEL", TEXT(log_level_text), "debug, info, warn or error (info)"},
    {"log-json", "", FLAG(is_log_json), "log lines as JSON"},
};

enum { OPTION_COUNT = sizeof options / sizeof options[0] };

static const mq_broker_config defaults = {
    .front = "tcp://127.0.0.1:7700",
    .back = "tcp://127.0.0.1:7701",
    .store = "",
    .blobs = "",
    .blobs_told = "",
    .front_told = "",
    .back_told = "",
    .name = "broker",
    .endpoint_file = "",
    .witness = "",
    .log_level_text = "info",
    .lease_ms = 15000,
    .tenure_ms = 3000,
    .jobs_max = 1100000,
    .body_bytes_max = INT64_C(2) << 30,
    .retention_ms = DAY_MS,
    .dead_retention_ms = INT64_C(7) * DAY_MS,
    .workers_max = 4096,
    .quarantine_jobs = 10,
    .replicas = 1,
    .replicate_ms = 5000,
};

static mq_code check(mq_broker_config *config, mq_error *err)
{
    if (config->store[0] == '\0' || (config->blobs[0] == '\0' && !config->is_prepare)) {
        return mq_fail(err, MQ_E_ARG, "--store and --blobs are needed; see --help");
    }
    if (!mq_log_level_parse(config->log_level_text, &config->log_level)) {
        return mq_fail(err, MQ_E_ARG, "--log-level: \"%.20s\" is not debug, info, warn or error",
                       config->log_level_text);
    }
    if (config->beat_ms == 0) {
        config->beat_ms = config->lease_ms / 3;
    }
    if (config->beat_ms > config->lease_ms / 2) {
        return mq_fail(err, MQ_E_ARG, "--beat-ms: %lld is more than half of --lease-ms %lld",
                       (long long)config->beat_ms, (long long)config->lease_ms);
    }
    if (config->tenant_jobs_max == 0) {
        config->tenant_jobs_max = config->jobs_max;
    }
    if (config->blobs_told[0] == '\0') {
        config->blobs_told = config->blobs;
    }
    return MQ_OK;
}

mq_code mq_broker_config_read(mq_broker_config *config, int argc, char **argv, bool *is_done,
                              mq_error *err)
{
    *config = defaults;
    *is_done = true;
    if (mq_options_ask(argc, argv, "help")) {
        printf("maasq-broker: owns shards of the queue; any number of brokers share them\n\n");
        mq_options_help(options, OPTION_COUNT);
        return MQ_OK;
    }
    if (mq_options_ask(argc, argv, "version")) {
        printf("maasq-broker %s\n", MQ_VERSION);
        return MQ_OK;
    }
    *is_done = false;
    mq_code code = mq_options_parse(options, OPTION_COUNT, argc, argv, config, err);
    return code == MQ_OK ? check(config, err) : code;
}
