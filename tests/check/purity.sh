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
    # What one object of the core takes from another is the core's own; sanitizers and coverage add theirs.
    # shellcheck disable=SC2086
    { nm --defined-only $objects | sed -n 's/^[0-9a-f]* [A-Z] /own /p' && nm -u $objects; } | awk -v core="$core" '
        NF == 0 { next }
        $1 == "own" { own[$2] = 1; next }
        /:$/ { object = $1; next }
        { name = $NF }
        name in own { next }
        name ~ /^mq_(fail|wrap)$/ { next }
        name ~ /^mq_(clock|log|file|fd|dir|map_file|blobs|store_redis)/ { print object " uses " name; wrong = 1; next }
        name ~ /^(mq_|_GLOBAL_OFFSET_TABLE_|__asan|__ubsan|__tsan|__sanitizer|__gcov|__stack_chk_fail|_DYNAMIC)/ { next }
        name ~ /^(memcpy|memmove|memset|memcmp|memchr|strlen|strcmp|strncmp|strnlen|qsort|bsearch)$/ { next }
        name ~ /^(__memcpy_chk|__memmove_chk|__memset_chk|__snprintf_chk|snprintf)$/ { next }
        name ~ /^(malloc|calloc|realloc|free)$/ { next }
        { print object " uses " name; wrong = 1 }
        END { exit wrong }' || status=1
done
exit $status
