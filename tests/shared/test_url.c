/* Store URLs: what is accepted, and that each wrong one is refused by a sentence naming the part.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "shared/base/file.h"
#include "shared/base/url.h"

static void refused(const char *text, const char *words)
{
    mq_url url;
    mq_error err = {0};
    mq_code code = mq_url_parse(&url, text, &err);
    if (code != MQ_E_ARG || strstr(err.text, words) == NULL) {
        fail_msg("\"%.60s\" gave %s: %s; expected %s", text, mq_code_name(code), err.text, words);
    }
}

static void the_three_kinds_are_read(void **state)
{
    (void)state;
    mq_url url;
    assert_int_equal(mq_url_parse(&url, "unix:/run/x/redis.sock", NULL), MQ_OK);
    assert_int_equal(url.kind, MQ_URL_UNIX);
    assert_string_equal(url.path, "/run/x/redis.sock");
    assert_string_equal(url.user, "");
    assert_int_equal(mq_url_parse(&url, "tcp:db.local:6379,user=w,secret=/etc/s", NULL), MQ_OK);
    assert_int_equal(url.kind, MQ_URL_TCP);
    assert_string_equal(url.host, "db.local");
    assert_int_equal(url.port, 6379);
    assert_string_equal(url.user, "w");
    assert_string_equal(url.secret, "/etc/s");
    assert_int_equal(mq_url_parse(&url, "tcp:[::1]:65535", NULL), MQ_OK);
    assert_string_equal(url.host, "::1");
    assert_int_equal(url.port, 65535);
    assert_int_equal(mq_url_parse(&url, "dir:/data/a,b", NULL), MQ_OK);
    assert_int_equal(url.kind, MQ_URL_DIR);
    assert_string_equal(url.path, "/data/a,b");
}

static void wrong_urls_are_refused_by_name(void **state)
{
    (void)state;
    refused("", "must start with");
    refused("redis://localhost", "must start with");
    refused("dir:", "start with /");
    refused("dir:relative", "start with /");
    refused("unix:", "start with /");
    refused("unix:redis.sock", "start with /");
    refused("tcp:", "tcp:HOST:PORT");
    refused("tcp:host", "tcp:HOST:PORT");
    refused("tcp::6379", "tcp:HOST:PORT");
    refused("tcp:h:", "port");
    refused("tcp:h:0", "port");
    refused("tcp:h:65536", "port");
    refused("tcp:h:99999999999999999999", "port");
    refused("tcp:h:12x", "port");
    refused("tcp:h:1,password=x", "option \"password=x\"");
    refused("tcp:h:1,user=a,user=b", "option \"user=b\"");
    refused("tcp:h:1,", "option \"\"");
    refused("unix:/s,secret=", "option \"secret=\"");
    char text[2 * MQ_URL_TEXT_MAX];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    memcpy(text, "unix:/", 6);
    refused(text, "limit is");
    text[200] = '\0';
    refused(text, "107");
}

static void the_password_is_the_first_line_of_its_file(void **state)
{
    (void)state;
    char path[256];
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/maasq-url-XXXXXX", tmp != NULL ? tmp : "/tmp");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(mq_fd_write(fd, mq_str("s3cret\r\nother\n"), NULL), MQ_OK);
    mq_url url = {0};
    snprintf(url.secret, sizeof url.secret, "%s", path);
    char password[MQ_URL_SECRET_MAX];
    assert_int_equal(mq_url_password(&url, password, NULL), MQ_OK);
    assert_string_equal(password, "s3cret");
    assert_int_equal(ftruncate(fd, 0), 0);
    mq_error err = {0};
    assert_int_equal(mq_url_password(&url, password, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, path));
    close(fd);
    unlink(path);
    assert_int_equal(mq_url_password(&url, password, NULL), MQ_E_NOT_FOUND);
    url.secret[0] = '\0';
    assert_int_equal(mq_url_password(&url, password, NULL), MQ_OK);
    assert_string_equal(password, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_three_kinds_are_read),
        cmocka_unit_test(wrong_urls_are_refused_by_name),
        cmocka_unit_test(the_password_is_the_first_line_of_its_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
