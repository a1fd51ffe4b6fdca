/* Is a text JSON? For texts that others made and that are passed on inside of larger JSON texts
 * without being parsed: progress of jobs, meta of models. */
#ifndef MQ_BASE_JSON_H
#define MQ_BASE_JSON_H

#include "shared/base/span.h"

enum { MQ_JSON_DEPTH_MAX = 32 };

/* True when s is exactly one JSON object (RFC 8259) of at most MQ_JSON_DEPTH_MAX levels, in UTF-8.
 * Names that stand twice pass. Reads s once, uses no memory. */
bool mq_json_is_object(mq_span s);

#endif
