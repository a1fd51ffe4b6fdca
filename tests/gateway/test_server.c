/* A gateway over real sockets whose broker does not exist: it serves what it can, says clearly what
 * it cannot, keeps its limits, and stops while requests wait. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/gateway/gateway.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"

enum { ANSWER_MAX = 1 << 20, DEADLINE_MS = 60000 };

static mq_gateway gateway;
static char answer[ANSWER_MAX + 1];

static int start(void **state)
{
    (void)state;
    mq_error err = {0};
    mq_gateway_config config = {.broker = "ipc:///nonexistent/maasq.sock",
                                .listen = "127.0.0.1:0",
                                .host = "",
                                .endpoint_file = "",
                                .body_bytes_max = 4096};
    if (mq_gateway_start(&gateway, &config, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    return 0;
}

static int stop(void **state)
{
    (void)state;
    mq_gateway_stop(&gateway);
    return 0;
}

static int dial(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons((uint16_t)strtol(strrchr(gateway.url, ':') + 1, NULL, 10));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    size_t len = strlen(text);
    assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* Reads until the text has come or the other side closes; false in the latter case. */
static bool hear(int fd, const char *until)
{
    size_t used = 0;
    int64_t deadline_ms = mq_clock_mono_ms() + DEADLINE_MS;
    answer[0] = '\0';
    for (;;) {
        struct pollfd at = {fd, POLLIN, 0};
        assert_true(mq_clock_mono_ms() < deadline_ms);
        if (poll(&at, 1, 1000) <= 0) {
            continue;
        }
        ssize_t n = recv(fd, answer + used, ANSWER_MAX - used, 0);
        if (n <= 0) {
            return until[0] == '\0';
        }
        used += (size_t)n;
        answer[used] = '\0';
        if (until[0] != '\0' && strstr(answer, until) != NULL) {
            return true;
        }
    }
}

/* One request on a connection of its own; the answer's status. */
static int ask(const char *request)
{
    int fd = dial();
    say(fd, request);
    assert_true(hear(fd, ""));
    close(fd);
    int status = 0;
    assert_int_equal(sscanf(answer, "HTTP/1.1 %d", &status), 1);
    return status;
}

#define END "Connection: close\r\n\r\n"

static void every_answer_carries_the_security_headers(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        {"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n" END, 200},
        {"GET / HTTP/1.1\r\nHost: localhost\r\n" END, 200},
        {"GET /app.js HTTP/1.1\r\nHost: localhost\r\n" END, 200},
        {"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" END, 200},
        {"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n" END, 200},
        {"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n" END, 400},
        {"GET /nothing HTTP/1.1\r\nHost: localhost\r\n" END, 404},
        {"PATCH /v2 HTTP/1.1\r\nHost: localhost\r\n" END, 405},
        {"GET / HTTP/1.1\r\nHost: evil.example\r\n" END, 403},
        {"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nOrigin: "
         "http://evil.example\r\nContent-Length: 2\r\n" END "{}",
         403},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = ask(cases[i].request);
        if (status != cases[i].status) {
            fail_msg("%s\n  gave %d, expected %d", cases[i].request, status, cases[i].status);
        }
        assert_non_null(strstr(answer, "X-Content-Type-Options: nosniff\r\n"));
        assert_non_null(strstr(answer, "Content-Security-Policy: default-src 'self';"));
        if (status >= 400 && status != 400) {
            assert_non_null(strstr(answer, "\r\n\r\n{\"error\":\""));
        }
    }
}

static void a_body_beyond_the_limit_is_refused(void **state)
{
    (void)state;
    assert_int_equal(
        ask("POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4097\r\n" END), 413);
    assert_non_null(strstr(answer, "the limit is 4096"));
    char request[12000];
    int len =
        snprintf(request, sizeof request,
                 "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" END
                 "2000\r\n");
    memset(request + len, 'x', 0x2000);
    snprintf(request + len + 0x2000, sizeof request - (size_t)len - 0x2000, "\r\n0\r\n\r\n");
    assert_int_equal(ask(request), 413);
    assert_int_equal(atomic_load(&gateway.body_bytes), 0);
}

static void bad_jobs_and_requests_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const bodies[][2] = {
        {"{", "JSON"},
        {"[]", "must be an object"},
        {"{}", "kind: is missing"},
        {"{\"kind\":7}", "kind: must be text"},
        {"{\"kind\":\"echo\",\"knd\":1}", "knd: unknown field"},
        {"{\"kind\":\"echo\",\"priority\":10}", "priority: must be 1..9"},
        {"{\"kind\":\"echo\",\"ttl_ms\":-1}", "ttl_ms"},
        {"{\"kind\":\"echo\",\"body\":7}", "body: must be"},
        {"{\"kind\":\"echo\",\"after\":\"x\"}", "after: must be a list"},
        {"{\"kind\":\"echo\",\"durability\":\"x\"}", "durability"},
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        char request[512];
        snprintf(request, sizeof request,
                 "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n" END "%s",
                 strlen(bodies[i][0]), bodies[i][0]);
        assert_int_equal(ask(request), 400);
        assert_non_null(strstr(answer, bodies[i][1]));
    }
    assert_int_equal(ask("GET /v1/jobs?limit=0 HTTP/1.1\r\nHost: localhost\r\n" END), 400);
    assert_int_equal(ask("GET /v1/jobs?filter=%zz HTTP/1.1\r\nHost: localhost\r\n" END), 400);
    int fd = dial();
    say(fd, "\x16\x03\x01 rubbish \r\n\r\n\r\n");
    close(fd);
    assert_int_equal(ask("GET /v2 HTTP/1.1\r\nHost: localhost\r\n" END), 200);
}

static void half_a_request_holds_up_nobody(void **state)
{
    (void)state;
    int idle[20];
    for (size_t i = 0; i < 20; i++) {
        idle[i] = dial();
        say(idle[i], "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc");
    }
    assert_int_equal(ask("GET /v2 HTTP/1.1\r\nHost: localhost\r\n" END), 200);
    for (size_t i = 0; i < 20; i++) {
        close(idle[i]);
    }
}

static void a_silent_broker_is_an_error_within_the_deadline(void **state)
{
    (void)state;
    int status = ask("GET /v2/models/m HTTP/1.1\r\nHost: localhost\r\n" END);
    assert_true(status == 503 || status == 504);
    assert_non_null(strstr(answer, "\"error\""));
}

static void events_are_streamed_up_to_their_limit(void **state)
{
    (void)state;
    int fds[MQ_GW_EVENT_CLIENTS_MAX];
    for (size_t i = 0; i < MQ_GW_EVENT_CLIENTS_MAX; i++) {
        fds[i] = dial();
        say(fds[i], "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    for (size_t i = 0; i < MQ_GW_EVENT_CLIENTS_MAX; i++) {
        assert_true(hear(fds[i], "\ndata: {"));
        assert_non_null(strstr(answer, "Content-Type: text/event-stream"));
        assert_non_null(strstr(answer, "retry: 3000\nid: "));
    }
    assert_int_equal(ask("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n" END), 503);
    assert_non_null(strstr(answer, "Retry-After: "));
    for (size_t i = 1; i < MQ_GW_EVENT_CLIENTS_MAX; i++) {
        close(fds[i]);
    }
    /* The next frame reaches who is still there. */
    assert_true(hear(fds[0], "\n\n"));
    close(fds[0]);
}

static void it_stops_while_requests_wait(void **state)
{
    int infer = dial();
    say(infer,
        "POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n" END "{}");
    /* Streams whose clients are gone are noticed with the next frame. */
    int stream = -1;
    int64_t deadline_ms = mq_clock_mono_ms() + DEADLINE_MS;
    do {
        assert_true(mq_clock_mono_ms() < deadline_ms);
        stream = dial();
        say(stream, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_true(hear(stream, "\r\n\r\n"));
    } while (strstr(answer, "HTTP/1.1 200") == NULL && close(stream) == 0);
    mq_gateway_stop(&gateway);
    assert_true(hear(stream, ""));
    close(infer);
    close(stream);
    start(state);
}

static void it_says_where_it_listens_and_why_it_does_not(void **state)
{
    (void)state;
    static mq_gateway other;
    char path[200];
    mq_error err = {0};
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/maasq-gw-%ld.url", tmp != NULL ? tmp : "/tmp", (long)getpid());
    mq_gateway_config config = {.broker = "ipc:///nonexistent/maasq.sock",
                                .listen = "[::1]:0",
                                .host = "",
                                .endpoint_file = path,
                                .body_bytes_max = 4096};
    mq_code code = mq_gateway_start(&other, &config, &err);
    if (code == MQ_OK) {
        mq_buf text;
        mq_buf_init(&text, 1000);
        assert_int_equal(mq_file_read(path, &text, &err), MQ_OK);
        assert_true(text.len > 15 && memcmp(text.data, "http://[::1]:", 13) == 0);
        mq_buf_release(&text);
        unlink(path);
    } else {
        assert_non_null(strstr(err.text, "--listen")); /* a machine without IPv6 */
    }
    mq_gateway_stop(&other);
    static const char *const bad[] = {
        "", ":1", "127.0.0.1", "127.0.0.1:x", "300.1.1.1:1", "127.0.0.1:99999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        config.listen = bad[i];
        assert_int_not_equal(mq_gateway_start(&other, &config, &err), MQ_OK);
        assert_non_null(strstr(err.text, "--listen"));
        mq_gateway_stop(&other);
    }
    config.listen = "127.0.0.1:0";
    config.broker = "no endpoint";
    assert_int_equal(mq_gateway_start(&other, &config, &err), MQ_E_ARG);
    mq_gateway_stop(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_answer_carries_the_security_headers),
        cmocka_unit_test(a_body_beyond_the_limit_is_refused),
        cmocka_unit_test(bad_jobs_and_requests_are_refused_by_name),
        cmocka_unit_test(half_a_request_holds_up_nobody),
        cmocka_unit_test(a_silent_broker_is_an_error_within_the_deadline),
        cmocka_unit_test(events_are_streamed_up_to_their_limit),
        cmocka_unit_test(it_stops_while_requests_wait),
        cmocka_unit_test(it_says_where_it_listens_and_why_it_does_not),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
