/* Copies, exchanges and fills the folder of the state's Redis; see volume.h. */
#include "tests/support/volume.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_BYTES = 65536 };

__attribute__((format(printf, 1, 2))) static void run(const char *fmt, ...)
{
    char command[640];
    va_list args;
    va_start(args, fmt);
    vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

void volume_copy(const sys *s)
{
    run("rm -rf %s.copy && cp -a %s %s.copy", s->data, s->data, s->data);
}

void volume_exchange(const sys *s, bool is_empty)
{
    run("mv %s %s.right", s->data, s->data);
    if (is_empty) {
        run("mkdir -m 700 %s", s->data);
    } else {
        run("cp -a %s.copy %s", s->data, s->data);
    }
}

void volume_restore(const sys *s)
{
    run("rm -rf %s && mv %s.right %s", s->data, s->data, s->data);
}

void volume_fill(const sys *s)
{
    static const char zeros[PIECE_BYTES];
    char path[160];
    snprintf(path, sizeof path, "%s.filler", s->data);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    for (size_t piece = PIECE_BYTES; piece > 0;) {
        if (write(fd, zeros, piece) <= 0) {
            piece /= 2;
        }
    }
    close(fd);
}

void volume_free(const sys *s)
{
    run("rm -f %s.filler", s->data);
}
