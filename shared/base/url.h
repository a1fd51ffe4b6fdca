/* Where a store lives, as users write it:
 *
 *     unix:/run/redis.sock[,user=U,secret=FILE]
 *     tcp:HOST:PORT[,user=U,secret=FILE]          HOST may be [v6 address]
 *     dir:/path                                    (a comma is part of the path)
 *
 * The password is never in the URL: `secret` names a file whose first line it is. */
#ifndef MQ_BASE_URL_H
#define MQ_BASE_URL_H

#include "shared/base/error.h"
#include "shared/base/span.h"

enum {
    MQ_URL_TEXT_MAX = 512,       /* bytes of a whole URL */
    MQ_URL_UNIX_MAX = 107,       /* sun_path without its NUL */
    MQ_URL_SECRET_MAX = 512 + 1, /* password and NUL */
};

typedef enum mq_url_kind { MQ_URL_UNIX, MQ_URL_TCP, MQ_URL_DIR } mq_url_kind;

typedef struct mq_url {
    mq_url_kind kind;
    char path[MQ_URL_TEXT_MAX];   /* unix: the socket; dir: the folder; absolute */
    char host[256];               /* tcp */
    int port;                     /* tcp: 1..65535 */
    char user[65];                /* empty: Redis's user "default" */
    char secret[MQ_URL_TEXT_MAX]; /* file with the password; empty: none is sent */
} mq_url;

/* Reads text into *out. MQ_E_ARG names the part that is wrong. */
MQ_MUST_USE mq_code mq_url_parse(mq_url *out, const char *text, mq_error *err);

/* First line of the secret file without its line end; empty text when the URL names none. Read anew
 * at each connection, so that a password can be changed in place. */
MQ_MUST_USE mq_code mq_url_password(const mq_url *url, char out[MQ_URL_SECRET_MAX], mq_error *err);

#endif
