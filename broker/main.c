/* maasq-broker: reads its options and runs the loop. Exit status 0 after a clean stop, 1 when it
 * failed, 2 for wrong usage. */
#include <stdio.h>

#include "broker/io/broker.h"
#include "shared/store/store.h"

int main(int argc, char **argv)
{
    mq_error err;
    mq_broker_config config;
    bool is_done = false;
    if (mq_broker_config_read(&config, argc, argv, &is_done, &err) != MQ_OK) {
        fprintf(stderr, "maasq-broker: %s\n", err.text);
        return 2;
    }
    if (is_done) {
        return 0;
    }
    mq_log_setup("broker", config.log_level, config.is_log_json);
    if (config.is_prepare) {
        if (mq_store_redis_load(config.store, &err) != MQ_OK) {
            fprintf(stderr, "maasq-broker: --prepare: %s\n", err.text);
            return 1;
        }
        return 0;
    }
    if (mq_broker_run(&config, &err) != MQ_OK) {
        mq_log(MQ_ERROR_LEVEL, "broker stopped", "error=%s", err.text);
        return 1;
    }
    return 0;
}
