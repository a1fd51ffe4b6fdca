#!/bin/sh
# `make bench`: each benchmark against its ceiling of the same run, one JSON object a line (bench, case,
# value, unit, ceiling, ceiling_value, ratio). Quote medians from a quiet machine; other work on the cores
# shows in every figure that needs more than one process.
set -eu
. "$(dirname "$0")/../support/system.sh"
trap 'finish >&2' EXIT

"$B/tests/bench/bench_store"
maasq-worker --local bench-train --json
# Private systems of its own, with one and two workers, and the bare parts beside them in turn.
maasq bench queue --suite --rounds "${ROUNDS:-3}" --jobs "${JOBS_A_ROUND:-50000}" --backlog "${BACKLOG:-1000000}" \
    --light "$B/tests/bench/light_workers" --json
