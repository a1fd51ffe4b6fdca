/* `maasq status` and `maasq top`: one page about the system, printed once or again and again. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include "client/cli/fleet.h"
#include "client/cli/follow.h"
#include "client/cli/out.h"
#include "shared/base/clock.h"

enum { RUNNING_SHOWN = 20 };

/* Everything a page shows; each owned. */
typedef struct page {
    json_t *status, *workers, *queues, *running, *models;
} page;

static int fetch(mq_cli *cli, page *p)
{
    *p = (page){0};
    int status = mq_cli_query(cli, "status", "", "", 0, &p->status);
    status = status != MQ_EXIT_OK ? status : mq_cli_query(cli, "workers", "", "", 0, &p->workers);
    status = status != MQ_EXIT_OK ? status : mq_cli_query(cli, "queues", "", "", 0, &p->queues);
    status = status != MQ_EXIT_OK ? status : mq_cli_query(cli, "models", "", "", 0, &p->models);
    return status != MQ_EXIT_OK
               ? status
               : mq_cli_query(cli, "jobs", "", "state=leased", RUNNING_SHOWN, &p->running);
}

static void release(page *p)
{
    json_decref(p->status);
    json_decref(p->workers);
    json_decref(p->queues);
    json_decref(p->running);
    json_decref(p->models);
}

static json_t *page_json(const page *p)
{
    return json_pack("{s:O, s:O?, s:O?, s:O?, s:O?}", "status", p->status, "workers",
                     json_object_get(p->workers, "workers"), "queues",
                     json_object_get(p->queues, "queues"), "running",
                     json_object_get(p->running, "jobs"), "models",
                     json_object_get(p->models, "models"));
}

/* "name 3  name 4" of an object's numbers that are not 0. */
static void print_numbers(const char *title, const json_t *object)
{
    bool is_any = false;
    const char *key = NULL;
    json_t *value = NULL;
    printf("%-9s", title);
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (json_is_number(value) && json_number_value(value) > 0) {
            printf(" %s %.0f ", key, json_number_value(value));
            is_any = true;
        }
    }
    printf("%s\n", is_any ? "" : " none");
}

static void print_workers(const json_t *workers)
{
    mq_table *table = mq_table_new("worker|>slots|>free|>memory|>load|beat|state|>jobs");
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(workers, "workers"), i, one)
    {
        mq_table_cell(table, "%s", mq_js_text(one, "name", "?"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(one, "slots"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(one, "free"));
        mq_table_cell(table, "%s", mq_out_bytes(mq_js_real(one, "rss_bytes")));
        mq_table_cell(table, "%.2f", (double)mq_js_int(one, "load_milli") / 1000);
        mq_table_cell(table, "%s", mq_out_ms(mq_js_int(one, "beat_age_ms")));
        mq_table_cell(table, "%s",
                      json_is_true(json_object_get(one, "is_draining")) ? "draining" : "ready");
        mq_table_cell(table, "%zu", json_array_size(json_object_get(one, "jobs")));
    }
    mq_table_print(table, "no workers");
}

void mq_fleet_curve(const json_t *curve)
{
    static const char *const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    size_t count = json_array_size(curve);
    size_t first = count > 60 ? count - 60 : 0;
    double top = 0;
    for (size_t i = first; i < count; i++) {
        double loss = mq_js_real(json_array_get(curve, i), "loss");
        top = loss > top ? loss : top;
    }
    if (count < 2 || !(top > 0)) {
        return;
    }
    printf("    loss ");
    for (size_t i = first; i < count; i++) {
        int level = (int)(mq_js_real(json_array_get(curve, i), "loss") / top * 7.999);
        printf("%s", bars[level < 0 ? 0 : level > 7 ? 7 : level]);
    }
    printf(" %.4f -> %.4f\n", mq_js_real(json_array_get(curve, first), "loss"),
           mq_js_real(json_array_get(curve, count - 1), "loss"));
}

static void print_running(const json_t *running)
{
    size_t i;
    json_t *job;
    json_array_foreach(json_object_get(running, "jobs"), i, job)
    {
        char line[512];
        const json_t *progress = json_object_get(job, "progress");
        mq_progress_line(progress, "running", 20, line, sizeof line);
        printf("  %s %-10s %s\n", mq_js_text(job, "id", "?"), mq_js_text(job, "kind", "?"), line);
        mq_fleet_curve(json_object_get(progress, "curve"));
    }
    if (i == 0) {
        printf("  nothing is running\n");
    }
}

static void print_alarms(const json_t *status)
{
    size_t i;
    json_t *alarm;
    json_array_foreach(json_object_get(status, "alarms"), i, alarm)
    {
        printf("ALARM  %s\n", json_string_value(alarm));
    }
    int64_t held[3] = {mq_js_int(status, "held.paused"), mq_js_int(status, "held.limit"),
                       mq_js_int(status, "held.no_worker")};
    if (held[0] + held[1] + held[2] > 0) {
        printf("held   %lld by a pause, %lld by a limit, %lld for want of a worker that could run "
               "them\n",
               (long long)held[0], (long long)held[1], (long long)held[2]);
    }
}

static void print_page(const page *p)
{
    const json_t *broker = json_object_get(p->status, "broker");
    printf("maasq %s  broker %s  up %s  %s UTC\n", mq_js_text(broker, "version", "?"),
           mq_js_text(broker, "name", "?"), mq_out_ms(mq_js_int(broker, "uptime_ms")),
           mq_out_time(mq_js_int(p->status, "now_ms")));
    print_numbers("jobs now", json_object_get(p->status, "jobs"));
    print_numbers("so far", json_object_get(p->status, "counters"));
    const json_t *store = json_object_get(p->status, "store");
    if (strcmp(mq_js_text(store, "level", "ok"), "ok") != 0) {
        printf("store      %lld %% of its memory is used: at 80 %% new jobs are answered busy\n",
               (long long)mq_js_int(store, "used_percent"));
    }
    const json_t *replicas = json_object_get(store, "replicas");
    if (mq_js_int(replicas, "online") > 0 || mq_js_int(replicas, "waiting") > 0) {
        printf("replicas   %lld online, %lld of %lld confirm: durability replicated is %s",
               (long long)mq_js_int(replicas, "online"),
               (long long)mq_js_int(replicas, "confirmed_by"),
               (long long)mq_js_int(replicas, "wanted"),
               json_is_true(json_object_get(replicas, "is_open")) ? "open" : "closed");
        printf(", %lld answers wait for them\n", (long long)mq_js_int(replicas, "waiting"));
    }
    printf("\n");
    print_workers(p->workers);
    printf("\n");
    mq_fleet_queues(p->queues);
    print_alarms(p->status);
    printf("\nrunning\n");
    print_running(p->running);
    printf("\n");
    mq_fleet_models(p->models);
}

int mq_cmd_status(mq_cli *cli, const mq_argv *args)
{
    (void)args;
    page p;
    int status = fetch(cli, &p);
    if (status == MQ_EXIT_OK && cli->is_json) {
        status = mq_cli_json(page_json(&p));
    } else if (status == MQ_EXIT_OK) {
        print_page(&p);
    }
    release(&p);
    return status;
}

static volatile sig_atomic_t is_over;

static void on_signal(int number)
{
    (void)number;
    is_over = 1;
}

int mq_cmd_top(mq_cli *cli, const mq_argv *args)
{
    int64_t seconds = 1;
    mq_error err;
    if (mq_argv_int(args, "interval", 1, 3600, &seconds, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    if (mq_argv_has(args, "once")) {
        return mq_cmd_status(cli, args);
    }
    if (!isatty(STDOUT_FILENO)) {
        return mq_cli_usage(cli, "standard output is no terminal; use --once");
    }
    (void)signal(SIGINT, on_signal);
    int status = MQ_EXIT_OK;
    struct termios before = {0};
    bool has_keys = tcgetattr(STDIN_FILENO, &before) == 0;
    if (has_keys) { /* a key counts at once, without Enter */
        struct termios raw = before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    printf("\033[?25l"); /* no cursor */
    while (status == MQ_EXIT_OK && is_over == 0) {
        page p;
        status = fetch(cli, &p);
        if (status == MQ_EXIT_OK) {
            printf("\033[H\033[J");
            print_page(&p);
            printf("\nevery %lld s; q or Ctrl-C ends\n", (long long)seconds);
            (void)fflush(stdout);
        }
        release(&p);
        struct pollfd keys = {STDIN_FILENO, POLLIN, 0};
        char key = 0;
        if (is_over == 0 && poll(&keys, 1, (int)seconds * 1000) > 0 &&
            (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q')) {
            is_over = 1;
        }
    }
    printf("\033[?25h\n");
    if (has_keys) {
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &before);
    }
    return status;
}
