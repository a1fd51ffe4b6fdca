#!/bin/sh
# `maasq up` and `maasq down`: what was started comes back when it is killed, keeps its data, is stopped
# whole, and is never started twice.
set -u
. "$(dirname "$0")/../support/system.sh"

# says WHAT COMMAND...: the command must succeed.
says() {
    what=$1
    shift
    if "$@" >"$T/out" 2>"$T/err"; then
        good "$what"
    else
        bad "$what (exit status $?)" "$(cat "$T/out" "$T/err")"
    fi
}
pid_of() { jq -r ".processes[] | select(.name == \"$1\").pid" "$DATA/maasq.json"; }
# alive NAME OLD: waits until the process NAME is another one than OLD and lives.
alive() {
    for _ in $(seq 1 300); do
        now=$(pid_of "$1")
        [ "$now" != "$2" ] && [ "$now" -gt 0 ] && kill -0 "$now" 2>/dev/null && return 0
        sleep 0.1
    done
    return 1
}

up --workers 1 --slots 1
says "the system works" maasq doctor --data "$DATA"
says "a model is made" maasq model new kept --arch mlp:4-3-2

maasq up --data "$DATA" --detach >"$T/out" 2>"$T/err"
status=$?
if [ $status -eq 1 ] && grep -q "is running in $DATA already" "$T/err"; then
    good "a second up is refused"
else
    bad "a second up: status $status" "$(cat "$T/err")"
fi

for name in redis-state broker worker-1 redis-blobs gateway; do
    old=$(pid_of $name)
    kill -9 "$old"
    says "$name is started again" alive $name "$old"
    says "jobs run after $name was killed" maasq job submit echo --param after=$name --wait --timeout 60
done
says "the model is still there" maasq model show kept

says "down stops it" maasq down --data "$DATA"
if left_over >"$T/out"; then bad "down left processes" "$(cat "$T/out")"; else good "down leaves no process"; fi
says "down again is no failure" maasq down --data "$DATA"

up --workers 2 --slots 1
says "the data are there again" maasq model show kept
[ "$(maasq worker list --json | jq '.workers | length')" -eq 2 ] && good "two workers" || bad "not two workers"

# A drained worker ends on purpose and is not brought back.
old=$(pid_of worker-2)
says "a worker is drained" maasq worker drain worker-2
for _ in $(seq 1 300); do
    kill -0 "$old" 2>/dev/null || break
    sleep 0.1
done
sleep 1
[ "$(pid_of worker-2)" -eq 0 ] && good "a drained worker stays away" || bad "a drained worker came back"
says "jobs run without it" maasq job submit echo --param a=1 --wait --timeout 60

# Whatever ends the supervisor: its children do not outlive it, and up works again.
kill -9 "$(jq -r .supervisor.pid "$DATA/maasq.json")"
for _ in $(seq 1 300); do
    left_over >/dev/null || break
    sleep 0.1
done
if left_over >"$T/out"; then bad "children outlive a killed supervisor" "$(cat "$T/out")"; else good "children die with the supervisor"; fi
up --workers 1 --slots 1
says "up after that finds the data" maasq model show kept
mode=$(stat -c %a "$DATA"/secret/* | sort -u)
[ "$mode" = 600 ] && good "passwords are for the owner only" || bad "passwords have mode $mode"
finish
