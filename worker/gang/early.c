/* Frames of a job or epoch that the local slot has not been told of yet: a peer may get its roster
 * some milliseconds before us. Bounded in bytes and in time. */
#include <stdlib.h>
#include <unistd.h>

#include "worker/gang/gang.h"

static void early_free(mq_early *e)
{
    if (e->fd >= 0) {
        close(e->fd);
    }
    free(e);
}

void mq_early_add(mq_gang_plane *plane, uint8_t type, mq_span body, int *fd)
{
    if (plane->early_bytes + body.len > MQ_GANG_EARLY_BYTES_MAX) {
        plane->refused++;
        return;
    }
    mq_early *e = malloc(sizeof *e + body.len);
    if (e == NULL) {
        return;
    }
    *e = (mq_early){
        .until_ms = plane->now_ms + MQ_GANG_EARLY_MS, .type = type, .fd = *fd, .len = body.len};
    *fd = -1;
    if (body.len > 0) {
        memcpy(e->body, body.data, body.len);
    }
    if (plane->early_tail == NULL) {
        plane->early_head = e;
    } else {
        plane->early_tail->next = e;
    }
    plane->early_tail = e;
    plane->early_bytes += body.len;
}

void mq_early_replay(mq_gang_plane *plane)
{
    mq_early *e = plane->early_head;
    plane->early_head = plane->early_tail = NULL;
    plane->early_bytes = 0;
    while (e != NULL) {
        mq_early *next = e->next;
        int64_t until_ms = e->until_ms;
        mq_early *tail = plane->early_tail;
        mq_gang_on_peer_frame(plane, NULL, e->type, mq_span_of(e->body, e->len), &e->fd);
        if (plane->early_tail != tail) {
            plane->early_tail->until_ms = until_ms; /* waits on, but not longer for it */
        }
        early_free(e);
        e = next;
    }
}

void mq_early_expire(mq_gang_plane *plane, int64_t now_ms)
{
    while (plane->early_head != NULL && now_ms >= plane->early_head->until_ms) {
        mq_early *e = plane->early_head;
        plane->early_head = e->next;
        plane->early_tail = plane->early_head == NULL ? NULL : plane->early_tail;
        plane->early_bytes -= e->len;
        early_free(e);
    }
}
