/* Log lines on stderr: key=value by default, JSON objects with mq_log_setup(.., true). One write(2)
 * a line. Thread-safe once set up.
 *
 *     mq_log(MQ_INFO, "slot died", "job=%s signal=%d", id, sig);
 *     -> 2026-11-23T16:00:00.123Z info worker slot died job=... signal=9
 */
#ifndef MQ_BASE_LOG_H
#define MQ_BASE_LOG_H

#include <stdbool.h>

typedef enum mq_log_level { MQ_DEBUG, MQ_INFO, MQ_WARN, MQ_ERROR_LEVEL } mq_log_level;

/* program: short name printed in each line, borrowed for ever (a literal). Call once at start. */
void mq_log_setup(const char *program, mq_log_level least, bool is_json);

/* "debug", "info", "warn" or "error" to a level; false when unknown. */
bool mq_log_level_parse(const char *text, mq_log_level *out);

/* event: what happened, in few words; fmt: "key=value key=value". */
void mq_log(mq_log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
