/* The dashboard's files, which are part of the program. */
#ifndef MQ_GATEWAY_PAGE_H
#define MQ_GATEWAY_PAGE_H

#include <stddef.h>
#include <stdint.h>

typedef struct mq_page {
    const char *path;
    const char *content_type;
    const uint8_t *data;
    size_t len;
} mq_page;

/* The file of a path of routes.def; a path without one is our own bug. Never NULL. */
const mq_page *mq_page_find(const char *path);

#endif
