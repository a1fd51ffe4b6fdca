/* The request body of a job: a JSON object whose fields are read one by one, each with its limits.
 * A key that the kind does not know is refused, so that a misspelt option is never a silent
 * default. Texts are borrowed until mq_body_close. Errors are MQ_E_ARG (MQ_E_FORMAT for bytes that
 * are not JSON) and name the field, its limits and what was given. */
#ifndef MQ_WORKER_KINDS_BODY_H
#define MQ_WORKER_KINDS_BODY_H

#include <jansson.h>

#include "shared/base/error.h"
#include "shared/base/span.h"

enum { MQ_NAME_BYTES_MAX = 64 };

typedef struct mq_body {
    json_t *root; /* owned; an object */
} mq_body;

/* Parses json (empty bytes are the empty object) and checks its keys against `known`, a
 * NULL-terminated list. Close also after an error. */
MQ_MUST_USE mq_code mq_body_open(mq_body *body, mq_span json, const char *const *known,
                                 mq_error *err);
void mq_body_close(mq_body *body);

/* Each leaves *out as it was (the caller's default) when the field is absent or null, unless
 * is_required. */
MQ_MUST_USE mq_code mq_body_text(const mq_body *body, const char *field, bool is_required,
                                 size_t bytes_max, const char **out, mq_error *err);
MQ_MUST_USE mq_code mq_body_int(const mq_body *body, const char *field, int64_t min, int64_t max,
                                int64_t *out, mq_error *err);
MQ_MUST_USE mq_code mq_body_number(const mq_body *body, const char *field, double min, double max,
                                   double *out, mq_error *err);
MQ_MUST_USE mq_code mq_body_flag(const mq_body *body, const char *field, bool *out, mq_error *err);

/* A name under which something is published: 1..MQ_NAME_BYTES_MAX letters, digits, '.', '_', '-',
 * starting with a letter or digit. With allow_version, "@N" or "@alias" may follow. */
MQ_MUST_USE mq_code mq_body_name(const mq_body *body, const char *field, bool is_required,
                                 bool allow_version, const char **out, mq_error *err);

/* A blob's hash: 64 lower-case hex digits. */
MQ_MUST_USE mq_code mq_body_hash(const json_t *value, const char *field, const char **out,
                                 mq_error *err);

#endif
