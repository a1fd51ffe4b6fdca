/* Groups and chains from a file of jobs. */
#ifndef MQ_CLI_GROUP_H
#define MQ_CLI_GROUP_H

#include "client/cli/cli.h"

/* Submits the jobs of --group FILE (a JSON object a line; --chain: one after the other), then the
 * callback. Prints its id, or with --json {"id","members"}, unless --wait was given. *out is the
 * callback's handle, owned, NULL after a failure. */
int mq_group_submit(mq_cli *cli, const mq_argv *args, const maasq_spec *callback, maasq_job **out);

#endif
