/* The queue's benchmarks against the ceilings of the same run. */
#ifndef MQ_CLI_SUITE_H
#define MQ_CLI_SUITE_H

#include "client/cli/cli.h"

typedef struct mq_suite_options {
    int rounds;        /* all cases in turn, so often; medians are printed */
    int64_t jobs;      /* of a durable case; others have multiples of it */
    int64_t backlog;   /* jobs queued for the cases about a long queue; 0: leave them out */
    const char *light; /* program with 1,000 light workers (tests/bench); NULL: leave that out */
} mq_suite_options;

/* Starts private systems, measures, prints one JSON object a line with --json, else a table. */
int mq_suite_run(mq_cli *cli, const mq_suite_options *options);

#endif
