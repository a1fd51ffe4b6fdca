/* `maasq redis serve`: becomes a redis-server, after what a kill has left at the end of its log was
 * cut. */
#include <stdint.h>
#include <stdio.h>

#include "client/cli/cli.h"
#include "shared/store/aof.h"

int mq_cmd_redis_serve(mq_cli *cli, const mq_argv *args)
{
    if (args->word_count < 2) {
        return mq_cli_usage(cli, "needs the folder of the log (the server's `dir`) and a "
                                 "configuration file");
    }
    mq_error err;
    size_t cut_bytes = 0;
    if (mq_aof_repair(args->words[0], &cut_bytes, &err) != MQ_OK) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    if (cut_bytes > 0) {
        fprintf(stderr, "%s: cut %zu bytes that were never acknowledged off the end of the log\n",
                args->words[0], cut_bytes);
    }
    const char *argv[MQ_ARGV_GIVEN_MAX + 2] = {"redis-server"};
    for (size_t i = 1; i < args->word_count; i++) {
        argv[i] = args->words[i];
    }
    return mq_cli_exec(cli, "redis-server", (char **)(uintptr_t)argv);
}
