/* Paths to handlers, names in paths, and which web pages may talk to the gateway. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client/gateway/guard.h"
#include "client/gateway/route.h"

static mq_code find(mq_route *route, const char *method, const char *path, mq_error *err)
{
    *err = (mq_error){0};
    return mq_route_find(route, method, path, err);
}

static void every_path_of_the_table_finds_its_own_row(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path;
    } rows[] = {
#define MQ_ROUTE(handler, method, path) {method, path},
#include "client/gateway/routes.def"
#undef MQ_ROUTE
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char path[200] = "";
        for (const char *c = rows[i].path; *c != '\0'; c++) {
            size_t len = strlen(path);
            path[len] = *c == '{' ? 'x' : *c;
            path[len + 1] = '\0';
            c = *c == '{' ? strchr(c, '}') : c;
        }
        mq_route route;
        mq_error err;
        assert_int_equal(find(&route, rows[i].method, path, &err), MQ_OK);
        assert_int_equal(route.row, i);
        assert_string_equal(mq_route_path(&route), rows[i].path);
    }
}

static void names_are_taken_out_of_the_path(void **state)
{
    (void)state;
    mq_route route;
    mq_error err;
    assert_int_equal(find(&route, "POST", "/v2/models/my.model-1_a/versions/12/infer", &err),
                     MQ_OK);
    assert_string_equal(route.model, "my.model-1_a");
    assert_string_equal(route.version, "12");
    assert_int_equal(find(&route, "GET", "/v2/models/%6dm/ready", &err), MQ_OK);
    assert_string_equal(route.model, "mm");
    assert_int_equal(find(&route, "HEAD", "/v2/", &err), MQ_OK);
    assert_string_equal(route.method, "GET");
    assert_int_equal(find(&route, "GET", "/v1/jobs/01J9/result", &err), MQ_OK);
    assert_string_equal(route.id, "01J9");
}

static void what_is_not_there_is_said(void **state)
{
    (void)state;
    mq_route route;
    mq_error err;
    static const char *const none[] = {"",
                                       "/x",
                                       "/v2/x",
                                       "/v2/models/m/x",
                                       "/v2//models",
                                       "/v1/jobs/a/b/c",
                                       "/index.html",
                                       "/v2/health",
                                       "/app.js/x",
                                       "/../etc/passwd",
                                       "/v2/models//infer"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        assert_int_equal(find(&route, "GET", none[i], &err), MQ_E_NOT_FOUND);
    }
    assert_int_equal(find(&route, "GET", "/v2/models/m/infer", &err), MQ_E_UNSUPPORTED);
    assert_string_equal(err.text, "POST");
    assert_int_equal(find(&route, "PUT", "/v1/jobs/x", &err), MQ_E_UNSUPPORTED);
    assert_string_equal(err.text, "GET, DELETE");
    static const char *const bad[] = {"/v2/models/a%2Fb",  "/v2/models/a%00b", "/v2/models/a%2",
                                      "/v2/models/a%zz",   "/v2/models/a b",   "/v2/models/a@prod",
                                      "/v2/models/%c3%a4", "/v2/models/a%0a"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(find(&route, "GET", bad[i], &err), MQ_E_ARG);
        assert_non_null(strstr(err.text, "model"));
    }
    char path[2000];
    memset(path, 'a', sizeof path);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    assert_int_equal(find(&route, "GET", path, &err), MQ_E_LIMIT);
    memcpy(path, "/v2/models/", 11);
    path[11 + 128] = '\0';
    assert_int_equal(find(&route, "GET", path, &err), MQ_OK);
    path[11 + 128] = 'a';
    path[11 + 129] = '\0';
    assert_int_equal(find(&route, "GET", path, &err), MQ_E_ARG);
}

static void query_values_are_decoded(void **state)
{
    (void)state;
    char out[16];
    assert_true(mq_percent_decode(mq_str("state%3Ddead+a"), true, out, sizeof out));
    assert_string_equal(out, "state=dead a");
    assert_true(mq_percent_decode(mq_str("a+b"), false, out, sizeof out));
    assert_string_equal(out, "a+b");
    assert_false(mq_percent_decode(mq_str("%"), true, out, sizeof out));
    assert_false(mq_percent_decode(mq_str("0123456789abcdef"), true, out, sizeof out));
    assert_true(mq_percent_decode(mq_str("0123456789abcde"), true, out, sizeof out));
}

static void only_names_of_this_host_are_accepted_on_loopback(void **state)
{
    (void)state;
    static const char *const good[] = {"localhost",  "localhost:7780", "127.0.0.1:1", "127.9.9.9",
                                       "[::1]:7780", "LOCALHOST",      "ops.example"};
    static const char *const bad[] = {"evil.example",
                                      "127.evil.example",
                                      "127.0.0.1.evil.example",
                                      "localhost.evil",
                                      "",
                                      ":80",
                                      "[",
                                      "ops.example.evil"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(mq_guard_host_ok(good[i], "ops.example"));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(mq_guard_host_ok(bad[i], "ops.example"));
    }
    assert_true(mq_guard_host_ok(NULL, ""));
    assert_false(mq_guard_host_ok("ops.example", ""));
    assert_true(mq_guard_is_loopback("127.0.0.1"));
    assert_true(mq_guard_is_loopback("::1"));
    assert_false(mq_guard_is_loopback("0.0.0.0"));
    assert_false(mq_guard_is_loopback("10.0.0.1"));
}

static void another_sites_page_may_not_act(void **state)
{
    (void)state;
    assert_true(mq_guard_origin_ok(NULL, "a:1"));
    assert_true(mq_guard_origin_ok("http://a:1", "a:1"));
    assert_true(mq_guard_origin_ok("https://A:1", "a:1"));
    assert_false(mq_guard_origin_ok("http://a:2", "a:1"));
    assert_false(mq_guard_origin_ok("http://evil", "a:1"));
    assert_false(mq_guard_origin_ok("null", "a:1"));
    assert_false(mq_guard_origin_ok("http://a:1", NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_of_the_table_finds_its_own_row),
        cmocka_unit_test(names_are_taken_out_of_the_path),
        cmocka_unit_test(what_is_not_there_is_said),
        cmocka_unit_test(query_values_are_decoded),
        cmocka_unit_test(only_names_of_this_host_are_accepted_on_loopback),
        cmocka_unit_test(another_sites_page_may_not_act),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
