/* Jobs run from the command line: submitted, followed with their progress, their result printed. */
#ifndef MQ_CLI_FOLLOW_H
#define MQ_CLI_FOLLOW_H

#include "client/cli/cli.h"

/* Submits and waits until the job has ended, showing progress on standard error: a bar on a
 * terminal, a plain line every few seconds elsewhere, nothing when `is_quiet`. Ctrl-C leaves the
 * job running and says how to go on. *job is owned by the caller (maasq_job_release), also after a
 * failure; NULL when it was not submitted. MQ_EXIT_OK when it succeeded, else the failure has been
 * printed. */
int mq_follow_submit(mq_cli *cli, const maasq_spec *spec, bool is_quiet, maasq_job **job);

/* The same for a job that exists. */
int mq_follow(mq_cli *cli, maasq_job *job, bool is_quiet);

/* A job of `kind` with a JSON body (takes the reference): runs it to the end and parses its result,
 * which the caller owns. model may be NULL. Fills id when not NULL. */
int mq_follow_json(mq_cli *cli, const char *kind, const char *model, json_t *takes_body,
                   json_t **result, char id[32]);

/* Version of a published model or dataset (`what`) that job `id` made: from the result when it says
 * so, else asked for. 0 when unknown. */
int64_t mq_follow_version(mq_cli *cli, const char *what, const char *name, const char *id,
                          const json_t *result);

/* One line of text for a job's progress object; empty when there is nothing to tell. width: of the
 * bar, 0 = none. */
void mq_progress_line(const json_t *progress, const char *state, int width, char *out, size_t size);

#endif
