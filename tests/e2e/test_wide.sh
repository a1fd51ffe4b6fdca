#!/bin/bash
# Two brokers, four shards, one system: every list and status shows all shards, every bulk action reaches
# all, caps hold for the fleet while owners change, and a shard that is away is named.
set -u
. "$(dirname "$0")/../support/system.sh"

# A job kind that writes down when it starts and ends, so that those at once can be counted.
cat >"$T/counted.sh" <<END
#!/bin/sh
echo "\$(date +%s%N) 1" >>"$T/marks"
sleep 0.1
echo "\$(date +%s%N) -1" >>"$T/marks"
END
cat >"$T/fails.sh" <<'END'
#!/bin/sh
echo "planted" >&2
exit 1
END
chmod +x "$T/counted.sh" "$T/fails.sh"
up --brokers 2 --shards 4 --workers 2 --slots 4 --gateway-port 0 --exec "counted=$T/counted.sh" \
    --exec "fails=$T/fails.sh" --exec-limits fails=attempts:1
GATEWAY=$(jq -r .gateway "$DATA/maasq.json")

is() { if [ "$2" = "$3" ]; then good "$1"; else bad "$1" "want $2, got $3"; fi; }
until_true() {
    what=$1
    shift
    tries=0
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 400 ]; then
            bad "$what" "not in time: $*"
            return
        fi
        sleep 0.2
    done
    good "$what"
}
shards_of() { jq -r "[$1[] | .shard] | unique | join(\" \")"; }
many() { # many COUNT ARGS...: submits
    n=$1
    shift
    for _ in $(seq "$n"); do maasq job submit "$@"; done >>"$T/ids"
}

# --- lists: forty jobs wait, spread over four shards
maasq queue pause default >"$T/out"
many 40 echo --tenant acme --param x=1
maasq job list --json --limit 100 >"$T/jobs"
is "job list has the jobs of all shards" "40 0 1 2 3" "$(jq '.jobs | length' "$T/jobs") $(shards_of .jobs <"$T/jobs")"
is "and misses none" "4 []" "$(jq -c '.shards' "$T/jobs") $(jq -c .missing "$T/jobs")"
is "queue list: one row, its jobs added up" "1 40 true" \
    "$(maasq queue list --json | jq -r '[.queues[] | select(.queue == "default")] | "\(length) \(.[0].waiting) \(.[0].is_paused)"')"
is "status counts all" 40 "$(maasq status --json | jq .status.jobs.queued)"
is "and names every shard's owner" "0 1 2 3" "$(maasq status --json | jq -r '[.status.owners[].shard] | join(" ")')"
is "workers are not counted four times" "2 8" "$(maasq status --json | jq -r '"\(.status.workers.count) \(.status.workers.slots)"')"
is "worker list: a row a worker" 2 "$(maasq worker list --json | jq '.workers | length')"
is "tenant list adds up" 40 "$(maasq tenant list --json | jq '.tenants[] | select(.tenant == "acme") | .live')"
is "kind list adds up" 40 "$(maasq kind list --json | jq '.kinds[] | select(.kind == "echo") | .waiting')"

# --- pages: every job once, whatever ends or comes meanwhile
after=
: >"$T/paged"
for page in $(seq 20); do
    maasq job list --json --limit 7 --filter "kind=echo $after" >"$T/page" || break
    jq -r '.jobs[].id' "$T/page" >>"$T/paged"
    next=$(jq -r '.next // ""' "$T/page")
    [ -n "$next" ] || break
    after="after=$next"
done
is "a list in pages has each job once" "40 40 6" "$(wc -l <"$T/paged") $(sort -u "$T/paged" | wc -l) $page"
is "a cursor that is none is refused" 1 "$(maasq job list --filter after=nonsense >"$T/out" 2>&1; echo $?)"

# --- bulk actions
maasq queue resume default >"$T/out"
drained() { [ "$(maasq status --json | jq '.status.jobs | add')" = 0 ]; }
until_true "resume reaches all shards" drained
many 16 fails --queue f
dead() { [ "$(maasq queue dead --group --json | jq .total)" = "$1" ]; }
until_true "dead letters of all shards, grouped by cause" dead 16
is "one cause, one group" "1 16" "$(maasq queue dead --group --json | jq -r '"\(.groups | length) \(.groups[0].count)"')"
is "their list is of all shards" 16 "$(maasq queue dead --json --limit 100 | jq '.jobs | length')"
maasq queue pause f >"$T/out"
is "retry --all reaches all" "16 16" "$(maasq job retry --all --json | jq -r '"\(.matched) \(.done)"')"
is "and again does no harm" "0 0" "$(maasq job retry --all --json | jq -r '"\(.matched) \(.done)"')"
maasq queue resume f >"$T/out"
until_true "they fail again" dead 16
is "purge reaches all" "16 0" "$(maasq queue purge --all --json | jq -r .done) $(maasq queue dead --group --json | jq .total)"
maasq queue drain f >"$T/out"
accepted=0
for _ in 1 2 3 4 5 6; do # each goes to a shard by chance, and is offered again while it is refused
    timeout 1 maasq job submit fails --queue f >>"$T/out" 2>&1 && accepted=$((accepted + 1))
done
is "a drained queue takes nothing in any shard" 0 "$accepted"
maasq queue resume f >"$T/out"
maasq kind pause counted >"$T/out"
many 60 counted --queue c
is "kind pause holds all" "60 0" "$(maasq status --json | jq -r '"\(.status.held.paused) \(.status.jobs.leased)"')"
maasq tenant weight acme 5 >"$T/out" && maasq tenant quota acme 500 >>"$T/out"
is "tenant settings are one row" "1 5 500" \
    "$(maasq tenant list --json | jq -r '[.tenants[] | select(.tenant == "acme")] | "\(length) \(.[0].weight) \(.[0].quota)"')"

# --- a tenant's quota counts in each shard by itself: at most four times it in four shards, never more
maasq queue pause held >"$T/out"
maasq tenant quota small 2 >"$T/out"
for i in $(seq 20); do maasq job submit echo --queue held --tenant small --timeout 4 >"$T/small-$i" 2>"$T/refused-$i" & done
wait $(jobs -p | tail -n 20)
taken=$(cat "$T"/small-* | wc -l)
live() { maasq tenant list --json | jq '.tenants[] | select(.tenant == "small") | .live'; }
is "tenant list adds up what was taken" "$taken" "$(live)"
maasq job list --json --filter 'tenant=small' >"$T/jobs"
is "no shard has more than the quota" true "$(jq '[.jobs[] | .shard] | group_by(.) | map(length) | max <= 2' "$T/jobs")"
is "and who is refused is told so" true \
    "$(cat "$T"/refused-* | grep -q 'too many live jobs of this tenant: its quota' && echo true)"
[ "$taken" -ge 2 ] && [ "$taken" -le 8 ] && good "the quota holds in each shard" || bad "the quota holds in each shard" "$taken of 20 were taken"
many 4 sleep --queue held2 --tenant run --param ms=600000
running() { [ "$(maasq job list --json --filter 'tenant=run state=leased' | jq '.jobs | length')" = 4 ]; }
until_true "four run" running
many 6 sleep --queue held --tenant run --param ms=600000
is "job cancel --filter stops what runs and what waits in all shards" "10 10 0" \
    "$(maasq job cancel --filter tenant=run --json --timeout 60 | jq -r '"\(.matched) \(.cancelled) \(.stopping)"')"
maasq queue resume held >"$T/out"
none_live() { [ "$(live)" = 0 ] || [ -z "$(live)" ]; }
until_true "they run" none_live

# --- a cap of the fleet, owners killed on the way
maasq limit set kind=counted --concurrency 3 >"$T/out"
is "limit list: one row" "1 3" "$(maasq limit list --json | jq -r '"\(.limits | length) \(.limits[0].concurrency)"')"
maasq kind resume counted >"$T/out"
started() { [ "$(wc -l <"$T/marks")" -gt "$1" ]; }
until_true "they start" started 20
kill -9 "$(jq -r '[.processes[] | select(.name | startswith("broker")) | .pid][0]' "$DATA/maasq.json")"
until_true "they go on after an owner's death" started 50
until_true "all end" drained
highest() { sort -n "$T/marks" | awk '{ n += $2; if (n > m) m = n } END { print m + 0 }'; }
is "never more than three at once, in all shards together" 3 "$(highest)"
is "each ran once" 60 "$(grep -c ' 1$' "$T/marks")"

# --- all of a cap for one shard, when only it has work (a limit key keeps jobs in shard 0)
: >"$T/marks"
maasq kind pause counted >"$T/out"
for i in $(seq 40); do maasq job submit counted --queue c --limit-key "k$i"; done >>"$T/ids"
maasq kind resume counted >"$T/out"
until_true "the jobs of one shard end" drained
is "it had the whole cap" 3 "$(highest)"
# Of the time that the handlers ran, how much three at once would have taken: 0.9 and more while they start
# quickly; a fourth of the cap for each shard would give 0.33. Time to start a process is not counted.
sort -n "$T/marks" | awk '{ if (n > 0) { busy += n * ($1 - last); if (n >= 2) most += $1 - last; all += $1 - last }
    last = $1; n += $2 } END { printf "mean at once %.2f of 3, two or more in %.2f of the time\n", busy / all, most / all
    exit !(most / all > 0.5) }' >"$T/out" && good "and used it: $(cat "$T/out")" || bad "and used it" "$(cat "$T/out")"

# --- a rate for the fleet: burst 4, then hardly any
maasq limit set queue=r --rate 1/h --burst 4 >"$T/out"
many 24 echo --queue r
ended() { [ "$(maasq job list --json --limit 200 --filter "queue=r state=succeeded" | jq '.jobs | length')" = "$1" ]; }
until_true "the burst starts, once for all shards" ended 4
is "no more of it waits in another shard" 20 "$(maasq queue list --json | jq '[.queues[] | select(.queue == "r") | .waiting] | add')"
maasq limit remove queue=r >"$T/out"
until_true "without the limit the rest runs" ended 24

# --- a shard that is away is named, by lists, commands and the gateway
owner_of() { maasq shard list --json | jq -r ".shards[] | select(.shard == $1) | .owner" | sed 's/-[0-9a-f]*$//'; }
two_owners() { [ "$(maasq shard list --json | jq '[.shards[].owner] | unique | length')" = 2 ]; }
until_true "both brokers have shards again" two_owners
seen_missing() {
    maasq status --json 2>"$T/err" >"$T/status" && jq -e '.status.missing | length > 0' "$T/status" && grep -q 'is not in this answer' "$T/err"
}
other=broker # the one that does not have shard 0, which every command asks first
[ "$(owner_of 0)" = broker ] && other=broker-1
stopped=$(jq -r ".processes[] | select(.name == \"$other\") | .pid" "$DATA/maasq.json")
MAASQ_BROKER=$(maasq broker list --json | jq -r ".brokers[] | select(.name != \"$other\" and .is_alive) | .front")
kill -STOP "$stopped"
if seen_missing; then
    good "status names the shards of a stopped broker"
else
    bad "status names the shards of a stopped broker" "$(jq -c .status.missing "$T/status") $(cat "$T/err")"
fi
kill -CONT "$stopped"
all_there() { maasq status --json 2>/dev/null | jq -e '.status.missing == []'; }
until_true "and all are there again" all_there
complete() { curl -s "$GATEWAY/metrics" | grep -qE '^maasq_shards_missing 0$'; }
until_true "the metrics say that none is missing" complete
finish
