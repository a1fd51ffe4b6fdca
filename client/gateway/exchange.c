/* Answers and waits of an exchange; see gateway.h. */
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>

#include "client/gateway/asker.h"
#include "client/gateway/gateway.h"

#include "shared/base/assert.h"

static const char type_json[] = "application/json";

void mq_answer(mq_exchange *exchange, unsigned status, const char *content_type)
{
    exchange->status = status;
    exchange->content_type = content_type;
    if (exchange->out.is_full) {
        mq_answer_error(exchange, MHD_HTTP_INTERNAL_SERVER_ERROR, "answer of more than %zu bytes",
                        exchange->out.limit);
    }
}

void mq_answer_error(mq_exchange *exchange, unsigned status, const char *fmt, ...)
{
    char text[MQ_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    mq_buf_reset(&exchange->out);
    exchange->json_bytes = 0;
    mq_buf_add_str(&exchange->out, "{\"error\":");
    mq_buf_add_json(&exchange->out, mq_str(text));
    mq_buf_add_str(&exchange->out, "}\n");
    exchange->status = status;
    exchange->content_type = type_json;
}

void mq_answer_code(mq_exchange *exchange, mq_code code, const char *text)
{
    mq_answer_error(exchange, mq_status_of(code), "%s",
                    text[0] != '\0' ? text : mq_code_name(code));
}

maasq_client *mq_client_borrow(mq_gateway *gateway)
{
    pthread_mutex_lock(&gateway->client_lock);
    return gateway->client;
}

void mq_client_return(mq_gateway *gateway)
{
    pthread_mutex_unlock(&gateway->client_lock);
}

void mq_answer_maasq(mq_exchange *exchange, const maasq_error *err)
{
    mq_answer_code(exchange, mq_code_of(err->code), err->text);
}

unsigned mq_status_of(mq_code code)
{
    switch (code) {
    case MQ_OK:
        return MHD_HTTP_OK;
    case MQ_E_ARG:
    case MQ_E_FORMAT:
    case MQ_E_CLOCK:
    case MQ_E_NUMERIC:
        return MHD_HTTP_BAD_REQUEST;
    case MQ_E_NOT_FOUND:
        return MHD_HTTP_NOT_FOUND;
    case MQ_E_EXISTS:
    case MQ_E_CONFLICT:
    case MQ_E_STALE:
        return MHD_HTTP_CONFLICT;
    case MQ_E_LIMIT:
        return MHD_HTTP_CONTENT_TOO_LARGE;
    case MQ_E_UNSUPPORTED:
    case MQ_E_VERSION:
        return MHD_HTTP_NOT_IMPLEMENTED;
    case MQ_E_BUSY:
    case MQ_E_IO:
    case MQ_E_MOVED:
    case MQ_E_CANCELLED:
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    case MQ_E_TIMEOUT:
        return MHD_HTTP_GATEWAY_TIMEOUT;
    case MQ_E_CORRUPT:
    case MQ_E_MISSING:
    case MQ_E_INTERNAL:
    case MQ_E_FAILED:
    case MQ_CODE_COUNT:
        break;
    }
    return MHD_HTTP_INTERNAL_SERVER_ERROR;
}

mq_code mq_code_of(int maasq_code)
{
    int code = -maasq_code;
    return code >= 0 && code < MQ_CODE_COUNT ? (mq_code)code : MQ_E_INTERNAL;
}

void mq_exchange_wait(mq_exchange *exchange, mq_handler *next)
{
    MQ_ASSERT(!exchange->is_waiting);
    exchange->is_waiting = true;
    atomic_store(&exchange->is_woken, false);
    exchange->next = next;
    atomic_fetch_add(&exchange->gateway->waiting, 1);
    MHD_suspend_connection(exchange->connection);
}

void mq_exchange_wake(mq_exchange *exchange)
{
    mq_gateway *gateway = exchange->gateway;
    struct MHD_Connection *connection = exchange->connection;
    atomic_store(&exchange->is_woken, true);
    MHD_resume_connection(connection);
    /* The exchange may be gone by now. */
    atomic_fetch_sub(&gateway->waiting, 1);
}

void mq_exchange_ask(mq_exchange *exchange, mq_handler *task, mq_handler *next)
{
    mq_gateway *gateway = exchange->gateway;
    exchange->task = task;
    mq_exchange_wait(exchange, next);
    if (!mq_asker_add(gateway->asker, exchange)) {
        exchange->next = NULL;
        mq_answer_error(exchange, MHD_HTTP_SERVICE_UNAVAILABLE,
                        "%d questions wait already: try again in a second", MQ_GW_ASKS_MAX);
        mq_exchange_wake(exchange);
    }
}

const char *mq_exchange_header(const mq_exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

const char *mq_exchange_query(const mq_exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_GET_ARGUMENT_KIND, name);
}
