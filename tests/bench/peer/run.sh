#!/bin/sh
# `make bench-infer`: latencies at one and two threads, with and without oneDNN, then load time and memory.
set -eu
compare=$1/tests/bench/peer/compare
data=${MAASQ_SHARED:-../shared}/data
export XDG_CACHE_HOME="$PWD/build/peer/cache" # the peer keeps a database there
common="--data $data --seconds $SECONDS ${PEER:+--peer $PEER} ${ONLY:+--only $ONLY}"
# shellcheck disable=SC2086 # words on purpose
{
    "$compare" $common --threads 1
    "$compare" $common --threads 1 --own
    GOMP_SPINCOUNT=20000 "$compare" $common --threads 2 # as slots with several threads have it
    "$compare" $common --memory
}
