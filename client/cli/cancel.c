/* `maasq job cancel`: one job, some, or all live ones that a filter fits. */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "shared/base/clock.h"

enum { CANCEL_MAX = 100000, PAGE_ROWS = 1000, WINDOW = 256, ID_BYTES = 32, FILTER_BYTES = 4096 };

/* What became of those that were asked to stop. */
typedef struct tally {
    size_t matched, cancelled, stopping, ended;
} tally;

static int cancel_one(mq_cli *cli, const char *id, bool is_hard)
{
    maasq_job *job = mq_job_open(cli, id);
    maasq_error err;
    if (job == NULL) {
        return MQ_EXIT_FAILED;
    }
    maasq_cancel(job, is_hard);
    int status = MQ_EXIT_OK;
    maasq_info info = {.size = sizeof info};
    if (maasq_wait(job, cli->timeout_ms, &err) != MAASQ_OK) {
        status =
            mq_cli_fail(cli, "%s; it is asked to stop (--hard takes its lease away)", err.text);
    }
    maasq_job_info(job, &info);
    if (status == MQ_EXIT_OK && strcmp(info.state, "cancelled") != 0) {
        status = mq_cli_fail(cli, "job %s was not cancelled, it is %s%s%s", info.id, info.state,
                             info.error[0] == '\0' ? "" : ": ", info.error);
    } else if (status == MQ_EXIT_OK && cli->is_json) {
        status = mq_cli_json(json_pack("{s:s, s:s}", "id", info.id, "state", info.state));
    } else if (status == MQ_EXIT_OK) {
        printf("%s is cancelled\n", info.id);
    }
    maasq_job_release(&job);
    return status;
}

/* ---- many ---- */

static bool is_live(const json_t *job)
{
    static const char *const live[] = {"blocked", "scheduled", "queued", "leased"};
    const char *state = mq_js_text(job, "state", "");
    for (size_t i = 0; i < sizeof live / sizeof *live; i++) {
        if (strcmp(state, live[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* One page of the list into ids; *next is where it goes on, empty at the end. */
static int read_page(mq_cli *cli, const char *filter, char next[FILTER_BYTES],
                     char (*ids)[ID_BYTES], size_t *count)
{
    char text[2 * FILTER_BYTES];
    json_t *answer = NULL;
    size_t i;
    json_t *job;
    (void)snprintf(text, sizeof text, "%s%s%s", filter, next[0] == '\0' ? "" : " after=", next);
    int status = mq_cli_query(cli, "jobs", "", text, PAGE_ROWS, &answer);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    (void)snprintf(next, FILTER_BYTES, "%s", mq_js_text(answer, "next", ""));
    json_array_foreach(json_object_get(answer, "jobs"), i, job)
    {
        if (is_live(job) && *count < CANCEL_MAX) {
            (void)snprintf(ids[(*count)++], ID_BYTES, "%s", mq_js_text(job, "id", ""));
        }
    }
    json_decref(answer);
    return MQ_EXIT_OK;
}

/* Cancels some at once and waits for their ends until the deadline. */
static int cancel_some(mq_cli *cli, char (*ids)[ID_BYTES], size_t count, bool is_hard,
                       int64_t deadline_ms, tally *t)
{
    maasq_job *jobs[WINDOW] = {0};
    int status = MQ_EXIT_OK;
    for (size_t i = 0; i < count && status == MQ_EXIT_OK; i++) {
        jobs[i] = mq_job_open(cli, ids[i]);
        status = jobs[i] == NULL ? MQ_EXIT_FAILED : MQ_EXIT_OK;
        if (jobs[i] != NULL) {
            maasq_cancel(jobs[i], is_hard);
        }
    }
    for (size_t i = 0; i < count && jobs[i] != NULL; i++) {
        maasq_info info = {.size = sizeof info};
        int64_t left_ms = deadline_ms - mq_clock_mono_ms();
        bool is_over = maasq_wait(jobs[i], left_ms > 0 ? left_ms : 0, NULL) == MAASQ_OK;
        maasq_job_info(jobs[i], &info);
        size_t *where = !is_over                               ? &t->stopping
                        : strcmp(info.state, "cancelled") == 0 ? &t->cancelled
                                                               : &t->ended;
        (*where)++;
        maasq_job_release(&jobs[i]);
    }
    return status;
}

/* The list first, whole: what is cancelled leaves it. */
static int cancel_all(mq_cli *cli, const char *filter, bool is_hard)
{
    char(*ids)[ID_BYTES] = calloc(CANCEL_MAX, sizeof *ids);
    char next[FILTER_BYTES] = "";
    tally t = {0};
    if (ids == NULL) {
        return mq_cli_fail(cli, "no memory for a list of %d jobs", CANCEL_MAX);
    }
    int status = read_page(cli, filter, next, ids, &t.matched);
    while (status == MQ_EXIT_OK && next[0] != '\0' && t.matched < CANCEL_MAX) {
        status = read_page(cli, filter, next, ids, &t.matched);
    }
    int64_t deadline_ms = mq_clock_mono_ms() + cli->timeout_ms;
    for (size_t at = 0; at < t.matched && status == MQ_EXIT_OK; at += WINDOW) {
        size_t some = t.matched - at < WINDOW ? t.matched - at : WINDOW;
        status = cancel_some(cli, ids + at, some, is_hard, deadline_ms, &t);
    }
    free(ids);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:I, s:I, s:I, s:I}", "matched", (json_int_t)t.matched,
                                     "cancelled", (json_int_t)t.cancelled, "stopping",
                                     (json_int_t)t.stopping, "ended", (json_int_t)t.ended));
    }
    printf("%zu of %zu live jobs are cancelled\n", t.cancelled, t.matched);
    if (t.stopping > 0) {
        printf("%zu are asked to stop and have not yet (--hard takes their leases away)\n",
               t.stopping);
    }
    if (t.ended > 0) {
        printf("%zu had ended before\n", t.ended);
    }
    if (t.matched == CANCEL_MAX) {
        printf("that is as many as go at a time: run it again for more\n");
    }
    return MQ_EXIT_OK;
}

int mq_cmd_job_cancel(mq_cli *cli, const mq_argv *args)
{
    const char *filter = mq_argv_text(args, "filter", "");
    const char *id = mq_argv_word(args, 0);
    bool is_hard = mq_argv_has(args, "hard"), is_all = mq_argv_has(args, "all");
    if ((id != NULL) + (filter[0] != '\0') + is_all != 1) {
        return mq_cli_usage(cli, "ids, or --filter \"queue=mail state=queued\", or --all");
    }
    if (strlen(filter) >= FILTER_BYTES) {
        return mq_cli_usage(cli, "--filter: more than %d letters", FILTER_BYTES - 1);
    }
    if (id == NULL) {
        return cancel_all(cli, filter, is_hard);
    }
    int status = MQ_EXIT_OK;
    for (size_t i = 0; status == MQ_EXIT_OK && (id = mq_argv_word(args, i)) != NULL; i++) {
        status = cancel_one(cli, id, is_hard);
    }
    return status;
}
