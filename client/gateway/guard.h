/* Which web pages may talk to a gateway that has no password: checks of Host (against DNS
 * rebinding) and Origin (against requests that other sites make a browser send). Pure. */
#ifndef MQ_GATEWAY_GUARD_H
#define MQ_GATEWAY_GUARD_H

#include <stdbool.h>

/* Numeric address of this host only: 127.x.x.x, ::1. */
bool mq_guard_is_loopback(const char *address);

/* Host header of a gateway on a loopback address: localhost, a loopback address, or `extra` (may be
 * ""), with any port. An absent header is fine, browsers always send one. */
bool mq_guard_host_ok(const char *host, const char *extra);

/* Origin of a request that changes something: absent (not a browser), or http(s):// and the same
 * text as Host. */
bool mq_guard_origin_ok(const char *origin, const char *host);

#endif
