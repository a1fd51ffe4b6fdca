#!/bin/sh
# `--json` everywhere: every command of client/cli/commands.def prints one JSON value with the fields that
# scripts rely on, and nothing else, on standard output; a failure leaves standard output empty, says why
# on standard error and exits with 1 (2 for usage). A command without a case here fails the test.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/system.sh

seen="$T/seen"
: >"$seen"
# json FILTER COMMAND...: the command succeeds, prints one JSON value, and FILTER is true of it.
json() {
    filter=$1
    shift
    echo "$*" >>"$seen"
    "$@" --json >"$T/out" 2>"$T/err"
    status=$?
    if [ $status -ne 0 ]; then
        bad "$* --json: exit status $status" "$(cat "$T/err")"
    elif ! jq -es 'length == 1' "$T/out" >/dev/null 2>&1; then
        bad "$* --json: not one JSON value" "$(head -c 500 "$T/out")"
    elif ! jq -e "$filter" "$T/out" >/dev/null; then
        bad "$* --json: not true: $filter" "$(head -c 800 "$T/out")"
    else
        good "$*"
    fi
}
# figures FILTER COMMAND...: the same for a benchmark, which prints one object a line.
figures() {
    filter=$1
    shift
    echo "$*" >>"$seen"
    if "$@" --json >"$T/out" 2>"$T/err" && jq -es "length >= 1 and all($filter)" "$T/out" >/dev/null &&
        [ "$(jq -s length "$T/out")" = "$(wc -l <"$T/out")" ]; then
        good "$*"
    else
        bad "$* --json" "$(cat "$T/out" "$T/err" | head -c 800)"
    fi
}
# fails STATUS COMMAND...: says why on standard error only.
fails() {
    want=$1
    shift
    "$@" --json >"$T/out" 2>"$T/err"
    status=$?
    if [ $status -ne "$want" ] || [ -s "$T/out" ] || [ ! -s "$T/err" ]; then
        bad "$* --json: exit status $status instead of $want" "out: $(cat "$T/out") err: $(cat "$T/err")"
    else
        good "$* fails with $want"
    fi
}
field() { jq -r "$1" "$T/out"; }

json '.broker and .gateway and .workers == 2 and (.processes | length) == 6' \
    maasq up --workers 2 --slots 1 --data "$DATA" --detach
MAASQ_BROKER=$(field .broker)
SUPERVISORS=$(field .supervisor.pid)
export MAASQ_BROKER
json '.status.broker.name and (.workers | length) == 2' maasq status
json '.status.broker.name and .models == []' maasq top --once
json '.healthy == true and (.checks | length) > 3' maasq doctor --data "$DATA"

awk 'BEGIN { print "a,b,label"; for (i = 0; i < 300; i++) print i % 7 / 7 "," i % 5 / 5 "," i % 2 }' >"$T/rows.csv"
json '.name == "d" and .version == 1 and .meta.rows == 300' maasq dataset import d "$T/rows.csv" --label-column label
json '.datasets[0].name == "d"' maasq dataset list
json '.name == "d" and .meta.features.x' maasq dataset show d
json '(.rows | length) == 2 and (.rows[0].x | length) == 2' maasq dataset rows d --first 2

json '.name == "m" and .version == 1 and .meta.blob' maasq model new m --arch mlp:2-4-2
json '.file and .bytes > 0' maasq model export m "$T/m.onnx"
json '.ok == true and .problems == 0' maasq model check "$T/m.onnx"
json '.name == "m" and .version == 2' maasq model import m "$T/m.onnx"
json '.job' maasq train m --data d --arch mlp:2-4-2 --epochs 1 --batch 32
json '.version and .weights_hash and .manifest and .steps_run and .accuracy != null' \
    maasq train m --data d --eval d --arch mlp:2-8-2 --epochs 1 --batch 32 --follow
json '.accuracy >= 0 and .rows == 300' maasq evaluate m --data d
json '.version and .parent and .bytes and .nonzero and .report' maasq optimize m --pass prune:0.5 --eval d
json '.models[0].versions' maasq model list
json '.name == "m" and (.versions | length) >= 4' maasq model list m
json '.name == "m" and .meta.parent != ""' maasq model show m
json '.alias == "prod" and .version == 1' maasq model promote m@1 prod
json '.alias == "prod" and .version == 5' maasq model promote m@5 prod --expect 1
json '.before.prod == [1] and ([.versions[] | select(.version == 5)][0].meta.parent | . != null and . != "m@1")' maasq model show m@5
json '.alias == "prod" and .version == 1' maasq model rollback m prod # where it was, not the parent
fails 1 maasq model rollback m prod
fails 1 maasq model promote m@2 prod --expect 5
echo '[[1,0]]' >"$T/in.json"
json '.name == "m" and .version == 1 and (.outputs[0].data[0] | length) == 2' maasq infer m --input "$T/in.json"

json '.id and .state' maasq job submit echo --param a=1
json '.state == "succeeded" and .result.a' maasq job submit echo --param a=1 --wait
id=$(field .id)
json '.state == "succeeded" and .result.a' maasq job wait "$id"
json '.id and .kind == "echo" and .state == "succeeded"' maasq job show "$id"
json '.' maasq job log "$id"
json '.jobs | length > 3' maasq job list
maasq job submit sleep --param ms=600000 --json >"$T/out"
json '.state' maasq job cancel "$(field .id)" --hard
for i in 1 2 3; do maasq job submit echo --queue bulk --at +1h >"$T/out"; done
json '.matched == 3 and .cancelled == 3 and .stopping == 0' maasq job cancel --filter 'queue=bulk state=scheduled'
json '.matched == 0' maasq job cancel --filter 'queue=bulk'
fails 2 maasq job cancel
fails 2 maasq job cancel --all --filter queue=bulk
maasq job submit sleep --param ms=banana --wait --json >"$T/out" 2>/dev/null && bad "a bad body succeeds" ""
json '.jobs | length == 1 and .[0].kind == "sleep"' maasq queue dead
json '.retried == 1' maasq job retry "$(field '.jobs[0].id')"
json '.matched == 0 and .done == 0' maasq queue purge --filter kind=nosuch
json '.queues | type == "array"' maasq queue list
json '.verb == "pause"' maasq queue pause elsewhere
json '.verb == "resume"' maasq queue resume elsewhere
json '.verb == "drain-queue"' maasq queue drain elsewhere
json '.verb == "resume"' maasq queue resume elsewhere
json '.verb == "pause-kind"' maasq kind pause sleep
json '[.kinds[] | select(.kind == "sleep" and .is_paused and (.is_quarantined | not) and .workers == 2)] | length == 1' maasq kind list
json '.verb == "resume-kind"' maasq kind resume sleep
json '.limit == "key=acme" and .concurrency == 2' maasq limit set key=acme --concurrency 2 --rate 600/min
json '.limits[0] | .type == "key" and .name == "acme" and .concurrency == 2 and .period_ms == 60000' maasq limit list
json '.removed == "key=acme"' maasq limit remove key=acme
json '.tenant == "gold" and .weight == 3' maasq tenant weight gold 3
json '.tenant == "gold" and .quota == 500' maasq tenant quota gold 500
json '[.tenants[] | select(.tenant == "gold" and .weight == 3 and .quota == 500)] | length == 1' maasq tenant list
json '.name == "night" and .schedule == "30 2 * * *"' maasq cron add night '30 2 * * *' echo --tz Europe/Berlin
json '.cron[0] | .name == "night" and .zone == "Europe/Berlin" and (.next_ms | length) > 0' maasq cron list
json '.cron[0].next_ms | length == 3' maasq cron next night --count 3
json '.verb == "cron-pause" and .name == "night"' maasq cron pause night
json '.verb == "cron-resume" and .name == "night"' maasq cron resume night
json '.verb == "cron-remove" and .name == "night"' maasq cron remove night
json '.workers | length == 2 and .[0].name and .[0].pid > 0' maasq worker list


figures '.bench == "queue" and .unit == "jobs/s" and .value > 0' maasq bench queue --jobs 100
figures '.bench == "serve" and .case and .unit == "requests/s" and .value > 0 and .answered == 100 and .latency_ms.p50' maasq bench serve m --data d --requests 100
figures '.bench == "infer" and .value > 0' maasq bench infer m --requests 100
if [ -r "${MAASQ_SHARED:-../shared}/data/models/iris-net.onnx" ]; then
    figures '.bench == "infer" and .value > 0 and .p50_us > 0 and (.operators | length) > 0' maasq bench infer "${MAASQ_SHARED:-../shared}/data/models/iris-net.onnx" --seconds 0.05 --profile
fi
figures '.bench and .case and .unit and .value > 0' maasq bench train --rounds 3 --steps 50

json '.shards | length == 1 and .[0].shard == 0' maasq shard list
json '.shard == "0"' maasq shard move 0 broker
json '.brokers | length == 1 and .[0].is_alive' maasq broker list
json '.broker == "broker"' maasq broker drain broker --undo

fails 1 maasq model show nosuch
fails 1 maasq job submit nosuchkind
fails 1 maasq infer m --input "$T/nosuch.npy"
fails 1 maasq dataset import d "$T/nosuch.csv"
fails 1 maasq model check "$T/nosuch.onnx"
fails 2 maasq status --frobnicate
fails 2 maasq train m
json '.shards | length == 1 and .[0].owner != ""' maasq shard list
json '.brokers | length == 1 and .[0].is_alive and .[0].name == "broker"' maasq broker list
json '.shard == "0" and .broker == "auto"' maasq shard move 0 auto
json '.drain == true' maasq broker drain broker
json '.drain == false' maasq broker drain broker --undo
json '.verb == "drain"' maasq worker drain worker-2
json '.stopped == true' maasq down --data "$DATA"
fails 1 maasq status --timeout 1

# Each row of the table was run; `redis serve` becomes another program and prints nothing.
awk -F'"' '/^MQ_COMMAND\(/ { print $2 }' client/cli/commands.def | grep -vx 'redis serve' >"$T/rows"
[ "$(wc -l <"$T/rows")" -gt 30 ] || bad "the table of commands was not found"
while read -r words; do
    grep -qE "^maasq $words( |\$)" "$seen" || bad "maasq $words has no case in this test"
done <"$T/rows"
finish
