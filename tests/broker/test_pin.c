/* Facts about the pin thread, on a directory store. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/io/pin.h"
#include "shared/blob/blob.h"

static char dir[64];
static char url[64];

static mq_pin_answer await(mq_pins *pins)
{
    mq_pin_answer answer;
    while (!mq_pins_next(pins, &answer)) {
        struct pollfd p = {mq_pins_fd(pins), POLLIN, 0};
        assert_int_equal(poll(&p, 1, 60000), 1);
    }
    return answer;
}

static void present_blobs_are_pinned_and_missing_ones_named(void **state)
{
    (void)state;
    mq_error err;
    mq_blobs *blobs;
    assert_int_equal(mq_blobs_new(&blobs, url, &err), MQ_OK);
    char here[MQ_SHA256_HEX], gone[MQ_SHA256_HEX];
    assert_int_equal(mq_blobs_put(blobs, mq_str("x"), here, &err), MQ_OK);
    mq_sha256_hex_of(mq_str("y"), gone);
    mq_pins *pins;
    assert_int_equal(mq_pins_new(&pins, url, &err), MQ_OK);
    mq_span names[2] = {mq_str(here), mq_str(gone)};
    assert_int_equal(mq_pins_ask(pins, MQ_PIN, 1, names, 1, &err), MQ_OK);
    assert_int_equal(mq_pins_ask(pins, MQ_PIN, 2, names, 2, &err), MQ_OK);
    assert_int_equal(mq_pins_ask(pins, MQ_UNPIN, 3, names, 1, &err), MQ_OK);
    mq_pin_answer a = await(pins);
    assert_int_equal(a.ticket, 1);
    assert_int_equal(a.code, MQ_OK);
    a = await(pins);
    assert_int_equal(a.ticket, 2);
    assert_int_equal(a.code, MQ_E_MISSING);
    assert_int_equal(a.missing_count, 1);
    assert_string_equal(a.missing[0], gone);
    a = await(pins);
    assert_int_equal(a.ticket, 3);
    assert_int_equal(a.code, MQ_OK);
    mq_pins_free(pins);
    mq_blobs_free(blobs);
}

static void bad_names_and_a_full_queue_are_refused(void **state)
{
    (void)state;
    mq_error err;
    mq_pins *pins;
    assert_int_equal(mq_pins_new(&pins, url, &err), MQ_OK);
    mq_span bad = mq_str("../../etc/passwd");
    assert_int_equal(mq_pins_ask(pins, MQ_PIN, 1, &bad, 1, &err), MQ_E_ARG);
    char gone[MQ_SHA256_HEX];
    mq_sha256_hex_of(mq_str("y"), gone);
    mq_span name = mq_str(gone);
    int accepted = 0;
    while (mq_pins_ask(pins, MQ_PIN, 1, &name, 1, &err) == MQ_OK) {
        accepted++; /* answers count until they are read, so it must end */
    }
    assert_int_equal(accepted, MQ_PIN_REQUESTS_MAX);
    for (int i = 0; i < accepted; i++) {
        assert_int_equal(await(pins).code, MQ_E_MISSING);
    }
    assert_int_equal(mq_pins_ask(pins, MQ_PIN, 1, &name, 1, &err), MQ_OK);
    mq_pins_free(pins);
}

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.40s/mq-pin-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    snprintf(url, sizeof url, "dir:%s", mkdtemp(dir));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[80];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(present_blobs_are_pinned_and_missing_ones_named),
        cmocka_unit_test(bad_names_and_a_full_queue_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
