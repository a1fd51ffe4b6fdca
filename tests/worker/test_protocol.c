/* Frames of the slot protocol: what one side packs the other reads, and nothing else is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shared/base/prng.h"
#include "worker/slot/stream.h"

enum { ROOM = 1024 };

static mq_span pack(mq_frame_type type, const void *message, mq_buf *out)
{
    mq_span rest;
    mq_buf_reset(out);
    mq_frame_encode(type, message, out, &rest);
    assert_true(mq_buf_add_span(out, rest));
    return mq_buf_span(out);
}

static void a_frame_comes_back_as_it_was_and_every_cut_is_refused(void **state)
{
    (void)state;
    mq_error err;
    mq_buf buf;
    mq_slot_run in = {.run = 77,
                      .job_id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                      .kind = mq_str("train"),
                      .attempt = 3,
                      .model = mq_str("m@2"),
                      .gang_epoch = UINT64_MAX,
                      .checkpoint_meta = mq_str("{}"),
                      .body = mq_str("the body")};
    mq_slot_run out;
    mq_buf_init(&buf, 1 << 16);
    mq_span bytes = pack(MQ_FRAME_run, &in, &buf);
    assert_int_equal(mq_frame_decode(MQ_FRAME_run, bytes, &out, &err), MQ_OK);
    assert_int_equal(out.run, 77);
    assert_int_equal(out.attempt, 3);
    assert_true(out.gang_epoch == UINT64_MAX);
    assert_true(mq_span_is(out.kind, "train"));
    assert_true(mq_span_is(out.model, "m@2"));
    assert_int_equal(out.checkpoint_blob.len, 0);
    assert_true(mq_span_is(out.body, "the body"));
    size_t fixed = bytes.len - strlen("the body");
    for (size_t len = 0; len < fixed; len++) { /* cut anywhere before the rest */
        assert_int_equal(mq_frame_decode(MQ_FRAME_run, mq_span_of(bytes.data, len), &out, &err),
                         MQ_E_FORMAT);
    }
    mq_slot_checkpointed c = {.step = 5};
    bytes = pack(MQ_FRAME_checkpointed, &c, &buf);
    assert_true(mq_buf_add(&buf, "x", 1)); /* bytes left over */
    assert_int_equal(mq_frame_decode(MQ_FRAME_checkpointed, mq_buf_span(&buf), &c, &err),
                     MQ_E_FORMAT);
    mq_buf_release(&buf);
}

static void random_bytes_are_refused_or_read_within_bounds(void **state)
{
    (void)state;
    _Alignas(16) uint8_t message[ROOM];
    mq_prng prng = {.state = 1};
    for (int round = 0; round < 200000; round++) {
        uint8_t bytes[96];
        size_t len = mq_prng_below(&prng, sizeof bytes);
        for (size_t i = 0; i < len; i++) {
            bytes[i] = (uint8_t)(mq_prng_below(&prng, 3) == 0 ? mq_prng_next(&prng) : 0);
        }
        mq_error err;
        (void)!mq_frame_decode((uint8_t)mq_prng_below(&prng, 80), mq_span_of(bytes, len), message,
                               &err);
    }
}

static void make_pair(mq_stream *a, mq_stream *b)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    mq_stream_init(a, fds[0], 256 << 20);
    mq_stream_init(b, fds[1], 256 << 20);
}

/* Moves bytes from a to b until b has a whole frame. */
static mq_frame transfer(mq_stream *a, mq_stream *b)
{
    mq_frame frame;
    mq_error err;
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(mq_stream_flush(a, &err), MQ_OK);
        mq_code code = mq_stream_next(b, &frame, &err);
        if (code == MQ_OK) {
            return frame;
        }
        assert_int_equal(code, MQ_E_BUSY);
        code = mq_stream_read(b, &err);
        assert_true(code == MQ_OK || code == MQ_E_BUSY);
    }
    fail_msg("no frame");
    return frame;
}

static int file_of(uint64_t content)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(write(fd, &content, sizeof content), sizeof content);
    return fd;
}

static void frames_of_any_size_arrive_in_order_each_with_its_descriptor(void **state)
{
    (void)state;
    enum { FRAMES = 24 };
    mq_stream a, b;
    mq_error err;
    static uint8_t big[3 << 20];
    make_pair(&a, &b);
    for (uint64_t i = 0; i < FRAMES; i++) { /* far more than the socket holds */
        mq_slot_piece piece = {.tag = i, .bytes = mq_span_of(big, i % 3 == 0 ? sizeof big : i)};
        big[0] = (uint8_t)i;
        if (i % 2 == 0) {
            int fd = file_of(i);
            mq_slot_put put = {.rid = i, .bytes = 8};
            assert_int_equal(mq_stream_send(&a, MQ_FRAME_put, &put, fd, &err), MQ_OK);
            close(fd);
        }
        assert_int_equal(mq_stream_send(&a, MQ_FRAME_piece, &piece, -1, &err), MQ_OK);
    }
    for (uint64_t i = 0; i < FRAMES; i++) {
        if (i % 2 == 0) {
            mq_frame f = transfer(&a, &b);
            uint64_t content = 0;
            assert_int_equal(f.type, MQ_FRAME_put);
            assert_true(f.fd >= 0);
            assert_int_equal(pread(f.fd, &content, sizeof content, 0), sizeof content);
            assert_int_equal(content, i);
            close(f.fd);
        }
        mq_frame f = transfer(&a, &b);
        mq_slot_piece piece;
        assert_int_equal(f.type, MQ_FRAME_piece);
        assert_int_equal(f.fd, -1);
        assert_int_equal(mq_frame_decode(f.type, f.body, &piece, &err), MQ_OK);
        assert_int_equal(piece.tag, i);
        assert_int_equal(piece.bytes.len, i % 3 == 0 ? sizeof big : i);
        if (piece.bytes.len > 0) {
            assert_int_equal(piece.bytes.data[0], i);
        }
    }
    mq_stream_release(&a);
    assert_int_equal(mq_stream_read(&b, &err), MQ_E_IO); /* the end is seen */
    mq_stream_release(&b);
}

static void broken_framing_ends_the_stream(void **state)
{
    (void)state;
    static const uint8_t too_long[8] = {0, 0, 0, 0xff, 9, 0, 0, 0};
    static const uint8_t without_fd[8] = {0, 0, 0, 0, 34, 1, 0, 0};
    static const uint8_t two_fds[8] = {0, 0, 0, 0, 34, 2, 0, 0};
    const uint8_t *const heads[] = {too_long, without_fd, two_fds};
    for (size_t i = 0; i < 3; i++) {
        mq_stream a, b;
        mq_frame frame;
        mq_error err;
        make_pair(&a, &b);
        assert_int_equal(write(a.fd, heads[i], 8), 8);
        assert_int_equal(mq_stream_read(&b, &err), MQ_OK);
        assert_int_equal(mq_stream_next(&b, &frame, &err), MQ_E_FORMAT);
        mq_stream_release(&a);
        mq_stream_release(&b);
    }
}

static void what_waits_is_limited(void **state)
{
    (void)state;
    static uint8_t big[1 << 20];
    int fds[2];
    mq_stream a;
    mq_error err;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    mq_stream_init(&a, fds[0], 2 << 20);
    mq_slot_piece piece = {.bytes = mq_span_of(big, sizeof big)};
    mq_code code = MQ_OK;
    for (int i = 0; i < 16 && code == MQ_OK; i++) {
        code = mq_stream_send(&a, MQ_FRAME_piece, &piece, -1, &err);
    }
    assert_int_equal(code, MQ_E_LIMIT);
    mq_stream_release(&a);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_comes_back_as_it_was_and_every_cut_is_refused),
        cmocka_unit_test(random_bytes_are_refused_or_read_within_bounds),
        cmocka_unit_test(frames_of_any_size_arrive_in_order_each_with_its_descriptor),
        cmocka_unit_test(broken_framing_ends_the_stream),
        cmocka_unit_test(what_waits_is_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
