/* Which handler a request goes to: the table routes.def, matched segment by segment. Pure. */
#ifndef MQ_GATEWAY_ROUTE_H
#define MQ_GATEWAY_ROUTE_H

#include "shared/base/error.h"
#include "shared/base/span.h"

enum {
    MQ_ROUTE_PATH_MAX = 1024,     /* bytes of a path as sent */
    MQ_ROUTE_NAME_SIZE = 128 + 1, /* a decoded segment and its NUL */
};

typedef struct mq_route {
    uint32_t row;       /* in routes.def */
    const char *method; /* of that row */
    char model[MQ_ROUTE_NAME_SIZE];
    char version[MQ_ROUTE_NAME_SIZE];
    char id[MQ_ROUTE_NAME_SIZE];
} mq_route;

/* Finds the row. MQ_E_NOT_FOUND: no such path; MQ_E_UNSUPPORTED: the path exists, the text names
 * the methods it has; MQ_E_ARG: a segment that is no name; MQ_E_LIMIT: the path is too long. */
MQ_MUST_USE mq_code mq_route_find(mq_route *out, const char *method, const char *path,
                                  mq_error *err);

/* The row's path. */
const char *mq_route_path(const mq_route *route);

/* Decodes %XX of one segment or query value into out, NUL-terminated; false when it is malformed,
 * has a NUL or control character in it, or does not fit. is_query: "+" is a blank. */
bool mq_percent_decode(mq_span text, bool is_query, char *out, size_t size);

#endif
