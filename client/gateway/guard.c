/* Host and Origin; see guard.h. */
#include "client/gateway/guard.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

bool mq_guard_is_loopback(const char *address)
{
    if (strcmp(address, "::1") == 0) {
        return true;
    }
    /* "127.evil.example" is a name, not an address. */
    return strncmp(address, "127.", 4) == 0 && strspn(address, "0123456789.") == strlen(address);
}

bool mq_guard_host_ok(const char *host, const char *extra)
{
    char name[256];
    if (host == NULL) {
        return true;
    }
    bool is_v6 = host[0] == '[';
    size_t len = is_v6 ? strcspn(host + 1, "]") : strcspn(host, ":");
    if (len == 0 || len >= sizeof name) {
        return false;
    }
    snprintf(name, sizeof name, "%.*s", (int)len, host + (is_v6 ? 1 : 0));
    return strcasecmp(name, "localhost") == 0 || mq_guard_is_loopback(name) ||
           (extra[0] != '\0' && strcasecmp(name, extra) == 0);
}

bool mq_guard_origin_ok(const char *origin, const char *host)
{
    if (origin == NULL) {
        return true;
    }
    const char *name = strncmp(origin, "http://", 7) == 0    ? origin + 7
                       : strncmp(origin, "https://", 8) == 0 ? origin + 8
                                                             : NULL;
    return name != NULL && host != NULL && strcasecmp(name, host) == 0;
}
