/* What holds jobs back, for people: the reason of one job or of a lane, limits and tenants as JSON.
 * It decides nothing. */
#include <stdio.h>

#include "broker/io/answers.h"
#include "shared/base/math.h"

static void limit_text(const mq_broker *b, const mq_hold_view *h, char *out, size_t size)
{
    const mq_limit_view *l = &h->limit;
    int len =
        snprintf(out, size, "limit %s=%.*s: ", mq_limit_type_name(l->type), MQ_SPAN_ARG(l->name));
    size_t at = len < 0 ? 0 : mq_min_size((size_t)len, size - 1);
    if (h->is_rate) {
        (void)snprintf(out + at, size - at, "rate %u in %u ms, the next start in %lld ms", l->rate,
                       l->period_ms, (long long)mq_max_i64(0, l->next_ms - mq_broker_now(b)));
    } else {
        (void)snprintf(out + at, size - at, "concurrency %u of %u", l->running, l->concurrency);
    }
}

static void worker_text(const mq_hold_view *h, char *out, size_t size)
{
    switch (h->misfit) {
    case MQ_MISFIT_MEMORY:
        (void)snprintf(out, size, "no connected worker has as much memory: it needs %.*s",
                       MQ_SPAN_ARG(h->needs));
        return;
    case MQ_MISFIT_TAGS:
        (void)snprintf(out, size, "no connected worker has the tags: it needs %.*s",
                       MQ_SPAN_ARG(h->needs));
        return;
    case MQ_MISFIT_QUEUE:
        (void)snprintf(out, size, "no connected worker serves queue %.*s", MQ_SPAN_ARG(h->queue));
        return;
    case MQ_MISFIT_KIND:
    case MQ_MISFIT_NONE:
        break;
    }
    (void)snprintf(out, size,
                   h->workers == 0 ? "no worker is connected"
                                   : "no connected worker runs kind %.*s",
                   MQ_SPAN_ARG(h->kind));
}

const char *mq_hold_text(const mq_broker *b, const mq_hold_view *h, char *out, size_t size)
{
    out[0] = '\0';
    switch (h->hold) {
    case MQ_HOLD_NONE:
        break;
    case MQ_HOLD_QUEUE_PAUSED:
        (void)snprintf(out, size, "queue %.*s is paused", MQ_SPAN_ARG(h->queue));
        break;
    case MQ_HOLD_KIND_PAUSED:
        (void)snprintf(out, size, "kind %.*s is paused", MQ_SPAN_ARG(h->kind));
        break;
    case MQ_HOLD_LIMIT:
        limit_text(b, h, out, size);
        break;
    case MQ_HOLD_NO_WORKER:
        worker_text(h, out, size);
        break;
    case MQ_HOLD_BUSY:
        (void)snprintf(out, size, "all workers that can run it are busy");
        break;
    }
    return out;
}

void mq_answer_limits(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    mq_limit_view l;
    uint32_t rows = 0;
    uint32_t most = query->limit == 0 ? 1000 : mq_answer_limit(query);
    mq_json_key(out, "limits");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < b->core_config.limits_max && rows < most; i++) {
        if (!mq_core_limit(b->core, i, &l)) {
            continue;
        }
        rows++;
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "type", mq_str(mq_limit_type_name(l.type)));
        mq_json_text(out, "name", l.name);
        mq_json_int(out, "concurrency", l.concurrency);
        mq_json_int(out, "running", l.running);
        mq_json_int(out, "rate", l.rate);
        mq_json_int(out, "period_ms", l.period_ms);
        mq_json_int(out, "burst", l.burst);
        mq_json_int(out, "tokens", l.tokens);
        mq_json_bool(out, "is_own", l.is_own);
        mq_json_bool(out, "is_waited_for", l.is_waited_for);
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
}

void mq_answer_tenants(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    mq_tenant_view t;
    uint32_t rows = 0;
    uint32_t most = query->limit == 0 ? 1000 : mq_answer_limit(query);
    mq_json_key(out, "tenants");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < b->core_config.names_max && rows < most; i++) {
        if (!mq_core_tenant(b->core, i, &t)) {
            continue;
        }
        rows++;
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "tenant", t.name);
        mq_json_int(out, "live", t.live);
        mq_json_int(out, "weight", t.weight);
        mq_json_int(out, "quota", t.quota);
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
}
