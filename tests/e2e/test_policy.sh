#!/bin/sh
# What operators set for the whole fleet, through real processes: limits, shares, quotas, needs, pauses,
# quarantine. Each is seen by its effect and in what `job show`, `queue list`, `status`, `doctor` and the
# metrics say; what is set survives a killed broker.
set -u
. "$(dirname "$0")/../support/system.sh"

up --workers 2 --slots 4 --gateway-port 0
GATEWAY=$(jq -r .gateway "$DATA/maasq.json")

submit() { maasq job submit "$@"; }
shown() { maasq job show "$1" --json | jq -r "$2"; }
# is WHAT WANT GOT
is() { if [ "$2" = "$3" ]; then good "$1"; else bad "$1" "want $2, got $3"; fi; }
# has WHAT PATTERN TEXT
has() { if printf '%s' "$3" | grep -qE "$2"; then good "$1"; else bad "$1" "no /$2/ in: $3"; fi; }
# until WHAT COMMAND...: true within 60 s.
until_true() {
    what=$1
    shift
    tries=0
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ]; then
            bad "$what" "not within a minute"
            return
        fi
        sleep 0.1
    done
    good "$what"
}
in_state() { [ "$(shown "$1" .state)" = "$2" ]; }
measured() { curl -s "$GATEWAY/metrics" | grep -qE "$1"; } # a snapshot, taken once a second
waits_for() { shown "$1" .waits | grep -qE "$2"; }

# --- a cap of a key holds its own jobs only, says so, and survives the broker
maasq limit set key=acme --concurrency 1 >"$T/out" || bad "limit set" "$(cat "$T/out")"
a=$(submit sleep --param ms=600000 --limit-key acme)
b=$(submit sleep --param ms=1 --limit-key acme)
c=$(submit echo --param x=1)
until_true "a job of another key runs" in_state "$c" succeeded
until_true "the first of the key runs" in_state "$a" leased
until_true "the second says what holds it" waits_for "$b" 'limit key=acme: concurrency 1 of 1'
is "limit list counts it" 1 "$(maasq limit list --json | jq '.limits[] | select(.name == "acme") | .running')"
kill -9 "$(jq -r '.processes[] | select(.name == "broker") | .pid' "$DATA/maasq.json")"
until_true "the limit holds over a killed broker" waits_for "$b" 'limit key=acme: concurrency 1 of 1'
maasq limit remove key=acme >"$T/out" || bad "limit remove" "$(cat "$T/out")"
until_true "without the limit it runs" in_state "$b" succeeded
maasq job cancel "$a" --hard >"$T/out" 2>&1

# --- run-at, as people write it
for at in +3600 +60m +1h; do submit echo --at $at --ttl 7200 >>"$T/later"; done
for id in $(cat "$T/later"); do
    is "a delayed job is scheduled" scheduled "$(shown "$id" .state)"
    maasq job cancel "$id" >"$T/out"
done
for at in 1h + +1w +-5 +5hh tomorrow; do
    submit echo --at "$at" >"$T/out" 2>&1
    is "--at $at is a usage error" 2 $?
done

# --- a rate of a queue
maasq limit set queue=mail --rate 1/h --burst 2 >"$T/out"
for i in 1 2 3; do submit echo --queue mail --param i=$i >>"$T/mail"; done
until_true "the burst runs" in_state "$(sed -n 2p "$T/mail")" succeeded
until_true "the third waits for its token" waits_for "$(sed -n 3p "$T/mail")" 'limit queue=mail: rate 1 in 3600000 ms'
has "status counts what a limit holds" '"limit":1' "$(maasq status --json | jq -c .status.held)"
maasq limit remove queue=mail >"$T/out"
until_true "it runs then" in_state "$(sed -n 3p "$T/mail")" succeeded

# --- a quota of a tenant
maasq tenant quota small 1 >"$T/out"
maasq queue pause later >"$T/out"
has "a paused queue is listed without a job" 'later .* paused' "$(maasq queue list)"
one=$(submit echo --queue later --tenant small)
if submit echo --queue later --tenant small --timeout 2 >"$T/out" 2>&1; then bad "a quota refuses" "it did not"; else good "a quota refuses"; fi
is "tenant list shows it" "1 of 1" "$(maasq tenant list --json | jq -r '.tenants[] | select(.tenant == "small") | "\(.live) of \(.quota)"')"
until_true "a paused queue says so" waits_for "$one" 'queue later is paused'
maasq queue resume later >"$T/out"
until_true "a resumed queue runs" in_state "$one" succeeded

# --- needs
n=$(submit echo --need no-such-thing)
until_true "a job that nobody can run says so" waits_for "$n" 'no connected worker has the tags: it needs no-such-thing'
has "queue list says so" 'no-such-thing' "$(maasq queue list)"
has "doctor says so" '1 jobs wait for what no connected worker has' "$(maasq doctor --data "$DATA")"
until_true "metrics count it" measured 'maasq_jobs_held\{reason="no_worker"\} 1$'
m=$(submit echo --memory 1 --need "$(uname -m)")
until_true "a job that needs what workers have runs" in_state "$m" succeeded
big=$(submit echo --memory 1000000000000000)
until_true "too much memory is said" waits_for "$big" 'as much memory'
maasq job cancel "$n" >"$T/out" && maasq job cancel "$big" >"$T/out"

# --- kinds: an operator's pause, a quarantine
maasq kind pause echo >"$T/out"
k=$(submit echo)
until_true "a paused kind says so" waits_for "$k" 'kind echo is paused by an operator'
maasq kind resume echo >"$T/out"
until_true "a resumed kind runs" in_state "$k" succeeded
for i in 1 2 3 4 5 6 7 8 9 10; do submit crash --param signal=9 >>"$T/crashes"; done
quarantined() { maasq kind list --json | jq -e '.kinds[] | select(.kind == "crash" and .is_quarantined)'; }
until_true "ten jobs in a row that crash put their kind into quarantine" quarantined
has "status rings" 'ALARM +kind crash is in quarantine: 10 jobs in a row' "$(maasq status)"
has "doctor warns" 'warning +alarm +kind crash is in quarantine' "$(maasq doctor --data "$DATA")"
until_true "metrics count it" measured 'maasq_kinds_paused\{by="quarantine"\} 1$'
k=$(submit crash --param signal=9)
until_true "its jobs say so" waits_for "$k" 'kind crash is in quarantine'
maasq job cancel "$k" >"$T/out"
maasq kind resume crash >"$T/out"
if quarantined; then bad "kind resume ends it" "it did not"; else good "kind resume ends it"; fi

# --- drain of a queue
maasq queue drain old >"$T/out"
if submit echo --queue old --timeout 2 >"$T/out" 2>&1; then bad "a drained queue refuses" "it did not"; else good "a drained queue refuses"; fi
has "and says why" 'busy, the queue is being drained' "$(cat "$T/out")"
has "a drained queue is listed" 'old .* draining' "$(maasq queue list)"
maasq queue resume old >"$T/out"
if maasq queue list | grep -q 'old '; then bad "an open one without a job is not" "it is"; else good "an open one without a job is not"; fi
until_true "a resumed one does not" submit echo --queue old

finish
