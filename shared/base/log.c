/* Log lines; see log.h. */
#include "shared/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/buf.h"
#include "shared/base/clock.h"

static const char *program_name = "maasq";
static mq_log_level level_least = MQ_INFO;
static bool is_json_format = false;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void mq_log_setup(const char *program, mq_log_level least, bool is_json)
{
    program_name = program;
    level_least = least;
    is_json_format = is_json;
}

bool mq_log_level_parse(const char *text, mq_log_level *out)
{
    for (unsigned i = 0; i < sizeof level_names / sizeof level_names[0]; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *out = (mq_log_level)i;
            return true;
        }
    }
    return false;
}

void mq_log(mq_log_level level, const char *event, const char *fmt, ...)
{
    if (level < level_least) {
        return;
    }
    char detail[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(detail, sizeof detail, fmt, args);
    va_end(args);

    int64_t now_ms = mq_clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    char when[32];
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);

    mq_buf line;
    mq_buf_init(&line, 8192);
    if (is_json_format) {
        mq_buf_printf(&line,
                      "{\"time\":\"%s.%03dZ\",\"level\":\"%s\",\"program\":\"%s\",\"event\":", when,
                      (int)(now_ms % 1000), level_names[level], program_name);
        mq_buf_add_json(&line, mq_str(event));
        mq_buf_add_str(&line, ",\"detail\":");
        mq_buf_add_json(&line, mq_str(detail));
        mq_buf_add_str(&line, "}\n");
    } else {
        mq_buf_printf(&line, "%s.%03dZ %s %s %s%s", when, (int)(now_ms % 1000), level_names[level],
                      program_name, event, detail[0] == '\0' ? "" : " ");
        mq_buf_add_str(&line, detail);
        mq_buf_add_str(&line, "\n");
    }
    ssize_t written = write(STDERR_FILENO, line.data, line.len);
    (void)written; /* a log that cannot be written has nowhere to be reported */
    mq_buf_release(&line);
}
