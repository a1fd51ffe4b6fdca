/* mq_poll: sockets and descriptors waited on together, with nothing missed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>
#include <zmq.h>

#include "shared/wire/poll.h"

enum { LONG_MS = 30000 };

typedef struct pair {
    void *context, *a, *b;
} pair;

static int set_up(void **state)
{
    static pair p;
    p.context = zmq_ctx_new();
    p.a = zmq_socket(p.context, ZMQ_PAIR);
    p.b = zmq_socket(p.context, ZMQ_PAIR);
    assert_int_equal(zmq_bind(p.a, "inproc://pair"), 0);
    assert_int_equal(zmq_connect(p.b, "inproc://pair"), 0);
    *state = &p;
    return 0;
}

static int tear_down(void **state)
{
    pair *p = *state;
    (void)zmq_close(p->a);
    (void)zmq_close(p->b);
    return zmq_ctx_term(p->context);
}

static int receive(void *socket)
{
    char byte;
    return zmq_recv(socket, &byte, 1, ZMQ_DONTWAIT);
}

static void a_drained_socket_wakes_the_wait(void **state)
{
    pair *p = *state;
    assert_true(receive(p->a) < 0);
    assert_int_equal(zmq_send(p->b, "x", 1, 0), 1);
    mq_poll_item item = {.socket = p->a, .events = POLLIN, .is_drained = true};
    assert_true(mq_poll(&item, 1, LONG_MS));
    assert_int_equal(item.revents, POLLIN);
    assert_int_equal(receive(p->a), 1);
    assert_true(receive(p->a) < 0);
    assert_true(mq_poll(&item, 1, 0));
    assert_int_equal(item.revents, 0);
}

static void a_swallowed_signal_is_asked_for(void **state)
{
    pair *p = *state;
    int events = 0;
    size_t size = sizeof events;
    assert_int_equal(zmq_send(p->b, "x", 1, 0), 1);
    /* The question takes the descriptor's signal away. */
    assert_int_equal(zmq_getsockopt(p->a, ZMQ_EVENTS, &events, &size), 0);
    mq_poll_item item = {.socket = p->a, .events = POLLIN};
    assert_true(mq_poll(&item, 1, LONG_MS));
    assert_int_equal(item.revents, POLLIN);
    assert_int_equal(receive(p->a), 1);
}

static void descriptors_and_sockets_are_told_apart(void **state)
{
    pair *p = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "x", 1), 1);
    mq_poll_item items[3] = {{.socket = p->a, .events = POLLIN},
                             {.fd = ends[0], .events = POLLIN},
                             {.fd = ends[1], .events = 0}};
    assert_true(mq_poll(items, 3, LONG_MS));
    assert_int_equal(items[0].revents, 0);
    assert_int_equal(items[1].revents, POLLIN);
    assert_int_equal(items[2].revents, 0);
    (void)close(ends[1]);
    assert_int_equal(read(ends[0], &(char){0}, 1), 1);
    assert_true(mq_poll(items, 2, LONG_MS));
    assert_int_equal(items[1].revents & POLLERR, POLLERR); /* its other end is gone */
    (void)close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_drained_socket_wakes_the_wait, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_swallowed_signal_is_asked_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(descriptors_and_sockets_are_told_apart, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
