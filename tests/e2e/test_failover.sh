#!/bin/sh
# The failover of deploy/README.md, step by step with the files of deploy/: a replica of the state with a user of
# its own, jobs of class replicated, the primary lost with its disk, the replica promoted, a broker with --adopt.
set -u
cd "$(dirname "$0")/../.."
. tests/support/system.sh
PIDS=
MAASQ_SHARE=$PWD/deploy/redis
MAASQ_SECRETS=$T/secrets
export MAASQ_SHARE MAASQ_SECRETS
PORT=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
sh deploy/secrets.sh "$MAASQ_SECRETS" >"$T/secrets.log"

redis() { # redis NAME WHICH OPTION...: starts one, as its unit would
    name=$1 which=$2
    shift 2
    mkdir -p "$T/$name/run" "$T/$name/data"
    MAASQ_RUN=$T/$name/run MAASQ_DATA=$T/$name/data sh deploy/container/redis.sh "$which" "$@" >"$T/$name/log" 2>&1 &
    PIDS="$PIDS $!"
    eval "PID_$name=$!"
}
broker() { # broker STATE OPTION...
    state=$1
    shift
    maasq-broker --front "ipc://$T/front" --back "ipc://$T/back" --witness "$T/witness" --replicate-ms 2000 \
        --store "unix:$T/$state/run/redis.sock,user=broker,secret=$MAASQ_SECRETS/broker.secret" \
        --blobs "unix:$T/blobs/run/redis.sock,user=broker,secret=$MAASQ_SECRETS/broker.secret" "$@" >>"$T/broker.log" 2>&1 &
    PID_broker=$!
    PIDS="$PIDS $!"
}
until_true() { # until_true TEXT COMMAND...: within a minute
    text=$1 n=0
    shift
    until "$@" >"$T/last" 2>&1; do
        n=$((n + 1))
        if [ "$n" -gt 600 ]; then
            bad "$text" "$(tail -n 3 "$T/last" "$T/broker.log")"
            return 1
        fi
        sleep 0.1
    done
    good "$text"
}
is_open() { maasq status --json | jq -e ".status.store.replicas.is_open == $1" >/dev/null; }
is_up() { redis-cli -s "$T/$1/run/redis.sock" PING 2>&1 | grep -q NOAUTH; }
logged() { grep -q "$1" "$T/broker.log"; }
MAASQ_BROKER=ipc://$T/front
export MAASQ_BROKER

redis primary state --port "$PORT" --bind 127.0.0.1
redis blobs blobs
until_true "the primary is up" is_up primary
until_true "the blobs' server is up" is_up blobs
maasq-broker --prepare --store "unix:$T/primary/run/redis.sock,user=deploy,secret=$MAASQ_SECRETS/deploy.secret" || bad "--prepare"
broker primary --init
maasq-worker --broker "ipc://$T/back" --blobs "unix:$T/blobs/run/redis.sock,user=worker,secret=$MAASQ_SECRETS/worker.secret" \
    --slots 1 >"$T/worker.log" 2>&1 &
PIDS="$PIDS $!"
until_true "the system serves" maasq job submit echo --param a=1 --wait
is_open false && good "without a replica the class is closed" || bad "the class is open without a replica"
redis replica state --replica-of "tcp:127.0.0.1:$PORT,user=replica,secret=$MAASQ_SECRETS/replica.secret"
until_true "a replica opens the class" is_open true
ID=$(maasq job submit echo --param a=2 --durability replicated --wait --json | jq -r .id)
[ -n "$ID" ] && [ "$ID" != null ] && good "a replicated job" || bad "no replicated job" "$ID"
maasq status | grep -q 'replicas *1 online, 1 of 1 confirm: durability replicated is open' &&
    good "status shows the replica" || bad "status does not show the replica" "$(maasq status | head -5)"

# The primary is gone with its disk.
# shellcheck disable=SC2154 # set by eval
kill -9 "$PID_primary" "$PID_replica"
wait "$PID_primary" "$PID_replica" 2>/dev/null
kill "$PID_broker"
wait "$PID_broker" 2>/dev/null
rm -rf "$T/primary"
redis replica state
until_true "the replica is up as a primary" is_up replica
broker replica --adopt
until_true "the broker serves what the replica has" maasq job show "$ID"
grep -q succeeded "$T/last" && good "the replicated job's end is there" || bad "its end is not there" "$(cat "$T/last")"
until_true "new jobs run" maasq job submit echo --param a=3 --wait
! logged 'older data adopted.*lost_jobs=[1-9]' && good "nothing was lost here" || bad "jobs were lost" "$(grep adopted "$T/broker.log")"
for pid in $PIDS; do kill "$pid" 2>/dev/null; done
for pid in $PIDS; do wait "$pid" 2>/dev/null; done
finish
