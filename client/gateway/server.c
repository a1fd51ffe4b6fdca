/* The HTTP server under the exchanges: libmicrohttpd's daemon, request bodies with limits, checks
 * that keep other web sites out, headers of every answer. Knows no handler by name. */
#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/gateway/asker.h"
#include "client/gateway/events.h"
#include "client/gateway/guard.h"
#include "client/gateway/snapshot.h"

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/log.h"

enum { HEADERS_BYTES_MAX = 32768, STOP_MS = 10000, STOP_POLL_MS = 5, BACKLOG = 256 };

static mq_handler *const handlers[] = {
#define MQ_ROUTE(handler, method, path) mq_gw_##handler,
#include "client/gateway/routes.def"
#undef MQ_ROUTE
};

static mq_code listen_at(mq_gateway *gateway, int *fd, mq_error *err);
static mq_code learn_url(mq_gateway *gateway, int fd, mq_error *err);
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_bytes, void **state);
static mq_exchange *begin(mq_gateway *gateway, struct MHD_Connection *connection, const char *url,
                          const char *method);
static void check_request(mq_exchange *exchange, const char *method, const char *url);
static void take_body(mq_exchange *exchange, const char *data, size_t bytes);
static enum MHD_Result reply(mq_exchange *exchange);
static void on_end(void *arg, struct MHD_Connection *connection, void **state,
                   enum MHD_RequestTerminationCode why);
static size_t keep_escapes(void *arg, struct MHD_Connection *connection, char *text);
static void refuse(mq_exchange *exchange, unsigned status, const char *text);

mq_code mq_gateway_start(mq_gateway *gateway, const mq_gateway_config *config, mq_error *err)
{
    memset(gateway, 0, sizeof *gateway);
    gateway->config = *config;
    pthread_mutex_init(&gateway->client_lock, NULL);
    int fd = -1;
    mq_code code = listen_at(gateway, &fd, err);
    maasq_error why;
    maasq_options options = {
        .size = sizeof options, .brokers = config->broker, .name = "maasq-gateway"};
    if (code == MQ_OK) {
        gateway->client = maasq_client_new(&options, &why);
        if (gateway->client == NULL) {
            code = mq_fail(err, mq_code_of(why.code), "%s", why.text);
        }
    }
    if (code == MQ_OK) {
        code = mq_asker_new(&gateway->asker, err);
    }
    if (code == MQ_OK) {
        code = mq_events_new(&gateway->events, gateway, err);
    }
    if (code == MQ_OK) {
        code = mq_snapshot_new(&gateway->snapshot, gateway, err);
    }
    if (code != MQ_OK) {
        if (fd >= 0) {
            close(fd);
        }
        return code;
    }
    gateway->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
        on_request, gateway, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)MQ_GW_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)MQ_GW_IDLE_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADERS_BYTES_MAX, MHD_OPTION_NOTIFY_COMPLETED,
        on_end, NULL, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_END);
    if (gateway->daemon == NULL) {
        close(fd);
        return mq_fail(err, MQ_E_IO, "the HTTP server does not start");
    }
    if (config->endpoint_file[0] == '\0') {
        return MQ_OK;
    }
    char line[sizeof gateway->url + 1];
    snprintf(line, sizeof line, "%s\n", gateway->url);
    return mq_file_write(config->endpoint_file, mq_str(line), 0644, err);
}

void mq_gateway_stop(mq_gateway *gateway)
{
    atomic_store(&gateway->is_stopping, true);
    if (gateway->daemon != NULL) {
        MHD_socket listener = MHD_quiesce_daemon(gateway->daemon);
        if (listener >= 0) {
            close(listener);
        }
    }
    mq_asker_stop(gateway->asker);
    mq_snapshot_stop(gateway->snapshot);
    maasq_client *client = mq_client_borrow(gateway);
    gateway->client = NULL;
    mq_client_return(gateway);
    maasq_client_free(&client); /* wakes the exchanges that wait for a job */
    mq_events_close(gateway->events);
    int64_t deadline_ms = mq_clock_mono_ms() + STOP_MS;
    while (atomic_load(&gateway->waiting) > 0 && mq_clock_mono_ms() < deadline_ms) {
        mq_clock_sleep_ms(STOP_POLL_MS);
    }
    if (gateway->daemon != NULL) {
        MHD_stop_daemon(gateway->daemon);
    }
    mq_asker_free(gateway->asker);
    mq_snapshot_free(gateway->snapshot);
    mq_events_free(gateway->events);
    pthread_mutex_destroy(&gateway->client_lock);
}

/* Binds ADDRESS:PORT, [ADDRESS]:PORT for IPv6. */
static mq_code listen_at(mq_gateway *gateway, int *fd, mq_error *err)
{
    const char *text = gateway->config.listen;
    const char *colon = strrchr(text, ':');
    char host[256];
    mq_span name = mq_span_of(text, colon == NULL ? 0 : (size_t)(colon - text));
    if (name.len > 2 && name.data[0] == '[' && name.data[name.len - 1] == ']') {
        name = mq_span_of(name.data + 1, name.len - 2);
    }
    const char *port = colon == NULL ? "" : colon + 1;
    bool is_port = port[0] != '\0' && strlen(port) <= 5 &&
                   strspn(port, "0123456789") == strlen(port) && strtol(port, NULL, 10) <= 65535;
    if (name.len == 0 || !is_port || !mq_span_copy(name, host, sizeof host)) {
        return mq_fail(err, MQ_E_ARG, "--listen %s: must be ADDRESS:PORT, port 0 for any", text);
    }
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int failure = getaddrinfo(host, port, &wanted, &found);
    if (failure != 0) {
        return mq_fail(err, MQ_E_ARG, "--listen %s: %s", text, gai_strerror(failure));
    }
    *fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    mq_code code = MQ_OK;
    if (*fd < 0 || setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(*fd, found->ai_addr, found->ai_addrlen) != 0 || listen(*fd, BACKLOG) != 0) {
        code = mq_fail(err, MQ_E_IO, "--listen %s: %s", text, strerror(errno));
    }
    freeaddrinfo(found);
    if (code == MQ_OK) {
        code = learn_url(gateway, *fd, err);
    }
    if (code != MQ_OK && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return code;
}

static mq_code learn_url(mq_gateway *gateway, int fd, mq_error *err)
{
    struct sockaddr_storage at = {0};
    socklen_t len = sizeof at;
    char host[128];
    char port[16];
    if (getsockname(fd, (struct sockaddr *)&at, &len) != 0 ||
        getnameinfo((struct sockaddr *)&at, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return mq_fail(err, MQ_E_IO, "the address of the listening socket is not known");
    }
    bool is_v6 = at.ss_family == AF_INET6;
    gateway->is_loopback = mq_guard_is_loopback(host);
    snprintf(gateway->url, sizeof gateway->url, is_v6 ? "http://[%s]:%s" : "http://%s:%s", host,
             port);
    return MQ_OK;
}

/* Called at the head of a request, at each piece of its body, at its end, and after each wait. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_bytes, void **state)
{
    (void)version;
    mq_exchange *exchange = *state;
    if (exchange == NULL) {
        exchange = begin(arg, connection, url, method);
        *state = exchange;
        /* A body that is refused at once need not be sent (Expect: 100-continue). */
        return exchange == NULL                                 ? MHD_NO
               : exchange->status == MHD_HTTP_CONTENT_TOO_LARGE ? reply(exchange)
                                                                : MHD_YES;
    }
    if (*data_bytes > 0) {
        take_body(exchange, data, *data_bytes);
        *data_bytes = 0;
        return MHD_YES;
    }
    MQ_ASSERT(!exchange->is_waiting || atomic_load(&exchange->is_woken));
    mq_handler *run = exchange->is_waiting    ? exchange->next
                      : exchange->status == 0 ? handlers[exchange->route.row]
                                              : NULL;
    exchange->is_waiting = false;
    if (run != NULL) {
        run(exchange);
    }
    return exchange->is_waiting ? MHD_YES : reply(exchange);
}

static mq_exchange *begin(mq_gateway *gateway, struct MHD_Connection *connection, const char *url,
                          const char *method)
{
    mq_exchange *exchange = calloc(1, sizeof *exchange);
    if (exchange == NULL) {
        return NULL;
    }
    exchange->gateway = gateway;
    exchange->connection = connection;
    mq_buf_init(&exchange->out, MQ_GW_ANSWER_MAX);
    mq_buf_init(&exchange->body, (size_t)gateway->config.body_bytes_max);
    check_request(exchange, method, url);
    return exchange;
}

/* Leaves status 0 when the request may go to its handler. */
static void check_request(mq_exchange *exchange, const char *method, const char *url)
{
    const mq_gateway *gateway = exchange->gateway;
    mq_error err = {0};
    const char *host = mq_exchange_header(exchange, "Host");
    if (atomic_load(&gateway->is_stopping)) {
        refuse(exchange, MHD_HTTP_SERVICE_UNAVAILABLE, "the gateway is stopping");
        return;
    }
    if (gateway->is_loopback && !mq_guard_host_ok(host, gateway->config.host)) {
        refuse(exchange, MHD_HTTP_FORBIDDEN,
               "Host: this gateway listens on the local host only and answers to its names; "
               "start it with --host NAME to add one");
        return;
    }
    mq_code code = mq_route_find(&exchange->route, method, url, &err);
    if (code == MQ_E_UNSUPPORTED) {
        snprintf(exchange->allow, sizeof exchange->allow, "%.63s", err.text);
        refuse(exchange, MHD_HTTP_METHOD_NOT_ALLOWED, "this path does not have that method");
        return;
    }
    if (code != MQ_OK) {
        refuse(exchange, code == MQ_E_LIMIT ? MHD_HTTP_URI_TOO_LONG : mq_status_of(code), err.text);
        return;
    }
    if (strcmp(exchange->route.method, "GET") != 0 &&
        !mq_guard_origin_ok(mq_exchange_header(exchange, "Origin"), host)) {
        refuse(exchange, MHD_HTTP_FORBIDDEN, "Origin: another web site may not act here");
        return;
    }
    const char *length = mq_exchange_header(exchange, "Content-Length");
    if (length != NULL && strtoull(length, NULL, 10) > exchange->body.limit) {
        char text[128];
        snprintf(text, sizeof text, "body: %.32s bytes; the limit is %zu", length,
                 exchange->body.limit);
        refuse(exchange, MHD_HTTP_CONTENT_TOO_LARGE, text);
    }
}

static void take_body(mq_exchange *exchange, const char *data, size_t bytes)
{
    atomic_size_t *held = &exchange->gateway->body_bytes;
    if (exchange->is_refused) {
        return;
    }
    size_t before = atomic_fetch_add(held, bytes);
    if (before + bytes > MQ_GW_BODIES_MAX) {
        atomic_fetch_sub(held, bytes);
        refuse(exchange, MHD_HTTP_SERVICE_UNAVAILABLE,
               "too many large requests at the moment: try again in a second");
    } else if (!mq_buf_add(&exchange->body, data, bytes)) {
        char text[128];
        atomic_fetch_sub(held, bytes);
        snprintf(text, sizeof text, "body: more than the limit of %zu bytes", exchange->body.limit);
        refuse(exchange, MHD_HTTP_CONTENT_TOO_LARGE, text);
    }
}

static void refuse(mq_exchange *exchange, unsigned status, const char *text)
{
    exchange->is_refused = true;
    mq_answer_error(exchange, status, "%s", text);
}

static enum MHD_Result reply(mq_exchange *exchange)
{
    static const char *const fixed[][2] = {
        {"X-Content-Type-Options", "nosniff"},
        {"Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; "
                                    "frame-ancestors 'none'"},
        {"Referrer-Policy", "no-referrer"},
        {"Cache-Control", "no-store"},
    };
    struct MHD_Response *response = exchange->stream;
    exchange->stream = NULL;
    if (response == NULL) {
        mq_buf *out = &exchange->out;
        response = MHD_create_response_from_buffer(out->len, out->len > 0 ? out->data : NULL,
                                                   MHD_RESPMEM_MUST_FREE);
        if (response == NULL) {
            return MHD_NO;
        }
        if (out->len == 0) {
            mq_buf_release(out);
        }
        mq_buf_init(out, MQ_GW_ANSWER_MAX); /* the response owns the bytes now */
    }
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        MHD_add_response_header(response, fixed[i][0], fixed[i][1]);
    }
    char number[32];
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, exchange->content_type);
    if (exchange->location[0] != '\0') {
        MHD_add_response_header(response, MHD_HTTP_HEADER_LOCATION, exchange->location);
    }
    if (exchange->allow[0] != '\0') {
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, exchange->allow);
    }
    if (exchange->json_bytes > 0) {
        snprintf(number, sizeof number, "%zu", exchange->json_bytes);
        MHD_add_response_header(response, "Inference-Header-Content-Length", number);
    }
    if (exchange->status == MHD_HTTP_SERVICE_UNAVAILABLE) {
        snprintf(number, sizeof number, "%d", MQ_GW_RETRY_AFTER_S);
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, number);
    }
    atomic_fetch_add(&exchange->gateway->answers[exchange->status / 100 % 6], 1);
    enum MHD_Result queued = MHD_queue_response(exchange->connection, exchange->status, response);
    MHD_destroy_response(response);
    return queued;
}

static void on_end(void *arg, struct MHD_Connection *connection, void **state,
                   enum MHD_RequestTerminationCode why)
{
    (void)arg;
    (void)connection;
    (void)why;
    mq_exchange *exchange = *state;
    if (exchange == NULL) {
        return;
    }
    *state = NULL;
    atomic_fetch_sub(&exchange->gateway->body_bytes, exchange->body.len);
    mq_buf_release(&exchange->body);
    mq_buf_release(&exchange->out);
    maasq_job_release(&exchange->job);
    if (exchange->free_detail != NULL) {
        exchange->free_detail(exchange->detail);
    }
    free(exchange);
}

/* Paths and query values reach the handlers as they were sent: "a%2Fb" must not become two
 * segments. */
static size_t keep_escapes(void *arg, struct MHD_Connection *connection, char *text)
{
    (void)arg;
    (void)connection;
    return strlen(text);
}
