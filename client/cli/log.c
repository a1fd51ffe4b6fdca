/* `maasq job log`: what a job said, while it runs and after its end. */
#include <stdio.h>

#include "client/cli/cli.h"
#include "shared/base/clock.h"
#include "shared/job/lifecycle.h"

enum { POLL_MS = 300 };

static bool has_ended(const json_t *job)
{
    return mq_state_is_terminal(mq_state_parse(mq_str(mq_js_text(job, "state", ""))));
}

/* Prints the lines from number `next` on; returns the number of the next one. */
static int64_t print_from(const json_t *job, int64_t next)
{
    int64_t number = mq_js_int(job, "log_from");
    size_t i;
    json_t *line;
    if (number > next && next > 0) {
        fprintf(stderr, "... %lld lines were not kept\n", (long long)(number - next));
    }
    json_array_foreach(json_object_get(job, "log"), i, line)
    {
        if (number >= next) {
            printf("%s\n", json_string_value(line));
        }
        number++;
    }
    (void)fflush(stdout);
    return number > next ? number : next;
}

int mq_cmd_job_log(mq_cli *cli, const mq_argv *args)
{
    const char *id = mq_argv_word(args, 0);
    bool is_following = mq_argv_has(args, "follow");
    int64_t next = 0;
    bool is_over = false;
    while (!is_over) {
        json_t *job = NULL;
        int status = mq_cli_query(cli, "job", id, "", 0, &job);
        if (status != MQ_EXIT_OK) {
            return status;
        }
        is_over = !is_following || has_ended(job);
        if (cli->is_json && is_over) {
            status = mq_cli_json(json_pack(
                "{s:s, s:s, s:O, s:I, s:O}", "id", id, "state", mq_js_text(job, "state", ""), "log",
                json_object_get(job, "log"), "log_from", (json_int_t)mq_js_int(job, "log_from"),
                "progress", json_object_get(job, "progress")));
        } else if (!cli->is_json) {
            next = print_from(job, next);
        }
        json_decref(job);
        if (status != MQ_EXIT_OK) {
            return status;
        }
        if (!is_over) {
            mq_clock_sleep_ms(POLL_MS);
        }
    }
    return MQ_EXIT_OK;
}
