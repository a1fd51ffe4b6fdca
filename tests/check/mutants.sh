#!/bin/bash
# Every planted bug can still be planted, and three of them are found (`make mutants` tries all).
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build/release}
[ -f "$B/tests/sim/test_sim" ] || {
    echo "the simulator is not built in $B"
    exit 77
}
tests/mutants/run.sh "$B" --check &&
    tests/mutants/run.sh "$B" ack-before-store verdict-before-store submit-sent-once
