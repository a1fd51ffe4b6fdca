/* Following jobs; see follow.h. Must not know what a kind's body or result mean. */
#include "client/cli/follow.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client/cli/out.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum {
    SLICE_MS = 200,
    PLAIN_EVERY_MS = 2000,
    PROGRESS_BYTES = 8192,
    BAR_MAX = 30,
    FOLLOW_DAYS = 30,
};

static volatile sig_atomic_t is_interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    is_interrupted = 1;
}

static void append(char *out, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void append(char *out, size_t size, const char *fmt, ...)
{
    size_t len = strlen(out);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(out + len, size - len, fmt, args);
    va_end(args);
}

static void add_bar(const json_t *progress, int width, char *out, size_t size)
{
    double steps = mq_js_real(progress, "steps");
    double step = mq_js_real(progress, "step");
    if (!(steps > 0) || !(step >= 0) || width <= 0) {
        return;
    }
    int full = (int)(step / steps * width);
    full = full > width ? width : full;
    append(out, size, "[");
    for (int i = 0; i < width; i++) {
        append(out, size, "%s", i < full ? "#" : ".");
    }
    append(out, size, "] %3.0f%% ", step / steps * 100);
}

void mq_progress_line(const json_t *progress, const char *state, int width, char *out, size_t size)
{
    out[0] = '\0';
    if (!json_is_object(progress)) {
        append(out, size, "%s", state);
        return;
    }
    add_bar(progress, width, out, size);
    append(out, size, "%s", mq_js_text(progress, "stage", state));
    static const struct {
        const char *key, *before, *after;
        int decimals;
    } reals[] = {{"step", " step ", "", 0},
                 {"steps", "/", "", 0},
                 {"epoch", "  epoch ", "", 2},
                 {"loss", "  loss ", "", 4},
                 {"accuracy", "  accuracy ", "", 4},
                 {"val_loss", "  val loss ", "", 4},
                 {"val_accuracy", "  val accuracy ", "", 4},
                 {"lr", "  lr ", "", 4},
                 {"samples_per_s", "  ", " samples/s", 0},
                 {"workers", "  workers ", "", 0},
                 {"done", "  ", "", 0},
                 {"total", "/", "", 0},
                 {"remaining_s", "  ", " s left", 0}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        double value = mq_js_real(progress, reals[i].key);
        if (!isnan(value)) {
            append(out, size, "%s%.*f%s", reals[i].before, reals[i].decimals, value,
                   reals[i].after);
        }
    }
}

typedef struct display {
    bool is_quiet;
    bool is_tty;
    int64_t shown_ms;
    char last[512];
} display;

static int terminal_width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void show(display *d, const maasq_job *job, bool is_last)
{
    static char text[PROGRESS_BYTES];
    char line[512];
    if (d->is_quiet) {
        return;
    }
    json_t *progress =
        maasq_progress(job, text, sizeof text) > 0 ? json_loads(text, 0, NULL) : NULL;
    mq_progress_line(progress, maasq_state(job), d->is_tty ? BAR_MAX : 0, line, sizeof line);
    bool has_progress = progress != NULL;
    json_decref(progress);
    int64_t now_ms = mq_clock_mono_ms();
    if (d->is_tty) {
        fprintf(stderr, "\r\033[K%.*s%s", terminal_width() - 1, line, is_last ? "\n" : "");
    } else if (has_progress && strcmp(line, d->last) != 0 &&
               (is_last || now_ms - d->shown_ms >= PLAIN_EVERY_MS)) {
        fprintf(stderr, "%s\n", line);
        d->shown_ms = now_ms;
        memcpy(d->last, line, sizeof line);
    }
}

static int interrupted(const mq_cli *cli, const maasq_job *job)
{
    const char *id = maasq_job_id(job);
    fprintf(stderr, "\n");
    return mq_cli_fail(cli,
                       "job %s goes on; `maasq job wait %s` waits for it, `maasq job cancel %s` "
                       "ends it",
                       id, id, id);
}

/* Events keep the progress fresh; what they say is read from the job. */
static void on_event(maasq_job *job, const maasq_event *event, void *arg)
{
    (void)job;
    (void)event;
    (void)arg;
}

int mq_follow(mq_cli *cli, maasq_job *job, bool is_quiet)
{
    display d = {.is_quiet = is_quiet, .is_tty = isatty(STDERR_FILENO) != 0};
    maasq_error err;
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    is_interrupted = 0;
    (void)sigaction(SIGINT, &action, &before);
    if (!is_quiet) {
        (void)maasq_on_progress(job, on_event, NULL, NULL);
    }
    int64_t end_ms = mq_clock_mono_ms() + INT64_C(86400000) * FOLLOW_DAYS;
    int code = MAASQ_E_TIMEOUT;
    while (code == MAASQ_E_TIMEOUT && is_interrupted == 0 && mq_clock_mono_ms() < end_ms) {
        code = maasq_wait(job, SLICE_MS, &err);
        show(&d, job, code == MAASQ_OK);
    }
    (void)sigaction(SIGINT, &before, NULL);
    if (code != MAASQ_OK) {
        return is_interrupted != 0 ? interrupted(cli, job) : mq_cli_fail(cli, "%s", err.text);
    }
    if (maasq_result(job, NULL, &err) != MAASQ_OK) {
        maasq_info info = {.size = sizeof info};
        maasq_job_info(job, &info);
        return mq_cli_fail(cli, "job %s is %s%s%s (%s): %s", info.id, info.state,
                           info.why[0] == '\0' ? "" : ", ", info.why, maasq_code_name(info.code),
                           err.text);
    }
    return MQ_EXIT_OK;
}

int mq_follow_submit(mq_cli *cli, const maasq_spec *spec, bool is_quiet, maasq_job **job)
{
    maasq_error err;
    *job = NULL;
    if (mq_cli_connect(cli) != MQ_EXIT_OK) {
        return MQ_EXIT_FAILED;
    }
    *job = maasq_submit(cli->client, spec, NULL, NULL, &err);
    if (*job == NULL) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    return mq_follow(cli, *job, is_quiet);
}

int mq_follow_json(mq_cli *cli, const char *kind, const char *model, json_t *takes_body,
                   json_t **result, char id[32])
{
    char *body = takes_body == NULL ? NULL : json_dumps(takes_body, JSON_COMPACT);
    json_decref(takes_body);
    *result = NULL;
    if (body == NULL) {
        return mq_cli_fail(cli, "no memory for the request");
    }
    maasq_spec spec = {.size = sizeof spec,
                       .kind = kind,
                       .model = model,
                       .body = body,
                       .body_bytes = strlen(body)};
    maasq_job *job = NULL;
    int status = mq_follow_submit(cli, &spec, false, &job);
    free(body);
    if (status == MQ_EXIT_OK) {
        maasq_view view = {0};
        (void)maasq_result(job, &view, NULL);
        *result = json_loadb(view.data, view.bytes, JSON_REJECT_DUPLICATES, NULL);
        if (*result == NULL) {
            status = mq_cli_fail(cli, "job %s: its result is no JSON", maasq_job_id(job));
        }
    }
    if (job != NULL && id != NULL) {
        (void)snprintf(id, 32, "%s", maasq_job_id(job));
    }
    maasq_job_release(&job);
    return status;
}

int64_t mq_follow_version(mq_cli *cli, const char *what, const char *name, const char *id,
                          const json_t *result)
{
    int64_t version = mq_js_int(result, "version");
    if (version > 0) {
        return version;
    }
    json_t *answer = NULL;
    if (mq_cli_query(cli, what, name, "", 0, &answer) != MQ_EXIT_OK) {
        return 0;
    }
    const json_t *versions = json_object_get(answer, "versions");
    for (size_t i = json_array_size(versions); i-- > 0 && version == 0;) {
        const json_t *one = json_array_get(versions, i);
        const char *job = mq_js_text(one, "job", mq_js_text(one, "meta.job", ""));
        version = strcmp(job, id) == 0 ? mq_js_int(one, "version") : 0;
    }
    if (version == 0 && versions == NULL) {
        version = mq_js_int(answer, "version");
    }
    json_decref(answer);
    return version;
}
