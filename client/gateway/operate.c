/* Handlers for operators: the page and its files, the snapshot as JSON, metrics. */
#include <microhttpd.h>

#include "client/gateway/events.h"
#include "client/gateway/gateway.h"
#include "client/gateway/metrics.h"
#include "client/gateway/page.h"
#include "client/gateway/snapshot.h"

void mq_gw_page(mq_exchange *exchange)
{
    const mq_page *page = mq_page_find(mq_route_path(&exchange->route));
    mq_buf_add(&exchange->out, page->data, page->len);
    mq_answer(exchange, 200, page->content_type);
}

void mq_gw_status(mq_exchange *exchange)
{
    mq_frame *frame = mq_snapshot_take(exchange->gateway->snapshot);
    mq_buf_add(&exchange->out, frame->text, frame->len);
    mq_buf_add_str(&exchange->out, "\n");
    mq_frame_release(frame);
    mq_answer(exchange, 200, "application/json");
}

void mq_gw_metrics(mq_exchange *exchange)
{
    mq_gateway *gateway = exchange->gateway;
    mq_frame *frame = mq_snapshot_take(gateway->snapshot);
    mq_metrics_gateway own = {.is_ok = frame->is_ok,
                              .streams = mq_events_count(gateway->events),
                              .waiting = atomic_load(&gateway->waiting)};
    for (size_t i = 0; i < 6; i++) {
        own.answers[i] = atomic_load(&gateway->answers[i]);
    }
    mq_metrics_write(frame->root, &own, &exchange->out);
    mq_frame_release(frame);
    mq_answer(exchange, 200, "text/plain; version=0.0.4; charset=utf-8");
}
