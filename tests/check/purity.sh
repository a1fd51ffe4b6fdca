#!/bin/sh
# The cores do no I/O, read no clock, take no memory behind the caller's back: what their objects leave
# undefined is our own code, a few string functions, and start-up allocation through shared/base.
set -eu
cd "$(dirname "$0")/../.."
B=${B:-build/release}
status=0
for core in broker/core worker/core client/src/core; do
    objects=$(find "$B/$core" "$B/$core.o" -name '*.o' 2>/dev/null || true)
    [ -n "$objects" ] || continue
    # What one object of the core takes from another is defined; sanitizers and coverage add their own.
    # shellcheck disable=SC2086
    nm -u $objects | awk -v core="$core" '
        NF == 0 { next }
        /:$/ { object = $1; next }
        { name = $NF }
        name ~ /^mq_(clock|log|file|fd|dir|map_file|blobs|store_redis|fail$|wrap$)/ && name !~ /^mq_(fail|wrap)$/ {
            print object " " core " uses " name; wrong = 1; next
        }
        name ~ /^(mq_|_GLOBAL_OFFSET_TABLE_|__asan|__ubsan|__tsan|__sanitizer|__gcov|__stack_chk_fail|_DYNAMIC)/ { next }
        name ~ /^(memcpy|memmove|memset|memcmp|memchr|strlen|strcmp|strncmp|strnlen|qsort|bsearch)$/ { next }
        name ~ /^(__memcpy_chk|__memmove_chk|__memset_chk|__snprintf_chk|snprintf)$/ { next }
        name ~ /^(malloc|calloc|realloc|free)$/ { next }
        { print object " " core " uses " name; wrong = 1 }
        END { exit wrong }' || status=1
done
exit $status
