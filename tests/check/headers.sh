#!/bin/sh
# Every header compiles alone, with all warnings; the public ones as C++ too.
set -eu
cd "$(dirname "$0")/../.."
CC=${CC:-gcc}
FLAGS="-std=c11 -D_GNU_SOURCE -I. -I${B:-build/release}/gen -Wall -Wextra -Wpedantic -Werror -Wno-overlength-strings
    $(pkg-config --cflags-only-I libzmq msgpack hiredis jansson libcrypto openblas libmicrohttpd cmocka)"
# Word splitting of $FLAGS is meant.
find shared broker worker client tests -name '*.h' 2>/dev/null | sort |
    xargs -P "$(nproc)" -n 8 sh -c '
        flags=$1; cc=$2; shift 2
        for header; do
            # Helpers of tests stand on cmocka, which itself wants these four before it.
            before=
            case $header in tests/*)
                before="#include <setjmp.h>\n#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <cmocka.h>\n" ;;
            esac
            printf "$before#include \"%s\"\nextern int mq_alone;\n" "$header" |
                $cc $flags -fsyntax-only -x c - 2>&1 || { echo "$header does not compile alone"; exit 1; }
        done' sh "$FLAGS" "$CC"
if command -v g++ >/dev/null 2>&1; then
    for header in client/include/*.h worker/include/*.h; do
        [ ! -f "$header" ] || g++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only -x c++ "$header"
    done
fi
