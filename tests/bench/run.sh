#!/bin/sh
# `make bench`: each benchmark against its ceiling of the same run, one JSON object a line (bench, case,
# value, unit, ceiling, ceiling_value, ratio). Quote medians from a quiet machine; other work on the cores
# shows in every figure that needs more than one process.
set -eu
. "$(dirname "$0")/../support/system.sh"
trap 'finish >&2' EXIT

"$B/tests/bench/bench_store"
maasq-worker --local bench-train --json
up --workers 2 --slots 1
maasq bench queue --jobs 20000 --json | jq -c .
maasq bench queue --jobs 20000 --transient --json | jq -c .
maasq bench queue --jobs 2000 --bytes 65536 --json | jq -c .
