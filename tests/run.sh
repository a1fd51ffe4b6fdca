#!/bin/bash
# Runs tests in parallel: programs (cmocka) and scripts, each in its own temporary directory and under
# a time limit, one line each, the output of those that fail, and at the end "N passed, N failed".
#
#   tests/run.sh BUILD_DIR [PATTERN...]     PATTERN: part of a test's name, e.g. "shared/" or "blob"
#   JOBS=2 TIMEOUT_S=300 tests/run.sh build/release
#
# What is counted: of a cmocka program its test functions; a script is one test. A program that
# crashes, runs out of time or fails without naming a test counts as one more failure. Exit status 77
# of a script means that it cannot run here, and a cmocka function may skip itself: said with the
# reason, counted as neither.
set -u
# In some locales awk and printf write 0,5 for 0.5.
export LC_ALL=C

one() { # one ROOT BUILD NAME FILE: runs a test, prints its line, writes ROOT/NAME.count
    local root=$1 build=$2 name=$3 file=$4
    local key=${name//\//.} limit=${TIMEOUT_S:-300} from=${EPOCHREALTIME/[.,]/} status
    case $name in e2e/*) limit=${TIMEOUT_E2E_S:-900} ;; esac
    # Short, because the paths of Unix sockets are (108 bytes).
    local dir
    dir=$(mktemp -d "$root/XXXX")
    TMPDIR=$dir B=$build MAASQ_BUILD=$build \
        timeout -k 10 "$limit" "$file" >"$root/$key.log" 2>&1 </dev/null
    status=$?
    local ms=$(((${EPOCHREALTIME/[.,]/} - from) / 1000))
    local passed failed skipped note=
    passed=$(awk '/^\[  PASSED  \] [0-9]+ test/ { n += $4 } END { print n + 0 }' "$root/$key.log")
    failed=$(awk '/^\[  FAILED  \] [0-9]+ test/ { n += $4 } END { print n + 0 }' "$root/$key.log")
    skipped=$(awk '/^\[  SKIPPED \] [0-9]+ test/ { n += $4 } END { print n + 0 }' "$root/$key.log")
    case $file in
    *.sh)
        passed=0 failed=0 skipped=0
        case $status in
        0) passed=1 ;;
        77) skipped=1 ;;
        *) failed=1 ;;
        esac
        ;;
    *) [ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1 ;;
    esac
    [ "$status" -ne 0 ] || [ $((passed + failed + skipped)) -gt 0 ] || { failed=1 note=" (ran no test)"; }
    [ "$status" -ne 124 ] && [ "$status" -ne 137 ] || note=" (over $limit s)"
    [ "$status" -le 128 ] || [ "$status" -eq 137 ] || note=" (signal $((status - 128)))"
    local word=ok
    [ "$skipped" -eq 0 ] || [ "$passed" -gt 0 ] || word=skip
    [ "$failed" -eq 0 ] || word=FAIL
    local line
    line=$(printf '%-4s %-34s %4d passed %3d failed %6d.%d s%s' "$word" "$name" "$passed" "$failed" \
        $((ms / 1000)) $((ms % 1000 / 100)) "$note")
    if [ "$failed" -gt 0 ]; then
        local output
        output=$(grep -avE '^\[( RUN|       OK)' "$root/$key.log" | tr -d '\000' | tail -n 80 | sed 's/^/     | /')
        line+=${output:+$'\n'$output}
    elif [ "$skipped" -gt 0 ]; then
        # A script says why in its last line, a program in the line before the one that says SKIPPED.
        local why
        why=$(grep -aB1 -m1 '^\[  SKIPPED \] [^0-9]' "$root/$key.log" | head -n 1)
        line+=" ($skipped skipped: ${why:-$(tail -n 1 "$root/$key.log")})"
    fi
    echo "$line"
    echo "$passed $failed $skipped" >"$root/$key.count"
    rm -rf "$dir"
}

list() { # list BUILD: "name file" of every test, the longest kind first
    local build=$1 file
    for file in "$build"/tests/e2e/test_* tests/e2e/*.sh "$build"/tests/worker/test_train_gang \
        "$build"/tests/*/test_* tests/check/*.sh; do
        [ -f "$file" ] && [ -x "$file" ] || continue
        case $file in
        *.sh) echo "$(basename "$(dirname "$file")")/$(basename "$file" .sh) $file" ;;
        *) echo "${file#"$build"/tests/} $file" ;;
        esac
    done | awk '!seen[$1]++'
}

if [ "${1:-}" = --one ]; then
    shift
    one "$@"
    exit
fi

BUILD=${1:-build/release}
[ $# -eq 0 ] || shift
cd "$(dirname "$0")/.." || exit 1
JOBS=${JOBS:-$(nproc)}
ROOT=$(mktemp -d "${TMPDIR:-/tmp}/mq-XXXXXX")
trap 'rm -rf "$ROOT"' EXIT
trap 'exit 130' INT TERM

list "$BUILD" | while read -r name file; do
    [ $# -gt 0 ] || echo "$name $file"
    for pattern in "$@"; do
        case $name in *"$pattern"*)
            echo "$name $file"
            break
            ;;
        esac
    done
done >"$ROOT/tests"
[ -s "$ROOT/tests" ] || echo "tests/run.sh: no test matches" >&2

xargs -r -a "$ROOT/tests" -P "$JOBS" -L 1 "$0" --one "$ROOT" "$BUILD"

# A test without a count died with its runner: that is a failure, not a gap.
expected=$(wc -l <"$ROOT/tests")
cat "$ROOT"/*.count 2>/dev/null | awk -v expected="$expected" '
    { passed += $1; failed += $2; skipped += $3; seen++ }
    END {
        failed += expected - seen
        if (skipped) printf "%d skipped\n", skipped
        printf "%d passed, %d failed\n", passed, failed
        exit !(failed == 0 && passed > 0)
    }'
