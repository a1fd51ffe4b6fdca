/* maasq-worker: serves jobs of a broker, or runs one command without a broker. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/options.h"
#include "worker/io/supervisor.h"
#include "worker/local/local.h"
#include "worker/slot/slot_main.h"

enum { USAGE = 2 };

static int serve(int argc, char **argv)
{
    mq_worker_options options;
    mq_error err;
    if (mq_worker_options_read(&options, argc, argv, &err) != MQ_OK) {
        fprintf(stderr, "maasq-worker: %s (maasq-worker --help lists the options)\n", err.text);
        return USAGE;
    }
    mq_log_setup("worker", options.log_level, options.is_log_json);
    int status = mq_supervisor_run(&options);
    mq_worker_options_release(&options);
    return status;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "--slot") == 0) {
        mq_log_setup("slot", MQ_INFO, false);
        return mq_slot_main_own((int)strtol(argv[2], NULL, 10), argc - 3, argv + 3);
    }
    if (argc >= 2 && strcmp(argv[1], "--local") == 0) {
        mq_log_setup("worker", MQ_WARN, false);
        return mq_local_main(argc - 2, argv + 2);
    }
    if (argc < 2 || mq_options_ask(argc, argv, "help")) {
        mq_worker_options_help();
        return argc < 2 ? USAGE : 0;
    }
    if (mq_options_ask(argc, argv, "version")) {
        puts("maasq-worker " MQ_VERSION);
        return 0;
    }
    return serve(argc, argv);
}
