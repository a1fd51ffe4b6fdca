/* Error codes and messages. Functions that can fail return mq_code and fill the caller's mq_error
 * (may be NULL) with a sentence that names the field, the limit and, where it helps, what to do.
 *
 *     return mq_fail(err, MQ_E_ARG, "batch: %d is outside 1..%d", batch, MQ_BATCH_MAX);
 */
#ifndef MQ_BASE_ERROR_H
#define MQ_BASE_ERROR_H

#include <stdarg.h>
#include <stddef.h>

typedef enum mq_code {
#define MQ_CODE(name, text, meaning) MQ_##name,
#include "shared/base/error.def"
#undef MQ_CODE
    MQ_CODE_COUNT
} mq_code;

enum { MQ_ERROR_TEXT_MAX = 512 };

typedef struct mq_error {
    mq_code code;
    char text[MQ_ERROR_TEXT_MAX]; /* NUL-terminated, cut at the end when too long */
} mq_error;

#define MQ_MUST_USE __attribute__((warn_unused_result))

/* Stable lower-case name of a code, as it goes over the wire and into JSON. Never NULL. */
const char *mq_code_name(mq_code code);

/* Code of a wire name; MQ_E_INTERNAL when the name is not known. */
mq_code mq_code_parse(const char *name, size_t len);

/* Fills *err (when not NULL) and returns code, so that it can end a function. */
mq_code mq_fail(mq_error *err, mq_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the text that is already in *err and returns its code. */
mq_code mq_wrap(mq_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
