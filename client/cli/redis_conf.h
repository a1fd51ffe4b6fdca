/* Configuration of a private system's two redis-servers: from the templates in deploy/redis, with
 * fresh random passwords. */
#ifndef MQ_CLI_REDIS_CONF_H
#define MQ_CLI_REDIS_CONF_H

#include "shared/base/error.h"

/* Writes DIR/secret/SERVER-USER (passwords, mode 0600, kept when they are there) and
 * DIR/run/{state,blobs}.{conf,acl}. The folders exist. */
MQ_MUST_USE mq_code mq_redis_conf_write(const char *dir, mq_error *err);

/* URL of a server ("state" or "blobs") for one of its users. */
void mq_redis_url(const char *dir, const char *server_name, const char *user, char *out,
                  size_t size);

#endif
