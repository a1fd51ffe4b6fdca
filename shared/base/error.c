/* Error table and message building. */
#include "shared/base/error.h"

#include <stdio.h>
#include <string.h>

static const char *const names[MQ_CODE_COUNT] = {
#define MQ_CODE(name, text, meaning) [MQ_##name] = text,
#include "shared/base/error.def"
#undef MQ_CODE
};

const char *mq_code_name(mq_code code)
{
    return (unsigned)code < MQ_CODE_COUNT ? names[code] : "internal";
}

mq_code mq_code_parse(const char *name, size_t len)
{
    for (unsigned i = 0; i < MQ_CODE_COUNT; i++) {
        if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0) {
            return (mq_code)i;
        }
    }
    return MQ_E_INTERNAL;
}

mq_code mq_fail(mq_error *err, mq_code code, const char *fmt, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

mq_code mq_wrap(mq_error *err, const char *fmt, ...)
{
    if (err == NULL) {
        return MQ_E_INTERNAL;
    }
    char inner[MQ_ERROR_TEXT_MAX];
    memcpy(inner, err->text, sizeof inner);
    va_list args;
    va_start(args, fmt);
    int used = vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    if (used > 0 && (size_t)used < sizeof err->text) {
        snprintf(err->text + used, sizeof err->text - (size_t)used, ": %.480s", inner);
    }
    return err->code;
}
