/* Fields of a JSON object, read and checked: one reader per type. Each leaves *out alone when the
 * field is absent, and its error names the field, the limit and what is allowed (MQ_E_ARG). */
#ifndef MQ_WORKER_TRAIN_FIELDS_H
#define MQ_WORKER_TRAIN_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"

/* 1..size-1 printable bytes without blanks, quotes and backslashes. */
MQ_MUST_USE mq_code mq_field_text(const json_t *o, const char *name, char *out, size_t size,
                                  mq_error *err);
MQ_MUST_USE mq_code mq_field_int(const json_t *o, const char *name, int64_t least, int64_t most,
                                 int64_t *out, mq_error *err);
MQ_MUST_USE mq_code mq_field_u32(const json_t *o, const char *name, uint32_t least, uint32_t most,
                                 uint32_t *out, mq_error *err);
MQ_MUST_USE mq_code mq_field_real(const json_t *o, const char *name, double least, double most,
                                  double *out, mq_error *err);
MQ_MUST_USE mq_code mq_field_bool(const json_t *o, const char *name, bool *out, mq_error *err);

/* Index of the field's text among choices (NULL at the end). */
MQ_MUST_USE mq_code mq_field_choice(const json_t *o, const char *name, const char *const *choices,
                                    uint32_t *out, mq_error *err);

/* MQ_E_ARG for the first field that is not in the list (NULL at the end); where: "run." or "". */
MQ_MUST_USE mq_code mq_fields_known(json_t *o, const char *where, const char *const *known,
                                    mq_error *err);

#endif
