/* Configuration of a private system's two redis-servers: from the templates in deploy/redis, with
 * fresh random passwords. */
#ifndef MQ_CLI_REDIS_CONF_H
#define MQ_CLI_REDIS_CONF_H

#include "shared/base/error.h"

/* Makes DIR/secret (passwords, 0600, kept when they are there) and DIR/run/{state,blobs}.conf. */
MQ_MUST_USE mq_code mq_redis_conf_write(const char *dir, mq_error *err);

#endif
