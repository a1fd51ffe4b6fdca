#!/bin/bash
# Plants bugs in the cores and shows that the simulator finds each within the number of seeds that
# its patch states. A patch is applied to a copy; the sources stay as they are.
#
#   tests/mutants/run.sh BUILD_DIR [--check] [NAME...]     --check: only whether every patch applies
#
# BUILD_DIR must hold the simulator (make V=... BUILD_DIR/tests/sim/test_sim).
set -u
export LC_ALL=C
BUILD=${1:?usage: tests/mutants/run.sh BUILD_DIR [--check] [NAME...]}
shift
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
cd "$ROOT" || exit 1
CHECK=
[ "${1:-}" != --check ] || { CHECK=1 && shift; }
WORK=$(mktemp -d "${TMPDIR:-/tmp}/mutants-XXXXXX")
trap 'rm -rf "$WORK"' EXIT
failed=0 caught=0 most=0

field() { sed -n "s/^$2: //p" "$1" | head -n 1; }

fail() {
    echo "FAIL $*"
    failed=$((failed + 1))
}

# Copies the file that a patch changes and changes the copy.
plant() { # plant PATCH FILE
    mkdir -p "$WORK/$(dirname "$2")"
    cp "$2" "$WORK/$2"
    patch --quiet --fuzz=0 --no-backup-if-mismatch -p1 -d "$WORK" <"$1" >"$WORK/log" 2>&1
}

build() { # build FILE: the simulator with the changed file in place of the real one
    local flags objects=()
    flags=$(cat "$BUILD/flags")
    for object in "$BUILD"/tests/sim/*.o "$BUILD"/broker/core/*.o "$BUILD"/worker/core/*.o \
        "$BUILD/client/src/core.o" "$BUILD/broker/io/witness.o"; do
        [ "$object" = "$BUILD/${1%.c}.o" ] || objects+=("$object")
    done
    # shellcheck disable=SC2086 # flags are words
    $flags -w -c -o "$WORK/mutant.o" "$WORK/$1" &&
        $flags -w -o "$WORK/sim" "$WORK/mutant.o" "${objects[@]}" "$BUILD/shared.a" \
            $(pkg-config --libs cmocka hiredis msgpack libcrypto) -lm -pthread
}

one() { # one PATCH
    local name file seeds what seed
    name=$(basename "$1" .patch)
    file=$(sed -n 's|^+++ b/||p' "$1")
    seeds=$(field "$1" seeds) what=$(field "$1" what)
    if [ -z "$file" ] || [ -z "$seeds" ] || [ -z "$what" ] || ! plant "$1" "$file"; then
        fail "$name: does not apply to $file any more: make the same bug again in the code as it is now"
        sed 's/^/     | /' "$WORK/log"
        return
    fi
    [ -z "$CHECK" ] || return
    if ! build "$file" >"$WORK/log" 2>&1; then
        fail "$name: does not compile"
        head -n 20 "$WORK/log" | sed 's/^/     | /'
        return
    fi
    SEEDS=$seeds SIM_STOP=1 timeout 300 "$WORK/sim" >"$WORK/log" 2>&1
    seed=$(sed -n 's/^seed \([0-9]*\), .*/\1/p' "$WORK/log" | head -n 1)
    if [ -z "$seed" ]; then
        fail "$name: not found within $seeds seeds ($what)"
        return
    fi
    caught=$((caught + 1))
    [ "$seed" -le "$most" ] || most=$seed
    printf 'ok   %-28s seed %4d of %4d  %s\n' "$name" "$seed" "$seeds" \
        "$(sed -n 's/^seed [0-9]*, step [0-9]*\(, [0-9]* ms\)\{0,1\}: //p' "$WORK/log" | head -n 1 | cut -c 1-90)"
}

[ $# -gt 0 ] || set -- $(cd tests/mutants && printf '%s\n' *.patch | sed 's/\.patch$//')
for name in "$@"; do
    one "tests/mutants/$name.patch"
done
if [ -n "$CHECK" ]; then
    echo "mutants: $# patches, $failed do not apply"
else
    echo "mutants: $caught of $# caught, by seed $most at the latest"
fi
[ "$failed" -eq 0 ]
