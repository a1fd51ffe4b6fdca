/* The command line as a test uses it: one private system, commands run in it, and what they printed
 * as text and as JSON. For tests of one file. */
#ifndef MQ_TESTS_SUPPORT_COMMAND_H
#define MQ_TESTS_SUPPORT_COMMAND_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/support/system.h"

enum { OUT_MAX = 1 << 18, WAIT_MS = 60000 };

static sys system_;
static char out[OUT_MAX], err[OUT_MAX];

/* Runs the command line; its exit status. Its output is in out and err. */
#define MAASQ(...)                                                                                 \
    sys_run(&system_, (const char *const[]){"maasq", __VA_ARGS__, NULL}, out, sizeof out, err,     \
            sizeof err)

#define MUST(...)                                                                                  \
    do {                                                                                           \
        if (MAASQ(__VA_ARGS__) != 0) {                                                             \
            fail_msg("%s", err);                                                                   \
        }                                                                                          \
    } while (0)

/* The JSON that the last command printed; owned. */
static inline json_t *answer(void)
{
    json_t *json = json_loads(out, JSON_DECODE_ANY, NULL);
    if (json == NULL) {
        fail_msg("no JSON: %s%s", out, err);
    }
    return json;
}

#endif
